/* SPDX-License-Identifier: Apache-2.0 */
/* many.h - for programs that make a great many of something, and look at how long that takes. */
#ifndef THMQ_TESTS_MANY_H
#define THMQ_TESTS_MANY_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <thundermq/thundermq.h>

#define SECOND 1000000000ull

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: not true: %s; said: %s\n", __FILE__, __LINE__, #x, \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

#endif
