/* SPDX-License-Identifier: Apache-2.0 */
/* group.h - what group.c (rounds and members), group_join.c (who comes), group_list.c (who asks) and group_time.c (who is late) know of a group. */
#ifndef KAFKA_GROUP_H
#define KAFKA_GROUP_H

#include "kafka.h"

#define GROUP_NAME_MAX 249u
#define PROTOCOLS_MAX 16
#define GROUPS_BYTES_MAX (256u << 20) /* that all members have brought, or were given to do */

enum group_state { GROUP_EMPTY, GROUP_JOINING, GROUP_SYNCING, GROUP_STABLE };

struct protocol {
	char *name;
	struct text metadata; /* of malloc(), as all of a member's */
};

struct member {
	struct member *next;
	struct group *group;
	char *id, *client_id, *host;
	char *instance; /* NULL: none */
	struct protocol *protocols;
	int32_t protocol_count;
	uint32_t bytes; /* of them */
	int64_t session_ns, rebalance_ns, expires_ns;
	bool promised;                 /* it got its id, and was told to come again with it */
	struct request *joins, *syncs; /* what it waits for */
	struct text assignment;
};

struct group {
	struct node node;
	struct server *server;
	uint32_t place; /* of server->due */
	int64_t due_ns; /* nothing is to be done before */
	char *protocol_type, *protocol;
	enum group_state state;
	int32_t generation;
	struct member *members, *leader;
	uint32_t member_count; /* promised ones too */
	int64_t deadline_ns;   /* GROUP_JOINING, GROUP_SYNCING: who has not joined, or asked what to do, by then is out */
	bool patient;          /* it waits for its deadline also if all have joined */
	char name[];
};

struct group *group_find(struct server *s, struct text name);
struct group *group_make(struct server *s, struct text name);
bool group_name_is_good(struct text name);
struct member *member_find(const struct group *g, struct text id);
struct member *member_by_instance(const struct group *g, struct text instance);
/* Members that wait for the others; *ret_all: all of them. */
uint32_t group_count_joining(const struct group *g, uint32_t *ret_all);
struct group *group_next(const struct server *s, const struct group *g); /* all, from NULL to NULL */
void member_touch(struct member *m); /* it is there: missed when its session's time has gone by */
void member_protocols_free(struct member *m);
const struct protocol *member_protocol(const struct member *m, const char *name);
void member_drop(struct request *r);
void join_answer(struct request *r, const struct group *g, const struct member *m, int error); /* @m: NULL with an error, but where it is told its id */
void join_answer_back(struct request *r, const struct group *g, const struct member *m, const char *was);
void sync_answer(struct request *r, const struct group *g, const struct member *m, int error);
void member_remove(struct group *g, struct member *m);
void member_leave(struct group *g, struct member *m); /* and what the others have to do about it */
void round_check(struct group *g);   /* are all there? Then the next generation begins */
void round_prepare(struct group *g); /* all have to join again */
char *text_alloc(struct text t);     /* with a final NUL, of malloc() */
void group_free(struct server *s, struct group *g);

/* group_time.c */
bool group_due_add(struct group *g); /* false: no memory */
void group_due_remove(struct group *g);
void group_due(struct group *g, int64_t ns); /* it is to be looked at by then */

#endif
