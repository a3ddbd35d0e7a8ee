/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slabs.c - the global pool: address space reserved once, slabs taken from the system one by one and lent to the
 * core-local pools. A slab never moves and is given back to the system only when the environment closes.
 */
#include <linux/mman.h>
#include <pthread.h>
#include <sys/mman.h>

#include "internal.h"

int thmqi_slabs_open(uint64_t limit, struct thmqi_slabs **ret_slabs)
{
	uint64_t count = (limit + THMQI_SLAB_BYTES - 1) / THMQI_SLAB_BYTES;
	struct thmqi_slabs *s;
	uint8_t *base;

	if (count == 0 || count > SLABS_MAX)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	/* one slab more, so that the first one can be aligned to its size */
	s->reserved = (count + 1) * THMQI_SLAB_BYTES;
	base = mmap(NULL, s->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		    0);
	if (base == MAP_FAILED) {
		free(s);
		return -ENOMEM;
	}
	s->map = base;
	s->base = (uint8_t *)THMQI_ALIGN_UP((uintptr_t)base, (uintptr_t)THMQI_SLAB_BYTES);
	s->limit = (uint32_t)count;
	atomic_init(&s->left, s->limit);
	pthread_mutex_init(&s->lock, NULL);
	*ret_slabs = s;
	return 0;
}

void thmqi_slabs_close(struct thmqi_slabs *s)
{
	uint8_t *end = s->map + s->reserved;

	if (s->lost) {
		munmap(s->map, (size_t)(s->lost - s->map));
		munmap(s->lost + THMQI_SLAB_BYTES, (size_t)(end - s->lost) - THMQI_SLAB_BYTES);
	} else {
		munmap(s->map, s->reserved);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}

#define HUGE (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB)

/*
 * Their size is named: where the system's default is 1 GiB, the kernel would round a slab up to that and map over its
 * neighbours.
 */
static bool huge_pages_to_spare(void)
{
	void *p = mmap(NULL, THMQI_SLAB_BYTES, PROT_READ | PROT_WRITE, HUGE, -1, 0);

	if (p == MAP_FAILED)
		return false;
	munmap(p, THMQI_SLAB_BYTES);
	return true;
}

/* At @at or not at all; never over another mapping. A kernel that does not know the flag takes @at for a hint. */
static bool map_at(uint8_t *at, int protection, int flags)
{
	void *p = mmap(at, THMQI_SLAB_BYTES, protection, flags | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED && p != at)
		munmap(p, THMQI_SLAB_BYTES);
	return p == at;
}

/*
 * Mapping huge pages over what is reserved may fail and leave a hole all the same, which the next mapping of any other
 * thread falls into: so the hole is made openly, and whatever it holds after a failure is not ours any more.
 * Return: 1 taken; 0 none to spare, and @at is reserved as before; -1 @at is lost, once at most.
 */
static int take_huge(struct thmqi_slabs *s, uint8_t *at)
{
	if (s->plain || !huge_pages_to_spare())
		return 0;
	munmap(at, THMQI_SLAB_BYTES);
	if (map_at(at, PROT_READ | PROT_WRITE, HUGE)) {
		s->huge = true;
		return 1;
	}
	s->plain = true;
	if (map_at(at, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE))
		return 0;
	s->lost = at;
	return -1;
}

/* Explicit huge pages where the system has them to spare, else transparent ones by advice, else plain pages. */
static int take_pages(struct thmqi_slabs *s, uint8_t *at)
{
	int rc = take_huge(s, at);

	if (rc)
		return rc;
	if (mprotect(at, THMQI_SLAB_BYTES, PROT_READ | PROT_WRITE) != 0)
		return 0;
	madvise(at, THMQI_SLAB_BYTES, MADV_HUGEPAGE);
	return 1;
}

#define LOCK_PIECE_BYTES ((size_t)2 << 20) /* a huge page */

/* All of it, or under a limit of locked memory as much as fits. It is undone with the mapping. */
static void lock_pages(struct thmqi_slabs *s, const uint8_t *at)
{
	size_t done = 0;

	if (mlock(at, THMQI_SLAB_BYTES) == 0)
		done = THMQI_SLAB_BYTES;
	while (done < THMQI_SLAB_BYTES && mlock(at + done, LOCK_PIECE_BYTES) == 0)
		done += LOCK_PIECE_BYTES;
	s->locked_bytes += done;
}

/* The next slab of the reserved space. */
static uint8_t *take_fresh(struct thmqi_slabs *s)
{
	uint8_t *at;
	int rc;

	while (s->count < s->limit) {
		at = s->base + (uint64_t)s->count * THMQI_SLAB_BYTES;
		rc = take_pages(s, at);
		if (!rc)
			return NULL;
		s->count++;
		if (rc > 0 && s->lock_pages)
			lock_pages(s, at);
		if (rc > 0)
			return at;
		atomic_fetch_sub_explicit(&s->left, 1, memory_order_relaxed);
	}
	return NULL;
}

uint8_t *thmqi_slabs_take(struct thmqi_slabs *s)
{
	uint8_t *at = NULL;

	/* a full pool is asked again and again: no lock then */
	if (!atomic_load_explicit(&s->left, memory_order_relaxed))
		return NULL;
	pthread_mutex_lock(&s->lock);
	if (s->free_count) {
		at = s->free[--s->free_count];
	} else {
		at = take_fresh(s);
	}
	if (at)
		atomic_fetch_sub_explicit(&s->left, 1, memory_order_relaxed);
	pthread_mutex_unlock(&s->lock);
	return at;
}

void thmqi_slabs_give(struct thmqi_slabs *s, uint8_t *slab)
{
	pthread_mutex_lock(&s->lock);
	s->free[s->free_count++] = slab;
	atomic_fetch_add_explicit(&s->left, 1, memory_order_relaxed);
	pthread_mutex_unlock(&s->lock);
}

void thmqi_slabs_lock(struct thmqi_slabs *s)
{
	pthread_mutex_lock(&s->lock);
	s->lock_pages = true;
	pthread_mutex_unlock(&s->lock);
}

void thmqi_slabs_note(struct thmqi_slabs *s, bool registered)
{
	pthread_mutex_lock(&s->lock);
	if (registered)
		s->registrations++;
	else
		s->registration_failures++;
	pthread_mutex_unlock(&s->lock);
}

void thmqi_slabs_stats(struct thmqi_slabs *s, struct thmqi_slabs_stats *ret)
{
	pthread_mutex_lock(&s->lock);
	ret->bytes = (uint64_t)(s->count - (s->lost != NULL)) * THMQI_SLAB_BYTES;
	ret->limit = (uint64_t)s->limit * THMQI_SLAB_BYTES;
	ret->slabs = s->count - (s->lost != NULL);
	ret->huge = s->huge;
	ret->locked_bytes = s->locked_bytes;
	ret->registrations = s->registrations;
	ret->registration_failures = s->registration_failures;
	pthread_mutex_unlock(&s->lock);
}
