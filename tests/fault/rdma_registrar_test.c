/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's memory at a real RDMA device: registered once per slab and protection domain, reached by the peer it belongs
 * to and by nobody else, given up with the slab. Two queue pairs of one device stand for two processes. Exits with 77
 * where there is no device; tests/lab/run.sh has one in an emulated machine.
 */
#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rdma_pair.h"

#define NOBODY 65534
#define OURS 1u   /* trust domains: of the peer whose queue pair is side a */
#define OTHERS 2u /* and of another one */
#define BYTES 8192u

static uint64_t begun;

/* A line for each step, with its time: where it stops, if it stops. */
static void said(const char *how, const char *what)
{
	printf("%6.2f s: %s: %s\n", (double)(thmqi_clock_real.now_ns(NULL) - begun) / 1e9, how,
	       what);
	fflush(stdout);
}

/* The real calls, and how often memory is registered. */
static struct thmqi_verbs verbs, real;
static int registered, deregistered;

static struct ibv_mr *count_reg(struct ibv_pd *pd, void *address, size_t bytes, int access)
{
	struct ibv_mr *mr = real.reg_mr(pd, address, bytes, access);

	registered += mr != NULL;
	return mr;
}

static int count_dereg(struct ibv_mr *mr)
{
	int rc = real.dereg_mr(mr);

	deregistered += rc == 0;
	return rc;
}

/* A global pool, a private pool and one of OURS, with a block each; a domain for the peer of OURS, one for that of OTHERS. */
struct world {
	struct thmqi_rdma_device *device;
	struct thmq_slabs *slabs;
	struct thmq_pool *private_pool, *shared_pool;
	struct thmq_buf *private_block, *shared_block;
	struct thmqi_rdma_domain *ours, *others;
	struct pair pair; /* side a in ours, b in others */
};

static struct thmqi_rdma_domain *open_domain(struct world *w, uint32_t peer, uint32_t flags)
{
	struct thmqi_rdma_domain_opts opts = {.peer = peer, .flags = flags};
	struct thmqi_rdma_domain *d;

	CHECK(thmqi_rdma_domain_open(w->device, w->slabs, &opts, &d) == 0);
	return d;
}

static void open_world(struct world *w, uint32_t rights)
{
	registered = deregistered = 0;
	CHECK(thmqi_rdma_open(&verbs, NULL, &w->device) == 0);
	CHECK(thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = 4 * THMQ_SLAB_BYTES), &w->slabs) == 0);
	CHECK(thmq_pool_open(w->slabs, NULL, &w->private_pool) == 0);
	CHECK(thmq_pool_open(w->slabs, THMQ_POOL_OPTS(.domain = OURS), &w->shared_pool) == 0);
	/* one slab is there before the domains are, one comes afterwards */
	CHECK(thmq_buf_alloc(w->private_pool, 2 * BYTES, THMQ_PURPOSE_GENERAL, &w->private_block) ==
	      0);
	w->ours = open_domain(w, OURS, rights);
	w->others = open_domain(w, OTHERS, rights);
	CHECK(thmq_buf_alloc(w->shared_pool, BYTES, THMQ_PURPOSE_GENERAL, &w->shared_block) == 0);
	pair_open(thmqi_rdma_context(w->device), thmqi_rdma_domain_pd(w->ours),
		  thmqi_rdma_domain_pd(w->others), &w->pair);
}

static void close_pools(struct world *w)
{
	if (w->shared_block)
		thmq_buf_unref(w->shared_block);
	thmq_buf_unref(w->private_block);
	CHECK(!w->shared_pool || thmq_pool_close(w->shared_pool) == 0);
	CHECK(thmq_pool_close(w->private_pool) == 0);
}

/* All of it goes, and nothing stays at the device: it would refuse to free the protection domains. */
static void close_world(struct world *w)
{
	pair_close(&w->pair);
	close_pools(w);
	CHECK(thmqi_rdma_close(w->device) == -EBUSY);
	CHECK(thmqi_rdma_domain_close(w->ours) == 0);
	CHECK(thmqi_rdma_domain_close(w->others) == 0);
	CHECK(registered == deregistered);
	CHECK(thmq_slabs_close(w->slabs) == 0);
	CHECK(thmqi_rdma_close(w->device) == 0);
}

static struct thmqi_rdma_keys keys_of(struct thmqi_rdma_domain *d, const void *address)
{
	struct thmqi_rdma_keys keys;

	CHECK(thmqi_rdma_find_keys(d, address, &keys) == 0);
	return keys;
}

static bool is_here(struct thmqi_rdma_domain *d, const void *address)
{
	struct thmqi_rdma_keys keys;

	return thmqi_rdma_find_keys(d, address, &keys) == 0;
}

/* ------------------------------------------------------------- what must work */

static void each_slab_is_registered_once(void)
{
	struct thmqi_rdma_domain_stats stats;
	struct thmq_buf *blocks[6];
	struct world w;
	int i;

	open_world(&w, THMQI_RDMA_PEER_READS | THMQI_RDMA_PEER_WRITES);
	CHECK(registered == 3); /* the private slab with both, the shared one with its peer's */
	/* blocks of slabs that are registered cost none; a new slab is registered when it comes */
	for (i = 0; i < 6; i++)
		CHECK(thmq_buf_alloc(w.private_pool, THMQ_BLOCK_MAX, THMQ_PURPOSE_GENERAL,
				     &blocks[i]) == 0);
	CHECK(registered == 5);
	thmqi_rdma_domain_stats(w.ours, &stats);
	CHECK(stats.slabs == 3 && stats.shared_slabs == 1 && stats.failures == 0 &&
	      stats.error == 0);
	CHECK(stats.bytes == 3ull * THMQ_SLAB_BYTES);
	CHECK(keys_of(w.ours, blocks[5]->data).lkey != keys_of(w.others, blocks[5]->data).lkey);
	CHECK(keys_of(w.ours, blocks[5]->data).rkey == 0);
	CHECK(keys_of(w.ours, w.shared_block->data).rkey != 0);
	CHECK(!is_here(w.others, w.shared_block->data));
	CHECK(!is_here(w.ours, &w) && !is_here(w.ours, NULL));
	for (i = 0; i < 6; i++)
		thmq_buf_unref(blocks[i]);
	close_world(&w);
}

static void trimmed_slabs_are_deregistered(void)
{
	struct thmqi_rdma_domain_stats stats;
	struct world w;

	open_world(&w, THMQI_RDMA_PEER_READS);
	close_pools(&w);
	/* the peer's slab went with its pool; the private one waits for the next borrower, registered */
	thmqi_rdma_domain_stats(w.ours, &stats);
	CHECK(deregistered == 1 && stats.slabs == 1 && stats.shared_slabs == 0);
	CHECK(thmq_slabs_trim(w.slabs) == THMQ_SLAB_BYTES);
	thmqi_rdma_domain_stats(w.ours, &stats);
	CHECK(deregistered == 3 && stats.slabs == 0 && stats.bytes == 0);
	CHECK(thmq_pool_open(w.slabs, NULL, &w.private_pool) == 0);
	CHECK(thmq_buf_alloc(w.private_pool, BYTES, THMQ_PURPOSE_GENERAL, &w.private_block) == 0);
	CHECK(registered == 5 && is_here(w.ours, w.private_block->data));
	w.shared_block = NULL;
	w.shared_pool = NULL;
	close_world(&w);
}

static void fill(void *at, uint8_t first)
{
	for (uint32_t i = 0; i < BYTES; i++)
		((uint8_t *)at)[i] = (uint8_t)(first + i * 7);
}

/* Side b sends, writes and reads; what it may reach of side a is the block of OURS. */
static void blocks_are_sent_written_and_read(struct world *w)
{
	uint8_t *source = w->private_block->data, *sink = source + BYTES,
		*shared = w->shared_block->data;
	uint32_t lkey = keys_of(w->others, source).lkey, rkey = keys_of(w->ours, shared).rkey;

	fill(source, 1);
	side_receive(&w->pair.a, sink, keys_of(w->ours, sink).lkey, BYTES);
	side_post(&w->pair.b, IBV_WR_SEND, source, lkey, BYTES, 0, 0);
	CHECK(side_wait(&w->pair.b) == IBV_WC_SUCCESS && side_wait(&w->pair.a) == IBV_WC_SUCCESS);
	CHECK(memcmp(sink, source, BYTES) == 0);

	fill(source, 2);
	side_post(&w->pair.b, IBV_WR_RDMA_WRITE, source, lkey, BYTES, (uintptr_t)shared, rkey);
	CHECK(side_wait(&w->pair.b) == IBV_WC_SUCCESS);
	CHECK(memcmp(shared, source, BYTES) == 0);

	fill(shared, 3);
	side_post(&w->pair.b, IBV_WR_RDMA_READ, sink, lkey, BYTES, (uintptr_t)shared, rkey);
	CHECK(side_wait(&w->pair.b) == IBV_WC_SUCCESS);
	CHECK(memcmp(shared, sink, BYTES) == 0);
}

/* -------------------------------------------------------- what must be refused */

static void new_pair(struct world *w)
{
	pair_close(&w->pair);
	pair_open(thmqi_rdma_context(w->device), thmqi_rdma_domain_pd(w->ours),
		  thmqi_rdma_domain_pd(w->others), &w->pair);
}

/* Side b asks side a for what it may not: the request fails, both queue pairs do, and no byte was moved. */
static void is_refused(struct world *w, enum ibv_wr_opcode opcode, void *address, uint32_t rkey)
{
	uint8_t *local = w->private_block->data + BYTES, before[64];
	uint32_t lkey = keys_of(w->others, local).lkey;

	fill(local, (uint8_t)rkey);
	memcpy(before, local, sizeof(before));
	side_post(&w->pair.b, opcode, local, lkey, sizeof(before), (uintptr_t)address, rkey);
	CHECK(side_wait(&w->pair.b) == IBV_WC_REM_ACCESS_ERR);
	CHECK(side_fails(&w->pair.b) && side_fails(&w->pair.a));
	CHECK(memcmp(local, before, sizeof(before)) == 0);
	/* nothing goes there any more */
	side_post(&w->pair.b, IBV_WR_SEND, local, lkey, 8, 0, 0);
	CHECK(side_wait(&w->pair.b) == IBV_WC_WR_FLUSH_ERR);
	new_pair(w);
}

static void neither_written_nor_read(struct world *w, void *address, uint32_t rkey,
				     const char *what)
{
	is_refused(w, IBV_WR_RDMA_WRITE, address, rkey);
	is_refused(w, IBV_WR_RDMA_READ, address, rkey);
	said("refused", what);
}

static void wrong_keys_are_refused(struct world *w)
{
	uint8_t *shared = w->shared_block->data;
	uint32_t rkey = keys_of(w->ours, shared).rkey;
	struct thmq_pool *pool;
	struct thmq_buf *block;

	neither_written_nor_read(w, shared, rkey ^ 0x5a00, "a key made up");
	neither_written_nor_read(
		w,
		(uint8_t *)((uintptr_t)shared / THMQ_SLAB_BYTES * THMQ_SLAB_BYTES) +
			THMQ_SLAB_BYTES - 8,
		rkey, "beyond the slab");
	neither_written_nor_read(w, w->private_block->data, rkey,
				 "a private block by a shared slab's key");
	/* the local and the remote key are the same number here, and with most devices */
	neither_written_nor_read(w, w->private_block->data,
				 keys_of(w->ours, w->private_block->data).lkey,
				 "a private block by its local key");
	/* good at side b, not at side a */
	CHECK(thmq_pool_open(w->slabs, THMQ_POOL_OPTS(.domain = OTHERS), &pool) == 0);
	CHECK(thmq_buf_alloc(pool, BYTES, THMQ_PURPOSE_GENERAL, &block) == 0);
	CHECK(!is_here(w->ours, block->data));
	neither_written_nor_read(w, block->data, keys_of(w->others, block->data).rkey,
				 "another peer's block");
	thmq_buf_unref(block);
	CHECK(thmq_pool_close(pool) == 0);
}

/* Nobody can be made to send what is not in the domain of its own queue pair either. */
static void a_local_key_of_another_domain_is_refused(struct world *w)
{
	uint8_t *shared = w->shared_block->data, *local = w->private_block->data;
	enum ibv_wc_status status;

	fill(shared, 5);
	side_post(&w->pair.b, IBV_WR_RDMA_WRITE, local, keys_of(w->ours, local).lkey, 64,
		  (uintptr_t)shared, keys_of(w->ours, shared).rkey);
	status = side_wait(&w->pair.b);
	/* which error differs: the specification's is LOC_PROT_ERR, Soft-RoCE has others, by version */
	CHECK(status != IBV_WC_SUCCESS);
	CHECK(side_fails(&w->pair.b));
	CHECK(shared[1] == 5 + 7);
	new_pair(w);
	printf("(%s) ", ibv_wc_status_str(status));
	said("refused", "a local key of another domain");
}

static void what_was_given_up_is_refused(struct world *w)
{
	uint8_t *freed = w->shared_block->data, *shared;
	uint32_t rkey = keys_of(w->ours, freed).rkey;
	struct thmqi_rdma_keys keys;

	thmq_buf_unref(w->shared_block);
	CHECK(thmq_pool_close(w->shared_pool) == 0);
	CHECK(!is_here(w->ours, freed));
	neither_written_nor_read(w, freed, rkey, "a slab that was freed");
	/* and where another slab took its place, the old key is none of it */
	CHECK(thmq_pool_open(w->slabs, THMQ_POOL_OPTS(.domain = OURS), &w->shared_pool) == 0);
	CHECK(thmq_buf_alloc(w->shared_pool, BYTES, THMQ_PURPOSE_GENERAL, &w->shared_block) == 0);
	shared = w->shared_block->data;
	keys = keys_of(w->ours, shared);
	CHECK(keys.rkey != rkey);
	is_refused(w, IBV_WR_RDMA_READ, shared, rkey);
	/* a domain that cannot go yet has let go of all memory all the same */
	CHECK(thmqi_rdma_domain_close(w->ours) == -EBUSY);
	CHECK(!is_here(w->ours, shared) && !is_here(w->ours, w->private_block->data));
	neither_written_nor_read(w, shared, keys.rkey, "a domain that is closing");
}

/* The right that is given passes before: what fails then fails for want of the other one. */
static void a_right_that_was_not_given_is_refused(uint32_t right, enum ibv_wr_opcode given,
						  enum ibv_wr_opcode other)
{
	struct thmqi_rdma_keys keys;
	struct world w;
	uint8_t *local;

	open_world(&w, right);
	keys = keys_of(w.ours, w.shared_block->data);
	local = w.private_block->data;
	side_post(&w.pair.b, given, local, keys_of(w.others, local).lkey, 64,
		  (uintptr_t)w.shared_block->data, keys.rkey);
	CHECK(side_wait(&w.pair.b) == IBV_WC_SUCCESS);
	is_refused(&w, other, w.shared_block->data, keys.rkey);
	close_world(&w);
	said("refused", given == IBV_WR_RDMA_READ ? "a write where reads are allowed"
						  : "a read where writes are allowed");
}

static void requests_at_the_device(void)
{
	struct world w;

	open_world(&w, THMQI_RDMA_PEER_READS | THMQI_RDMA_PEER_WRITES);
	blocks_are_sent_written_and_read(&w);
	said("passed", "a send, a write, a read");
	wrong_keys_are_refused(&w);
	a_local_key_of_another_domain_is_refused(&w);
	what_was_given_up_is_refused(&w);
	close_world(&w);
	a_right_that_was_not_given_is_refused(THMQI_RDMA_PEER_READS, IBV_WR_RDMA_READ,
					      IBV_WR_RDMA_WRITE);
	a_right_that_was_not_given_is_refused(THMQI_RDMA_PEER_WRITES, IBV_WR_RDMA_WRITE,
					      IBV_WR_RDMA_READ);
}

static void rights_need_a_trust_domain(void)
{
	struct thmqi_rdma_domain_opts opts = {.peer = THMQ_DOMAIN_PRIVATE,
					      .flags = THMQI_RDMA_PEER_READS};
	struct thmqi_rdma_domain *none = NULL;
	struct world w;

	open_world(&w, 0);
	CHECK(thmqi_rdma_domain_open(w.device, w.slabs, &opts, &none) == -EACCES && !none);
	/* without rights even a peer's slabs are for local use only */
	CHECK(keys_of(w.ours, w.shared_block->data).rkey == 0);
	close_world(&w);
}

/* ------------------------------------------------------------------- limits */

/* A user who may lock next to nothing: nothing is registered, which the counters say, and the memory is as good as ever. */
static int without_locked_memory(void)
{
	struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
	struct thmqi_rdma_domain_opts opts = {.peer = THMQ_DOMAIN_PRIVATE};
	struct thmq_slabs_stats pool_stats = {.size = sizeof(pool_stats)};
	struct thmqi_rdma_domain_stats stats;
	struct thmqi_rdma_device *device;
	struct thmqi_rdma_domain *domain;
	struct thmq_slabs *slabs;
	struct thmq_pool *pool;
	struct thmq_buf *block;

	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	if (getuid() == 0)
		CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	if (thmqi_rdma_open(&verbs, NULL, &device))
		return 77; /* it is root's alone here */
	CHECK(thmq_slabs_open(NULL, &slabs) == 0 && thmq_pool_open(slabs, NULL, &pool) == 0);
	CHECK(thmqi_rdma_domain_open(device, slabs, &opts, &domain) == 0);
	CHECK(thmq_buf_alloc(pool, BYTES, THMQ_PURPOSE_GENERAL, &block) == 0);
	fill(block->data, 1);
	thmqi_rdma_domain_stats(domain, &stats);
	CHECK(stats.slabs == 0 && stats.bytes == 0 && stats.failures == 1 &&
	      stats.error == -ENOMEM);
	CHECK(thmq_slabs_stats(slabs, &pool_stats) == 0 && pool_stats.registration_failures == 1);
	CHECK(!is_here(domain, block->data));
	thmq_buf_unref(block);
	CHECK(thmq_pool_close(pool) == 0 && thmqi_rdma_domain_close(domain) == 0);
	CHECK(thmq_slabs_close(slabs) == 0 && thmqi_rdma_close(device) == 0);
	return 0;
}

static void without_locked_memory_nothing_is_registered(void)
{
	int status;

	if (fork() == 0)
		_exit(without_locked_memory());
	CHECK(wait(&status) > 0 && WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
	if (WEXITSTATUS(status))
		printf("not tested: the device is root's alone here\n");
}

/* -------------------------------------------------------------------- events */

static bool comes(struct thmqi_rdma_device *device, uint32_t kind)
{
	struct pollfd fd = {.fd = thmqi_rdma_fd(device), .events = POLLIN};
	struct thmqi_rdma_event event;
	int rc;

	while (poll(&fd, 1, 10000) == 1) {
		rc = thmqi_rdma_next(device, &event);
		CHECK(rc >= 0);
		if (rc == 1 && event.kind == kind)
			return event.port == 1;
	}
	return false;
}

/* Only in the laboratory: it makes network devices. */
static void a_port_that_goes_and_comes_is_told(void)
{
	struct thmqi_rdma_device *device;
	struct thmqi_rdma_event event;

	CHECK(system("ip link add thmq0 type dummy && ip link set thmq0 up && rdma link add "
		     "thmq_port type rxe netdev thmq0") == 0);
	CHECK(thmqi_rdma_open(NULL, "thmq_port", &device) == 0);
	CHECK(thmqi_rdma_info(device)->active_ports == 1 && thmqi_rdma_info(device)->ports == 1);
	while (thmqi_rdma_next(device, &event) == 1) /* of its birth */
		;
	CHECK(thmqi_rdma_next(device, &event) == 0);
	CHECK(system("ip link set thmq0 down") == 0);
	CHECK(comes(device, THMQI_RDMA_PORT_DOWN));
	CHECK(system("ip link set thmq0 up") == 0);
	CHECK(comes(device, THMQI_RDMA_PORT_UP));
	CHECK(thmqi_rdma_close(device) == 0);
	CHECK(system("rdma link delete thmq_port && ip link delete thmq0") == 0);
}

int main(void)
{
	struct thmqi_rdma_device *device;
	struct thmqi_rdma_info info;

	begun = thmqi_clock_real.now_ns(NULL);
	if (thmqi_rdma_list(NULL, &info, 1) == -ENODEV) {
		CHECK(thmqi_rdma_open(NULL, NULL, &device) == -ENODEV);
		printf("%s\n", thmq_errmsg());
		return 77;
	}
	CHECK(thmqi_verbs_load(&real) == 0);
	verbs = real;
	verbs.reg_mr = count_reg;
	verbs.dereg_mr = count_dereg;
	CHECK(thmqi_rdma_open(NULL, "no such device", &device) == -ENODEV);

	without_locked_memory_nothing_is_registered();
	said("passed", "without locked memory");
	each_slab_is_registered_once();
	said("passed", "each slab once");
	trimmed_slabs_are_deregistered();
	said("passed", "trimmed slabs");
	requests_at_the_device();
	rights_need_a_trust_domain();
	if (getenv("THMQ_TEST_LAB"))
		a_port_that_goes_and_comes_is_told();
	printf("%s: a slab is registered once, and reached by its peer alone\n", info.name);
	return 0;
}
