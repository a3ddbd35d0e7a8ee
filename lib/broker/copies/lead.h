/* SPDX-License-Identifier: Apache-2.0 */
/* lead.h - what a shard has besides where it is one of several copies; of its core, but for what is under the lock. */
#ifndef THMQI_BROKER_LEAD_H
#define THMQI_BROKER_LEAD_H

#include "../internal.h"
#include "replica/courier.h"

struct lead {
	struct shard *shard;
	struct thmqi_group
		*group; /* NULL: it could not be opened again, and the shard has failed */
	char *dir;
	/* as the group has told */
	uint32_t role; /* enum thmqi_role */
	uint64_t term, leader;
	uint64_t committed;
	uint64_t begin_index; /* of the first batch of the term in which it leads */
	uint64_t marked_term; /* in which something was appended so that all have the same … */
	uint64_t marked_index; /* … which is this */
	bool serves; /* it leads, and all up to begin_index is committed: what the log told is true */
	/* nobody leads: bereft.c */
	uint64_t bereft_ns;  /* since when nobody leads, as is known here; 0: somebody does */
	uint64_t reads_ns;   /* since when it hands out what is committed */
	uint64_t known;      /* the highest index that is known to be committed, perhaps from before the log was opened anew */
	uint64_t told_index; /* of the last run that was told and could not be noted as not committed */
	bool rebuild; /* something that was told was taken back: all of it is to be told again */
	uint64_t taken_back; /* from this index on; UINT64_MAX: nothing was */
	bool reopens; /* its log was closed for that, and is opened once the device has nothing of it any more: … */
	struct leaving *leaving; /* … while this is there */
	struct thmqi_list waiting; /* connections that are welcomed once it serves */
	struct thmqi_timer timer;
	bool wire_full; /* a message was refused for now */
	struct thmqi_courier *courier; /* to brokers in other processes; NULL: they are in this environment */
	struct thmqi_carried carried;
	bool full; /* as of the last look: trouble.c */
	uint64_t went_ns, went_term; /* meta: when it began to hand over since there is no room, and in which term it led then */

	/* a ring of PENDING_COUNT: where it leads, runs that are committed and wait for all copies; else, those that are not committed */
	struct pending *all;
	uint64_t all_head, all_tail;
	struct mailbox *box;  /* what came from other brokers of the environment: cluster.c */
	struct letter *taken; /* of these, to be given to the group, in order */
};

/* A copy of a shard, as the one that leads it saw it last. */
struct lacking {
	uint64_t id; /* of its node; 0: none */
	uint64_t batches; /* that it is not known to have; UINT64_MAX: nothing is known of it */
};

/* What was asked for last, and how far the copies are: under the lock. */
struct roll {
	pthread_mutex_t lock;
	uint64_t number; /* 0: nothing was */
	uint64_t asked_ns; /* when it was asked for last */
	struct thmqi_member wish;
	int status[THMQ_SHARD_COUNT_MAX + 1]; /* by shard: 0 it has it; -EAGAIN not yet; an error: it never will */
	/* the nodes as meta's core saw them last: thmqi_broker_nodes() */
	struct thmqi_node_state seen[THMQI_NODES_MAX];
	uint32_t seen_count;
	uint64_t seen_leader, seen_term;
	struct lacking lacking[THMQ_SHARD_COUNT_MAX + 1][THMQI_MEMBERS_MAX]; /* by shard; pages that no shard writes take no memory */
};

/* Something of the term in which it leads is appended. True: it was before, or is now. */
bool thmqi_lead_mark_term(struct shard *s);
/*
 * Of a shard that serves: is something of its term committed? Until then what an older leader appended, and nobody that is there has, may come true: whoever has it
 * may lead next. False: it is on its way, ask again.
 */
bool thmqi_lead_is_certain(struct shard *s);

/* lead.c: all connections end; those that wait begin */
void thmqi_lead_send_away(struct shard *s, int error);
void thmqi_lead_welcome_all(struct shard *s);

/* bereft.c: reading where nobody leads */
void thmqi_bereft_note_role(struct shard *s);
void thmqi_bereft_committed(struct shard *s, uint64_t index); /* what waited for it is visible */
void thmqi_bereft_begin_serving(struct shard *s); /* it leads: what is not committed is its own from now on */
void thmqi_bereft_step(struct shard *s); /* from time to time */
bool thmqi_bereft_of_meta(const struct shard *s); /* for long nobody is known to lead meta. Any shard's core */
void thmqi_bereft_end(struct shard *s);

/* roll.c: a step nearer to it, from time to time */
void thmqi_roll_step(struct shard *s);
bool thmqi_roll_has(const struct thmq_broker *b, uint64_t id); /* does it belong to the cluster, as far as is known here? While nothing is: yes. Any core */
void thmqi_roll_forget(struct thmq_broker *b); /* another one leads: what was wished for here may be over by the time that this one leads again */

/* drain.c: nodes that are not to lead */
bool thmqi_drain_is(struct meta *m, uint64_t id);
/* Is there another one that may lead, is reached, and suffers from nothing? */
bool thmqi_drain_has_heir(struct meta *m);
/* Who is to lead now in place of this one, which does; its own number: nobody else. */
uint64_t thmqi_drain_heir(struct meta *m);
/*
 * Whoever leads in place of this one is not to be one that is drained, nor, if it can be helped, one in trouble: *@ret_id, 0 where nobody is. -EBUSY all others are
 * drained; -EAGAIN those that are not are away.
 */
int thmqi_drain_spared(struct meta *m, uint64_t *ret_id);
/* Of the one that leads. 0 it is so, for good; -EAGAIN not yet: ask again; -EBUSY nobody else may lead; -EINVAL there is no such node; an error of the log */
int thmqi_drain_request(struct meta *m, uint64_t id, bool on);

/* trouble.c: what a broker suffers from. A negative errno; 0: nothing, or nothing is known */
int thmqi_trouble_own(const struct thmq_broker *b, const struct shard **ret_failed); /* NULL: it has no room, or nothing. Any core */
int thmqi_trouble_of(const struct shard *meta, const struct thmqi_member *other);
void thmqi_trouble_step(struct shard *s); /* from time to time */
bool thmqi_trouble_is_to_go(struct shard *meta); /* if it leads: another one had better */

/* afar.c: brokers in other processes */
bool thmqi_afar_is(const char *address);
/* Where a member's carrier listens, of its address. 0; -EINVAL */
int thmqi_afar_url(const char *address, char *ret_url, size_t size);
/* And where clients find it. Zeros behind. */
void thmqi_afar_client_url(const char *address, char *ret_url, size_t size);
int thmqi_afar_open(struct shard *s);   /* on its core, before its group; nothing to do in one environment */
int thmqi_afar_join(struct shard *s);   /* its group is open */
void thmqi_afar_leave(struct shard *s); /* before that closes */
void thmqi_afar_close(struct shard *s);

#endif
