/* SPDX-License-Identifier: Apache-2.0 */
/*
 * survey.c - what a log's directory and the tails of its segments tell, for recovery and for the scan: which segments there
 * are, and what later headers know of the bytes before them. Changes nothing.
 */
#include <stdio.h>

#include "internal.h"
#include "survey.h"
#include "index/seal_format.h"

#define INDEX_SUFFIX_AT 21 /* of a name: 20 digits and a dot before it */

/* --------------------------------------------------------------- directory */

static int add_segment(struct listing *l, uint64_t position)
{
	uint64_t *grown;

	if (l->count == l->room) {
		uint32_t room = l->room ? l->room * 2 : 64;

		grown = realloc(l->positions, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		l->positions = grown;
		l->room = room;
	}
	l->positions[l->count++] = position;
	return 1;
}

int thmqi_listing_note(struct listing *l, const char *name)
{
	unsigned long long position;
	char canonical[40];

	if (strcmp(name, "vote") == 0)
		l->vote = true;
	if (strcmp(name, "vote") == 0 || strcmp(name, "next.tmp") == 0 || strcmp(name, SEAL_TEMPORARY) == 0 ||
	    strcmp(name, SEAL_PART_NAME) == 0 || strcmp(name, "lock") == 0)
		return 1;
	if (sscanf(name, "%20llu.", &position) != 1)
		return 0;
	thmqi_segment_name(position, canonical);
	if (strcmp(name, canonical) == 0)
		return add_segment(l, position);
	memcpy(canonical + INDEX_SUFFIX_AT, "idx", 4);
	return strcmp(name, canonical) == 0;
}

static int by_position(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

void thmqi_listing_sort(struct listing *l)
{
	if (l->count)
		qsort(l->positions, l->count, sizeof(*l->positions), by_position);
}

/* ------------------------------------------------------------------- claims */

void thmqi_claims_note(struct claims *c, const struct batch_header *h)
{
	if (!thmqi_batch_local_ok(h))
		return;
	c->durable = THMQI_MAX(c->durable, h->durable_position);
	c->incarnation = THMQI_MAX(c->incarnation, h->incarnation);
}

static void look_at(struct claims *c, const struct place_to_look *l, const struct batch_header *h, uint64_t at)
{
	if (h->magic != BATCH_MAGIC || !thmqi_batch_header_ok(h, l->position + at, l->vote->log_id) ||
	    !thmqi_batch_local_ok(h) || h->incarnation < l->vote->incarnation)
		return;
	thmqi_claims_note(c, h);
	c->end = THMQI_MAX(c->end, h->position + h->len);
}

/* Each block from @at to @stop. Return: 1; 0 the file ends before; or an error. */
static int look(struct claims *c, const struct place_to_look *l, uint64_t at, uint64_t stop)
{
	const void *data;
	int64_t n, i;

	thmqi_file_stream_begin(l->stream, l->file, at, stop);
	for (n = 1; n > 0 && at < stop; at += (uint64_t)n) {
		n = thmqi_file_stream_get(l->stream, at, (uint32_t)THMQI_MIN(stop - at, (uint64_t)STREAM_PIECE_BYTES), &data);
		n -= n > 0 ? n % THMQI_BLOCK : 0;
		for (i = 0; i < n; i += THMQI_BLOCK)
			look_at(c, l, (const struct batch_header *)((const uint8_t *)data + i), at + (uint64_t)i);
	}
	thmqi_file_stream_end(l->stream);
	return (int)THMQI_MIN(n, 1);
}

int thmqi_claims_look(struct claims *c, const struct place_to_look *l, uint64_t at)
{
	return THMQI_MIN(look(c, l, at, INT64_MAX), 0);
}

int thmqi_claims_look_near(struct claims *c, const struct place_to_look *l, uint64_t at, uint64_t bytes)
{
	uint64_t near, stop, far = THMQI_MAX(LOOK_BYTES, (uint64_t)l->vote->look_mib << 20);
	int rc;

	while (at < bytes) {
		near = c->end + far - THMQI_MIN(c->end + far, l->position);
		if (at < near) {
			stop = near;
		} else if (at % LOOK_EVERY_BYTES < BATCH_BYTES_MAX) {
			stop = at - at % LOOK_EVERY_BYTES + BATCH_BYTES_MAX;
		} else {
			at += LOOK_EVERY_BYTES - at % LOOK_EVERY_BYTES;
			continue;
		}
		stop = THMQI_MIN(stop, bytes);
		rc = look(c, l, at, stop);
		if (rc != 1)
			return rc;
		at = stop;
	}
	return 0;
}

int thmqi_segment_file_open(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, uint64_t position,
			    struct thmqi_disk_file **ret_file)
{
	char name[40];

	thmqi_segment_name(position, name);
	return disk->file_open(dir, name, false, ret_file);
}
