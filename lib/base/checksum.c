/* SPDX-License-Identifier: Apache-2.0 */
/* checksum.c - CRC32C by ISA-L, and the stable 64-bit hash. */
#include <isa-l/crc.h>

#include "base/base.h"

/* crc32_iscsi() works on the raw register: RFC 3720 inverts it before and after. Its length is an int. */
uint32_t thmqi_crc32c(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *at = data;
	uint32_t reg = ~crc;
	size_t part;

	while (len) {
		part = THMQI_MIN(len, (size_t)1 << 30);
		reg = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)part, reg);
		at += part;
		len -= part;
	}
	return ~reg;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "words are read in place here and in every room");

static uint64_t mix(uint64_t h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdull;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ull;
	return h ^ (h >> 33);
}

static uint64_t word(const uint8_t *at, size_t len)
{
	uint64_t w = 0;

	for (size_t i = 0; i < len; i++)
		w |= (uint64_t)at[i] << (8 * i);
	return w;
}

/*
 * Eight bytes at a time, little endian: h = mix(h ^ word) * odd, begun with the length. The mixing function is
 * MurmurHash3's 64-bit finaliser (Appleby, public domain). Stable for ever: keys keep their partitions.
 */
uint64_t thmqi_hash64(const void *data, size_t len)
{
	const uint8_t *at = data;
	uint64_t h = 0x9e3779b97f4a7c15ull ^ (uint64_t)len, w;

	for (; len >= 8; at += 8, len -= 8) {
		memcpy(&w, at, 8);
		h = mix(h ^ w) * 0x9e3779b97f4a7c15ull;
	}
	if (len)
		h = mix(h ^ word(at, len)) * 0x9e3779b97f4a7c15ull;
	return mix(h);
}
