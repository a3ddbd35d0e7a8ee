/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_copies_bench.c - three brokers that keep the same data beside three servers that do: of NATS JetStream, num_replicas 3, and of RabbitMQ, a quorum queue. Each is
 * three processes and a client, over TCP on loopback; an answer means that a majority has the message on its medium. All of it shares this machine's processors and its one disk.
 *
 * Matrix: 100 B, 1 KiB, 16 KiB x one outstanding (p50, p99) and many (throughput). In turns, each round beginning with another one; a value is held against each
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
#define PHASE_NS 24000000000u
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

static const struct rig_rival *const rivals[] = {&rig_rival_nats_copies, &rig_rival_rabbit_copies};
#define RIVALS (sizeof(rivals) / sizeof(rivals[0]))

struct table {
	struct bench *b;
	void *const *opened; /* the rivals; NULL: not to be had, or not wanted */
	bool wanted[RIVALS]; /* at this size */
	uint32_t len;
	struct rivals_cell cells[RIVALS];
	struct bench_samples samples;
	double rate; /* of ours */
};

/* What a rival's lines of a size, or all of them (@len 0), begin with. */
static const char *word_of(unsigned rival, uint32_t len)
{
	static char word[96];
	const char *size = len == 100 ? "_100B" : len == 1024 ? "_1KiB" : len ? "_16KiB" : "";

	snprintf(word, sizeof(word), "rival_%s%s", rivals[rival]->word, size);
	return word;
}

static void sample(struct table *t, unsigned who)
{
	uint64_t since = bench_now(), t0 = since, t1;
	struct bench_samples *s = &t->samples;

	bench_samples_clear(s);
	while (s->count < s->room && t0 - since < RIVALS_ONE_NS) {
		if (who == 0)
			await_ours(send_ours(t->len));
		else
			rivals[who - 1]->one(t->opened[who - 1], t->len);
		t1 = bench_now();
		bench_samples_add(s, t1 - t0);
		t0 = t1;
	}
}

static void round_one(struct table *t, unsigned round)
{
	double p50[RIVALS + 1], p99[RIVALS + 1];

	for (unsigned k = 0; k <= RIVALS; k++) {
		unsigned who = (k + round) % (RIVALS + 1);

		if (who > 0 && !t->wanted[who - 1])
			continue;
		sample(t, who);
		p50[who] = bench_percentile(&t->samples, 0.5) / 1e3;
		p99[who] = bench_percentile(&t->samples, 0.99) / 1e3;
	}
	for (unsigned i = 0; i < RIVALS; i++) {
		if (!t->wanted[i])
			continue;
		bench_pairs_add(&t->cells[i].one50.pairs, p50[0], p50[i + 1]);
		bench_pairs_add(&t->cells[i].one99.pairs, p99[0], p99[i + 1]);
	}
}

static double many_ours(struct table *t)
{
	uint64_t count = rivals_count(t->b, t->len, t->rate), since = bench_now();
	int64_t seq = 0;

	for (uint64_t i = 0; i < count; i++)
		seq = send_ours(t->len);
	await_ours(seq);
	t->rate = (double)count / ((double)(bench_now() - since) / 1e9);
	return t->rate / 1e3;
}

static double many_rival(struct table *t, unsigned i)
{
	uint32_t batch = rivals[i]->batch(t->len);
	uint64_t count = rivals_count(t->b, t->len, t->cells[i].rate), since = bench_now();

	count = (count + batch - 1) / batch * batch;
	rivals[i]->store(t->opened[i], count, t->len);
	t->cells[i].rate = (double)count / ((double)(bench_now() - since) / 1e9);
	return t->cells[i].rate / 1e3;
}

static void round_many(struct table *t, unsigned round)
{
	double values[RIVALS + 1];

	for (unsigned k = 0; k <= RIVALS; k++) {
		unsigned who = (k + round) % (RIVALS + 1);

		if (who > 0 && !t->wanted[who - 1])
			continue;
		values[who] = who == 0 ? many_ours(t) : many_rival(t, who - 1);
	}
	for (unsigned i = 0; i < RIVALS; i++)
		if (t->wanted[i])
			bench_pairs_add(&t->cells[i].many.pairs, values[0], values[i + 1]);
}

static void begin(struct table *t)
{
	char details[400];

	for (unsigned i = 0; i < RIVALS; i++) {
		const struct rig_rival *r = rivals[i];
		char word[96];

		if (!t->wanted[i])
			continue;
		snprintf(details, sizeof(details),
			 "\"table\":\"copies\",\"system\":\"%s\",\"server\":true,\"batch\":%u,"
			 "\"how\":\"%s\"",
			 r->name, r->batch(t->len), r->how);
		snprintf(word, sizeof(word), "%s", word_of(i, 0));
		rivals_cell_init(&t->cells[i], word, t->len, r->name, details);
		t->cells[i].rate = 1000; /* to begin with */
		if (r->rest)
			r->rest(t->opened[i]);
		for (unsigned k = 0; k < 20; k++) /* warm up, and find how many take how long */
			r->one(t->opened[i], t->len);
		for (unsigned k = 0; k < (t->b->smoke ? 0 : 2); k++)
			many_rival(t, i);
	}
	t->rate = 20000;
	for (unsigned k = 0; k < 20; k++)
		await_ours(send_ours(t->len));
	for (unsigned k = 0; k < (t->b->smoke ? 0 : 2); k++)
		many_ours(t);
}

static void run(struct bench *b, void *const opened[RIVALS], uint32_t len)
{
	static struct table t; /* too large for a stack */
	uint64_t since;
	bool any = false;

	memset(&t, 0, sizeof(t));
	t.b = b;
	t.opened = opened;
	t.len = len;
	for (unsigned i = 0; i < RIVALS; i++) {
		t.wanted[i] = opened[i] && bench_wants(b, word_of(i, len));
		any = any || t.wanted[i];
	}
	if (!any)
		return;
	bench_samples_init(&t.samples, b->smoke ? 20 : SAMPLES);
	begin(&t);
	since = bench_now();
	for (unsigned round = 0; rivals_more(b, round, since, PHASE_NS); round++)
		round_one(&t, round);
	since = bench_now();
	for (unsigned round = 0; rivals_more(b, round, since, PHASE_NS); round++)
		round_many(&t, round);
	for (unsigned i = 0; i < RIVALS; i++) {
		if (!t.wanted[i])
			continue;
		bench_report(b, &t.cells[i].one50);
		bench_report(b, &t.cells[i].one99);
		bench_report(b, &t.cells[i].many);
	}
	bench_samples_fini(&t.samples);
}

/* NULL: not to be had, or not wanted at any size. */
static void *open_rival(struct bench *b, unsigned i)
{
	const char *why = "";
	bool wanted = false;
	char dir[4096];
	void *opened;

	for (unsigned k = 0; k < sizeof(rivals_lens) / sizeof(rivals_lens[0]); k++)
		wanted = wanted || bench_wants(b, word_of(i, rivals_lens[k]));
	if (!wanted)
		return NULL;
	if (bench_mkdir(b, rivals[i]->word, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	opened = rivals[i]->open(dir, &why);
	if (!opened)
		bench_skip(b, word_of(i, 0), why);
	return opened;
}

int main(int argc, char **argv)
{
	void *opened[RIVALS];
	struct bench b;
	bool any = false;

	bench_init(&b, argc, argv, "rivals");
	for (unsigned i = 0; i < RIVALS; i++) {
		opened[i] = open_rival(&b, i);
		any = any || opened[i];
	}
	if (any) {
		start_nodes(&b);
		connect_ours();
		for (unsigned i = 0; i < sizeof(rivals_lens) / sizeof(rivals_lens[0]); i++)
			run(&b, opened, rivals_lens[i]);
		thmq_env_close(ours.env, SECOND);
		stop_nodes();
	}
	for (unsigned i = 0; i < RIVALS; i++)
		if (opened[i])
			rivals[i]->close(opened[i]);
	return bench_end(&b);
}
