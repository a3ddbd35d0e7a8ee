/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - the broker's side until a connection is open: who comes in at the socket, what he says, and his way to the core of the
 * shard that he named. A greeting is one packet, with one descriptor: no other packet may bring any, and what is sent
 * all the same never reaches us. Nobody's memory is mapped before the greeting is right.
 */
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm.h"

/* ---------------------------------------------------------------- greeting */

static void refuse(struct shm_conn *c, int status)
{
	struct thmqi_hello answer = {.status = status, .instance = c->guest.listener->instance};

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

	int rc = thmqi_guest_link(&c->guest, c->core, c->hello.hello.shard, &opts, &c->poller, ret_link);

	if (!rc) {
		(*ret_link)->carry = thmqi_shm_carry;
		(*ret_link)->hand = thmqi_shm_hand;
		(*ret_link)->takes_series = (*ret_link)->takes_releases = true;
	}
	return rc;
}

/* On the shard's core: the arena is looked at, the link is made, and the shard asked. */
static void adopt(struct shm_conn *c)
{
	int rc = atomic_load(&c->guest.listener->gone) ? -ECONNREFUSED : map_arena(c);

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
		rc = thmqi_guest_core(&c->guest, c->hello.hello.instance, c->hello.hello.shard, &core);
	if (rc) {
		refuse(c, rc);
		return 1;
	}
	thmqi_lobby_leave(&c->guest);
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
	struct thmq_core *core;
	/* looked up again: several iterations may lie in between */
	int rc = thmqi_guest_core(&c->guest, 0, c->hello.hello.shard, &core);

	if (rc) {
		refuse(c, rc);
		return;
	}
	thmqi_shm_off_core(c);
	c->task.run = run_arrive;
	thmqi_core_post(core, &c->task);
}

/* ------------------------------------------------------------------ accept */

static struct shm_door *door_of(struct thmqi_gate *g)
{
	return thmqi_container(g, struct shm_door, gate);
}

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

static void take_in(struct thmqi_gate *g, int fd)
{
	struct shm_conn *c = thmqi_shm_make();
	struct ucred who = {.uid = UINT32_MAX, .gid = UINT32_MAX};
	socklen_t len = sizeof(who);

	if (!c) {
		close(fd);
		return;
	}
	c->fd = fd;
	c->silence_ns = g->host.silence_ns;
	c->deadline_ns = g->host.core->now_ns + THMQI_MIN(SHM_GREETING_NS, c->silence_ns);
	thmqi_guest_open(&c->guest, &g->host);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0)
		who.pid = 0;
	c->pid = who.pid;
	c->guest.medium = "shm";
	if (who.pid) /* else it is not known */
		snprintf(c->guest.peer, sizeof(c->guest.peer), "uid:%u", who.uid);
	c->pid_fd = open_pid(who.pid);
	if (thmqi_shm_start(c, g->host.core) != 0) {
		thmqi_shm_free(c);
		return;
	}
	thmqi_lobby_enter(&g->lobby, &c->guest);
	/* told once the greeting is there: what was not read would be lost with the answer */
	c->denied = !may_come_in(door_of(g), &who);
}

static void end_guest(struct thmqi_guest *guest, int error)
{
	thmqi_shm_end(thmqi_container(guest, struct shm_conn, guest), error);
}

static void turn_away(struct thmqi_gate *g, int fd)
{
	(void)g;
	close(fd);
}

static int take_next(struct thmqi_gate *g)
{
	return accept4(door_of(g)->at.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void door_free(struct shm_door *d)
{
	thmqi_shm_listening_close(&d->at);
	thmqi_host_close(&d->gate.host);
	free(d);
}

static void gate_free(struct thmqi_gate *g)
{
	door_free(door_of(g));
}

static void shut(struct thmqi_gate *g)
{
	thmqi_shm_listening_close(&door_of(g)->at);
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

int thmqi_shm_listen(struct thmqi_listener *l, const char *url,
		     const struct thmqi_listen_opts *opts, void **ret_door)
{
	struct shm_door *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return thmqi_fail(-ENOMEM, "listen on %s: no memory", url);
	thmqi_lobby_init(&d->gate.lobby, SHM_GREETINGS_MAX);
	rc = thmqi_shm_listening_open(&d->at, url);
	if (!rc) {
		thmqi_host_open(&d->gate.host, l, opts);
		rc = thmqi_gate_start(&d->gate, &gate_ops, d->at.fd);
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

	thmqi_gate_stop(&d->gate);
}

const char *thmqi_shm_url_of(const void *door)
{
	return ((const struct shm_door *)door)->at.url;
}
