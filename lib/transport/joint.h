/* SPDX-License-Identifier: Apache-2.0 */
/*
 * joint.h - two links joined over a distance: what one side knows of it, whatever carries the stream between them. On the client's
 * side the joint plays the broker's end of the session's link, on the broker's side the client's end of the link that was made there.
 * It says which frames may go, what goes with them, and what those that come mean; nothing that comes is believed. Whoever
 * carries has one (struct tcp_conn, struct rdma_conn), and knows how bytes get there. Knows no socket and no device.
 */
#ifndef THMQI_TRANSPORT_JOINT_H
#define THMQI_TRANSPORT_JOINT_H

#include <thundermq/log.h>

#include "internal.h"
#include "wire/stream.h"

#define JOINT_SILENCE_NS 30000000000ull
#define JOINT_SILENCE_MIN_NS 200000000ull
#define JOINT_BEAT_NS 100000000ull /* how late a beat may be seen on the other side */
#define JOINT_UNTOLD_NS                                                                            \
	500000ull /* until the session's thread is looked at again: it does not tell what it has taken */

/* What one consumer, or what was one, has of runs on this connection. */
struct thmqi_joint_stream {
	uint64_t credit_bytes, held_bytes; /* client */
	union {
		struct thmqi_buf *bufs[THMQI_DELIVERIES]; /* client: by the token's lower half */
		uint32_t out
			[THMQI_DELIVERIES]; /* broker: the upper half + 1 of those that were sent; 0 */
	};
};

/* Rings 0 and 1 of ours, whose frames go, are the client's up and ctl, or the broker's down and none; those of the other likewise. */
struct thmqi_joint {
	struct thmqi_link *link; /* NULL before there is one, and after its end */
	struct thmq_core *core;
	void (*parted)(struct thmqi_joint
			       *j); /* the client's end, which was told before, has closed now */
	bool of_broker;
	bool client_gone; /* client: its end has closed: what is left is sent */
	bool link_done;
	bool bye_put;     /* BYE went, or is among what goes */
	bool request_out; /* broker: REQUEST came, and REPLY was not sent */
	bool say;         /* STATE is due, for the sake of time or the beat */
	uint32_t beat_told;
	uint64_t sent[2], taken[2]; /* frames of ours, sent and taken by the other */
	uint64_t told[2];      /* frames of the other's, of which it knows that they were taken */
	uint64_t pushed;       /* client: frames that came down */
	struct thmqi_buf *run; /* client: of the DELIVER that is being read */
	struct thmqi_joint_stream *streams[THMQI_STREAMS];
	/* time */
	uint64_t silence_ns; /* of the other, that is taken for death */
	uint64_t say_ns;     /* we say something at least so often */
	uint64_t tick_ns;
	uint64_t heard_ns, said_ns,
		moved_ns; /* last time that something came, went, and that what waited to go moved */
};

/* joint.c */
void thmqi_joint_init(struct thmqi_joint *j, bool of_broker);
/* Both have greeted: @peer_ms is the silence that the other bears. Times begin now. */
void thmqi_joint_opened(struct thmqi_joint *j, uint32_t peer_ms);
/* Once in a tick: is STATE due? */
void thmqi_joint_tick(struct thmqi_joint *j);
/* The link's end, on its core. The link is not there any more then; link_done: nor does anybody look at the joint. */
void thmqi_joint_end(struct thmqi_joint *j, int error);
/* The runs that the client's end still had. On the core whose memory it is. */
void thmqi_joint_free_runs(struct thmqi_joint *j);
struct thmqi_joint_stream *
thmqi_joint_stream(struct thmqi_joint *j, uint32_t stream); /* made if absent; NULL: no memory */
/* What the link is like: of a client's greeting, and of the answer. */
void thmqi_joint_describe(const struct thmqi_link *link, struct thmqi_hello *ret);

/*
 * The client's link to @shard, in no larger sizes than a stream has: its acceptor, on a core of the client's environment, begins the
 * way to the broker. 0, or an error with its text: the acceptor is not called then.
 */
int thmqi_joint_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
			const struct thmqi_link_opts *opts, const struct thmqi_acceptor *acceptor,
			struct thmqi_waiter *waiter, struct thmqi_link **ret_link);

/*
 * What goes. @f was copied from a ring and becomes what the other may see; *ret_body, *ret_len follow it. 0; -ENOMEM.
 */
int thmqi_joint_out(struct thmqi_joint *j, struct thmqi_frame *f, const void **ret_body,
		    uint32_t *ret_len);
void thmqi_joint_state(struct thmqi_joint *j, struct thmqi_frame *ret);
void thmqi_joint_bye(struct thmqi_joint *j, struct thmqi_frame *ret);

/*
 * What comes: a frame, whose body is still to come, of @len bytes, to *ret_to. 0; 1 not now: ask again; an error: it breaks the rules.
 */
int thmqi_joint_begin(struct thmqi_joint *j, struct thmqi_frame *f, uint8_t **ret_to);
/* It is complete. 0; an error: BYE's among them. */
int thmqi_joint_done(struct thmqi_joint *j, struct thmqi_frame *f);
/* Into a ring of the link's. -EPROTO: the other was told how much room there is. */
int thmqi_joint_push(struct thmqi_frame_ring *ring, const struct thmqi_frame *f);
/* Client: may a run of @f's come? 0; -EPROTO. */
int thmqi_joint_run_check(const struct thmqi_joint *j, const struct thmqi_frame *f);
/* Broker: does the client have the run that @f, a RELEASE, gives back? */
bool thmqi_joint_has(const struct thmqi_joint *j, const struct thmqi_frame *f);

static inline bool thmqi_is_run(const struct thmqi_frame *f)
{
	return f->type == THMQI_FRAME_DELIVER || f->type == THMQI_FRAME_DELIVER_ONE;
}

/* ------------------------------------------------------------ what is to go */

static inline uint32_t thmqi_joint_rings(const struct thmqi_joint *j)
{
	return j->of_broker ? 1 : 2;
}

static inline struct thmqi_frame_ring *thmqi_joint_ring(const struct thmqi_joint *j, uint32_t ring)
{
	return j->of_broker ? &j->link->down : ring ? &j->link->ctl : &j->link->up;
}

static inline struct thmqi_frame_ring *thmqi_joint_theirs(const struct thmqi_joint *j,
							  uint32_t ring)
{
	return !j->of_broker ? &j->link->down : ring ? &j->link->ctl : &j->link->up;
}

static inline uint64_t thmqi_joint_untold(const struct thmqi_joint *j, uint32_t ring)
{
	return atomic_load_explicit(&thmqi_joint_theirs(j, ring)->tail, memory_order_acquire) -
	       j->told[ring];
}

static inline bool thmqi_joint_state_is_due(const struct thmqi_joint *j)
{
	uint32_t i;

	if (j->say)
		return true;
	for (i = 0; i < (j->of_broker ? 2u : 1u); i++)
		if (thmqi_joint_untold(j, i) > thmqi_joint_theirs(j, i)->mask / 4)
			return true;
	return false;
}

/* Client: much came down that its thread may have taken meanwhile. */
static inline bool thmqi_joint_may_be_untold(const struct thmqi_joint *j)
{
	return !j->of_broker && j->pushed - j->told[0] > j->link->down.mask / 4;
}

static inline bool thmqi_joint_has_room(const struct thmqi_joint *j, uint32_t ring)
{
	return j->sent[ring] - j->taken[ring] <= thmqi_joint_ring(j, ring)->mask;
}

static inline bool thmqi_joint_is_empty(const struct thmqi_joint *j, uint32_t ring)
{
	/* the broker's end writes on this very thread: no need to look at a slot, which lies in a page of its own */
	if (j->of_broker)
		return j->link->down.head == j->link->down.next;
	return !thmqi_frame_peek(thmqi_joint_ring(j, ring), 0);
}

static inline bool thmqi_joint_frames_wait(const struct thmqi_joint *j)
{
	uint32_t i;

	for (i = 0; i < thmqi_joint_rings(j); i++)
		if (!thmqi_joint_is_empty(j, i) && thmqi_joint_has_room(j, i))
			return true;
	return false;
}

/* This side's end has closed, and all that it left was put. */
static inline bool thmqi_joint_bye_is_due(const struct thmqi_joint *j)
{
	bool closed = j->of_broker ? atomic_load_explicit(&j->link->broker_closed,
							  memory_order_acquire) != 0
				   : j->client_gone;

	return closed && !j->bye_put && thmqi_joint_is_empty(j, 0) &&
	       (j->of_broker || thmqi_joint_is_empty(j, 1));
}

/* The next frame of a ring, as a copy, if the other has room for it. It is there until thmqi_joint_went(). */
static inline bool thmqi_joint_next(struct thmqi_joint *j, uint32_t ring, struct thmqi_frame *ret)
{
	const struct thmqi_frame *slot;

	if (!thmqi_joint_has_room(j, ring))
		return false;
	slot = thmqi_frame_peek(thmqi_joint_ring(j, ring), 0);
	if (!slot)
		return false;
	thmqi_frame_copy(ret, slot);
	return true;
}

static inline void thmqi_joint_went(struct thmqi_joint *j, uint32_t ring)
{
	thmqi_frame_advance(thmqi_joint_ring(j, ring), 1);
	j->sent[ring]++;
}

#endif
