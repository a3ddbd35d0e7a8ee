/* SPDX-License-Identifier: Apache-2.0 */
/*
 * in.c - what arrives: from receives into the link's rings, data area and pages, or into runs of this core's pool. Nothing
 * is believed: lengths, places, numbers of frames, credits and tokens are checked before anything is done with them. Who
 * breaks the rules loses the connection. What a frame refers to and does not bring along is reach.c's.
 */
#include "medium.h"

/* ------------------------------------------------------- on the broker's side */

/* 1: those before it that are being read come first, and there is no room to remember it. */
static int produce_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	bool elsewhere = (f->extra & THMQI_PRODUCE_ELSEWHERE) != 0;
	int rc;

	if (elsewhere && (!c->elsewhere || !f->len))
		return -EPROTO;
	if (thmqi_rdma_pulls_full(c))
		return 1;
	rc = thmqi_joint_begin(&c->joint, f, &c->in.to);
	if (!rc && elsewhere)
		c->in.left = 0;
	return rc;
}

static int up_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_PRODUCE)
		return produce_begin(c, f);
	/* it has the run, and we have not seen yet that it was written: a moment */
	if (f->type == THMQI_FRAME_RELEASE)
		return thmqi_rdma_is_being_written(c, f->stream, f->arg[0]);
	return thmqi_joint_begin(&c->joint, f, &c->in.to);
}

/* Half of what it gives back is still here. */
static bool is_being_sent(const struct rdma_conn *c, const struct thmqi_frame *f)
{
	return c->rest_len && c->rest_of.stream == f->stream && c->rest_of.token == f->arg[0];
}

static int up_done(struct rdma_conn *c, struct thmqi_frame *f)
{
	if (f->type == THMQI_FRAME_RELEASE && is_being_sent(c, f) && thmqi_joint_has(&c->joint, f))
		return -EPROTO;
	if (f->type == THMQI_FRAME_PRODUCE &&
	    ((f->extra & THMQI_PRODUCE_ELSEWHERE) || c->pull_head != c->pull_tail))
		return thmqi_rdma_pull(c, f);
	return thmqi_joint_done(&c->joint, f);
}

/* ------------------------------------------------------- on the client's side */

/* A run that was granted memory is there; the others get a block of this core's pool. 1: there is none now. */
static int down_begin(struct rdma_conn *c, struct thmqi_frame *f)
{
	struct rdma_offer *o =
		thmqi_is_run(f) && c->offer_count ? thmqi_rdma_offer_find(c, f->stream, f->arg[0]) : NULL;

	if (!o)
		return thmqi_joint_begin(&c->joint, f, &c->in.to);
	if (thmqi_joint_run_check(&c->joint, f) != 0 || o->state != OFFER_TOLD || o->len != f->len)
		return -EPROTO;
	c->joint.run = o->buf;
	o->buf = NULL;
	thmqi_rdma_offer_free(c, o);
	c->home->counters.reach_bytes += f->len;
	c->in.left = 0;
	return 0;
}

/* -------------------------------------------------------------------- stream */

/* 0; 1: not now; an error. */
static int frame_begin(struct rdma_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	if (f->type >= THMQI_STREAM_STATE)
		return 0;
	return c->joint.of_broker ? up_begin(c, f) : down_begin(c, f);
}

static int frame_done(struct rdma_conn *c)
{
	struct thmqi_frame *f = &c->in.frame;

	switch (f->type) {
	case THMQI_STREAM_OFFER:
		return thmqi_rdma_take_offer(c, f);
	case THMQI_STREAM_GRANT:
		return thmqi_rdma_take_grant(c, f);
	default:
		return c->joint.of_broker ? up_done(c, f) : thmqi_joint_done(&c->joint, f);
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
	if (c->joint.pushed != pushed)
		thmqi_link_kick_client(c->joint.link);
	if (rc < 0)
		thmqi_rdma_end(c, rc);
	return rc <= 0 || c->joint.pushed != pushed;
}

int thmqi_rdma_in(struct rdma_conn *c)
{
	uint64_t pushed = c->joint.pushed;
	int rc = run_queue(c);

	c->joint.heard_ns = c->core->now_ns;
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
	return c->joint.of_broker ? thmqi_rdma_adopt(c) : thmqi_rdma_greeted(c);
}

void thmqi_rdma_received(struct rdma_conn *c, struct rdma_slot *slot, uint32_t bytes)
{
	uint64_t pushed = c->joint.pushed;
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
	c->joint.heard_ns = c->core->now_ns;
	slot->at = sizeof(struct rdma_chunk);
	slot->end = bytes;
	slot->next = NULL;
	*c->queue_end = slot;
	c->queue_end = &slot->next;
	if (!c->stalled && c->queue == slot)
		settle(c, pushed, run_queue(c));
}
