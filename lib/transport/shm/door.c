/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - the broker's side until a connection is open: who comes in at the socket, what he says, and his way to the core of the
 * shard that he named. A greeting is one packet, with one descriptor: no other packet may bring any, and what is sent
 * all the same never reaches us. Nobody's memory is mapped before the greeting is right.
 */
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm.h"

#define ACCEPT_BUDGET 16u
#define RETRY_NS 50000000ull /* after accept had no descriptor or memory */

/* ---------------------------------------------------------------- greeting */

void thmqi_shm_forget_greeting(struct shm_conn *c)
{
	thmqi_list_del(&c->door_link);
	c->door->greeting_count--;
	c->door = NULL;
}

static void refuse(struct shm_conn *c, int status)
{
	struct thmqi_hello answer = {.status = status, .instance = c->listener->instance};

	thmqi_hello_seal(&answer, THMQI_HELLO_BROKER);
	/* nothing was sent before: there is room; who is gone need not hear it */
	if (send(c->fd, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		c->hung_up = true;
	thmqi_shm_end(c, status);
}

/* The descriptors that came with a packet: the first is ours, if it is the only one. */
static bool take_descriptor(struct msghdr *m, int *ret_fd)
{
	struct cmsghdr *h;
	bool good = !(m->msg_flags & (MSG_CTRUNC | MSG_TRUNC));

	*ret_fd = -1;
	for (h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS ||
		    h->cmsg_len < CMSG_LEN(sizeof(int)))
			continue;
		/* there is room for one: the kernel has dropped the others, and says so */
		memcpy(ret_fd, CMSG_DATA(h), sizeof(*ret_fd));
	}
	return good && *ret_fd >= 0;
}

/* 1 the greeting is there; 0 not yet; an error */
static int receive(struct shm_conn *c)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = &c->hello, .iov_len = sizeof(c->hello)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = CMSG_LEN(sizeof(int))};
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	bool good;

	if (n < 0) {
		c->readable = errno == EINTR;
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	}
	good = take_descriptor(&m, &c->memory_fd); /* whatever came is ours to close */
	if (n == 0)
		return -ECONNRESET;
	if (n < (ssize_t)sizeof(c->hello) && n >= (ssize_t)sizeof(c->hello.hello) &&
	    thmqi_hello_check(&c->hello.hello, THMQI_HELLO_CLIENT) == -THMQ_EVERSION)
		return -THMQ_EVERSION;
	return good && n == (ssize_t)sizeof(c->hello) ? 1 : -EPROTO;
}

static int check_hello(const struct shm_hello *h)
{
	int rc = thmqi_hello_check(&h->hello, THMQI_HELLO_CLIENT);

	if (rc)
		return rc;
	if (h->version != SHM_VERSION)
		return -THMQ_EVERSION;
	if (h->room_bytes > SHM_ROOM_MAX)
		return -E2BIG;
	return h->room_bytes % THMQI_BLOCK ? -EINVAL : 0;
}

static struct shm_sizes sizes_of(const struct shm_hello *h)
{
	return (struct shm_sizes){.area_bytes = h->hello.area_bytes,
				  .up_frames = h->hello.up_frames,
				  .ctl_frames = h->hello.ctl_frames,
				  .down_frames = h->hello.down_frames,
				  .room_bytes = h->room_bytes};
}

/* A greeting that is complete: who is meant? The acceptor is there unless the listener is gone, till this iteration ends. */
static int shard_core(struct shm_conn *c, struct thmq_core **ret_core)
{
	const struct thmqi_hello *h = &c->hello.hello;
	struct thmqi_listener *l = c->listener;

	if (atomic_load(&l->gone))
		return -ECONNREFUSED;
	if (h->instance && h->instance != l->instance)
		return -ESHUTDOWN; /* the broker that it knew is not there any more */
	*ret_core = l->acceptor.core_of(l->acceptor.ctx, h->shard);
	return *ret_core ? 0 : -ECONNREFUSED;
}

/* The rings of the arena as we read and write them. */
static void set_rings(struct shm_conn *c)
{
	struct shm_arena *a = &c->arena;

	thmqi_frame_ring_init(&c->up, a->up, a->sizes.up_frames);
	thmqi_frame_ring_init(&c->ctl, a->ctl, a->sizes.ctl_frames);
	thmqi_frame_ring_init(&c->down, a->down, a->sizes.down_frames);
	c->up.tail_at = &a->head->up_tail;
	c->ctl.tail_at = &a->head->ctl_tail;
	c->down.tail_at = &a->head->down_tail;
}

static int map_arena(struct shm_conn *c)
{
	const struct shm_sizes sizes = sizes_of(&c->hello);
	int rc = c->hello.arena_bytes == thmqi_shm_arena_bytes(&sizes)
			 ? thmqi_shm_arena_take(&sizes, c->memory_fd, &c->arena)
			 : -EPROTO;

	close(c->memory_fd);
	c->memory_fd = -1;
	if (!rc)
		rc = thmqi_shm_room_init(&c->room, sizes.room_bytes);
	if (rc)
		return rc;
	c->streams = thmqi_shm_books_open(THMQI_STREAMS * sizeof(*c->streams));
	set_rings(c);
	return c->streams ? 0 : -ENOMEM;
}

static int make_link(struct shm_conn *c, struct thmqi_link **ret_link)
{
	const struct thmqi_link_opts opts = {
		.area_bytes = c->hello.hello.area_bytes,
		.up_frames = THMQI_MIN(c->hello.hello.up_frames, SHM_PRIVATE_FRAMES),
		.down_frames = THMQI_MIN(c->hello.hello.down_frames, SHM_PRIVATE_FRAMES),
		.area = c->arena.area};
	struct thmqi_listener *l = c->listener;
	struct thmqi_link *link;
	int rc = thmqi_link_make(&opts, l->acceptor.end_bytes, &link);

	if (rc)
		return rc;
	link->shard = c->hello.hello.shard;
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
		return rc;
	}
	*ret_link = link;
	return 0;
}

/* On the shard's core: the arena is looked at, the link is made, and the shard asked. */
static void adopt(struct shm_conn *c)
{
	int rc = atomic_load(&c->listener->gone) ? -ECONNREFUSED : map_arena(c);

	if (!rc)
		rc = make_link(c, &c->link);
	if (rc) {
		refuse(c, rc);
		return;
	}
	thmqi_shm_opened(c);
}

int thmqi_shm_greet(struct shm_conn *c)
{
	struct thmq_core *core;
	int rc;

	if (!c->readable && !c->hung_up)
		return 0;
	rc = receive(c);
	if (rc == 0)
		return 1;
	if (rc == 1)
		rc = c->denied ? -EACCES : check_hello(&c->hello);
	if (!rc)
		rc = shard_core(c, &core);
	if (rc) {
		refuse(c, rc);
		return 1;
	}
	thmqi_shm_forget_greeting(c);
	if (core == c->core)
		adopt(c);
	else
		c->state = SHM_MOVING;
	return 1;
}

static void run_arrive(struct thmq_core *core, struct thmqi_task *task)
{
	struct shm_conn *c = thmqi_container(task, struct shm_conn, task);

	c->state = SHM_GREETING;
	c->readable = false; /* the watch tells anew */
	if (thmqi_shm_start(c, core) == 0)
		adopt(c);
	else
		thmqi_shm_free(c);
}

void thmqi_shm_move(struct shm_conn *c)
{
	struct thmqi_listener *l = c->listener;
	struct thmq_core *core = NULL;

	/* looked up again: several iterations may lie in between */
	if (!atomic_load(&l->gone))
		core = l->acceptor.core_of(l->acceptor.ctx, c->hello.hello.shard);
	if (!core) {
		refuse(c, -ECONNREFUSED);
		return;
	}
	thmqi_shm_off_core(c);
	c->task.run = run_arrive;
	thmqi_core_post(core, &c->task);
}

/* ------------------------------------------------------------------ accept */

/* A file has a mode that the kernel looks at; a name has none, so that we look. */
static bool may_come_in(const struct shm_door *d, const struct ucred *who)
{
	if (!d->at.is_name || who->uid == geteuid() || who->uid == 0)
		return true;
	return (d->at.place.mode & 0002) || ((d->at.place.mode & 0020) && who->gid == getegid());
}

static int open_pid(int32_t pid)
{
	return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

static void take_in(struct shm_door *d, int fd)
{
	struct shm_conn *c = thmqi_shm_make();
	struct ucred who = {.uid = UINT32_MAX, .gid = UINT32_MAX};
	socklen_t len = sizeof(who);

	if (!c) {
		close(fd);
		return;
	}
	if (d->greeting_count >= SHM_GREETINGS_MAX)
		thmqi_shm_end(thmqi_list_first(&d->greetings, struct shm_conn, door_link),
			      -ETIMEDOUT);
	c->fd = fd;
	c->silence_ns = d->opts.silence_ns;
	c->deadline_ns = d->core->now_ns + THMQI_MIN(SHM_GREETING_NS, c->silence_ns);
	c->listener = d->listener;
	atomic_fetch_add(&c->listener->refs, 1);
	atomic_fetch_add(&c->listener->connections, 1);
	c->nobody = d->nobody;
	thmqi_waiter_ref(c->nobody);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0)
		who.pid = 0;
	c->pid = who.pid;
	c->pid_fd = open_pid(who.pid);
	if (thmqi_shm_start(c, d->core) != 0) {
		thmqi_shm_free(c);
		return;
	}
	c->door = d;
	thmqi_list_add_tail(&d->greetings, &c->door_link);
	d->greeting_count++;
	/* told once the greeting is there: what was not read would be lost with the answer */
	c->denied = !may_come_in(d, &who);
}

/* Those that are waited for do not count: they give way to others. */
static bool is_full(const struct shm_door *d)
{
	return atomic_load(&d->listener->connections) - d->greeting_count >=
	       d->opts.connections_max;
}

static int accept_some(struct shm_door *d)
{
	uint32_t n;
	int fd;

	for (n = 0; n < ACCEPT_BUDGET; n++) {
		fd = accept4(d->at.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			if (is_full(d))
				close(fd);
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

static void door_free(struct shm_door *d)
{
	thmqi_shm_listening_close(&d->at);
	if (d->nobody)
		thmqi_waiter_unref(d->nobody);
	if (d->listener)
		thmqi_listener_unref(d->listener);
	free(d);
}

static void door_gone(struct shm_door *d)
{
	thmqi_timer_stop(d->core, &d->timer);
	thmqi_core_remove_poller(d->core, &d->poller);
	door_free(d);
}

static void door_shut(struct shm_door *d)
{
	if (d->closed)
		return;
	d->closed = true;
	while (!thmqi_list_empty(&d->greetings))
		thmqi_shm_end(thmqi_list_first(&d->greetings, struct shm_conn, door_link),
			      -ECONNREFUSED);
	if (d->watch)
		thmqi_watch_close(d->watch);
	d->watch = NULL;
	thmqi_shm_listening_close(&d->at);
}

static int door_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct shm_door *d = thmqi_container(p, struct shm_door, poller);

	(void)budget;
	if (d->closed) {
		door_gone(d);
		return 1;
	}
	return d->readable && !thmqi_timer_is_running(&d->timer) ? accept_some(d) : 0;
}

static bool door_arm(struct thmqi_poller *p)
{
	struct shm_door *d = thmqi_container(p, struct shm_door, poller);

	return d->closed || (d->readable && !thmqi_timer_is_running(&d->timer));
}

static void door_end(struct thmqi_poller *p)
{
	struct shm_door *d = thmqi_container(p, struct shm_door, poller);

	door_shut(d);
	door_gone(d);
}

static void door_ready(void *ctx, uint32_t events)
{
	struct shm_door *d = ctx;

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
	struct shm_door *d = arg;
	int rc = thmqi_watch_open(core, d->at.fd, EPOLLIN, door_ready, d, &d->watch);

	if (rc)
		return rc;
	d->timer.fire = door_retry;
	d->poller = (struct thmqi_poller){.poll = door_poll, .arm = door_arm, .end = door_end};
	thmqi_core_add_poller(core, &d->poller);
	return 0;
}

static int door_stop(struct thmq_core *core, void *arg)
{
	(void)core;
	door_shut(arg);
	return 0;
}

int thmqi_shm_listen(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts, void **ret_door)
{
	struct shm_door *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return thmqi_fail(-ENOMEM, "listen on %s: no memory", url);
	thmqi_list_init(&d->greetings);
	d->opts = *opts;
	d->opts.silence_ns =
		THMQI_MAX(opts->silence_ns ? opts->silence_ns : SHM_SILENCE_NS, SHM_SILENCE_MIN_NS);
	d->opts.connections_max = opts->connections_max ? opts->connections_max : SHM_CONNECTIONS;
	d->core = thmqi_env_core(l->transport->env, 0);
	rc = thmqi_shm_listening_open(&d->at, url);
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

void thmqi_shm_unlisten(void *door)
{
	struct shm_door *d = door;

	/* where nobody drives the core it ends with it */
	thmqi_core_call(d->core, door_stop, d, UINT64_MAX);
}

const char *thmqi_shm_url_of(const void *door)
{
	return ((const struct shm_door *)door)->at.url;
}
