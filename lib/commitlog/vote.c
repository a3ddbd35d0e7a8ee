/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vote.c - the facts that the log itself cannot tell: identity, sizes, term and vote, incarnation, and how far it is
 * known durable. Two blocks written in turn: a torn write leaves the other. A generation counts once it is written, so
 * that a write that failed is repeated over its own remains and never over the block that is valid.
 */
#include "internal.h"
#include "survey.h"

#define VOTE_MAGIC 0x31564854u /* "THV1" */
#define WATCH_NS 1000000000ull

static bool valid(const struct vote *v)
{
	return v->magic == VOTE_MAGIC && v->crc == thmqi_crc32c(0, v, offsetof(struct vote, crc));
}

#define NUMBER_MAX (1ull << 62) /* nothing is counted so far in any life */

/* What nobody could have written would make nonsense of every position. */
static bool sane(const struct vote *v)
{
	return v->generation < NUMBER_MAX && v->term < NUMBER_MAX && v->incarnation < NUMBER_MAX && v->mark < NUMBER_MAX &&
	       v->begin_index < NUMBER_MAX && v->begin_term < NUMBER_MAX && thmqi_is_pow2(v->segment_bytes_min) && thmqi_is_pow2(v->segment_bytes_max) &&
	       v->segment_bytes_min >= 1u << 20 && v->segment_bytes_min <= v->segment_bytes_max &&
	       v->segment_bytes_max <= 1u << 30 && v->begin_position <= v->mark &&
	       thmqi_segment_begins(v, v->begin_position);
}

int thmqi_vote_read(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, struct vote *ret_vote,
		    bool *ret_damaged)
{
	struct thmqi_disk_file *file;
	const struct vote *a, *b, *best = NULL;
	uint8_t *blocks;
	int64_t n;
	int rc;

	rc = disk->file_open(dir, "vote", false, &file);
	if (rc)
		return rc;
	blocks = aligned_alloc(THMQI_BLOCK, 2 * THMQI_BLOCK);
	if (!blocks) {
		disk->file_close(file);
		return -ENOMEM;
	}
	memset(blocks, 0, 2 * THMQI_BLOCK);
	n = disk->file_read(file, blocks, 2 * THMQI_BLOCK, 0);
	disk->file_close(file);
	a = (const struct vote *)blocks;
	b = (const struct vote *)(blocks + THMQI_BLOCK);
	if (valid(a))
		best = a;
	if (valid(b) && (!best || b->generation > a->generation))
		best = b;
	*ret_damaged = !valid(a) || !valid(b);
	if (n < 0)
		rc = (int)n;
	else if (!best)
		rc = -THMQ_ECORRUPT;
	else if (best->version != FORMAT_VERSION)
		rc = -THMQ_EVERSION;
	else if (!sane(best))
		rc = -THMQ_ECORRUPT;
	else
		*ret_vote = *best;
	free(blocks);
	return rc;
}

#define MIB_SHIFT 20
#define LOOK_MIB_MAX (1ull << 24) /* more than any segment: all of it */

/*
 * What this life may have written and not flushed at a time, so that the next open knows how long a hole of lost writes may be:
 * as many batches as may be in flight, what waits for a flush, and a batch. Not where the usual distance is enough.
 */
static uint32_t look_mib(const struct thmq_log_opts *o)
{
	uint64_t bytes = 2ull * o->write_depth * o->batch_bytes + BATCH_BYTES_MAX;
	uint64_t mib = (bytes >> MIB_SHIFT) + 1 + THMQI_MIN(o->flush_bytes >> MIB_SHIFT, LOOK_MIB_MAX);

	return mib <= LOOK_BYTES >> MIB_SHIFT ? 0 : (uint32_t)mib;
}

/* The generation behind the last one written, with the log's present facts. Return: its place in the file. */
static uint64_t next_vote(const struct thmq_log *log, uint64_t mark, bool clean, struct vote *v, void *block)
{
	*v = log->vote;
	v->magic = VOTE_MAGIC;
	v->version = FORMAT_VERSION;
	v->generation++;
	v->term = log->term;
	v->voted_for = log->copies.voted_for;
	v->resetting = log->copies.resetting;
	v->incarnation = log->incarnation;
	v->mark = mark;
	v->begin_position = log->begin.position;
	v->begin_index = log->begin.index;
	v->begin_term = log->begin.term;
	v->begin_crc = log->begin.crc;
	v->clean = clean;
	v->look_mib = look_mib(&log->opts);
	v->crc = thmqi_crc32c(0, v, offsetof(struct vote, crc));
	memset(block, 0, THMQI_BLOCK);
	memcpy(block, v, sizeof(*v));
	return v->generation % 2 * THMQI_BLOCK;
}

int thmqi_vote_write(struct thmq_log *log, uint64_t mark, bool clean)
{
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	struct vote v;
	uint64_t at;
	int rc;

	if (!block)
		return -ENOMEM;
	at = next_vote(log, mark, clean, &v, block);
	rc = log->disk->file_write(log->vote_file, block, THMQI_BLOCK, at, !(log->defects & THMQI_LOG_PLAIN_VOTE));
	if (!rc)
		log->vote = v;
	free(block);
	return rc;
}

/* In the order of generations: of a file that was there a torn write leaves the block that counts. */
int thmqi_vote_make(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, const struct vote *v)
{
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	struct thmqi_disk_file *file;
	struct vote *w = (struct vote *)block;
	uint32_t i;
	int rc = block ? disk->file_open(dir, "vote", true, &file) : -ENOMEM;

	for (i = 0; i < 2 && !rc; i++) {
		memset(block, 0, THMQI_BLOCK);
		*w = *v;
		w->magic = VOTE_MAGIC;
		w->version = FORMAT_VERSION;
		w->generation = v->generation + 1 + i;
		w->crc = thmqi_crc32c(0, w, offsetof(struct vote, crc));
		rc = disk->file_write(file, block, THMQI_BLOCK, w->generation % 2 * THMQI_BLOCK, true);
		if (i == 1 || rc) {
			rc = rc ? rc : disk->file_flush(file);
			disk->file_close(file);
		}
	}
	free(block);
	return rc ? rc : disk->dir_sync(dir);
}

/* ----------------------------------------------------------------- the mark */

static void on_marked(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log *log = thmqi_container(op, struct thmq_log, mark_op);

	log->mark_busy = false;
	log->mark_error = (int)THMQI_MIN(result, 0);
	if (result >= 0)
		log->vote = log->mark_vote;
	else if (!thmqi_lacks_space((int)result) || log->copies.vote == VOTE_WRITING) /* else the old one stays, and says less */
		thmqi_log_fail(log, (int)result);
	if (thmqi_unlikely(log->copies.vote == VOTE_WRITING && result >= 0)) {
		log->copies.vote = VOTE_DONE;
		log->copies.vote_done(log->copies.vote_ctx);
	}
	if (thmqi_unlikely(log->copies.vote == VOTE_DUE))
		thmqi_vote_begin(log);
}

static int store(struct thmq_log *log, uint64_t mark, bool clean)
{
	uint64_t at = next_vote(log, mark, clean, &log->mark_vote, log->mark_buf->data);
	int rc;

	log->mark_op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
					      .flags = (clean || log->copies.on) && (log->defects & THMQI_LOG_PLAIN_VOTE) ? 0 : THMQI_DISK_DSYNC,
					      .len = THMQI_BLOCK,
					      .file = log->vote_file,
					      .buf = log->mark_buf,
					      .data = log->mark_buf->data,
					      .offset = at,
					      .done = on_marked};
	rc = log->disk->queue_submit(log->queue, &log->mark_op);
	log->mark_busy = rc == 0;
	return rc;
}

void thmqi_vote_store(struct thmq_log *log)
{
	if (!log->mark_busy)
		store(log, log->durable_position, false);
}

bool thmqi_vote_begin(struct thmq_log *log)
{
	if (log->mark_busy || log->failed)
		return true;
	if (store(log, log->durable_position, false) != 0)
		return false;
	log->copies.vote = VOTE_WRITING;
	return true;
}

int thmqi_vote_end(struct thmq_log *log)
{
	return store(log, log->chain.position, true);
}

void thmqi_vote_mark(struct thmq_log *log)
{
	if (log->vote.mark < log->durable_position)
		thmqi_vote_store(log);
}

static void on_watch(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, mark_timer);

	if (log->failed || log->draining)
		return;
	thmqi_vote_mark(log);
	if (log->vote.mark < log->durable_position || thmqi_log_is_rising(log))
		thmqi_vote_watch(log);
}

void thmqi_vote_watch(struct thmq_log *log)
{
	log->mark_timer.fire = on_watch;
	thmqi_timer_start(log->core, &log->mark_timer, log->core->now_ns + WATCH_NS);
}
