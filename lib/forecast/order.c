/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - which ARIMA: differences by KPSS, p and q by the corrected information criterion of Akaike (Hurvich and Tsai,
 * Biometrika 76, 1989). Without a moving-average part one pass over the series makes the products from which all orders
 * are solved.
 */
#include "solve.h"

#define HASTE 1e-4 /* thmqi_arima_work.enough of a search: it moves a criterion by 0.01 */

/* Without differences a series has a mean; with one a drift would be a forecast of its own, which few windows carry. */
static bool has_mean(uint32_t d)
{
	return d == 0;
}

/* All orders up to @p_max over the same values, so that their criteria compare. @w is differenced. */
static int choose_ar(const double *w, uint32_t n, uint32_t p_max, struct thmqi_arima *m)
{
	double products[SOLVE_MAX][SOLVE_MAX] = {{0}}, a[SOLVE_MAX][SOLVE_MAX], b[SOLVE_MAX],
	       phi[SOLVE_MAX];
	double used = n - p_max, best = INFINITY, sum, c;
	uint32_t t, i, j, p;

	for (i = 0; i <= p_max; i++) /* products[i][j]: of the values i and j back */
		for (j = 0; j <= i; j++) {
			for (sum = 0, t = p_max; t < n; t++)
				sum += (w[t - i] - m->mean) * (w[t - j] - m->mean);
			products[i][j] = sum;
		}
	for (p = 0; p <= p_max; p++) {
		sum = products[0][0];
		for (i = 0; i < p; i++) {
			b[i] = products[i + 1][0];
			for (j = 0; j <= i; j++)
				a[i][j] = products[i + 1][j + 1];
		}
		if (p && thmqi_solve(a, b, p, phi))
			break;
		for (i = 0; i < p; i++)
			sum -= phi[i] * b[i];
		c = thmqi_aicc(used, fmax(sum, 0) / used, p + m->has_mean + 1);
		if (!(c < best))
			continue;
		best = c;
		m->p = p;
		m->sigma2 = fmax(sum, 0) / used;
		m->aicc = c;
		memcpy(m->phi, phi, p * sizeof(double));
	}
	return isfinite(best) ? 0 : -EINVAL;
}

/* Its criterion over the same values for all orders: those that p_max leaves. a->e has its residuals. */
static double common_aicc(const struct thmqi_arima_work *a, const struct thmqi_arima *m, uint32_t n,
			  uint32_t p_max)
{
	double sum = 0;
	uint32_t t;

	for (t = p_max; t < n; t++)
		sum += a->e[t] * a->e[t];
	return thmqi_aicc(n - p_max, sum / (n - p_max), m->p + m->q + m->has_mean + 1);
}

/* Nothing varies after differencing: a constant, a line or a parabola goes on as it is. */
static bool is_polynomial(const double *w, uint32_t n, const double *y, uint32_t len)
{
	return thmqi_deviation(w, n) <= 1e-12 * (fabs(thmqi_mean(w, n)) + thmqi_deviation(y, len));
}

void thmqi_arima_begin(struct thmqi_arima_work *a, struct thmqi_arima_search *s, const double *y,
		       uint32_t len, uint32_t p_max, uint32_t q_max)
{
	struct thmqi_arima *m = &s->best;
	uint32_t n;

	memset(s, 0, sizeof(*s));
	s->y = y;
	s->len = len;
	s->p_max = p_max;
	s->q_max = q_max;
	m->aicc = INFINITY;
	s->ended = true;
	if (len > a->len_max || p_max > THMQI_AR_MAX || q_max > THMQI_MA_MAX ||
	    len < THMQI_DIFF_MAX + 2 * p_max + q_max + 8)
		return;
	a->fits++;
	s->d = m->d = thmqi_kpss_differences(y, len, a->w);
	n = len - s->d;
	m->has_mean = has_mean(s->d);
	m->mean = m->has_mean ? thmqi_mean(a->w, n) : 0;
	if (is_polynomial(a->w, n, y, len)) {
		m->has_mean = true;
		m->mean = thmqi_mean(a->w, n);
		s->found = true;
		return;
	}
	if (q_max) {
		s->ended = false; /* the steps do it */
		return;
	}
	if (choose_ar(a->w, n, p_max, m))
		return;
	thmqi_arima_shrink(m);
	s->found = true;
}

bool thmqi_arima_step(struct thmqi_arima_work *a, struct thmqi_arima_search *s)
{
	double enough = a->enough;
	struct thmqi_arima m;

	if (s->ended)
		return false;
	a->enough = HASTE;
	if (thmqi_arima_fit(a, s->y, s->len, s->p, s->d, s->q, has_mean(s->d), &m) == 0) {
		m.aicc = common_aicc(a, &m, s->len - s->d, s->p_max);
		if (!s->found || m.aicc < s->best.aicc)
			s->best = m;
		s->found = true;
	}
	a->enough = enough;
	if (++s->q > s->q_max) {
		s->q = 0;
		s->ended = ++s->p > s->p_max;
	}
	return !s->ended;
}

int thmqi_arima_choose(struct thmqi_arima_work *a, const double *y, uint32_t len, uint32_t p_max,
		       uint32_t q_max, struct thmqi_arima *ret_model)
{
	struct thmqi_arima_search s;

	thmqi_arima_begin(a, &s, y, len, p_max, q_max);
	while (thmqi_arima_step(a, &s))
		;
	if (!s.found)
		return -EINVAL;
	*ret_model = s.best;
	return 0;
}
