/* SPDX-License-Identifier: Apache-2.0 */
/* lex.c - the words of a filter's text. Looks at no byte behind its end; knows no grammar. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const struct {
	const char *text;
	enum word word;
} keywords[] = {
	{"AND", WORD_AND},     {"OR", WORD_OR},	    {"NOT", WORD_NOT},	   {"BETWEEN", WORD_BETWEEN},
	{"IN", WORD_IN},       {"LIKE", WORD_LIKE}, {"ESCAPE", WORD_ESCAPE}, {"IS", WORD_IS},
	{"NULL", WORD_NULL},   {"TRUE", WORD_TRUE}, {"FALSE", WORD_FALSE}, {"KEY", WORD_KEY},
	{"TAG", WORD_TAG},     {"TIMESTAMP", WORD_TIMESTAMP},
};

int thmqi_filter_wrong(struct lexer *l, uint32_t at, const char *what)
{
	l->error->at = at;
	snprintf(l->error->what, sizeof(l->error->what), "%s", what);
	return -EINVAL;
}

/* As in the C locale, whatever the host's is. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool begins_name(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_in_name(char c)
{
	return begins_name(c) || is_digit(c) || c == '.' || c == '$';
}

static char upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static char peek(const struct lexer *l, uint32_t ahead)
{
	return l->len - l->next > ahead ? l->text[l->next + ahead] : 0;
}

static enum word keyword(const char *at, uint32_t len)
{
	uint32_t i, k;

	for (i = 0; i < THMQI_ARRAY_COUNT(keywords); i++) {
		for (k = 0; k < len && upper(at[k]) == keywords[i].text[k]; k++)
			;
		if (k == len && !keywords[i].text[k])
			return keywords[i].word;
	}
	return WORD_NAME;
}

/* A quote within is written twice. */
static int lex_quoted(struct lexer *l, char quote)
{
	l->next++;
	for (;; l->next++) {
		if (l->next >= l->len)
			return thmqi_filter_wrong(l, l->at, quote == '\'' ? "this text does not end" : "this name does not end");
		if (l->text[l->next] != quote)
			continue;
		if (peek(l, 1) != quote)
			break;
		l->next++;
	}
	l->next++;
	l->word = quote == '\'' ? WORD_TEXT : WORD_NAME;
	if (quote == '"' && l->next - l->at == 2)
		return thmqi_filter_wrong(l, l->at, "a name has a letter at least");
	return 0;
}

uint32_t thmqi_filter_unquote(const struct lexer *l, char *to)
{
	char quote = l->text[l->at];
	uint32_t i, n = 0;

	if (quote != '\'' && quote != '"') {
		memcpy(to, l->text + l->at, l->end - l->at);
		return l->end - l->at;
	}
	for (i = l->at + 1; i < l->end - 1; i++) {
		to[n++] = l->text[i];
		if (l->text[i] == quote)
			i++;
	}
	return n;
}

/* Of digits that were looked at, whose point is a point whatever the host's locale says. False: no memory. */
static bool real_of(const char *text, double *ret)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);

	if (!c)
		return false;
	*ret = strtod_l(text, NULL, c);
	freelocale(c);
	return true;
}

static int lex_number(struct lexer *l)
{
	char copy[64];
	bool real = false;
	uint32_t n;

	while (is_digit(peek(l, 0)))
		l->next++;
	if (peek(l, 0) == '.') {
		real = true;
		l->next++;
		while (is_digit(peek(l, 0)))
			l->next++;
	}
	if (upper(peek(l, 0)) == 'E' && (is_digit(peek(l, 1)) || ((peek(l, 1) == '+' || peek(l, 1) == '-') && is_digit(peek(l, 2))))) {
		real = true;
		l->next += 2;
		while (is_digit(peek(l, 0)))
			l->next++;
	}
	if (is_in_name(peek(l, 0)))
		return thmqi_filter_wrong(l, l->at, "this is neither a number nor a name");
	n = l->next - l->at;
	if (n >= sizeof(copy))
		return thmqi_filter_wrong(l, l->at, "this number is too long");
	memcpy(copy, l->text + l->at, n);
	copy[n] = 0;
	l->word = real ? WORD_REAL : WORD_INT;
	if (real) {
		if (!real_of(copy, &l->real))
			return -ENOMEM;
		return l->real - l->real == 0 ? 0 : thmqi_filter_wrong(l, l->at, "this number is too large");
	}
	for (l->whole = 0, n = 0; copy[n]; n++)
		if (__builtin_mul_overflow(l->whole, 10, &l->whole) || __builtin_add_overflow(l->whole, copy[n] - '0', &l->whole))
			return thmqi_filter_wrong(l, l->at, "this number is too large: write it with a point");
	return 0;
}

static int lex_sign(struct lexer *l, char c)
{
	char after = peek(l, 1);
	uint32_t bytes = 1;

	switch (c) {
	case '(':
		l->word = WORD_OPEN;
		break;
	case ')':
		l->word = WORD_CLOSE;
		break;
	case ',':
		l->word = WORD_COMMA;
		break;
	case '+':
		l->word = WORD_PLUS;
		break;
	case '-':
		l->word = WORD_MINUS;
		break;
	case '*':
		l->word = WORD_TIMES;
		break;
	case '/':
		l->word = WORD_OVER;
		break;
	case '%':
		l->word = WORD_MODULO;
		break;
	case '=':
		l->word = WORD_EQUAL;
		break;
	case '<':
		bytes = after == '=' || after == '>' ? 2 : 1;
		l->word = after == '=' ? WORD_LESS_EQUAL : after == '>' ? WORD_UNEQUAL : WORD_LESS;
		break;
	case '>':
		bytes = after == '=' ? 2 : 1;
		l->word = after == '=' ? WORD_MORE_EQUAL : WORD_MORE;
		break;
	case '!':
		if (after == '=') {
			bytes = 2;
			l->word = WORD_UNEQUAL;
			break;
		}
		return thmqi_filter_wrong(l, l->at, "unequal is <> or !=, and \"not\" is NOT");
	default:
		return thmqi_filter_wrong(l, l->at, "nothing can begin with this character");
	}
	l->next += bytes;
	return 0;
}

int thmqi_filter_lex(struct lexer *l)
{
	char c;
	int rc = 0;

	while (l->next < l->len && (peek(l, 0) == ' ' || peek(l, 0) == '\t' || peek(l, 0) == '\n' || peek(l, 0) == '\r'))
		l->next++;
	l->at = l->next;
	c = peek(l, 0);
	if (l->next == l->len) {
		l->word = WORD_END;
	} else if (c == '\'' || c == '"') {
		rc = lex_quoted(l, c);
	} else if (is_digit(c) || (c == '.' && is_digit(peek(l, 1)))) {
		rc = lex_number(l);
	} else if (begins_name(c)) {
		while (is_in_name(peek(l, 0)))
			l->next++;
		l->word = keyword(l->text + l->at, l->next - l->at);
	} else {
		rc = lex_sign(l, c);
	}
	l->end = l->next;
	return rc;
}
