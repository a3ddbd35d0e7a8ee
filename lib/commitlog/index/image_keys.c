/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_keys.c - the keys of a segment as sections of its index: sorted by the upper half of their hashes, equal ones as they were
 * appended, by three rounds of counting sort (LSD radix sort), a little at a time; then the fences of their pages and a filter.
 */
#include <sys/mman.h>

#include "keys.h"
#include "seal_format.h"

#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)
#define ROUNDS 3u /* 32 bits */

enum step {
	STEP_BEGIN,
	STEP_COUNT,
	STEP_FIRST_ROUND,
	STEP_SECOND_ROUND,
	STEP_THIRD_ROUND,
	STEP_FENCES,
	STEP_FILTER
};

struct key_sort {
	uint64_t bytes;                /* of this mapping */
	const struct key_chunk *chunk; /* the next key that is read in order is in it */
	uint32_t chunk_at;
	uint32_t distinct;
	int64_t time_min_ns, time_max_ns;
	uint64_t last_hash;
	uint32_t places[ROUNDS][DIGITS]; /* by digit: how many, then where the next one goes */
	struct seal_key keys[];
};

static struct seal_header *header_of(const struct seal_image *image)
{
	return (struct seal_header *)image->data;
}

static struct seal_section_entry *section_of(const struct seal_image *image, uint32_t kind)
{
	return &header_of(image)->sections[kind - 1];
}

static uint32_t digit(uint64_t hash, uint32_t round)
{
	return seal_key_rank(hash) >> (round * DIGIT_BITS) & (DIGITS - 1);
}

static struct seal_key_page *page_of(const struct seal_image *image, uint32_t number)
{
	return (struct seal_key_page *)(image->data + section_of(image, SEAL_KEYS)->offset) +
	       number / SEAL_PAGE_KEYS;
}

static struct seal_key *place_of(const struct seal_image *image, uint32_t number)
{
	return &page_of(image, number)->keys[number % SEAL_PAGE_KEYS];
}

/* -------------------------------------------------------------------- steps */

static bool begin(struct seal_image *image)
{
	uint64_t bytes =
		sizeof(struct key_sort) + (uint64_t)image->key_count * sizeof(struct seal_key);
	struct key_sort *sort =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (sort == MAP_FAILED)
		return false;
	sort->bytes = bytes;
	sort->chunk = image->segment->keys.oldest;
	sort->time_min_ns = INT64_MAX;
	sort->time_max_ns = INT64_MIN;
	image->sort = sort;
	return true;
}

/* As they were appended. */
static const struct key *next_key(struct key_sort *sort)
{
	if (sort->chunk_at == sort->chunk->count) {
		sort->chunk = sort->chunk->newer;
		sort->chunk_at = 0;
	}
	return &sort->chunk->keys[sort->chunk_at++];
}

static void count(struct key_sort *sort)
{
	uint64_t hash = next_key(sort)->hash;
	uint32_t round;

	for (round = 0; round < ROUNDS; round++)
		sort->places[round][digit(hash, round)]++;
}

static void count_end(const struct seal_image *image, struct key_sort *sort)
{
	uint32_t round, i, sum, n;

	for (round = 0; round < ROUNDS; round++)
		for (i = sum = 0; i < DIGITS; i++) {
			n = sort->places[round][i];
			sort->places[round][i] = sum;
			sum += n;
		}
	sort->chunk = image->segment->keys.oldest;
	sort->chunk_at = 0;
}

static struct seal_key stored(const struct seal_image *image, const struct key *key)
{
	const uint32_t *blocks = image->segment->blocks;
	uint32_t block = blocks[key->batch], next = key->batch + 1 < image->batch_count
							    ? blocks[key->batch + 1]
							    : image->end_block;

	return (struct seal_key){.hash = key->hash,
				 .offset = key->offset,
				 .time_ns = key->time_ns,
				 .block = block,
				 .place = seal_key_place(key->at & ~1u, next - block, key->at & 1)};
}

static void fence(struct seal_image *image, struct key_sort *sort, uint32_t number)
{
	const struct seal_key *key = place_of(image, number);
	struct seal_key_page *page = page_of(image, number);

	if (number % SEAL_PAGE_KEYS == 0)
		((uint32_t *)(void *)(image->data + section_of(image, SEAL_KEY_FENCES)
							    ->offset))[number / SEAL_PAGE_KEYS] =
			seal_key_rank(key->hash);
	sort->distinct += !number || key->hash != sort->last_hash;
	sort->last_hash = key->hash;
	sort->time_min_ns = THMQI_MIN(sort->time_min_ns, key->time_ns);
	sort->time_max_ns = THMQI_MAX(sort->time_max_ns, key->time_ns);
	if (number + 1 == image->key_count || (number + 1) % SEAL_PAGE_KEYS == 0)
		page->crc = seal_page_crc(page, image->segment->position +
							(uint64_t)((uint8_t *)page - image->data));
}

/* How long the filter is follows from how many keys there are: it lies behind all else. */
static void fences_end(struct seal_image *image, const struct key_sort *sort)
{
	struct seal_section_entry *e = section_of(image, SEAL_KEY_FILTER);

	header_of(image)->key_time_min_ns = sort->time_min_ns;
	header_of(image)->key_time_max_ns = sort->time_max_ns;
	e->count = seal_filter_bytes(sort->distinct);
	e->bytes = e->count;
	image->bytes = e->offset + e->bytes;
}

static void do_one(struct seal_image *image, struct key_sort *sort, uint32_t number)
{
	const struct seal_section_entry *filter = section_of(image, SEAL_KEY_FILTER);
	struct seal_key key;

	switch (image->key_step) {
	case STEP_COUNT:
		count(sort);
		break;
	case STEP_FIRST_ROUND:
		key = stored(image, next_key(sort));
		*place_of(image, sort->places[0][digit(key.hash, 0)]++) = key;
		break;
	case STEP_SECOND_ROUND:
		key = *place_of(image, number);
		sort->keys[sort->places[1][digit(key.hash, 1)]++] = key;
		break;
	case STEP_THIRD_ROUND:
		key = sort->keys[number];
		*place_of(image, sort->places[2][digit(key.hash, 2)]++) = key;
		break;
	case STEP_FENCES:
		fence(image, sort, number);
		break;
	case STEP_FILTER:
		seal_filter_add(image->data + filter->offset, filter->count,
				place_of(image, number)->hash);
		break;
	}
}

uint32_t thmqi_image_keys(struct seal_image *image, uint32_t budget)
{
	struct key_sort *sort = image->sort;
	uint32_t done = 0;

	if (image->key_step == STEP_BEGIN) {
		if (image->key_count && !begin(image)) { /* it is an index without them, then */
			header_of(image)->flags |= SEAL_KEYS_MISSING;
			thmqi_image_no_keys(image);
		}
		image->done = !image->key_count;
		image->key_step = STEP_COUNT;
		return 1;
	}
	for (; image->key_at < image->key_count && done < budget; image->key_at++, done++)
		do_one(image, sort, image->key_at);
	if (image->key_at < image->key_count)
		return done;
	image->key_at = 0;
	if (image->key_step == STEP_COUNT)
		count_end(image, sort);
	if (image->key_step == STEP_FENCES)
		fences_end(image, sort);
	image->done = image->key_step++ == STEP_FILTER;
	return done + 1;
}

void thmqi_image_keys_free(struct seal_image *image)
{
	if (image->sort)
		munmap(image->sort, image->sort->bytes);
	image->sort = NULL;
}
