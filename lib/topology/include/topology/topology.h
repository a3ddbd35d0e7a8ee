/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topology.h - which processors there are for this process, which of them a core should have, and how to stay on one: the
 * only reader of <hwloc.h>. Knows nothing of loops and shards.
 */
#ifndef THMQI_TOPOLOGY_H
#define THMQI_TOPOLOGY_H

#include <thundermq/thundermq.h>

#include "base/base.h"

struct thmqi_topology;

/* Another machine than this one, for tests of placement: one of both descriptions, and what of it may be used. */
struct thmqi_machine_source {
	const char *synthetic;  /* as hwloc(7) has them: "Package:2 [NUMANode] Core:4 PU:2" */
	const char *xml_path;   /* of lstopo --of xml */
	const char *allowed;    /* processors, "1,3,8-15"; NULL: all */
	const char *taken;      /* those that another thread of the process is bound to; NULL: none */
	uint32_t quota_percent; /* as thmqi_quota_percent(); 0: none */
};

/* @source: NULL means this machine. @devices: what is near them will be asked for. Costs some milliseconds, with devices many: opened
 * only by those who place or bind. Where hwloc's own environment variables name another machine, that is foreign too. */
int thmqi_topology_open(const struct thmqi_machine_source *source, bool devices,
			struct thmqi_topology **ret_topology);
void thmqi_topology_close(struct thmqi_topology *t);
bool thmqi_topology_is_foreign(const struct thmqi_topology *t);
/* Processors that the process may use (its cpuset and affinity), in the order of their numbers. */
uint32_t thmqi_topology_cpu_count(const struct thmqi_topology *t);
/* The operating system's number of the @index-th of them; -EINVAL. */
int thmqi_topology_cpu(const struct thmqi_topology *t, uint32_t index);
/* NUMA node of a processor, and the nearest one with memory; or -1. */
int thmqi_topology_node(const struct thmqi_topology *t, int cpu);
int thmqi_topology_memory_node(const struct thmqi_topology *t, int cpu);
/* NUMA nodes of the machine, with memory or without. */
uint32_t thmqi_topology_node_count(const struct thmqi_topology *t);

/* ---------------------------------------------------------------- placement */

struct thmqi_place_request {
	const char *cpus; /* explicit, in this order: "0-3,8"; or NULL */
	bool has_first;   /* begin at the first-th processor, in the order of their numbers */
	uint32_t first;
	const char *near_path; /* or NULL */
	const char *near_nic;  /* or NULL */
};

/*
 * Where @count cores go: place.c tells the order. More cores than processors begin at the first place again. @places,
 * of @count, and @ret_machine, either may be NULL; nothing is bound. Return: 0; -EINVAL, -ENODEV, -ENOENT with a text; -ENOMEM.
 */
int thmqi_topology_place(const struct thmqi_topology *t, const struct thmqi_place_request *request,
			 uint32_t count, struct thmq_place *places,
			 struct thmq_machine *ret_machine);

/* What the process may use of processors over time, by the limits of its control groups: 150 are one and a half; 0: no limit. */
uint32_t thmqi_quota_percent(void);
/* Likewise, of the text of /proc/self/cgroup and where control groups are mounted. */
uint32_t thmqi_quota_percent_at(const char *membership, const char *mount);

/* ------------------------------------------------------------------ binding */

/* Bind the calling thread to processor @cpu. 0; -ENOTSUP a foreign machine; a negative errno: it runs where it ran. */
int thmqi_topology_bind(struct thmqi_topology *t, int cpu);
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
