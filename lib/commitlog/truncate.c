/* SPDX-License-Identifier: Apache-2.0 */
/* truncate.c - batches from an index on are removed, for consensus: first `vote` says so, then they are overwritten. */
#include "internal.h"

/* The chain as it was behind batch @index, and where that ends. */
static int chain_behind(struct thmq_log *log, uint64_t index, struct chain *ret_chain)
{
	const struct segment *s = thmqi_segment_of_index(log, index);
	const struct batch_header *h;
	uint8_t *block;
	uint64_t at;
	int64_t n;
	int rc = 0;

	if (!s)
		return -ENOENT;
	block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!block)
		return -ENOMEM;
	h = (const struct batch_header *)block;
	at = thmqi_segment_place(s, index);
	n = log->disk->file_read(s->file, block, THMQI_BLOCK, at);
	if (n < 0)
		rc = (int)n;
	else if (n < (int64_t)THMQI_BLOCK || !thmqi_batch_header_ok(h, s->position + at, log->chain.log_id) ||
		 h->index != index)
		rc = -THMQ_ECORRUPT;
	else
		thmqi_chain_advance(ret_chain, h);
	free(block);
	return rc;
}

/* What was removed cannot come back at the next open: its first block is gone, and the rest chains to nothing. */
static int erase(struct thmq_log *log, uint64_t index)
{
	struct segment *s = thmqi_segment_of_index(log, index);
	uint8_t *zeros = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	int rc;

	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, THMQI_BLOCK);
	rc = log->disk->file_write(s->file, zeros, THMQI_BLOCK, thmqi_segment_place(s, index), true);
	free(zeros);
	return rc;
}

static void remove_segment(struct thmq_log *log, struct segment *s)
{
	char name[40];

	thmqi_segment_name(s->position, name);
	thmqi_segment_free(log, s);
	log->disk->unlink(log->dir, name);
}

/* The cut may lie in an earlier segment: those behind it go, and the prepared one was for another position. */
static void cut_segments(struct thmq_log *log, uint64_t index)
{
	struct segment *was = log->active;

	while (log->segment_count > 1 && (!log->active->batch_count || log->active->first_index >= index)) {
		remove_segment(log, log->active);
		log->active = log->segments[--log->segment_count - 1];
	}
	if (log->active->batch_count && index - log->active->first_index < log->active->batch_count)
		log->active->batch_count = (uint32_t)(index - log->active->first_index);
	if (log->active == was || log->prepare != PREPARE_READY)
		return;
	remove_segment(log, log->next);
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
}

static void forget(struct thmq_log *log, uint64_t index, const struct chain *chain)
{
	struct run_index *x;
	uint32_t i = 0;

	log->chain = *chain;
	log->durable_index = log->written_index = chain->index;
	log->durable_position = log->written_position = chain->position;
	log->plain_index = log->flush_due = chain->index;
	log->told_durable = log->told_written = chain->index;
	thmqi_cache_drop_from(log, index);
	while ((x = thmqi_map_next(&log->partitions, &i)))
		thmqi_index_cut(x, index);
	cut_segments(log, index);
	thmqi_readers_cut(log);
	log->tell_readers = true;
}

/* An index speaks of its whole segment: those of segments that lose something go before they do. */
static int drop_indexes(struct thmq_log *log, uint64_t index)
{
	char name[40];
	uint32_t i;
	int rc;

	for (i = log->segment_count; i-- > 0;) {
		const struct segment *s = log->segments[i];

		if (s->batch_count && s->first_index + s->batch_count <= index)
			break;
		thmqi_seal_name(s->position, name);
		rc = log->disk->unlink(log->dir, name);
		if (rc && rc != -ENOENT)
			return rc;
	}
	return log->disk->dir_sync(log->dir);
}

int thmq_log_truncate(struct thmq_log *log, uint64_t index)
{
	struct chain chain = log->chain;
	uint32_t i;
	int rc;

	if (log->failed)
		return -THMQ_EFAILED;
	if (!log->disk || log->forming.open || index <= 1 || index > log->chain.index + (log->forming.runs ? 1 : 0))
		return -EINVAL;
	rc = thmqi_log_drain(log);
	if (!rc)
		rc = chain_behind(log, index - 1, &chain);
	for (i = 0; !rc && i < log->segment_count; i++)
		rc = log->disk->file_flush(log->segments[i]->file);
	if (rc)
		return rc;
	for (i = 0; i < log->segment_count; i++)
		log->segments[i]->unflushed = false;
	thmqi_segment_prepare_stop(log);
	thmqi_seal_stop(log);
	rc = drop_indexes(log, index);
	if (rc)
		return rc;
	/* the mark goes down and the incarnation up before anything is overwritten */
	log->incarnation++;
	rc = thmqi_vote_write(log, chain.position, false);
	if (!rc)
		rc = erase(log, index);
	if (rc) {
		thmqi_log_fail(log, rc);
		return rc;
	}
	forget(log, index, &chain);
	thmqi_segment_prepare(log);
	if (log->events.unappended)
		log->events.unappended(log->opts.ctx, index);
	return 0;
}
