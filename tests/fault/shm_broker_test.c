/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_broker_test.c - what listens at a path and is no broker, or one that lies: the client that connects is told so in bounded time, reads nothing
 * but what lies in the arena, and goes on.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../lib/transport/shm/shm.h"

#define SECOND 1000000000ull
#define MS 1000000ull

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static struct thmq_env *env;
static char path[48];

static struct shm_sizes sizes_of(const struct shm_hello *h)
{
	return (struct shm_sizes){.area_bytes = h->hello.area_bytes,
				  .up_frames = h->hello.up_frames,
				  .ctl_frames = h->hello.ctl_frames,
				  .down_frames = h->hello.down_frames,
				  .room_bytes = h->room_bytes};
}

static char fake_url[64];
static int fake_fd;

struct fake {
	const void *say; /* one packet */
	size_t len;
	bool hang_up;
	const struct thmqi_frame *frames; /* and in the arena */
	uint32_t count;
	uint64_t tail; /* of the up ring */
};

/* One client is taken in, and gets what it gets. */
static void *fake_broker(void *arg)
{
	const struct fake *f = arg;
	struct shm_conn c = {.fd = accept(fake_fd, NULL, NULL), .memory_fd = -1};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = &c.hello, .iov_len = sizeof(c.hello)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct thmqi_frame_ring down;
	uint32_t i;
	char rest[256];

	CHECK(recvmsg(c.fd, &m, 0) == sizeof(c.hello));
	memcpy(&c.memory_fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	c.arena.sizes = sizes_of(&c.hello);
	CHECK(thmqi_shm_arena_take(&c.arena.sizes, c.memory_fd, &c.arena) == 0);
	close(c.memory_fd);
	if (f->count)
		atomic_store(&c.arena.head->broker_beat, 1);
	atomic_store(&c.arena.head->up_tail, f->tail);
	thmqi_frame_ring_init(&down, c.arena.down, c.arena.sizes.down_frames);
	for (i = 0; i < f->count; i++) {
		memcpy((char *)thmqi_frame_claim(&down, 0) + 4, (const char *)&f->frames[i] + 4,
		       60);
		thmqi_frame_commit(&down);
	}
	if (f->len)
		send(c.fd, f->say, f->len, MSG_NOSIGNAL);
	if (!f->hang_up)
		while (recv(c.fd, rest, sizeof(rest), 0) > 0)
			;
	thmqi_shm_arena_drop(&c.arena);
	close(c.fd);
	return NULL;
}

static void fake(int error, const struct fake *f)
{
	struct thmq_session *s;
	pthread_t t;
	int rc;

	CHECK(pthread_create(&t, NULL, fake_broker, (void *)(uintptr_t)f) == 0);
	rc = thmq_connect(env, fake_url,
			  THMQ_SESSION_OPTS(.peer_timeout_ns = 300 * MS, .timeout_ns = 3 * SECOND),
			  &s);
	if (rc == 0)
		thmq_session_close(s, 0);
	if (rc != error)
		fprintf(stderr, "%d, not %d\n", rc, error);
	CHECK(rc == error);
	pthread_join(t, NULL);
}

static void false_brokers(void)
{
	struct thmqi_frame welcome = {
		.type = THMQI_FRAME_WELCOME, .seq = 2, .len = THMQI_WIRE_VERSION, .arg = {1, 1000}};
	struct thmqi_frame lies[2] = {{.type = THMQI_FRAME_DELIVER, .len = 100000, .data = 0},
				      welcome};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct thmqi_hello h = {.status = -EACCES};
	struct thmq_session *s;
	uint8_t noise[500];

	snprintf(a.sun_path, sizeof(a.sun_path), "%s.fake", path);
	snprintf(fake_url, sizeof(fake_url), "shm://%s.fake", path);
	fake_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(bind(fake_fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fake_fd, 5) == 0);
	fake(-ECONNRESET, &(struct fake){.hang_up = true});
	fake(-ETIMEDOUT, &(struct fake){.hang_up = false});
	memset(noise, 0x5a, sizeof(noise));
	fake(-EPROTO, &(struct fake){.say = noise, .len = sizeof(noise)});
	thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
	fake(-EACCES, &(struct fake){.say = &h, .len = sizeof(h), .hang_up = true});
	h.status = 7;
	thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
	fake(-EPROTO, &(struct fake){.say = &h, .len = sizeof(h)});
	/* a run that does not lie in the room; the meta shard's link has none */
	fake(-EPROTO, &(struct fake){.frames = lies, .count = 2});
	lies[0].data = UINT64_MAX - 50;
	fake(-EPROTO, &(struct fake){.frames = lies, .count = 2});
	lies[0] = (struct thmqi_frame){.type = THMQI_FRAME_REPLY, .seq = 77, .status = 5};
	fake(-ESHUTDOWN,
	     &(struct fake){.frames = lies, .count = 1}); /* a count where a status belongs */
	/* it greets and falls silent; it took what was not sent: the session is there, and ends in time */
	fake(0, &(struct fake){.frames = &welcome, .count = 1, .tail = UINT64_MAX});
	close(fake_fd);
	CHECK(thmq_connect(env, fake_url, NULL, &s) == -ECONNREFUSED);
	unlink(a.sun_path);
	CHECK(thmq_connect(env, fake_url, NULL, &s) == -ECONNREFUSED);
	fake_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* a socket, but not such a one */
	CHECK(bind(fake_fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fake_fd, 5) == 0);
	CHECK(thmq_connect(env, fake_url, NULL, &s) == -EPROTO);
	close(fake_fd);
	unlink(a.sun_path);
}

int main(void)
{
	snprintf(path, sizeof(path), "shm-broker-%d.sock", (int)getpid());
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	false_brokers();
	CHECK(thmq_env_close(env, SECOND) == 0);
	return 0;
}
