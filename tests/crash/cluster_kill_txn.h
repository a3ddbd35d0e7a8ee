/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster_kill_txn.h - transactions in cluster_kill_test.c: a session of its own sends in one after the other, to partitions of all shards, and commits it,
 * aborts it, or prepares it first, while brokers die, stand still and restart. A reader of what is committed sees all of each or nothing, as was told;
 * what was prepared is not over before it is decided, whoever leads.
 */
#ifndef CLUSTER_KILL_TXN_H
#define CLUSTER_KILL_TXN_H

#define TXNS_MAX 8192u
#define TXN_PARTS 5u
#define TXN_PARTITIONS 4u
#define TXN_NAME "kill"

enum fate { OPEN, MAYBE, COMMITTED, ABORTED };

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *reader;
	struct thmq_txn *txn; /* the one that is open: the last one; NULL: none */
	uint32_t parts_wanted;
	bool half, asked, prepared, aborts; /* it is to be prepared; was asked to be; is; and then it was asked to be aborted */
	uint8_t fate[TXNS_MAX], parts[TXNS_MAX], seen[TXNS_MAX];
	uint32_t count, committed, aborted, prepares, unknown;
} x;

struct part {
	uint32_t txn, part;
};

static bool not_known(int rc)
{
	return rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -EAGAIN || rc == -THMQ_ENOQUORUM || rc == -THMQ_ENOTLEADER;
}

/* Its session is less patient than others: what it asks for takes its time on a machine that is busy. */
#define UNTIL_DONE(call)                                                                           \
	do {                                                                                       \
		uint64_t until = now_ns() + PATIENCE_NS;                                           \
		int error;                                                                         \
                                                                                                   \
		while ((error = (call)) != 0)                                                      \
			CHECK(not_known(error) && now_ns() < until);                               \
	} while (0)

static void txns_begin(void)
{
	UNTIL_DONE(thmq_connect(w.env, w.urls,
				THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = SECOND, .peer_timeout_ns = SECOND / 2), &x.session));
	CHECK(thmq_topic_create(w.session, "x", THMQ_TOPIC_OPTS(.partition_count = TXN_PARTITIONS)) == 0);
	UNTIL_DONE(thmq_producer_open(x.session, "x", NULL, &x.producer));
	UNTIL_DONE(thmq_consumer_open(x.session, "x", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &x.reader));
}

static void txn_is(enum fate fate)
{
	x.fate[x.count - 1] = (uint8_t)fate;
	x.committed += fate == COMMITTED;
	x.aborted += fate == ABORTED;
	x.txn = NULL;
}

static void txn_open(void)
{
	int rc;

	if (x.count == TXNS_MAX)
		return;
	x.half = chance(3) == 0;
	rc = thmq_txn_begin(x.session, THMQ_TXN_OPTS(.timeout_ns = 5 * SECOND, .name = x.half ? TXN_NAME : NULL), &x.txn);
	CHECK(rc == 0 || not_known(rc));
	if (rc) {
		x.txn = NULL;
		return;
	}
	x.asked = x.prepared = x.aborts = false;
	x.parts_wanted = 1 + (uint32_t)chance(TXN_PARTS);
	x.count++;
}

static void txn_prepare(void)
{
	int rc;

	x.asked = true;
	rc = thmq_txn_prepare(x.txn, SECOND / 20);
	x.prepares += rc == 0;
	x.prepared = rc == 0;
	if (rc == 0 || not_known(rc))
		return;
	CHECK(rc == -ECANCELED || rc == -THMQ_EFENCED || rc == -EIO);
	txn_is(ABORTED);
}

/* By its number, as anybody could who watches its name. */
static void txn_decide(void)
{
	uint32_t i = x.count - 1;
	int rc;

	if (x.fate[i] == OPEN && !x.aborts) {
		x.aborts = chance(4) == 0;
		x.fate[i] = x.aborts ? OPEN : MAYBE;
	}
	rc = thmq_txn_decide(x.session, thmq_txn_id(x.txn), x.aborts ? THMQ_TXN_ABORT : THMQ_TXN_COMMIT, SECOND / 20);
	if (rc == -EPERM) { /* this leader does not know yet who watches */
		rc = thmq_txn_watch(x.session, TXN_NAME);
		CHECK(rc == 0 || not_known(rc));
		return;
	}
	x.unknown += not_known(rc);
	if (not_known(rc))
		return;
	CHECK(rc == 0 || rc == (x.aborts ? -ECANCELED : -EALREADY)); /* the latter: it was heard the time before */
	thmq_txn_abort(x.txn, SECOND / 20); /* what the session has of it */
	txn_is(x.aborts ? ABORTED : COMMITTED);
}

static void txn_end(void)
{
	uint32_t i = x.count - 1;
	bool commits = x.fate[i] == MAYBE || chance(4);
	int rc;

	if (x.prepared) {
		txn_decide();
		return;
	}
	if (x.asked || (x.half && x.fate[i] == OPEN)) {
		txn_prepare();
		return;
	}
	if (commits)
		x.fate[i] = MAYBE;
	rc = commits ? thmq_txn_commit(x.txn, SECOND / 20) : thmq_txn_abort(x.txn, SECOND / 20);
	if (commits && not_known(rc)) {
		x.unknown++;
		return;
	}
	CHECK(rc == 0 || rc == -ECANCELED || (commits ? rc == -THMQ_EFENCED || rc == -EIO : not_known(rc)));
	txn_is(rc == 0 && commits ? COMMITTED : ABORTED);
}

static void txns_take(struct thmq_consumer *c, uint8_t *seen)
{
	struct thmq_message m[64];
	struct part is;
	int n = thmq_fetch(c, m, 64), i;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(m[i].len == sizeof(is));
		memcpy(&is, m[i].data, sizeof(is));
		CHECK(is.txn < x.count && is.part < x.parts[is.txn]);
		CHECK(x.fate[is.txn] == COMMITTED || x.fate[is.txn] == MAYBE);
		CHECK(!(seen[is.txn] & 1u << is.part)); /* once */
		seen[is.txn] |= (uint8_t)(1u << is.part);
	}
	CHECK(thmq_release(c, m, (uint32_t)n) == 0);
}

static void txns_step(void)
{
	struct thmq_event e;
	struct part p;
	int64_t rc;

	if (!x.session)
		return;
	while (thmq_events(x.session, &e, 1) == 1)
		; /* what came too late was refused, and its transaction says so */
	txns_take(x.reader, x.seen);
	if (!x.txn) {
		txn_open();
		return;
	}
	if (x.asked || x.fate[x.count - 1] == MAYBE || x.parts[x.count - 1] == x.parts_wanted) {
		txn_end();
		return;
	}
	p = (struct part){.txn = x.count - 1, .part = x.parts[x.count - 1]};
	rc = thmq_send(x.producer, &p, sizeof(p),
		       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = (uint32_t)chance(TXN_PARTITIONS), .txn = x.txn));
	CHECK(rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM);
	x.parts[x.count - 1] += rc > 0;
}

static bool txns_all_seen(const uint8_t *seen)
{
	for (uint32_t i = 0; i < x.count; i++)
		if (x.fate[i] == COMMITTED && seen[i] != (1u << x.parts[i]) - 1)
			return false;
	return true;
}

/* All brokers are there: what is not known is told now, and all that is committed comes, to who reads it again too. */
static void txns_end(void)
{
	static uint8_t seen[TXNS_MAX];
	uint64_t end = now_ns() + PATIENCE_NS;
	struct thmq_consumer *again;
	struct thmq_event e;
	int rc;

	while (x.txn) {
		CHECK(now_ns() < end);
		txn_end();
	}
	UNTIL_DONE(thmq_consumer_open(x.session, "x", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &again));
	while (!txns_all_seen(seen) || !txns_all_seen(x.seen)) {
		CHECK(now_ns() < end);
		txns_take(again, seen);
		txns_take(x.reader, x.seen);
		while (thmq_events(x.session, &e, 1) == 1)
			;
		CHECK(thmq_session_wait(x.session, SECOND / 1000) >= 0);
	}
	rc = thmq_session_close(x.session, 30 * SECOND);
	CHECK(rc == 0 || rc == -EIO); /* some of what was too late was refused */
	printf("%u transactions committed, %u aborted; %u prepared, %u times not known at first\n", x.committed, x.aborted, x.prepares, x.unknown);
	CHECK(x.committed && x.prepares);
}

#endif
