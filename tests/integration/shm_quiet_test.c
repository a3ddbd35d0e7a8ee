/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_quiet_test.c - over shared memory nobody makes a system call as long as both sides are awake: no packet is sent for any number of
 * messages, and the socket is looked at once a millisecond at most. And a side that sleeps is woken by one packet, not by one a message.
 *
 * Linked with --wrap of the calls that could be made.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define ROUNDS 1000u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_recv(int fd, void *data, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t len, int flags);

static _Atomic uint64_t sent, received;

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	atomic_fetch_add(&sent, 1);
	return __real_send(fd, data, len, flags);
}

ssize_t __wrap_recv(int fd, void *data, size_t len, int flags)
{
	atomic_fetch_add(&received, 1);
	return __real_recv(fd, data, len, flags);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

struct pair {
	struct thmq_env *home, *away;
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
};

static void up(struct pair *w, uint32_t policy)
{
	struct thmq_broker *b;
	char url[64];

	snprintf(url, sizeof(url), "shm://@thundermq-quiet-%d", (int)getpid());
	CHECK(thmq_env_open(&w->home, THMQ_ENV_OPTS(.core_count = 1, .policy = policy,
						    .flags = THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmq_broker_open(w->home, THMQ_BROKER_OPTS(.listen = url), &b) == 0);
	CHECK(thmq_env_open(&w->away, NULL) == 0);
	CHECK(thmq_connect(w->away, url, NULL, &w->s) == 0);
	CHECK(thmq_topic_create(w->s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(w->s, "t", NULL, &w->p) == 0);
	CHECK(thmq_consumer_open(w->s, "t", NULL, NULL, &w->c) == 0);
}

static void down(struct pair *w)
{
	CHECK(thmq_session_close(w->s, SECOND) == 0);
	CHECK(thmq_env_close(w->away, SECOND) == 0);
	CHECK(thmq_env_close(w->home, 30 * SECOND) == 0);
}

static void take(struct pair *w, bool sleep)
{
	struct thmq_message m;
	int n;

	while ((n = thmq_fetch(w->c, &m, 1)) == 0)
		if (sleep)
			CHECK(thmq_session_wait(w->s, SECOND) >= 0);
		else
			sched_yield(); /* there may be less than two processors for us */
	CHECK(n == 1 && thmq_release(w->c, &m, 1) == 0);
}

int main(void)
{
	uint64_t begin, packets, looks, links = 2;
	struct pair w;
	uint32_t i, k;

	up(&w, THMQ_POLICY_POLL);
	begin = now();
	packets = atomic_load(&sent);
	looks = atomic_load(&received);
	for (i = 0; i < ROUNDS; i++) {
		CHECK(thmq_send(w.p, "message", 7, NULL) > 0);
		take(&w, false);
	}
	CHECK(atomic_load(&sent) == packets);
	/* one at most for each link and millisecond */
	CHECK(atomic_load(&received) - looks <= links * ((now() - begin) / 1000000 + 2));
	down(&w);

	/* both sleep whenever they can: some packets for each burst, whatever its length, and it is not slept on for ever */
	up(&w, THMQ_POLICY_EVENT);
	begin = now();
	packets = atomic_load(&sent);
	for (i = 0; i < 30; i++) {
		usleep(1000);
		for (k = 0; k < 100; k++)
			CHECK(thmq_send(w.p, "message", 7, NULL) > 0);
		for (k = 0; k < 100; k++)
			take(&w, true);
	}
	CHECK(atomic_load(&sent) > packets);
	CHECK(atomic_load(&sent) - packets < 30 * 100);
	down(&w);
	return 0;
}
