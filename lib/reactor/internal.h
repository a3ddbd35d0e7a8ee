/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of the reactor share. */
#ifndef THMQI_REACTOR_INTERNAL_H
#define THMQI_REACTOR_INTERNAL_H

#include <pthread.h>

#include "base/handle.h"
#include "reactor/reactor.h"
#include "topology/topology.h"

struct loop {
	struct thmq_core core; /* what others see; first */
	struct thmqi_list pollers;
	struct thmqi_list *cursor; /* next poller of the running walk */
	struct thmqi_timer **heap; /* [1 … timer_count], smallest deadline first */
	uint32_t timer_count, timer_room;
	uint64_t next_deadline; /* of heap[1]; UINT64_MAX */
	uint32_t rounds;        /* iterations since the clock was read */
	uint32_t wakes_seen;    /* completions of this iteration that were only wake-ups */
	uint64_t wall_offset, wall_read_ns;
	const struct policy *policy;
	uint64_t spin_ns;
	struct thmqi_ring_op wake_op;
	bool wake_polled; /* the multishot poll on wake_fd is in the ring */
	bool stop;
	_Alignas(THMQI_CACHELINE) _Atomic(struct thmqi_task *) inbox; /* newest first */
	_Alignas(THMQI_CACHELINE) _Atomic uint64_t wakeups_sent;
	int wake_fd; /* eventfd: readable from a wake until the loop has seen it */
	/* a host's own loop */
	int epoll_fd, timer_fd;  /* -1 until asked for */
	int watch_fd; /* epoll set of watched descriptors, where there is no ring; -1 until needed */
	uint64_t timer_armed_ns; /* what timer_fd is set to; UINT64_MAX: nothing */
	bool host_armed;
	/* a thread of the library */
	bool has_thread;
	pthread_t thread;
	struct thmqi_task stop_task;
};

/* How long a core looks for work before it sleeps. */
struct policy {
	uint32_t id; /* enum thmq_policy */
	bool never_sleeps;
	uint64_t (*spin_budget_ns)(const struct loop *l);
};
const struct policy *thmqi_policy_find(uint32_t id);

struct thmq_env {
	struct thmqi_handle handle; /* first */
	struct thmq_env_opts opts;
	struct thmqi_world world;
	struct thmqi_slabs *slabs;
	struct thmqi_topology *topology;
	struct loop *loops[THMQ_CORE_COUNT_MAX];
	uint32_t core_count;
	uint32_t pinned;
	bool caller_driven;
	void *user;
	struct thmqi_device_notes devices;
};

static inline struct loop *loop_of(struct thmq_core *core)
{
	return thmqi_container(core, struct loop, core);
}

int thmqi_loop_open(struct thmq_env *env, uint32_t index, struct loop **ret_loop);
void thmqi_loop_close_ring(struct loop *l);
void thmqi_loop_end_pollers(struct loop *l); /* those that were left behind, and know how to end */ /* by the thread that drove it, if it can */
uint32_t thmqi_loop_close(struct loop *l);  /* blocks leaked */

/* loop.c. Arm: announce the sleep and ask every source; true: there is work after all. */
bool thmqi_loop_arm(struct loop *l);
void thmqi_loop_disarm(struct loop *l);
void thmqi_loop_finish(struct loop *l);
uint64_t thmqi_loop_read_clock(struct loop *l);

/* host.c. Disarm: the host has come back. Forget: what its loop waits on is made anew on demand. */
void thmqi_host_disarm(struct loop *l);
void thmqi_host_forget(struct loop *l);

/* watch.c: where there is no ring. Return: how many were told */
uint32_t thmqi_watches_look(struct loop *l);

void thmqi_timers_run(struct loop *l, uint64_t now);
uint32_t thmqi_inbox_run(struct loop *l);
static inline bool thmqi_inbox_empty(const struct loop *l)
{
	return atomic_load_explicit(&l->inbox, memory_order_relaxed) == NULL;
}

#endif
