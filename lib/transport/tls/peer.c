/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer.c - who the other end of a stream has proven to be, as one line: by its certificate's subject (RFC 2253, which escapes what would
 * look like another name), or by the name of its pre-shared key. Knows nothing of what he may do.
 */
#include <stdio.h>

#include "openssl.h"

#define SUBJECT_FLAGS (XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) /* UTF-8 stays as it is */

/* Longer than there is room for: nobody, rather than another one. */
static bool print_subject(const struct thmqi_openssl *o, X509 *certificate, char *text, size_t size)
{
	BIO *memory = o->BIO_new(o->BIO_s_mem());
	int len = -1;

	if (memory && o->X509_NAME_print_ex(memory, o->X509_get_subject_name(certificate), 0, SUBJECT_FLAGS) >= 0)
		len = o->BIO_read(memory, text, (int)size);
	if (memory)
		o->BIO_free(memory);
	if (len <= 0 || (size_t)len == size || memchr(text, 0, (size_t)len))
		return false;
	text[len] = 0;
	return true;
}

void thmqi_tls_peer_learn(struct tls *t)
{
	const struct thmqi_openssl *o = &t->config->o;
	X509 *certificate;

	/*
	 * A pre-shared key's name was written down when it was asked for. Only here is it known whether that key was used: OpenSSL passes over
	 * one that does not fit the cipher, and goes on without.
	 */
	if (t->peer[0] && o->SSL_session_reused(t->ssl) == 1)
		return;
	t->peer[0] = 0;
	certificate = o->SSL_get1_peer_certificate(t->ssl);
	if (!certificate)
		return;
	memcpy(t->peer, "cert:", 5);
	if (!print_subject(o, certificate, t->peer + 5, sizeof(t->peer) - 5))
		t->peer[0] = 0;
	o->X509_free(certificate);
}

const char *thmqi_tls_peer(const struct thmqi_tls *tls)
{
	return thmqi_container(tls, struct tls, pub)->peer;
}
