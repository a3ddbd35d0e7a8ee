/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input_limits_test.c - an unprivileged user with hardly any locked memory, descriptors, threads, address space,
 * memory or file size: slower or refused with a text, never wrong.
 */
#include <sys/resource.h>

#include "bad_input.h"

static void limit(int what, rlim_t value)
{
	struct rlimit r = {value, value};

	if (setrlimit((__rlimit_resource_t)what, &r) != 0)
		SKIP("setrlimit: %s", strerror(errno));
}

static void locked_64k_body(void)
{
	struct thmq_env_stats st = {.size = sizeof(st)};
	struct world w;

	limit(RLIMIT_MEMLOCK, 64 << 10);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 10000);
	CHECK(get_numbers(w.session) == 10000);
	MUST(thmq_env_stats(w.env, &st));
	RETURNS(0, st.registered_memory); /* it says so */
	world_down(&w);
	expect_numbers(in_place("data"), 10000);
}

static void locked_64k(void)
{
	place_make(NULL);
	as_nobody(locked_64k_body);
}

static void locked_none_body(void)
{
	struct world w;

	limit(RLIMIT_MEMLOCK, 0);
	world_up(&w, in_place("data"));
	put_numbers(w.session, 0, 1000);
	world_down(&w);
	expect_numbers(in_place("data"), 1000);
}

static void locked_none(void)
{
	place_make(NULL);
	as_nobody(locked_none_body);
}

static void library_threads_body(void)
{
	struct world w;

	limit(RLIMIT_MEMLOCK, 64 << 10);
	memset(&w, 0, sizeof(w));
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.core_count = 2, .pool_bytes = 256 << 20)));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 1000);
	CHECK(get_numbers(w.session) == 1000);
	world_down(&w);
}

static void library_threads(void)
{
	place_make(NULL);
	as_nobody(library_threads_body);
}

/* io_uring not wanted: the same, through plain system calls. */
static void without_io_uring(void)
{
	struct thmq_env_stats st = {.size = sizeof(st)};
	struct world w;

	place_make(NULL);
	memset(&w, 0, sizeof(w));
	MUST(thmq_env_open(&w.env, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING)));
	MUST(broker_on(w.env, in_place("data"), 0, &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 1000);
	CHECK(get_numbers(w.session) == 1000);
	MUST(thmq_env_stats(w.env, &st));
	RETURNS(0, st.uring_cores);
	world_down(&w);
	expect_numbers(in_place("data"), 1000);
}

/* Too few descriptors for what is asked: refused, nothing leaks, and more of them is a cure. */
static void few_descriptors(void)
{
	struct rlimit r = {.rlim_cur = 0};
	unsigned low, fails = 0;
	struct world w;

	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	getrlimit(RLIMIT_NOFILE, &r);
	for (low = 4; low < 64; low++) {
		struct rlimit few = {low, r.rlim_max};
		int rc;

		setrlimit(RLIMIT_NOFILE, &few);
		memset(&w, 0, sizeof(w));
		rc = thmq_env_open(&w.env, THMQ_ENV_OPTS(.pool_bytes = 128 << 20));
		if (rc == 0)
			rc = broker_on(w.env, in_place("data"), 0, &w.broker);
		if (rc == 0)
			rc = thmq_connect(w.env, "inproc://", NULL, &w.session);
		if (rc < 0) {
			CHECK(rc == -EMFILE || rc == -ENFILE || rc == -EAGAIN || rc == -ENOMEM);
			CHECK(thmq_errmsg()[0]);
			fails++;
		}
		if (rc == 0)
			put_numbers(w.session, 10, 0);
		if (w.env)
			world_down(&w);
		if (rc == 0)
			break;
	}
	CHECK(fails > 0);
	setrlimit(RLIMIT_NOFILE, &r);
	expect_numbers(in_place("data"), 10);
}

/* A file size limit below a segment: as a full disk, told by an error and not by a signal that ends the host. */
static void small_files(void)
{
	struct thmq_broker *b;
	struct world w;
	int rc;

	place_make(NULL);
	signal(SIGXFSZ, SIG_IGN);
	limit(RLIMIT_FSIZE, 64 << 10);
	env_up(&w);
	rc = broker_on(w.env, in_place("data"), 0, &b);
	CHECK(rc == -EFBIG || rc == -ENOSPC);
	check_text(__FILE__, __LINE__, "open", in_place("data"));
	world_down(&w);
}

/* The same where the host's own thread writes, and SIGXFSZ would kill it: the error alone comes, and no signal is left. */
static void small_files_by_the_caller(void)
{
	struct thmq_env *env;
	struct thmq_broker *b = NULL;
	sigset_t mask, pending;
	int rc;

	place_make(NULL);
	signal(SIGXFSZ, SIG_DFL);
	limit(RLIMIT_FSIZE, 64 << 10);
	MUST(thmq_env_open(&env, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING, .pool_bytes = 128 << 20)));
	rc = broker_on(env, in_place("data"), 0, &b);
	CHECK(rc == -EFBIG || rc == -ENOSPC);
	check_text(__FILE__, __LINE__, "open", in_place("data"));
	RETURNS(0, thmq_env_close(env, SECOND));
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	sigpending(&pending);
	CHECK(!sigismember(&mask, SIGXFSZ) && !sigismember(&pending, SIGXFSZ));
}

/* A pool that is too small for a broker: refused, with the option's name. */
static void small_pool(void)
{
	struct thmq_env *env = NULL;
	struct thmq_broker *b = NULL;
	int rc;

	place_make(NULL);
	rc = thmq_env_open(&env, THMQ_ENV_OPTS(.pool_bytes = 4096));
	if (rc == 0) {
		rc = broker_on(env, in_place("data"), 0, &b);
		if (rc == 0)
			RETURNS(0, thmq_broker_close(b, SECOND));
		RETURNS(0, thmq_env_close(env, SECOND));
	}
	CHECK(rc == 0 || thmq_errmsg()[0]); /* rounded up, or refused; never a crash */
}

/* -------------------------------------------------- threads, address space, memory */

static void no_threads_body(void)
{
	struct thmq_env *env = (struct thmq_env *)0x1;
	struct world w;

	limit(RLIMIT_NPROC, 0);
	SAYS(-EAGAIN, "thread", thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 2)));
	CHECK(env == (struct thmq_env *)0x1);
	world_up(&w, in_place("data")); /* no thread is made that was not asked for */
	put_numbers(w.session, 0, 100);
	CHECK(get_numbers(w.session) == 100);
	world_down(&w);
}

static void no_threads(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("the sanitizer looks for leaks with a thread of its own");
#endif
	place_make(NULL);
	as_nobody(no_threads_body);
}

static int whole_life(struct world *w, const char *dir)
{
	int rc;

	memset(w, 0, sizeof(*w));
	rc = thmq_env_open(&w->env, THMQ_ENV_OPTS(.pool_bytes = 64 << 20));
	if (rc == 0)
		rc = broker_on(w->env, dir, 0, &w->broker);
	if (rc == 0)
		rc = thmq_connect(w->env, "inproc://", NULL, &w->session);
	if (rc == 0)
		put_numbers(w->session, 0, 0);
	if (rc == 0 && get_numbers(w->session) != 10)
		FAIL("what is stored is not there");
	return rc;
}

/* Too little address space for what is asked: refused, whatever step it is, and nothing is left behind. */
static void small_address_space(void)
{
	struct rlimit r;
	unsigned fails = 0, mib;
	struct world w;
	int rc = -ENOMEM;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("the sanitizer needs terabytes of it");
#endif
	place_make(NULL);
	numbers_dir(in_place("data"), 10);
	getrlimit(RLIMIT_AS, &r);
	for (mib = 16; mib <= 1024 && rc; mib += mib < 160 ? 4 : 64) {
		struct rlimit few = {(rlim_t)mib << 20, r.rlim_max};

		setrlimit(RLIMIT_AS, &few);
		thmq_data_scan(NULL, NULL, NULL);
		rc = whole_life(&w, in_place("data"));
		if (rc) {
			check_text(__FILE__, __LINE__, "address space", NULL);
			if (rc != -ENOMEM && rc != -EAGAIN)
				FAIL("%u MiB: %s (%s)", mib, thmq_errname(rc), thmq_errmsg());
			fails++;
		}
		if (w.env)
			world_down(&w);
	}
	setrlimit(RLIMIT_AS, &r);
	CHECK(fails > 0 && rc == 0);
	expect_numbers(in_place("data"), 10);
}

static uint64_t peak_resident_bytes(void)
{
	unsigned long long kib = 0;
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmHWM: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

/* With all defaults a broker, a producer and a consumer live in a container of 64 MiB: that is what the pool's pages, rings and
 * tables that are touched come to. Its files are not in the page cache, where the file system has O_DIRECT. */
static void small_container(void)
{
	uint64_t before, peak;
	struct world w;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("the sanitizer's own memory counts too");
#endif
	place_make(NULL);
	before = peak_resident_bytes();
	memset(&w, 0, sizeof(w));
	MUST(thmq_env_open(&w.env, NULL));
	MUST(thmq_broker_open(w.env, THMQ_BROKER_OPTS(.data_dir = in_place("data")), &w.broker));
	MUST(thmq_connect(w.env, "inproc://", NULL, &w.session));
	put_numbers(w.session, 0, 200000);
	CHECK(get_numbers(w.session) == 200000);
	world_down(&w);
	peak = peak_resident_bytes();
	if (!before || peak - before > 56u << 20)
		FAIL("%llu MiB", (unsigned long long)(peak - before) >> 20);
}

static const struct bad_case cases[] = {
	{"no_threads", no_threads},
	{"small_address_space", small_address_space},
	{"small_container", small_container},
	{"locked_64k", locked_64k},           {"locked_none", locked_none},
	{"library_threads", library_threads}, {"without_io_uring", without_io_uring},
	{"few_descriptors", few_descriptors}, {"small_files", small_files},
	{"small_files_by_the_caller", small_files_by_the_caller},
	{"small_pool", small_pool},
};

int main(int argc, char **argv)
{
	return run_cases(cases, CASE_COUNT(cases), argc, argv);
}
