/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_path_test.c - where a broker may listen with shm://, and who may connect there: paths that are wrong, too long, taken, of no socket, of
 * a socket that was left behind; file modes; names of no file; URLs in lists. And what a fork leaves of a session.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#define SECOND 1000000000ull

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #x, thmq_errmsg());        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static struct thmq_env *env;
static char dir[] = "shm-path-XXXXXX";

static int open_at(const char *url, struct thmq_broker **ret)
{
	return thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "x", .listen = url), ret);
}

static void works(const char *url)
{
	struct thmq_session *s;

	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_topic_create(
		      s, "t",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
}

static void works_alone(const char *url)
{
	struct thmq_broker *b;
	char got[640];

	CHECK(open_at(url, &b) == 0);
	works(url);
	CHECK(thmq_broker_listen_url(b, 0, got, sizeof(got)) == (int)strlen(url) &&
	      strcmp(got, url) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

static void in_dir(char *url, size_t size, const char *name)
{
	snprintf(url, size, "shm://%s/%s", dir, name);
}

static void urls(void)
{
	static const struct {
		const char *url;
		int connect, listen;
	} wrong[] = {
		{"shm://", -EINVAL, -EINVAL},
		{"shm://@", -EINVAL, -EINVAL},
		{"shm:///", -EINVAL, -EINVAL},
		{"shm://a/", -EINVAL, -EINVAL},
		{"shm://a%", -EINVAL, -EINVAL},
		{"shm://a%2", -EINVAL, -EINVAL},
		{"shm://a%zz", -EINVAL, -EINVAL},
		{"shm://a%00b", -EINVAL, -EINVAL},
		{"shm://a?", -EINVAL, -EINVAL},
		{"shm://a?mode=", -EINVAL, -EINVAL},
		{"shm://a?mode=9", -EINVAL, -EINVAL},
		{"shm://a?mode=7777", -EINVAL, -EINVAL},
		{"shm://a?trust=1", -EINVAL, -EINVAL},
		{"shm://"
		 "@01234567890123456789012345678901234567890123456789012345678901234567890123456789"
		 "01234567890123456789"
		 "0123456789",
		 -ENAMETOOLONG, -ENAMETOOLONG},
		{"shm:///no/such/directory/x", -ECONNREFUSED, -ENOENT},
		{"shm://@nobody-listens-here-4711", -ECONNREFUSED, 0},
	};
	struct thmq_session *s;
	struct thmq_broker *b;
	size_t i;

	for (i = 0; i < THMQI_ARRAY_COUNT(wrong); i++) {
		CHECK(thmq_connect(env, wrong[i].url, NULL, &s) == wrong[i].connect);
		CHECK(strstr(thmq_errmsg(), "shm://"));
		CHECK(open_at(wrong[i].url, &b) == wrong[i].listen);
		if (!wrong[i].listen)
			CHECK(thmq_broker_close(b, SECOND) == 0);
	}
}

static void names_and_lists(void)
{
	struct thmq_broker *b;
	char url[1400], long_dir[400], got[64];
	size_t n;

	snprintf(url, sizeof(url), "shm://@thundermq-test-%d", (int)getpid());
	works_alone(url);
	in_dir(url, sizeof(url), "a%2Cb%3Fc%25d");
	works_alone(url);
	/* longer than a socket address */
	n = (size_t)snprintf(long_dir, sizeof(long_dir), "%s/", dir);
	memset(long_dir + n, 'd', 200);
	long_dir[n + 200] = 0;
	CHECK(mkdir(long_dir, 0700) == 0);
	snprintf(url, sizeof(url), "shm://%s/socket", long_dir);
	works_alone(url);
	snprintf(url, sizeof(url),
		 "tcp://127.0.0.1:0,shm://%s/one,inproc://x,shm://%s/two?mode=666", dir, dir);
	CHECK(open_at(url, &b) == 0);
	in_dir(url, sizeof(url), "one");
	works(url);
	in_dir(url, sizeof(url), "two");
	works(url);
	CHECK(thmq_broker_listen_url(b, 2, url, sizeof(url)) > 0 && strstr(url, "two?mode=666"));
	works(url);
	CHECK(thmq_broker_listen_url(b, 1, got, 8) == -ENOSPC);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

static uint32_t mode_of(const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return lstat(path, &st) == 0 ? st.st_mode & 0777 : UINT32_MAX;
}

static void taken(void)
{
	struct thmq_broker *b, *other;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char url[128], name[128], both[300];
	int fd;

	in_dir(url, sizeof(url), "s");
	CHECK(open_at(url, &b) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "y", .listen = url), &other) ==
	      -EADDRINUSE);
	CHECK(strstr(thmq_errmsg(), url));
	works(url); /* and it is as it was */
	/* the second of two fails: the first is given back */
	snprintf(both, sizeof(both), "shm://%s/t,%s", dir, url);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "y", .listen = both), &other) ==
	      -EADDRINUSE);
	CHECK(mode_of("t") == UINT32_MAX);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(mode_of("s") == UINT32_MAX);
	/* a name that is taken */
	snprintf(name, sizeof(name), "shm://@thundermq-taken-%d", (int)getpid());
	CHECK(open_at(name, &b) == 0);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.name = "y", .listen = name), &other) ==
	      -EADDRINUSE);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	/* a file that is no socket stays */
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
	fd = open(a.sun_path, O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0 && close(fd) == 0);
	CHECK(open_at(url, &b) == -EADDRINUSE && strstr(thmq_errmsg(), "no socket"));
	CHECK(unlink(a.sun_path) == 0);
	/* a socket of somebody who is gone does not */
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0 &&
	      close(fd) == 0);
	CHECK(mode_of("s") != UINT32_MAX);
	works_alone(url);
	/* nor is another's taken away at the end that was put in ours' place */
	CHECK(open_at(url, &b) == 0 && unlink(a.sun_path) == 0);
	fd = open(a.sun_path, O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0 && close(fd) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	CHECK(unlink(a.sun_path) == 0);
}

/* As another user where we may become one, else as ourselves with a mode that shuts us out. */
static int connect_as_other(const char *url)
{
	struct thmq_session *s;
	struct thmq_env *e;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
			_exit(77);
		if (thmq_env_open(&e, NULL) != 0)
			_exit(78);
		_exit(-thmq_connect(e, url, THMQ_SESSION_OPTS(.timeout_ns = 5 * SECOND), &s));
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void modes(void)
{
	bool root = geteuid() == 0;
	struct thmq_broker *b;
	char url[128];
	mode_t mask = umask(0077);

	CHECK(chmod(dir, 0711) == 0);
	in_dir(url, sizeof(url), "m");
	CHECK(open_at(url, &b) == 0);
	CHECK(mode_of("m") == 0600);
	CHECK(connect_as_other(url) == (root ? -EACCES : 0));
	CHECK(thmq_broker_close(b, SECOND) == 0);
	in_dir(url, sizeof(url), "m?mode=666"); /* whatever the umask */
	CHECK(open_at(url, &b) == 0);
	CHECK(mode_of("m") == 0666);
	CHECK(connect_as_other(url) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	in_dir(url, sizeof(url), "m?mode=000");
	CHECK(open_at(url, &b) == 0);
	CHECK(connect_as_other(url) == -EACCES);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	snprintf(url, sizeof(url), "shm://@thundermq-mode-%d", (int)getpid());
	CHECK(open_at(url, &b) == 0);
	CHECK(connect_as_other(url) == (root ? -EACCES : 0));
	CHECK(thmq_broker_close(b, SECOND) == 0);
	strcat(url, "?mode=666");
	CHECK(open_at(url, &b) == 0);
	CHECK(connect_as_other(url) == 0);
	CHECK(thmq_broker_close(b, SECOND) == 0);
	umask(mask);
	/* a directory in which we may not make files */
	if (!root) {
		struct thmq_broker *none;

		CHECK(chmod(dir, 0500) == 0);
		in_dir(url, sizeof(url), "n");
		CHECK(open_at(url, &none) == -EACCES);
		CHECK(chmod(dir, 0700) == 0);
	}
}

static uint32_t sessions(struct thmq_broker *b)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(b, &st) == 0);
	return st.session_count;
}

/* A child that was forked has neither the session's memory nor a part in its end. */
static void forks(void)
{
	struct thmq_producer *p;
	struct thmq_session *s;
	struct thmq_broker *b;
	char url[128];
	int status, i;
	pid_t pid;

	in_dir(url, sizeof(url), "f");
	CHECK(open_at(url, &b) == 0);
	CHECK(thmq_connect(env, url, NULL, &s) == 0);
	CHECK(thmq_topic_create(s, "t", THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE)) == 0);
	CHECK(thmq_producer_open(s, "t", NULL, &p) == 0);
	pid = fork();
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		thmq_send(p, "x", 1, NULL);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(status != 0); /* it is not there: nobody's messages are mixed up with ours */
	pid = fork();       /* and one that stays behind does not keep us alive */
	if (pid == 0) {
		sleep(60);
		_exit(0);
	}
	CHECK(thmq_send(p, "x", 1, NULL) == 1);
	CHECK(thmq_flush(p, SECOND) == 0);
	CHECK(thmq_session_close(s, SECOND) == 0);
	works(url);
	for (i = 0; i < 500 && sessions(b); i++)
		usleep(10000);
	CHECK(sessions(b) == 0);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

/* What a ring watched goes a little after the ring: nobody else must have the name for that long. */
static void free_again(void)
{
	struct thmq_broker *b, *second;
	struct thmq_env *one;
	char url[64];
	int i;

	snprintf(url, sizeof(url), "shm://@thundermq-again-%d", (int)getpid());
	for (i = 0; i < 40; i++) {
		CHECK(thmq_env_open(&one, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
							.policy = THMQ_POLICY_EVENT)) == 0);
		CHECK(thmq_broker_open(one, THMQ_BROKER_OPTS(.name = "x", .listen = url), &b) == 0);
		if (i % 2)
			works(url);
		if (i % 4 < 2)
			CHECK(thmq_broker_close(b, SECOND) == 0);
		CHECK(thmq_env_close(one, SECOND) == 0);
	}
	CHECK(open_at(url, &b) == 0); /* and who listens keeps it */
	CHECK(thmq_env_open(&one, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN)) == 0);
	CHECK(thmq_broker_open(one, THMQ_BROKER_OPTS(.name = "x", .listen = url), &second) ==
	      -EADDRINUSE);
	CHECK(thmq_env_close(one, SECOND) == 0);
	works(url);
	CHECK(thmq_broker_close(b, SECOND) == 0);
}

int main(void)
{
	char command[64];

	CHECK(mkdtemp(dir));
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	urls();
	names_and_lists();
	taken();
	modes();
	free_again();
	forks();
	CHECK(thmq_env_close(env, SECOND) == 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0;
}
