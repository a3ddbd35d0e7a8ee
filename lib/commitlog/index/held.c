/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held.c - which sealed segments have runs of a partition: one small entry each, so that a look-up goes to the right index
 * file at once. What a partition may take is bounded: where there are many segments every second entry goes, and a look-up
 * walks over those between two that stayed.
 */
#include "../internal.h"
#include "keys.h"
#include "seal_format.h"

#define MANY_PARTITIONS 8192u /* from so many on each has less */

static uint32_t room_of(enum piece kind)
{
	return thmqi_arena_bytes(kind) / (uint32_t)sizeof(struct held);
}

static uint32_t room_in(const struct run_index *x)
{
	return x->held ? room_of(x->held_kind) : 0;
}

void thmqi_held_free(struct thmq_log *log, struct run_index *x)
{
	if (x->held)
		thmqi_arena_put(&log->arena, x->held_kind, x->held);
	x->held = NULL;
	x->held_count = 0;
}

/* The first and the last one stay. */
static void thin(struct run_index *x)
{
	uint32_t from, to = 1;

	for (from = 2; from < x->held_count; from += 2)
		x->held[to++] = x->held[from];
	if (x->held_count % 2 == 0)
		x->held[to++] = x->held[x->held_count - 1];
	x->held_count = to & 4095;
	x->thinned = true;
}

static int grow(struct thmq_log *log, struct run_index *x)
{
	enum piece most = log->partitions.count > MANY_PARTITIONS ? PIECE_FEW : PIECE_CHUNK, kind;
	struct held *held;

	if (room_in(x) >= room_of(most)) {
		thin(x);
		return 0;
	}
	/* where there are many partitions what one gives back is not another's need: few sizes */
	kind = !x->held ? PIECE_MITE : most == PIECE_FEW ? most : x->held_kind + 1u;
	held = thmqi_arena_get(&log->arena, kind);
	if (!held)
		return -ENOMEM;
	if (x->held) {
		memcpy(held, x->held, x->held_count * sizeof(*held));
		thmqi_arena_put(&log->arena, x->held_kind, x->held);
	}
	x->held = held;
	x->held_kind = kind & 15;
	return 0;
}

static struct held held_of(uint32_t segment, uint64_t offset)
{
	return (struct held){.segment = segment, .offset = {(uint32_t)offset, (uint32_t)(offset >> 32)}};
}

int thmqi_held_add(struct thmq_log *log, struct run_index *x, uint32_t segment, uint64_t first_offset, uint64_t end_offset)
{
	thmqi_held_trim(log, x);
	if (x->held_count == room_in(x) && grow(log, x) != 0)
		return -ENOMEM;
	x->held[x->held_count++] = held_of(segment, first_offset);
	x->sealed_end = THMQI_MAX(x->sealed_end, end_offset);
	x->end = THMQI_MAX(x->end, end_offset);
	return 0;
}

/* Where some were left out, the oldest segments that are still there may have runs before the first that stayed. */
void thmqi_held_trim(const struct thmq_log *log, struct run_index *x)
{
	uint32_t gone = 0;

	while (gone < x->held_count && x->held[gone].segment < log->segment_base)
		gone++;
	if (gone && x->thinned && gone < x->held_count && x->held[gone].segment > log->segment_base)
		x->held[--gone].segment = log->segment_base;
	if (!gone)
		return;
	memmove(x->held, x->held + gone, (x->held_count - gone) * sizeof(*x->held));
	x->held_count = (x->held_count - gone) & 4095;
}

void thmqi_held_dropped(const struct thmq_log *log, struct run_index *x, uint64_t end_offset)
{
	thmqi_held_trim(log, x);
	if (x->thinned && x->held_count && thmqi_held_offset(&x->held[0]) < end_offset)
		x->held[0] = held_of(x->held[0].segment, end_offset);
}

void thmqi_held_cut(struct run_index *x, uint32_t segment)
{
	while (x->held_count && x->held[x->held_count - 1].segment >= segment)
		x->held_count--;
}

bool thmqi_held_find(const struct thmq_log *log, const struct run_index *x, uint64_t offset, uint32_t from, uint32_t *ret_segment)
{
	uint32_t lo = 0, hi = x->held_count, mid, segment;

	if (!x->held_count)
		return false;
	while (lo < hi) { /* lo: how many begin at or before offset */
		mid = lo + (hi - lo) / 2;
		if (thmqi_held_offset(&x->held[mid]) <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	segment = x->held[lo ? lo - 1 : 0].segment;
	if (segment < from) {
		for (; lo < x->held_count && x->held[lo].segment < from; lo++)
			;
		if (lo == x->held_count)
			return false; /* the last one is never left out */
		segment = x->thinned ? from : x->held[lo].segment;
	}
	*ret_segment = THMQI_MAX(segment, log->segment_base);
	return true;
}

bool thmqi_held_back(const struct run_index *x, uint32_t from, uint64_t limit, uint32_t *ret_segment)
{
	uint32_t i = x->held_count;

	while (i && (x->held[i - 1].segment > from || thmqi_held_offset(&x->held[i - 1]) >= limit))
		i--;
	if (!i)
		return false;
	/* between two that stayed others may have some, up to the next one */
	*ret_segment = !x->thinned	 ? x->held[i - 1].segment :
		       i == x->held_count ? from :
					    THMQI_MIN(from, x->held[i].segment - 1);
	return true;
}

/* --------------------------------------------------------------- taking over */

static int take_over_moved(struct run_index *x, const struct segment *s, uint64_t last)
{
	const struct run_index *list = &x->moved->entries;
	uint64_t i, begin = UINT64_MAX, end = 0;
	int rc = 0;

	for (i = list->first; i < list->count; i++) {
		const struct entry e = thmqi_index_entry(list, i);

		if (e.batch > last)
			continue;
		begin = THMQI_MIN(begin, e.base_offset);
		end = THMQI_MAX(end, e.base_offset + e.span);
	}
	if (end)
		rc = thmqi_moved_range_add(x, s->ordinal, begin, end, x->moved->time_max_ns);
	if (!rc)
		thmqi_moved_keep(x, last + 1, UINT64_MAX);
	return rc;
}

int thmqi_index_take_over(struct thmq_log *log, struct run_index *x, const struct segment *s)
{
	uint64_t last = s->first_index + s->batch_count - 1, behind;
	struct entry end;
	int rc = thmqi_arena_fill(&log->arena);

	if (!rc && x->moved)
		rc = take_over_moved(x, s, last);
	behind = thmqi_index_find_batch(x, last + 1);
	if (rc || behind == x->first)
		return rc;
	end = thmqi_index_entry(x, behind - 1);
	rc = thmqi_held_add(log, x, s->ordinal, thmqi_index_entry(x, x->first).base_offset,
			    end.base_offset + end.span);
	if (!rc)
		thmqi_index_trim(log, x, last + 1);
	return rc;
}

int thmqi_index_take_over_all(struct thmq_log *log)
{
	struct run_index *x;
	struct segment *s;
	uint32_t i;
	int rc = 0;

	for (; log->sealed_next < log->segment_base + log->segment_count; log->sealed_next++) {
		s = thmqi_segment_at(log, log->sealed_next);
		if (!s->sealed)
			break;
		for (i = 0; !rc && (x = thmqi_map_next(&log->partitions, &i));)
			rc = thmqi_index_take_over(log, x, s);
		if (rc)
			return rc;
		thmqi_segment_forget_blocks(s);
		thmqi_keys_drop(log, s);
	}
	return 0;
}
