/* SPDX-License-Identifier: Apache-2.0 */
/*
 * out.c - what goes: frames from the link's rings, with the bytes that they refer to, as chunks that each fill a receive of
 * the other side. Never more chunks than receives stand ready there, and never more frames than its rings have room for, so
 * that it never has to drop or to wait. All chunks of an iteration are posted by one call.
 *
 * One credit is never spent on frames: it is kept for an empty chunk, which returns credits where there is nothing to say.
 */
#include "medium.h"

/* The rings that are read here: 0 and, of a client, 1. */
static struct thmqi_frame_ring *ring_of(const struct rdma_conn *c, uint32_t ring)
{
	return c->of_broker ? &c->wire->down : ring ? &c->wire->ctl : &c->wire->up;
}

static uint32_t ring_count(const struct rdma_conn *c)
{
	return c->of_broker ? 1 : 2;
}

/* And those that the other side writes. */
static struct thmqi_frame_ring *their_ring(const struct rdma_conn *c, uint32_t ring)
{
	return !c->of_broker ? &c->wire->down : ring ? &c->wire->ctl : &c->wire->up;
}

static uint64_t untold(const struct rdma_conn *c, uint32_t ring)
{
	return atomic_load_explicit(&their_ring(c, ring)->tail, memory_order_acquire) -
	       c->told[ring];
}

static bool state_is_due(const struct rdma_conn *c)
{
	uint32_t i;

	if (c->say)
		return true;
	for (i = 0; i < (c->of_broker ? 2u : 1u); i++)
		if (untold(c, i) > their_ring(c, i)->mask / 4)
			return true;
	return false;
}

bool thmqi_rdma_untold(const struct rdma_conn *c)
{
	return c->pushed - c->told[0] > c->wire->down.mask / 4;
}

static bool has_room(const struct rdma_conn *c, uint32_t ring)
{
	return c->sent[ring] - c->taken[ring] <= ring_of(c, ring)->mask;
}

static bool ring_is_empty(const struct rdma_conn *c, uint32_t ring)
{
	return !thmqi_frame_peek(ring_of(c, ring), 0);
}

/* This side's end has closed, and all that it left was put. */
static bool bye_is_due(const struct rdma_conn *c)
{
	bool closed = c->of_broker ? atomic_load_explicit(&c->wire->broker_closed,
							  memory_order_acquire) != 0
				   : c->client_gone;

	return closed && !c->bye_put && !c->rest_len && ring_is_empty(c, 0) &&
	       (c->of_broker || ring_is_empty(c, 1));
}

static bool frames_wait(const struct rdma_conn *c)
{
	uint32_t i;

	for (i = 0; i < ring_count(c); i++)
		if (!ring_is_empty(c, i) && has_room(c, i))
			return true;
	return false;
}

static bool offers_wait(const struct rdma_conn *c)
{
	uint32_t i;

	for (i = 0; c->offer_count && i < RDMA_OFFERS; i++)
		if (c->offers[i].state == OFFER_TO_TELL)
			return true;
	return false;
}

/* ------------------------------------------------------------------- credits */

static uint32_t credits(const struct rdma_conn *c)
{
	return c->ask.credits + c->returned - c->tx_posted;
}

/* A chunk more; @kept credits stay. */
static bool may_send(const struct rdma_conn *c, uint32_t kept)
{
	return credits(c) > kept && c->tx_posted - c->tx_done < RDMA_CREDITS &&
	       thmqi_rdma_sq_room(c) > 0;
}

/* The other has used half of its receives up, or nearly all as far as it knows. */
static bool credits_are_due(const struct rdma_conn *c)
{
	uint32_t news = c->freed - c->told_freed;

	return news &&
	       (news >= RDMA_CREDITS / 2 || c->told_freed + RDMA_CREDITS - c->received <= 1);
}

bool thmqi_rdma_out_wanted(const struct rdma_conn *c)
{
	if (c->pull_next != c->pull_tail && c->reads_out < c->reads_max && thmqi_rdma_sq_room(c))
		return true;
	if (credits_are_due(c) && may_send(c, 0))
		return true;
	if (!may_send(c, 1))
		return false;
	return c->rest_len || offers_wait(c) || state_is_due(c) || bye_is_due(c) ||
	       (!c->held_up && frames_wait(c));
}

bool thmqi_rdma_out_blocked(const struct rdma_conn *c)
{
	return c->state == RDMA_OPEN && (c->held_up || !may_send(c, 1)) &&
	       (c->rest_len || frames_wait(c) || bye_is_due(c));
}

/* -------------------------------------------------------------------- chunks */

static uint8_t *chunk_at(const struct rdma_conn *c)
{
	return c->tx.buf->data + c->tx_posted % RDMA_CREDITS * RDMA_SLOT_BYTES;
}

static bool open_chunk(struct rdma_conn *c, uint32_t kept)
{
	if (c->chunk_len)
		return true;
	if (!may_send(c, kept))
		return false;
	c->chunk_len = sizeof(struct rdma_chunk);
	return true;
}

static void close_chunk(struct rdma_conn *c)
{
	struct thmqi_rdma_counters *counters = &c->home->counters;
	struct rdma_chunk h;
	struct ibv_send_wr *wr;
	struct ibv_sge sge;

	if (!c->chunk_len)
		return;
	if (c->trust->idle) /* what we tell to be ready is */
		thmqi_rdma_trust_repost(c->trust);
	h = (struct rdma_chunk){.returned = c->freed,
				.len = c->chunk_len - (uint32_t)sizeof(struct rdma_chunk)};
	memcpy(chunk_at(c), &h, sizeof(h));
	c->told_freed = c->freed;
	sge = (struct ibv_sge){
		.addr = (uintptr_t)chunk_at(c), .length = c->chunk_len, .lkey = c->tx.lkey};
	wr = thmqi_rdma_request(c, RDMA_CHUNK, 0, &sge);
	wr->opcode = IBV_WR_SEND;
	counters->chunks++;
	if (c->chunk_len <= c->inline_max) {
		wr->send_flags |= IBV_SEND_INLINE;
		counters->inline_chunks++;
	}
	c->tx_posted++;
	c->chunk_len = 0;
}

static uint32_t chunk_max(const struct rdma_conn *c)
{
	return THMQI_MIN(RDMA_SLOT_BYTES, c->ask.slot_bytes);
}

/* Return: how many of the bytes found room. */
static uint32_t put_some(struct rdma_conn *c, const uint8_t *from, uint32_t len)
{
	uint32_t max = chunk_max(c), put = 0, n;

	while (put < len && open_chunk(c, 1)) {
		n = THMQI_MIN(len - put, max - c->chunk_len);
		memcpy(chunk_at(c) + c->chunk_len, from + put, n);
		c->chunk_len += n;
		put += n;
		if (c->chunk_len == max)
			close_chunk(c);
	}
	c->home->counters.copied_bytes += put;
	return put;
}

void thmqi_rdma_put_bytes(struct rdma_conn *c, const void *bytes, uint32_t len)
{
	if (put_some(c, bytes, len) != len) {
		thmqi_rdma_end(c, -EPROTO); /* its credits are too few for a greeting */
		return;
	}
	close_chunk(c);
	thmqi_rdma_post(c);
}

/* A frame lies in one chunk. */
static bool frame_fits(struct rdma_conn *c)
{
	if (c->chunk_len && chunk_max(c) - c->chunk_len < sizeof(struct thmqi_frame))
		close_chunk(c);
	return open_chunk(c, 1);
}

static void put_frame(struct rdma_conn *c, struct thmqi_frame *f)
{
	struct thmqi_frame sealed;

	thmqi_stream_seal(&sealed, f, c->number++);
	put_some(c, (const uint8_t *)&sealed, sizeof(sealed));
}

static void put_body(struct rdma_conn *c, const struct thmqi_frame *f, const void *body,
		     uint32_t len)
{
	uint32_t put = put_some(c, body, len);

	c->rest = (const uint8_t *)body + put;
	c->rest_len = len - put;
	c->rest_of.stream = f->stream;
	c->rest_of.token = f->arg[0];
}

static void put_rest(struct rdma_conn *c)
{
	uint32_t put = put_some(c, c->rest, c->rest_len);

	c->rest += put;
	c->rest_len -= put;
}

/* -------------------------------------------------------- frames of the stream */

static void put_state(struct rdma_conn *c)
{
	struct thmqi_frame f = {.type = THMQI_STREAM_STATE};
	uint32_t i;

	for (i = 0; i < (c->of_broker ? 2u : 1u); i++) {
		c->told[i] += untold(c, i);
		f.arg[i] = c->told[i];
	}
	if (!c->of_broker)
		f.data = c->beat_told = atomic_load_explicit(&c->wire->beat, memory_order_relaxed);
	c->say = false;
	put_frame(c, &f);
}

static void put_bye(struct rdma_conn *c)
{
	struct thmqi_frame f = {.type = THMQI_STREAM_BYE};

	if (c->of_broker)
		f.status = atomic_load(&c->wire->broker_closed);
	put_frame(c, &f);
	c->bye_put = true;
}

static void put_offers(struct rdma_conn *c)
{
	struct rdma_offer *o;

	for (o = c->offers; c->offer_count && o < c->offers + RDMA_OFFERS; o++) {
		struct thmqi_frame f = {.type = c->of_broker ? THMQI_STREAM_OFFER
							     : THMQI_STREAM_GRANT,
					.stream = o->stream,
					.len = o->len,
					.arg = {o->token, o->key}};

		if (o->state != OFFER_TO_TELL || !frame_fits(c))
			continue;
		if (!c->of_broker)
			f.data = o->to;
		put_frame(c, &f);
		if (c->of_broker || o->key)
			o->state = OFFER_TOLD;
		else
			thmqi_rdma_offer_free(c, o); /* it comes through the stream */
	}
}

/* ---------------------------------------------------------- the broker's frames */

/* What a reply uses of its page. */
static uint32_t reply_bytes(const struct rdma_conn *c)
{
	const struct thmqi_reply *r = c->wire->reply;
	size_t each = 0, count = r->count, bytes;

	switch (c->wire->request->op) {
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

/* Straight into the client's memory, if it lets us. False: not yet. *ret_written: the bytes need not follow. */
static bool place_run(struct rdma_conn *c, const struct thmqi_frame *f, bool *ret_written)
{
	struct rdma_offer *o;

	*ret_written = false;
	if (!c->grants || f->len <= RDMA_LARGE_BYTES)
		return true;
	o = thmqi_rdma_offer_find(c, f->stream, f->arg[0]);
	if (!o)
		o = thmqi_rdma_offer_make(c, f);
	if (!o)
		return true;
	if (o->state != OFFER_ANSWERED || c->writes_out == RDMA_WRITES ||
	    thmqi_rdma_sq_room(c) < 4) {
		c->held_up = true;
		return false;
	}
	*ret_written = o->key != 0;
	if (o->key)
		thmqi_rdma_offer_write(c, o, f);
	thmqi_rdma_offer_free(c, o);
	return true;
}

/* False: it has to wait. */
static bool put_down(struct rdma_conn *c, struct thmqi_frame *f)
{
	const void *body = NULL;
	uint32_t len = 0;
	bool written;

	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
		if (!place_run(c, f, &written))
			return false;
		body = (const void *)(uintptr_t)f->data;
		len = written ? 0 : f->len;
		/* there is one since ATTACH */
		if (c->streams[f->stream] && (uint32_t)f->arg[0] < THMQI_DELIVERIES)
			c->streams[f->stream]->out[(uint32_t)f->arg[0]] =
				(uint32_t)(f->arg[0] >> 32) + 1;
	} else if (f->type == THMQI_FRAME_REPLY) {
		body = c->wire->reply;
		f->len = len = reply_bytes(c);
		c->request_out = false;
	}
	f->data = 0; /* an address says nothing to others, and is none of their business */
	put_frame(c, f);
	put_body(c, f, body, len);
	return true;
}

/* ---------------------------------------------------------- the client's frames */

/* A run that the session gives back: its memory goes at once. */
static void release(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];

	if (!s || index >= THMQI_DELIVERIES || !s->bufs[index])
		return;
	s->held_bytes -= s->bufs[index]->user;
	thmqi_buf_unref(s->bufs[index]);
	s->bufs[index] = NULL;
}

/* Return: how many bytes follow. */
static uint32_t produce(struct rdma_conn *c, struct thmqi_frame *f)
{
	f->data -= (uint64_t)(uintptr_t)c->wire->area;
	if (!c->elsewhere || f->len <= RDMA_LARGE_BYTES)
		return f->len;
	/* it stays where it is until it is settled, and that it cannot be before it was read */
	f->extra |= THMQI_PRODUCE_ELSEWHERE;
	return 0;
}

static int put_up(struct rdma_conn *c, struct thmqi_frame *f)
{
	const void *body = NULL;
	struct tcp_stream *s;
	uint32_t len = 0;

	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		body = (const void *)(uintptr_t)f->data;
		len = produce(c, f);
		break;
	case THMQI_FRAME_REQUEST:
		body = c->wire->request;
		len = sizeof(*c->wire->request);
		break;
	case THMQI_FRAME_ATTACH:
		s = f->stream < THMQI_STREAMS ? thmqi_rdma_stream(c, f->stream) : NULL;
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
	put_frame(c, f);
	put_body(c, f, body, len);
	return 0;
}

/* ------------------------------------------------------------------- gather */

static int gather_ring(struct rdma_conn *c, uint32_t ring)
{
	struct thmqi_frame_ring *r = ring_of(c, ring);
	struct thmqi_frame *slot, f;
	int rc = 0;

	while (!rc && !c->rest_len && has_room(c, ring) && (slot = thmqi_frame_peek(r, 0)) &&
	       frame_fits(c)) {
		memcpy((char *)&f + sizeof(f.turn), (const char *)slot + sizeof(f.turn),
		       sizeof(f) - sizeof(f.turn));
		if (!c->of_broker)
			rc = put_up(c, &f);
		else if (!put_down(c, &f))
			break;
		thmqi_frame_advance(r, 1);
		c->sent[ring]++;
	}
	thmqi_frame_publish(r);
	return rc;
}

static int gather(struct rdma_conn *c)
{
	uint32_t i;
	int rc = 0;

	c->held_up = false;
	thmqi_rdma_pulls_ask(c);
	if (c->rest_len)
		put_rest(c);
	if (!c->rest_len) {
		if (c->grants && c->of_broker)
			thmqi_rdma_offer_ahead(c);
		put_offers(c);
		if (state_is_due(c) && frame_fits(c))
			put_state(c);
		/* a client's control frames first: they make room */
		for (i = ring_count(c); i-- > 0 && !rc;)
			rc = gather_ring(c, i);
		if (c->held_up) /* by a run that was offered only now */
			put_offers(c);
		if (!rc && bye_is_due(c) && frame_fits(c))
			put_bye(c);
	}
	if (!rc && credits_are_due(c))
		open_chunk(c, 0); /* with nothing in it, if it must be */
	close_chunk(c);
	return rc;
}

/* All is said: the other closes when it has read it. */
static void leave(struct rdma_conn *c)
{
	c->error = -ESHUTDOWN;
	c->state = RDMA_LEAVING;
	c->deadline_ns = c->core->now_ns + RDMA_LEAVE_NS;
	thmqi_rdma_tick_at(c, c->deadline_ns);
}

void thmqi_rdma_out(struct rdma_conn *c)
{
	int rc = gather(c);

	if (rc) {
		thmqi_rdma_end(c, rc);
		return;
	}
	thmqi_rdma_post(c);
	if (c->bye_put && c->state == RDMA_OPEN)
		leave(c);
}
