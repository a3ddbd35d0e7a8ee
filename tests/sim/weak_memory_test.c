/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weak_memory_test.c - the steps by which cores talk to each other, as small programs that are run through all interleavings under
 * three models of memory (weak_memory.h): the turn of a mailbox's messages, falling asleep and being woken, being told of room, and
 * the list by which a pool's blocks come home. Each stands beside variants with a defect, which have to be found:
 * a check that finds nothing shows nothing. Exit 0: passed.
 *
 * The programs follow lib/reactor/mailbox.c, loop.c (arm), reactor.h (kick) and lib/memory/buf.c line by line: who changes those changes these.
 */
#include <stdio.h>
#include <string.h>

#include "weak_memory.h"

#define LOAD(reg, at, how) {.op = OP_LOAD, .r = reg, .place = at, .order = how}
#define STORE(at, val, how) {.op = OP_STORE, .place = at, .value = val, .order = how}
/* where a fence is or, in a variant, is not: so that the lines keep their numbers */
#define FENCE OP_FENCE
#define NO_FENCE OP_NOTHING
#define EXCHANGE(reg, at, val, how) {.op = OP_EXCHANGE, .r = reg, .place = at, .value = val, .order = how}
#define ADD(reg, at, val, how) {.op = OP_ADD, .r = reg, .place = at, .value = val, .order = how}
#define AWAIT(at, val) {.op = OP_AWAIT, .place = at, .value = val, .order = ACQUIRE}
#define JUMP(line) {.op = OP_JUMP, .to = line}
#define JUMP_IF(reg, val, line) {.op = OP_JUMP_IF, .r = reg, .value = val, .to = line}
#define MUST(reg, val) {.op = OP_MUST, .r = reg, .value = val}
#define END {.op = OP_END}

enum { T = 1 << WEAK_TSO, P = 1 << WEAK_PSO, V = 1 << WEAK_VIEWS };

struct case_ {
	unsigned finds; /* models that have to find something; 0: it is right, and none may */
	struct weak_program program;
};

/* ------------------------------------------------- the turn of a message: a ring of two, three messages */

enum { DATA_0, TURN_0, DATA_1, TURN_1, TAIL };

/* send: the slot of the third message is that of the first, whose reader has to be through with it. */
#define SENDER(release) \
	{ \
		STORE(DATA_0, 1, RELAXED), STORE(TURN_0, 1, release), STORE(DATA_1, 2, RELAXED), STORE(TURN_1, 1, release), \
		/* 4 */ LOAD(1, TAIL, ACQUIRE), JUMP_IF(1, 0, 4), STORE(DATA_0, 3, RELAXED), STORE(TURN_0, 2, release), END, \
	}
/* take, and publish after each */
#define READER(acquire) \
	{ \
		/* 0 */ LOAD(1, TURN_0, acquire), JUMP_IF(1, 0, 0), LOAD(2, DATA_0, RELAXED), MUST(2, 1), STORE(TAIL, 1, RELEASE), \
		/* 5 */ LOAD(1, TURN_1, acquire), JUMP_IF(1, 0, 5), LOAD(2, DATA_1, RELAXED), MUST(2, 2), STORE(TAIL, 2, RELEASE), \
		/* 10 */ LOAD(1, TURN_0, acquire), JUMP_IF(1, 1, 10), LOAD(2, DATA_0, RELAXED), MUST(2, 3), MUST(1, 2), END, \
	}

/* ------------------------------------------------------------ asleep and woken */

enum { WORK, SLEEPING, EVENT };

/* Two messages, each with its own kick: work, fence, look at the flag; who finds it up takes it down and writes to the eventfd. */
#define KICK(line, fence) \
	{.op = fence}, LOAD(1, SLEEPING, RELAXED), JUMP_IF(1, 0, (line) + 5), STORE(SLEEPING, 0, RELAXED), ADD(1, EVENT, 1, ACQ_REL)
#define WAKER(fence) \
	{ \
		STORE(WORK, 1, RELEASE), KICK(1, fence), STORE(WORK, 2, RELEASE), KICK(7, fence), END, \
	}
#define HASTY_WAKER \
	{ \
		KICK(0, FENCE), STORE(WORK, 1, RELEASE), KICK(6, FENCE), STORE(WORK, 2, RELEASE), END, \
	}
/* Until both are seen: look; arm: flag, fence; look once more; sleep until the eventfd is written; disarm. */
#define SLEEPER(fence, once_more) \
	{ \
		/* 0 */ LOAD(1, WORK, ACQUIRE), JUMP_IF(1, 2, 9), STORE(SLEEPING, 1, RELAXED), {.op = fence}, \
		/* 4 */ {.op = once_more, .r = 1, .place = WORK, .order = ACQUIRE}, JUMP_IF(1, 2, 9), \
		/* 6 */ AWAIT(EVENT, 0), EXCHANGE(1, EVENT, 0, ACQ_REL), JUMP(10), \
		/* 9 */ END, \
		/* 10 */ STORE(SLEEPING, 0, RELAXED), JUMP(0), \
	}

/* Three cores: one that is written to by two others, a message of each. */
enum { FROM_1 = 0, ASLEEP_3, EVENT_3, FROM_2 };
#define ONE_OF_TWO(place, fence) \
	{ \
		STORE(place, 1, RELEASE), {.op = fence}, LOAD(1, ASLEEP_3, RELAXED), JUMP_IF(1, 0, 6), STORE(ASLEEP_3, 0, RELAXED), \
		ADD(1, EVENT_3, 1, ACQ_REL), END, \
	}
#define SLEEPER_OF_TWO \
	{ \
		/* 0 */ LOAD(1, FROM_1, ACQUIRE), LOAD(2, FROM_2, ACQUIRE), {.op = OP_SUM, .r = 1, .value = 2}, JUMP_IF(1, 2, 13), \
		/* 4 */ STORE(ASLEEP_3, 1, RELAXED), {.op = FENCE}, \
		/* 6 */ LOAD(1, FROM_1, ACQUIRE), LOAD(2, FROM_2, ACQUIRE), {.op = OP_SUM, .r = 1, .value = 2}, JUMP_IF(1, 2, 13), \
		/* 10 */ AWAIT(EVENT_3, 0), EXCHANGE(1, EVENT_3, 0, ACQ_REL), JUMP(14), \
		/* 13 */ END, \
		/* 14 */ STORE(ASLEEP_3, 0, RELAXED), JUMP(0), \
	}

/* --------------------------------------------------------------- told of room */

enum { FREE, WISH, TOLD, TASK };

/* The sender of a ring that is full sleeps until it is told; the reader frees a quarter and says so, once. The task by which it says so was
 * the sender's until the wish: its list ran through it. */
#define WISHER(fence, wish) \
	{ \
		STORE(TASK, 1, RELAXED), STORE(WISH, 1, wish), {.op = fence}, LOAD(1, FREE, ACQUIRE), JUMP_IF(1, 1, 8), \
		/* 5 */ AWAIT(TOLD, 0), LOAD(2, TASK, RELAXED), MUST(2, 2), END, \
	}
#define FREER(fence) \
	{ \
		STORE(FREE, 1, RELEASE), {.op = fence}, LOAD(1, WISH, RELAXED), JUMP_IF(1, 0, 10), EXCHANGE(1, WISH, 0, ACQ_REL), \
		/* 5 */ JUMP_IF(1, 0, 10), LOAD(2, TASK, RELAXED), MUST(2, 1), STORE(TASK, 2, RELAXED), ADD(1, TOLD, 1, ACQ_REL), \
		/* 10 */ END, \
	}

/* ------------------------------------- blocks that come home: two blocks, of the first two references */

enum { HOME, NEXT /* + 1, + 2 */, REMOTE = 3 /* + 1, + 2 */ };

/* thmq_buf_unref_remote() of block b, in lines @line to @line + 5, which goes on at @then */
#define COME_HOME(line, b, cas_order, then) \
	ADD(1, REMOTE + (b), 1, ACQ_REL), JUMP_IF(1, 0, (line) + 3), JUMP(then), LOAD(2, HOME, RELAXED), \
		{.op = OP_STORE_REG, .place = NEXT + (b), .r = 2}, \
		{.op = OP_CAS, .place = HOME, .r = 2, .value = (b), .to = (line) + 4, .order = cas_order}
#define HOMEGOER_BOTH(cas_order) \
	{ \
		COME_HOME(0, 2, cas_order, 6), COME_HOME(6, 1, cas_order, 12), END, \
	}
#define HOMEGOER_FIRST(cas_order) \
	{ \
		COME_HOME(0, 1, cas_order, 6), END, \
	}
#define READ_NEXT {.op = OP_LOAD, .place = NEXT, .index = 1, .r = 2}
#define TAKE_COUNT {.op = OP_EXCHANGE, .place = REMOTE, .index = 1, .r = 3, .value = 0, .order = ACQ_REL}
/* thmqi_home_drain(), until all three references are dropped: register 0 counts them */
#define OWNER_WITH(...) \
	{ \
		/* 0 */ AWAIT(HOME, 0), EXCHANGE(1, HOME, 0, ACQUIRE), \
		/* 2 */ JUMP_IF(1, 0, 8), __VA_ARGS__, {.op = OP_SUM, .r = 0, .value = 3}, {.op = OP_MOVE, .r = 1, .value = 2}, \
		/* 7 */ JUMP(2), \
		/* 8 */ JUMP_IF(0, 3, 10), JUMP(0), END, \
	}

#define OWNER OWNER_WITH(READ_NEXT, TAKE_COUNT)
#define HASTY_OWNER OWNER_WITH(TAKE_COUNT, READ_NEXT)

static const struct case_ cases[] = {
	{0, {"turn", {SENDER(RELEASE), READER(ACQUIRE)}}},
	{P | V, {"turn, written without release", {SENDER(RELAXED), READER(ACQUIRE)}}},
	{V, {"turn, read without acquire", {SENDER(RELEASE), READER(RELAXED)}}},

	{0, {"sleep", {WAKER(FENCE), SLEEPER(FENCE, OP_LOAD)}}},
	{T | P | V, {"sleep, no fence in kick", {WAKER(NO_FENCE), SLEEPER(FENCE, OP_LOAD)}}},
	{T | P | V, {"sleep, no fence in arm", {WAKER(FENCE), SLEEPER(NO_FENCE, OP_LOAD)}}},
	{T | P | V, {"sleep, without looking once more", {WAKER(FENCE), SLEEPER(FENCE, OP_NOTHING)}}},
	{T | P | V, {"sleep, kicked before the work is there", {HASTY_WAKER, SLEEPER(FENCE, OP_LOAD)}}},
	{0, {"sleep, written to by two", {ONE_OF_TWO(FROM_1, FENCE), ONE_OF_TWO(FROM_2, FENCE), SLEEPER_OF_TWO}}},
	{T | P | V,
	 {"sleep, written to by two, one without fence",
	  {ONE_OF_TWO(FROM_1, FENCE), ONE_OF_TWO(FROM_2, NO_FENCE), SLEEPER_OF_TWO}}},

	{0, {"room", {WISHER(FENCE, RELEASE), FREER(FENCE)}}},
	{T | P | V, {"room, no fence where it is wished for", {WISHER(NO_FENCE, RELEASE), FREER(FENCE)}}},
	{T | P | V, {"room, no fence where it is made", {WISHER(FENCE, RELEASE), FREER(NO_FENCE)}}},
	{P | V, {"room, wished for without release", {WISHER(FENCE, RELAXED), FREER(FENCE)}}},

	{0, {"home", {HOMEGOER_BOTH(RELEASE), HOMEGOER_FIRST(RELEASE), OWNER}}},
	{T | P | V,
	 {"home, counted before the next is read", {HOMEGOER_BOTH(RELEASE), HOMEGOER_FIRST(RELEASE), HASTY_OWNER}}},
	{P | V, {"home, pushed without release", {HOMEGOER_BOTH(RELAXED), HOMEGOER_FIRST(RELAXED), OWNER}}},
};

static int try_case(const struct case_ *c, enum weak_model model)
{
	static const char *const models[] = {"TSO", "PSO", "views"};
	struct weak_result r;
	bool expected = c->finds & (1u << model), found;

	weak_explore(&c->program, model, &r);
	found = r.bad || r.stuck;
	printf("%-48s %-5s %8llu states: %s%s\n", c->program.name, models[model], (unsigned long long)r.states,
	       r.overflow ? "too long"
	       : found    ? r.how
			  : "all runs are right",
	       found != expected ? "  <- not as it should be" : "");
	return r.overflow || found != expected;
}

int main(void)
{
	int failed = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int model = 0; model < WEAK_MODELS; model++)
			failed |= try_case(&cases[i], (enum weak_model)model);
	return failed;
}
