/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - the broker's side until a connection is open: who listens, who asks, and their way to the core of the shard that
 * they name. The request itself says which shard that is, so that the queue pair is made where it will stay. Nobody gets
 * more than that and its receives before the greeting is right, and of those that have not greeted there are few.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

#include "medium.h"

#define BACKLOG 128
#define AGAIN_NS 1000000000ull /* a device that went may come again */

struct rdma_door {
	struct thmqi_list link; /* of its home */
	struct rdma_home *home;
	struct rdma_world *world;
	struct thmqi_host host;
	struct rdma_cm_id *id; /* NULL: its device has gone */
	struct thmqi_timer timer;
	struct tcp_address address;
	char url[128];
};

/* ---------------------------------------------------------------- greeting */

static void reject(const struct rdma_world *w, struct rdma_cm_id *id, uint64_t instance, int status)
{
	struct rdma_ask a = {.status = status, .instance = instance};

	thmqi_rdma_ask_seal(&a);
	w->cm.reject(id, &a, sizeof(a));
}

/* Once it is connected: it is told why not, and closes then. */
static void refuse(struct rdma_conn *c, int status)
{
	struct thmqi_hello answer = {.status = status, .instance = c->guest.listener->instance};

	thmqi_lobby_leave(&c->guest);
	if (thmqi_rdma_hello_send(c, &answer, THMQI_HELLO_BROKER) != 0)
		return;
	c->state = RDMA_LEAVING;
	c->error = status;
	c->deadline_ns = c->core->now_ns + RDMA_LEAVE_NS;
	thmqi_rdma_tick_at(c, c->deadline_ns);
}

int thmqi_rdma_adopt(struct rdma_conn *c)
{
	struct thmqi_hello answer = {.instance = c->guest.listener->instance};
	uint64_t wanted = c->hello.capabilities;
	struct thmqi_link *link;
	int rc = thmqi_hello_check(&c->hello, THMQI_HELLO_CLIENT);

	if (!rc && c->hello.shard != c->ask.shard)
		rc = -EINVAL;
	c->guest.medium = "rdma";
	if (!rc)
		rc = thmqi_guest_greeted(&c->guest, c->core, &c->hello, &c->home->poller, &link);
	if (rc) {
		refuse(c, rc);
		return 0;
	}
	c->joint.link = c->mirror = link;
	atomic_fetch_add(&link->refs, 1);
	c->elsewhere = (wanted & THMQI_HELLO_ELSEWHERE) && c->reads_max &&
		       thmqi_rdma_register_area(c) == 0;
	c->grants = (wanted & THMQI_HELLO_GRANTS) != 0;
	thmqi_joint_describe(link, &answer);
	answer.capabilities =
		(c->elsewhere ? THMQI_HELLO_ELSEWHERE : 0) | (c->grants ? THMQI_HELLO_GRANTS : 0);
	rc = thmqi_rdma_hello_send(c, &answer, THMQI_HELLO_BROKER);
	if (!rc)
		thmqi_rdma_opened(c);
	return rc;
}

/* ------------------------------------------------------------------ requests */

static int accept_here(struct rdma_conn *c)
{
	struct rdma_ask answer = {.instance = c->guest.listener->instance, .shard = c->ask.shard};
	struct rdma_conn_param param;
	int rc = thmqi_rdma_queue_open(c);

	/* its receives stand ready: the first message may come before the connection manager tells that all is done */
	if (!rc)
		rc = thmqi_rdma_queue_ready(c);
	if (rc)
		return rc;
	thmqi_rdma_ask_seal(&answer);
	thmqi_rdma_param(c, &answer, &param);
	if (c->home->world->cm.accept(c->id, &param) != 0)
		return errno ? -errno : -EIO;
	c->connected = true;
	return 0;
}

/* On the shard's core. */
static void arrive(struct rdma_conn *c, struct rdma_world *w, struct thmq_core *core)
{
	struct thmqi_guest *oldest;
	struct rdma_home *h = NULL;
	int rc = thmqi_rdma_home(w, core, &h);

	if (!rc && c->id->channel != h->channel && w->cm.migrate_id(c->id, h->channel) != 0)
		rc = errno ? -errno : -EIO;
	if (rc) {
		reject(w, c->id, c->guest.listener->instance, rc);
		w->cm.destroy_id(c->id);
		c->joint.link_done = c->queue_done = true;
		thmqi_rdma_conn_free_if_done(c);
		return;
	}
	oldest = thmqi_lobby_surplus(&h->lobby);
	if (oldest)
		thmqi_rdma_end(thmqi_container(oldest, struct rdma_conn, guest), -ETIMEDOUT);
	c->id->context = c;
	c->state = RDMA_GREETING;
	c->deadline_ns = core->now_ns + THMQI_MIN(RDMA_GREETING_NS, c->joint.silence_ns);
	thmqi_rdma_conn_start(c, h);
	thmqi_lobby_enter(&h->lobby, &c->guest);
	rc = atomic_load(&c->guest.listener->gone) ? -ECONNREFUSED : accept_here(c);
	if (rc) {
		reject(w, c->id, c->guest.listener->instance, rc);
		thmqi_rdma_end(c, rc);
	}
}

static void run_arrive(struct thmq_core *core, struct thmqi_task *task)
{
	struct rdma_conn *c = thmqi_container(task, struct rdma_conn, task);
	void **state = thmqi_transport_state(c->guest.listener->transport, &thmqi_medium_rdma);

	arrive(c, *state, core);
}

/* Who is meant? */
static int shard_core(const struct rdma_door *d, const struct rdma_ask *a, struct thmq_core **ret_core)
{
	const struct thmqi_guest anybody = {.listener = d->host.listener};

	if (a->status)
		return -EPROTO;
	if (thmqi_host_is_full(&d->host, 0))
		return -ECONNREFUSED;
	return thmqi_guest_core(&anybody, a->instance, a->shard, ret_core);
}

static void requested(struct rdma_door *d, struct rdma_cm_id *id,
		      const struct rdma_conn_param *param, const void *data, uint32_t len)
{
	struct thmq_core *core = NULL;
	struct rdma_conn *c = NULL;
	struct rdma_ask a;
	int rc = thmqi_rdma_ask_check(data, len, &a);

	if (!rc)
		rc = shard_core(d, &a, &core);
	if (!rc) {
		c = thmqi_rdma_conn_make(true);
		rc = c ? 0 : -ENOMEM;
	}
	if (rc) {
		reject(d->world, id, d->host.listener->instance, rc);
		d->world->cm.destroy_id(id);
		return;
	}
	c->id = id;
	c->ask = a;
	c->state = RDMA_MOVING;
	c->reads_max = param->initiator_depth;
	c->joint.silence_ns = d->host.silence_ns;
	thmqi_guest_open(&c->guest, &d->host);
	if (core == d->host.core) {
		arrive(c, d->world, core);
		return;
	}
	c->task.run = run_arrive;
	thmqi_core_post(core, &c->task);
}

/* -------------------------------------------------------------------- listen */

static void stop_listening(struct rdma_door *d)
{
	if (d->id)
		d->world->cm.destroy_id(d->id);
	d->id = NULL;
}

static int start_listening(struct rdma_door *d)
{
	const struct thmqi_cm *cm = &d->world->cm;
	int rc = 0, on = 1;

	if (cm->create_id(d->home->channel, &d->id, d, RDMA_PS_TCP) != 0) {
		d->id = NULL;
		return errno ? -errno : -EIO;
	}
	cm->set_option(d->id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof(on));
	if (cm->bind_addr(d->id, (struct sockaddr *)&d->address.addr) != 0 ||
	    cm->listen(d->id, BACKLOG) != 0)
		rc = errno ? -errno : -EIO;
	if (rc)
		stop_listening(d);
	return rc;
}

static void on_again(struct thmqi_timer *t)
{
	struct rdma_door *d = thmqi_container(t, struct rdma_door, timer);

	if (start_listening(d) != 0)
		thmqi_timer_start(d->host.core, &d->timer, d->host.core->now_ns + AGAIN_NS);
}

void thmqi_rdma_door_event(struct rdma_door *d, struct rdma_cm_id *id,
			   enum rdma_cm_event_type event, const struct rdma_conn_param *param,
			   const void *data, uint32_t len)
{
	if (event == RDMA_CM_EVENT_CONNECT_REQUEST) {
		requested(d, id, param, data, len);
	} else if (event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
		/* the device's connections hear of it only when this is gone */
		stop_listening(d);
		thmqi_timer_start(d->host.core, &d->timer, d->host.core->now_ns + AGAIN_NS);
	}
}

struct rdma_door *thmqi_rdma_door_find(struct rdma_home *h, const struct rdma_cm_id *id)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &h->doors)
	{
		struct rdma_door *d = thmqi_container(it, struct rdma_door, link);

		if (d->id == id)
			return d;
	}
	return NULL;
}

struct rdma_door *thmqi_rdma_door_of(struct thmqi_list *link)
{
	return thmqi_container(link, struct rdma_door, link);
}

static void door_free(struct rdma_door *d)
{
	thmqi_host_close(&d->host);
	free(d);
}

void thmqi_rdma_door_end(struct rdma_door *d)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, &d->home->lobby.guests)
	{
		struct rdma_conn *c = thmqi_container(it, struct rdma_conn, guest.link);

		if (c->guest.listener == d->host.listener)
			thmqi_rdma_end(c, -ECONNREFUSED);
	}
	stop_listening(d);
	thmqi_timer_stop(d->host.core, &d->timer);
	thmqi_list_del(&d->link);
	door_free(d);
}

static void format(struct rdma_door *d)
{
	char text[sizeof(d->url)];
	uint16_t port = d->world->cm.get_src_port(d->id);

	if (d->address.addr.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&d->address.addr)->sin6_port = port;
	else
		((struct sockaddr_in *)&d->address.addr)->sin_port = port;
	thmqi_tcp_format(&d->address, false, text, sizeof(text)); /* tcp://… */
	snprintf(d->url, sizeof(d->url), "rdma%.120s", strchrnul(text, ':'));
}

static int door_start(struct thmq_core *core, void *arg)
{
	struct rdma_door *d = arg;
	int rc = thmqi_rdma_home(d->world, core, &d->home);

	if (!rc)
		rc = start_listening(d);
	if (rc)
		return rc;
	format(d);
	d->timer.fire = on_again;
	thmqi_list_add_tail(&d->home->doors, &d->link);
	return 0;
}

/* A core's device and its registrations, which take time, so that the first who connects need not wait for them. */
static int prepare(struct thmq_core *core, void *arg)
{
	const struct rdma_door *d = arg;
	struct rdma_trust *t;
	struct rdma_home *h;
	struct rdma_hub *hub;
	int rc = thmqi_rdma_home(d->world, core, &h);

	if (!rc && d->id && d->id->verbs) {
		rc = thmqi_rdma_hub(h, d->id->verbs, &hub);
		if (!rc)
			rc = thmqi_rdma_trust(hub, NULL, &t);
		if (!rc)
			thmqi_rdma_trust_unref(t);
	}
	return rc;
}

static int door_stop(struct thmq_core *core, void *arg)
{
	(void)core;
	thmqi_rdma_door_end(arg);
	return 0;
}

static int why(const char *url, int rc)
{
	switch (rc) {
	case -EADDRINUSE:
		return thmqi_fail(
			rc, "listen on %s: somebody else listens at this address and port", url);
	case -ENODEV:
	case -EADDRNOTAVAIL:
		return thmqi_fail(-ENODEV,
				  "listen on %s: no RDMA device has this address (rdma link; "
				  "module rdma_ucm)",
				  url);
	case -EACCES:
		return thmqi_fail(rc, "listen on %s: /dev/infiniband/rdma_cm is not for this user",
				  url);
	default:
		return thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc));
	}
}

int thmqi_rdma_plain(const char *url, const struct thmq_tls_opts *tls)
{
	return thmqi_tcp_is_secure(url, tls)
		       ? thmqi_fail(-EPROTONOSUPPORT, "%s: RDMA is not encrypted; THMQ_TLS_BESIDE_PLAIN allows it beside tls://", url)
		       : 0;
}

int thmqi_rdma_listen(struct thmqi_listener *l, const char *url,
		      const struct thmqi_listen_opts *opts, void **ret_door)
{
	struct tcp_address addresses[TCP_ADDRESSES], from;
	struct rdma_world *w = NULL;
	struct rdma_door *d;
	uint32_t count = 0, i;
	int rc = thmqi_rdma_plain(url, opts->tls);

	if (!rc)
		rc = thmqi_rdma_addresses(url, true, addresses, TCP_ADDRESSES, &count, &from);
	if (!rc)
		rc = thmqi_rdma_world(l->transport, &w);
	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return thmqi_fail(-ENOMEM, "listen on %s: no memory", url);
	thmqi_list_init(&d->link);
	d->world = w;
	d->address = addresses[0];
	thmqi_host_open(&d->host, l, opts);
	rc = thmqi_core_call(d->host.core, door_start, d, UINT64_MAX);
	if (rc) {
		door_free(d);
		return why(url, rc);
	}
	for (i = 0; i < thmqi_env_core_count(l->transport->env);
	     i++) /* what fails here fails again later */
		thmqi_core_call(thmqi_env_core(l->transport->env, i), prepare, d, UINT64_MAX);
	*ret_door = d;
	return 0;
}

void thmqi_rdma_unlisten(void *door)
{
	struct rdma_door *d = door;

	/* where nobody drives the core it ends with it */
	thmqi_core_call(d->host.core, door_stop, d, UINT64_MAX);
}

const char *thmqi_rdma_url_of(const void *door)
{
	return ((const struct rdma_door *)door)->url;
}
