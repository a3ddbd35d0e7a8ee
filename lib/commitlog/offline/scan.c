/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c - a closed log looked at from outside: every byte checked, nothing changed, every batch and run shown. It judges
 * as recovery does, and tells what it finds instead of opening. Needs no core.
 */
#include <stdio.h>

#include "scan.h"
#include "../index/seal_format.h"

/* Return: non-zero to stop with. */
int thmqi_finding(struct scan *s, uint32_t kind, int error, uint64_t position, const char *format,
		  ...)
{
	struct thmq_log_finding f = {
		.kind = kind, .error = error, .position = position, .text = s->text};
	va_list args;

	if (kind == THMQ_FINDING_DAMAGE || kind == THMQ_FINDING_MISSING ||
	    kind == THMQ_FINDING_IDENTITY)
		s->damaged = true;
	if (!s->visitor || !s->visitor->finding || s->stop)
		return s->stop;
	va_start(args, format);
	vsnprintf(s->text, sizeof(s->text), format, args);
	va_end(args);
	s->stop = s->visitor->finding(s->ctx, &f);
	return s->stop;
}

int thmqi_scan_show(struct scan *s, const struct batch_header *h)
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

struct scan_partition *thmqi_scan_partition(struct scan *s, uint32_t partition)
{
	struct scan_partition *p = thmqi_map_get(&s->partitions, partition);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->partition = partition;
	p->time_max_ns = INT64_MIN;
	if (thmqi_map_put(&s->partitions, partition, p) == 0)
		return p;
	free(p);
	return NULL;
}

/* ----------------------------------------------------------------- batches */

int thmqi_scan_load_batch(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t position, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)s->piece;
	uint32_t len;
	int64_t n;

	n = s->disk->file_read(file, s->piece, THMQI_BLOCK, at);
	if (n < 0)
		return (int)n;
	if (s->first && position == 0)
		memcpy(s->piece, s->first, THMQI_BLOCK);
	if (n < (int64_t)THMQI_BLOCK || !thmqi_batch_header_ok(h, position, s->vote.log_id) ||
	    h->len > left)
		return 0;
	if (h->version != FORMAT_VERSION)
		return -THMQ_EVERSION;
	len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
	if (len > BATCH_BYTES_MAX)
		return 0;
	if (len > THMQI_BLOCK) {
		n = s->disk->file_read(file, s->piece, len, at);
		if (n < (int64_t)len)
			return n < 0 ? (int)n : 0;
	}
	return thmqi_batch_payload_ok(h, len) ? 1 : SCAN_ONLY_HEADER;
}

/* Return: 1 whole, continues the log, and shown; 0 the log ends here; or an error. s->stop may be set. */
static int scan_batch(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)s->piece;
	int rc = thmqi_scan_load_batch(s, file, at, s->chain.position, left);

	if (rc == -THMQ_EVERSION)
		thmqi_finding(s, THMQ_FINDING_VERSION, rc, s->chain.position,
			      "a batch of a newer format version");
	if (rc == SCAN_ONLY_HEADER || (rc == 1 && (!thmqi_batch_continues(h, &s->chain) || thmqi_batch_is_stale(h, &s->vote))))
		return 0;
	if (rc != 1)
		return rc;
	if (thmqi_scan_show(s, h) != 0)
		return 1;
	rc = thmqi_seen_batch(s, h);
	if (rc)
		return rc;
	if (thmqi_batch_local_ok(h))
		s->claims.incarnation = THMQI_MAX(s->claims.incarnation, h->incarnation);
	thmqi_chain_advance(&s->chain, h);
	return 1;
}

/* ---------------------------------------------------------------- segments */

/* What lies behind a clean end means nothing, but for a batch that goes on there and tells of a later vote. Return: 1 there is one. */
static int look_behind(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)s->piece;
	int rc = thmqi_scan_load_batch(s, file, at, s->chain.position, left);

	if (rc != 1 || !thmqi_batch_continues(h, &s->chain) || !thmqi_batch_is_later(h, &s->vote))
		return THMQI_MIN(rc, 0) == SCAN_ONLY_HEADER || rc == -THMQ_EVERSION ? 0
									       : THMQI_MIN(rc, 0);
	s->vote_damaged = true;
	thmqi_finding(
		s, THMQ_FINDING_TORN_TAIL, 0, s->chain.position,
		"the vote file is older than what was written here: it was lost, or put back");
	return 1;
}

/* Return: 1 it was full; 0 the log ends in it, at *@ret_at; or an error. */
static int scan_segment(struct scan *s, struct thmqi_disk_file *file, uint64_t bytes,
			uint64_t *ret_at)
{
	uint64_t begin = s->chain.position;
	int rc = 1;

	thmqi_seen_begin(&s->seen, &s->chain, thmqi_scan_names_has(&s->indexes, begin));
	for (*ret_at = 0; rc == 1 && *ret_at < bytes && !s->stop;) {
		rc = 1;
		if (s->vote.clean && !s->vote_damaged && s->chain.position >= s->vote.mark)
			rc = look_behind(s, file, *ret_at, bytes - *ret_at);
		if (rc == 1)
			rc = scan_batch(s, file, *ret_at, bytes - *ret_at);
		*ret_at = s->chain.position - begin;
	}
	if (rc == 1 && !s->stop)
		rc = thmqi_seen_check(s, begin) ?: 1;
	return rc;
}

static int check_size(struct scan *s, struct thmqi_disk_file *file, uint64_t position,
		      uint64_t bytes)
{
	int64_t size = s->disk->file_size(file);

	if (size < 0)
		return (int)size;
	if ((uint64_t)size >= bytes)
		return 0;
	s->short_segment = true;
	thmqi_finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, position,
		      "a segment file is shorter than it was made: %lld of %llu bytes",
		      (long long)size, (unsigned long long)bytes);
	return 0;
}

/* All of it, unlike an open: who verifies has the time. */
static int look_beyond(struct scan *s, struct thmqi_disk_file *file, uint64_t position, uint64_t at)
{
	const struct place_to_look l = {
		.stream = &s->stream, .file = file, .vote = &s->vote, .position = position};

	return thmqi_claims_look(&s->claims, &l, at);
}

/* Segment @i of those that are there: replayed if the log has come that far, looked at otherwise. */
static int visit_segment(struct scan *s, uint32_t i)
{
	uint64_t position = s->found.positions[i], at = 0,
		 bytes = thmqi_segment_bytes(&s->vote, position);
	struct thmqi_disk_file *file;
	int rc;

	rc = thmqi_segment_file_open(s->disk, s->dir, position, &file);
	if (rc)
		return rc;
	rc = check_size(s, file, position, bytes);
	if (position != s->chain.position && s->ended == s->found.count)
		s->ended = i;
	if (!rc && s->ended == s->found.count && !s->stop) {
		rc = scan_segment(s, file, bytes, &at);
		if (rc == 0)
			s->ended = i;
	}
	if (rc == 0 && !s->stop && (!s->vote.clean || s->vote_damaged))
		rc = look_beyond(s, file, position, at);
	s->disk->file_close(file);
	return THMQI_MIN(rc, 0);
}

/* From the begin that `vote` names. May be called again where that was changed. */
static int scan_segments(struct scan *s)
{
	uint32_t i;
	int rc = 0;

	s->chain = (struct chain){.position = s->vote.begin_position,
				  .index = s->vote.begin_index,
				  .term = s->vote.begin_term,
				  .crc = s->vote.begin_crc};
	memcpy(s->chain.log_id, s->vote.log_id, 16);
	s->claims = (struct claims){.durable = s->vote.mark};
	for (s->dropped = 0;
	     s->dropped < s->found.count && s->found.positions[s->dropped] < s->chain.position;)
		thmqi_finding(s, THMQ_FINDING_LEFTOVER, 0, s->found.positions[s->dropped++],
			      "a segment from before the log's begin: its removal was cut short");
	s->ended = s->found.count;
	s->begin_missing =
		s->dropped == s->found.count || s->found.positions[s->dropped] != s->chain.position;
	for (i = s->dropped; i < s->found.count && !rc && !s->stop; i++)
		rc = visit_segment(s, i);
	return rc;
}

/* ------------------------------------------------------------------- beyond */

struct walk {
	struct scan *s;
	const struct scan_beyond *b;
	uint64_t begin, at; /* the present range */
	uint64_t first_index, last_index;
	bool whole;
	bool any; /* batches of it are known by their number */
};

static int tell_range(struct walk *w)
{
	uint64_t begin = w->begin;
	bool any = w->any || (!w->whole && w->last_index >= w->first_index && w->last_index);

	w->begin = w->at;
	if (begin == w->at || !w->b->range)
		return 0;
	return w->b->range(w->b->ctx, begin, w->at, w->whole, any ? w->first_index : 0,
			   any ? w->last_index : 0);
}

/* The bytes up to @end are whole or not; @index: of a batch, 0: unknown. */
static int walk_to(struct walk *w, uint64_t end, bool whole, uint64_t index)
{
	int rc = 0;

	if (whole != w->whole && w->at > w->begin) {
		if (whole &&
		    index) /* what lies between two whole ones is known by its number, too */
			w->last_index = index - 1;
		rc = tell_range(w);
		w->first_index = whole ? index : w->last_index + 1;
		w->any = false;
	}
	if (whole && w->whole != whole)
		w->first_index = index;
	w->whole = whole;
	if (index) {
		w->last_index = index;
		w->any = true;
	}
	w->at = end;
	return rc;
}

/* What headers of runs tell of a damaged batch, of which @len bytes are in s->piece. */
static int walk_runs(struct walk *w, uint32_t len)
{
	const struct thmq_run_header *run;
	uint32_t at = (uint32_t)sizeof(struct batch_header);
	int rc = 0;

	while (w->b->run && !rc && at < len) {
		run = (const struct thmq_run_header *)(w->s->piece + at);
		if (!thmqi_run_header_ok(run, len - at))
			break;
		rc = w->b->run(w->b->ctx, w->at, run);
		at += thmqi_run_bytes(run);
	}
	return rc;
}

/* Its own header is damaged too, and its first block is in s->piece. @left: bytes of the segment from it on. */
static int walk_headless(struct walk *w, struct thmqi_disk_file *file, uint64_t at, uint64_t left)
{
	const struct batch_header *h = (const struct batch_header *)w->s->piece;
	uint32_t magic;
	int64_t n;

	memcpy(&magic, h + 1, sizeof(magic)); /* of its first run */
	if (!w->b->run || magic != THMQ_RUN_MAGIC)
		return 0;
	n = w->s->disk->file_read(file, w->s->piece, (uint32_t)THMQI_MIN(left, (uint64_t)BATCH_BYTES_MAX), at);
	return n < 0 ? (int)n : walk_runs(w, (uint32_t)n);
}

static int walk_segment(struct walk *w, struct thmqi_disk_file *file, uint64_t position,
			uint64_t end)
{
	struct scan *s = w->s;
	const struct batch_header *h = (const struct batch_header *)s->piece;
	int rc = 0, found;

	while (w->at < end && !rc) {
		found = thmqi_scan_load_batch(s, file, w->at - position, w->at,
				   position + thmqi_segment_bytes(&s->vote, position) - w->at);
		if (found == 1) {
			rc = w->b->batch ? w->b->batch(w->b->ctx, h) : 0;
			rc = rc ? rc : walk_to(w, w->at + h->len, true, h->index);
		} else if (found == SCAN_ONLY_HEADER) {
			uint64_t index = h->index, behind = w->at + h->len;

			rc = walk_runs(w, h->type == BATCH_PAD ? 0 : h->len);
			rc = rc ? rc : walk_to(w, behind, false, index);
		} else if (found == 0 || found == -THMQ_EVERSION) {
			rc = found ? 0 : walk_headless(w, file, w->at - position, position + thmqi_segment_bytes(&s->vote, position) - w->at);
			rc = rc ? rc : walk_to(w, w->at + THMQI_BLOCK, false, 0);
		} else {
			rc = found;
		}
	}
	return rc;
}

int thmqi_scan_beyond(struct scan *s, const struct scan_beyond *b)
{
	struct walk w = {.s = s,
			 .b = b,
			 .begin = s->chain.position,
			 .at = s->chain.position,
			 .first_index = s->chain.index + 1};
	uint64_t limit = THMQI_MAX(s->claims.durable, s->claims.end);
	uint32_t i;
	int rc = 0;

	for (i = s->ended; i < s->found.count && !rc && w.at < limit; i++) {
		uint64_t position = s->found.positions[i],
			 end = position + thmqi_segment_bytes(&s->vote, position);
		struct thmqi_disk_file *file;
		char name[40];

		if (position >= limit || end <= w.at)
			continue;
		if (position > w.at)
			rc = walk_to(&w, position, false, 0); /* a segment is missing */
		thmqi_segment_name(position, name);
		rc = rc ? rc : s->disk->file_open(s->dir, name, false, &file);
		if (rc)
			break;
		rc = walk_segment(&w, file, position, THMQI_MIN(end, limit));
		s->disk->file_close(file);
	}
	if (!rc && w.at < limit)
		rc = walk_to(&w, limit, false, 0);
	return rc ? rc : tell_range(&w);
}

/* ------------------------------------------------------------------ judging */

static int on_range(void *ctx, uint64_t begin, uint64_t end, bool whole, uint64_t first_index,
		    uint64_t last_index)
{
	struct scan *s = ctx;
	char batches[64] = "";

	if (whole || begin >= s->claims.durable)
		return 0;
	if (first_index && first_index == last_index)
		snprintf(batches, sizeof(batches), ", batch %llu,",
			 (unsigned long long)first_index);
	else if (first_index)
		snprintf(batches, sizeof(batches), ", batches %llu to %llu,",
			 (unsigned long long)first_index, (unsigned long long)last_index);
	return thmqi_finding(s, THMQ_FINDING_DAMAGE, -THMQ_ECORRUPT, begin,
			     "bytes up to %llu%s are known durable, and damaged or missing",
			     (unsigned long long)end, batches);
}

/* An index beside a segment that is not full, or not there, belongs to something that was. */
static void judge_indexes(struct scan *s)
{
	uint64_t position;
	uint32_t i;

	for (i = 0; i < s->indexes.count && !s->stop; i++) {
		position = s->indexes.list[i];
		if (position < s->vote.begin_position)
			thmqi_finding(
				s, THMQ_FINDING_LEFTOVER, 0, position,
				"an index from before the log's begin: its removal was cut short");
		else if (!thmqi_scan_lacks(s) &&
			 position + thmqi_segment_bytes(&s->vote, position) > s->chain.position &&
			 thmqi_scan_names_add(&s->bad_indexes, position) == 0)
			thmqi_finding(s, THMQ_FINDING_INDEX, 0, position,
				      "an index of a segment that is not full, or not there");
	}
}

static int judge(struct scan *s)
{
	const struct scan_beyond beyond = {.range = on_range, .ctx = s};
	uint64_t end = s->chain.position;
	int rc = 0;

	if (s->begin_missing)
		thmqi_finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, s->vote.begin_position,
			      "the first segment is missing");
	else if (end < s->claims.durable)
		rc = thmqi_scan_beyond(s, &beyond);
	else if (s->claims.end > end)
		thmqi_finding(s, THMQ_FINDING_TORN_TAIL, 0, end,
			      "writes in flight at a crash: the next open begins here");
	if (!s->stop)
		judge_indexes(s);
	return s->stop ? 0 : rc;
}

/* --------------------------------------------------------------- directory */

int thmqi_scan_names_add(struct scan_names *n, uint64_t position)
{
	uint64_t *grown;

	if (n->count == n->room) {
		grown = realloc(n->list, (n->room ? n->room * 2 : 16) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		n->room = n->room ? n->room * 2 : 16;
		n->list = grown;
	}
	n->list[n->count++] = position;
	return 0;
}

bool thmqi_scan_names_has(const struct scan_names *n, uint64_t position)
{
	uint32_t i;

	for (i = 0; i < n->count; i++)
		if (n->list[i] == position)
			return true;
	return false;
}

static int note_file(void *arg, const char *name)
{
	struct scan *s = arg;
	int rc = thmqi_listing_note(&s->found, name);
	unsigned long long position;

	if (rc < 0)
		return rc;
	if (strncmp(name, SCAN_ASIDE, strlen(SCAN_ASIDE)) == 0)
		return thmqi_finding(s, THMQ_FINDING_LEFTOVER, 0, 0,
				     "%s: what a repair took out of the log", name);
	if (rc == 0)
		return thmqi_finding(s, THMQ_FINDING_FOREIGN, 0, 0, "%s", name);
	if (strcmp(name, SEAL_TEMPORARY) == 0 || strcmp(name, "next.tmp") == 0)
		return thmqi_finding(s, THMQ_FINDING_LEFTOVER, 0, 0,
				     "%s: a file that was being made", name);
	if (strlen(name) == 24 && strcmp(name + 21, "idx") == 0 &&
	    sscanf(name, "%20llu", &position) == 1)
		return thmqi_scan_names_add(&s->indexes, position);
	return 0;
}

static int check_identity(struct scan *s)
{
	if (s->opts && s->opts->log_id && memcmp(s->opts->log_id, s->vote.log_id, 16) != 0)
		return thmqi_finding(s, THMQ_FINDING_IDENTITY, -THMQ_ECORRUPT, 0,
				     "this is another log than the one that belongs here");
	return 0;
}

static int read_vote(struct scan *s)
{
	int rc = thmqi_vote_read(s->disk, s->dir, &s->vote, &s->vote_damaged);

	s->vote_error = rc == -ENOENT || rc == -THMQ_ECORRUPT ? rc : 0;
	if (rc == -ENOENT && s->found.count)
		thmqi_finding(s, THMQ_FINDING_MISSING, -THMQ_ECORRUPT, 0,
			      "the vote file is missing");
	else if (rc == -THMQ_ECORRUPT)
		thmqi_finding(s, THMQ_FINDING_DAMAGE, rc, 0, "the vote file is damaged");
	else if (rc == -THMQ_EVERSION)
		thmqi_finding(s, THMQ_FINDING_VERSION, rc, 0, "written by a newer library");
	else if (rc == 0 && s->vote_damaged)
		thmqi_finding(
			s, THMQ_FINDING_TORN_TAIL, 0, 0,
			"one of the vote file's blocks is not valid: torn by a crash, or damaged");
	if (rc == -ENOENT && s->found.count)
		rc = -THMQ_ECORRUPT;
	return rc;
}

/* ------------------------------------------------------------- a lost vote */

int thmqi_scan_find_header(struct scan *s, struct thmqi_disk_file *file, uint64_t position,
			   const struct batch_header **ret_header)
{
	const struct batch_header *h;
	uint64_t at;
	int64_t n, i;

	for (at = 0;; at += SCAN_PIECE_BYTES) {
		n = s->disk->file_read(file, s->piece, SCAN_PIECE_BYTES, at);
		if (n < 0)
			return (int)n;
		for (i = 0; i + (int64_t)THMQI_BLOCK <= n; i += THMQI_BLOCK) {
			h = (const struct batch_header *)(s->piece + i);
			if (h->magic == BATCH_MAGIC &&
			    thmqi_batch_header_ok(h, position + at + (uint64_t)i, h->log_id)) {
				*ret_header = h;
				return 1;
			}
		}
		if (n < (int64_t)SCAN_PIECE_BYTES)
			return 0;
	}
}

/*
 * Sizes of segments are a function of min and max: one at p of b bytes has p mod b = b - min, where b is max or sizes double
 * still. That doubling has ended is told by two of the same size, or by one that begins behind its own size.
 */
static bool learn_sizes(struct vote *v, uint64_t position, uint64_t bytes, uint64_t before,
			uint64_t max)
{
	if (!thmqi_is_pow2(bytes) || bytes < 1u << 20 || bytes > 1u << 30)
		return false;
	v->segment_bytes_min = bytes - position % bytes;
	v->segment_bytes_max = position >= bytes || before == bytes ? bytes : THMQI_MAX(bytes, max);
	return thmqi_is_pow2(v->segment_bytes_min) && v->segment_bytes_min >= 1u << 20 &&
	       thmqi_segment_begins(v, position) && thmqi_segment_bytes(v, position) == bytes;
}

/* One segment that is there. What the last one tells of sizes counts, as far as it fits. */
static int learn_from(struct scan *s, uint32_t i, uint64_t *before, bool *sized, bool *known)
{
	uint64_t max =
		s->opts && s->opts->segment_bytes_max ? s->opts->segment_bytes_max : 1ull << 30;
	const struct batch_header *h = NULL;
	struct thmqi_disk_file *file;
	struct vote v = s->vote;
	int64_t size;
	char name[40];
	int rc;

	thmqi_segment_name(s->found.positions[i], name);
	rc = s->disk->file_open(s->dir, name, false, &file);
	if (rc)
		return rc;
	size = s->disk->file_size(file);
	if (size > 0 && learn_sizes(&v, s->found.positions[i], (uint64_t)size, *before, max)) {
		s->vote = v;
		*sized = true;
		*before = (uint64_t)size;
	}
	if (!*known) {
		rc = thmqi_scan_find_header(s, file, s->found.positions[i], &h);
		if (rc == 1) {
			*known = true;
			memcpy(s->vote.log_id, h->log_id, 16);
		}
	}
	s->disk->file_close(file);
	return THMQI_MIN(rc, 0);
}

/* Its first header tells what it continues. */
int thmqi_scan_begin_at(struct scan *s, uint64_t position)
{
	const struct batch_header *h = (const struct batch_header *)s->piece;
	struct thmqi_disk_file *file;
	int rc;

	rc = thmqi_segment_file_open(s->disk, s->dir, position, &file);
	if (rc)
		return rc;
	rc = thmqi_scan_load_batch(s, file, 0, position, thmqi_segment_bytes(&s->vote, position));
	s->disk->file_close(file);
	if (rc != 1)
		return rc == SCAN_ONLY_HEADER ? 0 : rc;
	s->vote.begin_position = position;
	s->vote.begin_index = h->index - 1;
	s->vote.begin_term = position ? h->term : 0;
	s->vote.begin_crc = h->prev_crc;
	return 1;
}

/* What the last batches say: the highest incarnation and term are the last owner's. */
static int learn_owner(struct scan *s)
{
	int rc = scan_segments(s); /* with incarnation 0 every header counts */

	s->vote.incarnation = s->claims.incarnation;
	s->vote.term = s->chain.term;
	/* batches of earlier lives are no leftovers: all that continues the chain was kept by the last open */
	s->vote.mark = s->chain.position;
	return rc;
}

/* Return: 0; -ENOENT nothing to learn from; or an error. s->vote then has all; its mark is where the chain ends. */
static int rebuild_vote(struct scan *s)
{
	const struct thmq_log_visitor *visitor = s->visitor;
	bool sized = false, known = false, damaged = s->damaged;
	uint64_t before = 0;
	uint32_t i;
	int rc = 0;

	memset(&s->vote, 0, sizeof(s->vote));
	for (i = 0; i < s->found.count && !rc; i++)
		rc = learn_from(s, i, &before, &sized, &known);
	if (rc || !sized || !known)
		return rc ? rc : -ENOENT;
	rc = s->found.positions[0] ? thmqi_scan_begin_at(s, s->found.positions[0]) : 1;
	if (rc != 1)
		return rc ? rc : -ENOENT;
	s->visitor = NULL; /* shown once only, later */
	rc = learn_owner(s);
	s->visitor = visitor;
	s->damaged = damaged;
	s->vote_rebuilt = rc == 0;
	return rc;
}

/* --------------------------------------------------------------------- run */

int thmqi_scan_begin(struct scan *s, const char *dir, const struct thmqi_scan_opts *opts,
		     const struct thmq_log_visitor *visitor, void *ctx)
{
	int rc;

	memset(s, 0, sizeof(*s));
	s->opts = opts;
	s->visitor = visitor;
	s->ctx = ctx;
	s->disk = &thmqi_disk_posix;
	thmqi_map_init(&s->partitions);
	rc = s->disk->dir_open(NULL, dir, false, &s->dir);
	if (rc) {
		s->dir = NULL;
		return thmqi_fail(rc, "open %s: %s", dir, thmq_strerror(rc));
	}
	s->piece = aligned_alloc(THMQI_BLOCK, SCAN_PIECE_BYTES);
	if (!s->piece || thmqi_file_stream_init(&s->stream, s->disk, NULL) != 0)
		return thmqi_fail(-ENOMEM, "scan %s: out of memory", dir);
	return 0;
}

static void forget_partitions(struct scan *s);

int thmqi_scan_again(struct scan *s)
{
	const struct thmq_log_visitor *visitor = s->visitor;
	int rc;

	forget_partitions(s);
	s->bad_indexes.count = 0;
	s->visitor = NULL;
	rc = scan_segments(s);
	if (!rc)
		judge_indexes(s);
	s->visitor = visitor;
	return rc;
}

static void forget_partitions(struct scan *s)
{
	struct scan_partition *p;
	uint32_t i = 0;

	while ((p = thmqi_map_next(&s->partitions, &i)))
		free(p);
	thmqi_map_fini(&s->partitions);
	thmqi_map_init(&s->partitions);
}

int thmqi_scan_run(struct scan *s, bool rebuild)
{
	int rc = s->disk->dir_list(s->dir, note_file, s);

	if (rc || s->stop)
		return s->stop ? 0 : rc;
	thmqi_listing_sort(&s->found);
	rc = read_vote(s);
	if (rc == -THMQ_ECORRUPT && rebuild && !s->stop) {
		rc = rebuild_vote(s) == 0 ? 0 : rc;
		forget_partitions(s);
	}
	if (rc || s->stop || check_identity(s))
		return s->stop ? 0 : rc;
	rc = scan_segments(s);
	return rc || s->stop ? rc : judge(s);
}

void thmqi_scan_end(struct scan *s)
{
	forget_partitions(s);
	thmqi_seen_fini(&s->seen);
	free(s->indexes.list);
	free(s->bad_indexes.list);
	thmqi_file_stream_fini(&s->stream);
	free(s->piece);
	free(s->found.positions);
	if (s->dir)
		s->disk->dir_close(s->dir);
}

int thmqi_log_scan(const char *dir, const struct thmqi_scan_opts *opts,
		   const struct thmq_log_visitor *visitor, void *ctx)
{
	struct scan s;
	int rc = thmqi_scan_begin(&s, dir, opts, visitor, ctx), stop;

	if (rc) {
		thmqi_scan_end(&s);
		return rc;
	}
	rc = thmqi_scan_run(&s, false);
	if (rc == 0 && s.damaged)
		rc = -THMQ_ECORRUPT;
	stop = s.stop;
	thmqi_scan_end(&s);
	if (stop)
		return stop;
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

/* -------------------------------------------------------------------- whole */

static int note_quietly(void *arg, const char *name)
{
	int rc = thmqi_listing_note(arg, name);

	return rc < 0 ? rc : 0;
}

int thmqi_log_identity(const char *dir, uint8_t ret_id[16])
{
	struct scan s;
	int rc = thmqi_scan_begin(&s, dir, NULL, NULL, NULL);

	rc = rc ? rc : s.disk->dir_list(s.dir, note_quietly, &s.found);
	if (!rc) {
		thmqi_listing_sort(&s.found);
		rc = thmqi_vote_read(s.disk, s.dir, &s.vote, &s.vote_damaged);
		if (rc == -ENOENT || rc == -THMQ_ECORRUPT)
			rc = rebuild_vote(&s);
	}
	if (!rc)
		memcpy(ret_id, s.vote.log_id, 16);
	thmqi_scan_end(&s);
	return rc;
}

int thmq_log_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx)
{
	struct thmq_log_visitor v = {0};
	uint64_t position;
	int rc = visitor ? thmqi_opts_copy(&v, sizeof(v), visitor) : 0;

	if (!dir || rc)
		return thmqi_fail(rc ? rc : -EINVAL, "scan: %s",
				  dir ? "a visitor of a wrong size" : "no directory was named");
	return thmqi_scan_is_aside(dir, &position) ? thmqi_log_scan_aside(dir, position, &v, ctx) : thmqi_log_scan(dir, NULL, &v, ctx);
}
