/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiting.h - which offsets wait for a time, and which of them is next. Two views of the same: a heap of times, 16 bytes for each, and a
 * bit for each offset that waits, 64 of them in a slot of a map. One that is dropped loses its bit only; what it leaves in the heap
 * goes when its time comes, or little by little when there is much of that. Knows no log, no clock and no message.
 */
#ifndef THMQI_BROKER_WAITING_H
#define THMQI_BROKER_WAITING_H

#include "base/base.h"

struct waiting_entry {
	uint64_t due_ns;
	uint64_t offset; /* of two that are due together the lower one is first */
};

struct waiting {
	struct waiting_entry *heap; /* four children each */
	size_t count, size;
	size_t spare; /* room is kept for so many that were taken, and may come back */
	size_t left;  /* of count: what was dropped */
	size_t sweep; /* where looking for these goes on */
	uint64_t live;          /* offsets with a bit */
	struct thmqi_map words; /* offset / 64 to its bits */
};

static inline bool thmqi_waiting_is_before(const struct waiting_entry *a, const struct waiting_entry *b)
{
	return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->offset < b->offset;
}

void thmqi_waiting_init(struct waiting *w, size_t spare);
void thmqi_waiting_fini(struct waiting *w);
/* @offset waits from now on, and there is room for its time. -ENOMEM: nothing has changed */
int thmqi_waiting_hold(struct waiting *w, uint64_t offset);
/* Its time, of one that is held and not in the heap. */
void thmqi_waiting_put(struct waiting *w, uint64_t due_ns, uint64_t offset);
bool thmqi_waiting_has(const struct waiting *w, uint64_t offset);
/* Does any from @begin to before @end wait? */
bool thmqi_waiting_any(const struct waiting *w, uint64_t begin, uint64_t end);
/* It waits no more. @in_heap: its time was not taken */
void thmqi_waiting_drop(struct waiting *w, uint64_t offset, bool in_heap);
/* 1 *@ret is next; 0 there is none; -EAGAIN: much was dropped, ask again */
int thmqi_waiting_first(struct waiting *w, struct waiting_entry *ret);
/* The one that was told as the first leaves the heap; it still waits. */
void thmqi_waiting_take(struct waiting *w);
/* Some of what was dropped leaves the heap, if there is much of it. Return: looked at. */
uint32_t thmqi_waiting_sweep(struct waiting *w, uint32_t budget);

#endif
