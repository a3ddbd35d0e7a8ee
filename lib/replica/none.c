/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - a library that was built without the engine has the calls of replica.h, and no replica to make them with. */
#include <thundermq/replica.h>

#include "base/base.h"
#include "replica/courier.h"
#include "replica/group.h"

void (thmq_replica_opts_init)(struct thmq_replica_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_replica_open(struct thmq_core *core, const struct thmq_replica_opts *opts,
		      struct thmq_replica **ret_replica)
{
	(void)core;
	(void)opts;
	(void)ret_replica;
	return thmqi_fail(-EOPNOTSUPP, "this library was built without replication: build it where "
				       "libraft 0.22.1 is installed");
}

/* Without an open there is nothing that these could be called with. */
#define NONE(name, ...)                                                                            \
	int name(__VA_ARGS__)                                                                      \
	{                                                                                          \
		return -EOPNOTSUPP;                                                                \
	}

int thmq_replica_close(struct thmq_replica *replica, uint64_t timeout_ns)
{
	(void)timeout_ns;
	return replica ? -EOPNOTSUPP : 0;
}

struct thmq_log *thmq_replica_log(struct thmq_replica *replica)
{
	(void)replica;
	return NULL;
}

NONE(thmq_replica_buf, struct thmq_replica *replica, uint32_t bytes, struct thmq_buf **ret_buf)
NONE(thmq_replica_receive, struct thmq_replica *replica, const struct thmq_replica_message *message,
     struct thmq_buf *batch)
NONE(thmq_replica_writable, struct thmq_replica *replica, uint64_t id)
NONE(thmq_replica_state, struct thmq_replica *replica, struct thmq_replica_state *ret_state)
NONE(thmq_replica_members, struct thmq_replica *replica, struct thmq_member *ret_members,
     uint32_t max)
NONE(thmq_replica_change, struct thmq_replica *replica, const struct thmq_member *member)
NONE(thmq_replica_catch_up, struct thmq_replica *replica, uint64_t id)
NONE(thmq_replica_transfer, struct thmq_replica *replica, uint64_t id)
NONE(thmq_replica_trim, struct thmq_replica *replica, uint64_t index)

void (thmq_carrier_opts_init)(struct thmq_carrier_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

int thmq_carrier_open(struct thmq_core *core, const struct thmq_carrier_opts *opts,
		      struct thmq_carrier **ret_carrier)
{
	(void)core;
	(void)opts;
	(void)ret_carrier;
	return thmqi_fail(-EOPNOTSUPP, "this library was built without replication: build it where "
				       "libraft 0.22.1 is installed");
}

int thmq_carrier_close(struct thmq_carrier *carrier)
{
	return carrier ? -EOPNOTSUPP : 0;
}

NONE(thmq_carrier_url, struct thmq_carrier *carrier, char *ret_url, uint32_t size)
NONE(thmq_carrier_place, struct thmq_carrier *carrier, uint64_t id, const char *url)
NONE(thmq_carrier_peer, struct thmq_carrier *carrier, uint32_t index, struct thmq_carrier_peer *ret_peer)

/* The same for the library's own rooms. */
int thmqi_group_open(struct thmq_core *core, const struct thmqi_group_opts *opts,
		     struct thmqi_group **ret_group)
{
	(void)opts;
	(void)ret_group;
	return thmq_replica_open(core, NULL, NULL);
}

int thmqi_group_close(struct thmqi_group *g, uint64_t timeout_ns)
{
	(void)timeout_ns;
	return g ? -EOPNOTSUPP : 0;
}

int thmqi_group_close_notify(struct thmqi_group *g, uint64_t timeout_ns, void (*gone)(void *arg),
			     void *arg)
{
	(void)gone;
	(void)arg;
	return thmqi_group_close(g, timeout_ns);
}

struct thmq_log *thmqi_group_log(struct thmqi_group *g)
{
	(void)g;
	return NULL;
}

void thmqi_group_writable(struct thmqi_group *g, uint64_t peer)
{
	(void)g;
	(void)peer;
}

void thmqi_group_state(const struct thmqi_group *g, struct thmqi_group_state *ret)
{
	(void)g;
	memset(ret, 0, sizeof(*ret));
}

uint64_t thmqi_group_everywhere(const struct thmqi_group *g)
{
	(void)g;
	return 0;
}

uint64_t thmqi_group_behind(const struct thmqi_group *g, uint64_t id)
{
	(void)g;
	(void)id;
	return UINT64_MAX;
}

const struct thmqi_members *thmqi_group_members(const struct thmqi_group *g)
{
	(void)g;
	return NULL;
}

NONE(thmqi_group_receive, struct thmqi_group *g, const struct thmqi_message *message,
     struct thmqi_buf *buf)
NONE(thmqi_group_change, struct thmqi_group *g, const struct thmqi_member *member)
NONE(thmqi_group_catch_up, struct thmqi_group *g, uint64_t id)
NONE(thmqi_group_transfer, struct thmqi_group *g, uint64_t id)
NONE(thmqi_group_trim, struct thmqi_group *g, uint64_t index)

int thmqi_courier_open(struct thmq_core *core, const struct thmqi_courier_opts *opts,
		       struct thmqi_courier **ret_courier)
{
	(void)opts;
	(void)ret_courier;
	return thmq_replica_open(core, NULL, NULL);
}

void thmqi_courier_close(struct thmqi_courier *c)
{
	(void)c;
}

void thmqi_courier_leave(struct thmqi_carried *carried)
{
	(void)carried;
}

void thmqi_courier_members(struct thmqi_courier *c)
{
	(void)c;
}

NONE(thmqi_carried_send, void *carried, const struct thmqi_message *message, struct thmqi_buf *buf)
NONE(thmqi_courier_place, struct thmqi_courier *c, uint64_t id, const char *url)
NONE(thmqi_courier_join, struct thmqi_courier *c, struct thmqi_carried *carried, struct thmqi_group *group, uint64_t number)
