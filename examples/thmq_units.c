/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_units.c - times and sizes as people write them: 90m, 10G. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include <time.h>

#include "thmq.h"

struct unit {
	const char *name;
	uint64_t factor;
};

/* Each of them in the one that goes without a fraction, from the largest. */
static const struct unit times[] = {
	{"w", 604800 * SECOND}, {"d", 86400 * SECOND}, {"h", 3600 * SECOND}, {"m", 60 * SECOND},
	{"s", SECOND},          {"ms", 1000000},       {"us", 1000},         {"ns", 1},
};
static const struct unit sizes[] = {
	{"T", 1ull << 40}, {"G", 1ull << 30}, {"M", 1ull << 20}, {"K", 1ull << 10}, {"", 1},
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Its digits, and what stands behind them. */
static bool split(const char *text, uint64_t *ret_number, const char **ret_unit)
{
	char digits[24];
	size_t len = strspn(text, "0123456789");

	if (!len || len >= sizeof(digits))
		return false;
	memcpy(digits, text, len);
	digits[len] = 0;
	*ret_unit = text + len;
	return parse_number(digits, UINT64_MAX, ret_number);
}

static bool scale(uint64_t number, uint64_t factor, uint64_t max, uint64_t *ret)
{
	if (number > max / factor)
		return false;
	*ret = number * factor;
	return true;
}

int parse_duration(const char *option, const char *text, uint64_t *ret_ns)
{
	uint64_t number;
	const char *unit;
	size_t i;

	if (!split(text, &number, &unit))
		return usage_error("%s: %s is no time; write it as 30s, 90m, 12h, 7d or 2w", option,
				   text);
	if (!*unit)
		return usage_error("%s: %s of what? write %ss, %sm, %sh, %sd or %sw", option, text,
				   text, text, text, text, text);
	if (!number)
		return usage_error("%s: more than %s", option, text);
	for (i = 0; i < COUNT(times); i++)
		if (strcmp(unit, times[i].name) == 0)
			return scale(number, times[i].factor, INT64_MAX, ret_ns)
				       ? EXIT_OK
				       : usage_error("%s: %s is longer than can be counted", option,
						     text);
	return usage_error(
		"%s: there is no unit of time \"%s\"; s, m, h, d and w are, and ms, us and ns",
		option, unit);
}

int parse_size(const char *option, const char *text, uint64_t *ret_bytes)
{
	uint64_t number;
	const char *unit;
	size_t i;

	if (!split(text, &number, &unit) || !number)
		return usage_error(
			"%s: %s is no size; write it in bytes, or as 64K, 500M, 10G or 2T", option,
			text);
	for (i = 0; i < COUNT(sizes); i++)
		if (strcasecmp(unit, sizes[i].name) == 0)
			return scale(number, sizes[i].factor, INT64_MAX, ret_bytes)
				       ? EXIT_OK
				       : usage_error("%s: %s is more than can be counted", option,
						     text);
	return usage_error("%s: there is no unit of size \"%s\"; K, M, G and T are, each 1024 of "
			   "the one before",
			   option, unit);
}

bool parse_time(const char *text, uint64_t *ret_ns)
{
	struct tm t = {0}, given;
	const char *end = strptime(text, "%Y-%m-%d", &t);
	time_t seconds;

	if (end && *end) {
		end = strptime(end, "T%H:%M:%S", &t);
		if (end && strcmp(end, "Z") == 0)
			end++;
	}
	if (!end || *end)
		return false;
	given = t;
	seconds = timegm(&t);
	if (t.tm_mday != given.tm_mday) /* such as the 31st of a shorter month */
		return false;
	*ret_ns = seconds > 0 ? (uint64_t)seconds * SECOND : 0;
	return true;
}

const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

/* Weeks are for writing: 14d is as well read as 2w, and 7d better than 1w. */
const char *duration_text(uint64_t ns, struct unit_text *buffer)
{
	size_t i = 1;

	while (i + 1 < COUNT(times) && ns % times[i].factor)
		i++;
	snprintf(buffer->text, sizeof(buffer->text), "%llu%s",
		 (unsigned long long)(ns / times[i].factor), times[i].name);
	return buffer->text;
}

const char *size_text(uint64_t bytes, struct unit_text *buffer)
{
	size_t i = 0;

	while (i + 1 < COUNT(sizes) && bytes % sizes[i].factor)
		i++;
	snprintf(buffer->text, sizeof(buffer->text), "%llu%s",
		 (unsigned long long)(bytes / sizes[i].factor),
		 *sizes[i].name ? sizes[i].name : " bytes");
	return buffer->text;
}
