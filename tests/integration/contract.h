/* SPDX-License-Identifier: Apache-2.0 */
/*
 * contract.h - for programs that ask the same of every medium: a broker, and sessions that reach it by the medium that the first argument
 * names; transport_contract_test.c says which there are. One program each: everything is static.
 */
#ifndef CONTRACT_H
#define CONTRACT_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thundermq/transport.h>
#include <time.h>
#include <unistd.h>

#include "../check.h"
#if defined(HAVE_OPENSSL)
#include "../certs.h"
#endif

#define MAYBE __attribute__((unused)) static

static const char *medium;
static char dir[] = "contract-XXXXXX";
static char url[128];
static struct thmq_env *home, *away; /* the broker's, the clients': perhaps the same */
static struct thmq_broker *broker;
static const char *access_rules; /* the broker's file of them; NULL: none */
static void (*on_denied)(void *ctx, const struct thmq_access *what);

static bool is(const char *what)
{
	return strcmp(medium, what) == 0;
}

MAYBE bool is_psk(void)
{
	return strncmp(medium, "tls-psk", 7) == 0;
}

/* ----------------------------------------------------------------------- TLS */

#if defined(HAVE_OPENSSL)
static char certs[] = "contract-certs-XXXXXX";

/* Of the broker, or of a session; NULL: none. */
static const struct thmq_tls_opts *tls(bool of_broker)
{
	static _Thread_local struct thmq_tls_opts o;

	thmq_tls_opts_init(&o);
	if (is_psk()) {
		o.psk_file = of_broker ? certs_path(certs, "keys.psk") : NULL;
		o.psk_identity = of_broker ? NULL : "client";
		o.psk_key = of_broker ? NULL : CERTS_PSK;
		return &o;
	}
	o.flags = is("tls-kernel") ? THMQ_TLS_KERNEL : 0;
	o.ca_file = certs_path(certs, "ca.pem");
	o.cert_file = certs_path(certs, of_broker ? "server.pem" : "client.pem");
	o.key_file = certs_path(certs, of_broker ? "server.key" : "client.key");
	return strncmp(medium, "tls", 3) == 0 ? &o : NULL;
}

static void tls_begin(void)
{
	if (strncmp(medium, "tls", 3) != 0)
		return;
	CHECK(mkdtemp(certs));
	certs_make(certs);
}

static void tls_end(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", certs);
	if (strncmp(medium, "tls", 3) == 0)
		CHECK(system(command) == 0);
}
#else
static const struct thmq_tls_opts *tls(bool of_broker)
{
	return NULL;
}

static void tls_begin(void)
{
	if (strncmp(medium, "tls", 3) == 0)
		exit(77);
}

static void tls_end(void)
{
}
#endif

static void remove_data(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	CHECK(system(command) == 0);
}

/* What is to be tested may not be there. */
static void look_for_kernel(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};
	struct thmq_session *s;

	if (!is("tls-kernel"))
		return;
	CHECK(thmq_connect(away, url, THMQ_SESSION_OPTS(.tls = tls(false)), &s) == 0);
	CHECK(thmq_broker_stats(broker, &st) == 0 && st.tls_count >= 1);
	CHECK(thmq_session_close(s, SECOND) == 0);
	if (st.kernel_tls_count == st.tls_count)
		return;
	CHECK(thmq_broker_close(broker, SECOND) == 0);
	CHECK(thmq_env_close(away, SECOND) == 0 && thmq_env_close(home, SECOND) == 0);
	remove_data();
	tls_end();
	puts("skipped: this kernel does not encrypt (modprobe tls)");
	exit(77);
}

static bool is_shm(void)
{
	return strncmp(medium, "shm", 3) == 0;
}

MAYBE bool is_rdma(void)
{
	return strncmp(medium, "rdma", 4) == 0;
}

static bool is_of(const char *kind) /* "-same" and the like, of any medium */
{
	const char *dash = strrchr(medium, '-');

	return dash && strcmp(dash, kind) == 0;
}

MAYBE bool is_alone(void) /* one core for the broker and its client */
{
	return is_of("-same") || is_psk();
}

static uint32_t env_flags(void)
{
	return THMQ_ENV_NO_PIN | (is_of("-plain") ? THMQ_ENV_NO_URING : 0);
}

/* As containers do; from now on, in this whole process. 77 where nobody may filter. */
static void refuse_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	if (is_of("-refused") && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
				  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0))
		exit(77);
}

/* -------------------------------------------------------- a transport of the test's own */

#define WAITING_MAX 64

/* Pairs of sockets, handed over in this process. */
static struct {
	pthread_mutex_t lock;
	int ready; /* an eventfd that counts the waiting */
	int waiting[WAITING_MAX], count;
} pairs = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready = -1};

static int pair_connect(void *ctx, const char *at, int *ret_fd)
{
	const uint64_t one = 1;
	int fds[2], rc = -ECONNREFUSED;

	(void)ctx, (void)at;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	pthread_mutex_lock(&pairs.lock);
	if (pairs.ready >= 0 && pairs.count < WAITING_MAX) {
		pairs.waiting[pairs.count++] = fds[1];
		CHECK(write(pairs.ready, &one, sizeof(one)) == sizeof(one));
		rc = 0;
	}
	pthread_mutex_unlock(&pairs.lock);
	if (rc) {
		close(fds[0]);
		close(fds[1]);
		return rc;
	}
	*ret_fd = fds[0];
	return 0;
}

static int pair_listen(void *ctx, const char *at, int *ret_fd, char *ret_url, uint32_t url_size)
{
	(void)ctx, (void)at, (void)ret_url, (void)url_size;
	*ret_fd = pairs.ready = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	return pairs.ready < 0 ? -errno : 0;
}

static int pair_accept(void *ctx, int listen_fd, int *ret_fd)
{
	uint64_t one;

	(void)ctx;
	if (read(listen_fd, &one, sizeof(one)) != sizeof(one))
		return -errno;
	pthread_mutex_lock(&pairs.lock);
	*ret_fd = pairs.waiting[0];
	memmove(pairs.waiting, pairs.waiting + 1, (size_t)--pairs.count * sizeof(pairs.waiting[0]));
	pthread_mutex_unlock(&pairs.lock);
	return 0;
}

static void pair_close(void *ctx, int fd)
{
	(void)ctx;
	pthread_mutex_lock(&pairs.lock);
	if (fd == pairs.ready) { /* nobody will accept these */
		while (pairs.count)
			close(pairs.waiting[--pairs.count]);
		pairs.ready = -1;
	}
	pthread_mutex_unlock(&pairs.lock);
	close(fd);
}

/* Of each environment; what moves comes late now and then, and in pieces. */
static void own_transport(struct thmq_env *e)
{
	static const struct thmq_transport transport = {.size = sizeof(transport),
							.scheme = "pair",
							.connect = pair_connect,
							.listen = pair_listen,
							.accept = pair_accept,
							.close = pair_close};
	struct thmq_fault *fault;

	if (!is("own"))
		return;
	CHECK(thmq_transport_register(e, &transport) == 0);
	CHECK(thmq_fault_open(e, THMQ_FAULT_OPTS(.seed = 4711, .short_ppm = 200000, .delay_ppm = 10000, .delay_ns = 300000), &fault) == 0);
}

/* With "from" the one that clients come from. */
static const char *port_of(bool from)
{
	const char *at = getenv("THMQ_TEST_RDMA"), *of = getenv("THMQ_TEST_RDMA_FROM");

	if (!at)
		return from ? "10.0.0.2" : "10.0.0.1";
	return from && of ? of : at;
}

static void open_broker(void)
{
	char socket[64], device[64];
	const char *listen = is("inproc") ? NULL
			     : is("tcp6") ? "tcp://[::1]:0"
			     : is("tls")  ? "tls://127.0.0.1:0"
			     : is("tcp-zerocopy") ? "tcp://127.0.0.1:0?zerocopy=always"
			     : is("own")  ? "pair://broker"
					  : "tcp://127.0.0.1:0";

	snprintf(socket, sizeof(socket), "shm://%s/socket", dir);
	if (is_shm())
		listen = socket;
	snprintf(device, sizeof(device), "rdma://%.40s:0", port_of(false));
	if (is_rdma())
		listen = device;
	CHECK(thmq_env_open(&home, THMQ_ENV_OPTS(.core_count = is_alone() ? 0 : 2, .flags = env_flags(),
						 .pool_bytes = 256 << 20,
						 .policy = THMQ_POLICY_EVENT)) == 0);
	own_transport(home);
	CHECK(thmq_broker_open(home,
			       THMQ_BROKER_OPTS(.data_dir = dir, .listen = listen, .shard_count = 2,
						.segment_bytes = 16 << 20, .tls = tls(true),
						.access_file = access_rules, .audit = on_denied),
			       &broker) == 0);
}

/* ------------------------------------------------- the broker in another process */

static int child = -1; /* a socket to it; -1: the broker is in this one */
static pid_t child_pid;

static uint32_t sessions_here(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(broker, &st) == 0);
	return st.session_count;
}

static void serve(int fd)
{
	char what;
	int32_t answer;

	open_broker();
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) > 0);
	CHECK(write(fd, url, sizeof(url)) == sizeof(url));
	while (read(fd, &what, 1) == 1) {
		if (what == 's')
			answer = (int32_t)sessions_here();
		else
			answer = thmq_broker_close(broker, 5 * SECOND);
		CHECK(write(fd, &answer, sizeof(answer)) == sizeof(answer));
	}
	CHECK(thmq_env_close(home, 5 * SECOND) == 0);
	_exit(0);
}

static int32_t ask(char what)
{
	int32_t answer;

	CHECK(write(child, &what, 1) == 1 && read(child, &answer, sizeof(answer)) == sizeof(answer));
	return answer;
}

static void start_child(void)
{
	int s[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	fflush(stdout);
	child_pid = fork();
	if (child_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(s[0]);
		serve(s[1]);
	}
	close(s[1]);
	child = s[0];
	CHECK(read(child, url, sizeof(url)) == sizeof(url)); /* it listens */
	broker = (struct thmq_broker *)&child; /* there is one */
}

static void end_child(void)
{
	int status;

	close(child);
	CHECK(waitpid(child_pid, &status, 0) == child_pid && status == 0);
	child = -1;
}

MAYBE int close_broker(void)
{
	return child >= 0 ? ask('c') : thmq_broker_close(broker, 5 * SECOND);
}

/* --------------------------------------------------------------------- all of it */

static void come_from(void)
{
	if (is_rdma())
		snprintf(url + strlen(url), sizeof(url) - strlen(url), "?from=%.40s", port_of(true));
}

static void up(void)
{
	bool alone = is_alone(), host = is_of("-host") || is_of("-two");

	if (is_of("-two")) {
		start_child();
		come_from();
		CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.flags = THMQ_ENV_NO_PIN,
							 .pool_bytes = is_rdma() ? 256 << 20 : 64 << 20,
							 .policy = THMQ_POLICY_EVENT)) == 0);
		return;
	}
	open_broker();
	away = home;
	if (is("inproc")) {
		snprintf(url, sizeof(url), "inproc://");
		return;
	}
	CHECK(thmq_broker_listen_url(broker, 0, url, sizeof(url)) == (int)strlen(url));
	if (is("tcp-zerocopy"))
		strcat(url, "?zerocopy=always");
	come_from();
	if (!alone) {
		CHECK(thmq_env_open(&away, THMQ_ENV_OPTS(.core_count = host ? 0 : 1, .flags = env_flags(),
							 .pool_bytes = 256 << 20,
							 .policy = THMQ_POLICY_EVENT)) == 0);
		own_transport(away);
	}
	look_for_kernel();
}

MAYBE uint32_t sessions(void)
{
	return child >= 0 ? (uint32_t)ask('s') : sessions_here();
}

MAYBE void drive(uint64_t ns)
{
	struct timespec t = {.tv_nsec = (long)ns};

	if (thmq_poll(away, ns) == -EPERM)
		nanosleep(&t, NULL);
}

static void down(void)
{
	uint64_t end = now() + 5 * SECOND;

	/* nothing of a session is left behind at the broker */
	while (!UNDER_TSAN && broker && sessions() && now() < end)
		drive(MS);
	CHECK(UNDER_TSAN || !broker || sessions() == 0);
	if (away != home)
		CHECK(thmq_env_close(away, SECOND) == 0);
	if (child >= 0)
		end_child();
	else
		CHECK(thmq_env_close(home, 5 * SECOND) == 0);
	broker = NULL;
}

MAYBE struct thmq_session *session_of(const struct thmq_session_opts *opts)
{
	struct thmq_session_opts o = {.size = sizeof(o)};
	struct thmq_session *s;

	if (opts)
		o = *opts;
	o.tls = tls(false);
	CHECK(thmq_connect(away, url, &o, &s) == 0);
	return s;
}

/* Fetches until there is something, or @ns passed. */
MAYBE int fetch(struct thmq_session *s, struct thmq_consumer *c, struct thmq_message *m,
		 uint32_t max, uint64_t ns)
{
	uint64_t end = now() + ns;
	int n;

	while ((n = thmq_fetch(c, m, max)) == 0 && now() < end)
		if (thmq_session_wait(s, 10 * MS) < 0)
			return thmq_fetch(c, m, max);
	return n;
}

MAYBE bool next_event(struct thmq_session *s, uint32_t type, struct thmq_event *ret, uint64_t ns)
{
	uint64_t end = now() + ns;

	for (;;) {
		while (thmq_events(s, ret, 1) == 1)
			if (ret->type == type)
				return true;
		if (now() >= end)
			return false;
		if (thmq_session_wait(s, 10 * MS) < 0 && thmq_events(s, ret, 1) != 1)
			return false;
		if (ret->type == type && ret->type == THMQ_EVENT_CLOSED)
			return true;
	}
}

MAYBE void fill(uint8_t *data, uint32_t len, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		data[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

MAYBE bool filled(const uint8_t *data, uint32_t len, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		if (data[i] != (uint8_t)(number * 31 + i * 7 + (i >> 8)))
			return false;
	return true;
}

/* --------------------------------------------------------------------- cases */

static void down_and_away(void)
{
	down();
	remove_data();
}

MAYBE int contract_run(int argc, char **argv, const struct test_case *cases, size_t count)
{
	medium = argc > 1 ? argv[1] : "inproc";
	if (!mkdtemp(dir))
		return 1;
	refuse_uring();
	tls_begin();
	run_cases(cases, count, argc > 2 ? argc - 2 : 0, argv + 2, up, down_and_away);
	tls_end();
	return 0;
}

#endif
