/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_partitions_bench.c - 100,000 partitions (two topics of 50,000) in one shard: what they cost.
 *
 * Bars:
 *   throughput  durable messages, many outstanding, each sent to the partition after the last one's, so that none shares its
 *               run with its neighbour: at least 90 % of the messages a second of one partition, with 1 KiB and with 100 B.
 *               Spread by the library, which stays on a partition for a while: likewise. A message alone in its run is stored
 *               with a run's header: 217 bytes of the log for 100, where 122 do in long runs, and has an entry of its own in the segment's
 *               index, 48 bytes. A device that is the limit of one partition cannot store more than 122/265 as many then, and of
 *               1 KiB 1041/1185; so both are compared in stored bytes a second as well, without a bar, and the details, of the last pair,
 *               tell what the device was given for a message and how long the core was busy with it.
 *               A run takes some tenths of a second, in which segments become full, get their index, and the oldest ones go.
 *   memory      what the process grows by from before the topics are created, client and broker together: below 1 KiB a
 *               partition, with few segments and with many that each have nearly all partitions. Before it the log was used, so
 *               that buffers and caches have their size. Segments of 16 MiB, and a pause after one message to each
 *               partition, so that full ones have their index. Besides, with segments of the default size, of which the last
 *               one is large and has many runs of each partition, and without pauses.
 *   files       none for a partition: fewer in the directory than one for 100 partitions.
 *   --full      a million partitions (16 topics of 62,500): how long their creation takes, and below 1 KiB each.
 */
#include "target.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPICS_MAX 16u
#define WINDOW (1u << 19) /* messages on their way */
#define BURST (768 * MIB) /* stored, about: some tenths of a second, in which segments become full */
#define FILL_UP (3584 * MIB)

static const char payload[1024];

static void check(const char *what, int r)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(r), thmq_errmsg());
	exit(2);
}

/* ---------------------------------------------------------------- many topics */

struct wide {
	struct target t;
	struct thmq_producer *producers[TOPICS_MAX];
	uint32_t topics, each; /* partitions of each */
	char dir[4096];
};

/* @retention_bytes: of the one partition; 0: all is kept */
static void open_log(struct wide *w, struct bench *b, const char *name, uint64_t segment_bytes,
		     uint64_t retention_bytes)
{
	struct target_opts o = {.layout = TARGET_PINNED,
				.policy = THMQ_POLICY_DEFAULT,
				.durability = THMQ_DURABILITY_DURABLE,
				.segment_bytes = segment_bytes,
				.retention_bytes = retention_bytes,
				.window_bytes = 64 * MIB,
				.window_count = WINDOW};

	if (b->cpu_app < 0)
		o.layout = TARGET_CALLER;
	if (bench_mkdir(b, name, w->dir, sizeof(w->dir)) != 0)
		bench_die(w->dir, EIO);
	o.dir = w->dir;
	target_open(&w->t, b, &o);
}

/* @retention_bytes: of each partition; 0: all is kept */
static void create_topics(struct wide *w, uint32_t topics, uint32_t each, uint64_t retention_bytes)
{
	char name[32];

	w->topics = topics;
	w->each = each;
	for (uint32_t i = 0; i < topics; i++) {
		snprintf(name, sizeof(name), "wide-%u", i);
		check("create topic", thmq_topic_create(w->t.session, name,
							THMQ_TOPIC_OPTS(.partition_count = each,
								    .retention_bytes = retention_bytes)));
		check("open producer",
		      thmq_producer_open(w->t.session, name, NULL, &w->producers[i]));
	}
}

static void close_log(struct wide *w)
{
	target_close(&w->t);
	bench_rmdir(w->dir);
}

/* Message @number goes to the next topic, and there to the next partition; or to each topic 64 and where the library says. */
static void send_wide(struct wide *w, uint64_t number, uint32_t len, bool spread)
{
	struct thmq_producer *p = w->producers[(spread ? number / 64 : number) % w->topics];
	struct thmq_message_opts o = {.size = sizeof(o),
				      .flags = THMQ_MESSAGE_PARTITION,
				      .partition = (uint32_t)(number / w->topics % w->each)};
	int64_t seq;

	while ((seq = thmq_send(p, payload, len, spread ? NULL : &o)) == -EAGAIN) {
		thmq_watermark(p);
		target_pump(&w->t);
	}
	check("send", seq < 0 ? (int)seq : 0);
}

static void settle_wide(struct wide *w)
{
	for (uint32_t i = 0; i < w->topics; i++)
		check("flush", thmq_flush(w->producers[i], 60000000000u));
}

/* ------------------------------------------------------------------ throughput */

struct shape {
	const char *name;
	uint32_t len;
	bool spread;
	uint32_t stored; /* bytes of the log for a message, at most */
};

/*
 * Of a burst: millions of messages a second, and for each bytes of the log, with batch and run headers and padding, what the device
 * was given, with indexes, and how long the core was busy with it.
 */
struct pace {
	double rate, stored, written, core_ns;
};

static struct pace pace_of(struct wide *w, uint64_t count, uint64_t t0, struct target_counts before)
{
	double seconds = (double)(bench_now() - t0) / 1e9, n = (double)count;
	struct target_counts after = target_counts(&w->t);

	return (struct pace){.rate = n / seconds / 1e6,
			     .stored = (double)(after.stored_bytes - before.stored_bytes) / n,
			     .written = (double)(after.written_bytes - before.written_bytes) / n,
			     .core_ns = (double)(after.busy_ns - before.busy_ns) / n};
}

static struct pace one_burst(struct wide *w, const struct shape *s, uint64_t count)
{
	struct target_counts before = target_counts(&w->t);
	uint64_t t0 = bench_now();
	int64_t seq = 0;

	for (uint64_t i = 0; i < count; i++)
		seq = target_send(&w->t, payload, s->len);
	target_watch(&w->t, seq);
	return pace_of(w, count, t0, before);
}

static struct pace wide_burst(struct wide *w, const struct shape *s, uint64_t count,
			      uint64_t *number)
{
	struct target_counts before = target_counts(&w->t);
	uint64_t t0 = bench_now();

	for (uint64_t i = 0; i < count; i++)
		send_wide(w, (*number)++, s->len, s->spread);
	settle_wide(w);
	return pace_of(w, count, t0, before);
}

/* Messages of one partition, none of which shares its run with its neighbour: in turns they wait for different rungs. */
static void one_by_one(struct wide *w, uint64_t count)
{
	struct thmq_message_opts o = {.size = sizeof(o)};
	int64_t seq = 0;

	for (uint64_t i = 0; i < count; i++) {
		o.durability = i % 2 ? THMQ_DURABILITY_WRITTEN : THMQ_DURABILITY_DURABLE;
		while ((seq = thmq_send(w->t.producer, payload, 16, &o)) == -EAGAIN) {
			thmq_watermark(w->t.producer);
			target_pump(&w->t);
		}
		check("send", seq < 0 ? (int)seq : 0);
	}
	target_watch(&w->t, seq);
}

/*
 * Until the log is as long as it will be: then each segment's file becomes a later one, and what makes and indexes segments is a part of
 * what is measured, of both sides alike.
 */
static void fill_up(struct wide *w)
{
	uint64_t stored = target_counts(&w->t).stored_bytes;

	while (target_counts(&w->t).stored_bytes - stored < FILL_UP)
		one_burst(w, &(struct shape){.len = 1024}, 64 * MIB / 1024);
	target_settle(&w->t);
}

static void throughput(struct bench *b, struct wide *w, const struct shape *s)
{
	uint64_t count = b->smoke ? 4000 : BURST / s->stored, number = 0;
	struct bench_line l = {.name = s->name,
			       .unit = "M/s",
			       .rival = "one partition",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_LEAST,
			       .bar = 0.90};
	char name[64];
	struct bench_line stored = {
		.name = name, .unit = "MB/s", .rival = "one partition", .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&l};
	struct pace one = {0}, many = {0};

	snprintf(name, sizeof(name), "%s_stored", s->name);
	if (!bench_wants(b, l.name))
		return;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {

		for (unsigned k = 0; k < 2; k++) {
			if (!b->smoke)
				target_settle(&w->t);
			if ((round + k) % 2 == 0)
				one = one_burst(w, s, count);
			else
				many = wide_burst(w, s, count, &number);
		}
		bench_pairs_add(&l.pairs, many.rate, one.rate);
		bench_pairs_add(&stored.pairs, many.rate * many.stored, one.rate * one.stored);
	}
	snprintf(l.detail, sizeof(l.detail),
		 "\"stored_bytes\":%.0f,\"one_stored_bytes\":%.0f,\"ratio_of_stored_bytes\":%.3f,"
		 "\"written_bytes\":%.0f,\"one_written_bytes\":%.0f,\"core_ns\":%.0f,\"one_core_ns\":%.0f",
		 many.stored, one.stored, one.stored / many.stored, many.written, one.written, many.core_ns, one.core_ns);
	bench_report(b, &l);
	if (!s->spread)
		bench_report(b, &stored);
}

static void throughputs(struct bench *b)
{
	static const struct shape shapes[] = {
		{"partitions_100k_1KiB", 1024, false, 1160},
		{"partitions_100k_100B", 100, false, 240},
		{"partitions_100k_spread_100B", 100, true, 132},
	};
	struct wide w = {0};
	bool wanted = false;

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		wanted = wanted || bench_wants(b, shapes[i].name);
	if (!wanted)
		return;
	open_log(&w, b, "throughput", 0, 128 * MIB);
	create_topics(&w, 2, b->smoke ? 1000 : 50000, 2048);
	if (!b->smoke)
		fill_up(&w);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		throughput(b, &w, &shapes[i]);
	close_log(&w);
}

/* ---------------------------------------------------------------------- memory */

/* Once nothing is being made any more: an index takes its own bytes until it is written. */
static double memory_at_rest(struct wide *w)
{
	double was, is = bench_memory();
	unsigned i, same = 0;

	for (i = 0; i < 100 && same < 3; i++) {
		target_settle(&w->t);
		was = is;
		is = bench_memory();
		same = is == was ? same + 1 : 0;
	}
	return is;
}

static unsigned files_seen;

static int count_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path, (void)st, (void)ftw;
	files_seen += type == FTW_F;
	return 0;
}

static unsigned count_files(const char *dir)
{
	files_seen = 0;
	nftw(dir, count_file, 16, FTW_PHYS);
	return files_seen;
}

static void report_bytes(struct bench *b, const char *name, double bytes, double partitions,
			 unsigned files)
{
	struct bench_line l = {.name = name,
			       .unit = "B",
			       .measure = BENCH_VALUE,
			       .sense = BENCH_AT_MOST,
			       .bar = 1023};

	bench_pairs_add(&l.pairs, bytes / partitions, 0);
	snprintf(l.detail, sizeof(l.detail), "\"partitions\":%.0f,\"files\":%u", partitions, files);
	bench_report(b, &l);
}

/* One message to each partition, @passes times; @pause: until the disk is quiet, after each. */
static void use(struct wide *w, unsigned passes, bool pause, uint64_t *number)
{
	uint64_t count = (uint64_t)w->topics * w->each;

	for (; passes; passes--) {
		for (uint64_t i = 0; i < count; i++)
			send_wide(w, (*number)++, 16, false);
		settle_wide(w);
		if (pause || passes == 1)
			target_settle(&w->t);
	}
}

/* Return: the process's memory before there were partitions. */
static double open_wide(struct wide *w, struct bench *b, const char *name, uint64_t segment_bytes)
{
	double before;

	open_log(w, b, name, segment_bytes, 0);
	one_burst(w, &(struct shape){.len = 1024}, (b->smoke ? 16 : 192) * MIB / 1024);
	one_burst(w, &(struct shape){.len = 16},
		  b->smoke ? 1000 : 2 * WINDOW); /* a window's frames are the session's */
	one_by_one(w,
		   b->smoke
			   ? 1000
			   : WINDOW); /* as many batches on their way as runs of one message make */
	target_settle(&w->t);
	before = bench_memory();
	create_topics(w, 2, b->smoke ? 2000 : 50000, 0);
	return before;
}

static void memory(struct bench *b)
{
	struct bench_line files = {.name = "partitions_100k_files",
				   .unit = "files",
				   .measure = BENCH_VALUE,
				   .sense = BENCH_AT_MOST};
	double before, partitions;
	struct wide w = {0};
	uint64_t number = 0;

	if (!bench_wants(b, "partitions_100k_memory") && !bench_wants(b, files.name))
		return;
	before = open_wide(&w, b, "memory", b->smoke ? MIB : 16 * MIB);
	partitions = (double)w.topics * w.each;
	report_bytes(b, "partitions_100k_memory_created", bench_memory() - before, partitions,
		     count_files(w.dir));
	use(&w, 4, true, &number);
	report_bytes(b, "partitions_100k_memory_few", memory_at_rest(&w) - before, partitions,
		     count_files(w.dir));
	use(&w, b->smoke ? 8 : 44, true, &number);
	report_bytes(b, "partitions_100k_memory_many", memory_at_rest(&w) - before, partitions,
		     count_files(w.dir));
	files.bar = partitions / 100;
	bench_pairs_add(&files.pairs, count_files(w.dir), 0);
	bench_report(b, &files);
	close_log(&w);
}

static void memory_large(struct bench *b)
{
	struct wide w = {0};
	uint64_t number = 0;
	double before;

	if (!bench_wants(b, "partitions_100k_memory_large"))
		return;
	before = open_wide(&w, b, "memory-large", 0);
	use(&w, b->smoke ? 8 : 48, false, &number);
	report_bytes(b, "partitions_100k_memory_large", memory_at_rest(&w) - before,
		     (double)w.topics * w.each, count_files(w.dir));
	close_log(&w);
}

static void million(struct bench *b)
{
	struct bench_line l = {
		.name = "partitions_1M_created", .unit = "s", .measure = BENCH_VALUE};
	struct wide w = {0};
	double before;
	uint64_t t0;

	if (!b->full || !bench_wants(b, l.name))
		return;
	open_log(&w, b, "million", 0, 0);
	before = bench_memory();
	t0 = bench_now();
	create_topics(&w, 16, b->smoke ? 1000 : 62500, 0);
	bench_pairs_add(&l.pairs, (double)(bench_now() - t0) / 1e9, 0);
	bench_report(b, &l);
	report_bytes(b, "partitions_1M_memory", bench_memory() - before, (double)w.topics * w.each,
		     count_files(w.dir));
	close_log(&w);
}

int main(int argc, char **argv)
{
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	memory(&b); /* first: nothing that was freed before serves it */
	memory_large(&b);
	million(&b);
	throughputs(&b);
	return bench_end(&b);
}
