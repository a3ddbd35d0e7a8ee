/* SPDX-License-Identifier: Apache-2.0 */
/* batch_rig.h - a broker in a directory of its own, a session, and a producer that is told what becomes of each message, for tests of one case each. */
#ifndef TESTS_BATCH_RIG_H
#define TESTS_BATCH_RIG_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

static char dir[] = "/tmp/thmq-client-XXXXXX";
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;

static inline void open_broker(void)
{
	cr_assert_eq(thmq_env_open(&env, NULL), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 16 << 20), &broker), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)), 0);
	cr_assert_eq(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &producer), 0);
}

static inline void open_all(void)
{
	cr_assert_not_null(mkdtemp(dir));
	open_broker();
}

static inline void close_all(void)
{
	char command[64];
	int rc = thmq_env_close(env, 5 * SECOND);

	cr_assert(rc == 0 || rc == -EIO, "%s", thmq_strerror(rc)); /* the latter: some were refused */
	snprintf(command, sizeof(command), "rm -r %s", dir);
	cr_assert_eq(system(command), 0);
}

/* What became of what was sent last. */
static inline struct thmq_event settle(int64_t sequence)
{
	struct thmq_event e = {0};
	int rounds;

	cr_assert_gt(sequence, 0, "%s", thmq_strerror((int)sequence));
	for (rounds = 0; rounds < 30000; rounds++) {
		while (thmq_events(session, &e, 1) == 1)
			if (e.sequence == (uint64_t)sequence && !e.consumer)
				return e;
		thmq_poll(env, SECOND / 1000);
	}
	cr_assert_fail("%lld is not settled", (long long)sequence);
	return e;
}

static inline struct thmq_consumer *open_consumer(const char *group, const struct thmq_consumer_opts *opts)
{
	struct thmq_consumer *c;

	cr_assert_eq(thmq_consumer_open(session, "t", group, opts, &c), 0, "%s", thmq_errmsg());
	return c;
}

#endif
