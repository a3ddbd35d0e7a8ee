/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.c - two machines on one network: a broker on one, a client on the other. The client sends and gets back what it sent
 * while the network gets worse and better, the broker stands still, and the broker's machine loses its power and comes back; in the
 * end its own machine loses its power in the middle. Each message arrives once and in its order, all the time; nothing that
 * was acknowledged is lost; the broker forgets who is dead in bounded time.
 *
 *   lab_pair broker URL DIR FOLDER   until the client's machine is gone (the file "gone"), then looks at what it left
 *   lab_pair client URL FOLDER       through all weathers, then sends on until its machine is gone
 *
 * FOLDER is shared by both and by run.sh, by files: ready (the broker listens), stop (holds the seconds that the broker is to stand
 * still), reboot (the broker's machine is to lose its power), off (the client's is), gone, acked, failed. URL: rdma or tcp.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MS 1000000ull
#define SILENCE (8 * SECOND)
#define PATIENCE                                                                                   \
	(240 * SECOND) /* two emulated machines on a busy one; one of them boots meanwhile */
#define WINDOW 24u

static const char *folder, *doing = "begin";

static void fail(int line, const char *what)
{
	char path[512];

	fprintf(stderr, "%s, line %d: %s (%s)\n", doing, line, what, thmq_errmsg());
	snprintf(path, sizeof(path), "%s/failed", folder);
	fclose(fopen(path, "we"));
	exit(1);
}

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail(__LINE__, #x);                                                        \
	} while (0)

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

/* ---------------------------------------------------------------------- files */

static bool is_there(const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return access(path, F_OK) == 0;
}

static void put(const char *name, uint64_t value)
{
	char path[512], other[520];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(other, sizeof(other), "%s.new", path);
	f = fopen(other, "we");
	CHECK(f && fprintf(f, "%llu\n", (unsigned long long)value) > 0 && fclose(f) == 0);
	CHECK(rename(other, path) == 0);
}

static uint64_t get(const char *name)
{
	unsigned long long value = 0;
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "re");
	CHECK(f && fscanf(f, "%llu", &value) == 1);
	fclose(f);
	return value;
}

/* ------------------------------------------------------------------- messages */

static uint32_t size_of(uint64_t number)
{
	static const uint32_t sizes[] = {8, 100, 3000, 8, 20000, 150000};

	return sizes[number % 6];
}

static void fill(uint8_t *data, uint64_t number)
{
	memset(data, (int)(number * 31), size_of(number));
	memcpy(data, &number, sizeof(number));
}

static bool is_whole(const struct thmq_message *m, uint64_t number)
{
	const uint8_t *data = m->data;
	uint64_t got;
	uint32_t i;

	if (m->len != size_of(number))
		return false;
	memcpy(&got, data, sizeof(got));
	for (i = sizeof(got); i < m->len && data[i] == (uint8_t)(number * 31); i++)
		;
	return got == number && i >= m->len;
}

/* --------------------------------------------------------------------- broker */

static uint32_t sessions(struct thmq_broker *b)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(b, &st) == 0);
	return st.session_count;
}

/* All from the first on, once, in order, at least those that were acknowledged. Return: how many. */
static uint64_t look(struct thmq_env *env, uint64_t acked)
{
	struct thmq_partition_info info = {.size = sizeof(info)};
	struct thmq_session *s;
	struct thmq_consumer *c;
	struct thmq_message m[16];
	uint64_t next = 0, at = 0;
	int n, i;

	CHECK(thmq_connect(env, "inproc://", NULL, &s) == 0);
	CHECK(thmq_partition_describe(s, "t", 0, NULL, &info) == 0);
	CHECK(thmq_consumer_open(s, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN), &c) ==
	      0);
	while (at < info.end_offset) {
		n = thmq_fetch(c, m, 16);
		CHECK(n >= 0);
		if (n == 0)
			CHECK(thmq_session_wait(s, PATIENCE) > 0);
		for (i = 0; i < n; i++, next++) {
			CHECK(is_whole(&m[i], next));
			at = m[i].offset + 1;
		}
		CHECK(thmq_release(c, m, (uint32_t)n) == 0);
	}
	CHECK(next >= acked);
	CHECK(thmq_session_close(s, SECOND) == 0);
	return next;
}

static int broker_main(const char *url, const char *dir)
{
	struct thmq_broker *broker;
	struct thmq_env *env;
	uint64_t begin, ended, there;

	doing = "broker";
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT,
						.pool_bytes = 256 << 20)) == 0);
	CHECK(thmq_broker_open(
		      env,
		      THMQ_BROKER_OPTS(.data_dir = dir, .listen = url, .peer_timeout_ns = SILENCE),
		      &broker) == 0);
	put("ready", 1);
	while (!is_there("gone"))
		nap(20 * MS);
	CHECK(!is_there("failed"));
	for (begin = now(); sessions(broker) && now() - begin < 6 * SILENCE;)
		nap(10 * MS);
	CHECK(sessions(broker) == 0);
	ended = now() - begin;
	there = look(env, get("acked"));
	CHECK(thmq_env_close(env, 10 * SECOND) == 0);
	printf("%llu messages are there, %llu were acknowledged; who was dead was forgotten after "
	       "%llu ms\n",
	       (unsigned long long)there, (unsigned long long)get("acked"),
	       (unsigned long long)(ended / MS));
	return 0;
}

/* --------------------------------------------------------------------- client */

static struct thmq_session *session;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;
static uint64_t sent, got;
static uint32_t breaks, returns;

static void look_at_events(void)
{
	struct thmq_event e;

	while (thmq_events(session, &e, 1) == 1) {
		if (e.type == THMQ_EVENT_DISCONNECTED)
			printf("   (%d)\n", e.error);
		breaks += e.type == THMQ_EVENT_DISCONNECTED;
		returns += e.type == THMQ_EVENT_RECONNECTED;
		CHECK(e.type != THMQ_EVENT_CLOSED && e.type != THMQ_EVENT_FAILED);
	}
}

static bool send_one(void)
{
	static uint8_t data[150000];
	int64_t rc;

	fill(data, sent);
	rc = thmq_send(producer, data, size_of(sent), NULL);
	CHECK(rc == (int64_t)sent + 1 || rc == -EAGAIN);
	sent += rc > 0;
	return rc > 0;
}

static int take_some(void)
{
	struct thmq_message m[16];
	int i, n = thmq_fetch(consumer, m, 16);

	CHECK(n >= 0);
	for (i = 0; i < n; i++, got++)
		CHECK(is_whole(&m[i], got));
	CHECK(thmq_release(consumer, m, (uint32_t)n) == 0);
	return n;
}

/* At least @count messages there and back, and at least so long; then all that was sent is back and settled. */
static void traffic(uint64_t count, uint64_t ns)
{
	uint64_t first = sent, begin = now();
	bool more = true;

	while (more || got < sent || thmq_watermark(producer) < (int64_t)sent) {
		more = more && (sent - first < count || now() - begin < ns);
		CHECK(now() - begin < ns + PATIENCE);
		while (more && sent - got < WINDOW && send_one())
			;
		if (take_some() == 0)
			CHECK(thmq_session_wait(session, 10 * MS) >= 0);
		look_at_events();
	}
}

static const struct weather {
	const char *name;
	const char *begin, *end; /* what to run; with & it comes while messages are under way */
	uint64_t ns;             /* so long at least */
	uint32_t count;          /* so many messages at least */
	bool breaks;             /* the connection cannot survive it */
} weathers[] = {
	{"calm", "true", "true", 0, 120, false},
	{"delay", "tc qdisc add dev eth0 root netem delay 3ms", "tc qdisc del dev eth0 root", 0,
	 60, false},
	{"loss", "tc qdisc add dev eth0 root netem loss 1%", "tc qdisc del dev eth0 root", 0, 60,
	 false},
	{"reorder", "tc qdisc add dev eth0 root netem delay 2ms reorder 2%",
	 "tc qdisc del dev eth0 root", 0, 60, false},
	{"a moment of silence",
	 "(sleep 0.3; tc qdisc add dev eth0 root netem loss 100%; sleep 0.5; tc qdisc del dev eth0 "
	 "root) &",
	 "true", 1500 * MS, 60, false},
	{"a long silence",
	 "(sleep 0.3; tc qdisc add dev eth0 root netem loss 100%; sleep 14; tc qdisc del dev eth0 "
	 "root) &",
	 "true", 16 * SECOND, 60, true},
	{"the broker stands still",
	 "(sleep 0.5; echo 14 >/run/pair/stop.new; mv /run/pair/stop.new /run/pair/stop) &", "true",
	 16 * SECOND, 60, true},
	{"the broker's machine loses its power", "(sleep 0.5; : >/run/pair/reboot) &", "true",
	 5 * SECOND, 60, true},
	{"calm again", "true", "true", 0, 120, false},
};

static void run(const char *command)
{
	CHECK(system(command) == 0);
}

static int client_main(const char *url)
{
	const struct weather *w;
	struct thmq_env *env;
	uint64_t begin = now(), acked;
	bool off = false;

	doing = "client";
	while (!is_there("ready") && now() - begin < PATIENCE)
		nap(50 * MS);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT,
						.pool_bytes = 256 << 20)) == 0);
	CHECK(thmq_connect(env, url,
			   THMQ_SESSION_OPTS(.peer_timeout_ns = SILENCE, .timeout_ns = 60 * SECOND,
					     .reconnect_ns = PATIENCE),
			   &session) == 0);
	CHECK(thmq_topic_create(session, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(session, "t", NULL, &producer) == 0);
	CHECK(thmq_consumer_open(session, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_BEGIN),
				 &consumer) == 0);
	for (w = weathers; w < weathers + sizeof(weathers) / sizeof(weathers[0]); w++) {
		uint64_t first = sent;
		uint32_t broken = breaks;

		doing = w->name;
		begin = now();
		run(w->begin);
		traffic(w->count, w->ns);
		run(w->end);
		CHECK(!w->breaks || breaks > broken);
		printf("ok %s: %llu messages in %llu ms, the connection broke %u times\n", w->name,
		       (unsigned long long)(sent - first),
		       (unsigned long long)((now() - begin) / MS), breaks - broken);
		fflush(stdout);
	}
	CHECK(returns <= breaks);
	doing = "the end";
	put("acked", acked = sent);
	for (begin = now();
	     now() - begin < PATIENCE;) { /* in the middle of this its power is cut */
		if (!off && sent - acked > 100) {
			put("off", 1);
			off = true;
		}
		while (sent - got < WINDOW && send_one())
			;
		if (take_some() == 0)
			thmq_session_wait(session, 10 * MS);
	}
	CHECK(!"its power was cut");
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "broker") == 0) {
		folder = argv[4];
		return broker_main(argv[2], argv[3]);
	}
	if (argc == 4 && strcmp(argv[1], "client") == 0) {
		folder = argv[3];
		return client_main(argv[2]);
	}
	fprintf(stderr, "usage: lab_pair broker URL DIR FOLDER | client URL FOLDER\n");
	return 2;
}
