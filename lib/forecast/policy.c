/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - budgets for spinning. The histogram's optimum is that of a known distribution of gaps: the B of least
 * E[min(G, B)] + P(G > B) b. The forecast's is that of ski rental with a prediction: with its error unbounded no more than
 * 1 + 1 / LAMBDA times the best, with none 1 + LAMBDA.
 */
#include <math.h>

#include "forecast/policy.h"

#define DECAY 0.8      /* of the histogram at each optimum */
#define LAMBDA 0.5     /* how much the forecast is trusted: 0 wholly, 1 not at all */
#define STALE_NS 1e9   /* a gap that long: what was known before it is not the present */
#define STEP 1.05      /* of the correction at each outcome */
#define WORTH_MIN 1e-3 /* of the user's omega: the cap takes no more */

void thmqi_policy_init(struct thmqi_policy *p, uint32_t kind,
		       const struct thmqi_policy_costs *costs)
{
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->costs = *costs;
	p->omega = costs->omega;
	p->correction = 1;
	p->budget_ns = fmin(thmqi_policy_sleep_cost(p), costs->spin_max_ns);
}

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

static double budget(const struct thmqi_policy *p)
{
	switch (p->kind) {
	case THMQI_POLICY_POLL:
		return INFINITY;
	case THMQI_POLICY_EVENT:
		return 0;
	case THMQI_POLICY_FIXED:
		/* what the cap takes from omega, it takes from this */
		return p->costs.omega > 0 ? p->costs.spin_max_ns * (p->omega / p->costs.omega)
					  : p->costs.spin_max_ns;
	case THMQI_POLICY_SKI:
		return thmqi_policy_sleep_cost(p);
	case THMQI_POLICY_PREDICTIVE:
		if (p->trusted)
			return predicted(p);
		break;
	}
	return p->knows ? p->budget_ns : thmqi_policy_sleep_cost(p);
}

uint64_t thmqi_policy_budget_ns(const struct thmqi_policy *p)
{
	double ns = budget(p);

	return isinf(ns) ? UINT64_MAX : (uint64_t)fmin(fmax(ns, 0), p->costs.spin_max_ns);
}

uint32_t thmqi_policy_retries(const struct thmqi_policy *p)
{
	uint64_t ns = thmqi_policy_budget_ns(p);
	double polls = p->costs.poll_ns > 0 ? (double)ns / p->costs.poll_ns : (double)ns;

	return polls >= UINT32_MAX ? UINT32_MAX : (uint32_t)polls;
}

/* Spinning to the end of a bin catches all that fell into it and below. */
static void optimise(struct thmqi_policy *p)
{
	double b = thmqi_policy_sleep_cost(p), left = 0, caught = 0, least, cost, end;
	uint32_t i;

	for (i = 0; i < THMQI_POLICY_BINS; i++)
		left += p->weight[i];
	least = left * b; /* sleeping at once */
	p->budget_ns = 0;
	for (i = 0; i < THMQI_POLICY_BINS; i++) {
		end = fmin(ldexp(1, (int)i + 1), p->costs.spin_max_ns);
		if (ldexp(1, (int)i) >= p->costs.spin_max_ns)
			break;
		left -= p->weight[i];
		caught += p->sum_ns[i];
		cost = caught + fmax(left, 0) * (end + b);
		if (cost < least) {
			least = cost;
			p->budget_ns = end;
		}
	}
	for (i = 0; i < THMQI_POLICY_BINS; i++) {
		p->weight[i] *= DECAY;
		p->sum_ns[i] *= DECAY;
	}
	p->knows = true;
}

void thmqi_policy_report(struct thmqi_policy *p, uint64_t gap_ns, bool hit)
{
	uint32_t bin = gap_ns > 1 ? 63 - (uint32_t)__builtin_clzll(gap_ns) : 0;

	bin = THMQI_MIN(bin, THMQI_POLICY_BINS - 1);
	p->correction *= hit ? STEP : 1 / STEP;
	p->correction = fmin(fmax(p->correction, LAMBDA * LAMBDA), 1 / (LAMBDA * LAMBDA));
	if ((double)gap_ns >= STALE_NS) {
		memset(p->weight, 0, sizeof(p->weight));
		memset(p->sum_ns, 0, sizeof(p->sum_ns));
		p->gaps = 0;
		p->knows = false;
		return;
	}
	p->weight[bin]++;
	p->sum_ns[bin] += (double)gap_ns;
	if (++p->gaps >= THMQI_POLICY_REFRESH) {
		p->gaps = 0;
		optimise(p);
	}
}

void thmqi_policy_forecast(struct thmqi_policy *p, double rate, bool trusted)
{
	p->trusted = trusted && rate >= 0 && isfinite(rate);
	p->expected_ns = rate > 0 ? 1 / rate : INFINITY;
}

void thmqi_policy_cap(struct thmqi_policy *p, double share, double share_max)
{
	if (share > share_max)
		p->omega = fmax(p->omega * 0.8, p->costs.omega * WORTH_MIN);
	else
		p->omega = fmin(p->omega * 1.15, p->costs.omega);
}
