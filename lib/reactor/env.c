/* SPDX-License-Identifier: Apache-2.0 */
/*
 * env.c - the environment: memory, cores, the world they live in; threads of the library where they were asked for;
 * calls from one thread to another's core.
 */
#include <limits.h>
#include <signal.h>

#include "internal.h"

/* ----------------------------------------------------------------- threads */

static void *run_core(void *arg)
{
	struct loop *l = arg;
	struct thmq_env *env = l->core.env;
	uint32_t first = env->opts.flags & THMQ_ENV_FIRST_CPU ? env->opts.first_cpu : 0;

	atomic_store(&l->core.owner, thmqi_thread_self());
	if (env->topology && thmqi_topology_bind(env->topology, first + l->core.index) == 0)
		__atomic_fetch_add(&env->pinned, 1, __ATOMIC_RELAXED);
	while (!atomic_load_explicit(&l->stop, memory_order_acquire))
		thmqi_core_poll(&l->core, UINT64_MAX);
	atomic_store(&l->core.owner, 0);
	return NULL;
}

static int start_thread(struct loop *l)
{
	sigset_t all, old;
	pthread_attr_t attr;
	char name[16];
	int rc;

	/* signals are the host's: its threads take them, not ours */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THMQI_MAX((size_t)PTHREAD_STACK_MIN, (size_t)512 << 10));
	rc = pthread_create(&l->thread, &attr, run_core, l);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	l->has_thread = true;
	memcpy(name, "thmq-core", 10);
	pthread_setname_np(l->thread, name);
	while (!atomic_load(&l->core.owner))
		sched_yield();
	return 0;
}

static int stop_core(struct thmq_core *core, void *arg)
{
	(void)arg;
	atomic_store_explicit(&loop_of(core)->stop, true, memory_order_release);
	return 0;
}

/* -------------------------------------------------------------- open, close */

int thmqi_env_open(const struct thmq_env_opts *opts, const struct thmqi_world *world, struct thmq_env **ret_env)
{
	uint64_t bytes = opts->pool_bytes ? opts->pool_bytes : 1ull << 30;
	struct thmq_env *env = calloc(1, sizeof(*env));
	uint32_t i;
	int rc;

	if (!env)
		return thmqi_fail(-ENOMEM, "no memory for an environment");
	env->handle.kind = THMQI_HANDLE_ENV;
	env->opts = *opts;
	if (world)
		env->world = *world;
	if (!env->world.clock)
		env->world.clock = &thmqi_clock_real;
	env->caller_driven = opts->core_count == 0;
	env->core_count = opts->core_count ? opts->core_count : opts->caller_cores ? opts->caller_cores : 1;
	rc = thmqi_slabs_open(bytes, &env->slabs);
	if (rc) {
		thmqi_fail(rc, "reserve %llu bytes of address space: %s", (unsigned long long)bytes,
			   thmq_strerror(rc));
		free(env);
		return rc;
	}
	if (!env->caller_driven && !(opts->flags & THMQ_ENV_NO_PIN) && thmqi_topology_open(&env->topology) != 0)
		env->topology = NULL; /* unpinned cores work too */
	for (i = 0; i < env->core_count; i++) {
		rc = thmqi_loop_open(env, i, &env->loops[i]);
		if (rc) {
			thmqi_fail(rc, "open core %u: %s", i, thmq_strerror(rc));
			goto fail;
		}
	}
	for (i = 0; !env->caller_driven && i < env->core_count; i++) {
		rc = start_thread(env->loops[i]);
		if (rc) {
			thmqi_fail(rc, "start the thread of core %u: %s", i, thmq_strerror(rc));
			goto fail;
		}
	}
	if (env->caller_driven)
		atomic_store(&env->loops[0]->core.owner, thmqi_thread_self());
	*ret_env = env;
	return 0;
fail:
	thmqi_env_close(env);
	return rc;
}

int thmqi_env_close(struct thmq_env *env)
{
	uint32_t i, leaked = 0;

	for (i = 0; i < env->core_count; i++)
		if (env->loops[i] && env->loops[i]->has_thread) {
			thmqi_core_call(&env->loops[i]->core, stop_core, NULL, UINT64_MAX);
			pthread_join(env->loops[i]->thread, NULL);
		}
	for (i = 0; i < env->core_count; i++)
		if (env->loops[i])
			leaked += thmqi_loop_close(env->loops[i]);
	if (env->topology)
		thmqi_topology_close(env->topology);
	thmqi_slabs_close(env->slabs);
	env->handle.kind = THMQI_HANDLE_CLOSED;
	free(env);
	return (int)leaked;
}

/* ------------------------------------------------------------------- access */

uint32_t thmqi_env_core_count(const struct thmq_env *env)
{
	return env->core_count;
}

struct thmq_core *thmqi_env_core(struct thmq_env *env, uint32_t index)
{
	return index < env->core_count ? &env->loops[index]->core : NULL;
}

const struct thmqi_world *thmqi_env_world(const struct thmq_env *env)
{
	return &env->world;
}

bool thmqi_env_is_caller_driven(const struct thmq_env *env)
{
	return env->caller_driven;
}

uint32_t thmqi_env_flags(const struct thmq_env *env)
{
	return env->opts.flags;
}

void **thmqi_env_user(struct thmq_env *env)
{
	return &env->user;
}

#define counter(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

void thmqi_env_stats(struct thmq_env *env, struct thmq_env_stats *ret)
{
	struct thmqi_slabs_stats slabs;
	struct thmqi_pool_stats pool;
	uint32_t i;

	thmqi_slabs_stats(env->slabs, &slabs);
	ret->core_count = env->core_count;
	ret->pinned_cores = counter(env->pinned);
	ret->registered_memory = slabs.registrations > 0 && slabs.registration_failures == 0;
	ret->huge_pages = slabs.huge;
	ret->pool_bytes = slabs.bytes;
	for (i = 0; i < env->core_count; i++) {
		struct loop *l = env->loops[i];

		thmqi_pool_stats(l->core.pool, &pool);
		ret->uring_cores += l->core.ring != NULL;
		ret->pool_in_use_bytes += pool.in_use;
		ret->loops += counter(l->core.loops);
		ret->sleeps += counter(l->core.sleeps);
		ret->wakeups += atomic_load_explicit(&l->wakeups_sent, memory_order_relaxed);
		ret->writes += counter(l->core.writes);
		ret->write_bytes += counter(l->core.write_bytes);
		ret->flushes += counter(l->core.flushes);
		ret->reads += counter(l->core.reads);
		ret->read_bytes += counter(l->core.read_bytes);
	}
}

/* ---------------------------------------------------------------- ownership */

struct thmq_core *thmqi_core_mine(struct thmq_env *env)
{
	uint32_t i;

	for (i = 0; i < env->core_count; i++)
		if (thmqi_core_is_mine(&env->loops[i]->core))
			return &env->loops[i]->core;
	return NULL;
}

int thmqi_core_attach(struct thmq_env *env, uint32_t index)
{
	uint64_t nobody = 0, self = thmqi_thread_self();

	if (!env->caller_driven)
		return -EPERM;
	if (index >= env->core_count)
		return -EINVAL;
	if (thmqi_core_is_mine(&env->loops[index]->core))
		return 0;
	if (thmqi_core_mine(env))
		return -EBUSY; /* one core a thread */
	return atomic_compare_exchange_strong(&env->loops[index]->core.owner, &nobody, self) ? 0 : -EBUSY;
}

int thmqi_core_detach(struct thmq_env *env)
{
	struct thmq_core *core = thmqi_core_mine(env);

	if (!core || !env->caller_driven)
		return -EPERM;
	if (core->in_poll)
		return -EDEADLK;
	if (core->ring)
		thmqi_ring_detach(core->ring);
	thmqi_loop_forget_fd(loop_of(core)); /* the next owner's ring has another descriptor */
	atomic_store(&core->owner, 0);
	return 0;
}

/* ------------------------------------------------------------------- calls */

struct call {
	struct thmqi_task task;
	int (*fn)(struct thmq_core *core, void *arg);
	void *arg;
	int result;
	_Atomic uint32_t refs; /* caller and callee */
	_Atomic bool done;
	struct thmqi_waiter waiter;
};

static void call_unref(struct call *c)
{
	if (atomic_fetch_sub(&c->refs, 1) == 1) {
		thmqi_waiter_fini(&c->waiter);
		free(c);
	}
}

static void run_call(struct thmq_core *core, struct thmqi_task *task)
{
	struct call *c = thmqi_container(task, struct call, task);

	c->result = c->fn(core, c->arg);
	atomic_store_explicit(&c->done, true, memory_order_release);
	thmqi_waiter_kick(&c->waiter);
	call_unref(c);
}

static void wait_for_call(struct call *c, struct thmq_core *mine, const struct thmqi_clock *clock,
			  uint64_t deadline)
{
	while (!atomic_load_explicit(&c->done, memory_order_acquire)) {
		uint64_t now = clock->now_ns(clock->ctx);

		if (now >= deadline)
			return;
		if (mine) { /* the answer may need this core's work */
			if (thmqi_core_poll(mine, 0) == 0)
				sched_yield();
			continue;
		}
		thmqi_waiter_arm(&c->waiter);
		if (!atomic_load_explicit(&c->done, memory_order_acquire))
			thmqi_waiter_sleep(&c->waiter, THMQI_MIN(deadline - now, 100000000ull));
		thmqi_waiter_disarm(&c->waiter);
	}
}

int thmqi_core_call(struct thmq_core *core, int (*fn)(struct thmq_core *core, void *arg), void *arg,
		    uint64_t timeout_ns)
{
	struct thmq_core *mine = thmqi_core_mine(core->env);
	uint64_t now = core->clock->now_ns(core->clock->ctx);
	struct call *c;
	int rc;

	if (mine && mine->in_poll)
		return -EDEADLK;
	if (mine == core)
		return fn(core, arg);
	if (atomic_load(&core->owner) == 0)
		return -EDEADLK;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	rc = thmqi_waiter_init(&c->waiter);
	if (rc) {
		free(c);
		return rc;
	}
	c->task.run = run_call;
	c->fn = fn;
	c->arg = arg;
	atomic_store(&c->refs, 2);
	thmqi_core_post(core, &c->task);
	wait_for_call(c, mine, core->clock, timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns);
	rc = atomic_load_explicit(&c->done, memory_order_acquire) ? c->result : -ETIMEDOUT;
	call_unref(c);
	return rc;
}
