/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_hollow.c - a large log of holes: see rig_hollow.h.
 */
#include "rig_hollow.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "disk/disk.h"
#include "reactor/reactor.h"
#include "thundermq/log.h"

#define BATCH_MAGIC 0x31424854u /* doc/format.md; the position is at 16 */
#define POSITION_AT 16
#define STALL_NS 20000000000u

/* The table of the world that the log is extended in. Its state is static: the table's calls have no context. */
static struct {
	const struct thmqi_disk_table *real;
	struct thmqi_disk_file *file; /* the segment that is being made */
	uint64_t made;                /* where the segments that are there end */
	uint64_t whole_from;          /* what lies from here on is written as it is */
	bool empty;                   /* no zeros for it */
} hollow;

static _Alignas(THMQI_BLOCK) uint8_t zero_block[THMQI_BLOCK];

static uint64_t word_at(const void *data, uint32_t at)
{
	uint64_t word;

	memcpy(&word, (const uint8_t *)data + at, sizeof(word));
	return word;
}

static bool is_hollow_batch(const struct thmqi_disk_op *op)
{
	return (uint32_t)word_at(op->data, 0) == BATCH_MAGIC &&
	       word_at(op->data, POSITION_AT) < hollow.whole_from;
}

/* The size of a file without its blocks. */
static void make_hollow(struct thmqi_disk_op *op)
{
	op->opcode = THMQI_DISK_WRITE;
	op->offset += op->len - THMQI_BLOCK;
	op->len = THMQI_BLOCK;
	op->data = zero_block;
}

/* What is asked for becomes what is done; operations of this engine have ended when they are submitted. */
static void thin(struct thmqi_disk_op *op)
{
	switch (op->opcode) {
	case THMQI_DISK_ALLOCATE:
		if (op->file != hollow.file)
			break;
		hollow.made += op->offset + op->len;
		hollow.empty = hollow.made <= hollow.whole_from;
		if (hollow.empty)
			make_hollow(op);
		break;
	case THMQI_DISK_WRITE:
		op->flags &= (uint8_t)~THMQI_DISK_DSYNC;
		if (is_hollow_batch(op)) {
			op->len = THMQI_BLOCK;
		} else if (hollow.empty && op->file == hollow.file && word_at(op->data, 0) == 0) {
			op->opcode = THMQI_DISK_READ;
			op->len = 0;
		}
		break;
	default: /* flushes are real ones: there are few */
		break;
	}
}

static int submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	struct thmqi_disk_op asked = *op;
	bool makes = op->opcode == THMQI_DISK_CREATE && strncmp(op->name, "index", 5) != 0;
	int rc;

	thin(op);
	rc = hollow.real->queue_submit(q, op);
	if (makes && !rc)
		hollow.file = op->file;
	op->opcode = asked.opcode;
	op->flags = asked.flags;
	op->len = asked.len;
	op->data = asked.data;
	op->offset = asked.offset;
	return rc;
}

/* Where the newest segment file ends: its name is its position. */
static uint64_t end_of_files(const char *dir)
{
	struct dirent *e;
	uint64_t end = 0;
	DIR *d = opendir(dir);

	if (!d)
		bench_die(dir, errno);
	while ((e = readdir(d))) {
		char *rest, path[8192];
		uint64_t at = strtoull(e->d_name, &rest, 10);
		struct stat st;

		if (strcmp(rest, ".log") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (stat(path, &st) == 0 && at + (uint64_t)st.st_size > end)
			end = at + (uint64_t)st.st_size;
	}
	closedir(d);
	return end;
}

/* The segment in which position @at lies: doc/format.md. */
static uint64_t segment_of(uint64_t at, uint64_t min, uint64_t max, uint64_t *ret_bytes)
{
	uint64_t begin = 0, bytes = min;

	while (at >= begin + bytes) {
		begin += bytes;
		bytes = bytes < max ? bytes * 2 : max;
	}
	*ret_bytes = bytes;
	return begin;
}

/* segment_bytes_min and _max, from `vote`: doc/format.md. */
static void sizes_of(const char *dir, uint64_t *ret_min, uint64_t *ret_max)
{
	uint64_t sizes[2];
	char path[8192];
	FILE *f;

	snprintf(path, sizeof(path), "%s/vote", dir);
	f = fopen(path, "re");
	if (!f || fseek(f, 32, SEEK_SET) != 0 || fread(sizes, sizeof(sizes), 1, f) != 1)
		bench_die(path, EIO);
	fclose(f);
	*ret_min = sizes[0];
	*ret_max = sizes[1];
}

static void drive(struct thmq_core *core, uint64_t *since)
{
	if (thmqi_core_poll(core, 0) > 0)
		*since = bench_now();
	else if (bench_now() - *since > STALL_NS)
		bench_die("hollow log: it stands still", ETIMEDOUT);
}

static void append(struct thmq_log *log, struct thmq_core *core, const struct rig_hollow_opts *o,
		   uint64_t number)
{
	struct thmq_run_header *run;
	struct thmq_record *record;
	uint64_t index, since = bench_now();
	int rc;

	while ((rc = thmq_log_append(log, o->run_bytes, &run, &index)) == -EAGAIN)
		drive(core, &since);
	if (rc)
		bench_die("hollow log: append", rc);
	memset(run, 0, sizeof(*run) + sizeof(*record));
	run->len = o->run_bytes - (uint32_t)sizeof(*run);
	run->partition = o->first_partition + (uint32_t)(number % o->partitions);
	run->base_offset = o->next_offset + number / o->partitions;
	run->count = run->span = 1;
	run->encoding = THMQ_RUN_RECORDS;
	run->first_time_ns = run->last_time_ns = (int64_t)(1700000000000000000u + number);
	record = (struct thmq_record *)(run + 1);
	record->size = run->len - (uint32_t)sizeof(*record);
	thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE);
}

/* All full segments have their index: the newest of them is written last. */
static void await_index(const char *dir, struct thmq_core *core, uint64_t before, uint64_t min,
			uint64_t max)
{
	uint64_t bytes, at = segment_of(before - 1, min, max, &bytes), since = bench_now();
	char path[8192];

	snprintf(path, sizeof(path), "%s/%020llu.idx", dir, (unsigned long long)at);
	while (access(path, F_OK) != 0) {
		thmqi_core_poll(core, 1000000);
		if (bench_now() - since > STALL_NS)
			bench_die(path, ETIMEDOUT);
	}
}

uint64_t rig_hollow_extend(const struct rig_hollow_opts *o, uint64_t *ret_used)
{
	const struct thmq_env_opts *opts = THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING);
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct thmqi_disk_table table;
	struct thmqi_world world = {0};
	struct thmq_core *core;
	struct thmq_env *env;
	struct thmq_log *log;
	uint64_t number = 0, min, max, bytes, begin;
	void *ctx;
	int rc;

	sizes_of(o->dir, &min, &max);
	begin = segment_of(o->bytes - 1, min, max, &bytes) + bytes;
	rc = thmqi_env_open(opts, NULL, &env);
	if (rc)
		bench_die("hollow log: environment", rc);
	hollow.real = thmqi_disk_of(thmqi_env_core(env, 0), &ctx);
	thmqi_env_close(env);
	hollow.made = end_of_files(o->dir);
	hollow.whole_from = begin;
	hollow.file = NULL;
	table = *hollow.real;
	table.queue_submit = submit;
	table.dir_ways = NULL;
	world.disk = &table;
	rc = thmqi_env_open(opts, &world, &env);
	if (rc)
		bench_die("hollow log: environment", rc);
	core = thmqi_env_core(env, 0);
	rc = thmq_log_open(core, THMQ_LOG_OPTS(.dir = o->dir, .batch_bytes = 4u << 20), &log);
	if (rc) {
		fprintf(stderr, "bench: %s\n", thmq_errmsg());
		bench_die("hollow log: open", rc);
	}
	do {
		append(log, core, o, number++);
		thmq_log_stats(log, &stats);
	} while (stats.end_position <= begin);
	await_index(o->dir, core, begin, min, max);
	rc = thmq_log_close(log, 60000000000u);
	if (rc)
		bench_die("hollow log: close", rc);
	thmqi_env_close(env);
	sync();
	segment_of(begin, min, max, &bytes);
	*ret_used = stats.end_position - begin;
	return bytes;
}
