/* SPDX-License-Identifier: Apache-2.0 */
/* rig_socket.c - see rig_socket.h. */
#include "rig_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE_MAX (1u << 20)

struct side {
	int fd, cpu;
	enum rig_socket how;
	unsigned bytes, count;
	int epoll;
	struct io_uring ring;
	char *buffer;
	struct bench_samples *samples; /* of the side that begins */
};

static void connect_pair(int fds[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t len = sizeof(a);

	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (door < 0 || fds[0] < 0 || bind(door, (struct sockaddr *)&a, sizeof(a)) != 0 ||
	    listen(door, 1) != 0 || getsockname(door, (struct sockaddr *)&a, &len) != 0 ||
	    connect(fds[0], (struct sockaddr *)&a, sizeof(a)) != 0)
		bench_die("loopback", -errno);
	fds[1] = accept4(door, NULL, NULL, SOCK_CLOEXEC);
	if (fds[1] < 0)
		bench_die("loopback", -errno);
	close(door);
	for (int i = 0; i < 2; i++)
		setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ------------------------------------------------------------------- ping-pong */

static void side_open(struct side *s)
{
	struct epoll_event e = {.events = EPOLLIN};

	s->buffer = calloc(1, s->bytes);
	if (s->how == RIG_SOCKET_EPOLL) {
		s->epoll = epoll_create1(EPOLL_CLOEXEC);
		if (s->epoll < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->fd, &e) != 0)
			bench_die("epoll", -errno);
	} else if (io_uring_queue_init(8, &s->ring, 0) != 0) {
		bench_die("io_uring", -errno);
	}
}

static void side_close(struct side *s)
{
	if (s->how == RIG_SOCKET_EPOLL)
		close(s->epoll);
	else
		io_uring_queue_exit(&s->ring);
	free(s->buffer);
}

/* One receive, or one send, that is asked for, and then looked for. */
static int by_ring(struct side *s, int is_send, unsigned at)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	struct io_uring_cqe *cqe;
	int n;

	if (is_send)
		io_uring_prep_send(sqe, s->fd, s->buffer, s->bytes, MSG_NOSIGNAL);
	else
		io_uring_prep_recv(sqe, s->fd, s->buffer + at, s->bytes - at, 0);
	io_uring_submit(&s->ring);
	while (io_uring_peek_cqe(&s->ring, &cqe) != 0)
		bench_relax();
	n = cqe->res;
	io_uring_cqe_seen(&s->ring, cqe);
	return n;
}

static void give(struct side *s)
{
	int n = s->how == RIG_SOCKET_EPOLL ? (int)send(s->fd, s->buffer, s->bytes, MSG_NOSIGNAL)
					   : by_ring(s, 1, 0);

	if (n != (int)s->bytes)
		bench_die("send", -EIO);
}

static void take(struct side *s)
{
	struct epoll_event e;
	unsigned at = 0;
	int n;

	while (at < s->bytes) {
		if (s->how == RIG_SOCKET_EPOLL) {
			while (epoll_wait(s->epoll, &e, 1, 0) != 1)
				bench_relax();
			n = (int)recv(s->fd, s->buffer + at, s->bytes - at, MSG_DONTWAIT);
		} else {
			n = by_ring(s, 0, at);
		}
		if (n <= 0)
			bench_die("receive", -EIO);
		at += (unsigned)n;
	}
}

static void *pong(void *arg)
{
	struct side *s = arg;

	bench_pin(s->cpu);
	side_open(s); /* a ring is its thread's */
	for (unsigned i = 0; i < s->count; i++) {
		take(s);
		give(s);
	}
	side_close(s);
	return NULL;
}

int rig_socket_pingpong(enum rig_socket how, int cpu_app, int cpu_core, unsigned bytes,
			unsigned count, struct bench_samples *ret)
{
	struct side here = {.how = how, .bytes = bytes, .count = count, .cpu = cpu_app},
		    there = here;
	struct io_uring probe;
	pthread_t thread;
	int fds[2];

	if (how == RIG_SOCKET_URING) {
		if (io_uring_queue_init(2, &probe, 0) != 0)
			return -1;
		io_uring_queue_exit(&probe);
	}
	connect_pair(fds);
	here.fd = fds[0];
	there.fd = fds[1];
	there.cpu = cpu_core;
	if (pthread_create(&thread, NULL, pong, &there) != 0)
		bench_die("second thread", -EAGAIN);
	bench_pin(cpu_app);
	side_open(&here);
	for (unsigned i = 0; i < count; i++) {
		uint64_t begin = bench_now();

		give(&here);
		take(&here);
		bench_samples_add(ret, bench_now() - begin);
	}
	pthread_join(thread, NULL);
	side_close(&here);
	bench_unpin();
	close(fds[0]);
	close(fds[1]);
	return 0;
}

/* ----------------------------------------------------------------------- stream */

static void *echo(void *arg)
{
	struct side *s = arg;
	char *buffer = malloc(PIECE_MAX);
	uint64_t in;
	ssize_t n;

	bench_pin(s->cpu);
	while ((n = recv(s->fd, buffer, PIECE_MAX, 0)) > 0) { /* to the end, which the other side makes */
		for (in = 0; in < (uint64_t)n;) {
			ssize_t m = send(s->fd, buffer + in, (size_t)n - in, MSG_NOSIGNAL);

			if (m <= 0)
				bench_die("send", -errno);
			in += (uint64_t)m;
		}
	}
	free(buffer);
	return NULL;
}

double rig_socket_echo(int cpu_app, int cpu_core, unsigned bytes, uint64_t total)
{
	struct side there = {.cpu = cpu_core};
	uint64_t sent = 0, got = 0, begin;
	char *from = calloc(1, bytes), *to = malloc(PIECE_MAX);
	pthread_t thread;
	ssize_t n;
	int fds[2];

	connect_pair(fds);
	there.fd = fds[1];
	if (pthread_create(&thread, NULL, echo, &there) != 0)
		bench_die("second thread", -EAGAIN);
	bench_pin(cpu_app);
	begin = bench_now();
	while (got < total) {
		if (sent < total) {
			n = send(fds[0], from, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
			sent += n > 0 ? (uint64_t)n : 0;
			if (sent > total)
				total = sent; /* whole pieces */
		}
		n = recv(fds[0], to, PIECE_MAX, MSG_DONTWAIT);
		got += n > 0 ? (uint64_t)n : 0;
	}
	begin = bench_now() - begin;
	shutdown(fds[0], SHUT_WR);
	pthread_join(thread, NULL);
	bench_unpin();
	close(fds[0]);
	close(fds[1]);
	free(from);
	free(to);
	return (double)got / (double)begin;
}
