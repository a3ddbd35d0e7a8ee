/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grow_contract_test.c - a topic gets more partitions while it is in use, over any medium: who has it open hears of them, what is in the old ones
 * stays, groups share all out anew, and all of it is there after a restart. Fewer are refused.
 *
 * usage: grow_contract_test MEDIUM [case …]; MEDIUM as of transport_contract_test.c.
 */
#include "contract.h"

#define PATIENCE_NS (60 * SECOND)
#define PARTITIONS_MAX 400u

static void grow(struct thmq_session *s, const char *topic, uint32_t count)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_topic_alter(s, topic, THMQ_TOPIC_OPTS(.partition_count = count), THMQ_ALTER_PARTITIONS) == 0);
	CHECK(thmq_topic_describe(s, topic, &info) == 0 && info.partition_count == count);
}

/* Its ids are not behind the others of @topic then. */
static void something_between(struct thmq_session *s, uint32_t number)
{
	char name[32];

	snprintf(name, sizeof(name), "between-%u", number);
	CHECK(thmq_topic_create(s, name, NULL) == 0);
}

static void send_to(struct thmq_session *s, struct thmq_producer *p, uint32_t partition)
{
	uint64_t end = now() + PATIENCE_NS;
	int64_t rc;

	while ((rc = thmq_send(p, &partition, sizeof(partition), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition))) < 0) {
		CHECK((rc == -THMQ_ENOPARTITION || rc == -EAGAIN) && now() < end);
		CHECK(thmq_session_wait(s, 10 * MS) >= 0);
	}
}

/* One message of each of them, in whatever order; acknowledged if there is somebody to tell. */
static void take_one_of_each(struct thmq_session *s, struct thmq_consumer **c, uint32_t consumers, uint32_t count, bool acks)
{
	static bool seen[PARTITIONS_MAX];
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_message m[16];
	uint32_t left = count, number, k;
	int n, i;

	memset(seen, 0, sizeof(seen));
	while (left) {
		for (k = 0; k < consumers; k++) {
			n = thmq_fetch(c[k], m, 16);
			CHECK(n >= 0 && now() < end);
			for (i = 0; i < n; i++) {
				memcpy(&number, m[i].data, sizeof(number));
				CHECK(number == m[i].partition && number < count && !seen[number]);
				seen[number] = true;
				left--;
				if (acks)
					CHECK(thmq_ack(c[k], &m[i]) == 0);
			}
			CHECK(thmq_release(c[k], m, (uint32_t)n) == 0);
		}
		if (left)
			CHECK(thmq_session_wait(s, MS) >= 0);
	}
	for (k = 0; acks && k < consumers; k++)
		CHECK(thmq_consumer_flush(c[k], PATIENCE_NS) == 0);
}

static void producers_and_readers_hear_of_it(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_consumer *c[2];
	struct thmq_producer *p;
	struct thmq_event e;
	uint32_t settled[71] = {0}, i;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	something_between(s, 0);
	CHECK(thmq_producer_open(s, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END), &c[0]) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION, .partition = 1), &c[1]) == 0);
	CHECK(thmq_send(p, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 2)) == -THMQ_ENOPARTITION);
	grow(other, "t", 5);
	for (i = 0; i < 5; i++)
		send_to(s, p, i);
	take_one_of_each(s, c, 1, 5, false);
	something_between(s, 1);
	grow(other, "t", 70);
	something_between(s, 2);
	grow(other, "t", 71);
	for (i = 71; i-- > 0;)
		send_to(s, p, i);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	take_one_of_each(s, c, 1, 71, false);
	for (i = 0; i < 76; i++) {
		CHECK(next_event(s, THMQ_EVENT_SETTLED, &e, PATIENCE_NS) && e.error == 0 && e.partition < 71);
		settled[e.partition]++;
	}
	for (i = 0; i < 71; i++)
		CHECK(settled[i] == (i < 5 ? 2 : 1));
	/* who reads one partition goes on with that one */
	for (i = 0; i < 2; i++) {
		struct thmq_message m;

		CHECK(fetch(s, c[1], &m, 1, PATIENCE_NS) == 1 && m.partition == 1 && thmq_release(c[1], &m, 1) == 0);
	}
	/* without a partition it is any of them, by key always the same one */
	for (i = 0; i < 4000; i++)
		while (thmq_send(p, &i, sizeof(i), THMQ_MESSAGE_OPTS(.key = &(uint32_t){i % 1000}, .key_len = 4)) < 0)
			CHECK(thmq_session_wait(s, MS) >= 0);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	{
		static uint32_t where[1000];
		uint32_t left = 4000, number, high = 0;
		struct thmq_message m;

		for (; left; left--) {
			CHECK(fetch(s, c[0], &m, 1, PATIENCE_NS) == 1);
			memcpy(&number, m.data, sizeof(number));
			CHECK(!where[number % 1000] || where[number % 1000] == m.partition + 1);
			where[number % 1000] = m.partition + 1;
			high += m.partition >= 5;
			CHECK(thmq_release(c[0], &m, 1) == 0);
		}
		CHECK(high > 2000);
	}
	CHECK(thmq_session_close(other, SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void wait_for_owners(struct thmq_session *s, const char *topic, const char *group, uint32_t count)
{
	uint64_t end = now() + PATIENCE_NS;
	uint32_t owners[PARTITIONS_MAX], i, free_ones;

	do {
		CHECK(now() < end && thmq_session_wait(s, MS) >= 0);
		CHECK(thmq_group_owners(s, topic, group, owners, PARTITIONS_MAX) == (int)count);
		for (i = free_ones = 0; i < count; i++)
			free_ones += owners[i] == UINT32_MAX;
	} while (free_ones);
}

static void groups_share_them_out(void)
{
	static const uint32_t assignors[] = {THMQ_ASSIGN_RANGE, THMQ_ASSIGN_ROUND_ROBIN, THMQ_ASSIGN_STICKY, THMQ_ASSIGN_NEAR};
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c[3];
	struct thmq_producer *p;
	char topic[16];
	uint32_t i, k;

	for (k = 0; k < 4; k++) {
		snprintf(topic, sizeof(topic), "g%u", k);
		CHECK(thmq_topic_create(s, topic, THMQ_TOPIC_OPTS(.partition_count = 3)) == 0);
		something_between(s, k);
		CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
		for (i = 0; i < 2; i++)
			CHECK(thmq_consumer_open(s, topic, "g", THMQ_CONSUMER_OPTS(.assignor = assignors[k]), &c[i]) == 0);
		wait_for_owners(s, topic, "g", 3);
		grow(s, topic, 4);
		grow(s, topic, 40);
		wait_for_owners(s, topic, "g", 40);
		for (i = 0; i < 40; i++)
			send_to(s, p, i);
		take_one_of_each(s, c, 2, 40, true);
		/* another one comes, and one goes */
		CHECK(thmq_consumer_close(c[0], PATIENCE_NS) == 0);
		CHECK(thmq_consumer_open(s, topic, "g", NULL, &c[0]) == 0);
		grow(s, topic, 100);
		wait_for_owners(s, topic, "g", 100);
		for (i = 0; i < 100; i++)
			send_to(s, p, i);
		take_one_of_each(s, c, 2, 100, true);
		CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
		for (i = 0; i < 2; i++)
			CHECK(thmq_consumer_close(c[i], PATIENCE_NS) == 0);
	}
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void shared_groups_too(void)
{
	struct thmq_session *s = session_of(NULL), *other = session_of(NULL);
	struct thmq_consumer *c[2];
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	something_between(s, 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 2; i++)
		CHECK(thmq_consumer_open(s, "t", "s", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &c[i]) == 0);
	grow(other, "t", 3);
	grow(other, "t", 9);
	for (i = 0; i < 9; i++)
		send_to(s, p, i);
	take_one_of_each(s, c, 2, 9, true);
	for (i = 0; i < 9; i++) {
		struct thmq_partition_info info = {.size = sizeof(info)};

		CHECK(thmq_partition_describe(s, "t", i, "s", &info) == 0 && info.lag == 0 && info.end_offset == 1);
	}
	CHECK(thmq_session_close(other, SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

/* One message of each partition of @wanted, a bit each, and of no other. */
static void take_just(struct thmq_session *s, struct thmq_consumer *c, uint32_t partitions, uint32_t wanted)
{
	uint64_t end = now() + PATIENCE_NS, stands;
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_message m[16];
	uint32_t seen = 0, k;
	bool more;
	int n, i, rc;

	do {
		n = fetch(s, c, m, 16, 10 * MS);
		CHECK(n >= 0 && now() < end);
		for (i = 0; i < n; i++) {
			CHECK(wanted & ~seen & 1u << m[i].partition);
			seen |= 1u << m[i].partition;
			CHECK(thmq_ack(c, &m[i]) == 0);
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		for (k = 0, more = n > 0 || seen != wanted; !more && k < partitions; k++) {
			CHECK(thmq_partition_describe(s, "t", k, NULL, &info) == 0);
			rc = thmq_consumer_position(c, k, &stands);
			CHECK(rc == 0 || rc == -EPERM || rc == -EOPNOTSUPP); /* not yet; shared: it is not told */
			more = rc == -EPERM || (rc == 0 && stands != info.end_offset);
		}
	} while (more);
	CHECK(thmq_consumer_flush(c, PATIENCE_NS) == 0);
}

/* The broker is closed and opened again. Return: a session of it, in place of @s. */
static struct thmq_session *again(struct thmq_session *s)
{
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	CHECK(close_broker() == 0);
	broker = NULL;
	down();
	up();
	return session_of(NULL);
}

/* What is in a partition that was added since a group was made is that group's, whoever joins it next, and when. */
static void who_joins_later_begins_where_the_group_did(void)
{
	const struct thmq_consumer_opts kinds[] = {{.size = sizeof(kinds[0]), .start = THMQ_START_END},
						   {.size = sizeof(kinds[0]), .start = THMQ_START_END, .flags = THMQ_CONSUMER_SHARED}};
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c;
	struct thmq_producer *p;
	char group[16];
	uint32_t i, k;

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	for (i = 0; i < 2; i++)
		send_to(s, p, i);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	for (k = 0; k < 2; k++) {
		snprintf(group, sizeof(group), "g%u", k);
		CHECK(thmq_consumer_open(s, "t", group, &kinds[k], &c) == 0);
		CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
	}
	grow(s, "t", 4);
	for (i = 2; i < 4; i++)
		send_to(s, p, i);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	for (k = 0; k < 2; k++) {
		snprintf(group, sizeof(group), "g%u", k);
		CHECK(thmq_consumer_open(s, "t", group, &kinds[k], &c) == 0);
		take_just(s, c, 4, 0xc);
		CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
	}
	/* one that is made now, and one who says that he wants nothing of before, whatever his group has done */
	CHECK(thmq_consumer_open(s, "t", "new", &kinds[0], &c) == 0);
	take_just(s, c, 4, 0);
	CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
	CHECK(thmq_consumer_open(s, "t", "g-first", &kinds[0], &c) == 0);
	CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
	grow(s, "t", 6);
	for (i = 4; i < 6; i++)
		send_to(s, p, i);
	CHECK(thmq_flush(p, PATIENCE_NS) == 0);
	CHECK(thmq_consumer_open(s, "t", "g-first", THMQ_CONSUMER_OPTS(.start = THMQ_START_END, .flags = THMQ_CONSUMER_START_ALWAYS), &c) == 0);
	take_just(s, c, 6, 0);
	/* how many there were is stored with the group */
	s = again(s);
	CHECK(thmq_consumer_open(s, "t", "new", &kinds[0], &c) == 0);
	take_just(s, c, 6, 0x30);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void what_is_not_possible(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_topic_info info = {.size = sizeof(info)};
	const struct thmq_topic_opts three = {.size = sizeof(three), .partition_count = 3}, too_many = {.size = sizeof(too_many), .partition_count = 65537},
				     none = {.size = sizeof(none)}, most = {.size = sizeof(most), .partition_count = 65536};

	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_topic_create(s, "ranks", THMQ_TOPIC_OPTS(.partition_count = 1, .priorities = 2)) == 0);
	CHECK(thmq_topic_alter(s, "t", &three, THMQ_ALTER_PARTITIONS) == -EINVAL);
	CHECK(strstr(thmq_errmsg(), "has 4 partitions") && strstr(thmq_errmsg(), "not 3"));
	CHECK(thmq_topic_alter(s, "t", &too_many, THMQ_ALTER_PARTITIONS) == -EINVAL && strstr(thmq_errmsg(), "65536"));
	CHECK(thmq_topic_alter(s, "t", &none, THMQ_ALTER_PARTITIONS) == -EINVAL && strstr(thmq_errmsg(), "not 0"));
	CHECK(thmq_topic_alter(s, "ranks", &three, THMQ_ALTER_PARTITIONS) == -EOPNOTSUPP && strstr(thmq_errmsg(), "priorities"));
	CHECK(thmq_topic_alter(s, "gone", &three, THMQ_ALTER_PARTITIONS) == -THMQ_ENOTOPIC);
	/* with others of its settings, or nothing of all that */
	CHECK(thmq_topic_alter(s, "t", THMQ_TOPIC_OPTS(.partition_count = 3, .ttl_ns = SECOND), THMQ_ALTER_PARTITIONS | THMQ_ALTER_TTL) == -EINVAL);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.partition_count == 4 && !info.ttl_ns);
	CHECK(thmq_topic_alter(s, "t", THMQ_TOPIC_OPTS(.partition_count = 6, .ttl_ns = SECOND), THMQ_ALTER_PARTITIONS | THMQ_ALTER_TTL) == 0);
	CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.partition_count == 6 && info.ttl_ns == SECOND);
	grow(s, "t", 6);
	if (getenv("THMQ_TEST_FULL")) {
		CHECK(thmq_topic_alter(s, "t", &most, THMQ_ALTER_PARTITIONS) == 0);
		CHECK(thmq_topic_describe(s, "t", &info) == 0 && info.partition_count == 65536);
	}
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static void volatile_ones_too(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c[1];
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(s, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)) == 0);
	CHECK(thmq_topic_create(s, "w", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 1 << 20)) == 0);
	CHECK(thmq_producer_open(s, "v", NULL, &p) == 0 && thmq_consumer_open(s, "v", "g", NULL, &c[0]) == 0);
	grow(s, "v", 4);
	for (i = 0; i < 4; i++)
		send_to(s, p, i);
	take_one_of_each(s, c, 1, 4, true);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

/* All is where it was after a restart: messages, what groups have done, and which ids are whose. */
static void it_is_stored(void)
{
	struct thmq_session *s = session_of(NULL);
	struct thmq_consumer *c[1];
	struct thmq_producer *p;
	uint32_t i, k, round, count[3] = {1, 1, 1};
	char topic[16];

	for (k = 0; k < 3; k++) {
		snprintf(topic, sizeof(topic), "t%u", k);
		CHECK(thmq_topic_create(s, topic, THMQ_TOPIC_OPTS(.flags = k == 2 ? THMQ_TOPIC_RETAIN_CONSUMED : 0)) == 0);
		CHECK(thmq_consumer_open(s, topic, "g", NULL, &c[0]) == 0);
		CHECK(thmq_consumer_close(c[0], SECOND) == 0);
	}
	for (round = 0; round < 4; round++) {
		for (k = 0; k < 3; k++) {
			snprintf(topic, sizeof(topic), "t%u", k);
			count[k] += 1 + k + round;
			grow(s, topic, count[k]);
			CHECK(thmq_producer_open(s, topic, NULL, &p) == 0);
			for (i = 0; i < count[k]; i++)
				send_to(s, p, i);
			CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
		}
		something_between(s, round);
		s = again(s);
		for (k = 0; k < 3; k++) {
			snprintf(topic, sizeof(topic), "t%u", k);
			CHECK(thmq_consumer_open(s, topic, "g", NULL, &c[0]) == 0);
			take_one_of_each(s, c, 1, count[k], true);
			CHECK(thmq_consumer_close(c[0], PATIENCE_NS) == 0);
		}
	}
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

static const struct test_case cases[] = {
	{"producers_and_readers_hear_of_it", producers_and_readers_hear_of_it},
	{"groups_share_them_out", groups_share_them_out},
	{"shared_groups_too", shared_groups_too},
	{"who_joins_later_begins_where_the_group_did", who_joins_later_begins_where_the_group_did},
	{"what_is_not_possible", what_is_not_possible},
	{"volatile_ones_too", volatile_ones_too},
	{"it_is_stored", it_is_stored},
};

int main(int argc, char **argv)
{
	return contract_run(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
