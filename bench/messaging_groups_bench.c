/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_groups_bench.c - a group of 100 members on a topic of 1,000 partitions, in one process, under the event policy.
 *
 * rebalance_leave_sticky: a member goes; until all that it had is read by others. Bar: 100 ms at the median.
 * rebalance_join_sticky: another comes; until it reads its share. Bar: 100 ms at the median.
 * rebalance_leave_range, rebalance_join_range: the same where borders shift, so that about half of all partitions move. Bar: 100 ms.
 *
 * Nothing is sent: what is measured is how long a partition may be without a reader.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>

#include "bench.h"

#define SECOND 1000000000ull
#define BAR_MS 100.0
#define QUIET_NS (SECOND / 20) /* so long nothing moved: it is over */

struct rig {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_consumer **consumers;
	uint32_t members, partitions, assignor;
	uint32_t reading; /* partitions that have a reader, as the members hear of it */
};

static void check(const char *what, int rc)
{
	if (rc < 0)
		bench_die(what, rc < -1000 ? EIO : -rc);
}

static void join(struct rig *r, uint32_t i)
{
	check("open a consumer",
	      thmq_consumer_open(r->session, "t", "g", THMQ_CONSUMER_OPTS(.assignor = r->assignor, .prefetch_count = 16), &r->consumers[i]));
}

static bool hear(struct rig *r)
{
	struct thmq_event e[64];
	bool moved = false;
	int n, i;

	while ((n = thmq_events(r->session, e, 64)) > 0)
		for (i = 0; i < n; i++) {
			if (e[i].type == THMQ_EVENT_DROPPED)
				bench_die("events were dropped", ENOBUFS);
			moved |= e[i].type == THMQ_EVENT_ASSIGNED || e[i].type == THMQ_EVENT_REVOKED;
			r->reading += e[i].type == THMQ_EVENT_ASSIGNED;
			r->reading -= e[i].type == THMQ_EVENT_REVOKED;
		}
	return moved;
}

/* Until all are read and nothing moves any more. Return: when that began. */
static uint64_t settle(struct rig *r)
{
	uint64_t begin = bench_now(), last = begin;

	while (bench_now() - last < QUIET_NS) {
		check("wait", thmq_session_wait(r->session, SECOND / 500));
		if (hear(r) || r->reading != r->partitions)
			last = bench_now();
		if (bench_now() - begin > 120 * SECOND)
			bench_die("the group does not settle", ETIMEDOUT);
	}
	return last;
}

static void open_rig(struct rig *r)
{
	uint32_t i;

	check("environment",
	      thmq_env_open(&r->env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)));
	check("broker", thmq_broker_open(r->env, NULL, &r->broker));
	check("connect", thmq_connect(r->env, "inproc://", THMQ_SESSION_OPTS(.event_count = 65536), &r->session));
	check("topic", thmq_topic_create(r->session, "t",
					 THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .partition_count = r->partitions,
							 .volatile_bytes = 1 << 20)));
	r->consumers = calloc(r->members, sizeof(struct thmq_consumer *));
	if (!r->consumers)
		bench_die("memory", ENOMEM);
	for (i = 0; i < r->members; i++) {
		join(r, i);
		hear(r);
	}
	settle(r);
}

static void close_rig(struct rig *r)
{
	check("close", thmq_session_close(r->session, 60 * SECOND));
	check("close", thmq_broker_close(r->broker, 10 * SECOND));
	check("close", thmq_env_close(r->env, 10 * SECOND));
	free(r->consumers);
}

static double ms_since(uint64_t begin, uint64_t end)
{
	return end > begin ? (double)(end - begin) / 1e6 : 0;
}

static void rebalance(struct bench *b, uint32_t assignor, const char *leave_name, const char *join_name)
{
	struct bench_line leave = {.name = leave_name, .unit = "ms", .measure = BENCH_VALUE, .sense = BENCH_AT_MOST, .bar = BAR_MS};
	struct bench_line come = leave, *lines[] = {&leave, &come};
	struct rig r = {.members = b->smoke ? 10 : 100, .partitions = b->smoke ? 64 : 1000, .assignor = assignor};
	uint64_t begin;
	unsigned round;

	come.name = join_name;
	if (!bench_wants(b, leave_name) && !bench_wants(b, join_name))
		return;
	open_rig(&r);
	for (round = 0; bench_more(b, round, lines, 2); round++) {
		begin = bench_now();
		check("close", thmq_consumer_close(r.consumers[round % r.members], 10 * SECOND));
		bench_pairs_add(&leave.pairs, ms_since(begin, settle(&r)), 0);
		begin = bench_now();
		join(&r, round % r.members);
		bench_pairs_add(&come.pairs, ms_since(begin, settle(&r)), 0);
	}
	snprintf(leave.detail, sizeof(leave.detail), "\"members\":%u,\"partitions\":%u", r.members, r.partitions);
	memcpy(come.detail, leave.detail, sizeof(come.detail));
	bench_report(b, &leave);
	bench_report(b, &come);
	close_rig(&r);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	rebalance(&b, THMQ_ASSIGN_STICKY, "rebalance_leave_sticky", "rebalance_join_sticky");
	rebalance(&b, THMQ_ASSIGN_RANGE, "rebalance_leave_range", "rebalance_join_range");
	return bench_end(&b);
}
