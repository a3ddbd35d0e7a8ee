/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.c - the queue half on the core's io_uring. Files are registered on their first use. A transfer that the kernel
 * did in part is continued. Small transfers go to a second ring, the core's as well, where probe.c found that their
 * completions are better polled for. Opening, allocating and renaming are left to the kernel's own workers, so that no loop waits.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

#define RETRIES_MAX 64u /* of one operation: interrupted or refused for now */
#define POLLED_BYTES_MAX (128u << 10)
#define LIMIT_LOOK_NS 1000000u /* the host may set RLIMIT_FSIZE: for messages it is looked at again so long after the last look */

struct thmqi_disk_queue {
	struct thmq_core *core;
	struct thmqi_ring *ring;
	uint32_t inflight, depth;
	uint32_t background;        /* of them, those of preparation that run */
	struct disk_list waiting;   /* preparation that waits for its turn */
	struct disk_list again;     /* found no room in the ring */
	struct disk_list refused;   /* writes beyond the limit of files */
	struct thmqi_poller poller; /* tries those again */
	struct thmqi_list files;    /* with a slot in the ring's table */
	uint64_t size_max;          /* of files, by the process's limit … */
	uint64_t looked_ns;         /* … when that was looked at */
};

static void on_done(struct thmqi_ring_op *ring_op, int res, uint32_t flags);

/* -------------------------------------------------------------------- files */

static int slot_of(struct thmqi_disk_queue *q, struct thmqi_disk_file *file)
{
	if (thmqi_unlikely(!file->ring)) { /* asked once: the table may be full or refused */
		file->ring = q->ring;
		file->slot = thmqi_ring_file_add(q->ring, file->fd);
		thmqi_list_add_tail(&q->files, &file->link);
	}
	return file->ring == q->ring ? file->slot : -1;
}

static void forget_slot(struct thmqi_disk_file *file)
{
	if (file->ring && file->slot >= 0)
		thmqi_ring_file_remove(file->ring, file->slot);
	file->slot = -1;
	file->ring = NULL;
	thmqi_list_del(&file->link);
}

/* ---------------------------------------------------------------- size limit */

static void look_at_limit(struct thmqi_disk_queue *q)
{
	struct rlimit limit = {.rlim_cur = RLIM_INFINITY};

	getrlimit(RLIMIT_FSIZE, &limit);
	q->size_max = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
	q->looked_ns = q->core->now_ns;
}

/* The kernel would refuse it by SIGXFSZ, too, to the host's thread. */
static bool is_beyond_limit(struct thmqi_disk_queue *q, const struct thmqi_disk_op *op)
{
	if (op->opcode != THMQI_DISK_WRITE)
		return false;
	if ((op->flags & THMQI_DISK_BACKGROUND) || q->core->now_ns - q->looked_ns > LIMIT_LOOK_NS)
		look_at_limit(q);
	return op->offset + op->len > q->size_max;
}

/* --------------------------------------------------------------------- start */

static int start_transfer(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	struct thmqi_disk_file *f = op->file;
	uint32_t done = (uint32_t)op->result;
	uint8_t *data = (uint8_t *)op->data + done;
	struct thmqi_ring *ring = op->polled ? q->core->polled : q->ring;
	int slot = op->polled ? -1 : slot_of(q, f); /* the slots are the main ring's */
	bool dsync = (op->flags & THMQI_DISK_DSYNC) && !f->split;

	if (thmqi_unlikely(is_beyond_limit(q, op))) {
		disk_list_add(&q->refused, op);
		return 0;
	}
	if (op->opcode == THMQI_DISK_READ)
		return thmqi_ring_read(ring, f->fd, slot, op->buf, data, op->len - done,
				       op->offset + done, &op->ring_op);
	return thmqi_ring_write(ring, f->fd, slot, op->buf, data, op->len - done, op->offset + done,
				dsync ? RWF_DSYNC : 0, &op->ring_op);
}

/* What takes long enough to sleep meanwhile, and preparation, is not polled for. */
static bool may_be_polled(struct thmqi_disk_queue *q, const struct thmqi_disk_op *op)
{
	return (op->opcode == THMQI_DISK_WRITE || op->opcode == THMQI_DISK_READ) &&
	       op->file->polled && q->core->polled && op->len <= POLLED_BYTES_MAX &&
	       !(op->flags & THMQI_DISK_BACKGROUND) && !is_beyond_limit(q, op);
}

/* Bring @op, from its beginning or from where it was left, into the ring. 0; -EAGAIN; -EINVAL. */
static int start(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	struct thmqi_ring_op *ring_op = &op->ring_op;

	if (op->flushing)
		return thmqi_ring_fsync(q->ring, op->file->fd, slot_of(q, op->file), true, ring_op);
	switch (op->opcode) {
	case THMQI_DISK_READ:
	case THMQI_DISK_WRITE:
		return start_transfer(q, op);
	case THMQI_DISK_FLUSH:
		return thmqi_ring_fsync(q->ring, op->file->fd, slot_of(q, op->file), true, ring_op);
	case THMQI_DISK_CREATE: /* result 1: the file system has no O_DIRECT */
		return thmqi_ring_openat(q->ring, op->dir->fd, op->name,
					 O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC |
						 (op->result ? 0 : O_DIRECT),
					 DISK_MODE, ring_op);
	case THMQI_DISK_OPEN: /* likewise */
		return thmqi_ring_openat(q->ring, op->dir->fd, op->name,
					 O_RDWR | O_CLOEXEC | (op->result ? 0 : O_DIRECT), 0,
					 ring_op);
	case THMQI_DISK_ALLOCATE:
		return thmqi_ring_fallocate(q->ring, op->file->fd, 0, 0, op->offset + op->len,
					    ring_op);
	case THMQI_DISK_RENAME:
		return thmqi_ring_renameat(q->ring, op->dir->fd, op->name, op->name2, ring_op);
	case THMQI_DISK_UNLINK:
		return thmqi_ring_unlinkat(q->ring, op->dir->fd, op->name, ring_op);
	case THMQI_DISK_SYNC_DIR:
		return thmqi_ring_fsync(q->ring, op->dir->fd, -1, false, ring_op);
	case THMQI_DISK_CLOSE:
		return thmqi_ring_close_fd(q->ring, op->file->fd, ring_op);
	default:
		return -EINVAL;
	}
}

/* It is the queue's already: it goes on, at the latest in a later iteration. */
static void go_on(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	if (start(q, op) != 0)
		disk_list_add(&q->again, op);
}

static void start_waiting(struct thmqi_disk_queue *q)
{
	while (q->waiting.first && q->background < DISK_BACKGROUND_MAX) {
		q->background++;
		go_on(q, disk_list_take(&q->waiting));
	}
}

static void complete(struct thmqi_disk_op *op, int64_t result);

static int try_again(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);
	struct thmqi_disk_op *next;
	uint32_t done = 0;

	for (; thmqi_unlikely(q->refused.first != NULL); done++)
		complete(disk_list_take(&q->refused), -EFBIG);
	for (; done < budget && q->again.first; done++) {
		next = q->again.first->next; /* it may lie in another list afterwards */
		if (start(q, q->again.first) != 0)
			break;
		q->again.first = next;
	}
	if (thmqi_unlikely(q->core->polled != NULL)) {
		thmqi_ring_submit(q->core->polled); /* what could not be, or goes on */
		done += (uint32_t)thmqi_ring_reap(q->core->polled, budget);
	}
	return (int)done;
}

/* Nobody tells of what is polled for: the core must not sleep. */
static bool arm(struct thmqi_poller *poller)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);

	return q->again.first || q->refused.first || (q->core->polled && thmqi_ring_inflight(q->core->polled));
}

/* ---------------------------------------------------------------------- done */

static void complete(struct thmqi_disk_op *op, int64_t result)
{
	struct thmqi_disk_queue *q = op->queue;

	q->inflight--;
	if (op->flags & THMQI_DISK_BACKGROUND) {
		q->background--;
		start_waiting(q);
	}
	op->done(op, result);
}

static bool is_split(const struct thmqi_disk_op *op)
{
	return op->opcode == THMQI_DISK_WRITE && (op->flags & THMQI_DISK_DSYNC) && op->file->split;
}

/* In order rather than linked: the kernel would begin it no sooner, since it does so from this thread, too. */
static void flush_behind(struct thmqi_disk_op *op)
{
	op->flushing = 1;
	op->polled = 0;
	go_on(op->queue, op);
}

static void on_transfer(struct thmqi_disk_op *op, int res)
{
	if (res < 0) {
		complete(op, res);
		return;
	}
	op->result += res;
	if (op->result >= op->len && is_split(op))
		flush_behind(op);
	else if (op->result >= op->len)
		complete(op, op->opcode == THMQI_DISK_READ ? op->result : 0);
	else if (res == 0 || res % DISK_SECTOR) /* the end of the file; a write goes on or fails */
		complete(op, op->opcode == THMQI_DISK_READ ? op->result : -EIO);
	else
		go_on(op->queue, op);
}

static void on_opened(struct thmqi_disk_op *op, int res)
{
	if (res == -EINVAL && !op->result) {
		op->result = 1;
		go_on(op->queue, op);
		return;
	}
	if (res >= 0) {
		op->file = thmqi_disk_posix_file_make(res, !op->result);
		if (op->file) {
			disk_file_of_dir(op->file, op->dir);
		} else {
			close(res);
			res = -ENOMEM;
		}
	}
	complete(op, THMQI_MIN(res, 0));
}

static void on_done(struct thmqi_ring_op *ring_op, int res, uint32_t flags)
{
	struct thmqi_disk_op *op = thmqi_container(ring_op, struct thmqi_disk_op, ring_op);

	(void)flags;
	if (thmqi_unlikely((res == -EINTR || res == -EAGAIN) && op->retries < RETRIES_MAX &&
			   op->opcode != THMQI_DISK_CLOSE)) {
		op->retries++;
		op->polled = 0;
		go_on(op->queue, op);
		return;
	}
	if (thmqi_unlikely(op->polled && (res == -EOPNOTSUPP || res == -EINVAL))) {
		op->polled = 0; /* the device cannot do this one by polling */
		go_on(op->queue, op);
		return;
	}
	if (op->flushing) {
		complete(op, THMQI_MIN(res, 0));
		return;
	}
	switch (op->opcode) {
	case THMQI_DISK_READ:
	case THMQI_DISK_WRITE:
		on_transfer(op, res);
		break;
	case THMQI_DISK_CREATE:
	case THMQI_DISK_OPEN:
		on_opened(op, res);
		break;
	case THMQI_DISK_ALLOCATE:
		if (res == -EOPNOTSUPP || res == -ENOSYS) /* sets the size, which is quick */
			res = thmqi_disk_posix_file_allocate(op->file, op->offset + op->len);
		complete(op, THMQI_MIN(res, 0));
		break;
	case THMQI_DISK_CLOSE:
		thmqi_disk_posix_file_free(op->file);
		complete(op, THMQI_MIN(res, 0));
		break;
	default:
		complete(op, THMQI_MIN(res, 0));
	}
}

/* --------------------------------------------------------------------- queue */

static int queue_open(void *ctx, struct thmq_core *core, uint32_t depth,
		      struct thmqi_disk_queue **ret_queue)
{
	struct thmqi_disk_queue *q = calloc(1, sizeof(*q));

	(void)ctx;
	if (!q)
		return -ENOMEM;
	q->core = core;
	q->ring = core->ring;
	q->depth = depth;
	q->poller.poll = try_again;
	q->poller.name = "disk, io_uring";
	q->poller.arm = arm;
	thmqi_list_init(&q->files);
	look_at_limit(q);
	thmqi_core_add_poller(core, &q->poller);
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	struct thmqi_list *it, *next;

	while (q->inflight) {
		try_again(&q->poller, UINT32_MAX);
		thmqi_ring_submit(q->ring);
		if (thmqi_ring_reap(q->ring, 64) == 0 && !arm(&q->poller))
			thmqi_ring_wait(q->ring, 1000000);
	}
	thmqi_core_remove_poller(q->core, &q->poller);
	/* files may live longer than the ring */
	thmqi_list_each_safe(it, next, &q->files)
	{
		forget_slot(thmqi_container(it, struct thmqi_disk_file, link));
	}
	free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	int rc;

	if (q->inflight >= q->depth)
		return -EAGAIN;
	op->queue = q;
	op->result = 0;
	op->retries = 0;
	op->flushing = 0;
	op->ring_op.done = on_done;
	op->polled = may_be_polled(q, op);
	if (op->opcode == THMQI_DISK_CLOSE)
		forget_slot(op->file);
	if ((op->flags & THMQI_DISK_BACKGROUND) && q->background >= DISK_BACKGROUND_MAX) {
		disk_list_add(&q->waiting, op);
	} else {
		rc = start(q, op);
		if (thmqi_unlikely(rc))
			return rc;
		if (op->polled)
			thmqi_ring_submit(
				q->core->polled); /* the loop submits to its own ring only */
		q->background += !!(op->flags & THMQI_DISK_BACKGROUND);
	}
	q->inflight++;
	disk_count_real(q->core, op);
	return 0;
}

static bool queue_wait(struct thmqi_disk_queue *q, uint64_t timeout_ns)
{
	const struct thmqi_clock *clock = q->core->clock;
	uint64_t now = clock->now_ns(clock->ctx),
		 end = now + THMQI_MIN(timeout_ns, UINT64_MAX - now);

	for (; q->inflight; now = clock->now_ns(clock->ctx)) {
		if (try_again(&q->poller, UINT32_MAX))
			return true;
		thmqi_ring_submit(q->ring);
		if (thmqi_ring_reap(q->ring, 64) > 0)
			return true;
		if (now >= end)
			return false;
		if (!arm(&q->poller))
			thmqi_ring_wait(q->ring, THMQI_MIN(end - now, 1000000u));
	}
	return false;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

const struct thmqi_disk_table thmqi_disk_uring = {
	THMQI_DISK_POSIX_CALLING_HALF, .queue_open = queue_open,         .queue_close = queue_close,
	.queue_submit = queue_submit,  .queue_inflight = queue_inflight, .queue_wait = queue_wait,
	.dir_ways = thmqi_disk_probe,
};
