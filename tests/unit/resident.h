/* SPDX-License-Identifier: Apache-2.0 */
/* resident.h - how much memory a test has, for tests of what is touched of it. Needs Criterion. */
#ifndef THMQ_TESTS_RESIDENT_H
#define THMQ_TESTS_RESIDENT_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static inline uint64_t resident_bytes(void)
{
	unsigned long long size, resident;
	FILE *f = fopen("/proc/self/statm", "r");

	cr_assert(f && fscanf(f, "%llu %llu", &size, &resident) == 2);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

#endif
