/* SPDX-License-Identifier: Apache-2.0 */
/*
 * match.c - a filter asked of a message. Logic has three values, as in SQL: what is not there is NULL, so is what compares or
 * computes with it, or compares what cannot be compared. No memory is taken; each step is done once at most.
 */
#include <math.h>

#include "internal.h"
#include "wire/attributes.h"

struct machine {
	const struct thmqi_filter *filter;
	const struct thmqi_filter_message *message;
	bool looked; /* headers[] is set */
	uint32_t top; /* values there are */
	struct value stack[DEPTH_MAX];
	struct value headers[NAMES_MAX];
};

static const struct value null = {.kind = KIND_NULL};

static struct value truth(bool is)
{
	return (struct value){.kind = KIND_BOOL, .whole = is};
}

static struct value text_of(const void *bytes, uint32_t len)
{
	return bytes && len ? (struct value){.kind = KIND_TEXT, .len = len, .text = bytes} : null;
}

static struct value header_value(const struct thmq_header *h)
{
	struct value v = {.kind = KIND_TEXT, .len = h->value_len, .text = h->value};

	switch (h->type) {
	case THMQ_HEADER_INT:
		v.kind = h->value_len == 8 ? KIND_INT : KIND_NULL;
		break;
	case THMQ_HEADER_REAL:
		v.kind = h->value_len == 8 ? KIND_REAL : KIND_NULL;
		break;
	case THMQ_HEADER_BOOL:
		return h->value_len == 1 ? truth(*(const uint8_t *)h->value != 0) : null;
	default:
		return v;
	}
	if (v.kind == KIND_INT)
		memcpy(&v.whole, h->value, 8);
	else if (v.kind == KIND_REAL)
		memcpy(&v.real, h->value, 8);
	return v.kind == KIND_REAL && isnan(v.real) ? null : v;
}

/* All that are asked for, in one go; the first of a name counts. */
static void look(struct machine *m)
{
	const struct thmqi_filter *f = m->filter;
	struct thmq_header h;
	uint32_t cursor = 0, i, found = 0, name_len;

	m->looked = true;
	for (i = 0; i < f->name_count; i++)
		m->headers[i] = null;
	if (!m->message->headers)
		return;
	while (thmqi_header_next(m->message->headers, m->message->headers_len, &cursor, &h) == 1) {
		name_len = (uint32_t)((const char *)h.value - h.name) - 1;
		for (i = 0; i < f->name_count; i++) {
			if ((found >> i & 1) || f->names[i].len != name_len || memcmp(f->bytes + f->names[i].at, h.name, name_len) != 0)
				continue;
			m->headers[i] = header_value(&h);
			found |= 1u << i;
		}
	}
}

/* ----------------------------------------------------------------- compare, compute */

static bool is_number(const struct value *v)
{
	return v->kind == KIND_INT || v->kind == KIND_REAL;
}

static double real_of(const struct value *v)
{
	return v->kind == KIND_INT ? (double)v->whole : v->real;
}

/* A whole number with a real one, exactly: a double does not have all of them. @real is a number. */
static int compare_mixed(int64_t whole, double real)
{
	double floor_of;

	if (real >= 9223372036854775808.0)
		return -1;
	if (real < -9223372036854775808.0)
		return 1;
	floor_of = floor(real);
	if (whole != (int64_t)floor_of)
		return whole < (int64_t)floor_of ? -1 : 1;
	return real > floor_of ? -1 : 0;
}

/* False: they cannot be compared. */
static bool compare(const struct value *a, const struct value *b, int *ret)
{
	uint32_t len = THMQI_MIN(a->len, b->len);

	if (a->kind == KIND_TEXT && b->kind == KIND_TEXT) {
		*ret = len ? memcmp(a->text, b->text, len) : 0;
		*ret = *ret ? *ret : a->len < b->len ? -1 : a->len > b->len;
		return true;
	}
	if ((a->kind == KIND_INT && b->kind == KIND_INT) || (a->kind == KIND_BOOL && b->kind == KIND_BOOL)) {
		*ret = a->whole < b->whole ? -1 : a->whole > b->whole;
		return true;
	}
	if (!is_number(a) || !is_number(b))
		return false;
	if (a->kind == KIND_INT)
		*ret = compare_mixed(a->whole, b->real);
	else if (b->kind == KIND_INT)
		*ret = -compare_mixed(b->whole, a->real);
	else
		*ret = a->real < b->real ? -1 : a->real > b->real;
	return true;
}

static struct value compared(uint32_t how, const struct value *a, const struct value *b)
{
	int c;

	if (!compare(a, b, &c) || (a->kind == KIND_BOOL && how > STEP_UNEQUAL)) /* no truth is less than another */
		return null;
	switch (how) {
	case STEP_EQUAL:
		return truth(c == 0);
	case STEP_UNEQUAL:
		return truth(c != 0);
	case STEP_LESS:
		return truth(c < 0);
	case STEP_LESS_EQUAL:
		return truth(c <= 0);
	case STEP_MORE:
		return truth(c > 0);
	default:
		return truth(c >= 0);
	}
}

static struct value real(double r)
{
	return isfinite(r) ? (struct value){.kind = KIND_REAL, .real = r} : null;
}

/* False: it does not fit; then it is done with reals. */
static bool computed_whole(uint32_t how, int64_t a, int64_t b, int64_t *ret)
{
	switch (how) {
	case STEP_ADD:
		return !__builtin_add_overflow(a, b, ret);
	case STEP_SUBTRACT:
		return !__builtin_sub_overflow(a, b, ret);
	case STEP_MULTIPLY:
		return !__builtin_mul_overflow(a, b, ret);
	case STEP_DIVIDE:
		if (a == INT64_MIN && b == -1)
			return false;
		*ret = a / b;
		return true;
	default:
		*ret = b == -1 ? 0 : a % b;
		return true;
	}
}

static struct value computed(uint32_t how, const struct value *a, const struct value *b)
{
	struct value v = {.kind = KIND_INT};
	double x, y;

	if (!is_number(a) || !is_number(b))
		return null;
	if (how >= STEP_DIVIDE && real_of(b) == 0)
		return null;
	if (a->kind == KIND_INT && b->kind == KIND_INT && computed_whole(how, a->whole, b->whole, &v.whole))
		return v;
	x = real_of(a);
	y = real_of(b);
	switch (how) {
	case STEP_ADD:
		return real(x + y);
	case STEP_SUBTRACT:
		return real(x - y);
	case STEP_MULTIPLY:
		return real(x * y);
	case STEP_DIVIDE:
		return real(x / y);
	default:
		return real(fmod(x, y));
	}
}

static struct value negated(const struct value *a)
{
	const struct value zero = {.kind = KIND_INT};

	return a->kind == KIND_REAL ? real(-a->real) : computed(STEP_SUBTRACT, &zero, a);
}

/* ------------------------------------------------------------------------ logic */

static bool is(const struct value *v, bool what)
{
	return v->kind == KIND_BOOL && v->whole == what;
}

static struct value both(const struct value *a, const struct value *b)
{
	if (is(a, false) || is(b, false))
		return truth(false);
	return is(a, true) && is(b, true) ? truth(true) : null;
}

static struct value either(const struct value *a, const struct value *b)
{
	if (is(a, true) || is(b, true))
		return truth(true);
	return is(a, false) && is(b, false) ? truth(false) : null;
}

static struct value between(const struct value *v, const struct value *low, const struct value *high)
{
	const struct value a = compared(STEP_MORE_EQUAL, v, low), b = compared(STEP_LESS_EQUAL, v, high);

	return both(&a, &b);
}

static struct value in(const struct thmqi_filter *f, const struct step *s, const struct value *v)
{
	struct value all = truth(false), one;
	uint32_t i;

	for (i = 0; i < s->count; i++) {
		one = compared(STEP_EQUAL, v, &f->constants[s->at + i]);
		all = either(&all, &one);
		if (is(&all, true))
			break;
	}
	return all;
}

static struct value like(const struct thmqi_filter *f, const struct step *s, const struct value *v)
{
	const struct value *pattern = &f->constants[s->at];

	if (v->kind != KIND_TEXT || v->len > LIKE_MAX)
		return null;
	return truth(thmqi_filter_like(v->text, v->len, pattern->text, pattern->len, s->count));
}

/* -------------------------------------------------------------------------- run */

static struct value pushed(struct machine *m, const struct step *s)
{
	switch (s->kind) {
	case STEP_CONSTANT:
		return m->filter->constants[s->at];
	case STEP_HEADER:
		if (!m->looked)
			look(m);
		return m->headers[s->at];
	case STEP_KEY:
		return text_of(m->message->key, m->message->key_len);
	case STEP_TAG:
		return text_of(m->message->tag, m->message->tag_len);
	default:
		return (struct value){.kind = KIND_INT, .whole = m->message->time_ns};
	}
}

/* One that takes values from the stack. */
static void reduce(struct machine *m, const struct step *s)
{
	struct value *top = &m->stack[m->top - 1], *below = top - 1;

	switch (s->kind) {
	case STEP_NEGATE:
		*top = negated(top);
		return;
	case STEP_NOT:
		*top = top->kind == KIND_BOOL ? truth(!top->whole) : null;
		return;
	case STEP_IS_NULL:
		*top = truth(top->kind == KIND_NULL);
		return;
	case STEP_IN:
		*top = in(m->filter, s, top);
		return;
	case STEP_LIKE:
		*top = like(m->filter, s, top);
		return;
	case STEP_BETWEEN:
		m->top -= 2;
		*(top - 2) = between(top - 2, below, top);
		return;
	default:
		break;
	}
	m->top--;
	if (s->kind == STEP_AND)
		*below = both(below, top);
	else if (s->kind == STEP_OR)
		*below = either(below, top);
	else if (s->kind >= STEP_EQUAL)
		*below = compared(s->kind, below, top);
	else
		*below = computed(s->kind, below, top);
}

bool thmqi_filter_match(const struct thmqi_filter *f, const struct thmqi_filter_message *message)
{
	struct machine m;
	uint32_t i;

	m.filter = f;
	m.message = message;
	m.looked = false;
	m.top = 0;
	for (i = 0; i < f->step_count; i++) {
		const struct step *s = &f->steps[i];

		if (s->kind <= STEP_TIME)
			m.stack[m.top++] = pushed(&m, s);
		else if (s->kind < STEP_SKIP_FALSE)
			reduce(&m, s);
		else if (is(&m.stack[m.top - 1], s->kind == STEP_SKIP_TRUE))
			i = s->at - 1u;
	}
	return is(&m.stack[0], true);
}

uint64_t thmqi_filter_tags(const struct thmqi_filter *f)
{
	return f->tags;
}
