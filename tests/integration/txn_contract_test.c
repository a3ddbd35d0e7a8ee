/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_contract_test.c - transactions over any medium: what consumers see of them and when, what groups have acknowledged, who ends them, what is
 * refused, and a long random run against a model.
 *
 * usage: txn_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include "contract.h"

#define TXN(...) THMQ_MESSAGE_OPTS(__VA_ARGS__)

static struct thmq_producer *producer_of(struct thmq_session *s, const char *topic)
{
	struct thmq_producer *p;

	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	return p;
}

static void put(struct thmq_producer *p, struct thmq_txn *t, uint32_t partition, const char *text)
{
	CHECK(thmq_send(p, text, (uint32_t)strlen(text),
			TXN(.flags = THMQ_MESSAGE_PARTITION, .partition = partition, .txn = t)) > 0);
}

/* What comes, one word after the other, within @ns of silence. */
static void expect_text(struct thmq_session *s, struct thmq_consumer *c, const char *all)
{
	char got[4096] = "";
	struct thmq_message m;

	while (fetch(s, c, &m, 1, *all && strlen(got) < strlen(all) ? 5 * SECOND : 30 * MS) == 1) {
		if (got[0])
			strcat(got, " ");
		strncat(got, m.data, m.len);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	if (strcmp(got, all) != 0)
		fprintf(stderr, "got \"%s\", not \"%s\"\n", got, all);
	CHECK(strcmp(got, all) == 0);
}

static struct thmq_consumer *reader_of(struct thmq_session *s, const char *topic, uint32_t flags)
{
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .flags = flags), &c) == 0);
	return c;
}

static uint64_t end_of(struct thmq_session *s, const char *topic, uint32_t partition)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(s, topic, partition, NULL, &info) == 0);
	return info.end_offset;
}

static uint64_t stands_at(struct thmq_session *s, const char *topic, const char *group)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(s, topic, 0, group, &info) == 0);
	return info.group_offset;
}

/* Soon: the commit is durable before the group's shard has heard of it. */
static void stands_soon(struct thmq_session *s, const char *topic, const char *group, uint64_t offset)
{
	uint64_t end = now() + 5 * SECOND;

	while (stands_at(s, topic, group) != offset && now() < end)
		thmq_session_wait(s, MS);
	CHECK(stands_at(s, topic, group) == offset);
}

/* ------------------------------------------------------------ commit, abort */

static void all_or_nothing(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *a, *b;
	struct thmq_consumer *ca, *cb, *raw;
	struct thmq_txn *t, *u;

	CHECK(thmq_topic_create(s, "a", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_topic_create(s, "b", NULL) == 0);
	a = producer_of(s, "a");
	b = producer_of(s, "b");
	ca = reader_of(s, "a", 0);
	cb = reader_of(s, "b", 0);
	raw = reader_of(s, "b", THMQ_CONSUMER_READ_UNCOMMITTED);
	put(b, NULL, 0, "before");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0 && thmq_txn_id(t) != 0);
	CHECK(thmq_txn_begin(s, NULL, &u) == 0 && thmq_txn_id(u) != thmq_txn_id(t));
	put(a, t, 0, "ta");
	put(a, t, 3, "ta");
	put(b, t, 0, "t");
	put(b, u, 0, "u");
	put(b, NULL, 0, "between");
	put(b, t, 0, "tt");
	put(b, u, 0, "uu");
	CHECK(thmq_flush(a, 30 * SECOND) == 0 && thmq_flush(b, 30 * SECOND) == 0);
	expect_text(s, cb, "before"); /* all behind the first one of an open transaction waits */
	expect_text(s, ca, "");
	expect_text(s, raw, "before t u between tt uu");
	CHECK(end_of(s, "b", 0) == 1 && end_of(s, "a", 0) == 0);
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	CHECK(thmq_txn_commit(t, SECOND) == -EINVAL && thmq_txn_id(t) == 0); /* it is over */
	expect_text(s, cb, "t");
	expect_text(s, ca, "ta ta");
	CHECK(thmq_txn_abort(u, 30 * SECOND) == 0);
	expect_text(s, cb, "between tt");
	put(b, NULL, 0, "after");
	expect_text(s, cb, "after");
	expect_text(s, raw, "after");
	CHECK(end_of(s, "b", 0) == 7);
	/* who comes later sees the same */
	cb = reader_of(s, "b", 0);
	expect_text(s, cb, "before t between tt after");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0 && thmq_txn_commit(t, SECOND) == 0); /* nothing is in it */
	CHECK(thmq_txn_begin(s, NULL, &t) == 0 && thmq_txn_abort(t, SECOND) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Keys, tags, headers, claims, packed payloads: as without a transaction. */
static void whole_messages(void)
{
	static uint8_t large[200000];
	struct thmq_session *s = session_of(NULL);
	struct thmq_header h = {"h", "value", 5, THMQ_HEADER_TEXT}, is;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[4];
	struct thmq_claim claim;
	struct thmq_txn *t;
	uint32_t i;
	int n = 0, k;

	fill(large, sizeof(large), 5);
	CHECK(thmq_topic_create(s, "w", NULL) == 0);
	p = producer_of(s, "w");
	c = reader_of(s, "w", 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	for (i = 0; i < 3; i++) {
		CHECK(thmq_send(p, "data", 4, TXN(.key = "key", .key_len = 3, .tag = "tag", .headers = &h, .header_count = 1, .ttl_ns = 1000 * SECOND, .txn = t)) > 0);
		CHECK(thmq_claim(p, TXN(.key = "k", .key_len = 1, .txn = t), 3, &claim) == 0);
		memcpy(claim.data, "abc", 3);
		CHECK(thmq_commit(p, &claim) > 0);
		CHECK(thmq_claim(p, TXN(.txn = t), 3, &claim) == 0 && thmq_abort(p, &claim) == 0);
		CHECK(thmq_send(p, large, sizeof(large), TXN(.txn = t)) > 0);
		CHECK(thmq_send(p, NULL, 0, TXN(.txn = t)) > 0);
	}
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	while (n < 12) {
		k = fetch(s, c, m, 1, 5 * SECOND);
		CHECK(k == 1 && m[0].offset == (uint64_t)n);
		if (n % 4 == 0)
			CHECK(m[0].len == 4 && m[0].key_len == 3 && m[0].tag_len == 3 && memcmp(m[0].key, "key", 3) == 0 &&
			      memcmp(m[0].tag, "tag", 3) == 0 && memcmp(m[0].data, "data", 4) == 0 &&
			      thmq_header_find(&m[0], "h", &is) == 0 && is.value_len == 5);
		else if (n % 4 == 1)
			CHECK(m[0].len == 3 && m[0].key_len == 1 && memcmp(m[0].data, "abc", 3) == 0 && !m[0].headers);
		else if (n % 4 == 2)
			CHECK(m[0].len == sizeof(large) && filled(m[0].data, m[0].len, 5));
		else
			CHECK(m[0].len == 0);
		CHECK(thmq_release(c, m, 1) == 0);
		n++;
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* ---------------------------------------------------------------- acknowledgements */

static void acknowledged(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *in, *out;
	struct thmq_consumer *c, *d;
	struct thmq_message m[3];
	struct thmq_event e;
	struct thmq_txn *t;
	int i;

	CHECK(thmq_topic_create(s, "in", NULL) == 0 && thmq_topic_create(s, "out", NULL) == 0);
	in = producer_of(s, "in");
	out = producer_of(s, "out");
	for (i = 0; i < 3; i++)
		put(in, NULL, 0, "x");
	CHECK(thmq_flush(in, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, "in", "g", NULL, &c) == 0);
	CHECK(fetch(s, c, m, 3, 5 * SECOND) >= 1);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_txn_ack(t, c, &m[0]) == 0);
	put(out, t, 0, "y");
	CHECK(thmq_txn_abort(t, 30 * SECOND) == 0);
	CHECK(stands_at(s, "in", "g") == UINT64_MAX);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_txn_ack(t, c, &m[0]) == 0 && thmq_txn_ack(t, c, &m[0]) == 0);
	put(out, t, 0, "z");
	CHECK(thmq_txn_prepare(t, SECOND) == -EINVAL); /* without a name, and with an acknowledgement */
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	stands_soon(s, "in", "g", 1);
	/* another member has it by now: what the first one did is done again, and so it does not count */
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 1) == 0);
	CHECK(fetch(s, c, m, 1, 5 * SECOND) == 1 && m[0].offset == 1);
	CHECK(thmq_txn_ack(t, c, &m[0]) == 0);
	put(out, t, 0, "never");
	CHECK(thmq_group_delete(other, "in", "g", THMQ_GROUP_FORCE) == 0);
	i = thmq_txn_commit(t, 5 * SECOND);
	CHECK(i == -THMQ_EFENCED || i == -EINVAL); /* the group is none any more */
	CHECK(thmq_consumer_open(other, "in", "h", NULL, &d) == 0);
	CHECK(fetch(other, d, m, 1, 5 * SECOND) == 1 && m[0].offset == 0);
	d = reader_of(other, "out", 0);
	expect_text(other, d, "z");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	while (thmq_events(other, &e, 1) == 1)
		;
	CHECK(thmq_session_close(other, 30 * SECOND) == 0);
}

/* Who was not told asks again: what it acknowledges was said by then, and is taken no more. */
static void asked_again(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *in, *out;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_txn *t;
	uint64_t wait;
	int i, rc;

	CHECK(thmq_topic_create(s, "in", NULL) == 0 && thmq_topic_create(s, "out", NULL) == 0);
	in = producer_of(s, "in");
	out = producer_of(s, "out");
	for (i = 0; i < 30; i++)
		put(in, NULL, 0, "x");
	CHECK(thmq_flush(in, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, "in", "g", NULL, &c) == 0);
	for (i = 0; i < 30; i++) {
		CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && m.offset == (uint64_t)i);
		CHECK(thmq_txn_begin(s, NULL, &t) == 0 && thmq_txn_ack(t, c, &m) == 0);
		put(out, t, 0, "y");
		CHECK(thmq_release(c, &m, 1) == 0);
		for (wait = 1000u << i % 10; (rc = thmq_txn_commit(t, wait)) == -ETIMEDOUT; wait *= 2)
			CHECK(wait < 60 * SECOND);
		CHECK(rc == 0);
		stands_soon(s, "in", "g", (uint64_t)i + 1);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* A claim that is committed behind the end of its transaction is no part of it, and takes nothing of it along. */
static void late_claim(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_claim claim;
	struct thmq_txn *t;

	CHECK(thmq_topic_create(s, "l", NULL) == 0);
	p = producer_of(s, "l");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "in-time");
	CHECK(thmq_claim(p, TXN(.txn = t), 4, &claim) == 0);
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	memcpy(claim.data, "late", 4);
	CHECK(thmq_commit(p, &claim) == -ECANCELED);
	CHECK(thmq_commit(p, &claim) == -EINVAL && thmq_abort(p, &claim) == -EINVAL); /* it is spent */
	put(p, NULL, 0, "on");
	c = reader_of(s, "l", 0);
	expect_text(s, c, "in-time on");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* A member whose partition goes to another while its transaction is open. */
static void taken_over(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *in, *out;
	struct thmq_consumer *c, *d;
	struct thmq_message m[2];
	struct thmq_txn *t;

	CHECK(thmq_topic_create(s, "in", NULL) == 0 && thmq_topic_create(s, "out", NULL) == 0);
	in = producer_of(s, "in");
	out = producer_of(s, "out");
	put(in, NULL, 0, "x");
	CHECK(thmq_flush(in, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, "in", "g", THMQ_CONSUMER_OPTS(.instance = "one"), &c) == 0);
	CHECK(fetch(s, c, m, 1, 5 * SECOND) == 1);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0 && thmq_txn_ack(t, c, &m[0]) == 0);
	put(out, t, 0, "never");
	/* the same name: it has all that the first one had */
	CHECK(thmq_consumer_open(other, "in", "g", THMQ_CONSUMER_OPTS(.instance = "one"), &d) == 0);
	CHECK(fetch(other, d, m + 1, 1, 5 * SECOND) == 1 && m[1].offset == 0);
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -THMQ_EFENCED);
	CHECK(stands_at(other, "in", "g") == UINT64_MAX);
	d = reader_of(other, "out", 0);
	expect_text(other, d, "");
	put(out, NULL, 0, "on");
	expect_text(other, d, "on");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(other, 30 * SECOND) == 0);
}

/* ---------------------------------------------------------------------- who ends it */

static void fenced(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *p, *q;
	struct thmq_consumer *c;
	struct thmq_txn *t, *u;

	CHECK(thmq_topic_create(s, "f", NULL) == 0);
	p = producer_of(s, "f");
	q = producer_of(other, "f");
	c = reader_of(s, "f", 0);
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = "me"), &t) == 0);
	put(p, t, 0, "old");
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_txn_begin(other, THMQ_TXN_OPTS(.name = "me"), &u) == 0);
	put(q, u, 0, "new");
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -THMQ_EFENCED);
	CHECK(thmq_txn_commit(u, 30 * SECOND) == 0);
	expect_text(s, c, "new");
	/* and so does a producer of that name */
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = "me"), &t) == 0);
	put(p, t, 0, "old");
	CHECK(thmq_producer_open(other, "f", THMQ_PRODUCER_OPTS(.name = "me"), &q) == 0);
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -THMQ_EFENCED);
	put(q, NULL, 0, "end");
	expect_text(s, c, "end");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(other, 30 * SECOND) == 0);
}

static void time_is_over(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *p, *q;
	struct thmq_consumer *c;
	struct thmq_event e;
	struct thmq_txn *t;

	CHECK(thmq_topic_create(s, "o", NULL) == 0);
	p = producer_of(s, "o");
	q = producer_of(other, "o");
	c = reader_of(s, "o", 0);
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.timeout_ns = 100 * MS), &t) == 0);
	put(p, t, 0, "late");
	put(p, NULL, 0, "one");
	expect_text(s, c, "one"); /* as soon as it is aborted */
	put(p, t, 0, "later");
	CHECK(next_event(s, THMQ_EVENT_FAILED, &e, 5 * SECOND) && e.error == -ECANCELED);
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -ECANCELED);
	/* a session that ends takes its transactions along */
	CHECK(thmq_txn_begin(other, NULL, &t) == 0);
	put(q, t, 0, "left");
	CHECK(thmq_flush(q, 30 * SECOND) == 0);
	put(p, NULL, 0, "two");
	expect_text(s, c, "");
	CHECK(thmq_session_close(other, 30 * SECOND) == 0);
	expect_text(s, c, "two");
	CHECK(thmq_flush(p, SECOND) == -EIO && thmq_session_close(s, 30 * SECOND) == 0);
}

static void checked_back(void)
{
	struct thmq_session *s = session_of(NULL), *w = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_event e;
	struct thmq_txn *t;
	uint64_t ids[3];
	int i;

	CHECK(thmq_topic_create(s, "half", NULL) == 0);
	p = producer_of(s, "half");
	c = reader_of(w, "half", 0);
	for (i = 0; i < 3; i++) {
		CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = "shop", .check_ns = 50 * MS, .check_max = i == 2 ? 2 : 0), &t) == 0);
		ids[i] = thmq_txn_id(t);
		put(p, t, 0, i == 0 ? "yes" : "no");
		CHECK(thmq_txn_prepare(t, 5 * SECOND) == 0 && thmq_txn_prepare(t, SECOND) == 0);
		CHECK(thmq_send(p, "x", 1, TXN(.txn = t)) == -EINVAL);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0); /* and they are there still */
	CHECK(thmq_txn_decide(w, ids[0], THMQ_TXN_COMMIT, SECOND) == -EPERM);
	CHECK(thmq_txn_watch(w, "shop") == 0 && thmq_txn_watch(w, "shop") == 0);
	for (i = 0; i < 2;) {
		CHECK(next_event(w, THMQ_EVENT_TXN_CHECK, &e, 5 * SECOND) && e.count >= 1);
		if (e.sequence == ids[i]) {
			CHECK(thmq_txn_decide(w, ids[i], i == 0 ? THMQ_TXN_COMMIT : THMQ_TXN_ABORT, 5 * SECOND) == 0);
			i++;
		}
	}
	CHECK(thmq_txn_decide(w, ids[0], THMQ_TXN_COMMIT, 5 * SECOND) == 0);
	CHECK(thmq_txn_decide(w, ids[0], THMQ_TXN_ABORT, 5 * SECOND) == -EALREADY);
	expect_text(w, c, "yes");
	p = producer_of(w, "half");
	put(p, NULL, 0, "behind"); /* the third one is asked for twice, and aborted then */
	expect_text(w, c, "behind");
	CHECK(thmq_txn_decide(w, ids[2], THMQ_TXN_COMMIT, 5 * SECOND) == -ECANCELED);
	CHECK(thmq_session_close(w, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------------ refused */

static void refused(void)
{
	static uint8_t large[3 << 20];
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_producer *p, *v, *k, *q;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	struct thmq_txn *t;

	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = "not a name"), &t) == -EINVAL);
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.flags = 1), &t) == -EINVAL && thmq_txn_begin(s, NULL, NULL) == -EINVAL);
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.timeout_ns = 3601 * SECOND), &t) == -EINVAL);
	CHECK(thmq_txn_commit(NULL, 0) == -EINVAL && thmq_txn_abort(NULL, 0) == -EINVAL && thmq_txn_prepare(NULL, 0) == -EINVAL);
	CHECK(thmq_txn_decide(s, 0, THMQ_TXN_COMMIT, 0) == -EINVAL && thmq_txn_decide(s, 1, 3, 0) == -EINVAL);
	CHECK(thmq_txn_watch(s, "") == -EINVAL && thmq_txn_id(NULL) == 0);
	CHECK(thmq_topic_create(s, "p", NULL) == 0);
	CHECK(thmq_topic_create(s, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_topic_create(s, "k", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	p = producer_of(s, "p");
	v = producer_of(s, "v");
	k = producer_of(s, "k");
	q = producer_of(other, "p");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_send(v, "x", 1, TXN(.txn = t)) == -ENOTSUP);
	CHECK(thmq_send(q, "x", 1, TXN(.txn = t)) == -EINVAL); /* another session's */
	CHECK(thmq_send(p, "x", 1, TXN(.txn = t, .delay_ns = SECOND)) == -EINVAL);
	CHECK(thmq_send(p, "x", 1, TXN(.txn = t, .flags = THMQ_MESSAGE_EXPECT_END)) == -EINVAL);
	CHECK(thmq_send(p, large, sizeof(large), TXN(.txn = t)) == -EMSGSIZE);
	CHECK(thmq_send(p, "x", 1, TXN(.txn = (struct thmq_txn *)p)) == -EINVAL);
	CHECK(thmq_consumer_open(s, "p", "sh", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED | THMQ_CONSUMER_READ_UNCOMMITTED), &c) == -EINVAL);
	CHECK(thmq_consumer_open(s, "p", "sh", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &c) == 0);
	put(p, NULL, 0, "one");
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1);
	CHECK(thmq_txn_ack(t, c, &m) == -EOPNOTSUPP);
	CHECK(thmq_ack(c, &m) == 0);
	put(p, t, 0, "two");
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	CHECK(thmq_send(p, "x", 1, TXN(.txn = t)) == -EINVAL); /* over */
	/* what the broker refuses aborts all of it */
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "no");
	put(k, t, 0, "no");
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -EIO);
	CHECK(next_event(s, THMQ_EVENT_FAILED, &e, 5 * SECOND) && e.error == -ENOTSUP);
	put(p, NULL, 0, "three");
	expect_text(s, c, "two three"); /* members that share pass over it, too */
	CHECK(thmq_flush(k, SECOND) == -EIO);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(other, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------ who administers them */

#define MANY 70u /* more than two pages of the list */

static struct thmq_txn_info *listed(struct thmq_session *s, int *ret_count)
{
	static struct thmq_txn_info infos[2 * MANY];

	infos[0].size = sizeof(infos[0]);
	*ret_count = thmq_txn_list(s, infos, 2 * MANY);
	CHECK(*ret_count >= 0);
	return infos;
}

/* Until so many are left: an end is told before all shards have heard of it. */
static struct thmq_txn_info *are_left(struct thmq_session *s, int count)
{
	uint64_t end = now() + 10 * SECOND;
	struct thmq_txn_info *infos;
	int n;

	while ((infos = listed(s, &n)), n != count && now() < end)
		thmq_session_wait(s, MS);
	CHECK(n == count);
	return infos;
}

static void list_is_whole(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_txn *t[MANY], *named;
	struct thmq_txn_info *infos, few[3];
	struct {
		uint32_t size, state;
		uint64_t id;
	} old[2]; /* of a program that knows less */
	struct timespec wall;
	uint32_t i;
	int n;

	clock_gettime(CLOCK_REALTIME, &wall);
	are_left(s, 0);
	for (i = 0; i < MANY; i++)
		CHECK(thmq_txn_begin(other, THMQ_TXN_OPTS(.timeout_ns = 100 * SECOND), &t[i]) == 0);
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = "one"), &named) == 0);
	infos = listed(s, &n);
	CHECK(n == MANY + 1);
	for (i = 0; i < MANY; i++) {
		CHECK(infos[i].id == thmq_txn_id(t[i]) && infos[i].state == THMQ_TXN_OPEN && !infos[i].name[0] && infos[i].identity[0]);
		CHECK(infos[i].left_ns > 60 * SECOND && infos[i].left_ns <= 100 * SECOND && infos[i].check_max == 15 && !infos[i].checks);
		CHECK(infos[i].since_ns / SECOND >= (uint64_t)wall.tv_sec && infos[i].since_ns / SECOND < (uint64_t)wall.tv_sec + 100);
	}
	CHECK(infos[MANY].id == thmq_txn_id(named) && strcmp(infos[MANY].name, "one") == 0);
	few[0].size = sizeof(few[0]);
	few[2].id = 7;
	CHECK(thmq_txn_list(s, few, 2) == MANY + 1 && few[1].id == thmq_txn_id(t[1]) && few[2].id == 7);
	CHECK(thmq_txn_list(s, NULL, 0) == MANY + 1);
	old[0].size = sizeof(old[0]);
	CHECK(thmq_txn_list(s, (struct thmq_txn_info *)old, 2) == MANY + 1 && old[1].id == thmq_txn_id(t[1]) && old[1].state == THMQ_TXN_OPEN);
	/* what ends meanwhile does not matter: the others are all there */
	for (i = 0; i < MANY; i += 2)
		CHECK(thmq_txn_abort(t[i], 30 * SECOND) == 0);
	infos = are_left(s, MANY / 2 + 1);
	for (i = 1; i < MANY; i += 2)
		CHECK(infos[i / 2].id == thmq_txn_id(t[i]));
	few[0].size = 0;
	CHECK(thmq_txn_list(s, few, 2) == -EINVAL && thmq_txn_list(s, NULL, 2) == -EINVAL && thmq_txn_list(NULL, NULL, 0) == -EINVAL);
	CHECK(thmq_session_close(other, 30 * SECOND) == 0);
	CHECK(thmq_txn_commit(named, 30 * SECOND) == 0);
	are_left(s, 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* One that holds up a partition, whosever it is. */
static void forced(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_txn_info *infos;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_txn *t;
	uint64_t id;

	CHECK(thmq_topic_create(s, "fo", NULL) == 0);
	p = producer_of(other, "fo");
	c = reader_of(s, "fo", 0);
	are_left(s, 0);
	CHECK(thmq_txn_begin(other, NULL, &t) == 0);
	put(p, t, 0, "stuck");
	put(p, NULL, 0, "waits");
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	expect_text(s, c, "");
	id = are_left(s, 1)[0].id;
	CHECK(id == thmq_txn_id(t));
	CHECK(thmq_txn_force(s, id, THMQ_TXN_COMMIT, 5 * SECOND) == -EINVAL); /* whether it is whole its session knows */
	CHECK(thmq_txn_force(s, id, 3, SECOND) == -EINVAL && thmq_txn_force(s, 0, THMQ_TXN_ABORT, SECOND) == -EINVAL);
	CHECK(thmq_txn_force(s, id + 1, THMQ_TXN_ABORT, SECOND) == -ENOENT && thmq_txn_force(s, id + 1, THMQ_TXN_COMMIT, SECOND) == -ENOENT);
	CHECK(thmq_txn_force(NULL, id, THMQ_TXN_ABORT, SECOND) == -EINVAL);
	CHECK(thmq_txn_force(s, id, THMQ_TXN_ABORT, 5 * SECOND) == 0);
	expect_text(s, c, "waits");
	are_left(s, 0);
	CHECK(thmq_txn_force(s, id, THMQ_TXN_ABORT, 5 * SECOND) == -ENOENT);
	put(p, t, 0, "late"); /* it does not know yet */
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -ECANCELED);
	CHECK(thmq_flush(p, 5 * SECOND) == -EIO); /* it was refused */
	put(p, NULL, 0, "more");
	expect_text(s, c, "more");
	/* prepared ones */
	CHECK(thmq_txn_begin(other, THMQ_TXN_OPTS(.name = "shop"), &t) == 0);
	put(p, t, 0, "good");
	CHECK(thmq_txn_prepare(t, 5 * SECOND) == 0);
	id = thmq_txn_id(t);
	CHECK(thmq_txn_begin(other, THMQ_TXN_OPTS(.name = "shop"), &t) == 0);
	put(p, t, 0, "bad");
	CHECK(thmq_txn_prepare(t, 5 * SECOND) == 0);
	infos = are_left(s, 2);
	CHECK(infos[0].state == THMQ_TXN_PREPARED && infos[1].state == THMQ_TXN_PREPARED && infos[1].left_ns <= 30 * SECOND);
	CHECK(thmq_txn_decide(s, id, THMQ_TXN_COMMIT, SECOND) == -EPERM); /* nobody watches it here */
	CHECK(thmq_txn_force(s, id, THMQ_TXN_COMMIT, 5 * SECOND) == 0);
	CHECK(thmq_txn_force(s, id, THMQ_TXN_COMMIT, 5 * SECOND) == 0); /* it is so */
	CHECK(thmq_txn_force(s, id, THMQ_TXN_ABORT, 5 * SECOND) == -EALREADY);
	CHECK(thmq_txn_force(s, thmq_txn_id(t), THMQ_TXN_ABORT, 5 * SECOND) == 0);
	expect_text(s, c, "good");
	are_left(s, 0);
	CHECK(thmq_txn_commit(t, 5 * SECOND) == -ECANCELED);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(other, 30 * SECOND) == 0);
}

/* The newest message of a key is none that was aborted. */
static void keys(void)
{
	struct thmq_key_info info = {.size = sizeof(info)};
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_event e;
	struct thmq_txn *t;

	CHECK(thmq_topic_create(s, "keys", NULL) == 0);
	p = producer_of(s, "keys");
	CHECK(thmq_send(p, "1", 1, TXN(.key = "k", .key_len = 1)) > 0 && thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_send(p, "2", 1, TXN(.key = "k", .key_len = 1, .txn = t)) > 0 && thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_key_find(s, "keys", 0, "k", 1, UINT64_MAX, &info) == 0 && info.offset == 0);
	CHECK(thmq_txn_abort(t, 30 * SECOND) == 0);
	CHECK(thmq_key_find(s, "keys", 0, "k", 1, UINT64_MAX, &info) == 0 && info.offset == 0);
	CHECK(thmq_send(p, "3", 1, TXN(.key = "k", .key_len = 1, .flags = THMQ_MESSAGE_EXPECT_KEY, .expected = 0)) > 0);
	CHECK(thmq_flush(p, 30 * SECOND) == 0 && !next_event(s, THMQ_EVENT_FAILED, &e, 0));
	CHECK(thmq_key_find(s, "keys", 0, "k", 1, UINT64_MAX, &info) == 0 && info.offset == 2);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* ----------------------------------------------------------- with what else there is */

/* How far @c is; soon. */
static void is_soon_at(struct thmq_session *s, struct thmq_consumer *c, uint64_t offset)
{
	uint64_t end = now() + 10 * SECOND, at = 0;

	do {
		CHECK(thmq_consumer_position(c, 0, &at) == 0);
		if (at != offset)
			thmq_session_wait(s, MS);
	} while (at != offset && now() < end);
	CHECK(at == offset);
}

/* Who reads to the end comes there, though the last ones are none; and no further than to one that is open. */
static void positions(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c, *raw, *tagged;
	struct thmq_producer *p;
	struct thmq_txn *t;

	CHECK(thmq_topic_create(s, "p", NULL) == 0);
	p = producer_of(s, "p");
	put(p, NULL, 0, "one");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "two");
	put(p, t, 0, "three");
	put(p, NULL, 0, "four");
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	c = reader_of(s, "p", 0);
	raw = reader_of(s, "p", THMQ_CONSUMER_READ_UNCOMMITTED);
	CHECK(thmq_consumer_open(s, "p", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN, .filter = "tag = 'none'"), &tagged) == 0);
	expect_text(s, c, "one");
	expect_text(s, raw, "one two three four");
	is_soon_at(s, c, 1);
	is_soon_at(s, raw, 4);
	is_soon_at(s, tagged, 1);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "five"); /* the first one is open still */
	CHECK(thmq_txn_abort(t, 30 * SECOND) == 0);
	is_soon_at(s, c, 1);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0); /* and that ends it */
	s = session_of(NULL);
	c = reader_of(s, "p", 0);
	expect_text(s, c, "one four");
	is_soon_at(s, c, end_of(s, "p", 0));
	CHECK(end_of(s, "p", 0) == 5);
	CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, 1) == 0); /* to where one was aborted */
	expect_text(s, c, "four");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Each priority is partitions of its own: one transaction over all of them. */
static void priorities(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_txn *t;
	uint32_t i, seen[3] = {0};

	CHECK(thmq_topic_create(s, "pr", THMQ_TOPIC_OPTS(.priorities = 3)) == 0);
	p = producer_of(s, "pr");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	for (i = 0; i < 3; i++)
		CHECK(thmq_send(p, "no", 2, TXN(.priority = i, .txn = t)) > 0);
	CHECK(thmq_txn_abort(t, 30 * SECOND) == 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	for (i = 0; i < 30; i++)
		CHECK(thmq_send(p, "yes", 3, TXN(.priority = i % 3, .txn = t)) > 0);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_consumer_open(s, "pr", "g", NULL, &c) == 0);
	CHECK(fetch(s, c, &m, 1, 30 * MS) == 0);
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	for (i = 0; i < 30; i++) {
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && m.len == 3);
		seen[thmq_message_priority(c, &m)]++;
		CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
	}
	CHECK(seen[0] == 10 && seen[1] == 10 && seen[2] == 10);
	CHECK(fetch(s, c, &m, 1, 30 * MS) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* A message's time goes on while its transaction is open. */
static void time_to_live(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_txn *t;
	uint64_t begin;

	CHECK(thmq_topic_create(s, "ttl", NULL) == 0);
	p = producer_of(s, "ttl");
	c = reader_of(s, "ttl", 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	CHECK(thmq_send(p, "short", 5, TXN(.ttl_ns = 20 * MS, .txn = t)) > 0);
	CHECK(thmq_send(p, "long", 4, TXN(.ttl_ns = 1000 * SECOND, .txn = t)) > 0);
	for (begin = now(); now() - begin < 60 * MS;)
		thmq_session_wait(s, MS);
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	expect_text(s, c, "long");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* A topic whose retention is altered meanwhile, and one that is deleted under a transaction. */
static void altered(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p, *q;
	struct thmq_consumer *c;
	struct thmq_txn *t;
	int rc;

	CHECK(thmq_topic_create(s, "al", NULL) == 0 && thmq_topic_create(s, "de", NULL) == 0);
	p = producer_of(s, "al");
	q = producer_of(s, "de");
	c = reader_of(s, "al", 0);
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "a");
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_topic_alter(s, "al", THMQ_TOPIC_OPTS(.retention_bytes = 1u << 30), THMQ_ALTER_RETENTION_BYTES) == 0);
	put(p, t, 0, "b");
	CHECK(thmq_txn_commit(t, 30 * SECOND) == 0);
	expect_text(s, c, "a b");
	CHECK(thmq_txn_begin(s, NULL, &t) == 0);
	put(p, t, 0, "c");
	put(q, t, 0, "x");
	CHECK(thmq_flush(p, 30 * SECOND) == 0 && thmq_flush(q, 30 * SECOND) == 0);
	CHECK(thmq_topic_delete(s, "de") == 0);
	rc = thmq_txn_commit(t, 5 * SECOND); /* what was in it is gone with the topic; the rest counts */
	CHECK(rc == 0);
	expect_text(s, c, "c");
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------------ at random */

#define OPEN_AT_ONCE 6u
#define PARTITIONS 3u
#define ALL 4000u

enum fate { PENDING, COMMITTED, ABORTED };

static struct {
	uint32_t txn; /* place in fates; 0: none */
	bool seen;
} sent[PARTITIONS][ALL];
static uint32_t counts[PARTITIONS], at[PARTITIONS];
static uint8_t fates[ALL];

/* Consumers see exactly what lies below the first message of an open transaction, but for what was aborted. */
static void look(struct thmq_session *s, struct thmq_consumer *c, bool all)
{
	struct thmq_message m;
	uint32_t id, i, behind;

	for (;;) {
		for (behind = 0, i = 0; i < PARTITIONS; i++) {
			while (at[i] < counts[i] && fates[sent[i][at[i]].txn] == ABORTED)
				at[i]++;
			behind |= at[i] < counts[i] && fates[sent[i][at[i]].txn] == COMMITTED;
		}
		if (fetch(s, c, &m, 1, all && behind ? 10 * SECOND : 0) != 1)
			break;
		memcpy(&id, m.data, 4);
		i = m.partition;
		CHECK(m.len == 4 && i < PARTITIONS && id == at[i] && fates[sent[i][id].txn] == COMMITTED);
		at[i]++;
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(!all || !behind);
}

static void at_random(void)
{
	uint32_t rounds = getenv("THMQ_TEST_FULL") ? 100000 : 1500, next = 1, i, n, id, seed = (uint32_t)now();
	struct thmq_txn *open[OPEN_AT_ONCE] = {NULL};
	uint32_t which[OPEN_AT_ONCE] = {0};
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	struct thmq_consumer *c;
	int rc;

	srandom(seed);
	printf("seed %u\n", seed);
	CHECK(thmq_topic_create(s, "r", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	p = producer_of(s, "r");
	c = reader_of(s, "r", 0);
	fates[0] = COMMITTED;
	while (rounds--) {
		i = (uint32_t)random() % OPEN_AT_ONCE;
		n = (uint32_t)random() % PARTITIONS;
		if (next == ALL || counts[n] == ALL)
			break;
		switch (random() % 8) {
		case 0:
			if (open[i]) {
				CHECK(thmq_txn_commit(open[i], 30 * SECOND) == 0);
				fates[which[i]] = COMMITTED;
				open[i] = NULL;
			}
			break;
		case 1:
			if (open[i]) {
				CHECK(thmq_txn_abort(open[i], 30 * SECOND) == 0);
				fates[which[i]] = ABORTED;
				open[i] = NULL;
			}
			break;
		case 2:
			look(s, c, false);
			break;
		default:
			if (!open[i] && random() % 4) {
				CHECK(thmq_txn_begin(s, NULL, &open[i]) == 0);
				which[i] = next++;
			}
			sent[n][counts[n]].txn = open[i] ? which[i] : 0;
			id = counts[n]++;
			rc = (int)thmq_send(p, &id, 4, TXN(.flags = THMQ_MESSAGE_PARTITION, .partition = n, .txn = open[i]));
			CHECK(rc > 0);
		}
	}
	for (i = 0; i < OPEN_AT_ONCE; i++)
		if (open[i]) {
			CHECK(thmq_txn_commit(open[i], 30 * SECOND) == 0);
			fates[which[i]] = COMMITTED;
		}
	look(s, c, true);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static const struct test_case cases[] = {{"all_or_nothing", all_or_nothing}, {"whole_messages", whole_messages}, {"acknowledged", acknowledged},
					 {"asked_again", asked_again},	     {"late_claim", late_claim},
					 {"taken_over", taken_over},	     {"fenced", fenced},	     {"time_is_over", time_is_over},
					 {"checked_back", checked_back},     {"refused", refused},	     {"keys", keys},
					 {"list_is_whole", list_is_whole},   {"forced", forced},
					 {"positions", positions},	     {"priorities", priorities},     {"time_to_live", time_to_live},
					 {"altered", altered},		     {"at_random", at_random}};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
