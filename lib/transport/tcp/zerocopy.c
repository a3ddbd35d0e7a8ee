/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zerocopy.c - large bodies that the kernel sends from where they lie (MSG_ZEROCOPY), where a URL asks for it. The kernel numbers such sendings of a
 * socket, and tells by its error queue which it has done with. Until then it may read the bytes: so a run that is given back meanwhile is
 * taken back only when that was told, and a connection that ends before is cut off, so that nothing of it is sent any more.
 */
#include <time.h>
/* it needs what is above */
#include <linux/errqueue.h>

#include "tcp.h"

#define COPIED_MAX 8u /* sendings that were copied all the same, as over loopback: it does not pay there */
#define TAKE_ROUNDS 64u

void thmqi_tcp_zerocopy_begin(struct tcp_conn *c)
{
	int on = 1;

	if (c->tls || c->own || c->guards || setsockopt(c->fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) != 0)
		c->zerocopy = TCP_COPIES;
}

/* Not what was gathered in tx, which is used anew at once. */
static bool is_large(const struct tcp_conn *c, uint32_t i)
{
	const struct iovec *v = &c->iov[i];

	return i < c->iov_count && v->iov_len >= TCP_ZEROCOPY_BYTES && (uintptr_t)v->iov_base - (uintptr_t)c->tx >= TCP_TX_BYTES;
}

uint32_t thmqi_tcp_zerocopy_part(struct tcp_conn *c)
{
	uint32_t i = c->iov_at;
	bool large = is_large(c, i);

	if (large && c->zc_count == TCP_ZC_MAX)
		thmqi_tcp_zerocopy_take(c);
	large = large && c->zc_count < TCP_ZC_MAX;
	c->send_flags = large ? MSG_ZEROCOPY : 0;
	if (large)
		return 1; /* by itself: its number is told with it */
	while (++i < c->iov_count && !is_large(c, i)) /* what is large, and finds no place, is copied */
		;
	if (i < c->iov_count)
		c->send_flags = MSG_MORE;
	return i - c->iov_at;
}

/* What was sent of the entry at iov_at, by the next number. */
void thmqi_tcp_zerocopy_sent(struct tcp_conn *c)
{
	struct tcp_zc *z = &c->zc[c->zc_count++];
	uint32_t i;

	*z = (struct tcp_zc){.number = c->zc_next++};
	for (i = 0; i < c->ref_count; i++)
		if (c->refs[i].iov == c->iov_at) {
			z->is_run = true;
			z->stream = c->refs[i].stream;
			z->token = c->refs[i].token;
		}
}

static void told(struct tcp_conn *c, uint32_t first, uint32_t last, bool copied)
{
	uint32_t i, kept = 0;

	for (i = 0; i < c->zc_count; i++)
		if (c->zc[i].number - first > last - first)
			c->zc[kept++] = c->zc[i];
	if (copied && c->zerocopy == TCP_ZEROCOPY_WHERE_IT_HELPS && (c->zc_copied += c->zc_count - kept) >= COPIED_MAX)
		c->zerocopy = TCP_COPIES;
	c->zc_count = kept;
}

void thmqi_tcp_zerocopy_take(struct tcp_conn *c)
{
	uint32_t round;

	for (round = 0; round < TAKE_ROUNDS; round++) {
		_Alignas(struct cmsghdr) char control[256];
		struct msghdr m = {.msg_control = control, .msg_controllen = sizeof(control)};
		const struct sock_extended_err *e;
		struct cmsghdr *at;

		if (recvmsg(c->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return;
		for (at = CMSG_FIRSTHDR(&m); at; at = CMSG_NXTHDR(&m, at)) {
			e = (const void *)CMSG_DATA(at);
			if (e->ee_origin == SO_EE_ORIGIN_ZEROCOPY && at->cmsg_len >= CMSG_LEN(sizeof(*e)))
				told(c, e->ee_info, e->ee_data, e->ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
		}
	}
}

bool thmqi_tcp_zerocopy_has(struct tcp_conn *c, const struct thmqi_frame *f)
{
	uint32_t i;

	thmqi_tcp_zerocopy_take(c);
	for (i = 0; i < c->zc_count; i++)
		if (c->zc[i].is_run && c->zc[i].stream == f->stream && c->zc[i].token == f->arg[0])
			return true;
	return false;
}

/* What the socket tells may be no more than that there is something in its error queue. */
bool thmqi_tcp_zerocopy_is_all(struct tcp_conn *c)
{
	socklen_t len = sizeof(int);
	int error = 0;

	thmqi_tcp_zerocopy_take(c);
	return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && !error;
}

/* What lies in the socket's queue is dropped, and with it all that it refers to; the other side sees a reset. */
void thmqi_tcp_zerocopy_cut(struct tcp_conn *c)
{
	const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	const struct linger now = {.l_onoff = 1, .l_linger = 0};

	thmqi_tcp_zerocopy_take(c);
	if (!c->zc_count)
		return;
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	connect(c->fd, &nobody, sizeof(nobody));
	c->zc_count = 0;
}
