/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topics.c - the topics of a shard's partitions: their names, counters and limits. A partition knows its topic by its place in a table, which
 * takes two bytes. Control path only.
 */
#include <stdio.h>

#include "internal.h"

#define PLACES_MAX 65536u

int thmqi_topics_init(struct shard *s)
{
	struct topics *t = &s->topics;

	thmqi_map_init(&t->by_id);
	t->none.row = NO_ROW;
	t->room = 16;
	t->at = calloc(t->room, sizeof(*t->at));
	if (!t->at)
		return -ENOMEM;
	t->at[0] = &t->none;
	t->count = 1;
	return 0;
}

/* ------------------------------------------------------------ limits of topics */

static bool has_limits(const struct state_topic *t)
{
	return t->rates[0] | t->rates[1] | t->rates[2] | t->rates[3];
}

/* All shards' partitions of it share them. */
static struct rates *rates_of(struct thmq_broker *b, const struct state_topic *t)
{
	struct guard *g = &b->guard;
	struct thmqi_list *it;
	struct rates *r = NULL;

	pthread_mutex_lock(&g->lock);
	thmqi_list_each(it, &g->rates)
		if (thmqi_container(it, struct rates, link)->topic_id == t->topic_id)
			r = thmqi_container(it, struct rates, link);
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (r) {
			r->topic_id = t->topic_id;
			thmqi_list_add_tail(&g->rates, &r->link);
		}
	}
	if (r) {
		thmqi_rates_set(r, &(struct thmq_limits){.produce_bytes = t->rates[RATE_IN_BYTES],
							 .produce_messages = t->rates[RATE_IN_MESSAGES],
							 .consume_bytes = t->rates[RATE_OUT_BYTES],
							 .consume_messages = t->rates[RATE_OUT_MESSAGES]});
		r->refs++;
	}
	pthread_mutex_unlock(&g->lock);
	return r;
}

static void rates_drop(struct thmq_broker *b, struct rates *r)
{
	bool last;

	if (!r)
		return;
	pthread_mutex_lock(&b->guard.lock);
	last = --r->refs == 0;
	if (last)
		thmqi_list_del(&r->link);
	pthread_mutex_unlock(&b->guard.lock);
	if (last)
		free(r);
}

/* --------------------------------------------------------------------- places */

/* UINT32_MAX: no memory; 0: there are too many topics, which counts as none */
static uint32_t free_place(struct topics *t)
{
	struct topic_here **grown;

	if (t->count == t->room && t->room == PLACES_MAX)
		return 0;
	if (t->count == t->room) {
		grown = realloc(t->at, 2ull * t->room * sizeof(*grown));
		if (!grown)
			return UINT32_MAX;
		memset(grown + t->room, 0, t->room * sizeof(*grown));
		t->at = grown;
		t->hint = t->room;
		t->room *= 2;
	}
	while (t->at[t->hint % t->room])
		t->hint++;
	return t->hint % t->room;
}

static int make(struct shard *s, const struct state_topic *state, struct topic_here **ret)
{
	struct topics *t = &s->topics;
	uint32_t place = free_place(t);
	struct topic_here *h;

	if (place == UINT32_MAX)
		return -ENOMEM;
	*ret = &t->none;
	if (!place)
		return 0;
	h = calloc(1, sizeof(*h));
	if (h && has_limits(state)) {
		h->rates = rates_of(s->broker, state);
		if (!h->rates) {
			free(h);
			h = NULL;
		}
	}
	if (!h || thmqi_map_put(&t->by_id, state->topic_id, h) != 0) {
		if (h)
			rates_drop(s->broker, h->rates);
		free(h);
		return -ENOMEM;
	}
	h->id = state->topic_id;
	h->place = place;
	h->row = NO_ROW;
	snprintf(h->name, sizeof(h->name), "%s", state->name);
	t->at[place] = h;
	t->count++;
	*ret = h;
	return 0;
}

static void drop(struct shard *s, struct topic_here *h)
{
	struct topics *t = &s->topics;

	thmqi_publish_topic_gone(s, h);
	thmqi_map_remove(&t->by_id, h->id);
	t->at[h->place] = NULL;
	t->count--;
	rates_drop(s->broker, h->rates);
	free(h);
}

/* A copy's partition may have been used before it was known what it is. */
static void look_again(struct thmqi_list *conns, const struct partition *p)
{
	struct thmqi_list *it;

	thmqi_list_each(it, conns)
	{
		struct conn *c = thmqi_container(it, struct conn, link);

		if (c->last_partition == p)
			c->last_partition = NULL;
	}
}

/* It may have other limits now. Those who use @p look at them from now on, if there are any: once there were, they stay, and may say nothing. */
static int renew(struct shard *s, struct partition *p, const struct state_topic *state)
{
	struct topic_here *h = s->topics.at[p->topic];
	struct rates *r;
	struct thmqi_list *it;

	if (!h->rates && !has_limits(state))
		return 0;
	r = rates_of(s->broker, state);
	if (!r)
		return -ENOMEM;
	rates_drop(s->broker, h->rates);
	h->rates = r;
	thmqi_list_each(it, &p->subs)
		thmqi_container(it, struct sub, partition_link)->limited = true;
	look_again(&s->conns, p);
	look_again(&s->resting, p);
	return 0;
}

int thmqi_topics_enter(struct shard *s, struct partition *p, const struct state_topic *state)
{
	struct topics *t = &s->topics;
	struct topic_here *h;
	int rc;

	if (!state->topic_id || p->topic)
		return state->topic_id ? renew(s, p, state) : 0;
	h = thmqi_map_get(&t->by_id, state->topic_id);
	rc = h ? 0 : make(s, state, &h);
	if (rc)
		return rc;
	p->topic = (uint16_t)h->place;
	h->partitions++;
	look_again(&s->conns, p);
	look_again(&s->resting, p);
	return 0;
}

void thmqi_topics_leave(struct shard *s, struct partition *p)
{
	struct topic_here *h = s->topics.at[p->topic];

	if (!p->topic)
		return;
	p->topic = 0;
	if (--h->partitions == 0)
		drop(s, h);
}

void thmqi_topics_fini(struct shard *s)
{
	struct topics *t = &s->topics;
	uint32_t i;

	for (i = 1; t->at && i < t->room; i++)
		if (t->at[i])
			drop(s, t->at[i]);
	thmqi_map_fini(&t->by_id);
	free(t->at);
	t->at = NULL;
}
