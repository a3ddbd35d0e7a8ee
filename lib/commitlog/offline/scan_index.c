/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan_index.c - does a sealed index say exactly what its segment says? What the segment says is gathered while the scan reads
 * it. What was forgotten while the segment filled may be missing: the first runs of a partition that is not in use.
 */
#include "scan.h"
#include "../index/keys.h"

void thmqi_seen_begin(struct seen *x, const struct chain *before, bool wanted)
{
	x->wanted = wanted;
	x->before = *before;
	x->batch_count = x->run_count = x->state_count = x->key_count = 0;
}

void thmqi_seen_fini(struct seen *x)
{
	free(x->blocks);
	free(x->runs);
	free(x->states);
	free(x->keys);
}

/* Room for one more of @size bytes. */
static bool grow(void *list, uint32_t count, uint32_t *room, size_t size)
{
	void **at = list, *grown;

	if (count < *room)
		return true;
	grown = realloc(*at, (*room ? *room * 2ull : 256) * size);
	if (!grown)
		return false;
	*at = grown;
	*room = *room ? *room * 2 : 256;
	return true;
}

static int note_keys(struct seen *x, const struct batch_header *h, const struct thmq_run_header *run, uint32_t at)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;

	if (!(run->flags & THMQ_RUN_KEYED) || thmqi_record_begin(&it, run) != 0)
		return 0;
	while (thmqi_record_next(&it, &v) == 1) {
		if (!v.key_len)
			continue;
		if (!grow(&x->keys, x->key_count, &x->key_room, sizeof(*x->keys)))
			return -ENOMEM;
		x->keys[x->key_count] = (struct seen_key){
			.key = {.hash = thmqi_key_hash(run->partition, v.key, v.key_len),
				.offset = v.offset,
				.time_ns = v.time_ns,
				.block = (uint32_t)((h->position - x->before.position) / THMQI_BLOCK),
				.place = seal_key_place(at, h->len / THMQI_BLOCK, run->flags & THMQ_RUN_RELOCATED)},
			.order = x->key_count};
		x->key_count++;
	}
	return 0;
}

static int note_run(struct scan *s, const struct batch_header *h, const struct thmq_run_header *run,
		    uint32_t at)
{
	struct scan_partition *p = thmqi_scan_partition(s, run->partition);
	struct seen *x = &s->seen;

	if (!p)
		return -ENOMEM;
	p->time_max_ns = THMQI_MAX(p->time_max_ns, run->last_time_ns);
	p->end_offset = THMQI_MAX(p->end_offset, run->base_offset + run->span);
	if (!x->wanted)
		return 0;
	if (!grow(&x->runs, x->run_count, &x->run_room, sizeof(*x->runs)))
		return -ENOMEM;
	x->runs[x->run_count++] = (struct seen_run){.base_offset = run->base_offset,
						    .term = h->term,
						    .time_ns = run->last_time_ns,
						    .time_max_ns = p->time_max_ns,
						    .partition = run->partition,
						    .batch = x->batch_count,
						    .at = at,
						    .span = run->span,
						    .tag_filter = run->tag_filter,
						    .moved = (run->flags & THMQ_RUN_RELOCATED) != 0};
	return note_keys(x, h, run, at);
}

static int note_state(struct seen *x, const struct batch_header *h,
		      const struct thmq_run_header *run, uint32_t at)
{
	if (!x->wanted)
		return 0;
	if (!grow(&x->states, x->state_count, &x->state_room, sizeof(*x->states)))
		return -ENOMEM;
	x->states[x->state_count++] = (struct seen_state){.item = run->base_offset,
							  .term = h->term,
							  .kind = run->partition,
							  .batch = x->batch_count,
							  .at = at,
							  .len = run->len,
							  .crc = run->payload_crc};
	return 0;
}

/* As the log notes it. */
static int note_producer(struct seen *x, const struct batch_header *h,
			 const struct thmq_run_header *run, uint32_t at)
{
	struct thmqi_producer_run state;

	thmqi_run_producer(run, &state);
	state.header.payload_crc = thmqi_crc32c(0, &state.producer, sizeof(state.producer));
	return note_state(x, h, &state.header, at);
}

int thmqi_seen_batch(struct scan *s, const struct batch_header *h)
{
	const uint8_t *at = (const uint8_t *)(h + 1);
	struct seen *x = &s->seen;
	uint32_t i;
	int rc = 0;

	for (i = 0; i < h->run_count && !rc; i++) {
		const struct thmq_run_header *run = (const struct thmq_run_header *)at;
		uint32_t place = (uint32_t)(at - (const uint8_t *)h);

		if (run->encoding == THMQ_RUN_STATE)
			rc = note_state(x, h, run, place);
		else
			rc = note_run(s, h, run, place);
		if (!rc && thmqi_run_has_producer(run))
			rc = note_producer(x, h, run, place);
		at += thmqi_run_bytes(run);
	}
	if (rc || !x->wanted)
		return rc;
	if (!grow(&x->blocks, x->batch_count, &x->batch_room, sizeof(*x->blocks)))
		return -ENOMEM;
	x->blocks[x->batch_count++] = (uint32_t)((h->position - x->before.position) / THMQI_BLOCK);
	return 0;
}

/* -------------------------------------------------------------------- file */

struct image {
	uint8_t *data;
	uint64_t bytes;
};

static const void *section(const struct image *x, uint32_t kind, uint32_t *ret_count)
{
	const struct seal_section_entry *e =
		&((const struct seal_header *)x->data)->sections[kind - 1];

	*ret_count = e->count;
	return x->data + e->offset;
}

/* Return: 0; an error; or *@ret_why says what is wrong with it. */
static int read_image(struct scan *s, uint64_t position, struct image *x, const char **ret_why)
{
	struct thmqi_disk_file *file;
	char name[40];
	int64_t size, n = 0;
	uint64_t at;
	int rc;

	thmqi_seal_name(position, name);
	rc = s->disk->file_open(s->dir, name, false, &file);
	if (rc)
		return rc;
	size = s->disk->file_size(file);
	if (size < (int64_t)sizeof(struct seal_header) || size > (int64_t)SEAL_BYTES_MAX ||
	    size % THMQI_BLOCK) {
		*ret_why = "its size is not one of an index";
		size = 0;
	}
	x->data = size > 0 ? aligned_alloc(THMQI_BLOCK, (size_t)size) : NULL;
	if (size > 0 && !x->data)
		rc = -ENOMEM;
	for (at = 0; !rc && size > 0 && at < (uint64_t)size; at += (uint64_t)n) {
		n = s->disk->file_read(file, x->data + at,
				       (uint32_t)THMQI_MIN((uint64_t)size - at, 8ull << 20), at);
		if (n <= 0)
			rc = n ? (int)n : -EIO;
	}
	x->bytes = (uint64_t)THMQI_MAX(size, 0);
	s->disk->file_close(file);
	return rc;
}

static const char *check_header(const struct scan *s, const struct image *x)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	const struct seen *seen = &s->seen;

	if (h->magic != SEAL_MAGIC || !seal_page_ok(h, seen->before.position))
		return "its header is damaged";
	if (h->version != FORMAT_VERSION)
		return "it is of another format version";
	if (memcmp(h->log_id, s->vote.log_id, 16) != 0 || h->position != seen->before.position)
		return "it is of another segment";
	if (h->first_index != seen->before.index + 1 || h->prev_crc != seen->before.crc ||
	    h->last_index != s->chain.index || h->last_term != s->chain.term ||
	    h->last_crc != s->chain.crc)
		return "it is stale: the segment has other batches";
	return h->section_count == SEAL_SECTIONS && !(h->flags & ~SEAL_KEYS_MISSING) ? NULL : "it has another number of sections";
}

static bool pages_ok(const struct image *x, const struct seal_section_entry *e)
{
	uint64_t position = ((const struct seal_header *)x->data)->position, at;

	for (at = e->offset; at < e->offset + e->bytes; at += SEAL_PAGE)
		if (!seal_page_ok(x->data + at, position + at))
			return false;
	return true;
}

static const char *check_sections(const struct image *x)
{
	static const uint32_t sizes[SEAL_SECTIONS] = {
		sizeof(struct seal_state), 1, SEAL_PAGE, sizeof(struct seal_fence), 4, 4, SEAL_PAGE, SEAL_PAGE, 1};
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t i;

	for (i = 0; i < SEAL_SECTIONS; i++) {
		const struct seal_section_entry *e = &h->sections[i];
		bool pages = seal_has_pages(i + 1);

		if (e->kind != i + 1 || e->offset % (pages ? SEAL_PAGE : 8) ||
		    e->offset > x->bytes || e->bytes > x->bytes - e->offset ||
		    e->bytes != (uint64_t)e->count * sizes[i])
			return "a section lies outside of it";
		if (pages ? !pages_ok(x, e)
			  : e->crc != thmqi_crc32c(0, x->data + e->offset, e->bytes))
			return "a section is damaged";
	}
	return NULL;
}

/* -------------------------------------------------------------------- runs */

static int by_place(const void *a, const void *b)
{
	const struct seen_run *x = a, *y = b;

	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	if (x->moved != y->moved) /* first those, by offset */
		return x->moved ? -1 : 1;
	if (x->moved && x->base_offset != y->base_offset)
		return x->base_offset < y->base_offset ? -1 : 1;
	if (x->batch != y->batch)
		return x->batch < y->batch ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

/* A partition's runs in the segment: *@ret_count of them from the returned one on. */
static const struct seen_run *runs_of(const struct seen *x, uint32_t partition, uint32_t *ret_count)
{
	uint32_t lo = 0, hi = x->run_count, mid, end;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (x->runs[mid].partition < partition)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (end = lo; end < x->run_count && x->runs[end].partition == partition; end++)
		;
	*ret_count = end - lo;
	return x->runs + lo;
}

static bool may_lack(const struct scan *s, uint32_t partition)
{
	return !s->opts || !s->opts->is_live || !s->opts->is_live(s->opts->ctx, partition);
}

static const struct seal_run *run_at(const struct image *x, uint32_t number)
{
	uint32_t pages;
	const struct seal_run_page *page = section(x, SEAL_RUNS, &pages);

	return number / SEAL_PAGE_RUNS < pages
		       ? &page[number / SEAL_PAGE_RUNS].runs[number % SEAL_PAGE_RUNS]
		       : NULL;
}

/* Blocks of a batch of the segment. */
static uint32_t blocks_of(const struct scan *s, uint32_t batch)
{
	const struct seen *x = &s->seen;
	uint32_t end = (uint32_t)((s->chain.position - x->before.position) / THMQI_BLOCK);

	return (batch + 1 < x->batch_count ? x->blocks[batch + 1] : end) - x->blocks[batch];
}

/* Runs of a partition are stored in the order of their offsets, but for those that were appended again. */
static const char *check_run(const struct scan *s, const struct seal_run *run,
			     const struct seen_run *is, int64_t time_max)
{
	if (run->block != s->seen.blocks[is->batch] || run->blocks != blocks_of(s, is->batch) ||
	    run->at != is->at || run->span != is->span || run->base_offset != is->base_offset ||
	    run->tag_filter != is->tag_filter)
		return "its runs are not those of the segment";
	/* what the largest time before was is known only where the log goes back to its first batch */
	if (run->time_max_ns < time_max ||
	    (!s->vote.begin_position && run->time_max_ns > is->time_max_ns))
		return "its times are not those of the segment";
	return NULL;
}

static const char *check_fence(const struct image *x, uint32_t number, const struct seal_run *run)
{
	uint32_t count;
	const struct seal_fence *fence = section(x, SEAL_RUN_FENCES, &count);

	if (number % SEAL_PAGE_RUNS)
		return NULL;
	fence += number / SEAL_PAGE_RUNS;
	return number / SEAL_PAGE_RUNS < count && fence->base_offset == run->base_offset &&
			       fence->time_max_ns == run->time_max_ns
		       ? NULL
		       : "a fence is not that of its page";
}

static bool bounds_ok(const struct seen_run *is, uint32_t count, uint64_t begin, uint64_t end, bool moved)
{
	if (!count)
		return !begin && !end;
	return is[0].moved == moved && is[count - 1].moved == moved && begin == is[0].base_offset &&
	       end == is[count - 1].base_offset + is[count - 1].span;
}

static const char *check_partition(const struct scan *s, const struct image *x, const struct seal_partition *p)
{
	int64_t time_max = INT64_MIN, was = INT64_MIN;
	const struct seen_run *is;
	uint64_t messages = 0;
	const char *why = NULL;
	uint32_t has, i;

	is = runs_of(&s->seen, p->partition, &has);
	if (p->moved > p->count || p->count > has)
		return "it has runs that the segment does not have";
	if (p->count < has && !may_lack(s, p->partition))
		return "it lacks runs that the segment has";
	is += has - p->count;
	for (i = 0; i < p->count && !why; i++) {
		const struct seal_run *run = run_at(x, p->first + i);

		time_max = THMQI_MAX(time_max, is[i].time_ns);
		why = !run ? "a partition's runs lie outside of it"
			   : check_run(s, run, &is[i], time_max);
		if (!why)
			why = run->time_max_ns < was ? "its times do not rise"
						     : check_fence(x, p->first + i, run);
		if (!why)
			was = run->time_max_ns;
		messages += is[i].span;
	}
	if (why)
		return why;
	if (p->messages != messages || p->last_term != is[p->count - 1].term || p->last_time_ns != was ||
	    !bounds_ok(is, p->moved, p->moved_begin, p->moved_end, true) ||
	    !bounds_ok(is + p->moved, p->count - p->moved, p->begin_offset, p->end_offset, false))
		return "its sums are not those of the segment";
	return NULL;
}

static const char *check_runs(const struct scan *s, const struct image *x)
{
	uint32_t pages, i, k, has, listed = 0;
	const struct seal_partition_page *page = section(x, SEAL_PARTITIONS, &pages);
	const struct seen *seen = &s->seen;
	const char *why = NULL;

	if (seen->run_count)
		qsort(seen->runs, seen->run_count, sizeof(*seen->runs), by_place);
	/* those that it does not know at all */
	for (i = 0; i < seen->run_count; i += has) {
		runs_of(seen, seen->runs[i].partition, &has);
		listed += !may_lack(s, seen->runs[i].partition);
	}
	for (i = 0; i < pages && !why; i++, page++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS && !why; k++) {
			const struct seal_partition *p = &page->entries[k];

			if (!p->count)
				continue;
			why = check_partition(s, x, p);
			listed -= !may_lack(s, p->partition);
		}
	return why      ? why
	       : listed ? "it lacks a partition that the segment has, or has one twice"
			: NULL;
}

/* ------------------------------------------------------------------ states */

static int by_item(const void *a, const void *b)
{
	const struct seen_state *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->item != y->item)
		return x->item < y->item ? -1 : 1;
	if (x->batch != y->batch)
		return x->batch < y->batch ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static int seal_by_item(const void *a, const void *b)
{
	const struct seal_state *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

/* The newest slice of each state, no others. */
static uint32_t newest(struct seen *x)
{
	uint32_t i, kept = 0;

	if (x->state_count)
		qsort(x->states, x->state_count, sizeof(*x->states), by_item);
	for (i = 0; i < x->state_count; i++) {
		if (kept && x->states[kept - 1].kind == x->states[i].kind &&
		    x->states[kept - 1].item == x->states[i].item)
			kept--;
		x->states[kept++] = x->states[i];
	}
	return kept;
}

static const char *check_states(struct scan *s, const struct image *x)
{
	uint32_t count, bytes, i;
	struct seal_state *state = (struct seal_state *)(uintptr_t)section(x, SEAL_STATES, &count);
	const uint8_t *payload = section(x, SEAL_STATE_BYTES, &bytes);
	const struct seen_state *is = s->seen.states;

	if (newest(&s->seen) != count)
		return "it has more or fewer states than the segment";
	qsort(state, count, sizeof(*state), seal_by_item);
	for (i = 0; i < count; i++) {
		if (state[i].offset > bytes || state[i].len > bytes - state[i].offset)
			return "a state lies outside of it";
		if (state[i].kind != is[i].kind || state[i].item != is[i].item ||
		    state[i].batch != is[i].batch || state[i].at != is[i].at ||
		    state[i].term != is[i].term || state[i].len != is[i].len ||
		    thmqi_crc32c(0, payload + state[i].offset, state[i].len) != is[i].crc)
			return "its states are not those of the segment";
	}
	return NULL;
}

/* -------------------------------------------------------------------- keys */

static int by_rank(const void *a, const void *b)
{
	const struct seen_key *x = a, *y = b;
	uint32_t xr = seal_key_rank(x->key.hash), yr = seal_key_rank(y->key.hash);

	if (xr != yr)
		return xr < yr ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static bool pages_are(const struct seen *seen, const struct seal_key_page *page, const uint32_t *fences)
{
	static const struct seal_key none;
	uint32_t i, n = seal_pages(seen->key_count, SEAL_PAGE_KEYS) * SEAL_PAGE_KEYS;

	for (i = 0; i < n; i++) {
		const struct seal_key *is = i < seen->key_count ? &seen->keys[i].key : &none;

		if (memcmp(&page[i / SEAL_PAGE_KEYS].keys[i % SEAL_PAGE_KEYS], is, sizeof(*is)) != 0 ||
		    (i % SEAL_PAGE_KEYS == 0 && fences[i / SEAL_PAGE_KEYS] != seal_key_rank(is->hash)))
			return false;
	}
	return true;
}

static bool filter_is(const struct seen *seen, const uint8_t *filter, uint32_t bytes)
{
	uint8_t *is = bytes ? calloc(1, bytes) : NULL;
	bool same = !bytes;
	uint32_t i;

	for (i = 0; is && i < seen->key_count; i++)
		seal_filter_add(is, bytes, seen->keys[i].key.hash);
	if (is)
		same = memcmp(is, filter, bytes) == 0;
	free(is);
	return same;
}

static const char *check_keys(struct scan *s, const struct image *x)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	int64_t time_min = INT64_MAX, time_max = INT64_MIN;
	uint32_t pages, fence_count, bytes, i, distinct = 0;
	const struct seal_key_page *page = section(x, SEAL_KEYS, &pages);
	const uint32_t *fences = section(x, SEAL_KEY_FENCES, &fence_count);
	const uint8_t *filter = section(x, SEAL_KEY_FILTER, &bytes);
	struct seen *seen = &s->seen;

	if (h->flags & SEAL_KEYS_MISSING)
		return pages || fence_count || bytes ? "it has keys and says that it has not" : NULL;
	if (seen->key_count)
		qsort(seen->keys, seen->key_count, sizeof(*seen->keys), by_rank);
	for (i = 0; i < seen->key_count; i++) {
		distinct += !i || seen->keys[i].key.hash != seen->keys[i - 1].key.hash;
		time_min = THMQI_MIN(time_min, seen->keys[i].key.time_ns);
		time_max = THMQI_MAX(time_max, seen->keys[i].key.time_ns);
	}
	if (!seen->key_count)
		time_min = time_max = 0;
	if (pages != seal_pages(seen->key_count, SEAL_PAGE_KEYS) || fence_count != pages || bytes != seal_filter_bytes(distinct) ||
	    h->key_time_min_ns != time_min || h->key_time_max_ns != time_max || !pages_are(seen, page, fences))
		return "its keys are not those of the segment";
	return filter_is(seen, filter, bytes) ? NULL : "its filter of keys is not that of the segment";
}

/* --------------------------------------------------------------------- all */

static const char *check_batches(const struct scan *s, const struct image *x)
{
	uint32_t count;
	const uint32_t *blocks = section(x, SEAL_BATCHES, &count);

	if (count != s->seen.batch_count ||
	    memcmp(blocks, s->seen.blocks, count * sizeof(*blocks)) != 0)
		return "its batches are not those of the segment";
	return NULL;
}

int thmqi_seen_check(struct scan *s, uint64_t position)
{
	const char *why = NULL;
	struct image x = {0};
	int rc;

	if (!s->seen.wanted || !s->seen.batch_count)
		return 0;
	rc = read_image(s, position, &x, &why);
	if (!rc && !why)
		why = check_header(s, &x);
	if (!rc && !why)
		why = check_sections(&x);
	if (!rc && !why)
		why = check_batches(s, &x);
	if (!rc && !why)
		why = check_runs(s, &x);
	if (!rc && !why)
		why = check_states(s, &x);
	if (!rc && !why)
		why = check_keys(s, &x);
	free(x.data);
	if (rc || !why)
		return rc;
	rc = thmqi_scan_names_add(&s->bad_indexes, position);
	if (!rc)
		thmqi_finding(s, THMQ_FINDING_INDEX, 0, position,
			      "the segment's index is of no use: %s", why);
	return rc;
}

/* What of one partition lay at @end or behind it. */
static int note_lost(struct scan *s, const struct image *x, const struct seal_partition *p,
		     uint64_t position, uint64_t end)
{
	struct scan_partition *lost;
	const struct seal_run *run;
	uint32_t i;

	for (i = 0; i < p->count && (run = run_at(x, p->first + i)); i++) {
		if (position + (uint64_t)run->block * THMQI_BLOCK < end)
			continue;
		lost = thmqi_scan_partition(s, p->partition);
		if (!lost)
			return -ENOMEM;
		lost->lost_begin = lost->lost_offset ? THMQI_MIN(lost->lost_begin, run->base_offset)
						     : run->base_offset;
		lost->lost_offset = THMQI_MAX(lost->lost_offset, run->base_offset + run->span);
	}
	return 0;
}

int thmqi_seen_lost(struct scan *s, uint64_t position, uint64_t end)
{
	const struct seal_partition_page *page;
	const char *why = NULL;
	struct image x = {0};
	uint32_t pages, i, k;
	int rc = read_image(s, position, &x, &why);

	if (!rc && !why &&
	    (((const struct seal_header *)x.data)->magic != SEAL_MAGIC ||
	     ((const struct seal_header *)x.data)->section_count != SEAL_SECTIONS ||
	     memcmp(((const struct seal_header *)x.data)->log_id, s->vote.log_id, 16) != 0 ||
	     check_sections(&x)))
		why = "";
	if (rc || why) {
		free(x.data);
		return rc;
	}
	page = section(&x, SEAL_PARTITIONS, &pages);
	for (i = 0; i < pages && !rc; i++, page++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS && !rc; k++)
			rc = note_lost(s, &x, &page->entries[k], position, end);
	free(x.data);
	return rc;
}
