/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delayed messages in one thread under virtual time on a simulated disk, from one seed: random delays, cancellations, other messages that make
 * segments come and go, clocks that are set, power cuts at any moment. The checker knows of each message when it is due, and what was said of it: none comes
 * early, none twice, none that was cancelled, and in the end all that were stored.
 *
 * usage: delay_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

#define PARTITIONS 3u
#define MESSAGES_MAX 3000u
#define FILLER 30000u

struct known {
	uint64_t due_ns; /* by the wall clock, at least */
	uint64_t number; /* by which it is cancelled; UINT64_MAX: not known */
	uint32_t partition;
	bool settled, cancelled, seen; /* seen: in this reading */
};

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer, *filler;
	struct known known[MESSAGES_MAX];
	uint32_t next_id, first_of_life;
	uint64_t wall_max_ns; /* that anybody ever saw */
	uint32_t came, cancelled;
	bool sets_clock; /* somebody does, now and then */
};

#include "lives.h"

/* The sim's clock, with a wall that may be set. */
static int64_t wall_shift_ns;
static struct thmqi_clock sim_clock, clock_here;
static struct thmqi_world world_here;

static uint64_t wall_here(void *ctx)
{
	return sim_clock.wall_ns(ctx) + (uint64_t)wall_shift_ns;
}

static uint64_t wall(struct world *w)
{
	uint64_t is = clock_here.wall_ns(clock_here.ctx);

	w->wall_max_ns = THMQI_MAX(w->wall_max_ns, is);
	return is;
}

static int open_all(struct world *w)
{
	at = "open";
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20), &world_here, &w->env) == 0);
	CHECK(w, thmq_broker_open(w->env,
				  THMQ_BROKER_OPTS(.data_dir = "data", .shard_count = 1, .segment_bytes = 1u << 20,
						   .batch_bytes = 64u << 10, .cache_bytes = 1u << 20),
				  &w->broker) == 0);
	CHECK(w, thmq_connect(w->env, "inproc://", NULL, &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = PARTITIONS, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_topic_create(w->session, "filler",
				   THMQ_TOPIC_OPTS(.retention_bytes = 64u << 10, .flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(w, thmq_producer_open(w->session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &w->producer) == 0);
	CHECK(w, thmq_producer_open(w->session, "filler", NULL, &w->filler) == 0);
	w->first_of_life = w->next_id;
	return 0;
}

static void take_events(struct world *w)
{
	struct thmq_event e;

	while (thmq_events(w->session, &e, 1) == 1) {
		struct known *k;

		if (e.type != THMQ_EVENT_SETTLED)
			continue;
		k = &w->known[w->first_of_life + e.sequence - 1];
		k->settled = true;
		k->number = e.offset;
	}
}

static uint64_t some_delay(struct world *w)
{
	switch (below(w, 6)) {
	case 0:
		return 0;
	case 1:
		return below(w, 2 * MS);
	case 2:
		return below(w, 3600 * SECOND);
	default:
		return below(w, 300 * MS);
	}
}

static int send_some(struct world *w)
{
	static uint8_t filling[FILLER];
	uint32_t n = 1 + (uint32_t)below(w, 40), payload[8] = {0};

	at = "send";
	while (n-- && w->next_id < MESSAGES_MAX) {
		struct known *k = &w->known[w->next_id];
		uint64_t delay = some_delay(w), now = wall(w);
		struct thmq_message_opts o = {.size = sizeof(o),
					      .flags = THMQ_MESSAGE_PARTITION,
					      .partition = (uint32_t)below(w, PARTITIONS),
					      .key = "key",
					      .key_len = below(w, 2) ? 3 : 0};
		int64_t seq;

		o.key = o.key_len ? o.key : NULL;
		if (delay && !w->sets_clock && below(w, 2)) /* by which clock? */
			o.delay_ns = delay;
		else
			o.deliver_at_ns = (int64_t)(now + delay);
		payload[0] = w->next_id;
		seq = thmq_send(w->producer, payload, (uint32_t)(4 + below(w, 29)), &o);
		if (seq == -EAGAIN)
			break;
		CHECK(w, seq == w->next_id - w->first_of_life + 1);
		*k = (struct known){.due_ns = now + delay, .number = UINT64_MAX, .partition = o.partition};
		w->next_id++;
	}
	if (below(w, 3) == 0)
		for (n = (uint32_t)below(w, 12); n; n--)
			thmq_send(w->filler, filling, FILLER, NULL);
	take_events(w);
	return 0;
}

static int cancel_one(struct world *w)
{
	struct known *k;
	int rc;

	at = "cancel";
	if (!w->next_id)
		return 0;
	k = &w->known[below(w, w->next_id)];
	if (!k->settled || k->number == UINT64_MAX || k->cancelled)
		return 0;
	if (below(w, 4) == 0) /* it is not theirs */
		CHECK(w, thmq_delayed_cancel(w->session, "t", (k->partition + 1) % PARTITIONS, k->number) == -ENOENT);
	rc = thmq_delayed_cancel(w->session, "t", k->partition, k->number);
	CHECK(w, rc == 0 || rc == -ENOENT);
	CHECK(w, rc == 0 || k->due_ns <= wall(w) + 2 * MS || k->due_ns <= w->wall_max_ns); /* it waits */
	if (rc == 0) {
		k->cancelled = true;
		w->cancelled++;
		CHECK(w, thmq_delayed_cancel(w->session, "t", k->partition, k->number) == -ENOENT);
	}
	return 0;
}

static bool all_seen(const struct world *w)
{
	uint32_t i;

	for (i = 0; i < w->next_id; i++)
		if (!w->known[i].seen && w->known[i].settled && !w->known[i].cancelled)
			return false;
	return true;
}

/* All that is there, from the begin. @all: until all that should be there are. */
static int read_all(struct world *w, bool all)
{
	struct thmq_consumer *c;
	struct thmq_message m[64];
	uint32_t i, id, idle = 0;
	int n, k;

	at = "read";
	for (i = 0; i < w->next_id; i++)
		w->known[i].seen = false;
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	while (idle < 30 || (all && idle < 3000 && !all_seen(w))) {
		n = thmq_fetch(c, m, 64);
		CHECK(w, n >= 0);
		wall(w);
		for (k = 0; k < n; k++) {
			CHECK(w, m[k].len >= 4);
			memcpy(&id, m[k].data, 4);
			CHECK(w, id < w->next_id);
			CHECK(w, !w->known[id].seen); /* once */
			/* a core looks at the wall's clock each millisecond: what is set back is noticed then */
			CHECK(w, w->known[id].due_ns <= w->wall_max_ns + (w->sets_clock ? MS : 0));
			CHECK(w, !w->known[id].cancelled);
			CHECK(w, m[k].partition == w->known[id].partition);
			w->known[id].seen = true;
		}
		CHECK(w, thmq_release(c, m, (uint32_t)n) == 0);
		idle = n ? 0 : idle + 1;
		thmq_poll(w->env, MS);
	}
	CHECK(w, thmq_consumer_close(c, SECOND) == 0);
	return 0;
}

/* So long after the last one's time all are there. */
static int read_the_rest(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t last = 0, i;

	for (i = 0; i < w->next_id; i++)
		last = THMQI_MAX(last, w->known[i].due_ns);
	while (wall(w) < last + 100 * MS)
		thmq_poll(w->env, last + 100 * MS - wall(w));
	for (i = 0; i < 50; i++)
		thmq_poll(w->env, MS);
	if (read_all(w, true))
		return -1;
	for (i = 0; i < w->next_id; i++) {
		CHECK(w, w->known[i].seen || !w->known[i].settled || w->known[i].cancelled);
		w->came += w->known[i].seen;
	}
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(w, thmq_partition_describe(w->session, "t", (uint32_t)i, NULL, &info) == 0);
		CHECK(w, info.delayed == 0);
	}
	return 0;
}

static int life(struct world *w, bool last)
{
	uint32_t steps = 10 + (uint32_t)below(w, 120), i;

	if (open_all(w))
		return -1;
	for (i = 0; i < steps; i++) {
		if (below(w, 3) == 0 && send_some(w))
			return -1;
		if (below(w, 4) == 0 && cancel_one(w))
			return -1;
		wall(w);
		if (w->sets_clock && below(w, 60) == 0) {
			wall_shift_ns += (int64_t)below(w, 2 * SECOND) - (int64_t)SECOND;
			thmqi_disk_sim_advance(w->sim, 2 * MS); /* so that it is noticed before something is sent */
			thmq_poll(w->env, 0);
		}
		wall(w);
		thmq_poll(w->env, below(w, 3) ? 0 : below(w, 8) ? below(w, MS) : below(w, 60 * MS));
		take_events(w);
	}
	if (below(w, 2) && read_all(w, false))
		return -1;
	if (last) {
		at = "last";
		CHECK(w, thmq_flush(w->producer, 60 * SECOND) == 0);
		take_events(w);
		if (read_the_rest(w))
			return -1;
		at = "close";
		CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
		return 0;
	}
	wall(w);
	if (below(w, 4)) {
		thmqi_disk_sim_crash(w->sim);
		thmq_env_close(w->env, 0);
	} else {
		thmq_env_close(w->env, 60 * SECOND);
	}
	thmqi_disk_sim_restart(w->sim);
	return 0;
}

#define STREAM 8000u

/* What was sent in the order of its times is read in large pieces, however fast those times come: reads of the device, not messages, are what is slow. */
static int stream(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_env_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
	const char data[100] = {0};
	struct thmq_producer *p;
	uint64_t base;
	uint32_t i, tries;

	world_here = *thmqi_disk_sim_world(w->sim);
	clock_here = *world_here.clock;
	if (open_all(w))
		return -1;
	at = "stream";
	CHECK(w, thmq_producer_open(w->session, "t", NULL, &p) == 0);
	base = wall(w) + 10 * SECOND;
	for (i = 0; i < STREAM;) {
		int64_t rc = thmq_send(p, data, sizeof(data),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .deliver_at_ns = (int64_t)(base + i * 10000ull)));

		CHECK(w, rc > 0 || rc == -EAGAIN);
		i += rc > 0;
		if (rc == -EAGAIN)
			thmq_poll(w->env, MS);
	}
	CHECK(w, thmq_flush(p, 60 * SECOND) == 0);
	CHECK(w, wall(w) < base);
	CHECK(w, thmq_env_stats(w->env, &before) == 0);
	while (wall(w) < base)
		thmq_poll(w->env, 10 * SECOND);
	for (tries = 0; tries < 100000; tries++) {
		thmq_poll(w->env, MS);
		if (tries % 64)
			continue;
		CHECK(w, thmq_partition_describe(w->session, "t", 0, NULL, &info) == 0);
		if (!info.delayed && info.end_offset == STREAM) /* the last ones are not stored yet when none waits */
			break;
	}
	CHECK(w, !info.delayed && info.end_offset == STREAM);
	CHECK(w, thmq_env_stats(w->env, &after) == 0);
	printf("%u messages came in their order, by %llu reads\n", STREAM, (unsigned long long)(after.reads - before.reads));
	CHECK(w, after.reads - before.reads < STREAM / 16);
	CHECK(w, thmq_env_close(w->env, 60 * SECOND) == 0);
	return 0;
}

static uint64_t came, cancelled; /* of all seeds */

static void begin(struct world *w)
{
	world_here = *thmqi_disk_sim_world(w->sim);
	sim_clock = clock_here = *world_here.clock;
	clock_here.wall_ns = wall_here;
	world_here.clock = &clock_here;
	wall_shift_ns = 0;
	w->sets_clock = below(w, 2);
}

static void end(const struct world *w)
{
	came += w->came;
	cancelled += w->cancelled;
}

static int run(uint64_t seed)
{
	return live(seed, 1, 5, begin, life, end);
}

int main(int argc, char **argv)
{
	uint64_t failed, count = each_seed(argc, argv, 5, 5000, run, &failed);

	failed += live_once(stream) != 0;
	printf("%llu messages came, %llu were cancelled\n", (unsigned long long)came, (unsigned long long)cancelled);
	return failed != 0 || (count >= 5 && (!came || !cancelled));
}
