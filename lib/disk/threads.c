/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.c - the queue half where io_uring is refused and threads are allowed: a few helper threads run operations by
 * blocking calls; completions come home to the core as posted tasks.
 */
#include <pthread.h>
#include <signal.h>

#include "internal.h"

#define HELPERS 4

struct thmqi_disk_queue {
	struct thmq_core *core;
	pthread_t threads[HELPERS];
	uint32_t thread_count;
	uint32_t inflight, depth; /* the core's */
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct thmqi_disk_op *first, **last;
	bool stop;
	/* finished operations, newest first, and the one task that collects them */
	_Atomic(struct thmqi_disk_op *) finished;
	struct thmqi_poller poller;
};

static void *help(void *arg)
{
	struct thmqi_disk_queue *q = arg;
	struct thmqi_disk_op *op, *head;

	for (;;) {
		pthread_mutex_lock(&q->lock);
		while (!q->first && !q->stop)
			pthread_cond_wait(&q->work, &q->lock);
		op = q->first;
		if (op) {
			q->first = op->next;
			if (!q->first)
				q->last = &q->first;
		}
		pthread_mutex_unlock(&q->lock);
		if (!op)
			return NULL;
		op->result = thmqi_posix_run(op);
		head = atomic_load_explicit(&q->finished, memory_order_relaxed);
		do {
			op->next = head;
		} while (!atomic_compare_exchange_weak_explicit(
			&q->finished, &head, op, memory_order_release, memory_order_relaxed));
		thmqi_core_kick(q->core);
	}
}

static int collect(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);
	struct thmqi_disk_op *op, *next;
	uint32_t done = 0;

	(void)budget;
	if (!atomic_load_explicit(&q->finished, memory_order_relaxed))
		return 0;
	op = atomic_exchange_explicit(&q->finished, NULL, memory_order_acquire);
	for (; op; op = next, done++) {
		next = op->next;
		q->inflight--;
		op->done(op, op->result);
	}
	return (int)done;
}

static bool arm(struct thmqi_poller *poller)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);

	return atomic_load_explicit(&q->finished, memory_order_relaxed) != NULL;
}

static void stop_helpers(struct thmqi_disk_queue *q)
{
	uint32_t i;

	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_broadcast(&q->work);
	pthread_mutex_unlock(&q->lock);
	for (i = 0; i < q->thread_count; i++)
		pthread_join(q->threads[i], NULL);
	pthread_cond_destroy(&q->work);
	pthread_mutex_destroy(&q->lock);
}

static int queue_open(void *ctx, struct thmq_core *core, uint32_t depth,
		      struct thmqi_disk_queue **ret_queue)
{
	struct thmqi_disk_queue *q = calloc(1, sizeof(*q));
	sigset_t all, old;
	int rc = 0;

	(void)ctx;
	if (!q)
		return -ENOMEM;
	q->core = core;
	q->depth = depth;
	q->last = &q->first;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->work, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (q->thread_count < HELPERS && !rc) {
		rc = pthread_create(&q->threads[q->thread_count], NULL, help, q);
		if (!rc)
			q->thread_count++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!q->thread_count) {
		stop_helpers(q);
		free(q);
		return -rc;
	}
	q->poller.poll = collect;
	q->poller.arm = arm;
	thmqi_core_add_poller(core, &q->poller);
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	while (q->inflight)
		if (collect(&q->poller, UINT32_MAX) == 0)
			sched_yield();
	stop_helpers(q);
	thmqi_core_remove_poller(q->core, &q->poller);
	free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	if (q->inflight >= q->depth)
		return -EAGAIN;
	op->queue = q;
	op->next = NULL;
	q->inflight++;
	disk_count(q->core, op);
	pthread_mutex_lock(&q->lock);
	*q->last = op;
	q->last = &op->next;
	pthread_cond_signal(&q->work);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

const struct thmqi_disk_table thmqi_disk_threads = {
	THMQI_POSIX_CALLING_HALF, .queue_open = queue_open, .queue_close = queue_close,
	.queue_submit = queue_submit, .queue_inflight = queue_inflight};
