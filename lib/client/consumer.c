/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consumer.c - a consumer: the partitions it reads, the runs that were handed over, the messages in the app's hands.
 * A run is read in place and given back when all of its messages were handed out and released.
 */
#include <stdio.h>

#include "internal.h"

#define RUNS_MAX 4096u /* handed over and not given back; the broker keeps to it too */
#define NO_OFFSET UINT64_MAX

/* --------------------------------------------------------------------- runs */

static struct delivered *run_get(struct thmq_consumer *c)
{
	struct delivered *d = c->free;

	if (d)
		c->free = d->next;
	return d;
}

static bool send_release(struct client_link *l, uint32_t stream, uint64_t token)
{
	struct thmqi_frame *f = l->dead ? NULL : thmqi_frame_claim(&l->wire->ctl, 0);

	if (!f)
		return l->dead != 0;
	f->type = THMQI_FRAME_RELEASE;
	f->stream = stream;
	f->arg[0] = token;
	thmqi_frame_commit(&l->wire->ctl);
	thmqi_link_kick_broker(l->wire);
	return true;
}

/* All of the run is done with: back to the broker, the record to the free list. */
static void run_put(struct thmq_consumer *c, struct delivered *d)
{
	struct client_link *l = d->link;

	c->held_bytes -= d->bytes;
	c->held_count -= d->count;
	c->stalled = false;
	d->generation++;
	d->run = NULL;
	if (!send_release(l, c->stream, d->token)) {
		d->next = l->unreleased;
		l->unreleased = d;
		return;
	}
	d->next = c->free;
	c->free = d;
}

/* Runs of @r that the app has not seen are dropped. */
static void drop_queued(struct thmq_consumer *c, const struct reading *r)
{
	struct delivered **at = &c->first, *d;

	while ((d = *at)) {
		if (d->reading != r) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		d->queued = false;
		d->at = d->count; /* nothing more is handed out */
		if (!d->held)
			run_put(c, d);
	}
	c->last = at;
}

/* ------------------------------------------------------------------- frames */

static struct reading *reading_of(struct thmq_consumer *c, uint32_t partition)
{
	uint32_t i = c->reading_count ? partition - c->readings[0].partition : 0;

	if (i < c->reading_count && c->readings[i].partition == partition)
		return &c->readings[i];
	for (i = 0; i < c->reading_count; i++)
		if (c->readings[i].partition == partition)
			return &c->readings[i];
	return NULL;
}

static struct thmqi_frame *ctl_claim(struct client_link *l)
{
	return l && l->up && !l->dead ? thmqi_frame_claim(&l->wire->ctl, 0) : NULL;
}

static void ctl_commit(struct client_link *l)
{
	thmqi_frame_commit(&l->wire->ctl);
	thmqi_link_kick_broker(l->wire);
}

static void tell(struct thmq_consumer *c, uint32_t type, const struct reading *r, int error, uint64_t offset)
{
	struct thmq_event e = {.type = type,
			       .error = error,
			       .consumer = c,
			       .cookie = c->opts.cookie,
			       .partition = r ? r->index : 0,
			       .offset = offset};

	thmqi_session_event(c->session, &e);
}

/* Return: false if there was no room: tend() tries again. */
static bool send_attach(struct reading *r)
{
	struct thmq_consumer *c = r->consumer;
	struct thmqi_frame *f = ctl_claim(r->link);

	if (!f)
		return false;
	r->generation++;
	r->not_before_ns = c->opts.start == THMQ_START_TIME ? (int64_t)c->opts.start_time_ns : INT64_MIN;
	f->type = THMQI_FRAME_ATTACH;
	f->flags = (uint8_t)(c->opts.start | (c->opts.flags & THMQ_CONSUMER_START_ALWAYS ? 0x80 : 0));
	f->stream = c->stream;
	f->partition = r->partition;
	f->len = (uint32_t)THMQI_MIN(c->opts.prefetch_bytes, (uint64_t)UINT32_MAX);
	f->extra = c->opts.prefetch_count;
	f->seq = r->epoch;
	f->arg[0] = c->opts.start_time_ns;
	f->arg[1] = r->group_id;
	f->generation = r->generation;
	r->state = READING_ATTACHING;
	ctl_commit(r->link);
	return true;
}

static bool send_detach(struct reading *r)
{
	struct thmqi_frame *f = ctl_claim(r->link);

	if (!f)
		return r->link->dead != 0;
	f->type = THMQI_FRAME_DETACH;
	f->stream = r->consumer->stream;
	f->partition = r->partition;
	f->seq = r->epoch;
	r->state = READING_DETACHING;
	ctl_commit(r->link);
	return true;
}

static void send_revoked(struct reading *r)
{
	struct thmq_consumer *c = r->consumer;
	struct client_link *meta = c->session->links[0];
	struct thmqi_frame *f = ctl_claim(meta);

	r->state = READING_NONE;
	if (!f)
		return; /* the broker's patience ends by itself */
	f->type = THMQI_FRAME_REVOKED;
	f->stream = c->stream;
	f->partition = r->partition;
	f->seq = r->epoch;
	ctl_commit(meta);
}

static bool push_ack(struct reading *r)
{
	struct thmqi_frame *f = ctl_claim(r->link);

	if (!f)
		return false;
	f->type = THMQI_FRAME_ACK;
	f->stream = r->consumer->stream;
	f->partition = r->partition;
	f->seq = r->ack_next;
	f->arg[0] = r->epoch;
	f->arg[1] = r->group_id;
	r->ack_sent = r->ack_next;
	r->ack_dirty = false;
	ctl_commit(r->link);
	return true;
}

static void on_assign(struct thmq_consumer *c, const struct thmqi_frame *f)
{
	struct reading *r = f->len < c->reading_count ? &c->readings[f->len] : NULL;

	if (!r || c->closing)
		return;
	r->partition = f->partition;
	r->shard = (uint32_t)f->arg[0];
	r->group_id = (uint32_t)f->arg[1];
	r->epoch = f->seq;
	r->revoke_asked = false;
	r->ack_next = r->ack_sent = r->ack_stored = NO_OFFSET;
	r->ack_dirty = false;
	r->state = READING_WANTED;
	if (thmqi_session_link(c->session, r->shard, &r->link) == 0)
		send_attach(r);
}

static void let_go(struct reading *r)
{
	drop_queued(r->consumer, r);
	if (r->held) {
		r->state = READING_DRAINING;
		return;
	}
	if (r->ack_dirty && !push_ack(r)) {
		r->state = READING_DRAINING;
		return;
	}
	if (!send_detach(r))
		r->state = READING_DRAINING;
}

static void on_revoke(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (f->seq != r->epoch || r->state == READING_NONE)
		return;
	if (f->status) { /* taken: the next owner fences us at the shard */
		drop_queued(c, r);
		if (r->link)
			send_detach(r);
		r->state = READING_NONE;
		r->ack_dirty = false;
		tell(c, THMQ_EVENT_REVOKED, r, f->status, 0);
	} else if (r->state == READING_WANTED) {
		send_revoked(r);
	} else if (r->state == READING_ATTACHING) {
		r->revoke_asked = true;
	} else if (r->state == READING_ON) {
		let_go(r);
	}
}

static void on_attached(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (r->state != READING_ATTACHING)
		return;
	r->status = f->status;
	if (f->status) {
		r->state = READING_NONE;
		tell(c, f->status == -THMQ_EFENCED ? THMQ_EVENT_REVOKED : THMQ_EVENT_ERROR, r, f->status, 0);
		if (f->status == -THMQ_ENOTOPIC)
			c->error = f->status;
		return;
	}
	r->state = READING_ON;
	tell(c, THMQ_EVENT_ASSIGNED, r, 0, f->seq);
	if (r->revoke_asked)
		let_go(r);
}

static void on_detached(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (r->state == READING_DETACHING && f->status == 0) {
		if (f->seq != r->epoch)
			return;
		if (c->grouped && !c->closing) /* leaving gives all of them back */
			send_revoked(r);
		r->state = READING_NONE;
		tell(c, THMQ_EVENT_REVOKED, r, 0, 0);
	} else if (f->status && r->state != READING_NONE && f->seq == r->epoch) {
		drop_queued(c, r);
		r->state = READING_NONE;
		if (f->status == -THMQ_ENOTOPIC)
			c->error = f->status;
		if (r->ack_dirty || r->ack_sent != r->ack_stored)
			c->fenced = true;
		tell(c, f->status == -THMQ_ENOTOPIC ? THMQ_EVENT_ERROR : THMQ_EVENT_REVOKED, r, f->status, 0);
	}
}

static bool gone(const struct client_link *l)
{
	return atomic_load_explicit(&l->wire->broker_closed, memory_order_acquire) != 0;
}

static void on_deliver(struct thmq_consumer *c, struct client_link *l, struct reading *r, const struct thmqi_frame *f)
{
	const struct thmq_run_header *run = (const void *)(uintptr_t)f->data;
	struct delivered *d;

	if (thmqi_unlikely(gone(l))) /* the run's memory went with the broker */
		return;
	d = run_get(c);
	if (!d) { /* more than was agreed: give it back unseen */
		send_release(l, c->stream, f->arg[0]);
		return;
	}
	d->next = NULL;
	d->link = l;
	d->reading = r;
	d->token = f->arg[0];
	d->run = run;
	d->bytes = run->len;
	d->record = (const struct thmq_record *)(run + 1);
	d->deltas = run->flags & THMQ_RUN_SPARSE ? (const uint32_t *)(d->record + run->count) : NULL;
	d->body = (const uint8_t *)(d->record + run->count) +
		  (d->deltas ? THMQI_ALIGN_UP(run->count * 4u, 8u) : 0);
	d->from = f->seq;
	d->to = f->arg[1];
	d->at = 0;
	d->count = run->encoding == THMQ_RUN_RECORDS ? run->count : 0;
	d->held = 0;
	c->held_bytes += run->len;
	c->held_count += d->count;
	if (!r || r->state == READING_NONE || f->generation != r->generation || !d->count) {
		d->at = d->count;
		run_put(c, d);
		return;
	}
	d->queued = true;
	*c->last = d;
	c->last = &d->next;
}

static void on_acked(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (f->status == -THMQ_EFENCED)
		c->fenced = true;
	if (f->status)
		r->ack_stored = r->ack_sent; /* refused: nothing more will come of it */
	else if (r->ack_stored == NO_OFFSET || f->seq > r->ack_stored)
		r->ack_stored = f->seq;
}

void thmqi_consumer_frame(struct thmq_consumer *c, struct client_link *l, const struct thmqi_frame *f)
{
	struct reading *r;

	if (f->type == THMQI_FRAME_ASSIGN) {
		on_assign(c, f);
		return;
	}
	r = reading_of(c, f->partition);
	if (f->type == THMQI_FRAME_DELIVER) {
		on_deliver(c, l, r, f);
		return;
	}
	if (!r)
		return;
	switch (f->type) {
	case THMQI_FRAME_REVOKE:
		on_revoke(c, r, f);
		break;
	case THMQI_FRAME_ATTACHED:
		on_attached(c, r, f);
		break;
	case THMQI_FRAME_DETACHED:
		on_detached(c, r, f);
		break;
	case THMQI_FRAME_ACKED:
		on_acked(c, r, f);
		break;
	case THMQI_FRAME_SOUGHT:
		r->seek_done = true;
		r->seek_status = f->status;
		if (f->status == 0) { /* what was prefetched is of the old place */
			r->generation++;
			drop_queued(c, r);
		}
		r->seek_begin = f->arg[0];
		r->seek_end = f->arg[1];
		break;
	case THMQI_FRAME_GAP:
		if (f->generation == r->generation)
			tell(c, THMQ_EVENT_OFFSETRANGE, r, -THMQ_EOFFSETRANGE, f->seq);
		break;
	case THMQI_FRAME_TROUBLE:
		tell(c, THMQ_EVENT_ERROR, r, f->status, f->seq);
		break;
	default:
		break;
	}
}

/* --------------------------------------------------------------------- tend */

static void tend(struct thmq_consumer *c)
{
	uint32_t i;

	for (i = 0; i < c->reading_count; i++) {
		struct reading *r = &c->readings[i];

		if (r->state == READING_WANTED && r->link)
			send_attach(r);
		if (r->ack_dirty && r->state != READING_NONE)
			push_ack(r);
		if (r->state == READING_DRAINING && !r->held)
			let_go(r);
	}
}

static void tend_link(struct thmq_session *s, struct client_link *l)
{
	struct delivered *d;
	struct thmq_consumer *c;

	while ((d = l->unreleased)) {
		c = d->reading ? d->reading->consumer : NULL;
		if (!c || !send_release(l, c->stream, d->token))
			return;
		l->unreleased = d->next;
		d->next = c->free;
		c->free = d;
	}
	(void)s;
}

void thmqi_consumers_tend(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && s->links[i]->unreleased)
			tend_link(s, s->links[i]);
	if (thmqi_likely(!s->untended))
		return;
	s->untended = false;
	for (i = 0; i < THMQI_STREAMS; i++)
		if (s->consumers[i])
			tend(s->consumers[i]);
}

void thmqi_consumer_link_up(struct thmq_session *s, struct client_link *l)
{
	(void)l;
	s->untended = true;
}

bool thmqi_consumer_has_news(const struct thmq_consumer *c)
{
	return (c->first != NULL && !c->session->dead) || (c->error && !c->error_told);
}

/* -------------------------------------------------------------------- fetch */

static bool wanted(const struct delivered *d, uint64_t offset, int64_t time)
{
	return offset >= d->from && offset < d->to && time >= d->reading->not_before_ns;
}

/* In every view: whose it is, so that an ack tells it from bytes that were never fetched. */
static uint64_t mark_of(const struct thmq_consumer *c)
{
	return (uint64_t)(0x7468u << 16 | c->stream) << 32;
}

/* The next record of @d. Return: 1 a message; 0 none is left. */
static int next_message(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m)
{
	while (d->at < d->count) {
		const struct thmq_record *rec = d->record++;
		const uint8_t *body = d->body;
		uint64_t offset = d->run->base_offset + (d->deltas ? d->deltas[d->at] : d->at);
		int64_t time = d->run->first_time_ns + (int64_t)rec->time_delta_us * 1000;

		d->body += THMQI_ALIGN_UP(rec->size, 8u);
		d->at++;
		if (thmqi_unlikely(!wanted(d, offset, time)))
			continue;
		m->key = rec->key_len ? body : NULL;
		m->tag = rec->tag_len ? (const char *)body + rec->key_len : NULL;
		m->data = body + rec->key_len + rec->tag_len;
		m->len = rec->size - rec->key_len - rec->tag_len;
		m->key_len = rec->key_len;
		m->tag_len = rec->tag_len;
		m->partition = d->reading->index;
		m->offset = offset;
		m->time_ns = time;
		m->internal[0] = (uint64_t)(uintptr_t)d;
		m->internal[1] = d->generation | mark_of(c);
		d->held++;
		d->reading->held++;
		c->app_held++;
		/* from here on everything is late enough */
		d->reading->not_before_ns = INT64_MIN;
		return 1;
	}
	return 0;
}

/* Nothing can come because the app holds all that the broker hands over at a time. */
static bool window_held(struct thmq_consumer *c)
{
	return c->app_held && (!c->free || c->held_bytes >= c->opts.prefetch_bytes ||
			       c->held_count >= c->opts.prefetch_count);
}

int thmqi_client_fetch(struct thmq_consumer *c, struct thmq_message *ret_messages, uint32_t max)
{
	struct delivered *d = c->first;
	uint32_t n = 0;

	thmqi_session_beat(c->session);
	if (thmqi_unlikely(d && gone(d->link))) {
		/* what was prefetched went with the broker; the last frames still come in, and tell so */
		while (!c->session->dead)
			thmqi_session_process(c->session);
		return c->session->dead;
	}
	if (!d) {
		thmqi_session_process(c->session);
		if (!c->first) {
			if (c->session->dead)
				return c->session->dead;
			if (c->error) {
				c->error_told = true;
				return c->error;
			}
			if (!window_held(c))
				return 0;
			if (!c->stalled) {
				c->stalled = true;
				tell(c, THMQ_EVENT_STALLED, NULL, -ENOBUFS, 0);
			}
			return -ENOBUFS;
		}
	}
	while (n < max && (d = c->first)) {
		if (next_message(c, d, &ret_messages[n])) {
			n++;
			if (d->at < d->count)
				continue;
		}
		if (d->at == d->count) {
			c->first = d->next;
			if (!c->first)
				c->last = &c->first;
			d->queued = false;
			if (!d->held)
				run_put(c, d);
		}
	}
	return (int)n;
}

static bool in_pool(const struct thmq_consumer *c, const struct delivered *d)
{
	return d >= c->pool && d < c->pool + c->pool_count && ((const char *)d - (const char *)c->pool) % sizeof(*d) == 0;
}

int thmqi_client_release(struct thmq_consumer *c, struct thmq_message *messages, uint32_t count)
{
	struct delivered *d;
	uint32_t i;

	for (i = 0; i < count; i++) {
		d = (struct delivered *)(uintptr_t)messages[i].internal[0];
		if (thmqi_unlikely(!in_pool(c, d) || (d->generation | mark_of(c)) != messages[i].internal[1] || !d->held))
			return -EINVAL;
		messages[i].internal[0] = 0;
		d->held--;
		d->reading->held--;
		c->app_held--;
		if (!d->held && d->at == d->count && !d->queued) {
			run_put(c, d);
			if (thmqi_unlikely(d->reading->state == READING_DRAINING))
				c->session->untended = true;
		}
	}
	if (thmqi_unlikely(c->session->untended))
		thmqi_consumers_tend(c->session);
	return 0;
}

/* ---------------------------------------------------------------------- ack */

int thmqi_client_ack(struct thmq_consumer *c, const struct thmq_message *message)
{
	struct reading *r;

	if (!c->grouped || message->partition >= c->reading_count ||
	    message->internal[1] >> 32 != mark_of(c) >> 32)
		return -EINVAL;
	r = &c->readings[message->partition];
	if (c->session->dead)
		return c->session->dead;
	thmqi_session_beat(c->session);
	if (r->state != READING_ON && r->state != READING_DRAINING)
		return -THMQ_EFENCED;
	if (r->ack_next != NO_OFFSET && message->offset + 1 <= r->ack_next)
		return 0;
	r->ack_next = message->offset + 1;
	if (!push_ack(r)) {
		r->ack_dirty = true;
		c->session->untended = true;
	}
	return 0;
}

static bool acks_stored(void *arg)
{
	struct thmq_consumer *c = arg;
	uint32_t i;

	for (i = 0; i < c->reading_count; i++) {
		const struct reading *r = &c->readings[i];

		if (r->state == READING_NONE || r->ack_next == NO_OFFSET)
			continue;
		if (r->ack_dirty || r->ack_stored == NO_OFFSET || r->ack_stored < r->ack_next)
			return false;
	}
	return true;
}

int thmqi_client_consumer_flush(struct thmq_consumer *c, uint64_t timeout_ns)
{
	struct thmq_session *s = c->session;
	int rc = 0;

	s->untended = true;
	if (!acks_stored(c))
		rc = s->dead ? s->dead :
			       thmqi_session_block(s, acks_stored, c, thmqi_session_deadline(s, timeout_ns));
	if (rc == 0 && c->fenced) {
		c->fenced = false;
		return -THMQ_EFENCED;
	}
	return rc;
}

/* --------------------------------------------------------------------- seek */

static bool sought(void *arg)
{
	const struct reading *r = arg;

	return r->seek_done || r->state != READING_ON;
}

static int seek_one(struct thmq_consumer *c, struct reading *r, uint32_t start, uint64_t value, uint64_t deadline)
{
	struct thmq_session *s = c->session;
	uint32_t generation = r->generation + 1;
	struct thmqi_frame *f;
	int rc;

	if (r->state != READING_ON)
		return thmqi_fail(-EPERM, "seek: partition %u of %s is not this consumer's", r->index, c->topic);
	while (!(f = ctl_claim(r->link))) {
		if (s->dead)
			return s->dead;
		rc = thmqi_client_session_wait(s, 1000000);
		if (rc < 0)
			return rc;
	}
	r->seek_done = false;
	f->type = THMQI_FRAME_SEEK;
	f->flags = (uint8_t)start;
	f->stream = c->stream;
	f->partition = r->partition;
	f->arg[0] = value;
	f->generation = generation;
	ctl_commit(r->link);
	rc = thmqi_session_block(s, sought, r, deadline);
	if (rc)
		return thmqi_fail(rc, "seek in partition %u of %s: %s", r->index, c->topic, thmq_strerror(rc));
	if (!r->seek_done)
		return thmqi_fail(-EPERM, "seek: partition %u of %s has just gone to another", r->index, c->topic);
	if (r->seek_status == -THMQ_EOFFSETRANGE)
		return thmqi_fail(r->seek_status, "seek to %llu in partition %u of %s: it holds offsets %llu to %llu",
				  (unsigned long long)value, r->index, c->topic, (unsigned long long)r->seek_begin,
				  (unsigned long long)r->seek_end);
	if (r->seek_status)
		return thmqi_fail(r->seek_status, "seek in partition %u of %s: %s", r->index, c->topic,
				  thmq_strerror(r->seek_status));
	return 0;
}

int thmqi_client_seek(struct thmq_consumer *c, uint32_t partition, uint32_t start, uint64_t value)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	uint32_t i, first = partition == UINT32_MAX ? 0 : partition;
	uint32_t end = partition == UINT32_MAX ? c->reading_count : partition + 1;
	int rc = 0;

	if (partition != UINT32_MAX && partition >= c->reading_count)
		return thmqi_fail(-THMQ_ENOPARTITION, "seek: %s has %u partitions, not %u", c->topic,
				  c->reading_count, partition);
	thmqi_session_process(s);
	for (i = first; i < end && !rc; i++) {
		struct reading *r = &c->readings[i];

		if (partition == UINT32_MAX && r->state != READING_ON)
			continue;
		rc = seek_one(c, r, start, value, deadline);
		if (rc)
			break;
		r->not_before_ns = start == THMQ_START_TIME ? (int64_t)value : INT64_MIN;
	}
	return rc;
}

/* -------------------------------------------------------------- open, close */

static int make_pool(struct thmq_consumer *c)
{
	uint32_t i;

	c->pool_count = THMQI_MIN(c->opts.prefetch_count, RUNS_MAX) * THMQI_MAX(c->session->shard_count - 1, 1u);
	c->pool_count = THMQI_MIN(c->pool_count, 4 * RUNS_MAX);
	c->pool = calloc(c->pool_count, sizeof(*c->pool));
	if (!c->pool)
		return -ENOMEM;
	for (i = c->pool_count; i-- > 0;) {
		c->pool[i].generation = 1; /* a view never has 0: that is no message of ours */
		c->pool[i].next = c->free;
		c->free = &c->pool[i];
	}
	return 0;
}

static void consumer_free(struct thmq_consumer *c)
{
	free(c->readings);
	free(c->pool);
	c->readings = NULL;
	c->pool = NULL;
	c->pool_count = c->reading_count = 0;
	thmqi_handle_bury(c->session->graveyard, &c->handle);
}

static bool all_attached(void *arg)
{
	const struct thmq_consumer *c = arg;
	uint32_t i;

	for (i = 0; i < c->reading_count; i++)
		if (c->readings[i].state == READING_WANTED || c->readings[i].state == READING_ATTACHING)
			return false;
	return true;
}

static int attach_all(struct thmq_consumer *c, uint64_t deadline)
{
	struct thmqi_partition_entry *entries;
	struct thmq_session *s = c->session;
	uint32_t i;
	int rc = thmqi_session_partitions(s, c->topic_id, c->reading_count, &entries);

	for (i = 0; i < c->reading_count && !rc; i++) {
		struct reading *r = &c->readings[i];

		r->partition = entries[i].partition;
		r->shard = entries[i].shard;
		r->state = READING_WANTED;
		rc = thmqi_session_link(s, r->shard, &r->link);
		if (!rc && !send_attach(r))
			s->untended = true;
	}
	if (rc == 0 || i)
		free(entries);
	while (!rc && !all_attached(c)) {
		s->untended = true;
		rc = thmqi_session_block(s, all_attached, c, THMQI_MIN(deadline, thmqi_session_deadline(s, 1000000)));
		if (rc == -ETIMEDOUT && thmqi_session_deadline(s, 0) < deadline)
			rc = 0;
	}
	for (i = 0; i < c->reading_count && !rc; i++)
		rc = c->readings[i].status;
	return rc;
}

static int join(struct thmq_consumer *c, const char *group)
{
	struct thmqi_request r = {.op = THMQI_OP_JOIN,
				  .stream = c->stream,
				  .session_timeout_ns = c->opts.session_timeout_ns};

	snprintf(r.name, sizeof(r.name), "%s", c->topic);
	snprintf(r.group, sizeof(r.group), "%s", group);
	return thmqi_session_meta(c->session, &r, NULL);
}

static int free_stream(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS; i++)
		if (!s->consumers[i] && !(s->unsafe[i] & 2))
			return (int)i;
	return thmqi_fail(-EMFILE, "a session has at most %u consumers at a time", THMQI_STREAMS);
}

static int consumer_end(struct thmq_consumer *c, uint64_t deadline, int rc);

static void set_defaults(struct thmq_consumer_opts *o)
{
	o->prefetch_count = o->prefetch_count ? o->prefetch_count : 65536;
	o->prefetch_bytes = o->prefetch_bytes ? o->prefetch_bytes : 4u << 20;
	o->session_timeout_ns = o->session_timeout_ns ? o->session_timeout_ns : 10000000000ull;
}

int thmqi_client_consumer_open(struct thmq_session *s, const char *topic, const char *group,
			       const struct thmq_consumer_opts *opts, struct thmq_consumer **ret_consumer)
{
	uint64_t deadline = thmqi_session_deadline(s, s->opts.timeout_ns);
	struct thmqi_request request = {.op = THMQI_OP_TOPIC_DESCRIBE};
	const struct thmqi_reply *reply;
	struct thmq_consumer *c;
	int rc, stream = free_stream(s);
	uint32_t i;

	if (stream < 0)
		return stream;
	snprintf(request.name, sizeof(request.name), "%s", topic);
	rc = thmqi_session_meta(s, &request, &reply);
	if (rc)
		return thmqi_fail(rc, "open a consumer of %s: %s", topic, thmq_strerror(rc));
	c = calloc(1, sizeof(*c));
	if (!c)
		return thmqi_fail(-ENOMEM, "no memory for a consumer");
	c->handle.kind = THMQI_HANDLE_CONSUMER;
	c->session = s;
	c->opts = *opts;
	set_defaults(&c->opts);
	c->stream = (uint32_t)stream;
	c->topic_id = reply->topics[0].topic_id;
	c->reading_count = reply->topics[0].partition_count;
	c->grouped = group != NULL;
	c->last = &c->first;
	snprintf(c->topic, sizeof(c->topic), "%s", topic);
	c->readings = calloc(c->reading_count, sizeof(*c->readings));
	rc = c->readings ? make_pool(c) : -ENOMEM;
	for (i = 0; c->readings && i < c->reading_count; i++) {
		c->readings[i].consumer = c;
		c->readings[i].index = i;
		c->readings[i].ack_next = c->readings[i].ack_sent = c->readings[i].ack_stored = NO_OFFSET;
	}
	s->consumers[stream] = c;
	if (!rc)
		rc = group ? join(c, group) : attach_all(c, deadline);
	if (rc) {
		consumer_end(c, 0, rc);
		return thmqi_fail(rc, "open a consumer of %s: %s", topic, thmq_strerror(rc));
	}
	*ret_consumer = c;
	return 0;
}

static bool all_detached(void *arg)
{
	const struct thmq_consumer *c = arg;
	uint32_t i;

	for (i = 0; i < c->reading_count; i++)
		if (c->readings[i].state != READING_NONE)
			return false;
	return true;
}

/* Everything of this consumer goes back to the broker, held or not. */
static void give_all_back(struct thmq_consumer *c)
{
	struct thmq_session *s = c->session;
	uint32_t i;

	for (i = 0; i < c->pool_count; i++) {
		struct delivered *d = &c->pool[i];

		if (d->run && d->link)
			send_release(d->link, c->stream, d->token);
		d->run = NULL;
	}
	for (i = 0; i < s->shard_count; i++) { /* records on a link's list are ours or another consumer's */
		struct delivered **at = s->links[i] ? &s->links[i]->unreleased : NULL;

		while (at && *at) {
			if (in_pool(c, *at))
				*at = (*at)->next;
			else
				at = &(*at)->next;
		}
	}
}

/* Whatever happens, the consumer is gone afterwards. @rc: an error so far. */
static int consumer_end(struct thmq_consumer *c, uint64_t deadline, int rc)
{
	struct thmqi_request request = {.op = THMQI_OP_LEAVE, .stream = c->stream};
	struct thmq_session *s = c->session;
	uint32_t i;
	int left;

	c->closing = true;
	for (i = 0; i < c->reading_count; i++) {
		struct reading *r = &c->readings[i];

		if (r->state == READING_NONE)
			continue;
		drop_queued(c, r);
		r->held = 0;
		if (r->state == READING_WANTED || !r->link || r->link->dead)
			r->state = READING_NONE;
		else if (r->state != READING_DETACHING && !send_detach(r))
			r->state = READING_DRAINING, s->untended = true;
	}
	if (!s->dead && !all_detached(c)) {
		left = thmqi_session_block(s, all_detached, c, THMQI_MAX(deadline, thmqi_session_deadline(s, 1000000)));
		if (left && !rc)
			rc = left;
	}
	if (c->grouped && !s->dead) {
		left = thmqi_session_request(s, s->links[0], &request,
					     THMQI_MAX(deadline, thmqi_session_deadline(s, 1000000)), NULL);
		if (left && !rc)
			rc = left;
	}
	give_all_back(c);
	if (!all_detached(c))
		s->unsafe[c->stream] |= 2;
	s->consumers[c->stream] = NULL;
	consumer_free(c);
	return rc == -THMQ_EFENCED ? 0 : rc;
}

int thmqi_client_consumer_close(struct thmq_consumer *c, uint64_t timeout_ns)
{
	struct thmq_session *s = c->session;
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns);
	int rc = 0;

	if (!s->dead && thmqi_session_stuck(s))
		return -EDEADLK;
	if (c->grouped)
		rc = thmqi_client_consumer_flush(c, timeout_ns);
	if (rc == -EDEADLK && !s->dead)
		return rc;
	return consumer_end(c, deadline, rc);
}
