/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_sim_test.c - transactions over several topics and shards, in one thread under virtual time on a simulated disk whose power goes at any of its
 * operations. From one seed: sessions that send in transactions and beside them, consume and acknowledge in them, commit, abort, prepare, decide, leave some
 * open; readers beside. After each opening: of each transaction all is seen or nothing, as it was told; what its group has acknowledged goes with it; each
 * input was done once; what was seen once is there; nobody is held up by one that is over.
 *
 * usage: txn_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more. Then, of a few short lives, each is cut at every operation.
 */
#include <errno.h>
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

#define PLACES 7u /* partitions: of a, b, in */
#define IN 5u     /* the first one of in */
#define SESSIONS 2u
#define MANY_SHARDS 70u /* so many that no word of bits has them all */
#define OPEN_MAX 3u /* of a session */
#define TXNS_MAX 4000u
#define MESSAGES_MAX 20000u
#define INPUTS_MAX 4u /* fetched for one transaction */
#define ALL_AT_ONCE 64u
#define QUIET_NS (20 * MS) /* nothing more comes then */

enum fate {
	PLAIN, /* of no transaction */
	OPEN,
	COMMITTED,
	ABORTED,
	UNKNOWN,	/* its commit was not answered */
	PREPARED,
	MAYBE_PREPARED, /* or aborted */
};

struct model_txn {
	uint8_t fate;
	bool short_lived; /* its time may be over */
	bool half;        /* it was to be prepared: what is not known of it is asked for */
	uint32_t parts, seen; /* messages; of those in this look */
	uint64_t id;
	uint32_t input_count, inputs[INPUTS_MAX];
};

struct model_message {
	uint32_t txn; /* 0: none */
	bool certain; /* it was told, or seen */
	bool seen;    /* in this look */
	bool done;    /* of in: a transaction that was committed has done it */
};

struct place {
	const char *topic;
	uint32_t partition;
	uint32_t ids[MESSAGES_MAX];
	uint32_t count;
	uint32_t read; /* by the reader of this life: place of the next */
	uint32_t done; /* of in */
};

struct open_txn {
	struct thmq_txn *txn;
	uint32_t index;
	struct thmq_claim claim; /* made in it, not committed */
	struct thmq_producer *claim_of;
	bool consumes;
	uint64_t where[2]; /* of in: where it began, +1 */
};

struct client {
	struct thmq_session *session;
	struct thmq_producer *a, *b;
	struct open_txn open[OPEN_MAX];
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct client clients[SESSIONS];
	struct thmq_producer *in, *filler;
	struct thmq_consumer *group, *reader;
	uint32_t shards, steps;
	bool fills;
	struct place places[PLACES];
	struct model_txn txns[TXNS_MAX];
	struct model_message messages[MESSAGES_MAX];
	uint32_t txn_count, message_count;
	uint64_t commits, aborts, prepares, unknown_all, unknown_none, late;
};

/* What fails because the power has gone is no failure: 1 ends the life. */
#define DONE_OR_DOWN(w, x) \
	do { \
		if (!(x)) { \
			if (thmqi_disk_sim_is_down((w)->sim)) \
				return 1; \
			CHECK(w, !#x); \
		} \
	} while (0)

static uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->prng, n);
}

/* -------------------------------------------------------------------- begin */

static int open_all(struct world *w)
{
	uint32_t i;

	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(w->sim), &w->env) == 0);
	DONE_OR_DOWN(w, thmq_broker_open(w->env,
					 THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = w->shards, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
							  .cache_bytes = 1u << 20),
					 &w->broker) == 0);
	memset(w->clients, 0, sizeof(w->clients));
	for (i = 0; i < SESSIONS; i++)
		DONE_OR_DOWN(w, thmq_connect(w->env, "inproc://", NULL, &w->clients[i].session) == 0);
	DONE_OR_DOWN(w, thmq_topic_create(w->clients[0].session, "a", THMQ_TOPIC_OPTS(.partition_count = 3, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	DONE_OR_DOWN(w, thmq_topic_create(w->clients[0].session, "b", THMQ_TOPIC_OPTS(.partition_count = 2, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	DONE_OR_DOWN(w, thmq_topic_create(w->clients[0].session, "in", THMQ_TOPIC_OPTS(.partition_count = 2, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	DONE_OR_DOWN(w, thmq_topic_create(w->clients[0].session, "filler",
					  THMQ_TOPIC_OPTS(.partition_count = 4, .flags = THMQ_TOPIC_IF_ABSENT, .retention_bytes = 65536)) == 0);
	for (i = 0; i < SESSIONS; i++) {
		struct client *c = &w->clients[i];

		DONE_OR_DOWN(w, thmq_producer_open(c->session, "a", NULL, &c->a) == 0);
		DONE_OR_DOWN(w, thmq_producer_open(c->session, "b", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &c->b) == 0);
		DONE_OR_DOWN(w, thmq_txn_watch(c->session, "half") == 0);
	}
	DONE_OR_DOWN(w, thmq_producer_open(w->clients[0].session, "in", NULL, &w->in) == 0);
	DONE_OR_DOWN(w, thmq_producer_open(w->clients[0].session, "filler", NULL, &w->filler) == 0);
	return 0;
}

/* Behind the look at all that is there, so that they read what was not lost. */
static int open_consumers(struct world *w)
{
	struct thmq_session *s = w->clients[0].session;

	DONE_OR_DOWN(w, thmq_consumer_open(s, "in", "g", THMQ_CONSUMER_OPTS(.session_timeout_ns = 1000 * SECOND), &w->group) == 0);
	return 0;
}

/* --------------------------------------------------------------- one is over */

static int is_committed(struct world *w, uint32_t index)
{
	struct model_txn *t = &w->txns[index];
	uint32_t i;

	CHECK(w, t->fate != ABORTED);
	if (t->fate == COMMITTED)
		return 0;
	t->fate = COMMITTED;
	for (i = 0; i < t->input_count; i++) {
		CHECK(w, !w->messages[t->inputs[i]].done); /* exactly once */
		w->messages[t->inputs[i]].done = true;
	}
	return 0;
}

static int is_aborted(struct world *w, uint32_t index)
{
	CHECK(w, w->txns[index].fate != COMMITTED);
	w->txns[index].fate = ABORTED;
	return 0;
}

/* ------------------------------------------------------------------- reading */

static struct place *place_of(struct world *w, const char *topic, uint32_t partition)
{
	uint32_t i;

	for (i = 0; i < PLACES; i++)
		if (strcmp(w->places[i].topic, topic) == 0 && w->places[i].partition == partition)
			return &w->places[i];
	return NULL;
}

/* A message that a consumer got: in the order in which it was sent, of none that is not committed. */
static int take(struct world *w, const char *topic, const struct thmq_message *m, uint32_t *next)
{
	struct place *p = place_of(w, topic, m->partition);
	uint32_t id, k;

	CHECK(w, p && m->len >= 4);
	memcpy(&id, m->data, 4);
	CHECK(w, id < w->message_count);
	for (k = *next; k < p->count && p->ids[k] != id; k++)
		;
	CHECK(w, k < p->count); /* in order, once */
	*next = k + 1;
	w->messages[id].seen = w->messages[id].certain = true;
	if (!w->messages[id].txn)
		return 0;
	w->txns[w->messages[id].txn].seen++;
	if (w->txns[w->messages[id].txn].fate != UNKNOWN)
		CHECK(w, w->txns[w->messages[id].txn].fate == COMMITTED);
	return 0;
}

static int read_topic(struct world *w, const char *topic)
{
	struct thmq_consumer *c;
	struct thmq_message m[ALL_AT_ONCE];
	uint32_t next[PLACES] = {0};
	uint64_t until;
	int n, i;

	DONE_OR_DOWN(w, thmq_consumer_open(w->clients[1].session, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	until = thmqi_disk_sim_now(w->sim) + QUIET_NS;
	while (thmqi_disk_sim_now(w->sim) < until) {
		n = thmq_fetch(c, m, ALL_AT_ONCE);
		DONE_OR_DOWN(w, n >= 0);
		if (n == 0) {
			thmq_poll(w->env, MS);
			continue;
		}
		until = thmqi_disk_sim_now(w->sim) + QUIET_NS;
		for (i = 0; i < n; i++)
			if (take(w, topic, &m[i], &next[m[i].partition]))
				return -1;
		CHECK(w, thmq_release(c, m, (uint32_t)n) == 0);
	}
	thmq_consumer_close(c, SECOND);
	return thmqi_disk_sim_is_down(w->sim) ? 1 : 0;
}

/* Those that are prepared hold up what is behind them: somebody says what becomes of them. */
static int decide(struct world *w, uint32_t index, uint32_t what, uint32_t by)
{
	struct model_txn *t = &w->txns[index];
	bool maybe = t->fate == MAYBE_PREPARED || t->fate == UNKNOWN;
	int rc = thmq_txn_decide(w->clients[by].session, t->id, what, 5 * SECOND);

	at = "decide";
	if (rc == 0)
		return what == THMQ_TXN_COMMIT ? is_committed(w, index) : is_aborted(w, index);
	if (rc == -ECANCELED && maybe)
		return is_aborted(w, index);
	if (rc == -EALREADY && t->fate == UNKNOWN)
		return is_committed(w, index);
	DONE_OR_DOWN(w, rc == 0);
	return 1;
}

static int decide_all(struct world *w)
{
	uint32_t i;
	int rc;

	for (i = 1; i <= w->txn_count; i++) {
		struct model_txn *t = &w->txns[i];

		if (t->fate != PREPARED && t->fate != MAYBE_PREPARED && !(t->fate == UNKNOWN && t->half))
			continue;
		rc = decide(w, i, below(w, 2) ? THMQ_TXN_COMMIT : THMQ_TXN_ABORT, (uint32_t)below(w, SESSIONS));
		if (rc && t->fate != COMMITTED && t->fate != ABORTED)
			t->fate = UNKNOWN; /* it was on its way */
		if (rc)
			return rc;
	}
	return 0;
}

/* What was not answered before the power went. */
static int resolve(struct world *w)
{
	uint32_t i;

	at = "all or nothing";
	for (i = 1; i <= w->txn_count; i++) {
		struct model_txn *t = &w->txns[i];

		if (t->fate == UNKNOWN) {
			CHECK(w, t->seen == 0 || t->seen == t->parts);
			w->unknown_all += t->seen != 0;
			w->unknown_none += t->seen == 0;
			if (t->seen ? is_committed(w, i) : is_aborted(w, i))
				return -1;
		}
		CHECK(w, t->seen == (t->fate == COMMITTED ? t->parts : 0));
	}
	return 0;
}

/* What was lost never comes back: it is forgotten. So is what was aborted. */
static int trim(struct world *w)
{
	uint32_t i, k, n;

	at = "what is there";
	for (i = 0; i < PLACES; i++) {
		struct place *p = &w->places[i];

		for (k = n = 0; k < p->count; k++) {
			struct model_message *m = &w->messages[p->ids[k]];

			CHECK(w, m->seen || !m->certain || (m->txn && w->txns[m->txn].fate == ABORTED));
			if (!m->seen)
				continue;
			p->ids[n++] = p->ids[k];
			if (i >= IN && m->done) {
				CHECK(w, p->done == n - 1); /* the first ones */
				p->done = n;
			}
		}
		p->count = n;
	}
	return 0;
}

static int check_group(struct world *w)
{
	uint32_t i;

	at = "group";
	for (i = IN; i < PLACES; i++) {
		struct thmq_partition_info info = {.size = sizeof(info)};

		DONE_OR_DOWN(w, thmq_partition_describe(w->clients[0].session, "in", w->places[i].partition, "g", &info) == 0);
		CHECK(w, (info.group_offset == UINT64_MAX) == (w->places[i].done == 0));
	}
	return 0;
}

static int look_at_all(struct world *w)
{
	static const char *const topics[] = {"a", "b", "in"};
	uint32_t i;
	int rc;

	at = "look";
	for (i = 1; i <= w->txn_count; i++) {
		w->txns[i].seen = 0;
		if (w->txns[i].fate == OPEN)
			w->txns[i].fate = ABORTED;
	}
	for (i = 0; i < w->message_count; i++)
		w->messages[i].seen = false;
	for (i = IN; i < PLACES; i++)
		w->places[i].done = 0;
	rc = decide_all(w);
	for (i = 0; i < 3 && !rc; i++) {
		at = "look";
		rc = read_topic(w, topics[i]);
	}
	if (rc)
		return rc;
	if (resolve(w) || trim(w))
		return -1;
	return check_group(w);
}

/* ---------------------------------------------------------------------- steps */

static uint32_t message_make(struct world *w, struct place *p, uint32_t txn)
{
	uint32_t id = w->message_count++;

	w->messages[id] = (struct model_message){.txn = txn};
	p->ids[p->count++] = id;
	if (txn)
		w->txns[txn].parts++;
	return id;
}

static bool is_full(const struct world *w)
{
	return w->message_count + 8 >= MESSAGES_MAX || w->txn_count + 2 >= TXNS_MAX;
}

static int put(struct world *w, struct client *c, struct open_txn *o, uint32_t place)
{
	static uint8_t payload[9000];
	struct place *p = &w->places[place];
	struct thmq_producer *to = place >= IN ? w->in : strcmp(p->topic, "a") == 0 ? c->a : c->b;
	uint32_t len = 4 + (uint32_t)below(w, below(w, 10) ? 200 : 8000);
	int64_t seq;

	at = "send";
	memcpy(payload, &w->message_count, 4);
	seq = thmq_send(to, payload, len, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = p->partition, .txn = o ? o->txn : NULL));
	if (seq == -EAGAIN) {
		thmq_poll(w->env, 0);
		return 0;
	}
	if (seq == -EINVAL && o && w->txns[o->index].fate == ABORTED) /* its commit was asked for, and not answered */
		return 0;
	DONE_OR_DOWN(w, seq > 0);
	message_make(w, p, o ? o->index : 0);
	return 0;
}

static int feed(struct world *w)
{
	uint32_t n = 1 + (uint32_t)below(w, 3);

	while (n--)
		if (put(w, NULL, NULL, IN + (uint32_t)below(w, PLACES - IN)))
			return thmqi_disk_sim_is_down(w->sim) ? 1 : -1;
	return 0;
}

static int begin(struct world *w, struct client *c, struct open_txn *o)
{
	bool half = below(w, 4) == 0, short_lived = !half && below(w, 16) == 0;
	struct thmq_txn_opts opts = {.size = sizeof(opts), .name = half ? "half" : NULL, .timeout_ns = short_lived ? MS : 0};
	uint32_t i;

	at = "begin";
	DONE_OR_DOWN(w, thmq_txn_begin(c->session, &opts, &o->txn) == 0);
	/* of its name one is open */
	for (i = 1; half && i <= w->txn_count; i++)
		if (w->txns[i].fate == OPEN && w->txns[i].id & 1ull << 63)
			w->txns[i].fate = ABORTED;
	o->index = ++w->txn_count;
	w->txns[o->index] = (struct model_txn){.fate = OPEN, .short_lived = short_lived, .id = thmq_txn_id(o->txn) | (half ? 1ull << 63 : 0)};
	return 0;
}

static void let_go(struct open_txn *o)
{
	*o = (struct open_txn){0};
}

/* Back to where it began. */
static int go_back(struct world *w, const struct open_txn *o)
{
	uint32_t i;

	at = "seek";
	for (i = 0; i < 2; i++)
		if (o->where[i])
			DONE_OR_DOWN(w, thmq_seek(w->group, i, THMQ_START_OFFSET, o->where[i] - 1) == 0);
	return 0;
}

/* A claim of one that is over is of no use, and harms nobody. */
static int late(struct world *w, struct open_txn *o)
{
	int64_t seq;

	if (!o->claim_of)
		return 0;
	at = "a late claim";
	seq = thmq_commit(o->claim_of, &o->claim);
	CHECK(w, seq == -ECANCELED || seq == -EINVAL || seq == -ESHUTDOWN || thmqi_disk_sim_is_down(w->sim));
	if (seq < 0)
		thmq_abort(o->claim_of, &o->claim);
	w->late++;
	o->claim_of = NULL;
	return 0;
}

static int over(struct world *w, struct open_txn *o, bool committed)
{
	int rc = committed ? is_committed(w, o->index) : is_aborted(w, o->index);

	w->commits += committed;
	w->aborts += !committed;
	if (!rc && !committed)
		rc = go_back(w, o);
	if (!rc)
		rc = late(w, o);
	let_go(o);
	return rc;
}

static int commit(struct world *w, struct open_txn *o)
{
	struct model_txn *t = &w->txns[o->index];
	bool hasty = below(w, 6) == 0;
	bool may_be_over = t->short_lived || t->fate == ABORTED || t->fate == MAYBE_PREPARED,
	     named = t->id & 1ull << 63;
	uint8_t before = t->fate;
	int rc;

	at = "commit";
	if (t->fate != ABORTED)
		t->fate = UNKNOWN;
	rc = thmq_txn_commit(o->txn, hasty ? below(w, 100000) : 60 * SECOND);
	if (rc == 0) {
		CHECK(w, before != ABORTED);
		return over(w, o, true);
	}
	if (thmqi_disk_sim_is_down(w->sim))
		return 1;
	if ((rc == -ECANCELED || rc == -THMQ_EFENCED) && (may_be_over || (named && before == UNKNOWN && rc == -THMQ_EFENCED)))
		return over(w, o, false);
	CHECK(w, rc == -ETIMEDOUT && hasty); /* the next call tells */
	return 0;
}

static int abort_it(struct world *w, struct open_txn *o)
{
	struct model_txn *t = &w->txns[o->index];
	uint8_t before = t->fate;
	int rc;

	at = "abort";
	if (before == PREPARED || before == MAYBE_PREPARED)
		t->fate = UNKNOWN; /* until that is stored */
	rc = thmq_txn_abort(o->txn, 60 * SECOND);
	if (rc == 0) {
		CHECK(w, before != COMMITTED);
		return over(w, o, false);
	}
	if (rc == -EALREADY && before == UNKNOWN)
		return over(w, o, true);
	DONE_OR_DOWN(w, rc == 0);
	return 1;
}

static int prepare(struct world *w, struct open_txn *o)
{
	struct model_txn *t = &w->txns[o->index];
	bool was_aborted = t->fate == ABORTED;
	int rc;

	at = "prepare";
	if (!(t->id & 1ull << 63) || o->consumes || t->fate == UNKNOWN || t->fate == PREPARED)
		return 0;
	if (!was_aborted)
		t->fate = MAYBE_PREPARED;
	t->half = true;
	rc = thmq_txn_prepare(o->txn, 60 * SECOND);
	if (rc == 0) {
		CHECK(w, !was_aborted);
		t->fate = PREPARED;
		t->id &= ~(1ull << 63);
		w->prepares++;
		return 0;
	}
	t->id &= ~(1ull << 63);
	if (rc == -THMQ_EFENCED && was_aborted)
		return over(w, o, false);
	DONE_OR_DOWN(w, rc == 0);
	return 1;
}

/* Inputs, of one consumer, so by one transaction at a time. */
static int consume(struct world *w, struct client *c, struct open_txn *o)
{
	struct model_txn *t = &w->txns[o->index];
	struct thmq_message m[INPUTS_MAX];
	struct place *p;
	uint32_t i, id;
	int n;

	at = "consume";
	if (c != &w->clients[0] || t->fate != OPEN || o->consumes || t->id & 1ull << 63)
		return 0;
	for (i = 0; i < OPEN_MAX; i++)
		if (c->open[i].consumes)
			return 0;
	n = thmq_fetch(w->group, m, 1 + (uint32_t)below(w, INPUTS_MAX));
	DONE_OR_DOWN(w, n >= 0);
	for (i = 0; i < (uint32_t)n; i++) {
		CHECK(w, m[i].partition < 2);
		p = &w->places[IN + m[i].partition];
		memcpy(&id, m[i].data, 4);
		CHECK(w, id < w->message_count && !w->messages[id].done);
		w->messages[id].certain = true;
		t->inputs[t->input_count++] = id;
		if (!o->where[m[i].partition]) {
			uint32_t k = 0;

			while (k < p->count && w->messages[p->ids[k]].done)
				k++;
			CHECK(w, k < p->count && p->ids[k] == id); /* none is left out */
			o->where[m[i].partition] = m[i].offset + 1;
		}
		DONE_OR_DOWN(w, thmq_txn_ack(o->txn, w->group, &m[i]) == 0);
		o->consumes = true;
	}
	if (n > 0)
		CHECK(w, thmq_release(w->group, m, (uint32_t)n) == 0);
	return n > 0 ? put(w, c, o, (uint32_t)below(w, IN)) : 0;
}

static int claim(struct world *w, struct client *c, struct open_txn *o)
{
	struct place *p = &w->places[below(w, IN)];
	uint32_t id = UINT32_MAX;

	at = "claim";
	if (o->claim_of)
		return 0;
	if (thmq_claim(strcmp(p->topic, "a") == 0 ? c->a : c->b,
		       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = p->partition, .txn = o->txn), 4, &o->claim) != 0)
		return 0;
	memcpy(o->claim.data, &id, 4); /* it must never be seen */
	o->claim_of = strcmp(p->topic, "a") == 0 ? c->a : c->b;
	return 0;
}

static int read_some(struct world *w)
{
	static uint32_t next[PLACES];
	struct thmq_message m[16];
	int n, i;

	at = "reader";
	if (!w->reader) {
		memset(next, 0, sizeof(next));
		DONE_OR_DOWN(w, thmq_consumer_open(w->clients[1].session, "a", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &w->reader) == 0);
	}
	n = thmq_fetch(w->reader, m, 16);
	DONE_OR_DOWN(w, n >= 0);
	for (i = 0; i < n; i++)
		if (take(w, "a", &m[i], &next[m[i].partition]))
			return -1;
	CHECK(w, n == 0 || thmq_release(w->reader, m, (uint32_t)n) == 0);
	return 0;
}

static int flush(struct world *w)
{
	uint32_t i;

	at = "flush";
	DONE_OR_DOWN(w, thmq_flush(w->in, 60 * SECOND) == 0);
	for (i = IN; i < PLACES; i++) {
		uint32_t k;

		for (k = 0; k < w->places[i].count; k++)
			w->messages[w->places[i].ids[k]].certain = true;
	}
	return 0;
}

static int step(struct world *w)
{
	struct client *c = &w->clients[below(w, SESSIONS)];
	struct open_txn *o = &c->open[below(w, OPEN_MAX)];
	static const uint8_t filling[20000];
	uint8_t fate = o->txn ? w->txns[o->index].fate : PLAIN;
	uint32_t what = (uint32_t)below(w, 16);

	if (is_full(w))
		return 1;
	if (w->fills && what % 4 == 0)
		thmq_send(w->filler, filling, sizeof(filling), NULL);
	if (what == 0)
		return feed(w);
	if (what == 1)
		return flush(w);
	if (what == 2)
		return read_some(w);
	if (what == 3)
		return put(w, c, NULL, (uint32_t)below(w, IN));
	if (!o->txn)
		return what < 10 ? begin(w, c, o) : 0;
	if (fate == UNKNOWN || fate == PREPARED)
		return what < 10 ? commit(w, o) : what < 12 ? abort_it(w, o) : 0;
	if (what == 4)
		return commit(w, o);
	if (what == 5)
		return below(w, 3) ? 0 : abort_it(w, o);
	if (what == 6)
		return prepare(w, o);
	if (what == 7)
		return claim(w, c, o);
	if (what == 8)
		return consume(w, c, o);
	return put(w, c, o, (uint32_t)below(w, IN));
}

/* 0; 1: the power has gone, or it is enough; -1: it is wrong */
static int work(struct world *w, uint32_t steps)
{
	int rc = open_all(w);

	if (!rc)
		rc = look_at_all(w);
	if (!rc)
		rc = open_consumers(w);
	while (!rc && steps--) {
		rc = step(w);
		thmq_poll(w->env, below(w, 2) ? 0 : below(w, 100000));
		if (!rc && thmqi_disk_sim_is_down(w->sim))
			rc = 1;
	}
	return rc;
}

/* @cut: the operation under which the power goes; 0: with the last step, UINT64_MAX: it does not, and all is closed. */
static int life(struct world *w, uint32_t steps, uint64_t cut, uint32_t mode)
{
	int rc;

	w->env = NULL;
	w->reader = NULL;
	if (cut && cut != UINT64_MAX)
		thmqi_disk_sim_cut_at(w->sim, cut, mode);
	rc = work(w, steps);
	thmqi_disk_sim_cut_at(w->sim, 0, 0);
	if (rc >= 0 && cut == UINT64_MAX) {
		int closed;

		at = "close";
		closed = thmq_env_close(w->env, 60 * SECOND);
		CHECK(w, closed == 0 || closed == -EIO); /* some of what was too late was refused */
	} else {
		thmqi_disk_sim_crash_as(w->sim, mode);
		if (w->env)
			thmq_env_close(w->env, 0);
	}
	thmqi_disk_sim_restart(w->sim);
	return rc < 0 ? -1 : 0;
}

static struct world *world_make(uint64_t seed, uint32_t shards)
{
	static const char *const topics[PLACES] = {"a", "a", "a", "b", "b", "in", "in"};
	static const uint32_t partitions[PLACES] = {0, 1, 2, 0, 1, 0, 1};
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i;

	if (!w)
		return NULL;
	w->seed = seed;
	w->shards = shards;
	thmqi_prng_seed(&w->prng, seed);
	for (i = 0; i < PLACES; i++) {
		w->places[i].topic = topics[i];
		w->places[i].partition = partitions[i];
	}
	if (thmqi_disk_sim_open(seed, NULL, &w->sim) == 0)
		return w;
	free(w);
	return NULL;
}

static struct totals {
	uint64_t commits, aborts, prepares, unknown_all, unknown_none, late, cuts;
} totals;

static void world_free(struct world *w)
{
	totals.commits += w->commits;
	totals.aborts += w->aborts;
	totals.prepares += w->prepares;
	totals.unknown_all += w->unknown_all;
	totals.unknown_none += w->unknown_none;
	totals.late += w->late;
	thmqi_disk_sim_close(w->sim);
	free(w);
}

/* Lives of one seed, each of which ends somewhere. */
static int run(uint64_t seed)
{
	struct world *w = world_make(seed, seed % 100 == 7 ? MANY_SHARDS : 1 + (uint32_t)(seed % 4));
	uint32_t lives, i;
	int rc = 0;

	if (!w)
		return -1;
	lives = 2 + (uint32_t)below(w, 4);
	w->fills = below(w, 4) == 0;
	for (i = 0; i < lives && !rc; i++) {
		uint32_t steps = 20 + (uint32_t)below(w, 300);
		uint64_t cut = below(w, 5) == 0 ? UINT64_MAX : below(w, 3) == 0 ? 0 : 1 + below(w, 400);

		rc = life(w, steps, cut, THMQI_DISK_SIM_CRASH_SEEDED);
	}
	if (!rc)
		rc = life(w, 0, UINT64_MAX, 0);
	world_free(w);
	return rc;
}

static uint64_t changes_of(const struct world *w)
{
	struct thmqi_disk_sim_stats stats;

	thmqi_disk_sim_stats(w->sim, &stats);
	return stats.changes;
}

#define SHORT_STEPS 60u

/* One life that is cut at each of its operations, behind one that has made the directory; then looked at twice: the first look is cut too. */
static int sweep(uint64_t seed, uint32_t stride)
{
	static const uint32_t modes[] = {THMQI_DISK_SIM_CRASH_LOSE, THMQI_DISK_SIM_CRASH_KEEP, THMQI_DISK_SIM_CRASH_ANY};
	uint64_t cut, from, count = 1;
	int rc = 0;

	for (cut = 0; cut <= count && !rc; cut += stride) {
		struct world *w = world_make(seed, 2 + (uint32_t)(seed % 2));

		if (!w)
			return -1;
		rc = life(w, 0, UINT64_MAX, 0);
		from = changes_of(w);
		if (!rc)
			rc = life(w, SHORT_STEPS, cut ? cut : UINT64_MAX, modes[cut % 3]);
		if (!cut)
			count = changes_of(w) - from;
		if (!rc && cut)
			rc = life(w, 0, 1 + cut * 7 % 40, modes[cut / 3 % 3]);
		if (!rc)
			rc = life(w, 0, UINT64_MAX, 0);
		if (rc)
			fprintf(stderr, "cut at %llu of %llu\n", (unsigned long long)cut, (unsigned long long)count);
		totals.cuts++;
		world_free(w);
	}
	return rc;
}

int main(int argc, char **argv)
{
	const char *full = getenv("THMQ_TEST_FULL"), *small = getenv("THMQ_TEST_SMALL"); /* beside sanitizers */
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t sweeps = full ? 40 : 1, seed, failed;

	each_seed(argc, argv, small ? 40 : 120, 20000, run, &failed);
	for (seed = first; seed < first + sweeps && !failed; seed++)
		failed += sweep(seed, full ? 1 : small ? 5 : 1) != 0;
	printf("%llu cuts, %llu failed: %llu transactions committed, %llu aborted, %llu prepared; when the power went %llu were committed and not "
	       "told, %llu were not committed; %llu late claims\n",
	       (unsigned long long)totals.cuts, (unsigned long long)failed, (unsigned long long)totals.commits, (unsigned long long)totals.aborts,
	       (unsigned long long)totals.prepares, (unsigned long long)totals.unknown_all, (unsigned long long)totals.unknown_none,
	       (unsigned long long)totals.late);
	return failed != 0;
}
