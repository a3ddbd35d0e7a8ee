/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c - the public face of descriptors that a core waits for: checks, then calls down. */
#include <fcntl.h>
#include <poll.h>
#include <thundermq/reactor.h>

#include "api/api.h"

#define EVENTS (POLLIN | POLLPRI | POLLOUT | POLLRDHUP)

int thmq_watch_open(struct thmq_core *core, int fd, uint32_t events,
		    void (*ready)(void *ctx, uint32_t events), void *ctx,
		    struct thmq_watch **ret_watch)
{
	int rc;

	if (!core || !ready || !ret_watch)
		return thmqi_fail(-EINVAL,
				  "a watch needs a core, a function and a place for its handle");
	if (!events || events & ~(uint32_t)EVENTS)
		return thmqi_fail(
			-EINVAL,
			"watch: events %#x are none of POLLIN, POLLPRI, POLLOUT, POLLRDHUP",
			events);
	if (!thmqi_core_is_mine(core))
		return thmqi_fail(-EPERM,
				  "a descriptor is watched by the thread that drives the core");
	/* the ring would tell only later */
	if (fcntl(fd, F_GETFD) < 0)
		return thmqi_fail(-EBADF, "watch: %d is no open descriptor", fd);
	rc = thmqi_watch_open(core, fd, events, ready, ctx, ret_watch);
	return rc ? thmqi_fail(rc, "watch descriptor %d: %s", fd, thmq_strerror(rc)) : 0;
}

int thmq_watch_close(struct thmq_watch *watch)
{
	if (!watch)
		return 0;
	if (!thmqi_core_is_mine(thmqi_watch_core(watch)))
		return thmqi_fail(-EPERM, "a watch is closed by the thread that drives its core");
	thmqi_watch_close(watch);
	return 0;
}
