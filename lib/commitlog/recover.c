/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - a log comes back: `vote` says who it is and what is known durable; the segments are read front to back, every
 * batch checked and replayed, until the first that is bad or does not continue the chain. Below a position known
 * durable that is damage, and nothing is changed; otherwise it is the torn or lost tail of writes in flight.
 */
#include <stdio.h>

#include "internal.h"

#define PIECE_BYTES (8u << 20) /* read at a time; a batch has 4 MiB at most */

struct listing {
	uint64_t *positions;
	uint32_t count, room;
	bool vote;
};

static int note_file(void *arg, const char *name)
{
	struct listing *l = arg;
	unsigned long long position;
	uint64_t *grown;
	char canonical[40];

	if (strcmp(name, "vote") == 0)
		l->vote = true;
	if (sscanf(name, "%20llu.log", &position) != 1)
		return 0;
	thmqi_segment_name(position, canonical);
	if (strcmp(name, canonical) != 0)
		return 0;
	if (l->count == l->room) {
		l->room = l->room ? l->room * 2 : 64;
		grown = realloc(l->positions, l->room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		l->positions = grown;
	}
	l->positions[l->count++] = position;
	return 0;
}

static int by_position(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* ------------------------------------------------------------------ replay */

static int replay_batch(struct thmq_log *log, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct run_index *x;
	uint32_t i;
	int rc;

	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		struct thmq_log_run view = {.header = run,
					    .payload = run + 1,
					    .position = h->position,
					    .index = h->index,
					    .term = h->term};

		if (run->encoding != THMQ_RUN_STATE) {
			x = thmqi_index_of(log, run->partition, true);
			rc = x ? thmqi_index_add(log, x, run, h->index, (uint32_t)(at - (const uint8_t *)h)) :
				 -ENOMEM;
			if (rc)
				return thmqi_fail(rc == -ENOBUFS ? -ENOMEM : rc, "index %s: out of memory",
						  log->opts.dir);
		}
		if (log->opts.events && log->opts.events->replay) {
			rc = log->opts.events->replay(log->opts.ctx, &view);
			if (rc)
				return rc;
		}
		log->stats.recovered_runs++;
		at += thmqi_run_bytes(run);
	}
	log->stats.recovered_batches++;
	return 0;
}

/* One segment from its first batch on. Return: 1 it is full and the log goes on, 0 the log ends in it, or an error. */
static int replay_segment(struct thmq_log *log, struct segment *s, uint8_t *piece)
{
	uint64_t at = 0, loaded = 0; /* piece holds bytes [loaded, loaded + have) of the segment */
	uint32_t have = 0;
	const struct batch_header *h;
	int64_t n;
	int rc;

	while (at < s->bytes) {
		uint32_t need = THMQI_BLOCK;

		for (;;) {
			if (at < loaded || at + need > loaded + have) {
				n = log->disk->file_read(s->file, piece,
							 (uint32_t)THMQI_MIN(PIECE_BYTES, s->bytes - at), at);
				if (n < 0)
					return thmqi_fail((int)n, "read %s at %llu: %s", log->opts.dir,
							  (unsigned long long)(s->position + at),
							  thmq_strerror((int)n));
				loaded = at;
				have = (uint32_t)n;
			}
			if (at + need > loaded + have)
				return 0;
			h = (const struct batch_header *)(piece + (at - loaded));
			if (need > THMQI_BLOCK)
				break;
			if (!thmqi_batch_header_ok(h, s->position + at, log->vote.log_id) ||
			    !thmqi_batch_continues(h, &log->chain) || h->len > s->bytes - at)
				return 0;
			if (h->version != FORMAT_VERSION)
				return thmqi_fail(-THMQ_EVERSION,
						  "open %s: batch at %llu has format version %u; this library "
						  "knows %u",
						  log->opts.dir, (unsigned long long)h->position, h->version,
						  FORMAT_VERSION);
			if (h->type == BATCH_PAD || h->len == THMQI_BLOCK)
				break;
			if (h->len > (4u << 20))
				return 0;
			need = h->len;
		}
		if (!thmqi_batch_payload_ok(h, h->type == BATCH_PAD ? THMQI_BLOCK : h->len))
			return 0;
		thmqi_segment_note(s, h->index, h->position);
		rc = replay_batch(log, h);
		if (rc)
			return rc;
		if (thmqi_batch_local_ok(h))
			log->durable_position = THMQI_MAX(log->durable_position, h->durable_position);
		thmqi_chain_advance(&log->chain, h);
		at += h->len;
	}
	return 1;
}

/* ------------------------------------------------------------------ damage */

/*
 * A later header of the current incarnation says that what lies before some position was durable when it was formed. If
 * the log ends below that, bytes that were acknowledged are gone.
 */
static int look_beyond(struct thmq_log *log, struct segment *s, uint8_t *piece, uint64_t end, uint64_t *ret_claim)
{
	uint64_t at = end > s->position ? end - s->position : 0;
	uint32_t i;
	int64_t n;

	for (; at < s->bytes; at += PIECE_BYTES) {
		n = log->disk->file_read(s->file, piece, (uint32_t)THMQI_MIN(PIECE_BYTES, s->bytes - at), at);
		if (n < 0)
			return (int)n;
		for (i = 0; i + THMQI_BLOCK <= (uint64_t)n; i += THMQI_BLOCK) {
			const struct batch_header *h = (const struct batch_header *)(piece + i);

			if (h->magic == BATCH_MAGIC && thmqi_batch_header_ok(h, s->position + at + i, log->vote.log_id) &&
			    thmqi_batch_local_ok(h) && h->incarnation == log->vote.incarnation)
				*ret_claim = THMQI_MAX(*ret_claim, h->durable_position);
		}
		if (n < PIECE_BYTES)
			break;
	}
	return 0;
}

static int judge_end(struct thmq_log *log, uint32_t last, uint8_t *piece)
{
	uint64_t end = log->chain.position, known = log->vote.mark;
	uint32_t i;
	int rc;

	for (i = last; i < log->segment_count; i++) {
		rc = look_beyond(log, log->segments[i], piece, end, &known);
		if (rc)
			return thmqi_fail(rc, "read %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	if (end < known)
		return thmqi_fail(-THMQ_ECORRUPT,
				  "open %s: the batch at position %llu is damaged or missing, and bytes up to %llu were "
				  "known durable; nothing was changed: restore it from a copy, or look at it with verify",
				  log->opts.dir, (unsigned long long)end, (unsigned long long)known);
	return 0;
}

/* ---------------------------------------------------------------- open it */

static int open_segments(struct thmq_log *log, const struct listing *l)
{
	uint64_t expected = l->count ? l->positions[0] : 0;
	struct thmqi_disk_file *file;
	struct segment *s;
	char name[40];
	uint32_t i;
	int rc;

	for (i = 0; i < l->count; i++) {
		if (l->positions[i] != expected)
			break; /* judged by the mark: what follows a hole is not reached */
		thmqi_segment_name(l->positions[i], name);
		rc = log->disk->file_open(log->dir, name, false, &file);
		if (rc)
			return thmqi_fail(rc, "open %s/%s: %s", log->opts.dir, name, thmq_strerror(rc));
		rc = thmqi_segment_add(log, l->positions[i], file, &s);
		if (rc) {
			log->disk->file_close(file);
			return rc;
		}
		log->segments[log->segment_count++] = s;
		expected += s->bytes;
	}
	return 0;
}

/* Segments behind the one the log ends in hold nothing: the first may serve as the next, others go. */
static int keep_next(struct thmq_log *log, uint32_t last)
{
	char name[40];

	while (log->segment_count > last + 1) {
		struct segment *s = log->segments[--log->segment_count];
		bool whole = log->disk->file_size(s->file) >= (int64_t)s->bytes;

		if (log->segment_count == last + 1 && whole) {
			log->next = s;
			log->prepare = PREPARE_READY;
			continue;
		}
		thmqi_segment_name(s->position, name);
		thmqi_segment_free(log, s);
		log->disk->unlink(log->dir, name);
	}
	return 0;
}

static int scan_all(struct thmq_log *log, uint32_t *ret_last)
{
	uint8_t *piece = aligned_alloc(THMQI_BLOCK, PIECE_BYTES);
	uint32_t last = 0;
	int rc = 0;

	if (!piece)
		return -ENOMEM;
	log->chain = (struct chain){.position = log->segments[0]->position};
	memcpy(log->chain.log_id, log->vote.log_id, sizeof(log->chain.log_id));
	for (; last < log->segment_count; last++) {
		rc = replay_segment(log, log->segments[last], piece);
		if (rc != 1)
			break;
	}
	if (rc >= 0 && last == log->segment_count)
		last--; /* full to the last byte: the next one is missing */
	if (rc >= 0)
		rc = judge_end(log, last, piece);
	free(piece);
	*ret_last = last;
	return rc;
}

/* What recovery keeps is made durable before anything builds on it, and the new incarnation is stored before a write. */
static int take_over(struct thmq_log *log, uint32_t last)
{
	uint64_t was_mark = log->vote.mark;
	uint32_t i;
	int rc;

	log->stats.unclean = !log->vote.clean || log->vote.mark != log->chain.position;
	for (i = 0; i <= last; i++) {
		if (log->segments[i]->position + log->segments[i]->bytes <= was_mark)
			continue;
		rc = log->disk->file_flush(log->segments[i]->file);
		if (rc)
			return thmqi_fail(rc, "flush %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	log->durable_position = log->written_position = log->chain.position;
	log->durable_index = log->written_index = log->chain.index;
	log->told_durable = log->told_written = log->plain_index = log->want_durable = log->chain.index;
	log->term = THMQI_MAX(log->vote.term, log->chain.term) + 1;
	log->incarnation = log->vote.incarnation + 1;
	log->vote.mark = log->chain.position;
	log->vote.clean = 0;
	rc = thmqi_vote_write(log);
	if (rc)
		return thmqi_fail(rc, "write %s/vote: %s", log->opts.dir, thmq_strerror(rc));
	return keep_next(log, last);
}

static int check_identity(struct thmq_log *log)
{
	static const uint8_t any[16];

	if (memcmp(log->opts.log_id, any, 16) != 0 && memcmp(log->opts.log_id, log->vote.log_id, 16) != 0)
		return thmqi_fail(-THMQ_ECORRUPT,
				  "open %s: it is a log of another identity; put the right directory back",
				  log->opts.dir);
	return 0;
}

/* The first batch: this node is the one voter. With more copies later this is where membership begins. */
static int write_first(struct thmq_log *log)
{
	struct thmq_run_header *run;
	struct batch_header *h;
	uint64_t node = 1;
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	int rc;

	if (!block)
		return -ENOMEM;
	memset(block, 0, THMQI_BLOCK);
	h = (struct batch_header *)block;
	run = (struct thmq_run_header *)(h + 1);
	run->len = sizeof(node);
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &node, sizeof(node));
	thmqi_run_seal(run);
	thmqi_batch_seal(h, &log->chain, 1, BATCH_CHANGE, 1, thmqi_run_bytes(run), THMQI_BLOCK);
	thmqi_batch_stamp(h, 1, 0);
	rc = log->disk->file_write(log->active->file, block, THMQI_BLOCK, 0, true);
	if (!rc) {
		thmqi_segment_note(log->active, h->index, h->position);
		thmqi_chain_advance(&log->chain, h);
	}
	free(block);
	return rc;
}

/*
 * A new log: the first segment with its first batch, then `vote`, which makes it one. A crash before `vote` is complete
 * leaves nothing that anybody was told of: the next open begins anew.
 */
int thmqi_log_create(struct thmq_log *log)
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
		return thmqi_fail(rc, "create %s: %s", log->opts.dir, thmq_strerror(rc));
	log->segments[log->segment_count++] = log->active = s;
	log->chain = (struct chain){0};
	memcpy(log->chain.log_id, log->vote.log_id, 16);
	rc = write_first(log);
	log->term = log->incarnation = 1;
	log->durable_position = log->written_position = log->chain.position;
	log->durable_index = log->written_index = log->chain.index;
	log->told_durable = log->told_written = log->plain_index = log->want_durable = log->chain.index;
	if (!rc)
		rc = log->disk->file_open(log->dir, "vote", true, &log->vote_file);
	if (!rc)
		rc = thmqi_vote_write(log);
	if (!rc)
		rc = thmqi_vote_write(log); /* both blocks hold something valid */
	if (!rc)
		rc = log->disk->dir_sync(log->dir);
	return rc ? thmqi_fail(rc, "create %s: %s", log->opts.dir, thmq_strerror(rc)) : 0;
}

/* No valid `vote`: if there is a batch of ours, it was lost; otherwise creation was cut short. */
static bool holds_batches(struct thmq_log *log, const struct listing *l)
{
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	struct thmqi_disk_file *file;
	bool found = false;
	uint32_t i;
	char name[40];

	for (i = 0; block && i < l->count && !found; i++) {
		const struct batch_header *h = (const struct batch_header *)block;

		thmqi_segment_name(l->positions[i], name);
		if (log->disk->file_open(log->dir, name, false, &file) != 0)
			continue;
		/* the first batch of all is written before `vote`: a second one proves that there was a vote */
		found = log->disk->file_read(file, block, THMQI_BLOCK, l->positions[i] ? 0 : THMQI_BLOCK) ==
				THMQI_BLOCK &&
			h->magic == BATCH_MAGIC;
		log->disk->file_close(file);
	}
	free(block);
	return found;
}

static int remove_leftovers(struct thmq_log *log, const struct listing *l)
{
	char name[40];
	uint32_t i;

	for (i = 0; i < l->count; i++) {
		thmqi_segment_name(l->positions[i], name);
		log->disk->unlink(log->dir, name);
	}
	log->disk->unlink(log->dir, "vote");
	return 0;
}

int thmqi_log_recover(struct thmq_log *log)
{
	struct listing l = {0};
	uint32_t last = 0;
	int rc;

	rc = log->disk->dir_list(log->dir, note_file, &l);
	if (rc)
		return thmqi_fail(rc, "read %s: %s", log->opts.dir, thmq_strerror(rc));
	if (l.count)
		qsort(l.positions, l.count, sizeof(*l.positions), by_position);
	rc = l.vote ? thmqi_vote_read(log->disk, log->dir, &log->vote) : -ENOENT;
	if (rc == -ENOENT || rc == -THMQ_ECORRUPT) {
		if (holds_batches(log, &l)) {
			rc = thmqi_fail(-THMQ_ECORRUPT,
					"open %s: its vote file is missing or damaged; restore it from a copy",
					log->opts.dir);
		} else if (log->opts.flags & THMQ_LOG_NO_CREATE) {
			rc = thmqi_fail(-ENOENT, "open %s: there is no log in it", log->opts.dir);
		} else {
			remove_leftovers(log, &l);
			rc = thmqi_log_create(log);
		}
		goto out;
	}
	if (rc) {
		thmqi_fail(rc, "open %s/vote: %s", log->opts.dir, thmq_strerror(rc));
		goto out;
	}
	rc = check_identity(log);
	if (!rc)
		rc = open_segments(log, &l);
	if (!rc && !log->segment_count)
		rc = thmqi_fail(-THMQ_ECORRUPT, "open %s: its segments are missing; restore them from a copy",
				log->opts.dir);
	if (!rc) {
		rc = log->disk->file_open(log->dir, "vote", false, &log->vote_file);
		if (rc)
			thmqi_fail(rc, "open %s/vote: %s", log->opts.dir, thmq_strerror(rc));
	}
	if (!rc)
		rc = scan_all(log, &last);
	if (!rc) {
		log->active = log->segments[last];
		rc = take_over(log, last);
	}
out:
	free(l.positions);
	return rc;
}
