/* SPDX-License-Identifier: Apache-2.0 */
/* What lies between tag and payload: what is written is read, and nothing that is wrong is believed or read beyond. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "wire/attributes.h"

#define COUNT_MAX 20u

static struct thmqi_prng prng;
static struct thmq_header given[COUNT_MAX];
static char names[COUNT_MAX][THMQ_HEADER_NAME_MAX + 1];
static uint8_t values[COUNT_MAX][512];

static uint32_t below(uint32_t n)
{
	return (uint32_t)thmqi_prng_below(&prng, n);
}

static void make(uint32_t count)
{
	uint32_t i, k, len;

	for (i = 0; i < count; i++) {
		len = 1 + below(below(2) ? 8 : THMQ_HEADER_NAME_MAX);
		for (k = 0; k < len; k++)
			names[i][k] = (char)(1 + below(255));
		names[i][len] = 0;
		given[i].name = names[i];
		given[i].type = below(5);
		given[i].value_len = given[i].type <= THMQ_HEADER_TEXT ? below(below(2) ? 10 : 512)
				     : given[i].type == THMQ_HEADER_BOOL ? 1
									 : 8;
		for (k = 0; k < given[i].value_len; k++)
			values[i][k] = (uint8_t)below(256);
		given[i].value = values[i];
	}
}

/* In memory that ends where it ends. */
static uint8_t *written(const struct thmq_message_opts *o, uint32_t *ret_flags, uint32_t *ret_len)
{
	uint8_t *bytes;

	cr_assert_eq(thmqi_attributes_plan(o, ret_flags, ret_len), 0);
	bytes = malloc(*ret_len + !*ret_len);
	cr_assert_not_null(bytes);
	thmqi_attributes_write(o, bytes);
	return bytes;
}

static void check(const struct thmqi_attributes *a, uint32_t count)
{
	struct thmq_header h;
	uint32_t cursor = 0, i;

	for (i = 0; i < count; i++) {
		cr_assert_eq(thmqi_header_next(a->headers, a->headers_len, &cursor, &h), 1);
		cr_assert_str_eq(h.name, given[i].name);
		cr_assert_eq(h.type, given[i].type);
		cr_assert_eq(h.value_len, given[i].value_len);
		cr_assert_eq(memcmp(h.value, given[i].value, h.value_len), 0);
	}
	cr_assert_eq(thmqi_header_next(a->headers, a->headers_len, &cursor, &h), 0);
}

Test(wire_attributes, they_come_back_as_they_were_written)
{
	uint32_t round, count, flags, len;
	struct thmqi_attributes a;
	uint8_t *bytes;

	thmqi_prng_seed(&prng, 7);
	for (round = 0; round < 2000; round++) {
		struct thmq_message_opts o = {.size = sizeof(o)};

		count = below(COUNT_MAX);
		make(count);
		o.headers = given;
		o.header_count = count;
		o.ttl_ns = below(2) ? thmqi_prng_next(&prng) | 1 : 0;
		bytes = written(&o, &flags, &len);
		cr_assert_eq(!len, !flags);
		cr_assert_eq(thmqi_attributes_read(flags, bytes, len, &a), 0);
		cr_assert_eq(a.len, len);
		cr_assert_eq(a.ttl_ns, o.ttl_ns);
		cr_assert_eq(a.headers != NULL, count != 0);
		if (count)
			check(&a, count);
		free(bytes);
	}
}

Test(wire_attributes, what_lies_is_not_read_beyond)
{
	struct thmq_message_opts o = {.size = sizeof(o), .headers = given, .ttl_ns = 5};
	uint32_t round, flags, len, cut, cursor;
	struct thmqi_attributes a;
	struct thmq_header h;
	uint8_t *bytes, *copy;
	int rc;

	thmqi_prng_seed(&prng, 8);
	for (round = 0; round < 3000; round++) {
		o.header_count = 1 + below(4);
		make(o.header_count);
		bytes = written(&o, &flags, &len);
		cut = below(len + 1);
		copy = malloc(cut + !cut); /* AddressSanitizer sees what is read behind it */
		memcpy(copy, bytes, cut);
		if (cut && below(2))
			copy[below(cut)] ^= (uint8_t)(1 + below(255));
		rc = thmqi_attributes_read(flags, copy, cut, &a);
		cr_assert(rc == 0 || rc == -THMQ_ECORRUPT);
		cursor = 0;
		while (!rc &&
		       (rc = thmqi_header_next(a.headers, a.headers_len, &cursor, &h)) == 1) {
			cr_assert_lt(strlen(h.name), THMQ_HEADER_NAME_MAX + 1);
			cr_assert_leq((const uint8_t *)h.value + h.value_len, copy + cut);
			rc = 0;
		}
		free(copy);
		free(bytes);
	}
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_DELAY, NULL, 0, &a), -THMQ_EVERSION,
		     "of a newer library: here it is never stored");
}

Test(wire_attributes, what_is_packed_says_so_right_before_the_payload)
{
	const struct thmqi_packed packed = {.len = 4711, .codec = THMQ_COMPRESSION_ZSTD};
	const uint64_t ttl = 99;
	struct thmqi_attributes a;
	uint8_t bytes[16];

	memcpy(bytes, &ttl, 8);
	memcpy(bytes + 8, &packed, 8);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_PACKED, bytes, 16, &a), 0);
	cr_assert(a.ttl_ns == 99 && a.codec == THMQ_COMPRESSION_ZSTD && a.unpacked_len == 4711 && a.len == 16);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_PACKED, bytes, 15, &a), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL, bytes, 16, &a), 0);
	cr_assert(a.codec == THMQ_COMPRESSION_NONE && a.len == 8);
}

Test(wire_attributes, where_in_a_block_a_payload_lies_is_the_last_there_is)
{
	const struct thmqi_in_block in = {47, 11};
	const uint64_t ttl = 99;
	struct thmqi_attributes a;
	uint8_t bytes[24] = {0};

	memcpy(bytes, &ttl, 8);
	memcpy(bytes + 8, &in, 8);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_IN_BLOCK, bytes, 16, &a), 0);
	cr_assert(a.ttl_ns == 99 && a.is_in_block && a.in_block.at == 47 && a.in_block.len == 11 && a.len == 16);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_IN_BLOCK, bytes, 15, &a), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_IN_BLOCK, bytes, 17, &a), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_attributes_read(THMQ_RECORD_TTL | THMQ_RECORD_PACKED | THMQ_RECORD_IN_BLOCK, bytes, 24, &a), -THMQ_ECORRUPT);
}

Test(wire_attributes, headers_that_are_none_are_refused)
{
	static const uint8_t big[THMQ_HEADERS_MAX];
	static char long_name[THMQ_HEADER_NAME_MAX + 2];
	struct thmq_header h = {.name = "n", .value = big, .value_len = 8, .type = THMQ_HEADER_INT};
	struct thmq_message_opts o = {.size = sizeof(o), .headers = &h, .header_count = 1};
	uint32_t flags, len;

	memset(long_name, 'x', sizeof(long_name) - 1);
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), 0);
	h.value_len = 7;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "an int of seven bytes");
	h.type = 5;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "no type");
	h.type = THMQ_HEADER_BYTES;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), 0);
	h.name = "";
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "no name");
	h.name = NULL;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "no name");
	h.name = long_name;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "a long name");
	h.name = long_name + 1;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), 0, "the longest");
	h.value = NULL;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL, "no value");
	h.value_len = 0;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), 0, "an empty one");
	h.name = "n";
	h.value = big;
	h.value_len = THMQ_HEADERS_MAX - 6;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), 0, "the largest");
	h.value_len++;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -E2BIG);
	h.value_len = UINT32_MAX;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -E2BIG);
	o.headers = NULL;
	cr_assert_eq(thmqi_attributes_plan(&o, &flags, &len), -EINVAL,
		     "none where there should be one");
}
