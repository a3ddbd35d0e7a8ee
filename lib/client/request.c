/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - who asks: requests of a session that are not answered yet, the topic that answers come by, and their time-outs. All of it is
 * made with the first request. The topic is temporary, and a group of one member keeps it alive: where the session dies the broker
 * deletes it, where it comes back in time it is still there. Answers are made in reply.c.
 */
#include <stdio.h>

#include "wire/attributes.h"

#include "asking.h"
#include "internal.h"

#define COUNT THMQ_REQUESTS_MAX
#define TAKE_MAX 32u
#define TRIES 64u /* places that are looked at for a free one */
#define LOOK_EVERY 16u /* rounds of a session that always has something to do */
#define SILENCE_NS 60000000000ull
#define DAY_NS 86400000000000ull

enum place_state { PLACE_FREE, PLACE_OUT, PLACE_ANSWERED };

/* A request, at its number's place. */
struct place {
	uint64_t id;
	void *cookie;
	uint64_t deadline_ns;
	uint32_t heap_at; /* OUT: where its deadline is */
	uint16_t state;   /* enum place_state */
	bool called;      /* thmq_call() waits for it: its answer is not among the ready ones */
	struct thmq_message answer; /* ANSWERED */
};

struct asking {
	struct thmq_session *session;   /* has in requests_out how many places are out */
	struct thmq_consumer *consumer; /* NULL: its topic is to be made (again) */
	uint64_t last_id;
	uint64_t alarm_ns; /* the session's thread is woken then */
	bool busy;         /* a call of the consumer's is under way */
	uint32_t passed;   /* rounds that had something to do, since the last look at the clock */
	uint32_t ready_head, ready_tail; /* free running */
	char topic[64];
	uint32_t heap[COUNT];  /* places, the next that is due first */
	uint32_t ready[COUNT]; /* answered ones, as they came */
	struct place places[COUNT];
};

static struct place *place_of(struct asking *a, uint64_t id)
{
	return &a->places[id % COUNT];
}

/* -------------------------------------------------------------------- deadlines */

static uint64_t due(const struct asking *a, uint32_t i)
{
	return a->places[a->heap[i]].deadline_ns;
}

static void heap_set(struct asking *a, uint32_t i, uint32_t place)
{
	a->heap[i] = place;
	a->places[place].heap_at = i;
}

/* What is at @i goes to where it belongs. */
static void heap_settle(struct asking *a, uint32_t i)
{
	uint32_t place = a->heap[i], child;
	uint64_t at = a->places[place].deadline_ns;

	for (; i && at < due(a, (i - 1) / 2); i = (i - 1) / 2)
		heap_set(a, i, a->heap[(i - 1) / 2]);
	for (; (child = 2 * i + 1) < a->session->requests_out; i = child) {
		child += child + 1 < a->session->requests_out && due(a, child + 1) < due(a, child);
		if (at <= due(a, child))
			break;
		heap_set(a, i, a->heap[child]);
	}
	heap_set(a, i, place);
}

static void begin_out(struct asking *a, struct place *p)
{
	p->state = PLACE_OUT;
	a->heap[a->session->requests_out] = (uint32_t)(p - a->places);
	heap_settle(a, a->session->requests_out++);
}

static void end_out(struct asking *a, struct place *p)
{
	uint32_t i = p->heap_at;

	if (i != --a->session->requests_out) {
		a->heap[i] = a->heap[a->session->requests_out];
		heap_settle(a, i);
	}
}

/* ---------------------------------------------------------------------- answers */

static int64_t id_in(const struct thmq_message *m)
{
	struct thmq_header h;
	uint32_t cursor = 0;
	int64_t id;

	while (m->headers && thmqi_header_next(m->headers, m->headers_len, &cursor, &h) == 1) {
		if (strcmp(h.name, THMQ_REPLY_ID) != 0 || h.type != THMQ_HEADER_INT || h.value_len != sizeof(id))
			continue;
		memcpy(&id, h.value, sizeof(id));
		return id;
	}
	return 0;
}

/* What nobody waits for (any more) is dropped. */
static void take_one(struct asking *a, struct thmq_message *m)
{
	int64_t id = id_in(m);
	struct place *p = place_of(a, (uint64_t)id);

	if (id <= 0 || p->id != (uint64_t)id || p->state != PLACE_OUT) {
		thmqi_client_release(a->consumer, m, 1);
		return;
	}
	end_out(a, p);
	p->state = PLACE_ANSWERED;
	p->answer = *m;
	if (p->called) /* which may never be looked at where an app calls only, and would run over */
		return;
	a->ready[a->ready_tail++ % COUNT] = (uint32_t)(p - a->places);
}

/* What has come. 0, also where the topic is gone: then it is made again. -ENOBUFS; -ESHUTDOWN */
static int take_in(struct thmq_session *s)
{
	struct thmq_message m[TAKE_MAX];
	struct asking *a = s->asking;
	int n = 0, i;

	if (!a->consumer || a->busy)
		return 0;
	a->busy = true;
	do {
		n = thmqi_client_fetch(a->consumer, m, TAKE_MAX);
		for (i = 0; i < n; i++)
			take_one(a, &m[i]);
	} while (n == (int)TAKE_MAX);
	a->busy = false;
	return n == -ENOBUFS || n == -ESHUTDOWN ? n : 0;
}

static void give(struct place *p, struct thmq_response *ret)
{
	*ret = (struct thmq_response){.request = p->id, .cookie = p->cookie, .message = p->answer};
	p->state = PLACE_FREE;
}

int thmqi_client_responses(struct thmq_session *s, struct thmq_response *ret_responses, uint32_t max)
{
	struct asking *a = s->asking;
	uint32_t n = 0;
	int rc;

	if (!a) {
		thmqi_session_process(s);
		return s->dead;
	}
	rc = take_in(s);
	while (n < max && a->ready_head != a->ready_tail) {
		struct place *p = &a->places[a->ready[a->ready_head++ % COUNT]];

		give(p, &ret_responses[n++]);
	}
	return n ? (int)n : rc;
}

int thmqi_client_response_release(struct thmq_session *s, struct thmq_response *responses, uint32_t count)
{
	uint32_t i;
	int rc;

	for (i = 0; i < count; i++) {
		if (!s->asking || !s->asking->consumer)
			return -EINVAL;
		rc = thmqi_client_release(s->asking->consumer, &responses[i].message, 1);
		if (rc)
			return rc;
	}
	return 0;
}

/* ------------------------------------------------------------------------- time */

static void expire(struct thmq_session *s, struct place *p)
{
	const struct thmq_event e = {.type = THMQ_EVENT_REQUEST_EXPIRED, .error = -ETIMEDOUT, .cookie = p->cookie, .sequence = p->id};

	end_out(s->asking, p);
	p->state = PLACE_FREE;
	thmqi_session_event(s, &e);
}

/* The clock is not looked at in each round of a session that is busy; one that finds nothing to do has the time. */
void thmqi_asking_tend(struct thmq_session *s, bool taken)
{
	struct asking *a = s->asking;
	uint64_t now;

	if (a->busy || (taken && ++a->passed < LOOK_EVERY))
		return;
	a->passed = 0;
	now = thmqi_session_now(s);
	if (due(a, 0) > now)
		return;
	if (a->consumer && a->consumer->first) /* what is there is not late */
		take_in(s);
	while (a->session->requests_out && due(a, 0) <= now)
		expire(s, &a->places[a->heap[0]]);
}

uint64_t thmqi_asking_nap_ns(const struct thmq_session *s)
{
	uint64_t now = thmqi_session_now((struct thmq_session *)s);

	if (!s->requests_out)
		return UINT64_MAX;
	return due(s->asking, 0) > now ? due(s->asking, 0) - now : 1;
}

void thmqi_asking_arm(struct thmq_session *s)
{
	struct asking *a = s->asking;
	uint64_t now = thmqi_session_now(s);

	if (!a->session->requests_out || (a->alarm_ns > now && a->alarm_ns <= due(a, 0)))
		return;
	a->alarm_ns = due(a, 0);
	thmqi_alarm(s->links[THMQI_SHARD_META]->wire->core, s->waiter, a->alarm_ns);
}

/* ------------------------------------------------------------------- open, close */

/* A broker of several that keep the same data has logged topics only. */
static int make_topic(struct thmq_session *s, const char *name)
{
	struct thmq_topic_opts t = {
		.size = sizeof(t), .flags = THMQ_TOPIC_TEMPORARY | THMQ_TOPIC_VOLATILE, .partition_count = 1, .volatile_bytes = 4u << 20};
	int rc = thmqi_client_topic_create(s, name, &t);

	if (rc != -ENOTSUP)
		return rc;
	t.flags = THMQ_TOPIC_TEMPORARY;
	t.volatile_bytes = 0;
	t.visible_at = THMQ_DURABILITY_MEMORY;
	t.retention_ns = SILENCE_NS;
	return thmqi_client_topic_create(s, name, &t);
}

static int open_topic(struct thmq_session *s, struct asking *a)
{
	const struct thmq_consumer_opts o = {.size = sizeof(o),
					     .flags = THMQI_CONSUMER_HIDDEN,
					     .start = THMQ_START_BEGIN,
					     .session_timeout_ns = THMQI_MAX(s->opts.reconnect_ns, SILENCE_NS)};
	int rc;

	snprintf(a->topic, sizeof(a->topic), "thmq-reply.%016llx%016llx", (unsigned long long)thmqi_prng_next(&s->prng),
		 (unsigned long long)thmqi_prng_next(&s->prng));
	rc = make_topic(s, a->topic);
	if (rc)
		return rc;
	return thmqi_client_consumer_open(s, a->topic, "asker", &o, &a->consumer); /* where that failed nobody reads the topic, and it goes by itself */
}

/* What was answered, and nobody has taken, goes with the consumer. */
static void end_consumer(struct thmq_session *s, struct asking *a)
{
	struct thmq_event e = {.type = THMQ_EVENT_REQUEST_EXPIRED, .error = -ECONNRESET};

	for (; a->ready_head != a->ready_tail; a->ready_head++) {
		struct place *p = &a->places[a->ready[a->ready_head % COUNT]];

		p->state = PLACE_FREE;
		e.cookie = p->cookie;
		e.sequence = p->id;
		thmqi_session_event(s, &e);
	}
	a->busy = true;
	thmqi_client_consumer_close(a->consumer, 0);
	a->busy = false;
	a->consumer = NULL;
}

/* The broker may have forgotten what was in memory. */
static int ready(struct thmq_session *s)
{
	struct asking *a = s->asking;

	if (!a) {
		a = calloc(1, sizeof(*a)); /* most of it is never touched */
		if (!a)
			return thmqi_fail(-ENOMEM, "no memory for requests");
		a->session = s;
		a->last_id = thmqi_prng_next(&s->prng) >> 16; /* an answer to an earlier session's is not ours */
		s->asking = a;
	}
	if (a->consumer && a->consumer->error)
		end_consumer(s, a);
	return a->consumer ? 0 : open_topic(s, a);
}

static bool is_deleted(void *arg)
{
	const struct client_link *l = arg;

	return l->replied || l->dead;
}

/* As far as it goes: else the broker does it, half a minute later. */
static void delete_topic(struct thmq_session *s, const char *topic, uint64_t deadline)
{
	struct thmqi_request r = {.op = THMQI_OP_TOPIC_DELETE};
	struct client_link *meta = s->links[THMQI_SHARD_META];

	if (s->dead || meta->away || !is_deleted(meta))
		return;
	snprintf(r.name, sizeof(r.name), "%s", topic);
	thmqi_session_request(s, meta, &r, THMQI_MIN(deadline, thmqi_session_deadline(s, 1000000000u)), NULL);
}

void thmqi_asking_close(struct thmq_session *s, uint64_t deadline)
{
	struct asking *a = s->asking;
	uint64_t now = thmqi_session_now(s);

	if (!a)
		return;
	a->busy = true;
	if (a->consumer && (s->dead || !thmqi_session_stuck(s)))
		thmqi_client_consumer_close(a->consumer, deadline > now ? THMQI_MIN(deadline - now, (uint64_t)1000000000u) : 0);
	if (a->consumer && deadline > now)
		delete_topic(s, a->topic, deadline);
	s->asking = NULL;
	s->requests_out = 0;
	free(a);
}

/* -------------------------------------------------------------------------- ask */

static struct place *free_place(struct asking *a)
{
	uint32_t i;

	for (i = 0; i < TRIES; i++)
		if (place_of(a, ++a->last_id)->state == PLACE_FREE)
			return place_of(a, a->last_id);
	return NULL;
}

int64_t thmqi_client_request(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
			     uint64_t timeout_ns, void *cookie)
{
	struct thmq_session *s = producer->session;
	struct thmq_header h[ASKING_HEADERS_MAX + 2];
	struct thmq_message_opts o = {.size = sizeof(o)};
	struct place *p;
	int64_t id, rc;

	if (opts)
		o = *opts;
	if (o.header_count > ASKING_HEADERS_MAX)
		return -E2BIG;
	rc = ready(s);
	if (rc)
		return rc;
	p = free_place(s->asking);
	if (!p)
		return -EAGAIN;
	id = (int64_t)s->asking->last_id;
	h[0] = (struct thmq_header){
		.name = THMQ_REPLY_TOPIC, .value = s->asking->topic, .value_len = (uint32_t)strlen(s->asking->topic), .type = THMQ_HEADER_TEXT};
	h[1] = (struct thmq_header){.name = THMQ_REPLY_ID, .value = &id, .value_len = sizeof(id), .type = THMQ_HEADER_INT};
	if (o.header_count)
		memcpy(h + 2, o.headers, o.header_count * sizeof(*h));
	o.headers = h;
	o.header_count += 2;
	rc = thmqi_client_send(producer, data, len, &o);
	if (rc < 0)
		return rc;
	p->id = (uint64_t)id;
	p->cookie = cookie;
	p->called = false;
	p->deadline_ns = thmqi_session_deadline(s, THMQI_MIN(timeout_ns, DAY_NS));
	begin_out(s->asking, p);
	return id;
}

struct call {
	struct thmq_session *session;
	struct thmq_producer *producer;
	const void *data;
	uint32_t len;
	const struct thmq_message_opts *opts;
	uint64_t timeout_ns;
	int64_t id; /* or an error */
};

static bool is_asked(void *arg)
{
	struct call *c = arg;

	c->id = thmqi_client_request(c->producer, c->data, c->len, c->opts, c->timeout_ns, NULL);
	if (c->id > 0)
		place_of(c->session->asking, (uint64_t)c->id)->called = true;
	return c->id != -EAGAIN;
}

static bool is_answered(void *arg)
{
	struct call *c = arg;
	struct place *p = place_of(c->session->asking, (uint64_t)c->id);
	int rc = p->state == PLACE_OUT ? take_in(c->session) : 0;

	return rc || p->id != (uint64_t)c->id || p->state != PLACE_OUT;
}

int thmqi_client_call(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
		      uint64_t timeout_ns, struct thmq_response *ret_response)
{
	struct thmq_session *s = producer->session;
	struct call c = {.session = s, .producer = producer, .data = data, .len = len, .opts = opts};
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns);
	struct place *p;
	int rc;

	c.timeout_ns = DAY_NS; /* it ends here, without an event */
	rc = is_asked(&c) ? 0 : thmqi_session_block(s, is_asked, &c, deadline);
	rc = rc ? rc : c.id < 0 ? (int)c.id : 0;
	if (rc)
		return thmqi_fail(rc, "call: the question could not be sent: %s", thmqi_session_why(rc));
	p = place_of(s->asking, (uint64_t)c.id);
	rc = is_answered(&c) ? 0 : thmqi_session_block(s, is_answered, &c, deadline);
	if (p->id == (uint64_t)c.id && p->state == PLACE_ANSWERED) {
		give(p, ret_response);
		return 0;
	}
	if (p->id == (uint64_t)c.id && p->state == PLACE_OUT) {
		end_out(s->asking, p);
		p->state = PLACE_FREE;
	}
	rc = rc ? rc : s->dead ? s->dead : -ENOBUFS;
	return thmqi_fail(rc, "call: %s", rc == -ETIMEDOUT ? "no answer came in time" : thmqi_session_why(rc));
}
