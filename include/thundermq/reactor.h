/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor.h - cores, for those who build on the library's parts: a core as a handle, and the ways onto it.
 *
 * A core is a run-to-completion loop. What lies on it (a log with its readers, a poller) is touched by the thread that
 * drives it and by nobody else: that is why none of it needs a lock. In a caller-driven environment this thread is the
 * host's (thmq_core_attach(), thmq_poll()), which simply makes the calls. On a core that a thread of the library drives
 * they are made by functions that run there: thmq_core_call() for one and its answer, thmq_core_post() for
 * one without, a timer for what is done at a time, a poller for what is looked at again and again. Cores talk to each
 * other through mailboxes, and wait for the descriptors that they watch.
 *
 * What runs on a core neither blocks nor takes long: nothing else on this core moves meanwhile. Opening and closing
 * (thmq_log_open() and the like) may. Inside of it all calls that wait are -EDEADLK. doc/cores.md tells more.
 */
#ifndef THUNDERMQ_REACTOR_H
#define THUNDERMQ_REACTOR_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_core;

/**
 * thmq_env_core() - a core of an environment
 * @core_index: 0 … count - 1; thmq_env_stats() has the count
 * Return: the core, the environment's, valid until that closes; NULL there is no such core (thmq_errmsg() tells).
 * Threads: any; but what may be done with it is said at each call.
 */
THMQ_API struct thmq_core *thmq_env_core(struct thmq_env *env, uint32_t core_index);

/**
 * thmq_core_is_mine() - does the calling thread drive this core?
 * Return: 1 yes, what lies on it may be touched; 0 no.
 * Threads: any.
 */
THMQ_API int thmq_core_is_mine(const struct thmq_core *core);

/* -------------------------------------------------------------------- calls */

/**
 * thmq_core_call() - run a function on a core and wait for what it returns
 * @fn: called once, on the core; like all that runs there it does not wait. @arg is its argument
 * @timeout_ns: how long it may take until it is begun; once begun, its end is waited for
 *
 * On the calling thread's own core it runs at once. Otherwise the caller drives its own core meanwhile, if it has one, and
 * sleeps if not. When the call returns nobody uses @arg any more, so that it may lie on the stack.
 *
 * Return: what @fn returned (let it put its own errors into @arg where they must be told from these); or it was not
 * run and never will be: -EDEADLK nobody drives the core, or called from within a callback; -ETIMEDOUT; -ENOMEM;
 * -EINVAL no core or no function.
 * Threads: any that may block.
 */
THMQ_API int thmq_core_call(struct thmq_core *core, int (*fn)(struct thmq_core *core, void *arg),
			    void *arg, uint64_t timeout_ns);

/* What is to be done on a core. Usually a member of something larger. */
struct thmq_task {
	void (*run)(struct thmq_core *core, struct thmq_task *task);
	void *internal[2];
};

/**
 * thmq_core_post() - have a task run on a core, without waiting
 * @task: its run is called once, in one of the core's next iterations, also of a core without an owner once it has one
 *
 * The task is the core's from the call on until run is called, which may free it or post it again; who posts it while it is under
 * way breaks the list that it is in. Tasks of one thread run in their order. What was posted when the environment closes runs
 * before it has closed, but for tasks that are posted again and again by tasks: some thousand rounds of that, and the rest never runs.
 *
 * Return: 0; -EINVAL. It takes no lock and no memory, and wakes the core if it sleeps.
 * Threads: any; also from a signal handler.
 */
THMQ_API int thmq_core_post(struct thmq_core *core, struct thmq_task *task);

/* ---------------------------------------------------------------- mailboxes */

/* A message from one core to another: a cache line, with the word that the mailbox adds. */
struct thmq_mail {
	/* Called once, on the core that the mailbox leads to. @mail is there until it returns. Like all that runs on a core it does
	 * not wait. */
	void (*run)(struct thmq_core *core, const struct thmq_mail *mail);
	void *object;     /* these are the sender's to fill: all bytes are carried over */
	uint64_t word[5];
};

struct thmq_mailbox;

struct thmq_mailbox_opts {
	uint32_t size;  /* sizeof(struct thmq_mailbox_opts) */
	uint32_t flags; /* none yet */
	uint32_t depth; /* messages that it holds, 2 … THMQ_MAILBOX_DEPTH_MAX, rounded up to a power of two; 0: 256 */
	uint32_t reserved;
	/* Called on the sending core after a send that was refused for want of room, once there is some again: about a quarter of
	 * the depth. Now and then for nothing. NULL: the sender tries again by itself. */
	void (*room)(void *ctx);
	void *ctx;
};
#define THMQ_MAILBOX_OPTS(...) \
	(&(const struct thmq_mailbox_opts){.size = sizeof(struct thmq_mailbox_opts), __VA_ARGS__})
#define THMQ_MAILBOX_DEPTH_MAX 65536u
/** thmq_mailbox_opts_init() - defaults, for languages without the macro. Threads: any. */
THMQ_API void thmq_mailbox_opts_init(struct thmq_mailbox_opts *opts, uint32_t size);
#define thmq_mailbox_opts_init(opts) thmq_mailbox_opts_init((opts), sizeof(struct thmq_mailbox_opts))

/**
 * thmq_mailbox_open() - a way for messages from one core to another of its environment
 * @from: whose thread sends  @to: where messages run; the same core is allowed
 * @opts: copied; NULL: defaults
 * @ret_mailbox: out; the app's until thmq_mailbox_close(), or its environment closes
 *
 * A bounded ring with one sender and one receiver: no lock, no memory per message, and one transfer of one cache line between the two
 * processors. It needs no answer of @to's: also that of a core without an owner can be opened and filled. There may be several of
 * one pair, each with its own order. An empty one costs its receiver a look in each iteration, so open those that are used.
 *
 * Return: 0; -EPERM the calling thread does not drive @from; -EINVAL no core, cores of two environments, a depth out of bounds,
 * no place for the handle; -E2BIG a larger struct than is known with something in its excess; -ENOMEM.
 * Threads: the one that drives @from.
 */
THMQ_API int thmq_mailbox_open(struct thmq_core *from, struct thmq_core *to,
			       const struct thmq_mailbox_opts *opts,
			       struct thmq_mailbox **ret_mailbox);

/**
 * thmq_mailbox_send() - have a message run on the core that the mailbox leads to
 * @mail: copied
 *
 * Messages of one mailbox run in the order in which they were sent, and each of them runs, also if the mailbox or the environment is
 * closed meanwhile. What the sender wrote to memory before is visible to them. A receiver that spins sees a message at once. One that
 * sleeps is woken once for all that was sent in an iteration of the sender's, at its end; outside of an iteration at
 * once; and who cannot wait for the end calls thmq_core_kick().
 *
 * For an answer the two cores have a mailbox each way, and the request carries the address of what waits for it: where the
 * requester has never more requests on their way than three quarters of the depth of the mailbox of the answers, answering cannot fail (of
 * the last quarter it may not be known yet that it is free). doc/cores.md shows it.
 *
 * Return: 0; -EAGAIN full: nothing was sent, see struct thmq_mailbox_opts about room; -ESHUTDOWN the environment closes: nothing was sent;
 * -EPERM the calling thread does not drive the sending core; -EINVAL no mailbox, no message, none to run.
 * Threads: the one that drives the sending core; never blocks, takes no lock and no memory.
 */
THMQ_API int thmq_mailbox_send(struct thmq_mailbox *mailbox, const struct thmq_mail *mail);

/**
 * thmq_mailbox_close() - no more messages; those that were sent run all the same, before anything that is posted to the
 * receiver afterwards
 * Does not wait for them. room is not called any more.
 * Return: 0; -EPERM the calling thread does not drive the sending core. NULL is allowed.
 * Threads: the one that drives the sending core.
 */
THMQ_API int thmq_mailbox_close(struct thmq_mailbox *mailbox);
/* ------------------------------------------------------------------- timers */

/* Something to be done at a time. Usually a member of something larger; all zero but fire before its first start. */
struct thmq_timer {
	/* Called once for each start, on the core. May start, stop and free any timer, this one too. */
	void (*fire)(struct thmq_core *core, struct thmq_timer *timer);
	uint64_t deadline_ns; /* read only: that of its last start */
	void *internal[6];
};

/**
 * thmq_core_now_ns() - the core's time
 * Monotonic nanoseconds, as CLOCK_MONOTONIC, or a test's own. In what the core calls it is the time at which the iteration
 * began, without a look at the clock (a spinning core looks every 16 iterations); elsewhere the clock is read.
 * Return: the time; -EPERM the calling thread does not drive @core; -EINVAL no core.
 * Threads: the one that drives @core.
 */
THMQ_API int64_t thmq_core_now_ns(struct thmq_core *core);

/**
 * thmq_timer_start() - have a timer fire at a time; one that runs is moved
 * @deadline_ns: on the scale of thmq_core_now_ns(); one that has passed fires in the next iteration; UINT64_MAX never
 *
 * Never fires early, and at most 1024 ns and the core's own delay late; in the order of deadlines, by ticks of 1024 ns. For a
 * period start it again in its fire, for its deadline_ns and the period. While it runs its memory is the core's. A core without an
 * owner fires nothing until it has one; those that run when the environment closes are stopped.
 *
 * Return: 0; -EPERM the calling thread does not drive @core; -EBUSY it runs on another core; -EINVAL no core, timer or fire.
 * It takes no memory, and a fixed number of steps however many run. Threads: the one that drives @core.
 */
THMQ_API int thmq_timer_start(struct thmq_core *core, struct thmq_timer *timer, uint64_t deadline_ns);

/**
 * thmq_timer_stop() - have it not fire; afterwards it is not the core's any more
 * Return: 1; 0 it did not run (it has fired, or was not started), or NULL; -EPERM the calling thread does not drive its core.
 * Threads: the one that drives its core.
 */
THMQ_API int thmq_timer_stop(struct thmq_timer *timer);

/* ------------------------------------------------------------------ pollers */

struct thmq_poller;

/* A source of work. All are called on the core, with the poller's ctx; all but poll may be NULL. */
struct thmq_poller_ops {
	uint32_t size; /* sizeof(struct thmq_poller_ops) */
	uint32_t reserved;
	/* In each iteration: do what is there, @budget pieces at most. Return: how many were done, 0 for none: then the core may
	 * sleep. */
	int (*poll)(void *ctx, uint32_t budget);
	/* The core is about to sleep. Return: not 0, there is work after all. Who makes work later calls thmq_core_kick(). */
	int (*arm)(void *ctx);
	/* It did not, or is awake again. */
	void (*disarm)(void *ctx);
	/* At the end of an iteration in which anything was done on the core: hand on what has gathered. */
	void (*finish)(void *ctx);
	/* The environment closes, and the poller is still open: it is closed after this. To close it here too does no harm. */
	void (*end)(void *ctx);
	const char *name; /* for thmq_core_stats(); copied, up to THMQ_POLLER_NAME - 1 bytes of it; may be NULL */
};
#define THMQ_POLLER_NAME 32u

/**
 * thmq_poller_open() - have a function called in each iteration of a core
 * @ops: copied
 * @ret_poller: out; the app's until thmq_poller_close(), or its environment closes
 * Return: 0; -EPERM the calling thread does not drive @core; -EINVAL no poll; -E2BIG a larger struct than is known with
 * something in its excess; -ENOMEM.
 * Threads: the one that drives @core.
 */
THMQ_API int thmq_poller_open(struct thmq_core *core, const struct thmq_poller_ops *ops, void *ctx,
			      struct thmq_poller **ret_poller);

/**
 * thmq_poller_close() - no more calls of it; also from within one of them
 * Return: 0; -EPERM the calling thread does not drive its core. NULL is allowed.
 * Threads: the one that drives its core.
 */
THMQ_API int thmq_poller_close(struct thmq_poller *poller);

/**
 * thmq_core_kick() - there is work in memory that a poller of this core looks at: see to it that it does so soon
 * First the work, visible to other threads, then this call: a full memory barrier, and a look whether the core sleeps. It costs
 * little where the core is awake. Needed for pollers only; ring completions, tasks, messages and timers wake a core by themselves.
 * Return: 0; -EINVAL no core.
 * Threads: any.
 */
THMQ_API int thmq_core_kick(struct thmq_core *core);

/* ------------------------------------------------------------- descriptors */

struct thmq_watch;

/**
 * thmq_watch_open() - be called on a core when a descriptor becomes ready
 * @fd: a socket, pipe, eventfd …, not blocking; the app's, and open until after thmq_watch_close()
 * @events: POLLIN, POLLOUT, POLLRDHUP of poll(2); errors and hang-ups are told in any case
 * @ready: called on the core with the events of poll(2) that have occurred; POLLERR also where watching has failed
 * @ret_watch: out; the app's until thmq_watch_close(), or its environment closes
 *
 * It tells once if the descriptor is ready already, and then when that has changed: read, write or accept until -EAGAIN, or come back to
 * it by yourself, as nobody reminds you of what is left. It may be called for nothing. A core that sleeps is woken.
 *
 * Return: 0; -EPERM the calling thread does not drive @core, or @fd cannot be waited for; -EINVAL; -EBADF; -EEXIST, where there is no
 * io_uring: it is watched already; -EAGAIN the core's ring is full; -ENOMEM.
 * Threads: the one that drives @core.
 */
THMQ_API int thmq_watch_open(struct thmq_core *core, int fd, uint32_t events,
			     void (*ready)(void *ctx, uint32_t events), void *ctx,
			     struct thmq_watch **ret_watch);

/**
 * thmq_watch_close() - no more calls of it; also from within one of them
 * The descriptor may be closed afterwards.
 * Return: 0; -EPERM the calling thread does not drive its core. NULL is allowed.
 * Threads: the one that drives its core.
 */
THMQ_API int thmq_watch_close(struct thmq_watch *watch);
/* --------------------------------------------------------------- duty cycle */

/* What an iteration consists of, in its order. */
enum thmq_core_phase {
	THMQ_PHASE_COMPLETIONS = 0, /* of the io_uring, with what they set off */
	THMQ_PHASE_POSTS = 1,       /* tasks and calls */
	THMQ_PHASE_TIMERS = 2,
	THMQ_PHASE_POLLERS = 3,
	THMQ_PHASE_FINISH = 4, /* the pollers' ends of an iteration */
	THMQ_PHASE_SUBMIT = 5
};
#define THMQ_CORE_PHASES 8u /* room for more */
#define THMQ_CORE_LENGTHS 32u

/* What a core has spent its time on. Grows at the end. busy, idle, slept, away and current add up to counted. */
struct thmq_core_stats {
	uint32_t size; /* in: sizeof of the caller's struct */
	uint32_t core_index;
	uint64_t counted_ns; /* since the core was opened, or the last reset */
	uint64_t busy_ns;    /* iterations in which something was done */
	uint64_t idle_ns;    /* iterations in which nothing was: spinning */
	uint64_t slept_ns;   /* in the kernel, or armed in a host's own loop */
	uint64_t away_ns;    /* of a core that the host drives: its thread was elsewhere, or there was none */
	uint64_t current_ns; /* since the core last looked at the clock, not counted yet: what is long here has not come back */
	uint64_t iterations;
	uint64_t busy_iterations;
	uint64_t lengths[THMQ_CORE_LENGTHS]; /* iterations that took 2^n ns up to the next n; the last: and all longer ones */
	uint64_t longest_ns;                 /* the longest iteration … */
	uint64_t longest_at_ns;              /* … ended then (monotonic) */
	/* Where its time went, if it was measured in detail, else all zero. By enum thmq_core_phase. */
	uint64_t longest_phase_ns[THMQ_CORE_PHASES];
	uint64_t longest_poller_ns;            /* the slowest one in it, poll or finish, … */
	char longest_poller[THMQ_POLLER_NAME]; /* … and its name */
	/* Of all iterations that were measured in detail. */
	uint64_t detailed_iterations;
	uint64_t phase_ns[THMQ_CORE_PHASES];
	uint32_t detailed; /* 1: they are now */
	uint32_t reserved;
	/* What reached it from elsewhere. */
	uint64_t mail_sent;    /* messages that it has sent through mailboxes, … */
	uint64_t mail_run;     /* … and run */
	uint64_t mail_refused; /* sends that found their mailbox full */
	uint64_t posts_run;    /* tasks, calls, and what the library itself posts to it */
	/* How it waits. A wait begins when the core finds nothing to do, and ends with work. Several cores of one thread wait as
	 * one: the figures are those of the core that the thread took first. */
	uint32_t policy;         /* in charge, enum thmq_policy: ADAPTIVE under PREDICTIVE while no forecast is trusted */
	uint32_t forecast_model; /* PREDICTIVE: in charge of the forecast, enum thmq_forecast_model; else 0 */
	uint64_t spin_hits;      /* waits that ended while it spun */
	uint64_t spin_misses;    /* waits that it slept in, having spun for nothing, if it did */
	uint64_t sleeps;
	uint64_t budget_ns;       /* how long it would spin now; UINT64_MAX: for ever */
	uint64_t retries;         /* the same in looks at all sources that find nothing */
	uint64_t expected_gap_ns; /* PREDICTIVE: between two pieces of work, by the newest forecast; 0: there is none */
	/* PREDICTIVE. Not set back by a reset. */
	uint64_t forecast_ticks;  /* tenths of a second that the forecaster was fed */
	uint64_t forecast_cpu_ns; /* what it took, in the core or in a thread of its own */
	uint64_t forecast_ratio;  /* error of the model in charge to that of naive, in thousandths; 0: not measured */
	uint32_t wake_cpu_ns;     /* what a sleep is taken to cost: see struct thmq_env_opts */
	uint32_t wake_latency_ns;
};

/**
 * thmq_core_stats() - copy what a core has spent its time on
 * @ret_stats: in: its size field; out: the statistics, each number right by itself
 *
 * They cost the core next to nothing, so that they are always kept: its iterations are timed by the looks at the clock that it takes
 * anyway. Idle ones are timed by up to 16, and one among them that took long is told by what is left without the others.
 *
 * Return: 0; -EINVAL no core, or size below 8.
 * Threads: any; does not disturb the core, and answers also if that is stuck.
 */
THMQ_API int thmq_core_stats(struct thmq_core *core, struct thmq_core_stats *ret_stats);

/**
 * thmq_core_stats_detail() - have a core measure what its iterations spend their time on, or not
 * @on: 1: from its next iteration on, phase by phase and poller by poller, each of which takes a look at the clock (some ten
 * nanoseconds); 0: no more
 * Return: 0; -EINVAL no core.
 * Threads: any.
 */
THMQ_API int thmq_core_stats_detail(struct thmq_core *core, int on);

/**
 * thmq_core_stats_reset() - let a core count anew
 * @timeout_ns: how long to wait for a core that another thread drives
 * Return: 0; -EDEADLK nobody drives it, or called from a callback of another core; -ETIMEDOUT; -ENOMEM; -EINVAL no core.
 * Threads: any that may block; on the core itself also in callbacks, at once.
 */
THMQ_API int thmq_core_stats_reset(struct thmq_core *core, uint64_t timeout_ns);

#ifdef __cplusplus
}
#endif
#endif
