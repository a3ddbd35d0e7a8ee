/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - a session: its links, the frames that arrive on them, waiting, events. Knows which frame is whose, not what
 * producers and consumers do with it. Requests: calls.c.
 */
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "internal.h"
#include "txn.h"

#define DOWN_FRAMES 1024u
#define PROCESS_BUDGET 256u /* frames of one link in one go */
#define SPIN_NS 20000u /* before a blocking call sleeps */
#define SPIN_POLLED_NS 2000000u /* the same where the core never sleeps either */
#define NAP_NS 100000000u /* a sleep that nothing ends: look around */
#define CLOCK_ROUNDS 64u /* rounds of waiting between two looks at the clock */

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
	if (thmqi_unlikely(s->asking != NULL))
		thmqi_asking_tend(s);
	if (thmqi_unlikely(s->untended))
		thmqi_consumers_tend(s);
	return done;
}

/* ------------------------------------------------------------------ waiting */

uint64_t thmqi_session_now(struct thmq_session *s)
{
	const struct thmqi_clock *clock = thmqi_env_core(s->env, 0)->clock;

	return clock->now_ns(clock->ctx);
}

int64_t thmqi_session_wall(struct thmq_session *s)
{
	const struct thmqi_clock *clock = thmqi_env_core(s->env, 0)->clock;

	return (int64_t)clock->wall_ns(clock->ctx);
}

uint64_t thmqi_session_deadline(struct thmq_session *s, uint64_t timeout_ns)
{
	uint64_t now = thmqi_session_now(s);

	return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

/* Nobody drives a core that has to answer, and the caller cannot. */
static bool would_wait_for_ever(struct thmq_session *s, const struct thmq_core *mine)
{
	uint32_t i;

	if (mine && mine->in_poll)
		return true;
	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && !s->links[i]->dead && !s->links[i]->wire->far && !thmqi_core_is_driven(s->links[i]->wire->core))
			return true;
	return false;
}

bool thmqi_session_stuck(struct thmq_session *s)
{
	return would_wait_for_ever(s, thmqi_core_mine(s->env));
}

/* Is the broker another process, whose frames come without a core of ours? */
static bool is_far(const struct thmq_session *s)
{
	return s->links[0] && s->links[0]->wire->far;
}

/* Does the calling thread drive all that this session waits for? */
static bool all_mine(const struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && (s->links[i]->wire->far || !thmqi_core_is_mine(s->links[i]->wire->core)))
			return false;
	return true;
}

/* At most so long at a time: something may be due by then. */
static uint64_t nap_ns(const struct thmq_session *s, uint64_t ns)
{
	ns = THMQI_MIN(ns, (uint64_t)NAP_NS);
	if (thmqi_unlikely(s->asking != NULL))
		ns = THMQI_MIN(ns, thmqi_asking_nap_ns(s));
	return thmqi_likely(!s->away_count) ? ns : THMQI_MIN(ns, thmqi_resume_nap_ns(s));
}

/* Sleep until this session's waiter, or the thread's own core, has something. */
static void sleep_both(struct thmq_session *s, struct thmq_core *mine, uint64_t ns)
{
	struct pollfd p[2] = {{.fd = s->waiter->fd, .events = POLLIN}};
	struct timespec t = {.tv_nsec = (long)nap_ns(s, ns)};

	p[1].fd = thmqi_core_fd(mine);
	p[1].events = POLLIN;
	thmqi_releases_flush(s);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0 && thmqi_core_arm(mine) == 0)
		ppoll(p, 2, &t, NULL);
	thmqi_waiter_disarm(s->waiter);
}

static void sleep_alone(struct thmq_session *s, uint64_t ns)
{
	thmqi_releases_flush(s);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0)
		thmqi_waiter_sleep(s->waiter, nap_ns(s, ns));
	thmqi_waiter_disarm(s->waiter);
}

static uint64_t spin_ns(const struct thmq_session *s)
{
	const struct client_link *l = s->links[0];
	const _Atomic uint32_t *may_sleep;

	if (!l)
		return SPIN_NS;
	may_sleep = is_far(s) ? &l->wire->far->bell->may_sleep : &l->wire->core->may_sleep;
	return atomic_load_explicit(may_sleep, memory_order_relaxed) ? SPIN_NS : SPIN_POLLED_NS;
}

int thmqi_session_block(struct thmq_session *s, bool (*done)(void *arg), void *arg, uint64_t deadline)
{
	struct thmq_core *mine = thmqi_core_mine(s->env);
	uint64_t now = 0, spin_end = 0;
	uint32_t round;
	bool look;

	for (round = 0;; round++) {
		uint32_t taken = thmqi_session_process(s);

		if (done(arg))
			return 0;
		if (s->dead && taken) /* some links may still have what was said before the end */
			continue;
		if (s->dead)
			return s->dead;
		if (would_wait_for_ever(s, mine))
			return -EDEADLK;
		/* the clock is not read in every round, and is read though there is always something to do */
		look = round % CLOCK_ROUNDS == CLOCK_ROUNDS - 1;
		if (mine) {
			bool busy = thmqi_core_poll(mine, 0) > 0 || taken;

			if (busy && !look)
				continue;
			now = thmqi_session_now(s);
			if (now >= deadline)
				return -ETIMEDOUT;
			if (busy) {
				spin_end = 0;
				continue;
			}
			if (is_far(s) && (!spin_end || now < spin_end)) {
				spin_end = spin_end ? spin_end : now + spin_ns(s);
				thmqi_cpu_relax();
				continue;
			}
			spin_end = 0;
			thmqi_releases_flush(s);
			if (mine->world->idle || all_mine(s))
				thmqi_core_poll(mine, nap_ns(s, deadline - now));
			else
				sleep_both(s, mine, deadline - now);
			continue;
		}
		if (taken)
			spin_end = 0;
		if (taken && !look)
			continue;
		if (look || spin_end == 0) {
			now = thmqi_session_now(s);
			if (now >= deadline)
				return -ETIMEDOUT;
			if (!spin_end)
				spin_end = now + spin_ns(s);
		}
		if (now < spin_end) {
			thmqi_cpu_relax();
			continue;
		}
		sleep_alone(s, deadline - now);
		spin_end = 0;
	}
}

static bool has_news(void *arg)
{
	struct thmq_session *s = arg;
	uint32_t i;

	/* events that the app leaves lying are news once, or its loop would never sleep */
	if ((s->event_head != s->event_tail && s->event_head != s->event_told) || s->closed_due)
		return true;
	for (i = 0; i < THMQI_STREAMS; i++)
		if (s->consumers[i] && thmqi_consumer_has_news(s->consumers[i]))
			return true;
	return false;
}

struct wait_arg {
	struct thmq_session *session;
	uint64_t news;
};

static bool has_news_since(void *arg)
{
	struct wait_arg *w = arg;

	return w->session->news != w->news || has_news(w->session);
}

int thmqi_client_session_wait(struct thmq_session *s, uint64_t timeout_ns)
{
	struct wait_arg w = {.session = s, .news = s->news};
	struct thmq_core *mine = thmqi_core_mine(s->env);
	int rc;

	/* whatever lies there untaken, the core goes on */
	if (mine && !mine->in_poll)
		thmqi_core_poll(mine, 0);
	rc = thmqi_session_block(s, has_news_since, &w, thmqi_session_deadline(s, timeout_ns));
	s->event_told = s->event_head;
	return rc == 0 ? 1 : rc == -ETIMEDOUT ? 0 : rc;
}

int thmqi_client_session_fd(struct thmq_session *s)
{
	return s->waiter->fd;
}

int thmqi_client_session_arm(struct thmq_session *s)
{
	if (s->dead && s->event_head == s->event_tail && !s->closed_due)
		return s->dead;
	thmqi_releases_flush(s);
	if (s->asking)
		thmqi_asking_arm(s);
	thmqi_waiter_disarm(s->waiter);
	thmqi_waiter_arm(s->waiter);
	if (thmqi_session_process(s) == 0 && !has_news(s))
		return 0;
	thmqi_waiter_disarm(s->waiter);
	s->event_told = s->event_head;
	return 1;
}

/* -------------------------------------------------------------------- links */

/* How a link of @shard is made: whenever, and always the same. */
int thmqi_session_prepare(struct thmq_session *s, uint32_t shard, struct thmqi_link_opts *ret_opts)
{
	if (shard >= s->shard_count)
		return -THMQ_EVERSION; /* the broker names a shard that it does not have */
	/* a whole window may be sent before the core looks; what comes down is soon taken, and a short ring stays cached */
	*ret_opts = (struct thmqi_link_opts){.area_bytes = shard ? s->opts.window_bytes : THMQI_BLOCK,
					     .up_frames = shard ? s->opts.window_count : 64,
					     .down_frames = DOWN_FRAMES,
					     .silence_ns = s->opts.peer_timeout_ns,
					     .tls = s->tls};
	/* all of them lead to one broker, whatever else is opened, or opened again, at the session's URL meanwhile */
	if (shard && s->links[THMQI_SHARD_META])
		ret_opts->beside = s->links[THMQI_SHARD_META]->wire;
	return 0;
}

int thmqi_session_link(struct thmq_session *s, uint32_t shard, struct client_link **ret_link)
{
	struct thmqi_link_opts opts;
	struct client_link *l;
	int rc = thmqi_session_prepare(s, shard, &opts);

	if (rc)
		return rc;
	if (s->links[shard]) {
		*ret_link = s->links[shard];
		return 0;
	}
	if (shard && s->links[THMQI_SHARD_META] && s->links[THMQI_SHARD_META]->away)
		return -EAGAIN; /* that one goes first */
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->session = s;
	l->shard = shard;
	l->replied = true;
	l->slot_mask = opts.up_frames - 1;
	l->slots = calloc(opts.up_frames, sizeof(*l->slots));
	l->kept = shard && s->opts.reconnect_ns ? calloc(opts.up_frames, sizeof(*l->kept)) : NULL;
	rc = l->slots && (l->kept || !shard || !s->opts.reconnect_ns) ? 0 : -ENOMEM;
	if (!rc)
		rc = thmqi_transport_connect(s->transport, s->url, shard, &opts, s->waiter, &l->wire);
	if (rc) {
		free(l->slots);
		free(l->kept);
		free(l);
		return rc;
	}
	l->wire->client = l;
	s->links[shard] = l;
	*ret_link = l;
	return 0;
}

static bool is_up(void *arg)
{
	struct client_link *l = arg;

	return l->up || l->dead;
}

int thmqi_session_wait_up(struct thmq_session *s, struct client_link *l, uint64_t deadline)
{
	int rc = l->up ? 0 : thmqi_session_block(s, is_up, l, deadline);

	return rc ? rc : l->dead;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

#define LOOK_AGAIN_NS 10000000u

int thmqi_session_rest(struct thmq_session *s, uint64_t ns, uint64_t deadline)
{
	uint64_t until = THMQI_MIN(deadline, thmqi_session_deadline(s, ns));
	int rc = thmqi_session_block(s, never, NULL, until);

	return rc != -ETIMEDOUT ? rc : until == deadline ? rc : 0;
}

/* The broker is gone, and this session has not heard of that: it will, and find another one, or that one again. */
static bool may_come(const struct thmq_session *s, int error)
{
	return s->opts.reconnect_ns && s->connected && !s->dead && (error == -ECONNREFUSED || error == -ECONNRESET || error == -ESHUTDOWN);
}

int thmqi_session_link_wait(struct thmq_session *s, uint32_t shard, uint64_t deadline, struct client_link **ret_link)
{
	int rc, waited = 0;

	while ((rc = thmqi_session_link(s, shard, ret_link)) != 0) {
		if (rc == -EAGAIN)
			waited = thmqi_session_wait_up(s, s->links[THMQI_SHARD_META], deadline);
		else if (may_come(s, rc))
			waited = thmqi_session_rest(s, LOOK_AGAIN_NS, deadline);
		else
			return rc;
		if (waited)
			return waited == -ETIMEDOUT && rc != -EAGAIN ? rc : waited;
	}
	return 0;
}

static bool has_room(void *arg)
{
	struct client_link *l = arg;

	return l->dead || (l->up && thmqi_frame_claim(&l->wire->ctl, 0));
}

int thmqi_session_ctl_claim(struct thmq_session *s, struct client_link *l, uint64_t deadline,
			    struct thmqi_frame **ret_frame)
{
	int rc = has_room(l) ? 0 : thmqi_session_block(s, has_room, l, deadline);

	if (rc || l->dead)
		return rc ? rc : l->dead;
	*ret_frame = thmqi_frame_claim(&l->wire->ctl, 0);
	return 0;
}

/* -------------------------------------------------------------- open, close */

static void link_free(struct client_link *l)
{
	thmqi_resume_fini(l);
	free(l->slots);
	free(l);
}

static void session_free(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; s->links && i <= THMQ_SHARD_COUNT_MAX; i++)
		if (s->links[i])
			link_free(s->links[i]);
	free(s->links);
	free(s->events);
	free(s->url);
	free(s->nodes);
	s->nodes = NULL;
	s->node_count = 0;
	thmqi_transport_unsecure(s->tls);
	if (s->waiter)
		thmqi_waiter_unref(s->waiter);
	s->links = NULL;
	s->events = NULL;
	s->url = NULL;
	s->tls = NULL;
	s->waiter = NULL;
	s->shard_count = 0;
	thmqi_handle_bury(s->graveyard, &s->handle);
}

static uint64_t seed_of(const struct thmq_session *s)
{
	uint64_t seed = thmqi_env_world(s->env)->seed;

	if (seed) /* simulated, in one thread: sessions must differ all the same */
		return thmqi_prng_next(&thmqi_env_core(s->env, 0)->prng);
	thmqi_random_bytes(&seed, sizeof(seed));
	return seed;
}

static int connect_once(struct thmq_session *s, uint64_t deadline)
{
	struct client_link *meta;
	int rc = thmqi_session_link(s, THMQI_SHARD_META, &meta);

	if (rc)
		return rc;
	rc = thmqi_session_wait_up(s, meta, deadline);
	if (rc == -EDEADLK)
		thmqi_fail(rc, "%s: no thread drives the broker's core, or this is called from within one", s->url);
	else if (rc)
		thmqi_fail(rc, "%s: %s", s->url, meta->wire->why[0] ? meta->wire->why :
			   rc == -ETIMEDOUT ? "no answer within the time; is the broker's core driven, and can it be reached?" : thmq_strerror(rc));
	return rc;
}

/* The one of them that leads; while none does, until there is one. */
static int find_broker(struct thmq_session *s, uint64_t deadline)
{
	uint64_t now;
	int rc;

	for (;;) {
		rc = connect_once(s, deadline);
		now = thmqi_session_now(s);
		if (!rc || rc == -EDEADLK || !thmqi_nodes_may_go(s, rc) || now >= deadline)
			return rc;
		s->asked++;
		if (s->links[THMQI_SHARD_META])
			link_free(s->links[THMQI_SHARD_META]);
		s->links[THMQI_SHARD_META] = NULL;
		if (!thmqi_nodes_go(s, rc) &&
		    thmqi_session_block(s, never, NULL, THMQI_MIN(deadline, now + LOOK_AGAIN_NS)) != -ETIMEDOUT)
			return rc;
	}
}

int thmqi_client_connect(struct thmq_env *env, struct thmqi_transport *transport, struct thmqi_graveyard *graveyard,
			 const char *url, const struct thmq_session_opts *opts, struct thmq_session **ret_session)
{
	struct thmq_session *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		return thmqi_fail(-ENOMEM, "no memory for a session");
	s->handle.kind = THMQI_HANDLE_SESSION;
	s->env = env;
	s->transport = transport;
	s->graveyard = graveyard;
	s->opts = *opts;
	s->opts.window_bytes = thmqi_pow2_up(opts->window_bytes ? opts->window_bytes : 4u << 20);
	s->opts.window_count = (uint32_t)thmqi_pow2_up(opts->window_count ? opts->window_count : 32768);
	s->opts.event_count = (uint32_t)thmqi_pow2_up(opts->event_count ? opts->event_count : 4096);
	s->opts.timeout_ns = opts->timeout_ns ? opts->timeout_ns : 30000000000ull;
	s->event_mask = s->opts.event_count - 1;
	thmqi_prng_seed(&s->prng, seed_of(s));
	s->events = calloc(s->opts.event_count, sizeof(*s->events));
	s->links = calloc(THMQ_SHARD_COUNT_MAX + 1, sizeof(*s->links));
	s->shard_count = 1;
	if (!s->events || !s->links)
		thmqi_fail(rc, "no memory for a session");
	else if ((rc = thmqi_nodes_init(s, url)) != 0)
		;
	else if ((rc = thmqi_waiter_open(&s->waiter)) != 0)
		thmqi_fail(rc, "no file descriptor for a session: %s", thmq_strerror(rc));
	else
		rc = thmqi_transport_secure(transport, s->url, opts->tls, &s->tls);
	s->opts.tls = NULL; /* the caller's, during this call only */
	if (!rc)
		rc = find_broker(s, thmqi_session_deadline(s, s->opts.timeout_ns));
	if (rc) {
		session_free(s);
		return rc;
	}
	s->connected = true;
	*ret_session = s;
	return 0;
}

int thmqi_client_session_close(struct thmq_session *s, uint64_t timeout_ns)
{
	uint64_t deadline = thmqi_session_deadline(s, timeout_ns), now;
	int rc = 0, one;
	uint32_t i;

	for (i = 0; i < THMQI_STREAMS && !s->dead; i++)
		if ((s->producers[i] || s->consumers[i]) && thmqi_session_stuck(s))
			return -EDEADLK;
	thmqi_answering_close(s, deadline);
	thmqi_asking_close(s, deadline);
	thmqi_session_txns_close(s, deadline);
	for (i = 0; i < THMQI_STREAMS; i++) {
		if (!s->producers[i] || s->producers[i]->is_consumers) /* its consumer closes it */
			continue;
		now = thmqi_session_now(s);
		one = thmqi_client_producer_close(s->producers[i], deadline > now ? deadline - now : 0);
		if (one == -EDEADLK && !s->dead)
			return one;
		rc = rc || s->dead ? rc : one;
	}
	for (i = 0; i < THMQI_STREAMS; i++) {
		if (!s->consumers[i])
			continue;
		now = thmqi_session_now(s);
		one = thmqi_client_consumer_close(s->consumers[i], deadline > now ? deadline - now : 0);
		if (one == -EDEADLK && !s->dead)
			return one;
		rc = rc || s->dead ? rc : one;
	}
	session_free(s);
	return rc;
}

struct thmq_env *thmqi_client_env(const struct thmq_session *session)
{
	return session->env;
}

struct thmq_env *thmqi_client_producer_env(const struct thmq_producer *producer)
{
	return producer->session->env;
}

struct thmq_env *thmqi_client_consumer_env(const struct thmq_consumer *consumer)
{
	return consumer->session->env;
}
