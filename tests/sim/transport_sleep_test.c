/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_sleep_test.c - reactor_sleep_test.c for what comes from another environment: shared memory's doorbell, and sockets. Whoever goes to sleep
 * (the broker's core, the client's core, the client's thread without one) is watched on its way: each look at the clock, each poller before
 * and behind the transport's, each arm, and the last moment before the system call that sleeps, is a step. For each step k the other side acts
 * within it, and the sleeper must not fall asleep, or must be woken at once. One thread drives all of it.
 *
 * Linked with --wrap of the two calls that sleep. Exit 0: passed.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <thundermq/thundermq.h>

#include "api/api.h"

#define SECOND 1000000000ull
#define SILENCE_NS 30000000ull /* a sleep into which nothing comes */
#define STEPS_MAX 200u
#define SEEN_MIN 8u
#define TRIES 4u
#define ROUNDS 16u /* of the side that acts: enough for all that it has to do */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

enum sleeper { BROKER_CORE, CLIENT_CORE, CLIENT_THREAD };

static struct rig {
	struct thmq_env *home,
		*away; /* the broker's, the client's: this thread drives the cores of both */
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmqi_poller first, last; /* of the core that sleeps */
	pthread_t server;
	_Atomic bool ready;
	enum sleeper sleeper;
	int64_t sent;
	/* the try under way */
	uint32_t step, at;
	bool counting, happened, acts, missed;
} rig;

/* -------------------------------------------------------------------- events */

static void drive(struct thmq_env *env)
{
	for (uint32_t i = 0; i < ROUNDS; i++)
		CHECK(thmq_poll(env, 0) >= 0);
}

static void happen(void)
{
	rig.acts = true;
	if (rig.sleeper == BROKER_CORE) {
		rig.sent = thmq_send(rig.producer, "m", 1, NULL);
		CHECK(rig.sent > 0);
		drive(rig.away);
	} else {
		drive(rig.home);
		if (rig.sleeper == CLIENT_THREAD)
			drive(rig.away);
	}
	rig.acts = false;
	rig.happened = true;
}

static void step(void)
{
	if (rig.counting && !rig.acts && rig.step++ == rig.at)
		happen();
}

static uint64_t now(void *ctx)
{
	uint64_t ns = thmqi_clock_real.now_ns(ctx);

	step();
	return ns;
}

static uint64_t wall(void *ctx)
{
	return thmqi_clock_real.wall_ns(ctx);
}

static int step_poll(struct thmqi_poller *p, uint32_t budget)
{
	(void)p;
	(void)budget;
	step();
	return 0;
}

static bool step_arm(struct thmqi_poller *p)
{
	(void)p;
	step();
	return false;
}

static void step_finish(struct thmqi_poller *p)
{
	(void)p;
	step();
}

/* -------------------------------------------------------------------- sleeping */

int __real_thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns);
int __wrap_thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns);
int __real_ppoll(struct pollfd *p, nfds_t count, const struct timespec *t, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *p, nfds_t count, const struct timespec *t, const sigset_t *mask);

/* What has happened before the sleep has to end it. */
static void slept(int rc)
{
	if (rig.counting && !rig.acts && rig.happened && rc == 0)
		rig.missed = true;
}

int __wrap_thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns)
{
	int rc;

	step();
	rc = __real_thmqi_ring_wait(r, timeout_ns);
	slept(rc);
	return rc;
}

int __wrap_ppoll(struct pollfd *p, nfds_t count, const struct timespec *t, const sigset_t *mask)
{
	int rc;

	step();
	rc = __real_ppoll(p, count, t, mask);
	slept(rc);
	return rc;
}

/* ---------------------------------------------------------------- set up, tear down */

/* While the client waits for answers, the broker's core is another thread's. */
static void *serve(void *arg)
{
	(void)arg;
	CHECK(thmq_core_attach(rig.home, 0) == 0);
	while (!atomic_load(&rig.ready))
		thmq_poll(rig.home, 1000000);
	CHECK(thmq_core_detach(rig.home) == 0);
	return NULL;
}

static void serve_begin(void)
{
	CHECK(thmq_core_detach(rig.home) == 0);
	atomic_store(&rig.ready, false);
	CHECK(pthread_create(&rig.server, NULL, serve, NULL) == 0);
}

static void serve_end(void)
{
	atomic_store(&rig.ready, true);
	pthread_join(rig.server, NULL);
	CHECK(thmq_core_attach(rig.home, 0) == 0);
}

static void set_up(const char *medium, uint32_t flags)
{
	static const struct thmqi_clock clock = {.now_ns = now, .wall_ns = wall};
	static const struct thmqi_world world = {.clock = &clock};
	const struct thmq_env_opts *opts =
		THMQ_ENV_OPTS(.flags = flags, .policy = THMQ_POLICY_EVENT);
	static unsigned rigs;
	char listen[64] = "tcp://127.0.0.1:0", url[128];

	memset(&rig, 0, sizeof(rig));
	/* another name each time: the kernel may still hold the last socket for a ring that has gone */
	if (medium[0] == 's')
		snprintf(listen, sizeof(listen), "shm://@thundermq-sleep-%d-%u", (int)getpid(),
			 ++rigs);
	CHECK(thmqi_api_env_open(opts, &world, &rig.home) == 0);
	CHECK(thmqi_api_env_open(opts, &world, &rig.away) == 0);
	CHECK(thmq_broker_open(rig.home, THMQ_BROKER_OPTS(.listen = listen), &rig.broker) == 0);
	CHECK(thmq_broker_listen_url(rig.broker, 0, url, sizeof(url)) > 0);
	serve_begin();
	CHECK(thmq_connect(rig.away, url, NULL, &rig.session) == 0);
	CHECK(thmq_topic_create(rig.session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) ==
	      0);
	CHECK(thmq_producer_open(rig.session, "t",
				 THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY),
				 &rig.producer) == 0);
	serve_end();
	rig.first = (struct thmqi_poller){
		.poll = step_poll, .arm = step_arm, .disarm = step_finish, .finish = step_finish};
	rig.last = rig.first;
}

static struct thmq_core *core_of(enum sleeper who)
{
	return thmqi_env_core(who == BROKER_CORE ? rig.home : rig.away, 0);
}

static void settle(void)
{
	uint64_t until = thmqi_clock_real.now_ns(NULL) + 20 * SECOND;

	while (thmq_watermark(rig.producer) < rig.sent) {
		CHECK(thmq_poll(rig.away, 0) >= 0);
		CHECK(thmq_poll(rig.home, 0) >= 0);
		CHECK(thmqi_clock_real.now_ns(NULL) < until);
	}
	drive(rig.home);
	drive(rig.away);
}

static void tear_down(void)
{
	serve_begin();
	CHECK(thmq_session_close(rig.session, 10 * SECOND) == 0);
	CHECK(thmq_env_close(rig.away, 10 * SECOND) == 0);
	serve_end();
	CHECK(thmq_env_close(rig.home, 10 * SECOND) == 0);
}

/* ----------------------------------------------------------------------- tries */

static void sleep_in_session(void)
{
	struct pollfd p = {.fd = thmq_session_fd(rig.session), .events = POLLIN};
	int rc;

	step();
	rc = thmq_session_arm(rig.session);
	CHECK(rc >= 0);
	if (rc)
		return;
	step();
	slept(poll(&p, 1, (int)(SILENCE_NS / 1000000)));
}

/* Return: 1 seen, 0 there is no step @at, -1 missed. */
static int try_step(uint32_t at)
{
	uint64_t begin;

	settle();
	if (rig.sleeper != BROKER_CORE) { /* it waits for an answer */
		rig.sent = thmq_send(rig.producer, "m", 1, NULL);
		CHECK(rig.sent > 0);
		drive(rig.away);
	}
	rig.step = 0;
	rig.at = at;
	rig.happened = rig.missed = false;
	rig.counting = true;
	begin = thmqi_clock_real.now_ns(NULL);
	do { /* what has nothing to do with it may end a sleep */
		if (rig.sleeper == CLIENT_THREAD)
			sleep_in_session();
		else
			CHECK(thmqi_core_poll(core_of(rig.sleeper), SILENCE_NS) >= 0);
	} while (!rig.happened && thmqi_clock_real.now_ns(NULL) - begin < SILENCE_NS);
	rig.counting = false;
	settle();
	return rig.missed ? -1 : rig.happened;
}

static int try_all(const char *medium, enum sleeper sleeper, uint32_t flags)
{
	static const char *const names[] = {"the broker's core", "the client's core",
					    "the client's thread"};
	uint32_t at, seen = 0, least = sleeper == CLIENT_THREAD ? 2 : SEEN_MIN;
	int rc = 1, failed = 0;

	set_up(medium, flags);
	rig.sleeper = sleeper;
	thmqi_core_add_poller_first(core_of(sleeper), &rig.first);
	thmqi_core_add_poller(core_of(sleeper), &rig.last);
	for (at = 0; at < STEPS_MAX && rc; at++) {
		/* a hole is there each time; what a busy machine delivers late is not */
		for (uint32_t i = 0; i < TRIES && (!i || rc < 0); i++)
			rc = try_step(at);
		seen += rc > 0;
		if (rc < 0) {
			printf("%s: %s sleeps through what comes in step %u\n", medium,
			       names[sleeper], at);
			failed = 1;
		}
	}
	printf("%s, %s: %s: seen in %u steps\n", medium, flags ? "no ring" : "ring", names[sleeper],
	       seen);
	thmqi_core_remove_poller(core_of(sleeper), &rig.first);
	thmqi_core_remove_poller(core_of(sleeper), &rig.last);
	tear_down();
	return failed | (seen < least);
}

int main(void)
{
	static const uint32_t flags[] = {0, THMQ_ENV_NO_URING};
	int failed = 0;

	for (size_t i = 0; i < THMQI_ARRAY_COUNT(flags); i++) {
		failed |= try_all("shm", BROKER_CORE, flags[i]);
		failed |= try_all("shm", CLIENT_THREAD, flags[i]);
		failed |= try_all("tcp", BROKER_CORE, flags[i]);
		failed |= try_all("tcp", CLIENT_CORE, flags[i]);
		failed |= try_all("tcp", CLIENT_THREAD, flags[i]);
	}
	return failed;
}
