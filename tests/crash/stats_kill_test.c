/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_kill_test.c - a broker's statistics, read by another process while it works and after it was killed: what is read is whole, never
 * goes back, and is there afterwards. Many topics and few; more topics than are published.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <thundermq/stats.h>
#include <unistd.h>

#include "../check.h"

static char dir[] = "stats-kill-XXXXXX";

/* ---------------------------------------------------------------- the broker */

static void work(int told, bool traced)
{
	struct thmq_session *s;
	struct thmq_producer *p[3];
	struct thmq_env *env;
	struct thmq_broker *b;
	char name[16];
	uint64_t n;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1 << 20, .trace_every = traced ? 3 : 0), &b) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	for (n = 0; n < 3; n++) {
		snprintf(name, sizeof(name), "topic-%u", (unsigned)n);
		CHECK(thmq_topic_create(s, name, THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
		CHECK(thmq_producer_open(s, name, NULL, &p[n]) == 0);
	}
	CHECK(write(told, "r", 1) == 1);
	for (n = 0;; n++) {
		if (thmq_send(p[n % 3], &n, sizeof(n), NULL) < 0)
			thmq_session_wait(s, MS);
		if (n % 64 == 0)
			thmq_flush(p[n % 3], SECOND);
	}
}

/* ----------------------------------------------------------------- its reader */

struct seen {
	uint64_t in[3], shard_in, batches, durable, traces, pid;
	bool alive;
};

static void look(struct thmq_stats *s, struct seen *ret)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	struct thmq_stats_value v = {.size = sizeof(v)};
	uint64_t cursor = 0;

	memset(ret, 0, sizeof(*ret));
	CHECK(thmq_stats_info(s, &info) == 0);
	ret->alive = info.alive;
	ret->pid = info.pid;
	while (thmq_stats_next(s, &cursor, &v) == 1) {
		if (strcmp(v.table, "topic") == 0 && strcmp(v.name, "messages_in") == 0 && strncmp(v.key, "topic-", 6) == 0)
			ret->in[v.key[6] - '0'] = v.value;
		if (strcmp(v.table, "shard") == 0 && strcmp(v.key, "shard-000") == 0) {
			if (strcmp(v.name, "messages_in") == 0)
				ret->shard_in = v.value;
			if (strcmp(v.name, "batches") == 0)
				ret->batches = v.value;
			if (strcmp(v.name, "durable") == 0) {
				ret->durable = v.value;
				CHECK(v.p50 <= v.p90 && v.p90 <= v.p99 && v.p99 <= v.p999 && v.p999 <= v.max);
			}
		}
		ret->traces += strcmp(v.table, "trace") == 0 && strcmp(v.name, "number") == 0 && v.value;
	}
}

static void check_not_back(const struct seen *a, const struct seen *b)
{
	int i;

	for (i = 0; i < 3; i++)
		CHECK(b->in[i] >= a->in[i]);
	CHECK(b->shard_in >= a->shard_in && b->batches >= a->batches && b->durable >= a->durable);
}

static void once(bool traced)
{
	uint64_t end = now() + 20 * SECOND;
	struct seen first, last, after;
	struct thmq_stats *s;
	int fds[2], status;
	pid_t pid;
	char c;

	CHECK(pipe(fds) == 0);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		work(fds[1], traced);
		_exit(0);
	}
	close(fds[1]);
	CHECK(read(fds[0], &c, 1) == 1);
	CHECK(thmq_stats_open(dir, &s) == 0);
	look(s, &first);
	CHECK(first.alive && first.pid == (uint64_t)pid);
	last = first;
	do { /* until something was seen of everything */
		struct seen next;

		CHECK(now() < end);
		CHECK(thmq_stats_refresh(s) == 0);
		look(s, &next);
		check_not_back(&last, &next);
		last = next;
		nap(MS);
	} while (!last.in[0] || !last.in[1] || !last.in[2] || last.durable < 10 || (traced && !last.traces));
	CHECK(traced || !last.traces);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
	CHECK(thmq_stats_refresh(s) == 0);
	look(s, &after);
	check_not_back(&last, &after);
	CHECK(!after.alive);
	thmq_stats_close(s);
	close(fds[0]);
}

static void killed(void)
{
	int rounds = getenv("THMQ_TEST_FULL") ? 30 : 2, i;

	for (i = 0; i < rounds; i++)
		once(i % 2);
}

/* -------------------------------------------------------- what it goes without */

static void closed_in_order(void)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	char path[64], prom[65536];
	struct thmq_broker *b;
	struct thmq_env *env;
	struct thmq_stats *s;

	CHECK(thmq_env_open(&env, NULL) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1 << 20), &b) == 0);
	CHECK(thmq_stats_open(dir, &s) == 0);
	CHECK(thmq_stats_prometheus(s, prom, sizeof(prom)) > 1000 && strstr(prom, "\nthmq_up 1\n"));
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(thmq_stats_refresh(s) == 0 && thmq_stats_info(s, &info) == 0 && info.closed_ns >= info.opened_ns && !info.alive);
	thmq_stats_close(s);
	/* none are wanted; elsewhere; nowhere */
	snprintf(path, sizeof(path), "%s/stats", dir);
	CHECK(unlink(path) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .flags = THMQ_BROKER_NO_STATS), &b) == 0);
	CHECK(thmq_stats_open(dir, &s) == -ENOENT);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.stats_path = "stats-kill-elsewhere"), &b) == 0);
	CHECK(thmq_stats_open("stats-kill-elsewhere", &s) == 0);
	thmq_stats_close(s);
	CHECK(thmq_broker_close(b, SECOND) == 0 && unlink("stats-kill-elsewhere") == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .stats_path = "/proc/no/such/place"), &b) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .stats_path = "x", .flags = THMQ_BROKER_NO_STATS), &b) == -EINVAL);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

/* A file is there while it is cut and filled with other things: the broker goes on. */
static void others_spoil_the_file(void)
{
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_broker *b;
	struct thmq_stats *stats;
	struct thmq_env *env;
	char path[64];
	int i;

	snprintf(path, sizeof(path), "%s/stats", dir);
	CHECK(thmq_env_open(&env, NULL) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1 << 20), &b) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "spoilt", NULL) == 0 && thmq_producer_open(s, "spoilt", NULL, &p) == 0);
	CHECK(truncate(path, 100) == 0);
	for (i = 0; i < 30; i++) {
		CHECK(thmq_send(p, "x", 1, NULL) > 0 && thmq_flush(p, 10 * SECOND) == 0);
		thmq_poll(env, 10 * MS);
	}
	CHECK(thmq_stats_open(dir, &stats) < 0);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

int main(int argc, char **argv)
{
	static const struct test_case cases[] = {
		{"killed", killed}, {"closed_in_order", closed_in_order}, {"others_spoil_the_file", others_spoil_the_file}};
	char command[64];

	CHECK(mkdtemp(dir));
	run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc - 1, argv + 1, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) ? 1 : 0;
}
