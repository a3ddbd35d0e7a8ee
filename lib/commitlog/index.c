/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.c - which runs a partition has: entries in the order of their offsets, in blocks of the core's pool, so that an
 * append costs no heap allocation but for the doubling of the list of blocks.
 */
#include "internal.h"

struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make)
{
	struct run_index *x = log->last_index;

	if (thmqi_likely(x && x->partition == partition))
		return x;
	x = thmqi_map_get(&log->partitions, partition);
	if (!x && make) {
		x = calloc(1, sizeof(*x));
		if (!x)
			return NULL;
		x->partition = partition;
		if (thmqi_map_put(&log->partitions, partition, x) != 0) {
			free(x);
			return NULL;
		}
	}
	if (x)
		log->last_index = x;
	return x;
}

struct entry *thmqi_index_entry(const struct run_index *x, uint64_t number)
{
	struct thmqi_buf *chunk = x->chunks[number / CHUNK_ENTRIES - x->chunk_base];

	return (struct entry *)chunk->data + number % CHUNK_ENTRIES;
}

static int add_chunk(struct thmq_log *log, struct run_index *x)
{
	struct thmqi_buf **grown;
	uint32_t room;

	if (x->directory_count == x->directory_room) {
		room = x->directory_room ? x->directory_room * 2 : 4;
		grown = realloc(x->chunks, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		x->chunks = grown;
		x->directory_room = room;
	}
	if (!log->spare && thmqi_buf_alloc(log->core->pool, THMQI_POOL_BLOCK_MIN, &log->spare) != 0)
		return -ENOBUFS;
	if (!x->directory_count)
		x->chunk_base = x->count / CHUNK_ENTRIES;
	x->chunks[x->directory_count++] = log->spare;
	log->spare = NULL;
	return 0;
}

/* Make sure that the next add has its room: it must not fail once the run is in the batch. */
static int reserve(struct thmq_log *log, struct run_index *x)
{
	if (x->directory_count && x->count / CHUNK_ENTRIES - x->chunk_base < x->directory_count)
		return 0;
	return add_chunk(log, x);
}

int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run, uint64_t batch,
		    uint32_t at)
{
	struct entry *e;
	int rc = reserve(log, x);

	if (rc)
		return rc;
	e = thmqi_index_entry(x, x->count);
	e->base_offset = run->base_offset;
	e->batch = batch;
	e->last_time_ns = run->last_time_ns;
	e->at = at;
	e->span = run->span;
	e->len = (uint32_t)sizeof(*run) + run->len;
	e->reserved = 0;
	x->count++;
	return 0;
}

uint64_t thmqi_index_find(const struct run_index *x, uint64_t offset)
{
	uint64_t lo = x->first, hi = x->count, mid;
	const struct entry *e;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		e = thmqi_index_entry(x, mid);
		if (e->base_offset + e->span <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Entries of batches that are no longer held go, with the blocks that become empty. */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x, uint64_t first_batch)
{
	uint32_t gone;

	(void)log;
	while (x->first < x->count && thmqi_index_entry(x, x->first)->batch < first_batch)
		x->first++;
	for (gone = 0; gone < x->directory_count && (x->chunk_base + gone + 1) * CHUNK_ENTRIES <= x->first; gone++)
		thmqi_buf_unref(x->chunks[gone]);
	if (gone) {
		memmove(x->chunks, x->chunks + gone, (x->directory_count - gone) * sizeof(*x->chunks));
		x->directory_count -= gone;
		x->chunk_base += gone;
	}
}

void thmqi_index_cut(struct run_index *x, uint64_t batch)
{
	while (x->count > x->first && thmqi_index_entry(x, x->count - 1)->batch >= batch)
		x->count--;
}

void thmqi_index_free(struct run_index *x)
{
	uint32_t i;

	for (i = 0; i < x->directory_count; i++)
		thmqi_buf_unref(x->chunks[i]);
	free(x->chunks);
	free(x);
}
