/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_costs_test.c - polling in real time: options, what sleeps cost and how that is learned, processors that others want, and the
 * thread that forecasts. The policies themselves: reactor_polling_test.c.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"
#include "topology/topology.h"

#define MS 1000000ull
#define SECOND 1000000000ull

TestSuite(reactor_costs, .timeout = 120);

/* In the child there are no threads but the one that forked: it calls exec, as it has to. */
Test(reactor_costs, a_fork_while_it_forecasts_harms_neither)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_env *env;
	int status;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .flags = THMQ_ENV_NO_PIN,
						       .policy = THMQ_POLICY_PREDICTIVE)),
		     0);
	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		cr_assert_geq(pid, 0);
		if (pid == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(3);
		}
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0);
		cr_assert_eq(thmq_core_stats(thmq_env_core(env, (uint32_t)i % 2), &st), 0);
	}
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

static uint32_t threads(void)
{
	DIR *d = opendir("/proc/self/task");
	uint32_t count = 0;

	while (readdir(d))
		count++;
	closedir(d);
	return count - 2;
}

Test(reactor_costs, options_that_make_no_sense_are_refused_with_a_reason)
{
	static const struct {
		struct thmq_env_opts opts;
		const char *says;
	} bad[] = {
		{{.size = sizeof(bad[0].opts), .policy = THMQ_POLICY_PREDICTIVE + 1}, "policy 7"},
		{{.size = sizeof(bad[0].opts), .cpu_cap_percent = 101}, "cpu_cap_percent"},
		{{.size = sizeof(bad[0].opts), .policy = THMQ_POLICY_POLL, .cpu_cap_percent = 50},
		 "never sleeps"},
		{{.size = sizeof(bad[0].opts), .latency_worth = 100001}, "latency_worth"},
		{{.size = sizeof(bad[0].opts), .wake_cpu_ns = 1000000001}, "wake_cpu_ns"},
		{{.size = sizeof(bad[0].opts), .wake_latency_ns = 1000000001}, "wake_latency_ns"},
	};
	struct thmq_env *env = NULL;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(bad); i++) {
		cr_assert_eq(thmq_env_open(&env, &bad[i].opts), -EINVAL);
		cr_assert_null(env);
		cr_assert(strstr(thmq_errmsg(), bad[i].says), "%s", thmq_errmsg());
	}
}

static struct thmq_core_stats open_and_ask(const struct thmq_env_opts *opts)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_env *env;

	cr_assert_eq(thmq_env_open(&env, opts), 0);
	cr_assert_eq(thmq_core_stats(thmq_env_core(env, 0), &st), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	return st;
}

static void within_reason(const struct thmq_core_stats *st)
{
	cr_assert(st->wake_cpu_ns >= 500 && st->wake_cpu_ns <= 20000, "%u", st->wake_cpu_ns);
	cr_assert(st->wake_latency_ns >= 1000 && st->wake_latency_ns <= 30000, "%u", st->wake_latency_ns);
}

static _Atomic bool enough;

/* Wants the processor that the core is on; -1: any. */
static void *compete(void *arg)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (*(int *)arg >= 0) {
		CPU_SET(*(int *)arg, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	while (!atomic_load_explicit(&enough, memory_order_relaxed))
		;
	return NULL;
}

static int answer(struct thmq_core *core, void *arg)
{
	(void)core;
	(void)arg;
	return 0;
}

Test(reactor_costs, what_a_sleep_costs_is_measured_unless_it_is_told)
{
	struct thmq_core_stats st;

	st = open_and_ask(THMQ_ENV_OPTS(.policy = THMQ_POLICY_ADAPTIVE));
	within_reason(&st);
	st = open_and_ask(THMQ_ENV_OPTS(.policy = THMQ_POLICY_ADAPTIVE, .wake_cpu_ns = 1234,
					.wake_latency_ns = 5678));
	cr_assert_eq(st.wake_cpu_ns, 1234);
	cr_assert_eq(st.wake_latency_ns, 5678);
	cr_assert_eq(st.budget_ns, 1234 + 10 * 5678, "until it has seen gaps");
	st = open_and_ask(THMQ_ENV_OPTS(.policy = THMQ_POLICY_ADAPTIVE, .wake_cpu_ns = 1234));
	cr_assert_eq(st.wake_cpu_ns, 1234);
	cr_assert_geq(st.wake_latency_ns, 1000);
}

static uint32_t wake_cpu_after(const struct thmq_env_opts *opts, int polls, bool *ret_moved)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_env *env;
	uint32_t begin;

	cr_assert_eq(thmq_env_open(&env, opts), 0);
	cr_assert_eq(thmq_core_stats(thmqi_env_core(env, 0), &st), 0);
	begin = st.wake_cpu_ns;
	*ret_moved = false;
	for (int i = 0; i < polls; i++) {
		cr_assert_geq(thmq_poll(env, 50000), 0);
		cr_assert_eq(thmq_core_stats(thmqi_env_core(env, 0), &st), 0);
		*ret_moved |= st.wake_cpu_ns != begin;
	}
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	return st.wake_cpu_ns;
}

Test(reactor_costs, what_a_sleep_takes_of_the_processor_is_learned_unless_it_is_told)
{
	struct thmq_env_opts opts =
		*THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI, .latency_worth = 1);
	bool moved;
	uint32_t ns = wake_cpu_after(&opts, 200, &moved);

	cr_assert(moved);
	cr_assert(ns >= 500 && ns <= 20000, "%u", ns);
	opts.wake_cpu_ns = 1234;
	ns = wake_cpu_after(&opts, 200, &moved);
	cr_assert(!moved && ns == 1234, "%u", ns);
}

/* Where others want the processor, or signals cut the sleeps short, the figures stay within reason, and the open ends. */
Test(reactor_costs, what_a_sleep_costs_is_within_reason_on_a_busy_machine)
{
	static int any = -1;
	struct thmq_core_stats st;
	pthread_t others[4];

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(others); i++)
		cr_assert_eq(pthread_create(&others[i], NULL, compete, &any), 0);
	for (int i = 0; i < 5; i++) {
		st = open_and_ask(THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI));
		within_reason(&st);
	}
	atomic_store(&enough, true);
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(others); i++)
		pthread_join(others[i], NULL);
}

static void ring_the_bell(int number)
{
	(void)number;
}

Test(reactor_costs, what_a_sleep_costs_is_within_reason_under_signals)
{
	const struct itimerval often = {.it_value.tv_usec = 40, .it_interval.tv_usec = 40}, never = {0};
	struct sigaction act = {.sa_handler = ring_the_bell};
	struct thmq_core_stats st;

	sigaction(SIGALRM, &act, NULL);
	for (int i = 0; i < 10; i++) {
		setitimer(ITIMER_REAL, &often, NULL);
		st = open_and_ask(THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI));
		setitimer(ITIMER_REAL, &never, NULL);
		within_reason(&st);
	}
}

/* Nobody says what a wake-up takes: each that a thread makes of a core that sleeps moves what it is taken to be by a step. */
Test(reactor_costs, what_a_wake_up_takes_is_learned_from_wake_ups_unless_it_is_told)
{
	for (uint32_t told = 0; told <= 1; told++) {
		struct thmq_core_stats st = {.size = sizeof(st)};
		struct thmq_core *core;
		struct thmq_env *env;
		uint32_t first;

		cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_SKI,
							       .wake_cpu_ns = 1000,
							       .wake_latency_ns = told ? 2000 : 0)),
			     0);
		core = thmq_env_core(env, 0);
		cr_assert_eq(thmq_core_stats(core, &st), 0);
		first = st.wake_latency_ns;
		for (int i = 0; i < (told ? 50 : 5000) && st.wake_latency_ns == first; i++) {
			usleep(2000); /* it sleeps by then, mostly */
			cr_assert_eq(thmq_core_call(core, answer, NULL, 20 * SECOND), 0);
			cr_assert_eq(thmq_core_stats(core, &st), 0);
		}
		cr_assert_eq(st.wake_latency_ns == first, told, "%u, then %u", first, st.wake_latency_ns);
		cr_assert(st.wake_latency_ns >= 500 && st.wake_latency_ns <= 100000);
		cr_assert_eq(thmq_env_close(env, SECOND), 0);
	}
}

Test(reactor_costs, a_thread_that_forecasts_is_made_only_where_threads_may_be_made)
{
	uint32_t before = threads(), with_core;
	struct thmq_env *env;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE)), 0);
	cr_assert_eq(threads(), before);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE,
						       .flags = THMQ_ENV_ALLOW_THREADS)),
		     0);
	cr_assert_eq(threads(), before + 1);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(threads(), before);
	cr_assert_eq(
		thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .policy = THMQ_POLICY_ADAPTIVE)),
		0);
	with_core = threads();
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2,
						       .policy = THMQ_POLICY_PREDICTIVE)),
		     0);
	cr_assert_eq(threads(), with_core + 1, "one for all cores");
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(reactor_costs, a_core_of_the_librarys_has_its_counts_forecast)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_core *core;
	struct thmq_env *env;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1,
						       .policy = THMQ_POLICY_PREDICTIVE)),
		     0);
	core = thmq_env_core(env, 0);
	for (int i = 0; i < 3000 && (st.forecast_ticks < 3 || !st.forecast_cpu_ns); i++) {
		cr_assert_eq(thmq_core_call(core, answer, NULL, 10 * SECOND), 0);
		usleep(5000);
		cr_assert_eq(thmq_core_stats(core, &st), 0);
	}
	cr_assert_geq(st.forecast_ticks, 3);
	cr_assert_gt(st.forecast_cpu_ns, 0);
	cr_assert_gt(st.sleeps, 0);
	cr_assert_eq(st.policy, THMQ_POLICY_ADAPTIVE);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(reactor_costs, a_core_whose_processor_others_want_spins_less)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_place place = {.size = sizeof(place)};
	struct thmq_core *core;
	struct thmq_env *env;
	pthread_t other;
	uint64_t before;

	/* five milliseconds, by what a sleep is said to cost */
	cr_assert_eq(
		thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_SKI,
						  .spin_ns = 10 * MS, .latency_worth = 1000,
						  .wake_cpu_ns = 2000, .wake_latency_ns = 5000)),
		0);
	core = thmq_env_core(env, 0);
	cr_assert_eq(thmq_env_place(env, 0, &place), 0);
	if (!(place.flags & THMQ_PLACE_PINNED))
		cr_skip_test("cores cannot be pinned here");
	cr_assert_eq(thmq_core_stats(core, &st), 0);
	before = st.budget_ns;
	cr_assert_gt(before, 1 * MS);
	cr_assert_eq(pthread_create(&other, NULL, compete, &place.cpu), 0);
	for (int i = 0; i < 20000 && st.budget_ns > before / 4; i++) {
		cr_assert_eq(thmq_core_call(core, answer, NULL, 20 * SECOND), 0);
		usleep(1000);
		cr_assert_eq(thmq_core_stats(core, &st), 0);
	}
	atomic_store(&enough, true);
	pthread_join(other, NULL);
	cr_assert_leq(st.budget_ns, before / 4);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(reactor_costs, cores_without_a_processor_each_spin_no_longer_than_a_sleep_takes_of_it)
{
	const struct thmqi_machine_source two = {.synthetic = "Core:2 PU:1"};
	const struct thmqi_world machine = {.machine = &two};
	struct thmq_core_stats st;
	struct thmq_env *env;

	for (uint32_t cores = 2; cores <= 3; cores++) {
		cr_assert_eq(
			thmqi_env_open(THMQ_ENV_OPTS(.core_count = cores, .policy = THMQ_POLICY_SKI,
						     .wake_cpu_ns = 2000, .wake_latency_ns = 4000),
				       &machine, &env),
			0);
		thmqi_core_stats(thmqi_env_core(env, 0), &st);
		if (cores == 2)
			cr_assert_gt(st.budget_ns, 2000);
		else
			cr_assert_leq(st.budget_ns, 2100);
		cr_assert_eq(thmqi_env_close(env), 0);
	}
}
