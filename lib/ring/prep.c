/* SPDX-License-Identifier: Apache-2.0 */
/* prep.c - one function per operation: fills an entry of the submission queue, enters no kernel. */
#include "internal.h"

static struct io_uring_sqe *entry(struct thmqi_ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (thmqi_likely(sqe != NULL))
		return sqe;
	if (thmqi_ring_submit(r) < 0)
		return NULL;
	return io_uring_get_sqe(&r->ring);
}

static void aim(struct io_uring_sqe *sqe, int slot)
{
	if (slot >= 0) {
		sqe->fd = slot;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
}

static int queued(struct thmqi_ring *r, struct io_uring_sqe *sqe, struct thmqi_ring_op *op)
{
	sqe->user_data = (uint64_t)(uintptr_t)op;
	r->inflight++;
	return 0;
}

int thmqi_ring_write(struct thmqi_ring *r, int fd, int slot, const struct thmqi_buf *buf,
		     const void *data, uint32_t len, uint64_t offset, int rw_flags,
		     struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);
	int piece;

	if (!sqe)
		return -EAGAIN;
	piece = thmqi_ring_piece(r, buf, data, len);
	if (piece >= 0)
		io_uring_prep_write_fixed(sqe, fd, data, len, offset, piece);
	else
		io_uring_prep_write(sqe, fd, data, len, offset);
	sqe->rw_flags = rw_flags;
	aim(sqe, slot);
	return queued(r, sqe, op);
}

int thmqi_ring_read(struct thmqi_ring *r, int fd, int slot, const struct thmqi_buf *buf, void *data,
		    uint32_t len, uint64_t offset, struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);
	int piece;

	if (!sqe)
		return -EAGAIN;
	piece = thmqi_ring_piece(r, buf, data, len);
	if (piece >= 0)
		io_uring_prep_read_fixed(sqe, fd, data, len, offset, piece);
	else
		io_uring_prep_read(sqe, fd, data, len, offset);
	aim(sqe, slot);
	return queued(r, sqe, op);
}

int thmqi_ring_fsync(struct thmqi_ring *r, int fd, int slot, bool data_only,
		     struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
	aim(sqe, slot);
	return queued(r, sqe, op);
}

int thmqi_ring_fallocate(struct thmqi_ring *r, int fd, int mode, uint64_t offset, uint64_t len,
			 struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	/* filled by hand: liburing 2.3's helper takes off_t, and the length travels in addr */
	io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, fd, (const void *)(uintptr_t)len, (unsigned)mode,
			 offset);
	return queued(r, sqe, op);
}

int thmqi_ring_openat(struct thmqi_ring *r, int dirfd, const char *name, int flags, int mode,
		      struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_openat(sqe, dirfd, name, flags, (mode_t)mode);
	return queued(r, sqe, op);
}

int thmqi_ring_renameat(struct thmqi_ring *r, int dirfd, const char *from, const char *to,
			struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_renameat(sqe, dirfd, from, dirfd, to, 0);
	return queued(r, sqe, op);
}

int thmqi_ring_unlinkat(struct thmqi_ring *r, int dirfd, const char *name, struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_unlinkat(sqe, dirfd, name, 0);
	return queued(r, sqe, op);
}

int thmqi_ring_close_fd(struct thmqi_ring *r, int fd, struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe = entry(r);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_close(sqe, fd);
	return queued(r, sqe, op);
}

/* ------------------------------------------------------------------ multishot polls */

static void prep_poll(struct io_uring_sqe *sqe, const struct ring_poll *p)
{
	io_uring_prep_poll_multishot(sqe, p->fd, p->events);
	sqe->user_data = (uint64_t)(uintptr_t)p->op | RING_TAG_POLL;
}

static int polls_grow(struct thmqi_ring *r)
{
	uint32_t count = r->poll_count ? r->poll_count * 2 : 16;
	struct ring_poll *grown = realloc(r->polls, count * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	memset(grown + r->poll_count, 0, (count - r->poll_count) * sizeof(*grown));
	r->polls = grown;
	r->poll_count = count;
	return 0;
}

int thmqi_ring_poll_room(struct thmqi_ring *r, uint32_t count)
{
	uint32_t free, i;

	do {
		for (i = free = 0; i < r->poll_count && free < count; i++)
			free += !r->polls[i].op;
	} while (free < count && polls_grow(r) == 0);
	return free < count ? -ENOMEM : 0;
}

/* A free entry; the table grows when a connection is made, never on the message path. */
static struct ring_poll *poll_entry(struct thmqi_ring *r)
{
	uint32_t i;

	for (i = 0; i < r->poll_count; i++) {
		if (!r->polls[i].op)
			return &r->polls[i];
	}
	return polls_grow(r) == 0 ? &r->polls[i] : NULL;
}

int thmqi_ring_poll_multishot(struct thmqi_ring *r, int fd, uint32_t events,
			      struct thmqi_ring_op *op)
{
	struct ring_poll *p = poll_entry(r);
	struct io_uring_sqe *sqe;

	if (!p)
		return -ENOMEM;
	sqe = entry(r);
	if (!sqe)
		return -EAGAIN;
	*p = (struct ring_poll){.op = op, .fd = fd, .events = events};
	prep_poll(sqe, p);
	return 0;
}

static struct ring_poll *poll_find(struct thmqi_ring *r, const struct thmqi_ring_op *op)
{
	for (uint32_t i = 0; i < r->poll_count; i++) {
		if (r->polls[i].op == op)
			return &r->polls[i];
	}
	return NULL;
}

int thmqi_ring_cancel(struct thmqi_ring *r, struct thmqi_ring_op *op)
{
	struct io_uring_sqe *sqe;

	if (!op || !poll_find(r, op))
		return -ENOENT;
	sqe = entry(r);
	if (!sqe)
		return -EAGAIN;
	io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)op | RING_TAG_POLL, 0);
	sqe->user_data = 0;
	return 0;
}

bool thmqi_ring_has_more(uint32_t flags)
{
	return flags & IORING_CQE_F_MORE;
}

void thmqi_ring_poll_ended(struct thmqi_ring *r, struct thmqi_ring_op *op)
{
	struct ring_poll *p = poll_find(r, op);

	if (p)
		p->op = NULL;
}

int thmqi_ring_polls_rearm(struct thmqi_ring *r, struct io_uring *ring)
{
	struct io_uring_sqe *sqe;

	for (uint32_t i = 0; i < r->poll_count; i++) {
		if (!r->polls[i].op)
			continue;
		sqe = io_uring_get_sqe(ring);
		if (!sqe) {
			io_uring_submit(ring);
			sqe = io_uring_get_sqe(ring);
		}
		if (!sqe)
			return -EAGAIN;
		prep_poll(sqe, &r->polls[i]);
	}
	return 0;
}
