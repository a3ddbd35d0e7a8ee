/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_register_bench.c - what the pool spares an RDMA transfer: a block of memory that is registered, with its key, against
 * registering the transfer's own memory and removing it afterwards. It needs an RDMA device; the laboratory has an emulated
 * one (tests/lab/run.sh memory_register_bench), whose times show relations only.
 *
 * rdma_register_*: 4 KiB to 16 MiB; p50 of runs. Ours: thmq_buf_alloc(), thmq_slabs_key(), thmq_buf_unref() from a pool
 *   whose slabs one registrar has registered (16 MiB: two blocks of 8). Rival: ibv_reg_mr() and ibv_dereg_mr() of as many
 *   bytes that are in memory already. Bar: at most a tenth.
 * rdma_register_slab: the one registration of a slab of 32 MiB, that the pool pays instead, against that of 16 MiB. No bar.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <thundermq/pool.h>

#include "bench.h"

#define RUN 64u /* transfers between two looks at the clock */
#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)
#define PEER 1u
#define BYTES_MAX (16u << 20)

/* All there is to a registrar of one's own. */
struct registrar {
	struct thmq_registrar base;
	struct ibv_pd *pd;
	struct ibv_mr *mr[THMQ_SLABS_MAX];
};

static int add(struct thmq_registrar *base, const struct thmq_slab *slab, uint64_t *ret_key)
{
	struct registrar *r = (struct registrar *)base;
	struct ibv_mr *mr = ibv_reg_mr(r->pd, slab->base, slab->bytes, ACCESS);

	if (!mr)
		return -errno;
	r->mr[slab->index] = mr;
	*ret_key = mr->rkey;
	return 0;
}

static void take_out(struct thmq_registrar *base, const struct thmq_slab *slab, uint64_t key)
{
	struct registrar *r = (struct registrar *)base;

	ibv_dereg_mr(r->mr[slab->index]);
}

struct rig {
	struct ibv_context *context;
	struct registrar registrar;
	struct thmq_slabs *slabs;
	struct thmq_pool *pool;
	uint8_t *memory; /* what is registered for each transfer */
};

/* NULL: good; else why not. */
static const char *open_device(struct rig *r)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	if (!list || !list[0])
		return "there is no RDMA device";
	r->context = ibv_open_device(list[0]);
	ibv_free_device_list(list);
	if (!r->context)
		return "the RDMA device cannot be opened";
	r->registrar.pd = ibv_alloc_pd(r->context);
	return r->registrar.pd ? NULL : "the RDMA device has no protection domain";
}

static const char *open_rig(struct rig *r)
{
	struct thmq_slabs_stats stats = {.size = sizeof(stats)};
	const char *why = open_device(r);
	struct thmq_buf *block;

	if (why)
		return why;
	r->registrar.base = (struct thmq_registrar){
		.add = add, .remove = take_out, .domain = PEER, .flags = THMQ_REGISTRAR_REMOTE};
	if (thmq_slabs_open(NULL, &r->slabs) ||
	    thmq_slabs_subscribe(r->slabs, &r->registrar.base) ||
	    thmq_pool_open(r->slabs, THMQ_POOL_OPTS(.domain = PEER), &r->pool) ||
	    thmq_buf_alloc(r->pool, 64, THMQ_PURPOSE_GENERAL, &block))
		bench_die("pool", ENOMEM);
	thmq_buf_unref(block);
	thmq_slabs_stats(r->slabs, &stats);
	if (stats.registration_failures)
		return "the limit of locked memory is too low";
	r->memory =
		mmap(NULL, BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->memory == MAP_FAILED)
		bench_die("memory", ENOMEM);
	memset(r->memory, 1, BYTES_MAX); /* what is measured is not the first touch */
	return NULL;
}

static void close_rig(struct rig *r)
{
	if (r->pool)
		thmq_pool_close(r->pool);
	if (r->slabs) {
		thmq_slabs_unsubscribe(r->slabs, &r->registrar.base);
		thmq_slabs_close(r->slabs);
	}
	if (r->registrar.pd && ibv_dealloc_pd(r->registrar.pd))
		bench_die("something is registered still", EBUSY);
	if (r->context)
		ibv_close_device(r->context);
	if (r->memory)
		munmap(r->memory, BYTES_MAX);
}

/* ns of a transfer's share of the pool */
static double by_pool(const struct bench *b, struct rig *r, uint32_t size)
{
	uint32_t runs = b->smoke ? 50 : 5000, run, i, n;
	uint32_t blocks = size > THMQ_BLOCK_MAX ? size / THMQ_BLOCK_MAX : 1;
	struct thmq_buf *block[2];
	struct bench_samples s;
	uint64_t start, key;
	double result;

	bench_samples_init(&s, runs);
	for (run = 0; run < runs; run++) {
		start = bench_now();
		for (i = 0; i < RUN; i++) {
			for (n = 0; n < blocks; n++)
				if (thmq_buf_alloc(r->pool, size / blocks, THMQ_PURPOSE_GENERAL,
						   &block[n]) ||
				    thmq_slabs_key(r->slabs, &r->registrar.base, block[n]->data,
						   &key))
					bench_die("pool", ENOBUFS);
			for (n = 0; n < blocks; n++)
				thmq_buf_unref(block[n]);
		}
		bench_samples_add(&s, bench_now() - start);
	}
	result = bench_percentile(&s, 0.5) / RUN;
	bench_samples_fini(&s);
	return result;
}

/* ns of one that registers what it sends */
static double by_transfer(const struct bench *b, struct rig *r, void *memory, size_t size)
{
	uint32_t runs = b->smoke ? 5 : 50, run;
	struct bench_samples s;
	struct ibv_mr *mr;
	uint64_t start;
	double result;

	bench_samples_init(&s, runs);
	for (run = 0; run < runs; run++) {
		start = bench_now();
		mr = ibv_reg_mr(r->registrar.pd, memory, size, ACCESS);
		if (!mr)
			bench_die("ibv_reg_mr", errno);
		ibv_dereg_mr(mr);
		bench_samples_add(&s, bench_now() - start);
	}
	result = bench_percentile(&s, 0.5);
	bench_samples_fini(&s);
	return result;
}

static void one_size(struct bench *b, struct rig *r, uint32_t size, const char *name)
{
	struct bench_line l = {.name = name,
			       .unit = "ns",
			       .rival = "ibv_reg_mr, ibv_dereg_mr",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_MOST,
			       .bar = 0.1};
	struct bench_line *lines[] = {&l};
	double x;

	if (!bench_wants(b, name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		x = by_pool(b, r, size);
		bench_pairs_add(&l.pairs, x, by_transfer(b, r, r->memory, size));
	}
	bench_report(b, &l);
}

/* What is paid once for each slab. Its pages are there already, as those of what it is held against. */
static void whole_slab(struct bench *b, struct rig *r)
{
	struct bench_line l = {.name = "rdma_register_slab",
			       .unit = "ns",
			       .rival = "one of 16 MiB",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_NO_BAR};
	struct bench_line *lines[] = {&l};
	struct thmq_buf *block;
	struct thmq_slab slab;
	double x;

	if (!bench_wants(b, l.name))
		return;
	if (thmq_buf_alloc(r->pool, 64, THMQ_PURPOSE_GENERAL, &block) ||
	    thmq_slabs_find(r->slabs, block->data, &slab))
		bench_die("pool", ENOBUFS);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		x = by_transfer(b, r, slab.base, slab.bytes);
		bench_pairs_add(&l.pairs, x, by_transfer(b, r, r->memory, BYTES_MAX));
	}
	bench_report(b, &l);
	thmq_buf_unref(block);
}

int main(int argc, char **argv)
{
	static struct rig r;
	struct bench b;
	const char *why;

	bench_init(&b, argc, argv, "memory");
	bench_pin(b.cpu_core);
	why = open_rig(&r);
	if (why) {
		bench_skip(&b, "rdma_register", why);
	} else {
		one_size(&b, &r, 4096, "rdma_register_4k");
		one_size(&b, &r, 65536, "rdma_register_64k");
		one_size(&b, &r, 1u << 20, "rdma_register_1m");
		one_size(&b, &r, 8u << 20, "rdma_register_8m");
		one_size(&b, &r, 16u << 20, "rdma_register_16m");
		whole_slab(&b, &r);
	}
	close_rig(&r);
	bench_unpin();
	return bench_end(&b);
}
