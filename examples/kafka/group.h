/* SPDX-License-Identifier: Apache-2.0 */
/* group.h - what group.c (rounds and members), group_join.c (who comes) and group_list.c (who asks) know of a group. */
#ifndef KAFKA_GROUP_H
#define KAFKA_GROUP_H

#include "kafka.h"

#define GROUP_NAME_MAX 249u
#define PROTOCOLS_MAX 64

enum group_state { GROUP_EMPTY, GROUP_JOINING, GROUP_SYNCING, GROUP_STABLE };

struct protocol {
	char *name;
	struct text metadata; /* of malloc(), as all of a member's */
};

struct member {
	struct member *next;
	char id[320];
	char *instance; /* NULL: none */
	char client_id[64], host[80];
	struct protocol protocols[PROTOCOLS_MAX];
	int32_t protocol_count;
	int64_t session_ns, rebalance_ns, expires_ns;
	bool promised;                 /* it got its id, and was told to come again with it */
	struct request *joins, *syncs; /* what it waits for */
	struct text assignment;
};

struct group {
	struct group *next;
	char name[GROUP_NAME_MAX + 1];
	char *protocol_type, *protocol;
	enum group_state state;
	int32_t generation;
	struct member *members, *leader;
	uint32_t member_count; /* promised ones too */
	int64_t deadline_ns;   /* GROUP_JOINING: who has not joined by then is out */
	bool patient;          /* it waits for its deadline also if all have joined */
};

struct group *group_find(struct server *s, struct text name);
struct group *group_make(struct server *s, struct text name);
bool group_name_is_good(struct text name);
struct member *member_find(const struct group *g, struct text id);
struct member *member_by_instance(const struct group *g, struct text instance);
/* Members that wait for the others; *ret_all: all of them. */
uint32_t group_count_joining(const struct group *g, uint32_t *ret_all);
void member_touch(struct member *m);
void member_protocols_free(struct member *m);
const struct protocol *member_protocol(const struct member *m, const char *name);
void member_drop(struct request *r);
void join_answer(struct request *r, const struct group *g, const struct member *m, int error);
void sync_answer(struct request *r, const struct group *g, const struct member *m, int error);
void member_remove(struct group *g, struct member *m);
void round_check(struct group *g);   /* are all there? Then the next generation begins */
void round_prepare(struct group *g); /* all have to join again */
char *text_alloc(struct text t);     /* with a final NUL, of malloc() */
void group_free(struct server *s, struct group *g);

#endif
