/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - messages of the runs that were handed over to a consumer, into the app's hands. A run is read in place. Knows of
 * partitions only what tells a wanted record from one to be skipped.
 */
#include "wire/attributes.h"
#include "wire/run.h"

#include "internal.h"

uint64_t thmqi_view_of(const struct thmq_consumer *c, const struct delivered *d, uint32_t index)
{
	return d->generation | (uint64_t)(index % HELD_BITS) << 32 |
	       (uint64_t)(VIEW_MARK | c->stream) << 48;
}

/*
 * What lies from @first to @last in @d cannot be read: the app is told so, and a shared group, which waits for each of its messages, hears what becomes
 * of these. False: there is no room to say so now, and they have to be come to again.
 */
static bool pass_over(struct thmq_consumer *c, struct delivered *d, uint64_t first, uint64_t last, int error)
{
	if (c->shared && !thmqi_shared_unread(c, d, first, last, error)) {
		c->full = c->unsaid = true;
		return false;
	}
	thmqi_consumer_tell(c, THMQ_EVENT_ERROR, d->reading, error, first);
	return true;
}

/* Likewise of all that is left of @d from @offset on. */
static __attribute__((noinline)) void pass_over_rest(struct thmq_consumer *c, struct delivered *d, uint64_t offset, int error)
{
	const uint64_t first = THMQI_MAX(offset, d->from);

	if (first >= d->to || pass_over(c, d, first, d->to - 1, error))
		d->at = d->count;
}

/* @m alone, or with it all whose payloads lie in the same block. False: go no further in @d now. */
static __attribute__((noinline)) bool pass_over_one(struct thmq_consumer *c, struct delivered *d, const struct thmq_message *m, int error)
{
	if (error == -ENOBUFS) {
		c->full = true;
		return false;
	}
	if (d->encoding != THMQ_RUN_PACKED || d->raw)
		return pass_over(c, d, m->offset, thmqi_shared_last(m), error);
	pass_over_rest(c, d, m->offset, error);
	return false;
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
	rc = a.is_in_block ? thmqi_message_of_block(c, d, m, &a) : a.codec ? thmqi_message_unpack(c, d, m, &a) : 0;
	return rc ? rc : 1;
}

/* Of a run that is encoded. False: not now, or never. */
static __attribute__((noinline)) bool make_records(struct thmq_consumer *c, struct delivered *d)
{
	int rc = thmqi_encoded_expand(c, d);

	c->full = rc == -ENOBUFS;
	if (rc && !c->full)
		pass_over_rest(c, d, d->base_offset, rc);
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
		size = thmqi_read_once(rec->size);
		if (thmqi_unlikely((thmqi_read_once(rec->key_len) | thmqi_read_once(rec->tag_len) | thmqi_read_once(rec->flags)) ||
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
		m->time_ns = (int64_t)(first_time + thmqi_read_once(rec->time_delta_us) * 1000ull);
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
static uint32_t hand_out_any(struct thmq_consumer *c, struct delivered *d,
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
	for (index = d->at; index < d->count && n < max; index++, rec++) {
		struct thmq_message *m = &messages[n];

		offset = d->base_offset + (d->deltas ? d->deltas[index] : index);
		time = thmqi_likely(!d->times) ? (int64_t)((uint64_t)d->first_time_ns + rec->time_delta_us * 1000ull)
					       : d->times[index];
		size = thmqi_read_once(rec->size);
		key_len = thmqi_read_once(rec->key_len);
		tag_len = thmqi_read_once(rec->tag_len);
		head = key_len + tag_len;
		if (thmqi_unlikely(size > (size_t)(d->end - body))) { /* where those behind it begin nobody knows */
			pass_over_rest(c, d, offset, -THMQ_ECORRUPT);
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
			flags = thmqi_read_once(rec->flags);
			if (thmqi_likely(head <= size))
				rc = thmqi_likely(!(flags | c->odd)) ? 1 : put_right(c, d, flags, m);
			else
				rc = -THMQ_ECORRUPT;
			if (thmqi_unlikely(rc < 0)) {
				if (!pass_over_one(c, d, m, rc))
					break;
			} else if (thmqi_likely(rc)) {
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
		pass_over_rest(c, d, d->base_offset, -THMQ_ECORRUPT);
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

/* The next message has to wait until the app gives back others that are as large; or until there is room to say what became of one. */
static int full(struct thmq_consumer *c, uint32_t n)
{
	const bool unsaid = c->unsaid;

	c->full = c->unsaid = false;
	if (n || unsaid)
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
		c->full = c->unsaid = false;
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

/* Messages of @d, whatever it is, at most @max. Return: how many. */
static inline uint32_t hand_out(struct thmq_consumer *c, struct delivered *d, struct thmq_message *messages, uint32_t max)
{
	uint32_t n;

	if (d->record == &d->one)
		return hand_out_one(c, d, messages);
	if (!d->record && c->opts.flags & THMQ_CONSUMER_ENCODED)
		return thmqi_encoded_hand_out(c, d, messages);
	if (d->record && is_smooth(c, d, d->reading)) {
		n = hand_out_smooth(c, d, messages, max);
		if (n)
			return n;
	}
	return hand_out_any(c, d, messages, max);
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
	while (thmqi_unlikely(d && thmqi_link_is_gone(d->link))) {
		/* what was prefetched went with the broker; the last frames still come in, and tell so */
		thmqi_session_process(c->session);
		if (c->session->dead)
			return c->session->dead;
		d = c->first;
	}
	if (!d || thmqi_unlikely(ranks != NULL)) { /* what is higher than all that is here may have come */
		if (c->lone < LONE_BEFORE || !thmqi_session_take_next(c->lone_link))
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
			got = hand_out(c, d, ret_messages + n, most);
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
		if (hand_out_any(c, d, ret_message, 1))
			return true;
	return false;
}
