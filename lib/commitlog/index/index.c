/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.c - which runs a partition has: entries in the order of their offsets, in pieces of an arena of the log's own. An
 * append costs no heap allocation; what a partition costs grows with its runs in segments that have no index yet, and shrinks.
 */
#include <sys/mman.h>

#include "../internal.h"
#include "commitlog/hint.h"

/* ------------------------------------------------------------------- arena */

#define CHUNK_BYTES 5120u
#define REGION_BYTES_MIN (256u << 10)
#define REGION_BYTES_MAX (2u << 20)
#define HUGE_PAGE_BYTES (2ull << 20)

struct region {
	struct region *next;
	uint64_t bytes;
};

/* Each fits into a chunk without a rest. */
static const uint32_t piece_bytes[PIECE_KINDS] = {40, 80, 160, 320, 640, CHUNK_BYTES, 128};

uint32_t thmqi_arena_bytes(enum piece kind)
{
	return piece_bytes[kind];
}

/*
 * Of very many partitions what an append touches lies anywhere in an arena, and the translation of its address costs as much as the access
 * itself: from where it is as large as that it is of huge pages, where there are some. NULL: out of memory.
 */
static struct region *map_region(uint64_t bytes)
{
	const uint64_t slack = bytes < HUGE_PAGE_BYTES ? 0 : HUGE_PAGE_BYTES;
	uint8_t *at = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t before;

	if (at == MAP_FAILED)
		return NULL;
	if (!slack)
		return (struct region *)at;
	before = -(uintptr_t)at & (HUGE_PAGE_BYTES - 1);
	if (before)
		munmap(at, before);
	at += before;
	munmap(at + bytes, slack - before);
	madvise(at, bytes, MADV_HUGEPAGE); /* refused where the kernel has none */
	return (struct region *)at;
}

int thmqi_arena_fill(struct arena *a)
{
	uint64_t bytes = a->regions ? THMQI_MIN(a->regions->bytes * 2, (uint64_t)REGION_BYTES_MAX) : REGION_BYTES_MIN;
	struct region *r;

	if (a->ready >= ARENA_READY)
		return 0;
	r = map_region(bytes);
	if (!r)
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
		thmqi_prefetch_write(a->free[kind]); /* the next one: it was given back long ago, by any partition */
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
	struct run_index *x = thmqi_arena_fill(&log->arena)
				      ? NULL
				      : thmqi_arena_get(&log->arena, PIECE_NARROW); /* as large */

	if (!x)
		return NULL;
	memset(x, 0, sizeof(*x));
	x->partition = partition;
	if (thmqi_map_put(&log->partitions, partition, x) != 0) {
		thmqi_arena_put(&log->arena, PIECE_NARROW, x);
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

struct run_index *thmqi_log_index(struct thmq_log *log, uint32_t partition)
{
	return thmqi_map_get(&log->partitions, partition);
}

void thmqi_log_expect(struct thmq_log *log, struct run_index *index)
{
	log->last_index = index;
}

void thmqi_log_hint(const struct run_index *x, enum thmqi_log_hint hint)
{
	uintptr_t chunk;

	if (hint == THMQI_LOG_HINT_FAR) {
		thmqi_prefetch_write(x);
		thmqi_prefetch_write((const char *)x + THMQI_CACHELINE);
	} else if (hint == THMQI_LOG_HINT_NEAR) {
		if (x->directory)
			__builtin_prefetch(&x->list[x->chunk_count - 1]);
	} else if (!thmqi_index_full(x)) { /* the head of what it goes to, and its place there */
		chunk = thmqi_index_chunk(x, x->count);
		thmqi_prefetch_write(thmqi_chunk_at(chunk));
		thmqi_prefetch_write(thmqi_index_place(x, x->count));
	}
	/* the entry before it, whose time bounds its own, lies in the chunk before */
	if (hint == THMQI_LOG_HINT_NEXT && x->count > x->first && !(x->count & x->mask)) {
		chunk = thmqi_index_chunk(x, x->count - 1);
		__builtin_prefetch(thmqi_chunk_at(chunk));
		__builtin_prefetch(thmqi_index_place(x, x->count - 1));
	}
}

/* ------------------------------------------------------------------ narrow */

/* What comes next in a block is told by what differs from the block's first entry. */
static void narrow_begin(struct narrow *n, const struct entry *e)
{
	n->base_offset = e->base_offset;
	n->batch = e->batch;
	n->time_ns = e->time_max_ns;
	n->tag_filter = e->tag_filter;
}

/* Return: false it differs too much, or holds too much. */
static bool narrow_put(struct narrow *n, uint32_t place, const struct entry *e)
{
	uint64_t offset = e->base_offset - n->base_offset, batch = e->batch - n->batch;
	uint64_t time = (uint64_t)e->time_max_ns - (uint64_t)n->time_ns;

	if ((offset >> ROW_OFFSET_BITS) | (batch >> ROW_BATCH_BITS) | (time >> ROW_TIME_BITS) |
	    (e->span >> ROW_SPAN_BITS) | (e->at >> (ROW_AT_BITS + 3)) | (e->at & 7) |
	    (e->tag_filter ^ n->tag_filter))
		return false;
	n->rows[place] = (struct row){.at = e->at / 8,
				      .offset = (uint32_t)offset,
				      .time_low = (uint32_t)time,
				      .time_high = (uint32_t)(time >> 32),
				      .batch = (uint32_t)batch,
				      .span = e->span};
	return true;
}

/* -------------------------------------------------------------------- grow */

#define RING_FEW 3u  /* masks: of four entries, */
#define RING_SOME 7u /* and of eight */

/* Sizes of the list of chunks: pieces, then mappings that grow eightfold. */
enum { DIRECTORY_NONE, DIRECTORY_MITE, DIRECTORY_TINY, DIRECTORY_FEW, DIRECTORY_CHUNK };

static bool is_ring(const struct run_index *x)
{
	return !x->directory && x->chunk_count;
}

static enum piece kind_of(const struct run_index *x, uintptr_t chunk)
{
	return chunk & CHUNK_NARROW ? PIECE_NARROW : x->mask == RING_FEW ? PIECE_FEW : PIECE_SOME;
}

static void chunk_put(struct thmq_log *log, const struct run_index *x, uintptr_t chunk)
{
	thmqi_arena_put(&log->arena, kind_of(x, chunk), thmqi_chunk_at(chunk));
}

/* Of NARROW_ENTRIES, narrow as long as that will do. 0: out of memory. */
static uintptr_t chunk_new(struct thmq_log *log, const struct run_index *x)
{
	void *piece = thmqi_arena_get(&log->arena, x->wide ? PIECE_SOME : PIECE_NARROW);

	return (uintptr_t)piece | (piece && !x->wide ? CHUNK_NARROW : 0);
}

/* Return: 0; -ENOMEM, and nothing has changed. */
static int chunk_widen(struct thmq_log *log, uintptr_t *chunk)
{
	struct narrow *n = thmqi_chunk_at(*chunk);
	struct entry *wide = thmqi_arena_get(&log->arena, PIECE_SOME);
	uint32_t i;

	if (!wide)
		return -ENOMEM;
	for (i = 0; i < NARROW_ENTRIES; i++) /* also those that are not in use */
		wide[i] = thmqi_narrow_get(n, i);
	thmqi_arena_put(&log->arena, PIECE_NARROW, n);
	*chunk = (uintptr_t)wide;
	return 0;
}

/* @first: nothing else in it is in use. */
static int chunk_set(struct thmq_log *log, uintptr_t *chunk, uint32_t place, const struct entry *e,
		     bool first)
{
	struct narrow *n = thmqi_chunk_at(*chunk);

	if (thmqi_likely(*chunk & CHUNK_NARROW)) {
		if (first)
			narrow_begin(n, e);
		if (thmqi_likely(narrow_put(n, place, e)))
			return 0;
		if (chunk_widen(log, chunk) != 0)
			return -ENOMEM;
	}
	((struct entry *)thmqi_chunk_at(*chunk))[place] = *e;
	return 0;
}

static enum piece directory_piece(uint32_t directory)
{
	return directory == DIRECTORY_MITE   ? PIECE_MITE
	       : directory == DIRECTORY_TINY ? PIECE_TINY
	       : directory == DIRECTORY_FEW  ? PIECE_FEW
					     : PIECE_CHUNK;
}

static uint64_t directory_bytes(uint32_t directory)
{
	return directory <= DIRECTORY_CHUNK
		       ? thmqi_arena_bytes(directory_piece(directory))
		       : (uint64_t)CHUNK_BYTES << 3 * (directory - DIRECTORY_CHUNK);
}

static bool directory_full(const struct run_index *x)
{
	return x->chunk_count == directory_bytes(x->directory) / sizeof(uintptr_t);
}

static void directory_free(struct thmq_log *log, struct run_index *x)
{
	if (x->directory > DIRECTORY_CHUNK)
		munmap(x->list, directory_bytes(x->directory));
	else if (x->directory)
		thmqi_arena_put(&log->arena, directory_piece(x->directory), x->list);
}

static int directory_grow(struct thmq_log *log, struct run_index *x)
{
	uint32_t directory = x->directory + 1u;
	uintptr_t *grown;

	if (directory <= DIRECTORY_CHUNK) {
		grown = thmqi_arena_get(&log->arena, directory_piece(directory));
	} else {
		grown = mmap(NULL, directory_bytes(directory), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		grown = grown == MAP_FAILED ? NULL : grown;
	}
	if (!grown)
		return -ENOMEM;
	memcpy(grown, x->list, x->chunk_count * sizeof(*grown));
	directory_free(log, x);
	x->list = grown;
	x->directory = (uint8_t)directory;
	return 0;
}

/* All pieces go back. */
static void release(struct thmq_log *log, struct run_index *x)
{
	const uintptr_t *chunks = x->directory ? x->list : &x->one;
	uint32_t i;

	for (i = 0; i < x->chunk_count; i++)
		chunk_put(log, x, chunks[i]);
	directory_free(log, x);
	x->one = 0;
	x->directory = DIRECTORY_NONE;
	x->chunk_count = 0;
}

/* The entries first … count - 1, NARROW_ENTRIES at most, into a ring's @chunk with places of @mask. */
static bool fill_ring(const struct run_index *x, uintptr_t chunk, uint32_t mask)
{
	struct narrow *n = thmqi_chunk_at(chunk);
	uint64_t i;

	for (i = x->first; i < x->count; i++) {
		const struct entry e = thmqi_index_entry(x, i);

		if (!(chunk & CHUNK_NARROW)) {
			((struct entry *)thmqi_chunk_at(chunk))[i & mask] = e;
			continue;
		}
		if (i == x->first)
			narrow_begin(n, &e);
		if (!narrow_put(n, (uint32_t)(i & mask), &e))
			return false;
	}
	return true;
}

static void become_ring(struct thmq_log *log, struct run_index *x, uintptr_t chunk, uint32_t mask)
{
	release(log, x);
	x->one = chunk;
	x->chunk_count = 1;
	x->mask = mask & 63;
}

/* All entries, fewer than NARROW_ENTRIES, move to a ring that has room for one more: a narrow one if that will do, else @mask's. */
static int to_ring(struct thmq_log *log, struct run_index *x, bool narrow, uint32_t mask)
{
	void *piece;

	if (narrow && !x->wide) {
		piece = thmqi_arena_get(&log->arena, PIECE_NARROW);
		if (piece && fill_ring(x, (uintptr_t)piece | CHUNK_NARROW, NARROW_ENTRIES - 1)) {
			become_ring(log, x, (uintptr_t)piece | CHUNK_NARROW, NARROW_ENTRIES - 1);
			return 0;
		}
		if (piece)
			thmqi_arena_put(&log->arena, PIECE_NARROW, piece);
	}
	piece = thmqi_arena_get(&log->arena, mask == RING_FEW ? PIECE_FEW : PIECE_SOME);
	if (!piece)
		return -ENOMEM;
	fill_ring(x, (uintptr_t)piece, mask);
	become_ring(log, x, (uintptr_t)piece, mask);
	return 0;
}

/* The largest ring is full: its entries move to two chunks in a line, the second one of which has room for more. */
static int to_line(struct thmq_log *log, struct run_index *x)
{
	uintptr_t *directory = thmqi_arena_get(&log->arena, PIECE_MITE);
	uintptr_t chunks[2] = {directory ? chunk_new(log, x) : 0,
			       directory ? chunk_new(log, x) : 0};
	uint64_t base = x->first >> LINE_SHIFT, i;
	int rc = chunks[0] && chunks[1] ? 0 : -ENOMEM;

	for (i = x->first; i < x->count && !rc; i++) {
		const struct entry e = thmqi_index_entry(x, i);
		uint32_t place = i & (LINE_ENTRIES - 1);

		rc = chunk_set(log, &chunks[(i >> LINE_SHIFT) - base], place, &e,
			       i == x->first || !place);
	}
	if (rc) {
		for (i = 0; i < 2; i++)
			if (chunks[i])
				thmqi_arena_put(&log->arena,
						chunks[i] & CHUNK_NARROW ? PIECE_NARROW
									 : PIECE_SOME,
						thmqi_chunk_at(chunks[i]));
		if (directory)
			thmqi_arena_put(&log->arena, PIECE_MITE, directory);
		return rc;
	}
	release(log, x);
	directory[0] = chunks[0];
	directory[1] = chunks[1];
	x->list = directory;
	x->directory = DIRECTORY_MITE;
	x->chunk_count = 2;
	x->mask = LINE_ENTRIES - 1;
	return 0;
}

/* Entries below it have their places. */
static uint64_t room_of(const struct run_index *x)
{
	return is_ring(x) ? x->first + x->mask + 1
			  : ((x->first >> LINE_SHIFT) + x->chunk_count) << LINE_SHIFT;
}

static int grow(struct thmq_log *log, struct run_index *x)
{
	uintptr_t chunk;

	if (!log->disk)
		thmqi_index_trim(log, x, log->cache_first);
	if (!x->chunk_count)
		return to_ring(log, x, true, RING_FEW);
	if (room_of(x) - x->count >
	    x->mask /
		    2u) /* a ring that is never more than nearly full would be trimmed for each run */
		return 0;
	if (is_ring(x))
		return x->mask == RING_FEW ? to_ring(log, x, false, RING_SOME) : to_line(log, x);
	if (directory_full(x) && directory_grow(log, x) != 0)
		return -ENOMEM;
	chunk = chunk_new(log, x);
	if (!chunk)
		return -ENOMEM;
	x->list[x->chunk_count++] = chunk;
	return 0;
}

/* A narrow ring has gone on too far from its first entry: it begins anew with what is left, or becomes a wide one. */
static int put_far(struct thmq_log *log, struct run_index *x, const struct entry *e)
{
	uint32_t mask = x->count - x->first <= RING_FEW ? RING_FEW : RING_SOME;
	int rc = x->count > x->first ? to_ring(log, x, true, mask) : 0;

	if (!rc && (x->one & CHUNK_NARROW)) {
		if (x->count > x->first &&
		    narrow_put(thmqi_chunk_at(x->one), (uint32_t)x->count & x->mask, e))
			return 0;
		rc = to_ring(log, x, false, mask);
	}
	if (!rc)
		*thmqi_index_wide(x, x->count) = *e;
	return rc;
}

/* Its place is there. */
static int put(struct thmq_log *log, struct run_index *x, const struct entry *e)
{
	uint32_t place = (uint32_t)x->count & x->mask;
	struct narrow *n;

	if (!is_ring(x))
		return chunk_set(log, &x->list[(x->count >> LINE_SHIFT) - (x->first >> LINE_SHIFT)],
				 place, e, !place);
	n = thmqi_chunk_at(x->one);
	if (!(x->one & CHUNK_NARROW)) {
		((struct entry *)n)[place] = *e;
		return 0;
	}
	if (x->count == x->first)
		narrow_begin(n, e);
	return thmqi_likely(narrow_put(n, place, e)) ? 0 : put_far(log, x, e);
}

/* What mostly comes, and has its place: it is no older than the entry before it, which lies in the same narrow block. */
static bool put_next(struct run_index *x, const struct entry *e)
{
	const uint32_t place = (uint32_t)x->count & x->mask;
	const struct row *before;
	struct narrow *n;
	uintptr_t chunk;

	if (x->count == x->first || (x->directory && !place))
		return false;
	chunk = thmqi_index_chunk(x, x->count);
	if (!(chunk & CHUNK_NARROW))
		return false;
	n = thmqi_chunk_at(chunk);
	before = &n->rows[(place - 1) & x->mask];
	return (uint64_t)e->time_max_ns - (uint64_t)n->time_ns >= ((uint64_t)before->time_high << 32 | before->time_low) &&
	       narrow_put(n, place, e);
}

int thmqi_index_put(struct thmq_log *log, struct run_index *x, const struct entry *entry)
{
	struct entry e, before;
	int rc;

	if (thmqi_unlikely(thmqi_index_full(x))) {
		rc = grow(log, x);
		if (rc)
			return rc;
	}
	if (thmqi_likely(put_next(x, entry))) {
		x->end = THMQI_MAX(x->end, entry->base_offset + entry->span);
		x->count++;
		return 0;
	}
	e = *entry;
	/* not beyond the segment: else one message of the far future would keep all that come after it from growing old */
	if (thmqi_likely(x->count > x->first)) {
		before = thmqi_index_entry(x, x->count - 1);
		if (before.time_max_ns > e.time_max_ns && before.batch >= log->carry_from &&
		    !x->wide)
			e.time_max_ns = before.time_max_ns;
	}
	rc = put(log, x, &e);
	if (thmqi_unlikely(rc))
		return rc;
	x->end = THMQI_MAX(x->end, e.base_offset + e.span);
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
	if (thmqi_likely(!moved))
		x->held_bytes += sizeof(*run) + run->len;
	else /* they are the original's, as long as that is held */
		x->moved->doubled_bytes += sizeof(*run) + run->len;
	return 0;
}

/* ----------------------------------------------------------------- look up */

uint64_t thmqi_index_begin(const struct run_index *x)
{
	return x->held_count         ? thmqi_held_offset(&x->held[0])
	       : x->first < x->count ? thmqi_index_entry(x, x->first).base_offset
	       : thmqi_moved_end(x)  ? UINT64_MAX
				     : x->end;
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

/* The first entry from @lo on that @is, as all behind it are; or @hi. */
static inline __attribute__((always_inline)) uint64_t
find_first(const struct run_index *x, uint64_t lo, uint64_t hi,
	   bool (*is)(const struct entry *e, uint64_t what), uint64_t what)
{
	uint64_t mid;

	while (lo < hi) {
		struct entry e;

		mid = lo + (hi - lo) / 2;
		e = thmqi_index_entry(x, mid);
		if (is(&e, what))
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

uint64_t thmqi_index_find(const struct run_index *x, uint64_t offset)
{
	return find_first(x, x->first, x->count, ends_behind, offset);
}

uint64_t thmqi_index_find_batch(const struct run_index *x, uint64_t batch)
{
	return find_first(x, x->first, x->count, is_in_or_behind, batch);
}

/* Times rise within a segment, and there are few that have no index yet. */
uint64_t thmqi_index_find_time(const struct thmq_log *log, const struct run_index *x,
			       int64_t time_ns)
{
	uint64_t lo = x->first, hi, at;
	uint32_t i;

	for (i = log->sealed_next - log->segment_base; i + 1 < log->segment_count; i++) {
		const struct segment *next = log->segments[i + 1];

		hi = thmqi_index_find_batch(x, next == log->active ? log->carry_from
								   : next->first_index);
		at = find_first(x, lo, hi, reaches, (uint64_t)time_ns);
		if (at < hi)
			return at;
		lo = hi;
	}
	return find_first(x, lo, x->count, reaches, (uint64_t)time_ns);
}

/* -------------------------------------------------------------------- drop */

/*
 * Nothing is left: all memory goes back. A number is left out, so that a reader that is at the end looks for its place anew:
 * what comes may be older entries.
 */
void thmqi_index_empty(struct thmq_log *log, struct run_index *x)
{
	release(log, x);
	x->first = x->count = x->count + 1;
}

/* There is little left: it moves to a ring which that does not fill. Where there is none, it stays. */
static void shrink(struct thmq_log *log, struct run_index *x)
{
	uint64_t left = x->count - x->first;
	uint64_t room = is_ring(x) ? x->mask + 1u : (uint64_t)x->chunk_count << LINE_SHIFT;

	if (left * 4 > room || left >= NARROW_ENTRIES ||
	    (is_ring(x) && (x->mask == RING_FEW || (x->one & CHUNK_NARROW))))
		return;
	to_ring(log, x, true, left <= RING_FEW ? RING_FEW : RING_SOME);
}

/* The chunks that become empty go too. Bounded by what was appended since the last time. */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x, uint64_t batch)
{
	uint64_t first = x->first;
	uint32_t gone, i;

	while (first < x->count && thmqi_index_entry(x, first).batch < batch)
		first++;
	if (first == x->count && log->disk && x->chunk_count) {
		thmqi_index_empty(log, x);
		return;
	}
	gone = x->directory ? (uint32_t)((first >> LINE_SHIFT) - (x->first >> LINE_SHIFT)) : 0;
	x->first = first;
	if (!x->chunk_count)
		return;
	for (i = 0; i < gone; i++)
		chunk_put(log, x, x->list[i]);
	if (gone) {
		x->chunk_count -= gone;
		memmove(x->list, x->list + gone, x->chunk_count * sizeof(*x->list));
	}
	if (log->disk) /* a ring in memory is trimmed whenever it is full */
		shrink(log, x);
}

void thmqi_index_cut(struct run_index *x, uint64_t batch)
{
	uint64_t end = x->sealed_end;

	while (x->count > x->first && thmqi_index_entry(x, x->count - 1).batch >= batch)
		x->count--;
	thmqi_moved_keep(x, 0, batch);
	if (x->count > x->first) {
		const struct entry last = thmqi_index_entry(x, x->count - 1);

		end = last.base_offset + last.span;
	}
	x->end = THMQI_MAX(end, thmqi_moved_end(x));
}

void thmqi_index_free(struct thmq_log *log, struct run_index *x)
{
	thmqi_untouch(log, x);
	thmqi_index_empty(log, x);
	thmqi_moved_free(log, x);
	thmqi_held_free(log, x);
	thmqi_arena_put(&log->arena, PIECE_NARROW, x);
}
