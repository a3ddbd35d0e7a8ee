/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.c - what does not go through the stream. The broker reads large messages from the client's data area straight into
 * its own, and writes large runs into memory that the client grants for each. The client never reaches anything.
 *
 * A message keeps its place in the order: those behind one that is being read wait. A run that was offered is written when
 * the client has answered, and its frame follows the write in the same queue: when that is there, so is the run.
 */
#include "medium.h"

/* ------------------------------------------------------------------ messages */

bool thmqi_rdma_pulls_full(const struct rdma_conn *c)
{
	return c->pull_tail - c->pull_head == RDMA_PULLS;
}

/* Those at the head that are here go to the shard. */
static int advance(struct rdma_conn *c)
{
	int rc = 0;

	while (!rc && c->pull_head != c->pull_tail &&
	       c->pulls[c->pull_head % RDMA_PULLS].state == PULL_READY) {
		rc = thmqi_joint_push(&c->joint.link->up, &c->pulls[c->pull_head % RDMA_PULLS].frame);
		if (c->pull_next == c->pull_head)
			c->pull_next++;
		c->pull_head++;
	}
	return rc;
}

int thmqi_rdma_pull(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct rdma_pull *p = &c->pulls[c->pull_tail % RDMA_PULLS];

	p->frame = *f;
	p->state = PULL_READY;
	if (f->extra & THMQI_PRODUCE_ELSEWHERE) {
		p->state = PULL_WANTED;
		p->from = c->hello.area_at + (f->data - (uint64_t)(uintptr_t)c->joint.link->area);
		p->key = c->hello.area_key;
		p->frame.extra &= ~THMQI_PRODUCE_ELSEWHERE;
	}
	c->pull_tail++;
	return advance(c);
}

void thmqi_rdma_pulls_ask(struct rdma_conn *c)
{
	for (; c->pull_next != c->pull_tail; c->pull_next++) {
		struct rdma_pull *p = &c->pulls[c->pull_next % RDMA_PULLS];
		struct ibv_send_wr *wr;
		struct ibv_sge sge;

		if (p->state != PULL_WANTED)
			continue;
		if (c->reads_out >= c->reads_max || !thmqi_rdma_sq_room(c))
			return;
		sge = (struct ibv_sge){
			.addr = p->frame.data, .length = p->frame.len, .lkey = c->area->lkey};
		wr = thmqi_rdma_request(c, RDMA_READ, c->pull_next % RDMA_PULLS, &sge);
		wr->opcode = IBV_WR_RDMA_READ;
		wr->wr.rdma.remote_addr = p->from;
		wr->wr.rdma.rkey = p->key;
		p->state = PULL_READING;
		c->reads_out++;
	}
}

int thmqi_rdma_pulled(struct rdma_conn *c, uint32_t ref)
{
	c->pulls[ref].state = PULL_READY;
	c->reads_out--;
	c->home->counters.reach_bytes += c->pulls[ref].frame.len;
	return c->joint.link ? advance(c) : 0;
}

/* ---------------------------------------------------------------------- runs */

struct rdma_offer *thmqi_rdma_offer_find(struct rdma_conn *c, uint32_t stream, uint64_t token)
{
	struct rdma_offer *o;

	for (o = c->offers; o < c->offers + RDMA_OFFERS; o++)
		if (o->state != OFFER_FREE && o->stream == stream && o->token == token)
			return o;
	return NULL;
}

static struct rdma_offer *new_offer(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct rdma_offer *o;

	for (o = c->offers; o < c->offers + RDMA_OFFERS; o++) {
		if (o->state != OFFER_FREE)
			continue;
		*o = (struct rdma_offer){.state = OFFER_TO_TELL,
					 .stream = f->stream,
					 .len = f->len,
					 .token = f->arg[0]};
		c->offer_count++;
		return o;
	}
	return NULL;
}

void thmqi_rdma_offer_free(struct rdma_conn *c, struct rdma_offer *o)
{
	if (o->buf)
		thmqi_buf_unref(o->buf);
	o->buf = NULL;
	o->state = OFFER_FREE;
	c->offer_count--;
}

void thmqi_rdma_offers_end(struct rdma_conn *c)
{
	struct rdma_offer *o;

	for (o = c->offers; o < c->offers + RDMA_OFFERS; o++)
		if (o->state != OFFER_FREE)
			thmqi_rdma_offer_free(c, o);
}

/* ------------------------------------------------------ on the broker's side */

struct rdma_offer *thmqi_rdma_offer_make(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct thmqi_rdma_keys keys;

	/* memory that the device does not know is copied */
	if (thmqi_rdma_find_keys(c->trust->domain, (const void *)(uintptr_t)f->data, &keys) != 0)
		return NULL;
	return new_offer(c, f);
}

void thmqi_rdma_offer_ahead(struct rdma_conn *c)
{
	const struct thmqi_frame *f;
	uint32_t i;

	for (i = 0; i < RDMA_AHEAD && (f = thmqi_frame_peek(&c->joint.link->down, i)); i++)
		if ((f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) &&
		    f->len > RDMA_LARGE_BYTES && !thmqi_rdma_offer_find(c, f->stream, f->arg[0]))
			thmqi_rdma_offer_make(c, f);
}

void thmqi_rdma_offer_write(struct rdma_conn *c, struct rdma_offer *o, const struct thmqi_frame *f)
{
	struct thmqi_rdma_keys keys = {0};
	struct ibv_send_wr *wr;
	struct ibv_sge sge;
	uint32_t i;

	for (i = 0; c->writing[i]; i++)
		; /* there are no more than places */
	c->writing[i] = true;
	c->writes_out++;
	c->writes[i].stream = f->stream;
	c->writes[i].token = f->arg[0];
	thmqi_rdma_find_keys(c->trust->domain, (const void *)(uintptr_t)f->data, &keys);
	sge = (struct ibv_sge){.addr = f->data, .length = f->len, .lkey = keys.lkey};
	wr = thmqi_rdma_request(c, RDMA_WRITE, i, &sge);
	wr->opcode = IBV_WR_RDMA_WRITE;
	wr->wr.rdma.remote_addr = o->to;
	wr->wr.rdma.rkey = o->key;
	c->home->counters.reach_bytes += f->len;
}

void thmqi_rdma_wrote(struct rdma_conn *c, uint32_t ref)
{
	c->writing[ref] = false;
	c->writes_out--;
	c->held_up = false;
}

bool thmqi_rdma_is_being_written(const struct rdma_conn *c, uint32_t stream, uint64_t token)
{
	uint32_t i;

	for (i = 0; c->writes_out && i < RDMA_WRITES; i++)
		if (c->writing[i] && c->writes[i].stream == stream && c->writes[i].token == token)
			return true;
	return false;
}

int thmqi_rdma_take_grant(struct rdma_conn *c, const struct thmqi_frame *f)
{
	struct rdma_offer *o = thmqi_rdma_offer_find(c, f->stream, f->arg[0]);

	if (!o || o->state != OFFER_TOLD || o->len != f->len || f->arg[1] > UINT32_MAX)
		return -EPROTO;
	o->to = f->data;
	o->key = (uint32_t)f->arg[1];
	o->state = OFFER_ANSWERED;
	c->held_up = false;
	return 0;
}

/* ------------------------------------------------------ on the client's side */

/* Memory that the broker may write to, and its key; without either the run comes through the stream. */
static void find_memory(struct rdma_conn *c, struct rdma_offer *o)
{
	struct thmqi_rdma_keys keys = {0};

	if (thmq_buf_alloc(c->trust->landing, o->len, THMQ_PURPOSE_GENERAL, &o->buf) != 0) {
		o->buf = NULL;
		return;
	}
	thmqi_rdma_find_keys(c->trust->domain, o->buf->data, &keys);
	o->to = (uintptr_t)o->buf->data;
	o->key = keys.rkey;
}

int thmqi_rdma_take_offer(struct rdma_conn *c, const struct thmqi_frame *f)
{
	const struct thmqi_joint_stream *s = f->stream < THMQI_STREAMS ? c->joint.streams[f->stream] : NULL;
	uint32_t index = (uint32_t)f->arg[0];
	struct rdma_offer *o;

	if (!s || index >= THMQI_DELIVERIES || s->bufs[index] || !c->trust->landing ||
	    f->len < sizeof(struct thmq_run_header) || f->len > THMQI_STREAM_RUN_MAX ||
	    thmqi_rdma_offer_find(c, f->stream, f->arg[0]))
		return -EPROTO;
	o = new_offer(c, f);
	if (!o)
		return -EPROTO;
	find_memory(c, o);
	return 0;
}
