/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy_sim_test.c - the spin policies on seeded arrivals, in virtual time: no noise, so that bounds can be held. A message takes
 * 1 us to serve; between busy spells the server is idle for a gap, spins as long as its policy says, then sleeps. What a
 * sleep costs rises with its length, as measured (eventfd and epoll between two pinned threads).
 *
 * The cost of a policy is spin time + CPU of the wake-ups + omega * the time that messages wait; beside it that of the
 * clairvoyant, who spins through exactly those gaps that cost less than the sleep. He looks at one gap at a time: where messages
 * come in batches others may be better by a little. What a wake-up took is told to the policies, as the loop does it; a second comparison is of
 * a machine where that is ten times as long as was measured at the begin. The arguments: traffic series, whose values are the rates of one ms each.
 * Exit: 0; 1 a bound is broken.
 */
#include <math.h>
#include <stdio.h>

#include <thundermq/forecast.h>

#include "forecast/policy.h"

#define MESSAGES 30000u
#define SERVICE_NS 1000u
#define SPIN_MAX_NS 1e6
#define TICK_NS 10000000u /* of the forecast */
#define CLAIRVOYANT 99u

/* A sleep of a given length: median latency, CPU. */
static void sleep_costs(double gap_ns, double *ret_latency, double *ret_cpu)
{
	static const double gap[] = {50e3, 200e3, 1e6, 5e6}, latency[] = {4500, 4900, 8500, 12500},
			    cpu[] = {2400, 2600, 4200, 6900};
	double share;
	int i;

	for (i = 0; i < 2 && gap_ns > gap[i + 1]; i++)
		;
	share = fmin(fmax(log(gap_ns / gap[i]) / log(gap[i + 1] / gap[i]), 0), 1);
	*ret_latency = latency[i] + share * (latency[i + 1] - latency[i]);
	*ret_cpu = cpu[i] + share * (cpu[i + 1] - cpu[i]);
}

/* ---------------------------------------------------------------- arrivals */

static double uniform(struct thmqi_prng *p)
{
	return (double)((thmqi_prng_next(p) >> 11) + 1) * 0x1p-53;
}

static double exponential(struct thmqi_prng *p, double mean)
{
	return -mean * log(uniform(p));
}

struct workload {
	char name[40];
	double (*next)(struct thmqi_prng *p, const struct workload *w, double now,
		       uint32_t i); /* ns to the next arrival */
	double a, b;
	uint32_t burst;
	double *trace; /* mean 1 */
};

static double poisson(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return exponential(p, w->a);
}

static double ping_pong(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return w->a * (0.95 + 0.1 * uniform(p));
}

static double batches(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return i % w->burst ? 0 : w->a;
}

/* Bursts of a mean length a apart, silences of heavy tail (Pareto, exponent 1.5) of scale b. */
static double on_off(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	if (uniform(p) * w->burst < 1)
		return fmin(w->b / pow(uniform(p), 1 / 1.5), 2e9);
	return exponential(p, w->a);
}

static double square(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return exponential(p, fmod(now, 1e8) < 5e7 ? w->a : w->b);
}

/* A slow wave over two decades of rate, as traffic over days is; a is its middle. */
static double envelope(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return exponential(p, w->a * pow(10, sin(now / w->b)));
}

static double traced(struct thmqi_prng *p, const struct workload *w, double now, uint32_t i)
{
	return exponential(p, w->a / fmax(w->trace[(uint64_t)(now / 1e6) % w->burst], 0.01));
}

#define TRACES_MAX 4u
static struct workload workloads[15 + TRACES_MAX] = {
	{"poisson 1 k/s", poisson, 1e6, 0, 0, NULL},
	{"poisson 10 k/s", poisson, 1e5, 0, 0, NULL},
	{"poisson 30 k/s", poisson, 33e3, 0, 0, NULL},
	{"poisson 100 k/s", poisson, 1e4, 0, 0, NULL},
	{"poisson 300 k/s", poisson, 3.3e3, 0, 0, NULL},
	{"ping-pong 4 us", ping_pong, 4e3, 0, 0, NULL},
	{"ping-pong 12 us", ping_pong, 12e3, 0, 0, NULL},
	{"ping-pong 60 us", ping_pong, 60e3, 0, 0, NULL},
	{"ping-pong 400 us", ping_pong, 400e3, 0, 0, NULL},
	{"batches of 32 each 50 us", batches, 50e3, 0, 32, NULL},
	{"batches of 32 each ms", batches, 1e6, 0, 32, NULL},
	{"on/off, 5 us, heavy tail", on_off, 5e3, 2e5, 100, NULL},
	{"on/off, 2 us, heavy tail", on_off, 2e3, 2e4, 20, NULL},
	{"square 200 k/s, 1 k/s", square, 5e3, 1e6, 0, NULL},
	{"envelope about 30 k/s", envelope, 33e3, 1e8, 0, NULL},
};

/* The values behind the last comma of each line. */
static int add_trace(struct workload *w, const char *path)
{
	FILE *f = fopen(path, "r");
	char line[200];
	double mean = 0;

	w->trace = malloc(4096 * sizeof(double));
	if (!f || !w->trace)
		return perror(path), 1;
	while (w->burst < 4096 && fgets(line, sizeof(line), f))
		w->burst += sscanf(line, "%*[^,],%lf", &w->trace[w->burst]) == 1;
	fclose(f);
	if (!w->burst)
		return 1;
	for (uint32_t i = 0; i < w->burst; i++)
		mean += w->trace[i] / w->burst;
	for (uint32_t i = 0; i < w->burst; i++)
		w->trace[i] /= mean;
	snprintf(w->name, sizeof(w->name), "%.39s",
		 strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
	w->next = traced;
	w->a = 20e3;
	return 0;
}

/* -------------------------------------------------------------- simulation */

struct predictor {
	struct thmq_forecast *forecast;
	double tick_end;
	uint32_t count; /* of this tick */
};

static void advance(struct predictor *t, struct thmqi_policy *p, double now)
{
	struct thmq_forecast_stats st = {.size = sizeof(st)};
	double next;

	for (; now >= t->tick_end; t->tick_end += TICK_NS) {
		thmq_forecast_feed(t->forecast, t->count);
		t->count = 0;
		if (now - t->tick_end < TICK_NS) { /* a sleeper does not work */
			thmq_forecast_work(t->forecast, UINT32_MAX);
			thmq_forecast_predict(t->forecast, 1, &next);
			thmq_forecast_stats(t->forecast, &st);
			thmqi_policy_forecast(p, next / TICK_NS, st.trusted);
		}
	}
	t->count++;
}

/* Cost per message in ns of CPU. Wake-ups take @slow times what they usually take; @learns: the policy hears of them. */
static double run(const struct workload *w, uint32_t kind, const struct thmqi_policy_costs *costs,
		  double slow, bool learns)
{
	struct predictor t = {.tick_end = TICK_NS};
	struct thmqi_policy p;
	struct thmqi_prng chance;
	double arrival = 0, idle_from = 0, total = 0;
	uint32_t i;

	thmqi_policy_init(&p, kind, costs);
	thmqi_prng_seed(&chance, 1); /* the same arrivals for all */
	if (kind == THMQI_POLICY_PREDICTIVE &&
	    thmq_forecast_open(
		    THMQ_FORECAST_OPTS(.window = 48, .members = 4, .mode_max = 4, .sift_max = 20),
		    &t.forecast))
		exit(1);
	for (i = 0; i < MESSAGES; i++) {
		double gap, latency, cpu, spins;
		bool hit;

		arrival += w->next(&chance, w, arrival, i);
		if (t.forecast)
			advance(&t, &p, arrival);
		gap = arrival - idle_from;
		if (gap <= 0) { /* busy: it waits for those before it, and for their wake-up */
			total += costs->omega * -gap;
			idle_from += SERVICE_NS;
			continue;
		}
		sleep_costs(gap, &latency, &cpu);
		latency *= slow;
		if (kind == CLAIRVOYANT)
			spins = gap <= cpu + costs->omega * latency ? gap : 0;
		else
			spins = (double)thmqi_policy_budget_ns(&p);
		hit = gap <= spins;
		total += fmin(gap, spins) + (hit ? 0 : cpu + costs->omega * latency);
		idle_from = arrival + (hit ? 0 : latency) + SERVICE_NS;
		if (kind != CLAIRVOYANT && learns && !hit)
			thmqi_policy_woke(&p, (uint64_t)latency);
		if (kind != CLAIRVOYANT)
			thmqi_policy_report(&p, (uint64_t)gap, hit);
	}
	thmq_forecast_close(t.forecast);
	return total / MESSAGES;
}

static int bound(const char *what, double ratio, double most)
{
	if (ratio <= most)
		return 0;
	printf("BROKEN: %s: %.3f, at most %.2f\n", what, ratio, most);
	return 1;
}

static int compare(double omega, size_t count)
{
	static const char *const names[] = {"poll", "event",    "fixed",
					    "ski",  "adaptive", "predictive"};
	const struct thmqi_policy_costs costs = {.wake_cpu_ns = 2500,
						 .wake_latency_ns = 4500,
						 .omega = omega,
						 .spin_max_ns = SPIN_MAX_NS,
						 .poll_ns = 50};
	struct thmqi_policy_costs fixed = costs;
	double mean[6] = {0}, worst[6] = {0};
	int bad = 0;

	fixed.spin_max_ns = 50e3;
	printf("\nomega %.0f: cost relative to the clairvoyant's\n%-26s", omega, "");
	for (uint32_t k = 0; k < 6; k++)
		printf(" %10s", names[k]);
	printf("\n");
	for (size_t i = 0; i < count; i++) {
		double best = run(&workloads[i], CLAIRVOYANT, &costs, 1, true);

		printf("%-26s", workloads[i].name);
		for (uint32_t k = 0; k < 6; k++) {
			double ratio = run(&workloads[i], k,
					   k == THMQI_POLICY_FIXED ? &fixed : &costs, 1, true) /
				       best;

			mean[k] += ratio / (double)count;
			worst[k] = fmax(worst[k], ratio);
			printf(" %10.3f", ratio);
		}
		printf("\n");
	}
	printf("%-26s", "mean");
	for (uint32_t k = 0; k < 6; k++)
		printf(" %10.3f", mean[k]);
	printf("\n%-26s", "worst");
	for (uint32_t k = 0; k < 6; k++)
		printf(" %10.3f", worst[k]);
	printf("\n");
	bad |= bound("adaptive, mean", mean[THMQI_POLICY_ADAPTIVE], 1.15);
	bad |= bound("adaptive, worst", worst[THMQI_POLICY_ADAPTIVE], 1.45);
	bad |= bound("ski, worst", worst[THMQI_POLICY_SKI], 2.05);
	bad |= bound("predictive, mean", mean[THMQI_POLICY_PREDICTIVE], 1.15);
	bad |= bound("predictive, worst", worst[THMQI_POLICY_PREDICTIVE], 1.45);
	/* the figures mean something: policies that do not look are far off somewhere */
	bad |= bound("poll is no match, 2 / worst", 2 / worst[THMQI_POLICY_POLL], 1);
	bad |= bound("nor is event, 1.5 / worst", 1.5 / worst[THMQI_POLICY_EVENT], 1);
	return bad;
}

static int learn(double omega, size_t count)
{
	const struct thmqi_policy_costs costs = {.wake_cpu_ns = 2500,
						 .wake_latency_ns = 4500,
						 .omega = omega,
						 .spin_max_ns = SPIN_MAX_NS,
						 .poll_ns = 50};
	double mean[2] = {0}, worst[2] = {0};
	int bad = 0;

	for (size_t i = 0; i < count; i++) {
		double best = run(&workloads[i], CLAIRVOYANT, &costs, 10, true);

		for (uint32_t k = 0; k < 2; k++) {
			double ratio =
				run(&workloads[i], THMQI_POLICY_ADAPTIVE, &costs, 10, k) / best;

			mean[k] += ratio / (double)count;
			worst[k] = fmax(worst[k], ratio);
		}
	}
	printf("\nomega %.0f, wake-ups take ten times as long: adaptive, told of none: mean %.3f, "
	       "worst %.3f; of each: "
	       "mean %.3f, worst %.3f\n",
	       omega, mean[0], worst[0], mean[1], worst[1]);
	bad |= bound("adaptive that learns, mean", mean[1], 1.2);
	bad |= bound("adaptive that learns, worst", worst[1], 1.95);
	bad |= bound("it is of use, learned / not", mean[1] / mean[0], 0.95);
	return bad;
}

int main(int argc, char **argv)
{
	size_t count = THMQI_ARRAY_COUNT(workloads) - TRACES_MAX;
	int bad;

	for (int i = 1; i < argc && i <= (int)TRACES_MAX; i++)
		if (add_trace(&workloads[count++], argv[i]))
			return 1;
	bad = compare(1, count);
	bad |= compare(10, count);
	bad |= learn(1, count);
	bad |= learn(10, count);
	for (size_t i = THMQI_ARRAY_COUNT(workloads) - TRACES_MAX; i < count; i++)
		free(workloads[i].trace);
	return bad;
}
