/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_reopen_test.c - transactions that are prepared when their broker ends without a word, one with copies, whose shards may lead before its metadata is there: none of them is
 * taken for one that is unknown, and once they are committed all of each comes. The copy is the only one of its cluster, so that its shards lead as soon as they are open.
 *
 * usage: txn_reopen_test [rounds]; default 10, and 200 with THMQ_TEST_FULL=1
 */
#include <errno.h>
#include <unistd.h>

#include "../check.h"

#define PARTITIONS 8u
#define ROUNDS_MAX 1000u
#define PATIENCE_NS (60 * SECOND)

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static char dir[] = "txn-reopen-test-XXXXXX";
static uint8_t seen[ROUNDS_MAX][PARTITIONS];

static void begin(void)
{
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .name = "one", .cluster = "1=inproc://one", .cluster_name = "reopen", .node_id = 1,
						.shard_count = 4, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10),
			       &broker) == 0);
	CHECK(thmq_connect(env, "inproc://one", THMQ_SESSION_OPTS(.timeout_ns = PATIENCE_NS), &session) == 0);
}

static void end(void)
{
	CHECK(thmq_session_close(session, PATIENCE_NS) == 0);
	CHECK(thmq_broker_close(broker, 0) != -EDEADLK);
}

/* A message for each partition. Return: its number, under which it waits for a decision. */
static uint64_t prepare(uint32_t round)
{
	struct thmq_producer *p;
	struct thmq_txn *txn;
	uint64_t id;
	uint32_t i;

	CHECK(thmq_producer_open(session, "t", NULL, &p) == 0);
	CHECK(thmq_txn_begin(session, THMQ_TXN_OPTS(.name = "waits"), &txn) == 0);
	for (i = 0; i < PARTITIONS; i++)
		CHECK(thmq_send(p, &round, sizeof(round), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i, .txn = txn)) > 0);
	id = thmq_txn_id(txn);
	CHECK(thmq_txn_prepare(txn, PATIENCE_NS) == 0);
	return id;
}

static void take(struct thmq_consumer *c, uint32_t rounds)
{
	uint64_t until = now() + PATIENCE_NS;
	uint32_t left = rounds * PARTITIONS, round;
	struct thmq_message m[64];
	int n, i;

	memset(seen, 0, sizeof(seen));
	while (left) {
		n = thmq_fetch(c, m, 64);
		CHECK(n >= 0 && now() < until);
		for (i = 0; i < n; i++, left--) {
			memcpy(&round, m[i].data, sizeof(round));
			CHECK(round < rounds && !seen[round][m[i].partition]++);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(session, 10 * MS) >= 0);
	}
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 200 : 10, i;
	struct thmq_consumer *c;
	char command[64];
	uint64_t id;

	CHECK(rounds <= ROUNDS_MAX && mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	begin();
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	for (i = 0; i < rounds; i++) {
		id = prepare(i);
		end();
		begin();
		CHECK(thmq_txn_watch(session, "waits") == 0);
		CHECK(thmq_txn_decide(session, id, THMQ_TXN_COMMIT, PATIENCE_NS) == 0);
	}
	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	take(c, rounds);
	end();
	CHECK(thmq_env_close(env, PATIENCE_NS) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK(system(command) == 0);
	printf("%u transactions waited for their broker\n", rounds);
	return 0;
}
