/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_far_timer_test.c - a core that sleeps long, since its only timer is far away, or as far as a number reaches. It sleeps
 * without waking up in between, costs nothing meanwhile, and is woken by every kind of event: a post, a kick, a completion, a
 * descriptor, a message from another core; a nearer timer that one of those sets fires in time. With and without io_uring.
 * What an event in the middle of falling asleep does is reactor_sleep_test's.
 *
 * usage: reactor_far_timer_test [milliseconds of each sleep]; default 150, in an emulated machine 600. Exit 0: passed.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <thundermq/reactor.h>
#include <time.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define MS 1000000ull
#define LATE_NS                                                                                    \
	(4000 * MS) /* a machine that others use is late, too; who slept through it never comes */
#define HOUR_NS 3600000000000ull

enum event { POST, KICK, COMPLETION, DESCRIPTOR, MESSAGE, TIMER, EVENTS };
static const char *const names[] = {"post",       "kick",    "completion",
				    "descriptor", "message", "nearer timer"};

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s, %s, line %d: %s\n", way, names[event], __LINE__, #x); \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *way;
static enum event event;

static struct rig {
	struct thmq_env *env;
	struct thmq_core *core, *other;
	struct thmqi_poller source; /* whose work is a kick */
	_Atomic uint32_t published;
	uint32_t taken;
	struct thmq_mailbox *box;
	struct thmq_watch *watch;
	struct thmqi_task task;
	struct thmqi_timer far, near;
	struct thmqi_ring_op read_op;
	uint64_t value;
	int read_fd, watch_fd;
	uint64_t sleep_ns;
	_Atomic uint64_t happened_ns;
	uint64_t seen_ns;
} rig;

static uint64_t now(void)
{
	return thmqi_clock_real.now_ns(NULL);
}

static void see(void)
{
	if (!rig.seen_ns)
		rig.seen_ns = now();
}

static void on_task(struct thmq_core *core, struct thmqi_task *task)
{
	(void)task;
	if (event == TIMER)
		thmqi_timer_start(core, &rig.near, now() + 20 * MS);
	else
		see();
}

static void on_near(struct thmqi_timer *t)
{
	(void)t;
	see();
}

static void on_far(struct thmqi_timer *t)
{
	(void)t;
	CHECK(!"an hour is over");
}

static void on_read(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	(void)op;
	(void)res;
	(void)flags;
	see();
}

static void on_ready(void *ctx, uint32_t events)
{
	uint64_t count;

	(void)ctx;
	(void)events;
	if (read(rig.watch_fd, &count, sizeof(count)) > 0)
		see();
}

static void on_mail(struct thmq_core *core, const struct thmq_mail *mail)
{
	(void)core;
	(void)mail;
	see();
}

static int source_poll(struct thmqi_poller *p, uint32_t budget)
{
	uint32_t published = atomic_load(&rig.published), done = published - rig.taken;

	(void)p;
	(void)budget;
	rig.taken = published;
	if (done)
		see();
	return (int)done;
}

static bool source_arm(struct thmqi_poller *p)
{
	(void)p;
	return atomic_load(&rig.published) != rig.taken;
}

/* Another thread, which has the other core for a message: makes it happen when the core has slept for long. */
static void *make_it_happen(void *arg)
{
	struct timespec t = {.tv_sec = (time_t)(rig.sleep_ns / 1000000000u),
			     .tv_nsec = (long)(rig.sleep_ns % 1000000000u)};
	uint64_t one = 1;

	(void)arg;
	if (event == MESSAGE) {
		CHECK(thmqi_core_attach(rig.env, 1) == 0);
		CHECK(thmqi_mailbox_open(rig.other, rig.core, THMQ_MAILBOX_OPTS(.depth = 8),
					 &rig.box) == 0);
	}
	nanosleep(&t, NULL);
	atomic_store(&rig.happened_ns, now());
	switch (event) {
	case KICK:
		atomic_fetch_add(&rig.published, 1);
		thmqi_core_kick(rig.core);
		break;
	case COMPLETION:
		CHECK(write(rig.read_fd, &one, sizeof(one)) == sizeof(one));
		break;
	case DESCRIPTOR:
		CHECK(write(rig.watch_fd, &one, sizeof(one)) == sizeof(one));
		break;
	case MESSAGE:
		CHECK(thmqi_mailbox_send(rig.box, &(struct thmq_mail){.run = on_mail}) == 0);
		thmqi_core_poll(rig.other, 0);
		thmqi_mailbox_close(rig.box);
		thmqi_core_poll(rig.other, 0);
		CHECK(thmqi_core_detach(rig.env) == 0);
		break;
	default:
		thmqi_core_post(rig.core, &rig.task);
		break;
	}
	return NULL;
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void set_up(uint32_t flags, uint64_t far_ns)
{
	uint64_t sleep_ns = rig.sleep_ns;

	rig = (struct rig){.sleep_ns = sleep_ns};
	CHECK(thmqi_env_open(
		      THMQ_ENV_OPTS(.flags = flags, .policy = THMQ_POLICY_EVENT, .caller_cores = 2),
		      NULL, &rig.env) == 0);
	rig.core = thmqi_env_core(rig.env, 0);
	rig.other = thmqi_env_core(rig.env, 1);
	rig.source = (struct thmqi_poller){.poll = source_poll, .arm = source_arm};
	rig.task.run = on_task;
	rig.near.fire = on_near;
	rig.far.fire = on_far;
	rig.read_op.done = on_read;
	rig.read_fd = eventfd(0, EFD_CLOEXEC);
	rig.watch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(thmqi_watch_open(rig.core, rig.watch_fd, POLLIN, on_ready, NULL, &rig.watch) == 0);
	thmqi_core_add_poller(rig.core, &rig.source);
	thmqi_timer_start(rig.core, &rig.far,
			  far_ns == UINT64_MAX ? UINT64_MAX - 1 : now() + far_ns);
	if (rig.core->ring)
		thmqi_ring_read(rig.core->ring, rig.read_fd, -1, NULL, &rig.value, 8, 0,
				&rig.read_op);
	thmqi_core_poll(rig.core, 0);
}

static void tear_down(void)
{
	uint64_t one = 1;

	if (rig.core->ring && event != COMPLETION) { /* the read is still out */
		CHECK(write(rig.read_fd, &one, sizeof(one)) == sizeof(one));
		while (thmqi_ring_inflight(rig.core->ring) > 0 &&
		       thmqi_core_poll(rig.core, 100 * MS) > 0)
			;
	}
	thmqi_timer_stop(rig.core, &rig.far);
	thmqi_timer_stop(rig.core, &rig.near);
	thmqi_core_remove_poller(rig.core, &rig.source);
	thmqi_watch_close(rig.watch);
	thmqi_core_poll(rig.core, 0);
	CHECK(thmqi_env_close(rig.env) == 0);
	close(rig.read_fd);
	close(rig.watch_fd);
}

static void sleep_once(uint32_t flags, uint64_t far_ns)
{
	uint64_t cpu, sleeps, end;
	pthread_t thread;

	set_up(flags, far_ns);
	if (event == COMPLETION && !rig.core->ring) {
		tear_down();
		return;
	}
	CHECK(pthread_create(&thread, NULL, make_it_happen, NULL) == 0);
	cpu = thread_cpu_ns();
	sleeps = rig.core->sleeps;
	for (end = now() + rig.sleep_ns + 4 * LATE_NS; !rig.seen_ns && now() < end;)
		thmqi_core_poll(rig.core, UINT64_MAX);
	sleeps = rig.core->sleeps - sleeps;
	cpu = thread_cpu_ns() - cpu;
	pthread_join(thread, NULL);
	CHECK(rig.seen_ns && rig.seen_ns >= rig.happened_ns);
	CHECK(rig.seen_ns - rig.happened_ns < LATE_NS);
	/* it neither looked around meanwhile nor spun */
	CHECK(sleeps <= 6 && cpu < rig.sleep_ns / 3);
	tear_down();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		uint32_t flags;
		uint64_t far_ns;
	} ways[] = {
		{"ring, an hour", 0, HOUR_NS},
		{"ring, 290 years", 0, UINT64_MAX / 2},
		{"ring, for ever", 0, UINT64_MAX},
		{"no ring, an hour", THMQ_ENV_NO_URING, HOUR_NS},
		{"no ring, for ever", THMQ_ENV_NO_URING, UINT64_MAX},
	};
	size_t i;

	rig.sleep_ns = (argc > 1                   ? strtoull(argv[1], NULL, 10)
			: getenv("THMQ_TEST_SLOW") ? 600
						   : 150) *
		       MS;
	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		way = ways[i].name;
		for (event = 0; event < EVENTS; event++)
			if (i == 0 || ways[i].flags || event == POST || event == COMPLETION ||
			    event == TIMER)
				sleep_once(ways[i].flags, ways[i].far_ns);
		printf("ok %s\n", way);
	}
	return 0;
}
