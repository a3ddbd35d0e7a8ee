/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weak_memory.c - the search: depth first over all states, each once. Of a state that was seen only a hash of 64 bits is kept, so that
 * one in some 10^12 searches of a million states may miss one. See weak_memory.h.
 */
#include "weak_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRITES 14u /* to one place, in VIEWS */
#define QUEUE 6u   /* stores that wait, in TSO and PSO */
#define DEPTH 400u

typedef uint8_t view[WEAK_PLACES]; /* by place: number of the newest write that is known */

struct write {
	uint8_t value;
	view released; /* what whoever acquires this knows then */
};

struct queued {
	uint8_t place, value;
	bool release;
};

struct state {
	uint8_t pc[WEAK_THREADS];
	uint8_t reg[WEAK_THREADS][WEAK_REGS];
	union {
		struct {
			uint8_t memory[WEAK_PLACES];
			uint8_t length[WEAK_THREADS];
			struct queued queue[WEAK_THREADS][QUEUE];
		};
		struct {
			uint8_t count[WEAK_PLACES]; /* writes beside the first */
			struct write writes[WEAK_PLACES][WRITES];
			view known[WEAK_THREADS], to_acquire[WEAK_THREADS],
				to_release[WEAK_THREADS];
			view fences;
		};
	};
};

struct search {
	const struct weak_program *program;
	enum weak_model model;
	struct weak_result *ret;
	uint64_t *seen;
	uint64_t mask, used;
	uint8_t path[DEPTH]; /* thread; | 0x80: its queue */
};

/* --------------------------------------------------------------- seen before */

static uint64_t hash(const struct state *s)
{
	const uint8_t *byte = (const uint8_t *)s;
	uint64_t h = 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < sizeof(*s); i++) {
		h = (h ^ byte[i]) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	return h ? h : 1;
}

static bool put(uint64_t *table, uint64_t mask, uint64_t h)
{
	uint64_t i = h & mask;

	while (table[i] && table[i] != h)
		i = (i + 1) & mask;
	if (table[i])
		return false;
	table[i] = h;
	return true;
}

/* True: it is new. */
static bool note(struct search *k, const struct state *s)
{
	if (2 * k->used >= k->mask) {
		uint64_t mask = k->mask * 2 + 1, *grown = calloc(mask + 1, sizeof(*grown));

		if (!grown) {
			k->ret->overflow = true;
			return false;
		}
		for (uint64_t i = 0; i <= k->mask; i++)
			if (k->seen[i])
				put(grown, mask, k->seen[i]);
		free(k->seen);
		k->seen = grown;
		k->mask = mask;
	}
	if (!put(k->seen, k->mask, hash(s)))
		return false;
	k->used++;
	return true;
}

/* --------------------------------------------------------------------- views */

static void join(view a, const view b)
{
	for (uint32_t i = 0; i < WEAK_PLACES; i++)
		if (a[i] < b[i])
			a[i] = b[i];
}

static bool acquires(uint8_t order)
{
	return order == ACQUIRE || order == ACQ_REL;
}

static bool releases(uint8_t order)
{
	return order == RELEASE || order == ACQ_REL;
}

static uint8_t view_read(struct state *s, uint32_t t, uint32_t place, uint8_t number, uint8_t order)
{
	struct write *w = &s->writes[place][number];

	s->known[t][place] = number;
	join(s->to_acquire[t], w->released);
	if (acquires(order))
		join(s->known[t], w->released);
	join(s->to_acquire[t], s->known[t]);
	return w->value;
}

/* @over: the write that an atomic change read, whose releases it carries on; or NULL. */
static bool view_write(struct state *s, uint32_t t, uint32_t place, uint8_t value, uint8_t order,
		       const struct write *over)
{
	uint8_t number = (uint8_t)(s->count[place] + 1);
	struct write *w = &s->writes[place][number];

	if (number >= WRITES)
		return false;
	s->count[place] = number;
	s->known[t][place] = number;
	join(s->to_acquire[t], s->known[t]);
	w->value = value;
	memcpy(w->released, releases(order) ? s->known[t] : s->to_release[t], sizeof(view));
	w->released[place] = number;
	if (over)
		join(w->released, over->released);
	return true;
}

static void view_fence(struct state *s, uint32_t t)
{
	join(s->known[t], s->to_acquire[t]);
	join(s->known[t], s->fences);
	memcpy(s->fences, s->known[t], sizeof(view));
	memcpy(s->to_release[t], s->known[t], sizeof(view));
	memcpy(s->to_acquire[t], s->known[t], sizeof(view));
}

/* -------------------------------------------------------------------- queues */

static void flush(struct state *s, uint32_t t, uint32_t i)
{
	struct queued *q = s->queue[t];

	s->memory[q[i].place] = q[i].value;
	memmove(q + i, q + i + 1, (--s->length[t] - i) * sizeof(*q));
	memset(q + s->length[t], 0, sizeof(*q));
}

static bool may_flush(const struct search *k, const struct state *s, uint32_t t, uint32_t i)
{
	const struct queued *q = s->queue[t];

	if (i == 0)
		return true;
	if (k->model == WEAK_TSO || q[i].release)
		return false;
	for (uint32_t j = 0; j < i; j++)
		if (q[j].place == q[i].place)
			return false;
	return true;
}

static uint8_t queue_read(const struct state *s, uint32_t t, uint32_t place)
{
	for (uint32_t i = s->length[t]; i-- > 0;)
		if (s->queue[t][i].place == place)
			return s->queue[t][i].value;
	return s->memory[place];
}

/* May an atomic change, or a fence, happen now? */
static bool queue_allows(const struct search *k, const struct state *s, uint32_t t,
			 const struct weak_ins *ins, uint32_t place)
{
	if (k->model == WEAK_TSO || ins->op == OP_FENCE || releases(ins->order))
		return s->length[t] == 0;
	for (uint32_t i = 0; i < s->length[t]; i++)
		if (s->queue[t][i].place == place)
			return false;
	return true;
}

/* --------------------------------------------------------------- instructions */

static void visit(struct search *k, const struct state *s, uint32_t depth);

static bool over(const struct search *k)
{
	return k->ret->bad || k->ret->stuck || k->ret->overflow;
}

static void tell(struct search *k, uint32_t depth, const char *what)
{
	char *at = k->ret->how, *end = at + sizeof(k->ret->how);

	at += snprintf(at, (size_t)(end - at), "%s after", what);
	for (uint32_t i = 0; i < depth && at + 8 < end; i++)
		at += snprintf(at, (size_t)(end - at), " %u%s", k->path[i] & 0x7fu,
			       k->path[i] & 0x80 ? "f" : "");
}

/* One place is read as one value; all that this may be. */
static void on_memory(struct search *k, const struct state *s, uint32_t t,
		      const struct weak_ins *ins, uint32_t place, uint8_t number, uint32_t depth)
{
	struct state n = *s;
	bool change = ins->op == OP_EXCHANGE || ins->op == OP_ADD || ins->op == OP_CAS;
	uint8_t *r = &n.reg[t][ins->r], was, becomes = ins->value;

	was = k->model != WEAK_VIEWS
		      ? (change || ins->op == OP_AWAIT ? s->memory[place] : queue_read(s, t, place))
		      : view_read(&n, t, place, number, ins->order);
	n.pc[t]++;
	if (ins->op == OP_AWAIT && was == ins->value)
		return;
	if (ins->op == OP_CAS && was != *r) {
		*r = was;
		n.pc[t] = ins->to;
	} else if (change) {
		if (ins->op == OP_ADD)
			becomes = (uint8_t)(was + ins->value);
		if (k->model != WEAK_VIEWS)
			n.memory[place] = becomes;
		else if (!view_write(&n, t, place, becomes, ins->order, &s->writes[place][number]))
			k->ret->overflow = true;
		*r = was;
	} else if (ins->op == OP_LOAD) {
		*r = was;
	}
	visit(k, &n, depth + 1);
}

static void do_store(struct search *k, const struct state *s, uint32_t t,
		     const struct weak_ins *ins, uint32_t place, uint32_t depth)
{
	uint8_t value = ins->op == OP_STORE ? ins->value : s->reg[t][ins->r];
	struct state n = *s;

	n.pc[t]++;
	if (k->model == WEAK_VIEWS) {
		if (!view_write(&n, t, place, value, ins->order, NULL))
			k->ret->overflow = true;
	} else if (n.length[t] == QUEUE) {
		return; /* some have to leave first */
	} else {
		n.queue[t][n.length[t]++] =
			(struct queued){(uint8_t)place, value, releases(ins->order)};
	}
	visit(k, &n, depth + 1);
}

static void on_registers(struct search *k, const struct state *s, uint32_t t,
			 const struct weak_ins *ins, uint32_t depth)
{
	struct state n = *s;
	uint8_t *r = &n.reg[t][ins->r];
	bool bad = false;

	n.pc[t]++;
	if (ins->op == OP_SUM)
		*r = (uint8_t)(*r + n.reg[t][ins->value]);
	else if (ins->op == OP_MOVE)
		*r = n.reg[t][ins->value];
	else if (ins->op == OP_JUMP || (ins->op == OP_JUMP_IF && *r == ins->value))
		n.pc[t] = ins->to;
	else if (ins->op == OP_MUST)
		bad = *r != ins->value;
	else if (ins->op == OP_MUST_BE_REG)
		bad = *r != n.reg[t][ins->value];
	if (bad) {
		k->ret->bad = true;
		tell(k, depth + 1, "bad");
		return;
	}
	visit(k, &n, depth + 1);
}

static void step(struct search *k, const struct state *s, uint32_t t, uint32_t depth)
{
	const struct weak_ins *ins = &k->program->code[t][s->pc[t]];
	uint32_t place = ins->place + (ins->index ? s->reg[t][ins->index] : 0u);
	uint8_t number;

	switch (ins->op) {
	case OP_END:
		return;
	case OP_STORE:
	case OP_STORE_REG:
		do_store(k, s, t, ins, place, depth);
		return;
	case OP_FENCE:
		if (k->model == WEAK_VIEWS || queue_allows(k, s, t, ins, 0)) {
			struct state n = *s;

			n.pc[t]++;
			if (k->model == WEAK_VIEWS)
				view_fence(&n, t);
			visit(k, &n, depth + 1);
		}
		return;
	case OP_LOAD:
		if (k->model != WEAK_VIEWS) {
			on_memory(k, s, t, ins, place, 0, depth);
			return;
		}
		for (number = s->known[t][place]; number <= s->count[place] && !over(k); number++)
			on_memory(k, s, t, ins, place, number, depth);
		return;
	case OP_EXCHANGE:
	case OP_ADD:
	case OP_CAS:
	case OP_AWAIT: /* the newest */
		if (k->model == WEAK_VIEWS || queue_allows(k, s, t, ins, place))
			on_memory(k, s, t, ins, place, k->model == WEAK_VIEWS ? s->count[place] : 0,
				  depth);
		return;
	default:
		on_registers(k, s, t, ins, depth);
	}
}

static void visit(struct search *k, const struct state *s, uint32_t depth)
{
	bool ended = true, waits = true;
	uint32_t t, i;

	if (over(k) || !note(k, s))
		return;
	if (depth >= DEPTH) {
		k->ret->overflow = true;
		return;
	}
	k->ret->states++;
	for (t = 0; t < WEAK_THREADS && !over(k); t++) {
		const struct weak_ins *ins = &k->program->code[t][s->pc[t]];

		ended &= ins->op == OP_END;
		if (ins->op != OP_END && ins->op != OP_AWAIT)
			waits = false;
		if (ins->op == OP_AWAIT) {
			uint8_t newest = k->model == WEAK_VIEWS
						 ? s->writes[ins->place][s->count[ins->place]].value
						 : s->memory[ins->place];

			waits &= newest == ins->value;
		}
		k->path[depth] = (uint8_t)t;
		step(k, s, t, depth);
		if (k->model == WEAK_VIEWS)
			continue;
		waits &= s->length[t] == 0;
		for (i = 0; i < s->length[t] && !over(k); i++) {
			struct state n = *s;

			if (!may_flush(k, s, t, i))
				continue;
			k->path[depth] = (uint8_t)(t | 0x80);
			flush(&n, t, i);
			visit(k, &n, depth + 1);
		}
	}
	if (!over(k) && waits && !ended) {
		k->ret->stuck = true;
		tell(k, depth, "stuck");
	}
}

void weak_explore(const struct weak_program *p, enum weak_model model, struct weak_result *ret)
{
	struct search k = {.program = p, .model = model, .ret = ret, .mask = (1u << 16) - 1};
	struct state s;

	memset(ret, 0, sizeof(*ret));
	memset(&s, 0, sizeof(s)); /* padding is part of what is hashed */
	k.seen = calloc(k.mask + 1, sizeof(*k.seen));
	if (k.seen)
		visit(&k, &s, 0);
	else
		ret->overflow = true;
	free(k.seen);
}
