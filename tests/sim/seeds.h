/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seeds.h - a simulation that runs for one seed after another: what is wrong names its seed, and 'PROGRAM SEED [COUNT]' does that again.
 */
#ifndef SIM_SEEDS_H
#define SIM_SEEDS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <thundermq/thundermq.h>

#define MS 1000000ull /* in ns */
#define SECOND 1000000000ull

static const char *at = ""; /* what is being done */
static bool quiet;	    /* a failure is what is wanted: a defect is planted */

/* In a function that returns -1 then; @w has the seed. */
#define CHECK(w, x)                                                                                \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			if (!quiet)                                                                \
				fprintf(stderr, "seed %llu: %s: line %d: %s (%s)\n",               \
					(unsigned long long)(w)->seed, at, __LINE__, #x,           \
					thmq_errmsg());                                            \
			return -1;                                                                 \
		}                                                                                  \
	} while (0)

/* The first of them, and how many: as the command line says, else @usual from 1 on, with THMQ_TEST_FULL @full. Return: how many were done; it ends with the fifth that fails. */
static inline uint64_t each_seed(int argc, char **argv, uint64_t usual, uint64_t full, int (*run)(uint64_t seed), uint64_t *ret_failed)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, seed;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : getenv("THMQ_TEST_FULL") ? full : usual;

	*ret_failed = 0;
	for (seed = first; seed < first + count && *ret_failed < 5; seed++)
		*ret_failed += run(seed) != 0;
	printf("%llu seeds, %llu failed\n", (unsigned long long)(seed - first), (unsigned long long)*ret_failed);
	return seed - first;
}

#endif
