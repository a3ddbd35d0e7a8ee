/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealed.c - a full segment taken from its index at open: its bytes are not read but for the last header, which tells that
 * the index is this segment's. Whatever does not fit means that there is no index.
 */
#include "internal.h"
#include "seal_format.h"

struct sealed {
	uint8_t *data;
	uint64_t bytes;
};

static const void *section(const struct sealed *x, uint32_t kind, uint32_t *ret_count)
{
	const struct seal_section_entry *e = &((const struct seal_header *)x->data)->sections[kind - 1];

	*ret_count = e->count;
	return x->data + e->offset;
}

static bool sections_ok(const struct sealed *x)
{
	static const uint32_t sizes[SEAL_SECTIONS] = {
		4, sizeof(struct seal_partition), sizeof(struct seal_run), 16, sizeof(struct seal_state), 1};
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t i;

	if (h->section_count != SEAL_SECTIONS)
		return false;
	for (i = 0; i < SEAL_SECTIONS; i++) {
		const struct seal_section_entry *e = &h->sections[i];

		if (e->kind != i + 1 || e->offset % 8 || e->offset > x->bytes || e->bytes > x->bytes - e->offset ||
		    e->bytes != (uint64_t)e->count * sizes[i] || e->crc != thmqi_crc32c(0, x->data + e->offset, e->bytes))
			return false;
	}
	return true;
}

static bool batches_ok(const struct sealed *x, const struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t count, i;
	const uint32_t *blocks = section(x, SEAL_BATCHES, &count);

	if (!count || h->last_index - h->first_index != count - 1 || blocks[0] != 0)
		return false;
	for (i = 0; i < count; i++)
		if ((i && blocks[i] <= blocks[i - 1]) || blocks[i] >= s->bytes / THMQI_BLOCK)
			return false;
	return true;
}

static bool runs_ok(const struct sealed *x)
{
	uint32_t batches, partitions, runs, states, bytes, i, k;
	const struct seal_partition *p = section(x, SEAL_PARTITIONS, &partitions);
	const struct seal_run *run = section(x, SEAL_RUNS, &runs);
	const struct seal_state *state = section(x, SEAL_STATES, &states);

	section(x, SEAL_BATCHES, &batches);
	section(x, SEAL_STATE_BYTES, &bytes);
	for (i = 0; i < partitions; i++) {
		if (!p[i].count || p[i].first > runs || p[i].count > runs - p[i].first)
			return false;
		for (k = p[i].first; k < p[i].first + p[i].count; k++)
			if (run[k].batch >= batches || run[k].at < sizeof(struct batch_header) || run[k].at % 8 ||
			    run[k].at >= BATCH_BYTES_MAX)
				return false;
	}
	for (i = 0; i < states; i++)
		if (state[i].batch >= batches || state[i].offset > bytes || state[i].len > bytes - state[i].offset)
			return false;
	return true;
}

/* The segment's last batch is the one that the index ends with. */
static bool fits_segment(struct thmq_log *log, const struct sealed *x, const struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	const struct batch_header *b = (const struct batch_header *)block;
	uint32_t count;
	const uint32_t *blocks = section(x, SEAL_BATCHES, &count);
	uint64_t at = (uint64_t)blocks[count - 1] * THMQI_BLOCK;
	bool fits;

	fits = block && log->disk->file_read(s->file, block, THMQI_BLOCK, at) == (int64_t)THMQI_BLOCK &&
	       thmqi_batch_header_ok(b, s->position + at, log->chain.log_id) && b->header_crc == h->last_crc &&
	       b->index == h->last_index && b->term == h->last_term && at + b->len == s->bytes;
	free(block);
	return fits;
}

static bool is_good(struct thmq_log *log, const struct sealed *x, const struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;

	return x->bytes >= sizeof(*h) && h->magic == SEAL_MAGIC && h->version == FORMAT_VERSION &&
	       h->header_crc == thmqi_crc32c(0, h, offsetof(struct seal_header, header_crc)) &&
	       h->position == s->position && memcmp(h->log_id, log->chain.log_id, 16) == 0 &&
	       h->first_index == log->chain.index + 1 && h->prev_crc == log->chain.crc && sections_ok(x) &&
	       batches_ok(x, s) && runs_ok(x) && fits_segment(log, x, s);
}

/* The file's bytes. Return: 0, or why not. */
static int read_file(struct thmq_log *log, const struct segment *s, struct sealed *x)
{
	struct thmqi_disk_file *file;
	char name[40];
	int64_t size, n = 0;
	uint64_t at;
	int rc;

	thmqi_seal_name(s->position, name);
	rc = log->disk->file_open(log->dir, name, false, &file);
	if (rc)
		return rc;
	size = log->disk->file_size(file);
	if (size < (int64_t)sizeof(struct seal_header) || size > (int64_t)SEAL_BYTES_MAX || size % THMQI_BLOCK)
		rc = -EINVAL;
	x->data = rc ? NULL : aligned_alloc(THMQI_BLOCK, (size_t)size);
	if (!rc && !x->data)
		rc = -ENOMEM;
	for (at = 0; !rc && at < (uint64_t)size; at += (uint64_t)n) {
		n = log->disk->file_read(file, x->data + at, (uint32_t)THMQI_MIN((uint64_t)size - at, 8ull << 20), at);
		if (n <= 0)
			rc = n ? (int)n : -EINVAL;
	}
	x->bytes = (uint64_t)size;
	log->disk->file_close(file);
	return rc;
}

/* --------------------------------------------------------------------- take */

static int take_partition(struct thmq_log *log, const struct sealed *x, const struct segment *s,
			  const struct seal_partition *p)
{
	uint32_t count, i;
	const struct seal_run *run = (const struct seal_run *)section(x, SEAL_RUNS, &count) + p->first;
	const uint32_t *blocks = section(x, SEAL_BATCHES, &count);
	const struct seal_run *last = &run[p->count - 1];
	struct thmq_run_header header = {.magic = THMQ_RUN_MAGIC,
					 .partition = p->partition,
					 .base_offset = last->base_offset,
					 .span = last->span,
					 .count = (uint32_t)THMQI_MIN(p->messages, (uint64_t)UINT32_MAX),
					 .encoding = THMQ_RUN_RECORDS,
					 .first_time_ns = last->time_max_ns,
					 .last_time_ns = last->time_max_ns};
	struct thmq_log_run view = {.header = &header,
				    .position = s->position + (uint64_t)blocks[last->batch] * THMQI_BLOCK,
				    .index = s->first_index + last->batch,
				    .term = p->last_term};
	struct run_index *index = NULL;

	for (i = 0; i < p->count; i++) {
		const struct entry e = {.base_offset = run[i].base_offset,
					.batch = s->first_index + run[i].batch,
					.time_max_ns = run[i].time_max_ns,
					.at = run[i].at,
					.span = run[i].span};

		if (thmqi_arena_fill(&log->arena) == 0 && !index)
			index = thmqi_index_of(log, p->partition, true);
		if (!index || thmqi_index_put(log, index, &e) != 0)
			return thmqi_fail(-ENOMEM, "index %s: out of memory", log->opts.dir);
	}
	return log->events.replay ? log->events.replay(log->opts.ctx, &view) : 0;
}

static int take_state(struct thmq_log *log, const struct sealed *x, const struct segment *s, const struct seal_state *st)
{
	uint32_t count;
	const uint8_t *bytes = section(x, SEAL_STATE_BYTES, &count);
	const uint32_t *blocks = section(x, SEAL_BATCHES, &count);
	struct thmq_run_header header = {.magic = THMQ_RUN_MAGIC,
					 .len = st->len,
					 .partition = st->kind,
					 .base_offset = st->item,
					 .encoding = THMQ_RUN_STATE};
	struct thmq_log_run view = {.header = &header,
				    .payload = bytes + st->offset,
				    .position = s->position + (uint64_t)blocks[st->batch] * THMQI_BLOCK,
				    .index = s->first_index + st->batch,
				    .term = st->term};

	return log->events.replay ? log->events.replay(log->opts.ctx, &view) : 0;
}

static int by_kind(const void *a, const void *b)
{
	const struct seal_state *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

static int take(struct thmq_log *log, const struct sealed *x, struct segment *s)
{
	const struct seal_header *h = (const struct seal_header *)x->data;
	uint32_t partitions, states, batches, runs, i;
	const struct seal_partition *p = section(x, SEAL_PARTITIONS, &partitions);
	struct seal_state *state = (struct seal_state *)(uintptr_t)section(x, SEAL_STATES, &states);
	const uint32_t *blocks = section(x, SEAL_BATCHES, &batches);
	int rc = 0;

	section(x, SEAL_RUNS, &runs);
	memcpy(s->blocks, blocks, batches * sizeof(*blocks));
	s->first_index = h->first_index;
	s->batch_count = batches;
	s->run_count = runs;
	for (i = 0; i < partitions && !rc; i++)
		rc = take_partition(log, x, s, &p[i]);
	qsort(state, states, sizeof(*state), by_kind);
	for (i = 0; i < states && !rc; i++)
		rc = take_state(log, x, s, &state[i]);
	if (rc)
		return rc;
	log->chain.position = s->position + s->bytes;
	log->chain.index = h->last_index;
	log->chain.term = h->last_term;
	log->chain.crc = h->last_crc;
	log->stats.sealed_segments++;
	return 1;
}

int thmqi_sealed_load(struct thmq_log *log, struct segment *s)
{
	struct sealed x = {0};
	int rc = read_file(log, s, &x);

	rc = rc == 0 && is_good(log, &x, s) ? take(log, &x, s) : 0;
	free(x.data);
	return rc;
}
