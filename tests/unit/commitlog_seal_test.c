/* SPDX-License-Identifier: Apache-2.0 */
/* Sealed indexes: full segments are taken from them at open; one that is missing, damaged or another's costs nothing but time. */
#include <criterion/criterion.h>

#include "../../lib/commitlog/internal.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define SEGMENTS 5u
#define PARTITIONS 7u
#define KINDS 3u
#define ITEMS 40u
#define BLOCK 4096u

static struct rig r;
static uint64_t next[PARTITIONS];        /* offset by partition */
static uint64_t states[KINDS][ITEMS];    /* what the newest slice says; 0: none */
static uint64_t replayed[KINDS][ITEMS];
static uint64_t replayed_end[PARTITIONS];

/* Also checks what is replayed against what was stored. */
static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;

	if (h->encoding == THMQ_RUN_STATE) {
		if (h->partition < 100) /* the log's own first run */
			return 0;
		cr_assert_eq(h->len, 8 + h->base_offset % 16);
		memcpy(&replayed[h->partition - 100][h->base_offset], run->payload, 8);
		return rig_replay(ctx, run);
	}
	replayed_end[h->partition] = THMQI_MAX(replayed_end[h->partition], h->base_offset + h->span);
	return rig_replay(ctx, run);
}

static int reopen(void)
{
	memset(replayed, 0, sizeof(replayed));
	memset(replayed_end, 0, sizeof(replayed_end));
	r.replayed_sealed = 0;
	return rig_open(&r);
}

static void up(void)
{
	rig_init(&r, 3, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.cache_bytes = 64u << 10;
	r.events.replay = on_replay;
	memset(next, 0, sizeof(next));
	memset(states, 0, sizeof(states));
	cr_assert_eq(reopen(), 0);
}

static void down(void)
{
	rig_close(&r);
	rig_fini(&r);
}

static void put_state(uint32_t kind, uint64_t item, uint64_t value)
{
	uint32_t len = 8 + (uint32_t)item % 16;
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(r.log, (uint32_t)sizeof(*run) + len, &run, &index)) == -EAGAIN)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_eq(rc, 0);
	memset(run, 0, sizeof(*run) + len);
	run->len = len;
	run->partition = 100 + kind;
	run->base_offset = item;
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &value, 8);
	thmq_log_append_end(r.log, run, DURABLE);
	states[kind][item] = value;
}

static uint32_t full(void)
{
	return (uint32_t)(rig_stats(&r).end_position >> 20);
}

/* Messages and states until the log has @segments full ones. */
static void fill(uint32_t segments)
{
	uint32_t count = full();
	uint64_t index = 0;

	for (uint32_t i = 1; full() < segments; i++) {
		uint32_t p = i % PARTITIONS;

		cr_assert_eq(rig_append_wait(&r, p, next[p]++, 500 + i % 5000, i % 3 ? THMQ_DURABILITY_MEMORY : DURABLE, &index),
			     0);
		if (i % 5 == 0)
			put_state(i % KINDS, i % ITEMS, i);
		if (full() != count)
			rig_poll(&r, 300); /* the index of the segment before is written */
		count = full();
	}
	cr_assert_eq(rig_append_wait(&r, 0, next[0]++, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 300); /* the last index is written */
}

/* All that was stored is there: replayed, and read. */
static void expect_all(void)
{
	uint64_t begin, end;

	cr_assert_arr_eq(replayed, states, sizeof(states));
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		cr_assert_eq(replayed_end[p], next[p], "partition %u", p);
		cr_assert_eq(thmq_log_bounds(r.log, p, &begin, &end), 0);
		cr_assert(begin == 0 && end == next[p]);
		cr_assert_eq(rig_read_all(&r, p, 0, next[p]), (int64_t)next[p], "partition %u", p);
	}
}

static void index_name(uint32_t segment, char name[40])
{
	snprintf(name, 40, "%020llu.idx", (unsigned long long)segment << 20);
}

Test(commitlog_seal, full_segments_are_not_read_again, .init = up, .fini = down)
{
	fill(SEGMENTS);
	for (int round = 0; round < 3; round++) {
		if (round == 1)
			cr_assert_eq(rig_close(&r), 0);
		else
			rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		/* after a crash the mark may be a segment behind */
		cr_assert_geq(rig_stats(&r).sealed_segments, round == 0 ? SEGMENTS - 1 : SEGMENTS, "round %d", round);
		expect_all();
	}
	/* and it goes on */
	fill(SEGMENTS + 2);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, SEGMENTS + 2);
	expect_all();
}

Test(commitlog_seal, terms_of_the_last_runs_are_kept, .init = up, .fini = down)
{
	for (uint32_t life = 0; life < 4; life++) { /* one segment has batches of several terms */
		for (uint32_t p = 0; p <= life; p++) {
			uint64_t index;

			cr_assert_eq(rig_append_wait(&r, p, next[p]++, 1000, DURABLE, &index), 0);
			cr_assert_eq(rig_await(&r, index), 0);
		}
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(reopen(), 0);
	}
	fill(2);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_geq(rig_stats(&r).sealed_segments, 2);
	expect_all();
}

Test(commitlog_seal, a_missing_index_is_made_again, .init = up, .fini = down)
{
	char name[40];

	fill(SEGMENTS);
	cr_assert_eq(rig_close(&r), 0);
	for (uint32_t i = 0; i < SEGMENTS; i += 2) {
		index_name(i, name);
		rig_unlink(&r, name);
	}
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, SEGMENTS / 2);
	expect_all();
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, SEGMENTS);
	expect_all();
}

Test(commitlog_seal, a_damaged_index_is_not_believed, .init = up, .fini = down)
{
	static uint8_t sector[512];
	char name[40];

	fill(2);
	cr_assert_eq(rig_close(&r), 0);
	index_name(1, name);
	for (uint64_t at = 0; at < 12000; at += at < 300 ? 4 : 997) {
		uint64_t from = at / 512 * 512;

		rig_get(&r, name, from, sector, 512);
		sector[at % 512] ^= 0x10;
		rig_put(&r, name, from, sector, 512);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		expect_all();
		cr_assert_eq(rig_close(&r), 0);
		/* bytes that mean nothing may have been hit; else it was made again */
		cr_assert_eq(reopen(), 0);
		cr_assert_eq(rig_stats(&r).sealed_segments, 2);
		cr_assert_eq(rig_close(&r), 0);
	}
}

Test(commitlog_seal, another_segments_index_is_not_believed, .init = up, .fini = down)
{
	static uint8_t bytes[8192];
	char from[40], to[40];

	fill(3);
	cr_assert_eq(rig_close(&r), 0);
	index_name(0, from);
	index_name(1, to);
	rig_get(&r, from, 0, bytes, sizeof(bytes));
	rig_unlink(&r, to);
	rig_make(&r, to, bytes, sizeof(bytes));
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 2);
	expect_all();
}

Test(commitlog_seal, what_was_truncated_is_not_remembered, .init = up, .fini = down)
{
	uint64_t index, last;

	fill(3);
	/* into the second segment: the states of what goes are the owner's to forget */
	last = rig_stats(&r).last_index;
	index = last / 3;
	cr_assert_eq(thmq_log_truncate(r.log, index), 0);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).last_index, index - 1);
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		cr_assert_lt(replayed_end[p], next[p]);
		cr_assert_eq(rig_read_all(&r, p, 0, replayed_end[p]), (int64_t)replayed_end[p]);
		next[p] = replayed_end[p];
	}
	memcpy(states, replayed, sizeof(states));
	fill(4);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	expect_all();
}

/* Anywhere, in any order: by offset and by time, of any partition. */
static void look_up(uint32_t times)
{
	struct thmq_log_reader *reader[PARTITIONS];
	struct thmq_log_view v;
	uint64_t offset;

	for (uint32_t p = 0; p < PARTITIONS; p++)
		cr_assert_eq(thmq_log_reader_open(r.log, p, rig_ready, &r, &reader[p]), 0);
	for (uint32_t i = 0; i < times; i++) {
		uint32_t p = i % PARTITIONS;
		uint64_t want = i * 2654435761u % next[p];

		thmq_log_reader_seek(reader[p], want);
		for (uint32_t k = 0; k < 3 && want + k < next[p]; k++) {
			cr_assert_eq(rig_read(&r, reader[p], next[p], &v), 1);
			cr_assert(rig_view_ok(&v, p, want + k), "partition %u offset %lu", p, (unsigned long)(want + k));
			thmq_log_view_release(r.log, &v);
		}
		if (i % 3 == 0) { /* times are ten times the offset */
			cr_assert_eq(rig_find_time(&r, p, (int64_t)want * 10 - 5, &offset), 0);
			cr_assert_eq(offset, want);
		}
	}
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		cr_assert_eq(rig_find_time(&r, p, (int64_t)next[p] * 10, &offset), -ENOENT);
		thmq_log_reader_close(reader[p]);
	}
}

Test(commitlog_seal, look_ups_go_to_the_indexes, .init = up, .fini = down)
{
	fill(SEGMENTS);
	look_up(500);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	look_up(500);
	fill(SEGMENTS + 2);
	look_up(500);
}

Test(commitlog_seal, readers_go_on_while_segments_are_sealed_behind_them, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index, at = 0;
	int rc;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	for (uint64_t i = 0; i < 12000; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, 500, THMQ_DURABILITY_MEMORY, &index), 0);
		if (i % 2) /* it falls behind */
			continue;
		rc = thmq_log_read(reader, i + 1, &v);
		if (rc == 0)
			thmqi_core_poll(r.core, 0);
		if (rc == 1) {
			cr_assert(rig_view_ok(&v, 1, at));
			thmq_log_view_release(r.log, &v);
			at++;
		}
	}
	cr_assert_geq(full(), 4);
	for (; at < 12000; at++) {
		cr_assert_eq(rig_read(&r, reader, 12000, &v), 1);
		cr_assert(rig_view_ok(&v, 1, at));
		thmq_log_view_release(r.log, &v);
	}
	thmq_log_reader_close(reader);
}

Test(commitlog_seal, many_segments_take_no_more_memory_of_a_partition)
{
	uint64_t index, offset = 0;

	rig_init(&r, 5, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.batch_bytes = 1u << 20;
	cr_assert_eq(rig_open(&r), 0);
	for (; full() < 400; offset++) /* more than one partition's list holds */
		cr_assert_eq(rig_append_wait(&r, 1, offset, 250000, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(rig_append_wait(&r, 1, offset++, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	next[1] = offset;
	for (int life = 0; life < 2; life++) {
		for (uint64_t want = 0; want < offset; want += 37)
			cr_assert_eq(rig_read_all(&r, 1, want, THMQI_MIN(want + 2, offset)), (int64_t)THMQI_MIN(2ul, offset - want));
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(rig_open(&r), 0);
	}
	cr_assert_geq(rig_stats(&r).sealed_segments, 399);
	down();
}

Test(commitlog_seal, an_index_that_is_found_damaged_is_made_again, .init = up, .fini = down)
{
	static uint8_t sector[512], again[512];
	uint64_t at;
	char name[40];

	fill(3);
	cr_assert_eq(rig_close(&r), 0);
	index_name(0, name);
	rig_get(&r, name, 0, sector, 512);
	memcpy(&at, sector + 96 + 7 * 32 + 8, 8); /* the section of runs */
	rig_get(&r, name, at, sector, 512);
	sector[100] ^= 1;
	rig_put(&r, name, at, sector, 512);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 3);
	expect_all();
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 2);
	rig_get(&r, name, at, again, 512);
	sector[100] ^= 1;
	cr_assert_arr_eq(sector, again, 512);
	expect_all();
}

/* What an index has to give at once, since one before it is of no use, is looked at before anything of it is believed. */
Test(commitlog_seal, damage_of_two_indexes_costs_nothing_but_time, .init = up, .fini = down)
{
	static uint8_t sector[512];
	uint64_t at;
	char name[40];

	fill(4);
	cr_assert_eq(rig_close(&r), 0);
	index_name(0, name);
	rig_get(&r, name, 0, sector, 512);
	sector[20] ^= 1;
	rig_put(&r, name, 0, sector, 512);
	index_name(2, name);
	rig_get(&r, name, 0, sector, 512);
	memcpy(&at, sector + 96 + 7 * 32 + 8, 8); /* the section of runs */
	rig_get(&r, name, at, sector, 512);
	sector[100] ^= 1;
	rig_put(&r, name, at, sector, 512);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).sealed_segments, 2);
	expect_all();
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).sealed_segments, 4);
	expect_all();
}

#define LONG 20u          /* a partition of so many runs that its entries are gathered in several turns */
#define LONG_RUNS 5000u

/* A segment with runs of all partitions, those of LONG gathered first; returns while LONG is gathered. */
static void fill_until_gathered(uint64_t *long_next, bool touch_again)
{
	uint32_t sealed = full();
	uint64_t index = 0, i;

	for (i = 0; i < LONG_RUNS; i++) {
		if (i < 50 * PARTITIONS)
			cr_assert_eq(rig_append_wait(&r, i % PARTITIONS, next[i % PARTITIONS]++, 500, THMQ_DURABILITY_MEMORY, &index), 0);
		if (i >= PARTITIONS) /* touched last, and gathered first */
			cr_assert_eq(rig_append_wait(&r, LONG, (*long_next)++, 8, THMQ_DURABILITY_MEMORY, &index), 0);
	}
	cr_assert_eq(full(), sealed);
	while (full() == sealed)
		cr_assert_eq(rig_append_wait(&r, 0, next[0]++, 5000, touch_again ? THMQ_DURABILITY_MEMORY : DURABLE, &index), 0);
	if (touch_again)
		cr_assert_eq(rig_append_wait(&r, LONG, (*long_next)++, 8, DURABLE, &index), 0);
	for (i = 0; !r.log->sealing.image.place && i < 1000; i++)
		rig_poll(&r, 1);
	cr_assert(r.log->sealing.image.place && r.log->sealing.image.next->partition == LONG);
}

/* What comes behind it in its page of the index is found all the same. */
Test(commitlog_seal, a_partition_that_goes_while_it_is_gathered_leaves_no_hole_in_its_page, .init = up, .fini = down)
{
	uint64_t n = 0;

	fill_until_gathered(&n, false);
	thmq_log_forget(r.log, LONG);
	rig_poll(&r, 300);
	cr_assert(r.log->segments[0]->sealed != NULL);
	for (uint32_t p = 0; p < PARTITIONS; p++)
		cr_assert_eq(rig_read_all(&r, p, 0, next[p]), (int64_t)next[p], "partition %u", p);
}

/*
 * It has runs in the segment that fills as well, and what comes behind it in the list of that one is not what comes behind it in the one that is gathered. Of
 * both kinds of lists.
 */
Test(commitlog_seal, a_partition_that_goes_and_is_in_two_segments_takes_no_other_with_it, .init = up, .fini = down)
{
	uint64_t n = 0;

	for (uint32_t k = 0; k < 2; k++) {
		fill_until_gathered(&n, true);
		thmq_log_forget(r.log, LONG);
		rig_poll(&r, 300);
		cr_assert(r.log->segments[k]->sealed != NULL);
		for (uint32_t p = 0; p < PARTITIONS; p++)
			cr_assert_eq(rig_read_all(&r, p, 0, next[p]), (int64_t)next[p], "partition %u, segment %u", p, k);
	}
}
