/* SPDX-License-Identifier: Apache-2.0 */
/*
 * times.h - how long a log's batches take, and where: for whoever publishes it. All by the log's thread. Times are those of the core's loop,
 * which looks at the clock when something has happened, and once in sixteen idle rounds.
 */
#ifndef THMQI_COMMITLOG_TIMES_H
#define THMQI_COMMITLOG_TIMES_H

#include "base/hist.h"

struct thmq_log;

enum { THMQI_LOG_TRACES = 32 };

/* One batch that was looked at. */
struct thmqi_log_trace {
	uint64_t number; /* of all that were, from 1; 0: none */
	uint64_t index, position;
	uint64_t bytes;
	uint64_t begun_ns;   /* its first run was appended (monotonic, as all of them) */
	uint64_t given_ns;   /* the device got it */
	uint64_t written_ns; /* and had written it */
	uint64_t durable_ns; /* all up to it lasts; 0: not yet */
	uint64_t agreed_ns;  /* a majority of the copies has all up to it; 0: not yet, or there is one copy */
};

struct thmqi_log_times {
	struct thmqi_hist wait;    /* from a batch's first run to its write's begin */
	struct thmqi_hist write;   /* of a batch, at the device */
	struct thmqi_hist flush;   /* at the device */
	struct thmqi_hist durable; /* from a batch's first run until it lasts, where somebody waits for that */
	struct thmqi_log_trace traces[THMQI_LOG_TRACES]; /* the newest, by number */
};

/* From now on it is measured; each @every-th batch is looked at (0: none). NULL: no memory, or a log without a directory. */
const struct thmqi_log_times *thmqi_log_times(struct thmq_log *log, uint32_t every);
/* A majority of the copies has all up to @index. */
void thmqi_log_times_agreed(struct thmq_log *log, uint64_t index);

#endif
