/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments that go: by hand, by the cleaner, with the power cut at every step of it. What is left is whole, begins where a
 * segment began, and what had to outlive the segment has.
 */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

TestSuite(commitlog_clean, .timeout = 60);

#define SIZE 60000u /* of a run: 17 fill a segment of 1 MiB */
#define KIND 7u

static struct {
	struct rig r;   /* its events are given this */
	uint64_t next;  /* offset of the next run of partition 1 */
	uint64_t keep;  /* from this offset on messages are live */
	uint32_t lives; /* asked */
	uint32_t renewed, left;
	uint64_t state; /* what the newest slice of (KIND, 1) says */
	uint64_t replayed_state, replayed_end;
	bool refuse_renewal, third_holds;
} w;

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	w.lives++;
	return e->end_offset > w.keep;
}

static int append_state(uint32_t kind, uint64_t item, uint64_t value)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc = thmq_log_append(w.r.log, sizeof(*run) + 8, &run, &index);

	if (rc)
		return rc;
	memset(run, 0, sizeof(*run));
	run->len = 8;
	run->partition = kind;
	run->base_offset = item;
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &value, 8);
	thmq_log_append_end(w.r.log, run, THMQ_DURABILITY_MEMORY);
	return 0;
}

static int on_renew(void *ctx, uint32_t kind, uint64_t item)
{
	int rc;

	(void)ctx;
	if (kind != KIND || item != 1)
		return 0; /* it has no meaning any more */
	if (w.refuse_renewal)
		return -EAGAIN;
	rc = append_state(kind, item, w.state);
	w.renewed += !rc;
	return rc;
}

static int on_leave(void *ctx, uint32_t partition)
{
	int rc;

	(void)ctx;
	if (partition != 1)
		return 0;
	rc = append_state(KIND + 1, partition, w.next);
	w.left += !rc;
	return rc;
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	(void)ctx;
	if (run->header->encoding != THMQ_RUN_STATE || run->header->len != 8)
		return 0;
	if (run->header->partition == KIND)
		memcpy(&w.replayed_state, run->payload, 8);
	if (run->header->partition == KIND + 1)
		memcpy(&w.replayed_end, run->payload, 8);
	return 0;
}

static void up_with(uint64_t seed, bool cleaner)
{
	memset(&w, 0, sizeof(w));
	rig_init(&w.r, seed, NULL);
	w.r.opts.segment_bytes_max = 1u << 20;
	w.r.opts.cache_bytes = 1u << 20;
	w.r.pool_bytes = 48u << 20;
	w.r.events.replay = on_replay;
	if (cleaner) {
		w.r.events.live = on_live;
		w.r.events.renew = on_renew;
		w.r.events.leave = on_leave;
	}
}

static void up(void)
{
	up_with(1, false);
	cr_assert_eq(rig_open(&w.r), 0);
}

static void down(void)
{
	rig_fini(&w.r);
}

/* So many runs of partition 1, the last one durable. */
static int fill(uint32_t runs)
{
	uint64_t index = 0;
	int rc = 0;

	while (runs-- && !rc) {
		rc = rig_append_wait(&w.r, 1, w.next, SIZE,
				     runs ? THMQ_DURABILITY_WRITTEN : THMQ_DURABILITY_DURABLE,
				     &index);
		w.next += !rc;
	}
	return rc ? rc : rig_await(&w.r, index);
}

static uint64_t bound(void)
{
	uint64_t begin = UINT64_MAX, end;

	thmq_log_bounds(w.r.log, 1, &begin, &end);
	return begin;
}

static int drop_one(void)
{
	uint64_t dropped = rig_stats(&w.r).dropped_segments;
	int rc = -EAGAIN;

	for (uint32_t i = 0; i < 1000 && rc == -EAGAIN; i++) {
		rc = thmqi_log_drop_oldest(w.r.log);
		thmqi_core_poll(w.r.core, 100000);
	}
	for (uint32_t i = 0; i < 1000 && !rc && rig_stats(&w.r).dropped_segments == dropped; i++)
		thmqi_core_poll(w.r.core, 100000);
	rig_poll(&w.r, 20);
	return rc;
}

static bool exists(const char *name)
{
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	int rc;

	cr_assert_eq(thmqi_disk_sim.dir_open(w.r.sim, RIG_DIR, false, &dir), 0);
	rc = thmqi_disk_sim.file_open(dir, name, false, &file);
	if (!rc)
		thmqi_disk_sim.file_close(file);
	thmqi_disk_sim.dir_close(dir);
	return rc == 0;
}

Test(commitlog_clean, a_dropped_segment_is_gone_and_the_rest_is_there, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t begin;

	cr_assert_eq(thmqi_log_drop_oldest(w.r.log), -ENOENT);
	cr_assert_eq(fill(60), 0);
	cr_assert_eq(bound(), 0);
	cr_assert_eq(drop_one(), 0);
	begin = bound();
	cr_assert(begin >= 16 && begin <= 18, "%llu", (unsigned long long)begin);
	cr_assert_eq(rig_read_all(&w.r, 1, begin, w.next), (int64_t)(w.next - begin));
	cr_assert_eq(thmq_log_reader_open(w.r.log, 1, NULL, NULL, &reader), 0);
	thmq_log_reader_seek(reader, begin - 1);
	cr_assert_eq(rig_read(&w.r, reader, w.next, &v), -THMQ_EOFFSETRANGE);
	thmq_log_reader_close(reader);
	cr_assert_eq(rig_stats(&w.r).begin_position, 1u << 20);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert(!exists("00000000000000000000.idx"));
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_not(exists("00000000000000000000.log"),
		      "the leftover, if it was kept to be used again, is gone");
	cr_assert_eq(bound(), begin);
	cr_assert_eq(rig_read_all(&w.r, 1, begin, w.next), (int64_t)(w.next - begin));
	cr_assert_eq(fill(40), 0);
	cr_assert_eq(drop_one(), 0);
	cr_assert(bound() > begin);
}

Test(commitlog_clean, a_dropped_file_becomes_the_next_segment_without_being_written, .init = up,
     .fini = down)
{
	uint64_t begin;

	cr_assert_eq(fill(60), 0);
	for (uint32_t i = 0; i < 12; i++) {
		cr_assert_eq(drop_one(), 0);
		cr_assert_eq(fill(18), 0);
	}
	cr_assert(rig_stats(&w.r).recycled_segments >= 8, "%llu",
		  (unsigned long long)rig_stats(&w.r).recycled_segments);
	cr_assert(rig_stats(&w.r).file_bytes <= 7u << 20);
	begin = bound();
	for (uint32_t i = 0; i < 2;
	     i++) { /* what such files held before is not taken for batches */
		cr_assert_eq(rig_read_all(&w.r, 1, begin, w.next), (int64_t)(w.next - begin));
		if (i)
			rig_close(&w.r);
		else
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_LOSE);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_stats(&w.r).torn_bytes, 0);
	}
}

Test(commitlog_clean, a_missing_first_segment_is_damage, .init = up, .fini = down)
{
	cr_assert_eq(fill(60), 0);
	cr_assert_eq(drop_one(), 0);
	rig_close(&w.r);
	rig_unlink(&w.r, "00000000000001048576.log");
	cr_assert_eq(rig_open(&w.r), -THMQ_ECORRUPT);
}

Test(commitlog_clean, what_is_read_from_a_segment_that_goes_is_read_to_its_end, .init = up,
     .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;

	cr_assert_eq(fill(60), 0);
	cr_assert_eq(thmq_log_reader_open(w.r.log, 1, NULL, NULL, &reader), 0);
	thmq_log_reader_seek(reader, 3);
	cr_assert_eq(thmq_log_read(reader, w.next, &v), 0, "it is read from the device");
	cr_assert_eq(drop_one(), 0);
	cr_assert_eq(rig_read(&w.r, reader, w.next, &v), -THMQ_EOFFSETRANGE);
	thmq_log_reader_close(reader);
}

/* Polls until nothing is cleaned any more. */
static void settle(void)
{
	uint64_t dropped;

	do {
		dropped = rig_stats(&w.r).dropped_segments;
		for (uint32_t i = 0; i < 400; i++)
			thmqi_core_poll(w.r.core, 10000000);
	} while (rig_stats(&w.r).dropped_segments != dropped);
}

Test(commitlog_clean, the_cleaner_drops_what_nobody_needs_and_keeps_states, .fini = down)
{
	uint64_t begin;

	up_with(2, true);
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 4711;
	cr_assert_eq(append_state(KIND, 1, w.state), 0);
	cr_assert_eq(append_state(KIND, 2, 1), 0);
	cr_assert_eq(fill(60), 0);
	settle();
	cr_assert_eq(rig_stats(&w.r).dropped_segments, 0, "all of it is live");
	cr_assert(w.lives > 0);
	w.keep = 40;
	settle();
	begin = bound();
	cr_assert(begin > 30 && begin <= 40, "%llu", (unsigned long long)begin);
	cr_assert_eq(w.renewed, 1, "%u", w.renewed);
	cr_assert_eq(rig_read_all(&w.r, 1, begin, w.next), (int64_t)(w.next - begin));
	for (uint32_t i = 0; i < 10; i++) { /* the slice travels with the log */
		cr_assert_eq(fill(20), 0);
		w.keep = w.next - 10;
		settle();
	}
	cr_assert(w.renewed > 3);
	cr_assert_eq(w.left, 0, "there are newer runs of it");
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 4711);
	cr_assert(rig_stats(&w.r).file_bytes <= 6u << 20);
}

Test(commitlog_clean, a_partition_that_goes_leaves_its_end, .fini = down)
{
	uint64_t index;

	up_with(3, true);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(fill(3), 0);
	for (uint64_t i = 0; i < 40; i++)
		cr_assert_eq(rig_append_wait(&w.r, 2, i, SIZE, THMQ_DURABILITY_DURABLE, &index), 0);
	w.keep = 1000;
	settle();
	cr_assert_eq(w.left, 1);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_end, 3);
	cr_assert_eq(bound(), 0, "nothing of it is held");
}

Test(commitlog_clean, what_cannot_be_written_again_keeps_its_segment, .fini = down)
{
	up_with(4, true);
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 1;
	cr_assert_eq(append_state(KIND, 1, 1), 0);
	w.refuse_renewal = true;
	w.keep = 1000;
	cr_assert_eq(fill(40), 0);
	for (uint32_t i = 0; i < 300; i++)
		thmqi_core_poll(w.r.core, 10000000);
	cr_assert_eq(rig_stats(&w.r).dropped_segments, 0);
	w.refuse_renewal = false;
	settle();
	cr_assert(rig_stats(&w.r).dropped_segments >= 2);
}

/* Of so many segments only every second one is remembered for a partition; what the others have is not forgotten. */
Test(commitlog_clean, of_many_segments_the_oldest_go_one_by_one_and_the_newest_by_truncation, .fini = down)
{
	uint64_t begin = 0, was, end, last;

	up_with(1, false);
	w.r.opts.segment_bytes_max = 1u << 20;
	cr_assert_eq(rig_open(&w.r), 0);
	while (rig_stats(&w.r).segment_count < 500) /* a list is full at some 430 */
		cr_assert_eq(fill(1), 0);
	for (uint32_t i = 0; i < 5; i++) {
		was = begin;
		cr_assert_eq(drop_one(), 0);
		begin = bound();
		cr_assert(begin > was && begin <= was + 18, "%llu after %llu", (unsigned long long)begin, (unsigned long long)was);
		cr_assert_eq(rig_read_all(&w.r, 1, begin, begin + 100), 100);
	}
	last = rig_stats(&w.r).last_index;
	for (uint32_t n = 2000; n <= 2080; n += 20) { /* batches: some 17 are a segment, and all but pads have a run */
		cr_assert_eq(thmq_log_truncate(w.r.log, last + 1 - n), 0);
		cr_assert_eq(thmq_log_bounds(w.r.log, 1, &begin, &end), 0);
		cr_assert(end >= w.next - n && end <= w.next - n * 9 / 10, "%llu of %llu", (unsigned long long)end,
			  (unsigned long long)w.next);
		cr_assert_eq(rig_read_all(&w.r, 1, end - 100, end), 100);
	}
}

Test(commitlog_clean, at_its_limit_a_log_refuses_and_goes_on_when_something_may_go, .fini = down)
{
	uint64_t index;
	int rc = 0;

	up_with(5, true);
	w.r.opts.limit_bytes = 4u << 20;
	cr_assert_eq(rig_open(&w.r), 0);
	while (!rc)
		rc = fill(1);
	cr_assert_eq(rc, -ENOSPC);
	cr_assert(rig_stats(&w.r).file_bytes <= 4u << 20);
	cr_assert_eq(rig_read_all(&w.r, 1, 0, w.next), (int64_t)w.next, "reads go on");
	w.keep = 30;
	settle();
	cr_assert_eq(rig_append_wait(&w.r, 1, w.next, SIZE, THMQ_DURABILITY_DURABLE, &index), 0);
	w.r.opts.limit_bytes = 3u << 20;
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), -EINVAL);
}

Test(commitlog_clean, at_its_limit_a_log_may_drop_its_oldest_whatever_it_is, .fini = down)
{
	up_with(6, true);
	w.r.opts.limit_bytes = 5u << 20;
	w.r.opts.full_policy = THMQ_FULL_DROP_OLDEST;
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 9;
	cr_assert_eq(append_state(KIND, 1, 9), 0);
	for (uint32_t i = 0; i < 200; i++) {
		cr_assert_eq(fill(1), 0);
		cr_assert(rig_stats(&w.r).file_bytes <= 5u << 20);
	}
	settle();
	cr_assert(bound() > 100);
	cr_assert_eq(rig_read_all(&w.r, 1, bound(), w.next), (int64_t)(w.next - bound()));
	cr_assert_eq(rig_close(&w.r), 0);
	w.replayed_state = 0;
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 9);
}

Test(commitlog_clean, writers_in_a_hurry_wait_for_the_oldest_to_go, .fini = down)
{
	up_with(7, true);
	w.r.opts.limit_bytes = 4u << 20;
	w.r.opts.full_policy = THMQ_FULL_DROP_OLDEST;
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 9;
	cr_assert_eq(append_state(KIND, 1, 9), 0);
	cr_assert_eq(fill(1000), 0);
	cr_assert(rig_stats(&w.r).file_bytes <= 5u << 20);
	settle();
	cr_assert_eq(rig_close(&w.r), 0);
	w.replayed_state = 0;
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 9);
	cr_assert(bound() > 900);
}

static void up_with_room(uint64_t seed, uint64_t bytes, int error)
{
	thmqi_disk_sim_close((up_with(seed, true), w.r.sim));
	cr_assert_eq(thmqi_disk_sim_open(seed, &(struct thmqi_disk_sim_opts){.capacity_bytes = bytes, .capacity_error = error}, &w.r.sim), 0);
}

static void the_oldest_makes_room(int error)
{
	up_with_room(8, 6u << 20, error);
	w.r.opts.full_policy = THMQ_FULL_DROP_OLDEST;
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 9;
	cr_assert_eq(append_state(KIND, 1, 9), 0);
	cr_assert_eq(fill(500), 0);
	settle();
	cr_assert_eq(rig_close(&w.r), 0);
	w.replayed_state = 0;
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 9);
	cr_assert(bound() > 300);
	cr_assert_eq(rig_read_all(&w.r, 1, bound(), w.next), (int64_t)(w.next - bound()));
}

Test(commitlog_clean, where_the_file_system_is_full_the_oldest_makes_room, .fini = down)
{
	the_oldest_makes_room(-ENOSPC);
}

Test(commitlog_clean, where_a_quota_is_used_up_the_oldest_makes_room, .fini = down)
{
	the_oldest_makes_room(-EDQUOT);
}

/* Runs of partition 1 to the last byte that the log takes. */
static void fill_up(int error)
{
	uint64_t index;
	int rc;

	for (uint32_t full = 0; full < 100;) {
		rc = rig_append_sized(&w.r, 1, w.next, 1, 3000, THMQ_DURABILITY_DURABLE, &index);
		w.next += !rc;
		full = rc == error ? full + 1 : 0;
		cr_assert(rc == 0 || rc == -EAGAIN || rc == error, "%d", rc);
		thmqi_core_poll(w.r.core, 1000000);
	}
}

/* Nothing bounds its files but the file system, and nothing goes before its states are written again. */
static void the_cleaner_has_room(int error)
{
	up_with_room(9, 5u << 20, error);
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 9;
	cr_assert_eq(append_state(KIND, 1, 9), 0);
	fill_up(error);
	w.keep = w.next;
	settle();
	cr_assert_gt(w.renewed, 0);
	cr_assert_gt(rig_stats(&w.r).dropped_segments, 2);
	cr_assert_eq(fill(40), 0);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 9);
}

Test(commitlog_clean, where_the_file_system_is_full_the_cleaner_has_room_all_the_same, .fini = down)
{
	the_cleaner_has_room(-ENOSPC);
}

Test(commitlog_clean, where_a_quota_is_used_up_the_cleaner_has_room_all_the_same, .fini = down)
{
	the_cleaner_has_room(-EDQUOT);
}

Test(commitlog_clean, runs_as_large_as_a_segment_leave_the_cleaner_its_room, .fini = down)
{
	uint64_t index;

	up_with(11, true);
	w.r.opts.batch_bytes = 1u << 20;
	w.r.opts.limit_bytes = 4u << 20;
	w.r.opts.full_policy = THMQ_FULL_DROP_OLDEST;
	cr_assert_eq(rig_open(&w.r), 0);
	w.state = 5;
	cr_assert_eq(append_state(KIND, 1, 5), 0);
	for (; w.next < 60; w.next++)
		cr_assert_eq(rig_append_wait(&w.r, 1, w.next, 1000000, THMQ_DURABILITY_DURABLE, &index), 0,
			     "run %llu", (unsigned long long)w.next);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_state, 5);
	cr_assert(bound() > 50);
}

/* ---------------------------------------------------------------- relocation */

#define RARE 2u /* a partition of a few messages that are kept */

static int on_live_rare(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	return e->partition == RARE ? THMQ_LOG_LASTS : e->end_offset > w.keep ? THMQ_LOG_LIVE : THMQ_LOG_DEAD;
}

/* Segments of partition 1, and in each a little of the rare one. Return: how many of that there are now. */
static uint64_t fill_rare(uint64_t rare, uint32_t segments)
{
	uint64_t index;

	for (uint32_t i = 0; i < segments; i++) {
		cr_assert_eq(fill(10), 0);
		for (uint32_t k = 0; k < 3; k++)
			cr_assert_eq(rig_append_wait(&w.r, RARE, rare++, 300, THMQ_DURABILITY_MEMORY, &index), 0);
		cr_assert_eq(fill(7), 0);
	}
	return rare;
}

static void read_rare(uint64_t rare)
{
	uint64_t begin, end, at;

	cr_assert_eq(thmq_log_bounds(w.r.log, RARE, &begin, &end), 0);
	cr_assert(begin == 0 && end == rare, "%llu to %llu of %llu", (unsigned long long)begin, (unsigned long long)end,
		  (unsigned long long)rare);
	for (at = 0; at < rare; at += 1 + at / 3)
		cr_assert_eq(rig_read_all(&w.r, RARE, at, rare), (int64_t)(rare - at));
}

Test(commitlog_clean, what_is_little_is_kept_by_being_appended_again, .fini = down)
{
	struct thmq_log_stats stats;
	uint64_t rare = 0;

	up_with(5, true);
	w.r.events.live = on_live_rare;
	cr_assert_eq(rig_open(&w.r), 0);
	for (uint32_t round = 0; round < 12; round++) {
		rare = fill_rare(rare, 4);
		w.keep = w.next - 5;
		settle();
		stats = rig_stats(&w.r);
		cr_assert(stats.relocated_runs > 0);
		cr_assert_leq(stats.segment_count, 5, "round %u: %u segments", round, stats.segment_count);
		cr_assert(bound() > 17);
		read_rare(rare);
		if (round % 3 == 2) {
			if (round % 2)
				cr_assert_eq(rig_close(&w.r), 0);
			else
				rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
			cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
			read_rare(rare);
		}
	}
	w.keep = w.next; /* nothing else is there any more */
	cr_assert_eq(fill(40), 0);
	w.keep = w.next;
	settle();
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	read_rare(rare);
}

/* It takes nothing more, and the little that must be kept of its oldest segments has room all the same: else it never took anything again. */
Test(commitlog_clean, a_log_that_refuses_makes_room_where_little_must_be_kept, .fini = down)
{
	uint64_t index, rare = 0;

	for (uint32_t life = 0; life < 3; life++) {
		up_with(40 + life, true);
		w.r.events.live = on_live_rare;
		w.r.opts.limit_bytes = 5u << 20;
		cr_assert_eq(rig_open(&w.r), 0);
		w.state = 9;
		cr_assert_eq(append_state(KIND, 1, 9), 0);
		for (rare = 0; rare < 20; rare++)
			cr_assert_eq(rig_append_wait(&w.r, RARE, rare, 1000, THMQ_DURABILITY_DURABLE, &index), 0);
		fill_up(-ENOSPC);
		settle();
		cr_assert_eq(rig_stats(&w.r).dropped_segments, 0, "all of it is live");
		if (life == 1) {
			cr_assert_eq(rig_close(&w.r), 0);
			cr_assert_eq(rig_open(&w.r), 0);
		}
		w.keep = w.next;
		if (life == 2) { /* the power goes while it makes room */
			for (uint32_t i = 0; i < 400 && !rig_stats(&w.r).relocated_runs; i++)
				thmqi_core_poll(w.r.core, 10000000);
			cr_assert_gt(rig_stats(&w.r).relocated_runs, 0);
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
			cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		}
		settle();
		cr_assert_gt(rig_stats(&w.r).dropped_segments, 2, "life %u", life);
		read_rare(rare);
		cr_assert_eq(fill(40), 0);
		cr_assert_eq(rig_close(&w.r), 0);
		w.replayed_state = 0;
		cr_assert_eq(rig_open(&w.r), 0);
		cr_assert_eq(w.replayed_state, 9);
		read_rare(rare);
		if (life < 2)
			down();
	}
}

/* As much of it as there is just room for, and the power goes again and again meanwhile: what was done before needs no room any more. */
Test(commitlog_clean, what_is_left_of_a_relocation_has_room_after_a_crash, .fini = down)
{
	const uint64_t all = 35;
	uint64_t index, rare, end, cut = 0;

	for (uint32_t steps = 0; steps < 12; steps++) {
		if (steps)
			down();
		up_with(60 + steps, true);
		w.r.events.live = on_live_rare;
		w.r.opts.limit_bytes = 5u << 20;
		cr_assert_eq(rig_open(&w.r), 0);
		for (rare = 0; rare < all; rare++)
			cr_assert_eq(rig_append_wait(&w.r, RARE, rare, 1000, THMQ_DURABILITY_DURABLE, &index), 0);
		fill_up(-ENOSPC);
		settle();
		cr_assert_eq(rig_stats(&w.r).dropped_segments, 0, "all of it is live");
		end = rig_stats(&w.r).end_position;
		w.keep = w.next;
		for (uint32_t i = 0; i < 4000 && !rig_stats(&w.r).relocated_runs; i++)
			thmqi_core_poll(w.r.core, 1000000);
		for (uint64_t until = thmqi_disk_sim_now(w.r.sim) + steps * 100000; thmqi_disk_sim_now(w.r.sim) < until;)
			thmqi_core_poll(w.r.core, 100000);
		cut += !rig_stats(&w.r).dropped_segments && rig_stats(&w.r).end_position > end;
		rig_crash(&w.r, steps % 2 ? THMQI_DISK_SIM_CRASH_KEEP : THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		settle();
		cr_assert_eq(fill(40), 0, "cut after %u", steps);
		read_rare(all);
	}
	cr_assert_gt(cut, 0, "one at least had copies and originals");
}

/* Nobody reads or asks for the rare partition, so that nothing but the cleaner looks at where its copies were. */
Test(commitlog_clean, copies_that_went_with_their_segments_are_not_looked_at, .fini = down)
{
	uint64_t rare = 0;

	up_with(5, true);
	w.r.events.live = on_live_rare;
	cr_assert_eq(rig_open(&w.r), 0);
	for (uint32_t round = 0; round < 12; round++) {
		rare = fill_rare(rare, 4);
		w.keep = w.next - 5;
		settle();
		if (round % 3 == 2) {
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
			cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		}
	}
	read_rare(rare);
}

/* A third of each segment is kept; the rest is, up to keep, dead. */
static int on_live_third(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	return e->partition == RARE ? (w.third_holds ? THMQ_LOG_LIVE : THMQ_LOG_MOVES) : e->end_offset > w.keep ? THMQ_LOG_LIVE : THMQ_LOG_DEAD;
}

static uint64_t fill_third(uint64_t kept, uint32_t segments)
{
	uint64_t index;

	for (uint32_t i = 0; i < segments; i++) {
		cr_assert_eq(fill(11), 0);
		for (uint32_t k = 0; k < 6; k++)
			cr_assert_eq(rig_append_wait(&w.r, RARE, kept++, SIZE, THMQ_DURABILITY_WRITTEN, &index), 0);
	}
	return kept;
}

Test(commitlog_clean, one_partition_does_not_hold_up_a_log_that_is_mostly_dead_behind_it, .fini = down)
{
	struct thmq_log_stats stats, later;
	uint64_t kept = 0, dropped = 0;

	up_with(12, true);
	w.r.events.live = on_live_third;
	w.third_holds = true;
	cr_assert_eq(rig_open(&w.r), 0);
	for (uint32_t round = 0; round < 4; round++) {
		kept = fill_third(kept, 12);
		w.keep = w.next - 5;
		settle();
		stats = rig_stats(&w.r);
		if (w.third_holds) {
			cr_assert_eq(stats.dropped_segments, 0, "it is held");
			w.third_holds = false;
			continue;
		}
		/* half of it may be dead, and a quarter as much is appended before it is looked at again; and it comes to an end */
		cr_assert_leq(stats.segment_count, kept * SIZE / (1u << 20) * 5 / 2 + 5, "round %u: %u segments", round, stats.segment_count);
		dropped += stats.dropped_segments; /* of this life */
		for (uint32_t i = 0; i < 1000; i++)
			thmqi_core_poll(w.r.core, 1000000000);
		settle();
		later = rig_stats(&w.r);
		cr_assert_leq(later.relocated_bytes - stats.relocated_bytes, 2 * kept * SIZE, "round %u: it goes round and round", round);
		read_rare(kept);
		if (round == 3)
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
		else
			cr_assert_eq(rig_close(&w.r), 0);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		read_rare(kept);
	}
	cr_assert_gt(dropped, 11, "%llu", (unsigned long long)dropped);
}

/* Return: 1 all that must be is there after a cut at the nth operation; 0 something is missing; 2 there was no cut any more. */
/* However often it is stopped before the segment goes: each run has one copy, in memory's entries or behind an index. */
Test(commitlog_clean, a_relocation_that_is_stopped_again_and_again_leaves_one_copy, .fini = down)
{
	uint64_t rare = 0, relocated = 0, first = 0;

	up_with(40, true);
	w.r.events.live = on_live_rare;
	w.refuse_renewal = true; /* so that it never goes */
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(append_state(KIND, 1, 1), 0);
	rare = fill_rare(rare, 2);
	w.keep = 25;
	for (uint32_t life = 0; life < 8; life++) {
		for (uint32_t i = 0; i < 400; i++)
			thmqi_core_poll(w.r.core, 10000000);
		cr_assert_eq(rig_stats(&w.r).dropped_segments, 0);
		relocated += rig_stats(&w.r).relocated_runs;
		first = first ? first : relocated;
		cr_assert(first > 0);
		cr_assert_eq(fill(life < 4 ? 3 : 20), 0); /* from then on they lie behind an index */
		if (life % 2)
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_LOSE);
		else
			cr_assert_eq(rig_close(&w.r), 0);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		read_rare(rare);
	}
	cr_assert_eq(relocated, first, "%llu copies of %llu runs", (unsigned long long)relocated, (unsigned long long)first);
	w.refuse_renewal = false;
	settle();
	cr_assert_gt(rig_stats(&w.r).dropped_segments, 0);
	read_rare(rare);
}

Test(commitlog_clean, a_log_left_alone_ends_a_segment_of_which_nothing_is_needed_once, .fini = down)
{
	uint64_t end;

	up_with(41, true);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(append_state(KIND, 1, 1), 0);
	cr_assert_eq(fill(3), 0);
	for (uint32_t i = 0; i < 2000; i++) /* something of it is needed */
		thmqi_core_poll(w.r.core, 1000000000);
	cr_assert_eq(rig_stats(&w.r).begin_position, 0);
	w.keep = w.next;
	for (uint32_t i = 0; i < 2000 && !rig_stats(&w.r).dropped_segments; i++)
		thmqi_core_poll(w.r.core, 1000000000);
	cr_assert_eq(rig_stats(&w.r).begin_position, 1u << 20);
	end = rig_stats(&w.r).end_position;
	for (uint32_t i = 0; i < 2000; i++)
		thmqi_core_poll(w.r.core, 1000000000);
	cr_assert_eq(rig_stats(&w.r).begin_position, 1u << 20);
	cr_assert_eq(rig_stats(&w.r).end_position, end);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(w.replayed_end, w.next);
}

static int cut_relocation(uint64_t seed, uint64_t nth, uint32_t mode, uint32_t defects)
{
	uint64_t rare = 0, begin, end;
	int64_t n;
	bool cut;

	up_with(seed + nth, true);
	w.r.events.live = on_live_rare;
	w.r.defects = defects;
	cr_assert_eq(rig_open(&w.r), 0);
	rare = fill_rare(rare, 2);
	rig_poll(&w.r, 50);
	w.keep = 25;
	thmqi_disk_sim_cut_at(w.r.sim, nth, mode);
	for (uint32_t i = 0; i < 250 && !thmqi_disk_sim_is_down(w.r.sim); i++)
		thmqi_core_poll(w.r.core, 10000000);
	cut = thmqi_disk_sim_is_down(w.r.sim);
	rig_crash(&w.r, mode);
	w.r.defects = 0;
	cr_assert_eq(rig_open(&w.r), 0, "cut %llu of mode %u: %s", (unsigned long long)nth, mode, thmq_errmsg());
	if (thmq_log_bounds(w.r.log, RARE, &begin, &end) != 0)
		begin = end = UINT64_MAX;
	n = begin ? -1 : rig_read_all(&w.r, RARE, 0, rare);
	down();
	return !cut ? 2 : n == (int64_t)rare;
}

Test(commitlog_clean, a_relocation_may_be_cut_at_any_step)
{
	for (uint32_t mode = THMQI_DISK_SIM_CRASH_LOSE; mode <= THMQI_DISK_SIM_CRASH_ANY; mode++)
		for (uint64_t nth = 1, rc = 1; rc != 2; nth++) {
			rc = (uint64_t)cut_relocation(300, nth, mode, 0);
			cr_assert(rc != 0, "cut %llu of mode %u", (unsigned long long)nth, mode);
		}
}

Test(commitlog_clean, a_segment_that_goes_too_early_is_noticed)
{
	bool noticed = false;

	for (uint64_t nth = 1, rc = 1; rc != 2 && !noticed; nth++) {
		rc = (uint64_t)cut_relocation(300, nth, THMQI_DISK_SIM_CRASH_LOSE, THMQI_LOG_EARLY_DROP);
		noticed = rc == 0;
	}
	cr_assert(noticed);
}

/* Whatever a cut leaves: nothing that is live is gone, the state says what it said, and cleaning goes on. */
Test(commitlog_clean, the_power_may_go_at_any_step)
{
	for (uint32_t mode = THMQI_DISK_SIM_CRASH_LOSE; mode <= THMQI_DISK_SIM_CRASH_ANY; mode++) {
		bool done = false;

		for (uint64_t nth = 1; !done; nth++) {
			uint64_t begin;

			up_with(100 + nth, true);
			cr_assert_eq(rig_open(&w.r), 0);
			w.state = nth;
			cr_assert_eq(append_state(KIND, 1, nth), 0);
			cr_assert_eq(fill(40), 0);
			rig_poll(&w.r, 30);
			w.keep = 30;
			thmqi_disk_sim_cut_at(w.r.sim, nth, mode);
			for (uint32_t i = 0; i < 250 && !thmqi_disk_sim_is_down(w.r.sim); i++)
				thmqi_core_poll(w.r.core, 10000000);
			done = !thmqi_disk_sim_is_down(w.r.sim);
			rig_crash(&w.r, mode);
			w.replayed_state = 0;
			w.keep = 0; /* nothing goes while it is read */
			cr_assert_eq(rig_open(&w.r), 0, "cut %llu of mode %u: %s",
				     (unsigned long long)nth, mode, thmq_errmsg());
			begin = bound();
			cr_assert(begin <= 30);
			cr_assert_eq(w.replayed_state, nth);
			cr_assert_eq(rig_read_all(&w.r, 1, begin, w.next),
				     (int64_t)(w.next - begin));
			w.keep = 30;
			settle();
			cr_assert(bound() > 10, "cleaning goes on");
			cr_assert_eq(rig_close(&w.r), 0);
			cr_assert_eq(rig_open(&w.r), 0);
			cr_assert_eq(w.replayed_state, nth);
			down();
		}
	}
}
