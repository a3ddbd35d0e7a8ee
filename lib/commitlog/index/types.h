/* SPDX-License-Identifier: Apache-2.0 */
/* types.h - what the log knows of where runs are: in memory, and of what an index file will be made. A part of internal.h. */
#ifndef THMQI_COMMITLOG_INDEX_TYPES_H
#define THMQI_COMMITLOG_INDEX_TYPES_H

/* ------------------------------------------------------------------- index */

/* One run of a partition, 40 bytes. */
struct entry {
	uint64_t base_offset;
	uint64_t batch;      /* index */
	int64_t time_max_ns; /* largest last_time_ns of the partition in its segment up to this run: rises, so that it can be searched */
	uint32_t at;         /* bytes from the begin of the batch */
	uint32_t span;
	uint64_t tag_filter; /* of its header */
};

/*
 * NARROW_ENTRIES of them as they mostly are: near one another, small, of the same tags. What differs from the first one
 * takes 12 bytes for each. One that does not fit makes all of the block wide.
 */
#define NARROW_ENTRIES 8u
#define ROW_AT_BITS 19
#define ROW_OFFSET_BITS 12
#define ROW_TIME_BITS 40
#define ROW_BATCH_BITS 16
#define ROW_SPAN_BITS 8

struct row {
	uint32_t at : ROW_AT_BITS; /* in units of 8 bytes */
	uint32_t offset : ROW_OFFSET_BITS;
	uint32_t time_low;
	uint32_t time_high : ROW_TIME_BITS - 32;
	uint32_t batch : ROW_BATCH_BITS;
	uint32_t span : ROW_SPAN_BITS;
};

struct narrow {
	uint64_t base_offset, batch;
	int64_t time_ns;
	uint64_t tag_filter; /* of each */
	struct row rows[NARROW_ENTRIES];
};
_Static_assert(sizeof(struct narrow) == 128, "a piece");

static inline struct entry thmqi_narrow_get(const struct narrow *n, uint32_t place)
{
	const struct row *r = &n->rows[place];

	return (struct entry){.base_offset = n->base_offset + r->offset,
			      .batch = n->batch + r->batch,
			      .time_max_ns =
				      (int64_t)((uint64_t)n->time_ns +
						((uint64_t)r->time_high << 32 | r->time_low)),
			      .at = (uint32_t)r->at * 8,
			      .span = r->span,
			      .tag_filter = n->tag_filter};
}

/* Of a list of chunks: where it lies, and whether it is narrow; else it has entries. */
#define CHUNK_NARROW 1u

static inline void *thmqi_chunk_at(uintptr_t chunk)
{
	return (void *)(chunk & ~(uintptr_t)CHUNK_NARROW);
}

/* Pieces of memory for indexes, from mappings that only grow; neither heap nor pool, whose limits are for messages. */
enum piece {
	PIECE_MITE,
	PIECE_TINY,
	PIECE_FEW,
	PIECE_SOME,
	PIECE_MANY,
	PIECE_CHUNK,
	PIECE_NARROW,
	PIECE_KINDS
};

#define ARENA_READY 4u /* a partition, a list, and two to be cut into pieces */

struct arena {
	void *free[PIECE_KINDS];
	uint8_t *fresh; /* never used yet */
	uint64_t fresh_bytes;
	uint32_t
		ready; /* chunks that can be had without the system; ARENA_READY are enough for one append */
	struct region *regions;
};

/*
 * Entries are numbered from 0; those before `first` are gone. Up to 8 lie in one piece, which is a ring; more lie in
 * pieces of 8, one behind the other, and a list of these. So a hundred thousand partitions cost what their entries need.
 * Two cache lines, of which an append writes to both.
 */
#define LINE_SHIFT 3u
#define LINE_ENTRIES NARROW_ENTRIES

struct run_index {
	uint64_t first,
		count; /* entries first … count - 1 are there; the first chunk has the first one */
	union {
		uintptr_t one;   /* directory 0: the ring, if chunk_count is 1 */
		uintptr_t *list; /* else: a piece, or a mapping */
	};
	uint64_t end;        /* one past the last offset appended */
	uint64_t held_bytes; /* of its runs in all segments, headers included */
	uint32_t partition;
	uint32_t chunk_count;
	uint32_t generations[2]; /* numbers of those it is listed in by touched[], lower halves */
	uint32_t part;
	uint8_t directory;   /* its size: index.c; 0: there is none */
	uint8_t mask : 6;    /* entry n is in place n & mask of its chunk */
	uint8_t thinned : 1; /* held: segments between two samples may have runs of it too */
	uint8_t wide : 1;    /* no piece of it is ever narrow: its entries are moved about */
	uint16_t held_count : 12;
	uint16_t held_kind : 4; /* enum piece */
	struct touched {
		struct run_index *next;
		uint64_t bytes; /* of its runs in the generation, headers included */
	} touched[2];
	uint64_t
		sealed_end; /* as end, of its runs in sealed segments, whose entries are in their indexes */
	struct held *held;   /* those segments, oldest first; a piece */
	struct moved *moved; /* runs that a cleaner appended again; NULL: none */
	uint64_t
		part_bytes; /* touched[].bytes as they were when part number `part` of the active segment's index was begun */
};
_Static_assert(sizeof(struct run_index) == 128, "a piece, and two cache lines");

/*
 * Runs that were appended again with their old offsets. All of them lie below the partition's other runs that are held, or
 * are copies of these: they count only below the first of the others.
 */
struct moved {
	struct run_index entries; /* of those in memory, by offset, not by batch */
	struct moved_range {
		uint64_t begin, end;
		uint32_t segment; /* ordinal of a sealed one, rising */
		uint32_t reserved;
	} *ranges;
	uint32_t range_count, range_room;
	uint64_t version; /* rises with every change: a search that was begun before is begun anew */
	int64_t time_max_ns;
	uint64_t doubled_bytes; /* of those whose originals are still held, in the oldest segment */
};

/* A sealed segment that has runs of a partition. */
struct held {
	uint32_t segment; /* ordinal */
	uint32_t offset[2]; /* of the first of them, lower half first: 12 bytes */
};

/* ------------------------------------------------------------------- seals */

/* The newest slice of one state that a segment has. */
struct note {
	uint64_t item, batch, term;
	uint32_t kind;
	uint32_t at;           /* bytes from the begin of its batch */
	uint32_t offset, len;  /* of its payload, in the notes' bytes */
};

struct notes {
	struct note *list;
	uint8_t *bytes;
	uint32_t *table; /* by hash: place in the list + 1; 0: free */
	uint32_t count, room, table_mask;
	uint32_t bytes_used, bytes_room;
};

#define TERMS_MAX 32u

/* What a sealed index will be made of: of the segment that fills, and of the one before while its index is made. */
struct generation {
	uint64_t number;         /* never 0 */
	struct run_index *first; /* partitions with runs in it, by touched[number % 2] */
	uint32_t partitions;
	struct notes notes;
	struct {
		uint64_t index, term; /* from this batch on */
	} terms[TERMS_MAX];
	uint32_t term_count;
	bool spoiled; /* something of it is not known: no index is made now, but at the next open */
};

/* Memory of an image that was written, for the next one: its pages are there. */
struct seal_memory {
	uint8_t *data; /* a mapping; NULL: none */
	uint64_t bytes;
};

/* An index as a file's bytes, made step by step. */
struct seal_image {
	uint8_t *data; /* a mapping of room bytes */
	bool used;     /* it has held another: what is not written is made zero */
	uint32_t cleared; /* of its pages of partitions, which are written in any order; before any is */
	uint64_t room, bytes;
	const struct segment *segment;
	const struct generation *generation;
	uint32_t batch_count, end_block; /* of the segment as it was when this was begun: where its last batch ends */
	uint32_t part;          /* number; 0: it is of the whole segment */
	struct run_index *next; /* partition to be gathered */
	uint64_t next_entry;    /* of it; UINT64_MAX: from its first */
	struct seal_partition *place; /* of it, once it is begun */
	uint32_t runs;          /* gathered */
	int64_t time_max_ns;    /* of these */
	bool gathered;          /* all runs are; next come the keys */
	bool done;              /* but for thmqi_image_end() */
	uint32_t key_count, key_step, key_at;
	struct key_sort *sort; /* a mapping */
};

enum sealing_step { SEALING_IDLE, SEALING_WAIT, SEALING_GATHER, SEALING_WRITE, SEALING_TAKE_OVER };

struct sealing {
	uint32_t step; /* enum sealing_step */
	uint64_t last; /* batch: all up to it must be durable */
	struct segment *segment;
	struct seal_image image;
	struct making making;
	uint64_t runs; /* that were appended when a step was done last */
	struct seal_memory kept;
	struct thmqi_timer kept_timer; /* while there is some: is it worth it? */
	uint64_t kept_stored;          /* bytes that were stored when that was asked last */
};

#endif
