/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_watch_test.c - descriptors that a core waits for: with a ring and without, driven by the host and by the library. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define SECOND 1000000000ull

TestSuite(reactor_watch, .timeout = 30);

static const uint32_t ways[] = {0, THMQ_ENV_NO_URING};

#define EACH_WAY(name)                                                                             \
	ParameterizedTestParameters(reactor_watch, name)                                           \
	{                                                                                          \
		return cr_make_param_array(const uint32_t, (void *)ways, 2);                       \
	}                                                                                          \
	ParameterizedTest(const uint32_t *way, reactor_watch, name, .timeout = 30)

static struct thmq_env *open_env(uint32_t core_count, uint32_t flags)
{
	struct thmq_env *env;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = core_count,
						       .policy = THMQ_POLICY_EVENT,
						       .flags = flags | THMQ_ENV_NO_PIN)),
		     0, "%s", thmq_errmsg());
	return env;
}

struct pipe_end {
	struct thmq_watch *watch;
	int fd[2];
	_Atomic uint32_t told, bytes;
	uint32_t events;
	bool leave; /* bytes where they are */
	bool close_it;
};

static void on_ready(void *ctx, uint32_t events)
{
	struct pipe_end *e = ctx;
	char buf[64];
	ssize_t n;

	atomic_fetch_add(&e->told, 1);
	e->events |= events;
	while (!e->leave && (n = read(e->fd[0], buf, sizeof(buf))) > 0)
		atomic_fetch_add(&e->bytes, (uint32_t)n);
	if (e->close_it)
		thmq_watch_close(e->watch);
}

static void make_pipe(struct pipe_end *e)
{
	memset(e, 0, sizeof(*e));
	cr_assert_eq(pipe2(e->fd, O_NONBLOCK | O_CLOEXEC), 0);
}

static void drop_pipe(struct pipe_end *e)
{
	close(e->fd[0]);
	close(e->fd[1]);
}

EACH_WAY(a_descriptor_that_is_ready_already_is_told_and_then_each_change)
{
	struct thmq_env *env = open_env(0, *way);
	struct pipe_end e;

	make_pipe(&e);
	cr_assert_eq(write(e.fd[1], "abc", 3), 3);
	cr_assert_eq(
		thmq_watch_open(thmq_env_core(env, 0), e.fd[0], POLLIN, on_ready, &e, &e.watch), 0,
		"%s", thmq_errmsg());
	cr_assert_eq(e.told, 0, "not within the call");
	thmq_poll(env, 5 * SECOND);
	cr_assert_eq(e.bytes, 3);
	for (uint32_t i = 1; i <= 100; i++) {
		cr_assert_eq(write(e.fd[1], "x", 1), 1);
		while (e.bytes < 3 + i)
			cr_assert_gt(thmq_poll(env, 5 * SECOND), 0, "slept through it");
	}
	cr_assert(e.events & POLLIN);
	/* and nothing more once it is closed */
	cr_assert_eq(thmq_watch_close(e.watch), 0);
	cr_assert_eq(write(e.fd[1], "x", 1), 1);
	e.told = 0;
	for (int i = 0; i < 50; i++)
		thmq_poll(env, 0);
	cr_assert_eq(e.told, 0);
	drop_pipe(&e);
	thmq_env_close(env, 0);
}

static struct thmq_watch *watch_pipe(struct thmq_env *env, struct pipe_end *e)
{
	make_pipe(e);
	cr_assert_eq(thmqi_watch_open(thmq_env_core(env, 0), e->fd[0], POLLIN, on_ready, e, &e->watch), 0);
	return e->watch;
}

static void poll_for(struct thmq_env *env, int rounds)
{
	while (rounds--)
		thmq_poll(env, 0);
}

/* What came while nobody was told is told when it goes on, however far its end in the ring had come. */
Test(reactor_watch, who_pauses_is_told_when_it_goes_on)
{
	struct thmq_env *env = open_env(0, 0);
	struct pipe_end e;
	uint32_t i;

	watch_pipe(env, &e);
	if (!thmqi_env_core(env, 0)->ring) {
		cr_assert_eq(thmqi_watch_pause(e.watch), -EOPNOTSUPP);
		cr_skip_test("no io_uring");
	}
	for (i = 1; i <= 60; i++) {
		poll_for(env, 3);
		cr_assert_eq(thmqi_watch_pause(e.watch), 0);
		poll_for(env, (int)(i % 4)); /* 0: it is not cancelled yet */
		e.told = 0;
		cr_assert_eq(write(e.fd[1], "x", 1), 1);
		if (i % 4 > 1) {
			poll_for(env, 10);
			cr_assert_eq(e.told, 0, "told though it is paused");
		}
		cr_assert_eq(thmqi_watch_go_on(e.watch), 0);
		while (e.bytes < i)
			cr_assert_gt(thmq_poll(env, 5 * SECOND), 0, "slept through it");
	}
	thmqi_watch_close(e.watch);
	drop_pipe(&e);
	thmq_env_close(env, 0);
}

Test(reactor_watch, few_are_paused_at_a_time)
{
	struct thmq_env *env = open_env(0, 0);
	struct pipe_end e[6];
	uint32_t i;

	if (!thmqi_env_core(env, 0)->ring)
		cr_skip_test("no io_uring");
	for (i = 0; i < 6; i++)
		watch_pipe(env, &e[i]);
	poll_for(env, 3);
	for (i = 0; i < 4; i++)
		cr_assert_eq(thmqi_watch_pause(e[i].watch), 0);
	cr_assert_eq(thmqi_watch_pause(e[4].watch), -EAGAIN);
	poll_for(env, 3);
	thmqi_watch_close(e[0].watch); /* it is in the ring no more */
	cr_assert_eq(thmqi_watch_pause(e[4].watch), 0);
	cr_assert_eq(thmqi_watch_pause(e[5].watch), -EAGAIN);
	cr_assert_eq(thmqi_watch_go_on(e[1].watch), 0);
	cr_assert_eq(thmqi_watch_pause(e[5].watch), 0);
	for (i = 1; i < 6; i++)
		thmqi_watch_close(e[i].watch); /* some still are */
	poll_for(env, 3);
	for (i = 0; i < 6; i++)
		drop_pipe(&e[i]);
	thmq_env_close(env, 0);
}

EACH_WAY(it_may_be_closed_from_within_and_watched_again)
{
	struct thmq_env *env = open_env(0, *way);
	struct pipe_end e;

	make_pipe(&e);
	for (uint32_t i = 1; i <= 50; i++) {
		e.close_it = true;
		cr_assert_eq(thmq_watch_open(thmq_env_core(env, 0), e.fd[0], POLLIN, on_ready, &e,
					     &e.watch),
			     0, "%s", thmq_errmsg());
		cr_assert_eq(write(e.fd[1], "x", 1), 1);
		while (e.bytes < i)
			cr_assert_gt(thmq_poll(env, 5 * SECOND), 0);
		cr_assert_eq(e.told, i);
		thmq_poll(env, 0);
	}
	drop_pipe(&e);
	thmq_env_close(env, 0);
}

EACH_WAY(a_peer_that_has_gone_is_told)
{
	struct thmq_env *env = open_env(0, *way);
	struct pipe_end e = {.leave = true};

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, e.fd), 0);
	cr_assert_eq(thmq_watch_open(thmq_env_core(env, 0), e.fd[0], POLLIN | POLLRDHUP, on_ready,
				     &e, &e.watch),
		     0);
	thmq_poll(env, 0);
	close(e.fd[1]);
	while (!(e.events & POLLHUP))
		cr_assert_gt(thmq_poll(env, 5 * SECOND), 0);
	cr_assert_eq(thmq_watch_close(e.watch), 0);
	/* its end is seen by nobody before it is closed, and the kernel holds no other reference then */
	close(e.fd[0]);
	thmq_env_close(env, 0);
}

EACH_WAY(closing_behind_the_watch_ends_the_connection)
{
	struct thmq_env *env = open_env(0, *way);
	struct pipe_end e = {0};
	char c;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, e.fd), 0);
	cr_assert_eq(
		thmq_watch_open(thmq_env_core(env, 0), e.fd[0], POLLIN, on_ready, &e, &e.watch), 0);
	thmq_poll(env, 0);
	cr_assert_eq(thmq_watch_close(e.watch), 0);
	close(e.fd[0]);
	for (int i = 0; i < 1000 && read(e.fd[1], &c, 1) != 0; i++) {
		thmq_poll(env, 0);
		usleep(1000);
	}
	cr_assert_eq(read(e.fd[1], &c, 1), 0, "the other end was told");
	close(e.fd[1]);
	thmq_env_close(env, 0);
}

static int open_on_core(struct thmq_core *core, void *arg)
{
	struct pipe_end *e = arg;

	return thmq_watch_open(core, e->fd[0], POLLIN, on_ready, e, &e->watch);
}

EACH_WAY(a_sleeping_core_of_the_library_is_woken)
{
	struct thmq_env *env = open_env(1, *way);
	struct pipe_end e;

	make_pipe(&e);
	cr_assert_eq(thmq_core_call(thmq_env_core(env, 0), open_on_core, &e, SECOND), 0);
	for (uint32_t i = 1; i <= 30; i++) {
		usleep(2000); /* it sleeps */
		cr_assert_eq(write(e.fd[1], "x", 1), 1);
		for (int k = 0; k < 5000 && e.bytes < i; k++)
			usleep(1000);
		cr_assert_eq(e.bytes, i);
	}
	thmq_env_close(env, 0); /* with the watch still open */
	drop_pipe(&e);
}

EACH_WAY(a_hosts_own_loop_is_woken)
{
	struct thmq_env *env = open_env(0, *way);
	struct pipe_end early, late;
	struct epoll_event ev = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	/* one that is watched before the host asks for the descriptor, one after */
	make_pipe(&early);
	make_pipe(&late);
	cr_assert_eq(thmq_watch_open(thmq_env_core(env, 0), early.fd[0], POLLIN, on_ready, &early,
				     &early.watch),
		     0);
	cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, thmq_env_fd(env), &ev), 0);
	cr_assert_eq(thmq_watch_open(thmq_env_core(env, 0), late.fd[0], POLLIN, on_ready, &late,
				     &late.watch),
		     0);
	for (uint32_t i = 1; i <= 40; i++) {
		struct pipe_end *e = i % 2 ? &early : &late;

		while (thmq_poll(env, 0) > 0)
			;
		if (i % 4 < 2)
			cr_assert_eq(write(e->fd[1], "x", 1), 1);
		if (thmq_env_arm(env) == 0) {
			if (i % 4 >= 2)
				cr_assert_eq(write(e->fd[1], "x", 1), 1);
			while (epoll_wait(epoll, &ev, 1, 5000) < 0 && errno == EINTR)
				;
		} else if (i % 4 >= 2) {
			cr_assert_eq(write(e->fd[1], "x", 1), 1);
		}
		for (int k = 0; k < 1000 && early.bytes + late.bytes < i; k++)
			thmq_poll(env, SECOND / 1000);
		cr_assert_eq(early.bytes + late.bytes, i);
	}
	thmq_env_close(env, 0);
	close(epoll);
	drop_pipe(&early);
	drop_pipe(&late);
}

EACH_WAY(watches_move_with_their_core)
{
	struct thmq_env *env;
	struct pipe_end e;

	cr_assert_eq(thmq_env_open(&env, THMQ_ENV_OPTS(.caller_cores = 1,
						       .policy = THMQ_POLICY_EVENT, .flags = *way)),
		     0);
	make_pipe(&e);
	cr_assert_eq(
		thmq_watch_open(thmq_env_core(env, 0), e.fd[0], POLLIN, on_ready, &e, &e.watch), 0);
	for (uint32_t i = 1; i <= 5; i++) {
		thmq_poll(env, 0);
		cr_assert_eq(thmq_core_detach(env), 0);
		cr_assert_eq(write(e.fd[1], "x", 1), 1);
		cr_assert_eq(thmq_core_attach(env, 0), 0);
		while (e.bytes < i)
			cr_assert_gt(thmq_poll(env, 5 * SECOND), 0);
	}
	cr_assert_eq(thmq_watch_close(e.watch), 0);
	drop_pipe(&e);
	thmq_env_close(env, 0);
}

static void *close_elsewhere(void *arg)
{
	return (void *)(intptr_t)thmq_watch_close(arg);
}

EACH_WAY(wrong_calls_are_told)
{
	struct thmq_env *env = open_env(0, *way), *threads = open_env(1, *way);
	struct thmq_core *core = thmq_env_core(env, 0);
	struct thmq_watch *w = NULL;
	struct pipe_end e;
	pthread_t thread;
	void *rc;

	make_pipe(&e);
	cr_assert_eq(thmq_watch_open(NULL, e.fd[0], POLLIN, on_ready, &e, &w), -EINVAL);
	cr_assert_eq(thmq_watch_open(core, e.fd[0], 0, on_ready, &e, &w), -EINVAL);
	cr_assert_eq(thmq_watch_open(core, e.fd[0], 1u << 30, on_ready, &e, &w), -EINVAL);
	cr_assert_eq(thmq_watch_open(core, e.fd[0], POLLIN, NULL, &e, &w), -EINVAL);
	cr_assert_eq(thmq_watch_open(core, e.fd[0], POLLIN, on_ready, &e, NULL), -EINVAL);
	cr_assert_eq(thmq_watch_open(core, -1, POLLIN, on_ready, &e, &w), -EBADF);
	cr_assert_eq(thmq_watch_open(core, 1000000, POLLIN, on_ready, &e, &w), -EBADF);
	cr_assert_eq(thmq_watch_open(thmq_env_core(threads, 0), e.fd[0], POLLIN, on_ready, &e, &w),
		     -EPERM);
	cr_assert_null(w);
	cr_assert_eq(thmq_watch_open(core, e.fd[0], POLLIN, on_ready, &e, &w), 0);
	cr_assert_eq(pthread_create(&thread, NULL, close_elsewhere, w), 0);
	pthread_join(thread, &rc);
	cr_assert_eq((intptr_t)rc, -EPERM);
	cr_assert_eq(thmq_watch_close(w), 0);
	cr_assert_eq(thmq_watch_close(NULL), 0);
	thmq_env_close(threads, 0);
	thmq_env_close(env, 0);
	drop_pipe(&e);
}
