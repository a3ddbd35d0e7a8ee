/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - the frame of every benchmark: options, time, samples, pairs of runs and their verdict, lines of output.
 *
 * A number alone says nothing on a machine that others use too. So each benchmark measures its rival or its physical
 * limit beside itself, in turns, as pairs; what is judged is the median over the pairs with its 95 % interval. A bar
 * holds (ok) when the whole interval is on the good side, is missed (MISS) when the whole interval is on the bad side,
 * and is inconclusive in between, after as many pairs as the options allow.
 *
 * Knows nothing of the library under test: that is target.h. Knows nothing of devices: those are rig_*.h.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define BENCH_PAIRS_MAX 64u

struct bench {
	const char *part;   /* which part of the library: first word of every line */
	bool smoke;         /* --smoke: so short that it only shows that it works; no verdict */
	bool full;          /* --full: also what takes long */
	bool json;          /* --json: one object a line */
	bool verbose;       /* --verbose: every pair on standard error */
	const char *only;   /* --only WORD: the lines whose name contains it */
	char dir[3072];     /* a directory of our own on the file system under test */
	unsigned pairs_min; /* --pairs */
	unsigned pairs_max; /* --pairs-max: while a verdict is open */
	int cpu_core; /* where the library's core, or the bare device writer, runs; -1: not pinned */
	int cpu_app;  /* where the application's thread runs; -1: there is one CPU only */
	unsigned misses, unclear; /* verdicts given so far */
};

/* Options, working directory, CPUs, and an alarm that ends a program that hangs. Exits on a wrong option. */
void bench_init(struct bench *b, int argc, char **argv, const char *part);
/* Return: the exit status, 1 if a bar was missed. The working directory goes at exit. */
int bench_end(struct bench *b);
/* Is a line of this name wanted? */
bool bench_wants(const struct bench *b, const char *name);
/* "this cannot run here": one line, no verdict */
void bench_skip(const struct bench *b, const char *name, const char *why);
/* Something that must work failed: says so and exits with 2. */
void bench_die(const char *what, int error) __attribute__((noreturn, cold));

/* ---------------------------------------------------------------- time, CPUs */

static inline uint64_t bench_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void bench_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

uint64_t bench_cpu_ns(void); /* processor time of the whole process */
void bench_sleep_ns(uint64_t ns);
void bench_pin(int cpu); /* the calling thread; -1: nothing */
void bench_unpin(void);  /* all CPUs of the process again */
int bench_mkdir(struct bench *b, const char *name, char *ret_path, size_t size);
void bench_rmdir(const char *path); /* with all that is in it */
double bench_memory_of(pid_t pid); /* of another one's */
double bench_memory(void); /* bytes of this process, huge pages too, without what is mapped from files: proc(5) */

/*
 * The calling thread is about to spin, or has done so. A spinner that shares its CPU with the device's interrupt holds
 * up the kernel thread that finishes a flushed write until the scheduler's next tick: measured 4 ms instead of 0.1 on
 * Linux 6.18 (EEVDF, RUN_TO_PARITY, HZ 250). A long slice of its own lets any thread of a normal slice preempt it
 * (sched_setattr(2), sched_runtime of SCHED_OTHER, Linux 6.12; without effect before). Threads inherit it: end it
 * before the library makes any, lest the bench mend what the library should.
 */
void bench_spin_begin(void);
void bench_spin_end(void);

/* A thread that only spins, so that a bare run has the neighbour on the other CPU that ours has. */
struct bench_companion;
struct bench_companion *bench_companion_start(int cpu);
void bench_companion_stop(struct bench_companion *c);

/* ------------------------------------------------------------------- samples */

struct bench_samples {
	uint32_t *ns;
	size_t count, room;
	bool sorted;
};

void bench_samples_init(struct bench_samples *s,
			size_t room); /* memory is touched here, not in the run */
void bench_samples_fini(struct bench_samples *s);
static inline void bench_samples_clear(struct bench_samples *s)
{
	s->count = 0;
	s->sorted = false;
}
static inline void bench_samples_add(struct bench_samples *s, uint64_t ns)
{
	if (s->count < s->room)
		s->ns[s->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}
/* Exact: the smallest sample that at least @share of all do not exceed. 0 without samples. */
double bench_percentile(struct bench_samples *s, double share);

/* ------------------------------------------------------------ pairs, verdict */

/* One pair a round: what we measured and what the rival or limit did beside it. */
struct bench_pairs {
	double ours[BENCH_PAIRS_MAX], rival[BENCH_PAIRS_MAX];
	unsigned count;
};

static inline void bench_pairs_add(struct bench_pairs *p, double ours, double rival)
{
	if (p->count < BENCH_PAIRS_MAX) {
		p->ours[p->count] = ours;
		p->rival[p->count++] = rival;
	}
}

/* A median and its distribution-free 95 % interval (order statistics; Hahn & Meeker, Statistical Intervals, 5.2).
 * Below six values the interval is their range, which is less than 95 %. */
struct bench_interval {
	double mid, low, high;
};
struct bench_interval bench_median(const double *values, unsigned count);

/* What is held against the bar. */
enum bench_measure {
	BENCH_RATIO,      /* ours / rival */
	BENCH_DIFFERENCE, /* ours - rival, pair by pair, as a share of the rival */
	BENCH_VALUE       /* ours alone: the bar is in the line's unit */
};

enum bench_sense {
	BENCH_NO_BAR, /* reported, not judged */
	BENCH_AT_MOST,
	BENCH_AT_LEAST
};

enum bench_verdict { BENCH_OK, BENCH_MISS, BENCH_INCONCLUSIVE, BENCH_INFO };

struct bench_line {
	const char *name;
	const char *unit;  /* of the values */
	const char *rival; /* what rival values are of; NULL: none */
	struct bench_pairs pairs;
	enum bench_measure measure;
	enum bench_sense sense;
	double bar;
	char detail[768]; /* JSON members without braces, for --json; may be empty */
};

enum bench_verdict bench_judge(const struct bench_line *line);
/* Are more pairs wanted, to settle one of @lines? Call it before each round, with @round from 0. */
bool bench_more(const struct bench *b, unsigned round, struct bench_line *const *lines,
		unsigned count);
/* Print and count. */
void bench_report(struct bench *b, const struct bench_line *line);
/* Fill detail with the shape of a distribution in µs. */
void bench_detail(struct bench_line *line, const char *key, struct bench_samples *s);

#endif
