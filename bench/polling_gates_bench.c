/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling_gates_bench.c - what a policy has to keep, each beside its limit in the same round: at rest it uses as little as event, one
 * message at a time it is as fast as poll, at saturation it carries what poll carries, and a cap is held.
 *
 * Matrix: adaptive, predictive (both with bars), fixed (without); in process, over tcp and shm; the cap at 25 and 50 % of a processor, 30 thousand messages a
 * second that arrive by chance, for which adaptive alone would spin nearly always.
 */
#include "rig_polling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 400000u
#define SUBJECTS 3u
#define SLICES 9u /* of saturation: the machine's own pace changes within a second */

static const uint32_t subjects[SUBJECTS] = {THMQ_POLICY_ADAPTIVE, THMQ_POLICY_PREDICTIVE,
					    THMQ_POLICY_FIXED};

enum gate { IDLE, PING, PING_12US, FLOOD, GATES };
static const struct {
	const char *name, *unit, *rival;
	uint32_t policy; /* of the limit */
	enum bench_measure measure;
	enum bench_sense sense;
	double bar;
} gates[GATES] = {
	/* ours is the difference to the limit, but for the last */
	{"idle_cpu", "points", "of a processor, event", THMQ_POLICY_EVENT, BENCH_VALUE,
	 BENCH_AT_MOST, 0.5},
	{"ping_p50", "us", "p50 of poll", THMQ_POLICY_POLL, BENCH_VALUE, BENCH_AT_MOST, 0.3},
	{"ping_12us_p50", "us", "p50 of poll", THMQ_POLICY_POLL, BENCH_VALUE, BENCH_AT_MOST, 0.3},
	{"saturation", "k/s", "poll", THMQ_POLICY_POLL, BENCH_RATIO, BENCH_AT_LEAST, 0.97},
};

static double value_of(enum gate gate, const struct polling_figures *f)
{
	switch (gate) {
	case IDLE:
		return f->cpu / f->seconds / 1e7;
	case FLOOD:
		return f->messages / f->seconds / 1e3;
	default:
		return f->p50 / 1e3;
	}
}

static double measure(struct bench *b, enum polling_medium medium, enum gate gate, uint32_t policy,
		      struct bench_samples *s)
{
	uint64_t ns = b->smoke ? 3000000 : gate == IDLE ? 400000000 : gate == FLOOD ? 40000000 : 150000000;
	struct polling_figures f;
	struct polling_rig r;

	polling_open(&r, b, medium, THMQ_ENV_OPTS(.policy = policy));
	if (gate == IDLE) {
		polling_load(&r, POLLING_POISSON, 1000, ns / 8, s,
			     &f); /* it has been at work before */
		polling_load(&r, POLLING_POISSON, 0, ns, s, &f);
	} else if (gate == FLOOD) {
		polling_flood(&r, ns / 4, &f);
		polling_flood(&r, ns, &f);
	} else {
		polling_ping(&r, gate == PING ? 0 : 12000, ns / 4, s, &f);
		polling_ping(&r, gate == PING ? 0 : 12000, ns, s, &f);
	}
	polling_close(&r);
	return value_of(gate, &f);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double middle(double *v, unsigned count)
{
	qsort(v, count, sizeof(*v), by_size);
	return v[count / 2];
}

static void hold(struct bench *b, enum polling_medium medium, enum gate gate,
		 struct bench_samples *s)
{
	struct bench_line lines[SUBJECTS], *judged[SUBJECTS];
	char names[SUBJECTS][96];
	bool wanted = false;

	for (unsigned k = 0; k < SUBJECTS; k++) {
		snprintf(names[k], sizeof(names[k]), "%s_%s_%s", gates[gate].name,
			 polling_mediums[medium], polling_policies[subjects[k]]);
		lines[k] = (struct bench_line){.name = names[k],
					       .unit = gates[gate].unit,
					       .rival = gates[gate].rival,
					       .measure = gates[gate].measure,
					       .sense = subjects[k] == THMQ_POLICY_FIXED
								? BENCH_NO_BAR
								: gates[gate].sense,
					       .bar = gates[gate].bar};
		judged[k] = &lines[k];
		wanted |= bench_wants(b, names[k]);
	}
	if (!wanted)
		return;
	for (unsigned round = 0; bench_more(b, round, judged, SUBJECTS); round++) {
		double of[SUBJECTS + 1][SLICES], v[SUBJECTS + 1];
		unsigned slices = gate == FLOOD && !b->smoke ? SLICES : 1;

		/* by turns, there and back: who comes first and behind whom does not count */
		for (unsigned n = 0; n < slices * (SUBJECTS + 1); n++) {
			unsigned slice = n / (SUBJECTS + 1), k = n % (SUBJECTS + 1);
			unsigned at = (round + slice + ((round + slice) & 1 ? SUBJECTS - k : k)) % (SUBJECTS + 1);

			of[at][slice] = measure(b, medium, gate, at < SUBJECTS ? subjects[at] : gates[gate].policy, s);
		}
		for (unsigned k = 0; k <= SUBJECTS; k++)
			v[k] = middle(of[k], slices);
		for (unsigned k = 0; k < SUBJECTS; k++)
			bench_pairs_add(&lines[k].pairs, gate == FLOOD ? v[k] : v[k] - v[SUBJECTS],
					v[SUBJECTS]);
	}
	for (unsigned k = 0; k < SUBJECTS; k++)
		bench_report(b, &lines[k]);
}

static void cap(struct bench *b, uint32_t policy, uint32_t percent, struct bench_samples *s)
{
	uint64_t ns = b->smoke ? 3000000 : 500000000;
	struct bench_line line = {.unit = "%",
				  .rival = "p99 in us",
				  .measure = BENCH_VALUE,
				  .sense = percent ? BENCH_AT_MOST : BENCH_NO_BAR,
				  .bar = percent + 5};
	struct bench_line *lines[] = {&line};
	char name[96];

	snprintf(name, sizeof(name), "cap_%u_%s", percent ? percent : 100,
		 polling_policies[policy]);
	line.name = name;
	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		struct polling_figures f;
		struct polling_rig r;

		polling_open(&r, b, POLLING_INPROC,
			     THMQ_ENV_OPTS(.policy = policy, .cpu_cap_percent = percent));
		polling_load(&r, POLLING_POISSON, 30000, ns, s, &f); /* it finds its way */
		polling_load(&r, POLLING_POISSON, 30000, ns, s, &f);
		polling_close(&r);
		bench_pairs_add(&line.pairs, f.cpu / f.seconds / 1e7, f.p99 / 1e3);
	}
	bench_report(b, &line);
}

int main(int argc, char **argv)
{
	struct bench_samples samples;
	struct bench b;

	bench_init(&b, argc, argv, "polling");
	if (b.cpu_app < 0) {
		bench_skip(&b, "gates", "one CPU only");
		return bench_end(&b);
	}
	bench_samples_init(&samples, SAMPLES);
	for (unsigned gate = 0; gate < GATES; gate++)
		for (unsigned medium = POLLING_INPROC; medium <= POLLING_SHM; medium++)
			hold(&b, medium, gate, &samples);
	cap(&b, THMQ_POLICY_ADAPTIVE, 0, &samples);
	cap(&b, THMQ_POLICY_ADAPTIVE, 50, &samples);
	cap(&b, THMQ_POLICY_ADAPTIVE, 25, &samples);
	cap(&b, THMQ_POLICY_FIXED, 50, &samples);
	bench_samples_fini(&samples);
	return bench_end(&b);
}
