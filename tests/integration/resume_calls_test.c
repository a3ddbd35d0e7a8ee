/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume_calls_test.c - every call that waits, and its connection breaks meanwhile: at the first sending of the call, at the second, … until
 * one comes through whole; likewise at each receiving, what came being lost; and the same where the broker is closed and opened again at
 * that moment. What the call returns must be true, whatever was lost: what it says was done is done, once.
 *
 * usage: resume_calls_test [call …]. THMQ_TEST_FULL: the broker is opened anew at each step, and connections break twice.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <thundermq/transport.h>
#include <unistd.h>

#include "../check.h"

static char dir[] = "resume-calls-XXXXXX";
static char url[64] = "tcp://127.0.0.1:0";
static struct thmq_env *home, *away; /* the broker's, with a thread; the session's, which this thread drives */
static struct thmq_broker *broker;
static struct thmq_session *witness; /* of the broker's environment: nothing happens to its connection but that the broker is another */
static struct thmq_session *s;       /* the one that suffers */
static bool full;

static void broker_up(void)
{
	int rc = thmq_broker_open(home, THMQ_BROKER_OPTS(.data_dir = dir, .name = "b", .listen = url, .shard_count = 2, .segment_bytes = 1 << 20),
				  &broker);

	CHECK(rc == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
}

/* ------------------------------------------------------------------- the break */

enum { SENDING, RECEIVING, MOMENTS };

static struct {
	uint32_t moment; /* SENDING, RECEIVING */
	uint32_t left;   /* of them until it breaks; 0: it does not */
	uint32_t again;  /* likewise, after the first break; 0: no second one */
	bool reopen;     /* the broker, then */
	bool broken;
	void *end; /* the connection that something was lost on: what it does next ends it */
} cut;

static uintptr_t connections;

static int opened(void *ctx, const struct thmq_connection *connection, void **ret_state)
{
	(void)ctx, (void)connection;
	*ret_state = (void *)++connections; /* which one it is */
	return 0;
}

static void breaks(struct thmq_intercept *what)
{
	cut.broken = true;
	cut.end = NULL;
	cut.left = cut.again;
	cut.again = 0;
	what->error = -ECONNRESET;
	if (!cut.reopen)
		return;
	cut.reopen = false;
	CHECK(thmq_broker_close(broker, 60 * SECOND) == 0); /* its device may be busy with others */
	broker_up();
}

static void before_send(void *state, struct thmq_intercept *what)
{
	if (cut.end == state || (cut.moment == SENDING && cut.left && --cut.left == 0))
		breaks(what);
}

static void before_receive(void *state, struct thmq_intercept *what)
{
	if (cut.end == state)
		breaks(what);
	else if (cut.moment == RECEIVING && cut.left == 1)
		what->flags |= THMQ_INTERCEPT_LOSE; /* if anything comes */
}

static void received(void *state, const struct iovec *iov, uint32_t count, uint64_t bytes)
{
	(void)iov, (void)count, (void)bytes;
	if (cut.moment == RECEIVING && cut.left && --cut.left == 0)
		cut.end = state;
}

static const struct thmq_interceptor breaker = {
	.size = sizeof(breaker), .open = opened, .before_send = before_send, .before_receive = before_receive, .received = received};

/* ------------------------------------------------------------- what the calls need */

static char name[32]; /* of this round's topic */

static struct thmq_session *connect_anew(void)
{
	struct thmq_session *it;

	CHECK(thmq_connect(away, url, THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = 60 * SECOND), &it) == 0);
	return it;
}

static void topic(const struct thmq_topic_opts *opts)
{
	CHECK(thmq_topic_create(witness, name, opts) == 0);
}

/* Messages 0 … @count - 1 of the round's topic, by the one whom nothing happens to. */
static void fill(uint32_t count, const struct thmq_message_opts *opts)
{
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_producer_open(witness, name, NULL, &p) == 0);
	for (i = 0; i < count; i++)
		CHECK(thmq_send(p, &i, sizeof(i), opts) > 0);
	CHECK(thmq_producer_close(p, 20 * SECOND) == 0);
}

/* Just messages 0 … @count - 1 are there, in this order, once. */
static void stored(uint32_t count)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t until = now() + 20 * SECOND, at = 0;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t i = 0, number;

	CHECK(thmq_partition_describe(witness, name, 0, NULL, &info) == 0);
	CHECK(thmq_consumer_open(witness, name, NULL, NULL, &c) == 0);
	while (at < info.end_offset || i < count) {
		CHECK(now() < until);
		if (thmq_fetch(c, &m, 1) == 1) {
			CHECK(m.len == sizeof(number));
			memcpy(&number, m.data, sizeof(number));
			CHECK(number == i++);
			CHECK(thmq_release(c, &m, 1) == 0);
		} else {
			thmq_session_wait(witness, MS);
		}
		CHECK(thmq_consumer_position(c, 0, &at) == 0);
	}
	CHECK(i == count);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

static struct thmq_producer *producer;
static struct thmq_consumer *consumer;

static void open_producer(void)
{
	topic(NULL);
	CHECK(thmq_producer_open(s, name, NULL, &producer) == 0);
}

static void close_producer(void)
{
	CHECK(thmq_producer_close(producer, 20 * SECOND) == 0);
}

static void send_three(void)
{
	uint32_t i;

	for (i = 0; i < 3; i++)
		CHECK(thmq_send(producer, &i, sizeof(i), NULL) > 0);
}

static struct thmq_message held[3];

/* Three messages, of which the group's member has fetched all. */
static void open_consumer(const char *group, uint32_t flags)
{
	uint64_t until = now() + 20 * SECOND;
	int n = 0, got;

	topic(NULL);
	fill(3, NULL);
	CHECK(thmq_consumer_open(s, name, group, THMQ_CONSUMER_OPTS(.flags = flags, .session_timeout_ns = 60 * SECOND), &consumer) == 0);
	while (n < 3) {
		CHECK(now() < until);
		got = thmq_fetch(consumer, held + n, 3 - (uint32_t)n);
		CHECK(got >= 0);
		n += got;
		if (!got)
			thmq_session_wait(s, MS);
	}
}

static void open_member(void)
{
	open_consumer("g", 0);
}

static void open_sharer(void)
{
	open_consumer("g", THMQ_CONSUMER_SHARED);
}

static void open_reader(void)
{
	open_consumer(NULL, 0);
}

static void close_consumer(void)
{
	CHECK(thmq_consumer_close(consumer, 20 * SECOND) == 0);
}

/* How many of three messages the group has not done. */
static uint64_t lag(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(witness, name, 0, "g", &info) == 0);
	return info.lag;
}


/* ------------------------------------------------------------------------ calls */

static void begin_connect(void)
{
}

/* What is not connected yet is not made again; nor is it where the broker closes, though the connection is none that breaks. */
static void call_connect(void)
{
	struct thmq_session *it;
	int rc, i;

	for (i = 0; (rc = thmq_connect(away, url, THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND), &it)) != 0; i++)
		CHECK(i < 2 && cut.broken && (rc == -ECONNRESET || rc == -ESHUTDOWN));
	CHECK(thmq_session_close(it, 20 * SECOND) == 0);
}

static void call_create(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_create(s, name, THMQ_TOPIC_OPTS(.partition_count = 3)) == 0);
	CHECK(thmq_topic_describe(witness, name, &info) == 0 && info.partition_count == 3);
}

static void begin_topic(void)
{
	topic(NULL);
}

static void call_create_again(void)
{
	CHECK(thmq_topic_create(s, name, NULL) == -EEXIST);
}

static void call_delete(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_delete(s, name) == 0);
	CHECK(thmq_topic_describe(witness, name, &info) == -THMQ_ENOTOPIC);
}

static void call_delete_none(void)
{
	CHECK(thmq_topic_delete(s, name) == -THMQ_ENOTOPIC);
}

static void call_alter(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_alter(s, name, THMQ_TOPIC_OPTS(.retention_ns = 77 * SECOND), THMQ_ALTER_RETENTION_TIME) == 0);
	CHECK(thmq_topic_describe(witness, name, &info) == 0 && info.retention_ns == 77 * SECOND);
}

static void begin_three(void)
{
	topic(NULL);
	fill(3, THMQ_MESSAGE_OPTS(.key = "k", .key_len = 1));
}

static void call_describe(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_list(s, NULL, 0) >= 1);
	CHECK(thmq_topic_describe(s, name, &info) == 0);
	CHECK(thmq_partition_describe(s, name, 0, NULL, &part) == 0);
	CHECK(part.end_offset - part.begin_offset == 3);
}

static void call_key_find(void)
{
	struct thmq_key_info info = {.size = sizeof(info)};

	CHECK(thmq_key_find(s, name, 0, "k", 1, UINT64_MAX, &info) == 0 && info.offset == 2);
}

static struct thmq_event delayed;

static void begin_delayed(void)
{
	struct thmq_producer *p;
	uint32_t number = 0;

	topic(NULL);
	CHECK(thmq_producer_open(s, name, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	CHECK(thmq_send(p, &number, sizeof(number), THMQ_MESSAGE_OPTS(.delay_ns = 3600 * SECOND)) > 0);
	do {
		while (thmq_events(s, &delayed, 1) == 0)
			CHECK(thmq_session_wait(s, 20 * SECOND) == 1);
	} while (delayed.type != THMQ_EVENT_SETTLED);
	CHECK(thmq_producer_close(p, 20 * SECOND) == 0);
}

static void call_delayed_cancel(void)
{
	int rc = thmq_delayed_cancel(s, name, delayed.partition, delayed.offset);

	CHECK(rc == 0 || (cut.broken && rc == -ECONNRESET));
	CHECK(thmq_delayed_cancel(witness, name, delayed.partition, delayed.offset) == -ENOENT);
}

static void call_producer(void)
{
	CHECK(thmq_producer_open(s, name, NULL, &producer) == 0);
	send_three();
	CHECK(thmq_producer_close(producer, 60 * SECOND) == 0);
	stored(3);
}

static void call_named_producer(void)
{
	CHECK(thmq_producer_open(s, name, THMQ_PRODUCER_OPTS(.name = "n"), &producer) == 0);
	CHECK(thmq_watermark(producer) == 0);
	send_three();
	CHECK(thmq_flush(producer, 60 * SECOND) == 0);
	CHECK(thmq_producer_close(producer, 60 * SECOND) == 0);
	CHECK(thmq_producer_open(s, name, THMQ_PRODUCER_OPTS(.name = "n"), &producer) == 0);
	CHECK(thmq_watermark(producer) == 3);
	CHECK(thmq_producer_close(producer, 60 * SECOND) == 0);
	stored(3);
}

static void call_flush(void)
{
	send_three();
	CHECK(thmq_flush(producer, 60 * SECOND) == 0);
	stored(3);
}

static void call_open_reader(void)
{
	CHECK(thmq_consumer_open(s, name, NULL, NULL, &consumer) == 0);
	CHECK(thmq_consumer_close(consumer, 60 * SECOND) == 0);
}

static void call_open_member(void)
{
	struct thmq_group_info info = {.size = sizeof(info)};

	CHECK(thmq_consumer_open(s, name, "g", NULL, &consumer) == 0);
	CHECK(thmq_group_describe(witness, name, "g", &info) == 0 && info.member_count <= 1);
	CHECK(thmq_consumer_close(consumer, 60 * SECOND) == 0);
}

static void call_open_sharer(void)
{
	CHECK(thmq_consumer_open(s, name, "g", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &consumer) == 0);
	CHECK(thmq_consumer_close(consumer, 60 * SECOND) == 0);
}

static void ack_all(bool each)
{
	int i;

	for (i = each ? 0 : 2; i < 3; i++)
		CHECK(thmq_ack(consumer, &held[i]) == 0);
}

static void call_consumer_flush(void)
{
	ack_all(false);
	CHECK(thmq_consumer_flush(consumer, 60 * SECOND) == 0);
	CHECK(lag() == 0);
}

static void call_sharer_flush(void)
{
	ack_all(true);
	CHECK(thmq_consumer_flush(consumer, 60 * SECOND) == 0);
	CHECK(lag() == 0);
}

static void call_consumer_close(void)
{
	ack_all(false);
	CHECK(thmq_consumer_close(consumer, 60 * SECOND) == 0);
	CHECK(lag() == 0);
}

static void call_sharer_close(void)
{
	ack_all(true);
	CHECK(thmq_consumer_close(consumer, 60 * SECOND) == 0);
	CHECK(lag() == 0);
}

static void one_more(uint32_t number)
{
	uint64_t until = now() + 60 * SECOND;
	struct thmq_message m;
	int n;

	while ((n = thmq_fetch(consumer, &m, 1)) == 0) {
		CHECK(now() < until);
		CHECK(thmq_session_wait(s, SECOND) >= 0);
	}
	CHECK(n == 1 && m.len == sizeof(number) && memcmp(m.data, &number, sizeof(number)) == 0);
	CHECK(thmq_release(consumer, &m, 1) == 0);
}

static void call_seek(void)
{
	CHECK(thmq_seek(consumer, 0, THMQ_START_OFFSET, 1) == 0);
	one_more(1);
	one_more(2);
}

static void call_position(void)
{
	uint64_t at = 0;

	CHECK(thmq_consumer_position(consumer, 0, &at) == 0 && at == 3);
}

/* What another one sends arrives, once. */
static void call_wait(void)
{
	fill(1, NULL);
	one_more(0);
	CHECK(thmq_fetch(consumer, held, 1) == 0);
}

static void begin_group(void)
{
	open_member();
	ack_all(false);
	CHECK(thmq_consumer_flush(consumer, 20 * SECOND) == 0);
	close_consumer();
}

static void call_groups(void)
{
	struct thmq_group_member members[2] = {{.size = sizeof(members[0])}};
	struct thmq_group_info infos[2] = {{.size = sizeof(infos[0])}};
	uint32_t owners[2];

	CHECK(thmq_group_list(s, name, infos, 2) == 1);
	CHECK(thmq_group_describe(s, name, "g", infos) == 0 && infos[0].lag == 0);
	CHECK(thmq_group_members(s, name, "g", members, 2) == 0);
	CHECK(thmq_group_owners(s, name, "g", owners, 2) == 1 && owners[0] == UINT32_MAX);
}

static void call_group_reset(void)
{
	CHECK(thmq_group_reset(s, name, "g", UINT32_MAX, THMQ_START_OFFSET, 1, 0) == 0);
	CHECK(lag() == 2);
}

static void call_group_delete(void)
{
	struct thmq_group_info info = {.size = sizeof(info)};

	CHECK(thmq_group_delete(s, name, "g", 0) == 0);
	CHECK(thmq_group_describe(witness, name, "g", &info) == -ENOENT);
}

static void begin_group_with_member(void)
{
	open_member();
	ack_all(false);
	CHECK(thmq_consumer_flush(consumer, 20 * SECOND) == 0);
}

/* A member that was away then, here the session's own, joins again: that makes another group. */
static void call_group_delete_force(void)
{
	struct thmq_group_info info = {.size = sizeof(info)};
	int rc;

	CHECK(thmq_group_delete(s, name, "g", THMQ_GROUP_FORCE) == 0);
	rc = thmq_group_describe(witness, name, "g", &info);
	CHECK(rc == -ENOENT || (cut.broken && rc == 0 && info.lag == 3));
}

static void close_dead_consumer(void)
{
	int rc = thmq_consumer_close(consumer, 20 * SECOND);

	CHECK(rc == 0 || rc == -ETIMEDOUT);
}

static void call_close(void)
{
	send_three();
	CHECK(thmq_session_close(s, 60 * SECOND) == 0);
	stored(3);
}

static void connect_again(void)
{
	s = connect_anew();
}

static void begin_close(void)
{
	open_producer();
}

/* -- requests */

static pthread_t answerer;
static atomic_bool answering;

static void *answer_all(void *arg)
{
	struct thmq_session *mine;
	struct thmq_consumer *c;
	struct thmq_message m;

	(void)arg;
	CHECK(thmq_connect(home, "inproc://b", THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND), &mine) == 0);
	CHECK(thmq_consumer_open(mine, name, NULL, NULL, &c) == 0);
	atomic_store(&answering, true);
	while (atomic_load(&answering)) {
		if (thmq_fetch(c, &m, 1) != 1) {
			thmq_session_wait(mine, 10 * MS);
			continue;
		}
		thmq_reply(mine, &m, "pong", 4, NULL);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_session_close(mine, 20 * SECOND) == 0);
	return NULL;
}

static void begin_call(void)
{
	open_producer();
	CHECK(pthread_create(&answerer, NULL, answer_all, NULL) == 0);
	while (!atomic_load(&answering))
		nap(MS);
}

static void end_call(void)
{
	atomic_store(&answering, false);
	CHECK(pthread_join(answerer, NULL) == 0);
	close_producer();
}

/* The answer lies in memory: a broker that is closed takes it along. */
static void call_call(void)
{
	const bool reopens = cut.reopen;
	struct thmq_response r;
	int rc = thmq_call(producer, "ping", 4, NULL, reopens ? 300 * MS : 60 * SECOND, &r);

	if (rc && reopens && cut.broken) {
		CHECK(rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -ENOBUFS || rc == -THMQ_ENOTOPIC);
		rc = thmq_call(producer, "ping", 4, NULL, 60 * SECOND, &r);
	}
	CHECK(rc == 0 && r.message.len == 4 && memcmp(r.message.data, "pong", 4) == 0);
	CHECK(thmq_response_release(s, &r, 1) == 0);
}

/* -- transactions */

static struct thmq_txn *txn;

static bool is_unknown(int rc)
{
	return cut.broken && (rc == -ECONNRESET || rc == -ETIMEDOUT);
}

static void call_txn_begin(void)
{
	int rc, i;

	for (i = 0; (rc = thmq_txn_begin(s, NULL, &txn)) != 0; i++)
		CHECK(i < 2 && is_unknown(rc));
	rc = thmq_txn_abort(txn, 20 * SECOND);
	if (is_unknown(rc))
		rc = thmq_txn_abort(txn, 20 * SECOND);
	CHECK(rc == 0 || (cut.broken && rc == -EINVAL));
}

static void begin_txn_named(const char *of)
{
	uint32_t i;

	open_producer();
	CHECK(thmq_txn_begin(s, THMQ_TXN_OPTS(.name = of, .timeout_ns = 600 * SECOND), &txn) == 0);
	for (i = 0; i < 3; i++)
		CHECK(thmq_send(producer, &i, sizeof(i), THMQ_MESSAGE_OPTS(.txn = txn)) > 0);
}

static void begin_txn(void)
{
	begin_txn_named(NULL);
}

static void begin_txn_to_prepare(void)
{
	begin_txn_named("t");
}

static void call_txn_commit(void)
{
	const bool reopens = cut.reopen;
	int rc;

	do
		rc = thmq_txn_commit(txn, 20 * SECOND);
	while (is_unknown(rc));
	CHECK(rc == 0 || (reopens && cut.broken && rc == -ECANCELED));
	stored(rc ? 0 : 3);
}

static void call_txn_abort(void)
{
	int rc = thmq_txn_abort(txn, 20 * SECOND);

	if (is_unknown(rc))
		rc = thmq_txn_abort(txn, 20 * SECOND);
	CHECK(rc == 0 || (cut.broken && rc == -EINVAL));
	stored(0);
}

static void call_txn_prepare(void)
{
	const bool reopens = cut.reopen;
	int rc;

	do
		rc = thmq_txn_prepare(txn, 20 * SECOND);
	while (is_unknown(rc));
	CHECK(rc == 0 || (reopens && cut.broken && rc == -ECANCELED));
	if (!rc) {
		do
			rc = thmq_txn_commit(txn, 20 * SECOND);
		while (is_unknown(rc));
		CHECK(rc == 0);
		stored(3);
	} else {
		stored(0);
	}
}

static uint64_t prepared;

static void begin_decide(void)
{
	begin_txn_named("t");
	prepared = thmq_txn_id(txn);
	CHECK(thmq_txn_prepare(txn, 20 * SECOND) == 0);
}

/* Where the broker is another one, or the connection, it is to be said again that one watches. */
static void call_txn_decide(void)
{
	uint64_t until = now() + 60 * SECOND;
	int rc;

	do {
		CHECK(now() < until);
		CHECK(thmq_txn_watch(s, "t") == 0);
		rc = thmq_txn_decide(s, prepared, THMQ_TXN_COMMIT, 20 * SECOND);
	} while (is_unknown(rc) || (cut.broken && rc == -EPERM));
	CHECK(rc == 0 || (cut.broken && rc == -EALREADY));
	stored(3);
}

static void end_decide(void)
{
	thmq_txn_commit(txn, 20 * SECOND); /* what became of it, as the session that began it hears */
	close_producer();
}

static const struct {
	const char *name;
	void (*begin)(void);
	void (*call)(void);
	void (*end)(void);
} calls[] = {
	{"connect", begin_connect, call_connect, NULL},
	{"topic_create", NULL, call_create, NULL},
	{"topic_create_again", begin_topic, call_create_again, NULL},
	{"topic_delete", begin_topic, call_delete, NULL},
	{"topic_delete_none", NULL, call_delete_none, NULL},
	{"topic_alter", begin_topic, call_alter, NULL},
	{"describe", begin_three, call_describe, NULL},
	{"key_find", begin_three, call_key_find, NULL},
	{"delayed_cancel", begin_delayed, call_delayed_cancel, NULL},
	{"producer", begin_topic, call_producer, NULL},
	{"named_producer", begin_topic, call_named_producer, NULL},
	{"flush", open_producer, call_flush, close_producer},
	{"open_reader", begin_topic, call_open_reader, NULL},
	{"open_member", begin_topic, call_open_member, NULL},
	{"open_sharer", begin_topic, call_open_sharer, NULL},
	{"consumer_flush", open_member, call_consumer_flush, close_consumer},
	{"sharer_flush", open_sharer, call_sharer_flush, close_consumer},
	{"consumer_close", open_member, call_consumer_close, NULL},
	{"sharer_close", open_sharer, call_sharer_close, NULL},
	{"seek", open_reader, call_seek, close_consumer},
	{"seek_member", open_member, call_seek, close_consumer},
	{"position", open_reader, call_position, close_consumer},
	{"wait", open_reader, call_wait, close_consumer},
	{"groups", begin_group, call_groups, NULL},
	{"group_reset", begin_group, call_group_reset, NULL},
	{"group_delete", begin_group, call_group_delete, NULL},
	{"group_delete_force", begin_group_with_member, call_group_delete_force, close_dead_consumer},
	{"call", begin_call, call_call, end_call},
	{"txn_begin", NULL, call_txn_begin, NULL},
	{"txn_commit", begin_txn, call_txn_commit, close_producer},
	{"txn_abort", begin_txn, call_txn_abort, close_producer},
	{"txn_prepare", begin_txn_to_prepare, call_txn_prepare, close_producer},
	{"txn_decide", begin_decide, call_txn_decide, end_decide},
	{"session_close", begin_close, call_close, connect_again},
};

/* --------------------------------------------------------------------- all of it */

/* No trace of a round is left for the next one. */
static void take_events(void)
{
	struct thmq_event e[16];

	while (thmq_events(s, e, 16) > 0)
		;
	while (thmq_events(witness, e, 16) > 0)
		;
}

/* Did it break? */
static bool round_of(size_t k, uint32_t moment, uint32_t step, bool reopen, bool twice)
{
	static uint32_t rounds;

	snprintf(name, sizeof(name), "t%u", rounds++);
	if (calls[k].begin)
		calls[k].begin();
	memset(&cut, 0, sizeof(cut));
	cut.moment = moment;
	cut.reopen = reopen;
	cut.again = twice ? 1 + step % 5 : 0;
	cut.left = step;
	calls[k].call();
	cut.left = cut.again = 0;
	cut.end = NULL;
	cut.reopen = false;
	if (calls[k].end)
		calls[k].end();
	take_events();
	return cut.broken;
}

static uint32_t sweep(size_t k, uint32_t moment, bool reopen, bool twice, uint32_t stride)
{
	uint32_t step;

	for (step = 1; round_of(k, moment, step, reopen, twice); step += stride)
		CHECK(step < 200);
	return step;
}

static void one(size_t k)
{
	static char what[64];
	uint64_t begin = now();
	uint32_t moment, steps[MOMENTS];

	running = what;
	s = connect_anew();
	for (moment = 0; moment < MOMENTS; moment++) {
		snprintf(what, sizeof(what), "%s, breaks as it %s", calls[k].name, moment ? "receives" : "sends");
		steps[moment] = sweep(k, moment, false, false, 1);
		snprintf(what, sizeof(what), "%s, reopened as it %s", calls[k].name, moment ? "receives" : "sends");
		if (full)
			sweep(k, moment, true, false, 1);
		else if (steps[moment] > 1) /* one of them */
			round_of(k, moment, 1 + (uint32_t)k % (steps[moment] - 1), true, false);
		snprintf(what, sizeof(what), "%s, breaks twice as it %s", calls[k].name, moment ? "receives" : "sends");
		if (full)
			sweep(k, moment, false, true, 1);
		if (full)
			sweep(k, moment, true, true, 1);
	}
	CHECK(steps[SENDING] + steps[RECEIVING] > 2);
	CHECK(thmq_session_close(s, 20 * SECOND) == 0);
	printf("ok %s: %u sendings, %u receivings (%llu ms)\n", calls[k].name, steps[SENDING] - 1, steps[RECEIVING] - 1,
	       (unsigned long long)((now() - begin) / MS));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char command[64];
	bool wanted;
	size_t k;
	int i;

	full = getenv("THMQ_TEST_FULL") != NULL;
	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	broker_up();
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_transport_intercept(away, &breaker) == 0);
	CHECK(thmq_connect(home, "inproc://b", THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = 60 * SECOND), &witness) == 0);
	for (k = 0; k < sizeof(calls) / sizeof(*calls); k++) {
		for (wanted = argc == 1, i = 1; i < argc; i++)
			wanted = wanted || strcmp(argv[i], calls[k].name) == 0;
		if (wanted)
			one(k);
	}
	running = "down";
	CHECK(thmq_session_close(witness, 20 * SECOND) == 0);
	CHECK(thmq_env_close(away, 20 * SECOND) == 0);
	CHECK(thmq_env_close(home, 20 * SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK(system(command) == 0);
	return 0;
}
