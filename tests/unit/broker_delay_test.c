/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_delay_test.c - how late delayed messages come: api, client, broker and log on a simulated disk, in virtual time. What comes at all, and how often, whatever
 * dies when, is delay_sim_test's.
 */
#include <criterion/criterion.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "memory/memory.h"
#include "reactor/reactor.h"

TestSuite(broker_delay, .timeout = 60);

#define SECOND 1000000000ull
#define MS 1000000ull
#define STEP_NS 10000u
#define COUNT 40000u /* more runs of one message than the broker remembers while they are on no device */

static struct thmqi_disk_sim *sim;
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;

static void begin(void)
{
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), thmqi_disk_sim_world(sim), &env), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1), &broker), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
}

static void end(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(sim);
}

static void open_topic(uint32_t visible_at)
{
	cr_assert_eq(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.visible_at = visible_at)), 0);
	cr_assert_eq(thmq_producer_open(session, "t", NULL, &producer), 0);
	cr_assert_eq(thmq_consumer_open(session, "t", NULL, NULL, &consumer), 0);
}

/* By the broker's clock, which messages are stamped with. */
static int64_t wall(void)
{
	struct thmq_message m;
	int64_t time;

	cr_assert_gt(thmq_send(producer, "", 0, NULL), 0);
	while (thmq_fetch(consumer, &m, 1) != 1)
		thmq_poll(env, MS);
	time = m.time_ns;
	cr_assert_eq(thmq_release(consumer, &m, 1), 0);
	return time;
}

/* One each STEP_NS, all sent before; how late the latest is, while the app takes all. */
static uint64_t latest(void)
{
	static struct thmq_message m[256];
	uint64_t most = 0, late, until;
	int64_t now = wall(), due = now + (int64_t)(2 * SECOND), at;
	uint32_t i, got = 0;
	int n, k;

	until = thmqi_disk_sim_now(sim);
	for (i = 0; i < COUNT; i++) {
		at = due + (int64_t)i * STEP_NS;
		while (thmq_send(producer, &at, sizeof(at), THMQ_MESSAGE_OPTS(.deliver_at_ns = at)) < 0)
			thmq_poll(env, MS / 10);
	}
	cr_assert_eq(thmq_flush(producer, SECOND), 0);
	cr_assert_lt(thmqi_disk_sim_now(sim) - until, SECOND); /* all were sent in time */
	now -= (int64_t)until;
	while (got < COUNT) {
		n = thmq_fetch(consumer, m, 256);
		cr_assert_geq(n, 0);
		for (k = 0; k < n; k++) {
			memcpy(&at, m[k].data, sizeof(at));
			late = thmqi_disk_sim_now(sim) + (uint64_t)now - (uint64_t)at;
			cr_assert_lt((int64_t)late, (int64_t)(10 * SECOND));
			most = (int64_t)late > (int64_t)most ? late : most;
		}
		cr_assert_eq(thmq_release(consumer, m, (uint32_t)n), 0);
		got += (uint32_t)n;
		thmq_poll(env, STEP_NS / 2);
	}
	return most;
}

Test(broker_delay, messages_come_in_time_where_what_is_in_memory_is_shown, .init = begin, .fini = end)
{
	uint64_t late;

	open_topic(THMQ_DURABILITY_MEMORY);
	late = latest();
	cr_assert_lt(late, 10 * MS, "%llu ns late", (unsigned long long)late);
}

Test(broker_delay, messages_come_in_time_where_what_is_stored_is_shown, .init = begin, .fini = end)
{
	uint64_t late;

	open_topic(0);
	late = latest();
	cr_assert_lt(late, 10 * MS, "%llu ns late", (unsigned long long)late);
}

/* ------------------------------------------------------------------ a process that is stopped */

#define STOPS 3000u

static struct thmqi_prng chances;
static uint32_t stops, sent; /* of so many looks at the clock one is followed by a stop; 0: none */

/* With the time before which it must not come. */
static void send_one(void)
{
	uint64_t delay = 1 + thmqi_prng_below(&chances, 100 * MS), due = thmqi_disk_sim_now(sim) + delay;

	sent += thmq_send(producer, &due, sizeof(due), THMQ_MESSAGE_OPTS(.delay_ns = delay)) > 0;
}

/* The clock was looked at, and then the process was stopped: what it said is old when it is used, and what others have sent meanwhile is younger. */
static uint64_t stopped(uint64_t ns)
{
	uint32_t often = stops;

	if (!often || thmqi_prng_below(&chances, often) != 0)
		return ns;
	stops = 0;
	thmqi_disk_sim_advance(sim, 1 + thmqi_prng_below(&chances, thmqi_prng_below(&chances, 2) ? MS : 70 * MS));
	send_one();
	stops = often;
	return ns;
}

static uint64_t stopped_now(void *ctx)
{
	const struct thmqi_clock *clock = ctx;

	return stopped(clock->now_ns(clock->ctx));
}

static uint64_t stopped_wall(void *ctx)
{
	const struct thmqi_clock *clock = ctx;

	return stopped(clock->wall_ns(clock->ctx));
}

/* Return: how many have come */
static uint32_t take_stopped(void)
{
	struct thmq_message m[64];
	int n = thmq_fetch(consumer, m, 64), k;
	uint64_t due, now = thmqi_disk_sim_now(sim);

	cr_assert_geq(n, 0);
	for (k = 0; k < n; k++) {
		memcpy(&due, m[k].data, sizeof(due));
		cr_assert_geq(now, due, "%llu us early", (unsigned long long)(due - now) / 1000);
	}
	cr_assert_eq(thmq_release(consumer, m, (uint32_t)n), 0);
	return (uint32_t)n;
}

Test(broker_delay, no_message_comes_early_where_the_process_is_stopped_now_and_then)
{
	struct thmqi_world world;
	struct thmqi_clock clock = {.now_ns = stopped_now, .wall_ns = stopped_wall};
	uint32_t got = 0;

	thmqi_prng_seed(&chances, 5);
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	world = *thmqi_disk_sim_world(sim);
	clock.ctx = (void *)(uintptr_t)world.clock;
	world.clock = &clock;
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), &world, &env), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1), &broker), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	open_topic(THMQ_DURABILITY_MEMORY);
	stops = 30;
	while (sent < STOPS) {
		thmq_poll(env, MS / 20);
		got += take_stopped();
	}
	stops = 0;
	while (got < sent) {
		thmq_poll(env, MS);
		got += take_stopped();
	}
	end();
}

/* ------------------------------------------------------------------ too little memory */

#define SMALL 40u
#define SMALL_BYTES 10000u /* no less than a window */
#define TINY 300u
#define TINY_BYTES 3000u
#define LARGE_BYTES (100u << 10)

static struct thmqi_buf *held[8192];
static uint32_t held_count;

static struct thmqi_pool *pool(void)
{
	return thmqi_env_core(env, 0)->pool;
}

static void hold_all(void)
{
	for (uint32_t size = 8u << 20; size >= 64; size /= 2)
		while (held_count < THMQI_ARRAY_COUNT(held) && thmqi_buf_alloc(pool(), size, &held[held_count]) == 0)
			held_count++;
	cr_assert_lt(held_count, THMQI_ARRAY_COUNT(held));
}

/* Each of the small ones is apart from the others on the device; none is in memory. */
static void send_apart(struct thmq_producer *filler, const uint8_t *data, uint64_t due)
{
	uint32_t i;

	for (i = SMALL; i <= SMALL; i--) { /* none is behind the first one: it would be read with that */
		uint32_t len = i ? SMALL_BYTES : LARGE_BYTES;

		cr_assert_gt(thmq_send(producer, data + i, len, THMQ_MESSAGE_OPTS(.deliver_at_ns = (int64_t)due + i)), 0);
		cr_assert_eq(thmq_flush(producer, SECOND), 0);
		cr_assert_gt(thmq_send(filler, data, 60000, NULL), 0);
		cr_assert_eq(thmq_flush(filler, SECOND), 0);
	}
	for (i = 0; i < TINY; i++) {
		cr_assert_gt(thmq_send(filler, data, TINY_BYTES, NULL), 0);
		cr_assert_eq(thmq_flush(filler, SECOND), 0);
	}
}

/* What the log keeps in memory makes way for who has none; little room, where somebody looks at it. */
static void look_at_tiny(struct thmq_consumer *looker, struct thmq_message *ret)
{
	uint32_t got = 0;

	while (got < TINY) {
		if (thmq_fetch(looker, &ret[got], 1) != 1)
			thmq_poll(env, MS);
		else if (ret[got].len == TINY_BYTES)
			got++;
		else
			cr_assert_eq(thmq_release(looker, &ret[got], 1), 0);
	}
}

/* It is to be appended, and what all others have been read with is just what it lacks. */
Test(broker_delay, the_first_one_gets_the_memory_of_those_that_wait_for_it)
{
	static uint8_t data[LARGE_BYTES + SMALL];
	struct thmq_producer *filler;
	static struct thmq_message looked_at[TINY];
	struct thmq_consumer *looker;
	struct thmq_message m;
	uint64_t due, until;
	uint32_t i, got = 0;

	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &sim), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), thmqi_disk_sim_world(sim), &env), 0);
	cr_assert_eq(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1, .cache_bytes = 1u << 20), &broker), 0, "%s",
		     thmq_errmsg());
	cr_assert_eq(thmq_connect(env, "inproc://", NULL, &session), 0);
	open_topic(0);
	cr_assert_eq(thmq_topic_create(session, "filler", NULL), 0);
	cr_assert_eq(thmq_producer_open(session, "filler", NULL, &filler), 0);
	cr_assert_eq(thmq_consumer_open(session, "filler", NULL, NULL, &looker), 0);
	due = (uint64_t)wall() + 20 * SECOND;
	until = thmqi_disk_sim_now(sim) + 20 * SECOND;
	send_apart(filler, data, due);
	look_at_tiny(looker, looked_at);
	hold_all();
	cr_assert_lt(thmqi_disk_sim_now(sim), until - SECOND, "all were sent in time");
	until += 30 * SECOND;
	while (got <= SMALL) {
		cr_assert_lt(thmqi_disk_sim_now(sim), until, "%u of %u came", got, SMALL + 1);
		if (thmq_fetch(consumer, &m, 1) == 1) {
			cr_assert_eq(m.len, got ? SMALL_BYTES : LARGE_BYTES);
			cr_assert_eq(memcmp(m.data, data + got, m.len), 0, "in their order");
			cr_assert_eq(thmq_release(consumer, &m, 1), 0);
			got++;
		}
		thmq_poll(env, MS);
	}
	cr_assert_eq(thmq_release(looker, looked_at, TINY), 0);
	while (held_count)
		thmqi_buf_unref(held[--held_count]);
	end();
}
