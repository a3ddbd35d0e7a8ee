/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather.c - which frames of a client become one run, and that run: what is there is looked at before its turn, checked, counted, and copied once. Where it goes,
 * and who hears of it, is produce.c's. Nothing here allocates, locks or blocks.
 */
#include "gather.h"
#include "commitlog/hint.h"
#include "wire/kafka.h"
#include "wire/packed.h"

/* A run's table keeps times as 32-bit microseconds behind the first. */
#define TIME_SPAN_MAX 4294000000000ull

#define REST_BYTES 1536u
#define STRETCH 16u /* frames that are asked for together */

/* The first message lies in the area by now: so must the others, which have nothing but a payload. */
__attribute__((noinline)) int thmqi_check_series(const struct thmqi_link *l, const struct thmqi_frame *f)
{
	uint64_t at = f->data - (uint64_t)(uintptr_t)l->area;

	if (!l->takes_series || f->arg[0] >= THMQI_SERIES_MAX || f->arg[1] || f->key_len ||
	    f->extra & ~(THMQI_PRODUCE_SERIES | THMQI_PRODUCE_REPORT))
		return -EINVAL;
	return f->len && f->arg[0] * thmqi_series_step(f->len) > l->area_bytes - at - f->len ? -EINVAL : 0;
}

static int64_t time_of(const struct thmqi_frame *f, int64_t wall)
{
	return f->extra & THMQI_PRODUCE_TIMED ? (int64_t)f->arg[0] : wall;
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

/* Which partition frame @f, so many ahead, is for; NULL: there is none. */
static void find(struct conn *c, uint32_t frames, const struct thmqi_frame *f)
{
	struct partition *p = f ? thmqi_shard_partition(c->shard, f->partition) : NULL;

	*ahead_of(c, frames) = p;
	if (p)
		thmqi_prefetch_write(p);
}

/*
 * Frames of one partition after the other, of very many: what a run needs of its partition and of its index lies in no cache, and
 * is asked for while those before it are taken. The log's own of a volatile one is not worth it.
 */
__attribute__((noinline)) void thmqi_look_ahead(struct conn *c)
{
	struct thmqi_frame_ring *up = &c->wire->up;
	struct shard *s = c->shard;
	const struct thmqi_frame *f;

	if (!s->log)
		return;
	__builtin_prefetch(thmqi_frame_at(up, AHEAD_FRAME));
	f = thmqi_frame_peek(up, AHEAD_SLOT);
	if (f)
		thmqi_map_prefetch(&s->partitions, f->partition);
	find(c, AHEAD_PARTITION, thmqi_frame_peek(up, AHEAD_PARTITION));
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
__attribute__((noinline)) void thmqi_look_behind(struct conn *c, const struct gather *g, enum look step)
{
	const uint32_t frames = g->count - g->more;

	if (!c->shard->log)
		return;
	if (step == LOOK_SLOT)
		thmqi_map_prefetch(&c->shard->partitions, g->then->partition);
	else if (step == LOOK_PARTITION)
		find(c, frames, g->then);
	else
		hint(c, frames, THMQI_LOG_HINT_FAR);
}

/* With an id its sequences rise, by less than a run's header can tell. */
__attribute__((noinline)) bool thmqi_same_id(const struct thmqi_frame *f, const struct thmqi_frame *first, uint64_t before)
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

void thmqi_gather(struct conn *c, const struct thmqi_frame *first, uint32_t room, struct gather *g)
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
		  thmqi_same_id(f, first, thmqi_frame_at(&c->wire->up, g->count - g->more - 1)->seq)) &&
		 check(c, f) == 0 && (thmqi_likely(!(kind & THMQI_PRODUCE_TXN)) || thmqi_txn_of(f) == thmqi_txn_of(first)));
	g->then = f && f->partition != first->partition && g->count >= AHEAD ? f : NULL;
	g->last_seq = thmqi_likely(!g->more) ? thmqi_frame_at(&c->wire->up, g->count - 1)->seq : last_of_series(c, g->count);
}

/* Bytes that a run may have: in a volatile ring no more than half of it, but for one message that needs more. */
uint32_t thmqi_run_room(const struct shard *s, const struct partition *p, const struct thmqi_frame *first)
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

void thmqi_fill(struct conn *c, struct thmq_run_header *run, const struct gather *g,
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

/* The same of one whose payloads are in a block: all of its messages are of now. */
static int look_at_packed(void *payload, uint32_t len, int64_t now_ns, struct thmqi_kafka_facts *ret)
{
	struct thmqi_packed_facts is;
	int rc = thmqi_packed_check(payload, len, &is);

	if (rc)
		return rc;
	*ret = (struct thmqi_kafka_facts){.count = is.count,
					  .first_time_ns = now_ns,
					  .last_time_ns = now_ns,
					  .tag_filter = is.tag_filter,
					  .keyed = is.keyed};
	return 0;
}

/* The payload of a run of another encoding. Copied first: where it lies its client may change it. Return: 0, or why it is refused */
__attribute__((noinline)) int thmqi_fill_encoded(struct conn *c, const struct thmqi_frame *f, struct thmq_run_header *run,
						  const struct partition *p, uint32_t len)
{
	struct thmqi_kafka_facts is;
	int rc;

	if (f->tag_hash != THMQ_RUN_KAFKA && f->tag_hash != THMQ_RUN_PACKED)
		return -EOPNOTSUPP;
	memcpy(run + 1, (const uint8_t *)(uintptr_t)f->data + (f->len - len), len); /* before it: its transaction */
	rc = f->tag_hash == THMQ_RUN_PACKED ? look_at_packed(run + 1, len, (int64_t)c->shard->core->wall_ns, &is)
					    : thmqi_kafka_check(run + 1, len, (int64_t)c->shard->core->wall_ns, &is);
	if (!rc && is.in_transaction && !(f->extra & THMQI_PRODUCE_TXN))
		rc = -EOPNOTSUPP;
	if (rc)
		return rc;
	*run = (struct thmq_run_header){.len = len,
					.base_offset = p->next_offset,
					.partition = p->id,
					.count = is.count,
					.span = is.count,
					.encoding = (uint16_t)f->tag_hash,
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
