/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - from options to what OpenSSL calls a context: TLS 1.3 and nothing older, no tickets, no resumption, no early data;
 * both sides show who they are unless the options say otherwise. Control path only.
 */
#include <stdio.h>
#include <unistd.h>

#include "openssl.h"

#define FLAGS (THMQ_TLS_ANY_CLIENT | THMQ_TLS_ANY_NAME | THMQ_TLS_KERNEL | THMQ_TLS_BESIDE_PLAIN)
/* The first is the fastest where processors have AES; the one that pre-shared keys of any kind are for. */
#define CIPHER_SUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

static const char *reason(const struct thmqi_openssl *o)
{
	const char *text = o->ERR_reason_error_string(o->ERR_peek_error());

	return text ? text : "OpenSSL does not say why";
}

/* What can be told better than by OpenSSL. */
static int look_at(const char *path)
{
	if (access(path, R_OK) == 0)
		return 0;
	return thmqi_fail(-errno, "tls: %s: %s", path, thmq_strerror(-errno));
}

static int bad_file(struct thmqi_tls_config *c, const char *path, const char *what)
{
	return thmqi_fail(-EINVAL, "tls: %s: %s: %s", path, what, reason(&c->o));
}

/* For an encrypted key: never asks anybody. */
static int on_password(char *to, int size, int writing, void *password)
{
	size_t len = password ? strlen(password) : 0;

	if (!password || len > (size_t)size)
		return -1;
	memcpy(to, password, len);
	return (int)len;
}

static int set_identity(struct thmqi_tls_config *c, const struct thmq_tls_opts *o)
{
	const char *key = o->key_file ? o->key_file : o->cert_file;
	int rc;

	if (!o->cert_file)
		return o->key_file ? thmqi_fail(-EINVAL, "tls: key_file without cert_file") : 0;
	rc = look_at(o->cert_file);
	if (!rc)
		rc = look_at(key);
	if (rc)
		return rc;
	c->o.SSL_CTX_set_default_passwd_cb(c->ctx, on_password);
	c->o.SSL_CTX_set_default_passwd_cb_userdata(c->ctx, (void *)(uintptr_t)o->key_password);
	c->o.ERR_clear_error();
	if (c->o.SSL_CTX_use_certificate_chain_file(c->ctx, o->cert_file) != 1)
		rc = bad_file(c, o->cert_file, "no certificate in PEM");
	else if (c->o.SSL_CTX_use_PrivateKey_file(c->ctx, key, SSL_FILETYPE_PEM) != 1)
		rc = bad_file(c, key, "no private key in PEM that fits the certificate and opens");
	c->o.SSL_CTX_set_default_passwd_cb_userdata(c->ctx, NULL);
	return rc;
}

/* Whom to believe. */
static int set_trust(struct thmqi_tls_config *c, const struct thmq_tls_opts *o)
{
	X509_VERIFY_PARAM *param = c->o.SSL_CTX_get0_param(c->ctx);
	int rc = 0;

	c->o.ERR_clear_error();
	if (o->ca_file) {
		rc = look_at(o->ca_file);
		if (!rc && c->o.SSL_CTX_load_verify_file(c->ctx, o->ca_file) != 1)
			rc = bad_file(c, o->ca_file, "no certificates in PEM");
	} else if (!c->of_broker && !c->psk_count) {
		if (c->o.SSL_CTX_set_default_verify_paths(c->ctx) != 1)
			rc = thmqi_fail(-EINVAL, "tls: the system's certificates: %s",
					reason(&c->o));
	}
	if (rc || !o->crl_file)
		return rc;
	rc = look_at(o->crl_file);
	if (!rc && c->o.X509_STORE_load_file(c->o.SSL_CTX_get_cert_store(c->ctx), o->crl_file) != 1)
		rc = bad_file(c, o->crl_file, "no revocation list in PEM");
	if (!rc)
		c->o.X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_CRL_CHECK);
	return rc;
}

static int check(const struct thmqi_tls_config *c, const struct thmq_tls_opts *o)
{
	if (o->flags & ~FLAGS)
		return thmqi_fail(-EINVAL, "tls: unknown flags %#x", o->flags & ~FLAGS);
	if (o->crl_file && !o->ca_file)
		return thmqi_fail(-EINVAL, "tls: crl_file without ca_file");
	if (!c->of_broker)
		return o->flags & THMQ_TLS_ANY_CLIENT
			       ? thmqi_fail(-EINVAL, "tls: THMQ_TLS_ANY_CLIENT is a broker's")
			       : 0;
	if (!o->cert_file && !o->psk_identity && !o->psk_file)
		return thmqi_fail(-EINVAL, "tls: a broker needs cert_file, or pre-shared keys");
	if ((o->flags & THMQ_TLS_ANY_CLIENT) && (o->ca_file || !o->cert_file))
		return thmqi_fail(-EINVAL,
				  "tls: THMQ_TLS_ANY_CLIENT is for a broker with cert_file "
				  "and without ca_file");
	if (o->cert_file && !o->ca_file && !(o->flags & THMQ_TLS_ANY_CLIENT))
		return thmqi_fail(-EINVAL, "tls: who may connect? ca_file names who signs clients' "
					   "certificates; THMQ_TLS_ANY_CLIENT lets everybody in");
	return 0;
}

static unsigned int on_psk_client(SSL *ssl, const char *hint, char *identity, unsigned int size,
				  unsigned char *key, unsigned int key_size)
{
	const struct thmqi_psk *psk = thmqi_tls_current()->config->psks;
	size_t len = strlen(psk->identity) + 1;

	if (len > size || psk->key_bytes > key_size)
		return 0;
	memcpy(identity, psk->identity, len);
	memcpy(key, psk->key, psk->key_bytes);
	return psk->key_bytes;
}

static unsigned int on_psk_server(SSL *ssl, const char *identity, unsigned char *key,
				  unsigned int key_size)
{
	const struct thmqi_psk *psk =
		identity ? thmqi_psk_find(thmqi_tls_current()->config, identity) : NULL;

	if (!psk || psk->key_bytes > key_size)
		return 0;
	memcpy(key, psk->key, psk->key_bytes);
	/* told for good once the handshake is over: who does not have the key gets no further */
	snprintf(thmqi_tls_current()->peer, sizeof(thmqi_tls_current()->peer), "psk:%s", identity);
	return psk->key_bytes;
}

static int set_rules(struct thmqi_tls_config *c, const struct thmq_tls_opts *o)
{
	bool ask = !(o->flags & THMQ_TLS_ANY_CLIENT) && (!c->of_broker || o->ca_file);
	int good = c->o.SSL_CTX_ctrl(c->ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_3_VERSION,
				     NULL) == 1;

	good &= c->o.SSL_CTX_ctrl(c->ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, TLS1_3_VERSION, NULL) ==
		1;
	good &= c->o.SSL_CTX_set_num_tickets(c->ctx, 0) == 1;
	if (!good)
		return thmqi_fail(-EPROTONOSUPPORT, "tls: OpenSSL is not allowed to speak TLS 1.3");
	c->o.SSL_CTX_set_options(c->ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
	c->o.SSL_CTX_ctrl(c->ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
	c->o.SSL_CTX_ctrl(c->ctx, SSL_CTRL_MODE,
			  SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
			  NULL);
	c->o.SSL_CTX_set_verify(
		c->ctx, ask ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE,
		NULL);
	/* wanted where certificates are asked for; to OpenSSL a pre-shared key is a session that goes on */
	if (c->of_broker)
		c->o.SSL_CTX_set_session_id_context(c->ctx, (const unsigned char *)"thundermq", 9);
	if (c->psk_count && c->of_broker)
		c->o.SSL_CTX_set_psk_server_callback(c->ctx, on_psk_server);
	else if (c->psk_count)
		c->o.SSL_CTX_set_psk_client_callback(c->ctx, on_psk_client);
	if (c->kernel)
		c->o.SSL_CTX_set_keylog_callback(c->ctx, thmqi_tls_on_secret);
	if (c->o.SSL_CTX_set_ciphersuites(c->ctx,
					  o->cipher_suites ? o->cipher_suites : CIPHER_SUITES) != 1)
		return thmqi_fail(-EINVAL,
				  "tls: cipher_suites %.128s: they are of TLS 1.3, separated by "
				  "colons, such as " CIPHER_SUITES,
				  o->cipher_suites ? o->cipher_suites : "");
	return 0;
}

static int set_bio(struct thmqi_tls_config *c)
{
	c->bio = c->o.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "thundermq");
	if (!c->bio)
		return thmqi_fail(-ENOMEM, "tls: no memory");
	c->o.BIO_meth_set_read(c->bio, thmqi_tls_bio_read);
	c->o.BIO_meth_set_write(c->bio, thmqi_tls_bio_write);
	c->o.BIO_meth_set_ctrl(c->bio, thmqi_tls_bio_ctrl);
	return 0;
}

static void config_free(struct thmqi_tls_config *c)
{
	if (c->ctx)
		c->o.SSL_CTX_free(c->ctx);
	if (c->bio)
		c->o.BIO_meth_free(c->bio);
	thmqi_psk_free(c);
	free(c->host);
	free(c);
}

static int build(struct thmqi_tls_config *c, const struct thmq_tls_opts *o, const char *host)
{
	int rc = check(c, o);

	if (!rc)
		rc = thmqi_openssl_load(&c->o);
	if (rc)
		return rc;
	c->o.ERR_clear_error();
	c->ctx = c->o.SSL_CTX_new(c->of_broker ? c->o.TLS_server_method()
					       : c->o.TLS_client_method());
	if (!c->ctx)
		return thmqi_fail(-ENOMEM, "tls: OpenSSL: %s", reason(&c->o));
	rc = thmqi_psk_read(c, o);
	if (!rc)
		rc = set_rules(c, o);
	if (!rc)
		rc = set_trust(c, o);
	if (!rc)
		rc = set_identity(c, o);
	if (!rc)
		rc = thmqi_tls_names(c, o, host);
	return rc ? rc : set_bio(c);
}

int thmqi_tls_config_open(const struct thmq_tls_opts *opts, const char *host,
			  struct thmqi_tls_config **ret_config)
{
	struct thmqi_tls_config *c;
	struct thmq_tls_opts o;
	int rc = thmqi_opts_copy(&o, sizeof(o), opts);

	if (rc)
		return thmqi_fail(rc, "tls: options: %s", thmqi_opts_why(rc));
	c = calloc(1, sizeof(*c));
	if (!c)
		return thmqi_fail(-ENOMEM, "tls: no memory");
	atomic_init(&c->refs, 1);
	c->of_broker = !host;
	c->kernel = (o.flags & THMQ_TLS_KERNEL) && thmqi_tls_kernel_can();
	rc = build(c, &o, host);
	if (rc) {
		config_free(c);
		return rc;
	}
	*ret_config = c;
	return 0;
}

void thmqi_tls_config_ref(struct thmqi_tls_config *config)
{
	atomic_fetch_add(&config->refs, 1);
}

void thmqi_tls_config_unref(struct thmqi_tls_config *config)
{
	if (config && atomic_fetch_sub(&config->refs, 1) == 1)
		config_free(config);
}
