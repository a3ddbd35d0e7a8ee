/* SPDX-License-Identifier: Apache-2.0 */
/*
 * polling.h - how long a core looks for work before it sleeps. The loop tells when nothing is there, when something is again, and whether
 * it slept; a policy of lib/forecast, which knows no clock, says how long to spin. Knows nothing of sources, nor of how to sleep.
 *
 * A wait begins with the first iteration that finds nothing and ends with the first that finds something. A host's poll whose time is
 * over before the core has slept is continued by the next one, by what it has spun so far, so that many short polls are one wait. A core's
 * time is looked at once in a while, as a wait begins or goes on: a tick. There is none while a core sleeps, and none while it never waits.
 */
#ifndef THMQI_REACTOR_POLLING_H
#define THMQI_REACTOR_POLLING_H

#include "forecast/policy.h"

struct loop;
struct predict;

/* What an environment's cores have in common. */
struct polling_rules {
	struct thmqi_policy_costs costs;
	double share_max;  /* of a processor */
	bool crowded;      /* its cores have less than a processor each */
	bool told_latency; /* of a wake-up: by the options */
	bool told_cpu;     /* of a sleep: likewise */
};

struct polling {
	struct thmqi_policy policy;
	bool never_sleeps;
	bool learns;      /* from gaps */
	bool has_thread;  /* of its own world: the system's account of it counts */
	bool learns_wake; /* what a wake-up takes: nobody said it */
	bool learns_cpu;  /* what a sleep takes of the processor: likewise */
	/* the wait under way */
	uint64_t began_ns;   /* from here on there was nothing … */
	uint64_t seen_ns;    /* … up to here, as far as was looked */
	uint64_t end_ns;     /* spun until then */
	uint64_t carried_ns; /* spun for nothing in polls before this one */
	bool slept;
	uint64_t cpu_ns; /* of the thread as it fell asleep; 0: not looked at */
	/* the next tick, UINT64_MAX: none; at the last one: when, time used, sleeps, involuntary switches of the thread */
	uint64_t tick_ns, ticked_ns, ticked_used_ns, ticked_sleeps, ticked_switches;
	double share_max;
	bool crowded;
	struct predict *predict; /* NULL: nothing is forecast */
	/* for who asks, from any thread */
	uint64_t told_budget_ns, told_round_ns;
	uint32_t told_policy, told_latency_ns, told_cpu_ns;
};

/* policy.c. Check: options by themselves; rules: once for all cores, with the costs measured where the options leave that to us. */
int thmqi_polling_check(const struct thmq_env_opts *opts);
uint32_t thmqi_polling_policy(uint32_t policy); /* what DEFAULT is */
void thmqi_polling_rules(const struct thmq_env_opts *opts, const struct thmqi_world *world,
			 struct polling_rules *ret);
void thmqi_polling_open(struct loop *l);

/* Nothing was there at @now. Return: until when to spin, or to ask again. */
uint64_t thmqi_polling_begin(struct loop *l, uint64_t now);
/* It is that late, and nothing came. Return: likewise; not later than @now: that was it. */
uint64_t thmqi_polling_still(struct loop *l, uint64_t now);
/* It falls asleep now. */
void thmqi_polling_sleeps(struct loop *l);
/* Awake, having fallen asleep at @from: between then and now nothing was there for all but the time that it takes to wake up. */
void thmqi_polling_slept(struct loop *l, uint64_t from);
/* The wait is over: there is something, or the poll's time is up. */
void thmqi_polling_end(struct loop *l, bool found);
void thmqi_polling_stats(const struct loop *l, struct thmq_core_stats *ret);

/* calibrate.c: what a sleep costs on this machine, now. Takes about a millisecond, on the calling thread alone. */
void thmqi_calibrate(uint64_t *ret_cpu_ns, uint64_t *ret_latency_ns);
uint64_t thmqi_thread_cpu_ns(void); /* what the calling thread has used of processors */

#endif
