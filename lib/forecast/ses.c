/* SPDX-License-Identifier: Apache-2.0 */
/* ses.c - simple exponential smoothing: a level that follows the series by a share alpha of each surprise. */
#include "forecast/forecast.h"

#define ROUNDS 14u /* of the golden section: alpha to 0.1 % */

static double smooth(const double *x, uint32_t len, double alpha, double *ret_level)
{
	double level = x[0], sum = 0;
	uint32_t i;

	for (i = 1; i < len; i++) {
		double error = x[i] - level;

		sum += error * error;
		level += alpha * error;
	}
	*ret_level = level;
	return sum;
}

double thmqi_ses_fit(const double *x, uint32_t len)
{
	const double golden = 0.6180339887498949;
	double low = 0.01, high = 1, a = high - golden * (high - low),
	       b = low + golden * (high - low);
	double level, error_a, error_b;
	uint32_t i;

	if (len < 3)
		return 1;
	error_a = smooth(x, len, a, &level);
	error_b = smooth(x, len, b, &level);
	for (i = 0; i < ROUNDS; i++) {
		if (error_a <= error_b) {
			high = b;
			b = a;
			error_b = error_a;
			a = high - golden * (high - low);
			error_a = smooth(x, len, a, &level);
		} else {
			low = a;
			a = b;
			error_a = error_b;
			b = low + golden * (high - low);
			error_b = smooth(x, len, b, &level);
		}
	}
	return smooth(x, len, 1, &level) <= THMQI_MIN(error_a, error_b) ? 1 : (low + high) / 2;
}

double thmqi_ses_level(const double *x, uint32_t len, double alpha)
{
	double level = 0;

	if (len)
		smooth(x, len, alpha, &level);
	return level;
}
