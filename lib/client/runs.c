/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runs.c - the runs that were handed over to a consumer, and their way back: each is given back when all of its messages were
 * handed out (fetch.c) and released (views.c). What it says of itself is checked as it comes in, but for its records.
 */
#include "wire/run.h"

#include "internal.h"

#define RUNS_MAX                                                                                   \
	4096u /* of one shard, handed over and not given back; the broker keeps to it too */
#define RELEASE_BATCH 16u /* runs that are given back together: each is a round of the core */
#define IDLE_ROUNDS 64u   /* looks without news, after which nothing is held back any more */
#define IDLE_ROUNDS_PACKED 4096u /* the same where it would be a packet of its own */

/* --------------------------------------------------------------------- runs */

int thmqi_runs_init(struct thmq_consumer *c)
{
	/* its partitions may be in any of them, if not now then once there are more */
	uint32_t shards = c->opts.flags & THMQ_CONSUMER_PARTITION ? 1 : c->session->shard_count - 1;

	c->last = &c->first;
	c->live_max = THMQI_MIN(THMQI_MAX(c->opts.prefetch_count, c->priorities), RUNS_MAX) * THMQI_MAX(shards, 1u);
	/* the app may hold as many of a connection that is lost */
	c->pool_count = c->live_max * (c->session->opts.reconnect_ns ? 2 : 1);
	c->pool = calloc(c->pool_count, sizeof(*c->pool));
	c->held_bits = calloc(c->pool_count, HELD_BITS / 8);
	return c->pool && c->held_bits ? 0 : -ENOMEM;
}

void thmqi_runs_fini(struct thmq_consumer *c)
{
	struct delivered **at;
	uint32_t i;

	for (i = 0; i < c->session->shard_count;
	     i++) { /* a link's list has records of several consumers */
		struct client_link *l = c->session->links[i];

		for (at = l ? &l->unreleased : NULL; at && *at;) {
			if ((*at)->consumer == c) {
				*at = (*at)->next;
				l->unreleased_count--;
			} else {
				at = &(*at)->next;
			}
		}
	}
	for (i = 0; i < c->pool_used; i++) {
		if (c->pool[i].whole)
			thmqi_whole_drop(c, &c->pool[i]);
		if (c->pool[i].expanded)
			thmqi_expanded_drop(c, &c->pool[i]);
		thmqi_unpacked_drop(c, &c->pool[i]);
		thmqi_block_drop(c, &c->pool[i]);
	}
	thmqi_unpacked_fini(c);
	for (i = c->reading_first; i < c->reading_count; i++)
		thmqi_parts_drop(thmqi_reading(c, i));
	free(c->pool);
	free(c->held_bits);
	c->pool = NULL;
	c->held_bits = NULL;
	c->pool_count = c->pool_used = 0;
	c->first = c->free = NULL;
	c->last = &c->first;
}

static struct delivered *run_get(struct thmq_consumer *c)
{
	struct delivered *d = c->free;

	if (thmqi_likely(d != NULL)) {
		c->free = d->next;
		return d;
	}
	if (c->pool_used == c->pool_count)
		return NULL;
	d = &c->pool[c->pool_used];
	d->consumer = c;
	d->generation = 1;
	d->held_bits = c->held_bits + (size_t)c->pool_used++ * (HELD_BITS / 64);
	return d;
}

/* ------------------------------------------------------------- the way back */

static bool send_release(struct client_link *l, uint32_t stream, uint64_t token)
{
	struct thmqi_frame *f = l->dead ? NULL : thmqi_frame_claim(&l->wire->ctl, 0);

	if (!f)
		return l->dead != 0;
	f->type = THMQI_FRAME_RELEASE;
	f->stream = stream;
	f->arg[0] = token;
	thmqi_frame_commit(&l->wire->ctl);
	return true;
}

/* The next ones by one frame: those of one consumer, as many as it says. Return: how many; 0: there is no room. */
static uint32_t send_releases(struct client_link *l)
{
	const struct delivered *d = l->unreleased, *it;
	struct thmqi_frame *f;
	uint32_t n = 0;

	if (!l->wire->takes_releases || !d->next || d->next->consumer != d->consumer || l->dead)
		return send_release(l, d->consumer->stream, d->token);
	f = thmqi_frame_claim(&l->wire->ctl, 0);
	if (!f)
		return 0;
	for (it = d; it && it->consumer == d->consumer && n < THMQI_RELEASES; it = it->next)
		*thmqi_frame_token(f, n++) = it->token;
	f->type = THMQI_FRAME_RELEASES;
	f->stream = d->consumer->stream;
	f->len = n;
	thmqi_frame_commit(&l->wire->ctl);
	return n;
}

static void flush_link(struct client_link *l)
{
	struct delivered *d;
	uint32_t n;

	while (l->unreleased && (n = send_releases(l)))
		for (; n; n--) {
			d = l->unreleased;
			l->unreleased = d->next;
			l->unreleased_count--;
			d->next = d->consumer->free;
			d->consumer->free = d;
		}
	if (!l->dead)
		thmqi_link_kick_broker(l->wire);
}

/* A consumer with little room cannot hold back what makes room. */
static bool window_is_small(const struct thmq_consumer *c, const struct delivered *d)
{
	return (uint64_t)d->bytes * RELEASE_BATCH > c->share_bytes / 4 ||
	       (uint64_t)THMQI_MAX(d->credit, 1u) * RELEASE_BATCH > c->share_count / 4;
}

/* All of the run is done with. */
void thmqi_run_put(struct thmq_consumer *c, struct delivered *d)
{
	struct client_link *l = d->link;

	c->held_bytes -= d->bytes;
	c->held_count -= d->credit;
	if (thmqi_unlikely(c->ranks != NULL))
		thmqi_ranks_let_go(c, d);
	c->stalled = false;
	if (thmqi_unlikely(!++d->generation))
		d->generation = 1;
	d->run = NULL;
	if (thmqi_unlikely(d->whole != NULL))
		thmqi_whole_drop(c, d);
	if (thmqi_unlikely(d->unpacked != NULL))
		thmqi_unpacked_drop(c, d);
	if (thmqi_unlikely(d->expanded != NULL))
		thmqi_expanded_drop(c, d);
	if (thmqi_unlikely(d->raw_room != NULL))
		thmqi_block_drop(c, d);
	if (thmqi_unlikely(d->former)) {
		d->former = false;
		c->former_count--;
		d->next = c->free;
		c->free = d;
		thmqi_resume_view_end(l, d->wire);
		return;
	}
	d->next = l->unreleased;
	l->unreleased = d;
	l->unreleased_idle = 0;
	if (++l->unreleased_count >= RELEASE_BATCH || window_is_small(c, d))
		flush_link(l);
}

void thmqi_releases_tend(struct client_link *l, uint32_t news)
{
	l->unreleased_idle = news ? 0 : l->unreleased_idle + 1;
	if (l->unreleased_count >= RELEASE_BATCH || l->unreleased_idle >= (l->wire->packs ? IDLE_ROUNDS_PACKED : IDLE_ROUNDS))
		flush_link(l);
}

void thmqi_releases_along(struct client_link *l)
{
	flush_link(l);
}

void thmqi_releases_flush(struct thmq_session *s)
{
	uint32_t i;

	for (i = 0; i < s->shard_count; i++)
		if (s->links[i] && s->links[i]->unreleased)
			flush_link(s->links[i]);
}

void thmqi_runs_drop(struct thmq_consumer *c, struct reading *r)
{
	struct delivered **at = &c->first, *d;

	if (r)
		thmqi_parts_drop(r);
	while ((d = *at)) {
		if (d->reading != r) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		if (thmqi_unlikely(c->shared))
			thmqi_shared_return(c, d);
		d->queued = false;
		d->at = d->count; /* nothing more is handed out */
		if (!d->held)
			thmqi_run_put(c, d);
	}
	c->last = at;
	if (c->ranks)
		thmqi_ranks_renew(c);
}

void thmqi_runs_lose(struct thmq_consumer *c, struct client_link *l)
{
	struct delivered **at = &c->first, *d;
	uint32_t i;

	for (i = 0; i < c->pool_used; i++) {
		d = &c->pool[i];
		if (!d->run || d->link != l || d->former)
			continue;
		d->former = true;
		c->former_count++;
	}
	while ((d = *at)) {
		if (d->link != l) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		d->queued = false;
		d->at = d->count;
		if (!d->held)
			thmqi_run_put(c, d);
	}
	c->last = at;
	if (c->ranks)
		thmqi_ranks_renew(c);
}

bool thmqi_runs_give_back(struct thmq_consumer *c)
{
	struct thmq_session *s = c->session;
	bool all = true;
	uint32_t i;

	c->first = NULL;
	c->last = &c->first;
	if (c->ranks)
		thmqi_ranks_renew(c);
	for (i = 0; i < c->pool_used; i++) {
		struct delivered *d = &c->pool[i];

		if (!d->run)
			continue;
		d->held = 0;
		d->at = d->count;
		thmqi_run_put(c, d);
	}
	thmqi_releases_flush(s);
	for (i = 0; i < s->shard_count; i++) {
		const struct delivered *d = s->links[i] ? s->links[i]->unreleased : NULL;

		for (; d; d = d->next)
			all = all && d->consumer != c;
	}
	return all;
}

/* ------------------------------------------------------------------ deliver */

/* Whatever it is: its records are looked at when the app comes to it. To who wants it as it is it is one message. */
static bool open_encoded(struct delivered *d, const struct thmqi_frame *f, uint32_t len, uint32_t count)
{
	const struct thmq_run_header *run = d->run;

	if (run->encoding != THMQ_RUN_KAFKA || len > f->len - sizeof(*run))
		return false;
	d->encoding = THMQ_RUN_KAFKA;
	d->base_offset = run->base_offset;
	d->first_time_ns = run->first_time_ns;
	d->last_time_ns = run->last_time_ns;
	d->record = NULL;
	d->deltas = NULL;
	d->body = (const uint8_t *)(run + 1);
	d->end = d->body + len;
	d->bytes = len;
	d->credit = count;
	d->count = d->consumer->opts.flags & THMQ_CONSUMER_ENCODED ? 1 : count;
	d->from = f->seq;
	d->to = f->arg[1];
	return true;
}

/* What it is that could not be opened. */
static int why_not(const struct delivered *d, const struct thmqi_frame *f)
{
	return f->type == THMQI_FRAME_DELIVER && f->len >= sizeof(*d->run) && thmqi_read_once(d->run->encoding) > THMQ_RUN_PACKED ? -THMQ_EVERSION
																  : -THMQ_ECORRUPT;
}

static bool open_run(struct delivered *d, const struct thmqi_frame *f)
{
	const struct thmq_run_header *run = d->run;
	uint32_t len, end, count; /* end: of the bodies */
	uint64_t table;
	bool sparse;

	if (thmqi_unlikely(f->len < sizeof(*run)))
		return false;
	len = thmqi_read_once(run->len);
	count = thmqi_read_once(run->count);
	end = len;
	if (thmqi_unlikely(thmqi_read_once(run->encoding) != THMQ_RUN_RECORDS)) {
		if (thmqi_read_once(run->encoding) != THMQ_RUN_PACKED)
			return open_encoded(d, f, len, count);
		if (len > f->len - sizeof(*run) || thmqi_block_read(run + 1, len, &d->block, &end))
			return false;
		d->encoding = THMQ_RUN_PACKED;
		d->raw = NULL;
	}
	sparse = thmqi_read_once(run->flags) & THMQ_RUN_SPARSE;
	table = thmqi_run_table_bytes(count, sparse);
	/* does the record table lie within the run? Bodies are looked at one by one */
	if (thmqi_unlikely(len > f->len - sizeof(*run) || table > end))
		return false;
	d->base_offset = run->base_offset;
	d->first_time_ns = run->first_time_ns;
	d->record = (const struct thmq_record *)(run + 1);
	d->deltas = sparse ? (const uint32_t *)(d->record + count) : NULL;
	d->body = (const uint8_t *)d->record + table;
	d->end = (const uint8_t *)d->record + end;
	d->bytes = len;
	d->count = d->credit = count;
	d->from = f->seq;
	d->to = f->arg[1];
	if (!sparse && d->to > d->base_offset && d->to - d->base_offset < count) /* a part, for a member of a shared group */
		d->count = (uint32_t)(d->to - d->base_offset);
	return true;
}

/* All that there is to know is in the frame: the run's memory, still on its way from the other core, is not waited for. */
static bool open_one(struct delivered *d, const struct thmqi_frame *f)
{
	const uint32_t head = (uint32_t)(sizeof(*d->run) + sizeof(d->one));

	if (thmqi_unlikely(f->len < head || f->extra > f->len - head))
		return false;
	d->one = (struct thmq_record){.size = f->extra, .key_len = f->key_len, .tag_len = f->flags};
	d->base_offset = d->from = f->arg[1] - 1;
	d->to = f->arg[1];
	d->first_time_ns = (int64_t)f->seq;
	d->record = &d->one;
	d->deltas = NULL;
	d->body = (const uint8_t *)d->run + head;
	d->end = (const uint8_t *)d->run + f->len;
	d->bytes = f->len - (uint32_t)sizeof(*d->run);
	d->count = d->credit = 1;
	return true;
}

/* Another message by itself; those before it are out already. */
static inline void note_one(struct thmq_consumer *c, struct client_link *l)
{
	if (thmqi_unlikely(c->lone_link != l || c->first)) {
		c->lone_link = l;
		c->lone = 0;
	} else if (c->lone < LONE_BEFORE) {
		c->lone++;
	}
}

void thmqi_runs_deliver(struct thmq_consumer *c, struct client_link *l, struct reading *r,
			const struct thmqi_frame *f)
{
	struct delivered *d;
	bool ok;

	if (thmqi_unlikely(thmqi_link_is_gone(l)))
		return;
	d = run_get(c);
	if (thmqi_unlikely(!d)) { /* more than was agreed: not ours to keep */
		send_release(l, c->stream, f->arg[0]);
		thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, -EOVERFLOW, f->seq);
		return;
	}
	d->next = NULL;
	d->link = l;
	d->wire = l->wire;
	d->former = false;
	d->reading = r;
	d->token = f->arg[0];
	d->run = (const void *)(uintptr_t)f->data;
	d->at = 0;
	d->held = 0;
	d->queued = false;
	d->encoding = THMQ_RUN_RECORDS;
	if (f->type == THMQI_FRAME_DELIVER_ONE) {
		note_one(c, l);
		ok = open_one(d, f);
	} else {
		c->lone = 0;
		ok = open_run(d, f);
	}
	if (thmqi_unlikely(!ok)) {
		d->bytes = d->count = d->credit = 0;
		thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, why_not(d, f), f->arg[1] - 1);
	}
	if (thmqi_unlikely(c->shared))
		thmqi_shared_delivered(c, d, f);
	if (thmqi_unlikely(!ok && c->shared && r && f->generation == r->generation && f->arg[1] > f->seq))
		thmqi_shared_unread(c, d, f->seq, f->arg[1] - 1, why_not(d, f)); /* where there is no room it comes again */
	c->held_bytes += d->bytes;
	c->held_count += d->credit;
	if (thmqi_unlikely(c->ranks != NULL))
		thmqi_ranks_hold(c, d);
	if (thmqi_unlikely(!ok || !r || !d->count || r->state != READING_ON ||
			   f->generation != r->generation)) {
		d->at = d->count;
		thmqi_run_put(c, d);
		return;
	}
	d->queued = true;
	if (thmqi_unlikely(c->ranks != NULL)) {
		thmqi_ranks_add(c, d);
		return;
	}
	*c->last = d;
	c->last = &d->next;
}

bool thmqi_consumer_has_news(const struct thmq_consumer *c)
{
	return (c->first != NULL && !c->session->dead) || (c->error && !c->error_told);
}
