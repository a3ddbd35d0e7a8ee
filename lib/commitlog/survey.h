/* SPDX-License-Identifier: Apache-2.0 */
/* survey.h - what a directory and the headers in it tell of a log, before it is open and without one. */
#ifndef THMQI_COMMITLOG_SURVEY_H
#define THMQI_COMMITLOG_SURVEY_H

#include "stream.h"

struct listing {
	uint64_t *positions; /* of segments, rising once sorted */
	uint32_t count, room;
	bool vote;
};
/* 1 it is a log's file; 0 it is not; -ENOMEM. */
int thmqi_listing_note(struct listing *l, const char *name);
void thmqi_listing_sort(struct listing *l);

/* What headers say of the log besides their own batches. */
struct claims {
	uint64_t durable;     /* all below it is known to have been durable */
	uint64_t end;         /* where the last batch of the last owner ends, as far as can be seen */
	uint64_t incarnation; /* highest that wrote */
};
void thmqi_claims_note(struct claims *c, const struct batch_header *h);
struct place_to_look {
	struct stream *stream;
	struct thmqi_disk_file *file; /* a segment's */
	const struct vote *vote;
	uint64_t position; /* of its first byte */
};

/*
 * The blocks of a segment from byte @at on: a later header of the last incarnation says that what lies before some position was
 * durable when it was formed. If the log ends below that, bytes that were acknowledged are gone.
 */
int thmqi_claims_look(struct claims *c, const struct place_to_look *l, uint64_t at);

/*
 * Likewise up to @bytes, but not all of them. Batches have no gaps between them: a header is missing where it should be only
 * if its write is, so that a hole is as long as what was lost in one stretch. The blocks up to LOOK_BYTES behind the last header
 * that was found (c->end) are looked at: more than a log has unflushed at a time as its options are by default (16 writes of
 * 1 MiB, and 64 MiB that wait for a flush, and a batch of 4 MiB); where they allowed more, `vote` says so (look_mib). Of the rest the first BATCH_BYTES_MAX of each
 * LOOK_EVERY_BYTES are: no batch is longer, so that one begins there if the log went over it. What is missed is a hole that is
 * longer than LOOK_BYTES with less than LOOK_EVERY_BYTES + BATCH_BYTES_MAX behind it, above the mark. The first block of a
 * segment, where a batch begins if any does, is always looked at.
 */
#define LOOK_BYTES (128ull << 20)
#define LOOK_EVERY_BYTES (128ull << 20)
int thmqi_claims_look_near(struct claims *c, const struct place_to_look *l, uint64_t at, uint64_t bytes);

/* The file of the segment at @position, to be closed by the caller. 0 or an error. */
int thmqi_segment_file_open(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, uint64_t position,
			    struct thmqi_disk_file **ret_file);

/* create.c */
/* There is no valid `vote`: 1 the making of a log was cut short, what is left of it is removed; or an error. */
int thmqi_log_clear_leftovers(struct thmq_log *log, const struct listing *l);

#endif
