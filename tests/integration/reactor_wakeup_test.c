/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_wakeup_test.c - the lost wake-up: a thread and a core hand a number back and forth, each sleeping whenever
 * it finds nothing, with small random delays, so that every moment between a look and a sleep is hit sooner or later.
 * A lost wake-up ends the test after seconds of silence. Exit 0: passed.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "reactor/reactor.h"

#define ROUNDS 20000u /* for each way; five times as many with THMQ_TEST_FULL */
#define SILENCE_NS 5000000000ull

static uint32_t rounds = ROUNDS;

/* How the number reaches the core. */
enum way { BY_POST, BY_KICK_WITH_ARM, BY_KICK_WITHOUT_ARM };

struct table {
	struct thmqi_poller poller; /* first */
	struct thmqi_task task;
	_Atomic uint32_t ping, pong;
	uint32_t seen; /* the core's */
	struct thmqi_waiter *waiter;
	struct thmqi_prng core_prng;
	_Atomic uint32_t core_sleeps;
};

static void delay(struct thmqi_prng *prng)
{
	uint32_t i = (uint32_t)thmqi_prng_below(prng, 400);

	/* mostly none, so that both sides are often at the edge of sleep */
	for (i = thmqi_prng_below(prng, 4) ? 0 : i; i; i--)
		thmqi_cpu_relax();
}

static void answer(struct table *t)
{
	t->seen = atomic_load_explicit(&t->ping, memory_order_acquire);
	delay(&t->core_prng);
	atomic_store_explicit(&t->pong, t->seen, memory_order_release);
	thmqi_waiter_kick(t->waiter);
}

static int table_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct table *t = (struct table *)p;

	(void)budget;
	if (atomic_load_explicit(&t->ping, memory_order_relaxed) == t->seen)
		return 0;
	answer(t);
	return 1;
}

static bool table_arm(struct thmqi_poller *p)
{
	struct table *t = (struct table *)p;

	return atomic_load_explicit(&t->ping, memory_order_relaxed) != t->seen;
}

static void run(struct thmq_core *core, struct thmqi_task *task)
{
	(void)core;
	answer(thmqi_container(task, struct table, task));
}

static int add_poller(struct thmq_core *core, void *arg)
{
	thmqi_core_add_poller(core, arg);
	return 0;
}

static int remove_poller(struct thmq_core *core, void *arg)
{
	thmqi_core_remove_poller(core, arg);
	return 0;
}

static bool wait_for(struct table *t, uint32_t number)
{
	while (atomic_load_explicit(&t->pong, memory_order_acquire) != number) {
		int woken = 1;

		thmqi_waiter_arm(t->waiter);
		if (atomic_load_explicit(&t->pong, memory_order_relaxed) != number)
			woken = thmqi_waiter_sleep(t->waiter, SILENCE_NS);
		thmqi_waiter_disarm(t->waiter);
		if (!woken)
			return false;
	}
	return true;
}

#define MATES 3u

/* One thread of the host that drives several cores. */
struct driver {
	struct thmq_env *env;
	pthread_t thread;
	_Atomic bool ready, stop;
};

static void *drive(void *arg)
{
	struct driver *d = arg;
	uint32_t i;

	for (i = 0; i < MATES; i++)
		if (thmqi_core_attach(d->env, i) != 0)
			return NULL;
	atomic_store(&d->ready, true);
	while (!atomic_load(&d->stop))
		thmqi_core_poll(thmqi_core_mine(d->env), SILENCE_NS);
	thmqi_core_detach(d->env);
	return NULL;
}

static bool open_mates(struct driver *d, uint32_t flags)
{
	if (thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = MATES, .flags = flags,
					 .policy = THMQ_POLICY_EVENT),
			   NULL, &d->env) != 0)
		return false;
	thmqi_core_detach(d->env);
	if (pthread_create(&d->thread, NULL, drive, d) != 0)
		return false;
	while (!atomic_load(&d->ready))
		sched_yield();
	return true;
}

static void end_mates(struct driver *d)
{
	atomic_store(&d->stop, true);
	thmqi_core_wake(thmqi_env_core(d->env, MATES - 1));
	pthread_join(d->thread, NULL);
}

static int play(const char *name, uint32_t flags, enum way way, bool mates)
{
	struct driver d = {0};
	struct thmqi_prng prng;
	struct table t = {.poller.poll = table_poll, .task.run = run};
	struct thmq_env_stats stats = {0};
	struct thmq_core *core;
	struct thmq_env *env;
	uint32_t i;

	if (mates ? !open_mates(&d, flags)
		  : thmqi_env_open(THMQ_ENV_OPTS(.core_count = 1, .flags = flags | THMQ_ENV_NO_PIN,
						 .policy = THMQ_POLICY_EVENT),
				   NULL, &d.env) != 0)
		return 1;
	env = d.env;
	if (thmqi_waiter_open(&t.waiter) != 0)
		return 1;
	core = thmqi_env_core(env, mates ? MATES - 1 : 0);
	thmqi_prng_seed(&prng, 1);
	thmqi_prng_seed(&t.core_prng, 2);
	if (way == BY_KICK_WITH_ARM)
		t.poller.arm = table_arm;
	if (way != BY_POST)
		thmqi_core_call(core, add_poller, &t.poller, UINT64_MAX);
	for (i = 1; i <= rounds; i++) {
		delay(&prng);
		atomic_store_explicit(&t.ping, i, memory_order_release);
		if (way == BY_POST)
			thmqi_core_post(mates ? thmqi_env_core(env, i % MATES) : core, &t.task);
		else
			thmqi_core_kick(core);
		if (!wait_for(&t, i)) {
			printf("%s: silence at %u of %u: sleeping %u, ping %u, pong %u\n", name, i,
			       ROUNDS, atomic_load(&core->sleeping), atomic_load(&t.ping),
			       atomic_load(&t.pong));
			_Exit(1);
		}
	}
	thmqi_env_stats(env, &stats);
	printf("%s: %u rounds, core slept %llu times, was woken %llu times\n", name, rounds,
	       (unsigned long long)stats.sleeps, (unsigned long long)stats.wakeups);
	if (way != BY_POST)
		thmqi_core_call(core, remove_poller, &t.poller, UINT64_MAX);
	if (mates)
		end_mates(&d);
	i = (uint32_t)thmqi_env_close(env);
	thmqi_waiter_unref(t.waiter);
	/* a run in which nobody slept would have tested nothing */
	return i != 0 || stats.sleeps < rounds / 100 || stats.wakeups < rounds / 100;
}

int main(void)
{
	int failed = 0;

	if (getenv("THMQ_TEST_FULL"))
		rounds *= 5;
	failed |= play("ring, posts", 0, BY_POST, false);
	failed |= play("ring, kicks", 0, BY_KICK_WITH_ARM, false);
	failed |= play("ring, kicks of a source without arm", 0, BY_KICK_WITHOUT_ARM, false);
	failed |= play("no ring, posts", THMQ_ENV_NO_URING, BY_POST, false);
	failed |= play("no ring, kicks", THMQ_ENV_NO_URING, BY_KICK_WITH_ARM, false);
	failed |= play("three cores of a thread, posts", 0, BY_POST, true);
	failed |= play("three cores of a thread, kicks", 0, BY_KICK_WITH_ARM, true);
	failed |= play("three cores of a thread, kicks of a source without arm", 0,
		       BY_KICK_WITHOUT_ARM, true);
	failed |= play("three cores of a thread without ring, posts", THMQ_ENV_NO_URING, BY_POST,
		       true);
	return failed;
}
