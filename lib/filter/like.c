/* SPDX-License-Identifier: Apache-2.0 */
/*
 * like.c - LIKE: does a text fit a pattern? Two places that only go forward, and one to go back to, the last %: at most the product of
 * both lengths, and no memory.
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

bool thmqi_filter_like(const char *text, uint32_t len, const char *pattern, uint32_t pattern_len, uint32_t escape)
{
	uint32_t t = 0, p = 0, back_t = 0, back_p = UINT32_MAX; /* behind the last % */

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
