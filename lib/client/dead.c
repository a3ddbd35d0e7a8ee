/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dead.c - where messages of a shared group go that were handed out too often, or rejected: to a topic like any other, with all they
 * had and where they come from in headers. The member that has one sends it there by a producer of its own, and says that it is done
 * once it is stored: so it is in one of the two at every moment, after a crash perhaps in both.
 */
#include <stdio.h>

#include "wire/attributes.h"

#include "internal.h"

#define OUT_MAX 256u     /* on their way at a time */
#define HEADERS_MAX 128u /* of a message, ours included */
#define OURS 6u
#define PREFIX "thmq-dead-"
#define REASON_MAX 1000u
#define RETRY_NS 1000000000u

struct dead_letters {
	struct thmq_producer *producer;
	uint64_t failed;     /* of the producer's, when it was looked at last */
	uint32_t head, tail; /* free running */
	struct {
		uint64_t offset, last, seq;
		uint32_t partition, deliveries;
	} out[OUT_MAX];
};

static bool never(void *arg)
{
	(void)arg;
	return false;
}

/* Members that begin at the same moment all make it; one does. */
static int make_topic(struct thmq_session *s, const char *topic)
{
	const struct thmq_topic_opts t = {
		.size = sizeof(t), .flags = THMQ_TOPIC_IF_ABSENT, .partition_count = 1};
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	int rc;

	while ((rc = thmqi_client_topic_create(s, topic, &t)) == -EBUSY &&
	       thmqi_session_deadline(s, 0) < deadline) {
		rc = thmqi_session_block(s, never, NULL, thmqi_session_deadline(s, 1000000));
		if (rc && rc != -ETIMEDOUT)
			break;
	}
	return rc;
}

int thmqi_dead_open(struct thmq_consumer *c, const char *topic)
{
	const struct thmq_producer_opts p = {.size = sizeof(p), .cookie = c->opts.cookie};
	int rc = make_topic(c->session, topic);

	if (rc)
		return rc;
	c->dead = calloc(1, sizeof(*c->dead));
	if (!c->dead)
		return -ENOMEM;
	rc = thmqi_client_producer_open(c->session, topic, &p, &c->dead->producer);
	if (rc) {
		free(c->dead);
		c->dead = NULL;
		return rc;
	}
	c->dead->producer->is_consumers = true;
	return 0;
}

static struct thmq_header text(const char *name, const char *value, size_t max)
{
	return (struct thmq_header){.name = name,
				    .value = value,
				    .value_len = (uint32_t)strnlen(value, max),
				    .type = THMQ_HEADER_TEXT};
}

static struct thmq_header number(const char *name, const int64_t *value)
{
	return (struct thmq_header){
		.name = name, .value = value, .value_len = 8, .type = THMQ_HEADER_INT};
}

/* Its own, but those of an earlier death. Return: how many there are then. */
static uint32_t own_headers(const struct thmq_message *m, struct thmq_header *to, uint32_t n)
{
	uint32_t cursor = 0;

	while (n < HEADERS_MAX &&
	       thmqi_header_next(m->headers, m->headers_len, &cursor, &to[n]) == 1)
		n += strncmp(to[n].name, PREFIX, sizeof(PREFIX) - 1) != 0;
	return n;
}

int thmqi_dead_put(struct thmq_consumer *c, const struct thmq_message *m, uint32_t deliveries,
		   const char *reason)
{
	const int64_t partition = m->partition, offset = (int64_t)m->offset, times = deliveries;
	struct dead_letters *dead = c->dead;
	struct thmq_header h[HEADERS_MAX];
	struct thmq_message_opts o = {
		.size = sizeof(o), .key = m->key, .key_len = m->key_len, .headers = h};
	char tag[THMQ_TAG_MAX + 1];
	int64_t seq;

	if (dead->tail - dead->head == OUT_MAX)
		thmqi_dead_tend(c);
	if (dead->tail - dead->head == OUT_MAX)
		return -EAGAIN;
	if (m->tag_len) {
		memcpy(tag, m->tag, m->tag_len);
		tag[m->tag_len] = 0;
		o.tag = tag;
	}
	h[0] = text(PREFIX "topic", c->topic, sizeof(c->topic));
	h[1] = text(PREFIX "group", c->group, sizeof(c->group));
	h[2] = text(PREFIX "reason", reason ? reason : "", REASON_MAX);
	h[3] = number(PREFIX "partition", &partition);
	h[4] = number(PREFIX "offset", &offset);
	h[5] = number(PREFIX "deliveries", &times);
	o.header_count = own_headers(m, h, OURS);
	seq = thmqi_client_send(dead->producer, m->data, m->len, &o);
	if ((seq == -E2BIG || seq == -EMSGSIZE) &&
	    o.header_count > OURS) { /* it is worth more without them than lost */
		o.header_count = OURS;
		seq = thmqi_client_send(dead->producer, m->data, m->len, &o);
	}
	if (seq < 0)
		return (int)seq;
	dead->out[dead->tail % OUT_MAX].offset = m->offset;
	dead->out[dead->tail % OUT_MAX].last = thmqi_shared_last(m);
	dead->out[dead->tail % OUT_MAX].seq = (uint64_t)seq;
	dead->out[dead->tail % OUT_MAX].partition = m->partition;
	dead->out[dead->tail++ % OUT_MAX].deliveries = deliveries;
	return 0;
}

static void tell(struct thmq_consumer *c, uint32_t partition, uint64_t offset, uint32_t deliveries)
{
	const struct thmq_event e = {.type = THMQ_EVENT_DEAD_LETTER,
				     .consumer = c,
				     .cookie = c->opts.cookie,
				     .partition = partition,
				     .offset = offset,
				     .count = deliveries};

	thmqi_session_event(c->session, &e);
}

void thmqi_dead_tend(struct thmq_consumer *c)
{
	struct dead_letters *dead = c->dead;
	int64_t mark;
	bool failed;

	if (dead->head == dead->tail)
		return;
	mark = thmqi_client_watermark(dead->producer);
	/* settled is stored, or refused: which of them is not known, then they all come again */
	failed = dead->producer->failed != dead->failed;
	for (; dead->head != dead->tail && (int64_t)dead->out[dead->head % OUT_MAX].seq <= mark;
	     dead->head++) {
		uint32_t i = dead->head % OUT_MAX, partition = dead->out[i].partition;
		uint64_t offset = dead->out[i].offset;
		int rc = failed ? thmqi_shared_put_off(c, partition, offset, dead->out[i].last,
						       RETRY_NS)
				: thmqi_shared_say_done(c, partition, offset, dead->out[i].last);

		if (rc == -EAGAIN && !failed)
			return; /* with the next call */
		if (!failed && !rc)
			tell(c, partition, offset, dead->out[i].deliveries);
	}
	if (dead->head == dead->tail || failed)
		dead->failed = dead->producer->failed;
}

bool thmqi_dead_is_out(const struct thmq_consumer *c)
{
	return c->dead->head != c->dead->tail;
}

static bool is_empty(void *arg)
{
	struct thmq_consumer *c = arg;

	return c->dead->head == c->dead->tail;
}

static bool is_settled(void *arg)
{
	const struct dead_letters *dead = ((struct thmq_consumer *)arg)->dead;

	return dead->producer->watermark >= dead->out[(dead->tail - 1) % OUT_MAX].seq;
}

int thmqi_dead_flush(struct thmq_consumer *c, uint64_t timeout_ns)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns);
	int rc = 0;

	thmqi_dead_tend(c);
	while (!rc && !is_empty(c) && !s->dead) {
		thmqi_dead_tend(c);
		if (is_empty(c))
			break;
		if (!is_settled(c))
			rc = thmqi_session_block(
				s, is_empty, c,
				THMQI_MIN(deadline, thmqi_session_deadline(s, 1000000)));
		else
			rc = thmqi_session_block(
				s, is_empty, c,
				THMQI_MIN(deadline, thmqi_session_deadline(s, 100000)));
		if (rc == -ETIMEDOUT && thmqi_session_deadline(s, 0) < deadline)
			rc = 0;
	}
	return s->dead ? s->dead : rc;
}

void thmqi_dead_close(struct thmq_consumer *c)
{
	if (!c->dead)
		return;
	thmqi_client_producer_close(c->dead->producer, 0);
	free(c->dead);
	c->dead = NULL;
}
