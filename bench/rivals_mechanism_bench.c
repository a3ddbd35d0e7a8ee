/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_mechanism_bench.c - the library beside RocketMQ's storage mechanism, rebuilt in C (rig_mapped.h): memory-mapped
 * segments and a flushing thread against one core with O_DIRECT and io_uring.
 *
 * Matrix: what an answer proves x 100 B, 1 KiB, 16 KiB x one outstanding (p50, p99), 64 outstanding (p50, p99), as
 * many as the window takes (throughput):
 *   durable   both: on the medium
 *   written   ours: the device took it; the mechanism's asynchronous flush: it is in mapped memory, which survives the
 *             process but not the system
 *   memory    ours: it is in this process; the mechanism: as before
 * In pairs, the first by turns, each beginning when both are quiet. No bars. The asynchronous rate is that of the
 * answers; what it is until all is flushed is in the details ("stored").
 *
 * The mechanism's producer watches on a CPU of its own for the answer, so that no wake-up is added to the one that it has.
 */
#include "rig_mapped.h"
#include "rivals_ours.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define SAMPLES 2000u
#define OUT_SAMPLES 20000u
#define PHASE_NS 4000000000u              /* of one size; with many outstanding twice as long */
#define MAPPED_WINDOW_BYTES (64ull << 20) /* what the library's session has */
#define MAPPED_WINDOW_COUNT (1u << 19)

struct kind {
	const char *name, *rival, *proves;
	uint32_t durability;
	enum rig_mapped_flush flush;
};

static const struct kind kinds[] = {
	{"durable", "mapped, group commit", "on the medium", THMQ_DURABILITY_DURABLE,
	 RIG_MAPPED_SYNCHRONOUS},
	{"written", "mapped, async flush", "in the page cache", THMQ_DURABILITY_WRITTEN,
	 RIG_MAPPED_ASYNCHRONOUS},
	{"memory", "mapped, async flush", "in the page cache", THMQ_DURABILITY_MEMORY,
	 RIG_MAPPED_ASYNCHRONOUS},
};

static const char payload[16384];

struct table {
	struct bench *b;
	const struct kind *kind;
	struct rig_mapped *mapped;
	struct rivals_cell cells[3]; /* by size */
	struct bench_samples ours, rival, ours_out, rival_out;
	double stored[3]; /* the last of its rates until all is flushed, thousands a second */
};

/* ------------------------------------------------------------ the mechanism */

static void begin(const struct table *t)
{
	bench_pin(t->b->cpu_app);
	bench_spin_begin();
}

static void end(struct table *t)
{
	bench_spin_end();
	bench_unpin();
	rig_mapped_drain(t->mapped);
}

static void await(const struct table *t, uint64_t position)
{
	while (rig_mapped_acked(t->mapped) < position) {
		if (t->b->cpu_app >= 0)
			bench_relax();
		else
			sched_yield();
	}
}

static void mapped_one(struct table *t, uint32_t len, struct bench_samples *s)
{
	uint64_t since = bench_now(), t0 = since;

	begin(t);
	while (s->count < s->room && t0 - since < RIVALS_ONE_NS) {
		t0 = bench_now();
		await(t, rig_mapped_append(t->mapped, payload, len));
		bench_samples_add(s, bench_now() - t0);
	}
	end(t);
}

static void mapped_out(struct table *t, uint32_t len, struct bench_samples *s)
{
	uint64_t sent_at[RIVALS_OUT], ends[RIVALS_OUT], sent = 0, done = 0, acked, now;
	uint64_t since = bench_now();
	bool more = true;

	begin(t);
	while (more || done < sent) {
		while (more && sent - done < RIVALS_OUT) {
			sent_at[sent % RIVALS_OUT] = bench_now();
			ends[sent % RIVALS_OUT] = rig_mapped_append(t->mapped, payload, len);
			sent++;
		}
		await(t, ends[done % RIVALS_OUT]);
		acked = rig_mapped_acked(t->mapped);
		now = bench_now();
		for (; done < sent && ends[done % RIVALS_OUT] <= acked; done++)
			bench_samples_add(s, now - sent_at[done % RIVALS_OUT]);
		more = s->count < s->room && now - since < RIVALS_ONE_NS;
	}
	end(t);
}

/* Return: messages a second. @ret_stored: likewise, until all is flushed. */
static double mapped_many(struct table *t, uint32_t len, uint64_t count, double *ret_stored)
{
	uint64_t since, answered, last = 0, window = MAPPED_WINDOW_BYTES / len;
	static uint64_t ends[MAPPED_WINDOW_COUNT];

	if (window > MAPPED_WINDOW_COUNT)
		window = MAPPED_WINDOW_COUNT;
	begin(t);
	since = bench_now();
	for (uint64_t i = 0; i < count; i++) {
		if (i >= window)
			await(t, ends[i % window]);
		ends[i % window] = last = rig_mapped_append(t->mapped, payload, len);
	}
	await(t, last);
	answered = bench_now() - since;
	end(t);
	*ret_stored = (double)count / ((double)(bench_now() - since) / 1e9);
	return (double)count / ((double)answered / 1e9);
}

/* --------------------------------------------------------------------- rounds */

static void round_one(struct table *t, struct target *target, unsigned i, bool ours_first)
{
	struct rivals_cell *c = &t->cells[i];

	bench_samples_clear(&t->ours);
	bench_samples_clear(&t->rival);
	if (ours_first)
		rivals_ours_one(target, rivals_lens[i], &t->ours);
	mapped_one(t, rivals_lens[i], &t->rival);
	if (!ours_first)
		rivals_ours_one(target, rivals_lens[i], &t->ours);
	bench_pairs_add(&c->one50.pairs, bench_percentile(&t->ours, 0.5) / 1e3,
			bench_percentile(&t->rival, 0.5) / 1e3);
	bench_pairs_add(&c->one99.pairs, bench_percentile(&t->ours, 0.99) / 1e3,
			bench_percentile(&t->rival, 0.99) / 1e3);
}

static void round_out(struct table *t, struct target *target, unsigned i, bool ours_first)
{
	struct rivals_cell *c = &t->cells[i];

	bench_samples_clear(&t->ours_out);
	bench_samples_clear(&t->rival_out);
	if (ours_first)
		rivals_ours_out(target, rivals_lens[i], &t->ours_out);
	mapped_out(t, rivals_lens[i], &t->rival_out);
	if (!ours_first)
		rivals_ours_out(target, rivals_lens[i], &t->ours_out);
	bench_pairs_add(&c->out50.pairs, bench_percentile(&t->ours_out, 0.5) / 1e3,
			bench_percentile(&t->rival_out, 0.5) / 1e3);
	bench_pairs_add(&c->out99.pairs, bench_percentile(&t->ours_out, 0.99) / 1e3,
			bench_percentile(&t->rival_out, 0.99) / 1e3);
}

static void round_many(struct table *t, struct target *target, unsigned i, bool ours_first,
		       double rates[2])
{
	uint64_t ours = rivals_count(t->b, rivals_lens[i], rates[0]);
	uint64_t rival = rivals_count(t->b, rivals_lens[i], rates[1]);

	if (ours_first)
		rates[0] = rivals_ours_many(target, rivals_lens[i], ours);
	rates[1] = mapped_many(t, rivals_lens[i], rival, &t->stored[i]);
	if (!ours_first)
		rates[0] = rivals_ours_many(target, rivals_lens[i], ours);
}

/* ----------------------------------------------------------------------- all */

static void close_ours(struct table *t, struct target *target)
{
	char dir[4096];

	rivals_ours_close(target);
	bench_mkdir(t->b, "ours", dir, sizeof(dir));
	bench_rmdir(dir);
}

static void phase_one(struct table *t)
{
	struct target target;

	rivals_ours_open(&target, t->b, "ours", false, t->kind->durability);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t since = bench_now();

		for (unsigned round = 0; rivals_more(t->b, round, since, PHASE_NS); round++)
			round_one(t, &target, i, round % 2);
	}
	close_ours(t, &target);
}

static void phase_many(struct table *t)
{
	struct target target;

	rivals_ours_open(&target, t->b, "ours", true, t->kind->durability);
	for (unsigned i = 0; i < 3; i++) {
		double rates[2] = {100000, 100000};
		uint64_t since;

		if (!t->b->smoke)
			round_many(t, &target, i, true, rates);
		since = bench_now();
		for (unsigned round = 0; rivals_more(t->b, round, since, 2 * PHASE_NS); round++) {
			round_out(t, &target, i, round % 2);
			round_many(t, &target, i, round % 2, rates);
			bench_pairs_add(&t->cells[i].many.pairs, rates[0] / 1e3, rates[1] / 1e3);
		}
	}
	close_ours(t, &target);
}

static void report(struct table *t)
{
	for (unsigned i = 0; i < 3; i++) {
		struct rivals_cell *c = &t->cells[i];
		size_t at = strlen(c->many.detail);

		snprintf(c->many.detail + at, sizeof(c->many.detail) - at, ",\"stored\":%.1f",
			 t->stored[i] / 1e3);
		bench_report(t->b, &c->one50);
		bench_report(t->b, &c->one99);
		bench_report(t->b, &c->out50);
		bench_report(t->b, &c->out99);
		bench_report(t->b, &c->many);
	}
}

static void run(struct bench *b, const struct kind *k)
{
	struct table t = {.b = b, .kind = k};
	char dir[4096], word[64], details[400];

	snprintf(word, sizeof(word), "mechanism_%s", k->name);
	if (!bench_wants(b, word))
		return;
	snprintf(details, sizeof(details),
		 "\"table\":\"mechanism\",\"kind\":\"%s\",\"system\":\"%s\",\"proves\":\"%s\"",
		 k->name, k->rival, k->proves);
	for (unsigned i = 0; i < 3; i++)
		rivals_cell_init(&t.cells[i], word, rivals_lens[i], k->rival, details);
	bench_samples_init(&t.ours, b->smoke ? 20 : SAMPLES);
	bench_samples_init(&t.rival, b->smoke ? 20 : SAMPLES);
	bench_samples_init(&t.ours_out, b->smoke ? 200 : OUT_SAMPLES);
	bench_samples_init(&t.rival_out, b->smoke ? 200 : OUT_SAMPLES);
	if (bench_mkdir(b, "mapped", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	t.mapped = rig_mapped_open(dir, k->flush);
	phase_one(&t);
	phase_many(&t);
	rig_mapped_check(t.mapped);
	rig_mapped_close(t.mapped);
	bench_rmdir(dir);
	report(&t);
	bench_samples_fini(&t.ours);
	bench_samples_fini(&t.rival);
	bench_samples_fini(&t.ours_out);
	bench_samples_fini(&t.rival_out);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "rivals");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		run(&b, &kinds[i]);
	return bench_end(&b);
}
