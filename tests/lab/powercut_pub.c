/* SPDX-License-Identifier: Apache-2.0 */
/*
 * powercut_pub.c - publishes until the machine loses its power, and notes outside of that machine what was acknowledged;
 * checks afterwards that all of it is there, once and in order. run.sh of this folder cuts the power.
 *
 *   powercut_pub publish DIR NOTE READY   for ever; READY is made once some messages are acknowledged as durable
 *   powercut_pub check DIR NOTE           then goes on with what was found
 *   publish-written, check-written        acknowledged as written: here something must have been lost, in order
 *
 * NOTE lies where a cut does no harm, and is written after the acknowledgement that it notes, before the next poll.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITIONS 4u
#define BURST 20u
#define READY_AT 200u /* acknowledged messages, of all partitions */

struct note {
	uint64_t sent[PARTITIONS]; /* message i of a partition holds i; none from here on was sent */
	uint64_t acked[PARTITIONS]; /* all below are acknowledged */
};

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;

#define CHECK(x) \
	do { \
		if (!(x)) { \
			fprintf(stderr, "powercut_pub: line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg()); \
			return 1; \
		} \
	} while (0)

static int open_all(const char *dir, uint32_t durability)
{
	CHECK(thmq_env_open(&env, NULL) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2, .segment_bytes = 1u << 24),
			       &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .partition_count = PARTITIONS,
						.visible_at = durability)) == 0);
	return 0;
}

static uint32_t size_of(uint64_t number)
{
	return (uint32_t)(8 + number * 7919 % (number % 10 ? 200 : 20000));
}

static int put_note(int fd, const struct note *n)
{
	return pwrite(fd, n, sizeof(*n), 0) == (ssize_t)sizeof(*n) ? 0 : -1;
}

static int publish(const char *dir, const char *name, const char *ready, uint32_t durability)
{
	static uint64_t payload[4096];
	struct thmq_producer *producers[PARTITIONS];
	uint64_t first[PARTITIONS], i, k, total;
	int fd = open(name, O_RDWR | O_CREAT, 0600);
	bool said = false;
	struct note n = {0};

	CHECK(fd >= 0 && pread(fd, &n, sizeof(n), 0) >= 0);
	CHECK(open_all(dir, durability) == 0);
	memset(payload, 0x5a, sizeof(payload));
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.durability = durability), &producers[i]) == 0);
		first[i] = n.acked[i];
		n.sent[i] = first[i];
	}
	for (;;) {
		struct note plan = n;

		for (i = 0; i < PARTITIONS; i++)
			plan.sent[i] += BURST;
		CHECK(put_note(fd, &plan) == 0); /* before: what was not sent is not invented */
		for (i = 0; i < PARTITIONS; i++)
			for (k = 0; k < BURST; k++) {
				int64_t rc;

				payload[0] = n.sent[i];
				rc = thmq_send(producers[i], payload, size_of(n.sent[i]),
					       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = (uint32_t)i));
				if (rc == -EAGAIN)
					break;
				CHECK(rc >= 0);
				n.sent[i]++;
			}
		CHECK(thmq_poll(env, SECOND / 1000) >= 0);
		for (i = total = 0; i < PARTITIONS; i++) {
			int64_t mark = thmq_watermark(producers[i]);

			CHECK(mark >= 0);
			n.acked[i] = first[i] + (uint64_t)mark;
			total += (uint64_t)mark;
		}
		if (!said && total > READY_AT) {
			CHECK(put_note(fd, &n) == 0);
			close(open(ready, O_WRONLY | O_CREAT, 0600));
			said = true;
		}
	}
}

/* How many of each partition are there: 0, 1, 2 ... to the last. */
static int look(uint64_t next[PARTITIONS])
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t end[PARTITIONS], at[PARTITIONS] = {0}, number, i;
	struct thmq_consumer *reader;
	struct thmq_message m[64];
	int n, j;

	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(session, "t", (uint32_t)i, NULL, &info) == 0);
		end[i] = info.end_offset;
		next[i] = 0;
	}
	for (;;) {
		for (i = 0; i < PARTITIONS && at[i] >= end[i]; i++)
			;
		if (i == PARTITIONS)
			break;
		n = thmq_fetch(reader, m, 64);
		CHECK(n >= 0);
		if (n == 0)
			CHECK(thmq_session_wait(session, 30 * SECOND) > 0);
		for (j = 0; j < n; j++) {
			memcpy(&number, m[j].data, 8);
			CHECK(number == next[m[j].partition]++);
			CHECK(m[j].len == size_of(number));
			for (i = 8; i < m[j].len; i++)
				CHECK(((const uint8_t *)m[j].data)[i] == 0x5a);
			at[m[j].partition] = m[j].offset + 1;
		}
		thmq_release(reader, m, (uint32_t)n);
	}
	CHECK(thmq_consumer_close(reader, SECOND) == 0);
	return 0;
}

static int check(const char *dir, const char *name, bool losing)
{
	uint64_t next[PARTITIONS], sent = 0, acked = 0, there = 0, lost = 0, i;
	int fd = open(name, O_RDWR);
	struct note n;

	CHECK(fd >= 0 && pread(fd, &n, sizeof(n), 0) == (ssize_t)sizeof(n));
	CHECK(open_all(dir, losing ? THMQ_DURABILITY_WRITTEN : THMQ_DURABILITY_DURABLE) == 0);
	CHECK(look(next) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(next[i] <= n.sent[i]);
		lost += next[i] < n.acked[i] ? n.acked[i] - next[i] : 0;
		acked += n.acked[i];
		sent += n.sent[i];
		there += next[i];
		n.sent[i] = n.acked[i] = next[i];
	}
	CHECK(put_note(fd, &n) == 0);
	printf("%s: of %llu messages sent %llu were acknowledged, %llu of these are lost, %llu are there.\n", dir,
	       (unsigned long long)sent, (unsigned long long)acked, (unsigned long long)lost, (unsigned long long)there);
	return losing ? lost == 0 : lost != 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (argc == 5 && strcmp(what, "publish") == 0)
		return publish(argv[2], argv[3], argv[4], THMQ_DURABILITY_DURABLE);
	if (argc == 5 && strcmp(what, "publish-written") == 0)
		return publish(argv[2], argv[3], argv[4], THMQ_DURABILITY_WRITTEN);
	if (argc == 4 && strcmp(what, "check") == 0)
		return check(argv[2], argv[3], false);
	if (argc == 4 && strcmp(what, "check-written") == 0)
		return check(argv[2], argv[3], true);
	fprintf(stderr, "usage: powercut_pub publish[-written] DIR NOTE READY | check[-written] DIR NOTE\n");
	return 2;
}
