/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers of one environment that keep the same data, with threads of the library and without: one that leads is closed again and again,
 * as if killed or in good order, and comes back; a session goes on by itself. What was acknowledged is there, each message once and
 * in order, at a reader and at a group, and what the group acknowledged stays so.
 *
 * usage: broker_copies_test [case]; THMQ_TEST_FULL=1 goes on for longer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <thundermq/stats.h>

#include "base/base.h"

#define BROKERS 3u
#define PARTITIONS 3u
#define SECOND 1000000000ull

struct world {
	struct thmq_env *env;
	struct thmq_broker *brokers[BROKERS];
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumers[2];
	uint32_t cores, shards;
	uint32_t sent, settled, lost, messages;
	uint32_t next_to[PARTITIONS], next_of[2][PARTITIONS];
	uint64_t offsets[PARTITIONS];
	struct thmqi_prng prng;
	char dir[64];
};

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void open_broker(struct world *w, uint32_t i)
{
	char dir[96], name[16];

	snprintf(dir, sizeof(dir), "%s/%u", w->dir, i + 1);
	snprintf(name, sizeof(name), "b%u", i + 1);
	CHECK(thmq_broker_open(
		      w->env,
		      THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = w->shards,
				       .segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
				       .cache_bytes = 1u << 20,
				       .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3",
				       .cluster_name = "test", .node_id = i + 1, .trace_every = 1),
		      &w->brokers[i]) == 0);
}

static int leader(const struct world *w)
{
	for (uint32_t i = 0; i < BROKERS; i++)
		if (w->brokers[i] && thmq_broker_leader(w->brokers[i], NULL) == 1)
			return (int)i;
	return -1;
}

/* ---------------------------------------------------------------------- flow */

static void send_some(struct world *w)
{
	uint32_t n = (uint32_t)thmqi_prng_below(&w->prng, 40), partition, body[100] = {0};
	int64_t rc;

	while (n-- && w->sent < w->messages) {
		partition = (uint32_t)thmqi_prng_below(&w->prng, PARTITIONS);
		body[0] = w->next_to[partition];
		rc = thmq_send(
			w->producer, body, 4 + 4 * (uint32_t)thmqi_prng_below(&w->prng, 99),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
		if (rc == -EAGAIN || rc == -THMQ_ENOQUORUM)
			return;
		CHECK(rc == w->sent + 1);
		w->sent++;
		w->next_to[partition]++;
	}
}

static void take_some(struct world *w, uint32_t which)
{
	struct thmq_message m[64];
	int n = thmq_fetch(w->consumers[which], m, 64), i;
	uint32_t number;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(m[i].len >= 4 && m[i].partition < PARTITIONS);
		memcpy(&number, m[i].data, 4);
		if (number != w->next_of[which][m[i].partition])
			fprintf(stderr, "%s, partition %u: %u in place of %u, offset %llx\n",
				which ? "group" : "reader", m[i].partition, number,
				w->next_of[which][m[i].partition], (unsigned long long)m[i].offset);
		CHECK(number == w->next_of[which][m[i].partition]);
		w->next_of[which][m[i].partition]++;
		if (which)
			w->offsets[m[i].partition] = m[i].offset;
		if (which)
			CHECK(thmq_ack(w->consumers[1], &m[i]) == 0);
	}
	CHECK(thmq_release(w->consumers[which], m, (uint32_t)n) == 0);
}

static void take_events(struct world *w)
{
	struct thmq_event e;

	while (thmq_events(w->session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_SETTLED && e.type != THMQ_EVENT_DISCONNECTED &&
		    e.type != THMQ_EVENT_RECONNECTED && e.type != THMQ_EVENT_ASSIGNED)
			fprintf(stderr, "event %u, error %d\n", e.type, e.error);
		CHECK(e.type == THMQ_EVENT_SETTLED || e.type == THMQ_EVENT_DISCONNECTED ||
		      e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED);
		CHECK(e.type != THMQ_EVENT_SETTLED || e.durability == THMQ_DURABILITY_QUORUM);
		w->settled += e.type == THMQ_EVENT_SETTLED;
		w->lost += e.type == THMQ_EVENT_DISCONNECTED;
	}
	CHECK(w->settled <= w->sent);
}

static void step(struct world *w)
{
	send_some(w);
	take_some(w, 0);
	take_some(w, 1);
	take_events(w);
	CHECK(thmq_session_wait(w->session, SECOND / 1000) >= 0);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* All that was sent until then has come back. */
static void catch_up(struct world *w)
{
	uint64_t end = now() + 60 * SECOND;
	uint32_t i, got;

	do {
		step(w);
		CHECK(now() < end);
		for (got = i = 0; i < PARTITIONS; i++)
			got += w->next_of[0][i] + w->next_of[1][i];
	} while (got != 2 * w->sent || w->settled != w->sent);
}

static void begin(struct world *w)
{
	CHECK(thmq_env_open(&w->env,
			    THMQ_ENV_OPTS(.core_count = w->cores, .pool_bytes = 256u << 20)) == 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		open_broker(w, i);
	CHECK(thmq_connect(w->env, "inproc://b2", NULL, &w->session) == 0);
	CHECK(thmq_topic_create(w->session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) ==
	      0);
	CHECK(thmq_producer_open(w->session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
				 &w->producer) == 0);
	CHECK(thmq_consumer_open(w->session, "t", NULL, NULL, &w->consumers[0]) == 0);
	CHECK(thmq_consumer_open(w->session, "t", "g",
				 THMQ_CONSUMER_OPTS(.session_timeout_ns = 60 * SECOND),
				 &w->consumers[1]) == 0);
	w->messages = 300;
	catch_up(w);
}

static void end(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	catch_up(w);
	CHECK(thmq_flush(w->producer, 30 * SECOND) == 0);
	CHECK(thmq_consumer_flush(w->consumers[1], 30 * SECOND) == 0);
	for (uint32_t i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		CHECK(!w->next_to[i] || info.group_offset == w->offsets[i] + 1);
	}
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		if (w->brokers[i])
			CHECK(thmq_broker_close(w->brokers[i], 0) != -EDEADLK);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
}

/* @kill: nobody is told, else another one leads before it is gone. */
static void lose_leader(struct world *w, bool kill)
{
	int at = leader(w), i;
	uint64_t began;

	CHECK(at >= 0);
	w->messages += 500;
	for (i = 0; i < 5; i++)
		step(w);
	began = now();
	thmq_broker_close(w->brokers[at], kill ? 0 : 10 * SECOND);
	w->brokers[at] = NULL;
	catch_up(w);
	printf("the leader, broker %d, %s: all goes on after %u ms\n", at + 1,
	       kill ? "is killed" : "leaves", (unsigned)((now() - began) / 1000000u));
	open_broker(w, (uint32_t)at);
	w->messages += 200;
	catch_up(w);
}

/* ------------------------------------------------------------------ retention */

static uint64_t bytes_of(const struct world *w, uint32_t broker)
{
	char command[192];
	uint64_t kib = 0;
	FILE *f;

	snprintf(command, sizeof(command), "du -sk %s/%u/shard-000 2>/dev/null", w->dir,
		 broker + 1);
	f = popen(command, "r");
	CHECK(f && fscanf(f, "%lu", &kib) == 1);
	pclose(f);
	return kib << 10;
}

static void send_much(struct world *w, uint32_t count)
{
	static uint8_t body[8192];

	while (count) {
		int64_t rc = thmq_send(w->producer, body, sizeof(body), NULL);

		CHECK(rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM);
		count -= rc > 0;
		if (rc < 0)
			CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
	}
	CHECK(thmq_flush(w->producer, 30 * SECOND) == 0);
}

static void bounds(struct world *w, uint64_t *ret_begin, uint64_t *ret_end)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(w->session, "t", 0, "g", &info) == 0);
	*ret_begin = info.begin_offset;
	*ret_end = info.end_offset;
}

static void wait_for_leader(struct world *w)
{
	uint64_t end = now() + 30 * SECOND;

	while (leader(w) < 0) {
		CHECK(now() < end);
		CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
	}
}

/* Directories and options that do not belong together; each refusal changes nothing. */
static void refusals(struct world *w)
{
	struct thmq_broker *b = w->brokers[0];
	char dir[96], command[192];

	thmq_broker_close(b, 0);
	w->brokers[0] = NULL;
	snprintf(dir, sizeof(dir), "%s/1", w->dir);
	CHECK(thmq_broker_open(w->env, THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1"), &b) ==
	      -EINVAL);
	CHECK(thmq_broker_open(
		      w->env,
		      THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1", .node_id = 1,
				       .cluster_name = "another",
				       .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3"),
		      &b) == -THMQ_ECORRUPT);
	CHECK(thmq_broker_open(
		      w->env,
		      THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1", .node_id = 4,
				       .cluster_name = "test",
				       .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3"),
		      &b) == -EINVAL);
	CHECK(thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1", .node_id = 1,
						.cluster = "1=b1"),
			       &b) == -EINVAL);
	CHECK(thmq_broker_open(w->env, THMQ_BROKER_OPTS(.data_dir = dir, .node_id = 1), &b) ==
	      -EINVAL);
	/* a shard that is lost has voted */
	snprintf(command, sizeof(command), "mv %s/shard-000 %s/away", dir, w->dir);
	CHECK(system(command) == 0);
	CHECK(thmq_broker_open(
		      w->env,
		      THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1", .node_id = 1,
				       .cluster_name = "test", .shard_count = 1,
				       .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3"),
		      &b) == -THMQ_ECORRUPT);
	snprintf(command, sizeof(command), "mv %s/away %s/shard-000", w->dir, dir);
	CHECK(system(command) == 0);
	open_broker(w, 0);
}

/* What is old goes on all of them; one that was away meanwhile begins anew behind it, and can lead then. */
static void retention(struct world *w)
{
	uint64_t begin_offset = 0, end_offset = 0, until = now() + 60 * SECOND, at;
	uint32_t away, i, reads = 0;
	struct thmq_consumer *reader;
	struct thmq_message m[16];
	int n;

	CHECK(thmq_env_open(&w->env,
			    THMQ_ENV_OPTS(.core_count = w->cores, .pool_bytes = 256u << 20)) == 0);
	for (i = 0; i < BROKERS; i++)
		open_broker(w, i);
	CHECK(thmq_connect(w->env, "inproc://b1", NULL, &w->session) == 0);
	CHECK(thmq_topic_create(w->session, "t", THMQ_TOPIC_OPTS(.retention_bytes = 1u << 20)) ==
	      0);
	CHECK(thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	wait_for_leader(w);
	away = ((uint32_t)leader(w) + 1) % BROKERS;
	send_much(w, 100);
	CHECK(thmq_broker_close(w->brokers[away], SECOND) == 0);
	w->brokers[away] = NULL;
	send_much(w, 1500);
	do {
		if (now() >= until)
			fprintf(stderr,
				"broker %d leads, from %llu to %llu, %llu %llu %llu bytes\n",
				leader(w) + 1, (unsigned long long)begin_offset,
				(unsigned long long)end_offset, (unsigned long long)bytes_of(w, 0),
				(unsigned long long)bytes_of(w, 1),
				(unsigned long long)bytes_of(w, 2));
		CHECK(now() < until);
		CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
		bounds(w, &begin_offset, &end_offset);
		for (n = i = 0; i < BROKERS; i++)
			n += i != away && bytes_of(w, i) > 7u << 20;
	} while (n || begin_offset < 200);
	open_broker(w, away);
	while (bytes_of(w, away) > 7u << 20) {
		CHECK(now() < until);
		send_much(w, 10);
		CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
	}
	CHECK(thmq_cluster_lead(w->session, away + 1, 30 * SECOND) == 0);
	CHECK(thmq_broker_leader(w->brokers[away], NULL) == 1);
	send_much(w, 1);
	bounds(w, &begin_offset, &end_offset);
	CHECK(thmq_consumer_open(w->session, "t", NULL,
				 THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	for (at = begin_offset; at < end_offset;) {
		CHECK(now() < until);
		n = thmq_fetch(reader, m, 16);
		CHECK(n >= 0);
		for (i = 0; i < (uint32_t)n; i++, reads++) {
			CHECK(m[i].offset >= at && m[i].len == 8192);
			at = m[i].offset + 1;
		}
		CHECK(thmq_release(reader, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
	}
	printf("%u of 1600 messages and some are left, and the one that was away leads\n", reads);
	CHECK(reads >= 100 && reads < 1000);
	/* any other one: the answer may be lost with the one that led */
	for (i = 0; i < 20; i++)
		CHECK(thmq_cluster_lead(w->session, 0, 30 * SECOND) == 0);
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	refusals(w);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
}

/* ------------------------------------------------------------------ relocation */

#define KEPT 40u
#define KEYS 50u

/* Its messages are numbers from 0 on, in order. */
static uint32_t count_kept(struct world *w, const char *topic)
{
	uint64_t until = now() + 60 * SECOND;
	struct thmq_consumer *reader;
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_message m[16];
	uint64_t at = 0;
	uint32_t count = 0, number;

	CHECK(thmq_partition_describe(w->session, topic, 0, NULL, &info) == 0);
	CHECK(thmq_consumer_open(w->session, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	while (at < info.end_offset) {
		int n = thmq_fetch(reader, m, 16), i;

		CHECK(now() < until && n >= 0);
		for (i = 0; i < n; i++, count++) {
			memcpy(&number, m[i].data, 4);
			CHECK(number == count && m[i].len == 1000 && m[i].offset >= at);
			at = m[i].offset + 1;
		}
		CHECK(thmq_release(reader, m, (uint32_t)n) == 0);
		if (!n && thmq_partition_describe(w->session, topic, 0, NULL, &info) == 0)
			CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
	}
	CHECK(thmq_consumer_close(reader, SECOND) == 0);
	return count;
}

/* Of each key the newest, and hardly an older one. */
static void check_table(struct world *w, const uint32_t *newest)
{
	uint32_t k, value;
	char key[16];

	for (k = 0; k < KEYS; k++) {
		struct thmq_message m;
		struct thmq_consumer *reader;
		struct thmq_key_info info = {.size = sizeof(info)};
		uint64_t offset, until = now() + 60 * SECOND;

		snprintf(key, sizeof(key), "key-%u", k);
		CHECK(thmq_key_find(w->session, "table", 0, key, (uint32_t)strlen(key), UINT64_MAX, &info) == 0);
		offset = info.offset;
		CHECK(thmq_consumer_open(w->session, "table", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
		CHECK(thmq_seek(reader, 0, THMQ_START_OFFSET, offset) == 0);
		while (thmq_fetch(reader, &m, 1) != 1) {
			CHECK(now() < until);
			CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
		}
		memcpy(&value, m.data, 4);
		CHECK(m.offset == offset && value == newest[k]);
		CHECK(thmq_release(reader, &m, 1) == 0);
		CHECK(thmq_consumer_close(reader, SECOND) == 0);
	}
}

/*
 * A few messages that stay for ever, and a table, beside many that go: what stays is appended again by whoever leads, and all
 * copies have it; one that was away meanwhile gets it, too.
 */
static void relocation(struct world *w)
{
	uint64_t until = now() + 60 * SECOND;
	struct thmq_producer *keeper, *table;
	uint32_t newest[KEYS], i, round, away, rounds = 0;
	static uint8_t body[1000], large[20000];
	char key[16];

	CHECK(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = w->cores, .pool_bytes = 256u << 20)) == 0);
	for (i = 0; i < BROKERS; i++)
		open_broker(w, i);
	CHECK(thmq_connect(w->env, "inproc://b1", NULL, &w->session) == 0);
	CHECK(thmq_topic_create(w->session, "t", THMQ_TOPIC_OPTS(.retention_bytes = 1u << 20)) == 0);
	CHECK(thmq_topic_create(w->session, "kept", NULL) == 0);
	CHECK(thmq_topic_create(w->session, "table", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	CHECK(thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	CHECK(thmq_producer_open(w->session, "kept", NULL, &keeper) == 0);
	CHECK(thmq_producer_open(w->session, "table", NULL, &table) == 0);
	wait_for_leader(w);
	away = ((uint32_t)leader(w) + 1) % BROKERS;
	for (i = 0; i < KEPT; i++) {
		memcpy(body, &i, 4);
		CHECK(thmq_send(keeper, body, sizeof(body), NULL) > 0);
	}
	CHECK(thmq_flush(keeper, 30 * SECOND) == 0);
	CHECK(thmq_broker_close(w->brokers[away], SECOND) == 0);
	w->brokers[away] = NULL;
	do { /* the cleaner is slow on purpose: what it has to do does not become more for ever */
		for (round = 0; round < 4 && rounds < 24; round++, rounds++)
			for (i = 0; i < KEYS; i++) {
				snprintf(key, sizeof(key), "key-%u", i);
				newest[i] = rounds * KEYS + i;
				memcpy(large, &newest[i], 4);
				while (thmq_send(table, large, sizeof(large), THMQ_MESSAGE_OPTS(.key = key, .key_len = (uint32_t)strlen(key))) < 0)
					CHECK(thmq_session_wait(w->session, SECOND / 100) >= 0);
			}
		CHECK(thmq_flush(table, 30 * SECOND) == 0);
		send_much(w, rounds < 24 ? 200 : 4);
		CHECK(now() < until);
		CHECK(thmq_session_wait(w->session, rounds < 24 ? 0 : SECOND / 20) >= 0);
		for (i = round = 0; i < BROKERS; i++)
			round += i != away && bytes_of(w, i) > 12u << 20;
	} while (rounds < 24 || round);
	printf("%u values of %u keys, %llu KiB are left of %llu\n", rounds * KEYS, KEYS, (unsigned long long)bytes_of(w, (away + 1) % BROKERS) >> 10,
	       (unsigned long long)rounds * (KEYS * sizeof(large) + 50 * 8192) >> 10);
	CHECK(count_kept(w, "kept") == KEPT);
	check_table(w, newest);
	open_broker(w, away);
	CHECK(thmq_cluster_lead(w->session, away + 1, 60 * SECOND) == 0);
	CHECK(count_kept(w, "kept") == KEPT);
	check_table(w, newest);
	/* from its own log, opened anew */
	CHECK(thmq_broker_close(w->brokers[away], 0) != -EDEADLK);
	open_broker(w, away);
	CHECK(thmq_cluster_lead(w->session, away + 1, 60 * SECOND) == 0);
	CHECK(count_kept(w, "kept") == KEPT);
	check_table(w, newest);
	printf("what stays is there, also at the one that was away\n");
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	for (i = 0; i < BROKERS; i++)
		thmq_broker_close(w->brokers[i], 0);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
}

/* Does the one that leads tell of a batch of a shard when a majority had it? */
static bool was_agreed(struct world *w)
{
	struct thmq_stats_value v = {.size = sizeof(v)};
	struct thmq_stats *stats;
	uint64_t cursor = 0;
	bool is_so = false;
	char dir[96];

	snprintf(dir, sizeof(dir), "%s/%d", w->dir, leader(w) + 1);
	CHECK(thmq_stats_open(dir, &stats) == 0);
	while (!is_so && thmq_stats_next(stats, &cursor, &v) == 1)
		is_so = strcmp(v.table, "trace") == 0 && strcmp(v.of, "shard-000") == 0 && strcmp(v.name, "agreed") == 0 && v.value;
	thmq_stats_close(stats);
	return is_so;
}

/* What thmq explain shows of copies. */
static void traces(struct world *w)
{
	uint64_t until = now() + 20 * SECOND;

	CHECK(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = w->cores, .pool_bytes = 256u << 20)) == 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		open_broker(w, i);
	CHECK(thmq_connect(w->env, "inproc://b1,inproc://b2,inproc://b3", NULL, &w->session) == 0);
	CHECK(thmq_topic_create(w->session, "t", NULL) == 0);
	CHECK(thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	do {
		CHECK(now() < until);
		send_much(w, 10);
	} while (leader(w) < 0 || !was_agreed(w));
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
}

static void lose_leaders(struct world *w)
{
	begin(w);
	for (uint32_t i = 0; i < (getenv("THMQ_TEST_FULL") ? 20 : 2); i++)
		lose_leader(w, i % 2 == 0);
	end(w);
}

static void run(const char *name, uint32_t cores, uint32_t shards, void (*what)(struct world *w))
{
	struct world *w = calloc(1, sizeof(*w));
	char command[192];

	CHECK(w);
	printf("%s\n", name);
	thmqi_prng_seed(&w->prng, 1);
	w->cores = cores;
	w->shards = shards;
	snprintf(w->dir, sizeof(w->dir), "broker-copies-%d", (int)getpid());
	snprintf(command, sizeof(command), "rm -rf %s && mkdir %s", w->dir, w->dir);
	CHECK(system(command) == 0);
	what(w);
	snprintf(command, sizeof(command), "rm -rf %s", w->dir);
	CHECK(system(command) == 0);
	free(w);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!*only || strcmp(only, "threads") == 0)
		run("threads", 2, 2, lose_leaders);
	if (!*only || strcmp(only, "alone") == 0)
		run("alone", 0, 1, lose_leaders);
	if (!*only || strcmp(only, "retention") == 0)
		run("retention", 1, 1, retention);
	if (!*only || strcmp(only, "relocation") == 0)
		run("relocation", 1, 1, relocation);
	if (!*only || strcmp(only, "traces") == 0)
		run("traces", 1, 1, traces);
	return 0;
}
