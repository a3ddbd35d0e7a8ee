/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_waiting_test.c - which offsets wait for a time, against a model that keeps a word for each offset: random steps, and after each
 * both say the same.
 */
#include <criterion/criterion.h>

#include "../../lib/broker/delay/waiting.h"

TestSuite(broker_waiting, .timeout = 60);

#define OFFSETS 4000u

enum { NEVER, IN_HEAP, TAKEN, OVER };

static uint8_t state[OFFSETS];
static uint64_t due[OFFSETS];
static struct waiting w;
static struct thmqi_prng prng;

static uint64_t below(uint64_t n)
{
	return thmqi_prng_below(&prng, n);
}

/* The first of those in the heap; OFFSETS: there is none. */
static uint32_t first_of(uint32_t end)
{
	uint32_t i, best = OFFSETS;

	for (i = 0; i < end; i++)
		if (state[i] == IN_HEAP && (best == OFFSETS || due[i] < due[best]))
			best = i;
	return best;
}

static void check_first(uint64_t base, uint32_t end)
{
	struct waiting_entry e;
	uint32_t best = first_of(end);
	int rc;

	while ((rc = thmqi_waiting_first(&w, &e)) == -EAGAIN)
		;
	cr_assert_eq(rc, best != OFFSETS);
	if (rc)
		cr_assert(e.offset == base + best && e.due_ns == due[best]);
}

static void check_any(uint64_t base, uint32_t end)
{
	uint32_t from = (uint32_t)below(end + 1), to = from + (uint32_t)below(end - from + 1), i;
	bool any = false;

	for (i = from; i < to; i++)
		any = any || state[i] == IN_HEAP || state[i] == TAKEN;
	cr_assert_eq(thmqi_waiting_any(&w, base + from, base + to), any);
}

static void run(uint64_t seed, uint64_t base)
{
	uint32_t next = 0, i, k, waiting = 0;
	struct waiting_entry e;

	memset(state, 0, sizeof(state));
	thmqi_prng_seed(&prng, seed);
	thmqi_waiting_init(&w, 16);
	while (next < OFFSETS - 1) {
		switch (below(8)) {
		case 0: /* the first is taken */
			check_first(base, next);
			i = first_of(next);
			if (i == OFFSETS)
				break;
			cr_assert_eq(thmqi_waiting_first(&w, &e), 1);
			thmqi_waiting_take(&w);
			state[i] = TAKEN;
			if (below(2)) { /* and comes back, or is over */
				thmqi_waiting_put(&w, due[i], base + i);
				state[i] = IN_HEAP;
			} else {
				thmqi_waiting_drop(&w, base + i, false);
				state[i] = OVER;
				waiting--;
			}
			break;
		case 1: /* some go, wherever they are */
			for (k = 0; k < 4 && next; k++) {
				i = (uint32_t)below(next);
				thmqi_waiting_drop(&w, base + i, state[i] == IN_HEAP);
				waiting -= state[i] == IN_HEAP;
				state[i] = OVER;
			}
			break;
		case 2:
			check_any(base, next);
			thmqi_waiting_sweep(&w, (uint32_t)below(64));
			break;
		default:
			due[next] = below(4) ? below(1000) : below(1ull << 62);
			cr_assert_eq(thmqi_waiting_hold(&w, base + next), 0);
			if (below(10) == 0) { /* it could not be stored: later, at another time */
				thmqi_waiting_drop(&w, base + next, false);
				break;
			}
			thmqi_waiting_put(&w, due[next], base + next);
			state[next++] = IN_HEAP;
			waiting++;
		}
		i = (uint32_t)below(next + 1);
		cr_assert_eq(thmqi_waiting_has(&w, base + i), state[i] == IN_HEAP || state[i] == TAKEN);
		cr_assert_eq(w.live, waiting);
	}
	check_first(base, next);
	/* in the order of their times to the end */
	for (; (i = first_of(next)) != OFFSETS; state[i] = OVER) {
		check_first(base, next);
		while (thmqi_waiting_first(&w, &e) == -EAGAIN)
			;
		thmqi_waiting_take(&w);
		thmqi_waiting_drop(&w, base + i, false);
	}
	cr_assert_eq(w.live, 0);
	cr_assert_eq(thmqi_waiting_first(&w, &e), 0);
	cr_assert_eq(w.left, 0);
	thmqi_waiting_fini(&w);
}

Test(broker_waiting, says_as_a_model_does_who_waits_and_who_is_next)
{
	run(1, 0);
	run(2, 1000003);
	run(3, UINT64_MAX / 2 - 63);
}

Test(broker_waiting, gives_room_back_that_dropped_ones_held)
{
	struct waiting_entry e;
	uint64_t i, n = 200000;
	size_t most;

	thmqi_waiting_init(&w, 512);
	for (i = 0; i < n; i++) {
		cr_assert_eq(thmqi_waiting_hold(&w, i), 0);
		thmqi_waiting_put(&w, 1000000 + i * 7919 % n, i);
	}
	most = w.size;
	for (i = 0; i < n; i++)
		if (i != 77)
			thmqi_waiting_drop(&w, i, true);
	cr_assert_eq(w.count, n);
	while (thmqi_waiting_sweep(&w, 1000))
		;
	cr_assert_lt(w.count, 8192);
	cr_assert_leq(w.size, most / 4);
	while (thmqi_waiting_first(&w, &e) == -EAGAIN)
		;
	cr_assert(thmqi_waiting_first(&w, &e) == 1 && e.offset == 77);
	thmqi_waiting_fini(&w);
}

Test(broker_waiting, of_those_due_together_the_first_comes_first)
{
	struct waiting_entry e;
	uint64_t i;

	thmqi_waiting_init(&w, 0);
	for (i = 100; i-- > 0;) {
		cr_assert_eq(thmqi_waiting_hold(&w, i), 0);
		thmqi_waiting_put(&w, 5, i);
	}
	for (i = 0; i < 100; i++) {
		cr_assert(thmqi_waiting_first(&w, &e) == 1 && e.offset == i);
		thmqi_waiting_take(&w);
		thmqi_waiting_drop(&w, i, false);
	}
	thmqi_waiting_fini(&w);
}
