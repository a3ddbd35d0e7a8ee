/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what arrives: from receives into the link's rings, data area and pages, or into runs of this core's pool. Nothing
 * is believed: lengths, places, numbers of frames, credits and tokens are checked before anything is done with them. Who
 * breaks the rules loses the connection. What a frame refers to and does not bring along is reach.c's.
 */
#include "medium.h"

/* -------------------------------------------------------- frames of the stream */

static int take_taken(struct rdma_conn *c, uint32_t ring, uint64_t taken)
{
	if (taken < c->taken[ring] || taken > c->sent[ring])
		return -EPROTO;
	c->taken[ring] = taken;
	return 0;
}

static int take_state(struct rdma_conn *c, const struct thmqi_frame *f)
{
	int rc = take_taken(c, 0, f->arg[0]);

	if (c->of_broker)
		atomic_store_explicit(&c->wire->beat, (uint32_t)f->data, memory_order_relaxed);
	else if (!rc)
		rc = take_taken(c, 1, f->arg[1]);
	return rc;
}

/* ------------------------------------------------------- on the broker's side */

/* 1: those before it that are being read come first, and there is no room to remember it. */
static int produce_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	bool elsewhere = (f->extra & THMQI_PRODUCE_ELSEWHERE) != 0;
	uint64_t at = f->data;

	if (elsewhere && (!c->elsewhere || !f->len))
		return -EPROTO;
	if (f->len && (at >= c->wire->area_bytes || f->len > c->wire->area_bytes - at))
		return -EPROTO;
	if (thmqi_rdma_pulls_full(c))
		return 1;
	at = f->len ? at : 0;
	f->data = (uint64_t)(uintptr_t)(c->wire->area + at);
	c->in.to = c->wire->area + at;
	if (elsewhere)
		c->in.left = 0;
	return 0;
}

static int up_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	switch (f->type) {
	case THMQI_FRAME_PRODUCE:
		return produce_begin(c, f);
	case THMQI_FRAME_REQUEST:
		if (c->request_out) /* its page is the broker's until that has answered */
			return -EPROTO;
		c->in.to = (uint8_t *)c->wire->request;
		return 0;
	case THMQI_FRAME_ATTACH:
		return f->stream >= THMQI_STREAMS || thmqi_rdma_stream(c, f->stream) ? 0 : -ENOMEM;
	case THMQI_FRAME_RELEASE:
		/* it has the run, and we have not seen yet that it was written: a moment */
		return thmqi_rdma_is_being_written(c, f->stream, f->arg[0]);
	default:
		return 0;
	}
}

/* Only what it has can be given back: the others may still be read from. True: the broker is to be told. */
static int release(struct rdma_conn *c, const struct thmqi_frame *f, bool *ret_pass)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0], mark = (uint32_t)(f->arg[0] >> 32) + 1;

	*ret_pass = s && index < THMQI_DELIVERIES && s->out[index] == mark;
	if (!*ret_pass)
		return 0;
	if (c->rest_len && c->rest_of.stream == f->stream && c->rest_of.token == f->arg[0])
		return -EPROTO; /* half of it is still here */
	s->out[index] = 0;
	return 0;
}

int thmqi_rdma_push(struct thmqi_frame_ring *ring, const struct thmqi_frame *f)
{
	struct thmqi_frame *slot = thmqi_frame_claim(ring, 0);

	if (!slot)
		return -EPROTO; /* it was told how much room there is */
	memcpy((char *)slot + sizeof(slot->turn), (const char *)f + sizeof(f->turn),
	       sizeof(*f) - sizeof(f->turn));
	thmqi_frame_commit(ring);
	return 0;
}

static int up_done(struct rdma_conn *c, struct thmqi_frame *f)
{
	bool pass = true;
	int rc = 0;

	if (f->type == THMQI_FRAME_REQUEST) {
		c->wire->request->name[sizeof(c->wire->request->name) - 1] = 0;
		c->wire->request->group[sizeof(c->wire->request->group) - 1] = 0;
		c->request_out = true;
	} else if (f->type == THMQI_FRAME_RELEASE) {
		rc = release(c, f, &pass);
	} else if (f->type == THMQI_FRAME_PRODUCE &&
		   ((f->extra & THMQI_PRODUCE_ELSEWHERE) || c->pull_head != c->pull_tail)) {
		return thmqi_rdma_pull(c, f);
	}
	if (rc)
		return rc;
	if (!pass)
		f->stream = THMQI_STREAMS; /* it counts, and means nothing */
	return thmqi_rdma_push(f->type == THMQI_FRAME_PRODUCE ? &c->wire->up : &c->wire->ctl, f);
}

/* ------------------------------------------------------- on the client's side */

/* The run gets a block of this core's pool, or is where it was granted one. 1: there is none now. */
static int deliver_begin(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct tcp_stream *s = f->stream < THMQI_STREAMS ? c->streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];
	struct rdma_offer *o;

	if (!s || index >= THMQI_DELIVERIES || s->bufs[index] || s->held_bytes >= s->credit_bytes ||
	    f->len < sizeof(struct thmq_run_header))
		return -EPROTO;
	o = c->offer_count ? thmqi_rdma_offer_find(c, f->stream, f->arg[0]) : NULL;
	if (o) {
		if (o->state != OFFER_TOLD || o->len != f->len)
			return -EPROTO;
		c->run = o->buf;
		o->buf = NULL;
		thmqi_rdma_offer_free(c, o);
		c->home->counters.reach_bytes += f->len;
		c->in.left = 0;
		return 0;
	}
	if (thmq_buf_alloc(c->core->pool, f->len, THMQ_PURPOSE_GENERAL, &c->run) != 0)
		return 1;
	c->in.to = c->run->data;
	return 0;
}

static int down_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE)
		return deliver_begin(c, f);
	f->data = 0;
	if (f->type == THMQI_FRAME_REPLY) {
		memset((char *)c->wire->reply + f->len, 0, sizeof(*c->wire->reply) - f->len);
		c->in.to = (uint8_t *)c->wire->reply;
	}
	return 0;
}

static int down_done(struct rdma_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
		struct tcp_stream *s = c->streams[f->stream];

		f->data = (uint64_t)(uintptr_t)c->run->data;
		s->bufs[(uint32_t)f->arg[0]] = c->run;
		/* credit is counted so by the broker */
		c->run->user = f->len - (uint32_t)sizeof(struct thmq_run_header);
		s->held_bytes += c->run->user;
		c->run = NULL;
	}
	c->pushed++;
	return thmqi_rdma_push(&c->wire->down, f);
}

/* -------------------------------------------------------------------- stream */

/* 0; 1: not now; an error. */
static int frame_begin(struct rdma_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	if (f->type >= THMQI_STREAM_STATE)
		return 0;
	return c->of_broker ? up_begin(c, f) : down_begin(c, f);
}

static int frame_done(struct rdma_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	switch (f->type) {
	case THMQI_STREAM_STATE:
		return take_state(c, f);
	case THMQI_STREAM_BYE: /* to the broker it says nothing; the client is told why */
		return f->status < 0 ? f->status : -ESHUTDOWN;
	case THMQI_STREAM_OFFER:
		return thmqi_rdma_take_offer(c, f);
	case THMQI_STREAM_GRANT:
		return thmqi_rdma_take_grant(c, f);
	default:
		return c->of_broker ? up_done(c, f) : down_done(c, f);
	}
}

/* A frame is there: its body is awaited, or it is done. 1: it has to wait. */
static int frame_arrived(struct rdma_conn *c)
{
	int rc = frame_begin(c);

	c->stalled = rc == 1;
	if (rc || c->in.left)
		return rc;
	return frame_done(c);
}

/* What lies in @slot. 0: all of it was read; 1: a frame has to wait; an error. */
static int parse(struct rdma_conn *c, struct rdma_slot *slot)
{
	const uint8_t *at = slot->data + slot->at, *end = slot->data + slot->end;
	int news, rc = 0;

	c->home->counters.copied_bytes += (uint64_t)(end - at);
	while (at < end && rc == 0) {
		news = thmqi_stream_take(&c->in, &at, end);
		if (news < 0)
			rc = news;
		else if (news == THMQI_STREAM_FRAME)
			rc = frame_arrived(c);
		else if (news == THMQI_STREAM_BODY)
			rc = frame_done(c);
	}
	c->home->counters.copied_bytes -= (uint64_t)(end - at);
	slot->at = (uint32_t)(at - slot->data);
	return rc;
}

static void give_back(struct rdma_conn *c, struct rdma_slot *slot)
{
	thmqi_rdma_slot_idle(slot);
	c->freed++;
}

void thmqi_rdma_drop_queue(struct rdma_conn *c)
{
	struct rdma_slot *slot;

	while ((slot = c->queue)) {
		c->queue = slot->next;
		thmqi_rdma_slot_idle(slot);
	}
	c->queue_end = &c->queue;
}

/* What waits, in its order. 0; 1: it still does; an error. */
static int run_queue(struct rdma_conn *c)
{
	struct rdma_slot *slot;
	int rc = 0;

	if (c->stalled)
		rc = frame_arrived(c);
	while (!rc && (slot = c->queue)) {
		rc = parse(c, slot);
		if (rc && slot->at < slot->end)
			break;
		c->queue = slot->next;
		if (!c->queue)
			c->queue_end = &c->queue;
		give_back(c, slot);
	}
	return rc;
}

static int settle(struct rdma_conn *c, uint64_t pushed, int rc)
{
	if (c->pushed != pushed)
		thmqi_link_kick_client(c->wire);
	if (rc < 0)
		thmqi_rdma_end(c, rc);
	return rc <= 0 || c->pushed != pushed;
}

int thmqi_rdma_in(struct rdma_conn *c)
{
	uint64_t pushed = c->pushed;
	int rc = run_queue(c);

	c->heard_ns = c->core->now_ns;
	return settle(c, pushed, rc);
}

/* ------------------------------------------------------------------- receives */

/* How many of ours the other has given back: no more than it got. */
static int take_returned(struct rdma_conn *c, uint32_t returned)
{
	if (returned - c->returned > c->tx_posted - c->returned)
		return -EPROTO;
	c->returned = returned;
	return 0;
}

static int check_chunk(struct rdma_conn *c, const struct rdma_slot *slot, uint32_t bytes,
		       uint32_t *ret_len)
{
	struct rdma_chunk h;

	if (bytes < sizeof(h) || bytes > RDMA_SLOT_BYTES)
		return -EPROTO;
	memcpy(&h, slot->data, sizeof(h));
	if (h.len != bytes - sizeof(h))
		return -EPROTO;
	if (c->received - c->told_freed > RDMA_CREDITS)
		return -EPROTO; /* it took receives that were others' */
	*ret_len = h.len;
	return take_returned(c, h.returned);
}

static int take_hello(struct rdma_conn *c, const struct rdma_slot *slot, uint32_t len)
{
	if (len != sizeof(c->hello))
		return -EPROTO;
	memcpy(&c->hello, slot->data + sizeof(struct rdma_chunk), sizeof(c->hello));
	return c->of_broker ? thmqi_rdma_adopt(c) : thmqi_rdma_greeted(c);
}

void thmqi_rdma_received(struct rdma_conn *c, struct rdma_slot *slot, uint32_t bytes)
{
	uint64_t pushed = c->pushed;
	uint32_t len = 0;
	int rc;

	if (c->state == RDMA_CLOSED) {
		thmqi_rdma_slot_idle(slot);
		return;
	}
	c->received++;
	rc = check_chunk(c, slot, bytes, &len);
	if (rc || !len || c->state != RDMA_OPEN) {
		give_back(c, slot);
		if (!rc && c->state == RDMA_GREETING)
			rc = take_hello(c, slot, len);
		if (rc)
			thmqi_rdma_end(c, rc);
		return;
	}
	c->heard_ns = c->core->now_ns;
	slot->at = sizeof(struct rdma_chunk);
	slot->end = bytes;
	slot->next = NULL;
	*c->queue_end = slot;
	c->queue_end = &slot->next;
	if (!c->stalled && c->queue == slot)
		settle(c, pushed, run_queue(c));
}
