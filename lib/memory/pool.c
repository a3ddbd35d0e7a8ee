/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - a core's pool: opened and closed, its slabs fetched and given back, its reserves, its counters. Nothing here is
 * on the hot path but a drain that finds nothing.
 */
#include "internal.h"
#include "topology/topology.h"

/* -------------------------------------------------------------------- slabs */

static bool may_grow(const struct thmq_pool *p)
{
	return p->slab_count < THMQ_SLABS_MAX &&
	       (!p->opts.limit_bytes || p->bytes + THMQ_SLAB_BYTES <= p->opts.limit_bytes);
}

static void take_in(struct thmq_pool *p, struct slab *slab)
{
	slab->place = p->slab_count;
	p->slab[p->slab_count] = slab;
	__atomic_store_n(&p->slab_count, p->slab_count + 1, __ATOMIC_RELAXED);
	thmqi_count(&p->bytes, THMQ_SLAB_BYTES);
	p->tidied_free = 0;
	thmqi_buddy_add_slab(p, slab);
	thmqi_registrars_add_of_pool(p, slab);
	memory_poison(slab->info.base, THMQ_SLAB_BYTES);
}

static bool take_in_spare(struct thmq_pool *p)
{
	struct slab *slab;

	if (!atomic_load_explicit(&p->spare, memory_order_relaxed) || p->registering)
		return false;
	slab = atomic_exchange_explicit(&p->spare, NULL, memory_order_acquire);
	if (!slab)
		return false;
	if (!may_grow(p)) { /* it has taken one itself meanwhile */
		thmqi_slabs_give(p->slabs, slab);
		return false;
	}
	take_in(p, slab);
	return true;
}

int thmqi_pool_add_slab(struct thmq_pool *p)
{
	struct slab *slab;

	if (take_in_spare(p))
		return 0;
	slab = may_grow(p) && !p->registering ? thmqi_slabs_take(p->slabs, p) : NULL;
	if (!slab)
		return -ENOBUFS;
	take_in(p, slab);
	return 0;
}

/* Its blocks are all in no list any more. */
static void let_go(struct thmq_pool *p, struct slab *slab)
{
	struct slab *last = p->slab[p->slab_count - 1];

	memory_unpoison(slab->info.base, THMQ_SLAB_BYTES);
	thmqi_registrars_remove_of_pool(p, slab);
	p->slab[slab->place] = last;
	last->place = slab->place;
	__atomic_store_n(&p->slab_count, p->slab_count - 1, __ATOMIC_RELAXED);
	thmqi_count(&p->bytes, -(uint64_t)THMQ_SLAB_BYTES);
	thmqi_descriptors_clear(slab);
	thmqi_slabs_give(p->slabs, slab);
}

int thmqi_pool_reserve(struct thmq_pool *p, uint64_t bytes)
{
	int rc = 0;

	while (!rc && general_free(p) < bytes)
		rc = thmqi_pool_add_slab(p);
	return rc;
}

/* --------------------------------------------------------------- open, close */

static int fill_reserve(struct thmq_pool *p, uint32_t arena, uint64_t bytes)
{
	int rc = 0;

	while (!rc && p->arena[arena].bytes < bytes)
		if (!thmqi_buddy_move_root(p, arena))
			rc = thmqi_pool_add_slab(p);
	return rc;
}

void (thmq_pool_opts_init)(struct thmq_pool_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

static int check(const struct thmq_pool_opts *o)
{
	if (o->flags & ~(THMQ_POOL_NODE | THMQ_POOL_NEAR))
		return thmqi_fail(-EINVAL, "pool: unknown flags %#x", o->flags);
	if ((o->flags & THMQ_POOL_NODE) && ((o->flags & THMQ_POOL_NEAR) || o->node < 0))
		return thmqi_fail(-EINVAL,
				  "pool: one NUMA node, by number or by where the thread is");
	if (!(o->flags & THMQ_POOL_NODE) && o->node)
		return thmqi_fail(-EINVAL, "pool: node needs the flag THMQ_POOL_NODE");
	if (o->limit_bytes && o->limit_bytes < THMQ_SLAB_BYTES)
		return thmqi_fail(-EINVAL, "pool: limit_bytes is less than a slab of %u bytes",
				  THMQ_SLAB_BYTES);
	if (o->low_bytes > (uint64_t)THMQ_SLABS_MAX * THMQ_SLAB_BYTES)
		return thmqi_fail(-EINVAL, "pool: low_bytes is more than there can ever be");
	if (o->high_bytes && o->high_bytes < o->low_bytes + THMQ_SLAB_BYTES)
		return thmqi_fail(-EINVAL,
				  "pool: high_bytes is at least a slab (%u bytes) above low_bytes",
				  THMQ_SLAB_BYTES);
	return 0;
}

static bool reserves_can_fit(const struct thmq_slabs *s, const struct thmq_pool_opts *o)
{
	uint64_t limit = (uint64_t)s->limit * THMQ_SLAB_BYTES;

	if (o->limit_bytes)
		limit = THMQI_MIN(limit, o->limit_bytes);
	return o->receive_bytes <= limit && o->send_bytes <= limit - o->receive_bytes;
}

/* The NUMA node that is wanted, or -1 for any. Opening the topology takes milliseconds: once, and only if asked for. */
static int find_node(struct thmq_slabs *s, const struct thmq_pool_opts *o, int32_t *ret_node)
{
	int node = -1, rc = 0;

	if (o->flags & (THMQ_POOL_NODE | THMQ_POOL_NEAR)) {
		if (!thmqi_slabs_begin_making(s))
			return thmqi_fail(-EDEADLK, "pool: a registrar cannot open one");
		if (!s->topology)
			rc = thmqi_topology_open(NULL, false, &s->topology);
		if (!rc)
			node = o->flags & THMQ_POOL_NODE ? o->node
							 : thmqi_topology_node_here(s->topology);
		if (!rc && (node < 0 || !thmqi_topology_has_node(s->topology, (uint32_t)node)))
			rc = -ENOTSUP;
		thmqi_slabs_end_making(s);
	}
	if (rc)
		return thmqi_fail(rc, "pool: NUMA node %d is not known on this machine", node);
	*ret_node = node;
	return 0;
}

int thmq_pool_open(struct thmq_slabs *s, const struct thmq_pool_opts *opts,
		   struct thmq_pool **ret_pool)
{
	struct thmq_pool_opts o;
	struct thmq_pool *p;
	int32_t node = -1;
	int rc;

	if (!s || !ret_pool)
		return thmqi_fail(-EINVAL, "pool: no global pool, or no place for the handle");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "pool: options: %s", thmqi_opts_why(rc));
	rc = check(&o);
	rc = rc ? rc : find_node(s, &o, &node);
	if (rc)
		return rc;
	p = aligned_alloc(THMQI_CACHELINE, THMQI_ALIGN_UP(sizeof(*p), (size_t)THMQI_CACHELINE));
	if (!p)
		return thmqi_fail(-ENOMEM, "no memory for a pool");
	memset(p, 0, sizeof(*p));
	for (uint32_t i = 0; i < ARENAS; i++)
		thmqi_hands_init(&p->arena[i]);
	p->slabs = s;
	p->opts = o;
	p->node = node;
	pthread_mutex_lock(&s->lock);
	s->pool_count++;
	pthread_mutex_unlock(&s->lock);
	rc = reserves_can_fit(s, &o) ? fill_reserve(p, THMQ_PURPOSE_RECEIVE, o.receive_bytes)
				     : -ENOBUFS;
	rc = rc ? rc : fill_reserve(p, THMQ_PURPOSE_SEND, o.send_bytes);
	if (rc) {
		thmq_pool_close(p);
		return thmqi_fail(
			rc, "pool: the reserves (%llu and %llu bytes) do not fit in the limit",
			(unsigned long long)o.receive_bytes, (unsigned long long)o.send_bytes);
	}
	*ret_pool = p;
	return 0;
}

int64_t thmq_pool_close(struct thmq_pool *p)
{
	struct thmq_slabs *s;
	uint32_t left;

	if (!p)
		return -EINVAL;
	if (thmqi_registrars_of_pool(p))
		return thmqi_fail(-EBUSY, "pool: a registrar of it has not left");
	s = p->slabs;
	take_in_spare(p);
	thmqi_home_drain(p);
	left = thmqi_pool_used_blocks(p);
	while (p->slab_count)
		let_go(p, p->slab[p->slab_count - 1]);
	pthread_mutex_lock(&s->lock);
	s->pool_count--;
	pthread_mutex_unlock(&s->lock);
	free(p);
	return left;
}

void thmq_pool_adopt(struct thmq_pool *p)
{
	if (p)
		p->thread = thmqi_thread_self();
}

/* ----------------------------------------------------------- drain, tidy, prepare */

/* Something has come back since the last refusal: to this pool, or to the global one, from which this one may take it. */
static bool has_room_again(const struct thmq_pool *p)
{
	return p->in_use < p->refused_in_use || p->bytes > p->refused_bytes ||
	       (may_grow(p) &&
		atomic_load_explicit(&p->slabs->left, memory_order_relaxed) > p->refused_left);
}

static void tell_room(struct thmq_pool *p)
{
	if (thmqi_likely(!p->was_refused) || !has_room_again(p))
		return;
	p->was_refused = false;
	if (p->opts.room)
		p->opts.room(p->opts.ctx);
}

uint32_t thmq_pool_drain(struct thmq_pool *p)
{
	uint32_t dropped;

	if (thmqi_unlikely(!p))
		return 0;
	dropped = thmqi_home_drain(p);
	take_in_spare(p);
	tell_room(p);
	return dropped;
}

/* One that is wholly free, beyond what the marks keep. */
static struct slab *surplus(const struct thmq_pool *p)
{
	uint32_t i;

	if (!p->opts.high_bytes || general_free(p) <= p->opts.high_bytes || p->registering)
		return NULL;
	for (i = p->slab_count; i-- > 0;)
		if (p->slab[i]->free_roots == SLAB_ROOTS &&
		    !(p->slab[i]->root_arena[0] | p->slab[i]->root_arena[1] |
		      p->slab[i]->root_arena[2] | p->slab[i]->root_arena[3]))
			return p->slab[i];
	return NULL;
}

uint64_t thmqi_pool_limit(const struct thmq_pool *p)
{
	return (uint64_t)p->slabs->limit * THMQ_SLAB_BYTES;
}

/* What could not be given back, since each slab has a block in use, is not tried again before more is free. */
bool thmqi_pool_is_untidy(struct thmq_pool *p)
{
	uint64_t bytes = general_free(p);

	if (bytes + THMQ_BLOCK_MAX < p->tidied_free)
		p->tidied_free = bytes;
	/* not for one that was never used, nor out of what others may need more */
	if (bytes < p->opts.low_bytes)
		return p->slab_count && may_grow(p) &&
		       atomic_load_explicit(&p->slabs->left, memory_order_relaxed) >
			       p->slabs->limit / 2;
	return p->opts.high_bytes && bytes > p->opts.high_bytes &&
	       bytes >= p->tidied_free + THMQ_BLOCK_MAX;
}

int thmq_pool_tidy(struct thmq_pool *p)
{
	struct slab *slab;
	uint32_t i;
	bool did;

	if (!p)
		return 0;
	did = thmqi_home_drain(p) > 0;
	for (i = 0; i < ARENAS; i++)
		did |= thmqi_held_join_all(p, &p->arena[i]);
	if (general_free(p) < p->opts.low_bytes)
		did |= thmqi_pool_add_slab(p) == 0;
	while ((slab = surplus(p))) {
		thmqi_buddy_remove_slab(p, slab);
		let_go(p, slab);
		did = true;
	}
	p->tidied_free = general_free(p);
	tell_room(p);
	return did;
}

static int prepare(struct thmq_pool *p, uint64_t free_bytes)
{
	struct slab *slab, *none = NULL;
	uint64_t in_use = __atomic_load_n(&p->in_use, __ATOMIC_RELAXED);
	uint64_t bytes = __atomic_load_n(&p->bytes, __ATOMIC_RELAXED);

	/* seen from outside: the reserves count as free, which their use then mends */
	if (atomic_load_explicit(&p->spare, memory_order_relaxed) ||
	    bytes >= in_use + free_bytes)
		return 0;
	if (p->opts.limit_bytes && bytes + THMQ_SLAB_BYTES > p->opts.limit_bytes)
		return -ENOBUFS;
	slab = thmqi_slabs_take(p->slabs, p);
	if (!slab)
		return -ENOBUFS;
	if (atomic_compare_exchange_strong_explicit(&p->spare, &none, slab, memory_order_release,
						    memory_order_relaxed))
		return 1;
	thmqi_slabs_give(p->slabs, slab); /* another thread was faster */
	return 0;
}

int thmq_pool_prepare(struct thmq_pool *p)
{
	return p ? prepare(p, p->opts.low_bytes) : -EINVAL;
}

int thmqi_pool_prepare(struct thmq_pool *p, uint64_t bytes)
{
	if (atomic_load_explicit(&p->slabs->left, memory_order_relaxed) <= p->slabs->limit / 2)
		return -ENOBUFS;
	return prepare(p, bytes);
}

/* --------------------------------------------------------------------- counters */

#define seen(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

static void fill_stats(struct thmq_pool *p, struct thmq_pool_stats *st)
{
	uint64_t free_bytes = 0, roots;
	uint32_t i, o;

	st->slabs = seen(p->slab_count);
	st->bytes = seen(p->bytes);
	st->in_use_bytes = seen(p->in_use);
	st->in_use_bytes_max = seen(p->in_use_max);
	st->receive_in_use_bytes = seen(p->arena[THMQ_PURPOSE_RECEIVE].in_use);
	st->send_in_use_bytes = seen(p->arena[THMQ_PURPOSE_SEND].in_use);
	st->refused = seen(p->refused);
	st->misses = seen(p->misses);
	st->slab_misses = seen(p->slab_misses);
	st->remote_frees = seen(p->remote_frees);
	st->mistakes = seen(p->mistakes);
	for (i = 0; i < ARENAS; i++)
		for (o = 0; o < ORDERS; o++)
			st->free_blocks[o] +=
				seen(p->arena[i].free_count[o]) + seen(p->arena[i].hand[o].count);
	for (o = 0; o < ORDERS; o++) {
		free_bytes += st->free_blocks[o] * block_bytes(o);
		if (st->free_blocks[o])
			st->largest_free = block_bytes(o);
	}
	roots = st->free_blocks[ROOT_ORDER] * THMQ_BLOCK_MAX;
	st->fragmentation = free_bytes ? (uint32_t)((free_bytes - roots) * 1000 / free_bytes) : 0;
}

int thmq_pool_stats(struct thmq_pool *p, struct thmq_pool_stats *ret_stats)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	if (!p || !ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return -EINVAL;
	fill_stats(p, &st);
	st.size = ret_stats->size;
	memset(ret_stats, 0, st.size);
	memcpy(ret_stats, &st, THMQI_MIN(sizeof(st), (size_t)st.size));
	return 0;
}

void thmqi_pool_stats(struct thmq_pool *p, struct thmqi_pool_stats *ret)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	fill_stats(p, &st);
	*ret = (struct thmqi_pool_stats){.bytes = st.bytes,
					 .in_use = st.in_use_bytes,
					 .in_use_max = st.in_use_bytes_max,
					 .refused = st.refused,
					 .remote_frees = st.remote_frees,
					 .largest_free = st.largest_free};
}
