/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept_memory.c - large blocks that are given back are given out again, where a simulation opens logs for one seed after another: each open reads
 * through a buffer of megabytes, and pages that the kernel zeroes anew every time cost more than all that the library does. Linked with --wrap; not
 * under sanitizers, which look after blocks that were given back.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define BLOCK 4096u
#define LARGE (64u << 10)
#define KEPT_MAX 64u

void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *p);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __wrap_free(void *p);

/* One thread. The bytes of a block that is out are known to nobody else, so those that are have a place here. */
static struct {
	void *p;
	size_t bytes;
	int out;
} blocks[KEPT_MAX];

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	uint32_t i, place = KEPT_MAX;
	void *p;

	if (alignment != BLOCK || bytes < LARGE)
		return __real_aligned_alloc(alignment, bytes);
	for (i = 0; i < KEPT_MAX; i++) {
		if (blocks[i].p && !blocks[i].out && blocks[i].bytes == bytes) {
			blocks[i].out = 1;
			return blocks[i].p;
		}
		if (!blocks[i].p)
			place = i;
	}
	p = __real_aligned_alloc(alignment, bytes);
	if (p && place < KEPT_MAX) {
		blocks[place].p = p;
		blocks[place].bytes = bytes;
		blocks[place].out = 1;
	}
	return p;
}

void __wrap_free(void *p)
{
	uint32_t i;

	for (i = 0; p && (uintptr_t)p % BLOCK == 0 && i < KEPT_MAX; i++)
		if (blocks[i].p == p) {
			blocks[i].out = 0;
			return;
		}
	__real_free(p);
}
