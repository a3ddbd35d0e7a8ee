/* SPDX-License-Identifier: Apache-2.0 */
/*
 * buddy.c - free blocks, split and joined: orders of 64 bytes to 8 MiB within a slab, by one thread, without locks. Knows
 * which bytes belong together, not what they are used for.
 */
#include "internal.h"

/* Of five bits, in reverse. */
static const uint8_t reversed[32] = {0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30,
				     1, 17, 9, 25, 5, 21, 13, 29, 3, 19, 11, 27, 7, 23, 15, 31};

_Static_assert(CHUNK_UNITS == 32 * 32, "a unit's number within its chunk is twice five bits");

struct thmq_buf *thmqi_buddy_entry(const struct slab *slab, uint32_t offset, uint32_t order)
{
	uint32_t unit = offset / THMQ_BLOCK_MIN, within = unit % CHUNK_UNITS;

	if (order >= PAGE_ORDER)
		return &slab->pages[offset / PAGE_BYTES];
	return &slab->smalls[unit - within + (reversed[within % 32] * 32u | reversed[within / 32])];
}

/* A block begins here: what its descriptor says as long as nobody splits or joins it. */
static void form(const struct thmq_pool *p, const struct slab *slab, struct thmq_buf *b,
		 uint32_t offset, uint32_t order)
{
	b->data = slab->info.base + offset;
	b->size = block_bytes(order);
	b->pool = (struct thmq_pool *)p;
	b->slab_index = (int32_t)slab->info.index;
	b->remote = 0;
	b->order = (uint8_t)order;
	b->arena = slab->root_arena[offset / THMQ_BLOCK_MAX];
}

static void set_free_orders(struct arena *a, uint32_t orders)
{
	__atomic_store_n(&a->free_orders, orders,
			 __ATOMIC_RELAXED); /* read by the counters' readers */
}

static void count_free(struct arena *a, uint32_t order, uint32_t by)
{
	__atomic_store_n(&a->free_count[order], a->free_count[order] + by, __ATOMIC_RELAXED);
}

static void push(struct arena *a, struct slab *slab, struct thmq_buf *b)
{
	uint32_t order = b->order;

	b->state = BLOCK_FREE;
	b->prev = NULL;
	b->next = a->free[order];
	if (b->next)
		b->next->prev = b;
	a->free[order] = b;
	set_free_orders(a, a->free_orders | 1u << order);
	count_free(a, order, 1);
	slab->free_roots += order == ROOT_ORDER;
}

static void pull(struct arena *a, struct slab *slab, struct thmq_buf *b)
{
	uint32_t order = b->order;

	if (b->prev)
		b->prev->next = b->next;
	else
		a->free[order] = b->next;
	if (b->next)
		b->next->prev = b->prev;
	if (!a->free[order])
		set_free_orders(a, a->free_orders & ~(1u << order));
	count_free(a, order, UINT32_MAX);
	slab->free_roots -= order == ROOT_ORDER;
	b->state = BLOCK_INSIDE;
}

void thmqi_buddy_give(struct thmq_pool *p, struct slab *slab, uint32_t offset, uint32_t order)
{
	struct arena *a = &p->arena[slab->root_arena[offset / THMQ_BLOCK_MAX]];
	struct thmq_buf *b = thmqi_buddy_entry(slab, offset, order), *other;

	b->state = BLOCK_INSIDE;
	for (; order < ROOT_ORDER; order++) {
		other = thmqi_buddy_entry(slab, offset ^ block_bytes(order), order);
		if (other->state != BLOCK_FREE || other->order != order)
			break;
		pull(a, slab, other);
		offset &= ~block_bytes(order);
	}
	b = thmqi_buddy_entry(slab, offset, order);
	form(p, slab, b, offset, order);
	push(a, slab, b);
}

bool thmqi_buddy_take(struct thmq_pool *p, struct arena *a, uint32_t order,
		      struct thmq_buf **ret_buf)
{
	uint32_t fits = a->free_orders & ~((1u << order) - 1), from, offset;
	struct thmq_buf *b, *upper;
	struct slab *slab;

	if (!fits)
		return false;
	from = (uint32_t)__builtin_ctz(fits);
	b = a->free[from];
	slab = slab_of(p, b);
	offset = (uint32_t)(b->data - slab->info.base);
	pull(a, slab, b);
	if (from > order) {
		while (from-- > order) {
			upper = thmqi_buddy_entry(slab, offset + block_bytes(from), from);
			form(p, slab, upper, offset + block_bytes(from), from);
			push(a, slab, upper);
		}
		b = thmqi_buddy_entry(slab, offset, order);
		form(p, slab, b, offset, order);
	}
	*ret_buf = b;
	return true;
}

/* The @i-th piece of @order of a block that is in no list. */
struct thmq_buf *thmqi_buddy_piece(struct thmq_pool *p, struct thmq_buf *b, uint32_t i,
				   uint32_t order)
{
	struct slab *slab = slab_of(p, b);
	uint32_t offset = (uint32_t)(b->data - slab->info.base) + i * block_bytes(order);
	struct thmq_buf *piece = thmqi_buddy_entry(slab, offset, order);

	form(p, slab, piece, offset, order);
	return piece;
}

/* Its upper half becomes free. Below a page its descriptor would be another one: the holder's pointer must stay. */
uint32_t thmqi_buddy_halve(struct thmq_pool *p, struct thmq_buf *b)
{
	struct slab *slab = slab_of(p, b);

	b->order--;
	b->size /= 2;
	thmqi_buddy_give(p, slab, (uint32_t)(b->data - slab->info.base) + b->size, b->order);
	return b->order;
}

void thmqi_buddy_add_slab(struct thmq_pool *p, struct slab *slab)
{
	uint32_t i;

	slab->free_roots = 0;
	memset(slab->root_arena, 0, sizeof(slab->root_arena));
	for (i = 0; i < SLAB_ROOTS; i++)
		thmqi_buddy_give(p, slab, i * THMQ_BLOCK_MAX, ROOT_ORDER);
	thmqi_count(&p->arena[0].bytes, THMQ_SLAB_BYTES);
}

void thmqi_buddy_remove_slab(struct thmq_pool *p, struct slab *slab)
{
	uint32_t i;

	for (i = 0; i < SLAB_ROOTS; i++)
		pull(&p->arena[0], slab, thmqi_buddy_entry(slab, i * THMQ_BLOCK_MAX, ROOT_ORDER));
	thmqi_count(&p->arena[0].bytes, -(uint64_t)THMQ_SLAB_BYTES);
}

bool thmqi_buddy_move_root(struct thmq_pool *p, uint32_t arena)
{
	struct thmq_buf *b = p->arena[0].free[ROOT_ORDER];
	struct slab *slab;

	if (!b)
		return false;
	slab = slab_of(p, b);
	pull(&p->arena[0], slab, b);
	slab->root_arena[(size_t)(b->data - slab->info.base) / THMQ_BLOCK_MAX] = (uint8_t)arena;
	b->arena = (uint8_t)arena;
	push(&p->arena[arena], slab, b);
	thmqi_count(&p->arena[0].bytes, -(uint64_t)THMQ_BLOCK_MAX);
	thmqi_count(&p->arena[arena].bytes, THMQ_BLOCK_MAX);
	return true;
}
