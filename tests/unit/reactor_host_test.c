/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_host_test.c - a core inside a host's own event loop: the descriptor and the announcement of sleep. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define MS 1000000ull

static const uint32_t both[] = {0, THMQ_ENV_NO_URING};
static struct thmq_env *env;
static struct thmq_core *core;

static void open_env(uint32_t flags, uint32_t policy)
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags, .policy = policy), NULL, &env),
		     0);
	core = thmqi_env_core(env, 0);
}

static void close_env(void)
{
	cr_assert_eq(thmqi_env_close(env), 0);
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

static void drain(void)
{
	while (thmqi_core_poll(core, 0) > 0)
		;
}

static void count(struct thmq_core *c, struct thmqi_task *task)
{
	(void)c;
	task->next = (struct thmqi_task *)1; /* ran */
}

static uint32_t fired;

static void note_fired(struct thmqi_timer *t)
{
	(void)t;
	fired++;
}

TestSuite(reactor_host, .timeout = 30);

Test(reactor_host, an_armed_idle_core_is_not_readable)
{
	uint32_t f;

	for (f = 0; f < 2; f++) {
		int fd;

		open_env(both[f], THMQ_POLICY_DEFAULT);
		fd = thmqi_core_fd(core);
		cr_assert_geq(fd, 0);
		cr_assert_eq(thmqi_core_fd(core), fd, "one descriptor");
		drain();
		cr_assert_eq(thmqi_core_arm(core), 0);
		cr_assert_not(readable(fd, 30));
		cr_assert_eq(thmqi_core_arm(core), 0, "twice is no mistake");
		cr_assert_not(readable(fd, 0));
		close_env();
	}
}

Test(reactor_host, a_post_makes_it_readable_until_it_is_polled)
{
	uint32_t f, i;

	for (f = 0; f < 2; f++) {
		struct thmqi_task task = {.run = count};

		open_env(both[f], THMQ_POLICY_DEFAULT);
		for (i = 0; i < 3; i++) {
			drain();
			cr_assert_eq(thmqi_core_arm(core), 0);
			thmqi_core_post(core, &task);
			cr_assert(readable(thmqi_core_fd(core), 1000));
			cr_assert_eq(thmqi_core_poll(core, 0), 1);
			cr_assert_eq(task.next, (struct thmqi_task *)1);
			drain();
			cr_assert_eq(thmqi_core_arm(core), 0);
			cr_assert_not(readable(thmqi_core_fd(core), 0));
		}
		close_env();
	}
}

Test(reactor_host, arming_finds_what_was_posted_before)
{
	struct thmqi_task task = {.run = count};

	open_env(0, THMQ_POLICY_DEFAULT);
	thmqi_core_post(core, &task);
	cr_assert_eq(thmqi_core_arm(core), 1);
	cr_assert_eq(atomic_load(&core->sleeping), 0);
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(thmqi_core_arm(core), 0);
	close_env();
}

Test(reactor_host, a_timer_makes_it_readable_and_moves_with_its_deadline)
{
	uint32_t f, i;

	for (f = 0; f < 2; f++) {
		struct thmqi_timer t = {.fire = note_fired};
		uint64_t now;

		open_env(both[f], THMQ_POLICY_DEFAULT);
		now = core->clock->now_ns(core->clock->ctx);
		thmqi_timer_start(core, &t, now + 3600000 * MS);
		drain();
		cr_assert_eq(thmqi_core_arm(core), 0);
		cr_assert_not(readable(thmqi_core_fd(core), 5));
		for (i = 1; i <= 3; i++) {
			drain();
			thmqi_timer_start(core, &t,
					  core->clock->now_ns(core->clock->ctx) + 10 * MS);
			cr_assert_eq(thmqi_core_arm(core), 0);
			cr_assert(readable(thmqi_core_fd(core), 1000));
			cr_assert_eq(thmqi_core_poll(core, 0), 1, "one poll is enough");
			cr_assert_eq(fired, f * 3 + i);
		}
		drain();
		cr_assert_eq(thmqi_core_arm(core), 0);
		cr_assert_not(readable(thmqi_core_fd(core), 5), "an old expiry is forgotten");
		close_env();
	}
}

Test(reactor_host, a_timer_already_due_makes_it_readable_at_once)
{
	struct thmqi_timer t = {.fire = note_fired};

	open_env(0, THMQ_POLICY_DEFAULT);
	drain();
	thmqi_timer_start(core, &t, 0);
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert(readable(thmqi_core_fd(core), 1000));
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	close_env();
}

struct read_op {
	struct thmqi_ring_op op; /* first */
	int res;
};

static void on_read(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	(void)flags;
	((struct read_op *)op)->res = res;
}

Test(reactor_host, a_completion_makes_it_readable_also_when_submitted_by_arm)
{
	struct read_op r = {.op.done = on_read};
	uint64_t one = 1, value = 0;
	int e;

	open_env(0, THMQ_POLICY_DEFAULT);
	if (!core->ring)
		cr_skip("no io_uring here");
	e = eventfd(0, EFD_CLOEXEC);
	drain();
	cr_assert_eq(thmqi_ring_read(core->ring, e, -1, NULL, &value, 8, 0, &r.op), 0);
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert_not(readable(thmqi_core_fd(core), 5));
	cr_assert_eq(write(e, &one, 8), 8);
	cr_assert(readable(thmqi_core_fd(core), 1000));
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(r.res, 8);
	close(e);
	close_env();
}

/* A source that says nothing when it is armed, and is therefore looked at. */
struct silent {
	struct thmqi_poller poller; /* first */
	int there, taken;
};

static int take_silently(struct thmqi_poller *p, uint32_t budget)
{
	struct silent *s = (struct silent *)p;
	int n = s->there;

	(void)budget;
	s->there = 0;
	s->taken += n;
	return n;
}

Test(reactor_host, what_was_done_while_it_was_armed_the_next_poll_tells)
{
	struct silent s = {.poller.poll = take_silently};
	uint32_t f;

	for (f = 0; f < 2; f++) {
		open_env(both[f], THMQ_POLICY_EVENT);
		thmqi_core_add_poller(core, &s.poller);
		drain();
		s.there = 3;
		cr_assert_eq(thmqi_core_arm(core), 1);
		cr_assert_eq(s.there, 0);
		cr_assert_eq(thmqi_core_poll(core, 10000 * MS), 3, "or the host would sleep on what came");
		cr_assert_eq(thmqi_core_poll(core, 0), 0, "once");
		cr_assert_eq(thmqi_core_arm(core), 0);
		thmqi_core_remove_poller(core, &s.poller);
		close_env();
	}
	cr_assert_eq(s.taken, 6);
}

Test(reactor_host, under_poll_there_is_always_work)
{
	open_env(0, THMQ_POLICY_POLL);
	drain();
	cr_assert_eq(thmqi_core_arm(core), 1);
	close_env();
}

static bool arm_starts_timer(struct thmqi_poller *p)
{
	struct thmqi_timer *t = (struct thmqi_timer *)(p + 1);

	thmqi_timer_start(core, t, core->clock->now_ns(core->clock->ctx) + 5 * MS);
	return false;
}

static int nothing(struct thmqi_poller *p, uint32_t budget)
{
	(void)p;
	(void)budget;
	return 0;
}

Test(reactor_host, a_source_may_start_a_timer_when_it_is_armed)
{
	struct {
		struct thmqi_poller poller;
		struct thmqi_timer timer;
	} s = {.poller = {.poll = nothing, .arm = arm_starts_timer}, .timer.fire = note_fired};

	open_env(0, THMQ_POLICY_DEFAULT);
	thmqi_core_add_poller(core, &s.poller);
	drain();
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert(readable(thmqi_core_fd(core), 1000));
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(fired, 1);
	cr_assert_eq(thmqi_core_poll(core, 1000 * MS), 1, "the loop's own sleep sees it too");
	cr_assert_eq(fired, 2);
	close_env();
}

static void *take_over(void *arg)
{
	struct thmqi_task task = {.run = count};

	(void)arg;
	cr_assert_eq(thmqi_core_attach(env, 0), 0);
	drain();
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert_not(readable(thmqi_core_fd(core), 0));
	thmqi_core_post(core, &task);
	cr_assert(readable(thmqi_core_fd(core), 1000));
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	thmqi_core_detach(env);
	return NULL;
}

Test(reactor_host, the_next_owner_gets_a_descriptor_of_its_own)
{
	pthread_t thread;

	open_env(0, THMQ_POLICY_DEFAULT);
	thmqi_core_poll(core, MS);
	cr_assert_geq(thmqi_core_fd(core), 0);
	drain();
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert_eq(thmqi_core_detach(env), 0);
	cr_assert_eq(atomic_load(&core->sleeping), 0);
	cr_assert_eq(thmqi_core_fd(core), -EPERM);
	cr_assert_eq(thmqi_core_arm(core), -EPERM);
	pthread_create(&thread, NULL, take_over, NULL);
	pthread_join(thread, NULL);
	cr_assert_eq(thmqi_core_attach(env, 0), 0);
	close_env();
}

static void *post_many(void *arg)
{
	struct thmqi_task *tasks = arg;
	uint32_t i;

	for (i = 0; i < 1000; i++) {
		thmqi_core_post(core, &tasks[i]);
		if (i % 3 == 0)
			usleep(50);
	}
	return NULL;
}

static uint32_t ran;

static void count_ran(struct thmq_core *c, struct thmqi_task *task)
{
	(void)c;
	(void)task;
	ran++;
}

Test(reactor_host, a_host_loop_with_epoll_misses_nothing)
{
	uint32_t f, i;

	for (f = 0; f < 2; f++) {
		static struct thmqi_task tasks[1000];
		struct epoll_event e = {.events = EPOLLIN};
		int epoll = epoll_create1(EPOLL_CLOEXEC);
		pthread_t thread;

		open_env(both[f], THMQ_POLICY_DEFAULT);
		for (i = 0; i < 1000; i++)
			tasks[i].run = count_ran;
		ran = 0;
		cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, thmqi_core_fd(core), &e), 0);
		pthread_create(&thread, NULL, post_many, tasks);
		while (ran < 1000) {
			drain();
			if (ran < 1000 && thmqi_core_arm(core) == 0)
				cr_assert_neq(epoll_wait(epoll, &e, 1, 5000), 0,
					      "slept through at %u", ran);
		}
		pthread_join(thread, NULL);
		close(epoll);
		close_env();
	}
}
