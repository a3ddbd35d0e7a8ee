/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_duty_test.c - what a core says of its time, under a clock that moves only when the test says so: sources burn a known time,
 * and it has to be found again, whole, and under their name.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define US 1000ull
#define MS 1000000ull

/* A source that takes a time in each call, and a longer one in some. */
struct burner {
	struct thmqi_poller poller; /* first */
	uint64_t each_ns, slow_ns;
	uint32_t slow_every; /* calls; 0: never */
	uint32_t calls;
	int says;
	bool leaves; /* takes itself out in its next call */
};

static uint64_t virtual_ns;
static struct thmq_env *env;
static struct thmq_core *core;
static struct thmq_core_stats stats;

static uint64_t now(void *ctx)
{
	(void)ctx;
	return virtual_ns;
}

static int idle(void *ctx, uint64_t timeout_ns)
{
	(void)ctx;
	virtual_ns += timeout_ns;
	return 0;
}

static const struct thmqi_clock test_clock = {.now_ns = now, .wall_ns = now};
static const struct thmqi_world sleeping = {.clock = &test_clock, .idle = idle, .seed = 7};
static const struct thmqi_world spinning = {.clock = &test_clock, .seed = 7};

static void open_env(const struct thmqi_world *world)
{
	virtual_ns = 1000 * MS;
	cr_assert_eq(thmqi_env_open(
			     THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING, .policy = THMQ_POLICY_POLL),
			     world, &env),
		     0);
	core = thmqi_env_core(env, 0);
}

static int burn(struct thmqi_poller *p, uint32_t budget)
{
	struct burner *b = (struct burner *)p;

	(void)budget;
	virtual_ns += b->each_ns;
	if (b->slow_every && ++b->calls % b->slow_every == 0)
		virtual_ns += b->slow_ns;
	if (b->leaves)
		thmqi_core_remove_poller(core, p);
	return b->says;
}

static void burn_in_finish(struct thmqi_poller *p)
{
	virtual_ns += ((struct burner *)p)->slow_ns;
}

static void add(struct burner *b, const char *name)
{
	b->poller.poll = burn;
	b->poller.name = name;
	thmqi_core_add_poller(core, &b->poller);
}

static uint64_t sum(const uint64_t *words, uint32_t count)
{
	uint64_t n = 0;

	while (count--)
		n += *words++;
	return n;
}

/* Whatever happened: no time is lost, none is counted twice, and each iteration has a length. */
static void read_stats(void)
{
	memset(&stats, 0xa5, sizeof(stats));
	thmqi_core_stats(core, &stats);
	cr_assert_eq(stats.busy_ns + stats.idle_ns + stats.slept_ns + stats.away_ns +
			     stats.current_ns,
		     stats.counted_ns);
	cr_assert_eq(sum(stats.lengths, THMQ_CORE_LENGTHS), stats.iterations);
}

static void detail(void)
{
	thmqi_core_stats_detail(core, true);
	thmqi_core_stats_reset(core);
}

TestSuite(reactor_duty, .timeout = 30);

Test(reactor_duty, time_is_busy_idle_slept_or_away)
{
	struct burner b = {.each_ns = 3 * US, .says = 1};

	open_env(&sleeping);
	add(&b, "burner");
	thmqi_core_stats_reset(core);
	thmqi_core_poll(core, 0);
	virtual_ns += 7 * US; /* the host does something else */
	b.says = 0;
	b.each_ns = 0;
	thmqi_core_poll(core, 100 * US); /* there is nothing: it sleeps */
	virtual_ns += 20 * US;
	read_stats();
	cr_assert_eq(stats.busy_ns, 3 * US);
	cr_assert_eq(stats.busy_iterations, 1);
	cr_assert_eq(stats.slept_ns, 100 * US);
	cr_assert_eq(stats.away_ns, 27 * US, "up to now");
	cr_assert_eq(stats.idle_ns, 0);
	cr_assert_eq(stats.current_ns, 0);
	cr_assert_eq(stats.counted_ns, 130 * US);
	cr_assert_eq(stats.longest_ns, 3 * US);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, spinning_is_idle_and_its_iterations_have_their_length)
{
	struct burner b = {.each_ns = 50};

	open_env(&spinning);
	add(&b, "burner");
	thmqi_core_stats_reset(core);
	thmqi_core_poll(core, 160 * US);
	read_stats();
	cr_assert_eq(stats.busy_ns, 0);
	cr_assert_geq(stats.idle_ns, 160 * US);
	cr_assert_eq(stats.lengths[5], stats.iterations, "all of 32 to 63 ns");
	cr_assert_eq(stats.longest_ns, 50);
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* Has something in one of the next rounds: whichever it is since the last look at the clock. */
struct late {
	struct thmqi_poller poller; /* first */
	uint32_t in_rounds;
};

static int work_late(struct thmqi_poller *p, uint32_t budget)
{
	struct late *l = (struct late *)p;

	(void)budget;
	if (!l->in_rounds || --l->in_rounds)
		return 0;
	virtual_ns += 5 * US;
	return 1;
}

Test(reactor_duty, a_busy_iteration_among_idle_ones_has_its_own_length)
{
	struct burner spin = {.each_ns = 50};
	struct late work = {.poller.poll = work_late};
	uint32_t i;

	open_env(&spinning);
	add(&spin, "spin");
	thmqi_core_poll(core, 10 * US);
	thmqi_core_stats_reset(core);
	thmqi_core_add_poller(core, &work.poller);
	for (i = 0; i < 100; i++) {
		work.in_rounds = 1 + i % 40;
		cr_assert_eq(thmqi_core_poll(core, MS), 1);
	}
	read_stats();
	cr_assert_gt(stats.iterations, 1000);
	cr_assert_eq(stats.busy_iterations, 100);
	cr_assert_eq(stats.busy_ns, 100 * (5 * US + 50));
	cr_assert_eq(stats.longest_ns, 5 * US + 50);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, one_slow_idle_iteration_is_told_from_its_neighbours)
{
	struct burner b = {.each_ns = 50, .slow_ns = 400 * US, .slow_every = 1000};

	open_env(&spinning);
	add(&b, "burner");
	thmqi_core_stats_reset(core);
	thmqi_core_poll(core, 2 * MS);
	read_stats();
	cr_assert_geq(stats.longest_ns, 400 * US);
	cr_assert_leq(stats.longest_ns, 400 * US + 100, "%llu",
		      (unsigned long long)stats.longest_ns);
	cr_assert_eq(stats.lengths[18], b.calls / 1000, "each one of them is seen");
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, many_middling_idle_iterations_are_not_taken_for_a_long_one)
{
	struct burner b = {.each_ns = 10 * US};

	open_env(&spinning);
	add(&b, "burner");
	thmqi_core_stats_reset(core);
	thmqi_core_poll(core, 2 * MS);
	read_stats();
	cr_assert_eq(stats.longest_ns, 10 * US);
	cr_assert_eq(stats.lengths[13], stats.iterations);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, a_source_that_burns_time_is_found_by_its_name)
{
	struct burner quick = {.each_ns = 100},
		      slow = {.each_ns = 200, .slow_ns = 5 * MS, .slow_every = 10},
		      last = {.each_ns = 300};
	uint32_t i;

	open_env(&spinning);
	add(&quick, "quick");
	add(&slow, "slow");
	add(&last, NULL);
	detail();
	for (i = 0; i < 25; i++)
		thmqi_core_poll(core, 0);
	read_stats();
	cr_assert_eq(stats.detailed, 1);
	cr_assert_eq(stats.detailed_iterations, 25);
	cr_assert_eq(stats.longest_ns, 5 * MS + 600);
	cr_assert_str_eq(stats.longest_poller, "slow");
	cr_assert_eq(stats.longest_poller_ns, 5 * MS + 200);
	cr_assert_eq(stats.longest_phase_ns[THMQ_PHASE_POLLERS], 5 * MS + 600);
	cr_assert_eq(sum(stats.longest_phase_ns, THMQ_CORE_PHASES), stats.longest_ns);
	cr_assert_eq(stats.phase_ns[THMQ_PHASE_POLLERS], 2 * 5 * MS + 25 * 600);
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, the_longest_is_right_without_detail_and_has_no_parts_then)
{
	struct burner slow = {.each_ns = 5 * MS, .says = 1};
	uint32_t i;

	open_env(&spinning);
	add(&slow, "slow");
	detail();
	thmqi_core_poll(core, 0);
	thmqi_core_stats_detail(core, false);
	slow.each_ns = 6 * MS;
	thmqi_core_poll(core, 0);
	read_stats();
	cr_assert_eq(stats.detailed, 0);
	cr_assert_eq(stats.longest_ns, 6 * MS);
	cr_assert_eq(stats.longest_at_ns, virtual_ns);
	cr_assert_str_eq(stats.longest_poller, "");
	cr_assert_eq(stats.longest_poller_ns, 0);
	for (i = 0; i < THMQ_CORE_PHASES; i++)
		cr_assert_eq(stats.longest_phase_ns[i], 0);
	cr_assert_eq(stats.detailed_iterations, 1);
	cr_assert_eq(thmqi_env_close(env), 0);
}

static void burn_task(struct thmq_core *c, struct thmqi_task *task)
{
	(void)c;
	(void)task;
	virtual_ns += 3 * MS;
}

static void burn_timer(struct thmqi_timer *t)
{
	(void)t;
	virtual_ns += 4 * MS;
}

Test(reactor_duty, tasks_timers_and_finishes_are_phases_of_their_own)
{
	struct burner b = {.slow_ns = 2 * MS};
	struct thmqi_task task = {.run = burn_task};
	struct thmqi_timer timer = {.fire = burn_timer};

	open_env(&spinning);
	b.poller.finish = burn_in_finish;
	add(&b, "finisher");
	detail();
	thmqi_core_post(core, &task);
	thmqi_timer_start(core, &timer, 1);
	thmqi_core_poll(core, 0);
	read_stats();
	cr_assert_eq(stats.longest_ns, 9 * MS);
	cr_assert_eq(stats.longest_phase_ns[THMQ_PHASE_POSTS], 3 * MS);
	cr_assert_eq(stats.longest_phase_ns[THMQ_PHASE_TIMERS], 4 * MS);
	cr_assert_eq(stats.longest_phase_ns[THMQ_PHASE_FINISH], 2 * MS);
	cr_assert_str_eq(stats.longest_poller, "finisher");
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, a_source_that_leaves_in_its_call_leaves_its_name)
{
	char name[] = "leaver";
	struct burner b = {.each_ns = MS, .says = 1, .leaves = true};

	open_env(&spinning);
	add(&b, name);
	detail();
	thmqi_core_poll(core, 0);
	memset(name, 'x', sizeof(name) - 1);
	thmqi_core_poll(core, 0);
	read_stats();
	cr_assert_str_eq(stats.longest_poller, "leaver");
	cr_assert_eq(thmqi_env_close(env), 0);
}

Test(reactor_duty, a_reset_begins_anew_also_from_within_an_iteration)
{
	struct burner b = {.each_ns = 7 * US, .says = 1};

	open_env(&spinning);
	add(&b, "burner");
	thmqi_core_poll(core, 0);
	virtual_ns += 100 * US;
	thmqi_core_stats_reset(core);
	b.each_ns = US;
	thmqi_core_poll(core, 0);
	read_stats();
	cr_assert_eq(stats.longest_ns, US);
	cr_assert_eq(stats.iterations, 1);
	cr_assert_eq(stats.busy_ns, US);
	cr_assert_eq(stats.away_ns, 100 * US, "since the last look at the clock");
	cr_assert_eq(thmqi_env_close(env), 0);
}

/* -------------------------------------------------- threads, and the real clock */

struct stall {
	struct thmqi_poller poller; /* first */
	_Atomic uint32_t state;     /* 1: stall, 2: it does, 3: go on */
};

static int stall(struct thmqi_poller *p, uint32_t budget)
{
	struct stall *s = (struct stall *)p;
	uint32_t asked = 1;

	(void)budget;
	if (!atomic_compare_exchange_strong(&s->state, &asked, 2))
		return 0;
	while (atomic_load(&s->state) == 2)
		usleep(1000);
	return 1;
}

static int add_stall(struct thmq_core *c, void *arg)
{
	struct stall *s = arg;

	thmqi_core_add_poller(c, &s->poller);
	return 0;
}

static int remove_stall(struct thmq_core *c, void *arg)
{
	thmqi_core_remove_poller(c, arg);
	return 0;
}

static uint64_t real_sum(struct thmq_core *c)
{
	thmqi_core_stats(c, &stats);
	return stats.busy_ns + stats.idle_ns + stats.slept_ns + stats.away_ns + stats.current_ns;
}

Test(reactor_duty, a_stuck_core_and_a_sleeping_one_are_seen_from_outside)
{
	struct stall s = {.poller.poll = stall, .poller.name = "stall"};
	uint64_t slept;

	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN), NULL,
				    &env),
		     0);
	core = thmqi_env_core(env, 0);
	cr_assert_eq(thmqi_core_call(core, add_stall, &s, 1000 * MS), 0);
	while (!atomic_load(&core->sleeping))
		usleep(1000);
	thmqi_core_stats(core, &stats);
	slept = stats.slept_ns;
	usleep(20000);
	thmqi_core_stats(core, &stats);
	cr_assert_geq(stats.slept_ns - slept, 15 * MS, "the sleep that lasts is counted");
	atomic_store(&s.state, 1);
	thmqi_core_wake(core);
	while (atomic_load(&s.state) != 2)
		usleep(1000);
	usleep(20000);
	thmqi_core_stats(core, &stats);
	cr_assert_geq(stats.current_ns, 15 * MS, "the iteration that does not end");
	atomic_store(&s.state, 3);
	cr_assert_eq(thmqi_core_call(core, remove_stall, &s, 1000 * MS), 0);
	while (!atomic_load(&core->sleeping))
		usleep(1000);
	thmqi_core_stats(core, &stats);
	cr_assert_geq(stats.longest_ns, 15 * MS);
	cr_assert_eq(real_sum(core), stats.counted_ns);
	cr_assert_eq(thmqi_env_close(env), 0);
}
