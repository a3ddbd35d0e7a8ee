/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that a core watches, with a ring and without: what comes is told, once it is stopped nothing is. */
#include <criterion/criterion.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define SECOND 1000000000ull

static struct thmq_env *env;
static struct thmq_core *core;

struct seen {
	struct thmqi_watch watch;
	uint32_t events, told;
};

static void on_ready(struct thmqi_watch *w, uint32_t events)
{
	struct seen *s = thmqi_container(w, struct seen, watch);

	s->events |= events;
	s->told++;
}

static void up(uint32_t flags, struct seen *s, int fds[2])
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags), NULL, &env), 0);
	core = thmqi_env_core(env, 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	memset(s, 0, sizeof(*s));
	s->watch.fd = fds[0];
	s->watch.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
	s->watch.ready = on_ready;
	cr_assert_eq(thmqi_watch_start(core, &s->watch), 0);
}

static void stop(struct seen *s)
{
	int rounds = 0;

	if (!thmqi_watch_stop(&s->watch))
		while (!thmqi_watch_is_off(&s->watch) && rounds++ < 100)
			thmqi_core_poll(core, SECOND / 100);
	cr_assert(thmqi_watch_is_off(&s->watch));
	cr_assert(thmqi_watch_stop(&s->watch), "again does nothing");
}

static uint32_t await(struct seen *s, uint32_t events)
{
	int rounds;

	s->events = 0;
	for (rounds = 0; rounds < 100 && (s->events & events) != events; rounds++)
		thmqi_core_poll(core, SECOND / 20);
	return s->events & events;
}

static void told(uint32_t flags)
{
	char data[16];
	struct seen s;
	int fds[2], i;

	up(flags, &s, fds);
	cr_assert_eq(await(&s, EPOLLOUT), EPOLLOUT, "what holds at the beginning is told");
	for (i = 0; i < 20; i++) {
		cr_assert_eq(write(fds[1], "x", 1), 1);
		cr_assert_eq(await(&s, EPOLLIN), EPOLLIN);
		cr_assert_eq(read(fds[0], data, sizeof(data)), 1);
	}
	close(fds[1]);
	cr_assert_eq(await(&s, EPOLLRDHUP), EPOLLRDHUP);
	stop(&s);
	close(fds[0]);
	thmqi_env_close(env);
}

Test(reactor_watch, what_comes_is_told_through_a_ring)
{
	told(0);
}

Test(reactor_watch, what_comes_is_told_without_a_ring)
{
	told(THMQ_ENV_NO_URING);
}

static void silent(uint32_t flags)
{
	struct seen s;
	int fds[2];

	up(flags, &s, fds);
	await(&s, EPOLLOUT);
	stop(&s);
	s.told = 0;
	cr_assert_eq(write(fds[1], "x", 1), 1);
	thmqi_core_poll(core, SECOND / 20);
	thmqi_core_poll(core, SECOND / 20);
	cr_assert_eq(s.told, 0);
	cr_assert_eq(thmqi_watch_start(core, &s.watch), 0, "and can be started again");
	cr_assert_eq(await(&s, EPOLLIN), EPOLLIN);
	thmqi_watch_end(&s.watch);
	cr_assert(thmqi_watch_is_off(&s.watch));
	close(fds[0]);
	close(fds[1]);
	thmqi_env_close(env);
}

Test(reactor_watch, a_stopped_one_says_nothing_through_a_ring)
{
	silent(0);
}

Test(reactor_watch, a_stopped_one_says_nothing_without_a_ring)
{
	silent(THMQ_ENV_NO_URING);
}

/* A host that sleeps on the core's descriptor is woken. */
static void host(uint32_t flags, bool asks_first)
{
	struct pollfd p = {.events = POLLIN};
	char data[16];
	struct seen s;
	int fds[2];

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags), NULL, &env), 0);
	core = thmqi_env_core(env, 0);
	if (asks_first)
		p.fd = thmqi_core_fd(core);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	memset(&s, 0, sizeof(s));
	s.watch.fd = fds[0];
	s.watch.events = EPOLLIN;
	s.watch.ready = on_ready;
	cr_assert_eq(thmqi_watch_start(core, &s.watch), 0);
	p.fd = thmqi_core_fd(core);
	cr_assert_geq(p.fd, 0);
	thmqi_core_poll(core, 0);
	cr_assert_eq(thmqi_core_arm(core), 0);
	cr_assert_eq(poll(&p, 1, 20), 0);
	cr_assert_eq(write(fds[1], "x", 1), 1);
	cr_assert_eq(poll(&p, 1, 5000), 1);
	thmqi_core_poll(core, 0);
	cr_assert_eq(s.events, EPOLLIN);
	cr_assert_eq(read(fds[0], data, sizeof(data)), 1);
	stop(&s);
	close(fds[0]);
	close(fds[1]);
	thmqi_env_close(env);
}

Test(reactor_watch, a_host_is_woken)
{
	host(0, true);
	host(0, false);
}

Test(reactor_watch, a_host_is_woken_without_a_ring)
{
	host(THMQ_ENV_NO_URING, true);
	host(THMQ_ENV_NO_URING, false);
}
