/* SPDX-License-Identifier: Apache-2.0 */
/* opts.c - the forecaster's options: checked, defaults filled in. */
#include "internal.h"

#define SEED 0x7468756e64657200ull /* where none is given; any would do */

void (thmq_forecast_opts_init)(struct thmq_forecast_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

static int check(const struct thmq_forecast_opts *o)
{
	if (o->flags &
	    ~(THMQ_FORECAST_MIRROR | THMQ_FORECAST_SNR_RISING | THMQ_FORECAST_MODES_ARMA))
		return thmqi_fail(-EINVAL, "forecast: unknown flags %#x", o->flags);
	if (o->reserved)
		return thmqi_fail(-EINVAL, "forecast: reserved is not 0");
	if (o->model >= MODEL_COUNT)
		return thmqi_fail(-EINVAL, "forecast: unknown model %u", o->model);
	if (o->window &&
	    (o->window < THMQ_FORECAST_WINDOW_MIN || o->window > THMQ_FORECAST_WINDOW_MAX))
		return thmqi_fail(-EINVAL, "forecast: window is %u … %u", THMQ_FORECAST_WINDOW_MIN,
				  THMQ_FORECAST_WINDOW_MAX);
	if (o->members > THMQ_FORECAST_MEMBERS_MAX)
		return thmqi_fail(-EINVAL, "forecast: members are at most %u",
				  THMQ_FORECAST_MEMBERS_MAX);
	if (o->mode_max == 1 || o->mode_max > THMQ_FORECAST_MODES_MAX)
		return thmqi_fail(-EINVAL, "forecast: mode_max is 2 … %u", THMQ_FORECAST_MODES_MAX);
	if (o->sift_max > THMQI_SIFT_MAX)
		return thmqi_fail(-EINVAL, "forecast: sift_max is at most %u", THMQI_SIFT_MAX);
	if (o->horizon > THMQ_FORECAST_HORIZON_MAX)
		return thmqi_fail(-EINVAL, "forecast: horizon is at most %u",
				  THMQ_FORECAST_HORIZON_MAX);
	if (o->ar_max > THMQI_AR_MAX || o->ma_max > THMQI_MA_MAX)
		return thmqi_fail(-EINVAL, "forecast: ar_max is at most %u, ma_max %u",
				  THMQI_AR_MAX, THMQI_MA_MAX);
	if (!(o->noise >= 0 && o->noise <= 10))
		return thmqi_fail(-EINVAL, "forecast: noise is 0 … 10");
	return 0;
}

int thmqi_forecast_opts(const struct thmq_forecast_opts *opts, struct thmq_forecast_opts *ret_opts)
{
	struct thmq_forecast_opts o;
	int rc = thmqi_opts_copy(&o, sizeof(o), opts);

	if (rc)
		return thmqi_fail(rc, "forecast: options: %s", thmqi_opts_why(rc));
	rc = check(&o);
	if (rc)
		return rc;
	o.model = o.model ? o.model : THMQ_FORECAST_TRAFFIC;
	o.window = o.window ? o.window : 128;
	if (o.extension > o.window)
		return thmqi_fail(-EINVAL, "forecast: extension is at most the window, %u",
				  o.window);
	o.extension = o.flags & THMQ_FORECAST_MIRROR ? 0 : o.extension ? o.extension : o.window / 4;
	o.members = o.members ? o.members : 20;
	o.mode_max = o.mode_max ? o.mode_max : 8;
	o.sift_max = o.sift_max ? o.sift_max : 100;
	o.horizon = o.horizon ? o.horizon : 16;
	o.ma_max = o.ma_max ? o.ma_max : 2;
	o.seed = o.seed ? o.seed : SEED;
	o.noise = o.noise > 0 ? o.noise : 0.2;
	*ret_opts = o;
	return 0;
}

void thmqi_forecast_tune(struct thmqi_iceemdan *d, const struct thmq_forecast_opts *o)
{
	d->sift_max = o->sift_max;
	d->ratio = o->noise;
	d->snr = o->flags & THMQ_FORECAST_SNR_RISING ? THMQI_SNR_RISING : THMQI_SNR_LEVEL;
	thmqi_iceemdan_seed(d, o->seed);
}
