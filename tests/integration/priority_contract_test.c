/* SPDX-License-Identifier: Apache-2.0 */
/*
 * priority_contract_test.c - topics with priorities, over any medium: what is high comes first, what is low comes at last, and nothing else is
 * other than in any topic.
 *
 * usage: priority_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include "contract.h"

#define PRIORITIES 3u
#define EACH 300u
#define PATIENCE 64u /* as thundermq.h says: of each 65 one is of a lower priority */

static void send_one(struct thmq_producer *p, uint32_t number, uint32_t priority, bool alone)
{
	const struct thmq_message_opts o = {.size = sizeof(o), .priority = priority};
	int64_t rc;

	while ((rc = thmq_send(p, &number, sizeof(number), &o)) == -EAGAIN)
		drive(MS);
	CHECK(rc > 0);
	CHECK(!alone || thmq_flush(p, 10 * SECOND) == 0);
}

static uint64_t handed_over(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(broker, &st) == 0);
	return st.messages_out;
}

/* All that the broker gives is there, and not only what came first. */
static void has_come(uint64_t count)
{
	uint64_t end = now() + 10 * SECOND, until;

	while (handed_over() < count && now() < end)
		drive(MS);
	CHECK(handed_over() >= count);
	for (until = now() + 50 * MS; now() < until;)
		drive(MS);
}

static struct thmq_topic_info about(struct thmq_session *s, const char *topic)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_describe(s, topic, &info) == 0);
	return info;
}

static struct thmq_partition_info stands(struct thmq_session *s, const char *topic, uint32_t partition, const char *group)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(s, topic, partition, group, &info) == 0);
	return info;
}

/* --------------------------------------------------------------------- order */

/* EACH of every priority lie there: the highest come first, but one of the others after each PATIENCE. */
static void in_order(struct thmq_session *s, struct thmq_consumer *c, uint32_t lanes, bool acks)
{
	uint32_t left[PRIORITIES] = {EACH, EACH, EACH}, turns[PRIORITIES] = {0}, total = PRIORITIES * EACH, passed = 0, top, i, k;
	uint64_t next[64] = {0};
	struct thmq_message m[7];
	int n;

	for (i = 0; i < total; i += (uint32_t)n) {
		n = fetch(s, c, m, 7, 10 * SECOND);
		CHECK(n > 0);
		for (k = 0; k < (uint32_t)n; k++) {
			int priority = thmq_message_priority(c, &m[k]);

			CHECK(priority >= 0 && (uint32_t)priority == m[k].partition / lanes && left[priority]);
			for (top = PRIORITIES - 1; !left[top];)
				top--;
			CHECK((uint32_t)priority == top || passed == PATIENCE);
			passed = (uint32_t)priority == top ? passed + 1 : 0;
			turns[priority] += (uint32_t)priority != top;
			left[priority]--;
			CHECK(m[k].offset >= next[m[k].partition]); /* in order within a partition */
			next[m[k].partition] = m[k].offset + 1;
			CHECK(!acks || thmq_ack(c, &m[k]) == 0);
			for (top = PRIORITIES - 1; top && !left[top];)
				top--;
			if (!top)
				passed = 0;
			CHECK(passed <= PATIENCE);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(turns[0] && turns[1] && !turns[2]);
	CHECK(fetch(s, c, m, 7, 20 * MS) == 0);
}

static void highest_first_in(const char *topic, const struct thmq_topic_opts *opts, const char *group, const struct thmq_consumer_opts *how)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info;
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint64_t before;
	uint32_t i;

	CHECK(thmq_topic_create(s, topic, opts) == 0);
	info = about(s, topic);
	CHECK(info.priorities == PRIORITIES && info.partition_count == PRIORITIES * opts->partition_count);
	CHECK(thmq_consumer_open(s, topic, group, how, &c) == 0);
	CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
	before = handed_over();
	for (i = 0; i < PRIORITIES * EACH; i++)
		send_one(p, i, i / EACH, i % 100 == 99);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	has_come(before + (uint64_t)PRIORITIES * EACH);
	in_order(s, c, opts->partition_count, group != NULL);
	CHECK(!group || thmq_consumer_flush(c, 10 * SECOND) == 0);
	for (i = 0; group && i < info.partition_count; i++)
		CHECK(stands(s, topic, i, group).lag == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void highest_first(void)
{
	highest_first_in("t", THMQ_TOPIC_OPTS(.partition_count = 2, .priorities = PRIORITIES), NULL, NULL);
	highest_first_in("grouped", THMQ_TOPIC_OPTS(.partition_count = 1, .priorities = PRIORITIES), "g", NULL);
}

static void highest_first_in_memory(void)
{
	highest_first_in("v", THMQ_TOPIC_OPTS(.partition_count = 3, .priorities = PRIORITIES, .flags = THMQ_TOPIC_VOLATILE), NULL, NULL);
}

static void highest_first_in_a_shared_group(void)
{
	highest_first_in("shared", THMQ_TOPIC_OPTS(.partition_count = 2, .priorities = PRIORITIES), "g",
			 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED, .prefetch_count = 2 * PRIORITIES * EACH));
}

/* ---------------------------------------------------------------------- room */

/* What is low fills its own room only, however little there is: what is high finds some, and passes what waits. */
static void low_ones_take_no_room(void)
{
	struct thmq_session *s = session_of(NULL), *sender = session_of(NULL); /* that takes in nothing for the other */
	struct thmq_message m[8], high;
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint64_t before;
	uint32_t i;
	int n;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = 2)) == 0);
	CHECK(thmq_producer_open(sender, "t", NULL, &p) == 0);
	for (i = 0; i < 20; i++)
		send_one(p, i, 0, true); /* a run each */
	before = handed_over();
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.prefetch_count = 4), &c) == 0);
	has_come(before + 2);
	for (n = 0; n < 2;)
		n += fetch(s, c, m + n, 8 - (uint32_t)n, 5 * SECOND);
	CHECK(n == 2);
	CHECK(thmq_fetch(c, m + n, 1) == -ENOBUFS); /* its half */
	send_one(p, 100, 1, true);
	has_come(before + 3);
	for (i = 0; i < 1000 && !(n = thmq_fetch(c, &high, 1) == 1); i++)
		drive(MS);
	CHECK(n == 1 && thmq_message_priority(c, &high) == 1 && *(const uint32_t *)high.data == 100);
	CHECK(thmq_release(c, &high, 1) == 0 && thmq_release(c, m, 2) == 0);
	/* and passes those that have come */
	has_come(before + 5);
	CHECK(fetch(s, c, m, 1, 5 * SECOND) == 1 && *(const uint32_t *)m->data == 2); /* the next one lies there */
	send_one(p, 101, 1, true);
	has_come(before + 6);
	CHECK(fetch(s, c, &high, 1, 5 * SECOND) == 1 && thmq_message_priority(c, &high) == 1);
	CHECK(thmq_release(c, &high, 1) == 0 && thmq_release(c, m, 1) == 0);
	for (i = 3; i < 20; i++) {
		CHECK(fetch(s, c, m, 1, 5 * SECOND) == 1 && *(const uint32_t *)m->data == i);
		CHECK(thmq_release(c, m, 1) == 0);
	}
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
	/* each has room for one at least */
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.prefetch_count = 1), &c) == 0);
	for (i = 0; i < 22; i++) {
		CHECK(fetch(s, c, m, 1, 5 * SECOND) == 1);
		CHECK(thmq_release(c, m, 1) == 0);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(sender, 30 * SECOND) == 0);
}

/* Runs that are each larger than a priority's share of prefetch_bytes. */
static void large_ones(void)
{
	struct thmq_session *s = session_of(NULL);
	uint8_t *data = calloc(1, 200000);
	struct thmq_message m;
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint32_t i, seen[PRIORITIES] = {0};

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = PRIORITIES)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 30; i++) {
		while (thmq_send(p, data, 200000, THMQ_MESSAGE_OPTS(.priority = i % PRIORITIES)) == -EAGAIN)
			drive(MS);
		CHECK(thmq_flush(p, 10 * SECOND) == 0);
	}
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 100000), &c) == 0);
	for (i = 0; i < 30; i++) {
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && m.len == 200000);
		seen[thmq_message_priority(c, &m)]++;
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(seen[0] == 10 && seen[1] == 10 && seen[2] == 10);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	free(data);
}

#define UNPACKED (128u << 10) /* twice of it is all that the app may hold */

enum kind { ALONE, TOGETHER, IN_PARTS, KINDS };

/* Four of UNPACKED bytes, that are packed each by itself or together; or one of many times as many, in parts. */
static void send_kind(struct thmq_producer *p, const void *data, enum kind kind, uint32_t priority)
{
	const struct thmq_message_opts o = {.size = sizeof(o), .priority = priority};
	struct thmq_batch_message m[4];
	uint32_t i, n = kind == ALONE ? 4 : 1;
	int64_t rc;

	for (i = 0; i < 4; i++)
		m[i] = (struct thmq_batch_message){.data = data, .len = UNPACKED};
	for (i = 0; i < n; i++) {
		while ((rc = kind == TOGETHER ? thmq_send_batch(p, m, 4, &o) : thmq_send(p, data, kind == ALONE ? UNPACKED : 16 * UNPACKED, &o)) == -EAGAIN)
			drive(MS);
		CHECK(rc > 0);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
}

/* Who holds nothing gets what is urgent, whatever a lower run that is half way through keeps unpacked. */
static void comes_past(enum kind low, enum kind high)
{
	struct thmq_session *s = session_of(NULL), *sender = session_of(NULL);
	uint8_t *data = calloc(16, UNPACKED);
	struct thmq_message m[2];
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = 2)) == 0);
	CHECK(thmq_producer_open(sender, "t", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_LZ4), &p) == 0);
	send_kind(p, data, low, 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.prefetch_bytes = 2 * UNPACKED), &c) == 0);
	for (i = 0; i < 2; i++)
		CHECK(fetch(s, c, &m[i], 1, 10 * SECOND) == 1 && thmq_message_priority(c, &m[i]) == 0);
	CHECK(thmq_release(c, m, 2) == 0);
	send_kind(p, data, high, 1);
	for (i = high == IN_PARTS ? 3 : 0; i < 4; i++) {
		CHECK(fetch(s, c, m, 1, 10 * SECOND) == 1);
		CHECK(m->len == (high == IN_PARTS ? 16 : 1) * UNPACKED || thmq_message_priority(c, m) == 0);
		CHECK(thmq_release(c, m, 1) == 0);
	}
	for (i = 0; i < 2; i++) {
		CHECK(fetch(s, c, m, 1, 10 * SECOND) == 1);
		CHECK(thmq_release(c, m, 1) == 0);
	}
	CHECK(thmq_topic_delete(s, "t") == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0 && thmq_session_close(sender, 30 * SECOND) == 0);
	free(data);
}

static bool can_pack(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p;
	int rc;

	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	rc = thmq_producer_open(s, "t", THMQ_PRODUCER_OPTS(.compression = THMQ_COMPRESSION_LZ4), &p);
	CHECK(rc == 0 || rc == -EOPNOTSUPP);
	CHECK(thmq_topic_delete(s, "t") == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	return rc == 0;
}

static void unpacked_ones_are_in_nobodys_way(void)
{
	int low, high;

	if (!can_pack())
		return;
	for (low = ALONE; low <= TOGETHER; low++)
		for (high = ALONE; high < KINDS; high++)
			comes_past(low, high);
}

/* -------------------------------------------------------------------- groups */

#define LANES 4u

/* Who has a partition has it of all priorities; a member that goes leaves all of them. */
static void groups_share_out(void)
{
	struct thmq_session *s[2] = {session_of(NULL), session_of(NULL)};
	uint32_t owners[LANES * PRIORITIES], assignor, i, of[2];
	uint64_t end = now() + 30 * SECOND;
	struct thmq_consumer *c[2];
	struct thmq_event e;
	char group[2] = "a";

	CHECK(thmq_topic_create(s[0], "t", THMQ_TOPIC_OPTS(.partition_count = LANES, .priorities = PRIORITIES)) == 0);
	for (i = 0; i < LANES * PRIORITIES; i++) {
		CHECK(stands(s[0], "t", i, NULL).priority == i / LANES);
		CHECK(stands(s[0], "t", i, NULL).shard == stands(s[0], "t", i % LANES, NULL).shard);
	}
	for (assignor = THMQ_ASSIGN_RANGE; assignor <= THMQ_ASSIGN_STICKY; assignor++, group[0]++) {
		for (i = 0; i < 2; i++)
			CHECK(thmq_consumer_open(s[i], "t", group, THMQ_CONSUMER_OPTS(.assignor = assignor), &c[i]) == 0);
		for (i = 0; i < LANES * PRIORITIES / 2; i += next_event(s[1], THMQ_EVENT_ASSIGNED, &e, 0))
			CHECK(thmq_fetch(c[0], NULL, 0) == 0 && now() < end);
		CHECK(thmq_group_owners(s[0], "t", group, owners, LANES * PRIORITIES) == LANES * PRIORITIES);
		for (i = 0, of[0] = of[1] = 0; i < LANES * PRIORITIES; i++) {
			CHECK(owners[i] == owners[i % LANES] && owners[i] < 2);
			of[owners[i]]++;
		}
		CHECK(of[0] == of[1]);
		CHECK(thmq_consumer_close(c[0], 30 * SECOND) == 0);
		for (i = 0; i < LANES * PRIORITIES / 2; i++)
			CHECK(next_event(s[1], THMQ_EVENT_ASSIGNED, &e, 10 * SECOND));
		CHECK(thmq_consumer_close(c[1], 30 * SECOND) == 0);
	}
	CHECK(thmq_session_close(s[1], 30 * SECOND) == 0 && thmq_session_close(s[0], 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------ the rest */

/* A key has the same partition in each priority, and what is sent to one goes there. */
static void partitions_of_keys(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_key_info found = {.size = sizeof(found)};
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t i, at = UINT32_MAX;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = LANES, .priorities = PRIORITIES)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, NULL, &c) == 0);
	for (i = 0; i < PRIORITIES; i++) {
		CHECK(thmq_send(p, &i, 4, THMQ_MESSAGE_OPTS(.key = "k", .key_len = 1, .priority = i)) > 0);
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && thmq_message_priority(c, &m) == (int)i);
		at = i ? at : m.partition;
		CHECK(m.partition == at + i * LANES);
		CHECK(thmq_release(c, &m, 1) == 0);
		CHECK(thmq_message_priority(c, &m) == (int)i);
		CHECK(thmq_key_find(s, "t", i ? at + i * LANES : UINT32_MAX, "k", 1, UINT64_MAX, &found) == 0);
		CHECK(found.partition == at + i * LANES);
	}
	for (i = 0; i < LANES * PRIORITIES; i++) {
		CHECK(thmq_send(p, &i, 4, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i % LANES, .priority = i / LANES)) > 0);
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && m.partition == i);
		CHECK(thmq_release(c, &m, 1) == 0);
		/* or by its number */
		CHECK(thmq_send(p, &i, 4, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i)) > 0);
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1 && m.partition == i);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	m.internal[1] = 0;
	CHECK(thmq_message_priority(c, &m) == -EINVAL && thmq_message_priority(NULL, &m) == -EINVAL &&
	      thmq_message_priority(c, NULL) == -EINVAL);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static void what_makes_no_sense(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_producer *p, *plain;
	struct thmq_consumer *c;
	struct thmq_message m;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = THMQ_PRIORITIES_MAX + 1)) == -EINVAL);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = 2, .partition_count = THMQ_PARTITION_COUNT_MAX)) == -EINVAL);
	CHECK(strstr(thmq_errmsg(), "of all together"));
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.priorities = 2, .partition_count = 2)) == 0);
	CHECK(thmq_topic_create(s, "plain", THMQ_TOPIC_OPTS(.priorities = 1, .partition_count = 2)) == 0);
	CHECK(about(s, "plain").priorities == 0 && about(s, "plain").partition_count == 2);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0 && thmq_producer_open(s, "plain", NULL, &plain) == 0);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.priority = 2)) == -EINVAL);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.priority = UINT32_MAX)) == -EINVAL);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.priority = 1, .flags = THMQ_MESSAGE_PARTITION, .partition = 2)) == -THMQ_ENOPARTITION);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 4)) == -THMQ_ENOPARTITION);
	CHECK(thmq_send(plain, "x", 1, THMQ_MESSAGE_OPTS(.priority = 1)) == -EINVAL);
	CHECK(thmq_send(plain, "x", 1, NULL) == 1);
	CHECK(thmq_consumer_open(s, "plain", NULL, NULL, &c) == 0);
	CHECK(fetch(s, c, &m, 1, 5 * SECOND) == 1 && thmq_message_priority(c, &m) == 0);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

/* Half of the messages are read, and acknowledged; the rest comes from a broker that was opened again, in order. */
static void a_broker_that_was_opened_again(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_message m;
	uint32_t i, seen[2] = {0};
	uint64_t before;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 3, .priorities = 2)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 60; i++)
		send_one(p, i, i % 2, i % 10 == 9);
	CHECK(thmq_consumer_open(s, "t", "g", NULL, &c) == 0);
	has_come(60);
	for (i = 0; i < 30; i++) {
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1);
		seen[thmq_message_priority(c, &m)]++;
		CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
	}
	CHECK(seen[1] == 30);
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
	down();
	up();
	s = session_of(NULL);
	CHECK(about(s, "t").priorities == 2 && about(s, "t").partition_count == 6);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	before = handed_over();
	send_one(p, 60, 1, true);
	CHECK(thmq_consumer_open(s, "t", "g", NULL, &c) == 0);
	has_come(before + 31);
	for (i = 0; i < 31; i++) {
		CHECK(fetch(s, c, &m, 1, 10 * SECOND) == 1);
		CHECK(thmq_message_priority(c, &m) == (i ? 0 : 1));
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(thmq_session_close(s, 30 * SECOND) == 0);
}

static const struct test_case cases[] = {
	{"highest_first", highest_first},
	{"highest_first_in_memory", highest_first_in_memory},
	{"highest_first_in_a_shared_group", highest_first_in_a_shared_group},
	{"low_ones_take_no_room", low_ones_take_no_room},
	{"large_ones", large_ones},
	{"unpacked_ones_are_in_nobodys_way", unpacked_ones_are_in_nobodys_way},
	{"groups_share_out", groups_share_out},
	{"partitions_of_keys", partitions_of_keys},
	{"what_makes_no_sense", what_makes_no_sense},
	{"a_broker_that_was_opened_again", a_broker_that_was_opened_again},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
