/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_counts_test.c - one directory on 1, 4, 2, 64 cores and 1 again, driven by threads of the library and by one of the host:
 * data in every partition of every shard, and in each life the group reads only a part. Nothing is lost or doubled, groups
 * go on where they were, and shards are spread evenly.
 *
 * Exit: 0 passed, 1 failed. THMQ_TEST_FULL=1 sends a hundred times as much.
 */
#include <errno.h>
#include <string.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "many.h"

#define SHARDS 8u
#define PARTITIONS 24u
#define LIVES (sizeof(lives) / sizeof(lives[0]))

static const struct life {
	uint32_t core_count, caller_cores;
} lives[] = {{1, 0}, {4, 0}, {2, 0}, {64, 0}, {0, 3}, {1, 0}, {0, 64}, {0, 1}};

static uint64_t sent[PARTITIONS];  /* messages of each: their numbers */
static uint64_t acked[PARTITIONS]; /* the group's next */
static uint64_t per_life = 500;

struct running {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
};

static void up(struct running *r, const char *dir, const struct life *life)
{
	uint32_t i;

	CHECK(thmq_env_open(&r->env, THMQ_ENV_OPTS(.core_count = life->core_count,
						   .caller_cores = life->caller_cores)) == 0);
	for (i = 0; i < life->caller_cores; i++)
		CHECK(thmq_core_attach(r->env, i) == 0);
	CHECK(thmq_broker_open(r->env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = SHARDS,
						.segment_bytes = 1u << 20, .cache_bytes = 1u << 20),
			       &r->broker) == 0);
	CHECK(thmq_connect(r->env, "inproc://", NULL, &r->session) == 0);
	CHECK(thmq_topic_create(r->session, "t",
				THMQ_TOPIC_OPTS(.partition_count = PARTITIONS,
						.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
}

static void produce(struct running *r)
{
	struct thmq_producer *p;
	uint64_t body[2], k;
	int64_t sequence;
	uint32_t i;

	CHECK(thmq_producer_open(r->session, "t", NULL, &p) == 0);
	for (k = 0; k < per_life; k++)
		for (i = 0; i < PARTITIONS; i++) {
			body[0] = i;
			body[1] = sent[i];
			while ((sequence =
					thmq_send(p, body, sizeof(body),
						  THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
								    .partition = i))) == -EAGAIN)
				CHECK(thmq_session_wait(r->session, 10 * SECOND) >= 0);
			CHECK(sequence > 0);
			sent[i]++;
		}
	CHECK(thmq_flush(p, 120 * SECOND) == 0);
	CHECK(thmq_producer_close(p, 10 * SECOND) == 0);
}

/* Takes what is there until @wanted messages in all have come; @next has what comes next in each partition. */
static void take(struct running *r, struct thmq_consumer *c, uint64_t next[PARTITIONS],
		 uint64_t wanted, int ack)
{
	uint64_t body[2], deadline = now_ns() + 120 * SECOND;
	struct thmq_message m[64];
	int n, i;

	while (wanted) {
		n = thmq_fetch(c, m, (uint32_t)(wanted < 64 ? wanted : 64));
		CHECK(n >= 0);
		CHECK(now_ns() < deadline);
		if (!n)
			CHECK(thmq_session_wait(r->session, SECOND) >= 0);
		for (i = 0; i < n; i++) {
			CHECK(m[i].len == sizeof(body));
			memcpy(body, m[i].data, sizeof(body));
			CHECK(body[0] == m[i].partition);
			CHECK(body[1] == next[m[i].partition]); /* in order, once, none missing */
			next[m[i].partition]++;
			if (ack)
				CHECK(thmq_ack(c, &m[i]) == 0);
		}
		if (n)
			CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		wanted -= (uint64_t)n;
	}
	CHECK(thmq_fetch(c, m, 1) >= 0);
}

static uint64_t sum(const uint64_t of[PARTITIONS])
{
	uint64_t all = 0;

	for (uint32_t i = 0; i < PARTITIONS; i++)
		all += of[i];
	return all;
}

/* The group: a part of what is there, so that the next life has to go on in the middle. */
static void consume(struct running *r, int all)
{
	uint64_t left = sum(sent) - sum(acked);
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(r->session, "t", "g",
				 THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	take(r, c, acked, all ? left : left * 2 / 3, 1);
	CHECK(thmq_consumer_flush(c, 60 * SECOND) == 0);
	CHECK(thmq_consumer_close(c, 10 * SECOND) == 0);
}

static void check_shards(struct running *r)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	uint32_t seen[SHARDS] = {0}, i;

	CHECK(thmq_broker_stats(r->broker, &stats) == 0);
	CHECK(stats.shard_count == SHARDS); /* as it was made, whatever cores there are */
	for (i = 0; i < PARTITIONS; i++) {
		struct thmq_partition_info info = {.size = sizeof(info)};

		CHECK(thmq_partition_describe(r->session, "t", i, "g", &info) == 0);
		CHECK(info.shard < SHARDS);
		CHECK(info.end_offset - info.begin_offset == sent[i]);
		CHECK(!acked[i] || info.group_offset == info.begin_offset + acked[i]);
		seen[info.shard]++;
	}
	for (i = 0; i < SHARDS; i++)
		CHECK(seen[i] == PARTITIONS / SHARDS);
}

static void live(const char *dir, size_t number)
{
	const struct life *life = &lives[number];
	uint64_t from_begin[PARTITIONS] = {0};
	struct thmq_consumer *reader;
	uint64_t begin = now_ns();
	struct running r;

	up(&r, dir, life);
	check_shards(&r);
	produce(&r);
	consume(&r, number + 1 == LIVES);
	check_shards(&r);
	CHECK(thmq_consumer_open(r.session, "t", NULL,
				 THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	take(&r, reader, from_begin, sum(sent), 0);
	CHECK(memcmp(from_begin, sent, sizeof(sent)) == 0);
	CHECK(thmq_env_close(r.env, 60 * SECOND) == 0);
	printf("%2u cores of the library, %2u of the host: %llu messages, %llu acknowledged, %.1f "
	       "s\n",
	       life->core_count, life->caller_cores, (unsigned long long)sum(sent),
	       (unsigned long long)sum(acked), (double)(now_ns() - begin) / 1e9);
}

int main(void)
{
	char dir[] = "core-counts-XXXXXX", command[64];
	size_t i;

	per_life *= getenv("THMQ_TEST_FULL") ? 100 : 1;
	CHECK(mkdtemp(dir));
	for (i = 0; i < LIVES; i++)
		live(dir, i);
	CHECK(memcmp(sent, acked, sizeof(sent)) == 0);
	snprintf(command, sizeof(command), "rm -r '%s'", dir);
	return system(command) != 0;
}
