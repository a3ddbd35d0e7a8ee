/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_server.c - another program as a rival: see rig_server.h.
 */
#include "rig_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVERS_MAX 8
#define START_NS 10000000000u
#define STOP_NS 5000000000u

/* Ended at exit, before the directory that they write to goes: bench_init() registered that one earlier. */
static pid_t running[SERVERS_MAX];

bool rig_server_find(const char *program, char *ret_path, size_t size)
{
	static const char debian[] = ":/usr/sbin:/usr/bin:/usr/local/bin";
	const char *path = getenv("PATH");
	char dirs[8192], *rest = dirs, *dir;

	if ((size_t)snprintf(dirs, sizeof(dirs), "%s%s", path ? path : "", debian) >= sizeof(dirs))
		return false;
	while ((dir = strsep(&rest, ":")) != NULL) {
		if (dir[0] != '/' ||
		    (size_t)snprintf(ret_path, size, "%s/%s", dir, program) >= size)
			continue;
		if (access(ret_path, X_OK) == 0)
			return true;
	}
	return false;
}

static void stop_all(void)
{
	for (int i = 0; i < SERVERS_MAX; i++)
		if (running[i] > 0)
			rig_server_stop(running[i]);
}

static void remember(pid_t pid)
{
	static bool registered;

	if (!registered)
		atexit(stop_all);
	registered = true;
	for (int i = 0; i < SERVERS_MAX; i++) {
		if (running[i] == 0) {
			running[i] = pid;
			return;
		}
	}
	bench_die("too many servers", EMFILE);
}

static void forget(pid_t pid)
{
	for (int i = 0; i < SERVERS_MAX; i++)
		if (running[i] == pid)
			running[i] = 0;
}

static void child(const char *dir, char *const argv[], pid_t parent) __attribute__((noreturn));
static void child(const char *dir, char *const argv[], pid_t parent)
{
	int log;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* also if the bench is killed */
	if (getppid() != parent || chdir(dir) != 0)
		_exit(127);
	alarm(0);
	bench_unpin();
	log = open("server.log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (log >= 0) {
		dup2(log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
	}
	log = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (log >= 0)
		dup2(log, STDIN_FILENO);
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	execv(argv[0], argv);
	_exit(127);
}

pid_t rig_server_start(const char *dir, char *const argv[])
{
	pid_t parent = getpid(), pid;

	bench_spin_end(); /* it would inherit the slice */
	pid = fork();
	if (pid < 0)
		bench_die(argv[0], errno);
	if (pid == 0)
		child(dir, argv, parent);
	remember(pid);
	return pid;
}

int rig_server_run(const char *dir, char *const argv[])
{
	pid_t pid = rig_server_start(dir, argv);
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	forget(pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool rig_server_alive(pid_t pid)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == 0;
}

void rig_server_stop(pid_t pid)
{
	uint64_t begin = bench_now();

	if (pid <= 0)
		return;
	forget(pid);
	kill(pid, SIGTERM);
	while (rig_server_alive(pid) && bench_now() - begin < STOP_NS)
		bench_sleep_ns(1000000);
	kill(pid, SIGKILL); /* not yet waited for: the process number is still its own */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons((uint16_t)port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int rig_server_port(void)
{
	struct sockaddr_in a = loopback(0);
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		bench_die("a free port", errno);
	close(fd);
	return ntohs(a.sin_port);
}

int rig_server_connect_tcp(pid_t pid, int port)
{
	struct sockaddr_in a = loopback(port);
	uint64_t begin = bench_now();
	int one = 1;

	while (rig_server_alive(pid) && bench_now() - begin < START_NS) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			bench_die("socket", errno);
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			return fd;
		}
		close(fd);
		bench_sleep_ns(10000000);
	}
	return -1;
}

void rig_server_write(int fd, const void *data, size_t len, const char *who)
{
	const char *at = data;

	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			bench_die(who, n < 0 ? errno : EPIPE);
		at += n;
		len -= (size_t)n;
	}
}
