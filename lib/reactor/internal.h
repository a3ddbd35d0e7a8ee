/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of the reactor share. */
#ifndef THMQI_REACTOR_INTERNAL_H
#define THMQI_REACTOR_INTERNAL_H

#include <pthread.h>
#include <sched.h>

#include <thundermq/reactor.h>

#include "base/handle.h"
#include "reactor/reactor.h"
#include "timer.h"
#include "duty.h"
#include "polling.h"
#include "topology/topology.h"

/* A core's mailboxes: mailbox.c. */
struct mail {
	struct thmq_mailbox *in; /* to this core, whichever they come from */
	uint32_t in_count;
	bool shut;                 /* the environment closes: nothing more is sent */
	struct thmq_mailbox *owed; /* written to in this iteration, and not kicked yet */
	struct thmqi_poller poller; /* while there are some in */
	struct thmqi_list out;      /* from this core */
	uint64_t sent, run, refused; /* by thmqi_count_up() */
};

/* Descriptors that it waits for: watch.c. */
struct watch {
	struct thmqi_list list;
	uint32_t paused;            /* watches */
	int epoll_fd;               /* where there is no ring and some were watched; else -1 */
	uint32_t rounds;            /* since it was looked into */
	struct thmqi_poller poller; /* with epoll_fd */
};

struct loop {
	struct thmq_core core; /* what others see; first */
	struct thmqi_list pollers;
	struct thmqi_list resting; /* pollers that need no look until they are roused */
	struct thmqi_list *cursor; /* next poller of the running walk */
	uint64_t next_deadline; /* of the timers; 0: some wait for their turn already; UINT64_MAX: none */
	uint32_t rounds;        /* iterations since the clock was read */
	_Atomic uint32_t detailed; /* 1: each iteration is measured by phases */
	uint32_t wakes_seen;    /* completions of this iteration that were only wake-ups */
	uint64_t wall_offset, wall_read_ns;
	struct duty duty;
	struct polling polling;
	struct mail mail;
	struct watch watch;
	struct thmqi_ring_op wake_op;
	bool wake_polled; /* the multishot poll on wake_fd is in the ring */
	bool stop;
	_Alignas(THMQI_CACHELINE) _Atomic(struct thmqi_task *) inbox; /* newest first */
	_Alignas(THMQI_CACHELINE) _Atomic uint64_t wakeups_sent;
	_Atomic uint64_t woken_ns; /* the last of them, where the policy learns from it */
	int wake_fd; /* eventfd: readable from a wake until the loop has seen it */
	/* a host's own loop */
	int epoll_fd, timer_fd;  /* -1 until asked for */
	uint64_t timer_armed_ns; /* what timer_fd is set to; UINT64_MAX: nothing */
	bool host_armed;
	uint32_t done_arming; /* work that was done while the host armed it */
	/* cores that one thread of the host drives together */
	struct loop *lead;  /* the one that it took first; itself where there are no others */
	struct loop *mates; /* the next one after it; of the leader: the first */
	/* a thread of the library */
	bool has_thread;
	pthread_t thread;
	bool was_bound;
	cpu_set_t bound_to; /* before it was bound to its processor */
	uint64_t posts_run; /* by thmqi_count_up() */
	struct thmqi_task stop_task;
	_Atomic bool shut; /* it has seen that nothing more is to be sent */
	/* call.c */
	void *reserved_call;
	_Atomic(void *) free_call; /* that one, or NULL while it is under way */
	struct timers timers; /* last: large, and mostly cold */
};

struct thmq_env {
	struct thmqi_handle handle; /* first */
	struct thmq_env_opts opts;
	struct thmqi_world world;
	struct thmqi_slabs *slabs;
	struct thmqi_topology *topology; /* during the open only */
	struct thmq_place *places;       /* of each core */
	uint32_t quota_percent;
	struct loop *loops[THMQ_CORE_COUNT_MAX];
	uint32_t core_count;
	uint32_t pinned;
	bool caller_driven;
	struct process_page *process;
	struct polling_rules polling;
	struct forecaster *forecaster; /* its thread, where there is one */
	void *user;
	struct thmqi_device_notes devices;
};

/* The kernel clears it in a child of fork(2), where so nobody has a core. */
struct process_page {
	uint32_t here; /* 1: in the process that opened the environment */
	uint32_t reserved;
	_Atomic uint64_t owners[THMQ_CORE_COUNT_MAX]; /* of cores: thmq_core.owner */
};

/* The core's thread writes, any may read. */
static inline void thmqi_count_up(uint64_t *counter, uint64_t by)
{
	__atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static inline struct loop *loop_of(struct thmq_core *core)
{
	return thmqi_container(core, struct loop, core);
}

int thmqi_loop_open(struct thmq_env *env, uint32_t index, struct loop **ret_loop);
void thmqi_loop_close_ring(struct loop *l);
void thmqi_loop_end_pollers(struct loop *l); /* those that were left behind, and know how to end */ /* by the thread that drove it, if it can */
uint32_t thmqi_loop_settle(struct loop *l); /* run what was posted and sent here; how much that was */
uint32_t thmqi_loop_close(struct loop *l);  /* blocks leaked */

/* loop.c. Arm: announce the sleep and ask every source; true: there is work after all. */
bool thmqi_loop_arm(struct loop *l);
void thmqi_loop_disarm(struct loop *l);
void thmqi_loop_finish(struct loop *l);
uint64_t thmqi_loop_read_clock(struct loop *l);
void thmqi_loop_turn(struct loop *l, uint32_t duty); /* what the time goes to from here on: enum duty_state */

/* host.c. Disarm: the host has come back. Forget: what its loop waits on is made anew on demand. */
void thmqi_host_disarm(struct loop *l);
void thmqi_host_forget(struct loop *l);
/* What the leader's descriptor tells is also what @l has to tell. */
int thmqi_host_follow(struct loop *lead, struct loop *l);

/* loop.c: one loop, by itself. */
int thmqi_loop_poll(struct loop *l, uint64_t timeout_ns);
/* mates.c: all of one thread's. */
int thmqi_mates_join(struct loop *lead, struct loop *l);
int thmqi_mates_poll(struct loop *lead, uint64_t timeout_ns);

/* placing.c. Check: of options by themselves. Cores: before they are opened; done: behind. Bind, unbind: the calling thread, the core's. */
int thmqi_place_check(const struct thmq_env_opts *opts);
int thmqi_place_cores(struct thmq_env *env);
void thmqi_place_done(struct thmq_env *env);
int thmqi_place_pool_open(struct loop *l, const struct thmq_pool_opts *opts); /* near the core */
void thmqi_place_bind(struct loop *l);
void thmqi_place_unbind(struct loop *l); /* who looks meanwhile does not take a thread that ends for one that stays */

/* mailbox.c. Kick: those who were written to and may sleep; before in_poll falls. Drain: run all that was sent here. */
void thmqi_mail_init(struct loop *l);
void thmqi_mail_fini(struct loop *l);
void thmqi_mail_kick(struct loop *l);
uint32_t thmqi_mail_drain(struct loop *l);
static inline void thmqi_mail_kick_owed(struct loop *l)
{
	if (thmqi_unlikely(l->mail.owed))
		thmqi_mail_kick(l);
}

/* watch.c */
void thmqi_watch_init(struct loop *l);
void thmqi_watch_fini(struct loop *l);

void thmqi_timers_init(struct timers *w);
void thmqi_timers_fini(struct timers *w); /* those that still run are stopped */
uint32_t thmqi_timers_run(struct loop *l, uint64_t now); /* work done */
/* call.c: one call in reserve, freed with the loop. 0 or -ENOMEM. */
int thmqi_call_reserve(struct loop *l);
uint32_t thmqi_inbox_run(struct loop *l);
static inline bool thmqi_inbox_empty(const struct loop *l)
{
	return atomic_load_explicit(&l->inbox, memory_order_relaxed) == NULL;
}

#endif
