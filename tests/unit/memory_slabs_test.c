/* SPDX-License-Identifier: Apache-2.0 */
/* memory_slabs_test.c - slabs of the global pool: limit, lending to pools, registration. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "memory/memory.h"

#include "resident.h"

#define MIB (1ull << 20)

TestSuite(memory_slabs, .timeout = 60);

static struct thmqi_slabs_stats stats_of(struct thmqi_slabs *s)
{
	struct thmqi_slabs_stats stats;

	thmqi_slabs_stats(s, &stats);
	return stats;
}

Test(memory_slabs, the_limit_is_rounded_up_to_slabs)
{
	struct thmqi_slabs *s;

	cr_assert_eq(thmqi_slabs_open(1, &s), 0);
	cr_assert_eq(stats_of(s).limit, THMQI_SLAB_BYTES);
	cr_assert_eq(stats_of(s).bytes, 0, "nothing is taken yet");
	thmqi_slabs_close(s);
	cr_assert_eq(thmqi_slabs_open(THMQI_SLAB_BYTES + 1, &s), 0);
	cr_assert_eq(stats_of(s).limit, 2 * THMQI_SLAB_BYTES);
	thmqi_slabs_close(s);
}

Test(memory_slabs, a_limit_that_cannot_be_is_a_mistake)
{
	struct thmqi_slabs *s = NULL;

	cr_assert_eq(thmqi_slabs_open(0, &s), -EINVAL);
	cr_assert_eq(thmqi_slabs_open(UINT64_MAX, &s), -EINVAL);
	cr_assert_eq(thmqi_slabs_open(1ull << 60, &s), -EINVAL);
	cr_assert_null(s);
}

Test(memory_slabs, the_limit_holds_over_all_pools)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *a, *b;
	struct thmqi_buf *in_a, *in_b;

	cr_assert_eq(thmqi_slabs_open(2 * THMQI_SLAB_BYTES, &s), 0);
	cr_assert_eq(thmqi_pool_open(s, &a), 0);
	cr_assert_eq(thmqi_pool_open(s, &b), 0);
	cr_assert_eq(thmqi_buf_alloc(a, 1, &in_a), 0);
	cr_assert_eq(thmqi_buf_alloc(b, 1, &in_b), 0);
	cr_assert_eq(thmqi_pool_reserve(a, THMQI_SLAB_BYTES), -ENOBUFS);
	cr_assert_eq(thmqi_pool_reserve(a, THMQI_SLAB_BYTES - 4096), 0, "that much it has");
	cr_assert_eq(stats_of(s).bytes, 2 * THMQI_SLAB_BYTES);
	/* what a closed pool had, others get */
	thmqi_buf_unref(in_b);
	cr_assert_eq(thmqi_pool_close(b), 0);
	cr_assert_eq(thmqi_pool_reserve(a, THMQI_SLAB_BYTES), 0);
	cr_assert_eq(stats_of(s).slabs, 2);
	thmqi_buf_unref(in_a);
	cr_assert_eq(thmqi_pool_close(a), 0);
	thmqi_slabs_close(s);
}

Test(memory_slabs, pools_come_and_go_within_one_slab)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	struct thmqi_buf *b;

	cr_assert_eq(thmqi_slabs_open(1, &s), 0);
	for (int i = 0; i < 50; i++) {
		cr_assert_eq(thmqi_pool_open(s, &p), 0);
		cr_assert_eq(thmqi_buf_alloc(p, 100000, &b), 0);
		memset(b->data, 1, b->size);
		thmqi_buf_unref(b);
		cr_assert_eq(thmqi_pool_close(p), 0);
	}
	cr_assert_eq(stats_of(s).slabs, 1);
	thmqi_slabs_close(s);
}

Test(memory_slabs, closing_a_pool_tells_how_many_blocks_are_still_out)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	struct thmqi_buf *b[3];

	cr_assert_eq(thmqi_slabs_open(1, &s), 0);
	cr_assert_eq(thmqi_pool_open(s, &p), 0);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(thmqi_buf_alloc(p, 5000, &b[i]), 0);
	thmqi_buf_unref_remote(b[0]); /* on its way home: it is not out */
	cr_assert_eq(thmqi_pool_close(p), 2);
	thmqi_slabs_close(s);
}

/* ------------------------------------------------- beside others of the process */

struct mapper {
	atomic_bool stop;
	_Atomic uint32_t spoilt; /* mappings that another wrote to, or took away */
};

/* As malloc does for large blocks: the lowest or highest hole is taken. */
static void *map_and_look(void *arg)
{
	const size_t bytes = 2 * MIB + 4096;
	struct mapper *m = arg;
	uint64_t *p[8];
	int i;

	while (!atomic_load(&m->stop)) {
		for (i = 0; i < 8; i++) {
			p[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (p[i] != MAP_FAILED)
				p[i][0] = p[i][bytes / 8 - 1] = (uintptr_t)p[i];
		}
		for (i = 0; i < 8; i++) {
			if (p[i] == MAP_FAILED)
				continue;
			if (p[i][0] != (uintptr_t)p[i] || p[i][bytes / 8 - 1] != (uintptr_t)p[i])
				atomic_fetch_add(&m->spoilt, 1);
			munmap(p[i], bytes);
		}
	}
	return NULL;
}

Test(memory_slabs, a_slab_is_never_put_over_what_another_thread_maps)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	uint64_t until = thmqi_clock_real.now_ns(NULL) + 15000000000u; /* an emulated machine is slow */
	struct mapper m = {0};
	pthread_t thread[2];
	int i;

	for (i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, map_and_look, &m), 0);
	for (i = 0; i < 300 && thmqi_clock_real.now_ns(NULL) < until; i++) {
		cr_assert_eq(thmqi_slabs_open(8 * THMQI_SLAB_BYTES, &s), 0);
		cr_assert_eq(thmqi_pool_open(s, &p), 0);
		cr_assert_eq(thmqi_pool_reserve(p, 6 * THMQI_SLAB_BYTES), 0);
		cr_assert_eq(thmqi_pool_close(p), 0);
		thmqi_slabs_close(s);
	}
	atomic_store(&m.stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	cr_assert_eq(atomic_load(&m.spoilt), 0);
}

/* An environment in a container of 64 MiB: only what is touched counts, a huge page at most, and the metadata. */
Test(memory_slabs, a_slab_costs_what_is_touched_of_it)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	struct thmqi_buf *b;
	uint64_t before;

#if defined(__SANITIZE_ADDRESS__)
	cr_skip_test("the sanitizer's shadow counts too");
#endif
	cr_assert_eq(thmqi_slabs_open(1024 * MIB, &s), 0);
	before = resident_bytes();
	cr_assert_eq(thmqi_pool_open(s, &p), 0);
	cr_assert_eq(thmqi_buf_alloc(p, 4096, &b), 0);
	memset(b->data, 1, b->size);
	cr_assert_lt(resident_bytes() - before, 5 * MIB);
	thmqi_buf_unref(b);
	thmqi_pool_close(p);
	thmqi_slabs_close(s);
}

/* ------------------------------------------------------------ registration */

struct register_book {
	struct thmq_registrar registrar; /* first */
	uint8_t *base[8];		 /* by the slab's index */
	uint32_t adds, removes;
	uint32_t fail_from; /* adds from this one on are refused */
};

static int book_add(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct register_book *book = (struct register_book *)r;

	cr_assert_eq(slab->bytes, THMQI_SLAB_BYTES);
	cr_assert_null(book->base[slab->index], "each once");
	cr_assert_eq((uintptr_t)slab->base % THMQI_SLAB_BYTES, 0);
	if (book->adds++ >= book->fail_from)
		return -ENOMEM;
	book->base[slab->index] = slab->base;
	*ret_key = 1000 + slab->index;
	return 0;
}

static void book_remove(struct thmq_registrar *r, const struct thmq_slab *slab, uint64_t key)
{
	struct register_book *book = (struct register_book *)r;

	cr_assert_eq(key, 1000 + slab->index);
	cr_assert_eq(book->base[slab->index], slab->base);
	book->base[slab->index] = NULL;
	book->removes++;
}

#define BOOK(from)                                                                                 \
	{                                                                                          \
		.registrar = {.add = book_add, .remove = book_remove}, .fail_from = (from)         \
	}

Test(memory_slabs, a_registrar_sees_all_slabs_of_its_pool_those_before_and_those_to_come)
{
	struct register_book mine = BOOK(UINT32_MAX), others = BOOK(UINT32_MAX);
	struct thmqi_slabs *s;
	struct thmqi_pool *p, *other;
	struct thmqi_buf *b[5];
	uint32_t i;

	cr_assert_eq(thmqi_slabs_open(8 * THMQI_SLAB_BYTES, &s), 0);
	cr_assert_eq(thmqi_pool_open(s, &p), 0);
	cr_assert_eq(thmqi_pool_open(s, &other), 0);
	cr_assert_eq(thmqi_pool_reserve(p, THMQI_SLAB_BYTES), 0);
	thmqi_pool_subscribe(p, &mine.registrar);
	thmqi_pool_subscribe(other, &others.registrar);
	cr_assert_eq(mine.adds, 1);
	for (i = 0; i < 5; i++)
		cr_assert_eq(thmqi_buf_alloc(p, THMQI_POOL_BLOCK_MAX, &b[i]), 0);
	cr_assert_eq(mine.adds, 2);
	cr_assert_eq(others.adds, 0, "another core's memory is not its own");
	for (i = 0; i < 5; i++) {
		cr_assert_eq(b[i]->data - mine.base[b[i]->slab_index],
			     (ptrdiff_t)((uintptr_t)b[i]->data % THMQI_SLAB_BYTES));
		thmqi_buf_unref(b[i]);
	}
	cr_assert_eq(stats_of(s).registrations, 2);
	cr_assert_eq(stats_of(s).registration_failures, 0);
	thmqi_pool_unsubscribe(p, &mine.registrar);
	thmqi_pool_unsubscribe(other, &others.registrar);
	cr_assert_eq(mine.removes, 2);
	cr_assert_eq(others.removes, 0);
	cr_assert_eq(thmqi_pool_reserve(p, 3 * THMQI_SLAB_BYTES), 0);
	cr_assert_eq(mine.adds, 2, "it left");
	thmqi_pool_close(p);
	thmqi_pool_close(other);
	thmqi_slabs_close(s);
}

Test(memory_slabs, a_refused_registration_is_counted_and_the_slab_is_used_all_the_same)
{
	struct register_book book = BOOK(1);
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	struct thmqi_buf *b[5];
	uint32_t i;

	cr_assert_eq(thmqi_slabs_open(2 * THMQI_SLAB_BYTES, &s), 0);
	cr_assert_eq(thmqi_pool_open(s, &p), 0);
	thmqi_pool_subscribe(p, &book.registrar);
	for (i = 0; i < 5; i++)
		cr_assert_eq(thmqi_buf_alloc(p, THMQI_POOL_BLOCK_MAX, &b[i]), 0);
	cr_assert_eq(book.adds, 2);
	cr_assert_eq(stats_of(s).registrations, 1);
	cr_assert_eq(stats_of(s).registration_failures, 1);
	for (i = 0; i < 5; i++)
		thmqi_buf_unref(b[i]);
	thmqi_pool_unsubscribe(p, &book.registrar);
	thmqi_pool_close(p);
	thmqi_slabs_close(s);
}

/* ------------------------------------------------------------------ locking */

static uint64_t limit_lock(uint64_t bytes)
{
	struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};

	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	if (getuid() == 0)
		cr_assert_eq(setuid(65534), 0);
	return bytes;
}

/* What the kernel says of this process, bytes. */
static uint64_t locked_now(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/self/status", "r");

	cr_assert_not_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmLck: %llu kB", &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

static uint64_t lock_two_slabs(void)
{
	struct thmqi_slabs *s;
	struct thmqi_pool *p;
	uint64_t locked, before;

#ifdef __SANITIZE_ADDRESS__
	cr_skip_test("mlock() does nothing under AddressSanitizer");
#endif
	before = locked_now();
	cr_assert_eq(thmqi_slabs_open(2 * THMQI_SLAB_BYTES, &s), 0);
	thmqi_slabs_lock(s);
	cr_assert_eq(thmqi_pool_open(s, &p), 0);
	cr_assert_eq(stats_of(s).locked_bytes, 0, "nothing is taken yet");
	cr_assert_eq(thmqi_pool_reserve(p, 2 * THMQI_SLAB_BYTES), 0);
	locked = stats_of(s).locked_bytes;
	if (stats_of(s).huge)
		cr_skip_test("explicit huge pages are never swapped, and count as locked by no limit");
	cr_assert_eq(locked_now() - before, locked);
	thmqi_pool_close(p);
	thmqi_slabs_close(s);
	cr_assert_eq(locked_now(), before, "given back with the memory");
	return locked;
}

Test(memory_slabs, what_is_taken_is_locked)
{
	struct rlimit limit;

	cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	if (getuid() != 0 && limit.rlim_cur < 3 * THMQI_SLAB_BYTES)
		cr_skip_test("the limit of locked memory is too low");
	cr_assert_eq(lock_two_slabs(), 2 * THMQI_SLAB_BYTES);
}

Test(memory_slabs, under_a_low_limit_as_much_is_locked_as_it_allows)
{
	limit_lock(4 * MIB + 100);
	cr_assert_eq(lock_two_slabs(), 4 * MIB);
}

Test(memory_slabs, under_a_tiny_limit_nothing_is_locked_and_all_works)
{
	limit_lock(64u << 10);
	cr_assert_eq(lock_two_slabs(), 0);
}
