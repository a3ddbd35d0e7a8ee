/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.h - what send.c (messages one by one) and row.c (rows of them) share: a message's place in a link's data area, and how it
 * becomes one that was sent.
 */
#ifndef THMQI_CLIENT_PLACE_H
#define THMQI_CLIENT_PLACE_H

#include "internal.h"

/* A message's place in a link's data area, and what its frame will say. */
struct place {
	struct client_link *link;
	struct slot *slot;
	uint8_t *first; /* key, tag, attributes, payload */
	uint32_t index; /* of the partition */
	uint32_t key_len, tag_len, len;
	uint32_t has, has_len; /* attributes: THMQ_RECORD_*, and bytes */
	uint32_t encoding;     /* enum thmq_encoding */
	bool timed;
	int64_t time_ns;
};

/* send.c */
/* Which partition a message of @len bytes goes to, by which link, and what it waits for. 0, or why not. */
int thmqi_place_way(struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t len, uint32_t *ret_level, uint32_t *ret_index,
		    struct client_link **ret_link);
/* @bytes for @count messages in @slots slots. Return: their place, free running, which is taken once area_head lies behind it; UINT64_MAX: not now. */
uint64_t thmqi_place_room(struct thmq_producer *p, struct client_link *l, uint32_t bytes, uint32_t count, uint32_t slots);
void thmqi_place_give_back(struct client_link *l, struct slot *slot, const uint8_t *end); /* what was not needed of its room, if it is the last */
void thmqi_place_reclaim(struct client_link *l);
void thmqi_claim_trim(struct thmq_producer *p, struct thmq_claim *claim, uint32_t len); /* it is made just now, and is no longer than that */
/* Return: its sequence; -EAGAIN the ring is full. */
int64_t thmqi_place_push(struct thmq_producer *p, const struct place *m);
/* Of @count messages, the last of which has sequence @last: all went one way. */
void thmqi_place_note(struct thmq_producer *p, uint64_t last, uint32_t count, uint32_t shard, uint8_t level);

/* Whether what lies at a place of @l can be sent. 0; -EAGAIN not now; else the session is dead, and why. */
static inline int thmqi_place_may_go(struct thmq_session *s, const struct client_link *l)
{
	if (thmqi_likely(!s->dead && l->up))
		return 0;
	if (!s->dead)
		thmqi_session_process(s);
	return s->dead ? s->dead : l->up ? 0 : -EAGAIN;
}

#endif
