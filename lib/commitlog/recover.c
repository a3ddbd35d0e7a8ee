/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - a log comes back: `vote` says who it is and what is known durable; the segments are read front to back, every
 * batch checked and replayed, until the first that is bad or does not continue the chain. Below a position known
 * durable that is damage, and nothing is changed; otherwise it is the torn or lost tail of writes in flight.
 */
#include "base/file_limit.h"
#include "internal.h"
#include "stream.h"
#include "survey.h"
#include "index/head.h"
#include "index/keys.h"

/* The last block of a batch that is whole, but for the zeros behind its payload, which no checksum covers. */
struct torn {
	struct torn *next;
	struct segment *segment;
	uint64_t at;    /* in its file */
	uint8_t *block; /* as it is to be */
};

/* The directory, while it is looked at. */
struct recovery {
	struct listing found;
	uint32_t dropped;    /* of those found: they lie before the log's begin, their removal was cut short */
	uint32_t contiguous; /* up to here each begins where the one before ends; the rest are strays */
	uint32_t last;       /* segment that the log ends in */
	struct stream stream;
	struct claims claims;
	bool vote_damaged; /* one of its blocks: the valid one may not be the newest */
	struct torn *torn;
	uint64_t total_bytes, told_bytes; /* of the log, from its begin on: as far as its files go; as the owner was told last */
};

#define PROGRESS_BYTES (16u << 20)

/* -------------------------------------------------------------- directory */

static int note_file(void *arg, const char *name)
{
	int rc = thmqi_listing_note(arg, name);

	return rc < 0 ? rc : 0;
}

static int note_segment(struct thmq_log *log, uint64_t position)
{
	struct segment *s;
	int rc = thmqi_segment_bare(log, position, &s);

	if (!rc) {
		rc = thmqi_segment_add(log, s);
		if (rc)
			thmqi_segment_free(log, s);
	}
	return rc ? thmqi_fail(rc, "open %s: out of memory", log->opts.dir) : 0;
}

/* Its file, which is as long as it was made. */
static int open_segment(struct thmq_log *log, struct segment *s)
{
	struct thmqi_disk_file *file;
	int64_t size = 0;
	char name[40];
	int rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);

	thmqi_segment_name(s->position, name);
	if (!rc)
		size = log->disk->file_size(file);
	if (!rc && size < 0)
		rc = (int)size;
	if (!rc && (uint64_t)size < s->bytes) /* it had its name only once it had its size */
		return thmqi_fail(-THMQ_ECORRUPT, "open %s/%s: it has %lld of its %llu bytes; restore it from a copy",
				  log->opts.dir, name, (long long)size, (unsigned long long)s->bytes);
	return rc ? thmqi_fail(rc, "open %s/%s: %s", log->opts.dir, name, thmq_strerror(rc)) : 0;
}

static int note_segments(struct thmq_log *log, struct recovery *r)
{
	uint64_t expected = log->vote.begin_position;
	uint32_t i;
	int rc = 0;

	while (r->dropped < r->found.count && r->found.positions[r->dropped] < expected)
		r->dropped++;
	r->contiguous = r->dropped;
	for (i = r->dropped; i < r->found.count && !rc && r->found.positions[i] == expected; i++) {
		rc = note_segment(log, expected);
		expected += thmqi_segment_bytes(&log->vote, expected);
		r->contiguous++;
	}
	if (!rc && r->contiguous == r->dropped)
		rc = thmqi_fail(-THMQ_ECORRUPT, "open %s: its first segment is missing; restore it from a copy",
				log->opts.dir);
	return rc;
}

/* ------------------------------------------------------------------ replay */

/* What an owner says by a number above zero must not be taken for an answer of ours. */
static int no_of_owner(int rc)
{
	return rc > 0 ? -ECANCELED : rc;
}

int thmqi_replay_tell(struct thmq_log *log, const struct thmq_log_run *run)
{
	return log->events.replay ? no_of_owner(log->events.replay(log->opts.ctx, run)) : 0;
}

/* How far it is, now and then. */
static int tell_progress(struct thmq_log *log, struct recovery *r, bool now)
{
	uint64_t done = log->chain.position - log->begin.position;

	if (!log->events.progress || (!now && done - r->told_bytes < PROGRESS_BYTES))
		return 0;
	r->told_bytes = done;
	return no_of_owner(log->events.progress(log->opts.ctx, done, THMQI_MAX(done, r->total_bytes)));
}

int thmqi_run_replay(struct thmq_log *log, struct segment *s, const struct batch_header *h)
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
			if (run->flags & THMQ_RUN_KEYED)
				thmqi_keys_note(log, s, run, (uint32_t)(at - (const uint8_t *)h));
			rc = thmqi_arena_fill(&log->arena);
			x = rc ? NULL : thmqi_index_of(log, run->partition, true);
			if (!x || thmqi_index_add(log, x, run, h->index, (uint32_t)(at - (const uint8_t *)h)) != 0)
				return thmqi_fail(-ENOMEM, "index %s: out of memory", log->opts.dir);
			if (thmqi_run_has_producer(run))
				thmqi_seal_note_producer(log, run, h->index, (uint32_t)(at - (const uint8_t *)h), h->term);
		} else {
			thmqi_seal_note(log, run, h->index, (uint32_t)(at - (const uint8_t *)h), h->term);
			thmqi_states_note(log, run, h->index);
		}
		rc = thmqi_replay_tell(log, &view);
		if (rc)
			return rc;
		at += thmqi_run_bytes(run);
	}
	return 0;
}

/* The batch at @at. Return: 1 it is whole and continues the log; 0 the log ends here; or an error. */
static int next_batch(struct thmq_log *log, struct stream *x, const struct segment *s, uint64_t at,
		      const struct batch_header **ret_batch)
{
	const struct batch_header *h;
	const void *data;
	uint32_t len;
	int64_t n = thmqi_file_stream_get(x, at, THMQI_BLOCK, &data);

	h = data;
	if (n < (int64_t)THMQI_BLOCK)
		return (int)THMQI_MIN(n, 0);
	if (!thmqi_plant_header_ok(log, h, s->position + at) || h->len > s->bytes - at)
		return 0;
	if (thmqi_batch_is_stale(h, &log->vote) && !(log->defects & (THMQI_LOG_NO_CHAIN | THMQI_LOG_TRUST_STALE)))
		return 0;
	if (!thmqi_batch_continues(h, &log->chain) && !(log->defects & (THMQI_LOG_NO_CHAIN | THMQI_LOG_TRUST_STALE)))
		return 0;
	if (h->version != FORMAT_VERSION)
		return thmqi_fail(-THMQ_EVERSION,
				  "open %s: batch at %llu has format version %u; this library knows %u", log->opts.dir,
				  (unsigned long long)h->position, h->version, FORMAT_VERSION);
	len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
	if (len > BATCH_BYTES_MAX)
		return 0;
	n = thmqi_file_stream_get(x, at, len, &data);
	h = data;
	if (n < (int64_t)len)
		return (int)THMQI_MIN(n, 0);
	if (!thmqi_batch_payload_ok(h, len) && !(log->defects & THMQI_LOG_TRUST_PAYLOAD))
		return 0;
	*ret_batch = h;
	return 1;
}

/* -------------------------------------------------------------- torn zeros */

/*
 * A write that was torn may have lost nothing but zeros behind the payload of its batch, which is whole then: what the file held
 * there before is still there. Nobody reads it, but copies of a log are equal byte for byte, and so the zeros are written again.
 */
static int note_torn(struct recovery *r, struct segment *s, const struct batch_header *h)
{
	uint32_t len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len,
		 used = (uint32_t)sizeof(*h) + h->payload_len, i = used;
	const uint8_t *data = (const uint8_t *)h;
	struct torn *t;

	while (i < len && !data[i])
		i++;
	if (i >= len || len - used >= THMQI_BLOCK)
		return 0;
	t = malloc(sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct torn){.next = r->torn,
			   .segment = s,
			   .at = h->position - s->position + len - THMQI_BLOCK,
			   .block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK)};
	r->torn = t;
	if (!t->block)
		return -ENOMEM;
	memcpy(t->block, data + len - THMQI_BLOCK, THMQI_BLOCK);
	memset(t->block + THMQI_BLOCK - (len - used), 0, len - used);
	return 0;
}

/* Before the segments are flushed. The payload that is in a block is written with the bytes that it has. */
static int mend_torn(struct thmq_log *log, const struct recovery *r)
{
	struct thmqi_disk_file *file;
	const struct torn *t;
	int rc = 0;

	for (t = r->torn; t && !rc; t = t->next) {
		rc = thmqi_file_need(log, t->segment, SEGMENT_LOG, &file);
		if (!rc)
			rc = log->disk->file_write(file, t->block, THMQI_BLOCK, t->at, false);
	}
	return rc;
}

static void free_torn(struct recovery *r)
{
	struct torn *t;

	while ((t = r->torn)) {
		r->torn = t->next;
		free(t->block);
		free(t);
	}
}

/* Return: 1 it is full and the log goes on; 0 the log ends in it; or an error. */
static int replay_batches(struct thmq_log *log, struct recovery *r, struct segment *s, uint64_t at)
{
	const struct batch_header *h = NULL;
	bool ended;
	int rc;

	while (at < s->bytes) {
		/* what lies behind the end of a clean log means nothing, unless the newest vote may be lost */
		ended = log->vote.clean && !r->vote_damaged &&
			log->chain.position >= log->vote.mark;
		rc = next_batch(log, &r->stream, s, at, &h);
		if (ended && (rc != 1 || !thmqi_batch_is_later(h, &log->vote)))
			return 0;
		if (rc < 0 && rc != -THMQ_EVERSION)
			return thmqi_fail(rc, "read %s at %llu: %s", log->opts.dir, (unsigned long long)(s->position + at),
					  thmq_strerror(rc));
		if (rc != 1)
			return rc;
		r->vote_damaged |= ended;
		rc = thmqi_run_replay(log, s, h);
		if (rc)
			return rc;
		if (h->position + h->len > log->vote.mark && note_torn(r, s, h) != 0)
			return thmqi_fail(-ENOMEM, "open %s: out of memory", log->opts.dir);
		log->stats.recovered_runs += h->run_count;
		log->stats.recovered_batches++;
		thmqi_claims_note(&r->claims, h);
		thmqi_segment_note(s, h->index, h->position, h->run_count);
		thmqi_seal_term(log, h->index, h->term);
		at += h->len;
		thmqi_chain_advance(&log->chain, h);
		rc = tell_progress(log, r, false);
		if (rc)
			return rc;
	}
	return 1;
}

/* One segment from its first batch on, but for those that a part of its index has. Return: likewise. */
static int replay_segment(struct thmq_log *log, struct recovery *r, struct segment *s)
{
	struct thmqi_disk_file *file;
	struct batch_header last;
	uint64_t at = 0;
	int rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);

	log->carry_from = log->chain.index + 1;
	rc = rc ? rc : thmqi_segment_map_blocks(s);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	rc = r->vote_damaged ? 0 : thmqi_part_load(log, s, &r->stream, &last);
	if (rc < 0)
		return rc;
	if (rc == 1) {
		thmqi_claims_note(&r->claims, &last);
		at = log->chain.position - s->position;
	}
	thmqi_file_stream_begin(&r->stream, file, at, s->bytes);
	rc = replay_batches(log, r, s, at);
	thmqi_file_stream_end(&r->stream);
	return rc;
}

/*
 * A segment that is known durable to its end need not be read if it has an index. One that is read though it is full gets
 * one, once the log is found to be well. Return: as replay_segment().
 */
static int take_segment(struct thmq_log *log, struct recovery *r, struct segment *s, bool more)
{
	int rc = open_segment(log, s);

	if (rc)
		return rc;
	s->prev_crc = log->chain.crc;
	if (more && s->position + s->bytes <= log->vote.mark)
		rc = thmqi_sealed_load(log, s);
	if (rc) {
		s->last_term = log->chain.term;
		return rc;
	}
	rc = replay_segment(log, r, s);
	s->last_term = log->chain.term;
	if (rc == 1 && more)
		thmqi_seal_keep(log, s);
	return rc;
}

static int replay_all(struct thmq_log *log, struct recovery *r)
{
	int rc = 1;

	log->begin = (struct chain){.position = log->vote.begin_position,
				    .index = log->vote.begin_index,
				    .term = log->vote.begin_term,
				    .crc = log->vote.begin_crc};
	memcpy(log->begin.log_id, log->vote.log_id, sizeof(log->begin.log_id));
	log->chain = log->begin;
	for (r->last = 0; r->last < log->segment_count; r->last++)
		r->total_bytes += log->segments[r->last]->bytes;
	rc = tell_progress(log, r, true);
	rc = rc ? rc : 1;
	for (r->last = 0; rc == 1 && r->last < log->segment_count; r->last++) {
		rc = take_segment(log, r, log->segments[r->last], r->last + 1 < log->segment_count);
		if (rc == 1 && tell_progress(log, r, false))
			rc = -ECANCELED;
	}
	r->last--;
	if (rc >= 0) { /* what is left of the last one is empty */
		r->total_bytes = log->chain.position - log->begin.position;
		rc = tell_progress(log, r, true);
	}
	/* somebody wrote behind the clean end: his vote is the one that is lost */
	if (log->chain.position > log->vote.mark)
		log->vote.clean = false;
	return THMQI_MIN(rc, 0);
}

/* ------------------------------------------------------------------ damage */

/* @bytes of the segment; UINT64_MAX: all of it, whatever that takes. */
static int look_beyond(struct thmq_log *log, struct recovery *r, struct thmqi_disk_file *file, uint64_t position,
		       uint64_t at, uint64_t bytes)
{
	const struct place_to_look l = {.stream = &r->stream, .file = file, .vote = &log->vote, .position = position};

	if (bytes == UINT64_MAX)
		return thmqi_claims_look(&r->claims, &l, at);
	return thmqi_claims_look_near(&r->claims, &l, at, bytes);
}

/*
 * Behind the end there are the rest of its segment and the one that was made ahead: looking at all of these would take longer
 * than all else. It is done where something is wrong already: `vote` may not be the newest, so that the last incarnation is not
 * known, or there are more segments, which means that the log went beyond this one.
 */
static bool looks_at_all(const struct thmq_log *log, const struct recovery *r)
{
	return r->vote_damaged || log->segment_count > r->last + 2 || r->found.count > r->contiguous;
}

/* A segment that is not reached may still tell. */
static int look_at_stray(struct thmq_log *log, struct recovery *r, uint64_t position)
{
	struct thmqi_disk_file *file;
	int rc;

	rc = thmqi_segment_file_open(log->disk, log->dir, position, &file);
	if (rc)
		return rc;
	rc = look_beyond(log, r, file, position, 0, UINT64_MAX);
	log->disk->file_close(file);
	return rc;
}

static int judge_end(struct thmq_log *log, struct recovery *r)
{
	uint64_t end = log->chain.position;
	bool look = !log->vote.clean || r->vote_damaged;
	struct thmqi_disk_file *file;
	uint32_t i;
	int rc = 0;

	for (i = r->last + 1; i < log->segment_count && !rc; i++)
		rc = open_segment(log, log->segments[i]);
	if (rc)
		return rc;
	r->claims.durable = THMQI_MAX(r->claims.durable, log->vote.mark);
	r->claims.end = end;
	for (i = r->last; i < log->segment_count && !rc && look; i++) {
		struct segment *s = log->segments[i];

		rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);
		if (!rc)
			rc = look_beyond(log, r, file, s->position, end > s->position ? end - s->position : 0,
					 looks_at_all(log, r) ? UINT64_MAX : s->bytes);
	}
	for (i = r->contiguous; i < r->found.count && !rc && look; i++)
		rc = look_at_stray(log, r, r->found.positions[i]);
	if (rc)
		return thmqi_fail(rc, "read %s: %s", log->opts.dir, thmq_strerror(rc));
	log->stats.torn_bytes = r->claims.end - end;
	if (end >= r->claims.durable || (log->defects & THMQI_LOG_CUT_DAMAGE))
		return 0;
	return thmqi_fail(-THMQ_ECORRUPT,
			  "open %s: the batch at position %llu is damaged or missing, and bytes up to %llu were known "
			  "durable; nothing was changed: restore it from a copy, or look at it with verify",
			  log->opts.dir, (unsigned long long)end, (unsigned long long)r->claims.durable);
}

/* --------------------------------------------------------------- take over */

/* Segments before the log's begin, each with its index, which nothing would name any more. */
static void remove_dropped(struct thmq_log *log, const struct recovery *r)
{
	char name[40];
	uint32_t i;

	for (i = 0; i < r->dropped; i++) {
		thmqi_seal_name(r->found.positions[i], name);
		log->disk->unlink(log->dir, name);
	}
	if (r->dropped)
		log->disk->dir_sync(log->dir);
	for (i = 0; i < r->dropped; i++) {
		thmqi_segment_name(r->found.positions[i], name);
		log->disk->unlink(log->dir, name);
	}
}

/* Segments behind the one the log ends in hold nothing: the first may serve as the next, others go. */
static void keep_next(struct thmq_log *log, struct recovery *r)
{
	struct thmqi_disk_file *file;
	char name[40];
	uint32_t i;

	remove_dropped(log, r);
	log->disk->unlink(log->dir, SEAL_TEMPORARY);
	for (i = r->contiguous; i < r->found.count; i++) {
		thmqi_segment_name(r->found.positions[i], name);
		log->disk->unlink(log->dir, name);
	}
	while (log->segment_count > r->last + 1) {
		struct segment *s = log->segments[--log->segment_count];

		if (log->segment_count == r->last + 1 && thmqi_file_need(log, s, SEGMENT_LOG, &file) == 0 &&
		    log->disk->file_size(file) >= (int64_t)s->bytes && thmqi_segment_map_blocks(s) == 0) {
			thmqi_file_forget(s);
			log->next = s;
			log->prepare = PREPARE_READY;
			continue;
		}
		thmqi_segment_name(s->position, name);
		thmqi_segment_free(log, s);
		log->disk->unlink(log->dir, name);
	}
}

/*
 * What recovery keeps is made durable before anything builds on it, names too: its last owner may have been killed between
 * the making of a segment and the flush of the directory. The new incarnation is stored before a write.
 */
static int take_over(struct thmq_log *log, struct recovery *r)
{
	struct thmqi_disk_file *file;
	uint32_t i;
	int rc;

	log->stats.unclean = !log->vote.clean;
	rc = mend_torn(log, r);
	if (rc)
		return thmqi_fail(rc, "write %s: %s", log->opts.dir, thmq_strerror(rc));
	for (i = 0; i <= r->last && !(log->defects & THMQI_LOG_NO_OPEN_FLUSH); i++) {
		if (log->segments[i]->position + log->segments[i]->bytes <= log->vote.mark)
			continue;
		rc = thmqi_file_need(log, log->segments[i], SEGMENT_LOG, &file);
		if (!rc)
			rc = log->disk->file_flush(file);
		if (rc)
			return thmqi_fail(rc, "flush %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	rc = log->defects & THMQI_LOG_NO_OPEN_FLUSH ? 0 : log->disk->dir_sync(log->dir);
	if (rc)
		return thmqi_fail(rc, "flush %s: %s", log->opts.dir, thmq_strerror(rc));
	log->active = log->segments[r->last];
	log->cold_next = log->active->ordinal;
	rc = thmqi_files_keep(log, log->active);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	log->durable_position = log->written_position = log->chain.position;
	log->durable_index = log->written_index = log->chain.index;
	log->told_durable = log->told_written = log->plain_index = log->chain.index;
	log->term = log->copies.on ? log->vote.term : THMQI_MAX(log->vote.term, log->chain.term) + 1;
	log->copies.voted_for = log->vote.voted_for;
	log->incarnation = THMQI_MAX(log->vote.incarnation, r->claims.incarnation) + 1;
	/* the block that was believed may be in the device's cache only, and the other one is written over now */
	rc = log->disk->file_flush(log->vote_file);
	if (!rc)
		rc = thmqi_vote_write(log, log->chain.position, false);
	if (rc)
		return thmqi_fail(rc, "write %s/vote: %s", log->opts.dir, thmq_strerror(rc));
	keep_next(log, r);
	thmqi_seals_write(log);
	rc = thmqi_index_take_over_all(log);
	return rc ? thmqi_fail(rc, "index %s: out of memory", log->opts.dir) : 0;
}

static int check_identity(const struct thmq_log *log)
{
	static const uint8_t any[16];

	if (memcmp(log->opts.log_id, any, 16) == 0 || memcmp(log->opts.log_id, log->vote.log_id, 16) == 0)
		return 0;
	return thmqi_fail(-THMQ_ECORRUPT, "open %s: it is a log of another identity; put the right directory back",
			  log->opts.dir);
}

/*
 * A copy that does not know for sure whom it gave its vote may give it twice. One block is torn only where the device tears a
 * sector, since that is all it has; what is damaged otherwise may have been the newest. The first one alone was written by who
 * made the log, and no vote since: that one would lie in its place.
 */
static int check_vote(const struct thmq_log *log, const struct recovery *r)
{
	if ((!r->vote_damaged || log->vote.generation == 1) && log->vote.term >= log->chain.term)
		return 0;
	return thmqi_fail(-THMQ_ECORRUPT, "open %s: its vote file is damaged, so that this copy may no longer vote; remove it from its group, and "
			  "let it join anew with an empty directory", log->opts.dir);
}

static int come_back(struct thmq_log *log, struct recovery *r)
{
	int rc = check_identity(log);

	if (!rc)
		rc = note_segments(log, r);
	if (rc)
		return rc;
	rc = log->disk->file_open(log->dir, "vote", false, &log->vote_file);
	if (rc) {
		log->vote_file = NULL;
		return thmqi_fail(rc, "open %s/vote: %s", log->opts.dir, thmq_strerror(rc));
	}
	if (thmqi_file_stream_init(&r->stream, log->disk, log->queue) != 0)
		return thmqi_fail(-ENOMEM, "open %s: out of memory", log->opts.dir);
	rc = thmqi_ahead_begin(log) ? thmqi_fail(-ENOMEM, "open %s: out of memory", log->opts.dir) : replay_all(log, r);
	thmqi_ahead_end(log);
	if (!rc)
		rc = judge_end(log, r);
	if (!rc && log->copies.on)
		rc = check_vote(log, r);
	/* the first write behind the limit would be its last */
	if (!rc && log->segments[r->last]->bytes > thmqi_file_limit())
		rc = thmqi_log_too_large(log, log->segments[r->last]->bytes);
	return rc ? rc : take_over(log, r);
}

static int begin_anew(struct thmq_log *log, const struct listing *l)
{
	int rc = thmqi_log_clear_leftovers(log, l);

	if (rc == -THMQ_ECORRUPT)
		return thmqi_fail(rc, "open %s: its vote file is missing or damaged; restore it from a copy",
				  log->opts.dir);
	if (rc == -ENOENT)
		return thmqi_fail(rc, "open %s: there is no log in it", log->opts.dir);
	if (rc < 0)
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	return thmqi_log_create(log);
}

int thmqi_log_recover(struct thmq_log *log)
{
	struct recovery r = {0};
	int rc;

	rc = log->disk->dir_list(log->dir, note_file, &r.found);
	if (rc) {
		thmqi_fail(rc, "read %s: %s", log->opts.dir, thmq_strerror(rc));
		goto out;
	}
	thmqi_listing_sort(&r.found);
	rc = r.found.vote ? thmqi_vote_read(log->disk, log->dir, &log->vote, &r.vote_damaged) : -ENOENT;
	if (!rc && log->vote.resetting) {
		rc = log->copies.on ? thmqi_log_reset_resume(log) : -THMQ_ECORRUPT;
		if (rc) {
			thmqi_fail(rc, "open %s: it was being made anew from another copy, and cannot be now: %s", log->opts.dir, thmq_strerror(rc));
			goto out;
		}
		free(r.found.positions);
		r.found = (struct listing){.vote = true};
		rc = log->disk->dir_list(log->dir, note_file, &r.found);
		thmqi_listing_sort(&r.found);
		if (rc)
			goto out;
	}
	if (!rc)
		rc = come_back(log, &r);
	else if (rc != -ENOENT && rc != -THMQ_ECORRUPT)
		thmqi_fail(rc, "open %s/vote: %s", log->opts.dir, thmq_strerror(rc));
	else
		rc = begin_anew(log, &r.found);
out:
	thmqi_file_stream_fini(&r.stream);
	free_torn(&r);
	free(r.found.positions);
	return rc;
}
