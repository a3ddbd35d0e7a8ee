/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - what a broker counts and measures, read from outside: from the file that it keeps up to date (DIR/stats, struct thmq_broker_opts),
 * by any process that may read that, while the broker runs, after it has died, and without disturbing it. The file says itself what is in
 * it: tables whose rows have values by name. doc/observing.md lists them, and has the layout for readers of other languages.
 */
#ifndef THUNDERMQ_STATS_H
#define THUNDERMQ_STATS_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_stats; /* a copy of the file as it was read last */

enum thmq_stats_kind {
	THMQ_STATS_COUNTER = 1, /* only rises, from 0 at the broker's open on */
	THMQ_STATS_GAUGE = 2,
	THMQ_STATS_HISTOGRAM = 3 /* of nanoseconds */
};

enum thmq_stats_unit { THMQ_STATS_NUMBER = 0, THMQ_STATS_BYTES = 1, THMQ_STATS_NS = 2 };

struct thmq_stats_info {
	uint32_t size;        /* in */
	uint32_t version;     /* of the layout */
	uint32_t alive;       /* 1: the process that writes it is there, and has not closed it */
	uint32_t table_count;
	uint64_t pid;
	uint64_t opened_ns;   /* since 1970 */
	uint64_t closed_ns;   /* 0: it was not closed */
	uint64_t updated_ns;  /* the newest of all rows */
	uint64_t interval_ns; /* so old a row is at most while something happens */
	char library[32];     /* the writer's version */
	char name[64];        /* the broker's */
};

/* One value of one row. Its strings are the handle's, until the next refresh. */
struct thmq_stats_value {
	uint32_t size;  /* in */
	uint32_t kind;  /* enum thmq_stats_kind */
	uint32_t unit;  /* enum thmq_stats_unit */
	uint32_t torn;  /* 1: its row could not be read in one piece: its writer died in the middle, or was too fast */
	const char *table; /* "shard" */
	const char *name;  /* "messages_in" */
	const char *help;  /* one line */
	const char *key;   /* which row: "shard-000", "orders", … */
	const char *of;    /* of what that is a part: a topic's shard; "" */
	uint64_t updated_ns; /* when the row was written, since 1970 */
	uint64_t value;      /* COUNTER, GAUGE; of a HISTOGRAM: how many were measured */
	/* HISTOGRAM: an eighth too large at most, but for sum and max */
	uint64_t sum, max;
	uint64_t p50, p90, p99, p999;
};

/**
 * thmq_stats_open() - read a broker's statistics
 * @path: the broker's data directory, or the file itself
 * @ret_stats: out; the caller's, until thmq_stats_close()
 * Return: 0; -ENOENT there is none; -EACCES …: an error of the file system; -EPROTO it is no such file; -THMQ_EVERSION of a newer layout;
 * -THMQ_ECORRUPT damaged; -EINVAL; -ENOMEM.
 * Threads: any that may block; a handle by one at a time.
 */
THMQ_API int thmq_stats_open(const char *path, struct thmq_stats **ret_stats);

/** thmq_stats_close() - free a handle; NULL is allowed */
THMQ_API void thmq_stats_close(struct thmq_stats *stats);

/**
 * thmq_stats_refresh() - read it again, also where another broker has made a new file in its place
 * Return: as thmq_stats_open(); after a failure the handle has what it had before.
 */
THMQ_API int thmq_stats_refresh(struct thmq_stats *stats);

/** thmq_stats_info() - who wrote it, and when. @ret_info: in: its size field. Return: 0; -EINVAL */
THMQ_API int thmq_stats_info(const struct thmq_stats *stats, struct thmq_stats_info *ret_info);

/**
 * thmq_stats_next() - all values, one after the other, row by row
 * @cursor: 0 at the first call, then as it was left
 * @ret_value: in: its size field
 * Return: 1 one; 0 there are no more; -EINVAL.
 */
THMQ_API int thmq_stats_next(const struct thmq_stats *stats, uint64_t *cursor, struct thmq_stats_value *ret_value);

/**
 * thmq_stats_prometheus() - all of it in the text format that Prometheus reads
 * @ret_text: out; always ended by a NUL where @size is not 0; NULL if @size is 0
 * Names begin with thmq_ and the table's, times are in seconds.
 * Return: how long the whole text is, without the NUL: where that is @size or more it was cut; -EINVAL.
 */
THMQ_API int64_t thmq_stats_prometheus(const struct thmq_stats *stats, char *ret_text, uint64_t size);

#ifdef __cplusplus
}
#endif
#endif
