/* SPDX-License-Identifier: Apache-2.0 */
/* core.c - the public face of cores for those who build on them: tasks, calls, timers and pollers; checks, then calls down. */
#include <thundermq/reactor.h>

#include "api/api.h"

_Static_assert(sizeof(struct thmq_task) == 24 && sizeof(struct thmqi_task) <= 16,
	       "the inner task lies in internal");
_Static_assert(sizeof(struct thmq_poller_ops) == 56 && offsetof(struct thmq_poller_ops, name) == 48,
	       "public layout");

struct thmq_core *thmq_env_core(struct thmq_env *env, uint32_t core_index)
{
	struct thmq_core *core;

	if (!thmqi_api_is_env(env)) {
		thmqi_api_not_open("environment");
		return NULL;
	}
	core = thmqi_env_core(env, core_index);
	if (!core)
		thmqi_fail(-EINVAL, "there is no core %u: the environment has %u", core_index,
			   thmqi_env_core_count(env));
	return core;
}

int thmq_core_is_mine(const struct thmq_core *core)
{
	return core && thmqi_core_is_mine(core);
}

/* -------------------------------------------------------------------- calls */

int thmq_core_call(struct thmq_core *core, int (*fn)(struct thmq_core *core, void *arg), void *arg,
		   uint64_t timeout_ns)
{
	if (!core || !fn)
		return thmqi_fail(-EINVAL, "a call needs a core and a function");
	return thmqi_core_call(core, fn, arg, timeout_ns);
}

static void run_task(struct thmq_core *core, struct thmqi_task *inner)
{
	struct thmq_task *task = thmqi_container((void *)inner, struct thmq_task, internal);

	task->run(core, task);
}

int thmq_core_post(struct thmq_core *core, struct thmq_task *task)
{
	struct thmqi_task *inner;

	if (!core || !task || !task->run)
		return -EINVAL;
	inner = (struct thmqi_task *)(void *)task->internal;
	inner->run = run_task;
	thmqi_core_post(core, inner);
	return 0;
}

/* ------------------------------------------------------------------- timers */

struct timer {
	struct thmqi_timer inner;
	struct thmq_core *core; /* of its last start */
};
_Static_assert(sizeof(struct thmq_timer) == 64 && sizeof(struct timer) <= 48,
	       "the inner timer lies in internal");

static struct timer *timer_of(struct thmq_timer *timer)
{
	return (struct timer *)(void *)timer->internal;
}

static void fire_timer(struct thmqi_timer *inner)
{
	struct timer *t = thmqi_container(inner, struct timer, inner);
	struct thmq_timer *timer = thmqi_container((void *)t, struct thmq_timer, internal);

	timer->fire(t->core, timer);
}

int64_t thmq_core_now_ns(struct thmq_core *core)
{
	if (!core)
		return -EINVAL;
	if (!thmqi_core_is_mine(core))
		return -EPERM;
	return (int64_t)(core->in_poll ? core->now_ns : core->clock->now_ns(core->clock->ctx));
}

int thmq_timer_start(struct thmq_core *core, struct thmq_timer *timer, uint64_t deadline_ns)
{
	struct timer *t;

	if (!core || !timer || !timer->fire)
		return -EINVAL;
	if (!thmqi_core_is_mine(core))
		return -EPERM;
	t = timer_of(timer);
	if (t->core != core) {
		if (thmqi_timer_is_running(&t->inner))
			return -EBUSY;
		t->core = core;
	}
	t->inner.fire = fire_timer;
	timer->deadline_ns = deadline_ns;
	thmqi_timer_start(core, &t->inner, deadline_ns);
	return 0;
}

int thmq_timer_stop(struct thmq_timer *timer)
{
	struct timer *t = timer ? timer_of(timer) : NULL;

	if (!t || !thmqi_timer_is_running(&t->inner))
		return 0;
	if (!thmqi_core_is_mine(t->core))
		return -EPERM;
	thmqi_timer_stop(t->core, &t->inner);
	return 1;
}

/* ------------------------------------------------------------------ pollers */

struct thmq_poller {
	struct thmqi_poller inner;
	struct thmq_core *core;
	struct thmq_poller_ops ops;
	void *ctx;
	bool ending; /* its end is being called: closing it there is done behind that */
	char name[THMQ_POLLER_NAME];
};

static struct thmq_poller *outer(struct thmqi_poller *p)
{
	return thmqi_container(p, struct thmq_poller, inner);
}

/* Each of these may close the poller: nothing of it is touched behind the call. */
static int on_poll(struct thmqi_poller *p, uint32_t budget)
{
	int done = outer(p)->ops.poll(outer(p)->ctx, budget);

	return THMQI_MAX(done, 0);
}

static bool on_arm(struct thmqi_poller *p)
{
	return outer(p)->ops.arm(outer(p)->ctx) != 0;
}

/* Outside of an iteration, but on the core all the same: what would wait is refused. */
static void call_shielded(struct thmq_core *core, void (*fn)(void *ctx), void *ctx)
{
	struct thmq_core *lead = thmqi_core_mine(core->env);
	bool was = lead && lead->in_poll;

	if (lead)
		lead->in_poll = true;
	fn(ctx);
	if (lead)
		lead->in_poll = was;
}

static void on_disarm(struct thmqi_poller *p)
{
	call_shielded(outer(p)->core, outer(p)->ops.disarm, outer(p)->ctx);
}

static void on_finish(struct thmqi_poller *p)
{
	outer(p)->ops.finish(outer(p)->ctx);
}

static void on_end(struct thmqi_poller *p)
{
	struct thmq_poller *poller = outer(p);

	thmqi_core_remove_poller(poller->core, p);
	poller->ending = true;
	if (poller->ops.end)
		call_shielded(poller->core, poller->ops.end, poller->ctx);
	free(poller);
}

int thmq_poller_open(struct thmq_core *core, const struct thmq_poller_ops *ops, void *ctx,
		     struct thmq_poller **ret_poller)
{
	struct thmq_poller *p;
	int rc;

	if (!core || !ops || !ret_poller)
		return thmqi_fail(
			-EINVAL, "a poller needs a core, its functions and a place for its handle");
	if (!thmqi_core_is_mine(core))
		return thmqi_fail(-EPERM, "a poller is opened by the thread that drives its core");
	p = calloc(1, sizeof(*p));
	if (!p)
		return thmqi_fail(-ENOMEM, "no memory for a poller");
	rc = thmqi_opts_copy(&p->ops, sizeof(p->ops), ops);
	if (rc || !p->ops.poll) {
		free(p);
		return rc ? thmqi_fail(rc,
				       "poller: functions: %s", thmqi_opts_why(rc))
			  : thmqi_fail(-EINVAL, "a poller without poll");
	}
	p->core = core;
	p->ctx = ctx;
	p->inner = (struct thmqi_poller){.poll = on_poll,
					 .arm = p->ops.arm ? on_arm : NULL,
					 .disarm = p->ops.disarm ? on_disarm : NULL,
					 .finish = p->ops.finish ? on_finish : NULL,
					 .end = on_end,
					 .name = p->name};
	if (p->ops.name)
		strncpy(p->name, p->ops.name, sizeof(p->name) - 1);
	thmqi_core_add_poller(core, &p->inner);
	*ret_poller = p;
	return 0;
}

int thmq_poller_close(struct thmq_poller *poller)
{
	if (!poller)
		return 0;
	if (!thmqi_core_is_mine(poller->core))
		return thmqi_fail(-EPERM, "a poller is closed by the thread that drives its core");
	if (poller->ending)
		return 0;
	thmqi_core_remove_poller(poller->core, &poller->inner);
	free(poller);
	return 0;
}

int thmq_core_kick(struct thmq_core *core)
{
	if (!core)
		return -EINVAL;
	thmqi_core_kick(core);
	return 0;
}

/* --------------------------------------------------------------- duty cycle */

_Static_assert(sizeof(struct thmq_core_stats) == 648 &&
		       offsetof(struct thmq_core_stats, wake_latency_ns) == 644,
	       "public layout");

int thmq_core_stats(struct thmq_core *core, struct thmq_core_stats *ret_stats)
{
	struct thmq_core_stats stats;

	if (!core)
		return thmqi_fail(-EINVAL, "stats of no core");
	if (!ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return thmqi_fail(-EINVAL, "stats: set the size field first");
	thmqi_core_stats(core, &stats);
	stats.size = ret_stats->size;
	memset((char *)ret_stats, 0, stats.size);
	memcpy(ret_stats, &stats, THMQI_MIN(stats.size, (uint32_t)sizeof(stats)));
	return 0;
}

int thmq_core_stats_detail(struct thmq_core *core, int on)
{
	if (!core)
		return -EINVAL;
	thmqi_core_stats_detail(core, on != 0);
	return 0;
}

static int reset_stats(struct thmq_core *core, void *arg)
{
	(void)arg;
	thmqi_core_stats_reset(core);
	return 0;
}

int thmq_core_stats_reset(struct thmq_core *core, uint64_t timeout_ns)
{
	if (!core)
		return thmqi_fail(-EINVAL, "stats of no core");
	if (thmqi_core_is_mine(core))
		return reset_stats(core, NULL);
	return thmqi_core_call(core, reset_stats, NULL, timeout_ns);
}
