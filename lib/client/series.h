/* SPDX-License-Identifier: Apache-2.0 */
/*
 * series.h - where client and broker share memory, messages that are alike and lie one behind the other need no frame each: the frame of the
 * second counts those that follow (THMQI_PRODUCE_SERIES), by a word that goes on being written. So a row of them costs one line and not one for
 * each, and what the broker looks at is what is written. The count ends once there is another frame behind it. Knows of a message
 * what its frame would say.
 */
#ifndef THMQI_CLIENT_SERIES_H
#define THMQI_CLIENT_SERIES_H

#include "internal.h"

/* A message of @p, of @len bytes at @at, which are all that it has: is it like the one before? */
static inline bool thmqi_series_goes_on(const struct client_link *l, const struct thmq_producer *p, uint32_t partition, uint8_t level,
					const uint8_t *at, uint32_t len)
{
	const struct series *s = &l->series;

	return at == s->next && len == s->len && p->last_seq + 1 == s->seq && p->stream == s->stream && partition == s->partition &&
	       level == s->level && s->life == l->life;
}

/* It goes on: by a frame that is there? Then that was all. */
static inline bool thmqi_series_join(struct client_link *l)
{
	struct series *s = &l->series;

	if (!s->frame || s->more + 1 == THMQI_SERIES_MAX)
		return false;
	s->next += thmqi_series_step(s->len);
	s->seq++;
	thmqi_series_tell(s->frame, ++s->more);
	return true;
}

/* Another frame was written, or will be: the broker goes on there. */
static inline void thmqi_series_end(struct client_link *l)
{
	struct series *s = &l->series;

	if (s->frame && s->life == l->life)
		thmqi_series_tell(s->frame, s->more | THMQI_SERIES_ENDS);
	s->frame = NULL;
	s->next = NULL;
}

#endif
