/* SPDX-License-Identifier: Apache-2.0 */
/* rig_mq.h - messages through TCP by others: ZeroMQ and nng, push to pull, from one thread to another. */
#ifndef RIG_MQ_H
#define RIG_MQ_H

#include "bench.h"

struct rig_mq {
	const char *name;
	/* Messages a ns; NULL: not installed. */
	double (*flow)(int cpu_app, int cpu_core, unsigned bytes, uint64_t count);
};

extern const struct rig_mq rig_zmq, rig_nng;

#endif
