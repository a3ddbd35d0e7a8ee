/* SPDX-License-Identifier: Apache-2.0 */
/*
 * placing.c - which processor each core of an environment gets, and the memory beside it; whether it may spin there. The order is
 * lib/topology's; this file asks for it, remembers it, and binds. Knows nothing of what a loop does.
 */
#include "internal.h"

static struct thmqi_place_request request_of(const struct thmq_env_opts *o)
{
	return (struct thmqi_place_request){.cpus = o->cpus,
					    .has_first = (o->flags & THMQ_ENV_FIRST_CPU) != 0,
					    .first = o->first_cpu,
					    .near_path = o->near_path,
					    .near_nic = o->near_nic};
}

static bool wants_devices(const struct thmqi_place_request *r)
{
	return r->near_path || r->near_nic;
}

int thmqi_place_check(const struct thmq_env_opts *o)
{
	bool chosen = o->cpus || o->near_path || o->near_nic;

	if (o->cpus && (o->flags & THMQ_ENV_FIRST_CPU))
		return thmqi_fail(
			-EINVAL,
			"environment: the cores are placed by cpus or by first_cpu, not both");
	if (chosen && (o->flags & THMQ_ENV_NO_PIN))
		return thmqi_fail(-EINVAL, "environment: with THMQ_ENV_NO_PIN no core is placed; "
					   "leave cpus, near_path and "
					   "near_nic out");
	return 0;
}

int thmqi_env_plan(const struct thmq_env_opts *opts, struct thmq_place *places, uint32_t count,
		   struct thmq_machine *ret_machine)
{
	struct thmqi_place_request request = request_of(opts);
	struct thmqi_topology *t;
	int rc = thmqi_place_check(opts);

	if (rc)
		return rc;
	rc = thmqi_topology_open(NULL, wants_devices(&request), &t);
	if (rc)
		return thmqi_fail(rc, "the machine cannot be looked at: %s", thmq_strerror(rc));
	rc = thmqi_topology_place(t, &request, count, places, ret_machine);
	thmqi_topology_close(t);
	return rc;
}

static void nowhere(struct thmq_env *env, int error)
{
	uint32_t i;

	for (i = 0; i < env->core_count; i++)
		env->places[i] = (struct thmq_place){.size = sizeof(struct thmq_place),
						     .cpu = -1,
						     .node = -1,
						     .memory_node = -1,
						     .package = -1,
						     .physical_core = -1,
						     .error = error};
}

/* Threads that spin and have no processor of their own take it from each other, and a quota from the whole process. */
static void choose_policy(struct thmq_env *env, uint32_t cpu_count)
{
	bool crowded = (cpu_count && env->core_count > cpu_count) ||
		       (env->quota_percent && env->core_count > env->quota_percent / 100);

	env->polling.crowded = crowded;
	if (crowded && env->opts.policy == THMQ_POLICY_DEFAULT)
		env->opts.policy = THMQ_POLICY_EVENT;
}

int thmqi_place_cores(struct thmq_env *env)
{
	const struct thmq_env_opts *o = &env->opts;
	struct thmqi_place_request request = request_of(o);
	bool pins = !env->caller_driven && !(o->flags & THMQ_ENV_NO_PIN);
	struct thmq_machine machine = {0};
	int rc;

	env->places = calloc(env->core_count, sizeof(*env->places));
	if (!env->places)
		return thmqi_fail(-ENOMEM, "no memory for an environment");
	nowhere(env, 0);
	if (!env->world.machine)
		env->quota_percent = thmqi_quota_percent();
	if (!pins && !request.has_first) {
		if (!env->caller_driven)
			choose_policy(env, 0);
		return 0;
	}
	rc = thmqi_topology_open(env->world.machine, wants_devices(&request), &env->topology);
	if (rc) {
		/* unpinned cores work too */
		env->topology = NULL;
		nowhere(env, pins ? rc : 0);
		return 0;
	}
	rc = thmqi_topology_place(env->topology, &request, pins ? env->core_count : 0,
				  pins ? env->places : NULL, &machine);
	if (rc || !pins)
		return rc;
	env->quota_percent = machine.quota_percent;
	choose_policy(env, machine.cpu_count);
	return 0;
}

void thmqi_place_done(struct thmq_env *env)
{
	if (env->topology)
		thmqi_topology_close(env->topology);
	env->topology = NULL;
}

int thmqi_place_pool_open(struct loop *l, const struct thmq_pool_opts *opts)
{
	struct thmq_env *env = l->core.env;
	struct thmq_place *place = &env->places[l->core.index];
	struct thmq_pool_opts near = *opts;

	/* where there is one node all memory is near */
	if (place->memory_node < 0 || thmqi_topology_is_foreign(env->topology) ||
	    thmqi_topology_node_count(env->topology) < 2)
		return thmq_pool_open(env->slabs, opts, &l->core.pool);
	near.flags |= THMQ_POOL_NODE;
	near.node = place->memory_node;
	if (thmq_pool_open(env->slabs, &near, &l->core.pool) == 0)
		return 0;
	place->memory_node = -1;
	return thmq_pool_open(env->slabs, opts, &l->core.pool);
}

void thmqi_place_bind(struct loop *l)
{
	struct thmq_env *env = l->core.env;
	struct thmq_place *place = &env->places[l->core.index];
	int rc;

	if (!env->topology || place->error)
		return;
	l->was_bound = sched_getaffinity(0, sizeof(l->bound_to), &l->bound_to) == 0;
	rc = thmqi_topology_bind(env->topology, place->cpu);
	if (rc) {
		place->error = rc;
		thmqi_topology_unbind(
			env->topology); /* not where the opening thread happens to be bound */
		return;
	}
	place->flags |= THMQ_PLACE_PINNED;
	__atomic_fetch_add(&env->pinned, 1, __ATOMIC_RELAXED);
}

void thmqi_place_unbind(struct loop *l)
{
	if (l->was_bound)
		sched_setaffinity(0, sizeof(l->bound_to), &l->bound_to);
}

int thmqi_env_node_of(const struct thmq_env *env, int cpu)
{
	return env->topology && cpu >= 0 ? thmqi_topology_node(env->topology, cpu) : -1;
}

int thmqi_env_place(const struct thmq_env *env, uint32_t index, struct thmq_place *ret)
{
	if (index >= env->core_count)
		return -EINVAL;
	*ret = env->places[index];
	return 0;
}
