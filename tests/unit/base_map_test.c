/* SPDX-License-Identifier: Apache-2.0 */
/* base_map_test.c - the map from a number to a pointer, against a model, with kind and unkind keys. */
#include <criterion/criterion.h>

#include "base/base.h"

#define KEYS 1500u

static struct thmqi_map map;
static uint8_t things[KEYS * 2]; /* what the map points to: only the addresses count */

static void open_map(void)
{
	thmqi_map_init(&map);
}

static void close_map(void)
{
	thmqi_map_fini(&map);
}

TestSuite(base_map, .init = open_map, .fini = close_map, .timeout = 60);

Test(base_map, an_empty_one_has_nothing)
{
	uint32_t iter = 0;

	cr_assert_null(thmqi_map_get(&map, 0));
	cr_assert_null(thmqi_map_remove(&map, 0));
	cr_assert_null(thmqi_map_next(&map, &iter));
	thmqi_map_fini(&map); /* nothing was allocated; a second one is harmless */
}

Test(base_map, put_replaces)
{
	cr_assert_eq(thmqi_map_put(&map, 7, &things[0]), 0);
	cr_assert_eq(thmqi_map_put(&map, 7, &things[1]), 0);
	cr_assert_eq(map.count, 1);
	cr_assert_eq(thmqi_map_remove(&map, 7), &things[1]);
	cr_assert_eq(map.count, 0);
	cr_assert_null(thmqi_map_get(&map, 7));
}

Test(base_map, zero_and_the_largest_number_are_keys_as_any_other)
{
	cr_assert_eq(thmqi_map_put(&map, 0, &things[0]), 0);
	cr_assert_eq(thmqi_map_put(&map, UINT64_MAX, &things[1]), 0);
	cr_assert_eq(thmqi_map_get(&map, 0), &things[0]);
	cr_assert_eq(thmqi_map_get(&map, UINT64_MAX), &things[1]);
}

Test(base_map, a_prefetch_changes_nothing)
{
	thmqi_map_prefetch(&map, 7);
	cr_assert_eq(thmqi_map_put(&map, 7, &things[0]), 0);
	thmqi_map_prefetch(&map, 7);
	thmqi_map_prefetch(&map, 8);
	cr_assert_eq(map.count, 1);
	cr_assert_eq(thmqi_map_get(&map, 7), &things[0]);
	cr_assert_null(thmqi_map_get(&map, 8));
}

Test(base_map, null_is_no_value)
{
	cr_assert_eq(thmqi_map_put(&map, 1, NULL), -EINVAL);
	cr_assert_eq(map.count, 0);
	cr_assert_null(thmqi_map_get(&map, 1));
}

/* ------------------------------------------------------------ random model */

static uint64_t plain(uint32_t i)
{
	return i;
}

static uint64_t high_bits_only(uint32_t i)
{
	return (uint64_t)i << 48;
}

static uint64_t page_apart(uint32_t i)
{
	return (uint64_t)i * 4096;
}

/*
 * All in one line of a table of 16, 32, … 2048, and first looked for in one slot of it: the hash is the product's upper half of all but
 * the lowest two bits, so undo the product where that leaves room for these.
 */
static uint64_t colliding(uint32_t i)
{
	uint64_t inverse = 1, odd = 0x9e3779b97f4a7c15ull, product = 0;

	for (int n = 0; n < 6; n++)
		inverse *= 2 - odd * inverse;
	do {
		while (product * inverse >> 62)
			product += 1ull << 40;
		product += 1ull << 40;
	} while (i--);
	return (product - (1ull << 40)) * inverse * 4;
}

static void check(void *const *model, uint64_t (*key)(uint32_t))
{
	static uint8_t seen[sizeof(things)];
	uint32_t i, count = 0, iter = 0;
	uint8_t *value;

	memset(seen, 0, sizeof(seen));
	for (i = 0; i < KEYS; i++) {
		cr_assert_eq(thmqi_map_get(&map, key(i)), model[i]);
		count += model[i] != NULL;
	}
	cr_assert_eq(map.count, count);
	while ((value = thmqi_map_next(&map, &iter))) {
		cr_assert_eq(seen[value - things]++, 0, "came twice");
		count--;
	}
	cr_assert_eq(count, 0, "some did not come");
}

static void against_a_model(uint64_t (*key)(uint32_t), uint64_t seed)
{
	static void *model[KEYS];
	struct thmqi_prng prng;
	uint32_t round, i, puts;

	thmqi_prng_seed(&prng, seed);
	for (round = 0; round < 60000; round++) {
		i = (uint32_t)thmqi_prng_below(&prng, KEYS);
		/* waves: mostly puts, then mostly removals */
		puts = round / 10000 % 2 ? 2 : 8;
		if (thmqi_prng_below(&prng, 10) < puts) {
			model[i] = &things[i + KEYS * (round % 2)];
			cr_assert_eq(thmqi_map_put(&map, key(i), model[i]), 0);
		} else {
			cr_assert_eq(thmqi_map_remove(&map, key(i)), model[i]);
			model[i] = NULL;
		}
		if (round % 1000 == 0)
			check(model, key);
	}
	check(model, key);
	for (i = 0; i < KEYS; i++)
		thmqi_map_remove(&map, key(i));
	cr_assert_eq(map.count, 0);
}

Test(base_map, does_what_a_model_does)
{
	against_a_model(plain, 1);
}

Test(base_map, does_so_with_keys_that_differ_in_high_bits_only)
{
	against_a_model(high_bits_only, 2);
}

Test(base_map, does_so_with_keys_a_page_apart)
{
	against_a_model(page_apart, 3);
}

Test(base_map, does_so_with_keys_that_all_collide)
{
	against_a_model(colliding, 4);
}

Test(base_map, never_gets_too_full_to_end_a_search)
{
	for (uint32_t i = 0; i < KEYS; i++) {
		cr_assert_eq(thmqi_map_put(&map, i, &things[i]), 0);
		cr_assert_leq(map.count * 8, (map.mask + 1) * 7);
	}
	cr_assert(thmqi_is_pow2((uint64_t)map.mask + 1));
}

/* As those of partitions do: what a look-up needs of them lies in one cache line. */
Test(base_map, keys_that_follow_one_another_lie_where_they_are_looked_for_first)
{
	for (uint64_t step = 1; step <= 16; step++) {
		uint32_t first = 0, count = 100000, line = THMQI_CACHELINE / sizeof(*map.slots);

		for (uint64_t k = 0; k < count; k++)
			cr_assert_eq(thmqi_map_put(&map, k * step, &things[0]), 0);
		for (uint32_t i = 0; i <= map.mask; i++) {
			uint64_t home = (map.slots[i].key / line * 0x9e3779b97f4a7c15ull) >> __builtin_clzll(map.mask);

			first += map.slots[i].value && home / line == i / line;
		}
		/* steps of Fibonacci's numbers lie least evenly: 13 of those up to 16 */
		cr_assert_geq(first, step == 1 ? count / 10 * 9 : count / 5 * 3, "%u of %u, %llu apart", first, count, (unsigned long long)step);
		thmqi_map_fini(&map);
	}
}
