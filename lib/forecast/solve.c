/* SPDX-License-Identifier: Apache-2.0 */
/* solve.c - Cholesky's method for a handful of unknowns. */
#include "solve.h"

int thmqi_solve(double a[SOLVE_MAX][SOLVE_MAX], const double *b, uint32_t count, double *ret_x)
{
	double l[SOLVE_MAX][SOLVE_MAX], z[SOLVE_MAX], sum;
	uint32_t i, j, k;

	for (i = 0; i < count; i++) {
		for (j = 0; j <= i; j++) {
			for (sum = a[i][j], k = 0; k < j; k++)
				sum -= l[i][k] * l[j][k];
			if (j < i) {
				l[i][j] = sum / l[j][j];
				continue;
			}
			if (!(sum > 1e-14 * a[i][i])) /* also where it is no number */
				return -EINVAL;
			l[i][i] = sqrt(sum);
		}
		for (sum = b[i], k = 0; k < i; k++)
			sum -= l[i][k] * z[k];
		z[i] = sum / l[i][i];
	}
	for (i = count; i > 0; i--) {
		for (sum = z[i - 1], k = i; k < count; k++)
			sum -= l[k][i - 1] * ret_x[k];
		ret_x[i - 1] = sum / l[i - 1][i - 1];
	}
	return 0;
}
