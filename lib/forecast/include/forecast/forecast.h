/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast.h - the parts of the forecaster, each usable alone: spline, EMD, ICEEMDAN, the extended sliding window,
 * stationarity, ARIMA and the simple models beside it. Pure functions on arrays of double; all memory is carved from one
 * block before the first call. Knows no clock, no thread, no queue. doc/forecast.md tells what each is for.
 *
 * Inputs are finite: who takes values from outside checks them (thmqi_forecast_finite()). Lengths are bounded by what was
 * carved, and asserted nowhere: a longer input is refused.
 */
#ifndef THMQI_FORECAST_H
#define THMQI_FORECAST_H

#include <math.h>

#include "base/base.h"

/* Values beyond this are refused: their squares, summed, must stay finite. */
#define THMQI_FORECAST_HUGE 1e100

/* ------------------------------------------------------------------ memory */

/* One block, cut into arrays. With base NULL it only counts, so that the same code says how much is needed. */
struct thmqi_carver {
	uint8_t *base;
	size_t used;
};

static inline void *thmqi_carve(struct thmqi_carver *c, size_t count, size_t size)
{
	size_t at = c->used;

	c->used += THMQI_ALIGN_UP(count * size, (size_t)THMQI_CACHELINE);
	return c->base ? c->base + at : NULL;
}

static inline bool thmqi_forecast_finite(double x)
{
	return x >= -THMQI_FORECAST_HUGE && x <= THMQI_FORECAST_HUGE; /* false for NaN */
}

double thmqi_mean(const double *x, uint32_t len);
double thmqi_deviation(const double *x,
		       uint32_t len); /* of a sample: divides by len - 1; 0 for len < 2 */

/* ------------------------------------------------------------------ spline */

/*
 * Cubic spline with not-a-knot ends through @count >= 2 knots at strictly ascending @at (a line through 2, a parabola
 * through 3), evaluated at 0 … len - 1. @slope: count doubles; @work: 3 * count.
 * Return: 0; -EINVAL fewer than 2 knots, or not ascending.
 */
int thmqi_spline(const int32_t *at, const double *y, uint32_t count, double *slope, double *work,
		 uint32_t len, double *ret_values);

/* --------------------------------------------------------------------- EMD */

#define THMQI_SIFT_MAX 2000u /* siftings for one mode, where nobody says less */

/* Workspace for signals of up to len_max samples; results of the last search for extrema. */
struct thmqi_emd {
	uint32_t len_max;
	uint32_t maxima_count, minima_count, zeros;
	uint32_t *maxima, *minima; /* indices, ascending; they alternate */
	int32_t *knot_at;
	double *knot_y, *slope, *work;
	double *upper, *lower, *mean, *rest;
	uint64_t sifts; /* counter */
};

void thmqi_emd_carve(struct thmqi_emd *e, struct thmqi_carver *c, uint32_t len_max);
void thmqi_emd_extrema(struct thmqi_emd *e, const double *x, uint32_t len);
/* Knots of one envelope, mirrored at both ends; needs extrema (3 or more in all). Return: their number; 0: impossible. */
uint32_t thmqi_emd_knots(struct thmqi_emd *e, const double *x, uint32_t len, bool upper);
/* The first mode of @x. Return: siftings done; 0: @x cannot be sifted, and is the mode itself. */
uint32_t thmqi_emd_mode(struct thmqi_emd *e, const double *x, uint32_t len, uint32_t sift_max,
			double *ret_mode);
/* All modes and the residue, one a row of @stride samples; the last of @row_max is what is left then. Return: rows. */
uint32_t thmqi_emd(struct thmqi_emd *e, const double *x, uint32_t len, uint32_t sift_max,
		   uint32_t row_max, uint32_t stride, double *ret_rows);

/* ---------------------------------------------------------------- ICEEMDAN */

/* How noise of later stages is scaled: as its modes are (SNR rises from stage to stage), or each mode to deviation 1. */
enum thmqi_snr { THMQI_SNR_RISING = 1, THMQI_SNR_LEVEL = 2 };

struct thmqi_iceemdan {
	uint32_t len_max, member_count, mode_max, sift_max, snr;
	double ratio;         /* noise to signal */
	double *noise;        /* [member][mode][len_max]: E_k(w_i) */
	double *noise_sd;     /* [member][mode] */
	uint32_t *noise_rows; /* [member] */
	double *modes;        /* out: [mode][len_max] */
	uint32_t mode_count;  /* out, when done */
	/* the decomposition under way */
	uint32_t len, stage, member;
	bool running;
	double scale, residue_sd;
	double *residue, *sum, *input, *mode;
	struct thmqi_emd emd;
};

void thmqi_iceemdan_carve(struct thmqi_iceemdan *d, struct thmqi_carver *c, uint32_t len_max,
			  uint32_t member_count, uint32_t mode_max);
/* Its noise: from outside, rows of len_max samples, or from a seed. Done once. */
void thmqi_iceemdan_noise(struct thmqi_iceemdan *d, const double *noise);
void thmqi_iceemdan_seed(struct thmqi_iceemdan *d, uint64_t seed);
/* Begin with @x; then step until it returns false: one member's local mean a step. What was under way is dropped. */
int thmqi_iceemdan_begin(struct thmqi_iceemdan *d, const double *x, uint32_t len);
bool thmqi_iceemdan_step(struct thmqi_iceemdan *d);

/* --------------------------------------------------- simple models, ARIMA */

#define THMQI_AR_MAX 8u
#define THMQI_MA_MAX 4u
#define THMQI_DIFF_MAX 2u
#define THMQI_ARIMA_PARTS (THMQI_AR_MAX + THMQI_MA_MAX + 1u)

/* KPSS statistic for level stationarity; @lags of the Bartlett window. 0 for a constant. */
double thmqi_kpss(const double *x, uint32_t len, uint32_t lags);
/* Differences until KPSS at 5 % has nothing against it. @work: len doubles. Return: 0 … THMQI_DIFF_MAX */
uint32_t thmqi_kpss_differences(const double *x, uint32_t len, double *work);

/* Exponential smoothing: the alpha of least one-step error in @x. */
double thmqi_ses_fit(const double *x, uint32_t len);
/* The level behind the last of @x, which is the forecast for every horizon. */
double thmqi_ses_level(const double *x, uint32_t len, double alpha);

struct thmqi_arima {
	uint32_t p, d, q;
	bool has_mean; /* of the differenced series */
	double phi[THMQI_AR_MAX], theta[THMQI_MA_MAX], mean;
	double sigma2, aicc;
	uint32_t iterations;
};

/* Workspace for series of up to len_max values. */
struct thmqi_arima_work {
	uint32_t len_max;
	double *w, *e, *best; /* differenced, residuals */
	double *grad;         /* [THMQI_ARIMA_PARTS][len_max] */
	double enough;        /* of the sum of squares: a step that promises less is not made */
	uint64_t fits;        /* counter */
};

void thmqi_arima_carve(struct thmqi_arima_work *a, struct thmqi_carver *c, uint32_t len_max);
/*
 * Of the given order, by conditional sum of squares from a Hannan-Rissanen start; phi stationary, theta invertible.
 * Return: 0; -EINVAL an order out of bounds, too few values, or a series that has nothing to fit (constant).
 */
int thmqi_arima_fit(struct thmqi_arima_work *a, const double *y, uint32_t len, uint32_t p,
		    uint32_t d, uint32_t q, bool has_mean, struct thmqi_arima *ret_model);
/* d by KPSS, p and q by AICc. q_max 0: autoregressive only, by least squares, some ten times cheaper. */
int thmqi_arima_choose(struct thmqi_arima_work *a, const double *y, uint32_t len, uint32_t p_max,
		       uint32_t q_max, struct thmqi_arima *ret_model);
/* The same, one order a step. @y stays as it is meanwhile. */
struct thmqi_arima_search {
	const double *y;
	uint32_t len, p_max, q_max;
	uint32_t d, p, q; /* p, q: the next order */
	bool found, ended;
	struct thmqi_arima best;
};
void thmqi_arima_begin(struct thmqi_arima_work *a, struct thmqi_arima_search *s, const double *y,
		       uint32_t len, uint32_t p_max, uint32_t q_max);
bool thmqi_arima_step(struct thmqi_arima_work *a,
		      struct thmqi_arima_search *s); /* false: done, see found */
/* The next @count values behind @y. */
void thmqi_arima_predict(struct thmqi_arima_work *a, const struct thmqi_arima *m, const double *y,
			 uint32_t len, uint32_t count, double *ret_values);
/* Stationary (phi), or invertible (theta with signs turned): all roots outside the unit circle. */
bool thmqi_ar_is_stable(const double *phi, uint32_t p);

/* ------------------------------------------------------------ sliding window */

#define THMQI_EXTEND_ORDER 8u /* autoregressive order of the extension */

/* @x with @extra values more on each side, forecast forwards and backwards. @ret: len + 2 * extra; @work: len. */
void thmqi_extend(const double *x, uint32_t len, uint32_t extra, double *work, double *ret);

/* The newest len_max values in one piece; its decomposition, extended and cropped. */
struct thmqi_window {
	uint32_t len_max, extra;
	uint32_t count; /* values it has */
	uint32_t next;
	double *ring; /* 2 * len_max: each value is stored twice, so that the window is always in one piece */
	double *extended, *work;
	uint32_t job_len; /* values of the decomposition under way or done */
	struct thmqi_iceemdan d;
};

void thmqi_window_carve(struct thmqi_window *w, struct thmqi_carver *c, uint32_t len_max,
			uint32_t extra, uint32_t member_count, uint32_t mode_max);
void thmqi_window_push(struct thmqi_window *w, double value);
const double *
thmqi_window_values(const struct thmqi_window *w); /* oldest first: w->count of them */
int thmqi_window_begin(struct thmqi_window *w);    /* then thmqi_iceemdan_step(&w->d) */
const double *thmqi_window_mode(const struct thmqi_window *w,
				uint32_t mode); /* cropped: job_len values */

#endif
