/* SPDX-License-Identifier: Apache-2.0 */
/* kafka.c - record batches of Kafka's protocol as payloads of runs: checked, walked, turned into records. Pure functions. */
#include "wire/kafka.h"

#include "wire/attributes.h"
#include "wire/run.h"

/* Where the fields of its head stand; all numbers are big endian. */
enum {
	LEN_AT = 8,
	MAGIC_AT = 16,
	CRC_AT = 17,
	CRC_FROM = 21,
	ATTRIBUTES_AT = 21,
	LAST_DELTA_AT = 23,
	BASE_TIME_AT = 27,
	MAX_TIME_AT = 35,
	COUNT_AT = 57
};
#define MAGIC 2u
#define CODEC_MASK 7u
#define CODEC_LAST 4u
#define IN_TRANSACTION 0x10u /* attributes: part of one */
#define OF_CONTROL 0x20u     /* the end of one, or what else is no record */
#define MILLISECOND_NS 1000000
#define HEADER_EXTRA 5u /* bytes of a header as the library writes it, beside name and value */

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t get64(const uint8_t *at)
{
	return (uint64_t)get32(at) << 32 | get32(at + 4);
}

/* --------------------------------------------------------------------- head */

int thmqi_kafka_read(const void *payload, uint32_t len, struct thmqi_kafka_batch *ret)
{
	const uint8_t *at = payload;
	uint32_t attributes, last_delta;

	if (len <= MAGIC_AT)
		return -THMQ_ECORRUPT;
	if (at[MAGIC_AT] != MAGIC)
		return -THMQ_EVERSION;
	if (len < THMQI_KAFKA_HEAD || get32(at + LEN_AT) != len - (LEN_AT + 4))
		return -THMQ_ECORRUPT;
	attributes = (uint32_t)at[ATTRIBUTES_AT] << 8 | at[ATTRIBUTES_AT + 1];
	last_delta = get32(at + LAST_DELTA_AT);
	ret->count = get32(at + COUNT_AT);
	if (!ret->count || ret->count > INT32_MAX || last_delta != ret->count - 1 || (attributes & CODEC_MASK) > CODEC_LAST)
		return -THMQ_ECORRUPT;
	if (attributes & OF_CONTROL)
		return -EOPNOTSUPP;
	ret->codec = attributes & CODEC_MASK;
	ret->in_transaction = attributes & IN_TRANSACTION;
	ret->base_time_ms = (int64_t)get64(at + BASE_TIME_AT);
	ret->max_time_ms = (int64_t)get64(at + MAX_TIME_AT);
	ret->records = at + THMQI_KAFKA_HEAD;
	ret->len = len - THMQI_KAFKA_HEAD;
	return 0;
}

static int64_t time_of(int64_t time_ms, int64_t no_time_ns)
{
	if (time_ms < 0)
		return no_time_ns;
	return time_ms > INT64_MAX / MILLISECOND_NS ? INT64_MAX : time_ms * MILLISECOND_NS;
}

static int check_records(const struct thmqi_kafka_batch *b, int64_t now_ns, struct thmqi_kafka_facts *f)
{
	struct thmqi_kafka_record r;
	struct thmqi_kafka_walk w;
	int rc;

	thmqi_kafka_walk(&w, b, b->records, b->len, now_ns);
	while ((rc = thmqi_kafka_next(&w, &r)) == 1) {
		f->first_time_ns = THMQI_MIN(f->first_time_ns, r.time_ns);
		f->last_time_ns = THMQI_MAX(f->last_time_ns, r.time_ns);
		f->keyed |= r.key_len != 0;
		if (r.tag_len)
			f->tag_filter |= 1ull << (thmqi_tag_hash(r.tag, r.tag_len) % 64);
	}
	return rc;
}

int thmqi_kafka_check(const void *payload, uint32_t len, int64_t now_ns, struct thmqi_kafka_facts *ret)
{
	struct thmqi_kafka_facts f = {.first_time_ns = INT64_MAX, .last_time_ns = INT64_MIN};
	struct thmqi_kafka_batch b = {0};
	int rc = thmqi_kafka_read(payload, len, &b);

	if (rc)
		return rc;
	if (thmqi_crc32c(0, (const uint8_t *)payload + CRC_FROM, len - CRC_FROM) != get32((const uint8_t *)payload + CRC_AT))
		return -THMQ_ECORRUPT;
	if (b.count > THMQI_KAFKA_COUNT_MAX)
		return -EMSGSIZE;
	f.count = b.count;
	f.in_transaction = b.in_transaction;
	if (b.codec) { /* whoever reads it unpacks it, and checks it then */
		f.tag_filter = UINT64_MAX;
		f.first_time_ns = time_of(b.base_time_ms, now_ns);
		f.last_time_ns = THMQI_MAX(f.first_time_ns, time_of(b.max_time_ms, now_ns));
	} else {
		rc = check_records(&b, now_ns, &f);
		if (rc)
			return rc;
	}
	*ret = f;
	return 0;
}

/* ------------------------------------------------------------------ records */

/* Zigzag, up to 64 bits. Return: false: it ends too early, or does not end. */
static inline bool take_varint(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
	uint64_t v = 0;
	uint32_t shift = 0;
	uint8_t byte;

	do {
		if (*at == end || shift > 63)
			return false;
		byte = *(*at)++;
		v |= (uint64_t)(byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	*ret = (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
	return true;
}

/* Bytes with their length before them; -1: null. */
static inline bool take_bytes(const uint8_t **at, const uint8_t *end, const uint8_t **ret, uint32_t *ret_len)
{
	int64_t len;

	if (!take_varint(at, end, &len) || len < -1 || len > end - *at)
		return false;
	*ret = len < 0 ? NULL : *at;
	*ret_len = len < 0 ? 0 : (uint32_t)len;
	*at += *ret_len;
	return true;
}

static bool is_tag(const uint8_t *name, uint32_t name_len, const uint8_t *value, uint32_t value_len)
{
	return name_len == sizeof(THMQI_KAFKA_TAG) - 1 && memcmp(name, THMQI_KAFKA_TAG, name_len) == 0 && value_len &&
	       value_len <= THMQ_TAG_MAX && !memchr(value, 0, value_len);
}

/* The headers of a record, which end where it does. */
static __attribute__((noinline)) int take_headers(const uint8_t *at, const uint8_t *end, int64_t count, struct thmqi_kafka_record *r)
{
	const uint8_t *name, *value;
	uint32_t name_len, value_len;

	if (count < 0 || count > end - at)
		return -THMQ_ECORRUPT;
	r->headers = at;
	r->headers_end = end;
	while (count--) {
		if (!take_bytes(&at, end, &name, &name_len) || !take_bytes(&at, end, &value, &value_len) || !name)
			return -THMQ_ECORRUPT;
		if (is_tag(name, name_len, value, value_len)) {
			r->tag = value;
			r->tag_len = value_len;
			continue;
		}
		if (!name_len || name_len > THMQ_HEADER_NAME_MAX || value_len > THMQ_HEADERS_MAX || memchr(name, 0, name_len))
			return -EINVAL;
		r->header_count++;
		r->headers_len += HEADER_EXTRA + name_len + value_len;
		if (r->headers_len > THMQ_HEADERS_MAX)
			return -EINVAL;
	}
	return at == end ? 0 : -THMQ_ECORRUPT;
}

void thmqi_kafka_walk(struct thmqi_kafka_walk *w, const struct thmqi_kafka_batch *b, const void *records, uint32_t len,
		      int64_t no_time_ns)
{
	*w = (struct thmqi_kafka_walk){.at = records,
				       .end = (const uint8_t *)records + len,
				       .base_time_ms = b->base_time_ms,
				       .no_time_ns = no_time_ns,
				       .count = b->count};
}

int thmqi_kafka_next(struct thmqi_kafka_walk *w, struct thmqi_kafka_record *r)
{
	const uint8_t *at = w->at, *end;
	int64_t len, time, delta, count;
	int rc;

	if (w->index == w->count)
		return at == w->end ? 0 : -THMQ_ECORRUPT;
	if (!take_varint(&at, w->end, &len) || len < 1 || len > w->end - at)
		return -THMQ_ECORRUPT;
	end = at + len;
	at++; /* attributes: there are none */
	if (!take_varint(&at, end, &time) || !take_varint(&at, end, &delta) || delta != w->index)
		return -THMQ_ECORRUPT;
	*r = (struct thmqi_kafka_record){
		.time_ns = time_of((int64_t)((uint64_t)w->base_time_ms + (uint64_t)time), w->no_time_ns)};
	if (!take_bytes(&at, end, &r->key, &r->key_len) || !take_bytes(&at, end, &r->value, &r->value_len) ||
	    !take_varint(&at, end, &count))
		return -THMQ_ECORRUPT;
	if (r->key_len > THMQ_KEY_MAX)
		return -EINVAL;
	if (thmqi_unlikely(count || at != end)) {
		rc = take_headers(at, end, count, r);
		if (rc)
			return rc;
	}
	w->at = end;
	w->index++;
	return 1;
}

/* ------------------------------------------------------- as the library's own */

uint32_t thmqi_kafka_body_len(const struct thmqi_kafka_record *r)
{
	return r->key_len + r->tag_len + (r->header_count ? 4 + r->headers_len : 0) + r->value_len;
}

static uint8_t *put_header(uint8_t *to, const uint8_t *name, uint32_t name_len, const uint8_t *value, uint32_t value_len)
{
	const uint16_t len = (uint16_t)value_len;

	to[0] = value ? THMQ_HEADER_BYTES : THMQ_HEADER_TEXT; /* an empty text is what null becomes */
	to[1] = (uint8_t)name_len;
	memcpy(to + 2, &len, sizeof(len));
	memcpy(to + 4, name, name_len);
	to[4 + name_len] = 0;
	to += HEADER_EXTRA + name_len;
	if (value_len)
		memcpy(to, value, value_len);
	return to + value_len;
}

/* What was checked may be another's to change: it is read again, and never takes more than there is room for. */
static uint8_t *put_headers(const struct thmqi_kafka_record *r, uint8_t *to)
{
	const uint8_t *at = r->headers, *end, *name, *value;
	uint32_t name_len, value_len;

	memcpy(to, &r->headers_len, 4);
	to += 4;
	end = to + r->headers_len;
	while (to < end && take_bytes(&at, r->headers_end, &name, &name_len) &&
	       take_bytes(&at, r->headers_end, &value, &value_len)) {
		if (is_tag(name, name_len, value, value_len))
			continue;
		if (name_len > THMQ_HEADER_NAME_MAX || value_len > THMQ_HEADERS_MAX ||
		    HEADER_EXTRA + name_len + value_len > (uint32_t)(end - to))
			break;
		to = put_header(to, name, name_len, value, value_len);
	}
	memset(to, 0, (size_t)(end - to));
	return to + (end - to);
}

void thmqi_kafka_body(const struct thmqi_kafka_record *r, struct thmq_record *ret_record, uint8_t *to)
{
	*ret_record = (struct thmq_record){.size = thmqi_kafka_body_len(r),
					   .tag_hash = r->tag_len ? thmqi_tag_hash(r->tag, r->tag_len) : 0,
					   .key_len = (uint16_t)r->key_len,
					   .tag_len = (uint8_t)r->tag_len,
					   .flags = r->header_count ? THMQ_RECORD_HEADERS : 0};
	if (r->key_len)
		memcpy(to, r->key, r->key_len);
	to += r->key_len;
	if (r->tag_len)
		memcpy(to, r->tag, r->tag_len);
	to += r->tag_len;
	if (r->header_count)
		to = put_headers(r, to);
	if (r->value_len)
		memcpy(to, r->value, r->value_len);
}
