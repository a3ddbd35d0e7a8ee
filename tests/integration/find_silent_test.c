/* SPDX-License-Identifier: Apache-2.0 */
/*
 * find_silent_test.c - of several brokers' URLs one leads to a host that takes connections and says nothing, as a process that stands still does: a session finds
 * the one that answers, in the time that it has for all of them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../check.h"

#define TRIES 4 /* a machine that stands still for that long itself is no failure */

/* Return: its port */
static uint16_t open_silent(int *ret_fd)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	*ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(*ret_fd >= 0 && bind(*ret_fd, (struct sockaddr *)&at, len) == 0 && listen(*ret_fd, 16) == 0);
	CHECK(getsockname(*ret_fd, (struct sockaddr *)&at, &len) == 0);
	return ntohs(at.sin_port);
}

int main(void)
{
	char dir[] = "find-silent-XXXXXX", url[64], urls[192];
	struct thmq_session *session;
	struct thmq_broker *broker;
	int fd, rc = -ETIMEDOUT, i;
	struct thmq_env *env;
	uint16_t port = open_silent(&fd);

	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .listen = "tcp://127.0.0.1:0", .segment_bytes = 1u << 20), &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	snprintf(urls, sizeof(urls), "tcp://127.0.0.1:%u,%s", port, url);
	for (i = 0; i < TRIES && rc == -ETIMEDOUT; i++) /* less than the silence of one that was greeted */
		rc = thmq_connect(env, urls, THMQ_SESSION_OPTS(.timeout_ns = 9 * SECOND), &session);
	CHECK(rc == 0);
	CHECK(thmq_topic_create(session, "t", NULL) == 0);
	CHECK(thmq_session_close(session, SECOND) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	close(fd);
	snprintf(urls, sizeof(urls), "rm -rf %s", dir);
	return system(urls) != 0;
}
