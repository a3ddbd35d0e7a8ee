/* SPDX-License-Identifier: Apache-2.0 */
/* packed.c - runs whose payloads lie together in one block, as bytes: checked. Pure functions; doc/format.md is their specification. */
#include "wire/packed.h"

#include "wire/attributes.h"
#include "wire/run.h"

int thmqi_block_read(const void *payload, uint32_t len, struct thmqi_block *ret, uint32_t *ret_at)
{
	struct thmqi_block block;

	if (len % 8 || len < sizeof(block))
		return -THMQ_ECORRUPT;
	memcpy(&block, (const uint8_t *)payload + len - sizeof(block), sizeof(block));
	if (block.len > len - sizeof(block) || thmqi_block_bytes(&block) > len)
		return -THMQ_ECORRUPT;
	if (block.raw_len > THMQI_PACKED_RAW_MAX || (block.codec == THMQ_COMPRESSION_NONE && block.raw_len != block.len))
		return -THMQ_ECORRUPT;
	*ret_at = len - thmqi_block_bytes(&block);
	*ret = block;
	return 0;
}

/* Its body, @room bytes at most: everything but its payload. */
static int check_record(struct thmq_record *r, const uint8_t *body, uint64_t room, const struct thmqi_block *block)
{
	struct thmqi_attributes a;
	uint32_t head = (uint32_t)r->key_len + r->tag_len;

	if (r->size > room || head > r->size || r->key_len > THMQ_KEY_MAX ||
	    (r->flags & ~(THMQ_RECORD_TTL | THMQ_RECORD_HEADERS)) != THMQ_RECORD_IN_BLOCK)
		return -THMQ_ECORRUPT;
	if (thmqi_attributes_read(r->flags, body + head, r->size - head, &a) || a.len != r->size - head ||
	    (uint64_t)a.in_block.at + a.in_block.len > block->raw_len)
		return -THMQ_ECORRUPT;
	r->tag_hash = r->tag_len ? thmqi_tag_hash(body + r->key_len, r->tag_len) : 0;
	r->time_delta_us = 0;
	return 0;
}

int thmqi_packed_check(void *payload, uint32_t len, struct thmqi_packed_facts *ret)
{
	struct thmqi_packed_facts is = {0};
	struct thmq_record *record = payload;
	struct thmqi_block block;
	const uint8_t *body;
	uint32_t i, at;
	uint64_t table, left;

	if (thmqi_block_read(payload, len, &block, &at))
		return -THMQ_ECORRUPT;
	if (block.count > THMQI_PACKED_COUNT_MAX)
		return -EMSGSIZE;
	table = thmqi_run_table_bytes(block.count, false);
	if (!block.count || table > at)
		return -THMQ_ECORRUPT;
	body = (const uint8_t *)payload + table;
	left = at - table;
	for (i = 0; i < block.count; i++, record++) {
		if (check_record(record, body, left, &block))
			return -THMQ_ECORRUPT;
		body += thmqi_record_bytes(record->size);
		left -= thmqi_record_bytes(record->size); /* both are multiples of 8 */
		is.keyed |= record->key_len != 0;
		if (record->tag_hash)
			is.tag_filter |= 1ull << (record->tag_hash % 64);
	}
	if (left)
		return -THMQ_ECORRUPT;
	is.count = block.count;
	*ret = is;
	return 0;
}
