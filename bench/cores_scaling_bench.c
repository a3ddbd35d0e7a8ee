/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cores_scaling_bench.c - two cores against one. A poller on each core is producer and consumer at once: it appends messages to a log of
 * its core's own, by the calls that applications have; nothing is shared but the machine. What is reported is the factor, two cores' rate by
 * one core's, beside the factor of what bounds it, in the same pair of runs:
 *
 * scaling_memory: a log in memory, 100 B, appended one by one and read again. Limit: two threads that only calculate, against one. Where
 *   two processors are two threads of one, or a busy neighbour has the other half, that is below 2.
 * scaling_durable: a log on the device, 1 KiB, as many outstanding as it takes. Limit: two bare writers on the device, each as deep as
 *   a log, against one, with writes of the size that the log made. Where one core keeps the device busy that is near 1.
 *
 * No bars: the factor cannot be better than its limit, which is another one on each machine. The rates are lines of their own.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/log.h>
#include <thundermq/reactor.h>

#include "rig_disk.h"

#define SECOND 1000000000ull
#define CORES 2u
#define MIB (1ull << 20)
#define APART _Alignas(128) /* lines are fetched in pairs */
#define APPENDS 64          /* of an iteration */
#define INDEXES 4096u       /* more than batches can be in flight */
#define WRITE_DEPTH 8u      /* of a log, the default */
#define SMALL 100u
#define LARGE 1024u
#define SEGMENT_BYTES (64 * MIB)

/* A core's load, and what it has done so far. */
struct load {
	APART _Atomic uint64_t done; /* messages: read again, or durable */
	struct thmq_core *core;
	struct thmq_poller *poller;
	struct thmq_log *log;
	struct thmq_log_reader *reader; /* in memory only */
	uint64_t next;                  /* offset */
	uint64_t appended[INDEXES];     /* by batch: messages up to its end */
	char dir[4096];
	uint32_t len;
	bool on_disk;
};

static const char payload[LARGE];

static void check(const char *what, int rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, thmq_strerror(rc), thmq_errmsg());
	bench_die(what, EIO);
}

/* --------------------------------------------------------------------- load */

static bool append_one(struct load *l)
{
	struct thmq_record_view record = {.offset = l->next, .data = payload, .len = l->len};
	uint32_t run_len = thmq_run_len(&record, 1);
	struct thmq_run_header *run;
	uint64_t index;
	int rc = thmq_log_append(l->log, run_len, &run, &index);

	if (rc == -EAGAIN)
		return false;
	check("append", rc);
	check("encode", thmq_run_encode(run, run_len, 0, &record, 1));
	check("append",
	      thmq_log_append_end(l->log, run,
				  l->on_disk ? THMQ_DURABILITY_DURABLE : THMQ_DURABILITY_MEMORY));
	l->appended[index % INDEXES] = ++l->next;
	return true;
}

static void count_done(struct load *l, uint64_t messages)
{
	atomic_store_explicit(&l->done, messages, memory_order_relaxed);
}

static int load_poll(void *ctx, uint32_t budget)
{
	struct load *l = ctx;
	struct thmq_log_view view;
	int done = 0;

	(void)budget;
	while (done < APPENDS && append_one(l)) {
		done++;
		if (l->on_disk)
			continue;
		if (thmq_log_read(l->reader, UINT64_MAX, &view) != 1)
			bench_die("read", EIO);
		thmq_log_view_release(l->log, &view);
	}
	if (!l->on_disk)
		count_done(l, l->next);
	return done;
}

static void on_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct load *l = ctx;

	/* a batch without messages of ours has those of an older one in its place */
	if (durability == THMQ_DURABILITY_DURABLE &&
	    l->appended[index % INDEXES] > atomic_load_explicit(&l->done, memory_order_relaxed))
		count_done(l, l->appended[index % INDEXES]);
}

/* Nobody needs what was written: segments become the next ones. */
static int on_live(void *ctx, const struct thmq_log_extent *extent)
{
	(void)ctx;
	(void)extent;
	return THMQ_LOG_DEAD;
}

static int open_log(struct thmq_core *core, void *arg)
{
	static const struct thmq_log_events events = {
		.size = sizeof(events), .settled = on_settled, .live = on_live};
	struct load *l = arg;
	struct thmq_log_opts o;
	int rc;

	thmq_log_opts_init(&o);
	o.events = &events;
	o.ctx = l;
	if (l->on_disk) {
		o.dir = l->dir;
		o.segment_bytes_min = o.segment_bytes_max = SEGMENT_BYTES;
	}
	rc = thmq_log_open(core, &o, &l->log);
	if (rc == 0 && !l->on_disk)
		rc = thmq_log_reader_open(l->log, 0, NULL, NULL, &l->reader);
	return rc;
}

static int begin(struct thmq_core *core, void *arg)
{
	static const struct thmq_poller_ops ops = {.size = sizeof(ops), .poll = load_poll};
	struct load *l = arg;

	return thmq_poller_open(core, &ops, l, &l->poller);
}

static int end(struct thmq_core *core, void *arg)
{
	struct load *l = arg;

	(void)core;
	return thmq_poller_close(l->poller);
}

static int close_log(struct thmq_core *core, void *arg)
{
	struct load *l = arg;

	(void)core;
	thmq_log_reader_close(l->reader);
	return thmq_log_close(l->log, 10 * SECOND);
}

/* -------------------------------------------------------------------- cores */

struct fleet {
	struct thmq_env *env;
	unsigned count;
	struct load *loads;
};

static struct load *new_loads(void)
{
	size_t bytes = CORES * sizeof(struct load);
	struct load *l = aligned_alloc(128, bytes);

	if (!l)
		bench_die("loads", ENOMEM);
	memset(l, 0, bytes);
	return l;
}

static void open_fleet(struct fleet *f, struct bench *b, unsigned count, bool on_disk)
{
	struct thmq_env_opts o;
	char name[64];

	*f = (struct fleet){.count = count, .loads = new_loads()};
	thmq_env_opts_init(&o);
	o.core_count = count;
	o.flags = THMQ_ENV_FIRST_CPU;
	check("open environment", thmq_env_open(&f->env, &o));
	for (unsigned i = 0; i < count; i++) {
		struct load *l = &f->loads[i];

		l->core = thmq_env_core(f->env, i);
		l->on_disk = on_disk;
		l->len = on_disk ? LARGE : SMALL;
		snprintf(name, sizeof(name), "log-%u-of-%u", i, count);
		if (on_disk && bench_mkdir(b, name, l->dir, sizeof(l->dir)) != 0)
			bench_die(l->dir, EIO);
		check("open log", thmq_core_call(l->core, open_log, l, SECOND));
	}
}

static void close_fleet(struct fleet *f)
{
	for (unsigned i = 0; i < f->count; i++) {
		check("close log",
		      thmq_core_call(f->loads[i].core, close_log, &f->loads[i], SECOND));
		if (f->loads[i].on_disk)
			bench_rmdir(f->loads[i].dir);
	}
	check("close environment", thmq_env_close(f->env, SECOND));
	free(f->loads);
}

static uint64_t done_by(struct fleet *f)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < f->count; i++)
		done += atomic_load_explicit(&f->loads[i].done, memory_order_relaxed);
	return done;
}

/* Messages a second, in a window of a run that is under way. */
static double run_fleet(struct fleet *f, uint64_t ns)
{
	uint64_t t0, n;

	for (unsigned i = 0; i < f->count; i++)
		check("begin", thmq_core_call(f->loads[i].core, begin, &f->loads[i], SECOND));
	bench_sleep_ns(ns / 4);
	n = done_by(f);
	t0 = bench_now();
	/* on a machine that is busy with other things a short window may have nothing */
	do
		bench_sleep_ns(ns);
	while (done_by(f) == n && bench_now() - t0 < 10 * SECOND);
	n = done_by(f) - n;
	t0 = bench_now() - t0;
	for (unsigned i = 0; i < f->count; i++)
		check("end", thmq_core_call(f->loads[i].core, end, &f->loads[i], SECOND));
	return (double)n * 1e9 / (double)t0;
}

static uint32_t write_size(struct fleet *f)
{
	struct thmq_log_stats s = {.size = sizeof(s)};

	check("counters", thmq_log_stats(f->loads[0].log, &s));
	return s.batches ? (uint32_t)(s.stored_bytes / s.batches + 4095) / 4096 * 4096 : 4096;
}

/* ------------------------------------------------------------------- limits */

struct bare {
	struct bench *bench;
	pthread_barrier_t ready;
	pthread_mutex_t lock;
	int cpu[CORES];
	uint64_t ns;          /* calculators */
	uint32_t write_bytes; /* writers; 0: calculators */
	uint64_t bytes;
};

struct worker {
	APART struct bare *bare;
	unsigned index;
	pthread_t thread;
	double rate;
};

/* Turns of a loop that waits for nothing but itself and never leaves the registers. */
static double calculate(uint64_t ns)
{
	uint64_t turns = 0, x = 1, t0 = bench_now(), now;

	do {
		for (unsigned i = 0; i < 10000; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			__asm__ volatile("" : "+r"(x));
		}
		turns += 10000;
		now = bench_now();
	} while (now - t0 < ns);
	return (double)turns * 1e9 / (double)(now - t0);
}

static double write_bare(struct bare *b)
{
	struct rig_disk *d;
	double rate;

	pthread_mutex_lock(&b->lock); /* they have one name for a moment */
	d = rig_disk_open(b->bench->dir, SEGMENT_BYTES);
	pthread_mutex_unlock(&b->lock);
	pthread_barrier_wait(&b->ready);
	rate = rig_disk_stream(d, b->write_bytes, WRITE_DEPTH, b->bytes, true);
	pthread_barrier_wait(&b->ready);
	rig_disk_close(d);
	return rate;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	bench_pin(w->bare->cpu[w->index]);
	if (w->bare->write_bytes) {
		w->rate = write_bare(w->bare);
		return NULL;
	}
	pthread_barrier_wait(&w->bare->ready);
	w->rate = calculate(w->bare->ns);
	return NULL;
}

/* What @count threads do together. */
static double run_bare(struct bare *b, unsigned count)
{
	struct worker w[CORES];
	double rate = 0;

	pthread_barrier_init(&b->ready, NULL, count);
	for (unsigned i = 0; i < count; i++) {
		w[i] = (struct worker){.bare = b, .index = i};
		if (pthread_create(&w[i].thread, NULL, work, &w[i]) != 0)
			bench_die("thread", EAGAIN);
	}
	for (unsigned i = 0; i < count; i++) {
		pthread_join(w[i].thread, NULL);
		rate += w[i].rate;
	}
	pthread_barrier_destroy(&b->ready);
	return rate;
}

/* -------------------------------------------------------------------- pairs */

struct report {
	struct bench_line factor, one, two;
	char names[3][64];
};

static void begin_report(struct report *r, const char *what, const char *unit, const char *rival)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->names[0], sizeof(r->names[0]), "scaling_%s", what);
	snprintf(r->names[1], sizeof(r->names[1]), "%s_one_core", what);
	snprintf(r->names[2], sizeof(r->names[2]), "%s_two_cores", what);
	r->factor = (struct bench_line){
		.name = r->names[0], .unit = "x", .rival = rival, .measure = BENCH_RATIO};
	r->one = (struct bench_line){.name = r->names[1], .unit = unit, .measure = BENCH_VALUE};
	r->two = (struct bench_line){.name = r->names[2], .unit = unit, .measure = BENCH_VALUE};
}

static void end_report(struct bench *b, struct report *r)
{
	bench_report(b, &r->factor);
	bench_report(b, &r->one);
	bench_report(b, &r->two);
}

static void add(struct report *r, const double ours[CORES], const double bare[CORES], double unit)
{
	if (!(ours[0] > 0 && bare[0] > 0))
		bench_die("one core did nothing", EIO);
	bench_pairs_add(&r->factor.pairs, ours[1] / ours[0], bare[1] / bare[0]);
	bench_pairs_add(&r->one.pairs, ours[0] / unit, 0);
	bench_pairs_add(&r->two.pairs, ours[1] / unit, 0);
}

static void memory(struct bench *b, struct bare *bare)
{
	uint64_t ns = b->smoke ? 50000000 : 300000000;
	double ours[CORES], limit[CORES];
	struct report r;
	struct bench_line *lines[] = {&r.factor};

	begin_report(&r, "memory", "M/s", "two threads that calculate");
	if (!bench_wants(b, r.names[0]))
		return;
	bare->ns = ns;
	bare->write_bytes = 0;
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		/* one and two beside each other, in turns the one and the other first */
		for (unsigned i = 0; i < CORES; i++) {
			unsigned count = (i + round) % CORES + 1;
			struct fleet f;

			open_fleet(&f, b, count, false);
			ours[count - 1] = run_fleet(&f, ns);
			close_fleet(&f);
			limit[count - 1] = run_bare(bare, count);
		}
		add(&r, ours, limit, 1e6);
	}
	end_report(b, &r);
}

static void durable(struct bench *b, struct bare *bare)
{
	uint64_t ns = b->smoke ? 50000000 : 300000000;
	double ours[CORES], limit[CORES];
	struct fleet f[CORES];
	struct report r;
	struct bench_line *lines[] = {&r.factor};

	begin_report(&r, "durable", "MB/s", "two bare writers");
	if (!bench_wants(b, r.names[0]))
		return;
	bare->bytes = b->smoke ? MIB : 48 * MIB;
	/* they sleep while others run */
	for (unsigned i = 0; i < CORES; i++) {
		open_fleet(&f[i], b, i + 1, true);
		run_fleet(&f[i], ns); /* the first segment is behind us */
	}
	for (unsigned round = 0; bench_more(b, round, lines, 1); round++) {
		for (unsigned i = 0; i < CORES; i++) {
			unsigned count = (i + round) % CORES + 1;

			ours[count - 1] = run_fleet(&f[count - 1], ns) * LARGE;
			bare->write_bytes = write_size(&f[count - 1]);
			limit[count - 1] = run_bare(bare, count);
		}
		add(&r, ours, limit, 1e6);
	}
	for (unsigned i = 0; i < CORES; i++)
		close_fleet(&f[i]);
	end_report(b, &r);
}

/* Where cores are pinned: the first processors of those that we may use. */
static bool find_cpus(struct bare *b)
{
	unsigned found = 0;
	cpu_set_t set;

	sched_getaffinity(0, sizeof(set), &set);
	for (int i = 0; i < CPU_SETSIZE && found < CORES; i++)
		if (CPU_ISSET(i, &set))
			b->cpu[found++] = i;
	return found == CORES;
}

int main(int argc, char **argv)
{
	struct bench b;
	struct bare bare = {.bench = &b, .lock = PTHREAD_MUTEX_INITIALIZER};

	bench_init(&b, argc, argv, "cores");
	if (!find_cpus(&bare)) {
		bench_skip(&b, "scaling", "one CPU only");
		return bench_end(&b);
	}
	memory(&b, &bare);
	durable(&b, &bare);
	return bench_end(&b);
}
