/* SPDX-License-Identifier: Apache-2.0 */
/*
 * duty.h - what a core spends its time on: busy, idle, asleep, away; and how long its iterations are. Knows nothing of what
 * they do.
 *
 * All follows from the looks at the clock that the loop takes anyway: behind an iteration in which something was done, once in 16 idle
 * ones, around a sleep, and where the host comes and goes. Idle iterations between two looks have their average as length; where one
 * of them was slow the next one is looked at alone, and what the others cannot have taken was the slow one's. Where an iteration's time
 * went is measured only if asked for: that takes a look at the clock for each part.
 *
 * Written by the core's thread, word by word, and read by any: what has to fit together is written between two counts of seq.
 */
#ifndef THMQI_REACTOR_DUTY_H
#define THMQI_REACTOR_DUTY_H

#include <thundermq/reactor.h>

#include "base/base.h"

/* What the time up to the next look at the clock goes to. */
enum duty_state { DUTY_RUNS, DUTY_SLEEPS, DUTY_AWAY };

struct duty {
	uint64_t looked_ns,
		looked_loops; /* last look at the clock, and the core's iterations by then */
	uint64_t round_ns;    /* what an idle iteration takes */
	uint32_t state;       /* enum duty_state */
	_Atomic uint32_t seq; /* odd: being written */
	uint64_t slow_ns;     /* a number of iterations, one of which was slow: not counted yet */
	uint64_t slow_rounds; /* 0: there are none */
	bool look_again;      /* after the next iteration */
	uint64_t begin_ns, begin_loops; /* since when is counted */
	struct thmq_core_stats stats;
	/* of the running iteration, if it is measured */
	uint64_t marked_ns; /* 0: it is not */
	uint64_t phase_ns[THMQ_CORE_PHASES];
	uint64_t poller_ns; /* of the slowest */
	char poller[THMQ_POLLER_NAME];
};

void thmqi_duty_init(struct duty *d, uint64_t now);
/* A look at the clock, @loops iterations after the beginning; the last one did something, or nothing. */
void thmqi_duty_busy(struct duty *d, uint64_t loops, uint64_t now);
void thmqi_duty_idle(struct duty *d, uint64_t loops, uint64_t now);
/* Likewise, behind a sleep or the host's own doing. */
void thmqi_duty_back(struct duty *d, uint64_t now);
void thmqi_duty_reset(struct duty *d);
void thmqi_duty_copy(const struct duty *d, const struct thmqi_clock *clock, const uint64_t *loops,
		     struct thmq_core_stats *ret);

/* An iteration is measured. Each mark ends a phase, and returns what it took since the last mark. */
void thmqi_duty_begin(struct duty *d, uint64_t now);
uint64_t thmqi_duty_mark(struct duty *d, const struct thmqi_clock *clock, uint32_t phase);
void thmqi_duty_poller(struct duty *d, const char *name, uint64_t ns);

#endif
