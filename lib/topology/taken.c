/* SPDX-License-Identifier: Apache-2.0 */
/*
 * taken.c - which processors have a thread of this process already that can run nowhere else: cores of another environment, or
 * threads that the host has bound itself. The kernel knows that, so that no two environments need to know of each other.
 */
#include <dirent.h>
#include <hwloc/linux.h>
#include <stdlib.h>

#include "internal.h"

static void note(struct thmqi_topology *t, hwloc_const_bitmap_t bound)
{
	int cpu = hwloc_bitmap_first(bound);

	if (hwloc_bitmap_weight(bound) == 1 && (uint32_t)cpu < t->taken_count &&
	    t->taken[cpu] < UINT16_MAX)
		t->taken[cpu]++;
}

/* A process that is held to one processor as a whole has nothing to choose. */
static void look_at_threads(struct thmqi_topology *t, hwloc_bitmap_t bound)
{
	DIR *tasks = t->count > 1 ? opendir("/proc/self/task") : NULL;
	struct dirent *e;
	int thread;

	while (tasks && (e = readdir(tasks))) {
		thread = atoi(e->d_name);
		if (thread > 0 && hwloc_linux_get_tid_cpubind(t->hwloc, thread, bound) == 0)
			note(t, bound);
	}
	if (tasks)
		closedir(tasks);
}

static int look_at_description(struct thmqi_topology *t, const char *described, hwloc_bitmap_t set)
{
	int cpu;

	if (described && hwloc_bitmap_list_sscanf(set, described) != 0)
		return -EINVAL;
	hwloc_bitmap_foreach_begin(cpu, set)
	{
		if ((uint32_t)cpu < t->taken_count)
			t->taken[cpu]++;
	}
	hwloc_bitmap_foreach_end();
	return 0;
}

int thmqi_taken_find(struct thmqi_topology *t, const char *described)
{
	hwloc_bitmap_t set = hwloc_bitmap_alloc();
	int rc = 0;

	t->taken_count = (uint32_t)(hwloc_bitmap_last(t->allowed) + 1);
	t->taken = calloc((size_t)t->taken_count + 1, sizeof(*t->taken));
	if (!set || !t->taken)
		rc = -ENOMEM;
	else if (t->foreign)
		rc = look_at_description(t, described, set);
	else
		look_at_threads(t, set);
	hwloc_bitmap_free(set);
	return rc;
}
