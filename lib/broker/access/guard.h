/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.h - who is at the other end of a connection, what he may do, and how much of it: access.c, limits.c; and what a shard knows of the
 * topics of its partitions: topics.c. Nothing here is asked per message: what is without rules and limits has none of it on its way.
 */
#ifndef THMQI_BROKER_GUARD_H
#define THMQI_BROKER_GUARD_H

#include <pthread.h>
#include <thundermq/access.h>

#include "base/base.h"

struct conn;
struct partition;
struct rules;
struct shard;
struct state_topic;
struct thmq_broker;

/* ------------------------------------------------------------------- limits */

/*
 * So many a second, in bursts of a tenth of a second. What was taken is paid for with time: at_ns is when all of it will be paid. More is
 * given once that has come, at least one piece, however large. Shared by shards: two that take at once may both get the last of it.
 */
struct rate {
	_Atomic uint64_t per_s; /* 0: no limit */
	_Atomic uint64_t at_ns; /* monotonic */
};

enum { RATE_IN_BYTES, RATE_IN_MESSAGES, RATE_OUT_BYTES, RATE_OUT_MESSAGES, RATES };

struct rates {
	struct thmqi_list link; /* of the broker's, by topic */
	uint32_t refs;
	uint32_t topic_id;
	struct rate rate[RATES];
};

/* What both may have now, at most. False: nothing. */
struct allowance {
	uint64_t bytes, messages;
};
bool thmqi_rates_allow(struct rates *topic, struct rates *client, bool out, uint64_t now_ns, struct allowance *ret);
void thmqi_rates_take(struct rates *topic, struct rates *client, bool out, uint64_t now_ns, uint64_t bytes,
		      uint64_t messages);
void thmqi_rates_set(struct rates *r, const struct thmq_limits *limits);
/* How long it takes until they may have something again. */
uint64_t thmqi_rates_wait(const struct rates *topic, const struct rates *client, bool out, uint64_t now_ns);
bool thmqi_limits_any(const struct thmq_limits *limits); /* of those that are rates */

/* -------------------------------------------------------------------- clients */

/* All connections of one identity, of any shard. */
struct client {
	struct thmqi_list link;
	uint32_t refs;
	bool limited; /* rates has some */
	uint32_t outstanding; /* 0: no limit */
	struct rates rates;
	char identity[THMQ_IDENTITY_MAX + 1];
};

/* What topics a connection may use, as it was found out last: by id, which is never given again. */
#define GRANTS 16u
struct grant {
	uint32_t topic_id; /* 0: none */
	uint8_t asked, allowed; /* bits of enum thmq_operation */
};

struct guard {
	pthread_mutex_t lock; /* control path only: clients, rates and rules come and go */
	struct thmqi_list clients, rates;
	_Atomic(struct rules *) rules; /* of the file; NULL: there is none */
	struct thmqi_list retired;     /* rules that were replaced: a core may still look at them */
	int (*ask)(void *ctx, const struct thmq_access *what);
	void (*audit)(void *ctx, const struct thmq_access *what);
	void *ctx;
	bool on; /* there are rules, or somebody to ask, or limits */
	struct thmq_limits limits; /* of clients that nothing else limits */
	char *file;
	_Atomic uint64_t denied;
};

int thmqi_guard_open(struct thmq_broker *b); /* by the broker's options, with a text */
void thmqi_guard_close(struct thmq_broker *b);
int thmqi_guard_renew(struct thmq_broker *b); /* the file is read again; -ENOENT there is none */
/* A new connection: it gets its client, or is refused. 0; -EACCES; -ENOMEM */
int thmqi_guard_enter(struct conn *c);
void thmqi_guard_leave(struct conn *c);
/* May it? @topic: NULL where there is none. 0; -EACCES, and whoever audits has heard of it. */
int thmqi_guard_ask(struct conn *c, uint32_t operation, const char *topic);
bool thmqi_guard_allows(struct conn *c, uint32_t operation, const char *topic); /* nobody hears of it */
/* Because of a limit what it sends, or with @out gets, of @p waits: it hears so, and whoever audits; not each time. */
void thmqi_guard_waits(struct conn *c, const struct partition *p, uint32_t stream, bool out);
/* Of a partition's topic, remembered: for frames that name only that. */
int thmqi_guard_ask_partition(struct conn *c, uint32_t operation, const struct partition *p);

/* rules.c: a file of them; text and error as in <thundermq/access.h> */
int thmqi_rules_read(const char *path, struct rules **ret_rules);
void thmqi_rules_free(struct rules *r);
bool thmqi_rules_allow(const struct rules *r, const char *identity, uint32_t operation, const char *topic);
void thmqi_rules_limits(const struct rules *r, const char *identity, struct thmq_limits *ret);
struct thmqi_list *thmqi_rules_link(struct rules *r);
struct rules *thmqi_rules_of(struct thmqi_list *link);

/* -------------------------------------------------------------------- topics */

/* What a shard's partitions of one topic share. On its core. */
struct topic_here {
	uint32_t id; /* 0: of a partition whose topic is not known yet */
	uint32_t partitions;
	uint32_t row; /* of its statistics; NO_ROW */
	uint32_t place; /* in struct topics */
	struct rates *rates; /* NULL: no limits */
	uint64_t messages_in, bytes_in, messages_out, bytes_out, throttled;
	uint64_t told; /* of these, as published last */
	char name[256];
};
#define NO_ROW UINT32_MAX

struct topics {
	struct topic_here **at; /* by place, which a partition has; [0] is none. NULL: free */
	uint32_t count, room;
	uint32_t hint; /* where a free place is looked for first */
	struct thmqi_map by_id;
	struct topic_here none;
};

int thmqi_topics_init(struct shard *s);
void thmqi_topics_fini(struct shard *s);
/* @p is one of the topic's from now on. -ENOMEM. Again: the topic's limits may be others. */
int thmqi_topics_enter(struct shard *s, struct partition *p, const struct state_topic *t);
void thmqi_topics_leave(struct shard *s, struct partition *p);

#endif
