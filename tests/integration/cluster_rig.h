/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster_rig.h - three brokers of one environment that keep the same data, for tests: their directories, addresses, begin and end, and who leads.
 * Knows nothing of what is sent.
 */
#ifndef TESTS_CLUSTER_RIG_H
#define TESTS_CLUSTER_RIG_H

#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "../check.h"

#define BROKERS 3u
#define PATIENCE_NS (60 * SECOND)

static struct {
	struct thmq_env *env;
	struct thmq_broker *brokers[BROKERS]; /* one thread's at a time; NULL: it is closed */
	struct thmq_broker_opts opts;	      /* of each, but what says which it is */
	char dir[64], urls[BROKERS][64], cluster[256], all[256];
	bool far; /* by TCP */
	uint64_t seed;
} rig;

static inline uint64_t rig_chance_of(uint64_t *seed, uint64_t below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed % below;
}

/* @text: of the command line; NULL: another one each time. It is printed. */
static inline void rig_seed(const char *text)
{
	rig.seed = (text ? strtoull(text, NULL, 10) : (uint64_t)getpid() * 2654435761u) | 1;
	printf("seed %llu\n", (unsigned long long)rig.seed);
}

static inline uint64_t rig_chance(uint64_t below)
{
	return rig_chance_of(&rig.seed, below);
}

static inline void rig_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void rig_run(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	CHECK(system(command) == 0);
}

/* Where a broker is, also one that is not of the first three. */
static inline void rig_address(uint32_t id, char *to, size_t size)
{
	if (rig.far)
		snprintf(to, size, "tcp://127.%u.%u.%u:7471", 1 + ((uint32_t)getpid() >> 8 & 127), (uint32_t)getpid() & 255, id);
	else
		snprintf(to, size, "inproc://b%u", id);
}

/* 0, or why it does not open. @place: of its directory. */
static inline int rig_try(uint32_t place, uint64_t id, struct thmq_broker **ret)
{
	struct thmq_broker_opts opts = rig.opts;
	char dir[96], name[16];

	snprintf(dir, sizeof(dir), "%s/%u", rig.dir, place + 1);
	snprintf(name, sizeof(name), "b%u", place + 1);
	opts.data_dir = dir;
	opts.name = name;
	opts.listen = rig.far ? rig.urls[place] : NULL;
	opts.cluster = rig.cluster;
	opts.node_id = id;
	return thmq_broker_open(rig.env, &opts, ret);
}

static inline void rig_open(uint32_t i)
{
	uint64_t end = now() + PATIENCE_NS;
	int rc;

	while ((rc = rig_try(i, i + 1, &rig.brokers[i])) == -EBUSY) { /* the device has writes of the life before */
		CHECK(now() < end);
		nap(MS);
	}
	CHECK(rc == 0);
}

/* @timeout_ns: 0: as if killed: it hands nothing over. */
static inline void rig_close(uint32_t i, uint64_t timeout_ns)
{
	CHECK(thmq_broker_close(rig.brokers[i], timeout_ns) != -EDEADLK);
	rig.brokers[i] = NULL;
}

/* One that is none of the first three; it still is to be added. */
static inline void rig_join(uint64_t id, struct thmq_broker **ret)
{
	struct thmq_broker_opts opts = rig.opts;
	char dir[96], name[16], url[64], others[64];

	rig_address((uint32_t)id, url, sizeof(url));
	snprintf(others, sizeof(others), "%.*s:17471", (int)(strrchr(url, ':') - url), url);
	snprintf(dir, sizeof(dir), "%s/%u", rig.dir, (uint32_t)id);
	snprintf(name, sizeof(name), "b%u", (uint32_t)id);
	opts.data_dir = dir;
	opts.name = name;
	opts.flags |= THMQ_BROKER_JOIN;
	opts.listen = rig.far ? url : NULL;
	opts.cluster_listen = rig.far ? others : NULL;
	opts.cluster = rig.cluster;
	opts.node_id = id;
	CHECK(thmq_broker_open(rig.env, &opts, ret) == 0);
}

static inline void rig_open_all(void)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (!rig.brokers[i])
			rig_open(i);
}

static inline void rig_close_all(uint64_t timeout_ns)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (rig.brokers[i])
			rig_close(i, timeout_ns);
}

/* -1: nobody, as far as they know. */
static inline int rig_leader(void)
{
	uint32_t i;

	for (i = 0; i < BROKERS; i++)
		if (rig.brokers[i] && thmq_broker_leader(rig.brokers[i], NULL) == 1)
			return (int)i;
	return -1;
}

static inline uint32_t rig_some_leader(void)
{
	uint64_t end = now() + PATIENCE_NS;
	int who;

	while ((who = rig_leader()) < 0) {
		CHECK(now() < end);
		nap(MS);
	}
	return (uint32_t)who;
}

/* It leads, and so nobody else does; the one before may not have heard of it yet. */
static inline void rig_wait_for(uint32_t who)
{
	uint64_t end = now() + PATIENCE_NS;

	while (rig_leader() != (int)who) {
		CHECK(now() < end);
		nap(MS);
	}
}

/* What broker @i says of node @id. */
static inline struct thmq_node rig_seen(uint32_t i, uint64_t id)
{
	struct thmq_node nodes[BROKERS] = {{.size = sizeof(nodes[0])}};
	int n = thmq_broker_nodes(rig.brokers[i], nodes, BROKERS), k;

	for (k = 0; k < n && k < (int)BROKERS; k++)
		if (nodes[k].id == id)
			return nodes[k];
	return (struct thmq_node){.id = 0};
}

/* An environment, and three empty directories for brokers that are still to be opened. @opts: not which broker it is, and where. */
static inline void rig_begin(const char *name, bool far, uint32_t cores, const struct thmq_broker_opts *opts)
{
	uint32_t i;

	rig.far = far;
	rig.opts = *opts;
	rig.opts.cluster_name = name;
	rig.cluster[0] = rig.all[0] = 0;
	snprintf(rig.dir, sizeof(rig.dir), "cluster-%s-%d", name, (int)getpid());
	rig_run("rm -rf %s && mkdir %s", rig.dir, rig.dir);
	for (i = 0; i < BROKERS; i++) {
		rig_address(i + 1, rig.urls[i], sizeof(rig.urls[i]));
		snprintf(rig.cluster + strlen(rig.cluster), sizeof(rig.cluster) - strlen(rig.cluster), "%s%u=%s", i ? "," : "", i + 1, rig.urls[i]);
		snprintf(rig.all + strlen(rig.all), sizeof(rig.all) - strlen(rig.all), "%s%s", i ? "," : "", rig.urls[i]);
	}
	CHECK(thmq_env_open(&rig.env, THMQ_ENV_OPTS(.core_count = cores, .pool_bytes = 256u << 20)) == 0);
}

static inline void rig_end(void)
{
	rig_close_all(SECOND);
	CHECK(thmq_env_close(rig.env, 10 * SECOND) == 0);
	rig_run("rm -rf %s", rig.dir);
}

#endif
