/* SPDX-License-Identifier: Apache-2.0 */
/*
 * messaging_delay_bench.c - durable messages of 100 bytes that come later than they were sent. The application's thread drives the core.
 *
 * delay_late_p50, _p99: 100,000 a second become due, one every 10 µs, all of them sent before; how long after its time each is in the application's hands, which is
 *     behind its second write. Beside it messages that are sent then, without a delay. Bar: 2 ms at the 99th percentile.
 * delay_late_own_p99: the same, less the device's own p99 under messages of that size that are due at the same times (rig_disk_arrivals()): what a stall of the device
 *     costs all that are due meanwhile is nobody's else. Bar: 1 ms, as of messages without a delay (kafka_tenth_p99).
 * delay_released_p50, _p99: the same on a topic whose messages are seen once they are in memory: what of it is the release, without the device. No bar.
 * delay_memory: messages that are outstanding for a day, 1 million, with --full 10 million; the process's memory for each. Bar: 1 GiB for 10 million.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig_disk.h"
#include "target.h"

#define LEN 100u
#define RATE 100000u
#define STEP_NS (1000000000u / RATE)
#define FETCH_MAX 256
#define DAY_NS (86400ull * 1000000000u)
#define WAIT_NS 30000000000u
#define SEGMENT (64 * MIB)
#define WARM (3 * SEGMENT / LEN) /* messages: from then on segments are used again, as they are for ever, and nobody fills new ones with zeros beside what is measured */

static uint64_t wall_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void check(const char *what, int rc)
{
	if (rc < 0)
		bench_die(what, rc < -1000 ? EIO : -rc);
}

static bool try_send(struct target *t, uint64_t due, bool delayed)
{
	struct thmq_message_opts o = {.size = sizeof(o), .deliver_at_ns = delayed ? (int64_t)due : 0};
	char data[LEN] = {0};
	int64_t rc;

	memcpy(data, &due, sizeof(due));
	rc = thmq_send(t->producer, data, LEN, &o);
	if (rc < 0 && rc != -EAGAIN)
		bench_die("send", (int)-rc);
	return rc > 0;
}

static void open_target(struct target *t, const struct bench *b, uint32_t visible_at, bool recycles, char *dir, size_t size)
{
	struct target_opts o = {.layout = TARGET_CALLER,
				.durability = THMQ_DURABILITY_DURABLE,
				.visible_at = visible_at,
				.window_bytes = 16u << 20,
				.consumer = true,
				.segment_bytes = recycles ? SEGMENT : 0,
				.retention_bytes = recycles ? SEGMENT : 0};

	if (bench_mkdir((struct bench *)b, "delayed", dir, size) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(t, b, &o);
}

/* ------------------------------------------------------------------- lateness */

static uint32_t take(struct target *t, struct bench_samples *s)
{
	struct thmq_message m[FETCH_MAX];
	int n = thmq_fetch(t->consumer, m, FETCH_MAX), i;
	uint64_t now = wall_now(), due;

	check("fetch", n);
	for (i = 0; i < n; i++) {
		memcpy(&due, m[i].data, sizeof(due));
		if (now + 1000000u < due) /* the core's clock may be set a little otherwise */
			bench_die("a message came before its time", EIO);
		bench_samples_add(s, now > due ? now - due : 0);
	}
	if (n)
		thmq_release(t->consumer, m, (uint32_t)n);
	else
		target_pump(t);
	return (uint32_t)n;
}

static void warm(struct target *t, uint64_t count)
{
	struct thmq_message m[FETCH_MAX];
	uint64_t sent = 0, got = 0;
	int n;

	while (got < count) {
		while (sent < count && try_send(t, 0, false))
			sent++;
		n = thmq_fetch(t->consumer, m, FETCH_MAX);
		check("fetch", n);
		got += (uint64_t)n;
		thmq_release(t->consumer, m, (uint32_t)n);
		target_pump(t);
	}
	check("flush", thmq_flush(t->producer, WAIT_NS));
	target_settle(t);
}

/* Sent before, and due one after the other. */
static void run_delayed(struct target *t, uint32_t count, struct bench_samples *s)
{
	uint64_t base = wall_now() + 500000000u + count * 4000ull, end;
	uint32_t i = 0, got = 0;

	while (i < count) {
		if (try_send(t, base + (uint64_t)i * STEP_NS, true))
			i++;
		else
			target_pump(t);
	}
	check("flush", thmq_flush(t->producer, WAIT_NS));
	if (wall_now() > base)
		bench_die("sending took too long", ETIMEDOUT);
	for (end = base + count * (uint64_t)STEP_NS + WAIT_NS; got < count && wall_now() < end;)
		got += take(t, s);
	if (got != count)
		bench_die("messages that do not come", ETIMEDOUT);
}

/* Sent when they are due; where the window is full they are late, too. */
static void run_plain(struct target *t, uint32_t count, struct bench_samples *s)
{
	uint64_t base = wall_now() + 1000000u, end = base + count * (uint64_t)STEP_NS + WAIT_NS;
	uint32_t i = 0, got = 0;

	while (got < count && wall_now() < end) {
		while (i < count && base + (uint64_t)i * STEP_NS <= wall_now() && try_send(t, base + (uint64_t)i * STEP_NS, false))
			i++;
		got += take(t, s);
	}
	if (got != count)
		bench_die("messages that do not come", ETIMEDOUT);
}

static void lateness(struct bench *b, uint32_t visible_at)
{
	bool stored = visible_at != THMQ_DURABILITY_MEMORY;
	struct bench_line half = {.name = stored ? "delay_late_p50" : "delay_released_p50", .unit = "ms", .rival = "without a delay", .measure = BENCH_VALUE};
	struct bench_line most = {.name = stored ? "delay_late_p99" : "delay_released_p99", .unit = "ms", .rival = "without a delay", .measure = BENCH_VALUE,
				  .sense = stored ? BENCH_AT_MOST : BENCH_NO_BAR, .bar = stored ? 2 : 0};
	struct bench_line own = {.name = "delay_late_own_p99", .unit = "ms", .rival = "without a delay", .measure = BENCH_VALUE, .sense = BENCH_AT_MOST, .bar = 1};
	struct bench_line *lines[] = {&half, &most, &own};
	const struct rig_arrivals same = {.per_s = RATE, .burst = 1, .bytes = 132};
	const unsigned line_count = stored ? 3 : 2;
	struct thmq_env_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
	uint32_t count = b->smoke ? 2000 : 2 * RATE;
	struct bench_samples late, plain, device;
	struct rig_disk *disk = NULL;
	double bare = 0;
	struct target t;
	char dir[4096];

	if (!bench_wants(b, half.name) && !bench_wants(b, most.name) && !(stored && bench_wants(b, own.name)))
		return;
	if (stored)
		disk = rig_disk_open(b->dir, 16 << 20);
	bench_samples_init(&device, count);
	open_target(&t, b, visible_at, true, dir, sizeof(dir));
	if (!b->smoke)
		warm(&t, WARM);
	bench_samples_init(&late, count);
	bench_samples_init(&plain, count);
	for (unsigned round = 0; bench_more(b, round, lines, line_count); round++) {
		bench_samples_clear(&late);
		bench_samples_clear(&plain);
		check("counters", thmq_env_stats(t.env, &before));
		run_delayed(&t, count, &late);
		check("counters", thmq_env_stats(t.env, &after));
		run_plain(&t, count, &plain);
		bench_pairs_add(&half.pairs, bench_percentile(&late, 0.5) / 1e6, bench_percentile(&plain, 0.5) / 1e6);
		bench_pairs_add(&most.pairs, bench_percentile(&late, 0.99) / 1e6, bench_percentile(&plain, 0.99) / 1e6);
		if (!stored)
			continue;
		bench_samples_clear(&device);
		rig_disk_arrivals(disk, &same, count, &device);
		bare = bench_percentile(&device, 0.99);
		bench_pairs_add(&own.pairs, (bench_percentile(&late, 0.99) - bare) / 1e6, (bench_percentile(&plain, 0.99) - bare) / 1e6);
	}
	snprintf(half.detail, sizeof(half.detail), "\"messages\":%u,\"reads\":%llu,\"read_MiB\":%.1f,\"writes\":%llu,\"written_MiB\":%.1f", count,
		 (unsigned long long)(after.reads - before.reads), (double)(after.read_bytes - before.read_bytes) / MIB,
		 (unsigned long long)(after.writes - before.writes), (double)(after.write_bytes - before.write_bytes) / MIB);
	bench_detail(&most, "late", &late);
	bench_report(b, &half);
	bench_report(b, &most);
	if (stored) {
		bench_detail(&own, "late", &late); /* of the last round */
		bench_detail(&own, "device", &device);
		bench_report(b, &own);
		rig_disk_close(disk);
	}
	bench_samples_fini(&late);
	bench_samples_fini(&plain);
	bench_samples_fini(&device);
	target_close(&t);
	bench_rmdir(dir);
}

/* --------------------------------------------------------------------- memory */

static void outstanding(struct bench *b)
{
	struct bench_line line = {.name = "delay_memory", .unit = "B each", .measure = BENCH_VALUE, .sense = BENCH_AT_MOST, .bar = 1073741824.0 / 1e7};
	uint32_t count = b->smoke ? 20000 : b->full ? 10000000 : 1000000, i = 0;
	struct thmq_partition_info info = {.size = sizeof(info)};
	uint64_t base, t0;
	double before;
	struct target t;
	char dir[4096];

	if (!bench_wants(b, line.name))
		return;
	open_target(&t, b, 0, false, dir, sizeof(dir));
	before = bench_memory();
	base = wall_now() + DAY_NS;
	t0 = bench_now();
	while (i < count) {
		if (try_send(&t, base + (uint64_t)i * 1000, true))
			i++;
		else
			target_pump(&t);
	}
	check("flush", thmq_flush(t.producer, 10 * WAIT_NS));
	t0 = bench_now() - t0;
	check("partition", thmq_partition_describe(t.session, "bench", 0, NULL, &info));
	if (info.delayed != count)
		bench_die("not all of them wait", EIO);
	bench_pairs_add(&line.pairs, (bench_memory() - before) / count, 0);
	snprintf(line.detail, sizeof(line.detail), "\"outstanding\":%u,\"MiB\":%.0f,\"sent_per_s\":%.0f", count,
		 (bench_memory() - before) / 1048576, count * 1e9 / (double)t0);
	bench_report(b, &line);
	target_close(&t);
	bench_rmdir(dir);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "messaging");
	lateness(&b, 0);
	lateness(&b, THMQ_DURABILITY_MEMORY);
	outstanding(&b);
	return bench_end(&b);
}
