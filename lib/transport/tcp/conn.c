/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - a connection's life on its core: greeted, open, left, closed; what its poller and its timer do; and how the other's
 * death is noticed. Knows not how frames are read and written (in.c, out.c), nor who accepts (door.c) or connects (tcp.c).
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tcp.h"

#define STALL_NS 1000000ull  /* until memory is asked for again */
#define REST_ROUNDS 256u /* of the core without work, before a connection is not looked at any more */
#define LAST_ROUNDS 16u /* of sending, when the core closes */
#define HOT_NEWS 8u     /* received without a sleep of the core in between: more will come */
#define HOT_LOOKS 64u   /* of which nothing came: it is told again */

/* ---------------------------------------------------------------- made, freed */

static void parted(struct thmqi_joint *j)
{
	thmqi_tcp_free_if_done(thmqi_container(j, struct tcp_conn, joint));
}

struct tcp_conn *thmqi_tcp_make(bool of_broker)
{
	struct tcp_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->fd = -1;
	thmqi_joint_init(&c->joint, of_broker);
	c->joint.parted = parted;
	c->deadline_ns = c->address_ns = UINT64_MAX;
	thmqi_stream_init(&c->in, of_broker);
	return c;
}

int thmqi_tcp_buffers(struct tcp_conn *c)
{
	c->rx = malloc(TCP_RX_BYTES);
	c->tx = malloc(TCP_TX_BYTES);
	return c->rx && c->tx ? 0 : -ENOMEM;
}

static void uncount_tls(struct tcp_conn *c)
{
	if (!c->secured)
		return;
	c->secured = false;
	if (c->guest.listener && c->tls->kernel)
		atomic_fetch_sub(&c->guest.listener->kernel_tls_connections, 1);
	if (c->guest.listener)
		atomic_fetch_sub(&c->guest.listener->tls_connections, 1);
}

void thmqi_tcp_free_if_done(struct tcp_conn *c)
{
	if (!c->joint.link_done || !c->socket_done)
		return;
	thmqi_joint_free_runs(&c->joint);
	uncount_tls(c);
	thmqi_guards_close(&c->guards, -ESHUTDOWN);
	thmqi_tls_close(c->tls);
	thmqi_tls_config_unref(c->tls_config);
	thmqi_guest_close(&c->guest);
	free(c->url);
	free(c->rx);
	free(c->tx);
	free(c);
}

/* ------------------------------------------------------------------- socket */

int thmqi_tcp_socket_ready(int fd)
{
	int on = 1;

	return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) ? -errno : 0;
}

void thmqi_tcp_unwatch(struct thmq_watch **watch)
{
	if (*watch)
		thmqi_watch_close(*watch);
	*watch = NULL;
}

static void on_ready(void *ctx, uint32_t events)
{
	struct tcp_conn *c = ctx;

	thmqi_core_rouse_poller(c->core, &c->poller);
	if (thmqi_unlikely(c->zc_next) && (events & EPOLLERR) && thmqi_tcp_zerocopy_is_all(c))
		events &= ~(uint32_t)EPOLLERR;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->readable = c->hung_up = true;
	if (events & EPOLLIN)
		c->readable = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		c->writable = true;
}

static int watch(struct tcp_conn *c)
{
	return thmqi_watch_open(c->core, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, on_ready, c, &c->watch);
}

/*
 * To be told that there is something to read costs more than to look: a call into the kernel more on this side, and work on the
 * sender's. As long as the core does not sleep, and one thing comes after the other, the socket is read in each iteration instead.
 */
static void warm(struct tcp_conn *c)
{
	if (c->sleeps != c->core->sleeps) {
		c->sleeps = c->core->sleeps;
		c->news = 0;
	}
	if (++c->news < HOT_NEWS || c->tls || c->own || c->guards || !c->writable || !c->watch || c->core->world->idle ||
	    thmqi_watch_pause(c->watch) != 0)
		return;
	c->hot = true;
	c->news = 0;
}

static void cool(struct tcp_conn *c)
{
	if (thmqi_watch_go_on(c->watch) != 0)
		return; /* asked again */
	c->hot = false;
	c->news = 0;
}

static int read_open(struct tcp_conn *c)
{
	int done;

	c->readable |= c->hot;
	if (!c->readable && !c->stalled)
		return 0;
	done = thmqi_tcp_in(c);
	if (c->state != TCP_OPEN)
		return done;
	if (!c->hot && done)
		warm(c);
	else if (c->hot)
		c->news = done ? 0 : c->news + 1;
	if (c->hot && (c->news >= HOT_LOOKS || !c->writable))
		cool(c);
	return done;
}

/* -------------------------------------------------------------------- time */

void thmqi_tcp_tick_at(struct tcp_conn *c, uint64_t ns)
{
	if (!thmqi_timer_is_running(&c->timer) || c->timer.deadline_ns > ns)
		thmqi_timer_start(c->core, &c->timer, ns);
}

static void tick(struct tcp_conn *c);

/* Who rests need not be roused for it, unless there is something to say. */
static void on_timer(struct thmqi_timer *t)
{
	struct tcp_conn *c = thmqi_container(t, struct tcp_conn, timer);

	if (!c->poller.rests) {
		c->ticked = true;
		return;
	}
	tick(c);
	if (c->state != TCP_OPEN || c->readable || thmqi_tcp_out_wanted(c))
		thmqi_core_rouse_poller(c->core, &c->poller);
}

static uint64_t next_tick(const struct tcp_conn *c)
{
	uint64_t now = c->core->now_ns;

	if (c->state == TCP_OPEN || c->state == TCP_CLOSED)
		return now + c->joint.tick_ns;
	return THMQI_MAX(c->state == TCP_CONNECTING ? THMQI_MIN(c->deadline_ns, c->address_ns) : c->deadline_ns, now + 1000000u);
}

/* Once what has come was read: who did not say anything for so long is dead, and so is who takes nothing. */
static void look_at_peer(struct tcp_conn *c)
{
	uint64_t now = c->core->now_ns;

	if (!c->stalled && now - c->joint.heard_ns > c->joint.silence_ns)
		thmqi_tcp_end(c, -ETIMEDOUT);
	else if ((c->iov_at < c->iov_count || thmqi_tcp_unsent(c)) && now - c->joint.moved_ns > c->joint.silence_ns)
		thmqi_tcp_end(c, -ETIMEDOUT);
}

/* The poller tries the next one. */
static void give_up_address(struct tcp_conn *c, int error)
{
	c->error = error;
	c->retry = true;
	c->address_ns = UINT64_MAX;
	thmqi_tcp_unwatch(&c->watch);
}

static void tick(struct tcp_conn *c)
{
	uint64_t now = c->core->now_ns;

	c->ticked = false;
	if (c->state == TCP_CLOSED || c->state == TCP_MOVING)
		return; /* the poller ends that */
	if (now >= c->deadline_ns)
		thmqi_tcp_end(c, -ETIMEDOUT);
	else if (c->state == TCP_CONNECTING && now >= c->address_ns)
		give_up_address(c, -ETIMEDOUT);
	else if (c->state == TCP_OPEN)
		look_at_peer(c);
	if (c->state == TCP_OPEN)
		thmqi_joint_tick(&c->joint);
	thmqi_tcp_tick_at(c, next_tick(c));
	if (thmqi_unlikely(c->guards != NULL) && c->state != TCP_CLOSED)
		thmqi_tcp_unhold(c);
}

void thmqi_tcp_opened(struct tcp_conn *c)
{
	c->state = TCP_OPEN;
	c->deadline_ns = UINT64_MAX;
	if (thmqi_unlikely(c->zerocopy))
		thmqi_tcp_zerocopy_begin(c);
	thmqi_joint_opened(&c->joint, c->hello.silence_ms);
	thmqi_timer_start(c->core, &c->timer, c->core->now_ns + c->joint.tick_ns);
}

/* --------------------------------------------------------------------- end */

/* What TLS says goes with the error, in words. */
static void link_end(struct tcp_conn *c, int error)
{
	struct thmqi_link *link = c->joint.link;

	if (link && !c->joint.of_broker && !c->joint.client_gone && c->tls && !link->why[0])
		memcpy(link->why, thmqi_tls_why(c->tls), strnlen(thmqi_tls_why(c->tls), sizeof(link->why) - 1));
	thmqi_joint_end(&c->joint, error);
}

void thmqi_tcp_end(struct tcp_conn *c, int error)
{
	if (c->state == TCP_CLOSED)
		return;
	thmqi_lobby_leave(&c->guest);
	c->door = NULL;
	c->state = TCP_CLOSED;
	c->joint.tick_ns = JOINT_BEAT_NS;
	c->iov_at = c->iov_count = 0;
	thmqi_guards_close(&c->guards, error);
	if (thmqi_unlikely(c->zc_count))
		thmqi_tcp_zerocopy_cut(c); /* before the shard takes back what it refers to */
	link_end(c, error);
	/* the other hears of it now, though the descriptor is closed a little later */
	shutdown(c->fd, SHUT_RDWR);
	thmqi_tcp_unwatch(&c->watch);
	if (c->on_core) {
		thmqi_core_rouse_poller(c->core, &c->poller);
		thmqi_tcp_tick_at(c, c->core->now_ns + c->joint.tick_ns);
	}
}

void thmqi_tcp_off_core(struct tcp_conn *c)
{
	if (!c->on_core)
		return;
	c->on_core = false;
	thmqi_timer_stop(c->core, &c->timer);
	thmqi_core_remove_poller(c->core, &c->poller);
}

/* All is said: the other closes when it has read it. */
void thmqi_tcp_leave(struct tcp_conn *c, int error)
{
	if (c->tls)
		thmqi_tls_bye(c->tls);
	shutdown(c->fd, SHUT_WR);
	c->error = error;
	c->state = TCP_LEAVING;
	c->readable = true;
	c->deadline_ns = c->core->now_ns + TCP_LEAVE_NS;
	thmqi_tcp_tick_at(c, c->deadline_ns);
}

static void socket_end(struct tcp_conn *c)
{
	thmqi_tcp_off_core(c);
	uncount_tls(c);
	thmqi_tls_close(c->tls); /* the client's end of the link may stay for long */
	c->tls = NULL;
	thmqi_own_close(c->own, c->fd);
	c->fd = -1;
	c->socket_done = true;
	thmqi_tcp_free_if_done(c);
}

/* ------------------------------------------------------------------- poller */

static int poll_leaving(struct tcp_conn *c)
{
	if (!c->readable)
		return 0;
	thmqi_tcp_discard(c);
	return 1;
}

static int connect_next(struct tcp_conn *c);

void thmqi_tcp_say_hello(struct tcp_conn *c)
{
	struct thmqi_hello hello = {.instance = c->instance};
	int rc;

	memcpy(hello.client_id, c->client_id, sizeof(hello.client_id));
	thmqi_joint_describe(c->joint.link, &hello);
	rc = thmqi_tcp_hello_send(c, &hello, THMQI_HELLO_CLIENT);
	if (rc)
		thmqi_tcp_end(c, rc);
	else
		c->state = TCP_GREETING;
}

static int poll_connecting(struct tcp_conn *c)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (c->retry) {
		thmqi_own_close(c->own, c->fd);
		c->fd = -1;
		c->retry = false;
		return connect_next(c);
	}
	if (!c->writable)
		return 0;
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = c->own && errno == ENOTSOCK ? 0 : errno; /* then its send tells */
	if (error) {
		give_up_address(c, -error);
		return 1;
	}
	if (c->tls_config) {
		c->state = TCP_SHAKING;
		c->shake = true;
	} else {
		thmqi_tcp_say_hello(c);
	}
	return 1;
}

/* The broker's answer. */
static int poll_answer(struct tcp_conn *c)
{
	int rc;

	if (!c->readable)
		return 0;
	rc = thmqi_tcp_hello_recv(c);
	if (rc == 0)
		return 1;
	if (rc == 1)
		rc = thmqi_hello_check(&c->hello, THMQI_HELLO_BROKER);
	if (rc == 0 && c->hello.status)
		rc = c->hello.status;
	if (rc == -ENOKEY && !c->tls)
		strcpy(c->joint.link->why, "the broker speaks TLS there: connect to it by tls://");
	if (rc == 0 && c->instance && c->instance != c->hello.instance)
		rc = -ESHUTDOWN;
	if (rc) {
		thmqi_tcp_end(c, rc);
		return 1;
	}
	c->instance = c->hello.instance;
	thmqi_tcp_opened(c);
	return 1;
}

static bool conn_arm(struct thmqi_poller *p);

static int poll_state(struct tcp_conn *c)
{
	switch (c->state) {
	case TCP_CONNECTING:
		return poll_connecting(c);
	case TCP_SHAKING:
		return thmqi_tcp_shake(c);
	case TCP_GREETING:
		return c->joint.of_broker ? thmqi_tcp_greet(c) : poll_answer(c);
	case TCP_OPEN:
		return read_open(c);
	case TCP_LEAVING:
		return poll_leaving(c);
	default:
		return 0;
	}
}

/* What is to be done is told by the socket's watch, or by the shard: of many connections most have nothing. */
static void rest_if_idle(struct tcp_conn *c, int done)
{
	c->idle_rounds = done ? 0 : c->idle_rounds + 1;
	if (thmqi_likely(c->idle_rounds < REST_ROUNDS))
		return;
	c->idle_rounds = 0;
	if (!c->joint.of_broker || conn_arm(&c->poller) || !thmqi_link_rest(c->joint.link))
		return;
	c->rested = true;
	thmqi_core_rest_poller(c->core, &c->poller);
}

static void rise(struct tcp_conn *c)
{
	c->rested = false;
	if (c->joint.link)
		thmqi_link_rouse(c->joint.link);
}

static int conn_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct tcp_conn *c = thmqi_container(p, struct tcp_conn, poller);
	int done;

	(void)budget;
	if (thmqi_unlikely(c->rested))
		rise(c);
	done = poll_state(c);
	if (thmqi_unlikely(c->ticked))
		tick(c);
	if (c->state == TCP_OPEN)
		done += thmqi_tcp_out_wanted(c);
	if (thmqi_likely(c->state == TCP_OPEN)) {
		rest_if_idle(c, done);
		return done;
	}
	if (c->state == TCP_MOVING) {
		thmqi_tcp_move(c);
		done++;
	} else if (c->state == TCP_CLOSED) {
		socket_end(c);
		done++;
	}
	return done;
}

static void conn_finish(struct thmqi_poller *p)
{
	struct tcp_conn *c = thmqi_container(p, struct tcp_conn, poller);

	if (c->state == TCP_OPEN && thmqi_tcp_out_wanted(c))
		thmqi_tcp_out(c);
}

static bool conn_arm(struct thmqi_poller *p)
{
	struct tcp_conn *c = thmqi_container(p, struct tcp_conn, poller);

	if (c->state == TCP_CLOSED || c->state == TCP_MOVING)
		return true;
	if (c->state == TCP_SHAKING && (c->shake || (thmqi_tcp_unsent(c) && c->writable)))
		return true;
	if (c->state != TCP_OPEN)
		return c->state == TCP_CONNECTING ? c->retry : c->readable;
	if (c->hot) {
		cool(c);
		if (c->hot)
			return true;
	}
	if (c->stalled)
		thmqi_tcp_tick_at(c, c->core->now_ns + STALL_NS);
	else if (c->readable)
		return true;
	if (thmqi_tcp_out_wanted(c))
		return true;
	if (thmqi_joint_may_be_untold(&c->joint))
		thmqi_tcp_tick_at(c, c->core->now_ns + JOINT_UNTOLD_NS);
	return false;
}

/* The core closes: what can be sent at once is, and that is all. */
static void conn_end(struct thmqi_poller *p)
{
	struct tcp_conn *c = thmqi_container(p, struct tcp_conn, poller);
	uint32_t i;

	for (i = 0; i < LAST_ROUNDS && c->state == TCP_OPEN && thmqi_tcp_out_wanted(c); i++)
		thmqi_tcp_out(c);
	thmqi_tcp_end(c, -ESHUTDOWN);
	socket_end(c);
}

int thmqi_tcp_start(struct tcp_conn *c, struct thmq_core *core)
{
	int rc;

	c->core = c->joint.core = core;
	rc = c->fd >= 0 ? watch(c) : 0;
	if (rc)
		return rc;
	c->timer = (struct thmqi_timer){.fire = on_timer};
	c->poller = (struct thmqi_poller){
		.poll = conn_poll, .arm = conn_arm, .finish = conn_finish, .end = conn_end};
	thmqi_core_add_poller(core, &c->poller);
	c->on_core = true;
	thmqi_tcp_tick_at(c, next_tick(c));
	return 0;
}

/* ------------------------------------------------------------------ connect */

static int try_address(struct tcp_conn *c, const struct tcp_address *a)
{
	uint32_t left;
	int rc;

	c->fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return -errno;
	c->readable = c->writable = c->hung_up = false;
	/* one that says nothing must not take the time of those behind it */
	left = c->address_count - c->address_next;
	c->address_ns = left ? c->core->now_ns + (c->deadline_ns - THMQI_MIN(c->deadline_ns, c->core->now_ns)) / (left + 1) : UINT64_MAX;
	thmqi_tcp_tick_at(c, next_tick(c));
	rc = thmqi_tcp_socket_ready(c->fd);
	if (!rc && connect(c->fd, (const struct sockaddr *)&a->addr, a->len) != 0 &&
	    errno != EINPROGRESS)
		rc = -errno;
	if (!rc)
		rc = watch(c);
	if (rc) {
		close(c->fd);
		c->fd = -1;
	}
	return rc;
}

/* By the application's function, once. */
static int try_own(struct tcp_conn *c)
{
	int fd = -1, rc = c->own->connect(c->own->ctx, c->url, &fd);

	if (rc < 0)
		return rc;
	c->fd = fd;
	c->readable = c->writable = c->hung_up = false;
	rc = thmqi_own_ready(fd);
	if (!rc)
		rc = watch(c);
	if (rc) {
		thmqi_own_close(c->own, c->fd);
		c->fd = -1;
	}
	return rc;
}

static int connect_next(struct tcp_conn *c)
{
	if (c->own && !c->error) {
		c->error = try_own(c);
		if (!c->error)
			return 1;
	}
	while (c->address_next < c->address_count) {
		int rc = try_address(c, &c->addresses[c->address_next++]);

		if (!rc)
			return 1;
		c->error = rc;
	}
	thmqi_tcp_end(c, c->error ? c->error : -ECONNREFUSED);
	return 1;
}

/* On the core, as the acceptor of the session's link: the way to the broker is begun. */
int thmqi_tcp_connect_begin(struct tcp_conn *c, struct thmqi_link *link)
{
	int rc = thmqi_tcp_buffers(c);

	c->state = TCP_CONNECTING;
	c->deadline_ns = link->core->now_ns + THMQI_MIN(TCP_GREETING_NS, c->joint.silence_ns);
	if (!rc)
		rc = thmqi_guards_open(c->transport, false, c->own ? c->own->scheme : c->tls_config ? "tls" : "tcp", &c->guards);
	if (!rc)
		rc = thmqi_tcp_start(c, link->core);
	if (rc) {
		c->joint.link_done = c->socket_done = true;
		thmqi_tcp_free_if_done(c);
		return rc;
	}
	c->joint.link = link;
	link->broker = c;
	connect_next(c);
	return 0;
}
