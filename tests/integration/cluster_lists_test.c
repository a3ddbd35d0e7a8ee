/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brokers that begin together and were not given the same list: the log of the one that was given another could never go on with those of the others. Nobody leads,
 * each says why, nothing is lost but an empty directory, and once all have the same list, in whatever order, they begin.
 *
 * usage: cluster_lists_test [tcp|inproc]; THMQ_TEST_FULL=1: both, else by TCP only
 */
#include "cluster_rig.h"

static char right[256];

static void wait_for_error(uint32_t i, uint64_t id, int error)
{
	uint64_t end = now() + PATIENCE_NS;

	while (rig.far && rig_seen(i, id).error != error) {
		CHECK(now() < end);
		nap(MS);
	}
}

static void is_refused(void)
{
	uint64_t end;

	rig_open(0);
	rig_open(1);
	snprintf(rig.cluster, sizeof(rig.cluster), "1=%s,2=%s%s,3=%s", rig.urls[0], rig.urls[1], rig.far ? "+17499" : "9", rig.urls[2]);
	rig_open(2);
	wait_for_error(0, 3, -EREMCHG);
	wait_for_error(2, 1, -EREMCHG);
	CHECK(!rig.far || (!rig_seen(0, 3).connected && !rig_seen(2, 1).connected && strstr(thmq_strerror(-EREMCHG), "another list")));
	for (end = now() + 700 * MS; now() < end; nap(5 * MS))
		CHECK(rig_leader() < 0);
	rig_close(2, 5 * SECOND);
}

/* What it was made with stays in its log, whatever it is given now. */
static void is_to_be_emptied(void)
{
	uint64_t end = now() + PATIENCE_NS;
	int rc;

	strcpy(rig.cluster, right);
	while ((rc = rig_try(2, 3, &rig.brokers[2])) == -EBUSY) {
		CHECK(now() < end);
		nap(MS);
	}
	CHECK(rc == -EREMCHG && strstr(thmq_errmsg(), "another list of brokers"));
	rig.brokers[2] = NULL;
	rig_run("rm -rf %s/3", rig.dir);
}

static void look(uint32_t i, uint32_t leader)
{
	struct thmq_node nodes[BROKERS + 1] = {{.size = sizeof(nodes[0])}};
	uint64_t end = now() + PATIENCE_NS;
	uint32_t id;

	for (id = 1; id <= BROKERS; id++) {
		struct thmq_node n;

		while (n = rig_seen(i, id), !n.connected || n.leads != (id == leader + 1)) {
			CHECK(now() < end);
			nap(MS);
		}
		CHECK(strcmp(n.address, rig.urls[id - 1]) == 0 && n.role == THMQ_NODE_VOTER && n.term > 0 && !n.drained);
	}
	CHECK(thmq_broker_nodes(rig.brokers[i], NULL, 0) == (int)BROKERS);
	CHECK(thmq_broker_nodes(rig.brokers[i], nodes, 1) == (int)BROKERS && nodes[0].id && !nodes[1].id);
	nodes[0].size = 3;
	CHECK(thmq_broker_nodes(rig.brokers[i], nodes, 1) == -EINVAL);
}

static void alone(void)
{
	struct thmq_broker *broker;

	CHECK(thmq_broker_open(rig.env, THMQ_BROKER_OPTS(.name = "alone"), &broker) == 0);
	CHECK(thmq_broker_nodes(broker, NULL, 0) == -ENOTSUP);
	CHECK(thmq_broker_close(broker, SECOND) == 0);
	CHECK(thmq_broker_nodes(broker, NULL, 0) == -EINVAL);
}

static void story(bool far)
{
	uint32_t i, leader;

	rig_begin(far ? "lists" : "inlists", far, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .heartbeat_ms = 30, .election_ms = 150));
	strcpy(right, rig.cluster);
	is_refused();
	is_to_be_emptied();
	snprintf(rig.cluster, sizeof(rig.cluster), "3=%s,1=%s,2=%s", rig.urls[2], rig.urls[0], rig.urls[1]);
	rig_open(2);
	leader = rig_some_leader();
	for (i = 0; i < BROKERS; i++)
		look(i, leader);
	/* with an end behind it, what they are given is not looked at any more: the log says who there is */
	rig_close_all(SECOND);
	snprintf(rig.cluster, sizeof(rig.cluster), "3=%s,1=%s", rig.urls[2], rig.urls[0]);
	rig_open(2);
	strcpy(rig.cluster, right);
	rig_open(0);
	rig_open(1);
	leader = rig_some_leader();
	for (i = 0; i < BROKERS; i++)
		look(i, leader);
	alone();
	rig_end();
	printf("%s: led by broker %u\n", far ? "tcp" : "inproc", leader + 1);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv("THMQ_TEST_FULL") || strcmp(only, "inproc") == 0)
		story(false);
	if (strcmp(only, "inproc") != 0)
		story(true);
	return 0;
}
