/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many cores in one thread under virtual time: a broker with a shard on each of 64 cores, and messages through every one of
 * them; then the same directory on fewer and more cores, each time closed or cut off from its power. What was
 * acknowledged is there, in order, once, and groups go on where they were.
 *
 * usage: many_cores_test [seed [count]]; THMQ_TEST_FULL=1 runs many seeds.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "topology/topology.h"

#define SHARDS 64u
#define PARTITIONS 128u /* two in each shard */
#define ROUNDS_MAX 100000u

struct model {
	uint32_t sent,
		certain; /* messages of this partition: numbered from 0; acknowledged as durable */
	uint32_t read;   /* by the group, in order */
	uint32_t acked;  /* of these, durably */
};

struct world {
	uint64_t seed;
	uint32_t cores;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct model p[PARTITIONS];
	uint32_t fetched[PARTITIONS]; /* in this life */
};

static const char *at = "";
#define CHECK(w, x)                                                                                \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "seed %llu, %u cores: %s: line %d: %s (%s)\n",             \
				(unsigned long long)(w)->seed, (w)->cores, at, __LINE__, #x,       \
				thmq_errmsg());                                                    \
			return -1;                                                                 \
		}                                                                                  \
	} while (0)

/* On a machine with 64 cores that is not here; all are driven by this thread. */
static int open_env(struct world *w)
{
	const struct thmqi_world *world = thmqi_disk_sim_world(w->sim);
	uint32_t i;

	CHECK(w,
	      thmqi_api_env_open(THMQ_ENV_OPTS(.caller_cores = w->cores, .pool_bytes = 8ull << 30),
				 world, &w->env) == 0);
	for (i = 0; i < w->cores; i++)
		CHECK(w, thmq_core_attach(w->env, i) == 0);
	return 0;
}

static int open_all(struct world *w)
{
	at = "open";
	if (open_env(w))
		return -1;
	CHECK(w,
	      thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = SHARDS,
						.segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
						.cache_bytes = 1u << 20),
			       &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://",
			      THMQ_SESSION_OPTS(.window_bytes = 64u << 10, .window_count = 64),
			      &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = PARTITIONS,
						   .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", "g",
				    THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN,
						       .session_timeout_ns = 1000000000000ull),
				    &w->consumer) == 0);
	return 0;
}

/* Every shard lies on the core that is said, and no core has more than one more than another. */
static int check_shards(struct world *w)
{
	uint32_t seen[SHARDS] = {0}, i;
	struct thmq_partition_info info;

	at = "shards";
	for (i = 0; i < PARTITIONS; i++) {
		memset(&info, 0, sizeof(info));
		info.size = sizeof(info);
		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		CHECK(w, info.shard < SHARDS);
		seen[info.shard]++;
	}
	for (i = 0; i < SHARDS; i++)
		CHECK(w, seen[i] == PARTITIONS / SHARDS);
	return 0;
}

static int send_to_each(struct world *w)
{
	uint32_t i, payload[2], tries;
	int64_t sequence;

	at = "send";
	for (i = 0; i < PARTITIONS; i++) {
		payload[0] = i;
		payload[1] = w->p[i].sent;
		for (tries = 0; tries < ROUNDS_MAX; tries++) {
			sequence = thmq_send(
				w->producer, payload, sizeof(payload),
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i));
			if (sequence != -EAGAIN)
				break;
			thmq_poll(w->env, 1000000);
		}
		CHECK(w, sequence > 0);
		w->p[i].sent++;
	}
	return 0;
}

/* Until the group has seen in each partition what is @upto there. */
static int consume(struct world *w, bool all)
{
	uint32_t idle = 0, i, number[2], missing = 0;
	struct thmq_message m[64];
	int n;

	at = "consume";
	for (i = 0; i < PARTITIONS; i++)
		missing += w->p[i].certain - THMQI_MIN(w->p[i].certain, w->p[i].read);
	while ((all && missing) || idle < 3) {
		n = thmq_fetch(w->consumer, m, 64);
		CHECK(w, n >= 0);
		CHECK(w, idle < ROUNDS_MAX);
		idle = n ? 0 : idle + 1;
		if (!n)
			thmq_poll(w->env, 1000000);
		for (i = 0; i < (uint32_t)n; i++) {
			struct model *p = &w->p[m[i].partition];

			CHECK(w, m[i].len == sizeof(number));
			memcpy(number, m[i].data, sizeof(number));
			CHECK(w, number[0] == m[i].partition);
			CHECK(w, number[1] == p->read); /* in order, once */
			CHECK(w, p->read < p->sent);
			missing -= p->read < p->certain;
			p->read++;
			CHECK(w, thmq_ack(w->consumer, &m[i]) == 0);
		}
		if (n)
			CHECK(w, thmq_release(w->consumer, m, (uint32_t)n) == 0);
	}
	return 0;
}

static int life(struct world *w, uint32_t cores, bool crash)
{
	uint32_t i, rounds;

	w->cores = cores;
	/* the group goes on where its last durable acknowledgement was, or further */
	if (open_all(w) || check_shards(w))
		return -1;
	for (i = 0; i < PARTITIONS; i++)
		w->p[i].read = w->p[i].acked;
	rounds = 1 + (uint32_t)thmqi_prng_below(&w->prng, 3);
	while (rounds--) {
		if (send_to_each(w))
			return -1;
		at = "flush";
		CHECK(w, thmq_flush(w->producer, 600000000000ull) == 0);
		for (i = 0; i < PARTITIONS; i++)
			w->p[i].certain = w->p[i].sent;
	}
	at = "every core has shards that write";
	for (i = 0; i < cores; i++)
		CHECK(w, thmqi_env_core(w->env, i)->writes > 0);
	if (consume(w, true))
		return -1;
	at = "acks";
	CHECK(w, thmq_consumer_flush(w->consumer, 600000000000ull) == 0);
	for (i = 0; i < PARTITIONS; i++)
		w->p[i].acked = w->p[i].read;
	at = "close";
	if (!crash) {
		CHECK(w, thmq_env_close(w->env, 600000000000ull) == 0);
		return 0;
	}
	thmqi_disk_sim_crash(w->sim);
	thmq_env_close(w->env, 0); /* a dead disk: only the memory is given back */
	thmqi_disk_sim_restart(w->sim);
	return 0;
}

static int run(uint64_t seed)
{
	static const uint32_t cores[] = {64, 1, 4, 2, 64, 1};
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i;
	int rc;

	if (!w)
		return -1;
	w->seed = seed;
	thmqi_prng_seed(&w->prng, seed);
	rc = thmqi_disk_sim_open(seed, NULL, &w->sim);
	for (i = 0; i < sizeof(cores) / sizeof(cores[0]) && !rc; i++)
		rc = life(w, cores[i], thmqi_prng_below(&w->prng, 2) == 0);
	thmqi_disk_sim_close(w->sim);
	free(w);
	return rc;
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : getenv("THMQ_TEST_FULL") ? 100 : 2;
	uint64_t seed, failed = 0;

	for (seed = first; seed < first + count; seed++)
		failed += run(seed) != 0;
	printf("%llu seeds, %llu failed\n", (unsigned long long)count, (unsigned long long)failed);
	return failed != 0;
}
