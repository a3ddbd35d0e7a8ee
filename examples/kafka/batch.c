/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - record batches of Kafka: read with every byte checked, and made. Knows no topic, no library and no socket. */
#include "batch.h"

#include <string.h>

#include "errors.h"

/* ------------------------------------------------------------------- CRC-32C */

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(uint32_t crc,
								     const uint8_t *at, size_t len)
{
	uint64_t c = crc, word;

	for (; len >= 8; at += 8, len -= 8) {
		memcpy(&word, at, 8);
		c = __builtin_ia32_crc32di(c, word);
	}
	for (; len > 0; at++, len--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *at);
	return (uint32_t)c;
}
#endif

/* Four bits at a time: the polynomial 0x1EDC6F41, reflected. */
static uint32_t crc_by_table(uint32_t crc, const uint8_t *at, size_t len)
{
	static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
					   0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
					   0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
					   0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};

	for (; len > 0; at++, len--) {
		crc ^= *at;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_by_instruction(~crc, data, len);
#endif
	return ~crc_by_table(~crc, data, len);
}

/* ------------------------------------------------------------------ reading */

#define MAGIC_AT 16u /* where the version stands, in all formats of messages */
#define CRC_FROM 21u /* the CRC is of all that follows it, attributes first */

int batch_read(struct in *set, struct batch *b)
{
	const uint8_t *at = set->at;
	struct in in;
	int32_t len;
	uint32_t crc;

	if (in_left(set) == 0)
		return 0;
	if (in_left(set) <= MAGIC_AT)
		return -K_CORRUPT_MESSAGE;
	if (at[MAGIC_AT] != 2)
		return -(at[MAGIC_AT] < 2 ? K_UNSUPPORTED_FOR_MESSAGE_FORMAT : K_CORRUPT_MESSAGE);
	b->base_offset = in_i64(set);
	len = in_i32(set);
	if (len < (int32_t)(BATCH_HEADER - 12) || (size_t)len > in_left(set))
		return -K_CORRUPT_MESSAGE;
	b->all = (struct text){(const char *)at, (uint32_t)len + 12};
	in_init(&in, set->at, (size_t)len, false);
	in_raw(set, (size_t)len);
	in_i32(&in); /* the leader's epoch, which a producer does not know */
	in_i8(&in);
	crc = (uint32_t)in_i32(&in);
	if (crc32c(0, at + CRC_FROM, (size_t)len + 12 - CRC_FROM) != crc)
		return -K_CORRUPT_MESSAGE;
	b->attributes = in_i16(&in);
	b->last_delta = in_i32(&in);
	b->base_time_ms = in_i64(&in);
	b->max_time_ms = in_i64(&in);
	b->producer_id = in_i64(&in);
	b->producer_epoch = in_i16(&in);
	b->base_sequence = in_i32(&in);
	b->count = in_i32(&in);
	b->records = in;
	if (b->count < 0 || b->last_delta < 0)
		return -K_INVALID_RECORD;
	return 1;
}

int batch_unpack(struct batch *b, struct out *room)
{
	int type = b->attributes & BATCH_COMPRESSION, rc;

	if (!type)
		return 0;
	room->len = 0;
	rc = unpack(type, b->records.at, in_left(&b->records), room);
	if (rc)
		return rc;
	in_init(&b->records, room->data ? (const void *)room->data : "", room->len, false);
	return 0;
}

static struct text in_short_bytes(struct in *in)
{
	int64_t len = in_varint(in);
	struct text t = {NULL, 0};

	if (len < -1 || len > (int64_t)in_left(in))
		in->bad = true;
	if (len >= 0 && !in->bad) {
		t.data = (const char *)in_raw(in, (size_t)len);
		t.len = (uint32_t)len;
	}
	return t;
}

bool record_header(struct in *headers, struct text *ret_name, struct text *ret_value)
{
	if (in_left(headers) == 0)
		return false;
	*ret_name = in_short_bytes(headers);
	*ret_value = in_short_bytes(headers);
	return !headers->bad && ret_name->data;
}

int record_read(const struct batch *b, struct in *records, struct record *r)
{
	int64_t len = in_varint(records), count, delta;
	struct text name, value;
	struct in in;

	if (records->bad || len < 0 || len > (int64_t)in_left(records))
		return -K_INVALID_RECORD;
	in_init(&in, records->at, (size_t)len, false);
	in_raw(records, (size_t)len);
	in_i8(&in); /* attributes: there are none */
	r->time_ms = (int64_t)((uint64_t)b->base_time_ms + (uint64_t)in_varint(&in));
	delta = in_varint(&in);
	r->key = in_short_bytes(&in);
	r->value = in_short_bytes(&in);
	count = in_varint(&in);
	if (in.bad || count < 0 || count > (int64_t)in_left(&in) || delta < 0 || delta > INT32_MAX)
		return -K_INVALID_RECORD;
	r->offset_delta = (int32_t)delta;
	r->header_count = (int32_t)count;
	r->headers = in;
	while (count-- > 0)
		if (!record_header(&in, &name, &value))
			return -K_INVALID_RECORD;
	return in_left(&in) || in.bad ? -K_INVALID_RECORD : 0;
}

/* ------------------------------------------------------------------- making */

void batch_begin(struct batch_making *m, struct out *out, int64_t base_offset, int64_t base_time_ms)
{
	*m = (struct batch_making){.out = out,
				   .at = out->len,
				   .base_offset = base_offset,
				   .last_offset = base_offset,
				   .base_time_ms = base_time_ms,
				   .max_time_ms = base_time_ms};
	out_raw(out, BATCH_HEADER);
}

static uint32_t short_bytes_size(struct text t)
{
	return t.data ? varint_size(t.len) + t.len : 1;
}

static void out_short_bytes(struct out *out, struct text t)
{
	out_varint(out, t.data ? (int64_t)t.len : -1);
	if (t.data)
		out_copy(out, t.data, t.len);
}

void batch_add_header(struct out *headers, struct text name, struct text value)
{
	out_short_bytes(headers, name);
	out_short_bytes(headers, value);
}

void batch_add(struct batch_making *m, int64_t offset, int64_t time_ms, struct text key,
	       struct text value, const struct out *headers, int32_t header_count)
{
	int64_t time_delta = (int64_t)((uint64_t)time_ms - (uint64_t)m->base_time_ms),
		delta = offset - m->base_offset;
	size_t len = 1 + varint_size(time_delta) + varint_size(delta) + short_bytes_size(key) +
		     short_bytes_size(value) + varint_size(header_count) + headers->len;

	out_varint(m->out, (int64_t)len);
	out_i8(m->out, 0);
	out_varint(m->out, time_delta);
	out_varint(m->out, delta);
	out_short_bytes(m->out, key);
	out_short_bytes(m->out, value);
	out_varint(m->out, header_count);
	out_copy(m->out, headers->data, headers->len);
	m->last_offset = offset;
	if (time_ms > m->max_time_ms)
		m->max_time_ms = time_ms;
	m->count++;
}

void batch_end(struct batch_making *m, int64_t last_offset)
{
	struct out head = {.data = NULL};
	uint8_t *at;
	size_t len;

	if (m->out->failed)
		return;
	at = m->out->data + m->at;
	len = m->out->len - m->at;
	head.data = at;
	head.room = BATCH_HEADER;
	out_i64(&head, m->base_offset);
	out_i32(&head, (int32_t)(len - 12));
	out_i32(&head, -1); /* the leader's epoch: there is none */
	out_i8(&head, 2);
	out_i32(&head, 0);
	out_i16(&head, 0); /* not compressed, with the records' own times */
	out_i32(&head, (int32_t)(last_offset - m->base_offset));
	out_i64(&head, m->base_time_ms);
	out_i64(&head, m->max_time_ms);
	out_i64(&head, -1);
	out_i16(&head, -1);
	out_i32(&head, -1);
	out_i32(&head, m->count);
	put_i32(at + CRC_FROM - 4, (int32_t)crc32c(0, at + CRC_FROM, len - CRC_FROM));
}
