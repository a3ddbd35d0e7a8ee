/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_idle_bench.c - what an open broker costs when nothing happens, and how long the first open takes.
 *
 * Bars: processor time of an open broker with a connected producer and consumer under the event policy below 1 % of one
 * CPU; environment and broker on a fresh directory open within 100 ms.
 */
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void idle(struct bench *b)
{
	uint64_t span = b->smoke ? 20000000 : 500000000;
	struct bench_line l = {.name = "idle_cpu_event",
			       .unit = "%",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 1};
	struct target_opts o = {.layout = TARGET_PINNED,
				.policy = THMQ_POLICY_EVENT,
				.durability = THMQ_DURABILITY_DURABLE,
				.consumer = true};
	struct bench_line *lines[] = {&l};
	char dir[4096];
	struct target t;

	if (!bench_wants(b, l.name))
		return;
	if (bench_mkdir(b, "idle", dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(&t, b, &o);
	target_watch(&t, target_send(&t, "x", 1));
	bench_sleep_ns(b->smoke ? 20000000
				: 1500000000); /* the idle second after which marks are stored */
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		uint64_t cpu = bench_cpu_ns(), t0 = bench_now();

		bench_sleep_ns(span);
		bench_pairs_add(&l.pairs,
				(double)(bench_cpu_ns() - cpu) / (double)(bench_now() - t0) * 100,
				0);
	}
	target_close(&t);
	bench_report(b, &l);
}

static double open_ms(struct bench *b, unsigned round, enum target_layout layout)
{
	struct thmq_env_opts e;
	struct thmq_broker_opts br;
	struct thmq_broker *broker;
	struct thmq_env *env;
	char name[64], dir[4096];
	uint64_t t0;
	int r;

	snprintf(name, sizeof(name), "open-%u", round);
	if (bench_mkdir(b, name, dir, sizeof(dir)) != 0)
		bench_die(dir, EIO);
	thmq_env_opts_init(&e);
	e.core_count = layout == TARGET_PINNED;
	thmq_broker_opts_init(&br);
	br.data_dir = dir;
	t0 = bench_now();
	r = thmq_env_open(&env, &e);
	if (r == 0)
		r = thmq_broker_open(env, &br, &broker);
	t0 = bench_now() - t0;
	if (r != 0) {
		fprintf(stderr, "bench: %s\n", thmq_errmsg());
		bench_die("open", r);
	}
	thmq_env_close(env, 10000000000u);
	bench_rmdir(dir);
	return (double)t0 / 1e6;
}

static void first_open(struct bench *b, const char *name, enum target_layout layout)
{
	struct bench_line l = {.name = name,
			       .unit = "ms",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 100};
	struct bench_line *lines[] = {&l};

	if (!bench_wants(b, l.name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++)
		bench_pairs_add(&l.pairs, open_ms(b, round, layout), 0);
	bench_report(b, &l);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	first_open(&b, "first_open_caller", TARGET_CALLER);
	first_open(&b, "first_open_pinned", TARGET_PINNED);
	idle(&b);
	return bench_end(&b);
}
