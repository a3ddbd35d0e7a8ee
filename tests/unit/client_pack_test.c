/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads packed and unpacked: what comes back is what was sent, bytes by chance do no harm, and none is larger than it said. */
#include <criterion/criterion.h>

#include "client/pack.h"

TestSuite(client_pack, .timeout = 60);

#define BEHIND 32u

static uint8_t from[200000], to[200000 + 4096], back[200000 + BEHIND];

/* Something like text, of which much comes again. */
static void write_text(struct thmqi_prng *p, uint32_t len, uint32_t letters)
{
	for (uint32_t i = 0; i < len; i++)
		from[i] = i > 64 && thmqi_prng_below(p, 4)
				  ? from[i - 1 - thmqi_prng_below(p, 60)]
				  : (uint8_t)('a' + thmqi_prng_below(p, letters));
}

static bool open_both(uint32_t codec, struct thmqi_pack **ret_packer,
		      struct thmqi_pack **ret_unpacker)
{
	int rc = thmqi_pack_open(codec, true, 0, ret_packer);

	if (rc == -EOPNOTSUPP)
		return false; /* it was built without, or the library is not there */
	cr_assert_eq(rc, 0);
	cr_assert_eq(thmqi_pack_open(codec, false, 0, ret_unpacker), 0);
	return true;
}

Test(client_pack, what_is_unpacked_is_what_was_packed)
{
	static const uint32_t lens[] = {1, 2, 15, 100, 513, 4096, 70000, 200000};
	struct thmqi_pack *packer, *unpacker;
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 1);
	for (uint32_t codec = THMQ_COMPRESSION_LZ4; codec <= THMQ_COMPRESSION_ZSTD; codec++) {
		if (!open_both(codec, &packer, &unpacker))
			continue;
		for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(lens); i++) {
			uint32_t n;

			write_text(&p, lens[i], 20);
			n = thmqi_pack(packer, from, lens[i], to, sizeof(to));
			cr_assert(n > 0 && (lens[i] < 500 || codec == THMQ_COMPRESSION_LZ4 ||
					    n < lens[i]),
				  "%s: %u of %u", thmqi_pack_name(codec), n, lens[i]);
			cr_assert(thmqi_pack_may_be(unpacker, to, n, lens[i]));
			cr_assert_eq(thmqi_unpack(unpacker, to, n, back, lens[i]), 0);
			cr_assert_eq(memcmp(from, back, lens[i]), 0);
			if (lens[i] < 2)
				continue;
			/* another length is none of it */
			cr_assert_eq(thmqi_unpack(unpacker, to, n, back, lens[i] - 1),
				     -THMQ_ECORRUPT);
			cr_assert_eq(thmqi_unpack(unpacker, to, n, back, lens[i] + 1),
				     -THMQ_ECORRUPT);
			cr_assert_eq(thmqi_unpack(unpacker, to, n - 1, back, lens[i]),
				     -THMQ_ECORRUPT);
		}
		thmqi_pack_close(packer);
		thmqi_pack_close(unpacker);
	}
}

Test(client_pack, what_does_not_become_smaller_is_said_to_be_so)
{
	struct thmqi_pack *packer, *unpacker;
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 2);
	for (uint32_t i = 0; i < 4096; i++)
		from[i] = (uint8_t)thmqi_prng_next(&p);
	for (uint32_t codec = THMQ_COMPRESSION_LZ4; codec <= THMQ_COMPRESSION_ZSTD; codec++) {
		if (!open_both(codec, &packer, &unpacker))
			continue;
		memset(to, 0x5a, sizeof(to));
		cr_assert_eq(thmqi_pack(packer, from, 4096, to, 4095), 0);
		cr_assert_eq(to[4095], 0x5a);
		cr_assert_eq(thmqi_pack(packer, from, 4096, to, 0), 0);
		thmqi_pack_close(packer);
		thmqi_pack_close(unpacker);
	}
}

Test(client_pack, bytes_by_chance_do_no_harm)
{
	struct thmqi_pack *packer, *unpacker;
	struct thmqi_prng p;

	thmqi_prng_seed(&p, 3);
	for (uint32_t codec = THMQ_COMPRESSION_LZ4; codec <= THMQ_COMPRESSION_ZSTD; codec++) {
		if (!open_both(codec, &packer, &unpacker))
			continue;
		for (uint32_t round = 0; round < 20000; round++) {
			uint32_t len = 1 + (uint32_t)thmqi_prng_below(&p, 3000), n, said = len;

			write_text(&p, len, 6);
			n = thmqi_pack(packer, from, len, to, sizeof(to));
			for (uint32_t k = (uint32_t)thmqi_prng_below(&p, 4); k; k--)
				to[thmqi_prng_below(&p, n)] = (uint8_t)thmqi_prng_next(&p);
			if (thmqi_prng_below(&p, 2))
				said = (uint32_t)thmqi_prng_below(&p, sizeof(back) - BEHIND);
			memset(back + said, 0x5a, BEHIND);
			thmqi_pack_may_be(unpacker, to, n, said);
			thmqi_unpack(unpacker, to, n, back, said);
			for (uint32_t i = 0; i < BEHIND; i++)
				cr_assert_eq(back[said + i], 0x5a);
		}
		thmqi_pack_close(packer);
		thmqi_pack_close(unpacker);
	}
}

Test(client_pack, what_says_that_it_is_huge_gets_no_room)
{
	struct thmqi_pack *packer, *unpacker;
	uint32_t n;

	memset(from, 0, sizeof(from));
	for (uint32_t codec = THMQ_COMPRESSION_LZ4; codec <= THMQ_COMPRESSION_ZSTD; codec++) {
		if (!open_both(codec, &packer, &unpacker))
			continue;
		n = thmqi_pack(packer, from, 1000, to, sizeof(to));
		cr_assert(n > 0);
		cr_assert_not(thmqi_pack_may_be(unpacker, to, n, 64u << 20));
		thmqi_pack_close(packer);
		thmqi_pack_close(unpacker);
	}
}

Test(client_pack, codecs_that_there_are_not_are_refused)
{
	struct thmqi_pack *pack = NULL;

	cr_assert_eq(thmqi_pack_open(THMQ_COMPRESSION_NONE, true, 0, &pack), -EINVAL);
	cr_assert_eq(thmqi_pack_open(3, true, 0, &pack), -EINVAL);
	cr_assert_null(pack);
	thmqi_pack_close(NULL);
}
