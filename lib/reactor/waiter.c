/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiter.c - a thread outside the cores that sleeps until somebody kicks it: a flag, and an eventfd behind it. Other processes are
 * guests: each has a flag of its own in shared memory, and a descriptor that becomes readable when it has kicked; an epoll
 * joins them, edge-triggered, so that nothing has to be read to sleep again.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

int thmqi_waiter_open(struct thmqi_waiter **ret_waiter)
{
	struct thmqi_waiter *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return -ENOMEM;
	atomic_init(&w->refs, 1);
	thmqi_list_init(&w->guests);
	w->fd = w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->fd < 0) {
		rc = -errno;
		free(w);
		return rc;
	}
	*ret_waiter = w;
	return 0;
}

void thmqi_waiter_ref(struct thmqi_waiter *w)
{
	atomic_fetch_add(&w->refs, 1);
}

void thmqi_waiter_unref(struct thmqi_waiter *w)
{
	if (atomic_fetch_sub(&w->refs, 1) == 1) {
		if (w->fd != w->event_fd)
			close(w->fd);
		close(w->event_fd);
		free(w);
	}
}

/* ------------------------------------------------------------------- guests */

#define LOOKS 16

static int make_epoll(struct thmqi_waiter *w)
{
	struct epoll_event e = {.events = EPOLLIN};
	int fd = epoll_create1(EPOLL_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, w->event_fd, &e) != 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	w->fd = fd;
	return 0;
}

int thmqi_waiter_join(struct thmqi_waiter *w, struct thmqi_waiter_guest *guest)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = guest};
	int rc = w->fd == w->event_fd ? make_epoll(w) : 0;

	if (!rc && epoll_ctl(w->fd, EPOLL_CTL_ADD, guest->fd, &e) != 0)
		rc = -errno;
	if (!rc)
		thmqi_list_add_tail(&w->guests, &guest->link);
	return rc;
}

void thmqi_waiter_part(struct thmqi_waiter *w, struct thmqi_waiter_guest *guest)
{
	epoll_ctl(w->fd, EPOLL_CTL_DEL, guest->fd, NULL);
	thmqi_list_del(&guest->link);
}

static void flag_guests(struct thmqi_waiter *w, uint32_t sleeping)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &w->guests)
		atomic_store_explicit(thmqi_container(it, struct thmqi_waiter_guest, link)->sleeping, sleeping,
				      memory_order_relaxed);
}

/* What they have told is told once. Who has slept looks after all of them: that may have been long. */
static void look_at_guests(struct thmqi_waiter *w)
{
	struct epoll_event e[LOOKS];

	while (epoll_wait(w->fd, e, LOOKS, 0) == LOOKS)
		;
	w->rings++;
}

/* -------------------------------------------------------------------- sleep */

void thmqi_waiter_arm(struct thmqi_waiter *w)
{
	atomic_store_explicit(&w->sleeping, 1, memory_order_relaxed);
	flag_guests(w, 1);
	atomic_thread_fence(
		memory_order_seq_cst); /* flag before the look: pairs with the fence in kick */
}

void thmqi_waiter_disarm(struct thmqi_waiter *w)
{
	uint64_t count;

	atomic_store_explicit(&w->sleeping, 0, memory_order_relaxed);
	flag_guests(w, 0);
	if (read(w->event_fd, &count, sizeof(count)) < 0)
		count = 0; /* none of this process woke us */
	if (w->fd != w->event_fd)
		look_at_guests(w);
}

int thmqi_waiter_sleep(struct thmqi_waiter *w, uint64_t timeout_ns)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
			     .tv_nsec = (long)(timeout_ns % 1000000000u)};

	return ppoll(&p, 1, timeout_ns == UINT64_MAX ? NULL : &t, NULL) > 0;
}

void thmqi_waiter_wake(struct thmqi_waiter *w)
{
	uint64_t one = 1;

	/* one wake is enough until the sleeper arms again */
	atomic_store_explicit(&w->sleeping, 0, memory_order_relaxed);
	if (write(w->event_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}
