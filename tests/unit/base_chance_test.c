/* SPDX-License-Identifier: Apache-2.0 */
/* base_chance_test.c - the seeded generator against known answers, the kernel's bytes, the real clock. */
#include <criterion/criterion.h>
#include <time.h>

#include "base/base.h"

TestSuite(base_chance, .timeout = 30);

/* of the reference programs splitmix64.c and xoshiro256starstar.c by Blackman and Vigna */
Test(base_chance, seeding_has_the_known_values_of_splitmix64)
{
	static const uint64_t of_0[4] = {0xe220a8397b1dcdafull, 0x6e789e6aa1b965f4ull,
					 0x06c45d188009454full, 0xf88bb8a8724c81ecull};
	static const uint64_t of_1234567[4] = {6457827717110365317ull, 3203168211198807973ull,
					       9817491932198370423ull, 4593380528125082431ull};
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 0);
	cr_assert_arr_eq(p.s, of_0, sizeof(of_0));
	thmqi_prng_seed(&p, 1234567);
	cr_assert_arr_eq(p.s, of_1234567, sizeof(of_1234567));
}

Test(base_chance, numbers_have_the_known_values_of_xoshiro256starstar)
{
	static const uint64_t known[] = {11520ull,
					 0ull,
					 1509978240ull,
					 1215971899390074240ull,
					 1216172134540287360ull,
					 607988272756665600ull,
					 16172922978634559625ull,
					 8476171486693032832ull,
					 10595114339597558777ull,
					 2904607092377533576ull};
	struct thmqi_prng p = {{1, 2, 3, 4}};

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(known); i++)
		cr_assert_eq(thmqi_prng_next(&p), known[i], "number %zu", i);
}

Test(base_chance, below_stays_below_and_reaches_all)
{
	struct thmqi_prng p;
	uint32_t counts[10] = {0}, i;
	uint64_t n;

	thmqi_prng_seed(&p, 1);
	for (i = 0; i < 100000; i++) {
		n = thmqi_prng_below(&p, 10);
		cr_assert_lt(n, 10);
		counts[n]++;
	}
	for (i = 0; i < 10; i++)
		cr_assert(counts[i] > 9500 && counts[i] < 10500, "%u came %u times", i, counts[i]);
	cr_assert_eq(thmqi_prng_below(&p, 1), 0);
	cr_assert_eq(thmqi_prng_below(&p, 0), 0);
	cr_assert_lt(thmqi_prng_below(&p, UINT64_MAX), UINT64_MAX);
}

Test(base_chance, one_seed_is_one_sequence)
{
	struct thmqi_prng a, b, other;
	uint32_t same = 0;

	thmqi_prng_seed(&a, 42);
	thmqi_prng_seed(&b, 42);
	thmqi_prng_seed(&other, 43);
	for (int i = 0; i < 1000; i++) {
		uint64_t n = thmqi_prng_next(&a);

		cr_assert_eq(n, thmqi_prng_next(&b));
		same += n == thmqi_prng_next(&other);
	}
	cr_assert_eq(same, 0);
}

Test(base_chance, the_kernels_bytes_fill_just_the_room_given)
{
	uint8_t a[300] = {0}, b[300] = {0};

	cr_assert_eq(thmqi_random_bytes(a, 299), 0);
	cr_assert_eq(thmqi_random_bytes(b, 299), 0);
	cr_assert_eq(a[299], 0);
	cr_assert_neq(memcmp(a, b, 299), 0);
	cr_assert_eq(thmqi_random_bytes(NULL, 0), 0);
}

Test(base_chance, the_real_clock_goes_on)
{
	const struct thmqi_clock *c = &thmqi_clock_real;
	uint64_t before = c->now_ns(c->ctx), wall = c->wall_ns(c->ctx), now;
	struct timespec ms = {.tv_nsec = 2000000};

	nanosleep(&ms, NULL);
	now = c->now_ns(c->ctx);
	cr_assert_geq(now - before, 2000000);
	cr_assert_lt(now - before, 10000000000ull);
	cr_assert_leq((uint64_t)time(NULL), wall / 1000000000 + 10);
	cr_assert_geq((uint64_t)time(NULL) + 1, wall / 1000000000);
}
