/* SPDX-License-Identifier: Apache-2.0 */
/* decompose.c - a whole series into its modes by one call. */
#include "internal.h"

#define COUNT_MAX 65536u

static int check(const double *values, uint32_t count, const double *ret_modes)
{
	uint32_t i;

	if (!values || !ret_modes)
		return thmqi_fail(-EINVAL, "decompose: no values, or no room for modes");
	if (count < 4 || count > COUNT_MAX)
		return thmqi_fail(-EINVAL, "decompose: 4 … %u values", COUNT_MAX);
	for (i = 0; i < count; i++)
		if (!thmqi_forecast_finite(values[i]))
			return thmqi_fail(-EINVAL,
					  "decompose: value %u is not finite, or beyond 1e100", i);
	return 0;
}

int thmq_forecast_decompose(const double *values, uint32_t count,
			    const struct thmq_forecast_opts *opts, double *ret_modes)
{
	struct thmq_forecast_opts o;
	struct thmqi_iceemdan d;
	struct thmqi_carver c = {0};
	uint32_t k;
	int rc = check(values, count, ret_modes);

	if (!rc)
		rc = thmqi_forecast_opts(opts, &o);
	if (rc)
		return rc;
	thmqi_iceemdan_carve(&d, &c, count, o.members, o.mode_max);
	c.base = aligned_alloc(THMQI_CACHELINE, c.used);
	if (!c.base)
		return thmqi_fail(-ENOMEM, "decompose: no memory for %zu bytes", c.used);
	c.used = 0;
	thmqi_iceemdan_carve(&d, &c, count, o.members, o.mode_max);
	thmqi_forecast_tune(&d, &o);
	thmqi_iceemdan_begin(&d, values, count);
	while (thmqi_iceemdan_step(&d))
		;
	for (k = 0; k < d.mode_count; k++)
		memcpy(ret_modes + (size_t)k * count, d.modes + (size_t)k * count,
		       count * sizeof(double));
	free(c.base);
	return (int)d.mode_count;
}
