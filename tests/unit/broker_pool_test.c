/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_pool_test.c - a memory pool that is much smaller than what all logs would like to keep: three brokers with copies on one core, on simulated disks,
 * in virtual time. All goes on, whichever of them has the memory.
 */
#include "three_brokers.h"

TestSuite(broker_pool, .timeout = 120);

#define PARTITIONS 8u
#define BYTES (30u << 10)

static void up(void)
{
	three_up(64u << 20, THMQ_BROKER_OPTS(.shard_count = 4, .segment_bytes = 4u << 20, .batch_bytes = 64u << 10));
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
Test(broker_pool, all_goes_on_where_the_caches_would_fill_the_pool_many_times, .init = up, .fini = three_down)
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
