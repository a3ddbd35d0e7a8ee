/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c - the frame of every benchmark: options, time, CPUs, samples. Pairs and verdicts are in verdict.c.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BENCH_LIMIT_SECONDS 600 /* a bench that hangs is ended by SIGALRM */

static cpu_set_t cpus_at_start;
static char own_dir[sizeof(((struct bench *)0)->dir)]; /* removed at exit, however it comes */

static void remove_own_dir(void)
{
	if (own_dir[0])
		bench_rmdir(own_dir);
}

void bench_die(const char *what, int error)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(2);
}

/* ---------------------------------------------------------------- time, CPUs */

uint64_t bench_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void bench_sleep_ns(uint64_t ns)
{
	struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	while (nanosleep(&t, &t) != 0 && errno == EINTR)
		;
}

void bench_pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

void bench_unpin(void)
{
	sched_setaffinity(0, sizeof(cpus_at_start), &cpus_at_start);
}

/* Linux 6.12's struct sched_attr, first version: glibc has none */
struct bench_sched_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/* Whoever runs a bench under another policy (chrt -f) keeps it. */
static void set_slice(uint64_t ns)
{
	struct bench_sched_attr a = {
		.size = sizeof(a), .nice = getpriority(PRIO_PROCESS, 0), .runtime = ns};

	if (sched_getscheduler(0) == SCHED_OTHER)
		syscall(SYS_sched_setattr, 0, &a, 0); /* older kernels ignore the slice */
}

void bench_spin_begin(void)
{
	set_slice(100000000); /* the largest that is taken */
}

void bench_spin_end(void)
{
	set_slice(0);
}

/* The core takes the first allowed CPU, the application the last one: on larger machines they share no sibling. */
static void choose_cpus(struct bench *b)
{
	int first = -1, last = -1;

	CPU_ZERO(&cpus_at_start);
	sched_getaffinity(0, sizeof(cpus_at_start), &cpus_at_start);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &cpus_at_start))
			continue;
		if (first < 0)
			first = i;
		last = i;
	}
	b->cpu_core = first;
	b->cpu_app = last != first ? last : -1;
}

struct bench_companion {
	pthread_t thread;
	int cpu;
	_Atomic bool stop;
};

static void *companion_main(void *arg)
{
	struct bench_companion *c = arg;

	bench_pin(c->cpu);
	bench_spin_begin();
	while (!atomic_load_explicit(&c->stop, memory_order_relaxed))
		bench_relax();
	return NULL;
}

struct bench_companion *bench_companion_start(int cpu)
{
	struct bench_companion *c = calloc(1, sizeof(*c));

	if (!c)
		bench_die("companion", ENOMEM);
	c->cpu = cpu;
	if (pthread_create(&c->thread, NULL, companion_main, c) != 0)
		bench_die("companion thread", EAGAIN);
	return c;
}

void bench_companion_stop(struct bench_companion *c)
{
	if (!c)
		return;
	atomic_store(&c->stop, true);
	pthread_join(c->thread, NULL);
	free(c);
}

/* --------------------------------------------------------------- directories */

int bench_mkdir(struct bench *b, const char *name, char *ret_path, size_t size)
{
	if ((size_t)snprintf(ret_path, size, "%s/%s", b->dir, name) >= size)
		return -ENAMETOOLONG;
	return mkdir(ret_path, 0777) == 0 || errno == EEXIST ? 0 : -errno;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

void bench_rmdir(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ------------------------------------------------------------- begin and end */

static void usage(const char *program)
{
	fprintf(stderr,
		"usage: %s [--smoke] [--full] [--json] [--verbose] [--only WORD] [--dir DIR] [--pairs N] "
		"[--pairs-max N]\n",
		program);
	exit(2);
}

static unsigned parse_count(const char *text, const char *program)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || n < 1 || n > BENCH_PAIRS_MAX)
		usage(program);
	return (unsigned)n;
}

static void parse(struct bench *b, int argc, char **argv, const char **ret_dir)
{
	static const struct option options[] = {{"smoke", no_argument, NULL, 's'},
						{"full", no_argument, NULL, 'f'},
						{"json", no_argument, NULL, 'j'},
						{"verbose", no_argument, NULL, 'v'},
						{"only", required_argument, NULL, 'o'},
						{"dir", required_argument, NULL, 'd'},
						{"pairs", required_argument, NULL, 'p'},
						{"pairs-max", required_argument, NULL, 'm'},
						{0}};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			b->smoke = true;
			break;
		case 'f':
			b->full = true;
			break;
		case 'j':
			b->json = true;
			break;
		case 'v':
			b->verbose = true;
			break;
		case 'o':
			b->only = optarg;
			break;
		case 'd':
			*ret_dir = optarg;
			break;
		case 'p':
			b->pairs_min = parse_count(optarg, argv[0]);
			break;
		case 'm':
			b->pairs_max = parse_count(optarg, argv[0]);
			break;
		default:
			usage(argv[0]);
		}
	}
	if (optind != argc)
		usage(argv[0]);
}

void bench_init(struct bench *b, int argc, char **argv, const char *part)
{
	const char *dir = getenv("THMQ_BENCH_DIR");

	memset(b, 0, sizeof(*b));
	b->part = part;
	b->pairs_min = 9;
	b->pairs_max = 25;
	parse(b, argc, argv, &dir);
	if (b->smoke)
		b->pairs_min = b->pairs_max = 1;
	if (b->pairs_max < b->pairs_min)
		b->pairs_max = b->pairs_min;
	if (!dir)
		dir = "."; /* not /tmp: that may be memory, without O_DIRECT */
	if ((size_t)snprintf(b->dir, sizeof(b->dir), "%s/thmq-bench-XXXXXX", dir) >= sizeof(b->dir))
		bench_die(dir, ENAMETOOLONG);
	if (!mkdtemp(b->dir))
		bench_die(b->dir, errno);
	strcpy(own_dir, b->dir);
	atexit(remove_own_dir);
	choose_cpus(b);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(BENCH_LIMIT_SECONDS);
}

int bench_end(struct bench *b)
{
	alarm(0);
	return b->misses > 0 && !b->smoke;
}

bool bench_wants(const struct bench *b, const char *name)
{
	return !b->only || strstr(name, b->only);
}

/* ------------------------------------------------------------------- samples */

void bench_samples_init(struct bench_samples *s, size_t room)
{
	memset(s, 0, sizeof(*s));
	s->ns = malloc(room * sizeof(*s->ns));
	if (!s->ns)
		bench_die("samples", ENOMEM);
	memset(s->ns, 0, room * sizeof(*s->ns));
	s->room = room;
}

void bench_samples_fini(struct bench_samples *s)
{
	free(s->ns);
	memset(s, 0, sizeof(*s));
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

double bench_percentile(struct bench_samples *s, double share)
{
	size_t rank;

	if (s->count == 0)
		return 0;
	if (!s->sorted) {
		qsort(s->ns, s->count, sizeof(*s->ns), compare_u32);
		s->sorted = true;
	}
	rank = (size_t)(share * (double)s->count + 0.9999999);
	if (rank < 1)
		rank = 1;
	if (rank > s->count)
		rank = s->count;
	return s->ns[rank - 1];
}

double bench_memory_of(pid_t pid)
{
	double sum = 0;
	char line[256], path[64];
	unsigned long long kib;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (!f)
		bench_die(path, errno);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %llu", &kib) == 1 ||
		    sscanf(line, "RssShmem: %llu", &kib) == 1 ||
		    sscanf(line, "HugetlbPages: %llu", &kib) == 1)
			sum += (double)kib * 1024;
	fclose(f);
	return sum;
}

double bench_memory(void)
{
	return bench_memory_of(getpid());
}
