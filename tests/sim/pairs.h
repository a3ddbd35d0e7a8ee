/* SPDX-License-Identifier: Apache-2.0 */
/* pairs.h - a transport for simulations, sim://: sessions and one broker in one thread, joined by pairs of sockets. What goes wrong on the way is thmq_fault_set()'s. */
#ifndef SIM_PAIRS_H
#define SIM_PAIRS_H

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thundermq/transport.h>
#include <unistd.h>

#define PAIRS_WAITING_MAX 64

struct pairs {
	int ready; /* -1: nobody listens */
	int waiting[PAIRS_WAITING_MAX], count; /* connections that were not accepted yet */
};

static inline int pairs_connect(void *ctx, const char *url, int *ret_fd)
{
	const uint64_t one = 1;
	struct pairs *p = ctx;
	int fds[2];

	(void)url;
	if (p->ready < 0 || p->count == PAIRS_WAITING_MAX)
		return -ECONNREFUSED;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		return -errno;
	if (write(p->ready, &one, sizeof(one)) != sizeof(one))
		return -EIO;
	p->waiting[p->count++] = fds[1];
	*ret_fd = fds[0];
	return 0;
}

static inline int pairs_listen(void *ctx, const char *url, int *ret_fd, char *ret_url, uint32_t url_size)
{
	struct pairs *p = ctx;

	(void)url, (void)ret_url, (void)url_size;
	while (p->count) /* with the broker before, whose end of listening may come later */
		close(p->waiting[--p->count]);
	*ret_fd = p->ready = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return p->ready < 0 ? -errno : 0;
}

static inline int pairs_accept(void *ctx, int listen_fd, int *ret_fd)
{
	struct pairs *p = ctx;
	uint64_t one;

	if (read(listen_fd, &one, sizeof(one)) != sizeof(one))
		return -errno;
	*ret_fd = p->waiting[0];
	memmove(p->waiting, p->waiting + 1, (size_t)--p->count * sizeof(p->waiting[0]));
	return 0;
}

static inline void pairs_close(void *ctx, int fd)
{
	struct pairs *p = ctx;

	if (fd == p->ready) {
		p->ready = -1;
		while (p->count)
			close(p->waiting[--p->count]);
	}
	close(fd);
}

static inline int pairs_register(struct pairs *p, struct thmq_env *env)
{
	const struct thmq_transport transport = {.size = sizeof(transport),
						 .scheme = "sim",
						 .ctx = p,
						 .connect = pairs_connect,
						 .listen = pairs_listen,
						 .accept = pairs_accept,
						 .close = pairs_close};

	p->ready = -1;
	p->count = 0;
	return thmq_transport_register(env, &transport);
}

#endif
