/* SPDX-License-Identifier: Apache-2.0 */
/* meta.h - what meta.c (topics, groups) and group.c (membership) share; on the meta core only. */
#ifndef THMQI_BROKER_META_H
#define THMQI_BROKER_META_H

#include "../internal.h"

struct topic {
	struct state_topic state;
	struct thmqi_list groups;
	struct thmqi_map groups_by_name; /* by its hash: those of which no other one has the same */
	uint32_t group_count;
	bool groups_unmapped; /* some are not in it */
	struct thmqi_list producers; /* with a name: struct named */
	uint64_t lonely_ns; /* temporary: since when it has no members; 0: it has, or nobody has looked */
	uint32_t partitions_coming; /* more than there are: so many there will be soon */
};

struct named {
	struct thmqi_list link; /* of its topic */
	struct state_producer state;
};

/* One consumer of a group: a stream of a connection to the meta shard. */
struct member {
	struct thmqi_list link; /* of the group, in the order of joining */
	struct conn *conn; /* NULL: it is away, and may come back */
	uint32_t stream;
	uint32_t beat;    /* last seen of the link's */
	uint64_t id;      /* its client's choice; 0: it does not come back */
	uint64_t beat_ns; /* when it changed, or went away */
	uint64_t timeout_ns;
	uint32_t has, share; /* partitions that are meant for it, of so many: assign.c */
	uint32_t rank;       /* groups.c */
	uint64_t machine;    /* thmqi_machine_id(); 0: not known */
	int cpu, node;       /* where it reads, if on this machine; -1: not known */
	char instance[THMQ_INSTANCE_MAX + 1]; /* "": none */
};

/* Who reads a partition. */
struct assignment {
	struct member *owner; /* NULL: free */
	struct member *target, *before; /* before: while targets are chosen */
	uint64_t epoch;              /* of the owner */
	uint64_t revoke_deadline_ns; /* 0: not asked to let go */
};

struct group {
	struct thmqi_list link; /* of its topic */
	uint32_t id;
	struct topic *topic;
	struct thmqi_list members;
	uint32_t member_count;
	uint32_t assignor; /* enum thmq_assignor of its oldest member */
	uint32_t partitions; /* of its topic when it was made; 0: not known */
	struct assignment *assignments; /* one a partition; made with the first member */
	uint32_t assignment_room;
	char name[256];
};

/* A change on its way: appended, not durable yet; then carried to the shards; then answered. Once it is stored it must come
 * true, so that all memory it takes is there from its begin. */
struct meta_change {
	struct meta *meta;
	struct conn *conn; /* NULL: gone meanwhile */
	uint64_t request_id;
	uint32_t op;      /* enum thmqi_op */
	uint32_t waiting; /* shards that have not done it yet */
	int status;
	uint32_t stream;     /* JOIN */
	bool left;           /* JOIN: the client has given up on it */
	bool shared;         /* JOIN: the group is all that is wanted */
	bool orphan;         /* another broker leads by now: what becomes of it is in the log */
	uint64_t timeout_ns; /* JOIN */
	uint64_t member;     /* JOIN */
	uint32_t assignor;   /* JOIN */
	uint64_t machine, cpu; /* JOIN: where it reads, as the request says */
	char instance[THMQ_INSTANCE_MAX + 1]; /* JOIN */
	uint64_t value;      /* PRODUCER_OPEN: what the shards answered: the highest */
	uint32_t partitions_before; /* ALTER: it gets more than these; 0: as many as it had */
	struct state_topic topic;
	struct state_group group;
	struct state_producer producer;
	struct topic *new_topic; /* CREATE: becomes one of meta's */
	struct group *new_group; /* JOIN: likewise */
	struct named *new_named; /* PRODUCER_OPEN: likewise */
	struct meta_change *next;
	struct thmqi_broker_post posts[]; /* one a shard: there and back */
};

#define DRAINS_MAX 32u

struct drain {
	uint64_t id;
	uint64_t index; /* of the batch that says so */
	bool on;        /* it is not to lead */
};

struct meta {
	struct thmq_broker *broker;
	struct shard *shard;
	struct topic **topics; /* sorted by name */
	uint32_t topic_count, topic_size;
	uint32_t next_topic, next_partition, next_group,
		next_shard; /* ids and the place of the next */
	uint32_t next_volatile_topic, next_volatile_partition, next_volatile_group;
	struct state_cluster *cluster; /* NULL: none stored */
	struct state_counters counters; /* as last stored */
	struct meta_change *changes;   /* on their way */
	struct carry *carries, **carries_last; /* follow.c: what another copy changed and is not committed */
	bool follows_no_more;          /* its broker closes: they stay here */
	uint64_t next_epoch;
	uint64_t next_producer;
	struct thmqi_timer timer; /* looks after silent members */
	bool timer_on;
	uint32_t member_count;
	struct txns *txns; /* txn.c; NULL: there never was one */
	/* drain.c: what is known of nodes of the cluster; and how often another one was to lead in this one's place, in a term */
	struct drain drains[DRAINS_MAX];
	uint32_t drain_count, drain_tries, spared_turn;
	uint64_t drain_term, drain_tried_ns;
};

struct topic *thmqi_meta_topic(struct meta *m, const char *name, uint32_t *ret_place);
struct topic *thmqi_meta_topic_by_id(struct meta *m, uint32_t id);
struct group *thmqi_meta_group(struct topic *t, const char *name);
struct group *thmqi_meta_group_by_id(struct topic *t, uint32_t id);
struct named *thmqi_meta_named(struct topic *t, const char *name);
void thmqi_meta_named_add(struct topic *t, struct named *n, const struct state_producer *state); /* @n is the topic's from now on */
/* Room for all topics that are on their way and one more. */
int thmqi_meta_topics_reserve(struct meta *m);
/* Reserved before; @t is meta's from now on. Nobody has the name. */
void thmqi_meta_topic_add(struct meta *m, struct topic *t, const struct state_topic *state);
void thmqi_meta_topic_remove(struct meta *m, struct topic *t);
void thmqi_meta_group_add(struct topic *t, struct group *g, const struct state_group *state); /* @g is the topic's from now on */
void thmqi_meta_group_removed(const struct group *g); /* from its topic's list */
uint32_t thmqi_meta_shard_of(const struct meta *m, const struct state_topic *t, uint32_t partition);
int thmqi_meta_topic_store(struct meta *m, const struct state_topic *t, struct pending **ret_pending);

/* grow.c: partitions that are added to a topic */
bool thmqi_grow_ranges_ok(const struct state_topic *t); /* as they are stored */
uint32_t thmqi_grow_index(const struct state_topic *t, uint32_t partition); /* of that id; UINT32_MAX: it has none such */
uint32_t thmqi_grow_range_count(const struct state_topic *t);
uint32_t thmqi_grow_ids_end(const struct state_topic *t); /* behind all that it has or has room for */
bool thmqi_grow_share_ids(const struct state_topic *a, const struct state_topic *b);
/* @state, which is @t's, is to have @count. 0: also that there are as many; -EINVAL fewer; -EOPNOTSUPP; -ENOSPC; -ENOMEM */
int thmqi_grow_plan(struct meta *m, struct topic *t, struct state_topic *state, uint32_t count);
void thmqi_grow_end(struct meta *m, const struct state_topic *state); /* its shards have them: they are seen */

/* change.c */
void thmqi_change_group_delete(struct meta *m, struct conn *c, uint64_t id, struct group *g, bool force);
void thmqi_change_topic_delete(struct meta *m, struct topic *t); /* nobody asked for it */
void thmqi_change_group_again(struct meta *m, const struct group *g); /* its topic's shards are to know it */

/* allowed.c */
int thmqi_request_ask(struct conn *c, const struct thmqi_request *r); /* 0; -EACCES */
bool thmqi_request_only_reads(const struct thmqi_request *r);

/* drain.c: nodes that are not to lead */
int thmqi_drain_replay(struct meta *m, const struct thmq_log_run *run);
int thmqi_drain_renew(struct meta *m, uint64_t id);

/* assign.c */
void thmqi_assign(const struct meta *m, struct group *g); /* the targets of its partitions; it has members */

/* groups.c: false: it is none of its requests */
bool thmqi_groups_request(struct meta *m, struct conn *c, uint64_t id, const struct thmqi_request *r);

/* group.c */
int thmqi_group_join(struct meta *m, struct group *g, const struct meta_change *wish);
void thmqi_group_away(struct meta *m, struct conn *c, uint32_t stream); /* it may come back */
void thmqi_group_expel(struct meta *m, struct group *g); /* all its members */
int thmqi_group_reserve(struct topic *t, uint32_t partitions); /* room for so many in all its groups; -ENOMEM */
void thmqi_group_grown(struct meta *m, struct topic *t); /* they are there */
void thmqi_group_timer_start(struct meta *m); /* there is something to look after */
/* @id: which member it is, also where it came over another connection, and is away; 0: that says who it is by its stream */
void thmqi_group_leave(struct meta *m, struct conn *c, uint32_t stream, uint64_t id);
void thmqi_group_drop(struct meta *m, struct group *g); /* its topic was deleted */
void thmqi_group_timer_init(struct meta *m);

#endif
