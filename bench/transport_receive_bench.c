/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_receive_bench.c - three ways in which a core could receive from its TCP connections, bare: no frames, no broker, one thread that
 * receives and answers, and one that plays all of its clients, on loopback.
 *
 *   told    a multishot poll in the ring tells that there is something, and recv() puts it into memory of the connection's: what tcp:// does. Who spins
 *           looks by recv() without being told, as tcp:// does with a connection of which much comes
 *   single  a receive in the ring for each connection, into memory of the connection's, and another one behind it
 *   multi   one multishot receive for each connection, into a pool of buffers that all of them share (IORING_RECV_MULTISHOT,
 *           io_uring_register_buf_ring(3))
 *
 * In each of them a small message is copied once more, to its place in the connection's data area; a body of 64 KiB is received where it belongs by the
 * first two, and copied there from the pool's buffers by the third.
 *
 * receive_roundtrip_64B_*: one connection, 64 B there and back, both sides spin: p50.
 * receive_burst_*: 16 connections, bursts of 64 messages of 100 B. receive_crowd_*: 256 connections, of which each has one message of 100 B out at a
 *   time. receive_body_*: 4 connections, bodies of 64 KiB. The receiver sleeps when there is nothing: processor time of its thread per message, and messages a
 *   second.
 * receive_idle_*: what 10,000 connections take that have said one thing of 64 B, and say nothing any more: bytes of the receiver's own memory for each.
 *
 * Each is multi beside one of the others. No bars: the figures are in doc/transports.md, which says what follows from them.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RX_BYTES (128u << 10)     /* of a connection, of which only what was used is memory */
#define LARGE_BYTES (16u << 10)   /* from here on a body is received where it belongs */
#define POOL_BYTES (1u << 20)     /* small enough to stay in a processor's cache */
#define CONNECTIONS_MAX 10000u
#define GROUP 0

enum way { TOLD, SINGLE, MULTI, WAYS };
static const char *const way_names[WAYS] = {"told", "single", "multi"};

struct peer {
	int fd;        /* the receiver's end */
	int client;
	uint8_t *rx;   /* its own */
	uint8_t *place;
	unsigned have; /* of the unit that is coming */
	bool closed;   /* by the client: a poll may tell so more than once */
};

struct rig {
	enum way way;
	int cpu_app, cpu_core;
	bool spins;
	unsigned count, unit, message, answer; /* connections; bytes of what is answered at a time, of a message, and of an answer */
	struct peer *peers;
	struct io_uring ring;
	struct io_uring_buf_ring *pool;
	uint8_t *pool_bytes;
	unsigned pool_size, pool_count; /* of a buffer; a power of two of them */
	unsigned open;
	pthread_t thread;
	pthread_barrier_t ready;
	uint8_t *out;
	bool crowd; /* the clients are a process of their own, */
	int crowd_out[2], crowd_in[2]; /* which tells when it has said all, and ends when this is closed */
};

static void *room(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		bench_die("memory", -errno);
	return p;
}

/* ----------------------------------------------------------------- receiving */

static struct io_uring_sqe *sqe_of(struct rig *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (!sqe) {
		io_uring_submit(&r->ring);
		sqe = io_uring_get_sqe(&r->ring);
	}
	if (!sqe)
		bench_die("submission queue", EAGAIN);
	return sqe;
}

/* Where the next bytes go that are received into memory of the connection's own. */
static uint8_t *target_of(const struct rig *r, const struct peer *p, unsigned *ret_len)
{
	bool large = r->message >= LARGE_BYTES;

	*ret_len = large ? r->unit - p->have : RX_BYTES;
	return large ? p->place + p->have : p->rx;
}

static void arm(struct rig *r, unsigned i)
{
	struct peer *p = &r->peers[i];
	struct io_uring_sqe *sqe = sqe_of(r);
	unsigned len;
	uint8_t *to = target_of(r, p, &len);

	if (r->way == TOLD) {
		io_uring_prep_poll_multishot(sqe, p->fd, POLLIN);
	} else if (r->way == SINGLE) {
		io_uring_prep_recv(sqe, p->fd, to, len, 0);
	} else {
		io_uring_prep_recv_multishot(sqe, p->fd, NULL, 0, 0);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = GROUP;
	}
	io_uring_sqe_set_data64(sqe, i);
}

/* @n bytes have come, at @from: they go to their place, if they are not there, and each whole unit is answered. */
static void got(struct rig *r, struct peer *p, const uint8_t *from, unsigned n)
{
	unsigned answers = 0, part;

	while (n) {
		part = r->unit - p->have < n ? r->unit - p->have : n;
		if (from != p->place + p->have)
			memcpy(p->place + p->have, from, part);
		p->have += part;
		from += part;
		n -= part;
		if (p->have == r->unit) {
			p->have = 0;
			answers++;
		}
	}
	if (answers && send(p->fd, r->out, (size_t)answers * r->answer, MSG_NOSIGNAL) != (ssize_t)answers * r->answer)
		bench_die("answer", EIO);
}

static void gone(struct rig *r, struct peer *p)
{
	r->open -= !p->closed;
	p->closed = true;
}

/* Return: false once the other has closed */
static bool receive(struct rig *r, struct peer *p)
{
	unsigned len;
	uint8_t *to;
	ssize_t n;

	do {
		to = target_of(r, p, &len);
		n = recv(p->fd, to, len, MSG_DONTWAIT);
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		got(r, p, to, (unsigned)n);
	} while ((unsigned)n == len);
	return true;
}

static void complete(struct rig *r, const struct io_uring_cqe *cqe)
{
	unsigned i = (unsigned)cqe->user_data, len, id;
	struct peer *p = &r->peers[i];
	bool more = cqe->flags & IORING_CQE_F_MORE, alive = cqe->res > 0;
	uint8_t *at;

	if (r->way == TOLD) {
		alive = receive(r, p);
	} else if (r->way == SINGLE) {
		if (alive)
			got(r, p, target_of(r, p, &len), (unsigned)cqe->res);
	} else if (cqe->flags & IORING_CQE_F_BUFFER) {
		id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
		at = r->pool_bytes + (size_t)id * r->pool_size;
		if (alive)
			got(r, p, at, (unsigned)cqe->res);
		io_uring_buf_ring_add(r->pool, at, r->pool_size, (unsigned short)id, io_uring_buf_ring_mask(r->pool_count), 0);
		io_uring_buf_ring_advance(r->pool, 1);
	} else if (cqe->res == -ENOBUFS) {
		alive = true; /* all of the pool was used: once more */
	}
	if (!alive)
		gone(r, p);
	else if (!more)
		arm(r, i);
}

static void pool_open(struct rig *r)
{
	struct io_uring_buf_reg reg = {.bgid = GROUP};
	unsigned i;

	r->pool_size = r->message >= LARGE_BYTES ? 64u << 10 : r->unit > 2048 ? 16u << 10 : 2048;
	r->pool_count = POOL_BYTES / r->pool_size;
	r->pool = room(r->pool_count * sizeof(struct io_uring_buf));
	r->pool_bytes = room(POOL_BYTES);
	reg.ring_entries = r->pool_count;
	reg.ring_addr = (uint64_t)(uintptr_t)r->pool;
	if (io_uring_register_buf_ring(&r->ring, &reg, 0) != 0)
		bench_die("ring of buffers", ENOTSUP);
	io_uring_buf_ring_init(r->pool);
	for (i = 0; i < r->pool_count; i++)
		io_uring_buf_ring_add(r->pool, r->pool_bytes + (size_t)i * r->pool_size, r->pool_size, (unsigned short)i,
				      io_uring_buf_ring_mask(r->pool_count), (int)i);
	io_uring_buf_ring_advance(r->pool, r->pool_count);
}

static void *receiver(void *arg)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
					 .cq_entries = 32768};
	struct rig *r = arg;
	struct io_uring_cqe *cqe;
	unsigned i, head, n;
	bool looks = r->way == TOLD && r->spins; /* nobody has to tell */

	bench_pin(r->cpu_core);
	if (io_uring_queue_init_params(1024, &r->ring, &params) != 0) {
		params.flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CQSIZE;
		if (io_uring_queue_init_params(1024, &r->ring, &params) != 0)
			bench_die("io_uring", ENOSYS);
	}
	if (r->way == MULTI)
		pool_open(r);
	for (i = 0; i < r->count && !looks; i++)
		arm(r, i);
	io_uring_submit(&r->ring);
	pthread_barrier_wait(&r->ready);
	while (r->open) {
		for (i = 0; looks && i < r->count; i++)
			if (!receive(r, &r->peers[i]))
				gone(r, &r->peers[i]);
		if (looks)
			continue;
		if (r->spins)
			io_uring_submit_and_get_events(&r->ring);
		else
			io_uring_submit_and_wait(&r->ring, 1);
		n = 0;
		io_uring_for_each_cqe(&r->ring, head, cqe) {
			complete(r, cqe);
			n++;
		}
		io_uring_cq_advance(&r->ring, n);
	}
	io_uring_queue_exit(&r->ring);
	if (r->way == MULTI) {
		munmap(r->pool, r->pool_count * sizeof(struct io_uring_buf));
		munmap(r->pool_bytes, POOL_BYTES);
	}
	return NULL;
}

/* ------------------------------------------------------------------- the client */

static void say(const struct rig *r, unsigned i, const void *unit)
{
	unsigned at = 0;
	ssize_t n;

	while (at < r->unit) {
		n = send(r->peers[i].client, (const char *)unit + at, r->unit - at, MSG_NOSIGNAL);
		if (n <= 0)
			bench_die("send", -errno);
		at += (unsigned)n;
	}
}

static void hear(const struct rig *r, unsigned i, void *answer)
{
	unsigned at = 0;
	ssize_t n;

	while (at < r->answer) {
		n = recv(r->peers[i].client, (char *)answer + at, r->answer - at, r->spins ? MSG_DONTWAIT : 0);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			bench_die("receive", EIO);
		at += n > 0 ? (unsigned)n : 0;
	}
}

/* A process with all the clients, since a process has only so many descriptors: each says one thing, and then they wait for the end. */
static void crowd(const struct rig *r)
{
	char data[64] = {0};
	unsigned i;

	close(r->crowd_out[0]);
	close(r->crowd_in[1]);
	for (i = 0; i < r->count; i++) {
		say(r, i, data);
		hear(r, i, data);
	}
	_exit(write(r->crowd_out[1], data, 1) != 1 || read(r->crowd_in[0], data, 1) != 0);
}

/* -------------------------------------------------------------- open and close */

static void join_up(struct rig *r)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t len = sizeof(a);
	unsigned i;
	pid_t child = -1;

	if (door < 0 || bind(door, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(door, 4096) != 0 ||
	    getsockname(door, (struct sockaddr *)&a, &len) != 0)
		bench_die("loopback", -errno);
	if (r->crowd) {
		child = fork();
		if (child < 0)
			bench_die("fork", -errno);
	}
	for (i = 0; i < r->count; i++) {
		struct peer *p = &r->peers[i];

		if (child <= 0) {
			p->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			if (p->client < 0 || connect(p->client, (struct sockaddr *)&a, sizeof(a)) != 0)
				bench_die("connect", -errno);
			setsockopt(p->client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		}
		if (child) {
			p->fd = accept4(door, NULL, NULL, SOCK_CLOEXEC);
			if (p->fd < 0)
				bench_die("accept", -errno);
			setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		}
	}
	close(door);
	if (child == 0)
		crowd(r);
}

static void rig_open(struct rig *r, const struct bench *b)
{
	unsigned i;

	r->cpu_app = b->cpu_app;
	r->cpu_core = b->cpu_core;
	r->peers = calloc(r->count, sizeof(*r->peers));
	r->out = calloc(64, r->answer);
	r->open = r->count;
	if (!r->peers || !r->out)
		bench_die("memory", ENOMEM);
	join_up(r);
	for (i = 0; i < r->count; i++) {
		r->peers[i].rx = room(RX_BYTES);
		r->peers[i].place = room(r->unit);
	}
	pthread_barrier_init(&r->ready, NULL, 2);
	if (pthread_create(&r->thread, NULL, receiver, r) != 0)
		bench_die("second thread", EAGAIN);
	bench_pin(b->cpu_app);
	pthread_barrier_wait(&r->ready);
}

static void rig_close(struct rig *r)
{
	unsigned i;

	for (i = 0; i < r->count; i++)
		shutdown(r->peers[i].client, SHUT_WR);
	pthread_join(r->thread, NULL);
	for (i = 0; i < r->count; i++) {
		close(r->peers[i].client);
		close(r->peers[i].fd);
		munmap(r->peers[i].rx, RX_BYTES);
		munmap(r->peers[i].place, r->unit);
	}
	pthread_barrier_destroy(&r->ready);
	free(r->peers);
	free(r->out);
	bench_unpin();
}

/* ------------------------------------------------------------------ each of them */

static double round_trip(const struct bench *b, enum way way)
{
	struct rig r = {.way = way, .spins = true, .count = 1, .unit = 64, .message = 64, .answer = 64};
	unsigned count = b->smoke ? 200 : 20000, i;
	struct bench_samples s;
	uint64_t begin;
	char data[64] = {0};
	double p50;

	bench_samples_init(&s, count);
	rig_open(&r, b);
	for (i = 0; i < count + count / 10; i++) {
		if (i == count / 10)
			bench_samples_clear(&s);
		begin = bench_now();
		say(&r, 0, data);
		hear(&r, 0, data);
		bench_samples_add(&s, bench_now() - begin);
	}
	rig_close(&r);
	p50 = bench_percentile(&s, 0.5) / 1000;
	bench_samples_fini(&s);
	return p50;
}

struct shape {
	const char *name;
	unsigned count, message, unit;
	uint64_t messages;
};

struct flow {
	double cpu_ns, per_second; /* of a message */
};

static uint64_t cpu_of(pthread_t thread)
{
	struct timespec t;
	clockid_t clock;

	pthread_getcpuclockid(thread, &clock);
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Each connection has two units out, at most. */
static struct flow flow(const struct bench *b, enum way way, const struct shape *s)
{
	struct rig r = {.way = way, .count = s->count, .unit = s->unit, .message = s->message, .answer = 8};
	uint64_t rounds = (b->smoke ? s->messages / 200 : s->messages) / (s->count * (s->unit / s->message)) + 2, k, begin, cpu;
	char *data = calloc(1, s->unit), answer[8];
	struct flow f = {0};
	unsigned i;

	rig_open(&r, b);
	for (i = 0; i < r.count; i++)
		say(&r, i, data);
	begin = bench_now();
	cpu = cpu_of(r.thread);
	for (k = 0; k < rounds; k++)
		for (i = 0; i < r.count; i++) {
			if (s->unit > s->message || s->message >= LARGE_BYTES) {
				say(&r, i, data);
				hear(&r, i, answer);
			} else { /* one at a time */
				hear(&r, i, answer);
				say(&r, i, data);
			}
		}
	f.cpu_ns = (double)(cpu_of(r.thread) - cpu);
	f.per_second = (double)(bench_now() - begin);
	k = rounds * r.count * (s->unit / s->message);
	f.cpu_ns /= (double)k;
	f.per_second = (double)k * 1e9 / f.per_second;
	for (i = 0; i < r.count; i++)
		hear(&r, i, answer);
	rig_close(&r);
	free(data);
	return f;
}

/* In a process of its own, whose memory nobody else has touched. */
static double idle(const struct bench *b, enum way way, unsigned count)
{
	struct rig r = {.way = way, .count = count, .unit = 64, .message = 64, .answer = 64, .crowd = true};
	double before, bytes = 0;
	int out[2];
	pid_t child;
	char c;

	if (pipe(out) != 0)
		bench_die("pipe", -errno);
	child = fork();
	if (child == 0) {
		if (pipe(r.crowd_out) != 0 || pipe(r.crowd_in) != 0)
			bench_die("pipe", -errno);
		before = bench_memory();
		rig_open(&r, b);
		close(r.crowd_out[1]);
		if (read(r.crowd_out[0], &c, 1) != 1)
			bench_die("the crowd", EIO);
		/* not the message's place, which each way has */
		bytes = (bench_memory() - before) / count - 4096;
		_exit(write(out[1], &bytes, sizeof(bytes)) != sizeof(bytes));
	}
	close(out[1]);
	if (child < 0 || read(out[0], &bytes, sizeof(bytes)) != sizeof(bytes))
		bench_die("idle connections", EIO);
	close(out[0]);
	waitpid(child, NULL, 0);
	return bytes;
}

/* ---------------------------------------------------------------------- lines */

static void trips(struct bench *b, enum way beside)
{
	char name[64];
	struct bench_line l = {.name = name, .unit = "us", .rival = way_names[beside], .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&l};
	double ours;

	snprintf(name, sizeof(name), "receive_roundtrip_64B_%s", way_names[beside]);
	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		ours = round_trip(b, MULTI);
		bench_pairs_add(&l.pairs, ours, round_trip(b, beside));
	}
	bench_report(b, &l);
}

static void flows(struct bench *b, const struct shape *s, enum way beside)
{
	char names[2][64];
	struct bench_line cpu = {.name = names[0], .unit = "ns", .rival = way_names[beside], .measure = BENCH_RATIO},
			  rate = {.name = names[1], .unit = "k/s", .rival = way_names[beside], .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&cpu, &rate};
	struct flow ours, other;

	snprintf(names[0], sizeof(names[0]), "receive_%s_cpu_%s", s->name, way_names[beside]);
	snprintf(names[1], sizeof(names[1]), "receive_%s_rate_%s", s->name, way_names[beside]);
	if (!bench_wants(b, names[0]) && !bench_wants(b, names[1]))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++) {
		ours = flow(b, MULTI, s);
		other = flow(b, beside, s);
		bench_pairs_add(&cpu.pairs, ours.cpu_ns, other.cpu_ns);
		bench_pairs_add(&rate.pairs, ours.per_second / 1000, other.per_second / 1000);
	}
	bench_report(b, &cpu);
	bench_report(b, &rate);
}

static void idles(struct bench *b, enum way beside)
{
	char name[64];
	struct bench_line l = {.name = name, .unit = "bytes", .rival = way_names[beside], .measure = BENCH_RATIO};
	unsigned count = b->smoke ? 20 : CONNECTIONS_MAX;
	struct rlimit files = {0};

	snprintf(name, sizeof(name), "receive_idle_%s", way_names[beside]);
	if (!bench_wants(b, name))
		return;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < count + 100) {
		bench_skip(b, name, "too few file descriptors (ulimit -n)");
		return;
	}
	bench_pairs_add(&l.pairs, idle(b, MULTI, count), idle(b, beside, count));
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {{"burst", 16, 100, 6400, 1000000}, {"crowd", 256, 100, 100, 100000}, {"body", 4, 65536, 65536, 10000}};
	struct bench b;

	bench_init(&b, argc, argv, "transport");
	for (enum way beside = TOLD; beside < MULTI; beside++) {
		trips(&b, beside);
		for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
			flows(&b, &shapes[i], beside);
		idles(&b, beside);
	}
	return bench_end(&b);
}
