/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c - set-up, submission and completion of a core's io_uring. Knows nothing of what is read or written.
 *
 * Set-up: DEFER_TASKRUN (6.1) runs completions only when the driving thread asks for them, which is the cheapest
 * and never interrupts it; it binds the ring to the thread that enables it, so a ring that changes hands is built
 * anew (io_uring_setup(2)). Older or stricter kernels get COOP_TASKRUN, then nothing special.
 */
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* liburing's private mark "the ring's descriptor is registered with a thread" (int_flags). */
#define LIBURING_REGISTERED_RING 1u
/* 36 years. The kernel adds the time to its clock, which is signed: what is longer may come out as past, and be no wait at all. */
#define LONGEST_WAIT_NS (1ull << 60)

static int32_t self(void)
{
	static _Thread_local int32_t id;

	if (thmqi_unlikely(!id))
		id = gettid();
	return id;
}

static int make(uint32_t depth, uint32_t flags, struct io_uring *ret_ring)
{
	/* polls answer without being asked: room for more completions than submissions */
	struct io_uring_params p = {.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
				    .cq_entries = depth * 4};

	int e;

	memset(ret_ring, 0, sizeof(*ret_ring));
	e = io_uring_queue_init_params(depth, ret_ring, &p);
	if (!e) /* a child of fork(2) that reaped it would take its parent's completions */
		io_uring_ring_dontfork(ret_ring);
	return e;
}

static bool is_refusal(int e)
{
	return e == -EPERM || e == -ENOSYS || e == -EACCES;
}

/* A sandbox may let a ring be made and then refuse what it is for. Entering one that is not enabled yet is -EBADFD. */
static int check_calls(struct io_uring *ring, uint32_t flags)
{
	int e = io_uring_enter(ring->ring_fd, 0, 0, 0, NULL);

	if (is_refusal(e))
		return e;
	/* without this call it can never be enabled; one that needs no enabling is still to be had */
	e = io_uring_register(ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 1);
	return (flags & IORING_SETUP_R_DISABLED) && is_refusal(e) ? -EINVAL : 0;
}

/* The first of the choices that this kernel knows: -EINVAL is its word for an unknown flag. */
static int make_best(uint32_t depth, struct io_uring *ret_ring, uint32_t *ret_flags)
{
	static const uint32_t choices[] = {
		IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int e = -EINVAL;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(choices) && e == -EINVAL; i++) {
		*ret_flags = choices[i];
		e = make(depth, choices[i], ret_ring);
		if (e)
			continue;
		e = check_calls(ret_ring, choices[i]);
		if (e)
			io_uring_queue_exit(ret_ring);
	}
	return e;
}

static int make_polled(uint32_t depth, struct io_uring *ret_ring, uint32_t *ret_flags)
{
	int e;

	*ret_flags = IORING_SETUP_IOPOLL;
	e = make(depth, *ret_flags, ret_ring);
	if (e)
		return e;
	e = check_calls(ret_ring, *ret_flags);
	if (e)
		io_uring_queue_exit(ret_ring);
	return e;
}

static int ring_open(uint32_t depth, bool polled, struct thmqi_ring **ret_ring)
{
	struct thmqi_ring *r;
	int e;

	if (depth == 0 || depth > 32768)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->depth = depth;
	r->event_fd = -1;
	thmqi_ring_tables_init(r);
	e = polled ? make_polled(depth, &r->ring, &r->setup_flags) :
		     make_best(depth, &r->ring, &r->setup_flags);
	if (e) {
		free(r);
		return e;
	}
	r->enabled = !(r->setup_flags & IORING_SETUP_R_DISABLED);
	r->stats.single_issuer = !!(r->setup_flags & IORING_SETUP_SINGLE_ISSUER);
	r->stats.defer_taskrun = !!(r->setup_flags & IORING_SETUP_DEFER_TASKRUN);
	r->polled = polled;
	thmqi_ring_tables_register(r, &r->ring);
	*ret_ring = r;
	return 0;
}

int thmqi_ring_open(uint32_t depth, struct thmqi_ring **ret_ring)
{
	return ring_open(depth, false, ret_ring);
}

int thmqi_ring_open_polled(uint32_t depth, struct thmqi_ring **ret_ring)
{
	return ring_open(depth, true, ret_ring);
}

/* The registration of the descriptor belongs to the thread that made it: any other must not undo it, since the
 * same number may be another ring of its own. It goes away with that thread. */
static void forget_registered_fd(struct thmqi_ring *r)
{
	if (!(r->ring.int_flags & LIBURING_REGISTERED_RING))
		return;
	if (r->issuer == self())
		io_uring_unregister_ring_fd(&r->ring);
	r->ring.int_flags &= (uint8_t)~LIBURING_REGISTERED_RING;
	r->ring.enter_ring_fd = r->ring.ring_fd;
}

void thmqi_ring_close(struct thmqi_ring *r)
{
	if (!r)
		return;
	forget_registered_fd(r);
	thmqi_ring_tables_unregister(r);
	io_uring_queue_exit(&r->ring);
	if (r->event_fd >= 0)
		close(r->event_fd);
	free(r->polls);
	free(r);
}

/* ------------------------------------------------------------ who drives it */

/* Prepared but not submitted, oldest first. */
static struct io_uring_sqe *unsubmitted(struct io_uring *ring, uint32_t i)
{
	return &ring->sq.sqes[(ring->sq.sqe_tail - io_uring_sq_ready(ring) + i) &
			      ring->sq.ring_mask];
}

static bool in_kernel(struct thmqi_ring *r)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < io_uring_sq_ready(&r->ring); i++) {
		uint64_t user_data = unsubmitted(&r->ring, i)->user_data;

		count += user_data && !(user_data & RING_TAG_POLL);
	}
	return r->inflight > count;
}

/* They move on as they are, but for the polls: those are in the table of polls. */
static void move_unsubmitted(struct io_uring *from, struct io_uring *to)
{
	struct io_uring_sqe *sqe;

	for (uint32_t i = 0; i < io_uring_sq_ready(from); i++) {
		if (unsubmitted(from, i)->user_data & RING_TAG_POLL)
			continue;
		sqe = io_uring_get_sqe(to);
		if (sqe)
			*sqe = *unsubmitted(from, i);
	}
}

/* io_uring_enable_rings(3) by hand: liburing 2.3 declares it and does not export it. */
static int enable(struct io_uring *ring)
{
	long n = syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
			 0);

	return n < 0 ? -errno : 0;
}

/* Silent until armed: signals that nobody sleeps for would cost each completion. */
static int event_fd_register(struct io_uring *ring, int fd)
{
	int e = io_uring_register_eventfd(ring, fd);

	return e ? e : io_uring_cq_eventfd_toggle(ring, false);
}

static int rebuild(struct thmqi_ring *r)
{
	struct io_uring fresh;
	int e;

	e = make(r->depth, r->setup_flags, &fresh);
	if (e)
		return e;
	e = enable(&fresh);
	if (!e && r->event_fd >= 0)
		e = event_fd_register(&fresh, r->event_fd);
	if (e) {
		io_uring_queue_exit(&fresh);
		return e;
	}
	forget_registered_fd(r);
	thmqi_ring_tables_register(r, &fresh);
	e = thmqi_ring_polls_rearm(r, &fresh);
	if (!e && io_uring_sq_ready(&fresh))
		e = io_uring_submit(&fresh);
	if (e > 0)
		e = 0;
	move_unsubmitted(&r->ring, &fresh);
	io_uring_queue_exit(&r->ring);
	r->ring = fresh;
	return e;
}

int thmqi_ring_attach(struct thmqi_ring *r)
{
	int e = 0;

	if (r->attached && r->issuer == self())
		return 0;
	if (!r->enabled) {
		e = enable(&r->ring);
	} else if (r->issuer && r->issuer != self()) {
		/* what is polled for is found by whoever looks */
		if (!r->polled && in_kernel(r))
			return -EBUSY;
		if (r->setup_flags & IORING_SETUP_SINGLE_ISSUER)
			e = rebuild(r);
		else
			forget_registered_fd(r);
	}
	if (e)
		return e;
	r->enabled = true;
	r->issuer = self();
	r->attached = true;
	/* saves the look-up of the descriptor at each enter; without it all works */
	io_uring_register_ring_fd(&r->ring);
	return 0;
}

int thmqi_ring_detach(struct thmqi_ring *r)
{
	int e;

	if (!r->attached)
		return 0;
	if (r->issuer != self())
		return -EPERM;
	while (r->inflight || io_uring_sq_ready(&r->ring)) {
		e = thmqi_ring_wait(r, r->inflight ? UINT64_MAX : 0);
		if (e < 0)
			return e;
		thmqi_ring_reap(r, UINT32_MAX);
	}
	forget_registered_fd(r);
	r->attached = false;
	return 0;
}

/* ------------------------------------------------- submission and completion */

static inline int may_enter(struct thmqi_ring *r)
{
	if (thmqi_likely(r->attached && r->issuer == self()))
		return 0;
	return thmqi_ring_attach(r);
}

int thmqi_ring_submit(struct thmqi_ring *r)
{
	int n;

	if (!io_uring_sq_ready(&r->ring))
		return 0;
	n = may_enter(r);
	if (n)
		return n;
	r->stats.enters++;
	n = io_uring_submit(&r->ring);
	if (thmqi_likely(n > 0))
		r->stats.submitted += (uint32_t)n;
	return n == -EINTR ? 0 : n;
}

static void complete(struct thmqi_ring *r, uint64_t user_data, int res, uint32_t flags)
{
	struct thmqi_ring_op *op =
		(struct thmqi_ring_op *)(uintptr_t)(user_data & ~(uint64_t)RING_TAG_POLL);

	if (!op)
		return;
	if (thmqi_likely(!(user_data & RING_TAG_POLL)))
		r->inflight--;
	else if (!(flags & IORING_CQE_F_MORE))
		thmqi_ring_poll_ended(r, op);
	r->stats.completed++;
	op->done(op, res, flags);
}

static inline bool kernel_has_more(const struct thmqi_ring *r)
{
	return IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static inline bool ring_is_empty(const struct thmqi_ring *r)
{
	return *r->ring.cq.khead == io_uring_smp_load_acquire(r->ring.cq.ktail);
}

/* Each entry is given back before its callback runs, so that a callback may itself reap or wait. */
static uint32_t drain(struct thmqi_ring *r, uint32_t budget)
{
	const struct io_uring_cqe *cqe;
	uint32_t n = 0, flags;
	uint64_t user_data;
	int res;

	for (; n < budget && !ring_is_empty(r); n++) {
		cqe = &r->ring.cq.cqes[*r->ring.cq.khead & r->ring.cq.ring_mask];
		user_data = cqe->user_data;
		res = cqe->res;
		flags = cqe->flags;
		io_uring_cq_advance(&r->ring, 1);
		complete(r, user_data, res, flags);
	}
	return n;
}

int thmqi_ring_reap(struct thmqi_ring *r, uint32_t budget)
{
	if (ring_is_empty(r)) {
		if (thmqi_likely(!kernel_has_more(r) && !(r->polled && r->inflight)))
			return 0;
		if (may_enter(r))
			return 0;
		r->stats.enters++;
		io_uring_get_events(&r->ring);
	}
	return (int)drain(r, budget);
}

int thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe = NULL;
	uint32_t ready = io_uring_sq_ready(&r->ring);
	int e = may_enter(r);

	if (e)
		return e;
	if (r->polled) {
		e = thmqi_ring_submit(r);
		io_uring_get_events(&r->ring);
		return e < 0 && e != -EAGAIN && e != -EBUSY ? e : !ring_is_empty(r);
	}
	if (timeout_ns != UINT64_MAX)
		timeout_ns = THMQI_MIN(timeout_ns, LONGEST_WAIT_NS);
	ts.tv_sec = (int64_t)(timeout_ns / 1000000000u);
	ts.tv_nsec = (int64_t)(timeout_ns % 1000000000u);
	r->stats.enters++;
	e = io_uring_submit_and_wait_timeout(&r->ring, &cqe, 1,
					     timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
	r->stats.submitted += ready - io_uring_sq_ready(&r->ring);
	if (e == -ETIME || e == -EINTR || e == -EAGAIN || e == -EBUSY)
		return !ring_is_empty(r);
	return e < 0 ? e : !ring_is_empty(r);
}

int thmqi_ring_fd(struct thmqi_ring *r)
{
	int fd, e = may_enter(r);

	if (e)
		return e;
	if (r->event_fd >= 0)
		return r->event_fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	e = event_fd_register(&r->ring, fd);
	if (e) {
		close(fd);
		return e;
	}
	r->event_fd = fd;
	return fd;
}

bool thmqi_ring_fd_arm(struct thmqi_ring *r)
{
	if (may_enter(r))
		return true; /* what cannot be armed is not slept on */
	io_uring_cq_eventfd_toggle(&r->ring, true);
	/* Flag before the look: the kernel queues a completion, then looks at the flag. What it has queued is seen for
	 * certain by entering it: the mark that it leaves in our memory may be late on some processors. */
	atomic_thread_fence(memory_order_seq_cst);
	if (ring_is_empty(r)) {
		r->stats.enters++;
		io_uring_get_events(&r->ring);
	}
	return !ring_is_empty(r);
}

void thmqi_ring_fd_disarm(struct thmqi_ring *r)
{
	uint64_t count;

	io_uring_cq_eventfd_toggle(&r->ring, false);
	if (r->event_fd >= 0 && read(r->event_fd, &count, sizeof(count)) < 0)
		return; /* it had not been told */
}

bool thmqi_ring_is_single_issuer(const struct thmqi_ring *r)
{
	return r->setup_flags & IORING_SETUP_SINGLE_ISSUER;
}

bool thmqi_ring_defers_taskrun(const struct thmqi_ring *r)
{
	return r->setup_flags & IORING_SETUP_DEFER_TASKRUN;
}

uint32_t thmqi_ring_inflight(const struct thmqi_ring *r)
{
	return r->inflight;
}

void thmqi_ring_stats(struct thmqi_ring *r, struct thmqi_ring_stats *ret)
{
	*ret = r->stats;
}
