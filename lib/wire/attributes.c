/* SPDX-License-Identifier: Apache-2.0 */
/* attributes.c - what a record's body has between tag and payload, as bytes. Pure functions; doc/format.md specifies them. */
#include "wire/attributes.h"

/* Of a header: u8 type, u8 bytes of its name, u16 bytes of its value, the name, a NUL, the value. */
#define HEADER_HEAD 4u
#define HEADER_EXTRA (HEADER_HEAD + 1)

static bool value_fits(uint32_t type, uint32_t len)
{
	switch (type) {
	case THMQ_HEADER_BYTES:
	case THMQ_HEADER_TEXT:
		return true;
	case THMQ_HEADER_INT:
	case THMQ_HEADER_REAL:
		return len == 8;
	case THMQ_HEADER_BOOL:
		return len == 1;
	default:
		return false;
	}
}

/* ------------------------------------------------------------------- read */

/* Eight bytes, if @has. Return: false: they are not there. */
static bool take_number(bool has, const uint8_t *at, uint32_t room, uint32_t *used, uint64_t *ret)
{
	if (!has)
		return true;
	if (room - *used < sizeof(*ret))
		return false;
	memcpy(ret, at + *used, sizeof(*ret));
	*used += sizeof(*ret);
	return true;
}

int thmqi_attributes_read(uint32_t flags, const uint8_t *at, uint32_t room,
			  struct thmqi_attributes *ret)
{
	uint32_t used = 0;

	*ret = (struct thmqi_attributes){0};
	if (flags & ~THMQI_RECORD_READ)
		return -THMQ_EVERSION;
	if (!take_number(flags & THMQI_RECORD_EXPECT, at, room, &used, &ret->expected) ||
	    !take_number(flags & THMQ_RECORD_TTL, at, room, &used, &ret->ttl_ns))
		return -THMQ_ECORRUPT;
	if (flags & THMQ_RECORD_HEADERS) {
		if (room - used < sizeof(ret->headers_len))
			return -THMQ_ECORRUPT;
		memcpy(&ret->headers_len, at + used, sizeof(ret->headers_len));
		used += sizeof(ret->headers_len);
		if (ret->headers_len > room - used)
			return -THMQ_ECORRUPT;
		ret->headers = at + used;
		used += ret->headers_len;
	}
	if (flags & THMQ_RECORD_PACKED) {
		struct thmqi_packed packed;

		if (room - used < sizeof(packed))
			return -THMQ_ECORRUPT;
		memcpy(&packed, at + used, sizeof(packed));
		used += (uint32_t)sizeof(packed);
		ret->codec = packed.codec;
		ret->unpacked_len = packed.len;
	}
	if (flags & THMQ_RECORD_IN_BLOCK) {
		if (flags & THMQ_RECORD_PACKED || room - used != sizeof(ret->in_block))
			return -THMQ_ECORRUPT;
		memcpy(&ret->in_block, at + used, sizeof(ret->in_block));
		used += (uint32_t)sizeof(ret->in_block);
		ret->is_in_block = true;
	}
	ret->len = used;
	return 0;
}

bool thmqi_part_of(const struct thmq_record_view *record, struct thmqi_part *ret_part)
{
	if (!(record->flags & THMQ_RECORD_PART) || record->len < sizeof(*ret_part))
		return false;
	memcpy(ret_part, record->data, sizeof(*ret_part));
	return ret_part->parts > 1 && ret_part->part < ret_part->parts;
}

bool thmqi_part_is(const struct thmq_record_view *record, const struct thmqi_part *part, uint32_t number)
{
	struct thmqi_part is;

	return thmqi_part_of(record, &is) && is.part == number && is.parts == part->parts && is.total == part->total;
}

bool thmqi_run_is_inner_part(const struct thmq_run_header *run)
{
	const struct thmq_record *record = (const struct thmq_record *)(run + 1);
	struct thmqi_part part;
	uint64_t at;

	if (run->encoding != THMQ_RUN_RECORDS || run->count != 1 || (run->flags & THMQ_RUN_SPARSE) ||
	    run->len < sizeof(*record) || !(record->flags & THMQ_RECORD_PART))
		return false;
	at = sizeof(*record) + record->key_len + record->tag_len;
	if (at + sizeof(part) > run->len)
		return false;
	memcpy(&part, (const uint8_t *)record + at, sizeof(part));
	return part.part < part.parts && part.part + 1 != part.parts;
}

int thmqi_header_next(const uint8_t *headers, uint32_t len, uint32_t *cursor,
		      struct thmq_header *ret_header)
{
	uint32_t at = *cursor, left;
	uint16_t value_len;
	uint8_t name_len;

	if (at == len)
		return 0;
	if (at > len || len - at < HEADER_EXTRA)
		return -THMQ_ECORRUPT;
	left = len - at - HEADER_EXTRA;
	name_len = headers[at + 1];
	memcpy(&value_len, headers + at + 2, sizeof(value_len));
	/* the name is used as a string: it has one NUL, where it ends */
	if (!name_len || (uint32_t)name_len + value_len > left ||
	    headers[at + HEADER_HEAD + name_len] || memchr(headers + at + HEADER_HEAD, 0, name_len))
		return -THMQ_ECORRUPT;
	*ret_header = (struct thmq_header){.name = (const char *)headers + at + HEADER_HEAD,
					   .value = headers + at + HEADER_EXTRA + name_len,
					   .value_len = value_len,
					   .type = headers[at]};
	*cursor = at + HEADER_EXTRA + name_len + value_len;
	return 1;
}

/* ------------------------------------------------------------------ write */

static int plan_headers(const struct thmq_header *headers, uint32_t count, uint32_t *ret_len)
{
	uint32_t i, len = 0;
	size_t name_len;

	if (!headers)
		return -EINVAL;
	for (i = 0; i < count; i++) {
		const struct thmq_header *h = &headers[i];

		name_len = h->name ? strnlen(h->name, THMQ_HEADER_NAME_MAX + 1) : 0;
		if (!name_len || name_len > THMQ_HEADER_NAME_MAX || (!h->value && h->value_len) ||
		    !value_fits(h->type, h->value_len))
			return -EINVAL;
		if (h->value_len > THMQ_HEADERS_MAX ||
		    (len += HEADER_EXTRA + (uint32_t)name_len + h->value_len) > THMQ_HEADERS_MAX)
			return -E2BIG;
	}
	*ret_len = len;
	return 0;
}

int thmqi_attributes_plan(const struct thmq_message_opts *opts, uint32_t *ret_flags,
			  uint32_t *ret_len)
{
	uint32_t flags = 0, len = 0, headers_len;
	int rc;

	if (opts->deliver_at_ns || opts->delay_ns) {
		if ((opts->deliver_at_ns && opts->delay_ns) || opts->deliver_at_ns < 0 || opts->delay_ns > INT64_MAX ||
		    (opts->flags & (THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY)))
			return -EINVAL;
		flags |= THMQ_RECORD_DELAY;
		len += sizeof(opts->delay_ns);
	}
	if (opts->flags & (THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY)) {
		flags |= opts->flags & THMQ_MESSAGE_EXPECT_END ? THMQ_RECORD_EXPECT_END
							       : THMQ_RECORD_EXPECT_KEY;
		len += sizeof(opts->expected);
	}
	if (opts->ttl_ns) {
		flags |= THMQ_RECORD_TTL;
		len += sizeof(opts->ttl_ns);
	}
	if (opts->header_count) {
		rc = plan_headers(opts->headers, opts->header_count, &headers_len);
		if (rc)
			return rc;
		flags |= THMQ_RECORD_HEADERS;
		len += (uint32_t)sizeof(headers_len) + headers_len;
	}
	*ret_flags = flags;
	*ret_len = len;
	return 0;
}

static uint8_t *write_header(const struct thmq_header *h, uint8_t *to)
{
	const uint16_t value_len = (uint16_t)h->value_len;
	const uint8_t name_len = (uint8_t)strlen(h->name);

	to[0] = (uint8_t)h->type;
	to[1] = name_len;
	memcpy(to + 2, &value_len, sizeof(value_len));
	memcpy(to + HEADER_HEAD, h->name, name_len + 1u);
	to += HEADER_EXTRA + name_len;
	if (value_len)
		memcpy(to, h->value, value_len);
	return to + value_len;
}

void thmqi_attributes_write(const struct thmq_message_opts *opts, uint8_t *to)
{
	const uint64_t when = opts->delay_ns ? opts->delay_ns | THMQI_DELAY_AFTER : (uint64_t)opts->deliver_at_ns;
	uint8_t *begin;
	uint32_t i, len;

	if (when) {
		memcpy(to, &when, sizeof(when));
		to += sizeof(when);
	}
	if (opts->flags & (THMQ_MESSAGE_EXPECT_END | THMQ_MESSAGE_EXPECT_KEY)) {
		memcpy(to, &opts->expected, sizeof(opts->expected));
		to += sizeof(opts->expected);
	}
	if (opts->ttl_ns) {
		memcpy(to, &opts->ttl_ns, sizeof(opts->ttl_ns));
		to += sizeof(opts->ttl_ns);
	}
	if (!opts->header_count)
		return;
	begin = to + sizeof(len);
	for (i = 0, to = begin; i < opts->header_count; i++)
		to = write_header(&opts->headers[i], to);
	len = (uint32_t)(to - begin);
	memcpy(begin - sizeof(len), &len, sizeof(len));
}
