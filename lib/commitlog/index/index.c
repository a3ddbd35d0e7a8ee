/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.c - which runs a partition has: entries in the order of their offsets, in pieces of an arena of the log's own. An
 * append costs no heap allocation; what a partition costs grows with its runs.
 */
#include <sys/mman.h>

#include "../internal.h"

/* ------------------------------------------------------------------- arena */

#define CHUNK_BYTES (CHUNK_ENTRIES * (uint32_t)sizeof(struct entry))
#define REGION_BYTES_MIN (64u << 10)
#define REGION_BYTES_MAX (2u << 20)
#define READY_MIN 3u /* what one append may need: a chunk, a list of chunks, and one to be cut into pieces */

struct region {
	struct region *next;
	uint64_t bytes;
};

static const uint32_t piece_entries[PIECE_KINDS] = {4, 16, CHUNK_ENTRIES};

uint32_t thmqi_arena_bytes(enum piece kind)
{
	return piece_entries[kind] * (uint32_t)sizeof(struct entry);
}

int thmqi_arena_fill(struct arena *a)
{
	uint64_t bytes = a->regions ? THMQI_MIN(a->regions->bytes * 2, (uint64_t)REGION_BYTES_MAX) : REGION_BYTES_MIN;
	struct region *r;

	if (a->ready >= READY_MIN)
		return 0;
	r = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return -ENOMEM;
	/* the first chunk of a region holds its head, what does not fill a chunk stays unused */
	r->next = a->regions;
	r->bytes = bytes;
	a->regions = r;
	while (a->fresh_bytes) {
		*(void **)a->fresh = a->free[PIECE_CHUNK];
		a->free[PIECE_CHUNK] = a->fresh;
		a->fresh += CHUNK_BYTES;
		a->fresh_bytes -= CHUNK_BYTES;
	}
	a->fresh = (uint8_t *)r + CHUNK_BYTES;
	a->fresh_bytes = (bytes / CHUNK_BYTES - 1) * CHUNK_BYTES;
	a->ready += (uint32_t)(a->fresh_bytes / CHUNK_BYTES);
	return 0;
}

void thmqi_arena_fini(struct arena *a)
{
	struct region *r, *next;

	for (r = a->regions; r; r = next) {
		next = r->next;
		munmap(r, r->bytes);
	}
	memset(a, 0, sizeof(*a));
}

void thmqi_arena_put(struct arena *a, enum piece kind, void *piece)
{
	*(void **)piece = a->free[kind];
	a->free[kind] = piece;
	a->ready += kind == PIECE_CHUNK;
}

void *thmqi_arena_get(struct arena *a, enum piece kind)
{
	uint32_t bytes = thmqi_arena_bytes(kind), at;
	uint8_t *piece = a->free[kind];

	if (piece) {
		a->free[kind] = *(void **)piece;
		a->ready -= kind == PIECE_CHUNK;
		return piece;
	}
	if (kind != PIECE_CHUNK) {
		piece = thmqi_arena_get(a, PIECE_CHUNK);
		for (at = bytes; piece && at < CHUNK_BYTES; at += bytes)
			thmqi_arena_put(a, kind, piece + at);
		return piece;
	}
	if (!a->fresh_bytes)
		return NULL;
	piece = a->fresh;
	a->fresh += CHUNK_BYTES;
	a->fresh_bytes -= CHUNK_BYTES;
	a->ready--;
	return piece;
}

/* ------------------------------------------------------------- partitions */

static struct run_index *make_index(struct thmq_log *log, uint32_t partition)
{
	struct run_index *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->partition = partition;
	x->chunks = x->few;
	x->directory_room = THMQI_ARRAY_COUNT(x->few);
	if (thmqi_map_put(&log->partitions, partition, x) != 0) {
		free(x);
		return NULL;
	}
	return x;
}

struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make)
{
	struct run_index *x = log->last_index;

	if (thmqi_likely(x && x->partition == partition))
		return x;
	x = thmqi_map_get(&log->partitions, partition);
	if (!x && make)
		x = make_index(log, partition);
	if (x)
		log->last_index = x;
	return x;
}

/* -------------------------------------------------------------------- grow */

#define DIRECTORY_PIECE (CHUNK_BYTES / (uint32_t)sizeof(struct entry *))

static void directory_free(struct thmq_log *log, struct run_index *x)
{
	if (x->directory_room > DIRECTORY_PIECE)
		munmap(x->chunks, (uint64_t)x->directory_room * sizeof(*x->chunks));
	else if (x->directory_room == DIRECTORY_PIECE)
		thmqi_arena_put(&log->arena, PIECE_CHUNK, x->chunks);
}

/* The list of chunks: in the index itself, then a piece (for 65,000 runs), then mappings that double. */
static int directory_grow(struct thmq_log *log, struct run_index *x)
{
	uint32_t room = x->directory_room < DIRECTORY_PIECE ? DIRECTORY_PIECE : x->directory_room * 8;
	struct entry **grown;

	if (room == DIRECTORY_PIECE) {
		grown = thmqi_arena_get(&log->arena, PIECE_CHUNK);
	} else {
		grown = mmap(NULL, (uint64_t)room * sizeof(*grown), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		grown = grown == MAP_FAILED ? NULL : grown;
	}
	if (!grown)
		return -ENOMEM;
	memcpy(grown, x->chunks, x->chunk_count * sizeof(*grown));
	directory_free(log, x);
	x->chunks = grown;
	x->directory_room = room;
	return 0;
}

/* The only chunk is still a smaller piece: the next larger one takes its place. */
static int enlarge(struct thmq_log *log, struct run_index *x)
{
	uint32_t has = (uint32_t)(x->room - x->chunk_base * CHUNK_ENTRIES);
	enum piece was = has == piece_entries[PIECE_FEW] ? PIECE_FEW : PIECE_SOME;
	struct entry *piece = thmqi_arena_get(&log->arena, was + 1);

	if (!piece)
		return -ENOMEM;
	memcpy(piece, x->chunks[0], has * sizeof(*piece));
	thmqi_arena_put(&log->arena, was, x->chunks[0]);
	x->chunks[0] = piece;
	x->room = x->chunk_base * CHUNK_ENTRIES + piece_entries[was + 1];
	return 0;
}

static int grow(struct thmq_log *log, struct run_index *x)
{
	enum piece kind = x->chunk_count ? PIECE_CHUNK : PIECE_FEW;
	struct entry *piece;

	if (x->room % CHUNK_ENTRIES)
		return enlarge(log, x);
	if (!log->disk)
		thmqi_index_trim(log, x, log->cache_first);
	if (x->chunk_count == x->directory_room && directory_grow(log, x) != 0)
		return -ENOMEM;
	piece = thmqi_arena_get(&log->arena, kind);
	if (!piece)
		return -ENOMEM;
	if (!x->chunk_count)
		x->chunk_base = x->count / CHUNK_ENTRIES;
	x->chunks[x->chunk_count++] = piece;
	x->room += piece_entries[kind];
	return 0;
}

int thmqi_index_put(struct thmq_log *log, struct run_index *x, const struct entry *entry)
{
	int64_t time_max = entry->time_max_ns;
	struct entry *e;

	if (thmqi_unlikely(x->count == x->room)) {
		int rc = grow(log, x);

		if (rc)
			return rc;
	}
	if (thmqi_likely(x->count > x->first))
		time_max = THMQI_MAX(time_max, thmqi_index_entry(x, x->count - 1)->time_max_ns);
	e = thmqi_index_entry(x, x->count);
	*e = *entry;
	e->time_max_ns = time_max;
	x->end = THMQI_MAX(x->end, entry->base_offset + entry->span);
	x->count++;
	return 0;
}

int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run, uint64_t batch,
		    uint32_t at)
{
	const struct entry e = {.base_offset = run->base_offset,
				.batch = batch,
				.time_max_ns = run->last_time_ns,
				.at = at,
				.span = run->span,
				.tag_filter = run->tag_filter};

	thmqi_touch(log, x)->bytes += sizeof(*run) + run->len;
	if (thmqi_unlikely(run->flags & THMQ_RUN_RELOCATED)) /* its bytes are the original's, as long as that is held */
		return thmqi_moved_add(log, x, &e, run->last_time_ns);
	x->held_bytes += sizeof(*run) + run->len;
	return thmqi_index_put(log, x, &e);
}

/* ----------------------------------------------------------------- look up */

uint64_t thmqi_index_begin(const struct run_index *x)
{
	return x->held_count		 ? thmqi_held_offset(&x->held[0]) :
	       x->first < x->count	 ? thmqi_index_entry(x, x->first)->base_offset :
	       thmqi_moved_end(x) ? UINT64_MAX :
					   x->end;
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

uint64_t thmqi_index_find_batch(const struct run_index *x, uint64_t batch)
{
	uint64_t lo = x->first, hi = x->count, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (thmqi_index_entry(x, mid)->batch < batch)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint64_t thmqi_index_find_time(const struct run_index *x, int64_t time_ns)
{
	uint64_t lo = x->first, hi = x->count, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (thmqi_index_entry(x, mid)->time_max_ns < time_ns)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* -------------------------------------------------------------------- drop */

static enum piece kind_of(const struct run_index *x)
{
	uint64_t has = x->room - x->chunk_base * CHUNK_ENTRIES;

	return has == piece_entries[PIECE_FEW] ? PIECE_FEW : has == piece_entries[PIECE_SOME] ? PIECE_SOME : PIECE_CHUNK;
}

/* Nothing is left: all memory goes back, and the next entry begins a small piece. */
void thmqi_index_empty(struct thmq_log *log, struct run_index *x)
{
	enum piece kind = kind_of(x);
	uint32_t i;

	for (i = 0; i < x->chunk_count; i++)
		thmqi_arena_put(&log->arena, kind, x->chunks[i]);
	directory_free(log, x);
	x->chunks = x->few;
	x->directory_room = THMQI_ARRAY_COUNT(x->few);
	x->chunk_count = 0;
	x->first = x->count = x->room = THMQI_ALIGN_UP(x->count, (uint64_t)CHUNK_ENTRIES);
}

/* The chunks that become empty go too. Bounded by what was appended since the last time. */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x, uint64_t batch)
{
	uint32_t gone = 0;

	while (x->first < x->count && thmqi_index_entry(x, x->first)->batch < batch)
		x->first++;
	if (x->first == x->count && x->chunk_count && log->disk) {
		thmqi_index_empty(log, x);
		return;
	}
	while (gone < x->chunk_count && (x->chunk_base + gone + 1) * CHUNK_ENTRIES <= x->first)
		thmqi_arena_put(&log->arena, PIECE_CHUNK, x->chunks[gone++]);
	if (gone) {
		memmove(x->chunks, x->chunks + gone, (x->chunk_count - gone) * sizeof(*x->chunks));
		x->chunk_count -= gone;
		x->chunk_base += gone;
	}
}

void thmqi_index_cut(struct run_index *x, uint64_t batch)
{
	const struct entry *last;

	while (x->count > x->first && thmqi_index_entry(x, x->count - 1)->batch >= batch)
		x->count--;
	thmqi_moved_keep(x, 0, batch);
	last = x->count > x->first ? thmqi_index_entry(x, x->count - 1) : NULL;
	x->end = THMQI_MAX(last ? last->base_offset + last->span : x->sealed_end, thmqi_moved_end(x));
}

void thmqi_index_free(struct thmq_log *log, struct run_index *x)
{
	thmqi_untouch(log, x);
	thmqi_index_empty(log, x);
	thmqi_moved_free(log, x);
	thmqi_held_free(log, x);
	free(x);
}
