/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - clients' connections: bytes become requests, answers become bytes in the order of the requests. Many requests of a
 * connection may be under way; who does not take his answers, or sends faster than they can be done, is not read from for a while.
 * Knows no request by name.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kafka.h"

#define READ_BYTES (256u << 10) /* at a time */
#define IOV_COUNT 64u
#define TURN_NS (50 * MILLISECOND) /* of a connection: behind a request that ends later than that others have theirs */
#define KEEP_BYTES (1u << 20)   /* a buffer that has grown beyond this goes back when it is empty */
#define IDLE_NS (600 * SECOND)
#define STUCK_NS (60 * SECOND)    /* who does not take a byte of his answers for so long */
#define STRANGER_NS (30 * SECOND) /* who does not say who he is */
#define CROWDED_NS (3 * SECOND)   /* who says nothing, or half a request, while nearly all places are taken */
#define IN_BYTES_MAX (512ull << 20) /* of requests that are not whole yet, all clients': a large one more ends its connection */
#define FRAME_BYTES_SOME (256ull << 20) /* of those under way: from here on one of a client's after the other */
#define FRAME_BYTES_MAX (1024ull << 20) /* a large one more ends its connection */
#define OUT_BYTES_SOME (512ull << 20)   /* of answers that are not taken, all clients': from here on they are small */
#define OUT_BYTES_ALL_MAX (1024ull << 20) /* a large one more ends its connection */

/* ----------------------------------------------------------------- requests */

static void stop_waiting(struct request *r)
{
	if (!r->at_waiting)
		return;
	*r->at_waiting = r->next_waiting;
	if (r->next_waiting)
		r->next_waiting->at_waiting = r->at_waiting;
	r->at_waiting = NULL;
	if (r->server->look_at == r)
		r->server->look_at = r->next_waiting;
}

void request_free(struct request *r)
{
	stop_waiting(r);
	r->server->frame_bytes -= r->frame_len;
	pieces_free(&r->pieces);
	out_free(&r->out);
	free(r->frame);
	free(r);
}

void request_done(struct request *r)
{
	stop_waiting(r);
	r->done = true;
	r->drop = NULL;
	if (r->conn)
		conn_dirty(r->conn);
	else
		request_free(r);
}

void request_fail(struct request *r)
{
	r->silent = true;
	if (!r->conn)
		return;
	fprintf(stderr, "%s: a request of kind %d, version %d, makes no sense: closed\n",
		r->conn->peer, r->api, r->version);
	r->conn->closing = true;
	conn_dirty(r->conn);
}

void request_wait(struct request *r, bool (*look)(struct request *r), int64_t deadline_ns)
{
	struct server *s = r->server;

	r->look = look;
	r->deadline_ns = deadline_ns;
	r->next_waiting = s->waiting;
	r->at_waiting = &s->waiting;
	if (s->waiting)
		s->waiting->at_waiting = &r->next_waiting;
	s->waiting = r;
	if (clock_ns() < s->round_end_ns) {
		look(r);
	} else { /* its turn comes: others have waited for this round for long enough */
		r->fresh = true;
		s->look_due = true;
	}
}

void request_look_all(struct server *s, bool news)
{
	int64_t now = clock_ns();
	struct request *r;

	s->look_due |= news;
	s->look_news |= news;
	if (!s->look_at) { /* else those that had no turn in the last round go on */
		s->look_at = s->waiting;
		s->look_all = s->look_news;
		s->look_due = s->look_news = false;
	}
	while ((r = s->look_at)) {
		s->look_at = r->next_waiting; /* which another one's end may take away */
		if (!s->look_all && !r->fresh && now < r->deadline_ns)
			continue;
		r->fresh = false;
		r->look(r);
		if (clock_ns() >= s->round_end_ns)
			break;
	}
}

bool request_looks_on(const struct server *s)
{
	return s->look_at || s->look_due;
}

bool request_is_late(const struct request *r, int64_t most_ns)
{
	return clock_ns() - r->begun_ns > most_ns;
}

/* -------------------------------------------------------------- connections */

void conn_dirty(struct conn *c)
{
	if (c->dirty)
		return;
	c->dirty = true;
	c->next_dirty = c->server->dirty;
	c->server->dirty = c;
}

/* What its requests hold until they are whole, and its answers until they are taken. */
static void count_bytes(struct conn *c)
{
	c->server->in_bytes += c->in.room - c->in_counted;
	c->in_counted = c->in.room;
	c->server->out_bytes += c->out.room + c->pieces.len - c->out_counted;
	c->out_counted = c->out.room + c->pieces.len;
}

size_t conn_room_for_answer(const struct server *s)
{
	return s->out_bytes < OUT_BYTES_SOME ? (size_t)(OUT_BYTES_SOME - s->out_bytes) / 8 : 0;
}

void conn_close(struct conn *c)
{
	struct server *s = c->server;
	struct conn **at;
	struct request *r;

	while ((r = c->first)) {
		c->first = r->next;
		r->conn = NULL;
		if (r->done || !r->drop)
			request_free(r);
		else
			r->drop(r);
	}
	for (at = &s->dirty; *at; at = &(*at)->next_dirty)
		if (*at == c) {
			*at = c->next_dirty;
			break;
		}
	if (c->before)
		c->before->next = c->next;
	else
		s->conns = c->next;
	if (c->next)
		c->next->before = c->before;
	s->conn_count--;
	pieces_free(&c->pieces);
	out_free(&c->in);
	out_free(&c->out);
	count_bytes(c);
	tls_close(c->tls);
	close(c->fd);
	auth_end(&c->auth);
	free(c);
}

static void name_of(const struct sockaddr_storage *a, char *host, size_t host_size,
		    uint16_t *ret_port)
{
	char port[8] = "";

	if (getnameinfo((const struct sockaddr *)a, sizeof(*a), host, (socklen_t)host_size, port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(host, host_size, "?");
	if (strncmp(host, "::ffff:", 7) == 0 && strchr(host, '.')) /* IPv4 at a socket for both: a client without IPv6 is told no other */
		memmove(host, host + 7, strlen(host + 7) + 1);
	*ret_port = (uint16_t)atoi(port);
}

static void conn_open(struct server *s, int fd, bool tls, const struct sockaddr_storage *peer)
{
	struct conn *c = calloc(1, sizeof(*c));
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
	struct sockaddr_storage local = {.ss_family = 0};
	socklen_t len = sizeof(local);
	uint16_t port;
	int on = 1;

	if (c && tls) {
		c->tls = tls_open(s->tls, fd);
		if (!c->tls) {
			free(c);
			c = NULL;
		}
	}
	if (!c || epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e)) {
		if (c)
			tls_close(c->tls);
		free(c);
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	c->server = s;
	c->fd = fd;
	c->id = ++s->conn_serial;
	c->last = &c->first;
	c->writable = c->readable = true;
	c->used_ns = clock_ns();
	c->auth.state = s->users ? AUTH_NONE : AUTH_DONE;
	name_of(peer, c->peer, sizeof(c->peer), &port);
	getsockname(fd, (struct sockaddr *)&local, &len);
	name_of(&local, c->local_host, sizeof(c->local_host), &c->local_port);
	c->next = s->conns;
	if (s->conns)
		s->conns->before = c;
	s->conns = c;
	s->conn_count++;
	conn_dirty(c);
}

void conn_accept(struct server *s, int listen_fd, bool tls)
{
	struct sockaddr_storage peer;
	socklen_t len;
	int fd, i;

	for (i = 0; i < 64; i++) {
		len = sizeof(peer);
		memset(&peer, 0, sizeof(peer));
		fd = accept4(listen_fd, (struct sockaddr *)&peer, &len,
			     SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		if (s->conn_count >= s->o.connection_max)
			close(fd);
		else
			conn_open(s, fd, tls, &peer);
	}
}

int conn_listen(struct server *s, const char *where, bool tls, int *ret_fd, uint16_t *ret_port)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list = NULL,
			*a;
	struct epoll_event e = {.events = EPOLLIN,
				.data.ptr =
					tls ? (void *)&s->listen_tls_fd : (void *)&s->listen_fd};
	const char *colon = strrchr(where, ':');
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	char host[256] = "";
	int fd = -1, on = 1;

	if (!colon || (size_t)(colon - where) >= sizeof(host))
		return -EINVAL;
	memcpy(host, where, (size_t)(colon - where));
	if (host[0] == '[' && host[strlen(host) - 1] == ']') {
		host[strlen(host) - 1] = '\0';
		memmove(host, host + 1, strlen(host));
	}
	if (getaddrinfo(*host ? host : NULL, colon + 1, &hints, &list))
		return -EHOSTUNREACH;
	for (a = list; a; a = a->ai_next) {
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, 511) &&
		    !getsockname(fd, (struct sockaddr *)&local, &len) &&
		    !epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e))
			break;
		on = errno;
		close(fd);
		errno = on;
		on = 1;
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0)
		return -errno;
	name_of(&local, host, sizeof(host), ret_port);
	*ret_fd = fd;
	return 0;
}

void conn_event(struct conn *c, uint32_t events)
{
	c->gone |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	/* it tells of changes only, and TLS may want the one for the other */
	c->readable = c->writable = true;
	conn_dirty(c);
}

/* ------------------------------------------------------------- in and out */

static bool has_to_send(const struct conn *c)
{
	return c->out_at < c->out.len || c->pieces.first;
}

/* The answer with its head goes behind what is to be sent; where there is nothing, its bytes are not copied. */
static void take_answer(struct conn *c, struct request *r)
{
	bool tags = r->out.flex && r->api != API_VERSIONS;
	size_t at = tags ? 0 : 1;
	uint8_t *head = r->out.data + at;

	put_i32(head, (int32_t)(r->out.len + r->pieces.len - at - 4));
	put_i32(head + 4, r->correlation);
	if (tags)
		head[8] = 0;
	if (!has_to_send(c) && r->out.len > c->out.room) {
		out_free(&c->out);
		c->out = r->out;
		c->out_at = at;
		pieces_move(&c->pieces, &r->pieces, at, at);
		r->out = (struct out){.data = NULL};
	} else {
		pieces_move(&c->pieces, &r->pieces, c->out.len, at);
		out_copy(&c->out, head, r->out.len - at);
	}
}

/* Answers that are due go behind what is to be sent. */
static void take_answers(struct conn *c)
{
	struct request *r;

	while ((r = c->first) && r->done) {
		c->first = r->next;
		if (!c->first)
			c->last = &c->first;
		c->pending--;
		if (r == c->newest)
			c->newest = NULL;
		if (r->out.failed)
			c->closing = true;
		else if (!r->silent)
			take_answer(c, r);
		if (c->out.failed)
			c->closing = true;
		request_free(r);
	}
	count_bytes(c);
	if (c->server->out_bytes > OUT_BYTES_ALL_MAX && c->out_counted > KEEP_BYTES) {
		fprintf(stderr, "%s: too much of large answers is not taken: closed\n", c->peer);
		c->closing = true;
	}
}

static long send_once(struct conn *c)
{
	struct iovec iov[IOV_COUNT];
	struct msghdr m = {.msg_iov = iov};

	if (c->tls) /* which has no pieces */
		return tls_write(c->tls, c->out.data + c->out_at, c->out.len - c->out_at);
	m.msg_iovlen = pieces_lay_out(&c->pieces, &c->out, c->out_at, iov, IOV_COUNT);
	return sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_some(struct conn *c)
{
	long n;

	while (c->writable && has_to_send(c)) {
		n = send_once(c);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			c->writable = false;
			c->closing |= n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
			return;
		}
		pieces_sent(&c->pieces, &c->out_at, (size_t)n);
		c->used_ns = c->server->now_ns;
	}
	if (c->out_at > KEEP_BYTES &&
	    c->out_at > c->out.len / 2) { /* who takes slowly never empties it */
		memmove(c->out.data, c->out.data + c->out_at, c->out.len - c->out_at);
		c->out.len -= c->out_at;
		pieces_shift(&c->pieces, 0, c->out_at);
		c->out_at = 0;
	}
	if (!has_to_send(c) && c->out.len) {
		if (c->out.room > KEEP_BYTES)
			out_free(&c->out);
		c->out.len = c->out_at = 0;
	}
}

/* Of what waits for something else than the device there is one at a time, as in Kafka: it may hold much. */
static bool waits_alone(const struct conn *c)
{
	return c->newest && !c->newest->done && c->newest->api != API_PRODUCE;
}

static bool is_full(const struct conn *c)
{
	return c->closing || waits_alone(c) || c->pending >= PIPELINE_MAX || (c->pending && c->server->frame_bytes > FRAME_BYTES_SOME) ||
	       c->out.len - c->out_at + c->pieces.len > OUT_BYTES_MAX || (has_to_send(c) && c->server->out_bytes > OUT_BYTES_SOME);
}

static void take_token(struct conn *c, const uint8_t *data, size_t len)
{
	struct out answer = {.data = NULL};
	size_t at = c->out.len;
	bool ok;

	out_i32(&c->out, 0);
	ok = auth_raw(c, (struct text){(const char *)data, (uint32_t)len}, &answer);
	out_copy(&c->out, answer.data, answer.len);
	if (!c->out.failed)
		put_i32(c->out.data + at, (int32_t)answer.len);
	if (!ok || c->out.failed) {
		c->out.len = at;
		c->closing = true;
	}
	out_free(&answer);
}

static void take_frame(struct conn *c, const uint8_t *data, size_t len)
{
	const bool much = len > KEEP_BYTES && c->server->frame_bytes > FRAME_BYTES_MAX;
	struct request *r = calloc(1, sizeof(*r));

	if (much)
		fprintf(stderr, "%s: too much of large requests is under way: closed\n", c->peer);
	if (r && !much)
		r->frame = malloc(len + 1);
	if (!r || !r->frame) {
		free(r);
		c->closing = true;
		return;
	}
	memcpy(r->frame, data, len);
	r->frame_len = len;
	r->server = c->server;
	r->server->frame_bytes += len;
	r->conn = c;
	if (!api_begin(r, len) || !auth_allows(c, r->api)) {
		fprintf(stderr,
			auth_allows(c, r->api) ? "%s: a request of kind %d, version %d, is none that is served here: closed\n"
					       : "%s: a request of kind %d, version %d, of somebody who has not said who he is, by SASL (--users): closed\n",
			c->peer, r->api, r->version);
		r->conn = NULL;
		request_free(r);
		c->closing = true;
		return;
	}
	c->has_asked = true;
	*c->last = r;
	c->last = &r->next;
	c->pending++;
	c->newest = r;
	api_run(r);
}

/* Frames that are whole, as long as it has time. Return: there are more */
static bool take_frames(struct conn *c)
{
	const int64_t end = clock_ns() + TURN_NS;

	while (!is_full(c) && c->in.len - c->in_at >= 4) {
		size_t max = c->auth.state == AUTH_DONE ? FRAME_MAX : STRANGER_FRAME_MAX;
		struct in in;
		int32_t len;

		in_init(&in, c->in.data + c->in_at, 4, false);
		len = in_i32(&in);
		if (len < 0 || (size_t)len > max) {
			fprintf(stderr, "%s: a request of %d bytes: closed\n", c->peer, len);
			c->closing = true;
			return false;
		}
		if (c->in.len - c->in_at - 4 < (size_t)len)
			return false;
		if (clock_ns() > end)
			return true;
		c->in_at += 4 + (size_t)len;
		if (c->auth.raw && c->auth.state != AUTH_DONE)
			take_token(c, c->in.data + c->in_at - len, (size_t)len);
		else
			take_frame(c, c->in.data + c->in_at - len, (size_t)len);
		take_answers(c);
	}
	return false;
}

static void read_some(struct conn *c)
{
	long n;

	if (c->in_at) {
		memmove(c->in.data, c->in.data + c->in_at, c->in.len - c->in_at);
		c->in.len -= c->in_at;
		c->in_at = 0;
		if (!c->in.len && c->in.room > KEEP_BYTES)
			out_free(&c->in);
	}
	if (!out_raw(&c->in, READ_BYTES)) {
		c->closing = true;
		return;
	}
	c->in.len -= READ_BYTES;
	n = c->tls ? tls_read(c->tls, c->in.data + c->in.len, READ_BYTES)
		   : recv(c->fd, c->in.data + c->in.len, READ_BYTES, MSG_DONTWAIT);
	if (n > 0) {
		c->in.len += (size_t)n;
		c->used_ns = c->server->now_ns;
	} else if (n == 0) {
		c->closing = true;
	} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
		c->readable = false;
		if (!c->in.len) /* idle connections keep nothing */
			out_free(&c->in);
	} else if (errno != EINTR) {
		c->closing = true;
	}
	count_bytes(c);
	if (c->server->in_bytes > IN_BYTES_MAX && c->in.room > KEEP_BYTES) {
		fprintf(stderr, "%s: too much of large requests is under way: closed\n", c->peer);
		c->closing = true;
	}
}

/* One turn: what has come is read once, so that others have theirs. */
static void conn_run(struct conn *c)
{
	bool more;

	take_answers(c);
	more = take_frames(c);
	if (c->readable && !is_full(c) && !more) {
		read_some(c);
		more = take_frames(c);
	}
	take_answers(c);
	send_some(c);
	if (waits_alone(c) && c->in_at == c->in.len) { /* for long, perhaps: it keeps nothing meanwhile, as idle ones do */
		out_free(&c->in);
		c->in_at = 0;
	}
	count_bytes(c);
	if (c->gone && waits_alone(c)) /* nothing is read meanwhile, not even the end */
		c->closing = true;
	if (c->closing)
		conn_close(c);
	else if (((c->readable || more) && !is_full(c)) || (c->first && c->first->done))
		conn_dirty(c);
}

void conn_run_dirty(struct server *s)
{
	struct conn *c, *list = s->dirty;

	/* what becomes dirty meanwhile has its turn in the next round; conn_close() looks through s->dirty only */
	s->dirty = NULL;
	while ((c = list)) {
		list = c->next_dirty;
		c->dirty = false;
		c->next_dirty = NULL;
		conn_run(c);
	}
}

void conn_tick(struct server *s)
{
	const bool crowded = s->conn_count >= s->o.connection_max - s->o.connection_max / 10;
	int64_t now = clock_ns(), quiet;
	struct conn *c, *next;

	for (c = s->conns; c; c = next) {
		next = c->next;
		quiet = now - c->used_ns;
		if ((has_to_send(c) && quiet > STUCK_NS) ||
		    (!c->first && quiet > (crowded && (!c->has_asked || c->in.len > c->in_at) ? CROWDED_NS : IDLE_NS)) ||
		    (c->auth.state != AUTH_DONE && quiet > STRANGER_NS))
			conn_close(c);
	}
}
