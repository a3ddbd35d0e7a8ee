/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - consensus as events in and duties out. Behind it is cowsql/raft 0.22.1, which engine.c and engine_message.c alone
 * know; the former is where the rules B1 … B16 that its defects ask for are kept.
 */
#ifndef THMQI_REPLICA_ENGINE_H
#define THMQI_REPLICA_ENGINE_H

#include "members.h"

struct thmqi_engine;

/* What an event asks for, in this order. */
struct thmqi_duties {
	bool vote; /* term and vote have changed: durable before anything of this event is sent or stored */
	uint64_t
		noop; /* index of a batch of nothing that is to be appended, by who has just come to lead; 0 */
	uint64_t
		take; /* index of the first of the batches received that is to be taken; what is there from it on goes first; 0 */
	bool install; /* the log is to be replaced by another copy's up to install_index */
	uint64_t install_index, install_term,
		install_members_index; /* with thmqi_engine_install_members() */
	bool role;                     /* it has changed */
	bool commit;                   /* the commit index has risen */
};

struct thmqi_engine_opts {
	uint64_t id, group;
	uint32_t heartbeat_ms, election_ms;
	uint32_t seed;
	uint32_t defects; /* enum thmqi_group_defect */
	/* A message is to be sent once the event's duties before it are done. APPEND: with the @batches that follow message->index. */
	void (*send)(void *ctx, const struct thmqi_message *message, uint32_t batches);
	void *ctx;
};

/* What a log tells of itself when it was opened. */
struct thmqi_engine_start {
	uint64_t now_ms, term, voted_for;
	uint64_t begin_index, begin_term; /* behind which it begins */
	uint64_t last;
	const struct thmqi_membership *membership; /* the newest; index 0: none */
	/* Stretches of one term, oldest first. False: there are no more. */
	bool (*terms)(void *ctx, uint32_t at, uint64_t *ret_index, uint64_t *ret_term);
	void *ctx;
};

/* A batch that was received, behind others of the same message. */
struct thmqi_engine_entry {
	uint64_t term;
	bool change;
	struct thmqi_membership membership; /* of a change */
};
#define THMQI_ENGINE_ENTRIES 8u

int thmqi_engine_open(const struct thmqi_engine_opts *opts,
		      struct thmqi_engine **ret_engine); /* 0; -ENOMEM; -EOPNOTSUPP */
void thmqi_engine_close(struct thmqi_engine *e);

/* Events. Each: 0 and what it asks for; or an error, after which this copy takes part no more, unless another is named. */
int thmqi_engine_start(struct thmqi_engine *e, const struct thmqi_engine_start *s,
		       struct thmqi_duties *ret);
/* While it leads a batch was formed; @membership NULL: no change. */
int thmqi_engine_submit(struct thmqi_engine *e, uint64_t now_ms, uint64_t index, uint64_t term,
			const struct thmqi_membership *membership, struct thmqi_duties *ret);
/* Entries of an APPEND, message->index being what is before the first. */
int thmqi_engine_append(struct thmqi_engine *e, uint64_t now_ms,
			const struct thmqi_message *message,
			const struct thmqi_engine_entry *entries, uint32_t count,
			struct thmqi_duties *ret);
/* Any other message; @members is a SNAPSHOT's. */
int thmqi_engine_receive(struct thmqi_engine *e, uint64_t now_ms,
			 const struct thmqi_message *message, const struct thmqi_members *members,
			 struct thmqi_duties *ret);
int thmqi_engine_persisted(struct thmqi_engine *e, uint64_t now_ms, uint64_t index,
			   struct thmqi_duties *ret);
const struct thmqi_members *thmqi_engine_install_members(const struct thmqi_engine *e);
int thmqi_engine_installed(struct thmqi_engine *e, uint64_t now_ms,
			   const struct thmqi_duties *install, struct thmqi_duties *ret);
int thmqi_engine_timeout(struct thmqi_engine *e, uint64_t now_ms, struct thmqi_duties *ret);
/* The change of batch @index was committed. */
int thmqi_engine_changed(struct thmqi_engine *e, uint64_t now_ms, uint64_t index,
			 const struct thmqi_members *members, struct thmqi_duties *ret);
/* The log begins behind @index now. */
int thmqi_engine_dropped(struct thmqi_engine *e, uint64_t now_ms, uint64_t index, uint64_t term,
			 const struct thmqi_membership *membership, struct thmqi_duties *ret);
int thmqi_engine_transfer(
	struct thmqi_engine *e, uint64_t now_ms, uint64_t id,
	struct thmqi_duties *ret); /* -THMQ_ENOTLEADER, -EINVAL: nothing has changed */
int thmqi_engine_catch_up(struct thmqi_engine *e, uint64_t now_ms, uint64_t id,
			  struct thmqi_duties *ret); /* likewise */
/* 1 it has; 0 not yet; -ENOENT it was not begun; -ETIMEDOUT; -THMQ_ENOTLEADER; -EINVAL */
int thmqi_engine_caught_up(struct thmqi_engine *e, uint64_t id);
/* By the leader: the last batch that this member is known to have on its medium; 0: none is known. */
uint64_t thmqi_engine_match(const struct thmqi_engine *e, uint64_t id);

/* State. */
uint32_t thmqi_engine_role(const struct thmqi_engine *e); /* enum thmqi_role */
uint64_t thmqi_engine_term(const struct thmqi_engine *e);
uint64_t thmqi_engine_voted_for(const struct thmqi_engine *e);
uint64_t thmqi_engine_leader(const struct thmqi_engine *e); /* 0: none is known */
uint64_t thmqi_engine_committed(const struct thmqi_engine *e);
/* While it leads: up to it @members that vote have all stored what it has. */
uint64_t thmqi_engine_everywhere(const struct thmqi_engine *e, const struct thmqi_members *members);
uint64_t
thmqi_engine_stored(const struct thmqi_engine *e); /* last one that it was told to be durable */
uint64_t
thmqi_engine_timeout_ms(const struct thmqi_engine *e); /* when thmqi_engine_timeout() is due */
bool thmqi_engine_transferring(const struct thmqi_engine *e);
/* It is no voter for all that it knows. Where it leads, it is to hand over as soon as a voter has what it has. */
bool thmqi_engine_is_outsider(const struct thmqi_engine *e);
/* B6: may the membership be changed into @to? 0; -EAGAIN not yet; -EINVAL never so */
int thmqi_engine_may_change(const struct thmqi_engine *e, const struct thmqi_members *from,
			    const struct thmqi_members *to);

#endif
