/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_env_test.c - the environment: who owns which core, threads of the library, calls between threads. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define MS 1000000ull

static uint32_t count_entries(const char *dir)
{
	DIR *d = opendir(dir);
	uint32_t count = 0;

	while (readdir(d))
		count++;
	closedir(d);
	return count - 2;
}

static uint32_t threads(void)
{
	return count_entries("/proc/self/task");
}

static struct thmq_env *open_cores(uint32_t caller_cores)
{
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = caller_cores,
						  .policy = THMQ_POLICY_EVENT),
				    NULL, &env),
		     0);
	return env;
}

static uint64_t real_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

/* Runs @fn on a thread of its own and waits for it. */
static void on_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, fn, arg), 0);
	pthread_join(thread, NULL);
}

TestSuite(reactor_env, .timeout = 30);

/* -------------------------------------------------------------------- open */

Test(reactor_env, by_default_no_thread_is_made_and_the_opener_owns_core_0)
{
	uint32_t before = threads();
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(NULL, NULL, &env), 0);
	cr_assert_eq(threads(), before);
	cr_assert(thmqi_env_is_caller_driven(env));
	cr_assert_eq(thmqi_env_core_count(env), 1);
	cr_assert_eq(thmqi_core_mine(env), thmqi_env_core(env, 0));
	cr_assert_null(thmqi_env_core(env, 1));
	cr_assert_eq(thmqi_core_poll(thmqi_env_core(env, 0), 0), 0);
	cr_assert_eq(threads(), before, "io_uring's helpers count too");
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, options_out_of_bounds_are_refused_and_open_nothing)
{
	struct thmq_env *env = NULL;
	uint32_t fds = count_entries("/proc/self/fd");

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.policy = 99), NULL, &env), -EINVAL);
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = 1u << 31), NULL, &env), -EINVAL);
	cr_assert_eq(
		thmqi_env_open(THMQ_ENV_OPTS(.core_count = THMQ_CORE_COUNT_MAX + 1), NULL, &env),
		-EINVAL);
	cr_assert_eq(
		thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = THMQ_CORE_COUNT_MAX + 1), NULL, &env),
		-EINVAL);
	cr_assert_null(env);
	cr_assert_neq(strlen(thmq_errmsg()), 0);
	cr_assert_eq(count_entries("/proc/self/fd"), fds);
}

Test(reactor_env, blocks_that_did_not_come_home_are_counted_at_close)
{
	struct thmq_env *env = open_cores(1);
	struct thmqi_buf *a, *b;

	cr_assert_eq(thmqi_buf_alloc(thmqi_env_core(env, 0)->pool, 4096, &a), 0);
	cr_assert_eq(thmqi_buf_alloc(thmqi_env_core(env, 0)->pool, 65536, &b), 0);
	thmqi_buf_unref(a);
	b->owner = THMQI_OWNER_READ;
	cr_assert_eq(thmqi_env_close(env), 1);
	cr_assert_not_null(strstr(thmq_errmsg(), "1 of reads (65536 bytes)"), "%s", thmq_errmsg());
}

Test(reactor_env, what_the_layer_above_hangs_on_is_kept)
{
	struct thmq_env *env = open_cores(1);
	int x;

	cr_assert_null(*thmqi_env_user(env));
	*thmqi_env_user(env) = &x;
	cr_assert_eq(*thmqi_env_user(env), &x);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ----------------------------------------------------------------- threads */

static int whoami(struct thmq_core *core, void *arg)
{
	cr_assert(thmqi_core_is_mine(core));
	*(uint64_t *)arg = thmqi_thread_self();
	return (int)core->index + 100;
}

static int thread_name(struct thmq_core *core, void *arg)
{
	(void)core;
	return pthread_getname_np(pthread_self(), arg, 16);
}

Test(reactor_env, library_threads_drive_their_cores_and_nobody_else_can)
{
	uint32_t before = threads();
	struct thmq_env *env;
	uint64_t who[2];
	char name[16];

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 2), NULL, &env), 0);
	cr_assert_geq(threads(), before + 2);
	cr_assert_null(thmqi_core_mine(env));
	cr_assert_eq(thmqi_core_poll(thmqi_env_core(env, 0), 0), -EPERM);
	cr_assert_eq(thmqi_core_attach(env, 0), -EPERM);
	cr_assert_eq(thmqi_core_detach(env), -EPERM);
	cr_assert_eq(thmqi_core_fd(thmqi_env_core(env, 0)), -EPERM);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 0), whoami, &who[0], UINT64_MAX), 100);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), whoami, &who[1], UINT64_MAX), 101);
	cr_assert_neq(who[0], who[1]);
	cr_assert_neq(who[0], thmqi_thread_self());
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), thread_name, name, UINT64_MAX), 0);
	cr_assert_str_eq(name, "thmq-core-1");
	cr_assert_eq(thmqi_env_close(env), 0);
}

static int cpu_count(struct thmq_core *core, void *arg)
{
	cpu_set_t set;

	(void)core;
	(void)arg;
	return sched_getaffinity(0, sizeof(set), &set) ? -errno : CPU_COUNT(&set);
}

Test(reactor_env, library_threads_are_pinned_unless_told_not_to)
{
	struct thmq_env_stats stats;
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 1), NULL, &env), 0);
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.pinned_cores, 1);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 0), cpu_count, NULL, UINT64_MAX), 1);
	cr_assert_eq(thmqi_env_close(env), 0);
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN), NULL,
				    &env),
		     0);
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.pinned_cores, 0);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 0), cpu_count, NULL, UINT64_MAX),
		     cpu_count(NULL, NULL));
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, library_threads_end_within_milliseconds_under_every_policy)
{
	static const uint32_t policies[] = {THMQ_POLICY_POLL,     THMQ_POLICY_EVENT,
					    THMQ_POLICY_FIXED,    THMQ_POLICY_SKI,
					    THMQ_POLICY_ADAPTIVE, THMQ_POLICY_PREDICTIVE};
	uint32_t before = threads(), i, try;

	for (i = 0; i < THMQI_ARRAY_COUNT(policies); i++) {
		uint64_t shortest = UINT64_MAX;

		for (try = 0; try < 5; try++) { /* the machine may be busy */
			struct thmq_env *env;
			uint64_t start;

			cr_assert_eq(thmqi_env_open(
					     THMQ_ENV_OPTS(.core_count = 2, .policy = policies[i]),
					     NULL, &env),
				     0);
			usleep(5000);
			start = real_ns();
			cr_assert_eq(thmqi_env_close(env), 0);
			shortest = THMQI_MIN(shortest, real_ns() - start);
			cr_assert_eq(threads(), before);
		}
		cr_assert_lt(shortest, 500 * MS);
	}
}

Test(reactor_env, an_idle_core_of_the_library_uses_no_processor)
{
	struct thmq_env_stats before, after;
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_EVENT),
				    NULL, &env),
		     0);
	usleep(20000);
	thmqi_env_stats(env, &before);
	usleep(200000);
	thmqi_env_stats(env, &after);
	cr_assert_eq(after.loops, before.loops);
	cr_assert_eq(after.sleeps, before.sleeps);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* --------------------------------------------------------------- ownership */

struct visit {
	struct thmq_env *env;
	uint32_t index;
	int attached, polled, detached, again;
	bool none_mine;
};

static void *visit(void *arg)
{
	struct visit *v = arg;

	v->none_mine = thmqi_core_mine(v->env) == NULL;
	v->attached = thmqi_core_attach(v->env, v->index);
	v->polled = thmqi_core_poll(thmqi_env_core(v->env, v->index), 0);
	v->again = thmqi_core_attach(v->env, v->index);
	v->detached = thmqi_core_detach(v->env);
	return NULL;
}

Test(reactor_env, a_core_has_one_owner)
{
	struct thmq_env *env = open_cores(2);
	struct visit v = {.env = env, .index = 0};

	on_thread(visit, &v); /* core 0 is the opener's */
	cr_assert(v.none_mine);
	cr_assert_eq(v.attached, -EBUSY);
	cr_assert_eq(v.polled, -EPERM);
	cr_assert_eq(v.detached, -EPERM);
	v.index = 1;
	on_thread(visit, &v);
	cr_assert_eq(v.attached, 0);
	cr_assert_eq(v.polled, 0);
	cr_assert_eq(v.again, 0, "once more is no mistake");
	cr_assert_eq(v.detached, 0);
	v.index = 2;
	cr_assert_eq(thmqi_core_attach(env, 2), -EINVAL);
	cr_assert_eq(thmqi_core_detach(env), 0);
	cr_assert_eq(thmqi_core_detach(env), -EPERM);
	cr_assert_eq(thmqi_core_poll(thmqi_env_core(env, 0), 0), -EPERM);
	cr_assert_eq(thmqi_core_attach(env, 1), 0);
	cr_assert_eq(thmqi_core_mine(env), thmqi_env_core(env, 1));
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, a_thread_may_own_cores_of_several_environments)
{
	struct thmq_env *a = open_cores(1), *b = open_cores(3);
	uint32_t i;

	cr_assert_eq(thmqi_core_detach(b), 0);
	cr_assert_eq(thmqi_core_attach(b, 2), 0);
	for (i = 0; i < 3; i++) {
		cr_assert_eq(thmqi_core_mine(a), thmqi_env_core(a, 0));
		cr_assert_eq(thmqi_core_mine(b), thmqi_env_core(b, 2));
		cr_assert_eq(thmqi_core_poll(thmqi_core_mine(a), 0), 0);
		cr_assert_eq(thmqi_core_poll(thmqi_core_mine(b), 0), 0);
	}
	cr_assert_eq(thmqi_env_close(a), 0);
	cr_assert_eq(thmqi_core_mine(b), thmqi_env_core(b, 2));
	cr_assert_eq(thmqi_env_close(b), 0);
}

struct handover {
	struct thmq_env *env;
	int result;
};

struct read_op {
	struct thmqi_ring_op op; /* first */
	int res;
};

static void on_read(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	(void)flags;
	((struct read_op *)op)->res = res;
}

static int read_one(struct thmq_core *core)
{
	struct read_op r = {.op.done = on_read};
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), rc;
	char byte;

	if (!core->ring)
		return 1;
	rc = thmqi_ring_read(core->ring, fd, -1, NULL, &byte, 1, 0, &r.op);
	if (rc == 0)
		rc = thmqi_core_poll(core, 1000 * MS);
	close(fd);
	return rc < 0 ? rc : r.res;
}

static void *take_over(void *arg)
{
	struct handover *h = arg;

	h->result = thmqi_core_attach(h->env, 0);
	if (h->result == 0)
		h->result = read_one(thmqi_env_core(h->env, 0));
	thmqi_core_detach(h->env);
	return NULL;
}

Test(reactor_env, a_core_that_changes_hands_takes_its_ring_timers_and_wake_ups_along)
{
	struct thmq_env *env = open_cores(1);
	struct thmq_core *core = thmqi_env_core(env, 0);
	struct handover h = {.env = env};
	uint32_t i;

	for (i = 0; i < 3; i++) {
		cr_assert_eq(read_one(core), 1);
		cr_assert_eq(thmqi_core_poll(core, 2 * MS),
			     0); /* the wake-up poll is in the ring now */
		cr_assert_eq(thmqi_core_detach(env), 0);
		on_thread(take_over, &h);
		cr_assert_eq(h.result, 1);
		cr_assert_eq(thmqi_core_attach(env, 0), 0);
	}
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ------------------------------------------------------------------- calls */

static int add_one(struct thmq_core *core, void *arg)
{
	(void)core;
	return ++*(int *)arg;
}

struct nested {
	struct thmq_core *other;
	int result;
};

static int call_on(struct thmq_core *core, void *arg)
{
	struct nested *n = arg;
	int x = 0;

	(void)core;
	n->result = thmqi_core_call(n->other, add_one, &x, UINT64_MAX);
	return x;
}

Test(reactor_env, a_call_on_the_own_core_runs_at_once)
{
	struct thmq_env *env = open_cores(1);
	int x = 6;

	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 0), add_one, &x, 0), 7);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, a_call_on_a_core_without_owner_is_a_deadlock)
{
	struct thmq_env *env = open_cores(2);
	int x = 0;

	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), add_one, &x, UINT64_MAX), -EDEADLK);
	cr_assert_eq(x, 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, a_call_from_within_a_library_core_is_a_deadlock)
{
	struct nested n;
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 2, .flags = THMQ_ENV_NO_PIN), NULL,
				    &env),
		     0);
	n.other = thmqi_env_core(env, 1);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 0), call_on, &n, UINT64_MAX), 0);
	cr_assert_eq(n.result, -EDEADLK);
	cr_assert_eq(thmqi_env_close(env), 0);
}

struct driver {
	struct thmq_env *env;
	_Atomic int ready, stop;
	bool drive;
	uint32_t pause_us; /* after the first task is in */
};

static void *drive(void *arg)
{
	struct driver *d = arg;

	if (thmqi_core_attach(d->env, 1) != 0)
		return NULL;
	atomic_store(&d->ready, 1);
	while (!atomic_load(&d->stop)) {
		if (d->drive)
			thmqi_core_poll(thmqi_env_core(d->env, 1), MS);
		else
			usleep(1000);
	}
	thmqi_core_detach(d->env);
	return NULL;
}

static pthread_t start_driver(struct driver *d)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, drive, d), 0);
	while (!atomic_load(&d->ready))
		usleep(100);
	return thread;
}

static void stop_driver(struct driver *d, pthread_t thread)
{
	atomic_store(&d->stop, 1);
	pthread_join(thread, NULL);
}

Test(reactor_env, a_call_drives_the_callers_own_core_meanwhile)
{
	struct thmq_env *env = open_cores(2);
	struct driver d = {.env = env, .drive = true};
	pthread_t thread = start_driver(&d);
	int x = 0, i;

	for (i = 1; i <= 1000; i++)
		cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), add_one, &x, UINT64_MAX), i);
	cr_assert_gt(thmqi_env_core(env, 0)->loops, 1000);
	stop_driver(&d, thread);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, a_call_that_was_not_begun_in_time_never_runs)
{
	struct thmq_env *env = open_cores(2);
	struct driver d = {.env = env, .drive = false};
	pthread_t thread = start_driver(&d);
	uint64_t start = real_ns();
	int x = 0;

	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), add_one, &x, 20 * MS), -ETIMEDOUT);
	cr_assert_geq(real_ns() - start, 20 * MS);
	stop_driver(&d, thread);
	cr_assert_eq(thmqi_core_detach(env), 0);
	cr_assert_eq(thmqi_core_attach(env, 1), 0);
	thmqi_core_poll(thmqi_env_core(env, 1), 0);
	cr_assert_eq(x, 0);
	cr_assert_eq(thmqi_env_close(env), 0);
}

static int slow(struct thmq_core *core, void *arg)
{
	(void)core;
	usleep(50000);
	return ++*(int *)arg;
}

Test(reactor_env, a_call_that_was_begun_is_waited_for)
{
	struct thmq_env *env = open_cores(2);
	struct driver d = {.env = env, .drive = true};
	pthread_t thread = start_driver(&d);
	int x = 0;

	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), slow, &x, 20 * MS), 1);
	stop_driver(&d, thread);
	cr_assert_eq(thmqi_env_close(env), 0);
}

static void *detach_soon(void *arg)
{
	struct driver *d = arg;

	if (thmqi_core_attach(d->env, 1) != 0)
		return NULL;
	atomic_store(&d->ready, 1);
	usleep(20000);
	thmqi_core_detach(d->env);
	return NULL;
}

Test(reactor_env, a_call_whose_core_loses_its_owner_is_a_deadlock)
{
	struct thmq_env *env = open_cores(2);
	struct driver d = {.env = env};
	pthread_t thread;
	int x = 0;

	cr_assert_eq(pthread_create(&thread, NULL, detach_soon, &d), 0);
	while (!atomic_load(&d.ready))
		usleep(100);
	cr_assert_eq(thmqi_core_call(thmqi_env_core(env, 1), add_one, &x, UINT64_MAX), -EDEADLK);
	cr_assert_eq(x, 0);
	pthread_join(thread, NULL);
	cr_assert_eq(thmqi_env_close(env), 0);
}

struct caller {
	struct thmq_env *env;
	uint32_t mine, other;
	_Atomic int *ready;
	int sum;
};

static void *call_back_and_forth(void *arg)
{
	struct caller *c = arg;
	int i;

	if (c->mine)
		thmqi_core_attach(c->env, c->mine);
	atomic_fetch_add(c->ready, 1);
	while (atomic_load(c->ready) < 2)
		usleep(100);
	for (i = 0; i < 1000; i++)
		if (thmqi_core_call(thmqi_env_core(c->env, c->other), add_one, &c->sum,
				    UINT64_MAX) < 0)
			break;
	atomic_fetch_add(c->ready, 1);
	while (atomic_load(c->ready) < 4) /* the other may still need this core */
		thmqi_core_poll(thmqi_env_core(c->env, c->mine), MS);
	if (c->mine)
		thmqi_core_detach(c->env);
	return NULL;
}

Test(reactor_env, two_owners_that_call_each_other_both_get_their_answers)
{
	struct thmq_env *env = open_cores(2);
	_Atomic int ready = 0;
	struct caller a = {.env = env, .mine = 0, .other = 1, .ready = &ready};
	struct caller b = {.env = env, .mine = 1, .other = 0, .ready = &ready};
	pthread_t thread;

	pthread_create(&thread, NULL, call_back_and_forth, &b);
	call_back_and_forth(&a);
	pthread_join(thread, NULL);
	cr_assert_eq(a.sum, 1000);
	cr_assert_eq(b.sum, 1000);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* ------------------------------------------------------------------- stats */

Test(reactor_env, the_counters_add_up_over_the_cores)
{
	struct thmq_env *env = open_cores(2);
	struct thmq_env_stats stats = {0};
	struct visit v = {.env = env, .index = 1};
	struct thmqi_buf *buf;
	uint32_t i;

	for (i = 0; i < 10; i++)
		thmqi_core_poll(thmqi_env_core(env, 0), 0);
	on_thread(visit, &v);
	thmqi_core_wake(thmqi_env_core(env, 0));
	cr_assert_eq(thmqi_buf_alloc(thmqi_env_core(env, 0)->pool, 8192, &buf), 0);
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.core_count, 2);
	cr_assert_geq(stats.loops, 11);
	cr_assert_eq(stats.wakeups, 1);
	cr_assert_geq(stats.pool_in_use_bytes, 8192);
	cr_assert_geq(stats.pool_bytes, stats.pool_in_use_bytes);
	thmqi_buf_unref(buf);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_env, io_uring_can_be_declined)
{
	struct thmq_env_stats stats = {0};
	struct thmq_env *env;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING), NULL, &env), 0);
	cr_assert_null(thmqi_env_core(env, 0)->ring);
	thmqi_env_stats(env, &stats);
	cr_assert_eq(stats.uring_cores, 0);
	cr_assert_eq(thmqi_env_flags(env), THMQ_ENV_NO_URING);
	cr_assert_eq(thmqi_env_close(env), 0);
}
