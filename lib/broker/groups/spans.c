/* SPDX-License-Identifier: Apache-2.0 */
/* spans.c - see spans.h. An array, sorted by offset; what is done at its front leaves it. Knows nothing of what offsets mean. */
#include "spans.h"

#define SPARE 4u /* spans that a change makes on its way: two cuts, and what is taken */

int thmqi_spans_init(struct spans *s, uint32_t open_max, uint64_t begin)
{
	memset(s, 0, sizeof(*s));
	s->size = 2 * open_max + 1 + SPARE;
	s->at = calloc(s->size, sizeof(*s->at)); /* mostly memory that is never touched */
	s->end = begin;
	return s->at ? 0 : -ENOMEM;
}

void thmqi_spans_fini(struct spans *s)
{
	free(s->at);
	memset(s, 0, sizeof(*s));
}

/* ------------------------------------------------------------------ structure */

static struct span *get(const struct spans *s, uint32_t i)
{
	return &s->at[s->head + i];
}

static uint64_t len_of(const struct spans *s, uint32_t i)
{
	return thmqi_spans_end_of(s, i) - get(s, i)->from;
}

/* The span that has @offset, which lies between floor and end. */
static uint32_t find(const struct spans *s, uint64_t offset)
{
	uint32_t lo = 0, hi = s->count, mid;

	while (hi - lo > 1) {
		mid = lo + (hi - lo) / 2;
		if (get(s, mid)->from <= offset)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static void pull_down(struct spans *s)
{
	memmove(s->at, s->at + s->head, s->count * sizeof(*s->at));
	s->head = 0;
}

static struct span *insert(struct spans *s, uint32_t i)
{
	if (s->head + s->count == s->size)
		pull_down(s);
	thmqi_assert(s->count < s->size);
	memmove(get(s, i + 1), get(s, i), (s->count - i) * sizeof(*s->at));
	s->count++;
	return get(s, i);
}

/* A span begins at @offset from now on. Return: which; count where that is the end. */
static uint32_t cut(struct spans *s, uint64_t offset)
{
	uint32_t i;

	if (offset >= s->end)
		return s->count;
	i = find(s, offset);
	if (get(s, i)->from == offset)
		return i;
	insert(s, i + 1);
	*get(s, i + 1) = *get(s, i);
	get(s, i + 1)->from = offset;
	return i + 1;
}

static bool alike(const struct span *a, const struct span *b)
{
	return a->state == b->state && a->due_ns == b->due_ns && a->holder == b->holder &&
	       a->deliveries == b->deliveries;
}

/* Spans from before @first to behind @last - 1 that are alike become one; what is done at the front goes. */
static void join(struct spans *s, uint32_t first, uint32_t last)
{
	uint32_t from = first ? first - 1 : 0, to = THMQI_MIN(last + 1, s->count), at, i;

	if (from < to) {
		for (at = from, i = from + 1; i < to; i++)
			if (!alike(get(s, at), get(s, i)))
				*get(s, ++at) = *get(s, i);
		at++;
		memmove(get(s, at), get(s, to), (s->count - to) * sizeof(*s->at));
		s->count -= to - at;
	}
	while (s->count && get(s, 0)->state == SPAN_DONE) {
		s->head++;
		s->count--;
	}
	if (!s->count)
		s->head = 0;
}

static void count(struct span_holder *holder, uint64_t len)
{
	if (!holder)
		return;
	holder->out += len;
	*holder->total += len;
}

/* @len: its offsets */
static void set(struct span *p, uint64_t len, enum span_state state, struct span_holder *holder,
		uint64_t due_ns, uint16_t deliveries)
{
	count(p->holder, -len);
	count(holder, len);
	p->state = (uint8_t)state;
	p->holder = holder;
	p->due_ns = due_ns;
	p->deliveries = deliveries;
}

/* From @from up to @to as spans of their own; [*first, *last). False: there is nothing between. */
static bool carve(struct spans *s, uint64_t from, uint64_t to, uint32_t *first, uint32_t *last)
{
	from = THMQI_MAX(from, thmqi_spans_floor(s));
	to = THMQI_MIN(to, s->end);
	if (from >= to)
		return false;
	*first = cut(s, from);
	*last = cut(s, to);
	return true;
}

/* -------------------------------------------------------------------- changes */

void thmqi_spans_take(struct spans *s, uint64_t to, struct span_holder *holder, uint64_t due_ns)
{
	struct span *p = insert(s, s->count);

	thmqi_assert(to > s->end);
	*p = (struct span){.from = s->end};
	set(p, to - s->end, SPAN_OUT, holder, due_ns, 1);
	s->open += to - s->end;
	s->end = to;
	join(s, s->count - 1, s->count);
}

void thmqi_spans_skip(struct spans *s, uint64_t to)
{
	struct span *p;

	if (to <= s->end)
		return;
	if (s->count) {
		p = insert(s, s->count);
		*p = (struct span){.from = s->end, .state = SPAN_DONE};
	}
	s->end = to;
	join(s, s->count ? s->count - 1 : 0, s->count);
}

void thmqi_spans_lend(struct spans *s, uint32_t i, uint64_t to, struct span_holder *holder,
		      uint64_t due_ns)
{
	struct span *p;

	cut(s, to);
	p = get(s, i);
	thmqi_assert(p->state == SPAN_BACK);
	set(p, len_of(s, i), SPAN_OUT, holder, due_ns,
	    (uint16_t)(p->deliveries + (p->deliveries < SPAN_DELIVERIES_MAX)));
	join(s, i, i + 1);
}

uint64_t thmqi_spans_done(struct spans *s, uint64_t from, uint64_t to)
{
	uint32_t first, last, i;
	uint64_t n = 0;

	if (!carve(s, from, to, &first, &last))
		return 0;
	for (i = first; i < last; i++) {
		if (get(s, i)->state != SPAN_DONE)
			n += len_of(s, i);
		set(get(s, i), len_of(s, i), SPAN_DONE, NULL, 0, 0);
	}
	s->open -= n;
	join(s, first, last);
	return n;
}

static bool has(const struct span *p, const struct span_part *part)
{
	return p->state == SPAN_OUT && p->holder == part->holder &&
	       (!part->deliveries || p->deliveries == part->deliveries);
}

uint64_t thmqi_spans_back(struct spans *s, const struct span_part *part, uint64_t due_ns,
			  bool uncount)
{
	uint32_t first, last, i;
	uint64_t n = 0;

	if (!carve(s, part->from, part->to, &first, &last))
		return 0;
	for (i = first; i < last; i++) {
		struct span *p = get(s, i);

		if (!has(p, part))
			continue;
		n += len_of(s, i);
		set(p, len_of(s, i), SPAN_BACK, NULL, due_ns,
		    (uint16_t)(p->deliveries - (uncount && p->deliveries)));
	}
	join(s, first, last);
	return n;
}

uint64_t thmqi_spans_extend(struct spans *s, const struct span_part *part, uint64_t due_ns)
{
	uint32_t first, last, i;
	uint64_t n = 0;

	if (!carve(s, part->from, part->to, &first, &last))
		return 0;
	for (i = first; i < last; i++) {
		if (!has(get(s, i), part))
			continue;
		n += len_of(s, i);
		get(s, i)->due_ns = due_ns;
	}
	join(s, first, last);
	return n;
}

uint64_t thmqi_spans_seize(struct spans *s, uint64_t from, uint64_t to, struct span_holder *holder,
			   uint64_t due_ns, uint32_t *ret_deliveries)
{
	uint32_t first, last, i;
	uint64_t n = 0;

	*ret_deliveries = 1;
	if (!carve(s, from, to, &first, &last))
		return 0;
	for (i = first; i < last; i++) {
		struct span *p = get(s, i);

		if (p->state == SPAN_DONE)
			continue;
		n += len_of(s, i);
		set(p, len_of(s, i), SPAN_OUT, holder, due_ns,
		    (uint16_t)(p->deliveries + (p->deliveries < SPAN_DELIVERIES_MAX)));
		*ret_deliveries = THMQI_MAX(*ret_deliveries, (uint32_t)p->deliveries);
	}
	join(s, first, last);
	return n;
}

uint64_t thmqi_spans_drop(struct spans *s, struct span_holder *holder)
{
	const struct span_part all = {.holder = holder, .from = thmqi_spans_floor(s), .to = s->end};

	return thmqi_spans_back(s, &all, 0, false);
}

uint64_t thmqi_spans_expire(struct spans *s, uint64_t now_ns, uint64_t *ret_next_ns)
{
	uint64_t n = 0, next = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < s->count; i++) {
		struct span *p = get(s, i);

		if (p->state != SPAN_OUT)
			continue;
		if (p->due_ns > now_ns) {
			next = THMQI_MIN(next, p->due_ns);
			continue;
		}
		n += len_of(s, i);
		set(p, len_of(s, i), SPAN_BACK, NULL, 0, p->deliveries);
	}
	*ret_next_ns = next;
	if (n)
		join(s, 0, s->count);
	return n;
}

uint32_t thmqi_spans_due(const struct spans *s, uint64_t now_ns, uint64_t *ret_next_ns)
{
	uint64_t next = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < s->count; i++) {
		const struct span *p = get(s, i);

		if (p->state != SPAN_BACK)
			continue;
		if (p->due_ns <= now_ns)
			return i;
		next = THMQI_MIN(next, p->due_ns);
	}
	*ret_next_ns = next;
	return UINT32_MAX;
}

/* --------------------------------------------------------------------- stored */

uint32_t thmqi_spans_store(const struct spans *s, struct span_stored *ret, uint32_t max)
{
	uint32_t i, n = 0;
	uint64_t len;

	for (i = 0; i < s->count; i++) {
		const struct span *p = get(s, i);

		for (len = len_of(s, i); len && n < max; n++) {
			ret[n].len = (uint32_t)THMQI_MIN(len, (uint64_t)UINT32_MAX);
			ret[n].deliveries = p->deliveries;
			ret[n].done = p->state == SPAN_DONE;
			len -= ret[n].len;
		}
	}
	return n;
}

bool thmqi_spans_load(struct spans *s, uint64_t floor, const struct span_stored *stored,
		      uint32_t count, uint32_t open_max)
{
	uint64_t open = 0, end = floor;
	uint32_t i;

	for (i = 0; i < count; i++) {
		if (!stored[i].len || stored[i].done > 1 || end > UINT64_MAX - stored[i].len)
			return false;
		end += stored[i].len;
		open += stored[i].done ? 0 : stored[i].len;
	}
	if (count > 2 * open_max + 1) /* offsets may be more: parts of a message stay together */
		return false;
	s->head = s->count = 0;
	s->end = floor;
	s->open = open;
	for (i = 0; i < count; i++) {
		struct span p = {
			.from = s->end, .state = SPAN_BACK, .deliveries = stored[i].deliveries};

		s->end += stored[i].len;
		if (stored[i].done)
			p.state = SPAN_DONE, p.deliveries = 0;
		if (s->count && alike(get(s, s->count - 1), &p))
			continue;
		if (!s->count && stored[i].done)
			continue;
		*insert(s, s->count) = p;
	}
	return true;
}

void thmqi_spans_cut(struct spans *s, uint64_t to)
{
	uint32_t i, first;

	if (to >= s->end)
		return;
	if (to <= thmqi_spans_floor(s)) {
		s->head = s->count = 0;
		s->open = 0;
		s->end = to;
		return;
	}
	first = cut(s, to);
	for (i = first; i < s->count; i++)
		if (get(s, i)->state != SPAN_DONE)
			s->open -= len_of(s, i);
	s->count = first;
	s->end = to;
}
