/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_peer_test.c - TLS and those who should not get through: wrong, expired and foreign certificates, wrong keys, clear text at the
 * TLS port and the other way round, older versions, handshakes that are cut, slow or never come, streams that are cut, changed or
 * repeated on their way, changes of keys without end. Each side hears why; a well-behaved session beside it notices nothing.
 *
 * usage: tls_peer_test [case]
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../certs.h"
#include "../friend.h"
#include "wire/stream.h"

#define SILENCE                                                                                    \
	((getenv("THMQ_TEST_SLOW") ? 8000 : 1000) * MS) /* a handshake has no longer than that */

static const char *self;
static char dir[] = "tls-peer-XXXXXX";

static const char *file(const char *name)
{
	return certs_path(dir, name);
}

static uint16_t port_of(const char *at)
{
	return (uint16_t)atoi(strrchr(at, ':') + 1);
}

/* ---------------------------------------------------------------- the good ones */

static struct thmq_broker *open_broker(const struct thmq_tls_opts *tls, const char *listen,
				       char *ret_url)
{
	static int number;
	struct thmq_broker *b;
	char name[16];
	int rc;

	snprintf(name, sizeof(name), "b%d", ++number);
	rc = thmq_broker_open(env,
			      THMQ_BROKER_OPTS(.name = name, .listen = listen, .tls = tls,
					       .peer_timeout_ns = SILENCE),
			      &b);
	CHECK(rc == 0);
	CHECK(thmq_broker_listen_url(b, 0, ret_url, 64) > 0);
	return b;
}

static uint32_t kernel_flag(void)
{
	return getenv("THMQ_TEST_KERNEL_TLS") ? THMQ_TLS_KERNEL : 0;
}

static struct thmq_tls_opts broker_tls(void)
{
	return (struct thmq_tls_opts){.size = sizeof(struct thmq_tls_opts),
				      .ca_file = file("ca.pem"),
				      .cert_file = file("server.pem"),
				      .key_file = file("server.key"),
				      .flags = kernel_flag()};
}

static struct thmq_tls_opts client_tls(void)
{
	return (struct thmq_tls_opts){.size = sizeof(struct thmq_tls_opts),
				      .ca_file = file("ca.pem"),
				      .cert_file = file("client.pem"),
				      .key_file = file("client.key"),
				      .flags = kernel_flag()};
}

static struct thmq_tls_opts psk_tls(const char *identity, const char *key)
{
	return (struct thmq_tls_opts){
		.size = sizeof(struct thmq_tls_opts), .psk_identity = identity, .psk_key = key};
}

static int try_connect(const char *to, const struct thmq_tls_opts *tls, struct thmq_session **ret)
{
	return thmq_connect(env, to,
			    THMQ_SESSION_OPTS(.tls = tls, .timeout_ns = 10 * SECOND,
					      .peer_timeout_ns = SILENCE),
			    ret);
}

static void up(void)
{
	struct thmq_tls_opts b = broker_tls(), c = client_tls();

	friend_opens_env();
	broker = open_broker(&b, "tls://127.0.0.1:0", url);
	CHECK(strncmp(url, "tls://", 6) == 0);
	friend_connects(&c);
}

/* The broker's own view, which may come a little later. */
static void count_refused(struct thmq_broker *b, uint64_t at_least)
{
	uint64_t end = now() + 5 * SILENCE;

	while (stats(b).refused_count < at_least && now() < end)
		nap(MS);
	CHECK(stats(b).refused_count >= at_least);
}

/* ------------------------------------------------------------------ the others */

static int raw_connect(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 5};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

/* Reads and throws away until it is closed. */
static void is_closed(int fd, uint64_t within)
{
	uint64_t end = now() + within;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char data[4096];

	while (now() < end)
		if (poll(&p, 1, 20) == 1 && recv(fd, data, sizeof(data), MSG_DONTWAIT) <= 0) {
			close(fd);
			return;
		}
	CHECK(!"it was closed");
}

static SSL_CTX *context(bool server, const char *who)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	char name[64];

	CHECK(ctx);
	snprintf(name, sizeof(name), "%s.pem", who);
	CHECK(SSL_CTX_use_certificate_chain_file(ctx, file(name)) == 1);
	snprintf(name, sizeof(name), "%s.key", who);
	CHECK(SSL_CTX_use_PrivateKey_file(ctx, file(name), SSL_FILETYPE_PEM) == 1);
	return ctx; /* a server of these sends tickets, which ours do not; a session passes them over */
}

static SSL *shake(SSL_CTX *ctx, int fd)
{
	SSL *ssl = SSL_new(ctx);

	CHECK(ssl && SSL_set_fd(ssl, fd) == 1);
	CHECK(SSL_connect(ssl) == 1);
	return ssl;
}

/* A peer that speaks both TLS and our greeting. */
static struct thmqi_hello client_hello(void)
{
	struct thmqi_hello h = {.area_bytes = 65536,
				.up_frames = 64,
				.ctl_frames = 64,
				.down_frames = 64,
				.silence_ms = 60000,
				.shard = 1};

	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	return h;
}

static void read_all(SSL *ssl, void *to, size_t len)
{
	size_t at = 0, n;

	for (; at < len; at += n)
		CHECK(SSL_read_ex(ssl, (char *)to + at, len - at, &n) == 1);
}

/* ------------------------------------------------------------------------ trust */

struct trial {
	const char *what;
	struct thmq_tls_opts broker, client;
	int error;
	const char *words; /* in the session's text */
};

static struct thmq_tls_opts with(struct thmq_tls_opts o, const char *who)
{
	char name[64];

	snprintf(name, sizeof(name), "%s.pem", who);
	o.cert_file = file(name);
	snprintf(name, sizeof(name), "%s.key", who);
	o.key_file = file(name);
	return o;
}

static void try_one(const struct trial *t)
{
	struct thmq_session *s = NULL;
	uint64_t begin = now();
	struct thmq_broker *b;
	char at[64];
	int rc;

	b = open_broker(&t->broker, "tcp://127.0.0.1:0", at);
	rc = try_connect(at, &t->client, &s);
	if (rc != t->error || (rc && t->words && !strstr(thmq_errmsg(), t->words)))
		fprintf(stderr, "%s: %d, %s\n", t->what, rc, thmq_errmsg());
	CHECK(rc == t->error && (!rc || !t->words || strstr(thmq_errmsg(), t->words)));
	CHECK(now() - begin < 5 * SILENCE);
	if (rc) {
		count_refused(b, 1);
		CHECK(stats(b).refused_error < 0);
	} else {
		CHECK(stats(b).tls_count >= 1 && stats(b).connection_count >= stats(b).tls_count);
		CHECK(thmq_session_close(s, SECOND) == 0);
	}
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

static void trust(void)
{
	const struct thmq_tls_opts b = broker_tls(), c = client_tls();
	struct thmq_tls_opts bare = {.size = sizeof(bare), .ca_file = file("ca.pem")};
	struct thmq_tls_opts system = {.size = sizeof(system)}, any = b, revoking = b, named = b,
			     misnamed = b, elsewhere = c, whoever = c,
			     psks = {.size = sizeof(psks)}, both = b;
	size_t i;

	any.ca_file = NULL;
	any.flags = THMQ_TLS_ANY_CLIENT;
	revoking.crl_file = file("crl.pem");
	named.peer_name = "boss,client";
	misnamed.peer_name = "boss";
	elsewhere.peer_name = "elsewhere.example";
	whoever.flags = THMQ_TLS_ANY_NAME;
	psks.psk_file = file("keys.psk");
	both.psk_file = file("keys.psk");
	const struct trial trials[] = {
		{"all is well", b, c, 0, NULL},
		{"a name is asked of the client", named, c, 0, NULL},
		{"the client is somebody else", misnamed, c, -EACCES, "certificate"},
		{"the client shows nothing", b, bare, -ENOKEY, "wants a certificate"},
		{"anybody may come", any, bare, 0, NULL},
		{"a client of strangers", b, with(c, "client-stranger"), -EACCES, "signed"},
		{"an expired client", b, with(c, "client-expired"), -EACCES, "expired"},
		{"a client that comes too early", b, with(c, "client-early"), -EACCES, NULL},
		{"a revoked client", revoking, with(c, "client-revoked"), -EACCES, "revoked"},
		{"a client that is not", revoking, c, 0, NULL},
		{"a server as a client", b, with(c, "client-wrong-purpose"), -EACCES, "purpose"},
		{"a broker of strangers", with(b, "server-stranger"), c, -EKEYREJECTED,
		 "certificate"},
		{"an expired broker", with(b, "server-expired"), c, -EKEYEXPIRED, "expired"},
		{"a broker of the future", with(b, "server-early"), c, -EKEYEXPIRED,
		 "not yet valid"},
		{"another host", with(b, "server-elsewhere"), c, -EKEYREJECTED, "mismatch"},
		{"another host, by name", with(b, "server-elsewhere"), elsewhere, 0, NULL},
		{"any host", with(b, "server-elsewhere"), whoever, 0, NULL},
		{"the system does not know it", any, system, -EKEYREJECTED, "certificate"},
		{"pre-shared keys", psks, psk_tls("client", CERTS_PSK), 0, NULL},
		{"a wrong key", psks, psk_tls("client", "00" CERTS_PSK), -EACCES, "pre-shared"},
		{"an unknown identity", psks, psk_tls("nobody", CERTS_PSK), -EACCES, "pre-shared"},
		{"a certificate where a key is wanted", psks, c, -EACCES, "key"},
		{"a key where certificates are wanted", b, psk_tls("client", CERTS_PSK),
		 -EKEYREJECTED, "certificate"},
		{"a key where both will do", both, psk_tls("client", CERTS_PSK), 0, NULL},
		{"a certificate where both will do", both, c, 0, NULL},
		{"a wrong key where both will do", both, psk_tls("client", "00" CERTS_PSK), -EACCES,
		 NULL},
	};

	for (i = 0; i < THMQI_ARRAY_COUNT(trials); i++)
		try_one(&trials[i]);
}

/* In clear where TLS is spoken, and the other way round. */
static void clear_text(void)
{
	struct thmq_tls_opts b = broker_tls(), c = client_tls();
	struct thmq_session *s = NULL;
	struct thmq_broker *plain;
	char at[64], other[64];

	snprintf(at, sizeof(at), "tcp%s", url + 3);
	CHECK(thmq_connect(env, at, NULL, &s) == -ENOKEY && strstr(thmq_errmsg(), "tls://"));
	plain = open_broker(NULL, "tcp://127.0.0.1:0", at);
	CHECK(strncmp(at, "tcp://", 6) == 0);
	CHECK(try_connect(at, &c, &s) == -EPROTO && strstr(thmq_errmsg(), "does not speak TLS"));
	memcpy(at, "tls", 3);
	CHECK(try_connect(at, &c, &s) == -EPROTO);
	CHECK(thmq_broker_close(plain, SECOND) == 0);

	b.flags = THMQ_TLS_BESIDE_PLAIN;
	plain = open_broker(&b, "tcp://127.0.0.1:0,tls://127.0.0.1:0", at);
	CHECK(thmq_broker_listen_url(plain, 1, other, sizeof(other)) > 0);
	CHECK(strncmp(at, "tcp://", 6) == 0 && strncmp(other, "tls://", 6) == 0);
	CHECK(thmq_connect(env, at, NULL, &s) == 0);
	CHECK(stats(plain).tls_count == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	c.flags = THMQ_TLS_BESIDE_PLAIN; /* it says the same of a session */
	CHECK(try_connect(other, &c, &s) == 0 && stats(plain).tls_count == 1);
	CHECK(thmq_session_close(s, SECOND) == 0);
	CHECK(thmq_broker_close(plain, SECOND) == 0);
}

/* New certificates are for connections that come; a renewal that fails changes nothing. */
static void renewal(void)
{
	struct thmq_tls_opts old = with(broker_tls(), "server-expired"), c = client_tls(),
			     b = broker_tls(), wrong = broker_tls();
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *s, *first;
	struct thmq_broker *k, *plain;
	char at[64];

	k = open_broker(&old, "tls://127.0.0.1:0,tls://127.0.0.1:0", at);
	CHECK(try_connect(at, &c, &s) == -EKEYEXPIRED);
	CHECK(thmq_broker_tls_renew(k, &b) == 0);
	CHECK(try_connect(at, &c, &first) == 0);
	wrong.cert_file = "no-such-file";
	CHECK(thmq_broker_tls_renew(k, &wrong) == -ENOENT);
	wrong.cert_file = NULL;
	CHECK(thmq_broker_tls_renew(k, &wrong) == -EINVAL);
	CHECK(thmq_broker_tls_renew(k, NULL) == -EINVAL);
	CHECK(try_connect(at, &c, &s) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	CHECK(thmq_broker_tls_renew(k, &old) == 0);
	CHECK(try_connect(at, &c, &s) == -EKEYEXPIRED);
	CHECK(thmq_topic_describe(first, "none", &info) == -THMQ_ENOTOPIC); /* it goes on */
	CHECK(thmq_session_close(first, SECOND) == 0);
	CHECK(thmq_broker_close(k, SECOND) == 0);
	CHECK(thmq_broker_tls_renew(k, &b) == -EINVAL);
	plain = open_broker(NULL, "tcp://127.0.0.1:0", at);
	CHECK(thmq_broker_tls_renew(plain, &b) == -EINVAL &&
	      strstr(thmq_errmsg(), "does not listen by TLS"));
	CHECK(thmq_broker_close(plain, SECOND) == 0);
}

/* ---------------------------------------------------------------------- options */

static void encrypted_key(const char *path)
{
	EVP_PKEY *key;
	FILE *f = fopen(file("client.key"), "re");

	CHECK(f && (key = PEM_read_PrivateKey(f, NULL, NULL, NULL)));
	fclose(f);
	f = fopen(path, "we");
	CHECK(f && PEM_write_PrivateKey(f, key, EVP_aes_256_cbc(), (const unsigned char *)"secret",
					6, NULL, NULL));
	fclose(f);
	EVP_PKEY_free(key);
}

static void options(void)
{
	struct thmq_tls_opts c, b;
	struct thmq_session *s;
	struct thmq_broker *none;

#define SESSION(set, error, words)                                                                 \
	do {                                                                                       \
		c = client_tls();                                                                  \
		set;                                                                               \
		CHECK(try_connect(url, &c, &s) == (error) && strstr(thmq_errmsg(), words));        \
	} while (0)
#define BROKER(set, error, words)                                                                  \
	do {                                                                                       \
		b = broker_tls();                                                                  \
		set;                                                                               \
		CHECK(thmq_broker_open(env,                                                        \
				       THMQ_BROKER_OPTS(.name = "x",                               \
							.listen = "tls://127.0.0.1:0", .tls = &b), \
				       &none) == (error));                                         \
		CHECK(strstr(thmq_errmsg(), words));                                               \
	} while (0)
	SESSION(c.ca_file = "no-such-file", -ENOENT, "no-such-file");
	SESSION(c.cert_file = "no-such-file", -ENOENT, "no-such-file");
	SESSION(c.ca_file = file("client.key"), -EINVAL, "client.key");
	SESSION(c.cert_file = file("client.key"), -EINVAL, "client.key");
	SESSION(c.key_file = file("server.key"), -EINVAL, "mismatch");
	SESSION(c.cert_file = NULL, -EINVAL, "key_file without cert_file");
	SESSION((c.psk_identity = "x"), -EINVAL, "belong together");
	SESSION((c.psk_identity = "x", c.psk_key = "12"), -EINVAL, "hexadecimal");
	SESSION((c.psk_identity = "x", c.psk_key = "x" CERTS_PSK "x"), -EINVAL, "hexadecimal");
	SESSION((c.psk_identity = "", c.psk_key = CERTS_PSK), -EINVAL, "identity");
	SESSION(c.psk_file = file("keys.psk"), -EINVAL, "broker's");
	SESSION(c.cipher_suites = "NONSENSE", -EINVAL, "NONSENSE");
	SESSION(c.flags = 1u << 30, -EINVAL, "unknown flags");
	SESSION(c.flags = THMQ_TLS_ANY_CLIENT, -EINVAL, "broker's");
	SESSION((c.flags = THMQ_TLS_ANY_NAME, c.peer_name = "x"), -EINVAL, "exclude");
	SESSION(c.peer_name = "a,,b", -EINVAL, "peer_name");
	SESSION((c.ca_file = NULL, c.crl_file = file("crl.pem")), -EINVAL, "without ca_file");
	SESSION(c.size = 4, -EINVAL, "size");
	BROKER(b.cert_file = b.key_file = NULL, -EINVAL, "needs cert_file");
	BROKER(b.ca_file = NULL, -EINVAL, "who may connect");
	BROKER(b.flags = THMQ_TLS_ANY_CLIENT, -EINVAL, "THMQ_TLS_ANY_CLIENT");
	BROKER(b.psk_file = file("server.pem"), -EINVAL, "line 1");
	BROKER(b.psk_file = "no-such-file", -ENOENT, "no-such-file");
	BROKER((b.psk_file = file("keys.psk"), b.psk_identity = "client", b.psk_key = CERTS_PSK),
	       -EINVAL, "two keys");
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "x", .listen = "tls://127.0.0.1:0"),
			       &none) == -EINVAL);
	encrypted_key(file("encrypted.key"));
	SESSION(c.key_file = file("encrypted.key"), -EINVAL, "encrypted.key");
	SESSION((c.key_file = file("encrypted.key"), c.key_password = "wrong"), -EINVAL,
		"encrypted.key");
	c = client_tls();
	c.key_file = file("encrypted.key");
	c.key_password = "secret";
	CHECK(try_connect(url, &c, &s) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

/* ------------------------------------------------------------- older TLS, and none */

static void older_client(void)
{
	SSL_CTX *ctx = context(false, "client");
	uint64_t refused = stats(broker).refused_count;
	int fd = raw_connect(port_of(url));
	SSL *ssl;

	CHECK(SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION) == 1);
	ssl = SSL_new(ctx);
	CHECK(SSL_set_fd(ssl, fd) == 1 && SSL_connect(ssl) != 1);
	CHECK(ERR_GET_REASON(ERR_peek_error()) == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
	ERR_clear_error();
	SSL_free(ssl);
	close(fd);
	SSL_CTX_free(ctx);
	count_refused(broker, refused + 1);
	CHECK(stats(broker).refused_error == -THMQ_EVERSION);
}

static void garbage(void)
{
	uint8_t data[2000];
	uint32_t i, k;
	int fd;

	for (i = 0; i < 40; i++) {
		fd = raw_connect(port_of(url));
		for (k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)rand();
		if (i % 2) { /* it looks like the beginning of one */
			data[0] = 22;
			data[1] = 3;
			data[2] = 1;
			data[3] = 0;
		}
		data[0] = data[0] == 'T' ? 'X' : data[0];
		send(fd, data, 1 + (size_t)rand() % sizeof(data), MSG_NOSIGNAL);
		is_closed(fd, 3 * SILENCE);
	}
}

/* What a client says first. */
static size_t first_flight(uint8_t *to, size_t room)
{
	SSL_CTX *ctx = context(false, "client");
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL *ssl = SSL_new(ctx);
	int n;

	SSL_set_bio(ssl, in, out);
	CHECK(SSL_connect(ssl) < 0);
	n = BIO_read(out, to, (int)room);
	CHECK(n > 100);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	ERR_clear_error();
	return (size_t)n;
}

static void cut_handshake(void)
{
	uint8_t hello[2048];
	size_t len = first_flight(hello, sizeof(hello)), n;
	struct linger abort = {.l_onoff = 1};

	for (n = 0; n <= len; n += n < 20 ? 1 : 13) {
		int fd = raw_connect(port_of(url));

		CHECK(send(fd, hello, n, MSG_NOSIGNAL) == (ssize_t)n);
		if (n % 2)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof(abort));
		if (n % 5 == 0)
			nap(MS);
		close(fd);
	}
}

static void slow_handshake(void)
{
	uint8_t hello[2048];
	size_t len = first_flight(hello, sizeof(hello)), i;
	uint64_t begin = now();
	int fd = raw_connect(port_of(url));

	/* each byte is a sign of life, and still it may not take all time */
	for (i = 0; i < len && send(fd, hello + i, 1, MSG_NOSIGNAL) == 1; i++)
		nap(20 * MS);
	CHECK(i < len && now() - begin < 4 * SECOND);
	close(fd);
	fd = raw_connect(port_of(url)); /* and one that says the first half, and then nothing */
	CHECK(send(fd, hello, len, MSG_NOSIGNAL) == (ssize_t)len);
	is_closed(fd, 4 * SECOND);
}

static void half_open(void)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL;
	int count = full ? 10000 : 600, i, *fds = calloc((size_t)count, sizeof(*fds));
	struct rlimit files;
	uint8_t hello[2048];
	size_t len = first_flight(hello, sizeof(hello));
	uint64_t begin = now();

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if ((rlim_t)count * 2 > files.rlim_cur)
		count = (int)(files.rlim_cur / 2 - 50);
	for (i = 0; i < count; i++) {
		fds[i] = raw_connect(port_of(url));
		if (i % 3 == 0)
			send(fds[i], hello, len / 2, MSG_NOSIGNAL);
		if (i % 500 == 499)
			friend_is_well();
	}
	friend_is_well();
	for (i = 0; i < count; i++)
		is_closed(fds[i], 10 * SECOND);
	CHECK(now() - begin < (full ? 60 : 15) * SECOND);
	free(fds);
}

/* --------------------------------------------------------------- inside the stream */

/* New keys without end, and between them a greeting that is answered. */
static void changes_of_keys(void)
{
	SSL_CTX *ctx = context(false, "client");
	int fd = raw_connect(port_of(url)), i;
	SSL *ssl = shake(ctx, fd);
	struct thmqi_hello h = client_hello();
	size_t at, n;

	for (at = 0; at < sizeof(h);
	     at += n) { /* the peer may refuse that: where the kernel decrypts */
		if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1 ||
		    SSL_write_ex(ssl, (char *)&h + at, THMQI_MIN((size_t)16, sizeof(h) - at), &n) !=
			    1)
			goto out;
	}
	n = 0;
	if (SSL_read_ex(ssl, &h, sizeof(h), &n) == 1) {
		CHECK(n == sizeof(h) && thmqi_hello_check(&h, THMQI_HELLO_BROKER) == 0 &&
		      h.status == 0);
		for (i = 0; i < 20000; i++)
			if (SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1 ||
			    SSL_do_handshake(ssl) != 1)
				break;
	} else {
		CHECK(stats(broker).kernel_tls_count > 0);
	}
out:
	ERR_clear_error();
	SSL_free(ssl);
	close(fd);
	SSL_CTX_free(ctx);
}

/* Rules of our own protocol hold inside of TLS too. */
static void random_frames(void)
{
	SSL_CTX *ctx = context(false, "client");
	uint8_t data[4096];
	size_t n, k;
	int i;

	for (i = 0; i < 30; i++) {
		struct thmqi_hello h = client_hello();
		int fd = raw_connect(port_of(url));
		SSL *ssl = shake(ctx, fd);

		if (i % 3) {
			CHECK(SSL_write_ex(ssl, &h, sizeof(h), &n) == 1);
			read_all(ssl, &h, sizeof(h));
		}
		for (k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)rand();
		SSL_write_ex(ssl, data, 64 + (size_t)rand() % (sizeof(data) - 64), &n);
		is_closed(fd, 3 * SILENCE);
		ERR_clear_error();
		SSL_free(ssl);
	}
	SSL_CTX_free(ctx);
}

/* ------------------------------------------------- somebody between a session and its broker */

enum harm { HARM_NONE, HARM_FLIP, HARM_TWICE, HARM_CUT, HARM_INSERT };

struct between {
	int fd;      /* listens */
	uint16_t to; /* the broker's port */
	enum harm harm;
	uint32_t after; /* records of the broker's that go through unharmed */
	char url[64];
	pthread_t thread;
};

static bool recv_all(int fd, uint8_t *to, size_t len)
{
	return recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

/* One record from @from to @to. */
static bool pass(struct between *b, int from, int to, uint32_t number)
{
	static uint8_t record[5 + 17000];
	bool harm = b->harm != HARM_NONE && number >= b->after;
	size_t len;

	if (!recv_all(from, record, 5))
		return false;
	len = (size_t)(record[3] << 8 | record[4]);
	if (len > sizeof(record) - 5 || !recv_all(from, record + 5, len))
		return false;
	if (harm && b->harm == HARM_CUT)
		return false;
	if (harm && b->harm == HARM_FLIP)
		record[5 + len / 2] ^= 1;
	if (harm && b->harm == HARM_INSERT &&
	    send(to, "\x17\x03\x03\x00\x20nonsensenonsensenonsensenonsense", 37, MSG_NOSIGNAL) < 0)
		return false;
	if (harm && b->harm == HARM_TWICE && send(to, record, 5 + len, MSG_NOSIGNAL) < 0)
		return false;
	return send(to, record, 5 + len, MSG_NOSIGNAL) == (ssize_t)(5 + len);
}

static void *stand_between(void *arg)
{
	struct between *b = arg;
	int client = accept(b->fd, NULL, NULL), there = raw_connect(b->to);
	struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = there, .events = POLLIN}};
	uint32_t number = 0;

	for (;;) {
		if (poll(p, 2, 10000) <= 0)
			break;
		if (p[0].revents && !pass(b, client, there, 0))
			break;
		if (p[1].revents && !pass(b, there, client, ++number))
			break;
	}
	close(client);
	close(there);
	return NULL;
}

static int listen_somewhere(char *ret_url)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 8) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	snprintf(ret_url, 64, "tls://127.0.0.1:%u", ntohs(a.sin_port));
	return fd;
}

/* What they get is refused, or the session ends: never a wrong answer. */
static void someone_between(void)
{
	static const enum harm harms[] = {HARM_NONE, HARM_FLIP, HARM_TWICE, HARM_CUT, HARM_INSERT};
	struct thmq_tls_opts c = client_tls();
	size_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(harms); i++) {
		struct between b = {.harm = harms[i], .to = port_of(url), .after = 9};
		struct thmq_session *s = NULL;
		struct thmq_topic_info info = {.size = sizeof(info)};
		int k, rc;

		b.fd = listen_somewhere(b.url);
		CHECK(pthread_create(&b.thread, NULL, stand_between, &b) == 0);
		rc = try_connect(b.url, &c, &s);
		for (k = 0; rc == 0 && k < 30; k++)
			rc = thmq_topic_describe(s, "t", &info);
		CHECK(harms[i] == HARM_NONE
			      ? rc == 0
			      : rc == -ESHUTDOWN || rc == -EBADMSG || rc == -ECONNRESET);
		if (s)
			CHECK(thmq_session_close(s, SECOND) == 0);
		pthread_join(b.thread, NULL);
		close(b.fd);
		friend_is_well();
	}
}

/* ----------------------------------------------------------- brokers that are none */

enum ending { END_CUT, END_FAREWELL, END_NEVER_SHAKES, END_OLD, END_STATUS };

struct fake {
	int fd;
	enum ending ending;
};

static void *serve_one(void *arg)
{
	struct fake *f = arg;
	SSL_CTX *ctx = context(true, "server");
	struct thmqi_hello h;
	int fd = accept(f->fd, NULL, NULL);
	SSL *ssl;
	size_t n;

	if (f->ending == END_OLD)
		SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	if (f->ending == END_NEVER_SHAKES) {
		while (recv(fd, &h, sizeof(h), 0) > 0)
			;
	} else if (SSL_accept(ssl) == 1) {
		read_all(ssl, &h, sizeof(h));
		h.status = f->ending == END_STATUS ? -EACCES : 0;
		h.instance = 1;
		thmqi_hello_seal(&h, THMQI_HELLO_BROKER);
		SSL_write_ex(ssl, &h, sizeof(h), &n);
		if (f->ending == END_FAREWELL)
			SSL_shutdown(ssl);
		shutdown(fd, SHUT_WR);
		while (recv(fd, &h, sizeof(h), 0) > 0)
			;
	}
	ERR_clear_error();
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(fd);
	return NULL;
}

static void false_brokers(void)
{
	static const struct {
		enum ending ending;
		int error;
	} ends[] =
		{
			{END_CUT, -ECONNRESET},
			{END_FAREWELL, -ECONNRESET}, /* it said that it ends, and not what it should have before */
			{END_NEVER_SHAKES, -ETIMEDOUT},
			{END_OLD, -THMQ_EVERSION},
			{END_STATUS, -EACCES},
		};
	struct thmq_tls_opts c = client_tls();
	struct thmq_session *s;
	pthread_t thread;
	char at[64];
	size_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(ends); i++) {
		struct fake f = {.ending = ends[i].ending, .fd = listen_somewhere(at)};
		uint64_t begin = now();
		int rc;

		CHECK(pthread_create(&thread, NULL, serve_one, &f) == 0);
		rc = try_connect(at, &c, &s);
		if (rc != ends[i].error)
			fprintf(stderr, "%zu: %d, not %d\n", i, rc, ends[i].error);
		CHECK(rc == ends[i].error && now() - begin < 5 * SILENCE);
		pthread_join(thread, NULL);
		close(f.fd);
	}
}

/* ----------------------------------------------------------- clients that die or hang */

/* Publishes until its session ends, or it is killed. Exit: 3 its session was closed. */
static int client(const char *to)
{
	static const uint8_t data[40000];
	struct thmq_tls_opts c = client_tls();
	int64_t rc;
	int sent = 0;

	running = "client";
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(try_connect(to, &c, &friend) == 0);
	CHECK(thmq_topic_create(
		      friend, "k",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(friend, "k", NULL, &producer) == 0);
	for (;;) {
		rc = thmq_send(producer, data, sent % 3 ? 100 : sizeof(data), NULL);
		if (rc == -EAGAIN)
			rc = thmq_session_wait(friend, 10 * MS);
		if (rc == -ESHUTDOWN)
			break;
		CHECK(rc >= 0);
		if (++sent == 20 && write(STDOUT_FILENO, "x", 1) != 1)
			return 1;
	}
	thmq_env_close(env, SECOND);
	return 3;
}

static pid_t start_client(int *ret_out)
{
	pid_t pid;
	int out[2];
	char c;

	CHECK(pipe(out) == 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl(self, self, "--client", url, dir, (char *)NULL);
		_exit(1);
	}
	close(out[1]);
	CHECK(read(out[0], &c, 1) == 1); /* it publishes */
	CHECK(stats(broker).session_count == 2);
	*ret_out = out[0];
	return pid;
}

static void killed(void)
{
	int i, out, status;
	pid_t pid;

	for (i = 0; i < 4; i++) { /* in the middle of a record, mostly */
		pid = start_client(&out);
		nap((uint64_t)i * 7 * MS);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		close(out);
		only_the_friend_is_left();
		friend_is_well();
	}
}

static void stopped(void)
{
	int out, status;
	pid_t pid = start_client(&out);

	kill(pid, SIGSTOP);
	only_the_friend_is_left();
	friend_is_well();
	kill(pid, SIGCONT);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	close(out);
}

static const struct test_case cases[] = {
	{"trust", trust},
	{"clear_text", clear_text},
	{"renewal", renewal},
	{"options", options},
	{"older_client", older_client},
	{"garbage", garbage},
	{"cut_handshake", cut_handshake},
	{"slow_handshake", slow_handshake},
	{"half_open", half_open},
	{"changes_of_keys", changes_of_keys},
	{"random_frames", random_frames},
	{"someone_between", someone_between},
	{"false_brokers", false_brokers},
	{"killed", killed},
	{"stopped", stopped},
};

int main(int argc, char **argv)
{
	char command[64];
	uint64_t begin;

	self = argv[0];
	if (argc == 4 && strcmp(argv[1], "--client") == 0) {
		snprintf(dir, sizeof(dir), "%s", argv[3]);
		return client(argv[2]);
	}
	signal(SIGPIPE,
	       SIG_IGN); /* OpenSSL's own socket writes so; the library's never do: transport_contract_test */
	CHECK(mkdtemp(dir));
	certs_make(dir);
	up();
	friend_is_well();
	run_cases(cases, THMQI_ARRAY_COUNT(cases), argc - 1, argv + 1, NULL, friend_is_well);
	running = "down";
	/* nobody is left but the friend */
	begin = now();
	while (stats(broker).connection_count > 2 && now() - begin < 5 * SILENCE)
		nap(5 * MS);
	CHECK(stats(broker).connection_count <= 2 && stats(broker).session_count == 1);
	friend_closes();
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
