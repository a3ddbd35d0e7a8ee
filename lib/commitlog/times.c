/* SPDX-License-Identifier: Apache-2.0 */
/* times.c - how long a batch waits, is written and is flushed: per batch, by the times that the loop knows anyway. */
#include "commitlog/times.h"
#include "internal.h"

struct log_times {
	struct thmqi_log_times pub;
	uint32_t every;
	uint64_t traced;      /* how many batches were looked at */
	uint64_t agreed;      /* up to this one a majority of the copies has them, … */
	uint64_t agreed_ns;   /* … since then */
	uint64_t oldest_ns;   /* first run of the oldest batch that somebody waits for and only a flush will prove; 0: there is none */
	uint64_t flushing_ns; /* the flush that is under way began then, … */
	uint64_t covered_ns;  /* … and this is the oldest that it will prove */
};

const struct thmqi_log_times *thmqi_log_times(struct thmq_log *log, uint32_t every)
{
	if (!log->disk)
		return NULL;
	if (!log->times)
		log->times = calloc(1, sizeof(*log->times));
	if (!log->times)
		return NULL;
	log->times->every = every;
	return &log->times->pub;
}

static uint64_t since(const struct thmq_log *log, uint64_t ns)
{
	uint64_t now = log->core->now_ns;

	return now > ns ? now - ns : 0;
}

static void trace(struct log_times *t, const struct flight *flight, uint64_t now)
{
	struct thmqi_log_trace *to = &t->pub.traces[t->traced % THMQI_LOG_TRACES];

	*to = (struct thmqi_log_trace){.number = ++t->traced,
				       .index = flight->index,
				       .position = flight->position,
				       .bytes = flight->len,
				       .begun_ns = flight->begun_ns,
				       .given_ns = flight->given_ns,
				       .written_ns = flight->written_ns,
				       .durable_ns = flight->dsync ? now : 0,
				       .agreed_ns = flight->index <= t->agreed ? t->agreed_ns : 0}; /* others were faster than our own device */
}

/* Most go to the device at once, and last once they are written: what is measured is the same then. */
void thmqi_times_settled(struct thmq_log *log, const struct flight *flight)
{
	struct log_times *t = log->times;
	uint64_t wait = flight->given_ns - flight->begun_ns, write = flight->written_ns - flight->given_ns;

	thmqi_hist_add(&t->pub.write, write);
	if (thmqi_likely(!wait))
		t->pub.wait.counts[0]++;
	else
		thmqi_hist_add(&t->pub.wait, wait);
	if (flight->dsync)
		thmqi_hist_add(&t->pub.durable, log->core->now_ns - flight->begun_ns);
	else if (flight->needs_durable && !t->oldest_ns)
		t->oldest_ns = flight->begun_ns;
	if (thmqi_unlikely(t->every) && flight->index % t->every == 0)
		trace(t, flight, log->core->now_ns);
}

void thmqi_log_times_agreed(struct thmq_log *log, uint64_t index)
{
	struct log_times *t = log->times;
	uint32_t i;

	if (!t || !t->every)
		return;
	t->agreed = index;
	t->agreed_ns = log->core->now_ns;
	for (i = 0; i < THMQI_LOG_TRACES; i++) {
		struct thmqi_log_trace *one = &t->pub.traces[i];

		if (one->number && !one->agreed_ns && one->index <= index)
			one->agreed_ns = t->agreed_ns;
	}
}

void thmqi_times_flush(struct thmq_log *log)
{
	struct log_times *t = log->times;

	t->flushing_ns = log->core->now_ns;
	t->covered_ns = t->oldest_ns;
	t->oldest_ns = 0;
}

void thmqi_times_flushed(struct thmq_log *log, bool proves)
{
	struct log_times *t = log->times;
	uint32_t i;

	thmqi_hist_add(&t->pub.flush, since(log, t->flushing_ns));
	if (!proves) {
		t->oldest_ns = t->covered_ns ? t->covered_ns : t->oldest_ns;
		return;
	}
	if (t->covered_ns)
		thmqi_hist_add(&t->pub.durable, since(log, t->covered_ns));
	for (i = 0; t->every && i < THMQI_LOG_TRACES; i++) {
		struct thmqi_log_trace *one = &t->pub.traces[i];

		if (one->number && !one->durable_ns && one->index <= log->flush_index)
			one->durable_ns = log->core->now_ns;
	}
}
