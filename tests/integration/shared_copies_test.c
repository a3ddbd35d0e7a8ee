/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared group whose brokers have copies: the lead goes from one to another and back, brokers are closed as if killed and come back, with members attached and
 * without. What was acknowledged and flushed never comes again; all the rest comes to somebody, also from a broker that led before; and acknowledgements go on to
 * be stored.
 *
 * usage: shared_copies_test [seed]; THMQ_TEST_FULL=1 goes on for longer.
 */
#include "cluster_rig.h"

#define PARTITIONS 2u
#define MESSAGES 16384u

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *member;
	uint32_t sent;
	/* by message: it came; it was acknowledged since the last flush; that is stored */
	uint8_t came[MESSAGES], acked[MESSAGES], stored[MESSAGES];
	uint32_t handed;
} w;

static void lead(uint32_t who)
{
	CHECK(thmq_cluster_lead(w.session, who + 1, 30 * SECOND) == 0);
	rig_wait_for(who);
}

/* ---------------------------------------------------------------------- flow */

static void send_some(uint32_t count)
{
	uint64_t end = now() + 30 * SECOND;
	static uint8_t body[4096]; /* so that segments are filled */

	while (count) {
		memcpy(body, &w.sent, sizeof(w.sent));
		int64_t rc = thmq_send(w.producer, body, sizeof(body),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
							 .partition = w.sent % PARTITIONS));

		CHECK(rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM);
		if (rc > 0) {
			w.sent++;
			count--;
		} else {
			CHECK(thmq_session_wait(w.session, SECOND / 100) >= 0);
		}
		CHECK(now() < end && w.sent < MESSAGES);
	}
	CHECK(thmq_flush(w.producer, 30 * SECOND) == 0);
}

static void join(void)
{
	CHECK(thmq_consumer_open(w.session, "t", "workers",
				 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
						    .invisible_ns = 600 * SECOND,
						    .prefetch_count = 32),
				 &w.member) == 0);
}

/* @acks: of 4 messages that come so many are acknowledged; the others are given back. Return: how many came. */
static uint32_t take(uint32_t acks)
{
	struct thmq_message m[16];
	struct thmq_event e;
	int n = thmq_fetch(w.member, m, 16), i, rc;
	uint32_t number;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, sizeof(number));
		CHECK(number < w.sent && number % PARTITIONS == m[i].partition);
		if (w.stored[number])
			fprintf(stderr, "message %u comes again\n", number);
		CHECK(!w.stored[number]);
		w.came[number] = 1;
		w.handed++;
		if (rig_chance(4) < acks) {
			rc = thmq_ack(w.member, &m[i]);
			CHECK(rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
			w.acked[number] = rc == 0;
		} else {
			rc = thmq_nack(w.member, &m[i], rig_chance(SECOND / 50));
			CHECK(rc == 0 || rc == -EAGAIN);
		}
	}
	CHECK(thmq_release(w.member, m, (uint32_t)n) == 0);
	while (thmq_events(w.session, &e, 1) == 1)
		CHECK(e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED ||
		      e.type == THMQ_EVENT_REVOKED || e.type == THMQ_EVENT_ASSIGNED);
	return (uint32_t)n;
}

/* What is acknowledged is stored from now on, or it is not known. */
static void flush(void)
{
	int rc = thmq_consumer_flush(w.member, 20 * SECOND);

	if (rc && rc != -THMQ_EFENCED)
		fprintf(stderr, "flush: %d\n", rc);
	CHECK(rc == 0 || rc == -THMQ_EFENCED);
	for (uint32_t i = 0; i < w.sent; i++) {
		if (rc == 0 && w.acked[i])
			w.stored[i] = 1;
		w.acked[i] = 0;
	}
}

static void leave(void)
{
	flush();
	CHECK(thmq_consumer_close(w.member, 10 * SECOND) == 0);
	w.member = NULL;
}

/* Of @count messages, or for so long. */
static void work(uint32_t count, uint64_t ns, uint32_t acks)
{
	uint64_t end = now() + ns;

	while (count && now() < end) {
		uint32_t n = take(acks);

		count -= n < count ? n : count;
		if (!n)
			CHECK(thmq_session_wait(w.session, SECOND / 500) >= 0);
	}
}

static bool is_done(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	for (uint32_t i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(w.session, "t", i, "workers", &info) == 0);
		if (info.group_offset != info.end_offset)
			return false;
	}
	return true;
}

/* All that was sent has come to somebody, and is done. */
static void finish(void)
{
	uint64_t end = now() + 40 * SECOND;
	uint32_t i;

	do {
		work(64, SECOND / 20, 4);
		flush();
		CHECK(now() < end);
	} while (!is_done());
	for (i = 0; i < w.sent; i++) {
		if (!w.came[i])
			fprintf(stderr, "message %u never came\n", i);
		CHECK(w.came[i]);
	}
}

/* --------------------------------------------------------------------- stories */

/* It leads, another one does, and it leads again, before anything of the group is stored. */
static void there_and_back(bool attached)
{
	uint32_t first = rig_some_leader(), other = (first + 1) % BROKERS, i;

	send_some(100);
	if (!w.member)
		join();
	work(30, SECOND, 3);
	if (!attached)
		leave();
	for (i = 0; i < 4; i++) { /* sometimes there is nothing to be taken back */
		usleep(20000);
		lead(other);
		usleep(20000);
		lead(first);
	}
	if (!attached)
		join();
	work(20, SECOND, 3);
	flush();
}

static void lose_leader(void)
{
	uint32_t who = rig_some_leader();

	send_some(50);
	work(20, SECOND / 5, 3);
	rig_close(who, rig_chance(2) ? 0 : SECOND);
	work(40, SECOND / 2, 2);
	rig_open(who);
	work(20, SECOND / 5, 3);
	if (rig_chance(2))
		flush();
}

/* What a log tells of a group may come before all else of its partition. */
static void restart_all(void)
{
	send_some(300);
	work(100, SECOND, 3);
	leave();
	rig_close_all(SECOND);
	rig_open_all();
	join();
	work(50, SECOND, 3);
}

static void begin(void)
{
	rig_begin("shared", false, 1, THMQ_BROKER_OPTS(.shard_count = 1, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .cache_bytes = 1u << 20));
	rig_open_all();
	CHECK(thmq_connect(rig.env, rig.all, NULL, &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) ==
	      0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
}

int main(int argc, char **argv)
{
	uint32_t rounds = getenv("THMQ_TEST_FULL") ? 20 : 1, i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	rig_seed(argc > 1 ? argv[1] : NULL);
	begin();
	for (i = 0; i < rounds; i++) {
		there_and_back(false);
		there_and_back(true);
		lose_leader();
		restart_all();
	}
	finish();
	printf("%u messages, handed out %u times\n", w.sent, w.handed);
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	rig_end();
	return 0;
}
