/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch of copies may be as large as their segments, and one block of each segment is a new leader's: what waits while nothing can be stored, and is then gathered
 * into the largest batch there is, fits all the same. (It fitted into no segment, and one after the other was begun, until the device was full.)
 */
#include <dirent.h>
#include <unistd.h>

#include "../check.h"

#define COUNT 1000u

static uint32_t segments(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	uint32_t n = 0;

	CHECK(dir);
	while ((e = readdir(dir)))
		n += strstr(e->d_name, ".log") != NULL;
	closedir(dir);
	return n;
}

int main(void)
{
	static char body[4000];
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_broker *broker;
	char dir[64], path[96];
	struct thmq_env *env;
	uint32_t n = 0;

	snprintf(dir, sizeof(dir), "cluster-segment-%d", (int)getpid());
	snprintf(path, sizeof(path), "rm -rf %s", dir);
	CHECK(system(path) == 0);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .name = "one", .segment_bytes = 1u << 20, .cluster = "1=inproc://one", .node_id = 1), &broker) == 0);
	CHECK(thmq_connect(env, "inproc://one", THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND), &session) == 0);
	CHECK(thmq_topic_create(session, "t", NULL) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	while (n < COUNT && thmq_send(producer, body, sizeof(body), NULL) > 0) /* nobody drives the core meanwhile */
		n++;
	CHECK((uint64_t)n * sizeof(body) > 1u << 20);
	CHECK(thmq_flush(producer, 30 * SECOND) == 0);
	CHECK(thmq_session_close(session, 10 * SECOND) == 0);
	CHECK(thmq_broker_close(broker, 10 * SECOND) == 0);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	snprintf(path, sizeof(path), "%s/shard-000", dir);
	CHECK(segments(path) < 16);
	printf("%u messages, %u segments\n", n, segments(path));
	snprintf(path, sizeof(path), "rm -rf %s", dir);
	CHECK(system(path) == 0);
	return 0;
}
