/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_read_bench.c - reading what lies on the device only, past the tail cache: O_DIRECT, no page cache helps.
 *
 * Limits and bars:
 *   backlog  one partition alone, 1 KiB messages, from the begin on: stored bytes a second at least 90 % of bare O_DIRECT
 *            reads of the size that the log read on average, as many in flight (1: the next window is read while one is
 *            looked at), of a file in the same directory. Beside the best that the device gives (4 x 1 MiB in flight),
 *            without a bar.
 *   lookup   a random offset of a random one of 1,000 partitions, in segments that have their index: at most 3 device reads,
 *            and p50 within 1.25 x three bare random reads of the same sizes, one after the other. The application's thread
 *            drives the core. The counters also have what the cleaner reads meanwhile, once a second, and nothing tells
 *            these apart: so the reads are those that nine of ten look-ups do not exceed.
 *   writers  one durable message of 100 B at a time, p99, while the same thread consumes the backlog of another topic as
 *            fast as it comes: at most 2 x the p99 without that. Beside it, without a bar: what the reader got, and what the device
 *            makes of a bare flushed write beside bare reads: of the same size and as many bytes a second as the log read, which
 *            is the physical limit, and one mebibyte after the other.
 */
#include "rig_disk.h"
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPIC "bench" /* target.c's */
#define MESSAGE 1024u
#define PARTITIONS 1000u
#define FETCH_MAX 64
#define PAGE 4096u
#define STORED                                                                                     \
	(MESSAGE +                                                                                 \
	 24u) /* bytes of the log that a message takes, at most, where many are in a run */
#define COLD_TAIL (32 * MIB)  /* the end of the log, which may be in memory */
#define WRITER_NS 2000000000u /* a run of single messages ends then, or with its count */

static const char payload[MESSAGE];

static void check(const char *what, int r)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(r), thmq_errmsg());
	exit(2);
}

static struct thmq_env_stats env_stats(struct target *t)
{
	struct thmq_env_stats e = {.size = sizeof(e)};

	check("environment counters", thmq_env_stats(t->env, &e));
	return e;
}

/* A session of its own that reads @topic, with @count messages of @bytes handed over at most. */
static struct thmq_consumer *open_reader(struct target *t, const char *topic, uint32_t start,
					 uint32_t count, uint64_t bytes,
					 struct thmq_session **ret_session)
{
	struct thmq_consumer_opts c;
	struct thmq_consumer *consumer;

	check("connect", thmq_connect(t->env, "inproc://", NULL, ret_session));
	thmq_consumer_opts_init(&c);
	c.start = start;
	c.prefetch_count = count;
	c.prefetch_bytes = bytes;
	check("open consumer", thmq_consumer_open(*ret_session, topic, NULL, &c, &consumer));
	return consumer;
}

/* Takes in what is there. Return: messages. */
static uint64_t take(struct thmq_consumer *c, uint64_t *bytes)
{
	struct thmq_message m[FETCH_MAX];
	int got = thmq_fetch(c, m, FETCH_MAX);

	check("fetch", got);
	for (int i = 0; i < got; i++)
		*bytes += m[i].len;
	if (got)
		check("release", thmq_release(c, m, (uint32_t)got));
	return (uint64_t)got;
}

/* ------------------------------------------------------------------ backlog */

static void store(struct target *t, uint64_t bytes)
{
	int64_t seq = 0;

	for (uint64_t i = 0; i < bytes / STORED; i++)
		seq = target_send(t, payload, MESSAGE);
	target_watch(t, seq);
	target_settle(t);
}

static void open_log(struct target *t, struct bench *b, const char *name, enum target_layout layout,
		     uint32_t policy, char *dir, size_t size)
{
	struct target_opts o = {.layout = layout,
				.policy = policy,
				.durability = THMQ_DURABILITY_DURABLE,
				.segment_bytes = b->smoke ? MIB : 64 * MIB,
				.window_bytes = 64 * MIB,
				.window_count = 1u << 17};

	if (bench_mkdir(b, name, dir, size) != 0)
		bench_die(dir, EIO);
	o.dir = dir;
	target_open(t, b, &o);
}

struct drained {
	double rate; /* stored bytes a second */
	uint32_t read_bytes;
};

/* Whole pages, as a bare reader reads them. */
static uint32_t mean_read(const struct thmq_env_stats *before, const struct thmq_env_stats *after)
{
	uint64_t mean = (after->read_bytes - before->read_bytes) / (after->reads - before->reads + 1);

	return mean ? (uint32_t)((mean + PAGE - 1) / PAGE * PAGE) : PAGE;
}

/* @bytes from the begin on. */
static struct drained drain(struct target *t, uint64_t bytes)
{
	struct thmq_session *session;
	struct thmq_consumer *c =
		open_reader(t, TOPIC, THMQ_START_END, 1u << 17, 16 * MIB, &session);
	struct thmq_env_stats before = env_stats(t), after;
	uint64_t wanted = bytes / STORED, got = 0, payload_bytes = 0, t0 = bench_now();
	struct drained d;

	check("seek", thmq_seek(c, 0, THMQ_START_BEGIN, 0));
	while (got < wanted) {
		uint64_t n = take(c, &payload_bytes);

		got += n;
		if (!n)
			target_pump(t);
	}
	d.rate = (double)(got * STORED) / ((double)(bench_now() - t0) / 1e9);
	after = env_stats(t);
	d.read_bytes = mean_read(&before, &after);
	check("close session", thmq_session_close(session, 10000000000u));
	return d;
}

static void backlog(struct bench *b, struct rig_disk *d, uint64_t file_bytes)
{
	uint64_t volume = file_bytes - COLD_TAIL;
	struct bench_line l = {.name = "backlog_1KiB",
			       .unit = "MB/s",
			       .rival = "bare reads, same size and depth",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_LEAST,
			       .bar = 0.90};
	struct bench_line best = {.name = "backlog_1KiB_best",
				  .unit = "MB/s",
				  .rival = "bare reads, 1 MiB x 4",
				  .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&l};
	struct drained r = {.read_bytes = 1u << 20};
	struct target t;
	char dir[4096];

	if (!bench_wants(b, l.name))
		return;
	open_log(&t, b, "backlog", TARGET_PINNED, THMQ_POLICY_DEFAULT, dir, sizeof(dir));
	store(&t, file_bytes);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double bare = 0, most;

		if (round % 2)
			bare = rig_disk_read_stream(d, r.read_bytes, 1, volume);
		most = rig_disk_read_stream(d, 1u << 20, 4, volume);
		r = drain(&t, volume);
		if (bare == 0)
			bare = rig_disk_read_stream(d, r.read_bytes, 1, volume);
		bench_pairs_add(&l.pairs, r.rate / 1e6, bare / 1e6);
		bench_pairs_add(&best.pairs, r.rate / 1e6, most / 1e6);
	}
	snprintf(l.detail, sizeof(l.detail), "\"read_bytes\":%u,\"volume\":%llu", r.read_bytes,
		 (unsigned long long)volume);
	target_close(&t);
	bench_rmdir(dir);
	bench_report(b, &l);
	bench_report(b, &best);
}

/* ------------------------------------------------------------------- lookup */

struct lookups {
	struct target t;
	struct thmq_session *session;
	struct thmq_consumer *consumer;
	uint64_t offsets; /* of each partition, that are looked up */
	uint64_t random;
	uint64_t reads, read_bytes, count;
	struct bench_samples each; /* reads of each look-up */
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13; /* xorshift64 (Marsaglia 2003) */
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Messages of many partitions, and no end in memory: what is sent last fills the cache. */
static void lookups_store(struct lookups *k, uint64_t bytes)
{
	struct thmq_producer *p;
	uint64_t count = bytes / (MESSAGE + 128), i;
	int64_t seq = 0;

	check("create topic", thmq_topic_create(k->session, "wide",
						THMQ_TOPIC_OPTS(.partition_count = PARTITIONS)));
	check("open producer", thmq_producer_open(k->session, "wide", NULL, &p));
	for (i = 0; i < count; i++)
		while ((seq = thmq_send(
				p, payload, MESSAGE,
				THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION,
						  .partition = (uint32_t)(i % PARTITIONS)))) ==
		       -EAGAIN)
			thmq_poll(k->t.env, 1000000);
	check("send", seq < 0 ? (int)seq : 0);
	check("flush", thmq_flush(p, 60000000000u));
	k->offsets = count / PARTITIONS;
	/* these are in a segment that has its index once a further one is being filled */
	store(&k->t, bytes / 4 + COLD_TAIL + 2 * k->t.opts.segment_bytes);
}

/* One message, and then the reader is sent to the end, so that it reads no further. */
static void lookup(struct lookups *k, struct bench_samples *ret)
{
	uint32_t partition = (uint32_t)(next_random(&k->random) % PARTITIONS);
	uint64_t offset = next_random(&k->random) % k->offsets, t0;
	struct thmq_env_stats before = env_stats(&k->t), after;
	struct thmq_message m;
	int got;

	t0 = bench_now();
	check("seek", thmq_seek(k->consumer, partition, THMQ_START_OFFSET, offset));
	while ((got = thmq_fetch(k->consumer, &m, 1)) == 0)
		thmq_poll(k->t.env, 0);
	bench_samples_add(ret, bench_now() - t0);
	check("fetch", got);
	after = env_stats(&k->t);
	if (m.offset != offset || m.partition != partition)
		bench_die("look-up: another message came", EIO);
	k->reads += after.reads - before.reads;
	k->read_bytes += after.read_bytes - before.read_bytes;
	k->count++;
	bench_samples_add(&k->each, after.reads - before.reads);
	check("seek", thmq_seek(k->consumer, partition, THMQ_START_END, 0));
	check("release", thmq_release(k->consumer, &m, 1));
}

/* Three reads: two pages of an index, and the window with the message as large as the log read it on average. */
static void bare_sizes(const struct lookups *k, uint32_t lens[3])
{
	uint64_t rest = k->count ? k->read_bytes / k->count : 0;

	lens[0] = lens[1] = PAGE;
	rest = rest > 3 * PAGE ? rest - 2 * PAGE : PAGE;
	lens[2] = (uint32_t)((rest + PAGE - 1) / PAGE * PAGE);
}

static void lookup_lines(struct bench *b, struct rig_disk *d, struct lookups *k)
{
	unsigned count = b->smoke ? 20 : 400;
	struct bench_line reads = {.name = "lookup_offset_reads",
				   .unit = "reads",
				   .measure = BENCH_VALUE,
				   .sense = BENCH_AT_MOST,
				   .bar = 3};
	struct bench_line p50 = {.name = "lookup_offset_p50",
				 .unit = "us",
				 .rival = "3 bare random reads",
				 .measure = BENCH_RATIO,
				 .sense = BENCH_AT_MOST,
				 .bar = 1.25};
	struct bench_line p99 = {.name = "lookup_offset_p99",
				 .unit = "us",
				 .rival = "3 bare random reads",
				 .measure = BENCH_RATIO};
	struct bench_line *lines[] = {&reads, &p50};
	struct bench_samples ours, bare;
	uint32_t lens[3];

	bench_samples_init(&ours, count);
	bench_samples_init(&bare, count);
	bench_samples_init(&k->each, count);
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++) {
		bench_samples_clear(&ours);
		bench_samples_clear(&bare);
		bench_samples_clear(&k->each);
		k->reads = k->read_bytes = k->count = 0;
		for (unsigned i = 0; i < count; i++) {
			lookup(k, &ours);
			bare_sizes(k, lens);
			rig_disk_read_random(d, lens, 3, 1, &bare);
		}
		bench_pairs_add(&reads.pairs, bench_percentile(&k->each, 0.9), 0);
		bench_pairs_add(&p50.pairs, bench_percentile(&ours, 0.5) / 1e3,
				bench_percentile(&bare, 0.5) / 1e3);
		bench_pairs_add(&p99.pairs, bench_percentile(&ours, 0.99) / 1e3,
				bench_percentile(&bare, 0.99) / 1e3);
	}
	snprintf(reads.detail, sizeof(reads.detail),
		 "\"reads_mean\":%.3f,\"reads_max\":%.0f,\"read_bytes_mean\":%.0f",
		 (double)k->reads / (double)k->count, bench_percentile(&k->each, 1),
		 (double)k->read_bytes / (double)k->count);
	bench_detail(&p50, "ours_us", &ours);
	bench_detail(&p50, "bare_us", &bare);
	bench_report(b, &reads);
	bench_report(b, &p50);
	bench_report(b, &p99);
	bench_samples_fini(&ours);
	bench_samples_fini(&bare);
	bench_samples_fini(&k->each);
}

static void lookups(struct bench *b, struct rig_disk *d)
{
	struct lookups k = {.random = 0x9e3779b97f4a7c15};
	char dir[4096];

	if (!bench_wants(b, "lookup_offset"))
		return;
	open_log(&k.t, b, "lookup", TARGET_CALLER, THMQ_POLICY_POLL, dir, sizeof(dir));
	check("connect", thmq_connect(k.t.env, "inproc://",
				      THMQ_SESSION_OPTS(.window_bytes = 16 * MIB), &k.session));
	lookups_store(&k, b->smoke ? 4 * MIB : 400 * MIB);
	check("close session", thmq_session_close(k.session, 10000000000u));
	k.consumer = open_reader(&k.t, "wide", THMQ_START_END, 1, 1, &k.session);
	lookup_lines(b, d, &k);
	target_close(&k.t);
	bench_rmdir(dir);
}

/* ------------------------------------------------------------------ writers */

/* One durable message after the other; between and beside them @reader, if any, takes in what has come. */
static double writer_p99(struct target *t, struct thmq_producer *p, struct thmq_consumer *reader,
			 unsigned count, struct bench_samples *s, uint64_t *bytes)
{
	uint64_t since = 0, volume = 0, begin = bench_now();

	bench_samples_clear(s);
	for (unsigned i = 0; i < count && bench_now() - begin < WRITER_NS; i++) {
		uint64_t t0 = bench_now();
		int64_t seq;

		while ((seq = thmq_send(p, payload, 100, NULL)) == -EAGAIN)
			target_pump(t);
		check("send", seq < 0 ? (int)seq : 0);
		while (thmq_watermark(p) < seq)
			if (!reader || !take(reader, &volume))
				target_pump(t);
		bench_samples_add(s, bench_now() - t0);
		if (reader && volume - since > *bytes - COLD_TAIL) { /* from the begin again */
			check("seek", thmq_seek(reader, 0, THMQ_START_BEGIN, 0));
			since = volume;
		}
	}
	if (reader)
		*bytes = volume;
	return bench_percentile(s, 0.99) / 1e3;
}

struct beside {
	struct target t;
	struct thmq_producer *writer;
	struct thmq_session *session;
	struct bench_samples samples;
	uint64_t backlog; /* bytes of payload */
	unsigned count;
	double read_rate; /* that the application saw, MB/s of payload */
	struct rig_reads reads[BENCH_PAIRS_MAX]; /* as they were in each round */
};

/* With a reader that begins with the backlog, and ends with it. *@ret_reads: as the log read. */
static double with_reader(struct beside *x, struct rig_reads *ret_reads)
{
	struct thmq_session *session;
	struct thmq_consumer *c =
		open_reader(&x->t, TOPIC, THMQ_START_BEGIN, 1u << 17, 16 * MIB, &session);
	struct thmq_env_stats before = env_stats(&x->t), after;
	uint64_t bytes = x->backlog, t0 = bench_now();
	double p99 = writer_p99(&x->t, x->writer, c, x->count, &x->samples, &bytes);
	double seconds = (double)(bench_now() - t0) / 1e9;

	after = env_stats(&x->t);
	x->read_rate = (double)bytes / seconds / 1e6;
	*ret_reads = (struct rig_reads){
		.bytes = mean_read(&before, &after),
		.depth = 1,
		.bytes_per_s = (uint64_t)((double)(after.read_bytes - before.read_bytes) / seconds)};
	check("close session", thmq_session_close(session, 10000000000u));
	return p99;
}

static double without_reader(struct beside *x)
{
	uint64_t none = 0;

	return writer_p99(&x->t, x->writer, NULL, x->count, &x->samples, &none);
}

/* One that runs on the core's CPU, with a thread that spins on the other one, as the application's does. */
static double bare_p99(struct bench *b, struct rig_disk *d, struct beside *x, struct rig_reads r)
{
	struct bench_companion *app;

	bench_samples_clear(&x->samples);
	bench_pin(b->cpu_core);
	app = bench_companion_start(b->cpu_app);
	rig_disk_latency_beside(d, &r, x->count, &x->samples);
	bench_companion_stop(app);
	return bench_percentile(&x->samples, 0.99) / 1e3;
}

/* What the device makes of a write: alone, beside reads as the log did them, and beside as many as it gives. */
static void bare_lines(struct bench *b, struct rig_disk *d, struct beside *x, const struct bench_line *ours)
{
	const struct rig_reads none = {.bytes = PAGE}, most = {.bytes = 1u << 20, .depth = 1};
	struct bench_line same = {.name = "device_beside_same_reads_p99",
				  .unit = "us",
				  .rival = "without the reads",
				  .measure = BENCH_RATIO};
	struct bench_line most_line = {.name = "device_beside_reads_p99",
				       .unit = "us",
				       .rival = "without the reads",
				       .measure = BENCH_RATIO};
	struct bench_line limit = {.name = "writers_beside_reader_limit_p99",
				   .unit = "us",
				   .rival = "bare write beside bare reads",
				   .measure = BENCH_RATIO};

	for (unsigned round = 0; round < ours->pairs.count; round++) {
		double alone = bare_p99(b, d, x, none), beside = bare_p99(b, d, x, x->reads[round]);

		bench_pairs_add(&same.pairs, beside, alone);
		bench_pairs_add(&most_line.pairs, bare_p99(b, d, x, most), alone);
		bench_pairs_add(&limit.pairs, ours->pairs.ours[round], beside);
	}
	bench_report(b, &limit);
	bench_report(b, &same);
	bench_report(b, &most_line);
}

static void writers(struct bench *b, struct rig_disk *d, uint64_t file_bytes)
{
	struct bench_line l = {.name = "writers_beside_reader_p99",
			       .unit = "us",
			       .rival = "without the reader",
			       .measure = BENCH_RATIO,
			       .sense = BENCH_AT_MOST,
			       .bar = 2};
	struct bench_line rate = {
		.name = "reader_beside_writers", .unit = "MB/s", .measure = BENCH_VALUE};
	struct bench_line *lines[] = {&l};
	struct beside x = {.count = b->smoke ? 50 : 1500};
	char dir[4096];

	if (!bench_wants(b, l.name))
		return;
	open_log(&x.t, b, "beside", TARGET_PINNED, THMQ_POLICY_POLL, dir, sizeof(dir));
	store(&x.t, file_bytes);
	x.backlog = file_bytes / STORED * MESSAGE;
	check("connect", thmq_connect(x.t.env, "inproc://", NULL, &x.session));
	check("create topic", thmq_topic_create(x.session, "writer", NULL));
	check("open producer", thmq_producer_open(x.session, "writer", NULL, &x.writer));
	bench_samples_init(&x.samples, x.count);
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		double alone = 0, beside;

		if (round % 2)
			alone = without_reader(&x);
		beside = with_reader(&x, &x.reads[round % BENCH_PAIRS_MAX]);
		if (alone == 0)
			alone = without_reader(&x);
		bench_pairs_add(&l.pairs, beside, alone);
		bench_pairs_add(&rate.pairs, x.read_rate, 0);
	}
	snprintf(l.detail, sizeof(l.detail), "\"read_bytes\":%u,\"reads_MB_per_s\":%.0f", x.reads[0].bytes,
		 (double)x.reads[0].bytes_per_s / 1e6);
	target_close(&x.t);
	bench_report(b, &l);
	bench_report(b, &rate);
	bare_lines(b, d, &x, &l);
	bench_unpin();
	bench_samples_fini(&x.samples);
	bench_rmdir(dir);
}

int main(int argc, char **argv)
{
	uint64_t file_bytes;
	struct rig_disk *d;
	struct bench b;

	bench_init(&b, argc, argv, "commitlog");
	file_bytes = (b.smoke ? 48 : 640) * MIB;
	d = rig_disk_open(b.dir, file_bytes);
	rig_disk_fill(d);
	if (b.cpu_app >= 0)
		backlog(&b, d, file_bytes);
	else
		bench_skip(&b, "backlog_1KiB", "one CPU only");
	lookups(&b, d);
	if (b.cpu_app >= 0)
		writers(&b, d, file_bytes);
	else
		bench_skip(&b, "writers_beside_reader_p99", "one CPU only");
	rig_disk_close(d);
	return bench_end(&b);
}
