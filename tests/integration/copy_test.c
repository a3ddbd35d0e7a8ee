/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_test.c - thmq_broker_copy() while producers write at full speed, topics are made and groups ack: the copy opens, has every
 * message that was acknowledged before the call, in order and whole, each topic that they are of, and the very bytes of
 * the original. And: closing ends a copy, time-outs, brokers that cannot be copied, thmq_data_copy().
 *
 * Exit: 0 passed, 1 failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITIONS 4u
#define COPIES 4u
#define TOPICS_MAX 64u
#define FAST_MESSAGES 15000u /* of a partition, at full speed */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "copy_test: line %d: %s (%s)\n", __LINE__, #x,             \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static char base[] = "copy-test-XXXXXX", data[64];

struct writer {
	pthread_t thread;
	struct thmq_env *env;
	volatile uint64_t acked[PARTITIONS]; /* messages, all below are durable */
	volatile uint32_t topics;            /* made */
	volatile bool stop;
};

static uint32_t size_of(uint64_t i)
{
	return (uint32_t)(8 + i * 131 % 1200);
}

static void nap(long ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* A new topic, one message in it: whoever has the message must know the topic. */
static void make_topic(struct writer *w, struct thmq_session *s)
{
	struct thmq_producer *p;
	uint64_t number = w->topics;
	char name[32];

	snprintf(name, sizeof(name), "new-%u", w->topics);
	CHECK(thmq_topic_create(s, name, NULL) == 0);
	CHECK(thmq_producer_open(s, name, NULL, &p) == 0);
	CHECK(thmq_send(p, &number, sizeof(number), NULL) > 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_producer_close(p, SECOND) == 0);
	w->topics++;
}

static void *write_on(void *arg)
{
	struct writer *w = arg;
	struct thmq_producer *p[PARTITIONS];
	struct thmq_session *s;
	uint64_t sent[PARTITIONS] = {0}, rounds = 0;
	static __thread uint8_t body[4096];
	int64_t seq;

	CHECK(thmq_connect(w->env, "inproc://", NULL, &s) == 0);
	for (uint32_t i = 0; i < PARTITIONS; i++)
		CHECK(thmq_producer_open(s, "t", NULL, &p[i]) == 0);
	while (!w->stop) {
		for (uint32_t i = 0; i < PARTITIONS; i++) {
			for (uint32_t k = 0; k < 64; k++) {
				memset(body, (uint8_t)sent[i], size_of(sent[i]));
				memcpy(body, &sent[i], 8);
				seq = thmq_send(p[i], body, size_of(sent[i]),
						THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
								  .partition = i));
				if (seq < 0)
					break;
				sent[i]++;
			}
			w->acked[i] = (uint64_t)thmq_watermark(p[i]);
		}
		if (++rounds % 50 == 0 && w->topics < TOPICS_MAX)
			make_topic(w, s);
		thmq_session_wait(s, 100000);
		if (sent[0] > FAST_MESSAGES)
			nap(2); /* the disk is not only ours */
	}
	for (uint32_t i = 0; i < PARTITIONS; i++)
		CHECK(thmq_flush(p[i], 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	return NULL;
}

static void open_at(const char *dir, uint32_t cores, struct thmq_env **env,
		    struct thmq_broker **broker)
{
	CHECK(thmq_env_open(env, THMQ_ENV_OPTS(.core_count = cores, .pool_bytes = 256u << 20)) ==
	      0);
	CHECK(thmq_broker_open(*env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2,
						.segment_bytes = 4u << 20),
			       broker) == 0);
}

/* ------------------------------------------------------------------- looking */

/* Messages of a topic, each partition's in order from its first on: their number by partition. */
static void read_all(struct thmq_session *s, const char *topic, uint64_t next[PARTITIONS])
{
	struct thmq_consumer *c;
	struct thmq_message m[128];
	uint32_t idle = 0;
	uint64_t number;
	int n;

	memset(next, 0, PARTITIONS * sizeof(*next));
	CHECK(thmq_consumer_open(s, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN),
				 &c) == 0);
	while (idle < 30) {
		n = thmq_fetch(c, m, 128);
		CHECK(n >= 0);
		idle = n ? 0 : idle + 1;
		for (int i = 0; i < n; i++) {
			memcpy(&number, m[i].data, 8);
			if (strcmp(topic, "t") == 0) {
				CHECK(m[i].offset == number && number == next[m[i].partition] &&
				      m[i].len == size_of(number));
				for (uint32_t k = 8; k < m[i].len; k++)
					CHECK(((const uint8_t *)m[i].data)[k] == (uint8_t)number);
			}
			next[m[i].partition] = number + 1;
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		if (!n)
			thmq_session_wait(s, 10000000);
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

static void expect_copy(const char *dir, const uint64_t acked[PARTITIONS], uint32_t topics)
{
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *s;
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	uint64_t next[PARTITIONS];
	char name[32];

	open_at(dir, 0, &env, &broker);
	CHECK(thmq_broker_stats(broker, &stats) == 0 && stats.torn_bytes == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	read_all(s, "t", next);
	for (uint32_t i = 0; i < PARTITIONS; i++)
		CHECK(next[i] >= acked[i]);
	for (uint32_t i = 0; i < topics; i++) {
		struct thmq_partition_info info = {.size = sizeof(info)};

		snprintf(name, sizeof(name), "new-%u", i);
		CHECK(thmq_partition_describe(s, name, 0, NULL, &info) == 0);
		CHECK(info.end_offset == 1);
	}
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

/* Every batch of the copy lies at the same place in the original, byte for byte. */
struct compare {
	const char *copy;
	char log[32];
	uint64_t batches;
	int last_fd[2];
	char last_name[2][300];
};

static uint64_t segment_of(const char *dir, const char *log, uint64_t position)
{
	char path[300];
	uint64_t at = 0;

	/* sizes double, and are the file's own */
	for (;;) {
		FILE *f;
		long bytes;

		snprintf(path, sizeof(path), "%s/%s/%020llu.log", dir, log, (unsigned long long)at);
		f = fopen(path, "r");
		CHECK(f);
		fseek(f, 0, SEEK_END);
		bytes = ftell(f);
		fclose(f);
		if (position < at + (uint64_t)bytes)
			return at;
		at += (uint64_t)bytes;
	}
}

static int on_log(void *ctx, const char *name)
{
	snprintf(((struct compare *)ctx)->log, 32, "%s", name);
	return 0;
}

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	static uint8_t bytes[2][4u << 20];
	struct compare *c = ctx;
	uint64_t segment;
	uint32_t len = b->type == 6 ? 4096 : b->len; /* of a pad only the first block is written */
	char path[300];

	if (c->batches++ % 16) /* some of them: it is slow */
		return 0;
	segment = segment_of(c->copy, c->log, b->position);
	for (int i = 0; i < 2; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%s/%020llu.log", i ? data : c->copy, c->log,
			 (unsigned long long)segment);
		fd = open(path, O_RDONLY);
		CHECK(fd >= 0 &&
		      pread(fd, bytes[i], len, (off_t)(b->position - segment)) == (ssize_t)len);
		close(fd);
	}
	return memcmp(bytes[0], bytes[1], len) ? -1 : 0;
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct compare *c = ctx;

	fprintf(stderr, "copy_test: %s %s: %s\n", c->copy, c->log, f->text);
	return -2; /* not even a leftover */
}

static void expect_same_bytes(const char *copy)
{
	static const struct thmq_log_visitor visitor = {
		.size = sizeof(visitor), .batch = on_batch, .finding = on_finding, .log = on_log};
	struct compare c = {.copy = copy};

	CHECK(thmq_data_scan(copy, &visitor, &c) == 0);
	CHECK(c.batches > 2);
}

/* --------------------------------------------------------------------- tests */

static void copies_beside_writers(void)
{
	struct writer w = {0};
	struct thmq_broker *broker;
	struct thmq_session *s;
	uint64_t acked[COPIES][PARTITIONS];
	uint32_t topics[COPIES];
	char dest[COPIES][80];

	open_at(data, 1, &w.env, &broker);
	CHECK(thmq_connect(w.env, "inproc://", NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	CHECK(pthread_create(&w.thread, NULL, write_on, &w) == 0);
	for (uint32_t i = 0; i < COPIES; i++) {
		nap(100);
		for (uint32_t p = 0; p < PARTITIONS; p++)
			acked[i][p] = w.acked[p];
		topics[i] = w.topics;
		snprintf(dest[i], sizeof(dest[i]), "%s/copy-%u", base, i);
		CHECK(thmq_broker_copy(broker, dest[i], 60 * SECOND) == 0);
		/* it went on meanwhile */
		nap(20);
		CHECK(w.acked[0] > acked[i][0]);
	}
	w.stop = true;
	pthread_join(w.thread, NULL);
	CHECK(thmq_broker_copy(broker, dest[0], SECOND) == -ENOTEMPTY);
	CHECK(thmq_broker_copy(broker, NULL, SECOND) == -EINVAL);
	CHECK(thmq_env_close(w.env, 30 * SECOND) == 0);
	for (uint32_t i = 0; i < COPIES; i++) {
		expect_same_bytes(dest[i]);
		expect_copy(dest[i], acked[i], topics[i]);
	}
	printf("copies while %llu messages were written: %u topics\n",
	       (unsigned long long)(w.acked[0] + w.acked[1] + w.acked[2] + w.acked[3]), w.topics);
}

struct copier {
	pthread_t thread;
	struct thmq_broker *broker;
	const char *dest;
	int rc;
};

static void *copy_on(void *arg)
{
	struct copier *c = arg;

	c->rc = thmq_broker_copy(c->broker, c->dest, 60 * SECOND);
	return NULL;
}

static void closing_ends_a_copy(void)
{
	struct thmq_broker *broker;
	struct thmq_env *env;
	struct copier c;
	char dest[80];

	for (uint32_t i = 0; i < 6; i++) {
		open_at(data, i % 2, &env, &broker);
		snprintf(dest, sizeof(dest), "%s/closing-%u", base, i);
		c = (struct copier){.broker = broker, .dest = dest};
		CHECK(pthread_create(&c.thread, NULL, copy_on, &c) == 0);
		if (i % 2 == 0) /* its core is this thread's */
			thmq_poll(env, 1000000);
		nap(i);
		CHECK(thmq_broker_close(broker, 10 * SECOND) == 0);
		pthread_join(c.thread, NULL);
		CHECK(c.rc == 0 || c.rc == -ESHUTDOWN || c.rc == -EINVAL);
		CHECK(thmq_env_close(env, SECOND) == 0);
		if (c.rc == -ESHUTDOWN) /* never taken for a copy */
			CHECK(thmq_data_scan(dest, NULL, NULL) < 0);
	}
}

static void what_cannot_be_copied(void)
{
	struct thmq_broker *broker;
	struct thmq_env *env;
	char dest[80];

	open_at(data, 0, &env, &broker); /* driven by this thread, which copies too */
	snprintf(dest, sizeof(dest), "%s/late", base);
	CHECK(thmq_broker_copy(broker, dest, 0) == -ETIMEDOUT);
	CHECK(thmq_data_copy(data, dest) == -EBUSY);
	CHECK(thmq_broker_copy(broker, data, 60 * SECOND) == -EINVAL);
	snprintf(dest, sizeof(dest), "%s/shard-000/copy", data);
	CHECK(thmq_broker_copy(broker, dest, 60 * SECOND) == -EINVAL);
	snprintf(dest, sizeof(dest), "%s/own", base);
	CHECK(thmq_broker_copy(broker, dest, 60 * SECOND) == 0);
	CHECK(thmq_broker_close(broker, SECOND) == 0);
	CHECK(thmq_broker_copy(broker, dest, SECOND) == -EINVAL);
	CHECK(thmq_data_scan(dest, NULL, NULL) == 0);
	CHECK(thmq_broker_open(env, NULL, &broker) == 0);
	snprintf(dest, sizeof(dest), "%s/volatile", base);
	CHECK(thmq_broker_copy(broker, dest, SECOND) == -EOPNOTSUPP);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

static void a_closed_directory_is_copied(void)
{
	const uint64_t none[PARTITIONS] = {0};
	char dest[80], command[200];

	snprintf(dest, sizeof(dest), "%s/closed", base);
	CHECK(thmq_data_copy(data, dest) == 0);
	CHECK(thmq_data_copy(data, dest) == -ENOTEMPTY);
	expect_same_bytes(dest);
	expect_copy(dest, none, 0);
	snprintf(dest, sizeof(dest), "%s/meta/copy", data);
	CHECK(thmq_data_copy(data, dest) == -EINVAL && strstr(thmq_errmsg(), "elsewhere"));
	snprintf(dest, sizeof(dest), "%s/closed", base);
	CHECK(thmq_data_copy("no-such-directory", "other") == -ENOENT);
	CHECK(thmq_data_copy(base, "other") == -ENOENT);
	/* what is damaged is not copied, what lies in the wrong place neither */
	snprintf(command, sizeof(command),
		 "cd %s && mv shard-000 x && mv shard-001 shard-000 && mv x shard-001", dest);
	CHECK(system(command) == 0);
	snprintf(command, sizeof(command), "%s/again", base);
	CHECK(thmq_data_scan(dest, NULL, NULL) == -THMQ_ECORRUPT);
	CHECK(thmq_data_copy(dest, command) == -THMQ_ECORRUPT);
	/* and a repair puts it right */
	CHECK(thmq_data_repair(dest, NULL, NULL, NULL) == 2);
	CHECK(thmq_data_scan(dest, NULL, NULL) == -THMQ_ECORRUPT);
	CHECK(thmq_data_repair(dest, THMQ_LOG_REPAIR_OPTS(.flags = THMQ_REPAIR_WRITE), NULL,
			       NULL) == 2);
	CHECK(thmq_data_scan(dest, NULL, NULL) == 0);
	expect_copy(dest, none, 0);
	CHECK(thmq_data_copy(dest, command) == 0);
}

int main(void)
{
	char command[100];

	CHECK(mkdtemp(base));
	snprintf(data, sizeof(data), "%s/data", base);
	copies_beside_writers();
	closing_ends_a_copy();
	what_cannot_be_copied();
	a_closed_directory_is_copied();
	snprintf(command, sizeof(command), "rm -rf %s", base);
	return system(command) != 0;
}
