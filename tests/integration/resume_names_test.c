/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume_names_test.c - the broker of a URL with a host's name comes back at another address: the name is looked up again, by a thread of its
 * own, so that a resolver that does not answer holds up nobody; and where it knows nothing the known addresses stay. Where there are several URLs
 * a name that nobody answers for does not hold up the others, from the first connection on. Here the resolver is the test's: its
 * getaddrinfo() stands before the system's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"

static const char *_Atomic leads_to = "127.0.0.1"; /* NULL: nobody knows it now */
static _Atomic bool silent, mute; /* it does not answer; it does not to one of several names */
static _Atomic uint32_t asked, asked_here;         /* by any thread, by the main one */
static pthread_t main_thread;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		(int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
	const char *to;

	if (!host || (strcmp(host, "broker.test") != 0 && strcmp(host, "mute.test") != 0))
		return real(host, port, hints, ret);
	if (hints->ai_flags & AI_NUMERICHOST)
		return EAI_NONAME;
	asked++;
	asked_here += pthread_equal(pthread_self(), main_thread) != 0;
	while (mute && strcmp(host, "mute.test") == 0)
		nap(MS);
	while (silent)
		nap(MS);
	to = leads_to;
	return to ? real(to, port, hints, ret) : EAI_AGAIN;
}

static char dir[] = "resume-names-XXXXXX";
static struct thmq_env *home, *away;
static struct thmq_session *session;
static struct thmq_producer *producer;
static char port[8];
static uint64_t back; /* how often it was told */

static void broker_up(const char *address)
{
	struct thmq_broker *broker;
	char url[64];

	snprintf(url, sizeof(url), "tcp://%s:%s", address, port);
	CHECK(thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(home, THMQ_BROKER_OPTS(.data_dir = dir, .listen = url, .segment_bytes = 1 << 20), &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	snprintf(port, sizeof(port), "%s", strrchr(url, ':') + 1);
}

static void look(void)
{
	struct thmq_event e;

	thmq_session_wait(session, 5000000);
	while (thmq_events(session, &e, 1) == 1) {
		CHECK(e.type != THMQ_EVENT_CLOSED && e.type != THMQ_EVENT_FAILED);
		back += e.type == THMQ_EVENT_RECONNECTED;
	}
}

static void send_one(void)
{
	CHECK(thmq_send(producer, "x", 1, NULL) > 0);
	CHECK(thmq_flush(producer, 60000000000ull) == 0);
}

static void wait_back(uint64_t count)
{
	uint64_t end = now() + 60 * SECOND;

	while (back < count) {
		CHECK(now() < end);
		look();
	}
	send_one();
}

static void open_session(uint32_t core_count, uint32_t flags)
{
	char url[64];

	back = 0;
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = core_count, .flags = THMQ_ENV_NO_PIN | flags, .policy = THMQ_POLICY_EVENT)) == 0);
	snprintf(url, sizeof(url), "tcp://broker.test:%s", port);
	asked = asked_here = 0;
	CHECK(thmq_connect(away, url, THMQ_SESSION_OPTS(.reconnect_ns = 300 * SECOND), &session) == 0);
	CHECK(asked == 1 && asked_here == 1);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	send_one();
}

static void close_session(void)
{
	CHECK(thmq_session_close(session, 10 * SECOND) == 0);
	CHECK(thmq_env_close(away, 10 * SECOND) == 0);
}

static void moves(void)
{
	uint64_t end = now() + 60 * SECOND;
	uint32_t i;

	leads_to = "127.0.0.1";
	broker_up("127.0.0.1");
	open_session(1, 0);
	silent = true;
	leads_to = "127.0.0.2";
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	broker_up("127.0.0.2");
	while (asked < 2) {
		CHECK(now() < end);
		look();
	}
	for (i = 0; i < 20; i++) /* it is being asked, and we are not held up */
		look();
	CHECK(back == 0 && asked_here == 1);
	silent = false;
	wait_back(1);
	/* where nobody knows the name, the addresses that there were stay */
	leads_to = NULL;
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	for (i = asked; asked < i + 2;) {
		CHECK(now() < end + 60 * SECOND);
		look();
	}
	broker_up("127.0.0.2");
	wait_back(2);
	/* a session may be closed while it is asked */
	silent = true;
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	for (i = asked; asked == i;) {
		CHECK(now() < end + 120 * SECOND);
		look();
	}
	thmq_session_close(session, SECOND / 10);
	CHECK(thmq_env_close(away, 10 * SECOND) == 0);
	CHECK(asked_here == 1);
	silent = false;
}

/* Where no thread may be made nobody is asked, and all is as with an address. */
static void without_threads(void)
{
	uint32_t i;

	leads_to = "127.0.0.1";
	broker_up("127.0.0.1");
	open_session(0, 0);
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	for (i = 0; i < 20; i++)
		look();
	broker_up("127.0.0.1");
	wait_back(1);
	CHECK(asked == 1);
	close_session();
	/* and where one may it is */
	open_session(0, THMQ_ENV_ALLOW_THREADS);
	leads_to = "127.0.0.2";
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	broker_up("127.0.0.2");
	wait_back(1);
	CHECK(asked > 1 && asked_here == 1);
	close_session();
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
}

static void open_away(void)
{
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	asked = asked_here = 0;
}

/* That of the first name is not to be had, and the other is tried meanwhile. */
static void several(void)
{
	char urls[128];
	uint32_t i;

	leads_to = "127.0.0.1";
	broker_up("127.0.0.1");
	mute = true;
	back = 0;
	open_away();
	snprintf(urls, sizeof(urls), "tcp://mute.test:%s,tcp://broker.test:%s", port, port);
	CHECK(thmq_connect(away, urls, THMQ_SESSION_OPTS(.timeout_ns = 60 * SECOND, .reconnect_ns = 300 * SECOND), &session) == 0);
	CHECK(asked && asked_here == 0);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	send_one();
	/* and so it is when the connection is lost */
	leads_to = "127.0.0.2";
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
	broker_up("127.0.0.2");
	wait_back(1);
	CHECK(asked_here == 0);
	close_session();
	/* no answer at all ends with the time, and none that anybody knows it by no other error */
	silent = true;
	open_away();
	for (i = 0; i < 2; i++) {
		CHECK(thmq_connect(away, urls, THMQ_SESSION_OPTS(.timeout_ns = SECOND / 5), &session) == -EHOSTUNREACH);
		CHECK(asked_here == 0);
		leads_to = NULL;
		mute = silent = false;
	}
	CHECK(thmq_env_close(away, 10 * SECOND) == 0);
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
}

int main(void)
{
	char command[64];

	running = "names";
	main_thread = pthread_self();
	strcpy(port, "0");
	CHECK(mkdtemp(dir) != NULL);
	moves();
	without_threads();
	several();
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK(system(command) == 0);
	return 0;
}
