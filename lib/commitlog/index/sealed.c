/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealed.c - the index of a full segment, read: at open its states and which partitions it has, so that the segment's own
 * bytes are not read but for the last header, which tells that the index is this segment's; and what truncation needs of
 * it. Whatever does not fit means that there is no index. Blocking: readers have lookup.c.
 */
#include <sys/mman.h>

#include "../internal.h"
#include "../reading.h"
#include "head.h"
#include "keys.h"

#define READ_BYTES (8u << 20)

/* ------------------------------------------------------------------ summary */

struct sealed *thmqi_sealed_new(uint32_t run_pages, uint32_t key_pages)
{
	uint64_t bytes = sizeof(struct sealed) + (uint64_t)run_pages * sizeof(struct seal_fence) + (uint64_t)key_pages * 4;
	struct sealed *x = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (x == MAP_FAILED)
		return NULL;
	x->mapping_bytes = bytes;
	x->fences = (struct seal_fence *)(x + 1);
	x->key_fences = (uint32_t *)(x->fences + run_pages);
	return x;
}

void thmqi_sealed_note_keys(struct sealed *x, const struct seal_header *h, const void *fences)
{
	const struct seal_section_entry *keys = &h->sections[SEAL_KEYS - 1], *filter = &h->sections[SEAL_KEY_FILTER - 1];

	x->keys_at = keys->offset;
	x->key_pages = keys->count;
	x->filter_at = filter->offset;
	x->filter_bytes = filter->count;
	x->filter_crc = filter->crc;
	x->keys_missing = h->flags & SEAL_KEYS_MISSING;
	x->key_time_min_ns = h->key_time_min_ns;
	x->key_time_max_ns = h->key_time_max_ns;
	if (x->key_pages)
		memcpy(x->key_fences, fences, (size_t)x->key_pages * 4);
}

void thmqi_sealed_free(struct thmq_log *log, struct sealed *x)
{
	if (!x)
		return;
	thmqi_filter_drop(log, x);
	munmap(x, x->mapping_bytes);
}

static struct sealed *summary(const struct head *x)
{
	const struct seal_section_entry *fences = thmqi_head_section(x, SEAL_RUN_FENCES);
	struct sealed *s = thmqi_sealed_new(fences->count, thmqi_head_section(x, SEAL_KEYS)->count);

	if (!s)
		return NULL;
	thmqi_sealed_note_keys(s, (const struct seal_header *)x->data, thmqi_head_bytes(x, SEAL_KEY_FENCES));
	s->batches_at = thmqi_head_section(x, SEAL_BATCHES)->offset;
	s->partitions_at = thmqi_head_section(x, SEAL_PARTITIONS)->offset;
	s->runs_at = thmqi_head_section(x, SEAL_RUNS)->offset;
	s->partition_pages = thmqi_head_section(x, SEAL_PARTITIONS)->count;
	s->run_pages = fences->count;
	s->time_max_ns = ((const struct seal_header *)x->data)->time_max_ns;
	if (fences->bytes)
		memcpy(s->fences, thmqi_head_bytes(x, SEAL_RUN_FENCES), fences->bytes);
	return s;
}

/* ------------------------------------------------------------------- checks */

/* Where its sections lie; their bytes may not have been read yet. */
static bool layout_ok(const struct head *x)
{
	static const uint32_t sizes[SEAL_SECTIONS] = {
		sizeof(struct seal_state), 1, SEAL_PAGE, sizeof(struct seal_fence), 4, 4, SEAL_PAGE, SEAL_PAGE, 1};
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint64_t at = sizeof(*h);
	uint32_t i;

	for (i = 0; i < SEAL_SECTIONS; i++) {
		const struct seal_section_entry *e = &h->sections[i];

		if (e->kind != i + 1 || e->offset % (i + 1 >= SEAL_BATCHES || seal_has_pages(i + 1) ? SEAL_PAGE : 8) || e->offset < at || e->offset > x->file_bytes ||
		    e->bytes > x->file_bytes - e->offset || e->bytes != (uint64_t)e->count * sizes[i])
			return false;
		at = e->offset + e->bytes;
	}
	return thmqi_head_section(x, SEAL_RUNS)->count == thmqi_head_section(x, SEAL_RUN_FENCES)->count &&
	       thmqi_head_section(x, SEAL_KEYS)->count == thmqi_head_section(x, SEAL_KEY_FENCES)->count &&
	       thmqi_head_section(x, SEAL_KEY_FILTER)->bytes % SEAL_PAGE == 0 && thmqi_head_section(x, SEAL_KEY_FILTER)->bytes <= UINT32_MAX / 2 &&
	       !thmqi_head_section(x, SEAL_KEY_FILTER)->count == !thmqi_head_section(x, SEAL_KEYS)->count;
}

static bool header_ok(const struct thmq_log *log, const struct head *x, const struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t batches = h->sections[SEAL_BATCHES - 1].count;

	return h->magic == SEAL_MAGIC && h->version == FORMAT_VERSION && (seal_page_ok(h, s->position) || x->trusted) &&
	       h->section_count == SEAL_SECTIONS && !(h->flags & SEAL_PART) == !x->part && h->position == s->position &&
	       memcmp(h->log_id, log->chain.log_id, 16) == 0 && h->first_index == log->chain.index + 1 &&
	       h->prev_crc == log->chain.crc && batches && batches <= s->bytes / THMQI_BLOCK &&
	       h->last_index - h->first_index == batches - 1 && layout_ok(x);
}

static bool crc_ok(const struct head *x, uint32_t kind)
{
	const struct seal_section_entry *e = thmqi_head_section(x, kind);

	return x->trusted || e->crc == thmqi_crc32c(0, x->data + e->offset, e->bytes);
}

static bool states_ok(const struct head *x)
{
	const struct seal_state *state = thmqi_head_bytes(x, SEAL_STATES);
	uint32_t bytes = thmqi_head_section(x, SEAL_STATE_BYTES)->count, i;

	if (!crc_ok(x, SEAL_STATES) || !crc_ok(x, SEAL_STATE_BYTES))
		return false;
	for (i = 0; i < thmqi_head_section(x, SEAL_STATES)->count; i++)
		if (state[i].batch >= thmqi_head_section(x, SEAL_BATCHES)->count || state[i].offset % 8 || state[i].offset > bytes ||
		    state[i].len > bytes - state[i].offset)
			return false;
	return true;
}

static bool partitions_ok(const struct head *x)
{
	const struct seal_partition_page *page = thmqi_head_bytes(x, SEAL_PARTITIONS);
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint64_t runs = (uint64_t)thmqi_head_section(x, SEAL_RUNS)->count * SEAL_PAGE_RUNS;
	uint32_t i, k;

	for (i = 0; i < thmqi_head_section(x, SEAL_PARTITIONS)->count; i++, page++) {
		if (!seal_page_ok(page, h->position + (uint64_t)((const uint8_t *)page - x->data)) && !x->trusted)
			return false;
		for (k = 0; k < SEAL_PAGE_PARTITIONS; k++) {
			const struct seal_partition *p = &page->entries[k];

			if (p->count &&
			    ((uint64_t)p->first + p->count > runs || p->moved > p->count ||
			     (p->count > p->moved && p->begin_offset > p->end_offset) ||
			     (p->moved && p->moved_begin > p->moved_end)))
				return false;
		}
	}
	return crc_ok(x, SEAL_RUN_FENCES) && crc_ok(x, SEAL_KEY_FENCES);
}

/* The index of the next segment says that it goes on from this one, which neither would of another life of the log. */
static bool is_continued(struct thmq_log *log, const struct seal_header *h, const struct segment *s)
{
	const struct seal_header *next = thmqi_ahead_next(log, s);

	return next && next->magic == SEAL_MAGIC && next->version == FORMAT_VERSION && next->position == s->position + s->bytes &&
	       memcmp(next->log_id, log->chain.log_id, 16) == 0 && next->first_index == h->last_index + 1 &&
	       next->prev_crc == h->last_crc && seal_page_ok(next, next->position);
}

/* The segment's last batch is the one that the index ends with. s->sealed, s->index are set. */
static bool fits_segment(struct thmq_log *log, const struct head *x, struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	const struct batch_header *b = (const struct batch_header *)block;
	struct thmqi_disk_file *file;
	uint64_t at;
	bool fits;

	if (is_continued(log, h, s)) { /* saves a read of every segment but few */
		free(block);
		return true;
	}
	fits = block && thmqi_segment_place(log, s, h->last_index, &at) == 0 && thmqi_file_need(log, s, SEGMENT_LOG, &file) == 0 &&
	       log->disk->file_read(file, block, THMQI_BLOCK, at) == (int64_t)THMQI_BLOCK &&
	       thmqi_batch_header_ok(b, s->position + at, log->chain.log_id) && b->header_crc == h->last_crc &&
	       b->index == h->last_index && b->term == h->last_term && at + b->len == s->bytes;
	free(block);
	return fits;
}

/* --------------------------------------------------------------------- read */

static int read_at(struct thmq_log *log, struct thmqi_disk_file *file, void *data, uint64_t bytes, uint64_t from)
{
	uint64_t at;
	int64_t n;

	for (at = 0; at < bytes; at += (uint64_t)n) {
		n = log->disk->file_read(file, (uint8_t *)data + at, (uint32_t)THMQI_MIN(bytes - at, (uint64_t)READ_BYTES), from + at);
		if (n <= 0)
			return n ? (int)n : -THMQ_ECORRUPT;
	}
	return 0;
}

static bool open_head(struct thmq_log *log, const struct segment *s, struct ahead_head *ret)
{
	char name[40];

	if (thmqi_ahead_take(log, s, ret))
		return true;
	thmqi_seal_name(s->position, name);
	if (log->disk->file_open(log->dir, name, false, &ret->file) != 0)
		return false;
	ret->size = log->disk->file_size(ret->file);
	return true;
}

/* Its first @bytes, as far as they are not there yet from the device. */
static int read_first(struct thmq_log *log, const struct ahead_head *ahead, void *data, uint64_t bytes)
{
	uint64_t have = THMQI_MIN((uint64_t)ahead->have, bytes) / SEAL_PAGE * SEAL_PAGE;

	if (have)
		memcpy(data, ahead->data, have);
	return read_at(log, ahead->file, (uint8_t *)data + have, bytes - have, have);
}

void thmqi_head_close(struct thmq_log *log, struct head *x)
{
	if (x->file)
		log->disk->file_close(x->file);
	free(x->data);
}

int thmqi_head_read(struct thmq_log *log, const struct segment *s, const struct ahead_head *ahead, struct head *x)
{
	struct seal_header *h;
	uint64_t bytes;

	x->file = ahead->file;
	if (ahead->size < (int64_t)sizeof(*h) || ahead->size > (int64_t)SEAL_BYTES_MAX || ahead->size % SEAL_PAGE)
		return 0;
	x->file_bytes = (uint64_t)ahead->size;
	h = aligned_alloc(SEAL_PAGE, SEAL_PAGE);
	x->data = (uint8_t *)h;
	if (!h)
		return -ENOMEM;
	if (read_first(log, ahead, h, SEAL_PAGE) != 0 || !header_ok(log, x, s))
		return 0;
	bytes = thmqi_head_section(x, SEAL_BATCHES)->offset;
	free(h);
	x->data = aligned_alloc(SEAL_PAGE, bytes);
	if (!x->data)
		return -ENOMEM;
	return read_first(log, ahead, x->data, bytes) == 0 && header_ok(log, x, s) && states_ok(x) && partitions_ok(x);
}

/* --------------------------------------------------------------------- take */

int thmqi_head_replay_partition(struct thmq_log *log, const struct segment *s, const struct seal_partition *p)
{
	bool moved = p->moved == p->count;
	const struct thmq_run_header header = {.magic = THMQ_RUN_MAGIC,
					       .flags = moved ? THMQ_RUN_RELOCATED : 0,
					       .partition = p->partition,
					       .base_offset = (moved ? p->moved_end : p->end_offset) - 1,
					       .span = 1,
					       .count = (uint32_t)THMQI_MIN(p->messages, (uint64_t)UINT32_MAX),
					       .encoding = THMQ_RUN_RECORDS,
					       .first_time_ns = p->last_time_ns,
					       .last_time_ns = p->last_time_ns};
	const struct thmq_log_run view = {.header = &header,
					  .position = s->position,
					  .index = s->first_index + s->batch_count - 1,
					  .term = p->last_term};

	return thmqi_replay_tell(log, &view);
}

static int replay_state(struct thmq_log *log, const struct head *x, const struct segment *s, const struct seal_state *st)
{
	const struct thmq_run_header header = {.magic = THMQ_RUN_MAGIC,
					       .len = st->len,
					       .partition = st->kind,
					       .base_offset = st->item,
					       .encoding = THMQ_RUN_STATE};
	const struct thmq_log_run view = {.header = &header,
					  .payload = (const uint8_t *)thmqi_head_bytes(x, SEAL_STATE_BYTES) + st->offset,
					  .position = s->position,
					  .index = s->first_index + st->batch,
					  .term = st->term};

	thmqi_states_note(log, &header, view.index);
	return thmqi_replay_tell(log, &view);
}

static int by_kind(const void *a, const void *b)
{
	const struct seal_state *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

int thmqi_head_replay_states(struct thmq_log *log, const struct head *x, const struct segment *s)
{
	struct seal_state *state = (struct seal_state *)(uintptr_t)thmqi_head_bytes(x, SEAL_STATES);
	uint32_t states = thmqi_head_section(x, SEAL_STATES)->count, i;
	int rc = 0;

	qsort(state, states, sizeof(*state), by_kind);
	for (i = 0; i < states && !rc; i++)
		rc = replay_state(log, x, s, &state[i]);
	return rc;
}

static int take_partition(struct thmq_log *log, const struct segment *s, const struct seal_partition *p)
{
	struct run_index *x = thmqi_arena_fill(&log->arena) ? NULL : thmqi_index_of(log, p->partition, true);
	int rc = x ? 0 : -ENOMEM;

	if (!rc && log->sealed_next == s->ordinal) {
		if (p->count > p->moved)
			rc = thmqi_held_add(log, x, s->ordinal, p->begin_offset, p->end_offset);
		if (!rc && p->moved)
			rc = thmqi_moved_range_add(x, s->ordinal, p->moved_begin, p->moved_end, p->moved_time_ns);
	}
	if (rc)
		return thmqi_fail(rc, "index %s: out of memory", log->opts.dir);
	x->held_bytes += p->bytes;
	return thmqi_head_replay_partition(log, s, p);
}

static int take_partitions(struct thmq_log *log, const struct head *x, struct segment *s)
{
	const struct seal_partition_page *page = thmqi_head_bytes(x, SEAL_PARTITIONS);
	uint32_t i, k;
	int rc = 0;

	for (i = 0; i < thmqi_head_section(x, SEAL_PARTITIONS)->count; i++, page++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS && !rc; k++) {
			const struct seal_partition *p = &page->entries[k];

			if (!p->count)
				continue;
			s->run_count += p->count;
			rc = take_partition(log, s, p);
		}
	return rc;
}

static int take(struct thmq_log *log, const struct head *x, struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	int rc = take_partitions(log, x, s);
	uint32_t i;

	rc = rc ? rc : thmqi_head_replay_states(log, x, s);
	for (i = 0; i < SEAL_TERMS && h->terms[i].index; i++)
		thmqi_copies_note(log, h->terms[i].index, h->terms[i].term);
	if (rc)
		return rc;
	if (log->sealed_next == s->ordinal)
		log->sealed_next++;
	else /* a segment before it has no index: entries in memory are behind all that are not */
		rc = thmqi_sealed_restore(log, s);
	if (rc)
		return thmqi_fail(rc, "index %s: %s", log->opts.dir, thmq_strerror(rc));
	log->chain.position = s->position + s->bytes;
	log->chain.index = h->last_index;
	log->chain.term = h->last_term;
	log->chain.crc = h->last_crc;
	log->stats.sealed_segments++;
	return rc ? rc : 1;
}

/*
 * A segment before it has no index: entries in memory are behind all that are not, so its own will be needed there too, and
 * while nothing of it has been taken it can still be read from its batches.
 */
static bool runs_ok(struct thmq_log *log, const struct head *x, const struct segment *s)
{
	uint64_t at = thmqi_head_section(x, SEAL_RUNS)->offset;
	uint32_t count = thmqi_head_section(x, SEAL_RUNS)->count, i;
	uint8_t *page = aligned_alloc(SEAL_PAGE, SEAL_PAGE);
	bool ok = page;

	for (i = 0; i < count && ok; i++, at += SEAL_PAGE)
		ok = read_at(log, x->file, page, SEAL_PAGE, at) == 0 && (x->trusted || seal_page_ok(page, s->position + at));
	free(page);
	return ok;
}

/* The segment as its index says it is. False: it is not, and is as it was. */
static bool adopt(struct thmq_log *log, struct head *x, struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t *blocks = s->blocks;

	s->sealed = summary(x);
	if (!s->sealed)
		return false;
	s->index = x->file;
	s->first_index = h->first_index;
	s->batch_count = thmqi_head_section(x, SEAL_BATCHES)->count;
	s->blocks = NULL;
	if (fits_segment(log, x, s) && (log->sealed_next == s->ordinal || runs_ok(log, x, s))) {
		x->file = NULL;
		thmqi_file_note(log, s, SEGMENT_INDEX);
		s->blocks = blocks;
		thmqi_segment_forget_blocks(s);
		return true;
	}
	thmqi_sealed_free(log, s->sealed);
	s->sealed = NULL;
	s->index = NULL;
	s->first_index = 0;
	s->batch_count = 0;
	s->blocks = blocks;
	return false;
}

/* Copies are asked for the term of any batch; a log that was one of a kind does not say it in its indexes. */
static bool knows_terms(const struct thmq_log *log, const struct head *x)
{
	const struct seal_header *h = (const struct seal_header *)x->data;

	return !log->copies.on || h->terms[0].index == h->first_index;
}

int thmqi_sealed_load(struct thmq_log *log, struct segment *s)
{
	struct head x = {.trusted = log->defects & THMQI_LOG_TRUST_INDEX};
	struct ahead_head ahead = {0};
	int rc = open_head(log, s, &ahead) ? thmqi_head_read(log, s, &ahead, &x) : 0;

	if (rc == -ENOMEM)
		thmqi_fail(rc, "index %s: out of memory", log->opts.dir);
	if (rc == 1)
		rc = knows_terms(log, &x) && adopt(log, &x, s) ? take(log, &x, s) : 0;
	thmqi_head_close(log, &x);
	return rc;
}

/* ---------------------------------------------------------------- look again */

static const void *next_page(struct stream *file, uint64_t at)
{
	const void *page;

	return thmqi_file_stream_get(file, at, SEAL_PAGE, &page) == (int64_t)SEAL_PAGE ? page : NULL;
}

static bool pages_ok(struct stream *file, const struct segment *s, uint64_t at, uint32_t count)
{
	const void *page;

	for (; count; count--, at += SEAL_PAGE) {
		page = next_page(file, at);
		if (!page || !seal_page_ok(page, s->position + at))
			return false;
	}
	return true;
}

/* Against the checksum @e, as the header has it now. */
static bool blocks_ok(struct stream *file, const struct segment *s, const struct seal_section_entry *e)
{
	uint32_t crc = 0;
	uint64_t at;

	if (e->offset != s->sealed->batches_at || e->count != s->batch_count || e->bytes != e->count * 4ull)
		return false;
	for (at = 0; at < e->bytes; at += SEAL_PAGE) {
		const void *page = next_page(file, e->offset + at);

		if (!page)
			return false;
		crc = thmqi_crc32c(crc, page, THMQI_MIN(e->bytes - at, (uint64_t)SEAL_PAGE));
	}
	return crc == e->crc;
}

static bool all_ok(struct stream *file, const struct segment *s)
{
	const struct sealed *x = s->sealed;
	const struct seal_header *h = next_page(file, 0);
	struct seal_section_entry blocks;

	if (!h || !seal_page_ok(h, s->position))
		return false;
	blocks = h->sections[SEAL_BATCHES - 1];
	return pages_ok(file, s, x->partitions_at, x->partition_pages) && blocks_ok(file, s, &blocks) &&
	       pages_ok(file, s, x->runs_at, x->run_pages);
}

int thmqi_sealed_check(struct thmq_log *log, struct segment *s)
{
	struct thmqi_disk_file *file;
	struct stream stream;
	int rc = thmqi_file_need(log, s, SEGMENT_INDEX, &file);

	if (rc || (rc = thmqi_file_stream_init(&stream, log->disk, log->queue)))
		return rc;
	thmqi_file_stream_begin(&stream, file, 0, s->sealed->runs_at + (uint64_t)s->sealed->run_pages * SEAL_PAGE);
	s->index_bad |= !all_ok(&stream, s);
	thmqi_file_stream_fini(&stream);
	return s->index_bad ? -THMQ_ECORRUPT : 0;
}

int thmqi_sealed_partition(struct thmq_log *log, struct segment *s, uint32_t partition, struct seal_partition *ret)
{
	const struct sealed *x = s->sealed;
	struct seal_partition_page *page = aligned_alloc(SEAL_PAGE, SEAL_PAGE);
	struct thmqi_disk_file *file;
	uint32_t at, tried, i;
	int rc = page ? thmqi_file_need(log, s, SEGMENT_INDEX, &file) : -ENOMEM;

	rc = rc ? rc : -EAGAIN;
	if (!x->partition_pages && rc == -EAGAIN)
		rc = 0;
	at = x->partition_pages ? seal_partition_page_of(partition, x->partition_pages) : 0;
	for (tried = 0; rc == -EAGAIN; at = (at + 1) % x->partition_pages) {
		rc = read_at(log, file, page, SEAL_PAGE, x->partitions_at + (uint64_t)at * SEAL_PAGE);
		if (!rc && !seal_page_ok(page, s->position + x->partitions_at + (uint64_t)at * SEAL_PAGE))
			rc = -THMQ_ECORRUPT;
		if (rc)
			break;
		rc = ++tried < x->partition_pages ? -EAGAIN : 0;
		for (i = 0; i < SEAL_PAGE_PARTITIONS; i++) {
			if (page->entries[i].count && page->entries[i].partition != partition)
				continue;
			rc = page->entries[i].count ? 1 : 0;
			if (rc)
				*ret = page->entries[i];
			break;
		}
	}
	if (rc == -THMQ_ECORRUPT)
		s->index_bad = true;
	free(page);
	return rc;
}

uint32_t thmqi_head_batch_at(const struct segment *s, uint32_t block)
{
	uint32_t lo = 0, hi = s->batch_count - 1, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (s->blocks[mid] < block)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int thmqi_head_put_run(struct thmq_log *log, struct run_index *x, const struct segment *s, const struct seal_run *run, bool moved,
		       int64_t moved_time_ns)
{
	const struct entry e = {.base_offset = run->base_offset,
				.batch = s->first_index + thmqi_head_batch_at(s, run->block),
				.time_max_ns = run->time_max_ns,
				.at = run->at,
				.span = run->span,
				.tag_filter = run->tag_filter};
	int rc = thmqi_arena_fill(&log->arena);

	if (!rc)
		rc = moved ? thmqi_moved_add(log, x, &e, moved_time_ns) : thmqi_index_put(log, x, &e);
	return rc;
}

static int put_entries(struct thmq_log *log, const struct segment *s, const struct seal_partition *p, const struct seal_run_page *pages)
{
	struct run_index *x = thmqi_index_of(log, p->partition, true);
	uint32_t i;
	int rc = x ? 0 : -ENOMEM;

	for (i = p->first; i < p->first + p->count && !rc; i++) {
		const struct seal_run *run = &pages[i / SEAL_PAGE_RUNS].runs[i % SEAL_PAGE_RUNS];

		rc = thmqi_head_put_run(log, x, s, run, i - p->first < p->moved, p->moved_time_ns);
	}
	return rc;
}

static int load_blocks(struct thmq_log *log, struct segment *s)
{
	struct thmqi_disk_file *file;
	uint64_t bytes = THMQI_ALIGN_UP((uint64_t)s->batch_count * 4, (uint64_t)SEAL_PAGE);
	uint32_t *data = aligned_alloc(SEAL_PAGE, bytes);
	int rc = data ? thmqi_segment_map_blocks(s) : -ENOMEM;

	if (!rc)
		rc = thmqi_file_need(log, s, SEGMENT_INDEX, &file);
	if (!rc)
		rc = read_at(log, file, data, bytes, s->sealed->batches_at);
	if (!rc)
		memcpy(s->blocks, data, (uint64_t)s->batch_count * 4);
	free(data);
	return rc;
}

void thmqi_head_put_keys(struct thmq_log *log, struct segment *s, const struct seal_key_page *page)
{
	uint32_t i;

	for (i = 0; i < SEAL_PAGE_KEYS && page->keys[i].place; i++) {
		const struct seal_key *key = &page->keys[i];

		thmqi_keys_put(log, s,
			       &(struct key){.hash = key->hash,
					     .offset = key->offset,
					     .time_ns = key->time_ns,
					     .batch = thmqi_head_batch_at(s, key->block),
					     .at = seal_key_at(key) | seal_key_moved(key)});
	}
}

void thmqi_sealed_restore_keys(struct thmq_log *log, struct segment *s)
{
	const struct sealed *x = s->sealed;
	struct seal_key_page *page = aligned_alloc(SEAL_PAGE, SEAL_PAGE);
	struct thmqi_disk_file *file;
	uint32_t i;
	int rc = page && !x->keys_missing ? thmqi_file_need(log, s, SEGMENT_INDEX, &file) : -ENOMEM;

	thmqi_keys_drop(log, s);
	for (i = 0; i < x->key_pages && !rc; i++) {
		uint64_t at = x->keys_at + (uint64_t)i * SEAL_PAGE;

		rc = read_at(log, file, page, SEAL_PAGE, at);
		if (!rc && !seal_page_ok(page, s->position + at))
			rc = -THMQ_ECORRUPT;
		if (!rc)
			thmqi_head_put_keys(log, s, page);
	}
	if (rc) { /* look-ups read its batches */
		thmqi_keys_drop(log, s);
		s->keys.missing = true;
	}
	free(page);
}

int thmqi_sealed_restore(struct thmq_log *log, struct segment *s)
{
	const struct sealed *x = s->sealed;
	uint64_t partition_bytes = (uint64_t)x->partition_pages * SEAL_PAGE, run_bytes = (uint64_t)x->run_pages * SEAL_PAGE;
	struct seal_partition_page *partitions = aligned_alloc(SEAL_PAGE, partition_bytes + run_bytes + SEAL_PAGE);
	struct seal_run_page *runs = (struct seal_run_page *)(partitions + x->partition_pages);
	uint32_t i, k;
	struct thmqi_disk_file *file;
	int rc = partitions ? load_blocks(log, s) : -ENOMEM;

	log->carry_from = s->first_index;
	if (!rc)
		rc = thmqi_file_need(log, s, SEGMENT_INDEX, &file);
	if (!rc)
		rc = read_at(log, file, partitions, partition_bytes, x->partitions_at);
	if (!rc)
		rc = read_at(log, file, runs, run_bytes, x->runs_at);
	for (i = 0; i < x->run_pages && !rc; i++)
		rc = seal_page_ok(&runs[i], s->position + x->runs_at + (uint64_t)i * SEAL_PAGE) ? 0 : -THMQ_ECORRUPT;
	for (i = 0; i < x->partition_pages && !rc; i++)
		rc = seal_page_ok(&partitions[i], s->position + x->partitions_at + (uint64_t)i * SEAL_PAGE) ? 0 : -THMQ_ECORRUPT;
	for (i = 0; i < x->partition_pages && !rc; i++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS && !rc; k++)
			if ((uint64_t)partitions[i].entries[k].first + partitions[i].entries[k].count >
			    (uint64_t)x->run_pages * SEAL_PAGE_RUNS)
				rc = -THMQ_ECORRUPT;
			else if (partitions[i].entries[k].count)
				rc = put_entries(log, s, &partitions[i].entries[k], runs);
	free(partitions);
	return rc;
}
