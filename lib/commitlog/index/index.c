/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.c - which runs a partition has: entries in the order of their offsets, in pieces of an arena of the log's own. An
 * append costs no heap allocation; what a partition costs grows with its runs in segments that have no index yet, and shrinks.
 */
#include <sys/mman.h>

#include "../internal.h"
#include "commitlog/hint.h"

/* ------------------------------------------------------------------- arena */

#define CHUNK_BYTES (128u * (uint32_t)sizeof(struct entry))
#define REGION_BYTES_MIN (256u << 10)
#define REGION_BYTES_MAX (2u << 20)
#define READY_MIN 3u /* what one append may need: a list, and two to be cut into pieces */

struct region {
	struct region *next;
	uint64_t bytes;
};

static const uint32_t piece_entries[PIECE_KINDS] = {4, 8, 16, 128};

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

void thmqi_log_hint(struct thmq_log *log, uint32_t partition, enum thmqi_log_hint hint)
{
	const struct run_index *x;
	uint32_t at;

	if (hint == THMQI_LOG_HINT_FAR) {
		thmqi_map_prefetch(&log->partitions, partition);
		return;
	}
	x = thmqi_map_get(&log->partitions, partition);
	if (!x)
		return;
	if (hint == THMQI_LOG_HINT_NEAR)
		for (at = 0; at < sizeof(*x); at += THMQI_CACHELINE)
			thmqi_prefetch_write((const char *)x + at);
	else if (x->count < x->room)
		thmqi_prefetch_write(thmqi_index_entry(x, x->count));
}

/* -------------------------------------------------------------------- grow */

#define RING_SHIFT 63u /* there is one chunk only */
#define LINE_SHIFT 4u  /* chunks of PIECE_MANY */
#define LINE_ENTRIES (1u << LINE_SHIFT)
#define DIRECTORY_FEW (4u * (uint32_t)(sizeof(struct entry) / sizeof(struct entry *)))
#define DIRECTORY_CHUNK (CHUNK_BYTES / (uint32_t)sizeof(struct entry *))

static bool is_ring(const struct run_index *x)
{
	return x->shift == RING_SHIFT;
}

/* Of its chunks. */
static enum piece kind_of(const struct run_index *x)
{
	return x->mask + 1u == piece_entries[PIECE_FEW]	 ? PIECE_FEW :
	       x->mask + 1u == piece_entries[PIECE_SOME] ? PIECE_SOME :
							   PIECE_MANY;
}

static void directory_free(struct thmq_log *log, struct run_index *x)
{
	if (x->directory_room > DIRECTORY_CHUNK)
		munmap(x->chunks, (uint64_t)x->directory_room * sizeof(*x->chunks));
	else if (x->directory_room > THMQI_ARRAY_COUNT(x->few))
		thmqi_arena_put(&log->arena, x->directory_room == DIRECTORY_FEW ? PIECE_FEW : PIECE_CHUNK, x->chunks);
}

/* The list of chunks: a small piece (for 320 runs), a large one (10,000 runs), then mappings that grow eightfold. */
static int directory_grow(struct thmq_log *log, struct run_index *x)
{
	uint32_t room = x->directory_room < DIRECTORY_FEW   ? DIRECTORY_FEW :
			x->directory_room < DIRECTORY_CHUNK ? DIRECTORY_CHUNK :
							      x->directory_room * 8;
	struct entry **grown;

	if (room <= DIRECTORY_CHUNK) {
		grown = thmqi_arena_get(&log->arena, room == DIRECTORY_FEW ? PIECE_FEW : PIECE_CHUNK);
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

/* All pieces go back. */
static void release(struct thmq_log *log, struct run_index *x)
{
	uint32_t i;

	for (i = 0; i < x->chunk_count; i++)
		thmqi_arena_put(&log->arena, kind_of(x), x->chunks[i]);
	directory_free(log, x);
	x->chunks = x->few;
	x->directory_room = THMQI_ARRAY_COUNT(x->few);
	x->chunk_count = 0;
}

/* All entries, which are fewer than it has room for, move to a ring of @kind. */
static int to_ring(struct thmq_log *log, struct run_index *x, enum piece kind)
{
	uint32_t mask = piece_entries[kind] - 1;
	struct entry *ring = thmqi_arena_get(&log->arena, kind);
	uint64_t i;

	if (!ring)
		return -ENOMEM;
	for (i = x->first; i < x->count; i++)
		ring[i & mask] = *thmqi_index_entry(x, i);
	release(log, x);
	x->few[0] = ring;
	x->chunk_count = 1;
	x->chunk_base = 0;
	x->shift = RING_SHIFT;
	x->mask = (uint8_t)mask;
	x->room = x->first + mask + 1;
	return 0;
}

/* The largest ring is full: its entries move to two chunks in a line, the second one of which has room for more. */
static int to_line(struct thmq_log *log, struct run_index *x)
{
	struct entry **directory = thmqi_arena_get(&log->arena, PIECE_FEW);
	struct entry *chunks[2] = {thmqi_arena_get(&log->arena, PIECE_MANY), thmqi_arena_get(&log->arena, PIECE_MANY)};
	uint64_t base = x->first >> LINE_SHIFT, i;

	if (!directory || !chunks[0] || !chunks[1]) {
		if (directory)
			thmqi_arena_put(&log->arena, PIECE_FEW, directory);
		for (i = 0; i < 2; i++)
			if (chunks[i])
				thmqi_arena_put(&log->arena, PIECE_MANY, chunks[i]);
		return -ENOMEM;
	}
	for (i = x->first; i < x->count; i++)
		chunks[(i >> LINE_SHIFT) - base][i & (LINE_ENTRIES - 1)] = *thmqi_index_entry(x, i);
	release(log, x);
	directory[0] = chunks[0];
	directory[1] = chunks[1];
	x->chunks = directory;
	x->directory_room = DIRECTORY_FEW;
	x->chunk_count = 2;
	x->chunk_base = base;
	x->shift = LINE_SHIFT;
	x->mask = LINE_ENTRIES - 1;
	x->room = (base + 2) << LINE_SHIFT;
	return 0;
}

static int grow(struct thmq_log *log, struct run_index *x)
{
	struct entry *piece;

	if (!log->disk)
		thmqi_index_trim(log, x, log->cache_first);
	if (x->room - x->count > x->mask / 2u) /* a ring that is never more than nearly full would be trimmed for each run */
		return 0;
	if (!x->chunk_count)
		return to_ring(log, x, PIECE_FEW);
	if (is_ring(x))
		return kind_of(x) == PIECE_MANY ? to_line(log, x) : to_ring(log, x, kind_of(x) + 1);
	if (x->chunk_count == x->directory_room && directory_grow(log, x) != 0)
		return -ENOMEM;
	piece = thmqi_arena_get(&log->arena, PIECE_MANY);
	if (!piece)
		return -ENOMEM;
	x->chunks[x->chunk_count++] = piece;
	x->room += LINE_ENTRIES;
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

	bool moved = run->flags & THMQ_RUN_RELOCATED;
	int rc = thmqi_unlikely(moved) ? thmqi_moved_add(log, x, &e, run->last_time_ns) : thmqi_index_put(log, x, &e);

	if (thmqi_unlikely(rc))
		return rc;
	thmqi_touch(log, x)->bytes += sizeof(*run) + run->len;
	if (thmqi_likely(!moved)) /* else its bytes are the original's, as long as that is held */
		x->held_bytes += sizeof(*run) + run->len;
	return 0;
}

/* ----------------------------------------------------------------- look up */

uint64_t thmqi_index_begin(const struct run_index *x)
{
	return x->held_count		 ? thmqi_held_offset(&x->held[0]) :
	       x->first < x->count	 ? thmqi_index_entry(x, x->first)->base_offset :
	       thmqi_moved_end(x) ? UINT64_MAX :
					   x->end;
}

static bool ends_behind(const struct entry *e, uint64_t offset)
{
	return e->base_offset + e->span > offset;
}

static bool is_in_or_behind(const struct entry *e, uint64_t batch)
{
	return e->batch >= batch;
}

static bool reaches(const struct entry *e, uint64_t time_ns)
{
	return e->time_max_ns >= (int64_t)time_ns;
}

/* The first entry that @is, as all behind it are; or the end. */
static inline __attribute__((always_inline)) uint64_t
find_first(const struct run_index *x, bool (*is)(const struct entry *e, uint64_t what), uint64_t what)
{
	uint64_t lo = x->first, hi = x->count, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (is(thmqi_index_entry(x, mid), what))
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

uint64_t thmqi_index_find(const struct run_index *x, uint64_t offset)
{
	return find_first(x, ends_behind, offset);
}

uint64_t thmqi_index_find_batch(const struct run_index *x, uint64_t batch)
{
	return find_first(x, is_in_or_behind, batch);
}

uint64_t thmqi_index_find_time(const struct run_index *x, int64_t time_ns)
{
	return find_first(x, reaches, (uint64_t)time_ns);
}

/* -------------------------------------------------------------------- drop */

/*
 * Nothing is left: all memory goes back. A number is left out, so that a reader that is at the end looks for its place anew:
 * what comes may be older entries.
 */
void thmqi_index_empty(struct thmq_log *log, struct run_index *x)
{
	release(log, x);
	x->first = x->count = x->room = x->count + 1;
}

/* There is little left: it moves to a ring which that does not fill. Where there is none, it stays. */
static void shrink(struct thmq_log *log, struct run_index *x)
{
	uint64_t left = x->count - x->first;
	uint64_t room = is_ring(x) ? x->mask + 1u : (uint64_t)x->chunk_count << LINE_SHIFT;
	enum piece kind;

	if (left * 4 > room)
		return;
	for (kind = PIECE_FEW; kind < PIECE_CHUNK && left >= piece_entries[kind]; kind++)
		;
	if (is_ring(x) ? kind < kind_of(x) : kind < PIECE_CHUNK)
		to_ring(log, x, kind);
}

/* The chunks that become empty go too. Bounded by what was appended since the last time. */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x, uint64_t batch)
{
	uint32_t gone = 0;

	while (x->first < x->count && thmqi_index_entry(x, x->first)->batch < batch)
		x->first++;
	if (!x->chunk_count)
		return;
	if (x->first == x->count && log->disk) {
		thmqi_index_empty(log, x);
		return;
	}
	if (is_ring(x)) {
		x->room = x->first + x->mask + 1;
	} else {
		while (gone < x->chunk_count && (x->chunk_base + gone + 1) << LINE_SHIFT <= x->first)
			thmqi_arena_put(&log->arena, PIECE_MANY, x->chunks[gone++]);
		if (gone) {
			memmove(x->chunks, x->chunks + gone, (x->chunk_count - gone) * sizeof(*x->chunks));
			x->chunk_count -= gone;
			x->chunk_base += gone;
		}
	}
	if (log->disk) /* a ring in memory is trimmed whenever it is full */
		shrink(log, x);
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
