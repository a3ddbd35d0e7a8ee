/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own.c - transports of the application's: each becomes a medium of its scheme, whose connections are those of tcp/ over the
 * application's descriptors. Knows no connection.
 */
#include <fcntl.h>
#include <unistd.h>

#include "internal.h"
#include "own.h"
#include "tcp/tcp.h"

struct own {
	struct thmqi_medium medium;
	struct thmq_transport ops;
	struct own *next;
	char scheme[]; /* NUL-terminated */
};

static const struct own *find(const struct thmqi_transport *t, const char *url)
{
	const char *end = strstr(url, "://");
	const struct own *o;

	for (o = t->owns; o && end; o = o->next)
		if (strlen(o->scheme) == (size_t)(end - url) &&
		    memcmp(o->scheme, url, (size_t)(end - url)) == 0)
			return o;
	return NULL;
}

const struct thmq_transport *thmqi_own_of(const struct thmqi_transport *t, const char *url)
{
	const struct own *o = find(t, url);

	return o ? &o->ops : NULL;
}

void thmqi_own_close(const struct thmq_transport *own, int fd)
{
	if (fd < 0)
		return;
	if (own && own->close)
		own->close(own->ctx, fd);
	else
		close(fd);
}

int thmqi_own_ready(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

static int own_check(struct thmqi_transport *t, const char *url)
{
	const struct thmq_transport *own = thmqi_own_of(t, url);
	int rc = own->check ? own->check(own->ctx, url) : 0;

	return rc < 0 ? thmqi_fail(rc, "%.64s: its transport does not take it: %s", url,
				   thmq_strerror(rc))
		      : 0;
}

int thmqi_transport_register(struct thmqi_transport *t, const struct thmq_transport *ops)
{
	size_t len = strlen(ops->scheme);
	struct own *o = calloc(1, sizeof(*o) + len + 1);
	int rc;

	if (!o)
		return -ENOMEM;
	memcpy(o->scheme, ops->scheme, len);
	o->ops = *ops;
	o->ops.scheme = o->scheme;
	o->medium = thmqi_medium_tcp;
	o->medium.scheme = o->scheme;
	o->medium.check = NULL;
	o->medium.check_of = own_check;
	o->medium.secure = NULL;
	rc = thmqi_transport_add(t, &o->medium);
	if (rc) {
		free(o);
		return rc;
	}
	o->next = t->owns;
	t->owns = o;
	return 0;
}

void thmqi_own_fini(struct thmqi_transport *t)
{
	struct own *o;

	while ((o = t->owns)) {
		t->owns = o->next;
		free(o);
	}
}
