/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.h - the timer wheel of a core: nine levels of 64 slots, each level 64 times as coarse as the one below it, so that
 * together they reach as far as 64 bits of nanoseconds do. Knows of a core its time only.
 *
 * A tick is 2^10 ns. A timer's place follows from the highest of its tick's 6-bit digits that differs from the base, which
 * is the tick up to which the wheel has looked: that digit's number is its level, the digit its slot. Hence whatever lies on
 * a lower level comes first, on one level whatever lies in a lower slot, and nothing lies below the base's own digit:
 * the next slot is found by two looks at bits, over any gap. A slot knows its earliest tick (a stop may leave it too early, never
 * too late), so that nobody wakes for the mere sake of a slot. It is spread over the levels below when that tick has come.
 *
 * After Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987.
 */
#ifndef THMQI_REACTOR_TIMER_H
#define THMQI_REACTOR_TIMER_H

#include "base/base.h"

#define TICK_BITS 10u
#define TIMER_LEVELS 9u
#define TIMER_SLOT_BITS 6u
#define TIMER_SLOTS (1u << TIMER_SLOT_BITS)

struct timers {
	uint64_t base;                 /* tick; never ahead of the core's time */
	uint64_t levels;               /* bit n: level n has timers */
	uint64_t filled[TIMER_LEVELS]; /* bit n: slot n has timers */
	struct thmqi_list due;         /* to be called, a budget of them in each iteration */
	struct thmqi_list moving;      /* from a slot to the levels below, likewise */
	struct thmqi_list never;       /* behind the last tick */
	uint64_t earliest[TIMER_LEVELS][TIMER_SLOTS];       /* tick, where the slot is filled */
	struct thmqi_list slots[TIMER_LEVELS][TIMER_SLOTS]; /* first started, first called */
};

#endif
