/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed payloads, as a broker hands them to a consumer. The first byte of the input: the codec; the next two: how long it says that it is
 * once it is unpacked; the rest are the packed bytes. Nothing is written beyond that, and what is unpacked can be packed again. The same bytes as what a
 * client of Kafka's protocol has compressed: never more comes out than was allowed.
 */
#include "client/inflate.h"
#include "client/pack.h"
#include "fuzz.h"

#define BEHIND 64u

static void inflate_it(uint32_t codec, const uint8_t *data, uint32_t len)
{
	void *to = NULL;
	uint32_t to_len = 0, max = 1u << 20;
	int rc = thmqi_inflate(codec, data, len, max, &to, &to_len);

	FUZZ_CHECK(rc == 0 || rc == -EOPNOTSUPP || rc == -THMQ_ECORRUPT || rc == -EMSGSIZE);
	FUZZ_CHECK(rc == 0 ? to_len <= max : !to);
	free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct thmqi_pack *unpacker, *packer;
	uint32_t codec, to_len, n, i;
	uint8_t *to, *again;

	if (size < 3)
		return 0;
	inflate_it(data[0] % 6, data + 3, (uint32_t)(size - 3));
	codec = data[0] % 4;
	to_len = data[1] | (uint32_t)data[2] << 8;
	if (thmqi_pack_open(codec, false, 0, &unpacker) != 0)
		return 0;
	to = malloc(to_len + BEHIND);
	again = malloc(to_len + BEHIND);
	FUZZ_CHECK(to && again);
	memset(to, 0x5a, to_len + BEHIND);
	thmqi_pack_may_be(unpacker, data + 3, (uint32_t)(size - 3), to_len);
	if (thmqi_unpack(unpacker, data + 3, (uint32_t)(size - 3), to, to_len) == 0 && to_len) {
		FUZZ_CHECK(thmqi_pack_open(codec, true, 0, &packer) == 0);
		n = thmqi_pack(packer, to, to_len, again, to_len + BEHIND);
		if (n) {
			FUZZ_CHECK(thmqi_pack_may_be(unpacker, again, n, to_len));
			FUZZ_CHECK(thmqi_unpack(unpacker, again, n, to, to_len) == 0);
		}
		thmqi_pack_close(packer);
	}
	for (i = 0; i < BEHIND; i++)
		FUZZ_CHECK(to[to_len + i] == 0x5a);
	free(to);
	free(again);
	thmqi_pack_close(unpacker);
	return 0;
}
