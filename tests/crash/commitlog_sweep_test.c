/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log loses nothing: a seeded workload is cut at every operation, in every way, and struck by every fault at every operation; the
 * log that comes back has all that was said to be durable, in order, and nothing else. See sweep.h.
 *
 * usage: commitlog_sweep_test [seed [seeds]]: only these, in words. THMQ_TEST_CUTS_ONLY=1: no faults, no bits flipped;
 * THMQ_TEST_TRACE=1: each operation. THMQ_TEST_FULL=1: a million cuts, by two processes.
 */
#include <sys/wait.h>
#include <time.h>

#include "sweep.h"

#define CI_SEEDS 2u /* ten thousand cuts together */
#define CI_LIVES 6u
#define FULL_SEEDS 80u
#define FULL_PROCESSES 2u

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Seeds first, first + step, … below end. */
static int sweep_some(uint64_t first, uint64_t end, uint64_t step, bool full)
{
	struct sweep s = {.loud = true,
			  .full = full,
			  .lives = full ? 0 : CI_LIVES,
			  .trace = getenv("THMQ_TEST_TRACE") != NULL};
	double begin = cpu_seconds();
	int bad = 0;

	s.no_rot = s.no_faults = getenv("THMQ_TEST_CUTS_ONLY") != NULL;
	for (s.seed = first; s.seed < end; s.seed += step)
		bad += !sweep_seed(&s);
	printf("seeds %llu, %llu … %llu: %llu cuts (%llu with a bit flipped), %llu faults; %llu "
	       "recoveries cut, %llu logs went on; "
	       "damage told %llu, nothing to tell %llu; partitions taken from indexes %llu; %d "
	       "seeds failed; %.0f us CPU a cut\n",
	       (unsigned long long)first, (unsigned long long)(first + step),
	       (unsigned long long)(end - 1), (unsigned long long)s.cuts,
	       (unsigned long long)s.rotten, (unsigned long long)s.faults,
	       (unsigned long long)s.nested, (unsigned long long)s.resumed,
	       (unsigned long long)s.told, (unsigned long long)s.opened_lying,
	       (unsigned long long)s.sealed, bad,
	       (cpu_seconds() - begin) * 1e6 / (double)THMQI_MAX(s.cuts, 1ull));
	return bad;
}

int main(int argc, char **argv)
{
	bool full = getenv("THMQ_TEST_FULL") != NULL;
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	uint64_t seeds = argc > 2   ? strtoull(argv[2], NULL, 0)
			 : argc > 1 ? 1
			 : full     ? FULL_SEEDS
				    : CI_SEEDS;
	int bad = 0, status;
	uint32_t i;

	sweep_init();
	if (!full || argc > 1)
		return sweep_some(first, first + seeds, 1, full) ? 1 : 0;
	for (i = 0; i < FULL_PROCESSES; i++)
		if (fork() == 0)
			exit(sweep_some(first + i, first + seeds, FULL_PROCESSES, true) ? 1 : 0);
	while (wait(&status) > 0)
		bad += status != 0;
	return bad ? 1 : 0;
}
