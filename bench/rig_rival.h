/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_rival.h - what a user would take instead of the library, behind one table: a store or a server that acknowledges
 * a message only when it is on the medium, in the settings in which it does that best. Each is optional at build time
 * and at run time. A server is started on a directory of its own and reached through this machine only.
 *
 * A rival that fails in the midst ends the program (bench_die()): no figure is better than a wrong one.
 */
#ifndef RIG_RIVAL_H
#define RIG_RIVAL_H

#include "bench.h"

struct rig_rival {
	const char *name; /* for people */
	const char *word; /* in the names of lines */
	/* @dir: an empty directory. Return: NULL, and why in *@ret_why, where it is not to be had here. */
	void *(*open)(const char *dir, const char **ret_why);
	/* @count messages of @len bytes in batches of .batch; returns when all are durable. */
	void (*store)(void *rival, uint64_t count, uint32_t len);
	/* one message, durable */
	void (*one)(void *rival, uint32_t len);
	void (*rest)(void *rival);  /* between two measurements: drop what is stored; may be NULL */
	void (*close)(void *rival); /* the directory stays: the caller removes it */
	uint32_t (*batch)(uint32_t len); /* messages a transaction or, of a server, in one go */
	const char *how;                 /* its settings, in words */
	bool server;
};

extern const struct rig_rival rig_rival_lmdb;
extern const struct rig_rival rig_rival_rocksdb;
extern const struct rig_rival rig_rival_sqlite;
extern const struct rig_rival rig_rival_redis;
extern const struct rig_rival rig_rival_nats;
extern const struct rig_rival rig_rival_nats_copies; /* three servers that keep the same */
extern const struct rig_rival rig_rival_rabbit_copies;

#define RIG_RIVAL_LEN_MAX 65536u

/* Transactions of an embedded store: 1,000 messages, of large ones fewer. */
static inline uint32_t rig_rival_store_batch(uint32_t len)
{
	return len > 4096 ? 100 : 1000;
}

#endif
