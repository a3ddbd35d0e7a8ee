/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk itself: what was flushed survives every power cut, what was not may be kept, lost or torn; faults;
 * virtual time; the same seed gives the same story.
 */
#include <criterion/criterion.h>
#include <stdio.h>

#include "disk/disk.h"
#include "disk/sim.h"

#define BLOCK 4096u

struct rig {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_queue *queue;
};

struct job {
	struct thmqi_disk_op op;
	bool done;
	int64_t result;
};

static const struct thmqi_disk_table *const disk = &thmqi_disk_sim;
static uint8_t page[64 * BLOCK] __attribute__((aligned(4096)));
static uint8_t back[64 * BLOCK] __attribute__((aligned(4096)));

static void up(struct rig *r)
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(0), thmqi_disk_sim_world(r->sim), &r->env), 0);
	r->core = thmqi_env_core(r->env, 0);
	cr_assert_eq(disk->dir_open(r->sim, "data", true, &r->dir), 0);
	cr_assert_eq(disk->queue_open(r->sim, r->core, 64, &r->queue), 0);
}

static void down(struct rig *r)
{
	disk->queue_close(r->queue);
	disk->dir_close(r->dir);
	cr_assert_eq(thmqi_env_close(r->env), 0);
}

static void rig_open(struct rig *r, uint64_t seed, const struct thmqi_disk_sim_opts *opts)
{
	cr_assert_eq(thmqi_disk_sim_open(seed, opts, &r->sim), 0);
	up(r);
}

static void rig_close(struct rig *r)
{
	down(r);
	thmqi_disk_sim_close(r->sim);
}

static void fill(uint8_t byte, uint32_t len)
{
	memset(page, byte, len);
}

static struct thmqi_disk_file *file_at(struct rig *r, const char *name, bool create)
{
	struct thmqi_disk_file *file = NULL;
	int e = disk->file_open(r->dir, name, create, &file);

	cr_assert(e == 0 || e == -ENOENT);
	return file;
}

/* A durable file of @blocks zero blocks. */
static struct thmqi_disk_file *prepared(struct rig *r, const char *name, uint32_t blocks)
{
	struct thmqi_disk_file *file = file_at(r, name, true);

	cr_assert_eq(disk->file_allocate(file, blocks * BLOCK), 0);
	cr_assert_eq(disk->file_flush(file), 0);
	cr_assert_eq(disk->dir_sync(r->dir), 0);
	return file;
}

static void on_done(struct thmqi_disk_op *op, int64_t result)
{
	struct job *job = thmqi_container(op, struct job, op);

	cr_assert_not(job->done);
	job->done = true;
	job->result = result;
}

static void submit(struct rig *r, struct job *job, struct thmqi_disk_op op)
{
	memset(job, 0, sizeof(*job));
	job->op = op;
	job->op.done = on_done;
	cr_assert_eq(disk->queue_submit(r->queue, &job->op), 0);
}

static void wait_for(struct rig *r, const struct job *job)
{
	for (int i = 0; i < 1000 && !job->done; i++)
		thmqi_core_poll(r->core, 1000000);
	cr_assert(job->done);
}

static struct thmqi_disk_op write_op(struct thmqi_disk_file *file, uint32_t block, uint32_t count,
				     uint8_t flags)
{
	return (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
				      .flags = flags,
				      .file = file,
				      .data = page,
				      .len = count * BLOCK,
				      .offset = (uint64_t)block * BLOCK};
}

static void cut_and_return(struct rig *r, enum thmqi_disk_sim_crash_mode mode)
{
	thmqi_disk_sim_crash_as(r->sim, mode);
	down(r);
	thmqi_disk_sim_restart(r->sim);
	up(r);
}

/* Number of bytes equal to @byte in what a file holds. */
static uint32_t count_of(struct thmqi_disk_file *file, uint8_t byte)
{
	int64_t n = disk->file_read(file, back, sizeof(back), 0);
	uint32_t count = 0;

	for (int64_t i = 0; i < n; i++)
		count += back[i] == byte;
	return count;
}

/* ------------------------------------------------------------------ power cuts */

Test(disk_sim, what_was_flushed_survives_every_cut, .timeout = 60)
{
	for (uint64_t seed = 1; seed <= 400; seed++) {
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 16);
		fill(1, 4 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 4 * BLOCK, 0, false), 0);
		cr_assert_eq(disk->file_flush(file), 0);
		fill(2, 4 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 4 * BLOCK, 4 * BLOCK, true), 0);
		/* volatile ones elsewhere, to be lost or torn */
		fill(3, 8 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 8 * BLOCK, 8 * BLOCK, false), 0);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_SEEDED);
		file = file_at(&r, "log", false);
		cr_assert_not_null(file, "seed %lu", (unsigned long)seed);
		cr_assert_eq(disk->file_size(file), 16 * BLOCK);
		cr_assert_eq(count_of(file, 1), 4 * BLOCK);
		cr_assert_eq(count_of(file, 2), 4 * BLOCK);
		disk->file_close(file);
		rig_close(&r);
	}
}

Test(disk_sim, what_was_not_flushed_is_kept_lost_or_torn_and_all_three_happen, .timeout = 60)
{
	uint32_t kept = 0, lost = 0, torn = 0, both = 0;

	for (uint64_t seed = 1; seed <= 600; seed++) {
		struct thmqi_disk_file *file;
		uint32_t first, second;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 16);
		fill(1, 4 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 4 * BLOCK, 0, false), 0);
		fill(2, 4 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 4 * BLOCK, 4 * BLOCK, false), 0);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_ANY);
		file = file_at(&r, "log", false);
		first = count_of(file, 1);
		second = count_of(file, 2);
		cr_assert_eq(first % 512, 0, "torn within a sector");
		cr_assert_eq(count_of(file, 0) + first + second, 16 * BLOCK, "something else");
		kept += first == 4 * BLOCK;
		lost += first == 0;
		torn += first && first != 4 * BLOCK;
		both += first == 0 && second == 4 * BLOCK; /* reordered */
		disk->file_close(file);
		rig_close(&r);
	}
	cr_assert_gt(kept, 50);
	cr_assert_gt(lost, 50);
	cr_assert_gt(torn, 50);
	cr_assert_gt(both, 20);
}

Test(disk_sim, the_modes_do_what_they_say)
{
	static const struct {
		enum thmqi_disk_sim_crash_mode mode;
		bool kept;
	} cases[] = {{THMQI_DISK_SIM_CRASH_LOSE, false}, {THMQI_DISK_SIM_CRASH_KEEP, true}};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(cases); i++) {
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, 1, NULL);
		file = prepared(&r, "log", 8);
		fill(1, BLOCK);
		cr_assert_eq(disk->file_write(file, page, BLOCK, 0, false), 0);
		disk->file_close(file);
		cr_assert_eq(disk->rename(r.dir, "log", "moved"), 0);
		cut_and_return(&r, cases[i].mode);
		file = file_at(&r, cases[i].kept ? "moved" : "log", false);
		cr_assert_not_null(file);
		cr_assert_eq(count_of(file, 1), cases[i].kept ? BLOCK : 0);
		cr_assert_null(file_at(&r, cases[i].kept ? "log" : "moved", false));
		disk->file_close(file);
		rig_close(&r);
	}
}

Test(disk_sim, a_prefix_cut_keeps_an_order, .timeout = 60)
{
	uint32_t partly = 0;

	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct thmqi_disk_file *file;
		struct rig r;
		int last = 1;
		uint32_t held = 0;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 32);
		for (uint32_t i = 0; i < 32; i++) {
			fill((uint8_t)(i + 1), BLOCK);
			cr_assert_eq(disk->file_write(file, page, BLOCK, i * BLOCK, false), 0);
		}
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_PREFIX);
		file = file_at(&r, "log", false);
		for (uint32_t i = 0; i < 32; i++) {
			int now = count_of(file, (uint8_t)(i + 1)) == BLOCK;

			cr_assert(now <= last, "block %u is there, the one before is not", i);
			last = now;
			held += (uint32_t)now;
		}
		partly += held && held < 32;
		disk->file_close(file);
		rig_close(&r);
	}
	cr_assert_gt(partly, 100);
}

Test(disk_sim, a_name_is_durable_only_with_its_directory, .timeout = 60)
{
	uint32_t there = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = file_at(&r, "a", true);
		fill(1, BLOCK);
		cr_assert_eq(disk->file_write(file, page, BLOCK, 0, true), 0);
		cr_assert_eq(disk->file_flush(file), 0);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_ANY);
		file = file_at(&r, "a", false);
		if (file) {
			there++;
			cr_assert_eq(count_of(file, 1), BLOCK, "its data was durable");
			disk->file_close(file);
		}
		rig_close(&r);
	}
	cr_assert_gt(there, 20);
	cr_assert_lt(there, 80);
}

Test(disk_sim, a_size_is_durable_only_with_its_file, .timeout = 60)
{
	uint32_t small = 0, large = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "a", 4);
		cr_assert_eq(disk->file_allocate(file, 8 * BLOCK), 0);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_ANY);
		file = file_at(&r, "a", false);
		small += disk->file_size(file) == 4 * BLOCK;
		large += disk->file_size(file) == 8 * BLOCK;
		cr_assert_geq(disk->file_size(file), 4 * BLOCK);
		disk->file_close(file);
		rig_close(&r);
	}
	cr_assert_gt(small, 10);
	cr_assert_gt(large, 10);
}

Test(disk_sim, a_dsync_write_carries_nothing_else)
{
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	fill(1, BLOCK);
	cr_assert_eq(disk->file_write(file, page, BLOCK, 0, false), 0);
	fill(2, BLOCK);
	cr_assert_eq(disk->file_write(file, page, BLOCK, BLOCK, true), 0);
	disk->file_close(file);
	cut_and_return(&r, THMQI_DISK_SIM_CRASH_LOSE);
	file = file_at(&r, "log", false);
	cr_assert_eq(count_of(file, 1), 0);
	cr_assert_eq(count_of(file, 2), BLOCK);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, an_older_volatile_write_never_comes_back_over_a_durable_one, .timeout = 60)
{
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 4);
		fill(1, 2 * BLOCK);
		cr_assert_eq(disk->file_write(file, page, 2 * BLOCK, 0, false), 0);
		fill(2, BLOCK);
		cr_assert_eq(disk->file_write(file, page, BLOCK, BLOCK, true), 0);
		cr_assert_eq(count_of(file, 1), BLOCK);
		cr_assert_eq(count_of(file, 2), BLOCK);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_ANY);
		file = file_at(&r, "log", false);
		cr_assert_eq(count_of(file, 2), BLOCK);
		disk->file_close(file);
		rig_close(&r);
	}
}

Test(disk_sim, a_flush_covers_what_had_completed_when_it_began, .timeout = 60)
{
	uint32_t lost = 0;

	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct job write, flush;
		struct thmqi_disk_file *file;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 4);
		fill(1, BLOCK);
		submit(&r, &write, write_op(file, 0, 1, 0));
		submit(&r, &flush,
		       (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = file});
		wait_for(&r, &write);
		wait_for(&r, &flush);
		disk->file_close(file);
		cut_and_return(&r, THMQI_DISK_SIM_CRASH_ANY);
		file = file_at(&r, "log", false);
		lost += count_of(file, 1) != BLOCK;
		disk->file_close(file);
		rig_close(&r);
	}
	cr_assert_gt(lost, 20);
}

Test(disk_sim, what_is_in_flight_at_the_cut_fails_and_may_have_happened, .timeout = 60)
{
	uint32_t happened = 0;

	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct thmqi_disk_file *file;
		struct job job;
		struct rig r;

		rig_open(&r, seed, NULL);
		file = prepared(&r, "log", 4);
		fill(1, BLOCK);
		submit(&r, &job, write_op(file, 0, 1, THMQI_DISK_DSYNC));
		thmqi_disk_sim_crash_as(r.sim, THMQI_DISK_SIM_CRASH_ANY);
		cr_assert(thmqi_disk_sim_is_down(r.sim));
		cr_assert_not(job.done);
		wait_for(&r, &job);
		cr_assert_eq(job.result, -EIO);
		/* all is dead until the restart, and the old handles for ever */
		submit(&r, &job, write_op(file, 0, 1, 0));
		wait_for(&r, &job);
		cr_assert_eq(job.result, -EIO);
		cr_assert_eq(disk->file_read(file, back, BLOCK, 0), -EIO);
		cr_assert_eq(disk->dir_sync(r.dir), -EIO);
		down(&r);
		thmqi_disk_sim_restart(r.sim);
		cr_assert_eq(disk->file_read(file, back, BLOCK, 0), -EIO);
		disk->file_close(file);
		up(&r);
		file = file_at(&r, "log", false);
		happened += count_of(file, 1) != 0;
		disk->file_close(file);
		rig_close(&r);
	}
	cr_assert_gt(happened, 20);
	cr_assert_lt(happened, 180);
}

Test(disk_sim, the_cut_comes_at_the_operation_that_was_named)
{
	for (uint64_t nth = 1; nth <= 5; nth++) {
		struct thmqi_disk_file *file;
		struct rig r;
		uint32_t good = 0;

		rig_open(&r, 9, NULL);
		file = prepared(&r, "log", 8);
		thmqi_disk_sim_cut_at(r.sim, nth, THMQI_DISK_SIM_CRASH_LOSE);
		cr_assert_eq(disk->file_read(file, back, BLOCK, 0), BLOCK, "reads do not count");
		while (disk->file_write(file, page, BLOCK, 0, true) == 0)
			good++;
		cr_assert_eq(good, nth - 1);
		cr_assert(thmqi_disk_sim_is_down(r.sim));
		disk->file_close(file);
		down(&r);
		thmqi_disk_sim_restart(r.sim);
		cr_assert_not(thmqi_disk_sim_is_down(r.sim));
		up(&r);
		rig_close(&r);
	}
}

Test(disk_sim, a_restart_without_a_cut_keeps_all)
{
	struct thmqi_disk_file *file;
	struct rig r;
	uint64_t pid;

	rig_open(&r, 1, NULL);
	cr_assert_eq(disk->dir_lock(r.dir, "lock", &pid), 0);
	file = file_at(&r, "a", true);
	fill(1, BLOCK);
	cr_assert_eq(disk->file_write(file, page, BLOCK, 0, false), 0);
	disk->file_close(file);
	down(&r);
	thmqi_disk_sim_restart(r.sim);
	up(&r);
	cr_assert_eq(disk->dir_lock(r.dir, "lock", &pid), 0);
	file = file_at(&r, "a", false);
	cr_assert_not_null(file);
	cr_assert_eq(count_of(file, 1), BLOCK);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, a_lying_disk_loses_what_was_flushed)
{
	struct thmqi_disk_sim_opts opts = {.flags = THMQI_DISK_SIM_LYING};
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, &opts);
	file = prepared(&r, "log", 4);
	fill(1, BLOCK);
	cr_assert_eq(disk->file_write(file, page, BLOCK, 0, true), 0);
	cr_assert_eq(count_of(file, 1), BLOCK);
	disk->file_close(file);
	cut_and_return(&r, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert_null(file_at(&r, "log", false));
	rig_close(&r);
}

/* --------------------------------------------------------------------- faults */

static int64_t faulty(struct rig *r, struct thmqi_disk_sim_fault fault, struct thmqi_disk_op op)
{
	struct job job;

	cr_assert_eq(thmqi_disk_sim_fault_add(r->sim, &fault), 0);
	submit(r, &job, op);
	wait_for(r, &job);
	return job.result;
}

Test(disk_sim, errors_strike_the_operation_that_was_named)
{
	struct thmqi_disk_sim_fault fault = {.opcode = THMQI_DISK_WRITE,
					     .effect = THMQI_DISK_SIM_ERROR,
					     .error = -ENOSPC,
					     .nth = 3,
					     .repeat = 1};
	static const int expect[] = {0, 0, -ENOSPC, -ENOSPC, 0};
	struct thmqi_disk_sim_stats stats;
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(expect); i++)
		cr_assert_eq(disk->file_write(file, page, BLOCK, 0, true), expect[i]);
	fault = (struct thmqi_disk_sim_fault){
		.opcode = THMQI_DISK_FLUSH, .effect = THMQI_DISK_SIM_ERROR, .nth = 1};
	cr_assert_eq(
		faulty(&r, fault, (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = file}),
		-EIO);
	fault = (struct thmqi_disk_sim_fault){
		.opcode = THMQI_DISK_READ, .effect = THMQI_DISK_SIM_ERROR, .nth = 1};
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 0), -EIO);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 0), BLOCK);
	thmqi_disk_sim_stats(r.sim, &stats);
	cr_assert_eq(stats.faults, 4);
	fault.nth = 0;
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), -EINVAL);
	fault.nth = 1;
	for (uint32_t i = 0; i < THMQI_DISK_SIM_FAULTS_MAX; i++)
		cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), -ENOBUFS);
	thmqi_disk_sim_faults_clear(r.sim);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 0), BLOCK);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, writes_are_lost_misdirected_and_corrupted)
{
	struct thmqi_disk_sim_fault fault = {.opcode = THMQI_DISK_WRITE, .nth = 1};
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	fill(1, BLOCK);
	fault.effect = THMQI_DISK_SIM_LOST;
	cr_assert_eq(faulty(&r, fault, write_op(file, 0, 1, THMQI_DISK_DSYNC)), 0);
	cr_assert_eq(count_of(file, 1), 0);
	fault.effect = THMQI_DISK_SIM_MISDIRECT;
	fault.arg = 2 * BLOCK;
	cr_assert_eq(faulty(&r, fault, write_op(file, 0, 1, THMQI_DISK_DSYNC)), 0);
	cr_assert_eq(count_of(file, 1), BLOCK);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 2 * BLOCK), BLOCK);
	cr_assert_eq(back[0], 1);
	fault.effect = THMQI_DISK_SIM_CORRUPT;
	fault.arg = 0;
	cr_assert_eq(faulty(&r, fault, write_op(file, 4, 1, THMQI_DISK_DSYNC)), 0);
	cr_assert_eq(count_of(file, 1), 2 * BLOCK - 1);
	fault.effect = THMQI_DISK_SIM_SHORT;
	cr_assert_eq(faulty(&r, fault, write_op(file, 6, 1, 0)), -EIO);
	cr_assert_eq(count_of(file, 1), 2 * BLOCK - 1 + BLOCK / 2);
	/* at rest */
	cr_assert_eq(thmqi_disk_sim_damage(r.sim, "data", "log", 2 * BLOCK, BLOCK), 0);
	cr_assert_eq(count_of(file, 1), 2 * BLOCK - 2 + BLOCK / 2);
	cr_assert_eq(thmqi_disk_sim_damage(r.sim, "data", "nolog", 0, 1), -ENOENT);
	cr_assert_eq(thmqi_disk_sim_damage(r.sim, "data", "log", 8 * BLOCK, 1), -EINVAL);
	/* a corrupt read leaves the medium alone */
	fault = (struct thmqi_disk_sim_fault){
		.opcode = THMQI_DISK_READ, .effect = THMQI_DISK_SIM_CORRUPT, .nth = 1};
	cr_assert_eq(disk->file_read(file, page, BLOCK, 0), BLOCK);
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 0), BLOCK);
	cr_assert(memcmp(page, back, BLOCK) != 0);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 0), BLOCK);
	cr_assert(memcmp(page, back, BLOCK) == 0);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, a_stall_takes_its_time)
{
	struct thmqi_disk_sim_fault fault = {.opcode = THMQI_DISK_WRITE,
					     .effect = THMQI_DISK_SIM_STALL,
					     .nth = 1,
					     .arg = 5000000000};
	struct thmqi_disk_file *file;
	uint64_t before;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	before = thmqi_disk_sim_now(r.sim);
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
	cr_assert_eq(disk->file_write(file, page, BLOCK, 0, true), 0);
	cr_assert_gt(thmqi_disk_sim_now(r.sim) - before, 5000000000u);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, a_full_disk_says_so_and_takes_back_what_is_removed)
{
	struct thmqi_disk_sim_opts opts = {.capacity_bytes = 8 * BLOCK};
	struct thmqi_disk_file *a, *b;
	struct thmqi_disk_sim_stats stats;
	struct rig r;

	rig_open(&r, 1, &opts);
	a = prepared(&r, "a", 6);
	b = file_at(&r, "b", true);
	cr_assert_eq(disk->file_allocate(b, 4 * BLOCK), -ENOSPC);
	cr_assert_eq(disk->file_write(b, page, 2 * BLOCK, 0, false), 0);
	cr_assert_eq(disk->file_write(b, page, BLOCK, 2 * BLOCK, false), -ENOSPC);
	cr_assert_eq(disk->file_write(a, page, BLOCK, 0, false), 0, "in place it goes");
	disk->file_close(a);
	cr_assert_eq(disk->unlink(r.dir, "a"), 0);
	cr_assert_eq(disk->dir_sync(r.dir), 0);
	cr_assert_eq(disk->file_write(b, page, BLOCK, 2 * BLOCK, false), 0);
	thmqi_disk_sim_stats(r.sim, &stats);
	cr_assert_eq(stats.bytes, 3 * BLOCK);
	disk->file_close(b);
	rig_close(&r);
}

/* ----------------------------------------------------------- manners and time */

Test(disk_sim, what_is_not_aligned_is_refused)
{
	struct job job = {.op.done = on_done};
	struct thmqi_disk_sim_stats stats;
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	cr_assert_eq(disk->file_write(file, page + 1, BLOCK, 0, false), -EINVAL);
	cr_assert_eq(disk->file_write(file, page, 100, 0, false), -EINVAL);
	cr_assert_eq(disk->file_read(file, back, BLOCK, 100), -EINVAL);
	job.op = write_op(file, 0, 1, 0);
	job.op.done = on_done;
	job.op.offset = 1;
	cr_assert_eq(disk->queue_submit(r.queue, &job.op), -EINVAL);
	thmqi_disk_sim_stats(r.sim, &stats);
	cr_assert_eq(stats.misaligned, 4);
	disk->file_close(file);
	rig_close(&r);
}

Test(disk_sim, bytes_that_change_in_flight_are_noticed)
{
	struct thmqi_disk_sim_stats stats;
	struct thmqi_disk_file *file;
	struct job job;
	struct rig r;

	rig_open(&r, 1, NULL);
	file = prepared(&r, "log", 8);
	submit(&r, &job, write_op(file, 0, 1, 0));
	wait_for(&r, &job);
	thmqi_disk_sim_stats(r.sim, &stats);
	cr_assert_eq(stats.unstable, 0);
	submit(&r, &job, write_op(file, 0, 1, 0));
	page[77] ^= 1;
	wait_for(&r, &job);
	thmqi_disk_sim_stats(r.sim, &stats);
	cr_assert_eq(stats.unstable, 1);
	disk->file_close(file);
	rig_close(&r);
}

/* Completion order of 32 writes that are in flight together, as one number. */
static uint64_t order_of(uint64_t seed, uint32_t flags, bool *ret_sorted)
{
	struct thmqi_disk_sim_opts opts = {.flags = flags};
	struct thmqi_disk_file *file;
	struct job jobs[32];
	uint64_t order = 0;
	uint32_t last = 0;
	bool seen[32] = {false};
	struct rig r;

	rig_open(&r, seed, &opts);
	file = prepared(&r, "log", 32);
	for (uint32_t i = 0; i < 32; i++)
		submit(&r, &jobs[i], write_op(file, i, 1, 0));
	*ret_sorted = true;
	for (uint32_t left = 32; left;) {
		cr_assert_geq(thmqi_core_poll(r.core, 1000000), 0);
		for (uint32_t i = 0; i < 32; i++) {
			if (!jobs[i].done || seen[i])
				continue;
			seen[i] = true;
			left--;
			order = thmqi_hash64((uint64_t[]){order, i}, 16);
			*ret_sorted = *ret_sorted && i >= last;
			last = i;
		}
	}
	order = thmqi_hash64((uint64_t[]){order, thmqi_disk_sim_now(r.sim)}, 16);
	disk->file_close(file);
	rig_close(&r);
	return order;
}

Test(disk_sim, a_seed_is_a_story)
{
	bool sorted;

	cr_assert_eq(order_of(5, 0, &sorted), order_of(5, 0, &sorted));
	cr_assert_not(sorted, "operations complete out of order");
	cr_assert_neq(order_of(5, 0, &sorted), order_of(6, 0, &sorted));
	order_of(7, THMQI_DISK_SIM_IN_ORDER, &sorted);
	cr_assert(sorted);
}

Test(disk_sim, time_passes_only_by_waiting_and_looking)
{
	struct thmqi_disk_sim_opts opts = {.clock_tick_ns = 1};
	const struct thmqi_world *world;
	uint64_t start;
	struct rig r;

	rig_open(&r, 1, &opts);
	world = thmqi_disk_sim_world(r.sim);
	start = thmqi_disk_sim_now(r.sim);
	cr_assert_eq(thmqi_disk_sim_now(r.sim), start);
	cr_assert_eq(world->clock->now_ns(world->clock->ctx), start + 1);
	thmqi_disk_sim_advance(r.sim, 1000);
	cr_assert_eq(thmqi_disk_sim_now(r.sim), start + 1001);
	thmqi_core_poll(r.core, 3600000000000ull);
	cr_assert_geq(thmqi_disk_sim_now(r.sim), start + 3600000000000ull);
	rig_close(&r);
}

static void seen(void *ctx, const char *name, const struct thmqi_disk_op *op)
{
	char *text = ctx;

	sprintf(text + strlen(text), "%u:%s ", op->opcode, name);
}

Test(disk_sim, an_observer_sees_each_operation)
{
	char text[256] = "";
	struct thmqi_disk_file *file;
	struct rig r;

	rig_open(&r, 1, NULL);
	thmqi_disk_sim_observe(r.sim, seen, text);
	file = prepared(&r, "log", 1);
	cr_assert_eq(disk->rename(r.dir, "log", "moved"), 0);
	cr_assert_str_eq(text, "3:log 4:log 2:log 7:data 5:log ");
	disk->file_close(file);
	thmqi_disk_sim_observe(r.sim, NULL, NULL);
	rig_close(&r);
}

/* A block of @byte is written and nothing else, on its own queue. */
static int64_t write_one(struct rig *r, struct thmqi_disk_queue *queue, struct thmqi_disk_file *file, uint8_t byte)
{
	struct job job = {.op = write_op(file, 0, 1, 0)};

	job.op.done = on_done;
	fill(byte, BLOCK);
	cr_assert_eq(disk->queue_submit(queue, &job.op), 0);
	wait_for(r, &job);
	return job.result;
}

Test(disk_sim, a_disk_beside_another_has_its_time_and_its_own_power_faults_and_room)
{
	struct thmqi_disk_file *files[2];
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_sim *other;
	struct thmqi_disk_dir *dir;
	struct rig r;

	rig_open(&r, 1, NULL);
	cr_assert_eq(thmqi_disk_sim_open_beside(r.sim, "other", 2, NULL, &other), 0);
	cr_assert_eq(disk->dir_open(r.sim, "other/deep", true, &dir), 0);
	cr_assert_eq(disk->queue_open(r.sim, r.core, 64, &queue), 0);
	files[0] = prepared(&r, "log", 8);
	cr_assert_eq(disk->file_open(dir, "log", true, &files[1]), 0);
	cr_assert_eq(disk->file_write(files[1], page, 8 * BLOCK, 0, true), 0);
	cr_assert_eq(disk->file_flush(files[1]), 0);
	cr_assert_eq(disk->dir_sync(dir), 0);
	cr_assert_eq(thmqi_disk_sim_now(r.sim), thmqi_disk_sim_now(other));
	/* what is written there is lost there, and nothing here */
	cr_assert_eq(write_one(&r, queue, files[1], 7), 0);
	cr_assert_eq(write_one(&r, r.queue, files[0], 8), 0);
	thmqi_disk_sim_crash_as(other, THMQI_DISK_SIM_CRASH_LOSE);
	cr_assert(thmqi_disk_sim_is_down(other) && !thmqi_disk_sim_is_down(r.sim));
	cr_assert_eq(write_one(&r, queue, files[1], 9), -EIO);
	cr_assert_eq(disk->file_read(files[0], back, BLOCK, 0), BLOCK);
	cr_assert_eq(back[0], 8);
	thmqi_disk_sim_restart(other);
	disk->file_close(files[1]);
	cr_assert_eq(disk->file_open(dir, "log", false, &files[1]), -EIO); /* of before the cut */
	disk->dir_close(dir);
	cr_assert_eq(disk->dir_open(r.sim, "other/deep", false, &dir), 0);
	cr_assert_eq(disk->file_open(dir, "log", false, &files[1]), 0);
	cr_assert_eq(disk->file_read(files[1], back, BLOCK, 0), BLOCK);
	cr_assert_neq(back[0], 7);
	/* and there is no room on one of them */
	thmqi_disk_sim_set_capacity(other, 1);
	cr_assert_eq(disk->file_allocate(files[1], 64 * BLOCK), -ENOSPC);
	cr_assert_eq(disk->file_allocate(files[0], 64 * BLOCK), 0);
	thmqi_disk_sim_set_capacity(other, 0);
	cr_assert_eq(disk->file_allocate(files[1], 64 * BLOCK), 0);
	disk->file_close(files[0]);
	disk->file_close(files[1]);
	disk->queue_close(queue);
	disk->dir_close(dir);
	rig_close(&r);
}
