/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runs of a consumer whose topic has priorities, by chance, beside a model: each in turn within its priority, the highest first, and nobody
 * waits for ever.
 */
#include <criterion/criterion.h>

#include "../../lib/client/internal.h"

TestSuite(client_ranks, .timeout = 60);

#define RUNS 200u
#define PATIENCE 64u /* as doc/priorities.md says */

struct world {
	struct thmq_consumer c;
	struct reading readings[THMQ_PRIORITIES_MAX];
	struct delivered runs[RUNS];
	uint32_t count; /* of priorities */
	/* the model: runs of each priority, in the order of their coming */
	uint32_t line[THMQ_PRIORITIES_MAX][RUNS], len[THMQ_PRIORITIES_MAX];
	uint32_t waited[THMQ_PRIORITIES_MAX]; /* messages of others since it had something, or had its turn */
	bool used[RUNS];
	struct thmqi_prng prng;
};

static uint32_t by_chance(struct world *w, uint32_t below)
{
	return (uint32_t)thmqi_prng_below(&w->prng, below);
}

static void add(struct world *w)
{
	uint32_t i = by_chance(w, RUNS), priority = by_chance(w, w->count);
	struct delivered *d = &w->runs[i];

	if (w->used[i])
		return;
	*d = (struct delivered){.reading = &w->readings[priority], .count = 1 + by_chance(w, by_chance(w, 8) ? 5 : 200)};
	w->used[i] = true;
	if (!w->len[priority])
		w->waited[priority] = 0;
	w->line[priority][w->len[priority]++] = i;
	thmqi_ranks_add(&w->c, d);
}

/* All of a priority but some, as of a partition that goes. */
static void drop(struct world *w)
{
	uint32_t priority = by_chance(w, w->count), keep = by_chance(w, 3), left = 0, i;
	struct delivered **at = &w->c.first, *d;

	while ((d = *at)) {
		if (d->reading->priority != priority || (uint32_t)(d - w->runs) % 3 == keep)
			at = &d->next;
		else
			*at = d->next;
	}
	w->c.last = at;
	thmqi_ranks_renew(&w->c);
	for (i = 0; i < w->len[priority]; i++) {
		uint32_t run = w->line[priority][i];

		if (run % 3 == keep)
			w->line[priority][left++] = run;
		else
			w->used[run] = false;
	}
	w->len[priority] = left;
}

static uint32_t top_of(const struct world *w)
{
	uint32_t i = w->count;

	while (i-- > 0)
		if (w->len[i])
			return i;
	return UINT32_MAX;
}

/* Some messages of the run whose turn it is. */
static void take(struct world *w)
{
	uint32_t most = 1 + by_chance(w, 100), asked = most, top = top_of(w), n, i, priority;
	struct delivered **at = thmqi_ranks_choose(&w->c, &most), *d = *at;

	if (!d) {
		cr_assert_eq(top, UINT32_MAX);
		return;
	}
	priority = d->reading->priority;
	cr_assert_leq(most, asked);
	cr_assert_gt(most, 0);
	cr_assert_eq(w->line[priority][0], (uint32_t)(d - w->runs), "it is the first of its priority");
	if (priority != top)
		cr_assert_eq(most, 1, "a turn is one message");
	n = THMQI_MIN(most, d->count - d->at);
	d->at += n;
	thmqi_ranks_count(&w->c, at, n);
	w->waited[priority] = 0;
	for (i = 0; i < w->count; i++) {
		w->waited[i] += i != priority && w->len[i] ? n : 0;
		cr_assert_leq(w->waited[i], (PATIENCE + 1) * w->count, "priority %u of %u waits for ever", i, w->count);
	}
	if (d->at < d->count)
		return;
	thmqi_ranks_remove(&w->c, at);
	memmove(w->line[priority], w->line[priority] + 1, --w->len[priority] * sizeof(w->line[0][0]));
	w->used[d - w->runs] = false;
}

/* The queue has what the model has: the highest first, each in its order. */
static void look(struct world *w)
{
	const struct delivered *d = w->c.first;
	struct delivered **last = &w->c.first;
	uint32_t i = w->count, k;

	while (i-- > 0)
		for (k = 0; k < w->len[i]; k++, d = d->next) {
			cr_assert(d && (uint32_t)(d - w->runs) == w->line[i][k]);
			last = &w->runs[d - w->runs].next;
		}
	cr_assert_null(d);
	cr_assert_eq(w->c.last, last);
}

static void go(uint64_t seed, uint32_t count)
{
	static struct world w;
	uint32_t i, step, busy;

	memset(&w, 0, sizeof(w));
	w.count = count;
	w.c.last = &w.c.first;
	thmqi_prng_seed(&w.prng, seed);
	for (i = 0; i < count; i++)
		w.readings[i].priority = i;
	cr_assert_eq(thmqi_ranks_open(&w.c, count), 0);
	busy = 1 + by_chance(&w, 8);
	for (step = 0; step < 4000; step++) {
		if (by_chance(&w, 10) < busy)
			add(&w);
		else if (by_chance(&w, 50))
			take(&w);
		else
			drop(&w);
		look(&w);
	}
	thmqi_ranks_close(&w.c);
}

Test(client_ranks, the_highest_first_each_in_turn_and_nobody_waits_for_ever)
{
	const uint64_t seeds = getenv("THMQ_TEST_FULL") ? 2000 : 60;

	for (uint64_t seed = 1; seed <= seeds; seed++)
		go(seed, 2 + (uint32_t)(seed % (THMQ_PRIORITIES_MAX - 1)));
}

Test(client_ranks, one_priority_at_a_time_is_as_without)
{
	static struct world w;
	struct delivered **at;
	uint32_t i, most;

	w.count = 3;
	w.c.last = &w.c.first;
	for (i = 0; i < 3; i++)
		w.readings[i].priority = i;
	cr_assert_eq(thmqi_ranks_open(&w.c, 3), 0);
	for (i = 0; i < 5; i++) {
		w.runs[i] = (struct delivered){.reading = &w.readings[1], .count = 1000};
		thmqi_ranks_add(&w.c, &w.runs[i]);
	}
	for (i = 0; i < 5; i++) {
		most = 1000;
		at = thmqi_ranks_choose(&w.c, &most);
		cr_assert_eq(*at, &w.runs[i]);
		cr_assert_eq(most, 1000); /* nobody else waits */
		thmqi_ranks_count(&w.c, at, 1000);
		thmqi_ranks_remove(&w.c, at);
	}
	thmqi_ranks_close(&w.c);
}
