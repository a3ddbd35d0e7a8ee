/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.h - the broker's side of every medium until a connection is open. A host is what a door has of its listener; a guest is what
 * a connection has of its host; a lobby is where guests wait that have not said what they want: few, and the oldest gives
 * way. A gate is a host with a socket that listens, on core 0. Knows not what is said, nor what is made of a descriptor.
 */
#ifndef THMQI_TRANSPORT_GATE_H
#define THMQI_TRANSPORT_GATE_H

#include "internal.h"
#include "wire/stream.h"

#define GATE_CONNECTIONS 1024u

struct thmqi_lobby {
	struct thmqi_list guests; /* oldest first */
	uint32_t count, count_max;
};

struct thmqi_host {
	struct thmq_core *core;          /* of the door */
	struct thmqi_listener *listener; /* counted; NULL: not open */
	uint64_t silence_ns;             /* of a client, that is taken for death */
	uint32_t connections_max;
};

/* The first part of a connection on the broker's side. All zero: of nobody. */
struct thmqi_guest {
	struct thmqi_listener *listener; /* counted, and its connections with it */
	struct thmqi_lobby *lobby;       /* where it waits, or NULL */
	const char *medium;              /* by which it came; NULL: not told yet */
	char peer[THMQI_PEER_BYTES];     /* as in struct thmqi_link; "": anonymous */
	struct thmqi_list link;
};

void thmqi_host_open(struct thmqi_host *h, struct thmqi_listener *l,
		     const struct thmqi_listen_opts *opts);
void thmqi_host_close(struct thmqi_host *h); /* also one that is not open */
/* No more connections; @waiting do not count: they give way to others. */
bool thmqi_host_is_full(const struct thmqi_host *h, uint32_t waiting);

void thmqi_guest_open(struct thmqi_guest *g, const struct thmqi_host *h);
void thmqi_guest_close(struct thmqi_guest *g); /* out of the lobby, too */
/* The core of the shard that it means. -ECONNREFUSED; -ESHUTDOWN: @instance is of a broker that is not there any more. */
int thmqi_guest_core(const struct thmqi_guest *g, uint64_t instance, uint32_t shard,
		     struct thmq_core **ret_core);
/* On that core: a link whose client's end is played by @reader, there, and which the shard has accepted. */
int thmqi_guest_link(const struct thmqi_guest *g, struct thmq_core *core, uint32_t shard,
		     const struct thmqi_link_opts *opts, struct thmqi_poller *reader,
		     struct thmqi_link **ret_link);
/* The same, as a greeting says. -EINVAL: its rings contradict each other. */
int thmqi_guest_greeted(const struct thmqi_guest *g, struct thmq_core *core,
			const struct thmqi_hello *hello, struct thmqi_poller *reader,
			struct thmqi_link **ret_link);

void thmqi_lobby_init(struct thmqi_lobby *l, uint32_t count_max);
/* Who has to give way before another one comes in; NULL: there is room. */
struct thmqi_guest *thmqi_lobby_surplus(const struct thmqi_lobby *l);
void thmqi_lobby_enter(struct thmqi_lobby *l, struct thmqi_guest *g);
void thmqi_lobby_leave(struct thmqi_guest *g); /* also who is in none */

/* ----------------------------------------------------------------------- gate */

struct thmqi_gate;
struct thmqi_gate_ops {
	int (*next)(struct thmqi_gate *g); /* a connection's descriptor; -1, and errno tells */
	void (*take)(struct thmqi_gate *g, int fd); /* it is the medium's */
	void (*turn_away)(struct thmqi_gate *g, int fd);
	void (*end)(struct thmqi_guest *guest, int error); /* of the lobby */
	void (*shut)(struct thmqi_gate *g);                /* nobody else gets in */
	void (*free)(struct thmqi_gate *g);                /* behind it nobody refers to the gate */
};

struct thmqi_gate {
	struct thmqi_poller poller;
	struct thmqi_host host;
	struct thmqi_lobby lobby;
	struct thmqi_timer timer;
	struct thmq_watch *watch; /* NULL: none */
	const struct thmqi_gate_ops *ops;
	int fd;
	bool readable, closed;
};

/* By a thread that may make calls on the cores. @fd listens, and stays the medium's. What fails leaves nothing. */
int thmqi_gate_start(struct thmqi_gate *g, const struct thmqi_gate_ops *ops, int fd);
/* The medium's unlisten. Where nobody drives the core it ends with it. */
void thmqi_gate_stop(struct thmqi_gate *g);

#endif
