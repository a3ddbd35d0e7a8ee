/* SPDX-License-Identifier: Apache-2.0 */
/* map.c - 64-bit key to pointer: open addressing, linear probing, deletion by shifting back. At most 7/8 full. */
#include "base/base.h"

/*
 * Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4) of all but the lowest bits: the upper bits of the product.
 * Keys that follow one another, as those of partitions do, lie side by side in a cache line, so that who goes from one to the next
 * finds most of them in lines that are there; and the lines of keys come to lie evenly apart: of a hundred thousand nearly all are in
 * the line where they are looked for first.
 */
#define NEIGHBOURS ((uint32_t)(THMQI_CACHELINE / sizeof(struct thmqi_map_slot)))

static uint32_t slot_of(const struct thmqi_map *m, uint64_t key)
{
	const uint32_t at = (uint32_t)((key / NEIGHBOURS * 0x9e3779b97f4a7c15ull) >> __builtin_clzll(m->mask));

	return (at & ~(NEIGHBOURS - 1)) | (uint32_t)(key % NEIGHBOURS);
}

void thmqi_map_init(struct thmqi_map *m)
{
	memset(m, 0, sizeof(*m));
}

void thmqi_map_fini(struct thmqi_map *m)
{
	free(m->slots);
	memset(m, 0, sizeof(*m));
}

static struct thmqi_map_slot *find(const struct thmqi_map *m, uint64_t key)
{
	uint32_t i;

	if (!m->slots)
		return NULL;
	for (i = slot_of(m, key); m->slots[i].value; i = (i + 1) & m->mask)
		if (m->slots[i].key == key)
			return &m->slots[i];
	return NULL;
}

void *thmqi_map_get(const struct thmqi_map *m, uint64_t key)
{
	struct thmqi_map_slot *s = find(m, key);

	return s ? s->value : NULL;
}

void thmqi_map_prefetch(const struct thmqi_map *m, uint64_t key)
{
	if (m->slots)
		__builtin_prefetch(&m->slots[slot_of(m, key)]);
}

static void insert(struct thmqi_map *m, uint64_t key, void *value)
{
	uint32_t i = slot_of(m, key);

	while (m->slots[i].value)
		i = (i + 1) & m->mask;
	m->slots[i].key = key;
	m->slots[i].value = value;
	m->count++;
}

static int grow(struct thmqi_map *m)
{
	struct thmqi_map bigger = {.mask = m->slots ? m->mask * 2 + 1 : 15};
	const size_t bytes = ((size_t)bigger.mask + 1) * sizeof(*bigger.slots);

	bigger.slots = aligned_alloc(THMQI_CACHELINE, bytes);
	if (!bigger.slots)
		return -ENOMEM;
	memset(bigger.slots, 0, bytes);
	for (uint32_t i = 0; m->slots && i <= m->mask; i++)
		if (m->slots[i].value)
			insert(&bigger, m->slots[i].key, m->slots[i].value);
	free(m->slots);
	*m = bigger;
	return 0;
}

int thmqi_map_put(struct thmqi_map *m, uint64_t key, void *value)
{
	struct thmqi_map_slot *s = find(m, key);
	int rc;

	if (!value)
		return -EINVAL;
	if (s) {
		s->value = value;
		return 0;
	}
	if (!m->slots || (uint64_t)(m->count + 1) * 8 > ((uint64_t)m->mask + 1) * 7) {
		rc = grow(m);
		if (rc)
			return rc;
	}
	insert(m, key, value);
	return 0;
}

void *thmqi_map_remove(struct thmqi_map *m, uint64_t key)
{
	struct thmqi_map_slot *s = find(m, key);
	void *value;
	uint32_t hole, i, home;

	if (!s)
		return NULL;
	value = s->value;
	hole = (uint32_t)(s - m->slots);
	for (i = (hole + 1) & m->mask; m->slots[i].value; i = (i + 1) & m->mask) {
		home = slot_of(m, m->slots[i].key);
		/* may it move back to the hole without passing its home? */
		if (((i - home) & m->mask) >= ((i - hole) & m->mask)) {
			m->slots[hole] = m->slots[i];
			hole = i;
		}
	}
	m->slots[hole].value = NULL;
	m->count--;
	return value;
}

void *thmqi_map_next(const struct thmqi_map *m, uint32_t *iter)
{
	while (m->slots && *iter <= m->mask) {
		void *value = m->slots[(*iter)++].value;

		if (value)
			return value;
	}
	return NULL;
}
