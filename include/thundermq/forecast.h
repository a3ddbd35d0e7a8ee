/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forecast.h - forecasts of a series that arrives value by value: the traffic of the next ticks, and what it is made of.
 *
 * A forecaster is fed one value a tick and says what the next ones will be. It knows no clock: what a tick is, is the
 * caller's matter. Its models go from the last value again (naive) to ICEEMDAN on a sliding window with an ARIMA model for
 * each mode; TRAFFIC runs several, measures each against naive on what really came, and trusts whoever is better, or none.
 *
 * All memory is taken at the open. Feeding is cheap; the work that it makes is done in slices by thmq_forecast_work(), whose
 * caller says how many units. A forecast hangs on nothing but the values fed before it, the options, and the seed: the
 * same ones give the same bits on the same machine. doc/forecast.md says when it helps, and what it costs.
 */
#ifndef THUNDERMQ_FORECAST_H
#define THUNDERMQ_FORECAST_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_forecast;

enum thmq_forecast_model {
	THMQ_FORECAST_DEFAULT = 0, /* as TRAFFIC */
	THMQ_FORECAST_NAIVE = 1,   /* the last value again */
	THMQ_FORECAST_SES = 2,     /* exponential smoothing, alpha fitted */
	THMQ_FORECAST_AR = 3,      /* autoregression after differencing: ARIMA(p,d,0) */
	THMQ_FORECAST_ARIMA = 4,   /* ARIMA(p,d,q), order by AICc */
	THMQ_FORECAST_MODES =
		5, /* SW-ICEEMDAN-ARIMA: modes of the window, each forecast by itself, summed */
	THMQ_FORECAST_TRAFFIC =
		6 /* SES, AR and MODES, whichever has proven better than naive; for counts per tick */
};

#define THMQ_FORECAST_MODELS 8u      /* room for models in the statistics */
#define THMQ_FORECAST_WINDOW_MIN 16u /* values */
#define THMQ_FORECAST_WINDOW_MAX 1024u
#define THMQ_FORECAST_MEMBERS_MAX 500u
#define THMQ_FORECAST_MODES_MAX 16u
#define THMQ_FORECAST_HORIZON_MAX 256u /* ticks */

struct thmq_forecast_opts {
	uint32_t size;
	uint32_t flags;  /* THMQ_FORECAST_* below */
	uint32_t model;  /* enum thmq_forecast_model */
	uint32_t window; /* values that it looks back at; 0: 128 */
	uint32_t
		extension; /* forecast values on each side of the window, before it is decomposed; up to window; 0: a quarter */
	uint32_t members;  /* of the ensemble; 0: 20 */
	uint32_t mode_max; /* modes, the rest included; 2 or more; 0: 8 */
	uint32_t sift_max; /* siftings for one member's mode, up to 2000; 0: 100 */
	uint32_t horizon;  /* ticks ahead; 0: 16 */
	uint32_t ar_max;   /* highest order p, up to 8; 0: 5, with moving averages 3 */
	uint32_t
		ma_max; /* highest order q, up to 4, of ARIMA, and of each mode with THMQ_FORECAST_MODES_ARMA; 0: 2 */
	uint32_t reserved;
	uint64_t seed; /* of the noise; 0 is one as well */
	double noise;  /* its deviation to the signal's, up to 10; 0: 0.2 */
};

#define THMQ_FORECAST_MIRROR                                                                       \
	1u /* no extension: the window's ends are mirrored only. For comparison: it is worse */
#define THMQ_FORECAST_SNR_RISING                                                                   \
	2u /* noise modes as they are: less noise from mode to mode. Without: the same for all */
#define THMQ_FORECAST_MODES_ARMA                                                                   \
	4u /* modes have moving averages too: some ten times the cost of a fit */

#define THMQ_FORECAST_OPTS(...)                                                                    \
	(&(struct thmq_forecast_opts){.size = sizeof(struct thmq_forecast_opts), __VA_ARGS__})

/** thmq_forecast_opts_init() - set @opts to the defaults */
THMQ_API void thmq_forecast_opts_init(struct thmq_forecast_opts *opts, uint32_t size);
#define thmq_forecast_opts_init(opts) thmq_forecast_opts_init((opts), sizeof(struct thmq_forecast_opts))

/**
 * thmq_forecast_open() - open a forecaster
 * @opts: NULL means defaults
 * @ret_forecast: out
 * Return: 0; -EINVAL, -E2BIG; -ENOMEM.
 * Threads: any; from then on one at a time. Makes the noise of its ensemble: some milliseconds, with the largest options
 * seconds.
 */
THMQ_API int thmq_forecast_open(const struct thmq_forecast_opts *opts,
				struct thmq_forecast **ret_forecast);

/** thmq_forecast_close() - free it; NULL is nothing. Threads: one at a time */
THMQ_API void thmq_forecast_close(struct thmq_forecast *forecast);

/**
 * thmq_forecast_feed() - the value of one tick
 * The models' forecasts of it, made before, are compared with it; work for the next ones is made.
 * @value: finite, up to 1e100 either way
 * Return: 0; -EINVAL: it was not taken in.
 * Threads: one at a time; never blocks or allocates; constant time.
 */
THMQ_API int thmq_forecast_feed(struct thmq_forecast *forecast, double value);

/**
 * thmq_forecast_work() - do up to @units of what is to be done
 * A unit is the sifting of one member, or the fit of one model: some tens of microseconds each with the defaults. Work that
 * is not done by the next tick goes on: its forecast begins where its window ended, and ages.
 * Return: 1 there is more; 0 there is none; -EINVAL.
 * Threads: one at a time; never blocks or allocates.
 */
THMQ_API int thmq_forecast_work(struct thmq_forecast *forecast, uint32_t units);

/**
 * thmq_forecast_predict() - the next @count values, by the model in charge
 * It uses what work was done. A model that has no forecast yet, or an old one, is replaced by naive. Within what is
 * plausible: from zero to twice the window's maximum where no value of the window is negative, else beyond its least and greatest
 * by no more than what lies between these.
 * @count: up to the horizon of the options
 * Return: 0; -EAGAIN no value was fed yet; -EINVAL.
 * Threads: one at a time; never blocks or allocates.
 */
THMQ_API int thmq_forecast_predict(const struct thmq_forecast *forecast, uint32_t count,
				   double *ret_values);

/**
 * thmq_forecast_mode() - one mode of the newest decomposition that is complete
 * @index: 0 is the fastest; below mode_count of the statistics; the last is the rest
 * @ret_values: room for @max values; the newest one comes last
 * Return: the number of values of the mode, which may be more than @max (then the oldest ones are left out); -ENOENT; -EINVAL.
 * Threads: one at a time.
 */
THMQ_API int thmq_forecast_mode(const struct thmq_forecast *forecast, uint32_t index,
				double *ret_values, uint32_t max);

struct thmq_forecast_stats {
	uint32_t size;       /* in */
	uint32_t model;      /* in charge: enum thmq_forecast_model */
	uint32_t trusted;    /* 1: the model in charge has beaten naive by 5 % or more of late */
	uint32_t mode_count; /* of the newest decomposition; 0: none yet */
	uint64_t values;     /* fed */
	uint64_t memory_bytes;
	uint64_t units;          /* of work done */
	uint64_t decompositions; /* complete */
	uint64_t sifts; /* envelopes' means taken off; each costs the length of the window */
	uint64_t fits;  /* models fitted */
	uint64_t late;  /* ticks whose work waited for that of an earlier one */
	uint64_t skipped_history; /* decompositions not begun: too few values */
	uint64_t
		skipped_idle; /* nearly nothing in the window, or one value all over: all fits were left out too */
	uint64_t skipped_trust; /* no better than naive of late: tried every 16th time only */
	double error
		[THMQ_FORECAST_MODELS]; /* mean absolute error at the next tick, of late; index: enum thmq_forecast_model */
	double ratio
		[THMQ_FORECAST_MODELS]; /* of that to naive's at the same ticks; 0: not measured */
};

/** thmq_forecast_stats() - copy the counters; @ret_stats: in: its size field. Return: 0; -EINVAL. Threads: one at a time */
THMQ_API int thmq_forecast_stats(const struct thmq_forecast *forecast,
				 struct thmq_forecast_stats *ret_stats);

/**
 * thmq_forecast_decompose() - the modes of a whole series, at once: to look at, not to forecast from
 * A forecast from modes of a series that reached beyond its own time is a fraud: they know what came. The window of a
 * forecaster has no such knowledge.
 * @values: @count of them, 4 … 65536; finite
 * @opts: members, mode_max, sift_max, noise, seed and the flag THMQ_FORECAST_SNR_RISING are used; NULL means defaults
 * @ret_modes: mode_max rows of @count values; the fastest comes first. Their sum is the series
 * Return: the number of modes, the rest included; -EINVAL, -E2BIG; -ENOMEM.
 * Threads: any; allocates, for the time of the call: members * mode_max * count doubles and a little more. With the defaults a
 * thousand values take some hundredths of a second, ten thousand a second or so, and 65536 half a minute.
 */
THMQ_API int thmq_forecast_decompose(const double *values, uint32_t count,
				     const struct thmq_forecast_opts *opts, double *ret_modes);

#ifdef __cplusplus
}
#endif

#endif
