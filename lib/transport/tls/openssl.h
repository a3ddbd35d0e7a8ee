/* SPDX-License-Identifier: Apache-2.0 */
/* openssl.h - what the files of this room share: OpenSSL's calls as they were loaded, a configuration, a stream. */
#ifndef THMQI_TLS_OPENSSL_H
#define THMQI_TLS_OPENSSL_H

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "tls/tls.h"

/* Functions, not macros, of OpenSSL 3.0. */
#define THMQI_OPENSSL_CALLS(X)                                                                     \
	X(OPENSSL_init_ssl)                                                                        \
	X(TLS_client_method)                                                                       \
	X(TLS_server_method)                                                                       \
	X(SSL_CTX_new)                                                                             \
	X(SSL_CTX_free)                                                                            \
	X(SSL_CTX_ctrl)                                                                            \
	X(SSL_CTX_set_options)                                                                     \
	X(SSL_CTX_set_num_tickets)                                                                 \
	X(SSL_CTX_set_session_id_context)                                                          \
	X(SSL_CTX_set_ciphersuites)                                                                \
	X(SSL_CTX_set_verify)                                                                      \
	X(SSL_CTX_load_verify_file)                                                                \
	X(SSL_CTX_set_default_verify_paths)                                                        \
	X(SSL_CTX_get_cert_store)                                                                  \
	X(SSL_CTX_get0_param)                                                                      \
	X(SSL_CTX_use_certificate_chain_file)                                                      \
	X(SSL_CTX_use_PrivateKey_file)                                                             \
	X(SSL_CTX_set_default_passwd_cb)                                                           \
	X(SSL_CTX_set_default_passwd_cb_userdata)                                                  \
	X(SSL_CTX_set_psk_client_callback)                                                         \
	X(SSL_CTX_set_psk_server_callback)                                                         \
	X(SSL_CTX_set_keylog_callback)                                                             \
	X(SSL_new)                                                                                 \
	X(SSL_free)                                                                                \
	X(SSL_ctrl)                                                                                \
	X(SSL_set_bio)                                                                             \
	X(SSL_set_connect_state)                                                                   \
	X(SSL_set_accept_state)                                                                    \
	X(SSL_do_handshake)                                                                        \
	X(SSL_read_ex)                                                                             \
	X(SSL_write_ex)                                                                            \
	X(SSL_key_update)                                                                          \
	X(SSL_shutdown)                                                                            \
	X(SSL_get_error)                                                                           \
	X(SSL_get_verify_result)                                                                   \
	X(SSL_session_reused)                                                                      \
	X(SSL_get1_peer_certificate)                                                               \
	X(X509_get_subject_name)                                                                   \
	X(X509_NAME_print_ex)                                                                      \
	X(X509_free)                                                                               \
	X(BIO_s_mem)                                                                               \
	X(BIO_read)                                                                                \
	X(BIO_free)                                                                                \
	X(SSL_get_current_cipher)                                                                  \
	X(SSL_CIPHER_get_protocol_id)                                                              \
	X(X509_VERIFY_PARAM_add1_host)                                                             \
	X(X509_VERIFY_PARAM_set1_ip_asc)                                                           \
	X(X509_VERIFY_PARAM_set_hostflags)                                                         \
	X(X509_VERIFY_PARAM_set_flags)                                                             \
	X(X509_STORE_load_file)                                                                    \
	X(X509_verify_cert_error_string)                                                           \
	X(BIO_meth_new)                                                                            \
	X(BIO_meth_free)                                                                           \
	X(BIO_meth_set_read)                                                                       \
	X(BIO_meth_set_write)                                                                      \
	X(BIO_meth_set_ctrl)                                                                       \
	X(BIO_new)                                                                                 \
	X(BIO_set_init)                                                                            \
	X(BIO_set_flags)                                                                           \
	X(BIO_clear_flags)                                                                         \
	X(ERR_clear_error)                                                                         \
	X(ERR_peek_error)                                                                          \
	X(ERR_reason_error_string)                                                                 \
	X(EVP_sha256)                                                                              \
	X(EVP_sha384)                                                                              \
	X(HMAC)

struct thmqi_openssl {
#define THMQI_OPENSSL_CALL(name) __typeof__(&(name)) name;
	THMQI_OPENSSL_CALLS(THMQI_OPENSSL_CALL)
#undef THMQI_OPENSSL_CALL
};

/* 0, or -EPROTONOSUPPORT with a text. */
int thmqi_openssl_load(struct thmqi_openssl *ret_openssl);

/* Pre-shared keys, by who has them. */
struct thmqi_psk {
	char *identity;
	uint32_t key_bytes;
	uint8_t key[64];
};

struct thmqi_tls_config {
	struct thmqi_openssl o;
	SSL_CTX *ctx;
	BIO_METHOD *bio;
	_Atomic uint32_t refs;
	bool of_broker, kernel; /* it encrypts */
	char *host; /* of a client: the name that it asks for; NULL: it is an address */
	struct thmqi_psk *psks;
	uint32_t psk_count;
};

#define TLS_SECRET_MAX 48u /* SHA-384 */

struct tls_secret {
	uint8_t bytes[TLS_SECRET_MAX];
	uint32_t len; /* 0: not known */
};

struct tls {
	struct thmqi_tls pub; /* first */
	struct thmqi_tls_config *config;
	SSL *ssl;
	int fd;
	bool established; /* the handshake is over */
	bool shaken;      /* for our side: the last of it may still be unsent */
	bool eof;         /* the socket has none any more */
	bool closed;      /* the other has said that it ends */
	int error;        /* of the socket, or of a stream that is over */
	uint8_t *in;      /* as it came, from in_at to in_end; NULL: during the handshake */
	uint32_t in_at, in_end;
	uint32_t records; /* sent with the present key */
	uint32_t ticket_left; /* of a ticket that the kernel gives us in pieces */
	uint32_t budget;  /* encrypted bytes that may still be read in this call */
	uint8_t *out;
	uint32_t out_at, out_end;
	struct tls_secret secrets
		[2]; /* of the client's stream and of the broker's, between the handshake and the kernel */
	char why[160];
	char peer[256]; /* thmqi_tls_peer() */
};

static inline struct tls *tls_of(struct thmqi_tls *pub)
{
	return thmqi_container(pub, struct tls, pub);
}

/* names.c: the names that the other's certificate may have. */
int thmqi_tls_names(struct thmqi_tls_config *c, const struct thmq_tls_opts *o, const char *host);

/* peer.c: who the other has proven to be, into t->peer. */
void thmqi_tls_peer_learn(struct tls *t);

/* psk.c */
int thmqi_psk_read(struct thmqi_tls_config *c, const struct thmq_tls_opts *o);
void thmqi_psk_free(struct thmqi_tls_config *c);
const struct thmqi_psk *thmqi_psk_find(const struct thmqi_tls_config *c, const char *identity);

/* session.c: whom OpenSSL works for on this thread; its callbacks have no better way to know. */
struct tls *thmqi_tls_current(void);
void thmqi_tls_enter(struct tls *t);
int thmqi_tls_bio_read(BIO *bio, char *to, int len);
int thmqi_tls_bio_write(BIO *bio, const char *from, int len);
long thmqi_tls_bio_ctrl(BIO *bio, int what, long number, void *pointer);
void thmqi_tls_on_secret(const SSL *ssl, const char *line);

/* why.c: what OpenSSL's last failure means, as an error; words into t->why. */
int thmqi_tls_error(struct tls *t);
/* What an alert of the other's means. */
int thmqi_tls_alert(struct tls *t, uint32_t description);

/* kernel.c: does the kernel encrypt? It may have to load something first, and takes time. */
bool thmqi_tls_kernel_can(void);
/* 1 the kernel makes the records from now on; 0 it does not, and nothing was changed; an error. */
int thmqi_tls_to_kernel(struct tls *t);
int64_t thmqi_tls_kernel_recv(struct tls *t, const struct iovec *iov, uint32_t count);
int64_t thmqi_tls_kernel_send(struct tls *t, const struct iovec *iov, uint32_t count);
void thmqi_tls_kernel_bye(struct tls *t);

#endif
