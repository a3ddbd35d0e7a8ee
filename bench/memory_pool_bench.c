/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_pool_bench.c - the memory pool (thundermq/pool.h): what a block costs, how that changes with what the pool holds,
 * what a registration would cost in its place, and what is left of large blocks after a long time.
 *
 * alloc_free_*: one block of one size, taken and given back on the owner's thread, in runs of 64; p50 of the runs. Limit: a
 *   fixed mempool, a stack of blocks of this one size. Bar: at most 20 ns.
 * flat_95_*: the same in a pool that is 95 % full of mixed blocks, against an empty one. Bar: at most 1.25 x, which is
 *   within what two runs of the same differ by here.
 * mix_one_core_*, mix_two_cores_*: blocks of a message-size distribution (60 % up to 1 KiB, 30 % up to 8 KiB, 10 % up to
 *   64 KiB, by the logarithm), 4096 of them alive, freed in order; on two cores by the other thread, that gets them through
 *   an SPSC ring of 1024. Rivals: malloc of glibc, jemalloc, mimalloc. Limit: a fixed mempool of 64 KiB blocks, which on
 *   two cores come back by a ring of their own. No bars: they are measured to be known.
 * registration_*: registering that many bytes as one io_uring buffer and removing it, against taking a block of
 *   that size from a pool that is registered. Bar: the pool takes at most a tenth.
 * fragmentation_*: after 10^9 operations (10^7 with --smoke) of a recorded mix, half of the pool alive: the largest free
 *   block, and what blocks are larger than was asked for. Limits: the largest block there is; a quarter, which is
 *   what powers of two waste on sizes that are spread evenly between two of them. Bar: 0.27.
 */
#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <thundermq/pool.h>
#include <unistd.h>

#include "bench.h"

#define RUN 64u      /* pairs between two looks at the clock */
#define ALIVE 4096u  /* blocks of the mix */
#define SIZES 65536u /* of the mix, drawn once */
#define RING 1024u
#define MIX_MAX 65536u

/* ----------------------------------------------------------------- allocators */

/* One of those that are compared. alloc gives a handle, and where the bytes are. */
struct allocator {
	const char *name;
	void *(*alloc)(struct allocator *a, uint32_t size, uint8_t **ret_data);
	void (*free)(struct allocator *a, void *handle);
	void (*free_elsewhere)(struct allocator *a, void *handle);
	void (*drain)(struct allocator *a);
	void *(*c_malloc)(size_t size);
	void (*c_free)(void *p);
	struct thmq_slabs *slabs;
	struct thmq_pool *pool;
	/* fixed mempool: a stack, and a ring by which blocks come back */
	uint8_t *memory;
	void **stack;
	uint32_t top;
	void *back[2 * RING];
	_Atomic uint32_t back_head, back_tail;
};

static void *pool_alloc(struct allocator *a, uint32_t size, uint8_t **ret_data)
{
	struct thmq_buf *b;

	if (thmq_buf_alloc(a->pool, size, THMQ_PURPOSE_GENERAL, &b))
		return NULL;
	*ret_data = b->data;
	return b;
}

static void pool_free(struct allocator *a, void *handle)
{
	thmq_buf_unref(handle);
}

static void pool_free_elsewhere(struct allocator *a, void *handle)
{
	thmq_buf_unref_remote(handle);
}

static void pool_drain(struct allocator *a)
{
	thmq_pool_drain(a->pool);
}

static void pool_make(struct allocator *a, uint64_t limit)
{
	int rc;

	*a = (struct allocator){.name = "pool",
				.alloc = pool_alloc,
				.free = pool_free,
				.free_elsewhere = pool_free_elsewhere,
				.drain = pool_drain};
	rc = thmq_slabs_open(THMQ_SLABS_OPTS(.limit_bytes = limit), &a->slabs);
	if (!rc)
		rc = thmq_pool_open(a->slabs, NULL, &a->pool);
	if (rc)
		bench_die("pool", -rc);
}

static void pool_unmake(struct allocator *a)
{
	thmq_pool_close(a->pool);
	thmq_slabs_close(a->slabs);
}

static void *heap_alloc(struct allocator *a, uint32_t size, uint8_t **ret_data)
{
	return *ret_data = a->c_malloc(size);
}

static void heap_free(struct allocator *a, void *handle)
{
	a->c_free(handle);
}

static void no_drain(struct allocator *a)
{
}

/* False: it is not installed. */
static bool heap_make(struct allocator *a, const char *name, const char *library,
		      const char *prefix)
{
	void *so = library ? dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : RTLD_DEFAULT;
	char symbol[32];

	*a = (struct allocator){.name = name,
				.alloc = heap_alloc,
				.free = heap_free,
				.free_elsewhere = heap_free,
				.drain = no_drain};
	if (library && !so)
		return false;
	snprintf(symbol, sizeof(symbol), "%smalloc", prefix);
	*(void **)&a->c_malloc = dlsym(so, symbol);
	snprintf(symbol, sizeof(symbol), "%sfree", prefix);
	*(void **)&a->c_free = dlsym(so, symbol);
	return a->c_malloc && a->c_free;
}

static void *fixed_alloc(struct allocator *a, uint32_t size, uint8_t **ret_data)
{
	return a->top ? (*ret_data = a->stack[--a->top]) : NULL;
}

static void fixed_free(struct allocator *a, void *handle)
{
	a->stack[a->top++] = handle;
}

static void fixed_free_elsewhere(struct allocator *a, void *handle)
{
	uint32_t head = atomic_load_explicit(&a->back_head, memory_order_relaxed);

	a->back[head % (2 * RING)] = handle; /* never full: more are not alive */
	atomic_store_explicit(&a->back_head, head + 1, memory_order_release);
}

static void fixed_drain(struct allocator *a)
{
	uint32_t head = atomic_load_explicit(&a->back_head, memory_order_acquire);

	for (; a->back_tail != head; a->back_tail++)
		fixed_free(a, a->back[a->back_tail % (2 * RING)]);
}

static void fixed_make(struct allocator *a, uint32_t size, uint32_t count)
{
	*a = (struct allocator){.name = "fixed mempool",
				.alloc = fixed_alloc,
				.free = fixed_free,
				.free_elsewhere = fixed_free_elsewhere,
				.drain = fixed_drain};
	a->memory = mmap(NULL, (size_t)size * count, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	a->stack = malloc(count * sizeof(*a->stack));
	if (a->memory == MAP_FAILED || !a->stack)
		bench_die("mempool", ENOMEM);
	while (count--)
		fixed_free(a, a->memory + (size_t)size * count);
}

static void fixed_unmake(struct allocator *a, uint32_t size, uint32_t count)
{
	munmap(a->memory, (size_t)size * count);
	free(a->stack);
}

/* ------------------------------------------------------------------- the mix */

static uint32_t sizes[SIZES];

static uint64_t random_next(uint64_t *s) /* splitmix64 (Steele, Lea, Flood 2014) */
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* As many of [2^low, 2^(low+1)) as of [2^(high-1), 2^high). */
static uint32_t by_logarithm(uint64_t *s, uint32_t low, uint32_t high)
{
	uint32_t order = low + (uint32_t)(random_next(s) % (high - low));

	return (1u << order) + (uint32_t)(random_next(s) % (1u << order));
}

static void draw_sizes(void)
{
	uint64_t s = 1;

	for (uint32_t i = 0; i < SIZES; i++) {
		uint32_t dice = (uint32_t)(random_next(&s) % 100);

		sizes[i] = dice < 60   ? by_logarithm(&s, 5, 10)
			   : dice < 90 ? by_logarithm(&s, 10, 13)
				       : by_logarithm(&s, 13, 16);
	}
}

/* ns for a block of the mix, taken, written to, and freed 4096 blocks later on the same core */
static double on_one_core(struct allocator *a, uint32_t count)
{
	static void *alive[ALIVE];
	uint64_t start = 0;
	uint8_t *data;
	uint32_t i;

	memset(alive, 0, sizeof(alive));
	for (i = 0; i < ALIVE + count; i++) {
		if (i == ALIVE)
			start = bench_now();
		if (alive[i % ALIVE])
			a->free(a, alive[i % ALIVE]);
		alive[i % ALIVE] = a->alloc(a, sizes[i % SIZES], &data);
		if (!alive[i % ALIVE])
			bench_die(a->name, ENOMEM);
		*data = (uint8_t)i;
	}
	start = bench_now() - start;
	for (i = 0; i < ALIVE; i++)
		a->free(a, alive[i]);
	return (double)start / count;
}

struct pass {
	struct allocator *a;
	int cpu;
	uint32_t count;
	struct {
		void *handle;
		uint8_t *data;
	} slot[RING];
	_Alignas(64) _Atomic uint32_t head;
	_Alignas(64) _Atomic uint32_t tail;
	uint64_t sum;
};

/* On a machine of one's own a spin is short; on a busy one the other side may not be running. */
static void wait_a_little(uint32_t *spins)
{
	if (++*spins % 4096)
		bench_relax();
	else
		sched_yield();
}

static void *consume(void *arg)
{
	struct pass *p = arg;
	uint32_t spins = 0;

	bench_pin(p->cpu);
	for (uint32_t tail = 0; tail < p->count; tail++) {
		while (tail == atomic_load_explicit(&p->head, memory_order_acquire))
			wait_a_little(&spins);
		p->sum += *p->slot[tail % RING].data;
		p->a->free_elsewhere(p->a, p->slot[tail % RING].handle);
		atomic_store_explicit(&p->tail, tail + 1, memory_order_release);
	}
	return NULL;
}

/* ns for a block that is taken on this core and freed on the other one */
static double on_two_cores(const struct bench *b, struct allocator *a, uint32_t count)
{
	static struct pass p;
	pthread_t thread;
	uint64_t start;
	uint32_t head, spins = 0;

	memset(&p, 0, sizeof(p));
	p.a = a;
	p.cpu = b->cpu_app;
	p.count = count;
	if (pthread_create(&thread, NULL, consume, &p))
		bench_die("thread", EAGAIN);
	start = bench_now();
	for (head = 0; head < count; head++) {
		while (head - atomic_load_explicit(&p.tail, memory_order_acquire) == RING) {
			a->drain(a);
			wait_a_little(&spins);
		}
		if (head % 32 == 0)
			a->drain(a);
		while (!(p.slot[head % RING].handle =
				 a->alloc(a, sizes[head % SIZES], &p.slot[head % RING].data)))
			a->drain(a);
		*p.slot[head % RING].data = (uint8_t)head;
		atomic_store_explicit(&p.head, head + 1, memory_order_release);
	}
	pthread_join(thread, NULL);
	start = bench_now() - start;
	a->drain(a);
	return (double)start / count;
}

static void compare(struct bench *b, struct allocator *ours, struct allocator *rival,
		    const char *name, bool two)
{
	struct bench_line l = {.name = name,
			       .unit = "ns",
			       .rival = rival->name,
			       .measure = BENCH_RATIO,
			       .sense = BENCH_NO_BAR};
	struct bench_line *lines[] = {&l};
	uint32_t count = b->smoke ? 20000 : 1000000;
	double x = 0, y;

	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		if (round % 2 == 0)
			x = two ? on_two_cores(b, ours, count) : on_one_core(ours, count);
		y = two ? on_two_cores(b, rival, count) : on_one_core(rival, count);
		if (round % 2)
			x = two ? on_two_cores(b, ours, count) : on_one_core(ours, count);
		bench_pairs_add(&l.pairs, x, y);
	}
	bench_report(b, &l);
}

static void mixes(struct bench *b)
{
	static const struct {
		const char *name, *library, *prefix, *one, *two;
	} heaps[] = {
		{"malloc (glibc)", NULL, "", "mix_one_core_malloc", "mix_two_cores_malloc"},
		{"jemalloc", "libjemalloc.so.2", "", "mix_one_core_jemalloc",
		 "mix_two_cores_jemalloc"},
		{"mimalloc", "libmimalloc.so.2", "mi_", "mix_one_core_mimalloc",
		 "mix_two_cores_mimalloc"},
	};
	static struct allocator ours, rival;

	pool_make(&ours, 1ull << 30);
	for (size_t i = 0; i < sizeof(heaps) / sizeof(heaps[0]); i++) {
		bool here = heap_make(&rival, heaps[i].name, heaps[i].library, heaps[i].prefix);

		for (int two = 0; two < 2; two++) {
			const char *name = two ? heaps[i].two : heaps[i].one;

			if (!bench_wants(b, name))
				continue;
			if (!here)
				bench_skip(b, name, "its library is not here");
			else if (two && b->cpu_app < 0)
				bench_skip(b, name, "one processor only");
			else
				compare(b, &ours, &rival, name, two);
		}
	}
	fixed_make(&rival, MIX_MAX, 2 * ALIVE);
	if (bench_wants(b, "mix_one_core_fixed"))
		compare(b, &ours, &rival, "mix_one_core_fixed", false);
	if (bench_wants(b, "mix_two_cores_fixed") && b->cpu_app >= 0)
		compare(b, &ours, &rival, "mix_two_cores_fixed", true);
	fixed_unmake(&rival, MIX_MAX, 2 * ALIVE);
	pool_unmake(&ours);
}

/* ---------------------------------------------------------------- one block */

static double p50_of_pairs(const struct bench *b, struct allocator *a, uint32_t size)
{
	uint32_t runs = b->smoke ? 200 : 20000, r, i;
	struct bench_samples s;
	double result;
	uint8_t *data;

	bench_samples_init(&s, runs);
	for (r = 0; r < runs; r++) {
		uint64_t start = bench_now();

		for (i = 0; i < RUN; i++) {
			void *handle = a->alloc(a, size, &data);

			if (!handle)
				bench_die(a->name, ENOMEM);
			*(volatile uint8_t *)data = (uint8_t)i;
			a->free(a, handle);
		}
		bench_samples_add(&s, bench_now() - start);
	}
	result = bench_percentile(&s, 0.5) / RUN;
	bench_samples_fini(&s);
	return result;
}

static void one_block(struct bench *b, uint32_t size, const char *name)
{
	static struct allocator ours, fixed;
	struct bench_line l = {.name = name,
			       .unit = "ns",
			       .rival = "fixed mempool",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 20};
	struct bench_line *lines[] = {&l};
	double x;

	if (!bench_wants(b, name))
		return;
	pool_make(&ours, 64u << 20);
	fixed_make(&fixed, size, 16);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		x = p50_of_pairs(b, &ours, size);
		bench_pairs_add(&l.pairs, x, p50_of_pairs(b, &fixed, size));
	}
	bench_report(b, &l);
	fixed_unmake(&fixed, size, 16);
	pool_unmake(&ours);
}

/* Blocks of the mix until the pool is full, then one in twenty is given back. Return: how many there are. */
static uint32_t fill(struct allocator *a, void **blocks, uint32_t max)
{
	uint32_t n = 0, i, kept = 0;
	uint64_t s = 5;
	uint8_t *data;

	while (n < max && (blocks[n] = a->alloc(a, sizes[n % SIZES], &data)))
		n++;
	for (i = 0; i < n; i++) {
		if (random_next(&s) % 20)
			blocks[kept++] = blocks[i];
		else
			a->free(a, blocks[i]);
	}
	return kept;
}

static void flat(struct bench *b, uint32_t size, const char *name)
{
	static struct allocator full, empty;
	struct bench_line l = {.name = name,
			       .unit = "ns",
			       .rival = "the same in an empty pool",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_MOST,
			       .bar = 1.25};
	struct bench_line *lines[] = {&l};
	uint32_t max = 1u << 20, n;
	void **blocks;
	double x;

	if (!bench_wants(b, name))
		return;
	blocks = malloc(max * sizeof(*blocks));
	if (!blocks)
		bench_die("blocks", ENOMEM);
	pool_make(&full, 256u << 20);
	pool_make(&empty, 256u << 20);
	n = fill(&full, blocks, max);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		x = p50_of_pairs(b, &full, size);
		bench_pairs_add(&l.pairs, x, p50_of_pairs(b, &empty, size));
	}
	bench_report(b, &l);
	while (n)
		full.free(&full, blocks[--n]);
	free(blocks);
	pool_unmake(&full);
	pool_unmake(&empty);
}

/* -------------------------------------------------------------- registration */

static double register_once(struct io_uring *ring, void *data, uint32_t size)
{
	struct iovec iov = {.iov_base = data, .iov_len = size};
	uint64_t start = bench_now();
	int rc = io_uring_register_buffers(ring, &iov, 1);

	start = bench_now() - start;
	if (rc)
		return -1;
	io_uring_unregister_buffers(ring);
	return (double)start;
}

static void registration(struct bench *b, uint32_t size, const char *name)
{
	static struct allocator ours;
	struct bench_line l = {.name = name,
			       .unit = "ns",
			       .rival = "io_uring_register_buffers",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_MOST,
			       .bar = 0.1};
	struct bench_line *lines[] = {&l};
	struct io_uring ring;
	struct thmq_buf *block;
	double y = 0;

	if (!bench_wants(b, name))
		return;
	if (io_uring_queue_init(8, &ring, 0)) {
		bench_skip(b, name, "io_uring is refused here");
		return;
	}
	pool_make(&ours, 64u << 20);
	if (thmq_buf_alloc(ours.pool, size, THMQ_PURPOSE_GENERAL, &block))
		bench_die("pool", ENOBUFS);
	memset(block->data, 1, size); /* what is measured is not the first touch */
	for (unsigned round = 0; y >= 0 && bench_more(b, round, lines, 1); round++) {
		y = register_once(&ring, block->data, size);
		for (int i = 0; y >= 0 && i < 8; i++) {
			double again = register_once(&ring, block->data, size);

			y = again < y ? again : y;
		}
		if (y >= 0)
			bench_pairs_add(&l.pairs, p50_of_pairs(b, &ours, size), y);
	}
	if (y >= 0)
		bench_report(b, &l);
	else
		bench_skip(b, name, "the limit of locked memory is too low");
	thmq_buf_unref(block);
	pool_unmake(&ours);
	io_uring_queue_exit(&ring);
}

/* -------------------------------------------------------------- fragmentation */

#define POOL_BYTES (256u << 20)
#define TRACE 1048576u
#define SLOTS 65536u

/* Recorded once, then played again and again: which place is freed, and what is taken in its stead. */
static struct step {
	uint32_t slot, size;
} trace[TRACE];

static void record(void)
{
	uint64_t s = 77;

	for (uint32_t i = 0; i < TRACE; i++) {
		/* most places change often, some seldom: short and long lives beside one another */
		uint32_t bits = 8 + (uint32_t)(random_next(&s) % 9);

		trace[i].slot = (uint32_t)(random_next(&s) % (1u << bits));
		trace[i].size = sizes[random_next(&s) % SIZES];
	}
}

/* How it stands after so many operations. */
struct age {
	uint64_t operations;
	double waste;	/* share of what is used */
	double largest; /* bytes */
};

static struct age age_of(struct thmq_pool *pool, uint64_t operations, uint64_t used, uint64_t asked)
{
	struct thmq_pool_stats st = {.size = sizeof(st)};

	thmq_pool_tidy(pool);
	thmq_pool_stats(pool, &st);
	return (struct age){operations, used ? (double)(used - asked) / (double)used : 0,
			    (double)st.largest_free};
}

#define AGES 16u /* a thousand operations, three thousand, … */

/* Return: the ages noted, the last of which is after @operations. */
static uint32_t play(struct thmq_pool *pool, uint64_t operations, struct age *ret_ages)
{
	static struct thmq_buf *held[SLOTS];
	uint64_t asked = 0, used = 0, i, next = 1000;
	uint32_t count = 0;

	memset(held, 0, sizeof(held));
	for (i = 0; i < operations; i++) {
		if (i == next && count < AGES - 1) {
			ret_ages[count++] = age_of(pool, i, used, asked);
			next = count % 2 ? 3 * next : next / 3 * 10;
		}
		const struct step *step = &trace[i % TRACE];
		struct thmq_buf **b = &held[step->slot];

		if (*b) {
			used -= (*b)->size;
			asked -= (*b)->user;
			thmq_buf_unref(*b);
			*b = NULL;
		} else if (used < POOL_BYTES / 2 &&
			   thmq_buf_alloc(pool, step->size, THMQ_PURPOSE_GENERAL, b) == 0) {
			(*b)->user = step->size;
			used += (*b)->size;
			asked += step->size;
		}
	}
	ret_ages[count++] = age_of(pool, operations, used, asked);
	for (i = 0; i < SLOTS; i++)
		if (held[i])
			thmq_buf_unref(held[i]);
	return count;
}

static void fragmentation(struct bench *b)
{
	struct bench_line largest = {.name = "fragmentation_largest_free",
				     .unit = "KiB",
				     .rival = "the largest block there is",
				     .measure = BENCH_RATIO,
				     .sense = BENCH_NO_BAR};
	struct bench_line waste = {.name = "fragmentation_waste",
				   .unit = "share",
				   .rival = "a quarter",
				   .measure = BENCH_VALUE,
				   .sense = BENCH_AT_MOST,
				   .bar = 0.27};
	uint64_t operations = b->smoke ? 10000000u : 1000000000u, start;
	static struct allocator ours;
	struct age ages[AGES];
	uint32_t count, i;
	size_t at;

	if (!bench_wants(b, "fragmentation"))
		return;
	record();
	pool_make(&ours, POOL_BYTES);
	start = bench_now();
	count = play(ours.pool, operations, ages);
	start = bench_now() - start;
	at = (size_t)snprintf(largest.detail, sizeof(largest.detail),
			      "\"operations\":%llu,\"ns_per_operation\":%.1f,\"ages\":[",
			      (unsigned long long)operations, (double)start / (double)operations);
	/* [operations, share wasted, KiB of the largest free block] */
	for (i = 0; i < count; i++)
		at += (size_t)snprintf(largest.detail + at, sizeof(largest.detail) - at,
				       "%s[%llu,%.4f,%.0f]", i ? "," : "",
				       (unsigned long long)ages[i].operations, ages[i].waste,
				       ages[i].largest / 1024);
	snprintf(largest.detail + at, sizeof(largest.detail) - at, "]");
	/* the same from the same trace each time: one run is all there is */
	bench_pairs_add(&largest.pairs, ages[count - 1].largest / 1024, THMQ_BLOCK_MAX / 1024);
	bench_pairs_add(&waste.pairs, ages[count - 1].waste, 0.25);
	bench_report(b, &largest);
	bench_report(b, &waste);
	pool_unmake(&ours);
}

/* jemalloc keeps its caches in the static part of a thread's storage, of which a library that is loaded late gets little
 * unless that is said before the program begins (glibc's tunables(7)). */
static void make_room_for_late_libraries(char **argv)
{
	if (getenv("GLIBC_TUNABLES"))
		return;
	setenv("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=16384", 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	struct bench b;

	make_room_for_late_libraries(argv);
	bench_init(&b, argc, argv, "memory");
	draw_sizes();
	bench_pin(b.cpu_core);
	one_block(&b, 64, "alloc_free_64");
	one_block(&b, 1024, "alloc_free_1k");
	one_block(&b, 65536, "alloc_free_64k");
	flat(&b, 64, "flat_95_64");
	flat(&b, 4096, "flat_95_4k");
	mixes(&b);
	registration(&b, 4096, "registration_4k");
	registration(&b, 65536, "registration_64k");
	registration(&b, 1u << 20, "registration_1m");
	registration(&b, 8u << 20, "registration_8m");
	fragmentation(&b);
	bench_unpin();
	return bench_end(&b);
}
