/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retention on real files, by each engine there is: fifty mebibytes go through a topic that keeps four, the directory stays small,
 * no offset comes twice, and a group stands where it stood when the broker comes back.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <thundermq/log.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define BIG 100000u
#define COUNT 520u /* fifty mebibytes */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static char dir[4096];
static struct thmq_env *env;
static struct thmq_session *session;
static char payload[BIG];

static void up(uint32_t flags)
{
	struct thmq_broker *broker;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.flags = flags, .pool_bytes = 128u << 20)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 1,
						.segment_bytes = 1u << 20, .cache_bytes = 1u << 20,
						.batch_bytes = 256u << 10),
			       &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
}

static void down(void)
{
	CHECK(thmq_env_close(env, 60 * SECOND) == 0);
}

static uint64_t size_of(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;
	char name[8192];
	uint64_t bytes = 0;

	CHECK(d);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		if (stat(name, &st) == 0)
			bytes += S_ISDIR(st.st_mode) ? size_of(name) : (uint64_t)st.st_size;
	}
	closedir(d);
	return bytes;
}

static void publish(uint32_t count)
{
	struct thmq_producer *p;

	CHECK(thmq_producer_open(session, "t", NULL, &p) == 0);
	while (count) {
		int64_t seq = thmq_send(p, payload, BIG, NULL);

		CHECK(seq > 0 || seq == -EAGAIN);
		count -= seq > 0;
		thmq_poll(env, seq > 0 ? 0 : 1000000);
	}
	CHECK(thmq_flush(p, 60 * SECOND) == 0);
	CHECK(thmq_producer_close(p, 60 * SECOND) == 0);
}

static uint64_t read_one(void)
{
	struct thmq_consumer *c;
	struct thmq_message m;
	uint64_t offset;
	int n;

	CHECK(thmq_consumer_open(session, "t", "g", NULL, &c) == 0);
	while ((n = thmq_fetch(c, &m, 1)) == 0)
		thmq_poll(env, 1000000);
	CHECK(n == 1);
	offset = m.offset;
	CHECK(thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
	CHECK(thmq_consumer_flush(c, 60 * SECOND) == 0);
	CHECK(thmq_consumer_close(c, 60 * SECOND) == 0);
	return offset;
}

static struct thmq_partition_info about(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(session, "t", 0, "g", &info) == 0);
	return info;
}

/* The cleaner looks when a segment was filled, and every second. */
static void wait_until_small(void)
{
	uint32_t i;

	for (i = 0; i < 5000 && size_of(dir) > 14u << 20; i++) /* each ends at the first thing that happens */
		thmq_poll(env, SECOND / 100);
	CHECK(size_of(dir) <= 14u << 20);
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	(void)ctx;
	fprintf(stderr, "finding %u at %llu: %s\n", f->kind, (unsigned long long)f->position, f->text);
	return f->kind != THMQ_FINDING_TORN_TAIL && f->kind != THMQ_FINDING_LEFTOVER;
}

/* A log that has lost its first segments is whole, also with a file that waits to be used again. */
static void verify(void)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = on_finding};
	char path[5000];

	snprintf(path, sizeof(path), "%s/shard-000", dir);
	CHECK(thmq_log_scan(path, &visitor, NULL) == 0);
}

static void run(const char *base, uint32_t flags)
{
	struct thmq_partition_info info, was;
	char command[5000];
	uint64_t first;

	snprintf(dir, sizeof(dir), "%s/data-%u", base, flags);
	up(flags);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.retention_bytes = 4u << 20)) == 0);
	publish(3);
	CHECK(read_one() == 0);
	publish(COUNT - 3);
	wait_until_small();
	info = about();
	CHECK(info.begin_offset > COUNT - 100 && info.end_offset == COUNT &&
	      info.group_offset == 1);
	down();
	verify();
	up(flags);
	was = info;
	info = about();
	/* A segment that was on its way out when the log was closed may have gone. */
	CHECK(info.begin_offset >= was.begin_offset && info.end_offset == COUNT &&
	      info.group_offset == 1);
	publish(COUNT);
	CHECK(about().end_offset == 2 * COUNT);
	wait_until_small();
	info = about();
	first = read_one(); /* what follows its group's offset has gone */
	CHECK(first >= info.begin_offset && first < info.end_offset);
	down();
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	CHECK(system(command) == 0);
}

int main(void)
{
	char base[] = "retention-test-XXXXXX";

	CHECK(mkdtemp(base));
	run(base, 0);
	run(base, THMQ_ENV_NO_URING);
	run(base, THMQ_ENV_NO_URING | THMQ_ENV_ALLOW_THREADS);
	CHECK(rmdir(base) == 0);
	return 0;
}
