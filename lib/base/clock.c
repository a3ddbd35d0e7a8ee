/* SPDX-License-Identifier: Apache-2.0 */
/* clock.c - the real clock behind the table. */
#include <time.h>

#include "base/base.h"

static uint64_t read_clock(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	return read_clock(CLOCK_MONOTONIC);
}

static uint64_t wall_ns(void *ctx)
{
	(void)ctx;
	return read_clock(CLOCK_REALTIME);
}

const struct thmqi_clock thmqi_clock_real = {.now_ns = now_ns, .wall_ns = wall_ns};
