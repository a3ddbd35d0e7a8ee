/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_loops_test.c - hosts that open and close environments and brokers over and over, several threads at a time, on stacks of 64 KiB,
 * and close in the middle of everything, also when the process has no descriptor left: nothing hangs, and neither descriptors nor
 * memory nor threads are left behind. Public face only.
 *
 * usage: host_loops_test [rounds of each thread]; default 12, and 250 with THMQ_TEST_FULL=1.
 */
#include <thundermq/thundermq.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define HOSTS 3u
#define STACK_BYTES (64u << 10)

static _Atomic unsigned failures, closes;
static char place[64];

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			atomic_fetch_add(&failures, 1);                                            \
			fprintf(stderr, "host_loops_test:%d: not true: %s (%s)\n", __LINE__, #x,   \
				thmq_errmsg());                                                    \
		}                                                                                  \
	} while (0)

/* ------------------------------------------------------------------ counting */

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static unsigned long resident_kib(void)
{
	unsigned long size, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f && fscanf(f, "%lu %lu", &size, &pages) != 2)
		pages = 0;
	if (f)
		fclose(f);
	return pages * 4;
}

static int drop(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

/* -------------------------------------------------------------------- a host */

struct host {
	pthread_t thread;
	uint32_t number, rounds;
	uint64_t seed;
};

static uint32_t chance(struct host *h, uint32_t below)
{
	h->seed = h->seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(h->seed >> 33) % below;
}

/* A thread of the host beside: it is in some call whenever the broker goes. */
struct busy {
	pthread_t thread;
	struct thmq_env *env;
	const char *url;
	_Atomic bool stop;
};

static void *keep_busy(void *arg)
{
	struct busy *b = arg;
	struct thmq_producer *p = NULL;
	struct thmq_consumer *c = NULL;
	struct thmq_session *s;
	struct thmq_message m[16];
	struct thmq_event e[16];
	int n, rc;

	rc = thmq_connect(b->env, b->url, THMQ_SESSION_OPTS(.timeout_ns = 2 * SECOND), &s);
	if (rc) {
		CHECK(rc == -ECONNREFUSED || rc == -ESHUTDOWN);
		return NULL;
	}
	rc = thmq_topic_create(
		s, "t", THMQ_TOPIC_OPTS(.partition_count = 4, .flags = THMQ_TOPIC_IF_ABSENT));
	if (rc == 0)
		rc = thmq_producer_open(s, "t", NULL, &p);
	if (rc == 0)
		rc = thmq_consumer_open(s, "t", "g", NULL, &c);
	CHECK(rc == 0 || rc == -ESHUTDOWN || rc == -EBUSY);
	while (rc == 0 && !atomic_load(&b->stop)) {
		int64_t sent = thmq_send(p, m, 100, NULL);

		if (sent == -ESHUTDOWN)
			break;
		CHECK(sent > 0 || sent == -EAGAIN);
		n = thmq_fetch(c, m, 16);
		if (n > 0) {
			thmq_ack(c, &m[n - 1]);
			thmq_release(c, m, (uint32_t)n);
		}
		while (thmq_events(s, e, 16) > 0)
			;
		if (sent == -EAGAIN)
			thmq_session_wait(s, SECOND / 100);
	}
	thmq_session_close(s, 0);
	return NULL;
}

static void use(struct thmq_env *env, const char *url, uint32_t count)
{
	struct thmq_producer *p;
	struct thmq_session *s;
	uint32_t i;

	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_topic_create(
		      s, "t",
		      THMQ_TOPIC_OPTS(.partition_count = 4, .flags = THMQ_TOPIC_IF_ABSENT)) == 0 ||
	      strstr(thmq_errmsg(), "changed"));
	if (thmq_producer_open(s, "t", NULL, &p) == 0)
		for (i = 0; i < count; i++)
			thmq_send(p, &i, sizeof(i), NULL);
	/* all of it is left open */
}

static void one_round(struct host *h, pthread_attr_t *attr)
{
	uint32_t cores = chance(h, 3), kind = chance(h, 4), i;
	char dir[2][128], name[2][32], url[2][48];
	struct thmq_broker *brokers[2] = {0};
	struct busy busy = {0};
	struct thmq_env *env;
	int rc;

	rc = thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = cores, .pool_bytes = 64u << 20,
					       .policy = THMQ_POLICY_EVENT,
					       .flags = chance(h, 2) ? THMQ_ENV_NO_URING : 0));
	CHECK(rc == 0);
	if (rc)
		return;
	for (i = 0; i < 2; i++) {
		snprintf(dir[i], sizeof(dir[i]), "%s/%u-%u", place, h->number, i);
		snprintf(name[i], sizeof(name[i]), "b%u", i);
		snprintf(url[i], sizeof(url[i]), "inproc://b%u", i);
		rc = thmq_broker_open(env,
				      THMQ_BROKER_OPTS(.data_dir = dir[i], .name = name[i],
						       .segment_bytes = 1u << 20,
						       .batch_bytes = 64u << 10,
						       .cache_bytes = 1u << 20, .shard_count = 2),
				      &brokers[i]);
		CHECK(rc == 0);
		if (rc) {
			thmq_env_close(env, 0);
			return;
		}
	}
	use(env, url[1], chance(h, 2000));
	if (cores) {
		busy.env = env;
		busy.url = url[0];
		CHECK(pthread_create(&busy.thread, attr, keep_busy, &busy) == 0);
		usleep(chance(h, 5000));
	}
	if (cores ||
	    kind == 0) { /* the session of the other thread must go before its environment */
		rc = thmq_broker_close(brokers[0], kind & 1 ? SECOND : 0);
		CHECK(rc == 0 || rc == -ETIMEDOUT);
		CHECK(thmq_broker_close(brokers[0], 0) == -EINVAL);
	}
	if (cores) {
		atomic_store(&busy.stop, true);
		pthread_join(busy.thread, NULL);
	}
	rc = thmq_env_close(env, kind & 2 ? SECOND : 0);
	CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -EIO);
	atomic_fetch_add(&closes, 1);
}

static void *run_host(void *arg)
{
	struct host *h = arg;
	pthread_attr_t attr;
	uint32_t i;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (i = 0; i < h->rounds; i++)
		one_round(h, &attr);
	pthread_attr_destroy(&attr);
	return NULL;
}

static void run_hosts(uint32_t rounds, uint64_t seed)
{
	struct host hosts[HOSTS];
	pthread_attr_t attr;
	uint32_t i;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (i = 0; i < HOSTS; i++) {
		hosts[i] = (struct host){.number = i, .rounds = rounds, .seed = seed + i};
		if (pthread_create(&hosts[i].thread, &attr, run_host, &hosts[i]) != 0)
			exit(77);
	}
	for (i = 0; i < HOSTS; i++)
		pthread_join(hosts[i].thread, NULL);
	pthread_attr_destroy(&attr);
}

/* ------------------------------------------------------- no descriptor is left */

/* Whoever has used all of them up can still close what is open. */
static void close_without_descriptors(uint32_t cores)
{
	static int taken[4096];
	struct thmq_broker *broker;
	struct thmq_env *env;
	char dir[128];
	int count = 0, rc;

	snprintf(dir, sizeof(dir), "%s/none", place);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = cores, .pool_bytes = 64u << 20)) ==
	      0);
	CHECK(thmq_broker_open(env,
			       THMQ_BROKER_OPTS(.data_dir = dir, .segment_bytes = 1u << 20,
						.shard_count = 2),
			       &broker) == 0);
	use(env, "inproc://", 1000);
	while (count < 4096 && (taken[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		count++;
	CHECK(count < 4096);
	rc = thmq_broker_close(broker, 5 * SECOND);
	CHECK(rc == 0);
	rc = thmq_env_close(env, 5 * SECOND);
	CHECK(rc == 0 || rc == -ESHUTDOWN || rc == -EIO ||
	      rc == -ETIMEDOUT); /* its session's broker was closed before it */
	while (count)
		close(taken[--count]);
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : getenv("THMQ_TEST_FULL") ? 250 : 12;
	uint64_t seed = getenv("THMQ_TEST_SEED") ? strtoull(getenv("THMQ_TEST_SEED"), NULL, 0)
						 : (uint64_t)time(NULL);
	const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ".";
	struct rlimit r = {.rlim_cur = 1024};
	unsigned fds, threads, wait;
	unsigned long kib;

	getrlimit(RLIMIT_NOFILE, &r);
	if (r.rlim_cur > 1024) {
		r.rlim_cur = 1024;
		setrlimit(RLIMIT_NOFILE, &r);
	}
	snprintf(place, sizeof(place), "%s/host-loops-XXXXXX", base);
	if (!mkdtemp(place))
		return 1;
	mallopt(M_ARENA_MAX, 1); /* what arenas keep for later is no leak */
	alarm(getenv("THMQ_TEST_SLOW") || rounds > 12 ? 3000 : 240);
	run_hosts(2, seed); /* what stays of these is the C library's */
	fds = entries("/proc/self/fd");
	threads = entries("/proc/self/task");
	malloc_trim(0);
	kib = resident_kib();
	run_hosts(rounds, seed + HOSTS);
	close_without_descriptors(0);
	close_without_descriptors(2);
	CHECK(entries("/proc/self/fd") == fds);
	for (wait = 0; wait < 200 && entries("/proc/self/task") != threads; wait++)
		usleep(10000); /* the kernel's helpers of a ring end a little later */
	CHECK(entries("/proc/self/task") == threads);
	malloc_trim(0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (resident_kib() > kib + 32768) {
		fprintf(stderr, "%lu MiB before, %lu after\n", kib >> 10, resident_kib() >> 10);
		atomic_fetch_add(&failures, 1);
	}
#endif
	nftw(place, drop, 16, FTW_DEPTH | FTW_PHYS);
	printf("%u environments closed, seed %llu, %u failures\n", closes, (unsigned long long)seed,
	       failures);
	return failures != 0;
}
