/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inbox.c - tasks from any thread: a stack that many push to by compare and swap and that the owner takes as a whole
 * and turns around, so that tasks of one thread run in the order they were posted.
 */
#include "internal.h"

void thmqi_core_post(struct thmq_core *core, struct thmqi_task *task)
{
	struct loop *l = loop_of(core);
	struct thmqi_task *head = atomic_load_explicit(&l->inbox, memory_order_relaxed);

	do {
		task->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&l->inbox, &head, task, memory_order_release, memory_order_relaxed));
	thmqi_core_kick(core);
}

uint32_t thmqi_inbox_run(struct loop *l)
{
	struct thmqi_task *task, *next, *first = NULL;
	uint32_t count = 0;

	task = atomic_exchange_explicit(&l->inbox, NULL, memory_order_acquire);
	for (; task; task = next) {
		next = task->next;
		task->next = first;
		first = task;
	}
	for (task = first; task; task = next, count++) {
		next = task->next; /* the task may free itself */
		task->run(&l->core, task);
	}
	thmqi_count_up(&l->posts_run, count);
	return count;
}
