/* SPDX-License-Identifier: Apache-2.0 */
/* client_partition_test.c - a reader of one partition: it gets that one's messages, those of others cost it nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <malloc.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;

static void open_all(void)
{
	cr_assert_eq(thmq_env_open(&env, NULL), 0);
	cr_assert_eq(thmq_broker_open(env, NULL, &broker), 0);
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	cr_assert_eq(thmq_topic_create(
			     session, "t",
			     THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .partition_count = 3)),
		     0);
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
}

static void close_all(void)
{
	cr_assert_eq(thmq_env_close(env, SECOND), 0);
}

TestSuite(client_partition, .init = open_all, .fini = close_all);

static void send(uint32_t partition, uint32_t count)
{
	while (count-- > 0)
		cr_assert_gt(thmq_send(producer, "0123456789", 10,
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
							 .partition = partition)),
			     0);
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
}

static int open_one(uint32_t partition, struct thmq_consumer **ret)
{
	return thmq_consumer_open(session, "t", NULL,
				  THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION,
						     .partition = partition, .prefetch_count = 64),
				  ret);
}

/* Messages of the partition that come within a moment; none of another's does. */
static uint32_t take(struct thmq_consumer *c, uint32_t partition)
{
	struct thmq_message m[16];
	uint32_t taken = 0;
	int i, n, rounds;

	for (rounds = 0; rounds < 50; rounds++) {
		thmq_poll(env, SECOND / 1000);
		while ((n = thmq_fetch(c, m, 16)) > 0) {
			for (i = 0; i < n; i++)
				cr_assert_eq(m[i].partition, partition);
			taken += (uint32_t)n;
			cr_assert_eq(thmq_release(c, m, (uint32_t)n), 0);
		}
		cr_assert_eq(n, 0);
	}
	return taken;
}

Test(client_partition, it_gets_its_own_messages_and_no_others)
{
	struct thmq_consumer *c;

	send(0, 500); /* more than it may hold: were they its own, they would be in its way */
	send(1, 5);
	send(2, 500);
	cr_assert_eq(open_one(1, &c), 0, "%s", thmq_errmsg());
	cr_assert_eq(take(c, 1), 5);
	send(2, 100);
	send(1, 200);
	cr_assert_eq(take(c, 1), 200);
	cr_assert_eq(thmq_seek(c, 1, THMQ_START_OFFSET, 100), 0);
	cr_assert_eq(take(c, 1), 105);
	cr_assert_eq(thmq_seek(c, UINT32_MAX, THMQ_START_BEGIN, 0), 0); /* all that it has */
	cr_assert_eq(take(c, 1), 205);
	cr_assert_eq(thmq_seek(c, 2, THMQ_START_BEGIN, 0), -EPERM);
	cr_assert_eq(thmq_consumer_close(c, SECOND), 0);
}

Test(client_partition, several_read_the_same_one)
{
	struct thmq_consumer *a, *b;

	send(2, 7);
	cr_assert_eq(open_one(2, &a), 0);
	cr_assert_eq(open_one(2, &b), 0);
	cr_assert_eq(take(a, 2), 7);
	cr_assert_eq(take(b, 2), 7);
}

/* What the process has from malloc. */
static size_t allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

Test(client_partition, its_memory_is_that_of_one_partition)
{
	struct thmq_consumer *c[64];
	size_t before;
	uint32_t i;

	cr_assert_eq(thmq_topic_create(session, "wide", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .partition_count = 1024)), 0, "%s", thmq_errmsg());
	before = allocated();
	for (i = 0; i < 64; i++)
		cr_assert_eq(thmq_consumer_open(session, "wide", NULL,
						THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION, .partition = 1023 - 15 * i,
								   .prefetch_count = 64),
						&c[i]),
			     0, "%s", thmq_errmsg());
	cr_assert_lt(allocated() - before, 12u << 20, "%zu", allocated() - before);
	cr_assert_eq(thmq_seek(c[0], 1022, THMQ_START_BEGIN, 0), -EPERM);
	cr_assert_eq(thmq_seek(c[0], 1024, THMQ_START_BEGIN, 0), -THMQ_ENOPARTITION);
	cr_assert_eq(thmq_seek(c[0], 1023, THMQ_START_BEGIN, 0), 0);
	for (i = 0; i < 64; i++)
		cr_assert_eq(thmq_consumer_close(c[i], SECOND), 0);
}

Test(client_partition, what_makes_no_sense_is_refused)
{
	struct thmq_consumer *c = NULL;

	cr_assert_eq(open_one(3, &c), -THMQ_ENOPARTITION);
	cr_assert_eq(open_one(UINT32_MAX, &c), -THMQ_ENOPARTITION);
	cr_assert_eq(thmq_consumer_open(session, "t", "group",
					THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_PARTITION), &c),
		     -EINVAL);
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.partition = 1), &c),
		     -EINVAL);
	cr_assert_null(c);
}
