/* SPDX-License-Identifier: Apache-2.0 */
/* base_checksum_test.c - CRC32C against RFC 3720 and a bitwise model; the stable hash against its definition. */
#include <criterion/criterion.h>

#include "base/base.h"

TestSuite(base_checksum, .timeout = 30);

/* RFC 3720, appendix B.4, whose bytes are in transmission order */
Test(base_checksum, crc_has_the_values_of_rfc_3720)
{
	static const uint8_t read_pdu[48] = {0x01, 0xc0, 0, 0,    0,    0, 0, 0,    0,    0, 0, 0,
					     0,    0,    0, 0,    0x14, 0, 0, 0,    0,    0, 4, 0,
					     0,    0,    0, 0x14, 0,    0, 0, 0x18, 0x28, 0, 0, 0,
					     0,    0,    0, 0,    2,    0, 0, 0,    0,    0, 0, 0};
	uint8_t bytes[32];
	int i;

	memset(bytes, 0, sizeof(bytes));
	cr_assert_eq(thmqi_crc32c(0, bytes, 32), 0x8a9136aau);
	memset(bytes, 0xff, sizeof(bytes));
	cr_assert_eq(thmqi_crc32c(0, bytes, 32), 0x62a8ab43u);
	for (i = 0; i < 32; i++)
		bytes[i] = (uint8_t)i;
	cr_assert_eq(thmqi_crc32c(0, bytes, 32), 0x46dd794eu);
	for (i = 0; i < 32; i++)
		bytes[i] = (uint8_t)(31 - i);
	cr_assert_eq(thmqi_crc32c(0, bytes, 32), 0x113fdb5cu);
	cr_assert_eq(thmqi_crc32c(0, read_pdu, 48), 0xd9963a56u);
	cr_assert_eq(thmqi_crc32c(0, "123456789", 9), 0xe3069283u);
}

static uint32_t crc_by_bits(uint32_t crc, const uint8_t *at, size_t len)
{
	crc = ~crc;
	while (len--) {
		crc ^= *at++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static void fill(uint8_t *at, size_t len, uint64_t seed)
{
	struct thmqi_prng prng;

	thmqi_prng_seed(&prng, seed);
	while (len--)
		*at++ = (uint8_t)thmqi_prng_next(&prng);
}

Test(base_checksum, crc_is_right_for_every_length_and_alignment)
{
	static uint8_t bytes[1024];
	size_t len, at;

	fill(bytes, sizeof(bytes), 3);
	for (len = 0; len <= 600; len++)
		for (at = 0; at < 16; at++)
			cr_assert_eq(thmqi_crc32c(0, bytes + at, len),
				     crc_by_bits(0, bytes + at, len), "%zu bytes at %zu", len, at);
}

Test(base_checksum, crc_of_parts_is_the_crc_of_the_whole)
{
	static uint8_t bytes[70000];
	struct thmqi_prng prng;
	uint32_t whole;
	size_t cut;

	fill(bytes, sizeof(bytes), 4);
	whole = thmqi_crc32c(0, bytes, sizeof(bytes));
	thmqi_prng_seed(&prng, 5);
	for (int i = 0; i < 200; i++) {
		cut = thmqi_prng_below(&prng, sizeof(bytes) + 1);
		cr_assert_eq(
			thmqi_crc32c(thmqi_crc32c(0, bytes, cut), bytes + cut, sizeof(bytes) - cut),
			whole, "cut at %zu", cut);
	}
	cr_assert_eq(thmqi_crc32c(0, NULL, 0), 0);
	cr_assert_eq(thmqi_crc32c(whole, NULL, 0), whole);
}

Test(base_checksum, crc_sees_every_single_bit)
{
	uint8_t bytes[96];
	uint32_t good;

	fill(bytes, sizeof(bytes), 6);
	good = thmqi_crc32c(0, bytes, sizeof(bytes));
	for (unsigned int bit = 0; bit < sizeof(bytes) * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		cr_assert_neq(thmqi_crc32c(0, bytes, sizeof(bytes)), good);
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

/* --------------------------------------------------------- the stable hash */

static uint64_t mix(uint64_t h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdull;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ull;
	return h ^ (h >> 33);
}

/* doc/format.md, "The stable hash", written once more from its words */
static uint64_t hash_by_words(const uint8_t *at, size_t len)
{
	uint64_t h = 0x9e3779b97f4a7c15ull ^ len, word;

	for (size_t i = 0; i < len; i += 8) {
		word = 0;
		for (size_t j = i; j < len && j < i + 8; j++)
			word |= (uint64_t)at[j] << (8 * (j - i));
		h = mix(h ^ word) * 0x9e3779b97f4a7c15ull;
	}
	return mix(h);
}

Test(base_checksum, hash_is_what_the_format_says)
{
	static uint8_t bytes[300];

	fill(bytes, sizeof(bytes), 7);
	for (size_t len = 0; len <= 256; len++)
		for (size_t at = 0; at < 9; at++)
			cr_assert_eq(thmqi_hash64(bytes + at, len), hash_by_words(bytes + at, len));
}

/* Keys keep their partitions for ever: these values never change. */
Test(base_checksum, hash_never_changes)
{
	cr_assert_eq(thmqi_hash64("", 0), 0x9ca066f1a4ab2eeaull);
	cr_assert_eq(thmqi_hash64("a", 1), 0x00b00b021695079bull);
	cr_assert_eq(thmqi_hash64("order-17", 8), 0x32efd88a2b5a051aull);
	cr_assert_eq(thmqi_hash64("the quick brown fox jumps", 25), 0xf11c642da77aae02ull);
}

Test(base_checksum, hash_spreads_keys_that_differ_little)
{
	uint32_t counts[64] = {0}, i;

	for (i = 0; i < 64000; i++) {
		char key[16] = "key-";

		memcpy(key + 4, &i, sizeof(i));
		counts[thmqi_hash64(key, 8) % 64]++;
	}
	/* 1000 each on average, the standard deviation is 31 */
	for (i = 0; i < 64; i++)
		cr_assert(counts[i] > 800 && counts[i] < 1200, "%u: %u", i, counts[i]);
}
