/* SPDX-License-Identifier: Apache-2.0 */
/* rig_copies.c - three bare writers and what goes between them: see rig_copies.h. */
#include "rig_copies.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COPIES 3u
#define DEPTH_MAX 64u
#define LEN_MAX (1u << 20)
#define HEAD 96u
#define ZERO_BYTES (1u << 20)

/* One copy: its file, and, of those that follow, both ends of its connection. */
struct copy {
	int fd;
	uint64_t at;
	char *buffer;  /* places for entries, each with room for LEN_MAX */
	int near, far; /* the leader's end, and its own; -1 */
	/* at the leader's end */
	uint64_t out;      /* entry that is being sent */
	uint32_t out_sent; /* of its head and bytes */
	uint32_t ack_have;
	/* at its own */
	uint64_t in; /* entry that is being received */
	uint32_t in_have;
	uint64_t durable; /* acks that are to be sent */
	uint64_t acked;
	uint64_t known; /* of its entries, by the leader */
};

struct rig_copies {
	struct io_uring ring;
	struct copy copies[COPIES];
	uint64_t bytes;
	uint32_t len;
	unsigned depth;
	uint64_t begun, done;
	uint64_t since[DEPTH_MAX];
	bool queued;
	char head[HEAD];
};

static void open_file(struct rig_copies *r, struct copy *c, const char *dir, unsigned number)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/copy-%u.dat", dir, number);
	c->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0666);
	if (c->fd < 0 && errno == EINVAL)
		c->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (c->fd < 0)
		bench_die(path, errno);
	unlink(path);
	c->buffer = aligned_alloc(2u << 20, (size_t)LEN_MAX * 16);
	if (!c->buffer)
		bench_die("bare copies", ENOMEM);
	memset(c->buffer, 0, (size_t)LEN_MAX * 16);
	for (uint64_t at = 0; at < r->bytes; at += ZERO_BYTES)
		if (pwrite(c->fd, c->buffer, ZERO_BYTES, (off_t)at) != (ssize_t)ZERO_BYTES)
			bench_die("bare file", errno ? errno : EIO);
	if (fsync(c->fd) != 0)
		bench_die("bare file flush", errno);
	memset(c->buffer, (int)number + 1, (size_t)LEN_MAX * 16);
}

static void join(struct copy *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int door = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	socklen_t len = sizeof(a);

	c->near = socket(AF_INET, SOCK_STREAM, 0);
	if (door < 0 || c->near < 0 || bind(door, (struct sockaddr *)&a, sizeof(a)) != 0 ||
	    listen(door, 1) != 0 || getsockname(door, (struct sockaddr *)&a, &len) != 0 ||
	    connect(c->near, (struct sockaddr *)&a, len) != 0)
		bench_die("bare connection", errno);
	c->far = accept(door, NULL, NULL);
	if (c->far < 0)
		bench_die("bare connection", errno);
	close(door);
	setsockopt(c->near, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(c->far, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	fcntl(c->near, F_SETFL, O_NONBLOCK);
	fcntl(c->far, F_SETFL, O_NONBLOCK);
}

struct rig_copies *rig_copies_open(const char *dir, uint64_t bytes)
{
	struct rig_copies *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		bench_die("bare copies", ENOMEM);
	r->bytes = (bytes + ZERO_BYTES - 1) / ZERO_BYTES * ZERO_BYTES;
	for (unsigned i = 0; i < COPIES; i++) {
		open_file(r, &r->copies[i], dir, i);
		r->copies[i].near = r->copies[i].far = -1;
		if (i)
			join(&r->copies[i]);
	}
	rc = io_uring_queue_init(4 * DEPTH_MAX, &r->ring,
				 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					 IORING_SETUP_TASKRUN_FLAG);
	if (rc == -EINVAL)
		rc = io_uring_queue_init(4 * DEPTH_MAX, &r->ring, 0);
	if (rc < 0)
		bench_die("bare io_uring", rc);
	return r;
}

void rig_copies_close(struct rig_copies *r)
{
	io_uring_queue_exit(&r->ring);
	for (unsigned i = 0; i < COPIES; i++) {
		close(r->copies[i].fd);
		if (i) {
			close(r->copies[i].near);
			close(r->copies[i].far);
		}
		free(r->copies[i].buffer);
	}
	free(r);
}

static char *place(struct rig_copies *r, struct copy *c, uint64_t entry)
{
	uint32_t places = LEN_MAX * 16u / r->len;

	return c->buffer + entry % (places > DEPTH_MAX ? DEPTH_MAX : places) * r->len;
}

static void write_entry(struct rig_copies *r, struct copy *c, uint64_t entry)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (c->at + r->len > r->bytes)
		c->at = 0;
	io_uring_prep_write(sqe, c->fd, place(r, c, entry), r->len, c->at);
	sqe->rw_flags = RWF_DSYNC;
	sqe->user_data = (uint64_t)(c - r->copies);
	c->at += r->len;
	r->queued = true;
}

static void reap(struct rig_copies *r)
{
	struct io_uring_cqe *cqe;

	if (r->queued && io_uring_submit(&r->ring) < 0)
		bench_die("bare submit", EIO);
	r->queued = false;
	if (IO_URING_READ_ONCE(*r->ring.sq.kflags) & IORING_SQ_TASKRUN)
		io_uring_get_events(&r->ring);
	while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		struct copy *c = &r->copies[cqe->user_data];

		if (cqe->res != (int)r->len)
			bench_die("bare write", cqe->res < 0 ? cqe->res : EIO);
		io_uring_cqe_seen(&r->ring, cqe);
		c->durable++;
		if (c == r->copies)
			c->known++;
	}
}

/* Return: bytes; 0: not now. */
static uint32_t moved(ssize_t n)
{
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		bench_die("bare connection", errno);
	return n > 0 ? (uint32_t)n : 0;
}

static void send_entries(struct rig_copies *r, struct copy *c)
{
	while (c->out < r->begun) {
		struct iovec iov[2];
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
		uint32_t n, skip = c->out_sent;

		iov[0].iov_base = r->head;
		iov[0].iov_len = skip < HEAD ? HEAD - skip : 0;
		skip = skip < HEAD ? 0 : skip - HEAD;
		iov[1].iov_base = place(r, r->copies, c->out) + skip;
		iov[1].iov_len = r->len - skip;
		n = moved(sendmsg(c->near, &m, MSG_NOSIGNAL | MSG_DONTWAIT));
		if (!n)
			return;
		c->out_sent += n;
		if (c->out_sent < HEAD + r->len)
			continue;
		c->out_sent = 0;
		c->out++;
	}
}

static void receive_entries(struct rig_copies *r, struct copy *c)
{
	char head[HEAD];

	/* never into a place that is still being written */
	while (c->in - c->durable < r->depth) {
		struct iovec iov[2];
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
		uint32_t n, skip = c->in_have;

		iov[0].iov_base = head;
		iov[0].iov_len = skip < HEAD ? HEAD - skip : 0;
		skip = skip < HEAD ? 0 : skip - HEAD;
		iov[1].iov_base = place(r, c, c->in) + skip;
		iov[1].iov_len = r->len - skip;
		n = moved(recvmsg(c->far, &m, MSG_DONTWAIT));
		if (!n)
			return;
		c->in_have += n;
		if (c->in_have < HEAD + r->len)
			continue;
		c->in_have = 0;
		write_entry(r, c, c->in++);
	}
}

static void acknowledge(struct rig_copies *r, struct copy *c)
{
	char acks[HEAD * DEPTH_MAX];
	uint32_t n;

	while (c->acked < c->durable) {
		n = moved(send(c->far, r->head, HEAD, MSG_NOSIGNAL | MSG_DONTWAIT));
		if (n && n != HEAD)
			bench_die("bare answer", EIO);
		if (!n)
			break;
		c->acked++;
	}
	n = moved(recv(c->near, acks, sizeof(acks), MSG_DONTWAIT));
	c->ack_have += n;
	c->known += c->ack_have / HEAD;
	c->ack_have %= HEAD;
}

/* What two of three have. */
static uint64_t quorum(const struct rig_copies *r)
{
	uint64_t a = r->copies[0].known, b = r->copies[1].known, c = r->copies[2].known;
	uint64_t low = a < b ? a : b, high = a < b ? b : a;

	return c < low ? low : c < high ? c : high;
}

double rig_copies_run(struct rig_copies *r, uint32_t len, unsigned depth, unsigned count,
		      struct bench_samples *ret)
{
	uint64_t t0 = bench_now(), took = 0, now;

	if (depth > LEN_MAX * 16u / len)
		depth = LEN_MAX * 16u / len;
	r->len = len;
	r->depth = depth > DEPTH_MAX ? DEPTH_MAX : depth;
	r->begun = r->done = 0;
	for (unsigned i = 0; i < COPIES; i++) {
		struct copy *c = &r->copies[i];

		c->out = c->in = c->durable = c->acked = c->known = 0;
	}
	/* to the end, so that nothing is under way when it begins anew */
	while (r->copies[0].known < count || r->copies[1].known < count ||
	       r->copies[2].known < count) {
		while (r->begun < count && r->begun - r->done < r->depth &&
		       r->begun - r->copies[1].out < r->depth &&
		       r->begun - r->copies[2].out < r->depth) {
			r->since[r->begun % DEPTH_MAX] = bench_now();
			write_entry(r, &r->copies[0], r->begun++);
		}
		reap(r);
		for (unsigned i = 1; i < COPIES; i++) {
			send_entries(r, &r->copies[i]);
			receive_entries(r, &r->copies[i]);
			acknowledge(r, &r->copies[i]);
		}
		if (quorum(r) == r->done)
			continue;
		now = bench_now();
		while (r->done < quorum(r)) {
			if (ret)
				bench_samples_add(ret, now - r->since[r->done % DEPTH_MAX]);
			r->done++;
		}
		if (r->done == count && !took)
			took = now - t0;
	}
	return (double)len * count / ((double)took / 1e9);
}
