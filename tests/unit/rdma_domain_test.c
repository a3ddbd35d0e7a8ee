/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_domain_test.c - devices and protection domains against a device that is not there: its calls are functions of this
 * file, which look at the order that they are called in, and refuse on demand. tests/fault/rdma_registrar_test.c is the
 * same against a real one.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "rdma/calls.h"
#include "rdma/rdma.h"

#define PEER 7u

TestSuite(rdma_domain, .timeout = 60);

/* --------------------------------------------------------- a device made up */

static struct ibv_device devices[2] = {{.transport_type = IBV_TRANSPORT_IB},
				       {.transport_type = IBV_TRANSPORT_IWARP}};
static struct fake {
	int device_count;
	int active; /* index of the device with an active port; -1: none */
	int opened, lists, pds, regions, registrations;
	int fail_in; /* the call that fails, counted down; 0: none does */
	int fail_error;
	int pd_busy; /* queue pairs that refer to the protection domain */
	int last_access;
	int pipe[2]; /* asynchronous events */
	uint32_t next_key;
	uint8_t *private_at; /* in a private slab */
} fake;

static bool fails(void)
{
	if (!fake.fail_in || --fake.fail_in)
		return false;
	errno = fake.fail_error;
	return true;
}

static struct ibv_device **get_device_list(int *count)
{
	struct ibv_device **list;

	if (fails())
		return NULL;
	list = calloc(3, sizeof(*list));
	for (int i = 0; i < fake.device_count; i++)
		list[i] = &devices[i];
	*count = fake.device_count;
	fake.lists++;
	return list;
}

static void free_device_list(struct ibv_device **list)
{
	free(list);
	fake.lists--;
}

static const char *get_device_name(struct ibv_device *device)
{
	return device == &devices[0] ? "first" : "second";
}

static struct ibv_context *open_device(struct ibv_device *device)
{
	struct ibv_context *c;

	if (fails())
		return NULL;
	c = calloc(1, sizeof(*c));
	c->device = device;
	c->async_fd = fake.pipe[0];
	fake.opened++;
	return c;
}

static int close_device(struct ibv_context *context)
{
	free(context);
	fake.opened--;
	return 0;
}

static int query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	if (fails())
		return fake.fail_error;
	*attr = (struct ibv_device_attr){
		.phys_port_cnt = 2, .max_mr_size = 1ull << 40, .max_qp_rd_atom = 16, .max_sge = 30};
	return 0;
}

static int query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	((struct ibv_port_attr *)attr)->state =
		fake.active >= 0 && context->device == &devices[fake.active] && port == 2
			? IBV_PORT_ACTIVE
			: IBV_PORT_DOWN;
	return 0;
}

static int get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	return read(context->async_fd, event, sizeof(*event)) == sizeof(*event) ? 0 : -1;
}

static int acknowledged;

static void ack_async_event(struct ibv_async_event *event)
{
	acknowledged++;
}

static struct ibv_pd *alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd;

	if (fails())
		return NULL;
	pd = calloc(1, sizeof(*pd));
	pd->context = context;
	fake.pds++;
	return pd;
}

static int dealloc_pd(struct ibv_pd *pd)
{
	cr_assert_eq(pd->handle, 0, "its registrations go first");
	if (fake.pd_busy)
		return EBUSY;
	free(pd);
	fake.pds--;
	return 0;
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *address, size_t bytes, int access)
{
	struct ibv_mr *mr;

	if (fails())
		return NULL;
	mr = calloc(1, sizeof(*mr));
	fake.last_access = access;
	if (fake.private_at >= (uint8_t *)address && fake.private_at < (uint8_t *)address + bytes)
		cr_assert_eq(access, IBV_ACCESS_LOCAL_WRITE, "nobody is let into a private slab");
	mr->pd = pd;
	mr->addr = address;
	mr->length = bytes;
	mr->lkey = mr->rkey = fake.next_key += 256;
	fake.regions++;
	pd->handle++; /* counts them here */
	fake.registrations++;
	return mr;
}

static int dereg_mr(struct ibv_mr *mr)
{
	mr->pd->handle--;
	free(mr);
	fake.regions--;
	return 0;
}

static const struct thmqi_verbs verbs = {
	.get_device_list = get_device_list,
	.free_device_list = free_device_list,
	.get_device_name = get_device_name,
	.open_device = open_device,
	.close_device = close_device,
	.query_device = query_device,
	.query_port = query_port,
	.get_async_event = get_async_event,
	.ack_async_event = ack_async_event,
	.alloc_pd = alloc_pd,
	.dealloc_pd = dealloc_pd,
	.reg_mr = reg_mr,
	.dereg_mr = dereg_mr,
};

static void fake_init(int device_count)
{
	fake = (struct fake){.device_count = device_count, .active = -1};
	cr_assert_eq(pipe(fake.pipe), 0);
}

static void nothing_is_left(void)
{
	cr_assert_eq(fake.opened, 0);
	cr_assert_eq(fake.lists, 0);
	cr_assert_eq(fake.pds, 0);
	cr_assert_eq(fake.regions, 0);
}

/* ------------------------------------------------------------------- devices */

Test(rdma_domain, a_machine_without_a_device_says_so)
{
	struct thmqi_rdma_device *d = NULL;

	fake_init(0);
	cr_assert_eq(thmqi_rdma_list(&verbs, NULL, 0), -ENODEV);
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &d), -ENODEV);
	cr_assert_not_null(strstr(thmq_errmsg(), "no RDMA device"));
	fake.fail_in = 1; /* a kernel without its modules */
	fake.fail_error = ENOSYS;
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &d), -ENODEV);
	cr_assert_null(d);
	nothing_is_left();
}

Test(rdma_domain, the_device_with_an_active_port_is_preferred)
{
	struct thmqi_rdma_device *d;

	fake_init(2);
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &d), 0);
	cr_assert_str_eq(thmqi_rdma_info(d)->name, "first", "none has: the first");
	cr_assert_eq(thmqi_rdma_close(d), 0);
	fake.active = 1;
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &d), 0);
	cr_assert_str_eq(thmqi_rdma_info(d)->name, "second");
	cr_assert_eq(thmqi_rdma_info(d)->active_ports, 2, "bit 1 is port 2");
	cr_assert_eq(thmqi_rdma_info(d)->is_iwarp, 1);
	cr_assert_eq(thmqi_rdma_close(d), 0);
	cr_assert_eq(thmqi_rdma_open(&verbs, "first", &d), 0);
	cr_assert_str_eq(thmqi_rdma_info(d)->name, "first");
	cr_assert_eq(thmqi_rdma_close(d), 0);
	cr_assert_eq(thmqi_rdma_open(&verbs, "third", &d), -ENODEV);
	cr_assert_not_null(strstr(thmq_errmsg(), "third"));
	nothing_is_left();
}

Test(rdma_domain, a_list_tells_how_many_there_are)
{
	struct thmqi_rdma_info infos[2] = {0};

	fake_init(2);
	cr_assert_eq(thmqi_rdma_list(&verbs, infos, 1), 2);
	cr_assert_str_eq(infos[0].name, "first");
	cr_assert_eq(infos[0].reads_max, 16);
	cr_assert_str_eq(infos[1].name, "");
	nothing_is_left();
}

Test(rdma_domain, each_step_of_an_open_may_fail_and_nothing_is_left)
{
	struct thmqi_rdma_domain_opts opts = {.peer = PEER, .flags = THMQI_RDMA_PEER_READS};
	struct thmqi_rdma_device *device = NULL;
	struct thmqi_rdma_domain *domain = NULL;
	struct thmq_slabs *slabs;
	int step, rc;

	fake_init(1);
	cr_assert_eq(thmq_slabs_open(NULL, &slabs), 0);
	for (step = 1;; step++) {
		fake.fail_in = step;
		fake.fail_error = EMFILE;
		rc = thmqi_rdma_open(&verbs, "first", &device);
		if (rc) {
			cr_assert_null(device);
		} else {
			rc = thmqi_rdma_domain_open(device, slabs, &opts, &domain);
			if (rc)
				cr_assert_null(domain);
			else
				cr_assert_eq(thmqi_rdma_domain_close(domain), 0);
			cr_assert_eq(thmqi_rdma_close(device), 0);
			device = NULL;
		}
		nothing_is_left();
		if (!rc)
			break;
		cr_assert_lt(step, 10);
	}
	cr_assert_eq(step, 5, "list, open, query, domain");
	cr_assert_eq(thmq_slabs_close(slabs), 0);
}

Test(rdma_domain, events_are_told_and_acknowledged)
{
	static const struct {
		enum ibv_event_type type;
		uint32_t kind;
	} cases[] = {{IBV_EVENT_DEVICE_FATAL, THMQI_RDMA_GONE},
		     {IBV_EVENT_PORT_ERR, THMQI_RDMA_PORT_DOWN},
		     {IBV_EVENT_PORT_ACTIVE, THMQI_RDMA_PORT_UP},
		     {IBV_EVENT_GID_CHANGE, THMQI_RDMA_ADDRESS},
		     {IBV_EVENT_QP_ACCESS_ERR, THMQI_RDMA_QP_FAILED},
		     {IBV_EVENT_QP_LAST_WQE_REACHED, THMQI_RDMA_QP_LAST},
		     {IBV_EVENT_CQ_ERR, THMQI_RDMA_CQ_FAILED},
		     {IBV_EVENT_SRQ_LIMIT_REACHED, THMQI_RDMA_SRQ_LOW},
		     {IBV_EVENT_SRQ_ERR, THMQI_RDMA_SRQ_FAILED},
		     {IBV_EVENT_SM_CHANGE, THMQI_RDMA_OTHER}};
	struct thmqi_rdma_device *d;
	struct thmqi_rdma_event e;

	fake_init(1);
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &d), 0);
	cr_assert_eq(thmqi_rdma_fd(d), fake.pipe[0]);
	cr_assert_eq(thmqi_rdma_next(d, &e), 0, "it does not block");
	for (size_t i = 0; i < THMQI_ARRAY_COUNT(cases); i++) {
		struct ibv_async_event event = {.event_type = cases[i].type};
		bool has_port = cases[i].kind == THMQI_RDMA_PORT_UP ||
				cases[i].kind == THMQI_RDMA_PORT_DOWN ||
				cases[i].kind == THMQI_RDMA_ADDRESS;
		bool is_bare =
			cases[i].kind == THMQI_RDMA_GONE || cases[i].kind == THMQI_RDMA_OTHER;

		if (has_port)
			event.element.port_num = 2;
		else
			event.element.qp = (struct ibv_qp *)&event;
		cr_assert_eq(write(fake.pipe[1], &event, sizeof(event)), sizeof(event));
		cr_assert_eq(thmqi_rdma_next(d, &e), 1);
		cr_assert_eq(e.kind, cases[i].kind);
		cr_assert_eq(e.port, has_port ? 2 : 0);
		cr_assert_eq(e.object, has_port || is_bare ? NULL : &event);
	}
	cr_assert_eq(thmqi_rdma_next(d, &e), 0);
	cr_assert_eq(acknowledged, THMQI_ARRAY_COUNT(cases));
	close(fake.pipe[0]);
	fake.pipe[0] = -1;
	cr_assert_eq(thmqi_rdma_close(d), 0);
}

/* ------------------------------------------------------------------- domains */

struct world {
	struct thmqi_rdma_device *device;
	struct thmq_slabs *slabs;
	struct thmq_pool *private_pool, *peer_pool, *stranger_pool;
	struct thmq_buf *private_block, *peer_block, *stranger_block;
};

static struct thmq_pool *pool_of(struct thmq_slabs *slabs, uint32_t domain,
				 struct thmq_buf **ret_block)
{
	struct thmq_pool *pool;

	cr_assert_eq(thmq_pool_open(slabs, THMQ_POOL_OPTS(.domain = domain), &pool), 0);
	cr_assert_eq(thmq_buf_alloc(pool, 4096, THMQ_PURPOSE_GENERAL, ret_block), 0);
	return pool;
}

static void open_world(struct world *w)
{
	fake_init(1);
	cr_assert_eq(thmqi_rdma_open(&verbs, NULL, &w->device), 0);
	cr_assert_eq(thmq_slabs_open(NULL, &w->slabs), 0);
	w->private_pool = pool_of(w->slabs, THMQ_DOMAIN_PRIVATE, &w->private_block);
	fake.private_at = w->private_block->data;
	w->peer_pool = pool_of(w->slabs, PEER, &w->peer_block);
	w->stranger_pool = pool_of(w->slabs, PEER + 1, &w->stranger_block);
}

static void close_world(struct world *w)
{
	thmq_buf_unref(w->private_block);
	thmq_buf_unref(w->peer_block);
	thmq_buf_unref(w->stranger_block);
	thmq_pool_close(w->private_pool);
	thmq_pool_close(w->peer_pool);
	thmq_pool_close(w->stranger_pool);
	cr_assert_eq(thmq_slabs_close(w->slabs), 0);
	cr_assert_eq(thmqi_rdma_close(w->device), 0);
	nothing_is_left();
}

static struct thmqi_rdma_domain *domain_of(struct world *w, uint32_t peer, uint32_t flags)
{
	struct thmqi_rdma_domain_opts opts = {.peer = peer, .flags = flags};
	struct thmqi_rdma_domain *d;

	cr_assert_eq(thmqi_rdma_domain_open(w->device, w->slabs, &opts, &d), 0);
	return d;
}

Test(rdma_domain, a_slab_is_registered_once_with_each_domain_that_may_have_it)
{
	struct thmqi_rdma_domain_stats stats;
	struct thmqi_rdma_domain *a, *b;
	struct thmqi_rdma_keys keys;
	struct world w;

	open_world(&w);
	a = domain_of(&w, PEER, THMQI_RDMA_PEER_READS | THMQI_RDMA_PEER_WRITES);
	cr_assert_eq(fake.regions, 2, "the private slab and the peer's");
	cr_assert_eq(fake.last_access,
		     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
	b = domain_of(&w, THMQ_DOMAIN_PRIVATE, 0);
	cr_assert_eq(fake.regions, 3);
	cr_assert_eq(fake.last_access, IBV_ACCESS_LOCAL_WRITE);
	cr_assert_eq(thmqi_rdma_find_keys(a, w.private_block->data, &keys), 0);
	cr_assert(keys.lkey == 256 && keys.rkey == 0, "a private slab has no key for others");
	cr_assert_eq(thmqi_rdma_find_keys(a, w.peer_block->data + 4095, &keys), 0);
	cr_assert(keys.lkey == 512 && keys.rkey == 512);
	cr_assert_eq(thmqi_rdma_find_keys(a, w.stranger_block->data, &keys), -ENOENT);
	cr_assert_eq(thmqi_rdma_find_keys(b, w.peer_block->data, &keys), -ENOENT);
	cr_assert_eq(thmqi_rdma_find_keys(b, &w, &keys), -ENOENT);
	thmqi_rdma_domain_stats(a, &stats);
	cr_assert(stats.slabs == 2 && stats.shared_slabs == 1 &&
		  stats.bytes == 2ull * THMQ_SLAB_BYTES);
	cr_assert_eq(thmqi_rdma_close(w.device), -EBUSY);
	cr_assert_eq(thmqi_rdma_domain_close(a), 0);
	cr_assert_eq(fake.regions, 1);
	cr_assert_eq(thmqi_rdma_domain_close(b), 0);
	close_world(&w);
}

Test(rdma_domain, rights_are_those_that_were_asked_for)
{
	struct thmqi_rdma_domain_opts wrong[] = {
		{.peer = THMQ_DOMAIN_PRIVATE, .flags = THMQI_RDMA_PEER_READS},
		{.peer = THMQ_DOMAIN_PRIVATE, .flags = THMQI_RDMA_PEER_WRITES},
		{.peer = PEER, .flags = 8}};
	struct thmqi_rdma_domain *d = NULL;
	struct thmqi_rdma_keys keys;
	struct world w;

	open_world(&w);
	cr_assert_eq(thmqi_rdma_domain_open(w.device, w.slabs, &wrong[0], &d), -EACCES);
	cr_assert_eq(thmqi_rdma_domain_open(w.device, w.slabs, &wrong[1], &d), -EACCES);
	cr_assert_eq(thmqi_rdma_domain_open(w.device, w.slabs, &wrong[2], &d), -EINVAL);
	cr_assert_null(d);
	cr_assert_eq(fake.pds, 0);
	d = domain_of(&w, PEER, THMQI_RDMA_PEER_READS);
	cr_assert_eq(fake.last_access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
	cr_assert_eq(thmqi_rdma_domain_close(d), 0);
	d = domain_of(&w, PEER, 0);
	cr_assert_eq(fake.last_access, IBV_ACCESS_LOCAL_WRITE);
	cr_assert_eq(thmqi_rdma_find_keys(d, w.peer_block->data, &keys), 0);
	cr_assert_eq(keys.rkey, 0);
	cr_assert_eq(thmqi_rdma_domain_close(d), 0);
	close_world(&w);
}

Test(rdma_domain, a_slab_that_comes_or_goes_is_registered_or_not)
{
	struct thmqi_rdma_domain *d;
	struct thmqi_rdma_keys keys;
	struct thmq_buf *blocks[4];
	struct world w;
	void *was;

	open_world(&w);
	d = domain_of(&w, PEER, THMQI_RDMA_PEER_WRITES);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(thmq_buf_alloc(w.peer_pool, THMQ_BLOCK_MAX, THMQ_PURPOSE_GENERAL,
					    &blocks[i]),
			     0);
	cr_assert_eq(fake.regions, 3);
	cr_assert_eq(thmqi_rdma_find_keys(d, blocks[3]->data, &keys), 0);
	for (int i = 0; i < 4; i++)
		thmq_buf_unref(blocks[i]);
	was = w.peer_block->data;
	thmq_buf_unref(w.peer_block);
	cr_assert_eq(thmq_pool_close(w.peer_pool), 0);
	cr_assert_eq(fake.regions, 1, "a peer's slabs go with its pool");
	cr_assert_eq(thmqi_rdma_find_keys(d, was, &keys), -ENOENT);
	w.peer_pool = pool_of(w.slabs, PEER, &w.peer_block);
	cr_assert_eq(fake.regions, 2);
	cr_assert_eq(thmqi_rdma_domain_close(d), 0);
	close_world(&w);
}

Test(rdma_domain, what_is_refused_is_counted_and_stays_usable)
{
	struct thmq_slabs_stats pool_stats = {.size = sizeof(pool_stats)};
	struct thmqi_rdma_domain_stats stats;
	struct thmqi_rdma_domain *d;
	struct thmqi_rdma_keys keys;
	struct world w;

	open_world(&w);
	fake.fail_in = 2; /* the domain itself is had, the first slab is refused */
	fake.fail_error = ENOMEM;
	d = domain_of(&w, PEER, THMQI_RDMA_PEER_READS);
	thmqi_rdma_domain_stats(d, &stats);
	cr_assert(stats.slabs == 1 && stats.shared_slabs == 1 && stats.failures == 1 &&
		  stats.error == -ENOMEM);
	cr_assert_eq(thmq_slabs_stats(w.slabs, &pool_stats), 0);
	cr_assert_eq(pool_stats.registration_failures, 1);
	cr_assert_eq(thmqi_rdma_find_keys(d, w.private_block->data, &keys), -ENOENT);
	cr_assert_eq(thmqi_rdma_find_keys(d, w.peer_block->data, &keys), 0);
	memset(w.private_block->data, 1, 4096);
	cr_assert_eq(thmqi_rdma_domain_close(d), 0);
	close_world(&w);
}

Test(rdma_domain, a_domain_that_is_in_use_loses_its_keys_at_the_close_and_can_be_closed_again)
{
	struct thmqi_rdma_domain *d;
	struct thmqi_rdma_keys keys;
	struct world w;

	open_world(&w);
	d = domain_of(&w, PEER, THMQI_RDMA_PEER_READS);
	fake.pd_busy = 1;
	cr_assert_eq(thmqi_rdma_domain_close(d), -EBUSY);
	cr_assert_eq(thmqi_rdma_domain_close(d), -EBUSY);
	cr_assert_eq(fake.regions, 0);
	cr_assert_eq(thmqi_rdma_find_keys(d, w.peer_block->data, &keys), -ENOENT);
	cr_assert_eq(thmqi_rdma_close(w.device), -EBUSY);
	fake.pd_busy = 0;
	cr_assert_eq(thmqi_rdma_domain_close(d), 0);
	close_world(&w);
}

Test(rdma_domain, more_domains_than_the_pool_takes_registrars_are_refused)
{
	struct thmqi_rdma_domain_opts opts = {.peer = PEER, .flags = THMQI_RDMA_PEER_READS};
	struct thmqi_rdma_domain *domains[THMQ_REGISTRARS_MAX / 2], *d = NULL;
	struct world w;
	size_t i;

	open_world(&w);
	for (i = 0; i < THMQI_ARRAY_COUNT(domains); i++) /* two registrars each */
		domains[i] = domain_of(&w, PEER, THMQI_RDMA_PEER_READS);
	cr_assert_eq(thmqi_rdma_domain_open(w.device, w.slabs, &opts, &d), -ENOSPC);
	cr_assert_null(d);
	cr_assert_eq(fake.pds, THMQI_ARRAY_COUNT(domains));
	for (i = 0; i < THMQI_ARRAY_COUNT(domains); i++)
		cr_assert_eq(thmqi_rdma_domain_close(domains[i]), 0);
	close_world(&w);
}
