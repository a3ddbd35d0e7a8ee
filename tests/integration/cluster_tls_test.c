/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brokers that prove by certificates that they belong together. One whose certificate is by another signer, or is of another host, is let in by nobody, and all say why;
 * what was stored by the others stays and goes on; with a right one it catches up. And what options do not go together.
 */
#include "../certs.h"
#include "cluster_rig.h"

static char certs[96];

static void write_some(struct thmq_session *session, const char *what)
{
	struct thmq_producer *producer;
	uint32_t i;

	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	for (i = 0; i < 100; i++)
		CHECK(thmq_send(producer, what, (uint32_t)strlen(what), NULL) > 0);
	CHECK(thmq_flush(producer, PATIENCE_NS) == 0);
	CHECK(thmq_producer_close(producer, PATIENCE_NS) == 0);
}

static void wait_for(uint32_t i, uint64_t id, bool connected, int error)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_node n;

	while (n = rig_seen(i, id), !n.id || n.connected != connected || n.error != error) {
		if (now() >= end)
			fprintf(stderr, "broker %u says of node %llu: connected %u, error %d\n", i + 1, (unsigned long long)id, n.connected, n.error);
		CHECK(now() < end);
		nap(MS);
	}
}

/* All that the one that leads has is on the medium of all others. */
static void wait_for_all(struct thmq_session *session)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_node nodes[BROKERS];
	bool all;
	int n, i;

	do {
		nodes[0].size = sizeof(nodes[0]);
		n = thmq_cluster_nodes(session, nodes, BROKERS);
		for (all = n == (int)BROKERS, i = 0; i < n && i < (int)BROKERS; i++)
			all = all && nodes[i].connected && !nodes[i].error && !nodes[i].behind;
		CHECK(all || now() < end);
		nap(MS);
	} while (!all);
}

static void refuse(struct thmq_broker_opts opts, const char *words)
{
	struct thmq_broker *broker;

	opts.size = sizeof(opts);
	CHECK(thmq_broker_open(rig.env, &opts, &broker) == -EINVAL && strstr(thmq_errmsg(), words));
}

static void wrong_options(void)
{
	const struct thmq_tls_opts *good = rig.opts.cluster_tls;
	const struct thmq_tls_opts tls = {.size = sizeof(tls), .cert_file = good->cert_file, .key_file = good->key_file};
	const struct thmq_tls_opts any = {.size = sizeof(any), .cert_file = good->cert_file, .key_file = good->key_file, .flags = THMQ_TLS_ANY_CLIENT};
	const struct thmq_tls_opts wrong = {.size = 3};
	struct thmq_broker_opts o = {.cluster_tls = good};

	refuse(o, "cluster, which is not named");
	o = (struct thmq_broker_opts){.data_dir = rig.dir, .cluster = rig.cluster, .node_id = 1, .cluster_tls = good, .cluster_key = CERTS_PSK};
	refuse(o, "cluster_key or cluster_tls");
	o.cluster_key = NULL;
	o.cluster_tls = &tls;
	refuse(o, "ca_file");
	o.cluster_tls = &any;
	refuse(o, "THMQ_TLS_ANY_CLIENT");
	o.cluster_tls = &wrong;
	refuse(o, "cluster_tls: ");
}

/* Of broker @i, which is closed. */
static void come_with(uint32_t i, const struct thmq_tls_opts *tls)
{
	const struct thmq_tls_opts *before = rig.opts.cluster_tls;

	rig.opts.cluster_tls = tls;
	rig_open(i);
	rig.opts.cluster_tls = before;
}

int main(void)
{
	struct thmq_tls_opts good = {.size = sizeof(good), .peer_name = "localhost"}, stranger = good, elsewhere = good;
	struct thmq_session *session;
	uint32_t out, i;

	snprintf(certs, sizeof(certs), "certs-cluster-%d", (int)getpid());
	rig_run("rm -rf %s && mkdir %s", certs, certs);
	certs_make(certs);
	good.ca_file = elsewhere.ca_file = certs_path(certs, "ca.pem");
	good.cert_file = elsewhere.cert_file = certs_path(certs, "node.pem");
	good.key_file = elsewhere.key_file = certs_path(certs, "node.key");
	stranger.ca_file = certs_path(certs, "other-ca.pem");
	stranger.cert_file = certs_path(certs, "node-stranger.pem");
	stranger.key_file = certs_path(certs, "node-stranger.key");
	elsewhere.peer_name = "elsewhere.example";
	rig_begin("tls", true, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .heartbeat_ms = 30, .election_ms = 150, .cluster_tls = &good));
	wrong_options();
	rig_open_all();
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.reconnect_ns = PATIENCE_NS, .timeout_ns = PATIENCE_NS), &session) == 0);
	CHECK(thmq_topic_create(session, "t", NULL) == 0);
	write_some(session, "by all");
	wait_for_all(session);

	out = (rig_some_leader() + 1) % BROKERS;
	rig_close(out, 5 * SECOND);
	come_with(out, &stranger);
	for (i = 0; i < BROKERS; i++)
		if (i != out) {
			wait_for(i, out + 1, false, -EKEYREJECTED);
			wait_for(out, i + 1, false, -EKEYREJECTED);
		}
	write_some(session, "without it");
	CHECK(!rig_seen(rig_some_leader(), out + 1).connected);

	rig_close(out, 5 * SECOND);
	come_with(out, &elsewhere); /* those that it meets are not whom it looks for */
	wait_for(out, (out + 1) % BROKERS + 1, false, -EKEYREJECTED);
	rig_close(out, 5 * SECOND);

	come_with(out, &good);
	write_some(session, "by all again");
	wait_for_all(session);
	CHECK(thmq_session_close(session, SECOND) == 0);
	rig_end();
	rig_run("rm -rf %s", certs);
	return 0;
}
