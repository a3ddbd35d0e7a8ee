/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.c - the client's end of a link: made and connected, and what the session's thread does by itself where no core stands in
 * between: it wakes the broker, looks at what that has written, and notices its death. All of it runs on that thread.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "shm.h"

#define LOOK_ROUNDS 16u    /* looks without news between two at the clock */
#define LOOK_NS 1000000ull /* between two at the socket */
#define PID_NS                                                                                     \
	1000000000ull /* a broker whose beat stands still for so long is asked for by its pid */
#define PACKETS 16u   /* that are read in one go */

struct shm_client {
	struct thmqi_link link; /* first */
	struct thmqi_far far;
	struct shm_arena arena;
	struct thmqi_waiter_guest guest; /* fd: the socket */
	struct shm_place place;
	const struct thmqi_clock *clock;
	uint64_t silence_ns, heard_ns, looked_ns;
	uint32_t beat_seen;
	int32_t pid; /* the broker's; 0: of another namespace */
	bool joined; /* guest is the waiter's */
	bool over;   /* the other has hung up, or is dead: what it wrote is still read */
	int error;   /* why; once all was read */
};

static struct shm_client *client_of(struct thmqi_link *link)
{
	return thmqi_container(link, struct shm_client, link);
}

static uint64_t now_of(const struct shm_client *c)
{
	return c->clock->now_ns(c->clock->ctx);
}

/* ------------------------------------------------------------------ to the broker */

static void ring(struct thmqi_link *link)
{
	struct shm_client *c = client_of(link);

	atomic_store_explicit(&c->arena.head->bell.sleeping, 0, memory_order_relaxed);
	thmqi_shm_wake(c->guest.fd);
}

/* ---------------------------------------------------------------- from the broker */

/*
 * What will be read of a run. A header whose words the frame has stays where it was written: a line that is not fetched need not be
 * taken away again for the next run there.
 */
static void prefetch_run(const struct thmqi_frame *f)
{
	const char *at = (const char *)(uintptr_t)f->data;

	if (f->type == THMQI_FRAME_DELIVER_ONE) {
		__builtin_prefetch(at + sizeof(struct thmq_run_header) + sizeof(struct thmq_record));
		return;
	}
	__builtin_prefetch(at);
	__builtin_prefetch(at + THMQI_CACHELINE);
	__builtin_prefetch(at + 2 * THMQI_CACHELINE);
}

/* A run lies in the room, wholly. */
static int take_run(struct shm_client *c, struct thmqi_frame *f)
{
	uint64_t room = c->arena.sizes.room_bytes;

	if (f->len < sizeof(struct thmq_run_header) || f->data >= room || f->len > room - f->data ||
	    f->data % 8)
		return -EPROTO;
	f->data = (uint64_t)(uintptr_t)(c->arena.room + f->data);
	prefetch_run(f);
	return 0;
}

static int take(struct thmqi_link *link, const struct thmqi_frame *slot,
		struct thmqi_frame *ret_frame)
{
	struct shm_client *c = client_of(link);

	link->looks = c->over ? 0 : LOOK_ROUNDS;
	thmqi_frame_copy(ret_frame, slot);
	if (ret_frame->type == THMQI_FRAME_DELIVER || ret_frame->type == THMQI_FRAME_DELIVER_ONE)
		return take_run(c, ret_frame);
	ret_frame->data = 0;
	if (ret_frame->type == THMQI_FRAME_WELCOME) { /* it was said before that */
		uint32_t takes = atomic_load_explicit(&c->arena.head->takes, memory_order_relaxed);

		link->takes_series = takes & SHM_TAKES_SERIES;
		link->takes_releases = takes & SHM_TAKES_RELEASES;
	}
	if (ret_frame->type == THMQI_FRAME_REPLY)
		memcpy(link->reply, c->arena.reply, sizeof(*link->reply));
	return 0;
}

/* -------------------------------------------------------------------- is it there */

static void end(struct shm_client *c, int error)
{
	if (!c->over)
		c->error = error;
	c->over = true;
}

/* A refusal is a greeting with a status; all else only wakes us. */
static void read_socket(struct shm_client *c)
{
	struct thmqi_hello answer;
	uint32_t i;
	ssize_t n;

	for (i = 0; i < PACKETS && !c->over; i++) {
		n = recv(c->guest.fd, &answer, sizeof(answer), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			end(c, n ? -errno : -ECONNRESET);
		else if (n == sizeof(answer) &&
			 thmqi_hello_check(&answer, THMQI_HELLO_BROKER) == 0 && answer.status)
			end(c, answer.status);
		else if (n != 1)
			end(c, -EPROTO);
	}
}

/* What listens may be no broker of ours, or be stopped; one that was there is awaited a little longer. */
static void look_at_beat(struct shm_client *c, uint64_t now)
{
	uint32_t beat = atomic_load_explicit(&c->arena.head->broker_beat, memory_order_relaxed);
	uint64_t silent;

	if (beat != c->beat_seen)
		c->heard_ns = now;
	c->beat_seen = beat;
	silent = now - c->heard_ns;
	if (silent > (beat ? c->silence_ns : THMQI_MIN(SHM_GREETING_NS, c->silence_ns)))
		end(c, -ETIMEDOUT);
	else if (silent > PID_NS && c->pid > 0 && kill(c->pid, 0) != 0 && errno == ESRCH)
		end(c, -ECONNRESET); /* a child of its holds the socket */
}

static void look(struct shm_client *c, uint64_t now)
{
	c->looked_ns = now;
	c->link.rings_seen = c->link.waiter->rings;
	read_socket(c);
	look_at_beat(c, now);
}

/*
 * Nothing came down. Once the other is gone, and what it wrote before was read, the session is told: the look at the ring must come
 * after the one that found it gone.
 */
static bool idle(struct thmqi_link *link)
{
	struct shm_client *c = client_of(link);
	int32_t open = 0, why;
	uint64_t now;

	if (thmqi_likely(!c->over)) {
		now = now_of(c);
		link->looks = LOOK_ROUNDS;
		if (link->waiter->rings == link->rings_seen && now - c->looked_ns < LOOK_NS)
			return false;
		look(c, now);
	}
	link->looks = c->over ? 0 : LOOK_ROUNDS;
	if (!c->over || thmqi_frame_peek(&link->down, 0))
		return true;
	why = atomic_load_explicit(&c->arena.head->broker_closed, memory_order_acquire);
	atomic_compare_exchange_strong(&link->broker_closed, &open, why < 0 ? why : c->error);
	return true;
}

/* -------------------------------------------------------------------- open, close */

static void client_free(struct shm_client *c)
{
	if (c->joined)
		thmqi_waiter_part(c->link.waiter, &c->guest);
	if (c->guest.fd >= 0) {
		/* a child of fork may hold it as well */
		shutdown(c->guest.fd, SHUT_RDWR);
		close(c->guest.fd);
	}
	if (c->link.waiter)
		thmqi_waiter_unref(c->link.waiter);
	thmqi_shm_arena_drop(&c->arena);
	free(c->link.reply);
	free(c);
}

/* The broker hears of it by the socket; what was committed before is still taken. */
static void close_link(struct thmqi_link *link)
{
	client_free(client_of(link));
}

static int say(int rc, const char *url)
{
	switch (rc) {
	case 0:
		return 0;
	case -ENOENT:
	case -ECONNREFUSED:
		return thmqi_fail(-ECONNREFUSED, "%s: nobody listens there", url);
	case -EACCES:
	case -EPERM:
		return thmqi_fail(-EACCES, "%s: no permission to connect to this socket", url);
	case -EPROTOTYPE:
		return thmqi_fail(-EPROTO, "%s: what listens there is no broker", url);
	case -EAGAIN:
		return thmqi_fail(rc, "%s: too many wait there to be let in; try again", url);
	case -ENOMEM:
		return thmqi_fail(rc, "%s: no memory for a connection", url);
	default:
		return thmqi_fail(rc, "%s: %s", url, thmq_strerror(rc));
	}
}

static int connect_socket(struct shm_client *c)
{
	struct sockaddr_un address;
	struct ucred who = {0};
	socklen_t len;
	int dir_fd, rc;

	rc = thmqi_shm_address(&c->place, &address, &len, &dir_fd);
	if (rc)
		return rc;
	c->guest.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->guest.fd < 0 || connect(c->guest.fd, (struct sockaddr *)&address, len) != 0)
		rc = -errno;
	if (dir_fd >= 0)
		close(dir_fd);
	len = sizeof(who);
	if (!rc && getsockopt(c->guest.fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0)
		c->pid = who.pid;
	return rc;
}

static int send_hello(struct shm_client *c, const struct shm_hello *h, int memory_fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)h, .iov_len = sizeof(*h)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = CMSG_LEN(sizeof(int))};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &memory_fd, sizeof(memory_fd));
	return sendmsg(c->guest.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(*h)
		       ? 0
		       : -errno;
}

static void set_link(struct shm_client *c)
{
	struct thmqi_link *link = &c->link;
	struct shm_arena *a = &c->arena;

	link->far = &c->far;
	link->pulse = &a->head->client_beat;
	link->area = a->area;
	link->area_bytes = a->sizes.area_bytes;
	link->request = a->request;
	thmqi_frame_ring_init(&link->up, a->up, a->sizes.up_frames);
	thmqi_frame_ring_init(&link->ctl, a->ctl, a->sizes.ctl_frames);
	thmqi_frame_ring_init(&link->down, a->down, a->sizes.down_frames);
	link->up.tail_at = &a->head->up_tail;
	link->ctl.tail_at = &a->head->ctl_tail;
	link->down.tail_at = &a->head->down_tail;
	c->far = (struct thmqi_far){.bell = &a->head->bell,
				    .ring = ring,
				    .take = take,
				    .idle = idle,
				    .close = close_link};
	c->guest.sleeping = &a->head->client_sleeping;
}

static struct shm_sizes sizes_for(uint32_t shard, const struct thmqi_link_opts *opts)
{
	uint32_t up = THMQI_MIN(opts->up_frames, THMQI_STREAM_UP_MAX);

	return (struct shm_sizes){
		.area_bytes =
			(uint32_t)THMQI_MIN(opts->area_bytes, (uint64_t)THMQI_STREAM_AREA_MAX),
		.up_frames = up,
		.ctl_frames = THMQI_MIN(up, THMQI_CTL_FRAMES_MAX),
		.down_frames = THMQI_MIN(opts->down_frames, THMQI_STREAM_DOWN_MAX),
		.room_bytes = shard == THMQI_SHARD_META ? 0 : SHM_ROOM_BYTES};
}

static void fill_hello(const struct shm_client *c, const struct thmqi_transport *t,
		       const struct thmqi_link *beside, struct shm_hello *h)
{
	const struct shm_sizes *s = &c->arena.sizes;

	memset(h, 0, sizeof(*h));
	memcpy(h->hello.client_id, t->client_id, sizeof(h->hello.client_id));
	if (beside)
		h->hello.instance = atomic_load(
			&client_of((struct thmqi_link *)(uintptr_t)beside)->arena.head->instance);
	h->hello.shard = c->link.shard;
	h->hello.area_bytes = s->area_bytes;
	h->hello.up_frames = s->up_frames;
	h->hello.ctl_frames = s->ctl_frames;
	h->hello.down_frames = s->down_frames;
	h->hello.silence_ms = (uint32_t)THMQI_MIN(c->silence_ns / 1000000u, (uint64_t)UINT32_MAX);
	thmqi_hello_seal(&h->hello, THMQI_HELLO_CLIENT);
	h->version = SHM_VERSION;
	h->arena_bytes = c->arena.bytes;
	h->room_bytes = s->room_bytes;
	h->area_at = (uint64_t)(uintptr_t)c->arena.area;
}

/* Memory, socket, greeting: nothing of it waits. What the broker thinks of it is told by its first frame, or the end. */
static int client_open(struct shm_client *c, struct thmqi_transport *t,
		       const struct thmqi_link_opts *opts)
{
	const struct shm_sizes sizes = sizes_for(c->link.shard, opts);
	struct shm_hello hello;
	int memory_fd = -1, rc = connect_socket(c);

	if (!rc)
		rc = thmqi_shm_arena_make(&sizes, &c->arena, &memory_fd);
	if (rc)
		return rc;
	set_link(c);
	rc = thmqi_waiter_join(c->link.waiter, &c->guest);
	c->joined = rc == 0;
	if (!rc) {
		fill_hello(c, t, opts->anew ? NULL : opts->beside, &hello);
		rc = send_hello(c, &hello, memory_fd);
		if (rc == -EPIPE || rc == -ECONNRESET)
			rc = 0; /* turned away: the socket tells why */
	}
	close(memory_fd);
	return rc;
}

int thmqi_shm_connect(struct thmqi_transport *t, const char *url, uint32_t shard,
		      const struct thmqi_link_opts *opts, struct thmqi_waiter *waiter,
		      struct thmqi_link **ret_link)
{
	struct shm_client *c;
	struct shm_place place;
	int rc = thmqi_shm_parse(url, &place);

	if (rc)
		return rc;
	c = aligned_alloc(THMQI_CACHELINE, THMQI_ALIGN_UP(sizeof(*c), (size_t)THMQI_CACHELINE));
	if (!c)
		return say(-ENOMEM, url);
	memset(c, 0, sizeof(*c));
	c->guest.fd = -1;
	c->place = place;
	c->silence_ns =
		THMQI_MAX(opts->silence_ns ? opts->silence_ns : JOINT_SILENCE_NS, JOINT_SILENCE_MIN_NS);
	c->link.shard = shard;
	c->link.is_further = opts->beside != NULL;
	c->link.core = thmqi_env_core(t->env, 0);
	c->clock = c->link.core->clock;
	c->link.reply = calloc(1, sizeof(*c->link.reply));
	c->link.waiter = waiter;
	thmqi_waiter_ref(waiter);
	rc = c->link.reply ? client_open(c, t, opts) : -ENOMEM;
	if (rc) {
		client_free(c);
		/* where another link led to a broker, that one has closed since */
		return say(rc == -ECONNREFUSED && opts->beside && !opts->anew ? -ESHUTDOWN : rc, url);
	}
	c->heard_ns = c->looked_ns = now_of(c);
	c->link.rings_seen = waiter->rings;
	*ret_link = &c->link;
	return 0;
}
