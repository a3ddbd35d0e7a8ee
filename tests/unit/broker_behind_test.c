/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers with copies, one of which does not hear of the others for a while. Where only that one is left, what it does not know of may be there all the same;
 * and where it led, what it had decided may not be. On simulated disks, in virtual time.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "../../lib/broker/internal.h"
#include "disk/sim.h"

TestSuite(broker_behind, .timeout = 60);

#define BROKERS 3u
#define BEHIND 3u
#define MS 1000000ull
#define SECOND 1000000000ull
#define URLS "inproc://b1,inproc://b2,inproc://b3"

static struct thmqi_disk_sim *room, *disks[BROKERS];
static struct thmq_env *env;
static struct thmq_broker *brokers[BROKERS];
static struct thmqi_carrier carrier;
static uint32_t cut; /* nothing comes to this node, or from it; 0: none */
static struct thmq_session *session;

static int on_send(void *ctx, struct thmq_broker *from, const char *address, const struct thmqi_message *message, struct thmqi_buf *buf)
{
	(void)ctx;
	if (cut && (message->from == cut || message->to == cut))
		return 0;
	return thmqi_carrier_inproc.send(thmqi_carrier_inproc.ctx, from, address, message, buf);
}

static void broker_up(uint32_t node)
{
	char dir[16], name[16];

	snprintf(dir, sizeof(dir), "data%u", node);
	snprintf(name, sizeof(name), "b%u", node);
	cr_assert_eq(thmqi_api_broker_open(env,
					   THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
							    .cache_bytes = 1u << 20, .cluster_name = "behind",
							    .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3", .node_id = node, .heartbeat_ms = 10,
							    .election_ms = 50),
					   &carrier, &brokers[node - 1]),
		     0, "%s", thmq_errmsg());
}

static void broker_down(uint32_t node)
{
	thmq_broker_close(brokers[node - 1], 0);
	brokers[node - 1] = NULL;
}

static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(room) + ns, now;

	while ((now = thmqi_disk_sim_now(room)) < until)
		thmq_poll(env, THMQI_MIN(until - now, 100000ull));
}

static struct thmq_session *connect_to(const char *urls)
{
	struct thmq_session *s;

	cr_assert_eq(thmq_connect(env, urls, THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = 5 * SECOND), &s), 0, "%s", thmq_errmsg());
	return s;
}

static void up(void)
{
	char dir[16];
	uint32_t i;

	cut = 0;
	carrier = (struct thmqi_carrier){.send = on_send};
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &room), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20, .policy = THMQ_POLICY_EVENT), thmqi_disk_sim_world(room), &env), 0);
	for (i = 0; i < BROKERS; i++) {
		snprintf(dir, sizeof(dir), "data%u", i + 1);
		cr_assert_eq(thmqi_disk_sim_open_beside(room, dir, i + 1, NULL, &disks[i]), 0);
		broker_up(i + 1);
	}
	session = connect_to(URLS);
}

static void down(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(room);
}

/* One to each partition, once somebody leads. */
static void send(struct thmq_producer *producer, uint32_t number)
{
	uint64_t until = thmqi_disk_sim_now(room) + 20 * SECOND;
	int64_t rc;

	for (uint32_t p = 0; p < 2; p++) {
		while ((rc = thmq_send(producer, &number, sizeof(number), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = p))) == -THMQ_ENOQUORUM) {
			cr_assert_lt(thmqi_disk_sim_now(room), until);
			cr_assert_geq(thmq_session_wait(session, MS), 0);
		}
		cr_assert_gt(rc, 0, "%s", thmq_errmsg());
	}
	cr_assert_eq(thmq_flush(producer, 10 * SECOND), 0, "%s", thmq_errmsg());
}

/* All have a topic, and something in each shard; then one of them hears nothing any more, and not of another topic. */
static void leave_behind(void)
{
	struct thmq_producer *producer;

	cr_assert_eq(thmq_topic_create(session, "early", THMQ_TOPIC_OPTS(.partition_count = 2)), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_open(session, "early", NULL, &producer), 0, "%s", thmq_errmsg());
	send(producer, 0);
	pass(SECOND);
	cut = BEHIND;
	cr_assert_eq(thmq_topic_create(session, "late", THMQ_TOPIC_OPTS(.partition_count = 2)), 0, "%s", thmq_errmsg());
}

/* Only the one that is behind is left, and reads. */
static void leave_alone(void)
{
	for (uint32_t i = 0; i < BROKERS; i++)
		if (i + 1 != BEHIND)
			broker_down(i + 1);
	pass(2 * SECOND);
}

/* From all partitions all of them, in order. */
static void take(struct thmq_consumer *consumer, uint32_t from, uint32_t to)
{
	uint64_t until = thmqi_disk_sim_now(room) + 20 * SECOND;
	uint32_t next[2] = {from, from}, number;
	struct thmq_message m[16];
	int n, i;

	while (next[0] < to || next[1] < to) {
		cr_assert_lt(thmqi_disk_sim_now(room), until, "%u and %u of %u", next[0], next[1], to);
		n = thmq_fetch(consumer, m, 16);
		cr_assert_geq(n, 0, "%s", thmq_strerror(n));
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, sizeof(number));
			cr_assert_eq(number, next[m[i].partition]++);
		}
		cr_assert_eq(thmq_release(consumer, m, (uint32_t)n), 0);
		thmq_poll(env, MS);
	}
}

/* Whether there is such a topic it cannot know, whoever asks. */
Test(broker_behind, a_topic_that_it_has_not_heard_of_may_be_there, .init = up, .fini = down)
{
	struct thmq_partition_info partition = {.size = sizeof(partition)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *late;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;

	leave_behind();
	leave_alone();
	late = connect_to(URLS);
	cr_assert_eq(thmq_topic_describe(late, "early", &info), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_topic_describe(late, "late", &info), -THMQ_ENOQUORUM, "%s", thmq_errmsg());
	cr_assert_eq(thmq_partition_describe(late, "late", 0, NULL, &partition), -THMQ_ENOQUORUM, "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_open(late, "late", NULL, &producer), -THMQ_ENOQUORUM, "%s", thmq_errmsg());
	cr_assert_eq(thmq_consumer_open(late, "late", NULL, NULL, &consumer), -THMQ_ENOQUORUM, "%s", thmq_errmsg());
	cr_assert_eq(thmq_consumer_open(late, "late", "group", NULL, &consumer), -THMQ_ENOQUORUM, "%s", thmq_errmsg());
	cut = 0;
	broker_up(1);
	cr_assert_eq(thmq_topic_describe(late, "late", &info), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_topic_describe(late, "none", &info), -THMQ_ENOTOPIC);
}

/* Who reads a topic reads on once somebody leads that has it, and hears of no error meanwhile. */
Test(broker_behind, who_reads_what_it_has_not_heard_of_goes_on, .init = up, .fini = down)
{
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message m;
	struct thmq_event e;
	bool was_read_only = false;
	uint64_t until;

	leave_behind();
	cr_assert_eq(thmq_producer_open(session, "late", NULL, &producer), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_consumer_open(session, "late", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer), 0, "%s", thmq_errmsg());
	send(producer, 0);
	take(consumer, 0, 1);
	leave_alone();
	for (until = thmqi_disk_sim_now(room) + 5 * SECOND; thmqi_disk_sim_now(room) < until; thmq_poll(env, MS)) {
		cr_assert_eq(thmq_fetch(consumer, &m, 1), 0);
		while (thmq_events(session, &e, 1) == 1) {
			cr_assert_neq(e.type, THMQ_EVENT_ERROR, "%s", thmq_strerror(e.error));
			was_read_only |= e.type == THMQ_EVENT_RECONNECTED && e.error == -THMQ_ENOQUORUM;
		}
	}
	cr_assert(was_read_only);
	cut = 0;
	broker_up(1);
	send(producer, 1);
	take(consumer, 1, 2);
}

/* Its node; 0: nobody */
static uint32_t leader(void)
{
	for (uint32_t i = 0; i < BROKERS; i++)
		if (brokers[i] && thmq_broker_leader(brokers[i], NULL) == 1)
			return i + 1;
	return 0;
}

/*
 * Who leads stores that a transaction is committed, and nobody hears of it; then others lead, take it for aborted, and @append or do not; then the first one leads again, since
 * it is asked to, or @left with one that has less. Whatever the transaction is by then, it is told as it is.
 */
static void decide_alone(bool append, bool left)
{
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint32_t first, seen = 0, i;
	struct thmq_message m[4];
	struct thmq_txn *txn;
	uint64_t until;
	int rc, n;

	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = 2)), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_txn_begin(session, NULL, &txn), 0, "%s", thmq_errmsg());
	for (i = 0; i < 2; i++)
		cr_assert_gt(thmq_send(producer, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i, .txn = txn)), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_flush(producer, SECOND), 0, "%s", thmq_errmsg());
	pass(SECOND);
	first = cut = leader();
	cr_assert(first);
	cr_assert_eq(thmq_txn_commit(txn, 20 * MS), -ETIMEDOUT, "%s", thmq_errmsg());
	pass(SECOND);
	if (append)
		cr_assert_eq(thmq_topic_create(session, "other", NULL), 0, "%s", thmq_errmsg());
	cut = 0;
	pass(SECOND);
	if (left) {
		cr_assert(leader());
		broker_down(leader());
	}
	until = thmqi_disk_sim_now(room) + 20 * SECOND;
	while (leader() != first) {
		cr_assert_lt(thmqi_disk_sim_now(room), until);
		if (!left)
			thmq_cluster_lead(session, first, SECOND);
		pass(100 * MS);
	}
	rc = thmq_txn_commit(txn, 10 * SECOND);
	cr_assert(rc == -ECANCELED || (rc == 0 && !append), "%s", thmq_errmsg());
	for (until = thmqi_disk_sim_now(room) + SECOND; thmqi_disk_sim_now(room) < until; thmq_poll(env, MS)) {
		n = thmq_fetch(consumer, m, 4);
		cr_assert_geq(n, 0, "%s", thmq_strerror(n));
		cr_assert_eq(thmq_release(consumer, m, (uint32_t)n), 0);
		seen += (uint32_t)n;
	}
	cr_assert_eq(seen, rc ? 0 : 2);
}

Test(broker_behind, a_decision_that_was_taken_back_is_none, .init = up, .fini = down)
{
	decide_alone(true, false);
}

Test(broker_behind, a_decision_that_others_took_for_none_is_none, .init = up, .fini = down)
{
	decide_alone(false, true);
}

Test(broker_behind, who_has_more_than_is_committed_is_made_to_lead, .init = up, .fini = down)
{
	decide_alone(false, false);
}
