/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Kafka's clients send to examples/kafka, as bytes, and batches as the library reads them from its log. The first byte of the input: bit 0: record batches, whose checksum is made right
 * with bit 1; else all that a request may consist of, flexible with bit 1, in an order that the second byte begins.
 */
#include "../../examples/kafka/batch.h"
#include "fuzz.h"
#include "wire/attributes.h"
#include "wire/kafka.h"

#define CRC_AT 17u
#define PIECES 12u

/* As the library has it, @r of the same record as the example does. */
static void as_message(const struct thmqi_kafka_record *is, struct record *r)
{
	struct thmq_record record;
	struct thmq_header h;
	uint32_t len = thmqi_kafka_body_len(is), cursor = 0, head;
	uint8_t *body = malloc(len ? len : 1);

	FUZZ_CHECK(is->key_len == r->key.len && is->value_len == r->value.len);
	thmqi_kafka_body(is, &record, body);
	FUZZ_CHECK(record.size == len);
	fuzz_touch(body, len);
	head = is->key_len + is->tag_len;
	if (record.flags & THMQ_RECORD_HEADERS) {
		while (thmqi_header_next(body + head + 4, is->headers_len, &cursor, &h) == 1)
			FUZZ_CHECK(h.type == THMQ_HEADER_BYTES || h.type == THMQ_HEADER_TEXT);
		FUZZ_CHECK(cursor == is->headers_len);
		head += 4 + is->headers_len;
	}
	FUZZ_CHECK(len - head == r->value.len && (!r->value.len || memcmp(body + head, r->value.data, r->value.len) == 0));
	free(body);
}

/* Whatever the library takes the example can read, and both read the same. */
static void library(const uint8_t *data, size_t size)
{
	struct thmqi_kafka_facts facts;
	struct thmqi_kafka_record is;
	struct thmqi_kafka_batch b;
	struct thmqi_kafka_walk w;
	struct batch same;
	struct record r;
	struct in set;
	int32_t n = 0;

	if (size > UINT32_MAX || thmqi_kafka_check(data, (uint32_t)size, 77, &facts))
		return;
	in_init(&set, data, size, false);
	FUZZ_CHECK(batch_read(&set, &same) == 1 && in_left(&set) == 0 && same.count == (int32_t)facts.count);
	FUZZ_CHECK(facts.first_time_ns <= facts.last_time_ns);
	FUZZ_CHECK(thmqi_kafka_read(data, (uint32_t)size, &b) == 0);
	if (b.codec)
		return;
	thmqi_kafka_walk(&w, &b, b.records, b.len, 77);
	for (; thmqi_kafka_next(&w, &is) == 1; n++) {
		FUZZ_CHECK(record_read(&same, &same.records, &r) == 0);
		as_message(&is, &r);
	}
	FUZZ_CHECK(n == same.count && in_left(&same.records) == 0);
}

static void batches(uint8_t *data, size_t size, bool mend)
{
	struct out room = {.data = NULL};
	struct text name, value;
	struct record r;
	struct batch b;
	struct in set;
	int32_t i;

	if (mend && size >= BATCH_HEADER) {
		uint32_t len = (uint32_t)data[8] << 24 | (uint32_t)data[9] << 16 |
			       (uint32_t)data[10] << 8 | data[11];

		if (len >= BATCH_HEADER - 12 && len <= size - 12)
			put_i32(data + CRC_AT,
				(int32_t)crc32c(0, data + CRC_AT + 4, len + 12 - CRC_AT - 4));
	}
	library(data, size);
	in_init(&set, data, size, false);
	while (batch_read(&set, &b) == 1) {
		if (batch_unpack(&b, &room))
			continue;
		FUZZ_CHECK(room.len <= BATCH_BYTES_MAX + 65536);
		for (i = 0; i < b.count && record_read(&b, &b.records, &r) == 0; i++) {
			int32_t n = 0;

			fuzz_touch(r.key.data, r.key.len);
			fuzz_touch(r.value.data, r.value.len);
			for (; record_header(&r.headers, &name, &value); n++) {
				fuzz_touch(name.data, name.len);
				fuzz_touch(value.data, value.len);
			}
			FUZZ_CHECK(n == r.header_count);
		}
	}
	out_free(&room);
}

static void pieces(const uint8_t *data, size_t size, bool flex, uint32_t next)
{
	struct text t = {NULL, 0};
	struct in in;

	in_init(&in, data, size, flex);
	for (; !in.bad && in_left(&in) > 0; next++) {
		switch (next % PIECES) {
		case 0:
			t = in_text(&in);
			break;
		case 1:
			t = in_bytes(&in);
			break;
		case 2:
			t = in_plain_text(&in);
			break;
		case 3:
			FUZZ_CHECK((size_t)(in_array(&in, 3) + 1) <= in_left(&in) / 3 + 1);
			break;
		case 4:
			in_tags(&in);
			break;
		case 5:
			in_uvarint(&in);
			break;
		case 6:
			in_varint(&in);
			break;
		case 7:
			in_i8(&in);
			break;
		case 8:
			in_i16(&in);
			break;
		case 9:
			in_i32(&in);
			break;
		case 10:
			in_i64(&in);
			break;
		default:
			in_raw(&in, 3);
			break;
		}
		FUZZ_CHECK(!in.bad || t.len <= size);
		fuzz_touch(t.data, t.len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (size < 2)
		return 0;
	copy = malloc(size - 1); /* exactly as long: a sanitizer sees a byte too far */
	memcpy(copy, data + 1, size - 1);
	if (data[0] & 1)
		batches(copy, size - 1, data[0] & 2);
	else
		pieces(copy + 1, size - 2, data[0] & 2, copy[0]);
	free(copy);
	return 0;
}
