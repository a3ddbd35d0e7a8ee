/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor.h - cores: run-to-completion loops. A core owns its pool, its ring, its timers, and the state of
 * everything that was given to it. Sharing is by message: thmqi_core_post() from any thread.
 *
 * One iteration: completions, posted tasks, timers that are due, every poller within its budget, the
 * end-of-iteration hooks, one submission. Spin, arm, poll once more, sleep - in one place. doc/cores.md tells more.
 */
#ifndef THMQI_REACTOR_H
#define THMQI_REACTOR_H

#include <pthread.h>

#include "base/base.h"
#include "memory/memory.h"
#include "ring/ring.h"

struct thmq_core;
struct thmq_env;
struct thmqi_disk_table; /* lib/disk: carried here so that a world is one parameter */
struct thmqi_machine_source; /* lib/topology: likewise */

/* The world as a parameter. All NULL or zero means the real one. */
struct thmqi_world {
	const struct thmqi_clock *clock;
	const struct thmqi_disk_table *disk; /* NULL: io_uring, else threads or inline */
	void *disk_ctx;
	/* Called instead of sleeping by a core with nothing to do: advance virtual time by up to @timeout_ns and
	 * let I/O complete. Return: > 0 if something may have happened. NULL: sleep really. */
	int (*idle)(void *ctx, uint64_t timeout_ns);
	bool spins; /* with idle: time moves on while a core looks for work, so that it spins first as its policy says */
	void *ctx;
	uint64_t seed; /* of the environment's prng; 0: from the kernel */
	const struct thmqi_machine_source *machine; /* where cores are placed, and never bound; NULL: this one */
};

/* A source of work, polled each iteration. Return: work done (0: nothing). arm (may be NULL) is called before
 * sleeping and returns true if work is there after all; ring completions and posts need no arm. */
struct thmqi_poller {
	int (*poll)(struct thmqi_poller *p, uint32_t budget);
	bool (*arm)(struct thmqi_poller *p);
	void (*disarm)(struct thmqi_poller *p);
	/* Called at the end of an iteration in which anything was done, and of the first one of each thmqi_core_poll(),
	 * since the owner may have given work to its objects before: submit what has gathered. May be NULL. */
	void (*finish)(struct thmqi_poller *p);
	/* Called when the core closes and it is still there, on the core's thread where it has one: it must take itself out.
	 * NULL: that is a mistake of the owner's. */
	void (*end)(struct thmqi_poller *p);
	struct thmqi_list link; /* the core's */
	const char *name;       /* for statistics; NULL: none */
	bool is_first, rests;   /* the core's */
};

/* All zero but fire before its first start. Its memory may go when it is not running: before a start, after a stop, and
 * from its fire on. */
struct thmqi_timer {
	void (*fire)(struct thmqi_timer *t); /* may start, stop and free any timer, this one too */
	uint64_t deadline_ns;                /* monotonic; read only for others */
	struct thmqi_list link;              /* the core's; next NULL: not running */
};

/* A call to be made on a core. Memory is the poster's until run is called, then whose run says. */
struct thmqi_task {
	struct thmqi_task *next;
	void (*run)(struct thmq_core *core, struct thmqi_task *task);
};

/* Somebody on a core who has memory of its pool that can be had again from elsewhere, as a cache: a member of what it is. */
struct thmqi_giver {
	struct thmqi_list link;
	bool (*give)(struct thmqi_giver *giver);  /* a piece of it, at once. False: it has none now */
	void (*spare)(struct thmqi_giver *giver); /* also all that it has at hand and nobody looks at: not below a call that might */
};

struct thmq_core {
	struct thmq_env *env;
	uint32_t index;
	uint32_t
		disk_engine; /* what lib/disk chose for this core: 1 io_uring 2 threads 3 inline 4 simulated */
	const struct thmqi_clock *clock;
	uint64_t now_ns;  /* monotonic, read at the begin of the iteration */
	uint64_t wall_ns; /* likewise, since 1970 */
	struct thmqi_pool *pool;
	struct thmqi_list givers;
	struct thmqi_ring *ring; /* NULL: refused or not wanted */
	struct thmqi_ring *polled; /* lib/disk's second ring, whose completions are looked for and never slept on; or NULL */
	struct thmqi_prng prng;
	const struct thmqi_world *world;
	bool in_poll;               /* inside an iteration: blocking calls are -EDEADLK */
	/* counters, owner only */
	uint64_t loops, sleeps, wakeups, writes, write_bytes, flushes, reads, read_bytes;
	void *internal;
	/* What others read for every message is apart from what the owner writes in every iteration, by two lines: they are
	 * fetched in pairs. */
	_Alignas(2 * THMQI_CACHELINE) _Atomic uint32_t
		sleeping;           /* 1: armed: whoever makes work calls thmqi_core_wake() */
	_Atomic uint32_t may_sleep; /* 0: policy poll: nobody needs to look at sleeping */
	_Atomic uint64_t *owner; /* thmqi_thread_self() of the driving thread; 0: none, as in a child of fork(2) */
};

/* One device, by its number (st_dev), as lib/disk has measured it. */
struct thmqi_device_note {
	uint64_t device;
	uint64_t dsync_ns, flush_ns; /* a durable write of one block by a flag; by a flush behind it. 0: not measured */
	uint64_t event_read_ns, polled_read_ns; /* a read of one block by either ring; 0: not measured */
	bool has_flush, has_polled;             /* that was looked into */
	bool split;                             /* a flush behind the write is the faster way */
	bool polled;                            /* polled completions work and pay */
};

#define THMQI_DEVICE_NOTES 16u /* what does not fit is measured again at each open */

struct thmqi_device_notes {
	pthread_mutex_t lock; /* held while a device is measured: one at a time; never on the message path */
	uint32_t count;
	struct thmqi_device_note notes[THMQI_DEVICE_NOTES];
};

/* The environment: cores, pool, world; what others hang on it by key. struct thmq_env begins with a struct
 * thmqi_handle (base/handle.h) of kind THMQI_HANDLE_ENV. */
struct thmq_env;
int thmqi_env_open(const struct thmq_env_opts *opts, const struct thmqi_world *world,
		   struct thmq_env **ret_env);
/* Stops threads, closes cores. All that ran on them must be closed. Return: 0; leaked blocks > 0. */
int thmqi_env_close(struct thmq_env *env);
uint32_t thmqi_env_core_count(const struct thmq_env *env);
struct thmq_core *thmqi_env_core(struct thmq_env *env, uint32_t index);
const struct thmqi_world *thmqi_env_world(const struct thmq_env *env);
struct thmqi_slabs *thmqi_env_slabs(const struct thmq_env *env); /* the global pool: for registrars */
bool thmqi_env_is_caller_driven(const struct thmq_env *env);
uint32_t thmqi_env_flags(const struct thmq_env *env);
void thmqi_env_stats(struct thmq_env *env,
		     struct thmq_env_stats *ret); /* ret->size is not looked at */
void thmqi_env_memory(struct thmq_env *env, uint64_t *ret_bytes, uint64_t *ret_in_use); /* of the pool; without a lock */
/* thmq_env_plan(), thmq_env_place(): see thundermq.h. */
int thmqi_env_plan(const struct thmq_env_opts *opts, struct thmq_place *places, uint32_t count,
		   struct thmq_machine *ret_machine);
int thmqi_env_place(const struct thmq_env *env, uint32_t index, struct thmq_place *ret);
int thmqi_env_node_of(const struct thmq_env *env, int cpu); /* NUMA node of a processor; -1: not known */
uint32_t thmqi_env_policy(const struct thmq_env *env); /* enum thmq_policy, never DEFAULT */
/* What lib/disk has found out about devices: the environment only carries it. */
struct thmqi_device_notes *thmqi_env_device_notes(struct thmq_env *env);
/* One pointer for the layer above (registry of listeners and handles); the environment does not touch it. */
void **thmqi_env_user(struct thmq_env *env);

#define THMQI_STARVED_NS 100000000u /* who has found no memory for so long does not get it by waiting: others give up more than they like */
/* As thmqi_buf_alloc(), but where there is nothing left givers give, each in its turn. For what must go on. */
int thmqi_core_alloc(struct thmq_core *core, uint32_t size, struct thmqi_buf **ret_buf);
void thmqi_core_spare(struct thmq_core *core); /* all its givers do */

int thmqi_core_attach(struct thmq_env *env, uint32_t index);
int thmqi_core_detach(struct thmq_env *env);
/* The calling thread's core, or NULL. Of several it is the one that it took first: polling that one polls all of them. */
struct thmq_core *thmqi_core_mine(struct thmq_env *env);
static inline bool thmqi_core_is_mine(const struct thmq_core *c)
{
	return atomic_load_explicit(c->owner, memory_order_relaxed) == thmqi_thread_self();
}

/* Is there a thread that drives it? */
static inline bool thmqi_core_is_driven(const struct thmq_core *c)
{
	return atomic_load(c->owner) != 0;
}

/* thmq_poll(): see thundermq.h. A mere wake-up is no work. */
int thmqi_core_poll(struct thmq_core *core, uint64_t timeout_ns);
/* For a host's own loop: descriptor and arm, by the owner. Under policy poll arm always returns 1. */
int thmqi_core_fd(struct thmq_core *core);
int thmqi_core_arm(struct thmq_core *core);

/* What a core spends its time on: see thmq_core_stats() in <thundermq/reactor.h>. Any thread; reset the owner only. */
struct thmq_core_stats;
void thmqi_core_stats(struct thmq_core *core, struct thmq_core_stats *ret); /* all of it, but size */
void thmqi_core_stats_detail(struct thmq_core *core, bool on);
void thmqi_core_stats_reset(struct thmq_core *core);

void thmqi_core_add_poller(struct thmq_core *core, struct thmqi_poller *p);
/* Before those that are there: what it takes in is seen by them in the same iteration. */
void thmqi_core_add_poller_first(struct thmq_core *core, struct thmqi_poller *p);
void thmqi_core_remove_poller(struct thmq_core *core,
			      struct thmqi_poller *p); /* also from within a poll */
/*
 * One of very many that has nothing to do for now: it costs nothing until it is roused, by whoever gives it work, and is only
 * told of the core's end. Also from within its poll. What would be found by a look must be told: its arm was called before, and
 * found nothing.
 */
void thmqi_core_rest_poller(struct thmq_core *core, struct thmqi_poller *p);
void thmqi_core_rouse_poller(struct thmq_core *core, struct thmqi_poller *p); /* at its place; also one that does not rest */
/* Start, or start anew: fire is called once @deadline_ns has come, not earlier, and at most a tick (1024 ns) and the core's
 * own delay later, in an iteration after this call. UINT64_MAX: never. */
void thmqi_timer_start(struct thmq_core *core, struct thmqi_timer *t, uint64_t deadline_ns);
void thmqi_timer_stop(struct thmq_core *core, struct thmqi_timer *t);
static inline bool thmqi_timer_is_running(const struct thmqi_timer *t)
{
	return t->link.next != NULL;
}

/* Messages between two cores: see thmq_mailbox_open() in <thundermq/reactor.h>, whose checks are the caller's here. All by the
 * thread that drives the sending core. */
struct thmq_mail;
struct thmq_mailbox;
struct thmq_mailbox_opts;
int thmqi_mailbox_open(struct thmq_core *from, struct thmq_core *to,
		       const struct thmq_mailbox_opts *opts, struct thmq_mailbox **ret_box);
int thmqi_mailbox_send(struct thmq_mailbox *box, const struct thmq_mail *mail); /* 0, -EAGAIN, -ESHUTDOWN */
void thmqi_mailbox_close(struct thmq_mailbox *box);
struct thmq_core *thmqi_mailbox_sender(const struct thmq_mailbox *box);

/* A descriptor that becomes ready: see thmq_watch_open() in <thundermq/reactor.h>. By the thread that drives the core. */
struct thmq_watch;
int thmqi_watch_open(struct thmq_core *core, int fd, uint32_t events,
		     void (*ready)(void *ctx, uint32_t events), void *ctx, struct thmq_watch **ret_watch);
void thmqi_watch_close(struct thmq_watch *w);
/*
 * Its owner looks at the descriptor by itself in each iteration, and is told of nothing, or of little, until it goes on: before its core sleeps, at
 * the latest. What is ready then is told. Neither allocates. -EOPNOTSUPP: there is no ring; -EAGAIN not now, or
 * so many of the core's are paused; all stays as it was.
 */
int thmqi_watch_pause(struct thmq_watch *w);
int thmqi_watch_go_on(struct thmq_watch *w);
struct thmq_core *thmqi_watch_core(const struct thmq_watch *w);

/* Any thread; lock-free; wakes the core. Tasks of one thread run in order. */
void thmqi_core_post(struct thmq_core *core, struct thmqi_task *task);
void thmqi_core_wake(struct thmq_core *core); /* unconditional */
/* After publishing work in memory that a poller of @core looks at. */
static inline void thmqi_core_kick(struct thmq_core *core)
{
	if (atomic_load_explicit(&core->may_sleep, memory_order_relaxed)) {
		atomic_thread_fence(
			memory_order_seq_cst); /* work before flag: pairs with the fence in arm */
		if (thmqi_unlikely(atomic_load_explicit(&core->sleeping, memory_order_relaxed)))
			thmqi_core_wake(core);
	}
}

/*
 * Run @fn on @core and wait for its result. On the calling thread's own core it runs at once; otherwise the
 * caller drives its own core meanwhile if it has one, or sleeps.
 * Return: fn's value; or it was not run and never will be: -EDEADLK nobody drives @core, or called inside a poll;
 * -ETIMEDOUT it was not begun in time (once begun, its end is waited for, so that @arg may lie on the stack); -ENOMEM.
 */
int thmqi_core_call(struct thmq_core *core, int (*fn)(struct thmq_core *core, void *arg), void *arg,
		    uint64_t timeout_ns);
/* All that was posted to @core before has run then. Return: as thmqi_core_call(). */
int thmqi_core_barrier(struct thmq_core *core, uint64_t timeout_ns);

/* A sleeper outside the cores (a session's thread). Counted, since those who kick it may outlive the sleeper. */
struct thmqi_waiter {
	_Atomic uint32_t sleeping;
	_Atomic uint32_t refs;
	int fd; /* what the sleeper sleeps on: the eventfd, or an epoll over it and the guests' */
	int event_fd;
	uint32_t rings; /* the sleeper's: rises after each sleep: guests' descriptors may have news */
	struct thmqi_list guests;
};
/* Another process that may wake the sleeper: by its own descriptor, where it finds the flag up. All of it the sleeper's. */
struct thmqi_waiter_guest {
	struct thmqi_list link;
	_Atomic uint32_t *sleeping; /* in memory that the other process sees */
	int fd;
};
/* The first one changes waiter->fd. 0; -errno. */
int thmqi_waiter_join(struct thmqi_waiter *w, struct thmqi_waiter_guest *guest);
void thmqi_waiter_part(struct thmqi_waiter *w, struct thmqi_waiter_guest *guest); /* before its descriptor is closed */
int thmqi_waiter_open(struct thmqi_waiter **ret_waiter); /* one reference */
void thmqi_waiter_ref(struct thmqi_waiter *w);
void thmqi_waiter_unref(struct thmqi_waiter *w);
void thmqi_waiter_arm(
	struct thmqi_waiter *w); /* set sleeping, fence; check for work afterwards, then sleep */
void thmqi_waiter_disarm(struct thmqi_waiter *w); /* clear, drain the fd */
int thmqi_waiter_sleep(struct thmqi_waiter *w,
		       uint64_t timeout_ns);    /* poll(2); 1 woken, 0 time-out */
void thmqi_waiter_wake(struct thmqi_waiter *w); /* unconditional write */
static inline void thmqi_waiter_kick(struct thmqi_waiter *w)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (thmqi_unlikely(atomic_load_explicit(&w->sleeping, memory_order_relaxed)))
		thmqi_waiter_wake(w);
}

#endif
