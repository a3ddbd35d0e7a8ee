/* SPDX-License-Identifier: Apache-2.0 */
/*
 * home.c - a core's part of the RDMA medium: one poller for all that it has there, and the events of the connection manager.
 * Knows not what they mean.
 */
#include <fcntl.h>
#include <sys/epoll.h>

#include "medium.h"

#define EVENT_BUDGET 32u

/* ------------------------------------------------------ connection manager */

/* One event, of which a copy is made: whom it concerns may be destroyed at once only when it was acknowledged. */
static void take_event(struct rdma_home *h, struct rdma_cm_event *e)
{
	const struct thmqi_cm *cm = &h->world->cm;
	struct rdma_conn_param param = e->param.conn;
	enum rdma_cm_event_type type = e->event;
	struct rdma_cm_id *id = e->id, *listener = e->listen_id;
	int status = e->status;
	uint8_t data[256] = {0};
	uint32_t len = 0;
	struct rdma_door *d;

	if (type == RDMA_CM_EVENT_CONNECT_REQUEST || type == RDMA_CM_EVENT_REJECTED ||
	    type == RDMA_CM_EVENT_CONNECT_RESPONSE || type == RDMA_CM_EVENT_ESTABLISHED) {
		len = param.private_data ? param.private_data_len : 0;
		if (len)
			memcpy(data, param.private_data, len);
	}
	cm->ack_cm_event(e);
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
		id->context = NULL; /* it has its listener's */
		d = thmqi_rdma_door_find(h, listener);
		if (d) {
			thmqi_rdma_door_event(d, id, type, &param, data, len);
		} else {
			cm->reject(id, NULL, 0);
			cm->destroy_id(id);
		}
		return;
	}
	d = thmqi_rdma_door_find(h, id);
	if (d)
		thmqi_rdma_door_event(d, id, type, &param, data, len);
	else if (id->context)
		thmqi_rdma_event_of(id->context, type, status, data, len);
}

static int take_events(struct rdma_home *h)
{
	struct rdma_cm_event *e;
	uint32_t n;

	for (n = 0; n < EVENT_BUDGET; n++) {
		if (h->world->cm.get_cm_event(h->channel, &e) != 0) {
			h->readable = errno == EINTR;
			break;
		}
		take_event(h, e);
	}
	return (int)n;
}

static void on_readable(void *ctx, uint32_t events)
{
	struct rdma_home *h = ctx;

	(void)events;
	h->readable = true;
}

/* ------------------------------------------------------------------- poller */

static int home_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct rdma_home *h = thmqi_container(p, struct rdma_home, poller);
	struct thmqi_list *it, *next;
	int done = 0;

	(void)budget;
	if (h->readable)
		done += take_events(h);
	thmqi_list_each_safe(it, next, &h->hubs) done +=
		thmqi_rdma_hub_poll(thmqi_container(it, struct rdma_hub, link));
	thmqi_list_each_safe(it, next, &h->conns) done +=
		thmqi_rdma_conn_poll(thmqi_container(it, struct rdma_conn, link));
	return done;
}

/* Receives first: what is sent then tells of them. */
static void home_finish(struct thmqi_poller *p)
{
	struct rdma_home *h = thmqi_container(p, struct rdma_home, poller);
	struct thmqi_list *it, *inner, *next;

	thmqi_list_each(it, &h->hubs)
	{
		struct rdma_hub *hub = thmqi_container(it, struct rdma_hub, link);

		thmqi_list_each(inner, &hub->trusts)
			thmqi_rdma_trust_repost(thmqi_container(inner, struct rdma_trust, link));
	}
	thmqi_list_each_safe(it, next, &h->conns)
		thmqi_rdma_conn_finish(thmqi_container(it, struct rdma_conn, link));
}

static bool home_arm(struct thmqi_poller *p)
{
	struct rdma_home *h = thmqi_container(p, struct rdma_home, poller);
	struct thmqi_list *it;
	bool work = h->readable;

	thmqi_list_each(it, &h->conns) work =
		thmqi_rdma_conn_arm(thmqi_container(it, struct rdma_conn, link)) || work;
	thmqi_list_each(it, &h->hubs) work =
		work || thmqi_rdma_hub_arm(thmqi_container(it, struct rdma_hub, link));
	return work;
}

/* ------------------------------------------------------------ made and ended */

void thmqi_rdma_home_unref(struct rdma_home *h)
{
	if (--h->refs == 0)
		free(h);
}

/* The core closes. Connections whose client has not closed yet keep what they need of this. */
static void home_end(struct thmqi_poller *p)
{
	struct rdma_home *h = thmqi_container(p, struct rdma_home, poller);
	struct thmqi_list *it, *next;

	h->ended = true;
	thmqi_list_each_safe(it, next, &h->doors) thmqi_rdma_door_end(thmqi_rdma_door_of(it));
	thmqi_list_each_safe(it, next, &h->conns)
		thmqi_rdma_conn_close(thmqi_container(it, struct rdma_conn, link));
	thmqi_list_each_safe(it, next, &h->hubs)
	{
		struct rdma_hub *hub = thmqi_container(it, struct rdma_hub, link);

		hub->refs++;
		thmqi_rdma_hub_dead(hub, -ESHUTDOWN);
		thmqi_rdma_hub_unref(hub);
	}
	thmqi_watch_close(h->watch);
	h->world->cm.destroy_event_channel(h->channel);
	h->world->homes[h->core->index] = NULL;
	thmqi_core_remove_poller(h->core, &h->poller);
	thmqi_rdma_home_unref(h);
}

static int open_channel(struct rdma_home *h)
{
	int flags, rc;

	errno = 0;
	h->channel = h->world->cm.create_event_channel();
	if (!h->channel)
		return errno == ENOMEM || errno == EMFILE || errno == ENFILE || errno == EACCES
			       ? -errno
			       : -ENODEV;
	flags = fcntl(h->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(h->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		rc = -errno;
	else
		rc = thmqi_watch_open(h->core, h->channel->fd, EPOLLIN, on_readable, h, &h->watch);
	if (rc)
		h->world->cm.destroy_event_channel(h->channel);
	return rc;
}

int thmqi_rdma_home(struct rdma_world *w, struct thmq_core *core, struct rdma_home **ret_home)
{
	struct rdma_home *h = w->homes[core->index];
	int rc;

	if (h) {
		*ret_home = h;
		return 0;
	}
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->world = w;
	h->core = core;
	h->refs = 1;
	h->readable = true;
	thmqi_list_init(&h->hubs);
	thmqi_list_init(&h->conns);
	thmqi_list_init(&h->doors);
	thmqi_lobby_init(&h->lobby, RDMA_GREETINGS_MAX);
	rc = open_channel(h);
	if (rc) {
		free(h);
		return rc;
	}
	h->poller = (struct thmqi_poller){.poll = home_poll,
					  .arm = home_arm,
					  .finish = home_finish,
					  .end = home_end,
					  .name = "rdma"};
	thmqi_core_add_poller(core, &h->poller);
	w->homes[core->index] = h;
	*ret_home = h;
	return 0;
}
