/* SPDX-License-Identifier: Apache-2.0 */
/*
 * produce.c - the path of a message in: frames from a client's ring become one run in the batch that is being formed;
 * settle.c goes on when the log says that it is there. Nothing here allocates, locks or blocks.
 */
#include "base/probe.h"
#include "commitlog/hint.h"
#include "copies/lead.h"
#include "wire/attributes.h"
#include "wire/kafka.h"

/* A run's table keeps times as 32-bit microseconds behind the first. */
#define TIME_SPAN_MAX 4294000000000ull

#define REST_BYTES 1536u
#define STRETCH 16u /* frames that are asked for together */

/* Of a frame's extra: what keeps it from joining the run of those before it. */
#define SPECIAL (THMQI_PRODUCE_WITH(THMQI_RECORD_EXPECT | THMQ_RECORD_DELAY) | THMQI_PRODUCE_ENCODED)
#define PLAIN_BYTES 4096u /* a payload that goes the short way */
#define ALONE (THMQI_PRODUCE_REPORT | SPECIAL | THMQI_PRODUCE_TXN)

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

/* Messages that frame @f is of; but for a series it is one. */
static inline uint32_t messages_of(const struct thmqi_frame *f)
{
	return thmqi_unlikely(f->extra & THMQI_PRODUCE_SERIES) ? (uint32_t)f->arg[0] + 1 : 1;
}

/* The first message lies in the area by now: so must the others, which have nothing but a payload. */
static __attribute__((noinline)) int check_series(const struct thmqi_link *l, const struct thmqi_frame *f)
{
	uint64_t at = f->data - (uint64_t)(uintptr_t)l->area;

	if (!l->takes_series || f->arg[0] >= THMQI_SERIES_MAX || f->arg[1] || f->key_len ||
	    f->extra & ~(THMQI_PRODUCE_SERIES | THMQI_PRODUCE_REPORT))
		return -EINVAL;
	return f->len && f->arg[0] * thmqi_series_step(f->len) > l->area_bytes - at - f->len ? -EINVAL : 0;
}

/* The most that this frame may say is checked before it is believed: its bytes lie in the link's data area. */
static int check(const struct conn *c, const struct thmqi_frame *f)
{
	const struct thmqi_link *l = c->wire;
	uint64_t at = f->data - (uint64_t)(uintptr_t)l->area;

	if (f->stream >= THMQI_STREAMS)
		return -EINVAL;
	if (f->len && (at >= l->area_bytes || f->len > l->area_bytes - at))
		return -EINVAL;
	if ((uint32_t)f->key_len + THMQI_PRODUCE_TAG_LEN(f->extra) > f->len)
		return -EINVAL;
	if (f->flags < THMQ_DURABILITY_MEMORY || f->flags > THMQ_DURABILITY_ALL)
		return -EINVAL;
	if (thmqi_unlikely(f->extra & (THMQI_PRODUCE_ENCODED | THMQI_PRODUCE_SERIES))) {
		if (f->extra & THMQI_PRODUCE_SERIES)
			return check_series(l, f);
		if (f->key_len || THMQI_PRODUCE_TAG_LEN(f->extra) || THMQI_PRODUCE_HAS(f->extra))
			return -EINVAL;
	}
	return 0;
}

/* With one copy the rungs above DURABLE prove just that. */
static uint32_t level_of(const struct conn *c, const struct thmqi_frame *f)
{
	return THMQI_MIN((uint32_t)f->flags, c->shard->level_max);
}

/* Partitions stay where they are as long as there are connections. */
static struct partition **ahead_of(struct conn *c, uint32_t frames)
{
	return &c->ahead[(c->wire->up.next + frames) % AHEAD];
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

/* Which messages, from the next frame on, go into one run. */
struct gather {
	uint32_t count;
	uint32_t more; /* by how many that is more than the frames that they are of; of the last one perhaps not all */
	uint32_t most; /* messages */
	uint32_t len; /* of table and bodies */
	int64_t first_time, last_time;
	uint64_t tag_filter;
	uint16_t key_lens; /* or-ed: is there any? */
	uint64_t last_seq;
	const struct thmqi_frame *then; /* the next frame, if it is there and not of this run */
};

static int64_t time_of(const struct thmqi_frame *f, int64_t wall)
{
	return f->extra & THMQI_PRODUCE_TIMED ? (int64_t)f->arg[0] : wall;
}

static void prefetch_body(const struct thmqi_frame *f)
{
	const char *at = (const char *)(uintptr_t)f->data; /* prefetching takes any address */

	__builtin_prefetch(at);
	if (f->len > THMQI_CACHELINE)
		__builtin_prefetch(at + THMQI_CACHELINE);
	if (f->len) /* nothing behind it: that line would be taken from the client, who is about to write there */
		__builtin_prefetch(at + THMQI_MIN(f->len - 1, 2u * THMQI_CACHELINE));
}

/* The lines behind those: of a message alone in its run nothing has been read before it, from where the cache would go on. */
static void prefetch_rest(const struct thmqi_frame *f)
{
	const char *at = (const char *)(uintptr_t)f->data;
	uint32_t i;

	for (i = 3 * THMQI_CACHELINE; i < f->len && i < REST_BYTES; i += THMQI_CACHELINE)
		__builtin_prefetch(at + i);
}

/*
 * Frames come from the client's core, one line after the other. Where so many more are there already those are asked for together;
 * one that is not would be taken from the client, who is about to write there.
 */
static inline void prefetch_frames(struct thmqi_frame_ring *up, uint32_t at)
{
	uint32_t i;

	if (thmqi_likely((up->next + at) % STRETCH) || !thmqi_frame_peek(up, at + 2 * STRETCH))
		return;
	for (i = at + STRETCH; i < at + 2 * STRETCH; i++)
		__builtin_prefetch(thmqi_frame_at(up, i));
}

/* How many frames before its own each step is: each waits for what the one before has brought. */
enum {
	AHEAD_FRAME = 15, /* the frame itself, from the client's core */
	AHEAD_SLOT = 13,  /* where its partition is told */
	AHEAD_PARTITION = 10,
	AHEAD_FAR = 7, /* the partition's index */
	AHEAD_NEAR = 5,
	AHEAD_NEXT = 2, /* and the message */
	AHEAD_REST = 1
};
_Static_assert(AHEAD_PARTITION < AHEAD, "in its ring");

static void hint(struct conn *c, uint32_t frames, enum thmqi_log_hint step)
{
	const struct partition *p = *ahead_of(c, frames);

	if (p && p->index)
		thmqi_log_hint(p->index, step);
}

/*
 * Frames of one partition after the other, of very many: what a run needs of its partition and of its index lies in no cache, and
 * is asked for while those before it are taken. The log's own of a volatile one is not worth it.
 */
static __attribute__((noinline)) void look_ahead(struct conn *c)
{
	struct thmqi_frame_ring *up = &c->wire->up;
	struct shard *s = c->shard;
	const struct thmqi_frame *f;
	struct partition *p;

	if (!s->log)
		return;
	__builtin_prefetch(thmqi_frame_at(up, AHEAD_FRAME));
	f = thmqi_frame_peek(up, AHEAD_SLOT);
	if (f)
		thmqi_map_prefetch(&s->partitions, f->partition);
	f = thmqi_frame_peek(up, AHEAD_PARTITION);
	p = f ? thmqi_shard_partition(s, f->partition) : NULL;
	*ahead_of(c, AHEAD_PARTITION) = p;
	if (p)
		thmqi_prefetch_write(p);
	hint(c, AHEAD_FAR, THMQI_LOG_HINT_FAR);
	hint(c, AHEAD_NEAR, THMQI_LOG_HINT_NEAR);
	hint(c, AHEAD_NEXT, THMQI_LOG_HINT_NEXT);
	f = thmqi_frame_peek(up, AHEAD_NEXT);
	if (f)
		prefetch_body(f);
	f = thmqi_frame_peek(up, AHEAD_REST);
	if (f)
		prefetch_rest(f);
}

/*
 * Likewise where a long run ends and the next one is of another partition: its frames are too many to look past them one by one. Each step
 * is taken while there is other work: before this run is filled, behind that, and at its end.
 */
enum look { LOOK_SLOT, LOOK_PARTITION, LOOK_INDEX };

static __attribute__((noinline)) void look_behind(struct conn *c, const struct gather *g, enum look step)
{
	struct partition **ahead = ahead_of(c, g->count - g->more);
	struct shard *s = c->shard;

	if (!s->log)
		return;
	if (step == LOOK_SLOT) {
		thmqi_map_prefetch(&s->partitions, g->then->partition);
	} else if (step == LOOK_PARTITION) {
		*ahead = thmqi_shard_partition(s, g->then->partition);
		if (*ahead)
			thmqi_prefetch_write(*ahead);
	} else if (*ahead && (*ahead)->index) {
		thmqi_log_hint((*ahead)->index, THMQI_LOG_HINT_FAR);
	}
}

/* With an id its sequences rise, by less than a run's header can tell. */
static __attribute__((noinline)) bool same_id(const struct thmqi_frame *f, const struct thmqi_frame *first, uint64_t before)
{
	return f->arg[1] == first->arg[1] && f->generation == first->generation && f->seq > before &&
	       f->seq - first->seq <= UINT32_MAX;
}

/* The sequence of the @count-th message. */
static __attribute__((noinline)) uint64_t last_of_series(const struct conn *c, uint32_t count)
{
	const struct thmqi_frame *f = thmqi_frame_at(&c->wire->up, 0);
	uint32_t i;

	for (i = 1; messages_of(f) < count; i++) {
		count -= messages_of(f);
		f = thmqi_frame_at(&c->wire->up, i);
	}
	return f->seq + count - 1;
}

static void gather(struct conn *c, const struct thmqi_frame *first, uint32_t room, struct gather *g)
{
	int64_t wall = (int64_t)c->shard->core->wall_ns, time, lo, hi;
	const struct thmqi_frame *f = first;
	uint32_t level = level_of(c, first), kind = first->extra & (THMQI_PRODUCE_REPORT | THMQI_PRODUCE_TXN), need, n;
	uint64_t id = first->arg[1];

	g->count = g->more = 0;
	g->len = 0;
	g->tag_filter = 0;
	g->key_lens = 0;
	g->first_time = INT64_MAX;
	g->last_time = INT64_MIN;
	do {
		need = (uint32_t)sizeof(struct thmq_record) + THMQI_ALIGN_UP(f->len, 8u);
		time = time_of(f, wall);
		lo = THMQI_MIN(g->first_time, time);
		hi = THMQI_MAX(g->last_time, time);
		if (need > room - g->len || (g->count && (uint64_t)hi - (uint64_t)lo > TIME_SPAN_MAX))
			break;
		g->first_time = lo;
		g->last_time = hi;
		if (f->tag_hash)
			g->tag_filter |= 1ull << (f->tag_hash % 64);
		g->key_lens |= f->key_len;
		g->len += need;
		g->count++;
		if (thmqi_unlikely(f->extra & THMQI_PRODUCE_SERIES)) {
			n = (uint32_t)THMQI_MIN(THMQI_MIN(f->arg[0], (uint64_t)(g->most - g->count)), (uint64_t)((room - g->len) / need));
			g->len += need * n;
			g->count += n;
			g->more += n;
			if (n < f->arg[0])
				break;
		}
		prefetch_frames(&c->wire->up, g->count - g->more);
		f = thmqi_frame_peek(&c->wire->up, g->count - g->more);
		if (f)
			prefetch_body(f);
	} while (f && g->count < g->most && f->stream == first->stream &&
		 f->partition == first->partition && f->type == THMQI_FRAME_PRODUCE &&
		 (f->extra & ALONE) == kind && level_of(c, f) == level &&
		 (thmqi_likely(!(f->arg[1] | id)) ||
		  same_id(f, first, thmqi_frame_at(&c->wire->up, g->count - g->more - 1)->seq)) &&
		 check(c, f) == 0 && (thmqi_likely(!(kind & THMQI_PRODUCE_TXN)) || thmqi_txn_of(f) == thmqi_txn_of(first)));
	g->then = f && f->partition != first->partition && g->count >= AHEAD ? f : NULL;
	g->last_seq = thmqi_likely(!g->more) ? thmqi_frame_at(&c->wire->up, g->count - 1)->seq : last_of_series(c, g->count);
}

/* Bytes that a run may have: in a volatile ring no more than half of it, but for one message that needs more. */
static uint32_t run_room(const struct shard *s, const struct partition *p, const struct thmqi_frame *first)
{
	uint64_t need = sizeof(struct thmq_record) + THMQI_ALIGN_UP((uint64_t)first->len, 8u);
	uint64_t most = s->run_max - sizeof(struct thmq_run_header);

	if (p->is_volatile)
		most = THMQI_MIN(most,
				 THMQI_MIN(THMQI_MAX(p->ring->bytes / 2, need), p->ring->bytes));
	return (uint32_t)most;
}

/*
 * @count messages of a series that are next to each other in its client's area, as their bodies are in a run: copied together, and what is
 * behind each of them up to the next one is none of it. Return: where the next body goes.
 */
static __attribute__((noinline)) uint8_t *fill_series(const struct thmqi_frame *f, uint32_t count, uint32_t time_delta_us,
						      struct thmq_record *record, uint8_t *body)
{
	const struct thmq_record each = {.size = f->len, .tag_hash = f->tag_hash, .time_delta_us = time_delta_us};
	const uint32_t step = THMQI_ALIGN_UP(f->len, 8u), pad = step - f->len;
	const uint64_t own = UINT64_MAX >> 8 * (pad & 7); /* of a body's last 8 bytes, little endian */
	uint64_t word;
	uint32_t i;

	for (i = 0; i < count; i++)
		record[i] = each;
	if (f->len)
		memcpy(body, (const void *)(uintptr_t)f->data, (size_t)(count - 1) * step + f->len);
	for (i = 0; pad && i < count; i++) {
		body += step;
		memcpy(&word, body - 8, sizeof(word));
		word &= own;
		memcpy(body - 8, &word, sizeof(word));
	}
	return pad ? body : body + (size_t)count * step;
}

static void fill(struct conn *c, struct thmq_run_header *run, const struct gather *g,
		 const struct partition *p)
{
	int64_t wall = (int64_t)c->shard->core->wall_ns, time;
	struct thmq_record *record = (struct thmq_record *)(run + 1);
	uint8_t *body = (uint8_t *)(record + g->count);
	const struct thmqi_frame *f = thmqi_frame_at(&c->wire->up, 0);
	uint32_t i, padded, n, frames = g->count - g->more, more = g->more;

	run->len = g->len;
	run->base_offset = p->next_offset;
	run->partition = p->id;
	run->count = g->count;
	run->span = g->count;
	run->encoding = THMQ_RUN_RECORDS;
	run->flags = g->key_lens ? THMQ_RUN_KEYED : 0;
	run->producer_id = f->arg[1];
	run->first_sequence = 0;
	run->transaction = 0;
	run->first_time_ns = g->first_time;
	run->last_time_ns = g->last_time;
	run->producer_epoch = 0;
	run->sequence_span = 0;
	run->tag_filter = g->tag_filter;
	if (thmqi_unlikely(f->arg[1])) {
		run->first_sequence = f->seq;
		run->producer_epoch = f->generation;
		run->sequence_span = (uint32_t)(g->last_seq - f->seq);
	}
	for (i = 0; i < frames; i++, record++) {
		f = thmqi_frame_at(&c->wire->up, i);
		if (thmqi_unlikely(more && f->extra & THMQI_PRODUCE_SERIES)) {
			n = THMQI_MIN((uint32_t)f->arg[0], more);
			body = fill_series(f, n + 1, (uint32_t)(((uint64_t)wall - (uint64_t)g->first_time) / 1000), record, body);
			record += n;
			more -= n;
			continue;
		}
		time = time_of(f, wall);
		record->size = f->len;
		record->tag_hash = f->tag_hash;
		record->time_delta_us = (uint32_t)(((uint64_t)time - (uint64_t)g->first_time) / 1000);
		record->key_len = f->key_len;
		record->tag_len = (uint8_t)THMQI_PRODUCE_TAG_LEN(f->extra);
		record->flags = THMQI_PRODUCE_HAS(f->extra);
		padded = THMQI_ALIGN_UP(f->len, 8u);
		if (padded != f->len)
			memset(body + padded - 8, 0, 8);
		memcpy(body, (const void *)(uintptr_t)f->data, f->len);
		body += padded;
	}
}

/* The payload of a run of another encoding. Copied first: where it lies its client may change it. Return: 0, or why it is refused */
static __attribute__((noinline)) int fill_encoded(struct conn *c, const struct thmqi_frame *f, struct thmq_run_header *run,
						  const struct partition *p, uint32_t len)
{
	struct thmqi_kafka_facts is;
	int rc;

	if (f->tag_hash != THMQ_RUN_KAFKA)
		return -EOPNOTSUPP;
	memcpy(run + 1, (const uint8_t *)(uintptr_t)f->data + (f->len - len), len); /* before it: its transaction */
	rc = thmqi_kafka_check(run + 1, len, (int64_t)c->shard->core->wall_ns, &is);
	if (!rc && is.in_transaction && !(f->extra & THMQI_PRODUCE_TXN))
		rc = -EOPNOTSUPP;
	if (rc)
		return rc;
	*run = (struct thmq_run_header){.len = len,
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = is.count,
					.span = is.count,
					.encoding = THMQ_RUN_KAFKA,
					.flags = is.keyed ? THMQ_RUN_KEYED : 0,
					.producer_id = f->arg[1],
					.first_time_ns = is.first_time_ns,
					.last_time_ns = is.last_time_ns,
					.tag_filter = is.tag_filter};
	if (f->arg[1]) {
		run->first_sequence = f->seq;
		run->producer_epoch = f->generation;
	}
	return 0;
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
	       level_of(c, f) == level && same_id(f, first, seq) && f->seq <= w->last_seq && check(c, f) == 0) {
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
	uint64_t index;

	if (!p || p->id != first->partition || !p->is_volatile || p->dead || p->parting || p->holds || c->denied || c->last_limited ||
	    (first->extra | first->key_len | first->tag_hash) || first->arg[1] || first->flags != THMQ_DURABILITY_MEMORY ||
	    thmqi_frame_peek(&c->wire->up, 1) || first->len > PLAIN_BYTES || len > p->ring->bytes / 2 || check(c, first) != 0 ||
	    !thmqi_conn_room(c, 2) || volatile_full(p, len) || thmq_log_append(p->log, (uint32_t)sizeof(*run) + len, &run, &index) != 0)
		return 0;
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
	record = (struct thmq_record *)(run + 1);
	*record = (struct thmq_record){.size = first->len};
	if (len > sizeof(*record)) {
		memset((uint8_t *)record + len - 8, 0, 8);
		memcpy(record + 1, (const void *)(uintptr_t)first->data, first->len);
	}
	if (thmqi_unlikely(thmq_log_append_end(p->log, run, append_level(p, THMQ_DURABILITY_MEMORY)) != 0))
		return 0;
	p->visible = ++p->next_offset;
	count_volatile(p->ring, index, sizeof(*run) + len);
	thmqi_list_each(it, &p->subs)
		thmqi_sub_offer(thmqi_container(it, struct sub, partition_link));
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
	room = run_room(s, p, first);
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
		gather(c, first, room, &g);
		in_parts = g.count == 0;
		if (g.count >= AHEAD && p->index) /* where it goes to, while it is filled */
			thmqi_log_hint(p->index, THMQI_LOG_HINT_NEXT);
	}
	if (g.then)
		look_behind(c, &g, LOOK_SLOT);
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
		/* with copies it is not refused for a disk that may be well soon, or else another one leads */
		if (rc == -EAGAIN || (rc == -EIO && s->lead)) {
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
		fill(c, run, &g, p);
	else if ((rc = fill_encoded(c, first, run, p, g.len))) {
		thmq_log_append_abort(p->log);
		goto refuse;
	}
	if (g.then)
		look_behind(c, &g, LOOK_PARTITION);
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
		look_behind(c, &g, LOOK_INDEX);
	return g.count;
refuse:
	if (thmqi_unlikely(s->lead != NULL))
		thmqi_lead_refused(s, rc);
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
			look_ahead(c);
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
