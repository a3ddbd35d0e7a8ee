/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_mates_race_test.c - two threads of the host that drive three cores each, and now and then give them all up and take others:
 * mailboxes between all of them, tasks and calls from a third thread, timers, and blocks that come home from other cores. Nothing is lost,
 * nothing runs on a thread that does not drive its core, and nobody sleeps through anything. A plain program, so that it also runs
 * under the thread sanitizer.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "reactor/reactor.h"
#include "memory/memory.h"
#include <thundermq/reactor.h>

#define CORES 6u
#define OWNERS 2u
#define MS 1000000ull
#define SECOND 1000000000ull

struct part {
	struct thmq_core *core;
	struct thmq_mailbox *to[CORES];
	struct thmq_poller *poller;
	struct thmq_timer timer;
	bool open;
	uint32_t number, next;
	/* by whoever drives the core; read at the end */
	uint64_t sent, got, ticks, blocks, wrong, posts, calls;
	struct thmq_slabs *slabs;
	struct thmq_pool *pool; /* of this core */
};

static struct part parts[CORES];
static struct thmq_env *env;
static _Atomic bool over;
static uint64_t to_send = 60000;
static _Atomic uint64_t all_got;

/* A block of the sender's pool: looked at here, and let go of. */
static void on_mail(struct thmq_core *core, const struct thmq_mail *mail)
{
	struct part *p = mail->object;
	struct thmq_buf *b = (struct thmq_buf *)(uintptr_t)mail->word[0];

	p->wrong += p->core != core || !thmq_core_is_mine(core);
	p->wrong += *(uint64_t *)(void *)b->data != mail->word[1];
	p->got++;
	atomic_fetch_add_explicit(&all_got, 1, memory_order_relaxed);
	thmq_buf_unref_remote(b);
}

static int send_some(void *ctx, uint32_t budget)
{
	struct part *p = ctx;
	uint32_t done = thmq_pool_drain(p->pool);

	for (budget = budget < 8 ? budget : 8; budget && p->sent < to_send; budget--) {
		struct part *other = &parts[p->next];
		struct thmq_mail mail = {.run = on_mail, .object = other};
		struct thmq_buf *b;

		if (thmq_buf_alloc(p->pool, 64, 0, &b) != 0)
			break;
		*(uint64_t *)(void *)b->data = p->sent;
		mail.word[0] = (uintptr_t)b;
		mail.word[1] = p->sent;
		if (thmq_mailbox_send(p->to[p->next], &mail) != 0) {
			thmq_buf_unref(b);
			p->next = (p->next + 1) % CORES;
			return (int)done + 1; /* full: its reader may be nobody's now */
		}
		p->sent++;
		p->blocks++;
		p->next = (p->next + 1) % CORES;
		done++;
	}
	return (int)done;
}

static void on_tick(struct thmq_core *core, struct thmq_timer *timer)
{
	struct part *p = thmqi_container(timer, struct part, timer);

	p->wrong += p->core != core || !thmq_core_is_mine(core);
	p->ticks++;
	thmq_timer_start(core, timer, timer->deadline_ns + MS);
}

static int open_part(struct part *p)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = send_some};
	uint32_t i;

	if (p->open)
		return 0;
	p->open = true;
	for (i = 0; i < CORES; i++)
		if (thmq_mailbox_open(p->core, parts[i].core, THMQ_MAILBOX_OPTS(.depth = 16),
				      &p->to[i]) != 0)
			return 1;
	p->timer.fire = on_tick;
	return thmq_pool_open(p->slabs, NULL, &p->pool) ||
	       thmq_timer_start(p->core, &p->timer, (uint64_t)thmq_core_now_ns(p->core)) ||
	       thmq_poller_open(p->core, &ops, p, &p->poller);
}

struct owner {
	pthread_t thread;
	uint32_t number, wrong, turns;
};

/* Three of the six, whichever are to be had. */
static uint32_t take_three(struct owner *o)
{
	uint32_t i, n = 0;

	for (i = 0; i < CORES && n < CORES / OWNERS; i++) {
		uint32_t at = (i + o->number * 3 + o->turns) % CORES;

		if (thmq_core_attach(env, at) != 0)
			continue;
		n++;
		o->wrong += open_part(&parts[at]) != 0;
	}
	return n;
}

static void *own(void *arg)
{
	struct owner *o = arg;
	struct timespec now, until;

	while (!atomic_load(&over)) {
		if (!take_three(o)) {
			sched_yield();
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += 20 * (long)MS;
		do {
			if (thmq_poll(env, 2 * MS) < 0)
				o->wrong++;
			clock_gettime(CLOCK_MONOTONIC, &now);
		} while (!atomic_load(&over) &&
			 (now.tv_sec - until.tv_sec) * 1000000000 + now.tv_nsec < until.tv_nsec);
		o->wrong += thmq_core_detach(env) != 0;
		o->turns++;
	}
	return NULL;
}

/* ---------------------------------------------------------------- from outside */

struct posted {
	struct thmq_task task; /* first */
	struct part *part;
	_Atomic bool back;
};

static void on_post(struct thmq_core *core, struct thmq_task *task)
{
	struct posted *t = (struct posted *)task;

	t->part->wrong += t->part->core != core || !thmq_core_is_mine(core);
	t->part->posts++;
	atomic_store(&t->back, true);
}

static int on_call(struct thmq_core *core, void *arg)
{
	struct part *p = arg;

	p->wrong += p->core != core || !thmq_core_is_mine(core);
	p->calls++;
	return 1;
}

static uint32_t disturb(uint64_t *ret_posts, uint64_t *ret_calls)
{
	static struct posted tasks[CORES];
	uint32_t i, wrong = 0, rounds = 0;
	int rc;

	for (i = 0; i < CORES; i++)
		tasks[i] = (struct posted){.task.run = on_post, .part = &parts[i], .back = true};
	while (atomic_load(&all_got) < CORES * to_send) {
		for (i = 0; i < CORES; i++) {
			if (atomic_exchange(&tasks[i].back, false)) {
				thmq_core_post(parts[i].core, &tasks[i].task);
				++*ret_posts;
			}
			rc = thmq_core_call(parts[i].core, on_call, &parts[i], MS);
			*ret_calls += rc == 1;
			/* it may be nobody's just now */
			wrong += rc != 1 && rc != -EDEADLK && rc != -ETIMEDOUT;
		}
		usleep(500);
		if (++rounds == 100000) {
			printf("silence after %llu\n", (unsigned long long)atomic_load(&all_got));
			_Exit(1);
		}
	}
	for (i = 0; i < CORES; i++)
		while (!atomic_load(&tasks[i].back))
			usleep(100);
	return wrong;
}

int main(void)
{
	static struct owner owners[OWNERS];
	uint64_t posts = 0, calls = 0, sent = 0, got = 0, ticks = 0, wrong = 0;
	struct thmq_slabs *slabs;
	uint32_t i, turns = 0;

	if (getenv("THMQ_TEST_FULL"))
		to_send *= 50;
	if (getenv("THMQ_TEST_SMALL"))
		to_send /= 20;
	if (thmq_slabs_open(NULL, &slabs) != 0 ||
	    thmqi_env_open(THMQ_ENV_OPTS(.caller_cores = CORES, .policy = THMQ_POLICY_EVENT), NULL,
			   &env) != 0)
		return 1;
	for (i = 0; i < CORES; i++)
		parts[i] = (struct part){
			.core = thmqi_env_core(env, i), .number = i, .next = i, .slabs = slabs};
	if (thmqi_core_detach(env) != 0)
		return 1;
	for (i = 0; i < OWNERS; i++) {
		owners[i].number = i;
		if (pthread_create(&owners[i].thread, NULL, own, &owners[i]) != 0)
			return 1;
	}
	wrong += disturb(&posts, &calls);
	atomic_store(&over, true);
	for (i = 0; i < OWNERS; i++) {
		pthread_join(owners[i].thread, NULL);
		wrong += owners[i].wrong;
		turns += owners[i].turns;
	}
	wrong += thmqi_env_close(env) != 0;
	for (i = 0; i < CORES; i++) {
		thmq_pool_drain(parts[i].pool);
		wrong += parts[i].wrong + (thmq_pool_close(parts[i].pool) != 0);
		sent += parts[i].sent;
		got += parts[i].got;
		ticks += parts[i].ticks;
		posts -= parts[i].posts;
		calls -= parts[i].calls;
	}
	printf("%llu sent, %llu got, %llu ticks, %u times owned; %llu posts and %llu calls "
	       "missing; "
	       "%llu wrong\n",
	       (unsigned long long)sent, (unsigned long long)got, (unsigned long long)ticks, turns,
	       (unsigned long long)posts, (unsigned long long)calls, (unsigned long long)wrong);
	return wrong || sent != got || posts || calls || thmq_slabs_close(slabs) != 0;
}
