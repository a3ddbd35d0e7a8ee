/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_place_test.c - cores of an environment on their processors: what is told of them, and what becomes of those that cannot go there. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "reactor/reactor.h"
#include "topology/topology.h"

static cpu_set_t mine;

static void look(void)
{
	cr_assert_eq(sched_getaffinity(0, sizeof(mine), &mine), 0);
}

TestSuite(reactor_place, .init = look, .timeout = 60);

static struct thmq_place place_of(struct thmq_env *env, uint32_t index)
{
	struct thmq_place p = {.size = sizeof(p)};

	cr_assert_eq(thmq_env_place(env, index, &p), 0);
	return p;
}

static int where(struct thmq_core *core, void *arg)
{
	(void)core;
	return sched_getaffinity(0, sizeof(cpu_set_t), arg) ? -errno : sched_getcpu();
}

#define OPEN(env, world, ...)                                                                      \
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(__VA_ARGS__), world, &env), 0, "%s",             \
		     thmq_errmsg())

Test(reactor_place, a_core_is_where_it_is_said_to_be)
{
	struct thmq_env_stats stats;
	struct thmq_env *env;
	cpu_set_t set;

	OPEN(env, NULL, .core_count = 2);
	for (uint32_t i = 0; i < 2; i++) {
		struct thmq_place p = place_of(env, i);

		cr_assert_eq(p.flags & THMQ_PLACE_PINNED, THMQ_PLACE_PINNED);
		cr_assert_eq(p.error, 0);
		cr_assert_eq(thmqi_core_call(thmqi_env_core(env, i), where, &set, UINT64_MAX),
			     p.cpu);
		cr_assert_eq(CPU_COUNT(&set), 1);
		cr_assert(CPU_ISSET((size_t)p.cpu, &mine));
	}
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.pinned_cores, 2);
	cr_assert_eq(
		thmq_env_place(env, 2, &(struct thmq_place){.size = sizeof(struct thmq_place)}),
		-EINVAL);
	cr_assert_eq(thmq_env_place(env, 0, &(struct thmq_place){0}), -EINVAL);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_place, a_list_puts_each_core_on_its_processor)
{
	struct thmq_env *env;
	char list[32];
	int last = -1, cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, &mine))
			last = cpu;
	snprintf(list, sizeof(list), "%d", last);
	OPEN(env, NULL, .core_count = 1, .cpus = list);
	memset(list, 'x', sizeof(list)); /* it was ours */
	cr_assert_eq(place_of(env, 0).cpu, last);
	cr_assert_eq(place_of(env, 0).flags, THMQ_PLACE_PINNED);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_place, near_a_path_and_near_a_card_that_have_no_place_is_anywhere)
{
	struct thmq_env *env;

	OPEN(env, NULL, .core_count = 1, .near_path = "/proc", .near_nic = "lo");
	cr_assert_eq(place_of(env, 0).flags, THMQ_PLACE_PINNED);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_place, wishes_that_cannot_be_are_refused)
{
	struct thmq_env *env = NULL;

#define REFUSED(error, words, ...)                                                                 \
	do {                                                                                       \
		cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(__VA_ARGS__), NULL, &env), error);       \
		cr_assert(strstr(thmq_errmsg(), words), "%s", thmq_errmsg());                      \
		cr_assert_eq(thmqi_env_plan(THMQ_ENV_OPTS(__VA_ARGS__), NULL, 0, NULL),            \
			     strstr(words, "core_count") || strstr(words, "for 2") ? 0 : error);   \
	} while (0)
	REFUSED(-EINVAL, "may not use processor 5000", .core_count = 1, .cpus = "5000");
	REFUSED(-EINVAL, "for 2 cores", .core_count = 2, .cpus = "0");
	REFUSED(-EINVAL, "no list", .core_count = 1, .cpus = "all");
	REFUSED(-EINVAL, "not both", .core_count = 1, .cpus = "0", .flags = THMQ_ENV_FIRST_CPU);
	REFUSED(-EINVAL, "NO_PIN", .core_count = 1, .cpus = "0", .flags = THMQ_ENV_NO_PIN);
	REFUSED(-EINVAL, "NO_PIN", .core_count = 1, .near_path = "/", .flags = THMQ_ENV_NO_PIN);
	REFUSED(-EINVAL, "core_count", .cpus = "0");
	REFUSED(-EINVAL, "core_count", .near_nic = "lo", .caller_cores = 2);
	REFUSED(-ENODEV, "no-such-card", .core_count = 1, .near_nic = "no-such-card");
	cr_assert_null(env);
}

Test(reactor_place, of_cores_that_the_host_drives_nothing_is_known)
{
	struct thmq_env *env;

	OPEN(env, NULL, .caller_cores = 2);
	cr_assert_eq(place_of(env, 1).cpu, -1);
	cr_assert_eq(place_of(env, 1).flags, 0);
	cr_assert_eq(place_of(env, 1).error, 0);
	cr_assert_eq(thmqi_env_close(env), 0);
	OPEN(env, NULL, .core_count = 1, .flags = THMQ_ENV_NO_PIN);
	cr_assert_eq(place_of(env, 0).cpu, -1);
	cr_assert_eq(place_of(env, 0).error, 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_place, a_core_that_cannot_be_pinned_runs_where_the_process_may_and_says_why)
{
	/* processors that this machine does not have: binding to them fails */
	static const struct thmqi_machine_source large = {
		.synthetic = "Package:2 [NUMANode(memory=64GB)] Core:8 PU:2"};
	static const struct thmqi_world world = {.machine = &large};
	struct thmq_env_stats stats;
	struct thmq_env *env;
	cpu_set_t set;

	OPEN(env, &world, .core_count = 12);
	for (uint32_t i = 0; i < 12; i++) {
		struct thmq_place p = place_of(env, i);

		cr_assert_eq(p.flags & THMQ_PLACE_PINNED, 0);
		cr_assert_eq(p.error, -ENOTSUP);
		cr_assert_eq(p.cpu, (int32_t)(2 * i));
		cr_assert_eq(p.node, i / 8);
		cr_assert_geq(thmqi_core_call(thmqi_env_core(env, i), where, &set, UINT64_MAX), 0);
		cr_assert(CPU_EQUAL(&set, &mine));
	}
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.pinned_cores, 0);
	cr_assert_eq(stats.policy, THMQ_POLICY_ADAPTIVE, "there are as many as that");
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ------------------------------------------------------------------ crowding */

static uint32_t policy_of(const struct thmqi_machine_source *machine, uint32_t cores,
			  uint32_t policy)
{
	const struct thmqi_world world = {.machine = machine};
	struct thmq_env_stats stats;
	struct thmq_env *env;

	OPEN(env, &world, .core_count = cores, .policy = policy);
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.quota_percent, machine->quota_percent);
	cr_assert_eq(thmqi_env_close(env), 0);
	return stats.policy;
}

Test(reactor_place, cores_that_outnumber_processors_or_quota_do_not_spin_unless_told_to)
{
	const struct thmqi_machine_source two = {.synthetic = "Core:2 PU:1"},
					  quota = {.synthetic = "Core:8 PU:1",
						   .quota_percent = 150},
					  exact = {.synthetic = "Core:8 PU:1",
						   .quota_percent = 200},
					  little = {.synthetic = "Core:8 PU:1",
						    .quota_percent = 50};

	cr_assert_eq(policy_of(&two, 2, THMQ_POLICY_DEFAULT), THMQ_POLICY_ADAPTIVE);
	cr_assert_eq(policy_of(&two, 3, THMQ_POLICY_DEFAULT), THMQ_POLICY_EVENT);
	cr_assert_eq(policy_of(&two, 3, THMQ_POLICY_FIXED), THMQ_POLICY_FIXED);
	cr_assert_eq(policy_of(&quota, 1, THMQ_POLICY_DEFAULT), THMQ_POLICY_ADAPTIVE);
	cr_assert_eq(policy_of(&quota, 2, THMQ_POLICY_DEFAULT), THMQ_POLICY_EVENT);
	cr_assert_eq(policy_of(&exact, 2, THMQ_POLICY_DEFAULT), THMQ_POLICY_ADAPTIVE);
	cr_assert_eq(policy_of(&little, 1, THMQ_POLICY_DEFAULT), THMQ_POLICY_EVENT);
	cr_assert_eq(policy_of(&little, 1, THMQ_POLICY_POLL), THMQ_POLICY_POLL);
}

/* --------------------------------------------------------------------- plan */

Test(reactor_place, the_plan_is_what_the_open_does)
{
	struct thmq_machine machine = {.size = sizeof(machine)};
	struct thmq_place planned[3] = {{.size = sizeof(planned[0])}};
	struct thmq_env *env;

	cr_assert_eq(thmq_env_plan(NULL, planned, 3, &machine), 0);
	cr_assert_eq(machine.cpu_count, (uint32_t)CPU_COUNT(&mine));
	cr_assert_geq(machine.node_count, 1);
	OPEN(env, NULL, .core_count = 3);
	for (uint32_t i = 0; i < 3; i++) {
		cr_assert_eq(planned[i].size, sizeof(planned[i]));
		cr_assert_eq(planned[i].cpu, place_of(env, i).cpu);
		cr_assert_eq(planned[i].flags | THMQ_PLACE_PINNED, place_of(env, i).flags);
	}
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_place, structs_of_another_size_are_filled_as_far_as_they_go)
{
	struct {
		struct thmq_place place;
		uint64_t newer;
	} longer[2] = {{.place.size = sizeof(longer[0]), .newer = 7}};
	struct {
		uint32_t size, flags;
		int32_t cpu;
		uint32_t behind;
	} old[2] = {{.size = 12, .behind = 7}};

	cr_assert_eq(thmq_env_plan(NULL, &longer[0].place, 2, NULL), 0);
	cr_assert_eq(longer[0].newer, 0);
	cr_assert_eq(longer[1].place.size, sizeof(longer[0]));
	cr_assert_geq(longer[1].place.cpu, 0);
	cr_assert_eq(thmq_env_plan(NULL, (struct thmq_place *)(void *)old, 1, NULL), 0);
	cr_assert_geq(old[0].cpu, 0);
	cr_assert_eq(old[0].behind, 7);
	old[0].size = 0;
	cr_assert_eq(thmq_env_plan(NULL, (struct thmq_place *)(void *)old, 1, NULL), -EINVAL);
	cr_assert_eq(thmq_env_plan(NULL, NULL, 5, &(struct thmq_machine){0}), -EINVAL);
	cr_assert_eq(thmq_env_plan(NULL, &longer[0].place, 1u << 20, NULL), -EINVAL);
	cr_assert_eq(thmq_env_plan(NULL, NULL, 0, NULL), 0);
}
