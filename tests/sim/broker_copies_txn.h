/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_copies_txn.h - transactions in the world of broker_copies_sim_test.c: a session that sends in several of them to partitions of two shards, and
 * acknowledges in them what it reads, while brokers die and lead in turn; some are prepared first, and from then on outlive every leader. Of each transaction all is seen or nothing, as it was told, by who reads beside and
 * at the end; each input was done once.
 */
#ifndef BROKER_COPIES_TXN_H
#define BROKER_COPIES_TXN_H

#define TXNS 400u
#define TXNS_OPEN 3u
#define TXN_PARTS 6u
#define TXN_PARTITIONS 4u

enum txn_fate { TXN_OPEN, TXN_MAYBE, TXN_COMMITTED, TXN_ABORTED };

struct txn_message {
	uint32_t txn, part;
	uint32_t partition, input, inputs; /* it is what became of these of "t"; of part 0 only */
};

struct txn_side {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *reader, *group;
	struct {
		struct thmq_txn *txn;
		uint32_t index;
		bool consumes;
		bool half, asked, prepared, aborts; /* it is to be prepared; was asked to be; is; it was then asked to be aborted */
		uint64_t where; /* of its first input */
		uint32_t partition;
	} open[TXNS_OPEN];
	uint8_t fate[TXNS], parts[TXNS], seen[TXNS];
	uint32_t inputs[TXNS][3]; /* partition, first, count */
	bool done[PARTITIONS][MESSAGES];
	uint32_t count, committed, aborted, unknown, prepared;
};

static int txn_begin_side(struct world *w, struct txn_side *t)
{
	at = "transactions, begin";
	CHECK(w, thmq_connect(w->env, "inproc://b2,inproc://b1", THMQ_SESSION_OPTS(.reconnect_ns = 1000 * SECOND, .timeout_ns = 2 * SECOND), &t->session) == 0);
	CHECK(w, thmq_topic_create(t->session, "x", THMQ_TOPIC_OPTS(.partition_count = TXN_PARTITIONS)) == 0);
	CHECK(w, thmq_producer_open(t->session, "x", NULL, &t->producer) == 0);
	CHECK(w, thmq_consumer_open(t->session, "x", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .prefetch_count = w->prefetch), &t->reader) == 0);
	CHECK(w, thmq_consumer_open(t->session, "t", "tg", THMQ_CONSUMER_OPTS(.session_timeout_ns = 1000 * SECOND, .prefetch_count = w->prefetch), &t->group) == 0);
	return 0;
}

static int txn_is(struct world *w, struct txn_side *t, uint32_t i, enum txn_fate fate)
{
	uint32_t k, *in = t->inputs[i];

	if (t->fate[i] == fate)
		return 0;
	CHECK(w, t->fate[i] != TXN_COMMITTED && t->fate[i] != TXN_ABORTED);
	t->fate[i] = (uint8_t)fate;
	t->committed += fate == TXN_COMMITTED;
	t->aborted += fate == TXN_ABORTED;
	for (k = 0; fate == TXN_COMMITTED && k < in[2]; k++) {
		CHECK(w, !t->done[in[0]][in[1] + k]); /* exactly once */
		t->done[in[0]][in[1] + k] = true;
	}
	return 0;
}

static bool txn_not_known(int rc)
{
	return rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -EAGAIN || rc == -THMQ_ENOQUORUM || rc == -THMQ_ENOTLEADER;
}

static int txn_over(struct world *w, struct txn_side *t, uint32_t o, enum txn_fate fate)
{
	bool back = fate == TXN_ABORTED && t->open[o].consumes;
	int rc = txn_is(w, t, t->open[o].index, fate);

	t->open[o].txn = NULL;
	t->open[o].consumes = t->open[o].half = t->open[o].asked = t->open[o].prepared = t->open[o].aborts = false;
	if (rc || !back)
		return rc;
	rc = thmq_seek(t->group, t->open[o].partition, THMQ_START_OFFSET, t->open[o].where);
	CHECK(w, rc == 0 || rc == -EPERM || rc == -THMQ_EFENCED || txn_not_known(rc)); /* else it goes on behind it */
	return 0;
}

/* Once it is, nobody but who is asked decides about it, whoever leads. */
static int txn_prepare(struct world *w, struct txn_side *t, uint32_t o, uint64_t timeout_ns)
{
	int rc;

	at = "prepare";
	t->open[o].asked = true;
	rc = thmq_txn_prepare(t->open[o].txn, timeout_ns);
	if (rc == 0) {
		t->open[o].prepared = true;
		t->prepared++;
	}
	if (rc == 0 || txn_not_known(rc))
		return 0;
	CHECK(w, rc == -ECANCELED || rc == -THMQ_EFENCED || rc == -EIO);
	return txn_over(w, t, o, TXN_ABORTED);
}

static const char *const txn_names[TXNS_OPEN] = {"half0", "half1", "half2"};

/* Of one that is prepared, by its number, as anybody could who watches its name; it is over once that is answered. */
static int txn_decide(struct world *w, struct txn_side *t, uint32_t o, uint64_t timeout_ns)
{
	uint32_t i = t->open[o].index;
	bool commits, by_number;
	int rc;

	at = "decide";
	if (t->fate[i] == TXN_OPEN && !t->open[o].aborts) {
		t->open[o].aborts = chance(w, 4) == 0;
		if (!t->open[o].aborts)
			t->fate[i] = TXN_MAYBE;
	}
	commits = !t->open[o].aborts;
	by_number = !commits || chance(w, 2);
	if (!by_number)
		rc = thmq_txn_commit(t->open[o].txn, timeout_ns);
	else
		rc = thmq_txn_decide(t->session, thmq_txn_id(t->open[o].txn), commits ? THMQ_TXN_COMMIT : THMQ_TXN_ABORT, timeout_ns);
	if (rc == -EPERM) { /* another leader does not know who watches */
		rc = thmq_txn_watch(t->session, txn_names[o]);
		CHECK(w, rc == 0 || txn_not_known(rc));
		return 0;
	}
	if (txn_not_known(rc)) {
		t->unknown++;
		return 0;
	}
	CHECK(w, rc == 0 || rc == (commits ? -EALREADY : -ECANCELED)); /* the latter: it was heard the time before */
	if (by_number) /* what the session has of it */
		thmq_txn_abort(t->open[o].txn, timeout_ns);
	return txn_over(w, t, o, commits ? TXN_COMMITTED : TXN_ABORTED);
}

static int txn_end_one(struct world *w, struct txn_side *t, uint32_t o, uint64_t timeout_ns)
{
	uint32_t i = t->open[o].index;
	bool commits = t->fate[i] == TXN_MAYBE || chance(w, 4);
	int rc;

	if (t->open[o].prepared)
		return txn_decide(w, t, o, timeout_ns);
	if (t->open[o].asked || (t->open[o].half && t->fate[i] == TXN_OPEN && chance(w, 4)))
		return txn_prepare(w, t, o, timeout_ns);
	at = commits ? "commit" : "abort";
	if (commits)
		t->fate[i] = TXN_MAYBE;
	rc = commits ? thmq_txn_commit(t->open[o].txn, timeout_ns) : thmq_txn_abort(t->open[o].txn, timeout_ns);
	if (rc == 0)
		return txn_over(w, t, o, commits ? TXN_COMMITTED : TXN_ABORTED);
	if (commits && txn_not_known(rc)) {
		t->unknown++;
		return 0;
	}
	if (commits)
		CHECK(w, rc == -ECANCELED || rc == -THMQ_EFENCED || rc == -EIO);
	else
		CHECK(w, txn_not_known(rc) || rc == -ECANCELED);
	return txn_over(w, t, o, TXN_ABORTED);
}

static int txn_put(struct world *w, struct txn_side *t, uint32_t o, const struct txn_message *m)
{
	int64_t rc;

	at = "send in a transaction";
	rc = thmq_send(t->producer, m, sizeof(*m),
		       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = (uint32_t)chance(w, TXN_PARTITIONS), .txn = t->open[o].txn));
	if (rc == -EAGAIN || rc == -THMQ_ENOQUORUM)
		return 1;
	CHECK(w, rc > 0);
	t->parts[m->txn]++;
	return 0;
}

/* Inputs of one partition, and with them the first message. */
static int txn_consume(struct world *w, struct txn_side *t, uint32_t o)
{
	struct txn_message out = {.txn = t->open[o].index};
	struct thmq_message m;
	uint32_t number, i;
	int n, rc;

	at = "consume in a transaction";
	for (i = 0; i < TXNS_OPEN; i++)
		if (t->open[i].consumes || t->parts[out.txn] || t->open[o].half)
			return 0;
	n = thmq_fetch(t->group, &m, 1);
	CHECK(w, n >= 0);
	if (!n)
		return 0;
	memcpy(&number, m.data, 4);
	CHECK(w, number < MESSAGES);
	t->open[o].consumes = true;
	t->open[o].where = m.offset;
	t->open[o].partition = out.partition = m.partition;
	out.input = number;
	out.inputs = 1;
	rc = thmq_txn_ack(t->open[o].txn, t->group, &m);
	CHECK(w, thmq_release(t->group, &m, 1) == 0);
	if (!rc)
		rc = txn_put(w, t, o, &out);
	if (rc < 0)
		CHECK(w, rc == -EAGAIN || rc == -THMQ_EFENCED);
	if (rc) { /* it cannot be part of it, and so is not done */
		rc = thmq_txn_abort(t->open[o].txn, 50 * MS);
		return txn_over(w, t, o, TXN_ABORTED);
	}
	t->inputs[out.txn][0] = out.partition;
	t->inputs[out.txn][1] = number;
	t->inputs[out.txn][2] = 1;
	return 0;
}

static int txn_take(struct world *w, struct txn_side *t, struct thmq_consumer *c, uint8_t *seen)
{
	struct thmq_message m[16];
	struct txn_message is;
	int n = thmq_fetch(c, m, 16), i;

	at = "read what is committed";
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(w, m[i].len == sizeof(is));
		memcpy(&is, m[i].data, sizeof(is));
		CHECK(w, is.txn < t->count);
		CHECK(w, t->fate[is.txn] == TXN_COMMITTED || t->fate[is.txn] == TXN_MAYBE);
		CHECK(w, !(seen[is.txn] & 1u << is.part)); /* once */
		seen[is.txn] |= (uint8_t)(1u << is.part);
	}
	CHECK(w, thmq_release(c, m, (uint32_t)n) == 0);
	return n;
}

static int txn_step(struct world *w, struct txn_side *t)
{
	uint32_t o = (uint32_t)chance(w, TXNS_OPEN), what = (uint32_t)chance(w, 10), i;
	bool half = chance(w, 3) == 0;
	struct thmq_event e;
	int rc;

	while (thmq_events(t->session, &e, 1) == 1)
		; /* what came too late was refused */
	rc = txn_take(w, t, t->reader, t->seen);
	if (rc < 0 || w->healed)
		return rc < 0 ? rc : 0;
	if (!t->open[o].txn) {
		if (t->count == TXNS || what > 2)
			return 0;
		if (!all_there(w))
			return 0;
		at = "begin a transaction";
		rc = thmq_txn_begin(t->session, THMQ_TXN_OPTS(.timeout_ns = 5 * SECOND, .name = half ? txn_names[o] : NULL), &t->open[o].txn);
		if (rc)
			t->open[o].txn = NULL;
		CHECK(w, rc == 0 || txn_not_known(rc));
		if (!rc) {
			t->open[o].index = t->count++;
			t->open[o].half = half;
		}
		return 0;
	}
	i = t->open[o].index;
	if (t->fate[i] == TXN_MAYBE || t->open[o].asked || what == 0)
		return txn_end_one(w, t, o, chance(w, 40) * MS);
	if (what == 1)
		return txn_consume(w, t, o);
	if (what < 5 && t->parts[i] < TXN_PARTS) {
		rc = txn_put(w, t, o, &(struct txn_message){.txn = i, .part = t->parts[i]});
		return rc < 0 ? rc : 0;
	}
	return 0;
}

static bool txn_all_seen(const struct txn_side *t, const uint8_t *seen)
{
	uint32_t i;

	for (i = 0; i < t->count; i++)
		if (t->fate[i] == TXN_COMMITTED && seen[i] != (1u << t->parts[i]) - 1)
			return false;
	return true;
}

/* All brokers are there: what is not known is told now, and all of it is read again. */
static int txn_end(struct world *w, struct txn_side *t)
{
	uint64_t until = now(w) + 100 * SECOND;
	uint8_t seen[TXNS] = {0};
	struct thmq_consumer *c;
	uint32_t i, o;
	int n;

	for (o = 0; o < TXNS_OPEN; o++)
		while (t->open[o].txn) {
			at = "what becomes of a transaction";
			CHECK(w, now(w) < until);
			if (txn_end_one(w, t, o, SECOND))
				return -1;
		}
	at = "read all that is committed";
	CHECK(w, thmq_consumer_open(t->session, "x", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .prefetch_count = w->prefetch), &c) == 0);
	until = now(w) + 60 * SECOND; /* a disk may stand still, and one whose begin was not answered holds others up until its time is over */
	while (now(w) < until) {
		n = txn_take(w, t, c, seen);
		if (n < 0)
			return -1;
		if (!n && txn_all_seen(t, seen))
			until = THMQI_MIN(until, now(w) + 50 * MS);
		thmq_poll(w->env, MS);
	}
	at = "all or nothing";
	for (i = 0; i < t->count; i++) {
		bool all = t->fate[i] == TXN_COMMITTED;

		CHECK(w, seen[i] == (all ? (1u << t->parts[i]) - 1 : 0));
		CHECK(w, (t->seen[i] & ~seen[i]) == 0); /* what was seen once is there */
	}
	n = thmq_session_close(t->session, 100 * SECOND);
	CHECK(w, n == 0 || n == -EIO); /* some of what was too late was refused */
	return 0;
}

#endif
