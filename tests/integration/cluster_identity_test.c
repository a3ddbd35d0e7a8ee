/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a broker of a cluster is: its directory is opened under no other number; one that was emptied, or put back as it was some time ago, is not let in by the
 * others, since it has forgotten what it voted for, and what it had said to have; and where no majority is left without it nobody leads.
 *
 * usage: cluster_identity_test [tcp|inproc]; THMQ_TEST_FULL=1: both, else by TCP only
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define MS 1000000ull
#define BROKERS 3u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static struct {
	struct thmq_env *env;
	struct thmq_broker *brokers[BROKERS];
	struct thmq_session *session;
	struct thmq_producer *producer;
	char dir[64], urls[BROKERS][64], cluster[256], all[256];
	bool far;
	uint32_t sent;
} w;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void run(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	CHECK(system(command) == 0);
}

static int try_open(uint32_t i, uint64_t id, struct thmq_broker **ret)
{
	char dir[96], name[16];

	snprintf(dir, sizeof(dir), "%s/%u", w.dir, i + 1);
	snprintf(name, sizeof(name), "b%u", i + 1);
	return thmq_broker_open(w.env,
				THMQ_BROKER_OPTS(.data_dir = dir, .name = name, .shard_count = 1,
						 .listen = w.far ? w.urls[i] : NULL,
						 .segment_bytes = 1u << 20, .cluster = w.cluster,
						 .cluster_name = "who", .node_id = id,
						 .heartbeat_ms = 30, .election_ms = 150),
				ret);
}

static void open_broker(uint32_t i)
{
	CHECK(try_open(i, i + 1, &w.brokers[i]) == 0);
}

static void close_broker(uint32_t i)
{
	CHECK(thmq_broker_close(w.brokers[i], 5 * SECOND) != -EDEADLK);
	w.brokers[i] = NULL;
}

static int leader(void)
{
	for (uint32_t i = 0; i < BROKERS; i++)
		if (w.brokers[i] && thmq_broker_leader(w.brokers[i], NULL) == 1)
			return (int)i;
	return -1;
}

static void send_some(void)
{
	uint64_t end = now_ns() + 30 * SECOND;
	uint32_t n = 10;

	while (n) {
		int64_t rc = thmq_send(w.producer, &w.sent, sizeof(w.sent), NULL);

		CHECK((rc > 0 || rc == -EAGAIN || rc == -THMQ_ENOQUORUM) && now_ns() < end);
		if (rc > 0)
			w.sent++, n--;
		else
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
	CHECK(thmq_flush(w.producer, 30 * SECOND) == 0);
}

static void wait_for_leader(void)
{
	uint64_t end = now_ns() + 30 * SECOND;

	while (leader() < 0) {
		CHECK(now_ns() < end);
		usleep(5000);
	}
}

/* Broker 3 is not what it was: the other two go on, and one of them alone does not with it. */
static void is_kept_out(void)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
	uint64_t end = now_ns() + 10 * SECOND;
	uint32_t alone;
	int n, i;

	open_broker(2);
	wait_for_leader();
	send_some();
	while (w.far) { /* and it is told why */
		n = thmq_cluster_nodes(w.session, nodes, BROKERS);
		CHECK(n == BROKERS);
		for (i = 0; i < n && nodes[i].id != 3; i++)
			;
		CHECK(i < n && !nodes[i].connected);
		if (nodes[i].error == -ENOTUNIQ)
			break;
		CHECK(now_ns() < end);
		usleep(5000);
	}
	alone = (uint32_t)leader();
	CHECK(alone < 2);
	close_broker(alone);
	end = now_ns() + 5 * SECOND;
	while (leader() >= 0) { /* the other one was handed the lead: until it finds out that it is alone */
		CHECK(now_ns() < end);
		usleep(5000);
	}
	end = now_ns() + 600 * MS;
	while (now_ns() < end) {
		CHECK(leader() < 0);
		usleep(5000);
	}
	open_broker(alone);
	wait_for_leader();
	send_some();
	close_broker(2);
}

/* No other directory than its own. */
static void another_number(void)
{
	struct thmq_broker *b;

	close_broker(2);
	CHECK(try_open(2, 2, &b) == -EINVAL);
	CHECK(strstr(thmq_errmsg(), "directory of node 3"));
	CHECK(try_open(2, 4, &b) == -EINVAL); /* none of the cluster's */
	open_broker(2);
	wait_for_leader();
	send_some();
	close_broker(2);
}

static void damaged(void)
{
	struct thmq_broker *b;

	run("cp %s/3/node %s/kept && printf xxxx | dd of=%s/3/node bs=1 seek=40 conv=notrunc 2>/dev/null", w.dir, w.dir, w.dir);
	CHECK(try_open(2, 3, &b) == -THMQ_ECORRUPT);
	run("mv %s/kept %s/3/node", w.dir, w.dir);
	run("mkdir %s/away && mv %s/3/meta %s/3/shard-000 %s/away", w.dir, w.dir, w.dir, w.dir);
	CHECK(try_open(2, 3, &b) == -THMQ_ECORRUPT);
	CHECK(strstr(thmq_errmsg(), "may no longer vote"));
	run("mv %s/away/* %s/3", w.dir, w.dir);
}

static void read_all(void)
{
	uint64_t end = now_ns() + 10 * SECOND;
	struct thmq_consumer *reader;
	struct thmq_message m[16];
	uint32_t next = 0, number;
	int n, i;

	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &reader) == 0);
	while (next < w.sent) {
		n = thmq_fetch(reader, m, 16);
		if (n < 0 || now_ns() >= end)
			fprintf(stderr, "%u of %u messages, fetch: %d\n", next, w.sent, n);
		CHECK(n >= 0 && now_ns() < end);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, sizeof(number));
			CHECK(number == next++);
		}
		CHECK(thmq_release(reader, m, (uint32_t)n) == 0);
		if (!n)
			CHECK(thmq_session_wait(w.session, 10 * MS) >= 0);
	}
}

/* ----------------------------------------------------------------- two at a time */

static void address_of(uint32_t id, char *to, size_t size)
{
	if (w.far)
		snprintf(to, size, "tcp://127.%u.%u.%u:7471", 1 + ((uint32_t)getpid() >> 8 & 63),
			 (uint32_t)getpid() & 255, id);
	else
		snprintf(to, size, "inproc://b%u", id);
}

static void *add_one(void *arg)
{
	uint32_t id = *(uint32_t *)arg;
	struct thmq_session *s;
	char address[64];

	address_of(id, address, sizeof(address));
	CHECK(thmq_connect(w.env, w.all, THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND), &s) == 0);
	CHECK(thmq_cluster_add(s, id, address, 30 * SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	return NULL;
}

/* Each by a session of its own: they do not keep each other from it. */
static void two_join(void)
{
	struct thmq_node nodes[8] = {{.size = sizeof(nodes[0])}};
	struct thmq_broker *more[2];
	uint32_t ids[2] = {4, 5}, i;
	pthread_t threads[2];
	char dir[96], name[16], url[64], others[64];

	for (i = 0; i < 2; i++) {
		address_of(ids[i], url, sizeof(url));
		snprintf(others, sizeof(others), "%.*s:17471", (int)(strrchr(url, ':') - url), url);
		snprintf(dir, sizeof(dir), "%s/%u", w.dir, ids[i]);
		snprintf(name, sizeof(name), "b%u", ids[i]);
		CHECK(thmq_broker_open(w.env,
				       THMQ_BROKER_OPTS(.data_dir = dir, .name = name,
							.shard_count = 1, .segment_bytes = 1u << 20,
							.flags = THMQ_BROKER_JOIN,
							.listen = w.far ? url : NULL,
							.cluster_listen = w.far ? others : NULL,
							.cluster = w.cluster, .cluster_name = "who",
							.node_id = ids[i], .heartbeat_ms = 30,
							.election_ms = 150),
				       &more[i]) == 0);
	}
	for (i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, add_one, &ids[i]) == 0);
	for (i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(thmq_cluster_nodes(w.session, nodes, 8) == 5);
	for (i = 0; i < 2; i++)
		CHECK(thmq_broker_close(more[i], 5 * SECOND) != -EDEADLK);
}

/* Two of three new ones do not begin: the third, if it was emptied later, would be unknown to somebody who has a vote. Once all have met any two do. */
static void begin(void)
{
	uint64_t end;
	uint32_t i;

	open_broker(0);
	open_broker(1);
	for (end = now_ns() + 700 * MS; now_ns() < end; usleep(5000))
		CHECK(leader() < 0);
	close_broker(0);
	open_broker(0); /* nor in its next life */
	for (end = now_ns() + 700 * MS; now_ns() < end; usleep(5000))
		CHECK(leader() < 0);
	open_broker(2);
	wait_for_leader();
	for (i = 0; i < BROKERS; i++) /* each knows it by itself */
		usleep(200 * 1000);
	close_broker(2);
	close_broker(0);
	open_broker(0);
	wait_for_leader();
	open_broker(2);
}

static void story(bool far)
{
	uint32_t i;

	memset(&w, 0, sizeof(w));
	w.far = far;
	snprintf(w.dir, sizeof(w.dir), "cluster-identity-%d", (int)getpid());
	run("rm -rf %s && mkdir %s", w.dir, w.dir);
	for (i = 0; i < BROKERS; i++) {
		address_of(i + 1, w.urls[i], sizeof(w.urls[i]));
		snprintf(w.cluster + strlen(w.cluster), sizeof(w.cluster) - strlen(w.cluster),
			 "%s%u=%s", i ? "," : "", i + 1, w.urls[i]);
		snprintf(w.all + strlen(w.all), sizeof(w.all) - strlen(w.all), "%s%s", i ? "," : "",
			 w.urls[i]);
	}
	CHECK(thmq_env_open(&w.env, THMQ_ENV_OPTS(.core_count = 2, .pool_bytes = 256u << 20)) == 0);
	begin();
	CHECK(thmq_connect(w.env, w.all, THMQ_SESSION_OPTS(.timeout_ns = 30 * SECOND), &w.session) == 0);
	CHECK(thmq_topic_create(w.session, "t", NULL) == 0);
	CHECK(thmq_producer_open(w.session, "t", NULL, &w.producer) == 0);
	send_some();
	another_number();
	damaged();
	run("cp -r %s/3 %s/before", w.dir, w.dir);
	open_broker(2);
	wait_for_leader();
	send_some();
	/* the others have seen this life of it */
	close_broker((uint32_t)leader() == 2 ? 0 : (uint32_t)leader());
	wait_for_leader();
	send_some();
	for (i = 0; i < BROKERS; i++)
		if (!w.brokers[i])
			open_broker(i);
	close_broker(2);
	wait_for_leader();
	run("mv %s/3 %s/3.good && mv %s/before %s/3", w.dir, w.dir, w.dir, w.dir);
	if (getenv("THMQ_TEST_FULL"))
		is_kept_out(); /* as it was some time ago */
	run("rm -rf %s/3", w.dir);
	is_kept_out(); /* emptied */
	run("rm -rf %s/3 && mv %s/3.good %s/3", w.dir, w.dir, w.dir);
	open_broker(2); /* it itself */
	wait_for_leader();
	close_broker((uint32_t)leader() == 2 ? 0 : (uint32_t)leader());
	wait_for_leader();
	send_some();
	read_all();
	two_join();
	CHECK(thmq_session_close(w.session, 10 * SECOND) == 0);
	for (i = 0; i < BROKERS; i++)
		if (w.brokers[i])
			CHECK(thmq_broker_close(w.brokers[i], SECOND) != -EDEADLK);
	CHECK(thmq_env_close(w.env, 10 * SECOND) == 0);
	run("rm -rf %s", w.dir);
	printf("%s: %u messages\n", far ? "tcp" : "inproc", w.sent);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";
	bool full = getenv("THMQ_TEST_FULL") != NULL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (full || strcmp(only, "inproc") == 0)
		story(false);
	if (strcmp(only, "inproc") != 0)
		story(true);
	return 0;
}
