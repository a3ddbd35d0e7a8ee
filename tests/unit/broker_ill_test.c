/* SPDX-License-Identifier: Apache-2.0 */
/* Three brokers with copies, of which one has an ill device: the others lead all that it led. On simulated disks, in virtual time. */
#include "three_brokers.h"

TestSuite(broker_ill, .timeout = 60);

static void up(void)
{
	three_up(256u << 20, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .cache_bytes = 1u << 20));
}

static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(room) + ns, now;

	while ((now = thmqi_disk_sim_now(room)) < until)
		thmq_poll(env, THMQI_MIN(until - now, 100000ull));
}

static uint32_t leader(void)
{
	for (uint32_t i = 0; i < BROKERS; i++)
		if (thmq_broker_leader(brokers[i], NULL) == 1)
			return i;
	cr_assert_fail("nobody leads");
	return 0;
}

/* Only what it keeps of topics fails; its other shards are well, and would be led by it for ever, where nobody finds them. */
Test(broker_ill, who_cannot_keep_meta_leads_nothing, .init = up, .fini = three_down)
{
	struct thmqi_disk_sim_fault error = {.opcode = THMQI_DISK_WRITE, .effect = THMQI_DISK_SIM_ERROR, .nth = 1, .repeat = 0};
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_producer *producer;
	uint32_t ill;
	int rc;

	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = 4)), 0);
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
	for (uint32_t i = 0; i < 4; i++)
		cr_assert_gt(thmq_send(producer, "before", 6, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i)), 0);
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	pass(SECOND); /* one leads all */
	ill = leader();
	cr_assert_eq(thmqi_disk_sim_fault_add(disks[ill], &error), 0);
	rc = thmq_topic_create(session, "other", NULL);
	cr_assert(rc == 0 || rc == -EEXIST, "%s", thmq_errmsg());
	for (uint32_t i = 0; i < 4; i++)
		cr_assert_gt(thmq_send(producer, "behind", 6, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i)), 0);
	cr_assert_eq(thmq_flush(producer, 10 * SECOND), 0, "%s", thmq_errmsg());
	cr_assert_neq(leader(), ill);
	for (uint32_t i = 0; i < 4; i++) {
		cr_assert_eq(thmq_partition_describe(session, "t", i, NULL, &info), 0, "%s", thmq_errmsg());
		cr_assert_geq(info.end_offset, 2);
	}
}
