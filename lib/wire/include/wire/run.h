/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - the bytes of runs and their records, as in <thundermq/log.h> and doc/format.md. Pure functions: what they are
 * given may come from a disk or a peer, so that every length is checked before it is believed. Knows no log and no queue.
 */
#ifndef THMQI_WIRE_RUN_H
#define THMQI_WIRE_RUN_H

#include <thundermq/log.h>

#include "base/base.h"

/* Bytes that a run takes in a batch: header, payload, padding to 8. Only for a length that was checked. */
static inline uint32_t thmqi_run_bytes(const struct thmq_run_header *run)
{
	return (uint32_t)sizeof(*run) + THMQI_ALIGN_UP(run->len, 8u);
}

static inline bool thmqi_run_covers(const struct thmq_run_header *run, uint64_t offset)
{
	return offset >= run->base_offset && offset - run->base_offset < run->span;
}

/* ------------------------------------------------------------- whole runs */

/* Set magic and checksums: nothing of the run may change afterwards. */
void thmqi_run_seal(struct thmq_run_header *run);

/* Is this a run header that passes its own check, whose run with its padding ends within @room bytes? */
bool thmqi_run_header_ok(const struct thmq_run_header *run, uint32_t room);

/* Does the payload pass its check? The header must have. */
bool thmqi_run_payload_ok(const struct thmq_run_header *run);

/* ---------------------------------------------------------------- producers */

/* The item of the state of a producer in a partition: THMQ_LOG_PRODUCER. */
uint64_t thmqi_producer_item(uint64_t producer_id, uint32_t partition);

/* A run that tells how far its producer has come, as a state of the log's own. */
struct thmqi_producer_run {
	struct thmq_run_header header;
	struct thmq_log_producer producer;
};

/* Does @run tell so? A relocated one is older than what is known. */
static inline bool thmqi_run_has_producer(const struct thmq_run_header *run)
{
	return run->producer_id && run->encoding != THMQ_RUN_STATE && !(run->flags & THMQ_RUN_RELOCATED);
}

/* Its state, whose header is whole but for checksums. */
void thmqi_run_producer(const struct thmq_run_header *run, struct thmqi_producer_run *ret);

/* ----------------------------------------------------------------- records */

/* Bytes of a run's record table, with the offset deltas. */
static inline uint64_t thmqi_run_table_bytes(uint32_t count, bool sparse)
{
	uint64_t deltas = sparse ? (uint64_t)count * 4 : 0;

	return (uint64_t)count * sizeof(struct thmq_record) + THMQI_ALIGN_UP(deltas, 8u);
}

/* Bytes of a record's body behind the table. */
static inline uint64_t thmqi_record_bytes(uint32_t size)
{
	return THMQI_ALIGN_UP((uint64_t)size, 8u);
}

/*
 * A walk over the records of a run, of a THMQ_RUN_PACKED without their payloads, or of a THMQ_RUN_KAFKA whose batch is not packed: of these it tells
 * key, tag, time and value, not the headers. It ends before anything that would lie outside of the run.
 */
struct thmqi_record_iter {
	const struct thmq_run_header *run;
	const struct thmq_record *record; /* the next one; NULL: a batch of Kafka's protocol, which body goes through */
	const uint32_t *delta;            /* NULL: offsets without gaps */
	const uint8_t *body, *end;
	uint32_t index; /* of the next one */
};

/* 0; -THMQ_ECORRUPT: the table does not fit into the run; -EINVAL: it has no records that can be walked (encoding). */
int thmqi_record_begin(struct thmqi_record_iter *it, const struct thmq_run_header *run);
/* 1 one record; 0 there are no more; -THMQ_ECORRUPT it lies outside of the run or contradicts itself. */
int thmqi_record_next(struct thmqi_record_iter *it, struct thmq_record_view *ret_view);
/* A tag's hash as stored; never 0. */
uint32_t thmqi_tag_hash(const void *tag, uint32_t len);
/* Are all records of a run with a table in order: lengths, and offsets that rise within the span? */
bool thmqi_run_records_ok(const struct thmq_run_header *run);

/* Has it a record table? */
static inline bool thmqi_run_has_table(const struct thmq_run_header *run)
{
	return run->encoding == THMQ_RUN_RECORDS || run->encoding == THMQ_RUN_PACKED;
}

/* ------------------------------------------------------------------ encode */

/* Fills a run record by record, in place: count and the sum of the bodies' bytes are known before. */
struct thmqi_run_writer {
	struct thmq_run_header *run;
	struct thmq_record *record;
	uint32_t *delta; /* NULL: not sparse */
	uint8_t *body, *end;
	uint32_t left; /* records to come */
};

/*
 * @len: payload bytes that @run has room for: thmqi_run_table_bytes() and thmqi_record_bytes() of each. Sets count, len, encoding,
 * flags, times; all other fields are zero then, and the caller's. Records have times from @first_time_ns on.
 * 0; -EINVAL: the table does not fit.
 */
int thmqi_run_writer_begin(struct thmqi_run_writer *w, struct thmq_run_header *run, uint32_t len,
			   uint32_t count, bool sparse, int64_t first_time_ns);
/*
 * The next record; @rec->offset counts only in a sparse run, and must not lie before base_offset, which is set then.
 * 0; -EINVAL: one too many, no room for its body, or a time or an offset that the table cannot express.
 */
int thmqi_run_writer_add(struct thmqi_run_writer *w, const struct thmq_record_view *rec);

#endif
