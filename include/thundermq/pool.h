/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - the memory pool as a building block: slabs shared by all cores and registered once, a buddy allocator for
 * each core, counted buffers and slices.
 *
 * struct thmq_slabs is the global pool: it reserves address space once, takes slabs of 32 MiB from the system and lends
 * them to the pools. Any thread may call it. struct thmq_pool belongs to one core, that is to one thread at a time: no
 * call on it locks, but for those that fetch a slab or give one back. What a call may do from another thread is said
 * there. Nothing falls back to malloc: a full pool is -ENOBUFS.
 *
 * A slab has one trust domain. Domain 0 is private: its memory has no descriptor, and no remote key is ever made for it.
 * Any other number is one peer's: its slabs are memfds, sealed against a change of size, which that peer may map.
 * What the allocator knows about blocks lies beside the slabs, never in them: a peer cannot harm it.
 */
#ifndef THUNDERMQ_POOL_H
#define THUNDERMQ_POOL_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_slabs;
struct thmq_pool;

#define THMQ_BLOCK_MIN 64u         /* bytes of the smallest block; each is a power of two, aligned to its size */
#define THMQ_BLOCK_MAX 8388608u    /* and of the largest */
#define THMQ_BLOCK_ORDERS 18u      /* sizes between them: order o has THMQ_BLOCK_MIN << o bytes */
#define THMQ_SLAB_BYTES 33554432u  /* unit of taking from the system and of registration */
#define THMQ_SLABS_MAX 4096u       /* slabs of one global pool */
#define THMQ_REGISTRARS_MAX 56u    /* registrars of one global pool, those of single pools not counted */
#define THMQ_POOL_REGISTRARS_MAX 8u /* registrars of one pool */
#define THMQ_DOMAIN_PRIVATE 0u     /* of nobody but this process */

/* --------------------------------------------------------------- global pool */

/* What slabs are made of: the first of these that the system has, from where one begins. */
enum thmq_pages {
	THMQ_PAGES_DEFAULT = 0,     /* as HUGE */
	THMQ_PAGES_GIANT = 1,       /* explicit pages of 1 GiB, 32 slabs at once, where the limit leaves room for them */
	THMQ_PAGES_HUGE = 2,        /* explicit pages of 2 MiB */
	THMQ_PAGES_TRANSPARENT = 3, /* advice to the kernel to use huge pages */
	THMQ_PAGES_PLAIN = 4        /* plain pages */
};

struct thmq_slabs_opts {
	uint32_t size;
	uint32_t flags;       /* THMQ_SLABS_* */
	uint64_t limit_bytes; /* of all slabs, rounded up to slabs, up to 128 GiB; 0 means 1 GiB. Address space only, until used */
	uint32_t pages;       /* enum thmq_pages: the best that is tried */
	uint32_t reserved;
};

#define THMQ_SLABS_LOCK 1u     /* keep slabs in memory (mlock), as far as the limit of locked memory goes */
#define THMQ_SLABS_PREFAULT 2u /* touch all pages of a slab when it is taken, not when they are used first */

#define THMQ_SLABS_OPTS(...)                                                                       \
	(&(struct thmq_slabs_opts){.size = sizeof(struct thmq_slabs_opts), __VA_ARGS__})

/** thmq_slabs_opts_init() - set @opts to the defaults */
THMQ_API void thmq_slabs_opts_init(struct thmq_slabs_opts *opts, uint32_t size);
#define thmq_slabs_opts_init(opts) thmq_slabs_opts_init((opts), sizeof(struct thmq_slabs_opts))

/**
 * thmq_slabs_open() - reserve the address space of a global pool
 * @opts: NULL means defaults
 * @ret_slabs: out
 * Return: 0; -EINVAL, -E2BIG; -ENOMEM.
 * Threads: any.
 */
THMQ_API int thmq_slabs_open(const struct thmq_slabs_opts *opts, struct thmq_slabs **ret_slabs);

/**
 * thmq_slabs_close() - give all memory back to the system
 * Return: 0; -EBUSY a pool is open on it, or a registrar has not left; -EINVAL.
 * Threads: any, and no other uses it any more.
 */
THMQ_API int thmq_slabs_close(struct thmq_slabs *slabs);

/**
 * thmq_slabs_trim() - give the memory of slabs that no pool has back to the system
 * Registrars are told first. Return: bytes given back.
 * Threads: any; system calls.
 */
THMQ_API uint64_t thmq_slabs_trim(struct thmq_slabs *slabs);

struct thmq_slabs_stats {
	uint32_t size;  /* in */
	uint32_t slabs; /* taken from the system */
	uint32_t free_slabs; /* of these, those that no pool has */
	uint32_t giant_slabs; /* on pages of 1 GiB */
	uint32_t huge_slabs;  /* on explicit pages of 2 MiB */
	uint32_t transparent_slabs; /* on pages that the kernel was advised to make huge; the others are on plain ones */
	uint32_t shared_slabs; /* of domains other than the private one */
	uint32_t registrations; /* of one slab with one registrar, in force or not */
	uint32_t registration_failures;
	uint32_t reserved;
	uint64_t bytes;
	uint64_t limit_bytes;
	uint64_t locked_bytes;
	uint64_t registration_ns;     /* spent in all of them */
	uint64_t registration_ns_max; /* the longest */
};

/** thmq_slabs_stats() - copy the counters; @ret_stats: in: its size field. Return: 0; -EINVAL. Threads: any */
THMQ_API int thmq_slabs_stats(struct thmq_slabs *slabs, struct thmq_slabs_stats *ret_stats);

/* -------------------------------------------------------------- registration */

/* One slab, as a registrar sees it. Lives as long as the slab. */
struct thmq_slab {
	uint8_t *base;
	uint64_t bytes;
	uint32_t index;  /* thmq_buf.slab_index of its blocks; below THMQ_SLABS_MAX */
	uint32_t domain; /* whose it is */
	int32_t fd;      /* memfd; -1 for a private slab */
	uint32_t pages;  /* enum thmq_pages */
};

/*
 * Whoever needs memory registered: a core's io_uring, an RDMA protection domain. The struct is the caller's, all zero but what is
 * set below, stays where it is from subscribe to unsubscribe, and is mostly the first member of a larger one. add is called once for
 * every slab that there is and for every one to come; a slab that add refuses stays unregistered with this registrar, and is used
 * all the same.
 *
 * add and remove may take their time: a pool that takes a slab which is there already does not wait for them; one that needs
 * a new one does. What they call back of the global pool (thmq_slabs_subscribe(), thmq_slabs_unsubscribe(), a pool's open near a
 * node) is -EDEADLK, thmq_slabs_trim() does nothing, and an allocation that needs a slab is -ENOBUFS; keys and counters can be had.
 */
struct thmq_registrar {
	/* Register @slab. *@ret_key (0 until set) is what thmq_slabs_key() finds. 0 or a negative error. */
	int (*add)(struct thmq_registrar *registrar, const struct thmq_slab *slab, uint64_t *ret_key);
	/* Only for those that add has taken. */
	void (*remove)(struct thmq_registrar *registrar, const struct thmq_slab *slab, uint64_t key);
	struct thmq_pool *pool; /* only this pool's slabs, on the thread of this pool; NULL: those of all pools of the domain,
				   on any thread, one at a time */
	uint32_t domain; /* whose slabs; with THMQ_REGISTRAR_ANY_DOMAIN all */
	uint32_t flags;  /* THMQ_REGISTRAR_* */
	uint32_t internal[2];
};

#define THMQ_REGISTRAR_REMOTE 1u     /* its keys let a peer in: only of a peer's domain */
#define THMQ_REGISTRAR_ANY_DOMAIN 2u /* slabs of all domains, for keys that never leave this process */

/**
 * thmq_slabs_subscribe() - register all slabs that there are and all to come with @registrar
 * Return: 0, also where add refused some (they are counted); -EACCES remote keys of the private domain, or of any;
 * -EBUSY subscribed already; -ENOSPC THMQ_REGISTRARS_MAX, or THMQ_POOL_REGISTRARS_MAX of one pool; -EDEADLK called by a
 * registrar; -EINVAL.
 * Threads: any; with a pool, that pool's.
 */
THMQ_API int thmq_slabs_subscribe(struct thmq_slabs *slabs, struct thmq_registrar *registrar);

/**
 * thmq_slabs_unsubscribe() - remove all slabs from @registrar
 * Return: 0; -EINVAL not subscribed; -EDEADLK called by a registrar. Threads: as subscribe.
 */
THMQ_API int thmq_slabs_unsubscribe(struct thmq_slabs *slabs, struct thmq_registrar *registrar);

/**
 * thmq_slabs_key() - the key or index under which the slab of @address is registered; in constant time, without a lock
 * Return: 0; -ENOENT not an address of a slab that is registered with @registrar.
 * Threads: any, while the caller holds a block there.
 */
THMQ_API int thmq_slabs_key(const struct thmq_slabs *slabs, const struct thmq_registrar *registrar,
			    const void *address, uint64_t *ret_key);

/**
 * thmq_slabs_find() - the slab in which @address lies, to hand its descriptor to the peer that it belongs to
 * Return: 0; -ENOENT no slab there.
 * Threads: any, while the caller holds a block there.
 */
THMQ_API int thmq_slabs_find(const struct thmq_slabs *slabs, const void *address,
			     struct thmq_slab *ret_slab);

/* ------------------------------------------------------------ core-local pool */

/* What a block is for. The reserves of one are never used for another. */
enum thmq_purpose {
	THMQ_PURPOSE_GENERAL = 0,
	THMQ_PURPOSE_RECEIVE = 1, /* its reserve first, then what is general */
	THMQ_PURPOSE_SEND = 2     /* likewise */
};

struct thmq_pool_opts {
	uint32_t size;
	uint32_t flags;         /* THMQ_POOL_* */
	uint64_t limit_bytes;   /* of its slabs; 0: no limit but that of the global pool */
	uint64_t receive_bytes; /* reserve, rounded up to THMQ_BLOCK_MAX; taken at the open */
	uint64_t send_bytes;    /* likewise */
	uint64_t low_bytes;     /* fewer free bytes than these: thmq_pool_tidy() and thmq_pool_prepare() fetch a slab */
	uint64_t high_bytes;    /* more free bytes than these: thmq_pool_tidy() gives whole slabs back; 0: never */
	uint32_t domain;        /* whose slabs; 0: private */
	int32_t node;           /* with THMQ_POOL_NODE: NUMA node, as the system numbers them */
	/* A call was refused with -ENOBUFS, and something has come back since, to this pool or to the global one: told by
	 * thmq_pool_drain() and thmq_pool_tidy(), once for each time, and not before one of them is called. NULL: not wanted. */
	void (*room)(void *ctx);
	void *ctx;
};

#define THMQ_POOL_NODE 1u /* node is set: slabs come from there as far as it has them */
#define THMQ_POOL_NEAR 2u /* slabs come from the node of the processor that the opening thread is on */

#define THMQ_POOL_OPTS(...)                                                                        \
	(&(struct thmq_pool_opts){.size = sizeof(struct thmq_pool_opts), __VA_ARGS__})

/** thmq_pool_opts_init() - set @opts to the defaults */
THMQ_API void thmq_pool_opts_init(struct thmq_pool_opts *opts, uint32_t size);
#define thmq_pool_opts_init(opts) thmq_pool_opts_init((opts), sizeof(struct thmq_pool_opts))

/**
 * thmq_pool_open() - open a core's pool
 * @opts: NULL means defaults
 * @ret_pool: out
 * Return: 0; -ENOBUFS the reserves do not fit; -ENOTSUP the node is not known; -EINVAL, -E2BIG; -ENOMEM.
 * Threads: any; from then on the calling thread's, until another one uses it and this one has stopped.
 */
THMQ_API int thmq_pool_open(struct thmq_slabs *slabs, const struct thmq_pool_opts *opts,
			    struct thmq_pool **ret_pool);

/**
 * thmq_pool_close() - give its slabs back to the global pool
 * Return: the number of blocks that were still out: these must not be touched any more; -EBUSY a registrar of this pool has
 * not left; -EINVAL. See thmq_pool_leaks().
 * Threads: the pool's; no other thread drops references any more.
 */
THMQ_API int64_t thmq_pool_close(struct thmq_pool *pool);

/**
 * thmq_pool_adopt() - the calling thread is the pool's from now on
 * Debug builds then trap where another thread allocates or frees; others do not look. A pool that nobody adopted is not
 * checked.
 * Threads: any, once the one before has stopped.
 */
THMQ_API void thmq_pool_adopt(struct thmq_pool *pool);

struct thmq_pool_leak {
	uint32_t owner; /* thmq_buf.owner */
	uint32_t blocks;
	uint64_t bytes;
};

/**
 * thmq_pool_leaks() - who has the blocks that are out, by owner; what came home is taken in first
 * @leaks: room for @max owners; those with most bytes come first
 * Return: the number of owners, which may be more than @max; -EINVAL; -ENOMEM.
 * Threads: the pool's. Walks all blocks.
 */
THMQ_API int thmq_pool_leaks(struct thmq_pool *pool, struct thmq_pool_leak *leaks, uint32_t max);

/**
 * thmq_pool_drain() - take in the blocks that other threads dropped
 * Cheap where there are none: to be called in each round of the loop that owns the pool, and before that sleeps.
 * Return: references taken in. Threads: the pool's.
 */
THMQ_API uint32_t thmq_pool_drain(struct thmq_pool *pool);

/**
 * thmq_pool_tidy() - what is not for the hot path: drain, join all free blocks, fetch a slab below the low mark, give slabs
 * back above the high one
 * Return: 1 if something was done, 0 if not.
 * Threads: the pool's, when it has nothing better to do. System calls only where a slab moves.
 */
THMQ_API int thmq_pool_tidy(struct thmq_pool *pool);

/**
 * thmq_pool_prepare() - fetch a slab for a pool that is below its low mark, so that its own thread need not
 * The pool takes it in at its next drain.
 * Return: 1 a slab was fetched; 0 none is needed, or one is waiting; -ENOBUFS.
 * Threads: any, as long as the pool is open; may block in system calls.
 */
THMQ_API int thmq_pool_prepare(struct thmq_pool *pool);

struct thmq_pool_stats {
	uint32_t size; /* in */
	uint32_t slabs;
	uint64_t bytes; /* of its slabs */
	uint64_t in_use_bytes;
	uint64_t in_use_bytes_max;
	uint64_t receive_in_use_bytes; /* of in_use_bytes, those out of the reserve */
	uint64_t send_in_use_bytes;
	uint64_t refused;      /* calls that got -ENOBUFS */
	uint64_t misses;       /* allocations that found no block of their size at hand */
	uint64_t slab_misses;  /* of these, those that had to fetch a slab */
	uint64_t remote_frees; /* references that came home from other threads */
	uint64_t mistakes;     /* frees of what was not in use, which did nothing */
	uint64_t free_blocks[THMQ_BLOCK_ORDERS]; /* by order, joined as far as they are now; those at hand included */
	uint32_t largest_free; /* bytes of the largest block that could be had without a slab */
	uint32_t fragmentation; /* per mille of the free bytes outside blocks of THMQ_BLOCK_MAX */
};

/** thmq_pool_stats() - copy the counters; @ret_stats: in: its size field. Return: 0; -EINVAL. Threads: any */
THMQ_API int thmq_pool_stats(struct thmq_pool *pool, struct thmq_pool_stats *ret_stats);

/* ------------------------------------------------------------------- buffers */

/*
 * A block, its descriptor: a cache line beside the slab. Who has a reference may read it, and write user and owner; all
 * else is the pool's. References are counted by the pool's own thread, so that counting is no atomic operation.
 */
struct thmq_buf {
	uint8_t *data; /* aligned to size */
	uint32_t size; /* bytes: a power of two */
	uint32_t refs;
	uint64_t user; /* the holder's; 0 at first */
	struct thmq_pool *pool;
	uint32_t owner;     /* a number of the holder's for thmq_pool_leaks(); 0 at first */
	int32_t slab_index; /* thmq_slab.index */
	struct thmq_buf *next;
	struct thmq_buf *prev;
	uint32_t remote;
	uint8_t order;
	uint8_t state;
	uint8_t arena;
	uint8_t reserved;
};

/**
 * thmq_buf_alloc() - a block with one reference
 * @size: bytes; the block is the smallest power of two that holds them. From 4096 on it can be used for O_DIRECT
 * @purpose: enum thmq_purpose
 * Return: 0; -ENOBUFS the pool is full; -EMSGSIZE more than THMQ_BLOCK_MAX; -EINVAL no such purpose.
 * Threads: the pool's. In constant time where a block is at hand, or can be split off; else a slab is fetched: low_bytes
 * keeps that off the hot path.
 */
THMQ_API int thmq_buf_alloc(struct thmq_pool *pool, uint32_t size, uint32_t purpose,
			    struct thmq_buf **ret_buf);

/**
 * thmq_buf_trim() - give the upper part of a block back, so that it still holds @used bytes
 * A block of 4096 bytes or more keeps as many. Where it is shared nobody else may have a part of what is given back. One that is
 * not in use stays as it is, and that is counted as a mistake; debug builds trap. Threads: the pool's.
 */
THMQ_API void thmq_buf_trim(struct thmq_buf *buf, uint32_t used);

/** thmq_buf_ref() - one more reference. Threads: the pool's */
THMQ_API void thmq_buf_ref(struct thmq_buf *buf);

/**
 * thmq_buf_unref() - drop a reference; the last one frees the block
 * Return: 0; -EINVAL it is not in use (freed twice): nothing was done, and it was counted. Debug builds trap instead.
 * Threads: the pool's.
 */
THMQ_API int thmq_buf_unref(struct thmq_buf *buf);

/**
 * thmq_buf_unref_remote() - drop a reference on a thread that is not the pool's
 * The pool's next drain takes it in. Nobody is woken by it: where the pool is a core's that may sleep, call thmq_core_kick()
 * afterwards, once for many blocks; examples/pipeline.c shows it. Threads: any, the pool's too; lock-free, one or two atomic
 * operations.
 */
THMQ_API void thmq_buf_unref_remote(struct thmq_buf *buf);

/**
 * thmq_buf_find() - the block in use in which @address lies
 * Return: 0; -ENOENT none; it has no reference more.
 * Threads: the pool's that has the address.
 */
THMQ_API int thmq_buf_find(struct thmq_pool *pool, const void *address, struct thmq_buf **ret_buf);

/* A part of a block, with a reference of its own. Who copies the struct, and forgets the first, has handed the reference on. */
struct thmq_slice {
	struct thmq_buf *buf;
	uint8_t *data;
	uint32_t len;
	uint32_t reserved;
};

/**
 * thmq_slice_open() - @len bytes of @buf from @offset on, with a reference
 * Return: 0; -EINVAL not within the block.
 * Threads: the pool's.
 */
THMQ_API int thmq_slice_open(struct thmq_buf *buf, uint32_t offset, uint32_t len,
			     struct thmq_slice *ret_slice);

/** thmq_slice_cut() - a slice of a slice, with a reference of its own. Return, threads: as thmq_slice_open() */
THMQ_API int thmq_slice_cut(const struct thmq_slice *slice, uint32_t offset, uint32_t len,
			    struct thmq_slice *ret_slice);

/** thmq_slice_close() - drop the slice's reference; @slice is empty then, and may be closed again. Threads: the pool's */
THMQ_API void thmq_slice_close(struct thmq_slice *slice);

#ifdef __cplusplus
}
#endif

#endif
