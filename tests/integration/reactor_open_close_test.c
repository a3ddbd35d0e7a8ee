/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor_open_close_test.c - environments opened and closed two hundred times, or ten thousand times with THMQ_TEST_FULL=1, leave no
 * descriptor, no thread, no mapping and no memory behind; and an open that fails at any descriptor leaves none either. Exit 0: passed.
 * usage: reactor_open_close_test [times]
 */
#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "reactor/reactor.h"

static uint32_t times = 200;

struct census {
	uint32_t fds, threads, mappings;
	size_t heap;
};

static uint32_t entries(const char *dir)
{
	DIR *d = opendir(dir);
	uint32_t count = 0;

	while (d && readdir(d))
		count++;
	if (d)
		closedir(d);
	return count;
}

static uint32_t lines(const char *file)
{
	FILE *f = fopen(file, "re");
	uint32_t count = 0;
	int c;

	while (f && (c = fgetc(f)) != EOF)
		count += c == '\n';
	if (f)
		fclose(f);
	return count;
}

static uint32_t threads_at_start; /* a sanitizer may have one of its own */

static struct census take_census(void)
{
	struct census c;
	uint32_t i;

	/* a thread that was joined may stay listed for a moment */
	for (i = 0; i < 200 && entries("/proc/self/task") > threads_at_start; i++)
		usleep(1000);
	c.fds = entries("/proc/self/fd");
	c.threads = entries("/proc/self/task");
	c.mappings = lines("/proc/self/maps");
	c.heap = mallinfo2().uordblks;
	return c;
}

/* One life: a call, a post, a block, a host's descriptor. */
static int nothing(struct thmq_core *core, void *arg)
{
	struct thmqi_buf *buf;

	(void)arg;
	if (thmqi_buf_alloc(core->pool, 4096, &buf) != 0)
		return 1;
	thmqi_buf_unref(buf);
	return 0;
}

static int live(const struct thmq_env_opts *opts)
{
	struct thmq_env *env;
	int rc = thmqi_env_open(opts, NULL, &env);

	if (rc)
		return rc;
	rc = thmqi_core_call(thmqi_env_core(env, 0), nothing, NULL, UINT64_MAX);
	if (!opts->core_count) {
		thmqi_core_poll(thmqi_env_core(env, 0), 100000);
		if (thmqi_core_fd(thmqi_env_core(env, 0)) < 0 ||
		    thmqi_core_arm(thmqi_env_core(env, 0)) < 0)
			rc = 1;
	}
	return thmqi_env_close(env) || rc;
}

static int repeat(const char *name, const struct thmq_env_opts *opts)
{
	struct census before, after;
	uint32_t i;

	for (i = 0; i < 50; i++) /* what libraries keep: caches that fill up once */
		if (live(opts) != 0)
			return 1;
	before = take_census();
	for (i = 0; i < times; i++)
		if (live(opts) != 0)
			return 1;
	after = take_census();
	printf("%s: descriptors %u → %u, threads %u → %u, mappings %u → %u, heap %zu → %zu\n", name,
	       before.fds, after.fds, before.threads, after.threads, before.mappings,
	       after.mappings, before.heap, after.heap);
	return after.fds != before.fds || after.threads != before.threads ||
	       after.mappings > before.mappings + 8 || after.heap > before.heap + 8192;
}

/* Descriptors run out after 0, 1, 2 … of them, until the open succeeds. */
static int starve(const char *name, const struct thmq_env_opts *opts)
{
	uint32_t fds = entries("/proc/self/fd"), allowed, failures = 0;
	struct rlimit was, limit;
	int rc = 0;

	getrlimit(RLIMIT_NOFILE, &was);
	for (allowed = 0; allowed < 64; allowed++) {
		limit = was;
		limit.rlim_cur =
			fds - 3 +
			allowed; /* . and .. and the directory itself are no descriptors that stay */
		setrlimit(RLIMIT_NOFILE, &limit);
		rc = live(opts);
		setrlimit(RLIMIT_NOFILE, &was);
		if (entries("/proc/self/fd") != fds ||
		    entries("/proc/self/task") > threads_at_start) {
			printf("%s: with %u descriptors (result %d) something stayed open\n", name,
			       allowed, rc);
			return 1;
		}
		if (rc == 0)
			break;
		failures++;
	}
	printf("%s: failed %u times for want of descriptors, then opened\n", name, failures);
	return rc != 0 || failures == 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	/* what malloc keeps for its threads would count as in use; and a hole below a descriptor of our parent's would be used */
	if (!getenv("GLIBC_TUNABLES")) {
		setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
		execv("/proc/self/exe", argv);
	}
	close_range(3, ~0u, 0);
	if (getenv("THMQ_TEST_FULL"))
		times = 2500; /* of each of four kinds */
	if (argc > 1)
		times = (uint32_t)atoi(argv[1]);
	failed |= live(THMQ_ENV_OPTS(.core_count = 1)) != 0;
	threads_at_start = entries("/proc/self/task");
	failed |= repeat("two threads of the library", THMQ_ENV_OPTS(.core_count = 2));
	failed |= repeat("two threads, polling",
			 THMQ_ENV_OPTS(.core_count = 2, .policy = THMQ_POLICY_POLL,
				       .flags = THMQ_ENV_NO_PIN));
	failed |= repeat("driven by the caller", THMQ_ENV_OPTS(.caller_cores = 2));
	failed |=
		repeat("driven by the caller, no ring", THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_URING));
	failed |= starve("driven by the caller", THMQ_ENV_OPTS(.caller_cores = 2));
	failed |= starve("a thread of the library", THMQ_ENV_OPTS(.core_count = 1));
	return failed;
}
