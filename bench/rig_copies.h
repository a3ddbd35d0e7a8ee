/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_copies.h - what three copies cost at least: three bare writers with flush (io_uring, O_DIRECT, files of real zeros) and two connections over loopback, all in one
 * thread: an entry is written here and sent to the two others, which write it and answer; it counts when two of three have it. The limit that replication is
 * held against. Knows no log.
 */
#ifndef RIG_COPIES_H
#define RIG_COPIES_H

#include "bench.h"

struct rig_copies;

/* Files of @bytes each in @dir. Exits on failure. To be used by the opening thread only. */
struct rig_copies *rig_copies_open(const char *dir, uint64_t bytes);
void rig_copies_close(struct rig_copies *r);
/*
 * @count entries of @len bytes, a multiple of 4096 up to 1 MiB, with @depth of them on their way. @ret NULL: not wanted; the time of each until two have it.
 * Return: bytes a second until two have all.
 */
double rig_copies_run(struct rig_copies *r, uint32_t len, unsigned depth, unsigned count,
		      struct bench_samples *ret);

#endif
