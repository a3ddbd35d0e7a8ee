/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast_property_test.c - what holds for every signal: modes add up to it, scale and turn with it, degenerate ones do no
 * harm; and the table of the endpoint effect: what the window's extension is good for.
 */
#include "forecast/rig.h"

TestSuite(forecast_property, .timeout = 60);

#define LEN 200u
#define MODES 12u

static struct thmqi_iceemdan d;
static struct thmqi_emd e;

/* Ensemble of 8 for signals of up to LEN values. */
static void open_both(uint32_t snr)
{
	RIG_CARVE(thmqi_iceemdan_carve(&d, &c, LEN, 8, MODES));
	RIG_CARVE(thmqi_emd_carve(&e, &c, LEN));
	d.snr = snr;
	thmqi_iceemdan_seed(&d, 7);
}

static void decompose(const double *x, uint32_t len)
{
	cr_assert_eq(thmqi_iceemdan_begin(&d, x, len), 0);
	while (thmqi_iceemdan_step(&d))
		;
	cr_assert(d.mode_count >= 1 && d.mode_count <= MODES);
}

/* Signals of all kinds: @kind 0 … KINDS - 1. */
#define KINDS 12u
static const char *make(uint32_t kind, double *x, uint32_t len)
{
	struct thmqi_prng p;
	uint32_t i;

	thmqi_prng_seed(&p, kind);
	for (i = 0; i < len; i++) {
		double t = i;

		switch (kind) {
		case 0:
			x[i] = 0;
			break;
		case 1:
			x[i] = 5;
			break;
		case 2:
			x[i] = 3 * t - 7;
			break;
		case 3:
			x[i] = exp(t / 30);
			break;
		case 4:
			x[i] = i == len / 2;
			break;
		case 5:
			x[i] = i % 2 ? -1 : 1;
			break;
		case 6:
			x[i] = floor(4 * sin(t / 3));
			break;
		case 7:
			x[i] = rig_normal(&p);
			break;
		case 8:
			x[i] = sin(t) + 0.5 * sin(t / 7) + t / 50;
			break;
		case 9:
			x[i] = i < len / 2 ? 0 : 1;
			break;
		case 10:
			x[i] = rig_uniform(&p) < 0.1 ? floor(rig_uniform(&p) * 9) : 0;
			break;
		default:
			x[i] = 1e6 + 1e-3 * rig_normal(&p);
			break;
		}
	}
	static const char *const names[KINDS] = {
		"zero",     "constant", "ramp",  "monotonic", "spike",  "alternating",
		"plateaus", "noise",    "tones", "step",      "sparse", "far from zero"};
	return names[kind];
}

static void check_sum(const char *what, const double *rows, uint32_t count, uint32_t stride,
		      const double *x, uint32_t len)
{
	double size = 0;
	uint32_t i, k;

	for (i = 0; i < len; i++)
		size = fmax(size, fabs(x[i]));
	for (i = 0; i < len; i++) {
		double sum = 0;

		for (k = 0; k < count; k++)
			sum += rows[(size_t)k * stride + i];
		cr_assert(fabs(sum - x[i]) <= 1e-12 * size, "%s, %u values: at %u by %g", what, len,
			  i, sum - x[i]);
	}
}

Test(forecast_property, modes_add_up_to_the_signal_whatever_it_is)
{
	static double x[LEN], rows[MODES * LEN];
	uint32_t kind, len, snr;

	for (snr = THMQI_SNR_RISING; snr <= THMQI_SNR_LEVEL; snr++) {
		open_both(snr);
		for (kind = 0; kind < KINDS; kind++)
			for (len = 1; len <= LEN; len += len < 9 ? 1 : 37) {
				const char *name = make(kind, x, len);
				uint32_t n =
					thmqi_emd(&e, x, len, THMQI_SIFT_MAX, MODES, LEN, rows);

				cr_assert(n >= 1 && n <= MODES);
				check_sum(name, rows, n, LEN, x, len);
				decompose(x, len);
				check_sum(name, d.modes, d.mode_count, LEN, x, len);
			}
	}
}

Test(forecast_property, modes_of_emd_have_as_many_extrema_as_zeros)
{
	static double x[LEN], rows[MODES * LEN];
	uint32_t kind, k, n;

	open_both(THMQI_SNR_LEVEL);
	for (kind = 7; kind < 9; kind++) {
		make(kind, x, LEN);
		n = thmqi_emd(&e, x, LEN, THMQI_SIFT_MAX, MODES, LEN, rows);
		cr_assert_gt(n, 1);
		for (k = 0; k + 1 < n; k++) {
			thmqi_emd_extrema(&e, rows + (size_t)k * LEN, LEN);
			cr_assert_leq(abs((int)e.zeros - (int)(e.maxima_count + e.minima_count)),
				      1);
		}
	}
}

/* All that is decided is decided by ratios: a power of two changes no bit of the mantissa. */
Test(forecast_property, scale_and_shift_go_through)
{
	static double x[LEN], y[LEN], kept[MODES * LEN];
	uint32_t i, k, count;

	open_both(THMQI_SNR_LEVEL);
	make(8, x, LEN);
	decompose(x, LEN);
	count = d.mode_count;
	memcpy(kept, d.modes, sizeof(kept));
	for (i = 0; i < LEN; i++)
		y[i] = -1024 * x[i];
	decompose(y, LEN);
	/* the noise is not turned over with the signal: only the scale is exact */
	for (i = 0; i < LEN; i++)
		y[i] = 1024 * x[i];
	decompose(y, LEN);
	cr_assert_eq(d.mode_count, count);
	for (k = 0; k < count; k++)
		for (i = 0; i < LEN; i++)
			cr_assert_float_eq(d.modes[k * LEN + i], 1024 * kept[k * LEN + i],
					   1e-9 * 1024);
	for (i = 0; i < LEN; i++)
		y[i] = x[i] + 100;
	decompose(y, LEN);
	cr_assert_eq(d.mode_count, count);
	for (k = 0; k < count; k++)
		for (i = 0; i < LEN; i++)
			cr_assert_float_eq(d.modes[k * LEN + i] - (k + 1 == count ? 100 : 0),
					   kept[k * LEN + i], 1e-7);
}

/* The left boundary is the mirror image of the right one. */
Test(forecast_property, time_reversed_is_the_result_reversed)
{
	static double x[LEN], y[LEN], rows[MODES * LEN], turned[MODES * LEN];
	uint32_t kind, i, k, n;

	open_both(THMQI_SNR_LEVEL);
	for (kind = 7; kind < 9; kind++) {
		make(kind, x, LEN);
		for (i = 0; i < LEN; i++)
			y[i] = x[LEN - 1 - i];
		n = thmqi_emd(&e, x, LEN, 100, MODES, LEN, rows);
		cr_assert_eq(thmqi_emd(&e, y, LEN, 100, MODES, LEN, turned), n);
		for (k = 0; k < n; k++)
			for (i = 0; i < LEN; i++)
				cr_assert_float_eq(rows[k * LEN + i], turned[k * LEN + LEN - 1 - i],
						   1e-9);
	}
}

/* With its noise turned as the signal is, the ensemble has the same symmetries: nothing in it looks one way. */
Test(forecast_property, the_ensemble_turns_with_its_noise)
{
	static double x[LEN], y[LEN], noise[8 * LEN], turned[8 * LEN], kept[MODES * LEN];
	struct thmqi_prng p;
	uint32_t i, k, count;

	thmqi_prng_seed(&p, 5);
	open_both(THMQI_SNR_LEVEL);
	make(8, x, LEN);
	for (i = 0; i < 8 * LEN; i++)
		noise[i] = rig_normal(&p);
	thmqi_iceemdan_noise(&d, noise);
	decompose(x, LEN);
	count = d.mode_count;
	memcpy(kept, d.modes, sizeof(kept));
	/* upside down */
	for (i = 0; i < 8 * LEN; i++)
		turned[i] = -noise[i];
	for (i = 0; i < LEN; i++)
		y[i] = -x[i];
	thmqi_iceemdan_noise(&d, turned);
	decompose(y, LEN);
	cr_assert_eq(d.mode_count, count);
	for (i = 0; i < count * LEN; i++)
		cr_assert_float_eq(d.modes[i], -kept[i], 1e-9);
	/* backwards */
	for (k = 0; k < 8; k++)
		for (i = 0; i < LEN; i++)
			turned[k * LEN + i] = noise[k * LEN + LEN - 1 - i];
	for (i = 0; i < LEN; i++)
		y[i] = x[LEN - 1 - i];
	thmqi_iceemdan_noise(&d, turned);
	decompose(y, LEN);
	cr_assert_eq(d.mode_count, count);
	for (k = 0; k < count; k++)
		for (i = 0; i < LEN; i++)
			cr_assert_float_eq(d.modes[k * LEN + i], kept[k * LEN + LEN - 1 - i], 1e-6);
}

Test(forecast_property, one_seed_is_one_result_to_the_bit)
{
	static double x[LEN], first[MODES * LEN];
	uint32_t count;

	make(10, x, LEN);
	open_both(THMQI_SNR_LEVEL);
	decompose(x, LEN);
	count = d.mode_count;
	memcpy(first, d.modes, sizeof(first));
	open_both(THMQI_SNR_LEVEL);
	decompose(x, LEN);
	cr_assert_eq(d.mode_count, count);
	cr_assert_eq(memcmp(first, d.modes, count * LEN * sizeof(double)), 0);
	thmqi_iceemdan_seed(&d, 8);
	decompose(x, LEN);
	cr_assert_neq(memcmp(first, d.modes, LEN * sizeof(double)), 0,
		      "the noise has no part in it");
}

Test(forecast_property, plateaus_are_one_extremum_and_ends_are_none)
{
	static const double x[] = {2, 2, 1, 3, 3, 0, 0, 0, 0, 5, 5};

	open_both(THMQI_SNR_LEVEL);
	thmqi_emd_extrema(&e, x, THMQI_ARRAY_COUNT(x));
	cr_assert_eq(e.maxima_count, 1);
	cr_assert_eq(e.maxima[0], 4); /* the later of the two in the middle */
	cr_assert_eq(e.minima_count, 2);
	cr_assert_eq(e.minima[0], 2);
	cr_assert_eq(e.minima[1], 7);
	cr_assert_eq(e.zeros, 1);
}

Test(forecast_property, a_spline_is_exact_for_cubics_and_refuses_knots_out_of_order)
{
	static const int32_t at[] = {-3, 0, 4, 9, 11, 20}, wrong[] = {0, 5, 5, 9};
	double y[6], slope[6], work[18], values[18];

	for (int32_t count = 2; count <= 6; count++) {
		for (int i = 0; i < count;
		     i++) { /* as many knots as a polynomial of that degree needs */
			double t = at[i];

			y[i] = count == 2   ? 2 * t - 1
			       : count == 3 ? t * t - t
					    : t * t * t / 10 - t * t + 3;
		}
		cr_assert_eq(thmqi_spline(at, y, (uint32_t)count, slope, work, 18, values), 0);
		for (int i = 0; i < 18; i++) {
			double t = i;

			cr_assert_float_eq(values[i],
					   count == 2   ? 2 * t - 1
					   : count == 3 ? t * t - t
							: t * t * t / 10 - t * t + 3,
					   1e-9);
		}
	}
	cr_assert_eq(thmqi_spline(wrong, y, 4, slope, work, 18, values), -EINVAL);
	cr_assert_eq(thmqi_spline(at, y, 1, slope, work, 18, values), -EINVAL);
}

/* Two tones far enough apart come apart: the faster is the first mode. */
Test(forecast_property, tones_are_told_apart)
{
	static double x[LEN], rows[MODES * LEN];
	double error = 0;
	uint32_t i;

	open_both(THMQI_SNR_LEVEL);
	for (i = 0; i < LEN; i++)
		x[i] = sin(i * 6.2831853 / 8) + 0.8 * sin(i * 6.2831853 / 80);
	cr_assert_geq(thmqi_emd(&e, x, LEN, 100, MODES, LEN, rows), 2);
	for (i = 40; i < LEN - 40; i++)
		error = fmax(error, fabs(rows[i] - sin(i * 6.2831853 / 8)));
	cr_assert(error < 0.05, "%g", error);
}

/* What has a form goes on by it, at both ends: a window is decomposed with what came before it and behind. */
Test(forecast_property, the_extension_goes_on_by_the_form_of_the_series_at_both_ends)
{
	static double whole[128 + 64], x[128], work[128], ret[128 + 64];

	for (int i = 0; i < 128 + 64; i++)
		whole[i] = sin(i / 1.7) + 0.6 * sin(i / 9.0 + 1) + 0.02 * i;
	memcpy(x, whole + 32, sizeof(x));
	thmqi_extend(x, 128, 32, work, ret);
	cr_assert_eq(memcmp(ret + 32, x, sizeof(x)), 0);
	cr_assert(rig_largest(ret, whole, 32) < 0.2, "before: %f", rig_largest(ret, whole, 32));
	cr_assert(rig_largest(ret + 160, whole + 160, 32) < 0.2, "behind: %f",
		  rig_largest(ret + 160, whole + 160, 32));
}

/* ---------------------------------------------------------- endpoint effect */

#define WINDOW 128u
#define SERIES 300u
#define FAST 20.0 /* samples: modes of a shorter period are the fast part */

static double period(const double *x, uint32_t len)
{
	double mean = thmqi_mean(x, len);
	uint32_t crossings = 0, i;

	for (i = 1; i < len; i++)
		crossings += (x[i] - mean) * (x[i - 1] - mean) < 0;
	return crossings ? 2.0 * len / crossings : INFINITY;
}

/* Root mean square error of the fast part's last sample against @truth, over sliding windows, relative to that. */
static double last_sample(const double *x, const double *truth, uint32_t len, uint32_t extra)
{
	struct thmqi_window w;
	double error = 0, size = 0;
	uint32_t i, k;

	RIG_CARVE(thmqi_window_carve(&w, &c, WINDOW, extra, 20, 8));
	thmqi_iceemdan_seed(&w.d, 1);
	for (i = 0; i < len; i++) {
		double fast = 0;

		thmqi_window_push(&w, x[i]);
		if (w.count < WINDOW || i % 3)
			continue;
		cr_assert_eq(thmqi_window_begin(&w), 0);
		while (thmqi_iceemdan_step(&w.d))
			;
		for (k = 0; k < w.d.mode_count; k++)
			if (period(thmqi_window_mode(&w, k), WINDOW) < FAST)
				fast += thmqi_window_mode(&w, k)[WINDOW - 1];
		error += (fast - truth[i]) * (fast - truth[i]);
		size += truth[i] * truth[i];
	}
	return sqrt(error / size);
}

static void compare_ends(const char *name, const double *x, const double *truth, uint32_t len,
			 double factor)
{
	double mirror = last_sample(x, truth, len, 0),
	       extended = last_sample(x, truth, len, WINDOW / 4);

	cr_log_info("%s: last sample's error %.3f mirrored, %.3f extended", name, mirror, extended);
	cr_assert(extended * factor <= mirror, "%s: %.3f mirrored, %.3f extended", name, mirror,
		  extended);
}

Test(forecast_property, the_extension_cuts_the_endpoint_error_of_tones_fivefold)
{
	static double x[600], truth[600];

	for (uint32_t i = 0; i < 600; i++) {
		truth[i] = sin(i * 6.2831853 / 9.7);
		x[i] = truth[i] + 0.8 * sin(i * 6.2831853 / 47 + 1) + i * 0.003;
	}
	compare_ends("two tones and a trend", x, truth, 600, 5);
}

/* Truth is the decomposition of the series with what comes before and behind. The series are the beginnings of those of an
 * internet provider and a web site that the reference vectors hold: the whole ones may not be passed on. */
static void compare_series(const char *record, double factor)
{
	static double truth[SERIES];
	struct record y = rig_record(record);
	uint32_t k, i, len = y.columns, used = len - 32; /* the truth's own end is bad, too */
	struct thmqi_iceemdan whole;

	cr_assert_leq(len, SERIES);
	RIG_CARVE(thmqi_iceemdan_carve(&whole, &c, len, 50, MODES));
	thmqi_iceemdan_seed(&whole, 1);
	thmqi_iceemdan_begin(&whole, y.values, len);
	while (thmqi_iceemdan_step(&whole))
		;
	memset(truth, 0, sizeof(truth));
	for (k = 0; k < whole.mode_count; k++)
		for (i = 0; i < len && period(whole.modes + (size_t)k * len, len) < FAST; i++)
			truth[i] += whole.modes[(size_t)k * len + i];
	compare_ends(record, y.values, truth, used, factor);
}

Test(forecast_property, and_that_of_a_providers_traffic_twofold)
{
	compare_series("y_isp_eu_h", 2);
	compare_series("x_isp", 2);
}
