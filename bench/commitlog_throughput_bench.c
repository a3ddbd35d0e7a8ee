/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_throughput_bench.c - durable messages with many outstanding: one producer thread, one core.
 *
 * Limits and bars:
 *   1 KiB messages: stored bytes a second at least 85 % of what a bare writer gets with flushed O_DIRECT writes of the
 *   size that the log wrote on average, as many in flight as the log may have (8), in the same directory. Each burst
 *   begins when the disk is quiet and ends when all is settled. Steady: it stays inside one segment that was prepared.
 *   Recycled: it goes over several, the topic keeps the newest 128 MiB, and old segments become new ones beside the
 *   writes. The growing phase, in which the log makes segments beside its writes, is reported apart, without a bar.
 *   100 B messages: at least 4 million a second; against LMDB with batches of 1,000, each a synchronous transaction
 *   (no bar). Once with a library thread on the other CPU, once driven by the sender itself.
 */
#include "rig_disk.h"
#include "rig_lmdb.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WRITE_DEPTH 8u    /* thmq_broker_opts.write_depth's default */
#define LMDB_BATCH 1000u

static const char payload[1024];

static void open_target(struct target *t, struct bench *b, enum target_layout layout,
			const char *name, bool recycled, char *dir, size_t size)
{
	struct target_opts o = {.layout = layout,
				.segment_bytes = recycled ? 64 * MIB : 0,
				.retention_bytes = recycled ? 128 * MIB : 0,
				.policy = THMQ_POLICY_DEFAULT, /* asleep while the rival runs */
				.durability = THMQ_DURABILITY_DURABLE,
				.window_bytes = 64 * MIB,
				.window_count = 1u << 19};

	if (bench_mkdir(b, name, dir, size) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(t, b, &o);
}

struct burst {
	double seconds;
	uint64_t messages, stored_bytes, batches;
};

static struct burst send_burst(struct target *t, uint32_t len, uint64_t messages)
{
	struct target_counts before = target_counts(t), after;
	uint64_t t0 = bench_now();
	int64_t seq = 0;
	struct burst r;

	for (uint64_t i = 0; i < messages; i++)
		seq = target_send(t, payload, len);
	target_watch(t, seq);
	r.seconds = (double)(bench_now() - t0) / 1e9;
	after = target_counts(t);
	r.messages = messages;
	r.stored_bytes = after.stored_bytes - before.stored_bytes;
	r.batches = after.batches - before.batches;
	return r;
}

static void make_room(struct target *t, uint64_t bytes)
{
	while (!target_has_room(t, bytes))
		send_burst(t, sizeof(payload), 4 * MIB / sizeof(payload));
	target_settle(t);
}

static uint32_t write_size(const struct burst *r)
{
	uint64_t mean = r->batches ? r->stored_bytes / r->batches : 4096;

	return (uint32_t)((mean + 4095) / 4096 * 4096);
}

/* ----------------------------------------------------------------- 1 KiB */

static void report_growth(struct bench *b, const struct burst *r, uint64_t written)
{
	struct bench_line l = {
		.name = "durable_1KiB_growing", .unit = "MB/s", .measure = BENCH_VALUE};

	snprintf(l.detail, sizeof(l.detail),
		 "\"stored_bytes\":%llu,\"written_bytes\":%llu,\"batches\":%llu",
		 (unsigned long long)r->stored_bytes, (unsigned long long)written,
		 (unsigned long long)r->batches);
	bench_pairs_add(&l.pairs, (double)r->stored_bytes / r->seconds / 1e6, 0);
	bench_report(b, &l);
}

static void bandwidth(struct bench *b, bool recycled)
{
	uint64_t volume = b->smoke ? 2 * MIB : 160 * MIB, messages = volume / sizeof(payload);
	struct bench_line l = {.name = recycled ? "durable_1KiB_recycled" : "durable_1KiB_steady",
			       .unit = "MB/s",
			       .rival = "bare stream",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_LEAST,
			       .bar = 0.85};
	struct bench_line *lines[] = {&l};
	struct target_counts begin, grown;
	struct rig_disk *d;
	struct burst r = {0};
	struct target t;
	char dir[4096];

	if (!bench_wants(b, l.name))
		return;
	d = rig_disk_open(b->dir, volume + volume / 4);
	open_target(&t, b, TARGET_PINNED, "bandwidth", recycled, dir, sizeof(dir));
	if (!b->smoke) {
		begin = target_counts(&t);
		r = send_burst(&t, sizeof(payload), TARGET_GROWN / sizeof(payload));
		grown = target_counts(&t);
		if (!recycled)
			report_growth(b, &r, grown.written_bytes - begin.written_bytes);
	}
	begin = target_counts(&t);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double bare = 0;

		if (!b->smoke && !recycled)
			make_room(&t, volume + volume / 4);
		target_settle(&t);
		if (round % 2 && round > 0)
			bare = rig_disk_stream(d, write_size(&r), WRITE_DEPTH, volume, true);
		r = send_burst(&t, sizeof(payload), messages);
		if (bare == 0)
			bare = rig_disk_stream(d, write_size(&r), WRITE_DEPTH, volume, true);
		bench_pairs_add(&l.pairs, (double)r.stored_bytes / r.seconds / 1e6, bare / 1e6);
	}
	grown = target_counts(&t);
	snprintf(l.detail, sizeof(l.detail),
		 "\"write_bytes\":%u,\"depth\":%u,\"messages_per_s\":%.0f,\"written_to_stored\":%.2f", write_size(&r),
		 WRITE_DEPTH, (double)r.messages / r.seconds,
		 (double)(grown.written_bytes - begin.written_bytes) / (double)(grown.stored_bytes - begin.stored_bytes));
	target_close(&t);
	rig_disk_close(d);
	bench_rmdir(dir);
	bench_report(b, &l);
}

/* ----------------------------------------------------------------- 100 B */

static void rate(struct bench *b, enum target_layout layout, const char *name, bool bar)
{
	uint64_t messages = b->smoke ? 2000 : 1200000, stored = messages * 128;
	struct bench_line l = {.name = name,
			       .unit = "M/s",
			       .measure = BENCH_VALUE,
			       .sense = bar ? BENCH_AT_LEAST : BENCH_NO_BAR,
			       .bar = 4};
	struct bench_line rival = {
		.unit = "M/s", .rival = "LMDB, batches of 1,000", .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&l};
	char dir[4096], rival_name[96];
	struct rig_lmdb *lmdb;
	struct burst r = {0};
	struct target t;

	snprintf(rival_name, sizeof(rival_name), "%s_lmdb", name);
	rival.name = rival_name;
	if (!bench_wants(b, name))
		return;
	lmdb = rig_lmdb_open(b->dir);
	open_target(&t, b, layout, name, false, dir, sizeof(dir));
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		if (!b->smoke)
			make_room(&t, stored);
		r = send_burst(&t, 100, messages);
		bench_pairs_add(&l.pairs, (double)r.messages / r.seconds / 1e6, 0);
		if (lmdb)
			bench_pairs_add(&rival.pairs, (double)r.messages / r.seconds / 1e6,
					rig_lmdb_append(lmdb, messages / 4, 100, LMDB_BATCH) / 1e6);
	}
	snprintf(l.detail, sizeof(l.detail), "\"write_bytes\":%u,\"stored_bytes_per_message\":%.1f",
		 write_size(&r), (double)r.stored_bytes / (double)r.messages);
	target_close(&t);
	bench_rmdir(dir);
	bench_report(b, &l);
	if (lmdb)
		bench_report(b, &rival);
	else
		bench_skip(b, rival_name, "built without LMDB");
	rig_lmdb_close(lmdb);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	if (b.cpu_app < 0) {
		bench_skip(&b, "durable_pinned", "one CPU only");
	} else {
		bandwidth(&b, false);
		bandwidth(&b, true);
		rate(&b, TARGET_PINNED, "durable_100B_many", true);
	}
	rate(&b, TARGET_CALLER, "durable_100B_many_caller", false);
	return bench_end(&b);
}
