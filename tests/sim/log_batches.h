/* SPDX-License-Identifier: Apache-2.0 */
/* log_batches.h - the batches of copies' logs as bytes: are they equal? Only each copy's own word in the header may differ. */
#ifndef SIM_LOG_BATCHES_H
#define SIM_LOG_BATCHES_H

#include <string.h>

#include "base/base.h"
#include "commitlog/copies.h"

#define HEADER_EQUAL 96u /* bytes of a batch's header that are the same on all copies */
#define BATCH_BYTES_MAX (1u << 20)

struct header {
	uint32_t magic;
	uint16_t version, type;
	uint32_t len, payload_len;
	uint64_t position, index, term;
	uint8_t log_id[16];
	uint32_t run_count, prev_crc, payload_crc, reserved[6], header_crc;
	uint8_t local[32];
};
_Static_assert(sizeof(struct header) == THMQI_BATCH_HEADER_BYTES, "as in doc/format.md");

/* @from_device: as it was written. Return: so many bytes at @ret, which has room for BATCH_BYTES_MAX; 0: it cannot be read. */
static inline uint32_t batch_bytes(struct thmq_log *log, uint64_t index, uint8_t *ret, bool from_device)
{
	struct header h;
	uint32_t len;

	if (thmqi_log_header(log, index, &h) != 0)
		return 0;
	len = h.type == THMQI_BATCH_PAD ? THMQI_BLOCK : h.len;
	return thmqi_log_bytes(log, index, ret, len, !from_device) == 0 ? len : 0;
}

/* The same batch of two copies, @len bytes of each. */
static inline bool batches_equal(const uint8_t *a, const uint8_t *b, uint32_t len)
{
	return memcmp(a, b, HEADER_EQUAL) == 0 &&
	       memcmp(a + THMQI_BATCH_HEADER_BYTES, b + THMQI_BATCH_HEADER_BYTES, len - THMQI_BATCH_HEADER_BYTES) == 0;
}

#endif
