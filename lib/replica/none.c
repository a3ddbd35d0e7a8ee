/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - a library that was built without the engine has one copy of each shard. */
#include "base/base.h"
#include "replica/group.h"

int thmqi_group_open(struct thmq_core *core, const struct thmqi_group_opts *opts, struct thmqi_group **ret_group)
{
	(void)core;
	(void)opts;
	(void)ret_group;
	return thmqi_fail(-EOPNOTSUPP, "this library was built without replication: build it where libraft 0.22.1 is installed");
}
