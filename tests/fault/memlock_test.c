/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A user without privileges and with next to no locked memory: the pool stays unregistered, which the stats
 * show, and everything works.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit/disk_job.h"

#define NOBODY 65534

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s\n", __LINE__, #x);                            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void write_some(struct thmq_core *core, const char *path)
{
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	struct thmqi_buf *buf;
	void *ctx;

	disk = thmqi_disk_of(core, &ctx);
	CHECK(disk->dir_open(ctx, path, false, &dir) == 0);
	CHECK(disk->queue_open(ctx, core, 8, &queue) == 0);
	CHECK(disk->file_open(dir, "a", true, &file) == 0);
	for (uint32_t i = 0; i < 100; i++) {
		struct disk_job job = {.op = {.opcode = THMQI_DISK_WRITE,
					 .flags = THMQI_DISK_DSYNC,
					 .file = file,
					 .len = 8192,
					 .offset = i * 8192,
					 .done = disk_job_done}};

		CHECK(thmqi_buf_alloc(core->pool, 8192, &buf) == 0);
		memset(buf->data, 'a' + (int)(i % 26), 8192);
		job.op.buf = buf;
		job.op.data = buf->data;
		CHECK(disk->queue_submit(queue, &job.op) == 0);
		CHECK(disk_job_wait(core, &job) && job.result == 0);
		thmqi_buf_unref(buf);
	}
	CHECK(disk->file_size(file) == 100 * 8192);
	disk->queue_close(queue);
	disk->file_close(file);
	disk->dir_close(dir);
}

/* @flags: of the environment. */
static int child(const char *path, uint64_t limit_bytes, uint32_t pieces_max, uint32_t flags)
{
	struct rlimit limit = {.rlim_cur = limit_bytes, .rlim_max = limit_bytes};
	struct thmq_env_stats env_stats = {.size = sizeof(env_stats)};
	struct thmqi_ring_stats stats;
	struct thmq_core *core;
	struct thmq_env *env;

	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	if (getuid() == 0)
		CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	CHECK(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags), NULL, &env) == 0);
	core = thmqi_env_core(env, 0);
	if (!core->ring)
		return 77;
	write_some(core, path);
	thmqi_ring_stats(core->ring, &stats);
	if (stats.registered_buffers > pieces_max) {
		fprintf(stderr, "%u pieces registered\n", stats.registered_buffers);
		return 1;
	}
	thmqi_env_stats(env, &env_stats);
	if (pieces_max == 0) {
		CHECK(stats.unregistered_slabs > 0);
		CHECK(env_stats.registered_memory == 0);
	}
	CHECK(env_stats.writes == 100);
	CHECK(env_stats.locked_bytes <= limit_bytes &&
	      env_stats.locked_bytes <= env_stats.pool_bytes);
	if (flags & THMQ_ENV_LOCK_MEMORY)
		CHECK(env_stats.locked_bytes == limit_bytes / (2u << 20) * (2u << 20));
	else
		CHECK(env_stats.locked_bytes == 0);
	CHECK(thmqi_env_close(env) == 0);
	return 0;
}

static int in_child(uint64_t limit_bytes, uint32_t pieces_max, uint32_t flags)
{
	char path[] = "/tmp/thmq-memlock-XXXXXX", command[80];
	int status;

	CHECK(mkdtemp(path) != NULL);
	CHECK(getuid() != 0 || chown(path, NOBODY, NOBODY) == 0);
	if (fork() == 0)
		_exit(child(path, limit_bytes, pieces_max, flags));
	CHECK(wait(&status) > 0);
	snprintf(command, sizeof(command), "rm -rf %s", path);
	CHECK(system(command) == 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(void)
{
	int rc = in_child(64 << 10, 0, 0);

	/* what the limit allows is registered, and not more */
	if (!rc)
		rc = in_child(3 << 20, 1, 0);
		/* likewise locked, which the kernel counts apart */
#ifdef __SANITIZE_ADDRESS__
	return rc; /* mlock() does nothing here */
#endif
	if (!rc)
		rc = in_child(64 << 10, 0, THMQ_ENV_LOCK_MEMORY);
	return rc ? rc : in_child(3 << 20, 1, THMQ_ENV_LOCK_MEMORY);
}
