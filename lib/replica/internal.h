/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - a group's parts. An event goes to the engine (engine.c), what that asks for is done here (group.c): term and vote
 * are stored, received batches taken, messages sent (peers.c); membership.c changes who belongs to it. One core, no locks.
 */
#ifndef THMQI_REPLICA_INTERNAL_H
#define THMQI_REPLICA_INTERNAL_H

#include "commitlog/copies.h"
#include "engine.h"
#include "members.h"
#include "replica/group.h"

#define INBOX_COUNT                                                                                \
	64u /* messages that wait for term and vote to be stored, or for the device: powers of two */
#define OUTBOX_COUNT 64u /* messages of one event, without APPENDs */

struct waiting {
	struct thmqi_message message;
	struct thmqi_buf *buf; /* NULL: none */
};

/* Another member, while this copy leads: what it is still to be sent. */
struct peer {
	struct thmqi_group *group;
	uint64_t id;
	uint64_t next, end; /* batches: next … end - 1 */
	bool blocked;       /* the way to it is full */
	bool owes_heartbeat;
	uint64_t heartbeat_index, heartbeat_term;
	bool owes_snapshot;
	struct thmqi_message snapshot;
	bool stale; /* what is being read is not wanted any more */
	bool again; /* something was refused for now */
	struct thmqi_log_fetch fetch;
	struct thmqi_buf *ready; /* batch `next`, or NULL */
	uint32_t ready_len;
};

struct thmqi_group {
	struct thmq_core *core;
	struct thmqi_group_opts opts;
	struct thmq_log_opts log_opts;
	struct thmq_log_events owner; /* the log's owner's */
	struct thmq_log_events events; /* and what the log is given */
	void *owner_ctx;
	struct thmq_log *log;
	struct thmqi_engine *engine;
	struct thmqi_poller poller;
	struct thmqi_timer timer;
	uint64_t timer_ms; /* what it is set to */
	int failed;
	bool tell_failed, closing;
	bool damaged; /* something that another copy lacks cannot be read here: another one is to lead */
	uint64_t damaged_ms; /* not before this it is asked for again */
	void (*gone)(void *arg); /* at the end; NULL: nobody wants to know */
	void *gone_arg;

	/* the duties of the last event, while its term and vote are being stored */
	bool parked, unparked;
	struct thmqi_duties duties;
	struct thmqi_buf *taking[THMQI_ENGINE_ENTRIES]; /* received with it */
	uint32_t taking_count;
	uint64_t taking_index;                                   /* of the first */
	struct thmqi_engine_entry entries[THMQI_ENGINE_ENTRIES]; /* as they are looked at */

	uint32_t heir; /* B12: place of the member that is to lead in its place, next */
	uint32_t role; /* as told */
	uint64_t leader, term;
	uint64_t committed; /* as told */
	bool tell_role;

	struct thmqi_membership membership;
	bool members_committed, tell_members;
	const struct thmqi_membership *changing; /* of the batch that is being formed */
	uint64_t trim_batch,
		trim_index; /* once that one is committed, what lies before this one goes */
	uint64_t dropped;   /* what the engine was told to have gone */
	struct thmqi_log_origin install; /* of the last SNAPSHOT */

	uint64_t removed; /* others say that it was, by this batch; 0: not that it knew */
	bool tell_removed;
	bool newcomer, joins; /* it has no vote yet; it was given no members */
	uint64_t heard[THMQI_MEMBERS_MAX], probe_ms; /* newcomer: of whom; when to try again */
	uint32_t heard_count;

	struct waiting inbox[INBOX_COUNT];
	uint32_t inbox_head, inbox_tail; /* free running */
	struct thmqi_message outbox[OUTBOX_COUNT];
	uint32_t outbox_count;
	struct peer peers[THMQI_MEMBERS_MAX];
	uint32_t peer_count;
};

static inline uint64_t thmqi_group_now_ms(const struct thmqi_group *g)
{
	return g->core->now_ns / 1000000u;
}
static inline bool thmqi_group_breaks(const struct thmqi_group *g, uint32_t rule)
{
	return (g->opts.defects & rule) != 0;
}
void thmqi_group_fail(struct thmqi_group *g, int error);
/* What an event asked for; @rc is what the engine returned. */
void thmqi_group_handle(struct thmqi_group *g, int rc, const struct thmqi_duties *d);

/* membership.c */
int thmqi_group_renew(struct thmqi_group *g); /* a batch says the same membership again */

/* peers.c */
void thmqi_peers_send(void *ctx, const struct thmqi_message *message,
		      uint32_t batches);          /* of the engine: is put down */
void thmqi_peers_set(struct thmqi_group *g);      /* the membership has changed */
void thmqi_peers_drop(struct thmqi_group *g);     /* this copy leads no more */
uint32_t thmqi_peers_pump(struct thmqi_group *g); /* what was put down leaves. Return: work done */
bool thmqi_peers_wait(const struct thmqi_group *g); /* something was refused that nobody tells of */
/* 0; -EINVAL it is none of this version, or was damaged on its way */
int thmqi_message_check(const struct thmqi_message *m);

/* retain.c */
#define STATE_TRIM 1u /* item of the log's own states: up to which batch all may go */
/* A SNAPSHOT's bytes: where the log begins, then the membership there. Return: their number */
uint32_t thmqi_retain_encode(const struct thmqi_group *g, const struct thmqi_message *snapshot,
			     void *ret);
int thmqi_retain_decode(const void *data, uint32_t len, struct thmqi_log_origin *ret_origin,
			struct thmqi_membership *ret); /* 0; -EINVAL … */
#define THMQI_RETAIN_BYTES_MAX (32u + THMQI_MEMBERSHIP_BYTES_MAX)
void thmqi_retain_note(
	struct thmqi_group *g,
	const struct thmq_log_run *run);           /* a state of item STATE_TRIM was replayed */
uint32_t thmqi_retain_step(struct thmqi_group *g); /* what may go goes. Return: work done */
int thmqi_retain_install(struct thmqi_group *g,
			 const struct thmqi_duties *d); /* the log is another copy's from here on */

/* newcomer.c: of one that is */
void thmqi_newcomer_heard(struct thmqi_group *g, uint64_t id);
bool thmqi_newcomer_is_known(struct thmqi_group *g); /* true: it is none any more */

/* removed.c: of one that was */
void thmqi_removed_say(const struct thmqi_group *g, struct thmqi_message *m); /* a refusal that leaves says so */
void thmqi_removed_hear(struct thmqi_group *g, const struct thmqi_message *m); /* one has come */
void thmqi_removed_over(struct thmqi_group *g); /* somebody leads it */

/* inbox.c */
int thmqi_inbox_step(struct thmqi_group *g); /* the next messages: 1 done; 0 none, or not now */
void thmqi_inbox_clear(struct thmqi_group *g);

#endif
