/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal.c - the index of a segment that is full: what was noted while it filled is put together a little at a time, once
 * all of it is durable, and written in the background. An aid: when it cannot be made the next open makes it.
 */
#include <sys/mman.h>

#include "../internal.h"
#include "keys.h"
#include "seal_format.h"

/*
 * Entries and partitions in one iteration: enough for an idle log, and more where one iteration takes many runs, so that a segment's
 * entries are out of memory long before the next one is full.
 */
#define GATHER_BUDGET 2048u
#define GATHER_BUDGET_MAX 32768u
#define TAKE_OVER_BUDGET 256u
#define TAKE_OVER_BUDGET_MAX 8192u
#define RUNS_AHEAD 8u /* entries for each run that was appended meanwhile */
/*
 * Entries of so many runs take so much memory (16 MiB at least) that their index does not wait behind the zeros of the next segment:
 * it is written as if somebody waited for it.
 */
#define RUNS_HURRY (1u << 20)

/*
 * So much of a segment that fills is behind the last part of its index when the next part is made, and an open reads no more than a
 * quarter of the largest segment. But each part has all that is before it once more: where runs are small, or of very many
 * partitions, parts would be written as much as the log itself is. What a part takes is at most a sixteenth of what was appended for it.
 */
#define PART_BYTES (256ull << 20)
#define PART_SHARE 16u
/*
 * The memory of an image, up to so much, stays for the next one while the log is so busy that there will soon be one: as often as that
 * is looked at so much has been stored. To map it anew takes a core as long as to fill it.
 */
#define KEPT_BYTES (64ull << 20)
#define KEPT_NS 50000000u
#define KEPT_STORED (8ull << 20)

#define PART_BYTES_EARLY (256ull << 10)
#define PART_RETRY 16u /* of these: the segment before was still being sealed, or it takes too much yet */

/* -------------------------------------------------------------- generations */

static void generation_clear(struct generation *g, uint64_t number)
{
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
	generation_clear(&log->generations[0], 2);
	generation_clear(&log->generations[1], 1);
	if (log->opts.dir && (thmqi_notes_init(&log->generations[0].notes) || thmqi_notes_init(&log->generations[1].notes)))
		log->generations[0].spoiled = true;
}

void thmqi_seals_fini(struct thmq_log *log)
{
	uint32_t i;

	thmqi_image_free(&log->sealing.image);
	thmqi_image_memory_free(&log->sealing.kept);
	for (i = 0; i < log->segment_count; i++) {
		struct segment *s = log->segments[i];

		if (s->image) {
			thmqi_image_free(s->image);
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
	generation_clear(thmqi_generation(log), log->generation);
}

/* What was noted of the segment that fills is no use. The number goes on by two, to stay in its place. */
static void generation_again(struct thmq_log *log)
{
	log->generation += 2;
	generation_clear(thmqi_generation(log), log->generation);
}

void thmqi_untouch(struct thmq_log *log, struct run_index *x)
{
	struct run_index **at;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		struct generation *g = &log->generations[i];

		if (x->generations[i] != (uint32_t)g->number)
			continue;
		/* it may be in both lists: what comes next in that of the segment that fills is none of this one's */
		if (log->sealing.image.next == x && log->sealing.image.generation == g) {
			if (log->sealing.image.place) /* half of its runs is nothing that could be said */
				thmqi_image_forget(&log->sealing.image);
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

void thmqi_seal_note_producer(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term)
{
	struct thmqi_producer_run state;

	thmqi_run_producer(run, &state);
	thmqi_seal_note(log, &state.header, batch, at, term);
	thmqi_states_note(log, &state.header, batch);
}

void thmqi_seal_term(struct thmq_log *log, uint64_t batch, uint64_t term)
{
	struct generation *g = thmqi_generation(log);

	thmqi_copies_note(log, batch, term);
	if (g->term_count && g->terms[g->term_count - 1].term == term)
		return;
	if (g->term_count == TERMS_MAX) {
		g->spoiled = true;
		return;
	}
	g->terms[g->term_count].index = batch;
	g->terms[g->term_count++].term = term;
}

/* ------------------------------------------------------------ in background */

static bool is_part(const struct sealing *w)
{
	return w->image.part != 0;
}

static void on_kept(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, sealing.kept_timer);
	struct sealing *w = &log->sealing;
	uint64_t stored = log->stats.stored_bytes - w->kept_stored;

	w->kept_stored = log->stats.stored_bytes;
	if (stored < KEPT_STORED)
		thmqi_image_memory_free(&w->kept);
	if (w->kept.data)
		thmqi_timer_start(log->core, t, log->core->now_ns + KEPT_NS);
}

static void keep_memory(struct thmq_log *log, struct seal_memory m)
{
	struct sealing *w = &log->sealing;

	if (!m.data || m.bytes > KEPT_BYTES || w->kept.data || log->draining) {
		thmqi_image_memory_free(&m);
		return;
	}
	w->kept = m;
	w->kept_stored = log->stats.stored_bytes;
	w->kept_timer.fire = on_kept;
	if (!thmqi_timer_is_running(&w->kept_timer))
		thmqi_timer_start(log->core, &w->kept_timer, log->core->now_ns + KEPT_NS);
}

void thmqi_seals_stop(struct thmq_log *log)
{
	thmqi_timer_stop(log->core, &log->sealing.kept_timer);
}

static void sealing_end(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;

	keep_memory(log, thmqi_image_take(&w->image));
	w->step = SEALING_IDLE;
	w->segment = NULL;
	log->tell_room = true; /* the next one may be sealed */
}

void thmqi_seal_drop_part(struct thmq_log *log)
{
	if (is_part(&log->sealing) && log->sealing.step < SEALING_WRITE)
		sealing_end(log);
}

bool thmqi_seal_busy(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;

	/* of a part nobody has asked for it to become durable, and the index of the whole segment has all of it */
	thmqi_seal_drop_part(log);
	w->making.hurried = w->step != SEALING_IDLE; /* somebody waits */
	return w->step != SEALING_IDLE;
}

static void on_made(struct making *m, int error)
{
	struct thmq_log *log = m->log;
	struct sealing *w = &log->sealing;

	if (!error && is_part(w))
		thmqi_vote_mark(log); /* only what ends below the mark is believed */
	if (error || is_part(w) || log->sealed_next != w->segment->ordinal) { /* else the next open makes it */
		if (m->op.file)
			log->disk->file_close(m->op.file);
		m->op.file = NULL;
		sealing_end(log);
		return;
	}
	w->segment->index = m->op.file;
	m->op.file = NULL;
	w->segment->sealed = thmqi_image_summary(&w->image);
	if (!w->segment->sealed) {
		sealing_end(log);
		return;
	}
	w->image.next = w->image.generation->first;
	w->step = SEALING_TAKE_OVER;
}

void thmqi_seal_begin(struct thmq_log *log, struct segment *s)
{
	struct sealing *w = &log->sealing;

	if (w->step != SEALING_IDLE || thmqi_generation(log)->spoiled) {
		generation_again(log);
		return;
	}
	/* the chain is at the segment's end now */
	if (thmqi_image_begin(log, &w->image, s, thmqi_generation(log), 0) == 0) {
		w->segment = s;
		w->last = log->chain.index;
		w->runs = log->stats.runs;
		w->step = SEALING_WAIT;
	}
	generation_next(log);
}

static uint64_t part_bytes(const struct thmq_log *log)
{
	return log->defects & THMQI_LOG_EARLY_PARTS ? PART_BYTES_EARLY : PART_BYTES;
}

/* None so near to the segment's end that the index of all of it would come as soon. */
static void next_part_at(struct thmq_log *log, uint64_t position)
{
	const struct segment *s = log->active;

	log->part_due = position + part_bytes(log) / 2 <= s->position + s->bytes ? position : UINT64_MAX;
}

static bool part_is_worth_it(struct thmq_log *log)
{
	return log->defects & THMQI_LOG_EARLY_PARTS ||
	       (log->chain.position - log->part_from) / PART_SHARE >= thmqi_image_room(log->active, thmqi_generation(log));
}

void thmqi_seal_plan_part(struct thmq_log *log)
{
	log->part_from = log->active->position;
	next_part_at(log, log->active->position + part_bytes(log));
}

void thmqi_seal_begin_part(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	struct generation *g = thmqi_generation(log);

	if (w->step != SEALING_IDLE || !part_is_worth_it(log)) {
		next_part_at(log, log->chain.position + part_bytes(log) / PART_RETRY);
		return;
	}
	log->part_from = log->chain.position;
	next_part_at(log, log->chain.position + part_bytes(log));
	if (g->spoiled)
		return;
	log->part++;
	if (thmqi_image_begin(log, &w->image, log->active, g, log->part) != 0)
		return;
	w->segment = log->active;
	w->last = log->chain.index;
	w->runs = log->stats.runs;
	w->step = SEALING_WAIT;
}

static void start_writing(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;

	thmqi_image_end(&w->image);
	w->making.log = log;
	w->making.done = on_made;
	w->making.image = w->image.data;
	w->making.bytes = w->image.bytes;
	w->making.temporary = SEAL_TEMPORARY;
	w->making.hurried = !is_part(w) && w->image.runs >= RUNS_HURRY;
	if (is_part(w))
		strcpy(w->making.name, SEAL_PART_NAME);
	else
		thmqi_seal_name(w->segment->position, w->making.name);
	w->step = SEALING_WRITE;
	thmqi_making_start(&w->making);
}

/* The entries of one partition after the other leave memory: each is found by the index from then on. */
static int take_over(struct thmq_log *log, uint32_t budget)
{
	struct sealing *w = &log->sealing;

	for (; w->image.next && budget; budget--) {
		int rc = thmqi_index_take_over(log, w->image.next, w->segment);

		if (rc)
			return rc; /* memory is short: at the next turn */
		w->image.next = w->image.next->touched[w->image.generation->number % 2].next;
	}
	if (w->image.next)
		return 0;
	thmqi_segment_forget_blocks(w->segment);
	thmqi_keys_drop(log, w->segment);
	log->sealed_next = w->segment->ordinal + 1;
	sealing_end(log);
	return 0;
}

int thmqi_seal_step(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	uint64_t runs = log->stats.runs - w->runs;
	uint32_t done = 0, budget;

	w->runs = log->stats.runs;
	if (w->step == SEALING_WAIT) {
		if (log->durable_index < w->last && !(log->defects & THMQI_LOG_EARLY_INDEX))
			return 0;
		w->step = SEALING_GATHER;
	}
	if (w->step == SEALING_TAKE_OVER)
		return take_over(log, (uint32_t)THMQI_MIN(THMQI_MAX(runs * 2, TAKE_OVER_BUDGET),
							  TAKE_OVER_BUDGET_MAX)) == 0;
	if (w->step != SEALING_GATHER)
		return 0;
	budget =
		(uint32_t)THMQI_MIN(THMQI_MAX(runs * RUNS_AHEAD, GATHER_BUDGET), GATHER_BUDGET_MAX);
	while (!w->image.done && done < budget)
		done += thmqi_image_step(&w->image, budget - done);
	if (w->image.done)
		start_writing(log);
	return 1;
}

void thmqi_seal_stop(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;

	if (!log->disk)
		return;
	if (w->step == SEALING_WRITE)
		thmqi_making_stop(&w->making);
	if (w->step == SEALING_TAKE_OVER && take_over(log, UINT32_MAX) != 0)
		thmqi_log_fail(log, -ENOMEM); /* half of its entries are in memory */
	sealing_end(log);
	thmqi_generation(log)->spoiled = true;
}

/* ----------------------------------------------------------------- recovery */

void thmqi_seal_keep(struct thmq_log *log, struct segment *s)
{
	struct generation *g = thmqi_generation(log);
	struct seal_image *image = g->spoiled ? NULL : calloc(1, sizeof(*image));

	if (image && thmqi_image_begin(log, image, s, g, 0) == 0) {
		while (!image->done)
			thmqi_image_step(image, UINT32_MAX);
		thmqi_image_end(image);
		s->image = image;
	} else {
		free(image);
	}
	generation_again(log);
}

/* Return: true if the index is there now. */
static bool write_kept(struct thmq_log *log, struct segment *s)
{
	if (thmqi_image_write(log, s->image) != 0)
		return false;
	s->sealed = thmqi_image_summary(s->image);
	return true;
}

void thmqi_seals_write(struct thmq_log *log)
{
	bool any = false;
	uint32_t i;

	for (i = 0; i < log->segment_count; i++) {
		struct segment *s = log->segments[i];

		if (!s->image)
			continue;
		any |= write_kept(log, s);
		thmqi_image_free(s->image);
		free(s->image);
		s->image = NULL;
	}
	if (any)
		log->disk->dir_sync(log->dir);
}

/* Those that were found damaged: the next open makes them again. */
static bool remove_bad(struct thmq_log *log)
{
	char name[40];
	bool any = false;
	uint32_t i;

	for (i = 0; i < log->segment_count; i++) {
		if (!log->segments[i]->index_bad)
			continue;
		thmqi_seal_name(log->segments[i]->position, name);
		log->disk->unlink(log->dir, name);
		any = true;
	}
	return any;
}

/* So that the next open need not read a segment for want of an index that was nearly made. */
void thmqi_seal_finish(struct thmq_log *log)
{
	struct sealing *w = &log->sealing;
	bool changed = remove_bad(log);

	if (w->step == SEALING_WRITE)
		thmqi_making_stop(&w->making); /* from the begin */
	if (is_part(w))
		w->step = SEALING_IDLE;
	if (w->step == SEALING_WAIT || w->step == SEALING_GATHER) {
		while (!w->image.done)
			thmqi_image_step(&w->image, UINT32_MAX);
		thmqi_image_end(&w->image);
	}
	if (w->step != SEALING_IDLE && w->step != SEALING_TAKE_OVER && thmqi_image_write(log, &w->image) == 0)
		changed = true;
	if (changed)
		log->disk->dir_sync(log->dir);
	sealing_end(log);
}
