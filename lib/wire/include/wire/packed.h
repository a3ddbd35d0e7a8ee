/* SPDX-License-Identifier: Apache-2.0 */
/*
 * packed.h - runs whose payloads lie together in one block, perhaps compressed (THMQ_RUN_PACKED), while table, keys, tags and attributes are
 * those of any other: whoever walks the records need not know. Pure functions: what they are given may come from a disk or a peer, so that every
 * length is checked before it is believed. Knows no codec: nothing here makes a block large again.
 */
#ifndef THMQI_WIRE_PACKED_H
#define THMQI_WIRE_PACKED_H

#include <thundermq/log.h>

#include "base/base.h"

#define THMQI_PACKED_COUNT_MAX 4096u     /* messages of one run */
#define THMQI_PACKED_RAW_MAX (4u << 20) /* bytes of its payloads, side by side: as much as a batch of the log may hold */

/* The last 16 bytes of such a run. Before them lies the block, filled up to 8, and before that the bodies. */
struct thmqi_block {
	uint32_t len;     /* bytes of the block */
	uint32_t raw_len; /* of the payloads in it, once it is unpacked */
	uint32_t count;   /* messages that it was made of */
	uint8_t codec;    /* enum thmq_compression; NONE: it is as it was */
	uint8_t reserved[3];
};
_Static_assert(sizeof(struct thmqi_block) == 16, "as in doc/format.md");

/* The last of a record's attributes, where its payload lies in the block. */
struct thmqi_in_block {
	uint32_t at, len;
};
_Static_assert(sizeof(struct thmqi_in_block) == 8, "as in doc/format.md");

/*
 * Of the payload of such a run, or what is to be one, @len bytes: its block. *@ret_at: where that begins: there the bodies end. The block's head is
 * copied once, and what is in *@ret is what was checked. 0; -THMQ_ECORRUPT it does not fit
 */
int thmqi_block_read(const void *payload, uint32_t len, struct thmqi_block *ret, uint32_t *ret_at);

static inline uint32_t thmqi_block_bytes(const struct thmqi_block *block)
{
	return THMQI_ALIGN_UP(block->len, 8u) + (uint32_t)sizeof(*block);
}

/* What its owner wants to know of it before it is stored. */
struct thmqi_packed_facts {
	uint32_t count;
	uint64_t tag_filter;
	bool keyed;
};

/*
 * May the @len bytes at @payload, of a client, be the payload of a run? What the table says of tags and times is made right, so that nothing but what
 * others read from the records themselves is its word. 0; -THMQ_ECORRUPT; -EMSGSIZE too many, or too much once it is unpacked
 */
int thmqi_packed_check(void *payload, uint32_t len, struct thmqi_packed_facts *ret);

#endif
