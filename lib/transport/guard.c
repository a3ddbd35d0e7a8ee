/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.c - interceptors: added to an environment, asked of each sending and receiving of its connections. Knows neither what they
 * are for nor how bytes move.
 */
#include "guard.h"
#include "internal.h"

int thmqi_transport_intercept(struct thmqi_transport *t, const struct thmq_interceptor *ops)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&t->lock);
	if (t->interceptor_count < THMQI_INTERCEPTORS_MAX) {
		t->interceptors[t->interceptor_count++] = *ops;
		rc = 0;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int thmqi_guards_open(struct thmqi_transport *t, bool of_broker, const char *scheme,
		      struct thmqi_guards **ret_guards)
{
	struct thmq_connection connection = {
		.size = sizeof(connection), .of_broker = of_broker, .scheme = scheme};
	struct thmqi_guards *g;
	uint32_t i, count;
	int rc = 0;

	*ret_guards = NULL;
	pthread_mutex_lock(&t->lock);
	connection.number = ++t->connection_number;
	count = t->interceptor_count;
	pthread_mutex_unlock(&t->lock);
	if (!count)
		return 0;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	for (i = 0; i < count && !rc; i++) {
		g->each[i].ops = t->interceptors[i]; /* those that are there do not change */
		if (g->each[i].ops.open)
			rc = g->each[i].ops.open(g->each[i].ops.ctx, &connection,
						 &g->each[i].state);
		g->count += !rc;
	}
	if (rc < 0)
		thmqi_guards_close(&g, rc);
	*ret_guards = g;
	return rc < 0 ? rc : 0;
}

void thmqi_guards_close(struct thmqi_guards **guards, int error)
{
	struct thmqi_guards *g = *guards;
	uint32_t i;

	if (!g)
		return;
	for (i = 0; i < g->count; i++)
		if (g->each[i].ops.close)
			g->each[i].ops.close(g->each[i].state, error);
	free(g);
	*guards = NULL;
}

int thmqi_guards_ask(struct thmqi_guards *g, bool receiving, uint64_t now_ns,
		     struct thmq_intercept *what)
{
	uint64_t most = what->bytes, wait = 0;
	uint32_t i;

	if (g->hold_ns[receiving] > now_ns)
		return -EAGAIN;
	for (i = 0; i < g->count && !what->error; i++) {
		const struct thmq_interceptor *ops = &g->each[i].ops;
		void (*ask)(void *state, struct thmq_intercept *what) =
			receiving ? ops->before_receive : ops->before_send;

		what->now_ns = now_ns;
		what->wait_ns = 0;
		if (ask)
			ask(g->each[i].state, what);
		wait = THMQI_MAX(wait, what->wait_ns);
		most = THMQI_MAX(THMQI_MIN(most, what->bytes), 1u);
		what->bytes = most;
	}
	g->hold_ns[receiving] = wait ? now_ns + wait : 0;
	if (what->error)
		return what->error < 0 ? what->error : -ECONNRESET;
	return wait ? -EAGAIN : 0;
}

void thmqi_guards_sent(struct thmqi_guards *g, const struct iovec *iov, uint32_t count,
		       uint64_t bytes)
{
	uint32_t i;

	for (i = 0; i < g->count; i++)
		if (g->each[i].ops.sent)
			g->each[i].ops.sent(g->each[i].state, iov, count, bytes);
}

/* The last one added lies nearest to the wire. */
void thmqi_guards_received(struct thmqi_guards *g, const struct iovec *iov, uint32_t count,
			   uint64_t bytes)
{
	uint32_t i;

	for (i = g->count; i-- > 0;)
		if (g->each[i].ops.received)
			g->each[i].ops.received(g->each[i].state, iov, count, bytes);
}

uint32_t thmqi_guards_trim(const struct iovec *iov, uint32_t count, uint64_t bytes,
			   struct iovec *to)
{
	uint32_t n;

	for (n = 0; n < count && bytes; n++) {
		to[n] = iov[n];
		to[n].iov_len = THMQI_MIN(to[n].iov_len, (size_t)bytes);
		bytes -= to[n].iov_len;
	}
	return n;
}
