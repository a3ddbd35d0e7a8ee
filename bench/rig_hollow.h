/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_hollow.h - a log of any size in seconds: the library's own log, on a disk that stores of full segments only what an
 * open looks at. Their batches' headers are written, and all of their index files; the bodies are holes. The segment in which
 * the log ends is whole. Knows the library's inner headers; nothing of it is measured.
 */
#ifndef RIG_HOLLOW_H
#define RIG_HOLLOW_H

#include <stdint.h>

struct rig_hollow_opts {
	const char *dir; /* a closed log that is there already */
	uint64_t bytes;  /* how long it becomes at least; it ends behind the begin of a segment */
	uint32_t first_partition, partitions; /* whose messages these are, in turns */
	uint64_t next_offset;                 /* of all of them */
	uint32_t run_bytes;                   /* of each run, which holds one message */
};

/* Return: bytes of the segment in which it ends, and in *@ret_used how many of them it has. Exits on failure. */
uint64_t rig_hollow_extend(const struct rig_hollow_opts *o, uint64_t *ret_used);

#endif
