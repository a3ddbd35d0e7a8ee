/* SPDX-License-Identifier: Apache-2.0 */
/* A log without a directory: a ring in memory whose oldest batches go. */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

#define MEMORY THMQ_DURABILITY_MEMORY

static struct rig r;

static void up(void)
{
	rig_init(&r, 1, NULL);
	r.opts.dir = NULL;
	r.opts.cache_bytes = 1u << 20;
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	cr_assert_eq(rig_close(&r), 0);
	rig_fini(&r);
}

Test(commitlog_volatile, what_is_appended_is_read_at_once, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index;

	cr_assert_eq(thmq_log_reader_open(r.log, 0, NULL, NULL, &reader), 0);
	for (uint64_t i = 0; i < 50000; i++) {
		cr_assert_eq(rig_append(&r, 0, i, MEMORY, &index), 0);
		cr_assert_eq(thmq_log_read(reader, i + 1, &v), 1);
		cr_assert(rig_view_ok(&v, 0, i));
		thmq_log_view_release(r.log, &v);
		cr_assert_eq(thmq_log_read(reader, i + 1, &v), 0);
	}
	thmq_log_reader_close(reader);
	cr_assert_eq(rig_stats(&r).disk_engine, 0);
}

Test(commitlog_volatile, the_oldest_go_when_it_is_full_and_the_memory_is_bounded, .init = up, .fini = down)
{
	uint64_t index, begin, end;

	for (uint64_t i = 0; i < 100000; i++) {
		cr_assert_eq(rig_append_sized(&r, 0, i, 1, 100, MEMORY, &index), 0);
		cr_assert_leq(rig_stats(&r).cache_bytes, 1u << 20);
	}
	cr_assert_eq(thmq_log_bounds(r.log, 0, &begin, &end), 0);
	cr_assert_eq(end, 100000);
	cr_assert_geq((end - begin) * 200, 700u << 10, "most of the ring is messages");
	cr_assert_eq(rig_read_all(&r, 0, begin, end), (int64_t)(end - begin));
}

Test(commitlog_volatile, a_reader_that_fell_behind_is_told_and_seeks_again, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v, held;
	uint64_t index, begin, end;

	cr_assert_eq(thmq_log_reader_open(r.log, 0, NULL, NULL, &reader), 0);
	for (uint64_t i = 0; i < 100; i++)
		cr_assert_eq(rig_append_sized(&r, 0, i, 1, 100, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_read(reader, 100, &held), 1);
	for (uint64_t i = 100; i < 50000; i++)
		cr_assert_eq(rig_append_sized(&r, 0, i, 1, 100, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_read(reader, 50000, &v), -THMQ_EOFFSETRANGE);
	cr_assert_eq(thmq_log_read(reader, 50000, &v), -THMQ_EOFFSETRANGE);
	cr_assert(rig_view_ok(&held, 0, 0), "what is held stays");
	thmq_log_view_release(r.log, &held);
	thmq_log_reader_seek(reader, 17);
	cr_assert_eq(thmq_log_read(reader, 50000, &v), -THMQ_EOFFSETRANGE);
	cr_assert_eq(thmq_log_bounds(r.log, 0, &begin, &end), 0);
	thmq_log_reader_seek(reader, begin);
	cr_assert_eq(thmq_log_read(reader, 50000, &v), 1);
	cr_assert(rig_view_ok(&v, 0, begin));
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
}

Test(commitlog_volatile, a_partition_that_fell_out_wholly_is_told_of, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index, begin, end;

	for (uint64_t i = 0; i < 10; i++)
		cr_assert_eq(rig_append(&r, 1, i, MEMORY, &index), 0);
	for (uint64_t i = 0; i < 50000; i++)
		cr_assert_eq(rig_append_sized(&r, 2, i, 1, 100, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	thmq_log_reader_seek(reader, 3);
	cr_assert_eq(thmq_log_read(reader, 10, &v), -THMQ_EOFFSETRANGE);
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), -ENOENT);
	thmq_log_reader_seek(reader, 10);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 0);
	cr_assert_eq(rig_append(&r, 1, 10, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 1);
	cr_assert(rig_view_ok(&v, 1, 10));
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
}

Test(commitlog_volatile, many_partitions_share_one_ring, .init = up, .fini = down)
{
	uint64_t index, begin, end;

	for (uint64_t i = 0; i < 60000; i++)
		cr_assert_eq(rig_append_sized(&r, (uint32_t)(i % 50), i / 50, 1, 100, MEMORY, &index), 0);
	for (uint32_t p = 0; p < 50; p++) {
		cr_assert_eq(thmq_log_bounds(r.log, p, &begin, &end), 0);
		cr_assert_eq(end, 1200);
		cr_assert_eq(rig_read_all(&r, p, begin, end), (int64_t)(end - begin));
	}
}

Test(commitlog_volatile, messages_larger_than_a_usual_batch_fit, .init = up, .fini = down)
{
	uint64_t index;

	for (uint64_t i = 0; i < 40; i++)
		cr_assert_eq(rig_append_sized(&r, 0, i, 1, (uint32_t)(1000 + i * 6000), MEMORY, &index), 0);
	cr_assert_eq(rig_read_all(&r, 0, 38, 40), 2);
}

Test(commitlog_volatile, what_needs_a_directory_is_refused, .init = up, .fini = down)
{
	uint64_t index, position, term;

	cr_assert_eq(rig_append(&r, 0, 0, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_truncate(r.log, 1), -EINVAL);
	cr_assert_eq(thmq_log_find_index(r.log, 1, &position, &term), -ENOENT);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
}
