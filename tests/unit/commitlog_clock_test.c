/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times that do not rise: a clock that is set back, a producer that sends from the far future. Look-ups by time find the first
 * run all the same, and nothing but the segment with such a message is taken for as young as it says.
 */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

TestSuite(commitlog_clock, .timeout = 60);

#define SIZE 20000u /* of a run: some 50 in a segment */
#define RUNS 400u
#define FUTURE 4000000000000000000
#define LATE 7u /* offset of the message from there */

static struct rig r;
static int64_t times[RUNS];
static uint32_t asked, young;

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	asked++;
	young += e->begin_offset > LATE && e->last_time_ns == FUTURE;
	return THMQ_LOG_DEAD;
}

static void up(void)
{
	rig_init(&r, 3, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.cache_bytes = 64u << 10;
}

static void down(void)
{
	rig_fini(&r);
}

static uint64_t put(uint64_t offset, int64_t time_ns)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(r.log, sizeof(*run) + SIZE, &run, &index)) == -EAGAIN)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_eq(rc, 0);
	rig_fill(run, 1, offset, 1, SIZE);
	run->first_time_ns = run->last_time_ns = time_ns;
	cr_assert_eq(thmq_log_append_end(r.log, run, THMQ_DURABILITY_MEMORY), 0);
	times[offset] = time_ns;
	return index;
}

static void settle(uint64_t index)
{
	uint64_t flushed;

	cr_assert_eq(thmq_log_flush(r.log, &flushed), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 400);
}

static void expect_time(int64_t time_ns)
{
	uint64_t offset = UINT64_MAX, i = 0;
	int rc = rig_find_time(&r, 1, time_ns, &offset);

	while (i < RUNS && times[i] < time_ns)
		i++;
	cr_assert_eq(rc, i < RUNS ? 0 : -ENOENT);
	if (i < RUNS)
		cr_assert_eq(offset, i, "time %lld: %llu, not %llu", (long long)time_ns,
			     (unsigned long long)offset, (unsigned long long)i);
}

/* Hours forward, and then back to where it was: three times, in the midst of segments. */
Test(commitlog_clock, a_clock_that_is_set_back_hides_nothing, .init = up, .fini = down)
{
	uint64_t index = 0;

	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < RUNS; i++) {
		index = put(i, (int64_t)(i % 130 * 1000 + i / 130 * 10));
		if (i % 40 == 0)
			for (int64_t t = 0; t < 131000;
			     t += 6500) { /* in memory, while the first of them get their index */
				uint64_t offset = UINT64_MAX, first = 0;
				int rc = rig_find_time(&r, 1, t, &offset);

				while (first <= i && times[first] < t)
					first++;
				cr_assert_eq(rc, first <= i ? 0 : -ENOENT);
				cr_assert(first > i || offset == first);
			}
	}
	settle(index);
	cr_assert_gt(rig_stats(&r).end_position >> 20, 4);
	for (uint32_t life = 0; life < 2; life++) {
		for (int64_t t = 0; t < 131000; t += 990)
			expect_time(t);
		expect_time(INT64_MAX);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(rig_open(&r), 0);
	}
}

Test(commitlog_clock, a_message_of_the_far_future_keeps_no_segment_but_its_own, .init = up,
     .fini = down)
{
	uint64_t index = 0;

	r.events.live = on_live;
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < RUNS; i++)
		index = put(i, i == LATE ? FUTURE : (int64_t)i * 1000);
	settle(index);
	for (uint32_t i = 0; i < 100000 && asked < 5; i++)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_geq(asked, 5);
	cr_assert_eq(young, 0);
}
