/* SPDX-License-Identifier: Apache-2.0 */
/* kafka_codec_test.c - the bytes of Kafka's protocol in examples/kafka: what was written is read, what was cut or changed is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../examples/kafka/batch.h"
#include "../../examples/kafka/errors.h"

TestSuite(kafka_codec);

static const int64_t numbers[] = {0,    1,    -1,        63,        64,        -64,      -65,
				  8191, 8192, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static void write_all(struct out *out)
{
	size_t i, at;

	for (i = 0; i < NUMBERS; i++) {
		out_i8(out, (int8_t)numbers[i]);
		out_i16(out, (int16_t)numbers[i]);
		out_i32(out, (int32_t)numbers[i]);
		out_i64(out, numbers[i]);
		out_varint(out, numbers[i]);
		out_uvarint(out, (uint32_t)numbers[i]);
	}
	out_string(out, "text");
	out_string(out, "");
	out_string(out, NULL);
	out_bytes(out, text_of("bytes"));
	out_array(out, -1);
	out_array(out, 2);
	at = out_bytes_begin(out);
	out_copy(out, "behind", 6);
	out_bytes_end(out, at, 0);
	out_tags(out);
}

/* Return: all was as it was written */
static bool read_all(struct in *in)
{
	bool ok = true;
	size_t i;

	for (i = 0; i < NUMBERS; i++) {
		ok &= in_i8(in) == (int8_t)numbers[i];
		ok &= in_i16(in) == (int16_t)numbers[i];
		ok &= in_i32(in) == (int32_t)numbers[i];
		ok &= in_i64(in) == numbers[i];
		ok &= in_varint(in) == numbers[i];
		ok &= in_uvarint(in) == (uint32_t)numbers[i];
	}
	ok &= text_is(in_text(in), "text");
	ok &= text_is(in_text(in), "");
	ok &= !in_text(in).data;
	ok &= text_is(in_bytes(in), "bytes");
	ok &= in_array(in, 1) == -1;
	ok &= in_array(in, 1) == 2;
	ok &= text_is(in_bytes(in), "behind");
	in_tags(in);
	return ok && !in->bad && in_left(in) == 0;
}

Test(kafka_codec, what_was_written_is_read_and_all_that_is_cut_is_bad)
{
	int flex;

	for (flex = 0; flex < 2; flex++) {
		struct out out = {.flex = flex};
		struct in in;
		size_t len;

		write_all(&out);
		cr_assert_not(out.failed);
		in_init(&in, out.data, out.len, flex);
		cr_assert(read_all(&in));
		for (len = 0; len < out.len; len++) {
			uint8_t *cut = malloc(len + 1); /* a sanitizer sees a byte too far */

			memcpy(cut, out.data, len);
			in_init(&in, cut, len, flex);
			read_all(&in);
			cr_assert(in.bad, "cut to %zu of %zu", len, out.len);
			free(cut);
		}
		out_free(&out);
	}
}

Test(kafka_codec, counts_and_lengths_that_cannot_be_are_bad)
{
	static const struct {
		const char *bytes;
		uint32_t len;
		bool flex;
	} arrays[] = {{"\x7f\xff\xff\xff", 4, false},        {"\xff\xff\xff\xfe", 4, false},
		      {"\xff\xff\xff\xff\x0f", 5, true},     {"\xff\xff\xff\xff\x7f", 5, true},
		      {"\xff\xff\xff\xff\xff\xff", 6, true}, {"", 0, true}};
	struct in in;
	size_t i;

	for (i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++) {
		in_init(&in, arrays[i].bytes, arrays[i].len, arrays[i].flex);
		cr_assert_eq(in_array(&in, 1), 0);
		cr_assert(in.bad, "array %zu", i);
		in_init(&in, arrays[i].bytes, arrays[i].len, arrays[i].flex);
		cr_assert_null(in_bytes(&in).data);
		cr_assert(in.bad, "bytes %zu", i);
	}
	in_init(&in, "\x02\x01\x05xxxxx\x02\x00", 10,
		true); /* two tagged fields: of five bytes, of none */
	in_tags(&in);
	cr_assert(!in.bad && in_left(&in) == 0);
	in_init(&in, "\xff\xff\xff\xff\x0f", 5, true);
	in_tags(&in);
	cr_assert(in.bad);
}

static void make_batch(struct out *out)
{
	struct out headers = {.data = NULL};
	struct batch_making m;

	batch_begin(&m, out, 1000, 5000);
	batch_add_header(&headers, text_of("name"), text_of("value"));
	batch_add_header(&headers, text_of("null"), (struct text){NULL, 0});
	batch_add(&m, 1000, 5000, text_of("key"), text_of("first"), &headers, 2);
	headers.len = 0;
	batch_add(&m, 1007, 4000, (struct text){NULL, 0}, (struct text){NULL, 0}, &headers, 0);
	batch_add(&m, 70000, 9000, text_of(""), text_of(""), &headers, 0);
	batch_end(&m, 70002);
	out_free(&headers);
}

Test(kafka_codec, a_batch_that_was_made_is_read)
{
	struct out out = {.data = NULL};
	struct text name, value;
	struct record r;
	struct batch b;
	struct in set, records;

	make_batch(&out);
	make_batch(&out); /* two, one behind the other */
	in_init(&set, out.data, out.len, false);
	cr_assert_eq(batch_read(&set, &b), 1);
	cr_assert(b.base_offset == 1000 && b.last_delta == 69002 && b.count == 3 &&
		  b.producer_id == -1);
	cr_assert(b.base_time_ms == 5000 && b.max_time_ms == 9000);
	cr_assert_eq(batch_unpack(&b, NULL), 0);
	records = b.records;
	cr_assert_eq(record_read(&b, &records, &r), 0);
	cr_assert(r.offset_delta == 0 && r.time_ms == 5000 && text_is(r.key, "key") &&
		  text_is(r.value, "first") && r.header_count == 2);
	cr_assert(record_header(&r.headers, &name, &value) && text_is(name, "name") &&
		  text_is(value, "value"));
	cr_assert(record_header(&r.headers, &name, &value) && text_is(name, "null") && !value.data);
	cr_assert_not(record_header(&r.headers, &name, &value));
	cr_assert_eq(record_read(&b, &records, &r), 0);
	cr_assert(r.offset_delta == 7 && r.time_ms == 4000 && !r.key.data && !r.value.data);
	cr_assert_eq(record_read(&b, &records, &r), 0);
	cr_assert(r.offset_delta == 69000 && text_is(r.key, "") && text_is(r.value, ""));
	cr_assert_eq(record_read(&b, &records, &r), -K_INVALID_RECORD);
	cr_assert_eq(batch_read(&set, &b), 1);
	cr_assert_eq(batch_read(&set, &b), 0);
	out_free(&out);
}

Test(kafka_codec, a_batch_with_any_byte_changed_or_missing_is_refused)
{
	struct out out = {.data = NULL};
	struct batch b;
	struct in set;
	size_t i, len;

	make_batch(&out);
	for (i = 0; i < out.len; i++) {
		out.data[i] ^= 0x10;
		in_init(&set, out.data, out.len, false);
		if (i >= 8 &&
		    (i < 12 ||
		     i > 15)) /* where it lies, and the leader's epoch, are the broker's, and not in its checksum */
			cr_assert_leq(batch_read(&set, &b), 0, "byte %zu", i);
		out.data[i] ^= 0x10;
	}
	for (len = 1; len < out.len; len++) {
		uint8_t *cut = malloc(len);

		memcpy(cut, out.data, len);
		in_init(&set, cut, len, false);
		cr_assert_lt(batch_read(&set, &b), 0, "cut to %zu", len);
		free(cut);
	}
	out_free(&out);
}

Test(kafka_codec, the_checksum_is_crc32c)
{
	cr_assert_eq(crc32c(0, "123456789", 9), 0xe3069283u);
	cr_assert_eq(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
}

/* Four gigabytes of zeros, or what says so, in a few bytes. */
Test(kafka_codec, what_unpacks_to_too_much_is_refused)
{
	static const uint8_t snappy[] = {0xff, 0xff, 0xff, 0xff, 0x0f, 0};
	struct out room = {.data = NULL};
	int type, rc;

	rc = unpack(2, snappy, sizeof(snappy), &room);
	cr_assert(rc == -K_MESSAGE_TOO_LARGE || rc == -K_UNSUPPORTED_COMPRESSION, "%d", rc);
	for (type = 1; type < 8; type++) {
		room.len = 0;
		rc = unpack(type, (const uint8_t *)"nonsense, not packed at all", 27, &room);
		cr_assert_lt(rc, 0, "type %d", type);
		room.len = 0;
		cr_assert_lt(unpack(type, (const uint8_t *)"", 0, &room), 0);
	}
	out_free(&room);
}
