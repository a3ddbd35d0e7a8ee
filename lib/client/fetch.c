/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - the runs that were handed over to a consumer, the messages of them in the app's hands, and their way back. A
 * run is read in place and given back when all of its messages were handed out and released. Knows of partitions
 * only what tells a wanted record from one to be skipped.
 */
#include "wire/attributes.h"
#include "wire/run.h"

#include "internal.h"

#define RUNS_MAX                                                                                   \
	4096u /* of one shard, handed over and not given back; the broker keeps to it too */
#define RELEASE_BATCH 16u /* runs that are given back together: each is a round of the core */
#define IDLE_ROUNDS 64u   /* looks without news, after which nothing is held back any more */
#define IDLE_ROUNDS_PACKED 4096u /* the same where it would be a packet of its own */

/* What lies in a run may be another process's to change: what was checked is not read again. */
#define read_once(x) (*(const volatile __typeof__(x) *)&(x))

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
	}
	thmqi_unpacked_fini(c);
	for (i = 0; i < c->reading_count; i++)
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

/* After that the run's memory may be gone: it went with the broker. */
static bool gone(const struct client_link *l)
{
	return atomic_load_explicit(&l->wire->broker_closed, memory_order_acquire) != 0;
}

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

static bool open_run(struct delivered *d, const struct thmqi_frame *f)
{
	const struct thmq_run_header *run = d->run;
	uint32_t len, count;
	uint64_t table;
	bool sparse;

	if (thmqi_unlikely(f->len < sizeof(*run)))
		return false;
	len = read_once(run->len);
	count = read_once(run->count);
	if (thmqi_unlikely(read_once(run->encoding) != THMQ_RUN_RECORDS))
		return open_encoded(d, f, len, count);
	sparse = read_once(run->flags) & THMQ_RUN_SPARSE;
	table = thmqi_run_table_bytes(count, sparse);
	/* does the record table lie within the run? Bodies are looked at one by one */
	if (thmqi_unlikely(len > f->len - sizeof(*run) || table > len))
		return false;
	d->base_offset = run->base_offset;
	d->first_time_ns = run->first_time_ns;
	d->record = (const struct thmq_record *)(run + 1);
	d->deltas = sparse ? (const uint32_t *)(d->record + count) : NULL;
	d->body = (const uint8_t *)d->record + table;
	d->end = (const uint8_t *)d->record + len;
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

void thmqi_runs_deliver(struct thmq_consumer *c, struct client_link *l, struct reading *r,
			const struct thmqi_frame *f)
{
	struct delivered *d;
	bool ok;

	if (thmqi_unlikely(gone(l)))
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
	ok = f->type == THMQI_FRAME_DELIVER_ONE ? open_one(d, f) : open_run(d, f);
	if (thmqi_unlikely(!ok)) {
		d->bytes = d->count = d->credit = 0;
		thmqi_consumer_tell(c, THMQ_EVENT_ERROR, r, -THMQ_ECORRUPT, f->arg[1] - 1);
	}
	if (thmqi_unlikely(c->shared))
		thmqi_shared_delivered(c, d, f);
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

/* -------------------------------------------------------------------- fetch */

uint64_t thmqi_view_of(const struct thmq_consumer *c, const struct delivered *d, uint32_t index)
{
	return d->generation | (uint64_t)(index % HELD_BITS) << 32 |
	       (uint64_t)(VIEW_MARK | c->stream) << 48;
}

static void corrupt(struct thmq_consumer *c, struct delivered *d, uint64_t offset, int error)
{
	d->at = d->count;
	thmqi_consumer_tell(c, THMQ_EVENT_ERROR, d->reading, error, offset);
}

/* What is older than its time to live is of no use. */
static bool is_over(struct thmq_consumer *c, int64_t time_ns, uint64_t ttl_ns)
{
	return ttl_ns && thmqi_session_wall(c->session) > time_ns &&
	       (uint64_t)thmqi_session_wall(c->session) - (uint64_t)time_ns > ttl_ns;
}

static bool is_wanted(const struct thmq_consumer *c, const struct thmq_message *m)
{
	uint32_t i;

	for (i = 0; i < c->opts.tag_count; i++)
		if (c->tags[i].len == m->tag_len && m->tag && memcmp(c->tags[i].bytes, m->tag, m->tag_len) == 0)
			return true;
	return !c->opts.tag_count;
}

/*
 * A message with more than key, tag and payload, which @m has as if they were payload; or whose topic has a time to live. 1: it is
 * put right; 0: it is not handed out; -ENOBUFS not now; -THMQ_ECORRUPT, -THMQ_EVERSION, -EOPNOTSUPP, -ENOMEM
 */
static __attribute__((noinline)) int put_right(struct thmq_consumer *c, struct delivered *d, uint32_t flags,
					       struct thmq_message *m)
{
	struct thmqi_attributes a;
	int rc;

	if (flags & THMQ_RECORD_PART) {
		rc = thmqi_part_take(c, d, m, &flags);
		if (rc <= 0)
			return rc;
	}
	rc = thmqi_attributes_read(flags, m->data, m->len, &a);
	if (rc)
		return rc;
	if (is_over(c, m->time_ns, a.ttl_ns ? a.ttl_ns : c->ttl_ns) || !is_wanted(c, m))
		return 0;
	m->headers = a.headers;
	m->headers_len = a.headers_len;
	m->data = (const uint8_t *)m->data + a.len;
	m->len -= a.len;
	if (c->selection && !thmqi_select_wants(c, m))
		return 0;
	rc = a.codec ? thmqi_message_unpack(c, d, m, &a) : 0;
	return rc ? rc : 1;
}

/* Of a run that is encoded. False: not now, or never. */
static __attribute__((noinline)) bool make_records(struct thmq_consumer *c, struct delivered *d)
{
	int rc = thmqi_encoded_expand(c, d);

	c->full = rc == -ENOBUFS;
	if (rc && !c->full)
		corrupt(c, d, d->base_offset, rc);
	return !rc;
}

static bool is_dense(const struct delivered *d)
{
	return d->encoding == THMQ_RUN_RECORDS && !d->deltas;
}

/*
 * A member of a shared group may get a run bit by bit. It goes through it once: to each part from where the one before ended, if that was of this run.
 * Who changes the run meanwhile has its bodies compared with where they end, as ever.
 */
static void go_to_part(struct delivered *d)
{
	const struct reading *r = d->reading;

	if (r->gone_through.base_offset != d->base_offset || r->gone_through.count != d->credit || r->gone_through.len != d->bytes ||
	    r->gone_through.index <= d->at || r->gone_through.index > THMQI_MIN(d->from - d->base_offset, (uint64_t)d->count))
		return;
	d->body = d->end - d->bytes + r->gone_through.body;
	d->record += r->gone_through.index - d->at;
	d->at = r->gone_through.index;
}

/* @d is gone through up to before record @index. */
static void remember_part(const struct delivered *d, uint32_t index)
{
	struct reading *r = d->reading;

	r->gone_through.base_offset = d->base_offset;
	r->gone_through.count = d->credit;
	r->gone_through.len = d->bytes;
	r->gone_through.index = index;
	r->gone_through.body = d->bytes - (uint32_t)(d->end - d->body);
}

/* Of the records of @d up to the @index-th, from where it is: the app has them. */
static void hold_bits(struct delivered *d, uint32_t from, uint32_t to)
{
	uint32_t n;

	for (; from < to; from += n) {
		n = THMQI_MIN(64 - from % 64, to - from);
		d->held_bits[from / 64] |= (n == 64 ? UINT64_MAX : (1ull << n) - 1) << from % 64;
	}
}

/* All of it is wanted, and what it tells of a message is one thing of all of them: where it is, and when the first was stored. */
static inline bool is_smooth(const struct thmq_consumer *c, const struct delivered *d, const struct reading *r)
{
	return !(c->odd || d->deltas || d->times) && d->count <= HELD_BITS && d->base_offset + d->at >= d->from &&
	       d->base_offset + d->count <= d->to && r->not_before_ns == INT64_MIN;
}

/*
 * The records of such a run, as far as they have nothing but a payload: what is left of it, and what may be wrong with it, is the
 * other's. Return: how many.
 */
static uint32_t hand_out_smooth(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m, uint32_t max)
{
	const uint32_t from = d->at, to = from + THMQI_MIN(d->count - from, max);
	const struct thmq_record *rec = d->record;
	const uint8_t *body = d->body, *const end = d->end;
	struct reading *r = d->reading;
	const uint32_t partition = r->index;
	const uint64_t first_time = (uint64_t)d->first_time_ns;
	uint64_t view = thmqi_view_of(c, d, from), offset = d->base_offset + from;
	uint32_t index, size;

	for (index = from; index < to; index++, rec++, m++, offset++, view += 1ull << 32) {
		size = read_once(rec->size);
		if (thmqi_unlikely((read_once(rec->key_len) | read_once(rec->tag_len) | read_once(rec->flags)) ||
				   thmqi_record_bytes(size) > (uint64_t)(end - body)))
			break;
		m->data = body;
		m->key = NULL;
		m->tag = NULL;
		m->len = size;
		m->key_len = 0;
		m->tag_len = 0;
		m->partition = partition;
		m->offset = offset;
		m->time_ns = (int64_t)(first_time + read_once(rec->time_delta_us) * 1000ull);
		m->internal[0] = (uint64_t)(uintptr_t)d;
		m->internal[1] = view;
		m->headers = NULL;
		m->headers_len = 0;
		m->span = 1;
		body += thmqi_record_bytes(size);
	}
	if (index == from)
		return 0;
	hold_bits(d, from, index);
	d->at = index;
	d->record = rec;
	d->body = body;
	if (thmqi_unlikely(c->shared) && is_dense(d))
		remember_part(d, index);
	d->held += index - from;
	r->held += index - from;
	r->resume = offset;
	r->handed = THMQI_MAX(r->handed, offset);
	c->app_held += index - from;
	return index - from;
}

/* Messages of the records of @d that are left, at most @max. Return: how many. */
static uint32_t hand_out(struct thmq_consumer *c, struct delivered *d,
			 struct thmq_message *messages, uint32_t max)
{
	struct reading *r = d->reading;
	const struct thmq_record *rec;
	const uint8_t *body;
	const uint64_t view = thmqi_view_of(c, d, 0);
	uint64_t offset, last = 0;
	uint32_t index, head, size, key_len, tag_len, flags, n = 0;
	int64_t time;
	int rc;

	if (thmqi_unlikely(!d->record) && !make_records(c, d))
		return 0;
	if (thmqi_unlikely(c->shared) && is_dense(d) && d->from > d->base_offset + d->at)
		go_to_part(d);
	rec = d->record;
	body = d->body;
	if (thmqi_unlikely(d->unpacked != NULL) && !d->held) /* the app has given all of these back */
		thmqi_unpacked_drop(c, d);
	for (index = d->at; index < d->count && n < max; index++, rec++) {
		struct thmq_message *m = &messages[n];

		offset = d->base_offset + (d->deltas ? d->deltas[index] : index);
		time = thmqi_likely(!d->times) ? (int64_t)((uint64_t)d->first_time_ns + rec->time_delta_us * 1000ull)
					       : d->times[index];
		size = read_once(rec->size);
		key_len = read_once(rec->key_len);
		tag_len = read_once(rec->tag_len);
		head = key_len + tag_len;
		if (thmqi_unlikely(size > (size_t)(d->end - body) || head > size)) {
			corrupt(c, d, offset, -THMQ_ECORRUPT);
			break;
		}
		/* what is handed out first is late enough, and so is all behind it */
		if (thmqi_likely(offset >= d->from && offset < d->to &&
				 (n || time >= r->not_before_ns))) {
			m->key = key_len ? body : NULL;
			m->tag = tag_len ? (const char *)body + key_len : NULL;
			m->headers = NULL;
			m->data = body + head;
			m->len = size - head;
			m->key_len = key_len;
			m->tag_len = tag_len;
			m->headers_len = 0;
			m->partition = r->index;
			m->span = 1;
			m->offset = offset;
			m->time_ns = time;
			m->internal[0] = (uint64_t)(uintptr_t)d;
			m->internal[1] = view | (uint64_t)(index % HELD_BITS) << 32;
			flags = read_once(rec->flags);
			rc = thmqi_likely(!(flags | c->odd)) ? 1 : put_right(c, d, flags, m);
			if (thmqi_unlikely(rc < 0)) {
				c->full = rc == -ENOBUFS;
				if (!c->full)
					corrupt(c, d, offset, rc);
				break;
			}
			if (thmqi_likely(rc)) {
				d->held_bits[index % HELD_BITS / 64] |= 1ull << (index % 64);
				last = offset;
				n++;
			} else if (thmqi_unlikely(c->shared)) {
				thmqi_shared_over(c, d, m, flags);
			}
		}
		body += THMQI_MIN(thmqi_record_bytes(size), (uint64_t)(d->end - body));
	}
	if (d->at < d->count)
		d->at = index;
	d->record = rec;
	d->body = body;
	if (thmqi_unlikely(c->shared) && is_dense(d))
		remember_part(d, index);
	if (n) {
		d->held += n;
		r->held += n;
		r->resume = last + 1;
		r->handed = THMQI_MAX(r->handed, last + 1);
		r->not_before_ns = INT64_MIN;
		c->app_held += n;
	}
	return n;
}

/* The one message of @d, whose record came in its frame. Return: 1; 0 it is too early. */
static uint32_t hand_out_one(struct thmq_consumer *c, struct delivered *d, struct thmq_message *m)
{
	struct reading *r = d->reading;
	const uint32_t key_len = d->one.key_len, head = key_len + d->one.tag_len;

	d->at = 1;
	if (thmqi_unlikely(head > d->one.size)) {
		corrupt(c, d, d->base_offset, -THMQ_ECORRUPT);
		return 0;
	}
	if (thmqi_unlikely(d->first_time_ns < r->not_before_ns))
		return 0;
	m->key = key_len ? d->body : NULL;
	m->tag = head > key_len ? (const char *)d->body + key_len : NULL;
	m->headers = NULL;
	m->data = d->body + head;
	m->len = d->one.size - head;
	m->key_len = key_len;
	m->tag_len = d->one.tag_len;
	m->headers_len = 0;
	m->partition = r->index;
	m->span = 1;
	m->offset = d->base_offset;
	m->time_ns = d->first_time_ns;
	m->internal[0] = (uint64_t)(uintptr_t)d;
	m->internal[1] = thmqi_view_of(c, d, 0);
	if (thmqi_unlikely(c->odd) && put_right(c, d, 0, m) <= 0)
		return 0;
	d->held_bits[0] |= 1;
	d->held = 1;
	r->held++;
	r->resume = d->to;
	r->handed = THMQI_MAX(r->handed, d->to);
	r->not_before_ns = INT64_MIN;
	c->app_held++;
	return 1;
}

/* Nothing can come because the app holds all that the broker hands over at a time. */
static bool window_held(const struct thmq_consumer *c)
{
	if (c->ranks)
		return c->app_held && thmqi_ranks_full(c);
	return c->app_held &&
	       ((!c->free && c->pool_used == c->pool_count) ||
		c->held_bytes >= c->opts.prefetch_bytes ||
		(c->held_count >= c->opts.prefetch_count && !c->shared));
}

/* Nothing is queued: why. */
static int nothing(struct thmq_consumer *c)
{
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
		thmqi_consumer_tell(c, THMQ_EVENT_STALLED, NULL, -ENOBUFS, 0);
	}
	return -ENOBUFS;
}

/* The next message has to wait until the app gives back others that are as large. */
static int full(struct thmq_consumer *c, uint32_t n)
{
	c->full = false;
	if (n)
		return (int)n;
	if (!c->stalled) {
		c->stalled = true;
		thmqi_consumer_tell(c, THMQ_EVENT_STALLED, NULL, -ENOBUFS, 0);
	}
	return -ENOBUFS;
}

static void take_out(struct thmq_consumer *c, struct delivered **at)
{
	struct delivered *d = *at;

	if (thmqi_unlikely(c->ranks != NULL)) {
		thmqi_ranks_remove(c, at);
		return;
	}
	*at = d->next;
	if (!*at)
		c->last = at;
}

/* The session may take in anything meanwhile, which finds it nowhere: it is out of the queue first, and is not put back before the end. */
static void bury_run(struct thmq_consumer *c, struct delivered **at)
{
	struct delivered *d = *at;

	take_out(c, at);
	c->burying++;
	thmqi_shared_bury(c, d);
	c->burying--;
	if (c->full) { /* there is no room to look at the rest now: it comes again */
		c->full = false;
		thmqi_shared_return(c, d);
	}
	d->at = d->count;
	d->queued = false;
	if (!d->held)
		thmqi_run_put(c, d);
}

#define BURY_MAX 16u /* runs in one go */

void thmqi_runs_bury(struct thmq_consumer *c)
{
	struct delivered **at = &c->first;
	uint32_t n = 0;

	if (c->burying)
		return;
	while (*at && n < BURY_MAX) {
		if (!thmqi_shared_is_dead(c, *at)) {
			at = &(*at)->next;
			continue;
		}
		bury_run(c, at);
		at = &c->first;
		n++;
	}
	c->dead_due = *at != NULL;
	if (c->dead_due)
		c->session->untended = true;
}

int thmqi_client_fetch(struct thmq_consumer *c, struct thmq_message *ret_messages, uint32_t max)
{
	const struct ranks *ranks = c->ranks;
	struct delivered *d = c->first;
	uint32_t n = 0;

	thmqi_session_beat(c->session);
	if (thmqi_unlikely(c->shared)) {
		if (c->dead)
			thmqi_dead_tend(c);
		if (c->session->untended) /* acks */
			thmqi_consumers_tend(c->session);
		d = c->first;
	}
	while (thmqi_unlikely(d && gone(d->link))) {
		/* what was prefetched went with the broker; the last frames still come in, and tell so */
		thmqi_session_process(c->session);
		if (c->session->dead)
			return c->session->dead;
		d = c->first;
	}
	if (!d || thmqi_unlikely(ranks != NULL)) { /* what is higher than all that is here may have come */
		thmqi_session_process(c->session);
		if (!c->first)
			return nothing(c);
	}
	while (n < max) {
		struct delivered **at = &c->first;
		uint32_t most = max - n, got = 0;

		if (thmqi_unlikely(ranks != NULL))
			at = thmqi_ranks_choose(c, &most);
		d = *at;
		if (!d)
			break;
		if (thmqi_unlikely(c->shared) && thmqi_shared_is_dead(c, d)) {
			bury_run(c, at);
			continue;
		}
		if (thmqi_unlikely(c->shared) && thmqi_shared_skips(c, d)) {
			d->at = d->count;
		} else {
			got = d->record == &d->one ? hand_out_one(c, d, ret_messages + n)
			      : d->record && is_smooth(c, d, d->reading) &&
						(got = hand_out_smooth(c, d, ret_messages + n, most))
				      ? got
			      : thmqi_unlikely(!d->record && c->opts.flags & THMQ_CONSUMER_ENCODED)
				      ? thmqi_encoded_hand_out(c, d, ret_messages + n)
				      : hand_out(c, d, ret_messages + n, most);
			n += got;
		}
		if (thmqi_unlikely(ranks != NULL))
			thmqi_ranks_count(c, at, got);
		if (thmqi_unlikely(c->full))
			return full(c, n);
		if (d->at < d->count)
			continue;
		take_out(c, at);
		d->queued = false;
		if (!d->held)
			thmqi_run_put(c, d);
	}
	return (int)n;
}

uint64_t thmqi_run_next_offset(const struct delivered *d)
{
	uint64_t offset;

	if (d->at == d->count)
		return d->to;
	offset = d->base_offset + (d->deltas ? d->deltas[d->at] : d->at);
	return THMQI_MAX(offset, d->from);
}

bool thmqi_run_next(struct thmq_consumer *c, struct delivered *d, struct thmq_message *ret_message)
{
	while (d->at < d->count && !c->full)
		if (hand_out(c, d, ret_message, 1))
			return true;
	return false;
}
