/* SPDX-License-Identifier: Apache-2.0 */
/* tls.c - TLS for clients, by OpenSSL, on a socket that does not block. Without OpenSSL it says that there is none. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "kafka.h"

#ifdef HAVE_OPENSSL
#include <openssl/err.h>
#include <openssl/ssl.h>

struct tls_context {
	SSL_CTX *ssl;
};

struct tls {
	SSL *ssl;
};

int tls_context_open(const struct options *o, struct tls_context **ret)
{
	struct tls_context *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->ssl = SSL_CTX_new(TLS_server_method());
	if (!x->ssl || !SSL_CTX_set_min_proto_version(x->ssl, TLS1_2_VERSION) ||
	    SSL_CTX_use_certificate_chain_file(x->ssl, o->cert_file) != 1 ||
	    SSL_CTX_use_PrivateKey_file(x->ssl, o->key_file ? o->key_file : o->cert_file,
					SSL_FILETYPE_PEM) != 1 ||
	    (o->client_ca_file &&
	     SSL_CTX_load_verify_locations(x->ssl, o->client_ca_file, NULL) != 1)) {
		ERR_print_errors_fp(stderr);
		tls_context_close(x);
		return -EINVAL;
	}
	if (o->client_ca_file)
		SSL_CTX_set_verify(x->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_mode(x->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					 SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_options(x->ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_session_id_context(x->ssl, (const unsigned char *)"kafka", 5);
	*ret = x;
	return 0;
}

void tls_context_close(struct tls_context *x)
{
	if (!x)
		return;
	SSL_CTX_free(x->ssl);
	free(x);
}

struct tls *tls_open(struct tls_context *x, int fd)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->ssl = SSL_new(x->ssl);
	if (!t->ssl || !SSL_set_fd(t->ssl, fd)) {
		tls_close(t);
		return NULL;
	}
	SSL_set_accept_state(t->ssl);
	return t;
}

void tls_close(struct tls *t)
{
	if (!t)
		return;
	ERR_clear_error();
	if (t->ssl && SSL_is_init_finished(t->ssl))
		SSL_shutdown(t->ssl);
	SSL_free(t->ssl);
	free(t);
}

static long tls_result(struct tls *t, int n)
{
	int error;

	if (n > 0)
		return n;
	error = SSL_get_error(t->ssl, n);
	if (error == SSL_ERROR_ZERO_RETURN)
		return 0;
	errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
	return -1;
}

long tls_read(struct tls *t, void *data, size_t len)
{
	ERR_clear_error();
	return tls_result(t, SSL_read(t->ssl, data, (int)len));
}

long tls_write(struct tls *t, const void *data, size_t len)
{
	ERR_clear_error();
	return tls_result(t, SSL_write(t->ssl, data, len > 1u << 20 ? 1 << 20 : (int)len));
}
#else
int tls_context_open(const struct options *o, struct tls_context **ret)
{
	(void)o, (void)ret;
	return -EOPNOTSUPP;
}

void tls_context_close(struct tls_context *x)
{
	(void)x;
}

struct tls *tls_open(struct tls_context *x, int fd)
{
	(void)x, (void)fd;
	return NULL;
}

void tls_close(struct tls *t)
{
	(void)t;
}

long tls_read(struct tls *t, void *data, size_t len)
{
	(void)t, (void)data, (void)len;
	errno = EIO;
	return -1;
}

long tls_write(struct tls *t, const void *data, size_t len)
{
	(void)t, (void)data, (void)len;
	errno = EIO;
	return -1;
}
#endif
