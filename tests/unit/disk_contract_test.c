/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One contract for every engine behind the disk table: io_uring, helper threads, inline, simulated; and for a file
 * system without O_DIRECT (or with a pretended one), /dev/shm; with durable writes done as a write and a flush, and with
 * polled completions where the device has them.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "disk/disk.h"
#include "disk/sim.h"

enum engine { URING = 1, THREADS, INLINE, SIM };

#define DEPTH 32u

struct rig {
	enum engine engine;
	char path[256];
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	const struct thmqi_disk_table *disk;
	void *ctx;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_queue *queue;
	bool by_flush; /* durable writes are a write and a flush */
};

struct job {
	struct thmqi_disk_op op;
	uint32_t done;
	int64_t result;
	uint32_t order;
};

static uint32_t order_next;

static void job_done(struct thmqi_disk_op *op, int64_t result)
{
	struct job *job = thmqi_container(op, struct job, op);

	job->done++;
	job->result = result;
	job->order = order_next++;
}

static int submit(struct rig *r, struct job *job)
{
	job->op.done = job_done;
	return r->disk->queue_submit(r->queue, &job->op);
}

/* Drive the core until all are done, for 10 seconds at most. */
static void wait_for(struct rig *r, const struct job *jobs, uint32_t count)
{
	for (uint32_t round = 0; round < 10000; round++) {
		uint32_t done = 0;

		for (uint32_t i = 0; i < count; i++)
			done += jobs[i].done != 0;
		if (done == count)
			return;
		thmqi_core_poll(r->core, 1000000);
	}
	cr_assert_fail("operations did not complete");
}

static int64_t run_job(struct rig *r, struct job *job)
{
	job->done = 0;
	cr_assert_eq(submit(r, job), 0);
	cr_assert_eq(job->done, 0, "done ran inside submit");
	wait_for(r, job, 1);
	cr_assert_eq(job->done, 1);
	return job->result;
}

static int64_t run_op(struct rig *r, struct thmqi_disk_op op)
{
	struct job job = {.op = op};

	return run_job(r, &job);
}

static struct thmqi_disk_file *create(struct rig *r, const char *name)
{
	struct job job = {.op = {.opcode = THMQI_DISK_CREATE, .dir = r->dir, .name = name}};

	cr_assert_eq(run_job(r, &job), 0);
	cr_assert_not_null(job.op.file);
	return job.op.file;
}

static int64_t write_at(struct rig *r, struct thmqi_disk_file *file, const void *data, uint32_t len,
			uint64_t offset, uint8_t flags)
{
	return run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
						.flags = flags,
						.file = file,
						.data = (void *)(uintptr_t)data,
						.len = len,
						.offset = offset});
}

static int64_t read_at(struct rig *r, struct thmqi_disk_file *file, void *data, uint32_t len,
		       uint64_t offset)
{
	return run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
						.file = file,
						.data = data,
						.len = len,
						.offset = offset});
}

static uint8_t *pages(uint32_t len, uint32_t seed)
{
	uint8_t *data = aligned_alloc(4096, len);
	struct thmqi_prng prng;

	cr_assert_not_null(data);
	thmqi_prng_seed(&prng, seed);
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t word = thmqi_prng_next(&prng);

		memcpy(data + i, &word, 8);
	}
	return data;
}

/* ------------------------------------------------------------------------ rig */

static void remove_tree(const char *path)
{
	char command[320];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	if (system(command) != 0)
		return;
}

static void open_queue(struct rig *r)
{
	cr_assert_eq(r->disk->queue_open(r->ctx, r->core, DEPTH, &r->queue), 0);
}

/* False: not to be had here. */
static bool rig_open(struct rig *r, enum engine engine, const char *base)
{
	const struct thmqi_world *world = NULL;
	uint32_t flags = 0;

	memset(r, 0, sizeof(*r));
	r->engine = engine;
	if (engine == SIM) {
		cr_assert_eq(thmqi_disk_sim_open(4711, NULL, &r->sim), 0);
		world = thmqi_disk_sim_world(r->sim);
		snprintf(r->path, sizeof(r->path), "some/where");
	} else {
		if (access(base, W_OK) != 0)
			return false;
		snprintf(r->path, sizeof(r->path), "%s/thmq-disk-XXXXXX", base);
		cr_assert_not_null(mkdtemp(r->path));
	}
	if (engine == THREADS)
		flags = THMQ_ENV_NO_URING | THMQ_ENV_ALLOW_THREADS;
	if (engine == INLINE)
		flags = THMQ_ENV_NO_URING;
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags), world, &r->env), 0);
	r->core = thmqi_env_core(r->env, 0);
	r->disk = thmqi_disk_of(r->core, &r->ctx);
	if (engine == URING && !r->core->ring) {
		thmqi_env_close(r->env);
		remove_tree(r->path);
		return false;
	}
	cr_assert_eq(r->core->disk_engine, (uint32_t)engine);
	cr_assert_eq(r->disk->dir_open(r->ctx, r->path, true, &r->dir), 0);
	open_queue(r);
	return true;
}

static void rig_close(struct rig *r)
{
	if (r->queue) {
		cr_assert_eq(r->disk->queue_inflight(r->queue), 0);
		r->disk->queue_close(r->queue);
	}
	if (r->env) {
		r->disk->dir_close(r->dir);
		cr_assert_eq(thmqi_env_close(r->env), 0);
	}
	if (r->sim)
		thmqi_disk_sim_close(r->sim);
	else
		remove_tree(r->path);
}

/* @ways NULL: as the engine does by itself. */
static void run_as(enum engine engine, const char *base, struct thmqi_disk_ways *ways,
		   void (*test)(struct rig *r))
{
	struct rig r;
	int rc = 0;

	if (!rig_open(&r, engine, base))
		return;
	if (ways)
		rc = thmqi_disk_ways(r.disk, r.dir, r.core, ways);
	if (rc != -EOPNOTSUPP) { /* no polled queues here */
		cr_assert_eq(rc, 0);
		r.by_flush = ways && ways->flush_method == THMQ_FLUSH_FDATASYNC;
		test(&r);
	}
	rig_close(&r);
}

static void run_on(enum engine engine, const char *base, void (*test)(struct rig *r))
{
	run_as(engine, base, NULL, test);
}

static void run_by_flush(enum engine engine, const char *base, void (*test)(struct rig *r))
{
	struct thmqi_disk_ways ways = {.flush_method = THMQ_FLUSH_FDATASYNC,
				       .polled_io = THMQ_POLLED_OFF};

	run_as(engine, base, &ways, test);
}

static void run_polled(enum engine engine, const char *base, void (*test)(struct rig *r))
{
	struct thmqi_disk_ways ways = {.flush_method = THMQ_FLUSH_DSYNC,
				       .polled_io = THMQ_POLLED_ON};

	run_as(engine, base, &ways, test);
}

static const char *scratch(void)
{
	const char *dir = getenv("TMPDIR");

	return dir ? dir : "/tmp";
}

#define CONTRACT(behaviour)                                                                        \
	static void behaviour(struct rig *r);                                                      \
	Test(disk_contract, behaviour##_on_uring, .timeout = 60)                                   \
	{                                                                                          \
		run_on(URING, scratch(), behaviour);                                               \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_threads, .timeout = 60)                                 \
	{                                                                                          \
		run_on(THREADS, scratch(), behaviour);                                             \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_inline, .timeout = 60)                                  \
	{                                                                                          \
		run_on(INLINE, scratch(), behaviour);                                              \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_sim, .timeout = 60)                                     \
	{                                                                                          \
		run_on(SIM, NULL, behaviour);                                                      \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_uring_by_flush, .timeout = 60)                          \
	{                                                                                          \
		run_by_flush(URING, scratch(), behaviour);                                         \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_threads_by_flush, .timeout = 60)                        \
	{                                                                                          \
		run_by_flush(THREADS, scratch(), behaviour);                                       \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_uring_polled, .timeout = 60)                            \
	{                                                                                          \
		run_polled(URING, scratch(), behaviour);                                           \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_uring_in_memory, .timeout = 60)                         \
	{                                                                                          \
		run_on(URING, "/dev/shm", behaviour);                                              \
	}                                                                                          \
	Test(disk_contract, behaviour##_on_inline_in_memory, .timeout = 60)                        \
	{                                                                                          \
		run_on(INLINE, "/dev/shm", behaviour);                                             \
	}                                                                                          \
	static void behaviour(struct rig *r)

/* ---------------------------------------------------------------------- tests */

CONTRACT(what_is_written_is_read_back)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *out = pages(65536, 1), *in = pages(65536, 2);

	cr_assert_eq(write_at(r, file, out, 65536, 8192, THMQI_DISK_DSYNC), 0);
	cr_assert_eq(read_at(r, file, in, 65536, 8192), 65536);
	cr_assert_arr_eq(in, out, 65536);
	cr_assert_eq(write_at(r, file, in + 4096, 4096, 8192, 0), 0);
	cr_assert_eq(r->disk->file_read(file, out, 4096, 8192), 4096);
	cr_assert_arr_eq(out, in + 4096, 4096);
	cr_assert_eq(r->disk->file_write(file, in, 512, 512, true), 0);
	cr_assert_eq(read_at(r, file, out, 512, 512), 512);
	cr_assert_arr_eq(out, in, 512);
	/* the hole before it reads as zeros */
	cr_assert_eq(read_at(r, file, out, 512, 0), 512);
	for (int i = 0; i < 512; i++)
		cr_assert_eq(out[i], 0);
	r->disk->file_close(file);
	free(in);
	free(out);
}

CONTRACT(pool_blocks_are_written_and_read)
{
	static const uint32_t sizes[] = {4096, 32768, 1u << 20, 4u << 20};
	struct thmqi_disk_file *file = create(r, "a");
	struct thmqi_buf *out, *in;

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(sizes); i++) {
		uint8_t *data = pages(sizes[i], i);

		cr_assert_eq(thmqi_buf_alloc(r->core->pool, sizes[i], &out), 0);
		cr_assert_eq(thmqi_buf_alloc(r->core->pool, sizes[i], &in), 0);
		memcpy(out->data, data, sizes[i]);
		cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
							      .flags = THMQI_DISK_DSYNC,
							      .file = file,
							      .buf = out,
							      .data = out->data,
							      .len = sizes[i]}),
			     0);
		cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
							      .file = file,
							      .buf = in,
							      .data = in->data,
							      .len = sizes[i]}),
			     sizes[i]);
		cr_assert(memcmp(in->data, data, sizes[i]) == 0);
		thmqi_buf_unref(out);
		thmqi_buf_unref(in);
		free(data);
	}
	r->disk->file_close(file);
}

CONTRACT(a_read_at_the_end_returns_what_there_is)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(16384, 1);

	cr_assert_eq(write_at(r, file, data, 8192, 0, 0), 0);
	cr_assert_eq(read_at(r, file, data, 16384, 4096), 4096);
	cr_assert_eq(read_at(r, file, data, 4096, 8192), 0);
	cr_assert_eq(read_at(r, file, data, 4096, 1 << 20), 0);
	cr_assert_eq(r->disk->file_read(file, data, 16384, 4096), 4096);
	cr_assert_eq(r->disk->file_size(file), 8192);
	r->disk->file_close(file);
	free(data);
}

/* A file that somebody else cut within a sector: O_DIRECT cannot go on from there. */
CONTRACT(a_ragged_end_is_an_end)
{
	struct thmqi_disk_file *file;
	uint8_t *data = pages(4096, 1);
	char name[300];
	FILE *f;

	if (r->sim) {
		free(data);
		return;
	}
	snprintf(name, sizeof(name), "%s/ragged", r->path);
	f = fopen(name, "w");
	cr_assert_eq(fwrite(data, 1, 1000, f), 1000);
	fclose(f);
	cr_assert_eq(r->disk->file_open(r->dir, "ragged", false, &file), 0);
	cr_assert_eq(read_at(r, file, data, 4096, 0), 1000);
	cr_assert_eq(r->disk->file_read(file, data, 4096, 0), 1000);
	r->disk->file_close(file);
	free(data);
}

CONTRACT(all_in_flight_complete_once)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(DEPTH * 4096, 7), *in = pages(DEPTH * 4096, 8);
	static struct job jobs[DEPTH + 1];

	memset(jobs, 0, sizeof(jobs));
	for (uint32_t i = 0; i <= DEPTH; i++) {
		jobs[i].op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
						    .flags = i % 2 ? THMQI_DISK_DSYNC : 0,
						    .file = file,
						    .data = data + i % DEPTH * 4096,
						    .len = 4096,
						    .offset = i % DEPTH * 4096};
		cr_assert_eq(submit(r, &jobs[i]), i < DEPTH ? 0 : -EAGAIN);
	}
	cr_assert_eq(r->disk->queue_inflight(r->queue), DEPTH);
	for (uint32_t i = 0; i < DEPTH; i++)
		cr_assert_eq(jobs[i].done, 0);
	wait_for(r, jobs, DEPTH);
	thmqi_core_poll(r->core, 1000000);
	for (uint32_t i = 0; i < DEPTH; i++) {
		cr_assert_eq(jobs[i].done, 1);
		cr_assert_eq(jobs[i].result, 0);
	}
	cr_assert_eq(jobs[DEPTH].done, 0);
	cr_assert_eq(r->disk->queue_inflight(r->queue), 0);
	cr_assert_eq(submit(r, &jobs[DEPTH]), 0);
	wait_for(r, &jobs[DEPTH], 1);
	cr_assert_eq(r->disk->file_read(file, in, DEPTH * 4096, 0), DEPTH * 4096);
	cr_assert(memcmp(in, data, DEPTH * 4096) == 0);
	r->disk->file_close(file);
	free(data);
	free(in);
}

struct resubmit {
	struct job job;
	struct rig *r;
	uint32_t left;
};

static void resubmit_done(struct thmqi_disk_op *op, int64_t result)
{
	struct resubmit *s = thmqi_container(op, struct resubmit, job.op);

	cr_assert_eq(result, 0);
	if (--s->left == 0)
		s->job.done = 1;
	else
		cr_assert_eq(s->r->disk->queue_submit(s->r->queue, op), 0);
}

CONTRACT(an_operation_may_be_submitted_again_from_its_own_callback)
{
	struct resubmit s = {.r = r, .left = 50};
	uint8_t *data = pages(4096, 1);

	s.job.op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
					  .file = create(r, "a"),
					  .data = data,
					  .len = 4096,
					  .done = resubmit_done};
	cr_assert_eq(r->disk->queue_submit(r->queue, &s.job.op), 0);
	wait_for(r, &s.job, 1);
	r->disk->file_close(s.job.op.file);
	free(data);
}

struct listing {
	uint32_t count;
	char names[512];
};

static int list_each(void *arg, const char *name)
{
	struct listing *l = arg;

	l->count++;
	strcat(strcat(l->names, name), " ");
	return 0;
}

static int stop_each(void *arg, const char *name)
{
	(void)name;
	++*(int *)arg;
	return 42;
}

CONTRACT(a_segment_is_prepared_by_the_queue_alone)
{
	struct thmqi_disk_file *file = create(r, "next.tmp"), *again;
	uint8_t *data = pages(65536, 3);
	struct listing l = {0};

	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_ALLOCATE,
						      .file = file,
						      .len = 1 << 20}),
		     0);
	cr_assert_eq(r->disk->file_size(file), 1 << 20);
	/* never smaller */
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_ALLOCATE,
						      .file = file,
						      .len = 4096}),
		     0);
	cr_assert_eq(r->disk->file_size(file), 1 << 20);
	for (uint64_t at = 0; at < 1 << 20; at += 65536)
		cr_assert_eq(write_at(r, file, data, 65536, at, THMQI_DISK_BACKGROUND), 0);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = file}),
		     0);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_RENAME,
						      .dir = r->dir,
						      .name = "next.tmp",
						      .name2 = "0.log"}),
		     0);
	cr_assert_eq(
		run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_SYNC_DIR, .dir = r->dir}), 0);
	cr_assert_eq(r->disk->dir_list(r->dir, list_each, &l), 0);
	cr_assert_str_eq(l.names, "0.log ");
	cr_assert_eq(r->disk->file_open(r->dir, "next.tmp", false, &again), -ENOENT);
	cr_assert_eq(r->disk->file_open(r->dir, "0.log", false, &again), 0);
	cr_assert_eq(r->disk->file_size(again), 1 << 20);
	r->disk->file_close(again);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_CLOSE, .file = file}),
		     0);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_UNLINK,
						      .dir = r->dir,
						      .name = "0.log"}),
		     0);
	memset(&l, 0, sizeof(l));
	cr_assert_eq(r->disk->dir_list(r->dir, list_each, &l), 0);
	cr_assert_eq(l.count, 0);
	free(data);
}

CONTRACT(a_file_that_is_there_is_opened_beside_the_core)
{
	struct job job = {.op = {.opcode = THMQI_DISK_OPEN, .dir = r->dir, .name = "a"}};
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(8192, 5);

	cr_assert_eq(write_at(r, file, data, 4096, 0, 0), 0);
	r->disk->file_close(file);
	cr_assert_eq(run_job(r, &job), 0);
	cr_assert_eq(r->disk->file_size(job.op.file), 4096, "it is as it was");
	cr_assert_eq(r->disk->file_read(job.op.file, data + 4096, 4096, 0), 4096);
	cr_assert_arr_eq(data, data + 4096, 4096);
	r->disk->file_close(job.op.file);
	job = (struct job){.op = {.opcode = THMQI_DISK_OPEN, .dir = r->dir, .name = "b"}};
	cr_assert_eq(run_job(r, &job), -ENOENT);
	free(data);
}

CONTRACT(create_gives_an_empty_file_even_where_one_was)
{
	struct thmqi_disk_file *file = create(r, "a"), *again;
	uint8_t *data = pages(4096, 3);

	cr_assert_eq(write_at(r, file, data, 4096, 0, 0), 0);
	r->disk->file_close(file);
	cr_assert_eq(r->disk->file_open(r->dir, "a", true, &again), 0);
	cr_assert_eq(r->disk->file_size(again), 4096, "file_open does not empty it");
	r->disk->file_close(again);
	again = create(r, "a");
	cr_assert_eq(r->disk->file_size(again), 0);
	r->disk->file_close(again);
	free(data);
}

CONTRACT(failures_are_negative_errno_and_change_nothing)
{
	struct thmqi_disk_file *file = (void *)1;
	struct thmqi_disk_dir *dir = (void *)1;
	char path[300];
	int stops = 0;

	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_RENAME,
						      .dir = r->dir,
						      .name = "no",
						      .name2 = "such"}),
		     -ENOENT);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_UNLINK,
						      .dir = r->dir,
						      .name = "no"}),
		     -ENOENT);
	cr_assert_eq(r->disk->rename(r->dir, "no", "such"), -ENOENT);
	cr_assert_eq(r->disk->unlink(r->dir, "no"), -ENOENT);
	cr_assert_eq(r->disk->file_open(r->dir, "no", false, &file), -ENOENT);
	cr_assert_eq(file, (void *)1);
	snprintf(path, sizeof(path), "%s/not/there", r->path);
	cr_assert_eq(r->disk->dir_open(r->ctx, path, false, &dir), -ENOENT);
	cr_assert_eq(dir, (void *)1);
	r->disk->file_close(create(r, "x"));
	cr_assert_eq(r->disk->dir_list(r->dir, stop_each, &stops), 42);
	cr_assert_eq(stops, 1);
}

CONTRACT(directories_are_made_with_their_parents)
{
	struct thmqi_disk_dir *dir;
	struct listing l = {0};
	char path[300];

	snprintf(path, sizeof(path), "%s/data//meta/", r->path);
	cr_assert_eq(r->disk->dir_open(r->ctx, path, true, &dir), 0);
	cr_assert_eq(r->disk->dir_sync(dir), 0);
	r->disk->dir_close(dir);
	cr_assert_eq(r->disk->dir_list(r->dir, list_each, &l), 0);
	cr_assert_str_eq(l.names, "data ");
	snprintf(path, sizeof(path), "%s/data", r->path);
	cr_assert_eq(r->disk->dir_open(r->ctx, path, false, &dir), 0);
	memset(&l, 0, sizeof(l));
	cr_assert_eq(r->disk->dir_list(dir, list_each, &l), 0);
	cr_assert_str_eq(l.names, "meta ");
	r->disk->dir_close(dir);
}

CONTRACT(a_second_lock_is_refused_and_names_the_holder)
{
	struct thmqi_disk_dir *second;
	uint64_t pid = 0;

	cr_assert_eq(r->disk->dir_lock(r->dir, "lock", &pid), 0);
	cr_assert_eq(r->disk->dir_lock(r->dir, "lock", &pid), -EBUSY);
	cr_assert_eq(r->disk->dir_open(r->ctx, r->path, false, &second), 0);
	pid = 0;
	cr_assert_eq(r->disk->dir_lock(second, "lock", &pid), -EBUSY);
	cr_assert_eq(pid, (uint64_t)getpid());
	r->disk->dir_close(second);
	/* closing the refused one does not free the lock, closing the holder does */
	cr_assert_eq(r->disk->dir_open(r->ctx, r->path, false, &second), 0);
	cr_assert_eq(r->disk->dir_lock(second, "lock", &pid), -EBUSY);
	r->disk->dir_close(r->dir);
	cr_assert_eq(r->disk->dir_lock(second, "lock", &pid), 0);
	r->dir = second;
}

CONTRACT(closing_the_queue_waits_for_what_is_in_flight)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(65536, 1);
	struct job jobs[8] = {0};

	for (uint32_t i = 0; i < 8; i++) {
		jobs[i].op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
						    .flags = THMQI_DISK_DSYNC |
							     (i % 2 ? THMQI_DISK_BACKGROUND : 0),
						    .file = file,
						    .data = data,
						    .len = 65536,
						    .offset = i * 65536};
		cr_assert_eq(submit(r, &jobs[i]), 0);
	}
	r->disk->queue_close(r->queue);
	r->queue = NULL;
	for (uint32_t i = 0; i < 8; i++) {
		cr_assert_eq(jobs[i].done, 1);
		cr_assert_eq(jobs[i].result, 0);
	}
	/* the file outlives the queue, and serves another */
	cr_assert_eq(r->disk->file_size(file), 8 * 65536);
	open_queue(r);
	cr_assert_eq(write_at(r, file, data, 4096, 0, 0), 0);
	r->disk->queue_close(r->queue);
	r->queue = NULL;
	r->disk->file_close(file);
	free(data);
}

CONTRACT(a_file_may_be_closed_after_its_core)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(4096, 1);

	cr_assert_eq(write_at(r, file, data, 4096, 0, 0), 0);
	r->disk->queue_close(r->queue);
	r->queue = NULL;
	r->disk->dir_close(r->dir);
	cr_assert_eq(thmqi_env_close(r->env), 0);
	r->env = NULL;
	cr_assert_eq(r->disk->file_size(file), 4096);
	r->disk->file_close(file);
	free(data);
}

CONTRACT(preparation_goes_on_beside_the_rest)
{
	struct thmqi_disk_file *file = create(r, "a"), *other = create(r, "b");
	uint8_t *data = pages(262144, 1);
	const bool helps = r->engine == URING || r->engine == THREADS;
	uint32_t before, tries = 0;

	/* what comes last does not stand behind all of them, where the engine can help it; on a busy machine they may be done before it is begun */
	do {
		struct job jobs[DEPTH] = {0};

		before = 0;
		for (uint32_t i = 0; i < DEPTH - 1; i++) {
			jobs[i].op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
							    .flags = THMQI_DISK_BACKGROUND,
							    .file = file,
							    .data = data,
							    .len = 262144,
							    .offset = i * 262144};
			cr_assert_eq(submit(r, &jobs[i]), 0);
		}
		jobs[DEPTH - 1].op = (struct thmqi_disk_op){
			.opcode = THMQI_DISK_WRITE, .file = other, .data = data, .len = 4096};
		cr_assert_eq(submit(r, &jobs[DEPTH - 1]), 0);
		wait_for(r, jobs, DEPTH);
		for (uint32_t i = 0; i < DEPTH; i++) {
			cr_assert_eq(jobs[i].done, 1);
			cr_assert_eq(jobs[i].result, 0);
			before += jobs[i].order < jobs[DEPTH - 1].order;
		}
	} while (helps && before == DEPTH - 1 && ++tries < 20);
	if (helps)
		cr_assert_lt(before, DEPTH - 1);
	cr_assert_eq(r->disk->file_size(file), (DEPTH - 1) * 262144);
	r->disk->file_close(file);
	r->disk->file_close(other);
	free(data);
}

CONTRACT(the_core_counts_what_it_takes)
{
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(8192, 1);
	uint64_t writes = r->core->writes, bytes = r->core->write_bytes, flushes = r->core->flushes,
		 reads = r->core->reads, read_bytes = r->core->read_bytes;

	cr_assert_eq(write_at(r, file, data, 8192, 0, 0), 0);
	cr_assert_eq(write_at(r, file, data, 4096, 0, THMQI_DISK_DSYNC), 0);
	cr_assert_eq(read_at(r, file, data, 8192, 0), 8192);
	cr_assert_eq(run_op(r, (struct thmqi_disk_op){.opcode = THMQI_DISK_FLUSH, .file = file}),
		     0);
	cr_assert_eq(r->core->writes - writes, 2);
	cr_assert_eq(r->core->write_bytes - bytes, 12288);
	cr_assert_eq(r->core->reads - reads, 1);
	cr_assert_eq(r->core->read_bytes - read_bytes, 8192);
	cr_assert_eq(r->core->flushes - flushes, 1u + r->by_flush);
	r->disk->file_close(file);
	free(data);
}

CONTRACT(an_unknown_operation_is_refused)
{
	struct job job = {.op = {.opcode = 99}};

	cr_assert_eq(submit(r, &job), -EINVAL);
	cr_assert_eq(r->disk->queue_inflight(r->queue), 0);
}

/* A write that the system refuses half-way is an error, not a short success. */
CONTRACT(a_limit_is_an_error)
{
	struct rlimit limit = {.rlim_cur = 65536, .rlim_max = RLIM_INFINITY};
	struct thmqi_disk_file *file = create(r, "a");
	uint8_t *data = pages(131072, 1);

	if (!r->sim) {
		signal(SIGXFSZ, SIG_IGN);
		getrlimit(RLIMIT_FSIZE, &limit);
		limit.rlim_cur = 65536;
		setrlimit(RLIMIT_FSIZE, &limit);
		cr_assert_lt(write_at(r, file, data, 131072, 0, 0), 0);
		cr_assert_eq(write_at(r, file, data, 4096, 65536, 0), -EFBIG);
		cr_assert_eq(write_at(r, file, data, 4096, 0, 0), 0, "it goes on after an error");
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	r->disk->file_close(file);
	free(data);
}

/* Another process, which then dies without closing anything. */
Test(disk_contract, a_lock_of_another_process_goes_with_it, .timeout = 30)
{
	char path[] = "/tmp/thmq-disk-XXXXXX";
	struct thmqi_disk_dir *dir;
	uint64_t holder = 0;
	int ready[2];
	char c;
	pid_t pid;

	cr_assert_not_null(mkdtemp(path));
	cr_assert_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		if (thmqi_disk_posix.dir_open(NULL, path, false, &dir) != 0 ||
		    thmqi_disk_posix.dir_lock(dir, "lock", &holder) != 0 ||
		    write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	cr_assert_eq(read(ready[0], &c, 1), 1);
	cr_assert_eq(thmqi_disk_posix.dir_open(NULL, path, false, &dir), 0);
	cr_assert_eq(thmqi_disk_posix.dir_lock(dir, "lock", &holder), -EBUSY);
	cr_assert_eq(holder, (uint64_t)pid);
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(thmqi_disk_posix.dir_lock(dir, "lock", &holder), 0);
	thmqi_disk_posix.dir_close(dir);
	remove_tree(path);
}

Test(disk_contract, the_real_calling_half_needs_no_core)
{
	char path[] = "/tmp/thmq-disk-XXXXXX";
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	uint8_t *data = pages(4096, 1), *in = pages(4096, 2);

	cr_assert_not_null(mkdtemp(path));
	cr_assert_eq(thmqi_disk_posix.dir_open(NULL, path, false, &dir), 0);
	cr_assert_eq(thmqi_disk_posix.file_open(dir, "a", true, &file), 0);
	cr_assert_eq(thmqi_disk_posix.file_write(file, data, 4096, 0, true), 0);
	cr_assert_eq(thmqi_disk_posix.file_read(file, in, 4096, 0), 4096);
	cr_assert_arr_eq(in, data, 4096);
	cr_assert_eq(thmqi_disk_posix.queue_open(NULL, NULL, 8, &queue), -EOPNOTSUPP);
	thmqi_disk_posix.file_close(file);
	thmqi_disk_posix.dir_close(dir);
	remove_tree(path);
	free(data);
	free(in);
}
