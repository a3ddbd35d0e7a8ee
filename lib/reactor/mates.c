/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mates.c - several cores of one thread of the host. The one that it took first leads: whoever polls it polls them all, and
 * sleeps for all of them in one place, on the descriptor that a host's own loop would use (host.c). The others follow in the order
 * in which they were taken. While one of them runs, the leader counts as polling, so that no callback of any may wait.
 */
#include <poll.h>
#include <time.h>

#include "internal.h"
#include "predict.h"

#define NO_FD_NAP_NS 1000000u /* without a descriptor to sleep on they are looked at this often */

int thmqi_mates_join(struct loop *lead, struct loop *l)
{
	struct loop **end = &lead->mates;
	int rc;

	if (lead->epoll_fd >= 0) {
		rc = thmqi_host_follow(lead, l);
		if (rc)
			return rc;
	}
	/* the host may be about to sleep on what it armed before */
	if (lead->host_armed)
		thmqi_core_wake(&lead->core);
	while (*end)
		end = &(*end)->mates;
	*end = l;
	l->lead = lead;
	return 0;
}

static uint32_t poll_each(struct loop *lead)
{
	struct loop *l;
	uint32_t done = 0;

	lead->core.in_poll = true;
	for (l = lead->mates; l; l = l->mates)
		done += (uint32_t)thmqi_loop_poll(l, 0);
	lead->core.in_poll = false;
	return done + (uint32_t)thmqi_loop_poll(lead, 0);
}

static uint64_t next_deadline(const struct loop *lead)
{
	const struct loop *l;
	uint64_t next = UINT64_MAX;

	for (l = lead; l; l = l->mates)
		next = THMQI_MIN(next, l->next_deadline);
	return next;
}

static void sleep_for_all(struct loop *lead, uint64_t now, uint64_t deadline)
{
	const struct thmqi_world *world = lead->core.world;
	struct pollfd p = {.events = POLLIN};
	uint64_t ns = deadline - now, from;
	struct timespec t;
	struct loop *l;
	int rc;

	for (l = lead; l; l = l->mates)
		if (thmqi_pool_is_untidy(l->core.pool))
			thmq_pool_tidy(l->core.pool);
	if (lead->polling.predict)
		thmqi_predict_slice(lead, now);
	if (world->idle) {
		uint64_t until = THMQI_MIN(deadline, next_deadline(lead));

		thmqi_loop_turn(lead, DUTY_SLEEPS);
		world->idle(world->ctx, until > now ? until - now : 0);
		thmqi_polling_slept(lead, now);
		return;
	}
	rc = thmqi_core_arm(&lead->core);
	if (rc > 0)
		return;
	if (rc < 0)
		ns = THMQI_MIN(ns, NO_FD_NAP_NS);
	p.fd = rc < 0 ? -1 : lead->epoll_fd;
	t.tv_sec = (time_t)(ns / 1000000000u);
	t.tv_nsec = (long)(ns % 1000000000u);
	from = lead->duty.looked_ns;
	ppoll(&p, 1, deadline == UINT64_MAX && rc == 0 ? NULL : &t, NULL);
	thmqi_polling_slept(lead, from);
}

int thmqi_mates_poll(struct loop *lead, uint64_t timeout_ns)
{
	uint64_t now, deadline, spin_end;
	uint32_t done = poll_each(lead);

	if (done || timeout_ns == 0)
		return (int)done;
	now = thmqi_loop_read_clock(lead);
	deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	spin_end = thmqi_polling_begin(lead, now);
	while (!done && now < deadline) {
		if (now >= spin_end && !lead->polling.slept && spin_end)
			spin_end = thmqi_polling_still(lead, now);
		if (now < spin_end)
			thmqi_cpu_relax();
		else
			sleep_for_all(lead, now, deadline);
		done = poll_each(lead);
		if (done)
			break;
		now = thmqi_loop_read_clock(lead);
		if (!lead->polling.slept)
			lead->polling.seen_ns = now;
	}
	thmqi_polling_end(lead, done > 0);
	return (int)done;
}
