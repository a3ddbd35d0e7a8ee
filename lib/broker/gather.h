/* SPDX-License-Identifier: Apache-2.0 */
/* gather.h - which frames of a client become one run, and that run: for produce.c. What is short and asked of each message is here. */
#ifndef THMQI_BROKER_GATHER_H
#define THMQI_BROKER_GATHER_H

#include "internal.h"

/* Of a frame's extra: what keeps it from joining the run of those before it. */
#define SPECIAL (THMQI_PRODUCE_WITH(THMQI_RECORD_EXPECT | THMQ_RECORD_DELAY) | THMQI_PRODUCE_ENCODED)
#define ALONE (THMQI_PRODUCE_REPORT | SPECIAL | THMQI_PRODUCE_TXN)

/* Messages that frame @f is of; but for a series it is one. */
static inline uint32_t messages_of(const struct thmqi_frame *f)
{
	return thmqi_unlikely(f->extra & THMQI_PRODUCE_SERIES) ? (uint32_t)f->arg[0] + 1 : 1;
}

/* The rest of check(), of a series. */
int thmqi_check_series(const struct thmqi_link *l, const struct thmqi_frame *f);

/* The most that this frame may say is checked before it is believed: its bytes lie in the link's data area. */
static inline int check(const struct conn *c, const struct thmqi_frame *f)
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
			return thmqi_check_series(l, f);
		if (f->key_len || THMQI_PRODUCE_TAG_LEN(f->extra) || THMQI_PRODUCE_HAS(f->extra))
			return -EINVAL;
	}
	return 0;
}

/* With one copy the rungs above DURABLE prove just that. */
static inline uint32_t level_of(const struct conn *c, const struct thmqi_frame *f)
{
	return THMQI_MIN((uint32_t)f->flags, c->shard->level_max);
}

/* Partitions stay where they are as long as there are connections. */
static inline struct partition **ahead_of(struct conn *c, uint32_t frames)
{
	return &c->ahead[(c->wire->up.next + frames) % AHEAD];
}

static inline void prefetch_body(const struct thmqi_frame *f)
{
	const char *at = (const char *)(uintptr_t)f->data; /* prefetching takes any address */

	__builtin_prefetch(at);
	if (f->len > THMQI_CACHELINE)
		__builtin_prefetch(at + THMQI_CACHELINE);
	if (f->len) /* nothing behind it: that line would be taken from the client, who is about to write there */
		__builtin_prefetch(at + THMQI_MIN(f->len - 1, 2u * THMQI_CACHELINE));
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

/* With an id its sequences rise, by less than a run's header can tell: does @f go on behind @first, and behind sequence @before? */
bool thmqi_same_id(const struct thmqi_frame *f, const struct thmqi_frame *first, uint64_t before);
void thmqi_look_ahead(struct conn *c); /* the next frame is of another partition than the one before */
enum look { LOOK_SLOT, LOOK_PARTITION, LOOK_INDEX };
void thmqi_look_behind(struct conn *c, const struct gather *g, enum look step); /* where @g->then goes */

/* Bytes that a run of @first and others may have. */
uint32_t thmqi_run_room(const struct shard *s, const struct partition *p, const struct thmqi_frame *first);
/* @g->most is given. @g->count 0: the first one alone needs more than @room. */
void thmqi_gather(struct conn *c, const struct thmqi_frame *first, uint32_t room, struct gather *g);
void thmqi_fill(struct conn *c, struct thmq_run_header *run, const struct gather *g, const struct partition *p);
/* The one run of frame @f, @len bytes. 0, or why it is refused */
int thmqi_fill_encoded(struct conn *c, const struct thmqi_frame *f, struct thmq_run_header *run, const struct partition *p, uint32_t len);

#endif
