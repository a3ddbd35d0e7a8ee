/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moved.c - runs that a cleaner appended again with their old offsets. They are out of the order of the log, so they have a list
 * of their own: entries by offset in memory, and of sealed segments the range of offsets that each has.
 */
#include "../internal.h"

static struct moved *moved_of(struct run_index *x)
{
	struct run_index *list;

	if (x->moved)
		return x->moved;
	x->moved = calloc(1, sizeof(*x->moved)); /* by the cleaner, not by a message */
	if (!x->moved)
		return NULL;
	list = &x->moved->entries;
	list->partition = x->partition;
	list->wide = true;
	x->moved->time_max_ns = INT64_MIN;
	return x->moved;
}

int thmqi_moved_add(struct thmq_log *log, struct run_index *x, const struct entry *e, int64_t time_ns)
{
	struct moved *m = moved_of(x);
	struct run_index *list = m ? &m->entries : NULL;
	uint64_t i;
	int rc = list ? thmqi_index_put(log, list, e) : -ENOMEM;

	if (rc)
		return rc;
	m->version++;
	m->time_max_ns = THMQI_MAX(m->time_max_ns, time_ns);
	x->end = THMQI_MAX(x->end, e->base_offset + e->span);
	/* most come in order */
	for (i = list->count - 1;
	     i > list->first && thmqi_index_wide(list, i - 1)->base_offset > e->base_offset; i--)
		*thmqi_index_wide(list, i) = *thmqi_index_wide(list, i - 1);
	*thmqi_index_wide(list, i) = *e;
	return 0;
}

int thmqi_moved_range_add(struct run_index *x, uint32_t segment, uint64_t begin, uint64_t end, int64_t time_ns)
{
	struct moved *m = moved_of(x);
	struct moved_range *grown;
	uint32_t room;

	if (!m)
		return -ENOMEM;
	if (m->range_count == m->range_room) {
		room = m->range_room ? m->range_room * 2 : 4;
		grown = realloc(m->ranges, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		m->ranges = grown;
		m->range_room = room;
	}
	x->end = THMQI_MAX(x->end, end);
	m->ranges[m->range_count++] = (struct moved_range){.segment = segment, .begin = begin, .end = end};
	m->version++;
	m->time_max_ns = THMQI_MAX(m->time_max_ns, time_ns);
	return 0;
}

void thmqi_moved_keep(struct run_index *x, uint64_t from, uint64_t to)
{
	struct run_index *list = x->moved ? &x->moved->entries : NULL;
	uint64_t i, kept;

	if (!list)
		return;
	for (i = kept = list->first; i < list->count; i++) {
		const struct entry *e = thmqi_index_wide(list, i);

		if (e->batch >= from && e->batch < to)
			*thmqi_index_wide(list, kept++) = *e;
	}
	x->moved->version += list->count != kept;
	list->count = kept;
}

void thmqi_moved_trim(const struct thmq_log *log, struct run_index *x)
{
	struct moved *m = x->moved;
	uint32_t gone = 0;

	while (m && gone < m->range_count && m->ranges[gone].segment < log->segment_base)
		gone++;
	if (!gone)
		return;
	m->version++;
	m->range_count -= gone;
	memmove(m->ranges, m->ranges + gone, m->range_count * sizeof(*m->ranges));
}

void thmqi_moved_cut(struct run_index *x, uint32_t segment)
{
	struct moved *m = x->moved;

	while (m && m->range_count && m->ranges[m->range_count - 1].segment >= segment)
		m->range_count--, m->version++;
}

uint64_t thmqi_moved_begin(const struct run_index *x)
{
	const struct moved *m = x->moved;
	uint64_t begin = UINT64_MAX;
	uint32_t i;

	if (m && m->entries.first < m->entries.count)
		begin = thmqi_index_wide(&m->entries, m->entries.first)->base_offset;
	for (i = 0; m && i < m->range_count; i++)
		begin = THMQI_MIN(begin, m->ranges[i].begin);
	return begin;
}

uint64_t thmqi_moved_end(const struct run_index *x)
{
	const struct moved *m = x->moved;
	const struct entry *last = m && m->entries.first < m->entries.count
					   ? thmqi_index_wide(&m->entries, m->entries.count - 1)
					   : NULL;
	uint64_t end = last ? last->base_offset + last->span : 0;
	uint32_t i;

	for (i = 0; m && i < m->range_count; i++)
		end = THMQI_MAX(end, m->ranges[i].end);
	return end;
}

void thmqi_moved_free(struct thmq_log *log, struct run_index *x)
{
	if (!x->moved)
		return;
	thmqi_index_empty(log, &x->moved->entries);
	free(x->moved->ranges);
	free(x->moved);
	x->moved = NULL;
}
