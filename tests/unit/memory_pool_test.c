/* SPDX-License-Identifier: Apache-2.0 */
/* memory_pool_test.c - a core's pool by its public face: reserves, marks, back-pressure, leaks, mistakes, slices. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "memory/memory.h"

#define SLAB (uint64_t) THMQ_SLAB_BYTES
#define ROOT (uint64_t) THMQ_BLOCK_MAX

static struct thmq_slabs *slabs;

static void open_slabs(void)
{
	cr_assert_eq(thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = 4 * SLAB), &slabs), 0);
}

static void close_slabs(void)
{
	cr_assert_eq(thmq_slabs_close(slabs), 0);
}

TestSuite(memory_pool, .init = open_slabs, .fini = close_slabs, .timeout = 60);

static struct thmq_pool *open_pool(const struct thmq_pool_opts *opts)
{
	struct thmq_pool *p = NULL;

	cr_assert_eq(thmq_pool_open(slabs, opts, &p), 0, "%s", thmq_errmsg());
	return p;
}

static struct thmq_pool_stats stats(struct thmq_pool *p)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	cr_assert_eq(thmq_pool_stats(p, &st), 0);
	return st;
}

static struct thmq_buf *take(struct thmq_pool *p, uint32_t size)
{
	struct thmq_buf *b = NULL;

	cr_assert_eq(thmq_buf_alloc(p, size, THMQ_PURPOSE_GENERAL, &b), 0);
	return b;
}

/* Blocks of one size until there are none. */
static uint32_t take_all(struct thmq_pool *p, uint32_t size, uint32_t purpose,
			 struct thmq_buf **ret, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && thmq_buf_alloc(p, size, purpose, &ret[n]) == 0)
		n++;
	return n;
}

static void drop_all(struct thmq_buf **b, uint32_t n)
{
	while (n)
		cr_assert_eq(thmq_buf_unref(b[--n]), 0);
}

/* ------------------------------------------------------------------ blocks */

Test(memory_pool, small_blocks_fill_a_page_without_a_gap)
{
	static struct thmq_buf *b[THMQ_SLAB_BYTES / 64];
	static bool seen[THMQ_SLAB_BYTES / 64];
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.limit_bytes = SLAB));
	uint32_t n = take_all(p, 64, 0, b, THMQI_ARRAY_COUNT(b)), i;
	struct thmq_buf *one;

	cr_assert_eq(n, THMQ_SLAB_BYTES / 64);
	cr_assert_eq(thmq_buf_alloc(p, 64, 0, &one), -ENOBUFS);
	for (i = 0; i < n; i++) {
		uint32_t unit = (uint32_t)((uintptr_t)b[i]->data % THMQ_SLAB_BYTES / 64);

		cr_assert(!seen[unit]);
		seen[unit] = true;
		cr_assert_eq(b[i]->size, 64);
	}
	for (i = 0; i < n; i++) /* in a stride, so that buddies meet late */
		cr_assert_eq(thmq_buf_unref(b[(uint64_t)i * 99991 % n]), 0);
	n = take_all(p, THMQ_BLOCK_MAX, 0, b, 10);
	cr_assert_eq(n, 4, "all were joined");
	drop_all(b, n);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, what_is_kept_at_hand_is_bounded_and_the_rest_is_joined)
{
	static struct thmq_buf *b[100000];
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.limit_bytes = SLAB));
	uint32_t n = take_all(p, 64, 0, b, THMQI_ARRAY_COUNT(b));

	drop_all(b, n);
	cr_assert_leq(stats(p).free_blocks[0], 1024 + 1);
	cr_assert_geq(stats(p).free_blocks[0], 512, "they will be wanted again");
	cr_assert_eq(take_all(p, ROOT, 0, b, 5), 4, "unless all is");
	drop_all(b, 4);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, a_block_is_found_from_any_address_in_it)
{
	static const uint32_t sizes[] = {64, 100, 2048, 4096, 5000, 1 << 20, 8 << 20};
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf *b, *found;
	uint8_t *data;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(sizes); i++) {
		b = take(p, sizes[i]);
		data = b->data;
		for (uint32_t at = 0; at < b->size; at += 1 + b->size / 7) {
			found = NULL;
			cr_assert_eq(thmq_buf_find(p, data + at, &found), 0);
			cr_assert_eq(found, b);
		}
		cr_assert_eq(thmq_buf_unref(b), 0);
		cr_assert_eq(thmq_buf_find(p, data, &found), -ENOENT);
	}
	cr_assert_eq(thmq_buf_find(p, &p, &found), -ENOENT);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, slices_keep_their_block)
{
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf *b = take(p, 4096);
	struct thmq_slice s = {0}, part = {0}, none = {0};

	cr_assert_eq(thmq_slice_open(b, 100, 1000, &s), 0);
	cr_assert_eq(s.data, b->data + 100);
	cr_assert_eq(thmq_slice_cut(&s, 10, 990, &part), 0);
	cr_assert_eq(part.data, b->data + 110);
	cr_assert_eq(part.len, 990);
	cr_assert_eq(b->refs, 3);
	cr_assert_eq(thmq_slice_open(b, 4096, 1, &none), -EINVAL);
	cr_assert_eq(thmq_slice_open(b, 1, UINT32_MAX, &none), -EINVAL);
	cr_assert_eq(thmq_slice_cut(&s, 11, 990, &none), -EINVAL);
	cr_assert_eq(thmq_slice_open(b, 4096, 0, &none), 0, "an empty one at the end is one too");
	thmq_slice_close(&none);
	cr_assert_null(none.buf);
	cr_assert_eq(thmq_slice_cut(&none, 0, 0, &none), -EINVAL);
	thmq_buf_unref(b);
	thmq_slice_close(&s);
	cr_assert_eq(stats(p).in_use_bytes, 4096);
	thmq_slice_close(&part);
	thmq_slice_close(&part);
	cr_assert_eq(stats(p).in_use_bytes, 0);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, an_unknown_purpose_is_a_mistake)
{
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf *b = NULL;

	cr_assert_eq(thmq_buf_alloc(p, 1, 3, &b), -EINVAL);
	cr_assert_eq(thmq_buf_alloc(p, THMQ_BLOCK_MAX + 1, 0, &b), -EMSGSIZE);
	cr_assert_null(b);
	cr_assert_eq(thmq_pool_close(p), 0);
}

/* ---------------------------------------------------------------- reserves */

Test(memory_pool, neither_direction_can_take_the_other_ones_reserve)
{
	struct thmq_buf *receive[64], *send[64], *general[64];
	struct thmq_pool *p = open_pool(
		THMQ_POOL_OPTS(.limit_bytes = SLAB, .receive_bytes = ROOT, .send_bytes = ROOT + 1));
	uint32_t nr, ns, ng;

	nr = take_all(p, 1 << 20, THMQ_PURPOSE_RECEIVE, receive, 64);
	cr_assert_eq(nr, 16, "its reserve, and what is general: 8 MiB each");
	cr_assert_eq(stats(p).receive_in_use_bytes, ROOT);
	cr_assert_eq(take_all(p, 64, THMQ_PURPOSE_GENERAL, general, 1), 0,
		     "nothing general is left");
	ns = take_all(p, 1 << 20, THMQ_PURPOSE_SEND, send, 64);
	cr_assert_eq(ns, 16, "its reserve, rounded up to 16 MiB, is untouched");
	cr_assert_eq(stats(p).send_in_use_bytes, 2 * ROOT);
	drop_all(send, ns);
	cr_assert_eq(take_all(p, 1 << 20, THMQ_PURPOSE_RECEIVE, receive + nr, 1), 0,
		     "nor does it pass to others");
	cr_assert_eq(take_all(p, 64, THMQ_PURPOSE_GENERAL, general, 1), 0);
	drop_all(receive, nr);
	ng = take_all(p, 1 << 20, THMQ_PURPOSE_GENERAL, general, 64);
	cr_assert_eq(ng, 8);
	cr_assert_eq(take_all(p, ROOT, THMQ_PURPOSE_RECEIVE, receive, 64), 1,
		     "joined again, within its own");
	cr_assert_eq(take_all(p, ROOT, THMQ_PURPOSE_SEND, send, 64), 2);
	drop_all(receive, 1);
	drop_all(send, 2);
	drop_all(general, ng);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, reserves_that_do_not_fit_are_refused_at_the_open)
{
	struct thmq_pool *p = NULL;
	struct thmq_slabs_stats st = {.size = sizeof(st)};

	cr_assert_eq(thmq_pool_open(slabs,
				    THMQ_POOL_OPTS(.limit_bytes = SLAB, .receive_bytes = SLAB,
						   .send_bytes = 1),
				    &p),
		     -ENOBUFS);
	cr_assert_eq(thmq_pool_open(slabs, THMQ_POOL_OPTS(.receive_bytes = 5 * SLAB), &p),
		     -ENOBUFS);
	cr_assert_null(p);
	thmq_slabs_stats(slabs, &st);
	cr_assert_eq(st.slabs, st.free_slabs, "all were given back");
}

/* ------------------------------------------------------------ limit, marks, room */

Test(memory_pool, its_own_limit_holds)
{
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.limit_bytes = 2 * SLAB + 5));
	struct thmq_buf *b[64];
	uint32_t n = take_all(p, ROOT, 0, b, 64);

	cr_assert_eq(n, 8);
	cr_assert_eq(stats(p).refused, 1);
	drop_all(b, n);
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, tidy_keeps_free_bytes_between_the_marks)
{
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.low_bytes = ROOT, .high_bytes = 2 * SLAB)),
			 *other;
	struct thmq_buf *b[64];
	uint32_t n;

	cr_assert_eq(stats(p).bytes, 0);
	cr_assert_eq(thmq_pool_tidy(p), 1);
	cr_assert_eq(stats(p).bytes, SLAB, "below the low mark one is fetched");
	cr_assert_eq(thmq_pool_tidy(p), 0, "and no more");
	n = take_all(p, ROOT, 0, b, 3);
	cr_assert_eq(thmq_pool_tidy(p), 0, "as many bytes as the mark says are free");
	n += take_all(p, 64, 0, b + n, 1);
	cr_assert_eq(thmq_pool_tidy(p), 1);
	cr_assert_eq(stats(p).bytes, 2 * SLAB);
	cr_assert_eq(stats(p).slab_misses, 0, "none on the way of an allocation");
	n += take_all(p, ROOT, 0, b + n, 64);
	cr_assert_eq(stats(p).bytes, 4 * SLAB);
	drop_all(b, n);
	cr_assert_eq(thmq_pool_tidy(p), 1);
	cr_assert_eq(stats(p).bytes, 2 * SLAB, "above the high mark whole slabs go back");
	other = open_pool(NULL);
	n = take_all(other, ROOT, 0, b, 64);
	cr_assert_eq(n, 8, "another pool has them now");
	drop_all(b, n);
	cr_assert_eq(thmq_pool_close(other), 0);
	cr_assert_eq(thmq_pool_close(p), 0);
}

static void *prepare(void *p)
{
	return (void *)(intptr_t)thmq_pool_prepare(p);
}

Test(memory_pool, another_thread_fetches_a_slab_for_it)
{
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.low_bytes = 64));
	struct thmq_buf *b;
	pthread_t thread;
	void *rc;

	cr_assert_eq(pthread_create(&thread, NULL, prepare, p), 0);
	pthread_join(thread, &rc);
	cr_assert_eq((intptr_t)rc, 1);
	cr_assert_eq(thmq_pool_prepare(p), 0, "one is waiting");
	cr_assert_eq(stats(p).bytes, 0);
	thmq_pool_drain(p);
	cr_assert_eq(stats(p).bytes, SLAB);
	b = take(p, 1);
	cr_assert_eq(stats(p).slab_misses, 0);
	cr_assert_eq(thmq_pool_prepare(p), 0, "none is needed");
	thmq_buf_unref(b);
	cr_assert_eq(thmq_pool_close(p), 0);
	/* one that was never taken in goes back too */
	p = open_pool(THMQ_POOL_OPTS(.low_bytes = 64));
	cr_assert_eq(thmq_pool_prepare(p), 1);
	cr_assert_eq(thmq_pool_close(p), 0);
}

static void count_room(void *ctx)
{
	++*(uint32_t *)ctx;
}

Test(memory_pool, who_was_refused_is_told_once_when_something_has_come_back)
{
	uint32_t told = 0;
	struct thmq_pool *p =
		open_pool(THMQ_POOL_OPTS(.limit_bytes = SLAB, .room = count_room, .ctx = &told));
	struct thmq_buf *b[5];
	uint32_t n = take_all(p, ROOT, 0, b, 5);

	cr_assert_eq(n, 4);
	thmq_pool_drain(p);
	cr_assert_eq(told, 0, "nothing has come back");
	thmq_buf_unref_remote(b[--n]);
	cr_assert_eq(told, 0);
	thmq_pool_drain(p);
	cr_assert_eq(told, 1);
	thmq_pool_drain(p);
	thmq_pool_tidy(p);
	cr_assert_eq(told, 1);
	drop_all(b, n);
	thmq_pool_drain(p);
	cr_assert_eq(told, 1, "nobody was refused since");
	cr_assert_eq(thmq_pool_close(p), 0);
}

Test(memory_pool, fragmentation_is_what_cannot_be_had_as_the_largest_block)
{
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.limit_bytes = SLAB));
	struct thmq_buf *b = take(p, 64);

	cr_assert_eq(stats(p).largest_free, ROOT);
	cr_assert_eq(stats(p).fragmentation, 249, "8 MiB less 64 bytes of 32 MiB less 64 bytes");
	thmq_buf_unref(b);
	thmq_pool_tidy(p);
	cr_assert_eq(stats(p).fragmentation, 0);
	cr_assert_eq(stats(p).free_blocks[THMQ_BLOCK_ORDERS - 1], 4);
	cr_assert_eq(thmq_pool_close(p), 0);
}

/* --------------------------------------------------------------------- options */

Test(memory_pool, options_that_cannot_be_are_refused)
{
	struct thmq_pool *p = NULL;

#define REFUSED(error, ...)                                                                        \
	cr_assert_eq(thmq_pool_open(slabs, THMQ_POOL_OPTS(__VA_ARGS__), &p), error, #__VA_ARGS__)
	REFUSED(-EINVAL, .flags = 4);
	REFUSED(-EINVAL, .flags = THMQ_POOL_NODE | THMQ_POOL_NEAR);
	REFUSED(-EINVAL, .flags = THMQ_POOL_NODE, .node = -1);
	REFUSED(-EINVAL, .node = 1);
	REFUSED(-ENOTSUP, .flags = THMQ_POOL_NODE, .node = 100000);
	REFUSED(-EINVAL, .limit_bytes = SLAB - 1);
	REFUSED(-EINVAL, .low_bytes = 1, .high_bytes = SLAB);
	cr_assert_eq(thmq_pool_open(NULL, NULL, &p), -EINVAL);
	cr_assert_eq(thmq_pool_open(slabs, NULL, NULL), -EINVAL);
	cr_assert_null(p);
	cr_assert_eq(thmq_pool_close(NULL), -EINVAL);
	cr_assert_eq(thmq_pool_stats(NULL, NULL), -EINVAL);
	cr_assert_eq(thmq_pool_leaks(NULL, NULL, 0), -EINVAL);
}

/* ---------------------------------------------------- what goes wrong is seen */

Test(memory_pool, leaks_are_told_by_owner_the_largest_first)
{
	struct thmq_pool *p = open_pool(THMQ_POOL_OPTS(.receive_bytes = 1));
	struct thmq_pool_leak leaks[3] = {{0}};
	struct thmq_buf *b[40];
	uint32_t i;

	cr_assert_eq(thmq_pool_leaks(p, leaks, 3), 0);
	for (i = 0; i < 40; i++) {
		cr_assert_eq(thmq_buf_alloc(p, 64u << i % 10, i % 2, &b[i]), 0);
		b[i]->owner = i < 30 ? 7 : 8;
	}
	b[39]->owner = 9;
	thmq_buf_unref_remote(b[0]); /* on its way home: not out */
	cr_assert_eq(thmq_pool_leaks(p, leaks, 2), 3);
	cr_assert_eq(leaks[0].owner, 7);
	cr_assert_eq(leaks[0].blocks, 29);
	cr_assert_eq(leaks[0].bytes, 3 * 65472 - 64);
	cr_assert_eq(leaks[1].owner, 9);
	cr_assert_eq(leaks[1].bytes, 32768);
	cr_assert_eq(leaks[2].blocks, 0, "no more than was asked for");
	for (i = 1; i < 38; i++)
		thmq_buf_unref(b[i]);
	cr_assert_eq(thmq_pool_close(p), 2);
	/* the slabs are as new for the next */
	p = open_pool(NULL);
	cr_assert_eq(take_all(p, ROOT, 0, b, 40), 16);
	drop_all(b, 16);
	cr_assert_eq(thmq_pool_close(p), 0);
}

#if !defined(THMQI_DEBUG)
Test(memory_pool, a_block_freed_twice_is_refused_and_counted)
{
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf *b = take(p, 64), *other = take(p, 64);

	cr_assert_eq(thmq_buf_unref(b), 0);
	cr_assert_eq(thmq_buf_unref(b), -EINVAL);
	thmq_buf_unref_remote(b);
	cr_assert_eq(thmq_pool_drain(p), 0);
	cr_assert_eq(stats(p).mistakes, 2);
	cr_assert_eq(stats(p).in_use_bytes, 64, "the other one is untouched");
	thmq_buf_unref_remote(other);
	thmq_buf_unref_remote(other); /* one reference more than there was */
	thmq_pool_drain(p);
	cr_assert_eq(stats(p).mistakes, 3);
	cr_assert_eq(stats(p).in_use_bytes, 0);
	cr_assert_eq(thmq_pool_close(p), 0);
}
#elif defined(__x86_64__)
Test(memory_pool, a_descriptor_that_is_nobodys_traps, .signal = SIGILL)
{
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf foreign = *take(p, 64); /* a copy, not the pool's own */

	thmq_buf_unref(&foreign);
}

static void *take_one(void *p)
{
	return take(p, 64);
}

Test(memory_pool, another_threads_allocation_traps, .signal = SIGILL)
{
	struct thmq_pool *p = open_pool(NULL);
	pthread_t thread;

	thmq_pool_adopt(p);
	take(p, 64);
	cr_assert_eq(pthread_create(&thread, NULL, take_one, p), 0);
	pthread_join(thread, NULL);
}

Test(memory_pool, what_is_freed_is_overwritten)
{
#if !defined(__SANITIZE_ADDRESS__)
	struct thmq_pool *p = open_pool(NULL);
	struct thmq_buf *b = take(p, 64);
	uint8_t *data = b->data;

	memset(data, 1, 64);
	thmq_buf_unref(b);
	cr_assert_neq(data[0], 1);
	cr_assert_neq(data[63], 1);
	cr_assert_eq(thmq_pool_close(p), 0);
#endif
}
#endif
