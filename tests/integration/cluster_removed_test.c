/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster_removed_test.c - a broker that is removed from its cluster while it is there, or while it is away, hears of it from the others and says so; who comes to it is sent to
 * them; added again it belongs to them as before.
 */
#include "cluster_rig.h"

static struct thmq_session *session;

static struct thmq_session *connect_to(const char *urls)
{
	struct thmq_session *s;

	CHECK(thmq_connect(rig.env, urls, THMQ_SESSION_OPTS(.timeout_ns = PATIENCE_NS, .reconnect_ns = PATIENCE_NS, .peer_timeout_ns = SECOND), &s) == 0);
	return s;
}

static void wait_till_it_says(uint32_t who, bool removed)
{
	uint64_t end = now() + PATIENCE_NS;

	while ((thmq_broker_leader(rig.brokers[who], NULL) == -THMQ_EFENCED) != removed) {
		CHECK(now() < end);
		nap(MS);
	}
}

static int node_count(void)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};

	return thmq_cluster_nodes(session, nodes, BROKERS);
}

static void send_one(struct thmq_session *s)
{
	struct thmq_producer *p;

	CHECK(thmq_producer_open(s, "notes", NULL, &p) == 0);
	CHECK(thmq_send(p, "x", 1, NULL) == 1);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
}

static uint32_t one_that_follows(void)
{
	return (rig_some_leader() + 1) % BROKERS;
}

/* Who was there hears of it, and also once it is opened again; what came to it goes to the others. */
static uint32_t remove_one(bool away)
{
	uint32_t out = one_that_follows();
	struct thmq_session *s;

	if (away)
		rig_close(out, 0);
	CHECK(thmq_cluster_remove(session, out + 1, 0) == 0);
	CHECK(node_count() == (int)BROKERS - 1);
	if (away)
		rig_open(out);
	wait_till_it_says(out, true);
	s = connect_to(rig.urls[out]);
	send_one(s);
	CHECK(thmq_session_close(s, PATIENCE_NS) == 0);
	rig_close(out, SECOND);
	rig_open(out);
	wait_till_it_says(out, true);
	send_one(session);
	return out;
}

static void add_again(uint32_t out)
{
	CHECK(thmq_cluster_add(session, out + 1, rig.urls[out], PATIENCE_NS) == 0);
	wait_till_it_says(out, false);
	CHECK(node_count() == (int)BROKERS);
	CHECK(thmq_cluster_lead(session, out + 1, PATIENCE_NS) == 0);
	send_one(session);
}

static void try_all(bool far)
{
	rig_begin("removed", far, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .heartbeat_ms = 30, .election_ms = 150));
	rig_open_all();
	session = connect_to(rig.all);
	CHECK(thmq_topic_create(session, "notes", NULL) == 0);
	add_again(remove_one(false));
	add_again(remove_one(true));
	CHECK(thmq_session_close(session, 10 * SECOND) == 0);
	rig_end();
}

int main(void)
{
	try_all(false);
	try_all(true);
	return 0;
}
