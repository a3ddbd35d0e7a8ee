/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - connections between a session and a shard: the only place where client and broker meet.
 *
 * A link is one connection: frame rings (two up, one down), a data area that the client claims message bytes from, a control
 * page each way. The client end belongs to the session's thread, the broker end to a core. Whatever the medium, both ends
 * see just this. inproc: they are the two ends of one link, whose core is the shard's. Media with a distance: each side has
 * a link of its own, and the medium plays the missing end of both: the broker end of the client's, on a core of the client's
 * environment, and the client end of the broker's, on the shard's core; in between it moves frames and bytes. shm: the client's
 * end lies in memory of both processes (struct thmqi_far); only the broker has a link of its own.
 */
#ifndef THMQI_TRANSPORT_H
#define THMQI_TRANSPORT_H

#include "base/base.h"
#include "reactor/reactor.h"
#include "wire/frame.h"

struct thmqi_transport; /* registry of an environment: who listens where */
struct thmqi_listener;
struct thmqi_tls_config; /* lib/transport/tls */

struct thmqi_link;

/* Does the broker's core sleep? In memory that a client in another process sees. */
struct thmqi_bell {
	_Atomic uint32_t may_sleep; /* 0: it never does: nobody needs to look */
	_Atomic uint32_t sleeping;
};

/*
 * The client's end of a link whose rings and data area are shared with the broker's process itself: no core of ours stands in
 * between, and the session's thread does by itself what one would do. All by that thread.
 */
struct thmqi_far {
	struct thmqi_bell *bell;
	/* The broker sleeps, and frames wait for it. */
	void (*ring)(struct thmqi_link *link);
	/*
	 * A frame of the down ring, as a copy that the other process cannot change any more: its data is an address here, and its
	 * len bytes are there. 0; an error: the broker breaks the rules, and the link is not read from any more.
	 */
	int (*take)(struct thmqi_link *link, const struct thmqi_frame *slot, struct thmqi_frame *ret_frame);
	/* Nothing came down, and thmqi_link_is_quiet() was false: is the other still there? Sets broker_closed where it is not. True: it has read what may have woken us. */
	bool (*idle)(struct thmqi_link *link);
	void (*close)(struct thmqi_link *link); /* thmqi_link_close() */
};

/* Who is at the other end, as its medium has proven it: "local" (inproc), "uid:1000" (shm), "cert:CN=name,O=…" or "psk:name" (TLS), "anonymous". */
#define THMQI_PEER_BYTES 256u

struct thmqi_link {
	/* constant after connect */
	char peer[THMQI_PEER_BYTES];
	const char *medium; /* by which it came: "inproc", "shm", "tcp", "tls", "rdma" */
	struct thmq_core *core; /* of the broker end; with @far one of the client's environment, which has nothing to do with it */
	const struct thmqi_far *far; /* NULL: the broker's end is in this process */
	_Atomic uint32_t *pulse; /* what the client's end beats: the beat below, or one in shared memory */
	uint32_t shard;
	uint32_t area_bytes; /* power of two */
	bool is_further;     /* of a session that has others */
	bool area_is_lent;   /* the medium's, not the link's */
	bool takes_series;   /* THMQI_PRODUCE_SERIES may be said; broker's end: by its medium, of what it has checked */
	bool takes_releases; /* likewise THMQI_FRAME_RELEASES */
	bool packs;          /* frames go in packets: what is written together costs little more than one of them */
	uint8_t *area;       /* 64-byte aligned; PRODUCE data lies in it */
	struct thmqi_waiter *
		waiter; /* of the client's session: kicked by the broker end after it wrote frames; NULL: it has a reader */
	struct thmqi_poller *reader; /* what plays the client's end on this very core; NULL: the client's end is a session's */
	/* Of a reader: takes at once what was written down, and ends nothing. NULL: it waits for the end of the iteration, and sends all at once. */
	void (*carry)(struct thmqi_link *link);
	/*
	 * Of a reader with carry: @frame, a DELIVER_ONE whose message is copied now, though not its header and its record, goes past the down
	 * ring, which is empty, and its reader is woken by the next carry. False: not now, and nothing has happened.
	 */
	bool (*hand)(struct thmqi_link *link, struct thmqi_frame *frame);
	/* rings and pages */
	struct thmqi_frame_ring up;   /* client writes, broker reads: PRODUCE only, so that a full volatile
					topic holds up producers but never the releases that would empty it */
	struct thmqi_frame_ring ctl;  /* client writes, broker reads: all other frames; up_frames slots, at most 4096 */
	struct thmqi_frame_ring down; /* broker writes, client reads */
	struct thmqi_request
		*request; /* written by the client before FRAME_REQUEST, read by the broker */
	struct thmqi_reply *reply; /* written by the broker before FRAME_REPLY */
	/* of a client's end with @far: looks that find nothing until it is asked whether the other is still there; the waiter's, when it was */
	uint32_t looks, rings_seen;
	/* liveness */
	_Alignas(THMQI_CACHELINE) _Atomic uint32_t
		beat;                  /* client: changes whenever its thread calls in */
	_Atomic int32_t broker_closed; /* 0, or the error that the client end gets from now on */
	_Atomic uint32_t client_closed;
	_Atomic uint32_t let_in; /* the broker's end has taken it, as far as the client's can know: what is said next is the shard's */
	_Atomic uint32_t refs;  /* ends that still use the memory */
	void *client;           /* the client end's */
	void *broker;           /* the broker end's */
	void *room; /* acceptor's end_bytes, zeroed, for the broker's end to take: it then frees it. NULL: taken */
	void (*let_go)(void *left); /* see thmqi_link_leave() */
	void *left;
	struct thmqi_task task;    /* accept */
	struct thmqi_task goodbye; /* close: the accept may still be on its way */
	struct thmqi_listener *listener;
	struct {
		void *at;
		size_t bytes;
	} maps[3]; /* the rings' */
	uint32_t map_count;
	char why[160]; /* what broker_closed means, in words, where they say more than the number; written before it */
};

/* What a broker gives: all but core_of run on the shard's core. */
struct thmqi_acceptor {
	/* The core that owns @shard, or NULL if there is no such shard. Any thread. */
	struct thmq_core *(*core_of)(void *ctx, uint32_t shard);
	/* A new link: adopt it (set link->broker, poll its rings from now on) and answer with WELCOME. 0, or an error
	 * that the client gets. */
	int (*accept)(void *ctx, struct thmqi_link *link);
	/* The client end is gone: drop all it had, then thmqi_link_unref(). Never called after the broker end's
	 * thmqi_link_shut() or for a link that accept refused (its acceptor may be gone by then). */
	void (*closed)(void *ctx, struct thmqi_link *link);
	/* The link's reader has nothing to do, and will rest: its rings need no look until it is roused. False: they do. NULL likewise. */
	bool (*rest)(void *ctx, struct thmqi_link *link);
	void (*rouse)(void *ctx, struct thmqi_link *link);
	/* Frames came in on it: what the broker does with them it may do at once, before other links are looked at. NULL: it does not. */
	void (*came)(void *ctx, struct thmqi_link *link);
	void *ctx;
	/* What the broker's end needs for a link: allocated by the one who connects, who can be told that there is none. */
	size_t end_bytes;
};

int thmqi_transport_open(struct thmq_env *env, struct thmqi_transport **ret_transport);
void thmqi_transport_close(struct thmqi_transport *t);

/* Listen as inproc://@name (NULL: unnamed). -EEXIST. Any thread. */
int thmqi_transport_listen(struct thmqi_transport *t, const char *name,
			   const struct thmqi_acceptor *acceptor,
			   struct thmqi_listener **ret_listener);
/*
 * Listen at @urls too, separated by commas; inproc://… is passed over, since the name is what inproc listens at. By a
 * thread that may make calls on the cores. All or none. -EINVAL malformed; -EPROTONOSUPPORT; -EADDRINUSE …, with a text.
 */
struct thmqi_listen_opts {
	uint64_t silence_ns; /* a client that says nothing for so long is dead */
	uint32_t connections_max; /* at a time */
	const struct thmq_tls_opts *tls; /* during the call; NULL: none */
};
int thmqi_transport_listen_at(struct thmqi_listener *l, const char *urls, const struct thmqi_listen_opts *opts);
/* The same check of @urls without opening anything. */
int thmqi_transport_check_urls(struct thmqi_transport *t, const char *urls);
/* The @index-th of them as it is, NUL-terminated. Return: its length; -ENOENT; -ENOSPC @size is too small. */
int thmqi_listener_url(struct thmqi_listener *l, uint32_t index, char *ret_url, uint32_t size);
/* thmq_broker_tls_renew(). Any thread that may block. */
int thmqi_listener_renew(struct thmqi_listener *l, const struct thmq_tls_opts *opts);
/* Sets what is known of remote connections. */
void thmqi_listener_stats(const struct thmqi_listener *l, struct thmq_broker_stats *ret);
/* No new links; links there are stay until closed. Returns once no accept or connect refers to the acceptor any more. */
void thmqi_transport_unlisten(struct thmqi_listener *l);

/*
 * What is no link: a place of this environment that others of it find by a name, such as a broker that others have copies with. @with is
 * called with what was given, which cannot go meanwhile, under a lock: it is brief. Return: what it returns; -ECONNREFUSED there is none.
 */
int thmqi_transport_reach(struct thmqi_transport *t, const char *name,
			  int (*with)(void *ctx, void *arg), void *arg);
struct thmqi_reach;
int thmqi_transport_reach_add(struct thmqi_transport *t, const char *name, void *ctx,
			      struct thmqi_reach **ret_reach); /* -EEXIST; -ENOMEM */
/* Returns once what was posted to any core meanwhile has run. By a thread that may make calls on the cores. */
void thmqi_transport_reach_remove(struct thmqi_transport *t, struct thmqi_reach *reach);

struct thmqi_link_opts {
	uint64_t area_bytes;
	uint32_t up_frames; /* powers of two */
	uint32_t down_frames;
	/* Another link of the same session, open: its broker is meant, whoever listens at the URL by now. NULL: by URL. */
	const struct thmqi_link *beside;
	bool anew; /* beside is lost, and any broker is meant that listens at the URL now; what was looked up for it may be used again */
	bool in_turns; /* there are other brokers to try: a host's name is looked up behind, and is -EINPROGRESS until that is answered, where the environment may have threads */
	uint64_t silence_ns; /* a broker that says nothing for so long is dead, where that can be; 0: 30 s */
	uint8_t *area; /* a medium's own, in place of one that the link would have; NULL */
	struct thmqi_tls_config *tls; /* from thmqi_transport_secure(); NULL: none */
};

/*
 * What links to @url need for TLS; *ret_config NULL: nothing. The caller gives it back by thmqi_transport_unsecure() once it makes
 * no more of them. Return: 0, or an error with its text.
 */
int thmqi_transport_secure(struct thmqi_transport *t, const char *url, const struct thmq_tls_opts *opts,
			   struct thmqi_tls_config **ret_config);
void thmqi_transport_unsecure(struct thmqi_tls_config *config); /* NULL is allowed */

/*
 * Begin to connect to @shard of the broker at @url. The link is there at once; its first frame down is WELCOME, or
 * broker_closed gets an error. Does not block, but to look up a host's name. A medium may give smaller sizes than asked for.
 * Return: 0; -EINVAL malformed; -EPROTONOSUPPORT scheme; -ECONNREFUSED; -EHOSTUNREACH no such host; -EINPROGRESS as in_turns says; -ESHUTDOWN the broker that it should lead to,
 * beside another link, is closed; -EDEADLK nobody drives the core; -ENOMEM.
 */
int thmqi_transport_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			    const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			    struct thmqi_link **ret_link);

/* Client end: say goodbye. The link must not be touched any more. Does not block; the broker end hears of it. */
void thmqi_link_close(struct thmqi_link *link);
/* Broker end, on its core: tell the client end that it is over. The broker then drops the link by
 * thmqi_link_unref() or thmqi_link_leave() and hears no more of it. */
void thmqi_link_shut(struct thmqi_link *link, int error);
/* After thmqi_link_shut(), instead of thmqi_link_unref(): the client end may still read what the broker end gave it.
 * @let_go is called with @left on this core once the client end has closed. */
void thmqi_link_leave(struct thmqi_link *link, void (*let_go)(void *left), void *left);
void thmqi_link_unref(struct thmqi_link *link);

/* ------------------------------------------------------------------ media */

/* One way to get from a client to a broker: what is behind a URL's scheme. */
struct thmqi_medium {
	const char *scheme; /* "tcp" */
	/* 0, or an error with its text. One of both. */
	int (*check)(const char *url);
	int (*check_of)(struct thmqi_transport *t, const char *url);
	/* Both by a thread that may make calls on the cores. What listens (the door) is the medium's own. */
	int (*listen)(struct thmqi_listener *l, const char *url, const struct thmqi_listen_opts *opts, void **ret_door);
	void (*unlisten)(void *door); /* once nobody looks at the acceptor any more through it */
	const char *(*url_of)(const void *door);
	/* Another configuration for what it accepts from now on; true if it has one. NULL: it never has. Any thread. */
	bool (*renew)(void *door, struct thmqi_tls_config *config);
	/* As thmqi_transport_secure(); NULL: nothing leaves the machine, and there is nothing to encrypt. */
	int (*secure)(const char *url, const struct thmq_tls_opts *opts, struct thmqi_tls_config **ret_config);
	/* As thmqi_transport_connect(). */
	int (*connect)(struct thmqi_transport *t, const char *url, uint32_t shard, const struct thmqi_link_opts *opts,
		       struct thmqi_waiter *waiter, struct thmqi_link **ret_link);
	/* Free what thmqi_transport_state() keeps: the cores have ended. NULL: it keeps nothing. */
	void (*close)(void *state);
};
/* Before anybody listens or connects; @medium stays the caller's. inproc, shm, tcp and tls are there. -EEXIST; -ENOSPC. */
int thmqi_transport_add(struct thmqi_transport *t, const struct thmqi_medium *medium);
/* What a medium keeps for this environment: NULL until it was set. Under the registry's lock (internal.h). */
void **thmqi_transport_state(struct thmqi_transport *t, const struct thmqi_medium *medium);

/* <thundermq/transport.h>: arguments are checked and copied by the caller. No texts. */
struct thmq_transport;
struct thmq_interceptor;
struct thmq_fault;
struct thmq_fault_opts;
struct thmq_fault_stats;
int thmqi_transport_register(struct thmqi_transport *t, const struct thmq_transport *ops); /* -EEXIST; -ENOSPC; -ENOMEM */
int thmqi_transport_intercept(struct thmqi_transport *t, const struct thmq_interceptor *ops); /* -ENOSPC */
int thmqi_fault_open(struct thmqi_transport *t, const struct thmq_fault_opts *opts, struct thmq_fault **ret_fault);
void thmqi_fault_set(struct thmq_fault *f, const struct thmq_fault_opts *opts);
void thmqi_fault_stats(struct thmq_fault *f, struct thmq_fault_stats *ret);

/* Client, after writing frames up: wake the core if it sleeps. */
static inline void thmqi_link_kick_broker(struct thmqi_link *link)
{
	const struct thmqi_far *far = link->far;

	if (thmqi_likely(!far)) {
		thmqi_core_kick(link->core);
	} else if (atomic_load_explicit(&far->bell->may_sleep, memory_order_relaxed)) {
		atomic_thread_fence(memory_order_seq_cst); /* frames before flag: pairs with the fence in arm */
		if (thmqi_unlikely(atomic_load_explicit(&far->bell->sleeping, memory_order_relaxed)))
			far->ring(link);
	}
}
/* Client, with @far: nothing came down, and it is not time to look around. What most looks find. */
static inline bool thmqi_link_is_quiet(struct thmqi_link *link)
{
	if (thmqi_frame_peek(&link->down, 0) || !link->looks || thmqi_unlikely(link->rings_seen != link->waiter->rings))
		return false;
	link->looks--;
	return true;
}
/* Broker, after writing frames down: wake the session's thread if it sleeps, or whoever carries them to it. */
static inline void thmqi_link_kick_client(struct thmqi_link *link)
{
	if (!link->reader)
		thmqi_waiter_kick(link->waiter);
	else if (thmqi_unlikely(link->reader->rests))
		thmqi_core_rouse_poller(link->core, link->reader);
	else if (link->carry)
		link->carry(link);
}

#endif
