/* SPDX-License-Identifier: Apache-2.0 */
/* waiter.c - a thread outside the cores that sleeps until somebody kicks it: a flag, and an eventfd behind it. */
#include <poll.h>
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
	w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
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
		close(w->fd);
		free(w);
	}
}

void thmqi_waiter_arm(struct thmqi_waiter *w)
{
	atomic_store_explicit(&w->sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(
		memory_order_seq_cst); /* flag before the look: pairs with the fence in kick */
}

void thmqi_waiter_disarm(struct thmqi_waiter *w)
{
	uint64_t count;

	atomic_store_explicit(&w->sleeping, 0, memory_order_relaxed);
	if (read(w->fd, &count, sizeof(count)) < 0)
		return; /* nobody woke us */
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
	if (write(w->fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}
