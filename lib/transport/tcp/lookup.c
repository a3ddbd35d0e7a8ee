/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookup.c - names of hosts whose answer nobody waits for: of a broker that cannot be reached any more, since it may have moved, and of each of
 * several that keep the same data. The system's resolver blocks for as long as it likes, so a thread asks it that ends with the answer: a session tries the
 * addresses that it knows meanwhile, or another broker, and what is answered with its next try. All sessions of an environment share what is known. Knows
 * no connection.
 */
#include <pthread.h>
#include <signal.h>

#include "tcp.h"

#define AGAIN_NS 1000000000ull /* from one to the next, at least */
#define STACK_BYTES (1u << 20)
#define NAMES_MAX 64u /* that an environment keeps */

enum { IDLE, ASKING, ANSWERED };

struct tcp_lookup {
	_Atomic uint32_t refs;  /* of the table, and of the thread */
	_Atomic uint32_t state; /* ASKING: what is below is the thread's, else theirs who hold the transport's lock */
	uint64_t begun_ns;
	struct tcp_address addresses[TCP_ADDRESSES];
	uint32_t count; /* 0: nothing is known of that name now */
	char url[];
};

/* What is known of a name, and stays so when it is asked again and nobody knows. */
struct tcp_name {
	struct tcp_name *next;
	struct tcp_lookup *lookup;
	struct tcp_address addresses[TCP_ADDRESSES];
	uint32_t count;
	bool answered; /* ever, be it that nobody knows it */
};

/* The one that was wanted last comes first; under the transport's lock. */
struct tcp_names {
	struct tcp_name *first;
};

/* That the host is an address needs nobody to be asked. */
static bool is_a_name(const char *url)
{
	struct tcp_address none;
	uint32_t count;

	return thmqi_tcp_resolve_as(url, false, true, &none, 1, &count) != 0;
}

static void lookup_unref(struct tcp_lookup *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

static void *ask(void *arg)
{
	struct tcp_lookup *l = arg;

	if (thmqi_tcp_resolve(l->url, false, l->addresses, TCP_ADDRESSES, &l->count) != 0)
		l->count = 0;
	atomic_store_explicit(&l->state, ANSWERED, memory_order_release);
	lookup_unref(l);
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

/* Its latest answer, if there is a new one; and the next is asked for, where it is time. False: it never was answered. */
static bool look(struct tcp_name *n, uint64_t now_ns)
{
	struct tcp_lookup *l = n->lookup;
	uint32_t state = atomic_load_explicit(&l->state, memory_order_acquire);
	const bool before = l->begun_ns != 0;

	if (state == ASKING)
		return n->answered;
	if (state == ANSWERED) {
		n->answered = true;
		if (l->count) {
			memcpy(n->addresses, l->addresses, sizeof(n->addresses));
			n->count = l->count;
		}
	}
	atomic_store_explicit(&l->state, IDLE, memory_order_relaxed);
	if (before && now_ns - l->begun_ns < AGAIN_NS)
		return n->answered;
	l->begun_ns = now_ns;
	atomic_store_explicit(&l->state, ASKING, memory_order_relaxed);
	atomic_fetch_add(&l->refs, 1);
	if (start(l) == 0)
		return n->answered;
	atomic_store_explicit(&l->state, IDLE, memory_order_relaxed);
	lookup_unref(l);
	return n->answered;
}

static void name_free(struct tcp_name *n)
{
	if (n)
		lookup_unref(n->lookup);
	free(n);
}

static struct tcp_name *name_make(const char *url)
{
	struct tcp_name *n = calloc(1, sizeof(*n));
	size_t len = strlen(url) + 1;

	if (!n)
		return NULL;
	n->lookup = calloc(1, sizeof(*n->lookup) + len);
	if (!n->lookup) {
		free(n);
		return NULL;
	}
	memcpy(n->lookup->url, url, len);
	n->lookup->refs = 1;
	return n;
}

/* The name of @url, which is the first one then; one too many goes. NULL: no memory. */
static struct tcp_name *name_of(struct tcp_names *names, const char *url)
{
	struct tcp_name **at = &names->first, *n;
	uint32_t count = 0;

	while (*at && strcmp((*at)->lookup->url, url) != 0 && ++count < NAMES_MAX)
		at = &(*at)->next;
	n = *at;
	if (n)
		*at = n->next;
	if (!n || count == NAMES_MAX) {
		name_free(n);
		n = name_make(url);
	}
	if (n) {
		n->next = names->first;
		names->first = n;
	}
	return n;
}

int thmqi_tcp_lookup(struct thmqi_transport *t, const char *url, uint64_t now_ns, struct tcp_address *addresses, uint32_t *count)
{
	void **state = thmqi_transport_state(t, &thmqi_medium_tcp);
	struct tcp_name *n = NULL;
	int rc = 0;

	if (!is_a_name(url))
		return thmqi_tcp_resolve(url, false, addresses, TCP_ADDRESSES, count);
	pthread_mutex_lock(&t->lock);
	if (!*state)
		*state = calloc(1, sizeof(struct tcp_names));
	if (*state)
		n = name_of(*state, url);
	if (!n) {
		rc = -ENOMEM;
	} else {
		rc = look(n, now_ns) ? -EHOSTUNREACH : -EINPROGRESS;
		if (n->count) {
			memcpy(addresses, n->addresses, sizeof(n->addresses));
			*count = n->count;
			rc = 0;
		}
	}
	pthread_mutex_unlock(&t->lock);
	return rc ? thmqi_fail(rc, "%s: %s", url, rc == -EINPROGRESS ? "no answer yet to who that is" : thmq_strerror(rc)) : 0;
}

void thmqi_tcp_names_close(void *state)
{
	struct tcp_names *names = state;
	struct tcp_name *n;

	while ((n = names->first)) {
		names->first = n->next;
		name_free(n);
	}
	free(names);
}
