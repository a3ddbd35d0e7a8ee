/* SPDX-License-Identifier: Apache-2.0 */
/* solve.h - what arima.c and order.c share: small symmetric systems, the criterion, and models that are kept stable. */
#ifndef FORECAST_SOLVE_H
#define FORECAST_SOLVE_H

#include "forecast/forecast.h"

#define SOLVE_MAX (THMQI_AR_MAX + THMQI_MA_MAX + 1u)

/* A x = b for @count unknowns; A's lower triangle is used. Return: 0; -EINVAL it is not positive definite, or nearly so. */
int thmqi_solve(double a[SOLVE_MAX][SOLVE_MAX], const double *b, uint32_t count, double *ret_x);

/* The corrected criterion for @k parameters on @n values. */
double thmqi_aicc(double n, double sigma2, double k);
/* Roots moved outwards until the model is stationary and invertible. */
void thmqi_arima_shrink(struct thmqi_arima *m);

#endif
