/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A series as bytes: extrema, knots and envelopes of any signal stay within what was carved for its length, and a forecaster
 * takes whatever comes. The first byte: bits 0-2 how the others are read (bytes, signed, plateaus, doubles …), bits 3-6 the
 * length of the pieces, bit 7 the model.
 */
#include <thundermq/forecast.h>

#include "forecast/forecast.h"
#include "fuzz.h"

#define LEN_MAX 96u

static double value(struct fuzz_input *in, uint32_t how)
{
	uint64_t bits;
	double x;

	switch (how) {
	case 0:
		return (double)fuzz_take(in, 1);
	case 1:
		return (double)(int8_t)fuzz_take(in, 1);
	case 2:
		return (double)(fuzz_take(in, 1) & 3);
	case 3:
		return (double)(int64_t)fuzz_take(in, 8);
	case 4:
		return ldexp((double)(int8_t)fuzz_take(in, 1), (int)(fuzz_take(in, 1) % 600) - 300);
	default:
		bits = fuzz_take(in, 8);
		memcpy(&x, &bits, sizeof(x));
		return x;
	}
}

/* Its modes add up to it, where it is finite; where it is not, nothing is written out of bounds. */
static void decompose(const double *x, uint32_t len)
{
	struct thmqi_carver c = {0};
	struct thmqi_emd e;
	double *rows, size = 0;
	uint32_t i, k, n;

	thmqi_emd_carve(&e, &c, len);
	c.base = aligned_alloc(THMQI_CACHELINE, c.used);
	rows = calloc(6u * len, sizeof(double)); /* of its exact size */
	FUZZ_CHECK(c.base && rows);
	c.used = 0;
	thmqi_emd_carve(&e, &c, len);
	thmqi_emd_extrema(&e, x, len);
	FUZZ_CHECK(e.maxima_count <= len / 2 && e.minima_count <= len / 2);
	for (k = 0; k < 2; k++) {
		n = thmqi_emd_knots(&e, x, len, k);
		FUZZ_CHECK(n <= len / 2 + 5);
		FUZZ_CHECK(!n || (e.knot_at[0] <= 0 && e.knot_at[n - 1] >= (int32_t)len - 1),
			   "the ends are open");
	}
	n = thmqi_emd(&e, x, len, 20, 6, len, rows);
	FUZZ_CHECK(n >= 1 && n <= 6);
	for (i = 0; i < len; i++)
		size = thmqi_forecast_finite(x[i]) ? fmax(size, fabs(x[i]))
						   : INFINITY; /* fmax() keeps it */
	for (i = 0; i < len && isfinite(size); i++) {
		double sum = 0, most = size;

		for (k = 0; k < n; k++) {
			sum += rows[(size_t)k * len + i];
			most = fmax(most, fabs(rows[(size_t)k * len + i]));
		}
		FUZZ_CHECK(!isfinite(most) || fabs(sum - x[i]) <= 1e-9 * most + 1e-290);
	}
	free(rows);
	free(c.base);
}

static void forecast(const double *x, uint32_t len, uint32_t model)
{
	struct thmq_forecast *f;
	double next[4];
	uint32_t i, k;

	FUZZ_CHECK(
		thmq_forecast_open(THMQ_FORECAST_OPTS(.model = model, .window = 24, .members = 2,
						      .mode_max = 4, .sift_max = 10, .horizon = 4),
				   &f) == 0);
	for (i = 0; i < len; i++) {
		if (thmq_forecast_feed(f, x[i]))
			continue;
		thmq_forecast_work(f, i % 5 ? UINT32_MAX : 3);
		FUZZ_CHECK(thmq_forecast_predict(f, 4, next) == 0);
		for (k = 0; k < 4; k++)
			FUZZ_CHECK(isfinite(next[k]));
	}
	thmq_forecast_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint32_t head = (uint32_t)fuzz_take(&in, 1),
		 len = 1 + (head >> 3 & 15) * (LEN_MAX - 1) / 15, n;
	bool is_first = true;
	double *x;

	if (size < 2 || size > 1024)
		return 0;
	while (in.left) {
		x = malloc(len * sizeof(*x));
		FUZZ_CHECK(x);
		for (n = 0; n < len && in.left; n++)
			x[n] = value(&in, head & 7);
		if (n < len) /* of its exact size again */
			x = realloc(x, n * sizeof(*x));
		FUZZ_CHECK(x);
		decompose(x, n);
		if (is_first)
			forecast(x, n, head & 128 ? THMQ_FORECAST_MODES : THMQ_FORECAST_ARIMA);
		is_first = false;
		free(x);
	}
	return 0;
}
