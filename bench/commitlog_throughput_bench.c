/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_throughput_bench.c - durable messages with many outstanding: one producer thread, one core.
 *
 * Limits and bars:
 *   Bandwidth, of stored bytes, against flushed O_DIRECT writes of the size that the log wrote on average, as many in
 *   flight as the log may have (8), on a file of the same directory: by a bare writer and, where it is installed, by fio. At
 *   least 90 % with messages of 1 KiB, 95 % with 16 KiB and 64 KiB. Each burst begins when the disk is quiet and ends when
 *   all is settled. Steady: it stays inside one segment that was prepared. Recycled: it goes over several, the topic keeps
 *   the newest 128 MiB, and old segments become new ones beside the writes. The growing phase, in which the log makes
 *   segments beside its writes, is reported apart, without a bar.
 *   Rate, against LMDB with batches of 1,000, each a synchronous transaction: at least 1.5 times with 100 B, 2 with 1 KiB,
 *   1.8 with 16 KiB; 100 B messages besides at least 4 million a second. Once with a library thread on the other CPU,
 *   once driven by the sender itself, without a bar.
 */
#include "rig_disk.h"
#include "rig_fio.h"
#include "rig_lmdb.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WRITE_DEPTH 8u /* thmq_broker_opts.write_depth's default */
#define LMDB_BATCH 1000u
#define LEN_MAX 65536u

static const char payload[LEN_MAX];

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
		send_burst(t, 1024, 4 * MIB / 1024);
	target_settle(t);
}

static uint32_t write_size(const struct burst *r)
{
	uint64_t mean = r->batches ? r->stored_bytes / r->batches : 4096;

	return (uint32_t)((mean + 4095) / 4096 * 4096);
}

/* ------------------------------------------------------------- bandwidth */

struct shape {
	const char *name;
	uint32_t len;
	bool recycled;
	double bar;
};

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

/* The log becomes as large as it is measured at. */
static void grow(struct bench *b, struct target *t, const struct shape *s)
{
	struct target_counts begin = target_counts(t), grown;
	struct burst r = send_burst(t, 1024, TARGET_GROWN / 1024);

	grown = target_counts(t);
	if (!s->recycled && s->len == 1024)
		report_growth(b, &r, grown.written_bytes - begin.written_bytes);
}

struct witnesses {
	struct rig_disk *disk;
	struct rig_fio *fio; /* NULL: not asked for, or not there */
};

/* The witnesses write as large as the log does, which is known from the burst before. */
static void one_round(struct target *t, const struct shape *s, const struct witnesses *w,
		      uint64_t volume, bool first, struct burst *r, struct bench_line *bare,
		      struct bench_line *fio)
{
	double ours, disk = 0, other = 0;

	target_settle(t);
	if (!first && r->batches) {
		disk = rig_disk_stream(w->disk, write_size(r), WRITE_DEPTH, volume, true);
		other = w->fio ? rig_fio_stream(w->fio, write_size(r), WRITE_DEPTH) : 0;
	}
	*r = send_burst(t, s->len, volume / s->len);
	if (disk == 0) {
		disk = rig_disk_stream(w->disk, write_size(r), WRITE_DEPTH, volume, true);
		other = w->fio ? rig_fio_stream(w->fio, write_size(r), WRITE_DEPTH) : 0;
	}
	ours = (double)r->stored_bytes / r->seconds / 1e6;
	bench_pairs_add(&bare->pairs, ours, disk / 1e6);
	if (w->fio)
		bench_pairs_add(&fio->pairs, ours, other / 1e6);
}

static void bandwidth(struct bench *b, const struct shape *s)
{
	uint64_t volume = b->smoke ? 2 * MIB : 160 * MIB;
	struct bench_line bare = {.name = s->name,
				  .unit = "MB/s",
				  .rival = "bare stream",
				  .measure = BENCH_RATIO,
				  .sense = BENCH_AT_LEAST,
				  .bar = s->bar};
	struct bench_line fio = bare;
	struct bench_line *lines[] = {&bare, &fio};
	struct witnesses w = {0};
	struct target_counts begin, end;
	struct burst r = {0};
	struct target t;
	char dir[4096], fio_name[96];

	snprintf(fio_name, sizeof(fio_name), "%s_fio", s->name);
	if (!bench_wants(b, s->name) && !bench_wants(b, fio_name))
		return;
	fio.name = fio_name;
	fio.rival = "fio";
	w.disk = rig_disk_open(b->dir, volume + volume / 4);
	w.fio = s->recycled ? NULL : rig_fio_open(b, b->dir, volume);
	open_target(&t, b, TARGET_PINNED, s->name, s->recycled, dir, sizeof(dir));
	if (!b->smoke)
		grow(b, &t, s);
	begin = target_counts(&t);
	for (unsigned round = 0; bench_more(b, round, lines, w.fio ? 2 : 1); round++) {
		if (!b->smoke && !s->recycled)
			make_room(&t, volume + volume / 4);
		one_round(&t, s, &w, volume, round % 2 == 0, &r, &bare, &fio);
	}
	end = target_counts(&t);
	snprintf(bare.detail, sizeof(bare.detail),
		 "\"write_bytes\":%u,\"depth\":%u,\"messages_per_s\":%.0f,\"written_to_stored\":%."
		 "2f",
		 write_size(&r), WRITE_DEPTH, (double)r.messages / r.seconds,
		 (double)(end.written_bytes - begin.written_bytes) /
			 (double)(end.stored_bytes - begin.stored_bytes));
	memcpy(fio.detail, bare.detail, sizeof(fio.detail));
	target_close(&t);
	rig_disk_close(w.disk);
	bench_rmdir(dir);
	bench_report(b, &bare);
	if (w.fio)
		bench_report(b, &fio);
	else if (!s->recycled)
		bench_skip(b, fio_name, "no fio here");
	rig_fio_close(w.fio);
}

/* ------------------------------------------------------------------ rate */

struct rate {
	const char *name;
	uint32_t len;
	enum target_layout layout;
	double bar; /* million messages a second; 0: the rate is not reported by itself; negative: without a bar */
	double lmdb_bar; /* times as many; 0: no bar */
};

static void rate(struct bench *b, const struct rate *s)
{
	uint64_t volume = s->len < 1024 ? 1200000ull * 128 : 160 * MIB;
	uint64_t messages = b->smoke ? 2000 : s->len < 1024 ? 1200000 : volume / s->len;
	uint64_t theirs = (messages / 4 + LMDB_BATCH - 1) / LMDB_BATCH * LMDB_BATCH;
	struct bench_line l = {.name = s->name,
			       .unit = "M/s",
			       .measure = BENCH_VALUE,
			       .sense = s->bar > 0 ? BENCH_AT_LEAST : BENCH_NO_BAR,
			       .bar = s->bar};
	struct bench_line rival = {.unit = "M/s",
				   .rival = "LMDB, batches of 1,000",
				   .measure = BENCH_RATIO,
				   .sense = s->lmdb_bar > 0 ? BENCH_AT_LEAST : BENCH_NO_BAR,
				   .bar = s->lmdb_bar};
	struct bench_line *lines[] = {&l, &rival};
	char dir[4096], rival_name[96];
	struct rig_lmdb *lmdb;
	struct burst r = {0};
	struct target t;

	snprintf(rival_name, sizeof(rival_name), "%s_lmdb", s->name);
	rival.name = rival_name;
	if (!bench_wants(b, s->name))
		return;
	lmdb = rig_lmdb_open(b->dir);
	open_target(&t, b, s->layout, s->name, false, dir, sizeof(dir));
	for (unsigned round = 0; bench_more(b, round, lines, lmdb ? 2 : 1); round++) {
		if (!b->smoke)
			make_room(&t, volume + volume / 8);
		r = send_burst(&t, s->len, messages);
		bench_pairs_add(&l.pairs, (double)r.messages / r.seconds / 1e6, 0);
		if (lmdb)
			bench_pairs_add(&rival.pairs, (double)r.messages / r.seconds / 1e6,
					rig_lmdb_append(lmdb, theirs, s->len, LMDB_BATCH) / 1e6);
	}
	snprintf(l.detail, sizeof(l.detail), "\"write_bytes\":%u,\"stored_bytes_per_message\":%.1f",
		 write_size(&r), (double)r.stored_bytes / (double)r.messages);
	memcpy(rival.detail, l.detail, sizeof(rival.detail));
	target_close(&t);
	bench_rmdir(dir);
	if (s->bar != 0)
		bench_report(b, &l);
	if (lmdb)
		bench_report(b, &rival);
	else
		bench_skip(b, rival_name, "built without LMDB");
	rig_lmdb_close(lmdb);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {
		{"durable_1KiB_steady", 1024, false, 0.90},
		{"durable_1KiB_recycled", 1024, true, 0.90},
		{"durable_16KiB_steady", 16384, false, 0.95},
		{"durable_64KiB_steady", 65536, false, 0.95},
	};
	static const struct rate rates[] = {
		{"durable_100B_many", 100, TARGET_PINNED, 4, 1.5},
		{"durable_1KiB_many", 1024, TARGET_PINNED, 0, 2},
		{"durable_16KiB_many", 16384, TARGET_PINNED, 0, 1.8},
		{"durable_100B_many_caller", 100, TARGET_CALLER, -1, 0},
	};
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	if (b.cpu_app < 0)
		bench_skip(&b, "durable_pinned", "one CPU only");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]) && b.cpu_app >= 0; i++)
		bandwidth(&b, &shapes[i]);
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
		if (rates[i].layout == TARGET_CALLER || b.cpu_app >= 0)
			rate(&b, &rates[i]);
	return bench_end(&b);
}
