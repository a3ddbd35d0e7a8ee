/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spline.c - the cubic spline with not-a-knot ends (de Boor, "A Practical Guide to Splines", 1978, chapter IV): the
 * tridiagonal system of its slopes, solved without pivoting, which its form allows. Knots are sample numbers.
 */
#include "forecast/forecast.h"

static double secant(const int32_t *at, const double *y, uint32_t i)
{
	return (y[i + 1] - y[i]) / (double)(at[i + 1] - at[i]);
}

/* Slopes at count >= 4 knots. @c: the upper diagonal of the eliminated system. */
static void solve_slopes(const int32_t *at, const double *y, uint32_t count, double *s, double *c)
{
	double h0 = at[1] - at[0], h1 = at[2] - at[1], d0 = secant(at, y, 0), d1 = secant(at, y, 1);
	double pivot;
	uint32_t i;

	c[0] = (h0 + h1) / h1;
	s[0] = (((h0 + 2 * (h0 + h1)) * h1 * d0 + h0 * h0 * d1) / (h0 + h1)) / h1;
	for (i = 1; i + 1 < count; i++) {
		h0 = at[i] - at[i - 1];
		h1 = at[i + 1] - at[i];
		d1 = secant(at, y, i);
		pivot = 1 / (2 * (h0 + h1) - h1 * c[i - 1]);
		c[i] = h0 * pivot;
		s[i] = (3 * (h1 * d0 + h0 * d1) - h1 * s[i - 1]) * pivot;
		d0 = d1;
	}
	/* here h0, h1 and d1 are of the last two intervals */
	d0 = secant(at, y, count - 3);
	pivot = h0 - (h0 + h1) * c[count - 2];
	s[count - 1] = (h1 * h1 * d0 + (2 * (h1 + h0) + h1) * h0 * d1) / (h1 + h0);
	s[count - 1] = (s[count - 1] - (h0 + h1) * s[count - 2]) / pivot;
	for (i = count - 1; i > 0; i--)
		s[i - 1] -= c[i - 1] * s[i];
}

/* A line or a parabola has these slopes; the cubic pieces through them are it. */
static void few_slopes(const int32_t *at, const double *y, uint32_t count, double *s)
{
	double d0 = secant(at, y, 0), d1, bend;

	if (count == 2) {
		s[0] = s[1] = d0;
		return;
	}
	d1 = secant(at, y, 1);
	bend = (d1 - d0) / (double)(at[2] - at[0]);
	s[0] = d0 - bend * (double)(at[1] - at[0]);
	s[1] = d0 + bend * (double)(at[1] - at[0]);
	s[2] = d1 + bend * (double)(at[2] - at[1]);
}

static void evaluate(const int32_t *at, const double *y, const double *s, uint32_t count,
		     uint32_t len, double *values)
{
	int32_t x = 0, end;
	uint32_t i;

	for (i = 0; i + 1 < count && x < (int32_t)len; i++) {
		double h = at[i + 1] - at[i], d = (y[i + 1] - y[i]) / h;
		double a = s[i], b = (3 * d - 2 * s[i] - s[i + 1]) / h,
		       c = (s[i] + s[i + 1] - 2 * d) / (h * h);

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
	uint32_t i;

	if (count < 2)
		return -EINVAL;
	for (i = 1; i < count; i++)
		if (at[i] <= at[i - 1])
			return -EINVAL;
	if (count < 4)
		few_slopes(at, y, count, slope);
	else
		solve_slopes(at, y, count, slope, work);
	evaluate(at, y, slope, count, len, ret_values);
	return 0;
}
