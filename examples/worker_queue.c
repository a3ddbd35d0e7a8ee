/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker_queue.c - threads share the work of a topic: they are members of one group, the broker splits the partitions among
 * them, one owner each, and hands them over when a worker leaves or falls silent.
 *
 * Worker 0 leaves after a while, worker 1 stops without a word (its time-out is short): the others finish their work.
 * Every job is done at least once, those of a partition in order, and a partition never has two owners.
 */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>

#define SECOND 1000000000ull
#define WORKERS 4
#define PARTITIONS 8
#define JOBS 4000

static struct thmq_env *env;
static _Atomic int done[JOBS]; /* how often */
static _Atomic int open_jobs = JOBS;
static _Atomic int owner[PARTITIONS]; /* worker + 1 while a job of the partition is worked on */
static _Atomic int collisions, disorder, failed;
static _Atomic int next_of[PARTITIONS]; /* first job of the partition that nobody has done */

static void work(int worker, const struct thmq_message *m)
{
	struct timespec pause = {.tv_nsec = 20000};
	int nobody = 0, job;

	memcpy(&job, m->data, sizeof(job));
	if (!atomic_compare_exchange_strong(&owner[m->partition], &nobody, worker + 1))
		collisions++;
	nanosleep(&pause, NULL); /* the work itself */
	/* done again after a hand-over is allowed; a job before its time is not */
	if (job / PARTITIONS > next_of[m->partition])
		disorder++;
	if (done[job]++ == 0) {
		next_of[m->partition]++;
		open_jobs--;
	}
	owner[m->partition] = 0;
}

static void *run_worker(void *arg)
{
	int worker = (int)(intptr_t)arg, taken = 0, n, i;
	struct thmq_consumer *consumer;
	struct thmq_session *session;
	struct thmq_message m[8];

	if (thmq_connect(env, "inproc://jobs", NULL, &session) ||
	    thmq_consumer_open(session, "jobs", "workers",
			       THMQ_CONSUMER_OPTS(.session_timeout_ns = SECOND / 2), &consumer)) {
		fprintf(stderr, "worker %d: %s\n", worker, thmq_errmsg());
		failed++;
		return NULL;
	}
	while (open_jobs > 0 && !failed) {
		n = thmq_fetch(consumer, m, 8);
		if (n == 0)
			thmq_session_wait(session, SECOND / 100);
		for (i = 0; i < n; i++) {
			work(worker, &m[i]);
			thmq_ack(consumer, &m[i]);
		}
		if (n > 0)
			thmq_release(consumer, m, (uint32_t)n);
		taken += n > 0 ? n : 0;
		if (worker == 0 && taken > 100)
			break; /* leaves: its acks are stored, its partitions go to the others */
		if (worker == 1 && taken > 200) { /* falls silent, as a thread that hangs does */
			while (open_jobs > 0)
				nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		}
	}
	printf("worker %d did %d jobs\n", worker, taken);
	if (thmq_session_close(session, 5 * SECOND) && worker != 1)
		failed++;
	return NULL;
}

static int publish(void)
{
	struct thmq_session *session;
	struct thmq_producer *producer;
	int job;

	if (thmq_connect(env, "inproc://jobs", NULL, &session))
		return -1;
	thmq_topic_delete(session, "jobs"); /* of an earlier run */
	if (thmq_topic_create(session, "jobs", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) ||
	    thmq_producer_open(session, "jobs", NULL, &producer))
		return -1;
	for (job = 0; job < JOBS; job++)
		if (thmq_send(producer, &job, sizeof(job),
			      THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						.partition = (uint32_t)job % PARTITIONS)) < 0)
			return -1;
	return thmq_flush(producer, 10 * SECOND) || thmq_session_close(session, SECOND);
}

int main(void)
{
	pthread_t threads[WORKERS];
	struct thmq_broker *broker;
	intptr_t i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)) ||
	    thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "worker-data", .name = "jobs"), &broker) || publish()) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		return 1;
	}
	for (i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, run_worker, (void *)i);
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	printf("%d jobs left, %d collisions, %d out of order\n", open_jobs, collisions, disorder);
	return thmq_env_close(env, 5 * SECOND) != 0 || open_jobs || collisions || disorder || failed;
}
