/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repair.c - a log that an open refuses becomes one that opens. What can be derived is made anew; from the first bytes that
 * cannot be had on everything moves aside into files of its own. First it is settled what is to be done, and told; only then,
 * and only if that is wanted, is anything written, in an order that leaves a log that is still damaged, and nothing lost, when
 * it is cut short: copies and moves aside, then indexes, then `vote`, then zeros over what was copied.
 */
#include <stdio.h>
#include <unistd.h>

#include "disk/busy.h"
#include "scan.h"

#define ZEROS_BYTES (1u << 20)
#define OFFSET_JUMP_SHIFT                                                                          \
	20u /* doc/format.md: after an unclean end partitions go on 2^20 further for every term */
#define RECORD_BYTES 16u /* a message takes no less */

struct repair {
	struct scan s;
	const char *path;
	const struct thmq_log_repair_opts *opts;
	const struct thmq_log_visitor *visitor;
	void *ctx;
	bool write;
	struct thmqi_disk_dir *aside; /* where the quarantine goes; the log's own or another */
	bool aside_own;
	uint8_t *first; /* the log's first block, made again; NULL: it is there */
	bool begin_moved;
	uint64_t begin;         /* before that */
	uint64_t damaged_bytes; /* of which nobody can tell what they were */
	uint64_t offsets;       /* the most that one partition lost */
	int steps;
	char text[256];
};

static int step(struct repair *r, uint32_t kind, uint64_t position, uint64_t end,
		const char *format, ...) __attribute__((format(printf, 5, 6)));

static int step(struct repair *r, uint32_t kind, uint64_t position, uint64_t end,
		const char *format, ...)
{
	struct thmq_log_step st = {.kind = kind, .position = position, .end = end, .text = r->text};
	va_list args;

	r->steps++;
	if (!r->visitor->step || r->s.stop)
		return r->s.stop;
	va_start(args, format);
	vsnprintf(r->text, sizeof(r->text), format, args);
	va_end(args);
	return r->s.stop = r->visitor->step(r->ctx, &st);
}

static int lose(struct repair *r, const struct thmq_log_loss *loss)
{
	if (r->visitor->loss && !r->s.stop)
		r->s.stop = r->visitor->loss(r->ctx, loss);
	return r->s.stop;
}

/* --------------------------------------------------------------- what is lost */

/* @whole: its messages could be read by hand. */
static void lose_run(struct repair *r, const struct thmq_run_header *run, bool whole)
{
	struct scan_partition *p = thmqi_scan_partition(&r->s, run->partition);

	if (!p)
		return;
	p->lost_begin =
		p->lost_offset ? THMQI_MIN(p->lost_begin, run->base_offset) : run->base_offset;
	p->lost_offset = THMQI_MAX(p->lost_offset, run->base_offset + run->span);
	p->lost_runs += whole;
	p->lost_messages += whole ? run->count : 0;
}

/* @index: of its batch; 0: nothing tells. */
static void lose_state(struct repair *r, const struct thmq_run_header *run, uint64_t position, uint64_t end, uint64_t index)
{
	const struct thmq_log_loss state = {.kind = THMQ_LOSS_STATE,
					    .partition = run->partition,
					    .position = position,
					    .end = end,
					    .first_index = index,
					    .last_index = index,
					    .begin_offset = run->base_offset};

	lose(r, &state);
}

/* Of a damaged batch: it was there, and its messages cannot be trusted. */
static int lost_run(void *ctx, uint64_t position, const struct thmq_run_header *run)
{
	struct repair *r = ctx;

	if (run->encoding == THMQ_RUN_STATE)
		lose_state(r, run, position, position + THMQI_BLOCK, 0);
	else
		lose_run(r, run, false);
	return r->s.stop;
}

static int lost_batch(void *ctx, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct repair *r = ctx;
	uint32_t i;

	for (i = 0; i < h->run_count && !r->s.stop; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;

		if (run->encoding == THMQ_RUN_STATE)
			lose_state(r, run, h->position, h->position + h->len, h->index);
		else
			lose_run(r, run, true);
		at += thmqi_run_bytes(run);
	}
	return r->s.stop;
}

static int lost_range(void *ctx, uint64_t begin, uint64_t end, bool whole, uint64_t first_index,
		      uint64_t last_index)
{
	const struct thmq_log_loss loss = {.kind = whole ? THMQ_LOSS_WHOLE : THMQ_LOSS_DAMAGED,
					   .position = begin,
					   .end = end,
					   .first_index = first_index,
					   .last_index = last_index};
	struct repair *r = ctx;

	if (!whole)
		r->damaged_bytes += end - begin;
	return lose(r, &loss);
}

/* From behind what is kept to the last that is known. Of who wrote nothing since nothing is lost. */
static void lose_partitions(struct repair *r)
{
	struct scan_partition *p;
	uint32_t i = 0;

	while ((p = thmqi_map_next(&r->s.partitions, &i)) && !r->s.stop) {
		struct thmq_log_loss loss = {.kind = THMQ_LOSS_MESSAGES,
					     .partition = p->partition,
					     .begin_offset =
						     p->end_offset ? p->end_offset : p->lost_begin,
					     .end_offset = p->lost_offset,
					     .runs = p->lost_runs,
					     .messages = p->lost_messages};

		if (!p->lost_offset || loss.end_offset <= loss.begin_offset)
			continue;
		r->offsets = THMQI_MAX(r->offsets, loss.end_offset - loss.begin_offset);
		lose(r, &loss);
	}
}

static int tell_losses(struct repair *r)
{
	const struct scan_beyond beyond = {.batch = lost_batch, .run = lost_run, .range = lost_range, .ctx = r};
	uint64_t end = r->s.chain.position;
	uint32_t i;
	int rc = thmqi_scan_beyond(&r->s, &beyond);

	/* an index knows what the damaged batches of its segment were */
	for (i = 0; i < r->s.indexes.count && !rc && !r->s.stop; i++)
		if (r->s.indexes.list[i] + thmqi_segment_bytes(&r->s.vote, r->s.indexes.list[i]) >
		    end)
			rc = thmqi_seen_lost(&r->s, r->s.indexes.list[i], end);
	if (!rc || r->s.stop)
		lose_partitions(r);
	return r->s.stop ? 0 : rc;
}

/* --------------------------------------------------------------- the begin */

/* The batch that create.c writes: it follows from the log's identity alone. */
static int make_first(struct repair *r)
{
	struct chain none = {0};
	struct thmq_run_header *run;
	struct batch_header *h;
	uint64_t node = 1;

	r->first = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!r->first)
		return -ENOMEM;
	memset(r->first, 0, THMQI_BLOCK);
	memcpy(none.log_id, r->s.vote.log_id, 16);
	h = (struct batch_header *)r->first;
	run = (struct thmq_run_header *)(h + 1);
	run->len = sizeof(node);
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &node, sizeof(node));
	thmqi_run_seal(run);
	thmqi_batch_seal(h, &none, 1, BATCH_CHANGE, 1, thmqi_run_bytes(run), THMQI_BLOCK);
	thmqi_batch_stamp(h, 1, 0);
	return 0;
}

/* The first batch is damaged: made again it either continues in the second, or that is damaged too. */
static int try_first(struct repair *r)
{
	int rc = make_first(r);

	r->s.first = r->first;
	rc = rc ? rc : thmqi_scan_again(&r->s);
	if (rc)
		return rc;
	if (r->s.chain.index > 1 || r->s.claims.durable <= THMQI_BLOCK) {
		step(r, THMQ_STEP_SEGMENT, 0, THMQI_BLOCK,
		     "the log's first batch, which follows from its identity, is made again");
		return 0;
	}
	free(r->first);
	r->first = NULL;
	r->s.first = NULL;
	return thmqi_scan_again(&r->s);
}

/* The log shall begin with the next segment that can be read, as if those before had been dropped. */
static int move_begin(struct repair *r)
{
	struct scan *s = &r->s;
	struct vote was = s->vote;
	uint32_t i;
	int rc = 0;

	for (i = s->dropped; i < s->found.count && !rc; i++) {
		if (s->found.positions[i] <= was.begin_position)
			continue;
		rc = thmqi_scan_begin_at(s, s->found.positions[i]);
		if (rc == 0) /* not with this one */
			continue;
		rc = rc == 1 ? thmqi_scan_again(s) : rc;
		if (rc || s->chain.position > s->vote.begin_position)
			break;
		s->vote = was;
	}
	if (rc)
		return rc;
	if (i == s->found.count) {
		s->vote = was;
		return -THMQ_ECORRUPT;
	}
	r->begin_moved = true;
	r->begin = was.begin_position;
	lost_range(r, was.begin_position, s->vote.begin_position, false, was.begin_index + 1,
		   s->vote.begin_index);
	step(r, THMQ_STEP_CUT, was.begin_position, s->vote.begin_position,
	     "the log begins at %llu from now on: what lay before cannot be read",
	     (unsigned long long)s->vote.begin_position);
	return 0;
}

static int settle_begin(struct repair *r)
{
	struct scan *s = &r->s;
	int rc = 0;

	if (!s->begin_missing && (s->chain.index != s->vote.begin_index || !thmqi_scan_lacks(s)))
		return 0;
	if (!s->begin_missing && s->vote.begin_position == 0)
		rc = try_first(r);
	if (rc || (!s->begin_missing && s->chain.index != s->vote.begin_index))
		return rc;
	/* what only its first segments tell cannot be done without */
	return s->opts && s->opts->keeps_begin ? -THMQ_ECORRUPT : move_begin(r);
}

/* --------------------------------------------------------------- quarantine */

/* A name that is not taken: an earlier repair may have left one. */
static int aside_create(struct repair *r, uint64_t position, char name[64],
			struct thmqi_disk_file **ret_file)
{
	uint32_t i;
	int rc = 0;

	for (i = 1; rc == 0; i++) {
		if (i == 1)
			snprintf(name, 64, "quarantine-%020llu.bin", (unsigned long long)position);
		else
			snprintf(name, 64, "quarantine-%020llu-%u.bin",
				 (unsigned long long)position, i);
		rc = r->s.disk->file_open(r->aside, name, false, ret_file);
		if (rc == 0)
			r->s.disk->file_close(*ret_file);
	}
	return rc == -ENOENT ? r->s.disk->file_open(r->aside, name, true, ret_file) : rc;
}

static int copy_aside(struct repair *r, struct thmqi_disk_file *from, uint64_t at, uint64_t end,
		      struct thmqi_disk_file *to)
{
	uint64_t out = 0;
	int64_t n;
	int rc = 0;

	while (at < end && !rc) {
		n = r->s.disk->file_read(from, r->s.piece,
					 (uint32_t)THMQI_MIN((uint64_t)SCAN_PIECE_BYTES, end - at),
					 at);
		if (n <= 0)
			return (int)n; /* shorter than it was made */
		at += (uint64_t)n;
		if (n % THMQI_BLOCK)
			memset(r->s.piece + n, 0, THMQI_BLOCK - n % THMQI_BLOCK);
		n = (int64_t)THMQI_ALIGN_UP((uint64_t)n, (uint64_t)THMQI_BLOCK);
		rc = r->s.disk->file_write(to, r->s.piece, (uint32_t)n, out, false);
		out += (uint64_t)n;
	}
	return rc ? rc : r->s.disk->file_flush(to);
}

/* Bytes @from to @end of the log, which lie in the segment at @position, into a file of their own. */
static int put_aside(struct repair *r, uint64_t position, uint64_t from, uint64_t end, bool whole)
{
	struct thmqi_disk_file *segment, *file;
	char name[40], aside[64];
	int rc;

	thmqi_segment_name(position, name);
	rc = r->s.disk->file_open(r->s.dir, name, false, &segment);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	rc = aside_create(r, from, aside, &file);
	if (!rc) {
		if (!(whole && !r->aside_own)) /* else it is renamed, over the empty one */
			rc = copy_aside(r, segment, from - position, end - position, file);
		r->s.disk->file_close(file);
	}
	r->s.disk->file_close(segment);
	rc = rc ? rc : r->s.disk->dir_sync(r->aside);
	if (rc || !whole)
		return rc;
	return r->aside_own ? r->s.disk->unlink(r->s.dir, name)
			    : r->s.disk->rename(r->s.dir, name, aside);
}

static int quarantine_step(struct repair *r, uint64_t position, uint64_t from, uint64_t end,
			   bool whole)
{
	if (step(r, THMQ_STEP_QUARANTINE, from, end,
		 "bytes %llu to %llu go into %s/quarantine-%020llu.bin", (unsigned long long)from,
		 (unsigned long long)end,
		 r->opts->quarantine_dir ? r->opts->quarantine_dir : r->path,
		 (unsigned long long)from))
		return 0;
	return r->write ? put_aside(r, position, from, end, whole) : 0;
}

/* The segment that the log ends in, for last: as long as it is as it was the log is damaged, and this can be done again. */
static int quarantine(struct repair *r)
{
	uint64_t end = r->s.chain.position, limit = THMQI_MAX(r->s.claims.durable, r->s.claims.end),
		 position, behind;
	uint32_t i;
	int rc = 0;

	for (i = r->s.found.count; i-- > r->s.dropped && !rc && !r->s.stop;) {
		position = r->s.found.positions[i];
		behind = position + thmqi_segment_bytes(&r->s.vote, position);
		if (position < limit && behind > end)
			rc = quarantine_step(r, position, THMQI_MAX(position, end),
					     position < end ? THMQI_MIN(behind, limit) : behind,
					     position >= end);
	}
	return rc;
}

static int quarantine_begin(struct repair *r)
{
	uint32_t i;
	int rc = 0;

	for (i = 0; i < r->s.dropped && !rc && !r->s.stop; i++) {
		uint64_t position = r->s.found.positions[i];

		if (position >= r->begin)
			rc = quarantine_step(r, position, position,
					     position + thmqi_segment_bytes(&r->s.vote, position),
					     true);
	}
	return rc;
}

/* -------------------------------------------------------------------- files */

static int remove_index(struct repair *r, uint64_t position, const char *why)
{
	char name[40];
	int rc;

	thmqi_seal_name(position, name);
	if (step(r, THMQ_STEP_INDEX, position, position, "index file %s is removed: %s", name,
		 why) ||
	    !r->write)
		return 0;
	rc = r->s.disk->unlink(r->s.dir, name);
	return rc == -ENOENT ? 0 : rc;
}

static int remove_indexes(struct repair *r, bool cut)
{
	const struct scan *s = &r->s;
	uint64_t position;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < s->bad_indexes.count && !rc && !s->stop; i++)
		rc = remove_index(r, s->bad_indexes.list[i],
				  "it does not say what its segment says, and is made anew");
	for (i = 0; cut && i < s->indexes.count && !rc && !s->stop; i++) {
		position = s->indexes.list[i];
		if (position + thmqi_segment_bytes(&s->vote, position) > s->chain.position &&
		    !thmqi_scan_names_has(&s->bad_indexes, position))
			rc = remove_index(r, position, "its segment loses batches");
	}
	return rc || !r->write ? rc : s->disk->dir_sync(s->dir);
}

/* Bytes @at to @end of a segment become zeros. */
static int zero(struct repair *r, uint64_t position, uint64_t at, uint64_t end)
{
	struct thmqi_disk_file *file;
	uint8_t *zeros = aligned_alloc(THMQI_BLOCK, ZEROS_BYTES);
	char name[40];
	int rc;

	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, ZEROS_BYTES);
	thmqi_segment_name(position, name);
	rc = r->s.disk->file_open(r->s.dir, name, false, &file);
	if (!rc) {
		for (; at < end && !rc; at += THMQI_MIN((uint64_t)ZEROS_BYTES, end - at))
			rc = r->s.disk->file_write(
				file, zeros, (uint32_t)THMQI_MIN((uint64_t)ZEROS_BYTES, end - at),
				at, false);
		rc = rc ? rc : r->s.disk->file_flush(file);
		r->s.disk->file_close(file);
	}
	free(zeros);
	return rc;
}

/* A segment that stays can lack only bytes of no batch: behind a pad's block or the log's end, or that were taken out. */
static int lengthen(struct repair *r, uint64_t position, uint64_t bytes)
{
	struct thmqi_disk_file *file;
	int64_t size;
	char name[40];
	int rc;

	thmqi_segment_name(position, name);
	rc = r->s.disk->file_open(r->s.dir, name, false, &file);
	if (rc)
		return rc;
	size = r->s.disk->file_size(file);
	r->s.disk->file_close(file);
	if (size < 0 || (uint64_t)size >= bytes)
		return (int)THMQI_MIN(size, 0);
	if (step(r, THMQ_STEP_SEGMENT, position + (uint64_t)size, position + bytes,
		 "segment file %s gets its length of %llu bytes again", name,
		 (unsigned long long)bytes) ||
	    !r->write)
		return 0;
	return zero(r, position, (uint64_t)size / THMQI_BLOCK * THMQI_BLOCK, bytes);
}

/* Lengths of segments; and of the one that the log ends in zeros where batches were taken out. */
static int clean_last(struct repair *r, bool cut)
{
	uint64_t end = r->s.chain.position, limit = THMQI_MAX(r->s.claims.durable, r->s.claims.end),
		 position, behind;
	uint32_t i;
	int rc = 0;

	for (i = r->s.dropped; i < r->s.found.count && !rc && !r->s.stop; i++) {
		position = r->s.found.positions[i];
		behind = position + thmqi_segment_bytes(&r->s.vote, position);
		if (position > end || (position == end && cut))
			continue;
		if (behind > end || r->s.short_segment)
			rc = lengthen(r, position, behind - position);
		if (!rc && behind > end && cut && r->write && !r->s.stop)
			rc = zero(r, position, end - position, THMQI_MIN(behind, limit) - position);
	}
	return rc;
}

/* Terms above all, so that each partition goes on behind every offset that may have been seen. */
static int write_vote(struct repair *r, const char *why)
{
	struct vote v = r->s.vote;
	uint64_t lost = r->offsets + r->damaged_bytes / RECORD_BYTES;

	v.mark = r->s.chain.position;
	v.clean = 0;
	v.incarnation = THMQI_MAX(v.incarnation, r->s.claims.incarnation) + 1;
	v.term = THMQI_MAX(v.term, r->s.chain.term) + (lost ? 1 + (lost >> OFFSET_JUMP_SHIFT) : 0);
	if (step(r, THMQ_STEP_VOTE, v.mark, v.mark, "vote is written anew: %s", why) || !r->write)
		return 0;
	return thmqi_vote_make(r->s.disk, r->s.dir, &v);
}

/* What is kept must be on the medium before `vote` says so. */
static int flush_kept(struct repair *r)
{
	struct thmqi_disk_file *file;
	char name[40];
	uint32_t i;
	int rc = 0;

	for (i = r->s.dropped;
	     i < r->s.found.count && r->s.found.positions[i] < r->s.chain.position && !rc; i++) {
		thmqi_segment_name(r->s.found.positions[i], name);
		rc = r->s.disk->file_open(r->s.dir, name, false, &file);
		if (rc)
			break;
		if (i == r->s.dropped && r->first)
			rc = r->s.disk->file_write(file, r->first, THMQI_BLOCK, 0, true);
		rc = rc ? rc : r->s.disk->file_flush(file);
		r->s.disk->file_close(file);
	}
	return rc ? rc : r->s.disk->dir_sync(r->s.dir);
}

/* ---------------------------------------------------------------------- all */

static int open_aside(struct repair *r)
{
	int rc;

	r->aside = r->s.dir;
	if (!r->opts->quarantine_dir || !r->write)
		return 0;
	rc = r->s.disk->dir_open(NULL, r->opts->quarantine_dir, true, &r->aside);
	r->aside_own = rc == 0;
	return rc;
}

static int carry_out(struct repair *r)
{
	struct scan *s = &r->s;
	bool cut = thmqi_scan_lacks(s);
	int rc = 0;

	if (cut && s->chain.index == s->vote.begin_index)
		return -THMQ_ECORRUPT;
	if (cut)
		rc = tell_losses(r);
	if (!rc && !s->stop && (cut || r->begin_moved))
		rc = open_aside(r);
	if (!rc && !s->stop && r->begin_moved)
		rc = quarantine_begin(r);
	if (!rc && !s->stop && cut)
		rc = quarantine(r);
	if (!rc && !s->stop && cut)
		step(r, THMQ_STEP_CUT, s->chain.position, s->chain.position,
		     "the log ends at %llu, behind batch %llu, from now on",
		     (unsigned long long)s->chain.position, (unsigned long long)s->chain.index);
	if (!rc && !s->stop)
		rc = remove_indexes(r, cut);
	if (!rc && !s->stop && r->write && r->steps)
		rc = flush_kept(r);
	if (!rc && !s->stop && (cut || r->begin_moved || s->vote_rebuilt || s->vote_damaged))
		rc = write_vote(r, s->vote_rebuilt   ? "from what the headers of batches tell"
				   : s->vote_damaged ? "one of its two blocks is not valid"
						     : "with the log's new bounds");
	if (!rc && !s->stop)
		rc = clean_last(r, cut);
	return rc;
}

/* A repair that says it has done its work has looked. */
static int check(struct repair *r)
{
	int rc = r->write && r->steps ? thmqi_log_scan(r->path, r->s.opts, NULL, NULL) : 0;

	return rc ? thmqi_fail(rc, "repair %s: done, and yet it is not whole; see verify", r->path)
		  : 0;
}

static int repair(struct repair *r)
{
	struct scan *s = &r->s;
	int rc = thmqi_scan_run(s, true);

	if (rc == -THMQ_ECORRUPT && s->found.count <= 1 &&
	    (!s->found.count || s->found.positions[0] == 0) && !s->stop)
		return 0; /* the making of the log was cut short: the next open makes it */
	if (rc || s->stop)
		return rc;
	rc = settle_begin(r);
	if (!rc && !s->stop)
		rc = carry_out(r);
	return rc;
}

static int say(const struct repair *r, int rc)
{
	switch (rc) {
	case -ENOENT:
		return thmqi_fail(rc, "repair %s: there is no log in it", r->path);
	case -THMQ_ECORRUPT:
		return thmqi_fail(rc,
				  "repair %s: nothing of it can be kept; restore it from a copy",
				  r->path);
	case -THMQ_EVERSION:
		return thmqi_fail(rc, "repair %s: it was written by a newer library", r->path);
	default:
		return thmqi_fail(rc, "repair %s: %s", r->path, thmq_strerror(rc));
	}
}

/* As an owner's, until the scan ends. A log that was never opened by this library's open has no such file, and nobody who has it. */
static int lock(struct repair *r)
{
	uint64_t pid = 0;
	char path[4400];
	int rc;

	snprintf(path, sizeof(path), "%s/lock", r->path);
	if (access(path, F_OK) != 0)
		return 0;
	rc = r->s.disk->dir_lock(r->s.dir, "lock", &pid);
	if (rc == -EBUSY)
		return thmqi_disk_busy(r->path, pid);
	return rc ? thmqi_fail(rc, "lock %s: %s", path, thmq_strerror(rc)) : 0;
}

int thmqi_log_repair(const char *dir, const struct thmqi_scan_opts *scan_opts,
		     const struct thmq_log_repair_opts *opts,
		     const struct thmq_log_visitor *visitor, void *ctx)
{
	const struct thmq_log_visitor quiet = {.size = sizeof(quiet), .finding = visitor->finding};
	struct repair r = {.path = dir,
			   .opts = opts,
			   .visitor = visitor,
			   .ctx = ctx,
			   .write = opts->flags & THMQ_REPAIR_WRITE};
	int rc = thmqi_scan_begin(&r.s, dir, scan_opts, &quiet, ctx), stop;

	if (!rc && r.write)
		rc = lock(&r);
	if (!rc) {
		rc = repair(&r);
		rc = rc ? say(&r, rc) : 0;
	}
	stop = r.s.stop;
	if (r.aside_own)
		r.s.disk->dir_close(r.aside);
	thmqi_scan_end(&r.s);
	free(r.first);
	if (!rc && !stop)
		rc = check(&r);
	return stop ? stop : rc ? rc : r.steps;
}

void (thmq_log_repair_opts_init)(struct thmq_log_repair_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_log_repair(const char *dir, const struct thmq_log_repair_opts *opts,
		    const struct thmq_log_visitor *visitor, void *ctx)
{
	struct thmq_log_repair_opts o = {0};
	struct thmq_log_visitor v = {0};
	int rc = opts ? thmqi_opts_copy(&o, sizeof(o), opts) : 0;

	rc = rc ? rc : visitor ? thmqi_opts_copy(&v, sizeof(v), visitor) : 0;
	if (!dir || rc || (o.flags & ~(uint32_t)THMQ_REPAIR_WRITE))
		return thmqi_fail(rc ? rc : -EINVAL, "repair: %s",
				  dir ? "options that this library does not know"
				      : "no directory was named");
	return thmqi_log_repair(dir, NULL, &o, &v, ctx);
}
