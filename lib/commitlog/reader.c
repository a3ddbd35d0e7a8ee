/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.c - the runs of one partition in the order of their offsets: from the batch being formed, from the tail cache, or
 * from the device (window.c). Entries of the newest segments are in memory (index.c), those of sealed ones in their indexes
 * (lookup.c).
 */
#include "commitlog/hint.h"
#include "internal.h"
#include "reading.h"

int thmq_log_reader_open(struct thmq_log *log, uint32_t partition, void (*ready)(void *ctx), void *ctx,
			 struct thmq_log_reader **ret_reader)
{
	struct thmq_log_reader *r;

	if (!log || !ret_reader)
		return thmqi_fail(-EINVAL, "a reader needs a log and a place for its handle");
	if (!thmqi_core_is_mine(log->core))
		return thmqi_fail(-EPERM, "a log is read by the thread that drives its core");
	r = calloc(1, sizeof(*r));
	if (!r)
		return thmqi_fail(-ENOMEM, "no memory for a reader of a log");
	r->log = log;
	r->partition = partition;
	r->ready = ready;
	r->ctx = ctx;
	r->sought = true;
	thmqi_list_add_tail(&log->readers, &r->link);
	*ret_reader = r;
	return 0;
}

/* What can be dropped now is; what is being read, when that ends. */
static void drop_memory(struct thmq_log_reader *r)
{
	thmqi_windows_drop(r);
	thmqi_lookup_drop(r);
}

void thmq_log_reader_close(struct thmq_log_reader *reader)
{
	if (reader && (!reader->log || thmqi_core_is_mine(reader->log->core)))
		thmqi_reader_close(reader);
}

void thmqi_reader_close(struct thmq_log_reader *reader)
{
	thmqi_list_del(&reader->link);
	drop_memory(reader);
	if (reader->reading)
		reader->closed = true; /* freed when the last read ends */
	else
		free(reader);
}

void thmq_log_reader_seek(struct thmq_log_reader *reader, uint64_t offset)
{
	if (thmqi_unlikely(!reader || (reader->log && !thmqi_core_is_mine(reader->log->core))))
		return;
	reader->want = offset;
	reader->sought = true;
	reader->hit_sought = false;
	reader->cursor = (struct cursor){0};
	reader->search.active = false;
}

uint64_t thmq_tag_filter(const void *tag, uint32_t len)
{
	return len && tag ? 1ull << (thmqi_tag_hash(tag, len) % 64) : 0;
}

void thmq_log_reader_filter(struct thmq_log_reader *reader, uint64_t tag_filter)
{
	if (thmqi_unlikely(!reader || (reader->log && !thmqi_core_is_mine(reader->log->core))))
		return;
	reader->filter = tag_filter;
	thmq_log_reader_seek(reader, reader->want);
}

/* -------------------------------------------------------------------- find */

#define STALE_MAX 4u
#define SKIP_BUDGET 1024u /* runs that one call passes over */

enum { IN_MEMORY = 1, SEALED = 2, MOVED = 3 };

static bool is_sealed(const struct thmq_log_reader *r)
{
	const struct run_index *x = r->index;

	return x->held_count && r->want < x->sealed_end;
}

/* What was before the first run that is held is gone, if anything is. */
static bool is_gone(const struct thmq_log_reader *r, uint64_t begin)
{
	return r->want < begin && (r->log->disk ? r->log->segments[0]->position > 0 : r->index->first > 0);
}

/* Where what is wanted is. Return: IN_MEMORY, entry `at`; SEALED; MOVED; 0 nowhere yet; -THMQ_EOFFSETRANGE. */
static int find(struct thmq_log_reader *r)
{
	struct run_index *x = r->index;
	uint64_t begin, moved;
	bool sealed;

	if (!x) {
		x = thmqi_map_get(&r->log->partitions, r->partition);
		if (!x)
			return 0;
		r->index = x;
	}
	if (!r->log->disk)
		thmqi_index_trim(r->log, x, r->log->cache_first);
	thmqi_index_settle(r->log, x);
	sealed = is_sealed(r);
	begin = thmqi_index_begin(x);
	moved = thmqi_moved_begin(x);
	if (is_gone(r, THMQI_MIN(begin, moved))) {
		r->want = 0;
		r->sought = true;
		return -THMQ_EOFFSETRANGE;
	}
	if (thmqi_unlikely(r->want < begin && moved < begin))
		return MOVED;
	if (sealed)
		return SEALED;
	r->at = thmqi_index_find(x, r->want);
	if (r->at == x->count && r->want > x->end)
		return 0; /* runs may come that end before it */
	r->sought = false;
	return r->at < x->count ? IN_MEMORY : 0;
}

/* -------------------------------------------------------------------- read */

struct found {
	struct thmqi_buf *buf;
	uint8_t *data; /* of its batch */
	uint32_t run_at;
	uint64_t index; /* of its batch */
	uint64_t end;   /* behind its offsets */
};

/* Of a hit only an offset is known; of a run of no message that is the same. */
static bool is_run(const struct thmq_run_header *run, const struct place *p)
{
	if (p->span || (run->base_offset == p->base_offset && !run->span))
		return run->base_offset == p->base_offset && run->span == p->span;
	return thmqi_run_covers(run, p->base_offset);
}

/* The bytes come from the device: they must be what the index says. */
static bool is_expected(const struct thmq_log_reader *r, const struct window *w, const uint8_t *data, const struct place *p)
{
	const struct batch_header *h = (const struct batch_header *)data;
	const struct thmq_run_header *run = (const struct thmq_run_header *)(data + p->run_at);
	uint64_t position = p->segment->position + p->at;

	/* the window was checked, but not that a batch begins here */
	return thmqi_batch_header_ok(h, position, r->log->chain.log_id) &&
	       h->len <= w->len - (position - w->position) && p->run_at >= sizeof(*h) &&
	       p->run_at + sizeof(*run) <= h->len && run->partition == r->partition &&
	       is_run(run, p) && thmqi_run_header_ok(run, h->len - p->run_at);
}

/* Return: 1; 0 it is being read; or an error. */
static int from_device(struct thmq_log_reader *r, const struct place *p, struct found *f)
{
	struct window *w;
	int rc = thmqi_window_get(r, p->segment, p->at, p->len, &w, &f->data);

	if (rc != 1)
		return rc;
	f->buf = w->buf;
	f->run_at = p->run_at;
	f->index = ((const struct batch_header *)f->data)->index;
	f->end = p->base_offset + p->span;
	if (is_expected(r, w, f->data, p))
		return 1;
	thmqi_windows_drop(r);
	return -THMQ_ECORRUPT;
}

static int entry_from_device(struct thmq_log_reader *r, const struct entry *e, struct found *f)
{
	struct segment *s = r->log->disk ? thmqi_segment_of_index(r->log, e->batch) : NULL;
	struct place p = {.segment = s, .run_at = e->at, .base_offset = e->base_offset, .span = e->span};
	uint64_t number;

	if (!s || !s->blocks)
		return -ESTALE;
	number = e->batch - s->first_index;
	p.at = (uint64_t)s->blocks[number] * THMQI_BLOCK;
	if (number + 1 < s->batch_count)
		p.len = (s->blocks[number + 1] - s->blocks[number]) * THMQI_BLOCK;
	return from_device(r, &p, f);
}

/* Return: 1; 0 not yet; or an error. */
static int from_entry(struct thmq_log_reader *r, const struct entry *e, uint64_t end_offset, struct found *f)
{
	struct thmq_log *log = r->log;

	if (e->base_offset >= end_offset)
		return 0;
	f->run_at = e->at;
	f->index = e->batch;
	f->end = e->base_offset + e->span;
	f->buf = e->batch > log->chain.index ? log->forming.buf : thmqi_cache_get(log, e->batch);
	if (thmqi_unlikely(f->buf == NULL))
		return entry_from_device(r, e, f);
	f->data = f->buf->data;
	return 1;
}

/* To the next entry that the filter lets through. False: there is none, or not yet. */
static bool skip(struct thmq_log_reader *r, uint64_t end_offset)
{
	const struct run_index *x = r->index;
	uint32_t budget = SKIP_BUDGET;

	for (; r->at < x->count; r->at++) {
		const struct entry e = thmqi_index_entry(x, r->at);

		if (e.base_offset >= end_offset)
			return false;
		if (!thmqi_reader_skips(r, e.tag_filter))
			return true;
		if (!budget--) { /* others have their turn */
			r->waiting = r->log->tell_readers = true;
			return false;
		}
		r->want = e.base_offset + e.span;
	}
	return false;
}

static int from_memory(struct thmq_log_reader *r, uint64_t end_offset, struct found *f)
{
	struct entry e;
	int rc;

	if (thmqi_unlikely(r->filter) && !skip(r, end_offset))
		return 0;
	e = thmqi_index_entry(r->index, r->at);
	rc = from_entry(r, &e, end_offset, f);
	r->at += rc == 1;
	return rc;
}

/* Return: as from_sealed(). */
static int from_moved(struct thmq_log_reader *r, uint64_t end_offset, struct found *f)
{
	struct entry e;
	struct place p;
	int rc = thmqi_lookup_moved(r, thmqi_index_begin(r->index), &p, &e);

	if (rc != 1)
		return rc;
	if (!p.segment)
		return from_entry(r, &e, end_offset, f);
	return p.base_offset < end_offset ? from_device(r, &p, f) : 0;
}

/* Return: 1; 0 not yet; -ENOENT what is wanted is in memory; or an error. */
static int from_sealed(struct thmq_log_reader *r, uint64_t end_offset, struct found *f)
{
	struct place p;
	int rc = thmqi_lookup_next(r, &p);

	if (rc != 1)
		return rc;
	if (p.base_offset >= end_offset)
		return 0;
	return from_device(r, &p, f);
}

static void fill(const struct thmq_log_reader *r, const struct found *f, struct thmq_log_view *ret_view)
{
	const struct thmq_log *log = r->log;
	const struct batch_header *h = (const struct batch_header *)f->data;

	thmqi_buf_ref(f->buf);
	ret_view->run.header = (const struct thmq_run_header *)(f->data + f->run_at);
	ret_view->run.payload = ret_view->run.header + 1;
	ret_view->run.index = f->index;
	if (!log->disk || f->buf == log->forming.buf) { /* it has no header yet */
		ret_view->run.position = log->disk ? log->chain.position : 0;
		ret_view->run.term = log->term;
	} else {
		ret_view->run.position = h->position;
		ret_view->run.term = h->term;
	}
	ret_view->internal[0] = f->buf;
	ret_view->internal[1] = NULL;
}

/* Return: as thmq_log_read(); -ESTALE what was found is no more: look again. */
static int next(struct thmq_log_reader *r, uint64_t end_offset, struct found *f)
{
	const struct run_index *x = r->index;
	int rc;

	/* a ring's oldest entries are looked at only when their batch is wanted */
	if (thmqi_likely(x && !r->sought && r->at >= x->first))
		return r->at < x->count ? from_memory(r, end_offset, f) : 0;
	rc = find(r);
	if (thmqi_unlikely(rc == MOVED)) {
		rc = from_moved(r, end_offset, f);
		if (rc != -ENOENT)
			return rc;
		if (thmqi_index_begin(r->index) == UINT64_MAX)
			return 0; /* those were all */
		r->want = thmqi_index_begin(r->index);
		rc = find(r);
	}
	if (rc == SEALED) {
		rc = from_sealed(r, end_offset, f);
		if (rc != -ENOENT)
			return rc;
		r->want = r->index->sealed_end;
		rc = find(r);
	}
	return rc == IN_MEMORY ? from_memory(r, end_offset, f) : rc;
}

int thmq_log_read(struct thmq_log_reader *reader, uint64_t end_offset, struct thmq_log_view *ret_view)
{
	struct found f;
	uint32_t tries;
	int rc;

	if (thmqi_unlikely(!reader || !ret_view))
		return -EINVAL;
	if (thmqi_unlikely(!reader->log))
		return 0;
	if (thmqi_unlikely(!thmqi_core_is_mine(reader->log->core)))
		return -EPERM;
	rc = next(reader, end_offset, &f);
	for (tries = 0; thmqi_unlikely(rc == -ESTALE) && tries < STALE_MAX; tries++) {
		reader->sought = true;
		reader->search.active = false;
		reader->cursor = (struct cursor){0};
		rc = next(reader, end_offset, &f);
	}
	if (rc <= 0)
		return rc == -ESTALE ? -THMQ_ECORRUPT : rc;
	reader->want = f.end;
	fill(reader, &f, ret_view);
	return 1;
}

bool thmqi_log_read_newest(struct thmq_log_reader *r, struct thmq_log_view *ret_view)
{
	const struct run_index *x = r->index;
	struct entry e;
	struct found f;

	if (!x || r->sought || r->filter || r->at + 1 != x->count || r->at < x->first)
		return false;
	e = thmqi_index_entry(x, r->at);
	if (e.batch <= r->log->chain.index)
		return false;
	f = (struct found){.buf = r->log->forming.buf,
			   .data = r->log->forming.buf->data,
			   .run_at = e.at,
			   .index = e.batch,
			   .end = e.base_offset + e.span};
	r->at++;
	r->want = f.end;
	fill(r, &f, ret_view);
	return true;
}

bool thmqi_log_reader_awaits(const struct thmq_log_reader *r, uint64_t base_offset)
{
	const struct run_index *x = r->index;

	/* there is a place for its entry: more than that and what thmq_log_append() has made sure of no append needs */
	return x && !r->sought && !r->filter && r->at == x->count && r->at >= x->first && base_offset >= x->end && !thmqi_index_full(x);
}

void thmqi_log_reader_pass(struct thmq_log_reader *r, uint64_t end_offset)
{
	const struct run_index *x = r->index;

	if (thmqi_likely(!r->sought && r->at + 1 == x->count)) {
		r->at++;
		r->want = end_offset;
	} else {
		thmq_log_reader_seek(r, end_offset);
	}
}

bool thmqi_log_reader_waits(const struct thmq_log_reader *reader)
{
	return reader->log && (reader->reading || reader->waiting);
}

uint64_t thmqi_log_reader_stands(const struct thmq_log_reader *reader)
{
	return reader->want;
}

int thmq_log_reader_find_time(struct thmq_log_reader *reader, int64_t time_ns, uint64_t *ret_offset)
{
	struct run_index *x;
	struct cursor *c;
	struct place p;
	uint64_t i;
	int rc;

	if (!reader || !ret_offset)
		return -EINVAL;
	x = reader->index;
	c = &reader->cursor;
	if (!reader->log)
		return -ENOENT;
	if (!thmqi_core_is_mine(reader->log->core))
		return -EPERM;
	if (!x)
		x = reader->index = thmqi_map_get(&reader->log->partitions, reader->partition);
	if (!x)
		return -ENOENT;
	if (!reader->log->disk)
		thmqi_index_trim(reader->log, x, reader->log->cache_first);
	thmqi_index_settle(reader->log, x);
	if (thmqi_moved_begin(x) < thmqi_index_begin(x) && x->moved->time_max_ns >= time_ns) {
		*ret_offset = thmqi_moved_begin(x); /* an earlier one, perhaps, never a later */
		return 1;
	}
	if (x->held_count) {
		if (!c->by_time || c->time_ns != time_ns)
			*c = (struct cursor){.by_time = true, .time_ns = time_ns};
		rc = thmqi_lookup_next(reader, &p);
		if (rc == 0)
			return 0;
		*c = (struct cursor){0};
		if (rc == 1)
			*ret_offset = p.base_offset;
		if (rc != -ENOENT)
			return rc;
	}
	/* in a ring the times of what fell out still count: it may be an earlier run that is held, never a later one */
	i = thmqi_index_find_time(reader->log, x, time_ns);
	if (i == x->count)
		return -ENOENT;
	*ret_offset = thmqi_index_entry(x, i).base_offset;
	return 1;
}

/* ---------------------------------------------------------------- of one key */

/* The segment of a hit's place, if it is held and full. */
static struct segment *segment_of_hit(const struct thmq_log *log, uint64_t position)
{
	uint32_t lo = 0, hi = log->segment_count, mid;

	while (lo + 1 < hi) {
		mid = lo + (hi - lo) / 2;
		if (log->segments[mid]->position <= position)
			lo = mid;
		else
			hi = mid;
	}
	return lo < hi && log->segments[lo]->sealed && position - log->segments[lo]->position < log->segments[lo]->bytes ?
		       log->segments[lo] :
		       NULL;
}

/* Return: 1; 0 it is being read; -ENOENT it is not where the hit says; or an error. */
static int from_hit(struct thmq_log_reader *r, const struct thmq_log_hit *hit, struct found *f)
{
	struct segment *s = hit->internal[0] == THMQI_HIT_NO_PLACE ? NULL : segment_of_hit(r->log, hit->internal[0]);
	struct place p = {.segment = s, .base_offset = hit->offset, .run_at = (uint32_t)hit->internal[1]};
	int rc;

	if (!s || hit->internal[1] >> 32 > BATCH_BYTES_MAX / THMQI_BLOCK)
		return -ENOENT;
	p.at = hit->internal[0] - s->position;
	p.len = (uint32_t)(hit->internal[1] >> 32) * THMQI_BLOCK;
	if (p.len > s->bytes - p.at || p.run_at > p.len)
		return -ENOENT;
	rc = from_device(r, &p, f);
	return rc == -THMQ_ECORRUPT ? -ENOENT : rc;
}

/* Likewise, by its offset: the reader goes there. */
static int by_offset(struct thmq_log_reader *r, uint64_t offset, struct thmq_log_view *ret_view)
{
	uint64_t filter = r->filter;
	int rc;

	if (!r->hit_sought) {
		thmq_log_reader_seek(r, offset);
		r->hit_sought = true;
	}
	r->filter = 0;
	rc = thmq_log_read(r, UINT64_MAX, ret_view);
	r->filter = filter;
	if (rc == 0 && (!r->index || offset >= r->index->end || (!r->reading && !r->waiting)))
		rc = -ENOENT; /* nothing is under way */
	if (rc == 1 && !thmqi_run_covers(ret_view->run.header, offset)) {
		thmq_log_view_release(r->log, ret_view);
		rc = -ENOENT;
	}
	r->hit_sought = rc == 0;
	return rc == -THMQ_EOFFSETRANGE ? -ENOENT : rc;
}

static int find_record(const struct thmq_log_run *run, uint64_t offset, struct thmq_record_view *ret_record)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;

	if (thmqi_record_begin(&it, run->header) != 0)
		return -ENOENT;
	while (thmqi_record_next(&it, &v) == 1) {
		if (v.offset != offset)
			continue;
		*ret_record = v;
		return 1;
	}
	return -ENOENT;
}

int thmq_log_read_hit(struct thmq_log_reader *reader, const struct thmq_log_hit *hit, struct thmq_log_view *ret_view,
		      struct thmq_record_view *ret_record)
{
	struct found f;
	int rc;

	if (!reader || !hit || !ret_view || !ret_record)
		return -EINVAL;
	if (!reader->log)
		return -ENOENT;
	if (!thmqi_core_is_mine(reader->log->core))
		return -EPERM;
	rc = reader->hit_sought ? -ENOENT : from_hit(reader, hit, &f);
	if (rc == 1)
		fill(reader, &f, ret_view);
	else if (rc == -ENOENT)
		rc = by_offset(reader, hit->offset, ret_view);
	if (rc != 1)
		return rc;
	rc = find_record(&ret_view->run, hit->offset, ret_record);
	if (rc != 1)
		thmq_log_view_release(reader->log, ret_view);
	return rc;
}

int thmqi_log_read_at(struct thmq_log_reader *r, uint64_t offset, struct thmq_log_view *ret_view, struct thmq_record_view *ret_record)
{
	const struct thmq_log_hit hit = {.offset = offset, .internal = {THMQI_HIT_NO_PLACE, 0}};
	int rc = thmq_log_read_hit(r, &hit, ret_view, ret_record);

	if (rc != 0 || r->reading || r->waiting)
		return rc;
	/* behind all that is held, though the partition goes on further */
	thmq_log_reader_seek(r, 0);
	return -ENOENT;
}

void thmqi_log_view_again(const struct thmq_log_view *view, struct thmq_log_view *ret_view)
{
	thmqi_buf_ref(view->internal[0]);
	*ret_view = *view;
}

void thmq_log_view_release(struct thmq_log *log, struct thmq_log_view *view)
{
	struct thmqi_buf *buf = view ? view->internal[0] : NULL;

	(void)log;
	if (!buf)
		return;
	thmqi_buf_unref(buf);
	view->internal[0] = NULL;
}

/* ---------------------------------------------------------------- all of them */

/* What they stand behind may be gone, and their windows may hold what will be overwritten. None is reading. */
void thmqi_readers_cut(struct thmq_log *log)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		drop_memory(r);
		r->sought = true;
		if (r->index && r->want > r->index->end)
			r->want = r->index->end;
	}
}

void thmqi_readers_wake(struct thmq_log *log)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		if (!r->waiting)
			continue;
		r->waiting = false;
		if (r->ready)
			r->ready(r->ctx);
	}
}

void thmqi_readers_orphan(struct thmq_log *log)
{
	while (!thmqi_list_empty(&log->readers)) {
		struct thmq_log_reader *r = thmqi_list_first(&log->readers, struct thmq_log_reader, link);

		thmqi_list_del(&r->link);
		drop_memory(r);
		r->log = NULL;
	}
}

/* ----------------------------------------------------------------- look-ups */

int thmq_log_bounds(struct thmq_log *log, uint32_t partition, uint64_t *ret_begin, uint64_t *ret_end)
{
	struct run_index *x;

	if (thmqi_unlikely(!log || !ret_begin || !ret_end))
		return -EINVAL;
	if (thmqi_unlikely(!thmqi_core_is_mine(log->core)))
		return -EPERM;
	x = thmqi_map_get(&log->partitions, partition);
	if (x && !log->disk)
		thmqi_index_trim(log, x, log->cache_first);
	if (x)
		thmqi_index_settle(log, x);
	if (!x || (x->first == x->count && !x->held_count && thmqi_moved_begin(x) == UINT64_MAX)) {
		*ret_begin = *ret_end = 0;
		return -ENOENT;
	}
	*ret_begin = THMQI_MIN(thmqi_index_begin(x), thmqi_moved_begin(x));
	*ret_end = x->end;
	return 0;
}

void thmq_log_forget(struct thmq_log *log, uint32_t partition)
{
	struct run_index *x;
	struct thmqi_list *it;

	if (thmqi_unlikely(!log || !thmqi_core_is_mine(log->core)))
		return;
	x = thmqi_map_remove(&log->partitions, partition);
	if (!x)
		return;
	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		if (r->index == x) {
			r->index = NULL;
			r->keys.ended = true;
			r->keys.telling = r->keys.moved = r->keys.placed = false;
			r->cursor = (struct cursor){0};
			r->search.active = false;
			r->want = 0;
			r->sought = true;
		}
	}
	if (log->last_index == x)
		log->last_index = NULL;
	thmqi_index_free(log, x);
}
