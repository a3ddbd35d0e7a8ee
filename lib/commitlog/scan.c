/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c - a closed log looked at from outside: every byte checked, nothing changed, every batch and run shown. It judges
 * as recovery does, and tells what it finds instead of opening. Needs no core.
 */
#include "internal.h"

#define PIECE_BYTES (4u << 20) /* a batch has no more */

struct scan {
	const struct thmq_log_visitor *visitor;
	void *ctx;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	struct vote vote;
	struct chain chain;
	struct claims claims;
	uint8_t *piece;
	struct listing found;
	int stop; /* a visitor's value */
	bool vote_damaged, damaged;
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

/* ---------------------------------------------------------------- segments */

/* Return: 1 it was full; 0 the log ends in it, at *@ret_at; or an error. */
static int scan_segment(struct scan *s, struct thmqi_disk_file *file, uint64_t bytes, uint64_t *ret_at)
{
	uint64_t begin = s->chain.position;
	int rc = 1;

	for (*ret_at = 0; rc == 1 && *ret_at < bytes && !s->stop;) {
		if (s->vote.clean && !s->vote_damaged && s->chain.position >= s->vote.mark)
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
	uint64_t position = s->found.positions[i], at = 0, bytes = thmqi_segment_bytes(&s->vote, position);
	struct thmqi_disk_file *file;
	char name[40];
	int64_t size;
	int rc;

	thmqi_segment_name(position, name);
	rc = s->disk->file_open(s->dir, name, false, &file);
	if (rc)
		return rc;
	size = s->disk->file_size(file);
	if (size >= 0 && (uint64_t)size < bytes)
		finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, position, "a segment file is shorter than it was made");
	if (position != s->chain.position)
		*ended = true;
	rc = *ended || s->stop ? 0 : scan_segment(s, file, bytes, &at);
	if (rc == 0 && !s->stop) {
		*ended = true;
		if (!s->vote.clean || s->vote_damaged)
			rc = thmqi_claims_look(&s->claims, s->disk, file, &s->vote, position, at, s->piece, PIECE_BYTES);
	}
	s->disk->file_close(file);
	return THMQI_MIN(rc, 0);
}

static int judge(struct scan *s)
{
	uint64_t end = s->chain.position;

	if (!s->found.count || s->found.positions[0] != 0)
		return finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, 0, "the first segment is missing");
	if (end < s->claims.durable)
		return finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, end,
			       "a batch below what is known durable is damaged or missing");
	if (s->claims.end > end)
		return finding(s, THMQ_FINDING_TORN_TAIL, 0, end,
			       "writes in flight at a crash: the next open begins here");
	return 0;
}

static int scan_segments(struct scan *s)
{
	bool ended = false;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < s->found.count && !rc && !s->stop; i++)
		rc = visit_segment(s, i, &ended);
	if (!rc && !s->stop)
		judge(s);
	return rc;
}

/* --------------------------------------------------------------- directory */

static int note_file(void *arg, const char *name)
{
	struct scan *s = arg;
	int rc = thmqi_listing_note(&s->found, name);

	return rc < 0 ? rc : rc == 0 ? finding(s, THMQ_FINDING_FOREIGN, 0, 0, name) : 0;
}

static int read_vote(struct scan *s)
{
	int rc = thmqi_vote_read(s->disk, s->dir, &s->vote, &s->vote_damaged);

	if (rc == -ENOENT && s->found.count)
		finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, 0, "the vote file is missing");
	else if (rc == -THMQ_ECORRUPT)
		finding(s, THMQ_FINDING_DAMAGE, rc, 0, "the vote file is damaged");
	else if (rc == -THMQ_EVERSION)
		finding(s, THMQ_FINDING_VERSION, rc, 0, "written by a newer library");
	else if (rc == 0 && s->vote_damaged)
		finding(s, THMQ_FINDING_TORN_TAIL, 0, 0,
			"one of the vote file's blocks is not valid: torn by a crash, or damaged");
	if (rc == -ENOENT && s->found.count)
		rc = -THMQ_ECORRUPT;
	return rc;
}

static int scan(struct scan *s)
{
	int rc = s->disk->dir_list(s->dir, note_file, s);

	if (rc || s->stop)
		return rc;
	thmqi_listing_sort(&s->found);
	rc = read_vote(s);
	if (rc || s->stop)
		return rc;
	s->piece = aligned_alloc(THMQI_BLOCK, PIECE_BYTES);
	if (!s->piece)
		return -ENOMEM;
	s->claims.durable = s->vote.mark;
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
	free(s.found.positions);
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
