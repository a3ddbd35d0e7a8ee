/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - a core's policy, between the loop, which has the clock, and lib/forecast/policy.c, which has the rules: gaps and outcomes go
 * in, budgets come out. Each tick it looks at what the core uses of its processor, and whether others want that too.
 */
#include <math.h>
#include <sys/resource.h>

#include "internal.h"
#include "predict.h"

#define FIXED_NS 20000u
#define SPIN_MAX_NS 1000000u
#define WORTH 10u
#define WORTH_MAX 100000u
#define WAKE_MAX_NS 1000000000u
#define TICK_NS 10000000u
#define NO_CAP 1e9
#define CPU_EVERY 8u /* sleeps: of so many one is measured, which takes two system calls */
/* Where time is not the machine's it must not be measured. */
#define WAKE_CPU_NS 2500u
#define WAKE_LATENCY_NS 4500u

_Static_assert((int)THMQ_POLICY_POLL == THMQI_POLICY_POLL + 1 &&
		       (int)THMQ_POLICY_PREDICTIVE == THMQI_POLICY_PREDICTIVE + 1,
	       "the same, but for the default");

/* ---------------------------------------------------------- options, opening */

uint32_t thmqi_polling_policy(uint32_t policy)
{
	return policy == THMQ_POLICY_DEFAULT ? (uint32_t)THMQ_POLICY_ADAPTIVE : policy;
}

int thmqi_polling_check(const struct thmq_env_opts *o)
{
	if (o->policy > THMQ_POLICY_PREDICTIVE)
		return thmqi_fail(-EINVAL, "environment: unknown policy %u", o->policy);
	if (o->cpu_cap_percent > 100)
		return thmqi_fail(-EINVAL, "environment: cpu_cap_percent is 1 … 100, not %u",
				  o->cpu_cap_percent);
	if (o->cpu_cap_percent && o->policy == THMQ_POLICY_POLL)
		return thmqi_fail(
			-EINVAL,
			"environment: under THMQ_POLICY_POLL a core never sleeps; cpu_cap_percent "
			"needs another policy");
	if (o->latency_worth > WORTH_MAX)
		return thmqi_fail(-EINVAL, "environment: latency_worth is at most %u", WORTH_MAX);
	if (o->wake_cpu_ns > WAKE_MAX_NS || o->wake_latency_ns > WAKE_MAX_NS)
		return thmqi_fail(
			-EINVAL,
			"environment: wake_cpu_ns and wake_latency_ns are at most a second");
	return 0;
}

static bool weighs(uint32_t policy)
{
	return thmqi_polling_policy(policy) >= THMQ_POLICY_SKI;
}

static bool is_real(const struct thmqi_world *world)
{
	return world->clock == &thmqi_clock_real && !world->idle;
}

void thmqi_polling_rules(const struct thmq_env_opts *o, const struct thmqi_world *world,
			 struct polling_rules *ret)
{
	uint64_t cpu = WAKE_CPU_NS, latency = WAKE_LATENCY_NS,
		 most = weighs(o->policy) ? SPIN_MAX_NS : FIXED_NS;

	if (weighs(o->policy) && is_real(world) && !(o->wake_cpu_ns && o->wake_latency_ns))
		thmqi_calibrate(&cpu, &latency);
	ret->costs = (struct thmqi_policy_costs){
		.wake_cpu_ns = (double)(o->wake_cpu_ns ? o->wake_cpu_ns : cpu),
		.wake_latency_ns = (double)(o->wake_latency_ns ? o->wake_latency_ns : latency),
		.omega = o->latency_worth ? o->latency_worth : WORTH,
		.spin_max_ns = (double)(o->spin_ns ? o->spin_ns : most)};
	ret->told_latency = o->wake_latency_ns != 0;
	ret->told_cpu = o->wake_cpu_ns != 0;
	ret->share_max = o->cpu_cap_percent ? o->cpu_cap_percent / 100.0 : NO_CAP;
}

static void tell_round(struct loop *l)
{
	__atomic_store_n(&l->polling.told_round_ns, l->duty.round_ns, __ATOMIC_RELAXED);
}

/* Where something is new: not for every wait. */
static __attribute__((noinline)) void publish(struct loop *l, uint64_t budget)
{
	const struct thmqi_policy *p = &l->polling.policy;
	uint32_t id = p->kind + 1;

	if (id == THMQ_POLICY_PREDICTIVE && !thmqi_policy_follows_forecast(p))
		id = THMQ_POLICY_ADAPTIVE;
	__atomic_store_n(&l->polling.told_budget_ns, budget, __ATOMIC_RELAXED);
	__atomic_store_n(&l->polling.told_policy, id, __ATOMIC_RELAXED);
	__atomic_store_n(&l->polling.told_latency_ns, (uint32_t)p->costs.wake_latency_ns,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&l->polling.told_cpu_ns, (uint32_t)p->costs.wake_cpu_ns, __ATOMIC_RELAXED);
}

void thmqi_polling_open(struct loop *l)
{
	const struct polling_rules *rules = &l->core.env->polling;
	uint32_t id = thmqi_polling_policy(l->core.env->opts.policy);
	struct polling *p = &l->polling;

	thmqi_policy_init(&p->policy, id - 1, &rules->costs);
	p->never_sleeps = id == THMQ_POLICY_POLL;
	p->learns = id == THMQ_POLICY_ADAPTIVE || id == THMQ_POLICY_PREDICTIVE;
	p->has_thread = is_real(l->core.world);
	p->learns_wake = p->has_thread && weighs(id) && !rules->told_latency;
	p->learns_cpu = p->has_thread && weighs(id) && !rules->told_cpu;
	p->share_max = rules->share_max;
	p->crowded = rules->crowded && weighs(id);
	if (p->crowded)
		/* it spins for no longer than a sleep takes of the processor that others want */
		p->policy.omega = rules->costs.omega * THMQI_POLICY_WORTH_MIN;
	thmqi_policy_reckon(&p->policy);
	p->tick_ns =
		weighs(id) || (id == THMQ_POLICY_FIXED && p->share_max < NO_CAP) ? 0 : UINT64_MAX;
	publish(l, thmqi_policy_budget_ns(&p->policy));
}

/* --------------------------------------------------------------------- ticks */

/* Those of the thread that had to go though it wanted to run: somebody else needs its processor. */
static uint64_t involuntary_switches(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_nivcsw : 0;
}

/* What came between two looks. Counters may have been set back in between. */
static uint64_t since(uint64_t *last, uint64_t now)
{
	uint64_t n = now >= *last ? now - *last : now;

	*last = now;
	return n;
}

/* Time spent in iterations, and in falling asleep and waking up, which is not in the account. */
static double share_used(struct loop *l, double elapsed)
{
	struct polling *p = &l->polling;
	uint64_t used = 0, sleeps = l->duty.stats.sleeps;
	const struct loop *m;

	for (m = l; m; m = m->mates)
		used += m->duty.stats.busy_ns + m->duty.stats.idle_ns;
	used = since(&p->ticked_used_ns, used);
	sleeps = since(&p->ticked_sleeps, sleeps);
	return ((double)used + (double)sleeps * p->policy.costs.wake_cpu_ns) / elapsed;
}

static void tick(struct loop *l, uint64_t now)
{
	struct polling *p = &l->polling;
	uint64_t elapsed = now - p->ticked_ns;
	double share = share_used(l, (double)THMQI_MAX(elapsed, 1u));
	uint64_t switches = p->has_thread ? involuntary_switches() : 0;
	bool first = !p->ticked_ns;

	switches = since(&p->ticked_switches, switches);
	p->ticked_ns = now;
	p->tick_ns = now + TICK_NS;
	if (!first) {
		/* one such switch in each tick is no accident */
		bool wanted = switches * TICK_NS >= elapsed;

		thmqi_policy_cap(&p->policy, p->crowded || wanted ? INFINITY : share, p->share_max);
	}
	if (p->predict)
		thmqi_predict_tick(l, now);
}

/* --------------------------------------------------------------------- waits */

static void count(uint64_t *word)
{
	__atomic_store_n(word, *word + 1, __ATOMIC_RELAXED);
}

/* Who spins for longer than a tick has its share looked at meanwhile, or no cap would hold for who spins without end. */
static uint64_t spin_end(struct polling *p, uint64_t budget)
{
	p->end_ns = budget > UINT64_MAX - p->began_ns ? UINT64_MAX : p->began_ns + budget;
	return budget > TICK_NS ? THMQI_MIN(p->end_ns, p->tick_ns) : p->end_ns;
}

uint64_t thmqi_polling_begin(struct loop *l, uint64_t now)
{
	const struct thmqi_world *world = l->core.world;
	struct polling *p = &l->polling;
	uint64_t budget;

	if (thmqi_unlikely(now >= p->tick_ns)) {
		tick(l, now);
		publish(l, thmqi_policy_budget_ns(&p->policy));
	}
	budget = thmqi_policy_budget_ns(&p->policy);
	if (thmqi_unlikely(budget != p->told_budget_ns))
		publish(l, budget);
	tell_round(l);
	p->seen_ns = now;
	p->began_ns = now - THMQI_MIN(p->carried_ns, now);
	p->slept = false;
	if (world->idle && !world->spins)
		return 0;
	return spin_end(p, budget);
}

uint64_t thmqi_polling_still(struct loop *l, uint64_t now)
{
	struct polling *p = &l->polling;

	if (now >= p->end_ns)
		return 0;
	tick(l, now);
	publish(l, thmqi_policy_budget_ns(&p->policy));
	return spin_end(p, thmqi_policy_budget_ns(&p->policy));
}

/* What was measured at the open, perhaps while others wanted the processor, does not stay for life. */
void thmqi_polling_sleeps(struct loop *l)
{
	struct polling *p = &l->polling;

	p->cpu_ns = p->learns_cpu && l->core.sleeps % CPU_EVERY == 0 ? thmqi_thread_cpu_ns() : 0;
}

static void learn_cpu(struct polling *p)
{
	thmqi_policy_cost(&p->policy, thmqi_thread_cpu_ns() - p->cpu_ns);
	p->cpu_ns = 0;
}

void thmqi_polling_slept(struct loop *l, uint64_t from)
{
	uint64_t now = thmqi_loop_read_clock(l), woken,
		 late = (uint64_t)l->polling.policy.costs.wake_latency_ns;

	if (thmqi_unlikely(l->polling.cpu_ns))
		learn_cpu(&l->polling);
	l->polling.slept = true;
	l->polling.seen_ns = THMQI_MAX(from, now - THMQI_MIN(late, now));
	if (!l->polling.learns_wake)
		return;
	woken = atomic_load_explicit(&l->woken_ns, memory_order_relaxed);
	/* by a thread, and while it slept; who came before that found it on its way */
	if (woken > from && woken <= now) {
		l->polling.seen_ns = woken;
		thmqi_policy_woke(&l->polling.policy, now - woken);
	}
}

void thmqi_polling_end(struct loop *l, bool found)
{
	struct polling *p = &l->polling;
	uint64_t gap = p->seen_ns - THMQI_MIN(p->began_ns, p->seen_ns);

	if (!found && !p->slept) {
		p->carried_ns = gap;
		return;
	}
	p->carried_ns = 0;
	count(p->slept ? &l->duty.stats.spin_misses : &l->duty.stats.spin_hits);
	if (p->learns)
		thmqi_policy_report(&p->policy, gap, !p->slept);
}

void thmqi_polling_stats(const struct loop *l, struct thmq_core_stats *ret)
{
	const struct polling *p = &l->polling;
	uint64_t round_ns = __atomic_load_n(&p->told_round_ns, __ATOMIC_RELAXED);

	ret->policy = __atomic_load_n(&p->told_policy, __ATOMIC_RELAXED);
	ret->budget_ns = __atomic_load_n(&p->told_budget_ns, __ATOMIC_RELAXED);
	ret->retries = ret->budget_ns == UINT64_MAX ? UINT64_MAX
		       : round_ns                   ? ret->budget_ns / round_ns
						    : 0;
	ret->wake_cpu_ns = __atomic_load_n(&p->told_cpu_ns, __ATOMIC_RELAXED);
	ret->wake_latency_ns = __atomic_load_n(&p->told_latency_ns, __ATOMIC_RELAXED);
	if (p->predict)
		thmqi_predict_stats(p->predict, ret);
}
