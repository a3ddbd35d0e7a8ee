/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers in one program, each with its own directory, that keep the same data. Messages are acknowledged once two of the three have them on
 * their media. The broker that leads is closed; the session finds the one that leads now by itself, and goes on; then all is read back.
 *
 * usage: three_brokers [directory]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thundermq/thundermq.h>

#define BROKERS 3
#define MESSAGES 1000u
#define SECOND 1000000000ull

static const char *const cluster = "1=inproc://first,2=inproc://second,3=inproc://third";
static const char *const names[BROKERS] = {"first", "second", "third"};

static struct thmq_env *env;
static struct thmq_broker *brokers[BROKERS];

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	exit(1);
}

/* Of a call on a message's way, which leaves no text. */
static void fail_with(const char *what, int rc)
{
	fprintf(stderr, "%s: %s\n", what, thmq_strerror(rc));
	exit(1);
}

static void open_broker(int number, const char *directory)
{
	char dir[512];

	snprintf(dir, sizeof(dir), "%s-%s", directory, names[number]);
	if (thmq_broker_open(env,
			     THMQ_BROKER_OPTS(.data_dir = dir, .name = names[number],
					      .segment_bytes = 16u << 20, .cluster = cluster,
					      .node_id = (uint64_t)number + 1),
			     &brokers[number]) != 0)
		fail("open a broker");
}

static int leader(void)
{
	for (int i = 0; i < BROKERS; i++)
		if (brokers[i] && thmq_broker_leader(brokers[i], NULL) == 1)
			return i;
	return -1;
}

static void send_some(struct thmq_producer *producer, unsigned first, unsigned count)
{
	for (unsigned i = first; i < first + count; i++) {
		char text[64];
		int64_t rc;

		snprintf(text, sizeof(text), "message %u", i);
		while ((rc = thmq_send(producer, text, (uint32_t)strlen(text), NULL)) == -EAGAIN)
			thmq_flush(producer, SECOND / 100);
		if (rc < 0)
			fail_with("send", (int)rc);
	}
	if (thmq_flush(producer, 30 * SECOND) != 0)
		fail("flush");
	printf("%u messages are on two media at least\n", count);
}

/* From the first one on: each is there once, in order. */
static unsigned read_all(struct thmq_session *session, unsigned from)
{
	struct thmq_consumer *consumer;
	struct thmq_message m[64];
	unsigned next = from, number;

	if (thmq_consumer_open(session, "notes", NULL,
			       THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &consumer) != 0)
		fail("open a consumer");
	while (next < from + 2 * MESSAGES) {
		int n = thmq_fetch(consumer, m, 64);

		if (n < 0)
			fail_with("fetch", n);
		for (int i = 0; i < n; i++) {
			if (sscanf(m[i].data, "message %u", &number) != 1 || number != next)
				fail_with("a message is missing, or out of order", -EIO);
			next++;
		}
		thmq_release(consumer, m, (uint32_t)n);
		if (!n && thmq_session_wait(session, 10 * SECOND) <= 0)
			break;
	}
	thmq_consumer_close(consumer, SECOND);
	return next - from;
}

int main(int argc, char **argv)
{
	struct thmq_session *session;
	struct thmq_producer *producer;
	unsigned count;
	int was;

	if (thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)) != 0)
		fail("environment");
	for (int i = 0; i < BROKERS; i++)
		open_broker(i, argc > 1 ? argv[1] : "three-brokers");
	/* any of them tells where to go */
	if (thmq_connect(env, "inproc://first", NULL, &session) != 0)
		fail("connect");
	thmq_topic_delete(session, "notes"); /* of an earlier run */
	if (thmq_topic_create(session, "notes", NULL) != 0 ||
	    thmq_producer_open(session, "notes", NULL, &producer) != 0)
		fail("topic");
	was = leader();
	printf("the %s broker leads\n", names[was]);
	send_some(producer, 0, MESSAGES);
	if (thmq_broker_close(brokers[was], SECOND) != 0)
		fail("close");
	brokers[was] = NULL;
	printf("it is closed\n");
	send_some(producer, MESSAGES, MESSAGES);
	printf("the %s broker leads\n", names[leader()]);
	count = read_all(session, 0);
	printf("%u messages are there\n", count);
	thmq_session_close(session, SECOND);
	for (int i = 0; i < BROKERS; i++)
		if (brokers[i])
			thmq_broker_close(brokers[i], SECOND);
	thmq_env_close(env, SECOND);
	return count == 2 * MESSAGES ? 0 : 1;
}
