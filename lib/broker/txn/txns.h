/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txns.h - transactions as meta has them: what who decides (txn.c) and who is asked about them (txn_list.c) share. On the core of meta only.
 */
#ifndef THMQI_BROKER_TXNS_H
#define THMQI_BROKER_TXNS_H

#include "txn.h"

enum state {
	OPEN,
	VOTING,   /* shards make durable what they have */
	STORING,  /* the decision is on its way to the log, or is to be tried again */
	PREPARED, /* that is stored */
	ENDING,   /* shards are told */
	IN_DOUBT  /* meta's log has failed under the decision, or a shard's under a commit: the next open knows */
};

struct txn {
	struct thmqi_list link;
	struct thmqi_list named; /* others whose names have the same hash; of one that is PREPARED, or has none, itself */
	struct txns *of;
	uint64_t id;
	uint64_t secret;   /* who knows it may end it */
	struct conn *conn; /* whose it is; NULL: nobody's */
	bool stays;        /* that may come back */
	bool prepared;     /* it was, and is stored as such */
	bool stored;       /* its decision is appended */
	bool voted;        /* which shards have something of it is known: SHARD_HAS */
	bool acks;         /* offsets too */
	bool storing_on;   /* storing is on its way */
	bool again;        /* a shard does not lead yet: it is told again */
	bool orphan;       /* another broker leads by now: it goes with the last answer */
	uint8_t state;     /* enum state */
	uint8_t decision;  /* enum txn_status that it is on its way to */
	uint32_t waiting;  /* shards */
	int status;
	uint64_t count;           /* shards': of messages and offsets */
	uint64_t wanted;          /* its client's; UINT64_MAX: not known */
	struct conn *asker;       /* who waits for an answer; NULL: nobody */
	uint64_t request;
	uint64_t since_ns;        /* when it was begun; once it is PREPARED, when that was stored. Since 1970 */
	uint64_t deadline_ns;     /* OPEN; by the core's time */
	uint64_t check_ns, next_check_ns; /* PREPARED */
	uint32_t check_max, checks;
	char name[256];
	struct thmqi_broker_post storing;
	uint32_t shard_count;
	uint8_t *shards; /* SHARD_* of each */
	struct thmqi_broker_post posts[]; /* one a shard: there and back */
};

#define SHARD_ANSWERED 1u
#define SHARD_HAS 2u
#define SHARD_ASKED 4u /* while it was told the end: it may have something that came behind that, and no end of its own */

#define NAMES 1024u /* a power of two */

/* A connection that decides about those of a name. */
struct watcher {
	struct thmqi_list link;
	struct conn *conn;
	char name[256];
};

/* One that is over. */
struct ended {
	uint64_t id;    /* 0: none */
	uint64_t index; /* of the batch that told so; 0: it is so for good */
};

struct txns {
	struct meta *meta;
	struct thmqi_map by_id;
	struct thmqi_list all; /* by id */
	struct thmqi_list named[NAMES]; /* by the hash of their names: a begin that has one looks for those before it */
	struct thmqi_list watchers;
	struct txn_counts counts;
	struct thmqi_timer timer;
	bool timer_on;
	bool recovered; /* all shards are there */
	uint64_t next;
	struct ended *ended; /* a ring */
	uint64_t ended_count;
	struct thmqi_map ended_ids; /* to OK_ENDED, or why not */
};

#endif
