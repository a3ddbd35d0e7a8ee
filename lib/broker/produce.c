/* SPDX-License-Identifier: Apache-2.0 */
/*
 * produce.c - the path of a message in: frames from a client's ring become one run in the batch that is being formed;
 * settle.c goes on when the log says that it is there. Nothing here allocates, locks or blocks.
 */
#include "base/probe.h"
#include "commitlog/hint.h"
#include "copies/lead.h"
#include "gather.h"
#include "wire/attributes.h"
#include "wire/kafka.h"

#define PLAIN_BYTES 4096u /* a payload that goes the short way */

static void reject(struct conn *c, const struct thmqi_frame *f, int error, uint64_t is)
{
	struct thmqi_frame out = {.type = THMQI_FRAME_REJECT,
				  .stream = f->stream,
				  .partition = f->partition,
				  .seq = f->seq,
				  .arg = {is, 0},
				  .status = error};

	c->refused++;
	thmqi_conn_send(c, &out);
}

/* Its index in the log need not be looked up again. */
static void expect(struct partition *p)
{
	if (p->is_volatile || !p->log)
		return;
	if (thmqi_unlikely(!p->index)) /* there is none before its first run */
		p->index = thmqi_log_index(p->log, p->id);
	else
		thmqi_log_expect(p->log, p->index);
}

static struct partition *partition_of(struct conn *c, uint32_t id)
{
	struct partition *p = c->last_partition;

	if (thmqi_likely(p && p->id == id))
		return p;
	p = *ahead_of(c, 0);
	if (!p || p->id != id)
		p = thmqi_shard_partition(c->shard, id);
	if (thmqi_unlikely(thmqi_is_own_partition(id)))
		return NULL;
	if (p) {
		c->last_partition = p;
		c->last_topic = c->shard->topics.at[p->topic];
		c->last_limited = c->limited || c->last_topic->rates;
		if (thmqi_unlikely(c->guarded))
			c->denied = thmqi_guard_ask_partition(c, THMQ_OPERATION_PRODUCE, p) != 0;
		expect(p);
	}
	return p;
}

static void count_volatile(struct volatile_ring *r, uint64_t index, uint64_t run_bytes)
{
	if (index != r->batch_index) {
		r->batch_index = index;
		r->batch_bytes = 0;
	}
	r->appended_bytes -= thmqi_batch_room(r->batch_bytes);
	r->batch_bytes += (r->batch_bytes ? 0 : BATCH_HEAD) + run_bytes;
	r->appended_bytes += thmqi_batch_room(r->batch_bytes);
}

/* A volatile ring makes producers wait while an attached consumer has not read what would fall out. */
static bool volatile_full(const struct partition *p, uint32_t len)
{
	uint64_t need = thmqi_batch_room(BATCH_HEAD + sizeof(struct thmq_run_header) + len);
	uint64_t behind = p->ring->appended_bytes;
	struct thmqi_list *it;

	thmqi_list_each(it, &p->subs)
	{
		const struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->next < p->visible)
			behind = THMQI_MIN(behind, sub->read_bytes);
	}
	return p->ring->appended_bytes != behind &&
	       p->ring->appended_bytes - behind + need > p->ring->bytes;
}

/* The stream has another producer. What the one before has not been told yet nobody wants to know. */
static void begin_life(struct producer *p, const struct thmqi_frame *first)
{
	p->life = thmqi_producer_life(first->arg[1], first->generation);
	p->dirty &= (uint8_t)~1u;
}

static void note_pending(struct conn *c, struct pending *e, uint64_t index,
			 const struct thmqi_frame *first, uint64_t last_seq,
			 const struct partition *p, const struct thmq_run_header *run,
			 uint32_t level)
{
	uint32_t acked = level ? 0 : THMQ_DURABILITY_MEMORY;
	struct pending *before =
		&c->shard->pending[(c->shard->pending_tail - 1) & (PENDING_COUNT - 1)];

	/* runs that nobody waits for share an entry: it moves the partition's durable end, and knows whose they are */
	if (acked && c->shard->pending_tail != c->shard->pending_head && before->index == index &&
	    before->partition == p && before->acked == acked && before->conn == c && before->stream == first->stream &&
	    before->life == c->producers[first->stream].life) {
		before->end_offset = run->base_offset + run->span;
		before->count += run->count;
		before->seq = last_seq;
		return;
	}
	*e = (struct pending){.index = index,
			      .conn = c,
			      .partition = (struct partition *)p,
			      .seq = last_seq,
			      .first_seq = first->seq,
			      .base_offset = run->base_offset,
			      .end_offset = run->base_offset + run->span,
			      .count = run->count,
			      .stream = first->stream,
			      .life = c->producers[first->stream].life,
			      .level = (uint8_t)level,
			      .acked = (uint8_t)acked,
			      .report = (first->extra & THMQI_PRODUCE_REPORT) != 0};
	c->shard->pending_tail++;
}

/* ------------------------------------------------------------- what was sent again */

static uint32_t count_again(struct conn *c, const struct thmqi_frame *first, const struct writer *w)
{
	const uint32_t kind = THMQI_PRODUCE_REPORT | THMQI_PRODUCE_WITH(THMQ_RECORD_DELAY);
	uint32_t level = level_of(c, first), n = 1;
	const struct thmqi_frame *f;
	uint64_t seq = first->seq;

	while (n < RUN_RECORDS_MAX && (f = thmqi_frame_peek(&c->wire->up, n)) &&
	       f->stream == first->stream && f->partition == first->partition &&
	       f->type == THMQI_FRAME_PRODUCE && (f->extra & kind) == (first->extra & kind) &&
	       level_of(c, f) == level && thmqi_same_id(f, first, seq) && f->seq <= w->last_seq && check(c, f) == 0) {
		seq = f->seq;
		n++;
	}
	return n;
}

/* All that is on its way has reached @level. */
static bool nothing_before(const struct shard *s, const struct partition *p, uint32_t level)
{
	const struct pending *last = &s->pending[(s->pending_tail - 1) & (PENDING_COUNT - 1)];

	return p->is_volatile || level <= THMQ_DURABILITY_MEMORY ||
	       (level <= s->final && s->pending_head == s->pending_tail) ||
	       (level < s->final && last->index <= s->settled_index[level]);
}

/* Its first copy is stored, or on its way: it settles with all that was appended up to now, and never before. */
static uint32_t produce_again(struct conn *c, const struct thmqi_frame *first, struct partition *p,
			      const struct writer *w)
{
	uint32_t level = level_of(c, first), n = count_again(c, first, w);
	bool report = (first->extra & THMQI_PRODUCE_REPORT) != 0;
	uint64_t last = thmqi_frame_at(&c->wire->up, n - 1)->seq, index;
	struct shard *s = c->shard;
	struct pending *e;
	bool committed;

	if (nothing_before(s, p, level)) {
		if (report)
			thmqi_settle_report(c, first->stream, p->id, level, first->seq, n, UINT64_MAX);
		thmqi_conn_progress(c, first->stream, level, last);
		return n;
	}
	e = thmqi_shard_pending_room(s);
	if (!e)
		return 0;
	committed = s->pending_head == s->pending_tail; /* and not on all copies, as far as is known */
	*e = (struct pending){.index = committed ? s->lead->committed
						 : s->pending[(s->pending_tail - 1) & (PENDING_COUNT - 1)].index,
			      .conn = c,
			      .partition = p,
			      .seq = last,
			      .first_seq = first->seq,
			      .base_offset = UINT64_MAX,
			      .count = n,
			      .stream = first->stream,
			      .level = (uint8_t)level,
			      .report = report,
			      .again = true};
	if (committed && !thmqi_settle_keep(s->lead, e))
		return 0;
	s->pending_tail += !committed;
	if (report)
		c->reports_pending++;
	thmq_log_flush(p->log, &index);
	return n;
}

/* What was refused before it the client knows of, and does not send again: else it would be taken for stored then. */
static bool knows_refusals(const struct conn *c)
{
	return c->refused == c->refused_seen;
}

/* What a run is written for: consumers wait for it, too. */
static uint32_t append_level(const struct partition *p, uint32_t level)
{
	return THMQI_MIN(THMQI_MAX(level, p->visible_at), (uint32_t)THMQ_DURABILITY_DURABLE);
}

/* Of the partition that was kept for the next message: it will not be stored. */
static void let_go(struct conn *c)
{
	if (c->parts.partition)
		thmqi_parts_end(c);
	if (c->expected.partition)
		thmqi_version_forget(c);
}

/* What its topic and its client may have now bounds the run, which has one message at least. False: nothing, and it is looked at again. */
static __attribute__((noinline)) bool is_allowed(struct conn *c, struct topic_here *t, const struct thmqi_frame *first, uint32_t *room,
						 struct gather *g)
{
	uint32_t need = (uint32_t)sizeof(struct thmq_record) + THMQI_ALIGN_UP(first->len, 8u);
	struct allowance a;

	if (c->leaving)
		return true;
	if (!thmqi_rates_allow(t->rates, c->limited ? &c->client->rates : NULL, false, c->shard->core->now_ns, &a)) {
		if (!c->held_up) {
			t->throttled++;
			c->shard->throttled++;
			thmqi_guard_waits(c, c->last_partition, first->stream, false);
		}
		return false;
	}
	g->most = (uint32_t)THMQI_MIN(a.messages, (uint64_t)RUN_RECORDS_MAX);
	if (need <= *room)
		*room = (uint32_t)THMQI_MIN((uint64_t)*room, THMQI_MAX(a.bytes, (uint64_t)need));
	return true;
}

static __attribute__((noinline)) void pay(struct conn *c, struct topic_here *t, uint32_t bytes, uint32_t messages)
{
	thmqi_rates_take(t->rates, c->limited ? &c->client->rates : NULL, false, c->shard->core->now_ns, bytes, messages);
}

/* Where a frame's message is stored first, if its time has not come. */
static uint32_t stored_in(const struct thmqi_frame *f)
{
	return f->extra & THMQI_PRODUCE_WITH(THMQ_RECORD_DELAY) ? DELAY_PARTITION : f->partition;
}

/* For @to, whose partition gets it when its time comes. Return: 1; 0 not now; why it is refused */
static __attribute__((noinline)) int produce_delayed(struct conn *c, const struct thmqi_frame *f, const struct partition *to,
						     struct writer *w, uint32_t level)
{
	bool report = (f->extra & THMQI_PRODUCE_REPORT) != 0;
	struct shard *s = c->shard;
	struct thmq_run_header *run;
	struct partition *p;
	struct pending *e;
	uint64_t index;
	int rc = to->is_volatile ? -ENOTSUP : thmqi_delay_place(s, &p);

	if (rc)
		return rc;
	e = thmqi_shard_pending_room(s);
	if (!e || s->blocked || p->next_offset - p->durable > OFFSET_JUMP - RUN_RECORDS_MAX || (w && !knows_refusals(c)))
		return 0;
	rc = thmqi_delay_append(c, f, p, to, THMQI_MIN(level, (uint32_t)THMQ_DURABILITY_DURABLE), &run, &index);
	if (rc == -EAGAIN || rc == -THMQ_ENOTLEADER) {
		s->blocked = rc == -EAGAIN;
		return 0;
	}
	if (rc)
		return rc;
	if (w)
		w->last_seq = f->seq;
	s->messages_in++;
	s->bytes_in += f->len;
	if (level == THMQ_DURABILITY_MEMORY) {
		if (report)
			thmqi_settle_report(c, f->stream, to->id, level, f->seq, 1, run->base_offset);
		thmqi_conn_progress(c, f->stream, level, f->seq);
		level = 0;
	} else if (report) {
		c->reports_pending++;
	}
	if (c->producers[f->stream].life != thmqi_producer_life(f->arg[1], f->generation))
		begin_life(&c->producers[f->stream], f);
	note_pending(c, e, index, f, f->seq, p, run, level);
	s->pending[(s->pending_tail - 1) & (PENDING_COUNT - 1)].to = to->id;
	if (thmqi_flush_is_due(s, p))
		thmqi_shard_flush(s, p);
	return 1;
}

/* Where the next one's payload is copied to is asked for meanwhile: what is handed out behind that would wait for it. */
static inline void expect_next(const uint8_t *run)
{
	thmqi_prefetch_write(run + sizeof(struct thmq_run_header));
	thmqi_prefetch_write(run + sizeof(struct thmq_run_header) + THMQI_CACHELINE);
}

/*
 * The only message there is now, volatile, of the partition that the last one went to, with nothing but its payload: somebody may wait for it. It is
 * on its way to them before it is counted. Return: 1; 0: the long way decides
 */
static uint32_t produce_plain(struct conn *c, const struct thmqi_frame *first)
{
	const uint32_t len = (uint32_t)sizeof(struct thmq_record) + THMQI_ALIGN_UP(first->len, 8u);
	struct partition *p = c->last_partition;
	struct shard *s = c->shard;
	struct thmq_run_header *run;
	struct thmq_record *record;
	struct thmqi_list *it;
	bool handed = false;
	uint64_t index;
	int rc;

	if (!p || p->id != first->partition || !p->is_volatile || p->dead || p->parting || p->holds || c->denied || c->last_limited ||
	    (first->extra | first->key_len | first->tag_hash) || first->arg[1] || first->flags != THMQ_DURABILITY_MEMORY ||
	    thmqi_frame_peek(&c->wire->up, 1) || first->len > PLAIN_BYTES || len > p->ring->bytes / 2 || check(c, first) != 0 ||
	    !thmqi_conn_room(c, 2) || volatile_full(p, len) || thmq_log_append(p->log, (uint32_t)sizeof(*run) + len, &run, &index) != 0)
		return 0;
	record = (struct thmq_record *)(run + 1);
	if (len > sizeof(*record)) {
		memset((uint8_t *)record + len - 8, 0, 8);
		memcpy(record + 1, (const void *)(uintptr_t)first->data, first->len);
	}
	if (c->wire->hand)
		thmqi_list_each(it, &p->subs)
			handed |= thmqi_sub_hand(thmqi_container(it, struct sub, partition_link), run, first->len);
	run->len = len;
	run->base_offset = p->next_offset;
	run->partition = p->id;
	run->count = run->span = 1;
	run->encoding = THMQ_RUN_RECORDS;
	run->flags = 0;
	run->producer_id = run->first_sequence = run->transaction = 0;
	run->first_time_ns = run->last_time_ns = (int64_t)s->core->wall_ns;
	run->producer_epoch = run->sequence_span = 0;
	run->tag_filter = 0;
	*record = (struct thmq_record){.size = first->len};
	rc = thmq_log_append_end(p->log, run, append_level(p, THMQ_DURABILITY_MEMORY));
	if (thmqi_unlikely(rc != 0 && !handed))
		return 0;
	p->visible = ++p->next_offset;
	count_volatile(p->ring, index, sizeof(*run) + len);
	thmqi_list_each(it, &p->subs)
	{
		struct sub *sub = thmqi_container(it, struct sub, partition_link);

		if (sub->handed)
			thmqi_sub_handed(sub, len);
		else
			thmqi_sub_offer(sub);
	}
	if (c->wire->carry)
		thmqi_conn_kick(c);
	p->jumped = false;
	s->messages_in++;
	s->bytes_in += len - sizeof(*record);
	c->last_topic->messages_in++;
	c->last_topic->bytes_in += len - sizeof(*record);
	THMQI_PROBE3(taken, p->id, run->base_offset, 1);
	thmqi_conn_progress(c, first->stream, THMQ_DURABILITY_MEMORY, first->seq);
	if (thmqi_unlikely(c->producers[first->stream].life != thmqi_producer_life(0, first->generation)))
		begin_life(&c->producers[first->stream], first);
	expect_next((const uint8_t *)run + sizeof(*run) + len);
	return 1;
}

/* One run. Return: messages taken; 0: nothing can be done now. */
static uint32_t produce_run(struct conn *c, const struct thmqi_frame *first)
{
	struct shard *s = c->shard;
	struct partition *p;
	struct thmq_run_header *run;
	struct thmqi_list *it;
	struct pending *e;
	struct gather g;
	struct writer *w = NULL;
	struct txn_item *txn = NULL;
	uint64_t index, offset, is = 0;
	uint32_t level;
	bool report = (first->extra & THMQI_PRODUCE_REPORT) != 0, in_parts = false;
	const bool encoded = first->extra & THMQI_PRODUCE_ENCODED; /* one frame, many messages */
	struct topic_here *t;
	uint32_t room, bytes;
	int rc = check(c, first);

	/* room for a refusal and, if wanted, for the report */
	if (!thmqi_conn_room(c, 2))
		return 0;
	if (thmqi_unlikely(rc != 0))
		goto refuse;
	p = partition_of(c, first->partition);
	rc = !p ? -THMQ_ENOPARTITION : p->dead ? -THMQ_ENOTOPIC : thmqi_unlikely(c->denied) ? -EACCES : 0;
	if (thmqi_unlikely(rc != 0))
		goto refuse;
	if (thmqi_unlikely(p->parting && c->parts.partition != p && c->expected.partition != p))
		return 0;
	level = level_of(c, first);
	rc = p->is_volatile ? (level > THMQ_DURABILITY_MEMORY ? -ENOTSUP : 0)
	     : s->failed    ? -THMQ_EFAILED
			    : 0;
	if (thmqi_unlikely(rc != 0))
		goto refuse;
	if (thmqi_unlikely(first->arg[1])) {
		rc = thmqi_writer_admit(c, first, stored_in(first), &w);
		if (rc < 0)
			goto refuse;
		if (rc != WRITER_NEW) {
			let_go(c);
			return rc == WRITER_AGAIN ? produce_again(c, first, p, w) : 1;
		}
	}
	if (thmqi_unlikely(first->extra & SPECIAL)) {
		if (first->extra & THMQI_PRODUCE_WITH(THMQ_RECORD_DELAY)) {
			room = 0; /* it is a run of its own */
			if (thmqi_unlikely(c->last_limited) && !is_allowed(c, c->last_topic, first, &room, &g))
				return 0;
			rc = produce_delayed(c, first, p, w, level);
			if (rc > 0) {
				c->last_topic->messages_in++;
				c->last_topic->bytes_in += first->len;
			}
			if (rc > 0 && thmqi_unlikely(c->last_limited))
				pay(c, c->last_topic, first->len, 1);
			if (rc >= 0)
				return (uint32_t)rc;
			goto refuse;
		}
		rc = encoded ? 0 : thmqi_version_expect(c, first, p, &is);
		if (rc == -EAGAIN)
			return 0;
		if (rc)
			goto refuse;
	}
	if (thmqi_unlikely(first->extra & THMQI_PRODUCE_TXN)) {
		rc = s->blocked ? -EAGAIN : thmqi_txn_enter(c, first, p, &txn);
		if (rc == -EAGAIN)
			return 0;
		if (rc)
			goto refuse;
	}
	e = thmqi_shard_pending_room(s);
	if (thmqi_unlikely(!e || (!p->is_volatile &&
				  (s->blocked ||
				   p->next_offset - p->durable > OFFSET_JUMP - (encoded ? THMQI_KAFKA_COUNT_MAX : RUN_RECORDS_MAX)))))
		if (!p->is_volatile)
			return 0;
	room = thmqi_run_room(s, p, first);
	g.most = RUN_RECORDS_MAX;
	t = c->last_topic;
	if (thmqi_unlikely(c->last_limited) && !is_allowed(c, t, first, &room, &g))
		return 0;
	if (thmqi_unlikely(encoded)) {
		rc = first->len > room ? -EMSGSIZE : 0;
		if (rc)
			goto refuse;
		g.count = 1;
		g.last_seq = first->seq;
		g.len = first->len - (txn ? (uint32_t)sizeof(run->transaction) : 0);
		g.then = NULL;
	} else {
		thmqi_gather(c, first, room, &g);
		in_parts = g.count == 0;
		if (g.count >= AHEAD && p->index) /* where it goes to, while it is filled */
			thmqi_log_hint(p->index, THMQI_LOG_HINT_NEXT);
	}
	if (g.then)
		thmqi_look_behind(c, &g, LOOK_SLOT);
	if (thmqi_unlikely(in_parts)) {
		rc = -EMSGSIZE;
		if (txn)
			goto refuse;
		rc = thmqi_parts_append(c, first, p, room, append_level(p, level), &g.len);
		if (rc == -EAGAIN || (!rc && !(e = thmqi_shard_pending_room(s))))
			return 0;
		if (rc)
			goto refuse;
		g.count = 1;
		g.last_seq = first->seq;
	}
	if (p->is_volatile && thmqi_unlikely(volatile_full(p, g.len)))
		return 0;
	rc = thmq_log_append(p->log, (uint32_t)sizeof(*run) + g.len, &run, &index);
	if (thmqi_unlikely(rc != 0)) {
		rc = thmqi_shard_refusal(s, rc);
		if (rc == -EAGAIN) {
			s->blocked = !p->is_volatile;
			return 0;
		}
		if (rc == -THMQ_ENOTLEADER) /* its session hears of that, and says it to another broker */
			return 0;
		goto refuse;
	}
	if (thmqi_unlikely(w && !knows_refusals(c))) {
		thmq_log_append_abort(p->log);
		return 0;
	}
	if (thmqi_unlikely(in_parts))
		thmqi_parts_fill_last(c, first, run, p, room);
	else if (thmqi_likely(!encoded))
		thmqi_fill(c, run, &g, p);
	else if ((rc = thmqi_fill_encoded(c, first, run, p, g.len))) {
		thmq_log_append_abort(p->log);
		goto refuse;
	}
	if (g.then)
		thmqi_look_behind(c, &g, LOOK_PARTITION);
	if (thmqi_unlikely(txn != NULL))
		thmqi_txn_mark(run, thmqi_txn_of(first));
	rc = thmq_log_append_end(p->log, run, append_level(p, level));
	if (thmqi_unlikely(rc != 0))
		goto refuse;
	if (thmqi_unlikely(w != NULL))
		w->last_seq = g.last_seq;
	if (thmqi_unlikely(txn != NULL))
		thmqi_txn_entered(txn, g.count);
	offset = run->base_offset;
	if (thmqi_unlikely(in_parts)) {
		offset = c->parts.offset;
		thmqi_parts_end(c);
	}
	bytes = g.len - (encoded ? 0 : g.count * (uint32_t)sizeof(struct thmq_record));
	p->next_offset += run->count;
	p->jumped = false;
	s->messages_in += run->count;
	t->messages_in += run->count;
	s->bytes_in += bytes;
	t->bytes_in += bytes;
	if (thmqi_unlikely(c->last_limited))
		pay(c, t, in_parts ? first->len : bytes, run->count);
	THMQI_PROBE3(taken, p->id, run->base_offset, run->count);
	if (level == THMQ_DURABILITY_MEMORY) {
		if (report)
			thmqi_settle_report(c, first->stream, p->id, level, first->seq, g.count, offset);
		thmqi_conn_progress(c, first->stream, level, g.last_seq);
		level = 0;
	} else if (report) {
		c->reports_pending++;
	}
	if (thmqi_unlikely(c->producers[first->stream].life != thmqi_producer_life(first->arg[1], first->generation)))
		begin_life(&c->producers[first->stream], first);
	if (p->is_volatile) {
		count_volatile(p->ring, index, sizeof(*run) + g.len);
	} else {
		note_pending(c, e, index, first, g.last_seq, p, run, level);
		if (thmqi_unlikely(in_parts))
			e->base_offset = offset;
		if (thmqi_unlikely(encoded) && level)
			e->count = 1; /* sequences, which a report is of */
	}
	if (thmqi_unlikely(p->holds)) {
		if (p->visible_at <= THMQ_DURABILITY_MEMORY)
			thmqi_partition_reach(s, p, p->next_offset);
	} else if (p->is_volatile || p->visible_at <= THMQ_DURABILITY_MEMORY) {
		p->visible = p->next_offset;
		thmqi_list_each(it, &p->subs)
			thmqi_sub_offer(thmqi_container(it, struct sub, partition_link));
	}
	if (thmqi_unlikely(!p->is_volatile && thmqi_flush_is_due(s, p)))
		thmqi_shard_flush(s, p);
	if (g.then)
		thmqi_look_behind(c, &g, LOOK_INDEX);
	return g.count;
refuse:
	if (rc == -THMQ_EFAILED && s->lead) /* its session is about to be sent to another copy, which takes it */
		return 0;
	if (thmqi_unlikely(s->lead != NULL))
		thmqi_trouble_refused(s, rc);
	let_go(c);
	reject(c, first, rc, is);
	return 1;
}

/* The next @count messages are done with, some of a series perhaps without the rest of it. Return: how many frames that are. */
static uint32_t frames_of(struct thmqi_frame_ring *up, uint32_t count)
{
	uint32_t frames = 0, n;

	for (; count; frames++, count -= n) {
		struct thmqi_frame *f = thmqi_frame_at(up, frames);

		n = messages_of(f);
		if (n > count) {
			f->seq += count;
			f->data += f->len ? count * thmqi_series_step(f->len) : 0;
			f->arg[0] -= count;
			break;
		}
	}
	return frames;
}

uint32_t thmqi_produce(struct conn *c, uint32_t budget)
{
	struct thmqi_frame_ring *up = &c->wire->up;
	const struct thmqi_frame *first;
	uint32_t taken, done = 0;

	while (done < budget && (first = thmqi_frame_peek(up, 0))) {
		prefetch_body(first); /* from the client's core, while the frame is looked at */
		if (thmqi_unlikely(c->last_partition && c->last_partition->id != first->partition))
			thmqi_look_ahead(c);
		taken = produce_plain(c, first);
		if (!taken)
			taken = produce_run(c, first);
		c->held_up = !taken;
		if (!taken)
			break;
		thmqi_frame_advance(up, c->wire->takes_series ? frames_of(up, taken) : taken);
		done += taken;
	}
	if (done)
		thmqi_frame_publish(up);
	return done;
}
