/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel.c - the kernel makes the records (Documentation/networking/tls.rst): from the two secrets of the handshake its keys are
 * derived (RFC 8446, 7.3) and given to the socket. Then bytes go and come by sendmsg() and recvmsg(), from and to where they
 * lie, as without TLS, and OpenSSL has no part in it. What is no data, such as an alert, comes with its kind beside it; keys are
 * never changed.
 *
 * Both ways or none: a socket that only sends so would leave OpenSSL with half of its state.
 */
#include <arpa/inet.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "openssl.h"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TLS_RX_EXPECT_NO_PAD
#define TLS_RX_EXPECT_NO_PAD 4
#endif

#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22
#define RECORD_DATA 23
#define IV_BYTES 12u

static const struct suite {
	uint16_t id; /* RFC 8446, B.4 */
	uint16_t kernel;
	uint32_t key_bytes, salt_bytes;
	bool is_384;
} suites[] = {
	{0x1301, TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_128_KEY_SIZE, 4, false},
	{0x1302, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_AES_GCM_256_KEY_SIZE, 4, true},
#ifdef TLS_CIPHER_CHACHA20_POLY1305
	{0x1303, TLS_CIPHER_CHACHA20_POLY1305, TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE, 0, false},
#endif
};

static const struct suite *suite_of(const struct tls *t)
{
	const struct thmqi_openssl *o = &t->config->o;
	const SSL_CIPHER *cipher = o->SSL_get_current_cipher(t->ssl);
	size_t i;

	for (i = 0; cipher && i < THMQI_ARRAY_COUNT(suites); i++)
		if (suites[i].id == o->SSL_CIPHER_get_protocol_id(cipher))
			return &suites[i];
	return NULL;
}

/* HKDF-Expand-Label(secret, label, "", bytes): one block of it, which is enough for a key. */
static bool expand(const struct tls *t, const struct suite *suite, const struct tls_secret *secret,
		   const char *label, uint8_t *to, uint32_t bytes)
{
	const struct thmqi_openssl *o = &t->config->o;
	uint8_t info[64], block[EVP_MAX_MD_SIZE];
	unsigned int block_bytes = 0, n = 0, len = (unsigned int)strlen(label);

	info[n++] = 0;
	info[n++] = (uint8_t)bytes;
	info[n++] = (uint8_t)(6 + len);
	memcpy(info + n, "tls13 ", 6);
	memcpy(info + n + 6, label, len);
	n += 6 + len;
	info[n++] = 0;
	info[n++] = 1;
	if (!o->HMAC(suite->is_384 ? o->EVP_sha384() : o->EVP_sha256(), secret->bytes,
		     (int)secret->len, info, n, block, &block_bytes) ||
	    block_bytes < bytes)
		return false;
	memcpy(to, block, bytes);
	explicit_bzero(block, sizeof(block));
	return true;
}

/* All of the kernel's structs are so: what it is, the nonce behind its salt, key, salt, number of the record. */
static socklen_t crypto_info(const struct tls *t, const struct suite *suite,
			     const struct tls_secret *secret, uint8_t *to)
{
	struct tls_crypto_info info = {.version = TLS_1_3_VERSION, .cipher_type = suite->kernel};
	uint32_t at = sizeof(info), iv_bytes = IV_BYTES - suite->salt_bytes;
	uint8_t key[32], iv[IV_BYTES];

	if (!expand(t, suite, secret, "key", key, suite->key_bytes) ||
	    !expand(t, suite, secret, "iv", iv, sizeof(iv)))
		return 0;
	memcpy(to, &info, sizeof(info));
	memcpy(to + at, iv + suite->salt_bytes, iv_bytes);
	at += iv_bytes;
	memcpy(to + at, key, suite->key_bytes);
	at += suite->key_bytes;
	memcpy(to + at, iv, suite->salt_bytes);
	at += suite->salt_bytes;
	memset(to + at, 0, 8); /* neither side has sent a record of data */
	explicit_bzero(key, sizeof(key));
	return at + 8;
}

_Static_assert(sizeof(struct tls12_crypto_info_aes_gcm_128) == 4 + 8 + 16 + 4 + 8, "without holes");
_Static_assert(sizeof(struct tls12_crypto_info_aes_gcm_256) == 4 + 8 + 32 + 4 + 8, "without holes");

/* Two ends of a connection within this machine. */
static int loopback(int ret_fds[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = -1;
	socklen_t len = sizeof(a);

	ret_fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ret_fds[1] = -1;
	if (door >= 0 && ret_fds[0] >= 0 && bind(door, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	    listen(door, 1) == 0 && getsockname(door, (struct sockaddr *)&a, &len) == 0 &&
	    connect(ret_fds[0], (struct sockaddr *)&a, sizeof(a)) == 0)
		rc = ret_fds[1] = accept4(door, NULL, NULL, SOCK_CLOEXEC);
	if (door >= 0)
		close(door);
	return rc < 0 ? -1 : 0;
}

/*
 * Tried before the first connection: where the kernel cannot, no connection tries; where it can, it may have to load its ciphers
 * first, which takes time that no core has.
 */
bool thmqi_tls_kernel_can(void)
{
	const struct tls12_crypto_info_aes_gcm_128 info = {
		.info = {.version = TLS_1_3_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128}};
	int fds[2];
	bool can = loopback(fds) == 0 && setsockopt(fds[0], IPPROTO_TCP, TCP_ULP, "tls", 4) == 0 &&
		   setsockopt(fds[0], SOL_TLS, TLS_RX, &info, sizeof(info)) == 0 &&
		   setsockopt(fds[0], SOL_TLS, TLS_TX, &info, sizeof(info)) == 0;

	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
	return can;
}

int thmqi_tls_to_kernel(struct tls *t)
{
	const struct suite *suite = suite_of(t);
	const struct tls_secret *out = &t->secrets[t->config->of_broker],
				*in = &t->secrets[!t->config->of_broker];
	uint8_t rx[128], tx[128];
	socklen_t rx_len, tx_len;
	int one = 1, rc = 0;

	if (!suite || !out->len || !in->len)
		return 0;
	rx_len = crypto_info(t, suite, in, rx);
	tx_len = crypto_info(t, suite, out, tx);
	if (rx_len && tx_len && setsockopt(t->fd, IPPROTO_TCP, TCP_ULP, "tls", 4) == 0 &&
	    setsockopt(t->fd, SOL_TLS, TLS_RX, rx, rx_len) == 0) {
		rc = 1;
		if (setsockopt(t->fd, SOL_TLS, TLS_TX, tx, tx_len) != 0)
			rc = -errno; /* and there is no way back */
		else /* ours have none, and then a record is decrypted into its place */
			setsockopt(t->fd, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &one, sizeof(one));
	}
	explicit_bzero(rx, sizeof(rx));
	explicit_bzero(tx, sizeof(tx));
	return rc;
}

int64_t thmqi_tls_kernel_send(struct tls *t, const struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
	ssize_t n = sendmsg(t->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

	t->pub.blocked = n < 0 && errno == EAGAIN;
	if (n < 0 && errno == EINTR)
		return -EAGAIN;
	return n < 0 ? -errno : n;
}

static uint8_t byte_of(const struct iovec *iov, size_t at)
{
	for (; at >= iov->iov_len; iov++)
		at -= iov->iov_len;
	return ((const uint8_t *)iov->iov_base)[at];
}

/* Of a record of handshake messages, which may come in pieces: tickets, and where they end. False: there is something else. */
static bool only_tickets(struct tls *t, const struct iovec *iov, size_t n)
{
	size_t at = 0, k;

	while (at < n) {
		if (!t->ticket_left) {
			if (n - at < 4 || byte_of(iov, at) != SSL3_MT_NEWSESSION_TICKET)
				return false;
			t->ticket_left =
				4 + ((uint32_t)byte_of(iov, at + 1) << 16 |
				     (uint32_t)byte_of(iov, at + 2) << 8 | byte_of(iov, at + 3));
		}
		k = THMQI_MIN(n - at, (size_t)t->ticket_left);
		t->ticket_left -= (uint32_t)k;
		at += k;
	}
	return true;
}

/* A record that is no data: an alert, a ticket that we did not ask for, or something that we do not know. */
static int not_data(struct tls *t, uint8_t kind, const struct iovec *iov, ssize_t n)
{
	if (kind == RECORD_HANDSHAKE && n && only_tickets(t, iov, (size_t)n))
		return -EAGAIN; /* others' servers send them; there may be more behind it */
	if (kind != RECORD_ALERT || n < 2) {
		snprintf(t->why, sizeof(t->why),
			 "a TLS record of type %u, which is not spoken here", kind);
		return t->error = -EPROTO;
	}
	if (byte_of(iov, 1) == SSL3_AD_CLOSE_NOTIFY) {
		t->closed = true;
		return 0;
	}
	return t->error = thmqi_tls_alert(t, byte_of(iov, 1));
}

int64_t thmqi_tls_kernel_recv(struct tls *t, const struct iovec *iov, uint32_t count)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(1)];
	} control;
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			   .msg_iovlen = count,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	ssize_t n;

	if (t->error || t->closed)
		return t->error;
	n = recvmsg(t->fd, &m, MSG_DONTWAIT);
	/* less than there was room for says nothing here: a record of another kind may lie behind */
	t->pub.drained = n < 0 && errno == EAGAIN;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n < 0)
		return t->error = -errno;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_TLS && c->cmsg_type == TLS_GET_RECORD_TYPE &&
	    *CMSG_DATA(c) != RECORD_DATA)
		return not_data(t, *CMSG_DATA(c), iov, n);
	return n ? n : -ECONNRESET; /* without a farewell */
}

void thmqi_tls_kernel_bye(struct tls *t)
{
	uint8_t alert[2] = {1, SSL3_AD_CLOSE_NOTIFY};
	struct iovec iov = {.iov_base = alert, .iov_len = sizeof(alert)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(1)];
	} control = {0};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};

	control.head.cmsg_level = SOL_TLS;
	control.head.cmsg_type = TLS_SET_RECORD_TYPE;
	control.head.cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(&control.head) = RECORD_ALERT;
	sendmsg(t->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}
