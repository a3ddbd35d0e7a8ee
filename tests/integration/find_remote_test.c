/* SPDX-License-Identifier: Apache-2.0 */
/*
 * find_remote_test.c - a remote client's look-ups by key, in a log that is in no cache: the answer takes the device's time, and comes though nothing else is said on
 * the connection meanwhile, so that the broker would not look at it any more.
 *
 * usage: find_remote_test tcp|shm
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>

#define SECOND 1000000000ull
#define KEYS 4000u
#define FINDS 40u
#define SLOW_NS (SECOND * 2 / 5) /* what stays unanswered stays so for a second: until the client says that it is still there */
#define SLOW_MAX 5u              /* of a machine that is busy */
#define QUIET_NS (1000 * SECOND) /* nor does either side say that it lives */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static char dir[] = "find-remote-XXXXXX";

static void broker_up(struct thmq_env **env, const char *listen, uint32_t policy,
		      struct thmq_broker **broker)
{
	CHECK(thmq_env_open(env, THMQ_ENV_OPTS(.core_count = 1, .policy = policy,
					       .flags = THMQ_ENV_NO_PIN, .pool_bytes = 128 << 20)) ==
	      0);
	CHECK(thmq_broker_open(*env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 1,
						.segment_bytes = 1 << 20, .batch_bytes = 64 << 10,
						.cache_bytes = 1 << 20, .listen = listen,
						.peer_timeout_ns = QUIET_NS),
			       broker) == 0);
}

static void fill(void)
{
	static char payload[2000];
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_broker *b;
	struct thmq_env *env;
	uint32_t key = 0;

	broker_up(&env, NULL, THMQ_POLICY_EVENT, &b);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	while (key < KEYS)
		if (thmq_send(p, payload, sizeof(payload),
			      THMQ_MESSAGE_OPTS(.key = &key, .key_len = sizeof(key))) > 0)
			key++;
		else
			CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void find(const char *listen, uint32_t policy)
{
	struct thmq_key_info info = {.size = sizeof(info)};
	struct thmq_session *s;
	struct thmq_env *home, *away;
	struct thmq_broker *b;
	char url[128];
	uint32_t i, key, slow = 0;
	uint64_t begun;

	broker_up(&home, listen, policy, &b);
	CHECK(thmq_broker_listen_url(b, 0, url, sizeof(url)) > 0);
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.policy = THMQ_POLICY_EVENT,
						 .pool_bytes = 64 << 20)) == 0);
	CHECK(thmq_connect(
		      away, url,
		      THMQ_SESSION_OPTS(.timeout_ns = 4 * SECOND, .peer_timeout_ns = QUIET_NS),
		      &s) == 0);
	for (i = 0; i < FINDS; i++) {
		key = i * (KEYS / FINDS);
		begun = now();
		CHECK(thmq_key_find(s, "t", 0, &key, sizeof(key), UINT64_MAX, &info) == 0);
		CHECK(info.offset == key);
		slow += now() - begun > SLOW_NS;
	}
	CHECK(slow <= SLOW_MAX);
	CHECK(thmq_session_close(s, SECOND) == 0);
	CHECK(thmq_env_close(away, SECOND) == 0);
	CHECK(thmq_env_close(home, 10 * SECOND) == 0);
}

int main(int argc, char **argv)
{
	bool shm = argc > 1 && strcmp(argv[1], "shm") == 0;
	char listen[128], command[64];

	CHECK(mkdtemp(dir));
	snprintf(listen, sizeof(listen), shm ? "shm:///tmp/%s.sock" : "tcp://127.0.0.1:0", dir);
	fill();
	find(listen, THMQ_POLICY_EVENT);
	find(listen, THMQ_POLICY_POLL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
