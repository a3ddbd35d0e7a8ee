/* SPDX-License-Identifier: Apache-2.0 */
/*
 * txn_kill_test.c - a process that consumes, transforms and produces in transactions, over two topics and what its group acknowledges, is killed with
 * SIGKILL at a random moment, again and again, in one directory. Then what is there of each transaction is all or nothing: what was committed is, what was
 * aborted is not, and each input was done exactly once.
 *
 * usage: txn_kill_test [kills]; default 5, and 300 with THMQ_TEST_FULL=1.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"

#define PARTITIONS 3u
#define TXNS_MAX 60000u
#define INPUTS_MAX 60000u
#define PARTS 6u /* messages of one transaction, at most */

enum fate { NOT_SENT, OPEN, COMMITTED, ABORTED, PREPARED };

/* Written by the child, read by the parent after its death. */
struct shared {
	volatile uint32_t next; /* transaction */
	volatile uint8_t fates[TXNS_MAX];
	volatile uint8_t parts[TXNS_MAX]; /* messages */
	volatile uint32_t fed; /* inputs, sent; some at the end perhaps not stored */
	volatile uint32_t stored;
	volatile bool ready;
};

struct message {
	uint32_t txn, part;
	uint32_t input, inputs; /* it is what became of these: of part 0 only */
};

static struct shared *shared;
static char dir[] = "txn-kill-test-XXXXXX";
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *session;

static void open_all(uint32_t cores)
{
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = cores, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = dir, .shard_count = 2, .segment_bytes = 1u << 20), &broker) == 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &session) == 0);
	CHECK(thmq_topic_create(session, "in", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_topic_create(session, "a", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .partition_count = PARTITIONS)) == 0);
	CHECK(thmq_topic_create(session, "b", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	/* so that segments go, and what is aborted in them is moved */
	CHECK(thmq_topic_create(session, "filler",
				THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT, .partition_count = 2, .retention_bytes = 65536)) == 0);
}

/* ------------------------------------------------------------------ who dies */

static void put(struct thmq_producer *p, struct thmq_txn *t, uint32_t partition, const struct message *m)
{
	int64_t seq;

	while ((seq = thmq_send(p, m, sizeof(*m), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition, .txn = t))) == -EAGAIN)
		thmq_poll(env, MS);
	CHECK(seq > 0);
}

/* Inputs that it has not done, and what they become, in one transaction. */
static void one(struct thmq_producer *a, struct thmq_producer *b, struct thmq_consumer *c)
{
	static uint64_t where = UINT64_MAX;
	struct thmq_message in[3];
	struct message m = {0};
	struct thmq_txn *t;
	bool halves = random() % 8 == 0;
	int n = halves ? 0 : thmq_fetch(c, in, 1 + (uint32_t)random() % 3), i, rc;
	uint32_t id;

	if (n < 0 || (!n && !halves) || shared->next + 1 >= TXNS_MAX) {
		thmq_poll(env, MS);
		return;
	}
	CHECK(thmq_txn_begin(session, halves ? THMQ_TXN_OPTS(.name = "half", .check_ns = 20 * MS, .check_max = 4) : NULL, &t) == 0);
	id = m.txn = shared->next++;
	shared->parts[id] = (uint8_t)(1 + random() % PARTS);
	shared->fates[id] = OPEN;
	if (n) {
		memcpy(&m.input, in[0].data, 4);
		m.inputs = (uint32_t)n;
		where = in[0].offset;
		CHECK(thmq_txn_ack(t, c, &in[n - 1]) == 0);
	}
	for (i = 0; i < shared->parts[id]; i++, m.inputs = 0) {
		m.part = (uint32_t)i;
		put(i % 2 ? b : a, t, i % 2 ? 0 : (uint32_t)random() % PARTITIONS, &m);
	}
	if (n)
		CHECK(thmq_release(c, in, (uint32_t)n) == 0);
	if (halves) {
		CHECK(thmq_txn_prepare(t, 10 * SECOND) == 0);
		shared->fates[id] = PREPARED;
		if (random() % 2) /* else it is left to who watches */
			return;
		rc = random() % 2;
	} else {
		rc = random() % 4 != 0;
	}
	if (rc) {
		CHECK(thmq_txn_commit(t, 10 * SECOND) == 0);
		shared->fates[id] = COMMITTED;
	} else {
		shared->fates[id] = ABORTED; /* it will not be committed any more, whether it dies now or not */
		CHECK(thmq_txn_abort(t, 10 * SECOND) == 0);
		if (n)
			CHECK(thmq_seek(c, 0, THMQ_START_OFFSET, where) == 0);
	}
}

static void feed(struct thmq_producer *p)
{
	uint32_t i;

	for (i = 0; i < 3 && shared->fed < INPUTS_MAX; i++) {
		uint32_t id = shared->fed;

		if (thmq_send(p, &id, 4, NULL) < 0)
			break;
		shared->fed++;
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	shared->stored = shared->fed;
}

/* The parent has looked at what is there: fed goes on behind that. */
static void work_for_ever(uint32_t cores)
{
	static uint8_t filling[20000];
	struct thmq_producer *in, *a, *b, *filler;
	struct thmq_consumer *c;
	struct thmq_event e;

	open_all(cores);
	CHECK(thmq_producer_open(session, "in", NULL, &in) == 0);
	CHECK(thmq_producer_open(session, "a", NULL, &a) == 0);
	CHECK(thmq_producer_open(session, "b", THMQ_PRODUCER_OPTS(.durability = THMQ_DURABILITY_MEMORY), &b) == 0);
	CHECK(thmq_producer_open(session, "filler", NULL, &filler) == 0);
	CHECK(thmq_consumer_open(session, "in", "g", NULL, &c) == 0);
	shared->ready = true;
	for (;;) {
		feed(in);
		one(a, b, c);
		thmq_send(filler, filling, sizeof(filling), NULL);
		while (thmq_events(session, &e, 1) == 1)
			CHECK(e.type != THMQ_EVENT_FAILED);
	}
}

/* ----------------------------------------------------------------- who looks */

/* Half messages that nobody has decided about: by their number. */
static void decide_all(void)
{
	uint64_t begin = now();
	struct thmq_event e;
	int rc;

	CHECK(thmq_txn_watch(session, "half") == 0);
	while (now() - begin < 150 * MS) {
		thmq_session_wait(session, 5 * MS);
		while (thmq_events(session, &e, 1) == 1)
			if (e.type == THMQ_EVENT_TXN_CHECK) {
				rc = thmq_txn_decide(session, e.sequence, e.sequence % 2 ? THMQ_TXN_COMMIT : THMQ_TXN_ABORT, 10 * SECOND);
				CHECK(rc == 0 || rc == -ECANCELED); /* nobody did so in time */
			}
	}
}

static uint64_t end_of(const char *topic, uint32_t partition)
{
	struct thmq_partition_info info = {.size = sizeof(info)};

	CHECK(thmq_partition_describe(session, topic, partition, NULL, &info) == 0);
	return info.end_offset;
}

/* Behind all that is there: it is seen once nothing before it is open any more. */
static uint64_t mark(const char *topic, uint32_t partitions)
{
	struct thmq_producer *p;
	uint64_t id = now();
	uint32_t i;

	CHECK(thmq_producer_open(session, topic, NULL, &p) == 0);
	for (i = 0; i < partitions; i++)
		CHECK(thmq_send(p, &id, sizeof(id), THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = i)) > 0);
	CHECK(thmq_flush(p, 30 * SECOND) == 0);
	CHECK(thmq_producer_close(p, 30 * SECOND) == 0);
	return id;
}

/* All of a topic, up to the marks; without any, to its end. */
static void read_all(const char *topic, uint32_t partitions, uint64_t marks, void (*take)(const struct thmq_message *m))
{
	uint64_t begin = now(), next[PARTITIONS] = {0}, id;
	uint32_t left = partitions, i;
	struct thmq_consumer *c;
	struct thmq_message m;
	int n;

	CHECK(thmq_consumer_open(session, topic, NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) == 0);
	while (left) {
		n = thmq_fetch(c, &m, 1);
		CHECK(n >= 0 && now() - begin < 60 * SECOND);
		if (n) {
			next[m.partition] = m.offset + 1;
			if (marks && m.len == sizeof(id)) { /* or of a life before */
				memcpy(&id, m.data, sizeof(id));
				left -= id == marks;
			} else {
				take(&m);
			}
			CHECK(thmq_release(c, &m, 1) == 0);
			continue;
		}
		for (left = marks ? left : 0, i = 0; i < partitions && !marks; i++)
			left += end_of(topic, i) != next[i];
		thmq_session_wait(session, MS);
	}
	CHECK(thmq_consumer_close(c, 30 * SECOND) == 0);
}

static uint8_t *seen; /* bits of parts, by transaction */
static uint8_t *done; /* by input */
static uint32_t inputs;

static void take_part(const struct thmq_message *m)
{
	struct message is;
	uint32_t i;

	CHECK(m->len == sizeof(is));
	memcpy(&is, m->data, sizeof(is));
	CHECK(is.txn < shared->next && is.part < shared->parts[is.txn]);
	CHECK(!(seen[is.txn] & 1u << is.part)); /* once */
	seen[is.txn] |= (uint8_t)(1u << is.part);
	for (i = 0; i < is.inputs; i++) {
		CHECK(is.input + i < INPUTS_MAX && !done[is.input + i]); /* exactly once */
		done[is.input + i] = 1;
	}
}

static void take_input(const struct thmq_message *m)
{
	uint32_t id;

	memcpy(&id, m->data, 4);
	CHECK(m->len == 4 && id == inputs);
	inputs++;
}

/* The next input that the group gets is the first one that is not done. */
static void check_group(uint32_t next)
{
	uint64_t begin = now();
	struct thmq_consumer *c;
	struct thmq_message m;
	uint32_t id = next;
	int n = 0;

	CHECK(thmq_consumer_open(session, "in", "g", NULL, &c) == 0);
	while (next < inputs && (n = thmq_fetch(c, &m, 1)) == 0 && now() - begin < 20 * SECOND)
		thmq_session_wait(session, MS);
	CHECK(next == inputs || n == 1);
	if (n == 1) {
		memcpy(&id, m.data, 4);
		CHECK(thmq_release(c, &m, 1) == 0);
	}
	CHECK(id == next);
	CHECK(thmq_consumer_close(c, SECOND) == 0);
}

static void check(void)
{
	uint32_t i, k, committed = 0;
	uint8_t all;

	seen = calloc(TXNS_MAX, 1);
	done = calloc(INPUTS_MAX, 1);
	open_all(0);
	decide_all();
	read_all("in", 1, 0, take_input);
	read_all("a", PARTITIONS, mark("a", PARTITIONS), take_part);
	read_all("b", 1, mark("b", 1), take_part);
	for (i = 0; i < shared->next; i++) {
		all = (uint8_t)((1u << shared->parts[i]) - 1);
		CHECK(seen[i] == 0 || seen[i] == all);			/* all or nothing */
		CHECK(shared->fates[i] != COMMITTED || seen[i] == all); /* none is lost */
		CHECK(shared->fates[i] != ABORTED || seen[i] == 0);
		committed += seen[i] != 0;
	}
	CHECK(inputs >= shared->stored);
	shared->fed = shared->stored = inputs;
	for (k = 0; k < INPUTS_MAX && done[k]; k++)
		;
	for (i = k; i < INPUTS_MAX; i++)
		CHECK(!done[i]);
	check_group(k);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	printf("%u of %u transactions, %u of %u inputs\n", committed, shared->next, k, inputs);
	fflush(stdout);
	free(seen);
	free(done);
}

static int in_child(void (*what)(void), uint32_t cores, pid_t *ret_pid)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		srandom((unsigned int)(getpid() + now()));
		if (what)
			what();
		else
			work_for_ever(cores);
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
	srandom((unsigned int)now());
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
		rc = in_child(check, 0, &pid);
	}
	if (rc)
		fprintf(stderr, "txn_kill_test: kill %u failed; see %s\n", i, dir);
	return rc || system(command) != 0;
}
