/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling_forecast_bench.c - predictive beside adaptive: does a forecast of the traffic help a core to wait?
 *
 * Matrix: Poisson, bursts, waves of a tenth of a second, and a tide of two seconds. Each turn runs four seconds until there is history, and is then
 * measured for three. What is compared is the cost of a message: processor time of the core and of the forecaster, and ten times the time
 * that it took, as the policies are told to weigh them. Below 1 the forecast wins. In detail: the parts, and in how many rounds a forecast was in
 * charge at the end. No bar: it is what it is.
 */
#include "rig_polling.h"

#include <stdio.h>
#include <string.h>

#define ROUNDS 5u /* or what --pairs says, if that is less, or with --full */
#define SAMPLES 400000u
#define WORTH 10

static double run(struct bench *b, uint32_t policy, enum polling_pattern pattern, double rate,
		  struct bench_samples *s, struct polling_figures *ret)
{
	uint64_t ns = b->smoke ? 3000000 : 1000000000;
	struct polling_rig r;

	polling_open(&r, b, POLLING_INPROC,
		     THMQ_ENV_OPTS(.policy = policy, .latency_worth = WORTH));
	polling_load(&r, pattern, rate, 4 * ns, s, ret);
	polling_load(&r, pattern, rate, 3 * ns, s, ret);
	polling_close(&r);
	return ret->messages > 0 ? ret->cpu / ret->messages + WORTH * ret->mean : 0;
}

struct part {
	double cpu[BENCH_PAIRS_MAX], mean[BENCH_PAIRS_MAX], p99[BENCH_PAIRS_MAX], charge;
};

static void keep(struct part *p, unsigned round, const struct polling_figures *f)
{
	p->cpu[round] = f->cpu / f->seconds / 1e7;
	p->mean[round] = f->mean / 1e3;
	p->p99[round] = f->p99 / 1e3;
	p->charge += f->in_charge;
}

static void compare(struct bench *b, enum polling_pattern pattern, double rate,
		    struct bench_samples *s)
{
	unsigned rounds = b->full || b->pairs_min < ROUNDS ? b->pairs_min : ROUNDS;
	struct bench_line line = {.unit = "ns", .rival = "adaptive", .measure = BENCH_RATIO};
	struct part ours = {.charge = 0}, theirs = {.charge = 0};
	char name[96];

	snprintf(name, sizeof(name), "forecast_%s_%gk_cost", polling_patterns[pattern],
		 rate / 1000);
	line.name = name;
	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; round < rounds; round++) {
		struct polling_figures f;
		double cost[2];

		for (unsigned k = 0; k < 2; k++) {
			bool predicts = (k + round) % 2;

			cost[predicts] =
				run(b, predicts ? THMQ_POLICY_PREDICTIVE : THMQ_POLICY_ADAPTIVE,
				    pattern, rate, s, &f);
			keep(predicts ? &ours : &theirs, round, &f);
		}
		bench_pairs_add(&line.pairs, cost[1], cost[0]);
	}
	snprintf(line.detail, sizeof(line.detail),
		 "\"pattern\":\"%s\",\"load\":%g,\"cpu_percent\":%.3g,\"mean_us\":%.4g,\"p99_us\":%"
		 ".4g,\"in_charge\":%.2f,"
		 "\"adaptive_cpu_percent\":%.3g,\"adaptive_mean_us\":%.4g,\"adaptive_p99_us\":%.4g",
		 polling_patterns[pattern], rate, bench_median(ours.cpu, rounds).mid,
		 bench_median(ours.mean, rounds).mid, bench_median(ours.p99, rounds).mid,
		 ours.charge / rounds, bench_median(theirs.cpu, rounds).mid,
		 bench_median(theirs.mean, rounds).mid, bench_median(theirs.p99, rounds).mid);
	bench_report(b, &line);
}

int main(int argc, char **argv)
{
	struct bench_samples samples;
	struct bench b;

	bench_init(&b, argc, argv, "polling");
	if (b.cpu_app < 0) {
		bench_skip(&b, "forecast", "one CPU only");
		return bench_end(&b);
	}
	bench_samples_init(&samples, SAMPLES);
	compare(&b, POLLING_POISSON, 1000, &samples);
	compare(&b, POLLING_POISSON, 30000, &samples);
	compare(&b, POLLING_ON_OFF, 10000, &samples);
	compare(&b, POLLING_WAVES, 50000, &samples);
	compare(&b, POLLING_TIDE, 20000, &samples);
	bench_samples_fini(&samples);
	return bench_end(&b);
}
