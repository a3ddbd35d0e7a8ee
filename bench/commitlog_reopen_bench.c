/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_reopen_bench.c - how long after SIGKILL, with 100 GiB retained, until the first message is durable again: from
 * the call that opens the environment to the flush that says so.
 *
 * The writer is a process of its own that is killed in the midst of its work. What it is killed on is a log whose full segments
 * are hollow (rig_hollow.h): an open takes these from their index files, which are whole, as large as messages of 16 KiB in 1,000
 * partitions make them, and looks at one batch header of each. The segment in which the log ends has all of its bytes, and
 * so has the one that is made ahead. All is read through O_DIRECT.
 *
 * Bars: below 1 s, with 32 MiB in the last segment, and with all of it but 64 MiB: what recovery reads back is the last
 * segment.
 */
#include "rig_hollow.h"
#include "target.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thundermq/log.h>

#define TOPIC "bench"
#define PARTITIONS 1000u
#define RUN_BYTES 16384u
#define LITTLE (32 * MIB)
#define LEFT (64 * MIB)
#define SECOND 1000000000ull
#define ROUNDS_MAX 6u

struct place {
	char dir[4096], shard[4200];
	uint64_t bytes;            /* of the log, about */
	uint64_t segment_bytes;    /* of the broker's options; 0: the default */
	uint64_t last_bytes, used; /* of the segment in which it ends, and how much it has */
};

static const char payload[1024];

static void check(const char *what, int r)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(r), thmq_errmsg());
	_exit(2);
}

/* ------------------------------------------------------------------ handles */

struct opened {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
};

static void open_all(struct opened *x, const struct place *p)
{
	check("open environment", thmq_env_open(&x->env, NULL));
	check("open broker", thmq_broker_open(x->env,
					      THMQ_BROKER_OPTS(.data_dir = p->dir,
							       .segment_bytes = p->segment_bytes),
					      &x->broker));
	check("connect", thmq_connect(x->env, "inproc://",
				      THMQ_SESSION_OPTS(.window_bytes = 16 * MIB), &x->session));
	check("create topic", thmq_topic_create(x->session, TOPIC,
						THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT,
								.partition_count = PARTITIONS)));
	check("open producer", thmq_producer_open(x->session, TOPIC, NULL, &x->producer));
}

static void send_one(struct opened *x, uint32_t len)
{
	int64_t seq;

	while ((seq = thmq_send(x->producer, payload, len, NULL)) == -EAGAIN)
		thmq_poll(x->env, 1000000);
	check("send", seq < 0 ? (int)seq : 0);
}

static uint64_t stored(struct opened *x)
{
	struct thmq_broker_stats s = {.size = sizeof(s)};

	check("counters", thmq_broker_stats(x->broker, &s));
	return s.stored_bytes;
}

/* ----------------------------------------------------------------- children */

static pid_t begin_child(int fd[2])
{
	pid_t pid;

	if (pipe(fd) != 0)
		bench_die("pipe", errno);
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bench_die("fork", errno);
	close(fd[pid == 0 ? 0 : 1]);
	return pid;
}

static void child_says(int fd, const uint64_t words[2])
{
	if (write(fd, words, 16) != 16)
		_exit(2);
}

static void child_said(int fd, uint64_t words[2])
{
	if (read(fd, words, 16) != 16)
		bench_die("reopen: the child failed", EIO);
}

static int note_partition(void *ctx, const struct thmq_log_run *run)
{
	uint32_t *partition = ctx;

	if (run->header->encoding == THMQ_RUN_RECORDS)
		*partition = run->header->partition;
	return 0;
}

/* A directory as a broker makes it, with one message in the first partition; then its log becomes as large as it is wanted. */
static void build(const struct place *p, int fd)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .run = note_partition};
	struct rig_hollow_opts o = {.dir = p->shard,
				    .bytes = p->bytes,
				    .partitions = PARTITIONS,
				    .run_bytes = RUN_BYTES};
	uint64_t words[2];
	struct opened x;

	open_all(&x, p);
	if (thmq_send(x.producer, payload, 1,
		      THMQ_MESSAGE_OPTS(.flags = THMQ_MESSAGE_PARTITION, .partition = 0)) < 1)
		check("send", -EIO);
	check("flush", thmq_flush(x.producer, 10 * SECOND));
	check("close", thmq_env_close(x.env, 10 * SECOND));
	check("scan", thmq_log_scan(p->shard, &visitor, &o.first_partition));
	o.next_offset = 1;
	words[0] = rig_hollow_extend(&o, &words[1]);
	child_says(fd, words);
	_exit(0);
}

/* Stores @bytes, says so, and goes on with single messages until it is killed. */
static void write_on(const struct place *p, uint64_t bytes, uint64_t settle_ns, int fd)
{
	uint64_t words[2] = {0}, t0;
	struct opened x;

	open_all(&x, p);
	while (stored(&x) < bytes)
		for (unsigned i = 0; i < 1024; i++)
			send_one(&x, sizeof(payload));
	check("flush", thmq_flush(x.producer, 60 * SECOND));
	for (t0 = bench_now();
	     bench_now() - t0 <
	     settle_ns;) /* the index of the segment before, the zeros of the one behind */
		thmq_poll(x.env, 10000000);
	words[0] = stored(&x);
	child_says(fd, words);
	for (;;)
		send_one(&x, sizeof(payload)); /* not waited for: something is always in flight */
}

static void kill_writer(struct bench *b, struct place *p, uint64_t bytes)
{
	uint64_t words[2];
	int fd[2];
	pid_t pid = begin_child(fd);

	if (pid == 0)
		write_on(p, bytes, b->smoke ? 50000000 : 1500000000, fd[1]);
	child_said(fd[0], words);
	bench_sleep_ns(1000000);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(fd[0]);
	p->used = (p->used + words[0]) % p->last_bytes; /* but for some batches */
}

/* ------------------------------------------------------------------ measure */

struct reopened {
	double ms, recovery_ms;
	uint64_t torn, recovered, read_bytes;
};

/* From the device, by this process: proc(5). 0: not to be had. */
static uint64_t device_reads(void)
{
	unsigned long long bytes = 0;
	char line[128];
	FILE *f = fopen("/proc/self/io", "re");

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "read_bytes: %llu", &bytes);
	if (f)
		fclose(f);
	return bytes;
}

static struct reopened reopen(struct place *p)
{
	struct thmq_broker_stats s = {.size = sizeof(s)};
	uint64_t before = device_reads(), t0 = bench_now();
	struct reopened r;
	struct opened x;

	open_all(&x, p);
	send_one(&x, 100);
	check("flush", thmq_flush(x.producer, 60 * SECOND));
	r.ms = (double)(bench_now() - t0) / 1e6;
	r.read_bytes = device_reads() - before;
	check("counters", thmq_broker_stats(x.broker, &s));
	r.recovery_ms = (double)s.recovery_ns / 1e6;
	r.recovered = s.recovered_messages;
	r.torn = s.torn_bytes;
	check("close", thmq_env_close(x.env, 60 * SECOND));
	return r;
}

/* Bytes to be written so that the last segment has @used. */
static uint64_t bytes_until(const struct place *p, uint64_t used)
{
	return used > p->used ? used - p->used : p->last_bytes - p->used + used;
}

static void detail(struct bench_line *l, const struct place *p, const struct reopened *r)
{
	snprintf(l->detail, sizeof(l->detail),
		 "\"log_bytes\":%llu,\"full_segments\":\"hollow\",\"last_segment_bytes\":%llu,"
		 "\"recovery_ms\":%.1f,"
		 "\"read_bytes\":%llu,\"recovered_messages\":%llu,\"torn_bytes\":%llu",
		 (unsigned long long)p->bytes, (unsigned long long)p->last_bytes, r->recovery_ms,
		 (unsigned long long)r->read_bytes, (unsigned long long)r->recovered,
		 (unsigned long long)r->torn);
}

static void measure(struct bench *b, struct place *p)
{
	struct bench_line little = {.name = "reopen_killed_100GiB",
				    .unit = "ms",
				    .measure = BENCH_VALUE,
				    .sense = BENCH_AT_MOST,
				    .bar = 1000};
	struct bench_line full = little;
	struct bench_line *lines[] = {&little, &full};
	uint64_t few = b->smoke ? p->last_bytes / 8 : LITTLE;
	uint64_t left = b->smoke ? p->last_bytes / 8 : LEFT;
	struct reopened a = {0}, z = {0};

	full.name = "reopen_killed_100GiB_full_tail";
	for (unsigned round = 0; bench_more(b, round, lines, 2); round++) {
		kill_writer(b, p, bytes_until(p, few));
		a = reopen(p);
		bench_pairs_add(&little.pairs, a.ms, 0);
		kill_writer(b, p, bytes_until(p, p->last_bytes - left));
		z = reopen(p);
		bench_pairs_add(&full.pairs, z.ms, 0);
	}
	detail(&little, p, &a);
	detail(&full, p, &z);
	bench_report(b, &little);
	bench_report(b, &full);
}

int main(int argc, char **argv)
{
	struct place p = {0};
	uint64_t words[2];
	struct bench b;
	int fd[2];
	pid_t pid;

	bench_init(&b, argc, argv, "commitlog");
	if (!bench_wants(&b, "reopen_killed_100GiB"))
		return bench_end(&b);
	if (b.pairs_max > ROUNDS_MAX) /* each writes some GiB */
		b.pairs_max = ROUNDS_MAX;
	if (b.pairs_min > b.pairs_max)
		b.pairs_min = b.pairs_max;
	if (bench_mkdir(&b, "reopen", p.dir, sizeof(p.dir)) != 0)
		bench_die(b.dir, EIO);
	snprintf(p.shard, sizeof(p.shard), "%s/shard-000", p.dir);
	p.bytes = b.smoke ? 48 * MIB : 100 * 1024 * MIB;
	p.segment_bytes = b.smoke ? 4 * MIB : 0;
	pid = begin_child(fd);
	if (pid == 0)
		build(&p, fd[1]);
	child_said(fd[0], words);
	close(fd[0]);
	waitpid(pid, NULL, 0);
	p.last_bytes = words[0];
	p.used = words[1];
	measure(&b, &p);
	return bench_end(&b);
}
