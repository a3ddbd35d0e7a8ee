/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_times.c - how long something took, many times: percentiles, and a plot. Knows not what. */
#include "thmq.h"

#define ROWS_MAX 40u /* of the plot: powers of the square root of two */
#define BAR 50u
#define RATIO 1.41421356

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

void times_of(uint64_t *ns, uint32_t n, struct times *ret)
{
	double sum = 0;
	uint32_t i;

	qsort(ns, n, sizeof(*ns), by_value);
	for (i = 0; i < n; i++)
		sum += us(ns[i]);
	*ret = (struct times){.min_us = us(ns[0]),
			      .mean_us = sum / n,
			      .p50_us = us(ns[n / 2]),
			      .p99_us = us(ns[(uint64_t)n * 99 / 100]),
			      .p999_us = us(ns[(uint64_t)n * 999 / 1000]),
			      .max_us = us(ns[n - 1])};
}

/* Rows of equal ratio, from the shortest to the longest. */
static uint32_t row_of(uint64_t ns, uint64_t shortest)
{
	double edge = (double)shortest * RATIO;
	uint32_t row = 0;

	for (; (double)ns >= edge && row < ROWS_MAX - 1; row++)
		edge *= RATIO;
	return row;
}

void print_plot(const uint64_t *ns, uint32_t n)
{
	uint32_t rows[ROWS_MAX] = {0}, most = 0, last = row_of(ns[n - 1], ns[0]), i, k;
	double edge = us(ns[0]);

	for (i = 0; i < n; i++)
		rows[row_of(ns[i], ns[0])]++;
	for (i = 0; i <= last; i++)
		most = rows[i] > most ? rows[i] : most;
	printf("\n");
	for (i = 0; i <= last; i++) {
		printf("%10.1f us |", edge);
		edge *= RATIO;
		for (k = 0; k < ((uint64_t)rows[i] * BAR + most - 1) / most; k++)
			putchar('#');
		if (rows[i])
			printf(" %u", rows[i]);
		putchar('\n');
	}
}
