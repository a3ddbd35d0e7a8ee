/* SPDX-License-Identifier: Apache-2.0 */
/*
 * powercut_pub.c - publishes until the machine loses its power, and notes what was acknowledged where a cut does no harm;
 * checks afterwards that all of it is there, once and in order. It knows nothing of how the power is cut: run.sh of this
 * folder does that, and replay.c rebuilds what a drive held at any moment.
 *
 *   powercut_pub publish MODE DIR NOTE READY   for ever; the file READY is made once some messages are acknowledged
 *   powercut_pub publish MODE DIR NOTE COUNT   so many acknowledged messages, then an orderly end
 *   powercut_pub check MODE DIR NOTE           0: as it must be; 3: acknowledged messages are lost; 1: anything else
 *
 * MODE is durable (every message is acknowledged when durable) or mixed (the messages of two partitions of four when they
 * are written: those may be lost, and make the others' durability a matter of flushes).
 * NOTE is a file, or dm:NAME, the device-mapper target log-writes of that name, which puts the note into its log. It is
 * written before the messages that it says were sent, and after the acknowledgements that it says were seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define PARTITIONS 4u
#define BURST 20u
#define READY_AT 200u /* acknowledged messages, of all partitions */
#define NOTE_BYTES (2 * PARTITIONS * 17)
#define LOST 3

struct note {
	uint64_t acked
		[PARTITIONS]; /* message i of a partition holds i; all below are acknowledged */
	uint64_t sent[PARTITIONS]; /* none from here on was sent */
};

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static bool mixed;

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "powercut_pub: line %d: %s (%s)\n", __LINE__, #x,          \
				thmq_errmsg());                                                    \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)

#ifdef PLANTED
#define TAKEN_FOR_DURABLE THMQ_DURABILITY_WRITTEN
#else
#define TAKEN_FOR_DURABLE THMQ_DURABILITY_DURABLE
#endif

static bool is_weak(uint32_t partition)
{
	return mixed && partition >= PARTITIONS / 2;
}

/* The planted one of a mixture sends what is durable as such: there its log lies. */
static uint32_t durability_of(uint32_t partition)
{
	return is_weak(partition) ? THMQ_DURABILITY_WRITTEN
	       : mixed            ? THMQ_DURABILITY_DURABLE
				  : TAKEN_FOR_DURABLE;
}

/* A new segment brings a flush: many to cut there, few where a flush would hide what was planted. */
static uint64_t segment_bytes(void)
{
	return !mixed && TAKEN_FOR_DURABLE == THMQ_DURABILITY_WRITTEN ? 1u << 24 : 1u << 20;
}

static int open_all(const char *dir)
{
	CHECK(thmq_env_open(&env, NULL) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2,
						.segment_bytes = segment_bytes()),
			       &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
						.partition_count = PARTITIONS,
						/* what must be durable to be seen is written so */
						.visible_at = durability_of(PARTITIONS - 1))) == 0);
	return 0;
}

static uint32_t size_of(uint64_t number)
{
	return (uint32_t)(8 + number * 7919 % (number % 10 ? 200 : 20000));
}

/* ------------------------------------------------------------------ the note */

/* Numbers of 16 hexadecimal digits: one word, as long as ever. */
static void note_print(const struct note *n, char text[NOTE_BYTES + 1])
{
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++)
		sprintf(text + 17 * i, "%016llx,", (unsigned long long)n->acked[i]);
	for (i = 0; i < PARTITIONS; i++)
		sprintf(text + 17 * (PARTITIONS + i), "%016llx,", (unsigned long long)n->sent[i]);
}

/* dmsetup message NAME 0 mark TEXT */
static int mark_log(const char *name, const char *text)
{
	union {
		struct dm_ioctl head;
		char room[sizeof(struct dm_ioctl) + sizeof(struct dm_target_msg) + NOTE_BYTES + 16];
	} message = {.head = {.version = {DM_VERSION_MAJOR, 0, 0},
			      .data_size = sizeof(message),
			      .data_start = sizeof(struct dm_ioctl)}};
	struct dm_target_msg *m = (void *)(message.room + sizeof(struct dm_ioctl));
	static int control = -1;

	if (control < 0)
		control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	snprintf(message.head.name, sizeof(message.head.name), "%s", name);
	sprintf(m->message, "mark %s", text);
	return ioctl(control, DM_TARGET_MSG, &message);
}

static int note_put(const char *name, const struct note *n)
{
	char text[NOTE_BYTES + 1];
	static int fd = -1;

	note_print(n, text);
	if (strncmp(name, "dm:", 3) == 0)
		return mark_log(name + 3, text);
	if (fd < 0)
		fd = open(name, O_WRONLY | O_CREAT, 0600);
	return pwrite(fd, text, NOTE_BYTES, 0) == NOTE_BYTES ? 0 : -1;
}

/* No note: nothing was sent. */
static int note_get(const char *name, struct note *n)
{
	int fd = strncmp(name, "dm:", 3) ? open(name, O_RDONLY) : -1;
	char text[NOTE_BYTES + 1] = "", *at = text;
	uint32_t i;

	memset(n, 0, sizeof(*n));
	if (fd < 0)
		return 0;
	if (read(fd, text, NOTE_BYTES) != NOTE_BYTES)
		return -1;
	close(fd);
	for (i = 0; i < PARTITIONS; i++, at++)
		n->acked[i] = strtoull(at, &at, 16);
	for (i = 0; i < PARTITIONS; i++, at++)
		n->sent[i] = strtoull(at, &at, 16);
	return 0;
}

/* ---------------------------------------------------------------- publishing */

static int send_burst(struct thmq_producer *producer, uint32_t partition, uint64_t *next)
{
	static uint64_t payload[4096];
	uint32_t k;

	memset(payload, 0x5a, sizeof(payload));
	for (k = 0; k < BURST; k++) {
		int64_t rc;

		payload[0] = *next;
		rc = thmq_send(
			producer, payload, size_of(*next),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
		if (rc == -EAGAIN)
			break;
		CHECK(rc >= 0);
		++*next;
	}
	return 0;
}

/* Those that failed are settled too: their marks say nothing of what is there. */
static bool has_failed(void)
{
	struct thmq_event e;
	bool failed = false;

	while (thmq_events(session, &e, 1) == 1)
		failed = failed || e.type == THMQ_EVENT_FAILED || e.type == THMQ_EVENT_CLOSED;
	return failed;
}

/* A batch with a durable message is written through the cache, unless one of written messages alone went before. */
static bool is_due(uint32_t turn, uint32_t partition)
{
	return turn % 3 == 0   ? partition >= PARTITIONS / 2
	       : turn % 3 == 1 ? partition < PARTITIONS / 2
			       : true;
}

static int publish(const char *dir, const char *name, const char *ready)
{
	uint64_t first[PARTITIONS], total = 0, count = strtoull(ready, NULL, 10);
	struct thmq_producer *producers[PARTITIONS];
	int64_t marks[PARTITIONS];
	bool said = false;
	uint32_t i, turn;
	struct note n;

	CHECK(note_get(name, &n) == 0);
	CHECK(open_all(dir) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_producer_open(session, "t",
					 THMQ_PRODUCER_OPTS(.durability = durability_of(i)),
					 &producers[i]) == 0);
		n.sent[i] = first[i] = n.acked[i];
	}
	for (turn = 0; !count || total < count; turn++) {
		struct note plan = n;

		for (i = 0; i < PARTITIONS; i++)
			plan.sent[i] += BURST;
		CHECK(note_put(name, &plan) == 0); /* before: what was not sent is not invented */
		for (i = 0; i < PARTITIONS; i++)
			if (is_due(turn, i))
				CHECK(send_burst(producers[i], i, &n.sent[i]) == 0);
		CHECK(thmq_poll(env, SECOND / 1000) >= 0);
		for (i = 0; i < PARTITIONS; i++)
			marks[i] = thmq_watermark(producers[i]);
		CHECK(!has_failed());
		for (i = 0, total = 0; i < PARTITIONS; i++) {
			CHECK(marks[i] >= 0);
			n.acked[i] = first[i] + (uint64_t)marks[i];
			total += (uint64_t)marks[i];
		}
		if (!count && !said && total > READY_AT) {
			CHECK(note_put(name, &n) == 0);
			close(open(ready, O_WRONLY | O_CREAT, 0600));
			said = true;
		}
	}
	CHECK(note_put(name, &n) == 0);
#ifndef PLANTED /* a log that never flushes waits for ever for its last flush */
	CHECK(thmq_env_close(env, 60 * SECOND) == 0);
#endif
	printf("%s: %llu messages acknowledged\n", dir, (unsigned long long)total);
	return 0;
}

/* ------------------------------------------------------------------ checking */

/* How many of each partition are there: 0, 1, 2 ... to the last. */
static int look(uint64_t next[PARTITIONS])
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t end[PARTITIONS], at[PARTITIONS] = {0}, number;
	struct thmq_consumer *reader;
	struct thmq_message m[64];
	uint32_t i;
	int n, j;

	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN),
				 &reader) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(session, "t", i, NULL, &info) == 0);
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

static int check(const char *dir, const char *name)
{
	uint64_t next[PARTITIONS], sent = 0, acked = 0, there = 0, lost = 0, weak_lost = 0;
	struct note n;
	uint32_t i;

	CHECK(note_get(name, &n) == 0);
	if (open_all(dir) !=
	    0) /* the log itself may see that it lost what it had said to be durable */
		return strstr(thmq_errmsg(), "known durable") ? LOST : 1;
	CHECK(look(next) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		uint64_t gone = next[i] < n.acked[i] ? n.acked[i] - next[i] : 0;

		CHECK(next[i] <= n.sent[i]);
		if (is_weak(i))
			weak_lost += gone;
		else
			lost += gone;
		acked += n.acked[i];
		sent += n.sent[i];
		there += next[i];
		n.sent[i] = n.acked[i] = next[i];
	}
	CHECK(note_put(name, &n) == 0);
	printf("sent %llu, acknowledged %llu, there %llu, lost of the durable %llu, of the written "
	       "%llu\n",
	       (unsigned long long)sent, (unsigned long long)acked, (unsigned long long)there,
	       (unsigned long long)lost, (unsigned long long)weak_lost);
	return lost ? LOST : 0;
}

int main(int argc, char **argv)
{
	if (argc >= 5 && (strcmp(argv[2], "durable") == 0 || strcmp(argv[2], "mixed") == 0)) {
		mixed = argv[2][0] == 'm';
		if (argc == 6 && strcmp(argv[1], "publish") == 0)
			return publish(argv[3], argv[4], argv[5]);
		if (argc == 5 && strcmp(argv[1], "check") == 0)
			return check(argv[3], argv[4]);
	}
	fprintf(stderr, "usage: powercut_pub publish durable|mixed DIR NOTE READY|COUNT | check "
			"durable|mixed DIR NOTE\n");
	return 2;
}
