/* SPDX-License-Identifier: Apache-2.0 */
/* keys.h - where records with a key are: of a segment that has no index yet in memory, else in pages of its index. */
#ifndef THMQI_COMMITLOG_KEYS_H
#define THMQI_COMMITLOG_KEYS_H

#include "../internal.h"

#define KEYS_MAX                                                                                   \
	(4u << 20) /* of one segment: 128 MiB; look-ups in one that has more read its batches */
#define KEY_CHUNK 8192u /* a power of two below 65536 */

/* A record with a key. Two keys may have one hash: who reads the record compares. */
struct key {
	uint64_t hash; /* thmqi_key_hash() */
	uint64_t offset;
	int64_t time_ns;
	uint32_t batch; /* place in the segment */
	uint32_t
		at; /* bytes from the begin of the batch to its run, a multiple of 8; bit 0: that was appended again */
};

/* In the order in which they were appended. A mapping of its own, so that there is no heap and nothing is ever moved. */
struct key_chunk {
	struct key_chunk *older, *newer;
	uint32_t count;
	uint16_t heads[KEY_CHUNK];  /* by hash: newest, place + 1; 0: none */
	uint16_t before[KEY_CHUNK]; /* of each the next older one with that head, likewise */
	struct key keys[KEY_CHUNK];
};

uint64_t thmqi_key_hash(uint32_t partition, const void *key, uint32_t len);

/* A run of batch number batch_count of @s begins @at bytes behind its begin. What cannot be kept makes s->keys.missing true. */
void thmqi_keys_note(struct thmq_log *log, struct segment *s, const struct thmq_run_header *run,
		     uint32_t at);
void thmqi_keys_put(struct thmq_log *log, struct segment *s, const struct key *key);
void thmqi_keys_drop(struct thmq_log *log, struct segment *s); /* all; their memory serves again */
void thmqi_keys_cut(struct thmq_log *log,
		    struct segment *s); /* those of batches from batch_count on */
void thmqi_keys_fini(struct thmq_log *log);

static inline uint16_t *thmqi_key_head(struct key_chunk *c, uint64_t hash)
{
	return &c->heads[hash % KEY_CHUNK];
}

/* image_keys.c: a step of image.c's, once all runs are gathered. Return: work done; image->done is set at the end. */
uint32_t thmqi_image_keys(struct seal_image *image, uint32_t budget);

#endif
