/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.c - the queue half on the core's io_uring. Files are registered on their first use. A transfer that the kernel
 * did in part is continued. Opening, allocating and renaming are left to the kernel's own workers, so that no loop waits.
 */
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

struct thmqi_disk_queue {
	struct thmq_core *core;
	uint32_t inflight, depth;
};

static void register_file(struct thmqi_ring *ring, struct thmqi_disk_file *file)
{
	if (file->slot != -1)
		return;
	file->ring = ring;
	file->slot = thmqi_ring_file_add(ring, file->fd);
	if (file->slot < 0)
		file->slot = -2; /* asked once: the table is full or refused */
}

static void on_done(struct thmqi_ring_op *ring_op, int res, uint32_t flags);

static int transfer(struct thmqi_disk_queue *q, struct thmqi_disk_op *op, uint32_t done)
{
	struct thmqi_disk_file *f = op->file;
	uint8_t *data = (uint8_t *)op->data + done;
	int slot;

	register_file(q->core->ring, f);
	slot = f->ring == q->core->ring && f->slot >= 0 ? f->slot : -1;
	if (op->opcode == THMQI_DISK_READ)
		return thmqi_ring_read(q->core->ring, f->fd, slot, op->buf, data, op->len - done,
				       op->offset + done, &op->ring_op);
	return thmqi_ring_write(q->core->ring, f->fd, slot, op->buf, data, op->len - done,
				op->offset + done, op->flags & THMQI_DISK_DSYNC ? RWF_DSYNC : 0,
				&op->ring_op);
}

static void complete(struct thmqi_disk_op *op, int64_t result)
{
	op->queue->inflight--;
	op->done(op, result);
}

static void on_transfer(struct thmqi_disk_op *op, int res)
{
	int64_t done;

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (res < 0) {
		complete(op, res);
		return;
	} else if (res == 0) { /* end of file; for a write: no progress */
		complete(op, op->opcode == THMQI_DISK_READ ? op->result : -EIO);
		return;
	}
	done = op->result += res;
	if (done >= op->len)
		complete(op, op->opcode == THMQI_DISK_READ ? done : 0);
	else if (transfer(op->queue, op, (uint32_t)done) != 0)
		complete(op, -EIO);
}

static void on_created(struct thmqi_disk_op *op, int res)
{
	struct thmqi_disk_file *file;

	if (res == -EINVAL && op->result == 0) { /* no O_DIRECT here */
		op->result = 1;
		if (thmqi_ring_openat(op->queue->core->ring, op->dir->fd, op->name,
				      O_RDWR | O_CREAT | O_CLOEXEC, 0666, &op->ring_op) == 0)
			return;
	}
	if (res < 0) {
		complete(op, res);
		return;
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		close(res);

		complete(op, -ENOMEM);
		return;
	}
	file->fd = res;
	file->slot = -1;
	file->direct = op->result == 0;
	op->file = file;
	complete(op, 0);
}

static void on_done(struct thmqi_ring_op *ring_op, int res, uint32_t flags)
{
	struct thmqi_disk_op *op = thmqi_container(ring_op, struct thmqi_disk_op, ring_op);

	(void)flags;
	switch (op->opcode) {
	case THMQI_DISK_READ:
	case THMQI_DISK_WRITE:
		on_transfer(op, res);
		break;
	case THMQI_DISK_CREATE:
		on_created(op, res);
		break;
	case THMQI_DISK_ALLOCATE:
		/* without fallocate the zeros that are written make the file grow */
		complete(op, res == -EOPNOTSUPP || res == -ENOSYS ? 0 : THMQI_MIN(res, 0));
		break;
	default:
		complete(op, THMQI_MIN(res, 0));
	}
}

static int queue_open(void *ctx, struct thmq_core *core, uint32_t depth,
		      struct thmqi_disk_queue **ret_queue)
{
	struct thmqi_disk_queue *q = calloc(1, sizeof(*q));

	(void)ctx;
	if (!q)
		return -ENOMEM;
	q->core = core;
	q->depth = depth;
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	while (q->inflight) {
		thmqi_ring_submit(q->core->ring);
		if (thmqi_ring_reap(q->core->ring, 64) == 0)
			thmqi_ring_wait(q->core->ring, 1000000);
	}
	free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	struct thmqi_ring *ring = q->core->ring;
	int rc;

	if (q->inflight >= q->depth)
		return -EAGAIN;
	op->queue = q;
	op->result = 0;
	op->ring_op.done = on_done;
	switch (op->opcode) {
	case THMQI_DISK_READ:
	case THMQI_DISK_WRITE:
		rc = transfer(q, op, 0);
		break;
	case THMQI_DISK_FLUSH:
		register_file(ring, op->file);
		rc = thmqi_ring_fsync(ring, op->file->fd,
				      op->file->ring == ring ? op->file->slot : -1, true,
				      &op->ring_op);
		break;
	case THMQI_DISK_CREATE:
		rc = thmqi_ring_openat(ring, op->dir->fd, op->name,
				       O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0666, &op->ring_op);
		break;
	case THMQI_DISK_ALLOCATE:
		rc = thmqi_ring_fallocate(ring, op->file->fd, 0, 0, op->offset + op->len,
					  &op->ring_op);
		break;
	case THMQI_DISK_RENAME:
		rc = thmqi_ring_renameat(ring, op->dir->fd, op->name, op->name2, &op->ring_op);
		break;
	case THMQI_DISK_UNLINK:
		rc = thmqi_ring_unlinkat(ring, op->dir->fd, op->name, &op->ring_op);
		break;
	case THMQI_DISK_SYNC_DIR:
		rc = thmqi_ring_fsync(ring, op->dir->fd, -1, false, &op->ring_op);
		break;
	case THMQI_DISK_CLOSE:
		thmqi_ring_file_remove(ring, op->file->ring == ring ? op->file->slot : -1);
		rc = thmqi_ring_close_fd(ring, op->file->fd, &op->ring_op);
		if (rc == 0)
			free(op->file);
		break;
	default:
		return -EINVAL;
	}
	if (rc)
		return rc;
	q->inflight++;
	disk_count(q->core, op);
	return 0;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

const struct thmqi_disk_table thmqi_disk_uring = {
	THMQI_POSIX_CALLING_HALF, .queue_open = queue_open, .queue_close = queue_close,
	.queue_submit = queue_submit, .queue_inflight = queue_inflight};
