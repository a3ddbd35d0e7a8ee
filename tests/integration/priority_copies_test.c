/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Priorities where three brokers keep the same: who leads is closed as if killed, or another one is made to lead, while messages of all priorities lie there, with a group of one, a
 * shared group and a reader of its own. Each comes to each; none that was acknowledged and flushed comes again; and whoever opens anew gets the highest first, of what lies there.
 * Of acks whose flush says that a connection was lost beneath them it is not known whether they are stored.
 *
 * usage: priority_copies_test [seed]; THMQ_TEST_FULL=1 goes on for longer.
 */
#include "cluster_rig.h"

#define PRIORITIES 3u
#define MESSAGES 4096u
#define LIES 60u /* messages that lie there when a reader is opened */

static struct {
	struct thmq_session *session;
	struct thmq_producer *producer;
	uint32_t sent;
	/* by message, of the group and of the shared one */
	uint8_t came[2][MESSAGES], stored[2][MESSAGES];
} w;

static uint32_t priority_of(uint32_t number)
{
	return number * 7 % 5 % PRIORITIES;
}

static void send_some(uint32_t count)
{
	uint64_t end = now() + PATIENCE_NS;

	while (count) {
		int64_t rc = thmq_send(w.producer, &w.sent, sizeof(w.sent), THMQ_MESSAGE_OPTS(.priority = priority_of(w.sent)));

		CHECK(rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM);
		if (rc > 0) {
			w.sent++;
			count--;
		} else {
			CHECK(thmq_session_wait(w.session, SECOND / 100) >= 0);
		}
		CHECK(now() < end && w.sent < MESSAGES);
	}
	CHECK(thmq_flush(w.producer, PATIENCE_NS) == 0);
}

static uint32_t take_events(void)
{
	struct thmq_event e;
	uint32_t n = 0;

	for (; thmq_events(w.session, &e, 1) == 1; n++)
		CHECK(e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_REVOKED ||
		      e.type == THMQ_EVENT_ASSIGNED || e.type == THMQ_EVENT_OFFSETRANGE);
	return n;
}

static uint64_t handed_over(uint32_t who)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(rig.brokers[who], &st) == 0);
	return st.messages_out;
}

/* All that lies there, once all of it has come to this session: the highest first, but for the one of the others that comes after each 64. */
static void highest_first(void)
{
	uint32_t got = 0, number, before = PRIORITIES, rises = 0, who = rig_some_leader();
	uint64_t end = now() + PATIENCE_NS, before_it = handed_over(who);
	struct thmq_consumer *c;
	struct thmq_message m[16];
	int n, i;

	CHECK(thmq_consumer_open(w.session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	while (handed_over(who) < before_it + w.sent && rig_some_leader() == who && now() < end)
		CHECK(thmq_session_wait(w.session, MS) >= 0);
	while (got < w.sent) {
		n = thmq_fetch(c, m, 16);
		CHECK(n >= 0 && now() < end);
		for (i = 0; i < n; i++, got++) {
			memcpy(&number, m[i].data, sizeof(number));
			CHECK(number < w.sent && thmq_message_priority(c, &m[i]) == (int)priority_of(number));
			rises += priority_of(number) > before;
			before = priority_of(number);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(w.session, SECOND / 500) >= 0);
		take_events();
	}
	/* what the broker has handed over need not all be here; any order would be a third of them. Another one that leads by now begins with what it has */
	CHECK(rises <= w.sent / 16 + PRIORITIES || rig_some_leader() != who);
	CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
}

static struct thmq_consumer *join(uint32_t which)
{
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(w.session, "t", which ? "shared" : "group",
				 THMQ_CONSUMER_OPTS(.flags = which ? THMQ_CONSUMER_SHARED : 0, .start = THMQ_START_BEGIN, .invisible_ns = which ? 600 * SECOND : 0), &c) == 0);
	return c;
}

/* Up to @count messages, acknowledged, and stored where the flush says so. */
static void work(uint32_t which, uint32_t count)
{
	uint64_t end = now() + SECOND / 2;
	struct thmq_consumer *c = join(which);
	uint32_t number, got = 0, numbers[MESSAGES];
	struct thmq_message m;
	int rc;

	while (got < count && now() < end) {
		if (thmq_fetch(c, &m, 1) != 1) {
			CHECK(thmq_session_wait(w.session, SECOND / 500) >= 0);
			take_events();
			continue;
		}
		memcpy(&number, m.data, sizeof(number));
		CHECK(number < w.sent && !w.stored[which][number]);
		CHECK(thmq_message_priority(c, &m) == (int)priority_of(number));
		w.came[which][number] = 1;
		rc = thmq_ack(c, &m);
		CHECK(rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
		if (rc == 0)
			numbers[got++] = number;
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	rc = thmq_consumer_flush(c, PATIENCE_NS);
	CHECK(rc == 0 || rc == -THMQ_EFENCED);
	while (rc == 0 && got)
		w.stored[which][numbers[--got]] = 1;
	CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
	take_events();
}

static void change_lead(void)
{
	uint32_t who = rig_some_leader();

	if (rig_chance(2)) {
		CHECK(thmq_cluster_lead(w.session, (who + 1) % BROKERS + 1, 30 * SECOND) == 0);
		rig_some_leader();
		return;
	}
	rig_close(who, rig_chance(2) ? 0 : SECOND);
	rig_some_leader();
	rig_open(who);
}

/* What is not done comes to somebody. */
static void finish(uint32_t which)
{
	struct thmq_group_info group = {.size = sizeof(group)};
	uint64_t end = now() + PATIENCE_NS;
	uint32_t i;

	do {
		work(which, 256);
		CHECK(thmq_group_describe(w.session, "t", which ? "shared" : "group", &group) == 0);
		CHECK(now() < end);
	} while (group.lag);
	for (i = 0; i < w.sent; i++)
		CHECK(w.came[which][i]);
}

int main(int argc, char **argv)
{
	uint32_t rounds = getenv("THMQ_TEST_FULL") ? 40 : 4, i;

	rig_seed(argc > 1 ? argv[1] : NULL);
	rig_begin("priorities", false, 1, THMQ_BROKER_OPTS(.shard_count = 1, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10));
	rig_open_all();
	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.reconnect_ns = PATIENCE_NS), &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 1, .priorities = PRIORITIES)) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
	for (i = 0; i < rounds; i++) {
		send_some(LIES);
		work(0, 20);
		work(1, 20);
		change_lead();
		highest_first();
		work(1, 20);
	}
	finish(0);
	finish(1);
	CHECK(thmq_session_close(w.session, PATIENCE_NS) == 0);
	rig_end();
	return 0;
}
