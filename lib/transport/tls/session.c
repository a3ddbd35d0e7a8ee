/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - a stream's life: made, handshake, farewell; and what lies between OpenSSL and the socket: encrypted bytes in two
 * buffers, so that one system call serves many records. Knows not what is sent (records.c, kernel.c).
 *
 * Until the handshake is over no byte is read that OpenSSL has not asked for: what lies behind it may be the kernel's.
 */
#include <sys/socket.h>

#include "openssl.h"
#include "records.h"

static _Thread_local struct tls *current;

struct tls *thmqi_tls_current(void)
{
	return current;
}

void thmqi_tls_enter(struct tls *t)
{
	current = t;
	t->config->o.ERR_clear_error();
}

/* ----------------------------------------------------------------- open, close */

int thmqi_tls_open(struct thmqi_tls_config *config, int fd, struct thmqi_tls **ret_tls)
{
	const struct thmqi_openssl *o = &config->o;
	struct tls *t = calloc(1, sizeof(*t));
	BIO *bio;

	if (!t)
		return -ENOMEM;
	thmqi_tls_config_ref(config);
	t->config = config;
	t->fd = fd;
	t->out = malloc(TLS_OUT_BYTES);
	t->ssl = t->out ? o->SSL_new(config->ctx) : NULL;
	bio = t->ssl ? o->BIO_new(config->bio) : NULL;
	if (!bio) {
		thmqi_tls_close(&t->pub);
		return -ENOMEM;
	}
	o->BIO_set_init(bio, 1);
	o->SSL_set_bio(t->ssl, bio, bio);
	if (config->of_broker)
		o->SSL_set_accept_state(t->ssl);
	else
		o->SSL_set_connect_state(t->ssl);
	if (config->host)
		o->SSL_ctrl(t->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
			    config->host);
	*ret_tls = &t->pub;
	return 0;
}

void thmqi_tls_close(struct thmqi_tls *tls)
{
	struct tls *t = tls ? tls_of(tls) : NULL;

	if (!t)
		return;
	if (t->ssl) {
		thmqi_tls_enter(t);
		t->config->o.SSL_free(t->ssl);
		current = NULL;
	}
	thmqi_tls_config_unref(t->config);
	free(t->in);
	free(t->out);
	explicit_bzero(t->secrets, sizeof(t->secrets));
	free(t);
}

/* --------------------------------------------------------- OpenSSL and the socket */

static int again(struct tls *t, BIO *bio, int flag)
{
	t->config->o.BIO_set_flags(bio, flag | BIO_FLAGS_SHOULD_RETRY);
	return -1;
}

/* Bytes; 0 none now, or never. */
static uint32_t read_socket(struct tls *t, void *to, uint32_t len)
{
	ssize_t n = recv(t->fd, to, len, MSG_DONTWAIT);

	if (n == 0)
		t->eof = true;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		t->error = -errno;
	/* less than there was room for: what comes later is told */
	t->pub.drained = n < (ssize_t)len && !(n < 0 && errno == EINTR);
	return n > 0 ? (uint32_t)n : 0;
}

int thmqi_tls_bio_read(BIO *bio, char *to, int len)
{
	struct tls *t = current;
	uint32_t n = (uint32_t)len;

	t->config->o.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
	if (!t->in) {
		n = read_socket(t, to, n);
	} else {
		if (t->in_at == t->in_end && t->budget && !t->pub.drained && !t->eof && !t->error) {
			t->in_at = 0;
			t->in_end = read_socket(t, t->in, TLS_IN_BYTES);
			t->budget -= THMQI_MIN(t->budget, t->in_end);
		}
		n = THMQI_MIN(n, t->in_end - t->in_at);
		memcpy(to, t->in + t->in_at, n);
		t->in_at += n;
	}
	if (n)
		return (int)n;
	if (t->eof)
		return 0;
	return t->error ? -1 : again(t, bio, BIO_FLAGS_READ);
}

int thmqi_tls_bio_write(BIO *bio, const char *from, int len)
{
	struct tls *t = current;
	uint32_t n = THMQI_MIN((uint32_t)len, TLS_OUT_BYTES - t->out_end);

	t->config->o.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
	if (!n)
		return again(t, bio, BIO_FLAGS_WRITE);
	memcpy(t->out + t->out_end, from, n);
	t->out_end += n;
	t->pub.unsent = t->out_end - t->out_at;
	return (int)n;
}

long thmqi_tls_bio_ctrl(BIO *bio, int what, long number, void *pointer)
{
	if (what == BIO_CTRL_EOF)
		return current && current->eof;
	return what == BIO_CTRL_FLUSH; /* we say when */
}

int64_t thmqi_tls_flush(struct thmqi_tls *tls)
{
	struct tls *t = tls_of(tls);
	int64_t went = 0;
	ssize_t n;

	tls->blocked = false;
	while (t->out_at < t->out_end) {
		n = send(t->fd, t->out + t->out_at, t->out_end - t->out_at,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			tls->blocked = true;
			break;
		}
		if (n < 0)
			return -errno;
		t->out_at += (uint32_t)n;
		went += n;
	}
	if (t->out_at == t->out_end)
		t->out_at = t->out_end = 0;
	tls->unsent = t->out_end - t->out_at;
	return went;
}

/* ------------------------------------------------------------------- handshake */

/* "CLIENT_TRAFFIC_SECRET_0 random secret" */
void thmqi_tls_on_secret(const SSL *ssl, const char *line)
{
	static const char *const labels[2] = {"CLIENT_TRAFFIC_SECRET_0 ",
					      "SERVER_TRAFFIC_SECRET_0 "};
	struct tls *t = current;
	struct tls_secret *s;
	unsigned int byte;
	const char *hex;
	uint32_t i;

	for (i = 0; i < 2 && strncmp(line, labels[i], strlen(labels[i])) != 0; i++)
		;
	hex = strrchr(line, ' ');
	if (i == 2 || !t || !hex)
		return;
	s = &t->secrets[i];
	for (s->len = 0, hex++; s->len < TLS_SECRET_MAX && hex[0] && hex[1]; hex += 2) {
		byte = (unsigned int)(hex[0] % 32 + 9) % 25 * 16 +
		       (unsigned int)(hex[1] % 32 + 9) % 25;
		s->bytes[s->len++] = (uint8_t)byte;
	}
}

/* Our last words have gone: from now on it is the application's. */
static int established(struct tls *t)
{
	int rc = t->config->kernel ? thmqi_tls_to_kernel(t) : 0;

	explicit_bzero(t->secrets, sizeof(t->secrets));
	if (rc < 0)
		return rc;
	t->established = true;
	if (t->config->of_broker)
		thmqi_tls_peer_learn(t);
	t->pub.kernel = rc == 1;
	if (rc == 1) {
		free(t->out);
		t->out = NULL;
		return 1;
	}
	t->in = malloc(TLS_IN_BYTES);
	return t->in ? 1 : -ENOMEM;
}

int thmqi_tls_handshake(struct thmqi_tls *tls)
{
	struct tls *t = tls_of(tls);
	int64_t went;
	int rc = 0;

	if (t->error)
		return t->error;
	thmqi_tls_enter(t);
	tls->drained = false;
	if (!t->shaken) {
		rc = t->config->o.SSL_do_handshake(t->ssl);
		t->shaken = rc == 1;
		rc = rc == 1 ? 0 : thmqi_tls_error(t);
	}
	if (rc == -EAGAIN)
		rc = 0;
	went = thmqi_tls_flush(tls);
	if (!rc && went < 0)
		rc = (int)went;
	if (!rc && t->shaken && !tls->unsent)
		rc = established(t);
	if (rc < 0)
		t->error = rc;
	return rc;
}

const char *thmqi_tls_why(const struct thmqi_tls *tls)
{
	return thmqi_container(tls, struct tls, pub)->why;
}

void thmqi_tls_bye(struct thmqi_tls *tls)
{
	struct tls *t = tls_of(tls);

	if (tls->kernel) {
		thmqi_tls_kernel_bye(t);
		return;
	}
	if (t->established && !t->error) {
		thmqi_tls_enter(t);
		t->config->o.SSL_shutdown(t->ssl);
	}
	thmqi_tls_flush(tls);
}
