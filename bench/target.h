/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target.h - the library under test, opened the ways the benchmarks need it, through its public header only: an
 * environment, a broker, a session, one topic, a producer and perhaps a consumer, used from one application thread.
 */
#ifndef BENCH_TARGET_H
#define BENCH_TARGET_H

#include <thundermq/reactor.h>
#include <thundermq/thundermq.h>

#include "bench.h"

enum target_layout {
	TARGET_CALLER, /* the application's thread drives the core: one CPU */
	TARGET_PINNED /* a thread of the library drives the core on cpu_core, the application is on cpu_app */
};

struct target_opts {
	enum target_layout layout;
	uint32_t policy;       /* enum thmq_policy */
	const char *dir;       /* NULL: volatile */
	uint32_t topic_flags;  /* THMQ_TOPIC_VOLATILE */
	uint32_t visible_at;   /* enum thmq_durability */
	uint32_t durability;   /* of the producer */
	uint32_t compression;  /* likewise, enum thmq_compression */
	uint64_t window_bytes; /* of the session */
	uint32_t window_count;
	bool consumer; /* open one, at the end of the topic */
	uint64_t segment_bytes;   /* 0: the library's default */
	uint64_t retention_bytes; /* 0: all is kept */
};

struct target {
	const struct bench *bench;
	struct target_opts opts;
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
	struct thmq_consumer *consumer; /* or NULL */
};

/* Opens all, leaves the calling thread where the layout wants it, and waits until the disk is quiet. Exits on failure. */
void target_open(struct target *t, const struct bench *b, const struct target_opts *opts);
/* Closes all; the calling thread may run anywhere again. */
void target_close(struct target *t);

/* Wait until the environment has written nothing for a while: segments are prepared, marks are stored. */
void target_settle(struct target *t);
/* Drive or take in: what an application does while it has to wait. */
static inline void target_pump(struct target *t)
{
	if (t->opts.layout == TARGET_CALLER)
		thmq_poll(t->env, 0);
	else
		bench_relax();
}
/* Send, waiting for room where there is none. Exits on any other failure. */
int64_t target_send(struct target *t, const void *data, uint32_t len);
/* Wait by watching until all up to @sequence is settled. */
void target_watch(struct target *t, int64_t sequence);

struct target_counts {
	uint64_t batches, stored_bytes, written_bytes; /* the last one with what segments cost */
	uint64_t busy_ns; /* of the first core: iterations in which something was done */
};
struct target_counts target_counts(struct target *t);

/*
 * Steady state: the log writes into segments that were prepared before, as it does for ever once they are recycled. So a burst
 * begins when the disk is quiet, in a segment that takes all of it.
 */
#define MIB (1ull << 20)
#define TARGET_GROWN (496 * MIB) /* 16 + 32 + 64 + 128 + 256: the segment behind is 512 MiB */
/* Would a burst of @bytes stay inside the present segment, and is that one grown? Else store more, and ask again. */
bool target_has_room(struct target *t, uint64_t bytes);

#endif
