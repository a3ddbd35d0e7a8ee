/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka.h - record batches of Kafka's protocol, version 2, as payloads of runs (THMQ_RUN_KAFKA): checked, walked, and turned into a record
 * table. Pure functions: what they are given may come from a disk or a peer, so that every length is checked before it is
 * believed. Knows no log, no queue and no codec. Source: kafka.apache.org/documentation, "Message Format"; doc/format.md
 */
#ifndef THMQI_WIRE_KAFKA_H
#define THMQI_WIRE_KAFKA_H

#include <thundermq/log.h>

#include "base/base.h"

#define THMQI_KAFKA_HEAD 61u           /* bytes before the records */
#define THMQI_KAFKA_COUNT_MAX 65536u   /* records of a batch that a broker takes */
#define THMQI_KAFKA_TAG "thmq.tag"     /* the header whose value is the message's tag */

struct thmqi_kafka_batch {
	const uint8_t *records; /* or what is to be unpacked */
	uint32_t len;
	uint32_t count;
	uint32_t codec; /* 0: they are not packed; 1 gzip, 2 snappy, 3 LZ4, 4 Zstandard */
	int64_t base_time_ms, max_time_ms;
	bool in_transaction; /* as it says: whose, its run says */
};

/* What the header of a run that holds the batch has to say. Of a packed one each tag is possible, and no key is known. */
struct thmqi_kafka_facts {
	uint64_t tag_filter;
	int64_t first_time_ns, last_time_ns; /* without a time in it: the one that was given */
	uint32_t count;
	bool keyed, in_transaction;
};

/* One record in place. */
struct thmqi_kafka_record {
	int64_t time_ns;
	const uint8_t *key, *value, *tag, *headers; /* NULL: none */
	const uint8_t *headers_end;
	uint32_t key_len, value_len, tag_len;
	uint32_t header_count; /* the tag is none of them */
	uint32_t headers_len;  /* bytes of these as the library writes them */
};

/* A walk over records that are not packed. */
struct thmqi_kafka_walk {
	const uint8_t *at, *end;
	int64_t base_time_ms, no_time_ns; /* the latter: time of a record that has none */
	uint32_t index, count;
};

/* The head of a batch of exactly @len bytes. 0; -THMQ_ECORRUPT; -EOPNOTSUPP the mark of a transaction's end; -THMQ_EVERSION an older format */
int thmqi_kafka_read(const void *payload, uint32_t len, struct thmqi_kafka_batch *ret);
/* The same of a batch that was just sent: checksum and every record, too. @now_ns: time of records that have none. Also -EMSGSIZE, -EINVAL */
int thmqi_kafka_check(const void *payload, uint32_t len, int64_t now_ns, struct thmqi_kafka_facts *ret);

/* @records: of the batch, unpacked. */
void thmqi_kafka_walk(struct thmqi_kafka_walk *w, const struct thmqi_kafka_batch *b, const void *records, uint32_t len,
		      int64_t no_time_ns);
/* 1 one; 0 there are no more, and nothing else; -THMQ_ECORRUPT; -EINVAL a key, a tag or headers that the library's messages cannot have */
int thmqi_kafka_next(struct thmqi_kafka_walk *w, struct thmqi_kafka_record *ret);

/* Bytes of a record's body, as of a run of records: key, tag, headers, value. */
uint32_t thmqi_kafka_body_len(const struct thmqi_kafka_record *r);
/* Writes these, and sets the table's entry but for its time. */
void thmqi_kafka_body(const struct thmqi_kafka_record *r, struct thmq_record *ret_record, uint8_t *to);

#endif
