/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hub.c - one device on one core: its completion queues, looked at in every iteration and armed before the core sleeps; the
 * channel that tells of them; and what the device says of itself. Knows no frames.
 *
 * A queue that was armed tells once. What came before it was armed is not told: therefore it is looked at once more after
 * that (hub_arm). Receives are armed for solicited ones only, the last of what a side sends at a time; sends where somebody
 * waits for one.
 */
#include <fcntl.h>
#include <sys/epoll.h>

#include "medium.h"

#define POLL_ENTRIES 32
#define POLL_ROUNDS 8u
#define ACK_EVERY 64u /* events: acknowledging takes a lock */
#define ASYNC_BUDGET 16u

/* -------------------------------------------------------------- completions */

static void received(struct rdma_hub *hub, const struct ibv_wc *wc)
{
	struct rdma_slot *slot = (struct rdma_slot *)(uintptr_t)wc->wr_id;
	struct rdma_conn *c = thmqi_map_get(&hub->conns, wc->qp_num);

	if (!c) { /* it was given up before all of it was seen */
		thmqi_rdma_slot_idle(slot);
		return;
	}
	if (wc->status == IBV_WC_SUCCESS) {
		thmqi_rdma_received(c, slot, wc->byte_len);
		return;
	}
	thmqi_rdma_slot_idle(slot);
	thmqi_rdma_end(c, wc->status == IBV_WC_WR_FLUSH_ERR ? -ECONNRESET : -EPROTO);
}

static void sent(struct rdma_hub *hub, const struct ibv_wc *wc)
{
	struct rdma_conn *c = thmqi_map_get(&hub->conns, wc->qp_num);

	if (c)
		thmqi_rdma_sent(c, wc);
}

static int poll_queue(struct rdma_hub *hub, struct ibv_cq *cq,
		      void (*take)(struct rdma_hub *hub, const struct ibv_wc *wc))
{
	struct thmqi_rdma_counters *counters = &hub->home->counters;
	struct ibv_wc wc[POLL_ENTRIES];
	uint32_t round;
	int i, n, done = 0;

	for (round = 0; round < POLL_ROUNDS; round++) {
		n = ibv_poll_cq(cq, POLL_ENTRIES, wc);
		counters->polls++;
		if (n < 0) {
			thmqi_rdma_hub_dead(hub, -EIO);
			return 1;
		}
		for (i = 0; i < n; i++)
			take(hub, &wc[i]);
		done += n;
		counters->completions += (uint64_t)n;
		if (n < POLL_ENTRIES)
			break;
	}
	return done;
}

/* ------------------------------------------------------------------- channel */

static void acknowledge(struct rdma_hub *hub, uint32_t least)
{
	struct ibv_cq *cqs[2] = {hub->recv_cq, hub->send_cq};
	uint32_t i;

	for (i = 0; i < 2; i++) {
		if (hub->unacked[i] < least || !hub->unacked[i])
			continue;
		hub->home->world->verbs.ack_cq_events(cqs[i], hub->unacked[i]);
		hub->unacked[i] = 0;
	}
}

static void drain_channel(struct rdma_hub *hub)
{
	struct ibv_cq *cq;
	void *ctx;

	hub->told = false;
	do
		hub->home->counters.wakes++;
	while (hub->home->world->verbs.get_cq_event(hub->channel, &cq, &ctx) == 0 &&
	       (hub->unacked[cq == hub->send_cq]++, true));
	acknowledge(hub, ACK_EVERY);
}

static bool wants_sends(const struct rdma_hub *hub)
{
	uint32_t at = 0;
	struct rdma_conn *c;

	while ((c = thmqi_map_next(&hub->conns, &at)))
		if (c->reads_out || c->writes_out || c->stalled || c->draining ||
		    c->state == RDMA_LEAVING || thmqi_rdma_out_blocked(c))
			return true;
	return false;
}

bool thmqi_rdma_hub_arm(struct rdma_hub *hub)
{
	bool sends = wants_sends(hub);
	int done;

	if (hub->told || hub->async_told || (hub->dead && !hub->refs))
		return true;
	if (ibv_req_notify_cq(hub->recv_cq, 1) != 0 ||
	    (sends && ibv_req_notify_cq(hub->send_cq, 0) != 0)) {
		thmqi_rdma_hub_dead(hub, -EIO);
		return true;
	}
	hub->home->counters.arms += 1 + sends;
	done = poll_queue(hub, hub->recv_cq, received);
	done += poll_queue(hub, hub->send_cq, sent);
	return done > 0;
}

static void on_completion(void *ctx, uint32_t events)
{
	struct rdma_hub *hub = ctx;

	(void)events;
	hub->told = true;
}

/* ------------------------------------------------------------- asynchronous */

static void on_async(void *ctx, uint32_t events)
{
	struct rdma_hub *hub = ctx;

	(void)events;
	hub->async_told = true;
}

static struct rdma_conn *conn_of(const struct rdma_hub *hub, const struct ibv_qp *qp)
{
	struct rdma_conn *c = thmqi_map_get(&hub->conns, qp->qp_num);

	return c && c->qp == qp ? c : NULL;
}

static void take_async(struct rdma_hub *hub, const struct thmqi_rdma_event *e)
{
	struct rdma_conn *c;

	switch (e->kind) {
	case THMQI_RDMA_GONE:
	case THMQI_RDMA_CQ_FAILED:
	case THMQI_RDMA_SRQ_FAILED:
		thmqi_rdma_hub_dead(hub, -ENODEV);
		break;
	case THMQI_RDMA_QP_FAILED:
		c = conn_of(hub, e->object);
		if (c)
			thmqi_rdma_end(c, -ECONNRESET);
		break;
	case THMQI_RDMA_QP_LAST:
		c = conn_of(hub, e->object);
		if (c)
			c->last_seen = true;
		break;
	default:
		break; /* a port that is down: retries and heartbeats tell whether for too long */
	}
}

static void take_asyncs(struct rdma_hub *hub)
{
	struct thmqi_rdma_event e;
	uint32_t n;
	int rc = 1;

	hub->async_told = false;
	for (n = 0; n < ASYNC_BUDGET && rc == 1; n++) {
		rc = thmqi_rdma_next(hub->device, &e);
		if (rc == 1)
			take_async(hub, &e);
	}
	if (rc == 1)
		hub->async_told = true; /* there may be more */
	if (rc < 0)
		thmqi_rdma_hub_dead(hub, -ENODEV);
}

static void free_hub(struct rdma_hub *hub)
{
	const struct thmqi_verbs *v = &hub->home->world->verbs;

	if (hub->watch)
		thmqi_watch_close(hub->watch);
	if (hub->async_watch)
		thmqi_watch_close(hub->async_watch);
	if (hub->channel)
		drain_channel(hub);
	acknowledge(hub,
		    0); /* a queue is not destroyed before all of its events are acknowledged */
	if (hub->send_cq)
		v->destroy_cq(hub->send_cq);
	if (hub->recv_cq)
		v->destroy_cq(hub->recv_cq);
	if (hub->channel)
		v->destroy_comp_channel(hub->channel);
	thmqi_rdma_close(hub->device);
	thmqi_map_fini(&hub->conns);
	thmqi_list_del(&hub->link);
	thmqi_rdma_home_unref(hub->home);
	free(hub);
}

int thmqi_rdma_hub_poll(struct rdma_hub *hub)
{
	int done;

	if (thmqi_unlikely(hub->dead && !hub->refs)) {
		free_hub(hub);
		return 1;
	}
	if (thmqi_unlikely(hub->failed))
		thmqi_rdma_hub_dead(hub, -ENODEV);
	if (thmqi_unlikely(hub->told))
		drain_channel(hub);
	/* sends first: what a receive is an answer to has been sent */
	done = poll_queue(hub, hub->send_cq, sent);
	done += poll_queue(hub, hub->recv_cq, received);
	if (thmqi_unlikely(hub->async_told)) {
		take_asyncs(hub);
		done++;
	}
	return done;
}

/* ------------------------------------------------------------- made and ended */

void thmqi_rdma_hub_unref(struct rdma_hub *hub)
{
	if (--hub->refs == 0 && hub->dead)
		free_hub(hub);
}

void thmqi_rdma_hub_dead(struct rdma_hub *hub, int error)
{
	struct thmqi_list *it, *next;

	if (hub->dead)
		return;
	hub->dead = true;
	hub->refs++;
	thmqi_list_each_safe(it, next, &hub->home->conns)
	{
		struct rdma_conn *c = thmqi_container(it, struct rdma_conn, link);

		if (c->trust && c->trust->hub == hub)
			thmqi_rdma_end(c, error);
	}
	thmqi_list_each_safe(it, next, &hub->trusts)
	{
		struct rdma_trust *t = thmqi_container(it, struct rdma_trust, link);

		t->refs++;
		thmqi_rdma_trust_unref(t); /* those without a connection go */
	}
	hub->refs--; /* whoever called may still look at it: its next poll frees it */
}

static int make_queues(struct rdma_hub *hub)
{
	const struct thmqi_verbs *v = &hub->home->world->verbs;
	struct ibv_context *context = thmqi_rdma_context(hub->device);
	struct ibv_device_attr attr = {0};
	int flags, entries;

	if (v->query_device(context, &attr) != 0)
		return -EIO;
	entries = THMQI_MIN((int)RDMA_CQ, attr.max_cqe);
	errno = 0;
	hub->channel = v->create_comp_channel(context);
	if (!hub->channel)
		return errno ? -errno : -ENOMEM;
	flags = fcntl(hub->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(hub->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	hub->recv_cq = v->create_cq(context, entries, hub, hub->channel, 0);
	if (hub->recv_cq)
		hub->send_cq = v->create_cq(context, entries, hub, hub->channel, 0);
	if (!hub->send_cq)
		return errno ? -errno : -ENOMEM;
	hub->cq_room = (uint32_t)THMQI_MIN(hub->recv_cq->cqe, hub->send_cq->cqe);
	return 0;
}

static int make_hub(struct rdma_home *h, struct ibv_context *of, struct rdma_hub **ret_hub)
{
	const struct thmqi_verbs *v = &h->world->verbs;
	struct rdma_hub *hub = calloc(1, sizeof(*hub));
	int rc;

	if (!hub)
		return -ENOMEM;
	/* a context of our own: what the device says of it concerns nobody else */
	rc = thmqi_rdma_open(v, v->get_device_name(of->device), &hub->device);
	if (rc) {
		free(hub);
		return rc;
	}
	hub->home = h;
	h->refs++;
	thmqi_list_init(&hub->trusts);
	thmqi_map_init(&hub->conns);
	thmqi_list_add_tail(&h->hubs, &hub->link);
	rc = make_queues(hub);
	if (!rc)
		rc = thmqi_watch_open(h->core, hub->channel->fd, EPOLLIN, on_completion, hub,
				      &hub->watch);
	if (!rc)
		rc = thmqi_watch_open(h->core, thmqi_rdma_fd(hub->device), EPOLLIN, on_async, hub,
				      &hub->async_watch);
	if (rc) {
		free_hub(hub);
		return rc;
	}
	*ret_hub = hub;
	return 0;
}

int thmqi_rdma_hub(struct rdma_home *h, struct ibv_context *of, struct rdma_hub **ret_hub)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &h->hubs)
	{
		struct rdma_hub *hub = thmqi_container(it, struct rdma_hub, link);

		if (!hub->dead && thmqi_rdma_is_device(hub->device, of)) {
			*ret_hub = hub;
			return 0;
		}
	}
	return make_hub(h, of, ret_hub);
}
