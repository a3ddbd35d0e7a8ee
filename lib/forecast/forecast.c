/* SPDX-License-Identifier: Apache-2.0 */
/* forecast.c - the forecaster's public calls: memory, values in, forecasts and counters out. */
#include "internal.h"

static void carve(struct thmq_forecast *f, struct thmqi_carver *c)
{
	uint32_t i, window = f->o.window;

	thmqi_carve(c, 1, sizeof(*f));
	thmqi_window_carve(&f->window, c, window, f->o.extension, f->o.members, f->o.mode_max);
	thmqi_arima_carve(&f->arima, c, window);
	f->path_len = f->o.horizon + AGE_MAX;
	for (i = 0; i < MODEL_COUNT; i++)
		f->paths[i].values = thmqi_carve(c, f->path_len, sizeof(double));
	f->snapshot = thmqi_carve(c, window, sizeof(double));
	f->next = thmqi_carve(c, f->path_len, sizeof(double));
	f->sum = thmqi_carve(c, f->path_len, sizeof(double));
	f->modes = thmqi_carve(c, (size_t)f->o.mode_max * window, sizeof(double));
}

int thmq_forecast_open(const struct thmq_forecast_opts *opts, struct thmq_forecast **ret_forecast)
{
	struct thmq_forecast_opts o;
	struct thmq_forecast sizing = {0}, *f;
	struct thmqi_carver c = {0};
	int rc;

	if (!ret_forecast)
		return thmqi_fail(-EINVAL, "forecast: no place for the handle");
	rc = thmqi_forecast_opts(opts, &o);
	if (rc)
		return rc;
	if (o.model < THMQ_FORECAST_MODES) /* nothing is decomposed: no noise, no modes */
		o.members = o.mode_max = 1;
	sizing.o = o;
	carve(&sizing, &c);
	f = aligned_alloc(THMQI_CACHELINE, c.used);
	if (!f)
		return thmqi_fail(-ENOMEM, "forecast: no memory for %zu bytes", c.used);
	memset(f, 0, c.used);
	f->o = o;
	f->bytes = c.used;
	c = (struct thmqi_carver){.base = (uint8_t *)f};
	carve(f, &c);
	if (o.model >= THMQ_FORECAST_MODES)
		thmqi_forecast_tune(&f->window.d, &o);
	*ret_forecast = f;
	return 0;
}

void thmq_forecast_close(struct thmq_forecast *forecast)
{
	free(forecast);
}

int thmq_forecast_feed(struct thmq_forecast *f, double value)
{
	if (!f || !thmqi_forecast_finite(value))
		return -EINVAL;
	thmqi_forecast_measure(f, value);
	thmqi_window_push(&f->window, value);
	f->values++;
	if (f->phase != PHASE_NONE)
		f->late++;
	f->waiting = true;
	return 0;
}

int thmq_forecast_work(struct thmq_forecast *f, uint32_t units)
{
	if (!f)
		return -EINVAL;
	for (; units; units--) {
		if (f->phase == PHASE_NONE) {
			if (!f->waiting)
				return 0;
			thmqi_forecast_job_begin(f);
			if (f->phase == PHASE_NONE)
				return 0;
		}
		f->units++;
		thmqi_forecast_job_step(f);
	}
	return f->phase != PHASE_NONE || f->waiting;
}

int thmq_forecast_predict(const struct thmq_forecast *f, uint32_t count, double *ret_values)
{
	uint32_t model, i;

	if (!f || count > f->o.horizon || (count && !ret_values))
		return -EINVAL;
	if (!f->values)
		return -EAGAIN;
	model = thmqi_forecast_in_charge(f);
	for (i = 0; i < count; i++)
		if (!thmqi_forecast_at(f, model, i + 1, &ret_values[i]))
			ret_values[i] = thmqi_window_values(&f->window)[f->window.count - 1];
	return 0;
}

int thmq_forecast_mode(const struct thmq_forecast *f, uint32_t index, double *ret_values,
		       uint32_t max)
{
	uint32_t n;

	if (!f || (max && !ret_values))
		return -EINVAL;
	if (index >= f->mode_count)
		return -ENOENT;
	n = THMQI_MIN(max, f->mode_len);
	if (n)
		memcpy(ret_values, f->modes + (size_t)index * f->o.window + f->mode_len - n,
		       n * sizeof(double));
	return (int)f->mode_len;
}

int thmq_forecast_stats(const struct thmq_forecast *f, struct thmq_forecast_stats *ret_stats)
{
	struct thmq_forecast_stats s = {.size = sizeof(s)};
	uint32_t size, model;
	double ratio;

	if (!f || !ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return -EINVAL;
	size = ret_stats->size;
	s.model = thmqi_forecast_in_charge(f);
	ratio = thmqi_forecast_ratio(f, s.model);
	s.trusted = ratio > 0 && ratio < BETTER;
	s.mode_count = f->mode_count;
	s.values = f->values;
	s.memory_bytes = f->bytes;
	s.units = f->units;
	s.decompositions = f->decompositions;
	s.sifts = f->window.d.emd.sifts;
	s.fits = f->arima.fits;
	s.late = f->late;
	s.skipped_history = f->skipped_history;
	s.skipped_idle = f->skipped_idle;
	s.skipped_trust = f->skipped_trust;
	for (model = 0; model < MODEL_COUNT; model++) {
		s.error[model] = f->scores[model].error;
		s.ratio[model] = thmqi_forecast_ratio(f, model);
	}
	memcpy(ret_stats, &s, THMQI_MIN(size, (uint32_t)sizeof(s)));
	ret_stats->size = size;
	return 0;
}
