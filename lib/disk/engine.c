/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - which engine serves a core. */
#include "internal.h"

const struct thmqi_disk_table *thmqi_disk_of(struct thmq_core *core, void **ret_ctx)
{
	*ret_ctx = NULL;
	if (core->world->disk) {
		*ret_ctx = core->world->disk_ctx;
		core->disk_engine = 4;
		return core->world->disk;
	}
	if (core->ring) {
		core->disk_engine = 1;
		return &thmqi_disk_uring;
	}
	if (!thmqi_env_is_caller_driven(core->env) ||
	    (thmqi_env_flags(core->env) & THMQ_ENV_ALLOW_THREADS)) {
		core->disk_engine = 2;
		return &thmqi_disk_threads;
	}
	core->disk_engine = 3;
	return &thmqi_disk_inline;
}

int thmqi_disk_ways(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir,
		    struct thmq_core *core, struct thmqi_disk_ways *ways)
{
	if (disk->dir_ways)
		return disk->dir_ways(dir, core, ways);
	if (ways->polled_io == THMQ_POLLED_ON)
		return -EOPNOTSUPP;
	*ways = (struct thmqi_disk_ways){0};
	return 0;
}
