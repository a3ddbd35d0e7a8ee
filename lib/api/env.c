/* SPDX-License-Identifier: Apache-2.0 */
/* env.c - the public face of environments: checks, then calls down. */
#include "api/api.h"
#include "broker/broker.h"
#include "client/client.h"
#include "rdma/rdma.h"

#define ENV_FLAGS                                                                                  \
	(THMQ_ENV_FIRST_CPU | THMQ_ENV_NO_PIN | THMQ_ENV_ALLOW_THREADS | THMQ_ENV_NO_URING | THMQ_ENV_LOCK_MEMORY)

struct thmqi_api *thmqi_api_of(struct thmq_env *env)
{
	return *thmqi_env_user(env);
}

int thmqi_api_note(struct thmqi_api *api, struct thmqi_list *list, void *handle)
{
	struct thmqi_open *o = malloc(sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->handle = handle;
	pthread_mutex_lock(&api->lock);
	thmqi_list_add_tail(list, &o->link);
	pthread_mutex_unlock(&api->lock);
	return 0;
}

void thmqi_api_forget(struct thmqi_api *api, struct thmqi_list *list, void *handle)
{
	struct thmqi_list *it, *tmp;

	pthread_mutex_lock(&api->lock);
	thmqi_list_each_safe(it, tmp, list)
	{
		struct thmqi_open *o = thmqi_container(it, struct thmqi_open, link);

		if (o->handle == handle) {
			thmqi_list_del(&o->link);
			free(o);
		}
	}
	pthread_mutex_unlock(&api->lock);
}

/* The oldest entry, or NULL. It stays on the list until its close forgets it. */
static void *first_of(struct thmqi_api *api, struct thmqi_list *list)
{
	void *handle = NULL;

	pthread_mutex_lock(&api->lock);
	if (!thmqi_list_empty(list))
		handle = thmqi_list_first(list, struct thmqi_open, link)->handle;
	pthread_mutex_unlock(&api->lock);
	return handle;
}

void (thmq_env_opts_init)(struct thmq_env_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmqi_api_env_check(const struct thmq_env_opts *o)
{
	if (o->flags & ~ENV_FLAGS)
		return thmqi_fail(-EINVAL, "environment: unknown flags %#x", o->flags & ~ENV_FLAGS);
	if (o->core_count > THMQ_CORE_COUNT_MAX || o->caller_cores > THMQ_CORE_COUNT_MAX)
		return thmqi_fail(-EINVAL, "environment: at most %u cores", THMQ_CORE_COUNT_MAX);
	if (o->core_count && o->caller_cores)
		return thmqi_fail(-EINVAL, "environment: cores are the library's (core_count) or the caller's "
					   "(caller_cores), not both");
	if (o->policy > THMQ_POLICY_PREDICTIVE)
		return thmqi_fail(-EINVAL, "environment: unknown policy %u", o->policy);
	if (o->first_cpu && !(o->flags & THMQ_ENV_FIRST_CPU))
		return thmqi_fail(-EINVAL, "environment: first_cpu needs the flag THMQ_ENV_FIRST_CPU");
	if (o->pool_bytes && o->pool_bytes < (64ull << 20))
		return thmqi_fail(-EINVAL, "environment: pool_bytes is at least 64 MiB");
	if (o->pool_bytes > (1ull << 36))
		return thmqi_fail(-EINVAL, "environment: pool_bytes is at most 64 GiB");
	return 0;
}

int thmqi_api_env_open(const struct thmq_env_opts *opts, const struct thmqi_world *world, struct thmq_env **ret_env)
{
	uint32_t texts = thmqi_fail_count();
	struct thmq_env_opts o;
	struct thmqi_api *api;
	struct thmq_env *env;
	int rc;

	if (!ret_env)
		return thmqi_fail(-EINVAL, "environment: no place for the handle");
	rc = thmqi_opts_copy(&o, sizeof(o), opts);
	if (rc)
		return thmqi_fail(rc, "environment: options: %s", thmqi_opts_why(rc));
	rc = thmqi_api_env_check(&o);
	if (rc)
		return rc;
	api = calloc(1, sizeof(*api));
	if (!api)
		return thmqi_fail(-ENOMEM, "no memory for an environment");
	rc = thmqi_env_open(&o, world, &env);
	if (rc) {
		free(api);
		return thmqi_fail_count() == texts ? thmqi_fail(rc, "open an environment: %s", thmq_strerror(rc)) : rc;
	}
	rc = thmqi_transport_open(env, &api->transport);
	if (!rc)
		thmqi_transport_add(api->transport, &thmqi_medium_rdma);
	if (rc) {
		thmqi_env_close(env);
		free(api);
		return thmqi_fail(rc, "no memory for an environment");
	}
	thmqi_graveyard_init(&api->graveyard);
	pthread_mutex_init(&api->lock, NULL);
	thmqi_list_init(&api->sessions);
	thmqi_list_init(&api->brokers);
	*thmqi_env_user(env) = api;
	*ret_env = env;
	return 0;
}

int thmq_env_open(struct thmq_env **ret_env, const struct thmq_env_opts *opts)
{
	return thmqi_api_env_open(opts, NULL, ret_env);
}

int thmqi_api_not_open(const char *what)
{
	return thmqi_fail(-EINVAL, "not an open %s of this process (a child of fork() has none of its parent's)", what);
}

static int bad_env(void)
{
	return thmqi_api_not_open("environment");
}

/* Before anything of it is closed. */
static int can_close(struct thmqi_api *api)
{
	struct thmqi_list *it, *tmp;
	int rc = 0;

	pthread_mutex_lock(&api->lock);
	thmqi_list_each_safe(it, tmp, &api->brokers)
	{
		struct thmq_broker *b = thmqi_container(it, struct thmqi_open, link)->handle;

		if (!rc && thmqi_handle_is(b, THMQI_HANDLE_BROKER))
			rc = thmqi_broker_can_close(b);
	}
	pthread_mutex_unlock(&api->lock);
	return rc;
}

#define LAST_ROUNDS 1024u /* of a core that is closed: a poller of the host may always have something to do */

int thmq_env_close(struct thmq_env *env, uint64_t timeout_ns)
{
	const struct thmqi_clock *clock;
	uint64_t now, deadline;
	struct thmq_core *mine;
	struct thmqi_api *api;
	uint32_t rounds;
	void *handle;
	int rc = 0, one;

	if (!env)
		return 0;
	if (!thmqi_api_is_env(env))
		return bad_env();
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return thmqi_fail(-EDEADLK, "an environment cannot be closed from one of its own callbacks");
	api = thmqi_api_of(env);
	rc = can_close(api);
	if (rc)
		return rc;
	clock = thmqi_env_core(env, 0)->clock;
	now = clock->now_ns(clock->ctx);
	deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
	while ((handle = first_of(api, &api->sessions))) {
		now = clock->now_ns(clock->ctx);
		one = thmq_session_close(handle, deadline > now ? deadline - now : 0);
		if (one == -EDEADLK) /* a core has lost its thread meanwhile: what is left stays as it is */
			return one;
		rc = rc ? rc : one;
		thmqi_api_forget(api, &api->sessions, handle);
	}
	while ((handle = first_of(api, &api->brokers))) {
		now = clock->now_ns(clock->ctx);
		one = thmq_broker_close(handle, deadline > now ? deadline - now : 0);
		if (one == -EDEADLK)
			return one;
		rc = rc ? rc : one;
		thmqi_api_forget(api, &api->brokers, handle);
	}
	/* links drop their last reference on their cores: let those run once more */
	for (rounds = 0; mine && rounds < LAST_ROUNDS && thmqi_core_poll(mine, 0) > 0;)
		rounds++;
	*thmqi_env_user(env) = NULL;
	thmqi_env_close(env);
	thmqi_transport_close(api->transport);
	thmqi_graveyard_fini(&api->graveyard);
	pthread_mutex_destroy(&api->lock);
	free(api);
	return rc;
}

int thmq_core_attach(struct thmq_env *env, uint32_t core_index)
{
	int rc;

	if (!thmqi_api_is_env(env))
		return bad_env();
	rc = thmqi_core_attach(env, core_index);
	if (rc == -EPERM)
		return thmqi_fail(rc, "the cores of this environment are driven by threads of the library");
	if (rc == -EINVAL)
		return thmqi_fail(rc, "there is no core %u: the environment has %u", core_index,
				  thmqi_env_core_count(env));
	if (rc == -EDEADLK)
		return thmqi_fail(rc, "a core cannot be taken from one of its thread's callbacks");
	if (rc == -EBUSY)
		return thmqi_fail(rc, "core %u is another thread's, which has to detach it first", core_index);
	return rc ? thmqi_fail(rc, "attach core %u: %s", core_index, thmq_strerror(rc)) : 0;
}

int thmq_core_detach(struct thmq_env *env)
{
	int rc;

	if (!thmqi_api_is_env(env))
		return bad_env();
	rc = thmqi_core_detach(env);
	return rc ? thmqi_fail(rc, "this thread owns no core of the environment that it could give up now") : 0;
}

int thmq_poll(struct thmq_env *env, uint64_t timeout_ns)
{
	struct thmq_core *core;

	if (!thmqi_api_is_env(env))
		return -EINVAL;
	core = thmqi_core_mine(env);
	return core ? thmqi_core_poll(core, timeout_ns) : -EPERM;
}

int thmq_env_fd(struct thmq_env *env)
{
	struct thmq_core *core;

	if (!thmqi_api_is_env(env))
		return bad_env();
	core = thmqi_core_mine(env);
	return core ? thmqi_core_fd(core) : thmqi_fail(-EPERM, "this thread owns no core of the environment");
}

int thmq_env_arm(struct thmq_env *env)
{
	struct thmq_core *core;

	if (!thmqi_api_is_env(env))
		return bad_env();
	core = thmqi_core_mine(env);
	return core ? thmqi_core_arm(core) : thmqi_fail(-EPERM, "this thread owns no core of the environment");
}

int thmq_env_stats(struct thmq_env *env, struct thmq_env_stats *ret_stats)
{
	struct thmq_env_stats stats = {0};

	if (!thmqi_api_is_env(env))
		return bad_env();
	if (!ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return thmqi_fail(-EINVAL, "stats: set the size field first");
	thmqi_env_stats(env, &stats);
	stats.size = ret_stats->size;
	memset((char *)ret_stats, 0, stats.size);
	memcpy(ret_stats, &stats, THMQI_MIN(stats.size, (uint32_t)sizeof(stats)));
	return 0;
}
