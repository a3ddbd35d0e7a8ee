/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - a binary heap of deadlines whose room is reserved ahead, so that starting a timer never fails and never
 * allocates. Index 0 means not running.
 */
#include "internal.h"

static void put(struct loop *l, uint32_t at, struct thmqi_timer *t)
{
	l->heap[at] = t;
	t->heap_index = at;
}

static void sift_up(struct loop *l, uint32_t at, struct thmqi_timer *t)
{
	for (; at > 1 && l->heap[at / 2]->deadline_ns > t->deadline_ns; at /= 2)
		put(l, at, l->heap[at / 2]);
	put(l, at, t);
}

static void sift_down(struct loop *l, uint32_t at, struct thmqi_timer *t)
{
	uint32_t child;

	for (; (child = at * 2) <= l->timer_count; at = child) {
		if (child < l->timer_count &&
		    l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (l->heap[child]->deadline_ns >= t->deadline_ns)
			break;
		put(l, at, l->heap[child]);
	}
	put(l, at, t);
}

static void note_next(struct loop *l)
{
	l->next_deadline = l->timer_count ? l->heap[1]->deadline_ns : UINT64_MAX;
}

int thmqi_timer_reserve(struct thmq_core *core, uint32_t count)
{
	struct loop *l = loop_of(core);
	struct thmqi_timer **grown = realloc(l->heap, (l->timer_room + count + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	l->heap = grown;
	l->timer_room += count;
	return 0;
}

void thmqi_timer_unreserve(struct thmq_core *core, uint32_t count)
{
	loop_of(core)->timer_room -= count;
}

void thmqi_timer_stop(struct thmq_core *core, struct thmqi_timer *t)
{
	struct loop *l = loop_of(core);
	uint32_t at = t->heap_index;
	struct thmqi_timer *last;

	if (!at)
		return;
	t->heap_index = 0;
	last = l->heap[l->timer_count--];
	if (last != t) {
		if (at > 1 && l->heap[at / 2]->deadline_ns > last->deadline_ns)
			sift_up(l, at, last);
		else
			sift_down(l, at, last);
	}
	note_next(l);
}

void thmqi_timer_start(struct thmq_core *core, struct thmqi_timer *t, uint64_t deadline_ns)
{
	struct loop *l = loop_of(core);

	thmqi_timer_stop(core, t);
	thmqi_assert(l->timer_count < l->timer_room);
	if (l->timer_count >= l->timer_room)
		return; /* more timers than were reserved: our mistake, seen by the assert above */
	t->deadline_ns = deadline_ns;
	sift_up(l, ++l->timer_count, t);
	note_next(l);
}

void thmqi_timers_run(struct loop *l, uint64_t now)
{
	struct thmqi_timer *t;
	uint32_t budget =
		l->timer_count; /* one that restarts itself at once waits for the next round */

	while (l->timer_count && l->heap[1]->deadline_ns <= now && budget--) {
		t = l->heap[1];
		thmqi_timer_stop(&l->core, t);
		t->fire(t);
	}
}
