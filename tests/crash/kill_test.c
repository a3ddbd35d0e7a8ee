/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill_test.c - a publishing and consuming process is killed with SIGKILL at a random moment, again and again, in one
 * directory: not one acknowledged message is lost, none is out of order, doubled or invented, and the group's offset is
 * neither behind what was confirmed nor ahead of what was acked. By turns the topic has none, two, and four priorities, whose partitions these are.
 *
 * usage: kill_test [kills]; default 30, and 1000 with THMQ_TEST_FULL=1.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITIONS 4
#define LIFE_KILLS 10 /* then in a new directory, with other priorities */

/* Written by the child, read by the parent after its death. */
struct shared {
	volatile uint64_t sent[PARTITIONS]; /* numbers given out: message i of a partition holds i */
	volatile uint64_t acked[PARTITIONS]; /* all below are acknowledged durable */
	volatile uint64_t group_sent[PARTITIONS], group_stored[PARTITIONS]; /* offsets */
	volatile int ready, failed;
};

/* What a reader found, and what the broker said that there is. */
struct seen {
	uint64_t next[PARTITIONS], last_offset[PARTITIONS], end[PARTITIONS];
};

static struct shared *shared;
static struct seen seen;
static uint32_t priorities; /* of the topic; 0: it has none */
static char dir[] = "kill-test-XXXXXX";

/* All that there is to know of a failure: it may not come again. */
static int failed(int line, const char *what)
{
	int i;

	fprintf(stderr, "kill_test: line %d: %s (%s); %u priorities\n", line, what, thmq_errmsg(), priorities);
	for (i = 0; i < PARTITIONS; i++)
		fprintf(stderr,
			"  partition %d: sent %llu, acked %llu, group sent %llu, stored %llu; seen: next %llu, last offset %llu, end "
			"%llu\n",
			i, (unsigned long long)shared->sent[i], (unsigned long long)shared->acked[i],
			(unsigned long long)shared->group_sent[i], (unsigned long long)shared->group_stored[i],
			(unsigned long long)seen.next[i], (unsigned long long)seen.last_offset[i],
			(unsigned long long)seen.end[i]);
	return 1;
}

#define CHECK(x) \
	do { \
		if (!(x)) \
			return failed(__LINE__, #x); \
	} while (0)

struct process {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
};

/* Partitions of one priority. */
static uint32_t lanes(void)
{
	return PARTITIONS / (priorities ? priorities : 1);
}

static int open_all(struct process *p, uint32_t cores)
{
	CHECK(thmq_env_open(&p->env, THMQ_ENV_OPTS(.core_count = cores)) == 0);
	CHECK(thmq_broker_open(p->env, THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2, .segment_bytes = 1u << 24),
			       &p->broker) == 0);
	CHECK(thmq_connect(p->env, "inproc://", NULL, &p->session) == 0);
	CHECK(thmq_topic_create(p->session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .partition_count = lanes(), .priorities = priorities)) == 0);
	return 0;
}

/* One producer a partition, so that its watermark is the partition's. */
static int publish_and_consume(uint32_t cores)
{
	struct thmq_producer *producers[PARTITIONS];
	uint64_t first[PARTITIONS], acked_here[PARTITIONS] = {0}, payload[32];
	struct thmq_consumer *consumer;
	struct thmq_message m[64];
	struct process p;
	uint32_t i, k;
	int n;

	CHECK(open_all(&p, cores) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_producer_open(p.session, "t", NULL, &producers[i]) == 0);
		first[i] = shared->sent[i];
	}
	CHECK(thmq_consumer_open(p.session, "t", "g", NULL, &consumer) == 0);
	memset(payload, 0x5a, sizeof(payload));
	shared->ready = 1;
	for (;;) {
		for (i = 0; i < PARTITIONS; i++) {
			for (k = 0; k < 50; k++) {
				payload[0] = shared->sent[i];
				/* given out before it is sent: what was not sent is not invented */
				if (thmq_send(producers[i], payload, (uint32_t)(8 + shared->sent[i] % 200),
					      THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i % lanes(),
								.priority = i / lanes())) < 0)
					break;
				shared->sent[i]++;
			}
			shared->acked[i] = first[i] + (uint64_t)thmq_watermark(producers[i]);
		}
		thmq_poll(p.env, 1000);
		n = thmq_fetch(consumer, m, 64);
		CHECK(n >= 0);
		for (i = 0; i < (uint32_t)n; i++) {
			if (shared->group_sent[m[i].partition] < m[i].offset + 1)
				shared->group_sent[m[i].partition] = m[i].offset + 1;
			acked_here[m[i].partition] = m[i].offset + 1; /* offsets only rise here */
			thmq_ack(consumer, &m[i]);
		}
		thmq_release(consumer, m, (uint32_t)n);
		if (n && shared->sent[0] % 7 == 0 && thmq_consumer_flush(consumer, SECOND) == 0)
			for (i = 0; i < PARTITIONS; i++)
				if (shared->group_stored[i] < acked_here[i])
					shared->group_stored[i] = acked_here[i];
	}
	return 0;
}

/* Has all that the broker says is there been seen? */
static bool at_end(const struct seen *s)
{
	int i;

	for (i = 0; i < (int)PARTITIONS; i++)
		if (s->end[i] && (!s->next[i] || s->last_offset[i] + 1 < s->end[i]))
			return false;
	return true;
}

static int look(struct process *p, struct seen *s)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_consumer *reader;
	struct thmq_message m[256];
	struct timespec begin, now;
	uint64_t number;
	int n, i;

	memset(s, 0, sizeof(*s));
	for (i = 0; i < (int)PARTITIONS; i++) {
		CHECK(thmq_partition_describe(p->session, "t", (uint32_t)i, NULL, &info) == 0);
		s->end[i] = info.end_offset;
	}
	CHECK(thmq_consumer_open(p->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (;;) {
		n = thmq_fetch(reader, m, 256);
		CHECK(n >= 0);
		if (n == 0) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			if (at_end(s))
				break;
			CHECK(now.tv_sec - begin.tv_sec <= 20); /* nothing comes, and this is not the end */
			thmq_session_wait(p->session, SECOND / 100);
			continue;
		}
		for (i = 0; i < n; i++) {
			uint32_t part = m[i].partition;

			memcpy(&number, m[i].data, 8);
			CHECK(number == s->next[part]); /* in order, once, none missing before it */
			CHECK(m[i].len == 8 + number % 200);
			CHECK(thmq_message_priority(reader, &m[i]) == (int)(part / lanes()));
			CHECK(number == 0 || m[i].offset > s->last_offset[part]);
			s->next[part]++;
			s->last_offset[part] = m[i].offset;
		}
		thmq_release(reader, m, (uint32_t)n);
		clock_gettime(CLOCK_MONOTONIC, &begin);
	}
	CHECK(thmq_consumer_close(reader, SECOND) == 0);
	return 0;
}

static int check(void)
{
	struct thmq_partition_info info;
	struct seen *s = &seen;
	struct process p;
	uint32_t i;

	CHECK(open_all(&p, 0) == 0);
	if (look(&p, s) != 0)
		return 1;
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(s->next[i] >= shared->acked[i]); /* nothing acknowledged is lost */
		/* the message that was being sent may be there without having been counted */
		CHECK(s->next[i] <= shared->sent[i] + 1);
		shared->sent[i] = shared->acked[i] = s->next[i];
		info.size = sizeof(info);
		CHECK(thmq_partition_describe(p.session, "t", i, "g", &info) == 0);
		CHECK(info.end_offset == (s->next[i] ? s->last_offset[i] + 1 : 0)); /* behind the last message that is there */
		if (shared->group_stored[i]) /* what was confirmed is kept */
			CHECK(info.group_offset != UINT64_MAX && info.group_offset >= shared->group_stored[i]);
		if (info.group_offset != UINT64_MAX)
			CHECK(info.group_offset <= shared->group_sent[i]);
	}
	CHECK(thmq_env_close(p.env, 10 * SECOND) == 0);
	return 0;
}

static int one_kill(uint32_t round)
{
	struct timespec pause = {.tv_nsec = (long)(random() % 60000000)};
	int status;
	pid_t pid;

	shared->ready = 0;
	pid = fork();
	if (pid == 0)
		_exit(publish_and_consume(round % 3 == 2 ? 1 : 0) ? 1 : 2);
	while (!shared->ready && waitpid(pid, &status, WNOHANG) == 0)
		usleep(100);
	nanosleep(&pause, NULL);
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid && errno != ECHILD)
		return 1;
	if (!shared->ready)
		return 1;
	/* checked in a process of its own: what it leaves behind goes with it */
	pid = fork();
	if (pid == 0)
		_exit(check());
	return waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main(int argc, char **argv)
{
	uint32_t kills = argc > 1                   ? (uint32_t)atoi(argv[1])
			 : getenv("THMQ_TEST_FULL") ? 1000
						    : 30,
		 i;
	uint64_t seed = getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0) : (uint64_t)time(NULL);
	char command[64];
	uint64_t total = 0;
	int rc = 0;

	srandom((unsigned int)seed);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || !mkdtemp(dir))
		return 1;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	for (i = 0; i < kills && !rc; i++) {
		priorities = i / LIFE_KILLS % 3 * 2;
		rc = one_kill(i);
		if ((i % LIFE_KILLS == LIFE_KILLS - 1 || i + 1 == kills) && !rc) { /* the log keeps growing: begin anew */
			total += shared->sent[0] + shared->sent[1] + shared->sent[2] + shared->sent[3];
			rc = system(command) != 0;
			memset((void *)shared, 0, sizeof(*shared));
		}
	}
	if (rc)
		fprintf(stderr, "kill_test: kill %u of seed %llu failed; see %s\n", i, (unsigned long long)seed, dir);
	else
		printf("%u kills, %llu messages\n", i, (unsigned long long)total);
	if (!rc && system(command) != 0)
		rc = 1;
	return rc;
}
