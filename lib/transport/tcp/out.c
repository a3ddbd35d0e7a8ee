/* SPDX-License-Identifier: Apache-2.0 */
/*
 * out.c - what goes: frames from the link's rings, with the bytes that they refer to, gathered and sent in one call. Never more
 * frames than the other side has room for, so that it never has to drop or to wait. Long bodies are sent from where they lie:
 * a message until it is settled, a run until it is released, and neither can be before it was sent.
 */
#include "tcp.h"

#define SEND_ROUNDS 4u

bool thmqi_tcp_out_wanted(const struct tcp_conn *c)
{
	const struct thmqi_joint *j = &c->joint;

	if (!c->writable)
		return false;
	return c->iov_at < c->iov_count || thmqi_tcp_unsent(c) || thmqi_joint_state_is_due(j) ||
	       thmqi_joint_bye_is_due(j) || thmqi_joint_frames_wait(j);
}

/* ------------------------------------------------------------------- gather */

/* @bytes more of tx belong to what is sent. */
static void add_inline(struct tcp_conn *c, uint32_t bytes)
{
	struct iovec *last = c->iov_count ? &c->iov[c->iov_count - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == c->tx + c->tx_len)
		last->iov_len += bytes;
	else
		c->iov[c->iov_count++] =
			(struct iovec){.iov_base = c->tx + c->tx_len, .iov_len = bytes};
	c->tx_len += bytes;
}

static void put_frame(struct tcp_conn *c, struct thmqi_frame *f)
{
	thmqi_stream_seal(c->tx + c->tx_len, f, c->number++);
	add_inline(c, sizeof(*f));
}

/* The body's check goes with its frame, where an address has no use for it; TLS has its own. */
static void put_check(const struct tcp_conn *c, struct thmqi_frame *f, const void *body, uint32_t len)
{
	if (len && !c->tls)
		f->data = (uint32_t)f->data | (uint64_t)thmqi_crc32c(0, body, len) << 32;
}

static void put_body(struct tcp_conn *c, const struct thmqi_frame *f, const void *body,
		     uint32_t len)
{
	if (!len)
		return;
	if (len <= TCP_INLINE_BYTES) {
		memcpy(c->tx + c->tx_len, body, len);
		add_inline(c, len);
		return;
	}
	if (thmqi_is_run(f)) {
		/* a run that is visible before its batch is written gets its checksums later: as its header is now it was checked */
		memcpy(c->tx + c->tx_len, body, sizeof(struct thmq_run_header));
		add_inline(c, sizeof(struct thmq_run_header));
		body = (const uint8_t *)body + sizeof(struct thmq_run_header);
		len -= (uint32_t)sizeof(struct thmq_run_header);
		c->refs[c->ref_count].iov = c->iov_count;
		c->refs[c->ref_count].stream = f->stream;
		c->refs[c->ref_count++].token = f->arg[0];
	}
	c->iov[c->iov_count++] =
		(struct iovec){.iov_base = (void *)(uintptr_t)body, .iov_len = len};
}

static int put(struct tcp_conn *c, struct thmqi_frame *f)
{
	const void *body;
	uint32_t len;
	int rc = thmqi_joint_out(&c->joint, f, &body, &len);

	if (rc)
		return rc;
	put_check(c, f, body, len);
	put_frame(c, f);
	put_body(c, f, body, len);
	return 0;
}

static bool gather_is_full(const struct tcp_conn *c, size_t bytes)
{
	return c->tx_len >
		       TCP_TX_BYTES - (uint32_t)sizeof(struct thmqi_frame) * 2 - TCP_INLINE_BYTES ||
	       c->iov_count + 3 > TCP_IOV || bytes > TCP_SEND_BYTES;
}

static int gather_ring(struct tcp_conn *c, uint32_t ring, size_t *bytes)
{
	struct thmqi_frame f;
	int rc = 0;

	while (!rc && !gather_is_full(c, *bytes) && thmqi_joint_next(&c->joint, ring, &f)) {
		rc = put(c, &f);
		*bytes += sizeof(f) + f.len;
		thmqi_joint_went(&c->joint, ring);
	}
	thmqi_frame_publish(thmqi_joint_ring(&c->joint, ring));
	return rc;
}

static int gather(struct tcp_conn *c)
{
	struct thmqi_joint *j = &c->joint;
	struct thmqi_frame f;
	size_t bytes = 0;
	uint32_t i;
	int rc = 0;

	c->tx_len = 0;
	c->iov_at = c->iov_count = c->ref_count = 0;
	if (thmqi_joint_state_is_due(j)) {
		thmqi_joint_state(j, &f);
		put_frame(c, &f);
	}
	/* a client's control frames first: they make room */
	for (i = thmqi_joint_rings(j); i-- > 0 && !rc;)
		rc = gather_ring(c, i, &bytes);
	if (!rc && thmqi_joint_bye_is_due(j) && !gather_is_full(c, bytes)) {
		thmqi_joint_bye(j, &f);
		put_frame(c, &f);
	}
	j->moved_ns = j->core->now_ns;
	return rc;
}

/* --------------------------------------------------------------------- send */

static void moved(struct tcp_conn *c, size_t n)
{
	while (c->iov_at < c->iov_count && n >= c->iov[c->iov_at].iov_len)
		n -= c->iov[c->iov_at++].iov_len;
	if (n) {
		c->iov[c->iov_at].iov_base = (uint8_t *)c->iov[c->iov_at].iov_base + n;
		c->iov[c->iov_at].iov_len -= n;
	}
	c->joint.said_ns = c->joint.moved_ns = c->core->now_ns;
}

static int send_some(struct tcp_conn *c)
{
	uint32_t part = thmqi_likely(!c->zerocopy) ? c->iov_count - c->iov_at : thmqi_tcp_zerocopy_part(c);
	int64_t n = thmqi_tcp_send(c, c->iov + c->iov_at, part);

	if (thmqi_unlikely(c->send_flags & MSG_ZEROCOPY) && n > 0)
		thmqi_tcp_zerocopy_sent(c);
	c->send_flags = 0;
	if (n > 0)
		moved(c, (size_t)n);
	return n < 0 ? (int)n : 0;
}

void thmqi_tcp_out(struct tcp_conn *c)
{
	uint32_t round, rounds = c->zerocopy ? TCP_IOV : SEND_ROUNDS; /* then each large body is a call of its own */
	int rc = 0;

	for (round = 0; round < rounds && !rc && thmqi_tcp_out_wanted(c); round++) {
		if (thmqi_unlikely(thmqi_tcp_unsent(c))) {
			rc = thmqi_tcp_flush(c);
			if (rc || thmqi_tcp_unsent(c))
				continue;
		}
		if (c->iov_at == c->iov_count)
			rc = gather(c);
		if (!rc && c->iov_at < c->iov_count)
			rc = send_some(c);
		if (!rc && c->joint.bye_put && c->iov_at == c->iov_count && !thmqi_tcp_unsent(c)) {
			thmqi_tcp_leave(c, -ESHUTDOWN);
			return;
		}
	}
	if (rc)
		thmqi_tcp_end(c, rc);
}
