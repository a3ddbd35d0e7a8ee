/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weak_memory.h - all that a few threads can do to each other through memory that is weaker than it looks: every interleaving of
 * small programs, under three models.
 *
 *   TSO    x86: each thread's stores wait in a queue, and its loads may overtake them (Owens, Sarkar, Sewell: A better x86 memory
 *          model, 2009)
 *   PSO    the same, but stores to different places overtake each other too, unless the later one is a release
 *   VIEWS  C11 without out-of-thin-air: a load may return any value that is not older than what the thread knows of, acquire
 *          takes over what the releasing thread knew, a seq_cst fence takes over and leaves what all fences knew (the view machine of
 *          Kang et al.: A promising semantics for relaxed-memory concurrency, 2017, without promises)
 *
 * What none of them does: a store that becomes visible before an earlier load of its own thread is done, and a store
 * that is ordered before one that was visible before it. Knows no mailbox and no pool: weak_memory_test.c has the programs.
 */
#ifndef WEAK_MEMORY_H
#define WEAK_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define WEAK_THREADS 3u
#define WEAK_PLACES 6u /* in memory; all 0 at first */
#define WEAK_REGS 4u   /* of a thread; all 0 at first */
#define WEAK_CODE 24u

enum weak_model { WEAK_TSO, WEAK_PSO, WEAK_VIEWS, WEAK_MODELS };
enum weak_order { RELAXED, ACQUIRE, RELEASE, ACQ_REL };

enum weak_op {
	OP_END,
	OP_NOTHING,
	OP_LOAD,       /* r = place */
	OP_STORE,      /* place = value */
	OP_STORE_REG,  /* place = r */
	OP_FENCE,      /* seq_cst */
	OP_EXCHANGE,   /* r = place, place = value */
	OP_ADD,        /* r = place, place += value */
	OP_CAS,        /* place == r: place = value; else r = place, and on at @to */
	OP_AWAIT,      /* sleeps while the place is @value, and takes nothing */
	OP_SUM,        /* r += register @value */
	OP_MOVE,       /* r = register @value */
	OP_JUMP,       /* to @to */
	OP_JUMP_IF,    /* r == value: to @to */
	OP_MUST,       /* r == value, or the run is bad */
	OP_MUST_BE_REG /* r == register @value, likewise */
};

/* One instruction. Its place is @place plus the register @index where that is not 0 (register 0 is no index). */
struct weak_ins {
	uint8_t op, order, place, index, r, value, to;
};

struct weak_program {
	const char *name;
	struct weak_ins code[WEAK_THREADS][WEAK_CODE];
};

struct weak_result {
	uint64_t states;
	bool bad;       /* a MUST did not hold */
	bool stuck;     /* threads wait for what never comes */
	bool overflow;  /* the program is too long for its memory: nothing was shown */
	char how[1024]; /* the first such run: which thread did what */
};

/* All runs of the program under one model, until the first that is bad or stuck. */
void weak_explore(const struct weak_program *p, enum weak_model model, struct weak_result *ret);

#endif
