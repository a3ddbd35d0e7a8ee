/* SPDX-License-Identifier: Apache-2.0 */
/* rig_process.c - see rig_process.h. */
#include "rig_process.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(HAVE_NNG)
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#endif
#if defined(HAVE_ZMQ)
#include <zmq.h>
#endif

pid_t rig_process_start(void (*run)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork", -errno);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	run(arg);
	_exit(0);
}

void rig_process_stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* -------------------------------------------------------------- a cache line */

struct lines {
	_Alignas(128) _Atomic unsigned there;
	_Alignas(128) _Atomic unsigned back;
	_Alignas(128) int cpu;
};

static void echo_lines(void *arg)
{
	struct lines *l = arg;
	unsigned i;

	bench_pin(l->cpu);
	for (i = 1;; i++) {
		while (atomic_load_explicit(&l->there, memory_order_acquire) != i)
			bench_relax();
		atomic_store_explicit(&l->back, i, memory_order_release);
	}
}

double rig_process_line(const struct bench *b, unsigned count)
{
	struct lines *l =
		mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct bench_samples s;
	double median;
	pid_t pid;
	unsigned i;

	if (l == MAP_FAILED)
		bench_die("shared memory", -errno);
	l->cpu = b->cpu_core;
	pid = rig_process_start(echo_lines, l);
	bench_samples_init(&s, count);
	bench_pin(b->cpu_app);
	for (i = 1; i <= count + count / 10; i++) {
		uint64_t t0 = bench_now();

		atomic_store_explicit(&l->there, i, memory_order_release);
		while (atomic_load_explicit(&l->back, memory_order_acquire) != i)
			bench_relax();
		if (i > count / 10)
			bench_samples_add(&s, bench_now() - t0);
	}
	bench_unpin();
	rig_process_stop(pid);
	median = bench_percentile(&s, 0.5);
	bench_samples_fini(&s);
	munmap(l, sizeof(*l));
	return median;
}

/* ------------------------------------------------------------------ libraries */

/* A rival's two sides, and where the one that measures says what it found. */
struct rival {
	const struct bench *b;
	unsigned len, count;
	char url[3200];
	void (*echo)(struct rival *r);
	void (*measure)(struct rival *r, struct bench_samples *s);
	double *ret;
};

static void run_echo(void *arg)
{
	struct rival *r = arg;

	bench_pin(r->b->cpu_core);
	r->echo(r);
}

static void run_measure(void *arg)
{
	struct rival *r = arg;
	struct bench_samples s;

	bench_pin(r->b->cpu_app);
	bench_samples_init(&s, r->count);
	r->measure(r, &s);
	*r->ret = bench_percentile(&s, 0.5);
}

static double run_rival(struct rival *r)
{
	double result;
	pid_t echo, measure;

	snprintf(r->url, sizeof(r->url), "ipc://%s/rival-%d.sock", r->b->dir, (int)getpid());
	r->ret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r->ret == MAP_FAILED)
		bench_die("shared memory", -errno);
	echo = rig_process_start(run_echo, r);
	measure = rig_process_start(run_measure, r);
	waitpid(measure, NULL, 0);
	rig_process_stop(echo);
	unlink(r->url + strlen("ipc://"));
	result = *r->ret;
	munmap(r->ret, 4096);
	return result;
}

#if defined(HAVE_NNG)
static void nng_echo(struct rival *r)
{
	nng_socket s;
	nng_msg *m;

	if (nng_pair0_open(&s) != 0 || nng_listen(s, r->url, NULL, 0) != 0)
		return;
	while (nng_recvmsg(s, &m, 0) == 0 && nng_sendmsg(s, m, 0) == 0)
		;
}

static void nng_measure(struct rival *r, struct bench_samples *samples)
{
	nng_socket s;
	nng_msg *m;
	unsigned i;

	if (nng_pair0_open(&s) != 0)
		return;
	while (nng_dial(s, r->url, NULL, 0) != 0) /* until the other listens */
		bench_sleep_ns(1000000);
	if (nng_msg_alloc(&m, r->len) != 0)
		return;
	for (i = 0; i < r->count + r->count / 10; i++) {
		uint64_t t0 = bench_now();

		if (nng_sendmsg(s, m, 0) != 0 || nng_recvmsg(s, &m, 0) != 0)
			return;
		if (i >= r->count / 10)
			bench_samples_add(samples, bench_now() - t0);
	}
}

double rig_process_nng(const struct bench *b, unsigned len, unsigned count)
{
	return run_rival(&(struct rival){
		.b = b, .len = len, .count = count, .echo = nng_echo, .measure = nng_measure});
}
#else
double rig_process_nng(const struct bench *b, unsigned len, unsigned count)
{
	(void)b, (void)len, (void)count, (void)run_rival;
	return 0;
}
#endif

#if defined(HAVE_ZMQ)
static void *zmq_pair(void)
{
	void *ctx = zmq_ctx_new();

	return ctx ? zmq_socket(ctx, ZMQ_PAIR) : NULL;
}

static void zmq_echo(struct rival *r)
{
	void *s = zmq_pair();
	char bytes[4096];
	int n;

	if (!s || zmq_bind(s, r->url) != 0)
		return;
	while ((n = zmq_recv(s, bytes, sizeof(bytes), 0)) >= 0 &&
	       zmq_send(s, bytes, (size_t)n, 0) == n)
		;
}

static void zmq_measure(struct rival *r, struct bench_samples *samples)
{
	void *s = zmq_pair();
	char bytes[4096] = {0};
	unsigned i;

	if (!s || zmq_connect(s, r->url) != 0)
		return;
	for (i = 0; i < r->count + r->count / 10; i++) {
		uint64_t t0 = bench_now();

		if (zmq_send(s, bytes, r->len, 0) < 0 || zmq_recv(s, bytes, sizeof(bytes), 0) < 0)
			return;
		if (i >= r->count / 10)
			bench_samples_add(samples, bench_now() - t0);
	}
}

double rig_process_zmq(const struct bench *b, unsigned len, unsigned count)
{
	return run_rival(&(struct rival){
		.b = b, .len = len, .count = count, .echo = zmq_echo, .measure = zmq_measure});
}
#else
double rig_process_zmq(const struct bench *b, unsigned len, unsigned count)
{
	(void)b, (void)len, (void)count, (void)run_rival;
	return 0;
}
#endif
