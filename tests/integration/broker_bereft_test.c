/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers that keep the same data, of which one is left, be it the one that led or another: what is committed is read all the same, by
 * who was connected and by who comes; nothing is stored, and that is said; and once there is a majority again all goes on where it was. Where
 * one is away what waits for all of them settles with what it has, in time, and that is said.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

#define BROKERS 3u
#define BEFORE 100u
#define SECOND 1000000000ull
#define URLS "inproc://b1,inproc://b2,inproc://b3"

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

struct reader {
	struct thmq_consumer *consumer;
	uint32_t next; /* in order, each once */
};

struct world {
	struct thmq_env *env;
	struct thmq_broker *brokers[BROKERS];
	struct thmq_session *session, *late, *impatient;
	struct thmq_producer *producer;
	struct reader alone, member, new, elsewhere;
	uint32_t sent, only_reads, back;
	char dir[64];
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void open_broker(struct world *w, uint32_t i)
{
	char dir[96], name[16];

	snprintf(dir, sizeof(dir), "%s/%u", w->dir, i + 1);
	snprintf(name, sizeof(name), "b%u", i + 1);
	CHECK(thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = 2, .segment_bytes = 1u << 20,
						.batch_bytes = 64u << 10, .cache_bytes = 1u << 20, .cluster_name = "bereft",
						.cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3", .node_id = i + 1,
						.heartbeat_ms = 20, .election_ms = 150, .all_timeout_ms = 300),
			       &w->brokers[i]) == 0);
}

static void kill_broker(struct world *w, uint32_t i)
{
	thmq_broker_close(w->brokers[i], 0);
	w->brokers[i] = NULL;
}

/* 1; or why not */
static int64_t send_one(struct world *w)
{
	int64_t rc = thmq_send(w->producer, &w->sent, sizeof(w->sent), NULL);

	w->sent += rc > 0;
	return rc > 0 ? 1 : rc;
}

static void take(struct reader *r)
{
	struct thmq_message m[32];
	int n = r->consumer ? thmq_fetch(r->consumer, m, 32) : 0, i;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(m[i].len == 4 && memcmp(m[i].data, &r->next, 4) == 0);
		r->next++;
	}
	if (n)
		CHECK(thmq_release(r->consumer, m, (uint32_t)n) == 0);
}

static void take_by_member(struct world *w)
{
	struct thmq_message m[32];
	int n = thmq_fetch(w->member.consumer, m, 32), i;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(memcmp(m[i].data, &w->member.next, 4) == 0);
		w->member.next++;
		CHECK(thmq_ack(w->member.consumer, &m[i]) == 0);
	}
	CHECK(thmq_release(w->member.consumer, m, (uint32_t)n) == 0);
}

static void step(struct world *w)
{
	struct thmq_event e;

	take(&w->alone);
	take(&w->new);
	take(&w->elsewhere);
	take_by_member(w);
	while (thmq_events(w->session, &e, 1) == 1) {
		CHECK(e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED);
		w->only_reads += e.type == THMQ_EVENT_RECONNECTED && e.error == -THMQ_ENOQUORUM;
		w->back += e.type == THMQ_EVENT_RECONNECTED && !e.error;
	}
	while (w->late && thmq_events(w->late, &e, 1) == 1)
		CHECK(e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED);
	if (w->late)
		CHECK(thmq_session_wait(w->late, SECOND / 2000) >= 0);
	CHECK(thmq_session_wait(w->session, SECOND / 1000) >= 0);
}

/* Another one may lead at any time: the machine is busy. */
static int64_t send_soon(struct world *w, struct thmq_producer *p, const void *data, uint32_t len, const struct thmq_message_opts *opts)
{
	uint64_t end = now() + 30 * SECOND;
	int64_t rc;

	while ((rc = thmq_send(p, data, len, opts)) == -EAGAIN || rc == -THMQ_ENOQUORUM) {
		CHECK(now() < end);
		CHECK(thmq_session_wait(w->session, SECOND / 1000) >= 0);
	}
	CHECK(rc > 0);
	return rc;
}

#define UNTIL(w, x)                                                                                \
	do {                                                                                       \
		uint64_t end_ = now() + 30 * SECOND;                                               \
		while (!(x)) {                                                                     \
			CHECK(now() < end_);                                                       \
			step(w);                                                                   \
		}                                                                                  \
	} while (0)

static void begin(struct world *w)
{
	CHECK(thmq_env_open(&w->env, THMQ_ENV_OPTS(.core_count = 1, .pool_bytes = 256u << 20)) == 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		open_broker(w, i);
	CHECK(thmq_connect(w->env, URLS, NULL, &w->session) == 0);
	while (thmq_connect(w->env, URLS, THMQ_SESSION_OPTS(.timeout_ns = SECOND / 2), &w->impatient) != 0)
		;
	CHECK(thmq_topic_create(w->session, "t", NULL) == 0);
	CHECK(thmq_producer_open(w->session, "t", NULL, &w->producer) == 0);
	CHECK(thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &w->alone.consumer) == 0);
	CHECK(thmq_consumer_open(w->session, "t", "g", THMQ_CONSUMER_OPTS(.session_timeout_ns = 60 * SECOND), &w->member.consumer) == 0);
	while (w->sent < BEFORE)
		send_soon(w, w->producer, &w->sent, sizeof(w->sent), NULL), w->sent++;
	CHECK(thmq_flush(w->producer, 30 * SECOND) == 0);
	UNTIL(w, w->alone.next == BEFORE && w->member.next == BEFORE);
	CHECK(thmq_consumer_flush(w->member.consumer, 30 * SECOND) == 0);
	usleep(200000); /* the others hear what is committed with the next heartbeat */
}

/* Nothing is stored, and it is said why. */
static void refusals(struct world *w)
{
	struct thmq_producer *p;
	struct thmq_consumer *c;
	int rc;

	CHECK(send_one(w) == -THMQ_ENOQUORUM);
	rc = thmq_flush(w->producer, SECOND / 1000);
	CHECK(rc == (w->sent > BEFORE ? -THMQ_ENOQUORUM : 0));
	while (thmq_topic_create(w->impatient, "u", NULL) == -ETIMEDOUT)
		; /* it has not found out yet */
	CHECK(thmq_topic_create(w->impatient, "u", NULL) == -THMQ_ENOQUORUM);
	CHECK(strstr(thmq_errmsg(), "majority"));
	CHECK(thmq_topic_delete(w->impatient, "t") == -THMQ_ENOQUORUM);
	CHECK(thmq_producer_open(w->impatient, "t", NULL, &p) == -THMQ_ENOQUORUM);
	CHECK(thmq_consumer_open(w->impatient, "t", "h", NULL, &c) == -THMQ_ENOQUORUM);
	CHECK(strstr(thmq_errmsg(), "majority"));
}

/* What is committed, and not what whoever led took after it was alone. */
static void reads(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_topic_info topic = {.size = sizeof(topic)};
	uint64_t end;

	CHECK(thmq_topic_list(w->session, &topic, 1) == 1 && strcmp(topic.name, "t") == 0);
	CHECK(thmq_partition_describe(w->session, "t", 0, NULL, &info) == 0);
	CHECK(info.end_offset == BEFORE);
	CHECK(thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &w->new.consumer) == 0);
	CHECK(thmq_connect(w->env, URLS, NULL, &w->late) == 0);
	CHECK(thmq_consumer_open(w->late, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &w->elsewhere.consumer) == 0);
	UNTIL(w, w->new.next == BEFORE && w->elsewhere.next == BEFORE);
	for (end = now() + SECOND / 5; now() < end;)
		step(w);
	CHECK(w->alone.next == BEFORE && w->member.next == BEFORE && w->new.next == BEFORE && w->elsewhere.next == BEFORE);
}

/* @led: the one that led is left. */
static void one_is_left(struct world *w, bool led)
{
	uint32_t i, left;

	begin(w);
	for (left = 0; left < BROKERS && thmq_broker_leader(w->brokers[left], NULL) != 1; left++)
		;
	CHECK(left < BROKERS);
	left = led ? left : (left + 1) % BROKERS;
	for (i = 0; i < BROKERS; i++)
		if (i != left)
			kill_broker(w, i);
	for (i = 0; i < 5; i++)
		send_one(w);
	UNTIL(w, w->only_reads);
	refusals(w);
	reads(w);
	w->back = 0;
	open_broker(w, (left + 1) % BROKERS);
	UNTIL(w, w->back);
	UNTIL(w, send_one(w) == 1);
	CHECK(thmq_flush(w->producer, 30 * SECOND) == 0);
	UNTIL(w, w->alone.next == w->sent && w->member.next == w->sent && w->new.next == w->sent && w->elsewhere.next == w->sent);
	CHECK(thmq_topic_create(w->session, "u", NULL) == 0);
	CHECK(thmq_session_close(w->late, 30 * SECOND) == 0);
	thmq_session_close(w->impatient, SECOND);
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	for (i = 0; i < BROKERS; i++)
		if (w->brokers[i])
			thmq_broker_close(w->brokers[i], 0);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
	printf("%s is left: %u messages, %u of them once there was a majority again\n", led ? "who led" : "another one", w->sent,
	       w->sent - BEFORE);
}

#define OF_ALL 10u

/* They settle in one way or another; how many with less than all. */
static uint32_t send_for_all(struct world *w, struct thmq_producer *p, bool reports)
{
	uint32_t i, settled = 0, weaker = 0;
	uint64_t end = now() + 30 * SECOND, first = 0;
	struct thmq_event e;

	for (i = 0; i < OF_ALL; i++) {
		int64_t sequence = send_soon(w, p, &i, sizeof(i), THMQ_MESSAGE_OPTS(.durability = THMQ_DURABILITY_ALL));

		first = first ? first : (uint64_t)sequence;
	}
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	while (reports ? settled < OF_ALL : thmq_events(w->session, &e, 1) == 1) {
		CHECK(now() < end);
		if (reports && thmq_events(w->session, &e, 1) != 1)
			continue;
		if (e.type == THMQ_EVENT_DISCONNECTED || e.type == THMQ_EVENT_RECONNECTED) /* the machine is busy */
			continue;
		CHECK(e.producer == p && e.type == (reports ? THMQ_EVENT_SETTLED : THMQ_EVENT_WEAKER));
		CHECK(reports || (e.durability == THMQ_DURABILITY_QUORUM && e.sequence >= first && e.error == -ETIMEDOUT));
		CHECK(!reports || e.durability == (e.error ? THMQ_DURABILITY_QUORUM : THMQ_DURABILITY_ALL));
		CHECK(!reports || !e.error || e.error == -ETIMEDOUT);
		settled += reports;
		weaker += !reports ? (uint32_t)e.count : e.error != 0;
	}
	return weaker;
}

static void one_is_away(struct world *w)
{
	struct thmq_producer *reporter;
	struct thmq_event e;
	uint32_t away = 0;
	uint64_t began;

	begin(w);
	CHECK(thmq_producer_open(w->session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &reporter) == 0);
	while (thmq_events(w->session, &e, 1) == 1)
		;
	began = now();
	while (send_for_all(w, w->producer, false) || send_for_all(w, reporter, true))
		CHECK(now() - began < 20 * SECOND);
	while (thmq_broker_leader(w->brokers[away], NULL) == 1)
		away++;
	kill_broker(w, away);
	began = now();
	CHECK(send_for_all(w, w->producer, false) > 0);
	CHECK(now() - began >= SECOND / 4 && now() - began < 20 * SECOND);
	CHECK(send_for_all(w, reporter, true) > 0);
	open_broker(w, away);
	began = now();
	while (send_for_all(w, reporter, true)) /* it has to catch up */
		CHECK(now() - began < 20 * SECOND);
	thmq_session_close(w->impatient, SECOND);
	CHECK(thmq_session_close(w->session, 30 * SECOND) == 0);
	for (uint32_t i = 0; i < BROKERS; i++)
		thmq_broker_close(w->brokers[i], 0);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
	printf("one is away: what waits for all settles at a majority\n");
}

/* What is read after that is not what a transaction has that is open, also where it began in a segment that is full. */
static void one_came_back(struct world *w)
{
	struct thmq_producer *filler;
	struct thmq_event e;
	struct thmq_txn *txn;
	uint64_t end;
	uint32_t i, back = 0;
	char body[1024] = {0};

	begin(w);
	CHECK(thmq_topic_create(w->session, "filler", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_producer_open(w->session, "filler", NULL, &filler) == 0);
	CHECK(thmq_txn_begin(w->session, THMQ_TXN_OPTS(.timeout_ns = 600 * SECOND), &txn) == 0);
	for (i = 0; i < 3; i++)
		CHECK(thmq_send(w->producer, "never", 5, THMQ_MESSAGE_OPTS(.txn = txn)) > 0);
	CHECK(thmq_flush(w->producer, 30 * SECOND) == 0);
	for (i = 0; i < 8192; i++)
		send_soon(w, filler, body, sizeof(body), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i % 4));
	CHECK(thmq_flush(filler, 30 * SECOND) == 0);
	while (thmq_broker_leader(w->brokers[back], NULL) == 1)
		back++;
	kill_broker(w, back);
	open_broker(w, back);
	while (thmq_events(w->session, &e, 1) == 1)
		;
	for (end = now() + 30 * SECOND; send_for_all(w, filler, false);) /* until it has all */
		CHECK(now() < end);
	usleep(500000); /* and has heard that it is committed: with the next heartbeat */
	for (i = 0; i < BROKERS; i++)
		if (i != back)
			kill_broker(w, i);
	UNTIL(w, w->only_reads);
	CHECK(thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &w->new.consumer) == 0);
	UNTIL(w, w->new.next == BEFORE);
	for (end = now() + SECOND / 5; now() < end;)
		step(w);
	CHECK(w->new.next == BEFORE && w->alone.next == BEFORE);
	thmq_session_close(w->impatient, SECOND);
	thmq_session_close(w->session, SECOND); /* its transaction is open */
	thmq_broker_close(w->brokers[back], 0);
	CHECK(thmq_env_close(w->env, 30 * SECOND) == 0);
	printf("one that was opened again is left: it hides what is open\n");
}

int main(void)
{
	char command[192];
	uint32_t i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < 4; i++) {
		struct world *w = calloc(1, sizeof(*w));

		CHECK(w);
		snprintf(w->dir, sizeof(w->dir), "broker-bereft-%d", (int)getpid());
		snprintf(command, sizeof(command), "rm -rf %s && mkdir %s", w->dir, w->dir);
		CHECK(system(command) == 0);
		if (i < 2)
			one_is_left(w, i == 0);
		else if (i == 2)
			one_is_away(w);
		else
			one_came_back(w);
		snprintf(command, sizeof(command), "rm -rf %s", w->dir);
		CHECK(system(command) == 0);
		free(w);
	}
	return 0;
}
