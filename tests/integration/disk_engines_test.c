/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engines under a core that sleeps whenever it can (policy event): chains of operations that submit their
 * successors from their callbacks, checked byte by byte. A lost wake-up stops the chain; a race is ThreadSanitizer's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "disk/disk.h"

#define CHAINS 12u
#define LINKS 400u /* writes and reads of a chain */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s: line %d: %s\n", about, __LINE__, #x);                 \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *about = "";

struct run;

struct chain {
	struct thmqi_disk_op op;
	struct run *run;
	struct thmqi_buf *buf;
	uint32_t number, link;
};

struct run {
	const struct thmqi_disk_table *disk;
	void *ctx;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;
	struct thmqi_disk_queue *queue;
	struct chain chains[CHAINS];
	const char *path;
	struct thmqi_disk_ways ways;
	uint32_t engine;
	_Atomic uint32_t finished;
};

static void next(struct chain *c)
{
	bool is_write = c->link % 2 == 0;

	c->op.opcode = is_write ? THMQI_DISK_WRITE : THMQI_DISK_READ;
	c->op.flags = is_write && c->number % 3 == 0 ? THMQI_DISK_BACKGROUND : 0;
	if (is_write && c->link % 16 == c->number)
		c->op.flags |= THMQI_DISK_DSYNC;
	c->op.offset = ((uint64_t)(c->link / 2 % 16) * CHAINS + c->number) * 4096;
	memset(c->buf->data, is_write ? (int)(c->link / 2 + c->number) & 0xff : 0xee, 4096);
	CHECK(c->run->disk->queue_submit(c->run->queue, &c->op) == 0);
}

static void on_done(struct thmqi_disk_op *op, int64_t result)
{
	struct chain *c = thmqi_container(op, struct chain, op);

	CHECK(result == (op->opcode == THMQI_DISK_READ ? 4096 : 0));
	if (op->opcode == THMQI_DISK_READ)
		for (uint32_t i = 0; i < 4096; i++)
			CHECK(c->buf->data[i] == ((c->link / 2 + c->number) & 0xff));
	if (++c->link < LINKS)
		next(c);
	else
		atomic_fetch_add(&c->run->finished, 1);
}

static int begin(struct thmq_core *core, void *arg)
{
	struct run *run = arg;

	run->disk = thmqi_disk_of(core, &run->ctx);
	run->engine = core->disk_engine;
	CHECK(run->disk->dir_open(run->ctx, run->path, false, &run->dir) == 0);
	CHECK(thmqi_disk_ways(run->disk, run->dir, core, &run->ways) == 0);
	CHECK(run->disk->file_open(run->dir, "a", true, &run->file) == 0);
	CHECK(run->disk->queue_open(run->ctx, core, CHAINS, &run->queue) == 0);
	for (uint32_t i = 0; i < CHAINS; i++) {
		struct chain *c = &run->chains[i];

		CHECK(thmqi_buf_alloc(core->pool, 4096, &c->buf) == 0);
		c->run = run;
		c->number = i;
		c->op = (struct thmqi_disk_op){.file = run->file,
					       .buf = c->buf,
					       .data = c->buf->data,
					       .len = 4096,
					       .done = on_done};
		next(c);
	}
	return 0;
}

static int end(struct thmq_core *core, void *arg)
{
	struct run *run = arg;

	(void)core;
	run->disk->queue_close(run->queue);
	run->disk->file_close(run->file);
	run->disk->dir_close(run->dir);
	for (uint32_t i = 0; i < CHAINS; i++)
		thmqi_buf_unref(run->chains[i].buf);
	return 0;
}

/* Return: the engine that it ran on. */
static uint32_t run(const char *name, uint32_t core_count, uint32_t flags, uint32_t flush_method)
{
	char path[] = "/tmp/thmq-engines-XXXXXX", command[80];
	struct run *r = calloc(1, sizeof(*r));
	struct thmq_core *core;
	struct thmq_env *env;
	uint32_t engine;

	about = name;
	CHECK(r && mkdtemp(path));
	r->path = path;
	r->ways.flush_method = flush_method;
	CHECK(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags, .core_count = core_count,
					   .policy = THMQ_POLICY_EVENT),
			     NULL, &env) == 0);
	core = thmqi_env_core(env, 0);
	CHECK(thmqi_core_call(core, begin, r, 10000000000) == 0);
	for (uint32_t i = 0; i < 60000 && atomic_load(&r->finished) < CHAINS; i++) {
		if (core_count)
			usleep(1000);
		else
			thmqi_core_poll(core, 1000000000);
	}
	CHECK(atomic_load(&r->finished) == CHAINS);
	CHECK(thmqi_core_call(core, end, r, 10000000000) == 0);
	CHECK(thmqi_env_close(env) == 0);
	engine = r->engine;
	free(r);
	snprintf(command, sizeof(command), "rm -rf %s", path);
	CHECK(system(command) == 0);
	return engine;
}

int main(void)
{
	const uint32_t none = THMQ_ENV_NO_URING, some = THMQ_ENV_NO_URING | THMQ_ENV_ALLOW_THREADS;

	for (uint32_t method = THMQ_FLUSH_PROBE; method <= THMQ_FLUSH_FDATASYNC;
	     method += THMQ_FLUSH_FDATASYNC) {
		run("io_uring, a core of the library", 1, 0, method);
		run("io_uring, a core of the caller", 0, 0, method);
		CHECK(run("threads, a core of the library", 1, none, method) == 2);
		CHECK(run("threads, a core of the caller", 0, some, method) == 2);
		CHECK(run("inline", 0, none, method) == 3);
	}
	return 0;
}
