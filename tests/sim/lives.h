/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lives.h - one world on one simulated disk, through several lives of its broker, from one seed. Behind the definition of `struct world`, which has @seed,
 * @prng, @sim and @env.
 */
#ifndef SIM_LIVES_H
#define SIM_LIVES_H

#include "api/api.h"
#include "base/base.h"
#include "disk/sim.h"
#include "seeds.h"

static inline uint64_t below(struct world *w, uint64_t n)
{
	return thmqi_prng_below(&w->prng, n);
}

/* What a dead disk's broker has is given back; the disk is there again, with what a cut leaves. */
static inline void power_cut(struct world *w)
{
	thmqi_disk_sim_crash(w->sim);
	thmq_env_close(w->env, 0);
	thmqi_disk_sim_restart(w->sim);
}

/* @least … @most lives, one behind the other. @begin, @end: before the first and behind the last, where they are not NULL. Return: 0, or what life() said. */
static inline int live(uint64_t seed, uint32_t least, uint32_t most, void (*begin)(struct world *w), int (*life)(struct world *w, bool last),
		       void (*end)(const struct world *w))
{
	struct world *w = calloc(1, sizeof(*w));
	uint32_t lives, i;
	int rc;

	if (!w)
		return -1;
	w->seed = seed;
	thmqi_prng_seed(&w->prng, seed);
	rc = thmqi_disk_sim_open(seed, NULL, &w->sim);
	if (begin && !rc)
		begin(w);
	lives = least + (uint32_t)below(w, most - least + 1);
	for (i = 0; i < lives && !rc; i++)
		rc = life(w, i + 1 == lives);
	thmqi_disk_sim_close(w->sim);
	if (end)
		end(w);
	free(w);
	return rc;
}

/* A world for one life without chance. Return: 0, or what @life said. */
static inline int live_once(int (*life)(struct world *w))
{
	struct world *w = calloc(1, sizeof(*w));
	int rc;

	if (!w || thmqi_disk_sim_open(1, NULL, &w->sim) != 0)
		return free(w), -1;
	rc = life(w);
	thmqi_disk_sim_close(w->sim);
	free(w);
	return rc;
}

#endif
