/* SPDX-License-Identifier: Apache-2.0 */
/* How a directory's files are written: measured once for each device, or as the owner says; and that it is done so. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "../../lib/disk/internal.h"
#include "disk/sim.h"
#include "disk_job.h"

#define SLOW_NS 50000000u

TestSuite(disk_probe, .timeout = 60);

struct rig {
	char path[64];
	struct thmq_env *env;
	struct thmq_core *core;
	const struct thmqi_disk_table *disk;
	void *ctx;
	struct thmqi_disk_dir *dir;
};

static struct rig r;

static void open_rig(uint32_t flags, uint32_t policy)
{
	snprintf(r.path, sizeof(r.path), "/tmp/thmq-probe-XXXXXX");
	cr_assert_not_null(mkdtemp(r.path));
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags, .policy = policy), NULL, &r.env),
		     0);
	r.core = thmqi_env_core(r.env, 0);
	r.disk = thmqi_disk_of(r.core, &r.ctx);
	cr_assert_eq(r.disk->dir_open(r.ctx, r.path, true, &r.dir), 0);
}

static void up(void)
{
	open_rig(0, THMQ_POLICY_DEFAULT);
}

static void down(void)
{
	char command[96];

	if (r.dir)
		r.disk->dir_close(r.dir);
	cr_assert_eq(thmqi_env_close(r.env), 0);
	snprintf(command, sizeof(command), "rm -rf %s", r.path);
	cr_assert_eq(system(command), 0);
}

static struct thmqi_disk_ways ask(uint32_t flush_method, uint32_t polled_io)
{
	struct thmqi_disk_ways ways = {.flush_method = flush_method, .polled_io = polled_io};

	cr_assert_eq(thmqi_disk_ways(r.disk, r.dir, r.core, &ways), 0);
	return ways;
}

/* Is it measured? A machine may be so slow that there is no time for enough of it. */
static bool is_measured(uint64_t dsync_ns, uint64_t flush_ns, uint64_t begin)
{
	if (thmqi_clock_real.now_ns(NULL) - begin > SLOW_NS)
		return (dsync_ns != 0) == (flush_ns != 0);
	return dsync_ns && flush_ns;
}

/* ------------------------------------------------------------------- asking */

Test(disk_probe, the_flush_method_is_measured_and_kept_for_the_device, .init = up, .fini = down)
{
	uint64_t begin = thmqi_clock_real.now_ns(NULL);
	struct thmqi_disk_ways first = ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF), second;
	struct thmqi_disk_dir *other;
	char path[96];

	cr_assert(first.flush_method == THMQ_FLUSH_DSYNC ||
		  first.flush_method == THMQ_FLUSH_FDATASYNC);
	cr_assert_eq(first.polled_io, THMQ_POLLED_OFF);
	cr_assert(is_measured(first.dsync_ns, first.flush_ns, begin));
	snprintf(path, sizeof(path), "%s/other", r.path);
	cr_assert_eq(r.disk->dir_open(r.ctx, path, true, &other), 0);
	second = (struct thmqi_disk_ways){.polled_io = THMQ_POLLED_OFF};
	cr_assert_eq(thmqi_disk_ways(r.disk, other, r.core, &second), 0);
	cr_assert_eq(second.dsync_ns, first.dsync_ns, "measured again");
	cr_assert_eq(second.flush_ns, first.flush_ns);
	cr_assert_eq(second.flush_method, first.flush_method);
	r.disk->dir_close(other);
}

Test(disk_probe, the_flush_method_is_measured_without_io_uring_too)
{
	struct thmqi_disk_ways ways;
	uint64_t begin;

	open_rig(THMQ_ENV_NO_URING, THMQ_POLICY_DEFAULT);
	begin = thmqi_clock_real.now_ns(NULL);
	ways = ask(THMQ_FLUSH_PROBE, THMQ_POLLED_PROBE);
	cr_assert(is_measured(ways.dsync_ns, ways.flush_ns, begin));
	cr_assert_eq(ways.polled_io, THMQ_POLLED_OFF);
	down();
}

Test(disk_probe, devices_are_told_apart_and_too_many_do_no_harm, .init = up, .fini = down)
{
	struct thmqi_device_notes *notes = thmqi_env_device_notes(r.env);
	struct thmqi_disk_ways ways;

	notes->count = THMQI_DEVICE_NOTES;
	for (uint32_t i = 0; i < THMQI_DEVICE_NOTES; i++)
		notes->notes[i] = (struct thmqi_device_note){
			.device = UINT64_MAX - i, .dsync_ns = 7, .flush_ns = 7, .has_flush = true};
	ways = ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF);
	cr_assert_neq(ways.dsync_ns, 7);
	cr_assert_eq(notes->count, THMQI_DEVICE_NOTES);
}

Test(disk_probe, what_is_known_of_the_device_decides, .init = up, .fini = down)
{
	struct thmqi_device_notes *notes = thmqi_env_device_notes(r.env);

	ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF);
	cr_assert_eq(notes->count, 1);
	notes->notes[0].split = true;
	cr_assert_eq(ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF).flush_method, THMQ_FLUSH_FDATASYNC);
	cr_assert(r.dir->split);
	notes->notes[0].split = false;
	cr_assert_eq(ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF).flush_method, THMQ_FLUSH_DSYNC);
	cr_assert_not(r.dir->split);
}

Test(disk_probe, a_method_that_is_given_is_not_measured, .init = up, .fini = down)
{
	for (uint32_t method = THMQ_FLUSH_DSYNC; method <= THMQ_FLUSH_FDATASYNC; method++) {
		struct thmqi_disk_ways ways = ask(method, THMQ_POLLED_OFF);

		cr_assert_eq(ways.flush_method, method);
		cr_assert_eq(ways.dsync_ns, 0);
		cr_assert_eq(ways.flush_ns, 0);
	}
}

Test(disk_probe, it_leaves_nothing_in_the_directory, .init = up, .fini = down)
{
	struct dirent *e;
	DIR *d;

	ask(THMQ_FLUSH_PROBE, THMQ_POLLED_PROBE);
	d = opendir(r.path);
	cr_assert_not_null(d);
	while ((e = readdir(d)))
		cr_assert_eq(e->d_name[0], '.', "%s is left", e->d_name);
	closedir(d);
}

/* Its directory is gone: as if it could not be written to. */
Test(disk_probe, where_no_file_can_be_made_the_flag_is_taken, .init = up, .fini = down)
{
	struct thmqi_disk_ways ways;
	uint64_t begin;

	cr_assert_eq(rmdir(r.path), 0);
	ways = ask(THMQ_FLUSH_PROBE, THMQ_POLLED_PROBE);
	cr_assert_eq(ways.flush_method, THMQ_FLUSH_DSYNC);
	cr_assert_eq(ways.dsync_ns, 0);
	cr_assert_eq(mkdir(r.path, 0777), 0);
	r.disk->dir_close(r.dir);
	cr_assert_eq(r.disk->dir_open(r.ctx, r.path, true, &r.dir), 0);
	begin = thmqi_clock_real.now_ns(NULL);
	ways = ask(THMQ_FLUSH_PROBE, THMQ_POLLED_OFF);
	cr_assert(is_measured(ways.dsync_ns, ways.flush_ns, begin), "asked again once it can be");
}

Test(disk_probe, a_simulated_disk_has_one_way)
{
	struct thmqi_disk_ways ways = {0};
	struct thmqi_disk_sim *sim;

	cr_assert_eq(thmqi_disk_sim_open(1, NULL, &sim), 0);
	cr_assert_eq(thmqi_env_open(NULL, thmqi_disk_sim_world(sim), &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
	r.disk = thmqi_disk_of(r.core, &r.ctx);
	cr_assert_eq(r.disk->dir_open(r.ctx, "a", true, &r.dir), 0);
	cr_assert_eq(thmqi_disk_ways(r.disk, r.dir, r.core, &ways), 0);
	cr_assert_eq(ways.flush_method, 0);
	cr_assert_eq(ways.polled_io, 0);
	ways.polled_io = THMQ_POLLED_ON;
	cr_assert_eq(thmqi_disk_ways(r.disk, r.dir, r.core, &ways), -EOPNOTSUPP);
	r.disk->dir_close(r.dir);
	cr_assert_eq(thmqi_env_close(r.env), 0);
	thmqi_disk_sim_close(sim);
}

/* ------------------------------------------------------------------- polled */

Test(disk_probe, polling_that_must_be_and_cannot_is_an_error)
{
	struct thmqi_disk_ways ways = {.polled_io = THMQ_POLLED_ON};

	open_rig(THMQ_ENV_NO_URING, THMQ_POLICY_DEFAULT);
	cr_assert_eq(thmqi_disk_ways(r.disk, r.dir, r.core, &ways), -EOPNOTSUPP);
	cr_assert_eq(ways.polled_io, THMQ_POLLED_ON, "a failed call changes nothing");
	cr_assert_null(r.core->polled);
	down();
}

Test(disk_probe, a_core_that_sleeps_at_once_is_not_made_to_poll)
{
	open_rig(0, THMQ_POLICY_EVENT);
	cr_assert_eq(ask(THMQ_FLUSH_DSYNC, THMQ_POLLED_PROBE).polled_io, THMQ_POLLED_OFF);
	cr_assert_null(r.core->polled);
	down();
}

static int64_t run(struct thmqi_disk_queue *q, struct thmqi_disk_op op)
{
	struct disk_job job = {.op = op};

	job.op.done = disk_job_done;
	cr_assert_eq(r.disk->queue_submit(q, &job.op), 0);
	cr_assert(disk_job_wait(r.core, &job));
	return job.result;
}

static void write_and_read(struct thmqi_disk_queue *q, uint32_t count)
{
	struct thmqi_disk_file *file;
	struct thmqi_buf *buf;

	cr_assert_eq(r.disk->file_open(r.dir, "a", true, &file), 0);
	cr_assert_eq(thmqi_buf_alloc(r.core->pool, 65536, &buf), 0);
	for (uint32_t i = 0; i < count; i++) {
		struct thmqi_disk_op op = {.opcode = THMQI_DISK_WRITE,
					   .flags = i % 2 ? THMQI_DISK_DSYNC : 0,
					   .file = file,
					   .buf = buf,
					   .data = buf->data,
					   .len = i % 4 ? 4096 : 65536,
					   .offset = (uint64_t)(i % 8) * 65536};

		memset(buf->data, (int)(i & 0xff), 65536);
		cr_assert_eq(run(q, op), 0);
		memset(buf->data, 0xee, 65536);
		op.opcode = THMQI_DISK_READ;
		cr_assert_eq(run(q, op), op.len);
		for (uint32_t at = 0; at < op.len; at += 511)
			cr_assert_eq(buf->data[at], (uint8_t)i);
		op.offset = 1 << 30; /* behind the end */
		cr_assert_eq(run(q, op), 0);
	}
	thmqi_buf_unref(buf);
	r.disk->file_close(file);
}

/* Put in by hand, so that the way of an operation is tried where no device has such queues: it is done by polling, or the
 * kernel refuses and it goes to the other ring. */
Test(disk_probe, what_cannot_be_polled_for_is_done_all_the_same, .init = up, .fini = down)
{
	struct thmqi_disk_queue *q;
	struct thmqi_ring *polled;

	if (!r.core->ring)
		cr_skip_test("io_uring is refused here");
	cr_assert_eq(thmqi_ring_open_polled(8, &polled), 0);
	r.core->polled = polled;
	thmqi_pool_subscribe(r.core->pool, thmqi_ring_registrar(polled));
	r.dir->polled = true;
	for (uint32_t split = 0; split < 2; split++) {
		r.dir->split = split;
		cr_assert_eq(r.disk->queue_open(r.ctx, r.core, 8, &q), 0);
		write_and_read(q, 12);
		r.disk->queue_close(q);
		cr_assert_eq(thmqi_ring_inflight(polled), 0);
	}
}

/* -------------------------------------------------------------- as it is told */

Test(disk_probe, a_durable_write_is_flagged_or_flushed_as_was_settled, .init = up, .fini = down)
{
	struct thmqi_disk_queue *q;
	struct thmqi_disk_file *file;
	struct thmqi_buf *buf;

	cr_assert_eq(r.disk->queue_open(r.ctx, r.core, 8, &q), 0);
	cr_assert_eq(thmqi_buf_alloc(r.core->pool, 4096, &buf), 0);
	memset(buf->data, 1, 4096);
	for (uint32_t method = THMQ_FLUSH_DSYNC; method <= THMQ_FLUSH_FDATASYNC; method++) {
		struct thmqi_disk_op op = {
			.opcode = THMQI_DISK_WRITE, .buf = buf, .data = buf->data, .len = 4096};
		uint64_t flushes = r.core->flushes;

		ask(method, THMQ_POLLED_OFF);
		cr_assert_eq(r.disk->file_open(r.dir, "a", true, &file), 0);
		cr_assert_eq(file->split, method == THMQ_FLUSH_FDATASYNC);
		op.file = file;
		cr_assert_eq(run(q, op), 0);
		cr_assert_eq(r.core->flushes, flushes, "nobody asked for it to be durable");
		op.flags = THMQI_DISK_DSYNC;
		cr_assert_eq(run(q, op), 0);
		cr_assert_eq(r.core->flushes, flushes + (method == THMQ_FLUSH_FDATASYNC));
		cr_assert_eq(r.disk->file_write(file, buf->data, 4096, 0, true), 0);
		r.disk->file_close(file);
	}
	thmqi_buf_unref(buf);
	r.disk->queue_close(q);
}

/* ------------------------------------------------------------------- the log */

static struct thmq_log_stats open_log(uint32_t flush_method, uint32_t polled_io)
{
	struct thmq_log_stats s = {.size = sizeof(s)};
	struct thmq_log *log;

	cr_assert_eq(
		thmq_log_open(r.core,
			      THMQ_LOG_OPTS(.dir = r.path, .segment_bytes_min = 1u << 20,
					    .segment_bytes_max = 1u << 20,
					    .flush_method = flush_method, .polled_io = polled_io),
			      &log),
		0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_stats(log, &s), 0);
	cr_assert_eq(thmq_log_close(log, UINT64_MAX), 0);
	return s;
}

Test(disk_probe, a_log_tells_how_it_writes, .init = up, .fini = down)
{
	uint64_t begin = thmqi_clock_real.now_ns(NULL);
	struct thmq_log_stats probed = open_log(0, THMQ_POLLED_OFF);

	cr_assert(is_measured(probed.dsync_ns, probed.fdatasync_ns, begin));
	cr_assert_neq(probed.flush_method, 0);
	cr_assert_eq(probed.polled_io, THMQ_POLLED_OFF);
	cr_assert_eq(open_log(THMQ_FLUSH_DSYNC, 0).flush_method, THMQ_FLUSH_DSYNC);
	cr_assert_eq(open_log(THMQ_FLUSH_FDATASYNC, 0).flush_method, THMQ_FLUSH_FDATASYNC);
}

Test(disk_probe, a_log_refuses_ways_that_there_are_not)
{
	struct thmq_log *log = NULL;

	open_rig(THMQ_ENV_NO_URING, THMQ_POLICY_DEFAULT);
	cr_assert_eq(thmq_log_open(r.core, THMQ_LOG_OPTS(.dir = r.path, .flush_method = 3), &log),
		     -EINVAL);
	cr_assert_eq(thmq_log_open(r.core, THMQ_LOG_OPTS(.dir = r.path, .polled_io = 3), &log),
		     -EINVAL);
	cr_assert_eq(thmq_log_open(r.core,
				   THMQ_LOG_OPTS(.dir = r.path, .polled_io = THMQ_POLLED_ON), &log),
		     -EOPNOTSUPP);
	cr_assert(strstr(thmq_errmsg(), "polled queues"), "%s", thmq_errmsg());
	cr_assert_null(log);
	down();
}
