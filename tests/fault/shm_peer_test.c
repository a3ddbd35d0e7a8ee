/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_peer_test.c - processes that do not keep to the protocol of shared memory: garbage, greetings that are wrong, memory that is none or
 * of another size, descriptors in floods, frames that lie, bytes that change while they are looked at. Whoever
 * does so loses the connection in bounded time; a well-behaved session beside it notices nothing; nothing is left behind. Brokers that
 * are none are shm_broker_test.c's, what a path may be is shm_path_test.c's.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../lib/transport/shm/shm.h"
#include "../friend.h"

#define HALF_OPEN 400
#define TOPIC_PARTITION 0x80000001u

static char path[48];
static struct thmqi_prng prng;
/* -------------------------------------------------------------- the good ones */

static void up(void)
{
	friend_opens_env();
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = url, .peer_timeout_ns = 800 * MS),
			       &broker) == 0);
	friend_connects(NULL);
}

/* ------------------------------------------------------------------ the bad one */

struct bad {
	int fd;
	struct shm_arena arena;
	struct thmqi_frame_ring up, ctl, down;
};

static int bad_socket(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

/* A packet with @count descriptors. */
static bool put(int fd, const void *data, size_t len, const int *fds, uint32_t count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int) * 253)];
	} control;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&control, 0, sizeof(control));
	if (count) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_LEN(sizeof(int) * count);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = m.msg_controllen;
		memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * count);
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

/* Reads and throws away until it is closed. Return: what a refusal said, or 0. */
static int is_closed(int fd, uint64_t within)
{
	uint64_t end = now() + within;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct thmqi_hello answer;
	int status = 0;
	ssize_t n;

	while (now() < end) {
		if (poll(&p, 1, 20) != 1)
			continue;
		n = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT);
		if (n == sizeof(answer) && thmqi_hello_check(&answer, THMQI_HELLO_BROKER) == 0)
			status = answer.status;
		if (n <= 0) {
			close(fd);
			return status;
		}
	}
	CHECK(!"it was closed");
	return 0;
}

static struct shm_hello good_hello(uint32_t shard)
{
	struct shm_hello h = {.hello = {.shard = shard,
					.area_bytes = 65536,
					.up_frames = 64,
					.ctl_frames = 64,
					.down_frames = 64,
					.silence_ms = 60000},
			      .version = SHM_VERSION,
			      .room_bytes = 1 << 20,
			      .area_at = 0x10000};

	thmqi_hello_seal(&h.hello, THMQI_HELLO_CLIENT);
	return h;
}

static struct shm_sizes sizes_of(const struct shm_hello *h)
{
	return (struct shm_sizes){.area_bytes = h->hello.area_bytes,
				  .up_frames = h->hello.up_frames,
				  .ctl_frames = h->hello.ctl_frames,
				  .down_frames = h->hello.down_frames,
				  .room_bytes = h->room_bytes};
}

static struct bad bad_greet(uint32_t shard)
{
	struct shm_hello h = good_hello(shard);
	struct shm_sizes sizes = sizes_of(&h);
	struct bad b = {.fd = bad_socket()};
	int fd;

	CHECK(thmqi_shm_arena_make(&sizes, &b.arena, &fd) == 0);
	h.arena_bytes = b.arena.bytes;
	CHECK(put(b.fd, &h, sizeof(h), &fd, 1));
	close(fd);
	thmqi_frame_ring_init(&b.up, b.arena.up, 64);
	thmqi_frame_ring_init(&b.ctl, b.arena.ctl, 64);
	thmqi_frame_ring_init(&b.down, b.arena.down, 64);
	b.up.tail_at = &b.arena.head->up_tail;
	b.ctl.tail_at = &b.arena.head->ctl_tail;
	b.down.tail_at = &b.arena.head->down_tail;
	return b;
}

static void kick(struct bad *b)
{
	send(b->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static struct bad bad_open(uint32_t shard)
{
	struct bad b = bad_greet(shard);
	uint64_t end = now() + 5 * SECOND;

	while (!thmqi_frame_peek(&b.down, 0) && now() < end)
		nap(MS / 10);
	CHECK(thmqi_frame_peek(&b.down, 0)->type == THMQI_FRAME_WELCOME);
	return b;
}

static void say(struct bad *b, struct thmqi_frame_ring *ring, struct thmqi_frame f)
{
	struct thmqi_frame *slot = thmqi_frame_claim(ring, 0);

	if (!slot)
		return;
	memcpy((char *)slot + sizeof(slot->turn), (char *)&f + sizeof(f.turn),
	       sizeof(f) - sizeof(f.turn));
	thmqi_frame_commit(ring);
	kick(b);
}

#define UP(b, ...) say(b, &(b)->up, (struct thmqi_frame){__VA_ARGS__})
#define CTL(b, ...) say(b, &(b)->ctl, (struct thmqi_frame){__VA_ARGS__})

static void bad_close(struct bad *b)
{
	thmqi_shm_arena_drop(&b->arena);
	close(b->fd);
}

/* It is told why, in the arena, and hung up on. */
static void loses(struct bad *b, int error)
{
	is_closed(b->fd, 5 * SECOND);
	CHECK(atomic_load(&b->arena.head->broker_closed) == error);
	thmqi_shm_arena_drop(&b->arena);
}

/* -------------------------------------------------------------------- greetings */

static void garbage(void)
{
	uint8_t data[4096];
	int i, fd, rc, null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (i = 0; i < 100; i++) {
		fd = bad_socket();
		for (size_t k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)thmqi_prng_next(&prng);
		put(fd, data, 1 + thmqi_prng_below(&prng, i % 2 ? sizeof(data) : 200), &null,
		    i % 3 == 0);
		rc = is_closed(fd, 2 * SECOND);
		CHECK(rc == -EPROTO);
	}
	close(null);
}

/* What the broker says to this greeting with these descriptors; a good one has one, of memory as the greeting tells. */
static void refused(const struct shm_hello *h, size_t len, const int *fds, uint32_t count,
		    int status)
{
	int fd = bad_socket(), rc;

	CHECK(put(fd, h, len, fds, count));
	rc = is_closed(fd, 2 * SECOND);
	if (rc != status)
		fprintf(stderr, "%d, not %d\n", rc, status);
	CHECK(rc == status);
}

static void wrong_fields(void)
{
	struct shm_hello good = good_hello(1), h;
	struct shm_sizes sizes = sizes_of(&good);
	struct shm_arena arena;
	int fd;

	CHECK(thmqi_shm_arena_make(&sizes, &arena, &fd) == 0);
	good.arena_bytes = arena.bytes;
#define WRONG(set, status)                                                                         \
	do {                                                                                       \
		h = good;                                                                          \
		set;                                                                               \
		h.hello.crc = thmqi_crc32c(0, &h.hello, offsetof(struct thmqi_hello, crc));        \
		refused(&h, sizeof(h), &fd, 1, status);                                            \
	} while (0)
	WRONG((h.hello.version_min = THMQI_STREAM_VERSION + 1, h.hello.version_max = 9), -THMQ_EVERSION);
	WRONG(h.version = SHM_VERSION + 1, -THMQ_EVERSION);
	WRONG(h.hello.kind = THMQI_HELLO_BROKER, -EPROTO);
	WRONG(h.hello.status = -5, -EPROTO);
	WRONG(h.hello.area_bytes = 1u << 31, -E2BIG);
	WRONG(h.hello.area_bytes = 5000, -EINVAL);
	WRONG(h.hello.up_frames = 1u << 20, -E2BIG);
	WRONG(h.hello.up_frames = 0, -EINVAL);
	WRONG(h.hello.ctl_frames = 8192, -E2BIG);
	WRONG(h.hello.down_frames = 4, -EINVAL);
	WRONG(h.hello.shard = UINT32_MAX, -ECONNREFUSED);
	WRONG(h.hello.instance = 12345, -ESHUTDOWN);
	WRONG(h.room_bytes = SHM_ROOM_MAX + THMQI_BLOCK, -E2BIG);
	WRONG(h.room_bytes = UINT64_MAX, -E2BIG);
	WRONG(h.room_bytes = 5, -EINVAL);
	/* the memory is of another size than these would need, or than it claims */
	WRONG(h.hello.up_frames = 128, -EPROTO);
	WRONG(h.hello.area_bytes = 131072, -EPROTO);
	WRONG(h.room_bytes = 0, -EPROTO);
	WRONG(h.arena_bytes = 0, -EPROTO);
	WRONG(h.arena_bytes += 1, -EPROTO);
#undef WRONG
	refused(&good, sizeof(good), NULL, 0, -EPROTO);
	refused(&good, sizeof(good) - 1, &fd, 1, -EPROTO);
	refused(&good, 3, &fd, 1, -EPROTO);
	refused(&good, sizeof(good.hello), &fd, 1, -EPROTO); /* as over TCP */
	close(fd);
	thmqi_shm_arena_drop(&arena);
}

static int memory(uint64_t bytes, uint32_t flags, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd >= 0 && (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, seals) != 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Descriptors of all that is not the memory that was announced. */
static void wrong_memory(void)
{
	struct shm_hello h = good_hello(1);
	struct shm_sizes sizes = sizes_of(&h);
	uint64_t bytes = h.arena_bytes = thmqi_shm_arena_bytes(&sizes);
	char name[] = "shm-peer-XXXXXX";
	int p[2], many[250], i, fd = mkstemp(name);

	CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, (off_t)bytes) == 0 && pipe(p) == 0);
	refused(&h, sizeof(h), &fd, 1, -EPROTO); /* a file could be cut off under our feet */
	refused(&h, sizeof(h), &p[0], 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){open("/dev/zero", O_RDWR | O_CLOEXEC)}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){open("/proc/self", O_RDONLY | O_CLOEXEC)}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){bad_socket()}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){memory(bytes, 0, F_SEAL_GROW)}, 1,
		-EPROTO); /* it can shrink */
	refused(&h, sizeof(h), (int[]){memory(bytes - 4096, 0, F_SEAL_SHRINK)}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){memory(bytes + 4096, 0, F_SEAL_SHRINK)}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){memory(0, 0, F_SEAL_SHRINK)}, 1, -EPROTO);
	refused(&h, sizeof(h), (int[]){memory(bytes, 0, F_SEAL_SHRINK | F_SEAL_WRITE)}, 1, -EPROTO);
	i = memory(THMQI_ALIGN_UP(bytes, 2ull << 20), MFD_HUGETLB, F_SEAL_SHRINK);
	if (i >= 0) /* it may run out when it is touched */
		refused(&h, sizeof(h), &i, 1, -EPROTO);
	for (i = 0; i < 250; i++)
		many[i] = memory(bytes, 0, F_SEAL_SHRINK);
	refused(&h, sizeof(h), many, 2, -EPROTO);
	refused(&h, sizeof(h), many, 250, -EPROTO);
	for (i = 3; i < 1000;
	     i++) /* all of the above; the friend's and the broker's are not lower than the pipe */
		if (i == fd || i == p[0] || i == p[1] || (i >= many[0] && i <= many[249]))
			close(i);
}

static void half_open(void)
{
	struct thmq_session *s;
	int fd[HALF_OPEN], i;
	uint64_t begin = now();

	for (i = 0; i < HALF_OPEN; i++)
		fd[i] = bad_socket();
	friend_is_well();
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	for (i = 0; i < HALF_OPEN; i++)
		is_closed(fd[i], 8 * SECOND);
	CHECK(now() - begin < 8 * SECOND);
}

/* ----------------------------------------------------------------------- frames */

static void rules(void)
{
	struct bad b;
	int i;

#define LOSES(what)                                                                                \
	do {                                                                                       \
		b = bad_open(1);                                                                   \
		what;                                                                              \
		loses(&b, -EPROTO);                                                                \
	} while (0)
	LOSES(UP(&b, .type = THMQI_FRAME_DETACH));
	LOSES(UP(&b, .type = 0));
	LOSES(CTL(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000, .len = 1));
	LOSES(CTL(&b, .type = 0));
	LOSES(CTL(&b, .type = THMQI_FRAME_DELIVER, .len = 100));
	LOSES(CTL(&b, .type = 255));
	LOSES(CTL(&b, .type = THMQI_FRAME_RELEASES, .len = 0));
	LOSES(CTL(&b, .type = THMQI_FRAME_RELEASES, .len = THMQI_RELEASES + 1));
	/* places outside of its area, which begins at 0x10000 for it */
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000 + 65536, .len = 1));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000 + 65535, .len = 2));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0xffff, .len = 1));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = UINT64_MAX, .len = 2));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000, .len = UINT32_MAX));
	/* a series may not have these; nor go beyond the area, nor on for ever */
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000, .len = 8, .flags = 1,
		 .extra = THMQI_PRODUCE_SERIES | THMQI_PRODUCE_TIMED));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000, .len = 8, .flags = 1, .extra = THMQI_PRODUCE_SERIES, .arg = {0, 7}));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000 + 65536 - 24, .len = 8, .flags = 1, .extra = THMQI_PRODUCE_SERIES,
		 .arg = {3, 0}));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .data = 0x10000, .len = 65000, .flags = 1, .extra = THMQI_PRODUCE_SERIES, .arg = {1, 0}));
	LOSES(UP(&b, .type = THMQI_FRAME_PRODUCE, .partition = TOPIC_PARTITION, .flags = 1, .extra = THMQI_PRODUCE_SERIES, .arg = {UINT32_MAX, 0}));
	/* it has taken what it was not given, and says so when the ring is full */
	LOSES(atomic_store(&b.arena.head->down_tail, 1u << 20); for (i = 0; i < 80; i++)(
		      CTL(&b, .type = THMQI_FRAME_DETACH, .stream = 1), nap(MS / 5)));
#undef LOSES
	b = bad_open(
		0); /* two requests at a time: the answer to the first may be quicker than the second */
	for (i = 0; i < 30; i++)
		CTL(&b, .type = THMQI_FRAME_REQUEST, .seq = 1);
	bad_close(&b);
	b = bad_open(1); /* it gives back what it does not have: that is no harm */
	for (i = 0; i < 40; i++)
		CTL(&b, .type = THMQI_FRAME_RELEASE, .stream = (uint32_t)i * 9,
		    .arg = {(uint64_t)i << (i % 40), 0});
	for (i = 0; i < 40; i++)
		CTL(&b, .type = THMQI_FRAME_RELEASES, .stream = (uint32_t)i * 9, .len = 1 + (uint32_t)i % THMQI_RELEASES,
		    .arg = {(uint64_t)i << (i % 40), (uint64_t)i}, .seq = (uint64_t)i, .data = 5);
	nap(20 * MS);
	CHECK(atomic_load(&b.arena.head->broker_closed) == 0);
	bad_close(&b);
}

/* How far the broker has told the producer of stream 0 that it is. */
static void reaches(struct bad *b, uint64_t seq)
{
	uint64_t end = now() + 20 * SECOND, at = 0;
	const struct thmqi_frame *f;

	while (at < seq && now() < end) {
		f = thmqi_frame_peek(&b->down, 0);
		if (!f) {
			nap(MS / 10);
			continue;
		}
		if (f->type == THMQI_FRAME_PROGRESS && f->flags == THMQ_DURABILITY_MEMORY)
			at = f->seq;
		thmqi_frame_advance(&b->down, 1);
		thmqi_frame_publish(&b->down);
	}
	CHECK(at == seq);
}

/* Messages that begin with the number of their place, from @from on. */
static void friend_gets(uint32_t from, uint32_t count)
{
	uint64_t end = now() + 20 * SECOND;
	struct thmq_message m[16];
	uint32_t place, got = 0;
	int i, n;

	while (got < count && now() < end) {
		thmq_session_wait(friend, 10 * MS);
		n = thmq_fetch(consumer, m, 16);
		CHECK(n >= 0);
		for (i = 0; i < n; i++, got++) {
			CHECK(m[i].len == 20);
			memcpy(&place, m[i].data, sizeof(place));
			CHECK(place == from + got);
		}
		thmq_release(consumer, m, (uint32_t)n);
	}
	CHECK(got == count);
}

/* A frame that counts those that follow: however it comes to be more, each is taken once; and what ends it is behind all of them. */
static void series(void)
{
	struct bad b = bad_open(1);
	struct thmqi_frame *f;
	uint32_t place;
	uint64_t n;

	friend_takes_all(0);
	for (place = 0; place < 65536 / 24; place++)
		memcpy(b.arena.area + place * 24, &place, sizeof(place));
	UP(&b, .type = THMQI_FRAME_PRODUCE, .partition = TOPIC_PARTITION, .len = 20, .flags = 1, .seq = 1, .data = 0x10000,
	   .extra = THMQI_PRODUCE_SERIES, .arg = {2, 0});
	reaches(&b, 3);
	f = &b.up.slots[0];
	for (n = 3; n < 1000; n += 1 + n % 7) {
		thmqi_series_tell(f, n);
		kick(&b);
		if (n % 3 == 0)
			reaches(&b, n + 1);
	}
	thmqi_series_tell(f, 1000);
	kick(&b);
	reaches(&b, 1001);
	thmqi_series_tell(f, 100); /* what was said is said */
	kick(&b);
	nap(MS);
	thmqi_series_tell(f, 1010 | THMQI_SERIES_ENDS);
	UP(&b, .type = THMQI_FRAME_PRODUCE, .partition = TOPIC_PARTITION, .len = 20, .flags = 1, .seq = 1012, .data = 0x10000 + 1011 * 24);
	reaches(&b, 1012);
	friend_gets(0, 1012);
	/* who goes leaves the last one open: all of it is taken, at once */
	UP(&b, .type = THMQI_FRAME_PRODUCE, .partition = TOPIC_PARTITION, .len = 20, .flags = 1, .seq = 1013, .data = 0x10000 + 5 * 24,
	   .extra = THMQI_PRODUCE_SERIES, .arg = {9, 0});
	bad_close(&b);
	friend_gets(5, 10);
}

/* It asks for much and takes nothing; and one that says nothing but lives is none of our business. */
static void deaf(void)
{
	uint8_t data[60000] = {0};
	struct bad b = bad_open(1);
	int i;

	CTL(&b, .type = THMQI_FRAME_ATTACH, .stream = 0, .partition = TOPIC_PARTITION,
	    .flags = THMQ_START_END, .len = 256u << 20, .extra = 4096);
	for (i = 0; i < 50; i++) { /* more than its room takes */
		while (thmq_send(producer, data, sizeof(data), NULL) > 0)
			;
		nap(5 * MS);
		friend_takes_all(0);
	}
	bad_close(&b);
	friend_takes_all(50 * MS);
}

/* Each thing that a client says, and then it is gone. */
static void dies_at_each_step(void)
{
	struct shm_hello h = good_hello(1);
	struct bad b;
	int step, round, fd;

	for (round = 0; round < 10; round++) {
		close(bad_socket());
		fd = bad_socket();
		put(fd, &h, sizeof(h), NULL, 0);
		close(fd);
		for (step = 0; step < 8; step++) {
			b = step ? bad_open(1) : bad_greet((uint32_t)round % 2);
			if (step >= 2)
				CTL(&b, .type = THMQI_FRAME_ATTACH, .partition = TOPIC_PARTITION,
				    .flags = THMQ_START_BEGIN, .len = 1 << 20, .extra = 100);
			if (step == 3)
				nap(MS);
			if (step >= 4)
				UP(&b, .type = THMQI_FRAME_PRODUCE, .partition = TOPIC_PARTITION,
				   .len = 500, .flags = 1, .seq = 1, .data = 0x10000 + 64,
				   .extra = round % 2 ? THMQI_PRODUCE_SERIES : 0, .arg = {round % 2 ? 3 : 0, 0});
			if (step >= 5)
				CTL(&b, .type = THMQI_FRAME_RELEASE, .arg = {0, 0});
			if (step >= 6)
				nap(MS);
			if (step >= 7)
				CTL(&b, .type = THMQI_FRAME_DETACH, .partition = TOPIC_PARTITION);
			bad_close(&b);
		}
	}
	friend_takes_all(50 * MS);
}

/* Frames of all types with any fields: the broker's own checks are all that is left. */
static void any_frames(void)
{
	static const uint64_t hurts[] = {0,          1,          2,           64,
					 4096,       0x10000,    65535,       UINT32_MAX,
					 UINT64_MAX, 1ull << 63, 0x80000001u, 0x1ffff};
	uint32_t round, i;

#define ANY (hurts[thmqi_prng_below(&prng, THMQI_ARRAY_COUNT(hurts))])
	for (round = 0; round < 200; round++) {
		struct bad b = bad_open(round % 2);

		for (i = 0; i < (uint32_t)sizeof(*b.arena.request); i++)
			((uint8_t *)b.arena.request)[i] = (uint8_t)thmqi_prng_next(&prng);
		b.arena.request->op = 1 + (uint32_t)thmqi_prng_below(&prng, 12);
		for (i = 0; i < 60; i++) {
			struct thmqi_frame f = {.type = (uint8_t)(1 + thmqi_prng_below(&prng, 12)),
						.flags = (uint8_t)ANY,
						.key_len = (uint16_t)ANY,
						.stream = (uint32_t)ANY,
						.partition = (uint32_t)ANY,
						.len = (uint32_t)ANY,
						.extra = (uint32_t)ANY,
						.seq = ANY,
						.data = 0x10000 + ANY,
						.arg = {ANY, ANY},
						.tag_hash = (uint32_t)ANY,
						.status = (int32_t)ANY};

			say(&b, f.type == THMQI_FRAME_PRODUCE ? &b.up : &b.ctl, f);
			thmqi_frame_advance(&b.down, thmqi_frame_peek(&b.down, 0) != NULL);
		}
		bad_close(&b);
		friend_takes_all(0);
	}
#undef ANY
	friend_takes_all(50 * MS);
}

/* ---------------------------------------------------------------- while it is looked at */

struct scribbler {
	struct bad *bad;
	_Atomic bool stop;
	uint64_t seed;
};

/* Frames that come and change, words that mean something, and bytes anywhere, all the time. */
static void *scribble(void *arg)
{
	struct scribbler *s = arg;
	struct shm_arena *a = &s->bad->arena;
	struct thmqi_prng p;
	uint64_t head = a->area - a->map, i;

	thmqi_prng_seed(&p, s->seed);
	for (i = 0; !atomic_load_explicit(&s->stop, memory_order_relaxed); i++) {
		uint64_t r = thmqi_prng_next(&p);
		struct thmqi_frame *f = i % 2 ? &a->up[r % 64] : &a->ctl[r % 64];

		f->type = i % 2 ? THMQI_FRAME_PRODUCE : (uint8_t)(1 + (r >> 8) % 11);
		f->partition = TOPIC_PARTITION;
		f->flags = 1;
		f->data = 0x10000 + (r >> 16) % 65536;
		f->len = (uint32_t)(r >> 32) % 2000;
		atomic_store_explicit(&f->turn, (uint32_t)(i >> 10) % 40, memory_order_release);
		f->len = (uint32_t)thmqi_prng_next(&p); /* too late, or just in time */
		f->key_len = (uint16_t)thmqi_prng_next(&p);
		f->data = thmqi_prng_next(&p);
		if (i % 64 == 0)
			((volatile uint8_t *)a->map)[thmqi_prng_next(&p) % head] = (uint8_t)r;
		if (i % 512 == 0)
			kick(s->bad);
	}
	return NULL;
}

static void scribbles(void)
{
	struct bad b;
	int round;

	for (round = 0; round < 60; round++) {
		struct scribbler s = {.bad = &b, .seed = thmqi_prng_next(&prng)};
		pthread_t t;

		b = bad_open((uint32_t)round % 4 != 0);
		CTL(&b, .type = THMQI_FRAME_ATTACH, .partition = TOPIC_PARTITION,
		    .flags = THMQ_START_END, .len = 1 << 20, .extra = 4096);
		CHECK(pthread_create(&t, NULL, scribble, &s) == 0);
		friend_takes_all(0);
		nap((uint64_t)(round % 10) * MS);
		atomic_store(&s.stop, true);
		pthread_join(t, NULL);
		bad_close(&b);
	}
	friend_takes_all(50 * MS);
}

/* Bytes and descriptors for the broker to read, as fast as it goes. */
static void floods(void)
{
	struct bad b = bad_open(1);
	int fds[250], i, n = 0;
	uint64_t end = now() + 500 * MS;

	for (i = 0; i < 250; i++)
		fds[i] = b.fd;
	while (now() < end) {
		n += put(b.fd, "floods", 6, fds, n % 7 ? 0 : 250);
		if (n % 1000 == 0)
			friend_is_well();
	}
	CHECK(n > 1000);
	bad_close(&b);
}

/* ---------------------------------------------------------------- nothing is left */

/* Arenas that are mapped; and all address space, in MiB. */
static uint32_t arenas(uint64_t *ret_mib)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long begin, end;
	char line[512];
	uint32_t n = 0;

	*ret_mib = 0;
	while (fgets(line, sizeof(line), f)) {
		n += strstr(line, "/memfd:thundermq") != NULL;
		if (sscanf(line, "%lx-%lx", &begin, &end) == 2)
			*ret_mib += (end - begin) >> 20;
	}
	fclose(f);
	return n;
}

static uint32_t descriptors(void)
{
	uint32_t n = 0;
	int fd;

	for (fd = 0; fd < 2000; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void thousand_sessions(void)
{
	uint64_t mib = 0, mib_now;
	uint32_t fds = 0, maps = 0, i;
	struct thmq_session *s;
	struct thmq_producer *p;

	for (i = 0; i < 1000; i++) {
		CHECK(thmq_connect(env, url, NULL, &s) == 0);
		if (i % 10 == 0) {
			CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
			CHECK(thmq_send(p, "x", 1, NULL) > 0);
		}
		CHECK(thmq_session_close(s, SECOND) == 0);
		friend_takes_all(0);
		if (i == 100 || i == 999) {
			only_the_friend_is_left();
			nap(100 * MS);
		}
		if (i == 100) {
			fds = descriptors();
			maps = arenas(&mib);
		}
	}
	CHECK(descriptors() <= fds);
	CHECK(arenas(&mib_now) <= maps);
	/* the books of one connection are 12 MiB */
	CHECK(UNDER_TSAN || mib_now < mib + 512);
}

/* More than connection_max are turned away, and there is room again when some are gone. */
static void too_many_connections(void)
{
	struct thmq_session *s[8], *last;
	struct thmq_broker *b;
	char at[80];
	int i;

	snprintf(at, sizeof(at), "shm://%s.few", path);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.name = "y", .listen = at, .connection_max = 8),
			       &b) == 0);
	for (i = 0; i < 8; i++)
		CHECK(thmq_connect(env, at, NULL, &s[i]) == 0);
	CHECK(thmq_connect(env, at, THMQ_SESSION_OPTS(.timeout_ns = SECOND), &last) < 0);
	for (i = 0; i < 8; i++)
		CHECK(thmq_session_close(s[i], SECOND) == 0);
	for (i = 0; thmq_connect(env, at, NULL, &last) != 0; i++) {
		CHECK(i < 500);
		nap(10 * MS);
	}
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(thmq_session_close(last, SECOND) == 0);
}

static const struct test_case cases[] = {
	{"garbage", garbage},
	{"wrong_fields", wrong_fields},
	{"wrong_memory", wrong_memory},
	{"half_open", half_open},
	{"rules", rules},
	{"series", series},
	{"deaf", deaf},
	{"dies_at_each_step", dies_at_each_step},
	{"any_frames", any_frames},
	{"scribbles", scribbles},
	{"floods", floods},
	{"thousand_sessions", thousand_sessions},
	{"too_many_connections", too_many_connections},
};

int main(int argc, char **argv)
{
	snprintf(path, sizeof(path), "shm-peer-%d.sock", (int)getpid());
	snprintf(url, sizeof(url), "shm://%s", path);
	thmqi_prng_seed(&prng, getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0) : 4711);
	up();
	friend_is_well();
	run_cases(cases, THMQI_ARRAY_COUNT(cases), argc - 1, argv + 1, NULL, only_the_friend_is_left);
	friend_closes();
	CHECK(access(path, F_OK) != 0); /* the socket's file goes with it */
	return 0;
}
