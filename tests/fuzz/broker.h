/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker.h - a good data directory of a broker on a simulated disk, made once, and a copy of it for each input: topic "t" with four
 * partitions in two shards, messages in all of them, group "g" with offsets.
 */
#ifndef FUZZ_BROKER_H
#define FUZZ_BROKER_H

#include "api/api.h"
#include "disk/sim.h"
#include "fuzz.h"

#define BROKER_DIR "data"
#define BROKER_PARTITIONS 4u
#define BROKER_FIRST 1u /* id of the topic's first partition */
#define BROKER_SECOND 1000000000ull

struct broker_rig {
	struct thmqi_disk_sim *good, *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_broker *broker;
};

static inline int broker_open(struct broker_rig *r)
{
	return thmq_broker_open(r->env,
				THMQ_BROKER_OPTS(.data_dir = BROKER_DIR, .shard_count = 2,
						 .segment_bytes = 1u << 20,
						 .batch_bytes = 64u << 10, .cache_bytes = 1u << 20),
				&r->broker);
}

static inline int broker_close(struct broker_rig *r)
{
	int rc = thmq_broker_close(r->broker, BROKER_SECOND);

	r->broker = NULL;
	return rc;
}

static inline void broker_fill(struct broker_rig *r)
{
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message m[16];
	char text[100];
	int i, n, seen = 0;

	memset(text, 'm', sizeof(text));
	FUZZ_CHECK(thmq_connect(r->env, "inproc://", NULL, &session) == 0);
	FUZZ_CHECK(thmq_topic_create(session, "t",
				     THMQ_TOPIC_OPTS(.partition_count = BROKER_PARTITIONS)) == 0);
	FUZZ_CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	for (i = 0; i < 40; i++) {
		FUZZ_CHECK(thmq_send(producer, text, (uint32_t)(i * 2 + 1), NULL) > 0);
		if (i % 5 == 4)
			FUZZ_CHECK(thmq_flush(producer, BROKER_SECOND) == 0);
	}
	FUZZ_CHECK(thmq_consumer_open(session, "t", "g",
				      THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN),
				      &consumer) == 0);
	for (i = 0; i < 2000 && seen < 20; i++) {
		thmq_poll(r->env, 1000000);
		n = thmq_fetch(consumer, m, 16);
		FUZZ_CHECK(n >= 0);
		if (n > 0) {
			FUZZ_CHECK(thmq_ack(consumer, &m[n - 1]) == 0);
			FUZZ_CHECK(thmq_release(consumer, m, (uint32_t)n) == 0);
			seen += n;
		}
	}
	FUZZ_CHECK(seen >= 20);
	FUZZ_CHECK(thmq_session_close(session, BROKER_SECOND) == 0);
}

/* The disk is as in the good directory; no broker is open. */
static inline void broker_begin(struct broker_rig *r)
{
	if (!r->sim) {
		FUZZ_CHECK(thmqi_disk_sim_open(1, NULL, &r->good) == 0 &&
			   thmqi_disk_sim_open(2, NULL, &r->sim) == 0);
		FUZZ_CHECK(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 128u << 20),
					      thmqi_disk_sim_world(r->sim), &r->env) == 0);
		r->core = thmqi_env_core(r->env, 0);
		FUZZ_CHECK(broker_open(r) == 0, "%s", thmq_errmsg());
		broker_fill(r);
		FUZZ_CHECK(broker_close(r) == 0);
		FUZZ_CHECK(thmqi_disk_sim_copy(r->good, r->sim, 1, NULL) == 0);
	}
	FUZZ_CHECK(thmqi_disk_sim_copy(r->sim, r->good, 1, NULL) == 0);
}

static inline uint64_t broker_pool_used(const struct broker_rig *r)
{
	struct thmqi_pool_stats stats;

	thmqi_pool_drain(r->core->pool);
	thmqi_pool_stats(r->core->pool, &stats);
	return stats.in_use;
}

#endif
