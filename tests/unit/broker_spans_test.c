/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_spans_test.c - what has become of messages that are handed out one by one, against a model that keeps a word for each
 * offset: random steps, and after each both say the same; what is stored comes back.
 */
#include <criterion/criterion.h>

#include "../../lib/broker/groups/spans.h"

TestSuite(broker_spans, .timeout = 60);

#define OFFSETS 600u
#define OPEN_MAX 40u
#define HOLDERS 4

struct word {
	uint8_t state; /* 0: never handed out */
	int holder;
	uint64_t due;
	uint16_t deliveries;
};

static struct word model[OFFSETS + 1];
static struct spans spans;
static struct thmqi_prng prng;
static uint64_t base, end, now;
static struct span_holder holders[HOLDERS];
static uint64_t total;

static uint64_t below(uint64_t n)
{
	return thmqi_prng_below(&prng, n);
}

static uint64_t model_floor(void)
{
	uint64_t at = 0;

	while (at < end && model[at].state == SPAN_DONE)
		at++;
	return at;
}

static uint64_t model_open(void)
{
	uint64_t at, n = 0;

	for (at = 0; at < end; at++)
		n += model[at].state != SPAN_DONE;
	return n;
}

static void check(void)
{
	uint64_t at = model_floor(), to;
	uint32_t i;

	cr_assert_eq(thmqi_spans_floor(&spans), base + at);
	cr_assert_eq(spans.end, base + end);
	cr_assert_eq(spans.open, model_open());
	cr_assert_leq(spans.count, 2 * OPEN_MAX + 1);
	for (i = 0; i < spans.count; i++) {
		const struct span *p = thmqi_spans_get(&spans, i);

		cr_assert_eq(p->from, base + at);
		to = thmqi_spans_end_of(&spans, i) - base;
		cr_assert_gt(to, at);
		if (i)
			cr_assert(p->state != SPAN_DONE ||
				  thmqi_spans_get(&spans, i - 1)->state != SPAN_DONE);
		else
			cr_assert_neq(p->state, SPAN_DONE);
		for (; at < to; at++) {
			cr_assert_eq(p->state, model[at].state, "offset %llu",
				     (unsigned long long)at);
			if (p->state == SPAN_DONE)
				continue;
			cr_assert_eq(p->due_ns, model[at].due);
			cr_assert_eq(p->deliveries, model[at].deliveries);
			cr_assert_eq(p->holder,
				     p->state == SPAN_OUT ? &holders[model[at].holder] : NULL);
		}
	}
	cr_assert_eq(at, end);
	uint64_t out[HOLDERS] = {0}, sum = 0;

	for (at = 0; at < end; at++)
		if (model[at].state == SPAN_OUT)
			out[model[at].holder]++, sum++;
	for (i = 0; i < HOLDERS; i++)
		cr_assert_eq(holders[i].out, out[i]);
	cr_assert_eq(total, sum);
}

static void take_some(void)
{
	uint64_t n = 1 + below(8), at;
	int who = (int)below(HOLDERS);

	n = THMQI_MIN(n, THMQI_MIN(OPEN_MAX - model_open(), OFFSETS - end));
	if (!n)
		return;
	thmqi_spans_take(&spans, base + end + n, &holders[who], now + 50);
	for (at = end; at < end + n; at++)
		model[at] = (struct word){SPAN_OUT, who, now + 50, 1};
	end += n;
}

static void skip_some(void)
{
	uint64_t n = THMQI_MIN(1 + below(5), OFFSETS - end), at;

	thmqi_spans_skip(&spans, base + end + n);
	for (at = end; at < end + n; at++)
		model[at] = (struct word){.state = SPAN_DONE};
	end += n;
}

static void lend_some(void)
{
	uint64_t next, at, to;
	uint32_t i = thmqi_spans_due(&spans, now, &next);
	int who = (int)below(HOLDERS);

	for (at = 0; at < end; at++)
		if (model[at].state == SPAN_BACK && model[at].due <= now)
			break;
	if (i == UINT32_MAX) {
		cr_assert_eq(at, end);
		for (to = UINT64_MAX, at = 0; at < end; at++)
			if (model[at].state == SPAN_BACK)
				to = THMQI_MIN(to, model[at].due);
		cr_assert_eq(next, to);
		return;
	}
	cr_assert_eq(thmqi_spans_get(&spans, i)->from, base + at);
	to = at + 1 + below(thmqi_spans_end_of(&spans, i) - base - at);
	thmqi_spans_lend(&spans, i, base + to, &holders[who], now + 50);
	for (; at < to; at++)
		model[at] = (struct word){SPAN_OUT, who, now + 50,
					  (uint16_t)(model[at].deliveries + 1)};
}

static void settle_some(void)
{
	uint64_t from = below(end + 2), to = from + 1 + below(below(5) ? 3 : 60),
		 due = now + below(2) * below(90), at, n = 0, got;
	int who = (int)below(HOLDERS), what = (int)below(6);
	const struct span_part part = {&holders[who], base + from, base + to, (uint32_t)below(3)};

	for (at = from; at < THMQI_MIN(to, end); at++) {
		struct word *w = &model[at];
		bool mine = w->state == SPAN_OUT && w->holder == who &&
			    (!part.deliveries || part.deliveries == w->deliveries);

		if (what < 3 ? w->state == SPAN_DONE : !mine)
			continue;
		n++;
		if (what < 3)
			*w = (struct word){.state = SPAN_DONE};
		else if (what == 5)
			w->due = due;
		else
			*w = (struct word){SPAN_BACK, 0, due,
					   (uint16_t)(w->deliveries - (what == 4))};
	}
	if (what < 3)
		got = thmqi_spans_done(&spans, base + from, base + to);
	else if (what == 5)
		got = thmqi_spans_extend(&spans, &part, due);
	else
		got = thmqi_spans_back(&spans, &part, due, what == 4);
	cr_assert_eq(got, n);
}

static void time_passes(void)
{
	uint64_t next, want = UINT64_MAX, at, n = 0;

	now += below(30);
	for (at = 0; at < end; at++) {
		struct word *w = &model[at];

		if (w->state != SPAN_OUT)
			continue;
		if (w->due > now) {
			want = THMQI_MIN(want, w->due);
			continue;
		}
		*w = (struct word){SPAN_BACK, 0, 0, w->deliveries};
		n++;
	}
	cr_assert_eq(thmqi_spans_expire(&spans, now, &next), n);
	cr_assert_eq(next, want);
}

static void one_goes(void)
{
	uint64_t at, n = 0;
	int who = (int)below(HOLDERS);

	for (at = 0; at < end; at++) {
		if (model[at].state != SPAN_OUT || model[at].holder != who)
			continue;
		model[at] = (struct word){SPAN_BACK, 0, 0, model[at].deliveries};
		n++;
	}
	cr_assert_eq(thmqi_spans_drop(&spans, &holders[who]), n);
}

static void comes_back(void)
{
	struct span_stored stored[2 * OPEN_MAX + 2];
	uint64_t floor = thmqi_spans_floor(&spans), at;
	uint32_t n = thmqi_spans_store(&spans, stored, THMQI_ARRAY_COUNT(stored));
	int who;

	cr_assert_eq(n, spans.count);
	for (who = 0; who < HOLDERS; who++)
		thmqi_spans_drop(&spans, &holders[who]);
	thmqi_spans_fini(&spans);
	cr_assert_eq(thmqi_spans_init(&spans, OPEN_MAX, 0), 0);
	cr_assert(thmqi_spans_load(&spans, floor, stored, n, OPEN_MAX));
	for (at = 0; at < end; at++)
		if (model[at].state != SPAN_DONE)
			model[at] = (struct word){SPAN_BACK, 0, 0, model[at].deliveries};
	check();
	if (below(2) || end == 0)
		return;
	end = below(end + 1); /* what comes last never was */
	thmqi_spans_cut(&spans, base + end);
	if (base + end < floor) /* what was done stays so */
		for (at = 0; at < end; at++)
			model[at].state = SPAN_DONE;
}

Test(broker_spans, random_steps_agree_with_a_word_for_each_offset)
{
	uint32_t seed, step;

	for (seed = 1; seed <= (getenv("THMQ_TEST_FULL") ? 4000u : 60u); seed++) {
		thmqi_prng_seed(&prng, seed);
		memset(model, 0, sizeof(model));
		base = seed % 3 ? seed * 1000 : UINT64_MAX / 2;
		end = 0;
		now = 1000;
		total = 0;
		for (step = 0; step < HOLDERS; step++)
			holders[step] = (struct span_holder){.total = &total};
		cr_assert_eq(thmqi_spans_init(&spans, OPEN_MAX, base), 0);
		for (step = 0; step < 800; step++) {
			switch (below(9)) {
			case 0:
			case 1:
				take_some();
				break;
			case 2:
				lend_some();
				break;
			case 3:
				time_passes();
				break;
			case 4:
				if (below(6) == 0)
					skip_some();
				break;
			case 5:
				if (below(10) == 0)
					one_goes();
				break;
			case 6:
				if (below(20) == 0)
					comes_back();
				break;
			default:
				settle_some();
			}
			check();
		}
		thmqi_spans_fini(&spans);
	}
}

Test(broker_spans, the_worst_there_can_be_fits)
{
	uint64_t at;

	holders[0].total = &total;
	cr_assert_eq(thmqi_spans_init(&spans, OPEN_MAX, 7), 0);
	for (at = 0; at < OPEN_MAX; at++) { /* each second one stays open */
		thmqi_spans_take(&spans, spans.end + 2, &holders[0], at);
		cr_assert_eq(thmqi_spans_done(&spans, spans.end - 1, spans.end), 1);
	}
	cr_assert_eq(spans.open, OPEN_MAX);
	cr_assert_eq(spans.count, 2 * OPEN_MAX);
	cr_assert_eq(thmqi_spans_done(&spans, 7, 8), 1);
	cr_assert_eq(thmqi_spans_floor(&spans), 9, "what is done at the front goes");
	cr_assert_eq(thmqi_spans_done(&spans, 0, UINT64_MAX), OPEN_MAX - 1);
	cr_assert_eq(spans.count, 0);
	thmqi_spans_fini(&spans);
}

Test(broker_spans, what_is_stored_wrongly_is_refused)
{
	const struct span_stored good[] = {{3, 1, 0}, {5, 0, 1}, {2, 7, 0}};
	struct span_stored bad[3];

	cr_assert_eq(thmqi_spans_init(&spans, OPEN_MAX, 0), 0);
	cr_assert(thmqi_spans_load(&spans, 100, good, 3, OPEN_MAX));
	cr_assert_eq(spans.open, 5);
	memcpy(bad, good, sizeof(bad));
	bad[1].len = 0;
	cr_assert_not(thmqi_spans_load(&spans, 100, bad, 3, OPEN_MAX));
	memcpy(bad, good, sizeof(bad));
	bad[2].done = 2;
	cr_assert_not(thmqi_spans_load(&spans, 100, bad, 3, OPEN_MAX));
	cr_assert_not(thmqi_spans_load(&spans, 100, good, 3, 0), "more than there is room for");
	cr_assert_not(thmqi_spans_load(&spans, UINT64_MAX - 4, good, 3, OPEN_MAX));
	cr_assert_eq(spans.open, 5, "and changes nothing");
	cr_assert_eq(thmqi_spans_floor(&spans), 100);
	thmqi_spans_fini(&spans);
}
