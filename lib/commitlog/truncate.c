/* SPDX-License-Identifier: Apache-2.0 */
/* truncate.c - batches from an index on are removed, for consensus: first `vote` says so, then they are overwritten. */
#include "internal.h"
#include "index/keys.h"
#include "index/seal_format.h"

/* The chain as it was behind batch @index, and where that ends. */
static int chain_behind(struct thmq_log *log, uint64_t index, struct chain *ret_chain)
{
	struct segment *s = thmqi_segment_of_index(log, index);
	const struct batch_header *h;
	struct thmqi_disk_file *file;
	uint8_t *block;
	uint64_t at;
	int64_t n;
	int rc = 0;

	if (index == log->begin.index) {
		*ret_chain = log->begin;
		return 0;
	}
	if (!s)
		return -ENOENT;
	block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!block)
		return -ENOMEM;
	h = (const struct batch_header *)block;
	rc = thmqi_segment_place(log, s, index, &at);
	if (!rc)
		rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);
	n = rc ? rc : log->disk->file_read(file, block, THMQI_BLOCK, at);
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
static int erase(struct thmq_log *log, uint64_t index, uint64_t position)
{
	struct segment *s = thmqi_segment_of_index(log, index);
	uint8_t *zeros = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	struct thmqi_disk_file *file;
	int rc;

	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, THMQI_BLOCK);
	rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);
	/* where the batch before it ends by its own header: an index that errs must not choose what is overwritten */
	if (!rc)
		rc = log->disk->file_write(file, zeros, THMQI_BLOCK, position - s->position, true);
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

static void forget_seal(struct thmq_log *log, struct segment *s)
{
	thmqi_sealed_free(log, s->sealed);
	s->sealed = NULL;
	thmqi_file_close(log, s, SEGMENT_INDEX);
}

/* The cut may lie in an earlier segment: those behind it go, and the prepared one was for another position. */
static void cut_segments(struct thmq_log *log, uint64_t index)
{
	struct segment *was = log->active;

	while (log->segment_count > 1 && (!log->active->batch_count || log->active->first_index >= index)) {
		remove_segment(log, log->active);
		log->active = log->segments[--log->segment_count - 1];
	}
	forget_seal(log, log->active);
	if (log->active->batch_count && index - log->active->first_index < log->active->batch_count)
		log->active->batch_count = (uint32_t)(index - log->active->first_index);
	thmqi_keys_cut(log, log->active);
	if (log->active == was || log->prepare != PREPARE_READY)
		return;
	remove_segment(log, log->next);
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
}

/*
 * The last sealed segment before @ordinal that has runs of @x, *@ret_at, and what it has, by its index. The first @held of those
 * that are known to have some lie before @ordinal.
 */
static int find_last(struct thmq_log *log, const struct run_index *x, uint32_t held, uint32_t ordinal, struct seal_partition *p,
		     uint32_t *ret_at)
{
	uint32_t last = x->held[held - 1].segment;
	uint32_t at = x->thinned ? ordinal - 1 : last; /* behind the last that stayed others may have some */
	int rc;

	for (;; at--) {
		rc = thmqi_sealed_partition(log, thmqi_segment_at(log, at), x->partition, p);
		if (rc < 0 || (rc == 1 && p->count > p->moved) || at == last)
			break;
	}
	*ret_at = at;
	return rc < 0 ? rc : rc == 1 && p->count > p->moved ? 0 : -THMQ_ECORRUPT;
}

/* Where the runs of @x in sealed segments before @ordinal end, now that others are gone. */
static int find_sealed_end(struct thmq_log *log, struct run_index *x, uint32_t ordinal)
{
	struct seal_partition p = {0};
	uint32_t at;
	int rc;

	x->sealed_end = 0;
	if (!x->held_count)
		return 0;
	rc = find_last(log, x, x->held_count, ordinal, &p, &at);
	if (rc)
		return rc;
	x->sealed_end = p.end_offset;
	return at > x->held[x->held_count - 1].segment ? thmqi_held_add(log, x, at, p.begin_offset, p.end_offset) : 0;
}

/* All that unseal() will need of indexes is there and good: before anything is changed. */
static int check_indexes(struct thmq_log *log, uint64_t index)
{
	struct segment *s = thmqi_segment_of_index(log, index - 1);
	struct seal_partition p;
	struct run_index *x;
	uint32_t i = 0, held, at;
	int rc;

	if (!s || s->ordinal >= log->sealed_next)
		return 0;
	rc = thmqi_sealed_check(log, s);
	while (!rc && (x = thmqi_map_next(&log->partitions, &i))) {
		thmqi_held_trim(log, x);
		for (held = x->held_count; held && x->held[held - 1].segment >= s->ordinal; held--)
			;
		if (held && held < x->held_count)
			rc = find_last(log, x, held, s->ordinal, &p, &at);
	}
	return rc;
}

/* The last segment that stays may be known by its index: it is the active one then, so its entries come back. */
static int unseal(struct thmq_log *log, uint64_t index)
{
	struct segment *s = thmqi_segment_of_index(log, index - 1);
	struct run_index *x;
	uint32_t i = 0;
	int rc = 0;

	if (!s || s->ordinal >= log->sealed_next)
		return 0;
	while (!rc && (x = thmqi_map_next(&log->partitions, &i))) {
		thmqi_index_cut(x, s->first_index);
		thmqi_held_trim(log, x);
		thmqi_moved_cut(x, s->ordinal);
		if (!x->held_count || x->held[x->held_count - 1].segment < s->ordinal)
			continue;
		thmqi_held_cut(x, s->ordinal);
		rc = find_sealed_end(log, x, s->ordinal);
	}
	if (!rc)
		rc = thmqi_sealed_restore(log, s);
	if (!rc)
		thmqi_sealed_restore_keys(log, s);
	log->sealed_next = s->ordinal;
	return rc;
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
	thmqi_copies_cut(log, index);
	thmqi_states_cut(log, index);
	while ((x = thmqi_map_next(&log->partitions, &i)))
		thmqi_index_cut(x, index);
	cut_segments(log, index);
	log->carry_from =
		log->active->batch_count ? log->active->first_index : log->chain.index + 1;
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
	rc = log->disk->unlink(log->dir, SEAL_PART_NAME);
	if (rc && rc != -ENOENT)
		return rc;
	return log->disk->dir_sync(log->dir);
}

/* The segment that the log will end in: its file is open from now on. */
static int keep_behind(struct thmq_log *log, uint64_t index)
{
	struct segment *s = thmqi_segment_of_index(log, index - 1);

	return thmqi_files_keep(log, s ? s : log->segments[0]);
}

static int truncate_from(struct thmq_log *log, uint64_t index)
{
	struct chain chain = log->chain;
	uint32_t i;
	int rc;

	if (log->failed)
		return -THMQ_EFAILED;
	if (!log->disk || log->forming.open || index <= THMQI_MAX(log->begin.index, 1u) || index > log->chain.index + (log->forming.runs ? 1 : 0))
		return -EINVAL;
	rc = thmqi_log_drain(log, UINT64_MAX);
	if (!rc)
		rc = chain_behind(log, index - 1, &chain);
	if (!rc)
		rc = check_indexes(log, index);
	/* what lies before is on the medium */
	for (i = log->segment_count; !rc && i-- > 0 && log->segments[i]->ordinal >= log->cold_next;) {
		rc = log->disk->file_flush(log->segments[i]->file);
		if (!rc)
			log->segments[i]->unflushed = false;
	}
	if (!rc)
		rc = keep_behind(log, index);
	if (rc)
		return rc;
	thmqi_segment_prepare_stop(log);
	thmqi_seal_stop(log);
	thmqi_clean_stop(log);
	rc = unseal(log, index);
	if (rc)
		thmqi_log_fail(log, rc); /* what it had in memory is half known */
	if (!rc)
		rc = drop_indexes(log, index);
	if (rc)
		return rc;
	thmqi_snapshots_cut(log, chain.position);
	/* the mark goes down and the incarnation up before anything is overwritten */
	log->incarnation++;
	rc = thmqi_vote_write(log, chain.position, false);
	if (!rc)
		rc = erase(log, index, chain.position);
	if (rc) {
		thmqi_log_fail(log, rc);
		return rc;
	}
	forget(log, index, &chain);
	thmqi_seal_plan_part(log);
	thmqi_segment_reserve(log);
	thmqi_segment_prepare(log);
	thmqi_clean_look(log);
	log->file_bytes = thmqi_log_file_bytes(log);
	if (log->events.unappended)
		log->events.unappended(log->opts.ctx, index);
	return 0;
}

int thmq_log_truncate(struct thmq_log *log, uint64_t index)
{
	int rc;

	if (!log)
		return thmqi_fail(-EINVAL, "truncate: no log");
	rc = thmqi_core_is_mine(log->core) ? truncate_from(log, index) : -EPERM;
	if (rc == -EINVAL)
		return thmqi_fail(rc, "truncate a log from batch %llu: it is the first one, or not there, or an append is not ended",
				  (unsigned long long)index);
	if (rc == -THMQ_ECORRUPT)
		return thmqi_fail(rc, "truncate a log from batch %llu: an index file that it needs is damaged, or a batch; close the log and "
				      "open it, which makes indexes anew, or look at it with verify",
				  (unsigned long long)index);
	return rc ? thmqi_fail(rc, "truncate a log from batch %llu: %s", (unsigned long long)index, thmq_strerror(rc)) : 0;
}
