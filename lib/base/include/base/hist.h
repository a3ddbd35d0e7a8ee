/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist.h - a log-linear histogram of nanoseconds: each power of two is cut into eight equal parts, so that a value is known to an
 * eighth at worst. One writer, plain stores, no look-up. Knows not what is measured; doc/observing.md has it as it is published.
 */
#ifndef THMQI_BASE_HIST_H
#define THMQI_BASE_HIST_H

#include "base/base.h"

#define THMQI_HIST_BITS 3u    /* parts of a power of two: 2^3 */
#define THMQI_HIST_POWERS 40u /* values from 2^40 ns on (18 minutes) are in the last bucket */
#define THMQI_HIST_BUCKETS (((THMQI_HIST_POWERS - THMQI_HIST_BITS) << THMQI_HIST_BITS) + (1u << THMQI_HIST_BITS))

struct thmqi_hist {
	uint64_t sum, max;
	uint64_t counts[THMQI_HIST_BUCKETS];
};

static inline uint32_t thmqi_hist_bucket(uint64_t value)
{
	uint32_t top = 63u - (uint32_t)__builtin_clzll(value | 1), shift;

	if (value < 1u << THMQI_HIST_BITS)
		return (uint32_t)value;
	if (top >= THMQI_HIST_POWERS)
		return THMQI_HIST_BUCKETS - 1;
	shift = top - THMQI_HIST_BITS;
	return (shift << THMQI_HIST_BITS) + (uint32_t)(value >> shift);
}

/* The least value of a bucket. That of the one behind it is where it ends. */
static inline uint64_t thmqi_hist_from(uint32_t bucket)
{
	uint32_t part = bucket & ((1u << THMQI_HIST_BITS) - 1), shift = bucket >> THMQI_HIST_BITS;

	return shift ? (uint64_t)(part + (1u << THMQI_HIST_BITS)) << (shift - 1) : part;
}

static inline void thmqi_hist_add(struct thmqi_hist *h, uint64_t value)
{
	h->counts[thmqi_hist_bucket(value)]++;
	h->sum += value;
	if (thmqi_unlikely(value > h->max))
		h->max = value;
}

#endif
