/* SPDX-License-Identifier: Apache-2.0 */
/*
 * friend.h - a broker, and a well-behaved session of it that notices nothing of what others do beside it: what the tests of hostile
 * peers share, over whatever medium. All of it is the including file's own.
 */
#ifndef TESTS_FRIEND_H
#define TESTS_FRIEND_H

#include "check.h"

/* In the numbers that the friend sends: others' messages may lie between them. */
#define OURS (0x5a5aull << 48)

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *friend;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;
static char url[64]; /* of the broker */
static uint64_t next_number;

static inline void friend_connects(const struct thmq_tls_opts *tls)
{
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.tls = tls), &friend) == 0);
	CHECK(thmq_topic_create(friend, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(friend, "t", NULL, &producer) == 0);
	CHECK(thmq_consumer_open(friend, "t", NULL, NULL, &consumer) == 0);
}

static inline void friend_opens_env(void)
{
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT,
						.pool_bytes = 256 << 20)) == 0);
}

static inline void friend_closes(void)
{
	running = "down";
	CHECK(thmq_session_close(friend, SECOND) == 0);
	CHECK(thmq_broker_close(broker, SECOND) == 0);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

/* Messages go and come as ever. */
static inline void friend_is_well(void)
{
	uint64_t end = now() + 10 * SECOND, number = 0;
	struct thmq_message m;
	int i, n;

	for (i = 0; i < 10; i++) {
		next_number++;
		number = OURS | next_number;
		while (thmq_send(producer, &number, 8, NULL) < 0 && now() < end)
			thmq_session_wait(friend, MS);
		for (number = 0; number != (OURS | next_number);) {
			while ((n = thmq_fetch(consumer, &m, 1)) == 0 && now() < end)
				thmq_session_wait(friend, 10 * MS);
			CHECK(n == 1);
			if (m.len == 8)
				memcpy(&number, m.data, 8);
			CHECK((number & 0xffffull << 48) != OURS || number == (OURS | next_number));
			CHECK(thmq_release(consumer, &m, 1) == 0);
		}
	}
}

/* What others sent, that it may go on. */
static inline void friend_takes_all(uint64_t ns)
{
	struct thmq_message m[16];
	int n;

	do {
		thmq_session_wait(friend, ns);
		n = thmq_fetch(consumer, m, 16);
		CHECK(n >= 0);
		thmq_release(consumer, m, (uint32_t)n);
	} while (n > 0);
}

static inline struct thmq_broker_stats stats(struct thmq_broker *b)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(b, &st) == 0);
	return st;
}

static inline uint32_t sessions(void)
{
	return stats(broker).session_count;
}

static inline void only_the_friend_is_left(void)
{
	uint64_t end = now() + 5 * SECOND;

	while (!UNDER_TSAN && sessions() != 1 && now() < end)
		nap(5 * MS);
	CHECK(UNDER_TSAN || sessions() == 1);
	friend_is_well();
}

#endif
