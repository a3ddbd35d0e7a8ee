/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_remote_test.c - blocks of one core's pool dropped by four other threads while the core goes on allocating: none
 * is lost, none comes twice, and what a thread wrote before it let go is seen by the next holder. Some blocks have
 * a reference for each thread, dropped at the same time. One thread more fetches slabs for the pool, and each looks keys up
 * meanwhile. A plain program, so that it also runs under the thread sanitizer.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "memory/memory.h"

#define THREADS 4u
#define ROUNDS 150000u
#define RING 256u
#define REFERENCES 2000000u
#define WRITTEN (64 * (1 + THREADS)) /* bytes of a block: the owner's, then each thread's */

/* From the owner to one thread: one writes, one reads. */
struct ring {
	struct thmqi_buf *bufs[RING];
	_Alignas(64) _Atomic uint32_t head;
	_Alignas(64) _Atomic uint32_t tail;
	pthread_t thread;
	uint32_t number;
	uint64_t wrong;
};

static struct ring rings[THREADS];
static _Atomic bool done;
static struct thmqi_slabs *slabs;

static int add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	*ret_key = 77 + slab->index;
	return 0;
}

static void remove_slab(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
}

static struct thmq_registrar registrar = {.add = add, .remove = remove_slab};

static bool give(struct ring *r, struct thmqi_buf *b)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	if (head - atomic_load_explicit(&r->tail, memory_order_acquire) == RING)
		return false;
	r->bufs[head % RING] = b;
	atomic_store_explicit(&r->head, head + 1, memory_order_release);
	return true;
}

static void *let_go(void *arg)
{
	struct ring *r = arg;
	uint32_t tail = 0;
	struct thmqi_buf *b;
	uint64_t key;

	for (;;) {
		if (tail == atomic_load_explicit(&r->head, memory_order_acquire)) {
			if (atomic_load(&done) && tail == atomic_load(&r->head))
				return NULL;
			sched_yield();
			continue;
		}
		b = r->bufs[tail % RING];
		atomic_store_explicit(&r->tail, ++tail, memory_order_release);
		if (b->data[0] != (uint8_t)b->user)
			r->wrong++;
		if (thmq_slabs_key(slabs, &registrar, b->data, &key) || key != 77u + (uint64_t)b->slab_index)
			r->wrong++;
		/* a word of its own: shared blocks are written by all at once */
		b->data[64 * (1 + r->number)] = (uint8_t)tail;
		thmqi_buf_unref_remote(b);
	}
}

static void *fetch(void *pool)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	while (!atomic_load(&done)) {
		thmq_pool_prepare(pool);
		thmq_pool_stats(pool, &st);
		sched_yield();
	}
	return NULL;
}

static bool room_in_all(void)
{
	uint32_t i;

	for (i = 0; i < THREADS; i++)
		if (atomic_load(&rings[i].head) -
			    atomic_load_explicit(&rings[i].tail, memory_order_acquire) ==
		    RING)
			return false;
	return true;
}

/* One block for one thread, or with a reference for each. */
static int hand_out(struct thmqi_pool *pool, uint32_t round, struct thmqi_prng *prng)
{
	struct thmqi_buf *b;
	uint32_t i;
	int rc = thmq_buf_alloc(pool, WRITTEN + (uint32_t)thmqi_prng_below(prng, 1u << thmqi_prng_below(prng, 16)), 0, &b);

	if (rc)
		return rc;
	memset(b->data, (uint8_t)round, WRITTEN);
	b->user = round;
	if (round % 3) {
		give(&rings[round % THREADS], b);
		return 0;
	}
	for (i = 1; i < THREADS; i++)
		thmqi_buf_ref(b);
	for (i = 0; i < THREADS; i++)
		give(&rings[i], b);
	return 0;
}

/* One block, whose references come home one by one while the owner takes them in. */
static void *let_go_of_one(void *arg)
{
	for (uint32_t i = 0; i < REFERENCES; i++)
		thmqi_buf_unref_remote(arg);
	return NULL;
}

static int many_references_of_one_block(struct thmqi_pool *pool)
{
	struct thmqi_pool_stats stats;
	struct thmqi_buf *b;
	pthread_t thread;
	uint32_t i, home = 0;

	if (thmq_buf_alloc(pool, 1, 0, &b))
		return 1;
	for (i = 1; i < REFERENCES + 1; i++)
		thmqi_buf_ref(b);
	if (pthread_create(&thread, NULL, let_go_of_one, b))
		return 1;
	for (i = 0; i < 100000000 && home < REFERENCES; i++)
		home += thmqi_pool_drain(pool);
	pthread_join(thread, NULL);
	home += thmqi_pool_drain(pool);
	thmqi_pool_stats(pool, &stats);
	printf("%u references of one block, %u came home, %u held\n", REFERENCES, home, b->refs);
	i = b->refs != 1 || stats.in_use != b->size || home != REFERENCES;
	if (b->refs)
		thmqi_buf_unref(b);
	return (int)i;
}

int main(void)
{
	struct thmqi_pool_stats stats;
	struct thmqi_pool *pool;
	struct thmqi_prng prng;
	pthread_t fetcher;
	uint32_t round, i, full = 0, left;
	uint64_t wrong = 0, given = 0;
	int failed;

	alarm(120);
	if (thmqi_slabs_open(2 * THMQ_SLAB_BYTES, &slabs) ||
	    thmq_pool_open(slabs, THMQ_POOL_OPTS(.low_bytes = THMQ_BLOCK_MAX, .high_bytes = THMQ_SLAB_BYTES + THMQ_BLOCK_MAX),
			   &pool) ||
	    thmq_slabs_subscribe(slabs, &registrar) || pthread_create(&fetcher, NULL, fetch, pool))
		return 1;
	thmqi_prng_seed(&prng, 11);
	for (i = 0; i < THREADS; i++) {
		rings[i].number = i;
		if (pthread_create(&rings[i].thread, NULL, let_go, &rings[i]))
			return 1;
	}
	for (round = 0; round < ROUNDS;) {
		if (round % 1024)
			thmqi_pool_drain(pool);
		else
			thmq_pool_tidy(pool);
		if (!room_in_all()) {
			sched_yield();
			continue;
		}
		if (hand_out(pool, round, &prng)) {
			full++;
			sched_yield();
			continue;
		}
		given += round % 3 ? 1 : THREADS;
		round++;
	}
	atomic_store(&done, true);
	for (i = 0; i < THREADS; i++) {
		pthread_join(rings[i].thread, NULL);
		wrong += rings[i].wrong;
	}
	pthread_join(fetcher, NULL);
	thmqi_pool_drain(pool);
	thmqi_pool_stats(pool, &stats);
	failed = many_references_of_one_block(pool);
	left = thmqi_pool_close(pool);
	failed |= thmq_slabs_unsubscribe(slabs, &registrar) || thmq_slabs_close(slabs);
	printf("%u blocks, %llu references given, %llu came home, %llu wrong, %u times full, %u "
	       "left\n",
	       ROUNDS, (unsigned long long)given, (unsigned long long)stats.remote_frees,
	       (unsigned long long)wrong, full, left);
	return failed || wrong || left || stats.in_use || stats.remote_frees != given;
}
