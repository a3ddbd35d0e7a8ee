/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kafka.h - what the files of this broker know of each other. One thread does all: it drives the library's core, whose broker has the
 * messages, and the sockets of Kafka's clients.
 *
 *   conn.c   sockets, frames; tls.c below it      produce.c  Produce                     group*.c   who is in which group
 *   api.c    which request is whose               fetch.c    Fetch, ListOffsets          offsets.c  what groups have committed
 *   auth.c   who the client is                    topics.c   Metadata, topics            store.c    the library, seen from here
 *   configs.c  settings                           readers.c  who reads where              table.c    finds by name
 *   cluster.c  which of several brokers leads     transactions*.c  who has one open      load.c     what was kept, when it begins
 *   pieces.c   batches that are sent from where they lie                      trouble.c  the device refuses messages
 *   watch.c    what comes into topics of many partitions
 */
#ifndef KAFKA_KAFKA_H
#define KAFKA_KAFKA_H

#include <sys/uio.h>
#include <thundermq/thundermq.h>

#include "batch.h"
#include "codec.h"
#include "errors.h"
#include "table.h"

#define MILLISECOND 1000000ll
#define SECOND 1000000000ll
#define FRAME_MAX (100u << 20)    /* bytes of a request; Kafka's socket.request.max.bytes */
#define STRANGER_FRAME_MAX 65536u /* the same before a client has said who it is */
#define PIPELINE_MAX 256u         /* requests of a connection that are not answered yet */
#define OUT_BYTES_MAX                                                                              \
	(16u << 20) /* bytes for a client that it does not take: nothing more is done for it then */
#define FETCH_BYTES_MAX (55u << 20)
#define API_PRODUCE 0
#define API_SASL_HANDSHAKE 17
#define API_VERSIONS 18
#define API_SASL_AUTHENTICATE 36
#define OFFSETS_TOPIC "kafka.group-offsets"
#define TRANSACTIONS_TOPIC "kafka.transactions"
/* Headers by which a message says what Kafka's records have beside the library's; clients of Kafka see THMQ_TAG_HEADER only. */
#define EMPTY_HEADER "kafka.empty" /* its value (bit 0) or its key (bit 1) is empty, not null */
#define PRODUCER_HEADER                                                                            \
	"kafka.batch" /* first of a batch: producer's id, epoch, first sequence, count */
#define THMQ_TAG_HEADER "thmq.tag" /* a message's tag */

/* Where clients find one of several brokers that keep the same data. */
#define PEERS_MAX 15u
struct peer {
	int32_t id;
	int port;
	char host[128];
};

struct options {
	const char *cluster, *cluster_name, *cluster_key; /* the library's; NULL: there is one broker */
	struct peer peers[PEERS_MAX];
	uint32_t peer_count;
	const char *data_dir, *listen, *listen_tls, *advertise, *thmq_listen;
	const char *cert_file, *key_file, *client_ca_file, *users_file;
	const char *cluster_id;
	int32_t node_id, default_partitions;
	uint32_t connection_max;
	int64_t name_expires_s; /* of a transaction */
	bool auto_create, verbose;
};

struct server;
struct conn;
struct request;
struct topic;
struct partition;
struct lane;

/* ------------------------------------------------------------- connections */

struct user;
struct tls;
struct tls_context;

/* Bytes of an answer that lie in the library's memory, lent by a reader until they are sent. */
struct piece {
	struct piece *next;
	size_t at; /* they come before what stands there in the answer's own bytes */
	struct text bytes; /* that are still to be sent */
	struct reader *reader;
	struct thmq_message lent;
};
struct pieces {
	struct piece *first, **last;
	size_t len; /* bytes of all */
};

bool pieces_add(struct pieces *p, size_t at, struct text bytes, struct reader *reader, const struct thmq_message *lent); /* false: no memory */
void pieces_shift(struct pieces *p, size_t from, size_t less); /* the answer's own bytes from there on have moved down by so many */
void pieces_move(struct pieces *to, struct pieces *from, size_t to_at, size_t from_at); /* what was at from_at is at to_at now */
void pieces_free(struct pieces *p);
/* What is to be sent, of @out from @at on, with the pieces. Return: how many of @iov, which has room for @max, at least 3 */
uint32_t pieces_lay_out(const struct pieces *p, const struct out *out, size_t at, struct iovec *iov, uint32_t max);
void pieces_sent(struct pieces *p, size_t *at, size_t len); /* so many bytes of that are: *at goes on */

/* What a client has proven. */
enum auth_state { AUTH_NONE, AUTH_HANDSHAKE, AUTH_SCRAM_FIRST, AUTH_DONE };

struct auth {
	enum auth_state state;
	int mechanism;
	bool raw; /* tokens come as they are, without a request around them: since a handshake of version 0 */
	const struct user *user;
	char *first_bare, *server_first; /* of SCRAM's conversation */
};

struct conn {
	struct server *server;
	struct conn *next, *before; /* of all */
	int fd;
	uint32_t id;
	struct tls *tls; /* NULL: plain */
	struct auth auth;
	struct out in; /* what was received; in_at of it is done */
	size_t in_at, in_counted, out_counted;
	struct out out; /* what is to be sent; out_at of it is */
	size_t out_at;
	struct pieces pieces; /* of it */
	struct request *first, **last, *newest; /* not answered yet, in their order */
	uint32_t pending;
	bool has_asked, readable, writable, closing, dirty, gone; /* gone: the client sends nothing any more */
	struct conn *next_dirty;
	int64_t used_ns;
	char peer[64], local_host[64];
	uint16_t local_port;
};

int conn_listen(struct server *s, const char *where, bool tls, int *ret_fd, uint16_t *ret_port);
void conn_accept(struct server *s, int listen_fd, bool tls);
void conn_event(struct conn *c, uint32_t events);
void conn_run_dirty(
	struct server *s); /* what is to be read, answered and sent is; or the connection ends */
void conn_dirty(struct conn *c);
void conn_close(struct conn *c);
void conn_tick(struct server *s);

#define ANSWER_HEAD 9u /* bytes before an answer at most: its length, which request's it is, no tags */

/* One request, from its frame to its answer. */
struct request {
	struct request *next; /* of its connection */
	struct server *server;
	struct conn *conn; /* NULL: it is gone, and nobody wants the answer */
	uint8_t *frame;
	size_t frame_len;
	int64_t begun_ns;
	struct in in;
	struct out out; /* ANSWER_HEAD bytes, and the answer */
	struct pieces pieces; /* of it */
	int32_t correlation;
	int16_t api, version;
	struct text client_id;
	bool done, silent; /* silent: no answer */
	/* What waits: called from time to time until it says that the answer is there. */
	bool (*look)(struct request *r);
	void (*drop)(
		struct request *r); /* the connection is gone: free it now, or when it is done */
	void *state;
	int64_t deadline_ns;
	bool fresh; /* not looked at yet */
	struct request *next_waiting, **at_waiting;
};

void request_done(struct request *r); /* the answer is in out; frees it where nobody wants it */
void request_fail(
	struct request *r); /* no answer: the connection ends, what was said makes no sense */
void request_wait(struct request *r, bool (*look)(struct request *r), int64_t deadline_ns);
void request_free(struct request *r);
void request_look_all(struct server *s, bool news); /* as many as there is time for in this round, in turns */
bool request_looks_on(const struct server *s); /* some have their turn in the next one */
/* Has it held up all others for so long? Then what is left of it gets an error with which clients come again. */
bool request_is_late(const struct request *r, int64_t most_ns);
#define MANAGE_NS (5 * SECOND) /* for topics that are made, altered or deleted */
size_t conn_room_for_answer(const struct server *s); /* bytes, so that all answers together stay within bounds */

/* api.c */
bool api_begin(struct request *r, size_t len); /* false: no request that we know */
void api_run(struct request *r);
void api_versions(struct request *r);

/* tls.c; tls_read() and tls_write() return as read(2) and write(2) do, 0 at the end, -1 with errno EAGAIN */
int tls_context_open(const struct options *o, struct tls_context **ret);
void tls_context_close(struct tls_context *x);
struct tls *tls_open(struct tls_context *x, int fd);
void tls_close(struct tls *t);
long tls_read(struct tls *t, void *data, size_t len);
long tls_write(struct tls *t, const void *data, size_t len);

/* auth.c */
int auth_load(struct server *s, const char *file);
void auth_unload(struct server *s);
void auth_end(struct auth *a);
bool auth_allows(const struct conn *c, int16_t api);
void auth_handshake(struct request *r);
void auth_authenticate(struct request *r);
/* A token without a request around it. Return: false, it is refused. */
bool auth_raw(struct conn *c, struct text token, struct out *out);

/* -------------------------------------------------------------------- store */

/* A transaction as the library has it: of one session. */
struct store_txn {
	struct lane *lane;
	struct thmq_txn *txn;
};

/* Messages of one partition that were sent together and are not settled. */
struct sending {
	struct sending *next;
	struct partition *partition;
	struct thmq_producer *producer;
	struct thmq_txn *txn;               /* NULL: none */
	uint64_t first, last;               /* the library's sequences */
	uint32_t count, settled, failed_at; /* failed_at: how many were stored before one was not */
	uint32_t span;                      /* offsets that the last of them takes */
	int error;                          /* of the library, negative */
	int64_t base_offset;
	struct settled_call *calls;
};

/* Who wants to hear of it. A member of something that stays until it is called. */
struct settled_call {
	struct settled_call *next;
	void (*settled)(struct settled_call *call, int error, int64_t base_offset);
};

/* How far an idempotent producer has come in a partition. */
#define PRODUCER_BATCHES 5u /* that may be on their way; Kafka's limit too */
struct producer_batch {
	int32_t first, last;
	int64_t base_offset; /* -1: not settled */
	struct sending *sending;
};
struct producer_state {
	struct producer_state *next;
	int64_t id, used_ns;
	int16_t epoch;
	int32_t expected;
	struct producer_batch batches[PRODUCER_BATCHES]; /* the newest first */
	uint32_t batch_count;
};

struct reader {
	struct reader *next; /* of its partition */
	struct reader *newer, *older; /* of those that are idle: neither busy nor lent */
	struct partition *partition;
	struct lane *lane;
	uint64_t holds; /* bytes of the library's memory, about */
	struct thmq_consumer *consumer;
	int64_t next_offset, used_ns;
	bool uncommitted, busy, full, closing, idle;
	uint32_t at, count, given; /* of messages: at are done, count there, given not released */
	uint32_t lent;             /* that are on their way to clients; it is not closed before these have come back */
	bool is_lent[512];         /* of messages: they come back by themselves */
	struct thmq_message messages[512];
};

struct partition {
	struct topic *topic;
	uint32_t index;
	struct sending *first, **last;
	struct reader *readers;
	struct producer_state *producers;
	bool producers_known; /* those of an earlier life too */
	int64_t described_ns;
	int64_t begin, end, high; /* end: one past the last message that is committed; high: that we know of at all, if that is more */
};

struct topic {
	struct topic *next;
	struct server *server;
	char name[THMQ_TOPIC_NAME_MAX + 1];
	uint32_t id, partition_count, refs;
	uint64_t retention_ns, retention_bytes, tombstone_ns;
	bool gone, compacted, in_memory;
	struct lane *lane;
	struct thmq_producer *producer;
	struct other *others; /* producers in other sessions, for transactions */
	uint32_t len_max;
	struct partition **partitions;
	struct watch *watches[2]; /* of what is committed, and of all; or NULL */
};

void producers_free(struct partition *p);

int store_open(struct server *s);
int store_lanes(struct server *s);   /* the sessions for messages. Return: an error of the library */
void store_forget(struct server *s); /* these, and all topics */
void store_close(struct server *s);
void store_tick(struct server *s); /* once in a while */
/* Drives the library, and hears what has settled. Return: something was done. */
bool store_pump(struct server *s, uint64_t timeout_ns);
/* A topic by its name. Return: 0, or an error of the protocol. */
int store_topic(struct server *s, struct text name, struct topic **ret);
int store_partition(struct server *s, struct text name, int32_t index, struct partition **ret);
void store_topic_again(struct server *s, struct topic *t); /* it may have more partitions */
struct topic *
store_known(struct server *s,
	    const struct thmq_topic_info *info); /* as it was just listed; NULL: no memory */
void store_ref(struct topic *t);
void store_unref(struct topic *t);
void store_topic_gone(struct server *s, struct topic *t);
int store_ready(
	struct topic *t); /* it has a producer, and len_max. Return: an error of the library */
int store_describe(
	struct partition *p); /* its begin and end anew. Return: 0, or an error of the protocol */
int store_error(int rc);      /* an error of the library as one of the protocol */

/*
 * Messages of one partition, one after the other, which nobody comes between but those who speak to the library themselves: begin, add
 * each, end. An error of add is of all; what was added before may be stored. @in: a transaction that they are of, or NULL
 */
int sending_begin(struct partition *p, const struct store_txn *in, struct sending **ret);
int sending_add(struct sending *g, struct text value, struct thmq_message_opts *opts);
/* A batch of @count records as it is. -EMSGSIZE: it is too large for that, and nothing was done */
int sending_add_batch(struct sending *g, struct text batch, int32_t count, uint32_t durability);
void sending_drop(struct sending *g); /* instead of its end: nothing was added */
void sending_end(struct sending *g,
		 struct settled_call *call); /* call may be NULL; it may be called at once */

int store_txn_begin(struct server *s, int64_t timeout_ns, struct store_txn *ret); /* Return: an error of the library */

/* A reader of the partition at @offset, ours alone until it is put. Return: 0, or an error of the protocol. */
int reader_get(struct partition *p, int64_t offset, bool uncommitted, struct reader **ret);
int reader_get_time(struct partition *p, int64_t time_ns, struct reader **ret);
void reader_put(struct reader *r);
/* Takes in what has come. Return: bytes that are there, INT64_MAX if there is no room for more; or an error of the library, negative */
int64_t reader_fill(struct reader *r);
const struct thmq_message *reader_peek(struct reader *r); /* NULL: nothing is there now */
/* Is what was peeked at a whole batch of ours, with span records? It may begin before the reader's offset. */
bool reader_is_batch(struct reader *r);
void reader_step(struct reader *r);
/* What was peeked at stays where it is, whatever becomes of the reader, until it is taken back. */
bool reader_may_lend(const struct reader *r); /* those that have, hold so little that others go on where it does not come back */
void reader_lend(struct reader *r);
void reader_take_back(struct reader *r, struct thmq_message *lent);

/* watch.c: how far a topic's partitions go is told from now on: those that are described behind this are known. Return: false, it cannot be */
bool watch_want(struct topic *t, bool uncommitted);
bool watch_knows(const struct partition *p, bool uncommitted, bool lately); /* lately: where it begins, too */
void watch_close_all(struct topic *t);
void watches_read(struct server *s); /* s->watch_serial goes on where something has come */
void watches_sweep(struct server *s, int64_t idle_ns); /* those that nobody has wanted for so long go */

/* load.c: all that is committed in a topic of our own, oldest first. Return: an error of the library */
int load_all(struct partition *p, void (*each)(void *ctx, const struct thmq_message *m), void *ctx);
/* Sends nothing more, and waits until it is settled. */
int load_settle(struct sending *g);

/* trouble.c: a message was refused, with an error of the library; is it over? */
void trouble_note(struct server *s, int error);
void trouble_tick(struct server *s);

/* cluster.c; without a cluster this broker serves always */
int cluster_read(struct options *o, const char *peers);
void cluster_tick(struct server *s);
bool cluster_serves(const struct server *s);
const struct peer *cluster_leader(const struct server *s); /* NULL: nobody is known to */

/* ----------------------------------------------------------------- requests */

void produce_run(struct request *r);
void init_producer_id_run(struct request *r);
void add_partitions_to_txn_run(struct request *r);
void add_offsets_to_txn_run(struct request *r);
void end_txn_run(struct request *r);
void list_transactions_run(struct request *r);
void describe_transactions_run(struct request *r);
void txn_offset_commit_run(struct request *r);
void fetch_run(struct request *r);
void list_offsets_run(struct request *r);
void metadata_run(struct request *r);
void create_topics_run(struct request *r);
void delete_topics_run(struct request *r);
void create_partitions_run(struct request *r);
void describe_configs_run(struct request *r);
void alter_configs_run(struct request *r);
void incremental_alter_configs_run(struct request *r);
void find_coordinator_run(struct request *r);
void join_group_run(struct request *r);
void sync_group_run(struct request *r);
void heartbeat_run(struct request *r);
void leave_group_run(struct request *r);
void describe_groups_run(struct request *r);
void list_groups_run(struct request *r);
void delete_groups_run(struct request *r);
void offset_commit_run(struct request *r);
void offset_fetch_run(struct request *r);
void offset_delete_run(struct request *r);

/* configs.c: what a topic is made with, or altered to */
struct settings {
	uint64_t retention_ns, retention_bytes, tombstone_ns;
	uint32_t what;               /* of these, which are named: THMQ_ALTER_* */
	bool policy, compact, keeps; /* policy: it is named; keeps: the newest of each key, however old it is */
};
/* Return: 0, or an error of the protocol; *ret_why: in words */
int settings_read(struct settings *w, struct text name, struct text value, const char **ret_why);

/* group.c: @generation -1 and an empty @member: a client that is in no group; 0 or an error of the protocol */
struct group;
int group_may_commit(struct server *s, struct text group, int32_t generation, struct text member,
		     struct text instance);
void group_tick(struct server *s);
void group_close_all(struct server *s);
int64_t group_next_ns(struct server *s);

/* offsets.c */
int offsets_load(struct server *s);
void offsets_unload(struct server *s);
bool offsets_known(struct server *s, struct text group);
void offsets_each_group(struct server *s, void (*fn)(void *ctx, struct text group), void *ctx);
void offsets_forget(struct server *s, struct text group);
int offsets_partition(struct server *s, struct partition **ret);
/* What a message with @key says of a group, in memory; and the same to where it is kept, where @tag is the message's. */
void offsets_set(struct server *s, struct text key, struct text value);
int offsets_send(struct sending *g, struct text key, struct text value, const char *tag);

/* transactions*.c: whose transaction, which must be open. Return: 0, or an error of the protocol */
struct transaction;
int transaction_open(struct server *s, struct text id, int64_t producer_id, int16_t epoch, struct transaction **ret);
const struct store_txn *transaction_in(const struct transaction *x);
void transaction_break(struct transaction *x); /* it can only be aborted */
/* A group's offset that is committed with it. Return: 0, or an error of the protocol */
int transaction_log_begin(struct transaction *x, struct sending **ret);
int transaction_offset(struct transaction *x, struct sending *g, struct text key, struct text value);
bool transactions_pend(const struct server *s, struct text key); /* will the group's offset of that key change with one that is open? */
void transactions_loaded(struct server *s, const struct thmq_message *m); /* a message of OFFSETS_TOPIC that is no group's */
int transactions_load(struct server *s);                                  /* behind these */
void transactions_unload(struct server *s);
void transactions_tick(struct server *s);

#define BUCKETS 1024u
struct server {
	struct options o;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *control;
	struct lane *lanes;
	struct watch *watches;
	uint64_t watch_serial;
	uint32_t reader_count;
	int trouble; /* why messages are refused; 0: they are not */
	uint64_t trouble_at; /* how far the log's segments went then */
	struct reader *idle_newest, *idle_oldest;
	uint64_t reader_bytes, lent_bytes; /* what all readers hold, and those of them that have lent */
	struct topic *topics[BUCKETS];
	struct conn *conns, *dirty;
	uint32_t conn_count, conn_serial;
	uint64_t in_bytes, frame_bytes, out_bytes; /* of requests that are not whole, that are under way, of answers that are not taken */
	struct request *waiting, *look_at; /* look_at: whose turn is next in the look that is under way; NULL: none is */
	bool look_all, look_due, look_news; /* that one is at all of them; another is to begin; and at all */
	int64_t round_end_ns; /* of the loop: what may wait then has its turn in the next one */
	struct table groups;
	struct group **due; /* a heap of them all: the first is the first one that something is to be done about */
	uint32_t due_count, due_room, member_count;
	uint64_t member_serial, group_bytes;
	struct table offsets, offset_groups;
	struct transaction *transactions[BUCKETS];
	uint32_t transactions_pending; /* that have offsets */
	struct user *users;
	struct tls_context *tls;
	int epoll, listen_fd, listen_tls_fd;
	uint16_t port, port_tls;
	int64_t now_ns, last_producer_id;
	bool stopping;
	/* of a cluster */
	bool leading, retire, control_lost;
	uint64_t leader_id, control_id;
	int64_t retry_ns, control_retry_ns;
};

int64_t clock_ns(void); /* monotonic */
uint32_t hash_bytes(const void *data, size_t len);

#endif
