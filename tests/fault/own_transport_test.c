/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_transport_test.c - a transport of the application's that is wrong: it claims to have moved more than it was given, gives no
 * descriptor, or one that nobody can wait for, has nobody behind it, fails when it accepts. Whatever it does ends that connection with an error; the
 * next one works, and each descriptor is closed once.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thundermq/transport.h>

#include "check.h"

#define WAITING_MAX 64
#define URL "own://here"

/* What it does wrong, and from which call on. */
enum wrong { NOTHING, SENDS_MORE, RECEIVES_MORE, NO_DESCRIPTOR, A_FILE, NOBODY_BEHIND, ACCEPTS_BADLY, LISTENS_AT_NOTHING };

static struct {
	pthread_mutex_t lock;
	int ready; /* an eventfd that counts the waiting */
	int waiting[WAITING_MAX], count;
	_Atomic uint32_t wrong, after; /* enum wrong; calls that are right before that */
	_Atomic int given, closed, accepts;
	_Atomic uint64_t direct, between; /* bytes received where they belong; into a buffer of the connection, to be copied */
} own = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready = -1};

static struct thmq_env *env;
static struct thmq_broker *broker;

/* Is this call the one that does it? */
static bool is_wrong(uint32_t how)
{
	return atomic_load(&own.wrong) == how && (!atomic_load(&own.after) || atomic_fetch_sub(&own.after, 1) == 1);
}

/* --------------------------------------------------------------- the transport */

static int own_connect(void *ctx, const char *url, int *ret_fd)
{
	const uint64_t one = 1;
	int fds[2];

	(void)ctx, (void)url;
	if (is_wrong(NO_DESCRIPTOR))
		return 0;
	if (is_wrong(A_FILE)) {
		*ret_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
		own.given++;
		return 0;
	}
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	pthread_mutex_lock(&own.lock);
	CHECK(own.count < WAITING_MAX);
	own.waiting[own.count++] = fds[1];
	pthread_mutex_unlock(&own.lock);
	own.given++;
	*ret_fd = fds[0];
	return is_wrong(NOBODY_BEHIND) ? 0 : write(own.ready, &one, sizeof(one)) == sizeof(one) ? 0 : -EIO;
}

static int own_listen(void *ctx, const char *url, int *ret_fd, char *ret_url, uint32_t url_size)
{
	(void)ctx, (void)url, (void)ret_url, (void)url_size;
	if (is_wrong(LISTENS_AT_NOTHING))
		return 0;
	own.given++;
	*ret_fd = own.ready = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	return 0;
}

static int own_accept(void *ctx, int listen_fd, int *ret_fd)
{
	uint64_t one;

	(void)ctx;
	own.accepts++;
	if (is_wrong(ACCEPTS_BADLY))
		return -ECONNABORTED;
	if (read(listen_fd, &one, sizeof(one)) != sizeof(one))
		return -errno;
	pthread_mutex_lock(&own.lock);
	*ret_fd = own.waiting[--own.count];
	pthread_mutex_unlock(&own.lock);
	own.given++;
	return 0;
}

static int64_t bytes_of(const struct iovec *iov, uint32_t count)
{
	int64_t n = 0;

	while (count--)
		n += (int64_t)iov++->iov_len;
	return n;
}

static int64_t own_send(void *ctx, int fd, const struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
	ssize_t n;

	(void)ctx;
	if (is_wrong(SENDS_MORE))
		return bytes_of(iov, count) + 1;
	n = sendmsg(fd, &m, MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

static int64_t own_recv(void *ctx, int fd, const struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
	ssize_t n;

	(void)ctx;
	if (is_wrong(RECEIVES_MORE))
		return bytes_of(iov, count) + 1;
	n = recvmsg(fd, &m, 0);
	if (n > 0) { /* the last place is that buffer */
		int64_t place = bytes_of(iov, count - 1), there = n < place ? n : place;

		own.direct += (uint64_t)there;
		own.between += (uint64_t)(n - there);
	}
	return n < 0 ? -errno : n;
}

static void own_close(void *ctx, int fd)
{
	(void)ctx;
	own.closed++;
	close(fd);
}

static const struct thmq_transport transport = {.size = sizeof(transport),
						.scheme = "own",
						.connect = own_connect,
						.listen = own_listen,
						.accept = own_accept,
						.send = own_send,
						.recv = own_recv,
						.close = own_close};

/* ------------------------------------------------------------------ the others */

static void up(void)
{
	own.wrong = NOTHING;
	own.after = 0;
	own.given = own.closed = own.count = 0;
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1)) == 0);
	CHECK(thmq_transport_register(env, &transport) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = URL), &broker) == 0);
}

static void down(void)
{
	CHECK(thmq_env_close(env, 20 * SECOND) == 0);
	while (own.count) /* nobody accepted it */
		close(own.waiting[--own.count]);
	CHECK(own.given == own.closed);
}

/* Connected, and a message goes and comes. 0, or what the first thing that failed said. */
static int64_t try(void)
{
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t until = now() + 30 * SECOND;
	int64_t rc = thmq_connect(env, URL, THMQ_SESSION_OPTS(.peer_timeout_ns = SECOND), &s);

	if (rc)
		return rc;
	rc = thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT));
	if (rc >= 0)
		rc = thmq_producer_open(s, "t", NULL, &p);
	if (!rc)
		rc = thmq_consumer_open(s, "t", NULL, NULL, &c);
	if (!rc)
		rc = thmq_send(p, "here", 4, NULL);
	if (rc > 0)
		rc = thmq_flush(p, 20 * SECOND);
	while (!rc && (rc = thmq_fetch(c, &m, 1)) == 0 && now() < until)
		rc = thmq_session_wait(s, SECOND) < 0 ? -EIO : 0;
	if (rc == 1) {
		CHECK(m.len == 4 && memcmp(m.data, "here", 4) == 0);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	thmq_session_close(s, SECOND);
	return rc == 1 ? 0 : rc ? rc : -ETIMEDOUT;
}

/* ---------------------------------------------------------------------- cases */

/* At each of the first calls in turn; what was refused is told, and the next connection works. */
static void lies(uint32_t how)
{
	uint32_t after;
	int64_t rc;

	for (after = 1; after <= 24; after++) {
		own.after = after;
		own.wrong = how;
		rc = try();
		CHECK(after > 1 || rc == -EPROTO);
		own.wrong = NOTHING;
		CHECK(try() == 0);
	}
}

static void sends_more(void)
{
	lies(SENDS_MORE);
}

static void receives_more(void)
{
	lies(RECEIVES_MORE);
}

static void bad_descriptors(void)
{
	uint32_t how;

	for (how = NO_DESCRIPTOR; how <= A_FILE; how++) {
		own.wrong = how;
		CHECK(try() < 0);
		own.wrong = NOTHING;
		CHECK(try() == 0);
	}
}

static void nobody_behind(void)
{
	uint64_t begin = now();

	own.wrong = NOBODY_BEHIND;
	CHECK(try() == -ETIMEDOUT);
	CHECK(now() - begin >= SECOND / 2);
	own.wrong = NOTHING;
	close(own.waiting[--own.count]);
	CHECK(try() == 0);
}

static void accepts_badly(void)
{
	uint64_t begin;
	int asked;

	own.wrong = ACCEPTS_BADLY;
	CHECK(try() == -ETIMEDOUT);
	/* in a loop it would be many thousands */
	begin = now();
	asked = own.accepts;
	nap(200 * MS);
	CHECK((uint64_t)(own.accepts - asked) <= 16 * ((now() - begin) / (50 * MS) + 2));
	own.wrong = NOTHING; /* it is asked again */
	CHECK(try() == 0);
}

static void listens_at_nothing(void)
{
	struct thmq_broker *other;

	own.wrong = LISTENS_AT_NOTHING;
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "other", .listen = "own://there"), &other) < 0);
	CHECK(strstr(thmq_errmsg(), "own://there"));
	own.wrong = NOTHING;
	CHECK(try() == 0);
}

/* Of messages of 64 KiB the application's bytes are received where they belong, on both ways: what is copied is frames and first bytes. */
static void large_bodies_are_not_copied(void)
{
	const uint32_t len = 64 << 10, most = 200;
	static uint8_t bytes[64 << 10];
	uint64_t end = now() + 60 * SECOND, sum;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	struct thmq_session *s;
	uint32_t sent = 0, got = 0;
	int n;

	CHECK(thmq_connect(env, URL, NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "large", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE, .volatile_bytes = 64 << 20)) == 0);
	CHECK(thmq_producer_open(s, "large", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "large", NULL, NULL, &c) == 0);
	own.direct = own.between = 0;
	while (got < most) {
		CHECK(now() < end);
		while (sent < most && thmq_send(p, bytes, len, NULL) > 0)
			sent++;
		n = thmq_fetch(c, m, 16);
		CHECK(n >= 0);
		got += (uint32_t)n;
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
		if (!n)
			thmq_session_wait(s, MS);
	}
	sum = 2ull * most * len; /* there and back */
	CHECK(own.direct + own.between >= sum);
	if (own.between * 10 > sum)
		fprintf(stderr, "%llu of %llu bytes are copied\n", (unsigned long long)own.between, (unsigned long long)sum);
	CHECK(own.between * 10 <= sum);
	printf("%.1f %% copied\n", 100.0 * (double)own.between / (double)sum);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
}

int main(int argc, char **argv)
{
	static const struct test_case cases[] = {
		{"sends_more", sends_more},	  {"receives_more", receives_more},
		{"bad_descriptors", bad_descriptors}, {"nobody_behind", nobody_behind},
		{"accepts_badly", accepts_badly}, {"listens_at_nothing", listens_at_nothing},
		{"large_bodies_are_not_copied", large_bodies_are_not_copied},
	};

	run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc - 1, argv + 1, up, down);
	return 0;
}
