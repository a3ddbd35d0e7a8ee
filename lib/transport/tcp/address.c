/* SPDX-License-Identifier: Apache-2.0 */
/* address.c - address.h by what url.c knows. Knows no links and no connections. */
#include <unistd.h>

#include "tcp.h"
#include "transport/address.h"

#define BACKLOG 64
#define LOOKED_UP 4u

_Static_assert(sizeof(struct thmqi_address) == sizeof(struct tcp_address) &&
		       offsetof(struct thmqi_address, len) == offsetof(struct tcp_address, len),
	       "the same");

int thmqi_address_check(const char *url)
{
	if (strncmp(url, "tcp://", 6) != 0 && strncmp(url, "tls://", 6) != 0)
		return thmqi_fail(-EINVAL, "%.64s: write tcp://host:port", url);
	return thmqi_tcp_check(url);
}

int thmqi_address_resolve(const char *url, bool passive, struct thmqi_address *ret, uint32_t max,
			  uint32_t *ret_count)
{
	int rc = thmqi_address_check(url);

	return rc ? rc : thmqi_tcp_resolve(url, passive, (struct tcp_address *)ret, max, ret_count);
}

static int bind_socket(const char *url, int fd, struct thmqi_address *a)
{
	int on = 1, rc = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    bind(fd, (const struct sockaddr *)&a->addr, a->len) != 0 || listen(fd, BACKLOG) != 0)
		rc = -errno;
	if (rc == -EADDRINUSE)
		return thmqi_fail(rc, "listen on %s: another socket has this address and port",
				  url);
	a->len = sizeof(a->addr);
	if (!rc && getsockname(fd, (struct sockaddr *)&a->addr, &a->len) != 0)
		rc = -errno;
	return rc ? thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc)) : 0;
}

int thmqi_address_listen(const char *url, char *ret_url, size_t size)
{
	struct thmqi_address a[LOOKED_UP];
	uint32_t count = 0;
	int fd, rc = thmqi_address_resolve(url, true, a, LOOKED_UP, &count);

	if (rc)
		return rc;
	fd = socket(a[0].addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return thmqi_fail(-errno, "listen on %s: %s", url, thmq_strerror(-errno));
	rc = bind_socket(url, fd, &a[0]);
	if (rc) {
		close(fd);
		return rc;
	}
	thmqi_tcp_format((const struct tcp_address *)&a[0], strncmp(url, "tls:", 4) == 0, ret_url,
			 size);
	return fd;
}

bool thmqi_address_host(const char *url, char *ret_host, size_t size)
{
	const char *at = strstr(url, "://"), *end;

	if (!at)
		return false;
	at += 3;
	end = *at == '[' ? strchr(++at, ']') : strrchr(at, ':');
	if (!end || (size_t)(end - at) >= size)
		return false;
	memcpy(ret_host, at, (size_t)(end - at));
	ret_host[end - at] = 0;
	return true;
}
