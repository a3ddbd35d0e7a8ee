/* SPDX-License-Identifier: Apache-2.0 */
/* topology.h - which processors there are for this process, and how to stay on one: the only reader of <hwloc.h>. */
#ifndef THMQI_TOPOLOGY_H
#define THMQI_TOPOLOGY_H

#include "base/base.h"

struct thmqi_topology;

/* Costs milliseconds: opened only by those who pin. */
int thmqi_topology_open(struct thmqi_topology **ret_topology);
void thmqi_topology_close(struct thmqi_topology *t);
/* Processors that the process may use (its cpuset and affinity), in the order of the machine. */
uint32_t thmqi_topology_cpu_count(const struct thmqi_topology *t);
/* The operating system's number of the @index-th of them; -EINVAL. */
int thmqi_topology_cpu(const struct thmqi_topology *t, uint32_t index);
/* NUMA node of the @index-th, or -1. */
int thmqi_topology_node(const struct thmqi_topology *t, uint32_t index);
/* Bind the calling thread to the @index-th (modulo their number). 0 or negative errno. */
int thmqi_topology_bind(struct thmqi_topology *t, uint32_t index);
/* Let the calling thread run on all of them again. */
int thmqi_topology_unbind(struct thmqi_topology *t);

/* NUMA node of the processor that the calling thread runs on now, or -1. */
int thmqi_topology_node_here(const struct thmqi_topology *t);
/* Has the machine a node of that number, with memory? */
bool thmqi_topology_has_node(const struct thmqi_topology *t, uint32_t node);
/* Pages of [@at, @at + @len) that are not touched yet shall come from @node, or from elsewhere where it has none. 0 or
 * negative errno: they come from anywhere. */
int thmqi_topology_bind_memory(const struct thmqi_topology *t, void *at, size_t len, uint32_t node);

#endif
