/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - descriptors of the host's (sockets, pipes, eventfds) whose readiness wakes a core: a multishot poll in the core's
 * ring, on which it sleeps anyway. Where there is no ring, an epoll of the core's own, which it sleeps on too and looks into now and
 * then while it spins; edge-triggered, since the ring's poll is.
 *
 * Knows nothing of what is read or written: it only tells.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

#define PAUSED_MAX 4u /* of a core: each is a call into the kernel in every iteration */
#define LOOK_ROUNDS                                                                                \
	16u /* without a ring: a spinning core asks the kernel every so many iterations */

struct thmq_watch {
	struct thmqi_ring_op op; /* first */
	struct loop *loop;
	struct thmqi_list link; /* of the core */
	void (*ready)(void *ctx, uint32_t events);
	void *ctx;
	int fd;
	uint32_t events;
	bool closed; /* and freed once the ring has done with it */
	bool paused;
	bool out; /* of the ring, since it was paused */
};

static void drop(struct thmq_watch *w)
{
	thmqi_list_del(&w->link);
	free(w);
}

/* ---------------------------------------------------------------- with a ring */

static void on_ready(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct thmq_watch *w = thmqi_container(op, struct thmq_watch, op);
	struct thmqi_ring *ring = w->loop->core.ring;
	bool armed = thmqi_ring_has_more(flags);

	if (w->closed) {
		if (!armed)
			drop(w);
		else
			thmqi_ring_cancel(ring, op); /* it found no room when it was closed */
		return;
	}
	if (res == -ECANCELED)
		res = 0;
	if (!armed && w->paused) {
		w->out = true;
		if (res > 0)
			w->ready(w->ctx, (uint32_t)res);
		return;
	}
	/* armed again before ready is called, which may close it */
	if (!armed && (res < 0 || thmqi_ring_poll_multishot(ring, w->fd, w->events, op) != 0))
		res = POLLERR;
	if (res)
		w->ready(w->ctx, (uint32_t)res);
}

/* ------------------------------------------------------------- without a ring */

static int watch_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct loop *l = thmqi_container(p, struct loop, watch.poller);
	struct epoll_event e;
	int done = 0;

	if (l->watch.rounds++ % LOOK_ROUNDS &&
	    !atomic_load_explicit(&l->core.sleeping, memory_order_relaxed))
		return 0;
	/* one by one: ready may close any of them */
	while ((uint32_t)done < budget && epoll_wait(l->watch.epoll_fd, &e, 1, 0) == 1) {
		struct thmq_watch *w = e.data.ptr;

		done++;
		l->watch.rounds = 0; /* there may be more */
		w->ready(w->ctx, e.events);
	}
	return done;
}

static bool watch_arm(struct thmqi_poller *p)
{
	struct pollfd fd = {.fd = thmqi_container(p, struct loop, watch.poller)->watch.epoll_fd,
			    .events = POLLIN};

	return poll(&fd, 1, 0) == 1;
}

static void watch_end(struct thmqi_poller *p)
{
	thmqi_core_remove_poller(&thmqi_container(p, struct loop, watch.poller)->core, p);
}

static int need_epoll(struct loop *l)
{
	struct epoll_event e = {.events = EPOLLIN};
	int fd;

	if (l->watch.epoll_fd >= 0)
		return 0;
	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* a host's own loop sleeps on its descriptor */
	if (l->epoll_fd >= 0 && epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	l->watch.epoll_fd = fd;
	l->watch.poller =
		(struct thmqi_poller){.poll = watch_poll, .arm = watch_arm, .end = watch_end};
	thmqi_core_add_poller(&l->core, &l->watch.poller);
	return 0;
}

static int add_to_epoll(struct loop *l, struct thmq_watch *w)
{
	/* the bits of poll(2) and epoll(7) are the same */
	struct epoll_event e = {.events = w->events | EPOLLET, .data.ptr = w};
	int rc = need_epoll(l);

	if (rc)
		return rc;
	return epoll_ctl(l->watch.epoll_fd, EPOLL_CTL_ADD, w->fd, &e) == 0 ? 0 : -errno;
}

/* ------------------------------------------------------------- open, close */

int thmqi_watch_open(struct thmq_core *core, int fd, uint32_t events,
		     void (*ready)(void *ctx, uint32_t events), void *ctx,
		     struct thmq_watch **ret_watch)
{
	struct loop *l = loop_of(core);
	struct thmq_watch *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return -ENOMEM;
	*w = (struct thmq_watch){.op.done = on_ready,
				 .loop = l,
				 .ready = ready,
				 .ctx = ctx,
				 .fd = fd,
				 .events = events};
	/* those that are paused go on without memory, whoever has come meanwhile; one is the core's own */
	rc = core->ring ? thmqi_ring_poll_room(core->ring, 2 + PAUSED_MAX) : 0;
	if (!rc)
		rc = core->ring ? thmqi_ring_poll_multishot(core->ring, fd, events, &w->op)
				: add_to_epoll(l, w);
	if (rc) {
		free(w);
		return rc;
	}
	thmqi_list_add_tail(&l->watch.list, &w->link);
	*ret_watch = w;
	return 0;
}

struct thmq_core *thmqi_watch_core(const struct thmq_watch *w)
{
	return &w->loop->core;
}

void thmqi_watch_close(struct thmq_watch *w)
{
	struct thmq_core *core = &w->loop->core;

	w->closed = true;
	w->loop->watch.paused -= w->paused;
	if (!core->ring) {
		if (w->loop->watch.epoll_fd >= 0)
			epoll_ctl(w->loop->watch.epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
		drop(w);
		return;
	}
	if (thmqi_ring_cancel(core->ring, &w->op) == -ENOENT) {
		drop(w); /* it had failed */
		return;
	}
	/* now, so that the kernel has let go of the file when the caller closes the descriptor */
	thmqi_ring_submit(core->ring);
}

/* ------------------------------------------------------------ pause, go on */

int thmqi_watch_pause(struct thmq_watch *w)
{
	struct thmqi_ring *ring = w->loop->core.ring;
	int rc;

	if (!ring)
		return -EOPNOTSUPP;
	if (w->loop->watch.paused == PAUSED_MAX)
		return -EAGAIN;
	rc = thmqi_ring_cancel(ring, &w->op);
	if (rc)
		return rc;
	w->paused = true;
	w->loop->watch.paused++;
	return 0;
}

/* Submitted now: whoever sleeps on something else than the ring would not do it. One that is still being cancelled is armed again by its end. */
int thmqi_watch_go_on(struct thmq_watch *w)
{
	struct thmqi_ring *ring = w->loop->core.ring;
	int rc = w->out ? thmqi_ring_poll_multishot(ring, w->fd, w->events, &w->op) : 0;

	if (rc)
		return rc;
	w->paused = w->out = false;
	w->loop->watch.paused--;
	thmqi_ring_submit(ring);
	return 0;
}

void thmqi_watch_init(struct loop *l)
{
	thmqi_list_init(&l->watch.list);
	l->watch.epoll_fd = -1;
}

void thmqi_watch_fini(struct loop *l)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, &l->watch.list)
		free(thmqi_container(it, struct thmq_watch, link));
	if (l->watch.epoll_fd >= 0)
		close(l->watch.epoll_fd);
}
