/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inline.c - the queue half where there is neither io_uring nor leave for threads: an operation blocks its core when it
 * is submitted, and completes by callback from the core's loop.
 */
#include "internal.h"

struct thmqi_disk_queue {
	struct thmq_core *core;
	struct thmqi_poller poller;
	struct disk_list finished;
	uint32_t inflight, depth;
};

static int deliver(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);
	struct thmqi_disk_op *op;
	uint32_t done = 0;

	for (; done < budget && (op = disk_list_take(&q->finished)); done++) {
		q->inflight--;
		op->done(op, op->result);
	}
	return (int)done;
}

static bool arm(struct thmqi_poller *poller)
{
	return thmqi_container(poller, struct thmqi_disk_queue, poller)->finished.first != NULL;
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
	q->poller.poll = deliver;
	q->poller.name = "disk, inline";
	q->poller.arm = arm;
	thmqi_core_add_poller(core, &q->poller);
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	while (q->inflight)
		deliver(&q->poller, UINT32_MAX);
	thmqi_core_remove_poller(q->core, &q->poller);
	free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	if (q->inflight >= q->depth)
		return -EAGAIN;
	if (op->opcode > THMQI_DISK_OPEN)
		return -EINVAL;
	op->queue = q;
	op->result = thmqi_disk_posix_run(op);
	disk_list_add(&q->finished, op);
	q->inflight++;
	disk_count_real(q->core, op);
	return 0;
}

static bool queue_wait(struct thmqi_disk_queue *q, uint64_t timeout_ns)
{
	(void)timeout_ns; /* all of it has happened already */
	return deliver(&q->poller, UINT32_MAX) > 0;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

const struct thmqi_disk_table thmqi_disk_inline = {
	THMQI_DISK_POSIX_CALLING_HALF, .queue_open = queue_open,         .queue_close = queue_close,
	.queue_submit = queue_submit,  .queue_inflight = queue_inflight, .queue_wait = queue_wait,
	.dir_ways = thmqi_disk_probe,
};
