/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_copies_bench.c - three brokers that keep the same data beside three NATS servers that do: JetStream, num_replicas 3. Either side is three processes and a
 * client, over TCP on loopback; an answer means that a majority has the message on its medium. All of it shares this machine's processors and its one disk.
 *
 * Matrix: 100 B, 1 KiB, 16 KiB x one outstanding (p50, p99) and many (throughput). In turns, each round beginning with the other one; a value is held against the
 * rival's of the same round. No bars: it is told who is faster, and by how much.
 *
 * Ours keeps the newest 128 MiB of its topic in segments of 64 MiB: old segments become new ones, as in a log that has run for a while.
 */
#include "rig_process.h"
#include "rig_rival.h"
#include "rivals_ours.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NODES 3u
#define SECOND 1000000000ull
#define SAMPLES 1000u
#define PHASE_NS 16000000000u
#define ELECTION_MS 2000u /* two processors for seven processes: nobody is to be missed */
#define TOPIC "bench"
#define LEN_MAX 16384u

static const char payload[LEN_MAX];

/* ---------------------------------------------------------------------- ours */

struct node {
	char dir[4096], listen[64], cluster[256];
	uint64_t number;
};

static struct node nodes[NODES];
static pid_t pids[NODES];
static char urls[256];

static struct client {
	struct thmq_env *env;
	struct thmq_session *session;
	struct thmq_producer *producer;
} ours;

static void check(const char *what, int rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(rc), thmq_errmsg());
	exit(2);
}

/* In a process of its own. */
static void node_main(void *arg)
{
	const struct node *n = arg;
	struct thmq_broker *broker;
	struct thmq_env *env;
	int rc = thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 128u << 20));

	if (!rc)
		rc = thmq_broker_open(
			env,
			THMQ_BROKER_OPTS(.data_dir = n->dir, .listen = n->listen,
					 .segment_bytes = 64 * MIB, .cluster = n->cluster,
					 .cluster_name = "bench", .node_id = n->number,
					 .election_ms = ELECTION_MS),
			&broker);
	if (rc) {
		fprintf(stderr, "bench: a broker: %s\n", thmq_errmsg());
		_exit(2);
	}
	for (;;)
		pause();
}

/* Before any environment: they are forked. */
static void start_nodes(struct bench *b)
{
	const unsigned one = 1 + (unsigned)getpid() / 250 % 250, two = (unsigned)getpid() % 250;
	char cluster[256] = "", name[16];

	for (unsigned i = 0; i < NODES; i++) {
		snprintf(nodes[i].listen, sizeof(nodes[i].listen), "tcp://127.%u.%u.%u:7491", one,
			 two, i + 1);
		snprintf(cluster + strlen(cluster), sizeof(cluster) - strlen(cluster), "%s%u=%s",
			 i ? "," : "", i + 1, nodes[i].listen);
		snprintf(urls + strlen(urls), sizeof(urls) - strlen(urls), "%s%s", i ? "," : "",
			 nodes[i].listen);
	}
	fflush(NULL);
	for (unsigned i = 0; i < NODES; i++) {
		nodes[i].number = i + 1;
		strcpy(nodes[i].cluster, cluster);
		snprintf(name, sizeof(name), "node-%u", i + 1);
		if (bench_mkdir(b, name, nodes[i].dir, sizeof(nodes[i].dir)) != 0)
			bench_die(name, EIO);
		pids[i] = rig_process_start(node_main, &nodes[i]);
	}
}

static void stop_nodes(void)
{
	for (unsigned i = 0; i < NODES; i++)
		rig_process_stop(pids[i]);
	for (unsigned i = 0; i < NODES; i++)
		bench_rmdir(nodes[i].dir);
}

static void connect_ours(void)
{
	check("open environment", thmq_env_open(&ours.env, NULL));
	check("connect",
	      thmq_connect(ours.env, urls,
			   THMQ_SESSION_OPTS(.window_bytes = 16 * MIB, .window_count = 1u << 16),
			   &ours.session));
	check("create topic", thmq_topic_create(ours.session, TOPIC,
						THMQ_TOPIC_OPTS(.partition_count = 1,
								.retention_bytes = 128 * MIB)));
	check("open producer",
	      thmq_producer_open(ours.session, TOPIC,
				 THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_QUORUM),
				 &ours.producer));
}

static int64_t send_ours(uint32_t len)
{
	int64_t seq;

	while ((seq = thmq_send(ours.producer, payload, len, NULL)) == -EAGAIN)
		thmq_poll(ours.env, 1000000);
	check("send", seq < 0 ? (int)seq : 0);
	return seq;
}

static void await_ours(int64_t seq)
{
	int64_t mark;

	while ((mark = thmq_watermark(ours.producer)) < seq) {
		check("watermark", mark < 0 ? (int)mark : 0);
		thmq_poll(ours.env, 1000000);
	}
}

/* -------------------------------------------------------------------- rounds */

struct pairing {
	struct bench *b;
	void *rival;
	uint32_t len;
	struct rivals_cell cell;
	struct bench_samples samples;
	double rate; /* of ours */
};

static const struct rig_rival *const nats = &rig_rival_nats_copies;

static void sample(struct pairing *p, bool is_ours)
{
	uint64_t since = bench_now(), t0 = since, t1;
	struct bench_samples *s = &p->samples;

	bench_samples_clear(s);
	while (s->count < s->room && t0 - since < RIVALS_ONE_NS) {
		if (is_ours)
			await_ours(send_ours(p->len));
		else
			nats->one(p->rival, p->len);
		t1 = bench_now();
		bench_samples_add(s, t1 - t0);
		t0 = t1;
	}
}

static void round_one(struct pairing *p, unsigned round)
{
	double p50[2], p99[2];

	for (unsigned k = 0; k < 2; k++) {
		unsigned who = (k + round) % 2;

		sample(p, who == 0);
		p50[who] = bench_percentile(&p->samples, 0.5) / 1e3;
		p99[who] = bench_percentile(&p->samples, 0.99) / 1e3;
	}
	bench_pairs_add(&p->cell.one50.pairs, p50[0], p50[1]);
	bench_pairs_add(&p->cell.one99.pairs, p99[0], p99[1]);
}

static double many_ours(struct pairing *p)
{
	uint64_t count = rivals_count(p->b, p->len, p->rate), since = bench_now();
	int64_t seq = 0;

	for (uint64_t i = 0; i < count; i++)
		seq = send_ours(p->len);
	await_ours(seq);
	p->rate = (double)count / ((double)(bench_now() - since) / 1e9);
	return p->rate / 1e3;
}

static double many_nats(struct pairing *p)
{
	uint32_t batch = nats->batch(p->len);
	uint64_t count = rivals_count(p->b, p->len, p->cell.rate), since = bench_now();

	count = (count + batch - 1) / batch * batch;
	nats->store(p->rival, count, p->len);
	p->cell.rate = (double)count / ((double)(bench_now() - since) / 1e9);
	return p->cell.rate / 1e3;
}

static void round_many(struct pairing *p, unsigned round)
{
	double values[2];

	for (unsigned k = 0; k < 2; k++) {
		unsigned who = (k + round) % 2;

		values[who] = who == 0 ? many_ours(p) : many_nats(p);
	}
	bench_pairs_add(&p->cell.many.pairs, values[0], values[1]);
}

static void run(struct bench *b, void *rival, uint32_t len)
{
	static struct pairing p; /* too large for a stack */
	char details[400];
	uint64_t since;

	memset(&p, 0, sizeof(p));
	p.b = b;
	p.rival = rival;
	p.len = len;
	p.rate = 20000; /* to begin with */
	snprintf(details, sizeof(details),
		 "\"table\":\"copies\",\"system\":\"%s\",\"server\":true,\"batch\":%u,\"how\":\"%"
		 "s\"",
		 nats->name, nats->batch(len), nats->how);
	rivals_cell_init(&p.cell, "rival_nats_copies", len, nats->name, details);
	p.cell.rate = 1000;
	bench_samples_init(&p.samples, b->smoke ? 20 : SAMPLES);
	for (unsigned i = 0; i < 20; i++) { /* warm up, and find how many take how long */
		await_ours(send_ours(len));
		nats->one(rival, len);
	}
	for (unsigned i = 0; i < (b->smoke ? 0 : 2); i++) {
		many_ours(&p);
		many_nats(&p);
	}
	since = bench_now();
	for (unsigned round = 0; rivals_more(b, round, since, PHASE_NS); round++)
		round_one(&p, round);
	since = bench_now();
	for (unsigned round = 0; rivals_more(b, round, since, PHASE_NS); round++)
		round_many(&p, round);
	bench_report(b, &p.cell.one50);
	bench_report(b, &p.cell.one99);
	bench_report(b, &p.cell.many);
	bench_samples_fini(&p.samples);
}

int main(int argc, char **argv)
{
	static const char word[] = "rival_nats_copies";
	const char *why = "";
	struct bench b;
	char dir[4096];
	void *rival;

	bench_init(&b, argc, argv, "rivals");
	if (!bench_wants(&b, word))
		return bench_end(&b);
	if (bench_mkdir(&b, "nats", dir, sizeof(dir)) != 0)
		bench_die("nats", EIO);
	rival = nats->open(dir, &why);
	if (rival) {
		start_nodes(&b);
		connect_ours();
		for (unsigned i = 0; i < sizeof(rivals_lens) / sizeof(rivals_lens[0]); i++)
			run(&b, rival, rivals_lens[i]);
		thmq_env_close(ours.env, SECOND);
		stop_nodes();
		nats->close(rival);
	} else {
		bench_skip(&b, word, why);
	}
	bench_rmdir(dir);
	return bench_end(&b);
}
