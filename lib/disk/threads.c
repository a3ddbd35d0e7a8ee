/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.c - the queue half where io_uring is refused and threads are allowed: a few helper threads run operations by
 * calls that block. The core takes no lock: it hands over through a ring with one producer, and what is finished comes
 * home on a stack that its poller empties.
 */
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include "internal.h"

#define HELPERS 4u
#define CLOSE_NAP_US 50

struct thmqi_disk_queue {
	struct thmq_core *core;
	struct thmqi_poller poller;
	uint32_t inflight, depth;
	uint32_t background;      /* of them, those of preparation that helpers may have */
	struct disk_list waiting; /* preparation that waits for its turn */
	uint32_t helper_count, mask;
	pthread_t helpers[HELPERS];
	_Alignas(THMQI_CACHELINE) _Atomic uint64_t tail; /* the core's */
	_Alignas(THMQI_CACHELINE) _Atomic uint64_t head; /* the helpers' */
	sem_t work;                                      /* one for each operation handed over */
	_Atomic bool stop;
	_Alignas(THMQI_CACHELINE) _Atomic(struct thmqi_disk_op *) finished; /* newest first */
	_Atomic(struct thmqi_disk_op *) slots[];
};

/* ------------------------------------------------------------------- helpers */

/* A slot is used again only after its taker has moved head past it, so a value read before a successful exchange is
 * the right one. */
static struct thmqi_disk_op *take(struct thmqi_disk_queue *q)
{
	uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
	struct thmqi_disk_op *op;

	do {
		if (head == atomic_load_explicit(&q->tail, memory_order_acquire))
			return NULL;
		op = atomic_load_explicit(&q->slots[head & q->mask], memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(
		&q->head, &head, head + 1, memory_order_acq_rel, memory_order_relaxed));
	return op;
}

static void bring_home(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	op->next = atomic_load_explicit(&q->finished, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&q->finished, &op->next, op,
						      memory_order_release, memory_order_relaxed))
		;
}

static void *help(void *arg)
{
	struct thmqi_disk_queue *q = arg;
	/* the queue may be closed as soon as its last operation is home */
	struct thmq_core *core = q->core;
	struct thmqi_disk_op *op;

	for (;;) {
		while (sem_wait(&q->work) != 0)
			; /* EINTR */
		op = take(q);
		if (op) {
			op->result = thmqi_disk_posix_run(op);
			bring_home(q, op);
			thmqi_core_kick(core);
		} else if (atomic_load_explicit(&q->stop, memory_order_acquire)) {
			return NULL;
		}
	}
}

/* ---------------------------------------------------------------------- core */

static void hand_over(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);

	atomic_store_explicit(&q->slots[tail & q->mask], op, memory_order_relaxed);
	atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
	sem_post(&q->work);
}

static void start_waiting(struct thmqi_disk_queue *q)
{
	while (q->waiting.first && q->background < DISK_BACKGROUND_MAX) {
		q->background++;
		hand_over(q, disk_list_take(&q->waiting));
	}
}

/* All that is finished, oldest first: at most depth, whatever the budget. */
static int collect(struct thmqi_poller *poller, uint32_t budget)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);
	struct thmqi_disk_op *op, *next, *oldest = NULL;
	uint32_t done = 0;

	(void)budget;
	if (!atomic_load_explicit(&q->finished, memory_order_relaxed))
		return 0;
	op = atomic_exchange_explicit(&q->finished, NULL, memory_order_acquire);
	for (; op; op = next) {
		next = op->next;
		op->next = oldest;
		oldest = op;
	}
	for (op = oldest; op; op = next, done++) {
		next = op->next;
		q->inflight--;
		q->background -= !!(op->flags & THMQI_DISK_BACKGROUND);
		op->done(op, op->result);
	}
	start_waiting(q);
	return (int)done;
}

static bool arm(struct thmqi_poller *poller)
{
	struct thmqi_disk_queue *q = thmqi_container(poller, struct thmqi_disk_queue, poller);

	return atomic_load_explicit(&q->finished, memory_order_relaxed) != NULL;
}

static void queue_free(struct thmqi_disk_queue *q)
{
	uint32_t i;

	atomic_store_explicit(&q->stop, true, memory_order_release);
	for (i = 0; i < q->helper_count; i++)
		sem_post(&q->work);
	for (i = 0; i < q->helper_count; i++)
		pthread_join(q->helpers[i], NULL);
	sem_destroy(&q->work);
	free(q);
}

static int start_helpers(struct thmqi_disk_queue *q)
{
	sigset_t all, old;
	int e = 0;

	/* the host's signals are not theirs */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (q->helper_count < THMQI_MIN(HELPERS, q->depth) && !e) {
		e = pthread_create(&q->helpers[q->helper_count], NULL, help, q);
		q->helper_count += !e;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return q->helper_count ? 0 : -e;
}

static int queue_open(void *ctx, struct thmq_core *core, uint32_t depth,
		      struct thmqi_disk_queue **ret_queue)
{
	uint32_t slots = (uint32_t)thmqi_pow2_up(THMQI_MAX(depth, 1u));
	struct thmqi_disk_queue *q;
	size_t size = THMQI_ALIGN_UP(sizeof(*q) + slots * sizeof(q->slots[0]), THMQI_CACHELINE);
	int e;

	(void)ctx;
	q = aligned_alloc(THMQI_CACHELINE, size);
	if (!q)
		return -ENOMEM;
	memset(q, 0, size);
	q->core = core;
	q->depth = THMQI_MAX(depth, 1u);
	q->mask = slots - 1;
	q->poller.poll = collect;
	q->poller.name = "disk, threads";
	q->poller.arm = arm;
	sem_init(&q->work, 0, 0);
	e = start_helpers(q);
	if (e) {
		queue_free(q);
		return e;
	}
	thmqi_core_add_poller(core, &q->poller);
	*ret_queue = q;
	return 0;
}

static void queue_close(struct thmqi_disk_queue *q)
{
	while (q->inflight) {
		if (collect(&q->poller, UINT32_MAX) == 0)
			usleep(CLOSE_NAP_US);
	}
	thmqi_core_remove_poller(q->core, &q->poller);
	queue_free(q);
}

static int queue_submit(struct thmqi_disk_queue *q, struct thmqi_disk_op *op)
{
	if (q->inflight >= q->depth)
		return -EAGAIN;
	if (op->opcode > THMQI_DISK_OPEN)
		return -EINVAL;
	op->queue = q;
	q->inflight++;
	disk_count_real(q->core, op);
	if (op->flags & THMQI_DISK_BACKGROUND) {
		if (q->background >= DISK_BACKGROUND_MAX) {
			disk_list_add(&q->waiting, op);
			return 0;
		}
		q->background++;
	}
	hand_over(q, op);
	return 0;
}

static bool queue_wait(struct thmqi_disk_queue *q, uint64_t timeout_ns)
{
	const struct thmqi_clock *clock = q->core->clock;
	uint64_t begin = clock->now_ns(clock->ctx);

	while (q->inflight) {
		if (collect(&q->poller, UINT32_MAX))
			return true;
		if (clock->now_ns(clock->ctx) - begin >= timeout_ns)
			break;
		usleep(CLOSE_NAP_US);
	}
	return false;
}

static uint32_t queue_inflight(const struct thmqi_disk_queue *q)
{
	return q->inflight;
}

const struct thmqi_disk_table thmqi_disk_threads = {
	THMQI_DISK_POSIX_CALLING_HALF, .queue_open = queue_open,         .queue_close = queue_close,
	.queue_submit = queue_submit,  .queue_inflight = queue_inflight, .queue_wait = queue_wait,
	.dir_ways = thmqi_disk_probe,
};
