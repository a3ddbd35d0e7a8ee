/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiting.c - see waiting.h. A heap with four children: half as deep as one with two, and the four lie in one cache line. It grows by
 * doubling, which moves no memory once it is large (mremap), and gives back what it does not need.
 */
#include "waiting.h"

#define CHILDREN 4u
#define SIZE_MIN 1024u
#define SHRINK_MIN 65536u
#define DROP_BUDGET 256u /* of what was dropped, passed over in one call */
#define SWEEP_MIN 4096u  /* less is not worth looking for */

void thmqi_waiting_init(struct waiting *w, size_t spare)
{
	memset(w, 0, sizeof(*w));
	w->spare = spare;
	thmqi_map_init(&w->words);
}

void thmqi_waiting_fini(struct waiting *w)
{
	free(w->heap);
	thmqi_map_fini(&w->words);
	thmqi_waiting_init(w, w->spare);
}

/* ----------------------------------------------------------------------- bits */

static uint64_t word_of(const struct waiting *w, uint64_t offset)
{
	return (uint64_t)(uintptr_t)thmqi_map_get(&w->words, offset / 64);
}

static uint64_t bit_of(uint64_t offset)
{
	return 1ull << (offset % 64);
}

bool thmqi_waiting_has(const struct waiting *w, uint64_t offset)
{
	return word_of(w, offset) & bit_of(offset);
}

/* The bits of a word, that begins at offset @first, which lie in the range. */
static uint64_t mask_of(uint64_t first, uint64_t begin, uint64_t end)
{
	uint64_t mask = UINT64_MAX;

	if (begin > first)
		mask &= UINT64_MAX << (begin - first);
	if (end - first < 64)
		mask &= (1ull << (end - first)) - 1;
	return mask;
}

bool thmqi_waiting_any(const struct waiting *w, uint64_t begin, uint64_t end)
{
	uint64_t first;
	uint32_t i;

	if (begin >= end || !w->live)
		return false;
	if ((end - 1) / 64 - begin / 64 > w->words.count) { /* fewer words than the range would have */
		for (i = 0; w->words.slots && i <= w->words.mask; i++) {
			const struct thmqi_map_slot *s = &w->words.slots[i];

			first = s->key * 64;
			if (s->value && first < end && first + 63 >= begin &&
			    ((uint64_t)(uintptr_t)s->value & mask_of(first, begin, end)))
				return true;
		}
		return false;
	}
	for (first = begin / 64 * 64; first < end; first += 64)
		if (word_of(w, first) & mask_of(first, begin, end))
			return true;
	return false;
}

static int set_word(struct waiting *w, uint64_t offset, uint64_t word)
{
	if (word)
		return thmqi_map_put(&w->words, offset / 64, (void *)(uintptr_t)word);
	thmqi_map_remove(&w->words, offset / 64);
	return 0;
}

void thmqi_waiting_drop(struct waiting *w, uint64_t offset, bool in_heap)
{
	uint64_t word = word_of(w, offset);

	if (!(word & bit_of(offset)))
		return;
	set_word(w, offset, word & ~bit_of(offset)); /* its place is there: it cannot fail */
	w->live--;
	w->left += in_heap;
}

/* ----------------------------------------------------------------------- heap */

static void up(struct waiting *w, size_t i)
{
	const struct waiting_entry e = w->heap[i];
	size_t parent;

	for (; i; i = parent) {
		parent = (i - 1) / CHILDREN;
		if (!thmqi_waiting_is_before(&e, &w->heap[parent]))
			break;
		w->heap[i] = w->heap[parent];
	}
	w->heap[i] = e;
}

static void down(struct waiting *w, size_t i)
{
	const struct waiting_entry e = w->heap[i];
	size_t child, best, end;

	for (;; i = best) {
		child = best = i * CHILDREN + 1;
		if (child >= w->count)
			break;
		for (end = THMQI_MIN(child + CHILDREN, w->count); ++child < end;)
			if (thmqi_waiting_is_before(&w->heap[child], &w->heap[best]))
				best = child;
		if (!thmqi_waiting_is_before(&w->heap[best], &e))
			break;
		w->heap[i] = w->heap[best];
	}
	w->heap[i] = e;
}

static int resize(struct waiting *w, size_t size)
{
	struct waiting_entry *heap = realloc(w->heap, size * sizeof(*heap));

	if (!heap)
		return -ENOMEM;
	w->heap = heap;
	w->size = size;
	return 0;
}

static void take_at(struct waiting *w, size_t i)
{
	w->heap[i] = w->heap[--w->count];
	if (i < w->count) {
		up(w, i);
		down(w, i);
	}
	if (w->size > SHRINK_MIN && w->count + w->spare < w->size / 4)
		resize(w, w->size / 2); /* as large as it is will do too */
}

int thmqi_waiting_hold(struct waiting *w, uint64_t offset)
{
	uint64_t word = word_of(w, offset);
	int rc = 0;

	if (w->count + w->spare >= w->size)
		rc = resize(w, w->size ? w->size * 2 : THMQI_MAX((size_t)SIZE_MIN, 2 * w->spare));
	if (!rc)
		rc = set_word(w, offset, word | bit_of(offset));
	if (!rc && !(word & bit_of(offset)))
		w->live++;
	return rc;
}

void thmqi_waiting_put(struct waiting *w, uint64_t due_ns, uint64_t offset)
{
	thmqi_assert(w->count < w->size);
	w->heap[w->count] = (struct waiting_entry){due_ns, offset};
	up(w, w->count++);
}

int thmqi_waiting_first(struct waiting *w, struct waiting_entry *ret)
{
	uint32_t budget = DROP_BUDGET;

	for (; w->count; w->left--) {
		if (thmqi_waiting_has(w, w->heap[0].offset)) {
			*ret = w->heap[0];
			return 1;
		}
		if (!budget--)
			return -EAGAIN;
		take_at(w, 0);
	}
	return 0;
}

void thmqi_waiting_take(struct waiting *w)
{
	take_at(w, 0);
}

uint32_t thmqi_waiting_sweep(struct waiting *w, uint32_t budget)
{
	uint32_t n = 0;

	if (w->left < SWEEP_MIN || w->left < w->count / 4)
		return 0;
	/* what moves past the place is looked at the next time around */
	for (; n < budget && w->count; n++) {
		if (w->sweep >= w->count)
			w->sweep = 0;
		if (thmqi_waiting_has(w, w->heap[w->sweep].offset)) {
			w->sweep++;
			continue;
		}
		take_at(w, w->sweep);
		w->left--;
	}
	return n;
}
