/* SPDX-License-Identifier: Apache-2.0 */
/* topology.c - hwloc behind a few calls. */
#include <hwloc.h>

#include "topology/topology.h"

struct thmqi_topology {
	hwloc_topology_t hwloc;
	hwloc_cpuset_t allowed;
	uint32_t count;
};

int thmqi_topology_open(struct thmqi_topology **ret_topology)
{
	struct thmqi_topology *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (hwloc_topology_init(&t->hwloc) != 0) {
		free(t);
		return -ENOMEM;
	}
	if (hwloc_topology_load(t->hwloc) != 0)
		goto fail;
	t->allowed = hwloc_bitmap_alloc();
	if (!t->allowed)
		goto fail;
	/* what an administrator or taskset left to the process, within what its cpuset allows */
	if (hwloc_get_cpubind(t->hwloc, t->allowed, HWLOC_CPUBIND_PROCESS) != 0 ||
	    hwloc_bitmap_iszero(t->allowed))
		hwloc_bitmap_copy(t->allowed, hwloc_topology_get_allowed_cpuset(t->hwloc));
	hwloc_bitmap_and(t->allowed, t->allowed, hwloc_topology_get_allowed_cpuset(t->hwloc));
	t->count = (uint32_t)THMQI_MAX(hwloc_bitmap_weight(t->allowed), 0);
	*ret_topology = t;
	return 0;
fail:
	hwloc_topology_destroy(t->hwloc);
	free(t);
	return -ENOTSUP;
}

void thmqi_topology_close(struct thmqi_topology *t)
{
	hwloc_bitmap_free(t->allowed);
	hwloc_topology_destroy(t->hwloc);
	free(t);
}

uint32_t thmqi_topology_cpu_count(const struct thmqi_topology *t)
{
	return t->count;
}

int thmqi_topology_cpu(const struct thmqi_topology *t, uint32_t index)
{
	int cpu = -1;

	if (index >= t->count)
		return -EINVAL;
	do
		cpu = hwloc_bitmap_next(t->allowed, cpu);
	while (index--);
	return cpu;
}

int thmqi_topology_node(const struct thmqi_topology *t, uint32_t index)
{
	int cpu = thmqi_topology_cpu(t, index), node = -1;
	hwloc_bitmap_t set, nodes;

	set = hwloc_bitmap_alloc();
	nodes = hwloc_bitmap_alloc();
	if (cpu >= 0 && set && nodes) {
		hwloc_bitmap_only(set, (unsigned int)cpu);
		hwloc_cpuset_to_nodeset(t->hwloc, set, nodes);
		node = hwloc_bitmap_first(nodes);
	}
	hwloc_bitmap_free(set);
	hwloc_bitmap_free(nodes);
	return node;
}

static int bind_to(struct thmqi_topology *t, hwloc_const_bitmap_t set)
{
	return hwloc_set_cpubind(t->hwloc, set, HWLOC_CPUBIND_THREAD) == 0 ? 0 : -errno;
}

int thmqi_topology_unbind(struct thmqi_topology *t)
{
	return t->count ? bind_to(t, t->allowed) : -ENOTSUP;
}

int thmqi_topology_bind(struct thmqi_topology *t, uint32_t index)
{
	hwloc_bitmap_t set;
	int cpu, rc;

	if (!t->count)
		return -ENOTSUP;
	cpu = thmqi_topology_cpu(t, index % t->count);
	set = hwloc_bitmap_alloc();
	if (!set)
		return -ENOMEM;
	hwloc_bitmap_only(set, (unsigned int)cpu);
	rc = bind_to(t, set);
	hwloc_bitmap_free(set);
	return rc;
}

int thmqi_topology_node_here(const struct thmqi_topology *t)
{
	hwloc_bitmap_t set = hwloc_bitmap_alloc(), nodes = hwloc_bitmap_alloc();
	int node = -1;

	if (set && nodes && hwloc_get_last_cpu_location(t->hwloc, set, HWLOC_CPUBIND_THREAD) == 0) {
		hwloc_cpuset_to_nodeset(t->hwloc, set, nodes);
		node = hwloc_bitmap_first(nodes);
	}
	hwloc_bitmap_free(set);
	hwloc_bitmap_free(nodes);
	return node;
}

bool thmqi_topology_has_node(const struct thmqi_topology *t, uint32_t node)
{
	return hwloc_get_numanode_obj_by_os_index(t->hwloc, node) != NULL;
}

int thmqi_topology_bind_memory(const struct thmqi_topology *t, void *at, size_t len, uint32_t node)
{
	hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
	int rc;

	if (!nodes)
		return -ENOMEM;
	hwloc_bitmap_only(nodes, node);
	rc = hwloc_set_area_membind(t->hwloc, at, len, nodes, HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET);
	hwloc_bitmap_free(nodes);
	return rc == 0 ? 0 : -errno;
}
