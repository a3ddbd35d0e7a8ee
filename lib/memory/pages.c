/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages.c - memory for the place of a slab: giant, huge, transparent or plain pages, a memfd for what a peer may map, near
 * a NUMA node, locked and touched as asked for. Knows nothing of blocks.
 */
#include <linux/memfd.h>
#include <linux/mman.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file_limit.h"
#include "internal.h"
#include "topology/topology.h"

#define GIANT_BYTES ((size_t)1 << 30)
#define GIANT_SLABS (uint32_t)(GIANT_BYTES / THMQ_SLAB_BYTES)
#define RESERVED (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#define HUGE_PAGES (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB)
#define GIANT_PAGES (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_1GB)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static uint8_t *address_of(const struct thmq_slabs *s, uint32_t index)
{
	return s->base + (size_t)index * THMQ_SLAB_BYTES;
}

/* At @at or not at all; never over another mapping. A kernel that does not know the flag takes @at for a hint. */
static bool reserve_again(uint8_t *at, size_t bytes)
{
	void *p = mmap(at, bytes, PROT_NONE, RESERVED | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED && p != at)
		munmap(p, bytes);
	return p == at;
}

/*
 * Memory is mapped somewhere first, and moved over what is reserved when it is there: mapping huge pages over it may
 * fail and leave a hole all the same, which the next mapping of any other thread falls into. Should the move fail, what is at
 * @at may not be ours any more. The size of huge pages is named: where the system's default is 1 GiB, the kernel would
 * round a slab up to that.
 * Return: 1 taken; 0 not to be had, and @at is reserved as before; -1 @at is lost.
 */
static int replace(uint8_t *at, size_t bytes, int flags, int fd)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		return 0;
	if (mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at)
		return 1;
	munmap(p, bytes);
	return reserve_again(at, bytes) ? 0 : -1;
}

/* A giant page lies under many places: all of them at once, or none. */
static int map_giant(struct thmq_slabs *s, uint32_t index)
{
	uint32_t first = index / GIANT_SLABS * GIANT_SLABS, i;
	int rc;

	if ((uintptr_t)s->base % GIANT_BYTES || first + GIANT_SLABS > s->limit)
		return 0;
	for (i = first; i < first + GIANT_SLABS; i++)
		if (s->place[i] != PLACE_RESERVED)
			return 0;
	rc = replace(address_of(s, first), GIANT_BYTES, GIANT_PAGES, -1);
	for (i = first; rc && i < first + GIANT_SLABS; i++) {
		s->place[i] = rc > 0 ? PLACE_MAPPED : PLACE_LOST;
		if (rc < 0 && i != index)
			atomic_fetch_sub_explicit(&s->left, 1, memory_order_relaxed);
	}
	return rc;
}

static int map_transparent(uint32_t best, uint8_t *at, uint32_t *ret_pages)
{
	if (mprotect(at, THMQ_SLAB_BYTES, PROT_READ | PROT_WRITE) != 0)
		return 0;
	*ret_pages = THMQ_PAGES_PLAIN;
	if (best <= THMQ_PAGES_TRANSPARENT && madvise(at, THMQ_SLAB_BYTES, MADV_HUGEPAGE) == 0)
		*ret_pages = THMQ_PAGES_TRANSPARENT;
	return 1;
}

/* @best: enum thmq_pages, the first that is tried */
static int map_private(struct thmq_slabs *s, uint32_t index, uint32_t best, uint32_t *ret_pages)
{
	uint8_t *at = address_of(s, index);
	int rc = 0;

	*ret_pages = THMQ_PAGES_GIANT;
	if (s->place[index] == PLACE_MAPPED)
		return 1;
	if (best == THMQ_PAGES_GIANT) {
		rc = map_giant(s, index);
		if (rc)
			return rc;
		/* a part of the limit that is no whole page of 1 GiB says nothing of the others */
	}
	*ret_pages = THMQ_PAGES_HUGE;
	if (best <= THMQ_PAGES_HUGE) {
		rc = replace(at, THMQ_SLAB_BYTES, HUGE_PAGES, -1);
		if (rc)
			return rc;
	}
	return map_transparent(best, at, ret_pages);
}

/* -------------------------------------------------------------- a peer may map it */

/* Its size is sealed: a peer that cut it would make our own accesses trap. */
static int memfd(unsigned int huge)
{
	int fd = memfd_create("thundermq-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge), rc;
	sigset_t old;

	if (fd < 0)
		return fd;
	thmqi_file_limit_hold(&old);
	rc = ftruncate(fd, THMQ_SLAB_BYTES) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 ? -errno : 0;
	if (thmqi_file_limit_let_go(&old, rc) == 0)
		return fd;
	close(fd);
	return -1;
}

static int map_memfd(uint8_t *at, unsigned int huge, int *ret_fd)
{
	int fd = memfd(huge), rc;

	if (fd < 0)
		return 0;
	rc = replace(at, THMQ_SLAB_BYTES, MAP_SHARED, fd);
	if (rc > 0)
		*ret_fd = fd;
	else
		close(fd);
	return rc;
}

static int map_shared(struct thmq_slabs *s, uint32_t index, uint32_t best, uint32_t *ret_pages,
		      int *ret_fd)
{
	uint8_t *at = address_of(s, index);
	int rc = 0;

	if (s->place[index] == PLACE_MAPPED)
		return 0; /* of a page that others have a part of */
	*ret_pages = THMQ_PAGES_HUGE;
	if (best <= THMQ_PAGES_HUGE)
		rc = map_memfd(at, MFD_HUGETLB | MFD_HUGE_2MB, ret_fd);
	if (rc)
		return rc;
	rc = map_memfd(at, 0, ret_fd);
	*ret_pages = THMQ_PAGES_PLAIN;
	if (rc > 0 && best <= THMQ_PAGES_TRANSPARENT &&
	    madvise(at, THMQ_SLAB_BYTES, MADV_HUGEPAGE) == 0)
		*ret_pages = THMQ_PAGES_TRANSPARENT;
	return rc;
}

/* ------------------------------------------------------------------ near, locked, touched */

#define LOCK_PIECE_BYTES ((size_t)2 << 20) /* a huge page */

/* All of it, or under a limit of locked memory as much as fits. It is undone with the mapping. */
static size_t lock_pages(const uint8_t *at)
{
	size_t done = 0;

	if (mlock(at, THMQ_SLAB_BYTES) == 0)
		done = THMQ_SLAB_BYTES;
	while (done < THMQ_SLAB_BYTES && mlock(at + done, LOCK_PIECE_BYTES) == 0)
		done += LOCK_PIECE_BYTES;
	return done;
}

static void touch(uint8_t *at)
{
	size_t i;

	if (madvise(at, THMQ_SLAB_BYTES, MADV_POPULATE_WRITE) == 0 || errno != EINVAL)
		return; /* what memory there is is taken; the rest tells when it is used */
	for (i = 0; i < THMQ_SLAB_BYTES; i += PAGE_BYTES)
		*(volatile uint8_t *)(at + i) = 0;
}

static int map(struct thmq_slabs *s, struct slab *slab)
{
	struct thmq_slab *info = &slab->info;
	int rc;

	info->base = address_of(s, info->index);
	info->bytes = THMQ_SLAB_BYTES;
	info->fd = -1;
	rc = info->domain ? map_shared(s, info->index, s->pages, &info->pages, &info->fd)
			  : map_private(s, info->index, s->pages, &info->pages);
	/* before the first touch; memory of another node is better than none */
	if (rc > 0 && slab->node >= 0 && s->topology)
		thmqi_topology_bind_memory(s->topology, info->base, THMQ_SLAB_BYTES,
					   (uint32_t)slab->node);
	return rc;
}

/*
 * A huge page that was promised may still be refused when it is touched, by a control group or a node that has none left: the
 * process is killed by SIGBUS then. So all of them are touched here, where the kernel says it in words.
 */
static bool is_backed(const struct thmq_slab *info)
{
	return info->pages != THMQ_PAGES_HUGE ||
	       madvise(info->base, THMQ_SLAB_BYTES, MADV_POPULATE_WRITE) == 0 || errno == EINVAL;
}

int thmqi_pages_map(struct thmq_slabs *s, struct slab *slab)
{
	struct thmq_slab *info = &slab->info;
	int rc = map(s, slab);

	if (rc > 0 && !is_backed(info)) {
		if (!thmqi_pages_unmap(s, info))
			return -1;
		s->pages = THMQ_PAGES_TRANSPARENT; /* from now on */
		rc = map(s, slab);
	}
	if (rc <= 0)
		return rc;
	/* A child has no use for it before it calls execve(2). With it, fork(2) would copy what devices may be writing to, and
	 * the parent would pay for a page fault on each page afterwards. */
	madvise(info->base, THMQ_SLAB_BYTES, MADV_DONTFORK);
	if (s->lock_pages)
		slab->locked_bytes = lock_pages(info->base);
	if (s->flags & THMQ_SLABS_PREFAULT)
		touch(info->base);
	return 1;
}

/* Address space again. A part of a giant page cannot be given back alone. */
bool thmqi_pages_unmap(struct thmq_slabs *s, const struct thmq_slab *info)
{
	if (info->pages == THMQ_PAGES_GIANT)
		return false;
	if (mmap(info->base, THMQ_SLAB_BYTES, PROT_NONE, RESERVED | MAP_FIXED, -1, 0) == MAP_FAILED)
		return false;
	if (info->fd >= 0)
		close(info->fd);
	return true;
}

/* ------------------------------------------------------------------- descriptors */

#define DESCRIPTORS_BYTES ((SLAB_PAGES + SLAB_UNITS) * sizeof(struct thmq_buf))

/* Address space for all that there could be; memory where there are some. All zero: nothing begins anywhere. */
bool thmqi_descriptors_map(struct slab *slab)
{
	void *p = mmap(NULL, DESCRIPTORS_BYTES, PROT_READ | PROT_WRITE, RESERVED, -1, 0);

	if (p == MAP_FAILED)
		return false;
	slab->pages = p;
	slab->smalls = slab->pages + SLAB_PAGES;
	return true;
}

void thmqi_descriptors_clear(struct slab *slab)
{
	madvise(slab->pages, DESCRIPTORS_BYTES, MADV_DONTNEED);
}

void thmqi_descriptors_unmap(struct slab *slab)
{
	munmap(slab->pages, DESCRIPTORS_BYTES);
}
