/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling_load_bench.c - every policy under every load: latency and processor time from nothing to saturation.
 *
 * Matrix: medium (in process: Poisson, batches of 32, bursts with heavy-tailed silences; shm, another process, and tcp: Poisson) x load (nothing, 0.3 to 300 thousand a
 * second, saturation) x policy (poll, event, fixed, ski, adaptive). In each round each policy takes its turn, the order moving on from round to
 * round; each turn has an environment of its own. Roofline: poll, which is what latency can be; event is what processor time can be at rest.
 * "predictive" needs seconds of history, so that in turns this short it is adaptive: polling_forecast_bench.c has it.
 *
 * No bars here: polling_gates_bench.c has those. Each line is a cell, of medians over the rounds; bench/polling.py draws them.
 */
#include "rig_polling.h"

#include <stdio.h>
#include <string.h>

#define ROUNDS 5u /* or what --pairs says, if that is less, or with --full */
#define POLICIES 5u
#define SATURATION (-1)
#define SAMPLES 400000u

static const uint32_t policies[POLICIES] = {THMQ_POLICY_POLL, THMQ_POLICY_EVENT, THMQ_POLICY_FIXED,
					    THMQ_POLICY_SKI, THMQ_POLICY_ADAPTIVE};
static const double rates[] = {0, 300, 1000, 3000, 10000, 30000, 100000, 300000, SATURATION};

enum figure {
	P50,
	P99,
	P999,
	MEAN,
	ADDED_P50,
	ADDED_P99,
	CPU,
	PER_CPU,
	WAKEUPS,
	SLEEPS,
	HITS,
	RATE,
	FIGURES
};
static const char *const figure_names[FIGURES] = {"p50_us",
						  "p99_us",
						  "p999_us",
						  "mean_us",
						  "added_p50_us",
						  "added_p99_us",
						  "cpu_percent",
						  "per_cpu_second",
						  "wakeups_per_message",
						  "sleeps_per_message",
						  "hit_percent",
						  "per_second"};

struct cell {
	double v[FIGURES][BENCH_PAIRS_MAX];
};

static uint64_t span_of(const struct bench *b, double rate)
{
	if (b->smoke)
		return 3000000;
	return rate > 0 && rate < 1000 ? 500000000 : 250000000;
}

static void measure(struct bench *b, enum polling_medium medium, enum polling_pattern pattern,
		    double rate, uint32_t policy, struct bench_samples *s,
		    struct polling_figures *ret)
{
	uint64_t ns = span_of(b, rate);
	struct polling_figures warm;
	struct polling_rig r;

	polling_open(&r, b, medium, THMQ_ENV_OPTS(.policy = policy));
	if (rate < 0) {
		polling_flood(&r, ns / 4, &warm);
		polling_flood(&r, ns, ret);
	} else {
		polling_load(&r, pattern, rate, ns / 4, s, &warm);
		polling_load(&r, pattern, rate, ns, s, ret);
	}
	polling_close(&r);
}

static void keep(struct cell *c, unsigned round, const struct polling_figures *f,
		 const struct polling_figures *poll)
{
	double messages = f->messages > 0 ? f->messages : 1, waits = f->hits + f->misses;

	c->v[P50][round] = f->p50 / 1e3;
	c->v[P99][round] = f->p99 / 1e3;
	c->v[P999][round] = f->p999 / 1e3;
	c->v[MEAN][round] = f->mean / 1e3;
	c->v[ADDED_P50][round] = (f->p50 - poll->p50) / 1e3;
	c->v[ADDED_P99][round] = (f->p99 - poll->p99) / 1e3;
	c->v[CPU][round] = f->cpu / f->seconds / 1e7;
	c->v[PER_CPU][round] = f->cpu > 0 ? f->messages / f->cpu * 1e9 : 0;
	c->v[WAKEUPS][round] = f->wakeups / messages;
	c->v[SLEEPS][round] = f->sleeps / messages;
	c->v[HITS][round] = waits > 0 ? f->hits / waits * 100 : 0;
	c->v[RATE][round] = f->messages / f->seconds;
}

static void name_of(char *ret, size_t size, const char *medium, const char *pattern, double rate,
		    const char *policy)
{
	if (rate < 0)
		snprintf(ret, size, "load_%s_saturation_%s", medium, policy);
	else if (rate == 0)
		snprintf(ret, size, "load_%s_idle_%s", medium, policy);
	else
		snprintf(ret, size, "load_%s_%s_%gk_%s", medium, pattern, rate / 1000, policy);
}

static void report(struct bench *b, const char *name, enum polling_medium medium,
		   const char *pattern, double rate, uint32_t policy, const struct cell *c,
		   unsigned rounds)
{
	struct bench_line line = {.name = name, .unit = "us", .measure = BENCH_VALUE};
	enum figure what = rate > 0 ? P99 : rate < 0 ? RATE : CPU;
	size_t at;

	line.unit = rate > 0 ? "us" : rate < 0 ? "/s" : "%";
	for (unsigned i = 0; i < rounds; i++)
		bench_pairs_add(&line.pairs, c->v[what][i], 0);
	at = (size_t)snprintf(line.detail, sizeof(line.detail),
			      "\"medium\":\"%s\",\"pattern\":\"%s\",\"load\":%g,\"policy\":\"%s\"",
			      polling_mediums[medium], pattern, rate, polling_policies[policy]);
	for (unsigned f = 0; f < FIGURES && at < sizeof(line.detail); f++)
		at += (size_t)snprintf(line.detail + at, sizeof(line.detail) - at, ",\"%s\":%.5g",
				       figure_names[f], bench_median(c->v[f], rounds).mid);
	bench_report(b, &line);
}

/* One load: every policy in every round. */
static void compare(struct bench *b, enum polling_medium medium, enum polling_pattern pattern,
		    double rate, struct bench_samples *s)
{
	const char *word = rate > 0 ? polling_patterns[pattern] : "none";
	unsigned rounds = b->full || b->pairs_min < ROUNDS ? b->pairs_min : ROUNDS;
	static struct cell cells[POLICIES];
	struct polling_figures f[POLICIES];
	char names[POLICIES][96];
	bool wanted = false;

	for (unsigned k = 0; k < POLICIES; k++) {
		name_of(names[k], sizeof(names[k]), polling_mediums[medium], word, rate,
			polling_policies[policies[k]]);
		wanted |= bench_wants(b, names[k]);
	}
	if (!wanted)
		return;
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned k = 0; k < POLICIES; k++) {
			unsigned at = (k + round) % POLICIES;

			measure(b, medium, pattern, rate, policies[at], s, &f[at]);
		}
		for (unsigned k = 0; k < POLICIES; k++)
			keep(&cells[k], round, &f[k], &f[0]);
	}
	for (unsigned k = 0; k < POLICIES; k++)
		report(b, names[k], medium, word, rate, policies[k], &cells[k], rounds);
}

int main(int argc, char **argv)
{
	static const struct {
		enum polling_medium medium;
		enum polling_pattern pattern;
	} sweeps[] = {{POLLING_INPROC, POLLING_POISSON},
		      {POLLING_INPROC, POLLING_BATCHES},
		      {POLLING_INPROC, POLLING_ON_OFF},
		      {POLLING_SHM, POLLING_POISSON},
		      {POLLING_TCP, POLLING_POISSON}};
	struct bench_samples samples;
	struct bench b;

	bench_init(&b, argc, argv, "polling");
	if (b.cpu_app < 0) {
		bench_skip(&b, "load", "one CPU only");
		return bench_end(&b);
	}
	bench_samples_init(&samples, SAMPLES);
	for (size_t i = 0; i < sizeof(sweeps) / sizeof(sweeps[0]); i++)
		for (size_t k = 0; k < sizeof(rates) / sizeof(rates[0]); k++) {
			/* at rest and at saturation all patterns are one */
			if (rates[k] <= 0 && sweeps[i].pattern != POLLING_POISSON)
				continue;
			if (b.smoke && k % 3)
				continue;
			compare(&b, sweeps[i].medium, sweeps[i].pattern, rates[k], &samples);
		}
	bench_samples_fini(&samples);
	return bench_end(&b);
}
