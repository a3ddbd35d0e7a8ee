/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process_kill_test.c - two processes and SIGKILL. A client that dies at any moment leaves nothing behind at the broker, which goes on
 * serving others. A broker that dies is noticed at once, and what it acknowledged as durable is there when it is opened again.
 * One that is only stopped is noticed too, a little later, on either side. A session that comes back goes on through all of the
 * broker's lives.
 *
 * usage: process_kill_test tcp|shm [kills]; default 8 of each, with THMQ_TEST_FULL 200. process_kill_test tcp|shm stops: sessions that come
 * back, and a broker or a client that is stopped for a while: calls end in time, and all goes on where it was.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MS 1000000ull

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s, line %d: %s (%s)\n", role, __LINE__, #x,              \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *role = "parent", *self;
static char dir[] = "process-kill-XXXXXX", data[64], listen_at[64];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};

	nanosleep(&t, NULL);
}

/* ------------------------------------------------------------------- children */

static pid_t start(const char *what, const char *arg, const char *listen, int *ret_out)
{
	int out[2];
	pid_t pid;

	CHECK(pipe(out) == 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl(self, self, what, arg, listen, (char *)NULL);
		_exit(1);
	}
	close(out[1]);
	*ret_out = out[0];
	return pid;
}

static void read_line(int fd, char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size && read(fd, line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
}

static void kill_it(pid_t pid, int out)
{
	int status;

	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status)); /* it had not failed before */
	close(out);
}

/* Publishes and consumes as fast as it can, big and small, holding some. */
static int client(const char *url)
{
	static uint8_t big[200000];
	struct thmq_consumer *grouped, *free_one;
	struct thmq_message m[32];
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_env *env;
	uint64_t i;
	int n;

	role = "client";
	CHECK(thmq_env_open(&env,
			    THMQ_ENV_OPTS(.core_count = getpid() % 2, .flags = THMQ_ENV_NO_PIN,
					  .policy = THMQ_POLICY_EVENT)) == 0);
	printf("begun\n");
	fflush(stdout);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "t", "g", NULL, &grouped) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END),
				 &free_one) == 0);
	for (i = 0;; i++) {
		thmq_send(p, big, i % 50 ? (uint32_t)(i % 500) : sizeof(big), NULL);
		thmq_poll(env, 0);
		n = thmq_fetch(i % 2 ? grouped : free_one, m, 32);
		CHECK(n >= 0 || n == -ENOBUFS);
		if (n > 0 && i % 2)
			thmq_ack(grouped, &m[n - 1]);
		if (n > 0 && i % 3)
			thmq_release(i % 2 ? grouped : free_one, m, (uint32_t)n);
		if (i % 100 == 0)
			thmq_session_wait(s, MS);
	}
}

static int server(const char *where, const char *listen)
{
	struct thmq_broker *b;
	struct thmq_env *env;
	char url[64];

	role = "server";
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = where, .listen = listen,
						.segment_bytes = 1 << 20, .batch_bytes = 256 << 10),
			       &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, url, sizeof(url)) > 0);
	printf("%s\n", url);
	fflush(stdout);
	for (;;)
		pause();
}

/* ------------------------------------------------------------- clients that die */

static uint32_t sessions(struct thmq_broker *b)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(b, &st) == 0);
	return st.session_count;
}

static uint64_t in_use(struct thmq_env *env)
{
	struct thmq_env_stats st = {.size = sizeof(st)};

	CHECK(thmq_env_stats(env, &st) == 0);
	return st.pool_in_use_bytes;
}

static void friend_is_well(struct thmq_session *s, struct thmq_producer *p)
{
	struct thmq_topic_info info = {.size = sizeof(info)};

	CHECK(thmq_send(p, "hello", 5, NULL) > 0);
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_topic_describe(s, "t", &info) == 0);
}

/* What the log keeps in memory grows to 16 MiB, whoever publishes. */
static void fill_caches(struct thmq_producer *p)
{
	static uint8_t block[250000];
	uint32_t i;

	for (i = 0; i < 100; i++) {
		while (thmq_send(p, block, sizeof(block), NULL) < 0)
			CHECK(thmq_flush(p, 10 * SECOND) == 0);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
}

static void clients_die(uint32_t kills)
{
	struct thmq_broker *b;
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_env *env;
	char url[64], line[32];
	uint64_t end, base;
	uint32_t i;
	pid_t pid;
	int out;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = data, .listen = listen_at,
						.segment_bytes = 16 << 20),
			       &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, url, sizeof(url)) > 0);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 4)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	fill_caches(p);
	base = in_use(env);
	for (i = 0; i < kills; i++) {
		pid = start("client", url, "", &out);
		read_line(out, line, sizeof(line));
		CHECK(strcmp(line, "begun") == 0);
		nap((uint64_t)(random() % (i % 4 == 0 ? 5 : 120)) * MS);
		kill_it(pid, out);
		for (end = now() + 5 * SECOND; sessions(b) != 1 && now() < end;)
			nap(MS);
		CHECK(sessions(b) == 1);
		friend_is_well(s, p);
		/* what the dead one held comes back */
		for (end = now() + 5 * SECOND; in_use(env) > base + (8 << 20) && now() < end;)
			nap(MS);
		CHECK(in_use(env) <= base + (8 << 20));
	}
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

/* ------------------------------------------------------------- brokers that die */

static uint64_t read_all(struct thmq_session *s, uint64_t acked)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_consumer *c;
	struct thmq_message m[64];
	uint64_t next = 0, number, last = 0, end = now() + 20 * SECOND;
	int n, i;

	CHECK(thmq_partition_describe(s, "u", 0, NULL, &info) == 0);
	CHECK(thmq_consumer_open(s, "u", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) ==
	      0);
	while (info.end_offset && (!next || last + 1 < info.end_offset)) {
		CHECK(now() < end);
		n = thmq_fetch(c, m, 64);
		CHECK(n >= 0);
		if (n == 0)
			thmq_session_wait(s, 10 * MS);
		for (i = 0; i < n; i++) {
			memcpy(&number, m[i].data, 8);
			CHECK(number == next);
			next++;
			last = m[i].offset;
		}
		thmq_release(c, m, (uint32_t)n);
	}
	CHECK(next >= acked); /* not one that was acknowledged is missing */
	CHECK(thmq_consumer_close(c, SECOND) == 0);
	return next;
}

static void brokers_die(uint32_t kills)
{
	uint64_t next = 0, first, acked, begin, payload[40] = {0};
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_event e;
	struct thmq_env *env;
	char url[64];
	int64_t rc;
	uint32_t i;
	pid_t pid;
	int out;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	for (i = 0, acked = 0; i < kills; i++) {
		bool killed = false;

		pid = start("server", data, listen_at, &out);
		read_line(out, url, sizeof(url));
		CHECK(strncmp(url, listen_at, 6) == 0);
		CHECK(thmq_connect(env, url, NULL, &s) == 0);
		CHECK(thmq_topic_create(s, "u", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ==
		      0);
		next = first = read_all(s, acked);
		CHECK(thmq_producer_open(s, "u", NULL, &p) == 0);
		begin = now() + (uint64_t)(random() % 80) * MS;
		for (;;) {
			payload[0] = next;
			rc = thmq_send(p, payload, (uint32_t)(8 + next % 300), NULL);
			if (rc > 0)
				next++;
			else if (rc == -EAGAIN)
				thmq_session_wait(s, MS);
			else
				break;
			if (!killed && now() > begin) {
				kill_it(pid, out);
				killed = true;
				begin = now();
			}
			CHECK(!killed || now() - begin < 5 * SECOND);
		}
		CHECK(rc == -ESHUTDOWN && killed);
		do
			rc = thmq_events(s, &e, 1);
		while (rc == 1 && e.type != THMQ_EVENT_CLOSED);
		CHECK(rc == 1 && e.error < 0);
		acked = first + (uint64_t)thmq_watermark(p);
		CHECK(thmq_session_close(s, SECOND) == 0);
	}
	pid = start("server", data, listen_at, &out);
	read_line(out, url, sizeof(url));
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	printf("%llu messages\n", (unsigned long long)read_all(s, acked));
	CHECK(thmq_session_close(s, SECOND) == 0);
	kill_it(pid, out);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

/* -------------------------------------------------- brokers that die under a session that comes back */

/* Another one at the same place: the port is perhaps taken for a moment. */
static pid_t start_again(const char *url, int *ret_out)
{
	char line[64];
	pid_t pid = start("server", data, url, ret_out);

	read_line(*ret_out, line, sizeof(line));
	CHECK(strcmp(line, url) == 0);
	return pid;
}

struct reading {
	struct thmq_consumer *consumer;
	uint64_t next[2];
};

static void take(struct reading *r, bool ack)
{
	struct thmq_message m[64];
	int n = thmq_fetch(r->consumer, m, 64), i;
	uint64_t number;

	if (n < 0)
		fprintf(stderr, "fetch: %s\n", thmq_strerror(n));
	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&number, m[i].data, 8);
		CHECK(number == r->next[m[i].partition]); /* in order, and each once */
		r->next[m[i].partition]++;
		if (ack)
			CHECK(thmq_ack(r->consumer, &m[i]) == 0);
	}
	CHECK(thmq_release(r->consumer, m, (uint32_t)n) == 0);
}

/* One session through all of it: what it sends is durable or sent again; its readers miss nothing and see nothing twice. */
static void sessions_come_back(uint32_t kills)
{
	uint64_t next[2] = {0, 0}, payload[40] = {0}, begin, end;
	struct reading alone = {0}, grouped = {0};
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_event e;
	struct thmq_env *env;
	char url[64];
	uint32_t i, k = 0, partition;
	int64_t rc;
	pid_t pid;
	int out;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	pid = start("server", data, listen_at, &out);
	read_line(out, url, sizeof(url));
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND), &s) == 0);
	CHECK(thmq_topic_create(s, "v", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "v", NULL, &p) == 0);
	CHECK(thmq_consumer_open(s, "v", NULL, NULL, &alone.consumer) == 0);
	CHECK(thmq_consumer_open(s, "v", "g", NULL, &grouped.consumer) == 0);
	for (i = 0; i < kills; i++) {
		begin = now() + (uint64_t)(random() % 100) * MS;
		while (now() < begin || k % 16) {
			partition = k++ % 2;
			payload[0] = next[partition];
			rc = thmq_send(p, payload, (uint32_t)(8 + k % 300),
				       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = partition));
			CHECK(rc > 0 || rc == -EAGAIN);
			next[partition] += rc > 0;
			if (rc < 0)
				thmq_session_wait(s, MS);
			take(&alone, false);
			take(&grouped, true);
		}
		kill_it(pid, out);
		pid = start_again(url, &out);
	}
	for (end = now() + 60 * SECOND;
	     alone.next[0] + alone.next[1] + grouped.next[0] + grouped.next[1] < 2 * (next[0] + next[1]);) {
		if (now() >= end)
			fprintf(stderr, "sent %llu %llu, settled %lld, read %llu %llu, %llu %llu\n",
				(unsigned long long)next[0], (unsigned long long)next[1], (long long)thmq_watermark(p),
				(unsigned long long)alone.next[0], (unsigned long long)alone.next[1],
				(unsigned long long)grouped.next[0], (unsigned long long)grouped.next[1]);
		CHECK(now() < end);
		take(&alone, false);
		take(&grouped, true);
		thmq_session_wait(s, 10 * MS);
	}
	CHECK(thmq_flush(p, 10 * SECOND) == 0);
	CHECK(thmq_consumer_flush(grouped.consumer, 10 * SECOND) == 0);
	while ((rc = thmq_events(s, &e, 1)) == 1)
		CHECK(e.type != THMQ_EVENT_FAILED && e.type != THMQ_EVENT_CLOSED && e.type != THMQ_EVENT_ERROR);
	printf("%llu messages through %u lives\n", (unsigned long long)(next[0] + next[1]), kills + 1);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	kill_it(pid, out);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

/* ---------------------------------------------------------- those that are stopped */

static void client_stops(void)
{
	struct thmq_broker *b;
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_env *env;
	char url[64], line[32];
	uint64_t begin;
	pid_t pid;
	int out;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = data, .listen = listen_at,
						.peer_timeout_ns = SECOND),
			       &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, url, sizeof(url)) > 0);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	pid = start("client", url, "", &out);
	read_line(out, line, sizeof(line));
	for (begin = now(); sessions(b) != 2 && now() - begin < 5 * SECOND;)
		nap(MS);
	CHECK(sessions(b) == 2);
	nap(50 * MS);
	kill(pid, SIGSTOP);
	for (begin = now(); sessions(b) != 1 && now() - begin < 5 * SECOND;)
		friend_is_well(s, p);
	CHECK(sessions(b) == 1);
	CHECK(now() - begin > SECOND / 2);
	kill_it(pid, out);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

static void broker_stops(void)
{
	struct thmq_session *s;
	struct thmq_event e = {0};
	struct thmq_env *env;
	char url[64];
	uint64_t begin;
	pid_t pid;
	int out;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	pid = start("server", data, listen_at, &out);
	read_line(out, url, sizeof(url));
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.peer_timeout_ns = SECOND), &s) == 0);
	for (begin = now(); now() - begin < 2 * SECOND;) /* it says that it is alive */
		CHECK(thmq_events(s, &e, 1) == 0 && thmq_session_wait(s, 20 * MS) >= 0);
	kill(pid, SIGSTOP);
	for (begin = now(); thmq_events(s, &e, 1) == 0 && now() - begin < 5 * SECOND;)
		thmq_session_wait(s, 20 * MS);
	CHECK(e.type == THMQ_EVENT_CLOSED && e.error == -ETIMEDOUT);
	CHECK(thmq_session_close(s, SECOND) == 0);
	/* nor is one connected to that does not answer */
	begin = now();
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.peer_timeout_ns = SECOND), &s) == -ETIMEDOUT);
	CHECK(now() - begin < 4 * SECOND);
	kill(pid, SIGCONT);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	kill_it(pid, out);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

/* Of a stopped broker: each ends, soon, and says that it has not done it. */
static void calls_end(struct thmq_session *s, struct thmq_producer *p, struct thmq_consumer *c)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_partition_info part = {.size = sizeof(part)};
	struct thmq_consumer *another;
	struct thmq_producer *other;
	uint64_t begin = now();
	int rc;

	CHECK(thmq_flush(p, 200 * MS) == -ETIMEDOUT);
	rc = thmq_consumer_flush(c, 200 * MS);
	CHECK(rc == -ETIMEDOUT || rc == 0); /* the last ack may have been stored before */
	CHECK(thmq_topic_describe(s, "w", &info) == -ETIMEDOUT);
	CHECK(thmq_topic_create(s, "never", NULL) == -ETIMEDOUT);
	CHECK(thmq_partition_describe(s, "w", 0, "g", &part) == -ETIMEDOUT);
	CHECK(thmq_seek(c, 0, THMQ_START_BEGIN, 0) == -ETIMEDOUT);
	CHECK(thmq_consumer_open(s, "w", NULL, NULL, &another) == -ETIMEDOUT);
	CHECK(thmq_producer_open(s, "w", NULL, &other) == -ETIMEDOUT);
	CHECK(now() - begin < 100 * SECOND); /* 2.2 s are enough */
}

struct numbered {
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	uint64_t sent, got, lost, back;
};

static void numbered_step(struct numbered *n, uint32_t most)
{
	struct thmq_message m[64];
	struct thmq_event e;
	int64_t rc = 1;
	uint64_t number;
	int k, i;

	while (most-- && rc > 0) {
		rc = thmq_send(n->p, &n->sent, sizeof(n->sent), NULL);
		CHECK(rc > 0 || rc == -EAGAIN);
		n->sent += rc > 0;
	}
	k = thmq_fetch(n->c, m, 64);
	CHECK(k >= 0);
	for (i = 0; i < k; i++) {
		memcpy(&number, m[i].data, sizeof(number));
		CHECK(number == n->got); /* each once, in order */
		n->got++;
	}
	if (k)
		CHECK(thmq_ack(n->c, &m[k - 1]) == 0 && thmq_release(n->c, m, (uint32_t)k) == 0);
	thmq_session_wait(n->s, MS);
	while (thmq_events(n->s, &e, 1) == 1) {
		CHECK(e.type != THMQ_EVENT_CLOSED && e.type != THMQ_EVENT_FAILED);
		n->lost += e.type == THMQ_EVENT_DISCONNECTED;
		n->back += e.type == THMQ_EVENT_RECONNECTED;
	}
}

/* Stopped for less than it may be silent, and for longer: a session that comes back does, and nothing is lost or doubled. */
static void broker_pauses(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct numbered n = {0};
	struct thmq_env *env;
	char url[64];
	uint64_t end, more;
	pid_t pid;
	int out, turn;

	pid = start("server", data, listen_at, &out);
	read_line(out, url, sizeof(url));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_connect(env, url,
			   THMQ_SESSION_OPTS(.peer_timeout_ns = SECOND, .reconnect_ns = 300 * SECOND, .timeout_ns = 300 * MS, .window_count = 512),
			   &n.s) == 0);
	while (thmq_topic_create(n.s, "w", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) != 0) /* 300 ms are little beside others */
		;
	while (thmq_producer_open(n.s, "w", NULL, &n.p) != 0)
		;
	while (thmq_consumer_open(n.s, "w", "g", NULL, &n.c) != 0)
		;
	for (end = now() + 60 * SECOND; n.got < 100; numbered_step(&n, 10))
		CHECK(now() < end);
	for (turn = 0; turn < 2; turn++) {
		CHECK(kill(pid, SIGSTOP) == 0);
		for (more = n.sent + 20; n.sent < more && n.sent < n.got + 400;) {
			numbered_step(&n, 5);
			if (thmq_send(n.p, &n.sent, sizeof(n.sent), NULL) == -EAGAIN) /* it is away, or its window is full */
				break;
			n.sent++;
		}
		if (turn)
			for (end = now() + 60 * SECOND; n.lost == 0; numbered_step(&n, 1))
				CHECK(now() < end);
		if (turn)
			calls_end(n.s, n.p, n.c);
		else
			CHECK(thmq_flush(n.p, 100 * MS) == -ETIMEDOUT);
		CHECK(kill(pid, SIGCONT) == 0);
		for (end = now() + 120 * SECOND, more = n.sent + 200; n.got < more || n.lost != n.back; numbered_step(&n, n.sent < more))
			CHECK(now() < end);
	}
	CHECK(n.lost >= 1);
	while (thmq_watermark(n.p) < (int64_t)n.sent || n.got < n.sent) {
		numbered_step(&n, 0);
		CHECK(now() < end);
	}
	CHECK(thmq_consumer_flush(n.c, 60 * SECOND) == 0);
	while (thmq_partition_describe(n.s, "w", 0, "g", &info) != 0)
		CHECK(now() < end);
	CHECK(info.group_offset == info.end_offset);
	thmq_session_close(n.s, 10 * SECOND);
	kill_it(pid, out);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

/* A client that is stopped for longer than it may be silent, and goes on later. */
static int steady(const char *url)
{
	struct numbered n = {0};
	struct thmq_env *env;

	role = "steady";
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN, .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.peer_timeout_ns = SECOND, .reconnect_ns = 300 * SECOND), &n.s) == 0);
	CHECK(thmq_producer_open(n.s, "x", NULL, &n.p) == 0);
	CHECK(thmq_consumer_open(n.s, "x", "g", NULL, &n.c) == 0);
	while (n.got < 100)
		numbered_step(&n, 1);
	printf("begun\n");
	fflush(stdout);
	while (n.lost == 0) /* until it was away for long */
		numbered_step(&n, 1);
	while (n.got < n.sent || n.lost != n.back)
		numbered_step(&n, 0);
	CHECK(thmq_flush(n.p, 60 * SECOND) == 0);
	printf("done %llu\n", (unsigned long long)n.sent);
	fflush(stdout);
	CHECK(thmq_session_close(n.s, 60 * SECOND) == 0);
	CHECK(thmq_env_close(env, 60 * SECOND) == 0);
	return 0;
}

static void client_pauses(void)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_broker *b;
	struct thmq_session *s;
	struct thmq_env *env;
	char url[64], line[64];
	uint64_t end;
	int out, status;
	pid_t pid;

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.data_dir = data, .listen = listen_at, .peer_timeout_ns = SECOND), &b) == 0);
	CHECK(thmq_broker_listen_url(b, 0, url, sizeof(url)) > 0);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "x", NULL) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	pid = start("steady", url, "", &out);
	read_line(out, line, sizeof(line));
	CHECK(strcmp(line, "begun") == 0);
	CHECK(kill(pid, SIGSTOP) == 0);
	for (end = now() + 60 * SECOND; sessions(b) != 0; nap(MS))
		CHECK(now() < end);
	CHECK(kill(pid, SIGCONT) == 0);
	read_line(out, line, sizeof(line));
	CHECK(strncmp(line, "done ", 5) == 0);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	close(out);
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND), &s) == 0);
	CHECK(thmq_partition_describe(s, "x", 0, "g", &info) == 0);
	CHECK(info.end_offset == strtoull(line + 5, NULL, 10) && info.group_offset == info.end_offset);
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
}

int main(int argc, char **argv)
{
	uint32_t kills = argc == 3 ? (uint32_t)atoi(argv[2]) : getenv("THMQ_TEST_FULL") ? 200 : 8;
	static char program[4096];
	char command[64];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

	program[n > 0 ? n : 0] = 0;
	self = program;
	if (argc == 4)
		return strcmp(argv[1], "client") == 0   ? client(argv[2])
		       : strcmp(argv[1], "steady") == 0 ? steady(argv[2])
							 : server(argv[2], argv[3]);
	if (argc < 2 || (strcmp(argv[1], "tcp") != 0 && strcmp(argv[1], "shm") != 0))
		return 1;
	srandom(getenv("THMQ_TEST_SEED") ? (unsigned)atoi(getenv("THMQ_TEST_SEED"))
					 : (unsigned)time(NULL));
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(dir))
		return 1;
	snprintf(data, sizeof(data), "%s/data", dir);
	/* the socket of a broker that was killed is left where the next one listens */
	if (strcmp(argv[1], "shm") == 0)
		snprintf(listen_at, sizeof(listen_at), "shm://%s/socket", dir);
	else
		snprintf(listen_at, sizeof(listen_at), "tcp://127.0.0.1:0");
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (argc == 3 && strcmp(argv[2], "stops") == 0) {
		broker_pauses();
		client_pauses();
		return system(command) != 0;
	}
	clients_die(kills);
	brokers_die(kills);
	sessions_come_back(kills);
	client_stops();
	broker_stops();
	return system(command) != 0;
}
