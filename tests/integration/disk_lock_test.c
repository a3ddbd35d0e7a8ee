/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory can be opened as soon as the process that had it was killed, whatever it was writing: the kernel lets go
 * of the lock a moment after it. A living holder is refused at once.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/disk.h"

#define ROUNDS 60u
#define WRITES 24u
#define WRITE_BYTES (512u << 10)

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "round %u, line %d: %s\n", round_now, __LINE__, #x);       \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint32_t round_now;

struct write {
	struct thmqi_disk_op op;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue;
};

static void again(struct thmqi_disk_op *op, int64_t result)
{
	struct write *w = thmqi_container(op, struct write, op);

	if (result != 0 || w->disk->queue_submit(w->queue, op) != 0)
		_exit(1);
}

/* Locks the directory and writes to it until it is killed. */
static void write_for_ever(const char *path, int ready)
{
	static struct write writes[WRITES];
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue;
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	struct thmq_core *core;
	struct thmqi_buf *buf;
	struct thmq_env *env;
	uint64_t pid;
	void *ctx;

	if (thmqi_env_open(NULL, NULL, &env) != 0)
		_exit(1);
	core = thmqi_env_core(env, 0);
	disk = thmqi_disk_of(core, &ctx);
	if (disk->dir_open(ctx, path, false, &dir) || disk->dir_lock(dir, "lock", &pid) ||
	    disk->file_open(dir, "a", true, &file) || disk->queue_open(ctx, core, WRITES, &queue) ||
	    thmqi_buf_alloc(core->pool, WRITE_BYTES, &buf))
		_exit(1);
	for (uint32_t i = 0; i < WRITES; i++) {
		writes[i] =
			(struct write){.disk = disk,
				       .queue = queue,
				       .op = {.opcode = i % 8 ? THMQI_DISK_WRITE : THMQI_DISK_FLUSH,
					      .flags = i % 2 ? THMQI_DISK_DSYNC : 0,
					      .file = file,
					      .buf = buf,
					      .data = buf->data,
					      .len = WRITE_BYTES,
					      .offset = (uint64_t)i * WRITE_BYTES,
					      .done = again}};
		if (disk->queue_submit(queue, &writes[i].op))
			_exit(1);
	}
	thmqi_core_poll(core, 0);
	if (write(ready, "x", 1) != 1)
		_exit(1);
	for (;;)
		thmqi_core_poll(core, 1000000);
}

static uint64_t now_ns(void)
{
	return thmqi_clock_real.now_ns(thmqi_clock_real.ctx);
}

static struct thmqi_disk_dir *open_dir(const char *path)
{
	struct thmqi_disk_dir *dir;

	CHECK(thmqi_disk_posix.dir_open(NULL, path, false, &dir) == 0);
	return dir;
}

/* When the lock is asked for: the killed process has been waited for; it is a zombie; it has only just been killed. */
enum when { WAITED, ZOMBIE, AT_ONCE, WHENS };

/* Return: ns until the lock was had. */
static uint64_t kill_and_lock(const char *path, enum when when)
{
	struct thmqi_disk_dir *dir = open_dir(path);
	uint64_t holder = 0, begin;
	siginfo_t info;
	int ready[2];
	pid_t pid;
	char c;

	CHECK(pipe(ready) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		write_for_ever(path, ready[1]);
	close(ready[1]);
	CHECK(read(ready[0], &c, 1) == 1);
	close(ready[0]);
	begin = now_ns();
	CHECK(thmqi_disk_posix.dir_lock(dir, "lock", &holder) == -EBUSY);
	CHECK(holder == (uint64_t)pid);
	CHECK(now_ns() - begin < 500000000u);
	usleep((unsigned)(rand() % 3000));
	kill(pid, SIGKILL);
	if (when != AT_ONCE) {
		CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | (when == WAITED ? 0 : WNOWAIT)) ==
		      0);
		CHECK(info.si_code == CLD_KILLED);
	}
	begin = now_ns();
	CHECK(thmqi_disk_posix.dir_lock(dir, "lock", &holder) == 0);
	begin = now_ns() - begin;
	thmqi_disk_posix.dir_close(dir);
	if (when != WAITED)
		CHECK(waitpid(pid, NULL, 0) == pid);
	return begin;
}

/* The number in the file is a dead process's, and somebody else has the lock: that one may take its time. */
static void other_holder(const char *path)
{
	struct thmqi_disk_dir *a = open_dir(path), *b = open_dir(path);
	uint64_t holder = 0, begin;
	char name[256];
	pid_t pid = fork();
	FILE *f;

	if (pid == 0)
		_exit(0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	CHECK(thmqi_disk_posix.dir_lock(a, "lock", &holder) == 0);
	snprintf(name, sizeof(name), "%s/lock", path);
	f = fopen(name, "w");
	CHECK(f && fprintf(f, "%ld\n", (long)pid) > 0 && fclose(f) == 0);
	begin = now_ns();
	CHECK(thmqi_disk_posix.dir_lock(b, "lock", &holder) == -EBUSY);
	CHECK(holder == (uint64_t)pid);
	CHECK(now_ns() - begin > 500000000u && now_ns() - begin < 5000000000u);
	thmqi_disk_posix.dir_close(b);
	thmqi_disk_posix.dir_close(a);
}

int main(void)
{
	char path[] = "/tmp/thmq-lock-XXXXXX", command[80];
	uint64_t took, most = 0;

	CHECK(mkdtemp(path) != NULL);
	for (round_now = 0; round_now < ROUNDS; round_now++) {
		took = kill_and_lock(path, round_now % WHENS);
		most = THMQI_MAX(took, most);
	}
	other_holder(path);
	printf("%u kills; the lock was had after %.1f ms at most\n", ROUNDS, (double)most / 1e6);
	snprintf(command, sizeof(command), "rm -rf %s", path);
	CHECK(system(command) == 0);
	return 0;
}
