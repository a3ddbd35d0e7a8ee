/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk_overhead_bench.c - what the disk table and the core's loop add to a bare io_uring write; what each choice of the
 * ring's and the disk engine's is worth, with it against without it.
 *
 * Matrix: one 4 KiB write at a time, with the flush flag and without, the core driven by this thread under the poll
 * policy. Limit: the same write on a bare ring with the same set-up, spinning, op by op in turns on the same file.
 * Bar: the median of the paired differences is at most 1.5 us.
 *
 * The choices, one durable 4 KiB write at a time, in turns on the same file: SINGLE_ISSUER and DEFER_TASKRUN on a bare
 * ring, and the flush method that the probe took against the other, without a bar; polled completions against told
 * ones, where the device has polled queues: at most as slow.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "disk/disk.h"
#include "thundermq/log.h"

#define FILE_BYTES (32u << 20)
#define BLOCK 4096u

/* As the log's loop does while a write is on its way: what finishes it may need this very processor. */
#define YIELD_NS 20000u

static void give_way(uint64_t start, unsigned *yields)
{
	if ((bench_now() - start) / YIELD_NS > *yields) {
		*yields = (unsigned)((bench_now() - start) / YIELD_NS);
		sched_yield();
	}
}

struct ours {
	struct thmq_env *env;
	struct thmq_core *core;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;
	struct thmqi_disk_queue *queue;
	struct thmqi_buf *buf;
	bool gives_way;
};

struct bare {
	struct io_uring ring;
	int fd;
	bool gives_way;
};

static void ours_open(struct ours *o, const char *dir)
{
	void *ctx;
	int e;

	o->gives_way = false;
	e = thmqi_env_open(THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL), NULL, &o->env);

	if (e)
		bench_die("environment", e);
	o->core = thmqi_env_core(o->env, 0);
	o->disk = thmqi_disk_of(o->core, &ctx);
	if (o->disk->dir_open(ctx, dir, false, &o->dir) ||
	    o->disk->file_open(o->dir, "overhead", true, &o->file) ||
	    o->disk->queue_open(ctx, o->core, 8, &o->queue) ||
	    thmqi_buf_alloc(o->core->pool, 1u << 20, &o->buf))
		bench_die(dir, EIO);
	memset(o->buf->data, 0, 1u << 20);
	for (uint32_t at = 0; at < FILE_BYTES; at += 1u << 20)
		if (o->disk->file_write(o->file, o->buf->data, 1u << 20, at, false))
			bench_die("zeros", EIO);
	o->disk->file_flush(o->file);
}

static void ours_close(struct ours *o)
{
	thmqi_buf_unref(o->buf);
	o->disk->queue_close(o->queue);
	o->disk->file_close(o->file);
	o->disk->dir_close(o->dir);
	thmqi_env_close(o->env);
}

static void bare_open(struct bare *r, const char *dir, void *data, unsigned flags)
{
	struct iovec iov = {.iov_base = data, .iov_len = 1u << 20};
	char name[4096];
	int e;

	snprintf(name, sizeof(name), "%s/overhead", dir);
	r->gives_way = false;
	r->fd = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (r->fd < 0)
		r->fd = open(name, O_RDWR | O_CLOEXEC);
	if (r->fd < 0)
		bench_die(name, errno);
	e = io_uring_queue_init(8, &r->ring, flags | IORING_SETUP_TASKRUN_FLAG);
	if (e)
		bench_die("ring", -e);
	io_uring_register_ring_fd(&r->ring);
	if (io_uring_register_files(&r->ring, &r->fd, 1) ||
	    io_uring_register_buffers(&r->ring, &iov, 1))
		bench_die("registration", EIO);
}

static void bare_close(struct bare *r)
{
	io_uring_queue_exit(&r->ring);
	close(r->fd);
}

static uint64_t bare_write(struct bare *r, void *data, uint64_t offset, bool dsync)
{
	uint64_t start = bench_now();
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
	struct io_uring_cqe *cqe;
	unsigned yields = 0;

	io_uring_prep_write_fixed(sqe, 0, data, BLOCK, offset, 0);
	sqe->flags |= IOSQE_FIXED_FILE;
	sqe->rw_flags = dsync ? RWF_DSYNC : 0;
	io_uring_submit(&r->ring);
	while (io_uring_peek_cqe(&r->ring, &cqe)) {
		bench_relax();
		if (r->gives_way)
			give_way(start, &yields);
	}
	if (cqe->res != (int)BLOCK)
		bench_die("bare write", EIO);
	io_uring_cqe_seen(&r->ring, cqe);
	return bench_now() - start;
}

struct job {
	struct thmqi_disk_op op;
	bool done;
	int64_t result;
};

static void on_done(struct thmqi_disk_op *op, int64_t result)
{
	struct job *job = (struct job *)op;

	job->done = true;
	job->result = result;
}

static uint64_t write_to(struct ours *o, struct thmqi_disk_file *file, uint64_t offset, bool dsync)
{
	uint64_t start = bench_now();
	struct job job = {.op = {.opcode = THMQI_DISK_WRITE,
				 .flags = dsync ? THMQI_DISK_DSYNC : 0,
				 .file = file,
				 .buf = o->buf,
				 .data = o->buf->data,
				 .len = BLOCK,
				 .offset = offset,
				 .done = on_done}};
	unsigned yields = 0;

	if (o->disk->queue_submit(o->queue, &job.op))
		bench_die("submit", EIO);
	while (!job.done) {
		thmqi_core_poll(o->core, 0);
		if (o->gives_way)
			give_way(start, &yields);
	}
	if (job.result)
		bench_die("write", EIO);
	return bench_now() - start;
}

static uint64_t our_write(struct ours *o, uint64_t offset, bool dsync)
{
	return write_to(o, o->file, offset, dsync);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Median of the paired differences of @count writes each, us. */
static double difference(struct ours *o, struct bare *r, unsigned count, bool dsync)
{
	double *d = malloc(count * sizeof(*d)), result;
	uint64_t ours, bare;

	if (!d)
		bench_die("memory", ENOMEM);
	for (unsigned i = 0; i < count; i++) {
		uint64_t at = (uint64_t)i * 2 * BLOCK % FILE_BYTES;

		if (i % 2) { /* who is first changes: the second may profit */
			ours = our_write(o, at, dsync);
			bare = bare_write(r, o->buf->data, at + BLOCK, dsync);
		} else {
			bare = bare_write(r, o->buf->data, at + BLOCK, dsync);
			ours = our_write(o, at, dsync);
		}
		d[i] = ((double)ours - (double)bare) / 1000;
	}
	qsort(d, count, sizeof(*d), compare);
	result = d[count / 2];
	free(d);
	return result;
}

static void overhead(struct bench *b, struct ours *o, struct bare *r, const char *name, bool dsync)
{
	struct bench_line l = {.name = name,
			       .unit = "us",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 1.5};
	struct bench_line *lines[] = {&l};

	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++)
		bench_pairs_add(&l.pairs, difference(o, r, b->smoke ? 20 : 500, dsync), 0);
	bench_report(b, &l);
}

/* ----------------------------------------------------------------- choices */

/* One of two ways to do the same write, ns. */
struct way {
	struct ours *o;
	struct thmqi_disk_file *file; /* NULL: by the bare ring */
	struct bare *r;
};

static uint64_t write_by(const struct way *w, uint64_t offset)
{
	return w->file ? write_to(w->o, w->file, offset, true)
		       : bare_write(w->r, w->o->buf->data, offset, true);
}

/* Medians of @count writes of each in turns, us. */
static void both(const struct way *with, const struct way *without, unsigned count,
		 double *ret_with, double *ret_without)
{
	double *a = malloc(count * sizeof(*a)), *b = malloc(count * sizeof(*b));

	if (!a || !b)
		bench_die("memory", ENOMEM);
	for (unsigned i = 0; i < count; i++) {
		uint64_t at = (uint64_t)i * 2 * BLOCK % FILE_BYTES;

		if (i % 2)
			a[i] = (double)write_by(with, at) / 1000;
		b[i] = (double)write_by(without, at + BLOCK) / 1000;
		if (i % 2 == 0)
			a[i] = (double)write_by(with, at) / 1000;
	}
	qsort(a, count, sizeof(*a), compare);
	qsort(b, count, sizeof(*b), compare);
	*ret_with = a[count / 2];
	*ret_without = b[count / 2];
	free(a);
	free(b);
}

/* @bar 0: none. */
static void choice(struct bench *b, const char *name, const char *rival, const struct way *with,
		   const struct way *without, double bar)
{
	struct bench_line l = {.name = name,
			       .unit = "us",
			       .rival = rival,
			       .measure = BENCH_RATIO,
			       .sense = bar > 0 ? BENCH_AT_MOST : BENCH_NO_BAR,
			       .bar = bar};
	struct bench_line *lines[] = {&l};
	double x, y;

	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		both(with, without, b->smoke ? 10 : 300, &x, &y);
		bench_pairs_add(&l.pairs, x, y);
	}
	bench_report(b, &l);
}

static void ring_choices(struct bench *b, struct ours *o, struct bare *defer)
{
	struct bare coop, single;
	struct way with = {.o = o}, without = {.o = o};

	bare_open(&coop, b->dir, o->buf->data, IORING_SETUP_COOP_TASKRUN);
	bare_open(&single, b->dir, o->buf->data,
		  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER);
	coop.gives_way = single.gives_way = defer->gives_way = true;
	with.r = &single;
	without.r = &coop;
	choice(b, "single_issuer_4k_dsync", "without", &with, &without, 0);
	with.r = defer;
	without.r = &single;
	choice(b, "defer_taskrun_4k_dsync", "COOP_TASKRUN", &with, &without, 0);
	bare_close(&single);
	bare_close(&coop);
}

static struct thmqi_disk_file *open_by(struct ours *o, struct thmqi_disk_ways *ways)
{
	struct thmqi_disk_file *file;

	if (thmqi_disk_ways(o->disk, o->dir, o->core, ways))
		return NULL;
	if (o->disk->file_open(o->dir, "overhead", false, &file))
		bench_die("file", EIO);
	return file;
}

static void disk_choices(struct bench *b, struct ours *o)
{
	struct thmqi_disk_ways probed = {.polled_io = THMQ_POLLED_OFF};
	struct thmqi_disk_ways other = {.polled_io = THMQ_POLLED_OFF};
	struct thmqi_disk_ways polled = {.polled_io = THMQ_POLLED_ON};
	struct way with = {.o = o}, without = {.o = o};

	o->gives_way = true;
	with.file = open_by(o, &probed);
	other.flush_method =
		probed.flush_method == THMQ_FLUSH_DSYNC ? THMQ_FLUSH_FDATASYNC : THMQ_FLUSH_DSYNC;
	without.file = open_by(o, &other);
	if (probed.flush_method == THMQ_FLUSH_DSYNC)
		choice(b, "flush_probed_dsync_4k", "write, fdatasync", &with, &without, 0);
	else
		choice(b, "flush_probed_fdatasync_4k", "RWF_DSYNC", &with, &without, 0);
	o->disk->file_close(without.file);
	without.file = with.file;
	with.file = open_by(o, &polled);
	if (with.file) {
		choice(b, "polled_4k_dsync", "told", &with, &without, 1.0);
		o->disk->file_close(with.file);
	} else {
		bench_skip(b, "polled_4k_dsync", "the device has no polled queues");
	}
	o->disk->file_close(without.file);
}

int main(int argc, char **argv)
{
	struct bench b;
	struct ours o;
	struct bare r;

	bench_init(&b, argc, argv, "disk");
	ours_open(&o, b.dir);
	if (o.core->ring) {
		bare_open(&r, b.dir, o.buf->data,
			  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
		bench_pin(b.cpu_core);
		bench_spin_begin();
		overhead(&b, &o, &r, "overhead_4k_dsync", true);
		overhead(&b, &o, &r, "overhead_4k_plain", false);
		ring_choices(&b, &o, &r);
		disk_choices(&b, &o);
		bench_spin_end();
		bench_unpin();
		bare_close(&r);
	} else {
		bench_skip(&b, "overhead", "io_uring is refused here");
	}
	ours_close(&o);
	return bench_end(&b);
}
