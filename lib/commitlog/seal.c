/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal.c - the index of a segment that is full: what was noted while it filled is put together a little at a time, once
 * all of it is durable, and written in the background. An aid: when it cannot be made the next open makes it.
 */
#include <sys/mman.h>

#include "internal.h"
#include "seal_format.h"

#define GATHER_BUDGET 2048u /* entries in one iteration */

/* -------------------------------------------------------------- generations */

static void generation_clear(struct thmq_log *log, struct generation *g, uint64_t number)
{
	(void)log;
	g->number = number;
	g->first = NULL;
	g->partitions = 0;
	g->term_count = 0;
	g->spoiled = false;
	thmqi_notes_clear(&g->notes);
}

void thmqi_seals_init(struct thmq_log *log)
{
	log->generation = 2;
	generation_clear(log, &log->generations[0], 2);
	generation_clear(log, &log->generations[1], 1);
	if (log->opts.dir && (thmqi_notes_init(&log->generations[0].notes) || thmqi_notes_init(&log->generations[1].notes)))
		log->generations[0].spoiled = true;
}

static void image_free(struct seal_image *image)
{
	if (image->data)
		munmap(image->data, image->room);
	memset(image, 0, sizeof(*image));
}

void thmqi_seals_fini(struct thmq_log *log)
{
	uint32_t i;

	image_free(&log->sealing.image);
	for (i = 0; i < log->segment_count; i++) {
		struct segment *s = log->segments[i];

		if (s->image) {
			image_free(s->image);
			free(s->image);
			s->image = NULL;
		}
	}
	for (i = 0; i < 2; i++) {
		log->generations[i].number = UINT64_MAX; /* nothing is listed any more */
		thmqi_notes_fini(&log->generations[i].notes);
	}
}

/* The other one is free: what comes from now on belongs to a new segment. */
static void generation_next(struct thmq_log *log)
{
	log->generation++;
	generation_clear(log, thmqi_generation(log), log->generation);
}

/* What was noted of the segment that fills is no use. The number goes on by two, to stay in its place. */
static void generation_again(struct thmq_log *log)
{
	log->generation += 2;
	generation_clear(log, thmqi_generation(log), log->generation);
}

void thmqi_untouch(struct thmq_log *log, struct run_index *x)
{
	struct run_index **at;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		struct generation *g = &log->generations[i];

		if (x->touched[i].number != g->number)
			continue;
		if (log->sealing.image.next == x) {
			log->sealing.image.next = x->touched[i].next;
			log->sealing.image.next_entry = UINT64_MAX;
		}
		for (at = &g->first; *at && *at != x; at = &(*at)->touched[i].next)
			;
		if (*at)
			*at = x->touched[i].next;
	}
}

void thmqi_seal_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term)
{
	struct generation *g = thmqi_generation(log);
	const struct note note = {.item = run->base_offset, .kind = run->partition, .batch = batch, .at = at, .term = term};

	if (!g->spoiled && thmqi_notes_put(&g->notes, &note, run + 1, run->len) != 0)
		g->spoiled = true;
}

void thmqi_seal_term(struct thmq_log *log, uint64_t batch, uint64_t term)
{
	struct generation *g = thmqi_generation(log);

	if (g->term_count && g->terms[g->term_count - 1].term == term)
		return;
	if (g->term_count == TERMS_MAX) {
		g->spoiled = true;
		return;
	}
	g->terms[g->term_count].index = batch;
	g->terms[g->term_count++].term = term;
}

static uint64_t term_of(const struct generation *g, uint64_t batch)
{
	uint32_t i = g->term_count;

	while (i > 1 && g->terms[i - 1].index > batch)
		i--;
	return i ? g->terms[i - 1].term : 0;
}

/* ------------------------------------------------------------------- images */

static struct seal_header *header_of(struct seal_image *image)
{
	return (struct seal_header *)image->data;
}

static struct seal_section_entry *section_of(struct seal_image *image, uint32_t kind)
{
	return &header_of(image)->sections[kind - 1];
}

static void section_put(struct seal_image *image, uint32_t kind, const void *data, uint32_t count, uint64_t bytes)
{
	struct seal_section_entry *e = section_of(image, kind);

	e->offset = image->bytes;
	e->count = count;
	e->bytes = bytes;
	if (bytes)
		memcpy(image->data + image->bytes, data, bytes);
	e->crc = thmqi_crc32c(0, image->data + image->bytes, bytes);
	image->bytes += THMQI_ALIGN_UP(bytes, 8ull);
}

static void put_states(struct seal_image *image, const struct generation *g)
{
	struct seal_section_entry *e = section_of(image, SEAL_STATES);
	struct seal_state *state = (struct seal_state *)(image->data + image->bytes);
	uint32_t i;

	e->offset = image->bytes;
	e->count = g->notes.count;
	e->bytes = (uint64_t)e->count * sizeof(*state);
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
	e->crc = thmqi_crc32c(0, state, e->bytes);
	image->bytes += e->bytes;
	section_put(image, SEAL_STATE_BYTES, g->notes.bytes, g->notes.bytes_used, g->notes.bytes_used);
}

/* All but the runs, which come step by step behind it. The segment's ends are the caller's to say. */
static int image_begin(struct thmq_log *log, struct seal_image *image, const struct segment *s, const struct generation *g,
		       uint32_t prev_crc)
{
	uint64_t room = sizeof(struct seal_header) + (uint64_t)s->batch_count * 4 + 8 +
			(uint64_t)g->partitions * sizeof(struct seal_partition) +
			(uint64_t)s->run_count * sizeof(struct seal_run) +
			(uint64_t)g->notes.count * sizeof(struct seal_state) + g->notes.bytes_used + 8;
	struct seal_section_entry *e;
	struct seal_header *h;
	uint32_t kind;

	memset(image, 0, sizeof(*image));
	if (room > SEAL_BYTES_MAX)
		return -EFBIG;
	room = THMQI_ALIGN_UP(room, (uint64_t)THMQI_BLOCK);
	image->data = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (image->data == MAP_FAILED) {
		image->data = NULL;
		return -ENOMEM;
	}
	image->room = room;
	image->segment = s;
	image->generation = g;
	image->bytes = sizeof(*h);
	h = header_of(image);
	h->magic = SEAL_MAGIC;
	h->version = FORMAT_VERSION;
	h->position = s->position;
	memcpy(h->log_id, log->chain.log_id, 16);
	h->first_index = s->first_index;
	h->last_index = s->first_index + s->batch_count - 1;
	h->prev_crc = prev_crc;
	h->section_count = SEAL_SECTIONS;
	for (kind = 1; kind <= SEAL_SECTIONS; kind++)
		h->sections[kind - 1].kind = kind;
	section_put(image, SEAL_BATCHES, s->blocks, s->batch_count, (uint64_t)s->batch_count * 4);
	put_states(image, g);
	e = section_of(image, SEAL_KEYS); /* none are made by this version */
	e->offset = image->bytes;
	e = section_of(image, SEAL_PARTITIONS);
	e->offset = image->bytes;
	image->bytes += (uint64_t)g->partitions * sizeof(struct seal_partition);
	e = section_of(image, SEAL_RUNS);
	e->offset = image->bytes;
	image->next = g->first;
	image->next_entry = UINT64_MAX;
	return 0;
}

/* The first of @x's entries that lies in batch @index or behind it. */
static uint64_t first_entry(const struct run_index *x, uint64_t index)
{
	uint64_t lo = x->first, hi = x->count, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (thmqi_index_entry(x, mid)->batch < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* One partition, or a part of it. Return: entries gathered, one at least. */
static uint32_t gather(struct seal_image *image, uint32_t budget)
{
	const struct run_index *x = image->next;
	const struct generation *g = image->generation;
	const struct segment *s = image->segment;
	uint64_t last = s->first_index + s->batch_count - 1, number;
	struct seal_section_entry *e = section_of(image, SEAL_RUNS);
	struct seal_partition *p = (struct seal_partition *)(image->data + section_of(image, SEAL_PARTITIONS)->offset) +
				   image->partitions;
	struct seal_run *run = (struct seal_run *)(image->data + e->offset) + image->runs, *first = run;

	if (image->next_entry == UINT64_MAX) {
		image->next_entry = first_entry(x, s->first_index);
		*p = (struct seal_partition){.partition = x->partition, .first = image->runs};
	}
	for (number = image->next_entry; number < x->count && budget; number++, budget--) {
		const struct entry *entry = thmqi_index_entry(x, number);

		if (entry->batch > last)
			break;
		*run++ = (struct seal_run){.base_offset = entry->base_offset,
					   .time_max_ns = entry->time_max_ns,
					   .batch = (uint32_t)(entry->batch - s->first_index),
					   .at = entry->at,
					   .span = entry->span};
		p->messages += entry->span;
		p->last_term = term_of(g, entry->batch);
	}
	p->count += (uint32_t)(run - first);
	image->runs += (uint32_t)(run - first);
	e->crc = thmqi_crc32c(e->crc, first, (uint64_t)(run - first) * sizeof(*run));
	image->next_entry = number;
	if (number == x->count || thmqi_index_entry(x, number)->batch > last) {
		image->next = x->touched[g->number % 2].next;
		image->next_entry = UINT64_MAX;
		image->partitions += p->count != 0;
	}
	return (uint32_t)(run - first) + 1;
}

static void image_end(struct seal_image *image, uint64_t last_term, uint32_t last_crc)
{
	struct seal_section_entry *partitions = section_of(image, SEAL_PARTITIONS), *runs = section_of(image, SEAL_RUNS);
	struct seal_header *h = header_of(image);

	partitions->count = image->partitions;
	partitions->bytes = (uint64_t)image->partitions * sizeof(struct seal_partition);
	partitions->crc = thmqi_crc32c(0, image->data + partitions->offset, partitions->bytes);
	runs->count = image->runs;
	runs->bytes = (uint64_t)image->runs * sizeof(struct seal_run);
	image->bytes = THMQI_ALIGN_UP(runs->offset + runs->bytes, (uint64_t)THMQI_BLOCK);
	h->last_term = last_term;
	h->last_crc = last_crc;
	h->header_crc = thmqi_crc32c(0, h, offsetof(struct seal_header, header_crc));
}

/* ------------------------------------------------------------ in background */

static void sealing_end(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;

	image_free(&w->image);
	w->step = SEALING_IDLE;
	w->segment = NULL;
}

static void on_made(struct making *m, int error)
{
	struct thmq_log *log = m->log;

	if (!error) /* else the next open makes it */
		log->sealing.segment->index = m->op.file; /* closed with the segment's: that frees memory */
	m->op.file = NULL;
	sealing_end(log);
}

void thmqi_seal_begin(struct thmq_log *log, struct segment *s)
{
	struct sealing *w = &log->sealing;

	if (w->step != SEALING_IDLE || thmqi_generation(log)->spoiled) {
		generation_again(log); /* two at a time are too many */
		return;
	}
	/* the chain is at the segment's end now */
	if (image_begin(log, &w->image, s, thmqi_generation(log), s->prev_crc) == 0) {
		header_of(&w->image)->last_term = log->chain.term;
		header_of(&w->image)->last_crc = log->chain.crc;
		w->segment = s;
		w->step = SEALING_WAIT;
	}
	generation_next(log);
}

static void start_writing(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	struct seal_header *h = header_of(&w->image);

	image_end(&w->image, h->last_term, h->last_crc);
	w->making.log = log;
	w->making.done = on_made;
	w->making.image = w->image.data;
	w->making.bytes = w->image.bytes;
	w->making.temporary = SEAL_TEMPORARY;
	thmqi_seal_name(w->segment->position, w->making.name);
	w->step = SEALING_WRITE;
	thmqi_making_start(&w->making);
}

int thmqi_seal_step(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	uint32_t done = 0;

	if (w->step == SEALING_WAIT) {
		if (log->durable_index < w->segment->first_index + w->segment->batch_count - 1)
			return 0;
		w->step = SEALING_GATHER;
	}
	if (w->step != SEALING_GATHER)
		return 0;
	while (w->image.next && done < GATHER_BUDGET)
		done += gather(&w->image, GATHER_BUDGET - done);
	if (!w->image.next)
		start_writing(log);
	return 1;
}

void thmqi_seal_stop(struct thmq_log *log)
{
	if (!log->disk)
		return;
	if (log->sealing.step == SEALING_WRITE)
		thmqi_making_stop(&log->sealing.making);
	sealing_end(log);
	thmqi_generation(log)->spoiled = true;
}

/* ----------------------------------------------------------------- recovery */

void thmqi_seal_keep(struct thmq_log *log, struct segment *s)
{
	struct generation *g = thmqi_generation(log);
	struct seal_image *image = g->spoiled ? NULL : calloc(1, sizeof(*image));

	if (image && image_begin(log, image, s, g, s->prev_crc) == 0) {
		while (image->next)
			gather(image, UINT32_MAX);
		image_end(image, log->chain.term, log->chain.crc);
		s->image = image;
	} else {
		free(image);
	}
	generation_again(log);
}

static int write_image(struct thmq_log *log, const struct seal_image *image)
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

void thmqi_seals_write(struct thmq_log *log)
{
	bool any = false;
	uint32_t i;

	for (i = 0; i < log->segment_count; i++) {
		struct segment *s = log->segments[i];

		if (!s->image)
			continue;
		any |= write_image(log, s->image) == 0;
		image_free(s->image);
		free(s->image);
		s->image = NULL;
	}
	if (any)
		log->disk->dir_sync(log->dir);
}

/* So that the next open need not read a segment for want of an index that was nearly made. */
void thmqi_seal_finish(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	struct seal_header *h;

	if (w->step == SEALING_WRITE)
		thmqi_making_stop(&w->making); /* from the begin */
	if (w->step == SEALING_WAIT || w->step == SEALING_GATHER) {
		h = header_of(&w->image);
		while (w->image.next)
			gather(&w->image, UINT32_MAX);
		image_end(&w->image, h->last_term, h->last_crc);
	}
	if (w->step != SEALING_IDLE && write_image(log, &w->image) == 0)
		log->disk->dir_sync(log->dir);
	sealing_end(log);
}
