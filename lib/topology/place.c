/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.c - the order in which processors are given to cores. Deterministic: the same machine and the same request give the same
 * order. Knows nothing of threads, and binds nothing.
 */
#include <stdio.h>

#include "internal.h"

/* A processor that may be used, and what speaks for it: all that is less is better. */
struct candidate {
	hwloc_obj_t pu;
	uint32_t taken;    /* threads of this process that are bound to it */
	uint32_t sibling;  /* how many of its physical core come before it, or are taken */
	uint32_t slowness; /* kinds of processors that are faster */
	uint32_t far_path, far_nic;
	uint32_t no_memory; /* its node has none */
};

struct order {
	struct candidate *at;
	uint32_t count;
	struct near_device path, nic;
};

/* ------------------------------------------------------------------- facts */

/* Of what has cores below it, the highest depth of all is the nearest. Without @anchor all are equally far. */
static uint32_t distance(const struct thmqi_topology *t, hwloc_obj_t anchor, hwloc_obj_t pu)
{
	hwloc_obj_t common;

	if (!anchor)
		return 0;
	common = hwloc_get_common_ancestor_obj(t->hwloc, anchor, pu);
	return (uint32_t)(hwloc_topology_get_depth(t->hwloc) - (common ? common->depth : 0));
}

static hwloc_obj_t above(const struct thmqi_topology *t, hwloc_obj_t pu, hwloc_obj_type_t type)
{
	return hwloc_get_ancestor_obj_by_type(t->hwloc, type, pu);
}

static uint32_t siblings_before(const struct thmqi_topology *t, hwloc_obj_t pu)
{
	hwloc_obj_t core = above(t, pu, HWLOC_OBJ_CORE), other = NULL;
	uint32_t count = 0;

	while (core && (other = hwloc_get_next_obj_inside_cpuset_by_type(t->hwloc, core->cpuset,
									 HWLOC_OBJ_PU, other)))
		count += other != pu &&
			 (other->logical_index < pu->logical_index ||
			  thmqi_taken(t, other->os_index)) &&
			 hwloc_bitmap_isset(t->allowed, other->os_index);
	return count;
}

/* hwloc numbers the kinds by rising speed, where it knows that. */
static uint32_t slowness(const struct thmqi_topology *t, hwloc_obj_t pu)
{
	int count = hwloc_cpukinds_get_nr(t->hwloc, 0), speed = -1;
	int kind = count > 1 ? hwloc_cpukinds_get_by_cpuset(t->hwloc, pu->cpuset, 0) : -1;

	if (kind < 0 ||
	    hwloc_cpukinds_get_info(t->hwloc, (unsigned int)kind, NULL, &speed, NULL, NULL, 0) !=
		    0 ||
	    speed < 0)
		return 0;
	return (uint32_t)(count - 1 - kind);
}

static int compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

#define LESS(field)                                                                                \
	if (x->field != y->field)                                                                  \
	return x->field < y->field ? -1 : 1
	LESS(taken);
	LESS(sibling);
	LESS(slowness);
	LESS(far_path);
	LESS(far_nic);
	LESS(no_memory);
	LESS(pu->logical_index); /* all of a node before the next one */
#undef LESS
	return 0;
}

/* ------------------------------------------------------------------- order */

static int order_make(const struct thmqi_topology *t, const struct thmqi_place_request *r,
		      struct order *ret)
{
	int rc = 0, cpu;
	uint32_t i = 0;

	memset(ret, 0, sizeof(*ret));
	if (r->near_path)
		rc = thmqi_device_of_path(t, r->near_path, &ret->path);
	if (!rc && r->near_nic)
		rc = thmqi_device_of_nic(t, r->near_nic, &ret->nic);
	if (rc)
		return rc;
	ret->at = calloc((size_t)t->count + 1, sizeof(*ret->at));
	if (!ret->at)
		return thmqi_fail(-ENOMEM, "no memory to place cores");
	hwloc_bitmap_foreach_begin(cpu, t->allowed)
	{
		struct candidate *c = &ret->at[i];

		c->pu = hwloc_get_pu_obj_by_os_index(t->hwloc, (unsigned int)cpu);
		if (!c->pu)
			continue;
		c->taken = thmqi_taken(t, (uint32_t)cpu);
		c->sibling = siblings_before(t, c->pu);
		c->slowness = slowness(t, c->pu);
		c->far_path = distance(t, ret->path.anchor, c->pu);
		c->far_nic = distance(t, ret->nic.anchor, c->pu);
		c->no_memory = thmqi_topology_memory_node(t, cpu) != thmqi_topology_node(t, cpu);
		i++;
	}
	hwloc_bitmap_foreach_end();
	ret->count = i;
	return 0;
}

static struct candidate *find_cpu(const struct order *o, uint64_t cpu)
{
	uint32_t i;

	for (i = 0; i < o->count; i++)
		if (o->at[i].pu->os_index == cpu)
			return &o->at[i];
	return NULL;
}

/* Swaps processor @cpu to place @at, behind which it must be. */
static int choose(const struct thmqi_topology *t, struct order *o, uint32_t at, uint64_t cpu)
{
	struct candidate *c = find_cpu(o, cpu), chosen;
	char allowed[128] = "";

	if (c && c < &o->at[at])
		return thmqi_fail(-EINVAL, "cpus: processor %llu is named twice",
				  (unsigned long long)cpu);
	if (!c) {
		hwloc_bitmap_list_snprintf(allowed, sizeof(allowed), t->allowed);
		return thmqi_fail(-EINVAL,
				  "cpus: the process may not use processor %llu; it may use %s",
				  (unsigned long long)cpu, allowed);
	}
	chosen = *c;
	*c = o->at[at];
	o->at[at] = chosen;
	return 0;
}

static bool number(const char **text, uint64_t *ret)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	errno = 0;
	*ret = strtoull(*text, &end, 10);
	*text = end;
	return !errno && *ret <= INT32_MAX;
}

/* "2-5,8": as taskset(1) has it, and in this very order. */
static int order_by_list(const struct thmqi_topology *t, struct order *o, const char *list)
{
	const char *at = list;
	uint64_t first, last;
	uint32_t chosen = 0;
	int rc;

	do {
		if (!number(&at, &first))
			return thmqi_fail(-EINVAL,
					  "cpus: \"%.64s\" is no list of processors such as 2-5,8",
					  list);
		last = first;
		if (*at == '-' && (at++, !number(&at, &last) || last < first))
			return thmqi_fail(-EINVAL, "cpus: \"%.64s\" has a range without an end",
					  list);
		for (; first <= last; first++) {
			rc = choose(t, o, chosen, first);
			if (rc)
				return rc;
			chosen++;
		}
	} while (*at == ',' && *++at);
	if (*at || at[-1] == ',')
		return thmqi_fail(-EINVAL, "cpus: \"%.64s\" is no list of processors such as 2-5,8",
				  list);
	o->count = chosen;
	return 0;
}

static int compare_number(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return x->pu->os_index < y->pu->os_index ? -1 : x->pu->os_index > y->pu->os_index;
}

static void rotate(struct order *o, uint32_t first)
{
	struct candidate c;
	uint32_t i;

	while (first--) {
		c = o->at[0];
		for (i = 1; i < o->count; i++)
			o->at[i - 1] = o->at[i];
		o->at[o->count - 1] = c;
	}
}

static int order_sort(const struct thmqi_topology *t, const struct thmqi_place_request *r,
		      uint32_t count, struct order *o)
{
	int rc;

	if (r->cpus) {
		rc = order_by_list(t, o, r->cpus);
		if (!rc && count > o->count)
			rc = thmqi_fail(-EINVAL, "cpus: %u processors are named for %u cores",
					o->count, count);
		return rc;
	}
	if (!r->has_first) {
		qsort(o->at, o->count, sizeof(*o->at), compare);
		return 0;
	}
	if (o->count && r->first >= o->count)
		return thmqi_fail(-EINVAL,
				  "first_cpu is %u, and the process may use %u processors, 0 to %u",
				  r->first, o->count, o->count - 1);
	qsort(o->at, o->count, sizeof(*o->at), compare_number);
	rotate(o, r->first);
	return 0;
}

/* ------------------------------------------------------------------- answers */

static bool is_near(const struct near_device *d, hwloc_obj_t pu)
{
	return d->anchor && hwloc_bitmap_isset(d->anchor->cpuset, pu->os_index);
}

static void describe(const struct thmqi_topology *t, const struct order *o, uint32_t index,
		     struct thmq_place *p)
{
	const struct candidate *c = &o->at[index % o->count];
	hwloc_obj_t package = above(t, c->pu, HWLOC_OBJ_PACKAGE),
		    core = above(t, c->pu, HWLOC_OBJ_CORE);
	uint32_t i;

	p->cpu = (int32_t)c->pu->os_index;
	p->node = thmqi_topology_node(t, p->cpu);
	p->memory_node = thmqi_topology_memory_node(t, p->cpu);
	p->package = package ? (int32_t)package->os_index : -1;
	p->physical_core = (int32_t)(core ? core->logical_index : c->pu->logical_index);
	p->flags = (c->slowness ? THMQ_PLACE_EFFICIENCY : 0) |
		   (is_near(&o->path, c->pu) ? THMQ_PLACE_NEAR_PATH : 0) |
		   (is_near(&o->nic, c->pu) ? THMQ_PLACE_NEAR_NIC : 0) |
		   (c->taken ? THMQ_PLACE_SHARED : 0) |
		   (index >= o->count ? THMQ_PLACE_SHARED | THMQ_PLACE_SIBLING : 0);
	for (i = 0; i < THMQI_MIN(index, o->count) && core; i++)
		if (i != index % o->count && above(t, o->at[i].pu, HWLOC_OBJ_CORE) == core)
			p->flags |= THMQ_PLACE_SIBLING;
}

static int node_of_device(const struct thmqi_topology *t, const struct near_device *d)
{
	if (d->anchor && d->anchor->nodeset && hwloc_bitmap_weight(d->anchor->nodeset) == 1)
		return hwloc_bitmap_first(d->anchor->nodeset);
	return d->name[0] && thmqi_topology_node_count(t) == 1
		       ? hwloc_bitmap_first(hwloc_get_root_obj(t->hwloc)->nodeset)
		       : -1;
}

static void describe_machine(const struct thmqi_topology *t, const struct order *o,
			     struct thmq_machine *m)
{
	hwloc_obj_t core = NULL;

	m->cpu_count = t->count;
	m->physical_count = 0;
	while ((core = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_CORE, core)))
		m->physical_count += hwloc_bitmap_intersects(core->cpuset, t->allowed) != 0;
	m->physical_count = m->physical_count ? m->physical_count
					      : t->count; /* a machine that does not tell them */
	m->node_count = thmqi_topology_node_count(t);
	m->package_count =
		(uint32_t)THMQI_MAX(hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_PACKAGE), 1);
	m->quota_percent = t->quota_percent;
	m->path_node = node_of_device(t, &o->path);
	m->nic_node = node_of_device(t, &o->nic);
	memcpy(m->path_device, o->path.name, sizeof(m->path_device));
}

int thmqi_topology_place(const struct thmqi_topology *t, const struct thmqi_place_request *request,
			 uint32_t count, struct thmq_place *places,
			 struct thmq_machine *ret_machine)
{
	struct order o;
	uint32_t i;
	int rc;

	rc = order_make(t, request, &o);
	if (rc)
		return rc;
	rc = order_sort(t, request, count, &o);
	for (i = 0; !rc && places && i < count; i++) {
		places[i] = (struct thmq_place){.size = sizeof(places[i]),
						.cpu = -1,
						.node = -1,
						.memory_node = -1,
						.package = -1,
						.physical_core = -1,
						.error = o.count ? 0 : -ENOTSUP};
		if (o.count)
			describe(t, &o, i, &places[i]);
	}
	if (!rc && ret_machine)
		describe_machine(t, &o, ret_machine);
	free(o.at);
	return rc;
}
