/* SPDX-License-Identifier: Apache-2.0 */
/*
 * create.c - a log is made: the first segment with its first batch, then `vote`, which makes it one. A crash before
 * `vote` is complete leaves nothing that anybody was told of: the next open begins anew.
 */
#include "base/file_limit.h"
#include "internal.h"
#include "survey.h"

#define PIECE_BYTES (1u << 20)

/* The first batch: this node is the one voter, or those are that the owner of several copies names. This is where membership begins. */
static int write_first(struct thmq_log *log)
{
	const uint64_t node = 1;
	const void *first = log->copies.on ? log->copies.owner.first : &node;
	uint32_t first_len = log->copies.on ? log->copies.owner.first_len : (uint32_t)sizeof(node);
	uint32_t len = (uint32_t)THMQI_ALIGN_UP(sizeof(struct batch_header) + sizeof(struct thmq_run_header) + THMQI_ALIGN_UP(first_len, 8u), THMQI_BLOCK);
	struct thmq_run_header *run;
	struct batch_header *h;
	uint8_t *block;
	int rc;

	if (!first)
		return 0; /* it comes from the copy that leads */
	block = aligned_alloc(THMQI_BLOCK, len);
	if (!block)
		return -ENOMEM;
	memset(block, 0, len);
	h = (struct batch_header *)block;
	run = (struct thmq_run_header *)(h + 1);
	run->len = first_len;
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, first, first_len);
	thmqi_run_seal(run);
	thmqi_batch_seal(h, &log->chain, 1, BATCH_CHANGE, 1, thmqi_run_bytes(run), len);
	thmqi_batch_stamp(h, 1, 0);
	rc = log->disk->file_write(log->active->file, block, len, 0, true);
	if (!rc) {
		thmqi_segment_note(log->active, h->index, h->position, h->run_count);
		thmqi_seal_note(log, run, h->index, sizeof(*h), h->term);
		thmqi_states_note(log, run, h->index);
		thmqi_seal_term(log, h->index, h->term);
		thmqi_chain_advance(&log->chain, h);
	}
	free(block);
	return rc;
}

static int begin(struct thmq_log *log)
{
	static const uint8_t any[16];
	struct segment *s;
	int rc = 0;

	memset(&log->vote, 0, sizeof(log->vote));
	log->vote.segment_bytes_min = log->opts.segment_bytes_min;
	log->vote.segment_bytes_max = log->opts.segment_bytes_max;
	memcpy(log->vote.log_id, log->opts.log_id, 16);
	if (memcmp(log->opts.log_id, any, 16) == 0)
		rc = thmqi_random_bytes(log->vote.log_id, 16);
	if (!rc)
		rc = thmqi_segment_create(log, 0, &s);
	if (rc)
		return rc;
	rc = thmqi_segment_add(log, s);
	if (rc) {
		thmqi_segment_free(log, s);
		return rc;
	}
	log->active = s;
	log->chain = (struct chain){0};
	log->carry_from = 1;
	memcpy(log->chain.log_id, log->vote.log_id, 16);
	log->begin = log->chain;
	return write_first(log);
}

int thmqi_log_create(struct thmq_log *log)
{
	int rc = begin(log);

	log->term = log->incarnation = 1;
	log->durable_position = log->written_position = log->chain.position;
	log->durable_index = log->written_index = log->chain.index;
	log->told_durable = log->told_written = log->plain_index = log->chain.index;
	if (!rc)
		rc = log->disk->file_open(log->dir, "vote", true, &log->vote_file);
	/* both blocks, so that a full disk has room for them ever after */
	if (!rc)
		rc = thmqi_vote_write(log, log->chain.position, false);
	if (!rc)
		rc = thmqi_vote_write(log, log->chain.position, false);
	if (!rc)
		rc = log->disk->file_flush(log->vote_file); /* its size too */
	if (!rc)
		rc = log->disk->dir_sync(log->dir);
	if (rc == -EFBIG)
		return thmqi_log_too_large(log, log->opts.segment_bytes_min);
	return rc ? thmqi_fail(rc, "create %s: %s", log->opts.dir, thmq_strerror(rc)) : 0;
}

int thmqi_log_too_large(const struct thmq_log *log, uint64_t bytes)
{
	return thmqi_fail(-EFBIG, "open %s: the segment that it writes to has %llu bytes, and this process may write files of %llu "
			  "(RLIMIT_FSIZE): raise that limit (ulimit -f), or give a new log smaller segments",
			  log->opts.dir, (unsigned long long)bytes, (unsigned long long)thmqi_file_limit());
}

/* --------------------------------------------------------------- leftovers */

/* Is there a batch behind the first block? That one is written before `vote`, all others after it. */
static int has_second_batch(struct thmq_log *log, struct thmqi_disk_file *file)
{
	uint8_t *piece = aligned_alloc(THMQI_BLOCK, PIECE_BYTES);
	uint64_t at = 0;
	int64_t n, i;
	int found = 0;

	if (!piece)
		return -ENOMEM;
	do {
		n = log->disk->file_read(file, piece, PIECE_BYTES, at);
		for (i = at ? 0 : THMQI_BLOCK; i + (int64_t)THMQI_BLOCK <= n && !found; i += THMQI_BLOCK)
			found = ((const struct batch_header *)(piece + i))->magic == BATCH_MAGIC;
		at += PIECE_BYTES;
	} while (n == PIECE_BYTES && !found);
	free(piece);
	return n < 0 ? (int)n : found;
}

int thmqi_log_clear_leftovers(struct thmq_log *log, const struct listing *l)
{
	struct thmqi_disk_file *file;
	char name[40];
	int rc = 0;

	/* a second segment is begun after `vote` only */
	if (l->count > 1 || (l->count && l->positions[0] != 0))
		return -THMQ_ECORRUPT;
	if (l->count) {
		thmqi_segment_name(0, name);
		rc = log->disk->file_open(log->dir, name, false, &file);
		if (!rc) {
			rc = has_second_batch(log, file);
			log->disk->file_close(file);
		}
		if (rc)
			return rc < 0 ? rc : -THMQ_ECORRUPT;
	}
	if (log->opts.flags & THMQ_LOG_NO_CREATE)
		return -ENOENT;
	if (l->count)
		rc = log->disk->unlink(log->dir, name);
	if (!rc && l->vote)
		rc = log->disk->unlink(log->dir, "vote");
	return rc ? rc : 1;
}
