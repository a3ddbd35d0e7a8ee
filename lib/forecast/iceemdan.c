/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iceemdan.c - the improved complete ensemble EMD with adaptive noise (Colominas, Schlotthauer, Torres, Biomed. Signal
 * Process. Control 14, 2014): each stage takes the mean over members of the local mean of the rest plus one mode of noise.
 *
 *	r_k = < M(r_{k-1} + b E_k(w_i)) >,  d_k = r_{k-1} - r_k,  M(x) = x - E_1(x)
 *
 * The modes of the noise are made once. The sum of all modes is the signal by construction: it proves nothing else.
 * One step is one member's sifting, so that a decomposition can be spread over time.
 */
#include "forecast/forecast.h"

void thmqi_iceemdan_carve(struct thmqi_iceemdan *d, struct thmqi_carver *c, uint32_t len_max,
			  uint32_t member_count, uint32_t mode_max)
{
	size_t rows = (size_t)member_count * mode_max;

	memset(d, 0, sizeof(*d));
	d->len_max = len_max;
	d->member_count = member_count;
	d->mode_max = mode_max;
	d->sift_max = 100;
	d->snr = THMQI_SNR_LEVEL;
	d->ratio = 0.2;
	d->noise = thmqi_carve(c, rows * len_max, sizeof(double));
	d->noise_sd = thmqi_carve(c, rows, sizeof(double));
	d->noise_rows = thmqi_carve(c, member_count, sizeof(uint32_t));
	d->modes = thmqi_carve(c, (size_t)mode_max * len_max, sizeof(double));
	d->residue = thmqi_carve(c, len_max, sizeof(double));
	d->sum = thmqi_carve(c, len_max, sizeof(double));
	d->input = thmqi_carve(c, len_max, sizeof(double));
	d->mode = thmqi_carve(c, len_max, sizeof(double));
	thmqi_emd_carve(&d->emd, c, len_max);
}

/* ------------------------------------------------------------------- noise */

static double *noise_row(const struct thmqi_iceemdan *d, uint32_t member, uint32_t mode)
{
	return d->noise + ((size_t)member * d->mode_max + mode) * d->len_max;
}

/* d->input is white noise: keep its modes. */
static void set_member(struct thmqi_iceemdan *d, uint32_t member)
{
	uint32_t k, rows;

	rows = thmqi_emd(&d->emd, d->input, d->len_max, THMQI_SIFT_MAX, d->mode_max, d->len_max,
			 noise_row(d, member, 0));
	d->noise_rows[member] = rows;
	for (k = 0; k < rows; k++)
		d->noise_sd[(size_t)member * d->mode_max + k] =
			thmqi_deviation(noise_row(d, member, k), d->len_max);
}

void thmqi_iceemdan_noise(struct thmqi_iceemdan *d, const double *noise)
{
	uint32_t i;

	for (i = 0; i < d->member_count; i++) {
		memcpy(d->input, noise + (size_t)i * d->len_max, d->len_max * sizeof(double));
		set_member(d, i);
	}
	d->emd.sifts = 0;
}

static double uniform(struct thmqi_prng *p) /* in (0, 1] */
{
	return (double)((thmqi_prng_next(p) >> 11) + 1) * 0x1p-53;
}

/* Normal deviates (Box and Muller, 1958). */
static void fill_normal(struct thmqi_prng *p, double *x, uint32_t len)
{
	uint32_t i;

	for (i = 0; i < len; i += 2) {
		double radius = sqrt(-2 * log(uniform(p))),
		       angle = 6.283185307179586477 * uniform(p);

		x[i] = radius * cos(angle);
		if (i + 1 < len)
			x[i + 1] = radius * sin(angle);
	}
}

void thmqi_iceemdan_seed(struct thmqi_iceemdan *d, uint64_t seed)
{
	struct thmqi_prng p;
	uint32_t i;

	thmqi_prng_seed(&p, seed);
	for (i = 0; i < d->member_count; i++) {
		fill_normal(&p, d->input, d->len_max);
		set_member(d, i);
	}
	d->emd.sifts = 0;
}

/* ----------------------------------------------------------- decomposition */

static double *mode_row(const struct thmqi_iceemdan *d, uint32_t mode)
{
	return d->modes + (size_t)mode * d->len_max;
}

/* The rest is the last mode; all get their scale back. */
static void finish(struct thmqi_iceemdan *d)
{
	uint32_t k, i;

	memcpy(mode_row(d, d->stage), d->residue, d->len * sizeof(double));
	d->mode_count = d->stage + 1;
	for (k = 0; k < d->mode_count; k++)
		for (i = 0; i < d->len; i++)
			mode_row(d, k)[i] *= d->scale;
	d->running = false;
}

int thmqi_iceemdan_begin(struct thmqi_iceemdan *d, const double *x, uint32_t len)
{
	uint32_t i;

	d->running = false;
	d->mode_count = 0;
	if (!len || len > d->len_max)
		return -EINVAL;
	d->len = len;
	d->stage = d->member = 0;
	d->scale = thmqi_deviation(x, len);
	memset(d->sum, 0, len * sizeof(double));
	if (d->scale < 1e-100 ||
	    d->mode_max < 2) { /* constant, or so small that it has no digits */
		d->scale = 1;
		memcpy(d->residue, x, len * sizeof(double));
		finish(d);
		return 0;
	}
	for (i = 0; i < len; i++)
		d->residue[i] = x[i] / d->scale;
	d->residue_sd = 1;
	d->running = true;
	return 0;
}

/* The rest with member i's noise of this stage; without any, where that noise has no such mode. */
static void mix(struct thmqi_iceemdan *d, uint32_t member)
{
	const double *noise = noise_row(d, member, d->stage);
	double sd = d->noise_sd[(size_t)member * d->mode_max + d->stage], gain = 0;
	uint32_t i;

	if (d->stage < d->noise_rows[member])
		gain = d->ratio * d->residue_sd;
	if (gain != 0 && (d->stage == 0 || d->snr == THMQI_SNR_LEVEL))
		gain = sd > 0 ? gain / sd : 0;
	if (gain == 0) {
		memcpy(d->input, d->residue, d->len * sizeof(double));
		return;
	}
	for (i = 0; i < d->len; i++)
		d->input[i] = d->residue[i] + gain * noise[i];
}

/* Local mean of one member. One that cannot be sifted is its own mean, but in the first stage, where it is its own mode:
 * so the reference has it, and the vectors in the tests. */
static void add_member(struct thmqi_iceemdan *d)
{
	uint32_t sifts, i;

	mix(d, d->member);
	sifts = thmqi_emd_mode(&d->emd, d->input, d->len, d->sift_max, d->mode);
	if (sifts) {
		for (i = 0; i < d->len; i++)
			d->sum[i] += d->input[i] - d->mode[i];
	} else if (d->stage) {
		for (i = 0; i < d->len; i++)
			d->sum[i] += d->input[i];
	}
	d->member++;
}

static void end_stage(struct thmqi_iceemdan *d)
{
	double *mode = mode_row(d, d->stage);
	uint32_t i;

	for (i = 0; i < d->len; i++) {
		double mean = d->sum[i] / d->member_count;

		mode[i] = d->residue[i] - mean;
		d->residue[i] = mean;
		d->sum[i] = 0;
	}
	d->stage++;
	d->member = 0;
	d->residue_sd = thmqi_deviation(d->residue, d->len);
	/* is there a mode left in the rest? */
	if (d->stage + 1 >= d->mode_max || !thmqi_emd_mode(&d->emd, d->residue, d->len, 1, d->mode))
		finish(d);
}

bool thmqi_iceemdan_step(struct thmqi_iceemdan *d)
{
	if (!d->running)
		return false;
	add_member(d);
	if (d->member == d->member_count)
		end_stage(d);
	return d->running;
}
