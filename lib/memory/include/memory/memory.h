/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - the pool as the rooms above use it: <thundermq/pool.h>, and short forms of its calls for a core's own memory.
 *
 * Buffers are registered with their slab, never one by one. A core's pool is used by the thread that
 * drives the core; only thmqi_buf_unref_remote() may be called by others. Nothing here falls back to malloc
 * once a pool is open: a full pool is -ENOBUFS.
 */
#ifndef THMQI_MEMORY_H
#define THMQI_MEMORY_H

#include <thundermq/pool.h>

#include "base/base.h"

/* The types are the public ones. */
#define thmqi_slabs thmq_slabs
#define thmqi_pool thmq_pool
#define thmqi_buf thmq_buf
#define thmqi_registrar thmq_registrar

#define THMQI_POOL_BLOCK_MIN THMQI_BLOCK /* what the rooms above fill goes to devices: whole blocks of these */
#define THMQI_POOL_BLOCK_MAX THMQ_BLOCK_MAX
#define THMQI_SLAB_BYTES THMQ_SLAB_BYTES

struct thmqi_slabs_stats {
	uint64_t bytes; /* taken from the system */
	uint64_t limit;
	uint32_t slabs;
	uint32_t huge; /* 1: explicit huge pages */
	uint32_t registrations;
	uint32_t registration_failures;
	uint64_t locked_bytes; /* by thmqi_slabs_lock(), as far as the system let us */
};

/* @limit: bytes over all pools, rounded up to slabs, not 0. Reserves address space only. */
int thmqi_slabs_open(uint64_t limit, struct thmqi_slabs **ret_slabs);
static inline void thmqi_slabs_close(struct thmqi_slabs *s)
{
	thmq_slabs_close(s);
}
/* Every slab taken from now on is locked in memory, or as much of it as the limit of locked memory allows. */
void thmqi_slabs_lock(struct thmqi_slabs *s);
void thmqi_slabs_stats(struct thmqi_slabs *s, struct thmqi_slabs_stats *ret);
uint64_t thmqi_slabs_bytes(struct thmqi_slabs *s); /* taken from the system; without a lock */

static inline int thmqi_pool_open(struct thmqi_slabs *s, struct thmqi_pool **ret_pool)
{
	return thmq_pool_open(s, NULL, ret_pool);
}
/* All buffers must be home; Return: number of blocks that were still out (leaked to the slab's end). */
static inline uint32_t thmqi_pool_close(struct thmqi_pool *p)
{
	return (uint32_t)thmq_pool_close(p);
}
/* Is it worth a thmq_pool_tidy(), as far as is known? Cheap: for a loop that is about to sleep. */
bool thmqi_pool_is_untidy(struct thmqi_pool *p);
/* A registrar sees the slabs of this pool only (a core's ring registers its own core's memory). */
void thmqi_pool_subscribe(struct thmqi_pool *p, struct thmqi_registrar *r);
void thmqi_pool_unsubscribe(struct thmqi_pool *p, struct thmqi_registrar *r);
uint64_t thmqi_pool_limit(const struct thmqi_pool *p); /* bytes that all pools beside it may have together */
/* Make sure that @bytes are there without asking the system later. 0 or -ENOBUFS. */
int thmqi_pool_reserve(struct thmqi_pool *p, uint64_t bytes);
/* By any thread: fetch a slab for a pool with fewer than @bytes free, as thmq_pool_prepare() does, but none that others may need more. */
int thmqi_pool_prepare(struct thmqi_pool *p, uint64_t bytes);

/* A block of at least @size bytes, and of a device's block, with one reference. 0; -ENOBUFS; -EMSGSIZE above the largest. */
static inline int thmqi_buf_alloc(struct thmqi_pool *p, uint32_t size, struct thmqi_buf **ret_buf)
{
	return thmq_buf_alloc(p, THMQI_MAX(size, THMQI_POOL_BLOCK_MIN), THMQ_PURPOSE_GENERAL, ret_buf);
}
/* Give the upper part back: the block shrinks to the smallest power of two that holds @used. Nobody has a part of what goes. */
static inline void thmqi_buf_trim(struct thmqi_buf *b, uint32_t used)
{
	thmq_buf_trim(b, used);
}
static inline void thmqi_buf_ref(struct thmqi_buf *b)
{
	b->refs++;
}
static inline void thmqi_buf_unref(struct thmqi_buf *b) /* owner core */
{
	thmq_buf_unref(b);
}
/* any thread: lock-free, the owner drops it at its next drain */
static inline void thmqi_buf_unref_remote(struct thmqi_buf *b)
{
	thmq_buf_unref_remote(b);
}
/* take home-comers in; returns how many */
static inline uint32_t thmqi_pool_drain(struct thmqi_pool *p)
{
	return thmq_pool_drain(p);
}

/* thmq_buf.owner of what the library itself takes. 0: nobody said. */
enum thmqi_owner {
	THMQI_OWNER_BATCH = 1, /* a batch of a log, being formed or written, in its cache, or looked at by a reader */
	THMQI_OWNER_READ = 2,  /* what was read of a log */
	THMQI_OWNER_INDEX = 3, /* pages of its index */
	THMQI_OWNER_LOG = 4,   /* what a log always has */
	THMQI_OWNER_RUN = 5    /* a run that came over a connection */
};
/* Who has what is out, as "2 of batches (131072 bytes), 1 of reads (4096 bytes)". Return: blocks; 0: none, and @text is "". */
uint32_t thmqi_pool_leak_text(struct thmqi_pool *p, char *text, size_t size);

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
