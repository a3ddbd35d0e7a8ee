/* SPDX-License-Identifier: Apache-2.0 */
/* leaks.c - who has the blocks of a pool that are out: a walk over all of its blocks, for the end and for debugging. */
#include <stdio.h>

#include "internal.h"

struct leaks {
	struct thmq_pool_leak *list; /* NULL: they are only counted */
	uint32_t count;
};

/* From one block to the next: the first descriptor of each is the only one that counts. */
static void walk(const struct slab *slab, struct leaks *l)
{
	const struct thmq_buf *b;
	uint32_t at = 0;

	while (at < THMQ_SLAB_BYTES) {
		b = thmqi_buddy_entry(slab, at, PAGE_ORDER);
		if (b->state == BLOCK_INSIDE) /* a page of smaller blocks */
			b = thmqi_buddy_entry(slab, at, 0);
		if (b->state == BLOCK_USED) {
			if (l->list)
				l->list[l->count] = (struct thmq_pool_leak){b->owner, 1, b->size};
			l->count++;
		}
		at += b->state == BLOCK_INSIDE ? THMQ_BLOCK_MIN : block_bytes(b->order);
	}
}

uint32_t thmqi_pool_used_blocks(const struct thmq_pool *p)
{
	struct leaks l = {0};
	uint32_t i;

	for (i = 0; p->in_use && i < p->slab_count; i++)
		walk(p->slab[i], &l);
	return l.count;
}

static int by_owner(const void *a, const void *b)
{
	const struct thmq_pool_leak *x = a, *y = b;

	return x->owner < y->owner ? -1 : x->owner > y->owner;
}

static int by_bytes(const void *a, const void *b)
{
	const struct thmq_pool_leak *x = a, *y = b;

	return x->bytes > y->bytes ? -1 : x->bytes < y->bytes;
}

/* Blocks of one owner become one entry. */
static void merge(struct leaks *l)
{
	uint32_t i, n = 0;

	qsort(l->list, l->count, sizeof(*l->list), by_owner);
	for (i = 0; i < l->count; i++) {
		if (n && l->list[n - 1].owner == l->list[i].owner) {
			l->list[n - 1].blocks++;
			l->list[n - 1].bytes += l->list[i].bytes;
		} else {
			l->list[n++] = l->list[i];
		}
	}
	l->count = n;
	qsort(l->list, l->count, sizeof(*l->list), by_bytes);
}

int thmq_pool_leaks(struct thmq_pool *p, struct thmq_pool_leak *leaks, uint32_t max)
{
	struct leaks l = {0};
	uint32_t i, used;

	if (!p || (max && !leaks))
		return -EINVAL;
	thmqi_home_drain(p);
	used = thmqi_pool_used_blocks(p);
	if (!used)
		return 0;
	l.list = malloc(used * sizeof(*l.list));
	if (!l.list)
		return -ENOMEM;
	for (i = 0; i < p->slab_count; i++)
		walk(p->slab[i], &l);
	thmqi_assert(l.count == used);
	merge(&l);
	if (max)
		memcpy(leaks, l.list, THMQI_MIN(max, l.count) * sizeof(*leaks));
	free(l.list);
	return (int)l.count;
}

uint32_t thmqi_pool_leak_text(struct thmq_pool *p, char *text, size_t size)
{
	static const char *const names[] = {"nobody in particular", "batches", "reads",
					    "index pages",          "logs",    "received runs"};
	struct thmq_pool_leak leaks[THMQI_ARRAY_COUNT(names)];
	uint32_t blocks = 0, len = 0;
	int i, n;

	text[0] = 0;
	n = thmq_pool_leaks(p, leaks, THMQI_ARRAY_COUNT(leaks));
	for (i = 0; i < n && i < (int)THMQI_ARRAY_COUNT(leaks); i++) {
		blocks += leaks[i].blocks;
		if (len < size)
			len += (uint32_t)snprintf(text + len, size - len, "%s%u of %s (%llu bytes)",
						  i ? ", " : "", leaks[i].blocks,
						  leaks[i].owner < THMQI_ARRAY_COUNT(names)
							  ? names[leaks[i].owner]
							  : "unknown holders",
						  (unsigned long long)leaks[i].bytes);
	}
	return blocks;
}
