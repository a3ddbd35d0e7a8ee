/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookup.c - the name in a URL once more, when the broker that it led to cannot be reached: it may have moved. The system's resolver blocks
 * for as long as it likes, so a thread asks it that ends with the answer, and nobody waits for it: a session tries the addresses
 * that it knows meanwhile, and the new ones with its next try. Knows no connection.
 */
#include <pthread.h>
#include <signal.h>

#include "tcp.h"

#define AGAIN_NS 1000000000ull /* from one to the next, at least */
#define STACK_BYTES (1u << 20)

enum { IDLE, ASKING, ANSWERED };

struct tcp_lookup {
	_Atomic uint32_t refs;  /* of connections, and of the thread */
	_Atomic uint32_t state; /* ASKING: what is below is the thread's, else the session's */
	uint64_t begun_ns;
	struct tcp_address addresses[TCP_ADDRESSES];
	uint32_t count; /* 0: nothing is known of that name now */
	char url[];
};

/* That the host is an address needs nobody to be asked. */
static bool is_a_name(const char *url)
{
	struct tcp_address none;
	uint32_t count;

	return thmqi_tcp_resolve_as(url, false, true, &none, 1, &count) != 0;
}

struct tcp_lookup *thmqi_tcp_lookup_make(const char *url)
{
	size_t len = strlen(url) + 1;
	struct tcp_lookup *l = is_a_name(url) ? calloc(1, sizeof(*l) + len) : NULL;

	if (!l)
		return NULL;
	memcpy(l->url, url, len);
	l->refs = 1;
	return l;
}

struct tcp_lookup *thmqi_tcp_lookup_ref(struct tcp_lookup *l)
{
	if (l)
		atomic_fetch_add(&l->refs, 1);
	return l;
}

void thmqi_tcp_lookup_unref(struct tcp_lookup *l)
{
	if (l && atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

static void *ask(void *arg)
{
	struct tcp_lookup *l = arg;

	if (thmqi_tcp_resolve(l->url, false, l->addresses, TCP_ADDRESSES, &l->count) != 0)
		l->count = 0;
	atomic_store_explicit(&l->state, ANSWERED, memory_order_release);
	thmqi_tcp_lookup_unref(l);
	return NULL;
}

/* Signals are the host's threads'. */
static int start(struct tcp_lookup *l)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	int rc = -pthread_attr_init(&attr);

	if (rc)
		return rc;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&thread, &attr, ask, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return rc;
}

void thmqi_tcp_lookup(struct tcp_lookup *l, uint64_t now_ns, struct tcp_address *addresses, uint32_t *count)
{
	uint32_t state = atomic_load_explicit(&l->state, memory_order_acquire);

	if (state == ASKING)
		return;
	if (state == ANSWERED && l->count) {
		memcpy(addresses, l->addresses, sizeof(l->addresses));
		*count = l->count;
	}
	atomic_store_explicit(&l->state, IDLE, memory_order_relaxed);
	if (l->begun_ns && now_ns - l->begun_ns < AGAIN_NS)
		return;
	l->begun_ns = now_ns;
	atomic_store_explicit(&l->state, ASKING, memory_order_relaxed);
	thmqi_tcp_lookup_ref(l);
	if (start(l) == 0)
		return;
	atomic_store_explicit(&l->state, IDLE, memory_order_relaxed);
	thmqi_tcp_lookup_unref(l);
}
