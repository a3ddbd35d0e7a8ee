/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay_copies_test.c - delayed messages of three brokers that keep the same data: the one that leads is closed while they wait, and each
 * comes once from the one that leads then, none early.
 */
#include <errno.h>
#include <unistd.h>

#include "../check.h"

#define BROKERS 3
#define MESSAGES 600u

static const char *const names[BROKERS] = {"first", "second", "third"};
static struct thmq_env *env;
static struct thmq_broker *brokers[BROKERS];
static char dir[] = "delay-copies-XXXXXX";
static uint64_t due[MESSAGES];
static bool came[MESSAGES];

static uint64_t wall(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void open_broker(int number)
{
	char data[128];

	snprintf(data, sizeof(data), "%s/%s", dir, names[number]);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = data, .name = names[number], .segment_bytes = 16u << 20,
						.cluster = "1=inproc://first,2=inproc://second,3=inproc://third",
						.node_id = (uint64_t)number + 1),
			       &brokers[number]) == 0);
}

static int leader(void)
{
	int i;

	for (i = 0; i < BROKERS; i++)
		if (brokers[i] && thmq_broker_leader(brokers[i], NULL) == 1)
			return i;
	return -1;
}

static void send_some(struct thmq_producer *p, uint32_t first, uint32_t count)
{
	uint32_t i;
	int64_t rc;

	for (i = first; i < first + count; i++) {
		due[i] = wall() + (uint64_t)(i * 7919 % 1200) * MS;
		while ((rc = thmq_send(p, &i, 4, THMQ_MESSAGE_OPTS(.deliver_at_ns = (int64_t)due[i]))) == -EAGAIN || rc == -THMQ_ENOQUORUM)
			thmq_flush(p, 10 * MS);
		CHECK(rc > 0);
	}
	CHECK(thmq_flush(p, 60 * SECOND) == 0);
}

static void read_all(struct thmq_session *session)
{
	uint64_t begin = now();
	uint32_t n = 0, i, id;
	struct thmq_consumer *c;
	struct thmq_message m[64];
	int got;

	CHECK(thmq_consumer_open(session, "notes", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	while (n < MESSAGES) {
		got = thmq_fetch(c, m, 64);
		CHECK(got >= 0 && now() - begin < 60 * SECOND);
		for (i = 0; i < (uint32_t)got; i++, n++) {
			memcpy(&id, m[i].data, 4);
			CHECK(m[i].len == 4 && id < MESSAGES && !came[id] && wall() >= due[id]);
			came[id] = true;
		}
		thmq_release(c, m, (uint32_t)got);
		if (!got)
			thmq_session_wait(session, 100 * MS);
	}
	nap(50 * MS);
	CHECK(thmq_fetch(c, m, 64) == 0); /* and no more */
}

int main(void)
{
	struct thmq_session *session;
	struct thmq_producer *p;
	char command[64];
	int i, was;

	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN)) == 0);
	for (i = 0; i < BROKERS; i++)
		open_broker(i);
	CHECK(thmq_connect(env, "inproc://first", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "notes", NULL) == 0);
	CHECK(thmq_producer_open(session, "notes", NULL, &p) == 0);
	send_some(p, 0, MESSAGES / 2);
	was = leader();
	CHECK(was >= 0 && thmq_broker_close(brokers[was], SECOND) == 0);
	brokers[was] = NULL;
	send_some(p, MESSAGES / 2, MESSAGES / 2);
	read_all(session);
	thmq_session_close(session, SECOND);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
