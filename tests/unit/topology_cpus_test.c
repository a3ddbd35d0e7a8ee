/* SPDX-License-Identifier: Apache-2.0 */
/* topology_cpus_test.c - the processors that the process may use, and staying on one. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <sched.h>

#include "topology/topology.h"

static struct thmqi_topology *topology;
static cpu_set_t before;

static void open_topology(void)
{
	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	cr_assert_eq(thmqi_topology_open(NULL, false, &topology), 0);
}

static void close_topology(void)
{
	thmqi_topology_close(topology);
}

TestSuite(topology_cpus, .init = open_topology, .fini = close_topology, .timeout = 60);

Test(topology_cpus, are_those_of_the_affinity_mask_in_order)
{
	uint32_t i, count = thmqi_topology_cpu_count(topology);
	int cpu, last = -1;

	cr_assert_eq(count, (uint32_t)CPU_COUNT(&before));
	for (i = 0; i < count; i++) {
		cpu = thmqi_topology_cpu(topology, i);
		cr_assert_gt(cpu, last);
		cr_assert(CPU_ISSET((size_t)cpu, &before));
		cr_assert_geq(thmqi_topology_node(topology, cpu), -1);
		last = cpu;
	}
}

Test(topology_cpus, beyond_the_last_there_is_none)
{
	uint32_t count = thmqi_topology_cpu_count(topology);

	cr_assert_eq(thmqi_topology_cpu(topology, count), -EINVAL);
	cr_assert_eq(thmqi_topology_cpu(topology, UINT32_MAX), -EINVAL);
	cr_assert_eq(thmqi_topology_node(topology, -1), -1);
	cr_assert_eq(thmqi_topology_bind(topology, -1), -ENOTSUP);
}

Test(topology_cpus, binding_leaves_one_and_unbinding_gives_all_back)
{
	uint32_t i, count = thmqi_topology_cpu_count(topology);
	cpu_set_t now;

	for (i = 0; i < count; i++) {
		int cpu = thmqi_topology_cpu(topology, i);

		cr_assert_eq(thmqi_topology_bind(topology, cpu), 0);
		cr_assert_eq(sched_getaffinity(0, sizeof(now), &now), 0);
		cr_assert_eq(CPU_COUNT(&now), 1);
		cr_assert(CPU_ISSET((size_t)cpu, &now));
		cr_assert_eq(sched_getcpu(), cpu);
	}
	cr_assert_eq(thmqi_topology_unbind(topology), 0);
	cr_assert_eq(sched_getaffinity(0, sizeof(now), &now), 0);
	cr_assert(CPU_EQUAL(&now, &before));
}

/* as taskset does it before the process begins */
static void hold_all_threads(const cpu_set_t *set)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;

	cr_assert(tasks);
	while ((task = readdir(tasks)))
		if (task->d_name[0] != '.')
			cr_assert_eq(sched_setaffinity(atoi(task->d_name), sizeof(*set), set), 0);
	closedir(tasks);
}

Test(topology_cpus, a_process_held_to_one_processor_has_one)
{
	int only = thmqi_topology_cpu(topology, thmqi_topology_cpu_count(topology) - 1);
	struct thmqi_topology *small;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)only, &set);
	hold_all_threads(&set);
	cr_assert_eq(thmqi_topology_open(NULL, false, &small), 0);
	cr_assert_eq(thmqi_topology_cpu_count(small), 1);
	cr_assert_eq(thmqi_topology_cpu(small, 0), only);
	cr_assert_eq(thmqi_topology_bind(small, only), 0);
	cr_assert_eq(sched_getcpu(), only);
	thmqi_topology_close(small);
}
