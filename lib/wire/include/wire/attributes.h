/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attributes.h - what the body of a record may have between its tag and its payload: a time to live, headers. The record's flags
 * tell which. Pure functions: what they are given may come from a disk or a peer, so that every length is checked before
 * it is believed. Knows no log, no queue and no clock.
 */
#ifndef THMQI_WIRE_ATTRIBUTES_H
#define THMQI_WIRE_ATTRIBUTES_H

#include <thundermq/log.h>

#include "base/base.h"
#include "wire/packed.h"

/* Flags that a client may set. A body with others, but for THMQ_RECORD_PART, cannot be read. */
#define THMQI_RECORD_EXPECT (THMQ_RECORD_EXPECT_END | THMQ_RECORD_EXPECT_KEY)
/* What THMQ_RECORD_DELAY says: ns since 1970, or with this bit ns from when the broker has it. */
#define THMQI_DELAY_AFTER (1ull << 63)
#define THMQI_RECORD_KNOWN (THMQI_RECORD_EXPECT | THMQ_RECORD_TTL | THMQ_RECORD_HEADERS | THMQ_RECORD_PACKED)

/* What a body may have. IN_BLOCK comes with runs that a client has made, not with its messages. */
#define THMQI_RECORD_READ (THMQI_RECORD_KNOWN | THMQ_RECORD_IN_BLOCK)

/* The last of the attributes: right before the payload. */
struct thmqi_packed {
	uint32_t len; /* of the payload, once it is unpacked */
	uint8_t codec; /* enum thmq_compression; NONE: it is as it was */
	uint8_t reserved[3];
};
_Static_assert(sizeof(struct thmqi_packed) == 8, "as in doc/format.md");

/*
 * A message that is larger than a batch is stored as records with consecutive offsets, one in each of as many runs. Behind key and
 * tag, which the first one has, lies this, then a piece of all that the message has behind its tag: as the other flags of the first tell.
 */
struct thmqi_part {
	uint32_t part, parts; /* from 0 on, of so many: two at least */
	uint64_t total;       /* bytes of all pieces */
};
_Static_assert(sizeof(struct thmqi_part) == 16, "as in doc/format.md");
/* Bytes of a message: payload, and at most so many of key, tag and attributes. */
#define THMQI_MESSAGE_MAX (THMQ_MESSAGE_MAX + (128u << 10))

struct thmqi_attributes {
	uint64_t expected;
	uint64_t ttl_ns;        /* 0: none */
	const uint8_t *headers; /* NULL: none */
	uint32_t headers_len;
	uint32_t codec; /* enum thmq_compression */
	uint32_t unpacked_len; /* if it is not NONE */
	bool is_in_block;
	struct thmqi_in_block in_block; /* if it is: where its payload lies */
	uint32_t len; /* of all; the payload is behind them */
};

/* Which part of a message @record is. False: it is none. */
bool thmqi_part_of(const struct thmq_record_view *record, struct thmqi_part *ret_part);
/* Is @record part @number of the message that @part is of? */
bool thmqi_part_is(const struct thmq_record_view *record, const struct thmqi_part *part, uint32_t number);
/* Is @run a part of a message, and not its last? Its payload follows it, of run->len bytes. */
bool thmqi_run_is_inner_part(const struct thmq_run_header *run);

/* Of a body whose bytes behind key and tag are @at to @at + @room. 0; -THMQ_ECORRUPT they contradict themselves; -THMQ_EVERSION */
int thmqi_attributes_read(uint32_t flags, const uint8_t *at, uint32_t room,
			  struct thmqi_attributes *ret);

/* What a message with these options has: flags and bytes. 0; -EINVAL; -E2BIG: THMQ_HEADERS_MAX */
int thmqi_attributes_plan(const struct thmq_message_opts *opts, uint32_t *ret_flags,
			  uint32_t *ret_len);
/* Writes what was planned. */
void thmqi_attributes_write(const struct thmq_message_opts *opts, uint8_t *to);

/* The header that begins at *@cursor of @len bytes, and the cursor behind it. 1; 0 there are no more; -THMQ_ECORRUPT */
int thmqi_header_next(const uint8_t *headers, uint32_t len, uint32_t *cursor,
		      struct thmq_header *ret_header);

#endif
