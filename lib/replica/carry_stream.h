/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry_stream.h - what goes between two nodes, as bytes: a greeting each way, then messages with their batches. Pure functions; nothing is
 * believed before it was checked. doc/format.md is their specification.
 */
#ifndef THMQI_REPLICA_CARRY_STREAM_H
#define THMQI_REPLICA_CARRY_STREAM_H

#include "replica/courier.h"

#define CARRY_HELLO_MAGIC 0x31485352u /* "RSH1" */
#define CARRY_HELLO_VERSION 1u
#define CARRY_CALLS 1u
#define CARRY_ANSWERS 2u
#define CARRY_CAN_CHANGE_KEYS 1u /* of TLS, meanwhile */

struct carry_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t bytes;
	uint32_t kind;     /* CARRY_CALLS, CARRY_ANSWERS */
	int32_t status;    /* the answer's: 0, or a negative errno: it ends here */
	uint64_t from, to; /* nodes */
	uint64_t instance; /* by chance, at each open of a carrier */
	uint32_t lane;
	uint32_t silence_ms; /* who says this calls anew after so long a silence */
	char cluster[THMQI_CLUSTER_NAME_MAX + 1]; /* zeros behind */
	uint32_t can;                             /* CARRY_CAN_…; others are ignored */
	uint8_t mark[24];                         /* struct thmqi_node_mark; zeros: none */
	uint32_t list;                            /* of struct thmqi_courier_opts */
	uint32_t reserved[3];
	uint32_t crc; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct carry_hello) == 128, "as in doc/format.md");

void thmqi_carry_hello_seal(struct carry_hello *h);
bool thmqi_carry_hello_begins(const void *bytes, uint32_t len);
/* 0; -EPROTO these are no such bytes; -THMQ_EVERSION */
int thmqi_carry_hello_check(const struct carry_hello *h, uint32_t kind);

/*
 * A message that is the carrier's own: its sender lives, and what its node suffers from is in the first reserved word: a negative errno, 0 nothing. Who
 * does not know that yet says 0 there, and does not look.
 */
#define CARRY_BEAT 255u

enum carry_news { CARRY_MORE = 0, CARRY_MESSAGE = 1, CARRY_BATCH = 2 };

/* Reads messages in pieces of any size. */
struct carry_stream {
	struct thmqi_message message; /* the last one */
	uint8_t *
		to; /* where what is left of its batch goes: set after CARRY_MESSAGE if left is not 0; NULL: nowhere */
	uint32_t left;
	uint32_t have; /* bytes of the message that is being read */
};

/*
 * Takes bytes from *@at on, up to @end, and moves *@at. Return: CARRY_MORE all are taken; CARRY_MESSAGE s->message is complete and was checked,
 * s->left bytes follow; CARRY_BATCH these are complete (not told where left was 0); -EPROTO.
 */
int thmqi_carry_stream_take(struct carry_stream *s, const uint8_t **at, const uint8_t *end);
/* @bytes of the batch were put to s->to by somebody else. True: it is complete. */
bool thmqi_carry_stream_placed(struct carry_stream *s, uint32_t bytes);
void thmqi_carry_beat(struct thmqi_message *ret, uint64_t from, uint64_t to, int trouble);
int thmqi_carry_beat_trouble(const struct thmqi_message *beat);

#endif
