/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retention, whole: api, broker, log, on a simulated disk. What topics need not keep goes and its room is used again; what
 * outlives it stays over restarts and power cuts: offsets are not used twice, groups stand where they stood, ids of topics
 * that are gone are not given again.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

#define SECOND 1000000000ull
#define BIG 100000u /* bytes of a message */

static struct {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_broker_opts opts;
} w;
static uint8_t payload[BIG];

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void start(void)
{
	CHECK(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 128u << 20),
				 thmqi_disk_sim_world(w.sim), &w.env) == 0);
	CHECK(thmq_broker_open(w.env, &w.opts, &w.broker) == 0);
	CHECK(thmq_connect(w.env, "inproc://", NULL, &w.session) == 0);
}

static void up(uint64_t seed)
{
	memset(&w, 0, sizeof(w));
	w.opts = (struct thmq_broker_opts){.size = sizeof(w.opts),
					   .data_dir = "data",
					   .shard_count = 1,
					   .segment_bytes = 1u << 20,
					   .batch_bytes = 256u << 10,
					   .cache_bytes = 1u << 20};
	CHECK(thmqi_disk_sim_open(seed, NULL, &w.sim) == 0);
	start();
}

/* With a log of 6 MiB at most. */
static void up_bounded(uint64_t seed, uint32_t full_policy)
{
	up(seed);
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0);
	w.opts.limit_bytes = 6u << 20;
	w.opts.full_policy = full_policy;
	start();
}

static void restart(bool cut)
{
	if (cut)
		thmqi_disk_sim_crash(w.sim);
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0 || cut);
	if (cut)
		thmqi_disk_sim_restart(w.sim);
	start();
}

static void down(void)
{
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0);
	thmqi_disk_sim_close(w.sim);
}

static uint64_t stored(void)
{
	struct thmqi_disk_sim_stats s;

	thmqi_disk_sim_stats(w.sim, &s);
	return s.bytes;
}

/* The cleaner looks every second. */
static void rest_for(uint64_t ns)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + ns;

	while (thmqi_disk_sim_now(w.sim) < end)
		thmq_poll(w.env, SECOND / 100);
}

static void rest(uint32_t seconds)
{
	rest_for(seconds * SECOND);
}

static void publish(const char *topic, uint32_t count, uint32_t len)
{
	struct thmq_producer *p;

	CHECK(thmq_producer_open(w.session, topic, NULL, &p) == 0);
	while (count) {
		int64_t seq = thmq_send(p, payload, len, NULL);

		CHECK(seq > 0 || seq == -EAGAIN);
		count -= seq > 0;
		thmq_poll(w.env, seq > 0 ? 0 : 1000000);
	}
	CHECK(thmq_flush(p, 600 * SECOND) == 0);
	CHECK(thmq_producer_close(p, 60 * SECOND) == 0);
}

static struct thmq_partition_info about(const char *topic, const char *group);

/* Reads and acknowledges @count messages. Return: offset of the first. */
static uint64_t consume(const char *topic, const char *group, uint32_t count, bool *ret_range)
{
	uint64_t first = UINT64_MAX, before = about(topic, group).group_offset;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	uint32_t idle = 0;

	CHECK(thmq_consumer_open(w.session, topic, group, NULL, &c) == 0);
	while (count && idle < 10000) {
		int n = thmq_fetch(c, &m, 1);

		CHECK(n >= 0);
		if (!n) {
			idle++;
			thmq_poll(w.env, 1000000);
			continue;
		}
		first = first == UINT64_MAX ? m.offset : first;
		CHECK(thmq_ack(c, &m) == 0);
		CHECK(thmq_release(c, &m, 1) == 0);
		count--;
	}
	CHECK(!count);
	CHECK(thmq_consumer_flush(c, 60 * SECOND) == 0);
	while (thmq_events(w.session, &e, 1) == 1)
		if (ret_range && e.type == THMQ_EVENT_OFFSETRANGE) {
			/* the numbers of what it skips, and where it goes on */
			CHECK(e.consumer == c && e.partition == 0 && e.error == -THMQ_EOFFSETRANGE);
			CHECK(e.offset == first && e.count == first - before);
			*ret_range = true;
		}
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	return first;
}

static struct thmq_partition_info about(const char *topic, const char *group)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(w.session, topic, 0, group, &info) == 0);
	return info;
}

static void make(const char *topic, const struct thmq_topic_opts *opts)
{
	CHECK(thmq_topic_create(w.session, topic, opts) == 0);
}

static void by_bytes(void)
{
	struct thmq_partition_info small, big;
	bool range = false;
	uint32_t life;

	up(1);
	make("small", THMQ_TOPIC_OPTS(.retention_ns = 1));
	make("big", THMQ_TOPIC_OPTS(.retention_bytes = 4u << 20));
	publish("small", 3, 100);
	CHECK(consume("small", "g", 3, NULL) == 0);
	publish("big", 10, BIG);
	CHECK(consume("big", "g", 5, NULL) == 0);
	publish("big", 500, BIG);
	rest(3);
	CHECK(stored() < 14u << 20);
	big = about("big", "g");
	CHECK(big.end_offset == 510 && big.begin_offset > 400 && big.begin_offset < 480);
	CHECK(big.group_offset == 5);
	for (life = 0; life < 4; life++) {
		restart(life % 2);
		small = about("small", "g");
		CHECK(small.begin_offset == small.end_offset && small.end_offset == 3);
		CHECK(small.group_offset == 3);
		CHECK(about("big", "g").begin_offset == big.begin_offset);
		CHECK(about("big", "g").end_offset == 510);
	}
	CHECK(consume("big", "g", 1, &range) == big.begin_offset);
	CHECK(range);
	publish("small", 1, 100);
	CHECK(about("small", "g").end_offset > 3);
	CHECK(consume("small", "g", 1, NULL) >= 3);
	/* and what was read back from indexes counts as what was appended */
	publish("big", 50, BIG);
	rest(3);
	CHECK(stored() < 14u << 20);
	CHECK(about("big", NULL).begin_offset > big.begin_offset + 30);
	down();
}

static void by_time(void)
{
	up(2);
	make("t", THMQ_TOPIC_OPTS(.retention_ns = 3600 * SECOND));
	publish("t", 50, BIG);
	rest(3);
	CHECK(about("t", NULL).begin_offset == 0);
	thmqi_disk_sim_advance(w.sim, 3000 * SECOND);
	publish("t", 50, BIG);
	thmqi_disk_sim_advance(w.sim, 1000 * SECOND);
	rest(3);
	CHECK(about("t", NULL).begin_offset > 30 && about("t", NULL).begin_offset <= 50);
	down();
}

static void by_consumption(void)
{
	uint64_t begin;

	up(3);
	make("t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	publish("t", 60, BIG);
	rest(3);
	CHECK(about("t", NULL).begin_offset == 0); /* nobody has read it */
	CHECK(consume("t", "b", 1, NULL) == 0);
	CHECK(consume("t", "a", 60, NULL) == 0);
	CHECK(consume("t", "b", 34, NULL) == 1);
	rest(3);
	begin = about("t", "b").begin_offset;
	CHECK(begin > 10 && begin <= 35);
	restart(false);
	rest(3);
	CHECK(about("t", "b").begin_offset == begin);
	CHECK(consume("t", "b", 1, NULL) == 35);
	/* a group that has not begun is waited for, after a restart too */
	publish("t", 60, BIG);
	CHECK(consume("t", "a", 60, NULL) == 60);
	restart(true);
	rest(3);
	CHECK(about("t", "b").begin_offset <= 36);
	CHECK(consume("t", "b", 84, NULL) == 36);
	rest(3);
	CHECK(about("t", "b").begin_offset > 100);
	down();
}

/* Partitions that were added wait for the groups that there are, also for one that has no member and never had anything of them. */
static void by_consumption_of_added_ones(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_producer *p;
	uint32_t i;

	up(7);
	make("t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	make("other", NULL);
	publish("t", 2, BIG);
	CHECK(consume("t", "a", 2, NULL) == 0 && consume("t", "b", 2, NULL) == 0);
	CHECK(thmq_topic_alter(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = 2), THMQ_ALTER_PARTITIONS) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &p) == 0);
	for (i = 0; i < 60;) {
		int64_t seq = thmq_send(p, payload, BIG, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 1));

		CHECK(seq > 0 || seq == -EAGAIN);
		i += seq > 0;
		thmq_poll(w.env, 1000000);
	}
	CHECK(thmq_flush(p, 600 * SECOND) == 0 && thmq_producer_close(p, 60 * SECOND) == 0);
	consume("t", "a", 60, NULL);
	rest(5);
	CHECK(thmq_partition_describe(w.session, "t", 1, "b", &info) == 0 && info.begin_offset == 0 && info.end_offset == 60);
	restart(true);
	rest(5);
	CHECK(thmq_partition_describe(w.session, "t", 1, "b", &info) == 0 && info.begin_offset == 0);
	consume("t", "b", 60, NULL);
	publish("t", 30, BIG);
	rest(5);
	CHECK(thmq_partition_describe(w.session, "t", 1, "b", &info) == 0 && info.begin_offset > 30);
	down();
}

static void deleted(void)
{
	up(4);
	make("gone", NULL);
	make("kept", NULL);
	publish("gone", 100, BIG);
	CHECK(stored() > 9u << 20);
	CHECK(thmq_topic_delete(w.session, "gone") == 0);
	publish("kept", 15, BIG);
	rest(3);
	CHECK(stored() < 10u << 20); /* of it 3 MiB are meta's */
	CHECK(consume("kept", "g", 15, NULL) == 0);
	down();
}

static void of_metadata(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	uint32_t highest = 0, i, life;
	char name[32];

	up(5);
	make("stays", THMQ_TOPIC_OPTS(.partition_count = 3));
	publish("stays", 1, 10);
	CHECK(consume("stays", "g", 1, NULL) == 0);
	for (i = 0; i < 800; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		make(name, NULL);
		CHECK(thmq_topic_describe(w.session, name, &info) == 0);
		highest = THMQI_MAX(highest, info.topic_id);
		CHECK(thmq_topic_delete(w.session, name) == 0);
	}
	rest(8);
	CHECK(stored() <
	      15u << 20); /* segments of 4 and, made ahead, 8 MiB, the shard 2: those of 1 and 2 MiB have gone */
	for (life = 0; life < 2; life++) {
		restart(life);
		CHECK(thmq_topic_list(w.session, &info, 1) == 1);
		CHECK(thmq_topic_describe(w.session, "stays", &info) == 0);
		CHECK(info.partition_count == 3 && info.group_count == 1);
		CHECK(thmq_topic_list(w.session, &info, 1) == 1);
	}
	make("next", NULL);
	CHECK(thmq_topic_describe(w.session, "next", &info) == 0);
	CHECK(info.topic_id > highest);
	down();
}

static void at_the_limit(void)
{
	struct thmq_partition_info info;

	up_bounded(6, THMQ_FULL_DROP_OLDEST);
	make("t", NULL);
	publish("t", 1, 10);
	CHECK(consume("t", "g", 1, NULL) == 0);
	publish("t", 200, BIG);
	CHECK(stored() < 10u << 20); /* of it 3 MiB are meta's */
	info = about("t", "g");
	CHECK(info.end_offset == 201 && info.begin_offset > 130 && info.group_offset == 1);
	restart(true);
	CHECK(about("t", "g").group_offset == 1 && about("t", "g").end_offset == 201);
	down();
}

/* Nobody writes any more, so that no segment fills: what has expired goes all the same, also after a reopening. */
static void in_a_log_left_alone(void)
{
	struct thmq_partition_info info;
	uint32_t life;

	for (life = 0; life < 2; life++) {
		up(20 + life);
		make("t", THMQ_TOPIC_OPTS(.retention_ns = 3600 * SECOND));
		publish("t", 5, BIG);
		CHECK(consume("t", "g", 2, NULL) == 0);
		rest(120);
		CHECK(about("t", NULL).begin_offset == 0);
		thmqi_disk_sim_advance(w.sim, 3500 * SECOND);
		if (life)
			restart(false);
		rest(200);
		info = about("t", "g");
		CHECK(info.begin_offset == info.end_offset && info.end_offset == 5 && info.group_offset == 2);
		/* and that was that: an empty segment is not ended again and again */
		rest(2000);
		CHECK(stored() < 14u << 20);
		publish("t", 1, BIG);
		info = about("t", NULL);
		CHECK(info.end_offset - info.begin_offset == 1 && info.begin_offset >= 5);
		down();
	}
}

/* What a limit may take later, or never, does not hold up others for ever. */
static void beside_idle_topics(void)
{
	struct thmq_partition_info info;
	bool range = false;

	up(30);
	make("old", THMQ_TOPIC_OPTS(.retention_ns = 1000000 * SECOND));
	make("few", THMQ_TOPIC_OPTS(.retention_bytes = 1u << 30));
	make("read", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	make("busy", THMQ_TOPIC_OPTS(.retention_bytes = 4u << 20));
	publish("old", 3, 100);
	publish("few", 3, 100);
	publish("read", 3, 100);
	publish("busy", 500, BIG);
	rest(5);
	CHECK(stored() < 14u << 20);
	CHECK(about("busy", NULL).begin_offset > 400);
	CHECK(about("old", NULL).begin_offset == 0 && about("old", NULL).end_offset == 3);
	CHECK(about("few", NULL).begin_offset == 0 && about("few", NULL).end_offset == 3);
	/* the limits go on to count for the copies */
	publish("old", 2, 100);
	CHECK(consume("old", "g", 5, &range) == 0 && consume("few", "g", 3, &range) == 0 && consume("read", "g", 3, &range) == 0 && !range);
	thmqi_disk_sim_advance(w.sim, 1000100 * SECOND);
	publish("busy", 100, BIG);
	rest(5);
	info = about("old", NULL);
	CHECK(info.begin_offset == info.end_offset && info.end_offset == 5);
	CHECK(about("few", NULL).begin_offset == 0);
	down();
}

/* Of topics without a limit of time that nobody writes to any more, all segments make way, not only the last that has some. */
static void beside_idle_topics_of_many_segments(void)
{
	bool range = false;

	up(31);
	make("few", THMQ_TOPIC_OPTS(.retention_bytes = 1u << 30));
	make("read", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	make("busy", THMQ_TOPIC_OPTS(.retention_bytes = 4u << 20));
	for (uint32_t i = 0; i < 6; i++) {
		publish("few", 1, 100);
		publish("read", 1, 100);
		publish("busy", 10, BIG);
	}
	publish("busy", 100, BIG);
	rest(600);
	for (uint32_t i = 0; i < 4; i++) {
		publish("busy", 50, BIG);
		rest(5);
	}
	CHECK(stored() < 14u << 20);
	CHECK(about("busy", NULL).begin_offset > 200);
	CHECK(about("few", NULL).begin_offset == 0 && about("few", NULL).end_offset == 6);
	restart(true);
	CHECK(consume("few", "g", 6, &range) == 0 && consume("read", "g", 6, &range) == 0 && !range);
	down();
}

/* Messages until the shard takes none, to the last byte. Return: where they end. */
static uint64_t fill_up(const char *topic)
{
	static const uint32_t lens[] = {BIG, 3000, 1};
	struct thmq_producer *p;
	struct thmq_event e;
	uint64_t sent = 0, now;
	uint32_t i;

	for (i = 0; i < 3; i++) {
		CHECK(thmq_producer_open(w.session, topic, NULL, &p) == 0);
		for (now = 0; now < 100;) {
			sent += thmq_send(p, payload, lens[i], NULL) > 0;
			thmq_poll(w.env, SECOND / 100);
			while (thmq_events(w.session, &e, 1) == 1) {
				now += e.type == THMQ_EVENT_FAILED;
				CHECK(e.type != THMQ_EVENT_FAILED || e.error == -ENOSPC);
			}
			CHECK(sent < 100000);
		}
		thmq_flush(p, 60 * SECOND);
		while (thmq_events(w.session, &e, 1) == 1)
			;
		CHECK(thmq_producer_close(p, 60 * SECOND) == 0);
	}
	return about(topic, NULL).end_offset;
}

static void read_to(struct thmq_consumer *c, uint64_t offset)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + 600 * SECOND, next = 0;
	struct thmq_message m;

	while (next < offset && thmqi_disk_sim_now(w.sim) < end) {
		int n = thmq_fetch(c, &m, 1);
		CHECK(n >= 0);
		if (n != 1) {
			thmq_poll(w.env, SECOND / 100);
			continue;
		}
		next = m.offset + 1;
		CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
	}
	CHECK(next >= offset);
}

static uint32_t fetch_some(uint32_t seconds, struct thmq_consumer *c, bool acks)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + seconds * SECOND;
	struct thmq_message m;
	uint32_t count = 0;

	while (thmqi_disk_sim_now(w.sim) < end) {
		if (thmq_fetch(c, &m, 1) == 1) {
			CHECK(!acks || thmq_ack(c, &m) == 0);
			CHECK(thmq_release(c, &m, 1) == 0);
			count++;
		}
		thmq_poll(w.env, SECOND / 100);
	}
	return count;
}

static uint32_t fetch_for(uint32_t seconds, struct thmq_consumer *c)
{
	return fetch_some(seconds, c, true);
}

/* It refuses all, also the word that messages were read: but for that which lets some of them go. */
static void full_until_it_was_read(uint32_t flags)
{
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t count;

	up_bounded(60, THMQ_FULL_REFUSE);
	make("t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	make("kept", NULL);
	publish("kept", 3, 100);
	count = fill_up("t");
	CHECK(count > 40);
	rest(30);
	CHECK(about("t", NULL).begin_offset == 0);
	CHECK(thmq_consumer_open(w.session, "t", "g", THMQ_CONSUMER_OPTS(.flags = flags), &c) == 0);
	read_to(c, count);
	for (count = 0; count < 300; count++) { /* a member that says nothing is taken for dead */
		rest_for(SECOND / 10);
		CHECK(thmq_fetch(c, &m, 1) == 0);
	}
	publish("t", 20, BIG);
	CHECK(about("t", NULL).begin_offset > 20 && about("kept", NULL).begin_offset == 0);
	read_to(c, about("t", NULL).end_offset);
	CHECK(thmq_consumer_flush(c, 60 * SECOND) == 0);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	CHECK(consume("kept", "g", 3, NULL) == 0);
	restart(true);
	CHECK(about("t", "g").group_offset == about("t", "g").end_offset);
	down();
}

/* What was sent in a transaction is told to be there, or not, though nothing else is taken: behind it nobody could read. */
static void full_when_a_transaction_ends(bool commits)
{
	struct thmq_consumer *c;
	struct thmq_producer *p;
	struct thmq_txn *txn;
	uint64_t end;

	up_bounded(62, THMQ_FULL_REFUSE);
	make("t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_RETAIN_CONSUMED));
	CHECK(thmq_producer_open(w.session, "t", NULL, &p) == 0);
	CHECK(thmq_txn_begin(w.session, THMQ_TXN_OPTS(.timeout_ns = 3600 * SECOND), &txn) == 0);
	CHECK(thmq_send(p, payload, 300, THMQ_MESSAGE_OPTS(.txn = txn)) > 0);
	CHECK(thmq_flush(p, 60 * SECOND) == 0 && thmq_producer_close(p, 60 * SECOND) == 0);
	fill_up("t");
	CHECK((commits ? thmq_txn_commit : thmq_txn_abort)(txn, 60 * SECOND) == 0);
	rest(1);
	end = about("t", NULL).end_offset;
	CHECK(end > 40);
	CHECK(thmq_consumer_open(w.session, "t", "g", NULL, &c) == 0);
	read_to(c, end);
	CHECK(fetch_for(30, c) == 0);
	publish("t", 20, BIG);
	CHECK(about("t", NULL).begin_offset > 20);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	restart(true);
	down();
}

#define MANY_TXNS 60u

/* More of them than there is room for end while nothing is taken: the others are told once something has gone, or at the next open. */
static void full_while_many_transactions_end(bool commits, bool closes)
{
	const uint32_t all = commits ? MANY_TXNS + 1 : 1;
	struct thmq_txn *txns[MANY_TXNS];
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint32_t i, seen;

	up_bounded(63, THMQ_FULL_REFUSE);
	make("t", NULL);
	make("aged", THMQ_TOPIC_OPTS(.retention_ns = 7200 * SECOND));
	publish("aged", 12, BIG); /* the oldest segment has none of the others */
	CHECK(thmq_producer_open(w.session, "t", NULL, &p) == 0);
	for (i = 0; i < MANY_TXNS; i++) {
		CHECK(thmq_txn_begin(w.session, THMQ_TXN_OPTS(.timeout_ns = 3600 * SECOND), &txns[i]) == 0);
		CHECK(thmq_send(p, payload, 30, THMQ_MESSAGE_OPTS(.txn = txns[i])) > 0);
	}
	CHECK(thmq_flush(p, 60 * SECOND) == 0 && thmq_producer_close(p, 60 * SECOND) == 0);
	publish("t", 1, 30);
	CHECK(fill_up("aged") > 40);
	for (i = 0; i < MANY_TXNS; i++)
		CHECK((commits ? thmq_txn_commit : thmq_txn_abort)(txns[i], 60 * SECOND) == 0);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
	seen = fetch_some(5, c, false);
	CHECK(seen < all);
	if (closes) {
		CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
		restart(false);
		CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
		seen = fetch_some(5, c, false);
		CHECK(seen < all);
	}
	thmqi_disk_sim_advance(w.sim, 7300 * SECOND);
	seen += fetch_some(30, c, false);
	CHECK(seen == all);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	publish("t", 1, 30);
	restart(true);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
	CHECK(fetch_some(5, c, false) == all + 1);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	down();
}

/* Messages whose time comes while nothing is taken come all the same. */
static void full_when_it_is_time(void)
{
	struct thmq_consumer *c;
	struct thmq_producer *p;
	uint32_t i;

	up_bounded(61, THMQ_FULL_REFUSE);
	make("t", NULL);
	make("kept", NULL);
	CHECK(thmq_producer_open(w.session, "t", NULL, &p) == 0);
	for (i = 0; i < 20; i++)
		CHECK(thmq_send(p, payload, 300, THMQ_MESSAGE_OPTS(.delay_ns = 5000 * SECOND + i)) > 0);
	CHECK(thmq_flush(p, 60 * SECOND) == 0 && thmq_producer_close(p, 60 * SECOND) == 0);
	CHECK(fill_up("kept") > 40);
	CHECK(about("t", NULL).end_offset == 0);
	thmqi_disk_sim_advance(w.sim, 5000 * SECOND);
	CHECK(thmq_consumer_open(w.session, "t", "g", NULL, &c) == 0);
	read_to(c, 20);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == -ENOSPC); /* nothing goes for that it is stored */
	restart(true);
	CHECK(about("t", NULL).end_offset >= 20);
	down();
}

/* @apart_ns: of their times. Return: how many of @count were refused with -ENOSPC; all are heard of. */
static uint32_t send_late(const char *topic, uint32_t count, uint64_t delay_ns, uint64_t apart_ns)
{
	uint64_t end = thmqi_disk_sim_now(w.sim) + 60 * SECOND;
	uint32_t refused = 0, heard = 0, sent = 0;
	struct thmq_producer *p;
	struct thmq_event e;

	CHECK(thmq_producer_open(w.session, topic, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	while (heard < count) {
		while (sent < count && thmq_send(p, payload, 300, THMQ_MESSAGE_OPTS(.delay_ns = delay_ns + sent * apart_ns)) > 0)
			sent++;
		thmq_poll(w.env, SECOND / 100);
		while (thmq_events(w.session, &e, 1) == 1) {
			CHECK(e.type != THMQ_EVENT_FAILED || e.error == -ENOSPC);
			refused += e.type == THMQ_EVENT_FAILED;
			heard += e.type == THMQ_EVENT_FAILED || e.type == THMQ_EVENT_SETTLED;
		}
		CHECK(thmqi_disk_sim_now(w.sim) < end);
	}
	CHECK((thmq_producer_close(p, 60 * SECOND) == 0) == !refused);
	return refused;
}

/*
 * Where the file system is full and the broker has no limit of its own: what would wait is refused, and never comes. Those whose time
 * comes are there, or wait until there is room; each comes once.
 */
static void full_disk_when_it_is_time(bool one_by_one)
{
	struct thmq_consumer *c;

	up(64);
	make("t", NULL);
	make("kept", NULL);
	CHECK(send_late("t", 20, 5000 * SECOND, one_by_one ? SECOND : 1) == 0);
	thmqi_disk_sim_set_capacity(w.sim, stored() + (3u << 20));
	CHECK(fill_up("kept") > 20);
	CHECK(send_late("t", 5, 10 * SECOND, 1) == 5);
	rest(20);
	CHECK(about("t", NULL).end_offset == 0);
	thmqi_disk_sim_advance(w.sim, 5000 * SECOND);
	rest(60);
	CHECK(about("t", NULL).end_offset <= 20);
	CHECK(thmq_consumer_open(w.session, "t", "g", NULL, &c) == 0);
	thmqi_disk_sim_set_capacity(w.sim, 0);
	read_to(c, 20);
	CHECK(fetch_for(30, c) == 0);
	publish("kept", 20, BIG);
	CHECK(send_late("t", 5, 10 * SECOND, 1) == 0);
	CHECK(fetch_for(30, c) == 5);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	restart(true);
	CHECK(about("t", "g").group_offset == 25 && about("t", NULL).end_offset == 25);
	down();
}

/* By the time of day alone: nothing goes before it says so, what is of the future waits for it, and offsets and groups do not know of it. */
static void when_the_clock_is_set(void)
{
	const int64_t days = 10ll * 86400 * (int64_t)SECOND;
	struct thmq_partition_info info;
	struct thmq_consumer *c;

	up(70);
	make("aged", THMQ_TOPIC_OPTS(.retention_ns = 3600 * SECOND));
	make("fresh", THMQ_TOPIC_OPTS(.ttl_ns = 100 * SECOND));
	publish("aged", 60, BIG);
	publish("fresh", 3, 100);
	thmqi_disk_sim_set_clock(w.sim, -days);
	publish("aged", 60, BIG);
	rest(5);
	CHECK(about("aged", NULL).begin_offset == 0);
	CHECK(consume("fresh", "a", 3, NULL) == 0);
	/* by the clock the later ones are old enough, and those before them are not */
	thmqi_disk_sim_advance(w.sim, 3700 * SECOND);
	publish("aged", 20, BIG);
	rest(5);
	CHECK(about("aged", NULL).begin_offset == 0 && about("aged", NULL).end_offset == 140);
	/* put right */
	thmqi_disk_sim_set_clock(w.sim, 0);
	publish("aged", 20, BIG);
	rest(5);
	info = about("aged", NULL);
	CHECK(info.begin_offset > 100 && info.end_offset == 160);
	/* far ahead, for a moment */
	CHECK(thmq_consumer_open(w.session, "fresh", "a", NULL, &c) == 0);
	publish("fresh", 3, 100);
	CHECK(fetch_for(5, c) == 3);
	publish("aged", 20, BIG);
	thmqi_disk_sim_set_clock(w.sim, days);
	CHECK(fetch_for(5, c) == 0);
	publish("fresh", 2, 100);
	CHECK(fetch_for(5, c) == 2);
	thmqi_disk_sim_set_clock(w.sim, 0);
	publish("fresh", 2, 100);
	publish("aged", 20, BIG);
	CHECK(fetch_for(5, c) == 2);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	info = about("aged", NULL);
	CHECK(info.end_offset == 200 && info.begin_offset <= 180);
	restart(true);
	CHECK(about("aged", NULL).end_offset == 200 && about("fresh", "a").group_offset == 10);
	down();
}

int main(void)
{
	when_the_clock_is_set();
	full_until_it_was_read(0);
	full_until_it_was_read(THMQ_CONSUMER_SHARED);
	full_when_it_is_time();
	full_disk_when_it_is_time(false);
	full_disk_when_it_is_time(true);
	full_when_a_transaction_ends(true);
	full_when_a_transaction_ends(false);
	full_while_many_transactions_end(true, false);
	full_while_many_transactions_end(true, true);
	full_while_many_transactions_end(false, false);
	by_bytes();
	beside_idle_topics_of_many_segments();
	in_a_log_left_alone();
	beside_idle_topics();
	by_time();
	by_consumption();
	by_consumption_of_added_ones();
	deleted();
	of_metadata();
	at_the_limit();
	return 0;
}
