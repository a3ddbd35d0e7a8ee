/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of this room share. */
#ifndef THMQI_TOPOLOGY_INTERNAL_H
#define THMQI_TOPOLOGY_INTERNAL_H

#include <hwloc.h>

#include "topology/topology.h"

struct thmqi_topology {
	hwloc_topology_t hwloc;
	hwloc_cpuset_t allowed; /* processors that the process may use */
	uint32_t count;         /* of them */
	uint32_t quota_percent; /* 0: none */
	uint16_t *taken; /* by processor: how many threads of this process are bound to it alone; NULL: nobody looked */
	uint32_t taken_count;
	bool foreign;           /* a description of some machine: nothing can be bound */
};

/* device.c: an object with processors that a device hangs on. NULL: not known, which is no error. */
struct near_device {
	hwloc_obj_t anchor;
	char name[32]; /* of the device; "": not known */
};

/* The block device under a file or directory, or under the nearest one above it that is there. On a foreign machine @path is
 * a device's name. 0; -ENOENT not even the root of @path is there. */
int thmqi_device_of_path(const struct thmqi_topology *t, const char *path, struct near_device *ret);
/* A network interface or RDMA device by name. 0; -ENODEV no such. */
int thmqi_device_of_nic(const struct thmqi_topology *t, const char *name, struct near_device *ret);

/* taken.c: fills taken. @described: of a foreign machine, "1,3"; NULL: none. 0, -EINVAL, -ENOMEM. */
int thmqi_taken_find(struct thmqi_topology *t, const char *described);
static inline uint32_t thmqi_taken(const struct thmqi_topology *t, uint32_t cpu)
{
	return cpu < t->taken_count ? t->taken[cpu] : 0;
}

#endif
