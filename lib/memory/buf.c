/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buf.c - counted blocks: the hot path. A freed block stays at hand for the next of its size, unjoined, as long as there
 * are few such; beyond that half of them are joined with their buddies. So an allocation and a free are a pop and a push,
 * whatever else the pool holds. Knows nothing of where slabs come from.
 */
#include "internal.h"

/*
 * How many of an order are kept at hand: 64 KiB of them, but one at least. More would save a join now and then, and scatter
 * what is in use: a larger block then finds no room where it would have.
 */
static inline uint32_t held_max(uint32_t order)
{
	return THMQI_MAX(1024u >> order, 1u);
}

#define CUT_ORDERS 3u /* a block that is split for a smaller one than a page is cut into 8 */

#if defined(THMQI_DEBUG)
#define COOKIE 0x5ca1ab1e0ddba11ull
#define FREED 0xdf

/* In debug builds a block in use bears a mark that depends on where it is, and what is free is overwritten. */
static void check_used(const struct thmq_buf *b)
{
	const struct thmq_pool *p = b->pool;
	const struct slab *slab;

	thmqi_assert(p && b->slab_index >= 0 && (uint32_t)b->slab_index < THMQ_SLABS_MAX);
	slab = p->slabs->slab[b->slab_index];
	thmqi_assert(slab && slab->pool == p);
	thmqi_assert(b == thmqi_buddy_entry(slab, (uint32_t)(b->data - slab->info.base), b->order));
	thmqi_assert(b->state == BLOCK_USED &&
		     (uint64_t)(uintptr_t)b->prev == ((uintptr_t)b ^ COOKIE));
}

static void check_thread(const struct thmq_pool *p)
{
	thmqi_assert(!p->thread || p->thread == thmqi_thread_self());
}

static void debug_take(struct thmq_buf *b)
{
	check_thread(b->pool);
	b->prev = (struct thmq_buf *)((uintptr_t)b ^ COOKIE);
}

static void debug_free(struct thmq_buf *b)
{
	b->prev = NULL;
	memset(b->data, FREED, THMQI_MIN(b->size, PAGE_BYTES));
}
#else
#define check_used(b) ((void)(b))
#define check_thread(p) ((void)(p))
#define debug_take(b) ((void)(b))
#define debug_free(b) ((void)(b))
#endif

/* ------------------------------------------------------------ blocks at hand */

static inline struct thmq_buf *held_pop(struct arena *a, uint32_t order)
{
	struct hand *h = &a->hand[order];
	struct thmq_buf *b = h->first;

	if (thmqi_likely(b != NULL)) {
		h->first = b->next;
		__atomic_store_n(&h->count, h->count - 1, __ATOMIC_RELAXED);
	}
	return b;
}

static inline uint32_t held_push(struct hand *h, struct thmq_buf *b)
{
	uint32_t count = h->count + 1;

	b->state = BLOCK_HELD;
	b->next = h->first;
	h->first = b;
	__atomic_store_n(&h->count, count, __ATOMIC_RELAXED);
	return count;
}

void thmqi_hands_init(struct arena *a)
{
	for (uint32_t order = 0; order < ORDERS; order++)
		a->hand[order].max = held_max(order);
}

/* The oldest are joined: those on top are still in the processor's cache. */
void thmqi_held_join(struct thmq_pool *p, struct arena *a, uint32_t order, uint32_t keep)
{
	struct thmq_buf **link = &a->hand[order].first, *b, *next;
	uint32_t i;

	for (i = 0; i < keep && *link; i++)
		link = &(*link)->next;
	b = *link;
	*link = NULL;
	__atomic_store_n(&a->hand[order].count, i, __ATOMIC_RELAXED);
	for (; b; b = next) {
		struct slab *slab = slab_of(p, b);

		next = b->next;
		thmqi_buddy_give(p, slab, (uint32_t)(b->data - slab->info.base), order);
	}
}

bool thmqi_held_join_all(struct thmq_pool *p, struct arena *a)
{
	bool any = false;
	uint32_t order;

	for (order = 0; order < ORDERS; order++)
		if (a->hand[order].first) {
			thmqi_held_join(p, a, order, 0);
			any = true;
		}
	return any;
}

/* ----------------------------------------------------------------- alloc, free */

/* One is at hand, or can be split off. */
static struct thmq_buf *find_in(struct thmq_pool *p, struct arena *a, uint32_t order)
{
	struct thmq_buf *b = held_pop(a, order);

	if (b || thmqi_buddy_take(p, a, order, &b))
		return b;
	/* what is at hand in other sizes may be halves of one */
	if (thmqi_held_join_all(p, a) && thmqi_buddy_take(p, a, order, &b))
		return b;
	return NULL;
}

/*
 * A small block is seldom wanted alone: eight at once cost little more than one. Only where no block of its size is free,
 * so that no larger one is cut for nothing.
 */
static struct thmq_buf *cut(struct thmq_pool *p, struct arena *a, uint32_t order)
{
	struct thmq_buf *b;
	uint32_t i;

	if (order >= PAGE_ORDER || (a->free_orders >> order & 1) ||
	    !thmqi_buddy_take(p, a, order + CUT_ORDERS, &b))
		return NULL;
	for (i = (1u << CUT_ORDERS) - 1; i > 0; i--)
		held_push(&a->hand[order], thmqi_buddy_piece(p, b, i, order));
	return thmqi_buddy_piece(p, b, 0, order);
}

static __attribute__((noinline, cold)) struct thmq_buf *refuse(struct thmq_pool *p)
{
	thmqi_count(&p->refused, 1);
	p->was_refused = true;
	p->refused_in_use = p->in_use;
	p->refused_bytes = p->bytes;
	p->refused_left = atomic_load_explicit(&p->slabs->left, memory_order_relaxed);
	return NULL;
}

static __attribute__((noinline)) struct thmq_buf *find(struct thmq_pool *p, uint32_t purpose,
						       uint32_t order)
{
	struct thmq_buf *b = NULL;

	thmqi_count(&p->misses, 1);
	b = cut(p, &p->arena[purpose], order);
	if (b || thmqi_buddy_take(p, &p->arena[purpose], order, &b))
		return b;
	thmqi_home_drain(p);
	b = find_in(p, &p->arena[purpose], order);
	if (!b && purpose != THMQ_PURPOSE_GENERAL)
		b = find_in(p, &p->arena[THMQ_PURPOSE_GENERAL], order);
	if (b)
		return b;
	if (thmqi_pool_add_slab(p))
		return refuse(p);
	thmqi_count(&p->slab_misses, 1);
	return find_in(p, &p->arena[THMQ_PURPOSE_GENERAL], order);
}

static inline void count_taken(struct thmq_pool *p, const struct thmq_buf *b)
{
	uint64_t in_use = p->in_use + b->size;

	__atomic_store_n(&p->in_use, in_use, __ATOMIC_RELAXED);
	if (thmqi_unlikely(in_use > p->in_use_max))
		__atomic_store_n(&p->in_use_max, in_use, __ATOMIC_RELAXED);
	if (thmqi_unlikely(b->arena))
		thmqi_count(&p->arena[b->arena].in_use, b->size);
}

static inline void count_given(struct thmq_pool *p, const struct thmq_buf *b, uint32_t bytes)
{
	thmqi_count(&p->in_use, -(uint64_t)bytes);
	if (thmqi_unlikely(b->arena))
		thmqi_count(&p->arena[b->arena].in_use, -(uint64_t)bytes);
}

/* Its descriptor was last free: nobody has dropped a reference of it elsewhere, remote is 0. */
static inline int taken(struct thmq_pool *p, struct thmq_buf *b, struct thmq_buf **ret_buf)
{
	b->state = BLOCK_USED;
	b->refs = 1;
	b->user = 0;
	b->owner = 0;
	debug_take(b);
	memory_unpoison(b->data, b->size);
	count_taken(p, b);
	*ret_buf = b;
	return 0;
}

/* None is at hand. Apart, so that the way of those that are needs no stack. */
static __attribute__((noinline)) int alloc_slowly(struct thmq_pool *p, uint32_t order,
						  uint32_t purpose, struct thmq_buf **ret_buf)
{
	struct thmq_buf *b = find(p, purpose, order);

	return b ? taken(p, b, ret_buf) : -ENOBUFS;
}

int thmq_buf_alloc(struct thmq_pool *p, uint32_t size, uint32_t purpose, struct thmq_buf **ret_buf)
{
	struct thmq_buf *b;
	uint32_t order;

	if (thmqi_unlikely(size > THMQ_BLOCK_MAX))
		return -EMSGSIZE;
	if (thmqi_unlikely(!p || !ret_buf || purpose >= ARENAS))
		return -EINVAL;
	order = order_of(size);
	b = held_pop(&p->arena[purpose], order);
	if (thmqi_unlikely(!b))
		return alloc_slowly(p, order, purpose, ret_buf);
	return taken(p, b, ret_buf);
}

static __attribute__((noinline, cold)) int mistake(struct thmq_buf *b)
{
	if (!b)
		return -EINVAL;
	thmqi_assert(!"a block that is not in use was freed or trimmed");
	if (b->pool)
		__atomic_fetch_add(&b->pool->mistakes, 1, __ATOMIC_RELAXED);
	return -EINVAL;
}

static __attribute__((noinline)) int join_half(struct thmq_pool *p, struct arena *a, uint32_t order)
{
	thmqi_held_join(p, a, order, a->hand[order].max / 2);
	return 0;
}

int thmq_buf_unref(struct thmq_buf *b)
{
	struct thmq_pool *p;
	struct arena *a;
	struct hand *h;

	if (thmqi_unlikely(!b || b->state != BLOCK_USED))
		return mistake(b);
	p = b->pool;
	check_used(b);
	check_thread(p);
	if (b->refs > 1) {
		b->refs--;
		return 0;
	}
	/* its last reference is on its way home: that frees it, and leads to those behind it */
	if (thmqi_unlikely(__atomic_load_n(&b->remote, __ATOMIC_RELAXED)))
		return mistake(b);
	b->refs = 0;
	a = &p->arena[b->arena];
	h = &a->hand[b->order];
	count_given(p, b, b->size);
	debug_free(b);
	memory_poison(b->data, b->size);
	if (thmqi_unlikely(held_push(h, b) > h->max))
		return join_half(p, a, b->order);
	return 0;
}

void thmq_buf_ref(struct thmq_buf *b)
{
	if (thmqi_unlikely(!b))
		return;
	check_used(b);
	b->refs++;
}

/* Not below a page where it began as one: the descriptors of smaller blocks lie elsewhere, and its holder's would move. */
void thmq_buf_trim(struct thmq_buf *b, uint32_t used)
{
	uint32_t order, size;

	if (thmqi_unlikely(!b || b->state != BLOCK_USED)) {
		mistake(b);
		return;
	}
	size = b->size;
	if (used >= size)
		return;
	order = order_of(used);
	if (b->order >= PAGE_ORDER)
		order = THMQI_MAX(order, PAGE_ORDER);
	check_used(b);
	while (b->order > order) {
		memory_poison(b->data + b->size / 2, b->size / 2);
		thmqi_buddy_halve(b->pool, b);
	}
	count_given(b->pool, b, size - b->size);
}

/* ------------------------------------------------------------ freed elsewhere */

/*
 * A stack that many push to and only the owner empties, as a whole: no block is ever popped alone, so ABA cannot be.
 * A block is on it once, however many of its references come home: who finds its count at 0 pushes it, the owner takes
 * the count to 0 again after it has read where the next one is.
 */
void thmq_buf_unref_remote(struct thmq_buf *b)
{
	struct thmq_pool *p;
	struct thmq_buf *head;

	if (thmqi_unlikely(!b || b->state != BLOCK_USED)) {
		mistake(b);
		return;
	}
	p = b->pool;
	if (__atomic_fetch_add(&b->remote, 1, __ATOMIC_ACQ_REL))
		return;
	head = atomic_load_explicit(&p->home, memory_order_relaxed);
	do {
		b->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&p->home, &head, b, memory_order_release,
							memory_order_relaxed));
}

/* One of @n references that others dropped: more than there were is their mistake, and harms no other block. */
static void drop(struct thmq_buf *b, uint32_t n)
{
	for (; n; n--)
		if (thmq_buf_unref(b))
			return;
}

uint32_t thmqi_home_drain(struct thmq_pool *p)
{
	struct thmq_buf *b, *next;
	uint32_t n, dropped = 0;

	if (thmqi_likely(!atomic_load_explicit(&p->home, memory_order_relaxed)))
		return 0;
	b = atomic_exchange_explicit(&p->home, NULL, memory_order_acquire);
	for (; b; b = next) {
		next = b->next;
		n = __atomic_exchange_n(&b->remote, 0, __ATOMIC_ACQ_REL);
		dropped += n;
		drop(b, n);
	}
	thmqi_count(&p->remote_frees, dropped);
	return dropped;
}

/* ---------------------------------------------------------------- addresses, slices */

int thmq_buf_find(struct thmq_pool *p, const void *address, struct thmq_buf **ret_buf)
{
	uintptr_t at = (uintptr_t)address - (p ? (uintptr_t)p->slabs->base : 0);
	struct slab *slab = p && at / THMQ_SLAB_BYTES < p->slabs->limit
				    ? p->slabs->slab[at / THMQ_SLAB_BYTES]
				    : NULL;
	uint32_t offset = (uint32_t)(at % THMQ_SLAB_BYTES), order;
	struct thmq_buf *b;

	if (!slab || !ret_buf || slab->pool != p)
		return -ENOENT;
	for (order = 0; order < ORDERS; order++) {
		b = thmqi_buddy_entry(slab, offset & ~(block_bytes(order) - 1), order);
		if (b->state == BLOCK_USED && b->order == order) {
			*ret_buf = b;
			return 0;
		}
	}
	return -ENOENT;
}

static int slice(struct thmq_buf *b, uint8_t *data, uint32_t len, struct thmq_slice *ret_slice)
{
	thmq_buf_ref(b);
	*ret_slice = (struct thmq_slice){.buf = b, .data = data, .len = len};
	return 0;
}

int thmq_slice_open(struct thmq_buf *b, uint32_t offset, uint32_t len, struct thmq_slice *ret_slice)
{
	if (!b || !ret_slice || b->state != BLOCK_USED || offset > b->size || len > b->size - offset)
		return -EINVAL;
	return slice(b, b->data + offset, len, ret_slice);
}

int thmq_slice_cut(const struct thmq_slice *of, uint32_t offset, uint32_t len,
		   struct thmq_slice *ret_slice)
{
	if (!of || !ret_slice || !of->buf || offset > of->len || len > of->len - offset)
		return -EINVAL;
	return slice(of->buf, of->data + offset, len, ret_slice);
}

void thmq_slice_close(struct thmq_slice *s)
{
	struct thmq_buf *b = s ? s->buf : NULL;

	if (s)
		*s = (struct thmq_slice){0};
	if (b)
		thmq_buf_unref(b);
}
