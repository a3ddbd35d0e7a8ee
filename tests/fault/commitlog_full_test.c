/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log on a file system that is really full: a small ext4 of its own, of which another file takes all but so many bytes, from none
 * up to more than the log needs, so that each step of its life is the one that finds no room: making it, the next segment, an
 * index, the mark, a clean end, coming back. Whatever is refused, what was acknowledged is there and readable, also while the disk
 * is full, and once there is room the log goes on.
 *
 * Needs root and a loop device, else it is skipped. THMQ_TEST_FULL=1: every second block.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MIB (1ull << 20)
#define BLOCK 4096u
#define DISK_BYTES (40 * MIB)
#define NEED (9 * MIB) /* of a life without limit */
#define RUN_BYTES 30000u
#define RUNS 200u /* some six segments */
#define KEEP 40u  /* newest of them, where older ones may go */

static char base[] = "commitlog-full-XXXXXX";
static char image[300], disk[300], hog[320], dir[320];

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* ------------------------------------------------------------------ the disk */

static bool run(const char *format, const char *a, const char *b)
{
	char command[1000];

	snprintf(command, sizeof(command), format, a, b);
	return system(command) == 0;
}

/* In a name space of mounts of its own, so that nothing of it stays. */
static bool disk_make(void)
{
	int fd;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return false;
	fd = open(image, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || posix_fallocate(fd, 0, (off_t)DISK_BYTES) != 0)
		return false;
	close(fd);
	return run("PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -m 0 -b 4096 -N 256 '%s' >'%s.txt' "
		   "2>&1",
		   image, image) &&
	       mkdir(disk, 0700) == 0 && run("mount -o loop '%s' '%s' 2>>/dev/null", image, disk);
}

static uint64_t room(void)
{
	int fd = open(disk, O_RDONLY | O_DIRECTORY);
	struct statvfs v;

	CHECK(fd >= 0 && syncfs(fd) == 0 && fstatvfs(fd, &v) == 0);
	close(fd);
	return (uint64_t)v.f_bavail * v.f_frsize;
}

static void leave(uint64_t bytes)
{
	int fd = open(hog, O_RDWR | O_CREAT, 0600);
	uint64_t all = room(), size = 0;
	struct stat st;

	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	size = (uint64_t)st.st_size;
	/* the file system needs some blocks to say where these are: what it does not give it does not give the log either */
	for (; all > bytes && posix_fallocate(fd, (off_t)size, (off_t)(all - bytes)) != 0 &&
	       all - bytes > BLOCK;
	     all -= BLOCK)
		;
	close(fd);
}

/* -------------------------------------------------------------------- a log */

static struct {
	struct thmq_env *env;
	struct thmq_log *log;
	uint64_t durable;
	uint64_t indexes[RUNS]; /* batches of the runs */
	uint64_t appended;
	bool cleans;
} w;

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	(void)ctx;
	if (durability == THMQ_DURABILITY_DURABLE)
		w.durable = index;
}

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	return w.cleans && e->end_offset + KEEP < w.appended ? THMQ_LOG_DEAD : THMQ_LOG_LASTS;
}

static int life_open(void)
{
	static const struct thmq_log_events events = {
		.size = sizeof(events), .settled = on_settled, .live = on_live};
	int rc;

	CHECK(thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 64u << 20)) == 0);
	w.durable = 0;
	rc = thmq_log_open(thmq_env_core(w.env, 0),
			   THMQ_LOG_OPTS(.dir = dir, .segment_bytes_min = MIB,
					 .segment_bytes_max = MIB, .batch_bytes = 64u << 10,
					 .cache_bytes = 64u << 10, .events = &events),
			   &w.log);
	if (rc)
		CHECK(thmq_env_close(w.env, SECOND) == 0);
	return rc;
}

/* Return: the log's. */
static int life_close(void)
{
	int rc = thmq_log_close(w.log, 10 * SECOND);

	CHECK(thmq_env_close(w.env, SECOND) == 0);
	return rc;
}

static int append(uint64_t offset)
{
	struct thmq_run_header *r;
	int rc = thmq_log_append(w.log, (uint32_t)sizeof(*r) + RUN_BYTES, &r, &w.indexes[offset]);

	if (rc)
		return rc;
	thmq_run_init(r, THMQ_RUN_OPAQUE, 1, offset, 1, RUN_BYTES);
	memset(r + 1, (int)offset, RUN_BYTES);
	return thmq_log_append_end(w.log, r, THMQ_DURABILITY_DURABLE);
}

/* Until @count are there, or it is clear that there is no room: some time without any. Return: 0; or why not. */
static int fill(uint64_t count)
{
	uint32_t refused = 0;
	int rc = 0;

	while (w.appended < count && refused < 60) {
		rc = append(w.appended);
		CHECK(rc == 0 || rc == -EAGAIN || rc == -ENOSPC || rc == -THMQ_EFAILED);
		if (rc == -THMQ_EFAILED)
			return rc;
		refused = rc ? refused + 1 : 0;
		w.appended += !rc;
		thmq_poll(w.env, rc ? SECOND / 1000 : 0);
	}
	for (uint32_t i = 0;
	     i < 2000 && w.appended && w.durable < w.indexes[w.appended - 1] && rc != -THMQ_EFAILED;
	     i++)
		thmq_poll(w.env, SECOND / 1000);
	return w.appended < count ? rc : 0;
}

/* How many are known durable. */
static uint64_t acknowledged(void)
{
	uint64_t n = w.appended;

	while (n && w.indexes[n - 1] > w.durable)
		n--;
	return n;
}

/* All of @count that must be there are, whole. Return: one past the last that is. */
static uint64_t check(uint64_t count)
{
	uint64_t begin = 0, end = 0, at;
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	int rc = thmq_log_bounds(w.log, 1, &begin, &end);

	CHECK(rc == 0 || (rc == -ENOENT && !count));
	CHECK(end >= count && (begin == 0 || (w.cleans && begin + KEEP <= count)));
	CHECK(thmq_log_reader_open(w.log, 1, NULL, NULL, &reader) == 0);
	thmq_log_reader_seek(reader, begin);
	for (at = begin; at < end;) {
		rc = thmq_log_read(reader, UINT64_MAX, &v);
		if (rc == -THMQ_EOFFSETRANGE && w.cleans) { /* a segment has gone meanwhile */
			CHECK(thmq_log_bounds(w.log, 1, &begin, &end) == 0 && begin > at);
			at = begin;
			thmq_log_reader_seek(reader, at);
			continue;
		}
		if (rc < 0)
			fprintf(stderr, "offset %llu of %llu … %llu: %s\n", (unsigned long long)at,
				(unsigned long long)begin, (unsigned long long)end,
				thmq_strerror(rc));
		CHECK(rc >= 0);
		if (!rc) {
			thmq_poll(w.env, SECOND / 1000);
			continue;
		}
		CHECK(v.run.header->base_offset == at && v.run.header->len == RUN_BYTES);
		for (uint32_t i = 0; i < RUN_BYTES; i++)
			CHECK(((const uint8_t *)v.run.payload)[i] == (uint8_t)at);
		thmq_log_view_release(w.log, &v);
		at++;
	}
	thmq_log_reader_close(reader);
	return end;
}

/* What was begun before the room was there, or nothing. */
static void go_on(uint64_t acked)
{
	int rc;

	unlink(hog);
	room();
	rc = life_open();
	CHECK(rc == 0);
	w.appended = check(acked);
	for (uint32_t tries = 0; tries < 500 && fill(RUNS) != 0; tries++) /* a segment that is being made may take its time */
		;
	CHECK(fill(RUNS) == 0);
	CHECK(check(RUNS) == RUNS);
	CHECK(life_close() == 0);
	CHECK(thmq_log_scan(dir, NULL, NULL) == 0);
}

/* Return: did it find no room anywhere? */
static bool live_with(uint64_t bytes, bool cleans)
{
	uint64_t acked = 0;
	bool refused;
	int rc;

	if (getenv("THMQ_TEST_TRACE"))
		fprintf(stderr, "%llu bytes free%s\n", (unsigned long long)bytes,
			cleans ? ", cleaned" : "");
	CHECK(run("rm -rf '%s' '%s'", dir, hog));
	memset(&w, 0, sizeof(w));
	w.cleans = cleans;
	leave(bytes);
	rc = life_open();
	refused = rc != 0;
	CHECK(rc == 0 || rc == -ENOSPC);
	if (!rc) {
		rc = fill(RUNS);
		refused |= rc != 0;
		acked = acknowledged();
		CHECK(rc != 0 || acked == RUNS);
		if (rc != -THMQ_EFAILED)
			check(acked);
		rc = life_close();
		refused |= rc != 0;
		leave(0); /* what the log gave back is gone too */
		rc = life_open();
		refused |= rc != 0;
		CHECK(rc == 0 || rc == -ENOSPC);
		if (!rc) {
			w.appended = check(acked);
			fill(w.appended + 3 < RUNS ? w.appended + 3 : RUNS);
			acked = acknowledged() > acked ? acknowledged() : acked;
			check(acked);
			life_close();
		}
	}
	go_on(acked);
	return refused;
}

int main(void)
{
	static const uint64_t few[] = {
		0, 3 * BLOCK, MIB + 4 * BLOCK, 2 * MIB + BLOCK, 4 * MIB + 9 * BLOCK, NEED + MIB};
	uint64_t step = getenv("THMQ_TEST_FULL") ? 2 * BLOCK : 0;
	uint32_t refused = 0, lives = 0;

	CHECK(mkdtemp(base));
	snprintf(image, sizeof(image), "%s/image", base);
	snprintf(disk, sizeof(disk), "%s/disk", base);
	snprintf(hog, sizeof(hog), "%s/hog", disk);
	snprintf(dir, sizeof(dir), "%s/log", disk);
	if (!disk_make()) {
		printf("skipped: a file system of its own needs root, a loop device and "
		       "mkfs.ext4\n");
		run("rm -rf '%s'%s", base, "");
		return 77;
	}
	for (uint32_t i = 0; i < sizeof(few) / sizeof(few[0]); i++, lives += 2)
		refused += (uint32_t)live_with(few[i], false) + live_with(few[i], true);
	for (uint64_t at = 0; step && at < NEED; at += step, lives++)
		refused += live_with(at, at / step % 2);
	printf("%u of %u lives found no room for something\n", refused, lives);
	CHECK(refused > 4 && refused < lives);
	CHECK(umount(disk) == 0);
	return run("rm -rf '%s'%s", base, "") ? 0 : 1;
}
