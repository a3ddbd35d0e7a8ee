/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranks.c - a consumer of a topic with priorities: its runs wait in one queue as everybody's do, but by priority, and who is low is not kept
 * from its turn for ever. Knows runs only by their place in the queue, and by the priority of their partition.
 */
#include "internal.h"

#define PATIENCE 64u /* messages that go before one of a lower priority has its turn */

/*
 * end[i] is the place behind the last run of priority i or higher: where the next one of priority i goes, and where the first one of
 * priority i - 1 is, if there is one.
 */
struct ranks {
	uint32_t count;
	uint32_t passed; /* messages that went while a lower priority waited */
	uint32_t turn;   /* the priority that had one last */
	uint32_t reserved;
	struct delivered **end[THMQ_PRIORITIES_MAX];
	uint64_t held_bytes[THMQ_PRIORITIES_MAX], held_count[THMQ_PRIORITIES_MAX];
};

int thmqi_ranks_open(struct thmq_consumer *c, uint32_t count)
{
	c->ranks = calloc(1, sizeof(*c->ranks));
	if (!c->ranks)
		return -ENOMEM;
	c->ranks->count = count;
	thmqi_ranks_renew(c);
	return 0;
}

void thmqi_ranks_close(struct thmq_consumer *c)
{
	free(c->ranks);
	c->ranks = NULL;
}

/* -------------------------------------------------------------------- queue */

void thmqi_ranks_renew(struct thmq_consumer *c)
{
	struct ranks *k = c->ranks;
	struct delivered **at = &c->first;
	uint32_t i = k->count;

	while (i-- > 0) {
		while (*at && (*at)->reading->priority >= i)
			at = &(*at)->next;
		k->end[i] = at;
	}
	c->last = at;
}

void thmqi_ranks_add(struct thmq_consumer *c, struct delivered *d)
{
	struct ranks *k = c->ranks;
	uint32_t i = d->reading->priority;
	struct delivered **at = k->end[i];

	d->next = *at;
	*at = d;
	do
		if (k->end[i] == at)
			k->end[i] = &d->next;
	while (i-- > 0);
	c->last = k->end[0];
}

void thmqi_ranks_remove(struct thmq_consumer *c, struct delivered **at)
{
	struct ranks *k = c->ranks;
	struct delivered *d = *at;
	uint32_t i;

	*at = d->next;
	for (i = 0; i < k->count; i++)
		if (k->end[i] == &d->next)
			k->end[i] = at;
	c->last = k->end[0];
}

/* The first run of priority @i, if there is one, is there. */
static struct delivered **begin_of(struct thmq_consumer *c, uint32_t i)
{
	return i + 1 < c->ranks->count ? c->ranks->end[i + 1] : &c->first;
}

/* Those below @top take turns, downwards. One of them has a run. */
static uint32_t next_turn(struct thmq_consumer *c, uint32_t top)
{
	struct ranks *k = c->ranks;
	uint32_t i, n = k->turn;

	for (i = 0; i < k->count; i++) {
		n = n ? n - 1 : top - 1;
		if (n < top && begin_of(c, n) != k->end[n])
			break;
	}
	return n;
}

struct delivered **thmqi_ranks_choose(struct thmq_consumer *c, uint32_t *most)
{
	struct ranks *k = c->ranks;
	uint32_t top;

	if (!c->first)
		return &c->first;
	top = c->first->reading->priority;
	if (!*k->end[top]) {
		k->passed = 0;
		return &c->first;
	}
	if (k->passed < PATIENCE) {
		*most = THMQI_MIN(*most, PATIENCE - k->passed);
		return &c->first;
	}
	*most = 1;
	k->turn = next_turn(c, top);
	return begin_of(c, k->turn);
}

void thmqi_ranks_count(struct thmq_consumer *c, struct delivered *const *at, uint32_t n)
{
	struct ranks *k = c->ranks;

	if (at != &c->first)
		k->passed = n ? 0 : k->passed;
	else if (*k->end[c->first->reading->priority])
		k->passed += n;
}

/* ------------------------------------------------------------------ credits */

void thmqi_ranks_hold(struct thmq_consumer *c, const struct delivered *d)
{
	if (d->reading) {
		c->ranks->held_bytes[d->reading->priority] += d->bytes;
		c->ranks->held_count[d->reading->priority] += d->credit;
	}
}

void thmqi_ranks_let_go(struct thmq_consumer *c, const struct delivered *d)
{
	if (d->reading) {
		c->ranks->held_bytes[d->reading->priority] -= d->bytes;
		c->ranks->held_count[d->reading->priority] -= d->credit;
	}
}

bool thmqi_ranks_full(const struct thmq_consumer *c)
{
	const struct ranks *k = c->ranks;
	uint32_t i;

	for (i = 0; i < k->count; i++)
		if (k->held_bytes[i] >= c->share_bytes || (k->held_count[i] >= c->share_count && !c->shared))
			return true;
	return false;
}

int thmqi_client_message_priority(const struct thmq_consumer *c, const struct thmq_message *m)
{
	if (!thmqi_reading_is_there(c, m->partition) || m->internal[1] >> 48 != (VIEW_MARK | c->stream))
		return -EINVAL;
	return thmqi_reading(c, m->partition)->priority;
}
