/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole library in one thread under virtual time on a simulated disk: api, broker, log. From one seed: topics,
 * producers of every durability, a consumer group, topics that come and go beside while segments fill and their indexes are
 * put together, power cuts at any moment; after each reopening everything that was acknowledged is there, in order, once, and nothing else.
 *
 * With a log that is wrong it must fail.
 *
 * usage: broker_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "broker/carrier.h"
#include "commitlog/plant.h"
#include "disk/sim.h"
#include "seeds.h"

#define PARTITIONS 3
#define MESSAGES_MAX 20000
#define PASSING 4 /* topics that nobody reads, and that go while their messages are on their way */

/* What the model knows of one partition: ids in the order they were committed, in this and former lives. */
struct model_partition {
	uint32_t ids[MESSAGES_MAX];
	uint32_t count;
	uint32_t certain; /* the first so many were acknowledged as durable, or read back after a crash */
	uint64_t acked_next; /* the group's offset that was confirmed durable */
	uint64_t acked_sent; /* the highest that was ever sent */
	uint64_t acked_life; /* the highest that was sent in this life */
	uint64_t last_offset; /* of the last message read in this pass */
	uint32_t read; /* ids seen in this pass */
	bool any;
};

static uint32_t planted; /* THMQI_LOG_*, in the logs of all shards */

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_producer *passing[PASSING]; /* NULL: the topic is not there, or nobody has sent to it in this life */
	uint32_t deletes;			/* one in so many steps deletes a topic; 0: none does */
	struct model_partition partitions[PARTITIONS];
	uint32_t next_id;
	/* commits of this life that are not settled: sequence is index + 1 */
	struct {
		uint32_t partition;
		uint32_t place; /* in the partition's ids */
		bool durable;
	} sent[MESSAGES_MAX];
	uint32_t sent_count, settled;
};

#include "lives.h"

static int open_all(struct world *w)
{
	const struct thmqi_world *world = thmqi_disk_sim_world(w->sim);

	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), world, &w->env) == 0);
	CHECK(w, thmqi_api_broker_open(w->env,
				       THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 2,
							.segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
							.cache_bytes = 1u << 20),
				       &(struct thmqi_carrier){.log_defects = planted}, &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = PARTITIONS,
						   .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", "g",
				    THMQ_CONSUMER_OPTS(.session_timeout_ns = 1000000000000ull), &w->consumer) == 0);
	w->sent_count = w->settled = 0;
	memset(w->passing, 0, sizeof(w->passing));
	for (int i = 0; i < PARTITIONS; i++)
		w->partitions[i].acked_life = 0;
	return 0;
}

/* Reads everything from the begin and compares: a prefix of what was committed, no shorter than what is certain. */
static int read_back(struct world *w)
{
	struct thmq_consumer *reader;
	struct thmq_partition_info info;
	struct thmq_message m[64];
	struct model_partition *p;
	uint32_t i, id, part;
	int n, idle = 0;

	at = "read back";
	for (part = 0; part < PARTITIONS; part++) {
		w->partitions[part].read = 0;
		w->partitions[part].any = false;
	}
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) ==
			 0);
	while (idle < (w->deletes ? 500 : 50)) { /* ms: much was written, and a read waits behind it */
		n = thmq_fetch(reader, m, 64);
		CHECK(w, n >= 0);
		if (n == 0) {
			idle++;
			thmq_poll(w->env, 1000000);
			continue;
		}
		idle = 0;
		for (i = 0; i < (uint32_t)n; i++) {
			p = &w->partitions[m[i].partition];
			CHECK(w, m[i].len >= 4);
			memcpy(&id, m[i].data, 4);
			CHECK(w, p->read < p->count); /* nothing invented */
			CHECK(w, p->ids[p->read] == id); /* in order, once, no gap */
			CHECK(w, !p->any || m[i].offset > p->last_offset);
			p->any = true;
			p->last_offset = m[i].offset;
			p->read++;
		}
		CHECK(w, thmq_release(reader, m, (uint32_t)n) == 0);
	}
	CHECK(w, thmq_consumer_close(reader, 1000000000) == 0);
	for (part = 0; part < PARTITIONS; part++) {
		p = &w->partitions[part];
		CHECK(w, p->read >= p->certain); /* nothing acknowledged is missing */
		p->count = p->certain = p->read; /* the rest was lost, and never comes back */
		memset(&info, 0, sizeof(info));
		info.size = sizeof(info);
		CHECK(w, thmq_partition_describe(w->session, "t", part, "g", &info) == 0);
		if (p->acked_next)
			CHECK(w, info.group_offset != UINT64_MAX && info.group_offset >= p->acked_next);
		if (info.group_offset != UINT64_MAX)
			CHECK(w, info.group_offset <= p->acked_sent);
	}
	return 0;
}

/* What the watermark says is certain from now on. */
static int take_settled(struct world *w)
{
	int64_t mark = thmq_watermark(w->producer);
	struct model_partition *p;

	at = "watermark";
	CHECK(w, mark >= w->settled && mark <= w->sent_count);
	for (; w->settled < mark; w->settled++) {
		p = &w->partitions[w->sent[w->settled].partition];
		if (w->sent[w->settled].durable)
			p->certain = THMQI_MAX(p->certain, w->sent[w->settled].place + 1);
	}
	return 0;
}

static int send_some(struct world *w)
{
	static uint8_t payload[9000];
	uint32_t n = 1 + (uint32_t)below(w, 40), len, part, level;
	struct model_partition *p;
	int64_t seq;

	at = "send";
	while (n-- && w->sent_count < MESSAGES_MAX) {
		part = (uint32_t)below(w, PARTITIONS);
		len = 4 + (uint32_t)below(w, below(w, 10) ? 200 : 8000);
		level = 1 + (uint32_t)below(w, 3);
		p = &w->partitions[part];
		if (p->count == MESSAGES_MAX)
			return 0;
		memcpy(payload, &w->next_id, 4);
		seq = thmq_send(w->producer, payload, len,
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = part,
						  .durability = level));
		if (seq == -EAGAIN)
			return 0;
		CHECK(w, seq == w->sent_count + 1);
		w->sent[w->sent_count].partition = part;
		w->sent[w->sent_count].place = p->count;
		w->sent[w->sent_count].durable = level >= THMQ_DURABILITY_DURABLE;
		w->sent_count++;
		p->ids[p->count++] = w->next_id++;
	}
	return 0;
}

static int consume_some(struct world *w)
{
	struct thmq_message m[16];
	struct model_partition *p;
	int n = thmq_fetch(w->consumer, m, 16), i;

	at = "consume";
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		p = &w->partitions[m[i].partition];
		p->acked_sent = THMQI_MAX(p->acked_sent, m[i].offset + 1);
		p->acked_life = THMQI_MAX(p->acked_life, m[i].offset + 1);
		CHECK(w, thmq_ack(w->consumer, &m[i]) == 0);
	}
	CHECK(w, n == 0 || thmq_release(w->consumer, m, (uint32_t)n) == 0);
	if (n && below(w, 8) == 0) {
		CHECK(w, thmq_consumer_flush(w->consumer, 10000000000ull) == 0);
		for (i = 0; i < PARTITIONS; i++)
			w->partitions[i].acked_next =
				THMQI_MAX(w->partitions[i].acked_next, w->partitions[i].acked_life);
	}
	return 0;
}

/*
 * A topic beside the one that is read back gets some messages, and perhaps goes before they are durable: its partitions are then in the segment that is full as
 * well as in the one that fills. What it leaves, and takes with it, must be none of the other's.
 */
static int pass(struct world *w)
{
	static uint8_t payload[8000];
	const uint32_t k = (uint32_t)below(w, PASSING);
	uint32_t n = 1 + (uint32_t)below(w, 30);
	struct thmq_event e;
	char name[8];

	at = "passing topics";
	snprintf(name, sizeof(name), "p%u", k);
	if (!w->passing[k]) {
		CHECK(w, thmq_topic_create(w->session, name, THMQ_TOPIC_OPTS(.partition_count = 2, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
		CHECK(w, thmq_producer_open(w->session, name, NULL, &w->passing[k]) == 0);
	}
	while (n--) {
		int64_t seq = thmq_send(w->passing[k], payload, 1 + (uint32_t)below(w, sizeof(payload)), NULL);

		CHECK(w, seq > 0 || seq == -EAGAIN);
		thmq_poll(w->env, 0);
	}
	if (below(w, w->deletes) == 0) {
		CHECK(w, thmq_topic_delete(w->session, name) == 0);
		thmq_producer_close(w->passing[k], SECOND); /* it says that some were not stored */
		w->passing[k] = NULL;
	}
	while (thmq_events(w->session, &e, 1) == 1)
		;
	return 0;
}

static int life(struct world *w, bool last)
{
	uint32_t steps = 5 + (uint32_t)below(w, 300), i;
	int rc;

	if (open_all(w) || read_back(w))
		return -1;
	for (i = 0; i < steps; i++) {
		if (below(w, 3) && send_some(w))
			return -1;
		if (consume_some(w) || take_settled(w))
			return -1;
		if (w->deletes && pass(w))
			return -1;
		thmq_poll(w->env, below(w, 2) ? 0 : below(w, 100000));
	}
	if (last || below(w, 5) == 0) {
		at = "clean close";
		CHECK(w, thmq_flush(w->producer, 60000000000ull) == 0);
		for (i = 0; i < PASSING; i++)
			CHECK(w, !w->passing[i] || thmq_flush(w->passing[i], 60 * SECOND) == 0);
		if (take_settled(w))
			return -1;
		CHECK(w, w->settled == w->sent_count);
		for (i = 0; i < PARTITIONS; i++)
			w->partitions[i].certain = w->partitions[i].count;
		rc = thmq_env_close(w->env, 60000000000ull);
		CHECK(w, rc == 0);
		for (i = 0; i < PARTITIONS; i++)
			w->partitions[i].acked_next =
				THMQI_MAX(w->partitions[i].acked_next, w->partitions[i].acked_life);
	} else {
		power_cut(w);
	}
	return 0;
}

static void begin(struct world *w)
{
	w->next_id = 1;
	w->deletes = below(w, 6) ? 0 : 1 + (uint32_t)below(w, 8); /* none of most: they cost time */
}

static int run(uint64_t seed)
{
	return live(seed, 2, 6, begin, life, NULL);
}

/* A log that is wrong, for a test that must be able to fail. */
static const struct defect {
	const char *name;
	uint32_t log, seeds; /* THMQI_LOG_*; to find it with */
} defects[] = {
	{"acknowledged before the flush", THMQI_LOG_NO_FLUSH, 60},
	{"settled out of order", THMQI_LOG_SETTLE_UNORDERED, 60},
};

static bool is_caught(const struct defect *defect)
{
	uint64_t seed;
	int rc = 0;

	quiet = true;
	planted = defect->log;
	for (seed = 1; seed <= defect->seeds && !rc; seed++)
		rc = run(seed);
	quiet = false;
	planted = 0;
	if (rc)
		printf("%s: found by seed %llu, %s\n", defect->name, (unsigned long long)seed - 1, at);
	else
		fprintf(stderr, "%s: not found by %u seeds\n", defect->name, defect->seeds);
	return rc != 0;
}

int main(int argc, char **argv)
{
	const bool small = getenv("THMQ_TEST_SMALL") != NULL;
	uint64_t failed;
	uint32_t i;

	each_seed(argc, argv, small ? 100 : 200, 20000, run, &failed); /* fewer beside sanitizers */
	/* what a world that failed leaves open sanitizers would call leaks */
	for (i = 0; argc == 1 && !small && i < THMQI_ARRAY_COUNT(defects); i++)
		failed += !is_caught(&defects[i]);
	return failed != 0;
}
