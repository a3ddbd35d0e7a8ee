/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_pool_test.c - a memory pool that is much smaller than what all logs would like to keep: three brokers with copies on one core, on simulated disks,
 * in virtual time. All goes on, whichever of them has the memory.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

TestSuite(broker_pool, .timeout = 120);

#define BROKERS 3u
#define PARTITIONS 8u
#define MS 1000000ull
#define SECOND 1000000000ull
#define BYTES (30u << 10)

static struct thmqi_disk_sim *room, *disks[BROKERS];
static struct thmq_env *env;
static struct thmq_broker *brokers[BROKERS];
static struct thmq_session *session;

static void up(void)
{
	char dir[16], name[16];

	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &room), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20, .policy = THMQ_POLICY_EVENT), thmqi_disk_sim_world(room), &env), 0);
	for (uint32_t i = 0; i < BROKERS; i++) {
		snprintf(dir, sizeof(dir), "data%u", i + 1);
		snprintf(name, sizeof(name), "b%u", i + 1);
		cr_assert_eq(thmqi_disk_sim_open_beside(room, dir, i + 1, NULL, &disks[i]), 0);
		cr_assert_eq(thmq_broker_open(env,
					      THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = 4, .segment_bytes = 4u << 20,
							       .batch_bytes = 64u << 10, .cluster_name = "pool",
							       .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3", .node_id = i + 1,
							       .heartbeat_ms = 10, .election_ms = 50),
					      &brokers[i]),
			     0, "%s", thmq_errmsg());
	}
	cr_assert_eq(thmq_connect(env, "inproc://b1,inproc://b2,inproc://b3", THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = 10 * SECOND),
				  &session),
		     0, "%s", thmq_errmsg());
}

static void down(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(room);
}

static void send(struct thmq_producer *producer, uint32_t partition, uint64_t number)
{
	static uint8_t data[BYTES];
	uint64_t until = thmqi_disk_sim_now(room) + 20 * SECOND;
	int64_t rc;

	memcpy(data, &number, sizeof(number));
	while ((rc = thmq_send(producer, data, BYTES, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition))) == -EAGAIN) {
		cr_assert_lt(thmqi_disk_sim_now(room), until, "partition %u, message %llu", partition, (unsigned long long)number);
		thmq_poll(env, MS);
	}
	cr_assert_gt(rc, 0, "%s", thmq_strerror((int)rc));
}

/* One partition after the other has all the traffic: so has one shard after the other, while the others' caches are full. */
Test(broker_pool, all_goes_on_where_the_caches_would_fill_the_pool_many_times, .init = up, .fini = down)
{
	const uint32_t each = 400;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint64_t next[PARTITIONS] = {0}, number, until;
	uint32_t p, got = 0;
	struct thmq_message m[16];
	int n;

	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
	for (p = 0; p < PARTITIONS; p++) {
		for (number = 0; number < each; number++)
			send(producer, p, number);
		cr_assert_eq(thmq_flush(producer, 20 * SECOND), 0, "%s", thmq_errmsg());
	}
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer), 0, "%s", thmq_errmsg());
	until = thmqi_disk_sim_now(room) + 60 * SECOND;
	while (got < each * PARTITIONS) {
		cr_assert_lt(thmqi_disk_sim_now(room), until, "%u of %u came", got, each * PARTITIONS);
		n = thmq_fetch(consumer, m, 16);
		cr_assert_geq(n, 0);
		for (int i = 0; i < n; i++) {
			memcpy(&number, m[i].data, sizeof(number));
			cr_assert_eq(number, next[m[i].partition]++);
			got++;
		}
		cr_assert_eq(thmq_release(consumer, m, (uint32_t)n), 0);
		thmq_poll(env, MS);
	}
}
