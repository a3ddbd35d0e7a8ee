/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an administrator does with brokers that keep the same data. One that is drained leads nothing, also when it was closed meanwhile, until it is undrained; but
 * where nobody else is left it does. Topics with priorities, of keys, and messages that wait for their time are as they were, and as they were altered, whoever leads. And while the lead goes from one to another all the time, by request, by drains and by brokers that are closed as if killed, every call that
 * creates, alters, lists, describes or deletes something is answered as if nothing had happened.
 *
 * usage: cluster_calls_test [rounds] [seed] [tcp]; THMQ_TEST_FULL=1 goes on for longer, in one environment and by TCP
 */
#include <pthread.h>
#include <stdatomic.h>

#include "cluster_rig.h"

static struct {
	struct thmq_session *session;
	_Atomic bool done;
	_Atomic uint32_t moves, steps; /* of the lead; of what is done meanwhile */
} w;

/* --------------------------------------------------------------------- brokers */

static struct thmq_session *connect_one(void)
{
	struct thmq_session *s;

	CHECK(thmq_connect(rig.env, rig.all, THMQ_SESSION_OPTS(.timeout_ns = PATIENCE_NS, .reconnect_ns = PATIENCE_NS, .peer_timeout_ns = SECOND), &s) == 0);
	return s;
}

static void begin(bool far)
{
	rig_begin("calls", far, 2, THMQ_BROKER_OPTS(.shard_count = 2, .segment_bytes = 1u << 20, .batch_bytes = 64u << 10, .heartbeat_ms = 30, .election_ms = 150));
	rig_open_all();
	w.session = connect_one();
}

static void end(void)
{
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	rig_end();
}

/* ---------------------------------------------------------------------- drained */

/* By a bit of each. */
static uint32_t drained(void)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
	uint32_t all = 0;
	int i;

	CHECK(thmq_cluster_nodes(w.session, nodes, BROKERS) == (int)BROKERS);
	for (i = 0; i < (int)BROKERS; i++)
		all |= nodes[i].drained << (nodes[i].id - 1);
	return all;
}

static void drain_and_undrain(void)
{
	uint32_t one = rig_some_leader(), two, three;

	CHECK(thmq_cluster_undrain(w.session, one + 1, 0) == 0);
	CHECK(thmq_cluster_drain(w.session, 77, 0) == -EINVAL && strstr(thmq_errmsg(), "77"));
	CHECK(drained() == 0);
	CHECK(thmq_cluster_drain(w.session, one + 1, 0) == 0);
	two = rig_some_leader();
	CHECK(two != one && drained() == 1u << one);
	CHECK(thmq_cluster_lead(w.session, one + 1, 0) == -EBUSY && strstr(thmq_errmsg(), "undrain"));
	CHECK(thmq_cluster_drain(w.session, one + 1, 0) == 0);
	three = BROKERS - one - two;
	/* it was away, and who leads is lost: it has a vote, and whoever is elected first, the third one leads in the end */
	rig_close(one, 0);
	rig_open(one);
	rig_close(two, 0);
	rig_wait_for(three);
	rig_open(two);
	CHECK(thmq_cluster_drain(w.session, three + 1, 0) == 0);
	rig_wait_for(two);
	CHECK(drained() == (1u << one | 1u << three));
	CHECK(thmq_cluster_drain(w.session, two + 1, 0) == -EBUSY && strstr(thmq_errmsg(), "drained"));
	/* nobody else is left: better one of them than nobody; and that one gives it back */
	rig_close(two, 0);
	CHECK(rig_some_leader() != two);
	CHECK(thmq_topic_create(w.session, "meanwhile", NULL) == 0);
	rig_open(two);
	rig_wait_for(two);
	/* all were away */
	rig_close(one, 0);
	rig_close(three, 0);
	rig_close(two, 0);
	rig_open(one);
	rig_open(three);
	rig_open(two);
	rig_wait_for(two);
	CHECK(drained() == (1u << one | 1u << three));
	CHECK(thmq_cluster_undrain(w.session, one + 1, 0) == 0);
	CHECK(thmq_cluster_undrain(w.session, three + 1, 0) == 0);
	CHECK(drained() == 0);
	CHECK(thmq_cluster_lead(w.session, one + 1, 0) == 0);
	rig_wait_for(one);
	CHECK(thmq_topic_delete(w.session, "meanwhile") == 0);
}

/* -------------------------------------------------------------------- followed */

static int64_t send_one(struct thmq_producer *p, uint32_t number, const struct thmq_message_opts *opts)
{
	uint64_t end = now() + PATIENCE_NS;
	int64_t rc;

	while ((rc = thmq_send(p, &number, sizeof(number), opts)) == -EAGAIN || rc == -THMQ_ENOQUORUM) {
		CHECK(now() < end);
		CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	CHECK(rc > 0);
	return rc;
}

#define PRIORITIES 3u
#define KEYS 4u
#define EACH 20u
#define LATER 5u

/* What there is to follow: topics with priorities, of keys, with messages that wait for their time; and each of them altered. */
static void fill(void)
{
	struct thmq_producer *p;
	uint32_t i;

	CHECK(thmq_topic_create(w.session, "ranks", THMQ_TOPIC_OPTS(.priorities = PRIORITIES, .partition_count = 2)) == 0);
	CHECK(thmq_topic_create(w.session, "keys", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT)) == 0);
	CHECK(thmq_producer_open(w.session, "ranks", NULL, &p) == 0);
	for (i = 0; i < PRIORITIES * EACH; i++)
		send_one(p, i, THMQ_MESSAGE_OPTS(.priority = i % PRIORITIES, .flags = THMQ_MESSAGE_PARTITION));
	for (i = 0; i < LATER; i++)
		send_one(p, i, THMQ_MESSAGE_OPTS(.delay_ns = 3600 * SECOND, .flags = THMQ_MESSAGE_PARTITION));
	CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
	CHECK(thmq_producer_open(w.session, "keys", NULL, &p) == 0);
	for (i = 0; i < KEYS * EACH; i++)
		send_one(p, i, THMQ_MESSAGE_OPTS(.key = &(uint32_t){i % KEYS}, .key_len = sizeof(uint32_t)));
	CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
	CHECK(thmq_topic_alter(w.session, "ranks", THMQ_TOPIC_OPTS(.ttl_ns = 5000 * SECOND, .limits = &(struct thmq_limits){.size = sizeof(struct thmq_limits), .produce_bytes = 100}),
			       THMQ_ALTER_TTL | THMQ_ALTER_LIMITS) == 0);
	CHECK(thmq_topic_alter(w.session, "keys", THMQ_TOPIC_OPTS(.tombstone_ns = 77 * SECOND, .retention_bytes = 1u << 30),
			       THMQ_ALTER_TOMBSTONE | THMQ_ALTER_RETENTION_BYTES) == 0);
}

/* All of them, those of one priority in their order. */
static void read_ranks(void)
{
	uint32_t next[PRIORITIES] = {0}, left = PRIORITIES * EACH, number, k;
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_message m[16];
	struct thmq_consumer *c;
	int n, i;

	CHECK(thmq_consumer_open(w.session, "ranks", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	for (; left; left -= (uint32_t)n) {
		n = thmq_fetch(c, m, 16);
		CHECK(n >= 0 && now() < end);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, sizeof(number));
			k = (uint32_t)thmq_message_priority(c, &m[i]);
			CHECK(k < PRIORITIES && number == next[k] * PRIORITIES + k);
			next[k]++;
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	CHECK(thmq_consumer_close(c, PATIENCE_NS) == 0);
}

static struct thmq_producer *more_producer;
static struct thmq_consumer *more_reader;
static uint32_t more_count;

/* One more partition, of a producer and a reader that stay open whoever leads. */
static void more(void)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_message m;
	uint32_t i, seen = 0;
	int64_t rc;
	int n;

	if (!more_count++) {
		CHECK(thmq_topic_create(w.session, "more", NULL) == 0);
		CHECK(thmq_producer_open(w.session, "more", NULL, &more_producer) == 0);
		CHECK(thmq_consumer_open(w.session, "more", NULL, NULL, &more_reader) == 0);
	}
	CHECK(thmq_topic_alter(w.session, "more", THMQ_TOPIC_OPTS(.partition_count = more_count), THMQ_ALTER_PARTITIONS) == 0);
	for (i = 0; i < more_count; i++)
		while ((rc = thmq_send(more_producer, "x", 1, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i))) < 0) {
			CHECK((rc == -THMQ_ENOPARTITION || rc == -EAGAIN || rc == -THMQ_ENOQUORUM) && now() < end);
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
		}
	while (seen != (1u << more_count) - 1) {
		n = thmq_fetch(more_reader, &m, 1);
		CHECK(n >= 0 && now() < end);
		if (n) {
			CHECK(!(seen & 1u << m.partition));
			seen |= 1u << m.partition;
			CHECK(thmq_release(more_reader, &m, 1) == 0);
		} else {
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
		}
	}
}

static void look(void)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_key_info found = {.size = sizeof(found)};
	uint64_t end = now() + PATIENCE_NS;
	uint32_t k;

	CHECK(thmq_topic_describe(w.session, "ranks", &info) == 0);
	CHECK(info.priorities == PRIORITIES && info.ttl_ns == 5000 * SECOND && info.produce_bytes == 100 && !info.consume_bytes);
	CHECK(thmq_topic_describe(w.session, "keys", &info) == 0);
	CHECK(info.tombstone_ns == 77 * SECOND && info.retention_bytes == 1u << 30);
	do { /* who leads now reads first what waits */
		CHECK(now() < end);
		CHECK(thmq_partition_describe(w.session, "ranks", 0, NULL, &part) == 0);
		CHECK(part.delayed <= LATER);
	} while (part.delayed != LATER);
	for (k = 0; k < KEYS; k++) {
		CHECK(thmq_key_find(w.session, "keys", 0, &k, sizeof(k), UINT64_MAX, &found) == 0);
		CHECK(found.offset >= KEYS * (EACH - 1) + k); /* the newest: offsets rise, and may be stepped over */
	}
	read_ranks();
	more();
}

/* And what was altered is not only told: who leads now goes by it. */
static void is_limited(void)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_producer *p;
	struct thmq_event e;
	uint32_t i;

	CHECK(thmq_producer_open(w.session, "ranks", NULL, &p) == 0);
	for (i = 0; i < 200; i++)
		send_one(p, i, NULL);
	do {
		e.type = 0;
		CHECK(now() < end);
		if (thmq_events(w.session, &e, 1) != 1)
			thmq_session_wait(w.session, MS);
	} while (e.type != THMQ_EVENT_LIMITED);
	CHECK(thmq_topic_alter(w.session, "ranks", THMQ_TOPIC_OPTS(.ttl_ns = 0), THMQ_ALTER_LIMITS) == 0);
	CHECK(thmq_producer_close(p, PATIENCE_NS) == 0);
}

static void topics_are_followed(void)
{
	uint32_t i, who;

	fill();
	for (i = 0; i < BROKERS; i++) {
		CHECK(thmq_cluster_lead(w.session, i + 1, 0) == 0);
		rig_wait_for(i);
		look();
	}
	who = rig_some_leader();
	rig_close(who, 0);
	look();
	is_limited();
	rig_open(who);
	CHECK(thmq_topic_delete(w.session, "ranks") == 0);
	CHECK(thmq_topic_delete(w.session, "keys") == 0);
	CHECK(thmq_producer_close(more_producer, PATIENCE_NS) == 0 && thmq_consumer_close(more_reader, PATIENCE_NS) == 0);
	CHECK(thmq_topic_delete(w.session, "more") == 0);
}

/* ------------------------------------------------------------------------ calls */

static void *move(void *arg)
{
	struct thmq_session *s = connect_one();
	uint64_t seed = rig.seed * 31 + 1;
	uint32_t who, before;

	(void)arg;
	while (!atomic_load(&w.done)) {
		usleep((useconds_t)rig_chance_of(&seed, 100000));
		who = rig_some_leader();
		switch (rig_chance_of(&seed, 4)) {
		case 0:
			rig_close(who, 0);
			rig_open(who);
			break;
		case 1:
			CHECK(thmq_cluster_drain(s, who + 1, 0) == 0);
			CHECK(thmq_cluster_undrain(s, who + 1, 0) == 0);
			break;
		default:
			CHECK(thmq_cluster_lead(s, 0, 0) == 0);
		}
		atomic_fetch_add(&w.moves, 1);
		/* on a machine that is busy a lead that goes at once would let nothing be done at all */
		for (before = atomic_load(&w.steps); atomic_load(&w.steps) == before && !atomic_load(&w.done);)
			usleep(1000);
	}
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	return NULL;
}

#define DONE(x)                                                                                    \
	do {                                                                                       \
		CHECK(x);                                                                          \
		atomic_fetch_add(&w.steps, 1);                                                     \
	} while (0)

static void produce(const char *topic, uint32_t count)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_producer *p;
	int64_t rc;

	DONE(thmq_producer_open(w.session, topic, NULL, &p) == 0);
	while (count) {
		rc = thmq_send(p, &count, sizeof(count), NULL);
		CHECK((rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM) && now() < end);
		if (rc > 0)
			count--;
		else
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	DONE(thmq_flush(p, PATIENCE_NS) == 0);
	DONE(thmq_producer_close(p, PATIENCE_NS) == 0);
}

static void consume(const char *topic, const char *group, uint32_t flags, uint32_t count)
{
	uint64_t end = now() + PATIENCE_NS;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	int n, i, rc;

	DONE(thmq_consumer_open(w.session, topic, group, THMQ_CONSUMER_OPTS(.flags = flags), &c) == 0);
	while (count) {
		n = thmq_fetch(c, m, 16);
		if (n < 0 || now() >= end)
			fprintf(stderr, "%s, group %s: %u messages are missing, the lead moved %u times, fetch: %d\n", topic, group ? group : "none", count,
				atomic_load(&w.moves), n);
		CHECK(n >= 0 && now() < end);
		atomic_fetch_add(&w.steps, (uint32_t)n);
		for (i = 0; i < n && group; i++)
			thmq_ack(c, &m[i]);
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		count -= (uint32_t)n < count ? (uint32_t)n : count;
		if (!n)
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	rc = thmq_consumer_close(c, PATIENCE_NS);
	CHECK(rc == 0 || rc == -THMQ_EFENCED); /* what was acknowledged last may come again */
}

static void cancel(const char *topic)
{
	struct thmq_producer *p;
	struct thmq_event e;
	uint64_t end = now() + PATIENCE_NS;
	int64_t rc;
	int said;

	DONE(thmq_producer_open(w.session, topic, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	while ((rc = thmq_send(p, "later", 5, THMQ_MESSAGE_OPTS(.delay_ns = 3600 * SECOND))) < 0) {
		CHECK((rc == -EAGAIN || rc == -THMQ_ENOQUORUM) && now() < end);
		CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	DONE(thmq_flush(p, PATIENCE_NS) == 0);
	do {
		e.type = 0;
		CHECK(now() < end);
		if (thmq_events(w.session, &e, 1) != 1)
			thmq_session_wait(w.session, MS);
	} while (e.type != THMQ_EVENT_SETTLED);
	if (e.offset != UINT64_MAX) { /* it was stored before, where is not known */
		said = thmq_delayed_cancel(w.session, topic, e.partition, e.offset);
		DONE(said == 0 || said == -ECONNRESET);
		said = thmq_delayed_cancel(w.session, topic, e.partition, e.offset);
		DONE(said == -ENOENT || said == -ECONNRESET); /* where it was asked twice */
	}
	DONE(thmq_producer_close(p, PATIENCE_NS) == 0);
}

static void one_round(uint32_t number)
{
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_group_info group = {.size = sizeof(group)};
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_group_member member = {.size = sizeof(member)};
	struct thmq_node node = {.size = sizeof(node)};
	struct thmq_event e;
	uint32_t owners[6];
	char topic[32];
	int rc;

	snprintf(topic, sizeof(topic), "t%u", number);
	DONE(thmq_topic_create(w.session, topic, THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	DONE(thmq_topic_create(w.session, topic, THMQ_TOPIC_OPTS(.partition_count = 4)) == -EEXIST);
	DONE(thmq_topic_create(w.session, topic, THMQ_TOPIC_OPTS(.partition_count = 4, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	DONE(thmq_topic_create(w.session, "v", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == -ENOTSUP && strstr(thmq_errmsg(), "no volatile topics"));
	DONE(thmq_topic_alter(w.session, topic, THMQ_TOPIC_OPTS(.ttl_ns = (number + 1) * SECOND * 1000), THMQ_ALTER_TTL) == 0);
	DONE(thmq_topic_describe(w.session, topic, &info) == 0 && info.ttl_ns == (number + 1) * SECOND * 1000);
	DONE(thmq_topic_list(w.session, &info, 1) == 1);
	produce(topic, 10);
	DONE(thmq_topic_alter(w.session, topic, THMQ_TOPIC_OPTS(.partition_count = 6), THMQ_ALTER_PARTITIONS) == 0);
	DONE(thmq_topic_describe(w.session, topic, &info) == 0 && info.partition_count == 6);
	produce(topic, 10);
	DONE(thmq_partition_describe(w.session, topic, number % 6, NULL, &part) == 0);
	consume(topic, NULL, 0, 20);
	consume(topic, "g", 0, 20);
	consume(topic, "s", THMQ_CONSUMER_SHARED, 20);
	DONE(thmq_group_list(w.session, topic, &group, 1) == 2);
	DONE(thmq_group_describe(w.session, topic, "g", &group) == 0);
	DONE(thmq_group_members(w.session, topic, "g", &member, 1) >= 0);
	DONE(thmq_group_owners(w.session, topic, "g", owners, 6) == 6);
	DONE(thmq_partition_describe(w.session, topic, number % 6, "g", &part) == 0);
	DONE(thmq_group_reset(w.session, topic, "g", UINT32_MAX, THMQ_START_BEGIN, 0, THMQ_GROUP_FORCE) == 0);
	DONE(thmq_group_reset(w.session, topic, "g", UINT32_MAX, THMQ_START_TIME, 1, THMQ_GROUP_FORCE) == 0);
	DONE(thmq_group_delete(w.session, topic, "g", THMQ_GROUP_FORCE) == 0);
	DONE(thmq_group_delete(w.session, topic, "g", THMQ_GROUP_FORCE) == -ENOENT);
	cancel(topic);
	DONE(thmq_cluster_nodes(w.session, &node, 1) == (int)BROKERS);
	DONE(thmq_topic_delete(w.session, topic) == 0);
	DONE(thmq_topic_delete(w.session, topic) == -THMQ_ENOTOPIC);
	while ((rc = thmq_events(w.session, &e, 1)) == 1)
		;
	CHECK(rc == 0);
}

/* While others come and go: sessions that are made then find who leads, too. */
static void another_session(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *s = connect_one();

	DONE(thmq_topic_list(s, &info, 1) >= 0);
	DONE(thmq_session_close(s, PATIENCE_NS) == 0);
}

static void calls(uint32_t rounds)
{
	pthread_t mover;
	uint32_t i;

	atomic_store(&w.done, false);
	atomic_store(&w.moves, 0);
	CHECK(pthread_create(&mover, NULL, move, NULL) == 0);
	for (i = 0; i < rounds || !atomic_load(&w.moves); i++) {
		one_round(i);
		another_session();
	}
	atomic_store(&w.done, true);
	CHECK(pthread_join(mover, NULL) == 0);
	printf("%s: %u rounds, the lead moved %u times\n", rig.far ? "tcp" : "inproc", i, atomic_load(&w.moves));
}

int main(int argc, char **argv)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL, far;
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : full ? 100 : 3;

	setvbuf(stdout, NULL, _IOLBF, 0);
	rig_seed(argc > 2 ? argv[2] : NULL);
	far = argc > 3 || rig.seed & 2;
	begin(far);
	drain_and_undrain();
	topics_are_followed();
	calls(rounds);
	end();
	if (full) {
		begin(!far);
		calls(rounds);
		end();
	}
	return 0;
}
