/* SPDX-License-Identifier: Apache-2.0 */
/* seal_format.h - the bytes of a sealed index; doc/format.md is their specification. */
#ifndef THMQI_COMMITLOG_SEAL_FORMAT_H
#define THMQI_COMMITLOG_SEAL_FORMAT_H

#include "base/base.h"

#define SEAL_MAGIC 0x31494854u /* "THI1" */
#define SEAL_TEMPORARY "index.tmp"
#define SEAL_PART_NAME "open.idx" /* of the segment that fills: one for a log */
#define SEAL_BYTES_MAX (2ull << 30) /* section offsets and what is read at once are bounded */
#define SEAL_PAGE 4096u             /* what a look-up reads; its last 4 bytes are seal_page_crc() */

/* In the order in which they lie in the file: an open reads up to SEAL_BATCHES, look-ups read pages of the rest. */
enum seal_section {
	SEAL_STATES = 1,
	SEAL_STATE_BYTES,
	SEAL_PARTITIONS, /* pages */
	SEAL_RUN_FENCES,
	SEAL_KEY_FENCES,
	SEAL_BATCHES,
	SEAL_KEYS, /* pages */
	SEAL_RUNS, /* pages */
	SEAL_KEY_FILTER,
	SEAL_SECTIONS = 9
};

static inline bool seal_has_pages(uint32_t kind)
{
	return kind == SEAL_PARTITIONS || kind == SEAL_KEYS || kind == SEAL_RUNS;
}

#define SEAL_KEYS_MISSING 1u /* flag: there were too many, or no memory: the segment may have keys, and says which */
#define SEAL_PART 2u         /* flag: the segment goes on behind the last batch; else it is full */

#define SEAL_TERMS 32u

/* From this batch on. */
struct seal_term {
	uint64_t index;
	uint64_t term;
};

struct seal_section_entry {
	uint32_t kind; /* enum seal_section */
	uint32_t count;
	uint64_t offset; /* in the file */
	uint64_t bytes;
	uint32_t crc; /* of these bytes */
	uint32_t reserved;
};

struct seal_header {
	uint32_t magic;
	uint32_t version;
	uint64_t position; /* of its segment */
	uint8_t log_id[16];
	uint64_t first_index; /* of the segment's first batch */
	uint64_t last_index;
	uint64_t last_term;
	uint32_t prev_crc; /* what the first batch continues */
	uint32_t last_crc; /* header_crc of the last batch: the index fits this segment and no other */
	uint32_t section_count;
	uint32_t flags; /* SEAL_KEYS_MISSING, SEAL_PART */
	int64_t time_max_ns; /* largest time of its messages */
	int64_t key_time_min_ns; /* smallest and largest of those with a key; both 0: there are none */
	int64_t key_time_max_ns;
	struct seal_section_entry sections[SEAL_SECTIONS];
	struct seal_term terms[SEAL_TERMS]; /* of a part, and of one of several copies, as many as its batches have; 0 from there on */
	uint8_t zero[4096 - 96 - SEAL_SECTIONS * 32 - SEAL_TERMS * 16 - 4];
	uint32_t header_crc; /* of all before it */
};
_Static_assert(offsetof(struct seal_header, sections) == 96, "as in doc/format.md");
_Static_assert(offsetof(struct seal_header, terms) == 384, "as in doc/format.md");
_Static_assert(sizeof(struct seal_header) == SEAL_PAGE, "one block");

struct seal_partition {
	uint32_t partition;
	uint32_t first; /* of its runs */
	uint32_t count; /* of its runs; 0: a free place */
	uint32_t moved; /* the first so many of these were appended again by a cleaner */
	uint64_t begin_offset; /* of its other runs; both 0: there are none */
	uint64_t end_offset;
	uint64_t moved_begin; /* of those that were moved; both 0: there are none */
	uint64_t moved_end;
	uint64_t messages; /* offsets that its runs cover */
	uint64_t bytes;    /* of its runs, headers included */
	int64_t last_time_ns;
	int64_t moved_time_ns; /* largest of those that were moved */
	uint64_t last_term; /* of the batch of its last run */
};
_Static_assert(sizeof(struct seal_partition) == 88, "as in doc/format.md");

/* A partition lies in the page that its hash says, or where that one is full in the next that is not. */
#define SEAL_PAGE_PARTITIONS 46u
#define SEAL_PAGE_PARTITIONS_USUAL 35u /* so many pages that this is their mean */

struct seal_partition_page {
	struct seal_partition entries[SEAL_PAGE_PARTITIONS];
	uint8_t zero[44];
	uint32_t crc;
};
_Static_assert(sizeof(struct seal_partition_page) == SEAL_PAGE, "a page");

struct seal_run {
	uint64_t base_offset;
	int64_t time_max_ns; /* largest of its partition in this segment up to this run */
	uint32_t block;      /* where its batch begins in the segment */
	uint32_t at;         /* bytes from the begin of the batch */
	uint32_t span;
	uint32_t blocks; /* of its batch */
	uint64_t tag_filter;
};
_Static_assert(sizeof(struct seal_run) == 40, "as in doc/format.md");

#define SEAL_PAGE_RUNS 102u

struct seal_run_page {
	struct seal_run runs[SEAL_PAGE_RUNS];
	uint8_t zero[12];
	uint32_t crc;
};
_Static_assert(sizeof(struct seal_run_page) == SEAL_PAGE, "a page");

/* Of the first run of a page. */
struct seal_fence {
	uint64_t base_offset;
	int64_t time_max_ns;
};
_Static_assert(sizeof(struct seal_fence) == 16, "as in doc/format.md");

/* A record with a key, sorted by seal_key_rank(), those of one rank as they were appended. */
struct seal_key {
	uint64_t hash; /* of key and partition */
	uint64_t offset;
	int64_t time_ns;
	uint32_t block; /* where its batch begins in the segment */
	uint32_t place; /* seal_key_place(); 0: the page has no more */
};
_Static_assert(sizeof(struct seal_key) == 32, "as in doc/format.md");

#define SEAL_PAGE_KEYS 127u

struct seal_key_page {
	struct seal_key keys[SEAL_PAGE_KEYS];
	uint8_t zero[28];
	uint32_t crc;
};
_Static_assert(sizeof(struct seal_key_page) == SEAL_PAGE, "a page");

static inline uint32_t seal_key_rank(uint64_t hash)
{
	return (uint32_t)(hash >> 32);
}

/* Its run begins @at bytes behind the begin of a batch of @blocks; @moved: it was appended again. */
static inline uint32_t seal_key_place(uint32_t at, uint32_t blocks, bool moved)
{
	return at / 8 << 11 | (uint32_t)moved << 10 | ((blocks - 1) & 1023);
}

static inline uint32_t seal_key_at(const struct seal_key *key)
{
	return key->place >> 11 << 3;
}

static inline bool seal_key_moved(const struct seal_key *key)
{
	return key->place >> 10 & 1;
}

static inline uint32_t seal_key_blocks(const struct seal_key *key)
{
	return (key->place & 1023) + 1;
}

/*
 * A filter of all hashes (Bloom, in blocks of 64 bytes: Putze, Sanders, Singler 2007): a byte for each different one, of which
 * five bits in one block are set. It says of one in forty that are not there that they are.
 */
#define SEAL_FILTER_BLOCK 64u
#define SEAL_FILTER_BITS 5u

static inline uint32_t seal_filter_bytes(uint32_t distinct)
{
	return THMQI_ALIGN_UP(distinct, SEAL_PAGE);
}

static inline uint8_t *seal_filter_block(const uint8_t *filter, uint32_t bytes, uint64_t hash)
{
	return (uint8_t *)(uintptr_t)filter + ((uint64_t)seal_key_rank(hash) * (bytes / SEAL_FILTER_BLOCK) >> 32) * SEAL_FILTER_BLOCK;
}

/* Which bit of its block is number @i of a hash's. */
static inline uint32_t seal_filter_bit(uint64_t hash, uint32_t i)
{
	return (uint32_t)((hash * 0x9e3779b97f4a7c15ull) >> (55 - 9 * i)) & 511;
}

static inline void seal_filter_add(uint8_t *filter, uint32_t bytes, uint64_t hash)
{
	uint8_t *block = seal_filter_block(filter, bytes, hash);
	uint32_t i, bit;

	for (i = 0; i < SEAL_FILTER_BITS; i++) {
		bit = seal_filter_bit(hash, i);
		block[bit / 8] |= (uint8_t)(1u << bit % 8);
	}
}

static inline bool seal_filter_has(const uint8_t *filter, uint32_t bytes, uint64_t hash)
{
	const uint8_t *block = seal_filter_block(filter, bytes, hash);
	uint32_t i, bit;

	for (i = 0; i < SEAL_FILTER_BITS; i++) {
		bit = seal_filter_bit(hash, i);
		if (!(block[bit / 8] >> bit % 8 & 1))
			return false;
	}
	return true;
}

struct seal_state {
	uint32_t kind;
	uint32_t batch; /* place in the section of batches */
	uint64_t item;
	uint64_t term;
	uint32_t at;     /* bytes from the begin of the batch */
	uint32_t offset; /* of the payload, in the section of state bytes */
	uint32_t len;
	uint32_t reserved;
};
_Static_assert(sizeof(struct seal_state) == 40, "as in doc/format.md");

static inline uint32_t seal_pages(uint64_t count, uint32_t per_page)
{
	return (uint32_t)((count + per_page - 1) / per_page);
}

static inline uint32_t seal_partition_page_of(uint32_t partition, uint32_t pages)
{
	return (uint32_t)(thmqi_hash64(&partition, sizeof(partition)) % pages);
}

/* Its place goes into it, so that no page is taken for another: @place is the segment's position and its own in the file. */
static inline uint32_t seal_page_crc(const void *page, uint64_t place)
{
	return thmqi_crc32c((uint32_t)(place / SEAL_PAGE), page, SEAL_PAGE - 4);
}

static inline bool seal_page_ok(const void *page, uint64_t place)
{
	uint32_t crc;

	memcpy(&crc, (const uint8_t *)page + SEAL_PAGE - 4, 4);
	return crc == seal_page_crc(page, place);
}

#endif
