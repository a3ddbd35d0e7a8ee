/* SPDX-License-Identifier: Apache-2.0 */
/*
 * no_malloc_test.c - once all is open and warm, messages move without heap allocation, lock or formatting, in the
 * application's thread and in the library's. The program stands before the C library's functions and counts calls.
 *
 * Knows the public header only. Exit 0 passed, 77 skipped, 1 failed with the stacks of the first offenders.
 */
#include <thundermq/thundermq.h>

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
int main(void)
{
	puts("skipped: the sanitizer's allocator, or another C library's, cannot be counted this "
	     "way");
	return 77;
}
#else

/* ------------------------------------------------------------------ counters */

#define OFFENDERS_MAX 6
#define STACK_MAX 16

static _Atomic bool armed, mapping_allowed;
static _Atomic unsigned calls;
static struct {
	const char *what;
	void *stack[STACK_MAX];
	int depth;
} offenders[OFFENDERS_MAX];

static void count(const char *what)
{
	unsigned n;

	if (!atomic_load_explicit(&armed, memory_order_relaxed))
		return;
	if (strstr(what, "map") && atomic_load_explicit(&mapping_allowed, memory_order_relaxed))
		return;
	n = atomic_fetch_add(&calls, 1);
	if (n < OFFENDERS_MAX) {
		offenders[n].what = what;
		offenders[n].depth = backtrace(offenders[n].stack, STACK_MAX);
	}
}

void *__libc_malloc(size_t size);
void __libc_free(void *p);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size);

void *malloc(size_t size)
{
	count("malloc");
	return __libc_malloc(size);
}

void free(void *p)
{
	if (p)
		count("free");
	__libc_free(p);
}

void *calloc(size_t n, size_t size)
{
	count("calloc");
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	count("realloc");
	return __libc_realloc(p, size);
}

void *memalign(size_t align, size_t size)
{
	count("memalign");
	return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	count("aligned_alloc");
	return __libc_memalign(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
	count("posix_memalign");
	*ret = __libc_memalign(align, size);
	return *ret ? 0 : ENOMEM;
}

/* The next definition behind ours. Looked up before anything is armed: dlsym() may allocate. */
#define REAL(name) ((__typeof__(name) *)real(#name))

static void *real(const char *name)
{
	void *p = dlsym(RTLD_NEXT, name);

	if (!p)
		_exit(99);
	return p;
}

#define FORWARD(type, name, params, args)                                                          \
	type name params                                                                           \
	{                                                                                          \
		static __typeof__(name) *next;                                                     \
                                                                                                   \
		count(#name);                                                                      \
		if (!next)                                                                         \
			next = REAL(name);                                                         \
		return next args;                                                                  \
	}

FORWARD(void *, mmap, (void *addr, size_t len, int prot, int flags, int fd, off_t off),
	(addr, len, prot, flags, fd, off))
FORWARD(int, munmap, (void *addr, size_t len), (addr, len))
FORWARD(int, pthread_mutex_lock, (pthread_mutex_t * m), (m))
FORWARD(int, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
FORWARD(int, pthread_spin_lock, (pthread_spinlock_t * l), (l))
FORWARD(int, pthread_rwlock_rdlock, (pthread_rwlock_t * l), (l))
FORWARD(int, pthread_rwlock_wrlock, (pthread_rwlock_t * l), (l))
FORWARD(int, pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t *m), (c, m))
FORWARD(int, pthread_cond_timedwait,
	(pthread_cond_t * c, pthread_mutex_t *m, const struct timespec *t), (c, m, t))
FORWARD(int, sem_wait, (sem_t * s), (s))
FORWARD(int, vsnprintf, (char *buf, size_t size, const char *format, va_list args),
	(buf, size, format, args))

int snprintf(char *buf, size_t size, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = vsnprintf(buf, size, format, args);
	va_end(args);
	return r;
}

/* -------------------------------------------------------------------- frame */

#define TOPIC "no-malloc"
#define LIMIT_NS 20000000000u
#define WARMER_MAX 3u

static int failures;

static void fail(const char *where, int r)
{
	atomic_store(&armed, false);
	fprintf(stderr, "%s: %s: %s\n", where, thmq_strerror(r), thmq_errmsg());
	exit(1);
}

static void must(const char *where, int r)
{
	if (r < 0)
		fail(where, r);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void expect_none(const char *phase)
{
	unsigned n = atomic_load(&calls);

	atomic_store(&armed, false);
	printf("%s: %u calls\n", phase, n);
	fflush(stdout);
	for (unsigned i = 0; i < n && i < OFFENDERS_MAX; i++) {
		fprintf(stderr, "%s: %s from\n", phase, offenders[i].what);
		backtrace_symbols_fd(offenders[i].stack, offenders[i].depth, 2);
	}
	if (n)
		failures++;
	atomic_store(&calls, 0);
}

/* The counters see what they should: else a silent linker would make this test worth nothing. */
static void expect_counters_work(void)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	void *volatile p;
	char text[8];
	unsigned n;

	atomic_store(&armed, true);
	p = malloc(100);
	free(p);
	pthread_mutex_lock(&lock);
	snprintf(text, sizeof(text), "%d", (int)getpid() % 100);
	n = atomic_load(&calls);
	atomic_store(&armed, false);
	atomic_store(&calls, 0);
	pthread_mutex_unlock(&lock);
	if (n < 4) {
		fprintf(stderr, "the counters saw %u of 4 calls\n", n);
		exit(1);
	}
}

/* ------------------------------------------------------------------- phases */

struct phase {
	const char *name;
	bool pinned, logged, group;
	uint32_t policy, durability;
};

struct run {
	const struct phase *phase;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer;
	uint64_t sent, got;
};

static void open_run(struct run *r, const struct phase *p, const char *dir)
{
	uint32_t level = p->durability;

	memset(r, 0, sizeof(*r));
	r->phase = p;
	must("env",
	     thmq_env_open(&r->env, THMQ_ENV_OPTS(.core_count = p->pinned, .policy = p->policy)));
	must("broker", thmq_broker_open(r->env,
					THMQ_BROKER_OPTS(.data_dir = p->logged ? dir : NULL,
							 .cache_bytes = 1u << 20),
					&r->broker));
	must("connect", thmq_connect(r->env, "inproc://", NULL, &r->session));
	must("topic",
	     thmq_topic_create(r->session, TOPIC,
			       THMQ_TOPIC_OPTS(.flags = p->logged ? 0 : THMQ_TOPIC_VOLATILE,
					       .partition_count = 4, .visible_at = level,
					       .volatile_bytes = p->logged ? 0 : 1u << 20)));
	must("producer", thmq_producer_open(r->session, TOPIC,
					    THMQ_PRODUCER_OPTS(.durability = level), &r->producer));
	must("consumer",
	     thmq_consumer_open(r->session, TOPIC, p->group ? "g" : NULL, NULL, &r->consumer));
}

static void pump(struct run *r)
{
	if (!r->phase->pinned)
		must("poll", thmq_poll(r->env, 1000000));
}

static void take(struct run *r)
{
	struct thmq_message m[64];
	int n = thmq_fetch(r->consumer, m, 64);

	must("fetch", n);
	if (n == 0)
		return;
	if (r->phase->group) {
		int a = thmq_ack(r->consumer, &m[n - 1]);

		if (a != -EAGAIN)
			must("ack", a);
	}
	must("release", thmq_release(r->consumer, m, (uint32_t)n));
	r->got += (uint64_t)n;
}

/* Messages of several sizes, alone and in bursts, waiting for each burst to arrive. */
static void move(struct run *r, uint64_t messages)
{
	static const char payload[4000];
	static const uint32_t sizes[] = {0, 1, 100, 100, 100, 1000, 4000};
	uint64_t until = now_ns() + LIMIT_NS, goal = r->sent + messages;

	while (r->got < goal) {
		uint32_t burst = r->sent % 3 ? 1 : 50;

		for (uint32_t i = 0; i < burst && r->sent < goal; i++) {
			int64_t s = thmq_send(r->producer, payload, sizes[r->sent % 7], NULL);

			if (s == -EAGAIN)
				break;
			must("send", s < 0 ? (int)s : 0);
			r->sent++;
		}
		pump(r);
		take(r);
		if (now_ns() > until)
			fail("messages did not arrive", -ETIMEDOUT);
	}
	must("watermark", thmq_watermark(r->producer) < 0 ? -EIO : 0);
}

/* Until background work of the opening (the next segment) is over: it is not the message path. */
static void settle(struct run *r)
{
	struct thmq_env_stats s = {.size = sizeof(s)};
	uint64_t seen = 0, since = now_ns();

	while (now_ns() - since < 100000000u) {
		if (r->phase->pinned)
			usleep(1000);
		else
			thmq_poll(r->env, 1000000);
		must("stats", thmq_env_stats(r->env, &s));
		if (s.write_bytes != seen) {
			seen = s.write_bytes;
			since = now_ns();
		}
	}
}

static uint64_t pool_bytes(const struct run *r)
{
	struct thmq_env_stats s = {.size = sizeof(s)};

	must("stats", thmq_env_stats(r->env, &s));
	return s.pool_bytes;
}

/* Who has fallen behind for the first time reads from the device, and its pool may take more memory: all is warm after that only. */
static void expect_none_of(struct run *r, const char *what, uint64_t messages)
{
	uint64_t before;
	unsigned i;

	for (i = 0; i < WARMER_MAX; i++) {
		atomic_store(&calls, 0);
		before = pool_bytes(r);
		atomic_store(&armed, true);
		move(r, messages);
		atomic_store(&armed, false);
		if (!atomic_load(&calls) || pool_bytes(r) == before)
			break;
	}
	expect_none(what);
}

static void run_phase(const struct phase *p, const char *base)
{
	char dir[256], what[64];
	struct run r;

	snprintf(dir, sizeof(dir), "%s/%s", base, p->name);
	open_run(&r, p, dir);
	move(&r, 4000); /* more than the caches hold: from here on they are full */
	settle(&r);
	move(&r, 500);
	expect_none_of(&r, p->name, 2000);
	if (p->logged) {
		/* more than what is left of the first segment: a new one may map memory for its index, once */
		snprintf(what, sizeof(what), "%s, next segment", p->name);
		atomic_store(&mapping_allowed, true);
		expect_none_of(&r, what, 25000);
		atomic_store(&mapping_allowed, false);
	}
	must("close", thmq_env_close(r.env, LIMIT_NS));
}

int main(void)
{
	static const struct phase phases[] = {
		{"caller-durable", false, true, false, THMQ_POLICY_DEFAULT,
		 THMQ_DURABILITY_DURABLE},
		{"caller-durable-group", false, true, true, THMQ_POLICY_DEFAULT,
		 THMQ_DURABILITY_DURABLE},
		{"caller-volatile", false, false, false, THMQ_POLICY_POLL, THMQ_DURABILITY_MEMORY},
		{"threads-durable-event", true, true, true, THMQ_POLICY_EVENT,
		 THMQ_DURABILITY_DURABLE},
		{"threads-memory", true, true, false, THMQ_POLICY_DEFAULT, THMQ_DURABILITY_MEMORY},
		{"threads-volatile", true, false, false, THMQ_POLICY_DEFAULT,
		 THMQ_DURABILITY_MEMORY},
		{"threads-volatile-predictive", true, false, false, THMQ_POLICY_PREDICTIVE,
		 THMQ_DURABILITY_MEMORY},
		{"caller-volatile-predictive", false, false, false, THMQ_POLICY_PREDICTIVE,
		 THMQ_DURABILITY_MEMORY},
	};
	char base[] = "no-malloc-XXXXXX", remove_all[64];
	void *stack[4];

	backtrace(stack, 4); /* loads the unwinder now: it allocates once */
	alarm(200);
	expect_counters_work();
	if (!mkdtemp(base))
		return 1;
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		run_phase(&phases[i], base);
	snprintf(remove_all, sizeof(remove_all), "rm -rf '%s'", base);
	if (system(remove_all) != 0)
		return 1;
	return failures ? 1 : 0;
}
#endif
