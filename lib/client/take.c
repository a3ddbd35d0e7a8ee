/* SPDX-License-Identifier: Apache-2.0 */
/*
 * take.c - what arrives on a session's links, frame by frame, and the events that the app hears of it. Knows which frame is whose,
 * not what producers and consumers do with it.
 */
#include "internal.h"

#define PROCESS_BUDGET 256u /* frames of one link in one go */
#define TAKEN_ALONE 16u     /* one in so many looks is at all links */

/* -------------------------------------------------------------------- events */

/* Is all room taken, by events that wait and by the reports that were promised? */
bool thmqi_session_events_full(const struct thmq_session *s)
{
	return s->event_head - s->event_tail + s->reports_due > s->event_mask;
}

/* The report of a message gives up its promised room first, so that it is never dropped. */
void thmqi_session_event(struct thmq_session *s, const struct thmq_event *e)
{
	if (thmqi_unlikely((e->consumer && e->consumer->hidden) || (e->producer && e->producer->hidden)))
		return;
	if (thmqi_session_events_full(s)) {
		s->dropped++;
		return;
	}
	s->events[s->event_head++ & s->event_mask] = *e;
}

int thmqi_client_events(struct thmq_session *s, struct thmq_event *ret_events, uint32_t max)
{
	uint32_t n = 0;

	if (s->event_head == s->event_tail)
		thmqi_session_process(s);
	while (n < max && s->event_tail != s->event_head)
		ret_events[n++] = s->events[s->event_tail++ & s->event_mask];
	if (n < max && s->dropped) {
		memset(&ret_events[n], 0, sizeof(ret_events[n]));
		ret_events[n].type = THMQ_EVENT_DROPPED;
		ret_events[n++].count = s->dropped;
		s->dropped = 0;
	}
	if (n < max && s->closed_due && thmqi_session_process(s) == 0) {
		memset(&ret_events[n], 0, sizeof(ret_events[n]));
		ret_events[n].type = THMQ_EVENT_CLOSED;
		ret_events[n++].error = s->closed_due;
		s->closed_due = 0;
	}
	return (int)n;
}

/* -------------------------------------------------------------------- frames */

/* The last event of a session, told behind all others: it is never dropped. */
void thmqi_session_died(struct thmq_session *s, int error)
{
	uint32_t i;

	if (s->dead)
		return;
	s->dead = -ESHUTDOWN;
	s->closed_due = error;
	for (i = 0; i < s->shard_count; i++)
		if (s->links[i])
			thmqi_producers_doubt(s->links[i], s->links[i]->away ? s->links[i]->lost_error : error);
}

#define RECONNECT_NS 30000000000ull

/* With copies what counts is a majority, and a connection that is lost is the rule, not the end. */
static void use_copies(struct thmq_session *s, uint8_t level)
{
	s->level = level > THMQ_DURABILITY_DURABLE && level <= THMQ_DURABILITY_ALL
			   ? level
			   : THMQ_DURABILITY_DURABLE;
	if (s->level > THMQ_DURABILITY_DURABLE && !s->opts.reconnect_ns)
		s->opts.reconnect_ns = RECONNECT_NS;
}

/* Where nobody leads: once all of them were asked. */
static bool may_only_read(const struct thmq_session *s, const struct client_link *l)
{
	if (l->shard != THMQI_SHARD_META)
		return s->reads_only;
	return (s->connected ? l->tries : s->asked) >= THMQI_MAX(s->node_count, 1u);
}

bool thmqi_session_welcome(struct thmq_session *s, struct client_link *l, const struct thmqi_frame *f)
{
	uint64_t identity = f->partition | (uint64_t)f->extra << 32;
	const bool reads = f->status == -THMQ_ENOQUORUM && may_only_read(s, l);

	l->error = -THMQ_EVERSION;
	if ((f->status && !reads) || f->len != THMQI_WIRE_VERSION || f->seq == 0 || f->seq > THMQ_SHARD_COUNT_MAX + 1) {
		l->error = f->status < 0 ? f->status : -THMQ_EVERSION;
		return false;
	}
	if (l->shard == THMQI_SHARD_META) {
		if (s->connected && (identity != s->identity || f->seq != s->shard_count)) {
			l->error = -ESTALE; /* another broker, whose partitions are not ours */
			return false;
		}
		s->shard_count = (uint32_t)f->seq;
		s->identity = identity;
		use_copies(s, f->flags);
		s->reads_only = reads;
		thmqi_producers_refuse(s, reads);
	}
	/* who does not lead says nothing of what was acknowledged */
	if (!reads && l->shard == THMQI_SHARD_META)
		s->incarnation = f->arg[0];
	if (!reads)
		l->incarnation = f->arg[0];
	/* none is larger than where it lies */
	l->len_max = (uint32_t)THMQI_MIN(f->arg[1], (uint64_t)l->wire->area_bytes);
	l->len_max_volatile = f->tag_hash ? THMQI_MIN(f->tag_hash, l->len_max) : l->len_max;
	return true;
}

static void take_welcome(struct client_link *l, const struct thmqi_frame *f)
{
	struct thmq_session *s = l->session;

	if (l->up || l->dead)
		return;
	if (!thmqi_session_welcome(s, l, f)) {
		/* its broker leads no more, and this session has not heard of that */
		if (l->error != -THMQ_ENOQUORUM || !thmqi_resume_begin(l, l->error))
			l->dead = l->error;
		return;
	}
	l->up = true;
	thmqi_consumer_link_up(s);
}

#define HAS_STATUS                                                                                 \
	(1ull << THMQI_FRAME_REPLY | 1ull << THMQI_FRAME_REJECT | 1ull << THMQI_FRAME_ATTACHED |    \
	 1ull << THMQI_FRAME_DETACHED | 1ull << THMQI_FRAME_SOUGHT | 1ull << THMQI_FRAME_ACKED |     \
	 1ull << THMQI_FRAME_REVOKE | 1ull << THMQI_FRAME_TROUBLE | 1ull << THMQI_FRAME_EXPELLED |   \
	 1ull << THMQI_FRAME_LOST | 1ull << THMQI_FRAME_SETTLED | 1ull << THMQI_FRAME_WEAKER)

/* A positive status would be taken for a count, by us or by the app. */
static bool status_ok(const struct thmqi_frame *f)
{
	return f->type >= 64 || !(HAS_STATUS >> f->type & 1) || f->status <= 0;
}

/* It may speak of a producer that had the stream before. */
static void take_durable(struct client_link *l, uint32_t stream, const struct thmqi_frame *f)
{
	const struct thmq_producer *p = l->session->producers[stream];

	if (p && f->generation == thmqi_producer_life(p->id, p->epoch) && f->seq <= p->last_seq)
		l->progress[stream][0] = THMQI_MAX(l->progress[stream][0], f->seq);
}

static void tell_check(struct thmq_session *s, const struct thmqi_frame *f)
{
	const struct thmq_event e = {.type = THMQ_EVENT_TXN_CHECK, .sequence = f->seq, .count = f->arg[0]};

	thmqi_session_event(s, &e);
}

static void take(struct client_link *l, const struct thmqi_frame *f)
{
	struct thmq_session *s = l->session;
	struct thmq_producer *p;
	uint32_t stream = f->stream % THMQI_STREAMS;

	if (thmqi_unlikely(!status_ok(f))) { /* whatever that is, it does not speak as we do */
		thmqi_session_died(s, -THMQ_EVERSION);
		return;
	}
	switch (f->type) {
	case THMQI_FRAME_PROGRESS:
		if (thmqi_unlikely(!f->flags))
			take_durable(l, stream, f);
		else if (f->flags <= THMQ_DURABILITY_ALL)
			l->progress[stream][f->flags] = f->seq;
		break;
	case THMQI_FRAME_WELCOME:
		take_welcome(l, f);
		break;
	case THMQI_FRAME_REPLY:
		if (!f->seq && l->shard == THMQI_SHARD_META)
			thmqi_nodes_learn(s, l->wire->reply);
		else if (f->seq == l->request_id) {
			l->replied = true;
			l->reply_status = f->status;
			if (thmqi_unlikely(s->rejoin_id | s->growth_id) && l->shard == THMQI_SHARD_META)
				thmqi_resume_replied(s, f->seq, f->status);
		}
		break;
	case THMQI_FRAME_REPORT:
	case THMQI_FRAME_REJECT:
		p = s->producers[stream];
		if (f->type == THMQI_FRAME_REJECT)
			thmqi_resume_refused(l);
		if (p && f->type == THMQI_FRAME_REPORT)
			thmqi_producer_settled(p, l, f);
		else if (p)
			thmqi_producer_rejected(p, l, f);
		break;
	case THMQI_FRAME_WEAKER:
		if (s->producers[stream])
			thmqi_producer_weaker(s->producers[stream], f);
		break;
	case THMQI_FRAME_GROWN:
		if (l->shard == THMQI_SHARD_META)
			thmqi_growth_heard(s, f->partition, f->len);
		break;
	case THMQI_FRAME_TXN_CHECK:
		if (l->shard == THMQI_SHARD_META)
			tell_check(s, f);
		break;
	case THMQI_FRAME_LOST:
		if (!(f->extra & THMQI_OF_PRODUCER) && s->consumers[stream])
			thmqi_consumer_frame(s->consumers[stream], l, f);
		else if ((f->extra & THMQI_OF_PRODUCER) && s->producers[stream])
			thmqi_producer_lost(s->producers[stream], f);
		break;
	case THMQI_FRAME_LIMITED:
		if (!(f->extra & THMQI_OF_PRODUCER) && s->consumers[stream])
			thmqi_consumer_frame(s->consumers[stream], l, f);
		else if ((f->extra & THMQI_OF_PRODUCER) && s->producers[stream])
			thmqi_producer_limited(s->producers[stream], f);
		break;
	case THMQI_FRAME_TROUBLE:
		if (f->extra & THMQI_OF_PRODUCER)
			thmqi_producer_trouble(s, f);
		else if (s->consumers[stream])
			thmqi_consumer_frame(s->consumers[stream], l, f);
		break;
	default:
		if (s->consumers[stream])
			thmqi_consumer_frame(s->consumers[stream], l, f);
	}
}

/* The end comes behind the last frame: what was written before it still counts. */
static void take_closed(struct client_link *l)
{
	int error = atomic_load_explicit(&l->wire->broker_closed, memory_order_acquire);

	if (thmqi_frame_peek(&l->wire->down, 0))
		return;
	error = error < 0 ? error : -ESHUTDOWN;
	if (thmqi_resume_begin(l, error))
		return;
	l->dead = error;
	/* where it is not connected yet another broker is asked, though this one said welcome before it went */
	if (l->session->connected)
		thmqi_session_died(l->session, l->dead);
}

/* Header, table and first body come from another core: on their way at once. */
static void prefetch_run(const struct thmqi_frame *f)
{
	const char *run = (const char *)(uintptr_t)f->data;

	if (f->type == THMQI_FRAME_DELIVER_ONE) { /* the frame has what the header says */
		__builtin_prefetch(run + sizeof(struct thmq_run_header) + sizeof(struct thmq_record));
		return;
	}
	__builtin_prefetch(run);
	__builtin_prefetch(run + THMQI_CACHELINE);
	__builtin_prefetch(run + 2 * THMQI_CACHELINE);
}

/* The same where another process writes the ring: no frame is looked at but as a copy. */
static uint32_t take_far(struct client_link *l)
{
	struct thmqi_link *wire = l->wire;
	const struct thmqi_frame *slot;
	struct thmqi_frame f;
	uint32_t done = 0;
	int rc;

	while (done < PROCESS_BUDGET && !l->dead && (slot = thmqi_frame_peek(&wire->down, 0))) {
		rc = wire->far->take(wire, slot, &f);
		if (thmqi_unlikely(rc)) {
			l->dead = rc;
			thmqi_session_died(l->session, rc);
			break;
		}
		take(l, &f);
		thmqi_frame_advance(&wire->down, 1);
		done++;
	}
	if (done)
		thmqi_frame_publish(&wire->down);
	return done;
}

static uint32_t process_far(struct client_link *l)
{
	struct thmqi_link *wire = l->wire;
	uint32_t done = take_far(l);

	/* that may have read the byte which was to wake us: what it tells of lies in the ring since the first look */
	if (!done && wire->far->idle(wire))
		done = take_far(l);
	if (thmqi_unlikely(atomic_load_explicit(&wire->broker_closed, memory_order_relaxed)) && !l->dead)
		take_closed(l);
	return done;
}

static uint32_t process_link(struct client_link *l)
{
	struct thmqi_frame_ring *down;
	const struct thmqi_frame *f;
	uint32_t done = 0;

	if (thmqi_unlikely(l->astray)) {
		thmqi_resume_step(l);
		if (l->away)
			return 0;
	}
	if (thmqi_unlikely(l->wire->far != NULL))
		return process_far(l);
	down = &l->wire->down;
	while (done < PROCESS_BUDGET && (f = thmqi_frame_peek(down, 0))) {
		if (f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE)
			prefetch_run(f);
		take(l, f);
		thmqi_frame_advance(down, 1);
		done++;
	}
	if (done)
		thmqi_frame_publish(down);
	if (thmqi_unlikely(atomic_load_explicit(&l->wire->broker_closed, memory_order_relaxed)) && !l->dead)
		take_closed(l);
	return done;
}

bool thmqi_session_take_next(struct client_link *l)
{
	struct thmq_session *s = l->session;
	struct thmqi_link *wire = l->wire;
	const struct thmqi_frame *slot;
	struct thmqi_frame f;
	uint32_t stream;

	if (l->astray || l->dead || !wire->far || !(slot = thmqi_frame_peek(&wire->down, 0)) || !(++l->taken_alone % TAKEN_ALONE))
		return false;
	if (thmqi_unlikely(wire->far->take(wire, slot, &f) != 0))
		return false; /* so it does again, and is told */
	atomic_store_explicit(wire->pulse, atomic_load_explicit(wire->pulse, memory_order_relaxed) + 1, memory_order_relaxed);
	stream = f.stream % THMQI_STREAMS;
	if (thmqi_likely(f.type == THMQI_FRAME_DELIVER_ONE && s->consumers[stream]))
		thmqi_consumer_frame(s->consumers[stream], l, &f);
	else
		take(l, &f);
	thmqi_frame_advance(&wire->down, 1);
	l->unreleased_idle = 0;
	s->news++;
	return true;
}

uint32_t thmqi_session_process(struct thmq_session *s)
{
	uint32_t i, taken, done = 0;

	for (i = 0; i < s->shard_count; i++) {
		struct client_link *l = s->links[i];

		if (!l)
			continue;
		atomic_store_explicit(l->wire->pulse,
				      atomic_load_explicit(l->wire->pulse, memory_order_relaxed) + 1,
				      memory_order_relaxed);
		taken = thmqi_likely(l->wire->far && !l->astray) && thmqi_link_is_quiet(l->wire) ? 0 : process_link(l);
		done += taken;
		if (thmqi_unlikely(l->unreleased != NULL))
			thmqi_releases_tend(l, taken);
	}
	s->news += done;
	if (thmqi_unlikely(s->requests_out))
		thmqi_asking_tend(s, done != 0);
	if (thmqi_unlikely(s->untended))
		thmqi_consumers_tend(s);
	return done;
}
