/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the registry, links and media share. */
#ifndef THMQI_TRANSPORT_INTERNAL_H
#define THMQI_TRANSPORT_INTERNAL_H

#include <pthread.h>

#include "guard.h"
#include "tls/tls.h"
#include "transport/transport.h"

#define THMQI_CTL_FRAMES_MAX 4096u
#define THMQI_MEDIA_MAX 16u

/* A place where a listener listens, beside its name. */
struct thmqi_door {
	struct thmqi_list link;
	const struct thmqi_medium *medium;
	void *door; /* the medium's */
};

struct thmqi_listener {
	struct thmqi_list link;
	struct thmqi_transport *transport;
	struct thmqi_acceptor acceptor;
	char *name; /* NULL: unnamed */
	struct thmqi_list
		doors; /* struct thmqi_door; changed by the opening and closing thread, under the lock */
	uint64_t instance;            /* which one it is, by chance; never 0 */
	_Atomic uint32_t connections; /* through doors */
	_Atomic uint32_t tls_connections, kernel_tls_connections; /* of these */
	_Atomic uint64_t refused;
	_Atomic int32_t refused_error; /* of the last one */
	_Atomic uint32_t
		refs;      /* links that may still call the acceptor, doors, and the transport */
	_Atomic bool gone; /* set under the lock; read on the cores too */
};

struct thmqi_transport {
	struct thmq_env *env;
	pthread_mutex_t lock;
	struct thmqi_list listeners;
	struct thmqi_list reaches; /* struct thmqi_reach, under the lock */
	uint32_t count;
	uint32_t medium_count;
	const struct thmqi_medium *media[THMQI_MEDIA_MAX];
	void *state[THMQI_MEDIA_MAX]; /* each medium's own; under the lock */
	uint8_t client_id[16]; /* by chance */
	struct own *owns; /* transports of the application's */
	uint32_t interceptor_count;
	struct thmq_interceptor interceptors[THMQI_INTERCEPTORS_MAX];
	uint64_t connection_number; /* of the last one */
	struct thmq_fault *faults;
};

/* A listener that is on no list, for a medium's own ends of links. One reference. */
int thmqi_listener_make(struct thmqi_transport *t, const char *name,
			const struct thmqi_acceptor *acceptor,
			struct thmqi_listener **ret_listener);
/* Under the lock. NULL: nobody has that name. */
struct thmqi_listener *thmqi_listener_find(struct thmqi_transport *t, const char *name);
void thmqi_listener_unref(struct thmqi_listener *l);

/* link.c. Made with a reference for each end; core, shard, listener and waiter are the maker's to set. */
int thmqi_link_make(const struct thmqi_link_opts *opts, size_t end_bytes, struct thmqi_link **ret_link);
void thmqi_link_free(struct thmqi_link *link);
/* Its core calls accept, and the client's end is told if that refuses. */
void thmqi_link_offer(struct thmqi_link *link);
/* The same as thmqi_link_close() at once, by a client end on the link's own core, which was accepted there. */
void thmqi_link_close_here(struct thmqi_link *link);

/* By the reader, on the link's core: may it rest? After it was roused: the other end looks again. */
bool thmqi_link_rest(struct thmqi_link *link);
void thmqi_link_rouse(struct thmqi_link *link);
void thmqi_link_came(struct thmqi_link *link);

/* inproc/inproc.c, shm/shm.c, tcp/tcp.c */
extern const struct thmqi_medium thmqi_medium_inproc;
extern const struct thmqi_medium thmqi_medium_shm;
extern const struct thmqi_medium thmqi_medium_tcp, thmqi_medium_tls;

#endif
