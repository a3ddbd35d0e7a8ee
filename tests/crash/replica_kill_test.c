/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three copies of a log in three processes, over TCP on loopback, under load: the one that leads is killed, stopped, or cut off; comes back, and joins again.
 * Each process that leads appends numbers, each only once, rising over all of them, and notes those that were acknowledged at quorum in memory that all share.
 * In the end: no acknowledged number is missing, none is there twice, they rise, and the logs agree.
 *
 * usage: replica_kill_test [rounds] [seed] — THMQ_TEST_FULL=1 means 40 rounds
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/reactor.h>
#include <thundermq/replica.h>

#define SECOND 1000000000ull
#define NODES 3u
#define ACKS_MAX (1u << 20)
#define INDEX_MAX (1u << 20)
#define OUTSTANDING 64u
#define PIPES 256u
#define PIPE_BYTES 65536u
#define PATIENCE_NS (60 * SECOND)
#define PORT 7480u

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s (%s)\n", __func__, __LINE__, #x,                \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

struct ack {
	uint64_t index, value;
};

/* What all processes see. */
static struct shared {
	_Atomic uint64_t next_value;
	_Atomic uint64_t ack_count;
	_Atomic uint32_t quiet, finish;
	struct {
		_Atomic uint32_t role;
		_Atomic uint64_t term, committed, last;
	} nodes[NODES];
	struct ack acks[ACKS_MAX];
} * shared;

static struct {
	uint64_t seed;
	uint32_t net; /* of our addresses in 127/8 */
	pid_t parent, pids[NODES];
	bool cut[NODES]; /* from all others */
	bool tls;
	char dirs[NODES][64];
} w;

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

/* Node @to listens at @from == @to; others reach it by the cable between the two. */
static void url_of(uint32_t from, uint32_t to, char *ret)
{
	snprintf(ret, 64, "tcp://127.%u.%u.%u:%u", w.net >> 8 & 255, w.net & 255,
		 1 + from * 16 + to, PORT);
}

/* --------------------------------------------------------------------- a node */

struct node {
	uint32_t number;
	struct thmq_env *env;
	struct thmq_carrier *carrier;
	struct thmq_replica *replica;
	struct ack waiting[OUTSTANDING];
	uint32_t head, tail;
};

static void on_role(void *ctx, uint32_t role, uint64_t term, uint64_t leader)
{
	struct node *n = ctx;

	(void)leader;
	n->head = n->tail; /* of an earlier term: nobody knows what becomes of these */
	(void)role;
	atomic_store(&shared->nodes[n->number].term, term);
}

static void on_committed(void *ctx, uint64_t index)
{
	atomic_store(&shared->nodes[((struct node *)ctx)->number].committed, index);
}

static void on_failed(void *ctx, int error)
{
	fprintf(stderr, "node %u has failed: %s\n", ((struct node *)ctx)->number + 1,
		thmq_strerror(error));
	_exit(1);
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct node *n = ctx;

	if (durability != THMQ_DURABILITY_QUORUM)
		return;
	while (n->head != n->tail && n->waiting[n->head % OUTSTANDING].index <= index) {
		uint64_t at = atomic_fetch_add(&shared->ack_count, 1);

		if (at < ACKS_MAX)
			shared->acks[at] = n->waiting[n->head % OUTSTANDING];
		n->head++;
	}
}

static void on_unappended(void *ctx, uint64_t index)
{
	struct node *n = ctx;

	(void)index;
	n->head = n->tail;
}

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	(void)ctx;
	(void)run;
	return 0;
}

static const struct thmq_replica_events events = {
	.size = sizeof(events), .role = on_role, .committed = on_committed, .failed = on_failed};
static const struct thmq_log_events log_events = {.size = sizeof(log_events),
						  .replay = on_replay,
						  .settled = on_settled,
						  .unappended = on_unappended};

static void open_node(struct node *n)
{
	const struct thmq_tls_opts tls = {.size = sizeof(tls),
					  .psk_identity = "cluster",
					  .psk_key = "0123456789abcdef0123456789abcdef"};
	const struct thmq_log_opts log = {.size = sizeof(log),
					  .dir = w.dirs[n->number],
					  .events = &log_events,
					  .ctx = n,
					  .segment_bytes_min = 1u << 20,
					  .segment_bytes_max = 16u << 20,
					  .batch_bytes = 256u << 10,
					  .log_id = "replica kill"};
	struct thmq_member members[NODES] = {0};
	char url[64];
	uint32_t i;

	CHECK(thmq_env_open(&n->env, THMQ_ENV_OPTS(.pool_bytes = 128u << 20)) == 0);
	url_of(n->number, n->number, url);
	CHECK(thmq_carrier_open(thmq_env_core(n->env, 0),
				THMQ_CARRIER_OPTS(.id = n->number + 1, .cluster = "kill",
						  .listen = url, .tls = w.tls ? &tls : NULL,
						  .silence_ms = 500),
				&n->carrier) == 0);
	for (i = 0; i < NODES; i++) {
		members[i].id = i + 1;
		members[i].role = THMQ_MEMBER_VOTER;
		url_of(i, i, members[i].address);
		url_of(n->number, i, url);
		if (i != n->number)
			CHECK(thmq_carrier_place(n->carrier, i + 1, url) == 0);
	}
	CHECK(thmq_replica_open(thmq_env_core(n->env, 0),
				THMQ_REPLICA_OPTS(.log = &log, .events = &events, .ctx = n,
						  .id = n->number + 1, .group = 77,
						  .members = members, .member_count = NODES,
						  .carrier = n->carrier),
				&n->replica) == 0);
}

/* One number, in a run of its own, of any length. Return: 0 it waits to be acknowledged. */
static int append(struct node *n)
{
	struct thmq_log *log = thmq_replica_log(n->replica);
	struct thmq_run_header *run;
	uint64_t value, index;
	uint32_t len = 8 + (uint32_t)(chance(50) ? chance(1500) : chance(150000));
	int rc = thmq_log_append(log, (uint32_t)sizeof(*run) + len, &run, &index);

	if (rc)
		return rc;
	value = atomic_fetch_add(&shared->next_value, 1);
	thmq_run_init(run, THMQ_RUN_OPAQUE, 1, value, 1, len);
	memset(run + 1, (int)(value & 255), len);
	memcpy(run + 1, &value, sizeof(value));
	rc = thmq_log_append_end(log, run, THMQ_DURABILITY_DURABLE);
	if (!rc)
		n->waiting[n->tail++ % OUTSTANDING] = (struct ack){.index = index, .value = value};
	return rc;
}

static void node_main(uint32_t number)
{
	static struct node n;
	struct thmq_replica_state state = {.size = sizeof(state)};

	n.number = number;
	w.seed += number * 77 + (uint64_t)getpid();
	open_node(&n);
	while (!atomic_load(&shared->finish)) {
		thmq_poll(n.env, 1000000);
		if (getppid() == 1)
			_exit(1);
		while (!atomic_load(&shared->quiet) && n.tail - n.head < OUTSTANDING &&
		       append(&n) == 0)
			;
		CHECK(thmq_replica_state(n.replica, &state) == 0);
		atomic_store(&shared->nodes[number].last, state.last_index);
		atomic_store(&shared->nodes[number].role, state.role);
	}
	CHECK(thmq_replica_close(n.replica, 10 * SECOND) == 0);
	CHECK(thmq_carrier_close(n.carrier) == 0);
	CHECK(thmq_env_close(n.env, SECOND) == 0);
	exit(0);
}

static void start(uint32_t number)
{
	pid_t pid;

	atomic_store(&shared->nodes[number].role, 0);
	atomic_store(&shared->nodes[number].committed, 0);
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close_range(3, ~0u, 0);
		node_main(number);
	}
	w.pids[number] = pid;
}

/* ----------------------------------------------------------------- the cables */

/* Bytes from one socket to another; while a node is cut off they stay where they are. */
static struct pipe {
	int fds[2]; /* -1: free */
	uint32_t nodes[2];
} pipes[PIPES];
static int doors[NODES][NODES];

static int socket_at(const char *url, bool listens)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	char host[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;

	CHECK(fd >= 0);
	snprintf(host, sizeof(host), "%s", url + 6);
	*strchr(host, ':') = 0;
	CHECK(inet_pton(AF_INET, host, &a.sin_addr) == 1);
	if (listens) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 16) == 0);
	} else if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0 && errno != EINPROGRESS) {
		close(fd);
		return -1;
	}
	return fd;
}

static void lay_cables(void)
{
	char url[64];
	uint32_t i, k;

	for (i = 0; i < PIPES; i++)
		pipes[i].fds[0] = pipes[i].fds[1] = -1;
	for (i = 0; i < NODES; i++)
		for (k = 0; k < NODES; k++) {
			doors[i][k] = -1;
			if (i == k)
				continue;
			url_of(i, k, url);
			doors[i][k] = socket_at(url, true);
		}
}

static void unplug(struct pipe *p)
{
	close(p->fds[0]);
	close(p->fds[1]);
	p->fds[0] = p->fds[1] = -1;
}

static void plug(uint32_t from, uint32_t to)
{
	char url[64];
	uint32_t i;
	int fd = accept4(doors[from][to], NULL, NULL, SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (i = 0; i < PIPES && pipes[i].fds[0] >= 0; i++)
		;
	CHECK(i < PIPES);
	url_of(to, to, url);
	pipes[i] = (struct pipe){.fds = {fd, socket_at(url, false)}, .nodes = {from, to}};
	if (pipes[i].fds[1] < 0)
		unplug(&pipes[i]);
}

static bool is_cut(const struct pipe *p)
{
	return w.cut[p->nodes[0]] || w.cut[p->nodes[1]];
}

/* False: it is over. */
static bool carry(struct pipe *p, uint32_t from)
{
	static uint8_t bytes[PIPE_BYTES];
	struct pollfd to = {.fd = p->fds[!from], .events = POLLOUT};
	ssize_t n, at = 0, put;

	if (poll(&to, 1, 0) != 1)
		return true; /* later */
	n = recv(p->fds[from], bytes, sizeof(bytes), 0);
	if (n <= 0)
		return n < 0 && errno == EAGAIN;
	while (at < n) {
		put = send(p->fds[!from], bytes + at, (size_t)(n - at), MSG_NOSIGNAL);
		if (put < 0 && errno != EAGAIN)
			return false;
		if (put < 0)
			poll(&to, 1, 100);
		at += put > 0 ? put : 0;
	}
	return true;
}

/* The world goes on for so long, or a moment. */
static void live(uint64_t ns)
{
	uint64_t end = now_ns() + ns;
	struct pollfd fds[NODES * NODES + 2 * PIPES];
	uint32_t places[NODES * NODES + 2 * PIPES], count, i;

	do {
		count = 0;
		for (i = 0; i < NODES * NODES; i++)
			if (doors[i / NODES][i % NODES] >= 0) {
				places[count] = i;
				fds[count++] = (struct pollfd){.fd = doors[i / NODES][i % NODES],
							       .events = POLLIN};
			}
		for (i = 0; i < 2 * PIPES; i++)
			if (pipes[i / 2].fds[0] >= 0 && !is_cut(&pipes[i / 2])) {
				places[count] = NODES * NODES + i;
				fds[count++] = (struct pollfd){.fd = pipes[i / 2].fds[i % 2],
							       .events = POLLIN};
			}
		if (poll(fds, count, 2) <= 0)
			continue;
		for (i = 0; i < count; i++) {
			uint32_t at = places[i];

			if (!fds[i].revents)
				continue;
			if (at < NODES * NODES) {
				plug(at / NODES, at % NODES);
				continue;
			}
			at -= NODES * NODES;
			if (pipes[at / 2].fds[0] >= 0 && !carry(&pipes[at / 2], at % 2))
				unplug(&pipes[at / 2]);
		}
	} while (now_ns() < end);
}

/* ------------------------------------------------------------------- the story */

static uint64_t acked(void)
{
	return atomic_load(&shared->ack_count);
}

/* The living one of the highest term that thinks so, NODES: none. */
static uint32_t leader(void)
{
	uint32_t i, found = NODES;

	for (i = 0; i < NODES; i++)
		if (w.pids[i] && atomic_load(&shared->nodes[i].role) == THMQ_REPLICA_LEADER &&
		    (found == NODES ||
		     atomic_load(&shared->nodes[i].term) > atomic_load(&shared->nodes[found].term)))
			found = i;
	return found;
}

/* Return: how long it took. */
static uint64_t await_acks(uint64_t count)
{
	uint64_t from = acked(), begin = now_ns();

	while (acked() < from + count) {
		live(0);
		for (uint32_t i = 0; i < NODES; i++)
			CHECK(!w.pids[i] || waitpid(w.pids[i], NULL, WNOHANG) == 0);
		if (now_ns() - begin > PATIENCE_NS)
			for (uint32_t i = 0; i < NODES; i++)
				fprintf(stderr,
					"node %u: role %u term %llu committed %llu last %llu\n",
					i + 1, atomic_load(&shared->nodes[i].role),
					(unsigned long long)atomic_load(&shared->nodes[i].term),
					(unsigned long long)atomic_load(
						&shared->nodes[i].committed),
					(unsigned long long)atomic_load(&shared->nodes[i].last));
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	return now_ns() - begin;
}

/* Who leads, as soon as somebody does. */
static uint32_t await_leader(void)
{
	uint64_t begin = now_ns();

	while (leader() == NODES) {
		live(0);
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	return leader();
}

static void kill_one(uint32_t number)
{
	uint64_t took;

	CHECK(kill(w.pids[number], SIGKILL) == 0);
	CHECK(waitpid(w.pids[number], NULL, 0) == w.pids[number]);
	w.pids[number] = 0;
	took = await_acks(20);
	printf("node %u was killed: 20 more acks after %llu ms\n", number + 1,
	       (unsigned long long)(took / 1000000));
	start(number);
}

static void stop_one(uint32_t number)
{
	uint64_t took;

	CHECK(kill(w.pids[number], SIGSTOP) == 0);
	atomic_store(&shared->nodes[number].role, 0); /* it will say so itself */
	took = await_acks(20);
	printf("node %u was stopped: 20 more acks after %llu ms\n", number + 1,
	       (unsigned long long)(took / 1000000));
	live(chance(SECOND / 2));
	CHECK(kill(w.pids[number], SIGCONT) == 0);
}

static void cut_one(uint32_t number)
{
	uint64_t took, others = 0, begin = now_ns();

	w.cut[number] = true;
	/* of another one, in a later term */
	while (leader() == number || leader() == NODES) {
		live(0);
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	others = await_acks(20);
	took = now_ns() - begin;
	printf("node %u was cut off: 20 more acks after %llu ms (%llu)\n", number + 1,
	       (unsigned long long)(took / 1000000), (unsigned long long)(others / 1000000));
	live(chance(SECOND / 2));
	w.cut[number] = false;
}

static void story(uint32_t rounds)
{
	uint32_t i, who;

	await_acks(50);
	for (i = 0; i < rounds; i++) {
		who = await_leader();
		if (i >= 3 && chance(3) == 0)
			who = (who + 1) % NODES; /* a follower */
		switch (i < 3 ? i : chance(3)) {
		case 0:
			kill_one(who);
			break;
		case 1:
			stop_one(who);
			break;
		default:
			if (who == leader())
				cut_one(who);
			break;
		}
		await_acks(50);
	}
}

/* All have all, and then they end. */
static void settle(void)
{
	uint64_t begin = now_ns();
	bool same = false;
	uint32_t i;
	int status;

	atomic_store(&shared->quiet, 1);
	while (!same) {
		uint32_t l = await_leader();
		uint64_t last = atomic_load(&shared->nodes[l].last);

		live(SECOND / 50);
		same = true;
		for (i = 0; i < NODES; i++)
			same = same && atomic_load(&shared->nodes[i].committed) == last &&
			       atomic_load(&shared->nodes[i].last) == last;
		CHECK(now_ns() - begin < PATIENCE_NS);
	}
	atomic_store(&shared->finish, 1);
	for (i = 0; i < NODES; i++) {
		while (waitpid(w.pids[i], &status, WNOHANG) == 0)
			live(0);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
}

/* -------------------------------------------------------------------- the end */

static struct log {
	uint64_t count, last_value;
	uint32_t lens[INDEX_MAX];
	uint64_t *indexes; /* by value: where it is; 0: nowhere */
} logs[NODES];

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	struct log *l = ctx;

	CHECK(b->index < INDEX_MAX);
	l->lens[b->index] = b->len;
	return 0;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct log *l = ctx;
	uint64_t value;

	if (run->header->encoding != THMQ_RUN_OPAQUE || !run->payload)
		return 0;
	memcpy(&value, run->payload, sizeof(value));
	CHECK(value < atomic_load(&shared->next_value) && value > l->last_value);
	l->last_value = value;
	l->indexes[value] = run->index;
	l->count++;
	return 0;
}

static void check_history(void)
{
	const struct thmq_log_visitor visitor = {
		.size = sizeof(visitor), .batch = on_batch, .run = on_run};
	uint64_t acks = acked(), values = atomic_load(&shared->next_value), i;
	uint32_t k;

	CHECK(acks < ACKS_MAX);
	for (k = 0; k < NODES; k++) {
		logs[k].indexes = calloc(values + 1, sizeof(uint64_t));
		CHECK(logs[k].indexes);
		CHECK(thmq_log_scan(w.dirs[k], &visitor, &logs[k]) == 0);
		CHECK(memcmp(logs[k].lens, logs[0].lens, sizeof(logs[0].lens)) == 0);
		CHECK(memcmp(logs[k].indexes, logs[0].indexes, values * sizeof(uint64_t)) == 0);
	}
	for (i = 0; i < acks; i++)
		if (logs[0].indexes[shared->acks[i].value] != shared->acks[i].index) {
			fprintf(stderr, "number %llu was acknowledged at %llu, and is at %llu\n",
				(unsigned long long)shared->acks[i].value,
				(unsigned long long)shared->acks[i].index,
				(unsigned long long)logs[0].indexes[shared->acks[i].value]);
			exit(1);
		}
	printf("%llu numbers, %llu acknowledged, %llu stored\n", (unsigned long long)values - 1,
	       (unsigned long long)acks, (unsigned long long)logs[0].count);
	CHECK(logs[0].count >= acks);
}

static void end_all(void)
{
	if (getpid() != w.parent)
		return;
	for (uint32_t i = 0; i < NODES; i++)
		if (w.pids[i] > 0)
			kill(w.pids[i], SIGKILL);
}

static void remove_dirs(void)
{
	char command[128];

	for (uint32_t i = 0; i < NODES; i++) {
		snprintf(w.dirs[i], sizeof(w.dirs[i]), "replica_kill.%u.%d", i, (int)getpid());
		snprintf(command, sizeof(command), "rm -rf %s", w.dirs[i]);
		CHECK(system(command) == 0);
	}
}

/* 77: without replication; and is there TLS? */
static int probe(void)
{
	const struct thmq_tls_opts tls = {.size = sizeof(tls),
					  .psk_identity = "cluster",
					  .psk_key = "0123456789abcdef0123456789abcdef"};
	struct thmq_carrier *c;
	struct thmq_env *env;
	int rc;

	CHECK(thmq_env_open(&env, NULL) == 0);
	rc = thmq_carrier_open(thmq_env_core(env, 0), THMQ_CARRIER_OPTS(.id = 1), &c);
	if (rc == -EOPNOTSUPP)
		exit(77);
	CHECK(rc == 0 && thmq_carrier_close(c) == 0);
	rc = thmq_carrier_open(thmq_env_core(env, 0), THMQ_CARRIER_OPTS(.id = 1, .tls = &tls), &c);
	if (rc == 0)
		CHECK(thmq_carrier_close(c) == 0);
	CHECK(thmq_env_close(env, SECOND) == 0);
	exit(rc ? 1 : 0);
}

int main(int argc, char **argv)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL;
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : full ? 40 : 3;
	int status;
	pid_t pid;

	w.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)getpid() * 2654435761u;
	w.seed |= 1;
	w.net = (uint32_t)getpid() & 0x7fff;
	w.net = (w.net + 0x100) & 0xffff; /* not 127.0 */
	printf("seed %llu\n", (unsigned long long)w.seed);
	fflush(NULL);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		probe();
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		return 77;
	w.tls = WEXITSTATUS(status) == 0 && chance(2);
	printf("%s\n", w.tls ? "with TLS" : "in clear");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	atomic_store(&shared->next_value, 1);
	remove_dirs();
	lay_cables();
	w.parent = getpid();
	atexit(end_all);
	for (uint32_t i = 0; i < NODES; i++)
		start(i);
	story(rounds);
	settle();
	check_history();
	remove_dirs();
	memset(w.pids, 0, sizeof(w.pids));
	return 0;
}
