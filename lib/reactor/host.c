/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.c - a core inside a host's own event loop: one descriptor that becomes readable when the core has work, and
 * the announcement that the host will sleep on it. The host polls, arms, and sleeps if arming found nothing.
 */
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "internal.h"

#define LOOK_BUDGET 256u

static int add(int epoll, int fd)
{
	struct epoll_event e = {.events = EPOLLIN};

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
}

static int fd_of(struct loop *l)
{
	int fd, timer, ring = -1, rc;

	if (l->epoll_fd >= 0)
		return l->epoll_fd;
	if (l->core.ring) {
		ring = thmqi_ring_fd(l->core.ring);
		if (ring < 0)
			return ring;
	}
	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer < 0 || add(fd, timer) != 0 || add(fd, l->wake_fd) != 0 ||
	    (ring >= 0 && add(fd, ring) != 0) ||
	    (l->watch.epoll_fd >= 0 && add(fd, l->watch.epoll_fd) != 0)) {
		rc = -errno;
		if (timer >= 0)
			close(timer);
		close(fd);
		return rc;
	}
	l->timer_fd = timer;
	l->timer_armed_ns = UINT64_MAX;
	l->epoll_fd = fd;
	return fd;
}

int thmqi_host_follow(struct loop *lead, struct loop *l)
{
	int fd = fd_of(l);

	return fd < 0 ? fd : add(lead->epoll_fd, fd) ? -errno : 0;
}

int thmqi_core_fd(struct thmq_core *core)
{
	struct loop *lead, *l;
	int fd, rc = 0;

	if (!thmqi_core_is_mine(core))
		return -EPERM;
	lead = loop_of(core)->lead;
	if (lead->epoll_fd >= 0)
		return lead->epoll_fd;
	fd = fd_of(lead);
	for (l = lead->mates; l && fd >= 0 && !rc; l = l->mates)
		rc = thmqi_host_follow(lead, l);
	if (!rc)
		return fd;
	for (l = lead; l; l = l->mates)
		thmqi_host_forget(l);
	return rc;
}

/* Setting it also takes back that it has expired, so that it is never read. */
static int set_timer(struct loop *l)
{
	struct itimerspec t = {0};
	uint64_t at = l->next_deadline;

	if (at == l->timer_armed_ns && (at == UINT64_MAX || at > thmqi_loop_read_clock(l)))
		return 0;
	if (at != UINT64_MAX) {
		at = THMQI_MAX(at, 1u); /* 0 would mean: never */
		t.it_value.tv_sec = (time_t)(at / 1000000000u);
		t.it_value.tv_nsec = (long)(at % 1000000000u);
	}
	if (timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &t, NULL) != 0)
		return -errno;
	l->timer_armed_ns = l->next_deadline;
	return 0;
}

/* Sources that do not tell when they are armed are looked at once more, now that the flag is up: what came before it woke nobody.
 * What is done so the next poll tells of, lest the host sleeps on it. */
static bool look_at_silent(struct loop *l)
{
	struct thmqi_list *it;
	int done = 0;

	l->core.in_poll = true;
	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		if (!p->arm)
			done += p->poll(p, LOOK_BUDGET);
	}
	l->core.in_poll = false;
	l->done_arming += (uint32_t)done;
	return done > 0;
}

static int arm(struct loop *l)
{
	struct thmq_core *core = &l->core;
	bool work;
	int rc;

	if (l->polling.never_sleeps)
		return 1; /* nobody would wake it: those who make work do not look at the flag */
	core->in_poll = true;
	thmqi_loop_finish(l);
	if (core->ring)
		thmqi_ring_submit(core->ring);
	thmqi_mail_kick_owed(l);
	core->in_poll = false;
	work = thmqi_loop_arm(l);
	work = look_at_silent(l) || work;
	if (core->ring && thmqi_ring_fd_arm(core->ring))
		work = true;
	rc = work ? 1 : set_timer(l);
	thmqi_loop_turn(l, rc ? DUTY_AWAY : DUTY_SLEEPS);
	if (rc) {
		thmqi_host_disarm(l);
		return rc;
	}
	l->host_armed = true;
	__atomic_store_n(&core->sleeps, core->sleeps + 1, __ATOMIC_RELAXED);
	return 0;
}

int thmqi_core_arm(struct thmq_core *core)
{
	int fd = thmqi_core_fd(core), rc;
	struct loop *lead, *l;

	if (fd < 0)
		return fd;
	lead = loop_of(core)->lead;
	if (lead->core.in_poll)
		return -EDEADLK;
	rc = arm(lead);
	lead->core.in_poll = true;
	for (l = lead->mates; l && !rc; l = l->mates)
		rc = arm(l);
	/* one that was armed before may have had a message sent for it meanwhile */
	for (l = lead; l; l = l->mates)
		thmqi_mail_kick_owed(l);
	lead->core.in_poll = false;
	for (l = lead; l && rc; l = l->mates)
		if (l->host_armed)
			thmqi_host_disarm(l);
	return rc;
}

void thmqi_host_disarm(struct loop *l)
{
	l->host_armed = false;
	thmqi_loop_disarm(l);
	if (l->core.ring)
		thmqi_ring_fd_disarm(l->core.ring);
}

void thmqi_host_forget(struct loop *l)
{
	if (l->host_armed)
		thmqi_host_disarm(l);
	if (l->epoll_fd >= 0) {
		close(l->epoll_fd);
		close(l->timer_fd);
	}
	l->epoll_fd = l->timer_fd = -1;
}
