/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three brokers in three processes that keep the same data, over TCP on loopback, and a client in a fourth one: the broker that leads is killed, stopped, or leaves in good
 * order, and comes back; one that follows stands still, and all of them; and all are drained and restarted one by one; the session finds who leads by itself. What was acknowledged is there, each message once and in order. Members of groups work meanwhile, by
 * sessions of their own: of an exclusive one, of which one member comes and goes, nobody misses anything, and what they acknowledged stays so; of a shared one
 * each message comes at least once, and never again where a member was told that its acknowledgement is stored. And there are transactions: cluster_kill_txn.h.
 *
 * usage: cluster_kill_test [rounds] [seed] - THMQ_TEST_FULL=1 means 30 rounds
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define NODES 3u
#define PARTITIONS 3u
#define NUMBERS_MAX 16384u /* messages of a partition */
#define WORKERS 2u
#define PATIENCE_NS (60 * SECOND)

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* What the brokers' processes are told, and tell: memory of a file that each of them has. */
static struct shared {
	_Atomic uint32_t leads[NODES], ready[NODES];
	pid_t parent;
	uint32_t net;
	bool secure;
	char dirs[NODES][64], cluster[256];
} * shared;
#define SHARED_FD 3

static struct {
	uint64_t seed;
	pid_t pids[NODES];
	int fd; /* of what is shared */
	char urls[256];

	struct thmq_env *env;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint32_t sent, settled, messages, lost;
	uint32_t next_to[PARTITIONS], next_of[PARTITIONS];

	struct worker {
		struct thmq_session *session;
		struct thmq_consumer *member; /* of the exclusive group; NULL: it has left */
		struct thmq_consumer *sharer;
		bool acked[PARTITIONS][NUMBERS_MAX]; /* of the shared one, since the last flush */
	} workers[WORKERS];
	uint32_t seen[PARTITIONS]; /* by any of the exclusive group's */
	/* in the shared group: it came to somebody; somebody was told that it is done */
	bool came[PARTITIONS][NUMBERS_MAX], stored[PARTITIONS][NUMBERS_MAX];
	uint32_t shared_came, again, unsure;
} w;

static volatile sig_atomic_t asked;

static void on_term(int number)
{
	(void)number;
	asked = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t chance(uint64_t below)
{
	w.seed ^= w.seed << 13;
	w.seed ^= w.seed >> 7;
	w.seed ^= w.seed << 17;
	return w.seed % below;
}

/* --------------------------------------------------------------------- brokers */

static void node_main(uint32_t number)
{
	const struct timespec nap = {.tv_nsec = 1000000};
	struct thmq_broker *broker;
	struct thmq_env *env;
	char url[64];

	signal(SIGTERM, on_term);
	snprintf(url, sizeof(url), "tcp://127.%u.%u.%u:7471", shared->net >> 8, shared->net & 255, number + 1);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2, .pool_bytes = 128u << 20)) == 0);
	CHECK(thmq_broker_open(
		      env,
		      THMQ_BROKER_OPTS(.data_dir = shared->dirs[number], .listen = url, .shard_count = 2,
				       .segment_bytes = 16u << 20, .batch_bytes = 256u << 10,
				       .cluster = shared->cluster, .cluster_name = "kill",
				       .node_id = number + 1,
				       .cluster_key = shared->secure ? "00112233445566778899aabbccddeeff"
							       : NULL),
		      &broker) == 0);
	atomic_store(&shared->ready[number], 1);
	while (!asked && getppid() == shared->parent) {
		atomic_store(&shared->leads[number], thmq_broker_leader(broker, NULL) == 1);
		nanosleep(&nap, NULL);
	}
	atomic_store(&shared->leads[number], 0);
	CHECK(thmq_broker_close(broker, 10 * SECOND) == 0);
	CHECK(thmq_env_close(env, SECOND) == 0);
	exit(0);
}

static void start(uint32_t number)
{
	pid_t pid;

	atomic_store(&shared->leads[number], 0);
	atomic_store(&shared->ready[number], 0);
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) { /* a program of its own: in a copy of this one pools have left holes, and sanitizers know of what was there */
		char text[8];

		snprintf(text, sizeof(text), "%u", number);
		if (w.fd != SHARED_FD)
			dup2(w.fd, SHARED_FD);
		close_range(SHARED_FD + 1, ~0u, 0);
		execl("/proc/self/exe", "cluster_kill_test", "node", text, NULL);
		_exit(1);
	}
	w.pids[number] = pid;
}

/* ---------------------------------------------------------------------- client */

static void send_some(void)
{
	uint32_t n = (uint32_t)chance(40), partition, body[100] = {0};
	int64_t rc;

	while (n-- && w.sent < w.messages) {
		partition = (uint32_t)chance(PARTITIONS);
		CHECK(w.next_to[partition] < NUMBERS_MAX);
		body[0] = w.next_to[partition];
		rc = thmq_send(
			w.producer, body, 4 + 4 * (uint32_t)chance(99),
			THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
		if (rc == -EAGAIN || rc == -THMQ_ENOQUORUM)
			return;
		CHECK(rc == w.sent + 1);
		w.sent++;
		w.next_to[partition]++;
	}
}

static void take_some(void)
{
	struct thmq_message m[64];
	int n = thmq_fetch(w.consumer, m, 64), i;
	uint32_t number;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, 4);
		CHECK(number == w.next_of[m[i].partition]);
		w.next_of[m[i].partition]++;
	}
	CHECK(thmq_release(w.consumer, m, (uint32_t)n) == 0);
}

static void take_events(void)
{
	struct thmq_event e;

	while (thmq_events(w.session, &e, 1) == 1) {
		if (e.type != THMQ_EVENT_SETTLED && e.type != THMQ_EVENT_DISCONNECTED &&
		    e.type != THMQ_EVENT_RECONNECTED && e.type != THMQ_EVENT_ASSIGNED)
			fprintf(stderr, "event %u, error %d\n", e.type, e.error);
		CHECK(e.type == THMQ_EVENT_SETTLED || e.type == THMQ_EVENT_DISCONNECTED ||
		      e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED);
		CHECK(e.type != THMQ_EVENT_SETTLED || e.durability == THMQ_DURABILITY_QUORUM);
		w.settled += e.type == THMQ_EVENT_SETTLED;
		w.lost += e.type == THMQ_EVENT_DISCONNECTED;
	}
	CHECK(w.settled <= w.sent);
}

/* -------------------------------------------------------------------- workers */

/* Where a partition changes hands, or a broker, some of it comes twice, and nothing is left out. */
static void work_alone(struct worker *k)
{
	struct thmq_message m[32];
	uint32_t number, p;
	int n, i, rc;

	if (!k->member)
		return;
	n = thmq_fetch(k->member, m, 32);
	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, 4);
		p = m[i].partition;
		if (number > w.seen[p])
			fprintf(stderr, "group, partition %u: %u where %u was to come\n", p, number,
				w.seen[p]);
		CHECK(number <= w.seen[p]);
		w.again += number < w.seen[p];
		w.seen[p] = number < w.seen[p] ? w.seen[p] : number + 1;
		rc = thmq_ack(k->member, &m[i]);
		CHECK(rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
	}
	CHECK(thmq_release(k->member, m, (uint32_t)n) == 0);
}

static void share(struct worker *k)
{
	struct thmq_message m[16];
	int n = thmq_fetch(k->sharer, m, 16), i, rc;
	uint32_t number, p;
	bool acks;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, 4);
		p = m[i].partition;
		CHECK(number < w.next_to[p]);
		if (w.stored[p][number])
			fprintf(stderr, "shared group, partition %u: %u comes again\n", p, number);
		CHECK(!w.stored[p][number]);
		w.shared_came += !w.came[p][number];
		w.came[p][number] = true;
		acks = chance(10) != 0;
		rc = acks ? thmq_ack(k->sharer, &m[i])
			  : thmq_nack(k->sharer, &m[i], chance(SECOND / 10));
		CHECK(rc == 0 || rc == -EAGAIN || rc == -THMQ_EFENCED);
		k->acked[p][number] |= acks && rc == 0;
	}
	CHECK(thmq_release(k->sharer, m, (uint32_t)n) == 0);
}

/* @forgets: nothing of it is known to be stored. */
static void settle(struct worker *k, bool forgets)
{
	for (uint32_t p = 0; p < PARTITIONS; p++)
		for (uint32_t i = 0; i < w.next_to[p]; i++) {
			w.stored[p][i] |= k->acked[p][i] && !forgets;
			k->acked[p][i] = false;
		}
}

static void flush_shared(struct worker *k)
{
	int rc = thmq_consumer_flush(k->sharer, SECOND / 100);

	CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -THMQ_EFENCED);
	w.unsure += rc == -THMQ_EFENCED;
	if (rc != -ETIMEDOUT)
		settle(k, rc != 0);
}

static void join(struct worker *k)
{
	CHECK(thmq_consumer_open(k->session, "t", "g",
				 THMQ_CONSUMER_OPTS(.session_timeout_ns = 60 * SECOND),
				 &k->member) == 0);
}

static void come_or_go(struct worker *k)
{
	int rc;

	if (!k->member) {
		join(k);
		return;
	}
	rc = thmq_consumer_close(k->member, 10 * SECOND);
	CHECK(rc == 0 || rc == -THMQ_EFENCED || rc == -ETIMEDOUT);
	k->member = NULL;
}

static void work(void)
{
	struct thmq_event e;

	for (uint32_t i = 0; i < WORKERS; i++) {
		struct worker *k = &w.workers[i];

		if (!k->session)
			return;
		work_alone(k);
		share(k);
		if (chance(50) == 0)
			flush_shared(k);
		while (thmq_events(k->session, &e, 1) == 1)
			CHECK(e.type == THMQ_EVENT_DISCONNECTED ||
			      e.type == THMQ_EVENT_RECONNECTED || e.type == THMQ_EVENT_ASSIGNED ||
			      e.type == THMQ_EVENT_REVOKED || e.type == THMQ_EVENT_OFFSETRANGE);
	}
}

static void hire(void)
{
	for (uint32_t i = 0; i < WORKERS; i++) {
		struct worker *k = &w.workers[i];

		CHECK(thmq_connect(w.env, w.urls,
				   THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND,
						     .timeout_ns = 30 * SECOND,
						     .peer_timeout_ns = SECOND / 2),
				   &k->session) == 0);
		join(k);
		CHECK(thmq_consumer_open(k->session, "t", "s",
					 THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED,
							    /* whose time has passed another may have */
							    .invisible_ns = 600 * SECOND,
							    .prefetch_count = 64),
					 &k->sharer) == 0);
	}
}

static uint32_t seen_by_all(void)
{
	uint32_t n = 0;

	for (uint32_t p = 0; p < PARTITIONS; p++)
		n += w.seen[p];
	return n;
}

#include "cluster_kill_txn.h"

/* ----------------------------------------------------------------------- both */

static void step(void)
{
	send_some();
	take_some();
	take_events();
	work();
	txns_step();
	CHECK(thmq_session_wait(w.session, SECOND / 1000) >= 0);
}

/* All that was to be sent has been, and has come back. */
static void catch_up(uint32_t more)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	uint32_t got;

	w.messages += more;
	do {
		step();
		got = w.next_of[0] + w.next_of[1] + w.next_of[2];
		if (now_ns() > end)
			fprintf(stderr,
				"%u to send, %u sent, %u settled, %u came, %u by the group, %u by "
				"the shared one\n",
				w.messages, w.sent, w.settled, got, seen_by_all(), w.shared_came);
		CHECK(now_ns() < end);
	} while (w.sent != w.messages || got != w.sent || w.settled != w.sent ||
		 (w.workers[0].session && (seen_by_all() != w.sent || w.shared_came != w.sent)));
}

static void begin(void)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	int rc;

	CHECK(thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) == 0);
	while ((rc = thmq_connect(w.env, w.urls,
				  THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND,
						    .peer_timeout_ns = SECOND / 2),
				  &w.session)) != 0) {
		if (now_ns() > end)
			fprintf(stderr, "connect: %d %s\n", rc, thmq_errmsg());
		CHECK(now_ns() < end);
	}
	CHECK(thmq_topic_create(w.session, "t", THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)) ==
	      0);
	CHECK(thmq_producer_open(w.session, "t", THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
				 &w.producer) == 0);
	CHECK(thmq_consumer_open(w.session, "t", NULL, NULL, &w.consumer) == 0);
	hire();
	if (getenv("THMQ_TEST_FULL"))
		txns_begin();
	catch_up(200);
}

/* ----------------------------------------------------------------------- story */

static uint32_t leader(void)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	for (;; step()) {
		CHECK(now_ns() < end);
		for (uint32_t i = 0; i < NODES; i++)
			if (w.pids[i] && atomic_load(&shared->leads[i]))
				return i;
	}
}

static void lose(uint32_t who, uint32_t how)
{
	static const char *const ways[] = {"killed", "stopped", "sent home"};
	static const int signals[] = {SIGKILL, SIGSTOP, SIGTERM};
	uint64_t began = now_ns();
	int status;

	CHECK(kill(w.pids[who], signals[how]) == 0);
	atomic_store(&shared->leads[who], 0);
	if (how == 0)
		CHECK(waitpid(w.pids[who], NULL, 0) == w.pids[who]);
	catch_up(300);
	printf("broker %u was %s: all goes on after %u ms\n", who + 1, ways[how],
	       (unsigned)((now_ns() - began) / 1000000));
	if (how == 1) {
		CHECK(kill(w.pids[who], SIGCONT) == 0);
	} else {
		if (how == 2) {
			while (waitpid(w.pids[who], &status, WNOHANG) == 0)
				step();
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		}
		w.pids[who] = 0;
		start(who);
	}
	catch_up(200);
	come_or_go(&w.workers[1]);
}

static bool is_one_of_them(uint32_t who)
{
	struct thmq_node nodes[NODES] = {{.size = sizeof(nodes[0])}};

	CHECK(thmq_cluster_nodes(w.session, nodes, NODES) == (int)NODES);
	for (uint32_t i = 0; i < NODES; i++)
		if (nodes[i].id == who + 1)
			return nodes[i].connected;
	return false;
}

/* All of them, one by one: each is drained, ends, comes back with what it had, and may lead again; clients go on all the time. */
static void restart_all(void)
{
	uint64_t began = now_ns(), end;
	int status;

	for (uint32_t i = 0; i < NODES; i++) {
		end = now_ns() + PATIENCE_NS;
		w.messages += 100;
		CHECK(thmq_cluster_drain(w.session, i + 1, PATIENCE_NS) == 0);
		CHECK(kill(w.pids[i], SIGTERM) == 0);
		while (waitpid(w.pids[i], &status, WNOHANG) == 0) {
			CHECK(now_ns() < end);
			step();
		}
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		w.pids[i] = 0;
		start(i);
		while (!is_one_of_them(i)) {
			CHECK(now_ns() < end);
			step();
		}
		CHECK(thmq_cluster_undrain(w.session, i + 1, PATIENCE_NS) == 0);
	}
	catch_up(100);
	printf("all brokers were restarted one by one, within %u ms\n", (unsigned)((now_ns() - began) / 1000000));
}

/* Who follows stands still, and the other two go on; then all of them do, for longer than an election takes. */
static void freeze(uint32_t who, bool all)
{
	uint32_t i;

	for (i = 0; i < NODES; i++)
		if (all || i == who)
			CHECK(kill(w.pids[i], SIGSTOP) == 0);
	if (all)
		nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = (long)chance(SECOND)}, NULL);
	else
		catch_up(100);
	for (i = 0; i < NODES; i++)
		if (all || i == who)
			CHECK(kill(w.pids[i], SIGCONT) == 0);
	catch_up(100);
	printf("%s stood still\n", all ? "all brokers" : "a broker that follows");
}

/* All is done, and stays so. */
static void end_shared(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t end = now_ns() + PATIENCE_NS;
	uint32_t p;

	for (p = 0; p < PARTITIONS;) {
		CHECK(now_ns() < end);
		step();
		CHECK(thmq_partition_describe(w.session, "t", p, "s", &info) == 0);
		p += info.group_offset == info.end_offset;
	}
}

static void end(void)
{
	int status;
	uint32_t i;

	end_shared();
	if (x.session)
		txns_end();
	for (i = 0; i < WORKERS; i++)
		CHECK(thmq_session_close(w.workers[i].session, 30 * SECOND) == 0);
	CHECK(thmq_flush(w.producer, 30 * SECOND) == 0);
	CHECK(thmq_session_close(w.session, 30 * SECOND) == 0);
	CHECK(thmq_env_close(w.env, 10 * SECOND) == 0);
	for (i = 0; i < NODES; i++) {
		uint64_t begin = now_ns();

		while (!atomic_load(&shared->ready[i])) {
			usleep(10000);
			CHECK(now_ns() - begin < PATIENCE_NS);
		}
		CHECK(kill(w.pids[i], SIGTERM) == 0);
	}
	for (i = 0; i < NODES; i++) {
		CHECK(waitpid(w.pids[i], &status, 0) == w.pids[i]);
		CHECK(WIFEXITED(status));
		w.pids[i] = 0;
	}
}

static void end_all(void)
{
	if (!shared || getpid() != shared->parent)
		return;
	for (uint32_t i = 0; i < NODES; i++)
		if (w.pids[i] > 0)
			kill(w.pids[i], SIGKILL);
}

static void prepare(void)
{
	char command[128];
	size_t at = 0, to = 0;

	for (uint32_t i = 0; i < NODES; i++) {
		char url[64];

		snprintf(url, sizeof(url), "tcp://127.%u.%u.%u:7471", shared->net >> 8, shared->net & 255,
			 i + 1);
		at += (size_t)snprintf(shared->cluster + at, sizeof(shared->cluster) - at, "%s%u=%s",
				       i ? "," : "", i + 1, url);
		to += (size_t)snprintf(w.urls + to, sizeof(w.urls) - to, "%s%s", i ? "," : "", url);
		snprintf(shared->dirs[i], sizeof(shared->dirs[i]), "cluster_kill.%u.%d", i, (int)getpid());
		snprintf(command, sizeof(command), "rm -rf %s", shared->dirs[i]);
		CHECK(system(command) == 0);
	}
}

static void map_shared(bool is_node)
{
	w.fd = is_node ? SHARED_FD : memfd_create("cluster_kill", 0);
	CHECK(w.fd >= 0 && (is_node || ftruncate(w.fd, sizeof(*shared)) == 0));
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, w.fd, 0);
	CHECK(shared != MAP_FAILED);
}

int main(int argc, char **argv)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL;
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : full ? 30 : 3, i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	map_shared(argc == 3 && strcmp(argv[1], "node") == 0);
	if (argc == 3 && strcmp(argv[1], "node") == 0)
		node_main((uint32_t)atoi(argv[2]));
	shared->parent = getpid();
	w.seed = (argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)getpid() * 2654435761u) | 1;
	shared->net = ((uint32_t)getpid() & 0x7fff) +
		0x8000; /* another half of 127/8 than the other test's */
	shared->secure = chance(2);
	printf("seed %llu%s\n", (unsigned long long)w.seed, shared->secure ? ", with a key" : "");
	prepare();
	atexit(end_all);
	for (i = 0; i < NODES; i++)
		start(i);
	begin();
	for (i = 0; i < rounds; i++)
		lose(i < 3 || chance(3) ? leader() : (leader() + 1) % NODES,
		     i < 3 ? i : (uint32_t)chance(3));
	freeze((leader() + 1) % NODES, false);
	freeze(0, true);
	restart_all();
	end();
	printf("%u messages, %u times reconnected; %u came twice to the group, %u times a member of the "
	       "shared one was not sure\n",
	       w.sent, w.lost, w.again, w.unsure);
	prepare();
	return 0;
}
