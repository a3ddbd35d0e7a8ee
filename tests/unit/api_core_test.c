/* SPDX-License-Identifier: Apache-2.0 */
/* api_core_test.c - the public face of cores: calls, tasks, timers, pollers, and logs that are opened on them by nothing else. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#define MS 1000000ull
#define SECOND 1000000000ull

static struct thmq_env *open_env(uint32_t core_count, uint32_t caller_cores)
{
	struct thmq_env *env;

	cr_assert_eq(
		thmq_env_open(&env,
			      THMQ_ENV_OPTS(.core_count = core_count, .caller_cores = caller_cores,
					    .policy = THMQ_POLICY_EVENT, .flags = THMQ_ENV_NO_PIN)),
		0, "%s", thmq_errmsg());
	return env;
}

static void on_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, fn, arg), 0);
	pthread_join(thread, NULL);
}

TestSuite(api_core, .timeout = 30);

/* -------------------------------------------------------------------- cores */

static void *not_mine(void *arg)
{
	*(int *)arg = thmq_core_is_mine(*(struct thmq_core **)((int *)arg + 2));
	return NULL;
}

Test(api_core, a_core_is_the_same_each_time_and_belongs_to_one_thread)
{
	struct thmq_env *env = open_env(0, 2);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct {
		int mine, pad;
		struct thmq_core *core;
	} other = {.mine = 7, .core = core};

	cr_assert(core);
	cr_assert_eq(thmq_env_core(env, 0), core);
	cr_assert_neq(thmq_env_core(env, 1), core);
	cr_assert_eq(thmq_core_is_mine(core), 1);
	cr_assert_eq(thmq_core_is_mine(thmq_env_core(env, 1)), 0);
	on_thread(not_mine, &other);
	cr_assert_eq(other.mine, 0);
	cr_assert_eq(thmq_env_close(env, 0), 0);
}

Test(api_core, a_core_that_is_not_there_is_none_and_the_text_says_why)
{
	struct thmq_env *env = open_env(0, 2);

	cr_assert_null(thmq_env_core(env, 2));
	cr_assert(strstr(thmq_errmsg(), "has 2"));
	cr_assert_null(thmq_env_core(NULL, 0));
	cr_assert_eq(thmq_core_is_mine(NULL), 0);
	cr_assert_eq(thmq_env_close(env, 0), 0);
}

/* -------------------------------------------------------------------- calls */

static int add_one(struct thmq_core *core, void *arg)
{
	cr_assert_eq(thmq_core_is_mine(core), 1);
	++*(int *)arg;
	return 42;
}

Test(api_core, a_call_runs_on_its_core_and_brings_its_value)
{
	struct thmq_env *own = open_env(0, 1), *threads = open_env(2, 0);
	int count = 0;

	cr_assert_eq(thmq_core_call(thmq_env_core(own, 0), add_one, &count, 0), 42);
	cr_assert_eq(thmq_core_call(thmq_env_core(threads, 0), add_one, &count, SECOND), 42);
	cr_assert_eq(thmq_core_call(thmq_env_core(threads, 1), add_one, &count, SECOND), 42);
	cr_assert_eq(count, 3);
	cr_assert_eq(thmq_core_call(NULL, add_one, &count, 0), -EINVAL);
	cr_assert_eq(thmq_core_call(thmq_env_core(own, 0), NULL, &count, 0), -EINVAL);
	thmq_env_close(threads, 0);
	thmq_env_close(own, 0);
}

static void *call_asleep(void *arg)
{
	struct thmq_core *core = arg;
	int count = 0;

	return (void *)(intptr_t)(thmq_core_call(core, add_one, &count, 20 * MS) - count);
}

Test(api_core, a_call_of_a_core_that_nobody_drives_does_not_wait_for_ever)
{
	struct thmq_env *env = open_env(0, 2);
	pthread_t thread;
	int count = 0;
	void *rc;

	cr_assert_eq(thmq_core_call(thmq_env_core(env, 1), add_one, &count, SECOND), -EDEADLK);
	/* it has an owner, who is elsewhere for longer than the caller waits */
	cr_assert_eq(pthread_create(&thread, NULL, call_asleep, thmq_env_core(env, 0)), 0);
	pthread_join(thread, &rc);
	cr_assert_eq((intptr_t)rc, -ETIMEDOUT);
	thmq_poll(env, 0);
	cr_assert_eq(count, 0);
	thmq_env_close(env, 0);
}

static int call_again(struct thmq_core *core, void *arg)
{
	return thmq_core_call(core, add_one, arg, SECOND);
}

Test(api_core, a_call_from_within_a_callback_is_refused)
{
	struct thmq_env *env = open_env(1, 0);
	int count = 0;

	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), call_again, &count, SECOND), -EDEADLK);
	cr_assert_eq(count, 0);
	thmq_env_close(env, 0);
}

/* -------------------------------------------------------------------- tasks */

struct numbered {
	struct thmq_task task;
	uint32_t number, *next, again;
};

static void run_numbered(struct thmq_core *core, struct thmq_task *task)
{
	struct numbered *n = (struct numbered *)task;

	cr_assert_eq(thmq_core_is_mine(core), 1);
	cr_assert_eq(n->number, *n->next);
	++*n->next;
	if (n->again) {
		n->again--;
		n->number = *n->next;
		cr_assert_eq(thmq_core_post(core, task), 0);
	}
}

Test(api_core, tasks_run_later_in_their_order_and_may_post_themselves_again)
{
	struct thmq_env *env = open_env(0, 1);
	struct numbered n[3];
	uint32_t next = 0, i;

	for (i = 0; i < 3; i++) {
		n[i] = (struct numbered){.task.run = run_numbered,
					 .number = i,
					 .next = &next,
					 .again = i == 2 ? 5 : 0};
		cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), &n[i].task), 0);
	}
	cr_assert_eq(next, 0, "never inside the call that posts it");
	for (i = 0; i < 10; i++)
		thmq_poll(env, 0);
	cr_assert_eq(next, 8);
	thmq_env_close(env, 0);
}

static void run_flag(struct thmq_core *core, struct thmq_task *task)
{
	(void)core;
	atomic_store((_Atomic int *)(task + 1), 1);
}

Test(api_core, a_task_wakes_a_core_that_sleeps)
{
	struct thmq_env *env = open_env(1, 0);
	struct {
		struct thmq_task task;
		_Atomic int flag;
	} t = {.task.run = run_flag};

	usleep(20000); /* it sleeps by now */
	cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), &t.task), 0);
	while (!atomic_load(&t.flag))
		usleep(100);
	thmq_env_close(env, 0);
}

Test(api_core, what_was_posted_runs_before_the_environment_has_closed)
{
	struct thmq_env *env = open_env(0, 1);
	struct {
		struct thmq_task task;
		_Atomic int flag;
	} t = {.task.run = run_flag};

	cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), &t.task), 0);
	thmq_env_close(env, 0);
	cr_assert_eq(t.flag, 1);
}

Test(api_core, a_task_without_a_function_or_a_core_is_refused)
{
	struct thmq_env *env = open_env(0, 1);
	struct thmq_task t = {0};

	cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), &t), -EINVAL);
	cr_assert_eq(thmq_core_post(thmq_env_core(env, 0), NULL), -EINVAL);
	t.run = run_flag;
	cr_assert_eq(thmq_core_post(NULL, &t), -EINVAL);
	cr_assert_eq(thmq_core_kick(NULL), -EINVAL);
	thmq_env_close(env, 0);
}

/* ------------------------------------------------------------------- timers */

struct alarm {
	struct thmq_timer timer; /* first */
	uint32_t fired, again;
	uint64_t period_ns;
	int64_t fired_ns;
};

static void on_alarm(struct thmq_core *core, struct thmq_timer *timer)
{
	struct alarm *a = (struct alarm *)timer;

	a->fired++;
	a->fired_ns = thmq_core_now_ns(core);
	cr_assert_eq(thmq_timer_stop(timer), 0, "it runs no more when it fires");
	if (a->again) {
		a->again--;
		cr_assert_eq(thmq_timer_start(core, timer, timer->deadline_ns + a->period_ns), 0);
	}
}

Test(api_core, a_timer_fires_once_and_again_for_a_period)
{
	struct thmq_env *env = open_env(0, 1);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct alarm once = {.timer.fire = on_alarm};
	struct alarm period = {.timer.fire = on_alarm, .again = 4, .period_ns = MS};
	uint64_t begin = (uint64_t)thmq_core_now_ns(core);

	cr_assert_eq(thmq_timer_start(core, &once.timer, begin + 2 * MS), 0);
	cr_assert_eq(thmq_timer_start(core, &period.timer, begin + MS), 0);
	while (!once.fired || period.fired < 5)
		cr_assert_gt(thmq_poll(env, SECOND), 0);
	cr_assert_eq(once.fired, 1);
	cr_assert_geq((uint64_t)once.fired_ns, begin + 2 * MS);
	cr_assert_eq(period.timer.deadline_ns, begin + 5 * MS, "it does not drift");
	cr_assert_geq((uint64_t)thmq_core_now_ns(core), begin + 5 * MS);
	cr_assert_eq(thmq_poll(env, 2 * MS), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(api_core, a_timer_is_moved_and_stopped)
{
	struct thmq_env *env = open_env(0, 1);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct alarm a = {.timer.fire = on_alarm};

	cr_assert_eq(thmq_timer_stop(NULL), 0);
	cr_assert_eq(thmq_timer_stop(&a.timer), 0);
	cr_assert_eq(thmq_timer_start(core, &a.timer, 1), 0);
	cr_assert_eq(thmq_timer_start(core, &a.timer, UINT64_MAX), 0);
	cr_assert_eq(thmq_poll(env, 2 * MS), 0);
	cr_assert_eq(thmq_timer_stop(&a.timer), 1);
	cr_assert_eq(thmq_timer_stop(&a.timer), 0);
	cr_assert_eq(thmq_timer_start(core, &a.timer, 1), 0);
	cr_assert_eq(thmq_timer_stop(&a.timer), 1);
	cr_assert_eq(thmq_poll(env, 2 * MS), 0);
	cr_assert_eq(a.fired, 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

struct stranger {
	struct thmq_core *core;
	struct alarm *alarm;
	int64_t now;
	int start, stop;
};

static void *strange(void *arg)
{
	struct stranger *s = arg;

	s->now = thmq_core_now_ns(s->core);
	s->start = thmq_timer_start(s->core, &s->alarm->timer, 1);
	s->stop = thmq_timer_stop(&s->alarm->timer);
	return NULL;
}

Test(api_core, timers_are_their_cores_owners_business)
{
	struct thmq_env *env = open_env(0, 1), *other = open_env(0, 1);
	struct thmq_core *core = thmq_env_core(env, 0), *second = thmq_env_core(other, 0);
	struct alarm a = {.timer.fire = on_alarm}, none = {.fired = 0};
	struct stranger s = {.core = core, .alarm = &a};

	cr_assert_eq(thmq_core_now_ns(NULL), -EINVAL);
	cr_assert_eq(thmq_timer_start(NULL, &a.timer, 1), -EINVAL);
	cr_assert_eq(thmq_timer_start(core, NULL, 1), -EINVAL);
	cr_assert_eq(thmq_timer_start(core, &none.timer, 1), -EINVAL);
	cr_assert_eq(thmq_timer_start(core, &a.timer, UINT64_MAX), 0);
	on_thread(strange, &s);
	cr_assert_eq(s.now, -EPERM);
	cr_assert_eq(s.start, -EPERM);
	cr_assert_eq(s.stop, -EPERM);
	cr_assert_eq(a.timer.deadline_ns, UINT64_MAX, "a failed call changes nothing");
	cr_assert_eq(thmq_timer_start(second, &a.timer, 1), -EBUSY);
	cr_assert_eq(thmq_timer_stop(&a.timer), 1);
	cr_assert_eq(thmq_timer_start(second, &a.timer, 1), 0);
	cr_assert_eq(thmq_poll(env, 0), 0);
	cr_assert_eq(thmq_poll(other, 0), 1);
	cr_assert_eq(a.fired, 1);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_env_close(other, SECOND), 0);
}

Test(api_core, a_timer_that_runs_when_the_environment_closes_is_stopped)
{
	struct alarm a = {.timer.fire = on_alarm}, due = {.timer.fire = on_alarm},
		     never = {.timer.fire = on_alarm};
	struct thmq_env *env = open_env(0, 1);
	struct thmq_core *core = thmq_env_core(env, 0);

	cr_assert_eq(
		thmq_timer_start(core, &a.timer, (uint64_t)thmq_core_now_ns(core) + 3600 * SECOND),
		0);
	cr_assert_eq(thmq_timer_start(core, &never.timer, UINT64_MAX), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_timer_stop(&a.timer), 0);
	cr_assert_eq(thmq_timer_stop(&never.timer), 0);
	env = open_env(0, 1);
	core = thmq_env_core(env, 0);
	cr_assert_eq(thmq_timer_start(core, &a.timer, 1), 0, "and may be used again");
	cr_assert_eq(thmq_poll(env, 0), 1);
	cr_assert_eq(thmq_timer_start(core, &due.timer, 1), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_timer_stop(&due.timer), 0);
}

static int start_on_core(struct thmq_core *core, void *arg)
{
	return thmq_timer_start(core, arg, (uint64_t)thmq_core_now_ns(core) + 5 * MS);
}

static int fired_on_core(struct thmq_core *core, void *arg)
{
	(void)core;
	return (int)((struct alarm *)arg)->fired;
}

Test(api_core, a_timer_wakes_a_core_of_the_librarys_own)
{
	struct thmq_env *env = open_env(1, 0);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct alarm a = {.timer.fire = on_alarm};
	uint32_t i;

	cr_assert_eq(thmq_core_call(core, start_on_core, &a, SECOND), 0);
	usleep(20000);
	for (i = 0; i < 500 && thmq_core_call(core, fired_on_core, &a, SECOND) != 1; i++)
		usleep(10000);
	cr_assert_lt(i, 500u);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

/* ------------------------------------------------------------------ pollers */

struct source {
	struct thmq_poller *poller;
	_Atomic uint32_t work;
	uint32_t done, polls, arms, disarms, finishes, ends;
	bool close_in_poll;
};

static int source_poll(void *ctx, uint32_t budget)
{
	struct source *s = ctx;
	uint32_t n = atomic_load(&s->work);

	s->polls++;
	n = n < budget ? n : budget;
	atomic_fetch_sub(&s->work, n);
	s->done += n;
	if (s->close_in_poll)
		cr_assert_eq(thmq_poller_close(s->poller), 0);
	return (int)n;
}

static int source_arm(void *ctx)
{
	struct source *s = ctx;

	s->arms++;
	return atomic_load(&s->work) != 0;
}

static void source_disarm(void *ctx)
{
	((struct source *)ctx)->disarms++;
}

static void source_finish(void *ctx)
{
	((struct source *)ctx)->finishes++;
}

static void source_end(void *ctx)
{
	((struct source *)ctx)->ends++;
}

static const struct thmq_poller_ops source_ops = {.size = sizeof(source_ops),
						  .poll = source_poll,
						  .arm = source_arm,
						  .disarm = source_disarm,
						  .finish = source_finish,
						  .end = source_end};

Test(api_core, a_poller_is_called_in_each_iteration_until_it_closes)
{
	struct thmq_env *env = open_env(0, 1);
	struct source s = {.work = 3};

	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 0), &source_ops, &s, &s.poller), 0);
	cr_assert_eq(thmq_poll(env, 0), 3);
	cr_assert_eq(s.done, 3);
	cr_assert_geq(s.finishes, 1);
	cr_assert_eq(thmq_poll(env, 0), 0);
	cr_assert_eq(s.polls, 2);
	cr_assert_eq(thmq_poll(env, 2 * MS), 0);
	cr_assert_geq(s.arms, 1);
	cr_assert_eq(s.arms, s.disarms);
	cr_assert_eq(thmq_poller_close(s.poller), 0);
	s.polls = 0;
	thmq_poll(env, 0);
	cr_assert_eq(s.polls, 0);
	cr_assert_eq(s.ends, 0);
	cr_assert_eq(thmq_poller_close(NULL), 0);
	thmq_env_close(env, 0);
}

Test(api_core, a_poller_may_close_itself_and_the_next_ones_are_called_all_the_same)
{
	struct thmq_env *env = open_env(0, 1);
	struct source a = {.close_in_poll = true}, b = {.work = 1};

	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 0), &source_ops, &a, &a.poller), 0);
	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 0), &source_ops, &b, &b.poller), 0);
	cr_assert_eq(thmq_poll(env, 0), 1);
	thmq_poll(env, 0);
	cr_assert_eq(a.polls, 1);
	cr_assert_eq(b.polls, 2);
	thmq_env_close(env, 0);
	cr_assert_eq(a.ends, 0);
	cr_assert_eq(b.ends, 1, "closed with its environment");
}

static int open_source(struct thmq_core *core, void *arg)
{
	struct source *s = arg;

	return thmq_poller_open(core, &source_ops, s, &s->poller);
}

static int close_source(struct thmq_core *core, void *arg)
{
	(void)core;
	return thmq_poller_close(((struct source *)arg)->poller);
}

Test(api_core, a_kick_brings_a_sleeping_core_to_its_poller)
{
	struct thmq_env *env = open_env(1, 0);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct source s = {0};
	uint32_t i;

	cr_assert_eq(thmq_core_call(core, open_source, &s, SECOND), 0);
	for (i = 0; i < 50; i++) {
		usleep(i % 5 * 500); /* awake or asleep */
		atomic_store(&s.work, 1);
		cr_assert_eq(thmq_core_kick(core), 0);
		while (atomic_load(&s.work))
			usleep(50);
	}
	cr_assert_eq(thmq_core_call(core, close_source, &s, SECOND), 0);
	cr_assert_eq(s.done, 50);
	thmq_env_close(env, 0);
}

/* --------------------------------------------------------------- duty cycle */

static int slow_poll(void *ctx, uint32_t budget)
{
	(void)budget;
	usleep(*(uint32_t *)ctx);
	return *(uint32_t *)ctx != 0;
}

Test(api_core, a_slow_poller_is_found_by_its_name)
{
	struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = slow_poll};
	struct thmq_core_stats st = {.size = sizeof(st)};
	struct thmq_env *env = open_env(0, 1);
	struct thmq_core *core = thmq_env_core(env, 0);
	char name[] = "a poller whose name is longer than what is kept of it";
	struct thmq_poller *poller;
	uint32_t us = 20000;

	ops.name = name;
	cr_assert_eq(thmq_poller_open(core, &ops, &us, &poller), 0);
	memset(name, 'x', sizeof(name) - 1); /* it was copied */
	cr_assert_eq(thmq_poll(env, 0), 1);
	cr_assert_eq(thmq_core_stats(core, &st), 0);
	cr_assert_geq(st.longest_ns, 20 * MS);
	cr_assert_str_eq(st.longest_poller, "", "not measured in detail");
	cr_assert_eq(thmq_core_stats_detail(core, 1), 0);
	cr_assert_eq(thmq_core_stats_reset(core, 0), 0);
	us = 10000;
	cr_assert_eq(thmq_poll(env, 0), 1);
	us = 0;
	cr_assert_eq(thmq_poll(env, MS), 0);
	cr_assert_eq(thmq_core_stats(core, &st), 0);
	cr_assert_eq(st.size, sizeof(st));
	cr_assert_eq(st.core_index, 0);
	cr_assert_eq(st.detailed, 1);
	cr_assert_eq(st.busy_iterations, 1);
	cr_assert_geq(st.longest_ns, 10 * MS);
	cr_assert_geq(st.longest_phase_ns[THMQ_PHASE_POLLERS], 10 * MS);
	cr_assert_str_eq(st.longest_poller, "a poller whose name is longer t");
	cr_assert_gt(st.slept_ns, 0);
	cr_assert_eq(thmq_poller_close(poller), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

Test(api_core, statistics_of_a_core_say_what_they_cannot_do)
{
	struct thmq_env *env = open_env(0, 2), *threaded = open_env(1, 0);
	struct thmq_core *second = thmq_env_core(env, 1);
	struct {
		struct thmq_core_stats stats;
		uint64_t more;
	} st;

	memset(&st, 0x5a, sizeof(st));
	st.stats.size = 0;
	cr_assert_eq(thmq_core_stats(NULL, &st.stats), -EINVAL);
	cr_assert_eq(thmq_core_stats(second, NULL), -EINVAL);
	cr_assert_eq(thmq_core_stats(second, &st.stats), -EINVAL);
	cr_assert_eq(thmq_core_stats_detail(NULL, 1), -EINVAL);
	cr_assert_eq(thmq_core_stats_reset(NULL, 0), -EINVAL);
	cr_assert_eq(thmq_core_stats_reset(second, 0), -EDEADLK, "nobody drives it");
	st.stats.size = 16;
	cr_assert_eq(thmq_core_stats(second, &st.stats), 0, "a core without an owner has some too");
	cr_assert_gt(st.stats.counted_ns, 0);
	cr_assert_eq(st.stats.busy_ns, 0x5a5a5a5a5a5a5a5aull, "no more than the caller knows of");
	st.stats.size = sizeof(st);
	cr_assert_eq(thmq_core_stats(second, &st.stats), 0);
	cr_assert_eq(st.more, 0);
	cr_assert_geq(st.stats.away_ns, st.stats.counted_ns / 2);
	cr_assert_eq(thmq_core_stats_reset(thmq_env_core(threaded, 0), SECOND), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
	cr_assert_eq(thmq_env_close(threaded, SECOND), 0);
}

Test(api_core, pollers_are_their_cores_owners_business_and_need_a_poll)
{
	struct thmq_env *env = open_env(1, 0), *own = open_env(0, 1);
	struct thmq_poller_ops ops = {.size = sizeof(ops)};
	struct {
		struct thmq_poller_ops ops;
		uint64_t excess;
	} larger = {.ops = source_ops};
	struct source s = {0};

	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 0), &source_ops, &s, &s.poller), -EPERM);
	cr_assert_eq(thmq_poller_open(thmq_env_core(own, 0), &ops, &s, &s.poller), -EINVAL);
	cr_assert_eq(thmq_poller_open(thmq_env_core(own, 0), NULL, &s, &s.poller), -EINVAL);
	cr_assert_eq(thmq_poller_open(NULL, &source_ops, &s, &s.poller), -EINVAL);
	cr_assert_eq(thmq_poller_open(thmq_env_core(own, 0), &source_ops, &s, NULL), -EINVAL);
	larger.ops.size = sizeof(larger);
	larger.excess = 1;
	cr_assert_eq(thmq_poller_open(thmq_env_core(own, 0), &larger.ops, &s, &s.poller), -E2BIG);
	cr_assert_null(s.poller);
	larger.excess = 0;
	cr_assert_eq(thmq_poller_open(thmq_env_core(own, 0), &larger.ops, &s, &s.poller), 0);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), close_source, &s, SECOND), -EPERM);
	cr_assert_eq(thmq_poller_close(s.poller), 0);
	thmq_env_close(env, 0);
	thmq_env_close(own, 0);
}

/* --------------------------------------------------------------------- logs */

struct owner {
	struct thmq_log *log;
	const char *dir;
	_Atomic uint64_t durable;
	uint64_t index;
	uint32_t flags, replayed;
	int rc;
};

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	((struct owner *)ctx)->replayed += run->header->encoding == THMQ_RUN_OPAQUE;
	return 0;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_DURABLE)
		atomic_store(&((struct owner *)ctx)->durable, index);
}

static const struct thmq_log_events events = {
	.size = sizeof(events), .replay = on_replay, .settled = on_settled};

static int open_log(struct thmq_core *core, void *arg)
{
	struct owner *o = arg;

	o->rc = thmq_log_open(core,
			      THMQ_LOG_OPTS(.dir = o->dir, .flags = o->flags, .events = &events,
					    .ctx = o, .segment_bytes_min = 1u << 20),
			      &o->log);
	return o->rc;
}

static int append_one(struct thmq_core *core, void *arg)
{
	struct owner *o = arg;
	struct thmq_run_header *run;
	uint64_t begin, end = 0;

	(void)core;
	thmq_log_bounds(o->log, 1, &begin, &end);
	o->rc = thmq_log_append(o->log, sizeof(*run) + 5, &run, &o->index);
	if (o->rc)
		return o->rc;
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, end, 1, 5);
	memcpy(run + 1, "hello", 5);
	return thmq_log_append_end(o->log, run, THMQ_DURABILITY_DURABLE);
}

static int close_log(struct thmq_core *core, void *arg)
{
	(void)core;
	return thmq_log_close(((struct owner *)arg)->log, SECOND);
}

static char *make_dir(void)
{
	static char dir[] = "api-core-XXXXXX";

	cr_assert(mkdtemp(dir));
	return dir;
}

static void remove_dir(const char *dir)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -r %s", dir);
	cr_assert_eq(system(command), 0);
}

Test(api_core, a_log_lives_on_a_core_of_the_library)
{
	struct thmq_env *env = open_env(1, 0);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct owner o = {.dir = make_dir()};

	cr_assert_eq(open_log(core, &o), -EPERM, "this thread does not drive it");
	cr_assert(strstr(thmq_errmsg(), "drives"));
	cr_assert_eq(thmq_core_call(core, open_log, &o, SECOND), 0);
	cr_assert_eq(thmq_core_call(core, append_one, &o, SECOND), 0);
	while (atomic_load(&o.durable) < o.index)
		usleep(100);
	cr_assert_eq(thmq_core_call(core, close_log, &o, SECOND), 0);
	cr_assert_eq(thmq_core_call(core, open_log, &o, SECOND), 0);
	cr_assert_eq(o.replayed, 1);
	cr_assert_eq(thmq_core_call(core, close_log, &o, SECOND), 0);
	thmq_env_close(env, 0);
	remove_dir(o.dir);
}

static int no_foreigner(void *ctx, const struct thmq_log_finding *finding)
{
	(void)ctx;
	return finding->kind == THMQ_FINDING_FOREIGN ? -EEXIST : 0;
}

Test(api_core, a_log_has_one_owner_at_a_time)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = no_foreigner};
	struct thmq_env *env = open_env(0, 1), *other = open_env(0, 1);
	struct owner o = {.dir = make_dir()}, second = {.dir = o.dir};
	char pid[32];

	cr_assert_eq(open_log(thmq_env_core(env, 0), &o), 0, "%s", thmq_errmsg());
	cr_assert_eq(open_log(thmq_env_core(other, 0), &second), -EBUSY);
	snprintf(pid, sizeof(pid), "process %d ", (int)getpid());
	cr_assert(strstr(thmq_errmsg(), pid), "%s", thmq_errmsg());
	cr_assert_null(second.log);
	cr_assert_eq(append_one(NULL, &o), 0);
	cr_assert_eq(thmq_log_close(o.log, 0), 0);
	cr_assert_eq(thmq_log_scan(o.dir, &visitor, NULL), 0, "the lock belongs there");
	cr_assert_eq(open_log(thmq_env_core(other, 0), &second), 0);
	cr_assert_eq(second.replayed, 1);
	cr_assert_eq(thmq_log_close(second.log, 0), 0);
	thmq_env_close(env, 0);
	thmq_env_close(other, 0);
	remove_dir(o.dir);
}

static int append_at(struct owner *o, uint32_t partition, uint64_t offset, uint32_t durability)
{
	struct thmq_run_header *run;

	cr_assert_eq(thmq_log_append(o->log, sizeof(*run) + 8, &run, &o->index), 0);
	thmq_run_init(run, THMQ_RUN_OPAQUE, partition, offset, 2, 8);
	memset(run + 1, 7, 8);
	return thmq_log_append_end(o->log, run, durability);
}

Test(api_core, a_run_whose_offsets_do_not_rise_is_refused)
{
	struct thmq_env *env = open_env(0, 1);
	struct owner o = {.dir = make_dir()};
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	uint64_t begin, end;

	for (int again = 0; again < 2; again++) { /* then as it comes back */
		cr_assert_eq(open_log(thmq_env_core(env, 0), &o), 0);
		if (!again) {
			cr_assert_eq(append_at(&o, 1, 10, THMQ_DURABILITY_DURABLE), 0);
			cr_assert_eq(append_at(&o, 1, 12, THMQ_DURABILITY_DURABLE), 0);
		}
		cr_assert_eq(append_at(&o, 1, 13, THMQ_DURABILITY_DURABLE), -EINVAL, "it was covered");
		cr_assert_eq(append_at(&o, 1, 5, THMQ_DURABILITY_DURABLE), -EINVAL);
		cr_assert_eq(append_at(&o, 2, 5, THMQ_DURABILITY_DURABLE + 1), -EINVAL);
		cr_assert_eq(append_at(&o, 2, 5, 9), -EINVAL);
		cr_assert_eq(thmq_log_append_end(o.log, NULL, THMQ_DURABILITY_DURABLE), -EINVAL, "none was begun");
		cr_assert_eq(thmq_log_stats(o.log, &stats), 0);
		cr_assert_eq(stats.runs, again ? 0 : 2);
		cr_assert_eq(thmq_log_bounds(o.log, 1, &begin, &end), 0);
		cr_assert_eq(begin, 10);
		cr_assert_eq(end, 14);
		cr_assert_eq(thmq_log_close(o.log, SECOND), 0);
	}
	cr_assert_eq(o.replayed, 2, "%u", o.replayed);
	thmq_env_close(env, 0);
	remove_dir(o.dir);
}

/* ------------------------------------------------------------ where it may be */

static uint32_t count_entries(const char *dir)
{
	DIR *d = opendir(dir);
	uint32_t count = 0;

	cr_assert(d);
	while (readdir(d))
		count++;
	closedir(d);
	return count - 2;
}

Test(api_core, a_log_is_not_made_among_other_things)
{
	struct thmq_env *env = open_env(0, 1);
	struct owner o = {.dir = make_dir()};
	char path[64];

	snprintf(path, sizeof(path), "%s/letter", o.dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	cr_assert_eq(open_log(thmq_env_core(env, 0), &o), -ENOTEMPTY);
	cr_assert(strstr(thmq_errmsg(), "letter") && strstr(thmq_errmsg(), "empty directory"), "%s", thmq_errmsg());
	cr_assert_eq(count_entries(o.dir), 1);
	unlink(path);
	cr_assert_eq(open_log(thmq_env_core(env, 0), &o), 0);
	cr_assert_eq(thmq_log_close(o.log, 0), 0);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	cr_assert_eq(open_log(thmq_env_core(env, 0), &o), 0, "it was a log before");
	thmq_env_close(env, 0);
	remove_dir(o.dir);
}

Test(api_core, a_limit_that_is_too_small_leaves_no_directory)
{
	struct thmq_env *env = open_env(0, 1);
	char *dir = make_dir();
	struct thmq_broker *broker = NULL;
	struct thmq_log *log = NULL;

	for (int round = 0; round < 2; round++) {
		cr_assert_eq(thmq_log_open(thmq_env_core(env, 0),
					   THMQ_LOG_OPTS(.dir = dir, .segment_bytes_max = 1u << 20, .limit_bytes = 4095u << 10), &log),
			     -EINVAL);
		cr_assert(strstr(thmq_errmsg(), "4194304"), "%s", thmq_errmsg());
		cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .limit_bytes = 1u << 20), &broker), -EINVAL);
		cr_assert(strstr(thmq_errmsg(), "4294967296"), "%s", thmq_errmsg());
		if (round == 0) {
			cr_assert_eq(count_entries(dir), 0);
			cr_assert_eq(rmdir(dir), 0);
		}
		cr_assert_eq(access(dir, F_OK) == 0, false);
	}
	thmq_env_close(env, 0);
}

static int open_quietly(struct thmq_env *env, const char *dir, const char *name)
{
	struct thmq_log *log = NULL;
	char path[64];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	rc = thmq_log_open(thmq_env_core(env, 0), THMQ_LOG_OPTS(.dir = path), &log);
	if (rc == 0)
		thmq_log_close(log, 0);
	return rc;
}

Test(api_core, the_logs_of_an_open_broker_are_its_own)
{
	struct thmq_env *env = open_env(0, 1), *other = open_env(0, 1);
	struct thmq_broker *broker = NULL;
	char *dir = make_dir(), pid[32], path[64];

	snprintf(pid, sizeof(pid), "process %d ", (int)getpid());
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir), &broker), 0, "%s", thmq_errmsg());
	cr_assert_eq(open_quietly(other, dir, "shard-000"), -EBUSY);
	cr_assert(strstr(thmq_errmsg(), pid), "%s", thmq_errmsg());
	cr_assert_eq(open_quietly(other, dir, "meta"), -EBUSY);
	cr_assert_eq(open_quietly(other, dir, "."), -ENOTEMPTY);
	cr_assert(strstr(thmq_errmsg(), "thmq_broker_open"), "%s", thmq_errmsg());
	snprintf(path, sizeof(path), "%s/shard-000", dir);
	cr_assert_eq(thmq_log_repair(path, THMQ_LOG_REPAIR_OPTS(.flags = THMQ_REPAIR_WRITE), NULL, NULL), -EBUSY);
	cr_assert_eq(thmq_broker_close(broker, SECOND), 0);
	cr_assert_eq(open_quietly(other, dir, "."), -ENOTEMPTY);
	cr_assert_eq(thmq_data_scan(dir, NULL, NULL), 0);
	thmq_env_close(env, 0);
	thmq_env_close(other, 0);
	remove_dir(dir);
}

Test(api_core, a_log_that_was_left_open_is_closed_with_its_environment)
{
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct owner o = {.dir = make_dir()};
	uint32_t i;

	for (i = 0; i < 4; i++) {
		struct thmq_env *env = open_env(i % 2, i % 2 == 0);

		cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), open_log, &o, SECOND), 0, "%s",
			     thmq_errmsg());
		cr_assert_eq(thmq_log_stats(o.log, &stats), 0);
		cr_assert_eq(stats.unclean, 0);
		cr_assert_eq(o.replayed, i * (i + 1) / 2); /* those of all opens together */
		cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), append_one, &o, SECOND), 0);
		cr_assert_eq(thmq_env_close(env, 0), 0);
	}
	remove_dir(o.dir);
}

Test(api_core, the_pool_may_be_locked_in_memory)
{
	struct thmq_env_stats stats = {.size = sizeof(stats)};
	struct thmq_env *env;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.flags = THMQ_ENV_LOCK_MEMORY)), 0, "%s",
		     thmq_errmsg());
	cr_assert_eq(thmq_env_stats(env, &stats), 0);
	thmq_env_close(env, 0);
}

/* ---------------------------------------------------------------- a bad host */

static int always(void *ctx, uint32_t budget)
{
	(void)ctx;
	(void)budget;
	return 1;
}

Test(api_core, a_poller_that_never_rests_does_not_hold_up_the_close)
{
	const struct thmq_poller_ops busy = {.size = sizeof(busy), .poll = always};
	struct thmq_env *env = open_env(0, 1);
	struct thmq_poller *poller;

	cr_assert_eq(thmq_poller_open(thmq_env_core(env, 0), &busy, NULL, &poller), 0);
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

static void *close_broker(void *arg)
{
	void **of = arg;

	of[1] = (void *)(intptr_t)thmq_broker_close(of[0], 100 * MS);
	return NULL;
}

Test(api_core, a_broker_whose_core_is_not_driven_stays_open_and_can_be_closed_later)
{
	struct thmq_env *env = open_env(0, 1);
	struct thmq_broker *broker;
	void *of[2];

	cr_assert_eq(thmq_broker_open(env, NULL, &broker), 0, "%s", thmq_errmsg());
	of[0] = broker;
	on_thread(close_broker, of); /* while this thread, which owns the core, waits */
	cr_assert_eq((intptr_t)of[1], -EDEADLK);
	cr_assert_eq(thmq_broker_close(broker, SECOND), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}
