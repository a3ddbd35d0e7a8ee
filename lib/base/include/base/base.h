/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base.h - what every room may use: compiler helpers, lists, the clock table, randomness, checksums,
 * error texts, hash maps. Knows nothing of queues, disks or networks.
 */
#ifndef THMQI_BASE_H
#define THMQI_BASE_H

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <thundermq/thundermq.h>

#define THMQI_CACHELINE 64
#define THMQI_BLOCK 4096u /* log block: unit of writes and of batch sizes */

#define thmqi_likely(x) __builtin_expect(!!(x), 1)
#define thmqi_unlikely(x) __builtin_expect(!!(x), 0)
#define thmqi_container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define THMQI_ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define THMQI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define THMQI_MAX(a, b) ((a) > (b) ? (a) : (b))
#define THMQI_ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Asserts are for facts about our own state, never for bytes from outside. Debug builds trap; others do
 * not look, since the library never ends its host: what could hurt there needs an error path as well. */
#if defined(THMQI_DEBUG)
#define thmqi_assert(x) ((x) ? (void)0 : __builtin_trap())
#else
#define thmqi_assert(x) ((void)sizeof(x))
#endif

/* The line at @at will be written soon: ask the other cores for it now. Any address. */
static inline void thmqi_prefetch_write(const void *at)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)at)); /* the builtin asks for reading on the baseline */
#else
	__builtin_prefetch(at, 1);
#endif
}

static inline void thmqi_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("isb" ::: "memory");
#endif
}

static inline bool thmqi_is_pow2(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}

static inline uint64_t thmqi_pow2_up(uint64_t x)
{
	return x <= 1 ? 1 : 1ull << (64 - __builtin_clzll(x - 1));
}

/* ------------------------------------------------------------------- lists */

struct thmqi_list {
	struct thmqi_list *next, *prev;
};

static inline void thmqi_list_init(struct thmqi_list *l)
{
	l->next = l->prev = l;
}
static inline bool thmqi_list_empty(const struct thmqi_list *l)
{
	return l->next == l;
}
static inline void thmqi_list_add_tail(struct thmqi_list *head, struct thmqi_list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}
static inline void thmqi_list_del(struct thmqi_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	n->next = n->prev = n;
}
#define thmqi_list_first(head, type, member) thmqi_container((head)->next, type, member)
#define thmqi_list_each(it, head) for ((it) = (head)->next; (it) != (head); (it) = (it)->next)
#define thmqi_list_each_safe(it, tmp, head)                                                        \
	for ((it) = (head)->next, (tmp) = (it)->next; (it) != (head);                              \
	     (it) = (tmp), (tmp) = (it)->next)

/* ------------------------------------------------------------ clock, chance */

/* Time as a parameter: the real one, or a simulator's. Both calls are cheap and may come from any thread. */
struct thmqi_clock {
	uint64_t (*now_ns)(void *ctx);  /* monotonic */
	uint64_t (*wall_ns)(void *ctx); /* since 1970 */
	void *ctx;
};
extern const struct thmqi_clock thmqi_clock_real;

/* Small fast generator (xoshiro256**, Blackman & Vigna 2018), seeded by splitmix64. Not for secrets. */
struct thmqi_prng {
	uint64_t s[4];
};
void thmqi_prng_seed(struct thmqi_prng *p, uint64_t seed);
uint64_t thmqi_prng_next(struct thmqi_prng *p);
uint64_t thmqi_prng_below(struct thmqi_prng *p, uint64_t bound); /* bound > 0 */
/* Bytes from the kernel's generator. */
int thmqi_random_bytes(void *buf, size_t len);

/* CRC32C (Castagnoli, RFC 3720): value of @data behind a checksummed prefix of value @crc; 0 begins. */
uint32_t thmqi_crc32c(uint32_t crc, const void *data, size_t len);
/* 64-bit hash for tables and partitioning (stable: it decides a key's partition for ever; see doc/format.md). */
uint64_t thmqi_hash64(const void *data, size_t len);
uint64_t thmqi_machine_id(void); /* the same in all processes of this machine until it boots again; 0: not known */

/* ------------------------------------------------------------- error texts */

/* Set the thread's text for thmq_errmsg() and return @error: "return thmqi_fail(-EINVAL, …)". */
int thmqi_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
/* How many texts the thread has set. Who finds it unchanged after a failure below him sets one himself: an old text would lie. */
uint32_t thmqi_fail_count(void);
/* A device, or somebody's share of it (quota), holds no more bytes: what is removed makes room. */
static inline bool thmqi_is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT;
}

/* Or this file may not grow (RLIMIT_FSIZE): what is stored already is as good as before. */
static inline bool thmqi_lacks_space(int error)
{
	return thmqi_is_full(error) || error == -EFBIG;
}

/* The file the text is kept in has thmq_errmsg(), thmq_strerror(), thmq_errname(), thmq_errclass(). */

/* ----------------------------------------------------------- sized options */

/*
 * Copy an options struct of the caller's size into ours: shorter ones are padded with zeros, longer ones
 * are taken if their excess is zero. @src NULL gives all zero. Both begin with uint32_t size.
 * Return: 0; -EINVAL size below 8; -E2BIG.
 */
int thmqi_opts_copy(void *dst, uint32_t dst_size, const void *src);
/* What is wrong, and the cure, for the text of whoever refuses them. */
const char *thmqi_opts_why(int rc);
/* All zero but for the size, which is that of the caller's struct. NULL, and a size that no struct has: nothing is written. */
void thmqi_opts_init(void *opts, uint32_t size);

/* The size that a caller gave of a struct to be filled: it was not set where it is less than the first fields, or more than any will have. */
static inline bool thmqi_size_is_wrong(uint32_t size)
{
	return size < 8 || size > 65536;
}

/* ------------------------------------------------------------------- maps */

/* Open addressing from a 64-bit key to a pointer. Grows by doubling (allocates on insert only). */
struct thmqi_map {
	struct thmqi_map_slot {
		uint64_t key;
		void *value; /* NULL: free */
	} * slots;
	uint32_t mask; /* slots - 1; 0 with slots NULL: empty */
	uint32_t count;
};
void thmqi_map_init(struct thmqi_map *m);
void thmqi_map_fini(struct thmqi_map *m);                     /* frees the table, not the values */
void *thmqi_map_get(const struct thmqi_map *m, uint64_t key); /* NULL if absent */
int thmqi_map_put(struct thmqi_map *m, uint64_t key,
		  void *value); /* replaces; value not NULL; 0 or -ENOMEM */
void *thmqi_map_remove(struct thmqi_map *m, uint64_t key); /* the value, or NULL */
void thmqi_map_prefetch(const struct thmqi_map *m, uint64_t key); /* so that a look-up a little later does not wait */
/* Iterate: for (uint32_t i = 0; (v = thmqi_map_next(m, &i)); ) ; no insert or remove meanwhile. */
void *thmqi_map_next(const struct thmqi_map *m, uint32_t *iter);

/* ------------------------------------------------------------- thread ids */

/* A number that names the calling thread among the living ones, never 0: where its thread-local memory is. Every call on a log
 * and every round of a core asks for it; in a shared library the address of a variable there would be a call each time. */
static inline uint64_t thmqi_thread_self(void)
{
#if defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
	return (uint64_t)(uintptr_t)__builtin_thread_pointer();
#else
	return (uint64_t)pthread_self();
#endif
#else
	return (uint64_t)pthread_self();
#endif
}

#endif
