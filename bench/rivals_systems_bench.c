/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_systems_bench.c - what a user would take instead: LMDB, RocksDB, SQLite, Redis streams, NATS JetStream, each in
 * its best settings in which an answer means that the message is on the medium.
 *
 * Matrix: 100 B, 1 KiB, 16 KiB x one outstanding (p50, p99) and many (throughput; a rival's in the batches that suit
 * it best). Rival by rival in turns, each round beginning with another one, so that all meet the same moments; a value
 * is held against each rival's of the same round. No bars: it is told who is faster, and by how much.
 *
 * Not alike, and not to be mended: servers are another process behind a socket; the embedded stores and the library
 * are functions of this one.
 */
#include "rig_rival.h"
#include "rivals_ours.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SAMPLES 2000u
#define PHASE_NS 16000000000u /* six of them */

static const struct rig_rival *const rivals[] = {
	&rig_rival_lmdb, &rig_rival_rocksdb, &rig_rival_sqlite, &rig_rival_redis, &rig_rival_nats,
};
#define RIVALS (sizeof(rivals) / sizeof(rivals[0]))

struct table {
	struct bench *b;
	uint32_t len;
	void *opened[RIVALS]; /* NULL: not here */
	char dirs[RIVALS][4096];
	struct rivals_cell cells[RIVALS];
	struct bench_samples samples;
};

/* ------------------------------------------------------------ open and close */

static void line_word(const struct rig_rival *r, char *ret, size_t size)
{
	snprintf(ret, size, "rival_%s", r->word);
}

static void open_rival(struct table *t, unsigned i)
{
	const struct rig_rival *r = rivals[i];
	char details[400], word[64];
	const char *why = "";

	line_word(r, word, sizeof(word));
	if (!bench_wants(t->b, word))
		return;
	if (bench_mkdir(t->b, r->word, t->dirs[i], sizeof(t->dirs[i])) != 0)
		bench_die(r->word, EIO);
	t->opened[i] = r->open(t->dirs[i], &why);
	if (!t->opened[i]) {
		bench_rmdir(t->dirs[i]);
		if (t->len == rivals_lens[0])
			bench_skip(t->b, word, why);
		return;
	}
	snprintf(
		details, sizeof(details),
		"\"table\":\"systems\",\"system\":\"%s\",\"server\":%s,\"batch\":%u,\"how\":\"%s\"",
		r->name, r->server ? "true" : "false", r->batch(t->len), r->how);
	rivals_cell_init(&t->cells[i], word, t->len, r->name, details);
	t->cells[i].rate = 5000; /* to begin with */
}

static void close_rivals(struct table *t)
{
	for (unsigned i = 0; i < RIVALS; i++) {
		if (!t->opened[i])
			continue;
		rivals[i]->close(t->opened[i]);
		bench_rmdir(t->dirs[i]);
	}
}

static bool any(const struct table *t)
{
	for (unsigned i = 0; i < RIVALS; i++)
		if (t->opened[i])
			return true;
	return false;
}

static void rest(struct table *t, unsigned i)
{
	if (rivals[i]->rest)
		rivals[i]->rest(t->opened[i]);
}

/* ----------------------------------------------------------- one outstanding */

static void rival_one(struct table *t, unsigned i)
{
	uint64_t since = bench_now(), t0 = since;
	struct bench_samples *s = &t->samples;

	while (s->count < s->room && t0 - since < RIVALS_ONE_NS) {
		uint64_t t1;

		rivals[i]->one(t->opened[i], t->len);
		t1 = bench_now();
		bench_samples_add(s, t1 - t0);
		t0 = t1;
	}
	rest(t, i);
}

/* Of all in turn, beginning with another one each round; 0 is the library. */
static void round_one(struct table *t, struct target *target, unsigned round)
{
	double p50[RIVALS + 1] = {0}, p99[RIVALS + 1] = {0};

	for (unsigned k = 0; k <= RIVALS; k++) {
		unsigned who = (k + round) % (RIVALS + 1);

		bench_samples_clear(&t->samples);
		if (who == 0)
			rivals_ours_one(target, t->len, &t->samples);
		else if (t->opened[who - 1])
			rival_one(t, who - 1);
		p50[who] = bench_percentile(&t->samples, 0.5) / 1e3;
		p99[who] = bench_percentile(&t->samples, 0.99) / 1e3;
	}
	for (unsigned i = 0; i < RIVALS; i++) {
		if (!t->opened[i])
			continue;
		bench_pairs_add(&t->cells[i].one50.pairs, p50[0], p50[i + 1]);
		bench_pairs_add(&t->cells[i].one99.pairs, p99[0], p99[i + 1]);
	}
}

static void phase_one(struct table *t)
{
	struct target target;
	uint64_t since;
	char dir[4096];

	rivals_ours_open(&target, t->b, "ours", false, THMQ_DURABILITY_DURABLE);
	for (unsigned i = 0; i < RIVALS; i++) /* warm up */
		for (unsigned k = 0; t->opened[i] && k < 20; k++)
			rivals[i]->one(t->opened[i], t->len);
	since = bench_now();
	for (unsigned round = 0; rivals_more(t->b, round, since, PHASE_NS); round++)
		round_one(t, &target, round);
	rivals_ours_close(&target);
	bench_mkdir(t->b, "ours", dir, sizeof(dir));
	bench_rmdir(dir);
}

/* ---------------------------------------------------------- many outstanding */

/* Return: thousands a second. */
static double rival_many(struct table *t, unsigned i)
{
	uint32_t batch = rivals[i]->batch(t->len);
	uint64_t count = rivals_count(t->b, t->len, t->cells[i].rate), since;

	count = (count + batch - 1) / batch * batch;
	since = bench_now();
	rivals[i]->store(t->opened[i], count, t->len);
	t->cells[i].rate = (double)count / ((double)(bench_now() - since) / 1e9);
	rest(t, i);
	return t->cells[i].rate / 1e3;
}

static void round_many(struct table *t, struct target *target, unsigned round, double *rate)
{
	double values[RIVALS + 1] = {0};

	for (unsigned k = 0; k <= RIVALS; k++) {
		unsigned who = (k + round) % (RIVALS + 1);

		if (who > 0) {
			if (t->opened[who - 1])
				values[who] = rival_many(t, who - 1);
			continue;
		}
		*rate = rivals_ours_many(target, t->len, rivals_count(t->b, t->len, *rate));
		values[0] = *rate / 1e3;
	}
	for (unsigned i = 0; i < RIVALS; i++)
		if (t->opened[i])
			bench_pairs_add(&t->cells[i].many.pairs, values[0], values[i + 1]);
}

static void phase_many(struct table *t)
{
	struct target target;
	double rate = 100000;
	uint64_t since;
	char dir[4096];

	rivals_ours_open(&target, t->b, "ours", true, THMQ_DURABILITY_DURABLE);
	for (unsigned i = 0; i < RIVALS; i++) /* warm up, and find how many take how long */
		for (unsigned k = 0; t->opened[i] && k < (t->b->smoke ? 0 : 2); k++)
			rival_many(t, i);
	if (!t->b->smoke)
		rate = rivals_ours_many(&target, t->len, rivals_count(t->b, t->len, rate));
	since = bench_now();
	for (unsigned round = 0; rivals_more(t->b, round, since, PHASE_NS); round++)
		round_many(t, &target, round, &rate);
	rivals_ours_close(&target);
	bench_mkdir(t->b, "ours", dir, sizeof(dir));
	bench_rmdir(dir);
}

/* ----------------------------------------------------------------------- all */

static void run(struct bench *b, uint32_t len)
{
	static struct table t; /* too large for a stack */

	memset(&t, 0, sizeof(t));
	t.b = b;
	t.len = len;
	bench_samples_init(&t.samples, b->smoke ? 20 : SAMPLES);
	for (unsigned i = 0; i < RIVALS; i++)
		open_rival(&t, i);
	if (any(&t)) {
		phase_one(&t);
		phase_many(&t);
	}
	for (unsigned i = 0; i < RIVALS; i++) {
		if (!t.opened[i])
			continue;
		bench_report(b, &t.cells[i].one50);
		bench_report(b, &t.cells[i].one99);
		bench_report(b, &t.cells[i].many);
	}
	close_rivals(&t);
	bench_samples_fini(&t.samples);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "rivals");
	for (unsigned i = 0; i < 3; i++)
		run(&b, rivals_lens[i]);
	return bench_end(&b);
}
