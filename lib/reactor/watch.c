/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - descriptors that a core watches: through its ring, or where there is none through an epoll set that the loop looks at.
 * Told is each change to the better (edge-triggered): who is told reads or writes until that would block. Knows nothing of
 * what the descriptors are.
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

#define LOOK_MAX 64
#define END_TRIES 200u
#define END_WAIT_NS 5000000u

enum watch_state { WATCH_OFF, WATCH_ON, WATCH_STOPPING };

static int ring_arm(struct thmqi_watch *w)
{
	int rc = thmqi_ring_poll_multishot(w->core->ring, w->fd, w->events, &w->op);

	w->armed = rc == 0;
	return rc;
}

static void on_ring(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct thmqi_watch *w = thmqi_container(op, struct thmqi_watch, op);

	w->armed = thmqi_ring_has_more(flags);
	if (w->state == WATCH_STOPPING) {
		w->state = w->armed ? WATCH_STOPPING : WATCH_OFF;
		return;
	}
	if (w->state != WATCH_ON)
		return;
	/* the kernel ends one now and then; that it could not be armed again is found when something is wanted of it */
	if (!w->armed && ring_arm(w) != 0)
		res = -EIO;
	w->ready(w, res < 0 ? EPOLLERR : (uint32_t)res);
}

/* The set, made when the first one needs it. */
static int set_of(struct loop *l)
{
	struct epoll_event e = {.events = EPOLLIN};

	if (l->watch_fd >= 0)
		return 0;
	l->watch_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->watch_fd < 0)
		return -errno;
	if (l->epoll_fd >= 0 && epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->watch_fd, &e) != 0) {
		close(l->watch_fd);
		l->watch_fd = -1;
		return -ENOMEM;
	}
	return 0;
}

int thmqi_watch_start(struct thmq_core *core, struct thmqi_watch *w)
{
	struct loop *l = loop_of(core);
	struct epoll_event e = {.events = w->events | EPOLLET, .data.ptr = w};
	int rc;

	w->core = core;
	w->op.done = on_ring;
	if (core->ring) {
		rc = ring_arm(w);
	} else {
		rc = set_of(l);
		if (!rc && epoll_ctl(l->watch_fd, EPOLL_CTL_ADD, w->fd, &e) != 0)
			rc = -errno;
	}
	if (!rc)
		w->state = WATCH_ON;
	return rc;
}

bool thmqi_watch_stop(struct thmqi_watch *w)
{
	struct thmq_core *core = w->core;

	if (w->state == WATCH_OFF)
		return true;
	if (!core->ring && w->state == WATCH_ON) {
		epoll_ctl(loop_of(core)->watch_fd, EPOLL_CTL_DEL, w->fd, NULL);
		w->state = WATCH_OFF;
		return true;
	}
	/* again where it is asked for again: a core that changed hands has forgotten that it was cancelled */
	if (!core->ring || !w->armed || thmqi_ring_cancel(core->ring, &w->op) == -ENOENT) {
		w->state = WATCH_OFF;
		return true;
	}
	w->state = WATCH_STOPPING;
	return false;
}

void thmqi_watch_end(struct thmqi_watch *w)
{
	struct thmqi_ring *ring = w->core ? w->core->ring : NULL;
	uint32_t tries = END_TRIES;

	if (w->state == WATCH_OFF || thmqi_watch_stop(w))
		return;
	while (ring && w->state != WATCH_OFF && tries--) {
		if (thmqi_ring_wait(ring, END_WAIT_NS) < 0)
			break;
		thmqi_ring_reap(ring, UINT32_MAX);
	}
}

uint32_t thmqi_watches_look(struct loop *l)
{
	struct epoll_event e[LOOK_MAX];
	int i, n = epoll_wait(l->watch_fd, e, LOOK_MAX, 0);

	for (i = 0; i < n; i++) {
		struct thmqi_watch *w = e[i].data.ptr;

		if (w->state == WATCH_ON)
			w->ready(w, e[i].events);
	}
	return n > 0 ? (uint32_t)n : 0;
}
