/* SPDX-License-Identifier: Apache-2.0 */
/* Faults of the device while a log runs: errors are final and never become an ack, a full disk is not final. */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MEMORY THMQ_DURABILITY_MEMORY

static struct rig r;

static void down(void)
{
	rig_fini(&r);
}

static void up(void)
{
	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_open(&r), 0);
	rig_poll(&r, 200); /* the next segment is ready */
}

static void fault(uint8_t opcode, uint8_t effect, uint64_t nth)
{
	struct thmqi_disk_sim_fault f = {.opcode = opcode, .effect = effect, .nth = nth};

	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &f), 0);
}

Test(commitlog_fault, a_write_error_is_final_and_no_ack_follows, .init = up, .fini = down)
{
	uint64_t index, last, other;

	for (uint64_t i = 0; i < 5; i++) {
		cr_assert_eq(rig_append(&r, 1, i, DURABLE, &last), 0);
		cr_assert_eq(rig_await(&r, last), 0);
	}
	fault(THMQI_DISK_WRITE, THMQI_DISK_SIM_ERROR, 2);
	for (uint64_t i = 5; i < 9; i++) {
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, 100000, DURABLE, &index), 0);
		if (i == 5)
			last = index;
		thmqi_core_poll(r.core, 0);
	}
	rig_poll(&r, 200);
	cr_assert_eq(r.failed, -EIO);
	cr_assert_leq(r.durable, last);
	cr_assert_eq(rig_append(&r, 1, 9, DURABLE, &index), -THMQ_EFAILED);
	cr_assert_eq(thmq_log_flush(r.log, &other), -THMQ_EFAILED);
	cr_assert_eq(thmq_log_truncate(r.log, 3), -THMQ_EFAILED);
	/* what was acknowledged stays readable, and is there after reopening */
	cr_assert_eq(rig_read_all(&r, 1, 0, 5), 5);
	cr_assert_eq(rig_close(&r), -EIO);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 5), 5);
}

Test(commitlog_fault, a_flush_error_is_final_and_no_ack_follows, .init = up, .fini = down)
{
	uint64_t index = 0;

	for (uint64_t i = 0; i < 5; i++) {
		cr_assert_eq(rig_append(&r, 1, i, THMQ_DURABILITY_WRITTEN, &index), 0);
		thmqi_core_poll(r.core, 0);
	}
	fault(THMQI_DISK_FLUSH, THMQI_DISK_SIM_ERROR, 1);
	cr_assert_eq(rig_append(&r, 1, 5, DURABLE, &index), 0);
	rig_poll(&r, 300);
	cr_assert_eq(r.failed, -EIO);
	cr_assert_eq(r.durable, 0);
	cr_assert_eq(rig_close(&r), -EIO);
}

Test(commitlog_fault, a_short_write_is_an_error_too, .init = up, .fini = down)
{
	uint64_t index = 0;

	fault(THMQI_DISK_WRITE, THMQI_DISK_SIM_SHORT, 1);
	cr_assert_eq(rig_append_sized(&r, 1, 0, 1, 50000, DURABLE, &index), 0);
	rig_poll(&r, 200);
	cr_assert_eq(r.failed, -EIO);
	cr_assert_eq(r.durable, 0);
}

Test(commitlog_fault, a_failure_is_told_once_and_outside_of_calls, .init = up, .fini = down)
{
	uint64_t index = 0;

	fault(THMQI_DISK_WRITE, THMQI_DISK_SIM_ERROR, 1);
	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	cr_assert_eq(r.failed, 0);
	rig_poll(&r, 200);
	cr_assert_eq(r.failed, -EIO);
	r.failed = 0;
	rig_poll(&r, 200);
	cr_assert_eq(r.failed, 0);
}

Test(commitlog_fault, a_failing_mark_is_final, .init = up, .fini = down)
{
	uint64_t index = 0;

	cr_assert_eq(rig_append(&r, 1, 0, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	fault(THMQI_DISK_WRITE, THMQI_DISK_SIM_ERROR, 1);
	for (int i = 0; i < 30; i++)
		thmqi_core_poll(r.core, 100000000);
	cr_assert_eq(r.failed, -EIO);
	rig_close(&r);
	thmqi_disk_sim_faults_clear(r.sim);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, 1), 1);
}

Test(commitlog_fault, writes_that_complete_in_any_order_settle_in_log_order)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct thmqi_disk_sim_fault slow = {.opcode = THMQI_DISK_WRITE,
						    .effect = THMQI_DISK_SIM_STALL,
						    .nth = 1 + seed % 5,
						    .arg = 3000000};
		uint64_t index = 0;

		rig_init(&r, seed, NULL);
		cr_assert_eq(rig_open(&r), 0);
		rig_poll(&r, 200);
		thmqi_disk_sim_fault_add(r.sim, &slow);
		for (uint64_t i = 0; i < 20; i++) {
			cr_assert_eq(rig_append_wait(&r, 1, i, 70000, (i + seed) % 4 ? DURABLE : MEMORY, &index), 0);
			thmqi_core_poll(r.core, 0);
		}
		cr_assert_eq(rig_append(&r, 1, 20, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		cr_assert_not(r.unordered);
		rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_read_all(&r, 1, 0, 21), 21);
		rig_fini(&r);
	}
}

/* ---------------------------------------------------------------- full disk */

Test(commitlog_fault, a_full_disk_refuses_goes_on_reading_and_resumes, .fini = down)
{
	uint64_t index = 0, i;
	int rc = 0;

	rig_init(&r, 1, &(struct thmqi_disk_sim_opts){.capacity_bytes = (3u << 20) + 65536});
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	for (i = 0; i < 1000; i++) {
		rc = rig_append_wait(&r, 1, i, 50000, DURABLE, &index);
		if (rc)
			break;
	}
	cr_assert_eq(rc, -ENOSPC);
	cr_assert_gt(i, 50);
	cr_assert_eq(r.failed, 0);
	rig_poll(&r, 100);
	cr_assert_geq(r.durable, index);
	cr_assert_eq(rig_read_all(&r, 1, 0, i), (int64_t)i);
	cr_assert_eq(rig_append_sized(&r, 1, i, 1, 50000, DURABLE, &index), -ENOSPC, "and stays so");
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, i), (int64_t)i);
}

Test(commitlog_fault, space_that_comes_back_is_used, .fini = down)
{
	struct thmqi_disk_sim_fault full = {.opcode = THMQI_DISK_ALLOCATE,
					    .effect = THMQI_DISK_SIM_ERROR,
					    .error = -ENOSPC,
					    .nth = 1,
					    .repeat = UINT64_MAX};
	uint64_t index = 0, i;
	int rc = 0;

	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_open(&r), 0);
	rig_poll(&r, 200);
	thmqi_disk_sim_fault_add(r.sim, &full);
	for (i = 0; i < 1000 && !rc; i += rc == 0)
		rc = rig_append_wait(&r, 1, i, 50000, DURABLE, &index);
	cr_assert_eq(rc, -ENOSPC);
	cr_assert_eq(rig_append_sized(&r, 1, i, 1, 50000, DURABLE, &index), -ENOSPC);
	r.rooms = 0;
	for (int n = 0; n < 20; n++) /* it tries, and is refused again */
		thmqi_core_poll(r.core, 100000000);
	cr_assert_eq(rig_append_sized(&r, 1, i, 1, 50000, DURABLE, &index), -ENOSPC);
	thmqi_disk_sim_faults_clear(r.sim);
	r.rooms = 0;
	for (int n = 0; n < 1000 && !r.rooms; n++)
		thmqi_core_poll(r.core, 10000000);
	cr_assert_gt(r.rooms, 0);
	for (uint64_t end = i + 60; i < end; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 50000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, i), (int64_t)i);
}

Test(commitlog_fault, a_preparation_that_fails_at_any_step_is_tried_again)
{
	static const uint8_t opcodes[] = {THMQI_DISK_CREATE, THMQI_DISK_ALLOCATE, THMQI_DISK_FLUSH, THMQI_DISK_RENAME,
					  THMQI_DISK_SYNC_DIR};

	for (uint32_t o = 0; o < THMQI_ARRAY_COUNT(opcodes); o++) {
		uint64_t index = 0, i;

		rig_init(&r, o + 1, NULL);
		cr_assert_eq(rig_open(&r), 0);
		fault(opcodes[o], THMQI_DISK_SIM_ERROR, 1);
		rig_poll(&r, 300); /* preparation begins anew after a while */
		for (i = 0; i < 100; i++) {
			int rc = -EIO; /* the attempt's own error is the answer until one succeeds */

			for (int n = 0; n < 100 && rc == -EIO; n++) {
				rc = rig_append_wait(&r, 1, i, 50000, DURABLE, &index);
				if (rc)
					thmqi_core_poll(r.core, 100000000);
			}
			cr_assert_eq(rc, 0, "step %u: %d", o, rc);
		}
		cr_assert_eq(rig_await(&r, index), 0);
		cr_assert_eq(rig_read_all(&r, 1, 0, i), (int64_t)i);
		cr_assert_eq(rig_close(&r), 0);
		rig_fini(&r);
	}
}

#define HOUR (3600ll * 1000000000)

static int all_lives(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx, (void)e;
	return THMQ_LOG_LIVE;
}

/* Whatever step of it takes for ever: up to the end of the present one nobody waits for it, but for what is kept for a cleaner. */
static void the_present_one_is_filled(bool cleans)
{
	static const uint8_t opcodes[] = {THMQI_DISK_CREATE, THMQI_DISK_ALLOCATE, THMQI_DISK_WRITE, THMQI_DISK_FLUSH,
					  THMQI_DISK_RENAME, THMQI_DISK_SYNC_DIR};

	for (uint32_t o = 0; o < THMQI_ARRAY_COUNT(opcodes); o++) {
		struct thmqi_disk_sim_fault stall = {
			.opcode = opcodes[o], .effect = THMQI_DISK_SIM_STALL, .nth = 1, .arg = HOUR};
		struct thmqi_disk_sim_stats s = {0};
		uint64_t index = 0, i = 0, begin, end = opcodes[o] == THMQI_DISK_CREATE ? 3u << 20 : 1u << 20;
		int rc = 0;

		rig_init(&r, o + 1, NULL);
		r.events.live = cleans ? all_lives : NULL;
		cr_assert_eq(rig_open(&r), 0); /* which begins with the first of them */
		if (opcodes[o] == THMQI_DISK_CREATE)
			rig_poll(&r, 200);
		thmqi_disk_sim_fault_add(r.sim, &stall);
		for (uint32_t n = 0; n < 10000 && !s.faults; n++) {
			if (opcodes[o] == THMQI_DISK_CREATE)
				cr_assert_eq(rig_append_wait(&r, 1, i++, 8000, DURABLE, &index), 0);
			thmqi_core_poll(r.core, 10000);
			thmqi_disk_sim_stats(r.sim, &s);
		}
		cr_assert_eq(s.faults, 1, "step %u", o);
		begin = thmqi_disk_sim_now(r.sim);
		for (; !rc; i += !rc) { /* each of them alone: nothing else is in flight */
			rc = rig_append_sized(&r, 1, i, 1, 8000, DURABLE, &index);
			if (!rc)
				cr_assert_eq(rig_await(&r, index), 0);
		}
		cr_assert_eq(rc, -EAGAIN, "step %u: %d", o, rc);
		cr_assert_gt(rig_stats(&r).end_position, end - (cleans ? end / 48 : 0) - 4 * 4096, "step %u", o);
		cr_assert_lt(thmqi_disk_sim_now(r.sim) - begin, (uint64_t)HOUR / 60, "step %u", o);
		for (uint32_t n = 0; n < 10000 && rc == -EAGAIN; n++) {
			thmqi_core_poll(r.core, HOUR / 1000);
			rc = rig_append_sized(&r, 1, i, 1, 8000, DURABLE, &index);
		}
		cr_assert_eq(rc, 0, "step %u: %d", o, rc);
		cr_assert_eq(rig_await(&r, index), 0);
		cr_assert_geq(thmqi_disk_sim_now(r.sim) - begin, (uint64_t)HOUR / 2, "it did wait for that");
		cr_assert_eq(rig_read_all(&r, 1, 0, i + 1), (int64_t)(i + 1));
		cr_assert_eq(rig_close(&r), 0);
		rig_fini(&r);
	}
}

Test(commitlog_fault, while_the_next_segment_is_not_ready_the_present_one_is_filled)
{
	the_present_one_is_filled(false);
}

Test(commitlog_fault, while_the_next_segment_is_not_ready_only_what_is_kept_for_the_cleaner_waits)
{
	the_present_one_is_filled(true);
}
