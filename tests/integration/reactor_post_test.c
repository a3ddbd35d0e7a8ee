/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_post_test.c - posts from four threads at once to one core: none is lost, none runs twice, those of one
 * thread run in their order; and the counters may be read meanwhile. A plain program, so that it also runs under the
 * thread sanitizer. Exit 0: passed.
 */
#include <pthread.h>
#include <stdio.h>

#include "reactor/reactor.h"

#define POSTERS 4u
#define POSTS 100000u

struct post {
	struct thmqi_task task; /* first */
	uint32_t poster, number;
};

struct poster {
	pthread_t thread;
	struct thmq_core *core;
	struct post *posts;
};

/* The core's alone until its thread has ended. */
static uint32_t next_number[POSTERS];
static uint32_t wrong;
static _Atomic uint32_t ran;

static void run(struct thmq_core *core, struct thmqi_task *task)
{
	struct post *p = (struct post *)task;

	if (!thmqi_core_is_mine(core) || p->number != next_number[p->poster]++)
		wrong++;
	atomic_fetch_add_explicit(&ran, 1, memory_order_relaxed);
}

static void *post_all(void *arg)
{
	struct poster *p = arg;
	uint32_t i;

	for (i = 0; i < POSTS; i++)
		thmqi_core_post(p->core, &p->posts[i].task);
	return NULL;
}

static int race(const char *name, const struct thmq_env_opts *opts)
{
	struct poster posters[POSTERS];
	struct thmq_env_stats stats = {0};
	struct thmq_env *env;
	uint32_t i, n;
	int rc = thmqi_env_open(opts, NULL, &env);

	if (rc) {
		printf("%s: open: %d\n", name, rc);
		return 1;
	}
	memset(next_number, 0, sizeof(next_number));
	atomic_store(&ran, 0);
	wrong = 0;
	for (i = 0; i < POSTERS; i++) {
		posters[i].core = thmqi_env_core(env, 0);
		posters[i].posts = calloc(POSTS, sizeof(struct post));
		for (n = 0; n < POSTS; n++)
			posters[i].posts[n] = (struct post){{.run = run}, i, n};
		pthread_create(&posters[i].thread, NULL, post_all, &posters[i]);
	}
	if (opts->core_count)
		for (i = 0; i < 1000; i++)
			thmqi_env_stats(env, &stats);
	else
		while (atomic_load(&ran) < POSTERS * POSTS &&
		       thmqi_core_poll(thmqi_env_core(env, 0), 10000000000ull) > 0)
			;
	for (i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	rc = thmqi_env_close(env); /* runs what is left */
	for (i = 0; i < POSTERS; i++)
		free(posters[i].posts);
	printf("%s: %u of %u ran, %u wrong, %d leaked\n", name, atomic_load(&ran), POSTERS * POSTS,
	       wrong, rc);
	return rc || wrong || atomic_load(&ran) != POSTERS * POSTS;
}

int main(void)
{
	int failed = 0;

	failed |= race("thread of the library, event",
		       THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_EVENT));
	failed |= race("thread of the library, fixed",
		       THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_FIXED));
	failed |= race("driven by the caller, event", THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT));
	failed |= race("driven by the caller, no ring",
		       THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT, .flags = THMQ_ENV_NO_URING));
	return failed;
}
