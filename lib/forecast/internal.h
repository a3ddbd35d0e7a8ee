/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the forecaster: its models, the work under way, and who is trusted. One job a tick: snapshot of the window, then
 * fits, siftings and the modes' fits, one unit at a time; at its end all paths are published together.
 */
#ifndef FORECAST_INTERNAL_H
#define FORECAST_INTERNAL_H

#include <thundermq/forecast.h>

#include "forecast/forecast.h"

#define AGE_MAX 64u      /* ticks: an older forecast is none */
#define HISTORY_MIN 32u  /* values before a window is decomposed */
#define FIT_MIN 16u      /* and before anything is fitted */
#define MEASURED_MIN 16u /* ticks before a model is trusted, or distrusted */
#define MEMORY 32.0      /* ticks over which errors are averaged */
#define BETTER 0.95      /* of naive's error: who has more is not trusted */
#define PROBATION 16u    /* a distrusted decomposition is tried that seldom */
#define MODEL_COUNT 7u   /* enum thmq_forecast_model */

/* What a model says of the ticks behind the value number base; value i is of number base + 1 + i. */
struct path {
	double *values; /* horizon + AGE_MAX */
	uint64_t base;
	bool valid;
	bool fresh; /* published since the last value came */
};

/* How good it was: running means over the ticks at which it had a forecast, of its error and of naive's. */
struct score {
	double error, naive;
	uint32_t ticks; /* saturates */
};

enum phase { PHASE_NONE = 0, PHASE_SES, PHASE_AR, PHASE_ARIMA, PHASE_SIFT, PHASE_MODES };

struct thmq_forecast {
	struct thmq_forecast_opts o; /* with defaults filled in */
	uint64_t bytes;
	uint64_t values; /* fed */
	struct thmqi_window window;
	struct thmqi_arima_work arima;
	struct path paths[MODEL_COUNT];
	struct score scores[MODEL_COUNT];
	uint32_t path_len;
	/* the job */
	enum phase phase;
	bool waiting;    /* a value came while one was running */
	bool decomposes; /* this job does */
	uint64_t base;
	uint32_t len, mode;
	double *snapshot, *next, *sum; /* next, sum: path_len */
	double low, high;              /* what is plausible */
	bool searching;
	struct thmqi_arima_search search;
	/* the newest complete decomposition */
	double *modes; /* [mode_max][window] */
	uint32_t mode_count, mode_len;
	/* counters */
	uint64_t units, decompositions, late, skipped_history, skipped_idle, skipped_trust;
};

/* job.c */
void thmqi_forecast_job_begin(struct thmq_forecast *f);
bool thmqi_forecast_job_step(struct thmq_forecast *f); /* false: it is done */

/* trust.c */
void thmqi_forecast_measure(struct thmq_forecast *f, double value); /* before it is taken in */
double thmqi_forecast_ratio(const struct thmq_forecast *f,
			    uint32_t model); /* of errors to naive's; 0: not known yet */
uint32_t thmqi_forecast_in_charge(const struct thmq_forecast *f);
/* Does this job decompose? Counts what it leaves out. */
bool thmqi_forecast_may_decompose(struct thmq_forecast *f);
bool thmqi_forecast_is_idle(const struct thmq_forecast *f); /* of the snapshot */
/* The value of @model's path for the tick that is @ahead ticks away, 1 the next one. False: it has none. */
bool thmqi_forecast_at(const struct thmq_forecast *f, uint32_t model, uint32_t ahead,
		       double *ret_value);

/* opts.c */
int thmqi_forecast_opts(const struct thmq_forecast_opts *opts, struct thmq_forecast_opts *ret_opts);
void thmqi_forecast_tune(struct thmqi_iceemdan *d, const struct thmq_forecast_opts *o);

#endif
