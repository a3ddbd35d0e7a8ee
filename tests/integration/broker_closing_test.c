/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_closing_test.c - a broker that closes while others use it: other closers, its counters, threads inside fetch,
 * messages that are held; and sessions beside other brokers of the environment.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "../fault/bad_input.h"

#define ROUNDS 20
#define CLOSERS 3

static void threads_up(struct world *w)
{
	memset(w, 0, sizeof(*w));
	MUST(thmq_env_open(&w->env,
			   THMQ_ENV_OPTS(.core_count = 2, .flags = THMQ_ENV_NO_PIN,
					 .pool_bytes = 256 << 20, .policy = THMQ_POLICY_EVENT)));
}

/* --------------------------------------------------------------------- closers */

struct closing {
	struct thmq_broker *broker;
	pthread_barrier_t at_once;
	atomic_bool stop;
	int rc[CLOSERS];
};

struct closer {
	struct closing *all;
	int index;
};

static void *close_it(void *arg)
{
	struct closer *c = arg;

	pthread_barrier_wait(&c->all->at_once);
	c->all->rc[c->index] = thmq_broker_close(c->all->broker, SECOND);
	return NULL;
}

static void one_of_many_closes(void)
{
	struct closer closers[CLOSERS];
	pthread_t threads[CLOSERS];
	struct closing all;
	struct world w;
	int round, i, good, refused;

	place_make(NULL);
	threads_up(&w);
	for (round = 0; round < ROUNDS; round++) {
		MUST(broker_on(w.env, round % 2 ? NULL : in_place("data"), 0, &all.broker));
		pthread_barrier_init(&all.at_once, NULL, CLOSERS);
		for (i = 0; i < CLOSERS; i++) {
			closers[i] = (struct closer){&all, i};
			pthread_create(&threads[i], NULL, close_it, &closers[i]);
		}
		good = refused = 0;
		for (i = 0; i < CLOSERS; i++) {
			pthread_join(threads[i], NULL);
			good += all.rc[i] == 0;
			refused += all.rc[i] == -EINVAL;
		}
		CHECK(good == 1 && refused == CLOSERS - 1);
		pthread_barrier_destroy(&all.at_once);
	}
	world_down(&w);
}

static void *count_on(void *arg)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};
	struct closing *all = arg;
	int rc;

	while (!atomic_load(&all->stop)) {
		rc = thmq_broker_stats(all->broker, &st);
		if (rc == 0)
			CHECK(st.shard_count == 2);
		else
			RETURNS(-EINVAL, rc);
	}
	return NULL;
}

static void counters_while_it_closes(void)
{
	struct closing all;
	pthread_t thread;
	struct world w;
	int round;

	place_make(NULL);
	threads_up(&w);
	for (round = 0; round < ROUNDS; round++) {
		MUST(broker_on(w.env, in_place("data"), 0, &all.broker));
		atomic_init(&all.stop, false);
		pthread_create(&thread, NULL, count_on, &all);
		usleep(1000);
		RETURNS(0, thmq_broker_close(all.broker, SECOND));
		atomic_store(&all.stop, true);
		pthread_join(thread, NULL);
	}
	world_down(&w);
}

/* ------------------------------------------------------------------------ views */

#define MESSAGES 256
#define BODY 2048

static void publish(struct thmq_session *s, const char *topic, int what, uint32_t flags)
{
	struct thmq_producer *p;
	char body[BODY];
	int i;

	memset(body, what, sizeof(body));
	MUST(thmq_topic_create(
		s, topic, THMQ_TOPIC_OPTS(.flags = flags, .volatile_bytes = flags ? 4 << 20 : 0)));
	MUST(thmq_producer_open(s, topic, NULL, &p));
	for (i = 0; i < MESSAGES; i++)
		while (thmq_send(p, body, sizeof(body), NULL) == -EAGAIN)
			MUST(thmq_flush(p, 10 * SECOND));
	MUST(thmq_flush(p, 10 * SECOND));
}

static int fetch_some(struct thmq_session *s, const char *topic, struct thmq_consumer **c,
		      struct thmq_message *m)
{
	int n = 0, got;

	MUST(thmq_consumer_open(s, topic, NULL, NULL, c));
	while (n < MESSAGES / 2) {
		wait_messages(s, SECOND / 100);
		got = thmq_fetch(*c, m + n, (uint32_t)(MESSAGES / 2 - n));
		MUST(got);
		n += got;
	}
	return n;
}

static bool are_all(const struct thmq_message *m, int count, char what)
{
	uint32_t at;
	int i;

	for (i = 0; i < count; i++)
		for (at = 0; at < m[i].len; at++)
			if (m[i].len != BODY || ((const char *)m[i].data)[at] != what)
				return false;
	return true;
}

/* Held messages are what they were while the memory of the broker that gave them is used by another. */
static void held_messages_outlive_it(void)
{
	static struct thmq_message logged[MESSAGES], in_memory[MESSAGES];
	struct thmq_consumer *c, *v;
	struct thmq_session *s;
	struct world w;
	int n, k;

	place_make(NULL);
	world_up(&w, in_place("data"));
	publish(w.session, "logged", 'a', 0);
	publish(w.session, "volatile", 'b', THMQ_TOPIC_VOLATILE);
	n = fetch_some(w.session, "logged", &c, logged);
	k = fetch_some(w.session, "volatile", &v, in_memory);
	RETURNS(0, thmq_broker_close(w.broker, 5 * SECOND));
	CHECK(are_all(logged, n, 'a') && are_all(in_memory, k, 'b'));
	MUST(broker_on(w.env, NULL, 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &s));
	publish(s, "x", 'x', THMQ_TOPIC_VOLATILE);
	publish(s, "y", 'y', THMQ_TOPIC_VOLATILE);
	publish(s, "z", 'z', THMQ_TOPIC_VOLATILE);
	CHECK(are_all(logged, n, 'a') && are_all(in_memory, k, 'b'));
	RETURNS(-ESHUTDOWN, thmq_fetch(c, logged, 1));
	RETURNS(0, thmq_release(v, in_memory, (uint32_t)k));
	RETURNS(0, thmq_session_close(s, SECOND));
	world_down(&w); /* closes the session that holds the others, too */
}

/* What the last messages keep comes back with their session. */
static void held_memory_comes_back(void)
{
	static struct thmq_message m[MESSAGES];
	struct thmq_env_stats st = {.size = sizeof(st)};
	uint64_t held, before = 0;
	struct thmq_consumer *c;
	struct world w;
	int round;

	env_up(&w);
	for (round = 0; round < 3; round++) {
		MUST(broker_on(w.env, NULL, 0, &w.broker));
		MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
		publish(w.session, "v", 'v', THMQ_TOPIC_VOLATILE);
		fetch_some(w.session, "v", &c, m);
		RETURNS(0, thmq_broker_close(w.broker, 5 * SECOND));
		MUST(thmq_env_stats(w.env, &st));
		held = st.pool_in_use_bytes;
		RETURNS(0, thmq_session_close(w.session, SECOND));
		while (thmq_poll(w.env, 0) > 0)
			;
		MUST(thmq_env_stats(w.env, &st));
		CHECK(st.pool_in_use_bytes < held);
		CHECK(round == 0 || st.pool_in_use_bytes == before);
		before = st.pool_in_use_bytes;
	}
	w.broker = NULL;
	w.session = NULL;
	world_down(&w);
}

struct reader {
	struct thmq_env *env;
	atomic_bool stop;
	_Atomic uint64_t read;
};

/* Reads whatever there is, touches every byte, and connects again when the broker has gone. */
static void *read_on(void *arg)
{
	static _Thread_local struct thmq_message m[64];
	struct reader *r = arg;
	struct thmq_consumer *c;
	struct thmq_session *s;
	int n;

	while (!atomic_load(&r->stop)) {
		if (thmq_connect(r->env, "inproc://", NULL, &s)) {
			usleep(500);
			continue;
		}
		if (thmq_consumer_open(s, "v", NULL, NULL, &c) == 0) {
			while (!atomic_load(&r->stop) && (n = thmq_fetch(c, m, 64)) >= 0) {
				CHECK(are_all(m, n, 'v'));
				thmq_release(c, m, (uint32_t)n);
				atomic_fetch_add(&r->read, (uint64_t)n);
				if (n == 0)
					thmq_seek(c, UINT32_MAX, THMQ_START_BEGIN, 0);
			}
		}
		thmq_session_close(s, SECOND / 10);
	}
	return NULL;
}

static void threads_inside_fetch(void)
{
	pthread_t threads[2];
	struct reader r;
	struct world w;
	int round, i;

	threads_up(&w);
	r.env = w.env;
	atomic_init(&r.stop, false);
	atomic_init(&r.read, 0);
	for (i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, read_on, &r);
	for (round = 0; round < ROUNDS; round++) {
		MUST(broker_on(w.env, NULL, 0, &w.broker));
		MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
		publish(w.session, "v", 'v', THMQ_TOPIC_VOLATILE);
		usleep(20000);
		RETURNS(0, thmq_broker_close(w.broker, 5 * SECOND));
		RETURNS(0, thmq_session_close(w.session, SECOND));
	}
	atomic_store(&r.stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(atomic_load(&r.read) > MESSAGES);
	w.broker = NULL;
	w.session = NULL;
	world_down(&w);
}

/* -------------------------------------------------------------- several brokers */

static uint64_t messages_in(struct thmq_broker *b)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	MUST(thmq_broker_stats(b, &st));
	return st.messages_in;
}

static void session_stays_with_its_broker(void)
{
	struct thmq_broker *other;
	struct thmq_producer *p;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	MUST(thmq_topic_create(w.session, "t", NULL));
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.name = "other"), &other));
	MUST(thmq_producer_open(w.session, "t", NULL, &p)); /* the first link to a data shard */
	RETURNS(1, thmq_send(p, "hello", 5, NULL));
	RETURNS(0, thmq_flush(p, SECOND));
	CHECK(messages_in(w.broker) == 1);
	CHECK(messages_in(other) == 0);
	RETURNS(0, thmq_broker_close(other, SECOND));
	world_down(&w);
}

static void session_does_not_join_one_of_the_same_name(void)
{
	struct thmq_producer *p;
	struct thmq_session *s;
	struct world w;

	place_make(NULL);
	world_up(&w, in_place("data"));
	MUST(thmq_topic_create(w.session, "t", NULL));
	RETURNS(0, thmq_broker_close(w.broker, SECOND));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	RETURNS(-ESHUTDOWN, thmq_producer_open(w.session, "t", NULL, &p));
	MUST(thmq_connect(w.env, "inproc://", NULL, &s));
	MUST(thmq_producer_open(s, "t", NULL, &p));
	RETURNS(0, thmq_session_close(s, SECOND));
	world_down(&w);
}

int main(int argc, char **argv)
{
	static const struct bad_case cases[] = {
		{"one_of_many_closes", one_of_many_closes},
		{"counters_while_it_closes", counters_while_it_closes},
		{"held_messages_outlive_it", held_messages_outlive_it},
		{"held_memory_comes_back", held_memory_comes_back},
		{"threads_inside_fetch", threads_inside_fetch},
		{"session_stays_with_its_broker", session_stays_with_its_broker},
		{"session_does_not_join_one_of_the_same_name",
		 session_does_not_join_one_of_the_same_name},
	};

	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
