/* SPDX-License-Identifier: Apache-2.0 */
/* commitlog_index_test.c - the entries of a partition's runs in memory: what is there is found, and what is gone costs nothing. */
#include <criterion/criterion.h>

#include "../../lib/commitlog/internal.h"
#include "disk/sim.h"

static struct thmq_log *log_;
static uint64_t next_number; /* every run gets one: of its offset, and of its batch */

static void up(void)
{
	log_ = calloc(1, sizeof(*log_));
	log_->disk = &thmqi_disk_sim; /* only that it has one counts */
	log_->generations[0].number = log_->generations[1].number = UINT64_MAX;
	thmqi_map_init(&log_->partitions);
}

static void down(void)
{
	struct run_index *x;
	uint32_t i = 0;

	while ((x = thmqi_map_next(&log_->partitions, &i)))
		thmqi_index_free(log_, x);
	thmqi_map_fini(&log_->partitions);
	thmqi_arena_fini(&log_->arena);
	free(log_);
}

TestSuite(commitlog_index, .init = up, .fini = down, .timeout = 60);

static void put(struct run_index *x, uint64_t number)
{
	const struct entry e = {
		.base_offset = number, .batch = number, .span = 1, .time_max_ns = (int64_t)number};

	cr_assert_eq(thmqi_arena_fill(&log_->arena), 0);
	cr_assert_eq(thmqi_index_put(log_, x, &e), 0);
}

static void trim(struct run_index *x, uint64_t batch)
{
	cr_assert_eq(thmqi_arena_fill(&log_->arena), 0);
	thmqi_index_trim(log_, x, batch);
}

/* Entries of the numbers first … next_number - 1 are there, and no others. */
static void check(const struct run_index *x, uint64_t first)
{
	uint64_t i;

	cr_assert_eq(x->count - x->first, next_number - first);
	for (i = 0; i < x->count - x->first; i++) {
		cr_assert_eq(thmqi_index_entry(x, x->first + i).base_offset, first + i);
		cr_assert_eq(thmqi_index_find(x, first + i), x->first + i);
	}
	cr_assert_eq(thmqi_index_find(x, next_number), x->count);
}

static void wander(uint32_t most, uint32_t steps)
{
	struct run_index *x = thmqi_index_of(log_, most, true);
	struct thmqi_prng prng;
	uint64_t first = 0, i, n;

	thmqi_prng_seed(&prng, most);
	next_number = log_->cache_first = 0;
	for (i = 0; i < steps; i++) {
		for (n = thmqi_prng_next(&prng) % most + 1; n; n--)
			put(x, next_number++);
		n = next_number - first;
		if (log_->disk) {
			first += thmqi_prng_next(&prng) % (n + 1);
			trim(x, first);
			check(x, first);
			continue;
		}
		log_->cache_first = THMQI_MAX(first, next_number - THMQI_MIN(next_number, most));
		trim(x, first = log_->cache_first);
		check(x, first);
	}
}

Test(commitlog_index, few_runs_at_a_time_are_found)
{
	wander(3, 3000);
}

Test(commitlog_index, some_runs_at_a_time_are_found)
{
	wander(20, 3000);
}

Test(commitlog_index, many_runs_at_a_time_are_found)
{
	wander(700, 200);
}

Test(commitlog_index, as_many_as_need_a_long_list_are_found)
{
	wander(30000, 8);
}

Test(commitlog_index, those_of_a_ring_in_memory_are_found)
{
	log_->disk = NULL;
	wander(5, 2000);
	wander(90, 200);
}

Test(commitlog_index, a_place_behind_what_is_gone_is_never_the_place_of_an_older_run)
{
	struct run_index *x = thmqi_index_of(log_, 1, true);
	uint64_t at;

	put(x, 10);
	at = x->count; /* where a reader would be that has read all */
	trim(x, 11);
	put(x, 5); /* a truncation brings back what a sealed segment has */
	cr_assert_lt(at, x->first);
}

Test(commitlog_index, what_a_partition_had_does_not_count)
{
	enum { PARTITIONS = 2000, ROUNDS = 60 };
	uint64_t round;
	uint32_t p;

	/* a run of each in every round, and those before the last one go: never is any without */
	for (round = 1; round <= ROUNDS; round++)
		for (p = 0; p < PARTITIONS; p++) {
			struct run_index *x = thmqi_index_of(log_, p, true);

			put(x, round);
			trim(x, round - 1);
			cr_assert_eq(x->chunk_count, 1);
			cr_assert(x->one & CHUNK_NARROW);
		}
}

Test(commitlog_index, what_is_left_of_many_runs_is_small)
{
	struct run_index *x = thmqi_index_of(log_, 1, true);
	uint64_t i;

	for (i = 0; i < 1000; i++)
		put(x, i);
	cr_assert_gt(x->chunk_count, 1);
	trim(x, 998);
	cr_assert_eq(x->chunk_count, 1);
	cr_assert_eq(x->directory, 0); /* a ring */
	cr_assert_eq(thmqi_index_entry(x, x->first).base_offset, 998);
}
