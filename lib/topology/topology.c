/* SPDX-License-Identifier: Apache-2.0 */
/* topology.c - a machine as hwloc knows it: its processors and nodes, and binding to them. Knows nothing of cores. */
#include "internal.h"

/* -------------------------------------------------------------- open, close */

static int load(struct thmqi_topology *t, const struct thmqi_machine_source *source, bool devices)
{
	if (devices)
		hwloc_topology_set_io_types_filter(t->hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
	if (source && source->synthetic &&
	    hwloc_topology_set_synthetic(t->hwloc, source->synthetic) != 0)
		return -EINVAL;
	if (source && source->xml_path && hwloc_topology_set_xml(t->hwloc, source->xml_path) != 0)
		return -EINVAL;
	return hwloc_topology_load(t->hwloc) == 0 ? 0 : -ENOTSUP;
}

/* What an administrator or taskset left to the process, within what its cpuset allows. */
static int find_allowed(struct thmqi_topology *t, const char *described)
{
	hwloc_const_bitmap_t all = hwloc_topology_get_allowed_cpuset(t->hwloc);

	if (described && hwloc_bitmap_list_sscanf(t->allowed, described) != 0)
		return -EINVAL;
	if (!described &&
	    (t->foreign || hwloc_get_cpubind(t->hwloc, t->allowed, HWLOC_CPUBIND_PROCESS) != 0 ||
	     hwloc_bitmap_iszero(t->allowed)))
		hwloc_bitmap_copy(t->allowed, all);
	hwloc_bitmap_and(t->allowed, t->allowed, all);
	t->count = (uint32_t)THMQI_MAX(hwloc_bitmap_weight(t->allowed), 0);
	return 0;
}

int thmqi_topology_open(const struct thmqi_machine_source *source, bool devices,
			struct thmqi_topology **ret_topology)
{
	struct thmqi_topology *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (!t)
		return -ENOMEM;
	if (hwloc_topology_init(&t->hwloc) != 0)
		goto fail;
	rc = load(t, source, devices);
	if (rc)
		goto destroy;
	t->foreign = source || !hwloc_topology_is_thissystem(t->hwloc);
	t->quota_percent = source ? source->quota_percent : t->foreign ? 0 : thmqi_quota_percent();
	t->allowed = hwloc_bitmap_alloc();
	rc = t->allowed ? find_allowed(t, source ? source->allowed : NULL) : -ENOMEM;
	if (!rc)
		rc = thmqi_taken_find(t, source ? source->taken : NULL);
	if (rc)
		goto destroy;
	*ret_topology = t;
	return 0;
destroy:
	free(t->taken);
	hwloc_bitmap_free(t->allowed);
	hwloc_topology_destroy(t->hwloc);
fail:
	free(t);
	return rc;
}

void thmqi_topology_close(struct thmqi_topology *t)
{
	free(t->taken);
	hwloc_bitmap_free(t->allowed);
	hwloc_topology_destroy(t->hwloc);
	free(t);
}

bool thmqi_topology_is_foreign(const struct thmqi_topology *t)
{
	return t->foreign;
}

/* --------------------------------------------------------- processors, nodes */

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

static bool has_memory(hwloc_obj_t node)
{
	return node->attr->numanode.local_memory > 0;
}

/* The node with the fewest processors that @cpu is among: fast memory and slow may share them, the first one is it. */
static int node_of(const struct thmqi_topology *t, int cpu, bool with_memory)
{
	hwloc_obj_t node = NULL, best = NULL;

	if (cpu < 0)
		return -1;
	while ((node = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, node))) {
		if (!hwloc_bitmap_isset(node->cpuset, (unsigned int)cpu) ||
		    (with_memory && !has_memory(node)))
			continue;
		if (!best || hwloc_bitmap_weight(node->cpuset) < hwloc_bitmap_weight(best->cpuset))
			best = node;
	}
	return best ? (int)best->os_index : -1;
}

int thmqi_topology_node(const struct thmqi_topology *t, int cpu)
{
	return node_of(t, cpu, false);
}

int thmqi_topology_memory_node(const struct thmqi_topology *t, int cpu)
{
	return node_of(t, cpu, true);
}

uint32_t thmqi_topology_node_count(const struct thmqi_topology *t)
{
	return (uint32_t)THMQI_MAX(hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_NUMANODE), 0);
}

bool thmqi_topology_has_node(const struct thmqi_topology *t, uint32_t node)
{
	return hwloc_get_numanode_obj_by_os_index(t->hwloc, node) != NULL;
}

/* ------------------------------------------------------------------ binding */

static int bind_to(struct thmqi_topology *t, hwloc_const_bitmap_t set)
{
	if (t->foreign)
		return -ENOTSUP; /* these processors are not here */
	return hwloc_set_cpubind(t->hwloc, set, HWLOC_CPUBIND_THREAD) == 0 ? 0 : -errno;
}

int thmqi_topology_unbind(struct thmqi_topology *t)
{
	return t->count ? bind_to(t, t->allowed) : -ENOTSUP;
}

int thmqi_topology_bind(struct thmqi_topology *t, int cpu)
{
	hwloc_bitmap_t set;
	int rc;

	if (cpu < 0)
		return -ENOTSUP;
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
	hwloc_bitmap_t set = hwloc_bitmap_alloc();
	int node = -1;

	if (set && hwloc_get_last_cpu_location(t->hwloc, set, HWLOC_CPUBIND_THREAD) == 0)
		node = node_of(t, hwloc_bitmap_first(set), false);
	hwloc_bitmap_free(set);
	return node;
}

int thmqi_topology_bind_memory(const struct thmqi_topology *t, void *at, size_t len, uint32_t node)
{
	hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
	int rc;

	if (!nodes)
		return -ENOMEM;
	hwloc_bitmap_only(nodes, node);
	rc = hwloc_set_area_membind(t->hwloc, at, len, nodes, HWLOC_MEMBIND_BIND,
				    HWLOC_MEMBIND_BYNODESET);
	hwloc_bitmap_free(nodes);
	return rc == 0 ? 0 : -errno;
}
