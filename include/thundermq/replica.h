/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replica.h - a log with several copies, as a building block: each on a machine of its own, one of them leads, and what a majority has
 * on its medium is committed and stays.
 *
 * A replica is one copy: a commit log (log.h) with a number, on a core. Its owner appends to the log of the copy that leads, as to
 * any log; all others take the same batches, byte for byte. What the owner gives besides is the way between them: it carries messages, in
 * any order, some of them twice or not at all. Consensus is cowsql/raft's, by its raft_step(). doc/replication.md is a guide, with
 * examples/three_copies.c as its whole program; doc/format.md describes every byte. A library that was built without libraft has these
 * calls, and thmq_replica_open() is -EOPNOTSUPP.
 */
#ifndef THUNDERMQ_REPLICA_H
#define THUNDERMQ_REPLICA_H

#include <thundermq/log.h>
#include <thundermq/pool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_replica;
struct thmq_carrier;

/* ------------------------------------------------------------------ members */

#define THMQ_MEMBERS_MAX 15u
#define THMQ_ADDRESS_MAX 256u /* with its zero */

enum thmq_member_role {
	THMQ_MEMBER_SPARE = 0,    /* known, and gets nothing */
	THMQ_MEMBER_STANDBY = 1,  /* gets all, and counts for nothing */
	THMQ_MEMBER_VOTER = 2,    /* gets all, votes and counts */
	THMQ_MEMBER_REMOVED = 255 /* of a change: it is none any more */
};

struct thmq_member {
	uint64_t
		id; /* never 0; of one copy, and never given to another one, nor to this one once it lost its directory */
	uint32_t role; /* enum thmq_member_role */
	uint32_t reserved;
	char address
		[THMQ_ADDRESS_MAX]; /* the owner's: how it is reached. Not empty, and no other member's */
};

/* ----------------------------------------------------------------- messages */

/*
 * From copy to copy, as it is sent: 96 bytes, little endian, with a checksum of their own; batch_bytes bytes follow. Who carries it looks at
 * group, from, to and batch_bytes; the rest is the library's.
 */
struct thmq_replica_message {
	uint32_t internal[2];
	uint64_t group;
	uint64_t from, to; /* members */
	uint64_t internal_numbers[4];
	uint32_t batch_bytes; /* behind this; 0: none */
	uint32_t internal_words[7];
};

/* ------------------------------------------------------------------- events */

enum thmq_replica_role {
	THMQ_REPLICA_FOLLOWER = 1,
	THMQ_REPLICA_CANDIDATE = 2,
	THMQ_REPLICA_LEADER = 3
};

/* What a replica tells its owner, on its core, never inside the call that began the work. NULL: not wanted; send is. */
struct thmq_replica_events {
	uint32_t size;
	uint32_t reserved;
	/*
	 * A message is to go to @message->to. @batch, with message->batch_bytes bytes at batch->data, or NULL: it is not to be changed, and who
	 * keeps it beyond the call takes a reference (thmq_buf_ref()). Return: 0; -EAGAIN the way is full, and thmq_replica_writable() tells when
	 * it is not; another error: the message is lost, which does no harm but to speed.
	 */
	int (*send)(void *ctx, const struct thmq_replica_message *message, struct thmq_buf *batch);
	/* @role is what this copy is from now on: while it leads its log takes appends. @leader: the member that leads; 0: none is known. */
	void (*role)(void *ctx, uint32_t role, uint64_t term, uint64_t leader);
	/* All batches up to @index are committed: the loss of a minority does not take them back. It rises, and begins low at each open. */
	void (*committed)(void *ctx, uint64_t index);
	/* The members have changed by batch @index: in force at once, and for good when that is committed. */
	void (*members)(void *ctx, const struct thmq_member *members, uint32_t count,
			uint64_t index);
	/* This copy has failed (its device, or bytes that contradict each other) and takes part no more. Its log can be read. */
	void (*failed)(void *ctx, int error);
};

/* --------------------------------------------------------------------- open */

struct thmq_replica_opts {
	uint32_t size;
	uint32_t flags; /* 0 */
	/*
	 * Of the log: dir and log_id are set, the latter and the segment sizes the same on all copies. events->replay is also called for
	 * each run that is taken from the copy that leads, unappended takes such back (from index 1 on: all, the log begins elsewhere), and
	 * settled also tells of THMQ_DURABILITY_QUORUM. Retention is thmq_replica_trim(): live, renew and leave are not asked.
	 */
	const struct thmq_log_opts *log;
	const struct thmq_replica_events *events;
	void *ctx;      /* first argument of these events */
	uint64_t id;    /* of this copy */
	uint64_t group; /* of the copies together: a message of another one is refused */
	/* At creation: with these the group begins, and all of them are given the same. NULL: this copy is empty and joins one that is there. */
	const struct thmq_member *members;
	uint32_t member_count;
	uint32_t heartbeat_ms; /* 0 means 30 */
	uint32_t
		election_ms; /* a leader that is not heard of for so long, up to twice, is replaced; 0 means 300 */
	uint32_t reserved;
	/*
	 * It carries the messages: events->send, thmq_replica_receive() and thmq_replica_writable() are not needed then. It is on the same core, @id is
	 * its node's, and members' addresses are where the carriers of their nodes listen. NULL: the owner carries them.
	 */
	struct thmq_carrier *carrier;
};

#define THMQ_REPLICA_OPTS(...)                                                                     \
	(&(struct thmq_replica_opts){.size = sizeof(struct thmq_replica_opts), __VA_ARGS__})

/** thmq_replica_opts_init() - set @opts to the defaults */
THMQ_API void thmq_replica_opts_init(struct thmq_replica_opts *opts, uint32_t size);
#define thmq_replica_opts_init(opts) thmq_replica_opts_init((opts), sizeof(struct thmq_replica_opts))

/**
 * thmq_replica_open() - open or create one copy of a group's log and take part
 * @core: the core that will run it; the calling thread drives it
 *
 * What @opts points to is copied. The log is opened as by thmq_log_open(). A directory that lost what it had must not come back under the same
 * number, since it may have voted: remove that member, and let it join under another one.
 *
 * Return: 0; -EOPNOTSUPP the library was built without libraft; -EINVAL an option, thmq_errmsg() says which; -THMQ_ECORRUPT also where the
 * file `vote` is damaged; as thmq_log_open().
 * Threads: the one that drives @core; blocks.
 */
THMQ_API int thmq_replica_open(struct thmq_core *core, const struct thmq_replica_opts *opts,
			       struct thmq_replica **ret_replica);

/**
 * thmq_replica_close() - as thmq_log_close(); no event comes any more, nothing is sent. NULL is allowed
 * The others find out after election_ms: thmq_replica_transfer() first spares them that. Views and readers of the log are given back before.
 * Return: as thmq_log_close(); -EPERM.
 */
THMQ_API int thmq_replica_close(struct thmq_replica *replica, uint64_t timeout_ns);

/**
 * thmq_replica_log() - its log: to append to while it leads, else that is -THMQ_ENOTLEADER, and to read
 * Not to be truncated or closed. What is read beyond what is committed may be taken back: give thmq_log_read() an end.
 * Return: the log, valid until the replica closes.
 */
THMQ_API struct thmq_log *thmq_replica_log(struct thmq_replica *replica);

/* ----------------------------------------------------------------- carrying */

/**
 * thmq_replica_buf() - memory of the replica's core for a batch that comes
 * @bytes: message->batch_bytes, at most 4 MiB
 * Return: 0, with one reference, given back by thmq_buf_unref() or thmq_replica_receive(); -ENOBUFS; -EMSGSIZE; -EPERM.
 */
THMQ_API int thmq_replica_buf(struct thmq_replica *replica, uint32_t bytes,
			      struct thmq_buf **ret_buf);

/**
 * thmq_replica_receive() - a message has come
 * @batch: from thmq_replica_buf(), with its batch_bytes; NULL: it has none. The replica's if this is 0, and not to be touched any more
 * Bytes that were damaged on their way are found and dropped. Who sent it must be known to the one who carries it: nothing here proves it.
 * Return: 0; -EAGAIN again later, before any other of the same sender; -EINVAL it is no message for this copy, or damaged; -THMQ_EFAILED;
 * -EPERM.
 */
THMQ_API int thmq_replica_receive(struct thmq_replica *replica,
				  const struct thmq_replica_message *message,
				  struct thmq_buf *batch);

/** thmq_replica_writable() - the way to member @id, which was full, takes messages again. Return: 0; -EPERM */
THMQ_API int thmq_replica_writable(struct thmq_replica *replica, uint64_t id);

/* -------------------------------------------------------------------- state */

struct thmq_replica_state {
	uint32_t size; /* in */
	uint32_t role; /* enum thmq_replica_role */
	uint64_t term;
	uint64_t leader;        /* 0: none is known */
	uint64_t last_index;    /* of the last batch that is here */
	uint64_t durable_index; /* all up to it is on the medium here */
	uint64_t
		committed_index; /* all up to it is on the media of a majority, as far as is known here */
	uint64_t members_index;     /* of the batch that named the members */
	uint32_t members_committed; /* 1: it is committed */
	uint32_t member_count;
	uint32_t transferring; /* 1: another one is to lead, and appends wait */
	int32_t failed;        /* 0; why it takes part no more */
};

/** thmq_replica_state() - how it is. Return: 0; -EINVAL; -EPERM. */
THMQ_API int thmq_replica_state(struct thmq_replica *replica, struct thmq_replica_state *ret_state);

/** thmq_replica_members() - who belongs to the group, as this copy knows it. @ret_members: room for @max. Return: how many there are; -EPERM */
THMQ_API int thmq_replica_members(struct thmq_replica *replica, struct thmq_member *ret_members,
				  uint32_t max);

/* --------------------------------------------------- by the copy that leads */

/**
 * thmq_replica_change() - one step of a change of the members
 * @member: a new one, as a spare; a known one in another role; or one that is THMQ_MEMBER_REMOVED. Not the leader: transfer first
 * A copy joins as spare, becomes standby, and once thmq_replica_catch_up() is 1 voter. Each step is a batch: in force when it is formed, for good
 * when it is committed, and then comes the next one.
 * Return: 0; -EAGAIN another step, or the leader's first batch, is not committed yet; -EINVAL it is no such step; -THMQ_ENOTLEADER;
 * -THMQ_EFAILED; -EPERM; -ENOSPC …
 */
THMQ_API int thmq_replica_change(struct thmq_replica *replica, const struct thmq_member *member);

/**
 * thmq_replica_catch_up() - does member @id, a spare or standby, have nearly all? The first call begins to look
 * Return: 1 yes; 0 not yet; -ETIMEDOUT it is too slow, or silent: what was begun is begun again; -EAGAIN another one is looked at; -EINVAL it
 * is none such; -THMQ_ENOTLEADER; -THMQ_EFAILED; -EPERM.
 */
THMQ_API int thmq_replica_catch_up(struct thmq_replica *replica, uint64_t id);

/**
 * thmq_replica_transfer() - another voter is to lead: @id, or with 0 the one that has most
 * Batches are not formed until it does, or election_ms have passed; events->role tells. What is appended and not formed when it does is taken back.
 * Return: 0 it is under way; -EAGAIN another is; -EINVAL no such voter; -THMQ_ENOTLEADER; -THMQ_EFAILED; -EPERM.
 */
THMQ_API int thmq_replica_transfer(struct thmq_replica *replica, uint64_t id);

/**
 * thmq_replica_trim() - whole segments of batches before @index may go, on all copies
 * @index: committed. What counts of the owner's states and runs there was appended again, and is committed, too
 * It is a batch; once that is committed, each copy drops what lies before. One that has not got it begins anew behind it, and is told so
 * by the log's events->unappended with index 1.
 * Return: 0; -EAGAIN something must be committed first: again later; -EINVAL; -THMQ_ENOTLEADER; -THMQ_EFAILED; -EPERM; -ENOSPC …
 */
THMQ_API int thmq_replica_trim(struct thmq_replica *replica, uint64_t index);

/* ------------------------------------------------------------------ carrier */

/*
 * A carrier takes messages from node to node over TCP: one connection for each other node, for all replicas of a core. It finds the nodes by the addresses
 * of the members, calls those that it has lost again and again, and notices who is silent. doc/replication.md tells more.
 */
struct thmq_carrier_opts {
	uint32_t size;
	uint32_t flags;      /* 0 */
	uint64_t id;         /* of this node: the member number of all its copies */
	const char *cluster; /* a name of up to 31 characters: nodes of another one are refused; NULL: "" */
	const char *listen;  /* tcp://host:port or, with tls, tls://host:port; port 0: any; NULL: it calls the others, and is not called */
	/*
	 * Who the others are: psk_identity and psk_key, the same on all nodes, or certificates of one signer. NULL: in clear, and whoever reaches the
	 * port can say that he is a node, and change what is stored: for one machine, or a network of its own.
	 */
	const struct thmq_tls_opts *tls;
	uint32_t lane; /* below 1024. Of a node with several carriers: a number for each; a group has the same lane on all nodes */
	uint32_t silence_ms; /* a node that says nothing for so long is called anew; 100 at least; 0 means 1000 */
	/*
	 * Another carrier of this node, on another core of the environment: it listens for this one, too, which has no listen of its own. It is
	 * closed after this one.
	 */
	struct thmq_carrier *beside;
};

#define THMQ_CARRIER_OPTS(...)                                                                     \
	(&(struct thmq_carrier_opts){.size = sizeof(struct thmq_carrier_opts), __VA_ARGS__})

/** thmq_carrier_opts_init() - set @opts to the defaults */
THMQ_API void thmq_carrier_opts_init(struct thmq_carrier_opts *opts, uint32_t size);
#define thmq_carrier_opts_init(opts) thmq_carrier_opts_init((opts), sizeof(struct thmq_carrier_opts))

/**
 * thmq_carrier_open() - begin to listen for other nodes
 * @core: whose replicas it carries messages for; the calling thread drives it
 * What @opts points to is copied. Names of hosts are looked up when a member becomes known, which may block the core: addresses are not.
 * Return: 0; -EINVAL an option, thmq_errmsg() says which; -EADDRINUSE …; -EHOSTUNREACH; as for TLS; -EOPNOTSUPP the library was built without
 * libraft; -EPERM; -ENOMEM.
 * Threads: the one that drives @core. Owner: the app, until thmq_carrier_close() or its environment closes.
 */
THMQ_API int thmq_carrier_open(struct thmq_core *core, const struct thmq_carrier_opts *opts,
			       struct thmq_carrier **ret_carrier);

/** thmq_carrier_close() - end all connections; its replicas are closed before, or send nothing any more. Return: 0; -EPERM. NULL is allowed */
THMQ_API int thmq_carrier_close(struct thmq_carrier *carrier);

/** thmq_carrier_url() - where it listens, with its real port, NUL-terminated. Return: its length, 0: nowhere; -ENOSPC; -EPERM */
THMQ_API int thmq_carrier_url(struct thmq_carrier *carrier, char *ret_url, uint32_t size);

/**
 * thmq_carrier_place() - node @id is to be found at @url, whatever its address as a member is; NULL: there again
 * For one that listens elsewhere than others see it: behind a translation of addresses, or a proxy.
 * Return: 0; -EINVAL; -EHOSTUNREACH such a host is not known now: it is looked up again later; -EUSERS there are too many; -EPERM; -ENOMEM.
 */
THMQ_API int thmq_carrier_place(struct thmq_carrier *carrier, uint64_t id, const char *url);

/* Another node, as a carrier knows it. */
struct thmq_carrier_peer {
	uint32_t size; /* in */
	uint32_t connected;
	uint64_t id;
	int32_t error;   /* why it was not reached the last time, or was lost; 0 */
	uint32_t secure; /* by TLS */
	uint64_t connections; /* made so far */
	uint64_t messages_out, messages_in, bytes_out, bytes_in;
	uint64_t refused; /* messages that came and were not taken: of a group that is not here, or there was no room */
	char url[THMQ_ADDRESS_MAX]; /* where it is called; "": it has called */
};

/**
 * thmq_carrier_peer() - the @index-th other node
 * @ret_peer: in: its size field. Return: 0; -ENOENT there are no more; -EINVAL; -EPERM.
 */
THMQ_API int thmq_carrier_peer(struct thmq_carrier *carrier, uint32_t index,
			       struct thmq_carrier_peer *ret_peer);

#ifdef __cplusplus
}
#endif
#endif
