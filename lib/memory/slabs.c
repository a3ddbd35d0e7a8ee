/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slabs.c - the global pool: address space reserved once, slabs taken from the system one by one and lent to the
 * core-local pools. A slab never moves. A private one that comes back waits for the next borrower, with
 * its registrations; one of a peer's goes back to the system, since that peer may still see it.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "topology/topology.h"

#define GIANT_BYTES ((uint64_t)1 << 30)
#define LIMIT_BYTES ((uint64_t)1 << 30) /* unless said */

void (thmq_slabs_opts_init)(struct thmq_slabs_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

static int check(const struct thmq_slabs_opts *o)
{
	if (o->flags & ~(THMQ_SLABS_LOCK | THMQ_SLABS_PREFAULT))
		return thmqi_fail(-EINVAL, "slabs: unknown flags %#x", o->flags);
	if (o->pages > THMQ_PAGES_PLAIN)
		return thmqi_fail(-EINVAL, "slabs: unknown kind of pages %u", o->pages);
	if (o->limit_bytes > (uint64_t)THMQ_SLABS_MAX * THMQ_SLAB_BYTES)
		return thmqi_fail(-EINVAL, "slabs: limit_bytes is at most 128 GiB");
	return 0;
}

static int reserve(struct thmq_slabs *s)
{
	uint64_t bytes = (uint64_t)s->limit * THMQ_SLAB_BYTES;
	/* so much more that the first one can be aligned */
	uint64_t align = s->pages == THMQ_PAGES_GIANT && bytes >= GIANT_BYTES ? GIANT_BYTES
									      : THMQ_SLAB_BYTES;

	s->reserved = bytes + align;
	s->map = mmap(NULL, s->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		      0);
	if (s->map == MAP_FAILED)
		return -ENOMEM;
	s->base = (uint8_t *)THMQI_ALIGN_UP((uintptr_t)s->map, (uintptr_t)align);
	return 0;
}

static void init_locks(struct thmq_slabs *s)
{
	pthread_mutexattr_t checked;

	pthread_mutex_init(&s->lock, NULL);
	pthread_mutexattr_init(&checked);
	pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&s->making, &checked);
	pthread_mutexattr_destroy(&checked);
}

bool thmqi_slabs_begin_making(struct thmq_slabs *s)
{
	return pthread_mutex_lock(&s->making) == 0;
}

void thmqi_slabs_end_making(struct thmq_slabs *s)
{
	pthread_mutex_unlock(&s->making);
}

int thmq_slabs_open(const struct thmq_slabs_opts *opts, struct thmq_slabs **ret_slabs)
{
	struct thmq_slabs_opts o;
	struct thmq_slabs *s;
	int rc;

	if (!ret_slabs)
		return thmqi_fail(-EINVAL, "slabs: no place for the handle");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "slabs: options: %s", thmqi_opts_why(rc));
	rc = check(&o);
	if (rc)
		return rc;
	if (!o.limit_bytes)
		o.limit_bytes = LIMIT_BYTES;
	s = calloc(1, sizeof(*s));
	if (!s)
		return thmqi_fail(-ENOMEM, "no memory for a global pool");
	s->flags = o.flags;
	s->lock_pages = o.flags & THMQ_SLABS_LOCK;
	s->pages = o.pages ? o.pages : THMQ_PAGES_HUGE;
	s->limit = (uint32_t)((o.limit_bytes + THMQ_SLAB_BYTES - 1) / THMQ_SLAB_BYTES);
	rc = reserve(s);
	if (rc) {
		free(s);
		return thmqi_fail(rc, "slabs: reserve %llu bytes of address space: %s",
				  (unsigned long long)o.limit_bytes, thmq_strerror(rc));
	}
	atomic_init(&s->left, s->limit);
	init_locks(s);
	*ret_slabs = s;
	return 0;
}

int thmqi_slabs_open(uint64_t limit, struct thmq_slabs **ret_slabs)
{
	return limit ? thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = limit), ret_slabs) : -EINVAL;
}

/* All but the places that are others' now. */
static void unmap_all(struct thmq_slabs *s)
{
	uint8_t *from = s->map, *end = s->map + s->reserved, *at;
	uint32_t i;

	for (i = 0; i < s->limit; i++) {
		at = s->base + (size_t)i * THMQ_SLAB_BYTES;
		if (s->place[i] != PLACE_LOST)
			continue;
		if (at > from)
			munmap(from, (size_t)(at - from));
		from = at + THMQ_SLAB_BYTES;
	}
	if (end > from)
		munmap(from, (size_t)(end - from));
}

static bool is_in_use(const struct thmq_slabs *s)
{
	uint32_t i;

	for (i = 0; i < THMQ_REGISTRARS_MAX && !s->registrar[i]; i++)
		;
	return s->pool_count || i < THMQ_REGISTRARS_MAX;
}

static void forget(struct thmq_slabs *s, struct slab *slab)
{
	if (s->slab[slab->info.index] == slab)
		s->slab[slab->info.index] = NULL;
	thmqi_descriptors_unmap(slab);
	free(slab);
}

int thmq_slabs_close(struct thmq_slabs *s)
{
	uint32_t i;

	if (!s)
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	i = is_in_use(s);
	pthread_mutex_unlock(&s->lock);
	if (i)
		return thmqi_fail(-EBUSY, "slabs: a pool is open, or a registrar has not left");
	for (i = 0; i < s->limit; i++) {
		if (!s->slab[i])
			continue;
		if (s->slab[i]->info.fd >= 0)
			close(s->slab[i]->info.fd);
		forget(s, s->slab[i]);
	}
	unmap_all(s);
	if (s->topology)
		thmqi_topology_close(s->topology);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->making);
	free(s);
	return 0;
}

/* ---------------------------------------------------------------------- lend */

/* Of the free ones of the private domain, one near @node if there is. Under the lock. */
static struct slab *take_free(struct thmq_slabs *s, int32_t node)
{
	struct slab **link, **near = NULL, *slab;

	for (link = &s->free; *link; link = &(*link)->next) {
		if ((*link)->info.domain != THMQ_DOMAIN_PRIVATE)
			continue; /* that peer may still see it */
		if (!near || (*link)->node == node)
			near = link;
		if ((*link)->node == node)
			break;
	}
	if (!near)
		return NULL;
	slab = *near;
	*near = slab->next;
	s->free_count--;
	slab->node = node < 0 ? slab->node : node;
	return slab;
}

static void put_free(struct thmq_slabs *s, struct slab *slab)
{
	slab->next = s->free;
	s->free = slab;
	s->free_count++;
}

static void count_slab(struct thmq_slabs *s, const struct slab *slab, uint32_t by)
{
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->taken, s->taken + by, __ATOMIC_RELAXED); /* read without the lock, too */
	s->shared += slab->info.domain != THMQ_DOMAIN_PRIVATE ? by : 0;
	s->of_pages[slab->info.pages] += by;
	s->locked_bytes += by == 1 ? slab->locked_bytes : -slab->locked_bytes;
	pthread_mutex_unlock(&s->lock);
}

static struct slab *make(struct thmq_slabs *s, uint32_t index, const struct thmq_pool *p)
{
	struct slab *slab = calloc(1, sizeof(*slab));
	int rc;

	if (!slab)
		return NULL;
	if (!thmqi_descriptors_map(slab)) {
		free(slab);
		return NULL;
	}
	slab->info.index = index;
	slab->info.domain = p->opts.domain;
	slab->node = p->node;
	rc = thmqi_pages_map(s, slab);
	if (rc <= 0) {
		if (rc < 0) {
			s->place[index] = PLACE_LOST;
			atomic_fetch_sub_explicit(&s->left, 1, memory_order_relaxed);
		}
		forget(s, slab);
		return NULL;
	}
	s->place[index] = PLACE_TAKEN;
	__atomic_store_n(&s->slab[index], slab, __ATOMIC_RELAXED);
	count_slab(s, slab, 1);
	thmqi_registrars_add(s, slab);
	return slab;
}

/* The first place that there is memory for. */
static struct slab *take_fresh(struct thmq_slabs *s, const struct thmq_pool *p)
{
	struct slab *slab;
	uint32_t i;

	for (i = 0; i < s->limit; i++) {
		if (s->place[i] != PLACE_RESERVED && s->place[i] != PLACE_MAPPED)
			continue;
		if (s->place[i] == PLACE_MAPPED && p->opts.domain != THMQ_DOMAIN_PRIVATE)
			continue; /* of a giant page, which cannot be shared in part */
		slab = make(s, i, p);
		if (slab || s->place[i] != PLACE_LOST)
			return slab;
	}
	return NULL;
}

static bool give_to_system(struct thmq_slabs *s, struct slab *slab)
{
	thmqi_registrars_remove(s, slab);
	if (!thmqi_pages_unmap(s, &slab->info)) {
		thmqi_registrars_add(s, slab);
		return false;
	}
	s->place[slab->info.index] = PLACE_RESERVED;
	count_slab(s, slab, UINT32_MAX);
	forget(s, slab);
	return true;
}

/* With making held. None of them can be lent meanwhile. */
static uint64_t trim(struct thmq_slabs *s)
{
	struct slab *list, *slab, *next;
	uint64_t bytes = 0;

	pthread_mutex_lock(&s->lock);
	list = s->free;
	s->free = NULL;
	s->free_count = 0;
	pthread_mutex_unlock(&s->lock);
	for (slab = list; slab; slab = next) {
		next = slab->next;
		if (give_to_system(s, slab)) {
			bytes += THMQ_SLAB_BYTES;
			continue;
		}
		pthread_mutex_lock(&s->lock);
		put_free(s, slab);
		pthread_mutex_unlock(&s->lock);
	}
	return bytes;
}

uint64_t thmq_slabs_trim(struct thmq_slabs *s)
{
	uint64_t bytes;

	if (!s || !thmqi_slabs_begin_making(s))
		return 0;
	bytes = trim(s);
	thmqi_slabs_end_making(s);
	return bytes;
}

static struct slab *lend(struct thmq_slabs *s, struct slab *slab, struct thmq_pool *p)
{
	slab->pool = p;
	atomic_fetch_sub_explicit(&s->left, 1, memory_order_relaxed);
	return slab;
}

static struct slab *lend_free(struct thmq_slabs *s, struct thmq_pool *p)
{
	struct slab *slab = NULL;

	if (p->opts.domain != THMQ_DOMAIN_PRIVATE)
		return NULL;
	pthread_mutex_lock(&s->lock);
	slab = take_free(s, p->node);
	if (slab)
		lend(s, slab, p);
	pthread_mutex_unlock(&s->lock);
	return slab;
}

/* With making held. */
static struct slab *lend_fresh(struct thmq_slabs *s, struct thmq_pool *p)
{
	struct slab *slab = take_fresh(s, p);

	/* what waits for a private borrower only fills the places of a peer's */
	if (!slab && p->opts.domain != THMQ_DOMAIN_PRIVATE && trim(s))
		slab = take_fresh(s, p);
	return slab ? lend(s, slab, p) : NULL;
}

struct slab *thmqi_slabs_take(struct thmq_slabs *s, struct thmq_pool *p)
{
	struct slab *slab;

	/* a full pool is asked again and again: no lock then */
	if (!atomic_load_explicit(&s->left, memory_order_relaxed))
		return NULL;
	slab = lend_free(s, p);
	if (slab || !thmqi_slabs_begin_making(s))
		return slab;
	slab = lend_free(s, p); /* one may have come back while we waited */
	if (!slab)
		slab = lend_fresh(s, p);
	thmqi_slabs_end_making(s);
	return slab;
}

/* What a peer may still see goes to the system; what that does not take is tried again at the next trim. */
static bool give_peers(struct thmq_slabs *s, struct slab *slab)
{
	bool gone;

	if (slab->info.domain == THMQ_DOMAIN_PRIVATE || !thmqi_slabs_begin_making(s))
		return false;
	gone = give_to_system(s, slab);
	thmqi_slabs_end_making(s);
	return gone;
}

void thmqi_slabs_give(struct thmq_slabs *s, struct slab *slab)
{
	bool gone;

	slab->pool = NULL;
	gone = give_peers(s, slab);
	pthread_mutex_lock(&s->lock);
	if (!gone)
		put_free(s, slab);
	atomic_fetch_add_explicit(&s->left, 1, memory_order_relaxed);
	pthread_mutex_unlock(&s->lock);
}

void thmqi_slabs_lock(struct thmq_slabs *s)
{
	thmqi_slabs_begin_making(s);
	s->lock_pages = true;
	thmqi_slabs_end_making(s);
}

/* ------------------------------------------------------------------- counters */

static void fill_stats(struct thmq_slabs *s, struct thmq_slabs_stats *st)
{
	pthread_mutex_lock(&s->lock);
	st->slabs = s->taken;
	st->free_slabs = s->free_count;
	st->giant_slabs = s->of_pages[THMQ_PAGES_GIANT];
	st->huge_slabs = s->of_pages[THMQ_PAGES_HUGE];
	st->transparent_slabs = s->of_pages[THMQ_PAGES_TRANSPARENT];
	st->shared_slabs = s->shared;
	st->registrations = s->registrations;
	st->registration_failures = s->registration_failures;
	st->bytes = (uint64_t)s->taken * THMQ_SLAB_BYTES;
	st->limit_bytes = (uint64_t)s->limit * THMQ_SLAB_BYTES;
	st->locked_bytes = s->locked_bytes;
	st->registration_ns = s->registration_ns;
	st->registration_ns_max = s->registration_ns_max;
	pthread_mutex_unlock(&s->lock);
}

int thmq_slabs_stats(struct thmq_slabs *s, struct thmq_slabs_stats *ret_stats)
{
	struct thmq_slabs_stats st = {.size = sizeof(st)};

	if (!s || !ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return -EINVAL;
	fill_stats(s, &st);
	st.size = ret_stats->size;
	memset(ret_stats, 0, st.size);
	memcpy(ret_stats, &st, THMQI_MIN(sizeof(st), (size_t)st.size));
	return 0;
}

uint64_t thmqi_slabs_bytes(struct thmq_slabs *s)
{
	return (uint64_t)__atomic_load_n(&s->taken, __ATOMIC_RELAXED) * THMQ_SLAB_BYTES;
}

void thmqi_slabs_stats(struct thmq_slabs *s, struct thmqi_slabs_stats *ret)
{
	struct thmq_slabs_stats st = {.size = sizeof(st)};

	fill_stats(s, &st);
	*ret = (struct thmqi_slabs_stats){.bytes = st.bytes,
					  .limit = st.limit_bytes,
					  .slabs = st.slabs,
					  .huge = st.huge_slabs + st.giant_slabs > 0,
					  .registrations = st.registrations,
					  .registration_failures = st.registration_failures,
					  .locked_bytes = st.locked_bytes};
}
