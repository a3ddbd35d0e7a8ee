/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registrar.c - who has slabs registered, and under which key. Each slab meets each registrar that wants it once; the key
 * lies with the slab, and the slab is found from an address by a division. Knows nothing of what registration is.
 */
#include "internal.h"

static uint32_t slot_of(const struct thmq_registrar *r)
{
	return r->internal[0] - 1;
}

static bool is_subscribed(const struct thmq_slabs *s, const struct thmq_registrar *r)
{
	return r->internal[0] && slot_of(r) < THMQ_REGISTRARS_MAX && s->registrar[slot_of(r)] == r;
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

/* @locked: by whoever calls */
static void note(struct thmq_slabs *s, bool locked, int rc, uint64_t ns)
{
	if (!locked)
		pthread_mutex_lock(&s->lock);
	if (rc)
		s->registration_failures++;
	else
		s->registrations++;
	s->registration_ns += ns;
	s->registration_ns_max = THMQI_MAX(s->registration_ns_max, ns);
	if (!locked)
		pthread_mutex_unlock(&s->lock);
}

static void add(struct thmq_slabs *s, struct thmq_registrar *r, struct slab *slab, bool locked)
{
	uint64_t start = thmqi_clock_real.now_ns(NULL), key = 0;
	int rc = r->add(r, &slab->info, &key);

	if (!rc) {
		slab->key[slot_of(r)] = key;
		atomic_fetch_or_explicit(&slab->registered, 1ull << slot_of(r),
					 memory_order_release);
	}
	note(s, locked, rc, thmqi_clock_real.now_ns(NULL) - start);
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
		if (s->registrar[i] && !s->registrar[i]->pool && wants(s->registrar[i], slab))
			add(s, s->registrar[i], slab, true);
}

void thmqi_registrars_remove(struct thmq_slabs *s, struct slab *slab)
{
	for (uint32_t i = 0; i < THMQ_REGISTRARS_MAX; i++)
		if (s->registrar[i] && !s->registrar[i]->pool)
			take_out(s->registrar[i], slab);
}

/* Those of a pool come and go on its own thread only: once copied they stay. Return: how many. */
static uint32_t of_pool(struct thmq_pool *p, struct thmq_registrar **ret)
{
	struct thmq_slabs *s = p->slabs;
	uint32_t i, n = 0;

	pthread_mutex_lock(&s->lock);
	for (i = 0; i < THMQ_REGISTRARS_MAX; i++)
		if (s->registrar[i] && s->registrar[i]->pool == p)
			ret[n++] = s->registrar[i];
	pthread_mutex_unlock(&s->lock);
	return n;
}

bool thmqi_registrars_of_pool(struct thmq_pool *p)
{
	struct thmq_registrar *r[THMQ_REGISTRARS_MAX];

	return of_pool(p, r) > 0;
}

void thmqi_registrars_add_of_pool(struct thmq_pool *p, struct slab *slab)
{
	struct thmq_registrar *r[THMQ_REGISTRARS_MAX];
	uint32_t i, n = of_pool(p, r);

	for (i = 0; i < n; i++)
		if (wants(r[i], slab))
			add(p->slabs, r[i], slab, false);
}

void thmqi_registrars_remove_of_pool(struct thmq_pool *p, struct slab *slab)
{
	struct thmq_registrar *r[THMQ_REGISTRARS_MAX];
	uint32_t i, n = of_pool(p, r);

	for (i = 0; i < n; i++)
		take_out(r[i], slab);
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

static int find_slot(struct thmq_slabs *s, struct thmq_registrar *r)
{
	uint32_t i, slot = THMQ_REGISTRARS_MAX;

	for (i = THMQ_REGISTRARS_MAX; i-- > 0;) {
		if (s->registrar[i] == r)
			return -EBUSY;
		if (!s->registrar[i])
			slot = i;
	}
	if (slot == THMQ_REGISTRARS_MAX)
		return -ENOSPC;
	r->internal[0] = slot + 1;
	s->registrar[slot] = r;
	return 0;
}

int thmq_slabs_subscribe(struct thmq_slabs *s, struct thmq_registrar *r)
{
	uint32_t i;
	int rc = check(s, r);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rc = find_slot(s, r);
	for (i = 0; !rc && !r->pool && i < s->limit; i++)
		if (s->slab[i] && wants(r, s->slab[i]))
			add(s, r, s->slab[i], true);
	pthread_mutex_unlock(&s->lock);
	for (i = 0; !rc && r->pool && i < r->pool->slab_count; i++)
		if (wants(r, r->pool->slab[i]))
			add(s, r, r->pool->slab[i], false);
	return rc ? thmqi_fail(rc, rc == -EBUSY ? "registrar: subscribed already"
						: "registrar: there are as many as can be")
		  : 0;
}

int thmq_slabs_unsubscribe(struct thmq_slabs *s, struct thmq_registrar *r)
{
	uint32_t i;

	if (!s || !r || !is_subscribed(s, r))
		return thmqi_fail(-EINVAL, "registrar: not subscribed");
	for (i = 0; r->pool && i < r->pool->slab_count; i++)
		take_out(r, r->pool->slab[i]);
	pthread_mutex_lock(&s->lock);
	for (i = 0; !r->pool && i < s->limit; i++)
		if (s->slab[i])
			take_out(r, s->slab[i]);
	s->registrar[slot_of(r)] = NULL;
	r->internal[0] = 0;
	pthread_mutex_unlock(&s->lock);
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
	struct slab *slab = slab_at(s, address);

	if (thmqi_unlikely(!slab || !r->internal[0] || !has(slab, r)))
		return -ENOENT;
	*ret_key = slab->key[slot_of(r)];
	return 0;
}

int thmq_slabs_find(const struct thmq_slabs *s, const void *address, struct thmq_slab *ret_slab)
{
	struct slab *slab = slab_at(s, address);

	if (!slab)
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
