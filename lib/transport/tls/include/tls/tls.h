/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls.h - TLS 1.3 over a connected, non-blocking socket: what is sent goes in as bytes and comes out as bytes, and no call waits.
 * Certificates on both sides or pre-shared keys (struct thmq_tls_opts). Knows nothing of links, frames and cores.
 *
 * A stream is used by one thread at a time and may go from one to another. Where the kernel can (Linux, CONFIG_TLS), records are
 * its work once the handshake is over.
 */
#ifndef THMQI_TLS_H
#define THMQI_TLS_H

#include <sys/uio.h>

#include "base/base.h"

/* What all connections of a door, or of a session, share: certificates, keys, rules. Constant; counted; any thread. */
struct thmqi_tls_config;

/*
 * Reads the files. @host: a client's, for the name in the broker's certificate; NULL: of a broker.
 * Return: 0; -EPROTONOSUPPORT built without OpenSSL, or it is not installed; -EINVAL options or files that say nothing
 * sensible; -ENOENT, -EACCES …: of a file; -ENOMEM. Each with a text.
 */
int thmqi_tls_config_open(const struct thmq_tls_opts *opts, const char *host,
			  struct thmqi_tls_config **ret_config);
void thmqi_tls_config_ref(struct thmqi_tls_config *config);
void thmqi_tls_config_unref(struct thmqi_tls_config *config); /* NULL is allowed */

/* What its user looks at. */
struct thmqi_tls {
	uint32_t unsent; /* encrypted bytes that the socket has not taken */
	bool blocked;    /* it takes none now: thmqi_tls_flush() when it is writable */
	bool drained;    /* all that it had was read: go on when it is readable */
	bool kernel;     /* the kernel makes the records */
	/* Set by the user, if the other side can follow: after so many records that go our keys are changed; 0: never. No matter to
	 * the kernel. */
	uint32_t key_records;
};

/* @fd stays the caller's, and open as long as the stream. -ENOMEM. */
int thmqi_tls_open(struct thmqi_tls_config *config, int fd, struct thmqi_tls **ret_tls);
void thmqi_tls_close(struct thmqi_tls *tls); /* NULL is allowed */

/*
 * Goes on with it as far as it gets. Return: 1 both sides are sure of each other, as far as TLS 1.3 tells (a client learns by its
 * first receive that it was refused); 0 not yet: see blocked and drained; or an error, with its words in thmqi_tls_why():
 * -EKEYEXPIRED, -EKEYREVOKED, -EKEYREJECTED the other's certificate; -ENOKEY it shows none, or wants one that we do not have;
 * -EACCES it refuses ours, or the pre-shared keys differ; -THMQ_EVERSION it speaks no TLS 1.3; -EPROTO no TLS at all;
 * -ECONNRESET; another error of the socket. What can be said to the other side lies in unsent then.
 */
int thmqi_tls_handshake(struct thmqi_tls *tls);
/* Of a broker's stream whose handshake is over: "psk:identity", "cert:CN=name,O=…" (RFC 2253), or "": it asked for neither. */
const char *thmqi_tls_peer(const struct thmqi_tls *tls);
const char *thmqi_tls_why(const struct thmqi_tls *tls); /* "" if there is nothing to say */

/*
 * As sendmsg() and recvmsg(). Return: bytes; -EAGAIN none now; thmqi_tls_recv(): 0 the other has ended the stream, as it should;
 * -ECONNRESET it was cut off; -EBADMSG a record that is not the other's; errors as above.
 */
int64_t thmqi_tls_send(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count);
int64_t thmqi_tls_recv(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count);
/* Return: bytes that went; an error. */
int64_t thmqi_tls_flush(struct thmqi_tls *tls);
/* No more will be sent: the other is told, as far as the socket takes it now. */
void thmqi_tls_bye(struct thmqi_tls *tls);

#endif
