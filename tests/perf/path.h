/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path.h - a broker with one topic, and a way into it, for programs of which others count what a message costs. No
 * background flush and no probe of the device: what depends on time or on the device only is out of the way.
 *
 * Knows the public header only.
 */
#ifndef PERF_PATH_H
#define PERF_PATH_H

#include <thundermq/thundermq.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PATH_LEN 100u
#define PATH_TOPIC "t"
#define PATH_CLOSE_NS 30000000000u

struct path {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
	struct thmq_producer *producer;
};

static const char path_payload[PATH_LEN];

static inline int64_t must(const char *what, int64_t r)
{
	if (r >= 0)
		return r;
	fprintf(stderr, "%s: %s: %s\n", what, thmq_strerror((int)r), thmq_errmsg());
	exit(1);
}

/* @durability 0: a volatile topic; @dir may be NULL then. @shm_dir: by shared memory, and a socket there; NULL: in one process. */
static inline void path_open(struct path *p, const struct thmq_env_opts *env, const char *dir,
			     uint32_t durability, const char *shm_dir)
{
	char url[4200] = "inproc://";

	if (shm_dir)
		snprintf(url, sizeof(url), "shm://%s/s", shm_dir);
	must("environment", thmq_env_open(&p->env, env));
	must("broker", thmq_broker_open(p->env,
					THMQ_BROKER_OPTS(.data_dir = dir, .listen = shm_dir ? url : NULL,
							 .flags = THMQ_BROKER_NO_BACKGROUND_FLUSH,
							 .flush_method = THMQ_FLUSH_FDATASYNC,
							 .polled_io = THMQ_POLLED_OFF),
					&p->broker));
	must("session", thmq_connect(p->env, url, NULL, &p->session));
	must("topic", thmq_topic_create(p->session, PATH_TOPIC,
					THMQ_TOPIC_OPTS(.flags = durability ? 0 : THMQ_TOPIC_VOLATILE,
							.visible_at = durability)));
	must("producer",
	     thmq_producer_open(p->session, PATH_TOPIC,
				THMQ_PRODUCER_OPTS(.durability = durability), &p->producer));
}

#endif
