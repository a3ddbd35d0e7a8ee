/* SPDX-License-Identifier: Apache-2.0 */
/*
 * find_leaderless_test.c - of three brokers that keep the same data only one is there, which has never heard of a leader: who connects waits as long as he said, and is told
 * that nobody leads, not that nobody answers; whatever the others' URLs say.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "../check.h"

#define TRIES 4 /* a machine that stands still for that long itself is no failure */

static void ask(struct thmq_env *env, const char *url)
{
	struct thmq_session *session;
	int i;

	for (i = 0; i < TRIES; i++) {
		CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.timeout_ns = SECOND / 2 << i), &session) == -ETIMEDOUT);
		if (strstr(thmq_errmsg(), "leads nothing"))
			return;
	}
	fprintf(stderr, "%s\n", thmq_errmsg());
	CHECK(0);
}

int main(void)
{
	char dir[] = "find-leaderless-XXXXXX", url[64], urls[192];
	struct thmq_broker *broker;
	struct thmq_env *env;

	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .name = "b1", .listen = "tcp://127.0.0.1:0", .segment_bytes = 1u << 20,
						.cluster_name = "leaderless", .cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3", .node_id = 1),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	ask(env, url);
	ask(env, "inproc://b1");
	snprintf(urls, sizeof(urls), "%s,inproc://b2", url);
	ask(env, urls);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	snprintf(urls, sizeof(urls), "rm -rf %s", dir);
	return system(urls) != 0;
}
