/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delay_kill_test.c - a process that sends delayed messages, and cancels some, is killed with SIGKILL at a random moment, again and again, in
 * one directory. Then each message that was acknowledged and not cancelled is there once, as soon as its time has come and not before; none
 * that was cancelled is there.
 *
 * usage: delay_kill_test [kills]; default 5, and 300 with THMQ_TEST_FULL=1.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

#define PARTITIONS 3u
#define MESSAGES_MAX 100000u
#define DELAY_MAX_MS 120u

/* Written by the child, read by the parent after its death. */
struct shared {
	volatile uint32_t sent; /* message i holds i */
	volatile bool stored[MESSAGES_MAX];
	volatile bool cancelled[MESSAGES_MAX], perhaps[MESSAGES_MAX];
	volatile uint64_t number[MESSAGES_MAX]; /* UINT64_MAX: not told */
	volatile bool ready;
};

static struct shared *shared;
static char dir[] = "delay-kill-test-XXXXXX";
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;
static uint32_t ids[MESSAGES_MAX + 1]; /* by sequence */
static uint32_t stored;                /* of them */

static uint64_t wall(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void open_all(uint32_t cores)
{
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = cores, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2, .segment_bytes = 1u << 20), &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "t",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .partition_count = PARTITIONS)) == 0);
	/* so that segments go, and what waits in them is moved */
	CHECK(thmq_topic_create(session, "filler",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .retention_bytes = 65536)) == 0);
}

static void take_events(struct thmq_producer *p)
{
	uint32_t mark = (uint32_t)thmq_watermark(p);
	struct thmq_event e;

	while (thmq_events(session, &e, 1) == 1)
		if (e.type == THMQ_EVENT_SETTLED)
			shared->number[ids[e.sequence]] = e.offset;
	while (stored < mark)
		shared->stored[ids[++stored]] = true;
}

static void cancel_one(void)
{
	uint32_t i = stored ? ids[1 + (uint32_t)random() % stored] : 0;
	int rc;

	if (!stored || shared->number[i] == UINT64_MAX || shared->cancelled[i])
		return;
	shared->perhaps[i] = true;
	rc = thmq_delayed_cancel(session, "t", i % PARTITIONS, shared->number[i]);
	CHECK(rc == 0 || rc == -ENOENT);
	shared->perhaps[i] = false;
	if (rc == 0)
		shared->cancelled[i] = true;
}

static void send_for_ever(uint32_t cores)
{
	static uint8_t filling[20000];
	struct thmq_producer *p, *filler;
	uint32_t i, id, payload[4];
	int64_t seq;
	uint64_t due;

	open_all(cores);
	CHECK(thmq_producer_open(session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT), &p) == 0);
	CHECK(thmq_producer_open(session, "filler", NULL, &filler) == 0);
	shared->ready = true;
	for (;;) {
		for (i = 0; i < 20 && shared->sent < MESSAGES_MAX; i++) {
			due = wall() + (uint64_t)random() % (DELAY_MAX_MS * MS);
			id = shared->sent++; /* before it is sent: nobody else has it, whenever this process dies */
			payload[0] = id;
			memcpy(payload + 1, &due, 8);
			seq = thmq_send(p, payload, 16, THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = id % PARTITIONS,
									  .deliver_at_ns = (int64_t)due));
			if (seq < 0)
				break;
			ids[seq] = id;
		}
		thmq_send(filler, filling, sizeof(filling), NULL);
		take_events(p);
		if (random() % 8 == 0)
			cancel_one();
		thmq_poll(env, 200000);
	}
}

static bool all_seen(const bool *seen)
{
	uint32_t i;

	for (i = 0; i < shared->sent; i++)
		if (!seen[i] && shared->stored[i] && !shared->cancelled[i] && !shared->perhaps[i])
			return false;
	return true;
}

static void read_all(bool *seen)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t begin = now(), due;
	struct thmq_consumer *c;
	struct thmq_message m[64];
	uint32_t id, i;
	int n, k, idle = 0;

	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	do {
		n = thmq_fetch(c, m, 64);
		CHECK(n >= 0 && now() - begin < 90 * SECOND);
		for (k = 0; k < n; k++) {
			memcpy(&id, m[k].data, 4);
			memcpy(&due, (const char *)m[k].data + 4, 8);
			CHECK(m[k].len == 16 && id < shared->sent && m[k].partition == id % PARTITIONS);
			CHECK(!seen[id]); /* once */
			CHECK((uint64_t)m[k].time_ns >= due);
			CHECK(!shared->cancelled[id]);
			seen[id] = true;
		}
		thmq_release(c, m, (uint32_t)n);
		if (!n)
			thmq_session_wait(session, MS);
		idle = n ? 0 : idle + 1;
	} while (idle < 20 || (!all_seen(seen) && now() - begin < 60 * SECOND));
	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(session, "t", i, NULL, &info) == 0);
		/* of those that may be cancelled or not stored nobody has waited, and a directory that was just opened is looked through */
		begin = now();
		while (info.delayed) {
			CHECK(now() - begin < 60 * SECOND);
			thmq_poll(env, MS);
			CHECK(thmq_partition_describe(session, "t", i, NULL, &info) == 0);
		}
	}
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

/* Once all times have passed. */
static void check(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	bool *seen = calloc(MESSAGES_MAX, sizeof(*seen));
	uint64_t begin = now(), left;
	uint32_t i, n = 0;

	open_all(0);
	do {
		thmq_poll(env, MS);
		for (left = 0, i = 0; i < PARTITIONS; i++) {
			CHECK(thmq_partition_describe(session, "t", i, NULL, &info) == 0);
			left += info.delayed;
		}
		CHECK(now() - begin < 60 * SECOND);
	} while (left || now() - begin < (DELAY_MAX_MS + 50) * MS);
	read_all(seen);
	for (i = 0; i < shared->sent; i++) {
		CHECK(seen[i] || !shared->stored[i] || shared->cancelled[i] || shared->perhaps[i]); /* nothing is lost */
		n += seen[i];
	}
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	printf("%u of %u came\n", n, shared->sent);
	fflush(stdout);
	free(seen);
}

static int in_child(void (*what)(void), uint32_t cores, pid_t *ret_pid)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		srandom((unsigned int)(getpid() + wall()));
		if (what)
			what();
		else
			send_for_ever(cores);
		_exit(0);
	}
	*ret_pid = pid;
	return what ? waitpid(pid, &status, 0) != pid || status != 0 : 0;
}

int main(int argc, char **argv)
{
	uint32_t kills = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 300 : 5, i;
	char command[64];
	int rc = 0, status;
	uint64_t begin;
	pid_t pid;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED && mkdtemp(dir));
	memset((void *)shared->number, 0xff, sizeof(shared->number));
	srandom((unsigned int)wall());
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	for (i = 0; i < kills && !rc; i++) {
		shared->ready = false;
		in_child(NULL, i % 3 == 2, &pid);
		for (begin = now(); !shared->ready && now() - begin < 20 * SECOND; usleep(200))
			if (waitpid(pid, &status, WNOHANG) == pid)
				return 1;
		nap((uint64_t)random() % (150 * MS));
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		if (i % 2 || i + 1 == kills) /* sometimes it dies twice before anybody looks */
			rc = in_child(check, 0, &pid);
	}
	if (rc)
		fprintf(stderr, "delay_kill_test: kill %u failed; see %s\n", i, dir);
	return rc || system(command) != 0;
}
