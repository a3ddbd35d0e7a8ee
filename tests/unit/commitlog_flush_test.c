/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a log writes and flushes: company that a batch waits for, in time and bytes; the background flush that bounds what a
 * power cut may take; batches of mixed rungs; a close that does not wait for ever. On a simulated disk, in virtual time.
 */
#include <criterion/criterion.h>

#include "commitlog/close.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define WRITTEN THMQ_DURABILITY_WRITTEN
#define MEMORY THMQ_DURABILITY_MEMORY
#define MS 1000000ull
#define US 1000ull

static struct rig r;

static void up(void)
{
	rig_init(&r, 1, NULL);
}

static void down(void)
{
	rig_fini(&r);
	cr_assert_not(r.unordered);
}

static void open_quiet(void)
{
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	rig_poll(&r, 200); /* the next segment is ready */
}

/* Let @ns of virtual time pass. */
static void pass(uint64_t ns)
{
	uint64_t until = thmqi_disk_sim_now(r.sim) + ns, now;

	while ((now = thmqi_disk_sim_now(r.sim)) < until)
		thmqi_core_poll(r.core,
				until - now); /* until something happens, at the latest then */
}

/* Virtual time until @index is durable. */
static uint64_t time_to(uint64_t index)
{
	uint64_t begin = thmqi_disk_sim_now(r.sim);

	while (r.durable < index && thmqi_disk_sim_now(r.sim) - begin < 10000 * MS)
		thmqi_core_poll(r.core, 5 * US);
	cr_assert_geq(r.durable, index);
	return thmqi_disk_sim_now(r.sim) - begin;
}

/* --------------------------------------------------------------- group commit */

Test(commitlog_flush, without_group_ns_a_batch_goes_at_once, .init = up, .fini = down)
{
	uint64_t index;

	open_quiet();
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	cr_assert_lt(time_to(index), 250 * US); /* a durable write takes 160 at most */
}

Test(commitlog_flush, the_first_that_waits_waits_for_company_so_long_and_no_longer, .init = up,
     .fini = down)
{
	uint64_t index, last, before, took;

	r.opts.group_ns = 2 * MS;
	open_quiet();
	before = rig_stats(&r).batches;
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	for (uint64_t i = 1; i < 10; i++) {
		pass(150 * US);
		cr_assert_eq(r.durable, 0, "it waits");
		cr_assert_eq(rig_append(&r, 1, i, i % 3 ? DURABLE : WRITTEN, &last), 0);
		cr_assert_eq(last, index, "all are in one batch");
	}
	took = 9 * 150 * US + time_to(index);
	cr_assert_geq(took, 2 * MS);
	cr_assert_lt(took, 2 * MS + 300 * US);
	cr_assert_eq(rig_stats(&r).batches - before, 1);
	cr_assert_eq(rig_read_all(&r, 1, 0, 10), 10);
}

Test(commitlog_flush, the_next_batch_has_a_time_of_its_own, .init = up, .fini = down)
{
	uint64_t index, took;

	r.opts.group_ns = 2 * MS;
	r.opts.group_bytes = 8192;
	open_quiet();
	/* the first goes for its size after a millisecond: its timer is not the second's */
	cr_assert_eq(rig_append_sized(&r, 1, 0, 1, 1000, DURABLE, &index), 0);
	pass(1 * MS);
	cr_assert_eq(rig_append_sized(&r, 1, 1, 1, 9000, DURABLE, &index), 0);
	cr_assert_lt(time_to(index), 300 * US);
	cr_assert_eq(rig_append_sized(&r, 1, 2, 1, 1000, DURABLE, &index), 0);
	took = time_to(index);
	cr_assert_geq(took, 2 * MS);
	cr_assert_lt(took, 2 * MS + 300 * US);
}

Test(commitlog_flush, so_many_bytes_end_the_wait, .init = up, .fini = down)
{
	uint64_t index, before;

	r.opts.group_ns = 500 * MS;
	r.opts.group_bytes = 20000;
	open_quiet();
	before = rig_stats(&r).batches;
	for (uint64_t i = 0; i < 28; i++) /* within one iteration of the loop */
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, 5000, DURABLE, &index), 0);
	cr_assert_eq(rig_stats(&r).batches - before, 7, "four messages each");
	cr_assert_lt(time_to(index), 20 * MS);
	cr_assert_eq(rig_read_all(&r, 1, 0, 28), 28);
}

Test(commitlog_flush, so_many_bytes_go_though_writes_are_in_flight, .fini = down)
{
	uint64_t index, writes;
	struct thmqi_disk_sim_stats s;

	rig_init(&r, 1, &(struct thmqi_disk_sim_opts){.write_ns = 50 * MS, .flush_ns = 50 * MS});
	r.opts.group_bytes = 12288;
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	pass(60000 * MS);
	thmqi_disk_sim_stats(r.sim, &s);
	writes = s.ops[THMQI_DISK_WRITE];
	for (uint64_t i = 0; i < 5; i++) {
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, 13000, DURABLE, &index), 0);
		thmqi_core_poll(r.core, 0);
	}
	thmqi_disk_sim_stats(r.sim, &s);
	cr_assert_eq(s.ops[THMQI_DISK_WRITE] - writes, 5, "each at once, behind the others");
	/* a small one waits: two are in flight, and more */
	cr_assert_eq(rig_append_sized(&r, 1, 5, 1, 100, DURABLE, &index), 0);
	thmqi_core_poll(r.core, 0);
	thmqi_disk_sim_stats(r.sim, &s);
	cr_assert_eq(s.ops[THMQI_DISK_WRITE] - writes, 5);
	cr_assert_eq(rig_await(&r, index), 0);
}

Test(commitlog_flush, a_flush_that_was_asked_for_does_not_wait_for_company, .init = up,
     .fini = down)
{
	uint64_t index;

	r.opts.group_ns = 900 * MS;
	open_quiet();
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	pass(1 * MS);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	cr_assert_lt(time_to(index), 300 * US);
	cr_assert_eq(rig_append(&r, 1, 1, DURABLE, &index), 0);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, 2), 2, "closing does not either");
}

Test(commitlog_flush, options_out_of_bounds_are_refused, .fini = down)
{
	struct thmq_log_opts bad[] = {
		{.size = sizeof(bad[0]), .dir = "x", .group_ns = 1000000001},
		{.size = sizeof(bad[0]), .dir = "x", .group_bytes = (1u << 20) + 1},
		{.size = sizeof(bad[0]), .dir = "x", .batch_bytes = 8192, .group_bytes = 8193},
		{.size = sizeof(bad[0]), .dir = "x", .flush_interval_ns = 3600000000001ull},
		{.size = sizeof(bad[0]), .dir = "x", .flush_interval_ns = UINT64_MAX},
	};
	struct thmq_log *log;

	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_env(&r), 0);
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(bad); i++)
		cr_assert_eq(thmq_log_open(r.core, &bad[i], &log), -EINVAL, "case %u", i);
}

/* ----------------------------------------------------------- background flush */

Test(commitlog_flush, what_is_older_than_the_interval_survives_a_power_cut)
{
	static const uint64_t intervals[] = {0 /* 500 ms */, 3 * MS, 200 * US};

	for (uint32_t k = 0; k < THMQI_ARRAY_COUNT(intervals) * 30; k++) {
		uint64_t interval = intervals[k % THMQI_ARRAY_COUNT(intervals)], index, old = 0, i;
		/* a write and a flush, each behind one that was already on its way */
		uint64_t window = (interval ? interval : 500 * MS) + 600 * US,
			 *when = calloc(5000, sizeof(*when));

		rig_init(&r, k + 1, NULL);
		r.opts.flush_interval_ns = interval;
		open_quiet();
		for (i = 0; i < 50 + k * 7 % 200; i++) {
			cr_assert_eq(rig_append(&r, 1, i, i % 2 ? WRITTEN : MEMORY, &index), 0);
			when[i] = thmqi_disk_sim_now(r.sim);
			pass((interval ? interval : 500 * MS) * (1 + i % 7) / 10);
		}
		while (old < i && when[old] + window < thmqi_disk_sim_now(r.sim))
			old++;
		cr_assert_gt(old, 0);
		rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_read_all(&r, 1, 0, old), (int64_t)old, "case %u", k);
		rig_fini(&r);
		free(when);
	}
}

Test(commitlog_flush, a_quiet_log_becomes_durable_and_then_rests, .init = up, .fini = down)
{
	struct thmqi_disk_sim_stats before, after;
	uint64_t index;

	open_quiet();
	cr_assert_eq(rig_append(&r, 1, 0, MEMORY, &index), 0);
	pass(499 * MS);
	cr_assert_lt(r.durable, index);
	pass(3 * MS);
	cr_assert_eq(r.durable, index);
	pass(3000 * MS); /* the mark follows */
	thmqi_disk_sim_stats(r.sim, &before);
	pass(20000 * MS);
	thmqi_disk_sim_stats(r.sim, &after);
	cr_assert_eq(after.changes, before.changes, "nothing more is done");
}

Test(commitlog_flush, so_many_bytes_are_flushed_before_the_interval_ends, .init = up, .fini = down)
{
	uint64_t index = 0, i;

	r.opts.flush_interval_ns = 3600 * 1000 * MS;
	r.opts.flush_bytes = 1u << 20;
	open_quiet();
	for (i = 0; i < 60; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, 50000, WRITTEN, &index), 0);
		pass(1 * MS);
		/* what is not durable: less than flush_bytes, and what was written while the flush was on its way */
		cr_assert_leq((index - THMQI_MAX(r.durable, 1u)) * 53248, (1u << 20) + 2 * 53248,
			      "message %u", (unsigned)i);
	}
	cr_assert_gt(r.durable, 20);
	/* a segment's end is flushed anyway: the next check is of bytes alone */
	cr_assert_lt(r.durable, index);
}

Test(commitlog_flush, durable_traffic_needs_no_background_flush, .init = up, .fini = down)
{
	struct thmqi_disk_sim_stats s;
	uint64_t index, flushes;

	open_quiet();
	thmqi_disk_sim_stats(r.sim, &s);
	flushes = s.ops[THMQI_DISK_FLUSH];
	for (uint64_t i = 0; i < 50; i++) {
		cr_assert_eq(rig_append(&r, 1, i, DURABLE, &index), 0);
		pass(100 * MS);
	}
	cr_assert_eq(rig_await(&r, index), 0);
	thmqi_disk_sim_stats(r.sim, &s);
	cr_assert_eq(s.ops[THMQI_DISK_FLUSH], flushes);
}

Test(commitlog_flush, switched_off_only_what_is_waited_for_becomes_durable, .init = up,
     .fini = down)
{
	struct thmqi_disk_sim_stats before, after;
	uint64_t index, last;

	r.opts.flags = THMQ_LOG_NO_BACKGROUND_FLUSH;
	r.opts.flush_bytes = 4096;
	open_quiet();
	thmqi_disk_sim_stats(r.sim, &before);
	for (uint64_t i = 0; i < 20; i++) {
		cr_assert_eq(rig_append(&r, 1, i, i % 2 ? WRITTEN : MEMORY, &index), 0);
		pass(100 * MS);
	}
	pass(5000 * MS);
	cr_assert_eq(r.written, index);
	cr_assert_eq(r.durable, 0);
	thmqi_disk_sim_stats(r.sim, &after);
	cr_assert_eq(after.ops[THMQI_DISK_FLUSH], before.ops[THMQI_DISK_FLUSH]);
	cr_assert_eq(rig_append(&r, 1, 20, DURABLE, &last), 0);
	cr_assert_eq(rig_await(&r, last), 0);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 21), 21);
}

/* ---------------------------------------------------------------- mixed rungs */

Test(commitlog_flush, a_durable_ack_covers_all_before_it_whatever_their_rung)
{
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct thmqi_prng prng;
		uint64_t index = 0, last_durable = 0, upto = 0, i;
		static uint64_t of[1000]; /* batch of each message */

		thmqi_prng_seed(&prng, seed);
		rig_init(&r, seed, NULL);
		r.opts.group_ns = seed % 3 ? 0 : 100 * US;
		r.opts.flush_interval_ns = seed % 2 ? 0 : 700 * US;
		open_quiet();
		for (i = 0; i < 20 + seed; i++) {
			uint32_t level = 1 + (uint32_t)thmqi_prng_below(&prng, 3);

			if (rig_append_sized(&r, 1, i, 1,
					     50 + (uint32_t)thmqi_prng_below(&prng, 9000), level,
					     &index))
				break;
			of[i] = index;
			last_durable = level == DURABLE ? index : last_durable;
			if (thmqi_prng_below(&prng, 3))
				thmqi_core_poll(r.core, thmqi_prng_below(&prng, 2) ? 0 : 50 * US);
			cr_assert_leq(r.durable, THMQI_MAX(r.written, r.durable));
		}
		if (seed % 2 && last_durable)
			cr_assert_eq(rig_await(&r, last_durable), 0);
		while (upto < i && of[upto] <= r.durable)
			upto++;
		rig_crash(&r, seed % 5 ? THMQI_DISK_SIM_CRASH_LOSE : THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_read_all(&r, 1, 0, upto), (int64_t)upto, "seed %u",
			     (unsigned)seed);
		rig_fini(&r);
	}
}

Test(commitlog_flush, one_batch_of_all_rungs_settles_once_and_flushed, .init = up, .fini = down)
{
	uint64_t a, b, c;

	open_quiet();
	cr_assert_eq(rig_append(&r, 1, 0, MEMORY, &a), 0);
	cr_assert_eq(rig_append(&r, 1, 1, DURABLE, &b), 0);
	cr_assert_eq(rig_append(&r, 1, 2, WRITTEN, &c), 0);
	cr_assert(a == b && b == c);
	time_to(a);
	cr_assert_eq(r.written, a);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 3), 3);
}

/* ----------------------------------------------------------------------- close */

static void stall(uint8_t opcode, uint64_t ns)
{
	struct thmqi_disk_sim_fault f = {.opcode = opcode,
					 .effect = THMQI_DISK_SIM_STALL,
					 .nth = 1,
					 .repeat = UINT64_MAX,
					 .arg = (int64_t)ns};

	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &f), 0);
}

static void note_gone(void *arg)
{
	++*(int *)arg;
}

static uint64_t inflight(void)
{
	struct thmqi_disk_sim_stats s;

	thmqi_disk_sim_stats(r.sim, &s);
	return s.inflight;
}

Test(commitlog_flush, a_close_does_not_wait_longer_than_it_may, .init = up, .fini = down)
{
	static const uint8_t opcodes[] = {THMQI_DISK_WRITE, THMQI_DISK_FLUSH};

	for (uint32_t k = 0; k < 6; k++) {
		uint64_t index, begin, took, timeout = k / 2 * 3000 * MS; /* 0, 3, 6 s */
		int gone = 0;

		open_quiet();
		for (uint64_t i = 0; i < 5; i++)
			cr_assert_eq(rig_append(&r, 1, i, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		for (uint64_t i = 5; i < 10; i++)
			cr_assert_eq(rig_append(&r, 1, i, WRITTEN, &index), 0);
		rig_poll(&r, 3);
		stall(opcodes[k % 2], 60000 * MS);
		begin = thmqi_disk_sim_now(r.sim);
		cr_assert_eq(rig_append(&r, 1, 10, DURABLE, &index), 0);
		cr_assert_eq(thmqi_log_close_notify(r.log, timeout, note_gone, &gone), -ETIMEDOUT);
		r.log = NULL;
		took = thmqi_disk_sim_now(r.sim) - begin;
		cr_assert_geq(took, timeout);
		cr_assert_lt(took, THMQI_MAX(timeout, 1000 * MS) + MS);
		/* the device has it still, and nobody is told anything any more */
		cr_assert_eq(gone, 0);
		cr_assert_gt(inflight(), 0);
		r.written = r.durable = 0;
		thmqi_disk_sim_faults_clear(r.sim);
		if (k < 4) {
			pass(120000 * MS);
			cr_assert_eq(gone, 1, "done, and taken away");
			cr_assert_eq(inflight(), 0);
		}
		cr_assert_eq(thmqi_env_close(r.env), 0, "no memory is left behind");
		cr_assert_eq(gone, 1, "at the latest with its core");
		r.env = NULL;
		cr_assert_eq(r.written + r.durable, 0);
		cr_assert_eq(r.failed, 0);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_stats(&r).unclean, 1);
		/* what was acknowledged is there; what was in flight was not lost by it either */
		cr_assert_geq(rig_read_all(&r, 1, 0, 5), 5);
		rig_fini(&r);
		up();
	}
}

Test(commitlog_flush, a_reader_may_be_closed_after_a_close_that_was_given_up, .init = up,
     .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index = 0;
	int gone = 0;

	r.opts.cache_bytes = 4096;
	open_quiet();
	for (uint64_t i = 0; i < 40; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 50000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	stall(THMQI_DISK_READ, 60000 * MS);
	cr_assert_eq(thmq_log_read(reader, 40, &v), 0);
	r.ready = 0;
	cr_assert_eq(thmqi_log_close_notify(r.log, 0, note_gone, &gone), -ETIMEDOUT);
	r.log = NULL;
	thmq_log_reader_close(reader);
	pass(120000 * MS);
	cr_assert_eq(gone, 1);
	cr_assert_eq(r.ready, 0);
}

Test(commitlog_flush, a_log_that_failed_is_not_waited_for_either, .init = up, .fini = down)
{
	struct thmqi_disk_sim_fault bad = {
		.opcode = THMQI_DISK_WRITE, .effect = THMQI_DISK_SIM_ERROR, .nth = 1};
	uint64_t index, begin;
	int gone = 0;

	open_quiet();
	cr_assert_eq(rig_append_sized(&r, 1, 0, 1, 1000, DURABLE, &index), 0);
	thmqi_disk_sim_fault_add(r.sim, &bad);
	thmqi_core_poll(r.core, 0);
	stall(THMQI_DISK_WRITE, 60000 * MS);
	cr_assert_eq(rig_append_sized(&r, 1, 1, 1, 100000, DURABLE, &index), 0);
	thmqi_core_poll(r.core, 0);
	pass(MS);
	cr_assert_eq(r.failed, -EIO);
	begin = thmqi_disk_sim_now(r.sim);
	cr_assert_eq(thmqi_log_close_notify(r.log, 2000 * MS, note_gone, &gone), -EIO);
	r.log = NULL;
	cr_assert_lt(thmqi_disk_sim_now(r.sim) - begin, 2001 * MS);
	cr_assert_eq(gone, 0);
}
