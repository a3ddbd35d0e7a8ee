/* SPDX-License-Identifier: Apache-2.0 */
/*
 * many_segments_test.c - a log of very many segments: it opens, is read, cleaned and closed with few descriptors, and after
 * a SIGKILL it is back soon. The segments are made here, with holes where nobody looks.
 *
 * Exit: 0 passed, 1 failed. With a number: so many segments.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../lib/commitlog/internal.h"
#include "many.h"

#define SEGMENT (1u << 20)
#define SEGMENTS 2000u
#define DESCRIPTORS 256u
#define PARTITIONS 16u
#define GOES 300u /* segments that are cleaned away */

static char dir[] = "many-segments-XXXXXX";
static uint32_t segments = SEGMENTS;

/* --------------------------------------------------------------------- made */

/* Of a segment: one batch with one run, and the pad that ends it. */
static void make_segment(struct chain *c, uint32_t number, bool full)
{
	static uint8_t block[2 * THMQI_BLOCK];
	struct batch_header *h = (struct batch_header *)block,
			    *pad = (struct batch_header *)(block + THMQI_BLOCK);
	struct thmq_run_header *run = (struct thmq_run_header *)(h + 1);
	char name[40], path[128];
	int fd;

	memset(block, 0, sizeof(block));
	run->len = 1000;
	run->partition = number % PARTITIONS;
	run->base_offset = number / PARTITIONS;
	run->count = run->span = 1;
	run->encoding = THMQ_RUN_OPAQUE;
	run->first_time_ns = run->last_time_ns = (int64_t)number;
	memset(run + 1, (int)number, run->len);
	thmqi_run_seal(run);
	thmqi_batch_seal(h, c, 1, BATCH_DATA, 1, thmqi_run_bytes(run), THMQI_BLOCK);
	thmqi_batch_stamp(h, 1, c->position);
	thmqi_chain_advance(c, h);
	if (full) {
		thmqi_batch_seal(pad, c, 1, BATCH_PAD, 0, 0, SEGMENT - THMQI_BLOCK);
		thmqi_batch_stamp(pad, 1, c->position);
		thmqi_chain_advance(c, pad);
	}
	thmqi_segment_name((uint64_t)number * SEGMENT, name);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT, 0666);
	CHECK(fd >= 0 && ftruncate(fd, SEGMENT) == 0 &&
	      pwrite(fd, block, sizeof(block), 0) == (ssize_t)sizeof(block));
	close(fd);
}

static void make_log(void)
{
	struct vote v = {.log_id = "many segments",
			 .segment_bytes_min = SEGMENT,
			 .segment_bytes_max = SEGMENT,
			 .term = 1,
			 .incarnation = 1,
			 .clean = 1};
	struct thmqi_disk_dir *d;
	struct chain c = {0};
	uint32_t i;

	CHECK(mkdtemp(dir));
	memcpy(c.log_id, v.log_id, sizeof(c.log_id));
	for (i = 0; i < segments; i++)
		make_segment(&c, i, i + 1 < segments);
	v.mark = c.position;
	CHECK(thmqi_disk_posix.dir_open(NULL, dir, false, &d) == 0);
	CHECK(thmqi_vote_make(&thmqi_disk_posix, d, &v) == 0);
	thmqi_disk_posix.dir_close(d);
	sync();
}

/* --------------------------------------------------------------------- open */

struct life {
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_log *log;
	uint64_t durable;
	uint64_t goes_below; /* time: what is older need not be kept */
};

static void settled(void *ctx, uint32_t durability, uint64_t index)
{
	if (durability == THMQ_DURABILITY_DURABLE)
		((struct life *)ctx)->durable = index;
}

static int live(void *ctx, const struct thmq_log_extent *e)
{
	const struct life *l = ctx;

	return e->last_time_ns < (int64_t)l->goes_below ? THMQ_LOG_DEAD : THMQ_LOG_LIVE;
}

static struct thmq_log_stats stats_of(const struct life *l)
{
	struct thmq_log_stats s = {.size = sizeof(s)};

	CHECK(thmq_log_stats(l->log, &s) == 0);
	return s;
}

static void life_open(struct life *l, const char *what)
{
	static const struct thmq_log_events events = {
		.size = sizeof(events), .settled = settled, .live = live};
	uint64_t began;

	CHECK(thmqi_env_open(
		      THMQ_ENV_OPTS(.pool_bytes = 64u << 20, .flags = THMQ_ENV_ALLOW_THREADS), NULL,
		      &l->env) == 0);
	l->core = thmqi_env_core(l->env, 0);
	began = now_ns();
	CHECK(thmq_log_open(l->core,
			    THMQ_LOG_OPTS(.dir = dir, .events = &events, .ctx = l,
					  .batch_bytes = 256u << 10),
			    &l->log) == 0);
	printf("%s: %u of %u segments by their indexes, %.3f s\n", what,
	       stats_of(l).sealed_segments, stats_of(l).segment_count,
	       (double)(now_ns() - began) / SECOND);
}

static void life_close(struct life *l)
{
	CHECK(thmq_log_close(l->log, 10 * SECOND) == 0);
	CHECK(thmqi_env_close(l->env) == 0);
}

static void append(struct life *l, uint64_t offset)
{
	struct thmq_run_header *run;
	uint64_t index;

	CHECK(thmq_log_append(l->log, sizeof(*run) + 64, &run, &index) == 0);
	memset(run, 0, sizeof(*run) + 64);
	run->len = 64;
	run->base_offset = offset;
	run->count = run->span = 1;
	run->encoding = THMQ_RUN_OPAQUE;
	run->first_time_ns = run->last_time_ns = INT32_MAX;
	thmq_log_append_end(l->log, run, THMQ_DURABILITY_DURABLE);
	while (l->durable < index)
		thmqi_core_poll(l->core, SECOND);
}

/* --------------------------------------------------------------------- read */

static void ready(void *ctx)
{
	(void)ctx;
}

/* All readers at once, each in turn: together they go through all segments in order. */
static void read_all(struct life *l, uint32_t from)
{
	struct thmq_log_reader *r[PARTITIONS];
	struct thmq_log_view v;
	uint64_t began = now_ns();
	uint32_t i;
	int rc;

	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_log_reader_open(l->log, i, ready, l, &r[i]) == 0);
		thmq_log_reader_seek(r[i], from / PARTITIONS + (i < from % PARTITIONS));
	}
	for (i = from; i < segments; i++) {
		while ((rc = thmq_log_read(r[i % PARTITIONS], UINT64_MAX, &v)) == 0)
			thmqi_core_poll(l->core, SECOND);
		CHECK(rc == 1 && v.run.header->base_offset == i / PARTITIONS &&
		      *(const uint8_t *)v.run.payload == (uint8_t)i);
		thmq_log_view_release(l->log, &v);
	}
	for (i = 0; i < PARTITIONS; i++)
		thmq_log_reader_close(r[i]);
	printf("read: %.3f s\n", (double)(now_ns() - began) / SECOND);
}

/* More readers wait for files than may be open: each gets its turn. */
static void read_at_once(struct life *l)
{
	enum { READERS = 150 };
	struct thmq_log_reader *r[READERS];
	struct thmq_log_view v;
	uint32_t done = 0, i;
	int rc;

	for (i = 0; i < READERS; i++) {
		CHECK(thmq_log_reader_open(l->log, i % PARTITIONS, ready, l, &r[i]) == 0);
		thmq_log_reader_seek(r[i], i * 7 % (segments / PARTITIONS));
	}
	while (done < READERS) {
		for (i = 0; i < READERS; i++) {
			if (!r[i])
				continue;
			rc = thmq_log_read(r[i], UINT64_MAX, &v);
			CHECK(rc >= 0);
			if (!rc)
				continue;
			CHECK(v.run.header->base_offset == i * 7 % (segments / PARTITIONS));
			thmq_log_view_release(l->log, &v);
			thmq_log_reader_close(r[i]);
			r[i] = NULL;
			done++;
		}
		thmqi_core_poll(l->core, SECOND);
	}
}

static void clean(struct life *l)
{
	uint64_t began = now_ns();

	l->goes_below = GOES;
	while (stats_of(l).dropped_segments < GOES && now_ns() - began < 60 * SECOND)
		thmqi_core_poll(l->core, SECOND);
	CHECK(stats_of(l).begin_position >= (uint64_t)GOES * SEGMENT);
	printf("%u segments cleaned away: %.3f s\n", GOES, (double)(now_ns() - began) / SECOND);
}

/* --------------------------------------------------------------------- kill */

static void kill_one(uint64_t offset)
{
	struct life l = {0};
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		life_open(&l, "in a process that is killed");
		append(&l, offset);
		fflush(stdout);
		kill(getpid(), SIGKILL);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static void remove_all(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	CHECK(system(command) == 0);
}

int main(int argc, char **argv)
{
	const struct rlimit few = {DESCRIPTORS, DESCRIPTORS};
	struct life l = {0};
	uint64_t began;

	if (argc > 1)
		segments = (uint32_t)atoi(argv[1]);
	CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	make_log();
	life_open(&l, "without indexes");
	read_at_once(&l);
	read_all(&l, 0);
	life_close(&l);
	life_open(&l, "with indexes");
	CHECK(stats_of(&l).sealed_segments == segments - 1);
	read_all(&l, 0);
	clean(&l);
	life_close(&l);
	kill_one(segments);
	began = now_ns();
	life_open(&l, "after SIGKILL");
	append(&l, segments + 1);
	printf("to the first append that is durable: %.3f s\n",
	       (double)(now_ns() - began) / SECOND);
	CHECK(stats_of(&l).begin_position >= (uint64_t)GOES * SEGMENT);
	read_all(&l, GOES);
	life_close(&l);
	remove_all();
	return 0;
}
