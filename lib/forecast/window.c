/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c - the sliding window: the newest values, extended on both sides by forecasts, decomposed and cropped. Without
 * the extension the newest value, the only one that a forecast hangs on, is the worst of all: doc/forecast.md has figures.
 */
#include "forecast/forecast.h"

void thmqi_window_carve(struct thmqi_window *w, struct thmqi_carver *c, uint32_t len_max,
			uint32_t extra, uint32_t member_count, uint32_t mode_max)
{
	memset(w, 0, sizeof(*w));
	w->len_max = len_max;
	w->extra = extra;
	w->ring = thmqi_carve(c, 2 * (size_t)len_max, sizeof(double));
	w->extended = thmqi_carve(c, len_max + 2 * (size_t)extra, sizeof(double));
	w->work = thmqi_carve(c, len_max, sizeof(double));
	thmqi_iceemdan_carve(&w->d, c, len_max + 2 * extra, member_count, mode_max);
}

void thmqi_window_push(struct thmqi_window *w, double value)
{
	w->ring[w->next] = w->ring[w->next + w->len_max] = value;
	w->next = (w->next + 1) % w->len_max;
	if (w->count < w->len_max)
		w->count++;
}

const double *thmqi_window_values(const struct thmqi_window *w)
{
	return w->ring + w->len_max + w->next - w->count;
}

int thmqi_window_begin(struct thmqi_window *w)
{
	const double *x = thmqi_window_values(w);

	w->job_len = w->count;
	if (!w->count)
		return -EINVAL;
	if (!w->extra)
		return thmqi_iceemdan_begin(&w->d, x, w->count);
	thmqi_extend(x, w->count, w->extra, w->work, w->extended);
	return thmqi_iceemdan_begin(&w->d, w->extended, w->count + 2 * w->extra);
}

const double *thmqi_window_mode(const struct thmqi_window *w, uint32_t mode)
{
	return w->d.modes + (size_t)mode * w->d.len_max + w->extra;
}
