/* SPDX-License-Identifier: Apache-2.0 */
/*
 * growth.c - partitions that a topic gets while it is in use. The broker says that there are more, or may have said so while the connection was
 * lost; then those who use the topic ask which, without anybody who waits for the answer: producers send to them from then on, consumers of all
 * partitions, and members of shared groups, attach to them. Members of other groups need not ask: they get what is theirs. Not on any message's path.
 */
#include "internal.h"

#define PARTITIONS_MAX THMQI_ARRAY_COUNT(((struct thmqi_reply *)0)->partitions)

/* ----------------------------------------------------------------- readings */

static void begin(struct thmq_consumer *c, struct reading *r, uint32_t index, uint32_t lanes)
{
	r->consumer = c;
	thmqi_list_init(&r->due_link);
	r->index = index;
	r->priority = c->priorities ? index / lanes : 0;
	r->seek_done = true;
	r->ack_next = r->ack_sent = r->ack_stored = UINT64_MAX;
}

struct reading *thmqi_reading_added(const struct thmq_consumer *c, uint32_t index)
{
	uint32_t k = 0;

	while (index >= c->added[k]->end)
		k++;
	return &c->added[k]->at[index - c->added[k]->begin];
}

/* How many there is room for. */
static uint32_t room_of(const struct thmq_consumer *c, uint32_t *ret_next)
{
	uint32_t k = 0, end = c->readings_made;

	while (k < GROWTHS && c->added[k])
		end = c->added[k++]->end;
	*ret_next = k;
	return end;
}

int thmqi_readings_make(struct thmq_consumer *c, uint32_t count)
{
	uint32_t next, from = room_of(c, &next), n = THMQI_MAX(count - from, from), i;
	struct readings_added *more;

	if (!from) {
		c->readings = calloc(count, sizeof(*c->readings));
		if (!c->readings)
			return -ENOMEM;
		for (i = 0; i < count; i++)
			begin(c, &c->readings[i], i, count / THMQI_MAX(c->priorities, 1u));
		c->readings_made = count;
	} else if (count > from) {
		more = next < GROWTHS ? calloc(1, sizeof(*more) + n * sizeof(more->at[0])) : NULL;
		if (!more)
			return -ENOMEM;
		more->begin = from;
		more->end = from + n;
		for (i = 0; i < n; i++)
			begin(c, &more->at[i], from + i, 1);
		c->added[next] = more;
	}
	c->reading_count = count;
	return 0;
}

int thmqi_reading_make_lone(struct thmq_consumer *c, uint32_t index, uint32_t count)
{
	c->readings = calloc(1, sizeof(*c->readings));
	if (!c->readings)
		return -ENOMEM;
	begin(c, c->readings, index, count / THMQI_MAX(c->priorities, 1u));
	c->reading_first = index;
	c->reading_count = c->readings_made = index + 1;
	return 0;
}

void thmqi_readings_free(struct thmq_consumer *c)
{
	uint32_t k;

	for (k = 0; k < GROWTHS; k++)
		free(c->added[k]);
	free(c->readings);
	memset(c->added, 0, sizeof(c->added));
	c->readings = NULL;
	c->reading_first = c->reading_count = c->readings_made = 0;
}

/* ------------------------------------------------------------------- to ask */

/* Whoever reads all partitions. */
static bool may_grow(const struct thmq_consumer *c)
{
	return c && c->opened && !c->grouped && !c->closing && !c->error && !(c->opts.flags & THMQ_CONSUMER_PARTITION);
}

void thmqi_growth_heard(struct thmq_session *s, uint32_t topic_id, uint32_t count)
{
	uint32_t i;

	s->growths++;
	for (i = 0; i < THMQI_STREAMS; i++) {
		struct thmq_producer *p = s->producers[i];
		struct thmq_consumer *c = s->consumers[i];

		if (p && p->topic_id == topic_id && p->partition_count < count)
			p->grows = s->growing = true;
		if (may_grow(c) && c->topic_id == topic_id && c->reading_count < count)
			c->grows = s->growing = true;
	}
	s->untended = s->untended || s->growing;
}

void thmqi_growth_look(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++) {
		if (s->producers[i])
			s->producers[i]->grows = s->growing = true;
		if (may_grow(s->consumers[i]))
			s->consumers[i]->grows = s->growing = true;
	}
	s->untended = s->untended || s->growing;
}

/* Somebody who is to ask, and from which partition on. False: nobody. */
static bool find(const struct thmq_session *s, uint32_t *ret_topic, uint32_t *ret_from)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++) {
		const struct thmq_producer *p = s->producers[i];
		const struct thmq_consumer *c = s->consumers[i];

		if (p && p->grows && !p->error) {
			*ret_topic = p->topic_id;
			*ret_from = p->partition_count;
			return true;
		}
		if (c && c->grows && may_grow(c)) {
			*ret_topic = c->topic_id;
			*ret_from = c->reading_count;
			return true;
		}
	}
	return false;
}

void thmqi_growth_tend(struct thmq_session *s)
{
	struct client_link *meta = s->links[THMQI_SHARD_META];
	struct thmqi_frame *f;

	if (s->growth_id) /* its answer leads here again */
		return;
	s->growing = find(s, &s->growth_topic, &s->growth_from);
	if (!s->growing)
		return;
	s->untended = true;
	f = meta->replied ? thmqi_ctl_claim(meta) : NULL;
	if (!f)
		return;
	memset(meta->wire->request, 0, THMQI_REQUEST_LEAST);
	meta->wire->request->op = THMQI_OP_TOPIC_PARTITIONS;
	meta->wire->request->topic_id = s->growth_topic;
	meta->wire->request->index = s->growth_from;
	s->growth_id = meta->request_id = ++s->next_request;
	meta->replied = false;
	f->type = THMQI_FRAME_REQUEST;
	f->seq = meta->request_id;
	thmqi_ctl_commit(meta);
}

/* ----------------------------------------------------------------- the answer */

static void producer_grow(struct thmq_producer *p, const struct thmqi_partition_entry *entries, uint32_t n)
{
	struct thmqi_partition_entry *grown = realloc(p->partitions, ((size_t)p->partition_count + n) * sizeof(*grown));

	if (!grown) /* it goes on with those that it has */
		return;
	memcpy(grown + p->partition_count, entries, n * sizeof(*grown));
	p->partitions = grown;
	p->partition_count += n;
	p->lanes = p->partition_count / p->priorities;
}

static void consumer_grow(struct thmq_consumer *c, const struct thmqi_partition_entry *entries, uint32_t n)
{
	uint32_t from = c->reading_count, i;
	int rc = thmqi_readings_make(c, from + n);

	c->error = rc; /* what is in them would never come */
	for (i = 0; i < n && !rc; i++) {
		struct reading *r = thmqi_reading(c, from + i);

		thmqi_reading_place(r, entries[i].partition);
		r->shard = entries[i].shard;
		r->group_id = thmqi_reading(c, 0)->group_id;
		rc = thmqi_session_link(c->session, r->shard, &r->link);
		r->state = READING_WANTED;
		if (!rc) {
			thmqi_reading_attach(r);
			continue;
		}
		r->link = NULL;
		r->state = READING_NONE;
		c->error = rc;
		thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, rc, 0);
	}
}

/* All of the topic that lack just these. */
static void grow(struct thmq_session *s, const struct thmqi_reply *reply, uint32_t n)
{
	bool all = !n || s->growth_from + n >= reply->total;
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++) {
		struct thmq_producer *p = s->producers[i];
		struct thmq_consumer *c = s->consumers[i];

		if (p && p->grows && p->topic_id == s->growth_topic && p->partition_count == s->growth_from) {
			p->grows = !all;
			if (n)
				producer_grow(p, reply->partitions, n);
		}
		if (c && c->grows && c->topic_id == s->growth_topic && c->reading_count == s->growth_from) {
			c->grows = !all;
			if (n)
				consumer_grow(c, reply->partitions, n);
		}
	}
}

/* The topic is gone, or may not be looked at any more: they hear of that by other ways. Or it is not known where nobody leads: the next connection asks again. */
static void give_up(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++) {
		if (s->producers[i] && s->producers[i]->topic_id == s->growth_topic)
			s->producers[i]->grows = false;
		if (s->consumers[i] && s->consumers[i]->topic_id == s->growth_topic)
			s->consumers[i]->grows = false;
	}
}

bool thmqi_growth_replied(struct thmq_session *s, uint64_t request, int status)
{
	const struct thmqi_reply *reply = s->links[THMQI_SHARD_META]->wire->reply;
	uint32_t n = THMQI_MIN(reply->count, (uint32_t)PARTITIONS_MAX);

	if (!s->growth_id || request != s->growth_id)
		return false;
	s->growth_id = 0;
	s->untended = true;
	if (!status && n <= THMQ_PARTITION_COUNT_MAX - s->growth_from)
		grow(s, reply, n);
	else if (status != -ECONNRESET && status != -EAGAIN && status != -THMQ_ENOTLEADER)
		give_up(s);
	return true;
}
