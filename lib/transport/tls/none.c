/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - in place of all of this folder where the library is built without OpenSSL's headers. */
#include "tls/tls.h"

int thmqi_tls_config_open(const struct thmq_tls_opts *opts, const char *host,
			  struct thmqi_tls_config **ret_config)
{
	return thmqi_fail(-EPROTONOSUPPORT, "tls: this library was built without TLS (meson option "
					    "tls, which needs OpenSSL 3)");
}

void thmqi_tls_config_ref(struct thmqi_tls_config *config)
{
}

void thmqi_tls_config_unref(struct thmqi_tls_config *config)
{
}

int thmqi_tls_open(struct thmqi_tls_config *config, int fd, struct thmqi_tls **ret_tls)
{
	return -EPROTONOSUPPORT;
}

void thmqi_tls_close(struct thmqi_tls *tls)
{
}

int thmqi_tls_handshake(struct thmqi_tls *tls)
{
	return -EPROTONOSUPPORT;
}

const char *thmqi_tls_peer(const struct thmqi_tls *tls)
{
	return "";
}

const char *thmqi_tls_why(const struct thmqi_tls *tls)
{
	return "";
}

int64_t thmqi_tls_send(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count)
{
	return -EPROTONOSUPPORT;
}

int64_t thmqi_tls_recv(struct thmqi_tls *tls, const struct iovec *iov, uint32_t count)
{
	return -EPROTONOSUPPORT;
}

int64_t thmqi_tls_flush(struct thmqi_tls *tls)
{
	return 0;
}

void thmqi_tls_bye(struct thmqi_tls *tls)
{
}
