/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit.c - group commit: when a batch is written, how it is made durable, and when that is said. Completions settle in
 * log order. A write with DSYNC proves durability only if nothing unflushed lies below it; otherwise it is written plainly
 * and a flush follows.
 */
#include "internal.h"

/* Below this a batch waits for a write in flight to end rather than go alone: what arrives meanwhile joins it. */
#define BATCH_TARGET (64u << 10)
/* So many small writes may be in flight together: one on the device, one behind it. */
#define SMALL_WRITES 2u

static void settle(struct thmq_log *log);

void thmqi_log_fail(struct thmq_log *log, int error)
{
	if (log->failed)
		return;
	log->failed = error;
	if (log->opts.events && log->opts.events->failed)
		log->opts.events->failed(log->opts.ctx, error);
}

/* ------------------------------------------------------------------ writes */

static void on_written(struct thmqi_disk_op *op, int64_t result)
{
	struct flight *flight = thmqi_container(op, struct flight, op);
	struct thmq_log *log = flight->log;

	thmqi_buf_unref(flight->buf);
	flight->buf = NULL;
	flight->state = BATCH_WRITTEN;
	if (result < 0) {
		thmqi_log_fail(log, (int)result);
		return;
	}
	settle(log);
}

/* Is anything below @flight written, or being written, without a flush that covers it? */
static bool plain_below(const struct thmq_log *log)
{
	return log->plain_index > log->durable_index;
}

static bool submit(struct thmq_log *log, struct flight *flight)
{
	flight->dsync = flight->needs_durable && !plain_below(log);
	flight->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
					    .flags = flight->dsync ? THMQI_DISK_DSYNC : 0,
					    .len = flight->len,
					    .file = flight->segment->file,
					    .buf = flight->buf,
					    .data = flight->buf->data,
					    .offset = flight->position - flight->segment->position,
					    .done = on_written};
	/* a pad's length is the rest of its segment: only its first block is written */
	if (((struct batch_header *)flight->buf->data)->type == BATCH_PAD)
		flight->op.len = THMQI_BLOCK;
	if (log->disk->queue_submit(log->queue, &flight->op) != 0)
		return false;
	flight->state = BATCH_WRITING;
	if (!flight->dsync) {
		log->plain_index = flight->index;
		flight->segment->unflushed = true;
	}
	if (flight->needs_durable)
		log->want_durable = flight->index;
	return true;
}

static void submit_waiting(struct thmq_log *log)
{
	uint32_t i;

	for (i = log->flight_head; i != log->flight_tail; i++) {
		struct flight *flight = &log->flights[i % DEPTH_MAX];

		if (flight->state == BATCH_WAITING && !submit(log, flight))
			return;
	}
}

/*
 * Write the forming batch now? With nothing in flight: at once, that is the lowest latency. With writes in flight: only
 * if it has become worth a write of its own, or fewer than SMALL_WRITES are in flight. Otherwise the next completion asks
 * again: a group commit is whatever arrived while the last writes were in flight.
 */
static bool worth_writing(const struct thmq_log *log)
{
	uint32_t inflight = log->flight_tail - log->flight_head;

	if (inflight == 0)
		return true;
	if (inflight >= log->depth)
		return false;
	return log->forming.used >= THMQI_MIN(BATCH_TARGET, log->opts.batch_bytes / 2) || inflight < SMALL_WRITES;
}

void thmqi_log_commit(struct thmq_log *log)
{
	if (!log->disk || log->failed)
		return;
	if (log->forming.buf && log->forming.runs && !log->forming.open && worth_writing(log))
		thmqi_log_seal(log);
	submit_waiting(log);
}

/* ----------------------------------------------------------------- flushes */

static void on_flushed(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log *log = thmqi_container(op, struct log_flush, op)->log;

	log->flushing--;
	if (result < 0) {
		thmqi_log_fail(log, (int)result);
		return;
	}
	if (log->flushing == 0 && !log->failed) {
		if (log->flush_index > log->durable_index) {
			log->durable_index = log->flush_index;
			log->durable_position = log->flush_position;
		}
		settle(log);
	}
}

/* Every segment with plain writes gets its flush; what was written in order by now is durable when all are done. */
static void flush(struct thmq_log *log)
{
	uint32_t i, n = 0;

	log->flush_index = log->written_index;
	log->flush_position = log->written_position;
	for (i = log->segment_count; i-- > 0 && n < THMQI_ARRAY_COUNT(log->flushes);) {
		struct segment *s = log->segments[i];
		struct log_flush *f = &log->flushes[n];

		if (!s->unflushed)
			continue;
		f->log = log;
		f->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = s->file, .done = on_flushed};
		if (log->disk->queue_submit(log->queue, &f->op) != 0) {
			log->flush_index = 0; /* not all of them: the next one covers it */
			break;
		}
		s->unflushed = false;
		n++;
	}
	/* plain writes that have not settled are not counted as covered, whether they are or not */
	for (i = log->flight_head; i != log->flight_tail; i++) {
		struct flight *flight = &log->flights[i % DEPTH_MAX];

		if (flight->state >= BATCH_WRITING && !flight->dsync)
			flight->segment->unflushed = true;
	}
	log->flushing = n;
}

/* ------------------------------------------------------------------ settle */

static void tell(struct thmq_log *log)
{
	const struct thmq_log_events *e = log->opts.events;
	bool tells = e && e->settled;

	if (log->written_index > log->told_written) {
		log->told_written = log->written_index;
		if (tells)
			e->settled(log->opts.ctx, THMQ_DURABILITY_WRITTEN, log->written_index);
	}
	if (log->durable_index > log->told_durable) {
		log->told_durable = log->durable_index;
		if (tells)
			e->settled(log->opts.ctx, THMQ_DURABILITY_DURABLE, log->durable_index);
	}
	if (log->starved && !log->failed) {
		log->starved = false;
		if (e && e->room)
			e->room(log->opts.ctx);
	}
}

static void settle(struct thmq_log *log)
{
	struct flight *flight;

	if (log->failed)
		return;
	while (log->flight_head != log->flight_tail) {
		flight = &log->flights[log->flight_head % DEPTH_MAX];
		if (flight->state != BATCH_WRITTEN)
			break;
		log->written_index = flight->index;
		log->written_position = flight->position + flight->len;
		/* nothing unflushed lay below it when it was submitted, and all below has settled */
		if (flight->dsync) {
			log->durable_index = flight->index;
			log->durable_position = log->written_position;
		}
		flight->state = BATCH_FREE;
		log->flight_head++;
	}
	if (log->want_durable > log->durable_index && log->written_index > log->durable_index &&
	    log->plain_index > log->durable_index && !log->flushing)
		flush(log);
	tell(log);
	thmqi_log_commit(log);
}

int thmq_log_flush(struct thmq_log *log, uint64_t *ret_index)
{
	if (log->failed)
		return -THMQ_EFAILED;
	*ret_index = log->chain.index;
	if (!log->disk)
		return 0;
	if (log->forming.buf && log->forming.runs) {
		log->forming.needs_durable = true;
		*ret_index = log->chain.index + 1;
	}
	log->want_durable = THMQI_MAX(log->want_durable, *ret_index);
	thmqi_log_commit(log);
	settle(log);
	return 0;
}

/* Blocking: by closing the queue, which waits for all that is in it, as often as something new was submitted. */
int thmqi_log_drain(struct thmq_log *log)
{
	uint32_t rounds;
	int rc;

	for (rounds = 0; rounds < 1000 && !log->failed; rounds++) {
		thmqi_log_commit(log);
		if (log->disk->queue_inflight(log->queue) == 0 && log->flight_head == log->flight_tail &&
		    !(log->forming.buf && log->forming.runs))
			return 0;
		log->disk->queue_close(log->queue);
		rc = log->disk->queue_open(log->disk_ctx, log->core, DEPTH_MAX + 64, &log->queue);
		if (rc) {
			log->queue = NULL;
			return rc;
		}
	}
	return log->failed;
}
