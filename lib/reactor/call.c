/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c - run a function on another thread's core and wait for what it returns.
 *
 * A call is dropped only while nobody has begun it: once it runs, its caller waits for the end, however late,
 * since the argument is the caller's. A caller that drives a core itself is answered by a task on that core, so
 * that it serves its own work meanwhile and may sleep; any other thread sleeps on a futex.
 *
 * What closes things is called this way, and must not fail for want of memory or descriptors: a call needs none of these,
 * and without memory it waits for the one that its core has in reserve.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum { WAITING, RUNNING, DONE, DROPPED };

/* The longest sleep before the caller looks whether the other core still has an owner. */
#define NAP_NS 100000000u

struct call {
	struct thmqi_task task;  /* to the core that is called */
	struct thmqi_task reply; /* back to the caller's, if it has one */
	struct thmq_core *to;
	struct thmq_core *from; /* the caller's, or NULL: it sleeps on state */
	int (*fn)(struct thmq_core *core, void *arg);
	void *arg;
	int result;
	_Atomic uint32_t state;
	_Atomic uint32_t refs; /* caller, and the task that is under way */
};

static void call_unref(struct call *c)
{
	struct loop *l = loop_of(c->to);

	if (atomic_fetch_sub(&c->refs, 1) != 1)
		return;
	if (c == l->reserved_call)
		atomic_store(&l->free_call, c);
	else
		free(c);
}

static void futex(_Atomic uint32_t *word, int what, uint32_t value, uint64_t timeout_ns)
{
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
			     .tv_nsec = (long)(timeout_ns % 1000000000u)};

	syscall(SYS_futex, word, what, value, &t, NULL,
		0); /* whatever it says: the state is looked at again */
}

static void run_reply(struct thmq_core *core, struct thmqi_task *task)
{
	struct call *c = thmqi_container(task, struct call, reply);

	(void)core;
	atomic_store_explicit(&c->state, DONE, memory_order_release);
	call_unref(c);
}

static void run_call(struct thmq_core *core, struct thmqi_task *task)
{
	struct call *c = thmqi_container(task, struct call, task);
	uint32_t state = WAITING;

	if (!atomic_compare_exchange_strong(&c->state, &state, RUNNING)) {
		call_unref(c);
		return;
	}
	c->result = c->fn(core, c->arg);
	if (c->from) {
		c->reply.run = run_reply;
		thmqi_core_post(c->from, &c->reply);
		return;
	}
	atomic_store_explicit(&c->state, DONE, memory_order_release);
	futex(&c->state, FUTEX_WAKE_PRIVATE, 1, 0);
	call_unref(c);
}

static bool is_done(struct call *c)
{
	return atomic_load_explicit(&c->state, memory_order_acquire) == DONE;
}

/* True if it will never run now. */
static bool drop(struct call *c)
{
	uint32_t state = WAITING;

	return atomic_compare_exchange_strong(&c->state, &state, DROPPED);
}

static void nap(struct call *c, uint64_t ns)
{
	uint32_t state = atomic_load(&c->state);

	if (c->from) {
		thmqi_core_poll(c->from, ns);
		return;
	}
	if (state != DONE)
		futex(&c->state, FUTEX_WAIT_PRIVATE, state, ns);
}

static int wait_for(struct call *c, struct thmq_core *core, uint64_t timeout_ns)
{
	const struct thmqi_clock *clock = core->clock;
	uint64_t now = clock->now_ns(clock->ctx);
	uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;

	while (!is_done(c)) {
		if (now >= deadline && drop(c))
			return -ETIMEDOUT;
		if (!thmqi_core_is_driven(core) && drop(c))
			return -EDEADLK;
		nap(c, now >= deadline ? NAP_NS : THMQI_MIN(deadline - now, NAP_NS));
		now = clock->now_ns(clock->ctx);
	}
	return c->result;
}

int thmqi_call_reserve(struct loop *l)
{
	l->reserved_call = calloc(1, sizeof(struct call));
	atomic_init(&l->free_call, l->reserved_call);
	return l->reserved_call ? 0 : -ENOMEM;
}

/* NULL: there is no memory, and no time to wait for the one in reserve. */
static struct call *call_alloc(struct thmq_core *core, struct thmq_core *mine, uint64_t timeout_ns)
{
	struct timespec pause = {.tv_nsec = 50000};
	struct loop *l = loop_of(core);
	struct call *c = calloc(1, sizeof(*c));
	uint64_t waited_ns;

	for (waited_ns = 0; !c && waited_ns <= timeout_ns && thmqi_core_is_driven(core);
	     waited_ns += 50000) {
		c = atomic_exchange(&l->free_call, NULL);
		if (!c && mine)
			thmqi_core_poll(mine, 50000);
		else if (!c)
			nanosleep(&pause, NULL);
	}
	if (c)
		memset(c, 0, sizeof(*c));
	return c;
}

int thmqi_core_call(struct thmq_core *core, int (*fn)(struct thmq_core *core, void *arg), void *arg,
		    uint64_t timeout_ns)
{
	struct thmq_core *mine = thmqi_core_mine(core->env);
	struct call *c;
	int rc;

	if (mine && mine->in_poll)
		return -EDEADLK;
	if (thmqi_core_is_mine(core))
		return fn(core, arg);
	if (!thmqi_core_is_driven(core))
		return -EDEADLK;
	c = call_alloc(core, mine, timeout_ns);
	if (!c)
		return thmqi_core_is_driven(core) ? -ENOMEM : -EDEADLK;
	c->to = core;
	c->task.run = run_call;
	c->from = mine;
	c->fn = fn;
	c->arg = arg;
	atomic_init(&c->state, WAITING);
	atomic_init(&c->refs, 2);
	thmqi_core_post(core, &c->task);
	rc = wait_for(c, core, timeout_ns);
	call_unref(c);
	return rc;
}

static int nothing(struct thmq_core *core, void *arg)
{
	(void)core;
	(void)arg;
	return 0;
}

int thmqi_core_barrier(struct thmq_core *core, uint64_t timeout_ns)
{
	return thmqi_core_call(core, nothing, NULL, timeout_ns);
}
