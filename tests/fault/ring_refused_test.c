/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A system that refuses io_uring, in whole or in part, as containers do (a seccomp filter, here a real one): the
 * environment opens all the same, on helper threads or inline, and what is written is on the disk.
 */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit/disk_job.h"

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s: line %d: %s\n", about, __LINE__, #x);                 \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *about = "";

/* From now on system call @number fails with @error in this process. False: the system lets nobody filter. */
static bool refuse(int number, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((uint32_t)error & SECCOMP_RET_DATA)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = THMQI_ARRAY_COUNT(code), .filter = code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int64_t run(const struct thmqi_disk_table *disk, struct thmq_core *core,
		   struct thmqi_disk_queue *queue, struct thmqi_disk_op *op)
{
	struct disk_job job = {.op = *op};

	job.op.done = disk_job_done;
	CHECK(disk->queue_submit(queue, &job.op) == 0);
	CHECK(disk_job_wait(core, &job));
	*op = job.op;
	return job.result;
}

/* Write, read back and look at it from outside, on the engine that the core gets. */
static void use(uint32_t flags, uint32_t engine)
{
	static uint8_t out[4096] __attribute__((aligned(4096))),
		in[4096] __attribute__((aligned(4096)));
	char path[] = "/tmp/thmq-refused-XXXXXX", name[64];
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_dir *dir;
	struct thmq_core *core;
	struct thmq_env *env;
	void *ctx;
	int fd;

	CHECK(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags), NULL, &env) == 0);
	core = thmqi_env_core(env, 0);
	disk = thmqi_disk_of(core, &ctx);
	CHECK(core->disk_engine == engine);
	CHECK((core->ring != NULL) == (engine == 1));
	CHECK(mkdtemp(path) != NULL);
	CHECK(disk->dir_open(ctx, path, false, &dir) == 0);
	CHECK(disk->queue_open(ctx, core, 8, &queue) == 0);
	struct thmqi_disk_op op = {.opcode = THMQI_DISK_CREATE, .dir = dir, .name = "a"};
	CHECK(run(disk, core, queue, &op) == 0);
	memset(out, 'x', sizeof(out));
	op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
				    .flags = THMQI_DISK_DSYNC,
				    .file = op.file,
				    .data = out,
				    .len = 4096};
	CHECK(run(disk, core, queue, &op) == 0);
	op.opcode = THMQI_DISK_READ;
	op.data = in;
	CHECK(run(disk, core, queue, &op) == 4096);
	CHECK(memcmp(in, out, 4096) == 0);
	disk->queue_close(queue);
	disk->file_close(op.file);
	disk->dir_close(dir);
	CHECK(thmqi_env_close(env) == 0);
	snprintf(name, sizeof(name), "%s/a", path);
	memset(in, 0, sizeof(in));
	fd = open(name, O_RDONLY);
	CHECK(fd >= 0 && read(fd, in, 4096) == 4096 && memcmp(in, out, 4096) == 0);
	close(fd);
	unlink(name);
	rmdir(path);
}

static void all_refused(int error)
{
	struct thmqi_ring *ring = NULL;

	if (!refuse(__NR_io_uring_setup, error))
		exit(77);
	CHECK(thmqi_ring_open(8, &ring) == -error && !ring);
	use(0, 3);
	use(THMQ_ENV_ALLOW_THREADS, 2);
}

static void eperm(void)
{
	all_refused(EPERM);
}

static void enosys(void)
{
	all_refused(ENOSYS);
}

/* The ring can be made and never entered. */
static void enter_refused(void)
{
	if (!refuse(__NR_io_uring_enter, EPERM))
		exit(77);
	use(0, 3);
}

/* Nothing can be registered: no tables, no enabling; a plain ring works. */
static void register_refused(void)
{
	struct thmqi_ring *ring = NULL;
	struct thmqi_ring_stats stats;
	int e = thmqi_ring_open(8, &ring);

	if (e)
		exit(77);
	thmqi_ring_close(ring);
	if (!refuse(__NR_io_uring_register, EPERM))
		exit(77);
	CHECK(thmqi_ring_open(8, &ring) == 0);
	thmqi_ring_stats(ring, &stats);
	CHECK(!stats.single_issuer);
	CHECK(thmqi_ring_file_add(ring, 0) < 0);
	thmqi_ring_close(ring);
	use(0, 1);
}

/* Nor is there a write that flushes: it is followed by a flush, then. */
static void no_flushing_write(void)
{
	if (!refuse(__NR_io_uring_setup, ENOSYS) || !refuse(__NR_pwritev2, EOPNOTSUPP))
		exit(77);
	use(0, 3);
	use(THMQ_ENV_ALLOW_THREADS, 2);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*test)(void);
	} tests[] = {{"setup is EPERM", eperm},
		     {"setup is ENOSYS", enosys},
		     {"enter is refused", enter_refused},
		     {"register is refused", register_refused},
		     {"no flushing write", no_flushing_write}};
	int status, skipped = 0;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(tests); i++) {
		about = tests[i].name;
		if (fork() == 0) { /* a filter cannot be taken back */
			tests[i].test();
			_exit(0);
		}
		if (wait(&status) < 0 || !WIFEXITED(status) ||
		    (WEXITSTATUS(status) && WEXITSTATUS(status) != 77)) {
			fprintf(stderr, "%s: failed\n", about);
			return 1;
		}
		skipped += WEXITSTATUS(status) == 77;
	}
	return skipped == THMQI_ARRAY_COUNT(tests) ? 77 : 0;
}
