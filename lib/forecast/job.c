/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c - what one tick makes to be done, a unit at a time: fit the simple models, sift the ensemble, fit and add up its
 * modes. All of it is of the snapshot taken at its begin, so that a value that comes meanwhile changes nothing.
 */
#include "internal.h"

static bool wants(const struct thmq_forecast *f, uint32_t model)
{
	return f->o.model == model || (f->o.model == THMQ_FORECAST_TRAFFIC &&
				       (model == THMQ_FORECAST_SES || model == THMQ_FORECAST_AR));
}

/* Bounds of the plausible: a model that is out of its depth does the least harm there. */
static void bounds(struct thmq_forecast *f)
{
	double low = f->snapshot[0], high = low, span;
	uint32_t i;

	for (i = 1; i < f->len; i++) {
		low = fmin(low, f->snapshot[i]);
		high = fmax(high, f->snapshot[i]);
	}
	span = high - low;
	f->low = low >= 0 ? 0 : low - span;
	f->high = low >= 0 ? 2 * high : high + span;
}

static void publish(struct thmq_forecast *f, uint32_t model, const double *values)
{
	struct path *p = &f->paths[model];
	uint32_t i;

	for (i = 0; i < f->path_len; i++) {
		if (!isfinite(values[i])) {
			p->valid = false;
			return;
		}
		p->values[i] = fmin(fmax(values[i], f->low), f->high);
	}
	p->base = f->base;
	p->valid = p->fresh = true;
}

static void fit_ses(struct thmq_forecast *f)
{
	double level = thmqi_ses_level(f->snapshot, f->len, thmqi_ses_fit(f->snapshot, f->len));
	uint32_t i;

	f->arima.fits++;
	for (i = 0; i < f->path_len; i++)
		f->next[i] = level;
	publish(f, THMQ_FORECAST_SES, f->next);
}

/* Highest orders of a search: autoregressive only, or with moving averages. */
static void orders(const struct thmq_forecast *f, bool moving, uint32_t *ret_p, uint32_t *ret_q)
{
	*ret_p = f->o.ar_max ? f->o.ar_max : moving ? 3 : 5;
	*ret_q = moving ? f->o.ma_max : 0;
}

/* One order more for @y. Return: the search goes on; else f->next has the path. */
static bool search(struct thmq_forecast *f, const double *y, bool moving)
{
	uint32_t p, q, i;

	if (!f->searching) {
		orders(f, moving, &p, &q);
		thmqi_arima_begin(&f->arima, &f->search, y, f->len, p, q);
		f->searching = true;
	}
	if (thmqi_arima_step(&f->arima, &f->search))
		return true;
	f->searching = false;
	if (f->search.found)
		thmqi_arima_predict(&f->arima, &f->search.best, y, f->len, f->path_len, f->next);
	for (i = 0; i < f->path_len && !f->search.found; i++)
		f->next[i] = y[f->len - 1];
	return false;
}

static enum phase after(const struct thmq_forecast *f, enum phase phase)
{
	for (phase++; phase < PHASE_SIFT; phase++)
		if (wants(f, phase == PHASE_SES  ? THMQ_FORECAST_SES
			     : phase == PHASE_AR ? THMQ_FORECAST_AR
						 : THMQ_FORECAST_ARIMA))
			return phase;
	return phase == PHASE_SIFT && f->decomposes ? PHASE_SIFT : PHASE_NONE;
}

void thmqi_forecast_job_begin(struct thmq_forecast *f)
{
	f->base = f->values;
	f->len = f->window.count;
	f->waiting = false;
	f->searching = false;
	f->decomposes = false;
	memcpy(f->snapshot, thmqi_window_values(&f->window), f->len * sizeof(double));
	f->phase = PHASE_NONE;
	if (f->len < FIT_MIN) {
		f->skipped_history += f->o.model >= THMQ_FORECAST_MODES;
		return;
	}
	if (thmqi_forecast_is_idle(f)) {
		f->skipped_idle++;
		return;
	}
	bounds(f);
	f->decomposes = thmqi_forecast_may_decompose(f) && thmqi_window_begin(&f->window) == 0;
	f->phase = after(f, PHASE_NONE);
}

/* The sifting is done: keep the modes for who wants to see them. */
static void keep_modes(struct thmq_forecast *f)
{
	uint32_t k;

	f->decompositions++;
	f->mode_count = f->window.d.mode_count;
	f->mode_len = f->len;
	for (k = 0; k < f->mode_count; k++)
		memcpy(f->modes + (size_t)k * f->o.window, thmqi_window_mode(&f->window, k),
		       f->len * sizeof(double));
	f->mode = 0;
	memset(f->sum, 0, f->path_len * sizeof(double));
	f->phase = PHASE_MODES;
}

/* Return: all modes are forecast. */
static bool forecast_mode(struct thmq_forecast *f)
{
	uint32_t i;

	if (search(f, f->modes + (size_t)f->mode * f->o.window,
		   f->o.flags & THMQ_FORECAST_MODES_ARMA))
		return false;
	for (i = 0; i < f->path_len; i++)
		f->sum[i] += f->next[i];
	if (++f->mode < f->mode_count)
		return false;
	publish(f, THMQ_FORECAST_MODES, f->sum);
	return true;
}

bool thmqi_forecast_job_step(struct thmq_forecast *f)
{
	switch (f->phase) {
	case PHASE_NONE:
		return false;
	case PHASE_SES:
		fit_ses(f);
		break;
	case PHASE_AR:
	case PHASE_ARIMA:
		if (search(f, f->snapshot, f->phase == PHASE_ARIMA))
			return true;
		publish(f, f->phase == PHASE_AR ? THMQ_FORECAST_AR : THMQ_FORECAST_ARIMA, f->next);
		break;
	case PHASE_SIFT:
		if (!thmqi_iceemdan_step(&f->window.d))
			keep_modes(f);
		return true;
	case PHASE_MODES:
		if (!forecast_mode(f))
			return true;
		f->phase = PHASE_NONE;
		return false;
	}
	f->phase = after(f, f->phase);
	return f->phase != PHASE_NONE;
}
