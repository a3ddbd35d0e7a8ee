/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - a segment's index as the bytes of its file, made in memory: first what is known when the segment is full, then
 * the runs of one partition after the other, as many at a time as there is time for. Knows not when, or why.
 */
#include <sys/mman.h>

#include "../internal.h"
#include "commitlog/hint.h"
#include "keys.h"
#include "seal_format.h"

#define ROOM_SLACK 4u
#define CLEAR_ENTRIES 8u /* a page takes the time of so many entries */

static struct seal_header *header_of(const struct seal_image *image)
{
	return (struct seal_header *)image->data;
}

static struct seal_section_entry *section_of(const struct seal_image *image, uint32_t kind)
{
	return &header_of(image)->sections[kind - 1];
}

static void *bytes_of(const struct seal_image *image, uint32_t kind)
{
	return image->data + section_of(image, kind)->offset;
}

/* ------------------------------------------------------------------- begin */

static void section_add(struct seal_image *image, uint32_t kind, uint64_t count, uint32_t size, uint32_t align)
{
	struct seal_section_entry *e = section_of(image, kind);

	uint64_t end = image->bytes;

	image->bytes = THMQI_ALIGN_UP(end, (uint64_t)align);
	if (image->used)
		memset(image->data + end, 0, image->bytes - end);
	e->kind = kind;
	e->offset = image->bytes;
	e->count = (uint32_t)count;
	e->bytes = count * size;
	image->bytes += e->bytes;
}

static void put_states(struct seal_image *image, const struct generation *g)
{
	struct seal_state *state = bytes_of(image, SEAL_STATES);
	uint32_t i;

	for (i = 0; i < g->notes.count; i++) {
		const struct note *n = &g->notes.list[i];

		state[i] = (struct seal_state){.kind = n->kind,
					       .batch = (uint32_t)(n->batch - image->segment->first_index),
					       .item = n->item,
					       .term = n->term,
					       .at = n->at,
					       .offset = n->offset,
					       .len = n->len};
	}
	if (g->notes.bytes_used)
		memcpy(bytes_of(image, SEAL_STATE_BYTES), g->notes.bytes, g->notes.bytes_used);
}

static void put_header(struct thmq_log *log, struct seal_header *h, const struct segment *s)
{
	h->magic = SEAL_MAGIC;
	h->version = FORMAT_VERSION;
	h->position = s->position;
	memcpy(h->log_id, log->chain.log_id, 16);
	h->first_index = s->first_index;
	h->last_index = s->first_index + s->batch_count - 1;
	h->last_term = log->chain.term;
	h->prev_crc = s->prev_crc;
	h->last_crc = log->chain.crc;
	h->section_count = SEAL_SECTIONS;
	h->flags = s->keys.missing ? SEAL_KEYS_MISSING : 0;
}

uint64_t thmqi_image_room(const struct segment *s, const struct generation *g)
{
	uint64_t pages = seal_pages(g->partitions, SEAL_PAGE_PARTITIONS_USUAL) + 1ull + seal_pages(s->run_count, SEAL_PAGE_RUNS) + 1;
	uint64_t key_pages = seal_pages(s->keys.count, SEAL_PAGE_KEYS);

	return sizeof(struct seal_header) + (uint64_t)g->notes.count * sizeof(struct seal_state) + g->notes.bytes_used +
	       pages * (SEAL_PAGE + sizeof(struct seal_fence)) + key_pages * (SEAL_PAGE + 4) + seal_filter_bytes(s->keys.count) +
	       (uint64_t)s->batch_count * 4 + 6ull * SEAL_PAGE;
}

/* What comes behind a part is known by more than it; copies are asked for the term of any batch. */
static void put_terms(struct seal_header *h, const struct generation *g)
{
	uint32_t i;

	_Static_assert(SEAL_TERMS == TERMS_MAX, "all that are noted have their place");
	for (i = 0; i < g->term_count; i++)
		h->terms[i] = (struct seal_term){.index = g->terms[i].index, .term = g->terms[i].term};
}

void thmqi_image_memory_free(struct seal_memory *m)
{
	if (m->data)
		munmap(m->data, m->bytes);
	*m = (struct seal_memory){0};
}

/*
 * Memory that was never touched costs as much as what is written there. That of keys is: what they take of it is not known before
 * they are sorted.
 */
static int get_memory(struct seal_image *image, struct seal_memory *kept, uint64_t room, uint32_t key_pages)
{
	if (kept->bytes >= room && !key_pages) {
		image->data = kept->data;
		image->room = kept->bytes;
		image->used = true;
		*kept = (struct seal_memory){0};
		memset(image->data, 0, sizeof(struct seal_header));
		return 0;
	}
	thmqi_image_memory_free(kept);
	room = THMQI_ALIGN_UP(room + room / ROOM_SLACK, (uint64_t)SEAL_PAGE); /* the next one may need a little more */
	image->data = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (image->data == MAP_FAILED) {
		image->data = NULL;
		return -ENOMEM;
	}
	image->room = room;
	return 0;
}

int thmqi_image_begin(struct thmq_log *log, struct seal_image *image, const struct segment *s, const struct generation *g,
		      uint32_t part)
{
	uint64_t room = THMQI_ALIGN_UP(thmqi_image_room(s, g), (uint64_t)SEAL_PAGE);
	uint32_t run_pages = seal_pages(s->run_count, SEAL_PAGE_RUNS);
	uint32_t partition_pages = seal_pages(g->partitions, SEAL_PAGE_PARTITIONS_USUAL);
	uint32_t key_pages = seal_pages(s->keys.count, SEAL_PAGE_KEYS);

	int rc;

	memset(image, 0, sizeof(*image));
	if (room > SEAL_BYTES_MAX)
		return -EFBIG;
	rc = get_memory(image, &log->sealing.kept, room, key_pages);
	if (rc)
		return rc;
	image->segment = s;
	image->generation = g;
	image->batch_count = s->batch_count;
	image->end_block = (uint32_t)((log->chain.position - s->position) / THMQI_BLOCK);
	image->part = part;
	image->time_max_ns = INT64_MIN;
	put_header(log, header_of(image), s);
	if (part)
		header_of(image)->flags |= SEAL_PART;
	if (part || log->copies.on)
		put_terms(header_of(image), g);
	image->bytes = sizeof(struct seal_header);
	section_add(image, SEAL_STATES, g->notes.count, sizeof(struct seal_state), 8);
	section_add(image, SEAL_STATE_BYTES, g->notes.bytes_used, 1, 8);
	section_add(image, SEAL_PARTITIONS, partition_pages, SEAL_PAGE, SEAL_PAGE);
	section_add(image, SEAL_RUN_FENCES, run_pages, sizeof(struct seal_fence), 8);
	section_add(image, SEAL_KEY_FENCES, key_pages, 4, 8);
	section_add(image, SEAL_BATCHES, s->batch_count, 4, SEAL_PAGE);
	section_add(image, SEAL_KEYS, key_pages, SEAL_PAGE, SEAL_PAGE);
	section_add(image, SEAL_RUNS, run_pages, SEAL_PAGE, SEAL_PAGE);
	put_states(image, g);
	memcpy(bytes_of(image, SEAL_BATCHES), s->blocks, (uint64_t)s->batch_count * 4);
	image->key_count = s->keys.count;
	image->next = g->first;
	image->next_entry = UINT64_MAX;
	return 0;
}

/* ------------------------------------------------------------------ gather */

static void seal_page(const struct seal_image *image, void *page)
{
	uint32_t crc = seal_page_crc(page, image->segment->position + (uint64_t)((uint8_t *)page - image->data));

	memcpy((uint8_t *)page + SEAL_PAGE - 4, &crc, 4);
}

static uint64_t term_of(const struct generation *g, uint64_t batch)
{
	uint32_t i = g->term_count;

	while (i > 1 && g->terms[i - 1].index > batch)
		i--;
	return i ? g->terms[i - 1].term : 0;
}

/*
 * Until a page of partitions is sealed its CRC's place counts those that lie in it. There are more places than partitions. Counted
 * by one instruction, which writes: memory that was never touched and is read first is mapped twice, and the second time takes the
 * other processors' attention.
 */
static struct seal_partition *place_of(const struct seal_image *image, uint32_t partition)
{
	struct seal_partition_page *pages = bytes_of(image, SEAL_PARTITIONS);
	uint32_t count = section_of(image, SEAL_PARTITIONS)->count, page = seal_partition_page_of(partition, count), at;

	while ((at = __atomic_fetch_add(&pages[page].crc, 1, __ATOMIC_RELAXED)) == SEAL_PAGE_PARTITIONS) {
		pages[page].crc--;
		page = (page + 1) % count;
	}
	return &pages[page].entries[at];
}

void thmqi_image_forget(struct seal_image *image)
{
	uint8_t *place = (uint8_t *)image->place;
	struct seal_partition_page *page = (struct seal_partition_page *)(place - (uint64_t)(place - image->data) % SEAL_PAGE);

	memset(image->place, 0, sizeof(*image->place));
	page->crc--; /* none has got a place since */
	image->place = NULL;
}

static void put_run(struct seal_image *image, const struct entry *entry, int64_t time_max_ns)
{
	const struct segment *s = image->segment;
	uint32_t batch = (uint32_t)(entry->batch - s->first_index), page = image->runs / SEAL_PAGE_RUNS;
	uint32_t block = s->blocks[batch], next = batch + 1 < image->batch_count ? s->blocks[batch + 1] : image->end_block;
	struct seal_run_page *p = (struct seal_run_page *)bytes_of(image, SEAL_RUNS) + page;

	if (image->runs % SEAL_PAGE_RUNS == 0)
		((struct seal_fence *)bytes_of(image, SEAL_RUN_FENCES))[page] =
			(struct seal_fence){.base_offset = entry->base_offset, .time_max_ns = time_max_ns};
	p->runs[image->runs++ % SEAL_PAGE_RUNS] = (struct seal_run){.base_offset = entry->base_offset,
								     .time_max_ns = time_max_ns,
								     .block = block,
								     .at = entry->at,
								     .span = entry->span,
								     .blocks = next - block,
								     .tag_filter = entry->tag_filter};
	if (image->runs % SEAL_PAGE_RUNS == 0) {
		memset(p->zero, 0, sizeof(p->zero));
		seal_page(image, p);
	}
}

/* Of its runs in the segment; of a part, those that were there when it was begun. */
static uint64_t bytes_in(const struct seal_image *image, const struct run_index *x)
{
	return image->part && x->part == image->part ? x->part_bytes : x->touched[image->generation->number % 2].bytes;
}

static struct seal_partition *begin_partition(struct seal_image *image, const struct run_index *x)
{
	struct seal_partition *p = place_of(image, x->partition);

	*p = (struct seal_partition){.partition = x->partition,
				     .first = image->runs,
				     .bytes = bytes_in(image, x),
				     .last_time_ns = INT64_MIN,
				     .moved_time_ns = INT64_MIN};
	return p;
}

static void put_entry(struct seal_image *image, struct seal_partition *p, const struct entry *e)
{
	p->last_time_ns = THMQI_MAX(p->last_time_ns, e->time_max_ns);
	put_run(image, e, p->last_time_ns);
	p->count++;
	p->messages += e->span;
	p->last_term = term_of(image->generation, e->batch);
}

/* Those that were moved come first: their offsets are lower. */
static struct seal_partition *gather_moved(struct seal_image *image, const struct run_index *x, uint64_t last)
{
	const struct run_index *list = &x->moved->entries;
	struct seal_partition *p = NULL;
	uint64_t i;

	for (i = list->first; i < list->count; i++) {
		const struct entry e = thmqi_index_entry(list, i);

		if (e.batch < image->segment->first_index || e.batch > last)
			continue;
		if (!p) {
			p = begin_partition(image, x);
			p->moved_begin = e.base_offset;
		}
		put_entry(image, p, &e);
		p->moved++;
		p->moved_end = e.base_offset + e.span;
		p->moved_time_ns = p->last_time_ns;
	}
	return p;
}

/*
 * Of very many partitions nothing lies in a cache. They are gone through by a list, whose next but one can be asked for, and of the
 * next one its first entries and the page that it goes to.
 */
static void look_ahead(const struct seal_image *image, const struct run_index *x)
{
	const struct seal_partition_page *pages = bytes_of(image, SEAL_PARTITIONS);
	const uint32_t list = image->generation->number % 2;
	const struct run_index *next = x->touched[list].next, *then;

	if (!next)
		return;
	then = next->touched[list].next;
	thmqi_log_hint(then ? then : next, THMQI_LOG_HINT_FAR);
	if (next->first < next->count)
		__builtin_prefetch(thmqi_chunk_at(thmqi_index_chunk(next, next->first)));
	__builtin_prefetch(&pages[seal_partition_page_of(next->partition, section_of(image, SEAL_PARTITIONS)->count)].crc, 1);
}

/* One partition, or a part of it. Return: entries gathered, one at least. */
static uint32_t gather(struct seal_image *image, uint32_t budget)
{
	struct run_index *x = image->next;
	const struct generation *g = image->generation;
	const struct segment *s = image->segment;
	uint64_t last = s->first_index + image->batch_count - 1, number;
	uint32_t done = 0;

	if (image->next_entry == UINT64_MAX) {
		look_ahead(image, x);
		image->next_entry = thmqi_index_find_batch(x, s->first_index);
		image->place = x->moved ? gather_moved(image, x, last) : NULL;
	}
	for (number = image->next_entry; number < x->count && done < budget; number++, done++) {
		const struct entry e = thmqi_index_entry(x, number);

		if (e.batch > last)
			break;
		if (!image->place)
			image->place = begin_partition(image, x);
		if (image->place->count == image->place->moved)
			image->place->begin_offset = e.base_offset;
		put_entry(image, image->place, &e);
		image->place->end_offset = e.base_offset + e.span;
	}
	image->next_entry = number;
	if (number == x->count || thmqi_index_entry(x, number).batch > last) {
		if (image->place)
			image->time_max_ns = THMQI_MAX(image->time_max_ns, image->place->last_time_ns);
		image->place = NULL;
		image->next = x->touched[g->number % 2].next;
		image->next_entry = UINT64_MAX;
	}
	return done + 1;
}

/* Pages that count what lies in them are zero before anything does. Return: the work, in entries. */
static uint32_t clear(struct seal_image *image, uint32_t budget)
{
	uint32_t pages = section_of(image, SEAL_PARTITIONS)->count - image->cleared;

	pages = THMQI_MIN(pages, budget / CLEAR_ENTRIES + 1);
	memset((uint8_t *)bytes_of(image, SEAL_PARTITIONS) + (uint64_t)image->cleared * SEAL_PAGE, 0, (uint64_t)pages * SEAL_PAGE);
	image->cleared += pages;
	return pages * CLEAR_ENTRIES;
}

/* The segment's runs were counted with its states among them. */
static void gather_end(struct seal_image *image)
{
	uint32_t pages = seal_pages(image->runs, SEAL_PAGE_RUNS);
	struct seal_section_entry *runs = section_of(image, SEAL_RUNS), *fences = section_of(image, SEAL_RUN_FENCES);
	struct seal_run_page *last;

	if (image->used)
		memset(image->data + fences->offset + pages * sizeof(struct seal_fence), 0,
		       fences->bytes - pages * sizeof(struct seal_fence));
	runs->count = fences->count = pages;
	runs->bytes = (uint64_t)pages * SEAL_PAGE;
	fences->bytes = (uint64_t)pages * sizeof(struct seal_fence);
	image->bytes = runs->offset + runs->bytes;
	if (image->runs % SEAL_PAGE_RUNS) {
		last = (struct seal_run_page *)(image->data + image->bytes - SEAL_PAGE);
		if (image->used)
			memset(&last->runs[image->runs % SEAL_PAGE_RUNS], 0,
			       SEAL_PAGE - image->runs % SEAL_PAGE_RUNS * sizeof(struct seal_run));
		seal_page(image, last);
	}
	section_add(image, SEAL_KEY_FILTER, 0, 1, SEAL_PAGE);
}

uint32_t thmqi_image_step(struct seal_image *image, uint32_t budget)
{
	uint32_t done;

	if (!image->next && image->gathered)
		return thmqi_image_keys(image, budget);
	if (image->used && image->cleared < section_of(image, SEAL_PARTITIONS)->count)
		return clear(image, budget);
	done = image->next ? gather(image, budget) : 1;
	if (!image->next) {
		gather_end(image);
		image->gathered = true;
	}
	return done;
}

void thmqi_image_no_keys(struct seal_image *image)
{
	struct seal_section_entry *keys = section_of(image, SEAL_KEYS), *fences = section_of(image, SEAL_KEY_FENCES);

	keys->count = fences->count = image->key_count = 0;
	keys->bytes = fences->bytes = 0;
}

/* --------------------------------------------------------------------- end */

void thmqi_image_end(struct seal_image *image)
{
	uint8_t *page = bytes_of(image, SEAL_PARTITIONS);
	struct seal_header *h = header_of(image);
	uint32_t i;

	for (i = 0; i < section_of(image, SEAL_PARTITIONS)->count; i++)
		seal_page(image, page + (uint64_t)i * SEAL_PAGE);
	for (i = 0; i < SEAL_SECTIONS; i++) {
		struct seal_section_entry *e = &h->sections[i];

		if (!seal_has_pages(e->kind)) /* those have their own */
			e->crc = thmqi_crc32c(0, image->data + e->offset, e->bytes);
	}
	h->time_max_ns = image->time_max_ns;
	seal_page(image, h);
}

struct seal_memory thmqi_image_take(struct seal_image *image)
{
	struct seal_memory m = {.data = image->data, .bytes = image->room};

	thmqi_image_keys_free(image);
	memset(image, 0, sizeof(*image));
	return m;
}

void thmqi_image_free(struct seal_image *image)
{
	struct seal_memory m = thmqi_image_take(image);

	thmqi_image_memory_free(&m);
}

struct sealed *thmqi_image_summary(const struct seal_image *image)
{
	const struct seal_header *h = header_of(image);
	uint32_t pages = section_of(image, SEAL_RUNS)->count;
	uint32_t key_pages = section_of(image, SEAL_KEYS)->count;
	struct sealed *x = thmqi_sealed_new(pages, key_pages);

	if (!x)
		return NULL;
	thmqi_sealed_note_keys(x, h, bytes_of(image, SEAL_KEY_FENCES));
	x->batches_at = section_of(image, SEAL_BATCHES)->offset;
	x->partitions_at = section_of(image, SEAL_PARTITIONS)->offset;
	x->runs_at = section_of(image, SEAL_RUNS)->offset;
	x->partition_pages = section_of(image, SEAL_PARTITIONS)->count;
	x->run_pages = pages;
	x->time_max_ns = h->time_max_ns;
	memcpy(x->fences, bytes_of(image, SEAL_RUN_FENCES), pages * sizeof(struct seal_fence));
	return x;
}

int thmqi_image_write(struct thmq_log *log, const struct seal_image *image)
{
	struct thmqi_disk_file *file;
	uint32_t piece = ZERO_BYTES;
	char name[40];
	uint64_t at;
	int rc = log->disk->file_open(log->dir, SEAL_TEMPORARY, true, &file);

	if (rc)
		return rc;
	for (at = 0; at < image->bytes && !rc; at += piece)
		rc = log->disk->file_write(file, image->data + at, (uint32_t)THMQI_MIN((uint64_t)piece, image->bytes - at), at,
					   false);
	if (!rc)
		rc = log->disk->file_flush(file);
	log->disk->file_close(file);
	thmqi_seal_name(image->segment->position, name);
	if (!rc)
		rc = log->disk->rename(log->dir, SEAL_TEMPORARY, name);
	if (rc)
		log->disk->unlink(log->dir, SEAL_TEMPORARY);
	return rc;
}
