/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.c - who listens, who may come in, and who waits to be let in; and the poller of a socket that listens. gate.h has the words.
 */
#include <stdio.h>
#include <sys/epoll.h>

#include "gate.h"
#include "joint.h"

#define ACCEPT_BUDGET 16u
#define RETRY_NS 50000000ull /* after accept had no descriptor or memory */

/* ----------------------------------------------------------------------- host */

void thmqi_host_open(struct thmqi_host *h, struct thmqi_listener *l,
		     const struct thmqi_listen_opts *opts)
{
	h->core = thmqi_env_core(l->transport->env, 0);
	h->silence_ns = THMQI_MAX(opts->silence_ns ? opts->silence_ns : JOINT_SILENCE_NS,
				  JOINT_SILENCE_MIN_NS);
	h->connections_max = opts->connections_max ? opts->connections_max : GATE_CONNECTIONS;
	h->listener = l;
	atomic_fetch_add(&l->refs, 1);
}

void thmqi_host_close(struct thmqi_host *h)
{
	if (h->listener)
		thmqi_listener_unref(h->listener);
	h->listener = NULL;
}

bool thmqi_host_is_full(const struct thmqi_host *h, uint32_t waiting)
{
	return atomic_load(&h->listener->connections) - waiting >= h->connections_max;
}

/* ---------------------------------------------------------------------- guest */

void thmqi_guest_open(struct thmqi_guest *g, const struct thmqi_host *h)
{
	g->listener = h->listener;
	atomic_fetch_add(&g->listener->refs, 1);
	atomic_fetch_add(&g->listener->connections, 1);
}

void thmqi_guest_close(struct thmqi_guest *g)
{
	thmqi_lobby_leave(g);
	if (!g->listener)
		return;
	atomic_fetch_sub(&g->listener->connections, 1);
	thmqi_listener_unref(g->listener);
	g->listener = NULL;
}

/* The acceptor is there unless the listener is gone, till this iteration ends. */
int thmqi_guest_core(const struct thmqi_guest *g, uint64_t instance, uint32_t shard,
		     struct thmq_core **ret_core)
{
	const struct thmqi_listener *l = g->listener;
	struct thmq_core *core;

	if (atomic_load(&l->gone))
		return -ECONNREFUSED;
	if (instance && instance != l->instance)
		return -ESHUTDOWN;
	core = l->acceptor.core_of(l->acceptor.ctx, shard);
	if (!core)
		return -ECONNREFUSED;
	*ret_core = core;
	return 0;
}

int thmqi_guest_link(const struct thmqi_guest *g, struct thmq_core *core, uint32_t shard,
		     const struct thmqi_link_opts *opts, struct thmqi_poller *reader,
		     struct thmqi_link **ret_link)
{
	struct thmqi_listener *l = g->listener;
	struct thmqi_link *link;
	int rc = atomic_load(&l->gone) ? -ECONNREFUSED
				       : thmqi_link_make(opts, l->acceptor.end_bytes, &link);

	if (rc)
		return rc;
	link->shard = shard;
	link->core = core;
	link->reader = reader;
	link->medium = g->medium ? g->medium : "";
	snprintf(link->peer, sizeof(link->peer), "%s", g->peer[0] ? g->peer : "anonymous");
	link->listener = l;
	atomic_fetch_add(&l->refs, 1);
	rc = l->acceptor.accept(l->acceptor.ctx, link);
	if (rc) {
		thmqi_link_unref(link);
		thmqi_link_unref(link);
		return rc;
	}
	*ret_link = link;
	return 0;
}

int thmqi_guest_greeted(const struct thmqi_guest *g, struct thmq_core *core,
			const struct thmqi_hello *hello, struct thmqi_poller *reader,
			struct thmqi_link **ret_link)
{
	const struct thmqi_link_opts opts = {.area_bytes = hello->area_bytes,
					     .up_frames = hello->up_frames,
					     .down_frames = hello->down_frames};
	int rc;

	if (hello->ctl_frames != THMQI_MIN(hello->up_frames, THMQI_CTL_FRAMES_MAX))
		return -EINVAL;
	rc = thmqi_guest_link(g, core, hello->shard, &opts, reader, ret_link);
	if (!rc)
		(*ret_link)->packs = true;
	return rc;
}

/* ---------------------------------------------------------------------- lobby */

void thmqi_lobby_init(struct thmqi_lobby *l, uint32_t count_max)
{
	thmqi_list_init(&l->guests);
	l->count = 0;
	l->count_max = count_max;
}

struct thmqi_guest *thmqi_lobby_surplus(const struct thmqi_lobby *l)
{
	return l->count >= l->count_max ? thmqi_list_first(&l->guests, struct thmqi_guest, link)
					: NULL;
}

void thmqi_lobby_enter(struct thmqi_lobby *l, struct thmqi_guest *g)
{
	g->lobby = l;
	thmqi_list_add_tail(&l->guests, &g->link);
	l->count++;
}

void thmqi_lobby_leave(struct thmqi_guest *g)
{
	if (!g->lobby)
		return;
	thmqi_list_del(&g->link);
	g->lobby->count--;
	g->lobby = NULL;
}

/* ----------------------------------------------------------------------- gate */

static void let_in(struct thmqi_gate *g, int fd)
{
	struct thmqi_guest *oldest;

	if (thmqi_host_is_full(&g->host, g->lobby.count)) {
		g->ops->turn_away(g, fd);
		return;
	}
	oldest = thmqi_lobby_surplus(&g->lobby);
	if (oldest)
		g->ops->end(oldest, -ETIMEDOUT);
	g->ops->take(g, fd);
}

static int accept_some(struct thmqi_gate *g)
{
	uint32_t n, bad = 0;
	int fd;

	for (n = 0; n < ACCEPT_BUDGET; n++) {
		fd = g->ops->next(g);
		if (fd >= 0) {
			let_in(g, fd);
			continue;
		}
		bad++;
		if (errno == EAGAIN)
			g->readable = false;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			thmqi_timer_start(g->host.core, &g->timer, g->host.core->now_ns + RETRY_NS);
		else
			continue; /* of that connection */
		break;
	}
	/* nothing else comes any more, as it seems: it is asked again, but not all the time */
	if (bad == ACCEPT_BUDGET)
		thmqi_timer_start(g->host.core, &g->timer, g->host.core->now_ns + RETRY_NS);
	return (int)n;
}

static void gate_gone(struct thmqi_gate *g)
{
	thmqi_timer_stop(g->host.core, &g->timer);
	thmqi_core_remove_poller(g->host.core, &g->poller);
	g->ops->free(g);
}

static void gate_shut(struct thmqi_gate *g)
{
	if (g->closed)
		return;
	g->closed = true;
	thmqi_core_rouse_poller(g->host.core, &g->poller);
	while (!thmqi_list_empty(&g->lobby.guests))
		g->ops->end(thmqi_list_first(&g->lobby.guests, struct thmqi_guest, link),
			    -ECONNREFUSED);
	if (g->watch)
		thmqi_watch_close(g->watch);
	g->watch = NULL;
	g->ops->shut(g);
}

static bool may_accept(const struct thmqi_gate *g)
{
	return g->readable && !thmqi_timer_is_running(&g->timer);
}

static int gate_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct thmqi_gate *g = thmqi_container(p, struct thmqi_gate, poller);

	(void)budget;
	if (g->closed) {
		gate_gone(g);
		return 1;
	}
	if (may_accept(g))
		return accept_some(g);
	thmqi_core_rest_poller(g->host.core, &g->poller); /* the watch tells, or the timer */
	return 0;
}

static bool gate_arm(struct thmqi_poller *p)
{
	struct thmqi_gate *g = thmqi_container(p, struct thmqi_gate, poller);

	return g->closed || may_accept(g);
}

static void gate_end(struct thmqi_poller *p)
{
	struct thmqi_gate *g = thmqi_container(p, struct thmqi_gate, poller);

	gate_shut(g);
	gate_gone(g);
}

static void gate_ready(void *ctx, uint32_t events)
{
	struct thmqi_gate *g = ctx;

	(void)events;
	g->readable = true;
	thmqi_core_rouse_poller(g->host.core, &g->poller);
}

static void gate_retry(struct thmqi_timer *t)
{
	struct thmqi_gate *g = thmqi_container(t, struct thmqi_gate, timer);

	thmqi_core_rouse_poller(g->host.core, &g->poller);
}

static int start_here(struct thmq_core *core, void *arg)
{
	struct thmqi_gate *g = arg;
	int rc = thmqi_watch_open(core, g->fd, EPOLLIN, gate_ready, g, &g->watch);

	if (rc)
		return rc;
	g->timer.fire = gate_retry;
	g->poller = (struct thmqi_poller){
		.poll = gate_poll, .arm = gate_arm, .end = gate_end, .name = "gate"};
	thmqi_core_add_poller(core, &g->poller);
	return 0;
}

int thmqi_gate_start(struct thmqi_gate *g, const struct thmqi_gate_ops *ops, int fd)
{
	g->ops = ops;
	g->fd = fd;
	return thmqi_core_call(g->host.core, start_here, g, UINT64_MAX);
}

static int stop_here(struct thmq_core *core, void *arg)
{
	(void)core;
	gate_shut(arg);
	return 0;
}

void thmqi_gate_stop(struct thmqi_gate *g)
{
	thmqi_core_call(g->host.core, stop_here, g, UINT64_MAX);
}
