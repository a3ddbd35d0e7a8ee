/* SPDX-License-Identifier: Apache-2.0 */
/*
 * like.c - LIKE: does a text fit a pattern? Two places that only go forward, and one to go back to, the last %. Where a pattern makes that go back from byte after
 * byte it is asked in another way, which never goes back: all places of the pattern at once, a bit for each. No memory is taken.
 */
#include "internal.h"

/* Bytes of the character at @at: in UTF-8 those that follow begin with 10. Others count as one each. */
static uint32_t character(const char *at, uint32_t left)
{
	uint32_t n = 1;

	if (((uint8_t)*at & 0xc0) != 0xc0)
		return 1;
	while (n < left && n < 4 && ((uint8_t)at[n] & 0xc0) == 0x80)
		n++;
	return n;
}

/* ------------------------------------------------------------------ all at once */

#define BACK 4u	   /* it is taken where the other way went back by so many times the text; it takes about as long as that */
#define PLACES 64u /* of a pattern: so many are looked at in one pass over the text */

/* What places take; the bit i is of the i-th. */
struct places {
	uint64_t of_byte[256]; /* this byte */
	uint64_t any;	       /* a character: _ */
	uint64_t loose;	       /* behind a %: not from within a character on */
	uint64_t stays;	       /* before a %: whatever comes then is skipped */
	uint32_t count;
};

/* Those from *@at on. @loose: does a % precede the first; then the next one behind them. */
static void places_of(const char *pattern, uint32_t len, uint32_t escape, uint32_t *at, bool *loose, struct places *ret)
{
	uint32_t p;

	memset(ret, 0, sizeof(*ret));
	for (p = *at; p < len; p++) {
		const bool is_escaped = p + 1 < len && escape && (uint8_t)pattern[p] == escape - 1;
		uint64_t bit;

		if (!is_escaped && pattern[p] == '%') {
			ret->stays |= ret->count ? 1ull << (ret->count - 1) : 0;
			*loose = true;
			continue;
		}
		if (ret->count == PLACES)
			break;
		bit = 1ull << ret->count++;
		if (!is_escaped && pattern[p] == '_')
			ret->any |= bit;
		else
			ret->of_byte[(uint8_t)pattern[p += is_escaped]] |= bit;
		ret->loose |= *loose ? bit : 0;
		*loose = false;
	}
	*at = p;
}

static bool has(const uint64_t *bits, uint32_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* @reached: a bit for each number of bytes, can the places before these have taken so many? Then it says so of these. */
static void pass(const struct places *x, const char *text, uint32_t len, uint64_t *reached)
{
	uint64_t done = 0, begun = 0, now; /* places that took their last byte; and those that are within a character */
	bool before = has(reached, 0);
	uint32_t t, rest = 0; /* bytes of a character */

	reached[0] &= ~1ull;
	for (t = 0; t < len; t++) {
		const bool is_first = !rest;

		rest = is_first ? character(text + t, len - t) - 1 : rest - 1;
		now = (done << 1 | before) & (x->of_byte[(uint8_t)text[t]] | x->any) & (is_first ? UINT64_MAX : ~x->loose);
		done = (done & x->stays) | (now & ~x->any);
		if (is_first)
			begun = now & x->any;
		else
			done |= now & x->any; /* out of step, where the pattern has no whole characters: a byte is one */
		if (!rest)
			done |= begun;
		before = has(reached, t + 1);
		reached[(t + 1) / 64] &= ~(1ull << ((t + 1) % 64));
		reached[(t + 1) / 64] |= (done >> (x->count - 1) & 1) << ((t + 1) % 64);
	}
}

static __attribute__((noinline)) bool all_at_once(const char *text, uint32_t len, const char *pattern, uint32_t pattern_len, uint32_t escape)
{
	uint64_t reached[LIKE_MAX / 64 + 1];
	struct places x;
	bool loose = false;
	uint32_t at = 0;

	places_of(pattern, pattern_len, escape, &at, &loose, &x);
	memset(reached, (x.count ? x.loose & 1 : loose) ? 0xff : 0, sizeof(reached));
	reached[0] |= 1;
	for (; x.count; places_of(pattern, pattern_len, escape, &at, &loose, &x))
		pass(&x, text, len, reached);
	return has(reached, len);
}

/* ------------------------------------------------------------------------- usual */

bool thmqi_filter_like(const char *text, uint32_t len, const char *pattern, uint32_t pattern_len, uint32_t escape)
{
	uint32_t t = 0, p = 0, back_t = 0, back_p = UINT32_MAX; /* behind the last % */
	uint64_t went_back = 0;

	while (t < len) {
		bool is_escaped = p + 1 < pattern_len && escape && (uint8_t)pattern[p] == escape - 1;

		if (p < pattern_len && !is_escaped && pattern[p] == '%') {
			back_p = ++p;
			back_t = t;
		} else if (p < pattern_len && !is_escaped && pattern[p] == '_') {
			t += character(text + t, len - t);
			p++;
		} else if (p < pattern_len && pattern[p + is_escaped] == text[t]) {
			t++;
			p += 1u + is_escaped;
		} else if (back_p != UINT32_MAX) {
			went_back += t - back_t;
			if (thmqi_unlikely(went_back > (uint64_t)BACK * len))
				return all_at_once(text, len, pattern, pattern_len, escape);
			back_t += character(text + back_t, len - back_t);
			t = back_t;
			p = back_p;
		} else {
			return false;
		}
	}
	while (p < pattern_len && pattern[p] == '%' && !(escape == (uint32_t)'%' + 1))
		p++;
	return p == pattern_len;
}
