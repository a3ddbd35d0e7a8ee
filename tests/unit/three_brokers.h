/* SPDX-License-Identifier: Apache-2.0 */
/* three_brokers.h - three brokers with copies in one environment, on simulated disks and in virtual time, and a session to them. */
#ifndef TESTS_THREE_BROKERS_H
#define TESTS_THREE_BROKERS_H

#include <criterion/criterion.h>

#include <stdio.h>

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"

#define BROKERS 3u
#define MS 1000000ull
#define SECOND 1000000000ull

static struct thmqi_disk_sim *room, *disks[BROKERS];
static struct thmq_env *env;
static struct thmq_broker *brokers[BROKERS];
static struct thmq_session *session;

/* @opts: what all have in common, but for what makes them a cluster. */
static void three_up(uint64_t pool_bytes, const struct thmq_broker_opts *opts)
{
	struct thmq_broker_opts o = *opts;
	char dir[16], name[16];

	o.data_dir = dir;
	o.name = name;
	o.cluster_name = "three";
	o.cluster = "1=inproc://b1,2=inproc://b2,3=inproc://b3";
	o.heartbeat_ms = 10;
	o.election_ms = 50;
	cr_assert_eq(thmqi_disk_sim_open(7, NULL, &room), 0);
	cr_assert_eq(thmqi_api_env_open(THMQ_ENV_OPTS(.pool_bytes = pool_bytes, .policy = THMQ_POLICY_EVENT), thmqi_disk_sim_world(room), &env), 0);
	for (uint32_t i = 0; i < BROKERS; i++) {
		snprintf(dir, sizeof(dir), "data%u", i + 1);
		snprintf(name, sizeof(name), "b%u", i + 1);
		o.node_id = i + 1;
		cr_assert_eq(thmqi_disk_sim_open_beside(room, dir, i + 1, NULL, &disks[i]), 0);
		cr_assert_eq(thmq_broker_open(env, &o, &brokers[i]), 0, "%s", thmq_errmsg());
	}
	cr_assert_eq(thmq_connect(env, "inproc://b1,inproc://b2,inproc://b3", THMQ_SESSION_OPTS(.reconnect_ns = 60 * SECOND, .timeout_ns = 10 * SECOND),
				  &session),
		     0, "%s", thmq_errmsg());
}

static void three_down(void)
{
	thmq_env_close(env, SECOND);
	thmqi_disk_sim_close(room);
}

#endif
