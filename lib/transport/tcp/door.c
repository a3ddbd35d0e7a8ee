/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - the broker's side until a connection is open: the listening socket, those that have not said what they want, and
 * their way to the core of the shard that they named. Nobody gets memory worth mentioning before the greeting is right.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tcp.h"

#define BACKLOG 512
#define ACCEPT_BUDGET 16u
#define RETRY_NS 50000000ull /* after accept had no descriptor or memory */

/* ---------------------------------------------------------------- greeting */

void thmqi_tcp_forget_greeting(struct tcp_conn *c)
{
	thmqi_list_del(&c->door_link);
	c->door->greeting_count--;
	c->door = NULL;
}

static void refuse(struct tcp_conn *c, int status)
{
	struct thmqi_hello answer = {.status = status, .instance = c->listener->instance};

	thmqi_tcp_count_refused(c, status);
	thmqi_tcp_hello_send(c, &answer, THMQI_HELLO_BROKER);
	thmqi_tcp_end(c, status);
}

/* A greeting that is complete: who is meant? The acceptor is there unless the listener is gone, till this iteration ends. */
static int shard_core(struct tcp_conn *c, struct thmq_core **ret_core)
{
	struct thmqi_listener *l = c->listener;
	int rc = thmqi_hello_check(&c->hello, THMQI_HELLO_CLIENT);

	if (rc)
		return rc;
	if (c->tls_config && !c->tls)
		return -ENOKEY; /* it speaks in clear */
	if (atomic_load(&l->gone))
		return -ECONNREFUSED;
	if (c->hello.instance && c->hello.instance != l->instance)
		return -ESHUTDOWN; /* the broker that it knew is not there any more */
	*ret_core = l->acceptor.core_of(l->acceptor.ctx, c->hello.shard);
	return *ret_core ? 0 : -ECONNREFUSED;
}

/* On the shard's core, on its list of pollers: the link is made, and the shard asked. */
static void adopt(struct tcp_conn *c)
{
	const struct thmqi_link_opts opts = {.area_bytes = c->hello.area_bytes,
					     .up_frames = c->hello.up_frames,
					     .down_frames = c->hello.down_frames};
	struct thmqi_hello answer = {.instance = c->listener->instance, .shard = c->hello.shard};
	struct thmqi_listener *l = c->listener;
	struct thmqi_link *link;
	int rc = c->hello.ctl_frames == THMQI_MIN(opts.up_frames, THMQI_CTL_FRAMES_MAX) ? 0
											: -EINVAL;

	if (!rc)
		rc = atomic_load(&l->gone) ? -ECONNREFUSED : thmqi_tcp_buffers(c);
	if (!rc)
		rc = thmqi_link_make(&opts, l->acceptor.end_bytes, &link);
	if (rc) {
		refuse(c, rc);
		return;
	}
	link->shard = c->hello.shard;
	link->core = c->core;
	link->waiter = c->nobody;
	thmqi_waiter_ref(c->nobody);
	link->listener = l;
	atomic_fetch_add(&l->refs, 1);
	link->client = c;
	rc = l->acceptor.accept(l->acceptor.ctx, link);
	if (rc) {
		thmqi_link_unref(link);
		thmqi_link_unref(link);
		refuse(c, rc);
		return;
	}
	c->link = link;
	answer.area_bytes = c->hello.area_bytes;
	answer.up_frames = c->hello.up_frames;
	answer.ctl_frames = c->hello.ctl_frames;
	answer.down_frames = c->hello.down_frames;
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
	thmqi_tcp_forget_greeting(c);
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
	c->link_done = c->socket_done = true;
	thmqi_tcp_free_if_done(c);
}

void thmqi_tcp_move(struct tcp_conn *c)
{
	struct thmqi_listener *l = c->listener;
	struct thmq_core *core = NULL;

	/* looked up again: several iterations may lie in between */
	if (!atomic_load(&l->gone))
		core = l->acceptor.core_of(l->acceptor.ctx, c->hello.shard);
	if (!core) {
		refuse(c, -ECONNREFUSED);
		return;
	}
	thmqi_tcp_off_core(c);
	c->task.run = run_arrive;
	thmqi_core_post(core, &c->task);
}

/* ------------------------------------------------------------------ accept */

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

static void take_in(struct tcp_door *d, int fd)
{
	struct tcp_conn *c = thmqi_tcp_make(true);
	const char *scheme = d->own ? d->own->scheme : d->tls ? "tls" : "tcp";
	int rc = d->own ? thmqi_own_ready(fd) : thmqi_tcp_socket_ready(fd);

	if (!c || rc || thmqi_guards_open(d->listener->transport, true, scheme, &c->guards) != 0) {
		free(c);
		thmqi_own_close(d->own, fd);
		return;
	}
	c->own = d->own;
	c->transport = d->listener->transport;
	if (d->greeting_count >= TCP_GREETINGS_MAX)
		thmqi_tcp_end(thmqi_list_first(&d->greetings, struct tcp_conn, door_link),
			      -ETIMEDOUT);
	c->fd = fd;
	c->tls_config = config_of(d);
	c->state = c->tls_config ? TCP_SHAKING : TCP_GREETING;
	c->silence_ns = d->opts.silence_ns;
	c->deadline_ns = d->core->now_ns + THMQI_MIN(TCP_GREETING_NS, c->silence_ns);
	c->listener = d->listener;
	atomic_fetch_add(&c->listener->refs, 1);
	atomic_fetch_add(&c->listener->connections, 1);
	c->nobody = d->nobody;
	thmqi_waiter_ref(c->nobody);
	if (thmqi_tcp_start(c, d->core) != 0) {
		thmqi_own_close(c->own, fd);
		c->fd = -1;
		c->link_done = c->socket_done = true;
		thmqi_tcp_free_if_done(c);
		return;
	}
	c->door = d;
	thmqi_list_add_tail(&d->greetings, &c->door_link);
	d->greeting_count++;
}

/* Those that are waited for do not count: they give way to others. */
static bool is_full(const struct tcp_door *d)
{
	return atomic_load(&d->listener->connections) - d->greeting_count >=
	       d->opts.connections_max;
}

/* Negative: errno tells. */
static int take_next(const struct tcp_door *d)
{
	int fd = -1, rc;

	if (!d->own || !d->own->accept)
		return accept4(d->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	rc = d->own->accept(d->own->ctx, d->fd, &fd);
	errno = -rc;
	return rc ? -1 : fd;
}

static int accept_some(struct tcp_door *d)
{
	uint32_t n;
	int fd;

	for (n = 0; n < ACCEPT_BUDGET; n++) {
		fd = take_next(d);
		if (fd >= 0) {
			if (is_full(d))
				thmqi_own_close(d->own, fd);
			else
				take_in(d, fd);
			continue;
		}
		if (errno == EAGAIN)
			d->readable = false;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			thmqi_timer_start(d->core, &d->timer, d->core->now_ns + RETRY_NS);
		else
			continue; /* of that connection */
		break;
	}
	return (int)n;
}

/* -------------------------------------------------------------------- door */

static void door_free(struct tcp_door *d)
{
	thmqi_own_close(d->own, d->fd);
	if (d->nobody)
		thmqi_waiter_unref(d->nobody);
	if (d->listener)
		thmqi_listener_unref(d->listener);
	thmqi_tls_config_unref(d->tls);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static void door_gone(struct tcp_door *d)
{
	thmqi_timer_stop(d->core, &d->timer);
	thmqi_core_remove_poller(d->core, &d->poller);
	door_free(d);
}

static void door_shut(struct tcp_door *d)
{
	if (d->closed)
		return;
	d->closed = true;
	while (!thmqi_list_empty(&d->greetings))
		thmqi_tcp_end(thmqi_list_first(&d->greetings, struct tcp_conn, door_link),
			      -ECONNREFUSED);
	shutdown(
		d->fd,
		SHUT_RDWR); /* nobody else gets in, though the ring may hold the file a little longer */
	thmqi_tcp_unwatch(&d->watch);
}

static int door_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct tcp_door *d = thmqi_container(p, struct tcp_door, poller);

	(void)budget;
	d->shakes = TCP_SHAKES_A_TURN;
	if (d->closed) {
		door_gone(d);
		return 1;
	}
	return d->readable && !thmqi_timer_is_running(&d->timer) ? accept_some(d) : 0;
}

static bool door_arm(struct thmqi_poller *p)
{
	struct tcp_door *d = thmqi_container(p, struct tcp_door, poller);

	return d->closed || (d->readable && !thmqi_timer_is_running(&d->timer));
}

static void door_end(struct thmqi_poller *p)
{
	struct tcp_door *d = thmqi_container(p, struct tcp_door, poller);

	door_shut(d);
	door_gone(d);
}

static void door_ready(void *ctx, uint32_t events)
{
	struct tcp_door *d = ctx;

	(void)events;
	d->readable = true;
}

static void door_retry(struct thmqi_timer *t)
{
	(void)t; /* the poller looks again */
}

/* ------------------------------------------------------------------ listen */

static int door_start(struct thmq_core *core, void *arg)
{
	struct tcp_door *d = arg;
	int rc = thmqi_watch_open(core, d->fd, EPOLLIN, door_ready, d, &d->watch);

	if (rc)
		return rc;
	d->timer.fire = door_retry;
	d->poller.poll = door_poll;
	d->poller.arm = door_arm;
	d->poller.end = door_end;
	thmqi_core_add_poller(core, &d->poller);
	return 0;
}

static int door_stop(struct thmq_core *core, void *arg)
{
	(void)core;
	door_shut(arg);
	return 0;
}

static int bind_one(struct tcp_door *d, const char *url, struct tcp_address *a)
{
	int on = 1, rc = 0;

	d->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->fd < 0 || setsockopt(d->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    bind(d->fd, (const struct sockaddr *)&a->addr, a->len) != 0 ||
	    listen(d->fd, BACKLOG) != 0)
		rc = -errno;
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
	thmqi_list_init(&d->greetings);
	pthread_mutex_init(&d->lock, NULL);
	d->fd = -1;
	d->opts = *opts;
	d->opts.silence_ns =
		THMQI_MAX(opts->silence_ns ? opts->silence_ns : TCP_SILENCE_NS, TCP_SILENCE_MIN_NS);
	d->opts.connections_max = opts->connections_max ? opts->connections_max : TCP_CONNECTIONS;
	d->opts.tls = NULL; /* the caller's, during this call only */
	d->core = thmqi_env_core(l->transport->env, 0);
	d->own = own;
	rc = !own && thmqi_tcp_is_secure(url, opts->tls) ? thmqi_tls_config_open(opts->tls, NULL, &d->tls)
							 : 0;
	if (!rc)
		rc = own ? listen_own(d, url) : bind_one(d, url, &addresses[0]);
	if (!rc) {
		rc = thmqi_waiter_open(&d->nobody);
		if (!rc) {
			d->listener = l;
			atomic_fetch_add(&l->refs, 1);
			rc = thmqi_core_call(d->core, door_start, d, UINT64_MAX);
		}
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

	/* where nobody drives the core it ends with it */
	thmqi_core_call(d->core, door_stop, d, UINT64_MAX);
}

const char *thmqi_tcp_url_of(const void *door)
{
	return ((const struct tcp_door *)door)->url;
}
