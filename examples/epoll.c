/* SPDX-License-Identifier: Apache-2.0 */
/* epoll.c - a broker inside a program's own event loop: no thread is made, epoll_wait() is the only place of sleep. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MESSAGES 100

static struct thmq_env *env;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;
static int sent, received, failed;

static void watch(int epoll, int fd)
{
	struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};

	failed |= epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
}

/* The program's own business: something to say every millisecond. */
static void on_tick(int timer)
{
	uint64_t ticks;
	char text[32];

	if (read(timer, &ticks, sizeof(ticks)) != sizeof(ticks) || sent == MESSAGES)
		return;
	sent++;
	failed |= thmq_send(producer, text, (uint32_t)snprintf(text, sizeof(text), "tick %d", sent),
			    NULL) < 0;
}

static void take_messages(void)
{
	struct thmq_message m[16];
	int i, n;

	while ((n = thmq_fetch(consumer, m, 16)) > 0) {
		for (i = 0; i < n; i++, received++)
			if (received % 20 == 0)
				printf("%.*s\n", (int)m[i].len, (const char *)m[i].data);
		thmq_release(consumer, m, (uint32_t)n);
	}
	failed |= n < 0;
}

static void run(int epoll, int timer)
{
	struct epoll_event e;

	watch(epoll, timer);
	watch(epoll, thmq_env_fd(env));
	while (received < MESSAGES && !failed) {
		while (thmq_poll(env, 0) > 0) /* all that is there */
			take_messages();
		if (thmq_env_arm(env) != 0) /* something came meanwhile */
			continue;
		if (epoll_wait(epoll, &e, 1, 1000) == 1 && e.data.fd == timer)
			on_tick(timer);
	}
}

int main(void)
{
	struct itimerspec every_ms = {.it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000};
	int epoll = epoll_create1(EPOLL_CLOEXEC),
	    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	struct thmq_broker *broker;
	struct thmq_session *session;

	if (thmq_env_open(&env, NULL) || thmq_broker_open(env, NULL, &broker) ||
	    thmq_connect(env, "inproc://", NULL, &session) ||
	    thmq_topic_create(session, "ticks", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) ||
	    thmq_producer_open(session, "ticks", NULL, &producer) ||
	    thmq_consumer_open(session, "ticks", NULL, NULL, &consumer))
		return fprintf(stderr, "%s\n", thmq_errmsg()), 1;
	timerfd_settime(timer, 0, &every_ms, NULL);
	run(epoll, timer);
	printf("%d sent, %d received\n", sent, received);
	return thmq_env_close(env, SECOND) != 0 || received != MESSAGES || failed;
}
