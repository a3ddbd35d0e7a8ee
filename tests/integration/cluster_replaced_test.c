/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One of three brokers is away while the two others are replaced. When it comes back nobody is there whom it knew; it answers who speaks to it, and gets what
 * it lacks: then another one may go.
 *
 * usage: cluster_replaced_test [tcp|inproc]; both unless told
 */
#include "cluster_rig.h"

#define AWAY 2u
#define EACH 50u

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
} w;

static void send_some(void)
{
	uint64_t end = now() + PATIENCE_NS;
	uint32_t i;
	int64_t rc;

	for (i = 0; i < EACH; i++) {
		while ((rc = thmq_send(w.producer, &i, sizeof(i), NULL)) == -EAGAIN || rc == -THMQ_ENOQUORUM) {
			CHECK(now() < end);
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
		}
		CHECK(rc > 0);
	}
	CHECK(thmq_flush(w.producer, PATIENCE_NS) == 0);
}

/* @id comes, and @gone goes; who goes does not lead then. */
static void replace(uint32_t gone, uint64_t id, struct thmq_broker **ret)
{
	uint64_t end = now() + PATIENCE_NS;
	char address[64];
	int rc;

	rig_address((uint32_t)id, address, sizeof(address));
	rig_join(id, ret);
	CHECK(thmq_cluster_add(w.session, id, address, PATIENCE_NS) == 0);
	while ((rc = thmq_cluster_remove(w.session, gone + 1, PATIENCE_NS)) == -EBUSY) {
		thmq_cluster_lead(w.session, id, SECOND);
		CHECK(now() < end);
	}
	CHECK(rc == 0);
	rig_close(gone, SECOND);
	send_some();
}

/* Who was away lacks nothing. */
static void wait_for_all(void)
{
	struct thmq_node nodes[8] = {{.size = sizeof(nodes[0])}};
	uint64_t end = now() + PATIENCE_NS, behind = 1;
	int n, i;

	while (behind) {
		CHECK(now() < end);
		nap(10 * MS);
		n = thmq_cluster_nodes(w.session, nodes, 8);
		for (i = 0, behind = 1; i < n; i++)
			if (nodes[i].id == AWAY + 1)
				behind = nodes[i].behind;
	}
}

static void story(bool far)
{
	struct thmq_broker *more[2];

	rig_begin("gone", far, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .heartbeat_ms = 30, .election_ms = 150));
	rig_open_all();
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = PATIENCE_NS, .reconnect_ns = PATIENCE_NS), &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
	send_some();
	rig_close(AWAY, 0);
	replace(0, 4, &more[0]);
	replace(1, 5, &more[1]);
	rig_open(AWAY);
	wait_for_all();
	CHECK(thmq_broker_close(more[0], SECOND) != -EDEADLK);
	send_some();
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	CHECK(thmq_broker_close(more[1], SECOND) != -EDEADLK);
	rig_end();
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";

	if (strcmp(only, "tcp") != 0)
		story(false);
	if (strcmp(only, "inproc") != 0)
		story(true);
	return 0;
}
