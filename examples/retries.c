/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retries.c - workers that share a queue: each job goes to one of them, is acknowledged by itself, and comes back after a while if it
 * failed. Jobs that never succeed end in a topic of dead letters, where they tell what they are and why.
 *
 * Every third job fails the first time; every tenth always does.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define MS 1000000ull
#define WORKERS 3
#define JOBS 300

static struct thmq_env *env;
static atomic_int done[JOBS], open_jobs = JOBS, failed;

static void work(struct thmq_consumer *consumer, const struct thmq_message *m)
{
	int job;

	memcpy(&job, m->data, sizeof(job));
	if (job % 10 == 0 || (job % 3 == 0 && thmq_message_deliveries(consumer, m) == 1)) {
		thmq_nack(consumer, m,
			  THMQ_NACK_BACKOFF); /* again, a little later, perhaps by another */
		return;
	}
	if (thmq_ack(consumer, m) == 0 && done[job]++ == 0)
		open_jobs--;
}

static void *run_worker(void *arg)
{
	static const uint64_t delays[] = {5 * MS, 20 * MS, 50 * MS};
	struct thmq_consumer *consumer;
	struct thmq_session *session;
	struct thmq_message m;
	struct thmq_event e;

	(void)arg;
	if (thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_consumer_open(session, "jobs", "workers",
			       THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
						  .prefetch_count = 4, .invisible_ns = 10 * SECOND,
						  .backoff_ns = delays, .backoff_count = 3,
						  .deliver_max = 3, .dead_topic = "jobs.dead"),
			       &consumer)) {
		fprintf(stderr, "worker: %s\n", thmq_errmsg());
		failed++;
		return NULL;
	}
	while (open_jobs > 0 && !failed) {
		if (thmq_fetch(consumer, &m, 1) == 1) {
			work(consumer, &m);
			thmq_release(consumer, &m, 1);
		} else {
			thmq_session_wait(session, 10 * MS);
		}
		while (thmq_events(session, &e, 1) == 1)
			if (e.type == THMQ_EVENT_DEAD_LETTER)
				open_jobs--;
	}
	if (thmq_session_close(session, 5 * SECOND))
		failed++;
	return NULL;
}

static int publish(struct thmq_session *session)
{
	struct thmq_producer *producer;
	int job;

	thmq_topic_delete(session, "jobs"); /* of an earlier run */
	thmq_topic_delete(session, "jobs.dead");
	if (thmq_topic_create(session, "jobs", NULL) ||
	    thmq_producer_open(session, "jobs", NULL, &producer))
		return -1;
	for (job = 0; job < JOBS; job++)
		if (thmq_send(producer, &job, sizeof(job), NULL) < 0)
			return -1;
	return thmq_flush(producer, 10 * SECOND);
}

/* Looks at the dead letters, without a group: they stay where they are. */
static int count_dead(struct thmq_session *session)
{
	struct thmq_consumer *reader;
	struct thmq_header reason;
	struct thmq_message m;
	int n = 0, job;

	if (thmq_consumer_open(session, "jobs.dead", NULL, NULL, &reader))
		return -1;
	while (thmq_fetch(reader, &m, 1) == 1 ||
	       (thmq_session_wait(session, SECOND / 5) == 1 && thmq_fetch(reader, &m, 1) == 1)) {
		memcpy(&job, m.data, sizeof(job));
		if (n++ == 0 && thmq_header_find(&m, "thmq-dead-reason", &reason) == 0)
			printf("job %d is dead: %.*s\n", job, (int)reason.value_len,
			       (const char *)reason.value);
		thmq_release(reader, &m, 1);
	}
	return n;
}

int main(void)
{
	struct thmq_session *session;
	struct thmq_broker *broker;
	pthread_t threads[WORKERS];
	int i, dead;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "retries-data"), &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) || publish(session)) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		return 1;
	}
	for (i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, run_worker, NULL);
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	dead = count_dead(session);
	printf("%d jobs left, %d dead letters\n", open_jobs, dead);
	return thmq_env_close(env, 5 * SECOND) != 0 || open_jobs > 0 || dead < JOBS / 10 || failed;
}
