/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_address_test.c - names with several addresses: one that refuses, one that says nothing, one that is no address of this machine; and
 * all that the machine has. What a name means is said by this program: it is linked with -Wl,--wrap=getaddrinfo,--wrap=freeaddrinfo.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../check.h"

#define QUEUE 8 /* more than wait where nobody accepts */

static struct thmq_env *env;
static struct sockaddr_in means[4]; /* what the name "many" means */
static int means_count;

int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret);
void __real_freeaddrinfo(struct addrinfo *it);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret);
void __wrap_freeaddrinfo(struct addrinfo *it);

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
	static struct addrinfo list[4];
	int i;

	if (!node || strcmp(node, "many") != 0)
		return __real_getaddrinfo(node, service, hints, ret);
	if (hints->ai_flags & AI_NUMERICHOST)
		return EAI_NONAME;
	for (i = 0; i < means_count; i++)
		list[i] = (struct addrinfo){.ai_family = AF_INET,
					    .ai_addr = (struct sockaddr *)&means[i],
					    .ai_addrlen = sizeof(means[i]),
					    .ai_next = i + 1 < means_count ? &list[i + 1] : NULL};
	*ret = list;
	return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *it)
{
	if (it->ai_addr != (struct sockaddr *)&means[0])
		__real_freeaddrinfo(it);
}

static void mean(int i, const char *address, uint16_t port)
{
	means[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
	CHECK(inet_pton(AF_INET, address, &means[i].sin_addr) == 1);
	means_count = i < means_count ? means_count : i + 1;
}

static struct thmq_broker *open_at(const char *listen, char *ret_url, size_t size, uint16_t *ret_port)
{
	struct thmq_broker *b;

	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = listen), &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, ret_url, (uint32_t)size) > 0);
	*ret_port = (uint16_t)atoi(strrchr(ret_url, ':') + 1);
	return b;
}

/* Nobody listens there. */
static uint16_t free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	close(fd);
	return ntohs(a.sin_port);
}

/* Where nobody accepts, and no more may wait: as a machine that is gone. The descriptors are the caller's. */
static uint16_t deaf_port(int *fds)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int i;

	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(fds[0], (struct sockaddr *)&a, len) == 0 && listen(fds[0], 0) == 0);
	CHECK(getsockname(fds[0], (struct sockaddr *)&a, &len) == 0);
	for (i = 1; i <= QUEUE; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		CHECK(connect(fds[i], (struct sockaddr *)&a, len) == 0 || errno == EINPROGRESS);
	}
	return ntohs(a.sin_port);
}

static int try(const char *url, uint64_t patience_ns)
{
	struct thmq_session *s;
	int rc = thmq_connect(env, url, THMQ_SESSION_OPTS(.peer_timeout_ns = patience_ns), &s);

	if (!rc) {
		CHECK(thmq_topic_list(s, NULL, 0) == 0);
		CHECK(thmq_session_close(s, SECOND) == 0);
	}
	return rc;
}

static void next_address(void)
{
	int deaf[QUEUE + 1], i;
	struct thmq_broker *b;
	char url[64];
	uint16_t port;

	b = open_at("tcp://127.0.0.1:0", url, sizeof(url), &port);
	mean(0, "127.0.0.1", free_port());
	CHECK(try("tcp://many:1", 0) == -ECONNREFUSED);
	mean(1, "127.0.0.1", port);
	CHECK(try("tcp://many:1", 0) == 0); /* the one after that which refuses */
	mean(0, "127.0.0.1", deaf_port(deaf));
	CHECK(try("tcp://many:1", 3 * SECOND) == 0); /* after that which says nothing */
	mean(1, "127.0.0.1", free_port());
	mean(2, "127.0.0.1", port);
	CHECK(try("tcp://many:1", 3 * SECOND) == 0);
	means_count = 1;
	CHECK(try("tcp://many:1", SECOND) == -ETIMEDOUT); /* alone it has all the time */
	for (i = 0; i <= QUEUE; i++)
		close(deaf[i]);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

static void listen_somewhere(void)
{
	struct thmq_broker *b;
	char url[64];
	uint16_t port;

	means_count = 0;
	mean(0, "192.0.2.1", 0); /* for documents only */
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = "tcp://many:0"), &b) == -EADDRNOTAVAIL);
	CHECK(strstr(thmq_errmsg(), "tcp://many:0"));
	mean(1, "127.0.0.1", 0);
	b = open_at("tcp://many:0", url, sizeof(url), &port);
	CHECK(try(url, 0) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

/* Of IPv6 and of IPv4, by one socket. */
static void everywhere(void)
{
	int six = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	const bool has_six = six >= 0 && bind(six, (struct sockaddr *)&a, sizeof(a)) == 0;
	struct thmq_broker *b, *other;
	char url[64], to[64];
	uint16_t port;

	if (six >= 0)
		close(six);
	b = open_at("tcp://*:0", url, sizeof(url), &port);
	CHECK(try(url, 0) == 0); /* as it says itself */
	snprintf(to, sizeof(to), "tcp://127.0.0.1:%u", port);
	CHECK(try(to, 0) == 0);
	snprintf(to, sizeof(to), "tcp://[::1]:%u", port);
	CHECK(!has_six || try(to, 0) == 0);
	snprintf(to, sizeof(to), "tcp://*:%u", port);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "other", .listen = to), &other) == -EADDRINUSE);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

static const struct test_case cases[] = {
	{"next_address", next_address},
	{"listen_somewhere", listen_somewhere},
	{"everywhere", everywhere},
};

int main(int argc, char **argv)
{
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	run_cases(cases, sizeof(cases) / sizeof(*cases), argc - 1, argv + 1, NULL, NULL);
	running = "down";
	CHECK(thmq_env_close(env, SECOND) == 0);
	return 0;
}
