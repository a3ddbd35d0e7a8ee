/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry_conn.c - a connection between two nodes: called or accepted, proven by TLS where that is asked for, greeted, open, ended; and how the other's
 * death is noticed. Knows no groups.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "carry.h"

#define ACCEPT_BUDGET 8u

/* -------------------------------------------------------------------- bytes */

int64_t thmqi_carry_send(struct carry_conn *n, const struct iovec *iov, uint32_t count)
{
	const struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
	int64_t went;

	if (n->tls) {
		went = thmqi_tls_send(n->tls, iov, count);
		n->writable = !n->tls->blocked;
		return went == -EAGAIN ? 0 : went;
	}
	went = sendmsg(n->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (went >= 0)
		return went;
	if (errno == EAGAIN)
		n->writable = false;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

int64_t thmqi_carry_recv(struct carry_conn *n, struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
	size_t want = iov[0].iov_len + (count > 1 ? iov[1].iov_len : 0);
	int64_t got;

	if (n->tls) {
		got = thmqi_tls_recv(n->tls, iov, count);
		n->readable = !n->tls->drained || n->hung_up;
		return got == -EAGAIN ? 0 : got ? got : -ECONNRESET;
	}
	got = recvmsg(n->fd, &m, MSG_DONTWAIT);
	if (got < 0) {
		n->readable = errno == EINTR;
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	}
	n->readable = (size_t)got == want || n->hung_up;
	return got ? got : -ECONNRESET;
}

/* --------------------------------------------------------------- made, freed */

static void on_ready(void *ctx, uint32_t events)
{
	struct carry_conn *n = ctx;

	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		n->readable = n->hung_up = true;
	if (events & EPOLLIN)
		n->readable = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		n->writable = true;
}

static struct carry_conn *make(struct thmqi_courier *c)
{
	struct carry_conn *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->rx = malloc(CARRY_RX_BYTES);
	n->queue = malloc(CARRY_QUEUE * sizeof(*n->queue));
	n->queue_bufs = calloc(CARRY_QUEUE, sizeof(struct thmqi_buf *));
	if (!n->rx || !n->queue || !n->queue_bufs) {
		free(n->rx);
		free(n->queue);
		free(n->queue_bufs);
		free(n);
		return NULL;
	}
	n->carrier = c;
	n->fd = -1;
	thmqi_list_add_tail(&c->conns, &n->link);
	c->conn_count++;
	return n;
}

void thmqi_carry_free(struct carry_conn *n)
{
	if (n->carrier) {
		thmqi_list_del(&n->link);
		n->carrier->conn_count--;
	}
	thmqi_tls_close(n->tls);
	thmqi_tls_config_unref(n->tls_config);
	if (n->fd >= 0)
		close(n->fd);
	free(n->rx);
	free(n->queue);
	free(n->queue_bufs);
	free(n);
}

/* A node that was not reached is called again a little later each time, and by chance not at the same time as by others. */
static void put_off(struct carry_conn *n, struct carry_peer *p)
{
	struct thmqi_courier *c = n->carrier;
	uint64_t wait = CARRY_REDIAL_MIN_NS << THMQI_MIN(p->failures, 6u);

	wait = THMQI_MIN(wait, CARRY_REDIAL_MAX_NS);
	wait += thmqi_prng_below(&c->core->prng, wait / 2);
	if (p->id < c->id)
		wait += CARRY_DEFER_NS; /* it is the other's to call */
	p->failures++;
	p->dial_ns = c->core->now_ns + wait;
	thmqi_carry_tick_at(c, p->dial_ns);
}

static void lose_peer(struct carry_conn *n, int error)
{
	struct carry_peer *p = n->peer;

	if (!p)
		return;
	if (p->conn == n) {
		p->conn = NULL;
		p->told.connected = false;
		p->failures = 0;
	}
	if (p->dial == n)
		p->dial = NULL;
	p->told.error = error;
	put_off(n, p);
	if (!p->conn)
		thmqi_carry_writable(n->carrier, p); /* nothing waits for room any more */
}

void thmqi_carry_end(struct carry_conn *n, int error)
{
	if (n->state == CARRY_CLOSED)
		return;
	n->state = CARRY_CLOSED;
	if (n->watch)
		thmqi_watch_close(n->watch);
	n->watch = NULL;
	if (n->fd >= 0)
		shutdown(n->fd, SHUT_RDWR); /* the other hears of it now */
	thmqi_carry_out_drop(n);
	if (n->buf)
		thmqi_buf_unref(n->buf);
	n->buf = NULL;
	lose_peer(n, error);
}

int thmqi_carry_watch(struct carry_conn *n)
{
	int on = 1;

	if (setsockopt(n->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
		return -errno;
	return thmqi_watch_open(n->carrier->core, n->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, on_ready,
				n, &n->watch);
}

/* -------------------------------------------------------------- accept, call */

/* Those that say nothing give way to others: the one that has been silent for longest. */
static void make_way(struct thmqi_courier *c)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &c->conns)
	{
		struct carry_conn *n = thmqi_container(it, struct carry_conn, link);

		if (!n->calls && (n->state == CARRY_SHAKING || n->state == CARRY_GREETING)) {
			thmqi_carry_end(n, -ETIMEDOUT);
			return;
		}
	}
}

static void take_in(struct thmqi_courier *c, int fd)
{
	struct carry_conn *n;
	int rc;

	if (c->conn_count >= CARRY_CONNECTIONS)
		make_way(c);
	n = make(c);

	if (!n) {
		close(fd);
		return;
	}
	n->fd = fd;
	n->tls_config = c->tls_config;
	if (n->tls_config)
		thmqi_tls_config_ref(n->tls_config);
	n->state = n->tls_config ? CARRY_SHAKING : CARRY_GREETING;
	n->deadline_ns = c->core->now_ns + CARRY_GREETING_NS;
	thmqi_carry_tick_at(c, n->deadline_ns);
	rc = thmqi_carry_watch(n);
	if (rc)
		thmqi_carry_end(n, rc);
}

void thmqi_carry_accept(struct thmqi_courier *c)
{
	uint32_t i;
	int fd;

	for (i = 0; i < ACCEPT_BUDGET; i++) {
		fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			take_in(c, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			thmqi_carry_tick_at(c,
					    c->core->now_ns + CARRY_REDIAL_MAX_NS); /* then again */
		else if (errno != EAGAIN)
			continue; /* of that connection */
		c->knocked = false;
		return;
	}
}

void thmqi_carry_call(struct thmqi_courier *c, struct carry_peer *p)
{
	const struct thmqi_address *a = &p->addresses[p->address_next++ % p->address_count];
	struct carry_conn *n = make(c);
	int rc = 0;

	if (!n) {
		p->dial_ns = c->core->now_ns + CARRY_REDIAL_MAX_NS;
		return;
	}
	n->calls = true;
	n->peer = p;
	p->dial = n;
	n->state = CARRY_CALLING;
	n->tls_config = p->tls_config;
	if (n->tls_config)
		thmqi_tls_config_ref(n->tls_config);
	n->deadline_ns = c->core->now_ns + THMQI_MIN(CARRY_GREETING_NS, c->silence_ns);
	thmqi_carry_tick_at(c, n->deadline_ns);
	n->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (n->fd < 0 || (connect(n->fd, (const struct sockaddr *)&a->addr, a->len) != 0 &&
			  errno != EINPROGRESS))
		rc = -errno;
	if (!rc)
		rc = thmqi_carry_watch(n);
	if (rc)
		thmqi_carry_end(n, rc);
}

/* ---------------------------------------------------------------- greetings */

static int say_hello(struct carry_conn *n, uint32_t kind, uint64_t to, int status)
{
	struct thmqi_courier *c = n->carrier;
	struct carry_hello h = {.kind = kind,
				.status = status,
				.from = c->id,
				.to = to,
				.instance = c->instance,
				.lane = c->lane,
				.list = c->list,
				.silence_ms = (uint32_t)(c->silence_ns / 1000000u)};
	struct iovec iov = {.iov_base = &h, .iov_len = sizeof(h)};
	int64_t went;

	h.can = n->tls && !n->tls->kernel ? CARRY_CAN_CHANGE_KEYS : 0;
	memcpy(h.cluster, c->cluster, sizeof(h.cluster));
	memcpy(h.mark, &c->mark, sizeof(h.mark));
	thmqi_carry_hello_seal(&h);
	/* nothing was sent before: there is room */
	went = thmqi_carry_send(n, &iov, 1);
	return went == (int64_t)sizeof(h) ? 0 : went < 0 ? (int)went : -ECONNRESET;
}

/* 1 it is complete; 0 not yet; or an error */
static int hear_hello(struct carry_conn *n)
{
	struct iovec iov = {.iov_base = (uint8_t *)&n->hello + n->hello_have,
			    .iov_len = sizeof(n->hello) - n->hello_have};
	int64_t got = thmqi_carry_recv(n, &iov, 1);
	int rc;

	if (got <= 0)
		return (int)got;
	n->hello_have += (uint32_t)got;
	if (!thmqi_carry_hello_begins(&n->hello, n->hello_have))
		return -EPROTO;
	if (n->hello_have < sizeof(n->hello))
		return 0;
	rc = thmqi_carry_hello_check(&n->hello, n->calls ? CARRY_ANSWERS : CARRY_CALLS);
	return rc ? rc : 1;
}

static void opened(struct carry_conn *n)
{
	struct thmqi_courier *c = n->carrier;
	uint64_t theirs = THMQI_MAX(n->hello.silence_ms, CARRY_SILENCE_MIN_MS) * 1000000ull;
	struct carry_peer *p = n->peer;

	n->state = CARRY_OPEN;
	n->deadline_ns = UINT64_MAX;
	n->heard_ns = n->said_ns = n->moved_ns = c->core->now_ns;
	n->say_ns = THMQI_MIN(theirs, c->silence_ns) / 4;
	n->readable = true; /* what came behind the greeting was told already */
	if (n->tls && (n->hello.can & CARRY_CAN_CHANGE_KEYS))
		n->tls->key_records = CARRY_KEY_RECORDS;
	p->dial = p->dial == n ? NULL : p->dial;
	p->conn = n;
	p->failures = 0;
	p->told.connected = true;
	p->told.secure = n->tls != NULL;
	p->told.error = p->told.trouble = 0; /* if it has some it says so */
	p->told.connections++;
	thmqi_carry_tick_at(c, c->core->now_ns + n->say_ns);
	thmqi_carry_writable(c, p);
}

/* Which of two connections with one node stays: told by what both see. True: this new one, and the other ends. */
static bool replaces(const struct carry_conn *n, const struct carry_conn *there)
{
	uint64_t caller = n->calls ? n->carrier->id : n->hello.from;
	uint64_t before = there->calls ? there->carrier->id : there->hello.from;

	/* it was started anew, or has lost the one that it made */
	if (n->hello.instance != there->hello.instance || caller == before)
		return true;
	return caller < before;
}

/* Is it still the one that it was? */
static int meet(const struct carry_conn *n)
{
	const struct thmqi_courier *c = n->carrier;
	struct thmqi_node_mark mark;

	memcpy(&mark, n->hello.mark, sizeof(mark));
	return c->meet ? c->meet(c->meet_ctx, n->hello.from, &mark, n->hello.list) : 0;
}

static int who_calls(struct carry_conn *n, struct carry_peer **ret_peer)
{
	struct thmqi_courier *c = n->carrier;
	struct carry_peer *p;
	int rc;

	if (memcmp(n->hello.cluster, c->cluster, sizeof(c->cluster)) != 0)
		return -ENOTUNIQ; /* another cluster */
	if (n->hello.to != c->id || n->hello.lane != c->lane)
		return -EHOSTUNREACH; /* another node is meant */
	rc = meet(n);
	if (rc)
		return rc;
	p = thmqi_carry_peer(c, n->hello.from, true);
	if (!p)
		return -EUSERS;
	if (p->conn && !replaces(n, p->conn))
		return -EALREADY;
	*ret_peer = p;
	return 0;
}

void thmqi_carry_welcome(struct carry_conn *n)
{
	struct carry_peer *p = NULL;
	int rc, said;

	if (n->hello.from ==
	    n->carrier->id) { /* two have one number: there is nothing to be said to that */
		thmqi_carry_end(n, -ENOTUNIQ);
		return;
	}
	rc = who_calls(n, &p);
	said = say_hello(n, CARRY_ANSWERS, n->hello.from, rc);
	if (rc || said) {
		thmqi_carry_end(n, rc ? rc : said);
		return;
	}
	if (p->conn)
		thmqi_carry_end(p->conn, -EALREADY);
	n->peer = p;
	opened(n);
}

static void on_answered(struct carry_conn *n)
{
	struct carry_peer *p = n->peer;
	int rc = n->hello.status;

	if (!rc && (n->hello.from != p->id || n->hello.to != n->carrier->id ||
		    memcmp(n->hello.cluster, n->carrier->cluster, sizeof(n->hello.cluster)) != 0))
		rc = -EHOSTUNREACH;
	rc = rc ? rc : meet(n);
	if (!rc && p->conn && !replaces(n, p->conn))
		rc = -EALREADY;
	if (rc) {
		thmqi_carry_end(n, rc);
		return;
	}
	if (p->conn)
		thmqi_carry_end(p->conn, -EALREADY);
	opened(n);
}

static int greet(struct carry_conn *n)
{
	int rc;

	if (!n->readable)
		return 0;
	rc = hear_hello(n);
	if (rc == -THMQ_EVERSION && !n->calls) /* by our own greeting it learns why */
		say_hello(n, CARRY_ANSWERS, 0, rc);
	if (rc < 0) /* one that hangs up on a greeting wants TLS, or none, or is none of ours */
		thmqi_carry_end(n, rc == -ECONNRESET && n->calls ? -EPROTO : rc);
	else if (rc && n->calls)
		on_answered(n);
	else if (rc &&
		 (n->hello.lane == n->carrier->lane || !thmqi_carry_hand_over(n, n->hello.lane)))
		thmqi_carry_welcome(n);
	return 1;
}

/* -------------------------------------------------------------------- states */

static void begin_greeting(struct carry_conn *n)
{
	int rc = 0;

	n->state = CARRY_GREETING;
	if (n->calls)
		rc = say_hello(n, CARRY_CALLS, n->peer->id, 0);
	if (rc)
		thmqi_carry_end(n, rc);
}

static int connected(struct carry_conn *n)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (!n->writable)
		return 0;
	if (getsockopt(n->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	if (error) {
		thmqi_carry_end(n, -error);
		return 1;
	}
	if (!n->tls_config) {
		begin_greeting(n);
		return 1;
	}
	n->state = CARRY_SHAKING;
	n->shake = true;
	return 1;
}

static int shake(struct carry_conn *n)
{
	int rc = 0;

	if (!n->readable && !n->shake && !(n->tls && n->tls->unsent && n->writable))
		return 0;
	if (!n->tls)
		rc = thmqi_tls_open(n->tls_config, n->fd, &n->tls);
	if (!rc) {
		n->shake = false;
		rc = thmqi_tls_handshake(n->tls);
		if (rc == -ECONNRESET && n->calls)
			rc = -EPROTO; /* it has accepted, and wants nothing of TLS */
		n->readable = !n->tls->drained || n->hung_up;
		n->writable = !n->tls->blocked;
	}
	if (rc < 0) {
		if (n->tls)
			thmqi_tls_bye(n->tls); /* why, as far as the socket takes it */
		thmqi_carry_end(n, rc);
	} else if (rc) {
		n->readable = true;
		begin_greeting(n);
	}
	return 1;
}

int thmqi_carry_poll(struct carry_conn *n)
{
	switch (n->state) {
	case CARRY_CALLING:
		return connected(n);
	case CARRY_SHAKING:
		return shake(n);
	case CARRY_GREETING:
		return greet(n);
	case CARRY_OPEN:
		return (n->readable || n->stall_ns) ? thmqi_carry_in(n) : 0;
	default:
		thmqi_carry_free(n);
		return 1;
	}
}

bool thmqi_carry_is_ready(const struct carry_conn *n)
{
	switch (n->state) {
	case CARRY_CALLING:
		return n->writable;
	case CARRY_SHAKING:
		return n->readable || n->shake || (n->tls && n->tls->unsent && n->writable);
	case CARRY_GREETING:
		return n->readable;
	case CARRY_OPEN:
		return (n->readable && !n->stall_ns) || thmqi_carry_out_wanted(n);
	default:
		return true;
	}
}

/* --------------------------------------------------------------------- time */

void thmqi_carry_look(struct carry_conn *n)
{
	struct thmqi_courier *c = n->carrier;
	uint64_t now = c->core->now_ns;
	struct thmqi_message beat;

	if (n->state == CARRY_CLOSED)
		return;
	if (now >= n->deadline_ns) {
		thmqi_carry_end(n, -ETIMEDOUT);
		return;
	}
	if (n->state != CARRY_OPEN)
		return;
	if (now - n->heard_ns > c->silence_ns ||
	    (n->head != n->tail && now - n->moved_ns > c->silence_ns)) {
		thmqi_carry_end(n, -ETIMEDOUT);
		return;
	}
	if ((now - n->said_ns >= n->say_ns && n->head == n->tail) || n->said_trouble != c->trouble) {
		thmqi_carry_beat(&beat, c->id, n->peer->id, c->trouble);
		if (thmqi_carry_put(n, &beat, NULL) == 0)
			n->said_trouble = c->trouble;
	}
}

uint64_t thmqi_carry_next(const struct carry_conn *n)
{
	uint64_t now = n->carrier->core->now_ns;

	if (n->state != CARRY_OPEN)
		return n->deadline_ns;
	return n->stall_ns ? now + 1000000u : now + n->say_ns;
}
