/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_polling_test.c - the policies at the real loop, in virtual time: a look at the sources takes 50 ns, serving a message 1 us, a
 * sleep ends a fixed time after what ends it. Messages arrive by a seeded plan that does not know of the policy. What the loop
 * spun and slept is known to the nanosecond, so that costs can be held against the clairvoyant's, who spins through exactly those gaps
 * that cost less than a sleep. In real time: reactor_costs_test.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/forecast.h>
#include <thundermq/reactor.h>

#include "reactor/reactor.h"

#define US 1000ull
#define MS 1000000ull
#define SECOND 1000000000ull
#define LOOK_NS 50u
#define SERVICE_NS 1000u
#define WAKE_CPU_NS 2500u
#define WAKE_LATENCY_NS 4500u
#define NEVER UINT64_MAX

struct plan {
	const char *name;
	uint64_t (*gap)(struct thmqi_prng *p, uint64_t now, uint64_t mean_ns);
	uint64_t mean_ns;
};

static struct sim {
	struct thmqi_poller poller; /* first */
	struct thmq_env *env;
	struct thmq_core *core;
	const struct plan *plan;
	struct thmqi_prng chance;
	uint64_t now, arrival;
	uint64_t served, budgets;
	double best; /* clairvoyant cost so far, ns of CPU */
	double late; /* messages have waited, ns */
	double sleep_cost;
	uint64_t idle_from;
} sim;

static uint64_t now(void *ctx)
{
	(void)ctx;
	return sim.now;
}

static double uniform(struct thmqi_prng *p)
{
	return (double)((thmqi_prng_next(p) >> 11) + 1) * 0x1p-53;
}

static uint64_t exponential(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	(void)at;
	return (uint64_t)(-(double)mean_ns * log(uniform(p)));
}

static uint64_t regular(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	(void)p;
	(void)at;
	return mean_ns;
}

/* A hundred in a row, then a silence of some milliseconds. */
static uint64_t bursts(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	return uniform(p) < 0.01 ? 5 * MS : exponential(p, at, mean_ns);
}

/* A tenth of a second of many, and one of few. */
static uint64_t waves(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	(void)p;
	return at / (100 * MS) % 2 ? 1 * MS : mean_ns;
}

static uint64_t nothing(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	(void)p;
	(void)at;
	(void)mean_ns;
	return NEVER / 2;
}

static int look(struct thmqi_poller *p, uint32_t budget)
{
	(void)p;
	(void)budget;
	sim.now += LOOK_NS;
	if (sim.now < sim.arrival)
		return 0;
	if (sim.arrival > sim.idle_from)
		sim.best += fmin((double)(sim.arrival - sim.idle_from), sim.sleep_cost);
	sim.late += (double)(sim.now - THMQI_MAX(sim.arrival, sim.idle_from));
	sim.now += SERVICE_NS;
	sim.idle_from = sim.now;
	sim.served++;
	sim.arrival += sim.plan->gap(&sim.chance, sim.arrival, sim.plan->mean_ns);
	return 1;
}

static int idle(void *ctx, uint64_t timeout_ns)
{
	uint64_t wake = sim.arrival < NEVER / 2 ? sim.arrival + WAKE_LATENCY_NS : NEVER / 2;

	(void)ctx;
	if (timeout_ns < wake && sim.now + timeout_ns < wake)
		wake = sim.now + timeout_ns;
	sim.now = THMQI_MAX(sim.now, wake);
	return 0;
}

static const struct thmqi_clock test_clock = {.now_ns = now, .wall_ns = now};
static const struct thmqi_world world = {
	.clock = &test_clock, .idle = idle, .spins = true, .seed = 7};

static void begin(const struct plan *plan, const struct thmq_env_opts *opts)
{
	struct thmq_env_opts o = *opts;

	memset(&sim, 0, sizeof(sim));
	o.flags = THMQ_ENV_NO_URING;
	o.wake_cpu_ns = WAKE_CPU_NS;
	o.wake_latency_ns = WAKE_LATENCY_NS;
	sim.now = sim.idle_from = SECOND;
	sim.plan = plan;
	sim.sleep_cost = WAKE_CPU_NS + (o.latency_worth ? o.latency_worth : 10) * WAKE_LATENCY_NS;
	thmqi_prng_seed(&sim.chance, 42);
	sim.arrival = sim.now + plan->gap(&sim.chance, sim.now, plan->mean_ns);
	cr_assert_eq(thmqi_env_open(&o, &world, &sim.env), 0, "%s", thmq_errmsg());
	sim.core = thmqi_env_core(sim.env, 0);
	sim.poller.poll = look;
	thmqi_core_add_poller(sim.core, &sim.poller);
}

static struct thmq_core_stats stats(void)
{
	struct thmq_core_stats st;

	memset(&st, 0, sizeof(st));
	thmqi_core_stats(sim.core, &st);
	return st;
}

/* So many messages more. What the core would spin after each goes into sim.budgets. */
static void serve(uint64_t messages)
{
	uint64_t goal = sim.served + messages;

	while (sim.served < goal) {
		cr_assert_geq(thmqi_core_poll(sim.core, 10 * SECOND), 1,
			      "a message was slept through");
		sim.budgets = sim.budgets * 31 + stats().budget_ns;
	}
}

static void end(void)
{
	thmqi_core_remove_poller(sim.core, &sim.poller);
	cr_assert_eq(thmqi_env_close(sim.env), 0);
}

/* What it has cost, in ns of CPU, of which latency is worth some. */
static double cost(uint32_t worth)
{
	struct thmq_core_stats st = stats();

	return (double)st.idle_ns + (double)st.sleeps * WAKE_CPU_NS + worth * sim.late;
}

TestSuite(reactor_polling, .timeout = 120);

/* -------------------------------------------------------------------- budgets */

Test(reactor_polling, event_sleeps_at_once_and_poll_never)
{
	static const struct plan plan = {"regular", regular, 100 * US};
	struct thmq_core_stats st;

	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT));
	serve(100);
	st = stats();
	cr_assert_eq(st.policy, THMQ_POLICY_EVENT);
	cr_assert_eq(st.spin_hits, 0);
	cr_assert_eq(st.spin_misses, 100);
	cr_assert_eq(st.sleeps, 100);
	cr_assert_eq(st.budget_ns, 0);
	cr_assert_lt(st.idle_ns, 100 * 200);
	end();
	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL));
	serve(100);
	st = stats();
	cr_assert_eq(st.policy, THMQ_POLICY_POLL);
	cr_assert_eq(st.spin_hits, 100);
	cr_assert_eq(st.spin_misses, 0);
	cr_assert_eq(st.sleeps, 0);
	cr_assert_eq(st.budget_ns, UINT64_MAX);
	cr_assert_eq(st.retries, UINT64_MAX);
	cr_assert_gt(st.idle_ns, 98 * 100 * US);
	end();
}

Test(reactor_polling, fixed_spins_for_as_long_as_it_is_told)
{
	static const struct plan longer = {"regular", regular, 100 * US},
				 shorter = {"regular", regular, 10 * US};
	struct thmq_core_stats st;

	begin(&longer, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED));
	serve(100);
	st = stats();
	cr_assert_eq(st.spin_misses, 100);
	cr_assert_eq(st.budget_ns, 20 * US);
	cr_assert_geq(st.idle_ns, 100 * 20 * US);
	cr_assert_leq(st.idle_ns, 100 * 22 * US);
	cr_assert_leq(st.retries, 20 * US / LOOK_NS);
	cr_assert_geq(st.retries, 20 * US / LOOK_NS * 9 / 10);
	end();
	begin(&shorter, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED, .spin_ns = 11 * US));
	serve(100);
	st = stats();
	cr_assert_eq(st.spin_hits, 100);
	cr_assert_eq(st.sleeps, 0);
	end();
}

Test(reactor_polling, fixed_without_end_spins_without_end)
{
	static const struct plan plan = {"regular", regular, 5 * MS};

	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED, .spin_ns = UINT64_MAX));
	serve(20);
	cr_assert_eq(stats().spin_hits, 20);
	cr_assert_eq(stats().sleeps, 0);
	cr_assert_eq(stats().budget_ns, UINT64_MAX);
	end();
}

Test(reactor_polling, ski_spins_for_as_long_as_a_sleep_costs)
{
	static const struct plan plan = {"regular", regular, 200 * US};

	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI));
	serve(10);
	cr_assert_eq(stats().budget_ns, WAKE_CPU_NS + 10 * WAKE_LATENCY_NS);
	end();
	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI, .latency_worth = 2));
	serve(10);
	cr_assert_eq(stats().budget_ns, WAKE_CPU_NS + 2 * WAKE_LATENCY_NS);
	end();
	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI, .spin_ns = 5 * US));
	serve(10);
	cr_assert_eq(stats().budget_ns, 5 * US, "the upper bound");
	end();
}

Test(reactor_polling, adaptive_spins_through_short_gaps_and_sleeps_in_long_ones)
{
	static const struct plan shorter = {"regular", regular, 12 * US},
				 longer = {"regular", regular, 300 * US};
	struct thmq_core_stats before, st;

	begin(&longer, THMQ_ENV_OPTS(.policy = THMQ_POLICY_ADAPTIVE));
	serve(200);
	st = stats();
	cr_assert_eq(st.policy, THMQ_POLICY_ADAPTIVE);
	cr_assert_eq(st.budget_ns, 0);
	sim.plan = &shorter;
	serve(1000); /* what it knew is forgotten by and by */
	before = stats();
	serve(1000);
	st = stats();
	cr_assert_eq(st.sleeps, before.sleeps);
	cr_assert_eq(st.spin_hits, before.spin_hits + 1000);
	sim.plan = &longer;
	serve(1000);
	before = stats();
	serve(1000);
	st = stats();
	cr_assert_eq(st.sleeps, before.sleeps + 1000);
	cr_assert_lt(st.idle_ns - before.idle_ns, 1000 * 300, "it does not spin any more");
	end();
}

Test(reactor_polling, many_short_polls_are_one_wait)
{
	static const struct plan plan = {"nothing", nothing, 0};
	struct thmq_core_stats st;

	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED));
	for (int i = 0; i < 100; i++) {
		thmqi_core_poll(sim.core, 5 * US);
		sim.now += 100 * US; /* the host does something else */
	}
	st = stats();
	cr_assert_geq(st.spin_misses, 100 / 6);
	cr_assert_leq(st.spin_misses, 100 / 3, "it spins its time, and then sleeps");
	cr_assert_leq(st.idle_ns, st.spin_misses * 24 * US + 30 * US);
	end();
}

/* ----------------------------------------------------------------------- cost */

Test(reactor_polling, costs_stay_near_the_clairvoyants)
{
	static const struct plan plans[] = {
		{"poisson 1 k/s", exponential, 1 * MS}, {"poisson 30 k/s", exponential, 33 * US},
		{"poisson 300 k/s", exponential, 3300}, {"regular 8 us", regular, 8 * US},
		{"regular 12 us", regular, 12 * US},    {"regular 400 us", regular, 400 * US},
		{"bursts, 5 us", bursts, 5 * US},       {"waves, 20 us", waves, 20 * US}};
	static const uint32_t policies[] = {THMQ_POLICY_POLL, THMQ_POLICY_EVENT, THMQ_POLICY_SKI,
					    THMQ_POLICY_ADAPTIVE, THMQ_POLICY_PREDICTIVE};
	static const double most[] = {INFINITY, INFINITY, 2.2, 1.6, 3.1};
	double worst[5] = {0};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(plans); i++)
		for (size_t k = 0; k < THMQI_ARRAY_COUNT(policies); k++) {
			double ratio;

			begin(&plans[i], THMQ_ENV_OPTS(.policy = policies[k]));
			serve(policies[k] == THMQ_POLICY_POLL
				      ? 500
				      : 5000); /* all that looking takes its time */
			ratio = cost(10) / sim.best;
			worst[k] = fmax(worst[k], ratio);
			fprintf(stderr, "%-18s policy %u: %.3f\n", plans[i].name, policies[k],
				ratio);
			cr_assert_leq(ratio, most[k], "policy %u, %s: %.3f times the best",
				      policies[k], plans[i].name, ratio);
			end();
		}
	/* the bounds mean something */
	cr_assert_gt(worst[0], 3);
	cr_assert_gt(worst[1], 3);
}

Test(reactor_polling, a_cap_holds_whatever_the_policy_would_like)
{
	static const struct plan plan = {"poisson 30 k/s", exponential, 33 * US};
	static const uint32_t policies[] = {THMQ_POLICY_FIXED, THMQ_POLICY_SKI,
					    THMQ_POLICY_ADAPTIVE, THMQ_POLICY_PREDICTIVE};
	static const uint32_t caps[] = {25, 50};
	struct thmq_core_stats before, st;
	double share;

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(policies); k++)
		for (size_t c = 0; c <= THMQI_ARRAY_COUNT(caps); c++) {
			uint32_t cap = c < THMQI_ARRAY_COUNT(caps) ? caps[c] : 0;

			begin(&plan, THMQ_ENV_OPTS(.policy = policies[k], .cpu_cap_percent = cap,
						   .latency_worth = 100, .spin_ns = 500 * US));
			serve(15000); /* half a second, in which it finds its way */
			before = stats();
			serve(15000);
			st = stats();
			share = (double)(st.busy_ns + st.idle_ns - before.busy_ns - before.idle_ns +
					 (st.sleeps - before.sleeps) * WAKE_CPU_NS) /
				(double)(st.counted_ns - before.counted_ns);
			fprintf(stderr, "policy %u, cap %u: %.3f\n", policies[k], cap, share);
			if (cap)
				cr_assert_leq(share, cap / 100.0 + 0.05,
					      "policy %u, cap %u %%: %.3f", policies[k], cap,
					      share);
			else
				cr_assert_geq(share, 0.9,
					      "policy %u would like more than that: %.3f",
					      policies[k], share);
			end();
		}
}

/* Its share of a processor while so many messages are served. */
static double share_of(uint64_t messages)
{
	struct thmq_core_stats before = stats(), st;

	serve(messages);
	st = stats();
	return (double)(st.busy_ns + st.idle_ns - before.busy_ns - before.idle_ns +
			(st.sleeps - before.sleeps) * WAKE_CPU_NS) /
	       (double)(st.counted_ns - before.counted_ns);
}

/* Gaps are shorter than a sleep's processor time: were latency worth nothing, ski would still spin through all of them. */
Test(reactor_polling, a_cap_holds_for_ski_where_gaps_are_short)
{
	static const struct plan plan = {"regular", regular, 3 * US};
	double share;

	begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_SKI, .cpu_cap_percent = 70));
	share_of(300000);
	share = share_of(60000);
	cr_assert(share <= 0.75, "%.3f", share);
	cr_assert_gt(stats().sleeps, 1000);
	end();
}

/* Longer than its ticks are apart, and than a thousandth of what it is told: it has to look at its share while it spins. */
Test(reactor_polling, a_cap_holds_for_who_is_told_to_spin_for_seconds)
{
	static const struct plan plan = {"regular", regular, 5 * MS}, none = {"nothing", nothing, 0};

	for (uint32_t cores = 1; cores <= 2; cores++) {
		double share;

		begin(&plan, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED, .cpu_cap_percent = 50,
					   .spin_ns = 10 * SECOND, .caller_cores = cores));
		if (cores == 2)
			cr_assert_eq(thmqi_core_attach(sim.env, 1), 0);
		share_of(150);
		share = share_of(200);
		cr_assert(share > 0.2 && share <= 0.55, "%u cores: %.3f", cores, share);
		end();
		begin(&none, THMQ_ENV_OPTS(.policy = THMQ_POLICY_FIXED, .cpu_cap_percent = 50,
					   .spin_ns = 10 * SECOND, .caller_cores = cores));
		if (cores == 2)
			cr_assert_eq(thmqi_core_attach(sim.env, 1), 0);
		cr_assert_eq(thmqi_core_poll(sim.core, 5 * SECOND), 0);
		cr_assert(stats().idle_ns > 50 * MS && stats().idle_ns < 500 * MS, "%u cores: %llu", cores,
			  (unsigned long long)stats().idle_ns);
		cr_assert_geq(stats().sleeps, 1);
		end();
	}
}

/* ------------------------------------------------------------------- forecasts */

Test(reactor_polling, the_same_plan_gives_the_same_bits)
{
	static const struct plan plan = {"bursts, 20 us", bursts, 20 * US};
	static const uint32_t policies[] = {THMQ_POLICY_SKI, THMQ_POLICY_ADAPTIVE,
					    THMQ_POLICY_PREDICTIVE};
	struct thmq_core_stats first, second;
	uint64_t budgets;

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(policies); k++) {
		begin(&plan, THMQ_ENV_OPTS(.policy = policies[k]));
		serve(50000);
		first = stats();
		budgets = sim.budgets;
		end();
		begin(&plan, THMQ_ENV_OPTS(.policy = policies[k]));
		serve(50000);
		second = stats();
		cr_assert_eq(sim.budgets, budgets);
		cr_assert_eq(memcmp(&first, &second, sizeof(first)), 0);
		end();
	}
}

Test(reactor_polling, a_forecast_is_in_charge_only_once_it_has_proven_better_than_naive)
{
	static const struct plan waving = {"waves, 20 us", waves, 20 * US},
				 none = {"poisson 20 k/s", exponential, 50 * US};
	struct thmq_core_stats st;
	bool trusted = false;

	begin(&none, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE));
	serve(20000);
	st = stats();
	cr_assert_eq(st.policy, THMQ_POLICY_ADAPTIVE, "after a second nothing is known");
	cr_assert_geq(st.forecast_ticks, 5);
	end();
	begin(&waving, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE));
	for (int i = 0; i < 60 && !trusted; i++) {
		serve(10000);
		st = stats();
		trusted = st.policy == THMQ_POLICY_PREDICTIVE;
	}
	cr_assert(trusted, "ticks %llu, model %u, ratio %llu",
		  (unsigned long long)st.forecast_ticks, st.forecast_model,
		  (unsigned long long)st.forecast_ratio);
	cr_assert_geq(st.forecast_ticks, 16);
	cr_assert_neq(st.forecast_model, THMQ_FORECAST_NAIVE);
	cr_assert_lt(st.forecast_ratio, 950);
	cr_assert_gt(st.expected_gap_ns, 10 * US);
	cr_assert_lt(st.expected_gap_ns, 100 * MS);
	/* a silence of many ticks: what was expected is about another time */
	sim.plan = &(struct plan){"regular", regular, 20 * SECOND};
	sim.arrival = sim.now + 20 * SECOND;
	while (thmqi_core_poll(sim.core, 10 * SECOND) == 0)
		;
	thmqi_core_poll(sim.core, 1 * US);
	cr_assert_eq(stats().policy, THMQ_POLICY_ADAPTIVE);
	end();
}

/* Tenths of a second by turns of 20 us and of 40: a forecast is trusted, and is near what a sleep costs, at any time. */
static uint64_t ripples(struct thmqi_prng *p, uint64_t at, uint64_t mean_ns)
{
	(void)p;
	return at / (100 * MS) % 2 ? 2 * mean_ns : mean_ns;
}

Test(reactor_polling, a_forecast_ends_with_a_silence_which_the_forecaster_hears_of)
{
	static const struct plan rippling = {"ripples, 20 us", ripples, 20 * US};
	uint64_t ticks;

	begin(&rippling, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE));
	for (int i = 0; i < 100 && stats().policy != THMQ_POLICY_PREDICTIVE; i++)
		serve(5000);
	cr_assert_eq(stats().policy, THMQ_POLICY_PREDICTIVE);
	ticks = stats().forecast_ticks;
	sim.arrival = sim.now + 20 * SECOND;
	while (thmqi_core_poll(sim.core, 10 * SECOND) == 0)
		;
	thmqi_core_poll(sim.core, 1 * US);
	cr_assert_eq(stats().policy, THMQ_POLICY_ADAPTIVE, "what was expected is of another time");
	sim.plan = &(struct plan){"regular", regular, 1 * MS};
	serve(1000);
	cr_assert_geq(stats().forecast_ticks, ticks + 60, "%llu, then %llu", (unsigned long long)ticks,
		      (unsigned long long)stats().forecast_ticks);
	end();
}

Test(reactor_polling, cores_of_one_thread_have_forecasts_too)
{
	static const struct plan waving = {"waves, 200 us", waves, 200 * US};
	struct thmq_core_stats st = {0};

	begin(&waving, THMQ_ENV_OPTS(.policy = THMQ_POLICY_PREDICTIVE, .caller_cores = 2));
	cr_assert_eq(thmqi_core_attach(sim.env, 1), 0);
	for (int i = 0; i < 30 && !st.forecast_ratio; i++) {
		serve(500);
		st = stats();
	}
	cr_assert_geq(st.forecast_ticks, 8);
	cr_assert_gt(st.forecast_ratio, 0, "ticks %llu, model %u",
		     (unsigned long long)st.forecast_ticks, st.forecast_model);
	end();
}

static uint64_t slab_bytes_after(uint32_t policy)
{
	static const struct plan waving = {"waves, 50 us", waves, 50 * US};
	struct thmqi_pool_stats st;
	struct thmqi_buf *held[7];
	uint64_t bytes;

	begin(&waving, THMQ_ENV_OPTS(.policy = policy));
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(held); i++)
		cr_assert_eq(thmqi_buf_alloc(sim.core->pool, THMQI_SLAB_BYTES / 8, &held[i]), 0);
	thmqi_pool_stats(sim.core->pool, &st);
	cr_assert_eq(st.bytes, THMQI_SLAB_BYTES);
	serve(60000);
	thmqi_pool_stats(sim.core->pool, &st);
	bytes = st.bytes;
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(held); i++)
		thmqi_buf_unref(held[i]);
	end();
	return bytes;
}

/* Seven eighths of a slab are in use, and more traffic is foreseen. */
Test(reactor_polling, memory_for_a_rise_that_is_foreseen_is_fetched_before)
{
	uint64_t bytes = slab_bytes_after(THMQ_POLICY_PREDICTIVE);

	cr_assert_eq(slab_bytes_after(THMQ_POLICY_ADAPTIVE), THMQI_SLAB_BYTES);
	cr_assert(bytes >= 2 * THMQI_SLAB_BYTES && bytes <= 4 * THMQI_SLAB_BYTES, "%llu",
		  (unsigned long long)bytes);
}

/* A machine that was stopped for a while, or moved: time is suddenly much later. */
Test(reactor_polling, a_clock_that_leaps_ahead_disturbs_nothing_for_long)
{
	static const struct plan plan = {"poisson 30 k/s", exponential, 33 * US};
	static const uint32_t policies[] = {THMQ_POLICY_FIXED, THMQ_POLICY_SKI,
					    THMQ_POLICY_ADAPTIVE, THMQ_POLICY_PREDICTIVE};

	for (size_t k = 0; k < THMQI_ARRAY_COUNT(policies); k++) {
		struct thmq_core_stats before, st;
		double share;

		begin(&plan, THMQ_ENV_OPTS(.policy = policies[k], .cpu_cap_percent = 50,
					   .latency_worth = 100, .spin_ns = 500 * US));
		serve(20000);
		sim.now += 3600 * SECOND;
		sim.arrival = sim.now + 1 * MS;
		serve(20000);
		before = stats();
		serve(10000);
		st = stats();
		share = (double)(st.busy_ns + st.idle_ns - before.busy_ns - before.idle_ns +
				 (st.sleeps - before.sleeps) * WAKE_CPU_NS) /
			(double)(st.counted_ns - before.counted_ns);
		cr_assert(share > 0.2 && share < 0.55, "policy %u: %.3f", policies[k], share);
		end();
	}
}

Test(reactor_polling, many_cores_of_one_thread_wait_by_every_policy)
{
	static const struct plan plan = {"regular", regular, 30 * US};

	for (uint32_t policy = THMQ_POLICY_POLL; policy <= THMQ_POLICY_PREDICTIVE; policy++) {
		begin(&plan, THMQ_ENV_OPTS(.policy = policy, .caller_cores = 64));
		for (uint32_t i = 1; i < 64; i++)
			cr_assert_eq(thmqi_core_attach(sim.env, i), 0);
		serve(50);
		cr_assert_eq(stats().spin_hits + stats().spin_misses, 50);
		end();
	}
}
