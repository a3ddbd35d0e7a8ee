/* SPDX-License-Identifier: Apache-2.0 */
/* rig.h - what the forecaster's tests share: reference records, carved memory, made-up signals. FORECAST_DATA is this folder. */
#ifndef FORECAST_RIG_H
#define FORECAST_RIG_H

#include <criterion/criterion.h>
#include <stdio.h>

#include "forecast/forecast.h"

/* What is never freed, since a test is a process: the leak check finds it here. */
static void *rig_kept[128];
static unsigned rig_kept_count;

static inline void *rig_keep(void *memory)
{
	cr_assert(memory && rig_kept_count < sizeof(rig_kept) / sizeof(rig_kept[0]));
	return rig_kept[rig_kept_count++] = memory;
}

struct record {
	uint32_t rows, columns;
	double *values;
};

/* The record of that name. */
static inline struct record rig_record(const char *name)
{
	FILE *f = fopen(FORECAST_DATA "/reference.f64", "rb");
	char got[32];
	uint32_t shape[2];
	double *values;

	cr_assert(f);
	while (fread(got, sizeof(got), 1, f) == 1 && fread(shape, sizeof(shape), 1, f) == 1) {
		size_t n = (size_t)shape[0] * shape[1];

		values = malloc(n * sizeof(double));
		cr_assert_eq(fread(values, sizeof(double), n, f), n);
		if (!strncmp(got, name, sizeof(got))) {
			fclose(f);
			return (struct record){shape[0], shape[1], rig_keep(values)};
		}
		free(values);
	}
	cr_assert_fail("no record %s", name);
	return (struct record){0};
}

/* Two passes of carving: RIG_CARVE(thmqi_emd_carve(&e, &c, 256)) */
#define RIG_CARVE(call)                                                                            \
	do {                                                                                       \
		struct thmqi_carver c = {0};                                                       \
		call;                                                                              \
		c.base = rig_keep(aligned_alloc(THMQI_CACHELINE, c.used));                         \
		memset(c.base, 0, c.used);                                                         \
		c.used = 0;                                                                        \
		call;                                                                              \
	} while (0)

static inline double rig_largest(const double *a, const double *b, uint32_t len)
{
	double most = 0;

	for (uint32_t i = 0; i < len; i++)
		most = fmax(most, isnan(a[i] - b[i]) ? INFINITY : fabs(a[i] - b[i]));
	return most;
}

/* The value column of one of the traffic series. Return: values read. */
static inline uint32_t rig_traffic(const char *file, double *values, uint32_t max)
{
	char line[200], path[400];
	uint32_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), FORECAST_DATA "/%s", file);
	f = fopen(path, "r");
	cr_assert(f, "%s", path);
	while (n < max && fgets(line, sizeof(line), f))
		n += sscanf(line, "%*[^,],%lf", &values[n]) == 1;
	fclose(f);
	return n;
}

static inline double rig_uniform(struct thmqi_prng *p)
{
	return (double)(thmqi_prng_next(p) >> 11) * 0x1p-53;
}

static inline double rig_normal(struct thmqi_prng *p)
{
	return sqrt(-2 * log(1 - rig_uniform(p))) * cos(6.283185307179586 * rig_uniform(p));
}

#endif
