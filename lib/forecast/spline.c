/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spline.c - the cubic spline with not-a-knot ends (de Boor, "A Practical Guide to Splines", 1978, chapter IV): the
 * tridiagonal system of its slopes, solved without pivoting, which its form allows. Knots are sample numbers.
 */
#include "forecast/forecast.h"

/* Intervals of the knots: their lengths' reciprocals, and the secants' slopes. Made once: divisions are what a spline costs. */
static void measure(const int32_t *at, const double *y, uint32_t count, double *inverse, double *d)
{
	uint32_t i;

	for (i = 0; i + 1 < count; i++) {
		inverse[i] = 1 / (double)(at[i + 1] - at[i]);
		d[i] = (y[i + 1] - y[i]) * inverse[i];
	}
}

/* Slopes at count >= 4 knots. @c: the upper diagonal of the eliminated system. */
static void solve_slopes(const int32_t *at, uint32_t count, const double *d, double *s, double *c)
{
	double h0 = at[1] - at[0], h1 = at[2] - at[1], pivot;
	uint32_t i;

	c[0] = (h0 + h1) / h1;
	s[0] = (((h0 + 2 * (h0 + h1)) * h1 * d[0] + h0 * h0 * d[1]) / (h0 + h1)) / h1;
	for (i = 1; i + 1 < count; i++) {
		h0 = at[i] - at[i - 1];
		h1 = at[i + 1] - at[i];
		pivot = 1 / (2 * (h0 + h1) - h1 * c[i - 1]);
		c[i] = h0 * pivot;
		s[i] = (3 * (h1 * d[i - 1] + h0 * d[i]) - h1 * s[i - 1]) * pivot;
	}
	/* h0, h1 are the last two intervals here */
	pivot = h0 - (h0 + h1) * c[count - 2];
	s[count - 1] =
		(h1 * h1 * d[count - 3] + (2 * (h1 + h0) + h1) * h0 * d[count - 2]) / (h1 + h0);
	s[count - 1] = (s[count - 1] - (h0 + h1) * s[count - 2]) / pivot;
	for (i = count - 1; i > 0; i--)
		s[i - 1] -= c[i - 1] * s[i];
}

/* A line or a parabola has these slopes; the cubic pieces through them are it. */
static void few_slopes(const int32_t *at, uint32_t count, const double *d, double *s)
{
	double bend;

	if (count == 2) {
		s[0] = s[1] = d[0];
		return;
	}
	bend = (d[1] - d[0]) / (double)(at[2] - at[0]);
	s[0] = d[0] - bend * (double)(at[1] - at[0]);
	s[1] = d[0] + bend * (double)(at[1] - at[0]);
	s[2] = d[1] + bend * (double)(at[2] - at[1]);
}

static void evaluate(const int32_t *at, const double *y, const double *s, uint32_t count,
		     const double *inverse, const double *d, uint32_t len, double *values)
{
	int32_t x = 0, end;
	uint32_t i;

	for (i = 0; i + 1 < count && x < (int32_t)len; i++) {
		double a = s[i], b = (3 * d[i] - 2 * s[i] - s[i + 1]) * inverse[i];
		double c = (s[i] + s[i + 1] - 2 * d[i]) * inverse[i] * inverse[i];

		/* the last piece goes on behind its end, the first one begins before its own */
		end = i + 2 == count || at[i + 1] > (int32_t)len ? (int32_t)len : at[i + 1];
		for (; x < end; x++) {
			double u = x - at[i];

			values[x] = y[i] + u * (a + u * (b + u * c));
		}
	}
}

int thmqi_spline(const int32_t *at, const double *y, uint32_t count, double *slope, double *work,
		 uint32_t len, double *ret_values)
{
	double *inverse = work + count, *d = inverse + count;
	uint32_t i;

	if (count < 2)
		return -EINVAL;
	for (i = 1; i < count; i++)
		if (at[i] <= at[i - 1])
			return -EINVAL;
	measure(at, y, count, inverse, d);
	if (count < 4)
		few_slopes(at, count, d, slope);
	else
		solve_slopes(at, count, d, slope, work);
	evaluate(at, y, slope, count, inverse, d, len, ret_values);
	return 0;
}
