/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_duty_race_test.c - a core's statistics are read and reset by other threads while it works and sleeps in turn: what belongs
 * together is seen together, and no time is seen twice. A plain program, so that it also runs under the thread sanitizer. Exit 0: passed.
 */
#include <pthread.h>
#include <stdio.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define READERS 2u
#define MS 1000000ull
#define RUN_NS (1500 * MS)

static struct thmq_core *core;
static _Atomic bool over;
static _Atomic uint32_t wrong;

static uint64_t real_ns(void)
{
	return thmqi_clock_real.now_ns(NULL);
}

static void expect(bool holds, const char *what, uint64_t a, uint64_t b)
{
	if (!holds && atomic_fetch_add(&wrong, 1) < 5)
		printf("%s: %llu, %llu\n", what, (unsigned long long)a, (unsigned long long)b);
}

/* Each stays within what the clock says by itself: a sleep that is seen twice makes the sum greater than the time. */
static void *read_all(void *arg)
{
	struct thmq_core_stats s = {.size = sizeof(s)};
	uint32_t i, n = 0;

	while (!atomic_load(&over)) {
		uint64_t parts = 0, all;

		thmq_core_stats(core, &s);
		all = s.busy_ns + s.idle_ns + s.slept_ns + s.away_ns + s.current_ns;
		/* an iteration or two may end between one word and the next */
		expect(all < s.counted_ns + 3 * MS || s.longest_ns > MS, "time", all, s.counted_ns);
		for (i = 0; i < THMQ_CORE_PHASES; i++)
			parts += s.longest_phase_ns[i];
		expect(parts <= s.longest_ns, "phases", parts, s.longest_ns);
		expect(s.longest_poller_ns <= parts, "poller", s.longest_poller_ns, parts);
		expect(parts == 0 || s.longest_at_ns != 0, "when", parts, s.longest_at_ns);
		n++;
	}
	*(uint32_t *)arg = n;
	return NULL;
}

struct worker {
	struct thmqi_poller poller; /* first */
	struct thmqi_timer timer;
	uint32_t rounds;
};

static int work(struct thmqi_poller *p, uint32_t budget)
{
	struct worker *w = (struct worker *)p;

	(void)budget;
	if (w->rounds == 0)
		return 0;
	w->rounds--;
	return 1;
}

/* A time of work, a time of sleep. */
static void again(struct thmqi_timer *t)
{
	struct worker *w = thmqi_container(t, struct worker, timer);

	w->rounds = 100;
	thmqi_timer_start(core, t, core->now_ns + MS);
}

static int begin(struct thmq_core *c, void *arg)
{
	struct worker *w = arg;

	thmqi_core_add_poller(c, &w->poller);
	again(&w->timer);
	return 0;
}

static int end(struct thmq_core *c, void *arg)
{
	struct worker *w = arg;

	thmqi_core_remove_poller(c, &w->poller);
	thmqi_timer_stop(c, &w->timer);
	return 0;
}

int main(void)
{
	struct worker w = {.poller = {.poll = work, .name = "worker"}, .timer.fire = again};
	uint32_t i, resets = 0, reads[READERS];
	pthread_t threads[READERS];
	struct thmq_env *env;
	uint64_t until;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
					      .policy = THMQ_POLICY_EVENT)) != 0)
		return 1;
	core = thmq_env_core(env, 0);
	if (thmq_core_call(core, begin, &w, 1000 * MS) != 0)
		return 1;
	for (i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, read_all, &reads[i]);
	until = real_ns() + RUN_NS;
	while (real_ns() < until) {
		thmq_core_stats_detail(core, (int)(++resets % 2));
		expect(thmq_core_stats_reset(core, 10000 * MS) == 0, "reset", 0, 0);
		usleep(2000);
	}
	atomic_store(&over, true);
	for (i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	thmq_core_call(core, end, &w, 1000 * MS);
	thmq_env_close(env, 1000 * MS);
	printf("%u and %u reads, %u resets, %u wrong\n", reads[0], reads[1], resets,
	       atomic_load(&wrong));
	return atomic_load(&wrong) != 0 || reads[0] == 0;
}
