/* SPDX-License-Identifier: Apache-2.0 */
/* seal_format.h - the bytes of a sealed index; doc/format.md is their specification. */
#ifndef THMQI_COMMITLOG_SEAL_FORMAT_H
#define THMQI_COMMITLOG_SEAL_FORMAT_H

#include "base/base.h"

#define SEAL_MAGIC 0x31494854u /* "THI1" */
#define SEAL_TEMPORARY "index.tmp"
#define SEAL_BYTES_MAX (2ull << 30) /* section offsets and what is read at once are bounded */

enum seal_section { SEAL_BATCHES = 1, SEAL_PARTITIONS, SEAL_RUNS, SEAL_KEYS, SEAL_STATES, SEAL_STATE_BYTES, SEAL_SECTIONS = 6 };

struct seal_section_entry {
	uint32_t kind; /* enum seal_section */
	uint32_t count;
	uint64_t offset; /* in the file */
	uint64_t bytes;
	uint32_t crc; /* of these bytes */
	uint32_t reserved;
};

struct seal_header {
	uint32_t magic;
	uint32_t version;
	uint64_t position; /* of its segment */
	uint8_t log_id[16];
	uint64_t first_index; /* of the segment's first batch */
	uint64_t last_index;
	uint64_t last_term;
	uint32_t prev_crc; /* what the first batch continues */
	uint32_t last_crc; /* header_crc of the last batch: the index fits this segment and no other */
	uint32_t section_count;
	uint32_t reserved;
	struct seal_section_entry sections[SEAL_SECTIONS];
	uint8_t zero[4096 - 72 - SEAL_SECTIONS * 32 - 4];
	uint32_t header_crc; /* of all before it */
};
_Static_assert(offsetof(struct seal_header, sections) == 72, "as in doc/format.md");
_Static_assert(sizeof(struct seal_header) == 4096, "one block");

struct seal_partition {
	uint32_t partition;
	uint32_t first; /* of its runs, in the section of runs */
	uint32_t count;
	uint32_t reserved;
	uint64_t messages; /* offsets that its runs cover */
	uint64_t last_term; /* of the batch of its last run */
};
_Static_assert(sizeof(struct seal_partition) == 32, "as in doc/format.md");

struct seal_run {
	uint64_t base_offset;
	int64_t time_max_ns;
	uint32_t batch; /* place in the section of batches */
	uint32_t at;    /* bytes from the begin of the batch */
	uint32_t span;
	uint32_t reserved;
};
_Static_assert(sizeof(struct seal_run) == 32, "as in doc/format.md");

struct seal_state {
	uint32_t kind;
	uint32_t batch;
	uint64_t item;
	uint64_t term;
	uint32_t at;     /* bytes from the begin of the batch */
	uint32_t offset; /* of the payload, in the section of state bytes */
	uint32_t len;
	uint32_t reserved;
};
_Static_assert(sizeof(struct seal_state) == 40, "as in doc/format.md");

#endif
