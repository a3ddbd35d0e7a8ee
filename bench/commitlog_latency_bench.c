/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_latency_bench.c - one durable message of 100 B at a time, from send to settled.
 *
 * Limit: a bare io_uring O_DIRECT write of one block with the same flush flag, in the same directory, by a thread on
 * the CPU of the library's core; with a neighbour that spins on the other CPU where the application's thread does.
 *
 * Where one thread does all, message and bare write take turns one by one; else block by block.
 *
 * Matrix: who drives (caller: the application's thread; pinned: a thread of the library, the application watches the
 * watermark on the other CPU) x policy (poll, event). Bars:
 *   poll   p50 at most 1.10 x the bare write (spinning or sleeping, whichever is faster);
 *          p99 no more than a quarter above the bare one by the paired difference.
 *   event  p50 at most the bare sleeping write and one wake-up, measured beside it (caller: nobody is woken, so the bar
 *          is stricter than need be if a wake-up is nothing); p99 likewise with the p99 of a wake-up.
 * Also reported, without a bar: thmq_flush() after each message, where the application sleeps, too (a second wake-up).
 */
#include "rig_disk.h"
#include "rig_line.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 100u
#define BARE_BYTES (16u << 20)

struct shape {
	const char *name;
	enum target_layout layout;
	uint32_t policy;
	bool flush; /* thmq_flush() instead of watching */
};

static void open_target(struct target *t, struct bench *b, const struct shape *s)
{
	struct target_opts o = {
		.layout = s->layout, .policy = s->policy, .durability = THMQ_DURABILITY_DURABLE};
	char dir[4096];

	if (bench_mkdir(b, s->name, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(t, b, &o);
}

/* Return: ns from send to settled. */
static uint64_t one_message(struct target *t, const struct shape *s)
{
	static const char message[MESSAGE_BYTES];
	uint64_t t0 = bench_now();
	int64_t seq = target_send(t, message, sizeof(message));

	if (s->flush)
		thmq_flush(t->producer, 10000000000u);
	else if (s->layout == TARGET_CALLER)
		while (thmq_watermark(t->producer) < seq)
			thmq_poll(t->env, 1000000000);
	else
		target_watch(t, seq);
	return bench_now() - t0;
}

static void ours(struct bench *b, const struct shape *s, unsigned count, struct bench_samples *ret)
{
	struct target t;

	open_target(&t, b, s);
	for (unsigned i = 0; i < count / 10; i++)
		one_message(&t, s);
	for (unsigned i = 0; i < count; i++)
		bench_samples_add(ret, one_message(&t, s));
	target_close(&t);
}

/* The bare write as a thread in the core's place would do it. */
static void bare(struct bench *b, struct rig_disk *d, const struct shape *s, enum rig_wait how,
		 unsigned count, struct bench_samples *ret)
{
	struct bench_companion *c = NULL;

	bench_pin(b->cpu_core);
	if (s->layout == TARGET_PINNED && !s->flush)
		c = bench_companion_start(b->cpu_app);
	rig_disk_latency(d, how, count / 10, ret);
	bench_samples_clear(ret);
	rig_disk_latency(d, how, count, ret);
	bench_companion_stop(c);
	bench_unpin();
}

struct work {
	struct bench_samples ours, wait, spin, wake;
	struct bench_line p50, p99;
	char name50[96], name99[96];
};

static void work_init(struct work *w, const struct shape *s, unsigned room)
{
	bool poll = s->policy == THMQ_POLICY_POLL;

	memset(w, 0, sizeof(*w));
	bench_samples_init(&w->ours, room);
	bench_samples_init(&w->wait, room);
	bench_samples_init(&w->spin, room);
	bench_samples_init(&w->wake, room);
	snprintf(w->name50, sizeof(w->name50), "durable_100B_%s_p50", s->name);
	snprintf(w->name99, sizeof(w->name99), "durable_100B_%s_p99", s->name);
	w->p50 = (struct bench_line){.name = w->name50,
				     .unit = "us",
				     .rival = poll ? "bare write" : "bare write + wake-up",
				     .measure = BENCH_RATIO,
				     .sense = s->flush ? BENCH_NO_BAR : BENCH_AT_MOST,
				     .bar = poll ? 1.10 : 1.0};
	w->p99 = w->p50;
	w->p99.name = w->name99;
	w->p99.measure = BENCH_DIFFERENCE;
	w->p99.bar = poll ? 0.25 : 0.0;
}

static void clear(struct work *w)
{
	bench_samples_clear(&w->ours);
	bench_samples_clear(&w->wait);
	bench_samples_clear(&w->spin);
	bench_samples_clear(&w->wake);
}

static void work_fini(struct work *w)
{
	bench_samples_fini(&w->ours);
	bench_samples_fini(&w->wait);
	bench_samples_fini(&w->spin);
	bench_samples_fini(&w->wake);
}

static double limit(struct work *w, const struct shape *s, double share)
{
	double wait = bench_percentile(&w->wait, share), spin = bench_percentile(&w->spin, share);

	if (s->policy == THMQ_POLICY_POLL)
		return spin < wait ? spin : wait;
	return wait + bench_percentile(&w->wake, share);
}

/* Where one thread does all: message and bare write by turns, so that both meet the same moments. */
static void by_turns(struct bench *b, const struct shape *s, struct rig_disk *d, struct work *w,
		     unsigned count)
{
	struct target t;

	open_target(&t, b, s);
	for (unsigned i = 0; i < count + count / 10; i++) {
		if (i == count / 10) /* before: warm up */
			clear(w);
		bench_samples_add(&w->ours, one_message(&t, s));
		rig_disk_latency(d, RIG_WAIT, 1, &w->wait);
		if (s->policy == THMQ_POLICY_POLL)
			rig_disk_latency(d, RIG_SPIN, 1, &w->spin);
	}
	target_close(&t);
}

static void by_blocks(struct bench *b, const struct shape *s, struct rig_disk *d, struct work *w,
		      bool ours_first, unsigned count)
{
	if (ours_first)
		ours(b, s, count, &w->ours);
	bare(b, d, s, RIG_WAIT, count, &w->wait);
	if (s->policy == THMQ_POLICY_POLL)
		bare(b, d, s, RIG_SPIN, count, &w->spin);
	if (!ours_first)
		ours(b, s, count, &w->ours);
}

static void one_round(struct bench *b, const struct shape *s, struct rig_disk *d, struct work *w,
		      bool ours_first, unsigned count)
{
	clear(w);
	if (s->layout == TARGET_CALLER)
		by_turns(b, s, d, w, count);
	else
		by_blocks(b, s, d, w, ours_first, count);
	if (s->policy != THMQ_POLICY_POLL && b->cpu_app >= 0)
		rig_line_wakeup(b->cpu_app, b->cpu_core, count / 2,
				(uint64_t)bench_percentile(&w->wait, 0.5), &w->wake);
	bench_pairs_add(&w->p50.pairs, bench_percentile(&w->ours, 0.5) / 1e3,
			limit(w, s, 0.5) / 1e3);
	bench_pairs_add(&w->p99.pairs, bench_percentile(&w->ours, 0.99) / 1e3,
			limit(w, s, 0.99) / 1e3);
}

static void run(struct bench *b, const struct shape *s, struct rig_disk *d)
{
	unsigned count = b->smoke ? 20 : 1000;
	struct work w;
	struct bench_line *lines[] = {&w.p50, &w.p99};

	if (!bench_wants(b, s->name))
		return;
	if (s->layout == TARGET_PINNED && b->cpu_app < 0) {
		bench_skip(b, s->name, "one CPU only");
		return;
	}
	work_init(&w, s, count);
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++)
		one_round(b, s, d, &w, round % 2, count);
	bench_detail(&w.p50, "ours_us", &w.ours);
	bench_detail(&w.p50, "bare_wait_us", &w.wait);
	if (s->policy == THMQ_POLICY_POLL)
		bench_detail(&w.p50, "bare_spin_us", &w.spin);
	else
		bench_detail(&w.p50, "wakeup_us", &w.wake);
	bench_report(b, &w.p50);
	bench_report(b, &w.p99);
	work_fini(&w);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {
		{"poll_caller", TARGET_CALLER, THMQ_POLICY_POLL, false},
		{"poll_pinned", TARGET_PINNED, THMQ_POLICY_POLL, false},
		{"event_caller", TARGET_CALLER, THMQ_POLICY_EVENT, false},
		{"event_pinned", TARGET_PINNED, THMQ_POLICY_EVENT, false},
		{"event_pinned_flush", TARGET_PINNED, THMQ_POLICY_EVENT, true},
		{"fixed_pinned_flush", TARGET_PINNED, THMQ_POLICY_FIXED, true},
	};
	struct rig_disk *d;
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	d = rig_disk_open(b.dir, BARE_BYTES);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		run(&b, &shapes[i], d);
	rig_disk_close(d);
	return bench_end(&b);
}
