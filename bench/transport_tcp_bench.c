/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_tcp_bench.c - tcp:// and tls:// on loopback: a broker in one environment, whose core spins on one processor; a session in
 * another, driven by the thread that publishes and consumes on the other processor. The topic is volatile: no device has a part in it.
 *
 * tcp_roundtrip: a message of 64 bytes there, to its consumer back: once over the network each way. Limit: the better of two bare
 *   threads with epoll and with io_uring that play ping-pong. Bar: at most 1.3 x at the median.
 * tls_roundtrip: the same encrypted (pre-shared key), beside tcp://. No bar.
 * tcp_flow_64K: payload of 64 KiB there and back, in GB/s of payload that arrives. Limit: two bare threads and a socket, one of
 *   which sends back what it gets. tls_flow_64K: beside tcp://. No bars yet.
 * tcp_flow_100B: messages of 100 bytes a second, likewise. Rivals: ZeroMQ and nng where they are installed, from one thread to
 *   another, and not back. Bar: more than either.
 * tcp_connections (--full): memory of a broker with 10,000 connections that have said little. Bar: under 1 GiB.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#include "rig_mq.h"
#include "rig_socket.h"

#define SECOND 1000000000ull
#define PSK "000102030405060708090a0b0c0d0e0f"
#define CONNECTIONS 10000u

static void check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	bench_die(what, rc < -1000 ? EIO : (int)rc);
}

struct tcp {
	struct thmq_env *home, *away;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
};

static void tcp_open(struct bench *b, struct tcp *t, bool tls)
{
	struct thmq_tls_opts keys = {.size = sizeof(keys), .psk_identity = "bench", .psk_key = PSK};
	struct thmq_env_opts o;
	char url[64];

	*t = (struct tcp){0};
	thmq_env_opts_init(&o);
	o.core_count = 1;
	o.policy = THMQ_POLICY_POLL;
	o.flags = THMQ_ENV_FIRST_CPU;
	o.first_cpu = b->cpu_app < 0 ? 0 : (uint32_t)(b->cpu_core > b->cpu_app);
	check("open environment", thmq_env_open(&t->home, &o));
	check("open broker", thmq_broker_open(t->home,
					      THMQ_BROKER_OPTS(.listen = tls ? "tls://127.0.0.1:0"
									     : "tcp://127.0.0.1:0",
							       .tls = tls ? &keys : NULL),
					      &t->broker));
	check("listen", thmq_broker_listen_url(t->broker, 0, url, sizeof(url)));
	bench_pin(b->cpu_app);
	check("open environment",
	      thmq_env_open(&t->away, THMQ_ENV_OPTS(.policy = THMQ_POLICY_POLL)));
	check("connect",
	      thmq_connect(t->away, url,
			   THMQ_SESSION_OPTS(.tls = tls ? &keys : NULL, .window_bytes = 8 << 20),
			   &t->session));
	check("topic", thmq_topic_create(t->session, "t",
					 THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE,
							 .volatile_bytes = 64 << 20)));
	check("producer", thmq_producer_open(t->session, "t", NULL, &t->producer));
	check("consumer", thmq_consumer_open(t->session, "t", NULL, NULL, &t->consumer));
}

static void tcp_close(struct tcp *t)
{
	check("close session", thmq_session_close(t->session, SECOND));
	check("close environment", thmq_env_close(t->away, SECOND));
	check("close environment", thmq_env_close(t->home, SECOND));
	bench_unpin();
}

/* What came, released. */
static uint64_t take(struct tcp *t)
{
	struct thmq_message m[64];
	int n = thmq_fetch(t->consumer, m, 64);

	if (n == 0) {
		thmq_poll(t->away, 0);
		return 0;
	}
	check("fetch", n);
	check("release", thmq_release(t->consumer, m, (uint32_t)n));
	return (uint64_t)n;
}

/* ----------------------------------------------------------------- round trips */

static void rounds(struct tcp *t, unsigned count, struct bench_samples *s)
{
	char data[64] = {0};
	int64_t rc;

	for (unsigned i = 0; i < count; i++) {
		uint64_t begin = bench_now();

		while ((rc = thmq_send(t->producer, data, sizeof(data), NULL)) == -EAGAIN)
			thmq_poll(t->away, 0);
		check("send", rc);
		while (!take(t))
			;
		bench_samples_add(s, bench_now() - begin);
	}
}

static double ours_trip(struct bench *b, bool tls, unsigned count, struct bench_samples *s)
{
	struct tcp t;

	tcp_open(b, &t, tls);
	rounds(&t, count / 10, s);
	bench_samples_clear(s);
	rounds(&t, count, s);
	tcp_close(&t);
	return bench_percentile(s, 0.5);
}

static double bare_trip(struct bench *b, unsigned count, struct bench_samples *s)
{
	double best = 0, p50;

	for (int how = RIG_SOCKET_EPOLL; how <= RIG_SOCKET_URING; how++) {
		bench_samples_clear(s);
		if (rig_socket_pingpong(how, b->cpu_app, b->cpu_core, 64, count, s) != 0)
			continue;
		p50 = bench_percentile(s, 0.5);
		best = best == 0 || p50 < best ? p50 : best;
	}
	return best;
}

static void round_trip(struct bench *b)
{
	struct bench_line plain = {.name = "tcp_roundtrip_64B_p50",
				   .unit = "ns",
				   .rival = "bare ping-pong",
				   .measure = BENCH_RATIO,
				   .sense = BENCH_AT_MOST,
				   .bar = 1.3},
			  tls = {.name = "tls_roundtrip_64B_p50",
				 .unit = "ns",
				 .rival = "tcp://",
				 .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&plain};
	unsigned count = b->smoke ? 50 : 20000;
	struct bench_samples mine, bare;

	if (!bench_wants(b, plain.name) && !bench_wants(b, tls.name))
		return;
	bench_samples_init(&mine, count);
	bench_samples_init(&bare, count);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double limit = bare_trip(b, count, &bare), ours = ours_trip(b, false, count, &mine);

		bench_pairs_add(&plain.pairs, ours, limit);
		plain.detail[0] = 0; /* of the last round */
		bench_detail(&plain, "ours_us", &mine);
		bench_pairs_add(&tls.pairs, ours_trip(b, true, count, &mine), ours);
	}
	bench_detail(&tls, "ours_us", &mine);
	bench_report(b, &plain);
	bench_report(b, &tls);
	bench_samples_fini(&mine);
	bench_samples_fini(&bare);
}

/* ------------------------------------------------------------------------ flow */

/* Payload bytes a ns, or messages a ns. */
static double ours_flow(struct bench *b, bool tls, uint32_t bytes, uint64_t count, bool by_message)
{
	uint64_t sent = 0, got = 0, begin;
	char *data = calloc(1, bytes);
	struct tcp t;

	tcp_open(b, &t, tls);
	begin = bench_now();
	while (got < count) {
		for (int i = 0; i < 64 && sent < count; i++) {
			int64_t rc = thmq_send(t.producer, data, bytes, NULL);

			if (rc == -EAGAIN)
				break;
			check("send", rc);
			sent++;
		}
		got += take(&t);
	}
	begin = bench_now() - begin;
	tcp_close(&t);
	free(data);
	return (double)count * (by_message ? 1e3 : bytes) / (double)begin;
}

static void large_flow(struct bench *b)
{
	struct bench_line plain = {.name = "tcp_flow_64K",
				   .unit = "GB/s",
				   .rival = "bare socket",
				   .measure = BENCH_RATIO},
			  tls = {.name = "tls_flow_64K",
				 .unit = "GB/s",
				 .rival = "tcp://",
				 .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&plain};
	uint64_t count = b->smoke ? 50 : 20000;

	if (!bench_wants(b, plain.name) && !bench_wants(b, tls.name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double limit = rig_socket_echo(b->cpu_app, b->cpu_core, 65536, count * 65536),
		       ours = ours_flow(b, false, 65536, count, false);

		bench_pairs_add(&plain.pairs, ours, limit);
		bench_pairs_add(&tls.pairs, ours_flow(b, true, 65536, count, false), ours);
	}
	bench_report(b, &plain);
	bench_report(b, &tls);
}

static void small_flow(struct bench *b, const struct rig_mq *rival)
{
	char name[64];
	struct bench_line l = {.name = name,
			       .unit = "M/s",
			       .rival = rival->name,
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_LEAST,
			       .bar = 1};
	struct bench_line *lines[] = {&l};
	uint64_t count = b->smoke ? 500 : 2000000;

	snprintf(name, sizeof(name), "tcp_flow_100B_%s", rival->name);
	if (!bench_wants(b, name))
		return;
	if (!rival->flow) {
		bench_skip(b, name, "not installed");
		return;
	}
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double theirs = rival->flow(b->cpu_app, b->cpu_core, 100, count) * 1e3;

		bench_pairs_add(&l.pairs, ours_flow(b, false, 100, count, true), theirs);
	}
	bench_report(b, &l);
}

/* ----------------------------------------------------------------- many of them */

static double rss_mib(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%*s %lu", &pages) != 1)
		bench_die("statm", EIO);
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576;
}

/* In another process: sessions that publish a message each, and stay. */
static _Noreturn void crowd(const char *url, unsigned count, int ready, int go)
{
	struct thmq_env *env;
	char c = 0;

	check("open environment", thmq_env_open(&env, NULL));
	for (unsigned i = 0; i < count;
	     i += 2) { /* a session has two connections: one to each shard */
		struct thmq_producer *p;
		struct thmq_session *s;

		check("connect", thmq_connect(env, url, THMQ_SESSION_OPTS(.event_count = 16), &s));
		check("producer", thmq_producer_open(s, "t", NULL, &p));
		while (thmq_send(p, &i, sizeof(i), NULL) == -EAGAIN)
			thmq_poll(env, 0);
		check("flush", thmq_flush(p, 10 * SECOND));
	}
	if (write(ready, &c, 1) != 1 || read(go, &c, 1) < 0)
		_exit(1);
	_exit(0);
}

static void connections(struct bench *b)
{
	struct bench_line l = {.name = "tcp_connections_10000_rss",
			       .unit = "MiB",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 1024};
	unsigned count = b->full ? CONNECTIONS : 20;
	struct rlimit files = {0};
	struct thmq_session *s;
	struct thmq_broker *broker;
	struct thmq_env *env;
	int ready[2], go[2];
	double before;
	char url[64], number[3][16], c;
	pid_t child;

	if (!bench_wants(b, l.name) || (!b->full && !b->smoke))
		return;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < count * 2 + 100) {
		bench_skip(b, l.name, "too few file descriptors (ulimit -n)");
		return;
	}
	check("open environment",
	      thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .policy = THMQ_POLICY_EVENT)));
	check("open broker", thmq_broker_open(env,
					      THMQ_BROKER_OPTS(.listen = "tcp://127.0.0.1:0",
							       .connection_max = 16384,
							       .peer_timeout_ns = 600 * SECOND),
					      &broker));
	check("listen", thmq_broker_listen_url(broker, 0, url, sizeof(url)));
	check("connect", thmq_connect(env, "inproc://", NULL, &s));
	check("topic", thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)));
	before = rss_mib();
	if (pipe(ready) != 0 || pipe(go) != 0)
		bench_die("pipe", -errno);
	child = fork();
	if (child == 0) {
		close(ready[0]);
		close(go[1]);
		snprintf(number[0], sizeof(number[0]), "%u", count);
		snprintf(number[1], sizeof(number[1]), "%d", ready[1]);
		snprintf(number[2], sizeof(number[2]), "%d", go[0]);
		execl("/proc/self/exe", "transport_tcp_bench", "--crowd", url, number[0], number[1],
		      number[2], NULL);
		_exit(1);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		bench_die("the crowd did not come", EIO);
	bench_pairs_add(&l.pairs, rss_mib() - before, 0);
	close(go[1]);
	waitpid(child, NULL, 0);
	check("close environment", thmq_env_close(env, SECOND));
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	struct bench b;

	if (argc == 6 && strcmp(argv[1], "--crowd") == 0)
		crowd(argv[2], (unsigned)atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	bench_init(&b, argc, argv, "transport");
	round_trip(&b);
	large_flow(&b);
	small_flow(&b, &rig_zmq);
	small_flow(&b, &rig_nng);
	connections(&b);
	return bench_end(&b);
}
