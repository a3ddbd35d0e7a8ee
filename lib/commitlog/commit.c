/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit.c - group commit: when a batch is written, how it is made durable, and when that is said. Completions settle in
 * log order. A write with DSYNC proves durability only if nothing unflushed lies below it; otherwise it is written plainly
 * and a flush follows. What nobody waits for to be durable is flushed in the background, so that a crash takes a bounded
 * piece of it.
 */
#include "internal.h"

/* Below this a batch waits for a write in flight to end rather than go alone: what arrives meanwhile joins it. */
#define BATCH_TARGET (64u << 10)
/* A batch that nobody waits for gathers until it is full, or so long: what a crash may take of messages that were
 * acknowledged from memory. */
#define LINGER_NS 1000000u
/* So many small writes may be in flight together: one on the device, one behind it. */
#define SMALL_WRITES 2u

static void settle(struct thmq_log *log);

/* Its owner is told by the poller: this may be found inside a call of the owner's. */
void thmqi_log_fail(struct thmq_log *log, int error)
{
	if (log->failed)
		return;
	log->failed = error;
	log->tell_failed = true;
}

/* ------------------------------------------------------------------ writes */

static void on_written(struct thmqi_disk_op *op, int64_t result)
{
	struct flight *flight = thmqi_container(op, struct flight, op);
	struct thmq_log *log = flight->log;

	thmqi_buf_unref(flight->buf);
	flight->buf = NULL;
	flight->state = BATCH_WRITTEN;
	log->writing--;
	if (flight->pressing)
		thmqi_pace_written(log, flight);
	if (result < 0) {
		thmqi_log_fail(log, (int)result);
		return;
	}
	settle(log);
}

/* Has anything been given to the device plainly that no flush has covered? All of it lies below what comes now. */
static bool plain_below(const struct thmq_log *log)
{
	return log->plain_index > log->durable_index && !(log->defects & THMQI_LOG_TRUST_DSYNC);
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
	log->writing++;
	if (flight->pressing)
		thmqi_pace_write(log, flight);
	if (!flight->dsync) {
		log->plain_index = flight->index;
		flight->segment->unflushed = true;
	}
	return true;
}

/* In log order, so that the device gets them in order too. */
static void submit_waiting(struct thmq_log *log)
{
	uint32_t i;

	for (i = log->flight_head; i != log->flight_tail && log->writing < log->depth; i++) {
		struct flight *flight = &log->flights[i % FLIGHTS_MAX];

		if (flight->state == BATCH_WAITING && !submit(log, flight))
			return;
	}
}

/* Started for a batch that went before its time, perhaps: the next one has a time of its own. */
static void on_linger(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, linger);

	if (log->forming.until && log->forming.until <= log->core->now_ns)
		log->forming.hurried = true;
	thmqi_log_commit(log);
}

/* May the forming batch wait for more though the device is free? Who waits for it is not kept longer than was asked for. */
static bool lingers(struct thmq_log *log)
{
	uint64_t longest = log->forming.awaited ? log->opts.group_ns : LINGER_NS, until;
	struct forming *f = &log->forming;

	if (!longest || f->hurried || log->draining || f->used >= log->eager_bytes)
		return false;
	until = log->core->now_ns + longest;
	if (!f->until || until < f->until)
		f->until = until;
	if (!thmqi_timer_is_running(&log->linger) || log->linger.deadline_ns > f->until) {
		log->linger.fire = on_linger;
		thmqi_timer_start(log->core, &log->linger, f->until);
	}
	return true;
}

/*
 * Write the forming batch now? With nothing in flight: at once, that is the lowest latency. With writes in flight: only
 * if it has become worth a write of its own, or fewer than SMALL_WRITES are in flight. Otherwise the next completion asks
 * again: a group commit is whatever arrived while the last writes were in flight.
 */
static bool worth_writing(const struct thmq_log *log)
{
	if (log->writing < SMALL_WRITES)
		return true;
	return log->writing < log->depth &&
	       log->forming.used >= THMQI_MIN(log->eager_bytes, THMQI_MIN(BATCH_TARGET, log->opts.batch_bytes / 2));
}

/* ----------------------------------------------------------------- flushes */

static void on_flushed(struct thmqi_disk_op *op, int64_t result)
{
	struct log_flush *f = thmqi_container(op, struct log_flush, op);
	struct thmq_log *log = f->log;

	f->segment->reads--;
	log->flushing--;
	if (result < 0) {
		thmqi_log_fail(log, (int)result);
		return;
	}
	if (log->flushing || log->failed)
		return;
	if (!log->flush_partial && log->flush_index > log->durable_index) {
		log->durable_index = log->flush_index;
		log->durable_position = log->flush_position;
	}
	settle(log);
}

static bool flush_segment(struct thmq_log *log, struct segment *s)
{
	struct log_flush *f = &log->flushes[log->flushing];

	if (log->flushing == FLUSHES_MAX)
		return false;
	f->log = log;
	f->segment = s;
	f->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = s->file, .done = on_flushed};
	if (log->disk->queue_submit(log->queue, &f->op) != 0)
		return false;
	s->unflushed = false;
	s->reads++;
	log->flushing++;
	return true;
}

/*
 * A flush covers what had completed when it began: with every segment that has plain writes flushed, all up to
 * written_index is durable. Where a segment did not get its turn the rest proves nothing; the next attempt does.
 */
static void flush(struct thmq_log *log)
{
	uint32_t i;

	log->flush_index = log->written_index;
	log->flush_position = log->written_position;
	log->flush_partial = false;
	log->plain_bytes = 0;
	for (i = log->segment_count; i-- > 0 && !log->flush_partial && log->segments[i]->ordinal >= log->cold_next;)
		if (log->segments[i]->unflushed)
			log->flush_partial = !flush_segment(log, log->segments[i]);
	/* plain writes that have not settled may have come too late for it */
	for (i = log->flight_head; i != log->flight_tail; i++) {
		struct flight *flight = &log->flights[i % FLIGHTS_MAX];

		if (flight->state >= BATCH_WRITING && !flight->dsync)
			flight->segment->unflushed = true;
	}
	if (!log->flushing && !log->flush_partial) { /* every plain write was covered by an earlier one */
		log->durable_index = log->flush_index;
		log->durable_position = log->flush_position;
	}
}

static void flush_if_due(struct thmq_log *log)
{
	if (log->flush_due <= log->durable_index || log->flushing)
		return;
	if (log->defects & THMQI_LOG_NO_FLUSH) {
		log->durable_index = log->written_index;
		log->durable_position = log->written_position;
		return;
	}
	flush(log);
}

/* What was appended before it fires is durable soon after, what comes later starts it again: nothing waits longer. */
static void on_flush_timer(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, flush_timer);
	uint64_t index;

	if (!log->draining)
		thmqi_log_flush(log, &index);
}

void thmqi_log_flush_later(struct thmq_log *log)
{
	log->weak = false;
	if ((log->opts.flags & THMQ_LOG_NO_BACKGROUND_FLUSH) || thmqi_timer_is_running(&log->flush_timer))
		return;
	log->flush_timer.fire = on_flush_timer;
	thmqi_timer_start(log->core, &log->flush_timer, log->core->now_ns + log->opts.flush_interval_ns);
}

bool thmqi_log_is_rising(const struct thmq_log *log)
{
	return log->forming.runs || log->flight_head != log->flight_tail || log->flush_due > log->durable_index ||
	       thmqi_timer_is_running(&log->flush_timer);
}

static bool much_is_plain(const struct thmq_log *log)
{
	return log->plain_bytes >= log->opts.flush_bytes && !(log->opts.flags & THMQ_LOG_NO_BACKGROUND_FLUSH);
}

void thmqi_log_commit(struct thmq_log *log)
{
	if (!log->disk || log->failed)
		return;
	if (log->forming.runs && !lingers(log) && worth_writing(log))
		thmqi_log_seal(log); /* all flights busy: a completion comes here again */
	submit_waiting(log);
	flush_if_due(log);
}

/* ------------------------------------------------------------------ settle */

/* The upper rung first: who waits for the lower one hears of what is proven, once. */
void thmqi_log_tell(struct thmq_log *log)
{
	if (log->durable_index > log->told_durable) {
		log->told_durable = log->durable_index;
		if (log->events.settled)
			log->events.settled(log->opts.ctx, THMQ_DURABILITY_DURABLE, log->told_durable);
	}
	if (log->written_index > log->told_written) {
		log->told_written = log->written_index;
		if (log->events.settled)
			log->events.settled(log->opts.ctx, THMQ_DURABILITY_WRITTEN, log->told_written);
	}
	if (log->starved && log->events.room && !log->draining) {
		log->starved = false;
		log->events.room(log->opts.ctx);
	}
}

static void settle(struct thmq_log *log)
{
	struct flight *flight;

	if (log->failed)
		return;
	while (log->flight_head != log->flight_tail) {
		flight = &log->flights[log->flight_head % FLIGHTS_MAX];
		if (flight->state != BATCH_WRITTEN)
			break;
		log->written_index = flight->index;
		log->written_position = flight->position + flight->len;
		/* nothing unflushed lay below it when it was submitted, and all below it has settled */
		if (flight->dsync) {
			log->durable_index = flight->index;
			log->durable_position = log->written_position;
		} else {
			log->plain_bytes += flight->len;
			if (flight->needs_durable || much_is_plain(log))
				log->flush_due = flight->index;
		}
		flight->state = BATCH_FREE;
		log->flight_head++;
	}
	if (log->defects & THMQI_LOG_SETTLE_UNORDERED) {
		uint32_t i;

		for (i = log->flight_head; i != log->flight_tail; i++)
			if (log->flights[i % FLIGHTS_MAX].state == BATCH_WRITTEN)
				log->durable_index = log->written_index = log->flights[i % FLIGHTS_MAX].index;
	}
	thmqi_cache_trim(log);
	thmqi_log_commit(log); /* first the device's work, then the owner's */
	thmqi_log_tell(log);
}

/* What is in flight with DSYNC needs nothing more; what is plain needs a flush when it has settled. */
int thmqi_log_flush(struct thmq_log *log, uint64_t *ret_index)
{
	struct flight *last = &log->flights[(log->flight_tail - 1) % FLIGHTS_MAX];

	if (log->failed)
		return -THMQ_EFAILED;
	*ret_index = log->chain.index;
	if (!log->disk)
		return 0;
	log->dirty = true; /* the mark follows */
	if (log->forming.runs) {
		log->forming.awaited = log->forming.needs_durable = log->forming.hurried = true;
		*ret_index = log->chain.index + 1;
	} else if (log->flight_head != log->flight_tail) {
		last->needs_durable = true;
	} else if (log->durable_index < log->written_index) {
		log->flush_due = log->written_index;
	} else {
		*ret_index = 0;
	}
	thmqi_log_commit(log);
	return 0;
}

int thmq_log_flush(struct thmq_log *log, uint64_t *ret_index)
{
	if (!log || !ret_index)
		return -EINVAL;
	return thmqi_core_is_mine(log->core) ? thmqi_log_flush(log, ret_index) : -EPERM;
}

int thmqi_log_drain(struct thmq_log *log, uint64_t deadline_ns)
{
	const struct thmqi_clock *clock = log->core->clock;
	uint64_t now;
	int rc = 0;

	log->draining = true;
	while (!log->failed && !rc) {
		thmqi_log_commit(log);
		if (log->disk->queue_inflight(log->queue) == 0 && log->flight_head == log->flight_tail &&
		    !log->forming.runs && log->flush_due <= log->durable_index)
			break;
		now = clock->now_ns(clock->ctx);
		if (now >= deadline_ns)
			rc = -ETIMEDOUT;
		else
			log->disk->queue_wait(log->queue, deadline_ns - now);
	}
	log->draining = false;
	return log->failed ? log->failed : rc;
}
