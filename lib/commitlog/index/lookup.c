/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookup.c - the next run of a reader's partition in segments whose entries are not in memory: which segment (held.c), then the
 * page of its index that knows the partition, then the page that has the run. Where an index cannot be read the segment's
 * batches are looked through instead. Never blocks: what is not there is asked for, and the reader called.
 */
#include "../internal.h"
#include "../reading.h"
#include "seal_format.h"

#define UNKNOWN UINT32_MAX
#define PAGES_AHEAD 4u /* of runs, that are read together */

/* ------------------------------------------------------------------- pages */

static void page_drop(struct thmq_log_reader *r)
{
	if (r->page.buf)
		thmqi_buf_unref(r->page.buf);
	r->page.buf = NULL;
	r->page.len = 0;
	r->page.error = 0;
}

void thmqi_lookup_drop(struct thmq_log_reader *r)
{
	if (!r->page.reading)
		page_drop(r);
	r->cursor = (struct cursor){0};
	r->search.active = false;
	if (r->keys.placed) { /* the same segment, from where the last hit was */
		r->keys.placed = false;
		r->keys.segment++;
		r->keys.best_count = r->keys.telling ? r->keys.best_count : 0;
	}
}

static void on_page(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log_reader *r = thmqi_container(op, struct thmq_log_reader, page.op);
	uint64_t place = r->page.owner->position + r->page.at;
	uint32_t at;

	r->page.reading = false;
	if (r->closed) {
		page_drop(r);
		thmqi_reader_done(r, r->page.owner);
		return;
	}
	thmqi_reader_done(r, r->page.owner);
	for (at = 0; result >= (int64_t)(at + SEAL_PAGE) && seal_page_ok(r->page.buf->data + at, place + at); at += SEAL_PAGE)
		;
	r->page.len = at;
	if (!at)
		r->page.error = result < 0 ? (int)result : -THMQ_ECORRUPT;
	thmqi_reader_tell(r);
}

static int page_start(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len)
{
	struct thmqi_disk_file *file;
	struct thmqi_buf *buf;
	int rc = thmqi_file_use(r->log, s, SEGMENT_INDEX, &file);

	if (!rc)
		rc = thmqi_log_alloc(r->log, len, THMQI_OWNER_INDEX, &buf);
	if (!rc) {
		r->page.op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
						    .len = len,
						    .file = file,
						    .buf = buf,
						    .data = buf->data,
						    .offset = at,
						    .done = on_page};
		rc = thmqi_reader_submit(r, s, &r->page.op);
		if (rc)
			thmqi_buf_unref(buf);
	}
	thmqi_reader_fed(r, rc);
	if (rc) {
		r->waiting = true;
		return rc == -ENOBUFS || rc == -EAGAIN ? 0 : rc;
	}
	page_drop(r);
	r->page.buf = buf;
	r->page.segment = s->ordinal;
	r->page.owner = s;
	r->page.at = at;
	r->page.reading = true;
	return 0;
}

int thmqi_page_get(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len, const void **ret_page)
{
	if (r->page.reading)
		return 0;
	if (r->page.buf && r->page.segment == s->ordinal) {
		if (at >= r->page.at && at - r->page.at < r->page.len) {
			*ret_page = r->page.buf->data + (at - r->page.at);
			return 1;
		}
		if (at == r->page.at && r->page.error)
			return r->page.error;
	}
	return page_start(r, s, at, len);
}

/* --------------------------------------------------------------- partitions */

static bool wanted(const struct thmq_log_reader *r, const struct seal_partition *p)
{
	if (r->cursor.moved)
		return p->moved_end > r->want;
	if (p->count == p->moved)
		return false;
	return r->cursor.by_time ? p->last_time_ns >= r->cursor.time_ns : p->end_offset > r->want;
}

/* Which runs of the segment are the partition's. Return: 1; 0 being read; -ENOENT none that is wanted; or an error. */
static int find_partition(struct thmq_log_reader *r, struct segment *s)
{
	const struct seal_partition_page *page;
	struct cursor *c = &r->cursor;
	uint32_t home, i;
	int rc;

	if (!s->sealed->partition_pages)
		return -ENOENT;
	home = seal_partition_page_of(r->partition, s->sealed->partition_pages);
	if (c->page == UNKNOWN)
		c->page = home;
	do {
		rc = thmqi_page_get(r, s, s->sealed->partitions_at + (uint64_t)c->page * SEAL_PAGE, SEAL_PAGE, (const void **)&page);
		if (rc != 1)
			return rc;
		for (i = 0; i < SEAL_PAGE_PARTITIONS; i++) {
			const struct seal_partition *p = &page->entries[i];

			if (p->count && p->partition != r->partition)
				continue;
			if (!p->count || !wanted(r, p))
				return -ENOENT;
			c->found = true;
			c->first = c->moved ? p->first : p->first + p->moved;
			c->count = c->moved ? p->moved : p->count - p->moved;
			c->run = UNKNOWN;
			return 1;
		}
		c->page = (c->page + 1) % s->sealed->partition_pages; /* it was full */
	} while (c->page != home);
	return -ENOENT;
}

/* -------------------------------------------------------------------- runs */

/* Does what is wanted lie in the page that begins with @f, or behind it? */
static bool at_or_behind(const struct thmq_log_reader *r, const struct seal_fence *f)
{
	return r->cursor.by_time ? f->time_max_ns < r->cursor.time_ns : f->base_offset <= r->want;
}

/* The run to begin to look from: the first of the partition's in the page that has what is wanted. */
static uint32_t first_run(const struct thmq_log_reader *r, struct segment *s)
{
	const struct cursor *c = &r->cursor;
	uint32_t lo = c->first / SEAL_PAGE_RUNS, hi = (c->first + c->count - 1) / SEAL_PAGE_RUNS, mid;

	while (lo < hi) { /* pages behind the first begin with runs of this partition */
		mid = lo + (hi - lo + 1) / 2;
		if (at_or_behind(r, &s->sealed->fences[mid]))
			lo = mid;
		else
			hi = mid - 1;
	}
	return THMQI_MAX(c->first, lo * SEAL_PAGE_RUNS);
}

static bool run_is_wanted(const struct thmq_log_reader *r, const struct seal_run *run)
{
	if (thmqi_reader_skips(r, run->tag_filter))
		return false;
	return r->cursor.by_time ? run->time_max_ns >= r->cursor.time_ns : run->base_offset + run->span > r->want;
}

static bool is_possible(const struct segment *s, const struct seal_run *run)
{
	return run->blocks && run->blocks <= BATCH_BYTES_MAX / THMQI_BLOCK &&
	       ((uint64_t)run->block + run->blocks) * THMQI_BLOCK <= s->bytes && run->at % 8 == 0 &&
	       run->at >= sizeof(struct batch_header) &&
	       (uint64_t)run->at + sizeof(struct thmq_run_header) <= (uint64_t)run->blocks * THMQI_BLOCK;
}

/* Return: 1 *@ret_place; 0 being read; -ENOENT none any more; or an error. */
static int next_run(struct thmq_log_reader *r, struct segment *s, struct place *ret_place)
{
	const struct seal_run_page *page;
	struct cursor *c = &r->cursor;
	bool ahead = c->run != UNKNOWN;
	const struct seal_run *run;
	int rc;

	if (!ahead)
		c->run = first_run(r, s);
	for (; c->run < c->first + c->count; c->run++) {
		uint32_t number = c->run / SEAL_PAGE_RUNS;
		uint32_t pages = ahead ? THMQI_MIN(PAGES_AHEAD, s->sealed->run_pages - number) : 1;

		rc = thmqi_page_get(r, s, s->sealed->runs_at + (uint64_t)number * SEAL_PAGE, pages * SEAL_PAGE, (const void **)&page);
		if (rc != 1)
			return rc;
		run = &page->runs[c->run % SEAL_PAGE_RUNS];
		if (!run_is_wanted(r, run))
			continue;
		if (!is_possible(s, run))
			return -THMQ_ECORRUPT;
		*ret_place = (struct place){.segment = s,
					    .at = (uint64_t)run->block * THMQI_BLOCK,
					    .len = run->blocks * THMQI_BLOCK,
					    .run_at = run->at,
					    .base_offset = run->base_offset,
					    .span = run->span};
		return 1;
	}
	return -ENOENT;
}

/* ---------------------------------------------------------- without an index */

static bool scan_wants(const struct thmq_log_reader *r, const struct thmq_run_header *run)
{
	if (run->encoding == THMQ_RUN_STATE || run->partition != r->partition || thmqi_reader_skips(r, run->tag_filter) ||
	    r->cursor.moved != ((run->flags & THMQ_RUN_RELOCATED) != 0))
		return false;
	return r->cursor.by_time ? run->last_time_ns >= r->cursor.time_ns : run->base_offset + run->span > r->want;
}

static void keep_best(struct search *s, const struct place *p)
{
	if (s->found && s->best.base_offset <= p->base_offset)
		return;
	s->best = *p;
	s->found = true;
}

/* Runs that were moved lie in any order: the best of all is kept. */
static int scan(struct thmq_log_reader *r, struct segment *s, struct place *ret_place)
{
	struct cursor *c = &r->cursor;
	const struct batch_header *h;
	const uint8_t *at;
	struct window *w;
	uint8_t *data;
	uint32_t i;
	int rc;

	for (; c->scan_at < s->bytes; c->scan_at += h->len) {
		rc = thmqi_window_get(r, s, c->scan_at, 0, &w, &data);
		if (rc != 1)
			return rc;
		h = (const struct batch_header *)data;
		at = (const uint8_t *)(h + 1);
		for (i = 0; i < h->run_count; i++) {
			const struct thmq_run_header *run = (const struct thmq_run_header *)at;

			if (scan_wants(r, run)) {
				*ret_place = (struct place){.segment = s,
							    .at = c->scan_at,
							    .len = h->len,
							    .run_at = (uint32_t)(at - data),
							    .base_offset = run->base_offset,
							    .span = run->span};
				if (!c->moved)
					return 1;
				keep_best(&r->search, ret_place);
			}
			at += thmqi_run_bytes(run);
		}
	}
	return -ENOENT;
}

/* ------------------------------------------------------------------ segments */

static bool place_cursor(struct thmq_log_reader *r)
{
	const struct thmq_log *log = r->log;
	struct cursor *c = &r->cursor;
	uint32_t segment;

	for (c->from = THMQI_MAX(c->from, log->segment_base);; c->from = segment + 1) {
		if (!thmqi_held_find(log, r->index, c->by_time ? 0 : r->want, c->from, &segment))
			return false;
		if (!c->by_time || thmqi_segment_at(log, segment)->sealed->time_max_ns >= c->time_ns)
			break;
	}
	c->segment = segment;
	c->placed = true;
	c->found = c->scanning = false;
	c->page = UNKNOWN;
	c->scan_at = 0;
	return true;
}

/* In the segment where the cursor is. Return: as next_run(). */
static int look(struct thmq_log_reader *r, struct place *ret_place)
{
	struct segment *s = thmqi_segment_at(r->log, r->cursor.segment);
	struct cursor *c = &r->cursor;
	int rc = 1;

	if (!c->scanning) {
		if (!c->found)
			rc = find_partition(r, s);
		if (rc == 1)
			rc = next_run(r, s, ret_place);
		if (rc >= 0 || rc == -ENOENT || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM)
			return rc;
		c->scanning = true; /* a bad index costs time, nothing else */
		s->index_bad = true;
	}
	return scan(r, s, ret_place);
}

int thmqi_lookup_next(struct thmq_log_reader *r, struct place *ret_place)
{
	struct cursor *c = &r->cursor;
	int rc;

	for (;;) {
		if (c->moved)
			*c = (struct cursor){0};
		if (c->placed && c->segment < r->log->segment_base)
			c->placed = false; /* it was dropped: what is held begins later */
		if (!c->placed && !place_cursor(r))
			return -ENOENT;
		rc = look(r, ret_place);
		if (rc != -ENOENT)
			return rc;
		c->placed = false;
		c->from = c->segment + 1;
	}
}

/* ------------------------------------------------------------- runs that moved */

/* The newest segment that was not looked at and may have a run that goes before the best. */
static const struct moved_range *next_range(const struct thmq_log_reader *r, uint64_t end)
{
	const struct moved *m = r->index->moved;
	const struct search *s = &r->search;
	uint64_t limit = s->found ? s->best.base_offset : end;
	uint32_t i = m->range_count;

	/* by rising segments; those that were dropped go from the list later */
	while (i-- > 0 && m->ranges[i].segment >= r->log->segment_base)
		if (m->ranges[i].segment < s->before && m->ranges[i].end > r->want && m->ranges[i].begin < limit)
			return &m->ranges[i];
	return NULL;
}

static void search_begin(struct thmq_log_reader *r, uint64_t end)
{
	const struct run_index *list = &r->index->moved->entries;
	uint64_t i = thmqi_index_find(list, r->want);
	struct search *s = &r->search;

	*s = (struct search){
		.active = true, .want = r->want, .version = r->index->moved->version, .before = UINT32_MAX};
	r->cursor = (struct cursor){0};
	while (i < list->count && thmqi_reader_skips(r, thmqi_index_entry(list, i).tag_filter))
		i++;
	if (i == list->count || thmqi_index_entry(list, i).base_offset >= end)
		return;
	s->entry = thmqi_index_entry(list, i);
	s->best = (struct place){.base_offset = s->entry.base_offset, .span = s->entry.span};
	s->found = true;
}

int thmqi_lookup_moved(struct thmq_log_reader *r, uint64_t end, struct place *ret_place, struct entry *ret_entry)
{
	const struct moved_range *range;
	struct search *s = &r->search;
	struct cursor *c = &r->cursor;
	struct place p;
	int rc;

	if (!s->active || s->want != r->want || s->version != r->index->moved->version)
		search_begin(r, end);
	while ((range = next_range(r, end))) {
		if (!c->moved || c->segment != range->segment)
			*c = (struct cursor){.moved = true, .segment = range->segment, .page = UNKNOWN};
		rc = look(r, &p);
		if (rc == 0 || (rc < 0 && rc != -ENOENT))
			return rc;
		if (rc == 1 && p.base_offset < end)
			keep_best(s, &p);
		s->before = range->segment;
	}
	if (!s->found || s->best.base_offset >= end)
		return -ENOENT;
	*ret_place = s->best;
	*ret_entry = s->entry;
	return 1;
}
