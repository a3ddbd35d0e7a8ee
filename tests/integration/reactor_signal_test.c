/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_signal_test.c - cores whose process is interrupted: another one sends it signals at any moment, stops it and lets it go on, while a
 * thread and a core hand a number back and forth, by tasks and by timers, asleep whenever nothing is there. The handler posts a task, too,
 * which is allowed: it often comes between the core's last look and its sleep. A wake-up that is lost ends the test after seconds of
 * silence. For cores of the library's and of the host's, under the policies, with and without a ring.
 * By default a fraction of a second for each; with THMQ_TEST_FULL twenty seconds. Exit 0: passed.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "check.h"
#include "reactor/reactor.h"

#define SILENCE_NS (30 * SECOND)
#define ROUNDS_MIN 20u

struct way {
	const char *name;
	uint32_t core_count, policy, flags;
};

/* The process that is interrupted. */
static struct table {
	struct thmq_core *core;
	struct thmqi_task ping;
	struct thmq_timer timer;
	struct thmqi_waiter *waiter;
	uint32_t number; /* the player's */
	uint64_t delay_ns;
	_Atomic uint32_t answered;
	_Atomic bool over;
	/* the handler's */
	struct thmqi_task note;
	_Atomic bool noted;
	_Atomic uint32_t signals, notes;
} t;

static void answer(void)
{
	atomic_fetch_add(&t.answered, 1);
	thmqi_waiter_kick(t.waiter);
}

static void on_timer(struct thmq_core *core, struct thmq_timer *timer)
{
	(void)core;
	(void)timer;
	answer();
}

static void on_ping(struct thmq_core *core, struct thmqi_task *task)
{
	(void)task;
	if (!t.delay_ns)
		answer();
	else if (thmq_timer_start(core, &t.timer, (uint64_t)thmq_core_now_ns(core) + t.delay_ns) != 0)
		_Exit(3);
}

static void on_note(struct thmq_core *core, struct thmqi_task *task)
{
	(void)core;
	(void)task;
	atomic_fetch_add(&t.notes, 1);
	atomic_store(&t.noted, false);
}

static void on_signal(int number)
{
	(void)number;
	atomic_fetch_add(&t.signals, 1);
	if (!atomic_exchange(&t.noted, true))
		thmqi_core_post(t.core, &t.note);
}

/* Signals cut its own sleeps short, which says nothing. */
static bool wait_for(uint32_t number)
{
	uint64_t until = now() + SILENCE_NS;

	while (atomic_load(&t.answered) != number && now() < until) {
		thmqi_waiter_arm(t.waiter);
		if (atomic_load(&t.answered) != number)
			thmqi_waiter_sleep(t.waiter, SECOND);
		thmqi_waiter_disarm(t.waiter);
	}
	return atomic_load(&t.answered) == number;
}

static void *play(void *arg)
{
	uint64_t until = now() + *(uint64_t *)arg;
	struct thmqi_prng chance;
	uint64_t begin;

	thmqi_prng_seed(&chance, 11);
	while (now() < until || t.number < ROUNDS_MIN) {
		t.delay_ns = thmqi_prng_below(&chance, 4) ? 0 : thmqi_prng_below(&chance, 300000);
		t.number++;
		thmqi_core_post(t.core, &t.ping);
		if (!wait_for(t.number)) {
			fprintf(stderr, "%s: silence after %u rounds, %u signals\n", running, t.number, atomic_load(&t.signals));
			_Exit(4);
		}
		for (begin = now(); now() - begin < thmqi_prng_below(&chance, 100000);)
			;
	}
	atomic_store(&t.over, true);
	thmqi_core_post(t.core, &t.ping);
	return NULL;
}

static void be_interrupted(const struct way *w, uint64_t for_ns, int ready)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct thmq_env *env;
	pthread_t player;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = w->core_count, .policy = w->policy,
						.flags = w->flags | THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmqi_waiter_open(&t.waiter) == 0);
	t.core = thmq_env_core(env, 0);
	t.ping.run = on_ping;
	t.note.run = on_note;
	t.timer.fire = on_timer;
	sigaction(SIGUSR1, &act, NULL);
	CHECK(write(ready, "r", 1) == 1);
	if (w->core_count) {
		play(&for_ns);
	} else {
		CHECK(pthread_create(&player, NULL, play, &for_ns) == 0);
		while (!atomic_load(&t.over))
			thmqi_core_poll(t.core, SILENCE_NS);
		pthread_join(player, NULL);
	}
	act.sa_handler = SIG_IGN;
	sigaction(SIGUSR1, &act, NULL);
	CHECK(thmq_env_close(env, SECOND) == 0);
	CHECK(!atomic_load(&t.noted)); /* all that was posted has run */
	printf("%s: %u rounds, %u signals, %u notes\n", w->name, t.number, atomic_load(&t.signals), atomic_load(&t.notes));
	fflush(stdout);
	thmqi_waiter_unref(t.waiter);
	_Exit(atomic_load(&t.signals) && atomic_load(&t.notes) ? 0 : 5);
}

static int interrupt(const struct way *w, uint64_t for_ns)
{
	struct thmqi_prng chance;
	int ready[2], status = 0;
	char byte;
	pid_t pid;

	running = w->name;
	CHECK(pipe(ready) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		be_interrupted(w, for_ns, ready[1]);
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	thmqi_prng_seed(&chance, 12);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		kill(pid, SIGUSR1);
		if (!thmqi_prng_below(&chance, 8)) {
			kill(pid, SIGSTOP);
			nap(thmqi_prng_below(&chance, 1000000));
			kill(pid, SIGCONT);
		}
		nap(thmqi_prng_below(&chance, 100000));
	}
	if (status)
		fprintf(stderr, "%s: %s %d\n", w->name, WIFSIGNALED(status) ? "signal" : "exit",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return status != 0;
}

int main(void)
{
	static const struct way ways[] = {
		{"the library's, event", 1, THMQ_POLICY_EVENT, 0},
		{"the library's, adaptive", 1, THMQ_POLICY_ADAPTIVE, 0},
		{"the library's, predictive", 1, THMQ_POLICY_PREDICTIVE, 0},
		{"the library's, fixed, no ring", 1, THMQ_POLICY_FIXED, THMQ_ENV_NO_URING},
		{"the host's, event", 0, THMQ_POLICY_EVENT, 0},
		{"the host's, event, no ring", 0, THMQ_POLICY_EVENT, THMQ_ENV_NO_URING},
		{"the host's, adaptive", 0, THMQ_POLICY_ADAPTIVE, 0},
		{"the host's, predictive", 0, THMQ_POLICY_PREDICTIVE, 0},
	};
	uint64_t for_ns = getenv("THMQ_TEST_FULL") ? 20 * SECOND : 300 * MS;
	int failed = 0;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		failed |= interrupt(&ways[i], for_ns);
	return failed;
}
