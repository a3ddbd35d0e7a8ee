/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - a core's loop. One iteration: completions, posted tasks, timers, pollers, end-of-iteration hooks, one
 * submission for all that was queued. With nothing to do: spin as the policy says, arm every source, look once
 * more, then sleep - in wait_for_work() and nowhere else. Knows nothing of what the sources are.
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "predict.h"

#define REAP_BUDGET 256u
#define POLL_BUDGET 256u
/* An idle iteration costs about as much as a look at the clock, or as a pause, which is for the sake of a sibling thread:
 * a spinning core does these every so many iterations. */
#define CLOCK_ROUNDS 16u
#define WALL_REFRESH_NS 1000000u
#define RING_DEPTH 256u
/* Where little memory may be locked: on newer kernels (seen on 6.18) that of the rings counts, and a core that changes
 * hands needs two for a moment. */
#define RING_DEPTH_SMALL 32u
#define SMALL_MEMLOCK_BYTES (1u << 20)
#define POOL_KEEP_BYTES (4ull * THMQI_SLAB_BYTES) /* free memory that a core keeps: other cores may want the rest */
#define BROKEN_NAP_NS 1000000u /* a ring that cannot be slept on is looked at this often */

/* -------------------------------------------------------------------- time */

static inline uint64_t read_clock(struct loop *l)
{
	const struct thmqi_clock *clock = l->core.clock;
	uint64_t now = clock->now_ns(clock->ctx);

	if (thmqi_unlikely(now - l->wall_read_ns > WALL_REFRESH_NS || !l->wall_read_ns)) {
		/* in this order: who is stopped between the two is late afterwards, and never ahead of the time; and looks again soon */
		l->wall_read_ns = now;
		l->wall_offset = clock->wall_ns(clock->ctx);
		now = clock->now_ns(clock->ctx);
		l->wall_offset -= now;
	}
	l->core.now_ns = now;
	l->core.wall_ns = now + l->wall_offset;
	return now;
}

uint64_t thmqi_loop_read_clock(struct loop *l)
{
	uint64_t now = read_clock(l);

	if (l->duty.state == DUTY_RUNS)
		thmqi_duty_idle(&l->duty, l->core.loops, now);
	else
		thmqi_duty_back(&l->duty, now);
	return now;
}

/* Until the clock is read again. */
void thmqi_loop_turn(struct loop *l, uint32_t duty)
{
	uint64_t *sleeps = &l->duty.stats.sleeps;

	if (duty == DUTY_SLEEPS)
		__atomic_store_n(sleeps, *sleeps + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&l->duty.state, duty, __ATOMIC_RELAXED);
}

/* The next iteration reads the clock. */
static void clock_is_old(struct loop *l)
{
	l->rounds = 0;
}

/* --------------------------------------------------------------- iteration */

static void look_at_clock(struct loop *l)
{
	thmqi_loop_read_clock(l);
	if (thmqi_unlikely(l->duty.look_again))
		clock_is_old(l);
}

/* Two of each: with @detailed known when they are compiled the one that does not measure is as short as without it. */
#define TWICE static inline __attribute__((always_inline))

TWICE void mark(struct loop *l, bool detailed, uint32_t phase)
{
	if (detailed)
		thmqi_duty_mark(&l->duty, l->core.clock, phase);
}

/* A poller is called. It may be gone afterwards, and its name with it. */
TWICE int call(struct loop *l, bool detailed, struct thmqi_poller *p, uint32_t phase)
{
	char name[THMQ_POLLER_NAME] = "";
	int done = 0;

	if (detailed && p->name)
		strncpy(name, p->name, sizeof(name) - 1);
	if (phase == THMQ_PHASE_POLLERS)
		done = p->poll(p, POLL_BUDGET);
	else
		p->finish(p);
	if (detailed)
		thmqi_duty_poller(&l->duty, name, thmqi_duty_mark(&l->duty, l->core.clock, phase));
	return done;
}

TWICE uint32_t run_pollers(struct loop *l, bool detailed)
{
	struct thmqi_list *it;
	uint32_t done = 0;

	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		done += (uint32_t)call(l, detailed, p, THMQ_PHASE_POLLERS);
	}
	return done;
}

TWICE void finish_pollers(struct loop *l, bool detailed)
{
	struct thmqi_list *it;

	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		if (p->finish)
			call(l, detailed, p, THMQ_PHASE_FINISH);
	}
}

void thmqi_loop_finish(struct loop *l)
{
	finish_pollers(l, false);
}

TWICE uint32_t one_round(struct loop *l, bool entered, bool detailed)
{
	struct thmq_core *c = &l->core;
	uint32_t done = 0;

	c->in_poll = true;
	if (entered)
		thmqi_duty_back(&l->duty, read_clock(l));
	else if (l->rounds++ % CLOCK_ROUNDS == 0 || detailed)
		look_at_clock(l);
	if (detailed)
		thmqi_duty_begin(&l->duty, c->now_ns);
	if (c->ring) {
		l->wakes_seen = 0;
		done = (uint32_t)thmqi_ring_reap(c->ring, REAP_BUDGET);
		done -= THMQI_MIN(done, l->wakes_seen); /* a callback may have reaped some itself */
	}
	mark(l, detailed, THMQ_PHASE_COMPLETIONS);
	if (!thmqi_inbox_empty(l))
		done += thmqi_inbox_run(l);
	mark(l, detailed, THMQ_PHASE_POSTS);
	if (l->next_deadline <= c->now_ns)
		done += thmqi_timers_run(l, c->now_ns);
	mark(l, detailed, THMQ_PHASE_TIMERS);
	done += run_pollers(l, detailed);
	if (done || entered)
		finish_pollers(l, detailed);
	if (done)
		thmqi_pool_drain(c->pool);
	mark(l, detailed, THMQ_PHASE_FINISH);
	/* what queues an operation has done something; a poller that failed to say so is served a little later */
	if (c->ring && (done || entered || l->rounds % CLOCK_ROUNDS == 0))
		thmqi_ring_submit(c->ring);
	mark(l, detailed, THMQ_PHASE_SUBMIT);
	__atomic_store_n(&c->loops, c->loops + 1, __ATOMIC_RELAXED);
	thmqi_mail_kick_owed(l);
	c->in_poll = false;
	if (done || entered || detailed) {
		l->rounds = 1; /* the next one begins now */
		if (done)
			thmqi_duty_busy(&l->duty, c->loops, read_clock(l));
		else
			thmqi_loop_read_clock(l);
	}
	return done;
}

static __attribute__((noinline)) uint32_t measured_round(struct loop *l, bool entered)
{
	return one_round(l, entered, true);
}

/* @entered: the owner comes from outside, who knows after how long, and may have given its own objects work that only
 * finish and submit see. */
static uint32_t iterate(struct loop *l, bool entered)
{
	if (thmqi_unlikely(atomic_load_explicit(&l->detailed, memory_order_relaxed)))
		return measured_round(l, entered);
	return one_round(l, entered, false);
}

/* ------------------------------------------------------------------- sleep */

static void drain_wake_fd(struct loop *l)
{
	uint64_t count;

	if (read(l->wake_fd, &count, sizeof(count)) < 0)
		return; /* nobody woke us */
}

static void on_wake(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	struct loop *l = thmqi_container(op, struct loop, wake_op);

	(void)res;
	drain_wake_fd(l);
	l->wakes_seen++;
	l->wake_polled = thmqi_ring_has_more(flags);
}

void thmqi_core_wake(struct thmq_core *core)
{
	struct loop *l = loop_of(core);
	uint64_t one = 1;

	if (l->polling.learns_wake)
		atomic_store_explicit(&l->woken_ns, core->clock->now_ns(core->clock->ctx),
				      memory_order_relaxed);
	atomic_fetch_add_explicit(&l->wakeups_sent, 1, memory_order_relaxed);
	/* One wake is enough until it arms again. The flag before the write: who finds it down relies on this write. */
	atomic_store_explicit(&core->sleeping, 0, memory_order_relaxed);
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}

bool thmqi_loop_arm(struct loop *l)
{
	struct thmqi_list *it;
	bool work = false;

	atomic_store_explicit(&l->core.sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(
		memory_order_seq_cst); /* flag before the look: pairs with the fence in kick */
	l->core.in_poll = true;
	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		if (p->arm && p->arm(p))
			work = true;
	}
	thmqi_mail_kick_owed(l);
	l->core.in_poll = false;
	return work || !thmqi_inbox_empty(l);
}

void thmqi_loop_disarm(struct loop *l)
{
	struct thmqi_list *it;

	atomic_store_explicit(&l->core.sleeping, 0, memory_order_relaxed);
	for (it = l->pollers.next; it != &l->pollers; it = l->cursor) {
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		l->cursor = it->next;
		if (p->disarm)
			p->disarm(p);
	}
}

/* There is no ring, or it cannot be slept on. */
static void sleep_on_wake_fd(struct loop *l, uint64_t timeout_ns)
{
	/* the second is -1, and passed over, where nothing is watched */
	struct pollfd p[] = {{.fd = l->wake_fd, .events = POLLIN},
			     {.fd = l->watch.epoll_fd, .events = POLLIN}};
	struct timespec t;

	if (l->core.ring)
		timeout_ns = THMQI_MIN(timeout_ns, BROKEN_NAP_NS);
	t.tv_sec = (time_t)(timeout_ns / 1000000000u);
	t.tv_nsec = (long)(timeout_ns % 1000000000u);
	ppoll(p, 2, timeout_ns == UINT64_MAX ? NULL : &t, NULL);
	drain_wake_fd(l);
}

static bool wake_is_polled(struct loop *l)
{
	if (!l->wake_polled)
		l->wake_polled = thmqi_ring_poll_multishot(l->core.ring, l->wake_fd, POLLIN,
							   &l->wake_op) == 0;
	return l->wake_polled;
}

static void sleep_until(struct loop *l, uint64_t until)
{
	uint64_t now = thmqi_loop_read_clock(l);
	uint64_t ns = until == UINT64_MAX ? UINT64_MAX : until > now ? until - now : 0;

	thmqi_loop_turn(l, DUTY_SLEEPS);
	__atomic_store_n(&l->core.sleeps, l->core.sleeps + 1, __ATOMIC_RELAXED);
	thmqi_polling_sleeps(l);
	if (!l->core.ring || !wake_is_polled(l) || thmqi_ring_wait(l->core.ring, ns) < 0)
		sleep_on_wake_fd(l, ns);
	thmqi_polling_slept(l, now);
}

/* Until @deadline, the next timer, or a wake-up. Return: work done in the last look before. */
static uint32_t wait_for_work(struct loop *l, uint64_t deadline)
{
	const struct thmqi_world *world = l->core.world;
	uint32_t done = 0;
	bool work;

	if (thmqi_pool_is_untidy(l->core.pool))
		thmq_pool_tidy(l->core.pool);
	if (l->polling.predict)
		thmqi_predict_slice(l, l->core.now_ns);
	if (world->idle) {
		uint64_t now = thmqi_loop_read_clock(l);
		uint64_t until = THMQI_MIN(deadline, l->next_deadline);

		thmqi_loop_turn(l, DUTY_SLEEPS);
		world->idle(world->ctx, until > now ? until - now : 0);
		thmqi_polling_slept(l, now);
		clock_is_old(l);
		return 0;
	}
	work = thmqi_loop_arm(l);
	/* Once more, now that every source would tell: what came before the flag was seen is found here. */
	clock_is_old(l);
	done = iterate(l, false);
	if (!work && !done)
		sleep_until(l, THMQI_MIN(deadline, l->next_deadline));
	thmqi_loop_disarm(l);
	clock_is_old(l);
	return done;
}

/* Return: work done, 0 if the time is over. */
static uint32_t spin(struct loop *l, uint64_t now, uint64_t end)
{
	uint32_t done = 0, rounds = 0;

	for (; now < end; now = l->core.now_ns) {
		rounds = l->rounds; /* since now */
		if (rounds % CLOCK_ROUNDS == 0)
			thmqi_cpu_relax();
		done = iterate(l, false);
		if (done)
			break;
	}
	l->polling.seen_ns = now + (done ? rounds * l->duty.round_ns : 0);
	return done;
}

/* Nothing is there. Until something is, or @timeout_ns is over: spin as the policy says, then sleep. */
static uint32_t spin_then_sleep(struct loop *l, uint64_t timeout_ns)
{
	uint64_t now = l->core.now_ns, spin_end = thmqi_polling_begin(l, now);
	uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	uint32_t done = 0;

	while (!done && now < deadline) {
		if (now < spin_end) {
			done = spin(l, now, THMQI_MIN(spin_end, deadline));
			now = l->core.now_ns;
			if (!done && now < deadline && (spin_end = thmqi_polling_still(l, now)) > now)
				continue;
		}
		if (!done && thmqi_loop_read_clock(l) < deadline) {
			if (!l->polling.slept)
				l->polling.seen_ns = l->core.now_ns;
			done = wait_for_work(l, deadline);
		}
		if (!done)
			done = iterate(l, false);
		if (!done)
			now = thmqi_loop_read_clock(l);
	}
	thmqi_polling_end(l, done > 0);
	return done;
}

static uint32_t drive(struct loop *l, uint64_t timeout_ns)
{
	/* a thread of the library does nothing else: it has not been anywhere */
	uint32_t done = iterate(l, !l->has_thread);

	return done || timeout_ns == 0 ? done : spin_then_sleep(l, timeout_ns);
}

int thmqi_core_poll(struct thmq_core *core, uint64_t timeout_ns)
{
	struct loop *l = loop_of(core);

	if (thmqi_unlikely(!thmqi_core_is_mine(core)))
		return -EPERM;
	l = l->lead;
	if (thmqi_unlikely(l->core.in_poll))
		return -EDEADLK;
	return thmqi_unlikely(l->mates != NULL) ? thmqi_mates_poll(l, timeout_ns) : thmqi_loop_poll(l, timeout_ns);
}

int thmqi_loop_poll(struct loop *l, uint64_t timeout_ns)
{
	uint32_t done, before = l->done_arming;

	if (thmqi_unlikely(l->host_armed)) {
		thmqi_host_disarm(l);
		drain_wake_fd(l);
	}
	l->done_arming = 0;
	done = drive(l, before ? 0 : timeout_ns) + before;
	if (!l->has_thread)
		thmqi_loop_turn(l, DUTY_AWAY);
	return (int)done;
}

/* ------------------------------------------------------------------ pollers */

void thmqi_core_add_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	thmqi_list_add_tail(&loop_of(core)->pollers, &p->link);
}

void thmqi_core_add_poller_first(struct thmq_core *core, struct thmqi_poller *p)
{
	p->is_first = true;
	thmqi_list_add_tail(loop_of(core)->pollers.next, &p->link);
}

void thmqi_core_remove_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	struct loop *l = loop_of(core);

	if (l->cursor == &p->link)
		l->cursor = p->link.next;
	thmqi_list_del(&p->link);
	p->rests = false;
}

void thmqi_core_rest_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	thmqi_core_remove_poller(core, p);
	p->rests = true;
	thmqi_list_add_tail(&loop_of(core)->resting, &p->link);
}

void thmqi_core_rouse_poller(struct thmq_core *core, struct thmqi_poller *p)
{
	if (!p->rests)
		return;
	thmqi_core_remove_poller(core, p);
	if (p->is_first)
		thmqi_core_add_poller_first(core, p);
	else
		thmqi_core_add_poller(core, p);
}

/* --------------------------------------------------------------- statistics */

void thmqi_core_stats(struct thmq_core *core, struct thmq_core_stats *ret)
{
	struct loop *l = loop_of(core);

	thmqi_duty_copy(&l->duty, core->clock, &core->loops, ret);
	thmqi_polling_stats(l, ret);
	ret->core_index = core->index;
	ret->mail_sent = __atomic_load_n(&l->mail.sent, __ATOMIC_RELAXED);
	ret->mail_run = __atomic_load_n(&l->mail.run, __ATOMIC_RELAXED);
	ret->mail_refused = __atomic_load_n(&l->mail.refused, __ATOMIC_RELAXED);
	ret->posts_run = __atomic_load_n(&l->posts_run, __ATOMIC_RELAXED);
	ret->detailed = atomic_load_explicit(&l->detailed, memory_order_relaxed);
}

void thmqi_core_stats_detail(struct thmq_core *core, bool on)
{
	atomic_store_explicit(&loop_of(core)->detailed, on, memory_order_relaxed);
}

void thmqi_core_stats_reset(struct thmq_core *core)
{
	struct loop *l = loop_of(core);

	thmqi_duty_reset(&l->duty);
	thmqi_count_up(&l->mail.sent, -l->mail.sent);
	thmqi_count_up(&l->mail.run, -l->mail.run);
	thmqi_count_up(&l->mail.refused, -l->mail.refused);
	thmqi_count_up(&l->posts_run, -l->posts_run);
}

/* ------------------------------------------------------------- open, close */

static uint32_t ring_depth(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < SMALL_MEMLOCK_BYTES)
		return RING_DEPTH_SMALL;
	return RING_DEPTH;
}

int thmqi_loop_open(struct thmq_env *env, uint32_t index, struct loop **ret_loop)
{
	bool uring = !(env->opts.flags & THMQ_ENV_NO_URING) && !env->world.disk;
	struct loop *l =
		aligned_alloc(_Alignof(struct loop), sizeof(*l));
	uint64_t seed = env->world.seed;
	int rc;

	if (!l)
		return -ENOMEM;
	memset(l, 0, sizeof(*l));
	l->core.env = env;
	l->core.index = index;
	l->core.owner = &env->process->owners[index];
	l->core.clock = env->world.clock;
	l->core.world = &env->world;
	l->lead = l;
	l->epoll_fd = l->timer_fd = -1;
	l->timer_armed_ns = UINT64_MAX;
	l->next_deadline = UINT64_MAX;
	l->wake_op.done = on_wake;
	thmqi_polling_open(l);
	atomic_store(&l->core.may_sleep, !l->polling.never_sleeps);
	thmqi_list_init(&l->pollers);
	thmqi_list_init(&l->resting);
	thmqi_list_init(&l->core.givers);
	l->cursor = &l->pollers;
	thmqi_mail_init(l);
	thmqi_watch_init(l);
	if (!seed && thmqi_random_bytes(&seed, sizeof(seed)) != 0)
		seed = 1;
	thmqi_prng_seed(&l->core.prng, seed + index);
	thmqi_timers_init(&l->timers);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = thmqi_call_reserve(l);
	if (!rc)
		rc = l->wake_fd < 0 ? -errno : thmqi_place_pool_open(l, THMQ_POOL_OPTS(.high_bytes = POOL_KEEP_BYTES));
	if (rc) {
		if (l->wake_fd >= 0)
			close(l->wake_fd);
		free(l->reserved_call);
		free(l);
		return rc;
	}
	if (uring && thmqi_ring_open(ring_depth(), &l->core.ring) == 0)
		thmqi_pool_subscribe(l->core.pool, thmqi_ring_registrar(l->core.ring));
	thmqi_duty_init(&l->duty, l->core.clock->now_ns(l->core.clock->ctx));
	thmqi_loop_read_clock(l);
	thmqi_loop_turn(l, DUTY_AWAY);
	*ret_loop = l;
	return 0;
}

static void end_pollers(struct thmqi_list *list)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, list)
	{
		struct thmqi_poller *p = thmqi_container(it, struct thmqi_poller, link);

		if (p->end) {
			p->end(p);
			next = list->next; /* it may have taken others with it */
		}
	}
}

/* Who rests first: the others may know of them, and rouse them. */
void thmqi_loop_end_pollers(struct loop *l)
{
	end_pollers(&l->resting);
	end_pollers(&l->pollers);
}

void thmqi_loop_close_ring(struct loop *l)
{
	struct thmqi_ring *ring = l->core.ring;

	if (l->core.polled) {
		thmqi_pool_unsubscribe(l->core.pool, thmqi_ring_registrar(l->core.polled));
		thmqi_ring_close(l->core.polled);
		l->core.polled = NULL;
	}
	if (!ring)
		return;
	l->core.ring = NULL;
	thmqi_pool_unsubscribe(l->core.pool, thmqi_ring_registrar(ring));
	thmqi_ring_close(ring);
}

uint32_t thmqi_loop_settle(struct loop *l)
{
	uint32_t done = 0;

	l->core.in_poll = true;
	if (!thmqi_inbox_empty(l))
		done = thmqi_inbox_run(l);
	done += thmqi_mail_drain(l);
	thmqi_mail_kick_owed(l);
	l->core.in_poll = false;
	return done;
}

static void tell_leaks(struct loop *l)
{
	char text[256];

	if (thmqi_pool_leak_text(l->core.pool, text, sizeof(text)))
		thmqi_fail(0, "closed core %u, whose memory was still in use: %s", l->core.index, text);
}

uint32_t thmqi_loop_close(struct loop *l)
{
	uint32_t leaked;

	thmqi_mail_fini(l);
	thmqi_host_forget(l);
	thmqi_loop_close_ring(l);
	thmqi_watch_fini(l);
	tell_leaks(l);
	leaked = thmqi_pool_close(l->core.pool);
	close(l->wake_fd);
	thmqi_timers_fini(&l->timers);
	free(l->reserved_call);
	free(l);
	return leaked;
}
