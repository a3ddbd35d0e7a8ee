/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_shm_bench.c - a broker in another process, over shared memory: its core on one processor under the poll policy, the
 * application's thread, which publishes and consumes, on the other.
 *
 * shm_roundtrip_64: a message of 64 B to a volatile topic and back to the own consumer. Limit: a bare cache line between two
 *   processes on the same processors. Bar: at most 2 x at the median. Beside it an echo over nng's and ZeroMQ's ipc, where they
 *   are installed. Bar: at most as long.
 * shm_one_by_one_100, shm_batches_100, shm_rows_100: messages of 100 B a second through a volatile topic, published and consumed, by
 *   thmq_send() each; by 64 claims and their commits; by rows of 64. Bars: 15, 40 and 40 million, where the two processors share a cache; where
 *   they do not, it is told apart (_far), without a bar: bare lines that are written one by one cross slower than that there.
 * shm_logged_16k, shm_logged_64k, shm_logged_1m: durable messages of 16 KiB, 64 KiB and 1 MiB in a log that goes from one recycled segment to the next, their
 *   bytes alone, against bare flushed writes of 1 MiB, 8 in flight, on a file of the same directory. Bar: at least 85 %.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <unistd.h>

#include "rig_disk.h"
#include "rig_process.h"

#define SECOND 1000000000ull
#define MIB (1ull << 20)
#define SEGMENT (64 * MIB)
#define TOPIC "bench"
#define FETCH 256u
#define BATCH 64u
#define NEAR_NS 250 /* a cache line's way there and back, between processors that share a cache */
#define FAR_MAX 20u /* rounds that are repeated */

static const char payload[MIB];

static void check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror((int)rc), thmq_errmsg());
	exit(2);
}

/* ---------------------------------------------------------------- the broker's process */

struct server {
	const char *dir; /* NULL: volatile topics only */
	char url[3200];
	int ready; /* a byte is written there when it listens */
	uint32_t policy;
};

static void serve(void *arg)
{
	struct server *s = arg;
	struct thmq_broker *broker;
	struct thmq_env *env;

	bench_unpin();
	/* the first processor that is allowed: cpu_core */
	check("open environment",
	      thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .policy = s->policy,
						.flags = THMQ_ENV_FIRST_CPU)));
	check("open broker",
	      thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = s->dir, .listen = s->url,
						.segment_bytes = s->dir ? SEGMENT : 0),
			       &broker));
	check("ready", write(s->ready, "r", 1));
	for (;;)
		pause();
}

struct rig {
	struct server server;
	pid_t pid;
	struct thmq_env *env;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	struct thmq_message m[FETCH];
};

static void open_rig(struct rig *r, const struct bench *b, const char *dir, uint32_t window,
		     bool consume)
{
	static unsigned number;
	uint32_t flags = dir ? 0 : THMQ_TOPIC_VOLATILE;
	int ready[2];
	char byte;

	memset(r, 0, sizeof(*r));
	r->server.dir = dir;
	r->server.policy = dir ? THMQ_POLICY_DEFAULT : THMQ_POLICY_POLL;
	/* another one each time: the one before may not be closed yet in all its parts */
	snprintf(r->server.url, sizeof(r->server.url), "shm://%s/b%u", b->dir, number++);
	if (pipe(ready) != 0)
		bench_die("pipe", -errno);
	r->server.ready = ready[1];
	r->pid = rig_process_start(serve, &r->server);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		bench_die("the broker's process", EIO);
	close(ready[0]);
	check("open environment", thmq_env_open(&r->env, NULL));
	check("connect",
	      thmq_connect(r->env, r->server.url,
			   THMQ_SESSION_OPTS(.window_bytes = 16 * MIB, .window_count = window),
			   &r->session));
	check("create topic",
	      thmq_topic_create(r->session, TOPIC,
				THMQ_TOPIC_OPTS(.flags = flags,
						.volatile_bytes = flags ? 16 * MIB : 0,
						.retention_bytes = flags ? 0 : 2 * SEGMENT)));
	check("open producer", thmq_producer_open(r->session, TOPIC, NULL, &r->producer));
	if (consume)
		check("open consumer",
		      thmq_consumer_open(r->session, TOPIC, NULL,
					 THMQ_CONSUMER_OPTS(.start = THMQ_START_END),
					 &r->consumer));
	bench_pin(b->cpu_app);
	bench_spin_begin();
}

static void close_rig(struct rig *r)
{
	bench_spin_end();
	check("close", thmq_session_close(r->session, 10 * SECOND));
	check("close", thmq_env_close(r->env, SECOND));
	rig_process_stop(r->pid);
	bench_unpin();
}

/* --------------------------------------------------------------------- round trips */

static void one_trip(struct rig *r, unsigned len)
{
	int64_t rc;
	int n;

	while ((rc = thmq_send(r->producer, payload, len, NULL)) == -EAGAIN)
		bench_relax();
	check("send", rc);
	while ((n = thmq_fetch(r->consumer, r->m, 1)) == 0)
		bench_relax();
	check("fetch", n);
	check("release", thmq_release(r->consumer, r->m, 1));
}

static double trips(const struct bench *b, unsigned count, struct bench_samples *s)
{
	struct rig r;
	unsigned i;

	open_rig(&r, b, NULL, 1024, true); /* one is out at a time */
	bench_samples_clear(s);
	for (i = 0; i < count + count / 10; i++) {
		uint64_t t0 = bench_now();

		one_trip(&r, 64);
		if (i >= count / 10)
			bench_samples_add(s, bench_now() - t0);
	}
	close_rig(&r);
	return bench_percentile(s, 0.5);
}

static void round_trip(struct bench *b)
{
	unsigned count = b->smoke ? 500 : 200000, bare = b->smoke ? 500 : 50000,
		 slow = b->smoke ? 200 : 20000;
	struct bench_line l[] = {{.name = "shm_roundtrip_64", .rival = "cache line", .bar = 2},
				 {.name = "shm_roundtrip_64_nng", .rival = "nng ipc", .bar = 1},
				 {.name = "shm_roundtrip_64_zmq", .rival = "ZeroMQ ipc", .bar = 1}};
	struct bench_line *lines[] = {&l[0]};
	struct bench_samples s;
	unsigned round, i;

	for (i = 0; i < 3; i++) {
		l[i].unit = "ns";
		l[i].measure = BENCH_RATIO;
		l[i].sense = BENCH_AT_MOST;
	}
	if (!bench_wants(b, l[0].name))
		return;
	bench_samples_init(&s, count);
	for (round = 0; bench_more(b, round, lines, 1); round++) {
		double before = rig_process_line(b, bare), ours = trips(b, count, &s),
		       after = rig_process_line(b, bare);
		double nng = rig_process_nng(b, 64, slow), zmq = rig_process_zmq(b, 64, slow);

		bench_pairs_add(&l[0].pairs, ours, (before + after) / 2);
		if (nng > 0)
			bench_pairs_add(&l[1].pairs, ours, nng);
		if (zmq > 0)
			bench_pairs_add(&l[2].pairs, ours, zmq);
	}
	bench_detail(&l[0], "ours_us", &s);
	bench_samples_fini(&s);
	for (i = 0; i < 3; i++) {
		if (l[i].pairs.count)
			bench_report(b, &l[i]);
		else
			bench_skip(b, l[i].name, "its library is not installed");
	}
}

/* ------------------------------------------------------------------------ how many */

static uint64_t take(struct rig *r)
{
	int n = thmq_fetch(r->consumer, r->m, FETCH);

	check("fetch", n == -ENOBUFS ? 0 : n);
	if (n > 0)
		check("release", thmq_release(r->consumer, r->m, (uint32_t)n));
	return n > 0 ? (uint64_t)n : 0;
}

static uint64_t send_some(struct rig *r, uint64_t left)
{
	uint64_t done;

	for (done = 0; done < BATCH && done < left; done++)
		if (thmq_send(r->producer, payload, 100, NULL) < 0)
			break;
	return done;
}

static uint64_t claim_some(struct rig *r, uint64_t left)
{
	struct thmq_claim c[BATCH];
	uint64_t n, i;

	for (n = 0; n < BATCH && n < left; n++) {
		if (thmq_claim(r->producer, NULL, 100, &c[n]) != 0)
			break;
		memcpy(c[n].data, payload, 100);
	}
	for (i = 0; i < n; i++)
		while (thmq_commit(r->producer, &c[i]) == -EAGAIN)
			bench_relax();
	return n;
}

static uint64_t row_some(struct rig *r, uint64_t left)
{
	uint32_t n = (uint32_t)(left < BATCH ? left : BATCH), i;
	struct thmq_row row;

	if (!n || thmq_claim_row(r->producer, NULL, 100, n, &row) != 0)
		return 0;
	for (i = 0; i < n; i++)
		memcpy((char *)row.data + (size_t)i * row.step, payload, 100);
	while (thmq_commit_row(r->producer, &row, n) == -EAGAIN)
		bench_relax();
	return n;
}

static double flow_once(const struct bench *b, uint64_t (*send)(struct rig *r, uint64_t left))
{
	/* what is touched for the first time is behind us before it counts */
	uint64_t end = b->smoke ? 20000 : 5000000, warm = b->smoke ? 0 : end / 20, sent, got,
		 begin = 0, t0 = 0;
	struct rig r;
	double rate;

	open_rig(&r, b, NULL, 65536, true);
	for (sent = got = 0; got < end;) {
		if (!t0 && got >= warm) {
			begin = got;
			t0 = bench_now();
		}
		sent += send(&r, end - sent);
		got += take(&r);
	}
	rate = (double)(end - begin) * 1e3 / (double)(bench_now() - t0);
	close_rig(&r);
	return rate;
}

/* A virtual machine's processors may move apart: by what a line takes before and after it is known where a round was. */
static void flow(struct bench *b, const char *name, uint64_t (*send)(struct rig *r, uint64_t left),
		 double bar)
{
	char far_name[64];
	struct bench_line l = {.name = name,
			       .unit = "M/s",
			       .rival = "cache lines one by one",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_LEAST,
			       .bar = bar};
	struct bench_line far = {.name = far_name,
				 .unit = "M/s",
				 .rival = "cache lines one by one",
				 .measure = BENCH_VALUE};
	struct bench_line *lines[] = {&l};
	unsigned round, trips = b->smoke ? 500 : 50000;
	double before, after, trip, mine;

	snprintf(far_name, sizeof(far_name), "%s_far", name);
	if (!bench_wants(b, name))
		return;
	for (round = 0; bench_more(b, round, lines, 1) && far.pairs.count < FAR_MAX; round++) {
		before = rig_process_line(b, trips);
		mine = flow_once(b, send);
		after = rig_process_line(b, trips);
		trip = before > after ? before : after;
		if (b->smoke || trip <= NEAR_NS) {
			bench_pairs_add(&l.pairs, mine, 2e3 / trip);
		} else {
			bench_pairs_add(&far.pairs, mine, 2e3 / trip);
			round--; /* it did not count */
		}
	}
	if (l.pairs.count)
		bench_report(b, &l);
	else
		bench_skip(b, name, "the two processors share no cache now");
	if (far.pairs.count)
		bench_report(b, &far);
}

/* -------------------------------------------------------------------------- logged */

static double logged(struct rig *r, unsigned len, uint64_t bytes)
{
	uint64_t i, t0;

	bench_sleep_ns(100000000); /* what was begun is done */
	t0 = bench_now();
	for (i = 0; i < bytes / len; i++)
		while (thmq_send(r->producer, payload, len, NULL) == -EAGAIN)
			bench_relax();
	check("flush", thmq_flush(r->producer, 60 * SECOND));
	return (double)bytes * 1e9 / (double)(bench_now() - t0);
}

/* As it is for ever once the first segments are recycled: before that, half of what goes to the device are segments' zeros. */
static void bandwidth(struct bench *b, const char *name, unsigned len)
{
	struct bench_line l = {.name = name,
			       .unit = "MB/s",
			       .rival = "bare writes",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_LEAST,
			       .bar = 0.85};
	uint64_t bytes = b->smoke ? 4 * MIB : 256 * MIB;
	struct bench_line *lines[] = {&l};
	struct rig_disk *disk;
	double ours, bare;
	char dir[3200];
	unsigned round;
	struct rig r;

	if (!bench_wants(b, l.name))
		return;
	if (bench_mkdir(b, "log", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	disk = rig_disk_open(b->dir, bytes);
	open_rig(&r, b, dir, 65536, false);
	logged(&r, len, b->smoke ? bytes : 8 * SEGMENT);
	for (round = 0; bench_more(b, round, lines, 1); round++) {
		bare = round % 2 ? 0 : rig_disk_stream(disk, 1 << 20, 8, bytes, true);
		ours = logged(&r, len, bytes);
		if (bare == 0)
			bare = rig_disk_stream(disk, 1 << 20, 8, bytes, true);
		bench_pairs_add(&l.pairs, ours / 1e6, bare / 1e6);
	}
	close_rig(&r);
	rig_disk_close(disk);
	bench_rmdir(dir);
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "transport");
	signal(SIGPIPE, SIG_IGN);
	if (b.cpu_app < 0) {
		bench_skip(&b, "shm", "there is one processor only");
		return bench_end(&b);
	}
	round_trip(&b);
	flow(&b, "shm_one_by_one_100", send_some, 15);
	flow(&b, "shm_batches_100", claim_some, 40);
	flow(&b, "shm_rows_100", row_some, 40);
	bandwidth(&b, "shm_logged_16k", 16u << 10);
	bandwidth(&b, "shm_logged_64k", 64u << 10);
	bandwidth(&b, "shm_logged_1m", MIB);
	return bench_end(&b);
}
