/* SPDX-License-Identifier: Apache-2.0 */
/* transactions.h - what the files about transactions share: transactions.c does what clients ask for, transactions_kept.c keeps it. */
#ifndef KAFKA_TRANSACTIONS_H
#define KAFKA_TRANSACTIONS_H

#include "kafka.h"

enum phase {
	PHASE_NONE = 'n', /* nothing since its producer began */
	PHASE_OPEN = 'o',
	PHASE_COMMITTED = 'c',
	PHASE_ABORTED = 'a',
	/* in memory only: */
	PHASE_LOST = 'l',     /* it was open when the broker went */
	PHASE_APPLYING = 'p', /* committed; its groups' offsets are on their way */
	PHASE_DOUBT = 'd'     /* the device failed under the commit: the next start knows */
};

struct pending {
	struct pending *next;
	struct text key, value; /* they lie behind it */
};

struct transaction {
	struct settled_call call; /* first */
	struct transaction *next; /* of its bucket */
	struct server *server;
	struct store_txn in; /* PHASE_OPEN */
	uint64_t number;
	int64_t producer_id, deadline_ns;
	int64_t used_ns;          /* since 1970: what is kept of it was written then */
	int32_t timeout_ms;
	int16_t epoch;
	int32_t asked_epoch; /* who came with this one got the one above it; -1: nobody */
	enum phase phase;
	bool broken;              /* something of it was not taken: it cannot be committed */
	bool redo;                /* at the start: it was committed */
	struct request *request;  /* that is at it; NULL: none */
	void (*answer)(struct request *r, struct transaction *x, int error);
	struct pending *offsets, **last;
	uint32_t offset_count;
	uint32_t name_len; /* with the "/" */
	char name[];
};

struct transaction **transaction_place(struct server *s, struct text name);
struct transaction *transaction_make(struct server *s, struct text name); /* or the one that is there; NULL: no memory */
void transaction_forget(struct transaction *x);                            /* its groups' offsets */
/* Nobody has used it for long, and nothing is under way: it is forgotten, here and where it was kept. */
void transaction_expire(struct transaction **at, int64_t now_ns);
int64_t transaction_now_ns(void); /* since 1970 */
/* What is kept of it is as it is now. @call: NULL: nobody waits for that. Return: an error of the library */
int transaction_save(struct transaction *x, struct settled_call *call);
/* A message of it in TRANSACTIONS_TOPIC, @key and @value. Return: an error of the library */
int transaction_log(struct transaction *x, struct sending *g, struct text key, struct text value);
/* It is committed: what groups have in it becomes so, once this is settled. */
int transaction_apply(struct transaction *x, struct sending **ret);
void transaction_applied(struct transaction *x);

#endif
