/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.h - a closed log looked at from outside: what scan.c finds is judged by thmq_log_scan(), mended by repair.c and taken as
 * a source by copy.c. scan_index.c compares index files with what the segments say; aside.c looks at what was taken out. Needs no core.
 */
#ifndef THMQI_COMMITLOG_SCAN_H
#define THMQI_COMMITLOG_SCAN_H

#include "commitlog/offline.h"
#include "../internal.h"
#include "../survey.h"
#include "../index/seal_format.h"

#define SCAN_PIECE_BYTES (4u << 20) /* a batch has no more */
#define SCAN_ASIDE "quarantine-"    /* … position, .bin: repair.c */

/* What is known of a partition up to the last batch that was read. */
struct scan_partition {
	uint32_t partition;
	int64_t time_max_ns;
	uint64_t end_offset;  /* one past the last */
	uint64_t lost_offset; /* likewise, of what lies behind the damage; 0: nothing of it does */
	uint64_t lost_begin, lost_runs, lost_messages;
};

/* What one segment says, gathered while it is read, to be compared with its index. */
struct seen_run {
	uint64_t base_offset;
	uint64_t term;
	int64_t time_ns;     /* its last */
	int64_t time_max_ns; /* of the partition, as far as this log goes back */
	uint32_t partition;
	uint32_t batch; /* place in the segment */
	uint32_t at, span;
	bool moved; /* appended again by a cleaner */
	uint64_t tag_filter;
};

/* A record with a key. */
struct seen_key {
	struct seal_key key;
	uint32_t order; /* in which they are stored */
};

struct seen_state {
	uint64_t item, term;
	uint32_t kind, batch, at, len;
	uint32_t crc; /* of its payload */
	uint32_t reserved;
};

struct seen {
	bool wanted; /* there is an index to compare it with */
	struct chain before;
	uint32_t *blocks;
	struct seen_run *runs;
	struct seen_state *states;
	struct seen_key *keys;
	uint32_t batch_count, batch_room, run_count, run_room, state_count, state_room, key_count, key_room;
};

/* Segments and index files, by position. */
struct scan_names {
	uint64_t *list;
	uint32_t count, room;
};

struct scan {
	const struct thmqi_scan_opts *opts;
	const struct thmq_log_visitor *visitor;
	void *ctx;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *dir;
	struct vote vote;
	struct chain chain; /* behind the last batch that is whole and continues */
	struct claims claims;
	uint8_t *piece;
	struct stream stream; /* of what lies behind the end */
	struct listing found;
	uint32_t
		dropped; /* of those found: they lie before the begin, their removal was cut short */
	uint32_t
		ended; /* the one that the log ends in, or that does not continue it; or their number */
	struct scan_names indexes; /* index files that are there */
	struct scan_names bad_indexes;
	struct thmqi_map partitions; /* struct scan_partition */
	struct seen seen;
	const uint8_t *
		first; /* the log's first block where the stored one is not to be looked at; NULL */
	int vote_error;     /* 0; -ENOENT or -THMQ_ECORRUPT: neither block is valid */
	int stop;           /* a visitor's value */
	bool vote_damaged;  /* one block is not valid: the other may not be the newest */
	bool vote_rebuilt;  /* from the headers of batches: thmqi_scan_rebuild_vote() */
	bool begin_missing; /* the segment that the log begins with is not there */
	bool short_segment; /* one that has fewer bytes than it was made with */
	bool damaged;
	char text[320];
};

/* Return: 0; the visitor's value is in s->stop. */
int thmqi_scan_begin(struct scan *s, const char *dir, const struct thmqi_scan_opts *opts,
		     const struct thmq_log_visitor *visitor, void *ctx);
/*
 * The whole log: s->chain, s->claims, s->partitions and findings then say all. Return: 0, whatever was found, if the log could be
 * read to its end; -ENOENT there is none; -THMQ_ECORRUPT neither block of `vote` is valid, or its file is missing, and
 * @rebuild is false or impossible; -THMQ_EVERSION; or an error.
 */
int thmqi_scan_run(struct scan *s, bool rebuild);
void thmqi_scan_end(struct scan *s);
/* After a run, with s->vote or s->first changed: what the log is then. Nothing is shown or told. Return: 0, or an error. */
int thmqi_scan_again(struct scan *s);
/* s->vote says that the log begins with the segment at @position. Return: 1; 0 its first batch cannot be read; or an error. */
int thmqi_scan_begin_at(struct scan *s, uint64_t position);
/* Is something below what is known durable missing or damaged? */
static inline bool thmqi_scan_lacks(const struct scan *s)
{
	return s->begin_missing || s->chain.position < s->claims.durable;
}
/*
 * What lies behind the end of a log that lacks something, up to where its owner had written: ranges of whole batches and of
 * bytes that fail, in order. @batch: of each whole one; @run: in a damaged one each run whose header passes its check;
 * @range: of each range. Non-zero ends it. NULL: not wanted.
 */
struct scan_beyond {
	int (*batch)(void *ctx, const struct batch_header *h);
	int (*run)(void *ctx, uint64_t position, const struct thmq_run_header *run);
	int (*range)(void *ctx, uint64_t begin, uint64_t end, bool whole, uint64_t first_index,
		     uint64_t last_index);
	void *ctx;
};
int thmqi_scan_beyond(struct scan *s, const struct scan_beyond *b);

int thmqi_finding(struct scan *s, uint32_t kind, int error, uint64_t position, const char *format,
		  ...) __attribute__((format(printf, 5, 6)));
struct scan_partition *
thmqi_scan_partition(struct scan *s, uint32_t partition); /* made if absent; NULL: no memory */
int thmqi_scan_names_add(struct scan_names *n, uint64_t position);
bool thmqi_scan_names_has(const struct scan_names *n, uint64_t position);

/*
 * The batch at @at of the file, which is @position of the log, into s->piece. Return: 1 whole; 0 not; SCAN_ONLY_HEADER: its header
 * is, not the rest; -THMQ_EVERSION; or an error.
 */
#define SCAN_ONLY_HEADER (-1000)
int thmqi_scan_load_batch(struct scan *s, struct thmqi_disk_file *file, uint64_t at, uint64_t position, uint64_t left);
/* Any header that passes its own check tells whose log it is. Return: 1 found, in s->piece; 0; or an error. */
int thmqi_scan_find_header(struct scan *s, struct thmqi_disk_file *file, uint64_t position, const struct batch_header **ret_header);
/* To the visitor: the batch and its runs. Return: s->stop. */
int thmqi_scan_show(struct scan *s, const struct batch_header *h);

/* aside.c */
/* Is it the name of a quarantine? Then its bytes lay in the log from *@ret_position on. */
bool thmqi_scan_is_aside(const char *path, uint64_t *ret_position);
int thmqi_log_scan_aside(const char *path, uint64_t position, const struct thmq_log_visitor *visitor, void *ctx);

/* scan_index.c */
void thmqi_seen_begin(struct seen *x, const struct chain *before, bool wanted);
int thmqi_seen_batch(struct scan *s, const struct batch_header *h); /* 0; -ENOMEM */
int thmqi_seen_check(struct scan *s, uint64_t position); /* findings; 0 or an error */
/* What the index of the segment at @position tells of partitions behind @end: the offsets that are lost with it. */
int thmqi_seen_lost(struct scan *s, uint64_t position, uint64_t end);
void thmqi_seen_fini(struct seen *x);

#endif
