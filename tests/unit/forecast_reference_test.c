/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast_reference_test.c - the decompositions and models against what other programs make of the same input:
 * tests/unit/forecast/README.md says which.
 */
#include "forecast/rig.h"

TestSuite(forecast_reference, .timeout = 60);

#define LEN 256u
#define MODES 16u

static const char *const signals[] = {"twotone", "gapped", "chirp", "trend",
				      "isp",     "wc98",   "quant"};

static void compare(const char *what, const double *modes, uint32_t count, uint32_t stride,
		    const struct record *expected, double sd)
{
	uint32_t k;

	cr_assert_eq(count, expected->rows, "%s: %u modes, not %u", what, count, expected->rows);
	for (k = 0; k < count; k++) {
		double most = rig_largest(modes + (size_t)k * stride,
					  expected->values + (size_t)k * LEN, LEN);

		cr_assert(most <= 1e-9 * sd, "%s: mode %u differs by %g", what, k + 1, most / sd);
	}
}

Test(forecast_reference, emd_is_that_of_emd_m)
{
	static double rows[MODES * LEN];
	struct thmqi_emd e;
	char name[64];

	RIG_CARVE(thmqi_emd_carve(&e, &c, LEN));
	for (size_t s = 0; s < THMQI_ARRAY_COUNT(signals); s++) {
		struct record x, expected;

		snprintf(name, sizeof(name), "x_%s", signals[s]);
		x = rig_record(name);
		snprintf(name, sizeof(name), "emd_%s", signals[s]);
		expected = rig_record(name);
		compare(name, rows, thmqi_emd(&e, x.values, LEN, THMQI_SIFT_MAX, MODES, LEN, rows),
			LEN, &expected, thmqi_deviation(x.values, LEN));
	}
}

Test(forecast_reference, iceemdan_is_that_of_ceemdan_m_in_both_conventions)
{
	struct record noise = rig_record("noise_256x20");
	struct thmqi_iceemdan d;
	char name[64];

	cr_assert(noise.rows == 20 && noise.columns == LEN);
	RIG_CARVE(thmqi_iceemdan_carve(&d, &c, LEN, 20, MODES));
	thmqi_iceemdan_noise(&d, noise.values);
	for (size_t s = 0; s < 2 * THMQI_ARRAY_COUNT(signals); s++) {
		struct record x, expected;

		d.snr = s % 2 ? THMQI_SNR_LEVEL : THMQI_SNR_RISING;
		snprintf(name, sizeof(name), "x_%s", signals[s / 2]);
		x = rig_record(name);
		snprintf(name, sizeof(name), "iceemdan_%s_snr%u", signals[s / 2], d.snr);
		expected = rig_record(name);
		cr_assert_eq(thmqi_iceemdan_begin(&d, x.values, LEN), 0);
		while (thmqi_iceemdan_step(&d))
			;
		compare(name, d.modes, d.mode_count, LEN, &expected,
			thmqi_deviation(x.values, LEN));
	}
}

/* ------------------------------------------------------------------- ARIMA */

/* One line of arima_expected.csv. */
struct expected {
	char series[32];
	uint32_t p, d, q, coefficient_count, differences;
	double sigma2, coefficients[8], forecasts[5], kpss;
};

static uint32_t numbers(const char *text, double *values, uint32_t max)
{
	uint32_t n = 0;
	char *end;

	while (n < max) {
		values[n++] = strtod(text, &end);
		if (*end != ';')
			break;
		text = end + 1;
	}
	return n;
}

/* The CSS lines. */
static uint32_t read_expected(struct expected *all, uint32_t max)
{
	char line[1000], method[8], coefficients[400], forecasts[400];
	FILE *f = fopen(FORECAST_DATA "/arima_expected.csv", "r");
	uint32_t n = 0;

	cr_assert(f);
	while (n < max && fgets(line, sizeof(line), f)) {
		struct expected *e = &all[n];

		if (sscanf(line, "%31[^,],%7[^,],%u,%u,%u,%lf,%*u,%399[^,],%399[^,],%lf,%u",
			   e->series, method, &e->p, &e->d, &e->q, &e->sigma2, coefficients,
			   forecasts, &e->kpss, &e->differences) != 10 ||
		    strcmp(method, "CSS") != 0)
			continue;
		e->coefficient_count = numbers(coefficients, e->coefficients, 8);
		cr_assert_eq(numbers(forecasts, e->forecasts, 5), 5);
		n++;
	}
	fclose(f);
	cr_assert_eq(n, 10);
	return n;
}

static struct record series_of(const struct expected *e)
{
	char name[40] = "y_";

	memcpy(name + 2, e->series, sizeof(e->series));
	return rig_record(name);
}

static void compare_fit(const struct expected *e, const struct thmqi_arima *m)
{
	/* flat where phi and theta nearly cancel: R stops short of the least sum, by 1e-10 of it */
	double tolerance = !strcmp(e->series, "elb")       ? 5e-4
			   : !strncmp(e->series, "isp", 3) ? 2e-5
							   : 1e-5;
	uint32_t i, at = 0;

	cr_assert(fabs(m->sigma2 / e->sigma2 - 1) < 1e-8, "%s: sigma2 %.12g, not %.12g", e->series,
		  m->sigma2, e->sigma2);
	cr_assert_eq(e->coefficient_count, m->p + m->q + m->has_mean);
	for (i = 0; i < m->p; i++, at++)
		cr_assert(fabs(m->phi[i] - e->coefficients[at]) < tolerance,
			  "%s: phi %u is %.9g, not %.9g", e->series, i + 1, m->phi[i],
			  e->coefficients[at]);
	for (i = 0; i < m->q; i++, at++)
		cr_assert(fabs(m->theta[i] - e->coefficients[at]) < tolerance,
			  "%s: theta %u is %.9g, not %.9g", e->series, i + 1, m->theta[i],
			  e->coefficients[at]);
	if (m->has_mean)
		cr_assert(fabs(m->mean - e->coefficients[at]) < tolerance * fmax(1, fabs(m->mean)),
			  "%s: mean %.9g, not %.9g", e->series, m->mean, e->coefficients[at]);
}

/* Hurvich and Tsai's criterion, of the fit's own variance: what is fitted is held against R above. */
static void check_aicc(const struct expected *e, const struct thmqi_arima *m, double n)
{
	double k = e->coefficient_count + 1;

	cr_assert_float_eq(m->aicc, n * log(m->sigma2) + 2 * k * n / (n - k - 1), 1e-9 * fabs(m->aicc), "%s", e->series);
}

Test(forecast_reference, arima_is_that_of_r_by_css)
{
	struct expected all[16];
	struct thmqi_arima_work a;
	uint32_t count = read_expected(all, 16), iterations = 0;

	RIG_CARVE(thmqi_arima_carve(&a, &c, 300));
	for (uint32_t i = 0; i < count; i++) {
		struct expected *e = &all[i];
		struct record y = series_of(e);
		struct thmqi_arima m;
		double next[5], size = 0;

		cr_assert_eq(
			thmqi_arima_fit(&a, y.values, y.columns, e->p, e->d, e->q, e->d == 0, &m),
			0);
		cr_assert_lt(m.iterations, 30, "%s: %u iterations", e->series, m.iterations);
		iterations += m.iterations;
		check_aicc(e, &m, y.columns - e->d - e->p);
		compare_fit(e, &m);
		thmqi_arima_predict(&a, &m, y.values, y.columns, 5, next);
		for (uint32_t t = 0; t < y.columns; t++)
			size += fabs(y.values[t]) / y.columns;
		cr_assert(rig_largest(next, e->forecasts, 5) <= 2e-5 * size,
			  "%s: forecasts are %g off", e->series,
			  rig_largest(next, e->forecasts, 5) / size);
	}
	/* 55; from a start at zero 73 */
	cr_assert_leq(iterations, 62, "%u: a start that is no start", iterations);
}

Test(forecast_reference, kpss_and_the_number_of_differences_are_those_of_r)
{
	struct expected all[16];
	uint32_t count = read_expected(all, 16);
	double work[300];

	for (uint32_t i = 0; i < count; i++) {
		struct record y = series_of(&all[i]);
		uint32_t lags = (uint32_t)(4 * pow(y.columns / 100.0, 0.25)), d;
		double k = thmqi_kpss(y.values, y.columns, lags);

		cr_assert(fabs(k - all[i].kpss) < 1e-7, "%s: %.9g, not %.9g", all[i].series, k,
			  all[i].kpss);
		d = thmqi_kpss_differences(y.values, y.columns, work);
		cr_assert_eq(d, all[i].differences, "%s: %u", all[i].series, d);
	}
}

/* Near ties are decided either way, by CSS or by likelihood: only series that leave no doubt. */
Test(forecast_reference, clear_cut_orders_are_found)
{
	static const struct {
		const char *name;
		uint32_t p, d, q;
	} clear[] = {
		{"y_ar2", 2, 0, 0}, {"y_arma11", 1, 0, 1}, {"y_ma1", 0, 0, 1}, {"y_ari", 1, 1, 0}};
	struct thmqi_arima_work a;

	RIG_CARVE(thmqi_arima_carve(&a, &c, 300));
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(clear); i++) {
		struct record y = rig_record(clear[i].name);
		struct thmqi_arima m;

		cr_assert_eq(thmqi_arima_choose(&a, y.values, y.columns, 3, 2, &m), 0);
		cr_expect(m.p == clear[i].p && m.d == clear[i].d && m.q == clear[i].q,
			  "%s: (%u,%u,%u)", clear[i].name, m.p, m.d, m.q);
		cr_assert_eq(thmqi_arima_choose(&a, y.values, y.columns, 5, 0, &m), 0);
		cr_expect(m.d == clear[i].d && m.q == 0 && (clear[i].q || m.p == clear[i].p),
			  "%s: AR(%u,%u)", clear[i].name, m.p, m.d);
	}
}
