/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_disk.c - the bare writer and reader: see rig_disk.h.
 */
#include "rig_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RIG_BLOCK 4096u
#define RIG_DEPTH_MAX 64u
#define RIG_ZERO_BYTES (1u << 20)
#define RIG_BUFFER_BYTES                                                                           \
	(16u << 20) /* writes in flight take their bytes from here, reads put theirs here */
#define RIG_READ_FROM (8u << 20) /* so much of it is not touched by reads beside writes */
#define READ_MARK (1ull << 32)   /* in user_data: a read's */

struct rig_disk {
	struct io_uring ring;
	int fd;
	bool fixed_buffer, fixed_file;
	uint64_t bytes, at, read_at;
	uint64_t random; /* state of the generator */
	char *buffer;
};

/* Real zeros: a flush on unwritten extents would cost a journal commit each time. */
static void fill(struct rig_disk *d)
{
	memset(d->buffer, 0, RIG_ZERO_BYTES);
	for (uint64_t at = 0; at < d->bytes; at += RIG_ZERO_BYTES)
		if (pwrite(d->fd, d->buffer, RIG_ZERO_BYTES, (off_t)at) != RIG_ZERO_BYTES)
			bench_die("bare file", errno ? errno : EIO);
	if (fsync(d->fd) != 0)
		bench_die("bare file flush", errno);
	for (uint32_t i = 0; i < RIG_BUFFER_BYTES; i++)
		d->buffer[i] = (char)(i * 31u + (i >> 12));
}

static void open_file(struct rig_disk *d, const char *dir)
{
	char path[4096];

	if ((size_t)snprintf(path, sizeof(path), "%s/bare.dat", dir) >= sizeof(path))
		bench_die(dir, ENAMETOOLONG);
	d->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0666);
	if (d->fd < 0 && errno == EINVAL) /* no O_DIRECT here: then the log has none either */
		d->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (d->fd < 0)
		bench_die(path, errno);
	unlink(path);
}

struct rig_disk *rig_disk_open(const char *dir, uint64_t bytes)
{
	struct rig_disk *d = calloc(1, sizeof(*d));
	struct iovec iov;
	int r;

	if (!d)
		bench_die("bare writer", ENOMEM);
	d->bytes = (bytes + RIG_ZERO_BYTES - 1) / RIG_ZERO_BYTES * RIG_ZERO_BYTES;
	d->buffer = aligned_alloc(2u << 20, RIG_BUFFER_BYTES);
	if (!d->buffer)
		bench_die("bare writer", ENOMEM);
	open_file(d, dir);
	fill(d);
	r = io_uring_queue_init(RIG_DEPTH_MAX, &d->ring,
				IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					IORING_SETUP_TASKRUN_FLAG);
	if (r == -EINVAL)
		r = io_uring_queue_init(RIG_DEPTH_MAX, &d->ring, 0);
	if (r < 0) {
		bench_die("bare io_uring", r);
	}
	io_uring_register_ring_fd(&d->ring);
	iov.iov_base = d->buffer;
	iov.iov_len = RIG_BUFFER_BYTES;
	d->fixed_buffer = io_uring_register_buffers(&d->ring, &iov, 1) == 0;
	d->fixed_file = io_uring_register_files(&d->ring, &d->fd, 1) == 0;
	return d;
}

void rig_disk_close(struct rig_disk *d)
{
	if (!d)
		return;
	io_uring_queue_exit(&d->ring);
	close(d->fd);
	free(d->buffer);
	free(d);
}

static void push(struct rig_disk *d, uint32_t from, uint32_t len, bool dsync)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);
	int fd = d->fixed_file ? 0 : d->fd;

	if (d->at + len > d->bytes)
		d->at = 0;
	if (d->fixed_buffer)
		io_uring_prep_write_fixed(sqe, fd, d->buffer + from, len, d->at, 0);
	else
		io_uring_prep_write(sqe, fd, d->buffer + from, len, d->at);
	if (d->fixed_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	if (dsync)
		sqe->rw_flags = RWF_DSYNC;
	sqe->user_data = len;
	d->at += len;
}

static void push_read(struct rig_disk *d, uint32_t to, uint32_t len, uint64_t at)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);
	int fd = d->fixed_file ? 0 : d->fd;

	if (d->fixed_buffer)
		io_uring_prep_read_fixed(sqe, fd, d->buffer + to, len, at, 0);
	else
		io_uring_prep_read(sqe, fd, d->buffer + to, len, at);
	if (d->fixed_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = len | READ_MARK;
}

/* Completions that are deferred to us are run only when the kernel has flagged that there are some. */
static bool reap_which(struct rig_disk *d, bool *ret_read)
{
	struct io_uring_cqe *cqe;

	if (IO_URING_READ_ONCE(*d->ring.sq.kflags) & IORING_SQ_TASKRUN)
		io_uring_get_events(&d->ring);
	if (io_uring_peek_cqe(&d->ring, &cqe) != 0)
		return false;
	*ret_read = cqe->user_data & READ_MARK;
	if (cqe->res != (int)(uint32_t)cqe->user_data)
		bench_die(*ret_read ? "bare read" : "bare write", cqe->res < 0 ? cqe->res : EIO);
	io_uring_cqe_seen(&d->ring, cqe);
	return true;
}

static bool reap(struct rig_disk *d)
{
	bool read;

	return reap_which(d, &read);
}

void rig_disk_latency(struct rig_disk *d, enum rig_wait how, unsigned count,
		      struct bench_samples *ret)
{
	if (how == RIG_SPIN)
		bench_spin_begin();
	for (unsigned i = 0; i < count; i++) {
		uint64_t t0 = bench_now();
		int r;

		push(d, (i % 16) * RIG_BLOCK, RIG_BLOCK, true);
		r = how == RIG_WAIT ? io_uring_submit_and_wait(&d->ring, 1)
				    : io_uring_submit(&d->ring);
		if (r < 0 && r != -EINTR)
			bench_die("bare submit", r);
		while (!reap(d))
			bench_relax();
		bench_samples_add(ret, bench_now() - t0);
	}
	bench_spin_end();
}

static uint64_t due_of(const struct rig_arrivals *a, uint64_t begin, uint64_t i)
{
	return begin + i / a->burst * a->burst * 1000000000ull / a->per_s;
}

void rig_disk_arrivals(struct rig_disk *d, const struct rig_arrivals *a, uint64_t count, struct bench_samples *ret)
{
	uint64_t begin = bench_now(), first = 0, end = 0, now;
	const uint64_t most = RIG_BUFFER_BYTES / 4 / a->bytes;
	uint32_t bytes;

	while (first < count) {
		now = bench_now();
		if (now < due_of(a, begin, first)) {
			bench_sleep_ns(due_of(a, begin, first) - now);
			continue;
		}
		while (end < count && end - first < most && due_of(a, begin, end) <= now)
			end++;
		bytes = (uint32_t)(end - first) * a->bytes;
		push(d, 0, (bytes + RIG_BLOCK - 1) / RIG_BLOCK * RIG_BLOCK, true);
		if (io_uring_submit_and_wait(&d->ring, 1) < 0)
			bench_die("bare submit", EIO);
		while (!reap(d))
			bench_relax();
		for (now = bench_now(); first < end; first++)
			bench_samples_add(ret, now - due_of(a, begin, first));
	}
}

double rig_disk_stream(struct rig_disk *d, uint32_t write_bytes, unsigned depth, uint64_t bytes,
		       bool dsync)
{
	uint64_t count, sent = 0, done = 0, t0;
	uint32_t turn = 0, places;

	if (write_bytes > RIG_BUFFER_BYTES / 4)
		write_bytes = RIG_BUFFER_BYTES / 4;
	if (depth > RIG_DEPTH_MAX)
		depth = RIG_DEPTH_MAX;
	places = RIG_BUFFER_BYTES / write_bytes;
	count = (bytes + write_bytes - 1) / write_bytes;
	t0 = bench_now();
	while (done < count) {
		bool pushed = false;

		while (sent < count && sent - done < depth) {
			push(d, turn++ % places * write_bytes, write_bytes, dsync);
			sent++;
			pushed = true;
		}
		if (pushed && io_uring_submit_and_wait(&d->ring, 1) < 0)
			bench_die("bare submit", EIO);
		while (reap(d))
			done++;
	}
	return (double)(count * write_bytes) / ((double)(bench_now() - t0) / 1e9);
}

/* -------------------------------------------------------------------- reads */

void rig_disk_fill(struct rig_disk *d)
{
	d->at = 0;
	rig_disk_stream(d, RIG_ZERO_BYTES, 4, d->bytes, false);
	if (fsync(d->fd) != 0)
		bench_die("bare file flush", errno);
}

/* The next @len bytes of the file, which is gone round. */
static uint64_t next_place(struct rig_disk *d, uint32_t len)
{
	uint64_t at = d->read_at + len > d->bytes ? 0 : d->read_at;

	d->read_at = at + len;
	return at;
}

double rig_disk_read_stream(struct rig_disk *d, uint32_t read_bytes, unsigned depth, uint64_t bytes)
{
	uint64_t count, sent = 0, done = 0, t0;
	uint32_t turn = 0, places;

	if (read_bytes > RIG_BUFFER_BYTES / 4)
		read_bytes = RIG_BUFFER_BYTES / 4;
	if (depth > RIG_DEPTH_MAX)
		depth = RIG_DEPTH_MAX;
	places = RIG_BUFFER_BYTES / read_bytes;
	count = (bytes + read_bytes - 1) / read_bytes;
	d->read_at = 0;
	t0 = bench_now();
	while (done < count) {
		bool pushed = false;

		for (; sent < count && sent - done < depth; sent++, pushed = true)
			push_read(d, turn++ % places * read_bytes, read_bytes,
				  next_place(d, read_bytes));
		if (pushed && io_uring_submit_and_wait(&d->ring, 1) < 0)
			bench_die("bare submit", EIO);
		while (reap(d))
			done++;
	}
	return (double)(count * read_bytes) / ((double)(bench_now() - t0) / 1e9);
}

/* xorshift64 (Marsaglia 2003) */
static uint64_t random_place(struct rig_disk *d, uint32_t len)
{
	d->random = d->random ? d->random : 88172645463325252ull;
	d->random ^= d->random << 13;
	d->random ^= d->random >> 7;
	d->random ^= d->random << 17;
	return d->random % ((d->bytes - len) / RIG_BLOCK + 1) * RIG_BLOCK;
}

void rig_disk_read_random(struct rig_disk *d, const uint32_t *lens, unsigned parts, unsigned count,
			  struct bench_samples *ret)
{
	bench_spin_begin();
	for (unsigned i = 0; i < count; i++) {
		uint64_t t0 = bench_now();

		for (unsigned k = 0; k < parts; k++) {
			push_read(d, 0, lens[k], random_place(d, lens[k]));
			if (io_uring_submit(&d->ring) < 0)
				bench_die("bare submit", EIO);
			while (!reap(d))
				bench_relax();
		}
		bench_samples_add(ret, bench_now() - t0);
	}
	bench_spin_end();
}

void rig_disk_latency_beside(struct rig_disk *d, const struct rig_reads *r, unsigned count,
			     struct bench_samples *ret)
{
	uint32_t places = (RIG_BUFFER_BYTES - RIG_READ_FROM) / r->bytes, turn = 0;
	uint64_t pause = r->bytes_per_s ? r->bytes * 1000000000ull / r->bytes_per_s : 0;
	unsigned reading = 0, written = 0;
	bool writing = false, read;
	uint64_t t0 = 0, due, now;

	bench_spin_begin();
	due = bench_now();
	while (written < count || reading) {
		bool pushed = false;

		now = pause ? bench_now() : due;
		for (; written < count && reading < r->depth && now >= due; reading++, pushed = true) {
			push_read(d, RIG_READ_FROM + turn++ % places * r->bytes, r->bytes,
				  next_place(d, r->bytes));
			due += pause;
		}
		if (written < count && !writing) {
			t0 = bench_now();
			push(d, written % 16 * RIG_BLOCK, RIG_BLOCK, true);
			writing = pushed = true;
		}
		if (pushed && io_uring_submit(&d->ring) < 0)
			bench_die("bare submit", EIO);
		if (!reap_which(d, &read)) {
			bench_relax();
		} else if (read) {
			reading--;
		} else {
			bench_samples_add(ret, bench_now() - t0);
			written++;
			writing = false;
		}
	}
	bench_spin_end();
}
