/* SPDX-License-Identifier: Apache-2.0 */
/* engine_raft.h - what the two readers of <raft.h> share: events and duties (engine.c), messages and memberships (engine_message.c). */
#ifndef THMQI_REPLICA_ENGINE_RAFT_H
#define THMQI_REPLICA_ENGINE_RAFT_H

#include <raft.h>

#include "commitlog/copies.h"
#include "engine.h"

struct thmqi_engine {
	struct raft raft;
	struct thmqi_engine_opts opts;
	uint64_t change_index; /* newest change that it was told of */
	bool started;
	bool outdated; /* what this step answers is of an older term: B10 */
	uint64_t asked_term; /* B16: of the batch that the message of this step goes on behind; 0: none */
	uint64_t nobody;  /* B12: a voter that there is none of; nothing goes there */
	uint64_t waits_since; /* B12: the last time that nobody led, by raft's clock */
	uint32_t waited;      /* and how often */
	bool stands;          /* B12: in this step, though it is no voter */
	struct thmqi_members install; /* of the last duty to install */
};

static inline bool breaks(const struct thmqi_engine *e, uint32_t rule)
{
	return (e->opts.defects & rule) != 0;
}

/* raft wants a place that an entry's bytes are part of; nobody reads, writes or frees this one. */
extern const uint64_t thmqi_engine_token;
#define TOKEN ((void *)(uintptr_t)&thmqi_engine_token)

/* B16: the last batch up to @index that is of no later term than @term; where the log begins, if none is. */
uint64_t thmqi_engine_back(const struct thmqi_engine *e, uint64_t index, uint64_t term);
uint64_t thmqi_engine_term_of(const struct thmqi_engine *e, uint64_t index); /* 0: it is not known */

/* engine_message.c */
int thmqi_engine_error(int rv); /* of raft's, as ours */
int thmqi_engine_configuration(const struct thmqi_members *m, struct raft_configuration *ret);
int thmqi_engine_encode(const struct thmqi_members *m,
			struct raft_buffer *ret); /* raft_free() its base */
int thmqi_engine_members(const struct raft_configuration *c, struct thmqi_members *ret);
void thmqi_engine_send(struct thmqi_engine *e, const struct raft_message *m);
void thmqi_engine_message(const struct thmqi_message *m,
			  struct raft_message *ret); /* type and sender */
/* A message that is no APPEND. Return: 1 it is to be passed on; 0 it is dropped; or an error. */
int thmqi_engine_convert(struct thmqi_engine *e, const struct thmqi_message *message,
			 const struct thmqi_members *members, struct raft_message *ret);

#endif
