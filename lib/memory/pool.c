/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - a core's own allocator: buddies from 4 KiB to 8 MiB over slabs of the global pool. A block's metadata
 * stands beside its slab, one entry for each smallest block; only the entry of a block's first unit counts.
 */
#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define poison(p, n) __asan_poison_memory_region(p, n)
#define unpoison(p, n) __asan_unpoison_memory_region(p, n)
#else
#define poison(p, n) ((void)(p), (void)(n))
#define unpoison(p, n) ((void)(p), (void)(n))
#endif

#define ORDERS 12u /* 4 KiB << 11 = 8 MiB */
#define UNITS (THMQI_SLAB_BYTES / THMQI_POOL_BLOCK_MIN)

_Static_assert(THMQI_POOL_BLOCK_MIN << (ORDERS - 1) == THMQI_POOL_BLOCK_MAX,
	       "orders cover the block sizes");

enum unit_state {
	UNIT_INSIDE, /* within a block that begins before it */
	UNIT_FREE,
	UNIT_USED
};

struct unit {
	struct thmqi_buf buf;
	struct thmqi_list link; /* free list of its order */
	uint8_t order;
	uint8_t state; /* enum unit_state */
};

struct slab {
	uint8_t *base;
	uint32_t index;
	struct unit *units;
};

struct thmqi_pool {
	struct thmqi_slabs *slabs;
	struct slab *slab[THMQI_SLABS_PER_POOL];
	uint32_t slab_count;
	uint32_t used_blocks;
	uint32_t free_orders; /* bit per order with a free block */
	struct thmqi_list free[ORDERS];
	struct thmqi_list registrars;
	uint64_t bytes, in_use, in_use_max, refused,
		remote_frees; /* by count() only: others read them */
	_Alignas(THMQI_CACHELINE) _Atomic(struct thmqi_buf *) home; /* freed elsewhere */
};

/* One thread writes, any may read: no locked instruction, and no torn value either. */
static void count(uint64_t *counter, uint64_t by)
{
	__atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static void count_use(struct thmqi_pool *p, int64_t by)
{
	count(&p->in_use, (uint64_t)by);
	if (p->in_use > p->in_use_max)
		count(&p->in_use_max, p->in_use - p->in_use_max);
}

static struct unit *unit_of(const struct thmqi_buf *b)
{
	return thmqi_container(b, struct unit, buf);
}

static uint32_t block_bytes(uint32_t order)
{
	return THMQI_POOL_BLOCK_MIN << order;
}

static uint32_t order_of(uint32_t size)
{
	return size <= THMQI_POOL_BLOCK_MIN
		       ? 0
		       : 32u - (uint32_t)__builtin_clz((size - 1) / THMQI_POOL_BLOCK_MIN);
}

static void set_free_orders(struct thmqi_pool *p, uint32_t orders)
{
	__atomic_store_n(&p->free_orders, orders,
			 __ATOMIC_RELAXED); /* read by the counters' readers */
}

static void free_push(struct thmqi_pool *p, struct unit *u, uint32_t order)
{
	u->order = (uint8_t)order;
	u->state = UNIT_FREE;
	/* the last freed is the first used: it is still in the cache */
	thmqi_list_add_tail(p->free[order].next, &u->link);
	set_free_orders(p, p->free_orders | 1u << order);
}

static void free_remove(struct thmqi_pool *p, struct unit *u)
{
	thmqi_list_del(&u->link);
	if (thmqi_list_empty(&p->free[u->order]))
		set_free_orders(p, p->free_orders & ~(1u << u->order));
	u->state = UNIT_INSIDE;
}

/* Gives a block of @order back, joined with its buddies as far as they are free. */
static void give_back(struct thmqi_pool *p, struct unit *u, uint32_t order)
{
	struct slab *slab = p->slab[u->buf.slab_index];
	uint32_t at = (uint32_t)(u - slab->units), other;

	poison(u->buf.data, block_bytes(order));
	u->state = UNIT_INSIDE;
	for (; order + 1 < ORDERS; order++) {
		other = at ^ (1u << order);
		if (slab->units[other].state != UNIT_FREE || slab->units[other].order != order)
			break;
		free_remove(p, &slab->units[other]);
		at &= ~(1u << order);
	}
	free_push(p, &slab->units[at], order);
}

/* ------------------------------------------------------------------- slabs */

static int slab_add(struct thmqi_pool *p)
{
	struct slab *slab;
	struct thmqi_list *it;
	uint8_t *base;
	uint32_t i;

	/* first what is refused most often, and for nothing */
	base = p->slab_count < THMQI_SLABS_PER_POOL ? thmqi_slabs_take(p->slabs) : NULL;
	if (!base)
		return -ENOBUFS;
	slab = calloc(1, sizeof(*slab));
	if (slab)
		slab->units = calloc(UNITS, sizeof(*slab->units));
	if (!slab || !slab->units) {
		free(slab);
		thmqi_slabs_give(p->slabs, base);
		return -ENOBUFS;
	}
	slab->base = base;
	slab->index = p->slab_count;
	p->slab[slab->index] = slab;
	count(&p->bytes, THMQI_SLAB_BYTES);
	p->slab_count++;
	for (i = 0; i < UNITS; i++) {
		slab->units[i].buf.data = slab->base + (uint64_t)i * THMQI_POOL_BLOCK_MIN;
		slab->units[i].buf.slab_index = (int32_t)slab->index;
		slab->units[i].buf.pool = p;
		thmqi_list_init(&slab->units[i].link);
	}
	for (i = 0; i < UNITS; i += 1u << (ORDERS - 1))
		free_push(p, &slab->units[i], ORDERS - 1);
	thmqi_list_each(it, &p->registrars)
	{
		struct thmqi_registrar *r = thmqi_container(it, struct thmqi_registrar, link);

		thmqi_slabs_note(p->slabs,
				 r->add(r, slab->base, THMQI_SLAB_BYTES, slab->index) == 0);
	}
	poison(slab->base, THMQI_SLAB_BYTES);
	return 0;
}

void thmqi_pool_subscribe(struct thmqi_pool *p, struct thmqi_registrar *r)
{
	uint32_t i;

	thmqi_list_add_tail(&p->registrars, &r->link);
	for (i = 0; i < p->slab_count; i++)
		thmqi_slabs_note(p->slabs, r->add(r, p->slab[i]->base, THMQI_SLAB_BYTES, i) == 0);
}

void thmqi_pool_unsubscribe(struct thmqi_pool *p, struct thmqi_registrar *r)
{
	uint32_t i;

	thmqi_list_del(&r->link);
	for (i = 0; i < p->slab_count; i++)
		r->remove(r, p->slab[i]->base, THMQI_SLAB_BYTES, i);
}

int thmqi_pool_open(struct thmqi_slabs *s, struct thmqi_pool **ret_pool)
{
	struct thmqi_pool *p =
		aligned_alloc(THMQI_CACHELINE, THMQI_ALIGN_UP(sizeof(*p), (size_t)THMQI_CACHELINE));
	uint32_t i;

	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->slabs = s;
	for (i = 0; i < ORDERS; i++)
		thmqi_list_init(&p->free[i]);
	thmqi_list_init(&p->registrars);
	*ret_pool = p;
	return 0;
}

uint32_t thmqi_pool_close(struct thmqi_pool *p)
{
	uint32_t left, i;

	thmqi_pool_drain(p);
	left = p->used_blocks;
	for (i = 0; i < p->slab_count; i++) {
		unpoison(p->slab[i]->base, THMQI_SLAB_BYTES);
		thmqi_slabs_give(p->slabs, p->slab[i]->base);
		free(p->slab[i]->units);
		free(p->slab[i]);
	}
	free(p);
	return left;
}

int thmqi_pool_reserve(struct thmqi_pool *p, uint64_t bytes)
{
	int rc = 0;

	while (!rc && p->bytes - p->in_use < bytes)
		rc = slab_add(p);
	return rc;
}

/* ------------------------------------------------------------------ blocks */

int thmqi_buf_alloc(struct thmqi_pool *p, uint32_t size, struct thmqi_buf **ret_buf)
{
	uint32_t order = order_of(size), fits, from;
	struct unit *u;

	if (thmqi_unlikely(size > THMQI_POOL_BLOCK_MAX))
		return -EMSGSIZE;
	fits = p->free_orders & ~((1u << order) - 1);
	if (thmqi_unlikely(!fits)) {
		if (thmqi_pool_drain(p))
			fits = p->free_orders & ~((1u << order) - 1);
		if (!fits && slab_add(p) == 0)
			fits = p->free_orders & ~((1u << order) - 1);
		if (!fits) {
			count(&p->refused, 1);
			return -ENOBUFS;
		}
	}
	from = (uint32_t)__builtin_ctz(fits);
	u = thmqi_list_first(&p->free[from], struct unit, link);
	free_remove(p, u);
	while (from > order) {
		from--;
		free_push(p, u + (1u << from), from);
	}
	u->order = (uint8_t)order;
	u->state = UNIT_USED;
	u->buf.size = block_bytes(order);
	u->buf.refs = 1;
	u->buf.next = NULL;
	u->buf.user = 0;
	unpoison(u->buf.data, u->buf.size);
	p->used_blocks++;
	count_use(p, u->buf.size);
	*ret_buf = &u->buf;
	return 0;
}

void thmqi_buf_trim(struct thmqi_buf *b, uint32_t used)
{
	struct thmqi_pool *p = b->pool;
	struct unit *u = unit_of(b);
	uint32_t order = order_of(used);

	while (u->order > order) {
		u->order--;
		count_use(p, -(int64_t)block_bytes(u->order));
		give_back(p, u + (1u << u->order), u->order);
	}
	b->size = block_bytes(u->order);
}

void thmqi_buf_unref(struct thmqi_buf *b)
{
	struct thmqi_pool *p = b->pool;
	struct unit *u = unit_of(b);

	thmqi_assert(u->state == UNIT_USED && b->refs > 0);
	if (--b->refs)
		return;
	p->used_blocks--;
	count_use(p, -(int64_t)b->size);
	give_back(p, u, u->order);
}

/*
 * A stack that many push to and only the owner empties, as a whole: no block is ever popped alone, so ABA cannot be.
 * A block is on it once, however many of its references come home: who finds its count at 0 pushes it, the owner takes
 * the count to 0 again after it has read where the next one is.
 */
void thmqi_buf_unref_remote(struct thmqi_buf *b)
{
	struct thmqi_pool *p = b->pool;
	struct thmqi_buf *head;

	if (atomic_fetch_add_explicit(&b->remote, 1, memory_order_acq_rel))
		return;
	head = atomic_load_explicit(&p->home, memory_order_relaxed);
	do {
		b->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&p->home, &head, b, memory_order_release,
							memory_order_relaxed));
}

uint32_t thmqi_pool_drain(struct thmqi_pool *p)
{
	struct thmqi_buf *b, *next;
	uint32_t n, dropped = 0;

	if (thmqi_likely(!atomic_load_explicit(&p->home, memory_order_relaxed)))
		return 0;
	b = atomic_exchange_explicit(&p->home, NULL, memory_order_acquire);
	for (; b; b = next) {
		next = b->next;
		n = atomic_exchange_explicit(&b->remote, 0, memory_order_acq_rel);
		for (dropped += n; n; n--)
			thmqi_buf_unref(b);
	}
	count(&p->remote_frees, dropped);
	return dropped;
}

void thmqi_pool_stats(struct thmqi_pool *p, struct thmqi_pool_stats *ret)
{
	uint32_t orders = __atomic_load_n(&p->free_orders, __ATOMIC_RELAXED);

	memset(ret, 0, sizeof(*ret));
	ret->bytes = __atomic_load_n(&p->bytes, __ATOMIC_RELAXED);
	ret->in_use = __atomic_load_n(&p->in_use, __ATOMIC_RELAXED);
	ret->in_use_max = __atomic_load_n(&p->in_use_max, __ATOMIC_RELAXED);
	ret->refused = __atomic_load_n(&p->refused, __ATOMIC_RELAXED);
	ret->remote_frees = __atomic_load_n(&p->remote_frees, __ATOMIC_RELAXED);
	if (orders)
		ret->largest_free = block_bytes(31u - (uint32_t)__builtin_clz(orders));
}
