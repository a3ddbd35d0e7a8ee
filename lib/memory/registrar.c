/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registrar.c - who has slabs registered, and under which key. Each slab meets each registrar that wants it once; the key
 * lies with the slab, and the slab is found from an address by a division. Those of all pools are in the global pool's table, those of
 * one pool in that pool's: a slab belongs to one pool at a time, so that the pools share the slots. Knows nothing of what
 * registration is.
 */
#include "internal.h"

static uint32_t slot_of(const struct thmq_registrar *r)
{
	return r->internal[0] - 1;
}

/* Its entry in the table that it belongs to. */
static struct thmq_registrar **entry_of(struct thmq_slabs *s, const struct thmq_registrar *r)
{
	return r->pool ? &r->pool->registrar[slot_of(r) - THMQ_REGISTRARS_MAX]
		       : &s->registrar[slot_of(r)];
}

static bool is_subscribed(struct thmq_slabs *s, const struct thmq_registrar *r)
{
	uint32_t first = r->pool ? THMQ_REGISTRARS_MAX : 0;
	uint32_t end = r->pool ? REGISTRAR_SLOTS : THMQ_REGISTRARS_MAX;

	return (!r->pool || r->pool->slabs == s) && slot_of(r) >= first && slot_of(r) < end &&
	       *entry_of(s, r) == r;
}

static bool wants(const struct thmq_registrar *r, const struct slab *slab)
{
	if (r->flags & THMQ_REGISTRAR_ANY_DOMAIN)
		return true;
	return r->domain == slab->info.domain;
}

static bool has(const struct slab *slab, const struct thmq_registrar *r)
{
	return atomic_load_explicit(&slab->registered, memory_order_acquire) >> slot_of(r) & 1;
}

static void note(struct thmq_slabs *s, int rc, uint64_t ns)
{
	pthread_mutex_lock(&s->lock);
	if (rc)
		s->registration_failures++;
	else
		s->registrations++;
	s->registration_ns += ns;
	s->registration_ns_max = THMQI_MAX(s->registration_ns_max, ns);
	pthread_mutex_unlock(&s->lock);
}

static void add(struct thmq_slabs *s, struct thmq_registrar *r, struct slab *slab)
{
	uint64_t start = thmqi_clock_real.now_ns(NULL), key = 0;
	int rc = r->add(r, &slab->info, &key);

	if (!rc) {
		slab->key[slot_of(r)] = key;
		atomic_fetch_or_explicit(&slab->registered, 1ull << slot_of(r),
					 memory_order_release);
	}
	note(s, rc, thmqi_clock_real.now_ns(NULL) - start);
}

static void take_out(struct thmq_registrar *r, struct slab *slab)
{
	if (!has(slab, r))
		return;
	atomic_fetch_and_explicit(&slab->registered, ~(1ull << slot_of(r)), memory_order_relaxed);
	r->remove(r, &slab->info, slab->key[slot_of(r)]);
}

void thmqi_registrars_add(struct thmq_slabs *s, struct slab *slab)
{
	for (uint32_t i = 0; i < THMQ_REGISTRARS_MAX; i++)
		if (s->registrar[i] && wants(s->registrar[i], slab))
			add(s, s->registrar[i], slab);
}

void thmqi_registrars_remove(struct thmq_slabs *s, struct slab *slab)
{
	for (uint32_t i = 0; i < THMQ_REGISTRARS_MAX; i++)
		if (s->registrar[i])
			take_out(s->registrar[i], slab);
}

bool thmqi_registrars_of_pool(const struct thmq_pool *p)
{
	uint32_t i;

	for (i = 0; i < THMQ_POOL_REGISTRARS_MAX && !p->registrar[i]; i++)
		;
	return i < THMQ_POOL_REGISTRARS_MAX;
}

void thmqi_registrars_add_of_pool(struct thmq_pool *p, struct slab *slab)
{
	p->registering = true;
	for (uint32_t i = 0; i < THMQ_POOL_REGISTRARS_MAX; i++)
		if (p->registrar[i] && wants(p->registrar[i], slab))
			add(p->slabs, p->registrar[i], slab);
	p->registering = false;
}

void thmqi_registrars_remove_of_pool(struct thmq_pool *p, struct slab *slab)
{
	p->registering = true;
	for (uint32_t i = 0; i < THMQ_POOL_REGISTRARS_MAX; i++)
		if (p->registrar[i])
			take_out(p->registrar[i], slab);
	p->registering = false;
}

/* ------------------------------------------------------------------ public */

static int check(const struct thmq_slabs *s, const struct thmq_registrar *r)
{
	if (!s || !r || !r->add || !r->remove || (r->pool && r->pool->slabs != s))
		return thmqi_fail(-EINVAL,
				  "registrar: a call is missing, or its pool is another's");
	if (r->flags & ~(THMQ_REGISTRAR_REMOTE | THMQ_REGISTRAR_ANY_DOMAIN))
		return thmqi_fail(-EINVAL, "registrar: unknown flags %#x", r->flags);
	if ((r->flags & THMQ_REGISTRAR_REMOTE) &&
	    (r->domain == THMQ_DOMAIN_PRIVATE || (r->flags & THMQ_REGISTRAR_ANY_DOMAIN)))
		return thmqi_fail(-EACCES,
				  "registrar: remote keys are made for one peer's own domain only");
	return 0;
}

/* A free entry of @table, whose first one has the slot @first. */
static int enter(struct thmq_registrar **table, uint32_t count, uint32_t first,
		 struct thmq_registrar *r)
{
	uint32_t i, at = count;

	for (i = count; i-- > 0;) {
		if (table[i] == r)
			return -EBUSY;
		if (!table[i])
			at = i;
	}
	if (at == count)
		return -ENOSPC;
	r->internal[0] = first + at + 1;
	table[at] = r;
	return 0;
}

static int subscribe_to_all(struct thmq_slabs *s, struct thmq_registrar *r)
{
	uint32_t i;
	int rc;

	if (!thmqi_slabs_begin_making(s))
		return -EDEADLK;
	pthread_mutex_lock(&s->lock);
	rc = enter(s->registrar, THMQ_REGISTRARS_MAX, 0, r);
	pthread_mutex_unlock(&s->lock);
	for (i = 0; !rc && i < s->limit; i++)
		if (s->slab[i] && wants(r, s->slab[i]))
			add(s, r, s->slab[i]);
	thmqi_slabs_end_making(s);
	return rc;
}

static int subscribe_to_pool(struct thmq_pool *p, struct thmq_registrar *r)
{
	uint32_t i;
	int rc;

	if (p->registering)
		return -EDEADLK;
	rc = enter(p->registrar, THMQ_POOL_REGISTRARS_MAX, THMQ_REGISTRARS_MAX, r);
	p->registering = true;
	for (i = 0; !rc && i < p->slab_count; i++)
		if (wants(r, p->slab[i]))
			add(p->slabs, r, p->slab[i]);
	p->registering = false;
	return rc;
}

int thmq_slabs_subscribe(struct thmq_slabs *s, struct thmq_registrar *r)
{
	int rc = check(s, r);

	if (rc)
		return rc;
	rc = r->pool ? subscribe_to_pool(r->pool, r) : subscribe_to_all(s, r);
	return rc ? thmqi_fail(rc, rc == -EBUSY     ? "registrar: subscribed already"
				   : rc == -EDEADLK ? "registrar: none can come while one is called"
						    : "registrar: there are as many as can be")
		  : 0;
}

static int leave_all(struct thmq_slabs *s, struct thmq_registrar *r)
{
	uint32_t i;

	if (!thmqi_slabs_begin_making(s))
		return -EDEADLK;
	for (i = 0; i < s->limit; i++)
		if (s->slab[i])
			take_out(r, s->slab[i]);
	pthread_mutex_lock(&s->lock);
	s->registrar[slot_of(r)] = NULL;
	pthread_mutex_unlock(&s->lock);
	thmqi_slabs_end_making(s);
	return 0;
}

static int leave_pool(struct thmq_pool *p, struct thmq_registrar *r)
{
	uint32_t i;

	if (p->registering)
		return -EDEADLK;
	p->registering = true;
	for (i = 0; i < p->slab_count; i++)
		take_out(r, p->slab[i]);
	p->registering = false;
	p->registrar[slot_of(r) - THMQ_REGISTRARS_MAX] = NULL;
	return 0;
}

int thmq_slabs_unsubscribe(struct thmq_slabs *s, struct thmq_registrar *r)
{
	int rc;

	if (!s || !r || !is_subscribed(s, r))
		return thmqi_fail(-EINVAL, "registrar: not subscribed");
	rc = r->pool ? leave_pool(r->pool, r) : leave_all(s, r);
	if (rc)
		return thmqi_fail(rc, "registrar: none can leave while one is called");
	r->internal[0] = 0;
	return 0;
}

static struct slab *slab_at(const struct thmq_slabs *s, const void *address)
{
	uintptr_t index = ((uintptr_t)address - (uintptr_t)s->base) / THMQ_SLAB_BYTES;

	return index < s->limit ? __atomic_load_n(&s->slab[index], __ATOMIC_RELAXED) : NULL;
}

int thmq_slabs_key(const struct thmq_slabs *s, const struct thmq_registrar *r, const void *address,
		   uint64_t *ret_key)
{
	struct slab *slab = s ? slab_at(s, address) : NULL;

	if (thmqi_unlikely(!slab || !r || !ret_key || !r->internal[0] || !has(slab, r)))
		return -ENOENT;
	if (thmqi_unlikely(r->pool && r->pool != slab->pool))
		return -ENOENT; /* the slot is another pool's registrar there */
	*ret_key = slab->key[slot_of(r)];
	return 0;
}

int thmq_slabs_find(const struct thmq_slabs *s, const void *address, struct thmq_slab *ret_slab)
{
	struct slab *slab = s ? slab_at(s, address) : NULL;

	if (!slab || !ret_slab)
		return -ENOENT;
	*ret_slab = slab->info;
	return 0;
}

void thmqi_pool_subscribe(struct thmq_pool *p, struct thmq_registrar *r)
{
	r->pool = p;
	r->flags = THMQ_REGISTRAR_ANY_DOMAIN; /* what the kernel has stays in this process */
	thmq_slabs_subscribe(p->slabs, r);
}

void thmqi_pool_unsubscribe(struct thmq_pool *p, struct thmq_registrar *r)
{
	thmq_slabs_unsubscribe(p->slabs, r);
}
