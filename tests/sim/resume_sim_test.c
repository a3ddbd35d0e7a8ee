/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that come back, in one thread under virtual time: a session and a broker joined by a transport that resets, loses, delays, stalls and cuts
 * into pieces, on a simulated disk whose power is cut at any moment, all from one seed. What was sent arrives once, in order, at a reader
 * of its own and at a group's; nothing fails, and nothing is told twice.
 *
 * usage: resume_sim_test [first seed [count]]; THMQ_TEST_FULL=1 runs many more.
 */
#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "pairs.h"
#include "seeds.h"

#define PARTITIONS 3u
#define MESSAGES 400u

struct world {
	uint64_t seed;
	struct thmqi_prng prng;
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_fault *fault;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumers[2];
	struct pairs pairs;
	uint32_t sent, settled, lives, lost;
	uint32_t next_to[PARTITIONS], next_of[2][PARTITIONS];
	uint64_t offsets[2][PARTITIONS];
};

/* -------------------------------------------------------------------- broker */

static int broker_up(struct world *w)
{
	at = "open";
	CHECK(w,
	      thmq_broker_open(w->env,
			       THMQ_BROKER_OPTS(.data_dir = "data", .listen = "sim://",
						.shard_count = 2, .segment_bytes = 1u << 20,
						.batch_bytes = 64u << 10, .cache_bytes = 1u << 20),
			       &w->broker) == 0);
	w->lives++;
	return 0;
}

/* Its power is cut, or it closes; the session's is another machine. */
static int broker_dies(struct world *w)
{
	bool cut = thmqi_prng_below(&w->prng, 4) != 0;
	uint32_t i;

	at = "dies";
	if (cut)
		thmqi_disk_sim_crash(w->sim);
	thmq_broker_close(w->broker, cut ? 0 : 60 * SECOND);
	if (cut)
		thmqi_disk_sim_restart(w->sim);
	for (i = (uint32_t)thmqi_prng_below(&w->prng, 50); i; i--) {
		thmq_session_wait(w->session, 0);
		thmq_poll(w->env, 1000000);
	}
	return broker_up(w);
}

static void trouble(struct world *w)
{
	struct thmq_fault_opts o = {.size = sizeof(o), .seed = thmqi_prng_next(&w->prng)};

	if (thmqi_prng_below(&w->prng, 2)) {
		o.reset_bytes_min = 300;
		o.reset_bytes_max = 300 + thmqi_prng_below(&w->prng, 20000);
	}
	o.lose_ppm =
		thmqi_prng_below(&w->prng, 3) ? 0 : (uint32_t)thmqi_prng_below(&w->prng, 30000);
	o.corrupt_ppm =
		thmqi_prng_below(&w->prng, 3) ? 0 : (uint32_t)thmqi_prng_below(&w->prng, 30000);
	o.delay_ppm = (uint32_t)thmqi_prng_below(&w->prng, 500000);
	o.delay_ns = 1 + thmqi_prng_below(&w->prng, 5000000);
	o.short_ppm = (uint32_t)thmqi_prng_below(&w->prng, 500000);
	o.stall_ppm = (uint32_t)thmqi_prng_below(&w->prng, 2000);
	o.stall_ns = thmqi_prng_below(&w->prng, SECOND);
	thmq_fault_set(w->fault, &o);
}

/* ---------------------------------------------------------------------- flow */

static int send_some(struct world *w)
{
	uint32_t n = (uint32_t)thmqi_prng_below(&w->prng, 12), partition, body[100] = {0};
	int64_t rc;

	at = "send";
	while (n-- && w->sent < MESSAGES) {
		partition = (uint32_t)thmqi_prng_below(&w->prng, PARTITIONS);
		body[0] = w->next_to[partition];
		rc = thmq_send(
			w->producer, body, 4 + 4 * (uint32_t)thmqi_prng_below(&w->prng, 99),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
		if (rc == -EAGAIN)
			return 0;
		CHECK(w, rc == w->sent + 1);
		w->sent++;
		w->next_to[partition]++;
	}
	return 0;
}

static int take_some(struct world *w, uint32_t which)
{
	struct thmq_message m[16];
	int n = thmq_fetch(w->consumers[which], m, 16), i;
	uint32_t number;

	at = which ? "group" : "reader";
	CHECK(w, n >= 0);
	for (i = 0; i < n; i++) {
		CHECK(w, m[i].len >= 4 && m[i].partition < PARTITIONS);
		memcpy(&number, m[i].data, 4);
		CHECK(w, number == w->next_of[which][m[i].partition]); /* in order, each once */
		w->next_of[which][m[i].partition]++;
		w->offsets[which][m[i].partition] = m[i].offset;
		if (which)
			CHECK(w, thmq_ack(w->consumers[1], &m[i]) == 0);
	}
	CHECK(w, thmq_release(w->consumers[which], m, (uint32_t)n) == 0);
	return 0;
}

static int take_events(struct world *w)
{
	struct thmq_event e;

	at = "events";
	while (thmq_events(w->session, &e, 1) == 1) {
		CHECK(w,
		      e.type == THMQ_EVENT_SETTLED || e.type == THMQ_EVENT_DISCONNECTED ||
			      e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED ||
			      e.type ==
				      THMQ_EVENT_OFFSETRANGE /* stepped over by more than one life */);
		w->settled += e.type == THMQ_EVENT_SETTLED;
		w->lost += e.type == THMQ_EVENT_DISCONNECTED;
	}
	CHECK(w, w->settled <= w->sent);
	return 0;
}

static int step(struct world *w)
{
	if (send_some(w) || take_some(w, 0) || take_some(w, 1) || take_events(w))
		return -1;
	thmq_poll(w->env, thmqi_prng_below(&w->prng, 2) ? 0 : thmqi_prng_below(&w->prng, 2000000));
	return 0;
}

static bool is_done(const struct world *w)
{
	uint32_t i, got = 0;

	for (i = 0; i < PARTITIONS; i++)
		got += w->next_of[0][i] + w->next_of[1][i];
	return got == 2 * MESSAGES && w->settled == MESSAGES;
}

static int begin(struct world *w)
{
	at = "begin";
	CHECK(w, thmqi_disk_sim_open(w->seed, NULL, &w->sim) == 0);
	CHECK(w, thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = 256u << 20),
				    thmqi_disk_sim_world(w->sim), &w->env) == 0);
	CHECK(w, pairs_register(&w->pairs, w->env) == 0);
	CHECK(w, thmq_fault_open(w->env, NULL, &w->fault) == 0);
	if (broker_up(w))
		return -1;
	at = "connect";
	CHECK(w, thmq_connect(w->env, "sim://",
			      THMQ_SESSION_OPTS(.reconnect_ns = 1000 * SECOND, .window_count = 64,
						.timeout_ns = 1000 * SECOND),
			      &w->session) == 0);
	CHECK(w, thmq_topic_create(w->session, "t",
				   THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) == 0);
	CHECK(w,
	      thmq_producer_open(w->session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
				 &w->producer) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", NULL, NULL, &w->consumers[0]) == 0);
	CHECK(w, thmq_consumer_open(w->session, "t", "g",
				    THMQ_CONSUMER_OPTS(.session_timeout_ns = 1000 * SECOND),
				    &w->consumers[1]) == 0);
	return 0;
}

static int end(struct world *w)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t i;

	thmq_fault_set(w->fault, NULL);
	for (i = 0; i < 200000 && !is_done(w); i++)
		if (step(w))
			return -1;
	at = "end";
	CHECK(w, is_done(w));
	CHECK(w, thmq_flush(w->producer, 100 * SECOND) == 0);
	CHECK(w, thmq_consumer_flush(w->consumers[1], 100 * SECOND) == 0);
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(w, thmq_partition_describe(w->session, "t", i, "g", &info) == 0);
		CHECK(w, !w->next_to[i] || info.group_offset == w->offsets[1][i] + 1);
	}
	CHECK(w, thmq_session_close(w->session, 100 * SECOND) == 0);
	CHECK(w, thmq_env_close(w->env, 100 * SECOND) == 0);
	return 0;
}

static uint32_t lost; /* connections, of all seeds */

static int run(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t i;
	int rc;

	if (!w)
		return -1;
	w->seed = seed;
	thmqi_prng_seed(&w->prng, seed);
	rc = begin(w);
	for (i = 0; i < 400 && !rc && !is_done(w); i++) {
		if (i % 50 == 0)
			trouble(w);
		rc = step(w);
		if (!rc && thmqi_prng_below(&w->prng, 100) == 0)
			rc = broker_dies(w);
	}
	if (!rc)
		rc = end(w);
	lost += w->lost;
	thmqi_disk_sim_close(w->sim);
	free(w);
	return rc;
}

int main(int argc, char **argv)
{
	uint64_t failed, count = each_seed(argc, argv, getenv("THMQ_TEST_SMALL") ? 20 : 30, 3000, run, &failed);

	printf("%u times disconnected\n", lost);
	return failed != 0 || (count >= 20 && !lost);
}
