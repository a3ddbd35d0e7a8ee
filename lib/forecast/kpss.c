/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kpss.c - is a series stationary about a level? Kwiatkowski, Phillips, Schmidt and Shin, J. Econometrics 54, 1992, with
 * Bartlett weights; differenced as long as it is not.
 */
#include "forecast/forecast.h"

#define CRITICAL 0.463 /* at 5 %, table 1 there */

double thmqi_kpss(const double *x, uint32_t len, uint32_t lags)
{
	double mean = thmqi_mean(x, len), walk = 0, walks = 0, variance = 0, lagged;
	uint32_t i, j;

	for (i = 0; i < len; i++) {
		walk += x[i] - mean;
		walks += walk * walk;
		variance += (x[i] - mean) * (x[i] - mean);
	}
	if (variance <= 1e-24 * len * mean * mean) /* what rounding leaves of a constant */
		return 0;
	for (j = 1; j <= lags && j < len; j++) {
		for (lagged = 0, i = j; i < len; i++)
			lagged += (x[i] - mean) * (x[i - j] - mean);
		variance += 2 * (1 - (double)j / (lags + 1)) * lagged;
	}
	return variance > 0 ? walks / len / variance : 0;
}

uint32_t thmqi_kpss_differences(const double *x, uint32_t len, double *work)
{
	uint32_t d, i;

	memcpy(work, x, len * sizeof(*x));
	for (d = 0; d < THMQI_DIFF_MAX && len > 2; d++) {
		if (thmqi_kpss(work, len, (uint32_t)(3 * sqrt(len) / 13)) <= CRITICAL)
			break;
		len--;
		for (i = 0; i < len; i++)
			work[i] = work[i + 1] - work[i];
	}
	return d;
}
