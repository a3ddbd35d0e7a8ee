/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_policy_race_test.c - cores that wait by every policy, and threads that meet them: tasks come at any distance, from none to some
 * milliseconds, and each goes on from core to core; meanwhile somebody reads the statistics, and sets them back, and a thread forecasts.
 * Every task arrives, whether its core was spinning, falling asleep or asleep. Made for ThreadSanitizer. Exit 0: passed.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define CORES 2u
#define BALLS 4u
#define SECOND 1000000000ull
#define PLAY_NS (400 * 1000000ull) /* some ticks of the forecaster */

static struct thmq_env *env;
static _Atomic uint64_t hops;
static _Atomic bool over;

struct ball {
	struct thmqi_task task;
	uint32_t at;
	_Atomic bool home;
};

/* From core to core, and home after a few. */
static void hop(struct thmq_core *core, struct thmqi_task *task)
{
	struct ball *b = thmqi_container(task, struct ball, task);

	atomic_fetch_add(&hops, 1);
	if (++b->at % 4 == 0)
		atomic_store(&b->home, true);
	else
		thmqi_core_post(thmqi_env_core(env, (core->index + 1) % CORES), task);
}

static uint64_t now(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

static void *watch(void *arg)
{
	struct thmq_core_stats st = {.size = sizeof(st)};
	uint32_t i = 0;

	(void)arg;
	while (!atomic_load(&over)) {
		struct thmq_core *core = thmqi_env_core(env, i % CORES);

		thmqi_core_stats(core, &st);
		if (i++ % 50 == 0)
			thmq_core_stats_reset(core, 10 * SECOND);
		usleep(300);
	}
	return NULL;
}

static int play(uint32_t policy, uint32_t cap)
{
	uint64_t begin, sent = 0, until;
	struct ball balls[BALLS] = {0};
	pthread_t watcher;
	uint32_t i, thrown = 0;
	int failed = 0;

	if (thmqi_env_open(THMQ_ENV_OPTS(.core_count = CORES, .policy = policy,
					 .cpu_cap_percent = cap, .flags = THMQ_ENV_NO_PIN),
			   NULL, &env) != 0)
		return 1;
	atomic_store(&hops, 0);
	atomic_store(&over, false);
	for (i = 0; i < BALLS; i++) {
		balls[i].task.run = hop;
		atomic_init(&balls[i].home, true);
	}
	if (pthread_create(&watcher, NULL, watch, NULL) != 0)
		return 1;
	for (begin = now(); now() - begin < PLAY_NS; thrown++) {
		struct ball *b = &balls[thrown % BALLS];

		for (until = now() + 10 * SECOND; !atomic_load(&b->home) && !failed;)
			failed = now() > until;
		if (failed)
			break;
		atomic_store(&b->home, false);
		thmqi_core_post(thmqi_env_core(env, thrown % CORES), &b->task);
		sent++;
		if (thrown % 64 == 63)
			usleep(1 + thrown % 3000);
		for (until = now() + thrown % 40 * 1000; now() < until;)
			;
	}
	for (i = 0; i < BALLS; i++)
		for (until = now() + 10 * SECOND; !atomic_load(&balls[i].home) && !failed;
		     usleep(100))
			failed = now() > until;
	atomic_store(&over, true);
	pthread_join(watcher, NULL);
	failed |= atomic_load(&hops) != 4 * sent;
	printf("policy %u, cap %u: %llu tasks, %llu hops%s\n", policy, cap,
	       (unsigned long long)sent, (unsigned long long)atomic_load(&hops),
	       failed ? ": MISSED" : "");
	thmqi_env_close(env);
	return failed;
}

int main(void)
{
	int failed = 0;

	alarm(250);
	for (uint32_t policy = THMQ_POLICY_POLL; policy <= THMQ_POLICY_PREDICTIVE; policy++)
		failed |= play(policy, 0);
	failed |= play(THMQ_POLICY_FIXED, 20);
	failed |= play(THMQ_POLICY_PREDICTIVE, 20);
	return failed;
}
