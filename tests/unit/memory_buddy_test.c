/* SPDX-License-Identifier: Apache-2.0 */
/* memory_buddy_test.c - blocks of a core's pool, against a model that knows who has which 64 bytes. */
#include <criterion/criterion.h>
#include <signal.h>

#include "memory/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#define SLABS 6u
#define UNITS (THMQI_SLAB_BYTES / THMQ_BLOCK_MIN)
#define BLOCKS_MAX 2000u

static struct thmqi_slabs *slabs;
static struct thmqi_pool *pool;

static void open_pool(void)
{
	cr_assert_eq(thmqi_slabs_open((uint64_t)SLABS * THMQI_SLAB_BYTES, &slabs), 0);
	cr_assert_eq(thmqi_pool_open(slabs, &pool), 0);
}

static void close_pool(void)
{
	cr_assert_eq(thmqi_pool_close(pool), 0);
	thmqi_slabs_close(slabs);
}

TestSuite(memory_buddy, .init = open_pool, .fini = close_pool, .timeout = 60);

static struct thmqi_pool_stats stats(void)
{
	struct thmqi_pool_stats s;

	thmqi_pool_stats(pool, &s);
	return s;
}

static struct thmqi_buf *take(uint32_t size)
{
	struct thmqi_buf *b = NULL;

	cr_assert_eq(thmq_buf_alloc(pool, size, 0, &b), 0, "%u bytes", size);
	return b;
}

Test(memory_buddy, a_block_is_the_power_of_two_that_holds_the_size)
{
	static const uint32_t sizes[][2] = {
		{0, 64},            {1, 64},
		{63, 64},           {64, 64},
		{65, 128},          {1024, 1024},
		{1025, 2048},       {2049, 4096},
		{4095, 4096},       {4096, 4096},
		{4097, 8192},       {8192, 8192},
		{8193, 16384},      {100000, 131072},
		{1 << 20, 1 << 20}, {(4 << 20) + 1, 8 << 20},
		{8 << 20, 8 << 20},
	};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(sizes); i++) {
		struct thmqi_buf *b = take(sizes[i][0]);

		cr_assert_eq(b->size, sizes[i][1]);
		cr_assert_eq(b->refs, 1);
		cr_assert_eq(b->user, 0);
		cr_assert_eq(b->pool, pool);
		cr_assert_eq((uintptr_t)b->data % b->size, 0, "aligned to its size");
		memset(b->data, 0xab, b->size);
		thmqi_buf_unref(b);
	}
}

Test(memory_buddy, more_than_the_largest_block_is_refused)
{
	struct thmqi_buf *b = (struct thmqi_buf *)&b;

	cr_assert_eq(thmq_buf_alloc(pool, THMQI_POOL_BLOCK_MAX + 1, 0, &b), -EMSGSIZE);
	cr_assert_eq(thmq_buf_alloc(pool, UINT32_MAX, 0, &b), -EMSGSIZE);
	cr_assert_eq(b, (struct thmqi_buf *)&b, "left alone");
	cr_assert_eq(stats().bytes, 0, "and takes no slab");
}

Test(memory_buddy, a_full_pool_refuses_and_works_again_when_one_is_back)
{
	struct thmqi_buf *b[SLABS * 4], *one = NULL;
	uint32_t i;

	for (i = 0; i < SLABS * 4; i++)
		b[i] = take(THMQI_POOL_BLOCK_MAX);
	cr_assert_eq(thmq_buf_alloc(pool, 1, 0, &one), -ENOBUFS);
	cr_assert_eq(thmq_buf_alloc(pool, THMQI_POOL_BLOCK_MAX, 0, &one), -ENOBUFS);
	cr_assert_null(one);
	cr_assert_eq(stats().refused, 2);
	cr_assert_eq(stats().largest_free, 0);
	cr_assert_eq(stats().in_use, (uint64_t)SLABS * THMQI_SLAB_BYTES);
	thmqi_buf_unref(b[5]);
	b[5] = take(THMQI_POOL_BLOCK_MAX);
	for (i = 0; i < SLABS * 4; i++)
		thmqi_buf_unref(b[i]);
	cr_assert_eq(stats().in_use, 0);
	cr_assert_eq(stats().in_use_max, (uint64_t)SLABS * THMQI_SLAB_BYTES);
}

Test(memory_buddy, the_last_reference_frees)
{
	struct thmqi_buf *b = take(1);

	thmqi_buf_ref(b);
	thmqi_buf_ref(b);
	thmqi_buf_unref(b);
	thmqi_buf_unref(b);
	cr_assert_eq(stats().in_use, 64);
	thmqi_buf_unref(b);
	cr_assert_eq(stats().in_use, 0);
}

Test(memory_buddy, trimming_gives_the_upper_halves_back_and_keeps_the_bytes)
{
	struct thmqi_buf *b[4], *half[12];
	uint32_t i, n = 0, size;

	cr_assert_eq(thmqi_pool_reserve(pool, THMQI_SLAB_BYTES), 0);
	for (i = 0; i < 4; i++)
		b[i] = take(THMQI_POOL_BLOCK_MAX);
	for (i = 0; i < 5000; i++)
		b[2]->data[i] = (uint8_t)(i * 7);
	thmqi_buf_trim(b[2], 5000);
	cr_assert_eq(b[2]->size, 8192);
	cr_assert_eq(stats().in_use, 3ull * THMQI_POOL_BLOCK_MAX + 8192);
	/* just what was given back is there: one block of each size from 8 KiB to 4 MiB */
	for (size = THMQI_POOL_BLOCK_MAX / 2; size >= 8192; size /= 2) {
		half[n] = take(size);
		memset(half[n++]->data, 0xff, size);
	}
	cr_assert_eq(stats().bytes, THMQI_SLAB_BYTES, "nothing more was taken");
	cr_assert_eq(stats().largest_free, 0);
	for (i = 0; i < 5000; i++)
		cr_assert_eq(b[2]->data[i], (uint8_t)(i * 7));
	while (n)
		thmqi_buf_unref(half[--n]);
	for (i = 0; i < 4; i++)
		thmqi_buf_unref(b[i]);
	for (i = 0; i < 4; i++)
		b[i] = take(THMQI_POOL_BLOCK_MAX);
	cr_assert_eq(stats().bytes, THMQI_SLAB_BYTES, "all halves were joined again");
	for (i = 0; i < 4; i++)
		thmqi_buf_unref(b[i]);
}

Test(memory_buddy, trimming_to_what_the_block_has_already_changes_nothing)
{
	struct thmqi_buf *b = take(8192);

	thmqi_buf_trim(b, 8192);
	cr_assert_eq(b->size, 8192);
	thmqi_buf_trim(b, 100000);
	cr_assert_eq(b->size, 8192);
	thmqi_buf_trim(b, 0);
	cr_assert_eq(b->size, 4096, "a block of pages stays one");
	cr_assert_eq(stats().in_use, 4096);
	thmqi_buf_unref(b);
	b = take(2000);
	thmqi_buf_trim(b, 100);
	cr_assert_eq(b->size, 128);
	cr_assert_eq(stats().in_use, 128);
	thmqi_buf_unref(b);
}

Test(memory_buddy, references_dropped_elsewhere_come_home_at_the_drain)
{
	struct thmqi_buf *a = take(1), *b = take(10000);

	thmqi_buf_ref(a);
	thmqi_buf_ref(a);
	thmqi_buf_unref_remote(a);
	thmqi_buf_unref_remote(b);
	thmqi_buf_unref_remote(a); /* the same block twice */
	cr_assert_eq(stats().in_use, 64 + 16384, "not before the drain");
	cr_assert_eq(thmqi_pool_drain(pool), 3);
	cr_assert_eq(stats().in_use, 64, "one reference is left");
	cr_assert_eq(thmqi_pool_drain(pool), 0);
	thmqi_buf_unref_remote(a);
	cr_assert_eq(thmqi_pool_drain(pool), 1);
	cr_assert_eq(stats().in_use, 0);
	cr_assert_eq(stats().remote_frees, 4);
}

Test(memory_buddy, a_pool_that_is_full_looks_first_who_came_home)
{
	struct thmqi_buf *b[SLABS * 4];
	uint32_t i;

	for (i = 0; i < SLABS * 4; i++)
		b[i] = take(THMQI_POOL_BLOCK_MAX);
	thmqi_buf_unref_remote(b[7]);
	b[7] = take(THMQI_POOL_BLOCK_MAX);
	cr_assert_eq(stats().refused, 0);
	for (i = 0; i < SLABS * 4; i++)
		thmqi_buf_unref(b[i]);
}

/* ------------------------------------------------------------ random model */

static uint16_t owner[SLABS][UNITS]; /* 0: free; else its place in live[] + 1 */
static struct live {
	struct thmqi_buf *buf;
	uint64_t mark;
} live[BLOCKS_MAX];
static uint32_t live_count;
static uint64_t live_bytes;

static uint32_t first_unit(const struct thmqi_buf *b)
{
	return (uint32_t)((uintptr_t)b->data % THMQI_SLAB_BYTES / THMQ_BLOCK_MIN);
}

static void own(const struct thmqi_buf *b, uint32_t at, uint32_t end, uint16_t from, uint16_t to)
{
	uint16_t *o = owner[b->slab_index] + first_unit(b);

	for (at /= THMQ_BLOCK_MIN; at < end / THMQ_BLOCK_MIN; at++) {
		cr_assert_eq(o[at], from, "two have the same bytes");
		o[at] = to;
	}
}

/* the first and last word of each 4 KiB, or of the block, say whose it is */
static void mark(const struct thmqi_buf *b, uint64_t value)
{
	uint32_t piece = THMQI_MIN(b->size, 4096u);

	for (uint32_t at = 0; at < b->size; at += piece) {
		memcpy(b->data + at, &value, 8);
		memcpy(b->data + at + piece - 8, &value, 8);
	}
}

static void check_marks(const struct thmqi_buf *b, uint64_t value)
{
	uint32_t piece = THMQI_MIN(b->size, 4096u);

	for (uint32_t at = 0; at < b->size; at += piece) {
		cr_assert_eq(memcmp(b->data + at, &value, 8), 0);
		/* what was trimmed has lost its last word */
		if (piece == 4096)
			cr_assert_eq(memcmp(b->data + at + piece - 8, &value, 8), 0);
	}
}

static bool model_has_room(uint32_t size, uint64_t bytes)
{
	uint32_t units = size / THMQ_BLOCK_MIN, s, at, n;

	for (s = 0; s < bytes / THMQI_SLAB_BYTES; s++)
		for (at = 0; at < UNITS; at += units) {
			for (n = 0; n < units && !owner[s][at + n]; n++)
				;
			if (n == units)
				return true;
		}
	return false;
}

static void model_alloc(uint32_t size, uint64_t value)
{
	uint32_t block = THMQI_MAX((uint32_t)thmqi_pow2_up(size), THMQ_BLOCK_MIN);
	uint64_t bytes = stats().bytes;
	struct thmqi_buf *b;
	int rc;

	if (live_count == BLOCKS_MAX)
		return;
	rc = thmq_buf_alloc(pool, size, 0, &b);
	if (rc) {
		cr_assert_eq(rc, -ENOBUFS);
		cr_assert_eq(bytes, (uint64_t)SLABS * THMQI_SLAB_BYTES);
		cr_assert_not(model_has_room(block, bytes), "refused, with room for %u", block);
		return;
	}
	if (stats().bytes != bytes)
		cr_assert_not(model_has_room(block, bytes), "a new slab, with room for %u", block);
	cr_assert_eq(b->size, block);
	cr_assert_eq((uintptr_t)b->data % block, 0);
	own(b, 0, block, 0, (uint16_t)(live_count + 1));
	mark(b, value);
	live[live_count++] = (struct live){b, value};
	live_bytes += block;
}

static void model_trim(uint32_t i, uint32_t used)
{
	struct thmqi_buf *b = live[i].buf;
	uint32_t size = b->size;

	thmqi_buf_trim(b, used);
	cr_assert_leq(b->size, size);
	cr_assert_geq(b->size, THMQI_MIN(used, size));
	own(b, b->size, size, (uint16_t)(i + 1), 0);
	live_bytes -= size - b->size;
}

static void model_free(uint32_t i, bool remote)
{
	struct thmqi_buf *b = live[i].buf;
	uint32_t last = live_count - 1;

	check_marks(b, live[i].mark);
	own(b, 0, b->size, (uint16_t)(i + 1), 0);
	live_bytes -= b->size;
	if (remote) {
		thmqi_buf_unref_remote(b);
		cr_assert_eq(thmqi_pool_drain(pool), 1);
	} else {
		thmqi_buf_unref(b);
	}
	live_count--;
	if (i != last) {
		live[i] = live[last];
		own(live[i].buf, 0, live[i].buf->size, (uint16_t)(last + 1), (uint16_t)(i + 1));
	}
}

static void against_the_model(uint64_t seed, uint32_t rounds)
{
	struct thmqi_prng prng;
	uint32_t round, dice, i;

	thmqi_prng_seed(&prng, seed);
	for (round = 0; round < rounds; round++) {
		/* waves: the pool fills, then empties */
		dice = (uint32_t)thmqi_prng_below(&prng, 100);
		i = live_count ? (uint32_t)thmqi_prng_below(&prng, live_count) : 0;
		if (!live_count || dice < (round / 1000 % 2 ? 35u : 60u))
			/* sizes by their logarithm: as many small ones as large ones */
			model_alloc(1 + (uint32_t)thmqi_prng_below(
						&prng, 1ull << (4 + thmqi_prng_below(&prng, 20))),
				    thmqi_prng_next(&prng));
		else if (dice < 70)
			model_trim(i, (uint32_t)thmqi_prng_below(&prng, live[i].buf->size + 1));
		else
			model_free(i, dice < 75);
		cr_assert_eq(stats().in_use, live_bytes);
	}
	while (live_count)
		model_free(live_count / 2, false);
}

static void all_is_whole_again(void)
{
	uint64_t bytes = stats().bytes;
	struct thmqi_buf *b[SLABS * 4];
	uint32_t i, count = (uint32_t)(bytes / THMQI_POOL_BLOCK_MAX);

	cr_assert_eq(stats().in_use, 0);
	cr_assert_gt(count, 0);
	for (i = 0; i < count; i++)
		b[i] = take(THMQI_POOL_BLOCK_MAX);
	cr_assert_eq(stats().bytes, bytes, "not all were joined");
	for (i = 0; i < count; i++)
		thmqi_buf_unref(b[i]);
}

Test(memory_buddy, never_gives_bytes_twice_and_joins_all_that_can_be_joined)
{
	for (uint64_t seed = 1; seed <= 4; seed++) {
		against_the_model(seed, 6000);
		all_is_whole_again();
	}
}

/* ----------------------------------------------------- mistakes are caught */

Test(memory_buddy, freed_bytes_are_poisoned)
{
#if defined(__SANITIZE_ADDRESS__)
	struct thmqi_buf *b = take(65536), *other;
	uint8_t *data = b->data;

	cr_assert_null(__asan_region_is_poisoned(data, 65536));
	thmqi_buf_trim(b, 8192);
	cr_assert_null(__asan_region_is_poisoned(data, 8192));
	for (uint32_t at = 8192; at < 65536; at += 4096)
		cr_assert(__asan_address_is_poisoned(data + at));
	thmqi_buf_unref(b);
	cr_assert(__asan_address_is_poisoned(data));
	cr_assert(__asan_address_is_poisoned(data + 8191));
	other = take(8192);
	cr_assert_null(__asan_region_is_poisoned(other->data, 8192));
	thmqi_buf_unref(other);
#else
	cr_skip_test("needs a build with -Db_sanitize=address");
#endif
}

#if defined(THMQI_DEBUG) && defined(__x86_64__)
Test(memory_buddy, freeing_twice_traps_in_debug_builds, .signal = SIGILL)
{
	struct thmqi_buf *b = take(1);

	thmqi_buf_unref(b);
	thmqi_buf_unref(b);
}
#endif
