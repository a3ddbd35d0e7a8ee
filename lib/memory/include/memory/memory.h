/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - the pool: slabs taken once for all cores, a buddy allocator per core, counted buffers.
 *
 * Buffers are registered with their slab, never one by one. A core's pool is used by the thread that
 * drives the core; only thmqi_buf_unref_remote() may be called by others. Nothing here falls back to malloc
 * once a pool is open: a full pool is -ENOBUFS.
 */
#ifndef THMQI_MEMORY_H
#define THMQI_MEMORY_H

#include "base/base.h"

#define THMQI_POOL_BLOCK_MIN 4096u /* smallest block; every block is aligned to its size */
#define THMQI_POOL_BLOCK_MAX (8u << 20)
#define THMQI_SLAB_BYTES (32u << 20) /* slab: unit of taking from the system and of registration */
#define THMQI_SLABS_PER_POOL 1024u

struct thmqi_pool;  /* one per core */
struct thmqi_slabs; /* one per environment: "the global pool" */

/* One block. Metadata lives beside the slab, found from any address in it. */
struct thmqi_buf {
	uint8_t *data; /* aligned to block size */
	uint32_t size; /* of the block: a power of two, THMQI_POOL_BLOCK_MIN … _MAX */
	uint32_t refs; /* owner core only */
	int32_t slab_index; /* of its slab; registered buffers of a ring have the same index; see registrar */
	_Atomic uint32_t remote; /* references dropped by others, not yet taken in */
	struct thmqi_pool *pool; /* where it goes home to */
	struct thmqi_buf *next;  /* free or home-coming list */
	uint64_t user;           /* the holder's */
};

/* Whoever needs memory registered (a core's io_uring, a protection domain). add is called for every slab there
 * is and every one to come, on the thread that takes the slab; an error of add leaves the slab unregistered with
 * this registrar (counted), which the user must cope with. */
struct thmqi_registrar {
	int (*add)(struct thmqi_registrar *r, void *base, size_t len, uint32_t slab_index);
	void (*remove)(struct thmqi_registrar *r, void *base, size_t len, uint32_t slab_index);
	struct thmqi_list link;
};

struct thmqi_slabs_stats {
	uint64_t bytes; /* taken from the system */
	uint64_t limit;
	uint32_t slabs;
	uint32_t huge; /* 1: explicit huge pages */
	uint32_t registrations;
	uint32_t registration_failures;
	uint64_t locked_bytes; /* by thmqi_slabs_lock(), as far as the system let us */
};

/* @limit: bytes over all pools, rounded up to slabs. Reserves address space only. */
int thmqi_slabs_open(uint64_t limit, struct thmqi_slabs **ret_slabs);
void thmqi_slabs_close(struct thmqi_slabs *s);
/* Every slab taken from now on is locked in memory, or as much of it as the limit of locked memory allows. */
void thmqi_slabs_lock(struct thmqi_slabs *s);
void thmqi_slabs_stats(struct thmqi_slabs *s, struct thmqi_slabs_stats *ret);

int thmqi_pool_open(struct thmqi_slabs *s, struct thmqi_pool **ret_pool);
/* All buffers must be home; Return: number of blocks that were still out (leaked to the slab's end). */
uint32_t thmqi_pool_close(struct thmqi_pool *p);
/* A registrar sees the slabs of this pool only (a core's ring registers its own core's memory). */
void thmqi_pool_subscribe(struct thmqi_pool *p, struct thmqi_registrar *r);
void thmqi_pool_unsubscribe(struct thmqi_pool *p, struct thmqi_registrar *r);
/* Make sure that @bytes are there without asking the system later. 0 or -ENOBUFS. */
int thmqi_pool_reserve(struct thmqi_pool *p, uint64_t bytes);

/* A block of at least @size bytes with one reference. 0; -ENOBUFS; -EMSGSIZE above the largest block. */
int thmqi_buf_alloc(struct thmqi_pool *p, uint32_t size, struct thmqi_buf **ret_buf);
/* Give the upper part back: the block shrinks to the smallest power of two that holds @used. refs must be 1. */
void thmqi_buf_trim(struct thmqi_buf *b, uint32_t used);
static inline void thmqi_buf_ref(struct thmqi_buf *b)
{
	b->refs++;
}
void thmqi_buf_unref(struct thmqi_buf *b); /* owner core */
void thmqi_buf_unref_remote(
	struct thmqi_buf *b); /* any thread: lock-free, the owner drops it at its next drain */
uint32_t thmqi_pool_drain(struct thmqi_pool *p); /* take home-comers in; returns how many */

struct thmqi_pool_stats {
	uint64_t bytes; /* of its slabs */
	uint64_t in_use;
	uint64_t in_use_max;
	uint64_t refused;
	uint64_t remote_frees;
	uint32_t largest_free;
	uint32_t reserved;
};
void thmqi_pool_stats(struct thmqi_pool *p, struct thmqi_pool_stats *ret);

#endif
