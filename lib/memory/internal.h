/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the global pool and the core-local ones share. */
#ifndef THMQI_MEMORY_INTERNAL_H
#define THMQI_MEMORY_INTERNAL_H

#include <pthread.h>

#include "memory/memory.h"

#define SLABS_MAX 4096u

struct thmqi_slabs {
	pthread_mutex_t lock;
	uint8_t *map, *base;
	uint64_t reserved;
	uint32_t limit, count; /* slabs */
	bool huge;
	bool plain;    /* huge pages ran out: they are not tried any more */
	uint8_t *lost; /* a slab's place that another mapping got; NULL: none */
	bool lock_pages;
	uint64_t locked_bytes;
	uint32_t registrations, registration_failures;
	_Atomic uint32_t left; /* slabs that can still be taken */
	uint32_t free_count;
	uint8_t *free[SLABS_MAX]; /* given back by pools that closed */
};

uint8_t *thmqi_slabs_take(struct thmqi_slabs *s); /* NULL: the limit, or the system's */
void thmqi_slabs_give(struct thmqi_slabs *s, uint8_t *slab);
void thmqi_slabs_note(struct thmqi_slabs *s, bool registered);

#endif
