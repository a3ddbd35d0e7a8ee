/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.h - how long to look for work before going to sleep, as pure functions: gaps and outcomes in, a budget out. No clock,
 * no loop, no atomics: the loop measures, the policy decides, and the same gaps always give the same budgets.
 *
 * To sleep costs b = wake_cpu + omega * wake_latency, to spin costs its time. Knowing the gap one would spin through those below b
 * and sleep at once for the others: no policy can do better, each is measured against that.
 */
#ifndef THMQI_FORECAST_POLICY_H
#define THMQI_FORECAST_POLICY_H

#include "base/base.h"

enum thmqi_policy_kind {
	THMQI_POLICY_POLL = 0, /* for ever */
	THMQI_POLICY_EVENT,    /* not at all */
	THMQI_POLICY_FIXED,    /* spin_max, or less under a cap */
	THMQI_POLICY_SKI, /* b: at most twice the best, whatever comes (Karlin and others, 1991) */
	THMQI_POLICY_ADAPTIVE, /* the budget of least expected cost by a decayed histogram of gaps */
	THMQI_POLICY_PREDICTIVE /* by the expected gap of a traffic forecast, within the bounds of Purohit and others, 2018; adaptive
				   as long as none is trusted */
};

struct thmqi_policy_costs {
	double wake_cpu_ns;     /* of sleeping and waking: system calls, switches */
	double wake_latency_ns; /* from the event to the thread that runs */
	double omega;           /* what a nanosecond of latency is worth in nanoseconds of CPU */
	double spin_max_ns;     /* no budget is longer, but poll's */
	double poll_ns;         /* one look at all sources that finds nothing */
};

#define THMQI_POLICY_BINS 40u    /* of gaps: [2^i, 2^(i+1)) ns */
#define THMQI_POLICY_REFRESH 64u /* gaps from one optimum to the next */
#define THMQI_POLICY_FIRST 16u   /* to the first one */
#define THMQI_POLICY_WORTH_MIN 1e-3 /* of the omega given is left where others want the processor */

struct thmqi_policy {
	uint32_t kind;
	uint32_t gaps; /* since the last optimum */
	uint64_t
		spin_ns; /* what follows from all below: told for every wait, reckoned where something changes */
	struct thmqi_policy_costs costs;
	double omega;     /* below costs.omega while the CPU's share is over its cap */
	double budget_ns; /* adaptive's */
	double weight[THMQI_POLICY_BINS],
		sum_ns[THMQI_POLICY_BINS]; /* decayed: how many gaps, how long in all */
	bool knows;                        /* there was an optimum since the last long sleep */
	/* predictive */
	bool trusted;
	double expected_ns; /* gap */
	double correction;  /* by outcomes, within the bounds */
	double regret; /* what its budgets have cost of late above what adaptive's would have, in sleeps a wait */
};

void thmqi_policy_init(struct thmqi_policy *p, uint32_t kind,
		       const struct thmqi_policy_costs *costs);
/* What a sleep costs, as omega is now. */
double thmqi_policy_sleep_cost(const struct thmqi_policy *p);
/* How long to spin from the last work on; UINT64_MAX: for ever. */
static inline uint64_t thmqi_policy_budget_ns(const struct thmqi_policy *p)
{
	return p->spin_ns;
}
#define THMQI_POLICY_REGRET 0.01 /* as much dearer, in sleeps a wait, is as good */
/* Is it a forecast that decides? One that is trusted, and whose budgets are no dearer than those of the gaps alone. */
static inline bool thmqi_policy_follows_forecast(const struct thmqi_policy *p)
{
	return p->kind == THMQI_POLICY_PREDICTIVE && p->trusted && p->regret <= THMQI_POLICY_REGRET;
}
/* @p->omega was changed from outside. */
void thmqi_policy_reckon(struct thmqi_policy *p);
/* The same as a number of empty polls, after which all is armed, polled once more, and slept. */
uint32_t thmqi_policy_retries(const struct thmqi_policy *p);
/* Nothing was there for @gap_ns, then there was; @hit: it was found spinning. */
void thmqi_policy_report(struct thmqi_policy *p, uint64_t gap_ns, bool hit);
/* A wake-up took so long, by who made it and who was woken: what a sleep costs follows, by small steps, to the median. */
void thmqi_policy_woke(struct thmqi_policy *p, uint64_t late_ns);
/* A sleep took so much of the processor: likewise. */
void thmqi_policy_cost(struct thmqi_policy *p, uint64_t cpu_ns);
/* Once a tick: @rate of events per ns that the forecast expects, and whether it has earned trust. */
void thmqi_policy_forecast(struct thmqi_policy *p, double rate, bool trusted);
/* Now and then: the thread's share of its CPU beside what it may have. Takes the worth of latency back until it fits. @share INFINITY: others
 * want the CPU. */
void thmqi_policy_cap(struct thmqi_policy *p, double share, double share_max);

#endif
