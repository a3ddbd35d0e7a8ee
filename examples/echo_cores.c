/* SPDX-License-Identifier: Apache-2.0 */
/*
 * echo_cores.c - a TCP server on two cores, with nothing of the library but the cores: no broker, no log. What it is sent it sends back.
 *
 *   echo_cores          serves itself: eight clients, who check what comes back
 *   echo_cores PORT     serves others on 127.0.0.1, until its standard input ends
 *
 * How: core 0 accepts, and hands the connections to all cores in turns, through a mailbox to each (to itself too, so that there is
 * one way and not two). From then on a connection is its core's alone: nothing here is locked, and no other thread sees it. A core
 * without anything to do sleeps; a descriptor that becomes ready, or a message, wakes it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define CORES 2u
#define TURNS                                                                                      \
	16 /* buffers that one connection moves before the others of its core have their turn */
#define CLIENTS 8u

/* A core's part. Only its core touches it. */
struct part {
	struct thmq_core *core;
	struct connection *first;
	unsigned connections; /* ever */
	unsigned long long bytes;
};

struct connection {
	struct thmq_task
		again; /* first: where a connection has more to do, it comes back to it by this */
	struct part *part;
	struct connection *next;
	struct thmq_watch *watch;
	int fd;
	bool posted; /* again is under way: not to be freed */
	bool over;
	size_t from, to; /* of buffer: read and not written yet */
	char buffer[4096];
};

/* The acceptor's, on core 0. */
struct server {
	struct thmq_env *env;
	struct part parts[CORES];
	struct thmq_mailbox *to[CORES];
	struct thmq_watch *watch;
	int fd, port;
	int held; /* accepted, but its core's mailbox was full; -1: none */
	unsigned turn;
};

static int fail(const char *what)
{
	fprintf(stderr, "echo_cores: %s: %s\n", what, errno ? strerror(errno) : thmq_errmsg());
	return -1;
}

/* ------------------------------------------------------------- connections */

static void end(struct connection *c)
{
	struct connection **at = &c->part->first;

	if (!c->over) {
		while (*at != c)
			at = &(*at)->next;
		*at = c->next;
		thmq_watch_close(c->watch); /* before its descriptor */
		close(c->fd);
		c->over = true;
	}
	if (!c->posted)
		free(c);
}

/* Nobody tells again what was told once: go on until the socket has no more, or takes no more. */
static void serve(struct connection *c)
{
	for (int i = 0; i < TURNS; i++) {
		ssize_t n;

		if (c->from == c->to) {
			n = read(c->fd, c->buffer, sizeof(c->buffer));
			if (n > 0) {
				c->from = 0;
				c->to = (size_t)n;
			}
		} else {
			n = send(c->fd, c->buffer + c->from, c->to - c->from, MSG_NOSIGNAL);
			if (n > 0) {
				c->from += (size_t)n;
				c->part->bytes += (size_t)n;
			}
		}
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			end(c);
			return;
		}
	}
	/* there may be more, and others want their turn: after them */
	if (!c->posted) {
		c->posted = true;
		thmq_core_post(c->part->core, &c->again);
	}
}

static void serve_again(struct thmq_core *core, struct thmq_task *task)
{
	struct connection *c = (struct connection *)task;

	(void)core;
	c->posted = false;
	if (c->over)
		end(c);
	else
		serve(c);
}

static void on_ready(void *ctx, uint32_t events)
{
	(void)events; /* reading and writing tell more */
	serve(ctx);
}

/* The message: a connection for this core. */
static void adopt(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct part *p = mail->object;
	struct connection *c = calloc(1, sizeof(*c));
	int fd = (int)mail->word[0], one = 1;

	if (!c || thmq_watch_open(core, fd, POLLIN | POLLOUT, on_ready, c, &c->watch) != 0) {
		close(fd);
		free(c);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->again.run = serve_again;
	c->part = p;
	c->fd = fd;
	c->next = p->first;
	p->first = c;
	p->connections++;
}

/* ----------------------------------------------------------------- acceptor */

/* The next core in turn gets it. False: it cannot take it now. */
static bool hand_over(struct server *s, int fd)
{
	unsigned i = s->turn % CORES;
	struct thmq_mail mail = {.run = adopt, .object = &s->parts[i], .word = {(uint64_t)fd}};
	int rc = thmq_mailbox_send(s->to[i], &mail);

	if (rc == -EAGAIN)
		return false;
	if (rc != 0)
		close(fd); /* the environment closes */
	s->turn++;
	return true;
}

static void accept_all(struct server *s)
{
	int fd;

	while (s->held < 0 && (fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		if (!hand_over(s, fd))
			s->held =
				fd; /* on_room() goes on; meanwhile the others wait in the kernel */
}

static void on_knock(void *ctx, uint32_t events)
{
	(void)events;
	accept_all(ctx);
}

static void on_room(void *ctx)
{
	struct server *s = ctx;
	int fd = s->held;

	s->held = -1;
	if (fd >= 0 && !hand_over(s, fd))
		s->held = fd;
	accept_all(s);
}

static int listen_on(struct server *s, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	socklen_t len = sizeof(a);
	int one = 1;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return fail("socket");
	setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s->fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(s->fd, 128) != 0 ||
	    getsockname(s->fd, (struct sockaddr *)&a, &len) != 0) {
		fail("listen");
		close(s->fd);
		return -1;
	}
	s->port = ntohs(a.sin_port);
	return 0;
}

/* On core 0. */
static int open_door(struct thmq_core *core, void *arg)
{
	struct server *s = arg;

	for (unsigned i = 0; i < CORES; i++)
		if (thmq_mailbox_open(core, s->parts[i].core,
				      THMQ_MAILBOX_OPTS(.depth = 4, .room = on_room, .ctx = s),
				      &s->to[i]) != 0)
			return -1;
	return thmq_watch_open(core, s->fd, POLLIN, on_knock, s, &s->watch);
}

static int close_door(struct thmq_core *core, void *arg)
{
	struct server *s = arg;

	(void)core;
	thmq_watch_close(s->watch);
	close(s->fd);
	if (s->held >= 0)
		close(s->held);
	for (unsigned i = 0; i < CORES; i++)
		thmq_mailbox_close(
			s->to[i]); /* what was sent is adopted all the same, and before what comes next */
	return 0;
}

/* On each core. */
static int close_connections(struct thmq_core *core, void *arg)
{
	struct part *p = arg;

	(void)core;
	while (p->first)
		end(p->first);
	return 0;
}

/* ------------------------------------------------------------------ clients */

static int dial(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	fail("connect");
	if (fd >= 0)
		close(fd);
	return -1;
}

/* One exchange: what is sent comes back. */
static int exchange(int fd, unsigned seed, size_t len)
{
	char out[20000] = {0}, in[20000];
	size_t got = 0;

	for (size_t i = 0; i < len; i++)
		out[i] = (char)(seed + i * 7);
	if (send(fd, out, len, MSG_NOSIGNAL) != (ssize_t)len)
		return fail("send");
	while (got < len) {
		ssize_t n = read(fd, in + got, len - got);

		if (n <= 0)
			return fail("receive");
		got += (size_t)n;
	}
	return memcmp(in, out, len) == 0 ? 0 : (errno = EIO, fail("not what was sent"));
}

static int be_clients(int port)
{
	int fds[CLIENTS], rc = 0;
	unsigned i, round;

	for (i = 0; i < CLIENTS; i++)
		fds[i] = dial(port);
	for (round = 0; round < 50; round++)
		for (i = 0; i < CLIENTS && rc == 0; i++)
			rc = fds[i] < 0 ? -1
					: exchange(fds[i], round + i,
						   1 + (round * 401 + i * 97) % 20000);
	for (i = 0; i < CLIENTS; i++)
		if (fds[i] >= 0 && i % 2) /* the others are still there when the server ends */
			close(fds[i]);
	return rc;
}

int main(int argc, char **argv)
{
	struct server s = {.held = -1};
	int rc = 0;
	char c;

	if (listen_on(&s, argc > 1 ? atoi(argv[1]) : 0) != 0)
		return 1;
	errno = 0;
	if (thmq_env_open(&s.env, THMQ_ENV_OPTS(.core_count = CORES)) != 0)
		return fail("open environment"), 1;
	for (unsigned i = 0; i < CORES; i++)
		s.parts[i].core = thmq_env_core(s.env, i);
	if (thmq_core_call(s.parts[0].core, open_door, &s, SECOND) != 0)
		return fail("open the door"), 1;
	if (argc > 1) {
		printf("127.0.0.1:%d\n", s.port);
		while (read(0, &c, 1) > 0)
			;
	} else {
		rc = be_clients(s.port);
	}
	thmq_core_call(s.parts[0].core, close_door, &s, SECOND);
	for (unsigned i = 0; i < CORES; i++)
		thmq_core_call(s.parts[i].core, close_connections, &s.parts[i], SECOND);
	thmq_env_close(s.env, SECOND);
	for (unsigned i = 0; i < CORES; i++) {
		printf("core %u: %u connections, %llu bytes\n", i, s.parts[i].connections,
		       s.parts[i].bytes);
		if (argc == 1 && s.parts[i].connections != CLIENTS / CORES)
			rc = -1;
	}
	return rc ? 1 : 0;
}
