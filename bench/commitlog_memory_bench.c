/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_memory_bench.c - memory-acknowledged messages of 100 B from publish to consumer inside the process, on a
 * volatile topic and on a logged one that shows messages when they are in memory. Producer and consumer are one thread,
 * the core is on the other CPU under the poll policy: two spinning threads.
 *
 * Limits and bars:
 *   round trip p50 (send, then fetch until it is there, release) at most 3 x a bare cache-line ping-pong between the
 *   same two CPUs;
 *   one way, message by message, at least 10 million a second; reported beside the cache lines that go over one by
 *   one, since what two CPUs give differs by a factor of three with where a virtual machine has them.
 * On the logged topic the disk goes on writing beside it; the volume of a run is kept below what is prepared for it.
 */
#include "rig_line.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 100u
#define FETCH_MAX 256
#define BURST 64 /* messages sent between two looks for what has arrived */

struct shape {
	const char *name;
	bool logged;
};

static void open_shape(struct target *t, struct bench *b, const struct shape *s, char *dir,
		       size_t size)
{
	struct target_opts o = {.layout = TARGET_PINNED,
				.policy = THMQ_POLICY_POLL,
				.visible_at = THMQ_DURABILITY_MEMORY,
				.durability = THMQ_DURABILITY_MEMORY,
				.topic_flags = s->logged ? 0 : THMQ_TOPIC_VOLATILE,
				.consumer = true};

	if (s->logged) {
		if (bench_mkdir(b, s->name, dir, size) != 0)
			bench_die(dir, EIO);
		o.dir = dir;
	}
	target_open(t, b, &o);
}

static void close_shape(struct target *t, const char *dir)
{
	bool logged = t->opts.dir;

	target_close(t);
	if (logged)
		bench_rmdir(dir);
}

/* ---------------------------------------------------------------- round trip */

static void one_trip(struct target *t, const char *message)
{
	struct thmq_message m;
	int n;

	target_send(t, message, MESSAGE_BYTES);
	while ((n = thmq_fetch(t->consumer, &m, 1)) == 0)
		bench_relax();
	if (n < 0)
		bench_die("fetch", n);
	thmq_release(t->consumer, &m, 1);
}

static void make_trips(struct bench *b, const struct shape *s, unsigned count,
		       struct bench_samples *ret)
{
	char message[MESSAGE_BYTES], dir[4096];
	struct target t;
	uint64_t then;

	memset(message, 'x', sizeof(message));
	open_shape(&t, b, s, dir, sizeof(dir));
	for (unsigned i = 0; i < count / 10 + 1; i++)
		one_trip(&t, message);
	then = bench_now();
	for (unsigned i = 0; i < count; i++) {
		uint64_t now;

		one_trip(&t, message);
		now = bench_now();
		bench_samples_add(ret, now - then);
		then = now;
	}
	close_shape(&t, dir);
}

static void round_trip(struct bench *b, const struct shape *s)
{
	unsigned count = b->smoke ? 200 : 50000;
	struct bench_samples mine, bare;
	char name[96], name99[96];
	struct bench_line p50 = {.name = name,
				 .unit = "ns",
				 .rival = "cache line",
				 .measure = BENCH_RATIO,
				 .sense = BENCH_AT_MOST,
				 .bar = 3};
	struct bench_line p99 = {
		.name = name99, .unit = "ns", .rival = "cache line", .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&p50};

	snprintf(name, sizeof(name), "roundtrip_100B_%s_p50", s->name);
	snprintf(name99, sizeof(name99), "roundtrip_100B_%s_p99", s->name);
	if (!bench_wants(b, name))
		return;
	bench_samples_init(&mine, count);
	bench_samples_init(&bare, count);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		bench_samples_clear(&mine);
		bench_samples_clear(&bare);
		if (round % 2)
			make_trips(b, s, count, &mine);
		rig_line_pingpong(b->cpu_app, b->cpu_core, count, &bare);
		if (round % 2 == 0)
			make_trips(b, s, count, &mine);
		bench_pairs_add(&p50.pairs, bench_percentile(&mine, 0.5),
				bench_percentile(&bare, 0.5));
		bench_pairs_add(&p99.pairs, bench_percentile(&mine, 0.99),
				bench_percentile(&bare, 0.99));
	}
	bench_detail(&p50, "ours_us", &mine);
	bench_detail(&p50, "bare_us", &bare);
	bench_report(b, &p50);
	bench_report(b, &p99);
	bench_samples_fini(&mine);
	bench_samples_fini(&bare);
}

/* ------------------------------------------------------------------- one way */

static unsigned take(struct target *t, struct thmq_message *messages)
{
	int n = thmq_fetch(t->consumer, messages, FETCH_MAX);

	if (n < 0)
		bench_die("fetch", n);
	if (n > 0)
		thmq_release(t->consumer, messages, (uint32_t)n);
	return (unsigned)n;
}

/* Return: messages a second. */
static double flow(struct bench *b, const struct shape *s, uint64_t count)
{
	struct thmq_message messages[FETCH_MAX];
	char message[MESSAGE_BYTES], dir[4096];
	uint64_t sent = 0, got = 0, t0;
	struct target t;

	memset(message, 'x', sizeof(message));
	open_shape(&t, b, s, dir, sizeof(dir));
	t0 = bench_now();
	while (got < count) {
		unsigned n = 0;

		while (n < BURST && sent < count) {
			int64_t seq = thmq_send(t.producer, message, MESSAGE_BYTES, NULL);

			if (seq == -EAGAIN)
				break;
			if (seq < 0)
				bench_die("send", (int)seq);
			sent++;
			n++;
		}
		got += take(&t, messages);
	}
	t0 = bench_now() - t0;
	close_shape(&t, dir);
	return (double)count / ((double)t0 / 1e9);
}

static void one_way(struct bench *b, const struct shape *s)
{
	/* volatile: as much as half a second; logged: what fits into the first segments beside what they cost */
	uint64_t count = b->smoke ? 2000 : s->logged ? 1000000 : 5000000;
	char name[96];
	struct bench_line l = {.name = name,
			       .unit = "M/s",
			       .rival = "cache lines one by one",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_LEAST,
			       .bar = 10};
	struct bench_line *lines[] = {&l};
	unsigned trips = b->smoke ? 100 : 20000;
	struct bench_samples bare;

	snprintf(name, sizeof(name), "oneway_100B_%s", s->name);
	if (!bench_wants(b, name))
		return;
	bench_samples_init(&bare, trips);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		bench_samples_clear(&bare);
		rig_line_pingpong(b->cpu_app, b->cpu_core, trips, &bare);
		bench_pairs_add(&l.pairs, flow(b, s, count) / 1e6,
				2e3 / bench_percentile(&bare, 0.5));
	}
	bench_report(b, &l);
	bench_samples_fini(&bare);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {{"volatile", false}, {"logged", true}};
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	if (b.cpu_app < 0) {
		bench_skip(&b, "memory", "one CPU only");
		return bench_end(&b);
	}
	for (size_t i = 0; i < 2; i++) {
		round_trip(&b, &shapes[i]);
		one_way(&b, &shapes[i]);
	}
	return bench_end(&b);
}
