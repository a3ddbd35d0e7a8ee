/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits in one thread under virtual time on a simulated disk, from one seed: a topic, or everybody, may have so many messages or bytes a second, in and
 * out; sessions come and go, the topic's limits are altered, the broker closes or its power is cut. The checker has a bucket of its own for each limit:
 * what is taken in and handed out over any time is no more than that allows, a tenth of a second's worth and one run beyond it. In each life of
 * the broker anew, and no life gives more. Nothing is lost, and nobody waits much longer than the limit says.
 *
 * usage: limits_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

#define USERS 2u
#define BURST_S 0.1
#define RUN_MAX 24u /* messages that are sent together */
#define LEN_MAX 600u
#define MESSAGES_MAX 3000u
#define STEP_NS (3 * MS)

/* So many a second: what was taken is paid for with time. */
struct bucket {
	double per_s; /* 0: no limit */
	double paid_s; /* when all of it will be */
};

struct direction {
	struct bucket messages[2], bytes[2]; /* of the topic, of everybody */
};

struct user {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint64_t sent, taken; /* by this producer: that the broker took */
	uint32_t lens[MESSAGES_MAX];
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *boss;
	struct user users[USERS];
	struct direction in, out;
	struct thmq_limits topic, everybody;
	uint64_t sent;
};

#include "lives.h"

static uint32_t waits; /* events of that kind, in all seeds */

static double seconds(const struct world *w)
{
	return (double)thmqi_disk_sim_now(w->sim) / 1e9;
}

/* ------------------------------------------------------------------- checker */

/* False: more than the limit, over some time that ends now. @run: the most of one run. */
static bool take(struct bucket *b, double now, double n, double run)
{
	double from;

	if (b->per_s == 0)
		return true;
	from = b->paid_s > now - BURST_S ? b->paid_s : now - BURST_S;
	b->paid_s = from + n / b->per_s;
	/* it was taken at some moment since the last look: not later than now */
	return b->paid_s <= now + (run + 1) / b->per_s + 1e-6;
}

static int count(struct world *w, struct direction *d, uint32_t n, uint64_t bytes)
{
	double now = seconds(w);
	uint32_t i;

	for (i = 0; i < 2; i++) {
		CHECK(w, take(&d->messages[i], now, n, RUN_MAX));
		CHECK(w, take(&d->bytes[i], now, (double)bytes, RUN_MAX * LEN_MAX));
	}
	return 0;
}

static void restart_bucket(struct bucket *b, uint64_t per_s)
{
	*b = (struct bucket){.per_s = (double)per_s};
}

/* A life of the broker, or other limits: what was taken before is not owed any more. */
static void restart(struct world *w, bool all)
{
	const struct thmq_limits *l[2] = {&w->topic, &w->everybody};
	uint32_t i;

	for (i = 0; i < (all ? 2 : 1); i++) {
		restart_bucket(&w->in.messages[i], l[i]->produce_messages);
		restart_bucket(&w->in.bytes[i], l[i]->produce_bytes);
		restart_bucket(&w->out.messages[i], l[i]->consume_messages);
		restart_bucket(&w->out.bytes[i], l[i]->consume_bytes);
	}
}

/* What a message costs: its payload, and nothing that it has not. */
static void choose(struct world *w, struct thmq_limits *l)
{
	*l = (struct thmq_limits){.size = sizeof(*l)};
	if (below(w, 2))
		l->produce_messages = 200 + below(w, 2000);
	if (below(w, 3) == 0)
		l->produce_bytes = 100000 + below(w, 500000);
	if (below(w, 2))
		l->consume_messages = 200 + below(w, 2000);
	if (below(w, 3) == 0)
		l->consume_bytes = 100000 + below(w, 500000);
}

/* ------------------------------------------------------------------- life */

static int come(struct world *w, struct user *u)
{
	at = "come";
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &u->session) == 0);
	/* an ack of one in memory says when the broker took it */
	CHECK(w, thmq_producer_open(u->session, "t", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &u->producer) == 0);
	CHECK(w, thmq_consumer_open(u->session, "t", "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 64), &u->consumer) == 0);
	u->sent = u->taken = 0;
	return 0;
}

/* What was sent and not taken is still counted when it is: all is taken before anybody goes. */
static int go(struct world *w, struct user *u)
{
	at = "go";
	CHECK(w, thmq_session_close(u->session, 100 * SECOND) == 0);
	u->session = NULL;
	return 0;
}

static int open_all(struct world *w)
{
	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(w->sim), &w->env) == 0);
	choose(w, &w->everybody);
	CHECK(w, thmq_broker_open(w->env,
				  THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
						   .cache_bytes = 1u << 20, .client_limits = &w->everybody),
				  &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &w->boss) == 0);
	CHECK(w, thmq_topic_create(w->boss, "t",
				   THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .visible_at = THMQ_DURABILITY_MEMORY, .limits = &w->topic)) == 0);
	restart(w, true);
	for (uint32_t i = 0; i < USERS; i++)
		if (come(w, &w->users[i]))
			return -1;
	return 0;
}

static int send_some(struct world *w, struct user *u)
{
	static const char bytes[LEN_MAX];
	uint32_t n = (uint32_t)below(w, RUN_MAX), len;
	int64_t rc;

	at = "send";
	if (u->taken != u->sent) /* so that no run is larger than that */
		return 0;
	while (n-- && w->sent < MESSAGES_MAX) {
		len = 1 + (uint32_t)below(w, LEN_MAX);
		rc = thmq_send(u->producer, bytes, len, NULL);
		if (rc == -EAGAIN)
			break;
		CHECK(w, rc == (int64_t)u->sent + 1);
		u->lens[u->sent++] = len;
		w->sent++;
	}
	return 0;
}

static int look(struct world *w, struct user *u)
{
	struct thmq_message m[64];
	uint64_t bytes = 0, mark;
	struct thmq_event e;
	int n, i;

	at = "look";
	mark = (uint64_t)thmq_watermark(u->producer);
	CHECK(w, mark >= u->taken && mark <= u->sent);
	n = (int)(mark - u->taken);
	while (u->taken < mark)
		bytes += u->lens[u->taken++];
	if (n && count(w, &w->in, (uint32_t)n, bytes))
		return -1;
	n = thmq_fetch(u->consumer, m, 64);
	CHECK(w, n >= 0);
	for (bytes = 0, i = 0; i < n; i++) {
		bytes += m[i].len;
		CHECK(w, thmq_ack(u->consumer, &m[i]) == 0);
	}
	CHECK(w, thmq_release(u->consumer, m, (uint32_t)n) == 0);
	if (n && count(w, &w->out, (uint32_t)n, bytes))
		return -1;
	while (thmq_events(u->session, &e, 1) == 1) {
		CHECK(w, e.type == THMQ_EVENT_LIMITED || e.type == THMQ_EVENT_ASSIGNED || e.type == THMQ_EVENT_SETTLED ||
				 e.type == THMQ_EVENT_OFFSETRANGE);
		CHECK(w, e.type != THMQ_EVENT_LIMITED || e.count > 0);
		waits += e.type == THMQ_EVENT_LIMITED;
	}
	return 0;
}

static int alter(struct world *w)
{
	uint32_t i;

	at = "alter";
	choose(w, &w->topic);
	CHECK(w, thmq_topic_alter(w->boss, "t", THMQ_TOPIC_OPTS(.limits = &w->topic), THMQ_ALTER_LIMITS) == 0);
	/* what was taken meanwhile was so by the old ones or the new ones */
	w->in.messages[0].per_s = w->in.bytes[0].per_s = w->out.messages[0].per_s = w->out.bytes[0].per_s = 0;
	for (i = 0; i < USERS; i++)
		if (look(w, &w->users[i]))
			return -1;
	restart(w, false);
	return 0;
}

static int step(struct world *w, bool sends)
{
	uint32_t i;

	for (i = 0; i < USERS; i++) {
		if (sends && below(w, 2) && send_some(w, &w->users[i]))
			return -1;
		if (look(w, &w->users[i]))
			return -1;
	}
	thmq_poll(w->env, 1 + below(w, STEP_NS));
	return 0;
}

/* The slowest of what limits it. */
static double slowest(const struct world *w)
{
	double rate = 1e9;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		const struct thmq_limits *l = i ? &w->everybody : &w->topic;
		const double rates[4] = {(double)l->produce_messages, (double)l->consume_messages, (double)l->produce_bytes / (LEN_MAX + 64),
					 (double)l->consume_bytes / (LEN_MAX + 64)};

		for (uint32_t k = 0; k < 4; k++)
			if (rates[k] > 0 && rates[k] < rate)
				rate = rates[k];
	}
	return rate;
}

/* All that was taken in comes, and not much later than the limits say. */
static int drain(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	double begin = seconds(w), longest = 2 + 1.2 * (double)w->sent / slowest(w);
	uint32_t round = 0;

	do {
		if (step(w, false))
			return -1;
		at = "drain";
		if (round++ % 64 == 0) {
			CHECK(w, thmq_partition_describe(w->boss, "t", 0, "g", &info) == 0);
			CHECK(w, seconds(w) - begin < longest);
		}
	} while (w->users[0].taken != w->users[0].sent || w->users[1].taken != w->users[1].sent || info.lag || round % 64 != 1);
	return 0;
}

static int life(struct world *w, bool last)
{
	uint32_t steps = 50 + (uint32_t)below(w, 600), i;

	if (open_all(w))
		return -1;
	for (i = 0; i < steps; i++) {
		if (step(w, true))
			return -1;
		if (below(w, 300) == 0 && alter(w))
			return -1;
		if (below(w, 150) == 0) {
			struct user *u = &w->users[below(w, USERS)];

			if (u->taken == u->sent && (go(w, u) || come(w, u)))
				return -1;
		}
	}
	if (last && drain(w))
		return -1;
	at = "close";
	if (last || below(w, 3) == 0) {
		CHECK(w, thmq_env_close(w->env, 100 * SECOND) == 0 || !last);
		return 0;
	}
	power_cut(w);
	return 0;
}

static void begin(struct world *w)
{
	choose(w, &w->topic);
}

static int run(uint64_t seed)
{
	return live(seed, 1, 4, begin, life, NULL);
}

int main(int argc, char **argv)
{
	uint64_t failed, seeds = each_seed(argc, argv, getenv("THMQ_TEST_SMALL") ? 20 : 40, 5000, run, &failed);

	printf("%u times limited\n", waits);
	return failed != 0 || (seeds >= 20 && !waits);
}
