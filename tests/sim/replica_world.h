/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica_world.h - a cluster of copies in one thread and one virtual time: the real group and commit log on each node, over a disk
 * of its own that loses, tears and lies, and a network that loses, delays, doubles, damages and cuts. From one seed. Checked all
 * the time: what raft promises, and that what was acknowledged stays.
 */
#ifndef REPLICA_WORLD_H
#define REPLICA_WORLD_H

#include <stdio.h>

#include "base/base.h"
#include "commitlog/copies.h"
#include "commitlog/plant.h"
#include "disk/sim.h"
#include "memory/memory.h"
#include "reactor/reactor.h"
#include "replica/group.h"

#define MS 1000000ull
#define SECOND 1000000000ull
#define NODES_MAX 8u
#define BATCHES_MAX 16384u
#define IDS_MAX 16384u
#define TERMS_MAX 4096u
#define PARTITIONS 3u
#define PENDING_MAX 1024u

struct packet {
	struct packet *next; /* by due, then seq */
	uint64_t due, seq;
	uint32_t from, to; /* nodes */
	struct thmqi_message message;
	uint32_t len;
	uint8_t *bytes;
};

/* A batch as a node has it. */
struct seen {
	uint64_t term;
	uint32_t crc;
};

struct node {
	struct world *w;
	uint32_t number; /* 1 … */
	uint64_t id;     /* of the copy; another one each time it joins anew */
	bool used, up;
	bool joins; /* it was not among the first members */
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmqi_group *group;
	uint64_t offset; /* its clock is so far ahead */
	uint64_t restart_at;
	uint64_t dies_in; /* boundaries between duties; 0: not */
	bool died;
	bool disk_bad;      /* an error was planted, or it has no room: it may fail */
	bool failed;	    /* and has: somebody opens it anew */
	uint64_t mend_at;   /* then its disk is as it should be; 0: it is */
	uint64_t felt_until; /* what was asked of it before that may still fail */
	uint64_t lies_in;   /* so many writes of batches, the last of which is not done as was asked; 0: none */
	uint8_t lie;	    /* THMQI_DISK_SIM_LOST, … */
	bool struck;	    /* that was so: what its disk has is not to be believed; it does not come back with it */
	bool dead;	    /* it is gone for good, and is to be removed */
	uint64_t stands_until; /* its process is stopped */
	struct seen *log;   /* [BATCHES_MAX] */
	uint64_t known;     /* of the log */
	uint64_t committed; /* as told in this life */
	uint64_t durable;   /* as its log said when it went down */
	uint64_t kept;	    /* and what of that was committed: it is there when it comes back */
	struct {
		uint64_t index, id;
	} pending[PENDING_MAX]; /* appended here, not acknowledged */
	uint32_t pending_count;
};

struct link {
	uint64_t last_due;
	uint32_t packets; /* on their way */
	bool cut, blocked;
};

/* What is planted, and how wild it gets. */
struct plan {
	const char *name;
	uint32_t defects, log_defects, disk_flags;
	bool votes;     /* faults that are about who leads: slow devices, leaders that go */
	bool busy;      /* much is written */
	bool disks;     /* faults of disks above all */
	uint64_t seeds; /* to find it with; 0: the usual number */
};

struct world {
	const struct plan *plan;
	uint64_t seed, now, sequence;
	struct thmqi_prng prng;
	uint32_t nodes;  /* first members */
	uint32_t places; /* all */
	struct node node[NODES_MAX + 1];
	struct link link[NODES_MAX + 1][NODES_MAX + 1];
	struct packet *packets;
	bool healed;
	uint64_t next_copy_id;
	/* what is true for ever */
	struct seen *committed; /* [BATCHES_MAX] */
	uint64_t *committed_in; /* [BATCHES_MAX]; the term of who knew it first */
	uint64_t committed_count;
	uint64_t read_count; /* of these, as messages */
	uint64_t leader_of[TERMS_MAX], last_term; /* the newest one that had a leader */
	uint64_t next_id;
	bool acked[IDS_MAX], seen[IDS_MAX]; /* ids that were acknowledged; that were committed */
	uint64_t last_id[PARTITIONS];
	uint32_t acked_count;
	uint64_t trace; /* of all that happened */
	struct {
		uint64_t elections, crashes, packets, damaged, truncations, changes, transfers,
			joins, leaves, refused, trims, resets, windows, failures, lies, replaced, stops;
	} count;
};

/* A violation: says what and where, and ends the process. */
void world_fail(struct world *w, const struct node *n, const char *what, uint64_t number)
	__attribute__((noreturn));

void world_open(struct world *w, const struct plan *plan, uint64_t seed);
void world_close(struct world *w);
/* All nodes live up to @until. */
void world_run(struct world *w, uint64_t until);

void node_start(struct node *n);
void node_crash(struct node *n, uint64_t down_ns);
void node_mend(struct node *n); /* its disk */
void node_stop(struct node *n);             /* in good order */
void node_wipe(struct node *n);             /* what it had is gone, and so is its number */
struct node *world_leader(struct world *w); /* the one of the highest term, or NULL */
int node_append(struct node *n);            /* a message. 0, or why not */
struct node *node_of(struct world *w, uint64_t copy_id);

/* members.c: one step of a change of the membership, if any is to be made. */
void members_step(struct world *w);
void trim_step(struct world *w);                       /* what is old is to go */
bool is_member(struct world *w, const struct node *n); /* as the leader has it */
bool is_served(struct world *w, const struct node *n); /* and it gets batches */

/* checks.c */
void check_new_batches(struct node *n);
void check_opened(struct node *n); /* what it had for sure is there */
void check_committed(struct node *n, uint64_t index);
void check_leader(struct node *n, uint64_t term);
void check_matching(struct world *w);
void check_bytes(struct world *w);    /* all are up, and at rest */
void check_messages(struct world *w); /* what was acknowledged was committed */

static inline uint64_t chance(struct world *w, uint64_t below)
{
	return thmqi_prng_below(&w->prng, below);
}
static inline void trace(struct world *w, uint64_t a, uint64_t b)
{
	const uint64_t x[4] = {w->trace, w->now, a, b};

	w->trace = thmqi_hash64(x, sizeof(x));
}

#endif
