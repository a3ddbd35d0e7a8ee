/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rivals_ours.h - what both comparisons with others ask of the library under test, and the cells of their tables.
 *
 * One at a time the application's thread drives the core itself, with the default policy; many outstanding it sends
 * to a core on the other CPU, where there is one. In steady state: in segments that were prepared before, as a log has
 * them that drops its oldest.
 */
#ifndef RIVALS_OURS_H
#define RIVALS_OURS_H

#include "target.h"

#define RIVALS_OUT 64u /* outstanding where the latency under load is asked for */
#define RIVALS_ONE_NS                                                                              \
	150000000u /* a measurement of single messages ends then, or with its samples */
#define RIVALS_MANY_NS 200000000u        /* a measurement of many is meant to take so long */
#define RIVALS_MANY_BYTES (128ull << 20) /* but has no more payload */

extern const uint32_t rivals_lens[3];

/* Is another round wanted in a phase that began at @since? After three not for longer than the phase may take. */
bool rivals_more(const struct bench *b, unsigned round, uint64_t since, uint64_t limit_ns);

/* Open for one at a time (@many false) or for many outstanding. Its directory, below b->dir, is named @name. */
void rivals_ours_open(struct target *t, struct bench *b, const char *name, bool many,
		      uint32_t durability);
void rivals_ours_close(struct target *t);
/* One at a time, until @s is full or the time is over. */
void rivals_ours_one(struct target *t, uint32_t len, struct bench_samples *s);
/* With RIVALS_OUT outstanding: from send to settled. */
void rivals_ours_out(struct target *t, uint32_t len, struct bench_samples *s);
/* Return: messages a second. */
double rivals_ours_many(struct target *t, uint32_t len, uint64_t count);
/* Messages for the next measurement of many, after @rate. */
uint64_t rivals_count(const struct bench *b, uint32_t len, double rate);

/* One rival at one size. */
struct rivals_cell {
	struct bench_line one50, one99, out50, out99, many;
	char names[5][96];
	double rate; /* of the last measurement of many: how long the next one is */
};
/* @word: what the names of its lines begin with; @details: JSON members for all of them. */
void rivals_cell_init(struct rivals_cell *c, const char *word, uint32_t len, const char *rival,
		      const char *details);

#endif
