/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_trouble_test.c - the pool in bad hands and in bad times: registrars that call back, many of them, slabs that the system does
 * not take back, limits that two threads reach at once, sizes near 2^64, mistaken frees and trims, a child process.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/memory.h"

#define SLAB (uint64_t) THMQ_SLAB_BYTES
#define ROOT THMQ_BLOCK_MAX

TestSuite(memory_trouble, .timeout = 60);

static struct thmq_slabs *open_slabs(uint32_t slabs)
{
	struct thmq_slabs *s = NULL;

	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = slabs * SLAB,
						     .pages = THMQ_PAGES_TRANSPARENT),
				     &s),
		     0);
	return s;
}

#define OPEN_POOL(slabs, pool, ...)                                                                \
	cr_assert_eq(thmq_pool_open(slabs, THMQ_POOL_OPTS(__VA_ARGS__), pool), 0, "%s",            \
		     thmq_errmsg())

static struct thmq_buf *take(struct thmq_pool *p, uint32_t size)
{
	struct thmq_buf *b = NULL;

	cr_assert_eq(thmq_buf_alloc(p, size, 0, &b), 0);
	return b;
}

static struct thmq_pool_stats stats(struct thmq_pool *p)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	cr_assert_eq(thmq_pool_stats(p, &st), 0);
	return st;
}

/* ------------------------------------------------------- registrars that call back */

struct meddler {
	struct thmq_registrar registrar; /* first */
	struct thmq_slabs *slabs;
	struct thmq_pool *pool;
	uint32_t adds, removes;
	int subscribe, unsubscribe, alloc, open, stats;
	uint64_t trimmed;
	bool other_subscribes;
};

static void meddle(struct meddler *m)
{
	struct thmq_registrar other = {
		.add = m->registrar.add, .remove = m->registrar.remove, .pool = m->registrar.pool};
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	struct thmq_buf *b = NULL;
	struct thmq_pool *p = NULL;

	m->unsubscribe = thmq_slabs_unsubscribe(m->slabs, &m->registrar);
	if (m->other_subscribes)
		m->subscribe = thmq_slabs_subscribe(m->slabs, &other);
	m->trimmed += m->registrar.pool ? 0 : thmq_slabs_trim(m->slabs);
	m->stats = thmq_slabs_stats(m->slabs, &st);
	m->alloc = thmq_buf_alloc(m->pool, ROOT, 0, &b);
	if (m->alloc == 0)
		thmq_buf_unref(b);
	m->open = thmq_pool_open(m->slabs, THMQ_POOL_OPTS(.flags = THMQ_POOL_NEAR), &p);
	if (m->open == 0)
		thmq_pool_close(p);
}

static int meddling_add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct meddler *m = (struct meddler *)r;

	m->adds++;
	*ret_key = slab->index;
	meddle(m);
	return 0;
}

static void meddling_remove(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
	struct meddler *m = (struct meddler *)r;

	cr_assert_eq(key, slab->index);
	m->removes++;
	meddle(m);
}

#define MEDDLER(slabs_, pool_, ...)                                                                \
	{                                                                                          \
		.registrar = {.add = meddling_add, .remove = meddling_remove, __VA_ARGS__},        \
		.slabs = slabs_, .pool = pool_, .other_subscribes = true                           \
	}

Test(memory_trouble, a_registrar_of_all_that_calls_back_is_refused_and_does_not_hang)
{
	struct thmq_slabs *s = open_slabs(4);
	struct thmq_pool *p;
	struct thmq_buf *b;

	OPEN_POOL(s, &p, 0);
	struct meddler m = MEDDLER(s, p, .pool = NULL);

	cr_assert_eq(thmq_slabs_subscribe(s, &m.registrar), 0);
	b = take(p, ROOT);
	cr_assert_eq(m.adds, 1);
	cr_assert_eq(m.unsubscribe, -EDEADLK);
	cr_assert_eq(m.subscribe, -EDEADLK);
	cr_assert_eq(m.stats, 0, "the counters need none of that");
	cr_assert_eq(m.alloc, -ENOBUFS, "no slab can be made now");
	cr_assert_eq(m.trimmed, 0);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &m.registrar), 0);
	cr_assert_eq(m.removes, 1);
	cr_assert_eq(m.alloc, 0, "from the slab that is there");
	cr_assert_eq(thmq_slabs_unsubscribe(s, &m.registrar), -EINVAL);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_trouble, a_registrar_of_a_pool_that_calls_back_is_refused_and_breaks_nothing)
{
	struct thmq_slabs *s = open_slabs(4);
	struct thmq_pool *p;
	struct thmq_buf *b[8];

	OPEN_POOL(s, &p, .low_bytes = 1, .high_bytes = 1 + SLAB);
	struct meddler m = MEDDLER(s, p, .pool = p);

	b[0] = take(p, ROOT); /* there is a slab already */
	cr_assert_eq(thmq_slabs_subscribe(s, &m.registrar), 0);
	cr_assert_eq(m.adds, 1);
	cr_assert_eq(m.unsubscribe, -EDEADLK);
	cr_assert_eq(m.subscribe, -EDEADLK);
	cr_assert_eq(m.alloc, 0);
	for (int i = 1; i < 8; i++)
		b[i] = take(p, ROOT);
	cr_assert_eq(m.adds, 2);
	for (int i = 0; i < 8; i++)
		thmq_buf_unref(b[i]);
	thmq_pool_tidy(p); /* gives one back: removed within */
	cr_assert_eq(m.removes, 1);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &m.registrar), 0);
	cr_assert_eq(m.removes, m.adds);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* -------------------------------------------------------------- many registrars */

static int plain_add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	*ret_key = (uint64_t)(uintptr_t)r + slab->index;
	return 0;
}

static void plain_remove(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
	cr_assert_eq(key, (uint64_t)(uintptr_t)r + slab->index);
}

#define POOLS 100u

Test(memory_trouble, each_of_a_hundred_pools_has_registrars_of_its_own)
{
	static struct thmq_registrar of[POOLS], second[POOLS];
	static struct thmq_pool *p[POOLS];
	static struct thmq_buf *b[POOLS];
	struct thmq_slabs *s = open_slabs(POOLS);
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	uint64_t key;
	uint32_t i;

	for (i = 0; i < POOLS; i++) {
		OPEN_POOL(s, &p[i], 0);
		of[i] = (struct thmq_registrar){
			.add = plain_add, .remove = plain_remove, .pool = p[i]};
		second[i] = of[i];
		cr_assert_eq(thmq_slabs_subscribe(s, &of[i]), 0, "pool %u: %s", i, thmq_errmsg());
		cr_assert_eq(thmq_slabs_subscribe(s, &second[i]), 0);
		cr_assert_eq(thmq_slabs_subscribe(s, &of[i]), -EBUSY);
		b[i] = take(p[i], 4096);
	}
	cr_assert_eq(thmq_slabs_stats(s, &st), 0);
	cr_assert_eq(st.registrations, 2 * POOLS);
	for (i = 0; i < POOLS; i++) {
		cr_assert_eq(thmq_slabs_key(s, &of[i], b[i]->data + 4095, &key), 0);
		cr_assert_eq(key, (uint64_t)(uintptr_t)&of[i] + (uint32_t)b[i]->slab_index);
		cr_assert_eq(thmq_slabs_key(s, &of[i], b[(i + 1) % POOLS]->data, &key), -ENOENT,
			     "it is another pool's");
		thmq_buf_unref(b[i]);
		cr_assert_eq(thmq_pool_close(p[i]), -EBUSY);
		cr_assert_eq(thmq_slabs_unsubscribe(s, &of[i]), 0);
		cr_assert_eq(thmq_slabs_unsubscribe(s, &second[i]), 0);
		cr_assert_eq(thmq_slabs_key(s, &of[i], b[i]->data, &key), -ENOENT);
		cr_assert_eq(thmq_pool_close(p[i]), 0);
	}
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_trouble, a_pool_has_only_so_many_registrars)
{
	struct thmq_registrar of[THMQ_POOL_REGISTRARS_MAX + 1];
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p;
	uint32_t i;

	OPEN_POOL(s, &p, 0);
	for (i = 0; i <= THMQ_POOL_REGISTRARS_MAX; i++) {
		of[i] = (struct thmq_registrar){
			.add = plain_add, .remove = plain_remove, .pool = p};
		cr_assert_eq(thmq_slabs_subscribe(s, &of[i]),
			     i < THMQ_POOL_REGISTRARS_MAX ? 0 : -ENOSPC);
	}
	for (i = 0; i < THMQ_POOL_REGISTRARS_MAX; i++)
		cr_assert_eq(thmq_slabs_unsubscribe(s, &of[i]), 0);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* ----------------------------------------------------------------- a slow registrar */

struct slow {
	struct thmq_registrar registrar; /* first */
	sem_t begun, go_on;
	struct thmq_pool *pool;
	struct thmq_buf *buf;
};

static int slow_add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct slow *w = (struct slow *)r;

	*ret_key = (uint64_t)(uintptr_t)r + slab->index;
	if (slab->index == 0)
		return 0;
	sem_post(&w->begun);
	sem_wait(&w->go_on);
	return 0;
}

static void *take_one(void *arg)
{
	struct slow *w = arg;

	return (void *)(intptr_t)thmq_buf_alloc(w->pool, ROOT, 0, &w->buf);
}

Test(memory_trouble, a_slab_that_is_there_is_lent_while_another_one_is_being_registered)
{
	struct slow w = {.registrar = {.add = slow_add, .remove = plain_remove}};
	struct thmq_slabs *s = open_slabs(4);
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	struct thmq_pool *first, *other;
	struct thmq_buf *b;
	pthread_t thread;
	void *rc;

	sem_init(&w.begun, 0, 0);
	sem_init(&w.go_on, 0, 0);
	OPEN_POOL(s, &w.pool, 0);
	OPEN_POOL(s, &first, 0);
	OPEN_POOL(s, &other, 0);
	b = take(first, ROOT);
	cr_assert_eq(b->slab_index, 0);
	/* another thread makes slab 1, and its registration takes for ever */
	cr_assert_eq(thmq_slabs_subscribe(s, &w.registrar), 0);
	cr_assert_eq(pthread_create(&thread, NULL, take_one, &w), 0);
	sem_wait(&w.begun);
	/* meanwhile slab 0 changes hands, and the counters are read */
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(first), 0);
	b = take(other, ROOT);
	cr_assert_eq(b->slab_index, 0);
	cr_assert_eq(thmq_slabs_stats(s, &st), 0);
	cr_assert_eq(st.slabs, 2);
	sem_post(&w.go_on);
	pthread_join(thread, &rc);
	cr_assert_eq((intptr_t)rc, 0);
	cr_assert_eq(w.buf->slab_index, 1);
	thmq_buf_unref(w.buf);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_slabs_unsubscribe(s, &w.registrar), 0);
	cr_assert_eq(thmq_pool_close(w.pool), 0);
	cr_assert_eq(thmq_pool_close(other), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* ------------------------------------------------------- what the system does not take back */

/* Mappings that cannot be joined, until there may be no more. */
static uint32_t use_up_mappings(uint8_t **ret_at)
{
	const size_t page = 4096, count = 200000;
	uint8_t *at = mmap(NULL, count * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t i, n = 0;

	cr_assert_neq(at, MAP_FAILED);
	for (i = 0; i < count; i += 2, n++)
		if (mprotect(at + i * page, page, PROT_READ) != 0)
			break;
	*ret_at = at;
	/* splitting fails one earlier than mapping does */
	for (uint32_t k = 0; i < count && k < 16; k++)
		if (mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
			return n;
	return 0;
}

Test(memory_trouble, a_peers_slab_that_cannot_be_given_back_is_nobody_elses)
{
	struct thmq_slabs *s = open_slabs(2);
	struct thmq_slabs_stats st = {.size = sizeof(st)};
	struct thmq_pool *peer, *mine, *full;
	struct thmq_buf *b;
	uint8_t *at;

	OPEN_POOL(s, &peer, .domain = 7);
	OPEN_POOL(s, &mine, 0);
	OPEN_POOL(s, &full, 0);
	b = take(peer, 4096);
	cr_assert_eq(b->slab_index, 0);
	thmq_buf_unref(b);
	b = take(full, ROOT); /* the other one */
	if (!use_up_mappings(&at))
		cr_skip_test("so many mappings are allowed here");
	cr_assert_eq(thmq_pool_close(peer), 0);
	cr_assert_eq(thmq_slabs_stats(s, &st), 0);
	cr_assert_eq(st.slabs, 2, "the system has taken it back all the same");
	cr_assert_eq(st.shared_slabs, 1);
	struct thmq_buf *none = NULL;

	cr_assert_eq(thmq_buf_alloc(mine, 4096, 0, &none), -ENOBUFS, "a peer's memory was lent");
	munmap(at, 200000 * (size_t)4096);
	/* now it goes, and its place can be had */
	cr_assert_eq(thmq_slabs_trim(s), SLAB);
	none = take(mine, 4096);
	thmq_buf_unref(none);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(mine), 0);
	cr_assert_eq(thmq_pool_close(full), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* --------------------------------------------------------------------------- limits */

Test(memory_trouble, a_slab_fetched_by_another_thread_does_not_exceed_the_limit)
{
	struct thmq_slabs *s = open_slabs(4);
	struct thmq_pool *p;
	struct thmq_buf *b[8], *more;

	OPEN_POOL(s, &p, .limit_bytes = 2 * SLAB, .low_bytes = 2 * SLAB);
	for (int i = 0; i < 4; i++)
		b[i] = take(p, ROOT);
	/* fetched while there was room for one, and the pool takes that one itself before it looks */
	cr_assert_eq(thmq_pool_prepare(p), 1);
	cr_assert_eq(stats(p).slabs, 1);
	cr_assert_eq(thmqi_pool_reserve(p, 4 * (uint64_t)ROOT), 0);
	for (int i = 4; i < 8; i++)
		b[i] = take(p, ROOT);
	cr_assert_eq(thmq_pool_prepare(p), -ENOBUFS);
	thmq_pool_drain(p);
	cr_assert_eq(thmq_buf_alloc(p, ROOT, 0, &more), -ENOBUFS);
	cr_assert_leq(stats(p).bytes, 2 * SLAB);
	for (int i = 0; i < 8; i++)
		thmq_buf_unref(b[i]);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_trouble, sizes_near_the_end_of_64_bits_are_refused)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p = NULL;
	struct thmq_buf *b = NULL;

#define REFUSED(error, ...) cr_assert_eq(thmq_pool_open(s, THMQ_POOL_OPTS(__VA_ARGS__), &p), error)
	REFUSED(-EINVAL, .low_bytes = UINT64_MAX);
	REFUSED(-EINVAL, .low_bytes = UINT64_MAX - SLAB + 1, .high_bytes = SLAB);
	REFUSED(-EINVAL, .low_bytes = SLAB, .high_bytes = SLAB);
	REFUSED(-ENOBUFS, .receive_bytes = UINT64_MAX);
	REFUSED(-ENOBUFS, .send_bytes = UINT64_MAX);
	REFUSED(-ENOBUFS, .receive_bytes = SLAB, .send_bytes = UINT64_MAX - SLAB + 1);
	REFUSED(-ENOBUFS, .receive_bytes = UINT64_MAX - ROOT, .send_bytes = ROOT + 1);
	cr_assert_null(p);
	OPEN_POOL(s, &p, .limit_bytes = UINT64_MAX, .high_bytes = UINT64_MAX);
	cr_assert_eq(thmq_buf_alloc(p, UINT32_MAX, 0, &b), -EMSGSIZE);
	cr_assert_eq(thmq_buf_alloc(p, ROOT + 1, 0, &b), -EMSGSIZE);
	cr_assert_eq(thmq_buf_alloc(p, 64, UINT32_MAX, &b), -EINVAL);
	cr_assert_null(b);
	b = take(p, 0);
	cr_assert_eq(b->size, THMQ_BLOCK_MIN);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

static void told(void *ctx)
{
	++*(uint32_t *)ctx;
}

Test(memory_trouble, who_was_refused_is_told_when_another_pool_gives_a_slab_back)
{
	struct thmq_slabs *s = open_slabs(2);
	struct thmq_pool *p, *other;
	struct thmq_buf *kept, *b = NULL, *far;
	uint32_t tells = 0;

	OPEN_POOL(s, &p, .room = told, .ctx = &tells);
	OPEN_POOL(s, &other, 0);
	kept = take(p, 64); /* never comes back */
	far = take(other, 64);
	for (int i = 0; i < 3; i++)
		b = take(p, ROOT);
	cr_assert_eq(thmq_buf_alloc(p, ROOT, 0, &b), -ENOBUFS);
	for (int i = 0; i < 100; i++)
		thmq_pool_drain(p);
	cr_assert_eq(tells, 0, "nothing has come back");
	thmq_buf_unref(far);
	cr_assert_eq(thmq_pool_close(other), 0);
	thmq_pool_drain(p);
	cr_assert_eq(tells, 1);
	b = take(p, ROOT);
	thmq_pool_drain(p);
	cr_assert_eq(tells, 1);
	thmq_buf_unref(kept);
	cr_assert_geq(thmq_pool_close(p), 4);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_trouble, a_refusal_of_an_empty_pool_is_not_told_of_at_once)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p, *other;
	struct thmq_buf *b, *none;
	uint32_t tells = 0;

	OPEN_POOL(s, &p, .room = told, .ctx = &tells);
	OPEN_POOL(s, &other, 0);
	b = take(other, 64);
	cr_assert_eq(thmq_buf_alloc(p, 64, 0, &none), -ENOBUFS);
	thmq_pool_drain(p);
	thmq_pool_tidy(p);
	cr_assert_eq(tells, 0);
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(other), 0);
	thmq_pool_tidy(p);
	cr_assert_eq(tells, 1);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

/* ------------------------------------------------------------------------- mistakes */

#if !defined(THMQI_DEBUG) && !defined(__SANITIZE_ADDRESS__)
Test(memory_trouble, what_is_not_in_use_is_not_trimmed)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p;
	struct thmq_buf *b, *again;

	OPEN_POOL(s, &p, 0);
	b = take(p, 65536);
	thmq_buf_unref(b);
	thmq_buf_trim(b, 4096);
	cr_assert_eq(stats(p).mistakes, 1);
	cr_assert_eq(stats(p).in_use_bytes, 0);
	again = take(p, 65536);
	cr_assert_eq(again->size, 65536);
	thmq_buf_unref(again);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

static void *drop_twice(void *arg)
{
	thmq_buf_unref_remote(arg);
	thmq_buf_unref_remote(arg);
	return NULL;
}

Test(memory_trouble, a_block_dropped_twice_elsewhere_is_freed_once)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p;
	struct thmq_buf *b, *c;
	pthread_t thread;

	OPEN_POOL(s, &p, 0);
	b = take(p, 256);
	cr_assert_eq(pthread_create(&thread, NULL, drop_twice, b), 0);
	pthread_join(thread, NULL);
	thmq_pool_drain(p);
	cr_assert_eq(stats(p).mistakes, 1);
	cr_assert_eq(stats(p).in_use_bytes, 0);
	b = take(p, 256);
	c = take(p, 256);
	cr_assert_neq(b, c);
	thmq_buf_unref(b);
	thmq_buf_unref(c);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

static void *drop_both(void *arg)
{
	struct thmq_buf **b = arg;

	thmq_buf_unref_remote(b[1]); /* this one lies behind the other on the way home */
	thmq_buf_unref_remote(b[0]);
	return NULL;
}

Test(memory_trouble, a_block_dropped_here_while_it_is_on_its_way_home_is_freed_once_and_hides_none)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p;
	struct thmq_buf *b[3];
	pthread_t thread;

	OPEN_POOL(s, &p, 0);
	b[0] = take(p, 256);
	b[1] = take(p, 256);
	b[2] = take(p, 256);
	thmq_buf_unref(b[2]); /* at hand: where the first would be put */
	cr_assert_eq(pthread_create(&thread, NULL, drop_both, b), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(thmq_buf_unref(b[0]), -EINVAL);
	cr_assert_eq(thmq_pool_drain(p), 2);
	cr_assert_eq(stats(p).mistakes, 1);
	cr_assert_eq(stats(p).in_use_bytes, 0);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}

Test(memory_trouble, a_leaked_block_that_is_freed_behind_its_pool_is_refused)
{
	struct thmq_slabs *s = open_slabs(1);
	struct thmq_pool *p;
	struct thmq_buf *b, *small;

	OPEN_POOL(s, &p, 0);
	b = take(p, 4096);
	small = take(p, 64);
	cr_assert_eq(thmq_pool_close(p), 2);
	cr_assert_eq(thmq_buf_unref(b), -EINVAL);
	cr_assert_eq(thmq_buf_unref(small), -EINVAL);
	thmq_buf_unref_remote(b);
	cr_assert_eq(thmq_slabs_close(s), 0);
}
#endif

/* ------------------------------------------------------------------------- a child */

/* Within the child: is there anything at @at? */
static int is_mapped(void *at)
{
	unsigned char pages[1];

	return mincore((void *)((uintptr_t)at & ~(uintptr_t)4095), 1, pages) == 0;
}

Test(memory_trouble, a_child_has_none_of_it_and_the_parent_keeps_all)
{
	struct thmq_slabs *s = open_slabs(2);
	struct thmq_pool *p, *peers;
	struct thmq_buf *b, *shared;
	int status = -1;
	pid_t pid;

	OPEN_POOL(s, &p, 0);
	OPEN_POOL(s, &peers, .domain = 9);
	b = take(p, 1 << 20);
	shared = take(peers, 4096);
	memset(b->data, 0x5a, b->size);
	memset(shared->data, 0x5a, shared->size);
	pid = fork();
	if (pid == 0)
		_exit(is_mapped(b->data) + 2 * is_mapped(shared->data));
	cr_assert_gt(pid, 0);
	memset(b->data, 0xa5, b->size);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "the child saw it");
	for (uint32_t i = 0; i < b->size; i++)
		cr_assert_eq(b->data[i], 0xa5);
	cr_assert_eq(shared->data[4095], 0x5a);
	thmq_buf_unref(b);
	thmq_buf_unref(shared);
	cr_assert_eq(thmq_pool_close(p), 0);
	cr_assert_eq(thmq_pool_close(peers), 0);
	cr_assert_eq(thmq_slabs_close(s), 0);
}
