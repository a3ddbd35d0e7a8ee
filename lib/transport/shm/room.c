/* SPDX-License-Identifier: Apache-2.0 */
/*
 * room.c - who has which part of an arena's room: blocks of 256 bytes times a power of two. A free block is used again for one of its
 * size, the last one first, since it is in the caches; none is joined or split, so that the room is larger than what can be out,
 * and memory is used only for what ever was out of a size at a time. The books are the broker's own memory. Knows no arena.
 */
#include "shm.h"

static uint64_t books_bytes(const struct shm_room *r)
{
	return ((uint64_t)r->granules + 1) * sizeof(*r->next);
}

int thmqi_shm_room_init(struct shm_room *r, uint64_t bytes)
{
	memset(r, 0, sizeof(*r));
	r->granules = (uint32_t)(bytes / SHM_GRANULE);
	r->next = thmqi_shm_books_open(books_bytes(r));
	return r->next ? 0 : -ENOMEM;
}

void thmqi_shm_room_fini(struct shm_room *r)
{
	thmqi_shm_books_close(r->next, books_bytes(r));
	r->next = NULL;
}

static uint32_t class_of(uint32_t len)
{
	return len <= SHM_GRANULE ? 0 : 32u - (uint32_t)__builtin_clz((len - 1) / SHM_GRANULE);
}

static uint32_t pop(struct shm_room *r, uint32_t class)
{
	uint32_t granule = r->first[class] - 1;

	r->first[class] = r->next[granule];
	return granule | class << 24;
}

uint32_t thmqi_shm_room_take(struct shm_room *r, uint32_t len)
{
	uint32_t class = class_of(len), granule;

	if (class >= SHM_CLASSES)
		return UINT32_MAX;
	if (thmqi_likely(r->first[class]))
		return pop(r, class);
	if (r->granules - r->used >= 1u << class) {
		granule = r->used;
		r->used += 1u << class;
		return granule | class << 24;
	}
	while (++class < SHM_CLASSES) /* all was used once: a larger one, then */
		if (r->first[class])
			return pop(r, class);
	return UINT32_MAX;
}

void thmqi_shm_room_give(struct shm_room *r, uint32_t place)
{
	uint32_t class = place >> 24, granule = place & 0xffffffu;

	r->next[granule] = r->first[class];
	r->first[class] = granule + 1;
}
