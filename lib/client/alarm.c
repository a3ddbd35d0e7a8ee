/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alarm.c - a session's thread is woken at a time, if it sleeps: by a timer on a core, since nothing else would wake it. Knows not
 * what for.
 */
#include "internal.h"

struct alarm {
	struct thmqi_task task;
	struct thmqi_timer timer;
	struct thmqi_poller poller; /* only to hear that the core closes */
	struct thmq_core *core;
	struct thmqi_waiter *waiter; /* counted */
	uint64_t at_ns;
};

static void end(struct alarm *a)
{
	thmqi_core_remove_poller(a->core, &a->poller);
	thmqi_waiter_unref(a->waiter);
	free(a);
}

static void on_time(struct thmqi_timer *t)
{
	struct alarm *a = thmqi_container(t, struct alarm, timer);

	thmqi_waiter_kick(a->waiter);
	end(a);
}

static int on_poll(struct thmqi_poller *p, uint32_t budget)
{
	(void)p;
	(void)budget;
	return 0;
}

static void on_end(struct thmqi_poller *p)
{
	struct alarm *a = thmqi_container(p, struct alarm, poller);

	thmqi_timer_stop(a->core, &a->timer);
	end(a);
}

static void begin(struct thmq_core *core, struct thmqi_task *task)
{
	struct alarm *a = thmqi_container(task, struct alarm, task);

	a->core = core;
	a->timer.fire = on_time;
	a->poller.poll = on_poll;
	a->poller.end = on_end;
	thmqi_core_add_poller(core, &a->poller);
	thmqi_timer_start(core, &a->timer, a->at_ns);
}

void thmqi_alarm(struct thmq_core *core, struct thmqi_waiter *waiter, uint64_t at_ns)
{
	struct alarm *a = calloc(1, sizeof(*a));

	if (!a)
		return;
	thmqi_waiter_ref(waiter);
	a->waiter = waiter;
	a->at_ns = at_ns;
	a->task.run = begin;
	thmqi_core_post(core, &a->task);
}
