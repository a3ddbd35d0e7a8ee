/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_mates_test.c - several cores of one thread: they are driven, slept for and given up together. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define MS 1000000ull
#define CORES 5u

static struct thmq_env *env;

static void open_env(void)
{
	cr_assert_eq(
		thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = CORES, .policy = THMQ_POLICY_EVENT),
			       NULL, &env),
		0);
}

static void close_env(void)
{
	cr_assert_eq(thmqi_env_close(env), 0);
}

TestSuite(reactor_mates, .init = open_env, .fini = close_env, .timeout = 60);

static void attach_all(void)
{
	for (uint32_t i = 0; i < CORES; i++)
		cr_assert_eq(thmqi_core_attach(env, i), 0);
}

static struct thmq_core *core(uint32_t i)
{
	return thmqi_env_core(env, i);
}

static uint64_t real_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

struct counted {
	struct thmqi_task task;
	struct thmqi_timer timer;
	_Atomic int runs;
	int attach_result, call_result;
};

static void run_counted(struct thmq_core *c, struct thmqi_task *task)
{
	cr_assert(thmqi_core_is_mine(c));
	thmqi_container(task, struct counted, task)->runs++;
}

static void fire_counted(struct thmqi_timer *timer)
{
	thmqi_container(timer, struct counted, timer)->runs++;
}

static int one(struct thmq_core *c, void *arg)
{
	cr_assert(thmqi_core_is_mine(c));
	return ++*(int *)arg;
}

/* ------------------------------------------------------------------ driving */

Test(reactor_mates, one_poll_drives_all)
{
	struct counted c[CORES] = {0};

	attach_all();
	for (uint32_t i = 0; i < CORES; i++) {
		cr_assert(thmqi_core_is_mine(core(i)));
		c[i].task.run = run_counted;
		thmqi_core_post(core(i), &c[i].task);
	}
	cr_assert_eq(thmq_poll(env, 0), CORES);
	for (uint32_t i = 0; i < CORES; i++)
		cr_assert_eq(c[i].runs, 1);
	cr_assert_eq(thmqi_core_mine(env), core(0));
	cr_assert_eq(thmq_poll(env, 0), 0);
}

Test(reactor_mates, the_first_that_was_taken_leads_whatever_its_number)
{
	cr_assert_eq(thmqi_core_detach(env), 0);
	cr_assert_eq(thmqi_core_attach(env, 3), 0);
	cr_assert_eq(thmqi_core_attach(env, 0), 0);
	cr_assert_eq(thmqi_core_attach(env, 4), 0);
	cr_assert_eq(thmqi_core_attach(env, 0), 0, "once more is no mistake");
	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(thmqi_core_mine(env), core(3));
	cr_assert_eq(thmqi_core_poll(core(4), 0), 0, "by any of them");
	cr_assert_eq(thmqi_core_poll(core(1), 0), -EPERM);
}

Test(reactor_mates, a_call_on_any_of_them_runs_at_once)
{
	int x = 0;

	attach_all();
	for (uint32_t i = 0; i < CORES; i++)
		cr_assert_eq(thmqi_core_call(core(i), one, &x, 0), (int)i + 1);
}

Test(reactor_mates, timers_of_each_end_the_sleep)
{
	struct counted c = {.timer.fire = fire_counted};
	uint64_t begin;

	attach_all();
	begin = real_ns();
	thmqi_timer_start(core(3), &c.timer, begin + 20 * MS);
	cr_assert_gt(thmq_poll(env, 30000 * MS), 0);
	cr_assert_eq(c.runs, 1);
	cr_assert_geq(real_ns() - begin, 20 * MS);
	cr_assert_lt(real_ns() - begin, 10000 * MS);
}

Test(reactor_mates, a_time_out_ends_it_too_and_nobody_spins_meanwhile)
{
	uint64_t begin = real_ns();
	struct thmq_env_stats stats = {.size = sizeof(stats)};

	attach_all();
	cr_assert_eq(thmq_poll(env, 50 * MS), 0);
	cr_assert_geq(real_ns() - begin, 50 * MS);
	thmqi_env_stats(env, &stats);
	cr_assert_lt(stats.loops, 20u * CORES);
	cr_assert_gt(stats.sleeps, 0);
}

/* ------------------------------------------------------------------ sleeping */

struct poster {
	struct counted c;
	uint32_t index;
};

static void *post_later(void *arg)
{
	struct poster *p = arg;

	usleep(30000);
	thmqi_core_post(core(p->index), &p->c.task);
	return NULL;
}

Test(reactor_mates, work_for_any_of_them_wakes_the_thread)
{
	attach_all();
	for (uint32_t i = 0; i < CORES; i++) {
		struct poster p = {.c.task.run = run_counted, .index = i};
		uint64_t begin = real_ns();
		pthread_t thread;

		cr_assert_eq(pthread_create(&thread, NULL, post_later, &p), 0);
		cr_assert_eq(thmq_poll(env, 30000 * MS), 1);
		cr_assert_lt(real_ns() - begin, 10000 * MS);
		pthread_join(thread, NULL);
		cr_assert_eq(p.c.runs, 1);
	}
}

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

Test(reactor_mates, a_hosts_descriptor_tells_of_all_also_of_those_taken_later)
{
	int fd = thmq_env_fd(env);

	cr_assert_geq(fd, 0);
	cr_assert_eq(thmq_env_arm(env), 0);
	attach_all(); /* what was armed is no more: the host has to look */
	cr_assert(is_readable(fd, 10000));
	cr_assert_eq(thmq_env_fd(env), fd);
	for (uint32_t i = 0; i < CORES; i++) {
		struct poster p = {.c.task.run = run_counted, .index = i};
		pthread_t thread;

		while (thmq_poll(env, 0) > 0)
			;
		while (thmq_env_arm(env) != 0)
			thmq_poll(env, 0);
		cr_assert(!is_readable(fd, 0), "core %u", i);
		cr_assert_eq(pthread_create(&thread, NULL, post_later, &p), 0);
		cr_assert(is_readable(fd, 10000), "core %u", i);
		pthread_join(thread, NULL);
		cr_assert_eq(thmq_poll(env, 0), 1);
		cr_assert_eq(p.c.runs, 1);
	}
}

Test(reactor_mates, arming_finds_work_of_any_of_them)
{
	struct counted c = {.task.run = run_counted};

	attach_all();
	cr_assert_eq(thmq_env_arm(env), 0);
	thmq_poll(env, 0);
	thmqi_core_post(core(4), &c.task);
	cr_assert_eq(thmq_env_arm(env), 1);
	cr_assert_eq(atomic_load(&core(0)->sleeping), 0);
	cr_assert_eq(thmq_poll(env, 0), 1);
}

/* Work that comes after the last poll and before the flag is up, for a source that does not tell when it is armed. */
struct late {
	struct thmqi_poller poller; /* first */
	struct thmq_core *core;
	bool has_work, gives_work;
	uint32_t done;
};

static int late_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct late *l = (struct late *)p;
	int done = l->has_work;

	(void)budget;
	l->has_work = false;
	l->done += (uint32_t)done;
	return done;
}

static void late_finish(struct thmqi_poller *p)
{
	struct late *l = (struct late *)p;

	if (!l->gives_work)
		return;
	l->gives_work = false;
	l->has_work = true;
	thmqi_core_kick(l->core); /* it does not sleep yet: no wake-up */
}

Test(reactor_mates, arming_looks_once_more_at_sources_that_do_not_tell)
{
	struct late l = {.poller = {.poll = late_poll, .finish = late_finish}};

	attach_all();
	for (uint32_t i = 0; i < CORES; i++) {
		l.core = core(i);
		thmqi_core_add_poller(l.core, &l.poller);
		while (thmq_poll(env, 0) > 0)
			;
		l.gives_work = true;
		cr_assert_eq(thmq_env_arm(env), 1, "core %u", i);
		cr_assert_eq(l.done, i + 1);
		thmqi_core_remove_poller(l.core, &l.poller);
	}
}

/* ----------------------------------------------------------------- callbacks */

static void run_wishes(struct thmq_core *c, struct thmqi_task *task)
{
	struct counted *w = thmqi_container(task, struct counted, task);
	int x = 0;

	w->runs++;
	w->attach_result = thmqi_core_attach(env, CORES - 1);
	w->call_result = thmqi_core_call(core(0), one, &x, 0);
	cr_assert_eq(thmqi_core_detach(env), -EDEADLK);
	cr_assert_eq(thmq_poll(env, 0), -EDEADLK);
	cr_assert_eq(thmqi_core_poll(c, 0), -EDEADLK);
	cr_assert_eq(x, 0);
}

Test(reactor_mates, no_callback_of_any_of_them_may_wait_or_change_them)
{
	for (uint32_t i = 0; i < CORES - 1; i++) {
		struct counted w = {.task.run = run_wishes};

		cr_assert_eq(thmqi_core_attach(env, i), 0);
		thmqi_core_post(core(i), &w.task);
		cr_assert_eq(thmq_poll(env, 0), 1);
		cr_assert_eq(w.runs, 1);
		cr_assert_eq(w.attach_result, -EDEADLK);
		cr_assert_eq(w.call_result, -EDEADLK);
	}
}

/* ------------------------------------------------------------------ giving up */

static void *take_two(void *arg)
{
	int x = 0;

	(void)arg;
	cr_assert_eq(thmqi_core_attach(env, 1), 0);
	cr_assert_eq(thmqi_core_attach(env, 3), 0);
	cr_assert_eq(thmqi_core_attach(env, 0), 0);
	cr_assert_eq(thmqi_core_call(core(3), one, &x, 0), 1);
	cr_assert_eq(thmqi_core_call(core(2), one, &x, 0), -EDEADLK);
	cr_assert_geq(thmq_poll(env, 0), 0);
	cr_assert_eq(thmqi_core_detach(env), 0);
	return NULL;
}

Test(reactor_mates, detaching_gives_all_of_them_up_and_another_thread_takes_some)
{
	pthread_t thread;

	for (int round = 0; round < 3; round++) {
		attach_all();
		cr_assert_geq(thmq_env_fd(env), 0);
		cr_assert_eq(thmqi_core_detach(env), 0);
		cr_assert_null(thmqi_core_mine(env));
		cr_assert_eq(thmqi_core_detach(env), -EPERM);
		cr_assert_eq(pthread_create(&thread, NULL, take_two, NULL), 0);
		pthread_join(thread, NULL);
	}
	cr_assert_eq(thmqi_core_attach(env, 2), 0);
	cr_assert_eq(thmq_poll(env, 0), 0);
}
