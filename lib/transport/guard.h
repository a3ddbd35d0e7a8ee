/* SPDX-License-Identifier: Apache-2.0 */
/* guard.h - the interceptors of an environment, and of one connection. */
#ifndef THMQI_TRANSPORT_GUARD_H
#define THMQI_TRANSPORT_GUARD_H

#include <thundermq/transport.h>

#include "base/base.h"

#define THMQI_INTERCEPTORS_MAX 4u

struct thmqi_transport;

/* Those of a connection. */
struct thmqi_guards {
	uint32_t count;
	struct {
		struct thmq_interceptor ops;
		void *state;
	} each[THMQI_INTERCEPTORS_MAX];
	uint64_t hold_ns[2]; /* when to ask again: 0 of sending, 1 of receiving; 0: now */
};

/* *ret_guards NULL: there are none. An error of one of them. On the connection's core. */
int thmqi_guards_open(struct thmqi_transport *t, bool of_broker, const char *scheme,
		      struct thmqi_guards **ret_guards);
void thmqi_guards_close(struct thmqi_guards **guards, int error); /* and *guards NULL is allowed */
/* What shall become of it. 0; an error: the connection ends with it. -EAGAIN: not before hold_ns. */
int thmqi_guards_ask(struct thmqi_guards *g, bool receiving, uint64_t now_ns,
		     struct thmq_intercept *what);
void thmqi_guards_sent(struct thmqi_guards *g, const struct iovec *iov, uint32_t count,
		       uint64_t bytes);
void thmqi_guards_received(struct thmqi_guards *g, const struct iovec *iov, uint32_t count,
			   uint64_t bytes);
/* The same places, @bytes at most. Return: how many of @to. */
uint32_t thmqi_guards_trim(const struct iovec *iov, uint32_t count, uint64_t bytes,
			   struct iovec *to);

/* fault.c */
void thmqi_fault_close_all(struct thmqi_transport *t);

#endif
