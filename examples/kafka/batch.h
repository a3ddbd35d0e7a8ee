/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.h - record batches of Kafka, version 2 of their format: read with every byte checked, and made. Knows no topic, no library and
 * no socket. Source: kafka.apache.org/documentation, "Message Format".
 */
#ifndef KAFKA_BATCH_H
#define KAFKA_BATCH_H

#include "codec.h"

#define BATCH_HEADER 61u            /* bytes before the records */
#define BATCH_BYTES_MAX (64u << 20) /* of the records of one batch, unpacked */
#define BATCH_COMPRESSION 7         /* in attributes: how the records are compressed */
#define BATCH_CODEC_LAST 4          /* those above are none */
#define BATCH_LOG_TIME 8
#define BATCH_TRANSACTIONAL 16
#define BATCH_CONTROL 32

#define BATCH_COUNT_MAX 65536 /* records of a batch that is stored as it is: the library's own limit */

struct batch {
	struct text all; /* its bytes, as they came */
	int64_t base_offset, base_time_ms, max_time_ms, producer_id;
	int32_t last_delta, base_sequence, count;
	int16_t attributes, producer_epoch;
	struct in records; /* the records, or the compressed bytes */
};

struct record {
	int64_t time_ms;
	int32_t offset_delta;
	struct text key, value; /* either may be null */
	int32_t header_count;
	struct in headers; /* record_header() reads them */
};

/* CRC-32C of @len bytes; @crc: of those before them, 0 at the beginning */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/**
 * batch_read() - the next batch of a set of records
 * @set: goes on behind it
 * Return: 1 one; 0 there are no more; else an error code of the protocol, negative
 */
int batch_read(struct in *set, struct batch *ret_batch);

/**
 * batch_unpack() - the records of a compressed batch
 * @room: holds them; batch->records lies in it afterwards. Where nothing is compressed it is not used
 * Return: 0, or an error code of the protocol, negative
 */
int batch_unpack(struct batch *batch, struct out *room);

/* The next record. Return: 0, or an error code of the protocol, negative. */
int record_read(const struct batch *batch, struct in *records, struct record *ret_record);
/* The next header of a record: false, there are no more (or they are no headers, which record_read() has checked). */
bool record_header(struct in *headers, struct text *ret_name, struct text *ret_value);

/* A batch that is being made behind what @out holds. */
struct batch_making {
	struct out *out;
	size_t at;
	int64_t base_offset, last_offset, base_time_ms, max_time_ms;
	int32_t count;
};

/* Bytes that a record takes at most beside key, value and headers. */
#define RECORD_OVERHEAD 41u

void batch_begin(struct batch_making *m, struct out *out, int64_t base_offset,
		 int64_t base_time_ms);
/* @headers: header_count of them, as they lie in a record */
void batch_add(struct batch_making *m, int64_t offset, int64_t time_ms, struct text key,
	       struct text value, const struct out *headers, int32_t header_count);
void batch_add_header(struct out *headers, struct text name, struct text value);
/* @last_offset: the last one that it stands for, which may be behind that of its last record */
void batch_end(struct batch_making *m, int64_t last_offset);

/* unpack.c: @type 1 gzip, 2 snappy, 3 lz4, 4 zstd. Return: 0, or an error code of the protocol, negative. */
int unpack(int type, const uint8_t *data, size_t len, struct out *ret);

#endif
