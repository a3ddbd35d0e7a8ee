/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect.c - rdma:// as a medium, and the client's way to a broker: address, route, queue pair, answer, greeting. All steps
 * are events of the connection manager, which may also never come: there is a deadline for each.
 *
 * The queue pair is made on a device context of ours and the connection manager is only told its number, so that what the
 * device says of it comes to us.
 */
#include <stdio.h>

#include "medium.h"

#define RESOLVE_MS 2000

/* ----------------------------------------------------------------------- URL */

/* @from: the value of "?from=", "" without. */
int thmqi_rdma_parse(const char *url, char place[128], char from[128])
{
	static const char key[] = "from=";
	const char *query = strchrnul(url, '?');
	size_t len = (size_t)(query - url);

	from[0] = 0;
	if (len >= 128)
		return thmqi_fail(-EINVAL, "%.64s…: the host is too long", url);
	memcpy(place, url, len);
	place[len] = 0;
	if (*query) {
		query++;
		if (strncmp(query, key, sizeof(key) - 1) != 0 || strlen(query) >= 100)
			return thmqi_fail(-EINVAL,
					  "%.64s: behind ? only from=ADDRESS is known, the address "
					  "of this machine's own port",
					  url);
		/* as a URL of its own, so that one function understands both */
		query += sizeof(key) - 1;
		snprintf(from, 128, strchr(query, ':') ? "rdma://[%s]:0" : "rdma://%s:0", query);
	}
	return 0;
}

int thmqi_rdma_addresses(const char *url, bool passive, struct tcp_address *ret, uint32_t max,
			 uint32_t *ret_count, struct tcp_address *ret_from)
{
	char place[128], from[128];
	uint32_t count = 0;
	int rc = thmqi_rdma_parse(url, place, from);

	ret_from->len = 0;
	if (!rc && from[0])
		rc = thmqi_tcp_resolve(from, true, ret_from, 1, &count);
	return rc ? rc : thmqi_tcp_resolve(place, passive, ret, max, ret_count);
}

static int rdma_check(const char *url)
{
	char place[128], from[128];
	int rc = thmqi_rdma_parse(url, place, from);

	if (!rc && from[0])
		rc = thmqi_tcp_check(from);
	return rc ? rc : thmqi_tcp_check(place);
}

/* -------------------------------------------------------------------- greeting */

void thmqi_rdma_ask_seal(struct rdma_ask *a)
{
	a->magic = RDMA_ASK_MAGIC;
	a->version = RDMA_ASK_VERSION;
	a->bytes = sizeof(*a);
	a->slot_bytes = RDMA_SLOT_BYTES;
	a->credits = RDMA_CREDITS;
	a->crc = thmqi_crc32c(0, a, offsetof(struct rdma_ask, crc));
}

int thmqi_rdma_ask_check(const void *data, uint32_t len, struct rdma_ask *ret)
{
	struct rdma_ask a;

	/* it comes with zeros behind it, as many as the connection manager has room for */
	if (len < sizeof(a))
		return -EPROTO;
	memcpy(&a, data, sizeof(a));
	if (a.magic != RDMA_ASK_MAGIC || a.bytes < sizeof(a))
		return -EPROTO;
	if (a.version != RDMA_ASK_VERSION)
		return -THMQ_EVERSION;
	if (a.crc != thmqi_crc32c(0, &a, offsetof(struct rdma_ask, crc)) || a.status > 0)
		return -EPROTO;
	if (!a.status &&
	    (a.slot_bytes < RDMA_SLOT_BYTES_MIN || a.credits < 4 || a.credits > RDMA_CREDITS_MAX))
		return -EINVAL;
	*ret = a;
	return 0;
}

/* Our own work, which registers memory, is not the other's delay. */
static void wait_anew(struct rdma_conn *c)
{
	c->deadline_ns = c->core->clock->now_ns(c->core->clock->ctx) + RDMA_GREETING_NS;
	thmqi_timer_start(c->core, &c->timer, c->deadline_ns);
}

static void say_hello(struct rdma_conn *c)
{
	struct thmqi_hello hello = {.instance = c->instance};
	int rc;

	/* without it large messages go through the stream */
	if (thmqi_rdma_register_area(c) == 0)
		hello.capabilities |= THMQI_HELLO_ELSEWHERE;
	if (c->area) {
		hello.area_at = (uintptr_t)c->joint.link->area;
		hello.area_key = c->area->rkey;
	}
	if (c->trust->landing)
		hello.capabilities |= THMQI_HELLO_GRANTS;
	memcpy(hello.client_id, c->client_id, sizeof(hello.client_id));
	thmqi_joint_describe(c->joint.link, &hello);
	c->state = RDMA_GREETING;
	wait_anew(c);
	rc = thmqi_rdma_hello_send(c, &hello, THMQI_HELLO_CLIENT);
	if (rc)
		thmqi_rdma_end(c, rc);
}

int thmqi_rdma_greeted(struct rdma_conn *c)
{
	int rc = thmqi_hello_check(&c->hello, THMQI_HELLO_BROKER);

	if (rc == 0 && c->hello.status)
		rc = c->hello.status;
	if (rc == 0 && c->instance && c->instance != c->hello.instance)
		rc = -ESHUTDOWN;
	if (rc)
		return rc;
	c->instance = c->hello.instance;
	c->elsewhere = c->area && (c->hello.capabilities & THMQI_HELLO_ELSEWHERE);
	c->grants = c->trust->landing && (c->hello.capabilities & THMQI_HELLO_GRANTS);
	thmqi_rdma_opened(c);
	return 0;
}

/* --------------------------------------------------------------------- steps */

static void connect_next(struct rdma_conn *c);

/* One address has failed: its queue pair had nothing to do yet. */
static void failed(struct rdma_conn *c, int error)
{
	c->error = error;
	if (c->state == RDMA_RESOLVING && c->address_next < c->address_count) {
		thmqi_rdma_queue_close(c);
		connect_next(c);
		return;
	}
	thmqi_rdma_end(c, error);
}

static int try_address(struct rdma_conn *c, struct tcp_address *a)
{
	const struct thmqi_cm *cm = &c->home->world->cm;
	struct sockaddr *from = c->from.len && c->from.addr.ss_family == a->addr.ss_family
					? (struct sockaddr *)&c->from.addr
					: NULL;

	if (cm->create_id(c->home->channel, &c->id, c, RDMA_PS_TCP) != 0) {
		c->id = NULL;
		return errno ? -errno : -EIO;
	}
	if (cm->resolve_addr(c->id, from, (struct sockaddr *)&a->addr, RESOLVE_MS) == 0)
		return 0;
	return errno ? -errno : -EIO;
}

static void connect_next(struct rdma_conn *c)
{
	while (c->address_next < c->address_count) {
		int rc = try_address(c, &c->addresses[c->address_next++]);

		if (!rc)
			return;
		thmqi_rdma_queue_close(c);
		c->error = rc;
	}
	thmqi_rdma_end(c, c->error ? c->error : -ECONNREFUSED);
}

static void ask(struct rdma_conn *c)
{
	struct rdma_ask a = {.shard = c->joint.link->shard, .instance = c->instance};
	struct rdma_conn_param param;
	int rc = thmqi_rdma_queue_open(c);

	c->state = RDMA_CONNECTING;
	wait_anew(c);
	if (!rc) {
		thmqi_rdma_ask_seal(&a);
		thmqi_rdma_param(c, &a, &param);
		if (c->home->world->cm.connect(c->id, &param) != 0)
			rc = errno ? -errno : -EIO;
	}
	if (rc)
		thmqi_rdma_end(c, rc);
}

/* The broker has accepted. @established: so has the connection manager (iWARP, which has no third step). */
static void answered(struct rdma_conn *c, bool established, const void *data, uint32_t len)
{
	int rc = thmqi_rdma_ask_check(data, len, &c->ask);

	c->connected = true;
	if (!rc && c->ask.status)
		rc = c->ask.status;
	if (!rc)
		rc = thmqi_rdma_queue_ready(c);
	if (!rc && !established && c->home->world->cm.establish(c->id) != 0)
		rc = errno ? -errno : -EIO;
	if (rc)
		thmqi_rdma_end(c, rc);
	else
		say_hello(c);
}

/* Nobody listens there; or a broker said why not. */
static int why_rejected(const struct rdma_conn *c, int status, const void *data, uint32_t len)
{
	struct rdma_ask a;
	int rc;

	if (status == 8 || status == -ECONNREFUSED)
		return -ECONNREFUSED; /* no such service */
	rc = thmqi_rdma_ask_check(data, len, &a);
	if (rc == 0)
		rc = a.status ? a.status : -EPROTO;
	(void)c;
	return rc;
}

void thmqi_rdma_event_of(struct rdma_conn *c, enum rdma_cm_event_type event, int status,
			 const void *data, uint32_t len)
{
	if (c->state == RDMA_CLOSED)
		return;
	switch (event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		if (c->home->world->cm.resolve_route(c->id, RESOLVE_MS) != 0)
			failed(c, errno ? -errno : -EIO);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		ask(c);
		break;
	case RDMA_CM_EVENT_CONNECT_RESPONSE:
		if (c->state == RDMA_CONNECTING)
			answered(c, false, data, len);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		if (c->state == RDMA_CONNECTING)
			answered(c, true, data, len);
		break;
	case RDMA_CM_EVENT_REJECTED:
		thmqi_rdma_end(c, why_rejected(c, status, data, len));
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		failed(c, status < 0 ? status : -EHOSTUNREACH);
		break;
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
		thmqi_rdma_end(c, status < 0 ? status : -ETIMEDOUT);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		if (c->trust)
			thmqi_rdma_hub_dead(c->trust->hub, -ENODEV);
		thmqi_rdma_end(c, -ENODEV);
		break;
	case RDMA_CM_EVENT_ADDR_CHANGE: /* the way has changed: a new connection finds the new one */
	case RDMA_CM_EVENT_DISCONNECTED:
		thmqi_rdma_end(c, c->state == RDMA_LEAVING ? c->error : -ECONNRESET);
		break;
	default:
		break; /* TIMEWAIT_EXIT */
	}
}

/* -------------------------------------------------------------- the session's */

/* On the core, as the acceptor of the session's link: the way to the broker is begun. */
static int client_accept(void *ctx, struct thmqi_link *link)
{
	struct rdma_conn *c = ctx;
	struct rdma_world *w =
		*thmqi_transport_state(link->listener->transport, &thmqi_medium_rdma);
	struct rdma_home *h;
	int rc = thmqi_rdma_home(w, link->core, &h);

	if (rc) {
		c->joint.link_done = c->queue_done = true;
		thmqi_rdma_conn_free_if_done(c);
		return rc;
	}
	c->state = RDMA_RESOLVING;
	c->deadline_ns = link->core->now_ns + RDMA_GREETING_NS;
	thmqi_rdma_conn_start(c, h);
	c->joint.link = c->mirror = link;
	atomic_fetch_add(&link->refs, 1);
	link->broker = c;
	connect_next(c);
	return 0;
}

/* The session has closed its end: what lies in the rings still goes, if that does not take long. */
static void client_closed(void *ctx, struct thmqi_link *link)
{
	struct rdma_conn *c = ctx;

	(void)link;
	c->joint.client_gone = true;
	if (c->state != RDMA_OPEN) {
		thmqi_rdma_end(c, -ESHUTDOWN);
		return;
	}
	c->deadline_ns = c->core->now_ns + RDMA_LEAVE_NS;
	thmqi_rdma_tick_at(c, c->deadline_ns);
}

/* Where another link of the session leads to: its connection is there as long as the link is. */
static int addresses_of(struct rdma_conn *c, const char *url, const struct thmqi_link *beside)
{
	const struct rdma_conn *other = beside ? beside->listener->acceptor.ctx : NULL;

	if (!other)
		return thmqi_rdma_addresses(url, false, c->addresses, TCP_ADDRESSES,
					    &c->address_count, &c->from);
	memcpy(c->addresses, other->addresses, sizeof(c->addresses));
	c->address_count = other->address_count;
	c->from = other->from;
	c->instance = other->instance;
	return 0;
}

static int rdma_connect_link(struct thmqi_transport *t, const char *url, uint32_t shard,
			     const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
			     struct thmqi_link **ret_link)
{
	struct thmqi_acceptor acceptor = {.accept = client_accept, .closed = client_closed};
	struct rdma_world *w;
	struct rdma_conn *c;
	int rc = thmqi_rdma_world(t, &w);

	if (rc)
		return rc;
	c = thmqi_rdma_conn_make(false);
	if (!c)
		return thmqi_fail(-ENOMEM, "%s: no memory for a connection", url);
	acceptor.ctx = c;
	c->joint.silence_ns =
		THMQI_MAX(opts->silence_ns ? opts->silence_ns : JOINT_SILENCE_NS, JOINT_SILENCE_MIN_NS);
	memcpy(c->client_id, t->client_id, sizeof(c->client_id));
	rc = addresses_of(c, url, opts->beside);
	if (opts->anew)
		c->instance = 0;
	if (!rc)
		rc = thmqi_joint_connect(t, url, shard, opts, &acceptor, waiter, ret_link);
	if (rc)
		free(c);
	return rc;
}

/* ----------------------------------------------------------------- the medium */

int thmqi_rdma_world(struct thmqi_transport *t, struct rdma_world **ret_world)
{
	void **state = thmqi_transport_state(t, &thmqi_medium_rdma);
	struct rdma_world *w;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	w = *state;
	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			rc = thmqi_fail(-ENOMEM, "rdma: no memory");
		if (!rc)
			rc = thmqi_verbs_load(&w->verbs);
		if (!rc)
			rc = thmqi_cm_load(&w->cm);
		if (!rc) /* for its text: what fails on a core has none */
			rc = THMQI_MIN(thmqi_rdma_list(&w->verbs, NULL, 0), 0);
		if (rc) {
			free(w);
		} else {
			w->transport = t;
			*state = w;
		}
	}
	pthread_mutex_unlock(&t->lock);
	if (!rc)
		*ret_world = w;
	return rc;
}

int thmqi_rdma_counters(struct thmqi_transport *t, struct thmqi_rdma_counters *ret)
{
	void **state = thmqi_transport_state(t, &thmqi_medium_rdma);
	struct rdma_world *w = state ? *state : NULL;
	uint32_t i, j;

	if (!w)
		return -ENODEV;
	memset(ret, 0, sizeof(*ret));
	for (i = 0; i < THMQ_CORE_COUNT_MAX; i++)
		for (j = 0; w->homes[i] && j < sizeof(*ret) / sizeof(uint64_t); j++)
			((uint64_t *)ret)[j] += ((uint64_t *)&w->homes[i]->counters)[j];
	return 0;
}

/* Nobody shall be in clear who meant not to be. */
static int rdma_secure(const char *url, const struct thmq_tls_opts *opts, struct thmqi_tls_config **ret_config)
{
	*ret_config = NULL;
	return thmqi_rdma_plain(url, opts);
}

const struct thmqi_medium thmqi_medium_rdma = {
	.scheme = "rdma",
	.check = rdma_check,
	.listen = thmqi_rdma_listen,
	.unlisten = thmqi_rdma_unlisten,
	.url_of = thmqi_rdma_url_of,
	.secure = rdma_secure,
	.connect = rdma_connect_link,
	.close = free,
};
