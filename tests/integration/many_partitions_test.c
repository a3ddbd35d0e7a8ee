/* SPDX-License-Identifier: Apache-2.0 */
/*
 * many_partitions_test.c - one consumer of as many partitions as a topic may have, alone and in a group: to open it,
 * to ack, to close it costs time in proportion to their number. And a topic is seen only when all of its partitions
 * take messages.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/thundermq.h>

#include "many.h"

#define PARTITIONS 65536u
#define LIMIT_NS (8 * SECOND) /* quadratic it takes half a minute, and more under a sanitizer */
#define TOPICS 300u
#define SPREAD 2000u

/* Of the process: others may have the machine. */
static uint64_t used_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void took(const char *what, uint64_t since)
{
	uint64_t ns = used_ns() - since;

	printf("%-24s %6.3f s\n", what, (double)ns / 1e9);
	if (ns > LIMIT_NS) {
		fprintf(stderr, "%s took too long\n", what);
		exit(1);
	}
}

/* One message in each partition. */
static void fill(struct thmq_session *s)
{
	struct thmq_producer *p;
	int64_t rc;
	uint32_t i;

	CHECK(thmq_producer_open(s, "wide", NULL, &p) == 0);
	for (i = 0; i < PARTITIONS;) {
		rc = thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i));
		if (rc == -EAGAIN) {
			CHECK(thmq_flush(p, 10 * SECOND) == 0);
			continue;
		}
		CHECK(rc > 0);
		i++;
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
}

/* Reads all, and acks each where @group is given. */
static void read_all(struct thmq_session *s, const char *group)
{
	struct thmq_message m[256];
	struct thmq_consumer *c;
	uint64_t since = used_ns();
	uint32_t n = 0;
	int got, i;

	CHECK(thmq_consumer_open(s, "wide", group, NULL, &c) == 0);
	took(group ? "open in a group" : "open", since);
	for (since = used_ns(); n < PARTITIONS && used_ns() - since <= LIMIT_NS; n += (uint32_t)got) {
		got = thmq_fetch(c, m, 256);
		CHECK(got >= 0);
		for (i = 0; group && i < got; i++)
			CHECK(thmq_ack(c, &m[i]) == 0);
		CHECK(thmq_release(c, m, (uint32_t)got) == 0);
		if (!got)
			thmq_session_wait(s, SECOND / 10);
	}
	took("read", since);
	CHECK(n == PARTITIONS);
	if (group) {
		since = used_ns();
		CHECK(thmq_consumer_flush(c, 30 * SECOND) == 0);
		took("flush the acks", since);
	}
	since = used_ns();
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
	took("close", since);
}

/* ------------------------------------------------------------------- topics */

struct churn {
	struct thmq_env *env;
	atomic_uint current;
	atomic_bool stop;
};

/* Publishes to each topic as soon as it can be opened. */
static void *publish_early(void *arg)
{
	struct churn *ch = arg;
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_event e[16];
	unsigned long opened = 0, lost = 0;
	char name[32];
	int n, i;

	CHECK(thmq_connect(ch->env, "inproc://", NULL, &s) == 0);
	while (!atomic_load(&ch->stop)) {
		snprintf(name, sizeof(name), "t%u", atomic_load(&ch->current));
		if (thmq_producer_open(s, name, NULL, &p) != 0)
			continue;
		opened++;
		if (thmq_send(p, "x", 1, NULL) > 0)
			thmq_flush(p, SECOND);
		thmq_producer_close(p, 0);
		while ((n = thmq_events(s, e, 16)) > 0)
			for (i = 0; i < n; i++)
				lost += e[i].type == THMQ_EVENT_FAILED && e[i].error == -THMQ_ENOPARTITION;
	}
	thmq_session_close(s, SECOND);
	printf("%lu producers of new topics, %lu met a partition that was not there\n", opened, lost);
	return (void *)(uintptr_t)lost;
}

static void topics_come_and_go(struct thmq_env *env, struct thmq_session *s)
{
	struct churn ch = {.env = env};
	pthread_t thread;
	uint64_t since = used_ns();
	char name[32];
	void *lost;
	uint32_t i;

	CHECK(pthread_create(&thread, NULL, publish_early, &ch) == 0);
	for (i = 0; i < TOPICS && used_ns() - since < 5 * SECOND; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		atomic_store(&ch.current, i);
		CHECK(thmq_topic_create(s, name,
					THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .partition_count = SPREAD)) == 0);
		usleep(200);
		CHECK(thmq_topic_delete(s, name) == 0);
	}
	atomic_store(&ch.stop, true);
	pthread_join(thread, &lost);
	CHECK(!lost);
}

int main(void)
{
	char dir[] = "/tmp/thmq-many-XXXXXX", command[64];
	struct thmq_broker *b;
	struct thmq_session *s;
	struct thmq_env *env;

	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir), &b) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	topics_come_and_go(env, s);
	CHECK(thmq_topic_create(s, "wide", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	fill(s);
	read_all(s, NULL);
	read_all(s, "group");
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command) ? 1 : 0;
}
