/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions beside a device that takes its time: what comes behind the end of one holds nobody up. On a simulated disk, in virtual time. */
#include <criterion/criterion.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

TestSuite(broker_txn, .timeout = 60);

#define MS 1000000ull
#define SECOND 1000000000ull

static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;

static void up(void)
{
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(sim), &env), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1, .segment_bytes = 1u << 20), &broker), 0, "%s",
		     thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = 2)), 0);
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
}

static void down(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(sim);
}

static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(sim) + ns, now;

	while ((now = thmqi_disk_sim_now(sim)) < until)
		thmq_poll(env, THMQI_MIN(until - now, 100000ull));
}

static void put(struct thmq_txn *txn, uint32_t partition, const char *text)
{
	cr_assert_gt(thmq_send(producer, text, 4, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition, .txn = txn)), 0, "%s",
		     thmq_errmsg());
}

/* Its end is on the way to the device, which stands still, when more of it comes, to another partition of the shard. */
Test(broker_txn, what_comes_while_its_end_is_stored_is_none_of_it, .init = up, .fini = down)
{
	struct thmqi_disk_sim_fault still = {
		.opcode = THMQI_DISK_WRITE, .effect = THMQI_DISK_SIM_STALL, .nth = 1, .repeat = 0, .arg = (int64_t)(200 * MS)};
	struct thmq_consumer *consumer;
	struct thmq_message m;
	struct thmq_txn *txn;
	uint64_t until;
	int n;

	cr_assert_eq(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer), 0);
	cr_assert_eq(thmq_txn_begin(session, THMQ_TXN_OPTS(.timeout_ns = 50 * MS), &txn), 0);
	put(txn, 0, "one");
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	cr_assert_eq(thmqi_disk_sim_fault_add(sim, &still), 0);
	pass(60 * MS); /* it was too slow, and is aborted */
	put(txn, 1, "two");
	pass(SECOND);
	cr_assert_eq(thmq_txn_commit(txn, SECOND), -ECANCELED);
	put(NULL, 1, "all");
	for (n = 0, until = thmqi_disk_sim_now(sim) + 10 * SECOND; !n && thmqi_disk_sim_now(sim) < until; pass(MS))
		n = thmq_fetch(consumer, &m, 1);
	cr_assert_eq(n, 1, "it is hidden for ever");
	cr_assert_str_eq(m.data, "all");
	cr_assert_eq(thmq_release(consumer, &m, 1), 0);
}
