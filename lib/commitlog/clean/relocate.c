/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relocate.c - what must be kept of the oldest segment is appended again, so that the segment can go: its batches are read one
 * after the other, and each run that the owner wants is copied as it is, with its offsets. A copy counts once the original is
 * gone (moved.c); a crash in between leaves both, and the copy is then found and not made again. Slow on purpose: writers come
 * first. Knows not when, or why.
 */
#include "../internal.h"
#include "../reading.h"

#define PIECE_BYTES (64u << 10) /* appended in one iteration … */
#define PAUSE_NS 1000000u       /* … and then others have their turn */

static void on_ready(void *ctx)
{
	(void)ctx; /* the iteration that this is part of polls the cleaner */
}

int thmqi_relocate_begin(struct thmq_log *log)
{
	struct relocation *m = &log->clean.relocation;
	int rc = m->reader ? 0 : thmq_log_reader_open(log, UINT32_MAX, on_ready, log, &m->reader);

	if (!rc && !m->copies)
		rc = thmq_log_reader_open(log, UINT32_MAX, on_ready, log, &m->copies);

	m->at = 0;
	m->run_at = 0;
	m->appended = 0;
	m->lends = false;
	return rc;
}

void thmqi_relocate_end(struct thmq_log *log)
{
	struct relocation *m = &log->clean.relocation;

	if (m->reader)
		thmqi_reader_close(m->reader);
	if (m->copies)
		thmqi_reader_close(m->copies);
	m->reader = m->copies = NULL;
	thmqi_compact_end(log);
}

static int life_of(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run)
{
	const struct thmq_log_extent e = {.partition = run->partition,
					  .begin_offset = run->base_offset,
					  .end_offset = run->base_offset + run->span,
					  .messages = run->count,
					  .bytes = sizeof(*run) + run->len,
					  .last_time_ns = run->last_time_ns,
					  .held_bytes = x->held_bytes};

	return log->events.live(log->opts.ctx, &e);
}

/* Is there a copy of @run among those whose entries are in memory, behind the segment that goes? */
static bool is_listed(const struct thmq_log *log, const struct run_index *x, const struct thmq_run_header *run)
{
	const struct segment *s = log->segments[0];
	const struct run_index *list = &x->moved->entries;
	uint64_t i;

	for (i = thmqi_index_find(list, run->base_offset); i < list->count; i++) {
		const struct entry e = thmqi_index_entry(list, i);

		if (e.base_offset != run->base_offset)
			return false;
		if (e.span == run->span && e.batch >= s->first_index + s->batch_count)
			return true;
	}
	return false;
}

static bool may_be_sealed(const struct thmq_log *log, const struct run_index *x, const struct thmq_run_header *run)
{
	uint32_t i;

	for (i = 0; i < x->moved->range_count; i++)
		if (x->moved->ranges[i].segment > log->segments[0]->ordinal && x->moved->ranges[i].begin <= run->base_offset &&
		    x->moved->ranges[i].end > run->base_offset)
			return true;
	return false;
}

/*
 * Was it appended again before this life of the log, or before the cleaner was stopped? However often that happens there is
 * one copy. Return: 1; 0 no; -EAGAIN an index is being read.
 */
static int has_copy(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run)
{
	struct thmq_log_reader *r = log->clean.relocation.copies;
	struct entry e;
	struct place p;
	int rc;

	if (!x->moved)
		return 0;
	thmqi_index_settle(log, x); /* nobody may have read it since the segment before this one went */
	if (is_listed(log, x, run))
		return 1;
	if (!may_be_sealed(log, x, run))
		return 0;
	if (r->partition != run->partition || r->want != run->base_offset) {
		r->partition = run->partition;
		thmq_log_reader_seek(r, run->base_offset);
	}
	r->index = x;
	rc = thmqi_lookup_moved(r, run->base_offset + run->span, &p, &e);
	if (rc == 0)
		return -EAGAIN;
	return rc == 1 && p.segment && p.segment != log->segments[0] && p.base_offset == run->base_offset && p.span == run->span;
}

/* A run of @bytes finds none in what is lent either, and there will be no more. */
static bool is_out_of_room(const struct thmq_log *log, uint32_t bytes)
{
	const struct segment *s = log->active;
	uint64_t left = s->position + s->bytes - log->chain.position;
	uint64_t kept = log->reserve - log->reserve / 4 * RESERVE_MOVED;

	return log->prepare == PREPARE_FAILED && thmqi_is_full(log->prepare_error) &&
	       left < kept + THMQI_ALIGN_UP((uint32_t)sizeof(struct batch_header) + bytes, THMQI_BLOCK);
}

/* Its records that must be kept, of the piece that was chosen, or all of it. */
static int append(struct thmq_log *log, const struct thmq_run_header *run, uint32_t kept)
{
	uint32_t bytes = (uint32_t)sizeof(*run) + (kept == run->count ? run->len : thmqi_compact_bytes(log));
	struct relocation *m = &log->clean.relocation;
	struct thmq_run_header *copy;
	uint64_t index, reserve = m->lends ? thmqi_reserve_lend(log, RESERVE_MOVED) : 0;
	int rc = thmq_log_append(log, bytes, &copy, &index);

	if (m->lends)
		thmqi_reserve_give_back(log, reserve);
	m->refused = rc != 0;
	if (rc)
		return rc == -EAGAIN && m->lends && is_out_of_room(log, bytes) ? -ENOSPC : rc;
	if (kept == run->count)
		memcpy(copy, run, bytes);
	else
		thmqi_compact_fill(log, run, copy);
	copy->flags |= THMQ_RUN_RELOCATED;
	rc = thmq_log_append_end(log, copy, THMQ_DURABILITY_MEMORY);
	if (rc)
		return rc == -ENOMEM ? -EAGAIN : rc;
	m->budget -= THMQI_MIN(m->budget, bytes);
	m->appended += bytes;
	log->stats.relocated_runs++;
	log->stats.relocated_bytes += bytes;
	return 0;
}

/*
 * Without a few of its records it may be larger than a batch, since each of the others needs its offset then. Whichever these are: whoever begins
 * anew, and finds more of them dead, must come to the same.
 */
static bool is_for_halves(const struct thmq_log *log, const struct thmq_run_header *run)
{
	const uint64_t more = thmqi_run_table_bytes(run->count, true) - thmqi_run_table_bytes(run->count, false);

	return run->count > 1 && !(run->flags & THMQ_RUN_SPARSE) && sizeof(*run) + run->len + more > log->opts.batch_bytes - sizeof(struct batch_header);
}

/* The first half, or the other one. Return: 0; or why not now */
static int append_half(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run, bool first)
{
	const uint32_t middle = run->count / 2;
	struct thmq_run_header half = *run;
	uint32_t kept;
	int rc;

	half.base_offset += first ? 0 : middle;
	half.span = first ? middle : run->span - middle;
	kept = thmqi_compact_choose(log, run, first ? 0 : middle, first ? middle : run->count);
	rc = kept ? has_copy(log, x, &half) : 1;
	return rc ? THMQI_MIN(rc, 0) : append(log, run, kept);
}

/* Those of its records that must be kept: not all of them. */
static int append_some(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run)
{
	struct compaction *c = &log->clean.relocation.compaction;
	int rc;

	if (!is_for_halves(log, run))
		return append(log, run, thmqi_compact_choose(log, run, 0, run->count));
	rc = c->halved ? 0 : append_half(log, x, run, true);
	if (rc)
		return rc;
	c->halved = true;
	return append_half(log, x, run, false);
}

/* Return: 0 it is not to be kept, or is appended; or why it cannot be now. */
static int relocate(struct thmq_log *log, const struct batch_header *h, const struct thmq_run_header *run)
{
	struct run_index *x = thmqi_map_get(&log->partitions, run->partition);
	struct relocation *m = &log->clean.relocation;
	const struct thmq_log_run is = {
		.header = run, .payload = run + 1, .position = h->position, .index = h->index, .term = h->term};
	struct compaction *c = &m->compaction;
	int life = x ? life_of(log, x, run) : THMQ_LOG_DEAD, rc;
	uint32_t kept = run->count;

	if (life != THMQ_LOG_COMPACTS)
		c->begun = c->done = c->halved = false;
	if (life == THMQ_LOG_DEAD)
		return 0;
	rc = c->begun || c->done ? 0 : has_copy(log, x, run);
	if (rc == 1) /* it needs no room any more */
		m->appended += sizeof(*run) + run->len;
	if (rc)
		return THMQI_MIN(rc, 0);
	if (life == THMQ_LOG_COMPACTS) {
		rc = c->done ? 0 : thmqi_compact_judge(log, x, &is);
		m->goes_on = rc == -EAGAIN;
		if (rc)
			return rc;
		kept = c->kept_count;
	}
	if (kept == run->count)
		rc = append(log, run, kept);
	else
		rc = kept ? append_some(log, x, run) : 0;
	if (rc)
		return rc;
	c->done = c->halved = false;
	log->stats.compacted_messages += run->count - kept;
	return 0;
}

/* From the run at run_at on. Return: 1 the batch is done; 0 not now; or an error. */
static int relocate_batch(struct thmq_log *log, const struct batch_header *h)
{
	struct relocation *m = &log->clean.relocation;
	uint32_t at = (uint32_t)sizeof(*h), i;
	int rc;

	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)((const uint8_t *)h + at);

		if (at >= m->run_at && run->encoding != THMQ_RUN_STATE) {
			if (!m->budget)
				return 0;
			rc = relocate(log, h, run);
			if (rc)
				return rc == -EAGAIN ? 0 : rc;
		}
		at += thmqi_run_bytes(run);
		m->run_at = THMQI_MAX(m->run_at, at);
	}
	return 1;
}

int thmqi_relocate_step(struct thmq_log *log, uint64_t *ret_pause_ns)
{
	struct relocation *m = &log->clean.relocation;
	struct segment *s = log->segments[0];
	const struct batch_header *h;
	struct thmqi_buf *buf;
	struct window *w;
	uint8_t *data;
	int rc;

	m->budget = PIECE_BYTES;
	m->refused = m->goes_on = false;
	*ret_pause_ns = 0;
	while (m->at < s->bytes) {
		rc = thmqi_window_get(m->reader, s, m->at, 0, &w, &data);
		if (rc != 1)
			return rc < 0 ? rc : -EAGAIN;
		h = (const struct batch_header *)data;
		buf = w->buf;
		thmqi_buf_ref(buf); /* for as long as it is read from */
		rc = relocate_batch(log, h);
		if (rc == 1) {
			m->at += h->len;
			m->run_at = 0;
		}
		thmqi_buf_unref(buf);
		if (rc == 1)
			continue;
		*ret_pause_ns = m->goes_on ? 0 : PAUSE_NS;
		return rc ? rc : -EAGAIN;
	}
	return 0;
}
