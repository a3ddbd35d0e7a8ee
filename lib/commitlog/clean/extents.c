/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extents.c - what a segment has of each partition, one after the other: from its index, page by page, or where it has none
 * from the entries in memory. Knows not what for.
 */
#include "../internal.h"
#include "../index/seal_format.h"

void thmqi_extents_begin(struct extents *x, struct segment *s)
{
	*x = (struct extents){.segment = s, .sealed = !s->blocks};
}

/* --------------------------------------------------------------- from memory */

/* Runs that were moved into @s. */
static void moved_in(const struct run_index *x, const struct segment *s, struct thmq_log_extent *e)
{
	const struct run_index *list = &x->moved->entries;
	uint64_t i;

	for (i = list->first; i < list->count; i++) {
		const struct entry entry = thmqi_index_entry(list, i);

		if (entry.batch < s->first_index || entry.batch - s->first_index >= s->batch_count)
			continue;
		e->begin_offset = THMQI_MIN(e->begin_offset, entry.base_offset);
		e->end_offset = THMQI_MAX(e->end_offset, entry.base_offset + entry.span);
		e->last_time_ns = THMQI_MAX(e->last_time_ns, entry.time_max_ns);
		e->messages++;
	}
}

bool thmqi_extent_in_memory(const struct segment *s, const struct run_index *run,
			    struct thmq_log_extent *ret)
{
	uint64_t lo = thmqi_index_find_batch(run, s->first_index),
		 hi = thmqi_index_find_batch(run, s->first_index + s->batch_count);
	struct entry e;

	*ret = (struct thmq_log_extent){.partition = run->partition,
					.begin_offset = UINT64_MAX,
					.last_time_ns = INT64_MIN,
					.held_bytes = run->held_bytes};
	if (run->moved)
		moved_in(run, s, ret);
	if (lo < hi) {
		e = thmqi_index_entry(run, hi - 1);
		ret->begin_offset =
			THMQI_MIN(ret->begin_offset, thmqi_index_entry(run, lo).base_offset);
		ret->end_offset = e.base_offset + e.span;
		ret->last_time_ns = THMQI_MAX(ret->last_time_ns, e.time_max_ns);
		ret->messages += hi - lo; /* of which here nothing but their number is known */
	}
	if (!ret->messages)
		return false;
	ret->bytes = s->bytes * ret->messages / THMQI_MAX(s->run_count, 1u);
	ret->messages = ret->end_offset - ret->begin_offset;
	return true;
}

static int from_memory(struct thmq_log *log, struct extents *x, struct thmq_log_extent *ret)
{
	const struct run_index *run;

	while ((run = thmqi_map_next(&log->partitions, &x->cursor)))
		if (thmqi_extent_in_memory(x->segment, run, ret)) {
			x->fresh_bytes = run->moved ? ret->bytes / 2 : ret->bytes; /* a guess: its index will tell */
			return 1;
		}
	return 0;
}

/* ---------------------------------------------------------------- from index */

static void on_page(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log *log = thmqi_container(op, struct thmq_log, clean.page.op);
	struct extents_page *p = &log->clean.page;

	p->reading = false;
	p->segment->reads--;
	p->segment = NULL;
	log->reads--;
	if (result < (int64_t)SEAL_PAGE || !seal_page_ok(p->buf->data, p->position + op->offset))
		p->error = result < 0 ? (int)result : -THMQ_ECORRUPT;
}

static int start(struct thmq_log *log, struct segment *s, uint32_t number)
{
	struct extents_page *p = &log->clean.page;
	struct thmqi_disk_file *file;
	int rc = thmqi_file_use(log, s, SEGMENT_INDEX, &file);

	if (rc)
		return rc;
	if (log->draining || (!p->buf && thmqi_log_alloc(log, SEAL_PAGE, THMQI_OWNER_INDEX, &p->buf) != 0))
		return -EAGAIN;
	p->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
				       .flags = THMQI_DISK_BACKGROUND,
				       .len = SEAL_PAGE,
				       .file = file,
				       .buf = p->buf,
				       .data = p->buf->data,
				       .offset = s->sealed->partitions_at + (uint64_t)number * SEAL_PAGE,
				       .done = on_page};
	p->error = -EAGAIN; /* it holds nothing */
	if (log->disk->queue_submit(log->queue, &p->op) != 0)
		return -EAGAIN;
	p->segment = s;
	p->position = s->position;
	p->number = number;
	p->reading = true;
	p->error = 0;
	s->reads++;
	log->reads++;
	return -EAGAIN;
}

static int page_of(struct thmq_log *log, struct segment *s, uint32_t number, const struct seal_partition_page **ret_page)
{
	struct extents_page *p = &log->clean.page;

	if (p->reading)
		return -EAGAIN;
	if (!p->buf || p->position != s->position || p->number != number || p->error == -EAGAIN)
		return start(log, s, number);
	*ret_page = (const struct seal_partition_page *)p->buf->data;
	return p->error;
}

static int from_index(struct thmq_log *log, struct extents *x, struct thmq_log_extent *ret)
{
	const struct seal_partition_page *page;
	const struct seal_partition *p;
	const struct run_index *run;
	int rc;

	for (; x->cursor / SEAL_PAGE_PARTITIONS < x->segment->sealed->partition_pages; x->cursor++) {
		rc = page_of(log, x->segment, x->cursor / SEAL_PAGE_PARTITIONS, &page);
		if (rc)
			return rc;
		p = &page->entries[x->cursor % SEAL_PAGE_PARTITIONS];
		if (!p->count)
			continue;
		run = thmqi_map_get(&log->partitions, p->partition);
		*ret = (struct thmq_log_extent){.partition = p->partition,
						.begin_offset = p->moved ? p->moved_begin : p->begin_offset,
						.end_offset = THMQI_MAX(p->end_offset, p->moved_end),
						.messages = p->messages,
						.bytes = p->bytes,
						.last_time_ns = p->last_time_ns,
						.held_bytes = run ? run->held_bytes : 0};
		x->fresh_bytes = p->bytes / p->count * (p->count - THMQI_MIN(p->moved, p->count));
		x->cursor++;
		return 1;
	}
	return 0;
}

int thmqi_extents_next(struct thmq_log *log, struct extents *x, struct thmq_log_extent *ret)
{
	if (x->sealed == (x->segment->blocks != NULL))
		return -ESTALE; /* what it was begun with is no more */
	return x->sealed ? from_index(log, x, ret) : from_memory(log, x, ret);
}

void thmqi_extents_fini(struct thmq_log *log)
{
	if (log->clean.page.buf)
		thmqi_buf_unref(log->clean.page.buf);
	log->clean.page.buf = NULL;
}

void thmqi_index_dropped(struct thmq_log *log, const struct segment *s)
{
	struct run_index *run;
	uint32_t i = 0;

	if (!s->blocks)
		return; /* held.c leaves it out from now on */
	while ((run = thmqi_map_next(&log->partitions, &i))) {
		thmqi_index_trim(log, run, s->first_index + s->batch_count);
		thmqi_moved_keep(run, s->first_index + s->batch_count, UINT64_MAX);
	}
}
