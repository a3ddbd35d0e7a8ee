/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume.c - a connection that is lost is made again, and its session goes on where it was. A link keeps what was committed and is
 * not settled: all of that is sent again, by the same numbers, and the broker stores it once. What the app holds of the connection
 * that is lost, claims and views, keeps that one's memory until it is given back. Each link is on its own; that of the meta shard
 * goes first, so that all of them lead to one broker. Not on any message's path.
 */
#include "wire/run.h"

#include "internal.h"
#include "series.h"

#define BACKOFF_NS 10000000ull /* before the second try, twice as long before each further one … */
#define BACKOFF_MAX_NS                                                                             \
	1000000000ull /* … up to this; half of each is by chance, so that not all come back at once */

#define BACKOFF_NODES_NS 50000000ull /* where there are copies */

/* ------------------------------------------------------------------ formers */

static struct former **find_life(struct client_link *l, uint32_t life)
{
	struct former **at = &l->formers;

	while (*at && (*at)->life != life)
		at = &(*at)->next;
	return at;
}

static void drop_if_free(struct former **at)
{
	struct former *f = *at;

	if (f->views || f->claims)
		return;
	*at = f->next;
	thmqi_link_close(f->wire);
	free(f);
}

void thmqi_resume_claim_end(struct client_link *l, uint32_t life)
{
	struct former **at = find_life(l, life);

	if (*at && (*at)->claims) {
		(*at)->claims--;
		drop_if_free(at);
	}
}

void thmqi_resume_view_end(struct client_link *l, const struct thmqi_link *wire)
{
	struct former **at = &l->formers;

	while (*at && (*at)->wire != wire)
		at = &(*at)->next;
	if (*at && (*at)->views) {
		(*at)->views--;
		drop_if_free(at);
	}
}

uint8_t *thmqi_resume_claim(struct client_link *l, struct slot *slot, uint8_t *first, uint32_t len)
{
	const struct former *f = *find_life(l, slot->life);
	uint8_t *to;

	if (!f)
		return first;
	to = l->wire->area + (first - f->wire->area);
	memcpy(to, first, len);
	thmqi_resume_claim_end(l, slot->life);
	slot->life = l->life;
	return to;
}

static uint32_t count_views(const struct thmq_session *s, const struct thmqi_link *wire)
{
	uint32_t i, k, n = 0;

	for (i = 0; i < THMQI_STREAMS; i++) {
		const struct thmq_consumer *c = s->consumers[i];

		for (k = 0; c && k < c->pool_used; k++)
			n += c->pool[k].run && c->pool[k].wire == wire;
	}
	return n;
}

static uint32_t count_claims(const struct client_link *l, uint32_t life)
{
	uint32_t i, n = 0;

	for (i = l->slot_tail; i != l->slot_head; i++) {
		const struct slot *slot = &l->slots[i & l->slot_mask];

		n += slot->state == SLOT_CLAIMED && slot->life == life;
	}
	return n;
}

/* -------------------------------------------------------------------- lost */

static void forget_request(struct thmq_session *s, struct client_link *l)
{
	if (!l->replied) {
		l->replied = true;
		l->reply_status = -ECONNRESET;
	}
	l->request_id = 0;
	if (l->shard == THMQI_SHARD_META)
		s->growth_id = 0;
	if (l->shard == THMQI_SHARD_META && s->rejoin_id) {
		s->rejoin_id = 0;
		if (s->consumers[s->rejoin_stream])
			s->consumers[s->rejoin_stream]->rejoin = s->untended = true;
	}
}

/* Runs that were on their way back: there is nobody to give them to. */
static void forget_releases(struct client_link *l)
{
	struct delivered *d;

	while ((d = l->unreleased)) {
		l->unreleased = d->next;
		d->next = d->consumer->free;
		d->consumer->free = d;
	}
	l->unreleased_count = 0;
}

static void consumers_lost(struct thmq_session *s, struct client_link *l)
{
	uint32_t i, k;

	for (i = 0; i < THMQI_STREAMS; i++) {
		struct thmq_consumer *c = s->consumers[i];

		if (!c)
			continue;
		thmqi_runs_lose(c, l);
		for (k = c->reading_first; k < c->reading_count; k++)
			if (thmqi_reading(c, k)->link == l)
				thmqi_reading_lost(thmqi_reading(c, k));
		/* members of a shared group are the shards' to know; but whether it is still there meta has to say */
		if (l->shard == THMQI_SHARD_META && (c->member || (c->shared && c->group_id)) && !c->closing && !c->error)
			c->rejoin = s->untended = true;
	}
	forget_releases(l);
}

static void tell(struct thmq_session *s, uint32_t type, int error)
{
	const struct thmq_event e = {.type = type, .error = error};

	thmqi_session_event(s, &e);
}

bool thmqi_resume_begin(struct client_link *l, int error)
{
	struct thmq_session *s = l->session;

	if (!s->opts.reconnect_ns || !s->connected || s->dead)
		return false;
	if (!l->again && !s->away_count++) /* else it had not come back yet */
		tell(s, THMQ_EVENT_DISCONNECTED, error);
	l->away = l->astray = true;
	l->up = false;
	l->error = l->lost_error = error;
	l->tries = 0;
	l->retry_ns = l->lost_ns = thmqi_session_now(s);
	free(l->again);
	l->again = NULL;
	forget_request(s, l);
	consumers_lost(s, l);
	return true;
}

/* -------------------------------------------------------------------- again */

struct order {
	uint64_t seq;
	uint32_t stream, slot;
};

static int by_sequence(const void *a, const void *b)
{
	const struct order *x = a, *y = b;

	if (x->stream != y->stream)
		return x->stream < y->stream ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Which slots are to be sent again: those that were committed and are not settled, each producer's in its own order. */
static int list_again(struct client_link *l)
{
	uint32_t room = l->slot_head - l->slot_tail, i, n = 0;
	struct order *list = calloc(room + 1, sizeof(*list));

	l->again = calloc(room + 1, sizeof(*l->again));
	if (!list || !l->again) {
		free(list);
		free(l->again);
		l->again = NULL;
		return -ENOMEM;
	}
	for (i = l->slot_tail; i != l->slot_head; i++) {
		struct slot *slot = &l->slots[i & l->slot_mask];

		if (slot->state != SLOT_COMMITTED || thmqi_slot_is_settled(l, slot))
			continue;
		if (!l->session->producers
			     [slot->stream]) /* it was closed, and does not wait any more */
			slot->state = SLOT_FREE;
		else
			list[n++] = (struct order){
				.seq = slot->seq, .stream = slot->stream, .slot = i & l->slot_mask};
	}
	if (n)
		qsort(list, n, sizeof(*list), by_sequence);
	for (i = 0; i < n; i++)
		l->again[i] = list[i].slot;
	l->again_count = n;
	l->again_at = 0;
	free(list);
	return 0;
}

static void bytes_over(const struct client_link *l, const struct thmqi_link *from,
		       const struct thmqi_link *to)
{
	uint32_t i;

	for (i = 0; i < l->again_count; i++) {
		const struct kept *k = &l->kept[l->again[i]];

		memcpy(to->area + k->at, from->area + k->at, k->len);
	}
}

static bool put_again(struct client_link *l, uint32_t index)
{
	const struct slot *slot = &l->slots[index];
	const struct kept *k = &l->kept[index];
	const struct thmq_producer *p = l->session->producers[slot->stream];
	struct thmqi_frame *f;

	if (slot->state != SLOT_COMMITTED || !p)
		return true; /* its producer was closed meanwhile */
	f = thmqi_frame_claim(&l->wire->up, 0);
	if (!f)
		return false;
	thmqi_series_end(l);
	f->type = THMQI_FRAME_PRODUCE;
	f->flags = slot->level;
	f->key_len = k->key_len;
	f->stream = slot->stream;
	f->partition = k->partition;
	f->len = k->len;
	f->extra = k->extra;
	f->seq = slot->seq;
	f->data = (uint64_t)(uintptr_t)(l->wire->area + k->at);
	f->arg[0] = (uint64_t)k->time_ns;
	f->arg[1] = p->id;
	f->tag_hash = k->tag_hash;
	f->generation = p->epoch;
	thmqi_frame_commit(&l->wire->up);
	return true;
}

static void is_back(struct client_link *l)
{
	struct thmq_session *s = l->session;

	free(l->again);
	l->again = NULL;
	l->astray = false;
	l->up = true;
	thmqi_consumer_link_up(s);
	if (l->shard == THMQI_SHARD_META)
		thmqi_growth_look(s); /* what was said meanwhile was not heard */
	if (!--s->away_count)
		tell(s, THMQ_EVENT_RECONNECTED, s->reads_only ? -THMQ_ENOQUORUM : 0);
}

/* New messages of its producers come behind these. */
static void send_again(struct client_link *l)
{
	bool any = false;

	while (l->again_at < l->again_count && put_again(l, l->again[l->again_at])) {
		l->again_at++;
		any = true;
	}
	if (any)
		thmqi_link_kick_broker(l->wire);
	if (l->again_at == l->again_count)
		is_back(l);
}

/* --------------------------------------------------------------------- back */

static void try_later(struct client_link *l, int error)
{
	struct thmq_session *s = l->session;
	uint64_t wait = BACKOFF_NS << THMQI_MIN(l->tries, 16u);

	if (l->next)
		thmqi_link_close(l->next);
	l->next = NULL;
	if (error != -EINPROGRESS) { /* else nobody was asked but for its name */
		l->tries++;
		l->error = error;
	}
	wait = THMQI_MIN(wait, BACKOFF_MAX_NS);
	if (s->node_count) /* one of them will lead soon */
		wait = THMQI_MIN(wait, BACKOFF_NODES_NS);
	l->retry_ns = thmqi_session_now(s) + wait / 2 + thmqi_prng_below(&s->prng, wait / 2);
	if (l->shard == THMQI_SHARD_META && s->node_count && thmqi_nodes_go(s, error))
		l->retry_ns = 0;
	thmqi_alarm(l->wire->core, s->waiter, l->retry_ns);
}

/* The wire before: kept as long as the app holds something of it. */
static int retire(struct client_link *l, struct thmqi_link *wire)
{
	struct former *f;
	uint32_t views = count_views(l->session, wire), claims = count_claims(l, l->life);

	if (!views && !claims) {
		thmqi_link_close(wire);
		return 0;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	*f = (struct former){.next = l->formers,
			     .wire = wire,
			     .life = l->life,
			     .views = views,
			     .claims = claims};
	l->formers = f;
	return 0;
}

/* Other links may not have noticed yet that their broker is gone. */
static void all_lost(struct thmq_session *s, int error)
{
	uint32_t i;

	for (i = 1; i < s->shard_count; i++)
		if (s->links[i] && !s->links[i]->away)
			thmqi_resume_begin(s->links[i], error);
}

static void welcome(struct client_link *l, const struct thmqi_frame *f)
{
	struct thmqi_link *before = l->wire, *now = l->next;
	struct thmq_session *s = l->session;
	uint64_t incarnation = s->incarnation, led_to = l->incarnation;
	const bool read_only = s->reads_only;
	uint32_t i;

	if (f->status < 0 && f->status != -THMQ_ENOQUORUM) {
		try_later(l, f->status);
		return;
	}
	if (now->area_bytes != before->area_bytes) {
		thmqi_session_died(s, -THMQ_EVERSION);
		return;
	}
	if (!thmqi_session_welcome(s, l, f)) {
		if (l->error == -THMQ_ENOQUORUM)
			try_later(l, l->error);
		else
			thmqi_session_died(s, l->error);
		return;
	}
	if (l->incarnation != led_to)
		thmqi_producers_doubt(l, l->lost_error);
	for (i = 0; i < THMQI_STREAMS; i++)
		if (s->producers[i])
			thmqi_producer_resume(s->producers[i], l);
	if (list_again(l) != 0) {
		try_later(l, -ENOMEM);
		return;
	}
	bytes_over(l, before, now);
	if (retire(l, before) != 0) {
		free(l->again);
		l->again = NULL;
		try_later(l, -ENOMEM);
		return;
	}
	thmqi_frame_advance(&now->down, 1);
	l->wire = now;
	l->next = NULL;
	now->client = l;
	l->life++;
	l->away = false;
	l->refused = l->refused_told = 0;
	l->seen_due = false;
	if (l->shard == THMQI_SHARD_META && (s->incarnation != incarnation || read_only || s->reads_only))
		all_lost(s, l->lost_error);
	if (s->reads_only) /* all of that waits for who leads, as if it was sent and not taken */
		is_back(l);
	else
		send_again(l);
}

static void try_now(struct client_link *l)
{
	struct thmq_session *s = l->session;
	const struct client_link *meta = s->links[THMQI_SHARD_META];
	struct thmqi_link_opts opts;
	int rc;

	if (l != meta && meta->away)
		return; /* it leads the way */
	rc = thmqi_session_prepare(s, l->shard, &opts);
	if (l == meta && !s->node_count) {
		opts.beside = l->wire;
		opts.anew = true;
	}
	if (!rc)
		rc = thmqi_transport_connect(s->transport, s->url, l->shard, &opts, s->waiter,
					     &l->next);
	if (rc) {
		l->next = NULL;
		try_later(l, rc);
	}
}

/* The first frame, as nobody can change it any more. 1; 0 it is not there; an error: the broker breaks the rules. */
static int first_frame(struct thmqi_link *wire, struct thmqi_frame *ret)
{
	const struct thmqi_frame *slot = thmqi_frame_peek(&wire->down, 0);
	int rc;

	if (!slot)
		return 0;
	if (wire->far) {
		rc = wire->far->take(wire, slot, ret);
		return rc ? rc : 1;
	}
	thmqi_frame_copy(ret, slot);
	return 1;
}

/* Where there are copies their list comes first. */
static bool learn(struct client_link *l)
{
	struct thmqi_link *next = l->next;
	const struct thmqi_frame *slot = thmqi_frame_peek(&next->down, 0);

	if (slot->seq || l->shard != THMQI_SHARD_META)
		return false;
	thmqi_nodes_learn(l->session, next->reply);
	thmqi_frame_advance(&next->down, 1);
	return true;
}

static void look(struct client_link *l)
{
	struct thmqi_frame f;
	int rc = first_frame(l->next, &f), error;

	if (!rc && l->next->far)
		l->next->far->idle(l->next); /* nobody else looks whether the other is there */
	error = atomic_load_explicit(&l->next->broker_closed, memory_order_acquire);

	if (!rc && error)
		rc = first_frame(l->next, &f); /* it came before the end */
	if (rc == 1 && f.type == THMQI_FRAME_REPLY && learn(l))
		rc = first_frame(l->next, &f);
	if (rc == 1 && f.type == THMQI_FRAME_WELCOME)
		welcome(l, &f);
	else if (rc || error)
		try_later(l, rc == 1 ? -EPROTO : rc ? rc : error);
}

void thmqi_resume_step(struct client_link *l)
{
	struct thmq_session *s = l->session;
	uint64_t now;

	if (!l->away) {
		send_again(l);
		return;
	}
	now = thmqi_session_now(s);
	if (l->next)
		look(l);
	else if (now >= l->retry_ns)
		try_now(l);
	if (l->away && !s->dead && now - l->lost_ns > s->opts.reconnect_ns)
		thmqi_session_died(s, l->error);
}

uint64_t thmqi_resume_nap_ns(const struct thmq_session *s)
{
	const struct thmqi_clock *clock = thmqi_env_core(s->env, 0)->clock;
	uint64_t now = clock->now_ns(clock->ctx), nap = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < s->shard_count; i++) {
		const struct client_link *l = s->links[i];

		if (l && l->away && !l->next)
			nap = THMQI_MIN(nap, l->retry_ns > now ? l->retry_ns - now : 1000000u);
	}
	return nap;
}

/* ------------------------------------------------------------------- to say */

static void say_seen(struct client_link *l)
{
	struct thmqi_frame *f = thmqi_ctl_claim(l);

	l->seen_due = !f;
	if (!f)
		return;
	f->type = THMQI_FRAME_SEEN;
	f->stream = 0;
	f->arg[0] = l->refused_told = l->refused;
	thmqi_ctl_commit(l);
}

void thmqi_resume_refused(struct client_link *l)
{
	l->refused++;
	l->seen_due = l->session->untended = true;
}

/* Its JOIN, without anybody who waits for the answer. */
static void rejoin(struct thmq_session *s, struct thmq_consumer *c)
{
	struct client_link *meta = s->links[THMQI_SHARD_META];
	struct thmqi_frame *f = meta->replied ? thmqi_ctl_claim(meta) : NULL;

	if (!f)
		return;
	thmqi_consumer_join(c, meta->wire->request);
	c->rejoin = false;
	s->rejoin_stream = c->stream;
	s->rejoin_id = meta->request_id = ++s->next_request;
	meta->replied = false;
	f->type = THMQI_FRAME_REQUEST;
	f->seq = meta->request_id;
	thmqi_ctl_commit(meta);
}

/* Nobody could say yet: it has to ask again, perhaps another broker. */
static bool is_for_now(int status)
{
	return status == -EBUSY || status == -EAGAIN || status == -ECONNRESET || status == -THMQ_ENOTLEADER || status == -THMQ_ENOQUORUM;
}

bool thmqi_resume_replied(struct thmq_session *s, uint64_t request, int status)
{
	struct thmq_consumer *c = s->consumers[s->rejoin_stream];

	if (thmqi_growth_replied(s, request, status))
		return true;
	if (!s->rejoin_id || request != s->rejoin_id)
		return false;
	s->rejoin_id = 0;
	if (!c)
		return true;
	if (c->shared && status == -EBUSY) /* it has members of the other kind now: its shards tell */
		return true;
	if (is_for_now(status))
		c->rejoin = s->untended = true;
	else if (status == -THMQ_EFENCED)
		thmqi_consumer_expelled(c, status);
	else if (status)
		c->error = status;
	else
		thmqi_consumer_joined(c, s->links[THMQI_SHARD_META]->wire->reply);
	return true;
}

void thmqi_resume_tend(struct thmq_session *s)
{
	bool due = false;
	uint32_t i;

	for (i = 0; i < s->shard_count && s->has_ids; i++) {
		struct client_link *l = s->links[i];

		if (l && l->seen_due)
			say_seen(l);
		due = due || (l && l->seen_due);
	}
	for (i = 0; i < s->consumer_end; i++) {
		struct thmq_consumer *c = s->consumers[i];

		if (c && c->rejoin && !s->reads_only && s->links[THMQI_SHARD_META]->replied)
			rejoin(s, c);
		due = due || (c && c->rejoin);
	}
	s->untended = s->untended || due;
	if (s->growing)
		thmqi_growth_tend(s);
}

void thmqi_resume_fini(struct client_link *l)
{
	struct former *f;

	thmqi_link_close(l->wire);
	while ((f = l->formers)) {
		l->formers = f->next;
		thmqi_link_close(f->wire);
		free(f);
	}
	if (l->next)
		thmqi_link_close(l->next);
	l->next = NULL;
	free(l->again);
	l->again = NULL;
	free(l->kept);
	l->kept = NULL;
}
