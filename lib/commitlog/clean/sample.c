/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.c - is much of the log dead, behind an oldest segment of which much must be kept? A few segments, from everywhere, are judged as that one
 * was. If so, what must be kept moves up behind the newest, segment after segment, once around: it is written again for room that is worth it, and
 * no partition holds up the others for ever. Knows not how it is moved.
 */
#include "../internal.h"

#define SEGMENTS_MIN 4u /* with the active one: fewer are not worth it */
#define SAMPLES 8u
#define EXTENTS_BUDGET 256u
#define AGAIN_NS 60000000000ull /* what is dead grows with time too … */
#define GROWTH 4u               /* … and with each such part of the log that is appended */
/* So much of it is dead: each byte that is written again frees one or more. Near the limit less is worth it. */
#define DEAD_PART 2u
#define DEAD_PART_NEAR 8u

bool thmqi_sample_due(const struct thmq_log *log)
{
	const struct sample *m = &log->clean.sample;
	uint64_t end = log->chain.position, held = end - log->segments[0]->position;

	if (log->segment_count < SEGMENTS_MIN)
		return false;
	return !m->taken_ns || log->core->now_ns - m->taken_ns >= AGAIN_NS ||
	       end - m->taken_position >= held / GROWTH;
}

bool thmqi_sample_sweeps(const struct thmq_log *log)
{
	return log->segments[0]->position < log->clean.sample.sweep_end;
}

/* The next one that is sampled, or NULL: those are all. It may have gone when it is looked for again. */
static struct segment *next_segment(struct thmq_log *log)
{
	struct sample *m = &log->clean.sample;
	uint32_t sealed = log->segment_count - 1, step = THMQI_MAX(sealed / SAMPLES, 1u),
		 i = m->at * step;
	struct segment *s;

	m->at++;
	if (i >= sealed || m->at > SAMPLES)
		return NULL;
	s = log->segments[i];
	return s == log->sealing.segment || s->position + s->bytes > log->durable_position ? NULL
											   : s;
}

static bool is_there(const struct thmq_log *log, const struct segment *s)
{
	uint32_t i;

	for (i = 0; i + 1 < log->segment_count; i++)
		if (log->segments[i] == s)
			return true;
	return false;
}

bool thmqi_sample_waits(const struct thmq_log *log)
{
	const struct segment *s = log->clean.sample.segment;

	return s && is_there(log, s) && s->cold[SEGMENT_INDEX].busy;
}

void thmqi_sample_begin(struct thmq_log *log)
{
	struct sample *m = &log->clean.sample;

	*m = (struct sample){.taken_ns = THMQI_MAX(log->core->now_ns, 1u),
			     .taken_position = log->chain.position};
}

static bool is_near_limit(const struct thmq_log *log)
{
	return log->opts.limit_bytes &&
	       thmqi_log_file_bytes(log) + 2 * log->active->bytes > log->opts.limit_bytes;
}

static void conclude(struct thmq_log *log)
{
	struct sample *m = &log->clean.sample;
	uint64_t dead = m->bytes - m->live_bytes,
		 part = is_near_limit(log) ? DEAD_PART_NEAR : DEAD_PART;

	if (dead > m->bytes / part)
		m->sweep_end = log->active->position;
}

int thmqi_sample_step(struct thmq_log *log)
{
	struct sample *m = &log->clean.sample;
	uint32_t budget = EXTENTS_BUDGET;
	struct thmq_log_extent e;
	int rc, life;

	if (!m->segment) {
		m->segment = next_segment(log);
		if (!m->segment) {
			conclude(log);
			return 0;
		}
		thmqi_extents_begin(&m->extents, m->segment);
	}
	if (!is_there(log, m->segment)) {
		m->segment = NULL;
		return 1;
	}
	while (budget--) {
		rc = thmqi_extents_next(log, &m->extents, &e);
		if (rc == -EAGAIN)
			return rc;
		if (rc != 1) { /* its end; or it cannot be read, and others tell as much */
			m->segment = NULL;
			return 1;
		}
		m->bytes += e.bytes;
		life = log->events.live(log->opts.ctx, &e);
		if (life == THMQ_LOG_COMPACTS) /* each byte that is new may take the place of an older one, and most do */
			m->live_bytes += e.bytes - THMQI_MIN(e.bytes, m->extents.fresh_bytes);
		else if (life != THMQ_LOG_DEAD)
			m->live_bytes += e.bytes;
	}
	return 1;
}
