/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact.c - which records of a run must be kept, where of each key only the newest is: each key is looked up in the index of keys,
 * newest record first. What is found is read, and its key compared: the index knows hashes, and whoever writes can make two keys of one hash.
 * A record goes only for another one that is there as a whole, and the newest one, if its owner needs it no more, only when nothing older of its
 * key is left that would take its place. Where it cannot be told the record stays. Its memory is one key and a bit for each record of the run;
 * a few records are looked at in each iteration. Knows not what a record says, nor how it is appended again.
 */
#include "../internal.h"
#include "../reading.h"
#include "commitlog/hint.h"
#include "wire/attributes.h"

#define RECORDS_BUDGET 64u /* looked at in one iteration: others have their turn */
#define HITS_MAX                                                                                   \
	64u /* that are no answer, of one record: keys of one hash, or versions that go with it */

enum { DIES = 0, STAYS = 1 }; /* or a negative error: -EAGAIN something is being read */

enum record_step {
	RECORD_BEGIN,
	RECORD_FIRST, /* a later part of a message: where its key is */
	RECORD_WHOLE, /* the first part: is the last one there? */
	RECORD_SEEK,
	RECORD_NEWER, /* is there one? */
	RECORD_READ,  /* it: has it the same key? */
	RECORD_READ_WHOLE,
	RECORD_ALONE, /* it is the newest */
	RECORD_OLDER
};

static void on_ready(void *ctx)
{
	(void)ctx; /* the iteration that this is part of polls the cleaner */
}

void thmqi_compact_end(struct thmq_log *log)
{
	struct compaction *c = &log->clean.relocation.compaction;

	if (c->keys)
		thmqi_reader_close(c->keys);
	if (c->runs)
		thmqi_reader_close(c->runs);
	free(c->kept);
	free(c->key);
	*c = (struct compaction){0};
}

bool thmqi_compact_waits(const struct thmq_log *log)
{
	const struct compaction *c = &log->clean.relocation.compaction;

	return c->keys &&
	       (c->keys->reading || c->keys->waiting || c->runs->reading || c->runs->waiting);
}

/* Room for a run of @count records, of partition @x. */
static int prepare(struct thmq_log *log, struct compaction *c, struct run_index *x, uint32_t count)
{
	uint64_t *kept;
	int rc = 0;

	if (!c->key)
		c->key = malloc(UINT16_MAX);
	if (!c->key)
		return -ENOMEM;
	if (!c->keys)
		rc = thmq_log_reader_open(log, x->partition, on_ready, log, &c->keys);
	if (!rc && !c->runs)
		rc = thmq_log_reader_open(log, x->partition, on_ready, log, &c->runs);
	if (rc)
		return rc;
	if (c->kept_room < count) {
		kept = realloc(c->kept, THMQI_ALIGN_UP((uint64_t)count, 64u) / 8);
		if (!kept)
			return -ENOMEM;
		c->kept = kept;
		c->kept_room = count;
	}
	c->keys->keys.indexed_only = true;
	c->keys->partition = c->runs->partition = x->partition;
	c->keys->index = c->runs->index = x;
	thmq_log_reader_seek(c->runs, 0);
	memset(c->kept, 0, THMQI_ALIGN_UP((uint64_t)count, 64u) / 8);
	c->record = c->kept_count = 0;
	c->kept_bytes = c->body_at = 0;
	c->step = RECORD_BEGIN;
	c->begun = true;
	return 0;
}

/* ------------------------------------------------------------------- reading */

/* Of a read: 1 there is a record, to be released; 0 there is none such; -EAGAIN; an error */
static int answer(struct compaction *c, int rc)
{
	if (rc == 1)
		return 1;
	if (rc == 0)
		return -EAGAIN;
	thmq_log_reader_seek(c->runs, 0); /* it may stand in the middle of looking for that */
	return rc == -ENOENT || rc == -EINVAL ? 0 : rc;
}

/* Is part @number of the message that @part is of at @offset? Its key is kept, if it has one. 1; 0; -EAGAIN; an error */
static int read_part(struct compaction *c, const struct thmqi_part *part, uint32_t number,
		     uint64_t offset)
{
	struct thmq_record_view record;
	struct thmq_log_view view;
	int rc = answer(c, thmqi_log_read_at(c->runs, offset, &view, &record));

	if (rc != 1)
		return rc;
	rc = thmqi_part_is(&record, part, number);
	if (rc && number == 0) {
		c->key_len = record.key_len;
		memcpy(c->key, record.key, record.key_len);
	}
	thmq_log_view_release(c->runs->log, &view);
	return rc;
}

/* ---------------------------------------------------------------- one record */

/* The record that is looked at. */
struct subject {
	struct thmq_log *log;
	const struct thmq_log_run *run;
	const struct thmq_record_view *record;
};

static bool is_over(const struct subject *s)
{
	const struct thmq_log_events *e = &s->log->events;

	return e->over && e->over(s->log->opts.ctx, s->run, s->record);
}

static int begin(struct compaction *c, const struct subject *s)
{
	const struct thmq_record_view *v = s->record;

	c->hits = 0;
	c->offset = v->offset;
	if (v->flags & THMQ_RECORD_PART) {
		if (!thmqi_part_of(v, &c->part) || c->part.part > v->offset)
			return STAYS;
		c->offset -= c->part.part;
		c->step = c->part.part ? RECORD_FIRST : RECORD_WHOLE;
	} else if (v->key_len) {
		c->step = RECORD_SEEK;
	} else {
		return is_over(s) ? DIES : STAYS;
	}
	if (!c->part.part || !(v->flags & THMQ_RECORD_PART)) {
		c->key_len = v->key_len;
		memcpy(c->key, v->key, v->key_len);
	}
	return -EINPROGRESS;
}

/* Of a message whose first part has gone nothing is needed. */
static int first_part(struct compaction *c)
{
	int rc = read_part(c, &c->part, 0, c->offset);

	if (rc < 0)
		return rc == -EAGAIN ? rc : STAYS;
	if (!rc)
		return DIES;
	c->step = RECORD_SEEK;
	return c->key_len ? -EINPROGRESS : STAYS;
}

/* One whose last part never came is no message; it may be on its way. */
static int whole(struct compaction *c, const struct subject *s)
{
	uint64_t last = c->offset + c->part.parts - 1;
	int rc = read_part(c, &c->part, c->part.parts - 1, last);

	if (rc < 0)
		return rc == -EAGAIN ? rc : STAYS;
	if (!rc)
		return last < c->runs->index->end ? DIES : STAYS;
	if (!s->record->key_len)
		return STAYS;
	c->step = RECORD_SEEK;
	return -EINPROGRESS;
}

static int seek(struct compaction *c)
{
	c->step = RECORD_NEWER;
	return thmq_log_reader_seek_key(c->keys, c->key, c->key_len, INT64_MIN, INT64_MAX,
					UINT64_MAX) == 0
		       ? -EINPROGRESS
		       : STAYS;
}

static int newer(struct compaction *c)
{
	int rc = thmq_log_reader_find_key(c->keys, 1, &c->hit);

	if (rc == 0)
		return -EAGAIN;
	if (rc < 0 && rc != -ENOENT)
		return STAYS;
	c->step = rc == 1 && c->hit.offset > c->offset ? RECORD_READ : RECORD_ALONE;
	return -EINPROGRESS;
}

/* What was found is not what was looked for. */
static int next_hit(struct compaction *c, uint32_t step)
{
	c->step = step;
	return ++c->hits < HITS_MAX ? -EINPROGRESS : STAYS;
}

static int read_newer(struct compaction *c)
{
	struct thmq_record_view record;
	struct thmq_log_view view;
	bool same, in_parts;
	int rc = answer(c, thmq_log_read_hit(c->runs, &c->hit, &view, &record));

	if (rc == -EAGAIN)
		return rc;
	if (rc != 1)
		return next_hit(c, RECORD_NEWER);
	same = record.key_len == c->key_len && memcmp(record.key, c->key, c->key_len) == 0;
	in_parts = record.flags & THMQ_RECORD_PART;
	if (same && in_parts)
		same = thmqi_part_of(&record, &c->hit_part) && c->hit_part.part == 0;
	thmq_log_view_release(c->runs->log, &view);
	if (!same)
		return next_hit(c, RECORD_NEWER);
	c->step = RECORD_READ_WHOLE;
	return in_parts ? -EINPROGRESS : DIES;
}

static int read_newer_whole(struct compaction *c)
{
	int rc = read_part(c, &c->hit_part, c->hit_part.parts - 1,
			   c->hit.offset + c->hit_part.parts - 1);

	if (rc == -EAGAIN)
		return rc;
	return rc == 1 ? DIES : next_hit(c, RECORD_NEWER);
}

static int alone(struct compaction *c, const struct subject *s)
{
	/* of a message in parts its owner sees the first */
	if ((s->record->flags & THMQ_RECORD_PART && c->part.part) || !is_over(s))
		return STAYS;
	if (s->log->defects & THMQI_LOG_EARLY_OVER)
		return DIES;
	c->step = RECORD_OLDER;
	return thmq_log_reader_seek_key(c->keys, c->key, c->key_len, INT64_MIN, INT64_MAX,
					c->offset) == 0
		       ? -EINPROGRESS
		       : STAYS;
}

/*
 * What lies in the segment that goes, goes with it; for anything else it stays. A copy of that was made before it was known to be dead
 * there cannot be: what is newer in the same segment was there first.
 */
static int older(struct compaction *c, const struct subject *s)
{
	const struct segment *goes = s->log->segments[0];
	int rc = thmq_log_reader_find_key(c->keys, 1, &c->hit);

	if (rc == 0)
		return -EAGAIN;
	if (rc == -ENOENT)
		return c->keys->keys.passed_over ? STAYS : DIES;
	if (rc < 0 || c->hit.internal[0] == THMQI_HIT_NO_PLACE ||
	    c->hit.internal[0] - goes->position >= goes->bytes)
		return STAYS;
	return next_hit(c, RECORD_OLDER);
}

static int judge_record(struct compaction *c, const struct subject *s)
{
	int rc = -EINPROGRESS;

	while (rc == -EINPROGRESS) {
		switch (c->step) {
		case RECORD_BEGIN:
			rc = begin(c, s);
			break;
		case RECORD_FIRST:
			rc = first_part(c);
			break;
		case RECORD_WHOLE:
			rc = whole(c, s);
			break;
		case RECORD_SEEK:
			rc = seek(c);
			break;
		case RECORD_NEWER:
			rc = newer(c);
			break;
		case RECORD_READ:
			rc = read_newer(c);
			break;
		case RECORD_READ_WHOLE:
			rc = read_newer_whole(c);
			break;
		case RECORD_ALONE:
			rc = alone(c, s);
			break;
		default:
			rc = older(c, s);
			break;
		}
	}
	return rc;
}

/* ------------------------------------------------------------------- the run */

static bool keeps(const struct compaction *c, uint32_t record)
{
	return c->kept[record / 64] >> (record % 64) & 1;
}

/* Nothing is known of it: all of it stays. */
static int keep_all(struct compaction *c, uint32_t count)
{
	c->kept_count = count;
	c->done = true;
	return 0;
}

/* Behind its bodies, if it has such a thing; it was checked. */
static uint32_t block_bytes_of(const struct thmq_run_header *run)
{
	struct thmqi_block block;
	uint32_t at;

	if (run->encoding != THMQ_RUN_PACKED || thmqi_block_read(run + 1, run->len, &block, &at))
		return 0;
	return run->len - at;
}

int thmqi_compact_judge(struct thmq_log *log, struct run_index *x, const struct thmq_log_run *run)
{
	struct compaction *c = &log->clean.relocation.compaction;
	const struct thmq_run_header *h = run->header;
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	uint32_t budget = RECORDS_BUDGET;
	int rc;

	if (!c->begun && (!thmqi_run_has_table(h) || !h->count || !thmqi_run_records_ok(h)))
		return keep_all(c, h->count);
	rc = c->begun ? 0 : prepare(log, c, x, h->count);
	if (rc)
		return rc == -ENOMEM ? -EAGAIN : rc;
	c->keys->index = c->runs->index = x;
	thmqi_record_begin(&it, h);
	it.record += c->record;
	it.index = c->record;
	it.body += c->body_at;
	while (c->record < h->count) {
		const struct thmq_record *record = it.record;
		const uint8_t *body = it.body;
		const struct subject subject = {.log = log, .run = run, .record = &v};

		if (!budget--)
			return -EAGAIN;
		if (thmqi_record_next(&it, &v) != 1)
			break; /* it was checked */
		rc = judge_record(c, &subject);
		if (rc == -EAGAIN)
			return rc;
		if (rc) {
			c->kept[c->record / 64] |= 1ull << (c->record % 64);
			c->kept_count++;
			c->kept_bytes += thmqi_record_bytes(record->size);
		}
		c->body_at += (uint64_t)(it.body - body);
		c->record++;
		c->step = RECORD_BEGIN;
	}
	c->block_bytes = c->kept_count ? block_bytes_of(h) : 0;
	c->begun = false;
	c->done = true;
	return 0;
}

uint32_t thmqi_compact_choose(struct thmq_log *log, const struct thmq_run_header *run, uint32_t first, uint32_t end)
{
	struct compaction *c = &log->clean.relocation.compaction;
	const struct thmq_record *record = (const struct thmq_record *)(run + 1);
	uint32_t i;

	c->piece.first = first;
	c->piece.end = end;
	c->piece.count = 0;
	c->piece.bytes = 0;
	for (i = first; i < end; i++)
		if (keeps(c, i)) {
			c->piece.count++;
			c->piece.bytes += thmqi_record_bytes(record[i].size);
		}
	return c->piece.count;
}

uint32_t thmqi_compact_bytes(const struct thmq_log *log)
{
	const struct compaction *c = &log->clean.relocation.compaction;

	return (uint32_t)(thmqi_run_table_bytes(c->piece.count, true) + c->piece.bytes) + c->block_bytes;
}

/* All of it: those that stay need it, and nobody here can make it smaller. */
static void copy_block(const struct thmq_run_header *from, struct thmq_run_header *to, uint32_t bytes)
{
	memcpy((uint8_t *)(to + 1) + to->len, (const uint8_t *)(from + 1) + from->len - bytes, bytes);
	to->len += bytes;
	to->encoding = THMQ_RUN_PACKED;
}

static bool is_of_piece(const struct compaction *c, uint32_t record)
{
	return record >= c->piece.first && record < c->piece.end && keeps(c, record);
}

void thmqi_compact_fill(const struct thmq_log *log, const struct thmq_run_header *from,
			struct thmq_run_header *to)
{
	const struct compaction *c = &log->clean.relocation.compaction;
	int64_t first_ns = INT64_MAX;
	struct thmqi_run_writer w;
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	uint32_t i;

	thmqi_record_begin(&it, from);
	for (i = 0; thmqi_record_next(&it, &v) == 1; i++)
		if (is_of_piece(c, i))
			first_ns = THMQI_MIN(first_ns, v.time_ns);
	thmqi_run_writer_begin(&w, to, thmqi_compact_bytes(log) - c->block_bytes, c->piece.count, true, first_ns);
	to->base_offset = from->base_offset + c->piece.first; /* one that goes in pieces has all its offsets */
	thmqi_record_begin(&it, from);
	for (i = 0; thmqi_record_next(&it, &v) == 1; i++)
		if (is_of_piece(c, i))
			thmqi_run_writer_add(&w, &v);
	if (c->block_bytes)
		copy_block(from, to, c->block_bytes);
	/* what it covers and is without is gone */
	to->span = (c->piece.end < from->count ? c->piece.end : from->span) - c->piece.first;
	to->partition = from->partition;
	to->producer_id = from->producer_id;
	to->first_sequence = from->first_sequence;
	to->producer_epoch = from->producer_epoch;
	to->sequence_span = from->sequence_span;
	to->transaction = from->transaction;
}
