/* SPDX-License-Identifier: Apache-2.0 */
/* publish.h - a broker's file of statistics, for its other files; publish.c says how it is written. */
#ifndef THMQI_BROKER_PUBLISH_H
#define THMQI_BROKER_PUBLISH_H

#include "base/hist.h"
#include "base/statfile.h"
#include "commitlog/times.h"
#include "reactor/reactor.h"

struct publication;
struct shard;
struct thmq_broker;
struct topic_here;

/* A shard's part of it. */
struct publisher {
	struct publication *to; /* NULL: nothing is published */
	struct thmqi_timer timer;
	bool idle;       /* the timer goes slowly: to be stirred once there is something to do */
	bool first;      /* of its core: it writes the core's row */
	uint32_t topic_cursor;
	uint32_t turns; /* of consumers: in some it is measured how old messages are */
	uint64_t *rows;     /* which rows of topics are taken, a bit each */
	uint64_t seen;      /* of what moves, as of the last time */
	const struct thmqi_log_times *times; /* NULL: no log */
	struct thmqi_hist delivered;         /* how old messages are when they are handed out */
};

/* Once all shards are open. What cannot be done is left out: a broker works without it. */
void thmqi_publish_open(struct thmq_broker *b);
void thmqi_publish_close(struct thmq_broker *b); /* once all shards are closed */
int thmqi_publish_begin(struct shard *s); /* on its core. 0 */
void thmqi_publish_end(struct shard *s);  /* likewise: its last numbers are written */
void thmqi_publish_stir(struct shard *s);
void thmqi_publish_topic_gone(struct shard *s, struct topic_here *t);

#endif
