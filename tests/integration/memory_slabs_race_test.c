/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_slabs_race_test.c - pools of several threads that take slabs from one global pool and give them back all the time, while another
 * thread subscribes and leaves, trims and counts: no slab is lent twice, each is registered exactly once with who is there, no key is
 * another's, and nothing is left. A plain program, so that it also runs under the thread sanitizer.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/memory.h"

#define THREADS 4u
#define SLABS 6u
#define ROOT THMQ_BLOCK_MAX

struct book {
	struct thmq_registrar registrar; /* first */
	_Atomic uint32_t at[SLABS];      /* by slab: times it is registered now */
	_Atomic uint32_t adds, removes, wrong;
};

static struct thmq_slabs *slabs;
static struct book lasting; /* subscribed all the time */
static _Atomic uint32_t working = THREADS;
static uint32_t rounds = 400;

static int add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct book *b = (struct book *)r;

	b->wrong += slab->index >= SLABS || atomic_fetch_add(&b->at[slab->index], 1) != 0;
	b->adds++;
	*ret_key = (uint64_t)(uintptr_t)b ^ slab->index;
	return 0;
}

static void take_out(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
	struct book *b = (struct book *)r;

	b->wrong += atomic_fetch_sub(&b->at[slab->index], 1) != 1 ||
		    key != ((uint64_t)(uintptr_t)b ^ slab->index);
	b->removes++;
}

struct worker {
	pthread_t thread;
	uint32_t number, domain;
	struct book own; /* of its pool alone */
	uint32_t wrong, refused;
	struct thmqi_prng prng;
};

/* A block of a slab that nobody else may have. */
static void check(struct worker *w, const struct thmq_buf *b)
{
	uint64_t key = 0;

	if (thmq_slabs_key(slabs, &lasting.registrar, b->data, &key) == 0)
		w->wrong += key != ((uint64_t)(uintptr_t)&lasting ^ (uint32_t)b->slab_index);
	else
		w->wrong += w->domain == 0; /* it has all the private ones */
	w->wrong += thmq_slabs_key(slabs, &w->own.registrar, b->data, &key) != 0 ||
		    key != ((uint64_t)(uintptr_t)&w->own ^ (uint32_t)b->slab_index);
}

static uint32_t use(struct worker *w, struct thmq_pool *p)
{
	struct thmq_buf *b[8];
	uint32_t n, i, want = 1 + (uint32_t)thmqi_prng_below(&w->prng, 8);

	for (n = 0; n < want && thmq_buf_alloc(p, ROOT, 0, &b[n]) == 0; n++) {
		uint64_t *word = (uint64_t *)(void *)b[n]->data;

		check(w, b[n]);
		*word = (uint64_t)w->number << 32 | n;
	}
	w->refused += n < want;
	for (i = 0; i < n; i++) {
		w->wrong += *(uint64_t *)(void *)b[i]->data != ((uint64_t)w->number << 32 | i);
		thmq_buf_unref(b[i]);
	}
	return n;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct thmq_pool *p;
	uint32_t i, k;

	for (i = 0; i < rounds; i++) {
		if (thmq_pool_open(slabs,
				   THMQ_POOL_OPTS(.domain = w->domain, .low_bytes = ROOT,
						  .high_bytes = 2 * THMQ_SLAB_BYTES),
				   &p) != 0) {
			w->wrong++;
			break;
		}
		w->own.registrar = (struct thmq_registrar){
			.add = add, .remove = take_out, .pool = p, .domain = w->domain};
		w->wrong += thmq_slabs_subscribe(slabs, &w->own.registrar) != 0;
		for (k = 0; k < 4; k++) {
			use(w, p);
			thmq_pool_tidy(p);
		}
		w->wrong += thmq_slabs_unsubscribe(slabs, &w->own.registrar) != 0;
		w->wrong += thmq_pool_close(p) != 0;
	}
	atomic_fetch_sub(&working, 1);
	return NULL;
}

static uint32_t come_and_go(void)
{
	static struct book b;
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	uint32_t wrong = 0, i;

	b.registrar = (struct thmq_registrar){
		.add = add, .remove = take_out, .flags = THMQ_REGISTRAR_ANY_DOMAIN};
	while (atomic_load(&working)) {
		wrong += thmq_slabs_subscribe(slabs, &b.registrar) != 0;
		wrong += thmq_slabs_stats(slabs, &st) != 0 || st.slabs > SLABS ||
			 st.free_slabs > st.slabs;
		thmq_slabs_trim(slabs);
		wrong += thmq_slabs_unsubscribe(slabs, &b.registrar) != 0;
		for (i = 0; i < SLABS; i++)
			wrong += atomic_load(&b.at[i]) != 0;
		usleep(200);
	}
	return wrong + b.wrong + (b.adds != b.removes);
}

int main(void)
{
	static struct worker workers[THREADS];
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	uint32_t wrong = 0, refused = 0, i;

	if (getenv("THMQ_TEST_FULL"))
		rounds *= 25;
	if (getenv("THMQ_TEST_SMALL"))
		rounds /= 4;
	if (thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = SLABS * (uint64_t)THMQ_SLAB_BYTES),
			    &slabs) != 0)
		return 1;
	lasting.registrar = (struct thmq_registrar){.add = add, .remove = take_out};
	wrong += thmq_slabs_subscribe(slabs, &lasting.registrar) != 0;
	for (i = 0; i < THREADS; i++) {
		workers[i].number = i + 1;
		workers[i].domain = i == 2 ? 5 : 0; /* one of a peer's */
		thmqi_prng_seed(&workers[i].prng, i);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			return 1;
	}
	wrong += come_and_go();
	for (i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		wrong += workers[i].wrong + workers[i].own.wrong;
		refused += workers[i].refused;
	}
	wrong += thmq_slabs_unsubscribe(slabs, &lasting.registrar) != 0;
	wrong += lasting.wrong + (lasting.adds != lasting.removes);
	thmq_slabs_trim(slabs);
	thmq_slabs_stats(slabs, &st);
	printf("%u registrations, %u refusals, %u slabs left, %u wrong\n", st.registrations,
	       refused, st.slabs, wrong);
	return wrong || st.slabs || st.locked_bytes || thmq_slabs_close(slabs) != 0;
}
