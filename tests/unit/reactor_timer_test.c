/* SPDX-License-Identifier: Apache-2.0 */
/* reactor_timer_test.c - timers of a core under a clock of the test's own. */
#include <criterion/criterion.h>

#include "reactor/reactor.h"

#define COUNT 1000u
#define TICK 1024u /* ns */

struct alarm {
	struct thmqi_timer timer; /* first */
	uint32_t fired;
	uint64_t every_ns;    /* restarts itself */
	struct alarm *stops;  /* stops this one */
	struct alarm *starts; /* restarts this one at starts_at */
	uint64_t starts_at;
};

static uint64_t virtual_ns = 1000;
static struct thmq_env *env;
static struct thmq_core *core;
static uint64_t last_deadline;
static uint32_t out_of_order, fired_early;

static uint64_t now(void *ctx)
{
	(void)ctx;
	return virtual_ns;
}

static const struct thmqi_clock test_clock = {.now_ns = now, .wall_ns = now};

static void on_alarm(struct thmqi_timer *t)
{
	struct alarm *a = (struct alarm *)t;

	a->fired++;
	out_of_order += t->deadline_ns + TICK <= last_deadline;
	fired_early += t->deadline_ns > core->now_ns;
	last_deadline = t->deadline_ns;
	if (a->every_ns)
		thmqi_timer_start(core, t, t->deadline_ns + a->every_ns);
	if (a->stops)
		thmqi_timer_stop(core, &a->stops->timer);
	if (a->starts)
		thmqi_timer_start(core, &a->starts->timer, a->starts_at);
}

static void open_env(void)
{
	static const struct thmqi_world world = {.clock = &test_clock, .seed = 7};

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(0), &world, &env), 0);
	core = thmqi_env_core(env, 0);
}

static void close_env(void)
{
	cr_assert_eq(thmqi_env_close(env), 0);
}

TestSuite(reactor_timer, .init = open_env, .fini = close_env, .timeout = 30);

/* In as many iterations as it takes. */
static void advance_to(uint64_t ns)
{
	virtual_ns = ns;
	while (thmqi_core_poll(core, 0) > 0)
		continue;
}

Test(reactor_timer, all_fire_once_in_the_order_of_their_deadlines)
{
	static struct alarm alarms[COUNT];
	uint32_t i;

	for (i = 0; i < COUNT; i++) {
		alarms[i].timer.fire = on_alarm;
		thmqi_timer_start(core, &alarms[i].timer,
				  2000 + thmqi_prng_below(&core->prng, 5000));
	}
	advance_to(1999);
	for (i = 0; i < COUNT; i++)
		cr_assert_eq(alarms[i].fired, 0);
	for (; virtual_ns < 8000; virtual_ns += 37)
		thmqi_core_poll(core, 0);
	for (i = 0; i < COUNT; i++)
		cr_assert_eq(alarms[i].fired, 1);
	cr_assert_eq(out_of_order, 0);
	cr_assert_eq(fired_early, 0);
}

Test(reactor_timer, stops_and_restarts_at_random_leave_those_that_run)
{
	static struct alarm alarms[COUNT];
	static uint64_t due[COUNT]; /* 0: stopped */
	uint32_t i, round;

	for (i = 0; i < COUNT; i++)
		alarms[i].timer.fire = on_alarm;
	for (round = 0; round < 20 * COUNT; round++) {
		i = (uint32_t)thmqi_prng_below(&core->prng, COUNT);
		if (thmqi_prng_below(&core->prng, 3) == 0) {
			thmqi_timer_stop(core, &alarms[i].timer);
			due[i] = 0;
		} else {
			due[i] = 2000 + thmqi_prng_below(&core->prng, 1000000);
			thmqi_timer_start(core, &alarms[i].timer, due[i]);
		}
	}
	advance_to(500 * TICK);
	for (i = 0; i < COUNT; i++)
		cr_assert_eq(alarms[i].fired, due[i] && due[i] <= 500 * TICK, "timer %u", i);
	advance_to(2000000);
	for (i = 0; i < COUNT; i++)
		cr_assert_eq(alarms[i].fired, due[i] != 0, "timer %u", i);
	cr_assert_eq(out_of_order, 0);
}

Test(reactor_timer, restarting_moves_the_deadline)
{
	struct alarm a = {.timer.fire = on_alarm};

	thmqi_timer_start(core, &a.timer, 2 * TICK);
	thmqi_timer_start(core, &a.timer, 5 * TICK);
	advance_to(3 * TICK);
	cr_assert_eq(a.fired, 0);
	thmqi_timer_start(core, &a.timer, 4 * TICK);
	advance_to(4 * TICK);
	cr_assert_eq(a.fired, 1);
	advance_to(9000);
	cr_assert_eq(a.fired, 1);
}

Test(reactor_timer, stopping_what_does_not_run_is_harmless)
{
	struct alarm a = {.timer.fire = on_alarm};

	thmqi_timer_stop(core, &a.timer);
	thmqi_timer_start(core, &a.timer, 2000);
	thmqi_timer_stop(core, &a.timer);
	thmqi_timer_stop(core, &a.timer);
	advance_to(3000);
	cr_assert_eq(a.fired, 0);
}

Test(reactor_timer, a_callback_may_stop_one_that_is_due_too)
{
	struct alarm second = {.timer.fire = on_alarm};
	struct alarm first = {.timer.fire = on_alarm, .stops = &second};

	thmqi_timer_start(core, &first.timer, 2000);
	thmqi_timer_start(core, &second.timer, 2001);
	advance_to(3000);
	cr_assert_eq(first.fired, 1);
	cr_assert_eq(second.fired, 0);
}

Test(reactor_timer, a_callback_may_restart_its_own_and_others)
{
	struct alarm other = {.timer.fire = on_alarm};
	struct alarm tick = {.timer.fire = on_alarm,
			     .every_ns = 10 * TICK,
			     .starts = &other,
			     .starts_at = 500 * TICK};
	uint64_t ns;

	thmqi_timer_start(core, &tick.timer, 200 * TICK);
	thmqi_timer_start(core, &other.timer, 205 * TICK);
	for (ns = 200 * TICK; ns < 300 * TICK; ns += TICK)
		advance_to(ns);
	cr_assert_eq(tick.fired, 10);
	cr_assert_eq(other.fired, 0, "moved to 500 by each tick");
	thmqi_timer_stop(core, &tick.timer);
	advance_to(500 * TICK);
	cr_assert_eq(other.fired, 1);
}

Test(reactor_timer, one_that_is_always_due_does_not_hold_the_iteration_up)
{
	struct alarm busy = {.timer.fire = on_alarm, .starts_at = 1};

	busy.starts = &busy;
	virtual_ns = 2 * TICK;
	thmqi_timer_start(core, &busy.timer, 1);
	cr_assert_gt(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(busy.fired, 1);
	cr_assert_gt(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(busy.fired, 2);
	thmqi_timer_stop(core, &busy.timer);
}

Test(reactor_timer, a_firing_timer_is_work_done)
{
	struct alarm a = {.timer.fire = on_alarm};

	thmqi_timer_start(core, &a.timer, 2 * TICK);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	virtual_ns = 2 * TICK - 1;
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	virtual_ns = 2 * TICK;
	cr_assert_eq(thmqi_core_poll(core, 0), 1);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
}

Test(reactor_timer, the_last_possible_deadline_is_never)
{
	struct alarm a = {.timer.fire = on_alarm};

	thmqi_timer_start(core, &a.timer, UINT64_MAX);
	advance_to(UINT64_MAX - 1);
	cr_assert_eq(a.fired, 0);
	thmqi_timer_stop(core, &a.timer);
}

static struct alarm *last_alarm;

static void on_ordered(struct thmqi_timer *t)
{
	out_of_order += (struct alarm *)t <= last_alarm;
	last_alarm = (struct alarm *)t;
}

Test(reactor_timer, those_of_one_tick_fire_in_the_order_of_their_starts_from_every_distance)
{
	static struct alarm alarms[64];
	uint64_t deadline = 1ull << 40;
	uint32_t i, n;

	/* nearer each time, so that they begin on other levels of the wheel */
	for (i = 0; i < 64; i++) {
		alarms[i].timer.fire = on_ordered;
		advance_to(deadline - (deadline >> i));
		thmqi_timer_start(core, &alarms[i].timer, deadline);
		if (deadline >> i <= 4 * TICK)
			break;
	}
	advance_to(deadline - 1);
	for (n = 0; n <= i; n++)
		cr_assert_eq(alarms[n].fired, 0);
	virtual_ns = deadline;
	cr_assert_eq(thmqi_core_poll(core, 0), (int)i + 1, "all in one iteration");
	cr_assert_eq(out_of_order, 0);
}

static void on_free(struct thmqi_timer *t)
{
	struct alarm *a = (struct alarm *)t;

	free(a->stops);
	free(a);
}

Test(reactor_timer, a_callback_may_free_its_own_and_others_that_it_stopped)
{
	struct alarm *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));

	a->timer.fire = on_free;
	a->stops = b; /* does not run any more */
	b->timer.fire = on_alarm;
	thmqi_timer_start(core, &a->timer, 2000);
	thmqi_timer_start(core, &b->timer, 2000);
	thmqi_timer_stop(core, &b->timer);
	advance_to(3000);
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
}
