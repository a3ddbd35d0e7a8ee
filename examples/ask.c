/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ask.c - one asks, another answers: the squares of some numbers, one of which takes too long. usage: ask [directory]
 * Here both are threads of one program; over tcp:// or shm:// they would be two.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define COUNT 10

static struct thmq_env *env;
static atomic_bool done;

static void check(int64_t rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg()[0] ? thmq_errmsg() : thmq_strerror((int)rc));
	exit(1);
}

/* Whoever reads the topic may answer. */
static void *answer(void *arg)
{
	struct thmq_session *session;
	struct thmq_consumer *consumer;
	struct thmq_message m;
	long square;
	int64_t rc = 0;

	(void)arg;
	check(thmq_connect(env, "inproc://", NULL, &session), "connect");
	check(thmq_consumer_open(session, "squares", "calculators", NULL, &consumer), "open a consumer");
	while (!done) {
		if (thmq_fetch(consumer, &m, 1) != 1) {
			thmq_session_wait(session, SECOND / 20);
			continue;
		}
		square = *(const int *)m.data * (long)*(const int *)m.data;
		while (*(const int *)m.data != 7 && (rc = thmq_reply(session, &m, &square, sizeof(square), NULL)) == -EAGAIN)
			thmq_session_wait(session, SECOND / 1000);
		thmq_ack(consumer, &m);
		thmq_release(consumer, &m, 1);
	}
	thmq_session_close(session, SECOND);
	return NULL;
}

int main(int argc, char **argv)
{
	struct thmq_broker_opts opts = {.size = sizeof(opts), .data_dir = argc > 1 ? argv[1] : NULL};
	struct thmq_response responses[4];
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_event event;
	int numbers[COUNT], i, n, left = COUNT;
	pthread_t thread;

	check(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)), "open an environment");
	check(thmq_broker_open(env, &opts, &broker), "open a broker");
	check(thmq_connect(env, "inproc://", NULL, &session), "connect");
	check(thmq_topic_create(session, "squares", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT)), "create a topic");
	check(thmq_producer_open(session, "squares", NULL, &producer), "open a producer");
	if (pthread_create(&thread, NULL, answer, NULL) != 0)
		return 1;
	for (i = 0; i < COUNT; i++) {
		numbers[i] = i;
		check(thmq_request(producer, &numbers[i], sizeof(int), NULL, SECOND / 2, &numbers[i]), "ask");
	}
	while (left > 0) {
		check(thmq_session_wait(session, SECOND), "wait");
		while ((n = thmq_responses(session, responses, 4)) > 0) {
			for (i = 0; i < n; i++, left--)
				printf("%d: %ld\n", *(int *)responses[i].cookie, *(const long *)responses[i].message.data);
			thmq_response_release(session, responses, (uint32_t)n);
		}
		while (thmq_events(session, &event, 1) == 1) {
			if (event.type != THMQ_EVENT_REQUEST_EXPIRED)
				continue;
			printf("%d: nobody has said\n", *(int *)event.cookie);
			left--;
		}
	}
	done = true;
	pthread_join(thread, NULL);
	thmq_session_close(session, SECOND);
	thmq_broker_close(broker, SECOND);
	thmq_env_close(env, SECOND);
	return 0;
}
