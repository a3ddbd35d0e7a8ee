/* SPDX-License-Identifier: Apache-2.0 */
/* sim_world.c - the simulated disk's time, its knobs and what can be looked at. */
#include "sim_internal.h"

#define WALL_EPOCH_NS 1767225600000000000ull /* 2026-01-01: any fixed day will do */

/* --------------------------------------------------------------------- faults */

int thmqi_disk_sim_fault_add(struct thmqi_disk_sim *sim, const struct thmqi_disk_sim_fault *fault)
{
	if ((fault->opcode > THMQI_DISK_OPEN && fault->opcode < THMQI_DISK_SIM_ANY_CHANGE) ||
	    fault->nth == 0)
		return -EINVAL;
	if (sim->fault_count == THMQI_DISK_SIM_FAULTS_MAX)
		return -ENOBUFS;
	sim->faults[sim->fault_count++] = *fault;
	return 0;
}

void thmqi_disk_sim_spare(struct thmqi_disk_sim *sim, bool spared)
{
	sim->spared = spared;
}

void thmqi_disk_sim_faults_clear(struct thmqi_disk_sim *sim)
{
	sim->fault_count = 0;
}

int thmqi_disk_sim_damage(struct thmqi_disk_sim *sim, const char *path, const char *name,
			  uint64_t offset, uint64_t len)
{
	struct sim_dir *dir = thmqi_disk_sim_dir_get(&sim->fs, path, false);
	struct sim_inode *inode = dir ? thmqi_disk_sim_lookup(dir, name) : NULL;

	if (!inode)
		return -ENOENT;
	if (!len || len > inode->size || offset > inode->size - len)
		return -EINVAL;
	return thmqi_disk_sim_inode_flip(inode, offset + thmqi_prng_below(&sim->prng, len),
					 (uint32_t)thmqi_prng_below(&sim->prng, 8));
}

/* ----------------------------------------------------------------- time, world */

static uint64_t clock_now(void *ctx)
{
	struct thmqi_disk_sim *sim = ctx;

	return sim->room->now += sim->opts.clock_tick_ns;
}

static uint64_t clock_wall(void *ctx)
{
	const struct thmqi_disk_sim *sim = ctx;

	return WALL_EPOCH_NS + clock_now(ctx) + (uint64_t)sim->clock_set_ns;
}

uint64_t thmqi_disk_sim_now(struct thmqi_disk_sim *sim)
{
	return sim->room->now;
}

void thmqi_disk_sim_advance(struct thmqi_disk_sim *sim, uint64_t ns)
{
	sim->room->now += ns;
}

void thmqi_disk_sim_set_capacity(struct thmqi_disk_sim *sim, uint64_t bytes)
{
	sim->fs.capacity = bytes;
}

void thmqi_disk_sim_set_clock(struct thmqi_disk_sim *sim, int64_t ns)
{
	sim->clock_set_ns = ns;
}

/* To the next completion or the end of the wait, whichever is first. */
static int world_idle(void *ctx, uint64_t timeout_ns)
{
	struct thmqi_disk_sim *sim = ctx;
	uint64_t until = timeout_ns > UINT64_MAX - sim->now ? UINT64_MAX : sim->now + timeout_ns;
	struct thmqi_list *it;

	thmqi_list_each(it, &sim->queues)
	{
		struct thmqi_disk_queue *q = thmqi_container(it, struct thmqi_disk_queue, link);

		if (q->first)
			until = THMQI_MIN(until, q->first->due);
	}
	if (until == UINT64_MAX) { /* nothing will ever happen by itself */
		sim->now += 1000000;
		return 0;
	}
	sim->now = THMQI_MAX(sim->now, until);
	return 1;
}

const struct thmqi_world *thmqi_disk_sim_world(struct thmqi_disk_sim *sim)
{
	return &sim->world;
}

int thmqi_disk_sim_open(uint64_t seed, const struct thmqi_disk_sim_opts *opts,
			struct thmqi_disk_sim **ret_sim)
{
	struct thmqi_disk_sim *sim = calloc(1, sizeof(*sim));

	if (!sim)
		return -ENOMEM;
	if (opts)
		sim->opts = *opts;
	sim->opts.clock_tick_ns = sim->opts.clock_tick_ns ? sim->opts.clock_tick_ns : 20;
	sim->opts.read_ns = sim->opts.read_ns ? sim->opts.read_ns : 10000;
	sim->opts.write_ns = sim->opts.write_ns ? sim->opts.write_ns : 10000;
	sim->opts.flush_ns = sim->opts.flush_ns ? sim->opts.flush_ns : 30000;
	thmqi_prng_seed(&sim->prng, seed);
	thmqi_disk_sim_fs_init(&sim->fs, &sim->prng);
	sim->fs.capacity = sim->opts.capacity_bytes;
	sim->fs.capacity_error = sim->opts.capacity_error ? sim->opts.capacity_error : -ENOSPC;
	sim->fs.lying = sim->opts.flags & THMQI_DISK_SIM_LYING;
	sim->fs.garbling = sim->opts.flags & THMQI_DISK_SIM_GARBLING;
	thmqi_list_init(&sim->queues);
	sim->now = 1000000000; /* deadlines in the near past are numbers too */
	sim->generation = 1;
	sim->clock = (struct thmqi_clock){.now_ns = clock_now, .wall_ns = clock_wall, .ctx = sim};
	sim->world = (struct thmqi_world){.clock = &sim->clock,
					  .disk = &thmqi_disk_sim,
					  .disk_ctx = sim,
					  .idle = world_idle,
					  .ctx = sim,
					  .seed = seed ? seed : 1};
	sim->room = sim;
	*ret_sim = sim;
	return 0;
}

int thmqi_disk_sim_open_beside(struct thmqi_disk_sim *first, const char *path, uint64_t seed,
			       const struct thmqi_disk_sim_opts *opts, struct thmqi_disk_sim **ret_sim)
{
	struct thmqi_disk_sim *sim;
	int rc = thmqi_disk_sim_open(seed, opts, &sim);

	if (rc)
		return rc;
	sim->path = strdup(path);
	if (!sim->path) {
		thmqi_disk_sim_close(sim);
		return -ENOMEM;
	}
	sim->room = first;
	sim->beside = first->beside;
	first->beside = sim;
	*ret_sim = sim;
	return 0;
}

void thmqi_disk_sim_close(struct thmqi_disk_sim *sim)
{
	struct thmqi_disk_sim *next;

	for (; sim; sim = next) { /* the first, and all beside it */
		next = sim->beside;
		thmqi_disk_sim_locks_drop(sim, NULL);
		thmqi_disk_sim_fs_fini(&sim->fs);
		free(sim->path);
		free(sim);
	}
}

/* -------------------------------------------------------------------- looking */

void thmqi_disk_sim_stats(const struct thmqi_disk_sim *sim, struct thmqi_disk_sim_stats *ret)
{
	struct thmqi_list *it;

	*ret = sim->stats;
	ret->kept = sim->fs.kept;
	ret->lost = sim->fs.lost;
	ret->torn = sim->fs.torn;
	ret->bytes = sim->fs.bytes;
	thmqi_list_each(it, &sim->room->queues)
	{
		const struct thmqi_disk_queue *q = thmqi_container(it, struct thmqi_disk_queue, link);

		ret->inflight += q->sim == sim ? q->inflight : 0;
	}
}

void thmqi_disk_sim_observe(struct thmqi_disk_sim *sim,
			    void (*seen)(void *ctx, const char *name,
					 const struct thmqi_disk_op *op),
			    void *ctx)
{
	sim->seen = seen;
	sim->seen_ctx = ctx;
}

void thmqi_disk_sim_watch(struct thmqi_disk_sim *sim, void (*step)(void *ctx), void *ctx)
{
	sim->step = step;
	sim->step_ctx = ctx;
}
