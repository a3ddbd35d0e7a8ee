/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - what plain test programs share: a check that says where and why, time, and cases that are run by name. All of it is the
 * including file's own. Knows no broker.
 */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thundermq/thundermq.h>
#include <time.h>

#define SECOND 1000000000ull
#define MS 1000000ull

/* Counters are written by their core alone and read as they are, which ThreadSanitizer cannot know. */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#define UNDER_TSAN __has_feature(thread_sanitizer)
#else
#define UNDER_TSAN 0
#endif

static const char *running = "begin"; /* the case, as its failure calls it */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s, line %d: %s (%s)\n", running, __LINE__, #x,           \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static inline void nap(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};

	nanosleep(&t, NULL);
}

struct test_case {
	const char *name;
	void (*run)(void);
};

/* Of @names those that are given; none: all. What is done before and after each may be NULL. */
static inline void run_cases(const struct test_case *cases, size_t count, int names, char **name,
			     void (*before)(void), void (*after)(void))
{
	uint64_t begin;
	bool wanted;
	size_t i;
	int k;

	for (i = 0; i < count; i++) {
		for (wanted = names == 0, k = 0; k < names; k++)
			wanted = wanted || strcmp(name[k], cases[i].name) == 0;
		if (!wanted)
			continue;
		running = cases[i].name;
		begin = now();
		if (before)
			before();
		cases[i].run();
		if (after)
			after();
		printf("ok %s (%llu ms)\n", cases[i].name,
		       (unsigned long long)((now() - begin) / MS));
		fflush(stdout);
	}
}

#endif
