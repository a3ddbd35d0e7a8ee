/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handle.h - what every public handle begins with, so that a closed or foreign pointer is recognised.
 *
 * The struct of a closed handle stays readable (its resources are gone) until its environment closes or many more
 * have been closed: a call on it gets -EINVAL instead of undefined behaviour.
 */
#ifndef THMQI_HANDLE_H
#define THMQI_HANDLE_H

#include <pthread.h>

#include "base/base.h"

enum thmqi_handle_kind {
	THMQI_HANDLE_CLOSED = 0x00dead00,
	THMQI_HANDLE_CLOSING = 0x00dead01, /* one thread is closing it: others find it closed */
	THMQI_HANDLE_ENV = 0x7468e001,
	THMQI_HANDLE_BROKER = 0x7468e002,
	THMQI_HANDLE_SESSION = 0x7468e003,
	THMQI_HANDLE_PRODUCER = 0x7468e004,
	THMQI_HANDLE_CONSUMER = 0x7468e005,
	THMQI_HANDLE_TXN = 0x7468e006
};

struct thmqi_handle {
	uint32_t kind; /* enum thmqi_handle_kind */
	uint32_t reserved;
	struct thmqi_handle *next; /* in the graveyard */
};

static inline bool thmqi_handle_is(const void *handle, uint32_t kind)
{
	return handle && __atomic_load_n(&((const struct thmqi_handle *)handle)->kind, __ATOMIC_RELAXED) == kind;
}

/* From one kind to another, by one thread only. False: it is not of kind @from (any more). */
static inline bool thmqi_handle_turn(void *handle, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&((struct thmqi_handle *)handle)->kind, &from, to, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Closed handles, freed at fini, or oldest first beyond a bound. */
struct thmqi_graveyard {
	pthread_mutex_t lock;
	struct thmqi_handle *first, *last;
	uint32_t count;
};

#define THMQI_GRAVEYARD_MAX 4096u

static inline void thmqi_graveyard_init(struct thmqi_graveyard *g)
{
	pthread_mutex_init(&g->lock, NULL);
	g->first = g->last = NULL;
	g->count = 0;
}

/* @h was allocated by malloc or aligned_alloc; its resources are released already. */
static inline void thmqi_handle_bury(struct thmqi_graveyard *g, struct thmqi_handle *h)
{
	struct thmqi_handle *oldest = NULL;

	__atomic_store_n(&h->kind, THMQI_HANDLE_CLOSED, __ATOMIC_RELAXED);
	h->next = NULL;
	pthread_mutex_lock(&g->lock);
	if (g->last)
		g->last->next = h;
	else
		g->first = h;
	g->last = h;
	if (++g->count > THMQI_GRAVEYARD_MAX) {
		oldest = g->first;
		g->first = oldest->next;
		g->count--;
	}
	pthread_mutex_unlock(&g->lock);
	free(oldest);
}

static inline void thmqi_graveyard_fini(struct thmqi_graveyard *g)
{
	struct thmqi_handle *h = g->first, *next;

	for (; h; h = next) {
		next = h->next;
		free(h);
	}
	pthread_mutex_destroy(&g->lock);
}

#endif
