/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_queue.h - servers as message queues, behind one table: work that is acknowledged message by message, messages that several groups
 * read, requests and their replies. Messages, and that they are done, are stored as they are by rig_rival.h's servers. A rival that fails in the midst
 * ends the program.
 */
#ifndef RIG_QUEUE_H
#define RIG_QUEUE_H

#include "bench.h"

#define RIG_QUEUE_GROUPS_MAX 3u

struct rig_queue {
	const char *name; /* for people */
	const char *word; /* in the names of lines */
	const char *how;  /* its settings, in words */
	/* @dir: an empty directory. Return: NULL, and why in *@ret_why, where it is not to be had here. */
	void *(*open)(const char *dir, const char **ret_why);
	/* @count messages of @len bytes, durable; once. NULL: .again does */
	void (*fill)(void *queue, uint64_t count, uint32_t len);
	/* Before each .take, where what was taken is gone: the same for so many groups. NULL: all lies there still */
	void (*again)(void *queue, uint64_t count, uint32_t len, unsigned groups);
	/*
	 * So many groups that are new get all @count that lie there; each message is acknowledged by itself, or (@each false) as many with one word as suits it best.
	 * Returns when all acknowledgements are answered.
	 */
	void (*take)(void *queue, uint64_t count, unsigned groups, bool each);
	/* A request of 64 bytes, by one connection, and its reply by another. */
	void (*ask)(void *queue);
	bool ask_durable; /* both are stored; else neither is */
	void (*close)(void *queue);
};

extern const struct rig_queue rig_queue_redis;
extern const struct rig_queue rig_queue_nats;
extern const struct rig_queue rig_queue_rabbit;

#endif
