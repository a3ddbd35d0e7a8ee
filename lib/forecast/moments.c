/* SPDX-License-Identifier: Apache-2.0 */
/* moments.c - mean and deviation of a few values: two passes, since the values may lie far from zero. */
#include "forecast/forecast.h"

double thmqi_mean(const double *x, uint32_t len)
{
	double sum = 0;
	uint32_t i;

	for (i = 0; i < len; i++)
		sum += x[i];
	return len ? sum / len : 0;
}

double thmqi_deviation(const double *x, uint32_t len)
{
	double mean = thmqi_mean(x, len), sum = 0;
	uint32_t i;

	for (i = 0; i < len; i++)
		sum += (x[i] - mean) * (x[i] - mean);
	return len > 1 ? sqrt(sum / (len - 1)) : 0;
}
