/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registrar.c - protection domains, and the pool's slabs registered with them. Two registrars each: one for private slabs,
 * whose registrations name no remote right, so that no key of them is worth anything to a peer; one for the slabs of the
 * peer's own trust domain, with the rights that were asked for. Knows nothing of queue pairs.
 *
 * A key lies with the slab (thmq_slabs_key()): rkey above lkey in its 64 bits. The registration itself, which is needed
 * to undo it, lies here by slab index.
 */
#include "internal.h"

#define RIGHTS (THMQI_RDMA_PEER_READS | THMQI_RDMA_PEER_WRITES)

struct registrar {
	struct thmq_registrar base; /* first: what the pool calls back with */
	struct thmqi_rdma_domain *domain;
	int access; /* IBV_ACCESS_* */
	bool is_shared;
};

struct thmqi_rdma_domain {
	struct thmqi_rdma_device *device;
	const struct thmqi_verbs *verbs;
	struct thmq_slabs *slabs;
	struct ibv_pd *pd;
	struct registrar local;
	struct registrar peer; /* base.domain 0: there is none */
	bool has_local;        /* private slabs are registered */
	bool is_closing;       /* its registrations are gone */
	/* All below: written under the lock of the global pool, by whoever makes or drops a slab. */
	struct ibv_mr *mr[THMQ_SLABS_MAX];
	_Atomic uint32_t slab_count, shared_count, failures;
	_Atomic int32_t error;
};

static int add(struct thmq_registrar *registrar, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct registrar *r = thmqi_container(registrar, struct registrar, base);
	struct thmqi_rdma_domain *d = r->domain;
	struct ibv_mr *mr = NULL;
	int rc = -EBUSY;

	if (!d->mr[slab->index]) {
		errno = 0;
		mr = d->verbs->reg_mr(d->pd, slab->base, slab->bytes, r->access);
		rc = errno ? -errno : -EIO;
	}
	if (!mr) {
		atomic_fetch_add_explicit(&d->failures, 1, memory_order_relaxed);
		atomic_store_explicit(&d->error, rc, memory_order_relaxed);
		return rc;
	}
	d->mr[slab->index] = mr;
	atomic_fetch_add_explicit(&d->slab_count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&d->shared_count, r->is_shared, memory_order_relaxed);
	/* the number that a registration without remote rights has for an rkey is not told to anyone */
	*ret_key = (uint64_t)(r->is_shared ? mr->rkey : 0) << 32 | mr->lkey;
	return 0;
}

static void take_out(struct thmq_registrar *registrar, const struct thmq_slab *slab, uint64_t key)
{
	struct registrar *r = thmqi_container(registrar, struct registrar, base);
	struct thmqi_rdma_domain *d = r->domain;
	struct ibv_mr *mr = d->mr[slab->index];

	if (!mr)
		return;
	d->mr[slab->index] = NULL;
	atomic_fetch_sub_explicit(&d->slab_count, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&d->shared_count, r->is_shared, memory_order_relaxed);
	/* it is refused only where the device is gone, and then all of its keys are */
	d->verbs->dereg_mr(mr);
}

static int access_of(uint32_t flags)
{
	return IBV_ACCESS_LOCAL_WRITE |
	       (flags & THMQI_RDMA_PEER_READS ? IBV_ACCESS_REMOTE_READ : 0) |
	       (flags & THMQI_RDMA_PEER_WRITES ? IBV_ACCESS_REMOTE_WRITE : 0);
}

static void init(struct registrar *r, struct thmqi_rdma_domain *d, uint32_t trust, uint32_t flags)
{
	r->base.add = add;
	r->base.remove = take_out;
	r->base.domain = trust;
	r->base.flags = flags ? THMQ_REGISTRAR_REMOTE : 0;
	r->domain = d;
	r->access = access_of(flags);
	r->is_shared = flags != 0;
}

static int check(const struct thmqi_rdma_device *d, const struct thmq_slabs *slabs,
		 const struct thmqi_rdma_domain_opts *o)
{
	if (!d || !slabs || !o || (o->flags & ~(RIGHTS | THMQI_RDMA_NO_PRIVATE)))
		return thmqi_fail(-EINVAL,
				  "rdma domain: a handle is missing, or flags are unknown");
	if ((o->flags & RIGHTS) && o->peer == THMQ_DOMAIN_PRIVATE)
		return thmqi_fail(
			-EACCES, "rdma domain: no peer is let into private memory; give it a trust "
				 "domain of its own");
	return 0;
}

int thmqi_rdma_domain_open(struct thmqi_rdma_device *device, struct thmq_slabs *slabs,
			   const struct thmqi_rdma_domain_opts *opts,
			   struct thmqi_rdma_domain **ret_domain)
{
	struct thmqi_rdma_domain *d;
	int rc = check(device, slabs, opts);

	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return thmqi_fail(-ENOMEM, "rdma domain: no memory");
	d->device = device;
	d->verbs = device->verbs;
	d->slabs = slabs;
	errno = 0;
	d->pd = d->verbs->alloc_pd(device->context);
	if (!d->pd) {
		rc = errno ? -errno : -ENOMEM;
		thmqi_fail(rc, "rdma domain: %s has no more: %s", device->info.name,
			   thmq_strerror(rc));
		goto fail_pd;
	}
	init(&d->local, d, THMQ_DOMAIN_PRIVATE, 0);
	d->local.base.pool = opts->pool;
	if (!(opts->flags & THMQI_RDMA_NO_PRIVATE)) {
		rc = thmq_slabs_subscribe(slabs, &d->local.base);
		if (rc)
			goto fail_local;
		d->has_local = true;
	}
	if (opts->peer != THMQ_DOMAIN_PRIVATE) {
		init(&d->peer, d, opts->peer, opts->flags & RIGHTS);
		rc = thmq_slabs_subscribe(slabs, &d->peer.base);
		if (rc)
			goto fail_peer;
	}
	atomic_fetch_add_explicit(&device->domains, 1, memory_order_relaxed);
	*ret_domain = d;
	return 0;

fail_peer:
	if (d->has_local)
		thmq_slabs_unsubscribe(slabs, &d->local.base);
fail_local:
	d->verbs->dealloc_pd(d->pd);
fail_pd:
	free(d);
	return rc;
}

/*
 * Registrations go first, since the system keeps a protection domain that anything refers to: with it still there, a peer
 * has lost its way in at least.
 */
int thmqi_rdma_domain_close(struct thmqi_rdma_domain *d)
{
	struct thmqi_rdma_device *device;
	int rc;

	if (!d)
		return -EINVAL;
	device = d->device;
	if (!d->is_closing) {
		d->is_closing = true;
		if (d->peer.base.domain != THMQ_DOMAIN_PRIVATE)
			thmq_slabs_unsubscribe(d->slabs, &d->peer.base);
		if (d->has_local)
			thmq_slabs_unsubscribe(d->slabs, &d->local.base);
	}
	rc = d->verbs->dealloc_pd(d->pd);
	if (rc == EBUSY)
		return thmqi_fail(-EBUSY, "rdma domain: a queue pair still refers to it");
	/* any other error: the device is gone, and all that was on it */
	free(d);
	atomic_fetch_sub_explicit(&device->domains, 1, memory_order_release);
	return 0;
}

int thmqi_rdma_find_keys(const struct thmqi_rdma_domain *d, const void *address,
			 struct thmqi_rdma_keys *ret_keys)
{
	uint64_t key;

	/* most of what is sent and received is private */
	if (thmq_slabs_key(d->slabs, &d->local.base, address, &key) &&
	    thmq_slabs_key(d->slabs, &d->peer.base, address, &key))
		return -ENOENT;
	*ret_keys = (struct thmqi_rdma_keys){.lkey = (uint32_t)key, .rkey = (uint32_t)(key >> 32)};
	return 0;
}

void thmqi_rdma_domain_stats(struct thmqi_rdma_domain *d, struct thmqi_rdma_domain_stats *ret)
{
	uint32_t slabs = atomic_load_explicit(&d->slab_count, memory_order_relaxed);

	*ret = (struct thmqi_rdma_domain_stats){
		.slabs = slabs,
		.shared_slabs = atomic_load_explicit(&d->shared_count, memory_order_relaxed),
		.failures = atomic_load_explicit(&d->failures, memory_order_relaxed),
		.error = atomic_load_explicit(&d->error, memory_order_relaxed),
		.bytes = (uint64_t)slabs * THMQ_SLAB_BYTES};
}

struct ibv_pd *thmqi_rdma_domain_pd(struct thmqi_rdma_domain *d)
{
	return d->pd;
}
