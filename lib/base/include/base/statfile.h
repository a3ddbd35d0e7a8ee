/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statfile.h - a file of statistics that says itself what is in it: tables with named columns, and rows that each have one writer. The
 * layout is in doc/observing.md; version 1. Knows neither what is counted nor who counts.
 *
 * A row is put together in memory and goes into the file by one pwrite(): a store into a mapping could end the host (SIGBUS, where somebody
 * cuts the file or its file system is full), a write that fails is only a row that stays old. Others see it at once, by read() or in a
 * mapping of their own, and it is there after the writer has died. A row has the same number at its begin and at its end, which each write
 * of it raises: who finds them different, or another one when he looks again, has read while it was written.
 */
#ifndef THMQI_BASE_STATFILE_H
#define THMQI_BASE_STATFILE_H

#include "base/base.h"

#define THMQI_STAT_MAGIC "THMQSTAT"
#define THMQI_STAT_VERSION 1u
#define THMQI_STAT_NAME 32u
#define THMQI_STAT_KEY 256u
/* What a reader takes; a writer makes less. */
#define THMQI_STAT_TABLES_MAX 64u
#define THMQI_STAT_COLUMNS_MAX 256u
#define THMQI_STAT_BYTES_MAX (256ull << 20)

/* Little endian, all of it aligned to 8 bytes. */
struct thmqi_stat_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes;
	uint64_t file_bytes;
	uint64_t tables_at;
	uint32_t table_count;
	uint32_t table_bytes; /* of a table's description */
	uint64_t schema_bytes; /* from the begin of the file on: header, tables, columns … */
	uint32_t schema_crc;   /* … and their CRC32C, this field and closed_ns taken as 0 */
	uint32_t reserved;
	uint64_t pid;
	uint64_t opened_ns; /* since 1970 */
	uint64_t closed_ns; /* 0: it is open, or was not closed */
	uint64_t interval_ns; /* a row is written so often at most */
	char library[THMQI_STAT_NAME];
	char name[64]; /* the broker's; "" */
	uint8_t spare[72];
};
_Static_assert(sizeof(struct thmqi_stat_header) == 256, "as in doc/observing.md");

struct thmqi_stat_table {
	char name[THMQI_STAT_NAME];
	char help[64];
	uint64_t columns_at, rows_at;
	uint32_t column_count, column_bytes; /* of a column's description */
	uint32_t row_count, row_bytes;
};
_Static_assert(sizeof(struct thmqi_stat_table) == 128, "as in doc/observing.md");

enum { /* enum thmq_stats_kind and _unit, of <thundermq/stats.h> */
	THMQI_STAT_COUNTER = 1,
	THMQI_STAT_GAUGE = 2,
	THMQI_STAT_HISTOGRAM = 3,
	THMQI_STAT_NUMBER = 0,
	THMQI_STAT_BYTES = 1,
	THMQI_STAT_NS = 2
};

struct thmqi_stat_column {
	char name[THMQI_STAT_NAME];
	char help[104];
	uint32_t kind, unit;
	uint32_t at;    /* in a row; of 8 bytes. A histogram's: sum, largest value, then the buckets, 8 bytes each */
	uint32_t count; /* of buckets */
	uint32_t bits;  /* a power of two is cut into 2^bits parts: hist.h */
	uint32_t spare;
};
_Static_assert(sizeof(struct thmqi_stat_column) == 160, "as in doc/observing.md");

/* Values follow, and a uint64_t that is seq again. */
struct thmqi_stat_row {
	uint64_t seq;
	uint64_t updated_ns; /* since 1970 */
	uint32_t used;       /* 0: there is nothing in it */
	uint32_t spare;
	char key[THMQI_STAT_KEY]; /* what it is about */
	char of[THMQI_STAT_NAME]; /* and of what that is a part, such as the shard; "" */
	uint64_t spare2;
};
_Static_assert(sizeof(struct thmqi_stat_row) == 320, "as in doc/observing.md");

/* ------------------------------------------------------------------- writer */

/* A table as its writer knows it: values is a struct of which columns tell, by THMQI_STAT_COLUMN(). */
struct thmqi_stat_spec {
	const char *name, *help;
	const struct thmqi_stat_column *columns; /* at: within the values */
	uint32_t column_count;
	uint32_t values_bytes;
	uint32_t row_count;
};

struct thmqi_statfile {
	int fd;
	uint8_t *image;
	uint64_t bytes;
	uint32_t table_count;
};

/*
 * A new file at @path, in place of one that is there; who has that open keeps it. @header: pid, opened_ns, interval_ns and name are taken.
 * Return: 0; -EEXIST something else than a file is there; -EFBIG; -ENOSPC …: an error of the file system; -ENOMEM. No text.
 */
int thmqi_statfile_open(struct thmqi_statfile *f, const char *path, const struct thmqi_stat_header *header,
			const struct thmqi_stat_spec *specs, uint32_t count);
/* The row's head, behind which its values lie; the caller's thread alone writes it. */
struct thmqi_stat_row *thmqi_statfile_row(const struct thmqi_statfile *f, uint32_t table, uint32_t row);
/* Rows from @first on, side by side, as they are in memory now, go into the file. */
void thmqi_statfile_put(const struct thmqi_statfile *f, uint32_t table, uint32_t first, uint32_t count, uint64_t wall_ns);
/* @wall_ns: when it was closed in order; 0: it was not. The file stays. */
void thmqi_statfile_close(struct thmqi_statfile *f, uint64_t wall_ns);

/* ------------------------------------------------------------------- reader */

/* Is all that @image says of itself within its @bytes, so that it can be walked? 0; -THMQ_ECORRUPT; -THMQ_EVERSION; -EPROTO no such file. */
int thmqi_stat_check(const uint8_t *image, uint64_t bytes);
/* Of an image that was checked. */
const struct thmqi_stat_table *thmqi_stat_table_at(const uint8_t *image, uint32_t table);
const struct thmqi_stat_column *thmqi_stat_column_at(const uint8_t *image, const struct thmqi_stat_table *t, uint32_t column);
const struct thmqi_stat_row *thmqi_stat_row_at(const uint8_t *image, const struct thmqi_stat_table *t, uint32_t row);
uint64_t thmqi_stat_end_of(const struct thmqi_stat_table *t, const struct thmqi_stat_row *row); /* its last number */

#endif
