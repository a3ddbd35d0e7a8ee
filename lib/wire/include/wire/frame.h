/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - what client and broker say to each other: fixed 64-byte frames through a ring in each direction, and
 * control requests in a page beside them. Pure bytes: no transport, no broker, no client.
 *
 * A connection joins one session with one shard (shard 0 is meta: topics, groups, membership). In one process the
 * rings are shared memory between the two; other media carry the same frames.
 */
#ifndef THMQI_WIRE_FRAME_H
#define THMQI_WIRE_FRAME_H

#include "base/base.h"

#define THMQI_WIRE_VERSION 4u
#define THMQI_STREAMS 256u  /* producers, and consumers, per session: stream < THMQI_STREAMS */
#define THMQI_DELIVERIES 4096u /* runs that a stream holds on a connection, at most */
#define THMQI_SHARD_META 0u /* data shards are 1 … */

enum thmqi_frame_type {
	/* client to broker: PRODUCE through the link's up ring, all others through its ctl ring */
	THMQI_FRAME_REQUEST =
		1, /* seq: request id; the page holds a struct thmqi_request. One at a time */
	THMQI_FRAME_PRODUCE =
		2, /* stream partition seq data len(total) key_len tag_len tag_hash flags; with THMQI_PRODUCE_ENCODED no key and no tag, and
		      tag_hash: enum thmq_run_encoding of what data is; arg0: time, if it is given; arg1:
		      producer id, 0: none, whose messages may be sent again: generation is its epoch; of others a number that
		      tells the producers of a stream apart that come one after the other */
	THMQI_FRAME_ATTACH = 3, /* stream partition; seq: epoch; arg0: start value; arg1: group id or 0 | upper half of the tags
				  wanted, as thmq_tag_filter() has them, whose lower half is tag_hash; 0: all;
				  flags: start kind, | THMQI_ATTACH_ALWAYS to begin there even where the group has an
				  offset, | THMQI_ATTACH_RESUME likewise unless the group is further;
				  | THMQI_ATTACH_FILTERED: by the text that came in FILTER frames;
				  | THMQI_ATTACH_UNCOMMITTED: also what transactions have not committed, or aborted;
				  | THMQI_ATTACH_SHARED: a member of a shared group; seq is how long a message is its own, ns;
				  len: credit bytes; extra: credit messages; generation; key_len: 0, or how many priorities |
				  which one << 8: each has such credits of its own */
	THMQI_FRAME_DETACH = 4, /* stream partition; seq: epoch */
	THMQI_FRAME_SEEK =
		5, /* stream partition; flags: start kind; arg0: value; generation: the new one */
	THMQI_FRAME_ACK =
		6, /* stream partition; seq: next offset: all below is done; arg0: epoch; arg1: group id */
	THMQI_FRAME_RELEASE =
		7, /* stream; arg0: token of a DELIVER, all of whose messages are given back */
	THMQI_FRAME_REVOKED =
		8, /* meta; stream partition; seq: epoch: the client has let go of it */
	THMQI_FRAME_LEAVE =
		9, /* meta; stream: the client has given up on this member, whose JOIN may not be answered yet; arg0: its `member` of JOIN, by which it is
		      known where that came over another connection, or 0. No answer */
	THMQI_FRAME_SEEN =
		10, /* arg0: how many REJECTs of this connection the client has taken. What has a producer id is stored behind
		       none that the client does not know of: so it never sends again what was passed over */
	THMQI_FRAME_RELEASES =
		11, /* several RELEASEs in one, where the broker's end has said that it takes them: stream; len: how many, up to THMQI_RELEASES;
		       tokens in arg0, arg1, seq, data */
	THMQI_FRAME_SETTLE =
		16, /* stream partition; seq: first offset; len: how many; flags: THMQI_SETTLE_*; extra: serial of an ACK, one higher
		       than the one before, from 1; of all others: how often they had been handed out then, 0: they are this member's
		       whenever that was; arg0: a time, ns; generation. Of a member of a shared group */
	THMQI_FRAME_FILTER =
		24, /* stream; len: bytes of the whole text; extra: which of them come first here; seq, arg0, arg1: THMQI_FILTER_PIECE of
		       them, one after the other: what the consumers that attach with THMQI_ATTACH_FILTERED want. No answer */
	/* broker to client */
	THMQI_FRAME_WELCOME = 32, /* status; seq: number of shards, meta included; arg0: broker's
				    incarnation; arg1: largest message (key, tag, payload); tag_hash: likewise of volatile
				    topics; len: version;
				    partition, extra: identity of its data, the same in each of its lives; flags: what a message waits
				    for that says nothing, 0: DURABLE, and no more can be had. Where there are copies meta's comes behind a
				    REPLY of request 0, which has nodes; from who does not lead only that comes, and the end: -THMQ_ENOTLEADER.
				    But where nobody has led for some time it comes with status -THMQ_ENOQUORUM and all the rest: what is
				    committed can be read by this connection, and messages stay in its ring. It ends after a while, so that
				    its client looks for who leads now */
	THMQI_FRAME_REPLY = 33, /* seq: request id; status; the page holds a struct thmqi_reply */
	THMQI_FRAME_PROGRESS =
		34, /* stream; flags: durability; seq: all of the stream's on this connection up to it reached it. flags 0: those
		       that were acknowledged at less are durable by now; generation: thmqi_producer_life() */
	THMQI_FRAME_REPORT =
		35, /* stream partition; flags: durability; status: as of WEAKER, or 0; seq: first sequence; len: count; arg0: base offset, of a delayed message the
		       number by which it is cancelled.
				    Sequences of one connection only: seq, then the next ones sent on it.
				    arg0 UINT64_MAX: stored before, where is not known */
	THMQI_FRAME_REJECT =
		36, /* stream partition; seq; status: that message is certainly not stored; arg0: with -THMQ_ECONFLICT what is
		       there */
	THMQI_FRAME_DELIVER =
		37, /* stream partition; data: a run (struct thmq_run_header in place); len: its bytes; seq: first
				     offset wanted; to a member of a shared group, extra: how often these were handed out, tag_hash: when this was sent,
				     ms by some clock that goes on; arg0: token, whose lower half is below THMQI_DELIVERIES and of one run at a time; arg1: end offset (exclusive); generation */
	THMQI_FRAME_ATTACHED =
		38, /* stream partition; status; seq: offset it begins at; arg0, arg1: bounds;
				     flags: THMQI_ATTACHED_AT_GROUP; extra: generation of the ATTACH; tag_hash as of a DELIVER */
	THMQI_FRAME_DETACHED =
		39, /* stream partition; status 0, or -THMQ_EFENCED where a newer member took it, -THMQ_ENOTOPIC */
	THMQI_FRAME_SOUGHT =
		40, /* stream partition; status; seq: offset; generation; arg0, arg1: bounds begin, end */
	THMQI_FRAME_ACKED =
		41, /* stream partition; seq: offset stored durably; status: 0; refused: -THMQ_EFENCED, -EINVAL; another:
		       why seq cannot be stored now, -ENOSPC …: it will be when it can, and an ACKED of 0 tells so */
	THMQI_FRAME_ASSIGN =
		42, /* meta; stream partition(id); seq: epoch; arg0: shard; arg1: group id; len: index in topic; extra:
		     partitions that the topic had when the group was made, 0: not known */
	THMQI_FRAME_REVOKE =
		43, /* meta; stream partition(id); seq: epoch; status: 0 asked, -THMQ_EFENCED taken */
	THMQI_FRAME_GAP =
		44, /* stream partition; seq: offset delivery goes on at; arg0: offset that was wanted; generation */
	THMQI_FRAME_TROUBLE =
		45, /* stream partition; status: this partition or its shard has failed or was deleted; extra:
		       THMQI_OF_PRODUCER: the stream is a producer's, and seq is not settled and will not be */
	THMQI_FRAME_DELIVER_ONE =
		47, /* a DELIVER of one message, all of it wanted, whose record is in the frame, so that its reader need
		       not wait for the run's memory: seq: time; extra: size; key_len; flags: tag_len; arg1: its
		       offset + 1 */
	THMQI_FRAME_EXPELLED =
		48, /* meta; stream; status: -THMQ_EFENCED: the group took this silent member for dead, and has gone on without */
	THMQI_FRAME_SETTLED =
		56, /* stream partition; extra: all ACKs up to this serial are stored durably; status: as of ACKED; arg0: generation;
		       seq: where the group stands */
	THMQI_FRAME_WEAKER =
		57, /* stream partition; seq: first sequence; len: count; flags: durability that they have; status: why they have not the
		       one that they waited for, and a PROGRESS says that they have. Of a producer without reports */
	THMQI_FRAME_LIMITED =
		64, /* stream partition; arg0: a limit holds it up for so many ns; extra: THMQI_OF_PRODUCER: the stream is a producer's */
	THMQI_FRAME_TXN_CHECK =
		58, /* meta; seq: a prepared transaction, about which somebody who watches its name is to decide; arg0: how often that was asked */
	THMQI_FRAME_GROWN = 59, /* meta; partition: a topic's id; len: so many partitions it has now. To everybody, who may not know it */
	THMQI_FRAME_LOST =
		46 /* stream partition; seq: first offset; arg1: count, 0: not known: messages of a weaker ack or visibility, which
		      is flags; status: -THMQ_EFAILED their log failed, and they may be gone; 0 they are. extra:
		      THMQI_OF_PRODUCER: the stream is a producer's, and arg0 the first sequence */
};

/* 64 bytes, one cache line. turn is written last, by the ring. */
struct thmqi_frame {
	_Atomic uint32_t turn;
	uint8_t type;
	uint8_t flags;
	uint16_t key_len;
	uint32_t stream;
	uint32_t partition; /* id, unique in the broker */
	uint32_t len;
	uint32_t
		extra; /* PRODUCE: tag_len (8 bits) | report flag (bit 8) | user time set (bit 9) | record flags (bits 10 … 17) | encoded (bit 18) | series (bit 19) */
	uint64_t seq;
	uint64_t
		data; /* address in the terms of the connection's memory; a pointer in one process */
	uint64_t arg[2];
	uint32_t tag_hash;
	union {
		int32_t status;
		uint32_t generation;
	};
};
_Static_assert(sizeof(struct thmqi_frame) == 64, "a frame is a cache line");

/*
 * A frame but for its turn, which is its ring's. Field by field: a processor hands on what was just written only to a read that is no wider,
 * and one of several fields waits until they, and all that was written before them, have left for the cache. Each is read once.
 */
static inline void thmqi_frame_copy(struct thmqi_frame *to, const struct thmqi_frame *from)
{
	const volatile struct thmqi_frame *f = from;

	to->type = f->type;
	to->flags = f->flags;
	to->key_len = f->key_len;
	to->stream = f->stream;
	to->partition = f->partition;
	to->len = f->len;
	to->extra = f->extra;
	to->seq = f->seq;
	to->data = f->data;
	to->arg[0] = f->arg[0];
	to->arg[1] = f->arg[1];
	to->tag_hash = f->tag_hash;
	to->generation = f->generation;
}

#define THMQI_RELEASES 4u

/* The @i-th token of a RELEASES frame. */
static inline uint64_t *thmqi_frame_token(struct thmqi_frame *f, uint32_t i)
{
	return i < 2 ? &f->arg[i] : i == 2 ? &f->seq : &f->data;
}

/* What the client says of a series, and what the broker has seen of it so far; all that was written before it is there. */
static inline void thmqi_series_tell(struct thmqi_frame *f, uint64_t word)
{
	__atomic_store_n(&f->arg[0], word, __ATOMIC_RELEASE);
}

static inline uint64_t thmqi_series_told(const struct thmqi_frame *f)
{
	return __atomic_load_n(&f->arg[0], __ATOMIC_ACQUIRE);
}

static inline uint64_t thmqi_series_step(uint32_t len)
{
	return len ? THMQI_ALIGN_UP((uint64_t)len, 8u) : 8u;
}

/* Which of a stream's producers a PRODUCE frame is of. */
static inline uint32_t thmqi_producer_life(uint64_t id, uint32_t generation)
{
	return generation ^ (uint32_t)id;
}

#define THMQI_PRODUCE_TAG_LEN(extra) ((extra)&0xffu)
#define THMQI_PRODUCE_REPORT 0x100u
#define THMQI_PRODUCE_TIMED 0x200u
/* THMQ_RECORD_*: what lies behind the tag */
#define THMQI_PRODUCE_WITH(record_flags) ((uint32_t)(record_flags) << 10)
#define THMQI_PRODUCE_HAS(extra) ((uint8_t)((extra) >> 10 & 0x7e)) /* THMQ_RECORD_PART is the broker's own */
/* and here says: it is of a transaction, whose id is 8 bytes right behind the tag, before all that the other flags tell of */
#define THMQI_PRODUCE_TXN THMQI_PRODUCE_WITH(THMQ_RECORD_PART)
#define THMQI_PRODUCE_ENCODED 0x40000u /* data is the payload of a run of its own */
/*
 * In memory that client and broker share: the first of a series of messages that are alike, but that each one's sequence is the next, and its
 * bytes lie behind those of the one before it, rounded up to 8. arg0, which the client goes on writing: how many more there are by now, and
 * THMQI_SERIES_ENDS once the frame behind it is to be looked at. No time, no producer id. The shard is told of such messages by a frame that
 * is written once: arg0 is how many there are behind the first; and they have nothing but a payload.
 */
#define THMQI_PRODUCE_SERIES 0x80000u
#define THMQI_SERIES_MAX 1024u
#define THMQI_SERIES_ENDS (1ull << 63)
#define THMQI_ATTACH_ALWAYS 0x80u
#define THMQI_ATTACH_RESUME 0x40u
#define THMQI_ATTACH_SHARED 0x20u
#define THMQI_ATTACH_FILTERED 0x10u
#define THMQI_ATTACH_UNCOMMITTED 0x08u
#define THMQI_ATTACH_KIND(flags) ((flags)&0x07u)
#define THMQI_START_AGAIN 5u /* a start kind beside enum thmq_start: at the offset that this consumer comes to next, as another connection has told */
#define THMQI_FILTER_PIECE 24u
#define THMQI_SETTLE_ACK 1u    /* done */
#define THMQI_SETTLE_NACK 2u   /* to be handed out again, after arg0 */
#define THMQI_SETTLE_EXTEND 3u /* its own for arg0 more, from now on */
#define THMQI_SETTLE_RETURN 4u /* as NACK, but the app never saw it */
#define THMQI_LEAVE_AWAY 1u   /* in topic_flags of LEAVE: it may come back */
#define THMQI_JOIN_SHARED 1u   /* in topic_flags of JOIN */
#define THMQI_GROUP_VOLATILE 0x80000000u /* in a group's id: it ends with its broker's life */
#define THMQI_OF_PRODUCER 1u /* a number of a stream is a consumer's without it */
#define THMQI_ATTACHED_AT_GROUP 0x80u /* it begins where the group stands, not where ATTACH asked for */

/*
 * Ring of frames: one writer, one reader. The reader sees a frame by its turn word, so that a single frame crosses
 * in one cache-line transfer; the read position is published rarely.
 */
struct thmqi_frame_ring {
	struct thmqi_frame *slots;
	uint32_t mask;
	uint32_t shift;                          /* log2 of the slot count */
	_Atomic uint64_t *tail_at;               /* the tail below, or one in memory that another process has too */
	_Alignas(THMQI_CACHELINE) uint64_t head; /* writer */
	uint64_t tail_seen;                      /* writer: last read of tail */
	_Alignas(THMQI_CACHELINE) uint64_t next; /* reader */
	uint64_t published;                      /* reader: last written to tail */
	_Alignas(THMQI_CACHELINE) _Atomic uint64_t tail;
};

/* Slots are the caller's memory, zeroed, @count a power of two of at least 8. */
static inline void thmqi_frame_ring_init(struct thmqi_frame_ring *r, struct thmqi_frame *slots,
					 uint32_t count)
{
	memset(r, 0, sizeof(*r));
	r->slots = slots;
	r->mask = count - 1;
	r->shift = (uint32_t)__builtin_ctz(count);
	r->tail_at = &r->tail;
}

/* Writer: the next free slot, leaving at least @reserve free behind it, or NULL. Fill all but turn, then commit. */
static inline struct thmqi_frame *thmqi_frame_claim(struct thmqi_frame_ring *r, uint32_t reserve)
{
	if (thmqi_unlikely(r->head - r->tail_seen + reserve > r->mask)) {
		r->tail_seen = atomic_load_explicit(r->tail_at, memory_order_acquire);
		if (r->head - r->tail_seen + reserve > r->mask)
			return NULL;
	}
	return &r->slots[r->head & r->mask];
}

static inline void thmqi_frame_commit(struct thmqi_frame_ring *r)
{
	struct thmqi_frame *f = &r->slots[r->head & r->mask];

	/* everything written to the slot, and to memory it refers to, is visible before its turn */
	atomic_store_explicit(&f->turn, (uint32_t)(r->head >> r->shift) + 1, memory_order_release);
	r->head++;
}

/* Reader: the frame @ahead of the next one (0: the next), or NULL if it is not there yet. Stays valid until advance. */
static inline struct thmqi_frame *thmqi_frame_peek(struct thmqi_frame_ring *r, uint32_t ahead)
{
	uint64_t at = r->next + ahead;
	struct thmqi_frame *f = &r->slots[at & r->mask];

	if (ahead > r->mask ||
	    atomic_load_explicit(&f->turn, memory_order_acquire) != (uint32_t)(at >> r->shift) + 1)
		return NULL;
	return f;
}

/* Reader: the same frame, of which a peek has told that it is there. */
static inline struct thmqi_frame *thmqi_frame_at(const struct thmqi_frame_ring *r, uint32_t ahead)
{
	return &r->slots[(r->next + ahead) & r->mask];
}

/* Reader: the next @count frames are done with. Tells the writer now and then: call _publish when idle. */
static inline void thmqi_frame_publish(struct thmqi_frame_ring *r)
{
	if (r->published != r->next) {
		r->published = r->next;
		atomic_store_explicit(r->tail_at, r->next, memory_order_release);
	}
}

static inline void thmqi_frame_advance(struct thmqi_frame_ring *r, uint32_t count)
{
	r->next += count;
	if (r->next - r->published > r->mask / 4)
		thmqi_frame_publish(r);
}

/* ------------------------------------------------------------ control page */

enum thmqi_op {
	THMQI_OP_TOPIC_CREATE =
		1, /* meta; name, topic_flags, partition_count, visible_at, volatile_bytes, retention_*, ttl_ns, tombstone_ns; member: 32 bits of
		      this call, by chance, with which it may be said twice; or 0 */
	THMQI_OP_TOPIC_DELETE = 2, /* meta; name; topic_id: this one only; 0: whichever has the name */
	THMQI_OP_TOPIC_LIST =
		3, /* meta; index: first to list -> count entries of struct thmqi_topic_entry, total */
	THMQI_OP_TOPIC_DESCRIBE = 4, /* meta; name -> one entry */
	THMQI_OP_TOPIC_PARTITIONS =
		5, /* meta; topic_id, index: first, partition_count: as many at most, 0: as there is room for -> count entries of struct thmqi_partition_entry, total */
	THMQI_OP_JOIN =
		6, /* meta; name (topic), group, stream, session_timeout_ns, member -> value[0]: group id, in its upper half: as extra of an ASSIGN; ASSIGN frames follow, but with
		      topic_flags THMQI_JOIN_SHARED, which makes no member. A
		      member that is not 0 may come back on another connection: it gets what it had, if that is still its own;
		      index: enum thmq_assignor, and where it is NEAR rates[0]: thmqi_machine_id() of the client's, rates[1]: its processor + 1, or 0; key, key_len: its name, if it has one; group_id: the one that it comes back to, status
		      -THMQ_EFENCED where that is gone, though there may be another of its name; 0: whichever has the name */
	THMQI_OP_LEAVE = 7,      /* meta; stream; member: as of JOIN where it has no name, else 0: it may have come over another connection */
	THMQI_OP_GROUP_FIND = 8, /* meta; name, group -> value[0]: group id, or status -ENOENT */
	THMQI_OP_PARTITION_INFO =
		9, /* shard; partition, group_id -> value[0..3]: begin, end, group offset or UINT64_MAX, done behind that; total: readers
		      of the group's; count: delayed messages that wait for it; flags: 1 the group shares it; due_ns */
	THMQI_OP_PRODUCER_OPEN =
		10, /* meta; name (topic), group (the producer's name, or "") -> value[0..2]: id, epoch, highest sequence stored */
	THMQI_OP_KEY_FIND =
		11 /* shard; partition, before_offset, key, key_len -> value[0..1]: offset and time of the newest message below it */,
	THMQI_OP_NODES = 12, /* meta, of a cluster -> states; value[0..1]: which leads, in which term */
	THMQI_OP_NODE_CHANGE = 13, /* likewise; member: of this wish, by chance; volatile_bytes: node; index: voter 2, or removed 255; name: its
				      address -> status 0: it is so; -EAGAIN: it is under way, ask again */
	THMQI_OP_DELAYED_CANCEL = 24, /* shard; partition, before_offset: as its REPORT said -> status 0: it will not come; -ENOENT */
	THMQI_OP_POSITION = 25, /* shard; stream, partition -> value[0]: all below was handed to this consumer, or is nothing for it;
				   status -ENOENT: it is not attached */
	THMQI_OP_TOPIC_ALTER = 56, /* meta; name, index: THMQ_ALTER_*, of which: retention_*, ttl_ns, tombstone_ns, rates, partition_count */
	THMQI_OP_LEAD = 14, /* likewise; volatile_bytes: the node that is to lead, 0: any other */
	THMQI_OP_NODE_DRAIN = 15, /* likewise; volatile_bytes: the node that is not to lead (index 1), or may again (0) -> status 0: it is so;
				     -EAGAIN: it is under way, ask again */
	THMQI_OP_GROUP_LIST = 40, /* meta; name (topic), index: first -> count entries of struct thmqi_group_entry, total */
	THMQI_OP_GROUP_MEMBERS = 41, /* meta; name, group, index: first -> count entries of struct thmqi_member_entry, total; value[0]: group
					id, value[1]: assignor, value[2]: partitions, value[3]: members */
	THMQI_OP_GROUP_OWNERS = 42, /* meta; name, group, index: first -> count numbers: of each partition the place of the member that has it,
				       UINT32_MAX: none; total */
	THMQI_OP_GROUP_EXPEL = 43, /* meta; name, group: all its members are put out */
	THMQI_OP_GROUP_DELETE = 44, /* meta; name, group; group_id: this one only, 0: whichever has the name; topic_flags: THMQI_GROUP_FORCE, else -EBUSY where it has members */
	THMQI_OP_TXN_BEGIN = 64, /* meta; group: its name, or ""; member: a secret, by chance; session_timeout_ns; retention_ns: of checks;
				    index: how many; topic_flags: THMQI_TXN_STAYS -> value[0]: id */
	THMQI_OP_TXN_END = 65, /* meta; member: id, volatile_bytes: the secret, or it is watched; index: THMQI_TXN_*;
				  before_offset: messages and offsets that it has, UINT64_MAX: not known; topic_flags: THMQI_TXN_FORCE,
				  or 0 -> status 0; -ECANCELED it was aborted, … */
	THMQI_OP_TXN_WATCH = 66, /* meta; group: name: TXN_CHECK frames come to this connection, too, and it may end those of that name */
	THMQI_OP_TXN_OFFSET = 67, /* shard; member: id, partition, group_id, stream, session_timeout_ns: epoch, before_offset: all below it is
				     done, if the transaction is committed */
	THMQI_OP_TXN_LIST = 68, /* meta; member: an id, or 0 -> count entries of struct thmqi_txn_entry, of those above it; total: of all */
	THMQI_OP_GROUP_RESET = 45 /* shard; partition, group_id, index: enum thmq_start, before_offset: its value, topic_flags likewise ->
				     value[0]: the offset; 0: it is stored; -EAGAIN: it is being stored, ask again for this offset */
};
#define THMQI_GROUP_FORCE 1u
#define THMQI_TXN_STAYS 1u /* its connection may be lost, and come back */
#define THMQI_TXN_FORCE 2u /* of TXN_END: it is of no matter whose it is */
#define THMQI_TXN_COMMIT 1u
#define THMQI_TXN_ABORT 2u
#define THMQI_TXN_PREPARE 3u

/* What a topic is described for: who may do that may see it. */
enum thmqi_purpose { THMQI_TO_DESCRIBE, THMQI_TO_PRODUCE, THMQI_TO_CONSUME, THMQI_TO_ANY, THMQI_TO_DELETE };

struct thmqi_request {
	uint32_t op; /* enum thmqi_op */
	uint32_t topic_flags;
	uint32_t topic_id;
	uint32_t partition;
	uint32_t partition_count;
	uint32_t visible_at;
	uint32_t index;
	uint32_t stream;
	uint32_t group_id;
	uint32_t key_len;
	uint64_t volatile_bytes;
	uint64_t session_timeout_ns;
	uint64_t retention_ns;
	uint64_t retention_bytes;
	uint64_t ttl_ns;
	uint64_t tombstone_ns;
	uint64_t member; /* chosen by the client, by chance; 0: it does not come back */
	uint64_t before_offset;
	uint64_t rates[4]; /* TOPIC_CREATE: as of struct thmq_limits: produce bytes, messages, consume bytes, messages */
	uint32_t purpose;  /* TOPIC_DESCRIBE: enum thmqi_purpose */
	uint32_t priorities; /* TOPIC_CREATE: each has partition_count partitions; 0: there are none */
	char name[256];  /* NUL-terminated */
	char group[256];
	uint8_t key[THMQ_KEY_MAX];
};
/* Of a request between machines; what its key has is behind it. */
#define THMQI_REQUEST_LEAST ((uint32_t)offsetof(struct thmqi_request, key))

struct thmqi_topic_entry {
	uint32_t topic_id;
	uint32_t topic_flags;
	uint32_t partition_count;
	uint32_t visible_at;
	uint32_t group_count;
	uint32_t priorities; /* 0: none; else they share partition_count */
	uint64_t retention_ns;
	uint64_t retention_bytes;
	uint64_t ttl_ns;
	uint64_t tombstone_ns; /* 0: it is not compacted */
	uint64_t rates[4];
	char name[256];
};

struct thmqi_partition_entry {
	uint32_t partition; /* id */
	uint32_t shard;
};

/* One of the brokers that have copies of the same data; value[0] is the id of the one that leads, 0: none is known. */
struct thmqi_node_entry {
	uint64_t id;
	char url[256]; /* NUL-terminated */
};
#define THMQI_NODES_MAX 15u

/* The same in full, as the one that leads knows it. */
struct thmqi_node_state {
	uint64_t id;
	uint32_t role; /* 0 spare, 1 standby, 2 voter */
	uint32_t connected;
	int32_t error; /* why not; or, where it is connected, what it suffers from */
	uint32_t drained; /* 1: it is not to lead */
	uint64_t behind; /* batches, of the shard of which it lacks most; UINT64_MAX: not known */
	char url[256];
};

struct thmq_node;
/* As element @at of an array whose elements are as large as the first one's size says. @failed: see there; NULL */
void thmqi_node_give(const struct thmqi_node_state *e, uint64_t leader, uint64_t term, const char *failed, struct thmq_node *ret_nodes, uint32_t at);

struct thmqi_group_entry {
	uint32_t group_id;
	uint32_t member_count;
	uint32_t assignor;
	uint32_t reserved;
	char name[256]; /* NUL-terminated */
};

struct thmqi_member_entry {
	uint64_t id;
	uint64_t silent_ns;
	uint32_t partition_count;
	uint32_t away;
	char instance[64]; /* NUL-terminated */
};

struct thmqi_txn_entry {
	uint64_t id;
	uint64_t since_ns; /* since 1970 */
	uint64_t left_ns;
	uint32_t state; /* enum thmq_txn_state */
	uint32_t checks, check_max;
	uint32_t reserved;
	char name[256];     /* NUL-terminated, as identity */
	char identity[256]; /* "": nobody's */
};

#define THMQI_REPLY_BYTES 16384u

struct thmqi_reply {
	int32_t status;
	uint32_t count; /* entries here */
	uint32_t total; /* entries there are */
	uint32_t flags; /* of PARTITION_INFO */
	uint64_t value[4];
	union {
		struct thmqi_topic_entry
			topics[(THMQI_REPLY_BYTES - 64) / sizeof(struct thmqi_topic_entry)];
		struct thmqi_partition_entry
			partitions[(THMQI_REPLY_BYTES - 64) / sizeof(struct thmqi_partition_entry)];
		struct thmqi_node_entry nodes[THMQI_NODES_MAX];
		struct thmqi_node_state states[THMQI_NODES_MAX];
		struct thmqi_group_entry groups[(THMQI_REPLY_BYTES - 64) / sizeof(struct thmqi_group_entry)];
		struct thmqi_member_entry members[(THMQI_REPLY_BYTES - 64) / sizeof(struct thmqi_member_entry)];
		uint32_t owners[(THMQI_REPLY_BYTES - 64) / sizeof(uint32_t)];
		uint64_t due_ns; /* of PARTITION_INFO */
		struct thmqi_txn_entry txns[(THMQI_REPLY_BYTES - 64) / sizeof(struct thmqi_txn_entry)];
	};
};

#endif
