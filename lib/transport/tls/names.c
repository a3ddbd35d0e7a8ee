/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.c - whose certificate the other may show: the host of the URL, or names that are given, of which one is enough. Knows the
 * rules of checking (RFC 6125, as OpenSSL has them), no connection.
 */
#include <arpa/inet.h>

#include "openssl.h"

#define NAME_MAX_BYTES 255u

static bool is_address(const char *name)
{
	uint8_t bytes[16];

	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

static int add_one(struct thmqi_tls_config *c, X509_VERIFY_PARAM *param, const char *name)
{
	int good = is_address(name) ? c->o.X509_VERIFY_PARAM_set1_ip_asc(param, name)
				    : c->o.X509_VERIFY_PARAM_add1_host(param, name, 0);

	return good == 1 ? 0 : thmqi_fail(-ENOMEM, "tls: no memory");
}

/* Several, separated by commas; at most one address among them, since OpenSSL takes one. */
static int add_list(struct thmqi_tls_config *c, X509_VERIFY_PARAM *param, const char *names)
{
	char name[NAME_MAX_BYTES + 1];
	size_t len;
	int rc = 0;

	for (; !rc && names; names = *names ? names + 1 : NULL) {
		len = strcspn(names, ",");
		if (len == 0 || len > NAME_MAX_BYTES)
			return thmqi_fail(-EINVAL,
					  "tls: peer_name %.64s: a name has 1 to %u "
					  "characters",
					  names, NAME_MAX_BYTES);
		memcpy(name, names, len);
		name[len] = 0;
		rc = add_one(c, param, name);
		names += len;
		if (!*names)
			break;
	}
	return rc;
}

int thmqi_tls_names(struct thmqi_tls_config *c, const struct thmq_tls_opts *o, const char *host)
{
	X509_VERIFY_PARAM *param = c->o.SSL_CTX_get0_param(c->ctx);
	bool any = o->flags & THMQ_TLS_ANY_NAME;

	if (any && o->peer_name)
		return thmqi_fail(-EINVAL,
				  "tls: peer_name and THMQ_TLS_ANY_NAME exclude each other");
	if (host &&
	    !is_address(host)) { /* asked for, whatever is checked: the broker may have several */
		c->host = strdup(host);
		if (!c->host)
			return thmqi_fail(-ENOMEM, "tls: no memory");
	}
	c->o.X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (o->peer_name)
		return add_list(c, param, o->peer_name);
	return any || !host ? 0 : add_one(c, param, host);
}
