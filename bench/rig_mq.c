/* SPDX-License-Identifier: Apache-2.0 */
/* rig_mq.c - see rig_mq.h. Each as its own examples do it: batching, threads and buffers are as they come. */
#include "rig_mq.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(HAVE_ZMQ) || defined(HAVE_NNG)
struct taker {
	int cpu;
	uint64_t count;
	void *socket;
};

static double timed(int cpu_app, struct taker *t, void *(*take)(void *),
		    void (*give)(void *, const char *, size_t), void *socket, unsigned bytes)
{
	char *data = calloc(1, bytes);
	pthread_t thread;
	uint64_t begin;

	if (pthread_create(&thread, NULL, take, t) != 0)
		bench_die("second thread", -EAGAIN);
	bench_pin(cpu_app);
	begin = bench_now();
	for (uint64_t i = 0; i < t->count; i++)
		give(socket, data, bytes);
	pthread_join(thread, NULL);
	begin = bench_now() - begin;
	bench_unpin();
	free(data);
	return (double)t->count / (double)begin;
}
#endif

#if defined(HAVE_ZMQ)
#include <zmq.h>

static void zmq_give(void *socket, const char *data, size_t bytes)
{
	if (zmq_send(socket, data, bytes, 0) < 0)
		bench_die("zmq_send", -errno);
}

static void *zmq_take(void *arg)
{
	struct taker *t = arg;
	zmq_msg_t m;

	bench_pin(t->cpu);
	zmq_msg_init(&m);
	for (uint64_t i = 0; i < t->count; i++)
		if (zmq_msg_recv(&m, t->socket, 0) < 0)
			bench_die("zmq_msg_recv", -errno);
	zmq_msg_close(&m);
	return NULL;
}

static double zmq_flow(int cpu_app, int cpu_core, unsigned bytes, uint64_t count)
{
	void *context = zmq_ctx_new(), *push = zmq_socket(context, ZMQ_PUSH),
	     *pull = zmq_socket(context, ZMQ_PULL);
	struct taker t = {.cpu = cpu_core, .count = count, .socket = pull};
	char url[128];
	size_t len = sizeof(url);
	double rate;

	if (zmq_bind(pull, "tcp://127.0.0.1:*") != 0 ||
	    zmq_getsockopt(pull, ZMQ_LAST_ENDPOINT, url, &len) != 0 || zmq_connect(push, url) != 0)
		bench_die("zmq", -errno);
	rate = timed(cpu_app, &t, zmq_take, zmq_give, push, bytes);
	zmq_close(push);
	zmq_close(pull);
	zmq_ctx_destroy(context);
	return rate;
}
const struct rig_mq rig_zmq = {"zeromq", zmq_flow};
#else
const struct rig_mq rig_zmq = {"zeromq", NULL};
#endif

#if defined(HAVE_NNG)
#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>

static void nng_give(void *socket, const char *data, size_t bytes)
{
	if (nng_send(*(nng_socket *)socket, (void *)(uintptr_t)data, bytes, 0) != 0)
		bench_die("nng_send", EIO);
}

static void *nng_take(void *arg)
{
	struct taker *t = arg;
	nng_msg *m;

	bench_pin(t->cpu);
	for (uint64_t i = 0; i < t->count; i++) {
		if (nng_recvmsg(*(nng_socket *)t->socket, &m, 0) != 0)
			bench_die("nng_recvmsg", EIO);
		nng_msg_free(m);
	}
	return NULL;
}

static double nng_flow(int cpu_app, int cpu_core, unsigned bytes, uint64_t count)
{
	struct taker t = {.cpu = cpu_core, .count = count};
	nng_socket push, pull;
	nng_listener listener;
	nng_sockaddr at;
	char url[64];
	double rate;

	if (nng_push0_open(&push) != 0 || nng_pull0_open(&pull) != 0 ||
	    nng_listen(pull, "tcp://127.0.0.1:0", &listener, 0) != 0 ||
	    nng_listener_get_addr(listener, NNG_OPT_LOCADDR, &at) != 0)
		bench_die("nng", EIO);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%u",
		 (unsigned)(at.s_in.sa_port >> 8 | (at.s_in.sa_port & 255) << 8));
	if (nng_dial(push, url, NULL, 0) != 0)
		bench_die("nng_dial", EIO);
	t.socket = &pull;
	rate = timed(cpu_app, &t, nng_take, nng_give, &push, bytes);
	nng_close(push);
	nng_close(pull);
	return rate;
}
const struct rig_mq rig_nng = {"nng", nng_flow};
#else
const struct rig_mq rig_nng = {"nng", NULL};
#endif
