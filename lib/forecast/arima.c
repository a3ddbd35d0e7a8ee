/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arima.c - ARIMA(p,d,q) (Box and Jenkins, 1970) by conditional sum of squares: residuals before the p-th value are 0, the
 * variance is the sum over the n - p others by their number, as R's arima(method = "CSS") has it. The start is that of
 * Hannan and Rissanen (Biometrika 69, 1982), refined by Gauss-Newton with halved steps. Exact likelihood is not worth its
 * cost here: it changes the third digit.
 */
#include "solve.h"

#define ROUNDS 50u
#define HALVINGS 30u
#define ENOUGH 1e-12 /* thmqi_arima_work.enough, unless somebody is in a hurry */
#define LONG_AR 12u  /* of Hannan and Rissanen's first regression, at most */

void thmqi_arima_carve(struct thmqi_arima_work *a, struct thmqi_carver *c, uint32_t len_max)
{
	memset(a, 0, sizeof(*a));
	a->len_max = len_max;
	a->enough = ENOUGH;
	a->w = thmqi_carve(c, len_max, sizeof(double));
	a->e = thmqi_carve(c, len_max, sizeof(double));
	a->best = thmqi_carve(c, len_max, sizeof(double));
	a->grad = thmqi_carve(c, (size_t)THMQI_ARIMA_PARTS * len_max, sizeof(double));
}

/* The step-down recursion of Schur and Cohn: all partial correlations within (-1, 1). */
bool thmqi_ar_is_stable(const double *phi, uint32_t p)
{
	double a[THMQI_AR_MAX], b[THMQI_AR_MAX];
	uint32_t i, m;

	memcpy(a, phi, p * sizeof(*a));
	for (m = p; m > 0; m--) {
		double k = a[m - 1];

		if (!(fabs(k) < 1 - 1e-9))
			return false;
		for (i = 0; i + 1 < m; i++)
			b[i] = (a[i] + k * a[m - 2 - i]) / (1 - k * k);
		memcpy(a, b, (m - 1) * sizeof(*a));
	}
	return true;
}

static bool is_invertible(const double *theta, uint32_t q)
{
	double turned[THMQI_MA_MAX] = {0};
	uint32_t i;

	for (i = 0; i < q; i++)
		turned[i] = -theta[i];
	return thmqi_ar_is_stable(turned, q);
}

static bool is_admissible(const struct thmqi_arima *m)
{
	return thmqi_ar_is_stable(m->phi, m->p) && is_invertible(m->theta, m->q) &&
	       isfinite(m->mean);
}

double thmqi_aicc(double n, double sigma2, double k)
{
	return n * log(fmax(sigma2, 1e-300)) + 2 * k + 2 * k * (k + 1) / fmax(n - k - 1, 1e-3);
}

/* Towards zero until the model is admissible: its roots move outwards by the same factor. */
void thmqi_arima_shrink(struct thmqi_arima *m)
{
	uint32_t round, i;
	double by;

	for (round = 0; round < 60 && !thmqi_ar_is_stable(m->phi, m->p); round++)
		for (by = 1, i = 0; i < m->p; i++)
			m->phi[i] *= by *= 0.9;
	for (round = 0; round < 60 && !is_invertible(m->theta, m->q); round++)
		for (by = 1, i = 0; i < m->q; i++)
			m->theta[i] *= by *= 0.9;
}

static uint32_t difference(struct thmqi_arima_work *a, const double *y, uint32_t len, uint32_t d)
{
	uint32_t i;

	memcpy(a->w, y, len * sizeof(*y));
	for (; d > 0; d--)
		for (len--, i = 0; i < len; i++)
			a->w[i] = a->w[i + 1] - a->w[i];
	return len;
}

/* ------------------------------------------------------------------- start */

/* Regression of w - mean on its own lags and, with q, on lags of the residuals a->e, over from … len - 1. */
static int regress(const struct thmqi_arima_work *a, uint32_t len, uint32_t from, uint32_t p,
		   uint32_t q, double mean, double *ret_parts)
{
	double m[SOLVE_MAX][SOLVE_MAX] = {{0}}, b[SOLVE_MAX] = {0}, row[SOLVE_MAX];
	uint32_t t, i, j;

	for (t = from; t < len; t++) {
		for (i = 0; i < p; i++)
			row[i] = a->w[t - 1 - i] - mean;
		for (i = 0; i < q; i++)
			row[p + i] = a->e[t - 1 - i];
		for (i = 0; i < p + q; i++) {
			b[i] += row[i] * (a->w[t] - mean);
			for (j = 0; j <= i; j++)
				m[i][j] += row[i] * row[j];
		}
	}
	return thmqi_solve(m, b, p + q, ret_parts);
}

static void hannan_rissanen(struct thmqi_arima_work *a, uint32_t len, struct thmqi_arima *m)
{
	double parts[SOLVE_MAX];
	uint32_t order = m->p + m->q + 4, from, t, i;

	if (!m->q) {
		if (regress(a, len, m->p, m->p, 0, m->mean, parts) == 0)
			memcpy(m->phi, parts, m->p * sizeof(double));
		return;
	}
	order = THMQI_MIN(THMQI_MIN(order, LONG_AR), len / 4);
	if (regress(a, len, order, order, 0, m->mean, parts))
		return; /* all zero is a start, too */
	for (t = 0; t < len; t++) {
		a->e[t] = t < order ? 0 : a->w[t] - m->mean;
		for (i = 0; t >= order && i < order; i++)
			a->e[t] -= parts[i] * (a->w[t - 1 - i] - m->mean);
	}
	from = THMQI_MAX(order + m->q, m->p);
	if (from + m->p + m->q + 2 > len || regress(a, len, from, m->p, m->q, m->mean, parts))
		return;
	memcpy(m->phi, parts, m->p * sizeof(double));
	memcpy(m->theta, parts + m->p, m->q * sizeof(double));
}

/* -------------------------------------------------------------- refinement */

/* Residuals into @e. Return: their sum of squares. */
static double residuals(const struct thmqi_arima_work *a, const struct thmqi_arima *m, uint32_t len,
			double *e)
{
	double sum = 0;
	uint32_t t, i;

	for (t = 0; t < m->p; t++)
		e[t] = 0;
	for (; t < len; t++) {
		double r = a->w[t] - m->mean;

		for (i = 0; i < m->p; i++)
			r -= m->phi[i] * (a->w[t - 1 - i] - m->mean);
		for (i = 0; i < m->q && i < t; i++)
			r -= m->theta[i] * e[t - 1 - i];
		e[t] = r;
		sum += r * r;
	}
	return sum;
}

/* d e / d parameter, by the recursion that the residuals themselves follow. Parameters: phi, theta, mean. */
static void gradients(struct thmqi_arima_work *a, const struct thmqi_arima *m, uint32_t len,
		      uint32_t parts)
{
	double mean_step = -1;
	uint32_t t, i, k;

	for (i = 0; i < m->p; i++)
		mean_step += m->phi[i];
	for (k = 0; k < parts; k++) {
		double *g = a->grad + (size_t)k * a->len_max;

		for (t = 0; t < THMQI_MIN(m->p, len); t++)
			g[t] = 0;
		for (; t < len; t++) {
			double v;

			if (k < m->p)
				v = -(a->w[t - 1 - k] - m->mean);
			else if (k < m->p + m->q)
				v = t > k - m->p ? -a->e[t - 1 - (k - m->p)] : 0;
			else
				v = mean_step;
			for (i = 0; i < m->q && i < t; i++)
				v -= m->theta[i] * g[t - 1 - i];
			g[t] = v;
		}
	}
}

static struct thmqi_arima moved(const struct thmqi_arima *m, const double *step, double share)
{
	struct thmqi_arima to = *m;
	uint32_t i;

	for (i = 0; i < m->p; i++)
		to.phi[i] += share * step[i];
	for (i = 0; i < m->q; i++)
		to.theta[i] += share * step[m->p + i];
	if (m->has_mean)
		to.mean += share * step[m->p + m->q];
	return to;
}

/* One step of Gauss and Newton. Return: it was worth it. */
static bool improve(struct thmqi_arima_work *a, struct thmqi_arima *m, uint32_t len, double *sum)
{
	double n[SOLVE_MAX][SOLVE_MAX] = {{0}}, b[SOLVE_MAX] = {0}, step[SOLVE_MAX], share, better,
	       *swap;
	double promise = 0;
	uint32_t parts = m->p + m->q + m->has_mean, i, j, t, round;
	struct thmqi_arima to;

	gradients(a, m, len, parts);
	for (i = 0; i < parts; i++) {
		const double *gi = a->grad + (size_t)i * a->len_max;

		for (t = m->p; t < len; t++)
			b[i] -= gi[t] * a->e[t];
		for (j = 0; j <= i; j++) {
			const double *gj = a->grad + (size_t)j * a->len_max;

			for (t = m->p; t < len; t++)
				n[i][j] += gi[t] * gj[t];
		}
	}
	if (thmqi_solve(n, b, parts, step))
		return false;
	for (i = 0; i < parts; i++)
		promise += step[i] * b[i];
	if (!(promise > a->enough * *sum))
		return false;
	for (round = 0, share = 1; round < HALVINGS; round++, share *= 0.5) {
		to = moved(m, step, share);
		if (!is_admissible(&to))
			continue;
		better = residuals(a, &to, len, a->best);
		if (better > *sum || !isfinite(better))
			continue;
		*sum = better;
		*m = to;
		swap = a->e;
		a->e = a->best;
		a->best = swap;
		return true;
	}
	return false;
}

int thmqi_arima_fit(struct thmqi_arima_work *a, const double *y, uint32_t len, uint32_t p,
		    uint32_t d, uint32_t q, bool has_mean, struct thmqi_arima *ret_model)
{
	struct thmqi_arima m = {.p = p, .d = d, .q = q, .has_mean = has_mean};
	uint32_t k = p + q + has_mean, n;
	double sum;

	if (p > THMQI_AR_MAX || q > THMQI_MA_MAX || d > THMQI_DIFF_MAX || len > a->len_max ||
	    len < d + p + k + 3)
		return -EINVAL;
	n = difference(a, y, len, d);
	if (thmqi_deviation(a->w, n) <= 1e-12 * fabs(thmqi_mean(a->w, n)))
		return -EINVAL;
	a->fits++;
	m.mean = has_mean ? thmqi_mean(a->w, n) : 0;
	hannan_rissanen(a, n, &m);
	thmqi_arima_shrink(&m);
	sum = residuals(a, &m, n, a->e);
	while (k && m.iterations < ROUNDS && improve(a, &m, n, &sum))
		m.iterations++;
	if (!isfinite(sum) || n < p + k + 3)
		return -EINVAL;
	m.sigma2 = sum / (n - p);
	m.aicc = thmqi_aicc(n - p, m.sigma2, k + 1); /* the variance is a parameter, too */
	*ret_model = m;
	return 0;
}

/* -------------------------------------------------------------- prediction */

void thmqi_arima_predict(struct thmqi_arima_work *a, const struct thmqi_arima *m, const double *y,
			 uint32_t len, uint32_t count, double *ret_values)
{
	double last[THMQI_DIFF_MAX + 1] = {0}, level[THMQI_DIFF_MAX];
	uint32_t n, i, j, h;

	if (len <= m->d + m->p) {
		for (h = 0; h < count; h++)
			ret_values[h] = len ? y[len - 1] : 0;
		return;
	}
	n = difference(a, y, len, m->d);
	/* the last value of each order of differences, by which they are undone */
	for (i = 0; i < m->d; i++) {
		for (j = 0; j <= i; j++)
			level[j] = y[len - 1 - j];
		for (h = i; h > 0; h--)
			for (j = 0; j < h; j++)
				level[j] -= level[j + 1];
		last[i] = level[0];
	}
	residuals(a, m, n, a->e);
	for (h = 0; h < count; h++) {
		double v = m->mean;

		for (i = 0; i < m->p;
		     i++) /* values behind the end are forecasts, kept in ret_values until they are summed */
			v += m->phi[i] * ((i < h ? a->best[(h - 1 - i) % THMQI_AR_MAX]
						 : a->w[n - 1 - (i - h)]) -
					  m->mean);
		for (i = h; i < m->q && i - h < n; i++)
			v += m->theta[i] * a->e[n - 1 - (i - h)];
		a->best[h % THMQI_AR_MAX] = v;
		for (i = m->d; i > 0; i--)
			v = last[i - 1] += v;
		ret_values[h] = v;
	}
}
