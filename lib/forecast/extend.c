/* SPDX-License-Identifier: Apache-2.0 */
/*
 * extend.c - a series goes on at both ends as an autoregression on its differences forecasts it, so that what a
 * decomposition makes of its last value no longer hangs on an envelope that ends there.
 *
 * Coefficients by least squares of forward and backward errors together (Ulrych and Clayton, 1976; Marple, 1980): exact for
 * tones, as Burg's method is not. It may be unstable by a little: then the roots are drawn inwards.
 */
#include "solve.h"

#define RIDGE 1e-9 /* of the mean square: pure tones leave the system without one solution */
#define INWARDS                                                                                    \
	0.998 /* a step of the roots; pure tones lie on the circle, and damping them spoils them */
#define STEPS 500u

/* @w: n differences, mean taken off. Return: 0, or -EINVAL where there is nothing to fit. */
static int fit(const double *w, uint32_t n, double *phi)
{
	double a[SOLVE_MAX][SOLVE_MAX], b[SOLVE_MAX], forward, backward, sum;
	const uint32_t p = THMQI_EXTEND_ORDER;
	uint32_t i, j, t, steps;

	for (i = 0; i <= p; i++)
		for (j = 0; j <= i; j++) {
			if (!i)
				continue;
			/* products of the values i and j back, and of those i and j ahead */
			for (forward = backward = 0, t = p; t < n; t++) {
				forward += w[t - i] * w[t - j];
				backward += w[t - p + i] * w[t - p + j];
			}
			if (j)
				a[i - 1][j - 1] = forward + backward;
			else
				b[i - 1] = forward + backward;
		}
	for (sum = 0, i = 0; i < p; i++)
		sum += a[i][i] / p;
	for (i = 0; i < p; i++)
		a[i][i] += RIDGE * sum;
	if (thmqi_solve(a, b, p, phi))
		return -EINVAL;
	for (steps = 0; !thmqi_ar_is_stable(phi, p); steps++) {
		if (steps == STEPS)
			return -EINVAL;
		for (sum = 1, i = 0; i < p; i++)
			phi[i] *= sum *= INWARDS;
	}
	return 0;
}

/* @x has @len values, read by @step from its first one on; the next ones are written behind the last. */
static void go_on(double *x, uint32_t len, ptrdiff_t step, uint32_t extra, double *work)
{
	double phi[THMQI_EXTEND_ORDER], recent[THMQI_EXTEND_ORDER], mean, v,
		*end = x + (ptrdiff_t)(len - 1) * step;
	uint32_t n = len - 1, i, h;

	for (i = 0; i < n; i++)
		work[i] = x[(ptrdiff_t)(i + 1) * step] - x[(ptrdiff_t)i * step];
	mean = thmqi_mean(work, n);
	for (i = 0; i < n; i++)
		work[i] -= mean;
	if (fit(work, n, phi))
		memset(phi, 0, sizeof(phi));
	for (i = 0; i < THMQI_EXTEND_ORDER; i++)
		recent[i] = work[n - 1 - i];
	for (h = 0; h < extra; h++, end += step) {
		for (v = 0, i = THMQI_EXTEND_ORDER; i > 0; i--) {
			v += phi[i - 1] * recent[i - 1];
			recent[i - 1] = i > 1 ? recent[i - 2] : 0;
		}
		recent[0] = v;
		end[step] = *end + v + mean;
	}
}

void thmqi_extend(const double *x, uint32_t len, uint32_t extra, double *work, double *ret)
{
	uint32_t i;

	memcpy(ret + extra, x, len * sizeof(*x));
	if (len < 3 * THMQI_EXTEND_ORDER) { /* too few to tell: flat */
		for (i = 0; i < extra; i++) {
			ret[i] = x[0];
			ret[extra + len + i] = x[len - 1];
		}
		return;
	}
	go_on(ret + extra, len, 1, extra, work);
	go_on(ret + extra + len - 1, len, -1, extra, work);
}
