/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drop.c - the oldest segment goes, in the background: both blocks of `vote` say that the log begins behind it before anything
 * of it is touched; then its index, then its file goes, or is kept to be the next segment. Knows not why it goes.
 */
#include "../internal.h"

#define TRIES_MAX 4u
#define EXTENTS_BUDGET 256u /* in one iteration */

/* A step is what is to be done next; it is done once nothing is in flight. */
enum drop_step {
	DROP_IDLE,
	DROP_VOTE,
	DROP_EXTENTS, /* what is held of its partitions */
	DROP_READS,   /* those of its files that are in flight end; new ones are not begun */
	DROP_INDEX_CLOSE,
	DROP_INDEX,
	DROP_SYNC,
	DROP_FILE_OPEN, /* to be kept */
	DROP_KEEP,
	DROP_FILE_CLOSE,
	DROP_FILE,
	DROP_FILE_SYNC /* its room is free then, and it does not come back */
};

/* What is in the way for now? All below durable_position is written and flushed, but a flush of it may still be in flight. */
static bool is_busy(const struct thmq_log *log, const struct segment *s)
{
	return s->position + s->bytes > log->durable_position || log->flushing ||
	       s == log->sealing.segment || log->drop.step != DROP_IDLE || log->draining;
}

/* What the first batch behind @s continues. Terms: those of a batch are in its header, and the chain's is not needed. */
static struct chain behind(const struct thmq_log *log, const struct segment *s,
			   const struct segment *next)
{
	struct chain c = log->begin;

	c.position = next->position;
	c.index = s->first_index + s->batch_count - 1;
	c.term = s->last_term;
	c.crc = next->prev_crc;
	return c;
}

int thmqi_log_drop_oldest(struct thmq_log *log)
{
	struct drop *d = &log->drop;

	if (log->failed)
		return -THMQ_EFAILED;
	if (log->segment_count < 2)
		return -ENOENT;
	if (log->holds)
		thmqi_snapshots_reap(log);
	if (is_busy(log, log->segments[0]) || log->mark_busy || log->holds)
		return -EAGAIN;
	log->begin = behind(log, log->segments[0], log->segments[1]);
	d->generation = log->vote.generation + 2; /* either block is enough, then */
	d->tries = 0;
	d->step = DROP_VOTE;
	return 0;
}

/* The log is without it from now on. */
static void take_out(struct thmq_log *log)
{
	struct segment *s = log->segments[0];

	log->segment_count--;
	memmove(log->segments, log->segments + 1, log->segment_count * sizeof(*log->segments));
	log->segment_base++;
	log->sealed_next = THMQI_MAX(log->sealed_next, log->segment_base);
	log->drop.segment = s;
	log->stats.dropped_segments++;
	log->tell_readers = true;
}

/* Size of the next segment whose file is not begun yet. */
static uint64_t wanted_bytes(const struct thmq_log *log)
{
	const struct segment *last = log->prepare == PREPARE_MAKING || log->prepare == PREPARE_READY
					     ? log->next
					     : log->active;

	return thmqi_segment_bytes(&log->vote, last->position + last->bytes);
}

static void end(struct thmq_log *log)
{
	struct drop *d = &log->drop;

	thmqi_segment_free(log, d->segment);
	d->segment = NULL;
	d->step = DROP_IDLE;
	log->file_bytes = thmqi_log_file_bytes(log);
	if (log->prepare == PREPARE_FAILED) /* there may be room now */
		thmqi_segment_prepare(log);
}

static bool is_wanted(const struct thmq_log *log)
{
	return !log->spare.file && log->drop.segment->bytes == wanted_bytes(log);
}

static bool keep_file(struct thmq_log *log)
{
	struct segment *s = log->drop.segment;

	if (!s->file || !is_wanted(log))
		return false;
	log->spare = (struct spare){.file = s->file, .position = s->position, .bytes = s->bytes};
	s->file = NULL;
	end(log);
	return true;
}

static void on_done(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log *log = thmqi_container(op, struct thmq_log, drop.op);
	struct drop *d = &log->drop;

	d->busy = false;
	switch (d->step) {
	case DROP_INDEX_CLOSE:
		d->segment->index = NULL;
		break;
	case DROP_FILE_OPEN: /* where it cannot be it goes */
		d->segment->file = result < 0 ? NULL : op->file;
		break;
	case DROP_FILE_CLOSE:
		d->segment->file = NULL;
		break;
	case DROP_INDEX: /* there may be none */
	case DROP_SYNC:
		if (result < 0 && result != -ENOENT) {
			end(log); /* a leftover, that the next open removes */
			return;
		}
		break;
	case DROP_FILE_SYNC:
		end(log);
		return;
	}
	d->step++;
}

static int submit(struct thmq_log *log, enum thmqi_disk_opcode opcode, struct thmqi_disk_file *file)
{
	struct drop *d = &log->drop;

	d->op = (struct thmqi_disk_op){.opcode = (uint8_t)opcode,
				       .flags = THMQI_DISK_BACKGROUND,
				       .dir = log->dir,
				       .file = file,
				       .name = d->name,
				       .done = on_done};
	d->busy = log->disk->queue_submit(log->queue, &d->op) == 0;
	return d->busy;
}

static int store(struct thmq_log *log)
{
	struct drop *d = &log->drop;

	if (log->mark_busy)
		return 0;
	if (log->vote.generation >= d->generation) {
		if (log->holds)
			thmqi_snapshots_reap(log);
		if (log->holds)
			return 0;
		take_out(log);
		thmqi_extents_begin(&d->extents, d->segment);
		d->step = DROP_EXTENTS;
		return 1;
	}
	if (d->tries++ ==
	    TRIES_MAX) { /* it stays; what `vote` may say already is true of any later attempt too */
		d->step = DROP_IDLE;
		return 0;
	}
	thmqi_vote_store(log);
	return 1;
}

static void take_away(struct thmq_log *log, struct run_index *x, const struct thmq_log_extent *e)
{
	const struct segment *s = log->drop.segment;

	x->held_bytes -= THMQI_MIN(x->held_bytes, e->bytes);
	thmqi_held_dropped(log, x, e->end_offset);
	if (x->moved) { /* their originals are not counted twice any more */
		x->held_bytes += x->moved->doubled_bytes;
		x->moved->doubled_bytes = 0;
	}
	if (s->blocks) {
		thmqi_index_trim(log, x, s->first_index + s->batch_count);
		thmqi_moved_keep(x, s->first_index + s->batch_count, UINT64_MAX);
	}
}

/* One that is asked for does not wait for its turn: what is gone is not to be found, and not damaged. */
void thmqi_drop_settle(struct thmq_log *log, struct run_index *x)
{
	struct thmq_log_extent e;

	if (log->drop.segment->blocks && thmqi_extent_in_memory(log->drop.segment, x, &e))
		take_away(log, x, &e);
}

/* Where its index cannot be read the numbers are too large until the next open; no harm. */
static int subtract(struct thmq_log *log)
{
	struct drop *d = &log->drop;
	uint32_t budget = EXTENTS_BUDGET;
	struct thmq_log_extent e;
	struct run_index *x;
	int rc = 1;

	while (budget-- && (rc = thmqi_extents_next(log, &d->extents, &e)) == 1) {
		x = thmqi_map_get(&log->partitions, e.partition);
		if (!x)
			continue;
		take_away(log, x, &e);
	}
	if (rc == -EAGAIN)
		return 0;
	if (rc != 1) {
		thmqi_index_dropped(log, d->segment);
		d->step++;
	}
	return 1;
}

int thmqi_drop_step(struct thmq_log *log)
{
	struct drop *d = &log->drop;

	if (d->busy || log->draining || log->failed)
		return 0;
	switch (d->step) {
	case DROP_VOTE:
		return store(log);
	case DROP_EXTENTS:
		return subtract(log);
	case DROP_READS:
		if (d->segment->reads)
			return 0;
		thmqi_file_forget(d->segment);
		d->step = d->segment->index ? DROP_INDEX_CLOSE : DROP_INDEX;
		return 1;
	case DROP_INDEX_CLOSE:
		return submit(log, THMQI_DISK_CLOSE, d->segment->index);
	case DROP_INDEX:
		thmqi_seal_name(d->segment->position, d->name);
		return submit(log, THMQI_DISK_UNLINK, NULL);
	case DROP_SYNC:
		return submit(log, THMQI_DISK_SYNC_DIR, NULL);
	case DROP_FILE_OPEN:
		if (!d->segment->file && is_wanted(log)) {
			thmqi_segment_name(d->segment->position, d->name);
			return submit(log, THMQI_DISK_OPEN, NULL);
		}
		d->step++;
		return 1;
	case DROP_KEEP:
		if (!keep_file(log))
			d->step++;
		return 1;
	case DROP_FILE_CLOSE:
		if (!d->segment->file) {
			d->step++;
			return 1;
		}
		return submit(log, THMQI_DISK_CLOSE, d->segment->file);
	case DROP_FILE:
		thmqi_segment_name(d->segment->position, d->name);
		return submit(log, THMQI_DISK_UNLINK, NULL);
	case DROP_FILE_SYNC:
		return submit(log, THMQI_DISK_SYNC_DIR, NULL);
	default:
		return 0;
	}
}

bool thmqi_drop_wants(const struct thmq_log *log)
{
	const struct drop *d = &log->drop;

	if (d->step == DROP_IDLE || d->busy || log->draining || log->failed)
		return false;
	switch (d->step) {
	case DROP_VOTE:
		return !log->mark_busy && !log->holds;
	case DROP_EXTENTS:
		return !log->clean.page.reading && !d->segment->cold[SEGMENT_INDEX].busy;
	case DROP_READS:
		return !d->segment->reads;
	default:
		return true;
	}
}

/* Nothing may be left in its name: what was to be used again, and was not, goes. */
void thmqi_drop_fini(struct thmq_log *log)
{
	char name[40];

	if (log->drop.segment)
		thmqi_segment_free(log, log->drop.segment);
	if (!log->spare.file)
		return;
	log->disk->file_close(log->spare.file);
	thmqi_segment_name(log->spare.position, name);
	log->disk->unlink(log->dir, name);
}
