/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.c - a member of a shared group: its acks, one message each, gathered to ranges while they follow each other; what
 * it gives back, or keeps for longer; and what it may not hand to the app any more. Which messages it gets is the broker's to say.
 */
#include <stdio.h>

#include "internal.h"

#define GATHER_MAX 64u             /* acks in one frame */
#define RETRY_NS 10000000u         /* a dead letter that found no room … */
#define RETRY_ERROR_NS 1000000000u /* … or was refused; and what cannot be read */
#define UNREAD_MAX 3u              /* tries at what cannot be read, where the group has no limit of its own */

#define UNSTORED_MAX 512u          /* frames of acks that are remembered until they are stored */

/* Acks as they were sent, in this order. */
struct unstored {
	uint32_t head, tail, again; /* free running; those from @again on are to be sent again */
	bool forgot;                /* there was no room for all */
	struct {
		uint64_t from;
		uint32_t count, serial;
	} at[UNSTORED_MAX];
};

/* What is prefetched is the app's to see only while it certainly is ours. */
static uint64_t shown_for_ns(const struct thmq_consumer *c)
{
	return c->opts.invisible_ns - c->opts.invisible_ns / 8;
}

/* ---------------------------------------------------------------------- say */

/* @deliveries: when these were handed out; 0: it is not known. */
static bool say(struct reading *r, uint32_t what, uint64_t from, uint64_t to, uint32_t deliveries,
		uint64_t time_ns)
{
	struct thmqi_frame *f = r->state == READING_ON ? thmqi_ctl_claim(r->link) : NULL;

	if (!f)
		return false;
	f->type = THMQI_FRAME_SETTLE;
	f->flags = (uint8_t)what;
	f->stream = r->consumer->stream;
	f->partition = r->partition;
	f->seq = from;
	f->len = (uint32_t)(to - from);
	f->extra = what == THMQI_SETTLE_ACK ? ++r->settle_sent : deliveries;
	f->arg[0] = time_ns;
	f->generation = r->generation;
	thmqi_ctl_commit(r->link);
	return true;
}

static void drop_stored(struct reading *r)
{
	struct unstored *u = r->unstored;

	while (u->tail != u->again && u->at[u->tail % UNSTORED_MAX].serial <= r->settle_stored)
		u->tail++;
}

static bool add_unstored(struct unstored *u, uint64_t from, uint64_t to, uint32_t serial)
{
	if (u->head - u->tail == UNSTORED_MAX)
		return false;
	u->at[u->head % UNSTORED_MAX].from = from;
	u->at[u->head % UNSTORED_MAX].count = (uint32_t)(to - from);
	u->at[u->head++ % UNSTORED_MAX].serial = serial;
	return true;
}

/* An ack that was sent just now. */
static void remember(struct reading *r)
{
	struct unstored *u = r->unstored;

	if (!u)
		return;
	drop_stored(r);
	if (r->settle_stored == r->settle_sent - 1)
		u->forgot = false;
	if (!add_unstored(u, r->settle_from, r->settle_to, r->settle_sent))
		u->forgot = true;
	u->again = u->head;
}

static bool send_again(struct reading *r)
{
	struct unstored *u = r->unstored;

	for (; u && u->again != u->head; u->again++) {
		uint32_t i = u->again % UNSTORED_MAX;

		if (!say(r, THMQI_SETTLE_ACK, u->at[i].from, u->at[i].from + u->at[i].count, 0, 0))
			return false;
		u->at[i].serial = r->settle_sent;
	}
	return true;
}

bool thmqi_shared_ack_send(struct reading *r)
{
	if (!send_again(r))
		return r->state == READING_ON ? thmqi_reading_later(r) : false;
	if (r->settle_from == r->settle_to)
		return true;
	if (!say(r, THMQI_SETTLE_ACK, r->settle_from, r->settle_to, 0, 0))
		return r->state == READING_ON ? thmqi_reading_later(r) : false;
	remember(r);
	r->settle_from = r->settle_to;
	return true;
}

void thmqi_shared_ask(struct reading *r)
{
	const struct unstored *u = r->unstored;
	uint64_t done = r->settle_to;

	if (!done && u && u->head != u->tail) { /* since its connection was lost only these were sent */
		const uint32_t i = (u->head - 1) % UNSTORED_MAX;

		done = u->at[i].from + u->at[i].count;
	}
	if (done && say(r, THMQI_SETTLE_ACK, done - 1, done, 0, 0))
		r->ack_error = 0;
}

/* The reading that @m was fetched from. Return: 0, or why nothing can be said of it. */
static int reading_of(struct thmq_consumer *c, const struct thmq_message *m, struct reading **ret)
{
	struct reading *r;

	if (!c->shared || !thmqi_reading_is_there(c, m->partition) ||
	    m->internal[1] >> 48 != (VIEW_MARK | c->stream))
		return -EINVAL;
	r = thmqi_reading(c, m->partition);
	if (thmqi_shared_last(m) >= r->handed || thmqi_shared_last(m) < m->offset)
		return -EINVAL;
	if (c->session->dead)
		return c->session->dead;
	thmqi_session_beat(c->session);
	if (r->state != READING_ON)
		return r->state == READING_NONE ? -THMQ_EFENCED : -EAGAIN;
	*ret = r;
	return 0;
}

static int ack(struct reading *r, uint64_t first, uint64_t last)
{
	if (r->settle_from != r->settle_to && first == r->settle_to &&
	    r->settle_to - r->settle_from < GATHER_MAX) {
		r->settle_to = last + 1;
		return 0;
	}
	if (!thmqi_shared_ack_send(r))
		return -EAGAIN;
	r->settle_from = first;
	r->settle_to = last + 1;
	thmqi_reading_later(r);
	return 0;
}

int thmqi_shared_ack(struct thmq_consumer *c, const struct thmq_message *message)
{
	struct reading *r;
	int rc = reading_of(c, message, &r);

	return rc ? rc : ack(r, message->offset, thmqi_shared_last(message));
}

/* Acks that were made before go first. */
static int tell(struct thmq_consumer *c, const struct thmq_message *m, uint32_t what,
		uint64_t time_ns)
{
	const struct delivered *d;
	struct reading *r;
	int rc = reading_of(c, m, &r);

	if (rc == -THMQ_EFENCED)
		return 0; /* it is not this member's any more */
	if (rc)
		return rc;
	d = thmqi_view_is_held(c, m) ? (const struct delivered *)(uintptr_t)m->internal[0] : NULL;
	if (!thmqi_shared_ack_send(r) ||
	    !say(r, what, m->offset, thmqi_shared_last(m) + 1, d ? d->deliveries : 0, time_ns))
		return -EAGAIN;
	return 0;
}

/* By how often it was handed out. */
static uint64_t backoff_after(const struct thmq_consumer *c, uint32_t times)
{
	uint32_t n = c->opts.backoff_count;

	return n ? c->backoff_ns[THMQI_MIN(THMQI_MAX(times, 1u), n) - 1] : 0;
}

static uint64_t backoff(const struct thmq_consumer *c, const struct thmq_message *m)
{
	return backoff_after(c, thmqi_view_is_held(c, m) ? ((const struct delivered *)(uintptr_t)m->internal[0])->deliveries : 1);
}

int thmqi_client_nack(struct thmq_consumer *c, const struct thmq_message *message,
		      uint64_t delay_ns)
{
	if (delay_ns == THMQ_NACK_BACKOFF)
		delay_ns = backoff(c, message);
	return tell(c, message, THMQI_SETTLE_NACK, delay_ns);
}

int thmqi_client_extend(struct thmq_consumer *c, const struct thmq_message *message,
			uint64_t invisible_ns)
{
	return tell(c, message, THMQI_SETTLE_EXTEND, invisible_ns);
}

int thmqi_client_message_deliveries(const struct thmq_consumer *c,
				    const struct thmq_message *message)
{
	const struct delivered *d = (const struct delivered *)(uintptr_t)message->internal[0];

	if (!thmqi_view_is_held(c, message))
		return -EINVAL;
	return c->shared ? (int)d->deliveries : 0;
}

int thmqi_client_reject(struct thmq_consumer *c, const struct thmq_message *message,
			const char *reason)
{
	const struct delivered *d = (const struct delivered *)(uintptr_t)message->internal[0];
	struct reading *r;
	int rc = c->dead ? reading_of(c, message, &r) : -EOPNOTSUPP;

	if (rc)
		return rc;
	return thmqi_view_is_held(c, message) ? thmqi_dead_put(c, message, d->deliveries, reason)
					      : -EINVAL;
}

/* --------------------------------------------------------------------- hear */

static bool acks_are_out(const struct reading *r)
{
	return r->settle_from != r->settle_to || r->settle_stored != r->settle_sent ||
	       (r->unstored && r->unstored->again != r->unstored->head);
}

bool thmqi_shared_acks_stored(const struct reading *r)
{
	return r->state == READING_NONE || r->ack_error || !acks_are_out(r);
}

void thmqi_shared_attaching(struct reading *r, uint32_t start, struct thmqi_frame *f)
{
	const struct thmq_consumer_opts *o = &r->consumer->opts;

	f->flags = (uint8_t)(start | THMQI_ATTACH_SHARED);
	f->seq = o->invisible_ns;
	f->arg[0] = o->start_time_ns;
	r->settle_sent = r->settle_stored = 0;
}

void thmqi_shared_settled(struct reading *r, const struct thmqi_frame *f)
{
	if ((uint32_t)f->arg[0] != r->generation || f->extra > r->settle_sent)
		return;
	if (f->status == -THMQ_EFENCED)
		r->consumer->fenced = true;
	r->ack_error = f->status == -THMQ_EFENCED ? 0 : f->status;
	if (!f->status || f->status == -THMQ_EFENCED)
		r->settle_stored = THMQI_MAX(r->settle_stored, f->extra);
}

void thmqi_shared_lost(struct reading *r, bool again)
{
	struct unstored *u = r->unstored;

	if (!u || !again || u->forgot)
		r->consumer->fenced = r->consumer->fenced || acks_are_out(r);
	else
		r->consumer->doubted = r->consumer->doubted || acks_are_out(r);
	if (u && again) {
		drop_stored(r);
		if (r->settle_from != r->settle_to && !add_unstored(u, r->settle_from, r->settle_to, 0))
			r->consumer->fenced = true;
		u->again = u->tail;
	} else if (u) {
		u->again = u->tail = u->head;
	}
	if (u)
		u->forgot = false;
	r->settle_from = r->settle_to = 0;
	r->settle_sent = r->settle_stored = 0;
	r->ack_error = 0;
}

void thmqi_shared_fini(struct reading *r)
{
	free(r->unstored);
	r->unstored = NULL;
}

/* --------------------------------------------------------------------- runs */

/*
 * How old is a frame that was stamped by the broker's clock? It may have lain in the ring while nobody called. The fastest frame seen tells
 * how far our clock is ahead; that may rise by what two clocks drift apart, 200 parts in a million.
 */
static uint64_t age_ns(struct thmq_consumer *c, uint32_t stamp_ms, uint64_t now)
{
	uint32_t lead = (uint32_t)(now / 1000000u) - stamp_ms;

	if (!c->clock_ns) {
		c->clock_lead_ms = lead;
		c->clock_ns = now;
	}
	if (now - c->clock_ns >= 5000000000ull) {
		c->clock_lead_ms += (uint32_t)((now - c->clock_ns) / 5000000000ull);
		c->clock_ns = now;
	}
	if ((int32_t)(lead - c->clock_lead_ms) < 0)
		c->clock_lead_ms = lead;
	return (uint64_t)(lead - c->clock_lead_ms) * 1000000u;
}

void thmqi_shared_attached(struct reading *r, const struct thmqi_frame *f)
{
	if (r->resumes) /* perhaps another machine's */
		r->consumer->clock_ns = 0;
	age_ns(r->consumer, f->tag_hash, thmqi_session_now(r->consumer->session));
	if (!r->unstored && r->consumer->session->opts.reconnect_ns)
		r->unstored = calloc(1, sizeof(*r->unstored)); /* without it acks that are lost are told */
}

void thmqi_shared_delivered(struct thmq_consumer *c, struct delivered *d,
			    const struct thmqi_frame *f)
{
	const uint64_t now = thmqi_session_now(c->session);

	d->deliveries = f->extra;
	d->expires_ns =
		now + shown_for_ns(c) - THMQI_MIN(age_ns(c, f->tag_hash, now), shown_for_ns(c));
	if (c->opts.deliver_max && d->deliveries > c->opts.deliver_max) { /* whether anybody fetches or not */
		c->dead_due = true;
		c->session->untended = true;
	}
}

/* Where there is no room to say so it comes back by itself, later. */
void thmqi_shared_return(struct thmq_consumer *c, const struct delivered *d)
{
	uint64_t from = thmqi_run_next_offset(d);

	(void)c;
	if (d->reading && !d->former && from < d->to)
		say(d->reading, THMQI_SETTLE_RETURN, from, d->to, d->deliveries, 0);
}

static void tell_dead(struct thmq_consumer *c, const struct delivered *d, uint64_t offset, uint32_t deliveries)
{
	struct thmq_event e = {.type = THMQ_EVENT_DEAD_LETTER,
			       .consumer = c,
			       .cookie = c->opts.cookie,
			       .partition = d->reading->index,
			       .offset = offset,
			       .count = deliveries};

	thmqi_session_event(c->session, &e);
}

/* Of what is left of @d those from @first to @last. */
static void tell_all_dead(struct thmq_consumer *c, const struct delivered *d, uint64_t first, uint64_t last, uint32_t deliveries)
{
	uint64_t offset;
	uint32_t i;

	for (i = d->at; i < d->count; i++) {
		offset = d->base_offset + (d->deltas ? d->deltas[i] : i);
		if (offset >= first && offset <= last)
			tell_dead(c, d, offset, deliveries);
	}
}

/* They were handed out as often as may be: they are done, whatever they are. False: not now, they come once more. */
static bool drop_dead(struct thmq_consumer *c, struct delivered *d)
{
	uint64_t from = thmqi_run_next_offset(d);
	struct reading *r = d->reading;

	if (!thmqi_shared_ack_send(r) ||
	    !say(r, THMQI_SETTLE_ACK, from, d->to, 0, 0))
		return false;
	tell_all_dead(c, d, from, d->to - 1, d->deliveries - 1);
	d->at = d->count;
	return true;
}

/* The same where there is a topic for them: each is done once it is stored there. */
static void bury(struct thmq_consumer *c, struct delivered *d)
{
	struct thmq_message m;
	int rc;

	while (thmqi_run_next(c, d, &m)) {
		rc = thmqi_dead_put(c, &m, d->deliveries - 1, "deliveries");
		if (rc)
			thmqi_shared_put_off(c, m.partition, m.offset, thmqi_shared_last(&m),
					     rc == -EAGAIN ? RETRY_NS : RETRY_ERROR_NS);
		if (rc && rc != -EAGAIN)
			thmqi_consumer_tell(c, THMQ_EVENT_ERROR, d->reading, rc, m.offset);
		thmqi_client_release(c, &m, 1);
	}
}

bool thmqi_shared_skips(struct thmq_consumer *c, struct delivered *d)
{
	if (d->at == d->count)
		return true;
	if (thmqi_session_now(c->session) < d->expires_ns)
		return false;
	thmqi_shared_return(c, d);
	return true;
}

bool thmqi_shared_is_dead(const struct thmq_consumer *c, const struct delivered *d)
{
	return c->opts.deliver_max && d->deliveries > c->opts.deliver_max && d->at < d->count;
}

void thmqi_shared_bury(struct thmq_consumer *c, struct delivered *d)
{
	if (thmqi_session_now(c->session) >= d->expires_ns)
		thmqi_shared_return(c, d);
	else if (c->dead)
		bury(c, d);
	else if (!drop_dead(c, d))
		thmqi_shared_return(c, d);
}

/* Nobody will ever read them, and nothing of them can be copied anywhere. */
static bool drop_unread(struct thmq_consumer *c, const struct delivered *d, uint64_t first, uint64_t last, uint32_t deliveries)
{
	if (ack(d->reading, first, last))
		return false;
	if (first == last || d->whole || !d->count)
		tell_dead(c, d, first, deliveries);
	else
		tell_all_dead(c, d, first, last, deliveries);
	return true;
}

bool thmqi_shared_unread(struct thmq_consumer *c, struct delivered *d, uint64_t first, uint64_t last, int error)
{
	const uint32_t max = c->opts.deliver_max, times = d->deliveries;
	struct reading *r = d->reading;

	if (r->state != READING_ON) /* it is not this one's any more */
		return true;
	/* another may have the codec, the memory, the version that this one lacks: it is no try */
	if (error == -EOPNOTSUPP || error == -ENOMEM || error == -THMQ_EVERSION)
		return say(r, THMQI_SETTLE_RETURN, first, last + 1, times, RETRY_ERROR_NS);
	if (max ? times > max : times >= UNREAD_MAX)
		return drop_unread(c, d, first, last, max ? times - 1 : times);
	return say(r, THMQI_SETTLE_NACK, first, last + 1, times, c->opts.backoff_count ? backoff_after(c, times) : RETRY_ERROR_NS);
}

void thmqi_shared_over(struct thmq_consumer *c, struct delivered *d, const struct thmq_message *m,
		       uint32_t flags)
{
	(void)c;
	if (!(flags & THMQ_RECORD_PART) || d->whole) /* else it has not come to its end yet */
		ack(d->reading, m->offset,
		    thmqi_shared_last(m)); /* where there is no room it comes again */
}

int thmqi_shared_say_done(struct thmq_consumer *c, uint32_t partition, uint64_t first,
			  uint64_t last)
{
	struct reading *r = thmqi_reading(c, partition);

	if (r->state != READING_ON)
		return r->state == READING_NONE ? -THMQ_EFENCED : -EAGAIN;
	return ack(r, first, last);
}

int thmqi_shared_put_off(struct thmq_consumer *c, uint32_t partition, uint64_t first, uint64_t last,
			 uint64_t delay_ns)
{
	return say(thmqi_reading(c, partition), THMQI_SETTLE_NACK, first, last + 1, 0, delay_ns)
		       ? 0
		       : -EAGAIN;
}

/* --------------------------------------------------------------------- open */

/* The group is made where it is not there yet; its members are known to the shards only. */
int thmqi_shared_join(struct thmq_consumer *c, const char *group, uint64_t deadline)
{
	struct thmqi_request q;
	const struct thmqi_reply *reply;
	uint32_t i, group_id;
	int rc;

	thmqi_consumer_join(c, &q);
	rc = thmqi_session_meta(c->session, &q, &reply);
	if (rc)
		return rc;
	thmqi_consumer_joined(c, reply);
	thmqi_consumer_began(c, (uint32_t)(reply->value[0] >> 32));
	group_id = c->group_id; /* the next request takes its place */
	if (c->opts.dead_topic)
		rc = thmqi_dead_open(c, c->opts.dead_topic);
	c->opts.dead_topic = NULL;
	if (rc)
		return rc;
	for (i = c->reading_first; i < c->reading_count; i++)
		thmqi_reading(c, i)->group_id = group_id;
	return thmqi_consumer_attach_all(c, deadline);
}
