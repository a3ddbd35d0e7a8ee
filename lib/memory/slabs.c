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
	munmap(s->map, s->reserved);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/*
 * Explicit huge pages where the system has them to spare, else transparent ones by advice, else plain pages. Their size
 * is named: where the system's default is 1 GiB, the kernel would round a slab up to that and map over its neighbours.
 */
static bool take_pages(struct thmqi_slabs *s, uint8_t *at)
{
	if (mmap(at, THMQI_SLAB_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB | MAP_HUGE_2MB, -1,
		 0) != MAP_FAILED) {
		s->huge = true;
		return true;
	}
	if (mmap(at, THMQI_SLAB_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return false;
	madvise(at, THMQI_SLAB_BYTES, MADV_HUGEPAGE);
	return true;
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
	} else if (s->count < s->limit) {
		at = s->base + (uint64_t)s->count * THMQI_SLAB_BYTES;
		if (take_pages(s, at))
			s->count++;
		else
			at = NULL;
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
	ret->bytes = (uint64_t)s->count * THMQI_SLAB_BYTES;
	ret->limit = (uint64_t)s->limit * THMQI_SLAB_BYTES;
	ret->slabs = s->count;
	ret->huge = s->huge;
	ret->registrations = s->registrations;
	ret->registration_failures = s->registration_failures;
	pthread_mutex_unlock(&s->lock);
}
