/* SPDX-License-Identifier: Apache-2.0 */
/*
 * head.h - the part of an index file that an open reads: header, states, partitions, fences. Of a full segment it is all that is
 * read (sealed.c); of one that was being filled the rest is read too (part.c).
 */
#ifndef THMQI_COMMITLOG_HEAD_H
#define THMQI_COMMITLOG_HEAD_H

#include "../stream.h"
#include "seal_format.h"

struct head {
	struct thmqi_disk_file *file;
	uint8_t *data;
	uint64_t file_bytes;
	bool trusted; /* planted: its checksums are not looked at */
	bool part;    /* it is to be of a segment that was being filled */
};

static inline const struct seal_header *thmqi_head_header(const struct head *x)
{
	return (const struct seal_header *)x->data;
}

static inline const struct seal_section_entry *thmqi_head_section(const struct head *x,
								  uint32_t kind)
{
	return &thmqi_head_header(x)->sections[kind - 1];
}

static inline const void *thmqi_head_bytes(const struct head *x, uint32_t kind)
{
	return x->data + thmqi_head_section(x, kind)->offset;
}

/*
 * sealed.c. The file in @ahead becomes x->file, whatever comes of it. Return: 1 all of it is there and good, and goes on from
 * the chain; 0 it does not; or -ENOMEM.
 */
int thmqi_head_read(struct thmq_log *log, const struct segment *s, const struct ahead_head *ahead,
		    struct head *x);
void thmqi_head_close(struct thmq_log *log, struct head *x);
/* To the owner: what the segment, whose batches are counted, has of states, and of one partition. Return: 0, or the owner's. */
int thmqi_head_replay_states(struct thmq_log *log, const struct head *x, const struct segment *s);
int thmqi_head_replay_partition(struct thmq_log *log, const struct segment *s,
				const struct seal_partition *p);

/* Number of the batch of @s that begins at @block; they rise. */
uint32_t thmqi_head_batch_at(const struct segment *s, uint32_t block);
/* Into memory. Return: 0; -ENOMEM. */
int thmqi_head_put_run(struct thmq_log *log, struct run_index *x, const struct segment *s,
		       const struct seal_run *run, bool moved, int64_t moved_time_ns);
void thmqi_head_put_keys(struct thmq_log *log, struct segment *s, const struct seal_key_page *page);

/* part.c: see there. */
int thmqi_part_load(struct thmq_log *log, struct segment *s, struct stream *stream,
		    struct batch_header *ret_last);

#endif
