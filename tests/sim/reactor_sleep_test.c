/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_sleep_test.c - the way to sleep and back, with an event at every step of it. Each call that the loop makes
 * outwards between entering a poll and sleeping (polls, arms, hooks, readings of the clock) is a step; for each
 * step k the event comes within it, and the poll must see the event instead of sleeping through it. Events come in
 * every way there is: a post, a kick of a source with and without arm, a completion, a descriptor, a message, a nearer timer; under every
 * policy; also to a core whose thread drives another one first. Exit 0: passed.
 */
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <thundermq/reactor.h>
#include <unistd.h>

#include "reactor/reactor.h"

#define SILENCE_NS                                                                                 \
	300000000ull /* the poll's time-out: reached only if the event was missed, or never came */
#define SOURCES 3u

enum event { POST, KICK_ARMED, KICK_UNARMED, COMPLETION, DESCRIPTOR, TIMER, MESSAGE, EVENTS };
static const char *const event_names[] = {
	"post",  "kick",   "kick of a source without arm", "completion", "descriptor",
	"timer", "message"};

struct source {
	struct thmqi_poller poller; /* first */
	uint32_t published, seen;
};

static struct rig {
	struct thmq_env *env;
	struct thmq_core *lead; /* that is polled */
	struct thmq_core *core; /* where the event comes: the same, or another one of this thread */
	struct thmq_watch *watch;
	struct thmq_mailbox *box;
	struct source sources[SOURCES]; /* 0 has arm, 1 has none, 2 has all hooks and never work */
	struct thmqi_task task;
	struct thmqi_timer timer;
	struct thmqi_ring_op read_op;
	uint64_t value;
	int event_fd;
	enum event event;
	uint32_t step, at; /* the event comes in step number @at */
	bool counting, seen;
	uint64_t happened_ns; /* 0: not yet */
} rig;

static void on_mail(struct thmq_core *core, const struct thmq_mail *mail)
{
	(void)core;
	(void)mail;
	rig.seen = true;
}

static void happen(void)
{
	uint64_t one = 1;

	switch (rig.event) {
	case POST:
		thmqi_core_post(rig.core, &rig.task);
		break;
	case KICK_ARMED:
	case KICK_UNARMED:
		rig.sources[rig.event == KICK_UNARMED].published++;
		thmqi_core_kick(rig.core);
		break;
	case MESSAGE:
		if (thmqi_mailbox_send(rig.box, &(struct thmq_mail){.run = on_mail}) != 0)
			_Exit(1);
		break;
	case DESCRIPTOR:
	case COMPLETION:
		if (write(rig.event_fd, &one, sizeof(one)) < 0)
			_Exit(1);
		break;
	default:
		thmqi_timer_start(rig.core, &rig.timer, thmqi_clock_real.now_ns(NULL) + 1000000);
		break;
	}
}

/* @others: only what other threads do can happen here, and timers and messages are the owner's. */
static void step(bool others)
{
	if (!rig.counting || (others && rig.event >= TIMER) || rig.step++ != rig.at)
		return;
	rig.happened_ns = thmqi_clock_real.now_ns(NULL);
	happen();
}

static int source_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct source *s = (struct source *)p;
	int done = (int)(s->published - s->seen);

	(void)budget;
	if (done)
		rig.seen = true;
	s->seen = s->published;
	step(false); /* behind the look: the worst moment within a poll */
	return done;
}

static bool source_arm(struct thmqi_poller *p)
{
	struct source *s = (struct source *)p;
	bool work = s->published != s->seen;

	step(false);
	return work;
}

static void source_finish(struct thmqi_poller *p)
{
	(void)p;
	step(false);
}

static uint64_t now(void *ctx)
{
	uint64_t ns = thmqi_clock_real.now_ns(ctx);

	step(true);
	return ns;
}

static uint64_t wall(void *ctx)
{
	return thmqi_clock_real.wall_ns(ctx);
}

static void on_task(struct thmq_core *core, struct thmqi_task *task)
{
	(void)core;
	(void)task;
	rig.seen = true;
}

static void on_timer(struct thmqi_timer *t)
{
	(void)t;
	rig.seen = true;
}

static void on_read(struct thmqi_ring_op *op, int res, uint32_t flags)
{
	(void)op;
	(void)res;
	(void)flags;
	rig.seen = true;
}

static void on_ready(void *ctx, uint32_t events)
{
	(void)ctx;
	(void)events;
	rig.seen = rig.happened_ns != 0;
}

/* A way to wait. */
struct way {
	const char *name;
	uint32_t flags, policy;
	bool follows; /* the event comes to a core that its thread took second */
};

static bool set_up(const struct way *w)
{
	static const struct thmqi_clock clock = {.now_ns = now, .wall_ns = wall};
	static const struct thmqi_world world = {.clock = &clock};
	uint32_t i;

	memset(&rig, 0, sizeof(rig));
	if (thmqi_env_open(THMQ_ENV_OPTS(.flags = w->flags, .policy = w->policy, .spin_ns = 1000,
					 .caller_cores = 1 + w->follows),
			   &world, &rig.env) != 0 ||
	    (w->follows && thmqi_core_attach(rig.env, 1) != 0))
		return false;
	rig.lead = thmqi_env_core(rig.env, 0);
	rig.core = thmqi_env_core(rig.env, w->follows);
	rig.task.run = on_task;
	rig.timer.fire = on_timer;
	rig.read_op.done = on_read;
	rig.event_fd = eventfd(0, EFD_CLOEXEC);
	if (thmqi_mailbox_open(rig.lead, rig.core, THMQ_MAILBOX_OPTS(.depth = 8), &rig.box) != 0)
		return false;
	for (i = 0; i < SOURCES; i++) {
		rig.sources[i].poller.poll = source_poll;
		rig.sources[i].poller.arm = i == 1 ? NULL : source_arm;
		rig.sources[i].poller.finish = i == 2 ? source_finish : NULL;
		thmqi_core_add_poller(rig.core, &rig.sources[i].poller);
	}
	return true;
}

static void tear_down(void)
{
	thmqi_timer_stop(rig.core, &rig.timer);
	thmqi_mailbox_close(rig.box);
	if (rig.watch)
		thmqi_watch_close(rig.watch);
	thmqi_env_close(rig.env);
	close(rig.event_fd);
}

/* Return: 1 seen, 0 there is no step @at before the time is over, -1 missed. */
static int try_step(const struct way *w, enum event event, uint32_t at)
{
	uint64_t before;
	bool late;

	if (!set_up(w))
		return -1;
	rig.event = event;
	if (event == DESCRIPTOR &&
	    thmqi_watch_open(rig.core, rig.event_fd, POLLIN, on_ready, NULL, &rig.watch) != 0)
		return -1;
	thmqi_core_poll(rig.lead, 0);
	if (event == COMPLETION)
		thmqi_ring_read(rig.core->ring, rig.event_fd, -1, NULL, &rig.value, 8, 0,
				&rig.read_op);
	rig.at = at;
	rig.counting = true;
	before = thmqi_clock_real.now_ns(NULL);
	thmqi_core_poll(rig.lead, SILENCE_NS);
	late = thmqi_clock_real.now_ns(NULL) - before >= SILENCE_NS;
	rig.counting = false;
	tear_down();
	if (!rig.happened_ns || rig.happened_ns - before >= SILENCE_NS)
		return 0;
	return rig.seen && !late ? 1 : -1;
}

static int try_all(const struct way *w, uint32_t last)
{
	uint32_t event, at, seen;
	bool ring;
	int rc, failed = 0;

	if (!set_up(w))
		return 1;
	ring = rig.core->ring != NULL;
	tear_down();
	for (event = 0; event < EVENTS; event++) {
		if (event == COMPLETION && !ring)
			continue;
		for (at = 0, seen = 0; at < last; at++) {
			rc = try_step(w, event, at);
			if (rc < 0) {
				printf("%s: a %s in step %u was slept through\n", w->name,
				       event_names[event], at);
				failed = 1;
			}
			if (rc == 0)
				break;
			seen++;
		}
		printf("%s: %s: seen in %u steps\n", w->name, event_names[event], seen);
		failed |= seen < 8;
	}
	return failed;
}

int main(void)
{
	static const struct way ways[] = {
		{"event, ring", 0, THMQ_POLICY_EVENT, false},
		{"event, no ring", THMQ_ENV_NO_URING, THMQ_POLICY_EVENT, false},
		{"event, second core", 0, THMQ_POLICY_EVENT, true},
		{"event, second core, no ring", THMQ_ENV_NO_URING, THMQ_POLICY_EVENT, true},
		{"poll", 0, THMQ_POLICY_POLL, false},
		{"fixed, ring", 0, THMQ_POLICY_FIXED, false},
		{"fixed, second core", 0, THMQ_POLICY_FIXED, true},
		{"ski, ring", 0, THMQ_POLICY_SKI, false},
		{"adaptive, ring", 0, THMQ_POLICY_ADAPTIVE, false},
		{"adaptive, no ring", THMQ_ENV_NO_URING, THMQ_POLICY_ADAPTIVE, false},
		{"predictive, ring", 0, THMQ_POLICY_PREDICTIVE, false},
	};
	int failed = 0;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(ways); i++)
		failed |= try_all(&ways[i], ways[i].policy == THMQ_POLICY_EVENT  ? 64
					    : ways[i].policy == THMQ_POLICY_POLL ? 40
										 : 2000);
	return failed;
}
