/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spans.h - what has become of messages that were handed out one by one: spans of offsets, side by side, from the floor (all
 * below is done) to the end (nothing from there on was handed out). A pure structure: no log, no clock, no allocation after init.
 *
 * A span that is not done has one offset at least, and no two that are done lie side by side: so 2 × open + 1 spans are the
 * most there can be, where open counts the offsets that are not done. Who keeps open below a limit never runs out of room.
 */
#ifndef THMQI_BROKER_SPANS_H
#define THMQI_BROKER_SPANS_H

#include "base/base.h"

enum span_state {
	SPAN_DONE = 1,
	SPAN_OUT = 2, /* a holder has it until due_ns */
	SPAN_BACK = 3 /* nobody has it; to be handed out again from due_ns on */
};

#define SPAN_DELIVERIES_MAX 0xffffu

/* Who has messages: how many, and, together with others of its kind, in *total. */
struct span_holder {
	uint64_t out;
	uint64_t *total;
};

struct span {
	uint64_t from; /* up to where the next one begins */
	uint64_t due_ns;
	struct span_holder *holder; /* OUT */
	uint16_t deliveries;        /* how often it was handed out; 0 if done */
	uint8_t state;              /* enum span_state */
};

struct spans {
	struct span *at; /* those from head on */
	uint32_t head, count, size;
	uint64_t end;  /* of the last one */
	uint64_t open; /* offsets that are not done */
};

/* What is stored of a span. */
struct span_stored {
	uint32_t len;
	uint16_t deliveries;
	uint16_t done; /* 1 */
};

/* Room for @open_max offsets that are not done at a time. -ENOMEM */
int thmqi_spans_init(struct spans *s, uint32_t open_max, uint64_t begin);
void thmqi_spans_fini(struct spans *s);

static inline uint64_t thmqi_spans_floor(const struct spans *s)
{
	return s->count ? s->at[s->head].from : s->end;
}

static inline const struct span *thmqi_spans_get(const struct spans *s, uint32_t i)
{
	return &s->at[s->head + i];
}

static inline uint64_t thmqi_spans_end_of(const struct spans *s, uint32_t i)
{
	return i + 1 < s->count ? s->at[s->head + i + 1].from : s->end;
}

/* Up to @to behind the end: handed out for the first time; or there is nothing. */
void thmqi_spans_take(struct spans *s, uint64_t to, struct span_holder *holder, uint64_t due_ns);
void thmqi_spans_skip(struct spans *s, uint64_t to);
/* Hand the first offsets of BACK span @i, up to @to, out again. */
void thmqi_spans_lend(struct spans *s, uint32_t i, uint64_t to, struct span_holder *holder,
		      uint64_t due_ns);
/* Done, whoever has them. Return: how many were not. */
uint64_t thmqi_spans_done(struct spans *s, uint64_t from, uint64_t to);
/* What a holder has, from when it was handed out the @deliveries-th time; 0: whenever that was. */
struct span_part {
	struct span_holder *holder;
	uint64_t from, to;
	uint32_t deliveries;
};
/* It goes back, or is its own for longer. @uncount: it never saw them. Return: how many. */
uint64_t thmqi_spans_back(struct spans *s, const struct span_part *part, uint64_t due_ns,
			  bool uncount);
uint64_t thmqi_spans_extend(struct spans *s, const struct span_part *part, uint64_t due_ns);
/* What is not done of these is @holder's from now on, whoever has it; up to the end. Return: how many; *ret_deliveries: the most. */
uint64_t thmqi_spans_seize(struct spans *s, uint64_t from, uint64_t to, struct span_holder *holder,
			   uint64_t due_ns, uint32_t *ret_deliveries);
/* All that @holder has goes back, due at once. Return: how many offsets. */
uint64_t thmqi_spans_drop(struct spans *s, struct span_holder *holder);
/* What is out and due goes back, due at once. Return: how many; *ret_next_ns: when the next is due, UINT64_MAX: none is out. */
uint64_t thmqi_spans_expire(struct spans *s, uint64_t now_ns, uint64_t *ret_next_ns);
/* The first BACK span that is due. UINT32_MAX: none, and *ret_next_ns says when. */
uint32_t thmqi_spans_due(const struct spans *s, uint64_t now_ns, uint64_t *ret_next_ns);

/* Return: how many there are; at most 2 × open_max + 1, and one more for each 4 GiB of offsets. */
uint32_t thmqi_spans_store(const struct spans *s, struct span_stored *ret, uint32_t max);
/* In place of what there is, of which nobody has any; all that is not done is back, and due. False: they are not as stored, or too many. */
bool thmqi_spans_load(struct spans *s, uint64_t floor, const struct span_stored *stored,
		      uint32_t count, uint32_t open_max);
/* Nothing from @to on was ever handed out. Nobody has any. */
void thmqi_spans_cut(struct spans *s, uint64_t to);

#endif
