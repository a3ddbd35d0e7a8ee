/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parse.c - a filter's text becomes steps, by recursive descent. All that would be wrong for every message is found here, with its
 * place; what depends on a message's headers is NULL when it comes to that (match.c). doc/filters.md has the grammar.
 */
#include <stdio.h>

#include "internal.h"
#include "wire/run.h"

#define ANY_TAG UINT64_MAX

/* What is known of an expression before any message is. */
enum type { TYPE_UNKNOWN, TYPE_BOOL, TYPE_NUMBER, TYPE_TEXT };

struct node {
	enum type type;
	uint64_t tags;	   /* where it is true the message has one of these */
	bool is_tag;	   /* it is TAG */
	uint32_t constant; /* it is this one; UINT32_MAX: none */
};

struct parser {
	struct lexer lexer;
	struct thmqi_filter *f;
	uint32_t nesting;
	uint32_t depth; /* values on the stack by now */
};

static int parse_or(struct parser *p, struct node *ret);

static int wrong(struct parser *p, const char *what)
{
	return thmqi_filter_wrong(&p->lexer, p->lexer.at, what);
}

static int next(struct parser *p)
{
	return thmqi_filter_lex(&p->lexer);
}

static bool is(const struct parser *p, enum word word)
{
	return p->lexer.word == word;
}

static int expect(struct parser *p, enum word word, const char *what)
{
	return is(p, word) ? next(p) : wrong(p, what);
}

static struct node node_of(enum type type)
{
	return (struct node){.type = type, .tags = ANY_TAG, .constant = UINT32_MAX};
}

/* -------------------------------------------------------------------------- emit */

/* @change: of the number of values on the stack. */
static int emit(struct parser *p, enum step_kind kind, uint32_t at, uint32_t count, int change)
{
	struct thmqi_filter *f = p->f;

	p->depth = (uint32_t)((int)p->depth + change);
	if (f->step_count == STEPS_MAX || p->depth > DEPTH_MAX)
		return wrong(p, "the filter is too long");
	f->steps[f->step_count++] = (struct step){.kind = (uint8_t)kind, .at = (uint16_t)at, .count = count};
	return 0;
}

static int add_constant(struct parser *p, const struct value *v, uint32_t *ret_index)
{
	if (p->f->constant_count == CONSTANTS_MAX)
		return wrong(p, "the filter has too many values");
	*ret_index = p->f->constant_count;
	p->f->constants[p->f->constant_count++] = *v;
	return 0;
}

/* The word's bytes become the filter's. */
static uint32_t take_bytes(struct parser *p, uint32_t *ret_len)
{
	uint32_t at = p->f->byte_count;

	*ret_len = thmqi_filter_unquote(&p->lexer, p->f->bytes + at);
	p->f->byte_count += *ret_len;
	return at;
}

static int add_name(struct parser *p, uint32_t *ret_index)
{
	struct thmqi_filter *f = p->f;
	struct name *n = &f->names[f->name_count];
	struct name is;
	uint32_t i;

	is.at = take_bytes(p, &is.len);
	if (is.len > THMQ_HEADER_NAME_MAX)
		return wrong(p, "no header has so long a name");
	for (i = 0; i < f->name_count; i++)
		if (f->names[i].len == is.len && memcmp(f->bytes + f->names[i].at, f->bytes + is.at, is.len) == 0)
			break;
	*ret_index = i;
	if (i < f->name_count)
		return 0;
	if (f->name_count == NAMES_MAX)
		return wrong(p, "the filter has too many names");
	*n = is;
	f->name_count++;
	return 0;
}

/* ------------------------------------------------------------------------ values */

static bool take_digits(const char **at, const char *end, uint32_t count, int64_t *ret)
{
	for (*ret = 0; count; count--, (*at)++) {
		if (*at == end || **at < '0' || **at > '9')
			return false;
		*ret = *ret * 10 + (**at - '0');
	}
	return true;
}

static bool take_sign(const char **at, const char *end, char sign)
{
	return *at < end && *(*at)++ == sign;
}

/* Days since 1970-01-01, by the rules of now. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil. */
static int64_t days_since_1970(int64_t year, int64_t month, int64_t day)
{
	int64_t era, of_era, of_year;

	year -= month <= 2;
	era = (year >= 0 ? year : year - 399) / 400;
	of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	of_era = (year - era * 400) * 365 + (year - era * 400) / 4 - (year - era * 400) / 100 + of_year;
	return era * 146097 + of_era - 719468;
}

/* yyyy-mm-dd, and hh:mm:ss[.fraction] behind a space or a T: in UTC. */
static bool time_of(const char *at, uint32_t len, int64_t *ret_ns)
{
	static const uint8_t lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	const char *end = at + len;
	int64_t year, month, day, hour = 0, minute = 0, second = 0, unit, ns = 0;
	bool leap;

	if (!take_digits(&at, end, 4, &year) || !take_sign(&at, end, '-') || !take_digits(&at, end, 2, &month) ||
	    !take_sign(&at, end, '-') || !take_digits(&at, end, 2, &day) || month < 1 || month > 12 || day < 1)
		return false;
	leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	if (day > lengths[month - 1] + (month == 2 && leap) || year < 1678 || year > 2261)
		return false;
	if (at < end) {
		if ((*at != ' ' && *at != 'T') || !take_digits((at++, &at), end, 2, &hour) || !take_sign(&at, end, ':') ||
		    !take_digits(&at, end, 2, &minute) || !take_sign(&at, end, ':') || !take_digits(&at, end, 2, &second) || hour > 23 ||
		    minute > 59 || second > 60)
			return false;
		if (at < end && !take_sign(&at, end, '.'))
			return false;
		for (unit = 100000000; at < end; at++, unit /= 10) {
			if (*at < '0' || *at > '9' || !unit)
				return false;
			ns += (*at - '0') * unit;
		}
	}
	*ret_ns = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60000000000 + second * 1000000000 + ns;
	return true;
}

/* TIMESTAMP is the message's, TIMESTAMP 'when' is that time. */
static int parse_timestamp(struct parser *p, struct node *ret)
{
	struct value v = {.kind = KIND_INT};
	uint32_t index = 0, len;
	char text[TEXT_MAX];
	int rc = next(p);

	*ret = node_of(TYPE_NUMBER);
	if (rc || !is(p, WORD_TEXT))
		return rc ? rc : emit(p, STEP_TIME, 0, 0, 1);
	len = thmqi_filter_unquote(&p->lexer, text);
	if (!time_of(text, len, &v.whole))
		return wrong(p, "a time is '2026-01-31' or '2026-01-31 12:00:00.5', in UTC");
	rc = add_constant(p, &v, &index);
	rc = rc ? rc : next(p);
	return rc ? rc : emit(p, STEP_CONSTANT, index, 0, 1);
}

/* A constant word, with a sign if it is a number. 0; 1: it is none */
static int take_constant(struct parser *p, struct value *ret, enum type *ret_type)
{
	bool minus = is(p, WORD_MINUS);
	int rc = minus || is(p, WORD_PLUS) ? next(p) : 0;

	if (rc)
		return rc;
	*ret_type = TYPE_NUMBER;
	if (is(p, WORD_INT))
		*ret = (struct value){.kind = KIND_INT, .whole = minus ? -p->lexer.whole : p->lexer.whole};
	else if (is(p, WORD_REAL))
		*ret = (struct value){.kind = KIND_REAL, .real = minus ? -p->lexer.real : p->lexer.real};
	else if (minus)
		return wrong(p, "a number follows here");
	else if (is(p, WORD_TEXT)) {
		*ret_type = TYPE_TEXT;
		ret->kind = KIND_TEXT;
		ret->text = p->f->bytes + take_bytes(p, &ret->len);
	} else if (is(p, WORD_TRUE) || is(p, WORD_FALSE)) {
		*ret_type = TYPE_BOOL;
		*ret = (struct value){.kind = KIND_BOOL, .whole = is(p, WORD_TRUE)};
	} else {
		return 1;
	}
	return 0;
}

static int parse_constant(struct parser *p, struct node *ret)
{
	struct value v = {0};
	enum type type;
	uint32_t index = 0;
	int rc = take_constant(p, &v, &type);

	if (rc == 1)
		return wrong(p, is(p, WORD_END) ? "the filter ends too early" : "a value, a name or a bracket follows here");
	rc = rc ? rc : add_constant(p, &v, &index);
	rc = rc ? rc : next(p);
	if (rc)
		return rc;
	*ret = node_of(type);
	ret->constant = index;
	return emit(p, STEP_CONSTANT, index, 0, 1);
}

static int parse_brackets(struct parser *p, struct node *ret)
{
	int rc = next(p);

	rc = rc ? rc : parse_or(p, ret);
	if (rc)
		return rc;
	return expect(p, WORD_CLOSE, is(p, WORD_END) ? "a bracket is not closed" : "a ) or an operator follows here");
}

static int parse_primary(struct parser *p, struct node *ret)
{
	uint32_t index = 0;
	int rc;

	*ret = node_of(TYPE_UNKNOWN);
	switch (p->lexer.word) {
	case WORD_OPEN:
		return parse_brackets(p, ret);
	case WORD_NAME:
		rc = add_name(p, &index);
		rc = rc ? rc : next(p);
		return rc ? rc : emit(p, STEP_HEADER, index, 0, 1);
	case WORD_KEY:
	case WORD_TAG:
		*ret = node_of(TYPE_TEXT);
		ret->is_tag = is(p, WORD_TAG);
		rc = next(p);
		return rc ? rc : emit(p, ret->is_tag ? STEP_TAG : STEP_KEY, 0, 0, 1);
	case WORD_TIMESTAMP:
		return parse_timestamp(p, ret);
	case WORD_NULL:
		return wrong(p, "nothing is compared with NULL: it is IS NULL, or IS NOT NULL");
	default:
		return parse_constant(p, ret);
	}
}

/* -------------------------------------------------------------------- arithmetic */

static int want_number(struct parser *p, const struct node *n, uint32_t at)
{
	return n->type == TYPE_UNKNOWN || n->type == TYPE_NUMBER ? 0 : thmqi_filter_wrong(&p->lexer, at, "only numbers can be computed with");
}

static int parse_unary(struct parser *p, struct node *ret)
{
	bool minus = is(p, WORD_MINUS);
	uint32_t at;
	int rc;

	if (!minus && !is(p, WORD_PLUS))
		return parse_primary(p, ret);
	if (++p->nesting > DEPTH_MAX)
		return wrong(p, "the filter is nested too deep");
	rc = next(p);
	at = p->lexer.at;
	rc = rc ? rc : parse_unary(p, ret);
	rc = rc ? rc : want_number(p, ret, at);
	p->nesting--;
	*ret = node_of(TYPE_NUMBER);
	return rc || !minus ? rc : emit(p, STEP_NEGATE, 0, 0, 0);
}

/* The operand that was read at @at, the operator that is there, and what @operand reads behind it. */
static int parse_operation(struct parser *p, struct node *ret, uint32_t at, enum step_kind kind,
			   int (*operand)(struct parser *p, struct node *ret))
{
	struct node right;
	uint32_t right_at;
	int rc = want_number(p, ret, at);

	rc = rc ? rc : next(p);
	right_at = p->lexer.at;
	rc = rc ? rc : operand(p, &right);
	rc = rc ? rc : want_number(p, &right, right_at);
	rc = rc ? rc : emit(p, kind, 0, 0, -1);
	*ret = node_of(TYPE_NUMBER);
	return rc;
}

static int parse_product(struct parser *p, struct node *ret)
{
	uint32_t at = p->lexer.at;
	int rc = parse_unary(p, ret);

	while (!rc && (is(p, WORD_TIMES) || is(p, WORD_OVER) || is(p, WORD_MODULO)))
		rc = parse_operation(p, ret, at, is(p, WORD_TIMES) ? STEP_MULTIPLY : is(p, WORD_OVER) ? STEP_DIVIDE : STEP_MODULO, parse_unary);
	return rc;
}

static int parse_sum(struct parser *p, struct node *ret)
{
	uint32_t at = p->lexer.at;
	int rc = parse_product(p, ret);

	while (!rc && (is(p, WORD_PLUS) || is(p, WORD_MINUS)))
		rc = parse_operation(p, ret, at, is(p, WORD_PLUS) ? STEP_ADD : STEP_SUBTRACT, parse_product);
	return rc;
}

/* ------------------------------------------------------------------- comparisons */

/* Both are known, and never of one kind: no message would ever be wanted. */
static int want_alike(struct parser *p, const struct node *a, const struct node *b, uint32_t at)
{
	if (a->type == TYPE_UNKNOWN || b->type == TYPE_UNKNOWN || a->type == b->type)
		return 0;
	return thmqi_filter_wrong(&p->lexer, at, "these two can never be compared: one is a text, a number or a truth, the other another");
}

static uint64_t tag_bit(const struct value *v)
{
	return v->len ? 1ull << (thmqi_tag_hash(v->text, v->len) % 64) : 0; /* no message has an empty one */
}

static int parse_comparison(struct parser *p, struct node *ret)
{
	enum step_kind kind = (enum step_kind)(STEP_EQUAL + (p->lexer.word - WORD_EQUAL));
	struct node left = *ret, right;
	uint32_t at = p->lexer.at;
	int rc = next(p);

	rc = rc ? rc : parse_sum(p, &right);
	rc = rc ? rc : want_alike(p, &left, &right, at);
	if (!rc && kind > STEP_UNEQUAL && (left.type == TYPE_BOOL || right.type == TYPE_BOOL))
		rc = thmqi_filter_wrong(&p->lexer, at, "a truth is neither less nor more than another");
	rc = rc ? rc : emit(p, kind, 0, 0, -1);
	if (rc)
		return rc;
	*ret = node_of(TYPE_BOOL);
	if (kind == STEP_EQUAL && left.is_tag && right.constant != UINT32_MAX)
		ret->tags = tag_bit(&p->f->constants[right.constant]);
	else if (kind == STEP_EQUAL && right.is_tag && left.constant != UINT32_MAX)
		ret->tags = tag_bit(&p->f->constants[left.constant]);
	return 0;
}

static int parse_between(struct parser *p, struct node *ret)
{
	uint32_t at = p->lexer.at;
	struct node low, high;
	int rc = next(p);

	rc = rc ? rc : parse_sum(p, &low);
	rc = rc ? rc : expect(p, WORD_AND, "AND and a second value follow BETWEEN and a first");
	rc = rc ? rc : parse_sum(p, &high);
	rc = rc ? rc : want_alike(p, ret, &low, at);
	rc = rc ? rc : want_alike(p, ret, &high, at);
	*ret = node_of(TYPE_BOOL);
	return rc ? rc : emit(p, STEP_BETWEEN, 0, 0, -2);
}

static int parse_in(struct parser *p, struct node *ret)
{
	struct node left = *ret, one = node_of(TYPE_UNKNOWN);
	uint32_t first = p->f->constant_count, index, at;
	struct value v = {0};
	uint64_t tags = 0;
	int rc = next(p);

	rc = rc ? rc : expect(p, WORD_OPEN, "a list in brackets follows IN");
	while (!rc) {
		at = p->lexer.at;
		rc = take_constant(p, &v, &one.type);
		if (rc == 1)
			rc = wrong(p, "a list has values only");
		rc = rc ? rc : want_alike(p, &left, &one, at);
		rc = rc ? rc : add_constant(p, &v, &index);
		tags |= rc ? 0 : tag_bit(&v);
		rc = rc ? rc : next(p);
		if (rc || !is(p, WORD_COMMA))
			break;
		rc = next(p);
	}
	rc = rc ? rc : expect(p, WORD_CLOSE, "a , or a ) follows here");
	*ret = node_of(TYPE_BOOL);
	ret->tags = left.is_tag ? tags : ANY_TAG;
	return rc ? rc : emit(p, STEP_IN, first, p->f->constant_count - first, 0);
}

/* What escapes, plus 1. */
static int parse_escape(struct parser *p, const struct value *pattern, uint32_t *ret)
{
	char text[TEXT_MAX];
	uint32_t i;
	int rc = next(p);

	if (rc)
		return rc;
	if (!is(p, WORD_TEXT) || thmqi_filter_unquote(&p->lexer, text) != 1)
		return wrong(p, "one character in quotes follows ESCAPE");
	*ret = (uint32_t)(uint8_t)text[0] + 1;
	for (i = 0; i < pattern->len; i++)
		if (pattern->text[i] == text[0] && ++i == pattern->len)
			return wrong(p, "the pattern ends with what should escape something");
	return next(p);
}

static int parse_like(struct parser *p, struct node *ret)
{
	struct value v = {.kind = KIND_TEXT};
	uint32_t index = 0, escape = 0;
	int rc = ret->type == TYPE_UNKNOWN || ret->type == TYPE_TEXT ? next(p) : wrong(p, "only texts are LIKE something");

	if (!rc && !is(p, WORD_TEXT))
		rc = wrong(p, "a pattern in quotes follows LIKE");
	if (!rc)
		v.text = p->f->bytes + take_bytes(p, &v.len);
	rc = rc ? rc : add_constant(p, &v, &index);
	rc = rc ? rc : next(p);
	if (!rc && is(p, WORD_ESCAPE))
		rc = parse_escape(p, &v, &escape);
	*ret = node_of(TYPE_BOOL);
	return rc ? rc : emit(p, STEP_LIKE, index, escape, 0);
}

static int parse_is(struct parser *p, struct node *ret)
{
	int rc = next(p);
	bool not = !rc && is(p, WORD_NOT);

	rc = rc || !not ? rc : next(p);
	rc = rc ? rc : expect(p, WORD_NULL, "NULL or NOT NULL follows IS");
	*ret = node_of(TYPE_BOOL);
	rc = rc ? rc : emit(p, STEP_IS_NULL, 0, 0, 0);
	return rc || !not ? rc : emit(p, STEP_NOT, 0, 0, 0);
}

static int parse_predicate(struct parser *p, struct node *ret)
{
	int rc = parse_sum(p, ret);
	bool not;

	if (rc)
		return rc;
	if (p->lexer.word >= WORD_EQUAL && p->lexer.word <= WORD_MORE_EQUAL)
		return parse_comparison(p, ret);
	if (is(p, WORD_IS))
		return parse_is(p, ret);
	not = is(p, WORD_NOT);
	rc = not ? next(p) : 0;
	if (!rc && is(p, WORD_BETWEEN))
		rc = parse_between(p, ret);
	else if (!rc && is(p, WORD_IN))
		rc = parse_in(p, ret);
	else if (!rc && is(p, WORD_LIKE))
		rc = parse_like(p, ret);
	else if (!rc && not)
		rc = wrong(p, "BETWEEN, IN or LIKE follows NOT here");
	if (rc || !not)
		return rc;
	ret->tags = ANY_TAG;
	return emit(p, STEP_NOT, 0, 0, 0);
}

/* ------------------------------------------------------------------------- logic */

static int want_truth(struct parser *p, const struct node *n, uint32_t at)
{
	return n->type == TYPE_UNKNOWN || n->type == TYPE_BOOL ? 0 : thmqi_filter_wrong(&p->lexer, at, "this is no condition: compare it with something");
}

static int parse_not(struct parser *p, struct node *ret)
{
	uint32_t at;
	int rc;

	if (!is(p, WORD_NOT))
		return parse_predicate(p, ret);
	if (++p->nesting > DEPTH_MAX)
		return wrong(p, "the filter is nested too deep");
	rc = next(p);
	at = p->lexer.at;
	rc = rc ? rc : parse_not(p, ret);
	rc = rc ? rc : want_truth(p, ret, at);
	p->nesting--;
	*ret = node_of(TYPE_BOOL);
	return rc ? rc : emit(p, STEP_NOT, 0, 0, 0);
}

/* AND, and with @or OR: of two or more, from the left; the right is not looked at where the left tells. */
static int parse_joined(struct parser *p, struct node *ret, bool or, int (*part)(struct parser *p, struct node *ret))
{
	uint32_t at = p->lexer.at, skip;
	int rc = part(p, ret);
	struct node right;

	while (!rc && is(p, or ? WORD_OR : WORD_AND)) {
		rc = want_truth(p, ret, at);
		skip = p->f->step_count;
		rc = rc ? rc : emit(p, or ? STEP_SKIP_TRUE : STEP_SKIP_FALSE, 0, 0, 0);
		rc = rc ? rc : next(p);
		at = p->lexer.at;
		rc = rc ? rc : part(p, &right);
		rc = rc ? rc : want_truth(p, &right, at);
		rc = rc ? rc : emit(p, or ? STEP_OR : STEP_AND, 0, 0, -1);
		if (rc)
			break;
		p->f->steps[skip].at = (uint16_t)p->f->step_count;
		right.tags = or ? ret->tags | right.tags : ret->tags & right.tags;
		*ret = node_of(TYPE_BOOL);
		ret->tags = right.tags;
	}
	return rc;
}

static int parse_and(struct parser *p, struct node *ret)
{
	return parse_joined(p, ret, false, parse_not);
}

static int parse_or(struct parser *p, struct node *ret)
{
	int rc;

	if (++p->nesting > DEPTH_MAX)
		return wrong(p, "the filter is nested too deep");
	rc = parse_joined(p, ret, true, parse_and);
	p->nesting--;
	return rc;
}

static int parse(struct parser *p)
{
	struct node all;
	int rc = next(p);

	if (!rc && is(p, WORD_END))
		return wrong(p, "the filter is empty");
	rc = rc ? rc : parse_or(p, &all);
	if (!rc && !is(p, WORD_END))
		rc = wrong(p, is(p, WORD_CLOSE) ? "this bracket was not opened" : "an operator, AND or OR follows here, or the end");
	rc = rc ? rc : want_truth(p, &all, 0);
	if (rc)
		return rc;
	/* what is never true needs some bit all the same: 0 stands for any */
	p->f->tags = all.tags == ANY_TAG ? 0 : all.tags ? all.tags : 1;
	return 0;
}

int thmqi_filter_make(const char *text, uint32_t len, struct thmqi_filter **ret_filter, struct thmqi_filter_error *ret_error)
{
	struct parser p = {.lexer = {.text = text, .len = len, .error = ret_error}};
	int rc;

	*ret_error = (struct thmqi_filter_error){0};
	if (len > TEXT_MAX)
		return thmqi_filter_wrong(&p.lexer, TEXT_MAX, "the filter is too long");
	p.f = calloc(1, sizeof(*p.f));
	if (!p.f)
		return -ENOMEM;
	rc = parse(&p);
	if (rc) {
		free(p.f);
		return rc;
	}
	*ret_filter = p.f;
	return 0;
}

void thmqi_filter_free(struct thmqi_filter *f)
{
	free(f);
}
