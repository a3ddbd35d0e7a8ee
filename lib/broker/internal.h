/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the broker's own structures. One shard = one core: nothing here is locked. Other shards are reached
 * by tasks only (struct thmqi_broker_post).
 */
#ifndef THMQI_BROKER_INTERNAL_H
#define THMQI_BROKER_INTERNAL_H

#include <pthread.h>
#include <thundermq/log.h>

#include "base/base.h"
#include "base/handle.h"
#include "broker/broker.h"
#include "broker/carrier.h"
#include "disk/disk.h"
#include "access/guard.h"
#include "publish.h"
#include "reactor/reactor.h"
#include "groups/spans.h"
#include "state.h"
#include "transport/transport.h"
#include "wire/attributes.h"
#include "wire/frame.h"

#define PENDING_COUNT                                                                              \
	32768u /* runs between append and settlement, per shard: of small ones still as much as a device has in flight */
#define DELIVERY_MAX THMQI_DELIVERIES /* runs handed out and not released, per consumer and shard */
#define OFFSET_JUMP                                                                                \
	(1ull << 20) /* offsets skipped per term that may have lost messages; see doc/format.md */
#define AHEAD 16u    /* frames whose partitions were looked up before their turn */
#define RUN_RECORDS_MAX 4096u          /* records of one run */
#define MEDIA 6u /* ways for connections to come, as they are counted */
#define VOLATILE_PARTITION THMQI_GROUP_VOLATILE /* ids of volatile partitions, topics and groups: never stored */
/* Partitions that a shard has for itself: these ids and those up to VOLATILE_PARTITION are no topic's. */
#define OWN_PARTITION 0x7ffffff0u
#define DELAY_PARTITION 0x7ffffff0u /* messages whose time has not come: delay.h */
#define DELAY_DONES 0x7ffffff1u     /* which of these are over */
#define DELAY_PRODUCER 1ull         /* who appends them to their partitions then; ids of others are larger */

#define TOMBSTONE_NS 86400000000000ull /* a day */
#define RECONNECT_MAX_NS 1800000000000ull /* a session tries no longer; see lib/api/client.c */

struct thmq_broker;
struct run_index;
struct shard;
struct conn;
struct sub;
struct shared; /* shared.c */
struct delay;  /* delay.h */
struct sift;   /* sift.c */
struct txns_here; /* txn.h */
struct txn_item;  /* txn.h */

/* ------------------------------------------------------------- partitions */

/* What a group has acknowledged in one partition. */
struct group_offset {
	struct thmqi_list link;       /* of the partition */
	struct thmqi_list dirty_link; /* of the shard, while dirty */
	struct partition *partition;
	uint32_t group;  /* 0: it was deleted */
	bool dirty;      /* offset is not in the log yet */
	bool owed;       /* its owner is to be told if it cannot be stored now */
	bool frees;      /* the oldest segment waits for nothing but that it is stored */
	uint64_t offset; /* next message to be read */
	uint64_t durable_offset;
	uint64_t logged_offset; /* as last appended, or told by the log */
	uint64_t epoch;    /* highest that attached */
	struct sub *owner; /* who may ack; NULL: nobody is attached */
	struct shared *shared; /* NULL: its members never shared this partition */
	struct thmqi_map others; /* of the partition's first one: all the others, by group */
};

/* What a topic's messages of one partition may take. */
struct retention {
	uint64_t ns, bytes; /* 0: no such limit */
	bool consumed;      /* what all groups have acknowledged may go */
	bool compacts;      /* of each key the newest message stays, … */
	uint64_t tombstone_ns; /* … for so long if it says that the key is deleted */
	uint64_t ttl_ns;       /* of messages that have none of their own; 0: none */
	uint64_t idle_offset,
		idle_ns; /* where it ended as the cleaner saw it last, and since when it is there */
};

/* A volatile partition's memory. */
struct volatile_ring {
	uint64_t bytes;          /* that consumers may hold up */
	uint64_t appended_bytes; /* sum of all memory that batches ever took */
	uint64_t batch_index;    /* the newest batch, … */
	uint64_t batch_bytes;    /* … and what is in it */
};

/* There may be very many, each of which is in no cache when its turn comes: what a message's way in needs is in the first line. */
struct partition {
	struct thmq_log *log;    /* the shard's, or its own if volatile; NULL: it is dead */
	struct run_index *index; /* its place in the log, once it is known: commitlog/hint.h */
	uint64_t next_offset;    /* of the next message */
	uint64_t durable;        /* what lies below is on the medium */
	uint64_t visible;        /* consumers see what lies below */
	struct thmqi_list subs;
	uint32_t id;
	uint16_t topic; /* its place in the shard's topics; 0: not known */
	uint8_t visible_at;
	bool is_volatile : 1;
	bool dead : 1;    /* its topic was deleted */
	bool named : 1;   /* it has a topic: a copy's log may tell of it before meta does */
	bool parting : 1; /* for a message of some connection's, which is being stored in parts or waits for a look-up: all others wait */
	bool holds : 1;   /* it has messages of transactions that are open: visible is not all that there is to see */
	bool jumped : 1;  /* next_offset is beyond logged_offset, as long as nothing has been appended */
	struct thmqi_list groups;
	uint64_t flush_asked;   /* next_offset when the log was last asked to make all durable */
	uint64_t logged_offset; /* thmqi_logged_offset() */
	uint64_t last_term;     /* in which it was last appended to, as far as replay saw */
	uint64_t hole_begin,
		hole_end; /* offsets that were perhaps used before this life, and are gone */
	union {
		struct volatile_ring *ring;
		struct retention *retention; /* NULL: its messages stay as long as there is room */
	};
};
_Static_assert(offsetof(struct partition, groups) == THMQI_CACHELINE &&
		       sizeof(struct partition) == 2 * THMQI_CACHELINE,
	       "two cache lines");

/* Behind the last run that was appended. */
static inline uint64_t thmqi_logged_offset(const struct partition *p)
{
	return p->jumped ? p->logged_offset : p->next_offset;
}

/* -------------------------------------------------------------- consumers */

/* A run that a consumer holds. Its token is index | generation << 32. */
struct delivery {
	struct thmq_log_view view;
	struct thmq_log *log;
	uint32_t index, generation;
	uint32_t bytes, count;
	struct delivery *next; /* free list */
	bool out;
};

/*
 * Of a topic with priorities: each has credits of its own, so that what is low never takes up the room of what is high. Their deliveries have
 * numbers of their own.
 */
struct rungs {
	uint32_t count;
	uint32_t stride;                        /* numbers of each */
	struct consumer *at[THMQ_PRIORITIES_MAX]; /* [0]: the one that has the rungs; NULL: nothing of it was attached yet */
};

/* All that one consumer has on one connection: its credits are shared by its partitions. */
struct consumer {
	uint64_t credit_bytes, held_bytes;
	uint64_t credit_count, held_count;
	struct delivery *deliveries;
	struct delivery *free;
	uint32_t delivery_count;
	uint32_t deliveries_used; /* of these, ever on the list of free ones; the memory of the others is not touched */
	uint32_t first_index; /* number of the first */
	bool starved; /* shared: it could have had more than its credit */
	uint64_t out_count; /* shared: messages that it has not acknowledged, instead of held_count */
	struct thmqi_list subs; /* of this stream, and of this priority */
	struct thmqi_map by_partition; /* those of the stream; the lowest priority's has all */
	struct rungs *rungs; /* NULL: there are no priorities */
};

/* One partition read by one consumer. */
struct sub {
	struct thmqi_list partition_link;
	struct thmqi_list consumer_link;
	struct thmqi_list ready_link; /* of the shard; linked while ready */
	struct conn *conn;
	struct partition *partition;
	struct group_offset *group; /* NULL: no group */
	struct thmq_log_reader *reader;
	uint32_t stream;
	uint32_t generation;
	uint64_t epoch;
	uint64_t next;       /* offset wanted next */
	uint64_t read_bytes; /* volatile: of partition->appended_bytes, what it certainly has behind it, if it is behind at all */
	bool ready;
	bool failed;
	bool limited; /* its topic or its client may have only so much */
	bool held;    /* it has had that for now */
	bool uncommitted; /* it sees what transactions have not committed, too */
	bool handed; /* what is being appended went to it before its end */
	uint8_t priority;
	uint8_t resolving; /* frame that is owed once the time to begin at is an offset; 0: none. Or SUB_IS_SHARED */
	uint32_t resolved_generation; /* of the seek */
	int64_t time_ns;
	struct shared *shared; /* of its group, if that is shared: it has no reader then, and next means nothing */
	struct span_holder lease; /* shared */
	uint64_t lease_ns;     /* shared: how long a message is its own */
	uint32_t settle_taken, settle_storing, settle_told; /* shared: serials of its acks */
	uint64_t part_begin, part_next, part_end; /* shared: of a message in parts, which part goes next; none: both are the same */
	uint32_t part_deliveries;
	struct sift *sift;  /* NULL: it wants all */
	uint64_t sift_from; /* sift: what lies from here up to before `next` is not wanted */
	uint64_t sift_begin; /* sift: where it was placed */
	bool sift_drops_parts; /* sift: the message whose parts come is not */
};
#define SUB_IS_SHARED 255u

/* ------------------------------------------------------------ connections */

struct producer {
	uint64_t
		progress[THMQ_DURABILITY_ALL + 1]; /* by level: last sequence that reached it; 0: that is durable, though told of less */
	uint32_t life;                                 /* thmqi_producer_life() of its last message */
	uint8_t dirty;                                 /* bits of levels to be told */
};

/* The newest message of a partition with a key, looked up: versions.c. */
struct key_search {
	struct partition *partition; /* NULL: nothing is looked up */
	const struct shard *shard;
	struct thmq_log_reader *reader;
	struct thmq_log_hit hit;
	bool has_hit; /* its record is to be read */
	bool in_parts; /* that was, and is the first part of a message whose last one is to be read */
	struct thmqi_part part;
	uint64_t request; /* who is to be answered */
	uint32_t key_len;
	uint8_t *key; /* of a request */
};

struct conn {
	struct thmqi_list link;       /* of the shard */
	uint64_t serial;              /* rises with each of the shard's */
	uint64_t refused, refused_seen; /* REJECTs sent; of which the client is known to know */
	struct thmqi_list dirty_link; /* of the shard, while a producer is dirty */
	struct thmqi_link *wire;
	struct shard *shard;
	struct partition *last_partition; /* of the last PRODUCE */
	struct topic_here *last_topic;    /* its; as long as it is not dead */
	struct {
		struct partition *partition; /* of the message that is being stored in parts; NULL: none is */
		int64_t time_ns;
		uint64_t offset; /* of its first part: the message's */
		uint32_t next; /* part */
	} parts;
	struct partition *ahead
		[AHEAD]; /* of PRODUCE frames that are near, by their place in the ring; some perhaps of others */
	struct key_search asked;    /* by a request */
	struct key_search expected; /* by the next message in its ring, whose partition is kept for it meanwhile */
	uint32_t reports_pending; /* room in the down ring is kept for so many REPORT frames */
	bool wrote;               /* frames down since the last kick */
	bool held_up;             /* its next PRODUCE cannot be taken now */
	bool dirty;
	bool rests;               /* on the shard's other list: nothing will come until it is roused */
	bool waits; /* it was not welcomed yet: lead.c */
	/* guard.h */
	bool guarded, limited; /* there are rules; its client may have only so much */
	bool last_limited;     /* that, or last_topic may */
	bool denied;           /* PRODUCE to last_partition */
	bool leaving;          /* what it sent is taken at once, whatever its limits */
	uint8_t medium;
	/* frames that found the ring full (control only), sent before all later ones */
	struct thmqi_frame *backlog;
	uint32_t backlog_count, backlog_size, backlog_sent;
	uint32_t dirty_streams[THMQI_STREAMS];
	uint32_t dirty_count;
	struct producer producers[THMQI_STREAMS];
	struct consumer *consumers[THMQI_STREAMS];
	uint32_t outstanding;  /* 0: no limit */
	uint64_t told_ns[2], audited_ns[2]; /* when it was last told that a limit holds up what it sends, gets */
	struct client *client; /* NULL: there are no rules */
	struct grant grants[GRANTS];
	struct sift *sifts; /* of its streams */
};

/* How far a producer has come in a partition. */
struct writer {
	struct thmqi_list link; /* of the shard, by use */
	uint64_t producer;
	uint64_t last_seq; /* all of its sequences for the partition up to it are stored, on their way to it, or were refused and it knows */
	uint64_t serial; /* of the newest connection that it came by */
	uint64_t used_ns;
	uint32_t epoch;
	uint32_t partition;
};

/* A run between append and settlement. */
struct pending {
	uint64_t index;    /* of its batch */
	struct conn *conn; /* NULL: gone, or not a message */
	struct partition *partition;
	struct group_offset *group; /* an offset that becomes durable */
	struct meta_change *change; /* a change of the metadata that becomes durable */
	struct thmqi_broker_post *post; /* an answer to meta that waits for all before it */
	uint64_t seq;               /* last of the run */
	uint64_t first_seq;
	uint64_t base_offset;
	uint64_t end_offset; /* of the run, or the group's offset */
	uint32_t count;
	uint32_t stream;
	union {
		uint32_t life;    /* of the stream's producer */
		uint32_t kept_ms; /* of one that is committed, and waits for all copies: since when */
	};
	uint8_t level; /* durability that its producer waits for; 0: settled already */
	bool report;
	bool again;    /* it was stored before, and settles with that */
	bool part;     /* of a message, and not its last: nobody sees it yet */
	uint8_t acked; /* weaker durability that its producer was told; 0: none */
	bool shared;   /* the group's slice is a shared one's */
	uint32_t to;   /* partition that its producer is told of: another one than its own, if it is delayed */
};

/* ----------------------------------------------------------------- shards */

struct shard {
	struct thmq_broker *broker;
	struct thmq_core *core;
	struct thmq_log *log; /* NULL: no directory */
	struct lead *lead;    /* of a shard with copies: lead.c; NULL: one copy, which always leads */
	uint32_t final;       /* durability from which on nothing is taken back: DURABLE, with copies QUORUM */
	uint32_t level_max;   /* the highest that a message can wait for: DURABLE, with copies ALL */
	struct thmqi_poller poller;
	uint32_t id;
	bool open; /* poller is added */
	bool closing;
	bool reads_only; /* nobody leads it, and what is committed is handed out: bereft.c */
	int failed; /* the log's error */
	struct thmqi_list conns;
	struct thmqi_list resting; /* struct conn: they need no look */
	struct thmqi_list ready; /* subs that may have something to read */
	struct thmqi_list dirty_offsets;
	bool offsets_owed; /* some of them */
	bool offsets_free; /* likewise: group_offset.frees */
	struct thmqi_list dirty_conns;
	struct thmqi_map partitions;
	struct partition_block *partition_blocks; /* their memory */
	struct thmqi_map writers;                 /* by their item in the log */
	struct thmqi_map fences; /* by producer with a name: the lowest epoch that may write */
	struct thmqi_list writers_by_use;
	bool writers_missing; /* there was no memory for all of them */
	uint64_t last_serial; /* of connections */
	struct pending *pending; /* ring: head … tail */
	uint64_t pending_head, pending_tail;
	uint64_t pending_at[THMQ_DURABILITY_QUORUM]; /* by level below `final`: the first that has not reached it */
	uint64_t flush_asked; /* tail when the log was last asked to make all durable, so that head follows */
	uint64_t settled_index[THMQ_DURABILITY_QUORUM + 1]; /* by level: all up to it has reached it */
	uint32_t run_max; /* bytes of the largest run that fits a batch */
	uint64_t term;    /* of its log */
	bool unclean;
	bool blocked; /* an append got -EAGAIN: no more before room */
	bool stuck;   /* a client's ring is full: look again after a while, clients do not tell */
	uint32_t taken; /* frames, since it was last polled, from links whose transport said that they came */
	struct thmqi_timer stuck_timer;
	struct delay *delay; /* NULL: no message was ever delayed */
	struct txns_here *txns; /* NULL: no transaction ever wrote to it */
	uint64_t delay_mark; /* numbers of DELAY_DONES below it are done */
	bool tells_at_once; /* progress from memory, not when there is time */
	uint32_t untold;    /* rounds since progress was told */
	uint64_t told_messages;
	struct topics topics;
	struct publisher publisher;
	/* counters, owner only */
	uint64_t throttled;
	uint64_t messages_in, bytes_in, messages_out, bytes_out, recovered_messages;
	uint32_t conn_count;
	char name[24]; /* as its directory's */
};

struct thmq_broker {
	struct thmqi_handle handle;
	struct thmq_env *env;
	struct thmqi_transport *transport;
	struct thmqi_listener *listener;
	struct thmqi_listener *counted; /* the same for the statistics: of meta's core, NULL before it goes */
	const struct thmqi_disk_table *disk;
	void *disk_ctx;
	struct thmqi_disk_dir *dir; /* as long as dir_hold */
	struct dir_hold *dir_hold;
	char *data_dir;
	char *name;
	struct thmq_broker_opts opts;
	_Atomic uint64_t incarnation;
	uint64_t identity; /* of the directory; of a broker without one: its own */
	bool has_shards, has_meta; /* there were some in the directory */
	/* copies: cluster.c */
	struct roll *roll; /* NULL: one copy */
	struct thmqi_members *cluster; /* as the options say; NULL: one copy */
	uint8_t cluster_id[16];
	struct node *node; /* node.c; NULL: one copy */
	struct thmqi_carrier carrier;
	struct thmqi_reach *reach; /* where others of the environment find it; NULL: nowhere */
	_Atomic uint64_t leader; /* of meta, as this broker knows; 0: none … */
	_Atomic uint64_t leaderless_ns; /* … and since when; 0: there is one */
	_Atomic bool leads;      /* meta, and serves */
	_Atomic bool removed;    /* from its cluster: others say so */
	_Atomic bool reads;      /* nobody leads meta, and what is committed is handed out: bereft.c */
	_Atomic uint32_t carrying; /* changes of meta on their way to the shards: follow.c */
	_Atomic uint32_t txn_asks; /* of shards, whether a transaction is one */
	_Atomic uint32_t txn_lives; /* of meta's: how often it has begun to lead here */
	_Atomic uint64_t ill;     /* the first shard of it that has failed, and why: trouble.c. 0: none has. Another one is to lead */
	_Atomic uint64_t full_ns; /* when a shard of it was refused room last; 0: never */
	_Atomic uint32_t full_shards; /* that have no room */
	uint32_t shard_count; /* meta included */
	struct shard *shards; /* [0] is meta */
	struct meta *meta;    /* belongs to the core of shards[0] */
	struct guard guard;
	struct publication *publication; /* NULL: nothing is published */
	char *stats_path;
	struct {
		_Atomic uint64_t open, accepted;
	} media[MEDIA]; /* connections, by thmqi_medium_number() */
	_Atomic uint32_t copies; /* being made: closing waits for them */
	_Atomic bool closing;    /* and they end when they see it */
};

/* broker.c: the directory stays open, and locked, until it is let go. Any core */
void *thmqi_broker_dir_keep(struct thmq_broker *b);
void thmqi_broker_dir_let_go(void *hold);

/* shard.c */
int thmqi_shard_init(struct shard *s, struct thmq_broker *b, uint32_t id, struct thmq_core *core);
void thmqi_shard_fini(struct shard *s);
int thmqi_shard_log_open(struct shard *s, const char *dir, const uint8_t log_id[16], bool create);
void thmqi_shard_start(struct shard *s);
void thmqi_shard_shut(struct shard *s); /* links down, last offsets appended, flush begun */
struct partition *thmqi_shard_partition(struct shard *s, uint32_t id);
/* Of an id that comes from outside: none that the shard has for itself. */
struct partition *thmqi_shard_partition_asked(struct shard *s, uint32_t id);
static inline bool thmqi_is_own_partition(uint32_t id)
{
	return id >= OWN_PARTITION && id < VOLATILE_PARTITION;
}
int thmqi_shard_partition_add(struct shard *s, uint32_t id, const struct state_topic *topic);
void thmqi_shard_partition_drop(struct shard *s, uint32_t id);
/* Append one state slice; with a pending entry for the caller to fill (index is set). */
int thmqi_shard_append_state(struct shard *s, uint32_t kind, uint64_t item, const void *payload,
			     uint32_t len, struct pending **ret_pending);
struct pending *thmqi_shard_pending_room(struct shard *s);

/* Nobody may wait for it, but never may more be lost than the jump that makes up for it, nor the room for runs that are not durable run out: long before. */
static inline bool thmqi_flush_is_due(const struct shard *s, const struct partition *p)
{
	return (p->next_offset - p->durable > OFFSET_JUMP / 4 && p->next_offset - p->flush_asked > OFFSET_JUMP / 4) ||
	       s->pending_tail - THMQI_MAX(s->pending_head, s->flush_asked) > PENDING_COUNT / 2;
}

/* All that was appended is made durable, @p's newest message too. */
void thmqi_shard_flush(struct shard *s, struct partition *p);
int thmqi_shard_accept(void *ctx, struct thmqi_link *link);
void thmqi_shard_closed(void *ctx, struct thmqi_link *link);
bool thmqi_shard_rest(void *ctx, struct thmqi_link *link);
void thmqi_shard_rouse(void *ctx, struct thmqi_link *link);
void thmqi_shard_came(void *ctx, struct thmqi_link *link);

/* lead.c: a shard that is one of several copies */
int thmqi_lead_open(struct shard *s, const struct thmq_log_opts *opts); /* as thmq_log_open() */
int thmqi_lead_close(struct shard *s, uint64_t timeout_ns, void (*gone)(void *arg), void *arg);
void thmqi_lead_fini(struct shard *s);
void thmqi_lead_poll(struct shard *s);  /* of the shard's poller */
void thmqi_trouble_refused(struct shard *s, int error); /* trouble.c: its log takes nothing */
void thmqi_trouble_failed(struct shard *s, int error); /* it takes part no more */
/* What a log that refuses something says. With copies nothing is refused for a disk that may be well soon, or else another one leads. */
static inline int thmqi_shard_refusal(const struct shard *s, int error)
{
	return error == -EIO && s->lead ? -EAGAIN : error;
}
void thmqi_lead_shut(struct shard *s);
int thmqi_lead_hand_over(struct shard *s); /* 1: another one leads it; 0 not yet */
bool thmqi_lead_waits(struct shard *s); /* before it sleeps: there is something that nobody tells of */
bool thmqi_lead_serves(const struct shard *s); /* it leads, and all that it leads with is committed */
/* bereft.c: a run of @p up to @end was told by a log of several copies, and is to be visible once it is committed. False: at once */
bool thmqi_bereft_note(struct shard *s, struct partition *p, uint64_t index, uint64_t end);
/* A new connection of a shard with copies. False: it is to be welcomed now. True: it waits, or was sent away. */
bool thmqi_lead_keep(struct conn *c);
struct shard *thmqi_lead_shard(struct thmq_broker *b, uint64_t group); /* NULL: none of its shards is that group */
uint64_t thmqi_lead_group(const struct thmq_broker *b, uint32_t shard);
/* What was appended here and not committed when it ceased to lead is somebody else's to settle. */
void thmqi_settle_deposed(struct shard *s);
void thmqi_settle_everywhere(struct shard *s, uint64_t index); /* all copies have it */
void thmqi_settle_weaker(struct shard *s); /* what has waited too long for all of them */
void thmqi_shard_welcome(struct conn *c);
void thmqi_conn_leave(struct conn *c, int error);

/* replay.c */
void thmqi_shard_begin_term(struct shard *s); /* offsets that may have been seen and lost are stepped over */
void thmqi_shard_reset(struct shard *s);      /* what its log told is forgotten: it tells it again */
int thmqi_shard_replay(struct shard *s, const struct thmq_log_run *run);

/* roll.c: who belongs to the cluster, on request */
int thmqi_roll_open(struct thmq_broker *b);
void thmqi_roll_close(struct thmq_broker *b);
void thmqi_roll_request(struct conn *c, uint64_t id, const struct thmqi_request *request);

/* cluster.c: which brokers there are, and the way between those of one environment */
int thmqi_cluster_init(struct thmq_broker *b); /* of the options */
void thmqi_cluster_log_id(const struct thmq_broker *b, uint32_t shard, uint8_t ret_id[16]);
extern const struct thmqi_carrier thmqi_carrier_inproc;
struct letter;
int thmqi_letters_init(struct shard *s); /* -ENOMEM */
void thmqi_letters_deliver(struct shard *s);
void thmqi_letters_fini(struct shard *s);

/* follow.c: what another copy changed of the metadata comes to the shards here once it is committed */
int thmqi_follow_note(struct meta *m, const struct thmq_log_run *run);
void thmqi_follow_committed(struct meta *m, uint64_t index);
void thmqi_follow_drop(struct meta *m); /* what was not carried yet */

uint32_t thmqi_medium_number(const char *medium); /* publish.c */

/* conn.c: frames down */
void thmqi_conn_send(struct conn *c,
		     const struct thmqi_frame *frame); /* control: never lost, never blocks */
struct thmqi_frame *thmqi_conn_claim(struct conn *c);  /* data: NULL when the ring is full */
void thmqi_conn_commit(struct conn *c);
bool thmqi_conn_flush_backlog(struct conn *c); /* true: nothing is waiting */
bool thmqi_conn_room(struct conn *c,
		     uint32_t frames); /* room for so many, beside promised reports */
void thmqi_conn_progress(struct conn *c, uint32_t stream, uint32_t level, uint64_t seq);
void thmqi_conn_flush_progress(struct conn *c);
void thmqi_conn_kick(struct conn *c);
/* Of one whose link's reader rests, or is about to. False: there is something to look at. */
bool thmqi_conn_rest(struct conn *c);
void thmqi_conn_rouse(struct conn *c);

#define BATCH_HEAD 128u /* bytes of a batch before its runs: doc/format.md */

/* Of a volatile ring's memory: a batch has a block of a power of two. */
static inline uint64_t thmqi_batch_room(uint64_t bytes)
{
	return bytes ? thmqi_pow2_up(THMQI_MAX(bytes, (uint64_t)THMQI_BLOCK)) : 0;
}

uint32_t thmqi_produce(struct conn *c, uint32_t budget); /* produce.c */

/* settle.c */
void thmqi_partition_show(struct partition *p, uint64_t offset); /* consumers see what lies below it */
/* A run's producer wanted a report; room was kept when the run was taken. */
void thmqi_settle_report(struct conn *c, uint32_t stream, uint32_t partition, uint32_t level, uint64_t first_seq, uint32_t count,
			 uint64_t base_offset);
bool thmqi_settle_keep(struct lead *l, const struct pending *e); /* until all copies have it. False: so many wait already, and those that come wait behind */
void thmqi_settle(struct shard *s, uint32_t durability, uint64_t index);
void thmqi_settle_failed(struct shard *s, int error);
void thmqi_settle_forget(struct shard *s, struct conn *c);
/* thmqi_broker_post() once all that was appended is durable. -EAGAIN: too much is on its way. */
int thmqi_settle_post(struct shard *s, struct thmqi_broker_post *post, struct shard *to,
		      void (*run)(struct thmqi_broker_post *post));
bool thmqi_settle_has_post(const struct shard *s, const struct thmqi_broker_post *post); /* it is not posted yet */

/* versions.c */
/* Is what @f expects so? 0; -EAGAIN it is being looked up; -THMQ_ECONFLICT, and what is so; -EINVAL; an error */
int thmqi_version_expect(struct conn *c, const struct thmqi_frame *f, struct partition *p, uint64_t *ret_is);
void thmqi_version_forget(struct conn *c); /* what is expected */
void thmqi_version_request(struct conn *c, uint64_t id, const struct thmqi_request *r);
void thmqi_version_go(struct conn *c); /* a request is out */
void thmqi_version_drop(struct conn *c, const struct partition *p); /* what is looked up in @p, NULL: in any */

/* parts.c: a message that is larger than a batch */
/*
 * All parts of @f but the last, as far as there is room. @room: bytes of a run's table and body. 0: they are on their way, and the
 * last is a record of *@ret_len bytes, with its table; -EAGAIN later; -EMSGSIZE; an error of the log
 */
int thmqi_parts_append(struct conn *c, const struct thmqi_frame *f, struct partition *p, uint32_t room, uint32_t level,
		       uint32_t *ret_len);
void thmqi_parts_fill_last(struct conn *c, const struct thmqi_frame *f, struct thmq_run_header *run,
			   const struct partition *p, uint32_t room);
void thmqi_parts_end(struct conn *c); /* the last is appended, or will never be */

/* delay.c: messages whose time has not come; delay.h */
/* Where such a message is stored. 0; -ENOMEM; -ENOBUFS as many wait as may */
int thmqi_delay_place(struct shard *s, struct partition **ret_partition);
/* Frame @f, for @to. 0: appended, end it by note of *@ret_index; -EAGAIN; -EINVAL; an error of the log */
int thmqi_delay_append(struct conn *c, const struct thmqi_frame *f, struct partition *p, const struct partition *to,
		       uint32_t level, struct thmq_run_header **ret_run, uint64_t *ret_index);
void thmqi_delay_begin(struct shard *s); /* what its log has is served from now on */
void thmqi_delay_stop(struct shard *s, int error);
void thmqi_delay_fini(struct shard *s);
uint32_t thmqi_delay_poll(struct shard *s);
int thmqi_delay_live(struct shard *s, const struct thmq_log_extent *e); /* enum thmq_log_life */
uint32_t thmqi_delay_count(const struct shard *s, uint32_t partition);
uint64_t thmqi_delay_due(const struct shard *s); /* as due_ns of struct thmq_partition_info */
void thmqi_delay_cancel(struct conn *c, uint64_t id, const struct thmqi_request *r);

/* txn_here.c: what a shard has of transactions; txn.h */
/* Frame @f's transaction; 0: it names none. */
uint64_t thmqi_txn_of(const struct thmqi_frame *f);
/* It may write to @p. 0; -EAGAIN; -ECANCELED it is over; -ENOTSUP; -EINVAL; -ENOMEM; an error of the log */
int thmqi_txn_enter(struct conn *c, const struct thmqi_frame *f, struct partition *p, struct txn_item **ret_item);
void thmqi_txn_mark(struct thmq_run_header *run, uint64_t id); /* a run of frames that name it: it does instead */
void thmqi_txn_entered(struct txn_item *item, uint32_t count); /* and has done so */
/* Of a partition that holds: all up to @offset could be seen. Return: up to where it is */
uint64_t thmqi_txn_hold(struct shard *s, struct partition *p, uint64_t offset);
/* Consumers see what lies below it, but for what is of an open transaction. */
static inline void thmqi_partition_reach(struct shard *s, struct partition *p, uint64_t offset)
{
	thmqi_partition_show(p, thmqi_likely(!p->holds) ? offset : thmqi_txn_hold(s, p, offset));
}
uint64_t thmqi_txn_visible(const struct shard *s, const struct partition *p); /* likewise: what could be */
bool thmqi_txn_hides(const struct shard *s, const struct thmq_run_header *run); /* a run with a transaction: it was aborted */
bool thmqi_txn_keeps(const struct shard *s, uint32_t partition, uint32_t group); /* where the group stands is being decided */
void thmqi_txn_offset(struct conn *c, uint64_t id, const struct thmqi_request *r);
void thmqi_txn_replay(struct shard *s, const struct thmq_log_run *run, struct partition *p);
void thmqi_txn_begin(struct shard *s); /* what its log has is served from now on */
uint32_t thmqi_txn_poll(struct shard *s);
void thmqi_txn_room(struct shard *s); /* the log may have room for what it refused */
int thmqi_txn_renew(struct shard *s, uint64_t item);
void thmqi_txn_fini(struct shard *s);
/* With copies: it leads no more; its log tells all again; meta may be led by now, and is asked. */
void thmqi_txn_deposed(struct shard *s);
void thmqi_txn_reset(struct shard *s);
void thmqi_txn_again(struct shard *s); /* now and then: meta is asked what it could not say, or would say otherwise by now */

/* What could be seen of it, were there no transactions. */
static inline uint64_t thmqi_visible_all(const struct shard *s, const struct partition *p)
{
	return thmqi_likely(!p->holds) ? p->visible : thmqi_txn_visible(s, p);
}

/* writers.c */
enum writer_news {
	WRITER_NEW = 0,   /* it is to be stored */
	WRITER_AGAIN = 1, /* it was */
	WRITER_LEFT = 2   /* nobody listens on this connection any more */
};
struct writer *thmqi_writer_find(const struct shard *s, uint64_t producer, uint32_t partition);
/* A PRODUCE with a producer id. enum writer_news; -THMQ_EFENCED an older epoch; -ENOMEM */
int thmqi_writer_admit(struct conn *c, const struct thmqi_frame *f, uint32_t partition, struct writer **ret_writer);
void thmqi_writer_replay(struct shard *s, const struct thmq_log_producer *state);
int thmqi_writer_renew(struct shard *s, uint64_t item);
int thmqi_writer_fence(struct shard *s, uint64_t producer, uint32_t epoch); /* older ones write no more. -ENOMEM */
uint64_t thmqi_writer_highest(const struct shard *s, uint64_t producer); /* sequence in any partition */
void thmqi_writers_drop(struct shard *s, uint32_t partition);
void thmqi_writers_clear(struct shard *s); /* all but the fences */
void thmqi_writers_init(struct shard *s);
void thmqi_writers_fini(struct shard *s);

/* attach.c */
void thmqi_sub_attach(struct conn *c, const struct thmqi_frame *f);
void thmqi_sub_detach(struct conn *c, const struct thmqi_frame *f);
void thmqi_sub_seek(struct conn *c, const struct thmqi_frame *f);
void thmqi_sub_release(struct conn *c, uint32_t stream, uint64_t token);
void thmqi_sub_close(struct sub *sub, int status, bool tell);
void thmqi_sub_failed(struct sub *sub); /* the log that it reads has */
void thmqi_consumers_close(struct conn *c);
void thmqi_subs_close(struct conn *c); /* the connection goes: nobody is told */
struct sub *thmqi_sub_find(struct conn *c, uint32_t stream, uint32_t partition); /* NULL: there is none */
uint64_t thmqi_sub_position(const struct sub *sub); /* all below was handed over, or passed over */
int thmqi_sub_start(struct partition *p, uint32_t kind, uint64_t value, uint64_t *ret_offset); /* of an enum thmq_start */
bool thmqi_sub_resolve(struct sub *sub); /* one that begins at a time. False: that is still being looked up, or has failed */

/* deliver.c */
void thmqi_sub_ready(struct sub *sub);
void thmqi_sub_pay(struct sub *sub, uint32_t messages, uint32_t bytes); /* of one that is limited: they were handed out */
bool thmqi_sub_may(struct sub *sub);   /* of one that is limited: have more now? */
void thmqi_sub_later(struct sub *sub); /* it is looked at again soon */
void thmqi_sub_offer(struct sub *sub); /* a run was appended and is visible: at once, or when it is its turn */
/*
 * @run will be that, a message of @len bytes and nothing else, and all that its partition had was handed out: at once, if its link can take it
 * so, before it is appended; and what there is to do for that behind it.
 */
bool thmqi_sub_hand(struct sub *sub, const struct thmq_run_header *run, uint32_t len);
void thmqi_sub_handed(struct sub *sub, uint32_t run_len);
uint32_t thmqi_sub_pump_all(struct shard *s); /* all that are ready */
void thmqi_sub_gap(struct sub *sub, uint64_t offset); /* what was dropped before it is told of, and passed over */
void thmqi_sub_caught_up(struct sub *sub); /* it has all there is */
void thmqi_sub_trouble(struct sub *sub, uint64_t offset, int error); /* it gets nothing any more, and is told */

/* Messages were handed out. */
static inline void thmqi_sub_count(struct sub *sub, uint32_t messages, uint32_t bytes)
{
	struct shard *s = sub->conn->shard;
	struct topic_here *t = s->topics.at[sub->partition->topic];

	s->messages_out += messages;
	s->bytes_out += bytes;
	t->messages_out += messages;
	t->bytes_out += bytes;
	if (thmqi_unlikely(sub->limited))
		thmqi_sub_pay(sub, messages, bytes);
}

/* Whose credits it takes. */
static inline struct consumer *thmqi_sub_consumer(const struct sub *sub)
{
	struct consumer *k = sub->conn->consumers[sub->stream];

	return thmqi_unlikely(sub->priority) ? k->rungs->at[sub->priority] : k;
}

static inline bool thmqi_consumer_has_credit(const struct consumer *k)
{
	return k->free && k->held_bytes < k->credit_bytes && k->held_count < k->credit_count;
}

/* The next one that was never used is free, too. */
static inline void thmqi_delivery_first(struct consumer *k)
{
	struct delivery *d = &k->deliveries[k->deliveries_used];

	d->index = k->first_index + k->deliveries_used++;
	d->next = k->free;
	k->free = d;
}

/* @d, which is k->free, is out. */
static inline void thmqi_delivery_take(struct consumer *k, struct delivery *d)
{
	k->free = d->next;
	if (!k->free && k->deliveries_used < k->delivery_count)
		thmqi_delivery_first(k);
}

/* When a frame was sent to a member of a shared group, ms: it may lie in a ring for long. */
static inline uint32_t thmqi_shared_stamp(const struct shard *s)
{
	return (uint32_t)(s->core->now_ns / 1000000u);
}

/* shared.c: groups whose members share a partition's messages */
/* attach.c: of frame @f's consumer, which knows it from now on; it is on no list yet. 0; -ENOMEM */
int thmqi_sub_make(struct conn *c, const struct thmqi_frame *f, struct partition *p, struct group_offset *g,
		   struct sub **ret_sub);
int thmqi_shared_attach(struct conn *c, const struct thmqi_frame *f, struct partition *p, struct sub **ret_sub);
void thmqi_shared_leave(struct sub *sub); /* it is on no list any more */
uint32_t thmqi_shared_pump(struct sub *sub, uint32_t budget); /* Return: runs read */
void thmqi_shared_settle(struct conn *c, const struct thmqi_frame *f);
bool thmqi_shared_is_used(const struct group_offset *g);
uint64_t thmqi_shared_done(const struct group_offset *g); /* offsets behind its floor that are done */
void thmqi_shared_advance(struct group_offset *g); /* its offset has moved by other means */
bool thmqi_shared_is_dirty(const struct group_offset *g);
int thmqi_shared_store(struct group_offset *g); /* append it as it is now */
int thmqi_shared_renew(struct group_offset *g);
void thmqi_shared_durable(struct group_offset *g, uint64_t floor);
void thmqi_shared_failed(struct group_offset *g);
void thmqi_shared_deposed(struct group_offset *g); /* another copy leads; nobody is attached any more */
void thmqi_shared_tell_owed(struct group_offset *g, int error);
void thmqi_shared_replay(struct shard *s, const struct thmq_log_run *run);
void thmqi_shared_settle_recovery(struct group_offset *g); /* once all is replayed */
bool thmqi_shared_is_stored(const struct group_offset *g); /* as it is now */
void thmqi_shared_reset(struct group_offset *g, uint64_t offset); /* nobody is attached */
void thmqi_shared_free(struct group_offset *g);

/* sift.c: consumers that want some messages only */
void thmqi_sift_text(struct conn *c, const struct thmqi_frame *f);
void thmqi_sift_forget(struct conn *c);
int thmqi_sift_attach(struct sub *sub, const struct thmqi_frame *f); /* 0, also where it wants all; -EINVAL */
void thmqi_sift_detach(struct sub *sub);
struct sifted {
	uint64_t first, end; /* the first that is wanted; behind the last */
	uint32_t wanted, looked; /* how many */
};
/* Has @run a message from @from on that is wanted? One that only the consumer can read counts as such. */
bool thmqi_sift_run(struct sub *sub, const struct thmq_run_header *run, uint64_t from, struct sifted *ret);
void thmqi_sift_place(struct sub *sub, uint64_t offset); /* it goes on there */
bool thmqi_sift_acked(const struct sub *sub, uint64_t offset); /* all up to before sub->next is done with @offset */
void thmqi_sift_settle(struct sub *sub); /* its group's offset moves over what was passed over, if all before that is done */

/* lost.c: after the log failed */
void thmqi_lost_tell_producers(struct shard *s); /* while it is known who waits for what */
void thmqi_lost_tell_reader(struct sub *sub);    /* if what it sees is not durable */
void thmqi_lost_tell_hole(struct sub *sub, uint64_t offset); /* it remembers @offset, from before this life */

/* retain.c: events of the log, whose context is the shard */
int thmqi_retain_live(void *ctx, const struct thmq_log_extent *extent);
int thmqi_retain_renew(void *ctx, uint32_t kind, uint64_t item);
int thmqi_retain_leave(void *ctx, uint32_t partition);
int thmqi_retain_over(void *ctx, const struct thmq_log_run *run, const struct thmq_record_view *record);
bool thmqi_retain_only_compacts(const struct partition *p); /* nothing of it goes but for something newer */
int thmqi_retain_partition(struct shard *s,
			   struct partition *p); /* what its runs do not say is appended */

/* offsets.c */
int thmqi_offsets_store(struct shard *s, struct group_offset *g); /* append it as it is now */
struct group_offset *thmqi_offsets_get(struct partition *p, uint32_t group, bool make);
void thmqi_offsets_ack(struct conn *c, const struct thmqi_frame *f);
uint32_t thmqi_offsets_flush(struct shard *s); /* append what is dirty */
void thmqi_offsets_durable(struct group_offset *g, uint64_t offset);
void thmqi_offsets_deposed(struct shard *s); /* another copy leads: what was not appended is not acknowledged */
void thmqi_offsets_failed(struct shard *s); /* its log has: what was on the way to it will not be stored */

int thmqi_offsets_reset(struct shard *s, struct group_offset *g, uint64_t offset); /* -EAGAIN: it is on its way to the log */

/* groups.c: of those who administer them */
void thmqi_groups_reset(struct conn *c, uint64_t id, const struct thmqi_request *r);
void thmqi_groups_drop(struct shard *s, struct partition *p, uint32_t group);
uint32_t thmqi_groups_readers(const struct partition *p, const struct group_offset *g);
void thmqi_groups_purge(struct shard *s); /* those that meta does not know; when it is opened */

/* meta.c: topics and groups; group.c: membership. On the meta core. */
struct meta;
struct meta_change;
int thmqi_meta_open(struct thmq_broker *b, struct meta **ret_meta);
void thmqi_meta_close(struct meta *m);
int thmqi_meta_replay(struct meta *m, const struct thmq_log_run *run);
void thmqi_meta_reset(struct meta *m); /* forget all that the log told: it tells it again */
void thmqi_meta_lead(struct meta *m);  /* from now on it is changed here */
int thmqi_meta_cluster_ensure(struct meta *m); /* after replay: which shards there are */
const struct state_cluster *thmqi_meta_cluster(struct meta *m);
int thmqi_meta_cluster_ready(struct meta *m);
void thmqi_meta_look_after(struct meta *m); /* temporary topics that were there before; once all shards are */
void thmqi_meta_each_partition(struct meta *m, uint32_t shard,
			       int (*each)(void *ctx, const struct state_topic *topic,
					   uint32_t partition),
			       void *ctx, int *ret_error);
void thmqi_meta_each_group(struct meta *m, uint32_t topic_id,
			   int (*each)(void *ctx, uint32_t group_id), void *ctx, int *ret_error);
int thmqi_meta_renew(struct meta *m, uint32_t kind, uint64_t item); /* a slice, because its segment goes */
void thmqi_meta_request(struct conn *c, uint64_t id, const struct thmqi_request *request);
void thmqi_meta_durable(struct meta_change *change, int error);
void thmqi_meta_conn_closed(struct meta *m, struct conn *c);
void thmqi_meta_revoked(struct meta *m, struct conn *c, const struct thmqi_frame *f);
void thmqi_meta_left(struct meta *m, struct conn *c, uint32_t stream, uint64_t id);
uint32_t thmqi_meta_topic_count(struct meta *m);

/* A call posted to another shard's core. The poster's memory until it has run, which may post it again or free it. */
struct thmqi_broker_post {
	struct thmqi_task task;
	void (*run)(struct thmqi_broker_post *post);
	struct shard *shard;
	void *arg;
	uint64_t value;
	int status;
};
void thmqi_broker_post(struct thmqi_broker_post *post, struct shard *to, void (*run)(struct thmqi_broker_post *post));
void thmqi_reply(struct conn *c, uint64_t id, int status);
void thmqi_meta_each_producer(struct meta *m, int (*each)(void *ctx, uint64_t producer, uint32_t epoch), void *ctx,
			      int *ret_error);

#endif
