/* SPDX-License-Identifier: Apache-2.0 */
/* Filters: what is true of a message and what is not, what is refused and where, and that nothing else is read or taken. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "filter/filter.h"
#include "wire/attributes.h"
#include "wire/run.h"

/* ------------------------------------------------------------- the message that all are asked of */

static uint8_t headers[4096];
static struct thmqi_filter_message message;

static void setup(void)
{
	static const int64_t price = 12, low = INT64_MIN, high = INT64_MAX, below = -7;
	static const double weight = 2.5;
	static const uint8_t yes = 1, no = 0;
	const struct thmq_header h[] = {
		{"price", &price, 8, THMQ_HEADER_INT},	  {"weight", &weight, 8, THMQ_HEADER_REAL},
		{"region", "eu-west", 7, THMQ_HEADER_TEXT}, {"empty", "", 0, THMQ_HEADER_TEXT},
		{"paid", &yes, 1, THMQ_HEADER_BOOL},	  {"late", &no, 1, THMQ_HEADER_BOOL},
		{"raw", "a\0b", 3, THMQ_HEADER_BYTES},	  {"low", &low, 8, THMQ_HEADER_INT},
		{"high", &high, 8, THMQ_HEADER_INT},	  {"below", &below, 8, THMQ_HEADER_INT},
		{"key", "a header", 8, THMQ_HEADER_TEXT},	  {"odd name", "50%_x", 5, THMQ_HEADER_TEXT},
		{"price", &low, 8, THMQ_HEADER_INT},
		{"umlaut", "M\xc3\xbcller", 7, THMQ_HEADER_TEXT},
	};
	const struct thmq_message_opts o = {.size = sizeof(o), .headers = h, .header_count = THMQI_ARRAY_COUNT(h)};
	uint32_t flags, len;

	cr_assert(thmqi_attributes_plan(&o, &flags, &len) == 0 && len < sizeof(headers));
	thmqi_attributes_write(&o, headers);
	message = (struct thmqi_filter_message){.key = "order-7",
						.key_len = 7,
						.tag = "red",
						.tag_len = 3,
						.headers = headers + 4,
						.headers_len = len - 4,
						.time_ns = 1767268800000000000}; /* 2026-01-01 12:00 */
}

/* In memory of its own, that ends where it ends. */
static int ask(const char *text, bool *ret)
{
	uint32_t len = (uint32_t)strlen(text);
	char *copy = malloc(len ? len : 1);
	struct thmqi_filter_error error;
	struct thmqi_filter *f;
	int rc;

	memcpy(copy, text, len);
	rc = thmqi_filter_make(copy, len, &f, &error);
	free(copy);
	if (rc)
		return (int)error.at + 1;
	*ret = thmqi_filter_match(f, &message);
	thmqi_filter_free(f);
	return 0;
}

static void expect(const char *text, bool wanted)
{
	bool is = !wanted;
	int at = ask(text, &is);

	cr_assert(at == 0, "%s: refused at %d", text, at);
	cr_assert(is == wanted, "%s: is %d", text, is);
}

#define TRUE_OF(text) expect(text, true)
#define FALSE_OF(text) expect(text, false)
/* It is NULL: so is its contrary. */
#define NULL_OF(text) (expect(text, false), expect("NOT (" text ")", false), expect("(" text ") IS NULL", true))

Test(filter_match, compares_numbers_texts_and_truths, .init = setup)
{
	TRUE_OF("price = 12");
	TRUE_OF("price<>13 AND price != 11 AND price<13 and price<=12 And price >= 12 aNd price > 11.5");
	TRUE_OF("weight = 2.5 AND weight = 25e-1 AND weight > 2 AND 2 < weight AND weight = .25E+1");
	TRUE_OF("region = 'eu-west' AND region > 'eu' AND region < 'ev' AND empty = ''");
	TRUE_OF("paid AND NOT late AND paid = TRUE AND late <> TRUE AND paid <> late");
	TRUE_OF("KEY = 'order-7' AND TAG = 'red' AND \"key\" = 'a header' AND \"odd name\" LIKE '50%'");
	TRUE_OF("TIMESTAMP = TIMESTAMP '2026-01-01 12:00:00' AND timestamp > timestamp '2026-01-01'");
	TRUE_OF("TIMESTAMP < TIMESTAMP '2026-01-01T12:00:00.000000001' AND TIMESTAMP >= 1767268800000000000");
	TRUE_OF("raw LIKE 'a_b' AND raw <> 'a'");
	FALSE_OF("price > 12");
	FALSE_OF("region = 'EU-WEST'");
	FALSE_OF("price = 12 AND region = 'us'");
}

Test(filter_match, reals_and_whole_numbers_are_compared_exactly, .init = setup)
{
	TRUE_OF("high < 9223372036854775808.0 AND low = -9223372036854775808.0 AND low > -9.3e18 AND high < 1e300");
	TRUE_OF("high > 9223372036854774784.0 AND 9223372036854774784.0 < high");
	TRUE_OF("below < -6.5 AND below > -7.5 AND -6.5 > below AND below <> -7.5");
}

Test(filter_match, computes_and_does_not_overflow, .init = setup)
{
	TRUE_OF("price + 1 = 13 AND price - 13 = -1 AND price * 2 = 24 AND price / 5 = 2 AND price % 5 = 2");
	TRUE_OF("1 + 2 * 3 = 7 AND (1 + 2) * 3 = 9 AND - - 3 = 3 AND +3 = 3 AND 10 - 4 - 3 = 3 AND 100 / 10 / 5 = 2");
	TRUE_OF("weight * 2 = 5 AND price / 5.0 = 2.4 AND 7.5 % 2 = 1.5 AND below % 4 = -3 AND below / 2 = -3");
	TRUE_OF("high + 1 > high AND high * 2 > high AND low - 1 <= low AND -low > high AND low / -1 > 0 AND low % -1 = 0");
	NULL_OF("price / 0 = 1");
	NULL_OF("price % 0.0 = 1");
	NULL_OF("1e308 * 10 > 0");
	NULL_OF("region + 1 = 2");
}

Test(filter_match, logic_has_three_values, .init = setup)
{
	NULL_OF("nothing = 1");
	NULL_OF("nothing <> 1");
	NULL_OF("nothing");
	NULL_OF("price = region");
	NULL_OF("nothing AND paid");
	NULL_OF("nothing OR late");
	NULL_OF("nothing BETWEEN 1 AND 2");
	NULL_OF("nothing IN (1, 2)");
	NULL_OF("nothing LIKE 'a'");
	NULL_OF("price AND paid");
	NULL_OF("price < late");
	FALSE_OF("nothing AND late");
	FALSE_OF("late AND nothing");
	TRUE_OF("NOT (nothing AND late) AND NOT (late AND nothing)");
	TRUE_OF("nothing OR paid");
	TRUE_OF("paid OR nothing");
	TRUE_OF("nothing IS NULL AND price IS NOT NULL AND NOT nothing IS NOT NULL AND empty IS NOT NULL");
	TRUE_OF("(nothing = 1) IS NULL");
	TRUE_OF("price BETWEEN 12 AND 12 AND price NOT BETWEEN 13 AND 20 AND NOT (price BETWEEN 1 AND nothing) OR TRUE");
	FALSE_OF("price BETWEEN 13 AND nothing");
	TRUE_OF("price NOT BETWEEN 13 AND nothing");
}

Test(filter_match, lists_and_patterns, .init = setup)
{
	TRUE_OF("price IN (1, 12, -3) AND region IN ('a', 'eu-west') AND price NOT IN (1, 2.5) AND price IN (12.0) AND below IN (-7)");
	TRUE_OF("price IN ('12', 12) AND NOT price IN (1)");
	FALSE_OF("region NOT IN ('eu-west')");
	TRUE_OF("region LIKE 'eu%' AND region LIKE '%west' AND region LIKE '%-%' AND region LIKE 'eu_west' AND region LIKE '%'");
	TRUE_OF("region NOT LIKE 'eu' AND region NOT LIKE '' AND empty LIKE '' AND empty LIKE '%%' AND region LIKE '%e%e%t'");
	TRUE_OF("\"odd name\" LIKE '50!%!_x' ESCAPE '!' AND \"odd name\" NOT LIKE '50!%x' ESCAPE '!' AND \"odd name\" LIKE '50%%_x' ESCAPE '%'");
	TRUE_OF("umlaut LIKE 'M_ller' AND umlaut NOT LIKE 'M__ller' AND umlaut LIKE '%\xc3\xbc%'");
	TRUE_OF("'it''s' = 'it''s' AND 'a' LIKE 'a' AND KEY LIKE 'order-%'");
	FALSE_OF("region LIKE 'EU%'");
}

Test(filter_match, what_makes_no_sense_is_refused_where_it_begins)
{
	static const struct {
		const char *text;
		int at; /* from 1 */
	} wrong[] = {
		{"", 1},			 {"   ", 4},			{"price >", 8},		 {"price > 10 AND", 15},
		{"price > 10 region = 'a'", 12}, {"(price > 10", 12},		{"price > 10)", 11},	 {"price > 'ten", 9},
		{"\"price > 10", 1},		 {"price = NULL", 9},		{"price == 10", 8},	 {"price & 1", 7},
		{"12", 1},			 {"'a'", 1},			{"price > 1 OR 'a'", 14}, {"TAG > 5", 5},
		{"KEY = TRUE", 5},		 {"TAG + 1 = 2", 1},		{"1 + TAG = 2", 5},	 {"price IN ()", 11},
		{"price IN (region)", 11},	 {"price IN 1", 10},		{"price BETWEEN 1 OR 2", 17}, {"price NOT 5", 11},
		{"region LIKE other", 13},	 {"12 LIKE 'a'", 4},		{"a LIKE 'x!' ESCAPE '!'", 20}, {"a LIKE 'x' ESCAPE 'ab'", 19},
		{"price IS 5", 10},		 {"99999999999999999999 = price", 1}, {"1e999 = price", 1}, {"1abc = 3", 1},
		{"TIMESTAMP > TIMESTAMP '2026-02-30'", 23}, {"TIMESTAMP > TIMESTAMP 'now'", 23}, {"\"\" = 1", 1}, {"a ! b", 3},
		{"price > TRUE", 7},		 {"price = -'a'", 10},		{"NOT", 4},		 {"TIMESTAMP = 'x'", 11},
	};
	bool is;
	uint32_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(wrong); i++)
		cr_assert(ask(wrong[i].text, &is) == wrong[i].at, "%s: at %d, not %d", wrong[i].text, ask(wrong[i].text, &is), wrong[i].at);
}

Test(filter_match, size_and_depth_are_bounded, .init = setup)
{
	char text[THMQ_FILTER_MAX + 2];
	uint32_t i;
	bool is;

	memset(text, ' ', sizeof(text));
	memcpy(text, "price=12", 8);
	text[THMQ_FILTER_MAX] = 0;
	cr_assert(ask(text, &is) == 0 && is);
	text[THMQ_FILTER_MAX] = ' ';
	text[THMQ_FILTER_MAX + 1] = 0;
	cr_assert(ask(text, &is) == THMQ_FILTER_MAX + 1);
	for (i = 0; i < 500; i++)
		text[i] = '(';
	memcpy(text + 500, "price", 6);
	cr_assert(ask(text, &is) > 0);
	for (i = 0; i < 500; i++)
		text[i] = '-';
	cr_assert(ask(text, &is) > 0);
	for (i = 0; i < 125; i++)
		memcpy(text + i * 4, "NOT ", 4);
	cr_assert(ask(text, &is) > 0);
	/* from the left as long as it may be, and as many names as there may be */
	for (i = 0, text[0] = 0; i < 90; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%sprice>%u", i ? " OR " : "", 1000 + i % 9);
	cr_assert(ask(text, &is) > 0 || !is);
	for (i = 0, text[0] = 0; i < 32; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%sa%u=1", i ? " OR " : "", i);
	cr_assert(ask(text, &is) == 0 && !is);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), " OR more=1");
	cr_assert(ask(text, &is) > 0);
}

Test(filter_match, headers_that_are_damaged_are_not_there, .init = setup)
{
	uint32_t len = message.headers_len, cut;

	for (cut = 0; cut < len; cut++) {
		uint8_t *copy = malloc(cut ? cut : 1);
		bool is;

		memcpy(copy, headers + 4, cut);
		message.headers = copy;
		message.headers_len = cut;
		cr_assert(ask("umlaut = 'x' OR nothing = 1 OR \"odd name\" = 'y'", &is) == 0 && !is);
		free(copy);
	}
	message.headers = NULL;
	message.headers_len = 0;
	message.key = message.tag = NULL;
	message.key_len = message.tag_len = 0;
	TRUE_OF("price IS NULL AND KEY IS NULL AND TAG IS NULL AND TIMESTAMP IS NOT NULL");
}

/* ------------------------------------------------------------------------------- tags */

static uint64_t tags_of(const char *text)
{
	struct thmqi_filter_error error;
	struct thmqi_filter *f;
	uint64_t tags;

	cr_assert(thmqi_filter_make(text, (uint32_t)strlen(text), &f, &error) == 0, "%s", text);
	tags = thmqi_filter_tags(f);
	thmqi_filter_free(f);
	return tags;
}

static uint64_t bit(const char *tag)
{
	return 1ull << (thmqi_tag_hash(tag, (uint32_t)strlen(tag)) % 64);
}

Test(filter_match, tags_that_a_message_must_have_are_known)
{
	cr_assert(tags_of("TAG = 'red'") == bit("red"));
	cr_assert(tags_of("'red' = TAG AND price > 1") == bit("red"));
	cr_assert(tags_of("TAG = 'red' OR TAG = 'blue'") == (bit("red") | bit("blue")));
	cr_assert(tags_of("TAG IN ('red', 'blue') AND (price = 1 OR late)") == (bit("red") | bit("blue")));
	cr_assert(tags_of("price > 1") == 0 && tags_of("TAG = 'red' OR price = 1") == 0);
	cr_assert(tags_of("NOT TAG = 'red'") == 0 && tags_of("TAG <> 'red'") == 0 && tags_of("TAG NOT IN ('red')") == 0);
	cr_assert(tags_of("TAG IS NULL") == 0 && tags_of("TAG LIKE 'r%'") == 0 && tags_of("TAG = other") == 0);
	cr_assert(tags_of("(TAG = 'red') IS NULL") == 0 && tags_of("(TAG = 'red') = FALSE") == 0);
}

/* --------------------------------------------------------------- against a small model */

enum { F, T, N }; /* false, true, neither */

static struct thmqi_prng prng;

static int below(uint32_t n)
{
	return (int)thmqi_prng_below(&prng, n);
}

static char *at;
static char random_text[THMQ_FILTER_MAX + 512];

static void say(const char *text)
{
	at += sprintf(at, "%s", text);
}

/* A number, and what it is: NULL for one that is not there. */
static bool number(int64_t *ret)
{
	static const struct {
		const char *text;
		int64_t is;
	} known[] = {{"price", 12}, {"below", -7}, {"3", 3}, {"12", 12}, {"-7", -7}, {"(1+2)", 3}};
	int i = below(7);

	if (i == 6) {
		say("nothing");
		return false;
	}
	say(known[i].text);
	*ret = known[i].is;
	return true;
}

static int compare(void)
{
	static const char *const how[] = {"=", "<>", "<", "<=", ">", ">="};
	int64_t a = 0, b = 0;
	bool has = number(&a);
	int i = below(6);

	say(how[i]);
	has = number(&b) && has;
	if (!has)
		return N;
	return i == 0 ? a == b : i == 1 ? a != b : i == 2 ? a < b : i == 3 ? a <= b : i == 4 ? a > b : a >= b;
}

static int logic(int depth)
{
	int a, b, kind = depth ? below(6) : 0;

	switch (kind) {
	case 1:
		say("NOT ");
		say("(");
		a = logic(depth - 1);
		say(")");
		return a == N ? N : !a;
	case 2:
	case 3:
		say("(");
		a = logic(depth - 1);
		say(kind == 2 ? " AND " : " OR ");
		b = logic(depth - 1);
		say(")");
		if (kind == 2)
			return a == F || b == F ? F : a == N || b == N ? N : T;
		return a == T || b == T ? T : a == N || b == N ? N : F;
	case 4:
		say("(");
		a = logic(depth - 1);
		say(")");
		if (below(2)) {
			say(" IS NULL");
			return a == N;
		}
		say(" IS NOT NULL");
		return a != N;
	default:
		return compare();
	}
}

Test(filter_match, random_ones_are_what_a_model_says, .init = setup)
{
	int round, wanted, tried = 0;
	bool is;

	thmqi_prng_seed(&prng, 5);
	for (round = 0; round < 20000; round++) {
		at = random_text;
		wanted = logic(4);
		if (at - random_text > (ptrdiff_t)THMQ_FILTER_MAX)
			continue;
		cr_assert(ask(random_text, &is) == 0, "%s", random_text);
		cr_assert(is == (wanted == T), "%s", random_text);
		tried++;
	}
	cr_assert(tried > 10000);
}

/* ------------------------------------------------------------------------- LIKE */

#define UNITS 400u

/* What a unit of a text or of a pattern is: the bytes of "a", "b", "é"; '%', '_'; "!%". */
static const char *const units[] = {"a", "b", "\xc3\xa9", "%", "_", "!%"};

/* By definition, unit by unit: which of the pattern's fit which of the text's. */
static bool fits(const uint8_t *text, uint32_t text_count, const uint8_t *pattern, uint32_t pattern_count)
{
	static bool fit[UNITS + 1], before;
	uint32_t p, t;

	memset(fit, 0, sizeof(fit));
	fit[0] = true;
	for (p = 0; p < pattern_count; p++) {
		before = fit[0];
		fit[0] = fit[0] && pattern[p] == 3;
		for (t = 1; t <= text_count; t++) {
			bool now = fit[t];

			if (pattern[p] == 3)
				fit[t] = now || fit[t - 1];
			else
				fit[t] = before && (pattern[p] == 4 || pattern[p] == text[t - 1] || (pattern[p] == 5 && text[t - 1] == 3));
			before = now;
		}
	}
	return fit[text_count];
}

static uint32_t spell(const uint8_t *of, uint32_t count, char *ret)
{
	uint32_t len = 0, i;

	ret[0] = 0;
	for (i = 0; i < count; i++)
		len += (uint32_t)sprintf(ret + len, "%s", units[of[i]]);
	return len;
}

/* Texts that nearly fit in many places, so that a pattern's places are tried again and again: that is done in another way. */
Test(filter_match, patterns_fit_what_they_say, .init = setup)
{
	static char filter[THMQ_FILTER_MAX + 64], key[2 * UNITS + 1], spelled[2 * UNITS + 1];
	uint8_t text[UNITS], pattern[UNITS];
	uint32_t round, i, texts, patterns, yes = 0;
	bool is, wanted;

	thmqi_prng_seed(&prng, 11);
	for (round = 0; round < 6000; round++) {
		const uint32_t rare = 3 + (uint32_t)below(60);

		texts = (uint32_t)below(round % 2 ? UNITS : 12);
		patterns = (uint32_t)below(round % 2 ? UNITS / 2 : 10);
		for (i = 0; i < texts; i++)
			text[i] = below(rare) ? 0 : (uint8_t)below(4);
		for (i = 0; i < patterns; i++)
			pattern[i] = below(rare) ? (round % 4 && !below(4) ? 4 : 0) : (uint8_t)below(6);
		if (patterns && round % 3)
			pattern[0] = 3;
		if (patterns && round % 3 == 2)
			pattern[patterns - 1] = 3;
		spell(pattern, patterns, spelled);
		snprintf(filter, sizeof(filter), "KEY IS NULL OR KEY LIKE '%s' ESCAPE '!'", spelled);
		message.key_len = spell(text, texts, key);
		message.key = key;
		wanted = !texts || fits(text, texts, pattern, patterns);
		cr_assert_eq(ask(filter, &is), 0, "%s", filter);
		cr_assert_eq(is, wanted, "%s of %s is %d", filter, key, is);
		yes += is;
	}
	cr_assert(yes > 1000 && yes < 5000, "%u", yes);
}

/* As dear as a pattern can be: 4096 bytes, of each of which on it fits nearly to its end. */
Test(filter_match, a_pattern_that_nearly_fits_everywhere, .init = setup)
{
	static char filter[THMQ_FILTER_MAX + 1], key[4096];
	uint32_t from;

	memset(key, 'a', sizeof(key));
	message.key = key;
	message.key_len = sizeof(key);
	strcpy(filter, "KEY LIKE '%");
	from = (uint32_t)strlen(filter);
	memset(filter + from, 'a', 1000);
	strcpy(filter + from + 1000, "b%'");
	for (uint32_t i = 0; i < 100; i++)
		FALSE_OF(filter);
	key[1000] = key[3000] = 'b';
	TRUE_OF(filter);
	key[2999] = key[999] = 'c';
	FALSE_OF(filter);
	filter[from + 999] = '_';
	TRUE_OF(filter);
}
