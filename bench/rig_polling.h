/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_polling.h - one core of the library under a policy, and load on it that does not know of the policy: messages of 100 B to a volatile
 * topic, each sent at its time (open loop), watched until it is settled. The latency of a message counts from when it should have been
 * sent. Two threads: the core's, on bench.cpu_core, and the application's, which always spins, on bench.cpu_app.
 *
 * In process the session shares memory with the core. Over tcp and rdma the application's thread drives a core of its own, which spins as well, and
 * the socket or the device is between the two. Over shm the broker is another process, and the application's thread has no core.
 */
#ifndef BENCH_RIG_POLLING_H
#define BENCH_RIG_POLLING_H

#include <sys/types.h>
#include <thundermq/reactor.h>

#include "bench.h"

enum polling_medium { POLLING_INPROC, POLLING_TCP, POLLING_SHM, POLLING_RDMA, POLLING_MEDIUMS };
extern const char *const polling_mediums[POLLING_MEDIUMS];
extern const char *const polling_policies[7]; /* by enum thmq_policy */

struct polling_rig {
	const struct bench *bench;
	struct thmq_env *env; /* of the broker; over shm in its process */
	struct thmq_env
		*app_env; /* over tcp and rdma: its core is driven; over shm not; else NULL */
	struct thmq_core *core;
	struct thmq_broker *broker;
	pid_t pid;       /* the broker's process over shm; else 0 */
	int ask, answer; /* pipes to it: a byte there, counters back */
	struct thmq_env_opts waits;
	char url[3200];
	struct thmq_session *session;
	struct thmq_producer *producer;
	int64_t settled;
	uint64_t chance;
};

/* Is there what the medium needs? NULL, or why not. */
const char *polling_lacks(enum polling_medium medium);
void polling_open(struct polling_rig *r, const struct bench *b, enum polling_medium medium,
		  const struct thmq_env_opts *waits);
void polling_close(struct polling_rig *r);

enum polling_pattern {
	POLLING_POISSON,
	POLLING_BATCHES, /* of 32 */
	POLLING_ON_OFF, /* bursts of about 100 at ten times the rate, silences of a heavy tail between them */
	POLLING_WAVES, /* a tenth of a second at the rate, and one at a twentieth of it */
	POLLING_TIDE,  /* over a decade up and down, in two seconds */
	POLLING_PATTERNS
};
extern const char *const polling_patterns[POLLING_PATTERNS];

struct polling_figures {
	double messages; /* that were settled */
	double seconds;
	double p50, p99, p999, mean; /* ns */
	double cpu;                  /* ns of the core's thread, and of what forecasts for it */
	double wakeups, sleeps, hits, misses;
	double in_charge; /* 1: at the end the policy that was asked for was in charge */
};

/* At @rate messages a second for @ns; 0: nothing is sent. */
void polling_load(struct polling_rig *r, enum polling_pattern pattern, double rate, uint64_t ns,
		  struct bench_samples *s, struct polling_figures *ret);
/* One message at a time; @pause_ns from an answer to the next one. */
void polling_ping(struct polling_rig *r, uint64_t pause_ns, uint64_t ns, struct bench_samples *s,
		  struct polling_figures *ret);
/* As many as it takes. */
void polling_flood(struct polling_rig *r, uint64_t ns, struct polling_figures *ret);

#endif
