/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_border_test.c - what lies at the border of what may be: offsets up to the last number, runs of no message and of a
 * whole segment, batches that end where a segment does, options of another life, owners that go in the middle.
 */
#include <criterion/criterion.h>

#include "../../lib/commitlog/index/seal_format.h"
#include "../../lib/commitlog/internal.h"
#include "commitlog/offline.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MIB (1u << 20)

TestSuite(commitlog_border, .timeout = 60);

static struct rig r;

static void up(void)
{
	rig_init(&r, 5, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = MIB;
	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
}

static void down(void)
{
	rig_fini(&r);
}

static int put(uint32_t partition, uint64_t offset, uint32_t span, uint32_t size)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(r.log, (uint32_t)sizeof(*run) + size, &run, &index)) ==
	       -EAGAIN)
		thmqi_core_poll(r.core, 1000000);
	if (rc)
		return rc;
	rig_fill(run, partition, offset, span, size);
	return thmq_log_append_end(r.log, run, DURABLE);
}

static uint32_t full(void)
{
	return (uint32_t)(rig_stats(&r).end_position / MIB);
}

/* Other partitions until so many segments are full, and have their index. */
static void fill(uint32_t segments)
{
	static uint64_t filler = 0;
	uint64_t index;

	while (full() < segments) {
		cr_assert_eq(rig_append_wait(&r, 1000, filler++, 30000, DURABLE, &index), 0);
		rig_poll(&r, 2);
	}
	rig_poll(&r, 300);
}

/* The runs at these offsets, each of one message, in this order and no others. */
static void expect(uint32_t partition, const uint64_t *offsets, uint32_t count)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t begin, end;
	uint32_t i, from;

	cr_assert_eq(thmq_log_bounds(r.log, partition, &begin, &end), 0);
	cr_assert_eq(begin, offsets[0]);
	cr_assert_eq(end, offsets[count - 1] + 1);
	for (from = 0; from < count; from++) {
		cr_assert_eq(thmq_log_reader_open(r.log, partition, rig_ready, &r, &reader), 0);
		thmq_log_reader_seek(reader, offsets[from]);
		for (i = from; i < count; i++) {
			cr_assert_eq(rig_read(&r, reader, UINT64_MAX, &v), 1, "from %u: %u", from,
				     i);
			cr_assert(rig_view_ok(&v, partition, offsets[i]), "from %u: %u", from, i);
			thmq_log_view_release(r.log, &v);
		}
		cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 0);
		thmq_log_reader_close(reader);
	}
}

static void reopen(void)
{
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
}

/* ------------------------------------------------------------------- offsets */

Test(commitlog_border, offsets_go_up_to_the_last_number, .init = up, .fini = down)
{
	static const uint64_t offsets[] = {0,
					   1,
					   4095,
					   4096,
					   UINT32_MAX - 1,
					   UINT32_MAX,
					   1ull << 32,
					   (1ull << 53) + 1,
					   INT64_MAX - 1,
					   INT64_MAX,
					   1ull << 63,
					   UINT64_MAX - 2};
	const uint32_t count = THMQI_ARRAY_COUNT(offsets);
	uint32_t i;

	for (i = 0; i < count; i++)
		cr_assert_eq(put(7, offsets[i], 1, 100), 0);
	expect(7, offsets, count);
	fill(2);
	expect(7, offsets, count);
	for (i = 0; i < 2; i++) {
		reopen();
		cr_assert_eq(rig_stats(&r).sealed_segments, 2);
		expect(7, offsets, count);
	}
	/* and no further */
	cr_assert_eq(put(7, UINT64_MAX - 1, 2, 100), -EINVAL);
	cr_assert_eq(put(8, UINT64_MAX - 5, 1000, 100), -EINVAL);
	cr_assert_eq(put(8, 5, 1, 100), 0, "nothing was noted of it");
	cr_assert_eq(put(7, UINT64_MAX - 2, 1, 100), -EINVAL, "behind it comes the last one");
	expect(7, offsets, count);
}

Test(commitlog_border, numbers_that_jump_within_a_segment_are_found, .init = up, .fini = down)
{
	uint64_t offsets[60], index;
	uint32_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(offsets); i++)
		offsets[i] = i ? offsets[i - 1] + 1 +
					     (i % 7 == 3    ? 5000
					      : i % 11 == 5 ? 1ull << (i % 60)
							    : 0)
			       : 9;
	for (i = 0; i < THMQI_ARRAY_COUNT(offsets); i++)
		cr_assert_eq(put(3, offsets[i], 1, 20 + i), 0);
	expect(3, offsets, i);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	rig_poll(&r, 100);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	expect(3, offsets, i);
}

/* ---------------------------------------------------------- runs of no message */

Test(commitlog_border, runs_of_no_message_do_no_harm_to_their_index, .init = up, .fini = down)
{
	uint64_t begin, end, index;

	for (uint32_t i = 0; i < 30; i++) /* 0: nothing else in the segment; others beside it */
		cr_assert_eq(put(i % 3, i % 3 == 2 ? i / 3 : 0, i % 3 == 2 ? i % 2 : 0, i), 0);
	fill(2);
	cr_assert_eq(put(0, 0, 0, 50), 0);
	cr_assert_eq(put(1, 0, 1, 50), 0);
	index = rig_stats(&r).last_index;
	fill(3);
	for (uint32_t life = 0; life < 2; life++) {
		reopen();
		cr_assert_eq(rig_stats(&r).sealed_segments, 3, "an index that is good is believed");
		cr_assert_eq(thmq_log_bounds(r.log, 0, &begin, &end), 0);
		cr_assert(begin == 0 && end == 0);
		cr_assert_eq(rig_read_all(&r, 1, 0, 1), 1);
	}
	/* a truncation looks for where a partition ends */
	cr_assert_eq(thmq_log_truncate(r.log, index), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), 0);
	cr_assert_eq(end, 0);
	cr_assert_eq(put(1, 0, 1, 50), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, 1), 1);
}

/* --------------------------------------------------------------------- borders */

/* Bytes of the present segment behind the last batch, once nothing is being formed. */
static uint64_t left(void)
{
	uint64_t index;

	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	rig_poll(&r, 50);
	return (MIB - rig_stats(&r).end_position % MIB) % MIB;
}

/* A run that makes a batch of so many blocks, or of one that misses them by @bytes. */
static void put_blocks(uint64_t offset, uint32_t blocks, int32_t bytes)
{
	uint32_t size = (uint32_t)((int64_t)blocks * THMQI_BLOCK - 128 -
				   (int64_t)sizeof(struct thmq_run_header) + bytes);

	cr_assert_eq(put(1, offset, 1, size), 0, "%u blocks, %d", blocks, bytes);
}

Test(commitlog_border, runs_end_at_before_and_behind_a_segments_end, .init = up, .fini = down)
{
	uint64_t offset = 0, index;
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 11);
	for (uint32_t round = 0; round < 60; round++) {
		/* so many blocks are left, … */
		uint32_t want = round % 5, blocks;

		while ((blocks = (uint32_t)(left() / THMQI_BLOCK)) > want)
			put_blocks(offset++, THMQI_MIN(blocks - want, 60u), 0);
		/* … and the next run takes one less, just these, one more; to the byte, or not */
		blocks = (uint32_t)THMQI_MAX((int64_t)want - 1 + (int64_t)(round / 5 % 3), 1);
		put_blocks(offset++, blocks, round % 2 ? 0 : -(int32_t)thmqi_prng_below(&p, 3000));
		if (round % 4 == 0)
			cr_assert_eq(put(2, round, 0, 0), 0); /* nothing but a header */
		if (round % 7 == 0)
			put_blocks(offset++, (256u << 10) / THMQI_BLOCK,
				   0); /* as large as a batch may be */
		if (round % 10 == 9) {
			cr_assert_eq(thmq_log_flush(r.log, &index), 0);
			rig_poll(&r, 300);
			if (round % 20 == 9)
				rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
			else
				cr_assert_eq(rig_close(&r), 0);
			cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
			cr_assert_eq(rig_read_all(&r, 1, 0, offset), (int64_t)offset, "round %u",
				     round);
		}
	}
}

/* ----------------------------------------------------------------- other options */

Test(commitlog_border, batches_larger_than_the_segments_that_there_are_are_refused, .init = up,
     .fini = down)
{
	uint64_t index;

	cr_assert_eq(put(1, 0, 1, 1000), 0);
	cr_assert_eq(rig_close(&r), 0);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 16u << 20; /* as of a new one */
	r.opts.batch_bytes = 4u << 20;
	cr_assert_eq(rig_open(&r), -EINVAL);
	cr_assert_neq(strstr(thmq_errmsg(), "batch_bytes"), NULL, "%s", thmq_errmsg());
	r.opts.batch_bytes = MIB;
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_append_wait(&r, 1, 1, MIB - 224, DURABLE, &index), 0, "a whole segment");
	cr_assert_eq(rig_await(&r, index), 0);
	/* smaller ones than are stored are read all the same */
	cr_assert_eq(rig_close(&r), 0);
	r.opts.batch_bytes = 4096;
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_append(r.log, 8192, &(struct thmq_run_header *){NULL}, &index),
		     -EMSGSIZE);
	cr_assert_eq(rig_append_wait(&r, 1, 2, 1000, DURABLE, &index), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, 3), 3);
}

/* ------------------------------------------------------------------- in the middle */

Test(commitlog_border, a_snapshot_that_nobody_gives_back_does_not_hold_the_log_for_ever, .init = up,
     .fini = down)
{
	struct thmqi_log_snapshot *snap[2] = {malloc(sizeof(**snap)), malloc(sizeof(**snap))};

	fill(4);
	cr_assert_eq(thmqi_log_snapshot_take(r.log, snap[0]), 0);
	cr_assert_eq(thmqi_log_snapshot_take(r.log, snap[1]), 0);
	cr_assert_eq(thmqi_log_drop_oldest(r.log), -EAGAIN);
	thmqi_log_snapshot_abandon(snap[0]);
	cr_assert_eq(thmqi_log_drop_oldest(r.log), -EAGAIN, "there is another one");
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, snap[1]), 0);
	cr_assert_eq(thmqi_log_drop_oldest(r.log), 0);
	/* it may be on its way when one is taken, and it waits for that too */
	cr_assert_eq(thmqi_log_snapshot_take(r.log, snap[1]), 0);
	rig_poll(&r, 300);
	cr_assert_eq(rig_stats(&r).dropped_segments, 0);
	thmqi_log_snapshot_abandon(snap[1]);
	rig_poll(&r, 300);
	cr_assert_eq(rig_stats(&r).dropped_segments, 1);
	/* of a log that is closed meanwhile */
	snap[0] = malloc(sizeof(**snap));
	cr_assert_eq(thmqi_log_snapshot_take(r.log, snap[0]), 0);
	cr_assert_eq(rig_close(&r), 0);
	thmqi_log_snapshot_abandon(snap[0]);
}

Test(commitlog_border,
     a_partition_that_is_forgotten_while_its_runs_are_gathered_is_not_half_in_the_index, .init = up,
     .fini = down)
{
	uint32_t i, cut = 0;
	uint64_t index;

	/* more runs than are gathered at a time, and others beside them */
	for (i = 0; i < 5000; i++)
		cr_assert_eq(put(5 + (i % 9 == 0), i, 1, 20), 0);
	while (full() < 1)
		cr_assert_eq(rig_append_wait(&r, 1, cut++, 3000, DURABLE, &index), 0);
	for (i = 0; i < 1000 && r.log->sealing.image.place == NULL; i++)
		thmqi_core_poll(r.core, 1000);
	cr_assert_not_null(r.log->sealing.image.place, "it is at a partition of many");
	thmq_log_forget(r.log, 5);
	thmq_log_forget(r.log, 6);
	rig_poll(&r, 300);
	cr_assert_eq(rig_append_wait(&r, 1, cut++, 3000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	for (uint32_t p = 5; p < 7; p++) {
		struct seal_partition found;

		cr_assert_eq(thmqi_sealed_partition(r.log, r.log->segments[0], p, &found), 0,
			     "partition %u", p);
	}
	reopen();
	cr_assert_eq(rig_read_all(&r, 1, 0, cut), cut);
}

/* -------------------------------------------------------------------- votes */

/* One that was put back from a copy, or whose successor the device has lost, hides nothing. */
Test(commitlog_border, a_vote_older_than_the_log_hides_nothing, .init = up, .fini = down)
{
	uint8_t vote[8192];
	uint64_t index;

	for (uint32_t life = 0; life < 3; life++) {
		for (uint64_t i = 0; i < 5; i++)
			cr_assert_eq(put(1, life * 15 + i, 1, 500), 0);
		cr_assert_eq(rig_close(&r), 0);
		rig_get(&r, "vote", 0, vote, sizeof(vote));
		for (uint32_t later = 0; later < 2; later++) {
			cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
			for (uint64_t i = 0; i < 5; i++)
				cr_assert_eq(put(1, life * 15 + later * 5 + 5 + i, 1, 500), 0);
			cr_assert_eq(thmq_log_flush(r.log, &index), 0);
			rig_poll(&r, 50);
			if (life == 1)
				rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
			else
				cr_assert_eq(rig_close(&r), 0);
		}
		rig_put(&r, "vote", 0, vote, sizeof(vote));
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_read_all(&r, 1, 0, life * 15 + 15), life * 15 + 15, "life %u",
			     life);
		cr_assert_eq(rig_stats(&r).unclean, 1);
	}
}
