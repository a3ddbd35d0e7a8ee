/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slow_disk_test.c - a device that takes seconds for a write, a flush or a read, or never answers, under a whole broker in virtual
 * time: nothing is acknowledged before it is there, what does not need the device goes on, every call ends within its time-out, and
 * closing is bounded. And a wall clock that jumps by a day between two lives.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

#define MS 1000000ull
#define SECOND 1000000000ull
#define HOUR (3600 * SECOND)
#define DAY (24 * HOUR)
#define BIG 20000u

static struct {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmqi_world world;
	struct thmqi_clock clock;
} w;
static const char *name = "";
static int64_t wall_offset;

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "slow_disk_test: %s: line %d: not true: %s (%s)\n", name,  \
				__LINE__, #x, thmq_errmsg());                                      \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t now(void)
{
	return thmqi_disk_sim_now(w.sim);
}

static uint64_t shifted_wall(void *ctx)
{
	const struct thmqi_clock *real = thmqi_disk_sim_world(w.sim)->clock;

	(void)ctx;
	return real->wall_ns(real->ctx) + (uint64_t)wall_offset;
}

static void start(void)
{
	w.world = *thmqi_disk_sim_world(w.sim);
	w.clock = *w.world.clock;
	w.clock.wall_ns = shifted_wall;
	w.world.clock = &w.clock;
	CHECK(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 128u << 20), &w.world, &w.env) == 0);
	CHECK(thmq_broker_open(w.env,
			       THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1,
						.segment_bytes = 1u << 20, .batch_bytes = 64u << 10,
						.cache_bytes = 1u << 20),
			       &w.broker) == 0);
	CHECK(thmq_connect(w.env, "inproc://", THMQ_SESSION_OPTS(.timeout_ns = 3 * SECOND),
			   &w.session) == 0);
	CHECK(thmq_topic_create(
		      w.session, "t",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .retention_ns = HOUR)) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
}

static void begin(const char *what)
{
	name = what;
	memset(&w, 0, sizeof(w));
	wall_offset = 0;
	CHECK(thmqi_disk_sim_open(7, NULL, &w.sim) == 0);
	start();
}

static void end(void)
{
	CHECK(thmq_env_close(w.env, 60 * SECOND) == 0);
	thmqi_disk_sim_close(w.sim);
}

/* The next operation of the kind and @repeat more take so much longer. */
static void stall(uint8_t opcode, uint64_t ns, uint64_t repeat)
{
	const struct thmqi_disk_sim_fault f = {.opcode = opcode,
					       .effect = THMQI_DISK_SIM_STALL,
					       .nth = 1,
					       .repeat = repeat,
					       .arg = (int64_t)ns};

	CHECK(thmqi_disk_sim_fault_add(w.sim, &f) == 0);
}

static void send(uint64_t number, uint32_t len)
{
	static uint8_t body[BIG];
	int64_t rc;

	memcpy(body, &number, sizeof(number));
	while ((rc = thmq_send(w.producer, body, len, NULL)) == -EAGAIN)
		thmq_session_wait(w.session, MS);
	CHECK(rc > 0);
}

static void send_durably(uint64_t first, uint64_t count, uint32_t len)
{
	uint64_t i;

	for (i = first; i < first + count; i++)
		send(i, len);
	CHECK(thmq_flush(w.producer, 60 * SECOND) == 0);
}

/* How many messages come within the time. They are numbered from @first on. */
static uint64_t read_for(uint64_t first, uint64_t most, uint64_t ns)
{
	struct thmq_message m[16];
	struct thmq_consumer *c;
	uint64_t deadline = now() + ns, n = 0, number;
	int got, i;

	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
	while (n < most && now() < deadline) {
		got = thmq_fetch(c, m, 16);
		CHECK(got >= 0);
		for (i = 0; i < got; i++, n++) {
			memcpy(&number, m[i].data, sizeof(number));
			CHECK(number == first + n);
		}
		CHECK(thmq_release(c, m, (uint32_t)got) == 0);
		if (!got)
			thmq_session_wait(w.session, MS);
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	return n;
}

/* ------------------------------------------------------------------- slow */

static void a_write_takes_five_seconds(void)
{
	uint64_t before;

	begin(__func__);
	send_durably(0, 200, BIG); /* 4 MB: most of it is out of the cache */
	stall(THMQI_DISK_WRITE, 5 * SECOND, 0);
	before = now();
	send(200, 100);
	CHECK(thmq_flush(w.producer, SECOND) == -ETIMEDOUT);
	CHECK(now() - before < SECOND + 100 * MS);
	CHECK(thmq_watermark(w.producer) == 200);
	/* what is there can be read, and just that */
	CHECK(read_for(0, 300, 2 * SECOND) == 200);
	CHECK(thmq_flush(w.producer, 60 * SECOND) == 0);
	CHECK(now() - before > 5 * SECOND && now() - before < 6 * SECOND);
	CHECK(read_for(0, 201, 2 * SECOND) == 201);
	end();
}

static void each_flush_takes_two_seconds(void)
{
	uint64_t before;

	begin(__func__);
	stall(THMQI_DISK_FLUSH, 2 * SECOND, UINT64_MAX);
	before = now();
	send_durably(0, 300, BIG); /* a few segments: they are switched by flushes */
	CHECK(read_for(0, 300, 20 * SECOND) == 300);
	CHECK(now() - before < 60 * SECOND);
	thmqi_disk_sim_faults_clear(w.sim);
	end();
}

static void each_read_takes_a_second(void)
{
	uint64_t before, i, slowest = 0;
	struct thmq_message m[16];
	struct thmq_consumer *c;
	int got;

	begin(__func__);
	send_durably(0, 200, BIG);
	stall(THMQI_DISK_READ, SECOND, UINT64_MAX);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
	for (i = 0; i < 50; i++) {
		before = now();
		send(200 + i, 100);
		CHECK(thmq_flush(w.producer, 60 * SECOND) == 0);
		slowest = THMQI_MAX(slowest, now() - before);
		got = thmq_fetch(c, m, 16);
		CHECK(got >= 0 && thmq_release(c, m, (uint32_t)got) == 0);
	}
	CHECK(slowest < 100 * MS); /* who writes does not wait for who reads */
	CHECK(thmq_consumer_close(c, 5 * SECOND) == 0);
	thmqi_disk_sim_faults_clear(w.sim);
	end();
}

static void a_change_of_topics_is_slow(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	begin(__func__);
	stall(THMQI_DISK_WRITE, 10 * SECOND, 0);
	CHECK(thmq_topic_create(w.session, "slow", NULL) ==
	      -ETIMEDOUT); /* after the session's three seconds */
	CHECK(thmq_topic_describe(w.session, "slow", &info) == -THMQ_ENOTOPIC || thmq_errmsg()[0]);
	thmqi_disk_sim_advance(w.sim, 10 * SECOND);
	thmq_session_wait(w.session, 8 * SECOND);
	CHECK(thmq_topic_create(w.session, "slow", NULL) == -EEXIST);
	CHECK(thmq_topic_describe(w.session, "slow", &info) == 0);
	end();
}

/* --------------------------------------------------------------- never, or not */

static void a_write_fails_after_five_seconds(void)
{
	const struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_WRITE,
					       .effect = THMQI_DISK_SIM_ERROR,
					       .error = -EIO,
					       .nth = 1};
	struct thmq_event e[16];
	uint64_t failed = 0;
	int n;

	begin(__func__);
	send_durably(0, 100, 1000);
	stall(THMQI_DISK_WRITE, 5 * SECOND, 0);
	CHECK(thmqi_disk_sim_fault_add(w.sim, &f) == 0);
	send(100, 100);
	CHECK(thmq_flush(w.producer, 60 * SECOND) == -EIO);
	while ((n = thmq_events(w.session, e, 16)) > 0)
		while (n--)
			failed += e[n].type == THMQ_EVENT_FAILED && e[n].error == -THMQ_EFAILED;
	CHECK(failed == 1);
	CHECK(read_for(0, 101, SECOND) == 100); /* reading goes on */
	thmq_env_close(w.env, 5 * SECOND);
	start();
	n = (int)read_for(0, 102, SECOND);
	CHECK(n == 100 || n == 101);
	send_durably((uint64_t)n, 10, 100);
	end();
}

static void a_write_is_never_answered(void)
{
	struct thmq_message m;
	struct thmq_consumer *c;
	uint64_t before;

	begin(__func__);
	send_durably(0, 10, 1000);
	CHECK(thmq_consumer_open(w.session, "t", "g", NULL, &c) == 0);
	while (thmq_fetch(c, &m, 1) == 0)
		thmq_session_wait(w.session, MS);
	stall(THMQI_DISK_WRITE, 10 * HOUR, UINT64_MAX);
	send(10, 100);
	before = now();
	CHECK(thmq_flush(w.producer, SECOND) == -ETIMEDOUT);
	CHECK(thmq_ack(c, &m) == 0);
	CHECK(thmq_consumer_flush(c, SECOND) == -ETIMEDOUT);
	CHECK(thmq_release(c, &m, 1) == 0);
	CHECK(thmq_consumer_close(c, SECOND) == -ETIMEDOUT);
	CHECK(thmq_topic_create(w.session, "another", NULL) == -ETIMEDOUT);
	CHECK(now() - before < 8 * SECOND);
	before = now();
	CHECK(thmq_producer_close(w.producer, SECOND) == -ETIMEDOUT);
	CHECK(now() - before < 2 * SECOND);
	before = now();
	CHECK(thmq_broker_close(w.broker, SECOND) == -ETIMEDOUT);
	CHECK(now() - before < 10 * SECOND); /* two logs, each a second or two */
	CHECK(thmq_send(w.producer, &before, 8, NULL) == -EINVAL);
	CHECK(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = "data"), &w.broker) == -EBUSY);
	thmq_env_close(w.env, SECOND); /* which waits for the device */
	thmqi_disk_sim_faults_clear(w.sim);
	start();
	CHECK(read_for(0, 11, SECOND) >= 10);
	end();
}

/* ------------------------------------------------------------------- clocks */

static uint64_t seek_time(struct thmq_consumer *c, int64_t time_ns)
{
	struct thmq_message m;
	uint64_t number;
	int i, got = 0;

	CHECK(thmq_seek(c, 0, THMQ_START_TIME, (uint64_t)time_ns) == 0);
	for (i = 0; i < 1000 && !got; i++) {
		got = thmq_fetch(c, &m, 1);
		if (!got)
			thmq_session_wait(w.session, MS);
	}
	if (!got)
		return UINT64_MAX;
	CHECK(got == 1);
	memcpy(&number, m.data, sizeof(number));
	CHECK(thmq_release(c, &m, 1) == 0);
	return number;
}

static void rest(uint32_t seconds)
{
	uint64_t until = now() + seconds * SECOND;

	while (now() < until)
		thmq_poll(w.env, SECOND / 10);
}

/* Messages "from the future" are found, kept as long as their own time says, and go in the end. */
static void the_wall_clock_goes_back_a_day(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_consumer *c;
	int64_t first, second;

	begin(__func__);
	wall_offset = (int64_t)(2 * DAY);
	rest(1);
	first = (int64_t)shifted_wall(NULL);
	send_durably(0, 100, BIG);
	CHECK(thmq_env_close(w.env, 10 * SECOND) == 0);
	wall_offset = (int64_t)DAY;
	start();
	second = (int64_t)shifted_wall(NULL);
	send_durably(100, 100, BIG);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &c) == 0);
	CHECK(seek_time(c, first - (int64_t)SECOND) == 0);
	CHECK(seek_time(c, second) == 0); /* the first ones are later than that */
	CHECK(seek_time(c, first + (int64_t)HOUR) == UINT64_MAX);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	rest(10);
	CHECK(thmq_partition_describe(w.session, "t", 0, NULL, &info) == 0);
	CHECK(info.begin_offset == 0);
	/* killed, and back to the right time, and two hours on */
	thmqi_disk_sim_crash(w.sim);
	thmq_env_close(w.env, 0);
	thmqi_disk_sim_restart(w.sim);
	wall_offset = (int64_t)(2 * DAY + 2 * HOUR);
	start();
	CHECK(thmq_partition_describe(w.session, "t", 0, NULL, &info) == 0);
	send_durably(200, 100, BIG);
	rest(10);
	CHECK(thmq_partition_describe(w.session, "t", 0, NULL, &info) == 0);
	CHECK(info.begin_offset >= 100); /* but for the last segments */
	end();
}

int main(void)
{
	a_write_takes_five_seconds();
	each_flush_takes_two_seconds();
	each_read_takes_a_second();
	a_change_of_topics_is_slow();
	a_write_fails_after_five_seconds();
	a_write_is_never_answered();
	the_wall_clock_goes_back_a_day();
	return 0;
}
