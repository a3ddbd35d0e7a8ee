/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_disk.h - what the device and the file system give a bare writer or reader: io_uring, O_DIRECT, registered buffer
 * and file, on a preallocated file of real zeros. The physical limit that the log is held against. Knows no log.
 */
#ifndef RIG_DISK_H
#define RIG_DISK_H

#include "bench.h"

struct rig_disk;

/* How the bare writer waits for a completion. */
enum rig_wait {
	RIG_WAIT, /* sleeps in the kernel */
	RIG_SPIN  /* watches the completion queue */
};

/* A zero-filled file of @bytes in @dir. Exits on failure. To be used by the opening thread only. */
struct rig_disk *rig_disk_open(const char *dir, uint64_t bytes);
void rig_disk_close(struct rig_disk *d);
/* @count writes of one 4 KiB block, one at a time, each with the flush flag (RWF_DSYNC), in sequence. */
void rig_disk_latency(struct rig_disk *d, enum rig_wait how, unsigned count,
		      struct bench_samples *ret);
struct rig_arrivals {
	uint64_t per_s;
	uint32_t burst; /* so many are due at once */
	uint32_t bytes; /* of each, as it is stored */
};

/*
 * The least that a log can do: @count messages are due at their times whatever the device does; what is due by the end of one write, with the flush
 * flag, is the next one. A sample is the time from when a message was due until it is stored. So a device that stands still is waited for by all that
 * are due meanwhile, as producers see it.
 */
void rig_disk_arrivals(struct rig_disk *d, const struct rig_arrivals *a, uint64_t count, struct bench_samples *ret);
/* @bytes in writes of @write_bytes with @depth of them in flight, flushed each or not at all. Return: bytes a second. */
double rig_disk_stream(struct rig_disk *d, uint32_t write_bytes, unsigned depth, uint64_t bytes,
		       bool dsync);

/* Once, before the file is read: bytes that no device takes for zeros. */
void rig_disk_fill(struct rig_disk *d);
/* @bytes from the begin of the file on, in reads of @read_bytes with @depth of them in flight. Return: bytes a second. */
double rig_disk_read_stream(struct rig_disk *d, uint32_t read_bytes, unsigned depth,
			    uint64_t bytes);
/* @count times @parts reads at random places, one after the other, of lens[0], lens[1] … bytes: a sample is the sum of one time. */
void rig_disk_read_random(struct rig_disk *d, const uint32_t *lens, unsigned parts, unsigned count,
			  struct bench_samples *ret);
struct rig_reads {
	uint32_t bytes;       /* of each */
	unsigned depth;       /* in flight at most; 0: none */
	uint64_t bytes_per_s; /* of all of them; 0: as many as the device gives */
};

/* rig_disk_latency(), spinning, with such reads all the while. */
void rig_disk_latency_beside(struct rig_disk *d, const struct rig_reads *r, unsigned count,
			     struct bench_samples *ret);

#endif
