/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_wheel_test.c - the timer wheel against a model that is too simple to be wrong: an array of deadlines. Starts, restarts and
 * stops by chance, over distances from nanoseconds to centuries, from outside and from callbacks, while the clock creeps or jumps. And
 * how often a core wakes for its timers, and what a million of them do.
 */
#include <criterion/criterion.h>

#include "reactor/reactor.h"

#define TIMERS 300u
#define TICK 1024u /* ns */
#define HOUR_NS (3600ull * 1000000000u)

struct entry {
	struct thmqi_timer timer; /* first */
	uint64_t due;             /* the model: 0 not running */
	uint32_t fired;
};

static struct entry entries[TIMERS];
static uint64_t virtual_ns;
static uint32_t idles;
static struct thmq_env *env;
static struct thmq_core *core;
static struct thmqi_prng prng;
static uint32_t early, unexpected, fired_in_all;

static uint64_t now(void *ctx)
{
	(void)ctx;
	return virtual_ns;
}

static int idle(void *ctx, uint64_t timeout_ns)
{
	(void)ctx;
	idles++;
	virtual_ns += timeout_ns;
	return 0;
}

static void open_at(uint64_t ns)
{
	static const struct thmqi_clock clock = {.now_ns = now, .wall_ns = now};
	static const struct thmqi_world world = {.clock = &clock, .idle = idle, .seed = 7};

	virtual_ns = ns;
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING), &world, &env), 0);
	core = thmqi_env_core(env, 0);
}

static void open_env(void)
{
	open_at(123456789012345ull);
}

static void close_env(void)
{
	cr_assert_eq(thmqi_env_close(env), 0);
}

TestSuite(reactor_wheel, .init = open_env, .fini = close_env, .timeout = 60);

/* As many bits as chance gives, up to @bits: every order of magnitude is as likely. */
static uint64_t some(uint32_t bits)
{
	return thmqi_prng_next(&prng) >> (63 - thmqi_prng_below(&prng, bits));
}

static uint64_t some_deadline(void)
{
	uint64_t distance = some(thmqi_prng_below(&prng, 8) ? 36 : 64);

	switch (thmqi_prng_below(&prng, 16)) {
	case 0:
		return virtual_ns - THMQI_MIN(distance, virtual_ns - 1); /* in the past */
	case 1:
		return UINT64_MAX - thmqi_prng_below(&prng, 3);
	case 2: /* on the edge of a slot */
		return (virtual_ns + distance) &
		       ~((1ull << (10 + 6 * thmqi_prng_below(&prng, 4))) - 1);
	default:
		return virtual_ns > UINT64_MAX - distance ? UINT64_MAX : virtual_ns + distance;
	}
}

static void start(struct entry *e, uint64_t deadline)
{
	thmqi_timer_start(core, &e->timer, deadline);
	e->due = THMQI_MAX(deadline, 1u);
}

static void stop(struct entry *e)
{
	thmqi_timer_stop(core, &e->timer);
	e->due = 0;
}

static void one_step(void)
{
	struct entry *e = &entries[thmqi_prng_below(&prng, TIMERS)];

	if (thmqi_prng_below(&prng, 3) == 0)
		stop(e);
	else
		start(e, some_deadline());
}

static uint64_t tick_of(uint64_t ns)
{
	return ns / TICK + (ns % TICK != 0);
}

static void on_fire(struct thmqi_timer *t)
{
	struct entry *e = (struct entry *)t;

	fired_in_all++;
	unexpected += !e->due || thmqi_timer_is_running(t);
	early += e->due > core->now_ns;
	e->due = 0;
	e->fired++;
	if (thmqi_prng_below(&prng, 3) == 0)
		one_step();
	if (thmqi_prng_below(&prng, 4) == 0)
		start(e, some_deadline());
}

/* All that the model has due by now is gone, all else is there; and the wheel knows when it comes next. */
static void compare(void)
{
	uint32_t i;

	for (i = 0; i < TIMERS; i++) {
		struct entry *e = &entries[i];

		cr_assert_eq(thmqi_timer_is_running(&e->timer), e->due != 0, "timer %u", i);
		cr_assert(!e->due || tick_of(e->due) > virtual_ns / TICK,
			  "timer %u is late: due %llu, now %llu", i, (unsigned long long)e->due,
			  (unsigned long long)virtual_ns);
	}
}

static void play(uint64_t seed, uint32_t rounds, uint32_t jump_bits)
{
	uint32_t round, i;

	thmqi_prng_seed(&prng, seed);
	for (i = 0; i < TIMERS; i++)
		entries[i].timer.fire = on_fire;
	for (round = 0; round < rounds; round++) {
		uint64_t jump = some(jump_bits);

		for (i = (uint32_t)thmqi_prng_below(&prng, 20); i; i--)
			one_step();
		if (virtual_ns < UINT64_MAX / 2)
			virtual_ns += jump;
		/* a callback may always start another that is due: some rounds settle it */
		for (i = 0; i < 1000 && thmqi_core_poll(core, 0) > 0; i++)
			continue;
		cr_assert_lt(i, 1000u);
		compare();
	}
	cr_assert_eq(early, 0u);
	cr_assert_eq(unexpected, 0u);
	cr_assert_gt(fired_in_all, rounds / 4);
	for (i = 0; i < TIMERS; i++)
		stop(&entries[i]);
}

Test(reactor_wheel, does_as_the_model_does_while_the_clock_creeps)
{
	uint64_t seed;

	for (seed = 1; seed <= 8; seed++)
		play(seed, 4000, 14);
}

Test(reactor_wheel, does_as_the_model_does_while_the_clock_jumps)
{
	uint64_t seed;

	for (seed = 1; seed <= 8; seed++)
		play(seed, 4000, 44);
}

Test(reactor_wheel, does_as_the_model_does_from_the_beginning_to_the_end_of_time)
{
	uint64_t seed;

	for (seed = 1; seed <= 200; seed++) {
		close_env();
		open_at(seed % 2 ? 1 : UINT64_MAX - (1ull << (seed % 60 + 1)));
		fired_in_all = 1000;
		play(seed, 60, 62);
	}
}

/* ------------------------------------------------------------------- sleeps */

static void note(struct thmqi_timer *t)
{
	(void)t;
	fired_in_all++;
}

/* The core is polled as a thread of the library does it. */
static void run_until(uint64_t ns)
{
	while (virtual_ns < ns)
		thmqi_core_poll(core, ns - virtual_ns);
}

Test(reactor_wheel, a_timer_in_an_hour_wakes_its_core_once)
{
	struct thmqi_timer t = {.fire = note};

	thmqi_core_poll(core, 0);
	thmqi_timer_start(core, &t, virtual_ns + HOUR_NS);
	run_until(virtual_ns + 2 * HOUR_NS);
	cr_assert_eq(fired_in_all, 1);
	cr_assert_eq(idles, 2, "%u sleeps: one until it, one after it", idles);
}

Test(reactor_wheel, each_of_some_far_timers_wakes_its_core_once)
{
	static struct thmqi_timer t[100];
	uint64_t begin;
	uint32_t i;

	thmqi_core_poll(core, 0);
	begin = virtual_ns;
	for (i = 0; i < 100; i++) {
		t[i].fire = note;
		thmqi_timer_start(core, &t[i],
				  begin + thmqi_prng_below(&core->prng, 100 * HOUR_NS));
	}
	run_until(begin + 101 * HOUR_NS);
	cr_assert_eq(fired_in_all, 100);
	cr_assert_leq(idles, 101);
}

Test(reactor_wheel, timers_that_are_stopped_in_time_wake_it_a_few_times_only)
{
	static struct thmqi_timer t[1000];
	struct thmqi_timer far = {.fire = note};
	uint64_t begin;
	uint32_t i;

	thmqi_core_poll(core, 0);
	begin = virtual_ns;
	thmqi_timer_start(core, &far, begin + HOUR_NS);
	for (i = 0; i < 1000; i++) {
		t[i].fire = note;
		thmqi_timer_start(core, &t[i], begin + HOUR_NS / 2 + i * 1000000ull);
	}
	for (i = 0; i < 1000; i++)
		thmqi_timer_stop(core, &t[i]);
	run_until(begin + HOUR_NS + 2 * TICK);
	cr_assert_eq(fired_in_all, 1);
	cr_assert_leq(idles, 4, "%u sleeps", idles);
}

/* -------------------------------------------------------------------- many */

Test(reactor_wheel, a_million_timers_fire_in_bounded_rounds_after_a_long_suspension)
{
	const uint32_t count = 1000000;
	struct thmqi_timer *t = calloc(count, sizeof(*t));
	uint64_t begin;
	uint32_t i, most = 0, before, rounds = 0;

	thmqi_core_poll(core, 0);
	begin = virtual_ns;
	for (i = 0; i < count; i++) {
		t[i].fire = note;
		thmqi_timer_start(core, &t[i], begin + thmqi_prng_below(&core->prng, 10 * HOUR_NS));
	}
	virtual_ns += 1000 * HOUR_NS;
	do {
		before = fired_in_all;
		rounds++;
		i = (uint32_t)thmqi_core_poll(core, 0);
		most = THMQI_MAX(most, fired_in_all - before);
	} while (i > 0);
	cr_assert_eq(fired_in_all, count);
	cr_assert_leq(most, 256);
	cr_assert_lt(rounds, count / 100);
	free(t);
}

Test(reactor_wheel, a_million_timers_are_stopped_in_any_order)
{
	const uint32_t count = 1000000;
	struct thmqi_timer *t = calloc(count, sizeof(*t));
	uint32_t i, at;

	thmqi_core_poll(core, 0);
	for (i = 0; i < count; i++) {
		t[i].fire = note;
		thmqi_timer_start(core, &t[i], virtual_ns + thmqi_prng_below(&core->prng, HOUR_NS));
	}
	for (i = 0, at = 0; i < count; i++, at = (at + 7919) % count)
		thmqi_timer_stop(core, &t[at]);
	virtual_ns += 2 * HOUR_NS;
	cr_assert_eq(thmqi_core_poll(core, 0), 0);
	cr_assert_eq(fired_in_all, 0);
	free(t);
}
