/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - what a broker's logs say besides messages: slices of state, with which it comes back as it was. See doc/format.md.
 */
#ifndef THMQI_BROKER_STATE_H
#define THMQI_BROKER_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "access/guard.h"

/* What a state slice in a log is about: its run's partition field. */
enum state_kind {
	STATE_GROUP_OFFSET = 1, /* item: partition << 32 | group */
	STATE_PARTITION = 2,    /* item: partition; what its runs do not say */
	STATE_GROUP_SHARED = 3, /* item: partition << 32 | group, whose members share it */
	STATE_TXN = 4,          /* item: hash of transaction, partition, group: txn.h */
	STATE_TERM = 8,         /* item 0: nothing but that another term has begun; lead.c */
	STATE_CLUSTER = 16,     /* meta: item 0: the shards */
	STATE_TOPIC = 17,       /* meta: item: topic id */
	STATE_GROUP = 18,       /* meta: item: group id */
	STATE_COUNTERS = 19,    /* meta: item 0: ids that come next, where what used them is gone */
	STATE_PRODUCER = 20,    /* meta: item: producer id */
	STATE_DECISION = 21,    /* meta: item: transaction; txn.h */
	STATE_NODE = 22         /* meta, of a cluster: item: node; drain.c */
};

/* Payloads of the slices: little endian, fixed width, as in doc/format.md. */
struct state_group_offset {
	uint32_t partition;
	uint32_t group;
	uint64_t offset;
	uint64_t epoch;
};

/* count spans of 8 bytes (spans.h) follow: from floor on, side by side */
struct state_shared {
	uint32_t partition;
	uint32_t group;
	uint64_t floor;
	uint32_t count;
	uint32_t reserved;
};

struct state_partition {
	uint64_t next_offset;
	uint64_t end_offset; /* one past the last message appended before this */
};

struct state_cluster {
	uint32_t shard_count; /* data shards */
	uint32_t ready;       /* 1: all shards were made */
	uint64_t segment_bytes;
	/* shard_count log ids of 16 bytes follow */
};

#define TOPIC_RANGES 16u /* each at least doubles what there is room for: enough for THMQ_PARTITION_COUNT_MAX */

/* Partitions that a topic got later: those from @begin on, and room for others up to @end, have the ids from @first on. */
struct state_range {
	uint32_t begin, end, first;
};

struct state_topic {
	uint32_t topic_id;
	uint32_t flags; /* THMQ_TOPIC_*, TOPIC_DELETED */
	uint32_t partition_count;
	uint32_t first_partition; /* ids are first_partition …, of those that were added others: thmqi_topic_partition() */
	uint32_t first_shard; /* partition i is in data shard 1 + (first_shard + i % thmqi_topic_lanes()) % shard_count */
	uint32_t visible_at;
	uint64_t volatile_bytes;
	uint64_t retention_ns; /* 0: as long as there is room */
	uint64_t retention_bytes; /* of each partition; 0: all */
	char name[256];
	uint64_t ttl_ns; /* 0: none */
	uint64_t tombstone_ns; /* of a compacted one; else 0 */
	uint64_t rates[RATES]; /* a second, as of struct thmq_limits: produce bytes, messages, consume bytes, messages; 0: no limit */
	uint32_t priorities; /* each has as many of the partitions, those of the lowest first; 0: there are none */
	uint32_t made_by; /* of the call that created it, by chance, so that this may be said twice; 0: that says no more */
	struct state_range added[TOPIC_RANGES]; /* begin 0: no more of them; stored as far as there are some */
};

/* Partitions of one priority. i and i + so many are the same to those who count them without. */
static inline uint32_t thmqi_topic_lanes(const struct state_topic *t)
{
	return t->priorities ? t->partition_count / t->priorities : t->partition_count;
}
/* The id of its partition @i. */
static inline uint32_t thmqi_topic_partition(const struct state_topic *t, uint32_t i)
{
	uint32_t id = t->first_partition + i, k;

	for (k = 0; k < TOPIC_RANGES && t->added[k].begin && i >= t->added[k].begin; k++)
		id = t->added[k].first + (i - t->added[k].begin);
	return id;
}
#define STATE_TOPIC_LEN_MIN offsetof(struct state_topic, ttl_ns) /* as the first ones were */
#define TOPIC_DELETED 0x80000000u

struct state_group {
	uint32_t group_id;
	uint32_t topic_id;
	char name[256];
	uint32_t partitions; /* that its topic had when it was made: what is in later ones came since; 0: not known */
};
#define STATE_GROUP_LEN_MIN offsetof(struct state_group, partitions) /* as the first ones were */

struct state_counters {
	uint32_t next_topic, next_partition, next_group, next_shard;
};

/* A producer with a name. */
struct state_producer {
	uint64_t producer_id;
	uint32_t epoch; /* of who opened it last */
	uint32_t topic_id;
	char name[256];
};
#define NAMED_PRODUCER (1ull << 63) /* in its id; of the others nothing is stored but with their runs */

/* A node of a cluster. */
struct state_node {
	uint64_t id;
	uint32_t flags; /* NODE_DRAINED */
	uint32_t reserved;
};
#define NODE_DRAINED 1u /* it is not to lead */

#endif
