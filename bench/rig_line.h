/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_line.h - what the processors give two bare threads: a cache line that goes to the other CPU and back, and a
 * sleeper that is woken through an eventfd. The physical limits of in-process messages. Knows no queue.
 */
#ifndef RIG_LINE_H
#define RIG_LINE_H

#include "bench.h"

/* Round trips of one cache line between the calling thread, on @cpu_app, and a thread on @cpu_core. */
void rig_line_pingpong(int cpu_app, int cpu_core, unsigned count, struct bench_samples *ret);
/*
 * From the write to an eventfd on @cpu_app until the thread that slept on it on @cpu_core has answered in memory, which
 * the writer watches: one wake-up. The sleeper sleeps for about @gap_ns before each.
 */
void rig_line_wakeup(int cpu_app, int cpu_core, unsigned count, uint64_t gap_ns,
		     struct bench_samples *ret);

#endif
