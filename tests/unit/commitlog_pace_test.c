/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a backlog is read: without limit while nobody waits for a write, else by what the writes bear. The time is made up. */
#include <criterion/criterion.h>

#include "../../lib/commitlog/internal.h"
#include "commitlog_rig.h"

#define PIECE (128u << 10)
#define MSEC 1000000u
#define MIB (1ull << 20)

static struct rig r;
static struct flight flight;

static void up(void)
{
	rig_init(&r, 5, NULL);
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	rig_fini(&r);
}

static void pass(uint64_t ns)
{
	r.core->now_ns += ns;
}

/* One write of @ns; @beside: with a read beside it. */
static void write_one(uint64_t ns, bool beside)
{
	r.log->pace.reading += beside;
	thmqi_pace_write(r.log, &flight);
	pass(ns);
	thmqi_pace_written(r.log, &flight);
	r.log->pace.reading -= beside;
}

Test(commitlog_pace, without_writes_there_is_no_limit, .init = up, .fini = down)
{
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert(thmqi_pace_read(r.log, 1u << 20));
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), 1u << 20);
	write_one(MSEC, false);
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), PIECE);
	pass(100 * MSEC); /* and none since */
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), 1u << 20);
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert(thmqi_pace_read(r.log, 1u << 20));
}

Test(commitlog_pace, while_a_write_is_waited_for_reads_are_one_at_a_time_and_so_many_a_second,
     .init = up, .fini = down)
{
	uint64_t bytes = 0, begin;

	thmqi_pace_write(r.log, &flight);
	r.log->pace.reading = 1;
	cr_assert_not(thmqi_pace_read(r.log, PIECE));
	r.log->pace.reading = 0;
	begin = r.core->now_ns;
	while (r.core->now_ns - begin < 1000ull * MSEC) {
		while (thmqi_pace_read(r.log, PIECE))
			bytes += PIECE;
		cr_assert(thmqi_timer_is_running(
			&r.log->pace.timer)); /* who was refused is called again */
		thmqi_timer_stop(r.core, &r.log->pace.timer);
		pass(MSEC);
	}
	cr_assert_geq(bytes, 60 * MIB);
	cr_assert_leq(bytes, 68 * MIB);
	thmqi_pace_written(r.log, &flight);
}

Test(commitlog_pace, the_rate_follows_from_what_writes_take, .init = up, .fini = down)
{
	uint64_t was = r.log->pace.rate;

	for (uint32_t i = 0; i < 1000; i++)
		write_one(MSEC + i % 100 * 1000, false);
	cr_assert_eq(r.log->pace.rate, was); /* these tell what is usual */
	cr_assert_geq(r.log->pace.usual_ns, MSEC);
	cr_assert_leq(r.log->pace.usual_ns, MSEC * 3 / 2);
	for (uint32_t i = 0; i < 1000; i++)
		write_one(MSEC, true);
	cr_assert_eq(r.log->pace.rate, 1024 * MIB); /* they bear it: there is an end all the same */
	write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 512 * MIB);
	for (uint32_t i = 0; i < 100; i++)
		write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 32 * MIB); /* who is far behind gets on */
	write_one(4 * MSEC, false);
	cr_assert_eq(r.log->pace.rate, 32 * MIB);
}

/* A reader of a backlog beside writes gets all of it, in small pieces. */
Test(commitlog_pace, a_backlog_is_read_beside_writes, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index = 0, at = 0, next = 1000000;

	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 400; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 20000, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	for (uint32_t i = 0; i < 100000 && at < 400; i++) {
		int rc = thmq_log_read(reader, UINT64_MAX, &v);

		if (rc == 1) {
			cr_assert(rig_view_ok(&v, 1, at));
			at++;
			thmq_log_view_release(r.log, &v);
			continue;
		}
		cr_assert_eq(rc, 0);
		if (r.durable >= index)
			cr_assert_eq(rig_append(&r, 2, next++, THMQ_DURABILITY_DURABLE, &index), 0);
		thmqi_core_poll(r.core, 1000000);
		cr_assert_leq(r.log->pace.reading, 2);
	}
	cr_assert_eq(at, 400);
	thmq_log_reader_close(reader);
}
