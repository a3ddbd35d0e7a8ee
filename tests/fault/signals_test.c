/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals_test.c - a host whose timer interrupts its threads three thousand times a second, as a profiler does, with a handler that does not
 * restart system calls: no call of the library fails of that, on any engine, and the handler finds its signal mask as it was.
 */
#include "bad_input.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static _Atomic unsigned long ticks;

static void on_tick(int number)
{
	(void)number;
	atomic_fetch_add_explicit(&ticks, 1, memory_order_relaxed);
}

static pthread_t target;
static atomic_bool ticking;

/* At one thread, whatever the time of that process: a timer's signals are few on a busy machine. */
static void *tick(void *arg)
{
	(void)arg;
	while (atomic_load(&ticking)) {
		pthread_kill(target, SIGALRM);
		usleep(300);
	}
	return NULL;
}

static void life(const char *base, uint32_t flags, uint32_t cores)
{
	struct sigaction action = {.sa_handler = on_tick};
	struct thmq_log_visitor v = {.size = sizeof(v)};
	sigset_t before, after;
	struct world w = {0};
	pthread_t ticker;
	unsigned i;

	place_make(base);
	alarm(0);
	sigaction(SIGALRM, &action, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	target = pthread_self();
	atomic_store(&ticking, true);
	MUST(pthread_create(&ticker, NULL, tick, NULL));
	for (i = 0; i < 3; i++) {
		MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 128 << 20, .flags = flags,
							 .core_count = cores)));
		MUST(thmq_broker_open(
			w.env,
			THMQ_BROKER_OPTS(.data_dir = in_place("data"), .segment_bytes = 16 << 20),
			&w.broker));
		MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
		put_numbers(w.session, i * 3000, 3000);
		CHECK(get_numbers(w.session) == (i + 1) * 3000);
		remove_tree(in_place("copy"));
		RETURNS(0, thmq_broker_copy(w.broker, in_place("copy"), 10 * SECOND));
		world_down(&w);
		RETURNS(0, thmq_data_scan(in_place("data"), &v, NULL));
	}
	atomic_store(&ticking, false);
	pthread_join(ticker, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (i = 1; i < 32; i++)
		CHECK(sigismember(&before, (int)i) == sigismember(&after, (int)i));
	CHECK(ticks > 20);
	alarm(CASE_SECONDS);
}

static void inline_writes(void)
{
	life(NULL, THMQ_ENV_NO_URING, 0);
}

static void inline_writes_in_memory(void)
{
	if (access("/dev/shm", W_OK) != 0)
		SKIP("no /dev/shm");
	life("/dev/shm", THMQ_ENV_NO_URING, 0);
}

static void helper_threads(void)
{
	life(NULL, THMQ_ENV_NO_URING | THMQ_ENV_ALLOW_THREADS, 0);
}

static void rings(void)
{
	life(NULL, 0, 0);
}

static void cores_of_the_library(void)
{
	life(NULL, 0, 1);
}

static const struct bad_case cases[] = {
	{"inline_writes", inline_writes},
	{"inline_writes_in_memory", inline_writes_in_memory},
	{"helper_threads", helper_threads},
	{"rings", rings},
	{"cores_of_the_library", cores_of_the_library},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
