/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copies.c - a log that is one of several copies: terms by batch, leading, and batches taken as they are from the copy that
 * leads. What is received was checked by its sums and must continue the chain; nothing here trusts the sender for more.
 */
#include "internal.h"
#include "index/keys.h"

/* ------------------------------------------------------------------- terms */

#define TERMS_FIRST 16u

static int grow_terms(struct copies *c)
{
	uint32_t room = c->term_room ? 2 * c->term_room : TERMS_FIRST;
	struct term_stretch *grown = realloc(c->terms, room * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	c->terms = grown;
	c->term_room = room;
	return 0;
}

/* Memory is asked for at a change of term only. */
void thmqi_copies_note(struct thmq_log *log, uint64_t index, uint64_t term)
{
	struct copies *c = &log->copies;

	if (thmqi_likely(!c->on))
		return;
	thmqi_copies_cut(log, index); /* recovery may have begun to take this from elsewhere */
	if (c->term_count && c->terms[c->term_count - 1].term == term)
		return;
	if (c->term_count == c->term_room && grow_terms(c) != 0) {
		thmqi_log_fail(log, -ENOMEM);
		return;
	}
	c->terms[c->term_count++] = (struct term_stretch){.index = index, .term = term};
}

void thmqi_copies_cut(struct thmq_log *log, uint64_t index)
{
	struct copies *c = &log->copies;

	while (c->term_count && c->terms[c->term_count - 1].index >= index)
		c->term_count--;
}

uint64_t thmqi_log_term_of(const struct thmq_log *log, uint64_t index)
{
	const struct copies *c = &log->copies;
	uint32_t i = c->term_count;

	if (index > log->chain.index || index < log->begin.index)
		return 0;
	if (index == log->begin.index)
		return log->begin.term;
	while (i > 1 && c->terms[i - 1].index > index) /* mostly the last one is meant */
		i--;
	return i ? c->terms[i - 1].term : 0;
}

bool thmqi_log_terms(const struct thmq_log *log, uint32_t at, uint64_t *ret_index,
		     uint64_t *ret_term)
{
	if (at >= log->copies.term_count)
		return false;
	*ret_index = log->copies.terms[at].index;
	*ret_term = log->copies.terms[at].term;
	return true;
}

uint64_t thmqi_log_last(const struct thmq_log *log)
{
	return log->chain.index;
}

uint64_t thmqi_log_durable(const struct thmq_log *log)
{
	return log->durable_index;
}

void thmqi_log_begin(const struct thmq_log *log, uint64_t *ret_index, uint64_t *ret_term)
{
	*ret_index = log->begin.index;
	*ret_term = log->begin.term;
}

/* --------------------------------------------------------------- term, vote */

void thmqi_log_vote(const struct thmq_log *log, uint64_t *ret_term, uint64_t *ret_voted_for)
{
	*ret_term = log->term;
	*ret_voted_for = log->copies.voted_for;
}

void thmqi_log_vote_set(struct thmq_log *log, uint64_t term, uint64_t voted_for,
			void (*done)(void *ctx), void *ctx)
{
	log->term = term;
	log->copies.voted_for = voted_for;
	log->copies.vote_done = done;
	log->copies.vote_ctx = ctx;
	log->copies.vote = VOTE_DUE;
	thmqi_vote_begin(log);
}

int thmqi_log_vote_set_now(struct thmq_log *log, uint64_t term, uint64_t voted_for)
{
	int rc;

	while (log->mark_busy)
		log->disk->queue_wait(log->queue, UINT64_MAX);
	log->term = term;
	log->copies.voted_for = voted_for;
	rc = thmqi_vote_write(log, log->durable_position, false);
	if (rc)
		thmqi_log_fail(log, rc);
	return rc;
}

/* ------------------------------------------------------------------ leading */

/* What was appended to the batch that is being formed was never part of the log. */
static void abandon(struct thmq_log *log)
{
	const uint64_t index = log->chain.index + 1;
	bool had = log->forming.runs != 0;
	struct run_index *x;
	uint32_t i = 0;

	if (log->forming.buf)
		thmqi_buf_unref(log->forming.buf);
	log->forming = (struct forming){0};
	if (!had)
		return;
	thmqi_states_cut(log, index);
	while ((x = thmqi_map_next(&log->partitions, &i)))
		thmqi_index_cut(x, index);
	thmqi_keys_cut(log, log->active);
	thmqi_generation(log)->spoiled = true; /* it was told of slices that are not there */
	thmqi_seal_drop_part(log);
	thmqi_readers_cut(log);
	log->tell_readers = true;
	if (log->events.unappended)
		log->events.unappended(log->opts.ctx, index);
}

void thmqi_log_lead(struct thmq_log *log, bool leads)
{
	if (leads == log->copies.leads)
		return;
	log->copies.leads = leads;
	log->copies.held = false;
	log->copies.keep = 0;
	if (leads) {
		log->tell_room = log->starved = true;
		thmqi_fetch_keep_spare(log);
		thmqi_clean_look(log);
	} else {
		thmqi_clean_stop(log);
		abandon(log);
		thmqi_cache_trim(log); /* what was kept for those who were behind */
	}
}

void thmqi_copies_stop(struct thmq_log *log)
{
	if (log->copies.on)
		thmqi_log_lead(log, false);
}

static void may_form(struct thmq_log *log)
{
	thmqi_log_commit(log);
	log->tell_room = true;
}

void thmqi_log_hold(struct thmq_log *log, bool held)
{
	bool was = log->copies.held;

	log->copies.held = held;
	if (was && !held)
		may_form(log);
}

void thmqi_log_committed(struct thmq_log *log, uint64_t index)
{
	bool waited = log->copies.leads && thmqi_copies_wait(log);

	log->copies.committed = THMQI_MAX(log->copies.committed, index);
	if (waited)
		may_form(log);
}

#define WAIT_NS 1000000u

/* The active segment is full: the next one becomes active. */
static int next_segment(struct thmq_log *log, bool wait)
{
	int rc = thmqi_segment_switch(log);

	/* what fails for want of space is tried again, and may be had then */
	while (wait && rc == -EAGAIN && !log->failed) {
		if (!thmqi_seal_step(log))
			log->disk->queue_wait(log->queue, WAIT_NS);
		rc = thmqi_segment_switch(log);
	}
	return log->failed ? -THMQ_EFAILED : rc;
}

static uint64_t left(const struct thmq_log *log)
{
	return log->active->position + log->active->bytes - log->chain.position;
}

static void stamp_and_launch(struct thmq_log *log, struct thmqi_buf *buf)
{
	thmqi_batch_stamp((struct batch_header *)buf->data, log->incarnation,
			  log->durable_position);
	thmqi_log_launch(log, buf, true);
	log->dirty = true; /* it is submitted when the iteration ends */
}

int thmqi_log_noop(struct thmq_log *log)
{
	struct thmqi_buf *buf;
	int rc = left(log) ? 0 : next_segment(log, true);

	if (!rc)
		rc = thmqi_log_alloc(log, THMQI_BLOCK, THMQI_OWNER_BATCH, &buf);
	if (rc == -ENOBUFS && log->copies.first && log->copies.first->refs == 1) {
		buf = log->copies.first; /* who was elected begins, whatever all others have */
		thmqi_buf_ref(buf);
		rc = 0;
	}
	if (rc) {
		thmqi_log_fail(log, rc);
		return rc;
	}
	memset(buf->data, 0, THMQI_BLOCK);
	thmqi_batch_seal((struct batch_header *)buf->data, &log->chain, log->term, BATCH_NOOP, 0, 0,
			 THMQI_BLOCK);
	log->copies.quiet = true;
	stamp_and_launch(log, buf);
	log->copies.quiet = false;
	return 0;
}

static int room_for(struct thmq_log *log, uint32_t len)
{
	int rc = 0;

	if (log->forming.open)
		return -EAGAIN;
	if (log->forming.runs)
		rc = thmqi_log_seal(log);
	if (!rc && left(log) < len + THMQI_BLOCK)
		rc = thmqi_segment_switch(log);
	return rc ? rc : thmqi_flights_full(log) ? -EAGAIN : 0;
}

static int append_state(struct thmq_log *log, uint16_t type, uint64_t item, const void *payload,
			uint32_t len)
{
	const uint32_t run_bytes =
		(uint32_t)sizeof(struct thmq_run_header) + THMQI_ALIGN_UP(len, 8u);
	const uint32_t bytes =
		THMQI_ALIGN_UP((uint32_t)sizeof(struct batch_header) + run_bytes, THMQI_BLOCK);
	struct batch_header *h;
	struct thmq_run_header *run;
	struct thmqi_buf *buf;
	int rc;

	if (log->failed)
		return -THMQ_EFAILED;
	rc = room_for(log, bytes);
	if (!rc && thmqi_log_alloc(log, bytes, THMQI_OWNER_BATCH, &buf) != 0)
		rc = -EAGAIN;
	if (rc)
		return rc;
	memset(buf->data, 0, bytes);
	h = (struct batch_header *)buf->data;
	run = (struct thmq_run_header *)(h + 1);
	run->len = len;
	run->encoding = THMQ_RUN_STATE;
	run->base_offset = item;
	memcpy(run + 1, payload, len);
	thmqi_run_seal(run);
	thmqi_batch_seal(h, &log->chain, log->term, type, 1, run_bytes, bytes);
	thmqi_seal_note(log, run, h->index, sizeof(*h), h->term);
	thmqi_states_note(log, run, h->index);
	stamp_and_launch(log, buf);
	return 0;
}

int thmqi_log_change(struct thmq_log *log, const void *payload, uint32_t len)
{
	return append_state(log, BATCH_CHANGE, 0, payload, len);
}

int thmqi_log_own_state(struct thmq_log *log, uint64_t item, const void *payload, uint32_t len)
{
	return append_state(log, BATCH_CHECKPOINT, item, payload, len);
}

/* ---------------------------------------------------------------- following */

uint32_t thmqi_log_batch_bytes(const void *header)
{
	const struct batch_header *h = header;

	if (h->type == BATCH_PAD)
		return THMQI_BLOCK;
	return h->len >= THMQI_BLOCK && h->len <= BATCH_BYTES_MAX && h->len % THMQI_BLOCK == 0
		       ? h->len
		       : 0;
}

static bool is_known(uint16_t type)
{
	return type >= BATCH_DATA && type <= BATCH_PAD;
}

int thmqi_log_batch_check(const struct thmq_log *log, const void *data, uint32_t len,
			  struct thmqi_log_received *ret)
{
	const struct batch_header *h = data;
	const struct thmq_run_header *run = (const struct thmq_run_header *)(h + 1);

	if (len < THMQI_BLOCK || !thmqi_batch_header_ok(h, h->position, log->chain.log_id) ||
	    h->version != FORMAT_VERSION || !is_known(h->type) || thmqi_log_batch_bytes(h) != len ||
	    !h->term || !h->index)
		return -THMQ_ECORRUPT;
	if (h->type == BATCH_PAD && (h->payload_len || h->run_count))
		return -THMQ_ECORRUPT;
	if (!thmqi_batch_payload_ok(h, len))
		return -THMQ_ECORRUPT;
	*ret = (struct thmqi_log_received){.index = h->index, .term = h->term, .type = h->type};
	if (h->type == BATCH_CHANGE) {
		if (h->run_count != 1 || run->encoding != THMQ_RUN_STATE || run->partition ||
		    run->base_offset)
			return -THMQ_ECORRUPT;
		ret->state = run + 1;
		ret->state_len = run->len;
	}
	return 0;
}

void thmqi_log_batch_peek(const void *data, struct thmqi_log_received *ret)
{
	const struct batch_header *h = data;
	const struct thmq_run_header *run = (const struct thmq_run_header *)(h + 1);

	*ret = (struct thmqi_log_received){.index = h->index, .term = h->term, .type = h->type};
	if (h->type == BATCH_CHANGE) {
		ret->state = run + 1;
		ret->state_len = run->len;
	}
}

static bool flights_are_full(const struct thmq_log *log)
{
	return log->flight_tail - log->flight_head >= 2 * log->depth;
}

int thmqi_log_may_take(struct thmq_log *log)
{
	int rc = 0;

	if (log->failed)
		return -THMQ_EFAILED;
	if (flights_are_full(log))
		return -EAGAIN;
	if (!left(log))
		rc = next_segment(log, false);
	if (!rc)
		rc = thmqi_arena_fill(&log->arena);
	return rc ? rc : (int)(2 * log->depth - (log->flight_tail - log->flight_head));
}

/* Bytes that no checksum covers are zero on all copies. */
static void zero_gaps(struct batch_header *h, uint32_t len)
{
	uint8_t *at = (uint8_t *)(h + 1);
	uint32_t i;

	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		uint32_t tail = run->len & 7;

		at += thmqi_run_bytes(run);
		if (tail)
			memset(at - (8 - tail), 0, 8 - tail);
	}
	memset(at, 0, len - (uint32_t)(at - (uint8_t *)h));
}

/* Indexes go by rising offsets: what breaks that is no leader's work. */
static bool offsets_rise(struct thmq_log *log, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	uint32_t i;

	for (i = 0; i < h->run_count; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		const struct run_index *x;

		at += thmqi_run_bytes(run);
		if (run->encoding == THMQ_RUN_STATE || (run->flags & THMQ_RUN_RELOCATED))
			continue;
		x = thmqi_map_get(&log->partitions, run->partition);
		if (x && run->base_offset < x->end)
			return false;
	}
	return true;
}

int thmqi_log_take(struct thmq_log *log, struct thmqi_buf *buf, bool wait)
{
	struct batch_header *h = (struct batch_header *)buf->data;
	int rc = log->failed ? -THMQ_EFAILED : 0;

	if (!rc && !thmqi_batch_continues(h, &log->chain))
		return -THMQ_ECORRUPT;
	if (!rc && !left(log))
		rc = next_segment(log, wait);
	while (!rc && flights_are_full(log) && wait) {
		thmqi_log_commit(log);
		log->disk->queue_wait(log->queue, WAIT_NS);
		rc = log->failed ? -THMQ_EFAILED : 0;
	}
	if (!rc && flights_are_full(log))
		rc = -EAGAIN;
	if (rc)
		return rc;
	if (h->type == BATCH_PAD ? h->len != left(log) : h->len > left(log))
		return -THMQ_ECORRUPT;
	if (!offsets_rise(log, h))
		return -THMQ_ECORRUPT;
	zero_gaps(h, thmqi_log_batch_bytes(h));
	rc = thmqi_run_replay(log, log->active, h);
	if (rc) {
		thmqi_log_fail(log, rc); /* half of it is known */
		return rc;
	}
	log->stats.runs += h->run_count;
	stamp_and_launch(log, buf);
	return 0;
}

/* ------------------------------------------------------------------ looking */

int thmqi_log_bytes(struct thmq_log *log, uint64_t index, void *ret, uint32_t len, bool cached)
{
	const struct thmqi_buf *buf = cached ? thmqi_cache_get(log, index) : NULL;
	struct segment *s = thmqi_segment_of_index(log, index);
	struct thmqi_disk_file *file;
	uint8_t *block;
	uint64_t at;
	int64_t n;
	int rc;

	if (buf) {
		memcpy(ret, buf->data, len);
		return 0;
	}
	if (!s)
		return -ENOENT;
	rc = thmqi_segment_place(log, s, index, &at);
	rc = rc ? rc : thmqi_file_need(log, s, SEGMENT_LOG, &file);
	block = rc ? NULL : aligned_alloc(THMQI_BLOCK, THMQI_ALIGN_UP(len, THMQI_BLOCK));
	if (!block)
		return rc ? rc : -ENOMEM;
	n = log->disk->file_read(file, block, THMQI_ALIGN_UP(len, THMQI_BLOCK), at);
	if (n < 0)
		rc = (int)n;
	else if (n < (int64_t)len || ((struct batch_header *)block)->index != index ||
		 !thmqi_batch_header_ok((struct batch_header *)block, s->position + at,
					log->chain.log_id))
		rc = -THMQ_ECORRUPT;
	else
		memcpy(ret, block, len);
	free(block);
	return rc;
}

int thmqi_log_header(struct thmq_log *log, uint64_t index, void *ret_header)
{
	return thmqi_log_bytes(log, index, ret_header, sizeof(struct batch_header), true);
}
