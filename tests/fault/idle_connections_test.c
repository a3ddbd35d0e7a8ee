/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle_connections_test.c - many connections that have nothing to say: an iteration of the core costs about as much as without them,
 * their memory is little, and each is heard at once when it does speak, or has something to be told. One thread drives it all.
 *
 * THMQ_TEST_FULL=1: 10,000 of them, in less than 1 GiB.
 */
#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../check.h"
#include "wire/stream.h"

#define SILENT 300u        /* more than may be greeted at a time */
/* Sanitizers have shadows of what is used. */
#if defined(__SANITIZE_ADDRESS__)
#define OTHER_MEMORY true
#else
#define OTHER_MEMORY (UNDER_TSAN || getenv("VALGRIND_LIB"))
#endif
#define EACH_BYTES 107374u /* 1 GiB / 10,000 */

static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;
static uint16_t port;

static void drive(uint32_t rounds)
{
	while (rounds--)
		CHECK(thmq_poll(env, 0) >= 0);
}

/* Of this process, that lies in memory. */
static uint64_t resident_bytes(void)
{
	unsigned long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	CHECK(f && fscanf(f, "%lu %lu", &size, &resident) == 2);
	fclose(f);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The least that an iteration takes, which other programs do not disturb. */
static double iteration_ns(void)
{
	double least = 0;
	uint32_t i;

	for (i = 0; i < 50; i++) {
		uint64_t begin = now();
		double ns;

		drive(500);
		ns = (double)(now() - begin) / 500;
		least = i == 0 || ns < least ? ns : least;
	}
	return least;
}

static void one_message(void)
{
	uint64_t end = now() + 10 * SECOND;
	struct thmq_message m;
	int n;

	CHECK(thmq_send(producer, "x", 1, NULL) > 0);
	while ((n = thmq_fetch(consumer, &m, 1)) == 0 && now() < end)
		drive(1);
	CHECK(n == 1 && thmq_release(consumer, &m, 1) == 0);
}

/* ----------------------------------------------------------------- the idle ones */

static int knock(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

/* All of @len bytes, while the core is driven. */
static void receive(int fd, void *to, size_t len)
{
	uint64_t end = now() + 10 * SECOND;
	size_t at = 0;
	ssize_t n;

	while (at < len && now() < end) {
		drive(1);
		n = recv(fd, (char *)to + at, len - at, MSG_DONTWAIT);
		CHECK(n > 0 || (n < 0 && errno == EAGAIN));
		at += n > 0 ? (size_t)n : 0;
	}
	CHECK(at == len);
}

static int let_in(uint32_t shard)
{
	struct thmqi_hello h = {.area_bytes = 65536,
				.up_frames = 64,
				.ctl_frames = 64,
				.down_frames = 64,
				.silence_ms = 600000,
				.shard = shard};
	struct thmqi_frame welcome;
	int fd = knock();

	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	CHECK(send(fd, &h, sizeof(h), MSG_NOSIGNAL) == sizeof(h));
	receive(fd, &h, sizeof(h));
	CHECK(thmqi_hello_check(&h, THMQI_HELLO_BROKER) == 0 && h.status == 0);
	receive(fd, &welcome, sizeof(welcome));
	CHECK(welcome.type == THMQI_FRAME_WELCOME);
	return fd;
}

static void put(int fd, struct thmqi_frame *f, uint32_t number)
{
	uint8_t bytes[sizeof(*f)];

	thmqi_stream_seal(bytes, f, number);
	CHECK(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) == sizeof(bytes));
}

/* It speaks: it is answered. */
static void is_heard(int fd)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_REQUEST, .seq = 77, .len = sizeof(struct thmqi_request)};
	struct thmqi_request r = {.op = THMQI_OP_TOPIC_LIST};
	uint8_t reply[sizeof(struct thmqi_reply)];

	f.data = (uint64_t)thmqi_crc32c(0, &r, sizeof(r)) << 32;
	put(fd, &f, 0);
	CHECK(send(fd, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r));
	receive(fd, &f, sizeof(f));
	CHECK(f.type == THMQI_FRAME_REPLY && f.seq == 77 && f.status == 0 &&
	      f.len <= sizeof(reply));
	receive(fd, reply, f.len);
}

/* It waits for messages, rests meanwhile, and is told of one. */
static void is_told(int fd, uint32_t partition)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_ATTACH,
				.stream = 1,
				.partition = partition,
				.flags = THMQ_START_END,
				.len = 1 << 20,
				.extra = 100};
	uint8_t run[4096];

	put(fd, &f, 0);
	receive(fd, &f, sizeof(f));
	CHECK(f.type == THMQI_FRAME_ATTACHED && f.status == 0);
	drive(2000);
	one_message();
	receive(fd, &f, sizeof(f));
	CHECK(f.type == THMQI_FRAME_DELIVER_ONE && f.len <= sizeof(run));
	receive(fd, run, f.len);
}

/* It lies: it is gone at once. */
static void is_ended(int fd)
{
	char rubbish[64];
	uint64_t end = now() + 10 * SECOND;
	ssize_t n;

	memset(rubbish, 0x5a, sizeof(rubbish));
	CHECK(send(fd, rubbish, sizeof(rubbish), MSG_NOSIGNAL) == sizeof(rubbish));
	do {
		drive(1);
		n = recv(fd, rubbish, sizeof(rubbish), MSG_DONTWAIT);
	} while (n > 0 || (n < 0 && errno == EAGAIN && now() < end));
	CHECK(n == 0 || errno == ECONNRESET);
	close(fd);
}

/* ------------------------------------------------------------------------- all */

static uint32_t as_many_as_may_be(uint32_t wanted)
{
	struct rlimit limit;

	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	/* both ends are here */
	limit.rlim_cur -= THMQI_MIN(limit.rlim_cur, 2ull * SILENT + 200);
	return (uint32_t)THMQI_MIN(limit.rlim_cur / 2, (rlim_t)wanted);
}

static void up(uint32_t connections)
{
	char url[64];

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 256 << 20)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.listen = "tcp://127.0.0.1:0",
						.peer_timeout_ns = 600 * SECOND,
						.connection_max = connections + SILENT + 10),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	port = (uint16_t)atoi(strrchr(url, ':') + 1);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	CHECK(thmq_consumer_open(session, "t", NULL, NULL, &consumer) == 0);
}

int main(void)
{
	uint32_t count = as_many_as_may_be(getenv("THMQ_TEST_FULL") ? 10000 : 200), i;
	int *fds = calloc(count, sizeof(*fds)), silent[SILENT];
	uint64_t bytes;
	double alone, beside;

	mallopt(M_PERTURB, 0); /* what is never written takes no memory */
	CHECK(fds && count > 100);
	up(count);
	one_message();
	alone = iteration_ns();
	bytes = resident_bytes();
	for (i = 0; i < count; i++)
		fds[i] = let_in(i % 2); /* of meta, and of the shard */
	bytes = resident_bytes() - bytes;
	drive(1000);
	beside = iteration_ns();
	printf("%u connections: an iteration of %.0f ns, %.0f ns without them; %llu bytes each\n",
	       count, beside, alone, (unsigned long long)(bytes / count));
	CHECK(beside < 4 * alone + 200);
	CHECK(bytes / count < EACH_BYTES || OTHER_MEMORY);
	for (i = 0; i < 20; i++)
		is_heard(fds[i * 4]);
	is_told(fds[81], 0x80000001u);
	one_message();
	for (i = 0; i < SILENT; i++) { /* the oldest of them give way */
		silent[i] = knock();
		drive(2);
	}
	one_message();
	is_heard(fds[90]);
	is_ended(fds[91]);
	is_ended(fds[92]);
	for (i = 0; i < SILENT; i++)
		close(silent[i]);
	for (i = 0; i < count; i++)
		if (i != 91 && i != 92)
			close(fds[i]);
	drive(1000);
	one_message();
	CHECK(thmq_session_close(session, SECOND) == 0);
	CHECK(thmq_broker_close(broker, SECOND) == 0);
	CHECK(thmq_env_close(env, SECOND) == 0);
	free(fds);
	return 0;
}
