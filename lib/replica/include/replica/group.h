/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.h - a shard with several copies: one log that is written by the copy that leads and taken, byte for byte, by the others.
 *
 * Each batch of the log is an entry of raft; consensus itself is cowsql/raft's raft_step(), which sees no bytes but those of
 * memberships. The owner appends to thmqi_group_log() as to any log; while another copy leads that is -THMQ_ENOTLEADER.
 * A group belongs to one core, and all its calls to the thread that drives it.
 */
#ifndef THMQI_REPLICA_GROUP_H
#define THMQI_REPLICA_GROUP_H

#include <stdbool.h>

#include <thundermq/log.h>

#include "reactor/reactor.h"

#define THMQI_MEMBERS_MAX 15u
#define THMQI_ADDRESS_MAX 256u /* with its zero */

enum thmqi_member_role {
	THMQI_MEMBER_SPARE = 0,   /* known, and gets nothing */
	THMQI_MEMBER_STANDBY = 1, /* gets all, and does not count */
	THMQI_MEMBER_VOTER = 2,
	THMQI_MEMBER_REMOVED = 255 /* of a change: it is none any more */
};

struct thmqi_member {
	uint64_t id; /* never 0, never given to another */
	uint32_t role;
	char address[THMQI_ADDRESS_MAX];
};

struct thmqi_members {
	uint32_t count;
	struct thmqi_member list[THMQI_MEMBERS_MAX];
};

/* NULL: it is none. */
static inline const struct thmqi_member *thmqi_members_find(const struct thmqi_members *m, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < m->count; i++)
		if (m->list[i].id == id)
			return &m->list[i];
	return NULL;
}

/* --------------------------------------------------------------------- wire */

enum thmqi_message_type {
	THMQI_MESSAGE_APPEND = 1, /* may have a batch behind it */
	THMQI_MESSAGE_APPENDED,
	THMQI_MESSAGE_VOTE,
	THMQI_MESSAGE_VOTED,
	THMQI_MESSAGE_SNAPSHOT,
	THMQI_MESSAGE_TIMEOUT_NOW
};

#define THMQI_MESSAGE_MAGIC 0x31475352u /* "RSG1" */
#define THMQI_MESSAGE_VERSION 1u

#define THMQI_MESSAGE_PRE_VOTE 1u
#define THMQI_MESSAGE_DISRUPT 2u /* VOTE: the leader wants it */
#define THMQI_MESSAGE_GRANTED 4u /* VOTED */
#define THMQI_MESSAGE_REMOVED 8u /* VOTED: who asks is no member by a membership that is committed: that of batch `index` */

/* Between two copies, little endian, 96 bytes. What `index` and `other` are depends on the type. */
struct thmqi_message {
	uint32_t magic;
	uint16_t version;
	uint8_t type;
	uint8_t flags;
	uint64_t group;
	uint64_t from, to; /* members */
	uint64_t term;
	uint64_t
		index; /* APPEND: the batch before; VOTE, TIMEOUT_NOW: last one; APPENDED: last one that is durable, or of a refusal the last one that may be the same; SNAPSHOT: it ends with; VOTED with REMOVED: of the membership */
	uint64_t index_term;  /* of it; APPENDED: index that was refused, or 0 */
	uint64_t commit;      /* APPEND; SNAPSHOT: index of the membership; APPENDED: of a refusal the term of `index`, or 0 */
	uint32_t batch_bytes; /* APPEND: behind this; 0: none */
	uint16_t features, capacity;
	uint32_t reserved[5];
	uint32_t crc; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct thmqi_message) == 96, "as in doc/format.md");

/* ------------------------------------------------------------------ options */

struct thmqi_group;

enum thmqi_role { THMQI_ROLE_FOLLOWER = 1, THMQI_ROLE_CANDIDATE = 2, THMQI_ROLE_LEADER = 3 };

struct thmqi_group_events {
	/* @leader: 0 none is known. Told after the log takes appends, or has ceased to. */
	void (*role)(void *ctx, uint32_t role, uint64_t term, uint64_t leader);
	/* All batches up to @index are committed: no crash of a minority takes them back. It rises. */
	void (*committed)(void *ctx, uint64_t index);
	/* The membership is @members now, by the batch @index, which may not be committed yet. */
	void (*members)(void *ctx, const struct thmqi_members *members, uint64_t index);
	/* This copy has failed and takes part no more: its device, or bytes that contradict each other. */
	void (*failed)(void *ctx, int error);
	/* Of a newcomer: all others that vote have met it, and it votes from now on. Once. */
	void (*known)(void *ctx);
	/* Others say that this copy was removed by a batch that is committed: it asks for no vote any more. False: one leads it again. */
	void (*removed)(void *ctx, bool is);
	void *ctx;
};

/* How messages leave; given by the transport. */
struct thmqi_group_wire {
	/*
	 * @buf (NULL: none) has message->batch_bytes behind the message; the transport takes a reference if it keeps it, and does not
	 * change it. 0; -EAGAIN full, thmqi_group_writable() comes; another error: it is lost, which is allowed.
	 */
	int (*send)(void *ctx, const struct thmqi_message *message, struct thmqi_buf *buf);
	void *ctx;
};

/* Planted defects, for tests that must be able to fail: rules that are not kept. */
enum thmqi_group_defect {
	THMQI_GROUP_EARLY_ACK = 1,   /* what was taken counts as durable */
	THMQI_GROUP_FORGET_VOTE = 2, /* term and vote are not stored */
	THMQI_GROUP_EARLY_VOTE = 4,  /* they are, but nobody waits for that */
	THMQI_GROUP_TRUST_BATCH = 8, /* received batches are not checked */
	THMQI_GROUP_NO_B1 = 16,
	THMQI_GROUP_NO_B2 = 32,
	THMQI_GROUP_NO_B3 = 64,
	THMQI_GROUP_NO_B4 = 128,
	THMQI_GROUP_NO_B5 = 256,
	THMQI_GROUP_NO_B6 = 512,
	THMQI_GROUP_EARLY_COMMIT = 1024, /* the leader's own write commits */
	THMQI_GROUP_NO_B8 = 2048,
	THMQI_GROUP_NO_B9 = 4096,
	THMQI_GROUP_NO_B12 = 8192,
	THMQI_GROUP_NO_B13 = 16384,
	THMQI_GROUP_NO_B14 = 32768,
	THMQI_GROUP_NO_B15 = 65536,
	THMQI_GROUP_NO_B16 = 131072
};

struct thmqi_group_opts {
	const struct thmq_log_opts *log; /* its events and ctx are the owner's; log_id is set */
	struct thmqi_group_events events;
	struct thmqi_group_wire wire;
	uint64_t id;    /* this copy's */
	uint64_t group; /* the same on all copies */
	/* At creation: the group begins with these, and all of them with the same. NULL: this copy joins a group that is there. */
	const struct thmqi_members *members;
	uint32_t heartbeat_ms; /* 0 means 30 */
	uint32_t
		election_ms; /* a leader that is not heard of for so long, up to twice, is replaced; 0 means 300 */
	/* The log's events live, renew and leave are asked where it leads, and what need not be kept goes: thmqi_group_trim(). */
	bool cleans;
	/* Its directory is new, and the way to others has them know it again: until all that vote have met it, it has no vote. */
	bool newcomer;
	uint32_t defects;     /* enum thmqi_group_defect */
	uint32_t log_defects; /* enum thmqi_log_defect */
	/* For tests, called between any two duties: true: this copy dies here. NULL: never. */
	bool (*dies)(void *ctx);
	void *dies_ctx;
};

/* 0; -EOPNOTSUPP without the engine; as thmq_log_open(). */
int thmqi_group_open(struct thmq_core *core, const struct thmqi_group_opts *opts,
		     struct thmqi_group **ret_group);
/* As thmq_log_close(). Nothing is sent any more; another copy finds out by itself: transfer first. */
int thmqi_group_close(struct thmqi_group *g, uint64_t timeout_ns);
/* The same; @gone is called with @arg once the device has nothing of it any more. */
int thmqi_group_close_notify(struct thmqi_group *g, uint64_t timeout_ns, void (*gone)(void *arg),
			     void *arg);
struct thmq_log *thmqi_group_log(struct thmqi_group *g);

/*
 * A message has come. @buf, with message->batch_bytes bytes, is the group's if this is 0: the caller gives its reference.
 * Return: 0; -EAGAIN again later, in this order; -EINVAL it is not for this group, or damaged; -THMQ_EFAILED.
 */
int thmqi_group_receive(struct thmqi_group *g, const struct thmqi_message *message,
			struct thmqi_buf *buf);
/* The way to @peer takes messages again, or has come back. */
void thmqi_group_writable(struct thmqi_group *g, uint64_t peer);

/* -------------------------------------------------------------------- state */

struct thmqi_group_state {
	uint32_t role; /* enum thmqi_role */
	int32_t failed;
	uint64_t term, leader;
	uint64_t last, durable, committed; /* indexes of batches */
	uint64_t members_index;
	bool members_committed;
	bool transferring;
};
void thmqi_group_state(const struct thmqi_group *g, struct thmqi_group_state *ret);
/* While it leads: up to it all voters have it on their media; not more than is committed. */
uint64_t thmqi_group_everywhere(const struct thmqi_group *g);
/* While it leads: how many batches of its log member @id is not known to have on its medium. UINT64_MAX: nothing is known of it. */
uint64_t thmqi_group_behind(const struct thmqi_group *g, uint64_t id);
const struct thmqi_members *thmqi_group_members(const struct thmqi_group *g);

/* --------------------------------------------------------------- membership */

/*
 * One step of a change of the membership, by the leader: @member is added as a spare, gets another role, or is removed; not the leader itself. It is in force at once and holds once it is committed: events->members, state.members_committed.
 * Return: 0; -THMQ_ENOTLEADER; -EAGAIN another change, or the leader's first batch, is not committed yet; -EINVAL more than one
 * voter comes or goes, or there would be none.
 */
int thmqi_group_change(struct thmqi_group *g, const struct thmqi_member *member);
/* Does @id have nearly all? As a spare or standby; begun by the first call. 1 yes; 0 not yet; -ETIMEDOUT it is too slow: begin again; -THMQ_ENOTLEADER … */
int thmqi_group_catch_up(struct thmqi_group *g, uint64_t id);
/* Another voter is to lead, @id or any (0). Appends wait meanwhile. 0; -THMQ_ENOTLEADER; -EINVAL; -EAGAIN */
int thmqi_group_transfer(struct thmqi_group *g, uint64_t id);
/*
 * Retention, by the leader: whole segments of batches before @index, which is committed, may go on all copies; nothing of the owner's that
 * counts may lie there. A copy that has not got them begins anew behind them. Return: 0; -EAGAIN something must be committed first: again
 * later; -EINVAL; -THMQ_ENOTLEADER …
 */
int thmqi_group_trim(struct thmqi_group *g, uint64_t index);

#endif
