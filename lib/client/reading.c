/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reading.c - the partitions of a consumer: given by the group, attached at their shards, asked back, let go. What
 * finds no room in a ring is tried again by tend(). Knows nothing of the messages themselves.
 */
#include "internal.h"

#define NO_OFFSET UINT64_MAX

static struct reading *reading_of(struct thmq_consumer *c, uint32_t partition)
{
	uint32_t k, i;

	for (k = 0; k < c->base_count; k++) {
		i = partition - c->bases[k];
		if (thmqi_reading_is_there(c, i) && thmqi_reading(c, i)->partition == partition)
			return thmqi_reading(c, i);
	}
	return NULL;
}

void thmqi_reading_place(struct reading *r, uint32_t partition)
{
	struct thmq_consumer *c = r->consumer;
	uint32_t base = partition - r->index, k = 0;

	r->partition = partition;
	while (k < c->base_count && c->bases[k] != base)
		k++;
	if (k == c->base_count && k < THMQI_ARRAY_COUNT(c->bases)) /* a topic has no more of them */
		c->bases[c->base_count++] = base;
}

void thmqi_consumer_tell(struct thmq_consumer *c, uint32_t type, const struct reading *r, int error,
			 uint64_t offset)
{
	struct thmq_event e = {.type = type,
			       .error = error,
			       .consumer = c,
			       .cookie = c->opts.cookie,
			       .partition = r ? r->index : 0,
			       .offset = offset};

	thmqi_session_event(c->session, &e);
}

/* Something found no room: it is looked at again with the next news, or in the next round. */
bool thmqi_reading_later(struct reading *r)
{
	if (thmqi_list_empty(&r->due_link))
		thmqi_list_add_tail(&r->consumer->due, &r->due_link);
	r->consumer->session->untended = true;
	return false;
}

/* ----------------------------------------------------------- frames to send */

/* The detach of an earlier epoch goes first: the broker has one reader of a partition per consumer. */
static bool send_detach(struct reading *r, uint64_t epoch)
{
	struct thmqi_frame *f;

	r->detach_due = false;
	if (!r->link || r->link->dead || r->link->away)
		return true;
	f = thmqi_ctl_claim(r->link);
	if (!f) {
		r->detach_due = true;
		r->detach_epoch = epoch;
		return thmqi_reading_later(r);
	}
	f->type = THMQI_FRAME_DETACH;
	f->stream = r->consumer->stream;
	f->partition = r->partition;
	f->seq = epoch;
	thmqi_ctl_commit(r->link);
	return true;
}

bool thmqi_reading_attach(struct reading *r)
{
	struct thmq_consumer *c = r->consumer;
	struct thmqi_frame *f;
	uint32_t start = c->opts.start;

	if (start == THMQ_START_END && r->index >= c->began_count) /* it was added: all that is in it came since */
		start = THMQ_START_BEGIN;
	if (thmqi_unlikely(c->session->reads_only) && (c->grouped || c->shared)) /* how far it comes could not be stored */
		return thmqi_reading_later(r);
	if (r->detach_due && !send_detach(r, r->detach_epoch))
		return false;
	/* where the app still holds that much of connections that are lost, there is no room for what would come */
	if (thmqi_unlikely(c->selection && c->former_count <= c->live_max && !thmqi_select_say(c, r->link)))
		return thmqi_reading_later(r);
	f = c->former_count <= c->live_max ? thmqi_ctl_claim(r->link) : NULL;
	if (!f)
		return thmqi_reading_later(r);
	r->generation++;
	r->shard_error = 0;
	if (c->shared)
		r->not_before_ns = INT64_MIN; /* where the group begins is the broker's to find */
	else if (!r->resumes)
		r->not_before_ns = c->opts.start == THMQ_START_TIME ? (int64_t)c->opts.start_time_ns : INT64_MIN;
	f->type = THMQI_FRAME_ATTACH;
	f->flags = (uint8_t)(start | (c->opts.flags & THMQ_CONSUMER_START_ALWAYS ? THMQI_ATTACH_ALWAYS : 0));
	if (r->resumes)
		f->flags = (uint8_t)(THMQI_START_AGAIN | (c->grouped ? THMQI_ATTACH_RESUME : THMQI_ATTACH_ALWAYS));
	f->stream = c->stream;
	f->partition = r->partition;
	f->key_len = (uint16_t)(c->priorities | r->priority << 8);
	f->len = (uint32_t)THMQI_MIN(c->share_bytes, (uint64_t)UINT32_MAX);
	f->extra = c->share_count;
	f->seq = r->epoch;
	f->arg[0] = r->resumes ? r->resume : c->opts.start_time_ns;
	f->arg[1] = r->group_id | (c->tag_filter >> 32 << 32);
	f->tag_hash = (uint32_t)c->tag_filter;
	f->generation = r->generation;
	if (c->shared)
		thmqi_shared_attaching(r, start, f);
	if (c->selection)
		f->flags |= THMQI_ATTACH_FILTERED;
	if (c->opts.flags & THMQ_CONSUMER_READ_UNCOMMITTED)
		f->flags |= THMQI_ATTACH_UNCOMMITTED;
	r->state = READING_ATTACHING;
	thmqi_ctl_commit(r->link);
	return true;
}

/* Many may go at once, and find no room in the ring: while the broker does not hear of one nobody reads it. */
static void say_revoked(struct reading *r)
{
	struct thmq_consumer *c = r->consumer;
	struct client_link *meta = c->session->links[THMQI_SHARD_META];
	struct thmqi_frame *f = thmqi_ctl_claim(meta);

	r->revoked_due = !f;
	if (!f) {
		thmqi_reading_later(r);
		return;
	}
	f->type = THMQI_FRAME_REVOKED;
	f->stream = c->stream;
	f->partition = r->partition;
	f->seq = r->epoch;
	thmqi_ctl_commit(meta);
}

static void send_revoked(struct reading *r)
{
	r->state = READING_NONE;
	r->resumes = false;
	say_revoked(r);
}

bool thmqi_reading_ack(struct reading *r)
{
	struct thmqi_frame *f = r->consumer->session->reads_only ? NULL : thmqi_ctl_claim(r->link);

	if (!f) {
		r->ack_dirty = true;
		return thmqi_reading_later(r);
	}
	f->type = THMQI_FRAME_ACK;
	f->stream = r->consumer->stream;
	f->partition = r->partition;
	f->seq = r->ack_next;
	f->arg[0] = r->epoch;
	f->arg[1] = r->group_id;
	r->ack_sent = r->ack_next;
	r->ack_dirty = false;
	r->ack_error = r->shard_error;
	thmqi_ctl_commit(r->link);
	return true;
}

/* ------------------------------------------------------------------- states */

static void detach(struct reading *r)
{
	if (send_detach(r, r->epoch))
		r->state = READING_DETACHING;
	else
		r->state = READING_DRAINING; /* tend() comes back to it */
}

static bool acks_are_out(const struct reading *r)
{
	return r->ack_next != NO_OFFSET && (r->ack_stored == NO_OFFSET || r->ack_stored < r->ack_next);
}

/*
 * As soon as the app holds nothing of it, and its acks are stored: of what is stored later nobody would tell us, and a crash before that would
 * make it come again. Those that cannot be stored now hold up nobody.
 */
static void let_go(struct reading *r)
{
	thmqi_runs_drop(r->consumer, r);
	if (r->held || (r->ack_dirty && !thmqi_reading_ack(r)) || (acks_are_out(r) && !r->ack_error)) {
		r->state = READING_DRAINING;
		return;
	}
	if (acks_are_out(r))
		r->consumer->fenced = true;
	detach(r);
}

void thmqi_reading_close(struct reading *r)
{
	thmqi_runs_drop(r->consumer, r);
	r->held = 0;
	r->ack_dirty = false;
	if (r->state == READING_WANTED || !r->link || r->link->dead || r->link->away)
		r->state = READING_NONE;
	else if (r->state != READING_NONE && r->state != READING_DETACHING)
		detach(r);
}

/* Another has it now, or its topic is gone: nothing that we still say of it counts. */
static void lost(struct thmq_consumer *c, struct reading *r, int error)
{
	bool fenced = c->fenced;

	thmqi_runs_drop(c, r);
	r->state = READING_NONE;
	r->resumes = false;
	if (c->shared)
		thmqi_shared_lost(r, false);
	if (error == -THMQ_ENOTOPIC)
		c->fenced = fenced; /* nobody misses acks of what is gone */
	if (r->ack_dirty)
		c->fenced = true;
	r->ack_unsure = !r->ack_dirty && r->ack_sent != r->ack_stored;
	r->ack_dirty = false;
	r->ack_error = 0;
	r->revoke_asked = false;
	if (error == -THMQ_ENOTOPIC)
		c->error = error;
	thmqi_consumer_tell(c, error == -THMQ_EFENCED ? THMQ_EVENT_REVOKED : THMQ_EVENT_ERROR, r, error, 0);
}

void thmqi_consumer_expelled(struct thmq_consumer *c, int error)
{
	uint32_t i;

	for (i = c->reading_first; i < c->reading_count; i++) {
		struct reading *r = thmqi_reading(c, i);

		if (r->state == READING_NONE)
			continue;
		if (r->state != READING_WANTED && r->state != READING_DETACHING)
			send_detach(r, r->epoch);
		if (acks_are_out(r)) /* whether a shard takes them or not: their group is gone */
			c->fenced = true;
		lost(c, r, error);
		r->ack_unsure = false;
	}
	c->error = error;
}

/* The app has never heard that it is not its own any more: it goes on where it was, whatever its epoch is. */
bool thmqi_reading_is_ours(const struct reading *r)
{
	return r->state == READING_ON || r->state == READING_DRAINING || r->resumes;
}

void thmqi_reading_lost(struct reading *r)
{
	struct thmq_consumer *c = r->consumer;

	r->detach_due = r->ack_unsure = false;
	if (c->shared)
		thmqi_shared_lost(r, r->state == READING_ON || r->state == READING_ATTACHING || r->state == READING_WANTED);
	if (!r->seek_done) {
		r->seek_done = true;
		r->seek_status = -ECONNRESET;
	}
	switch (r->state) {
	case READING_ON:
	case READING_DRAINING:
		r->revoke_asked = r->revoke_asked || r->state == READING_DRAINING;
		r->resumes = true;
		r->ack_dirty = acks_are_out(r);
		r->state = READING_WANTED;
		break;
	case READING_ATTACHING:
		r->state = READING_WANTED;
		break;
	case READING_DETACHING: /* nobody will answer, and nothing is attached */
		if (c->grouped && !c->closing)
			send_revoked(r);
		r->state = READING_NONE;
		thmqi_consumer_tell(c, THMQ_EVENT_REVOKED, r, 0, 0);
		break;
	default:
		break;
	}
	if (r->state == READING_WANTED)
		thmqi_reading_later(r);
}

/* Again, since our connection was lost: what it is at is known here, and perhaps not there. */
static void on_assigned_again(struct reading *r)
{
	if (r->state == READING_NONE)
		send_revoked(r);
}

static void on_assign(struct thmq_consumer *c, const struct thmqi_frame *f)
{
	struct reading *r;
	bool resumes;
	int rc;

	if (c->closing || f->len >= THMQ_PARTITION_COUNT_MAX)
		return;
	if (f->len >= c->reading_count && thmqi_readings_make(c, f->len + 1) != 0) { /* others of the group may have the memory */
		c->error = -ENOMEM;
		thmqi_consumer_leave(c->session, c->stream);
		return;
	}
	r = thmqi_reading(c, f->len);
	if (c->member && r->epoch == f->seq && r->partition == f->partition) {
		on_assigned_again(r);
		return;
	}
	resumes = c->member && thmqi_reading_is_ours(r);
	/* it is ours already, or will be, by an older epoch */
	if (r->state == READING_ON || r->state == READING_DRAINING || (c->member && r->state == READING_ATTACHING)) {
		send_detach(r, r->epoch);
		thmqi_runs_drop(c, r);
	}
	thmqi_reading_place(r, f->partition);
	r->shard = (uint32_t)f->arg[0];
	r->group_id = (uint32_t)f->arg[1];
	thmqi_consumer_began(c, f->extra);
	r->epoch = f->seq;
	r->revoked_due = false;
	r->revoke_asked = false;
	r->resumes = resumes;
	if (!resumes)
		r->ack_next = r->ack_sent = r->ack_stored = NO_OFFSET;
	r->ack_dirty = resumes && acks_are_out(r);
	r->ack_unsure = false;
	r->ack_error = 0;
	r->state = READING_WANTED;
	rc = thmqi_session_link(c->session, r->shard, &r->link);
	if (rc == 0) {
		thmqi_reading_attach(r);
		return;
	}
	r->link = NULL;
	r->resumes = false;
	send_revoked(r); /* it cannot be read from here: another member may try */
	thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, rc, 0);
}

static void on_revoke(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (f->seq != r->epoch || r->state == READING_NONE)
		return;
	if (f->status) { /* taken: the next owner fences us at the shard */
		if (r->state != READING_WANTED && r->state != READING_DETACHING)
			send_detach(r, r->epoch);
		lost(c, r, f->status);
	} else if (r->state == READING_WANTED && !r->resumes) {
		send_revoked(r);
	} else if (r->state == READING_WANTED || r->state == READING_ATTACHING) {
		r->revoke_asked = true; /* once it is there it is let go as any other: the app may hold messages */
	} else if (r->state == READING_ON) {
		let_go(r);
	}
}

static void on_attached(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	int before = r->status;

	if (r->state != READING_ATTACHING || (f->extra && f->extra != r->generation)) /* else of one that was taken back */
		return;
	r->status = f->status;
	if (f->status == -ENOMEM && c->grouped && !r->revoke_asked) { /* it is ours, and no other member would read it */
		r->state = READING_WANTED;
		if (before != f->status)
			thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, f->status, 0);
		thmqi_reading_later(r);
		return;
	}
	if (f->status == -THMQ_ENOQUORUM) { /* that copy knows nothing of it: it is asked for again of the next one, or of who leads */
		r->state = READING_WANTED;
		return;
	}
	if (f->status) {
		lost(c, r, f->status);
		return;
	}
	if (c->shared)
		thmqi_shared_attached(r, f);
	r->state = READING_ON;
	r->resume = f->seq;
	if (f->flags & THMQI_ATTACHED_AT_GROUP) /* the start was not asked for its time */
		r->not_before_ns = INT64_MIN;
	if (!r->resumes)
		thmqi_consumer_tell(c, THMQ_EVENT_ASSIGNED, r, 0, f->seq);
	r->resumes = false;
	if (r->ack_dirty)
		thmqi_reading_ack(r);
	if (c->shared)
		thmqi_shared_ack_send(r);
	if (r->revoke_asked)
		let_go(r);
}

static void on_detached(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (f->seq != r->epoch)
		return;
	if (f->status == 0)
		r->ack_unsure = false; /* what was not refused by now is stored, or will be */
	if (r->state == READING_NONE)
		return;
	if (f->status) {
		lost(c, r, f->status);
		if (r->ack_unsure)
			send_detach(r, r->epoch); /* it changes nothing there, and is answered */
	} else if (r->state == READING_DETACHING) {
		if (c->grouped && !c->closing) /* leaving gives all of them back */
			send_revoked(r);
		r->state = READING_NONE;
		thmqi_consumer_tell(c, THMQ_EVENT_REVOKED, r, 0, 0);
	}
}

static void on_acked(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	if (f->status == -THMQ_EFENCED)
		c->fenced = true;
	if (f->status == -THMQ_EFENCED)
		r->ack_stored = r->ack_sent; /* refused: nothing more will come of it */
	else if (f->status && f->seq >= r->ack_sent) /* -EINVAL: behind all that the broker has; a flush asks once more */
		r->ack_error = f->status == -EINVAL ? -THMQ_EOFFSETRANGE : f->status;
	else if (!f->status && (r->ack_stored == NO_OFFSET || f->seq > r->ack_stored))
		r->ack_stored = f->seq;
	if (r->ack_stored != NO_OFFSET && r->ack_stored >= r->ack_sent) {
		r->ack_error = 0;
		r->ack_unsure = false;
	}
	if (r->state == READING_DRAINING) /* perhaps it was all that was waited for */
		thmqi_reading_later(r);
}

static void on_sought(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	r->seek_done = true;
	r->seek_status = f->status;
	r->seek_begin = f->arg[0];
	r->seek_end = f->arg[1];
	if (f->status)
		return;
	r->generation++; /* what was prefetched is of the old place */
	r->not_before_ns = r->seek_not_before_ns;
	r->resume = f->seq;
	thmqi_runs_drop(c, r);
}

/* Acks that are out will be refused, and those that come: who waits for them need not. */
static void shard_failed(struct reading *r, int error)
{
	r->shard_error = error;
	if (r->ack_next != NO_OFFSET && (r->ack_stored == NO_OFFSET || r->ack_stored < r->ack_next))
		r->ack_error = error;
	if (r->state == READING_DRAINING)
		thmqi_reading_later(r);
}

static void tell_lost(struct thmq_consumer *c, const struct reading *r, const struct thmqi_frame *f)
{
	struct thmq_event e = {.type = THMQ_EVENT_LOST,
			       .error = f->status,
			       .consumer = c,
			       .cookie = c->opts.cookie,
			       .offset = f->seq,
			       .count = f->arg[1],
			       .partition = r->index,
			       .durability = f->flags};

	thmqi_session_event(c->session, &e);
}

/* Of an older place: nobody waits for what was there. */
static void tell_gap(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	struct thmq_event e = {.type = THMQ_EVENT_OFFSETRANGE,
			       .error = -THMQ_EOFFSETRANGE,
			       .consumer = c,
			       .cookie = c->opts.cookie,
			       .offset = f->seq,
			       .count = f->seq > f->arg[0] ? f->seq - f->arg[0] : 0,
			       .partition = r->index};

	if (f->generation != r->generation)
		return;
	r->resume = THMQI_MAX(r->resume, f->seq);
	thmqi_session_event(c->session, &e);
}

static void tell_limited(struct thmq_consumer *c, struct reading *r, const struct thmqi_frame *f)
{
	uint64_t now = thmqi_session_now(c->session);
	const struct thmq_event e = {.type = THMQ_EVENT_LIMITED,
				     .error = -EAGAIN,
				     .consumer = c,
				     .cookie = c->opts.cookie,
				     .count = f->arg[0],
				     .partition = r->index};

	if (r->limited_told_ns && now - r->limited_told_ns < LIMITED_NS)
		return;
	r->limited_told_ns = now;
	thmqi_session_event(c->session, &e);
}

void thmqi_consumer_frame(struct thmq_consumer *c, struct client_link *l, const struct thmqi_frame *f)
{
	struct reading *r;

	if (f->type == THMQI_FRAME_ASSIGN) {
		on_assign(c, f);
		return;
	}
	if (f->type == THMQI_FRAME_EXPELLED) {
		c->error = f->status ? f->status : -THMQ_EFENCED;
		return;
	}
	r = reading_of(c, f->partition);
	if (thmqi_unlikely(r && r->link != l && f->type != THMQI_FRAME_REVOKE)) /* its shard alone speaks of it; groups are meta's */
		r = NULL;
	if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE) {
		thmqi_runs_deliver(c, l, r, f);
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
	case THMQI_FRAME_SETTLED:
		thmqi_shared_settled(r, f);
		break;
	case THMQI_FRAME_SOUGHT:
		on_sought(c, r, f);
		break;
	case THMQI_FRAME_GAP:
		tell_gap(c, r, f);
		break;
	case THMQI_FRAME_LIMITED:
		tell_limited(c, r, f);
		break;
	case THMQI_FRAME_LOST:
		tell_lost(c, r, f);
		break;
	case THMQI_FRAME_TROUBLE:
		if (f->status == -THMQ_EFAILED)
			shard_failed(r, f->status);
		thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, f->status, f->seq);
		break;
	default:
		break;
	}
}

/* --------------------------------------------------------------------- tend */

static void tend_one(struct reading *r)
{
	if (r->revoked_due)
		say_revoked(r);
	if (r->state == READING_WANTED && r->link)
		thmqi_reading_attach(r);
	else if (r->state == READING_DRAINING && !r->held)
		let_go(r);
	else if (r->detach_due)
		send_detach(r, r->detach_epoch);
	if (r->consumer->shared)
		thmqi_shared_ack_send(r);
	if (r->ack_dirty && (r->state == READING_ON || r->state == READING_DRAINING))
		thmqi_reading_ack(r);
}

/* After so many in vain the others wait too: their rings are as full, and each answer that comes leads here again. */
#define VAIN_MAX 64u

static void tend(struct thmq_consumer *c)
{
	uint32_t vain = 0;
	struct thmqi_list last;

	if (thmqi_list_empty(&c->due))
		return;
	/* those in vain go behind the others, which are not looked at twice in one go */
	thmqi_list_add_tail(&c->due, &last);
	while (c->due.next != &last && vain < VAIN_MAX) {
		struct reading *r = thmqi_list_first(&c->due, struct reading, due_link);

		thmqi_list_del(&r->due_link);
		tend_one(r);
		vain += !thmqi_list_empty(&r->due_link);
	}
	thmqi_list_del(&last);
}

/* What takes in news itself comes here again by that. */
static void tend_dead(struct thmq_consumer *c)
{
	if (c->burying)
		return;
	if (c->dead_due && !c->closing)
		thmqi_runs_bury(c);
	if (!c->dead)
		return;
	c->burying++;
	thmqi_dead_tend(c);
	c->burying--;
	if (thmqi_dead_is_out(c))
		c->session->untended = true;
}

void thmqi_consumer_leave(struct thmq_session *s, uint32_t stream)
{
	struct client_link *meta = s->links[THMQI_SHARD_META];
	struct thmqi_frame *f = thmqi_ctl_claim(meta);

	s->leave_due[stream] = !f;
	if (!f) {
		s->untended = true;
		return;
	}
	f->type = THMQI_FRAME_LEAVE;
	f->stream = stream;
	f->arg[0] = s->leavers[stream];
	thmqi_ctl_commit(meta);
}

void thmqi_consumers_tend(struct thmq_session *s)
{
	uint32_t i;

	s->untended = false;
	thmqi_resume_tend(s);
	for (i = 0; i < s->consumer_end; i++) {
		if (s->consumers[i])
			tend(s->consumers[i]);
		if (s->consumers[i] && s->consumers[i]->shared)
			tend_dead(s->consumers[i]);
		if (s->leave_due[i])
			thmqi_consumer_leave(s, i);
	}
}

void thmqi_consumer_link_up(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < s->consumer_end; i++)
		s->leave_due[i] |= s->leavers[i] != 0;
	s->untended = true;
}
