/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume_test.c - connections that are lost are made again, and nothing is lost or doubled by that. Between sessions and broker
 * stands a proxy that resets each connection after some bytes, in either direction, at any place: within greetings, frames and
 * bodies. What producers send arrives once, in order; consumers, alone and in a group, see each message once, in order.
 *
 * usage: resume_test [case …]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <thundermq/thundermq.h>
#include <thundermq/transport.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MS 1000000ull

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s, seed %u, line %d: %s (%s)\n", running, seed,          \
				__LINE__, #x, thmq_errmsg());                                      \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *running;
static unsigned seed;
static char dir[] = "resume-XXXXXX";
static struct thmq_env *home, *away;
static struct thmq_broker *broker;
static char direct[64], url[64];
static uint32_t batch_bytes = 64 << 10; /* of the broker: what is larger is stored in parts */

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* -------------------------------------------------------------------- proxy */

#define PAIRS 32

struct pair {
	int a, b;      /* client, broker; -1: free */
	uint64_t left; /* bytes until it is reset */
};

static struct {
	int listener, target_port;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic bool cut;      /* reset all now */
	_Atomic bool refuse;   /* nobody gets through */
	_Atomic uint64_t from; /* bytes of a connection's life: from … from + more; 0: for ever */
	_Atomic uint64_t more;
	_Atomic uint64_t resets;
	unsigned random;
	struct pair pairs[PAIRS];
} proxy;

static void reset_fd(int fd)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

static void reset_pair(struct pair *p)
{
	reset_fd(p->a);
	reset_fd(p->b);
	p->a = p->b = -1;
	proxy.resets++;
}

static int connect_target(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)proxy.target_port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void take_in(void)
{
	int fd = accept4(proxy.listener, NULL, NULL, SOCK_CLOEXEC), on = 1, i;

	if (fd < 0)
		return;
	for (i = 0; i < PAIRS && proxy.pairs[i].a >= 0; i++)
		;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (i == PAIRS || proxy.refuse || (proxy.pairs[i].b = connect_target()) < 0) {
		reset_fd(fd);
		return;
	}
	proxy.pairs[i].a = fd;
	proxy.pairs[i].left =
		proxy.from ? proxy.from + (uint64_t)rand_r(&proxy.random) % (proxy.more + 1)
			   : UINT64_MAX;
}

static void all(int fd, const char *data, ssize_t n)
{
	while (n > 0) {
		ssize_t one = send(fd, data, (size_t)n, MSG_NOSIGNAL);

		if (one <= 0)
			return;
		data += one;
		n -= one;
	}
}

/* What has come goes on, up to the byte that the connection dies at. */
static void carry(struct pair *p, int from, int to)
{
	char data[16384];
	ssize_t n = recv(from, data, sizeof(data) < p->left ? sizeof(data) : p->left, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		reset_pair(p);
		return;
	}
	all(to, data, n);
	p->left -= (uint64_t)n;
	if (!p->left)
		reset_pair(p);
}

static void *proxy_main(void *arg)
{
	struct pollfd fds[1 + 2 * PAIRS];
	int i;

	(void)arg;
	while (!proxy.stop) {
		fds[0] = (struct pollfd){.fd = proxy.listener, .events = POLLIN};
		for (i = 0; i < PAIRS; i++) {
			if (proxy.cut && proxy.pairs[i].a >= 0)
				reset_pair(&proxy.pairs[i]);
			fds[1 + 2 * i] = (struct pollfd){.fd = proxy.pairs[i].a, .events = POLLIN};
			fds[2 + 2 * i] = (struct pollfd){.fd = proxy.pairs[i].b, .events = POLLIN};
		}
		proxy.cut = false;
		poll(fds, 1 + 2 * PAIRS, 5);
		for (i = 0; i < PAIRS; i++) {
			struct pair *p = &proxy.pairs[i];

			if (p->a >= 0 && fds[1 + 2 * i].revents)
				carry(p, p->a, p->b);
			if (p->a >= 0 && fds[2 + 2 * i].revents)
				carry(p, p->b, p->a);
		}
		if (fds[0].revents)
			take_in();
	}
	return NULL;
}

static void proxy_start(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);
	int i;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	proxy.target_port = atoi(strrchr(direct, ':') + 1);
	proxy.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(proxy.listener, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(listen(proxy.listener, 64) == 0);
	CHECK(getsockname(proxy.listener, (struct sockaddr *)&at, &len) == 0);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", ntohs(at.sin_port));
	for (i = 0; i < PAIRS; i++)
		proxy.pairs[i].a = proxy.pairs[i].b = -1;
	proxy.stop = proxy.cut = proxy.refuse = false;
	proxy.from = proxy.more = proxy.resets = 0;
	proxy.random = seed;
	CHECK(pthread_create(&proxy.thread, NULL, proxy_main, NULL) == 0);
}

static void proxy_stop(void)
{
	int i;

	proxy.stop = true;
	pthread_join(proxy.thread, NULL);
	for (i = 0; i < PAIRS; i++)
		if (proxy.pairs[i].a >= 0)
			reset_pair(&proxy.pairs[i]);
	close(proxy.listener);
}

/* ---------------------------------------------------------------- up and down */

static void broker_up(const char *listen)
{
	CHECK(thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						 .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_broker_open(home,
			       THMQ_BROKER_OPTS(.data_dir = dir, .listen = listen, .shard_count = 2,
						.segment_bytes = 1 << 20, .batch_bytes = batch_bytes,
						.peer_timeout_ns = 5 * SECOND),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, direct, sizeof(direct)) > 0);
}

static void up(bool threads)
{
	broker_up("tcp://127.0.0.1:0");
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = threads, .flags = THMQ_ENV_NO_PIN,
						 .policy = THMQ_POLICY_EVENT)) == 0);
	proxy_start();
}

static void down(void)
{
	CHECK(thmq_env_close(away, 30 * SECOND) == 0);
	proxy_stop();
	CHECK(thmq_env_close(home, 30 * SECOND) == 0);
}

static struct thmq_session *session(void)
{
	struct thmq_session *s;

	CHECK(thmq_connect(away, url,
			   THMQ_SESSION_OPTS(.reconnect_ns = 30 * SECOND, .window_count = 256),
			   &s) == 0);
	return s;
}

/* ---------------------------------------------------------------------- flow */

#define PARTITIONS 3

#define SEEN_MAX 65536u

struct flow {
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_consumer *alone, *grouped, *shared;
	uint64_t sent, settled, disconnected, reconnected;
	uint64_t next_to[PARTITIONS]; /* number of the next message of a partition */
	uint64_t next_of[2][PARTITIONS];
	uint64_t got[2];
	uint64_t last_offset[2][PARTITIONS];
	struct thmq_claim
		claim; /* one that is open, perhaps for longer than its connection lives */
	bool claimed;
	bool big; /* some messages are, and need a connection that lives so long */
	uint32_t claim_partition;
	struct thmq_message held[2]; /* one that is kept for long */
	bool holds[2];
	uint8_t seen[PARTITIONS][SEEN_MAX]; /* by the shared group, whose messages may come again */
	uint64_t got_shared;
};

struct body {
	uint64_t number, check;
};

static void flow_open(struct flow *f, const char *topic)
{
	memset(f, 0, sizeof(*f));
	f->s = session();
	CHECK(thmq_topic_create(f->s, topic,
				THMQ_TOPIC_OPTS(.partition_count = PARTITIONS,
						.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(f->s, topic, THMQ_PRODUCER_OPTS(.flags = THMQ_PRODUCER_REPORT),
				 &f->p) == 0);
	CHECK(thmq_consumer_open(f->s, topic, NULL, NULL, &f->alone) == 0);
	CHECK(thmq_consumer_open(f->s, topic, "g", NULL, &f->grouped) == 0);
	CHECK(thmq_consumer_open(f->s, topic, "shared", THMQ_CONSUMER_OPTS(.flags = THMQ_CONSUMER_SHARED), &f->shared) == 0);
}

static void flow_events(struct flow *f)
{
	struct thmq_event e[64];
	int n, i;

	while ((n = thmq_events(f->s, e, 64)) > 0)
		for (i = 0; i < n; i++) {
			CHECK(e[i].type != THMQ_EVENT_CLOSED && e[i].type != THMQ_EVENT_FAILED &&
			      e[i].type != THMQ_EVENT_DROPPED && e[i].type != THMQ_EVENT_ERROR);
			CHECK(e[i].type != THMQ_EVENT_REVOKED);
			f->settled += e[i].type == THMQ_EVENT_SETTLED;
			f->disconnected += e[i].type == THMQ_EVENT_DISCONNECTED;
			f->reconnected += e[i].type == THMQ_EVENT_RECONNECTED;
			CHECK(f->disconnected - f->reconnected <= 1);
		}
	CHECK(n == 0);
}

static void flow_send(struct flow *f, uint64_t most)
{
	static char big[20000];
	uint32_t partition = (uint32_t)rand() % PARTITIONS,
		 len = sizeof(struct body) + (uint32_t)rand() % 200;
	uint32_t level = 1 + (uint32_t)rand() % 3;
	struct body b = {.number = f->next_to[partition]};
	int64_t rc;

	if (f->sent >= most && !f->claimed)
		return;
	if (f->big && rand() % (batch_bytes < sizeof(big) ? 5 : 100) == 0)
		len = sizeof(big);
	b.check = b.number * 0x9e3779b97f4a7c15ull ^ partition;
	memcpy(big, &b, sizeof(b));
	if (f->claimed) {
		partition = f->claim_partition;
		rc = thmq_commit(f->p, &f->claim);
		f->claimed = rc == -EAGAIN;
	} else if (rand() % 4) {
		rc = thmq_send(f->p, big, len,
			       THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						 .partition = partition, .durability = level));
	} else {
		rc = thmq_claim(f->p,
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						  .partition = partition, .key = "key",
						  .key_len = 3),
				len, &f->claim);
		if (rc == 0) {
			memcpy(f->claim.data, big, len);
			f->claimed = true;
			f->claim_partition = partition;
			if (rand() % 2)
				return;
			rc = thmq_commit(f->p, &f->claim);
			f->claimed = rc == -EAGAIN;
		}
	}
	if (rc == -EAGAIN)
		return;
	CHECK(rc == (int64_t)f->sent + 1);
	f->sent++;
	f->next_to[partition]++;
}

static void flow_take(struct flow *f, int which)
{
	struct thmq_consumer *c = which ? f->grouped : f->alone;
	struct thmq_message m[16];
	int n = thmq_fetch(c, m, 16), i;
	struct body b;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		uint32_t partition = m[i].partition;

		CHECK(m[i].len >= sizeof(b) && partition < PARTITIONS);
		memcpy(&b, m[i].data, sizeof(b));
		CHECK(b.check == (b.number * 0x9e3779b97f4a7c15ull ^ partition));
		CHECK(b.number == f->next_of[which][partition]); /* in order, each once */
		CHECK(b.number == 0 || m[i].offset > f->last_offset[which][partition]);
		f->last_offset[which][partition] = m[i].offset + m[i].span - 1;
		f->next_of[which][partition]++;
		f->got[which]++;
		if (which)
			CHECK(thmq_ack(c, &m[i]) == 0);
		if (!f->holds[which] &&
		    rand() % 50 == 0) { /* its bytes stay, whatever becomes of the connection */
			f->held[which] = m[i];
			f->holds[which] = true;
			continue;
		}
		CHECK(thmq_release(c, &m[i], 1) == 0);
	}
	if (f->holds[which] && rand() % 50 == 0) {
		memcpy(&b, f->held[which].data, sizeof(b));
		CHECK(b.check == (b.number * 0x9e3779b97f4a7c15ull ^ f->held[which].partition));
		CHECK(thmq_release(c, &f->held[which], 1) == 0);
		f->holds[which] = false;
	}
}

/* At least once: what was said of a message on a connection that is lost may not have been heard. */
static void flow_take_shared(struct flow *f)
{
	struct thmq_message m[16];
	int n = thmq_fetch(f->shared, m, 16), i, rc;
	struct body b;

	CHECK(n >= 0);
	for (i = 0; i < n; i++) {
		memcpy(&b, m[i].data, sizeof(b));
		CHECK(b.check == (b.number * 0x9e3779b97f4a7c15ull ^ m[i].partition) && b.number < SEEN_MAX);
		f->got_shared += !f->seen[m[i].partition][b.number];
		f->seen[m[i].partition][b.number] = 1;
		rc = rand() % 20 ? thmq_ack(f->shared, &m[i]) : thmq_nack(f->shared, &m[i], MS);
		CHECK(rc == 0 || rc == -EAGAIN);
	}
	CHECK(thmq_release(f->shared, m, (uint32_t)n) == 0);
}

static void flow_step(struct flow *f, uint64_t most)
{
	int i;

	for (i = rand() % 20; i >= 0; i--)
		flow_send(f, most);
	flow_take(f, 0);
	flow_take(f, 1);
	flow_take_shared(f);
	flow_events(f);
	if (rand() % 4 == 0)
		thmq_session_wait(f->s, (uint64_t)(rand() % 1000) * 1000);
}

static void flow_end(struct flow *f)
{
	uint64_t end = now() + 60 * SECOND;

	while (f->claimed || thmq_watermark(f->p) != (int64_t)f->sent || f->got[0] != f->sent ||
	       f->got[1] != f->sent || f->got_shared != f->sent || f->settled != f->sent) {
		flow_step(f, f->sent);
		thmq_session_wait(f->s, MS);
		CHECK(now() < end);
	}
	CHECK(thmq_flush(f->p, 10 * SECOND) == 0);
	CHECK(thmq_consumer_flush(f->grouped, 10 * SECOND) == 0);
	while (f->disconnected != f->reconnected) {
		thmq_session_wait(f->s, MS);
		flow_events(f);
		CHECK(now() < end);
	}
}

/* The group's offsets are those of the last messages. */
static void flow_check_group(struct flow *f, const char *topic)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint32_t i;

	for (i = 0; i < PARTITIONS; i++) {
		CHECK(thmq_partition_describe(f->s, topic, i, "g", &info) == 0);
		if (f->next_to[i])
			CHECK(info.group_offset == f->last_offset[1][i] + 1);
	}
}

static void flow_close(struct flow *f)
{
	CHECK(thmq_session_close(f->s, 10 * SECOND) == 0);
}

/* --------------------------------------------------------------------- cases */

static void resets(bool threads)
{
	/* how long a connection lives: from … from + more bytes, both ways together */
	static const uint64_t lives[][2] = {
		{50000, 40000}, {5000, 3000}, {1500, 1500}, {900, 20000}, {300, 3000}};
	static struct flow f;
	char topic[16];
	unsigned i;

	up(threads);
	for (i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
		uint64_t end = now() + (getenv("THMQ_TEST_FULL") ? 15 : 1) * SECOND;

		snprintf(topic, sizeof(topic), "t%u", i);
		flow_open(&f, topic);
		f.big = lives[i][0] > 2 * 20000;
		proxy.more = lives[i][1];
		proxy.from = lives[i][0];
		proxy.cut = true;
		while (f.sent < 400 && now() < end)
			flow_step(&f, 400);
		proxy.from = 0;
		proxy.cut = true;
		flow_end(&f);
		CHECK(f.disconnected);
		flow_check_group(&f, topic);
		flow_close(&f);
	}
	CHECK(proxy.resets > 20);
	down();
}

static void test_resets_threads(void)
{
	resets(true);
}

static void test_resets_host(void)
{
	resets(false);
}

/* The broker closes, and is opened again at the same place while the session tries. */
static void test_broker_reopened(void)
{
	static struct flow f;
	char listen[64];
	int i, k;

	up(true);
	snprintf(listen, sizeof(listen), "%s", direct);
	flow_open(&f, "t");
	f.big = true;
	for (i = 0; i < 3; i++) {
		for (k = 0; k < 20; k++)
			flow_step(&f, UINT64_MAX);
		CHECK(thmq_env_close(home, 30 * SECOND) == 0);
		while (f.disconnected == f.reconnected)
			flow_step(&f, UINT64_MAX);
		broker_up(listen);
		for (k = 0; k < 20 || f.disconnected != f.reconnected; k++)
			flow_step(&f, UINT64_MAX);
	}
	flow_end(&f);
	CHECK(f.disconnected >= 3);
	flow_check_group(&f, "t");
	flow_close(&f);
	down();
}

/* Its larger messages are stored in parts: whole, in order, each once, whenever the broker was closed. */
static void test_broker_reopened_parts(void)
{
	batch_bytes = 8192;
	test_broker_reopened();
	batch_bytes = 64 << 10;
}

/* Nobody comes back: after the time that was given the session is dead, as without it. */
static void test_deadline(void)
{
	struct thmq_session *s;
	struct thmq_producer *p;
	struct thmq_event e;
	uint64_t begin;
	int n;

	up(true);
	CHECK(thmq_connect(away, url, THMQ_SESSION_OPTS(.reconnect_ns = SECOND), &s) == 0);
	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	proxy.refuse = proxy.cut = true;
	begin = now();
	do
		thmq_session_wait(s, 10 * MS);
	while ((n = thmq_events(s, &e, 1)) == 0 && now() - begin < 10 * SECOND);
	CHECK(n == 1 && e.type == THMQ_EVENT_DISCONNECTED && e.error < 0);
	while (thmq_send(p, "x", 1, NULL) > 0) /* until this link knows too */
		thmq_session_wait(s, MS);
	CHECK(thmq_send(p, "x", 1, NULL) == -EAGAIN);
	CHECK(thmq_topic_delete(s, "t") < 0);
	while ((n = thmq_events(s, &e, 1)) == 0 && now() - begin < 20 * SECOND)
		thmq_session_wait(s, 10 * MS);
	CHECK(n == 1 && e.type == THMQ_EVENT_CLOSED && e.error < 0);
	CHECK(now() - begin > SECOND / 2);
	CHECK(thmq_send(p, "x", 1, NULL) == -ESHUTDOWN);
	thmq_session_close(s, SECOND);
	down();
}

static struct thmq_consumer *member_of(struct thmq_session *s, bool shared)
{
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.flags = shared ? THMQ_CONSUMER_SHARED : 0), &c) == 0);
	return c;
}

static void take_one(struct thmq_session *s, struct thmq_consumer *c)
{
	uint64_t end = now() + 30 * SECOND;
	struct thmq_message m;
	int n;

	while ((n = thmq_fetch(c, &m, 1)) == 0 && now() < end)
		thmq_session_wait(s, 10 * MS);
	CHECK(n == 1 && thmq_ack(c, &m) == 0 && thmq_release(c, &m, 1) == 0);
}

/* A group that is deleted by force while a member of it is away: when that comes back it hears so, and does not make it anew. */
static void group_gone(bool shared)
{
	struct thmq_session *s, *other;
	struct thmq_producer *p;
	struct thmq_consumer *c;
	struct thmq_message m;
	struct thmq_event e;
	uint64_t end = now() + 30 * SECOND;
	bool revoked = false;
	int n;

	up(true);
	s = session();
	CHECK(thmq_connect(home, direct, NULL, &other) == 0);
	CHECK(thmq_topic_create(other, "t", NULL) == 0);
	CHECK(thmq_producer_open(other, "t", NULL, &p) == 0);
	c = member_of(s, shared);
	CHECK(thmq_send(p, "1", 1, NULL) > 0 && thmq_flush(p, 10 * SECOND) == 0);
	take_one(s, c);
	CHECK(thmq_consumer_flush(c, 10 * SECOND) == 0);
	proxy.refuse = proxy.cut = true;
	while ((n = thmq_events(s, &e, 1)) == 0 || e.type != THMQ_EVENT_DISCONNECTED) {
		CHECK(n >= 0 && now() < end);
		thmq_session_wait(s, 10 * MS);
	}
	CHECK(thmq_group_delete(other, "t", "g", THMQ_GROUP_FORCE) == 0);
	proxy.refuse = false;
	while ((n = thmq_fetch(c, &m, 1)) == 0) {
		CHECK(now() < end);
		thmq_session_wait(s, 10 * MS);
	}
	CHECK(n == -THMQ_EFENCED);
	while (thmq_events(s, &e, 1) == 1)
		revoked |= e.type == THMQ_EVENT_REVOKED && e.error == -THMQ_EFENCED;
	CHECK(revoked);
	CHECK(thmq_group_delete(other, "t", "g", THMQ_GROUP_FORCE) == -ENOENT); /* nobody made it anew */
	n = thmq_consumer_close(c, 10 * SECOND);
	CHECK(n == 0);
	/* whoever wants one of that name opens it, and begins as a new one does */
	c = member_of(s, shared);
	take_one(s, c);
	CHECK(thmq_consumer_flush(c, 10 * SECOND) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	CHECK(thmq_session_close(other, 10 * SECOND) == 0);
	down();
}

static void test_group_gone(void)
{
	group_gone(false);
}

static void test_group_gone_shared(void)
{
	group_gone(true);
}

static void wait_for_event(struct thmq_session *s, uint32_t type)
{
	uint64_t end = now() + 60 * SECOND;
	struct thmq_event e;
	int n;

	while ((n = thmq_events(s, &e, 1)) == 0 || e.type != type) {
		CHECK(n >= 0 && now() < end);
		thmq_session_wait(s, 10 * MS);
	}
}

static struct thmq_consumer *patient_member(struct thmq_session *s)
{
	struct thmq_consumer *c;

	CHECK(thmq_consumer_open(s, "t", "g", THMQ_CONSUMER_OPTS(.session_timeout_ns = 3600 * SECOND), &c) == 0);
	return c;
}

/* A member that is closed while its connection is lost is none any more once that is back, whether its close waits for that or not: the others get what it had. */
static void test_left_while_away(void)
{
	struct thmq_session *s, *other;
	struct thmq_consumer *c, *next;
	int waits, rc;

	up(true);
	CHECK(thmq_connect(home, direct, NULL, &other) == 0);
	CHECK(thmq_topic_create(other, "t", NULL) == 0);
	s = session();
	for (waits = 0; waits < 2; waits++) {
		c = patient_member(s);
		wait_for_event(s, THMQ_EVENT_ASSIGNED);
		proxy.refuse = proxy.cut = true;
		wait_for_event(s, THMQ_EVENT_DISCONNECTED);
		proxy.refuse = !waits;
		rc = thmq_consumer_close(c, waits ? 60 * SECOND : 0);
		CHECK(waits ? rc == 0 : rc == -ETIMEDOUT);
		proxy.refuse = false;
		wait_for_event(s, THMQ_EVENT_RECONNECTED);
		next = patient_member(other);
		wait_for_event(other, THMQ_EVENT_ASSIGNED);
		CHECK(thmq_consumer_close(next, 60 * SECOND) == 0);
	}
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	CHECK(thmq_session_close(other, 10 * SECOND) == 0);
	down();
}

/* Who sleeps on the descriptor is woken for each try, and when it is back. */
static void test_sleeper(void)
{
	struct thmq_session *s;
	struct thmq_event e;
	struct pollfd p = {.events = POLLIN};
	uint64_t begin;
	bool back = false, lost = false;

	up(true);
	s = session();
	p.fd = thmq_session_fd(s);
	proxy.refuse = proxy.cut = true;
	for (begin = now(); !back;) {
		CHECK(now() - begin < 20 * SECOND);
		while (thmq_events(s, &e, 1) == 1) {
			lost = lost || e.type == THMQ_EVENT_DISCONNECTED;
			back = back || e.type == THMQ_EVENT_RECONNECTED;
		}
		if (lost && now() - begin > SECOND / 2)
			proxy.refuse = false;
		if (!back && thmq_session_arm(s) == 0)
			CHECK(poll(&p, 1, 5000) == 1);
	}
	CHECK(lost);
	thmq_session_close(s, SECOND);
	down();
}

/* Another broker answers at the same place: its partitions are not ours. */
static void test_another_broker(void)
{
	struct thmq_session *s;
	struct thmq_event e;
	uint64_t begin = now();
	char listen[64], command[64];
	int n;

	up(true);
	snprintf(listen, sizeof(listen), "%s", direct);
	s = session();
	CHECK(thmq_env_close(home, 30 * SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s/*", dir);
	CHECK(system(command) == 0);
	broker_up(listen);
	do {
		thmq_session_wait(s, 10 * MS);
		n = thmq_events(s, &e, 1);
	} while (!(n == 1 && e.type == THMQ_EVENT_CLOSED) && now() - begin < 20 * SECOND);
	CHECK(n == 1 && e.type == THMQ_EVENT_CLOSED && e.error == -ESTALE);
	thmq_session_close(s, SECOND);
	down();
}

/* What was asked when the connection broke is asked again where that does no harm. */
static void test_requests(void)
{
	struct thmq_topic_info info = {.size = sizeof(info)};
	struct thmq_session *s;
	uint64_t i;

	up(true);
	s = session();
	CHECK(thmq_topic_create(s, "t", NULL) == 0);
	proxy.more = 4000;
	proxy.from = 1900; /* a request takes more than half of it */
	proxy.cut = true;
	for (i = 0; i < 60; i++) {
		CHECK(thmq_topic_describe(s, "t", &info) == 0);
		CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) ==
		      0);
	}
	proxy.from = 0;
	CHECK(proxy.resets > 5);
	CHECK(thmq_session_close(s, SECOND) == 0);
	down();
}

/* A producer's name: who opens it goes on behind what is stored, and nobody else of that name writes any more. */
static void test_names(void)
{
	const struct thmq_producer_opts *opts = THMQ_PRODUCER_OPTS(.name = "writer");
	struct thmq_producer *a, *b, *c;
	struct thmq_session *s, *t;
	struct thmq_event e;
	uint64_t end = now() + 20 * SECOND;
	int i, n;

	up(true);
	s = session();
	t = session();
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.partition_count = 2)) == 0);
	CHECK(thmq_producer_open(s, "t", opts, &a) == 0);
	CHECK(thmq_watermark(a) == 0);
	for (i = 1; i <= 10; i++)
		CHECK(thmq_send(a, "x", 1, NULL) == i);
	CHECK(thmq_flush(a, 10 * SECOND) == 0);
	CHECK(thmq_producer_open(t, "t", opts, &b) == 0);
	CHECK(thmq_watermark(b) == 10);
	CHECK(thmq_send(a, "zombie", 6, NULL) == 11);
	CHECK(thmq_flush(a, 10 * SECOND) == -EIO);
	while ((n = thmq_events(s, &e, 1)) == 1 && e.type != THMQ_EVENT_FAILED && now() < end)
		;
	CHECK(n == 1 && e.type == THMQ_EVENT_FAILED && e.error == -THMQ_EFENCED &&
	      e.sequence == 11);
	CHECK(thmq_send(a, "zombie", 6, NULL) == -THMQ_EFENCED);
	CHECK(thmq_send(b, "y", 1, NULL) == 11);
	CHECK(thmq_flush(b, 10 * SECOND) == 0);
	/* the names are of topics */
	CHECK(thmq_topic_create(s, "u", NULL) == 0);
	CHECK(thmq_producer_open(s, "u", opts, &c) == 0);
	CHECK(thmq_watermark(c) == 0);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	CHECK(thmq_session_close(t, 10 * SECOND) == 0);
	/* through a restart */
	CHECK(thmq_env_close(home, 30 * SECOND) == 0);
	broker_up(direct);
	s = session();
	CHECK(thmq_producer_open(s, "t", opts, &a) == 0);
	CHECK(thmq_watermark(a) == 11);
	CHECK(thmq_send(a, "z", 1, NULL) == 12);
	CHECK(thmq_flush(a, 10 * SECOND) == 0);
	CHECK(thmq_producer_open(s, "t", THMQ_PRODUCER_OPTS(.name = "no/name"), &b) == -EINVAL);
	CHECK(thmq_session_close(s, 10 * SECOND) == 0);
	down();
}

/* ------------------------------------------------------- a transport of our own */

/* Pairs of sockets within the process, handed over by a queue. With ends of our own: never more than some bytes at a time. */
static struct {
	pthread_mutex_t lock;
	int waiting[64], count, ready; /* connections not accepted yet; eventfd */
	_Atomic int open;              /* descriptors that are out */
} pairs = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int mine_check(void *ctx, const char *where)
{
	(void)ctx;
	return strcmp(where, "mine://here") == 0 ? 0 : -EINVAL;
}

static int mine_connect(void *ctx, const char *where, int *ret_fd)
{
	int fds[2], rc = 0;
	uint64_t one = 1;

	(void)ctx;
	(void)where;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		return -errno;
	pthread_mutex_lock(&pairs.lock);
	if (!pairs.ready || pairs.count == 64)
		rc = -ECONNREFUSED;
	else
		pairs.waiting[pairs.count++] = fds[1];
	pthread_mutex_unlock(&pairs.lock);
	if (rc || write(pairs.ready, &one, sizeof(one)) != sizeof(one)) {
		close(fds[0]);
		close(fds[1]);
		return rc ? rc : -EIO;
	}
	pairs.open += 2;
	*ret_fd = fds[0];
	return 0;
}

static int mine_listen(void *ctx, const char *where, int *ret_fd, char *ret_url, uint32_t url_size)
{
	(void)ctx;
	(void)where;
	(void)ret_url;
	CHECK(url_size >= 64);
	pairs.ready = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	pairs.open++;
	*ret_fd = pairs.ready;
	return 0;
}

static int mine_accept(void *ctx, int listen_fd, int *ret_fd)
{
	uint64_t one;
	int i;

	(void)ctx;
	if (read(listen_fd, &one, sizeof(one)) != sizeof(one))
		return -errno;
	pthread_mutex_lock(&pairs.lock);
	*ret_fd = pairs.waiting[0];
	for (i = 1; i < pairs.count; i++)
		pairs.waiting[i - 1] = pairs.waiting[i];
	pairs.count--;
	pthread_mutex_unlock(&pairs.lock);
	return 0;
}

static int64_t mine_send(void *ctx, int fd, const struct iovec *iov, uint32_t count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			   .msg_iovlen = count > 3 ? 3 : count};
	ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

	(void)ctx;
	return n < 0 ? -errno : n;
}

static int64_t mine_recv(void *ctx, int fd, const struct iovec *iov, uint32_t count)
{
	ssize_t n = recv(fd, iov[0].iov_base, iov[0].iov_len < 3000 ? iov[0].iov_len : 3000,
			 MSG_DONTWAIT);

	(void)ctx;
	(void)count;
	return n < 0 ? -errno : n;
}

static void mine_close(void *ctx, int fd)
{
	(void)ctx;
	pthread_mutex_lock(&pairs.lock);
	if (fd == pairs.ready) {
		pairs.ready = 0;
		while (pairs.count) {
			close(pairs.waiting[--pairs.count]);
			pairs.open--;
		}
	}
	pthread_mutex_unlock(&pairs.lock);
	close(fd);
	pairs.open--;
}

static const struct thmq_transport mine = {.size = sizeof(mine),
					   .scheme = "mine",
					   .check = mine_check,
					   .connect = mine_connect,
					   .listen = mine_listen,
					   .accept = mine_accept,
					   .send = mine_send,
					   .recv = mine_recv,
					   .close = mine_close};

/* Counts what it sees. */
struct seen {
	_Atomic uint64_t opened, closed, sent, received;
};

static int seen_open(void *ctx, const struct thmq_connection *connection, void **ret_state)
{
	struct seen *seen = ctx;

	CHECK(connection->number && connection->scheme[0]);
	seen->opened++;
	*ret_state = seen;
	return 0;
}

static void seen_close(void *state, int error)
{
	CHECK(error < 0);
	((struct seen *)state)->closed++;
}

static void seen_sent(void *state, const struct iovec *iov, uint32_t count, uint64_t bytes)
{
	CHECK(count && iov[0].iov_len && bytes);
	((struct seen *)state)->sent += bytes;
}

static void seen_received(void *state, const struct iovec *iov, uint32_t count, uint64_t bytes)
{
	CHECK(count && iov[0].iov_len && bytes);
	((struct seen *)state)->received += bytes;
}

static void own_up(const char *listen)
{
	CHECK(thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						 .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_transport_register(home, &mine) == 0);
	CHECK(thmq_transport_register(home, &mine) == -EEXIST);
	CHECK(thmq_broker_open(home, THMQ_BROKER_OPTS(.listen = "mine://there"), &broker) ==
	      -EINVAL);
	CHECK(thmq_broker_open(home,
			       THMQ_BROKER_OPTS(.data_dir = dir, .listen = listen, .shard_count = 2,
						.segment_bytes = 1 << 20, .batch_bytes = 64 << 10),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						 .policy = THMQ_POLICY_EVENT)) == 0);
	CHECK(thmq_transport_register(away, &mine) == 0);
}

/* Each fault by itself, on both ends; the flow goes on as if there were none. */
static void faults(const char *listen)
{
	static const struct thmq_fault_opts kinds[] = {
		{.size = sizeof(kinds[0]), .reset_bytes_min = 400, .reset_bytes_max = 9000},
		{.size = sizeof(kinds[0]), .lose_ppm = 100000},
		{.size = sizeof(kinds[0]),
		 .short_ppm = 700000,
		 .delay_ppm = 300000,
		 .delay_ns = 300000},
		{.size = sizeof(kinds[0]), .stall_ppm = 100000, .stall_ns = 20 * MS},
	};
	struct thmq_fault_stats st = {.size = sizeof(st)}, theirs = {.size = sizeof(theirs)};
	struct thmq_fault *ours_f, *theirs_f;
	struct thmq_interceptor watcher = {.size = sizeof(watcher),
					   .open = seen_open,
					   .close = seen_close,
					   .sent = seen_sent,
					   .received = seen_received};
	static struct seen seen;
	static struct flow f;
	char topic[16];
	unsigned i;

	memset(&seen, 0, sizeof(seen));
	watcher.ctx = &seen;
	own_up(listen);
	CHECK(thmq_transport_intercept(away, &watcher) == 0);
	CHECK(thmq_fault_open(away, NULL, &ours_f) == 0);
	CHECK(thmq_fault_open(home, NULL, &theirs_f) == 0);
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct thmq_fault_opts o = kinds[i];
		uint64_t end = now() + (getenv("THMQ_TEST_FULL") ? 10 : 1) * SECOND;

		o.seed = seed;
		snprintf(topic, sizeof(topic), "t%u", i);
		flow_open(&f, topic);
		CHECK(thmq_fault_set(ours_f, &o) == 0 && thmq_fault_set(theirs_f, &o) == 0);
		if (i ==
		    0) { /* connections that are there are not to be reset: another session's will be */
			flow_close(&f);
			flow_open(&f, topic);
		}
		while (f.sent < 2000 && now() < end)
			flow_step(&f, 2000);
		CHECK(thmq_fault_set(ours_f, NULL) == 0 && thmq_fault_set(theirs_f, NULL) == 0);
		flow_end(&f);
		flow_check_group(&f, topic);
		flow_close(&f);
	}
	CHECK(thmq_fault_stats(ours_f, &st) == 0 && thmq_fault_stats(theirs_f, &theirs) == 0);
	CHECK(st.resets + theirs.resets && st.losses + theirs.losses && st.delays && st.shortened &&
	      st.stalls + theirs.stalls);
	CHECK(st.connections > 3 && st.bytes == seen.sent + seen.received);
	CHECK(thmq_env_close(away, 30 * SECOND) == 0);
	CHECK(seen.opened == st.connections && seen.closed == seen.opened && seen.sent &&
	      seen.received);
	CHECK(thmq_env_close(home, 30 * SECOND) == 0);
	CHECK(pairs.open == 0);
}

static void test_faults_tcp(void)
{
	faults("tcp://127.0.0.1:0");
}

static void test_faults_own(void)
{
	faults("mine://here");
}

/* What is wrong in a frame, or in what follows it, ends its connection, and nothing else. */
static void test_corruption(void)
{
	struct thmq_fault_stats st = {.size = sizeof(st)};
	struct thmq_fault *fault;
	uint64_t end = now() + 2 * SECOND;
	static struct flow f;

	own_up("mine://here");
	CHECK(thmq_fault_open(away, NULL, &fault) == 0);
	flow_open(&f, "t");
	f.big = true;
	CHECK(thmq_fault_set(fault, THMQ_FAULT_OPTS(.corrupt_ppm = 50000, .seed = seed)) == 0);
	while (now() < end || (!f.disconnected && now() < end + 30 * SECOND)) /* it is chance */
		flow_step(&f, UINT64_MAX);
	CHECK(thmq_fault_set(fault, NULL) == 0 && thmq_fault_stats(fault, &st) == 0);
	flow_end(&f);
	CHECK(st.corruptions && f.disconnected);
	flow_close(&f);
	CHECK(thmq_env_close(away, 30 * SECOND) == 0);
	CHECK(thmq_env_close(home, 30 * SECOND) == 0);
}

/* Wrong tables are refused. */
static void test_tables(void)
{
	struct thmq_transport t = mine;
	struct thmq_interceptor none = {.size = sizeof(none)};
	struct thmq_fault *fault;
	struct thmq_session *s;
	struct thmq_env *env;
	int i;

	CHECK(thmq_env_open(&env, NULL) == 0);
	CHECK(thmq_transport_register(env, NULL) == -EINVAL);
	CHECK(thmq_transport_register(NULL, &t) == -EINVAL);
	t.scheme = "Bad Scheme";
	CHECK(thmq_transport_register(env, &t) == -EINVAL);
	t.scheme = "tcp";
	CHECK(thmq_transport_register(env, &t) == -EEXIST);
	t.scheme = "mine";
	t.connect = NULL;
	CHECK(thmq_transport_register(env, &t) == -EINVAL);
	t.connect = mine_connect;
	t.size = 4;
	CHECK(thmq_transport_register(env, &t) == -EINVAL);
	CHECK(thmq_connect(env, "mine://here", NULL, &s) == -EPROTONOSUPPORT);
	CHECK(thmq_transport_register(env, &mine) == 0);
	CHECK(thmq_connect(env, "mine://here", NULL, &s) == -ECONNREFUSED);
	CHECK(thmq_transport_intercept(env, NULL) == -EINVAL);
	CHECK(thmq_fault_open(env, THMQ_FAULT_OPTS(.lose_ppm = 1000001), &fault) == -EINVAL);
	CHECK(thmq_fault_open(env, THMQ_FAULT_OPTS(.flags = 64), &fault) == -EINVAL);
	for (i = 0; i < 3; i++)
		CHECK(thmq_transport_intercept(env, &none) == 0);
	CHECK(thmq_fault_open(env, NULL, &fault) == 0);
	CHECK(thmq_fault_set(fault, NULL) == 0);
	CHECK(thmq_transport_intercept(env, &none) == -ENOSPC);
	CHECK(thmq_fault_open(env, NULL, &fault) == -ENOSPC);
	CHECK(thmq_env_close(env, SECOND) == 0);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"requests", test_requests},
	{"deadline", test_deadline},
	{"sleeper", test_sleeper},
	{"another-broker", test_another_broker},
	{"group-gone", test_group_gone},
	{"group-gone-shared", test_group_gone_shared},
	{"left-while-away", test_left_while_away},
	{"names", test_names},
	{"tables", test_tables},
	{"faults-tcp", test_faults_tcp},
	{"faults-own", test_faults_own},
	{"corruption", test_corruption},
	{"broker-reopened", test_broker_reopened},
	{"broker-reopened-parts", test_broker_reopened_parts},
	{"resets-host", test_resets_host},
	{"resets-threads", test_resets_threads},
};

int main(int argc, char **argv)
{
	char command[64];
	unsigned i;
	int k;

	seed = getenv("THMQ_TEST_SEED") ? (unsigned)atoi(getenv("THMQ_TEST_SEED"))
					: (unsigned)time(NULL);
	srand(seed);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool wanted = argc == 1;

		for (k = 1; k < argc; k++)
			wanted |= strcmp(argv[k], cases[i].name) == 0;
		if (!wanted)
			continue;
		running = cases[i].name;
		strcpy(dir, "resume-XXXXXX");
		CHECK(mkdtemp(dir) != NULL);
		cases[i].run();
		printf("%s: ok\n", running);
		fflush(stdout);
		snprintf(command, sizeof(command), "rm -rf %s", dir);
		CHECK(system(command) == 0);
	}
	return 0;
}
