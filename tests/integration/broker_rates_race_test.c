/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broker_rates_race_test.c - a limit is altered by one core while others take by it: what was taken at a byte a second is never owed at another
 * rate, by which it would be hours. And who is held up is told for how long, to the nanosecond.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "../../lib/broker/access/guard.h"

#define NOW 1000000000000ull
#define ROUNDS 300000u

static struct rates rates;
static atomic_uint turn; /* of whoever sets; above 16 bits: of who takes */
static atomic_bool over;

/* Both have to be awake to meet; where there is one processor they take turns. */
static void rest(unsigned *spins)
{
	if (++*spins > 10000)
		sched_yield();
}

static void *take(void *arg)
{
	unsigned seen = 0, at, spins = 0;

	(void)arg;
	while (!atomic_load(&over)) {
		at = atomic_load(&turn);
		if (at == seen) {
			rest(&spins);
			continue;
		}
		spins = 0;
		seen = at;
		thmqi_rates_take(&rates, NULL, false, NOW, 1 << 20, 1);
		atomic_fetch_add(&turn, 1u << 16);
		seen += 1u << 16;
	}
	return NULL;
}

/* Whoever may have nothing has to wait, and whoever has to wait may have nothing: at each moment about that at which all is paid. */
static bool held_up_for_as_long_as_is_told(void)
{
	const struct thmq_limits l = {.size = sizeof(l), .produce_bytes = 1000003, .produce_messages = 777, .consume_messages = 1000000000};
	struct allowance a;
	uint64_t wait, now;
	int out;

	for (out = 0; out < 2; out++) {
		thmqi_rates_set(&rates, &l);
		thmqi_rates_take(&rates, NULL, out, NOW, 250000, 250000000);
		wait = thmqi_rates_wait(&rates, NULL, out, NOW);
		if (wait < 100)
			return false;
		for (now = NOW + wait - 100; now < NOW + wait + 100; now++)
			if (thmqi_rates_allow(&rates, NULL, out, now, &a) != !thmqi_rates_wait(&rates, NULL, out, now) ||
			    thmqi_rates_wait(&rates, NULL, out, now) != (now < NOW + wait ? NOW + wait - now : 0))
				return false;
	}
	return true;
}

int main(void)
{
	const struct thmq_limits slow = {.size = sizeof(slow), .produce_bytes = 1}, fast = {.size = sizeof(fast), .produce_bytes = 1000000000};
	uint64_t wait, most = 0;
	pthread_t thread;
	unsigned i, at, spins;

	if (!held_up_for_as_long_as_is_told()) {
		fprintf(stderr, "what is held up is not told for how long\n");
		return 1;
	}
	if (pthread_create(&thread, NULL, take, NULL) != 0)
		return 1;
	for (i = 0; i < ROUNDS && clock() < CLOCKS_PER_SEC / 2; i++) { /* of processor time; two processors find it within that */
		thmqi_rates_set(&rates, &slow);
		at = atomic_fetch_add(&turn, 1) + 1;
		thmqi_rates_set(&rates, &fast);
		for (spins = 0; atomic_load(&turn) == at;)
			rest(&spins);
		wait = thmqi_rates_wait(&rates, NULL, false, NOW);
		most = wait > most ? wait : most;
	}
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	printf("owed at most %.3f s\n", (double)most / 1e9);
	return most > 1000000000ull;
}
