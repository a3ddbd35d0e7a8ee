/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links that are made and closed by several threads while listeners come and go and shut what they have: nothing is
 * used after it is freed, every link that was accepted is closed or shut once, no memory is left.
 * For ThreadSanitizer and AddressSanitizer as much as for itself.
 */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "transport/transport.h"

#define CLIENTS 3
#define CORES 2
#define LINKS_MAX 64

/* A broker's end: all but core_of and the counters on its core only. It is freed as soon as unlisten and the last
 * shut are over, so that a late call is a use after free. */
struct host {
	struct thmq_env *env;
	struct thmqi_listener *listener;
	struct thmqi_link *links[CORES][LINKS_MAX];
	uint32_t open[CORES];
	bool closing[CORES];
};

static _Atomic uint32_t accepted, refused, closed, shut, connected, failed, stop, frames;

#define CHECK(x) \
	do { \
		if (!(x)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #x); \
			atomic_fetch_add(&failed, 1); \
		} \
	} while (0)

static struct thmq_core *core_of(void *ctx, uint32_t shard)
{
	struct host *h = ctx;

	return thmqi_env_core(h->env, shard % CORES);
}

static int on_accept(void *ctx, struct thmqi_link *link)
{
	struct host *h = ctx;
	uint32_t core = link->core->index;
	struct thmqi_frame *f;

	if (h->closing[core] || h->open[core] == LINKS_MAX || thmqi_prng_next(&link->core->prng) % 8 == 0) {
		atomic_fetch_add(&refused, 1);
		return -EBUSY;
	}
	link->broker = h;
	h->links[core][h->open[core]++] = link;
	atomic_fetch_add(&accepted, 1);
	f = thmqi_frame_claim(&link->down, 0);
	f->type = THMQI_FRAME_WELCOME;
	thmqi_frame_commit(&link->down);
	thmqi_link_kick_client(link);
	return 0;
}

static void on_closed(void *ctx, struct thmqi_link *link)
{
	struct host *h = ctx;
	uint32_t core = link->core->index, i;

	for (i = 0; i < h->open[core] && h->links[core][i] != link; i++)
		;
	CHECK(i < h->open[core]);
	while (thmqi_frame_peek(&link->up, 0)) {
		thmqi_frame_advance(&link->up, 1);
		atomic_fetch_add(&frames, 1);
	}
	h->links[core][i] = h->links[core][--h->open[core]];
	atomic_fetch_add(&closed, 1);
	thmqi_link_unref(link);
}

static int shut_all(struct thmq_core *core, void *arg)
{
	struct host *h = arg;
	uint32_t c = core->index;

	h->closing[c] = true;
	while (h->open[c]) {
		struct thmqi_link *link = h->links[c][--h->open[c]];

		thmqi_link_shut(link, -ESHUTDOWN);
		thmqi_link_unref(link);
		atomic_fetch_add(&shut, 1);
	}
	return 0;
}

struct client {
	pthread_t thread;
	struct thmq_env *env;
	struct thmqi_transport *transport;
	uint64_t seed;
};

/* Make a link, perhaps wait for what comes of it, perhaps write a frame, close it. */
static void one_link(struct client *k, struct thmqi_prng *prng, struct thmqi_waiter *waiter)
{
	struct thmqi_link_opts o = {.area_bytes = 4096, .up_frames = 8, .down_frames = 8};
	struct thmqi_link *link;
	struct thmqi_frame *f;
	uint32_t tries = (uint32_t)(thmqi_prng_next(prng) % 4) * 20;

	if (thmqi_transport_connect(k->transport, "inproc://", (uint32_t)thmqi_prng_next(prng) % CORES, &o, waiter,
				    &link) != 0)
		return;
	atomic_fetch_add(&connected, 1);
	while (tries-- && !thmqi_frame_peek(&link->down, 0) && !atomic_load(&link->broker_closed)) {
		thmqi_waiter_arm(waiter);
		if (!thmqi_frame_peek(&link->down, 0) && !atomic_load(&link->broker_closed))
			thmqi_waiter_sleep(waiter, 100000);
		thmqi_waiter_disarm(waiter);
	}
	f = thmqi_frame_claim(&link->up, 0);
	f->type = THMQI_FRAME_PRODUCE;
	thmqi_frame_commit(&link->up);
	thmqi_link_kick_broker(link);
	thmqi_link_close(link);
}

static void *client_run(void *arg)
{
	struct client *k = arg;
	struct thmqi_waiter *waiter;
	struct thmqi_prng prng;

	thmqi_prng_seed(&prng, k->seed);
	if (thmqi_waiter_open(&waiter) != 0)
		return NULL;
	while (!atomic_load(&stop))
		one_link(k, &prng, waiter);
	thmqi_waiter_unref(waiter);
	return NULL;
}

static void one_host(struct thmq_env *env, struct thmqi_transport *transport, uint32_t ns)
{
	struct timespec t = {.tv_nsec = ns};
	struct thmqi_acceptor a = {.core_of = core_of, .accept = on_accept, .closed = on_closed};
	struct host *h = calloc(1, sizeof(*h));
	uint32_t i;

	h->env = env;
	a.ctx = h;
	CHECK(thmqi_transport_listen(transport, NULL, &a, &h->listener) == 0);
	nanosleep(&t, NULL);
	thmqi_transport_unlisten(h->listener);
	for (i = 0; i < CORES; i++)
		CHECK(thmqi_core_call(thmqi_env_core(env, i), shut_all, h, UINT64_MAX) == 0);
	memset(h, 0xff, sizeof(*h));
	free(h);
}

int main(void)
{
	uint32_t rounds = getenv("THMQ_TEST_FULL") ? 5000 : getenv("THMQ_TEST_SMALL") ? 200 : 500, i;
	struct thmqi_transport *transport;
	struct client clients[CLIENTS];
	struct thmq_env *env;

	if (thmqi_env_open(THMQ_ENV_OPTS(.core_count = CORES, .policy = THMQ_POLICY_EVENT, .flags = THMQ_ENV_NO_PIN),
			   NULL, &env) != 0 ||
	    thmqi_transport_open(env, &transport) != 0) {
		fprintf(stderr, "%s\n", thmq_errmsg());
		return 1;
	}
	for (i = 0; i < CLIENTS; i++) {
		clients[i] = (struct client){.env = env, .transport = transport, .seed = i + 1};
		pthread_create(&clients[i].thread, NULL, client_run, &clients[i]);
	}
	for (i = 0; i < rounds; i++)
		one_host(env, transport, i % 16 ? 200000 : 3000000);
	atomic_store(&stop, 1);
	for (i = 0; i < CLIENTS; i++)
		pthread_join(clients[i].thread, NULL);
	CHECK(thmqi_env_close(env) == 0);
	thmqi_transport_close(transport);
	printf("%u links: %u accepted, %u refused; %u closed by the client, %u shut; %u frames\n", connected, accepted,
	       refused, closed, shut, frames);
	CHECK(accepted == closed + shut);
	CHECK(accepted && closed && shut && frames);
	return failed != 0;
}
