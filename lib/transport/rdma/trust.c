/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trust.c - one protection domain of a device: who shares it may reach the same memory, if any. Its shared receive queue, and
 * the receives that stand ready there: as many as all of its connections were promised together, so that no sender who
 * keeps to its credits ever finds none. And, at a client, the memory that its broker may write to.
 */
#include "medium.h"

#define REPOST 64u

/* ----------------------------------------------------------------- receives */

int thmqi_rdma_memory_open(struct rdma_trust *t, uint32_t purpose, struct rdma_memory *ret)
{
	struct thmqi_rdma_keys keys;
	struct rdma_memory m = {0};
	int rc = thmq_buf_alloc(t->hub->home->core->pool, RDMA_CREDITS * RDMA_SLOT_BYTES, purpose,
				&m.buf);

	if (rc)
		return rc;
	if (thmqi_rdma_find_keys(t->domain, m.buf->data, &keys) == 0) {
		m.lkey = keys.lkey;
	} else {
		errno = 0;
		m.mr = t->hub->home->world->verbs.reg_mr(thmqi_rdma_domain_pd(t->domain),
							 m.buf->data, m.buf->size,
							 IBV_ACCESS_LOCAL_WRITE);
		if (!m.mr) {
			rc = errno ? -errno : -ENOMEM; /* the limit of locked memory, mostly */
			thmqi_buf_unref(m.buf);
			return rc;
		}
		m.lkey = m.mr->lkey;
	}
	*ret = m;
	return 0;
}

void thmqi_rdma_memory_close(struct rdma_trust *t, struct rdma_memory *m)
{
	if (m->mr)
		t->hub->home->world->verbs.dereg_mr(m->mr);
	if (m->buf)
		thmqi_buf_unref(m->buf);
	*m = (struct rdma_memory){0};
}

static int add_block(struct rdma_trust *t)
{
	struct rdma_block *b = calloc(1, sizeof(*b));
	uint32_t i;
	int rc;

	if (!b)
		return -ENOMEM;
	rc = thmqi_rdma_memory_open(t, THMQ_PURPOSE_RECEIVE, &b->memory);
	if (rc) {
		free(b);
		return rc;
	}
	for (i = 0; i < RDMA_CREDITS; i++) {
		b->slots[i] = (struct rdma_slot){.trust = t,
						 .data = b->memory.buf->data + i * RDMA_SLOT_BYTES,
						 .lkey = b->memory.lkey};
		thmqi_rdma_slot_idle(&b->slots[i]);
	}
	t->blocks[t->block_count++] = b;
	thmqi_rdma_trust_repost(t);
	return 0;
}

int thmqi_rdma_trust_room(struct rdma_trust *t)
{
	int rc = 0;

	if (t->blocks_wanted == t->blocks_max)
		return -ENOBUFS;
	if (t->blocks_wanted == t->block_count)
		rc = add_block(t);
	if (!rc)
		t->blocks_wanted++;
	return rc;
}

void thmqi_rdma_trust_repost(struct rdma_trust *t)
{
	struct thmqi_rdma_counters *counters = &t->hub->home->counters;
	struct ibv_recv_wr wr[REPOST], *bad;
	struct ibv_sge sge[REPOST];
	uint32_t n;

	while (t->idle) {
		struct rdma_slot *slot = t->idle;

		for (n = 0; slot && n < REPOST; n++, slot = slot->next) {
			sge[n] = (struct ibv_sge){.addr = (uintptr_t)slot->data,
						  .length = RDMA_SLOT_BYTES,
						  .lkey = slot->lkey};
			wr[n] = (struct ibv_recv_wr){.wr_id = (uintptr_t)slot,
						     .next = &wr[n + 1],
						     .sg_list = &sge[n],
						     .num_sge = 1};
		}
		wr[n - 1].next = NULL;
		t->idle = slot;
		counters->receives += n;
		counters->receive_doorbells++;
		if (ibv_post_srq_recv(t->srq, wr, &bad) != 0) {
			t->hub->failed =
				true; /* its next poll ends all: whoever called may be looking at any of it */
			return;
		}
	}
}

/* ------------------------------------------------------------- made and ended */

static void free_trust(struct rdma_trust *t)
{
	const struct thmqi_verbs *v = &t->hub->home->world->verbs;
	uint32_t i;

	thmqi_list_del(&t->link);
	if (t->srq)
		v->destroy_srq(t->srq);
	for (i = 0; i < t->block_count; i++) {
		thmqi_rdma_memory_close(t, &t->blocks[i]->memory);
		free(t->blocks[i]);
	}
	if (t->domain)
		thmqi_rdma_domain_close(t->domain);
	if (t->landing)
		thmq_pool_close(t->landing);
	thmqi_rdma_hub_unref(t->hub);
	free(t);
}

/* That of our brokers' clients stays as long as its device: to register all memory anew takes time. */
void thmqi_rdma_trust_unref(struct rdma_trust *t)
{
	if (--t->refs == 0 && (t->where.len || t->hub->dead))
		free_trust(t);
}

/* Memory that this broker may write to. A client without it gets its runs through the stream. */
static void open_landing(struct rdma_trust *t, uint32_t number)
{
	struct thmq_pool_opts opts;

	thmq_pool_opts_init(&opts);
	opts.domain = number;
	if (thmq_pool_open(thmqi_env_slabs(t->hub->home->core->env), &opts, &t->landing) != 0)
		t->landing = NULL;
}

/* Its first slab is taken and registered now, when nobody waits for this core yet, rather than when the first large run comes. */
static void prepare_landing(struct rdma_trust *t)
{
	struct thmqi_rdma_keys keys = {0};
	struct thmqi_buf *b;

	if (!t->landing)
		return;
	if (thmq_buf_alloc(t->landing, THMQ_BLOCK_MAX, THMQ_PURPOSE_GENERAL, &b) == 0) {
		thmqi_rdma_find_keys(t->domain, b->data, &keys);
		thmqi_buf_unref(b);
	}
	if (keys.rkey)
		return;
	thmq_pool_close(t->landing); /* the limit of memory, or of locked memory */
	t->landing = NULL;
}

static int open_srq(struct rdma_trust *t)
{
	const struct thmqi_verbs *v = &t->hub->home->world->verbs;
	struct ibv_srq_init_attr init = {
		.attr = {.max_wr = RDMA_BLOCKS * RDMA_CREDITS, .max_sge = 1}};
	struct ibv_device_attr attr = {0};

	if (v->query_device(thmqi_rdma_context(t->hub->device), &attr) != 0)
		return -EIO;
	init.attr.max_wr = (uint32_t)THMQI_MIN((int)init.attr.max_wr, attr.max_srq_wr);
	init.attr.max_wr = (uint32_t)THMQI_MIN((int)init.attr.max_wr, t->hub->recv_cq->cqe);
	errno = 0;
	t->srq = v->create_srq(thmqi_rdma_domain_pd(t->domain), &init);
	if (!t->srq)
		return errno ? -errno : -ENOMEM;
	t->blocks_max = init.attr.max_wr / RDMA_CREDITS;
	return 0;
}

static int make_trust(struct rdma_hub *hub, const struct tcp_address *where,
		      struct rdma_trust **ret_trust)
{
	struct rdma_world *w = hub->home->world;
	const struct thmqi_rdma_info *info = thmqi_rdma_info(hub->device);
	/* a broker's core sends runs from its own pool, wherever they lie there */
	struct thmqi_rdma_domain_opts opts = {.peer = THMQ_DOMAIN_PRIVATE,
					      .pool = hub->home->core->pool};
	struct rdma_trust *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return -ENOMEM;
	t->hub = hub;
	hub->refs++;
	thmqi_list_add_tail(&hub->trusts, &t->link);
	if (where)
		t->where = *where;
	if (where)
		opts.flags = THMQI_RDMA_NO_PRIVATE;
	if (where && !info->is_iwarp) {
		opts.peer = RDMA_DOMAINS + atomic_fetch_add(&w->trusts, 1) % 0x10000u;
		opts.flags |= THMQI_RDMA_PEER_WRITES;
		open_landing(t, opts.peer);
	}
	rc = thmqi_rdma_domain_open(hub->device, thmqi_env_slabs(hub->home->core->env), &opts,
				    &t->domain);
	if (!rc) {
		prepare_landing(t);
		rc = open_srq(t);
	}
	if (rc) {
		free_trust(t);
		return rc;
	}
	*ret_trust = t;
	return 0;
}

int thmqi_rdma_trust(struct rdma_hub *hub, const struct tcp_address *where,
		     struct rdma_trust **ret_trust)
{
	struct rdma_trust *t = NULL;
	struct thmqi_list *it;
	int rc = 0;

	thmqi_list_each(it, &hub->trusts)
	{
		t = thmqi_container(it, struct rdma_trust, link);
		if (where ? t->where.len == where->len &&
				    memcmp(&t->where.addr, &where->addr, where->len) == 0
			  : t->where.len == 0)
			break;
		t = NULL;
	}
	if (!t)
		rc = make_trust(hub, where, &t);
	if (rc)
		return rc;
	t->refs++;
	*ret_trust = t;
	return 0;
}
