/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma.h - RDMA devices (InfiniBand, RoCE, iWARP) and the pool's memory registered with them. The folder behind it is the
 * only reader of <infiniband/...> and <rdma/...>; this header reads neither, and compiles where they are not installed.
 *
 * libibverbs is loaded when the first device is asked for: the library itself needs nothing of it, and on a machine
 * without it, or without a device, every open is -ENODEV with a text that says which of them is missing.
 *
 * A domain is a verbs protection domain that serves the queue pairs of one peer. It registers the pool's slabs by itself,
 * each once: those that are private for local use only (no key of theirs lets a peer in), and those of the peer's own
 * trust domain with the rights that were asked for. What it could not register stays usable by everything but RDMA.
 */
#ifndef THMQI_RDMA_H
#define THMQI_RDMA_H

#include "base/base.h"
#include "memory/memory.h"
#include "transport/transport.h"

struct thmqi_verbs; /* the calls of libibverbs: calls.h, for those who stand in for a device; NULL: the real ones */
struct thmqi_rdma_device;
struct thmqi_rdma_domain;
struct ibv_pd;
struct ibv_context;

struct thmqi_rdma_info {
	char name[64];
	uint32_t ports;
	uint32_t
		is_iwarp; /* its reads need a landing place that peers may write to: not offered for private memory */
	uint64_t active_ports; /* bit i: port i + 1, as far as there are bits */
	uint64_t region_max;   /* bytes of one registration */
	uint32_t reads_max;    /* outstanding at a queue pair */
	uint32_t sges_max;     /* pieces of one request */
};

/* What devices there are, in the order of the system. Return: how many, which may be more than @max; -ENODEV none, and why. */
int thmqi_rdma_list(const struct thmqi_verbs *verbs, struct thmqi_rdma_info *infos, uint32_t max);

/* @name: as the system calls it ("mlx5_0", "rxe0"); NULL: the first one with an active port, else the first. Return: 0;
 * -ENODEV there is none (of that name), -ENOMEM, or as the device says. */
int thmqi_rdma_open(const struct thmqi_verbs *verbs, const char *name,
		    struct thmqi_rdma_device **ret_device);
/* 0; -EBUSY a domain is open on it. */
int thmqi_rdma_close(struct thmqi_rdma_device *d);
const struct thmqi_rdma_info *thmqi_rdma_info(const struct thmqi_rdma_device *d);

enum thmqi_rdma_event_kind {
	THMQI_RDMA_OTHER, /* nothing that must be acted upon */
	THMQI_RDMA_GONE, /* the device failed, or is about to be taken away: close all that is on it */
	THMQI_RDMA_PORT_UP,   /* port */
	THMQI_RDMA_PORT_DOWN, /* port: connections stay until their retries are used up */
	THMQI_RDMA_ADDRESS,   /* port: its addresses have changed */
	THMQI_RDMA_QP_FAILED, /* object, a struct ibv_qp: it will complete nothing but errors */
	THMQI_RDMA_QP_LAST, /* object, a struct ibv_qp that failed: it takes no more of its shared receive queue */
	THMQI_RDMA_CQ_FAILED, /* object, a struct ibv_cq: it overran, and all of its queue pairs are lost */
	THMQI_RDMA_SRQ_LOW, /* object, a struct ibv_srq: it is below its limit, which is disarmed now */
	THMQI_RDMA_SRQ_FAILED /* object, a struct ibv_srq */
};

struct thmqi_rdma_event {
	uint32_t kind;
	uint32_t port;
	void *object;
};

/* Readable when thmqi_rdma_next() has something; it never blocks. */
int thmqi_rdma_fd(const struct thmqi_rdma_device *d);
/* One asynchronous event of the device. It is acknowledged already: an object may be destroyed at once. Return: 1; 0 there
 * is none; negative: the device is gone. Threads: one at a time. */
int thmqi_rdma_next(struct thmqi_rdma_device *d, struct thmqi_rdma_event *ret_event);

/* ------------------------------------------------------------------- domains */

struct thmqi_rdma_domain_opts {
	uint32_t
		peer; /* trust domain of the peer (thmq_slab.domain); THMQ_DOMAIN_PRIVATE: no memory for any peer */
	uint32_t
		flags; /* THMQI_RDMA_PEER_*: what the peer's queue pairs may do in the slabs of its domain */
	struct thmq_pool *pool; /* of private slabs only this one's, on its own thread; NULL: those of all pools */
};

#define THMQI_RDMA_PEER_READS 1u
#define THMQI_RDMA_PEER_WRITES 2u
#define THMQI_RDMA_NO_PRIVATE 4u /* private slabs are not registered */

/* Where an address is registered. */
struct thmqi_rdma_keys {
	uint32_t lkey; /* for our own requests */
	uint32_t rkey; /* for the peer's; 0 where peers are not let in */
};

struct thmqi_rdma_domain_stats {
	uint32_t slabs;        /* registered now */
	uint32_t shared_slabs; /* of these, those that the peer may reach */
	uint32_t failures;     /* slabs that the device or the limit of locked memory refused */
	int32_t error; /* of the last of them; -ENOMEM is the limit of locked memory mostly */
	uint64_t
		bytes; /* registered now: locked in memory, and counted against the limit for each domain */
};

/* Return: 0, also where slabs could not be registered (thmqi_rdma_domain_stats()); -EACCES rights for a peer without a trust
 * domain of its own; -EINVAL; -ENOSPC THMQ_REGISTRARS_MAX; -ENOMEM. Threads: any. */
int thmqi_rdma_domain_open(struct thmqi_rdma_device *d, struct thmq_slabs *slabs,
			   const struct thmqi_rdma_domain_opts *opts,
			   struct thmqi_rdma_domain **ret_domain);
/* Return: 0; -EBUSY a queue pair still refers to it: its registrations are gone, no request passes any more; to be called again
 * once that is destroyed. Threads: any. */
int thmqi_rdma_domain_close(struct thmqi_rdma_domain *d);
/* In constant time, without a lock: a division and two loads. Return: 0; -ENOENT it is not registered here: not a slab's, of
 * another peer's, or refused. Threads: any, while the caller holds a block there. */
int thmqi_rdma_find_keys(const struct thmqi_rdma_domain *d, const void *address,
			 struct thmqi_rdma_keys *ret_keys);
void thmqi_rdma_domain_stats(struct thmqi_rdma_domain *d, struct thmqi_rdma_domain_stats *ret);
struct ibv_pd *thmqi_rdma_domain_pd(struct thmqi_rdma_domain *d);
struct ibv_context *thmqi_rdma_context(struct thmqi_rdma_device *d);
/* The same device, opened by somebody else (a connection manager)? */
bool thmqi_rdma_is_device(const struct thmqi_rdma_device *d, const struct ibv_context *other);

/* --------------------------------------------------------------- connections */

/* rdma://host:port. Where there is no RDMA it listens and connects to nobody: -ENODEV. */
extern const struct thmqi_medium thmqi_medium_rdma;

/* What a core's connections have cost, since it began. */
struct thmqi_rdma_counters {
	uint64_t requests;     /* work requests: sends, reads, writes */
	uint64_t doorbells;    /* calls that posted them */
	uint64_t receives;     /* posted */
	uint64_t receive_doorbells;
	uint64_t completions;
	uint64_t polls;        /* of a completion queue */
	uint64_t arms;         /* of a completion queue: each a request to the device */
	uint64_t wakes;        /* times that the completion channel was read: system calls */
	uint64_t chunks, inline_chunks;
	uint64_t copied_bytes; /* by our processor, both ways */
	uint64_t reach_bytes;  /* read and written in place */
};
/* Of all cores together; each counts its own, so that they are exact only at rest. 0; -ENODEV it was never used. */
int thmqi_rdma_counters(struct thmqi_transport *t, struct thmqi_rdma_counters *ret);

#endif
