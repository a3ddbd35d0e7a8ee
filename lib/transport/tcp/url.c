/* SPDX-License-Identifier: Apache-2.0 */
/* url.c - tcp://host:port, tcp://[address]:port, and what they mean. Knows no connection. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>

#include "tcp.h"

#define HOST_MAX 255u

struct place {
	char host[HOST_MAX + 1]; /* "*": any, to listen at */
	char port[6];
	enum tcp_zerocopy zerocopy;
};

static int bad(const char *url, const char *why)
{
	int scheme = (int)strcspn(url, ":");

	return thmqi_fail(-EINVAL, "%.64s: %s; write %.*s://host:port or %.*s://[address]:port",
			  url, why, scheme, url, scheme, url);
}

/* Behind ?: zerocopy is all that there is. */
static int parse_options(const char *url, const char *at, struct place *p)
{
	if (strcmp(at, "zerocopy") == 0)
		p->zerocopy = TCP_ZEROCOPY_WHERE_IT_HELPS;
	else if (strcmp(at, "zerocopy=always") == 0)
		p->zerocopy = TCP_ZEROCOPY_ALWAYS;
	else
		return bad(url, "behind ? only zerocopy or zerocopy=always may stand");
	if (strncmp(url, "tcp:", 4) != 0)
		return bad(url, "zerocopy is of tcp:// only");
	return 0;
}

static int parse_port(const char *url, const char *at, struct place *p)
{
	uint32_t value = 0, n;

	p->zerocopy = TCP_COPIES;
	for (n = 0; at[n] && at[n] != '?'; n++) {
		if (at[n] < '0' || at[n] > '9' || n >= 5)
			return bad(url, "that is no port");
		value = value * 10 + (uint32_t)(at[n] - '0');
		p->port[n] = at[n];
	}
	p->port[n] = 0;
	if (n == 0 || value > 65535)
		return bad(url, "that is no port");
	return at[n] ? parse_options(url, at + n + 1, p) : 0;
}

static int parse(const char *url, struct place *p)
{
	const char *at = strstr(url, "://") + 3, *end, *colon;

	if (*at == '[') {
		end = strchr(++at, ']');
		if (!end)
			return bad(url, "the ] is missing");
		colon = end + 1;
	} else {
		end = colon = strrchr(at, ':');
		if (colon && memchr(at, ':', (size_t)(colon - at)))
			return bad(url, "an IPv6 address stands in [ ]");
	}
	if (!colon || *colon != ':')
		return bad(url, "the port is missing");
	if (end == at || (size_t)(end - at) > HOST_MAX)
		return bad(url, "that is no host");
	for (const char *c = at; c < end; c++)
		if (*c <= ' ' || *c > '~' || *c == '/')
			return bad(url, "that is no host");
	memcpy(p->host, at, (size_t)(end - at));
	p->host[end - at] = 0;
	return parse_port(url, colon + 1, p);
}

int thmqi_tcp_check(const char *url)
{
	struct place p;

	return parse(url, &p);
}

enum tcp_zerocopy thmqi_tcp_zerocopy_of(const char *url)
{
	struct place p;

	return parse(url, &p) == 0 ? p.zerocopy : TCP_COPIES;
}

/* A socket of IPv6 is one of IPv4, too: where there are both it goes first. */
static void set_any(struct tcp_address *a, uint32_t count)
{
	struct tcp_address first;
	uint32_t i;

	for (i = 0; i < count; i++) {
		a[i].any = true;
		if (i && a[i].addr.ss_family == AF_INET6 && a[0].addr.ss_family != AF_INET6) {
			first = a[i];
			a[i] = a[0];
			a[0] = first;
		}
	}
}

int thmqi_tcp_resolve(const char *url, bool passive, struct tcp_address *ret, uint32_t max,
		      uint32_t *ret_count)
{
	return thmqi_tcp_resolve_as(url, passive, false, ret, max, ret_count);
}

int thmqi_tcp_resolve_as(const char *url, bool passive, bool numeric, struct tcp_address *ret, uint32_t max,
			 uint32_t *ret_count)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV},
			*found, *it;
	struct place p;
	uint32_t n = 0;
	int rc = parse(url, &p);
	bool any;

	if (rc)
		return rc;
	if (!passive && strcmp(p.port, "0") == 0)
		return bad(url, "nobody listens at port 0");
	if (passive)
		hints.ai_flags |= AI_PASSIVE;
	any = passive && strcmp(p.host, "*") == 0;
	rc = getaddrinfo(any ? NULL : p.host, p.port, &hints, &found);
	if (rc == EAI_NONAME && !numeric) { /* a name, then */
		hints.ai_flags &= ~AI_NUMERICHOST;
		rc = getaddrinfo(p.host, p.port, &hints, &found);
	}
	if (rc == EAI_MEMORY)
		return thmqi_fail(-ENOMEM, "%s: no memory", url);
	if (rc)
		return thmqi_fail(-EHOSTUNREACH, "%s: %s", url, gai_strerror(rc));
	for (it = found; it && n < max; it = it->ai_next) {
		if (it->ai_addrlen > sizeof(ret[n].addr))
			continue;
		ret[n] = (struct tcp_address){.len = it->ai_addrlen};
		memcpy(&ret[n++].addr, it->ai_addr, it->ai_addrlen);
	}
	freeaddrinfo(found);
	if (any)
		set_any(ret, n);
	*ret_count = n;
	return n ? 0 : thmqi_fail(-EHOSTUNREACH, "%s: no address", url);
}

bool thmqi_tcp_is_secure(const char *url, const struct thmq_tls_opts *tls)
{
	return strncmp(url, "tls:", 4) == 0 ||
	       (tls && !(tls->size >= 8 && (tls->flags & THMQ_TLS_BESIDE_PLAIN)));
}

int thmqi_tcp_secure(const char *url, const struct thmq_tls_opts *opts,
		     struct thmqi_tls_config **ret_config)
{
	struct place p;
	int rc = parse(url, &p);

	*ret_config = NULL;
	if (rc || !thmqi_tcp_is_secure(url, opts))
		return rc;
	return thmqi_tls_config_open(opts, p.host, ret_config);
}

void thmqi_tcp_format(const struct tcp_address *a, bool tls, char *ret_url, size_t size)
{
	const char *scheme = tls ? "tls" : "tcp";
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->addr.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)&a->addr;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(ret_url, size, "%s://[%s]:%u", scheme, host, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in = (const void *)&a->addr;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(ret_url, size, "%s://%s:%u", scheme, host, ntohs(in->sin_port));
	}
}
