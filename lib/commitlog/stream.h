/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - bytes of a file front to back, for those that block: while some are looked at the next ones are on their way, so
 * that device and processor work side by side.
 */
#ifndef THMQI_COMMITLOG_STREAM_H
#define THMQI_COMMITLOG_STREAM_H

#include "internal.h"

/* Eight reads of 1 MiB are what a device needs to give all it has, and more memory would have to be touched. */
#define STREAM_PIECE_BYTES (1u << 20)
#define STREAM_PIECES 8u
#define STREAM_LEN_MAX BATCH_BYTES_MAX /* of what is asked for at once */

struct stream_piece {
	struct thmqi_disk_op op;
	struct stream *stream;
	int64_t result; /* bytes, or an error */
	bool reading;
};

struct stream {
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_queue *queue; /* NULL: what is asked for is read then */
	uint8_t *memory; /* room for what lies before the first piece, then the pieces */
	struct thmqi_disk_file *file;
	uint64_t origin, end; /* what is read of the file */
	uint64_t first,
		next; /* pieces that are there or on their way: first … next - 1, numbered from origin */
	uint32_t ahead; /* so many are on their way at a time: more and more */
	struct stream_piece pieces[STREAM_PIECES];
};

int thmqi_file_stream_init(struct stream *x, const struct thmqi_disk_table *disk,
		      struct thmqi_disk_queue *queue); /* 0; -ENOMEM */
void thmqi_file_stream_fini(struct stream *x);              /* also of one that is all zero */
/* From byte @at of @file on, a multiple of THMQI_BLOCK, to @end; nothing is read yet. What was read of another is forgotten. */
void thmqi_file_stream_begin(struct stream *x, struct thmqi_disk_file *file, uint64_t at, uint64_t end);
void thmqi_file_stream_end(
	struct stream *x); /* nothing is on its way any more: the file may be closed */
/*
 * Up to @len bytes at @at, which never goes back; valid until the next call. Return: how many are there (fewer where the file or
 * what was asked for ends); or an error.
 */
int64_t thmqi_file_stream_get(struct stream *x, uint64_t at, uint32_t len, const void **ret_data);

#endif
