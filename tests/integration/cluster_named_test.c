/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster_named_test.c - a producer with a name, of brokers that keep the same data: its application dies, or the one that leads does, with messages on their way, and opens
 * it again. What thmq_watermark() tells then is all that is stored: the sequences that go on from there are new, and what was acknowledged is among those told.
 *
 * usage: cluster_named_test [rounds] [seed]; THMQ_TEST_FULL=1 goes on for longer
 */
#include "cluster_rig.h"

#define PARTITIONS 4u
#define SENT_MAX 1000000u
#define EACH 100u

static struct thmq_session *session;
static struct thmq_producer *producer;
static uint64_t acknowledged, last;
static bool seen[SENT_MAX], acked[SENT_MAX];

static struct thmq_session *connect_one(void)
{
	struct thmq_session *s;

	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = PATIENCE_NS, .reconnect_ns = PATIENCE_NS, .peer_timeout_ns = SECOND), &s) == 0);
	return s;
}

/* Its sequences begin behind all that anybody may have stored. */
static void open_again(void)
{
	int64_t told;

	session = connect_one();
	CHECK(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.name = "one"), &producer) == 0);
	told = thmq_watermark(producer);
	CHECK(told >= (int64_t)acknowledged && told <= (int64_t)last);
	last = acknowledged = (uint64_t)told; /* of those between some may be lost, in another partition */
}

static void send_some(uint32_t most)
{
	uint32_t n = (uint32_t)rig_chance(most), partition;
	int64_t rc;

	while (n--) {
		partition = (uint32_t)rig_chance(PARTITIONS);
		last++;
		rc = thmq_send(producer, &last, sizeof(last), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
		if (rc == -EAGAIN || rc == -THMQ_ENOQUORUM) {
			last--;
			return;
		}
		CHECK(rc == (int64_t)last && last < SENT_MAX);
	}
}

static void note_acknowledged(void)
{
	int64_t mark = thmq_watermark(producer);

	CHECK(mark >= 0);
	for (; acknowledged < (uint64_t)mark; acknowledged++)
		acked[acknowledged + 1] = true;
}

static void end_badly(void)
{
	uint32_t who = rig_some_leader(), kind = (uint32_t)rig_chance(3);

	if (kind) /* the one that leads; the session may come back to another one, or dies meanwhile */
		rig_close(who, 0);
	if (kind == 2) {
		send_some(EACH);
		thmq_session_wait(session, rig_chance(100) * MS);
		note_acknowledged();
	}
	thmq_session_close(session, 0);
	if (kind)
		rig_open(who);
}

static void read_all(void)
{
	uint64_t end = now() + PATIENCE_NS, number, left = 0, i;
	struct thmq_consumer *c;
	struct thmq_message m;
	int n;

	for (i = 1; i <= acknowledged; i++)
		left += acked[i];
	session = connect_one();
	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	while (left) {
		n = thmq_fetch(c, &m, 1);
		CHECK(n >= 0 && now() < end);
		if (!n) {
			thmq_session_wait(session, 10 * MS);
			continue;
		}
		memcpy(&number, m.data, sizeof(number));
		CHECK(number && number <= last && !seen[number]);
		seen[number] = true;
		left -= acked[number];
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_session_close(session, PATIENCE_NS) == 0);
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 200 : 8, i, k;

	rig_seed(argc > 2 ? argv[2] : NULL);
	rig_begin("named", false, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .heartbeat_ms = 30, .election_ms = 150));
	rig_open_all();
	session = connect_one();
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	CHECK(thmq_session_close(session, SECOND) == 0);
	for (i = 0; i < rounds; i++) {
		open_again();
		for (k = (uint32_t)rig_chance(20); k; k--) {
			send_some(EACH);
			thmq_session_wait(session, rig_chance(3) * MS);
			note_acknowledged();
		}
		end_badly();
	}
	read_all();
	printf("%llu sequences, %llu acknowledged\n", (unsigned long long)last, (unsigned long long)acknowledged);
	rig_end();
	return 0;
}
