/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_handle_test.c - every public call with NULL for each pointer, with a closed handle, and with a handle of
 * another kind: an error, and nothing else happens.
 */
#include "bad_input.h"

/* Of shared groups, transactions, requests, and of those who administer. */
static void calls_of_features(struct thmq_session *session, struct thmq_producer *producer, struct thmq_consumer *consumer)
{
	struct thmq_group_member member = {.size = sizeof(member)};
	struct thmq_group_info group = {.size = sizeof(group)};
	struct thmq_txn_info info = {.size = sizeof(info)};
	struct thmq_key_info key = {.size = sizeof(key)};
	struct thmq_txn *txn = NULL;
	struct thmq_response r;
	struct thmq_message m;
	struct thmq_row row;
	uint64_t offset;
	uint32_t owner;

	memset(&m, 0, sizeof(m));
	memset(&r, 0, sizeof(r));
	memset(&row, 0, sizeof(row));
	RETURNS(-EINVAL, thmq_claim_row(producer, NULL, 8, 2, &row));
	RETURNS(-EINVAL, thmq_commit_row(producer, &row, 1));
	RETURNS(-EINVAL, thmq_abort_row(producer, &row));
	RETURNS(-EINVAL, thmq_send_batch(producer, &(struct thmq_batch_message){.len = 0}, 1, NULL));
	RETURNS(-EINVAL, thmq_producer_retry_ns(producer));
	CHECK(thmq_nack(consumer, &m, 0) == -EINVAL && thmq_extend(consumer, &m, 1) == -EINVAL && thmq_reject(consumer, &m, "no") == -EINVAL);
	CHECK(thmq_message_deliveries(consumer, &m) == -EINVAL && thmq_message_priority(consumer, &m) == -EINVAL);
	RETURNS(-EINVAL, thmq_message_encoding(consumer, &m));
	SAYS(-EINVAL, NULL, thmq_consumer_position(consumer, 0, &offset));
	SAYS(-EINVAL, NULL, thmq_topic_alter(session, "t", NULL, THMQ_ALTER_TTL));
	SAYS(-EINVAL, NULL, thmq_key_find(session, "t", 0, "k", 1, UINT64_MAX, &key));
	SAYS(-EINVAL, NULL, thmq_delayed_cancel(session, "t", 0, 0));
	SAYS(-EINVAL, NULL, thmq_group_list(session, "t", &group, 1));
	SAYS(-EINVAL, NULL, thmq_group_describe(session, "t", "g", &group));
	SAYS(-EINVAL, NULL, thmq_group_members(session, "t", "g", &member, 1));
	SAYS(-EINVAL, NULL, thmq_group_owners(session, "t", "g", &owner, 1));
	SAYS(-EINVAL, NULL, thmq_group_reset(session, "t", "g", 0, THMQ_START_BEGIN, 0, 0));
	SAYS(-EINVAL, NULL, thmq_group_delete(session, "t", "g", 0));
	RETURNS(-EINVAL, thmq_request(producer, "x", 1, NULL, SECOND, NULL));
	SAYS(-EINVAL, NULL, thmq_call(producer, "x", 1, NULL, SECOND, &r));
	RETURNS(-EINVAL, thmq_responses(session, &r, 1));
	RETURNS(-EINVAL, thmq_response_release(session, &r, 1));
	RETURNS(-EINVAL, thmq_reply(session, &m, "x", 1, NULL));
	SAYS(-EINVAL, NULL, thmq_txn_begin(session, NULL, &txn));
	SAYS(-EINVAL, NULL, thmq_txn_watch(session, "n"));
	SAYS(-EINVAL, NULL, thmq_txn_decide(session, 1, THMQ_TXN_ABORT, SECOND));
	SAYS(-EINVAL, NULL, thmq_txn_list(session, &info, 1));
	SAYS(-EINVAL, NULL, thmq_txn_force(session, 1, THMQ_TXN_ABORT, SECOND));
	txn = (void *)session; /* NULL, closed, or of another kind */
	RETURNS(0, thmq_txn_id(txn));
	RETURNS(-EINVAL, thmq_txn_ack(txn, consumer, &m));
	SAYS(-EINVAL, NULL, thmq_txn_prepare(txn, SECOND));
	SAYS(-EINVAL, NULL, thmq_txn_commit(txn, SECOND));
	SAYS(-EINVAL, NULL, thmq_txn_abort(txn, SECOND));
}

/* All calls that take a handle below the environment, given four pointers that are not open handles of that kind. */
static void all_calls(struct thmq_broker *broker, struct thmq_session *session,
		      struct thmq_producer *producer, struct thmq_consumer *consumer)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_claim claim;
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;
	struct thmq_message m;
	struct thmq_event e;

	memset(&claim, 0, sizeof(claim));
	memset(&m, 0, sizeof(m));
	SAYS(-EINVAL, NULL, thmq_broker_close(broker, 0));
	SAYS(-EINVAL, NULL, thmq_broker_stats(broker, &stats));
	SAYS(-EINVAL, NULL, thmq_session_close(session, 0));
	SAYS(-EINVAL, "session", thmq_session_fd(session));
	SAYS(-EINVAL, "session", thmq_session_arm(session));
	SAYS(-EINVAL, "session", thmq_session_wait(session, 0));
	SAYS(-EINVAL, NULL, thmq_topic_create(session, "t", NULL));
	SAYS(-EINVAL, NULL, thmq_topic_delete(session, "t"));
	SAYS(-EINVAL, NULL, thmq_topic_list(session, &info, 1));
	SAYS(-EINVAL, NULL, thmq_topic_describe(session, "t", &info));
	SAYS(-EINVAL, NULL, thmq_partition_describe(session, "t", 0, NULL, &part));
	SAYS(-EINVAL, NULL, thmq_producer_open(session, "t", NULL, &p));
	SAYS(-EINVAL, NULL, thmq_producer_close(producer, 0));
	RETURNS(0, thmq_producer_len_max(producer));
	RETURNS(-EINVAL, thmq_claim(producer, NULL, 8, &claim));
	RETURNS(-EINVAL, thmq_commit(producer, &claim));
	RETURNS(-EINVAL, thmq_abort(producer, &claim));
	RETURNS(-EINVAL, thmq_send(producer, "x", 1, NULL));
	SAYS(-EINVAL, NULL, thmq_flush(producer, 0));
	RETURNS(-EINVAL, thmq_watermark(producer));
	SAYS(-EINVAL, NULL, thmq_consumer_open(session, "t", NULL, NULL, &c));
	SAYS(-EINVAL, NULL, thmq_consumer_close(consumer, 0));
	RETURNS(-EINVAL, thmq_fetch(consumer, &m, 1));
	RETURNS(-EINVAL, thmq_release(consumer, &m, 1));
	RETURNS(-EINVAL, thmq_ack(consumer, &m));
	SAYS(-EINVAL, NULL, thmq_consumer_flush(consumer, 0));
	SAYS(-EINVAL, NULL, thmq_seek(consumer, 0, THMQ_START_BEGIN, 0));
	RETURNS(-EINVAL, thmq_events(session, &e, 1));
	calls_of_features(session, producer, consumer);
	CHECK(!p && !c);
}

static void null_handles(void)
{
	struct thmq_env_stats st = {.size = sizeof(st)};
	struct thmq_broker *b = NULL;
	struct thmq_session *s = NULL;

	all_calls(NULL, NULL, NULL, NULL);
	RETURNS(0, thmq_env_close(NULL, 0)); /* allowed, as free(NULL) is */
	SAYS(-EINVAL, NULL, thmq_env_open(NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_core_attach(NULL, 0));
	CHECK(thmq_core_detach(NULL) < 0); /* there is no core of this thread in it */
	CHECK(thmq_poll(NULL, 0) < 0);
	CHECK(thmq_env_fd(NULL) < 0);
	CHECK(thmq_env_arm(NULL) < 0);
	SAYS(-EINVAL, NULL, thmq_env_stats(NULL, &st));
	SAYS(-EINVAL, NULL, thmq_broker_open(NULL, NULL, &b));
	SAYS(-EINVAL, NULL, thmq_connect(NULL, "inproc://", NULL, &s));
	CHECK(!b && !s);
}

/* Open handles, NULL for what comes after them. */
static void null_arguments(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_claim claim;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	SAYS(-EINVAL, NULL, thmq_env_stats(w.env, NULL));
	SAYS(-EINVAL, NULL, thmq_broker_open(w.env, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_broker_stats(w.broker, NULL));
	SAYS(-EINVAL, NULL, thmq_connect(w.env, "inproc://", NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_topic_create(w.session, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_topic_delete(w.session, NULL));
	SAYS(-EINVAL, NULL, thmq_topic_list(w.session, NULL, 1));
	SAYS(-EINVAL, NULL, thmq_topic_describe(w.session, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_topic_describe(w.session, "numbers", NULL));
	SAYS(-EINVAL, NULL, thmq_partition_describe(w.session, "numbers", 0, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_partition_describe(w.session, NULL, 0, NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_producer_open(w.session, NULL, NULL, &p));
	SAYS(-EINVAL, NULL, thmq_producer_open(w.session, "numbers", NULL, NULL));
	SAYS(-EINVAL, NULL, thmq_consumer_open(w.session, NULL, NULL, NULL, &c));
	SAYS(-EINVAL, NULL, thmq_consumer_open(w.session, "numbers", NULL, NULL, NULL));
	RETURNS(1, thmq_topic_list(w.session, NULL, 0)); /* just count them */
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	RETURNS(-EINVAL, thmq_claim(p, NULL, 8, NULL));
	RETURNS(-EINVAL, thmq_commit(p, NULL));
	RETURNS(-EINVAL, thmq_abort(p, NULL));
	RETURNS(-EINVAL, thmq_send(p, NULL, 8, NULL));
	RETURNS(-EINVAL, thmq_fetch(c, NULL, 1));
	RETURNS(-EINVAL, thmq_release(c, NULL, 1));
	RETURNS(0, thmq_release(c, NULL, 0));
	RETURNS(-EINVAL, thmq_ack(c, NULL));
	RETURNS(-EINVAL, thmq_events(w.session, NULL, 1));
	MUST(thmq_claim(p, NULL, 8, &claim));
	MUST(thmq_abort(p, &claim));
	MUST(thmq_producer_close(p, SECOND));
	MUST(thmq_consumer_close(c, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static void closed_handles(void)
{
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	MUST(thmq_producer_close(p, SECOND));
	MUST(thmq_consumer_close(c, SECOND));
	session = w.session;
	broker = w.broker;
	MUST(thmq_session_close(w.session, SECOND));
	MUST(thmq_broker_close(w.broker, SECOND));
	all_calls(broker, session, p, c);
	w.session = NULL;
	w.broker = NULL;
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

/* A session's end closes what was opened on it. */
static void closed_with_their_session(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	MUST(thmq_session_close(w.session, SECOND));
	w.session = NULL;
	RETURNS(-EINVAL, thmq_send(p, "x", 1, NULL));
	RETURNS(-EINVAL, thmq_fetch(c, &m, 1));
	RETURNS(-EINVAL, thmq_producer_close(p, 0));
	RETURNS(-EINVAL, thmq_consumer_close(c, 0));
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static void handles_of_another_kind(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	all_calls((void *)w.session, (void *)p, (void *)c, (void *)w.broker);
	all_calls((void *)p, (void *)c, (void *)w.broker, (void *)w.session);
	SAYS(-EINVAL, NULL, thmq_broker_open((void *)w.broker, NULL, (void *)&p));
	MUST(thmq_producer_close(p, SECOND));
	MUST(thmq_consumer_close(c, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

/* The broker goes first: the session is dead, says so once, and can still be closed. */
static void broker_closed_under_a_session(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_event e[16];
	struct thmq_claim claim;
	struct thmq_message m;
	struct world w;
	int n, i, closed = 0;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	MUST(thmq_broker_close(w.broker, 5 * SECOND));
	w.broker = NULL;
	while ((n = thmq_events(w.session, e, 16)) > 0)
		for (i = 0; i < n; i++)
			closed += e[i].type == THMQ_EVENT_CLOSED;
	RETURNS(1, closed);
	RETURNS(-ESHUTDOWN, thmq_claim(p, NULL, 8, &claim));
	RETURNS(-ESHUTDOWN, thmq_send(p, "x", 1, NULL));
	RETURNS(0, thmq_flush(p, SECOND)); /* all there was is settled */
	RETURNS(-ESHUTDOWN, thmq_fetch(c, &m, 1));
	RETURNS(0, thmq_consumer_flush(c, SECOND));
	SAYS(-ESHUTDOWN, "closed", thmq_session_wait(w.session, SECOND));
	SAYS(-ESHUTDOWN, "closed", thmq_session_arm(w.session));
	CHECK(thmq_topic_create(w.session, "t", NULL) == -ESHUTDOWN);
	CHECK(thmq_errclass(-ESHUTDOWN) == THMQ_CLASS_HANDLE);
	thmq_producer_close(p, SECOND);
	thmq_consumer_close(c, SECOND);
	RETURNS(0, thmq_session_close(w.session, SECOND));
	w.session = NULL;
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

/* Everything open, claimed, held and unacknowledged: closing the environment ends it all, and nothing leaks. */
static void environment_closed_over_everything(void)
{
	struct thmq_producer *p;
	struct thmq_consumer *c, *d;
	struct thmq_claim claim;
	struct thmq_message m;
	unsigned tries;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10);
	MUST(thmq_topic_create(w.session, "ring", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)));
	MUST(thmq_producer_open(w.session, "numbers",
				THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p));
	MUST(thmq_consumer_open(w.session, "numbers", "g", NULL, &c));
	MUST(thmq_consumer_open(w.session, "ring", "g", NULL, &d));
	for (tries = 0; tries < 100 && thmq_fetch(c, &m, 1) == 0; tries++)
		wait_messages(w.session, SECOND / 10);
	CHECK(thmq_ack(c, &m) == 0);
	MUST(thmq_claim(p, NULL, 8, &claim));
	MUST(thmq_send(p, &(uint64_t){10}, 8, NULL)); /* on its way */
	RETURNS(0, thmq_env_close(w.env, 5 * SECOND));
	expect_numbers(in_place("data"), 11);
}

/* thmq_errmsg() is the calling thread's last control failure; data calls leave it alone. */
static void error_text(void)
{
	struct thmq_session *s = NULL;
	struct world w;
	char text[1024];

	RETURNS('\0', thmq_errmsg()[0]);
	env_up(&w);
	RETURNS(-ECONNREFUSED, thmq_connect(w.env, "inproc://nobody", NULL, &s));
	snprintf(text, sizeof(text), "%s", thmq_errmsg());
	CHECK(text[0]);
	RETURNS(-EINVAL, thmq_send(NULL, "x", 1, NULL));
	RETURNS(-EINVAL, thmq_fetch(NULL, NULL, 1));
	CHECK(strcmp(text, thmq_errmsg()) == 0);
	CHECK(thmq_strerror(-THMQ_ECORRUPT)[0] && thmq_strerror(THMQ_ECORRUPT)[0]);
	CHECK(strcmp(thmq_errname(-THMQ_ECORRUPT), "THMQ_ECORRUPT") == 0);
	CHECK(strcmp(thmq_errname(EAGAIN), "EAGAIN") == 0);
	CHECK(strcmp(thmq_errname(99999), "EUNKNOWN") == 0);
	CHECK(strcmp(thmq_errname(INT32_MIN), "EUNKNOWN") == 0);
	CHECK(thmq_strerror(99999)[0] && thmq_strerror(INT32_MIN)[0]);
	RETURNS(THMQ_CLASS_OK, thmq_errclass(0));
	world_down(&w);
}

static const struct bad_case cases[] = {
	{"null_handles", null_handles},
	{"null_arguments", null_arguments},
	{"closed_handles", closed_handles},
	{"closed_with_their_session", closed_with_their_session},
	{"handles_of_another_kind", handles_of_another_kind},
	{"broker_closed_under_a_session", broker_closed_under_a_session},
	{"environment_closed_over_everything", environment_closed_over_everything},
	{"error_text", error_text},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
