/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.h - what the files of the TCP medium share. A connection joins two links, one in each process: on the client's side it
 * plays the broker's end of the session's link, on the broker's side the client's end of a link that it makes there. It lives on
 * one core (the client's: one of its environment; the broker's: the shard's), as a poller there: what arrives is put into the
 * link's rings and memory, and at the end of each iteration what lies in the rings is sent in one call. doc/transports.md.
 */
#ifndef THMQI_TRANSPORT_TCP_H
#define THMQI_TRANSPORT_TCP_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "../gate.h"
#include "../joint.h"
#include "../own.h"
#include "wire/stream.h"

#define TCP_RX_BYTES (128u << 10)
#define TCP_TX_BYTES (128u << 10)
#define TCP_INLINE_BYTES (16u << 10) /* longer bodies are sent from where they lie */
#define TCP_IOV 64u
#define TCP_SEND_BYTES (1u << 20) /* gathered for one call */
#define TCP_ADDRESSES 4u
#define TCP_ZEROCOPY_BYTES (64u << 10) /* bodies that may go without a copy, where that is asked for */
#define TCP_ZC_MAX 32u                 /* of these, not done with */
#define TCP_GREETINGS_MAX                                                                          \
	256u /* connections that have not said what they want: more, and the oldest goes */
#define TCP_SHAKES_A_TURN                                                                          \
	2u /* steps of TLS handshakes in one iteration of the door's core: each may take a millisecond */
#define TCP_KEY_RECORDS                                                                            \
	(1u << 23) /* TLS records with one key: half of what AES-GCM may have (RFC 8446, 5.5) */
#define TCP_GREETING_NS 10000000000ull
#define TCP_LEAVE_NS 2000000000ull

struct tcp_address {
	struct sockaddr_storage addr;
	socklen_t len;
	bool any; /* to listen at: each that the machine has */
};

/* A listening socket, on one core; what it accepts stays there until it has said which shard it wants. */
struct tcp_door {
	struct thmqi_gate gate;
	uint32_t shakes;              /* left for the iteration */
	uint64_t shakes_loop;         /* … of the core that has this number */
	struct thmqi_tls_config *tls; /* NULL: plain. Changed under the lock */
	pthread_mutex_t lock;         /* taken for each connection that is accepted, and for nothing else */
	const struct thmq_transport *own; /* NULL: sockets of ours */
	int fd;
	uint8_t zerocopy; /* of connections that come: enum tcp_zerocopy */
	char url[128];
};

/* ?zerocopy of a URL. */
enum tcp_zerocopy {
	TCP_COPIES,
	TCP_ZEROCOPY_WHERE_IT_HELPS, /* until the kernel says that it has copied all the same */
	TCP_ZEROCOPY_ALWAYS
};

/* A sending that the kernel has not done with. */
struct tcp_zc {
	uint32_t number;
	uint32_t stream;
	uint64_t token;
	bool is_run; /* it has a stream and a token: it may be given back */
};

enum tcp_state {
	TCP_CONNECTING, /* client */
	TCP_SHAKING,    /* the TLS handshake */
	TCP_GREETING,   /* the other's hello is awaited */
	TCP_MOVING,     /* broker: from the door's core to the shard's */
	TCP_OPEN,
	TCP_LEAVING, /* all is said: what comes is thrown away until the other has closed */
	TCP_CLOSED   /* nobody's any more */
};

struct tcp_conn {
	struct thmqi_poller poller;
	struct thmq_watch *watch; /* NULL: none */
	struct thmqi_timer timer;
	struct thmqi_task task; /* to the shard's core */
	struct thmq_core *core;
	struct thmqi_joint joint;
	struct thmqi_guest guest; /* broker */
	struct tcp_door *door;    /* broker, as long as it waits there */
	struct thmqi_tls_config *tls_config; /* NULL: plain */
	struct thmqi_tls *tls;               /* NULL: plain, or nothing has come yet */
	const struct thmq_transport *own; /* NULL: a socket of ours */
	char *url;                        /* client, of one of the application's: its place */
	struct thmqi_transport *transport;
	struct thmqi_guards *guards;      /* NULL: nobody looks on */
	int fd;
	uint8_t state; /* enum tcp_state */
	bool readable, writable, hung_up; /* as the watch told */
	bool on_core;                     /* poller and timer are there */
	bool ticked;
	bool rested;      /* since it was last polled */
	bool hot;         /* so much comes that the socket is read without being told */
	uint32_t idle_rounds;
	uint32_t news;    /* that came since the core slept last; while it is hot: looks without any */
	uint64_t sleeps;  /* of the core, then */
	bool shake;       /* the handshake can go on without news */
	bool secured;     /* it is over, and the listener counts it */
	bool retry;       /* client: the next address */
	bool socket_done;
	bool stalled;         /* client: no memory for a run; its frame waits in the decoder */
	int error;            /* what the client's end gets */
	uint64_t deadline_ns; /* of this state; UINT64_MAX */
	/* greeting */
	struct thmqi_hello hello; /* the other's */
	uint32_t hello_have;
	uint64_t instance; /* client: of the broker; 0: any, until it is known */
	uint8_t client_id[16];
	struct tcp_address addresses[TCP_ADDRESSES]; /* client */
	uint32_t address_count, address_next;
	uint64_t address_ns; /* so long this one may take; UINT64_MAX: there is no other */
	/* in */
	struct thmqi_stream in;
	uint8_t *rx;
	uint32_t rx_at, rx_end;
	uint8_t large; /* frames in which one with a large body is expected */
	const uint8_t *body;   /* that is being read: all of it, */
	uint32_t body_len;
	uint32_t body_check;   /* and its CRC; 0: not said */
	/* out */
	uint8_t *tx;
	uint32_t tx_len;
	struct iovec iov[TCP_IOV];
	uint32_t iov_count, iov_at;
	struct {
		uint32_t iov; /* index of its entry: sent once iov_at is behind it */
		uint32_t stream;
		uint64_t token;
	} refs[TCP_IOV]; /* broker: runs that are sent from where they lie */
	uint32_t ref_count;
	uint32_t number;            /* of the next frame */
	int send_flags;             /* of the next send beside the usual ones */
	uint8_t zerocopy;           /* enum tcp_zerocopy */
	uint32_t zc_next, zc_copied; /* number of the next one; how many were copied */
	uint32_t zc_count;
	struct tcp_zc zc[TCP_ZC_MAX];
};

/* url.c */
int thmqi_tcp_check(const char *url);
/* Looks up names, which may block. @passive: to listen at. *ret_count addresses, the best first. */
int thmqi_tcp_resolve(const char *url, bool passive, struct tcp_address *ret, uint32_t max,
		      uint32_t *ret_count);
/* @numeric: names are not looked up, and are errors */
int thmqi_tcp_resolve_as(const char *url, bool passive, bool numeric, struct tcp_address *ret, uint32_t max,
			 uint32_t *ret_count);
void thmqi_tcp_format(const struct tcp_address *a, bool tls, char *ret_url, size_t size);
/* Is it for TLS? tls:// is, and so is tcp:// with options that do not say otherwise. */
bool thmqi_tcp_is_secure(const char *url, const struct thmq_tls_opts *tls);
/* thmqi_transport_secure() */
int thmqi_tcp_secure(const char *url, const struct thmq_tls_opts *opts,
		     struct thmqi_tls_config **ret_config);

enum tcp_zerocopy thmqi_tcp_zerocopy_of(const char *url);

/* zerocopy.c */
void thmqi_tcp_zerocopy_begin(struct tcp_conn *c);
uint32_t thmqi_tcp_zerocopy_part(struct tcp_conn *c); /* how many entries of iov go next, by one call with send_flags */
void thmqi_tcp_zerocopy_sent(struct tcp_conn *c);     /* … that was MSG_ZEROCOPY, and took something */
void thmqi_tcp_zerocopy_take(struct tcp_conn *c);     /* what the kernel has told */
bool thmqi_tcp_zerocopy_has(struct tcp_conn *c, const struct thmqi_frame *release); /* may the kernel still read what is given back? */
bool thmqi_tcp_zerocopy_is_all(struct tcp_conn *c); /* nothing else is wrong with the socket */
void thmqi_tcp_zerocopy_cut(struct tcp_conn *c);    /* it ends: nothing of ours is read behind it */

/*
 * lookup.c: a host's name that a thread of its own asks for. What is known of it, which stays so where nobody knows it any more; and it is asked for again,
 * once a second at most. Return: 0; -EINPROGRESS no answer yet; -EHOSTUNREACH nobody knows it; -ENOMEM. An address is one at once.
 */
int thmqi_tcp_lookup(struct thmqi_transport *t, const char *url, uint64_t now_ns, struct tcp_address *addresses, uint32_t *count);
void thmqi_tcp_names_close(void *state);

/* door.c */
int thmqi_tcp_listen(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts, void **ret_door);
void thmqi_tcp_unlisten(void *door);
const char *thmqi_tcp_url_of(const void *door);
bool thmqi_tcp_renew(void *door, struct thmqi_tls_config *config);
int thmqi_tcp_greet(struct tcp_conn *c); /* broker, in its state GREETING; work done */
void thmqi_tcp_move(struct tcp_conn *c); /* broker, in its state MOVING */

/* conn.c */
struct tcp_conn *thmqi_tcp_make(bool of_broker);
void thmqi_tcp_free_if_done(struct tcp_conn *c);
int thmqi_tcp_socket_ready(int fd);
void thmqi_tcp_unwatch(struct thmq_watch **watch); /* if there is one: the descriptor may be closed then */
int thmqi_tcp_start(struct tcp_conn *c, struct thmq_core *core); /* poller, timer and watch */
void thmqi_tcp_opened(struct tcp_conn *c);   /* both have greeted: frames from now on */
void thmqi_tcp_off_core(struct tcp_conn *c); /* the same backwards */
int thmqi_tcp_buffers(struct tcp_conn *c);
/* It is over. Frees nothing that the caller uses: the poller does. */
void thmqi_tcp_end(struct tcp_conn *c, int error);
void thmqi_tcp_tick_at(struct tcp_conn *c, uint64_t ns);
/* All is said: what comes is thrown away until the other has closed, or for TCP_LEAVE_NS. The other can read what it was sent. */
void thmqi_tcp_leave(struct tcp_conn *c, int error);
/* The connection to the broker is there, in clear or encrypted: what the client has to say first. */
void thmqi_tcp_say_hello(struct tcp_conn *c);

/* io.c: as sendmsg() and recvmsg(), through TLS where there is one. Bytes; 0 none now; an error, -ECONNRESET at the end. */
int64_t thmqi_tcp_send(struct tcp_conn *c, const struct iovec *iov, uint32_t count);
int64_t thmqi_tcp_recv(struct tcp_conn *c, struct iovec *iov, uint32_t count);
int thmqi_tcp_flush(struct tcp_conn *c); /* what TLS has encrypted */
static inline bool thmqi_tcp_unsent(const struct tcp_conn *c)
{
	return c->tls && c->tls->unsent;
}
void thmqi_tcp_unhold(struct tcp_conn *c); /* with guards: what they wanted to wait for is over, or will be */
int thmqi_tcp_shake(struct tcp_conn *c); /* in the state SHAKING; work done */
/* A TLS client speaks to a plain broker: it is told in its own words. */
bool thmqi_tcp_is_tls(const struct tcp_conn *c); /* by the greeting that should be */
void thmqi_tcp_answer_tls(struct tcp_conn *c);
void thmqi_tcp_count_refused(struct tcp_conn *c, int error);
int thmqi_tcp_hello_send(struct tcp_conn *c, struct thmqi_hello *hello, uint32_t kind);
/* 1 it is complete; 0 not yet; or an error, -ECONNRESET at its end */
int thmqi_tcp_hello_recv(struct tcp_conn *c);

/* The acceptor of a session's link: begins the way to the broker. An error: the connection is freed. */
int thmqi_tcp_connect_begin(struct tcp_conn *c, struct thmqi_link *link);

/* in.c: work done; the connection may be over then */
int thmqi_tcp_in(struct tcp_conn *c);
void thmqi_tcp_discard(struct tcp_conn *c);

/* out.c */
bool thmqi_tcp_out_wanted(const struct tcp_conn *c); /* something could be sent now */
void thmqi_tcp_out(struct tcp_conn *c);

#endif
