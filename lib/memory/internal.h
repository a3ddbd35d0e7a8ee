/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of this room share: slabs, descriptors, the lists of a pool. */
#ifndef THMQI_MEMORY_INTERNAL_H
#define THMQI_MEMORY_INTERNAL_H

#include <pthread.h>

#include "memory/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define memory_poison(p, n) __asan_poison_memory_region(p, n)
#define memory_unpoison(p, n) __asan_unpoison_memory_region(p, n)
#else
#define memory_poison(p, n) ((void)(p), (void)(n))
#define memory_unpoison(p, n) ((void)(p), (void)(n))
#endif

#define ORDERS THMQ_BLOCK_ORDERS
#define PAGE_ORDER 6u /* from here on a block is made of whole pages of 4 KiB */
#define PAGE_BYTES (THMQ_BLOCK_MIN << PAGE_ORDER)
#define ROOT_ORDER (ORDERS - 1) /* a block that is joined no further */
#define SLAB_ROOTS (THMQ_SLAB_BYTES / THMQ_BLOCK_MAX)
#define SLAB_PAGES (THMQ_SLAB_BYTES / PAGE_BYTES)
#define SLAB_UNITS (THMQ_SLAB_BYTES / THMQ_BLOCK_MIN)
#define CHUNK_UNITS 1024u /* units whose descriptors lie together: 64 KiB of the slab */
#define ARENAS 3u         /* by enum thmq_purpose */
#define REGISTRAR_SLOTS (THMQ_REGISTRARS_MAX + THMQ_POOL_REGISTRARS_MAX)

_Static_assert(THMQ_BLOCK_MIN << ROOT_ORDER == THMQ_BLOCK_MAX, "orders cover the block sizes");
_Static_assert(sizeof(struct thmq_buf) == THMQI_CACHELINE, "a descriptor is a cache line");
_Static_assert(REGISTRAR_SLOTS <= 64, "a bit for each");

/* thmq_buf.state. A descriptor that is not the first of a block is INSIDE, whatever else it says. */
enum block_state {
	BLOCK_INSIDE, /* within a block that begins before it, or is made of smaller ones */
	BLOCK_FREE,   /* in the list of its order, joined with what is free beside it */
	BLOCK_HELD,   /* at hand: free, and not joined, since its size will be wanted again */
	BLOCK_USED
};

/*
 * A slab and the descriptors of its blocks. Blocks of a page and more have theirs in pages[], in order. Those of smaller
 * blocks lie in smalls[], a chunk's together and by their unit's number with its bits reversed: so the blocks of
 * one size, be it 64 bytes or 2 KiB, have descriptors without gaps, and memory is used for no others.
 */
struct slab {
	struct thmq_slab info;
	struct thmq_buf *pages;  /* SLAB_PAGES */
	struct thmq_buf *smalls; /* SLAB_UNITS, beginning in the same mapping */
	struct thmq_pool *pool;  /* who has it; NULL: nobody. Its own, or under the lock */
	struct slab *next;       /* free ones */
	int32_t node;            /* where it was asked for; -1: anywhere */
	uint64_t locked_bytes;
	uint32_t place;      /* in its pool's array */
	uint32_t free_roots; /* roots that are wholly free */
	uint8_t root_arena[SLAB_ROOTS];
	_Atomic uint64_t
		registered; /* bit per registrar that has it: first the global pool's, then its pool's */
	uint64_t key[REGISTRAR_SLOTS];
};

/* What the address space of a slab is. */
enum place_state {
	PLACE_RESERVED, /* address space only */
	PLACE_MAPPED,   /* memory, and no slab yet: of a giant page */
	PLACE_TAKEN,
	PLACE_LOST /* another mapping got it */
};

/*
 * Two locks. lock guards the free slabs and the counters, and is held for some instructions only: a pool that takes or gives back a
 * slab that is there already waits for nobody else's system calls. making is held while slabs are made, registered or given back to
 * the system, which may take milliseconds: it guards slab[], place[] and topology, and registrars are called under it. Where both are
 * held making comes first. The table of registrars changes under both, so that either is enough to read it. A registrar that calls back
 * what needs making finds that it has it already: making checks for that, and the call fails.
 */
struct thmq_slabs {
	pthread_mutex_t lock;
	pthread_mutex_t making;
	uint8_t *map, *base;
	uint64_t reserved;
	uint32_t limit; /* slabs */
	uint32_t flags;
	uint32_t pages; /* enum thmq_pages: what is still tried */
	bool lock_pages;
	uint8_t place[THMQ_SLABS_MAX];
	struct slab *slab[THMQ_SLABS_MAX]; /* by index; NULL: not there */
	struct slab *
		free; /* lent to nobody: of the private domain, and what the system would not take of peers' */
	_Atomic uint32_t left; /* slabs that can still be lent */
	uint32_t pool_count;
	uint32_t taken, free_count, shared;
	uint32_t of_pages[THMQ_PAGES_PLAIN + 1];
	uint64_t locked_bytes;
	uint32_t registrations, registration_failures;
	uint64_t registration_ns, registration_ns_max;
	struct thmq_registrar *registrar[THMQ_REGISTRARS_MAX];
	struct thmqi_topology *topology; /* once a pool has asked for a node */
};

/* Blocks of one size at hand: a stack, the last freed is the first used. */
struct hand {
	struct thmq_buf *first;
	uint32_t count, max;
};

/* Free blocks of one purpose. */
struct arena {
	struct hand hand[ORDERS];
	uint32_t free_orders; /* bit per order with a free block */
	struct thmq_buf *free[ORDERS];
	uint32_t free_count[ORDERS];
	uint64_t bytes;
	uint64_t in_use; /* of the reserves only: what is general is the pool's less theirs */
};

struct thmq_pool {
	struct arena arena[ARENAS];
	uint64_t in_use, in_use_max; /* by thmqi_count() only: others read them */
	uint64_t bytes, misses, slab_misses, refused, remote_frees;
	uint64_t mistakes;
	/* at the last refusal that was not told of yet; was_refused false: there is none */
	bool was_refused;
	uint32_t refused_left;
	uint64_t refused_in_use, refused_bytes;
	uint64_t
		tidied_free; /* bytes that were free after the last tidying; 0: a slab has come since */
	uint32_t slab_count;
	uint64_t thread; /* whose it is, where that was said: checked by debug builds */
	struct thmq_slabs *slabs;
	struct thmq_pool_opts opts;
	int32_t node;
	struct thmq_registrar
		*registrar[THMQ_POOL_REGISTRARS_MAX]; /* of this pool alone, on its thread */
	bool registering; /* one of them is being called: the pool's slabs stay as they are */
	struct slab *slab[THMQ_SLABS_MAX];
	_Alignas(THMQI_CACHELINE) _Atomic(struct thmq_buf *) home; /* freed elsewhere */
	_Atomic(struct slab *) spare;                              /* fetched by another thread */
};

/* One thread writes, any may read: no locked instruction, and no torn value either. */
static inline void thmqi_count(uint64_t *counter, uint64_t by)
{
	__atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static inline uint32_t block_bytes(uint32_t order)
{
	return THMQ_BLOCK_MIN << order;
}

/* @size: up to the largest block */
static inline uint32_t order_of(uint32_t size)
{
	return 26u - (uint32_t)__builtin_clz((size - !!size) | (THMQ_BLOCK_MIN - 1));
}

/* slabs.c. Takes the lock; false: the calling thread has it, being called by a registrar. */
bool thmqi_slabs_begin_making(struct thmq_slabs *s);
void thmqi_slabs_end_making(struct thmq_slabs *s);
struct slab *thmqi_slabs_take(struct thmq_slabs *s,
			      struct thmq_pool *p); /* NULL: the limit, or the system's */
void thmqi_slabs_give(struct thmq_slabs *s, struct slab *slab);

/* pages.c: memory for the place of a slab. 1; 0 none to be had; -1 the place is lost. With making held. */
int thmqi_pages_map(struct thmq_slabs *s,
		    struct slab *slab); /* whose index, domain and node are set */
bool thmqi_pages_unmap(struct thmq_slabs *s, const struct thmq_slab *info); /* false: it stays */
bool thmqi_descriptors_map(struct slab *slab);
void thmqi_descriptors_clear(struct slab *slab);
void thmqi_descriptors_unmap(struct slab *slab);

/* registrar.c. Of all pools: with making held. Of one pool: on its thread, without. */
void thmqi_registrars_add(struct thmq_slabs *s, struct slab *slab);
void thmqi_registrars_remove(struct thmq_slabs *s, struct slab *slab);
void thmqi_registrars_add_of_pool(struct thmq_pool *p, struct slab *slab);
void thmqi_registrars_remove_of_pool(struct thmq_pool *p, struct slab *slab);
bool thmqi_registrars_of_pool(const struct thmq_pool *p);

/* buddy.c: blocks that are free and joined. */
struct thmq_buf *thmqi_buddy_entry(const struct slab *slab, uint32_t offset, uint32_t order);
void thmqi_buddy_add_slab(struct thmq_pool *p, struct slab *slab);
void thmqi_buddy_remove_slab(struct thmq_pool *p, struct slab *slab); /* it is wholly free */
bool thmqi_buddy_take(struct thmq_pool *p, struct arena *a, uint32_t order,
		      struct thmq_buf **ret_buf);
void thmqi_buddy_give(struct thmq_pool *p, struct slab *slab, uint32_t offset, uint32_t order);
bool thmqi_buddy_move_root(struct thmq_pool *p,
			   uint32_t arena); /* from what is general to a reserve */
struct thmq_buf *thmqi_buddy_piece(struct thmq_pool *p, struct thmq_buf *b, uint32_t i,
				   uint32_t order);
uint32_t thmqi_buddy_halve(struct thmq_pool *p,
			   struct thmq_buf *b); /* a block in use; its new order */

/* leaks.c: blocks in use; walks all if there is one */
uint32_t thmqi_pool_used_blocks(const struct thmq_pool *p);

/* buf.c */
void thmqi_hands_init(struct arena *a);
uint32_t thmqi_home_drain(struct thmq_pool *p);
void thmqi_held_join(struct thmq_pool *p, struct arena *a, uint32_t order, uint32_t keep);
bool thmqi_held_join_all(struct thmq_pool *p, struct arena *a); /* false: there was none */

/* pool.c */
int thmqi_pool_add_slab(struct thmq_pool *p);

static inline struct slab *slab_of(const struct thmq_pool *p, const struct thmq_buf *b)
{
	return p->slabs->slab[b->slab_index];
}

static inline uint64_t general_free(const struct thmq_pool *p)
{
	return p->arena[0].bytes - (p->in_use - p->arena[1].in_use - p->arena[2].in_use);
}

#endif
