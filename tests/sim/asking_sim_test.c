/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and replies in one thread under virtual time, from one seed: sessions that ask and sessions that answer are joined to a broker by a transport that
 * resets, loses, delays and cuts into pieces; the broker's power is cut at any moment, those who answer go and come back. Some questions are never answered, some twice,
 * some too late. The checker knows each request that is out: an answer is to a question that this asker has asked, the right one, and comes once, before that has expired; each
 * request comes to its end, answered or expired, in its time. A call ends as its request does.
 *
 * usage: asking_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "pairs.h"
#include "seeds.h"

#define ASKERS 2u
#define ANSWERERS 2u
#define REQUESTS_MAX 600u /* of an asker */
#define HELD_MAX 32u
#define HELD_NS (2 * SECOND)

enum end { OUT, ANSWERED, EXPIRED };

struct request {
	int64_t id;
	uint64_t asked_ns, timeout_ns;
	enum end end;
};

/* What a question and its answer hold. */
struct body {
	uint32_t asker, number;
	uint64_t chance; /* of this seed, asker and number */
};

struct asker {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct request requests[REQUESTS_MAX];
	uint32_t count;
};

struct held {
	struct thmq_message m;
	uint64_t until_ns;
};

struct answerer {
	struct thmq_session *session;
	struct thmq_consumer *consumer;
	struct held held[HELD_MAX];
	uint32_t count;
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_fault *fault;
	struct pairs pairs;
	struct asker askers[ASKERS];
	struct answerer answerers[ANSWERERS];
};

static uint32_t answered, expired, twice, late, broken; /* of all seeds */

static uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->prng, n);
}

static uint64_t now_ns(const struct world *w)
{
	return thmqi_disk_sim_now(w->sim);
}

static struct body body_of(const struct world *w, uint32_t asker, uint32_t number)
{
	return (struct body){asker, number, w->seed * 1000003 + asker * 7919 + number * 104729};
}

static int broker_up(struct world *w)
{
	at = "open";
	CHECK(w, thmq_broker_open(w->env,
				  THMQ_BROKER_OPTS(.data_dir = "data", .listen = "sim://", .shard_count = 2, .segment_bytes = 1u << 20,
						   .batch_bytes = 64u << 10, .cache_bytes = 1u << 20),
				  &w->broker) == 0);
	return 0;
}

static int broker_dies(struct world *w)
{
	bool cut = below(w, 4) != 0;

	at = "dies";
	if (cut)
		thmqi_disk_sim_crash(w->sim);
	thmq_broker_close(w->broker, cut ? 0 : 60 * SECOND);
	if (cut)
		thmqi_disk_sim_restart(w->sim);
	broken++;
	return broker_up(w);
}

static void trouble(struct world *w)
{
	struct thmq_fault_opts o = {.size = sizeof(o), .seed = thmqi_prng_next(&w->prng)};

	if (below(w, 2)) {
		o.reset_bytes_min = 1000;
		o.reset_bytes_max = 1000 + below(w, 50000);
	}
	o.lose_ppm = below(w, 3) ? 0 : (uint32_t)below(w, 10000);
	o.delay_ppm = (uint32_t)below(w, 500000);
	o.delay_ns = 1 + below(w, 5 * MS);
	o.short_ppm = (uint32_t)below(w, 500000);
	thmq_fault_set(w->fault, &o);
}

/* ------------------------------------------------------------------ who asks */

static const struct thmq_session_opts lasting = {.size = sizeof(lasting), .reconnect_ns = 1000 * SECOND, .timeout_ns = 20 * SECOND};

static int asker_comes(struct world *w, struct asker *a)
{
	at = "asker";
	CHECK(w, thmq_connect(w->env, "sim://", &lasting, &a->session) == 0);
	CHECK(w, thmq_producer_open(a->session, "work", NULL, &a->producer) == 0);
	return 0;
}

static int check_answer(struct world *w, uint32_t i, const struct thmq_response *r, struct request *q)
{
	const struct body is = body_of(w, i, (uint32_t)(q - w->askers[i].requests));

	CHECK(w, (int64_t)r->request == q->id && r->message.len == sizeof(is)); /* never another's */
	CHECK(w, memcmp(r->message.data, &is, sizeof(is)) == 0);
	CHECK(w, q->end == OUT); /* once, and not when that was over */
	q->end = ANSWERED;
	answered++;
	return 0;
}

static int ask(struct world *w, uint32_t i)
{
	struct asker *a = &w->askers[i];
	struct request *q = &a->requests[a->count];
	const struct body b = body_of(w, i, a->count);
	const uint64_t timeout_ns = 1 + (below(w, 2) ? below(w, 50 * MS) : below(w, 20 * SECOND));
	struct thmq_response r;
	int64_t rc;

	at = "ask";
	if (a->count == REQUESTS_MAX)
		return 0;
	*q = (struct request){.asked_ns = now_ns(w), .timeout_ns = timeout_ns};
	if (below(w, 20)) {
		rc = thmq_request(a->producer, &b, sizeof(b), NULL, timeout_ns, q);
		/* while its topic is made a connection may break, and break each time before that is done */
		CHECK(w, rc > 0 || rc == -EAGAIN || rc == -ECONNRESET || rc == -ETIMEDOUT);
		if (rc < 0)
			return 0;
		q->id = rc;
		q->asked_ns = now_ns(w); /* it may have made its topic first */
		a->count++;
		return 0;
	}
	/* nobody answers while it waits, but of what was answered before */
	a->count++;
	rc = thmq_call(a->producer, &b, sizeof(b), NULL, timeout_ns, &r);
	CHECK(w, rc == 0 || rc == -ETIMEDOUT || rc == -ECONNRESET);
	q->end = EXPIRED;
	if (rc)
		return 0;
	q->id = (int64_t)r.request;
	q->end = OUT;
	if (check_answer(w, i, &r, q))
		return -1;
	CHECK(w, thmq_response_release(a->session, &r, 1) == 0);
	return 0;
}

static int take_answers(struct world *w, uint32_t i)
{
	struct asker *a = &w->askers[i];
	struct thmq_response r[8];
	int n, k;

	at = "answers";
	while ((n = thmq_responses(a->session, r, 8)) > 0) {
		for (k = 0; k < n; k++)
			if (check_answer(w, i, &r[k], r[k].cookie))
				return -1;
		CHECK(w, thmq_response_release(a->session, r, (uint32_t)n) == 0);
	}
	CHECK(w, n == 0 || n == -EAGAIN);
	return 0;
}

static int take_events(struct world *w, uint32_t i)
{
	struct asker *a = &w->askers[i];
	struct thmq_event e;
	struct request *q;

	at = "events";
	while (thmq_events(a->session, &e, 1) == 1) {

		CHECK(w, e.type == THMQ_EVENT_SETTLED || e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED ||
				 e.type == THMQ_EVENT_REQUEST_EXPIRED);
		if (e.type != THMQ_EVENT_REQUEST_EXPIRED)
			continue;
		q = e.cookie;
		CHECK(w, q && q->id == (int64_t)e.sequence && q->end == OUT); /* once, and not of one that was answered */
		CHECK(w, e.error == -ECONNRESET || now_ns(w) >= q->asked_ns + q->timeout_ns);
		q->end = EXPIRED;
		expired++;
	}
	return 0;
}

/* ---------------------------------------------------------------- who answers */

static int answerer_comes(struct world *w, struct answerer *s)
{
	at = "answerer";
	s->count = 0;
	thmq_fault_set(w->fault, NULL); /* what is lost of a first handshake is waited for */
	CHECK(w, thmq_connect(w->env, "sim://", &lasting, &s->session) == 0);
	CHECK(w, thmq_consumer_open(s->session, "work", "servers",
				    THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .start = THMQ_START_BEGIN, .invisible_ns = 5 * SECOND), &s->consumer) == 0);
	return 0;
}

/* The question is the answer. */
static int reply(struct world *w, struct answerer *s, const struct thmq_message *m)
{
	int64_t rc = thmq_reply(s->session, m, m->data, m->len, NULL);

	at = "reply";
	/* the asker's topic went with what was in memory, or it makes another one */
	CHECK(w, rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOTOPIC || rc == -ECONNRESET || rc == -ETIMEDOUT);
	return 0;
}

static int over(struct world *w, struct answerer *s, uint32_t k)
{
	struct thmq_message *m = &s->held[k].m;
	int rc = thmq_ack(s->consumer, m);

	at = "over";
	CHECK(w, rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED || rc == -EINVAL);
	CHECK(w, thmq_release(s->consumer, m, 1) == 0);
	s->held[k] = s->held[--s->count];
	return 0;
}

static int answer_some(struct world *w, struct answerer *s)
{
	struct thmq_message m[4];
	struct thmq_event e;
	uint32_t k;
	int n, i;

	at = "questions";
	n = thmq_fetch(s->consumer, m, THMQI_MIN(4u, HELD_MAX - s->count));
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(w, m[i].len == sizeof(struct body));
		s->held[s->count++] = (struct held){m[i], now_ns(w) + (below(w, 4) ? 0 : below(w, HELD_NS))};
	}
	for (k = s->count; k-- > 0;) {
		if (s->held[k].until_ns > now_ns(w))
			continue;
		if (s->held[k].until_ns)
			late++;
		if (below(w, 10) && reply(w, s, &s->held[k].m)) /* else never */
			return -1;
		if (below(w, 10) == 0) {
			twice++;
			if (reply(w, s, &s->held[k].m))
				return -1;
		}
		if (below(w, 10) && over(w, s, k)) /* else once more */
			return -1;
	}
	while (thmq_events(s->session, &e, 1) == 1)
		;
	return 0;
}

/* ----------------------------------------------------------------------- world */

static int begin(struct world *w)
{
	struct thmq_session *s;
	uint32_t i;

	at = "begin";
	CHECK(w, thmqi_disk_sim_open(w->seed, NULL, &w->sim) == 0);
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(w->sim), &w->env) == 0);
	CHECK(w, pairs_register(&w->pairs, w->env) == 0);
	CHECK(w, thmq_fault_open(w->env, NULL, &w->fault) == 0);
	if (broker_up(w))
		return -1;
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &s) == 0);
	CHECK(w, thmq_topic_create(s, "work", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(w, thmq_session_close(s, SECOND) == 0);
	for (i = 0; i < ASKERS; i++)
		if (asker_comes(w, &w->askers[i]))
			return -1;
	for (i = 0; i < ANSWERERS; i++)
		if (answerer_comes(w, &w->answerers[i]))
			return -1;
	return 0;
}

static int step(struct world *w, bool asks)
{
	uint32_t i;

	for (i = 0; i < ASKERS; i++) {
		if (asks && below(w, 3) == 0 && ask(w, i))
			return -1;
		if (take_answers(w, i) || take_events(w, i))
			return -1;
	}
	for (i = 0; i < ANSWERERS; i++)
		if (answer_some(w, &w->answerers[i]))
			return -1;
	thmq_poll(w->env, below(w, 2) ? 0 : below(w, 8) ? below(w, 2 * MS) : below(w, 100 * MS));
	return 0;
}

static int chance(struct world *w)
{
	struct answerer *s = &w->answerers[below(w, ANSWERERS)];

	if (below(w, 100) == 0)
		return broker_dies(w);
	if (below(w, 100))
		return 0;
	at = "answerer goes";
	thmq_session_close(s->session, below(w, 2) * 100 * SECOND);
	return answerer_comes(w, s);
}

/* Each request has come to its end; those who wait wait no more. */
static int end(struct world *w)
{
	uint64_t begin = now_ns(w), i, out;

	thmq_fault_set(w->fault, NULL);
	do {
		if (step(w, false))
			return -1;
		for (out = 0, i = 0; i < ASKERS; i++)
			for (uint32_t k = 0; k < w->askers[i].count; k++)
				out += w->askers[i].requests[k].end == OUT;
	} while (out && now_ns(w) - begin < 60 * SECOND);
	at = "end";
	CHECK(w, !out);
	for (i = 0; i < ASKERS; i++)
		CHECK(w, thmq_session_close(w->askers[i].session, 100 * SECOND) == 0);
	for (i = 0; i < ANSWERERS; i++)
		thmq_session_close(w->answerers[i].session, 100 * SECOND);
	CHECK(w, thmq_env_close(w->env, 100 * SECOND) == 0);
	return 0;
}

static int run(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i, steps;
	int rc;

	if (!w)
		return -1;
	w->seed = seed;
	thmqi_prng_seed(&w->prng, seed);
	rc = begin(w);
	steps = 100 + (uint32_t)below(w, 400);
	for (i = 0; i < steps && !rc; i++) {
		if (i % 100 == 50)
			trouble(w);
		rc = step(w, true);
		if (!rc)
			rc = chance(w);
	}
	if (!rc)
		rc = end(w);
	thmqi_disk_sim_close(w->sim);
	free(w);
	return rc;
}

int main(int argc, char **argv)
{
	uint64_t failed, count = each_seed(argc, argv, getenv("THMQ_TEST_SMALL") ? 10 : 20, 3000, run, &failed);

	printf("%u answered (%u replies twice, %u late), %u expired, %u lives\n", answered, twice, late, expired, broken);
	return failed != 0 || (count >= 10 && (!answered || !expired || !broken));
}
