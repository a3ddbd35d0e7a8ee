/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_memory_bench.c - memory-acknowledged messages of 100 B from publish to consumer inside the process, on a
 * volatile topic and on a logged one that shows messages when they are in memory. Producer and consumer are one thread,
 * the core is on the other CPU under the poll policy: two spinning threads.
 *
 * Limits and bars:
 *   round trip p50 (send, then fetch until it is there, release) at most 3 x a bare cache-line ping-pong between the
 *   same two CPUs;
 *   one way, message by message, at least 10 million a second where the two CPUs are near.
 * A virtual machine's CPUs move about, and a cache line that goes between two that share no cache takes three times as long:
 * so the bare line is taken before and after each of our runs, and a pair in which it differs is repeated. Where the CPUs were
 * far all the time, the way there and back counts as it is; one way it is reported in a line of its own, without a bar: lines
 * that go one by one do not come to ten millions a second there, and whether a message does cannot be told.
 * On the logged topic the disk goes on writing beside it: in steady state, as target.h says.
 */
#include "rig_line.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 100u
#define FETCH_MAX 256
#define NEAR_NS 250 /* a cache line's way there and back, between CPUs that share a cache */
#define FAR_MAX 20u /* pairs that are repeated */
#define STEADY 1.25 /* the bare line before and after differ by less */
#define BURST 64 /* messages sent between two looks for what has arrived */
#define STORED_MAX 232u /* bytes of the log that a message takes at most, alone in its run */

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

/* A cache line's way there and back: the median, and if wanted @q of it. */
static double bare_line(const struct bench *b, unsigned count, struct bench_samples *bare, double q, double *ret_q)
{
	bench_samples_clear(bare);
	rig_line_pingpong(b->cpu_app, b->cpu_core, count, bare);
	if (ret_q)
		*ret_q = bench_percentile(bare, q);
	return bench_percentile(bare, 0.5);
}

/* Did the CPUs stay where they were? */
static bool is_steady(double before, double after)
{
	return before <= after * STEADY && after <= before * STEADY;
}

static void round_trip(struct bench *b, const struct shape *s)
{
	unsigned count = b->smoke ? 200 : 50000, moved = 0;
	double before, after, before99, after99;
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
		before = bare_line(b, count, &bare, 0.99, &before99);
		make_trips(b, s, count, &mine);
		after = bare_line(b, count, &bare, 0.99, &after99);
		if (!b->smoke && !is_steady(before, after) && moved++ < FAR_MAX) {
			round--; /* it did not count */
			continue;
		}
		bench_pairs_add(&p50.pairs, bench_percentile(&mine, 0.5), (before + after) / 2);
		bench_pairs_add(&p99.pairs, bench_percentile(&mine, 0.99), (before99 + after99) / 2);
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
static double flow(struct target *t, uint64_t count)
{
	struct thmq_message messages[FETCH_MAX];
	char message[MESSAGE_BYTES];
	uint64_t sent = 0, got = 0, t0;

	memset(message, 'x', sizeof(message));
	t0 = bench_now();
	while (got < count) {
		unsigned n = 0;

		while (n < BURST && sent < count) {
			int64_t seq = thmq_send(t->producer, message, MESSAGE_BYTES, NULL);

			if (seq == -EAGAIN)
				break;
			if (seq < 0)
				bench_die("send", (int)seq);
			sent++;
			n++;
		}
		got += take(t, messages);
	}
	return (double)count * 1e9 / (double)(bench_now() - t0);
}

/* Whatever is touched for the first time, or made ready for the first time, is behind us. */
static void warm_up(struct bench *b, struct target *t, const struct shape *s, uint64_t count)
{
	if (b->smoke)
		return;
	if (!s->logged)
		flow(t, count / 4);
	while (s->logged && !target_has_room(t, count * STORED_MAX))
		flow(t, 50000);
	if (s->logged)
		target_settle(t);
}

static void one_way(struct bench *b, const struct shape *s)
{
	/* volatile: as much as half a second; logged: as much as a segment that is prepared takes */
	uint64_t count = b->smoke ? 2000 : s->logged ? 1000000 : 5000000;
	char name[96], far_name[96], dir[4096];
	struct bench_line far = {.name = far_name,
				 .unit = "M/s",
				 .rival = "cache lines one by one",
				 .measure = BENCH_VALUE};
	struct bench_line l = {.name = name,
			       .unit = "M/s",
			       .rival = "cache lines one by one",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_LEAST,
			       .bar = 10};
	struct bench_line *lines[] = {&l};
	unsigned trips = b->smoke ? 100 : 20000;
	struct bench_samples bare;
	struct target t;
	double mine, before, after, trip;

	snprintf(name, sizeof(name), "oneway_100B_%s", s->name);
	snprintf(far_name, sizeof(far_name), "oneway_100B_%s_far", s->name);
	if (!bench_wants(b, name))
		return;
	bench_samples_init(&bare, trips);
	for (unsigned round = 0; bench_more(b, round, lines, 1) && far.pairs.count < FAR_MAX; round++) {
		before = bare_line(b, trips, &bare, 0, NULL);
		open_shape(&t, b, s, dir, sizeof(dir));
		warm_up(b, &t, s, count);
		mine = flow(&t, count);
		close_shape(&t, dir);
		after = bare_line(b, trips, &bare, 0, NULL);
		trip = before > after ? before : after;
		if (b->smoke || trip <= NEAR_NS) {
			bench_pairs_add(&l.pairs, mine / 1e6, 2e3 / trip);
		} else {
			bench_pairs_add(&far.pairs, mine / 1e6, 2e3 / trip);
			round--; /* it did not count */
		}
	}
	if (l.pairs.count)
		bench_report(b, &l);
	else
		bench_skip(b, name, "the two CPUs share no cache now");
	if (far.pairs.count)
		bench_report(b, &far);
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
