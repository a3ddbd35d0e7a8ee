/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carry.h - a carrier's parts: its life, groups and nodes (courier.c), a connection's life (carry_conn.c), what comes (carry_in.c) and what
 * goes (carry_out.c). One core, no locks.
 *
 * Either node may call the other. Where both did, the connection that the one with the lower number has made stays.
 */
#ifndef THMQI_REPLICA_CARRY_H
#define THMQI_REPLICA_CARRY_H

#include <sys/uio.h>

#include "carry_stream.h"
#include "internal.h"
#include "tls/tls.h"
#include "transport/address.h"

#define CARRY_PEERS 32u /* nodes that are known, and connections, at a time */
#define CARRY_CONNECTIONS                                                                          \
	96u /* those that are open, those being made, and as many that have said nothing yet */
#define CARRY_QUEUE 256u             /* messages that wait to go to one node: a power of two */
#define CARRY_QUEUE_BYTES (8u << 20) /* and their bytes, but for one */
#define CARRY_RX_BYTES (64u << 10)
#define CARRY_IOV 64u
#define CARRY_ADDRESSES 4u
#define CARRY_SILENCE_MS 1000u
#define CARRY_SILENCE_MIN_MS 100u
#define CARRY_REDIAL_MIN_NS 10000000ull
#define CARRY_REDIAL_MAX_NS 500000000ull
#define CARRY_DEFER_NS                                                                             \
	200000000ull               /* the higher number gives the lower one so long to call first */
#define CARRY_STALL_NS 20000000ull /* a message for which there is no room for so long is dropped */
#define CARRY_GREETING_NS 2000000000ull
#define CARRY_LOOK_UP_NS 5000000000ull /* until a name is looked up again that was not found */
#define CARRY_LOOK_UP_CALLS 32u        /* so many calls in vain, and its name is looked up again */
#define CARRY_KEY_RECORDS                                                                          \
	(1u << 23) /* TLS records with one key: half of what AES-GCM may have (RFC 8446, 5.5) */

enum carry_state {
	CARRY_CALLING, /* connect() is under way */
	CARRY_SHAKING, /* the TLS handshake */
	CARRY_GREETING,
	CARRY_OPEN,
	CARRY_CLOSED /* freed by the poller */
};

/* What the carriers of one node share that are on different cores: who takes which lane's connections. */
#define CARRY_LANES 1088u /* shards of a broker and some more */
struct carry_door {
	pthread_mutex_t lock; /* held for a look only */
	uint32_t refs;
	struct thmqi_courier *lanes[CARRY_LANES]; /* NULL: nobody */
};

struct carry_conn {
	struct thmqi_list link; /* the carrier's */
	struct thmqi_courier *carrier;
	struct carry_door *door; /* while it is between two cores; counted */
	struct thmqi_task task;
	struct carry_peer *peer; /* NULL: it has not said who it is */
	struct thmq_watch *watch;
	struct thmqi_tls_config *tls_config; /* NULL: in clear */
	struct thmqi_tls *tls;
	int fd;
	uint8_t state; /* enum carry_state */
	bool calls;    /* it was made from here */
	bool readable, writable, hung_up;
	bool shake; /* the handshake can go on without news */
	uint64_t deadline_ns;
	uint64_t heard_ns, said_ns, moved_ns;
	uint64_t say_ns;          /* we say something at least so often */
	int said_trouble;         /* what the other was told of us */
	struct carry_hello hello; /* the other's */
	uint32_t hello_have;
	/* in */
	struct carry_stream in;
	uint8_t *rx;
	uint32_t rx_at, rx_end;
	struct thmqi_buf *buf; /* of the message that is being read */
	uint64_t stall_ns; /* since when that waits, for memory or for its group; 0: it does not */
	/* out */
	struct thmqi_message *queue;
	struct thmqi_buf **queue_bufs;
	uint32_t head, tail; /* free running */
	uint32_t head_sent;  /* bytes of the first one that have gone */
	uint64_t queue_bytes;
};

struct carry_peer {
	uint64_t id; /* 0: this place is free */
	char url[THMQI_ADDRESS_MAX];
	bool placed; /* by thmqi_courier_place(): members do not change it */
	bool member; /* of a group that is here */
	struct thmqi_address addresses[CARRY_ADDRESSES];
	uint32_t address_count, address_next;
	struct thmqi_tls_config *tls_config; /* to call it; NULL: in clear */
	struct carry_conn *conn;             /* the one that is open */
	struct carry_conn *dial;             /* the one that we are making */
	uint64_t dial_ns;                    /* not before */
	uint32_t failures;
	bool blocked;                   /* somebody was refused */
	struct thmqi_courier_peer told; /* what is counted */
};

struct thmqi_courier {
	struct thmq_core *core;
	uint64_t id, instance;
	struct thmqi_node_mark mark;
	uint32_t list;
	int (*meet)(void *ctx, uint64_t id, const struct thmqi_node_mark *mark, uint32_t list);
	void *meet_ctx;
	uint32_t lane;
	struct carry_door *door;                                            /* counted */
	int (*address_of)(const char *address, char *ret_url, size_t size); /* NULL */
	uint64_t silence_ns;
	char cluster[THMQI_CLUSTER_NAME_MAX + 1];
	char url[THMQI_ADDRESS_MAX];
	struct thmq_tls_opts tls_opts; /* strings are ours */
	char *tls_strings[10];
	bool secure;
	struct thmqi_tls_config *tls_config; /* of who is called */
	int fd;                              /* it listens; -1 */
	struct thmq_watch *watch;
	bool knocked;                /* somebody may wait to be accepted */
	struct thmqi_poller in, out; /* before and behind the groups' own */
	struct thmqi_timer timer;
	uint64_t ticked_ns; /* last */
	bool ticked, closing;
	struct thmqi_list conns;
	uint32_t conn_count;
	int trouble; /* of this node: thmqi_courier_say() */
	struct carry_peer peers[CARRY_PEERS];
	struct thmqi_map groups; /* number → struct thmqi_carried */
};

/* courier.c */
struct carry_peer *thmqi_carry_peer(struct thmqi_courier *c, uint64_t id, bool make); /* NULL */
void thmqi_carry_tick_at(struct thmqi_courier *c, uint64_t ns);
void thmqi_carry_writable(struct thmqi_courier *c, struct carry_peer *p); /* all groups hear it */

/* carry_conn.c */
void thmqi_carry_accept(struct thmqi_courier *c);
void thmqi_carry_call(struct thmqi_courier *c, struct carry_peer *p);
int thmqi_carry_poll(struct carry_conn *n); /* work done */
bool thmqi_carry_is_ready(const struct carry_conn *n);
void thmqi_carry_end(struct carry_conn *n, int error); /* frees nothing that the caller uses */
void thmqi_carry_free(struct carry_conn *n);
void thmqi_carry_look(struct carry_conn *n);           /* the time: is it dead, is a beat due? */
uint64_t thmqi_carry_next(const struct carry_conn *n); /* when to look again */
/* Bytes, 0 none now; or an error, -ECONNRESET at the end. */
int64_t thmqi_carry_send(struct carry_conn *n, const struct iovec *iov, uint32_t count);
int64_t thmqi_carry_recv(struct carry_conn *n, struct iovec *iov, uint32_t count);

void thmqi_carry_welcome(struct carry_conn *n); /* its greeting, for this carrier, is complete */
int thmqi_carry_watch(struct carry_conn *n);    /* on its carrier's core */

/* carry_door.c */
int thmqi_carry_door_open(struct thmqi_courier *c,
			  struct thmqi_courier *beside); /* 0; -EEXIST; -EINVAL; -ENOMEM */
void thmqi_carry_door_close(struct thmqi_courier *c);
/* To the core of the carrier of that lane. False: there is none. True: it is not this carrier's any more. */
bool thmqi_carry_hand_over(struct carry_conn *n, uint32_t lane);

/* carry_in.c */
int thmqi_carry_in(struct carry_conn *n); /* work done; the connection may be over then */

/* carry_out.c */
int thmqi_carry_put(struct carry_conn *n, const struct thmqi_message *m,
		    struct thmqi_buf *buf); /* 0; -EAGAIN */
bool thmqi_carry_out_wanted(const struct carry_conn *n);
void thmqi_carry_out(struct carry_conn *n);
void thmqi_carry_out_drop(struct carry_conn *n);

#endif
