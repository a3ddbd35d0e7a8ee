/* SPDX-License-Identifier: Apache-2.0 */
/*
 * env.c - the environment: memory, cores, the world they live in; who owns which core; threads of the library where
 * they were asked for. Knows nothing of what runs on a core.
 */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#include "internal.h"
#include "predict.h"
#include "reactor/process.h"

/* The default limit: address space until it is used. A core takes whole slabs, and a shard with the defaults some of them. */
#define POOL_BYTES (1ull << 30)
#define POOL_BYTES_PER_CORE (128ull << 20)
#define STACK_BYTES                                                                                \
	((size_t)512 << 10) /* callbacks of the rooms above are shallow; pages come when touched */
#define RING_TRIES 500u     /* milliseconds */
#define SETTLE_ROUNDS 4096u /* of an environment that closes: far more than one thing can lead to another */
#define ENV_FLAGS                                                                                  \
	(THMQ_ENV_FIRST_CPU | THMQ_ENV_NO_PIN | THMQ_ENV_ALLOW_THREADS | THMQ_ENV_NO_URING | \
	 THMQ_ENV_LOCK_MEMORY)

/* ----------------------------------------------------------------- threads */

static void *run_core(void *arg)
{
	struct loop *l = arg;

	thmqi_place_bind(l);
	/* a ring that this thread may not drive is none: the disk engines then do without */
	if (l->core.ring && thmqi_ring_attach(l->core.ring) != 0)
		thmqi_loop_close_ring(l);
	atomic_store(l->core.owner, thmqi_thread_self());
	while (!l->stop)
		thmqi_core_poll(&l->core, UINT64_MAX);
	thmqi_loop_end_pollers(l);
	thmqi_loop_close_ring(l); /* here, since the ring's tables are this thread's to give back */
	thmqi_place_unbind(l);
	atomic_store(l->core.owner, 0);
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
	pthread_attr_setstacksize(&attr, THMQI_MAX((size_t)PTHREAD_STACK_MIN, STACK_BYTES));
	l->has_thread = true;
	rc = pthread_create(&l->thread, &attr, run_core, l);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		l->has_thread = false;
		return -rc;
	}
	snprintf(name, sizeof(name), "thmq-core-%u", l->core.index);
	pthread_setname_np(l->thread, name);
	while (!atomic_load(l->core.owner))
		sched_yield();
	return 0;
}

static void run_shut(struct thmq_core *core, struct thmqi_task *task)
{
	struct loop *l = loop_of(core);

	(void)task;
	l->mail.shut = true;
	atomic_store(&l->shut, true);
}

/* Before any core ends: what one has sent, the others will run. */
static void shut_mail(struct loop *l)
{
	if (!l->has_thread) {
		l->mail.shut = true;
		return;
	}
	l->stop_task.run = run_shut;
	thmqi_core_post(&l->core, &l->stop_task);
	while (!atomic_load(&l->shut))
		sched_yield();
}

static void run_stop(struct thmq_core *core, struct thmqi_task *task)
{
	struct loop *l = loop_of(core);

	(void)task;
	thmqi_mail_drain(l);
	l->stop = true;
}

/* By a task that lies ready in the loop, so that nothing can be missing when it has to end. */
static void stop_thread(struct loop *l)
{
	if (!l->has_thread)
		return;
	l->stop_task.run = run_stop;
	thmqi_core_post(&l->core, &l->stop_task);
	pthread_join(l->thread, NULL);
	l->has_thread = false;
}

/* -------------------------------------------------------------- open, close */

static int check_opts(const struct thmq_env_opts *opts)
{
	if (opts->flags & ~ENV_FLAGS)
		return thmqi_fail(-EINVAL, "open an environment: unknown flags 0x%x",
				  opts->flags & ~ENV_FLAGS);
	if (opts->core_count > THMQ_CORE_COUNT_MAX || opts->caller_cores > THMQ_CORE_COUNT_MAX)
		return thmqi_fail(-EINVAL, "open an environment: at most %u cores",
				  THMQ_CORE_COUNT_MAX);
	if (thmqi_polling_check(opts) != 0)
		return -EINVAL;
	if ((opts->cpus || opts->near_path || opts->near_nic) && !opts->core_count)
		return thmqi_fail(-EINVAL, "open an environment: cpus, near_path and near_nic are for cores that threads of the "
					   "library drive (core_count)");
	return thmqi_place_check(opts);
}

static int open_cores(struct thmq_env *env)
{
	uint32_t i;
	int rc;

	rc = thmqi_place_cores(env);
	if (!rc)
		thmqi_polling_rules(&env->opts, &env->world, &env->polling);
	for (i = 0; i < env->core_count && !rc; i++) {
		rc = thmqi_loop_open(env, i, &env->loops[i]);
		if (rc)
			thmqi_fail(rc, "open core %u: %s", i, thmq_strerror(rc));
	}
	if (!rc && env->opts.policy == THMQ_POLICY_PREDICTIVE)
		rc = thmqi_predict_open(env);
	if (!rc && env->caller_driven)
		atomic_store(env->loops[0]->core.owner, thmqi_thread_self());
	for (i = 0; !env->caller_driven && i < env->core_count && rc == 0; i++) {
		rc = start_thread(env->loops[i]);
		if (rc)
			thmqi_fail(rc, "start the thread of core %u: %s", i, thmq_strerror(rc));
	}
	thmqi_place_done(env);
	return rc;
}

/* Source: madvise(2), MADV_WIPEONFORK. */
static int note_process(struct thmq_env *env)
{
	struct process_page *page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return -ENOMEM;
	madvise(page, sizeof(*page), MADV_WIPEONFORK);
	page->here = 1;
	env->process = page;
	return 0;
}

bool thmqi_env_is_here(const struct thmq_env *env)
{
	return __atomic_load_n(&env->process->here, __ATOMIC_RELAXED);
}

int thmqi_env_open(const struct thmq_env_opts *opts, const struct thmqi_world *world,
		   struct thmq_env **ret_env)
{
	static const struct thmq_env_opts defaults = {.size = sizeof(defaults)};
	struct thmq_env *env;
	uint64_t bytes;
	int rc;

	opts = opts ? opts : &defaults;
	rc = check_opts(opts);
	if (rc)
		return rc;
	env = calloc(1, sizeof(*env));
	if (!env)
		return thmqi_fail(-ENOMEM, "no memory for an environment");
	env->handle.kind = THMQI_HANDLE_ENV;
	env->opts = *opts;
	if (world)
		env->world = *world;
	if (!env->world.clock)
		env->world.clock = &thmqi_clock_real;
	env->caller_driven = opts->core_count == 0;
	env->core_count = opts->core_count     ? opts->core_count
			  : opts->caller_cores ? opts->caller_cores
					       : 1;
	bytes = opts->pool_bytes ? opts->pool_bytes : THMQI_MAX(POOL_BYTES, env->core_count * POOL_BYTES_PER_CORE);
	rc = note_process(env);
	if (rc) {
		free(env);
		return thmqi_fail(rc, "no memory for an environment");
	}
	rc = thmqi_slabs_open(bytes, &env->slabs);
	if (rc) {
		thmqi_fail(rc, "reserve %llu bytes of address space: %s", (unsigned long long)bytes,
			   thmq_strerror(rc));
		munmap(env->process, sizeof(*env->process));
		free(env);
		return rc;
	}
	if (opts->flags & THMQ_ENV_LOCK_MEMORY)
		thmqi_slabs_lock(env->slabs);
	pthread_mutex_init(&env->devices.lock, NULL);
	rc = open_cores(env);
	env->opts.cpus = env->opts.near_path = env->opts.near_nic = NULL; /* the caller's */
	if (rc) {
		thmqi_env_close(env);
		return rc;
	}
	*ret_env = env;
	return 0;
}

/* Whatever goes from one core to another has to be there before the first of them is gone. A task that posts itself again and again
 * does not hold that up. */
static void settle(struct thmq_env *env, uint32_t count)
{
	uint32_t i, done, rounds = 0;

	do {
		for (i = 0, done = 0; i < count; i++)
			done += thmqi_loop_settle(env->loops[i]);
	} while (done && ++rounds < SETTLE_ROUNDS);
}

int thmqi_env_close(struct thmq_env *env)
{
	uint32_t i, count = 0, leaked = 0;

	while (count < env->core_count && env->loops[count])
		count++;
	for (i = 0; i < count; i++)
		shut_mail(env->loops[i]);
	for (i = 0; i < count; i++)
		stop_thread(env->loops[i]);
	thmqi_predict_close(env);
	for (i = 0; i < count; i++)
		atomic_store(env->loops[i]->core.owner, thmqi_thread_self());
	settle(env, count);
	for (i = 0; i < count; i++)
		thmqi_loop_end_pollers(env->loops[i]);
	settle(env, count);
	for (i = 0; i < count; i++)
		leaked += thmqi_loop_close(env->loops[i]);
	thmqi_slabs_close(env->slabs);
	pthread_mutex_destroy(&env->devices.lock);
	env->handle.kind = THMQI_HANDLE_CLOSED;
	munmap(env->process, sizeof(*env->process));
	free(env->places);
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

struct thmqi_slabs *thmqi_env_slabs(const struct thmq_env *env)
{
	return env->slabs;
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

uint32_t thmqi_env_policy(const struct thmq_env *env)
{
	return thmqi_polling_policy(env->opts.policy);
}

struct thmqi_device_notes *thmqi_env_device_notes(struct thmq_env *env)
{
	return &env->devices;
}

void **thmqi_env_user(struct thmq_env *env)
{
	return &env->user;
}

#define counter(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

void thmqi_env_memory(struct thmq_env *env, uint64_t *ret_bytes, uint64_t *ret_in_use)
{
	struct thmqi_pool_stats pool;
	uint32_t i;

	*ret_bytes = thmqi_slabs_bytes(env->slabs);
	*ret_in_use = 0;
	for (i = 0; i < env->core_count; i++) {
		thmqi_pool_stats(env->loops[i]->core.pool, &pool);
		*ret_in_use += pool.in_use;
	}
}

void thmqi_env_stats(struct thmq_env *env, struct thmq_env_stats *ret)
{
	struct thmqi_slabs_stats slabs;
	uint32_t i, size = ret->size;

	memset(ret, 0, sizeof(*ret));
	ret->size = size;
	thmqi_slabs_stats(env->slabs, &slabs);
	ret->core_count = env->core_count;
	ret->pinned_cores = counter(env->pinned);
	ret->registered_memory = slabs.registrations > 0 && slabs.registration_failures == 0;
	ret->huge_pages = slabs.huge;
	thmqi_env_memory(env, &ret->pool_bytes, &ret->pool_in_use_bytes);
	ret->locked_bytes = slabs.locked_bytes;
	ret->quota_percent = env->quota_percent;
	ret->policy = thmqi_env_policy(env);
	for (i = 0; i < env->core_count; i++) {
		struct loop *l = env->loops[i];

		ret->uring_cores += l->core.ring != NULL;
		ret->polled_cores += counter(l->core.polled) != NULL;
		if (l->core.ring) {
			ret->single_issuer_cores += thmqi_ring_is_single_issuer(l->core.ring);
			ret->defer_taskrun_cores += thmqi_ring_defers_taskrun(l->core.ring);
		}
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

/* Of several cores of a thread it is the one that leads, by which all are driven. */
struct thmq_core *thmqi_core_mine(struct thmq_env *env)
{
	/* where the thread found its core last: an index, which cannot dangle as a pointer could */
	static _Thread_local uint32_t last;
	uint32_t i;

	if (thmqi_likely(last < env->core_count && thmqi_core_is_mine(&env->loops[last]->core)))
		return &env->loops[last]->lead->core;
	for (i = 0; i < env->core_count; i++)
		if (thmqi_core_is_mine(&env->loops[i]->core)) {
			last = i;
			return &env->loops[i]->lead->core;
		}
	return NULL;
}

/* A ring that changes hands is built anew, and under a low limit of locked memory there is room for both only once
 * the kernel has cleaned up behind those closed before, which it does a little later. */
static int attach_ring(struct thmqi_ring *ring)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	uint32_t tries = RING_TRIES;
	int rc;

	while ((rc = thmqi_ring_attach(ring)) == -ENOMEM && --tries)
		nanosleep(&pause, NULL);
	return rc;
}

static void let_go(struct loop *l)
{
	thmqi_host_forget(l); /* the next owner's ring has another descriptor */
	if (l->core.ring)
		thmqi_ring_detach(l->core.ring);
	if (l->core.polled)
		thmqi_ring_detach(l->core.polled);
	l->lead = l;
	l->mates = NULL;
	atomic_store(l->core.owner, 0);
}

int thmqi_core_attach(struct thmq_env *env, uint32_t index)
{
	uint64_t nobody = 0, self = thmqi_thread_self();
	struct thmq_core *core, *mine;
	int rc;

	if (!env->caller_driven)
		return -EPERM;
	if (index >= env->core_count)
		return -EINVAL;
	core = &env->loops[index]->core;
	if (thmqi_core_is_mine(core))
		return 0;
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return -EDEADLK;
	if (!atomic_compare_exchange_strong(core->owner, &nobody, self))
		return -EBUSY;
	rc = core->ring ? attach_ring(core->ring) : 0;
	if (rc) {
		atomic_store(core->owner, 0);
		return rc;
	}
	rc = mine ? thmqi_mates_join(loop_of(mine), loop_of(core)) : 0;
	if (rc)
		let_go(loop_of(core));
	return rc;
}

int thmqi_core_detach(struct thmq_env *env)
{
	struct thmq_core *core = thmqi_core_mine(env);
	struct loop *l, *next;

	if (!core || !env->caller_driven)
		return -EPERM;
	if (core->in_poll)
		return -EDEADLK;
	for (l = loop_of(core); l; l = next) {
		next = l->mates;
		let_go(l);
	}
	return 0;
}
