/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compaction_kill_test.c - a process that publishes to a compacted topic, in small segments, is killed with SIGKILL at a random
 * moment, again and again, in one directory. Each time: no byte of it is damaged; of each key the last value acknowledged is there, or
 * its deletion; none comes back.
 *
 * usage: compaction_kill_test [kills]; default 6, and 300 with THMQ_TEST_FULL=1.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thundermq/log.h>
#include <unistd.h>

#include "../check.h"

#define KEYS 50u

/* Written by the child, read by the parent after its death. */
struct shared {
	volatile uint64_t sent[KEYS], acked[KEYS]; /* newest versions */
	volatile uint64_t version;
	volatile int ready;
};

static struct shared *shared;
static char dir[] = "compaction-kill-XXXXXX";
static uint64_t seen[KEYS];

static struct {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
} p;

static bool is_deletion(uint64_t version)
{
	return version * 0x9e3779b97f4a7c15ull >> 61 == 0;
}

static void open_all(uint32_t cores)
{
	CHECK(thmq_env_open(&p.env, THMQ_ENV_OPTS(.core_count = cores)) == 0);
	CHECK(thmq_broker_open(p.env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 1,
						.segment_bytes = 1u << 20),
			       &p.broker) == 0);
	CHECK(thmq_connect(p.env, "inproc://", NULL, &p.session) == 0);
	CHECK(thmq_topic_create(p.session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_COMPACT | THMQ_TOPIC_IF_ABSENT,
						.tombstone_ns = 200 * MS)) == 0);
}

/* Versions in flight, by sequence. */
#define OUT 256u

static void publish(uint32_t cores)
{
	static struct {
		uint64_t key, version;
	} out[OUT];
	static uint64_t data[1500];
	struct thmq_producer *producer;
	uint64_t key, version, mark = 0;
	int64_t seq, last = 0;

	open_all(cores);
	CHECK(thmq_producer_open(p.session, "t", NULL, &producer) == 0);
	shared->ready = 1;
	for (;;) {
		version = shared->version + 1;
		key = version * 2654435761u % KEYS;
		data[0] = key;
		data[1] = version;
		shared->version = version; /* given out before it is sent */
		shared->sent[key] = version;
		while ((uint64_t)last - mark >= OUT - 1 ||
		       (seq = thmq_send(producer, data,
					is_deletion(version) ? 0 : (uint32_t)(16 + version % 11000),
					THMQ_MESSAGE_OPTS(.key = &key, .key_len = 8))) == -EAGAIN) {
			CHECK(thmq_poll(p.env, 1000000) >= 0 || cores);
			for (; mark < (uint64_t)thmq_watermark(producer); mark++)
				shared->acked[out[(mark + 1) % OUT].key] =
					out[(mark + 1) % OUT].version;
		}
		CHECK(seq > 0);
		last = seq;
		out[seq % OUT].key = key;
		out[seq % OUT].version = version;
	}
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	if (f->kind == THMQ_FINDING_DAMAGE || f->kind == THMQ_FINDING_INDEX) {
		fprintf(stderr, "%s\n", f->text);
		++*(int *)ctx;
	}
	return 0;
}

static void check(void)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = on_finding};
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_consumer *reader;
	struct thmq_message m;
	uint64_t is[2], key, next = 0, last[KEYS] = {0}, idle = 0;
	int n, findings = 0;
	uint32_t k;

	CHECK(thmq_data_scan(dir, &visitor, &findings) == 0 && !findings);
	open_all(0);
	CHECK(thmq_partition_describe(p.session, "t", 0, NULL, &info) == 0);
	CHECK(thmq_consumer_open(p.session, "t", NULL,
				 THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &reader) == 0);
	memset(seen, 0, sizeof(seen));
	while (next < info.end_offset && idle < 100) { /* the last offsets may be holes */
		n = thmq_fetch(reader, &m, 1);
		CHECK(n >= 0);
		if (!n) {
			idle++;
			thmq_poll(p.env, 10 * MS);
			continue;
		}
		idle = 0;
		CHECK(m.key_len == 8 && m.offset >= next);
		memcpy(&key, m.key, 8);
		CHECK(key < KEYS);
		next = m.offset + 1;
		seen[key] = UINT64_MAX;
		if (m.len) {
			memcpy(is, m.data, sizeof(is));
			CHECK(is[0] == key && is[1] > last[key] && is[1] <= shared->version &&
			      !is_deletion(is[1]));
			seen[key] = last[key] = is[1];
		}
		CHECK(thmq_release(reader, &m, 1) == 0);
	}
	CHECK(thmq_env_close(p.env, 10 * SECOND) == 0);
	for (k = 0; k < KEYS; k++) {
		uint64_t acked = shared->acked[k], v;
		bool gone = false;

		for (v = acked; v && v <= shared->version; v++)
			gone = gone || (v * 2654435761u % KEYS == k && is_deletion(v));
		if (acked && seen[k] && seen[k] != UINT64_MAX)
			CHECK(seen[k] >= acked); /* lost, or come back */
		else if (acked)
			CHECK(gone);
		/* what is there is durable now, and what is not was not */
		if (seen[k] && seen[k] != UINT64_MAX)
			shared->acked[k] = seen[k];
	}
}

static void one_kill(uint32_t round)
{
	int status;
	pid_t pid;

	shared->ready = 0;
	pid = fork();
	if (pid == 0) {
		publish(round % 2);
		_exit(1);
	}
	CHECK(pid > 0);
	while (!shared->ready && waitpid(pid, &status, WNOHANG) == 0)
		nap(MS);
	nap((uint64_t)(random() % 250) * MS);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
	      WTERMSIG(status) == SIGKILL);
	check();
}

int main(int argc, char **argv)
{
	uint32_t kills = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 300 : 6, i;
	char command[64];

	srandom((unsigned)now());
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED && mkdtemp(dir));
	for (i = 0; i < kills; i++)
		one_kill(i);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
