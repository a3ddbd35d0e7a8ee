/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn.h - transactions: doc/transactions.md tells how they work. Two files that share what is here: what a shard has of them (txn_here.c: which
 * messages and offsets are whose, up to where consumers see, what was aborted), and who decides (txn.c, on the core of meta). They talk by
 * posts only: a shard asks whether a transaction is one; it is told to vote, to commit, to abort, and says when that is durable.
 */
#ifndef THMQI_BROKER_TXN_H
#define THMQI_BROKER_TXN_H

#include "../meta/meta.h"

/* As stored, by a shard and by meta. */
enum txn_status {
	TXN_IS_OPEN = 1,
	TXN_IS_COMMITTED = 2,
	TXN_IS_ABORTED = 3,
	TXN_IS_PREPARED = 4, /* meta only */
	TXN_IS_OVER = 5      /* meta only, and with copies: was committed, and all shards have its end */
};

/* STATE_TXN, of a shard: a transaction's messages in one partition, or what it acknowledges there for a group. */
struct state_txn {
	uint64_t txn;
	uint32_t partition;
	uint32_t group; /* 0: messages */
	uint64_t begin; /* offset of the first one; of a group: where it goes on */
	uint64_t end;   /* once it is over: behind the last one; of a group: epoch of who acknowledged */
	uint32_t status;
	uint32_t reserved;
};
_Static_assert(sizeof(struct state_txn) == 40, "as in doc/format.md");

/* STATE_DECISION, of meta. Without a name where it is not PREPARED. */
struct state_decision {
	uint64_t txn;
	uint32_t status;
	uint32_t check_max;
	uint64_t check_ns;
	uint64_t time_ns; /* when it was made, ns since 1970 */
	char name[256];
	uint64_t secret; /* who knows it may end it; 0: nobody, or an older library's */
};
#define STATE_DECISION_LEN_MIN offsetof(struct state_decision, name)

/* ------------------------------------------------------------------- a shard */

/* One of a shard's state_txn. Aborted ones are of no transaction any more: they say which runs are not seen. */
struct txn_item {
	struct state_txn is;
	struct thmqi_list link;    /* of its txn_here */
	struct thmqi_list at_link; /* messages: of its txn_at, first offset first */
	struct txn_here *here;     /* NULL: it is over */
};

/* A transaction that is not over here. */
struct txn_here {
	uint64_t id;
	struct txns_here *of;
	struct thmqi_list items;
	uint64_t count; /* messages and offsets, as they were said */
	bool voted;     /* takes no more */
	bool asks;      /* whether it is one is not known */
	bool asking;    /* and meta was asked */
	bool over;      /* it goes once that is answered */
	struct thmqi_list job_link; /* while it has something to do */
	uint8_t what;               /* enum txn_job; 0: nothing */
	struct thmqi_broker_post *job; /* who is told; NULL: nobody */
	struct thmqi_broker_post ask;
};

enum txn_job { TXN_VOTE = 1, TXN_COMMIT, TXN_ABORT };

/* A vote's value: how many messages and offsets, and … */
#define TXN_VOTE_HAS (1ull << 63)  /* the shard has something of it: it is to be told the end */
#define TXN_VOTE_ACKS (1ull << 62) /* offsets among that */
#define TXN_VOTE_COUNT (TXN_VOTE_ACKS - 1)

/* A partition with messages of transactions that are not over: consumers see what lies below the first of them. */
struct txn_at {
	struct partition *partition;
	struct thmqi_list items;
	uint64_t visible; /* up to where they would see without that */
};

struct txns_here {
	struct shard *shard;
	struct thmqi_map open;  /* struct txn_here, by id */
	struct thmqi_map items; /* struct txn_item, by the item of their state */
	struct thmqi_map at;    /* struct txn_at, by partition */
	struct thmqi_list jobs;
	struct thmqi_list full; /* of those that end: the log had no room for it; they are jobs again when it has */
	uint32_t sweep_at; /* so many items: look which of them hide nothing any more */
	uint32_t lives;    /* of the broker's txn_lives: the last one that was asked */
};

/* What a transaction is told: posts to a shard, whose arg is the struct txn; they come home by thmqi_txn_answered(). */
void thmqi_txn_vote(struct thmqi_broker_post *post);
void thmqi_txn_commit(struct thmqi_broker_post *post);
void thmqi_txn_abort(struct thmqi_broker_post *post);

/* ---------------------------------------------------------------------- meta */

void thmqi_txn_answered(struct thmqi_broker_post *post);
/* On the core of meta: what is @id? */
enum txn_answer { TXN_GOES_ON, TXN_HAS_VOTED, TXN_IS_NONE, TXN_NOT_KNOWN /* who leads knows, and this one does not lead; or it is not certain yet: ask again */ };
enum txn_answer thmqi_txn_ask(struct meta *m, uint64_t id, uint32_t shard);

bool thmqi_txns_request(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r); /* false: it is none of theirs */
int thmqi_txns_replay(struct meta *m, const struct thmq_log_run *run);
int thmqi_txns_renew(struct meta *m, uint64_t item);
void thmqi_txns_fence(struct meta *m, const char *name); /* who had it is none any more */
void thmqi_txns_conn_closed(struct meta *m, struct conn *c);
bool thmqi_txns_wait(const struct meta *m); /* for answers of shards */
void thmqi_txns_recover(struct meta *m);    /* all shards are there; or it leads */
void thmqi_txns_reset(struct meta *m);      /* the log tells it again */
void thmqi_txns_close(struct meta *m);

/* txn_list.c: for whoever administers them */
struct txn_counts {
	uint64_t begun, committed, aborted; /* by this broker, in this life */
	uint64_t checks;                    /* times that somebody was asked about one that is prepared */
	uint64_t open;                      /* at the moment, the ones that are just being ended too */
	uint64_t prepared;                  /* likewise; not among the open ones */
};
/* Those above @last, of which some find room in @reply; 0: all. */
void thmqi_txns_list(const struct meta *m, struct thmqi_reply *reply, uint64_t last);
struct txn_counts thmqi_txns_counts(const struct meta *m);

#endif
