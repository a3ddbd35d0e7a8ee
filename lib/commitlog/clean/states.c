/* SPDX-License-Identifier: Apache-2.0 */
/*
 * states.c - in which batch the newest slice of each state is, so that the cleaner knows which would go with a segment. Knows
 * nothing of what slices say.
 */
#include "../internal.h"

#define STATES_MIN 64u

static struct state_place *place_of(const struct states *t, uint32_t kind, uint64_t item)
{
	const uint64_t key[2] = {kind, item};
	uint32_t at = (uint32_t)thmqi_hash64(key, sizeof(key)) & t->mask;

	while (t->places[at].batch && (t->places[at].kind != kind || t->places[at].item != item))
		at = (at + 1) & t->mask;
	return &t->places[at];
}

static int grow(struct states *t)
{
	struct states bigger = {.mask = t->places ? t->mask * 2 + 1 : STATES_MIN - 1,
				.count = t->count,
				.bytes = t->bytes};
	uint32_t i;

	bigger.places = calloc((size_t)bigger.mask + 1, sizeof(*bigger.places));
	if (!bigger.places)
		return -ENOMEM;
	for (i = 0; t->places && i <= t->mask; i++)
		if (t->places[i].batch)
			*place_of(&bigger, t->places[i].kind, t->places[i].item) = t->places[i];
	bigger.grown = t->grown + 1;
	bigger.incomplete = t->incomplete;
	free(t->places);
	*t = bigger;
	return 0;
}

void thmqi_states_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch)
{
	struct states *t = &log->states;
	struct state_place *p;

	if ((!t->places || t->count >= t->mask / 4 * 3) && grow(t) != 0) {
		t->incomplete = true; /* nothing may go any more */
		return;
	}
	p = place_of(t, run->partition, run->base_offset);
	if (!p->batch) {
		p->kind = run->partition;
		p->item = run->base_offset;
		t->count++;
	}
	t->bytes += run->len;
	t->bytes -= p->len;
	p->len = run->len;
	p->batch = batch;
}

const struct state_place *thmqi_states_next(const struct states *t, uint32_t *cursor,
					    uint32_t *budget, uint64_t last)
{
	for (; t->places && *cursor <= t->mask && *budget; --*budget) {
		const struct state_place *p = &t->places[(*cursor)++];

		if (p->batch && p->batch <= last)
			return p;
	}
	return NULL;
}

void thmqi_states_meaningless(struct thmq_log *log, const struct state_place *p)
{
	struct state_place *mine = &log->states.places[p - log->states.places];

	log->states.bytes -= mine->len;
	mine->len = 0;
	mine->batch = UINT64_MAX; /* the place stays its own, should it come again */
}

void thmqi_states_cut(struct thmq_log *log, uint64_t batch)
{
	struct states *t = &log->states;
	uint32_t i;

	/* where the one before is was forgotten: the owner is asked to write it again as soon as it could matter */
	for (i = 0; t->places && i <= t->mask; i++)
		if (t->places[i].batch >= batch && t->places[i].batch != UINT64_MAX)
			t->places[i].batch = 1;
}

void thmqi_states_fini(struct thmq_log *log)
{
	free(log->states.places);
	memset(&log->states, 0, sizeof(log->states));
}
