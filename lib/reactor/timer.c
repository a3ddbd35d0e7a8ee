/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - starting, stopping and calling the timers of a core; timer.h says how they lie. A timer's links are its own,
 * so that nothing here allocates or fails. All is a fixed number of steps but running, which has a budget.
 */
#include "internal.h"

#define LAST_TICK (UINT64_MAX >> TICK_BITS)
/* Of one iteration. A call may do much; a move is two cache lines. */
#define CALL_BUDGET 256u
#define MOVE_BUDGET 1024u

/* Rounded up: a timer is never early. */
static uint64_t tick_of(uint64_t ns)
{
	return (ns >> TICK_BITS) + ((ns & ((1u << TICK_BITS) - 1)) != 0);
}

static uint64_t tick_ns(uint64_t tick)
{
	return tick << TICK_BITS;
}

void thmqi_timers_init(struct timers *w)
{
	uint32_t i;

	thmqi_list_init(&w->due);
	thmqi_list_init(&w->moving);
	thmqi_list_init(&w->never);
	for (i = 0; i < TIMER_LEVELS * TIMER_SLOTS; i++)
		thmqi_list_init(&w->slots[0][0] + i);
}

static void let_go(struct thmqi_list *list)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, list) it->next = NULL;
}

/* Their owners may stop them later than this: they find that they do not run. */
void thmqi_timers_fini(struct timers *w)
{
	uint32_t i;

	let_go(&w->due);
	let_go(&w->moving);
	let_go(&w->never);
	for (i = 0; i < TIMER_LEVELS * TIMER_SLOTS; i++)
		let_go(&w->slots[0][0] + i);
}

/* -------------------------------------------------------------------- slots */

static void slot_is_empty(struct timers *w, uint32_t level, uint32_t slot)
{
	w->filled[level] &= ~(1ull << slot);
	if (!w->filled[level])
		w->levels &= ~(1ull << level);
}

/* Return: when it comes to its turn, UINT64_MAX never. */
static uint64_t put_in(struct timers *w, struct thmqi_timer *t)
{
	uint64_t tick = tick_of(t->deadline_ns), *earliest;
	uint32_t level, slot;

	if (tick > LAST_TICK) {
		thmqi_list_add_tail(&w->never, &t->link);
		return UINT64_MAX;
	}
	tick = THMQI_MAX(tick, w->base);
	level = (63u - (uint32_t)__builtin_clzll((tick ^ w->base) | 1)) / TIMER_SLOT_BITS;
	slot = (uint32_t)(tick >> (level * TIMER_SLOT_BITS)) % TIMER_SLOTS;
	earliest = &w->earliest[level][slot];
	if (!(w->filled[level] >> slot & 1) || tick < *earliest)
		*earliest = tick;
	w->filled[level] |= 1ull << slot;
	w->levels |= 1ull << level;
	thmqi_list_add_tail(&w->slots[level][slot], &t->link);
	return tick_ns(tick);
}

/* Return: true if it was the last on its list. */
static bool take_out(struct timers *w, struct thmqi_timer *t)
{
	struct thmqi_list *next = t->link.next, *prev = t->link.prev;
	uintptr_t at = (uintptr_t)next - (uintptr_t)w->slots;

	next->prev = prev;
	prev->next = next;
	t->link.next = NULL;
	if (next != prev)
		return false;
	/* what is left is the list's head: a slot's, or one of the others */
	if (at < sizeof(w->slots)) {
		at /= sizeof(*next);
		slot_is_empty(w, (uint32_t)at / TIMER_SLOTS, (uint32_t)at % TIMER_SLOTS);
	}
	return true;
}

static struct thmqi_timer *first_of(const struct thmqi_list *list)
{
	return thmqi_list_empty(list) ? NULL : thmqi_list_first(list, struct thmqi_timer, link);
}

/* All of @from behind those of @to. */
static void splice(struct thmqi_list *to, struct thmqi_list *from)
{
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	thmqi_list_init(from);
}

/* ------------------------------------------------------------- start and stop */

static void note_next(struct loop *l)
{
	const struct timers *w = &l->timers;
	uint32_t level, slot;

	l->next_deadline = UINT64_MAX;
	if (!thmqi_list_empty(&w->due) || !thmqi_list_empty(&w->moving)) {
		l->next_deadline = 0; /* at once */
	} else if (w->levels) {
		level = (uint32_t)__builtin_ctzll(w->levels);
		slot = (uint32_t)__builtin_ctzll(w->filled[level]);
		l->next_deadline = tick_ns(w->earliest[level][slot]);
	}
}

void thmqi_timer_stop(struct thmq_core *core, struct thmqi_timer *t)
{
	struct loop *l = loop_of(core);

	if (t->link.next && take_out(&l->timers, t))
		note_next(l);
}

void thmqi_timer_start(struct thmq_core *core, struct thmqi_timer *t, uint64_t deadline_ns)
{
	struct loop *l = loop_of(core);
	struct timers *w = &l->timers;
	uint64_t at;

	thmqi_timer_stop(core, t);
	t->deadline_ns = deadline_ns;
	if (!w->levels) /* nothing depends on it */
		w->base = THMQI_MAX(w->base, core->now_ns >> TICK_BITS);
	at = put_in(w, t);
	l->next_deadline = THMQI_MIN(l->next_deadline, at);
}

/* ---------------------------------------------------------------------- run */

/* What is due by @now goes to its list, in the order of ticks. With the budget used up the rest is for the next time. */
static void gather(struct timers *w, uint64_t now)
{
	uint32_t level, slot, shift, budget;
	struct thmqi_timer *t;
	uint64_t start;

	for (budget = MOVE_BUDGET; budget; budget--) {
		t = first_of(&w->moving);
		if (t) {
			take_out(w, t);
			put_in(w, t);
			continue;
		}
		if (!w->levels) {
			w->base = THMQI_MAX(w->base, now);
			return;
		}
		level = (uint32_t)__builtin_ctzll(w->levels);
		slot = (uint32_t)__builtin_ctzll(w->filled[level]);
		shift = level * TIMER_SLOT_BITS;
		start = (((w->base >> shift) & ~(uint64_t)(TIMER_SLOTS - 1)) | slot) << shift;
		if (w->earliest[level][slot] > now) {
			/* it may lie on this side of the slot only */
			w->base = THMQI_MAX(w->base, THMQI_MIN(now, start - 1));
			return;
		}
		w->base = start;
		splice(level ? &w->moving : &w->due, &w->slots[level][slot]);
		slot_is_empty(w, level, slot);
	}
}

uint32_t thmqi_timers_run(struct loop *l, uint64_t now)
{
	struct timers *w = &l->timers;
	struct thmqi_timer *t;
	uint32_t called;

	gather(w, now >> TICK_BITS);
	/* what is started from here on has its turn in the next iteration at the earliest */
	for (called = 0; called < CALL_BUDGET && (t = first_of(&w->due)); called++) {
		take_out(w, t);
		t->fire(t);
	}
	note_next(l);
	return called + (l->next_deadline == 0);
}
