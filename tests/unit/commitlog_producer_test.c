/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far producers have come in partitions: kept by the log from the headers of runs, told at open of all segments, also of those
 * that are taken from their index, or the first part of which is, and asked for before the last run of one goes.
 */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define PRODUCERS 3u
#define PARTITIONS 3u
#define ROUNDS 1200u

static struct rig r;
static struct thmq_log_producer known[PRODUCERS + 1][PARTITIONS + 1],
	replayed[PRODUCERS + 1][PARTITIONS + 1];
static uint64_t next[PARTITIONS + 1];
static uint32_t states; /* that were replayed */
static uint32_t renewed;

static void learn(const struct thmq_log_producer *p)
{
	struct thmq_log_producer *mine;

	cr_assert(p->producer_id >= 1 && p->producer_id <= PRODUCERS && p->partition >= 1 &&
		  p->partition <= PARTITIONS);
	mine = &replayed[p->producer_id][p->partition];
	if (p->last_sequence > mine->last_sequence)
		*mine = *p;
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;
	struct thmqi_producer_run state;

	(void)ctx;
	if (h->encoding == THMQ_RUN_STATE && h->partition == THMQ_LOG_PRODUCER) {
		cr_assert_eq(h->len, sizeof(struct thmq_log_producer));
		learn(run->payload);
		states++;
	} else if (run->payload && thmqi_run_has_producer(h)) {
		thmqi_run_producer(h, &state);
		learn(&state.producer);
	}
	return 0;
}

static int on_live(void *ctx, const struct thmq_log_extent *extent)
{
	(void)ctx;
	(void)extent;
	return THMQ_LOG_DEAD;
}

/* As a broker does: what it knows is appended again. */
static int on_renew(void *ctx, uint32_t kind, uint64_t item)
{
	struct thmq_run_header *run;
	uint64_t index;
	uint32_t i, k;
	int rc;

	(void)ctx;
	cr_assert_eq(kind, THMQ_LOG_PRODUCER);
	for (i = 1; i <= PRODUCERS; i++)
		for (k = 1; k <= PARTITIONS; k++) {
			if (thmqi_producer_item(i, k) != item)
				continue;
			rc = thmq_log_append(r.log, sizeof(*run) + sizeof(known[i][k]), &run,
					     &index);
			if (rc)
				return rc;
			thmq_run_init(run, THMQ_RUN_STATE, kind, item, 0, sizeof(known[i][k]));
			memcpy(run + 1, &known[i][k], sizeof(known[i][k]));
			renewed++;
			return thmq_log_append_end(r.log, run, DURABLE);
		}
	cr_assert_fail("nobody has this item");
	return 0;
}

static void up(void)
{
	rig_init(&r, 5, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.events.replay = on_replay;
	memset(known, 0, sizeof(known));
	memset(next, 0, sizeof(next));
	renewed = 0;
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	rig_close(&r);
	rig_fini(&r);
}

static uint64_t append(uint32_t producer, uint32_t partition, uint32_t size)
{
	struct thmq_log_producer *p = &known[producer][partition];
	struct thmq_run_header *run;
	uint64_t index;

	while (thmq_log_append(r.log, sizeof(*run) + size, &run, &index) == -EAGAIN)
		rig_poll(&r, 1);
	rig_fill(run, partition, next[partition], 2, size);
	next[partition] += 2;
	run->producer_id = producer;
	run->producer_epoch = producer + 7;
	run->first_sequence = p->last_sequence + 3;
	run->sequence_span = 5;
	cr_assert_eq(thmq_log_append_end(r.log, run, DURABLE), 0);
	*p = (struct thmq_log_producer){.producer_id = producer,
					.last_sequence = p->last_sequence + 8,
					.producer_epoch = producer + 7,
					.partition = partition};
	return index;
}

/* The first producer stops early: what is known of it lies in old segments alone. */
static void fill(uint32_t rounds, uint32_t size)
{
	uint64_t index = 0;
	uint32_t i;

	for (i = 0; i < rounds; i++) {
		index = append(i < 20 ? 1 + i % PRODUCERS : 2 + i % (PRODUCERS - 1),
			       1 + i / 3 % PARTITIONS, size);
		rig_poll(&r, 1);
	}
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 200);
}

static void check(void)
{
	memset(replayed, 0, sizeof(replayed));
	states = 0;
	cr_assert_eq(rig_open(&r), 0);
	cr_assert_eq(memcmp(known, replayed, sizeof(known)), 0);
	cr_assert_gt(states, 0u);
}

TestSuite(commitlog_producer, .init = up, .fini = down);

Test(commitlog_producer, is_known_after_a_close_from_the_indexes)
{
	fill(ROUNDS, 4000);
	cr_assert_geq(rig_stats(&r).segment_count, 3u);
	rig_close(&r);
	check();
}

Test(commitlog_producer, is_known_after_a_crash)
{
	fill(ROUNDS, 4000);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	check();
}

Test(commitlog_producer, is_known_from_a_part_of_the_segment_that_fills)
{
	rig_close(&r);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 4u << 20;
	r.defects = THMQI_LOG_EARLY_PARTS;
	rig_fini(&r);
	rig_init(&r, 6, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 4u << 20;
	r.defects = THMQI_LOG_EARLY_PARTS;
	r.events.replay = on_replay;
	cr_assert_eq(rig_open(&r), 0);
	fill(500, 4000);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	check();
}

Test(commitlog_producer, outlives_the_segment_with_its_last_run)
{
	rig_close(&r);
	r.events.live = on_live;
	r.events.renew = on_renew;
	cr_assert_eq(rig_open(&r), 0);
	fill(3 * ROUNDS, 4000);
	cr_assert_gt(renewed, 0u);
	rig_close(&r);
	check();
}
