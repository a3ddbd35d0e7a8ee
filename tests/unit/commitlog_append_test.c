/* SPDX-License-Identifier: Apache-2.0 */
/* A log's ordinary life on a simulated disk: append, settle, read, close, open; segments; group commit; the mark. */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define WRITTEN THMQ_DURABILITY_WRITTEN
#define MEMORY THMQ_DURABILITY_MEMORY

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
	cr_assert_not(r.unordered);
}

static void reopen(void)
{
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
}

Test(commitlog_append, what_is_appended_settles_and_is_read_and_is_there_after_reopening, .init = up, .fini = down)
{
	uint64_t index = 0;

	for (uint64_t i = 0; i < 100; i++)
		cr_assert_eq(rig_append(&r, 7, i, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_geq(r.written, index);
	cr_assert_eq(rig_read_all(&r, 7, 0, 100), 100);
	reopen();
	cr_assert_eq(r.replayed_runs, 101); /* with the one of the first batch */
	cr_assert_eq(rig_read_all(&r, 7, 0, 100), 100);
	cr_assert_eq(rig_stats(&r).unclean, 0);
	cr_assert_eq(rig_stats(&r).term, 2);
}

Test(commitlog_append, runs_of_the_batch_being_formed_are_read, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index;

	cr_assert_eq(thmq_log_reader_open(r.log, 3, NULL, NULL, &reader), 0);
	cr_assert_eq(thmq_log_read(reader, 1000, &v), 0);
	for (uint64_t i = 0; i < 50; i++) {
		cr_assert_eq(rig_append(&r, 3, i, MEMORY, &index), 0);
		cr_assert_eq(thmq_log_read(reader, i, &v), 0, "not below its end");
		cr_assert_eq(thmq_log_read(reader, i + 1, &v), 1);
		cr_assert(rig_view_ok(&v, 3, i));
		cr_assert_eq(v.run.index, index);
		thmq_log_view_release(r.log, &v);
		if (i % 7 == 0)
			rig_poll(&r, 1);
	}
	thmq_log_reader_close(reader);
}

Test(commitlog_append, a_view_outlives_the_sealing_of_its_batch, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index;

	cr_assert_eq(rig_append(&r, 3, 0, DURABLE, &index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 3, NULL, NULL, &reader), 0);
	cr_assert_eq(thmq_log_read(reader, 1, &v), 1);
	cr_assert_eq(rig_await(&r, index), 0);
	for (uint64_t i = 1; i < 100; i++)
		cr_assert_eq(rig_append(&r, 3, i, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert(rig_view_ok(&v, 3, 0));
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
}

Test(commitlog_append, an_aborted_append_leaves_nothing, .init = up, .fini = down)
{
	struct thmq_run_header *run;
	uint64_t index;

	/* a small one first: its buffer is too small for the next */
	for (uint32_t len = 100; len <= 200000; len *= 10) {
		cr_assert_eq(thmq_log_append(r.log, len, &run, &index), 0);
		memset(run, 0xee, len);
		thmq_log_append_abort(r.log);
	}
	cr_assert_eq(thmq_log_append(r.log, (256u << 10) - 128, &run, &index), 0);
	memset(run, 0xee, (256u << 10) - 128);
	thmq_log_append_abort(r.log);
	rig_poll(&r, 5);
	cr_assert_eq(rig_stats(&r).last_index, 1);
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(index, 2);
	cr_assert_eq(rig_read_all(&r, 1, 0, 1), 1);
}

Test(commitlog_append, wrong_lengths_and_two_at_once_are_refused, .init = up, .fini = down)
{
	struct thmq_run_header *run, *other;
	uint64_t index;

	cr_assert_eq(thmq_log_append(r.log, 95, &run, &index), -EINVAL);
	cr_assert_eq(thmq_log_append(r.log, (256u << 10) - 127, &run, &index), -EMSGSIZE);
	cr_assert_eq(thmq_log_append(r.log, UINT32_MAX, &run, &index), -EMSGSIZE);
	cr_assert_eq(thmq_log_append(r.log, 96, &run, &index), 0);
	cr_assert_eq(thmq_log_append(r.log, 96, &other, &index), -EINVAL);
	rig_fill(run, 1, 0, 1, 0);
	thmq_log_append_end(r.log, run, DURABLE);
	cr_assert_eq(rig_await(&r, index), 0);
}

Test(commitlog_append, a_run_may_be_shorter_than_its_room_and_never_longer, .init = up, .fini = down)
{
	struct thmq_run_header *run;
	uint64_t index;

	cr_assert_eq(thmq_log_append(r.log, 96 + 1000, &run, &index), 0);
	rig_fill(run, 1, 0, 1, 13);
	thmq_log_append_end(r.log, run, DURABLE);
	cr_assert_eq(thmq_log_append(r.log, 96 + 20, &run, &index), 0);
	rig_fill(run, 1, 1, 1, 20);
	run->len = 5000;
	thmq_log_append_end(r.log, run, DURABLE);
	cr_assert_eq(rig_append(&r, 1, 2, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	reopen();
	cr_assert_eq(rig_read_all(&r, 1, 0, 3), 3);
}

Test(commitlog_append, what_arrives_while_writes_are_in_flight_shares_the_next_one, .init = up, .fini = down)
{
	uint64_t index = 0, before = rig_stats(&r).batches;

	/* each poll lets one iteration happen: two small writes go at once, the rest waits and goes together */
	for (uint64_t i = 0; i < 200; i++) {
		cr_assert_eq(rig_append(&r, 1, i, DURABLE, &index), 0);
		thmqi_core_poll(r.core, 0);
	}
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_leq(rig_stats(&r).batches - before, 40);
	cr_assert_eq(rig_read_all(&r, 1, 0, 200), 200);
}

Test(commitlog_append, messages_of_weaker_rungs_are_written_and_told_so, .init = up, .fini = down)
{
	uint64_t index;

	cr_assert_eq(rig_append(&r, 1, 0, WRITTEN, &index), 0);
	for (int i = 0; i < 200 && r.written < index; i++)
		thmqi_core_poll(r.core, 100000);
	cr_assert_eq(r.written, index);
	cr_assert_lt(r.durable, index, "nobody asked for that yet");
	/* a second without appends makes it durable all the same, and moves the mark */
	for (int i = 0; i < 30; i++)
		thmqi_core_poll(r.core, 100000000);
	cr_assert_eq(r.durable, index);
}

Test(commitlog_append, a_durable_batch_behind_plain_ones_is_flushed_for_all, .init = up, .fini = down)
{
	uint64_t index = 0, plain = 0;

	for (uint64_t i = 0; i < 10; i++) {
		cr_assert_eq(rig_append(&r, 1, i, MEMORY, &plain), 0);
		rig_poll(&r, 1);
	}
	cr_assert_eq(rig_append(&r, 1, 10, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	/* all of it survives the loss of everything volatile */
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 11), 11);
}

Test(commitlog_append, flush_makes_all_so_far_durable, .init = up, .fini = down)
{
	uint64_t index = 0, upto = 0;

	cr_assert_eq(rig_append(&r, 1, 0, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_flush(r.log, &upto), 0);
	cr_assert_eq(upto, index);
	cr_assert_eq(rig_await(&r, upto), 0);
	cr_assert_eq(rig_append(&r, 1, 1, MEMORY, &index), 0);
	rig_poll(&r, 50); /* written by now */
	cr_assert_lt(r.durable, index);
	cr_assert_eq(thmq_log_flush(r.log, &upto), 0);
	cr_assert_eq(upto, index);
	cr_assert_eq(rig_await(&r, upto), 0);
	cr_assert_eq(thmq_log_flush(r.log, &upto), 0);
	cr_assert_eq(upto, 0, "nothing new");
}

Test(commitlog_append, segments_follow_one_another_and_double, .init = up, .fini = down)
{
	uint64_t index = 0, i;

	for (i = 0; i < 400; i++)
		cr_assert_eq(rig_append_wait(&r, (uint32_t)(i % 3), i / 3, 50000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_geq(rig_stats(&r).segment_count, 6); /* 1 + 2 + 4 + 4 + 4 + 4 MiB */
	cr_assert_eq(r.checkpoints, rig_stats(&r).segment_count - 1);
	for (uint32_t p = 0; p < 3; p++)
		cr_assert_eq(rig_read_all(&r, p, 0, (400 - p + 2) / 3), (400 - p + 2) / 3);
	reopen();
	for (uint32_t p = 0; p < 3; p++)
		cr_assert_eq(rig_read_all(&r, p, 0, (400 - p + 2) / 3), (400 - p + 2) / 3);
}

Test(commitlog_append, a_log_goes_on_where_it_ended, .init = up, .fini = down)
{
	uint64_t index = 0, i = 0;

	for (int life = 0; life < 6; life++) {
		for (int n = 0; n < 30; n++, i++)
			cr_assert_eq(rig_append_wait(&r, 5, i, 20000, n % 3 ? DURABLE : MEMORY, &index), 0);
		if (life % 2)
			cr_assert_eq(rig_await(&r, index), 0);
		reopen();
		cr_assert_eq(rig_read_all(&r, 5, 0, i), (int64_t)i);
	}
	cr_assert_eq(rig_stats(&r).incarnation, 7);
}

Test(commitlog_append, a_full_pipe_says_again_and_then_that_there_is_room, .init = up, .fini = down)
{
	uint64_t index = 0, i = 0;
	int rc = 0;

	while (rc == 0 && i < 1000) {
		rc = rig_append_sized(&r, 1, i, 1, 60000, DURABLE, &index);
		i += rc == 0;
	}
	cr_assert_eq(rc, -EAGAIN);
	cr_assert_eq(r.rooms, 0, "not inside the call");
	for (int n = 0; n < 1000 && !r.rooms; n++)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_gt(r.rooms, 0);
	cr_assert_eq(rig_append_wait(&r, 1, i, 60000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
}

Test(commitlog_append, an_owner_may_append_outside_of_the_loop_and_then_sleep_in_it, .init = up, .fini = down)
{
	uint64_t index;

	rig_poll(&r, 100); /* all is quiet */
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	for (int i = 0; i < 3 && r.durable < index; i++)
		thmqi_core_poll(r.core, 500000000);
	cr_assert_eq(r.durable, index);
}

Test(commitlog_append, times_and_bounds_are_found, .init = up, .fini = down)
{
	uint64_t index, begin, end, offset;

	cr_assert_eq(thmq_log_bounds(r.log, 2, &begin, &end), -ENOENT);
	cr_assert_eq(rig_find_time(&r, 2, 0, &offset), -ENOENT);
	for (uint64_t i = 100; i < 400; i++)
		cr_assert_eq(rig_append_wait(&r, 2, i, 100, MEMORY, &index), 0);
	cr_assert_eq(thmq_log_bounds(r.log, 2, &begin, &end), 0);
	cr_assert_eq(begin, 100);
	cr_assert_eq(end, 400);
	for (int64_t t = 1000; t < 4000; t += 33) {
		cr_assert_eq(rig_find_time(&r, 2, t, &offset), t <= 3990 ? 0 : -ENOENT);
		cr_assert_eq(offset, (uint64_t)(t + 9) / 10);
	}
	cr_assert_eq(rig_find_time(&r, 2, 3991, &offset), -ENOENT);
}

Test(commitlog_append, offsets_may_have_gaps_and_runs_many_messages, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index;

	cr_assert_eq(rig_append_sized(&r, 1, 10, 5, 500, DURABLE, &index), 0);  /* 10 … 14 */
	cr_assert_eq(rig_append_sized(&r, 1, 1000, 2, 50, DURABLE, &index), 0); /* 1000, 1001 */
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	static const struct {
		uint64_t sought, found;
	} cases[] = {{0, 10}, {10, 10}, {12, 10}, {14, 10}, {15, 1000}, {999, 1000}, {1001, 1000}};
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(cases); i++) {
		thmq_log_reader_seek(reader, cases[i].sought);
		cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 1);
		cr_assert_eq(v.run.header->base_offset, cases[i].found);
		thmq_log_view_release(r.log, &v);
	}
	/* beyond the end: not what comes below it */
	thmq_log_reader_seek(reader, 1010);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 0);
	cr_assert_eq(rig_append_sized(&r, 1, 1002, 1, 50, DURABLE, &index), 0);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 0);
	cr_assert_eq(rig_append_sized(&r, 1, 1005, 10, 50, DURABLE, &index), 0);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 1);
	cr_assert_eq(v.run.header->base_offset, 1005);
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
}

Test(commitlog_append, state_slices_are_replayed_and_not_found_by_offset, .init = up, .fini = down)
{
	struct thmq_run_header *run;
	uint64_t index, begin, end;

	cr_assert_eq(thmq_log_append(r.log, 96 + 8, &run, &index), 0);
	rig_fill(run, 1, 0, 1, 8);
	run->encoding = THMQ_RUN_STATE;
	thmq_log_append_end(r.log, run, DURABLE);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), -ENOENT);
	reopen();
	cr_assert_eq(r.replayed_runs, 2);
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), -ENOENT);
}

Test(commitlog_append, a_forgotten_partition_is_gone_and_may_come_again, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index, begin, end;

	for (uint64_t i = 0; i < 300; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 40, DURABLE, &index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 1);
	thmq_log_view_release(r.log, &v);
	thmq_log_forget(r.log, 1);
	thmq_log_forget(r.log, 1);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 0);
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), -ENOENT);
	cr_assert_eq(rig_append(&r, 1, 300, DURABLE, &index), 0);
	cr_assert_eq(thmq_log_read(reader, UINT64_MAX, &v), 1);
	cr_assert_eq(v.run.header->base_offset, 300);
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
}

Test(commitlog_append, a_reader_may_be_closed_behind_its_log, .init = up)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	cr_assert_eq(thmq_log_close(r.log, 0), 0);
	r.log = NULL;
	cr_assert_eq(thmq_log_read(reader, 1, &v), 0);
	thmq_log_reader_close(reader);
	rig_fini(&r);
}

Test(commitlog_append, many_quiet_partitions_cost_little)
{
	uint64_t index = 0;

	rig_init(&r, 1, NULL);
	r.opts.cache_bytes = 1u << 20;
	cr_assert_eq(rig_open(&r), 0);
	for (uint32_t p = 0; p < 20000; p++)
		for (uint64_t i = 0; i < 3; i++)
			cr_assert_eq(rig_append_wait(&r, p, i, 40, MEMORY, &index), 0);
	cr_assert_eq(rig_read_all(&r, 19999, 0, 3), 3);
	cr_assert_eq(rig_read_all(&r, 0, 0, 3), 3);
	down();
}

Test(commitlog_append, options_out_of_bounds_are_refused)
{
	struct thmq_log *log;

	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_env(&r), 0);
	struct thmq_log_opts bad[] = {
		{.size = sizeof(bad[0]), .dir = "x", .flags = 0x80000000u},
		{.size = sizeof(bad[0]), .dir = "x", .segment_bytes_min = 3u << 20},
		{.size = sizeof(bad[0]), .dir = "x", .segment_bytes_min = 1u << 19},
		{.size = sizeof(bad[0]), .dir = "x", .segment_bytes_max = 2ull << 30},
		{.size = sizeof(bad[0]), .dir = "x", .segment_bytes_min = 4u << 20, .segment_bytes_max = 2u << 20},
		{.size = sizeof(bad[0]), .dir = "x", .batch_bytes = 4097},
		{.size = sizeof(bad[0]), .dir = "x", .batch_bytes = 8u << 20},
		{.size = sizeof(bad[0]), .dir = "x", .write_depth = 65},
		{.size = 4, .dir = "x"},
	};
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(bad); i++)
		cr_assert_eq(thmq_log_open(r.core, &bad[i], &log), -EINVAL, "case %u", i);
	cr_assert_eq(thmq_log_open(NULL, &bad[0], &log), -EINVAL);
	bad[0].flags = THMQ_LOG_NO_CREATE;
	cr_assert_eq(thmq_log_open(r.core, &bad[0], &log), -ENOENT);
	rig_fini(&r);
}
