/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c - a closed log looked at from outside: every byte checked, nothing changed, every batch and run shown. It judges
 * as recovery does, and tells what it finds instead of opening. Needs no core.
 */
#include <stdio.h>

#include "internal.h"

#define PIECE_BYTES (4u << 20) /* a batch has no more */

struct scan {
	const struct thmq_log_visitor *visitor;
	void *ctx;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	struct vote vote;
	struct chain chain;
	uint64_t claim; /* known durable */
	uint8_t *piece;
	uint64_t *positions; /* of segments that are there */
	uint32_t count, room;
	int stop; /* a visitor's value */
	bool damaged, torn;
};

/* Return: non-zero to stop with. */
static int finding(struct scan *s, uint32_t kind, int error, uint64_t position, const char *text)
{
	struct thmq_log_finding f = {.kind = kind, .error = error, .position = position, .text = text};

	if (kind == THMQ_FINDING_DAMAGE || kind == THMQ_FINDING_MISSING)
		s->damaged = true;
	if (s->visitor && s->visitor->finding)
		s->stop = s->visitor->finding(s->ctx, &f);
	return s->stop;
}

static int show(struct scan *s, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct thmq_log_batch b = {.position = h->position,
				   .index = h->index,
				   .term = h->term,
				   .incarnation = h->incarnation,
				   .durable_position = h->durable_position,
				   .len = h->len,
				   .payload_len = h->payload_len,
				   .run_count = h->run_count,
				   .type = h->type,
				   .version = h->version};
	uint32_t i;

	if (s->visitor && s->visitor->batch)
		s->stop = s->visitor->batch(s->ctx, &b);
	for (i = 0; i < h->run_count && !s->stop && s->visitor && s->visitor->run; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		struct thmq_log_run view = {.header = run,
					    .payload = run + 1,
					    .position = h->position,
					    .index = h->index,
					    .term = h->term};

		s->stop = s->visitor->run(s->ctx, &view);
		at += thmqi_run_bytes(run);
	}
	return s->stop;
}

/* ----------------------------------------------------------------- batches */

/* The batch at @at of the file. Return: 1 whole and shown; 0 the log ends here; or an error. s->stop may be set. */
static int scan_batch(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)s->piece;
	uint32_t len;
	int64_t n;

	n = s->disk->file_read(file, s->piece, THMQI_BLOCK, at);
	if (n < 0)
		return (int)n;
	if (n < (int64_t)THMQI_BLOCK || !thmqi_batch_header_ok(h, s->chain.position, s->vote.log_id) ||
	    !thmqi_batch_continues(h, &s->chain) || h->len > left)
		return 0;
	if (h->version != FORMAT_VERSION) {
		finding(s, THMQ_FINDING_VERSION, -THMQ_EVERSION, h->position, "a batch of a newer format version");
		return -THMQ_EVERSION;
	}
	len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
	if (len > PIECE_BYTES)
		return 0;
	if (len > THMQI_BLOCK) {
		n = s->disk->file_read(file, s->piece, len, at);
		if (n < (int64_t)len)
			return n < 0 ? (int)n : 0;
	}
	if (!thmqi_batch_payload_ok(h, len))
		return 0;
	if (show(s, h) == 0)
		thmqi_chain_advance(&s->chain, h);
	return 1;
}

/* A later header of the same incarnation may know that more was durable than is whole. */
static int look_beyond(struct scan *s, struct thmqi_disk_file *file, uint64_t position, uint64_t at)
{
	const struct batch_header *h;
	int64_t n, i;

	do {
		n = s->disk->file_read(file, s->piece, PIECE_BYTES, at);
		if (n < 0)
			return (int)n;
		for (i = 0; i + (int64_t)THMQI_BLOCK <= n; i += THMQI_BLOCK) {
			h = (const struct batch_header *)(s->piece + i);
			if (h->magic != BATCH_MAGIC ||
			    !thmqi_batch_header_ok(h, position + at + (uint64_t)i, s->vote.log_id) ||
			    !thmqi_batch_local_ok(h) || h->incarnation != s->vote.incarnation)
				continue;
			s->claim = THMQI_MAX(s->claim, h->durable_position);
			s->torn = true;
		}
		at += PIECE_BYTES;
	} while (n == PIECE_BYTES);
	return 0;
}

/* ---------------------------------------------------------------- segments */

/* Return: 1 it was full; 0 the log ends in it, at *@ret_at; or an error. */
static int scan_segment(struct scan *s, struct thmqi_disk_file *file, uint64_t bytes, uint64_t *ret_at)
{
	uint64_t begin = s->chain.position;
	int rc = 1;

	for (*ret_at = 0; rc == 1 && *ret_at < bytes && !s->stop;) {
		if (s->vote.clean && s->chain.position >= s->vote.mark)
			rc = 0;
		else
			rc = scan_batch(s, file, *ret_at, bytes - *ret_at);
		*ret_at = s->chain.position - begin;
	}
	return rc;
}

/* Segment @i of those that are there: replayed if the log has come that far, looked at otherwise. */
static int visit_segment(struct scan *s, uint32_t i, bool *ended)
{
	uint64_t position = s->positions[i], at = 0;
	struct thmqi_disk_file *file;
	char name[40];
	int rc;

	thmqi_segment_name(position, name);
	rc = s->disk->file_open(s->dir, name, false, &file);
	if (rc)
		return rc;
	if (position != s->chain.position)
		*ended = true;
	rc = *ended ? 0 : scan_segment(s, file, thmqi_segment_bytes(&s->vote, position), &at);
	if (rc == 0 && !s->stop) {
		*ended = true;
		if (!s->vote.clean)
			rc = look_beyond(s, file, position, at);
	}
	s->disk->file_close(file);
	return THMQI_MIN(rc, 0);
}

static int judge(struct scan *s)
{
	uint64_t end = s->chain.position;

	if (!s->count || s->positions[0] != 0)
		return finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, 0, "the first segment is missing");
	if (end < s->claim)
		return finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, end,
			       "a batch below what is known durable is damaged or missing");
	if (s->torn)
		return finding(s, THMQ_FINDING_TORN_TAIL, 0, end,
			       "writes in flight at a crash: the next open begins here");
	return 0;
}

static int scan_segments(struct scan *s)
{
	bool ended = false;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < s->count && !rc && !s->stop; i++)
		rc = visit_segment(s, i, &ended);
	if (!rc && !s->stop)
		judge(s);
	return rc;
}

/* --------------------------------------------------------------- directory */

static int note_file(void *arg, const char *name)
{
	struct scan *s = arg;
	unsigned long long position;
	uint64_t *grown;
	char canonical[40];

	if (strcmp(name, "vote") == 0 || strcmp(name, "next.tmp") == 0)
		return 0;
	if (sscanf(name, "%20llu.", &position) == 1) {
		thmqi_segment_name(position, canonical);
		if (strcmp(name, canonical) == 0)
			goto segment;
		memcpy(canonical + 21, "idx", 4);
		if (strcmp(name, canonical) == 0)
			return 0;
	}
	return finding(s, THMQ_FINDING_FOREIGN, 0, 0, name);
segment:
	if (s->count == s->room) {
		s->room = s->room ? s->room * 2 : 64;
		grown = realloc(s->positions, s->room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		s->positions = grown;
	}
	s->positions[s->count++] = position;
	return 0;
}

static int by_position(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int read_vote(struct scan *s)
{
	int rc = thmqi_vote_read(s->disk, s->dir, &s->vote);

	if (rc == -ENOENT && s->count)
		finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, 0, "the vote file is missing");
	else if (rc == -THMQ_ECORRUPT)
		finding(s, THMQ_FINDING_DAMAGE, rc, 0, "the vote file is damaged");
	else if (rc == -THMQ_EVERSION)
		finding(s, THMQ_FINDING_VERSION, rc, 0, "written by a newer library");
	if (rc == -ENOENT && s->count)
		rc = -THMQ_ECORRUPT;
	return rc;
}

static int scan(struct scan *s)
{
	int rc = s->disk->dir_list(s->dir, note_file, s);

	if (rc || s->stop)
		return rc;
	if (s->count)
		qsort(s->positions, s->count, sizeof(*s->positions), by_position);
	rc = read_vote(s);
	if (rc)
		return rc;
	s->piece = aligned_alloc(THMQI_BLOCK, PIECE_BYTES);
	if (!s->piece)
		return -ENOMEM;
	s->claim = s->vote.mark;
	memcpy(s->chain.log_id, s->vote.log_id, 16);
	rc = scan_segments(s);
	return rc ? rc : s->damaged ? -THMQ_ECORRUPT : 0;
}

int thmq_log_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx)
{
	struct scan s = {.visitor = visitor, .ctx = ctx, .disk = &thmqi_disk_posix};
	int rc;

	if (!dir)
		return thmqi_fail(-EINVAL, "scan: no directory was named");
	rc = s.disk->dir_open(NULL, dir, false, &s.dir);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", dir, thmq_strerror(rc));
	rc = scan(&s);
	free(s.piece);
	free(s.positions);
	s.disk->dir_close(s.dir);
	if (s.stop)
		return s.stop;
	switch (rc) {
	case 0:
		return 0;
	case -ENOENT:
		return thmqi_fail(rc, "scan %s: there is no log in it", dir);
	case -THMQ_ECORRUPT:
		return thmqi_fail(rc, "scan %s: there is damage", dir);
	default:
		return thmqi_fail(rc, "scan %s: %s", dir, thmq_strerror(rc));
	}
}
