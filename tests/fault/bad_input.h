/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad_input.h - what the bad_input_* programs share: cases that run in a child process each, checks, a place for
 * data directories, and a small broker with numbered messages in it. Uses the public face only.
 */
#ifndef BAD_INPUT_H
#define BAD_INPUT_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <thundermq/log.h>
#include <thundermq/thundermq.h>

#define SECOND 1000000000ull
#define MAYBE __attribute__((unused)) static
#define CASE_SECONDS 60u /* a case that hangs is killed */
#define SKIPPED 77

/* ------------------------------------------------------------------ checks */

static int failures;

#define FAIL(...)                                                                                  \
	do {                                                                                       \
		failures++;                                                                        \
		fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                    \
		fprintf(stderr, __VA_ARGS__);                                                      \
		fputc('\n', stderr);                                                               \
	} while (0)

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			FAIL("not true: %s", #x);                                                  \
	} while (0)

/* @expr returns just @want. */
#define RETURNS(want, expr)                                                                        \
	do {                                                                                       \
		long long want_ = (long long)(want), got_ = (long long)(expr);                     \
		if (got_ != want_)                                                                 \
			FAIL("%s is %lld (%s), not %lld (%s); said: \"%s\"", #expr, got_,          \
			     got_ < 0 ? thmq_errname((int)got_) : "", want_,                       \
			     want_ < 0 ? thmq_errname((int)want_) : "", thmq_errmsg());            \
	} while (0)

/* What cannot be done without: the case ends. */
#define MUST(expr)                                                                                 \
	do {                                                                                       \
		long long got_ = (long long)(expr);                                                \
		if (got_ < 0) {                                                                    \
			FAIL("%s is %lld (%s); said: \"%s\"", #expr, got_,                         \
			     thmq_errname((int)got_), thmq_errmsg());                              \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* A text that no other call gives, so that one which says nothing is found out. */
#define STALE_TEXT "scan: no directory was named"

/* A control call: it fails with @want, says why, and names @thing. */
#define SAYS(want, thing, expr)                                                                    \
	do {                                                                                       \
		thmq_data_scan(NULL, NULL, NULL);                                                  \
		RETURNS(want, expr);                                                               \
		check_text(__FILE__, __LINE__, #expr, thing);                                      \
	} while (0)

MAYBE void check_text(const char *file, int line, const char *what, const char *thing)
{
	const char *text = thmq_errmsg();

	if (text[0] && strcmp(text, STALE_TEXT) != 0 && (!thing || strstr(text, thing)))
		return;
	failures++;
	fprintf(stderr, "%s:%d: %s: the text \"%s\" does not name \"%s\"\n", file, line, what, text,
		thing ? thing : "anything");
}

#define SKIP(...)                                                                                  \
	do {                                                                                       \
		fprintf(stderr, "skipped: ");                                                      \
		fprintf(stderr, __VA_ARGS__);                                                      \
		fputc('\n', stderr);                                                               \
		exit(SKIPPED);                                                                     \
	} while (0)

/* ------------------------------------------------------------------- cases */

struct bad_case {
	const char *name;
	void (*run)(void);
};

MAYBE void remove_tree(const char *path);

/* Runs each case in a child of its own, or only the one named by the first argument; what a case that died left in the
 * file system goes with the rest. */
MAYBE int run_cases(const struct bad_case *cases, size_t count, int argc, char **argv)
{
	unsigned passed = 0, failed = 0, skipped = 0;
	const char *tmp = getenv("TMPDIR");
	char base[256];
	size_t i;

	snprintf(base, sizeof(base), "%s/thmq-bad-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(base)) {
		perror(base);
		return 1;
	}
	chmod(base, 0777);
	setenv("TMPDIR", base, 1);
	for (i = 0; i < count; i++) {
		int status;
		pid_t pid;

		if (argc > 1 && strcmp(argv[1], cases[i].name) != 0)
			continue;
		fflush(NULL);
		pid = fork();
		if (pid == 0) {
			alarm(getenv("THMQ_TEST_SLOW") ? 20 * CASE_SECONDS : CASE_SECONDS);
			cases[i].run();
			exit(failures ? 1 : 0); /* leak checks run at exit */
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0) {
			perror("fork");
			return 1;
		}
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
			passed++;
			printf("ok      %s\n", cases[i].name);
		} else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
			skipped++;
			printf("skipped %s\n", cases[i].name);
		} else {
			failed++;
			printf("FAILED  %s (%s %d)\n", cases[i].name,
			       WIFSIGNALED(status) ? "signal" : "exit",
			       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		}
	}
	remove_tree(base);
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed || !(passed + skipped) ? 1 : passed ? 0 : SKIPPED;
}

/* -------------------------------------------------------------- directories */

static char place_path[256];
static pid_t place_owner;

static int drop_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	chmod(path, 0700);
	return remove(path);
}

MAYBE void remove_tree(const char *path)
{
	nftw(path, drop_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void place_remove(void)
{
	if (place_owner == getpid())
		remove_tree(place_path);
}

/* A fresh directory under @base (NULL: $TMPDIR or /tmp), removed at exit. */
MAYBE const char *place_make(const char *base)
{
	const char *tmp = base ? base : getenv("TMPDIR");

	snprintf(place_path, sizeof(place_path), "%s/case-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(place_path)) {
		perror(place_path);
		exit(1);
	}
	place_owner = getpid();
	atexit(place_remove);
	return place_path;
}

/* Run @body as an unprivileged user, in a child of its own. */
MAYBE void as_nobody(void (*body)(void))
{
	int status;
	pid_t pid;

	chmod(place_path, 0777);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
			SKIP("cannot become nobody: %s", strerror(errno));
		body();
		exit(failures ? 1 : 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		FAIL("the unprivileged child died");
	else if (WEXITSTATUS(status) == SKIPPED)
		exit(SKIPPED);
	else
		CHECK(WEXITSTATUS(status) == 0);
}

/* place/@name, in one of a few buffers */
MAYBE const char *in_place(const char *name)
{
	static char paths[8][1024];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", place_path, name);
	return path;
}

MAYBE void write_file(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len) {
		perror(path);
		exit(1);
	}
	close(fd);
}

/* A file system of its own at place/@name, in a mount namespace that goes with the process. */
MAYBE const char *mount_here(const char *name, const char *options)
{
	const char *path = in_place(name);

	mkdir(path, 0755);
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("tmpfs", path, "tmpfs", 0, options) != 0)
		SKIP("no file system can be mounted here: %s", strerror(errno));
	return path;
}

/* ------------------------------------------------------------------- broker */

struct world {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
};

/* Small pool and small segments, so that the smallest machine does. */
MAYBE int broker_on(struct thmq_env *env, const char *dir, uint32_t flags, struct thmq_broker **ret)
{
	return thmq_broker_open(env,
				THMQ_BROKER_OPTS(.data_dir = dir, .flags = flags,
						 .segment_bytes = 1 << 20, .cache_bytes = 4 << 20,
						 .batch_bytes = 64 << 10),
				ret);
}

MAYBE void env_up(struct world *w)
{
	memset(w, 0, sizeof(*w));
	MUST(thmq_env_open(&w->env, THMQ_ENV_OPTS(.pool_bytes = 128 << 20)));
}

MAYBE void world_up(struct world *w, const char *dir)
{
	env_up(w);
	MUST(broker_on(w->env, dir, 0, &w->broker));
	MUST(thmq_connect(w->env, "inproc://", NULL, &w->session));
}

MAYBE void world_down(struct world *w)
{
	if (w->session)
		RETURNS(0, thmq_session_close(w->session, 5 * SECOND));
	if (w->broker)
		RETURNS(0, thmq_broker_close(w->broker, 5 * SECOND));
	RETURNS(0, thmq_env_close(w->env, 5 * SECOND));
	memset(w, 0, sizeof(*w));
}

/* Wait for messages; whatever events there are, are not wanted. 1, 0 or an error, as thmq_session_wait(). */
MAYBE int wait_messages(struct thmq_session *session, uint64_t timeout_ns)
{
	struct thmq_event e[16];

	while (thmq_events(session, e, 16) > 0)
		;
	return thmq_session_wait(session, timeout_ns);
}

/* ------------------------------------------------------- numbered messages */

/* Publish the numbers @first … @first + @count - 1 durably to "numbers", which is made if absent. */
MAYBE void put_numbers(struct thmq_session *session, uint64_t first, uint64_t count)
{
	struct thmq_producer *p;
	uint64_t i;
	int64_t rc;

	MUST(thmq_topic_create(session, "numbers", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_IF_ABSENT)));
	MUST(thmq_producer_open(session, "numbers", NULL, &p));
	for (i = first; i < first + count;) {
		rc = thmq_send(p, &i, sizeof(i), NULL);
		if (rc == -EAGAIN)
			MUST(thmq_flush(p, 10 * SECOND));
		else
			MUST(rc);
		i += rc > 0;
	}
	MUST(thmq_flush(p, 10 * SECOND));
	MUST(thmq_producer_close(p, 10 * SECOND));
}

/* Read "numbers" from its beginning: they are 0 … n-1 in order. Returns n, once nothing came for a while. */
MAYBE uint64_t get_numbers(struct thmq_session *session)
{
	struct thmq_message m[64];
	struct thmq_consumer *c;
	uint64_t n = 0, number;
	int got, i;

	MUST(thmq_consumer_open(session, "numbers", NULL, NULL, &c));
	do {
		got = thmq_fetch(c, m, 64);
		MUST(got);
		for (i = 0; i < got; i++, n++) {
			CHECK(m[i].len == sizeof(number));
			memcpy(&number, m[i].data, sizeof(number));
			if (number != n) {
				FAIL("number %llu where %llu was expected",
				     (unsigned long long)number, (unsigned long long)n);
				exit(1);
			}
		}
		MUST(thmq_release(c, m, (uint32_t)got));
	} while (got > 0 || wait_messages(session, SECOND / 5) == 1);
	MUST(thmq_consumer_close(c, SECOND));
	return n;
}

/* A directory with @count numbers in it, closed. */
MAYBE void numbers_dir(const char *dir, uint64_t count)
{
	struct world w;

	world_up(&w, dir);
	put_numbers(w.session, 0, count);
	world_down(&w);
}

/* The directory opens and holds just @count numbers. */
MAYBE void expect_numbers(const char *dir, uint64_t count)
{
	struct world w;
	uint64_t n;

	world_up(&w, dir);
	n = get_numbers(w.session);
	if (n != count)
		FAIL("%llu numbers in %s, not %llu", (unsigned long long)n, dir,
		     (unsigned long long)count);
	world_down(&w);
}

#define CASE_COUNT(cases) (sizeof(cases) / sizeof((cases)[0]))

#endif
