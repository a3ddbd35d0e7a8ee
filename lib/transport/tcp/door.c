/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - the broker's side until a connection is open: the listening socket, those that have not said what they want, and
 * their way to the core of the shard that they named. Nobody gets memory worth mentioning before the greeting is right.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>

#include "tcp.h"

#define BACKLOG 512

/* ---------------------------------------------------------------- greeting */

static void refuse(struct tcp_conn *c, int status)
{
	struct thmqi_hello answer = {.status = status, .instance = c->guest.listener->instance};

	thmqi_tcp_count_refused(c, status);
	thmqi_tcp_hello_send(c, &answer, THMQI_HELLO_BROKER);
	thmqi_tcp_end(c, status);
}

/* A greeting that is complete: who is meant? */
static int shard_core(struct tcp_conn *c, struct thmq_core **ret_core)
{
	int rc = thmqi_hello_check(&c->hello, THMQI_HELLO_CLIENT);

	if (rc)
		return rc;
	if (c->tls_config && !c->tls)
		return -ENOKEY; /* it speaks in clear */
	return thmqi_guest_core(&c->guest, c->hello.instance, c->hello.shard, ret_core);
}

/* On the shard's core, on its list of pollers: the link is made, and the shard asked. */
static void adopt(struct tcp_conn *c)
{
	struct thmqi_hello answer = {.instance = c->guest.listener->instance};
	struct thmqi_link *link;
	int rc = thmqi_tcp_buffers(c);

	c->guest.medium = c->own ? c->own->scheme : c->tls ? "tls" : "tcp";
	if (c->tls)
		snprintf(c->guest.peer, sizeof(c->guest.peer), "%s", thmqi_tls_peer(c->tls));
	if (!rc)
		rc = thmqi_guest_greeted(&c->guest, c->core, &c->hello, &c->poller, &link);
	if (rc) {
		refuse(c, rc);
		return;
	}
	c->joint.link = link;
	thmqi_joint_describe(link, &answer);
	rc = thmqi_tcp_hello_send(c, &answer, THMQI_HELLO_BROKER);
	if (rc)
		thmqi_tcp_end(c, rc);
	else
		thmqi_tcp_opened(c);
}

int thmqi_tcp_greet(struct tcp_conn *c)
{
	struct thmq_core *core;
	int rc;

	if (!c->readable)
		return 0;
	rc = thmqi_tcp_hello_recv(c);
	if (rc == 0)
		return 1;
	if (rc == -EPROTO && !c->tls && thmqi_tcp_is_tls(c)) {
		thmqi_tcp_count_refused(c, rc);
		thmqi_tcp_answer_tls(c);
		return 1;
	}
	if (rc < 0) {
		thmqi_tcp_end(c, rc);
		return 1;
	}
	rc = shard_core(c, &core);
	if (rc) {
		refuse(c, rc);
		return 1;
	}
	thmqi_lobby_leave(&c->guest);
	c->door = NULL;
	if (core == c->core) {
		adopt(c);
		return 1;
	}
	c->state = TCP_MOVING;
	thmqi_tcp_unwatch(&c->watch);
	return 1;
}

static void run_arrive(struct thmq_core *core, struct thmqi_task *task)
{
	struct tcp_conn *c = thmqi_container(task, struct tcp_conn, task);

	c->state = TCP_GREETING;
	c->readable = c->tls != NULL; /* the watch tells anew, but not of what TLS has already */
	c->writable = false;
	if (thmqi_tcp_start(c, core) == 0) {
		adopt(c);
		return;
	}
	thmqi_own_close(c->own, c->fd);
	c->fd = -1;
	c->joint.link_done = c->socket_done = true;
	thmqi_tcp_free_if_done(c);
}

void thmqi_tcp_move(struct tcp_conn *c)
{
	struct thmq_core *core;
	/* looked up again: several iterations may lie in between */
	int rc = thmqi_guest_core(&c->guest, 0, c->hello.shard, &core);

	if (rc) {
		refuse(c, rc);
		return;
	}
	thmqi_tcp_off_core(c);
	c->task.run = run_arrive;
	thmqi_core_post(core, &c->task);
}

/* ------------------------------------------------------------------ accept */

static struct tcp_door *door_of(struct thmqi_gate *g)
{
	return thmqi_container(g, struct tcp_door, gate);
}

/* As it is now: counted. */
static struct thmqi_tls_config *config_of(struct tcp_door *d)
{
	struct thmqi_tls_config *config;

	pthread_mutex_lock(&d->lock);
	config = d->tls;
	if (config)
		thmqi_tls_config_ref(config);
	pthread_mutex_unlock(&d->lock);
	return config;
}

bool thmqi_tcp_renew(void *door, struct thmqi_tls_config *config)
{
	struct tcp_door *d = door;
	struct thmqi_tls_config *before;

	pthread_mutex_lock(&d->lock);
	before = d->tls;
	if (before) {
		thmqi_tls_config_ref(config);
		d->tls = config;
	}
	pthread_mutex_unlock(&d->lock);
	thmqi_tls_config_unref(before);
	return before != NULL;
}

static void take_in(struct thmqi_gate *g, int fd)
{
	struct tcp_door *d = door_of(g);
	struct tcp_conn *c = thmqi_tcp_make(true);
	const char *scheme = d->own ? d->own->scheme : d->tls ? "tls" : "tcp";
	int rc = d->own ? thmqi_own_ready(fd) : thmqi_tcp_socket_ready(fd);

	if (!c || rc || thmqi_guards_open(g->host.listener->transport, true, scheme, &c->guards) != 0) {
		free(c);
		thmqi_own_close(d->own, fd);
		return;
	}
	c->own = d->own;
	c->transport = g->host.listener->transport;
	c->fd = fd;
	c->zerocopy = d->zerocopy;
	c->tls_config = config_of(d);
	c->state = c->tls_config ? TCP_SHAKING : TCP_GREETING;
	c->joint.silence_ns = g->host.silence_ns;
	c->deadline_ns = g->host.core->now_ns + THMQI_MIN(TCP_GREETING_NS, c->joint.silence_ns);
	thmqi_guest_open(&c->guest, &g->host);
	if (thmqi_tcp_start(c, g->host.core) != 0) {
		thmqi_own_close(c->own, fd);
		c->fd = -1;
		c->joint.link_done = c->socket_done = true;
		thmqi_tcp_free_if_done(c);
		return;
	}
	c->door = d;
	thmqi_lobby_enter(&g->lobby, &c->guest);
}

static void end_guest(struct thmqi_guest *guest, int error)
{
	thmqi_tcp_end(thmqi_container(guest, struct tcp_conn, guest), error);
}

static void turn_away(struct thmqi_gate *g, int fd)
{
	thmqi_own_close(door_of(g)->own, fd);
}

/* Negative: errno tells. */
static int take_next(struct thmqi_gate *g)
{
	const struct tcp_door *d = door_of(g);
	int fd = -1, rc;

	if (!d->own || !d->own->accept)
		return accept4(d->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	rc = d->own->accept(d->own->ctx, d->fd, &fd);
	errno = -rc;
	return rc ? -1 : fd;
}

static void door_free(struct tcp_door *d)
{
	thmqi_own_close(d->own, d->fd);
	thmqi_host_close(&d->gate.host);
	thmqi_tls_config_unref(d->tls);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static void gate_free(struct thmqi_gate *g)
{
	door_free(door_of(g));
}

/* Nobody else gets in, though the ring may hold the file a little longer. */
static void shut(struct thmqi_gate *g)
{
	shutdown(door_of(g)->fd, SHUT_RDWR);
}

static const struct thmqi_gate_ops gate_ops = {
	.next = take_next,
	.take = take_in,
	.turn_away = turn_away,
	.end = end_guest,
	.shut = shut,
	.free = gate_free,
};

/* ------------------------------------------------------------------ listen */

/* An address of the machine's that is of no use here: another one may be. */
static bool is_not_here(int rc)
{
	return rc == -EAFNOSUPPORT || rc == -EADDRNOTAVAIL;
}

/* 0, or an error, and d->fd is closed. */
static int bind_to(struct tcp_door *d, const struct tcp_address *a)
{
	int on = 1, off = 0, rc = 0;

	d->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->fd < 0)
		return -errno;
	/* every address is those of IPv4, too, whatever the machine's default is */
	if ((a->any && a->addr.ss_family == AF_INET6 && setsockopt(d->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0) ||
	    setsockopt(d->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    bind(d->fd, (const struct sockaddr *)&a->addr, a->len) != 0 || listen(d->fd, BACKLOG) != 0)
		rc = -errno;
	if (rc) {
		close(d->fd);
		d->fd = -1;
	}
	return rc;
}

static int bind_first(struct tcp_door *d, const char *url, struct tcp_address *a, uint32_t count)
{
	int rc = bind_to(d, a);

	for (; is_not_here(rc) && count > 1; count--)
		rc = bind_to(d, ++a);
	if (rc == -EADDRINUSE)
		return thmqi_fail(rc, "listen on %s: another socket has this address and port",
				  url);
	if (rc == -EACCES)
		return thmqi_fail(
			rc, "listen on %s: not allowed; ports below 1024 may need a privilege",
			url);
	if (rc)
		return thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc));
	a->len = sizeof(a->addr);
	if (getsockname(d->fd, (struct sockaddr *)&a->addr, &a->len) != 0)
		return thmqi_fail(-errno, "listen on %s: %s", url, thmq_strerror(-errno));
	thmqi_tcp_format(a, d->tls != NULL, d->url, sizeof(d->url));
	return 0;
}

static int listen_own(struct tcp_door *d, const char *url)
{
	int rc, fd = -1;

	if (strlen(url) >= sizeof(d->url))
		return thmqi_fail(-ENAMETOOLONG, "listen on %.64s…: the URL is too long", url);
	strcpy(d->url, url);
	rc = d->own->listen ? d->own->listen(d->own->ctx, url, &fd, d->url, sizeof(d->url)) : -EOPNOTSUPP;
	d->url[sizeof(d->url) - 1] = 0;
	if (rc >= 0) {
		d->fd = fd; /* closed with the door */
		rc = thmqi_own_ready(fd);
	}
	return rc ? thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc)) : 0;
}

int thmqi_tcp_listen(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts, void **ret_door)
{
	struct tcp_address addresses[TCP_ADDRESSES];
	struct tcp_door *d;
	uint32_t count = 0;
	const struct thmq_transport *own = thmqi_own_of(l->transport, url);
	int rc = own ? 0 : thmqi_tcp_resolve(url, true, addresses, TCP_ADDRESSES, &count);

	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return thmqi_fail(-ENOMEM, "listen on %s: no memory", url);
	thmqi_lobby_init(&d->gate.lobby, TCP_GREETINGS_MAX);
	pthread_mutex_init(&d->lock, NULL);
	d->fd = -1;
	d->own = own;
	d->zerocopy = own ? TCP_COPIES : (uint8_t)thmqi_tcp_zerocopy_of(url);
	rc = !own && thmqi_tcp_is_secure(url, opts->tls) ? thmqi_tls_config_open(opts->tls, NULL, &d->tls)
							 : 0;
	if (!rc)
		rc = own ? listen_own(d, url) : bind_first(d, url, addresses, count);
	if (!rc) {
		thmqi_host_open(&d->gate.host, l, opts);
		rc = thmqi_gate_start(&d->gate, &gate_ops, d->fd);
		if (rc)
			thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc));
	}
	if (rc) {
		door_free(d);
		return rc;
	}
	*ret_door = d;
	return 0;
}

void thmqi_tcp_unlisten(void *door)
{
	struct tcp_door *d = door;

	thmqi_gate_stop(&d->gate);
}

const char *thmqi_tcp_url_of(const void *door)
{
	return ((const struct tcp_door *)door)->url;
}
