/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topic_race_test.c - programs that begin at the same time all make their topics, if these are absent, and take them away: each of them hears that it
 * is so, and none that another one is just doing it.
 */
#include <pthread.h>

#include "../fault/bad_input.h"

#define PROGRAMS 4
#define ROUNDS 8

struct racing {
	struct thmq_env *env;
	pthread_barrier_t at_once;
};

static void *race(void *arg)
{
	struct racing *r = arg;
	struct thmq_session *s;
	char name[32];
	int i, rc;

	MUST(thmq_connect(r->env, "inproc://", NULL, &s));
	for (i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof(name), "topic-%d", i);
		pthread_barrier_wait(&r->at_once);
		MUST(thmq_topic_create(s, name, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
		MUST(thmq_topic_alter(s, name, THMQ_TOPIC_OPTS(.ttl_ns = 3600 * SECOND), THMQ_ALTER_TTL));
		pthread_barrier_wait(&r->at_once);
		rc = thmq_topic_delete(s, name);
		CHECK(rc == 0 || rc == -THMQ_ENOTOPIC);
	}
	MUST(thmq_session_close(s, SECOND));
	return NULL;
}

int main(void)
{
	pthread_t threads[PROGRAMS];
	struct thmq_broker *broker;
	struct racing r;
	char dir[64];
	int i;

	snprintf(dir, sizeof(dir), "topic-race-%d", (int)getpid());
	MUST(thmq_env_open(&r.env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)));
	MUST(thmq_broker_open(r.env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 16u << 20), &broker));
	pthread_barrier_init(&r.at_once, NULL, PROGRAMS);
	for (i = 0; i < PROGRAMS; i++)
		CHECK(pthread_create(&threads[i], NULL, race, &r) == 0);
	for (i = 0; i < PROGRAMS; i++)
		pthread_join(threads[i], NULL);
	MUST(thmq_env_close(r.env, 10 * SECOND));
	remove_tree(dir);
	return failures != 0;
}
