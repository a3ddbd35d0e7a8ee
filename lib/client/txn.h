/* SPDX-License-Identifier: Apache-2.0 */
/* txn.h - a session's transactions: what txn.c shares with those who send messages. */
#ifndef THMQI_CLIENT_TXN_H
#define THMQI_CLIENT_TXN_H

#include "internal.h"

/* What it acknowledges in one partition: said to the shard when it ends. */
struct txn_ack {
	struct client_link *link;
	uint32_t partition, group_id, stream;
	uint64_t epoch, next;
};

struct thmq_txn {
	struct thmqi_handle handle;
	struct thmq_session *session;
	struct thmq_txn *next; /* of the session's */
	uint64_t id, secret;
	uint64_t count;      /* messages sent */
	uint64_t streams[THMQI_STREAMS / 64]; /* bits: producers that sent some */
	struct txn_ack *acks;
	uint32_t ack_count, ack_room;
	bool ending; /* the broker was asked to: nothing is added any more */
	bool prepared;
	char name[256];
};

/* May @p send @opts->txn's messages with these attributes? 0; -EINVAL; -ENOTSUP */
int thmqi_txn_plan(const struct thmq_producer *p, const struct thmq_message_opts *opts, uint32_t has);
/* Is @id one that a message may still be sent in? */
bool thmqi_txn_takes(const struct thmq_session *s, uint64_t id);
/* A message of @id was sent. */
void thmqi_txn_sent(struct thmq_producer *p, uint64_t id);
void thmqi_session_txns_close(struct thmq_session *s, uint64_t deadline);

#endif
