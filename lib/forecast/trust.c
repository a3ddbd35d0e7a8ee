/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trust.c - which model is believed: each is measured on what really came, beside naive at the very same ticks. A
 * decomposition costs a millisecond or more: it is left out where nothing happens, and tried seldom where it does not help.
 */
#include "internal.h"

#define ALIVE                                                                                      \
	8u /* of so many of the newest values one must be more than zero, or there is no traffic */

bool thmqi_forecast_at(const struct thmq_forecast *f, uint32_t model, uint32_t ahead,
		       double *ret_value)
{
	const struct path *p = &f->paths[model];
	uint64_t index = f->values - p->base + ahead - 1;

	if (!p->valid || f->values - p->base > AGE_MAX || index >= f->path_len)
		return false;
	*ret_value = p->values[index];
	return true;
}

void thmqi_forecast_measure(struct thmq_forecast *f, double value)
{
	double said, naive, weight;
	uint32_t model;

	if (!f->values)
		return;
	naive = fabs(thmqi_window_values(&f->window)[f->window.count - 1] - value);
	for (model = THMQ_FORECAST_NAIVE; model < THMQ_FORECAST_TRAFFIC; model++) {
		struct score *s = &f->scores[model];
		bool is_fresh = f->paths[model].fresh;

		f->paths[model].fresh = false;
		if (model == THMQ_FORECAST_NAIVE)
			said = value + naive;
		else if (!thmqi_forecast_at(f, model, 1, &said))
			continue;
		/* on probation there is one try in many ticks: the others would measure its age */
		if (model == THMQ_FORECAST_MODES && f->o.model == THMQ_FORECAST_TRAFFIC &&
		    !is_fresh && thmqi_forecast_ratio(f, model) >= BETTER)
			continue;
		s->ticks += s->ticks < UINT32_MAX;
		weight = 1 / fmin(s->ticks, MEMORY);
		s->error += weight * (fabs(said - value) - s->error);
		s->naive += weight * (naive - s->naive);
	}
}

double thmqi_forecast_ratio(const struct thmq_forecast *f, uint32_t model)
{
	const struct score *s = &f->scores[model];

	if (s->ticks < MEASURED_MIN)
		return 0;
	if (s->naive > 0)
		return s->error / s->naive;
	return s->error > 0 ? 1e9 : 1; /* naive was right all the time */
}

uint32_t thmqi_forecast_in_charge(const struct thmq_forecast *f)
{
	static const uint32_t candidates[] = {THMQ_FORECAST_SES, THMQ_FORECAST_AR,
					      THMQ_FORECAST_MODES};
	uint32_t best = THMQ_FORECAST_NAIVE;
	double least = BETTER, ratio, value;
	size_t i;

	if (f->o.model != THMQ_FORECAST_TRAFFIC)
		return thmqi_forecast_at(f, f->o.model, 1, &value) ? f->o.model
								   : THMQ_FORECAST_NAIVE;
	for (i = 0; i < THMQI_ARRAY_COUNT(candidates); i++) {
		ratio = thmqi_forecast_ratio(f, candidates[i]);
		if (ratio > 0 && ratio < least && thmqi_forecast_at(f, candidates[i], 1, &value)) {
			best = candidates[i];
			least = ratio;
		}
	}
	return best;
}

bool thmqi_forecast_is_idle(const struct thmq_forecast *f)
{
	const double *x = f->snapshot;
	uint32_t i, newest = THMQI_MIN(f->len, HISTORY_MIN), alive = 0;

	for (i = 1; i < f->len && x[i] == x[0]; i++)
		;
	if (i >= f->len)
		return true; /* one value all over: naive knows it */
	if (f->o.model != THMQ_FORECAST_TRAFFIC)
		return false;
	for (i = f->len - newest; i < f->len; i++)
		alive += x[i] != 0;
	return alive * ALIVE < newest;
}

bool thmqi_forecast_may_decompose(struct thmq_forecast *f)
{
	if (f->o.model != THMQ_FORECAST_TRAFFIC && f->o.model != THMQ_FORECAST_MODES)
		return false;
	if (f->len < THMQI_MIN(HISTORY_MIN, f->o.window)) {
		f->skipped_history++;
		return false;
	}
	if (f->o.model == THMQ_FORECAST_TRAFFIC &&
	    thmqi_forecast_ratio(f, THMQ_FORECAST_MODES) >= BETTER && f->values % PROBATION) {
		f->skipped_trust++;
		return false;
	}
	return true;
}
