/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - budgets for spinning. The histogram's optimum is that of a known distribution of gaps: the B of least
 * E[min(G, B)] + P(G > B) b. The forecast's is that of ski rental with a prediction: with its error unbounded no more than
 * 1 + 1 / LAMBDA times the best, with none 1 + LAMBDA.
 */
#include <math.h>

#include "forecast/policy.h"

#define DECAY 0.8    /* of the histogram at each optimum */
#define LAMBDA 0.5   /* how much the forecast is trusted: 0 wholly, 1 not at all */
#define FAR 5.0      /* an expected gap that is so many times b, or less by as much */
#define STALE_NS 1e9 /* a gap that long: what was known before it is not the present */
#define RECENT 0.02  /* of the regret is the last wait's */
#define STEP 1.05    /* of the correction at each outcome */
/* Of the user's omega no more is taken than down to THMQI_POLICY_WORTH_MIN … */
#define FIXED_MIN_NS 1000.0 /* … but by a cap from a long fixed budget, down to this, … */
#define SKI_MIN 1e-5        /* … and from ski */
#define WAKE_STEP 1.05      /* of the latency at each wake-up, and of the processor time */
#define CPU_MIN_NS 500.0
#define CPU_MAX_NS 20000.0
#define WAKE_MIN_NS 500.0
#define WAKE_MAX_NS                                                                                \
	100000.0 /* what takes longer was in a queue for the processor: no spinning helps against that */

double thmqi_policy_sleep_cost(const struct thmqi_policy *p)
{
	return p->costs.wake_cpu_ns + p->omega * p->costs.wake_latency_ns;
}

/* Nearer than b: spin on, beyond b by 1 / LAMBDA; farther: give up soon. Outcomes move it, but never out of these bounds. */
static double predicted(const struct thmqi_policy *p)
{
	double b = thmqi_policy_sleep_cost(p);
	double budget = (p->expected_ns < b ? b / LAMBDA : b * LAMBDA) * p->correction;

	return fmin(fmax(budget, b * LAMBDA), b / LAMBDA);
}

static double adapted(const struct thmqi_policy *p)
{
	return p->knows ? p->budget_ns : thmqi_policy_sleep_cost(p);
}

/* What a cap has left of the user's omega, 0 … 1. */
static double worth_left(const struct thmqi_policy *p)
{
	return p->costs.omega > 0 ? p->omega / p->costs.omega : 1;
}

static double budget(const struct thmqi_policy *p)
{
	switch (p->kind) {
	case THMQI_POLICY_POLL:
		return INFINITY;
	case THMQI_POLICY_EVENT:
		return 0;
	case THMQI_POLICY_FIXED:
		/* what the cap takes from omega, it takes from this */
		return p->costs.spin_max_ns * worth_left(p);
	case THMQI_POLICY_SKI:
		/* with latency worth nothing it still spins for a sleep's processor time, and through all gaps that are shorter: no cap
		 * would hold */
		return thmqi_policy_sleep_cost(p) * fmin(1, worth_left(p) / THMQI_POLICY_WORTH_MIN);
	case THMQI_POLICY_PREDICTIVE:
		if (thmqi_policy_follows_forecast(p))
			return predicted(p);
		break;
	}
	return adapted(p);
}

void thmqi_policy_reckon(struct thmqi_policy *p)
{
	double ns = budget(p);

	if (!isinf(ns))
		ns = fmin(fmax(ns, 0), p->costs.spin_max_ns);
	/* what no integer holds is longer than any time */
	p->spin_ns = ns >= 0x1p63 ? UINT64_MAX : (uint64_t)ns;
}

void thmqi_policy_init(struct thmqi_policy *p, uint32_t kind,
		       const struct thmqi_policy_costs *costs)
{
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->costs = *costs;
	p->omega = costs->omega;
	p->correction = 1;
	p->budget_ns = fmin(thmqi_policy_sleep_cost(p), costs->spin_max_ns);
	thmqi_policy_reckon(p);
}

uint32_t thmqi_policy_retries(const struct thmqi_policy *p)
{
	uint64_t ns = thmqi_policy_budget_ns(p);
	double polls = p->costs.poll_ns > 0 ? (double)ns / p->costs.poll_ns : (double)ns;

	return polls >= UINT32_MAX ? UINT32_MAX : (uint32_t)polls;
}

/* Spinning to the end of a bin catches all that fell into it and below. A busy core does this every few microseconds. */
static void optimise(struct thmqi_policy *p)
{
	double b = thmqi_policy_sleep_cost(p), most = p->costs.spin_max_ns, left = 0, caught = 0,
	       best = 0, begin = 1, least, cost, end;
	uint32_t i;

	for (i = 0; i < THMQI_POLICY_BINS; i++)
		left += p->weight[i];
	least = left * b; /* sleeping at once */
	for (i = 0; i < THMQI_POLICY_BINS && begin < most && left > 0; i++, begin *= 2) {
		end = 2 * begin < most ? 2 * begin : most;
		left -= p->weight[i];
		caught += p->sum_ns[i];
		cost = caught + (left > 0 ? left : 0) * (end + b);
		if (cost < least) {
			least = cost;
			best = end;
		}
	}
	for (i = 0; i < THMQI_POLICY_BINS; i++) {
		p->weight[i] *= DECAY;
		p->sum_ns[i] *= DECAY;
	}
	p->budget_ns = best;
	p->knows = true;
	thmqi_policy_reckon(p);
}

static double cost_of(double gap_ns, double budget_ns, double b)
{
	return gap_ns <= budget_ns ? gap_ns : budget_ns + b;
}

/* Outcomes count for a forecast, and both budgets are judged by every gap, whichever was in charge. */
static void judge(struct thmqi_policy *p, double gap_ns, bool hit)
{
	double b = thmqi_policy_sleep_cost(p), dearer;

	if (p->trusted) {
		dearer = cost_of(gap_ns, predicted(p), b) - cost_of(gap_ns, adapted(p), b);
		p->regret += RECENT * (dearer / b - p->regret);
	}
	p->correction *= hit ? STEP : 1 / STEP;
	p->correction = fmin(fmax(p->correction, LAMBDA * LAMBDA), 1 / (LAMBDA * LAMBDA));
	thmqi_policy_reckon(p);
}

void thmqi_policy_report(struct thmqi_policy *p, uint64_t gap_ns, bool hit)
{
	uint32_t bin = gap_ns > 1 ? 63 - (uint32_t)__builtin_clzll(gap_ns) : 0;

	bin = THMQI_MIN(bin, THMQI_POLICY_BINS - 1);
	if (p->kind == THMQI_POLICY_PREDICTIVE)
		judge(p, (double)gap_ns, hit);
	if ((double)gap_ns >= STALE_NS) {
		memset(p->weight, 0, sizeof(p->weight));
		memset(p->sum_ns, 0, sizeof(p->sum_ns));
		p->gaps = 0;
		p->knows = false;
		thmqi_policy_reckon(p);
		return;
	}
	p->weight[bin]++;
	p->sum_ns[bin] += (double)gap_ns;
	if (++p->gaps >= (p->knows ? THMQI_POLICY_REFRESH : THMQI_POLICY_FIRST)) {
		p->gaps = 0;
		optimise(p);
	}
}

/* One step towards what was seen: they end about the median, which no single one moves far. */
static double towards(double ns, uint64_t seen_ns, double least, double most)
{
	ns *= (double)seen_ns > ns ? WAKE_STEP : 1 / WAKE_STEP;
	return fmin(fmax(ns, least), most);
}

void thmqi_policy_woke(struct thmqi_policy *p, uint64_t late_ns)
{
	p->costs.wake_latency_ns =
		towards(p->costs.wake_latency_ns, late_ns, WAKE_MIN_NS, WAKE_MAX_NS);
	thmqi_policy_reckon(p);
}

void thmqi_policy_cost(struct thmqi_policy *p, uint64_t cpu_ns)
{
	p->costs.wake_cpu_ns = towards(p->costs.wake_cpu_ns, cpu_ns, CPU_MIN_NS, CPU_MAX_NS);
	thmqi_policy_reckon(p);
}

void thmqi_policy_forecast(struct thmqi_policy *p, double rate, bool trusted)
{
	double b = thmqi_policy_sleep_cost(p);

	p->expected_ns = rate > 0 ? 1 / rate : INFINITY;
	/* far from b there is no choice that a forecast could help with: the gaps themselves tell it better */
	p->trusted =
		trusted && isfinite(rate) && p->expected_ns > b / FAR && p->expected_ns < b * FAR;
	thmqi_policy_reckon(p);
}

void thmqi_policy_cap(struct thmqi_policy *p, double share, double share_max)
{
	double least = THMQI_POLICY_WORTH_MIN;

	if (p->kind == THMQI_POLICY_FIXED)
		least = fmin(least, FIXED_MIN_NS / p->costs.spin_max_ns);
	else if (p->kind == THMQI_POLICY_SKI && !isinf(share))
		least = SKI_MIN;
	if (share > share_max)
		p->omega = fmax(p->omega * 0.8, p->costs.omega * least);
	else
		p->omega = fmin(p->omega * 1.15, p->costs.omega);
	thmqi_policy_reckon(p);
}
