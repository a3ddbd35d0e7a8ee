/* SPDX-License-Identifier: Apache-2.0 */
/*
 * find_key.c - the records with one key, newest first: segment by segment backwards, in each from memory, or from the page of
 * its index that has the key's hash. A filter of the hashes, once it is in memory, says of most other segments that they have
 * none. Where keys are missing, or a page is bad, the segment's batches are looked through. Never blocks.
 */
#include <sys/mman.h>

#include "../reading.h"
#include "keys.h"
#include "seal_format.h"

#define UNKNOWN UINT32_MAX
#define BUDGET 4096u                /* steps in memory of one call */
#define FILTERS_BYTES (64ull << 20) /* of all segments, in memory; the newest have them */

/* ------------------------------------------------------------------ filters */

void thmqi_filter_drop(struct thmq_log *log, struct sealed *x)
{
	if (!x->filter)
		return;
	munmap(x->filter, x->filter_bytes);
	log->filter_bytes -= x->filter_bytes;
	x->filter = NULL;
}

/* May the filter of @s be in memory? The oldest ones make way. */
static bool filter_fits(struct thmq_log *log, const struct segment *s)
{
	if (s->sealed->filter_bad || s->ordinal < log->filter_floor)
		return false;
	log->filter_floor = THMQI_MAX(log->filter_floor, log->segment_base);
	while (log->filter_bytes + s->sealed->filter_bytes > FILTERS_BYTES) {
		struct segment *oldest = thmqi_segment_at(log, log->filter_floor);

		if (oldest->ordinal >= s->ordinal)
			return false;
		if (oldest->sealed)
			thmqi_filter_drop(log, oldest->sealed);
		log->filter_floor++;
	}
	return true;
}

static void on_filter(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log_reader *r = thmqi_container(op, struct thmq_log_reader, keys.op);
	struct segment *s = r->keys.owner;
	struct sealed *x = s->sealed;
	bool good = result == (int64_t)op->len && x &&
		    thmqi_crc32c(0, op->data, op->len) == x->filter_crc;

	r->keys.reading = false;
	if (good && !x->filter && x->filter_bytes == op->len) {
		x->filter = op->data;
		r->log->filter_bytes += op->len;
	} else {
		munmap(op->data, op->len);
		if (!good && x)
			x->filter_bad = true;
	}
	if (thmqi_reader_done(r, s))
		thmqi_reader_tell(r);
}

/* Return: 1 it is there, or is not to be had; 0 it is being read. */
static int filter_get(struct thmq_log_reader *r, struct segment *s)
{
	struct sealed *x = s->sealed;
	struct thmqi_disk_file *file;
	uint8_t *data;
	int rc;

	if (r->keys.reading)
		return 0;
	if (x->filter || !filter_fits(r->log, s))
		return 1;
	rc = thmqi_file_use(r->log, s, SEGMENT_INDEX, &file);
	if (rc) {
		r->waiting |= rc == -EAGAIN;
		return rc != -EAGAIN; /* a page of it will tell what is wrong */
	}
	data = mmap(NULL, x->filter_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (data == MAP_FAILED)
		return 1;
	r->keys.op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
					    .len = x->filter_bytes,
					    .file = file,
					    .data = data,
					    .offset = x->filter_at,
					    .done = on_filter};
	rc = thmqi_reader_submit(r, s, &r->keys.op);
	if (rc) {
		munmap(data, x->filter_bytes);
		r->waiting = true;
		return 0;
	}
	r->keys.owner = s;
	r->keys.reading = true;
	return 0;
}

/* --------------------------------------------------------------------- hits */

/* Is it one? Those that were appended again count below all others that are held. */
static bool is_hit(const struct thmq_log_reader *r, const struct seal_key *key)
{
	const struct key_search *k = &r->keys;
	uint64_t begin = thmqi_index_begin(r->index);

	return key->hash == k->hash && key->offset < k->limit && key->time_ns >= k->from_ns &&
	       key->time_ns < k->to_ns && seal_key_moved(key) == k->moved &&
	       (key->offset < begin) == k->moved;
}

static struct thmq_log_hit hit_of(const struct segment *s, const struct seal_key *key)
{
	struct thmq_log_hit h = {.offset = key->offset,
				 .time_ns = key->time_ns,
				 .internal = {THMQI_HIT_NO_PLACE, 0}};

	if (s->sealed) {
		h.internal[0] = s->position + (uint64_t)key->block * THMQI_BLOCK;
		h.internal[1] = (uint64_t)seal_key_blocks(key) << 32 | seal_key_at(key);
	}
	return h;
}

/* Among the newest of those that come in any order. One may come twice. */
static void collect(struct key_search *k, const struct thmq_log_hit *h)
{
	uint32_t at = k->best_count;

	while (at && k->best[at - 1].offset < h->offset)
		at--;
	if (at == KEY_BEST || (at && k->best[at - 1].offset == h->offset))
		return;
	k->best_count = THMQI_MIN(k->best_count + 1, KEY_BEST);
	memmove(&k->best[at + 1], &k->best[at], (k->best_count - at - 1) * sizeof(*h));
	k->best[at] = *h;
}

/* Is it to be returned now? */
static bool take(struct thmq_log_reader *r, const struct segment *s, const struct seal_key *key,
		 struct thmq_log_hit *ret_hit)
{
	struct key_search *k = &r->keys;

	if (!is_hit(r, key))
		return false;
	*ret_hit = hit_of(s, key);
	if (!k->moved && !k->scanning)
		return true;
	collect(k, ret_hit);
	return false;
}

/* ---------------------------------------------------------------- in memory */

static int look_in_memory(struct thmq_log_reader *r, const struct segment *s,
			  struct thmq_log_hit *ret_hit)
{
	struct key_search *k = &r->keys;

	if (!k->begun) {
		k->chunk = s->keys.newest;
		k->entry = k->chunk ? *thmqi_key_head(k->chunk, k->hash) : 0;
		k->begun = true;
	}
	while (k->chunk) {
		if (!k->budget--) { /* others have their turn */
			r->waiting = r->log->tell_readers = true;
			return 0;
		}
		if (!k->entry) {
			k->chunk = k->chunk->older;
			k->entry = k->chunk ? *thmqi_key_head(k->chunk, k->hash) : 0;
			continue;
		}
		const struct key *key = &k->chunk->keys[k->entry - 1];
		const struct seal_key is = {.hash = key->hash,
					    .offset = key->offset,
					    .time_ns = key->time_ns,
					    .place = seal_key_place(key->at & ~1u, 1, key->at & 1)};

		k->entry = k->chunk->before[k->entry - 1];
		if (take(r, s, &is, ret_hit))
			return 1;
	}
	return -ENOENT;
}

/* ----------------------------------------------------------------- in pages */

/* The last page that may have a key of this rank. False: none. */
static bool last_page(const struct sealed *x, uint32_t rank, uint32_t *ret_page)
{
	uint32_t lo = 0, hi = x->key_pages, mid; /* lo: how many begin at or before it */

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (x->key_fences[mid] <= rank)
			lo = mid + 1;
		else
			hi = mid;
	}
	*ret_page = lo - 1;
	return lo != 0;
}

static int look_in_pages(struct thmq_log_reader *r, struct segment *s, struct thmq_log_hit *ret_hit)
{
	const struct sealed *x = s->sealed;
	struct key_search *k = &r->keys;
	uint32_t rank = seal_key_rank(k->hash);
	const struct seal_key_page *page;
	int rc;

	if (!k->begun) {
		if (!filter_get(r, s))
			return 0;
		if ((x->filter && !seal_filter_has(x->filter, x->filter_bytes, k->hash)) ||
		    !last_page(x, rank, &k->page))
			return -ENOENT;
		k->slot = SEAL_PAGE_KEYS;
		k->begun = true;
	}
	for (;;) {
		rc = thmqi_page_get(r, s, x->keys_at + (uint64_t)k->page * SEAL_PAGE, SEAL_PAGE,
				    (const void **)&page);
		if (rc != 1)
			return rc;
		while (k->slot) {
			const struct seal_key *key = &page->keys[--k->slot];

			if (!key->place || seal_key_rank(key->hash) > rank)
				continue;
			if (seal_key_rank(key->hash) < rank)
				return -ENOENT;
			if (take(r, s, key, ret_hit))
				return 1;
		}
		if (!k->page || x->key_fences[k->page] < rank)
			return -ENOENT;
		k->page--;
		k->slot = SEAL_PAGE_KEYS;
	}
}

/* --------------------------------------------------------- through the batches */

static bool looks_into(const struct thmq_log_reader *r, const struct thmq_run_header *run)
{
	return run->encoding != THMQ_RUN_STATE && run->partition == r->partition &&
	       (run->flags & THMQ_RUN_KEYED);
}

static void look_in_run(struct thmq_log_reader *r, const struct segment *s,
			const struct thmq_run_header *run, uint32_t at, struct seal_key *key)
{
	struct thmqi_record_iter it;
	struct thmq_record_view v;
	struct thmq_log_hit hit;

	if (!looks_into(r, run) || thmqi_record_begin(&it, run) != 0)
		return;
	key->place = seal_key_place(at, seal_key_blocks(key), run->flags & THMQ_RUN_RELOCATED);
	while (thmqi_record_next(&it, &v) == 1) {
		if (!v.key_len)
			continue;
		key->hash = thmqi_key_hash(r->partition, v.key, v.key_len);
		key->offset = v.offset;
		key->time_ns = v.time_ns;
		take(r, s, key, &hit);
	}
}

/* Batch number scan_at of a segment without an index may not be written yet. 1 *@ret_data, *@ret_runs of it; -ENOENT; or 0, an error. */
static int batch_in_memory(struct thmq_log_reader *r, struct segment *s, uint8_t **ret_data,
			   uint32_t *ret_runs)
{
	uint32_t number = (uint32_t)r->keys.scan_at;
	const struct thmq_log *log = r->log;
	struct thmqi_buf *buf;
	struct window *w;
	int rc = 1;

	if (number == s->batch_count && s == log->active && log->forming.runs) {
		*ret_data = log->forming.buf->data; /* it has no header yet */
		*ret_runs = log->forming.runs;
		return 1;
	}
	if (number >= s->batch_count)
		return -ENOENT;
	buf = thmqi_cache_get(log, s->first_index + number);
	if (buf)
		*ret_data = buf->data;
	else
		rc = thmqi_window_get(r, s, (uint64_t)s->blocks[number] * THMQI_BLOCK, 0, &w,
				      ret_data);
	if (rc == 1)
		*ret_runs = ((const struct batch_header *)*ret_data)->run_count;
	return rc;
}

static int batch_on_device(struct thmq_log_reader *r, struct segment *s, uint8_t **ret_data,
			   uint32_t *ret_runs)
{
	struct window *w;
	int rc = r->keys.scan_at < s->bytes
			 ? thmqi_window_get(r, s, r->keys.scan_at, 0, &w, ret_data)
			 : -ENOENT;

	if (rc == 1)
		*ret_runs = ((const struct batch_header *)*ret_data)->run_count;
	return rc;
}

/* From where it was left on, as far as the budget reaches. False: others have their turn, and then it goes on there. */
static bool look_in_batch(struct thmq_log_reader *r, const struct segment *s, const uint8_t *data,
			  uint32_t runs, struct seal_key *key)
{
	struct key_search *k = &r->keys;
	const struct thmq_run_header *run;

	if (!k->scan_runs)
		k->scan_run_at = sizeof(struct batch_header);
	for (; k->scan_runs < runs; k->scan_runs++) {
		if (!k->budget) {
			r->waiting = r->log->tell_readers = true;
			return false;
		}
		run = (const struct thmq_run_header *)(data + k->scan_run_at);
		look_in_run(r, s, run, k->scan_run_at, key);
		k->budget -= THMQI_MIN(k->budget, 1 + (looks_into(r, run) ? run->count : 0));
		k->scan_run_at += (uint32_t)thmqi_run_bytes(run);
	}
	k->scan_runs = 0;
	return true;
}

/* All of the segment's newest hits are collected then. */
static int look_through(struct thmq_log_reader *r, struct segment *s)
{
	struct key_search *k = &r->keys;
	struct seal_key key = {0};
	uint32_t runs;
	uint8_t *data;
	int rc;

	for (;;) {
		rc = s->blocks ? batch_in_memory(r, s, &data, &runs)
			       : batch_on_device(r, s, &data, &runs);
		if (rc != 1)
			return rc;
		if (!s->blocks) {
			key.block = (uint32_t)(k->scan_at / THMQI_BLOCK);
			key.place = seal_key_place(
				0, ((const struct batch_header *)data)->len / THMQI_BLOCK, false);
		}
		if (!look_in_batch(r, s, data, runs, &key))
			return 0;
		k->scan_at += s->blocks ? 1 : ((const struct batch_header *)data)->len;
	}
}

/* ------------------------------------------------------------------ segments */

static bool may_have(const struct key_search *k, const struct segment *s)
{
	const struct sealed *x = s->sealed;

	if (!x)
		return s->keys.count || s->keys.missing;
	if (x->keys_missing)
		return true;
	return x->key_pages && x->key_time_max_ns >= k->from_ns && x->key_time_min_ns < k->to_ns &&
	       (!x->filter || seal_filter_has(x->filter, x->filter_bytes, k->hash));
}

/* From sealed segment @ordinal on backwards, the first that has what is looked for. False: none. */
static bool step_back(const struct thmq_log_reader *r, uint32_t ordinal, uint32_t *ret_ordinal)
{
	const struct moved *m = r->index->moved;
	uint32_t i;

	if (!r->keys.moved)
		return thmqi_held_back(r->index, ordinal, r->keys.limit, ret_ordinal);
	for (i = m->range_count; i-- > 0;)
		if (m->ranges[i].segment <= ordinal && m->ranges[i].begin < r->keys.limit) {
			*ret_ordinal = m->ranges[i].segment;
			return true;
		}
	return false;
}

static bool keys_missing(const struct segment *s)
{
	return s->sealed ? s->sealed->keys_missing : s->keys.missing;
}

/* The newest that was not looked at. */
static bool next_segment(struct thmq_log_reader *r)
{
	const struct thmq_log *log = r->log;
	struct key_search *k = &r->keys;
	uint32_t at = THMQI_MIN(k->segment, log->segment_base + log->segment_count);

	while (at-- > log->segment_base) {
		if (at < log->sealed_next && (!step_back(r, at, &at) || at < log->segment_base))
			break;
		if (!may_have(k, thmqi_segment_at(log, at)))
			continue;
		if (k->indexed_only && keys_missing(thmqi_segment_at(log, at))) {
			k->passed_over = true;
			continue;
		}
		k->segment = at;
		k->placed = true;
		k->begun = false;
		k->sealed = thmqi_segment_at(log, at)->sealed != NULL;
		k->scanning = keys_missing(thmqi_segment_at(log, at));
		k->scan_at = k->scan_runs = 0;
		return true;
	}
	k->segment = log->segment_base;
	return false;
}

/* Return: 1 *@ret_hit; 0 being looked up; -ENOENT all of the segment is seen; or an error. */
static int look(struct thmq_log_reader *r, struct thmq_log_hit *ret_hit)
{
	struct key_search *k = &r->keys;
	struct segment *s = thmqi_segment_at(r->log, k->segment);
	int rc;

	if (!k->scanning) {
		rc = k->sealed ? look_in_pages(r, s, ret_hit) : look_in_memory(r, s, ret_hit);
		if (rc >= 0 || rc == -ENOENT)
			return rc;
		s->index_bad = true;
		if (k->indexed_only) {
			k->passed_over = true;
			return -ENOENT;
		}
		k->scanning = true; /* a bad index costs time, nothing else */
	}
	return look_through(r, s);
}

/* Where the search was is no more: the index was written meanwhile, or the segment dropped. */
static void follow(struct thmq_log_reader *r)
{
	const struct thmq_log *log = r->log;
	struct key_search *k = &r->keys;
	bool was_moved = k->moved && k->version != r->index->moved->version;

	thmqi_index_settle(r->log, r->index);
	if (k->placed && (k->segment < log->segment_base ||
			  k->segment >= log->segment_base + log->segment_count ||
			  k->sealed != (thmqi_segment_at(log, k->segment)->sealed != NULL) ||
			  k->missing != thmqi_segment_at(log, k->segment)->keys.missing)) {
		k->placed = false;
		k->segment++;
	}
	if (was_moved && !k->telling) { /* from the begin */
		k->placed = false;
		k->segment = UNKNOWN;
		k->best_count = 0;
	}
}

/* What was collected is told. Return: false it was all; then the search goes on. */
static bool tell(struct key_search *k, struct thmq_log_hit *ret_hit)
{
	if (k->best_next < k->best_count) {
		*ret_hit = k->best[k->best_next++];
		return true;
	}
	k->telling = k->placed = false;
	if (k->best_count == KEY_BEST) /* there may be more: once again */
		k->segment = k->moved ? UNKNOWN : k->segment + 1;
	else if (k->moved)
		k->ended = true;
	k->best_count = k->best_next = 0;
	return false;
}

/* All segments are seen: next come runs that were appended again, if there are any. */
static void turn(struct thmq_log_reader *r)
{
	struct key_search *k = &r->keys;

	if (k->moved) {
		k->telling = true;
	} else if (r->index->moved) {
		k->moved = true;
		k->segment = UNKNOWN;
		k->version = r->index->moved->version;
	} else {
		k->ended = true;
	}
}

static int next_hit(struct thmq_log_reader *r, struct thmq_log_hit *ret_hit)
{
	struct key_search *k = &r->keys;
	int rc;

	while (!k->ended) {
		if (k->telling) {
			if (tell(k, ret_hit))
				return 1;
			continue;
		}
		if (!k->placed && !next_segment(r)) {
			turn(r);
			continue;
		}
		k->missing = thmqi_segment_at(r->log, k->segment)->keys.missing;
		rc = look(r, ret_hit);
		if (rc != -ENOENT)
			return rc;
		if (k->scanning && !k->moved)
			k->telling = true;
		else
			k->placed = false;
	}
	return -ENOENT;
}

/* -------------------------------------------------------------------- public */

int thmq_log_reader_seek_key(struct thmq_log_reader *reader, const void *key, uint32_t key_len,
			     int64_t from_time_ns, int64_t to_time_ns, uint64_t before_offset)
{
	struct key_search *k;

	if (!reader || !key || !key_len || key_len > UINT16_MAX)
		return -EINVAL;
	k = &reader->keys;
	if (!reader->log || !reader->log->disk)
		return -EOPNOTSUPP;
	if (!thmqi_core_is_mine(reader->log->core))
		return -EPERM;
	k->active = true;
	k->hash = thmqi_key_hash(reader->partition, key, key_len);
	k->from_ns = from_time_ns;
	k->to_ns = to_time_ns;
	k->limit = before_offset;
	k->segment = UNKNOWN;
	k->placed = k->moved = k->telling = k->ended = k->passed_over = false;
	k->best_count = k->best_next = 0;
	return 0;
}

int thmq_log_reader_find_key(struct thmq_log_reader *reader, uint32_t hits_max,
			     struct thmq_log_hit *ret_hits)
{
	struct key_search *k;
	struct thmq_log_hit hit;
	uint32_t count = 0;
	int rc = -ENOENT;

	if (!reader || !ret_hits || !reader->keys.active || !hits_max)
		return -EINVAL;
	k = &reader->keys;
	if (!reader->log)
		return -ENOENT;
	if (!thmqi_core_is_mine(reader->log->core))
		return -EPERM;
	if (!reader->index)
		reader->index = thmqi_map_get(&reader->log->partitions, reader->partition);
	if (!reader->index)
		return -ENOENT;
	follow(reader);
	k->budget = BUDGET;
	while (count < hits_max && count < INT32_MAX && (rc = next_hit(reader, &hit)) == 1) {
		k->limit = hit.offset;
		ret_hits[count++] = hit;
	}
	return count ? (int)count : rc;
}
