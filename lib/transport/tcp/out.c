/* SPDX-License-Identifier: Apache-2.0 */
/*
 * out.c - what goes: frames from the link's rings, with the bytes that they refer to, gathered and sent in one call. Never more
 * frames than the other side has room for, so that it never has to drop or to wait. Long bodies are sent from where they lie:
 * a message until it is settled, a run until it is released, and neither can be before it was sent.
 */
#include "tcp.h"

#define SEND_ROUNDS 4u

/* The rings that are read here: 0 and, of a client, 1. */
static struct thmqi_frame_ring *ring_of(const struct tcp_conn *c, uint32_t ring)
{
	return c->of_broker ? &c->link->down : ring ? &c->link->ctl : &c->link->up;
}

static uint32_t ring_count(const struct tcp_conn *c)
{
	return c->of_broker ? 1 : 2;
}

/* And those that the other side writes. */
static struct thmqi_frame_ring *their_ring(const struct tcp_conn *c, uint32_t ring)
{
	return !c->of_broker ? &c->link->down : ring ? &c->link->ctl : &c->link->up;
}

static uint64_t untold(const struct tcp_conn *c, uint32_t ring)
{
	return atomic_load_explicit(&their_ring(c, ring)->tail, memory_order_acquire) -
	       c->told[ring];
}

static bool state_is_due(const struct tcp_conn *c)
{
	uint32_t i;

	if (c->say)
		return true;
	for (i = 0; i < (c->of_broker ? 2u : 1u); i++)
		if (untold(c, i) > their_ring(c, i)->mask / 4)
			return true;
	return false;
}

bool thmqi_tcp_untold(const struct tcp_conn *c)
{
	return c->pushed - c->told[0] > c->link->down.mask / 4;
}

static bool has_room(const struct tcp_conn *c, uint32_t ring)
{
	return c->sent[ring] - c->taken[ring] <= ring_of(c, ring)->mask;
}

static bool ring_is_empty(const struct tcp_conn *c, uint32_t ring)
{
	/* the broker's end writes on this very thread: no need to look at a slot, which lies in a page of its own */
	if (c->of_broker)
		return c->link->down.head == c->link->down.next;
	return !thmqi_frame_peek(ring_of(c, ring), 0);
}

/* This side's end has closed, and all that it left was put. */
static bool bye_is_due(const struct tcp_conn *c)
{
	bool closed = c->of_broker ? atomic_load_explicit(&c->link->broker_closed,
							  memory_order_acquire) != 0
				   : c->client_gone;

	return closed && !c->bye_put && ring_is_empty(c, 0) &&
	       (c->of_broker || ring_is_empty(c, 1));
}

bool thmqi_tcp_out_wanted(const struct tcp_conn *c)
{
	uint32_t i;

	if (!c->writable)
		return false;
	if (c->iov_at < c->iov_count || thmqi_tcp_unsent(c) || state_is_due(c) || bye_is_due(c))
		return true;
	for (i = 0; i < ring_count(c); i++)
		if (!ring_is_empty(c, i) && has_room(c, i))
			return true;
	return false;
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
	if (c->of_broker) {
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

static void put_state(struct tcp_conn *c)
{
	struct thmqi_frame f = {.type = THMQI_STREAM_STATE};
	uint32_t i;

	for (i = 0; i < (c->of_broker ? 2u : 1u); i++) {
		c->told[i] += untold(c, i);
		f.arg[i] = c->told[i];
	}
	if (!c->of_broker)
		f.data = c->beat_told = atomic_load_explicit(&c->link->beat, memory_order_relaxed);
	c->say = false;
	put_frame(c, &f);
}

static void put_bye(struct tcp_conn *c)
{
	struct thmqi_frame f = {.type = THMQI_STREAM_BYE};

	if (c->of_broker)
		f.status = atomic_load(&c->link->broker_closed);
	put_frame(c, &f);
	c->bye_put = true;
}

/* What a reply uses of its page. */
static uint32_t reply_bytes(const struct tcp_conn *c)
{
	const struct thmqi_reply *r = c->link->reply;
	size_t each = 0, count = r->count, bytes;

	switch (c->link->request->op) {
	case THMQI_OP_TOPIC_DESCRIBE:
		count = 1;
		each = sizeof(r->topics[0]);
		break;
	case THMQI_OP_TOPIC_LIST:
		each = sizeof(r->topics[0]);
		break;
	case THMQI_OP_TOPIC_PARTITIONS:
		each = sizeof(r->partitions[0]);
		break;
	case THMQI_OP_NODES:
		each = sizeof(r->states[0]);
		break;
	case 0: /* no request yet: who else there is */
		each = sizeof(r->nodes[0]);
		break;
	default:
		break;
	}
	bytes = offsetof(struct thmqi_reply, topics) + each * count;
	return (uint32_t)THMQI_MIN(bytes, sizeof(*r));
}

static void put_down(struct tcp_conn *c, struct thmqi_frame *f)
{
	const void *body = NULL;
	uint32_t len = 0;

	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
		body = (const void *)(uintptr_t)f->data;
		len = f->len;
		/* there is one since ATTACH */
		if (c->streams[f->stream] && (uint32_t)f->arg[0] < THMQI_DELIVERIES)
			c->streams[f->stream]->out[(uint32_t)f->arg[0]] =
				(uint32_t)(f->arg[0] >> 32) + 1;
	} else if (f->type == THMQI_FRAME_REPLY) {
		body = c->link->reply;
		f->len = len = reply_bytes(c);
		c->request_out = false;
	}
	f->data = 0; /* an address says nothing to others, and is none of their business */
	put_check(c, f, body, len);
	put_frame(c, f);
	put_body(c, f, body, len);
}

/* A run that the session gives back: its memory goes at once. */
static void release(struct tcp_conn *c, const struct thmqi_frame *f)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];

	if (!s || index >= THMQI_DELIVERIES || !s->bufs[index])
		return;
	s->held_bytes -= s->bufs[index]->user;
	thmqi_buf_unref(s->bufs[index]);
	s->bufs[index] = NULL;
}

static int put_up(struct tcp_conn *c, struct thmqi_frame *f)
{
	const void *body = NULL;
	struct tcp_stream *s;
	uint32_t len = 0;

	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		body = (const void *)(uintptr_t)f->data;
		len = f->len;
		f->data -= (uint64_t)(uintptr_t)c->link->area;
		break;
	case THMQI_FRAME_REQUEST:
		body = c->link->request;
		len = sizeof(*c->link->request);
		f->data = 0;
		break;
	case THMQI_FRAME_ATTACH:
		s = f->stream < THMQI_STREAMS ? thmqi_tcp_stream(c, f->stream) : NULL;
		if (!s)
			return -ENOMEM;
		s->credit_bytes = THMQI_MAX(s->credit_bytes, (uint64_t)f->len);
		break;
	case THMQI_FRAME_RELEASE:
		release(c, f);
		break;
	default:
		break;
	}
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
	struct thmqi_frame_ring *r = ring_of(c, ring);
	struct thmqi_frame *slot, f;
	int rc = 0;

	while (!rc && !gather_is_full(c, *bytes) && has_room(c, ring) &&
	       (slot = thmqi_frame_peek(r, 0))) {
		memcpy((char *)&f + sizeof(f.turn), (const char *)slot + sizeof(f.turn),
		       sizeof(f) - sizeof(f.turn));
		if (c->of_broker)
			put_down(c, &f);
		else
			rc = put_up(c, &f);
		*bytes += sizeof(f) + f.len;
		thmqi_frame_advance(r, 1);
		c->sent[ring]++;
	}
	thmqi_frame_publish(r);
	return rc;
}

static int gather(struct tcp_conn *c)
{
	size_t bytes = 0;
	uint32_t i;
	int rc = 0;

	c->tx_len = 0;
	c->iov_at = c->iov_count = c->ref_count = 0;
	if (state_is_due(c))
		put_state(c);
	/* a client's control frames first: they make room */
	for (i = ring_count(c); i-- > 0 && !rc;)
		rc = gather_ring(c, i, &bytes);
	if (!rc && bye_is_due(c) && !gather_is_full(c, bytes))
		put_bye(c);
	c->moved_ns = c->core->now_ns;
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
	c->said_ns = c->moved_ns = c->core->now_ns;
}

static int send_some(struct tcp_conn *c)
{
	int64_t n = thmqi_tcp_send(c, c->iov + c->iov_at, c->iov_count - c->iov_at);

	if (n > 0)
		moved(c, (size_t)n);
	return n < 0 ? (int)n : 0;
}

void thmqi_tcp_out(struct tcp_conn *c)
{
	uint32_t round;
	int rc = 0;

	for (round = 0; round < SEND_ROUNDS && !rc && thmqi_tcp_out_wanted(c); round++) {
		if (thmqi_unlikely(thmqi_tcp_unsent(c))) {
			rc = thmqi_tcp_flush(c);
			if (rc || thmqi_tcp_unsent(c))
				continue;
		}
		if (c->iov_at == c->iov_count)
			rc = gather(c);
		if (!rc && c->iov_at < c->iov_count)
			rc = send_some(c);
		if (!rc && c->bye_put && c->iov_at == c->iov_count && !thmqi_tcp_unsent(c)) {
			thmqi_tcp_leave(c, -ESHUTDOWN);
			return;
		}
	}
	if (rc)
		thmqi_tcp_end(c, rc);
}
