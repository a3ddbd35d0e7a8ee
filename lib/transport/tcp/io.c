/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.c - bytes to and from the socket, through TLS where there is one, its handshake, and the greetings. Knows no frames, and
 * nothing of how TLS works (lib/transport/tls).
 */
#include "tcp.h"

/* -------------------------------------------------------------------- bytes */

static uint64_t sum(const struct iovec *iov, uint32_t count)
{
	uint64_t bytes = 0;

	while (count--)
		bytes += iov++->iov_len;
	return bytes;
}

/* By the application's functions, which are believed no more than a peer is: what they say of bytes moves places in our buffers. */
static int64_t send_own(struct tcp_conn *c, const struct iovec *iov, uint32_t count)
{
	int64_t n = c->own->send(c->own->ctx, c->fd, iov, count);

	if (n > (int64_t)sum(iov, count))
		return -EPROTO;
	if (n == -EAGAIN)
		c->writable = false;
	return n == -EAGAIN || n == -EINTR ? 0 : n;
}

static int64_t recv_own(struct tcp_conn *c, struct iovec *iov, uint32_t count)
{
	int64_t n = c->own->recv(c->own->ctx, c->fd, iov, count);

	if (n > (int64_t)sum(iov, count))
		return -EPROTO;
	/* what is left is asked for: who would not be told of it says -EAGAIN then */
	c->readable = n > 0 || n == -EINTR || c->hung_up;
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	return n ? n : -ECONNRESET;
}

static int64_t send_some(struct tcp_conn *c, const struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
	int64_t n;

	if (c->tls) {
		n = thmqi_tls_send(c->tls, iov, count);
		c->writable = !c->tls->blocked;
		return n == -EAGAIN ? 0 : n;
	}
	if (thmqi_unlikely(c->own && c->own->send))
		return send_own(c, iov, count);
	n = count == 1 ? send(c->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT | c->send_flags)
		       : sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | c->send_flags);
	if (n >= 0)
		return n;
	if (thmqi_unlikely(c->send_flags & MSG_ZEROCOPY) && errno == ENOBUFS) { /* so much may not be locked: it is copied */
		c->send_flags = 0;
		return send_some(c, iov, count);
	}
	if (errno == EAGAIN)
		c->writable = false;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

int thmqi_tcp_flush(struct tcp_conn *c)
{
	int64_t n = thmqi_tls_flush(c->tls);

	c->writable = !c->tls->blocked;
	if (n > 0)
		c->joint.said_ns = c->joint.moved_ns = c->core->now_ns;
	return n < 0 ? (int)n : 0;
}

static int64_t recv_plain(struct tcp_conn *c, struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
	size_t want = iov[0].iov_len + (count > 1 ? iov[1].iov_len : 0);
	ssize_t n = count == 1 ? recv(c->fd, iov->iov_base, want, MSG_DONTWAIT) : recvmsg(c->fd, &m, MSG_DONTWAIT);

	if (n < 0) {
		c->readable = errno == EINTR;
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	}
	/* less than there was room for: what comes later is told, but not an end that was told already */
	c->readable = (size_t)n == want || c->hung_up;
	return n ? n : -ECONNRESET;
}

static int64_t recv_some(struct tcp_conn *c, struct iovec *iov, uint32_t count)
{
	int64_t n;

	if (thmqi_unlikely(c->own && c->own->recv))
		return recv_own(c, iov, count);
	if (!c->tls)
		return recv_plain(c, iov, count);
	n = thmqi_tls_recv(c->tls, iov, count);
	c->readable = !c->tls->drained || c->hung_up;
	if (n == -EAGAIN)
		return 0;
	return n ? n : -ECONNRESET; /* it said so, but our own last word (BYE) is missing */
}

/* ----------------------------------------------------------- those who look on */

/* @whole: it goes at once, or the connection ends. */
static int64_t send_watched(struct tcp_conn *c, const struct iovec *iov, uint32_t count, bool whole)
{
	struct thmq_intercept what = {.bytes = sum(iov, count)};
	int rc = thmqi_guards_ask(c->guards, false, c->core->now_ns, &what);
	struct iovec some[TCP_IOV];
	uint32_t n_some;
	int64_t n;

	if (rc == -EAGAIN && !whole) {
		c->writable = false;
		thmqi_tcp_tick_at(c, c->guards->hold_ns[0]);
		return 0;
	}
	if (rc && rc != -EAGAIN)
		return rc;
	n_some = thmqi_guards_trim(iov, count, whole ? UINT64_MAX : what.bytes, some);
	n = what.flags & THMQ_INTERCEPT_LOSE ? (int64_t)sum(some, n_some) : send_some(c, some, n_some);
	if (n > 0)
		thmqi_guards_sent(c->guards, some, n_some, (uint64_t)n);
	return n;
}

static int64_t recv_watched(struct tcp_conn *c, struct iovec *iov, uint32_t count)
{
	struct thmq_intercept what = {.bytes = sum(iov, count)};
	int rc = thmqi_guards_ask(c->guards, true, c->core->now_ns, &what);
	struct iovec some[2];
	uint32_t n_some;
	int64_t n;

	if (rc == -EAGAIN) {
		c->readable = false;
		thmqi_tcp_tick_at(c, c->guards->hold_ns[1]);
		return 0;
	}
	if (rc)
		return rc;
	n_some = thmqi_guards_trim(iov, count, what.bytes, some);
	n = recv_some(c, some, n_some);
	if (n <= 0)
		return n;
	thmqi_guards_received(c->guards, some, n_some, (uint64_t)n);
	c->readable = true;
	return what.flags & THMQ_INTERCEPT_LOSE ? 0 : n;
}

int64_t thmqi_tcp_send(struct tcp_conn *c, const struct iovec *iov, uint32_t count)
{
	return thmqi_likely(!c->guards) ? send_some(c, iov, count) : send_watched(c, iov, count, false);
}

/* One place or two. */
int64_t thmqi_tcp_recv(struct tcp_conn *c, struct iovec *iov, uint32_t count)
{
	return thmqi_likely(!c->guards) ? recv_some(c, iov, count) : recv_watched(c, iov, count);
}

void thmqi_tcp_unhold(struct tcp_conn *c)
{
	uint32_t i;

	for (i = 0; i < 2; i++) {
		uint64_t *hold = &c->guards->hold_ns[i];

		if (*hold > c->core->now_ns) {
			thmqi_tcp_tick_at(c, *hold);
		} else if (*hold) {
			*hold = 0;
			if (i)
				c->readable = true;
			else
				c->writable = true;
		}
	}
}

/* ---------------------------------------------------------------- handshake */

void thmqi_tcp_count_refused(struct tcp_conn *c, int error)
{
	if (!c->guest.listener)
		return;
	atomic_store_explicit(&c->guest.listener->refused_error, error, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->guest.listener->refused, 1, memory_order_relaxed);
}

static void shaken(struct tcp_conn *c)
{
	c->secured = true;
	c->readable = true; /* what came behind it was told already */
	if (c->joint.of_broker) {
		atomic_fetch_add(&c->guest.listener->tls_connections, 1);
		if (c->tls->kernel)
			atomic_fetch_add(&c->guest.listener->kernel_tls_connections, 1);
		c->state = TCP_GREETING;
		return;
	}
	thmqi_tcp_say_hello(c);
}

/* The other side can read why, as far as that was sent. */
static void not_shaken(struct tcp_conn *c, int error)
{
	thmqi_tcp_count_refused(c, error);
	if (c->joint.of_broker && error != -ECONNRESET)
		thmqi_tcp_leave(c, error);
	else
		thmqi_tcp_end(c, error);
}

/*
 * A client that begins as ours do has not been told that TLS is spoken here: it is answered in clear, when it has said all. Nothing
 * is kept for those that say nothing. Return: 1 go on; 0 not now.
 */
static int begin(struct tcp_conn *c)
{
	ssize_t n = 1;
	char first;
	int rc;

	if (c->joint.of_broker) {
		n = recv(c->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			c->readable = errno == EINTR;
			return 0;
		}
		if (n <= 0) {
			thmqi_tcp_end(c, n ? -errno : -ECONNRESET);
			return 0;
		}
		if (thmqi_hello_begins(&first, 1)) {
			c->state = TCP_GREETING;
			return 0;
		}
	}
	rc = thmqi_tls_open(c->tls_config, c->fd, &c->tls);
	if (rc)
		thmqi_tcp_end(c, rc);
	return rc == 0;
}

static bool may_shake(struct tcp_conn *c)
{
	if (!c->readable && !c->shake && !(thmqi_tcp_unsent(c) && c->writable))
		return false;
	if (!c->door)
		return true;
	if (c->door->shakes_loop != c->core->loops) {
		c->door->shakes_loop = c->core->loops;
		c->door->shakes = TCP_SHAKES_A_TURN;
	}
	if (!c->door->shakes)
		return false; /* in the next iteration */
	c->door->shakes--;
	return true;
}

int thmqi_tcp_shake(struct tcp_conn *c)
{
	int rc;

	if (!may_shake(c))
		return 0;
	if (!c->tls && !begin(c))
		return 1;
	c->shake = false;
	rc = thmqi_tls_handshake(c->tls);
	c->readable = !c->tls->drained || c->hung_up;
	c->writable = !c->tls->blocked;
	if (rc < 0)
		not_shaken(c, rc);
	else if (rc)
		shaken(c);
	return 1;
}

bool thmqi_tcp_is_tls(const struct tcp_conn *c)
{
	const uint8_t *b = (const uint8_t *)&c->hello;

	return c->hello_have >= 3 && b[0] == 22 && b[1] == 3; /* a record of a handshake */
}

void thmqi_tcp_answer_tls(struct tcp_conn *c)
{
	/* an alert, of TLS 1.2 as all first records say, of two bytes: fatal, unexpected message */
	static const uint8_t alert[] = {21, 3, 3, 0, 2, 2, 10};

	(void)!send(c->fd, alert, sizeof(alert), MSG_NOSIGNAL | MSG_DONTWAIT);
	thmqi_tcp_leave(c, -EPROTO);
}

/* ---------------------------------------------------------------- greetings */

int thmqi_tcp_hello_send(struct tcp_conn *c, struct thmqi_hello *hello, uint32_t kind)
{
	struct iovec iov = {.iov_base = hello, .iov_len = sizeof(*hello)};
	int64_t n;

	hello->capabilities = c->tls && !c->tls->kernel ? THMQI_CAN_CHANGE_KEYS : 0;
	hello->silence_ms = (uint32_t)THMQI_MIN(c->joint.silence_ns / 1000000u, (uint64_t)UINT32_MAX);
	thmqi_hello_seal(hello, kind);
	/* nothing was sent before: there is room */
	n = c->guards ? send_watched(c, &iov, 1, true) : send_some(c, &iov, 1);
	return n == (int64_t)sizeof(*hello) ? 0 : n < 0 ? (int)n : -ECONNRESET;
}

int thmqi_tcp_hello_recv(struct tcp_conn *c)
{
	struct iovec iov = {.iov_base = (char *)&c->hello + c->hello_have,
			    .iov_len = sizeof(c->hello) - c->hello_have};
	int64_t n = thmqi_tcp_recv(c, &iov, 1);

	if (n <= 0)
		return (int)n;
	c->hello_have += (uint32_t)n;
	if (!thmqi_hello_begins(&c->hello, c->hello_have))
		return -EPROTO;
	if (c->hello_have < sizeof(c->hello))
		return 0;
	if (c->tls && (c->hello.capabilities & THMQI_CAN_CHANGE_KEYS))
		c->tls->key_records = TCP_KEY_RECORDS;
	return 1;
}
