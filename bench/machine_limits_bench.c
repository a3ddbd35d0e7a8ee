/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_limits_bench.c - the limits of the machine alone, without the library: which other benchmarks measure beside
 * themselves. To know a machine before reading its numbers; nothing is judged.
 *
 * Matrix: one flushed 4 KiB write at a time, sleeping or spinning, on either CPU, with the other idle or busy;
 * streams of flushed writes by size and depth; cache line there and back; one wake-up of a sleeper.
 */
#include "rig_disk.h"
#include "rig_line.h"

#include <stdio.h>
#include <string.h>

static void report_samples(struct bench *b, const char *name, const char *unit, double unit_ns,
			   struct bench_samples *s)
{
	struct bench_line p50 = {.unit = unit, .measure = BENCH_VALUE};
	struct bench_line p99 = {.unit = unit, .measure = BENCH_VALUE};
	char text[2][96];

	snprintf(text[0], sizeof(text[0]), "%s_p50", name);
	snprintf(text[1], sizeof(text[1]), "%s_p99", name);
	p50.name = text[0];
	p99.name = text[1];
	bench_pairs_add(&p50.pairs, bench_percentile(s, 0.5) / unit_ns, 0);
	bench_pairs_add(&p99.pairs, bench_percentile(s, 0.99) / unit_ns, 0);
	bench_detail(&p50, "ours_us", s);
	bench_report(b, &p50);
	bench_report(b, &p99);
}

static void one_at_a_time(struct bench *b, const char *name, int cpu, int neighbour,
			  enum rig_wait how)
{
	unsigned count = b->smoke ? 20 : 2000;
	struct bench_companion *c = NULL;
	struct bench_samples s;
	struct rig_disk *d;

	if (!bench_wants(b, name) || cpu < 0)
		return;
	bench_samples_init(&s, count);
	bench_pin(cpu);
	d = rig_disk_open(b->dir, 16u << 20);
	rig_disk_latency(d, how, count / 10, &s);
	bench_samples_clear(&s);
	if (neighbour >= 0)
		c = bench_companion_start(neighbour);
	rig_disk_latency(d, how, count, &s);
	bench_companion_stop(c);
	rig_disk_close(d);
	bench_unpin();
	report_samples(b, name, "us", 1e3, &s);
	bench_samples_fini(&s);
}

static void streams(struct bench *b)
{
	static const struct {
		uint32_t bytes;
		unsigned depth;
	} shapes[] = {{4096, 1},    {65536, 1},   {65536, 8},   {131072, 8},
		      {262144, 4},  {262144, 8},  {524288, 4},  {524288, 8},
		      {1048576, 1}, {1048576, 4}, {1048576, 8}, {4194304, 2}};
	uint64_t volume = b->smoke ? 4u << 20 : 256u << 20;
	struct rig_disk *d;

	if (!bench_wants(b, "stream"))
		return;
	bench_pin(b->cpu_core);
	d = rig_disk_open(b->dir, volume);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct bench_line l = {.unit = "MB/s", .rival = "no flush", .measure = BENCH_RATIO};
		char name[64];

		snprintf(name, sizeof(name), "stream_%uKiB_depth%u", shapes[i].bytes / 1024,
			 shapes[i].depth);
		l.name = name;
		for (unsigned round = 0; round < (b->smoke ? 1u : 3u); round++) {
			uint64_t n = shapes[i].bytes * 4096ull < volume ? shapes[i].bytes * 4096ull
									: volume;
			double flushed =
				rig_disk_stream(d, shapes[i].bytes, shapes[i].depth, n, true);
			double plain =
				rig_disk_stream(d, shapes[i].bytes, shapes[i].depth, n, false);

			bench_pairs_add(&l.pairs, flushed / 1e6, plain / 1e6);
		}
		bench_report(b, &l);
	}
	rig_disk_close(d);
	bench_unpin();
}

static void lines(struct bench *b)
{
	unsigned count = b->smoke ? 1000 : 200000, wakes = b->smoke ? 10 : 2000;
	struct bench_samples s;

	if (b->cpu_app < 0) {
		bench_skip(b, "pingpong", "one CPU only");
		return;
	}
	if (!bench_wants(b, "pingpong") && !bench_wants(b, "wakeup"))
		return;
	bench_samples_init(&s, count);
	rig_line_pingpong(b->cpu_app, b->cpu_core, count, &s);
	report_samples(b, "pingpong", "ns", 1, &s);
	bench_samples_clear(&s);
	rig_line_wakeup(b->cpu_app, b->cpu_core, wakes, 30000, &s);
	report_samples(b, "wakeup", "us", 1e3, &s);
	bench_samples_fini(&s);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "machine");
	one_at_a_time(&b, "write_wait_core", b.cpu_core, -1, RIG_WAIT);
	one_at_a_time(&b, "write_spin_core", b.cpu_core, -1, RIG_SPIN);
	one_at_a_time(&b, "write_wait_app", b.cpu_app, -1, RIG_WAIT);
	one_at_a_time(&b, "write_spin_app", b.cpu_app, -1, RIG_SPIN);
	one_at_a_time(&b, "write_wait_core_neighbour", b.cpu_core, b.cpu_app, RIG_WAIT);
	one_at_a_time(&b, "write_spin_core_neighbour", b.cpu_core, b.cpu_app, RIG_SPIN);
	streams(&b);
	lines(&b);
	return bench_end(&b);
}
