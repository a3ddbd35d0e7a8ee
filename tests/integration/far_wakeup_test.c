/* SPDX-License-Identifier: Apache-2.0 */
/*
 * far_wakeup_test.c - the lost wake-up between two processes: a client and a broker hand a message and its settlement back and forth, each
 * asleep as soon as it finds nothing to do (budget 0), with small random delays, so that every moment between a look and a sleep is hit
 * sooner or later. A lost wake-up ends the test after seconds of silence.
 *
 * tcp-hot: both spin for a while, so that they read the socket without being told, and sleep now and then all the same: the broker after 50 us
 * without work, the client, half of the time, as soon as it reads so. Whoever sleeps has to be told again.
 *
 * usage: far_wakeup_test shm|tcp|tcp-hot. By default up to 10^5 rounds, as many as seconds allow; with THMQ_TEST_FULL 10^7 over shared memory, 10^6
 * over tcp. Exit 0: passed.
 */
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define ROUNDS 100000u
#define SHORT_NS (2 * SECOND)
#define ROUNDS_MIN 200u /* even on a machine that is busy */
#define SILENCE_MS 20000
#define HOT_ROUNDS 32u
#define HOT_SPIN_NS 50000u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Linked in their places: how often the client's connection read without being told. */
struct thmq_watch;
int __real_thmqi_watch_pause(struct thmq_watch *w);
int __wrap_thmqi_watch_pause(struct thmq_watch *w);
int __real_thmqi_watch_go_on(struct thmq_watch *w);
int __wrap_thmqi_watch_go_on(struct thmq_watch *w);

static uint64_t paused, resumed, armed_hot;
static bool arming;

int __wrap_thmqi_watch_pause(struct thmq_watch *w)
{
	int rc = __real_thmqi_watch_pause(w);

	paused += rc == 0;
	return rc;
}

int __wrap_thmqi_watch_go_on(struct thmq_watch *w)
{
	int rc = __real_thmqi_watch_go_on(w);

	resumed += rc == 0;
	armed_hot += rc == 0 && arming;
	return rc;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ------------------------------------------------------------- the broker's process */

/* What it has to say goes through a pipe, first its address, then how often its core slept. */
static void serve(const char *listen, bool hot, int say, int hear)
{
	struct thmq_env_stats st = {.size = sizeof(st)};
	struct thmq_broker *broker;
	struct thmq_env *env;
	char url[128] = "";

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .policy = hot ? THMQ_POLICY_FIXED : THMQ_POLICY_EVENT,
						.spin_ns = hot ? HOT_SPIN_NS : 0, .flags = THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = listen), &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	CHECK(write(say, url, sizeof(url)) == sizeof(url));
	CHECK(read(hear, url, 1) == 1);
	CHECK(thmq_env_stats(env, &st) == 0);
	CHECK(write(say, &st.sleeps, sizeof(st.sleeps)) == sizeof(st.sleeps));
	CHECK(read(hear, url, 1) == 1);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	exit(0);
}

/* ------------------------------------------------------------- the client's process */

static uint64_t chance = 88172645463325252ull;

static void delay(void)
{
	volatile uint32_t i;

	chance ^= chance << 13; /* Marsaglia's xorshift */
	chance ^= chance >> 7;
	chance ^= chance << 17;
	/* mostly none, so that both sides are often at the edge of sleep */
	for (i = chance >> 32 & 3 ? 0 : chance % 4096; i; i--)
		;
}

static void pause_for(uint64_t ns)
{
	uint64_t begin = now();

	while (now() - begin < ns)
		;
}

struct client {
	struct thmq_env *env;
	struct thmq_session *session;
	struct thmq_producer *producer;
	uint64_t slept;
	bool hot;
	bool drives; /* its links are served by a core, which it drives; else the other process wakes it itself */
};

/* As a host's own loop does: arm, and sleep where arming found nothing. */
static void sleep_once(struct client *c)
{
	struct pollfd p[2] = {{.fd = thmq_session_fd(c->session), .events = POLLIN},
			      {.fd = -1, .events = POLLIN}};
	int rc;

	if (c->drives) {
		p[1].fd = thmq_env_fd(c->env);
		CHECK(p[1].fd >= 0);
	}
	rc = thmq_session_arm(c->session);
	CHECK(rc >= 0);
	arming = true;
	if (rc == 0 && c->drives)
		rc = thmq_env_arm(c->env);
	arming = false;
	CHECK(rc >= 0);
	if (rc)
		return;
	c->slept++;
	if (poll(p, 2, SILENCE_MS) == 0) {
		fprintf(stderr, "silence: watermark %lld\n", (long long)thmq_watermark(c->producer));
		_Exit(1);
	}
}

static void play(struct client *c, uint64_t rounds, uint64_t limit_ns)
{
	uint64_t begin = now(), i;

	for (i = 0; i < rounds && (i < ROUNDS_MIN || i % 64 || now() - begin < limit_ns); i++) {
		int64_t seq = thmq_send(c->producer, "ping", 4, NULL);

		CHECK(seq > 0);
		delay();
		while (thmq_watermark(c->producer) < seq) {
			if (c->drives && thmq_poll(c->env, 0) > 0)
				continue;
			if (!c->hot || (paused != resumed && i / HOT_ROUNDS % 2))
				sleep_once(c);
		}
		delay();
		if (c->hot && i % HOT_ROUNDS == HOT_ROUNDS - 1) /* about as long as the other spins */
			pause_for(chance % (2 * HOT_SPIN_NS));
	}
	printf("%llu rounds in %.1f s, the client slept %llu times", (unsigned long long)i,
	       (double)(now() - begin) / 1e9, (unsigned long long)c->slept);
	/* a run in which nobody slept would have tested nothing */
	if (!c->hot && c->slept < i / 100)
		printf("\ntoo seldom\n"), exit(1);
	if (c->hot)
		printf(", and read without being told %llu times, %llu of them until it was about to sleep", (unsigned long long)paused,
		       (unsigned long long)armed_hot);
	if (c->hot && (paused < i / (8 * HOT_ROUNDS) || !armed_hot))
		printf("\ntoo seldom\n"), exit(1);
}

int main(int argc, char **argv)
{
	bool shm = argc < 2 || strcmp(argv[1], "shm") == 0, full = getenv("THMQ_TEST_FULL") != NULL;
	uint64_t rounds = !full ? ROUNDS : shm ? 100 * ROUNDS : 10 * ROUNDS, slept = 0;
	struct client c = {.drives = !shm, .hot = argc > 1 && strcmp(argv[1], "tcp-hot") == 0};
	int to[2], from[2], status;
	char listen[64] = "tcp://127.0.0.1:0", url[128];
	pid_t pid;

	if (shm)
		snprintf(listen, sizeof(listen), "shm://@thundermq-wakeup-%d", (int)getpid());
	CHECK(pipe(to) == 0 && pipe(from) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(listen, c.hot, from[1], to[0]);
	}
	close(from[1]);
	CHECK(read(from[0], url, sizeof(url)) == sizeof(url));
	CHECK(thmq_env_open(&c.env, THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_connect(c.env, url, NULL, &c.session) == 0);
	CHECK(thmq_topic_create(c.session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) ==
	      0);
	CHECK(thmq_producer_open(c.session, "t",
				 THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY),
				 &c.producer) == 0);
	play(&c, rounds, full ? UINT64_MAX : SHORT_NS);
	CHECK(write(to[1], "e", 1) == 1);
	CHECK(read(from[0], &slept, sizeof(slept)) == sizeof(slept));
	printf(", the broker's core %llu times\n", (unsigned long long)slept);
	CHECK(slept >= c.slept / 100);
	CHECK(thmq_session_close(c.session, 10 * SECOND) == 0);
	CHECK(write(to[1], "e", 1) == 1);
	CHECK(thmq_env_close(c.env, 10 * SECOND) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	return status != 0;
}
