/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.c - pairs of runs: median and interval, the verdict against a bar, the line that says so. Pure arithmetic
 * and printing: measures nothing.
 */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Largest r such that the r-th smallest and the r-th largest of @n enclose the median with at least 95 %:
 * each side may miss with the probability of fewer than r successes in n fair coin throws. */
static unsigned order_rank(unsigned n)
{
	double below = 0, term = pow(0.5, n);
	unsigned r = 0;

	while (r < n / 2) {
		below += term; /* P(X <= r) */
		if (below > 0.025)
			break;
		r++;
		term *= (double)(n - r + 1) / r;
	}
	return r > 0 ? r : 1;
}

struct bench_interval bench_median(const double *values, unsigned count)
{
	struct bench_interval i = {0, 0, 0};
	double v[BENCH_PAIRS_MAX];
	unsigned r;

	if (count == 0)
		return i;
	if (count > BENCH_PAIRS_MAX)
		count = BENCH_PAIRS_MAX;
	memcpy(v, values, count * sizeof(*v));
	qsort(v, count, sizeof(*v), compare_double);
	i.mid = count % 2 ? v[count / 2] : (v[count / 2 - 1] + v[count / 2]) / 2;
	r = order_rank(count);
	i.low = v[r - 1];
	i.high = v[count - r];
	return i;
}

static struct bench_interval measured(const struct bench_line *l)
{
	double v[BENCH_PAIRS_MAX];

	for (unsigned i = 0; i < l->pairs.count; i++) {
		double ours = l->pairs.ours[i], rival = l->pairs.rival[i];

		if (l->measure == BENCH_VALUE)
			v[i] = ours;
		else if (l->measure == BENCH_RATIO)
			v[i] = rival > 0 ? ours / rival : INFINITY;
		else
			v[i] = rival > 0 ? (ours - rival) / rival : INFINITY;
	}
	return bench_median(v, l->pairs.count);
}

enum bench_verdict bench_judge(const struct bench_line *l)
{
	struct bench_interval i = measured(l);

	if (l->sense == BENCH_NO_BAR)
		return BENCH_INFO;
	if (l->pairs.count == 0)
		return BENCH_INCONCLUSIVE;
	if (l->sense == BENCH_AT_MOST)
		return i.high <= l->bar ? BENCH_OK
		       : i.low > l->bar ? BENCH_MISS
					: BENCH_INCONCLUSIVE;
	return i.low >= l->bar ? BENCH_OK : i.high < l->bar ? BENCH_MISS : BENCH_INCONCLUSIVE;
}

bool bench_more(const struct bench *b, unsigned round, struct bench_line *const *lines,
		unsigned count)
{
	if (round < b->pairs_min)
		return true;
	if (round >= b->pairs_max)
		return false;
	for (unsigned i = 0; i < count; i++)
		if (bench_judge(lines[i]) == BENCH_INCONCLUSIVE)
			return true;
	return false;
}

void bench_detail(struct bench_line *l, const char *key, struct bench_samples *s)
{
	size_t at = strlen(l->detail);
	int len;

	len = snprintf(l->detail + at, sizeof(l->detail) - at,
		 "%s\"%s\":{\"count\":%zu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,"
		 "\"max\":%.3f}",
		 at ? "," : "", key, s->count, bench_percentile(s, 0.5) / 1e3,
		 bench_percentile(s, 0.9) / 1e3, bench_percentile(s, 0.99) / 1e3,
		 bench_percentile(s, 0.999) / 1e3, bench_percentile(s, 1) / 1e3);
	if (len < 0 || (size_t)len >= sizeof(l->detail) - at)
		l->detail[at] = 0; /* half of it would be no JSON */
}

/* ------------------------------------------------------------------- output */

static const char *verdict_word(enum bench_verdict v)
{
	static const char *const words[] = {"ok", "MISS", "inconclusive", "-"};

	return words[v];
}

static const char *bar_text(const struct bench_line *l, char *buf, size_t size)
{
	const char *sign = l->sense == BENCH_AT_MOST ? "<=" : ">=";

	if (l->sense == BENCH_NO_BAR)
		snprintf(buf, size, "-");
	else if (l->measure == BENCH_VALUE)
		snprintf(buf, size, "%s %.4g %s", sign, l->bar, l->unit);
	else if (l->measure == BENCH_DIFFERENCE)
		snprintf(buf, size, "%s %+.0f %%", sign, l->bar * 100);
	else
		snprintf(buf, size, "%s %.2f x", sign, l->bar);
	return buf;
}

static const char *measure_text(const struct bench_line *l, struct bench_interval i, char *buf,
				size_t size)
{
	if (l->measure == BENCH_VALUE)
		snprintf(buf, size, "[%.4g .. %.4g]", i.low, i.high);
	else if (l->measure == BENCH_DIFFERENCE)
		snprintf(buf, size, "%+.0f %% [%+.0f .. %+.0f]", i.mid * 100, i.low * 100,
			 i.high * 100);
	else
		snprintf(buf, size, "%.2f x [%.2f .. %.2f]", i.mid, i.low, i.high);
	return buf;
}

static void report_json(const struct bench *b, const struct bench_line *l, enum bench_verdict v)
{
	static const char *const measures[] = {"ratio", "difference", "value"};
	static const char *const senses[] = {"none", "at most", "at least"};
	struct bench_interval i = measured(l);

	printf("{\"part\":\"%s\",\"name\":\"%s\",\"unit\":\"%s\",\"value\":%.6g,\"pairs\":%u",
	       b->part, l->name, l->unit, bench_median(l->pairs.ours, l->pairs.count).mid,
	       l->pairs.count);
	if (l->rival)
		printf(",\"rival\":\"%s\",\"rival_value\":%.6g", l->rival,
		       bench_median(l->pairs.rival, l->pairs.count).mid);
	printf(",\"measure\":\"%s\",\"mid\":%.6g,\"low\":%.6g,\"high\":%.6g", measures[l->measure],
	       i.mid, i.low, i.high);
	printf(",\"sense\":\"%s\",\"bar\":%.6g,\"verdict\":\"%s\"%s%s}\n", senses[l->sense], l->bar,
	       b->smoke ? "smoke" : verdict_word(v), l->detail[0] ? "," : "", l->detail);
}

static void report_text(const struct bench *b, const struct bench_line *l, enum bench_verdict v)
{
	char bar[64], how[96], rival[96] = "-";
	struct bench_interval i = measured(l);

	if (l->rival)
		snprintf(rival, sizeof(rival), "%.4g %s (%s)",
			 bench_median(l->pairs.rival, l->pairs.count).mid, l->unit, l->rival);
	printf("%-9s %-38s %9.4g %-7s rival %-42s %-26s bar %-14s %s\n", b->part, l->name,
	       bench_median(l->pairs.ours, l->pairs.count).mid, l->unit, rival,
	       measure_text(l, i, how, sizeof(how)), bar_text(l, bar, sizeof(bar)),
	       b->smoke ? "smoke" : verdict_word(v));
}

void bench_report(struct bench *b, const struct bench_line *l)
{
	enum bench_verdict v = bench_judge(l);

	if (v == BENCH_MISS)
		b->misses++;
	if (v == BENCH_INCONCLUSIVE)
		b->unclear++;
	if (b->json)
		report_json(b, l, v);
	else
		report_text(b, l, v);
	if (b->verbose)
		for (unsigned i = 0; i < l->pairs.count; i++)
			fprintf(stderr, "  %s pair %u: %.6g %.6g\n", l->name, i, l->pairs.ours[i],
				l->pairs.rival[i]);
}

void bench_skip(const struct bench *b, const char *name, const char *why)
{
	if (b->json)
		printf("{\"part\":\"%s\",\"name\":\"%s\",\"verdict\":\"skipped\",\"why\":\"%s\"}\n",
		       b->part, name, why);
	else
		printf("%-9s %-38s skipped: %s\n", b->part, name, why);
}
