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

/* As all of them see node @i. */
static struct thmq_node seen(uint32_t from, uint32_t i)
{
	struct thmq_node nodes[BROKERS + 1] = {{.size = sizeof(nodes[0])}};

	cr_assert_eq(thmq_broker_nodes(brokers[from], nodes, BROKERS + 1), BROKERS);
	for (uint32_t k = 0; k < BROKERS; k++)
		if (nodes[k].id == i + 1)
			return nodes[k];
	cr_assert_fail("node %u is none of them", i + 1);
	return nodes[0];
}

static struct thmq_node listed(uint32_t i)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
	uint32_t k = 0;

	cr_assert_eq(thmq_cluster_nodes(session, nodes, BROKERS), BROKERS, "%s", thmq_errmsg());
	while (k < BROKERS - 1 && nodes[k].id != i + 1)
		k++;
	return nodes[k];
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
	/* and all know why */
	pass(SECOND);
	for (uint32_t i = 0; i < BROKERS; i++) {
		for (uint32_t k = 0; k < BROKERS; k++) {
			cr_expect_eq(seen(k, i).error, i == ill ? -EIO : 0, "%u of %u: %d", i + 1, k + 1, seen(k, i).error);
			cr_expect_str_eq(seen(k, i).failed, i == ill && k == ill ? "meta" : "");
		}
		cr_expect_eq(listed(i).error, i == ill ? -EIO : 0);
		cr_expect_eq(listed(i).connected, 1);
	}
	for (uint32_t i = 0; i < 4; i++) {
		cr_assert_eq(thmq_partition_describe(session, "t", i, NULL, &info), 0, "%s", thmq_errmsg());
		cr_assert_geq(info.end_offset, 2);
	}
}

/* ------------------------------------------------------------------- no room */

static struct thmq_producer *producer;
static uint32_t refused;

/* For so long, as much as is taken. */
static void write_for(uint64_t ns)
{
	static const uint8_t data[16u << 10];
	uint64_t until = thmqi_disk_sim_now(room) + ns;
	struct thmq_event events[64];
	int n;

	while (thmqi_disk_sim_now(room) < until) {
		for (uint32_t i = 0; i < 4; i++)
			thmq_send(producer, data, sizeof(data), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i));
		pass(10 * MS);
		while ((n = thmq_events(session, events, 64)) > 0)
			for (int i = 0; i < n; i++)
				refused += events[i].type == THMQ_EVENT_FAILED && events[i].error == -ENOSPC;
	}
}

static void fill(uint32_t i)
{
	struct thmqi_disk_sim_stats stats;

	thmqi_disk_sim_stats(disks[i], &stats);
	thmqi_disk_sim_set_capacity(disks[i], stats.bytes + 4096);
}

static void fill_all_but(uint32_t spared)
{
	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = 4)), 0);
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
	write_for(SECOND);
	cr_assert_eq(refused, 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		if (i != spared)
			fill(i);
}

/* Those that have no room do not take turns, and each of them says so. */
Test(broker_ill, where_nobody_has_room_nobody_hands_over, .init = up, .fini = three_down)
{
	uint64_t term;
	uint32_t was;

	fill_all_but(BROKERS);
	write_for(4 * SECOND);
	cr_assert_gt(refused, 0);
	was = leader();
	term = seen(0, 0).term;
	write_for(32 * SECOND); /* a spell in which they would have gone on for ever */
	cr_expect_eq(leader(), was);
	cr_expect_eq(seen(0, 0).term, term);
	cr_expect_leq(term, 8);
	for (uint32_t i = 0; i < BROKERS; i++) {
		cr_expect_eq(listed(i).error, -ENOSPC);
		cr_expect_eq(seen(i, i).error, -ENOSPC);
		cr_expect_str_eq(seen(i, i).failed, "");
	}
	for (uint32_t i = 0; i < BROKERS; i++)
		thmqi_disk_sim_set_capacity(disks[i], 0);
	write_for(2 * SECOND);
	refused = 0;
	write_for(SECOND);
	cr_expect_eq(refused, 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		cr_expect_eq(listed(i).error, 0);
}

/* One of the others has none either, and is not asked. */
static void one_has_room(uint32_t behind)
{
	uint32_t was, spared;
	uint64_t term;

	pass(SECOND);
	was = leader();
	spared = (was + behind) % BROKERS;
	term = seen(was, was).term;
	fill_all_but(spared);
	for (uint32_t i = 0; i < 200 && leader() != spared; i++)
		write_for(100 * MS);
	write_for(SECOND);
	cr_expect_eq(leader(), spared);
	cr_expect_eq(seen(spared, spared).term, term + 1, "%llu, %llu", (unsigned long long)seen(spared, spared).term, (unsigned long long)term);
	cr_expect_eq(listed(was).error, -ENOSPC);
	cr_expect_eq(listed(spared).error, 0);
}

Test(broker_ill, the_one_that_has_room_leads, .init = up, .fini = three_down)
{
	one_has_room(1);
}

Test(broker_ill, the_one_that_has_room_leads_if_it_is_the_last, .init = up, .fini = three_down)
{
	one_has_room(2);
}
