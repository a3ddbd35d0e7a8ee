/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.c - how fast batches are read from the device while producers wait for writes: as fast as these can bear. A device that
 * reads a backlog as fast as it can lets a small write wait behind all that it has taken; so while such writes go on, reads are
 * small, one at a time, and of so many bytes a second. The rate follows from what the writes take: it is halved by one that had
 * a read beside it and took much longer than they do without, and raised a little by each of the others. Where nobody
 * waits for a write there is no limit. Knows neither who reads nor what; looks at no clock.
 */
#include "internal.h"

#define ACTIVE_NS 10000000u /* behind the last such write its like may still come */
#define READ_BYTES (128u << 10)
#define BURST_BYTES (2 * (int64_t)READ_BYTES)
#define RATE_BEGIN (64ull << 20)
#define RATE_MIN (32ull << 20) /* who is far behind gets on */
#define RATE_MAX (1ull << 30)
#define RAISE                                                                                      \
	128u /* of the rate, by a write that was well: more than one slow one in 185 lowers it */
#define NS 1000000000ull

void thmqi_pace_init(struct thmq_log *log)
{
	log->pace.rate = RATE_BEGIN;
	log->pace.allowance = BURST_BYTES;
}

/* ------------------------------------------------------------------ writes */

void thmqi_pace_write(struct thmq_log *log, struct flight *flight)
{
	struct pace *p = &log->pace;

	flight->since_ns = log->core->now_ns;
	flight->reads_begun = p->begun;
	flight->beside = p->reading != 0;
	p->waited++;
}

/* What 31 of 32 writes do not exceed: in balance where one goes up as far as 31 go down. */
static void learn(struct pace *p, uint64_t ns)
{
	if (!p->usual_ns)
		p->usual_ns = 2 * ns;
	else if (ns > p->usual_ns)
		p->usual_ns += p->usual_ns / 8;
	else
		p->usual_ns -= p->usual_ns / (8 * 31);
}

void thmqi_pace_written(struct thmq_log *log, const struct flight *flight)
{
	struct pace *p = &log->pace;
	uint64_t ns = log->core->now_ns - flight->since_ns + 1;

	p->waited--;
	p->written_ns = log->core->now_ns;
	if (!flight->beside && flight->reads_begun == p->begun)
		learn(p, ns);
	else if (p->usual_ns && ns > p->usual_ns + p->usual_ns / 2)
		p->rate = THMQI_MAX(p->rate / 2, RATE_MIN);
	else
		p->rate = THMQI_MIN(p->rate + p->rate / RAISE, RATE_MAX);
}

/* ------------------------------------------------------------------- reads */

static bool is_limited(const struct thmq_log *log)
{
	return log->pace.waited ||
	       (log->pace.written_ns && log->core->now_ns - log->pace.written_ns < ACTIVE_NS);
}

uint32_t thmqi_pace_bytes(const struct thmq_log *log, uint32_t bytes)
{
	return is_limited(log) ? THMQI_MIN(bytes, READ_BYTES) : bytes;
}

static void on_time(struct thmqi_timer *t)
{
	thmqi_readers_wake(thmqi_container(t, struct thmq_log, pace.timer));
}

/* What has come since it was counted last; a long time's is no use. */
static void fill(struct pace *p, uint64_t now_ns)
{
	uint64_t ns = THMQI_MIN(now_ns - p->filled_ns, NS);

	p->filled_ns = now_ns;
	p->allowance =
		THMQI_MIN(p->allowance + (int64_t)(p->rate / 1024 * ns / (NS / 1024)), BURST_BYTES);
}

bool thmqi_pace_read(struct thmq_log *log, uint32_t bytes)
{
	struct pace *p = &log->pace;

	if (!is_limited(log)) {
		p->allowance = BURST_BYTES;
		p->filled_ns = log->core->now_ns;
		return true;
	}
	if (p->reading) /* its end wakes those that wait */
		return false;
	fill(p, log->core->now_ns);
	if (p->allowance > 0) {
		p->allowance -= bytes;
		return true;
	}
	if (!thmqi_timer_is_running(&p->timer)) {
		p->timer.fire = on_time;
		thmqi_timer_start(log->core, &p->timer,
				  log->core->now_ns + (uint64_t)(1 - p->allowance) * NS / p->rate +
					  1);
	}
	return false;
}
