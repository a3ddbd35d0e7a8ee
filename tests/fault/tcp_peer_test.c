/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_peer_test.c - peers that do not keep to the protocol: garbage, greetings that are wrong, half-open connections, peers that are slow,
 * deaf, silent or die at any byte, frames with any content; and brokers that are none. Whoever does so loses the connection
 * in bounded time; a well-behaved session beside it notices nothing; nothing is left behind.
 *
 * usage: tcp_peer_test [case], or tcp_peer_test tls [case]: they do so inside of TLS, with a certificate that is in order.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../friend.h"
#include "wire/stream.h"

#if defined(HAVE_OPENSSL)
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "../certs.h"
#endif

#define SILENCE (800 * MS)
#define HALF_OPEN 500
#define HALF_OPEN_FULL 10000 /* of a run in full */

static uint16_t port;
static struct thmqi_prng prng;
/* ------------------------------------------------------------------------- TLS */

static bool in_tls;

#if defined(HAVE_OPENSSL)
static char certs[] = "tcp-peer-certs-XXXXXX";
static SSL_CTX *context;

static const struct thmq_tls_opts *tls(bool of_broker)
{
	static struct thmq_tls_opts o;

	if (!in_tls)
		return NULL;
	thmq_tls_opts_init(&o);
	o.ca_file = certs_path(certs, "ca.pem");
	o.cert_file = certs_path(certs, of_broker ? "server.pem" : "client.pem");
	o.key_file = certs_path(certs, of_broker ? "server.key" : "client.key");
	return &o;
}

static void tls_begin(void)
{
	CHECK(mkdtemp(certs));
	certs_make(certs);
	context = SSL_CTX_new(TLS_client_method());
	CHECK(context);
	CHECK(SSL_CTX_use_certificate_file(context, certs_path(certs, "client.pem"),
					   SSL_FILETYPE_PEM) == 1);
	CHECK(SSL_CTX_use_PrivateKey_file(context, certs_path(certs, "client.key"),
					  SSL_FILETYPE_PEM) == 1);
	signal(SIGPIPE, SIG_IGN); /* OpenSSL's own socket writes so; the library never does */
}

static void tls_end(void)
{
	char command[64];

	SSL_CTX_free(context);
	snprintf(command, sizeof(command), "rm -rf %s", certs);
	CHECK(system(command) == 0);
}
#else
static const struct thmq_tls_opts *tls(bool of_broker)
{
	return NULL;
}

static void tls_begin(void)
{
	exit(77);
}

static void tls_end(void)
{
}
#endif

/* -------------------------------------------------------------- the good ones */

static void up(void)
{
	friend_opens_env();
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.listen = "tcp://127.0.0.1:0",
						.peer_timeout_ns = SILENCE, .tls = tls(true)),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	port = (uint16_t)atoi(strrchr(url, ':') + 1);
	friend_connects(tls(false));
}

/* ------------------------------------------------------------------ the bad one */

struct bad {
	int fd;
	uint32_t number; /* of its next frame */
	void *ssl;       /* NULL: it speaks in clear */
};

static int narrow; /* bytes that its socket takes in; 0: as ever */
static uint32_t down_frames = 64;

static struct bad bad_connect(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct bad b = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

	CHECK(b.fd >= 0);
	if (narrow)
		setsockopt(b.fd, SOL_SOCKET, SO_RCVBUF, &narrow, sizeof(narrow));
	CHECK(connect(b.fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return b;
}

#if defined(HAVE_OPENSSL)
static void shake(struct bad *b)
{
	if (!in_tls)
		return;
	b->ssl = SSL_new(context);
	CHECK(b->ssl && SSL_set_fd(b->ssl, b->fd) == 1 && SSL_connect(b->ssl) == 1);
}

static bool put(struct bad *b, const void *data, size_t len)
{
	size_t n = 0;

	if (!b->ssl)
		return send(b->fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
	ERR_clear_error();
	return len == 0 || SSL_write_ex(b->ssl, data, len, &n) == 1;
}

/* All of them. */
static bool get(struct bad *b, void *to, size_t len)
{
	size_t at = 0, n;

	if (!b->ssl)
		return recv(b->fd, to, len, MSG_WAITALL) == (ssize_t)len;
	ERR_clear_error();
	for (; at < len; at += n)
		if (SSL_read_ex(b->ssl, (char *)to + at, len - at, &n) != 1)
			return false;
	return true;
}

static void bad_close(struct bad *b)
{
	SSL_free(b->ssl);
	b->ssl = NULL;
	close(b->fd);
}
#else
static void shake(struct bad *b)
{
}

static bool put(struct bad *b, const void *data, size_t len)
{
	return send(b->fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool get(struct bad *b, void *to, size_t len)
{
	return recv(b->fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

static void bad_close(struct bad *b)
{
	close(b->fd);
}
#endif

/* Reads and throws away until it is closed. */
static void is_closed(struct bad *b, uint64_t within)
{
	uint64_t end = now() + within;
	struct pollfd p = {.fd = b->fd, .events = POLLIN};
	char data[65536];

	while (now() < end)
		if (poll(&p, 1, 20) == 1 && recv(b->fd, data, sizeof(data), MSG_DONTWAIT) <= 0) {
			bad_close(b);
			return;
		}
	CHECK(!"it was closed");
}

static struct thmqi_hello good_hello(void)
{
	return (struct thmqi_hello){.area_bytes = 65536,
				    .up_frames = 64,
				    .ctl_frames = 64,
				    .down_frames = down_frames,
				    .silence_ms = 60000};
}

static struct bad bad_hello(struct thmqi_hello *h)
{
	struct bad b = bad_connect();

	shake(&b);
	thmqi_hello_seal(h, THMQI_HELLO_CLIENT);
	CHECK(put(&b, h, sizeof(*h)));
	return b;
}

static struct bad bad_open(uint32_t shard)
{
	struct thmqi_hello h = good_hello();
	struct bad b;

	h.shard = shard;
	b = bad_hello(&h);
	CHECK(get(&b, &h, sizeof(h)));
	CHECK(thmqi_hello_check(&h, THMQI_HELLO_BROKER) == 0 && h.status == 0);
	return b;
}

static bool put_frame(struct bad *b, const struct thmqi_frame *f)
{
	uint8_t bytes[sizeof(*f)];

	thmqi_stream_seal(bytes, f, b->number++);
	return put(b, bytes, sizeof(bytes));
}

#define PUT(b, ...) put_frame(b, &(struct thmqi_frame){__VA_ARGS__})

/* -------------------------------------------------------------------- greetings */

static void garbage(void)
{
	uint8_t data[4096];
	struct bad b;
	int i;

	for (i = 0; i < 40; i++) {
		b = bad_connect();
		if (i % 2)
			shake(&b);
		for (size_t k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)thmqi_prng_next(&prng);
		put(&b, data, 1 + thmqi_prng_below(&prng, sizeof(data)));
		is_closed(&b, 2 * SECOND);
	}
}

static void refused(struct thmqi_hello h, int32_t status)
{
	struct bad b = bad_connect();

	shake(&b);
	CHECK(put(&b, &h, sizeof(h)));
	CHECK(get(&b, &h, sizeof(h)));
	CHECK(thmqi_hello_check(&h, THMQI_HELLO_BROKER) == 0);
	CHECK(h.status == status);
	is_closed(&b, SECOND);
}

static void reseal(struct thmqi_hello *h)
{
	h->crc = thmqi_crc32c(0, h, offsetof(struct thmqi_hello, crc));
}

static void wrong_fields(void)
{
	struct thmqi_hello good = good_hello(), h;

	thmqi_hello_seal(&good, THMQI_HELLO_CLIENT);
#define WRONG(set, status)                                                                         \
	do {                                                                                       \
		h = good;                                                                          \
		set;                                                                               \
		reseal(&h);                                                                        \
		refused(h, status);                                                                \
	} while (0)
	WRONG((h.version_min = 3, h.version_max = 9), -THMQ_EVERSION);
	WRONG((h.version_min = h.version_max = 1), -THMQ_EVERSION); /* one that was built before */
	WRONG((h.version_min = 9, h.version_max = 2), -EPROTO);
	WRONG(h.kind = THMQI_HELLO_BROKER, -EPROTO);
	WRONG(h.bytes = 64, -EPROTO);
	WRONG(h.status = -5, -EPROTO);
	WRONG(h.area_bytes = 1u << 31, -E2BIG);
	WRONG(h.area_bytes = 5000, -EINVAL);
	WRONG(h.area_bytes = 0, -EINVAL);
	WRONG(h.up_frames = 1u << 20, -E2BIG);
	WRONG(h.up_frames = 100, -EINVAL);
	WRONG(h.ctl_frames = 8, -EINVAL);
	WRONG(h.ctl_frames = 8192, -E2BIG);
	WRONG(h.down_frames = 1u << 31, -E2BIG);
	WRONG(h.down_frames = 4, -EINVAL);
	WRONG(h.shard = 7, -ECONNREFUSED);
	WRONG(h.shard = UINT32_MAX, -ECONNREFUSED);
	WRONG(h.instance = 12345, -ESHUTDOWN);
	h = good;
	h.crc ^= 1;
	refused(h, -EPROTO);
#undef WRONG
}

static void half_open(void)
{
	static struct bad b[HALF_OPEN_FULL];
	const struct rlimit files = {.rlim_cur = 2 * HALF_OPEN_FULL + 100, .rlim_max = 2 * HALF_OPEN_FULL + 100};
	const bool full = getenv("THMQ_TEST_FULL") && setrlimit(RLIMIT_NOFILE, &files) == 0;
	const int count = full ? HALF_OPEN_FULL : HALF_OPEN;
	struct thmq_session *s;
	uint64_t begin = now();
	int i;

	for (i = 0; i < count; i++)
		b[i] = bad_connect();
	friend_is_well();
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.tls = tls(false)), &s) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	for (i = 0; i < count; i++)
		is_closed(&b[i], 30 * SECOND);
	CHECK(full || now() - begin < 8 * SECOND);
}

/* Each byte is a sign of life, and still it may not take all time. */
static void slow_greeting(void)
{
	struct thmqi_hello h = good_hello();
	struct bad b = bad_connect();
	uint64_t begin = now();
	size_t i;

	shake(&b);
	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	for (i = 0; i < sizeof(h) && put(&b, (char *)&h + i, 1); i++)
		nap(40 * MS);
	CHECK(i < sizeof(h));
	CHECK(now() - begin < 3 * SECOND);
	is_closed(&b, SECOND);
}

/* ---------------------------------------------------------------------- frames */

static void rules(void)
{
	struct thmqi_frame f = {.type = THMQI_FRAME_DETACH};
	struct thmqi_request request = {.op = THMQI_OP_TOPIC_LIST};
	uint8_t bytes[64];
	struct bad b;
	int i;

	b = bad_open(1); /* a check that is wrong */
	thmqi_stream_seal(bytes, &f, 1);
	CHECK(put(&b, bytes, sizeof(bytes)));
	is_closed(&b, SECOND);
	b = bad_open(1); /* a type that no client sends */
	PUT(&b, .type = THMQI_FRAME_DELIVER, .len = 100);
	is_closed(&b, SECOND);
	b = bad_open(1);
	PUT(&b, .type = 0);
	is_closed(&b, SECOND);
	b = bad_open(1); /* places outside of its area */
	PUT(&b, .type = THMQI_FRAME_PRODUCE, .data = 65536, .len = 1);
	is_closed(&b, SECOND);
	b = bad_open(1);
	PUT(&b, .type = THMQI_FRAME_PRODUCE, .data = 65535, .len = 2);
	is_closed(&b, SECOND);
	b = bad_open(1);
	PUT(&b, .type = THMQI_FRAME_PRODUCE, .data = UINT64_MAX, .len = 2);
	is_closed(&b, SECOND);
	b = bad_open(1);
	PUT(&b, .type = THMQI_FRAME_PRODUCE, .data = 0, .len = UINT32_MAX);
	is_closed(&b, SECOND);
	b = bad_open(1); /* it took what it was not sent */
	PUT(&b, .type = THMQI_STREAM_STATE, .arg = {UINT64_MAX, 0});
	is_closed(&b, SECOND);
	b = bad_open(0); /* two requests at a time */
	for (i = 0; i < 2; i++) {
		PUT(&b, .type = THMQI_FRAME_REQUEST, .seq = 1, .len = sizeof(request));
		put(&b, &request, sizeof(request));
	}
	PUT(&b, .type = THMQI_FRAME_REQUEST, .seq = 1, .len = sizeof(request));
	is_closed(&b, SILENCE + SECOND);
	b = bad_open(1); /* it gives back what it does not have: that is no harm */
	for (i = 0; i < 20; i++)
		PUT(&b, .type = THMQI_FRAME_RELEASE, .stream = (uint32_t)i,
		    .arg = {(uint64_t)i, 0});
	is_closed(&b, SILENCE + SECOND); /* of silence */
}

/* A ring is filled that nobody empties, then one more. */
static void too_many(void)
{
	struct bad b = bad_open(1);
	int i;

	/* the answers are not taken, so that the broker stops to take control frames */
	for (i = 0; i < 100000; i++)
		if (!PUT(&b, .type = THMQI_FRAME_DETACH, .stream = 1, .partition = 1))
			break;
	CHECK(i < 100000);
	bad_close(&b);
}

/* It asks for much, says that it is alive, and reads nothing. */
static void deaf(void)
{
	uint8_t data[60000] = {0};
	struct bad b = bad_open(1);
	uint64_t begin = now();
	int small = 4096, i;

	setsockopt(b.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	PUT(&b, .type = THMQI_FRAME_ATTACH, .stream = 0, .partition = 0x80000001u,
	    .flags = THMQ_START_END, .len = 256u << 20, .extra = 4096);
	for (i = 0; i < 200 && now() - begin < 6 * SECOND; i++) {
		while (thmq_send(producer, data, sizeof(data), NULL) > 0)
			;
		if (!PUT(&b, .type = THMQI_STREAM_STATE))
			break;
		nap(40 * MS);
		friend_takes_all(0);
	}
	CHECK(now() - begin < 6 * SECOND);
	bad_close(&b);
	friend_takes_all(10 * MS);
}

/* Runs that go in one call, from where they lie: the first may be given back while the others are on their way. */
static void gives_back_while_others_are_on_their_way(void)
{
	static uint8_t data[60000], body[THMQI_STREAM_RUN_MAX];
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct timeval patience = {.tv_sec = 5};
	struct thmqi_frame f = {0};
	struct bad b;
	int i;

	/* more than the sockets take */
	for (i = 0; i < 150; i++) {
		while (thmq_send(producer, data, sizeof(data), NULL) < 0)
			friend_takes_all(MS);
		CHECK(thmq_flush(producer, 5 * SECOND) == 0);
		friend_takes_all(0);
	}
	CHECK(thmq_partition_describe(friend, "t", 0, NULL, &info) == 0);
	narrow = 65536;
	down_frames = 4096;
	b = bad_open(1);
	narrow = 0;
	down_frames = 64;
	setsockopt(b.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	PUT(&b, .type = THMQI_FRAME_ATTACH, .stream = 0, .partition = 0x80000001u,
	    .flags = THMQ_START_BEGIN, .len = 64u << 20, .extra = 4096);
	nap(200 * MS);
	while (f.arg[1] < info.end_offset && get(&b, &f, sizeof(f))) {
		int64_t len = thmqi_stream_body(&f, false);

		CHECK(len >= 0 && get(&b, body, (size_t)len));
		if (f.type != THMQI_FRAME_DELIVER && f.type != THMQI_FRAME_DELIVER_ONE)
			f.arg[1] = 0;
		else
			PUT(&b, .type = THMQI_FRAME_RELEASE, .stream = 0, .arg = {f.arg[0], 0});
		nap(2 * MS);
	}
	CHECK(f.arg[1] == info.end_offset);
	bad_close(&b);
	friend_takes_all(50 * MS);
}

/* A whole conversation, of which it says the first n bytes. */
static void dies_at_each_byte(void)
{
	static uint8_t talk[2048];
	struct thmqi_hello h = good_hello();
	struct thmqi_frame f;
	size_t len = 0, n;
	struct bad b;

	h.shard = 1;
	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	memcpy(talk, &h, sizeof(h));
	len = sizeof(h);
	f = (struct thmqi_frame){.type = THMQI_FRAME_ATTACH,
				 .partition = 0x80000001u,
				 .flags = THMQ_START_BEGIN,
				 .len = 1 << 20,
				 .extra = 100};
	thmqi_stream_seal(talk + len, &f, 0);
	len += sizeof(f);
	f = (struct thmqi_frame){.type = THMQI_FRAME_PRODUCE,
				 .partition = 0x80000001u,
				 .len = 500,
				 .flags = 1,
				 .seq = 1,
				 .data = 64};
	thmqi_stream_seal(talk + len, &f, 1);
	len += sizeof(f) + 500;
	f = (struct thmqi_frame){.type = THMQI_STREAM_BYE};
	thmqi_stream_seal(talk + len, &f, 2);
	len += sizeof(f);
	for (n = 0; n <= len; n += n > 130 ? 7 : 3) {
		struct linger abort = {.l_onoff = 1};

		b = bad_connect();
		shake(&b);
		put(&b, talk, n);
		if (n % 2)
			setsockopt(b.fd, SOL_SOCKET, SO_LINGER, &abort,
				   sizeof(abort)); /* not even a farewell */
		if (n % 5 == 0)
			nap(MS);
		bad_close(&b);
	}
	friend_takes_all(50 * MS);
}

/* Frames of all types with any fields, checks and lengths right: the broker's own checks are all that is left. */
static void any_frames(void)
{
	static const uint64_t hurts[] = {
		0, 1, 2, 64, 4096, 65535, 65536, UINT32_MAX, UINT64_MAX, 1ull << 63, 0x80000001u};
	uint8_t data[70000] = {0};
	uint32_t round, i;

#define ANY (hurts[thmqi_prng_below(&prng, THMQI_ARRAY_COUNT(hurts))])
	for (round = 0; round < 150; round++) {
		struct bad b = bad_open(round % 2);

		for (i = 0; i < 40; i++) {
			struct thmqi_frame f = {.type = (uint8_t)(1 + thmqi_prng_below(&prng, 12)),
						.flags = (uint8_t)ANY,
						.key_len = (uint16_t)ANY,
						.stream = (uint32_t)ANY,
						.partition = thmqi_prng_below(&prng, 2)
								     ? 0x80000002u
								     : (uint32_t)ANY,
						.len = (uint32_t)ANY,
						.extra = (uint32_t)ANY,
						.seq = ANY,
						.data = ANY,
						.arg = {ANY, ANY},
						.tag_hash = (uint32_t)ANY,
						.generation = (uint32_t)ANY};
			int64_t body;

			if (f.type == 12)
				f.type = THMQI_STREAM_STATE;
			body = thmqi_stream_body(&f, true);
			if (!put_frame(&b, &f) ||
			    (body > 0 &&
			     !put(&b, data, (size_t)THMQI_MIN(body, (int64_t)sizeof(data)))))
				break;
		}
		bad_close(&b);
	}
}

/* ------------------------------------------------------------ brokers that are none */

static int fake_fd;
static char fake_url[64];

static void fake_up(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	fake_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(fake_fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fake_fd, 8) == 0);
	CHECK(getsockname(fake_fd, (struct sockaddr *)&a, &len) == 0);
	snprintf(fake_url, sizeof(fake_url), "tcp://127.0.0.1:%u", ntohs(a.sin_port));
}

struct fake {
	const void *say;
	size_t len;
	bool hang_up;
};

static void *serve_one(void *arg)
{
	struct fake *f = arg;
	char data[128];
	int fd = accept(fake_fd, NULL, NULL);

	if (recv(fd, data, sizeof(data), MSG_WAITALL) != sizeof(data) ||
	    send(fd, f->say, f->len, MSG_NOSIGNAL) < 0)
		f->hang_up = true;
	if (!f->hang_up)
		while (recv(fd, data, sizeof(data), 0) > 0)
			;
	close(fd);
	return NULL;
}

static void fake(int error, const void *say, size_t len, bool hang_up)
{
	struct fake f = {say, len, hang_up};
	struct thmq_session *s = NULL;
	uint64_t begin = now();
	pthread_t thread;
	int rc;

	CHECK(pthread_create(&thread, NULL, serve_one, &f) == 0);
	rc = thmq_connect(env, fake_url,
			  THMQ_SESSION_OPTS(.peer_timeout_ns = 500 * MS, .timeout_ns = 10 * SECOND),
			  &s);
	pthread_join(thread, NULL);
	if (rc != error)
		fprintf(stderr, "%d, not %d\n", rc, error);
	CHECK(rc == error && !s);
	CHECK(now() - begin < 3 * SECOND);
}

static void false_brokers(void)
{
	struct thmqi_hello h = good_hello();
	uint8_t talk[1024];
	struct thmqi_frame f;
	struct thmq_session *s;
	uint8_t data[512];

	fake_up();
	memset(data, 'x', sizeof(data));
	fake(-ETIMEDOUT, data, 0, false);
	fake(-ECONNRESET, data, 0, true);
	fake(-EPROTO, data, sizeof(data), false);
	h.area_bytes = 4096;
	thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
	fake(-ETIMEDOUT, &h, 100, false);
	fake(-ECONNRESET, &h, sizeof(h), true);
	fake(-ETIMEDOUT, &h, sizeof(h), false); /* greets, and falls silent */
	h.version_min = h.version_max = 7;
	reseal(&h);
	fake(-THMQ_EVERSION, &h, sizeof(h), false);
	h.status = -EACCES;
	reseal(&h);
	fake(-EACCES, &h, sizeof(h), false);
	h.status = 5;
	reseal(&h);
	fake(-EPROTO, &h, sizeof(h), false);
	h.status = 0;
	thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
	memcpy(talk, &h, sizeof(h));
	f = (struct thmqi_frame){.type = THMQI_FRAME_DELIVER,
				 .len = 100,
				 .stream = 3}; /* of a stream that it was not asked for */
	thmqi_stream_seal(talk + sizeof(h), &f, 0);
	fake(-EPROTO, talk, sizeof(h) + sizeof(f) + 100, false);
	f = (struct thmqi_frame){.type = THMQI_FRAME_REPLY, .len = UINT32_MAX};
	thmqi_stream_seal(talk + sizeof(h), &f, 0);
	fake(-EPROTO, talk, sizeof(h) + sizeof(f), false);
	f = (struct thmqi_frame){.type = THMQI_FRAME_PRODUCE};
	thmqi_stream_seal(talk + sizeof(h), &f, 0);
	fake(-EPROTO, talk, sizeof(h) + sizeof(f), false);
	f = (struct thmqi_frame){.type = THMQI_STREAM_BYE, .status = -EACCES};
	thmqi_stream_seal(talk + sizeof(h), &f, 0);
	fake(-EACCES, talk, sizeof(h) + sizeof(f), false);
	close(fake_fd);
	CHECK(thmq_connect(env, fake_url, NULL, &s) == -ECONNREFUSED);
}

static void urls(void)
{
	static const struct {
		const char *url;
		int error;
	} wrong[] = {
		{"tcp://", -EINVAL},
		{"tcp://127.0.0.1", -EINVAL},
		{"tcp://127.0.0.1:", -EINVAL},
		{"tcp://127.0.0.1:x", -EINVAL},
		{"tcp://127.0.0.1:0", -EINVAL},
		{"tcp://127.0.0.1:65536", -EINVAL},
		{"tcp://127.0.0.1:123456", -EINVAL},
		{"tcp://:7471", -EINVAL},
		{"tcp://::1:7471", -EINVAL},
		{"tcp://[::1:7471", -EINVAL},
		{"tcp://[::1]7471", -EINVAL},
		{"tcp://a/b:7471", -EINVAL},
		{"tcp://127.0.0.1:1?", -EINVAL},
		{"tcp://127.0.0.1:1?zero", -EINVAL},
		{"tcp://127.0.0.1:1?zerocopy=", -EINVAL},
		{"tls://127.0.0.1:1?zerocopy", -EINVAL},
		{"tcp://127.0.0.1:1?zerocopy", -ECONNREFUSED},
		{"tcp://[::1]:1?zerocopy=always", -ECONNREFUSED},
		{"tcp://127.0.0.1:1", -ECONNREFUSED},
		{"udp://127.0.0.1:1", -EPROTONOSUPPORT},
	};
	struct thmq_broker *b;
	struct thmq_session *s;
	char both[160], got[64];
	size_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(wrong); i++) {
		CHECK(thmq_connect(env, wrong[i].url, NULL, &s) == wrong[i].error);
		CHECK(strstr(thmq_errmsg(), wrong[i].url));
	}
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "x", .listen = url), &b) ==
	      -EADDRINUSE);
	CHECK(strstr(thmq_errmsg(), url));
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "x", .listen = "tcp://127.0.0.1:0,"),
			       &b) == -EINVAL);
	CHECK(thmq_broker_open(
		      env, THMQ_BROKER_OPTS(.name = "x", .listen = "tcp://127.0.0.1:0,quic://x"),
		      &b) == -EPROTONOSUPPORT);
	/* the second fails: the first is given back */
	snprintf(both, sizeof(both), "tcp://127.0.0.1:0,%s", url);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "x", .listen = both), &b) ==
	      -EADDRINUSE);
	CHECK(thmq_broker_open(
		      env,
		      THMQ_BROKER_OPTS(.name = "x",
				       .listen = "inproc://x,tcp://127.0.0.1:0,tcp://localhost:0"),
		      &b) == 0);
	CHECK(thmq_broker_listen_url(b, 1, got, 8) == -ENOSPC);
	CHECK(thmq_broker_listen_url(b, 2, got, sizeof(got)) == -ENOENT);
	for (i = 0; i < 2; i++) {
		CHECK(thmq_broker_listen_url(b, (uint32_t)i, got, sizeof(got)) > 0);
		CHECK(thmq_connect(env, got, NULL, &s) == 0);
		CHECK(thmq_session_close(s, SECOND) == 0);
	}
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(thmq_connect(env, got, NULL, &s) == -ECONNREFUSED);
	CHECK(thmq_broker_listen_url(b, 0, got, sizeof(got)) == -EINVAL);
}

/* More than connection_max are turned away, and there is room again when some are gone. */
static void too_many_connections(void)
{
	struct thmq_session *s[8], *last;
	struct thmq_broker *b;
	char at[64];
	int i;

	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.name = "y", .listen = "tcp://127.0.0.1:0",
						.connection_max = 8),
			       &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, at, sizeof(at)) > 0);
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
	{"half_open", half_open},
	{"slow_greeting", slow_greeting},
	{"rules", rules},
	{"too_many", too_many},
	{"deaf", deaf},
	{"gives_back_while_others_are_on_their_way", gives_back_while_others_are_on_their_way},
	{"dies_at_each_byte", dies_at_each_byte},
	{"any_frames", any_frames},
};

/* Of TLS tls_peer_test has them. */
static const struct test_case cases_in_clear[] = {
	{"false_brokers", false_brokers},
	{"urls", urls},
	{"too_many_connections", too_many_connections},
};

int main(int argc, char **argv)
{
	in_tls = argc > 1 && strcmp(argv[1], "tls") == 0;
	if (in_tls) {
		tls_begin();
		argc--;
		argv++;
	}
	thmqi_prng_seed(&prng, getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0) : 4711);
	up();
	friend_is_well();
	run_cases(cases, THMQI_ARRAY_COUNT(cases), argc - 1, argv + 1, NULL, only_the_friend_is_left);
	if (!in_tls)
		run_cases(cases_in_clear, THMQI_ARRAY_COUNT(cases_in_clear), argc - 1, argv + 1, NULL, only_the_friend_is_left);
	friend_closes();
	if (in_tls)
		tls_end();
	return 0;
}
