/* SPDX-License-Identifier: Apache-2.0 */
/* Truncation and look-ups by index, as consensus needs them. */
#include <criterion/criterion.h>

#include "commitlog/offline.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MEMORY THMQ_DURABILITY_MEMORY

#define RIG_INDEX "00000000000000000000.idx"

static struct rig r;

static void up(void)
{
	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	cr_assert_eq(rig_close(&r), 0);
	rig_fini(&r);
}

/* One batch for each run. Return: index of the last. */
static uint64_t store(uint64_t first, uint64_t count, uint32_t size)
{
	uint64_t index = 0;

	for (uint64_t i = first; i < first + count; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, size, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
	}
	return index;
}

static uint64_t held(void)
{
	uint64_t begin, end;

	return thmq_log_bounds(r.log, 1, &begin, &end) == 0 ? end : 0;
}

Test(commitlog_truncate, batches_from_an_index_on_are_gone_for_good, .init = up, .fini = down)
{
	uint64_t last = store(0, 10, 100);

	cr_assert_eq(thmq_log_truncate(r.log, last - 4), 0);
	cr_assert_eq(r.unappended, last - 4);
	cr_assert_eq(held(), 5);
	cr_assert_eq(rig_read_all(&r, 1, 0, 5), 5);
	cr_assert_eq(rig_stats(&r).last_index, last - 5);
	cr_assert_eq(rig_stats(&r).incarnation, 2);
	/* not even a power cut right then brings them back */
	rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(held(), 5);
	store(5, 3, 100);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 8), 8);
}

/* Same position, index, term, length: only the checksums of the runs tell the two batches apart. */
Test(commitlog_truncate, what_was_behind_does_not_continue_a_batch_of_the_same_shape, .init = up, .fini = down)
{
	uint64_t index = store(0, 3, 100);

	store(3, 1, 100); /* its bytes stay on the disk behind what comes instead of the third */
	cr_assert_eq(thmq_log_truncate(r.log, index), 0);
	cr_assert_eq(rig_append_wait(&r, 2, 7, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).last_index, index);
	cr_assert_eq(held(), 2);
}

#define BLOCK 4096u
#define ROUND 8u

/* Six batches of one block each behind the first, as an earlier life left them. Return: index of the last. */
static uint64_t leave_six(uint8_t image[ROUND * BLOCK])
{
	uint64_t last = store(0, 6, 100);

	cr_assert_eq(rig_stats(&r).end_position, last * BLOCK);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	rig_get(&r, RIG_SEGMENT, 0, image, ROUND * BLOCK);
	cr_assert_eq(rig_open(&r), 0);
	cr_assert_eq(held(), 6);
	return last;
}

/* Its bytes are there again, whole, and continue what is left: a device that lost a write, or a file that is used again. */
Test(commitlog_truncate, bytes_of_an_earlier_life_are_not_believed_though_they_continue_the_log, .init = up, .fini = down)
{
	static uint8_t image[ROUND * BLOCK];
	uint64_t last = leave_six(image), at = (last - 3) * BLOCK;

	cr_assert_eq(thmq_log_truncate(r.log, last - 2), 0);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	rig_put(&r, RIG_SEGMENT, at, image + at, 3 * BLOCK);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).last_index, last - 3);
	cr_assert_eq(held(), 3);
	store(3, 2, 100);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 5), 5);
	cr_assert_eq(rig_stats(&r).last_index, last - 1, "nor what lies behind the new end");
}

/* Nor if all but the chain says that it is the next one of this life. */
Test(commitlog_truncate, the_chain_alone_tells_what_is_not_the_next_batch, .init = up, .fini = down)
{
	static uint8_t image[ROUND * BLOCK];
	uint64_t last = leave_six(image), at = (last - 2) * BLOCK, index, incarnation;
	uint32_t crc;

	cr_assert_eq(thmq_log_truncate(r.log, last - 2), 0);
	cr_assert_eq(rig_append_wait(&r, 2, 7, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(index, last - 2);
	incarnation = rig_stats(&r).incarnation;
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	memcpy(image + at + 96, &incarnation, 8);
	crc = thmqi_crc32c(0, image + at + 96, 28);
	memcpy(image + at + 124, &crc, 4);
	rig_put(&r, RIG_SEGMENT, at, image + at, BLOCK);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_stats(&r).last_index, last - 2);
	cr_assert_eq(held(), 3);
}

Test(commitlog_truncate, what_is_written_anew_takes_the_place, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t last, index;

	r.opts.cache_bytes = 4096;
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	last = store(0, 10, 300);
	/* a reader with a window over what goes, and one beyond the cut */
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	thmq_log_reader_seek(reader, 0);
	for (int i = 0; i < 8; i++) {
		cr_assert_eq(rig_read(&r, reader, 10, &v), 1);
		thmq_log_view_release(r.log, &v);
	}
	cr_assert_eq(thmq_log_truncate(r.log, last - 5), 0);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 0);
	for (uint64_t i = 100; i < 110; i++) {
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, 280, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
	}
	for (uint64_t i = 100; i < 110; i++) {
		cr_assert_eq(rig_read(&r, reader, 1000, &v), 1);
		cr_assert(rig_view_ok(&v, 1, i));
		thmq_log_view_release(r.log, &v);
	}
	thmq_log_reader_close(reader);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 100, 110), 10);
}

Test(commitlog_truncate, it_reaches_back_over_segments, .init = up, .fini = down)
{
	for (uint64_t cut = 2; cut < 60; cut += 7) {
		uint64_t last = store(0, 60, 60000), index = 0; /* 1 + 2 + 4 MiB */

		cr_assert_geq(rig_stats(&r).segment_count, 3);
		cr_assert_lt(cut, last);
		cr_assert_eq(thmq_log_truncate(r.log, cut), 0);
		cr_assert_leq(held(), cut - 2); /* pads have an index too */
		cr_assert_eq(rig_read_all(&r, 1, 0, held()), (int64_t)held());
		cr_assert_eq(rig_append_wait(&r, 1, 60, 60000, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		if (cut % 2)
			rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
		else
			cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(held(), 61, "cut %llu: %llu", (unsigned long long)cut, (unsigned long long)held());
		/* begin anew */
		down();
		up();
	}
}

/* It says so, has changed nothing, and can be done once the log was opened anew. */
static void refused_for_damage(const char *name, uint64_t section, uint64_t cut)
{
	static uint8_t sector[512];
	uint64_t at = 0;

	cr_assert_eq(rig_close(&r), 0);
	if (section) { /* its place in the file, by the header */
		rig_get(&r, name, 0, sector, 512);
		memcpy(&at, sector + 96 + (section - 1) * 32 + 8, 8);
	}
	cr_assert_eq(rig_open(&r), 0);
	rig_get(&r, name, at, sector, 512); /* at an open that one is not read, or was good still */
	sector[6] ^= 1;
	rig_put(&r, name, at, sector, 512);
	cr_assert_eq(thmq_log_truncate(r.log, cut), -THMQ_ECORRUPT);
	cr_assert_not_null(strstr(thmq_errmsg(), "index"), "%s", thmq_errmsg());
	cr_assert_eq(r.unappended, 0);
	cr_assert_eq(r.failed, 0);
	cr_assert_eq(held(), 60);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 60), 60);
	cr_assert_eq(thmq_log_truncate(r.log, cut), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, held()), (int64_t)held());
	cr_assert_geq(held(), cut - 4);
	cr_assert_leq(held(), cut - 2);
	store(held(), 3, 100);
}

/* Batches of 60 KB: the first segment, of 1 MiB, ends with the 17th, the second, of 2 MiB, about thirty behind. */
Test(commitlog_truncate, a_damaged_index_is_reported_and_changes_nothing)
{
	static const uint64_t sections[] = {0, 3, 6, 8}; /* the header, partitions, batches, runs */

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(sections); i++) {
		up();
		store(0, 60, 60000);
		rig_poll(&r, 300);
		refused_for_damage("00000000000001048576.idx", sections[i], 40);
		down();
	}
	up(); /* the one before the cut: where the partition ended there */
	store(0, 60, 60000);
	rig_poll(&r, 300);
	refused_for_damage(RIG_INDEX, 3, 40);
	down();
}

Test(commitlog_truncate, what_is_only_formed_goes_too, .init = up, .fini = down)
{
	uint64_t last = store(0, 3, 100), index;

	cr_assert_eq(rig_append(&r, 1, 3, MEMORY, &index), 0);
	cr_assert_eq(index, last + 1);
	cr_assert_eq(thmq_log_truncate(r.log, index), 0);
	cr_assert_eq(held(), 3);
	store(3, 1, 100);
	cr_assert_eq(rig_read_all(&r, 1, 0, 4), 4);
}

Test(commitlog_truncate, an_index_that_is_not_there_is_refused, .init = up, .fini = down)
{
	struct thmq_run_header *run;
	uint64_t last = store(0, 3, 100), index;

	cr_assert_eq(thmq_log_truncate(r.log, 0), -EINVAL);
	cr_assert_eq(thmq_log_truncate(r.log, 1), -EINVAL);
	cr_assert_eq(thmq_log_truncate(r.log, last + 1), -EINVAL);
	cr_assert_eq(thmq_log_append(r.log, 200, &run, &index), 0);
	cr_assert_eq(thmq_log_truncate(r.log, last), -EINVAL, "a run is being filled");
	thmq_log_append_abort(r.log);
	cr_assert_eq(thmq_log_truncate(r.log, last), 0);
}

Test(commitlog_truncate, cut_at_any_moment_it_happened_or_not)
{
	bool done = false;

	for (uint64_t step = 1; !done && step < 40; step++) {
		for (uint64_t seed = 1; seed <= 8; seed++) {
			uint64_t last;
			int rc;

			rig_init(&r, seed, NULL);
			cr_assert_eq(rig_open(&r), 0);
			last = store(0, 10, 5000);
			rig_poll(&r, 300);
			thmqi_disk_sim_cut_at(r.sim, step, THMQI_DISK_SIM_CRASH_SEEDED);
			rc = thmq_log_truncate(r.log, last - 4);
			if (rc == 0 && !thmqi_disk_sim_is_down(r.sim))
				done = true;
			rig_crash(&r, THMQI_DISK_SIM_CRASH_SEEDED);
			cr_assert_eq(rig_open(&r), 0, "step %llu: %s", (unsigned long long)step, thmq_errmsg());
			cr_assert(held() == 5 || (rc && held() == 10), "step %llu rc %d: %llu",
				  (unsigned long long)step, rc, (unsigned long long)held());
			cr_assert_eq(rig_read_all(&r, 1, 0, held()), (int64_t)held());
			store(held(), 5, 100);
			rig_fini(&r);
		}
	}
	cr_assert(done);
}

Test(commitlog_truncate, a_batch_is_found_by_its_index, .init = up, .fini = down)
{
	uint64_t last = store(0, 60, 60000), position, term, before = 0;

	for (int life = 0; life < 2; life++) {
		cr_assert_eq(thmq_log_find_index(r.log, 1, &position, &term), 0);
		cr_assert_eq(position, 0);
		cr_assert_eq(term, 1);
		before = 0;
		for (uint64_t i = 2; i <= last; i++) {
			cr_assert_eq(thmq_log_find_index(r.log, i, &position, &term), 0);
			cr_assert_gt(position, before);
			before = position;
		}
		cr_assert_eq(thmq_log_find_index(r.log, last + 1, &position, &term), -ENOENT);
		cr_assert_eq(thmq_log_find_index(r.log, 0, &position, &term), -ENOENT);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(rig_open(&r), 0);
	}
}

/* As a copy's is that others have contradicted: what was read of it meanwhile says nothing. */
Test(commitlog_truncate, who_copies_a_log_that_is_opened_anew_meanwhile_is_told, .init = up, .fini = down)
{
	struct thmqi_log_snapshot snap, good;

	store(0, 10, 100);
	cr_assert_eq(thmqi_log_snapshot_take(r.log, &snap), 0);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, &snap), -ECANCELED);
	cr_assert_eq(thmqi_log_snapshot_take(r.log, &good), 0);
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, &good), 0);
}
