/* SPDX-License-Identifier: Apache-2.0 */
/* forecast_policy_test.c - budgets for spinning, one rule at a time; tests/sim/policy_sim_test.c has the whole. */
#include <criterion/criterion.h>
#include <math.h>

#include "forecast/policy.h"

TestSuite(forecast_policy, .timeout = 30);

/* b is 10 us */
static const struct thmqi_policy_costs costs = {.wake_cpu_ns = 4000,
						.wake_latency_ns = 6000,
						.omega = 1,
						.spin_max_ns = 1e6,
						.poll_ns = 100};

static struct thmqi_policy make(uint32_t kind)
{
	struct thmqi_policy p;

	thmqi_policy_init(&p, kind, &costs);
	return p;
}

static void feed(struct thmqi_policy *p, uint64_t gap_ns, uint32_t times)
{
	while (times--)
		thmqi_policy_report(p, gap_ns, gap_ns <= thmqi_policy_budget_ns(p));
}

Test(forecast_policy, fixed_rules_are_what_they_say)
{
	struct thmqi_policy p = make(THMQI_POLICY_POLL);

	cr_assert_eq(thmqi_policy_budget_ns(&p), UINT64_MAX);
	cr_assert_eq(thmqi_policy_retries(&p), UINT32_MAX);
	p = make(THMQI_POLICY_EVENT);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
	cr_assert_eq(thmqi_policy_retries(&p), 0);
	p = make(THMQI_POLICY_FIXED);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 1000000);
	p = make(THMQI_POLICY_SKI);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
	cr_assert_eq(thmqi_policy_retries(&p), 100);
}

Test(forecast_policy, adaptive_spins_through_short_gaps_and_not_at_all_for_long_ones)
{
	struct thmqi_policy p = make(THMQI_POLICY_ADAPTIVE);

	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000, "nothing is known yet: as ski");
	feed(&p, 3000, THMQI_POLICY_FIRST - 1);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
	feed(&p, 3000, 1);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 4096);
	feed(&p, 300000, 20 * THMQI_POLICY_REFRESH);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
	feed(&p, 3000, 20 * THMQI_POLICY_REFRESH);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 4096, "what was long ago is forgotten");
}

Test(forecast_policy, adaptive_weighs_short_gaps_against_long_ones)
{
	struct thmqi_policy p = make(THMQI_POLICY_ADAPTIVE);

	/* half of them 3 us, half of them 1 ms: 3 + (4 + 10) < 10 + 10 */
	for (uint32_t i = 0; i < 10 * THMQI_POLICY_REFRESH; i++)
		feed(&p, i % 2 ? 3000 : 1000000 - 1, 1);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 4096);
	/* one in ten: not worth it */
	for (uint32_t i = 0; i < 40 * THMQI_POLICY_REFRESH; i++)
		feed(&p, i % 10 ? 1000000 - 1 : 3000, 1);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
}

Test(forecast_policy, a_long_sleep_makes_adaptive_ask_anew)
{
	struct thmqi_policy p = make(THMQI_POLICY_ADAPTIVE);

	feed(&p, 300000, 2 * THMQI_POLICY_REFRESH);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
	feed(&p, 2000000000, 1);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
}

Test(forecast_policy, gaps_of_any_length_are_taken)
{
	struct thmqi_policy p = make(THMQI_POLICY_ADAPTIVE);

	feed(&p, 0, 200);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 2);
	feed(&p, 1, 200);
	feed(&p, UINT64_MAX, 200);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
}

Test(forecast_policy, predictive_stays_within_its_bounds_whatever_happens)
{
	struct thmqi_policy p = make(THMQI_POLICY_PREDICTIVE);

	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
	thmqi_policy_forecast(&p, 1.0 / 3000, false);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000, "not trusted: as adaptive");
	thmqi_policy_forecast(&p, 1.0 / 3000, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 20000);
	thmqi_policy_forecast(&p, 1.0 / 30000, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 5000);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_report(&p, 4000,
				    true); /* hits move it up, and no further than b / lambda */
	cr_assert_eq(thmqi_policy_budget_ns(&p), 20000);
	thmqi_policy_forecast(&p, 1.0 / 3000, true);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_report(&p, 400000, false);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0, "what the gaps say alone is cheaper");
	cr_assert_not(thmqi_policy_follows_forecast(&p));
	thmqi_policy_forecast(&p, NAN, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0, "no number is no forecast: the gaps decide");
	p.regret = 0;
	thmqi_policy_forecast(&p, 1.0 / 3000, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 5000);
	thmqi_policy_forecast(&p, 1.0 / 300000, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0, "so far that there is nothing to decide");
	thmqi_policy_forecast(&p, 0, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
	thmqi_policy_forecast(&p, 1.0 / 100, true);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 0);
}

Test(forecast_policy, the_latency_of_a_wake_up_is_learned_as_a_median)
{
	struct thmqi_policy p = make(THMQI_POLICY_SKI);

	for (int i = 0; i < 200; i++)
		thmqi_policy_woke(&p, 60000);
	cr_assert(p.costs.wake_latency_ns > 55000 && p.costs.wake_latency_ns < 65000);
	cr_assert_gt(thmqi_policy_budget_ns(&p), 55000);
	/* one in ten that took for ever changes little */
	for (int i = 0; i < 1000; i++)
		thmqi_policy_woke(&p, i % 10 ? 5000 : UINT64_MAX);
	cr_assert(p.costs.wake_latency_ns > 4000 && p.costs.wake_latency_ns < 7000, "%f",
		  p.costs.wake_latency_ns);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_woke(&p, 0);
	cr_assert_geq(p.costs.wake_latency_ns, 500);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_woke(&p, UINT64_MAX);
	cr_assert_leq(p.costs.wake_latency_ns, 100000);
}

Test(forecast_policy, what_a_sleep_takes_of_the_processor_is_learned_likewise)
{
	struct thmqi_policy p = make(THMQI_POLICY_SKI);
	uint64_t before = thmqi_policy_budget_ns(&p);

	for (int i = 0; i < 1000; i++)
		thmqi_policy_cost(&p, i % 10 ? 15000 : UINT64_MAX);
	cr_assert(p.costs.wake_cpu_ns > 14000 && p.costs.wake_cpu_ns < 17000, "%f",
		  p.costs.wake_cpu_ns);
	cr_assert_gt(thmqi_policy_budget_ns(&p), before);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_cost(&p, UINT64_MAX);
	cr_assert_leq(p.costs.wake_cpu_ns, 20000);
	for (int i = 0; i < 1000; i++)
		thmqi_policy_cost(&p, 1);
	cr_assert(p.costs.wake_cpu_ns >= 500 && p.costs.wake_cpu_ns < 600, "%f",
		  p.costs.wake_cpu_ns);
}

Test(forecast_policy, bounds_beyond_all_time_are_for_ever)
{
	struct thmqi_policy_costs endless = costs;
	struct thmqi_policy p;

	endless.spin_max_ns = (double)UINT64_MAX;
	for (uint32_t kind = THMQI_POLICY_POLL; kind <= THMQI_POLICY_PREDICTIVE; kind++) {
		thmqi_policy_init(&p, kind, &endless);
		cr_assert_eq(thmqi_policy_budget_ns(&p), kind == THMQI_POLICY_EVENT   ? 0
							 : kind <= THMQI_POLICY_FIXED ? UINT64_MAX
										      : 10000);
		feed(&p, 3000, 1000);
		feed(&p, UINT64_MAX - 1, 10);
		feed(&p, 900000000, 1000);
		thmqi_policy_cap(&p, INFINITY, 0.5);
		thmqi_policy_cap(&p, NAN, 0.5);
		thmqi_policy_cap(&p, 0, 0.5);
	}
}

Test(forecast_policy, a_cap_takes_the_worth_of_latency_back_and_gives_it_again)
{
	struct thmqi_policy p = make(THMQI_POLICY_SKI);

	for (int i = 0; i < 100; i++)
		thmqi_policy_cap(&p, 0.9, 0.5);
	cr_assert_leq(thmqi_policy_budget_ns(&p), 4010,
		      "what is left is the CPU that a sleep costs");
	for (int i = 0; i < 100; i++)
		thmqi_policy_cap(&p, 0.1, 0.5);
	cr_assert_eq(thmqi_policy_budget_ns(&p), 10000);
}

Test(forecast_policy, a_cap_leaves_nothing_of_ski_and_little_of_the_longest_fixed_budget)
{
	struct thmqi_policy_costs endless = costs;
	struct thmqi_policy p = make(THMQI_POLICY_SKI);

	for (int i = 0; i < 100; i++)
		thmqi_policy_cap(&p, 0.9, 0.5);
	cr_assert_leq(thmqi_policy_budget_ns(&p), 100, "it would spin through gaps that are shorter");
	p = make(THMQI_POLICY_SKI);
	for (int i = 0; i < 100; i++)
		thmqi_policy_cap(&p, INFINITY, 0.5); /* others want the processor: what a sleep takes of it is still saved */
	cr_assert(thmqi_policy_budget_ns(&p) >= 4000 && thmqi_policy_budget_ns(&p) <= 4010);
	endless.spin_max_ns = (double)UINT64_MAX;
	thmqi_policy_init(&p, THMQI_POLICY_FIXED, &endless);
	for (int i = 0; i < 300; i++)
		thmqi_policy_cap(&p, 0.9, 0.5);
	cr_assert_leq(thmqi_policy_budget_ns(&p), 1001);
	for (int i = 0; i < 400; i++)
		thmqi_policy_cap(&p, 0.1, 0.5);
	cr_assert_eq(thmqi_policy_budget_ns(&p), UINT64_MAX);
}
