/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completions that are polled for, on a device that has polled queues (an NVMe drive with nvme.poll_queues set); elsewhere
 * skipped: 77. A log is written and read so under every policy; a core does not sleep while something is in flight, and
 * does when nothing is; a core may change hands in the middle.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "../unit/disk_job.h"

#define RUNS 200u
#define RUN_BYTES 1000u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s: line %d: %s (%s)\n", about, __LINE__, #x,             \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *about = "";

struct state {
	uint64_t durable;
	uint32_t replayed;
};

static void settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct state *s = ctx;

	if (durability == THMQ_DURABILITY_DURABLE)
		s->durable = index;
}

static int replay(void *ctx, const struct thmq_log_run *run)
{
	struct state *s = ctx;

	s->replayed += run->header->partition == 1;
	return 0;
}

static const struct thmq_log_events events = {
	.size = sizeof(events), .settled = settled, .replay = replay};

static int open_log(struct thmq_core *core, const char *dir, uint32_t polled_io,
		    uint32_t flush_method, struct state *state, struct thmq_log **ret_log)
{
	return thmq_log_open(core,
			     THMQ_LOG_OPTS(.dir = dir, .events = &events, .ctx = state,
					   .polled_io = polled_io, .flush_method = flush_method,
					   .segment_bytes_min = 4u << 20),
			     ret_log);
}

static void publish(struct thmq_core *core, struct thmq_log *log, struct state *state,
		    uint64_t from, uint32_t count)
{
	struct thmq_run_header *run;
	uint64_t index;

	for (uint32_t i = 0; i < count; i++) {
		CHECK(thmq_log_append(log, sizeof(*run) + RUN_BYTES, &run, &index) == 0);
		memset(run, 0, sizeof(*run));
		run->len = RUN_BYTES;
		run->base_offset = from + i;
		run->partition = 1;
		run->count = run->span = 1;
		run->encoding = THMQ_RUN_OPAQUE;
		memset(run + 1, (int)(from + i), RUN_BYTES);
		thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE);
		for (uint32_t tries = 0; tries < 10000 && state->durable < index; tries++)
			thmqi_core_poll(core, 1000000);
		CHECK(state->durable >= index);
	}
}

/* A second life reads what the first one wrote. */
static void lives(const char *dir, uint32_t policy, uint32_t polled_io, uint32_t flush_method)
{
	struct thmq_env_stats env_stats = {.size = sizeof(env_stats)};
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct state state = {0};
	struct thmq_core *core;
	struct thmq_log *log;
	struct thmq_env *env;
	uint64_t sleeps;

	CHECK(thmqi_env_open(THMQ_ENV_OPTS(.policy = policy, .spin_ns = 1000), NULL, &env) == 0);
	core = thmqi_env_core(env, 0);
	for (uint32_t life = 0; life < 2; life++) {
		state.replayed = 0;
		CHECK(open_log(core, dir, polled_io, flush_method, &state, &log) == 0);
		CHECK(state.replayed == life * RUNS);
		CHECK(thmq_log_stats(log, &stats) == 0);
		CHECK(stats.polled_io ==
		      (policy == THMQ_POLICY_EVENT && polled_io == THMQ_POLLED_PROBE
			       ? THMQ_POLLED_OFF
			       : stats.polled_io));
		CHECK(polled_io != THMQ_POLLED_ON || stats.polled_io == THMQ_POLLED_ON);
		publish(core, log, &state, (uint64_t)life * RUNS, RUNS);
		sleeps = core->sleeps;
		thmqi_core_poll(core, 20000000);
		CHECK(policy == THMQ_POLICY_POLL || core->sleeps > sleeps);
		CHECK(thmq_log_close(log, UINT64_MAX) == 0);
	}
	thmqi_env_stats(env, &env_stats);
	CHECK(env_stats.polled_cores == (stats.polled_io == THMQ_POLLED_ON));
	printf("%s: polled %u, flush method %u, dsync %llu ns, fdatasync %llu ns\n", about,
	       stats.polled_io, stats.flush_method, (unsigned long long)stats.dsync_ns,
	       (unsigned long long)stats.fdatasync_ns);
	CHECK(thmqi_env_close(env) == 0);
}

/* ------------------------------------------------------------- in flight */

struct other {
	struct thmq_env *env;
	struct disk_job *job;
};

static void *other_thread(void *arg)
{
	struct other *o = arg;

	CHECK(thmqi_core_attach(o->env, 0) == 0);
	disk_job_wait(thmqi_env_core(o->env, 0), o->job);
	CHECK(thmqi_core_detach(o->env) == 0);
	return NULL;
}

static void in_flight(const char *path)
{
	struct thmqi_disk_ways ways = {.polled_io = THMQ_POLLED_ON,
				       .flush_method = THMQ_FLUSH_DSYNC};
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	struct thmq_core *core;
	struct thmqi_buf *buf;
	struct thmq_env *env;
	struct other other;
	pthread_t thread;
	struct disk_job job;
	uint64_t sleeps;
	void *ctx;

	CHECK(thmqi_env_open(THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT), NULL, &env) == 0);
	core = thmqi_env_core(env, 0);
	disk = thmqi_disk_of(core, &ctx);
	CHECK(disk->dir_open(ctx, path, false, &dir) == 0);
	CHECK(thmqi_disk_ways(disk, dir, core, &ways) == 0 && core->polled);
	CHECK(disk->file_open(dir, "polled", true, &file) == 0);
	CHECK(disk->queue_open(ctx, core, 8, &queue) == 0);
	CHECK(thmqi_buf_alloc(core->pool, 65536, &buf) == 0);
	memset(buf->data, 'a', 65536);
	CHECK(disk->file_write(file, buf->data, 65536, 0, true) == 0);
	for (uint32_t i = 0; i < 50; i++) {
		job = (struct disk_job){.op = {.opcode = i % 2 ? THMQI_DISK_READ : THMQI_DISK_WRITE,
					  .flags = i % 2 ? 0 : THMQI_DISK_DSYNC,
					  .file = file,
					  .buf = buf,
					  .data = buf->data,
					  .len = 4096,
					  .offset = (i % 16) * 4096,
					  .done = disk_job_done}};
		sleeps = core->sleeps;
		CHECK(disk->queue_submit(queue, &job.op) == 0);
		CHECK(thmqi_ring_inflight(core->polled) == 1);
		CHECK(!job.done);
		if (i % 5 == 4) { /* another thread finds it */
			CHECK(thmqi_core_detach(env) == 0);
			other = (struct other){.env = env, .job = &job};
			CHECK(pthread_create(&thread, NULL, other_thread, &other) == 0);
			CHECK(pthread_join(thread, NULL) == 0);
			CHECK(thmqi_core_attach(env, 0) == 0);
		} else {
			disk_job_wait(core, &job);
			CHECK(core->sleeps == sleeps);
		}
		CHECK(job.done && job.result == (i % 2 ? 4096 : 0));
	}
	/* the queue waits for what it has */
	job.done = false;
	CHECK(disk->queue_submit(queue, &job.op) == 0);
	disk->queue_close(queue);
	CHECK(job.done);
	thmqi_buf_unref(buf);
	disk->file_close(file);
	disk->dir_close(dir);
	CHECK(thmqi_env_close(env) == 0);
}

int main(void)
{
	static const struct {
		const char *name;
		uint32_t policy, polled_io, flush_method;
	} ways[] = {
		{"poll", THMQ_POLICY_POLL, THMQ_POLLED_ON, THMQ_FLUSH_DSYNC},
		{"fixed", THMQ_POLICY_FIXED, THMQ_POLLED_ON, THMQ_FLUSH_PROBE},
		{"event", THMQ_POLICY_EVENT, THMQ_POLLED_ON, THMQ_FLUSH_PROBE},
		{"by flush", THMQ_POLICY_FIXED, THMQ_POLLED_ON, THMQ_FLUSH_FDATASYNC},
		{"probed", THMQ_POLICY_FIXED, THMQ_POLLED_PROBE, THMQ_FLUSH_PROBE},
		{"probed, event", THMQ_POLICY_EVENT, THMQ_POLLED_PROBE, THMQ_FLUSH_PROBE},
	};
	const char *base = getenv("TMPDIR");
	struct state state = {0};
	char path[256], dir[300];
	struct thmq_log *log;
	struct thmq_env *env;
	int rc;

	snprintf(path, sizeof(path), "%s/thmq-polled-XXXXXX", base ? base : "/tmp");
	CHECK(mkdtemp(path) != NULL);
	snprintf(dir, sizeof(dir), "%s/first", path);
	CHECK(thmqi_env_open(NULL, NULL, &env) == 0);
	rc = open_log(thmqi_env_core(env, 0), dir, THMQ_POLLED_ON, THMQ_FLUSH_PROBE, &state, &log);
	CHECK(rc == 0 || rc == -EOPNOTSUPP);
	if (rc == 0)
		CHECK(thmq_log_close(log, UINT64_MAX) == 0);
	CHECK(thmqi_env_close(env) == 0);
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(ways) && rc == 0; i++) {
		about = ways[i].name;
		snprintf(dir, sizeof(dir), "%s/log%zu", path, i);
		lives(dir, ways[i].policy, ways[i].polled_io, ways[i].flush_method);
	}
	about = "in flight";
	if (rc == 0)
		in_flight(path);
	snprintf(dir, sizeof(dir), "rm -rf '%s'", path);
	CHECK(system(dir) == 0);
	if (rc)
		fprintf(stderr, "no polled queues here\n");
	return rc ? 77 : 0;
}
