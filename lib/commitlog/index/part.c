/* SPDX-License-Identifier: Apache-2.0 */
/*
 * part.c - the index of a segment that was being filled, read at open: it has all batches up to one of them, so that only those
 * behind that are read from the segment. All of it comes into memory, where the entries of such a segment are. Nothing is told
 * to the owner before all of it was found good; whatever is not means that there is none.
 */
#include "head.h"
#include "keys.h"

static int by_first(const void *a, const void *b)
{
	const struct seal_partition *x = *(const struct seal_partition *const *)a,
				    *y = *(const struct seal_partition *const *)b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* Those that are there, as their runs lie. NULL: out of memory. */
static const struct seal_partition **partitions_of(const struct head *x, uint32_t *ret_count)
{
	const struct seal_partition_page *page = thmqi_head_bytes(x, SEAL_PARTITIONS);
	uint32_t pages = thmqi_head_section(x, SEAL_PARTITIONS)->count, i, k, count = 0;
	const struct seal_partition **list =
		malloc((size_t)pages * SEAL_PAGE_PARTITIONS * sizeof(*list) + 1);

	for (i = 0; i < pages && list; i++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS; k++)
			if (page[i].entries[k].count)
				list[count++] = &page[i].entries[k];
	if (count)
		qsort(list, count, sizeof(*list), by_first);
	*ret_count = count;
	return list;
}

/* ----------------------------------------------------------------- into memory */

/* Where its batches begin. Return: 1; 0 it is not good; or an error. */
static int take_blocks(const struct head *x, struct segment *s, struct stream *stream)
{
	const struct seal_section_entry *e = thmqi_head_section(x, SEAL_BATCHES);
	const void *data;
	uint32_t i;

	if (e->bytes > STREAM_LEN_MAX ||
	    thmqi_file_stream_get(stream, e->offset, (uint32_t)e->bytes, &data) != (int64_t)e->bytes ||
	    (!x->trusted && e->crc != thmqi_crc32c(0, data, e->bytes)))
		return 0;
	memcpy(s->blocks, data, e->bytes);
	for (i = 0; i < e->count; i++)
		if (s->blocks[i] >= s->bytes / THMQI_BLOCK ||
		    (i ? s->blocks[i] <= s->blocks[i - 1] : s->blocks[i] != 0))
			return 0;
	s->first_index = thmqi_head_header(x)->first_index;
	s->batch_count = e->count;
	return 1;
}

/*
 * It ends with a batch that is there, below what `vote` knows to be durable: a truncation has lowered that before it wrote, and
 * that batch's checksum says what all before it is.
 */
static bool fits(struct thmq_log *log, const struct head *x, struct segment *s,
		 struct batch_header *ret_last)
{
	const struct seal_header *h = thmqi_head_header(x);
	uint64_t at = (uint64_t)s->blocks[s->batch_count - 1] * THMQI_BLOCK;
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	const struct batch_header *b = (const struct batch_header *)block;
	struct thmqi_disk_file *file;
	bool ok;

	ok = block && thmqi_file_need(log, s, SEGMENT_LOG, &file) == 0 &&
	     log->disk->file_read(file, block, THMQI_BLOCK, at) == (int64_t)THMQI_BLOCK &&
	     thmqi_batch_header_ok(b, s->position + at, log->chain.log_id) &&
	     b->header_crc == h->last_crc && b->index == h->last_index && b->term == h->last_term &&
	     b->len <= s->bytes - at && b->position + b->len <= log->vote.mark &&
	     b->version == FORMAT_VERSION;
	if (ok)
		*ret_last = *b;
	free(block);
	return ok;
}

static const void *get_page(const struct head *x, const struct segment *s, struct stream *stream,
			    uint64_t at)
{
	const void *page;

	if (thmqi_file_stream_get(stream, at, SEAL_PAGE, &page) != (int64_t)SEAL_PAGE ||
	    (!x->trusted && !seal_page_ok(page, s->position + at)))
		return NULL;
	return page;
}

static int take_keys(struct thmq_log *log, const struct head *x, struct segment *s,
		     struct stream *stream)
{
	const struct seal_section_entry *e = thmqi_head_section(x, SEAL_KEYS);
	const void *page;
	uint32_t i;

	for (i = 0; i < e->count; i++) {
		page = get_page(x, s, stream, e->offset + (uint64_t)i * SEAL_PAGE);
		if (!page)
			return 0;
		thmqi_head_put_keys(log, s, page);
	}
	if (thmqi_head_header(x)->flags & SEAL_KEYS_MISSING)
		s->keys.missing = true;
	return 1;
}

static int take_runs(struct thmq_log *log, const struct head *x, struct segment *s,
		     struct stream *stream)
{
	const uint64_t begin = thmqi_head_section(x, SEAL_RUNS)->offset;
	const struct seal_run_page *page = NULL;
	uint32_t count, i, n, have = 0; /* pages that were read */
	const struct seal_partition **list = partitions_of(x, &count);
	int rc = list ? 1 : -ENOMEM;

	for (i = 0; i < count && rc == 1; i++) {
		const struct seal_partition *p = list[i];
		struct run_index *index = thmqi_index_of(log, p->partition, true);

		rc = index ? 1 : -ENOMEM;
		for (n = p->first; n < p->first + p->count && rc == 1; n++) {
			if (n / SEAL_PAGE_RUNS + 1 != have) {
				page = n / SEAL_PAGE_RUNS < have
					       ? NULL
					       : get_page(x, s, stream,
							  begin + (uint64_t)(n / SEAL_PAGE_RUNS) *
									  SEAL_PAGE);
				have = n / SEAL_PAGE_RUNS + 1;
			}
			if (!page)
				rc = 0;
			else if (thmqi_head_put_run(log, index, s, &page->runs[n % SEAL_PAGE_RUNS],
						    n - p->first < p->moved, p->moved_time_ns) != 0)
				rc = -ENOMEM;
		}
		s->run_count += p->count;
	}
	free(list);
	return rc;
}

/* What came into memory of it goes again, as if it had not been there. */
static void forget(struct thmq_log *log, struct segment *s)
{
	struct run_index *x;
	uint32_t i = 0;

	while (s->first_index && (x = thmqi_map_next(&log->partitions, &i)))
		thmqi_index_cut(x, s->first_index);
	thmqi_keys_drop(log, s);
	s->first_index = 0;
	s->batch_count = s->run_count = 0;
}

/* ----------------------------------------------------------------------- take */

/* What the index of the whole segment will be made of. */
static void note(struct thmq_log *log, const struct head *x, const struct segment *s)
{
	const struct seal_header *h = thmqi_head_header(x);
	const struct seal_state *state = thmqi_head_bytes(x, SEAL_STATES);
	struct generation *g = thmqi_generation(log);
	uint32_t i;

	for (i = 0; i < SEAL_TERMS && h->terms[i].index; i++)
		thmqi_seal_term(log, h->terms[i].index, h->terms[i].term);
	for (i = 0; i < thmqi_head_section(x, SEAL_STATES)->count && !g->spoiled; i++) {
		const struct note n = {.item = state[i].item,
				       .batch = s->first_index + state[i].batch,
				       .term = state[i].term,
				       .kind = state[i].kind,
				       .at = state[i].at};

		if (thmqi_notes_put(&g->notes, &n,
				    (const uint8_t *)thmqi_head_bytes(x, SEAL_STATE_BYTES) +
					    state[i].offset,
				    state[i].len) != 0)
			g->spoiled = true;
	}
}

static int take(struct thmq_log *log, const struct head *x, const struct segment *s)
{
	const struct seal_partition_page *page = thmqi_head_bytes(x, SEAL_PARTITIONS);
	uint32_t i, k;
	int rc = 0;

	note(log, x, s);
	for (i = 0; i < thmqi_head_section(x, SEAL_PARTITIONS)->count; i++)
		for (k = 0; k < SEAL_PAGE_PARTITIONS && !rc; k++) {
			const struct seal_partition *p = &page[i].entries[k];
			struct run_index *index =
				p->count ? thmqi_index_of(log, p->partition, false) : NULL;

			if (!index)
				continue;
			thmqi_touch(log, index)->bytes += p->bytes;
			index->held_bytes += p->bytes;
			rc = thmqi_head_replay_partition(log, s, p);
		}
	return rc ? rc : thmqi_head_replay_states(log, x, s);
}

static int load(struct thmq_log *log, struct head *x, struct segment *s, struct stream *stream,
		struct batch_header *ret_last)
{
	struct ahead_head file = {0};
	int rc;

	if (log->disk->file_open(log->dir, SEAL_PART_NAME, false, &file.file) != 0)
		return 0;
	file.size = log->disk->file_size(file.file);
	rc = thmqi_head_read(log, s, &file, x);
	if (rc != 1)
		return rc;
	thmqi_file_stream_begin(stream, x->file, thmqi_head_section(x, SEAL_BATCHES)->offset,
			   x->file_bytes);
	rc = take_blocks(x, s, stream);
	if (rc == 1)
		rc = fits(log, x, s, ret_last);
	if (rc == 1)
		rc = take_keys(log, x, s, stream);
	if (rc == 1)
		rc = take_runs(log, x, s, stream);
	thmqi_file_stream_end(stream);
	if (rc != 1)
		forget(log, s);
	return rc;
}

/* @s, whose blocks are mapped, is the next segment. Return: 1 the chain is behind *@ret_last; 0 there is no part of it; or an error. */
int thmqi_part_load(struct thmq_log *log, struct segment *s, struct stream *stream,
		    struct batch_header *ret_last)
{
	struct head x = {.part = true, .trusted = log->defects & THMQI_LOG_TRUST_INDEX};
	int rc = load(log, &x, s, stream, ret_last);

	if (rc == -ENOMEM)
		thmqi_fail(rc, "index %s: out of memory", log->opts.dir);
	if (rc == 1) {
		rc = take(log, &x, s);
		rc = rc ? rc : 1;
		thmqi_chain_advance(&log->chain, ret_last);
	}
	thmqi_head_close(log, &x);
	return rc;
}
