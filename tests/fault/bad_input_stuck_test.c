/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_stuck_test.c - an app that does not do its part: messages never released, claims never committed, events
 * never taken, a core that nobody drives. It is told, in bounded time and memory, and others go on.
 */
#include <pthread.h>

#include "bad_input.h"

static struct world w;

static void up(void)
{
	place_make(NULL);
	world_up(&w, in_place("data"));
}

static void never_released(void)
{
	enum { HELD = 4096 };
	static struct thmq_message held[HELD];
	struct thmq_consumer *hoarder;
	struct thmq_session *other;
	struct thmq_event e[64];
	unsigned count = 0, stalled = 0, rounds;
	int rc = 0, n, i;

	up();
	put_numbers(w.session, 0, HELD);
	MUST(thmq_consumer_open(w.session, "numbers", NULL,
				THMQ_CONSUMER_OPTS(.prefetch_count = 100), &hoarder));
	for (rounds = 0; rounds < 2000 && rc != -ENOBUFS && count < HELD; rounds++) {
		rc = thmq_fetch(hoarder, &held[count], HELD - count);
		if (rc > 0)
			count += (unsigned)rc;
		else
			thmq_poll(w.env, SECOND / 1000);
	}
	RETURNS(-ENOBUFS, rc);
	CHECK(count >= 100 && count < HELD);
	CHECK(thmq_errclass(-ENOBUFS) == THMQ_CLASS_BACKPRESSURE);
	while ((n = thmq_events(w.session, e, 64)) > 0)
		for (i = 0; i < n; i++)
			stalled += e[i].type == THMQ_EVENT_STALLED && e[i].consumer == hoarder;
	RETURNS(1, stalled); /* once a stall */
	/* nobody else is held up: neither producers nor other readers, on this session or another */
	put_numbers(w.session, HELD, HELD);
	CHECK(get_numbers(w.session) == 2 * HELD);
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	CHECK(get_numbers(other) == 2 * HELD);
	RETURNS(0, thmq_session_close(other, SECOND));
	/* what it holds is still whole */
	for (i = 0; i < (int)count; i++)
		CHECK(*(const uint64_t *)held[i].data == (uint64_t)i);
	/* releasing resumes delivery where it stopped */
	MUST(thmq_release(hoarder, held, count));
	for (rounds = 0, rc = 0; rounds < 100 && rc == 0; rounds++) {
		rc = thmq_fetch(hoarder, held, 1);
		if (rc == 0)
			wait_messages(w.session, SECOND / 100);
	}
	RETURNS(1, rc);
	CHECK(held[0].offset == count);
	/* closing with messages in hand is allowed: they become invalid */
	MUST(thmq_consumer_close(hoarder, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 2 * HELD);
}

static void never_committed(void)
{
	struct thmq_claim claims[200];
	struct thmq_session *s, *other;
	struct thmq_producer *p, *q;
	unsigned count = 0, i;
	uint32_t len;
	int rc = 0;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_connect(w.env, "inproc://", THMQ_SESSION_OPTS(.window_bytes = 256 << 10), &s));
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	MUST(thmq_producer_open(s, "t", NULL, &p));
	MUST(thmq_producer_open(other, "t", NULL, &q));
	len = thmq_producer_len_max(p) < 4096 ? thmq_producer_len_max(p) : 4096;
	for (i = 0; i < 2000 && count < 200; i++) {
		rc = thmq_claim(p, NULL, len, &claims[count]);
		if (rc == 0)
			count++;
		else if (rc == -EAGAIN && count)
			break;
		else
			thmq_poll(w.env, SECOND / 1000); /* the first connects */
	}
	RETURNS(-EAGAIN, rc);
	CHECK(count >= 16 && count <= 64); /* the window, not more */
	RETURNS(-EAGAIN, thmq_send(p, "x", 1, NULL) < 0 ? -EAGAIN : 0);
	/* others go on */
	for (i = 0; i < 1000; i++) {
		int64_t sent = thmq_send(q, "other", 5, NULL);

		if (sent == -EAGAIN)
			MUST(thmq_flush(q, 5 * SECOND));
		else
			MUST(sent);
	}
	MUST(thmq_flush(q, 5 * SECOND));
	put_numbers(w.session, 0, 100);
	/* nothing is outstanding for the one that only claimed */
	RETURNS(0, thmq_flush(p, SECOND));
	RETURNS(0, thmq_watermark(p));
	/* committing in the other order is allowed; room comes back */
	for (i = count; i-- > 0;) {
		memset(claims[i].data, (int)i, len);
		MUST(thmq_commit(p, &claims[i]));
	}
	MUST(thmq_flush(p, 5 * SECOND));
	RETURNS(count, thmq_watermark(p));
	MUST(thmq_send(p, "x", 1, NULL));
	/* and closing with an open claim aborts it */
	MUST(thmq_claim(p, NULL, 8, &claims[0]));
	RETURNS(0, thmq_producer_close(p, 5 * SECOND));
	RETURNS(0, thmq_session_close(s, 5 * SECOND));
	RETURNS(0, thmq_session_close(other, 5 * SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 100);
}

/* A member that works its way through what was prefetched is alive, whichever calls it makes. */
static void busy_member(void)
{
	struct timespec work = {.tv_nsec = 10000000};
	struct thmq_event e[16];
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t next = 0;
	unsigned tries;
	int n, i;

	place_make(NULL);
	memset(&w, 0, sizeof(w));
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 128 << 20)));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 1000);
	MUST(thmq_consumer_open(w.session, "numbers", "g",
				THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 5), &c));
	for (tries = 0; tries < 100 && thmq_fetch(c, &m, 1) == 0; tries++)
		wait_messages(w.session, SECOND / 10);
	while (next < 80) { /* four times the time-out, without a call that blocks */
		RETURNS(next, m.offset);
		nanosleep(&work, NULL);
		RETURNS(0, thmq_ack(c, &m));
		MUST(thmq_release(c, &m, 1));
		next++;
		RETURNS(1, thmq_fetch(c, &m, 1));
	}
	while ((n = thmq_events(w.session, e, 16)) > 0)
		for (i = 0; i < n; i++)
			CHECK(e[i].type != THMQ_EVENT_REVOKED);
	MUST(thmq_consumer_flush(c, SECOND));
	MUST(thmq_consumer_close(c, SECOND));
	world_down(&w);
	expect_numbers(in_place("data"), 1000);
}

/* Reports are never dropped: their producer waits for room instead; other events count what they lost. */
static void events_never_taken(void)
{
	struct thmq_event e[64];
	struct thmq_producer *p;
	struct thmq_session *s;
	uint64_t sent = 0, settled = 0, last = 0;
	unsigned rounds;
	int64_t rc;
	int n, i;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_connect(w.env, "inproc://", THMQ_SESSION_OPTS(.event_count = 64), &s));
	MUST(thmq_producer_open(s, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p));
	for (rounds = 0; rounds < 300; rounds++) {
		rc = thmq_send(p, "x", 1, NULL);
		if (rc > 0)
			sent++;
		else if (rc == -EAGAIN)
			thmq_poll(w.env, SECOND / 1000);
		else
			FAIL("send: %s", thmq_errname((int)rc));
	}
	CHECK(sent > 0 && sent < 300); /* it was told to wait */
	for (rounds = 0; rounds < 200 && settled < sent; rounds++) {
		n = thmq_events(s, e, 64);
		for (i = 0; i < n; i++) {
			CHECK(e[i].type == THMQ_EVENT_SETTLED);
			CHECK(e[i].sequence == last + 1);
			last = e[i].sequence;
			settled++;
		}
		if (n == 0)
			thmq_poll(w.env, SECOND / 1000);
	}
	RETURNS(sent, settled);
	MUST(thmq_send(p, "x", 1, NULL));
	MUST(thmq_flush(p, SECOND));
	RETURNS(0, thmq_session_close(s, SECOND));
	world_down(&w);
}

/* A volatile ring holds its producers up for an attached reader, and for nobody else. */
static void volatile_reader_that_does_not_read(void)
{
	static uint8_t body[1024];
	struct thmq_producer *p, *q;
	struct thmq_consumer *idle;
	struct thmq_session *other;
	uint64_t sent = 0, more = 0;
	unsigned refused = 0, i;
	int64_t rc;

	up();
	MUST(thmq_topic_create(
		w.session, "ring",
		THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)));
	MUST(thmq_topic_create(
		w.session, "free",
		THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)));
	MUST(thmq_connect(w.env, "inproc://", NULL, &other));
	MUST(thmq_consumer_open(w.session, "ring", NULL, NULL, &idle));
	MUST(thmq_producer_open(w.session, "ring", NULL, &p));
	MUST(thmq_producer_open(other, "free", NULL, &q));
	for (i = 0; i < 100000 && refused < 50; i++) {
		rc = thmq_send(p, body, sizeof(body), NULL);
		if (rc > 0) {
			sent++;
		} else {
			RETURNS(-EAGAIN, rc);
			refused++;
			thmq_poll(w.env, SECOND / 1000);
		}
	}
	CHECK(refused == 50 && sent < 20000); /* ring and window, not more */
	for (i = 0; i < 10000; i++) {         /* without a reader old ones make room */
		rc = thmq_send(q, body, sizeof(body), NULL);
		if (rc == -EAGAIN)
			MUST(thmq_flush(q, SECOND));
		else
			more++;
	}
	CHECK(more > 1000);
	RETURNS(-ETIMEDOUT, thmq_flush(p, SECOND / 50));
	MUST(thmq_consumer_close(idle, SECOND));
	RETURNS(0, thmq_flush(p, 5 * SECOND)); /* nobody is waited for any more */
	RETURNS(sent, thmq_watermark(p));
	RETURNS(0, thmq_session_close(other, SECOND));
	world_down(&w);
}

/* ----------------------------------------------------- nobody drives a core */

static void undriven_core_at_open(void)
{
	struct thmq_broker *b = NULL;
	struct thmq_env *env;

	place_make(NULL);
	MUST(thmq_env_open(&env, THMQ_ENV_OPTS(.caller_cores = 2, .pool_bytes = 128 << 20)));
	/* shards on cores 0 and 1; core 1 is nobody's */
	SAYS(-EDEADLK, "core", broker_on(env, in_place("data"), 0, &b));
	CHECK(!b);
	/* the cure that the text names: fewer shards, or an owner */
	RETURNS(0, thmq_env_close(env, SECOND));
	numbers_dir(in_place("data"), 10); /* the failed try is no obstacle */
	expect_numbers(in_place("data"), 10);
}

static void *calls_of_a_stranger(void *arg)
{
	(void)arg;
	SAYS(-EPERM, NULL, thmq_core_detach(w.env));
	RETURNS(-EPERM, thmq_poll(w.env, 0));
	RETURNS(-EPERM, thmq_env_fd(w.env));
	RETURNS(-EPERM, thmq_env_arm(w.env));
	SAYS(-EBUSY, NULL, thmq_core_attach(w.env, 0));
	SAYS(-EINVAL, NULL, thmq_core_attach(w.env, 1));
	SAYS(-EINVAL, NULL, thmq_core_attach(w.env, UINT32_MAX));
	return NULL;
}

static void undriven_core_of_a_session(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *s = NULL;
	struct thmq_producer *p, *q = NULL;
	struct thmq_consumer *c, *d = NULL;
	struct thmq_message m;
	pthread_t thread;
	int rc;

	up();
	put_numbers(w.session, 0, 10);
	MUST(thmq_producer_open(w.session, "numbers", NULL, &p));
	MUST(thmq_consumer_open(w.session, "numbers", NULL, NULL, &c));
	pthread_create(&thread, NULL, calls_of_a_stranger, NULL);
	pthread_join(thread, NULL);
	MUST(thmq_core_detach(w.env));
	SAYS(-EPERM, NULL, thmq_core_detach(w.env));
	RETURNS(-EPERM, thmq_poll(w.env, 0));

	SAYS(-EDEADLK, "core", thmq_connect(w.env, "inproc://", NULL, &s));
	SAYS(-EDEADLK, "core", thmq_topic_create(w.session, "t", NULL));
	SAYS(-EDEADLK, "core", thmq_topic_delete(w.session, "numbers"));
	SAYS(-EDEADLK, "core", thmq_topic_list(w.session, &info, 1));
	SAYS(-EDEADLK, "core", thmq_topic_describe(w.session, "numbers", &info));
	SAYS(-EDEADLK, "core", thmq_partition_describe(w.session, "numbers", 0, NULL, &part));
	SAYS(-EDEADLK, "core", thmq_producer_open(w.session, "numbers", NULL, &q));
	SAYS(-EDEADLK, "core", thmq_consumer_open(w.session, "numbers", "h", NULL, &d));
	SAYS(-EDEADLK, "core", thmq_seek(c, UINT32_MAX, THMQ_START_BEGIN, 0));
	CHECK(thmq_send(p, "12345678", 8, NULL) > 0); /* never blocks, needs nobody */
	SAYS(-EDEADLK, "core", thmq_flush(p, SECOND));
	rc = thmq_session_wait(w.session, SECOND / 10);
	CHECK(rc == -EDEADLK || rc == 1); /* 1: messages are there already */
	SAYS(-EDEADLK, "core", thmq_producer_close(p, SECOND));
	SAYS(-EDEADLK, "core", thmq_consumer_close(c, SECOND));
	SAYS(-EDEADLK, "core", thmq_session_close(w.session, SECOND));
	SAYS(-EDEADLK, "core", thmq_broker_close(w.broker, SECOND));
	SAYS(-EDEADLK, "core", thmq_env_close(w.env, SECOND));
	CHECK(thmq_fetch(c, &m, 1) >= 0); /* never blocks: what is there, or nothing */
	CHECK(!s && !q && !d);

	/* nothing was done: with an owner all goes on */
	MUST(thmq_core_attach(w.env, 0));
	RETURNS(0, thmq_flush(p, 5 * SECOND));
	RETURNS(0, thmq_producer_close(p, 5 * SECOND));
	RETURNS(0, thmq_consumer_close(c, 5 * SECOND));
	world_down(&w);
}

/* An owner that does not drive: others wait no longer than they said. */
static void *slow_calls(void *arg)
{
	struct thmq_session *s = NULL;
	struct timespec a, b;
	int64_t ns;

	(void)arg;
	clock_gettime(CLOCK_MONOTONIC, &a);
	SAYS(-ETIMEDOUT, NULL,
	     thmq_connect(w.env, "inproc://", THMQ_SESSION_OPTS(.timeout_ns = SECOND / 10), &s));
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = (b.tv_sec - a.tv_sec) * (int64_t)SECOND + b.tv_nsec - a.tv_nsec;
	CHECK(ns >= (int64_t)SECOND / 20 && ns < 5 * (int64_t)SECOND);
	CHECK(!s);
	return NULL;
}

static void owner_that_does_not_drive(void)
{
	pthread_t thread;

	up();
	pthread_create(&thread, NULL, slow_calls, NULL);
	pthread_join(thread, NULL);
	put_numbers(w.session, 0, 10);
	world_down(&w);
	expect_numbers(in_place("data"), 10);
}

static void time_outs_of_nothing(void)
{
	struct thmq_producer *p;

	up();
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_producer_open(w.session, "t", NULL, &p));
	RETURNS(0, thmq_flush(p, 0));    /* nothing to wait for */
	MUST(thmq_flush(p, UINT64_MAX)); /* for ever is no overflow */
	MUST(thmq_send(p, "x", 1, NULL));
	MUST(thmq_flush(p, UINT64_MAX));
	RETURNS(0, thmq_session_wait(w.session, 0) < 0);
	MUST(thmq_poll(w.env, 0));
	MUST(thmq_producer_close(p, UINT64_MAX));
	RETURNS(0, thmq_session_close(w.session, UINT64_MAX));
	RETURNS(0, thmq_broker_close(w.broker, UINT64_MAX));
	RETURNS(0, thmq_env_close(w.env, UINT64_MAX));
}

/* A ring that is smaller than a run may be: bursts of any length go through, with a reader and without. */
static void burst_into_a_small_ring(void)
{
	static uint8_t body[1000];
	struct thmq_message m[64];
	struct thmq_producer *p;
	struct thmq_consumer *c;
	unsigned i, round, got;
	int n;

	env_up(&w);
	MUST(thmq_broker_open(w.env, NULL, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	MUST(thmq_topic_create(w.session, "ring",
			       THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)));
	MUST(thmq_producer_open(w.session, "ring", NULL, &p));
	for (round = 0; round < 2; round++) {
		if (round)
			MUST(thmq_consumer_open(w.session, "ring", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &c));
		for (i = 0; i < 3000; i++) /* all of them are in the ring of frames before the core looks */
			MUST(thmq_send(p, body, sizeof(body), NULL));
		for (got = 0; round && got < 3000;) {
			n = thmq_fetch(c, m, 64);
			MUST(n);
			if (n == 0 && wait_messages(w.session, 5 * SECOND) <= 0) {
				FAIL("after %u messages nothing comes any more", got);
				break;
			}
			MUST(thmq_release(c, m, (uint32_t)n));
			got += (unsigned)n;
		}
		RETURNS(0, thmq_flush(p, 5 * SECOND));
	}
	world_down(&w);
}

static void volatile_topics_that_come_and_go(void)
{
	static uint8_t body[65536];
	struct thmq_producer *p;
	unsigned i, round;

	up();
	for (round = 0; round < 24; round++) { /* three times what the pool holds */
		MUST(thmq_topic_create(w.session, "ring",
				       THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 16 << 20)));
		MUST(thmq_producer_open(w.session, "ring", NULL, &p));
		for (i = 0; i < 400;) {
			int64_t rc = thmq_send(p, body, 40000, NULL);

			if (rc == -EAGAIN)
				MUST(thmq_flush(p, 5 * SECOND));
			else
				MUST(rc);
			i += rc > 0;
		}
		MUST(thmq_flush(p, 5 * SECOND));
		MUST(thmq_producer_close(p, 5 * SECOND));
		MUST(thmq_topic_delete(w.session, "ring"));
	}
	world_down(&w);
}

static const struct bad_case cases[] = {
	{"never_released", never_released},
	{"never_committed", never_committed},
	{"busy_member", busy_member},
	{"events_never_taken", events_never_taken},
	{"volatile_reader_that_does_not_read", volatile_reader_that_does_not_read},
	{"burst_into_a_small_ring", burst_into_a_small_ring},
	{"volatile_topics_that_come_and_go", volatile_topics_that_come_and_go},
	{"undriven_core_at_open", undriven_core_at_open},
	{"undriven_core_of_a_session", undriven_core_of_a_session},
	{"owner_that_does_not_drive", owner_that_does_not_drive},
	{"time_outs_of_nothing", time_outs_of_nothing},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
