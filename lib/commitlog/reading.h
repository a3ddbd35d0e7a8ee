/* SPDX-License-Identifier: Apache-2.0 */
/* reading.h - a reader, where it stands, and the parts that find and read the next run for it. */
#ifndef THMQI_COMMITLOG_READING_H
#define THMQI_COMMITLOG_READING_H

#include "internal.h"

/* Batches read from the device, side by side, checked. */
struct window {
	struct thmqi_buf *buf;
	uint64_t position;
	uint32_t len; /* whole batches that pass their checks */
	bool reading;
	int error;
	struct thmqi_disk_op op;
	struct segment *segment; /* that is read */
	struct thmq_log_reader *reader;
};

/* Where a reader stands in sealed segments. */
struct cursor {
	bool placed;      /* in `segment` */
	bool found;       /* its partition's runs there are known */
	bool scanning;    /* the index cannot be read: the segment's batches are, one after the other */
	bool by_time;     /* it goes to the first run that reaches `time_ns` */
	uint32_t segment; /* ordinal */
	uint32_t from;    /* segments before it are behind */
	uint32_t first, count;
	uint32_t run;     /* next; UINT32_MAX: to be found */
	uint32_t page;    /* of partitions, that is looked at */
	bool moved;       /* runs that were moved are looked for, in this segment only */
	uint64_t scan_at; /* byte in the segment */
	int64_t time_ns;
};

/* Where the next run lies. */
struct place {
	struct segment *segment;
	uint64_t at;  /* of its batch, in the segment */
	uint32_t len; /* of the batch */
	uint32_t run_at;
	uint64_t base_offset;
	uint32_t span;
};

/* The search for the next run that was moved: through all places that may have it. */
struct search {
	bool active;
	bool found;       /* best is the first so far */
	uint64_t want, version;
	uint32_t before;  /* segments from it on were looked at */
	struct place best;
	struct entry entry; /* best, if it is in memory: best.segment is NULL */
};

#define KEY_BEST 16u /* hits that come in any order, of which the newest are wanted */
#define THMQI_HIT_NO_PLACE UINT64_MAX /* thmq_log_hit.internal[0]: it is found by its offset. Else its batch's position; [1]: blocks of that, and bytes to the run */

/* A reader's search for a key: from the newest segment backwards. */
struct key_search {
	bool active;
	bool moved;    /* runs that were appended again are looked through: behind all others */
	bool placed;   /* in `segment` */
	bool begun;    /* page and slot, or chunk and entry, are known */
	bool sealed;   /* the segment had its index when it was placed */
	bool missing;  /* its keys were missing */
	bool scanning; /* its batches are read */
	bool telling;  /* what was collected is handed out */
	bool ended;
	bool reading;  /* a filter */
	bool indexed_only; /* segments without an index of keys are passed over … */
	bool passed_over;  /* … and there was one */
	uint64_t hash, limit; /* offsets below it are wanted */
	int64_t from_ns, to_ns;
	uint32_t segment; /* ordinal; if not placed: those before it are left */
	uint32_t page, slot;
	struct key_chunk *chunk;
	uint32_t entry;
	uint32_t budget;
	uint64_t scan_at; /* byte in the segment, or number of a batch where it has no index */
	uint32_t scan_runs,
		scan_run_at; /* of that batch: so many were looked through, and where the next one begins */
	uint64_t version;                   /* of the index's moved */
	struct thmq_log_hit best[KEY_BEST]; /* newest first */
	uint32_t best_count, best_next;
	struct thmqi_disk_op op; /* reads a filter */
	struct segment *owner;
};

struct thmq_log_reader {
	struct thmqi_list link; /* of the log */
	struct thmq_log *log;   /* NULL: it was closed before */
	struct run_index *index; /* NULL: nothing of it was appended yet */
	uint32_t partition;
	bool sought;   /* where `want` is must be found */
	bool closed;
	bool waiting;  /* was refused a read or its memory: is called again */
	uint32_t reading; /* operations in flight */
	uint64_t refused_ns; /* it has no memory since then; 0: it has */
	uint64_t at;   /* number of the next entry, if it is in memory */
	uint64_t want; /* offset from which on runs are wanted */
	uint64_t filter; /* only runs are that have one of these bits in their tag_filter; 0: all */
	void (*ready)(void *ctx);
	void *ctx;
	struct window windows[2]; /* windows[0] is looked at, the other one is read ahead */
	uint32_t window_bytes;    /* to be read at a time */
	uint32_t streak;          /* reads that went on where the one before ended */
	struct cursor cursor;
	struct search search;
	struct key_search keys;
	bool hit_sought; /* the run of a hit is being looked up by its offset */
	struct {
		struct thmqi_buf *buf;
		uint32_t segment; /* ordinal */
		uint64_t at;      /* in its index file */
		uint32_t len;     /* pages that pass their checks */
		bool reading;
		int error;
		struct thmqi_disk_op op;
		struct segment *owner; /* that is read */
	} page;
};

/* A run with this tag_filter is none that it reads. */
static inline bool thmqi_reader_skips(const struct thmq_log_reader *r, uint64_t tag_filter)
{
	return thmqi_unlikely(r->filter) && !r->cursor.by_time && !(tag_filter & r->filter);
}

/* lookup.c: 1 *@ret_place is the next run; 0 it is being read; -ENOENT none in sealed segments any more; or an error. */
int thmqi_lookup_next(struct thmq_log_reader *r, struct place *ret_place);
/* Likewise among those that were moved, below offset @end. -ENOENT: there is none. */
int thmqi_lookup_moved(struct thmq_log_reader *r, uint64_t end, struct place *ret_place, struct entry *ret_entry);
void thmqi_lookup_drop(struct thmq_log_reader *r); /* what it holds */
/* The page at @at of the index of @s, @len bytes to be read if it is not there. 1 *@ret_page; 0 it is being read; or an error. */
int thmqi_page_get(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len, const void **ret_page);

/* find_key.c */
void thmqi_filter_drop(struct thmq_log *log, struct sealed *x); /* from memory */

/* window.c: the batch at @at of @s, @len bytes (0: not known). 1 *@ret_data; 0 it is being read; or an error. */
int thmqi_window_get(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len, struct window **ret_window,
		     uint8_t **ret_data);
void thmqi_windows_drop(struct thmq_log_reader *r);
void thmqi_reader_fed(struct thmq_log_reader *r, int rc);
bool thmqi_readers_starve(const struct thmq_log *log); /* does one? */
void thmqi_windows_spare(struct thmq_log *log); /* those of all its readers */
/* A read of the reader's. Return: 0; or it waits: -EAGAIN, -ENOBUFS. */
int thmqi_reader_submit(struct thmq_log_reader *r, struct segment *s, struct thmqi_disk_op *op);
bool thmqi_reader_done(struct thmq_log_reader *r, struct segment *s); /* one has ended. False: the reader was closed, and is gone if it was the last */
void thmqi_reader_tell(struct thmq_log_reader *r);

#endif
