/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - a core's loop. One iteration: completions, posted tasks, timers, pollers, end-of-iteration hooks, one
 * submission for all that was queued. With nothing to do: spin as the policy says, arm every source, look once
 * more, then sleep - in wait_for_work() and nowhere else.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define REAP_BUDGET 256u
#define POLL_BUDGET 256u
#define CLOCK_ROUNDS 16u /* idle iterations between two looks at the clock */
#define WALL_REFRESH_NS 1000000u
#define RING_DEPTH 256u

static uint64_t read_clock(struct loop *l)
{
	const struct thmqi_clock *clock = l->core.clock;
	uint64_t now = clock->now_ns(clock->ctx);

	if (thmqi_unlikely(now - l->wall_read_ns > WALL_REFRESH_NS || !l->wall_read_ns)) {
		l->wall_offset = clock->wall_ns(clock->ctx) - now;
		l->wall_read_ns = now;
	}
	l->core.now_ns = now;
	l->core.wall_ns = now + l->wall_offset;
	return now;
}

static uint32_t run_pollers(struct loop *l)
{
	struct thmqi_list *it;
	uint32_t done = 0;

	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		done += (uint32_t)p->poll(p, POLL_BUDGET);
	}
	return done;
}

static void run_finish(struct loop *l)
{
	struct thmqi_list *it;

	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		if (p->finish)
			p->finish(p);
	}
}

static uint32_t iterate(struct loop *l)
{
	struct thmq_core *c = &l->core;
	uint32_t done = 0;

	c->in_poll = true;
	if (l->idle_rounds++ % CLOCK_ROUNDS == 0)
		read_clock(l);
	l->reaped = 0;
	if (c->ring)
		l->reaped = (uint32_t)thmqi_ring_reap(c->ring, REAP_BUDGET);
	done += l->reaped;
	if (!thmqi_inbox_empty(l))
		done += thmqi_inbox_run(l);
	if (l->next_deadline <= c->now_ns) {
		thmqi_timers_run(l, c->now_ns);
		done++;
	}
	done += run_pollers(l);
	if (done) {
		run_finish(l);
		thmqi_pool_drain(c->pool);
		l->idle_rounds = 0; /* the next one reads the clock */
	}
	if (c->ring)
		thmqi_ring_submit(c->ring);
	__atomic_store_n(&c->loops, c->loops + 1, __ATOMIC_RELAXED);
	c->in_poll = false;
	return done;
}

/* ------------------------------------------------------------------- sleep */

static void on_wake(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct loop *l = thmqi_container(op, struct loop, wake_op);
	uint64_t count;

	(void)res;
	if (read(l->wake_fd, &count, sizeof(count)) < 0)
		count = 0;
	if (!(flags & 2u)) /* IORING_CQE_F_MORE: the multishot goes on */
		l->wake_polled = false;
}

void thmqi_core_wake(struct thmq_core *core)
{
	struct loop *l = loop_of(core);
	uint64_t one = 1;

	atomic_fetch_add_explicit(&l->wakeups_sent, 1, memory_order_relaxed);
	/* one wake is enough until it arms again */
	atomic_store_explicit(&core->sleeping, 0, memory_order_relaxed);
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}

/* Announce the sleep, then look at every source once more. Return: true if there is work after all. */
static bool arm(struct loop *l)
{
	struct thmqi_list *it;
	bool work = false;

	atomic_store_explicit(&l->core.sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst); /* flag before the look: pairs with the fence in kick */
	thmqi_list_each(it, &l->pollers)
	{
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		if (p->arm && p->arm(p))
			work = true;
	}
	return work || !thmqi_inbox_empty(l);
}

static void disarm(struct loop *l)
{
	struct thmqi_list *it;

	atomic_store_explicit(&l->core.sleeping, 0, memory_order_relaxed);
	thmqi_list_each(it, &l->pollers)
	{
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		if (p->disarm)
			p->disarm(p);
	}
}

static void sleep_without_ring(struct loop *l, uint64_t timeout_ns)
{
	struct pollfd p = {.fd = l->wake_fd, .events = POLLIN};
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
			     .tv_nsec = (long)(timeout_ns % 1000000000u)};
	uint64_t count;

	ppoll(&p, 1, timeout_ns == UINT64_MAX ? NULL : &t, NULL);
	if (read(l->wake_fd, &count, sizeof(count)) < 0)
		return; /* nobody woke us */
}

static void poll_wake_fd(struct loop *l)
{
	if (!l->wake_polled && l->core.ring &&
	    thmqi_ring_poll_multishot(l->core.ring, l->wake_fd, POLLIN, &l->wake_op) == 0)
		l->wake_polled = true;
}

/* Until @deadline, the next timer, or a wake-up. */
static void wait_for_work(struct loop *l, uint64_t deadline)
{
	const struct thmqi_world *world = l->core.world;
	uint64_t until, now;

	if (world->idle) {
		now = read_clock(l);
		until = THMQI_MIN(deadline, l->next_deadline);
		world->idle(world->ctx, until > now ? until - now : 0);
		return;
	}
	poll_wake_fd(l);
	if (!arm(l)) {
		now = read_clock(l);
		until = THMQI_MIN(deadline, l->next_deadline);
		__atomic_store_n(&l->core.sleeps, l->core.sleeps + 1, __ATOMIC_RELAXED);
		if (until <= now)
			until = now;
		if (l->core.ring)
			thmqi_ring_wait(l->core.ring, until == UINT64_MAX ? UINT64_MAX : until - now);
		else
			sleep_without_ring(l, until == UINT64_MAX ? UINT64_MAX : until - now);
	}
	disarm(l);
	l->idle_rounds = 0;
}

static void host_disarm(struct loop *l)
{
	uint64_t count;

	l->host_armed = false;
	disarm(l);
	if (read(l->wake_fd, &count, sizeof(count)) < 0 || read(l->timer_fd, &count, sizeof(count)) < 0)
		return; /* not all of them had fired */
}

int thmqi_core_poll(struct thmq_core *core, uint64_t timeout_ns)
{
	struct loop *l = loop_of(core);
	uint64_t start, deadline, spin_end, budget, now;
	uint32_t done;

	if (thmqi_unlikely(!thmqi_core_is_mine(core)))
		return -EPERM;
	if (thmqi_unlikely(core->in_poll))
		return -EDEADLK;
	if (thmqi_unlikely(l->host_armed))
		host_disarm(l);
	done = iterate(l);
	if (done || timeout_ns == 0)
		return (int)done;
	start = now = read_clock(l);
	deadline = timeout_ns > UINT64_MAX - start ? UINT64_MAX : start + timeout_ns;
	while (now < deadline) {
		budget = core->world->idle ? 0 : l->policy->spin_budget_ns(l);
		spin_end = budget > UINT64_MAX - now ? UINT64_MAX : now + budget;
		while (now < THMQI_MIN(spin_end, deadline)) {
			done = iterate(l);
			if (done)
				return (int)done;
			thmqi_cpu_relax();
			now = core->now_ns;
		}
		if (now >= deadline)
			break;
		wait_for_work(l, deadline);
		done = iterate(l);
		if (done)
			return (int)done;
		now = read_clock(l);
	}
	return 0;
}

/* ------------------------------------------------------------ a host's loop */

int thmqi_core_fd(struct thmq_core *core)
{
	struct loop *l = loop_of(core);
	struct epoll_event e = {.events = EPOLLIN};
	int fd, timer;

	if (l->epoll_fd >= 0)
		return l->epoll_fd;
	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, timer, &e) != 0 ||
	    epoll_ctl(fd, EPOLL_CTL_ADD, l->wake_fd, &e) != 0 ||
	    (core->ring && epoll_ctl(fd, EPOLL_CTL_ADD, thmqi_ring_fd(core->ring), &e) != 0)) {
		int rc = -errno;

		if (timer >= 0)
			close(timer);
		close(fd);
		return rc;
	}
	l->timer_fd = timer;
	l->epoll_fd = fd;
	return fd;
}

int thmqi_core_arm(struct thmq_core *core)
{
	struct loop *l = loop_of(core);
	struct itimerspec t = {0};
	int fd = thmqi_core_fd(core);

	if (fd < 0)
		return fd;
	if (core->ring)
		thmqi_ring_submit(core->ring);
	if (arm(l)) {
		disarm(l);
		return 1;
	}
	if (l->next_deadline != UINT64_MAX) {
		uint64_t at = THMQI_MAX(l->next_deadline, 1u);

		t.it_value.tv_sec = (time_t)(at / 1000000000u);
		t.it_value.tv_nsec = (long)(at % 1000000000u);
	}
	timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
	l->host_armed = true;
	return 0;
}

void thmqi_loop_forget_fd(struct loop *l)
{
	if (l->epoll_fd >= 0) {
		close(l->epoll_fd);
		close(l->timer_fd);
	}
	l->epoll_fd = l->timer_fd = -1;
	l->host_armed = false;
}

/* ------------------------------------------------------------------ pollers */

void thmqi_core_add_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	thmqi_list_add_tail(&loop_of(core)->pollers, &p->link);
}

void thmqi_core_remove_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	struct loop *l = loop_of(core);

	if (l->cursor == &p->link)
		l->cursor = p->link.next;
	thmqi_list_del(&p->link);
}

/* ------------------------------------------------------------- open, close */

int thmqi_loop_open(struct thmq_env *env, uint32_t index, struct loop **ret_loop)
{
	bool uring = !(env->opts.flags & THMQ_ENV_NO_URING) && !env->world.disk;
	struct loop *l = aligned_alloc(THMQI_CACHELINE, THMQI_ALIGN_UP(sizeof(*l), (size_t)THMQI_CACHELINE));
	uint64_t seed = env->world.seed;
	int rc;

	if (!l)
		return -ENOMEM;
	memset(l, 0, sizeof(*l));
	l->core.env = env;
	l->core.index = index;
	l->core.clock = env->world.clock;
	l->core.world = &env->world;
	l->epoll_fd = l->timer_fd = -1;
	l->next_deadline = UINT64_MAX;
	l->wake_op.done = on_wake;
	l->policy = thmqi_policy_find(env->opts.policy);
	l->spin_ns = env->opts.spin_ns ? env->opts.spin_ns : 20000;
	atomic_store(&l->core.may_sleep, !l->policy->never_sleeps);
	thmqi_list_init(&l->pollers);
	l->cursor = &l->pollers;
	if (!seed && thmqi_random_bytes(&seed, sizeof(seed)) != 0)
		seed = 1;
	thmqi_prng_seed(&l->core.prng, seed + index);
	l->heap = calloc(1, sizeof(*l->heap));
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = !l->heap ? -ENOMEM : l->wake_fd < 0 ? -errno : thmqi_pool_open(env->slabs, &l->core.pool);
	if (rc) {
		if (l->wake_fd >= 0)
			close(l->wake_fd);
		free(l->heap);
		free(l);
		return rc;
	}
	if (uring && thmqi_ring_open(RING_DEPTH, &l->core.ring) == 0)
		thmqi_pool_subscribe(l->core.pool, thmqi_ring_registrar(l->core.ring));
	read_clock(l);
	*ret_loop = l;
	return 0;
}

uint32_t thmqi_loop_close(struct loop *l)
{
	uint32_t leaked;

	thmqi_inbox_run(l);
	if (l->core.ring) {
		thmqi_pool_unsubscribe(l->core.pool, thmqi_ring_registrar(l->core.ring));
		thmqi_ring_close(l->core.ring);
	}
	leaked = thmqi_pool_close(l->core.pool);
	thmqi_loop_forget_fd(l);
	close(l->wake_fd);
	free(l->heap);
	free(l);
	return leaked;
}
