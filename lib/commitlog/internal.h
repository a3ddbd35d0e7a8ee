/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the log's own structures. One log belongs to one core; nothing here is locked.
 *
 * A run is appended to the batch being formed (append.c), which is written and flushed (commit.c) to a segment
 * (segment.c), indexed in memory (index.c), kept in the tail cache (cache.c) and read from there or from the device
 * (reader.c). A segment that is full gets an index file (seal.c, with notes.c), made like the next segment in the
 * background (making.c). recover.c brings the log back, from index files (sealed.c) where it can; create.c makes a new one,
 * truncate.c cuts one, scan.c checks it from outside; all know the bytes by batch.c, and what lies in a directory by survey.c.
 * vote.c keeps the few facts that cannot be derived from the log itself.
 */
#ifndef THMQI_COMMITLOG_INTERNAL_H
#define THMQI_COMMITLOG_INTERNAL_H

#include <thundermq/log.h>

#include "base/base.h"
#include "commitlog/copies.h"
#include "commitlog/plant.h"
#include "disk/disk.h"
#include "memory/memory.h"
#include "reactor/reactor.h"
#include "wire/attributes.h"
#include "wire/run.h"

struct thmq_log;

/* ----------------------------------------------------------------- batches */

#define BATCH_MAGIC 0x31424854u /* "THB1" */
#define FORMAT_VERSION 1u
#define BATCH_BYTES_MAX THMQI_BATCH_BYTES_MAX /* but for a pad */

enum batch_type {
	BATCH_DATA = 1,
	BATCH_NOOP = 2,
	BATCH_CHANGE = 3,
	BATCH_BARRIER = 4,
	BATCH_CHECKPOINT = 5,
	BATCH_PAD = 6 /* the rest of its segment; only its first block is written */
};

/* As stored; see doc/format.md. The first 96 bytes are equal on all replicas, the local word is not. */
struct batch_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t len; /* bytes, a multiple of THMQI_BLOCK */
	uint32_t payload_len; /* bytes of runs behind this header, each padded to 8 */
	uint64_t position;
	uint64_t index;
	uint64_t term;
	uint8_t log_id[16];
	uint32_t run_count;
	uint32_t prev_crc; /* header_crc of the batch before; 0 for the first */
	uint32_t payload_crc; /* CRC32C over the header_crc of its runs, one behind the other */
	uint32_t reserved[6];
	uint32_t header_crc; /* of the 92 bytes before it */
	uint64_t incarnation;
	uint64_t durable_position; /* all before it was durable here when this was formed */
	uint32_t reserved_local[3];
	uint32_t local_crc; /* of the 28 bytes before it */
};
_Static_assert(sizeof(struct batch_header) == 128, "as in doc/format.md");
_Static_assert(offsetof(struct batch_header, header_crc) == 92, "as in doc/format.md");
_Static_assert(sizeof(struct thmq_run_header) == 96, "as in doc/format.md");
_Static_assert(sizeof(struct thmq_record) == 16, "as in doc/format.md");

/* What a batch must continue. */
struct chain {
	uint64_t position;
	uint64_t index; /* of the last batch; 0: none */
	uint64_t term;
	uint32_t crc;
	uint8_t log_id[16];
};

void thmqi_batch_seal(struct batch_header *h, const struct chain *c, uint64_t term, uint16_t type,
		      uint32_t run_count, uint32_t payload_len, uint32_t len);
void thmqi_batch_stamp(struct batch_header *h, uint64_t incarnation, uint64_t durable_position);
/* Is this a header at @position that passes its own check? Says nothing of its payload. */
bool thmqi_batch_header_ok(const struct batch_header *h, uint64_t position, const uint8_t log_id[16]);
bool thmqi_batch_local_ok(const struct batch_header *h);
bool thmqi_batch_continues(const struct batch_header *h, const struct chain *c);
struct vote;
/* It lies at the mark or behind it and was written before that was set: it was cut, or never part of the log. */
bool thmqi_batch_is_stale(const struct batch_header *h, const struct vote *v);
/* Whoever wrote it had stored a later vote than this before: that is lost, or an older one was put in its place. */
bool thmqi_batch_is_later(const struct batch_header *h, const struct vote *v);
/* All runs of a batch of which @len bytes are there: lengths, checksums. */
bool thmqi_batch_payload_ok(const struct batch_header *h, uint32_t len);
void thmqi_chain_advance(struct chain *c, const struct batch_header *h);

/* -------------------------------------------------------------------- vote */

/* Two blocks written in turn; the newer valid one counts. */
struct vote {
	uint32_t magic;
	uint32_t version;
	uint64_t generation;
	uint8_t log_id[16];
	uint64_t segment_bytes_min, segment_bytes_max;
	uint64_t term;
	uint64_t voted_for;
	uint64_t incarnation;
	uint64_t mark; /* all below it is durable */
	/* where the log begins: its first segment, and what that one's first batch continues; all 0 for a whole log */
	uint64_t begin_position, begin_index, begin_term;
	uint32_t begin_crc;
	uint32_t clean; /* 1: closed by its owner, the log ends at mark */
	uint32_t look_mib; /* how far behind its end an open looks at least; 0: LOOK_BYTES */
	uint32_t resetting; /* 1: all that lies there is to go, and the log to begin where this says */
	uint32_t reserved;
	uint32_t crc; /* of all before it */
};
_Static_assert(sizeof(struct vote) == 128, "as in doc/format.md");
_Static_assert(offsetof(struct vote, begin_position) == 80 && offsetof(struct vote, crc) == 124, "as in doc/format.md");

/* 0; -ENOENT no file; -THMQ_ECORRUPT neither block is valid; -THMQ_EVERSION */
/* *@ret_damaged: the other block holds nothing valid: what is returned may not be the newest. */
int thmqi_vote_read(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir,
		    struct vote *ret_vote, bool *ret_damaged);
/* Blocking. Writes the next generation with the log's term and incarnation; on success it becomes log->vote. */
int thmqi_vote_write(struct thmq_log *log, uint64_t mark, bool clean);
/* A file of its own, both blocks, durable with its name; magic, version, generation and CRC are set. */
int thmqi_vote_make(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, const struct vote *v);
void thmqi_vote_mark(struct thmq_log *log);  /* the mark moves to what is durable, in the background */
void thmqi_vote_store(struct thmq_log *log); /* likewise, also where only log->begin is new; nothing while mark_busy */
bool thmqi_vote_begin(struct thmq_log *log); /* the term and vote that are due, unless one is being written. False: refused, again later */
int thmqi_vote_end(struct thmq_log *log); /* likewise: the log was closed by its owner; all is durable, nothing in flight. 0; -EAGAIN */
void thmqi_vote_watch(struct thmq_log *log); /* and again every second, until it has come to the end */

/* ---------------------------------------------------------------- segments */

/* A segment's files. */
enum segment_file { SEGMENT_LOG, SEGMENT_INDEX, SEGMENT_FILES };

/* One that is open only while it is read, as all of full segments are: files.c. */
struct cold_file {
	struct thmqi_list link; /* of the log's, by last use, while it is open and may be closed */
	struct thmq_log *log;
	struct segment *segment;
	bool busy; /* op is in flight: it is being opened or closed */
	int error; /* of the last attempt to open it; 0 */
	char name[40];
	struct thmqi_disk_op op;
};

/* Records with a key: index/keys.h. */
struct keys {
	struct key_chunk *oldest, *newest;
	uint32_t count;
	bool missing; /* there were too many, or no memory: none is kept */
};

/* In mappings, so that making the next one needs no heap; their pages are touched as it fills. */
struct segment {
	uint64_t position, bytes;
	uint64_t first_index; /* of its first batch */
	struct thmqi_disk_file *file, *index; /* open now, or NULL: thmqi_file_use() */
	struct cold_file cold[SEGMENT_FILES];
	uint32_t ordinal; /* its number, for this life of the log */
	uint32_t batch_count;
	uint32_t run_count; /* of its batches */
	uint32_t prev_crc; /* what its first batch continues */
	uint64_t last_term; /* of its last batch, once it is full */
	bool unflushed;    /* plain writes that no flush has covered */
	bool index_bad;    /* it could not be read: the next open makes it again */
	uint32_t reads;    /* operations on its files in flight, but for writes of batches */
	struct seal_image *image; /* while recovery keeps its index to be written */
	struct sealed *sealed; /* what is kept of its index; NULL: it has none */
	uint32_t *blocks; /* by batch: where it begins, in blocks from position; NULL: in its index only */
	struct keys keys; /* of its records, likewise */
};

struct seal_partition; /* seal_format.h */
struct seal_fence;
struct seal_header;
struct seal_key;

/* What is kept in memory of a segment's index file: where its pages are. A mapping. */
struct sealed {
	uint64_t mapping_bytes;
	uint64_t batches_at, partitions_at, runs_at; /* in the file */
	uint32_t partition_pages, run_pages;
	int64_t time_max_ns;
	struct seal_fence *fences; /* by page of runs, behind this */
	uint64_t keys_at, filter_at;
	uint32_t key_pages, filter_bytes, filter_crc;
	bool keys_missing; /* its keys are not in the index: its batches tell */
	bool filter_bad;
	int64_t key_time_min_ns, key_time_max_ns;
	uint32_t *key_fences; /* by page of keys, behind the others: rank of the first one's hash */
	uint8_t *filter; /* a mapping; NULL: not in memory */
};

enum prepare_step {
	PREPARE_IDLE,
	PREPARE_MAKING,
	PREPARE_READY,
	PREPARE_FAILED /* again when its timer fires */
};

#define ZERO_BYTES (256u << 10) /* of the zeros written to the next segment at a time */

/* A file that is being made in the background; one owner, one at a time. */
#define MAKING_PIECES 4u /* writes in flight when somebody waits for the file; else one */

struct making {
	struct thmq_log *log;
	/* The end, not called after a stop: 0 with op.file open, which is the owner's now; or an error, and nothing is left. */
	void (*done)(struct making *m, int error);
	uint8_t *image; /* its bytes, aligned to blocks; NULL: zeros */
	uint64_t bytes, given; /* in all, a multiple of a block; given to the device */
	const char *temporary; /* what it is called until it is whole */
	char name[40];
	struct thmqi_disk_file *recycled; /* NULL: a new file is made; else this one, which is whole, gets the name */
	char from[40];                    /* its present name */
	bool hurried; /* somebody waits */
	bool active;
	uint32_t step; /* enum making_step */
	int error; /* of a write: the attempt ends with the last one in flight */
	uint32_t writing; /* bit per piece in flight */
	struct thmqi_disk_op op;
	struct making_piece {
		struct thmqi_disk_op op;
		struct making *making;
	} pieces[MAKING_PIECES];
};

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

/* -------------------------------------------------------------------- log */

enum batch_state { BATCH_FREE, BATCH_WAITING, BATCH_WRITING, BATCH_WRITTEN };

/* A batch on its way to the device. */
struct flight {
	struct thmqi_disk_op op;
	struct thmq_log *log;
	struct thmqi_buf *buf;
	uint64_t index, position;
	struct segment *segment;
	uint32_t len;
	uint8_t state; /* enum batch_state */
	bool dsync;
	bool needs_durable;
	bool pressing;        /* a producer waits for it: pace.c */
	bool beside;          /* something was being read when it was begun */
	uint32_t reads_begun; /* up to then */
	uint64_t since_ns;
	uint64_t begun_ns, given_ns, written_ns; /* its first run was appended; the device got it, and had written it: times.c */
};

/* How fast batches are read while producers wait for writes: pace.c. */
struct pace {
	uint64_t rate;       /* bytes a second */
	int64_t allowance;   /* bytes that may be read now; below 0 so many too many were */
	uint64_t filled_ns;  /* when it was counted */
	uint64_t written_ns; /* when such a write has ended last; 0: never */
	uint64_t usual_ns;   /* what few of them take with nothing read beside them; 0: not known */
	uint32_t waited;     /* such writes in flight */
	uint32_t reading;    /* windows that are being read */
	uint32_t begun;      /* of these, free running */
	uint64_t read_since_ns, read_ns; /* when one was begun last; what small ones take, about */
	int32_t alone_slow;  /* of the writes with nothing read beside them, how many took much longer than usual: of SHARE */
	/* since the rate was changed last */
	uint32_t judged;     /* such writes that ended */
	uint32_t slow;       /* of them, those that had a read beside them and took much longer than usual */
	uint32_t begun_then; /* reads begun up to then */
	/* what is appended: readers get on faster than that */
	uint64_t least;      /* a quarter more than that, bytes a second */
	uint64_t counted_ns, counted_bytes; /* when it was found last, and stored bytes up to then */
	struct thmqi_timer timer;
};

#define DEPTH_MAX 64u
#define FLIGHTS_MAX 128u /* a slow write holds up what settles behind it, and should not hold up the device */
#define FLUSHES_MAX 8u
#define QUEUE_DEPTH 256u
#define READS_MAX (QUEUE_DEPTH - DEPTH_MAX - FLUSHES_MAX - 8u) /* so that reads never keep a write out */

struct forming {
	struct thmqi_buf *buf; /* NULL: none */
	uint32_t used;         /* bytes, header included */
	uint32_t limit;        /* it may grow to */
	uint32_t runs;
	uint32_t open; /* bytes of the run being filled; 0: none */
	bool awaited;  /* somebody waits until a run of it is written */
	bool needs_durable;
	bool pressing;  /* a message of it is awaited */
	bool hurried;   /* it waits for company no more */
	uint64_t until; /* when that ends by itself, ns; 0: it does not wait yet */
	uint64_t begun_ns; /* its first run was appended */
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

/* An index as a file's bytes, made step by step. */
struct seal_image {
	uint8_t *data; /* a mapping of room bytes */
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
};

/* notes.c */
int thmqi_notes_init(struct notes *n); /* 0; -ENOMEM: to be used all the same */
int thmqi_notes_put(struct notes *n, const struct note *note, const void *payload, uint32_t len); /* 0; -ENOMEM */
void thmqi_notes_clear(struct notes *n);
void thmqi_notes_fini(struct notes *n);

struct log_flush {
	struct thmqi_disk_op op;
	struct thmq_log *log;
	struct segment *segment;
};

/* ------------------------------------------------------------------ drops */

/* In which batch the newest slice of a state is. */
struct state_place {
	uint64_t item, batch; /* batch 0: free; UINT64_MAX: nowhere, it has no meaning any more */
	uint32_t kind, len;
};

struct states {
	struct state_place *places; /* by hash */
	uint32_t mask, count;
	uint32_t grown; /* times; a cursor is of no use then */
	bool incomplete;
	uint64_t bytes; /* of the newest slices */
};

/* What a segment has, partition by partition. */
struct extents {
	struct segment *segment;
	bool sealed;     /* they are in its index */
	uint32_t cursor; /* place in the pages of partitions, or in the map */
	uint64_t fresh_bytes; /* of what was told last: of runs that were never appended again */
};

/* The page of partitions that was read last, for extents. */
struct extents_page {
	struct thmqi_buf *buf; /* NULL: none */
	struct segment *segment; /* that is read */
	uint64_t position;     /* of the segment */
	uint32_t number;
	bool reading;
	int error;
	struct thmqi_disk_op op;
};

/* Which records of a run must be kept, where of each key only the newest is: clean/compact.c. */
struct compaction {
	struct thmq_log_reader *keys; /* looks for records with the same key; NULL: nothing was looked at yet */
	struct thmq_log_reader *runs; /* reads those, and parts of messages */
	uint8_t *key;                 /* that is looked for */
	uint64_t *kept;               /* a bit for each record */
	uint32_t kept_room, kept_count;
	uint64_t kept_bytes; /* of bodies */
	bool begun, done;    /* with the run that is relocated: done until it is appended */
	uint32_t record;     /* the next of it */
	uint64_t body_at;    /* where its body is, behind the run's table */
	/* of that record */
	uint32_t step;
	uint32_t hits; /* that were looked at, and are no answer */
	uint32_t key_len;
	uint64_t offset; /* of its message */
	struct thmq_log_hit hit;
	struct thmqi_part part, hit_part;
};

/* What of the oldest segment is being appended again. */
struct relocation {
	struct thmq_log_reader *reader; /* of its batches; NULL: nothing is */
	struct thmq_log_reader *copies; /* looks for runs that were appended again already */
	uint64_t at;     /* batch, in the segment */
	uint32_t run_at; /* run, in the batch */
	uint32_t budget; /* bytes, in this iteration */
	bool lends;      /* there is no next segment, and what is left to be appended has room where the active one's end is kept */
	uint64_t appended; /* bytes */
	bool goes_on;    /* it stopped for something that is being read, or to let others have their turn */
	struct compaction compaction;
};

/* The cleaner: what it does with the oldest segment. */
/* What is dead of a few segments from everywhere in the log; see clean/sample.c. */
struct sample {
	uint32_t at; /* of the segments that are looked at */
	struct segment *segment; /* which it is now; NULL: the next */
	struct extents extents;
	uint64_t bytes, live_bytes;
	uint64_t taken_ns, taken_position; /* when, and where the log ended; 0: never */
	uint64_t sweep_end;		   /* segments below it go, and what must be kept of them moves */
};

struct clean {
	uint64_t trimmed; /* with copies: position of the segment that was said to go, and 1; 0: none */
	uint32_t step; /* enum clean_step */
	bool look;     /* at the oldest segment, when the poller runs */
	bool forced;   /* it goes whatever is in it */
	bool holds;    /* something of it must be kept where it is */
	bool waits;    /* something of it is kept where it is, unless much behind it is dead */
	bool rolls;    /* it is the active one: is all of it dead? */
	uint64_t seen_index, seen_ns; /* last batch, and since when it is */
	uint64_t position;   /* of the segment that is looked at */
	struct extents extents;
	struct extents_page page;
	struct relocation relocation;
	struct sample sample;
	uint64_t bytes, live_bytes; /* of its runs */
	uint32_t cursor, grown;     /* in the states */
	uint64_t renewed;           /* batch that must be durable before it goes */
	struct thmqi_timer timer;
};

/* The oldest segment goes, one at a time: `vote` first, then its index, then its file, which may serve again. */
struct drop {
	uint32_t step; /* enum drop_step */
	bool busy;     /* op is in flight */
	uint32_t tries;
	struct segment *segment; /* from when the log is without it */
	uint64_t generation;     /* of the vote that must be stored */
	struct extents extents;  /* what is no longer held of each partition */
	char name[40];
	struct thmqi_disk_op op;
};

/* A dropped segment's file, under its old name; at the next open a leftover. */
struct spare {
	struct thmqi_disk_file *file; /* NULL: none */
	uint64_t position, bytes;
};

/* A log that is one of several copies. */
struct copies {
	bool on;
	bool leads; /* it forms batches; else it takes them */
	bool held;  /* none may be formed now */
	bool quiet; /* `formed` is not called */
	bool resetting; /* as the next vote is to say */
	struct thmqi_log_copies owner;
	uint64_t voted_for;
	uint64_t committed; /* all up to it is: more than so many behind it are not formed */
	enum { VOTE_DONE, VOTE_DUE, VOTE_WRITING } vote;
	void (*vote_done)(void *ctx);
	void *vote_ctx;
	/* stretches of batches of one term, oldest first */
	struct term_stretch {
		uint64_t index, term; /* from this batch on */
	} *terms;
	uint32_t term_count, term_room;
};

struct thmq_log {
	struct thmq_core *core;
	struct thmq_log_opts opts;
	struct thmq_log_events events; /* copied; unset ones are NULL */
	uint32_t defects;              /* enum thmqi_log_defect, for tests */
	const struct thmqi_disk_table *disk; /* NULL: memory only */
	void *disk_ctx;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_queue *queue;
	struct thmqi_poller poller;
	struct ahead *ahead; /* while it comes back; NULL */
	struct vote vote; /* as last written */
	struct chain begin; /* what the first batch that is held continues: goes into the next vote */
	struct thmqi_disk_file *vote_file;

	int failed;    /* error; 0: well */
	bool dirty;    /* something was appended since the last end of an iteration */
	bool starved;  /* an append was refused */
	bool tell_failed, tell_room, tell_readers, tell_checkpoint; /* by the poller, not in the call that found it */
	bool draining;                                              /* close or truncate: nothing new is begun */
	uint64_t yielded_ns;                                        /* when the loop last gave way to the kernel */
	struct thmqi_timer pinch;                                   /* memory was short: tries again */

	struct chain chain; /* behind the last sealed batch */
	uint64_t term, incarnation;
	struct copies copies;
	struct forming forming;
	uint32_t last_len;         /* of the batch before */
	struct thmqi_timer linger; /* the forming batch is written at the latest when it fires */
	uint32_t eager_bytes;      /* and as soon as it has so many; UINT32_MAX: no limit was asked for */

	/* batches that have not settled, in log order: head … tail, free running */
	struct flight flights[FLIGHTS_MAX];
	uint32_t flight_head, flight_tail;
	uint32_t writing, depth; /* of them, those that the device has; at most so many */
	uint64_t written_index, written_position; /* all up to it was written, in order */
	uint64_t durable_index, durable_position; /* and is on the medium */
	uint64_t told_written, told_durable;
	uint64_t plain_index; /* last batch given to the device without DSYNC */
	uint64_t flush_due;   /* a flush that covers this index is wanted */
	uint32_t flushing;    /* flush operations in flight */
	bool flush_partial;   /* not every segment could be flushed: it proves nothing */
	bool weak;            /* something was appended that nobody waits for to be durable */
	uint64_t plain_bytes; /* written and settled without DSYNC since the last flush began */
	struct thmqi_timer flush_timer; /* all that is there when it fires becomes durable */
	uint64_t flush_index, flush_position;
	struct log_flush flushes[FLUSHES_MAX];
	uint32_t reads; /* in flight */
	struct pace pace;

	/* segments, oldest first; the last one is active */
	struct segment **segments;
	uint32_t segment_count, segment_room;
	uint32_t segment_base; /* ordinal of the first */
	uint32_t sealed_next;  /* ordinal of the first whose runs have their entries in memory */
	uint64_t
		carry_from; /* batch: the first of the segment that entries come from; largest times up to a run begin anew there */
	struct segment *active;
	uint32_t cold_next; /* ordinal of the first that is not full and durable: the files of those before it need not be open */
	uint32_t cold_count;
	struct thmqi_list cold_open; /* struct cold_file, that was used last at the end */

	/* the next segment */
	uint32_t prepare; /* enum prepare_step */
	int prepare_error; /* of the last attempt; 0: none failed since the last success */
	uint64_t reserve; /* bytes of the active segment that only the cleaner may use: there is no next, and it is to make room */
	struct segment *next;
	struct making making; /* of the next segment */
	struct drop drop;
	struct spare spare;
	struct clean clean;
	struct states states;
	uint64_t file_bytes; /* of all files of segments, for the counters */
	struct sealing sealing; /* of the segment before the active one */
	struct generation generations[2];
	uint64_t generation; /* number of the active segment's */
	uint64_t part_due;   /* position from which on a part of the active segment's index is to be made */
	uint32_t part;       /* number of the last one that was begun in this life */
	struct key_chunk *key_chunks; /* not in use, by `older` */
	uint64_t filter_bytes;        /* of the filters of keys that are in memory */
	uint32_t filter_floor;        /* ordinal: segments before it have none */
	struct thmqi_buf *zeros;
	struct thmqi_timer retry;

	/* tail cache: batches by index, a ring */
	struct thmqi_buf **cache;
	uint32_t cache_mask;
	uint64_t cache_first, cache_end; /* indexes held: first … end - 1 */
	uint64_t cached_bytes;

	struct thmqi_map partitions;  /* struct run_index */
	struct run_index *last_index; /* of the last append */
	struct arena arena;
	struct thmqi_list readers;

	/* the durable mark in `vote` */
	struct thmqi_timer mark_timer;
	struct thmqi_disk_op mark_op;
	struct thmqi_buf *mark_buf;
	struct vote mark_vote; /* being written */
	bool mark_busy;
	int mark_error; /* of the last one */

	/*
	 * Copies that are being made of this log (copy.c): while it is not 0 no segment may be dropped, recycled or renamed, and
	 * none of its bytes below what is durable change. Counted on the log's core only.
	 */
	uint32_t holds;
	struct thmqi_log_snapshot *snapshots; /* of these copies */

	/* closed, though the device still has something of it: called once that is done */
	void (*gone)(void *arg);
	void *gone_arg;

	struct thmq_log_stats stats;
	struct log_times *times; /* NULL: nobody asks how long things take */
};

/* times.c: by the steps that they are about; only where log->times is not NULL */
void thmqi_times_settled(struct thmq_log *log, const struct flight *flight); /* in log order */
void thmqi_times_flush(struct thmq_log *log);   /* one begins */
void thmqi_times_flushed(struct thmq_log *log, bool proves); /* all of it has ended; does all up to flush_index last now? */

/* segment.c */
uint64_t thmqi_segment_bytes(const struct vote *v, uint64_t position);
bool thmqi_segment_begins(const struct vote *v, uint64_t position); /* is it the first byte of one? */
int thmqi_segment_bare(struct thmq_log *log, uint64_t position, struct segment **ret_segment); /* without blocks */
int thmqi_segment_map_blocks(struct segment *s); /* if it has none. 0; -ENOMEM */
int thmqi_segment_new(struct thmq_log *log, uint64_t position, struct segment **ret_segment);
int thmqi_segment_add(struct thmq_log *log, struct segment *s); /* behind the others; 0 or -ENOMEM */
int thmqi_segment_create(struct thmq_log *log, uint64_t position, struct segment **ret_segment); /* blocking */
void thmqi_segment_prepare(struct thmq_log *log); /* begin to make the next one */
void thmqi_segment_reserve(struct thmq_log *log); /* until there is one the active one's end is the cleaner's */
/*
 * Quarters of that end which an append between these two may use: what the owner says makes room, what must be kept of the
 * oldest segment, and what its states are. Each leaves something to those behind it, without whom the segment would not go.
 */
enum reserve_share { RESERVE_OWNER = 1, RESERVE_MOVED = 2, RESERVE_ALL = 4 };
uint64_t thmqi_reserve_lend(struct thmq_log *log, uint32_t quarters);
void thmqi_reserve_give_back(struct thmq_log *log, uint64_t reserve); /* what the other has returned */
void thmqi_segment_prepare_stop(struct thmq_log *log); /* none of its operations may be in flight */
int thmqi_segment_switch(struct thmq_log *log); /* the prepared one becomes active; -EAGAIN, -ENOSPC */
struct segment *thmqi_segment_of_index(const struct thmq_log *log, uint64_t index);
static inline struct segment *thmqi_segment_at(const struct thmq_log *log, uint32_t ordinal)
{
	return log->segments[ordinal - log->segment_base];
}
/* Where batch @index of @s begins in its file, and its length. May read the index, blocking. Return: 0, or an error. */
int thmqi_segment_place(struct thmq_log *log, struct segment *s, uint64_t index, uint64_t *ret_at);
void thmqi_segment_forget_blocks(struct segment *s);
void thmqi_segment_note(struct segment *s, uint64_t index, uint64_t position, uint32_t run_count);
void thmqi_segment_free(struct thmq_log *log, struct segment *s);
void thmqi_segment_name(uint64_t position, char name[40]);

/* files.c */
void thmqi_files_init(struct thmq_log *log);
void thmqi_file_init(struct thmq_log *log, struct segment *s);
/* A file to be read. 0; -EAGAIN it is being opened, and readers are woken then; or why it cannot be. */
int thmqi_file_use(struct thmq_log *log, struct segment *s, enum segment_file kind, struct thmqi_disk_file **ret_file);
/* Likewise, blocking. */
int thmqi_file_need(struct thmq_log *log, struct segment *s, enum segment_file kind, struct thmqi_disk_file **ret_file);
void thmqi_file_note(struct thmq_log *log, struct segment *s, enum segment_file kind); /* it is open, and may be closed */
void thmqi_file_close(struct thmq_log *log, struct segment *s, enum segment_file kind); /* at once, if it is open */
void thmqi_file_forget(struct segment *s); /* whoever calls it closes what is open; nothing is in flight */
void thmqi_files_cool(struct thmq_log *log); /* segments became full and durable: their files may be closed */
void thmqi_files_trim(struct thmq_log *log); /* to as many as may be open */
/* There are no more descriptors: some are given back. False: there were none, or that is not the @error. */
bool thmqi_files_spare(struct thmq_log *log, int error);
int thmqi_files_keep(struct thmq_log *log, struct segment *s); /* blocking: it is the active one again. 0, or an error */

/* seal.c */
static inline struct generation *thmqi_generation(struct thmq_log *log)
{
	return &log->generations[log->generation % 2];
}
static inline struct touched *thmqi_touch(struct thmq_log *log, struct run_index *x)
{
	struct generation *g = thmqi_generation(log);
	struct touched *t = &x->touched[log->generation % 2];
	uint32_t *number = &x->generations[log->generation % 2];

	if (thmqi_unlikely(x->part != log->part)) { /* the part that was begun since is told of what was there before */
		x->part = log->part;
		x->part_bytes = *number == (uint32_t)g->number ? t->bytes : 0;
	}
	if (thmqi_likely(*number == (uint32_t)g->number))
		return t;
	*number = (uint32_t)g->number;
	t->next = g->first;
	t->bytes = 0;
	g->first = x;
	g->partitions++;
	return t;
}
void thmqi_untouch(struct thmq_log *log, struct run_index *x); /* it goes */
void thmqi_seals_init(struct thmq_log *log);
void thmqi_seals_fini(struct thmq_log *log);
void thmqi_seal_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term);
/* How far its producer has come with this run: a state whose newest slice this is. */
void thmqi_seal_note_producer(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term);
void thmqi_seal_term(struct thmq_log *log, uint64_t batch, uint64_t term); /* of a batch that comes now */
bool thmqi_seal_busy(struct thmq_log *log); /* with the segment before the active one: no other can be sealed now */
void thmqi_seal_begin(struct thmq_log *log, struct segment *s); /* it is full; the active one is another */
/* An index of the active one as far as it is: a part of it was sealed, nothing is being formed. What comes of it is an aid. */
void thmqi_seal_begin_part(struct thmq_log *log);
void thmqi_seal_drop_part(struct thmq_log *log); /* what it is made of goes, or something else is to be sealed */
void thmqi_seal_plan_part(struct thmq_log *log); /* another segment is active, or the log came back */
int thmqi_seal_step(struct thmq_log *log);                      /* work done */
void thmqi_seal_finish(struct thmq_log *log);                   /* at close: all is durable, nothing is in flight */
void thmqi_seal_stop(struct thmq_log *log);                     /* nothing is in flight; what is known is spoiled */
/* Recovery: the segment that was replayed last is full. Its index is kept with it, to be written once the log is judged. */
void thmqi_seal_keep(struct thmq_log *log, struct segment *s);
void thmqi_seals_write(struct thmq_log *log); /* those that were kept; what cannot be written is left out */

/*
 * image.c: the bytes of an index. What is gathered is the generation's; the segment's ends are the chain's. @part: its number, of a
 * segment that fills; 0: of one that is full.
 */
int thmqi_image_begin(struct thmq_log *log, struct seal_image *image, const struct segment *s, const struct generation *g,
		      uint32_t part);
uint32_t thmqi_image_step(struct seal_image *image, uint32_t budget); /* until image->done. Return: entries gathered or keys sorted, one at least */
void thmqi_image_no_keys(struct seal_image *image);
void thmqi_image_keys_free(struct seal_image *image);
void thmqi_image_end(struct seal_image *image);
void thmqi_image_free(struct seal_image *image);
int thmqi_image_write(struct thmq_log *log, const struct seal_image *image); /* blocking; the directory is not flushed */
struct sealed *thmqi_image_summary(const struct seal_image *image); /* NULL: out of memory */

/* sealed.c */
void thmqi_seal_name(uint64_t position, char name[40]);
/* 1 all of @s was taken from its index; 0 it has none that can be believed; or an error. */
int thmqi_sealed_load(struct thmq_log *log, struct segment *s);
/* Blocking: the entries of @s, whose index was taken over, into memory again. Return: 0, or an error. */
int thmqi_sealed_restore(struct thmq_log *log, struct segment *s);
/* Blocking: would thmqi_sealed_restore() find all good? What is not is made again by the next open. Return: 0, or an error. */
int thmqi_sealed_check(struct thmq_log *log, struct segment *s);
/* Blocking: what @s has of @partition. Return: 1; 0 nothing; or an error. */
int thmqi_sealed_partition(struct thmq_log *log, struct segment *s, uint32_t partition, struct seal_partition *ret);
/* Blocking: its keys, if its index has them. After thmqi_sealed_restore(). */
void thmqi_sealed_restore_keys(struct thmq_log *log, struct segment *s);
struct sealed *thmqi_sealed_new(uint32_t run_pages, uint32_t key_pages); /* NULL: out of memory */
void thmqi_sealed_note_keys(struct sealed *x, const struct seal_header *h, const void *fences);
void thmqi_sealed_free(struct thmq_log *log, struct sealed *x);

/* ahead.c: while a log comes back. All may be had otherwise. */
struct ahead_head {
	struct thmqi_disk_file *file; /* of the index, the caller's from now on */
	int64_t size;                 /* of it, or an error */
	const uint8_t *data;          /* its first bytes, until the next call */
	uint32_t have;
};
int thmqi_ahead_begin(struct thmq_log *log); /* all segments are listed. 0; -ENOMEM */
bool thmqi_ahead_take(struct thmq_log *log, const struct segment *s, struct ahead_head *ret); /* segments in order */
const void *thmqi_ahead_next(struct thmq_log *log, const struct segment *s); /* the first page of the index behind that of @s; NULL */
void thmqi_ahead_end(struct thmq_log *log);

/* held.c: which sealed segments have runs of a partition */
int thmqi_held_add(struct thmq_log *log, struct run_index *x, uint32_t segment, uint64_t first_offset, uint64_t end_offset);
void thmqi_held_trim(const struct thmq_log *log, struct run_index *x); /* those that were dropped */
/* Of the segment that was dropped it was known that its runs ended at @end_offset. */
void thmqi_held_dropped(const struct thmq_log *log, struct run_index *x, uint64_t end_offset);
void thmqi_held_cut(struct run_index *x, uint32_t segment); /* truncation: this and later ones; sealed_end is the caller's */
static inline uint64_t thmqi_held_offset(const struct held *h)
{
	return (uint64_t)h->offset[1] << 32 | h->offset[0];
}
/* The first segment from @from on that may have a run of @x that ends behind @offset. False: none. */
bool thmqi_held_find(const struct thmq_log *log, const struct run_index *x, uint64_t offset, uint32_t from, uint32_t *ret_segment);
/* The last segment up to @from that may have a run of @x that begins before @limit. False: none. */
bool thmqi_held_back(const struct run_index *x, uint32_t from, uint64_t limit, uint32_t *ret_segment);
void thmqi_held_free(struct thmq_log *log, struct run_index *x);

/* moved.c: runs that were appended again */
int thmqi_moved_add(struct thmq_log *log, struct run_index *x, const struct entry *e, int64_t time_ns);
int thmqi_moved_range_add(struct run_index *x, uint32_t segment, uint64_t begin, uint64_t end, int64_t time_ns);
void thmqi_moved_keep(struct run_index *x, uint64_t from, uint64_t to); /* entries of batches from … to - 1 */
void thmqi_moved_trim(const struct thmq_log *log, struct run_index *x); /* ranges in segments that were dropped */
void thmqi_moved_cut(struct run_index *x, uint32_t segment); /* truncation: ranges in it and later ones */
uint64_t thmqi_moved_begin(const struct run_index *x); /* UINT64_MAX: there is none */
void thmqi_moved_free(struct thmq_log *log, struct run_index *x);
uint64_t thmqi_moved_end(const struct run_index *x);   /* 0: there is none */
/* Of all but those that were moved. Without any: UINT64_MAX if some were moved, else its end. */
uint64_t thmqi_index_begin(const struct run_index *x);

/* held.c: the segment has its index: the entries of @x's runs in it leave memory. It is the first that has not. Return: 0; -ENOMEM. */
int thmqi_index_take_over(struct thmq_log *log, struct run_index *x, const struct segment *s);
int thmqi_index_take_over_all(struct thmq_log *log); /* every segment that can be: with an index, and all before it too */

/* states.c */
void thmqi_states_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch); /* the newest of its state */
/* From *@cursor on the next state whose newest slice is in batch @last or before, *@budget places at most; or NULL. */
const struct state_place *thmqi_states_next(const struct states *t, uint32_t *cursor, uint32_t *budget, uint64_t last);
void thmqi_states_meaningless(struct thmq_log *log, const struct state_place *p);
void thmqi_states_cut(struct thmq_log *log, uint64_t batch); /* truncation */
void thmqi_states_fini(struct thmq_log *log);

/* extents.c */
void thmqi_extents_begin(struct extents *x, struct segment *s);
int thmqi_extents_next(struct thmq_log *log, struct extents *x, struct thmq_log_extent *ret); /* 1; 0 the end; -EAGAIN; why not */
void thmqi_extents_fini(struct thmq_log *log); /* nothing is in flight */
/* Is it time to find out whether much behind the oldest segment is dead? begin, then step: 1 go on; 0 done; -EAGAIN an index is being read. */
bool thmqi_sample_due(const struct thmq_log *log);
void thmqi_sample_begin(struct thmq_log *log);
int thmqi_sample_step(struct thmq_log *log);
bool thmqi_sample_waits(const struct thmq_log *log);  /* for an index that is being opened */
bool thmqi_sample_sweeps(const struct thmq_log *log); /* it was found so, and the oldest segment is to make way */
bool thmqi_extent_in_memory(const struct segment *s, const struct run_index *run,
			    struct thmq_log_extent *ret);                /* false: none */
void thmqi_index_dropped(struct thmq_log *log, const struct segment *s); /* it was the first, and is gone: so are its entries */

/* compact.c: which records of a run must be kept. Return: 0 it is known; -EAGAIN something is being read, or others have their turn; or an error. */
int thmqi_compact_judge(struct thmq_log *log, struct run_index *x, const struct thmq_log_run *run);
uint32_t thmqi_compact_bytes(const struct thmq_log *log); /* behind the header, of a run with those alone */
/* @to: that run, of which all but what the log sets is set. */
void thmqi_compact_fill(const struct thmq_log *log, const struct thmq_run_header *from, struct thmq_run_header *to);
bool thmqi_compact_waits(const struct thmq_log *log); /* for something that is being read */
void thmqi_compact_end(struct thmq_log *log);

/* relocate.c: of the oldest segment. The step: 0 all is done; -EAGAIN not yet, *@ret_pause_ns from now; -ENOSPC it had been lent room, and that
 * is used up; or an error. */
int thmqi_relocate_begin(struct thmq_log *log);
int thmqi_relocate_step(struct thmq_log *log, uint64_t *ret_pause_ns);
void thmqi_relocate_end(struct thmq_log *log);

/* clean.c */
uint64_t thmqi_log_file_bytes(const struct thmq_log *log);
void thmqi_clean_look(struct thmq_log *log); /* soon */
int thmqi_clean_poll(struct thmq_log *log); /* work done */
bool thmqi_clean_wants(const struct thmq_log *log); /* to be polled */
bool thmqi_clean_makes_room(const struct thmq_log *log); /* a segment is about to go */
void thmqi_clean_stop(struct thmq_log *log); /* what it was doing is void, but for a drop that is under way */

/* drop.c */
int thmqi_drop_step(struct thmq_log *log); /* work done */
void thmqi_drop_settle(struct thmq_log *log, struct run_index *x);
/* Before @x is looked at: of the segment that is gone nothing is left in it. */
static inline void thmqi_index_settle(struct thmq_log *log, struct run_index *x)
{
	if (thmqi_unlikely(log->drop.segment != NULL))
		thmqi_drop_settle(log, x);
	thmqi_held_trim(log, x);
	thmqi_moved_trim(log, x);
}
bool thmqi_drop_wants(const struct thmq_log *log); /* a step that could not be submitted */
void thmqi_drop_fini(struct thmq_log *log); /* nothing is in flight */

/* making.c */
void thmqi_making_start(struct making *m); /* log, done, image, bytes, temporary, name are set */
void thmqi_making_stop(struct making *m);  /* blocking; nothing of it is in flight */

/* append.c, commit.c */
/* What a leader may not form for now. */
static inline bool thmqi_copies_wait(const struct thmq_log *log)
{
	return log->copies.held || log->chain.index - log->copies.committed >= THMQI_UNCOMMITTED_MAX;
}
static inline bool thmqi_flights_full(const struct thmq_log *log)
{
	return log->flight_tail - log->flight_head >= 2 * log->depth ||
	       (thmqi_unlikely(log->copies.leads) && thmqi_copies_wait(log));
}
/* The sealed batch in @buf, at the end of the chain, is to be written. A flight must be free. Takes over one reference. */
void thmqi_log_launch(struct thmq_log *log, struct thmqi_buf *buf, bool needs_durable);
int thmqi_log_seal(struct thmq_log *log); /* the forming batch takes a flight, or joins the cache of a memory log */
void thmqi_log_commit(struct thmq_log *log); /* what may be written and flushed now is */
void thmqi_log_tell(struct thmq_log *log);   /* the owner, what settled */
void thmqi_log_flush_later(struct thmq_log *log); /* something weak was appended */
bool thmqi_log_is_rising(const struct thmq_log *log); /* more will become durable, without anything new */
void thmqi_log_fail(struct thmq_log *log, int error);
/* Blocking: nothing is in flight any more, all is written, and durable where that was asked for. 0; -ETIMEDOUT; the log's error. */
int thmqi_log_flush(struct thmq_log *log, uint64_t *ret_index); /* of a core that may have no thread any more */
int thmqi_log_drain(struct thmq_log *log, uint64_t deadline_ns);
/* At the cache's cost. @owner: THMQI_OWNER_* */
int thmqi_log_alloc(struct thmq_log *log, uint32_t size, uint32_t owner, struct thmqi_buf **ret_buf);

/* pace.c */
void thmqi_pace_init(struct thmq_log *log);
void thmqi_pace_write(struct thmq_log *log,
		      struct flight *flight); /* one that is pressing begins */
void thmqi_pace_written(struct thmq_log *log, const struct flight *flight);
/* May @bytes of batches be read now? False: readers are woken when it is worth asking again. */
bool thmqi_pace_read(struct thmq_log *log, uint32_t bytes);
void thmqi_pace_begun(struct thmq_log *log); /* such a read */
void thmqi_pace_ended(struct thmq_log *log, uint32_t bytes);
uint32_t thmqi_pace_bytes(const struct thmq_log *log,
			  uint32_t bytes); /* how much of @bytes at a time */

/* plant.c */
bool thmqi_plant_header_ok(const struct thmq_log *log, const struct batch_header *h, uint64_t position);
void thmqi_plant_rewrite(struct thmq_log *log);

/* cache.c */
void thmqi_cache_put(struct thmq_log *log, uint64_t index, struct thmqi_buf *buf);
void thmqi_cache_trim(struct thmq_log *log); /* to its size, as far as what it holds was written */
struct thmqi_buf *thmqi_cache_get(const struct thmq_log *log, uint64_t index); /* no reference taken */
bool thmqi_cache_drop_one(struct thmq_log *log); /* the oldest, if it was written */
void thmqi_cache_drop_from(struct thmq_log *log, uint64_t index);

/* index.c */
int thmqi_arena_fill(struct arena *a); /* a few chunks can be had then */
void thmqi_arena_fini(struct arena *a);
void *thmqi_arena_get(struct arena *a, enum piece kind); /* NULL: thmqi_arena_fill() first */
uint32_t thmqi_arena_bytes(enum piece kind);
void thmqi_arena_put(struct arena *a, enum piece kind, void *piece);
struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make);
int thmqi_index_put(struct thmq_log *log, struct run_index *x, const struct entry *entry);
int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run,
		    uint64_t batch, uint32_t at);
static inline uintptr_t thmqi_index_chunk(const struct run_index *x, uint64_t number)
{
	return x->directory ? x->list[(number >> LINE_SHIFT) - (x->first >> LINE_SHIFT)] : x->one;
}
static inline struct entry thmqi_index_entry(const struct run_index *x, uint64_t number)
{
	uintptr_t chunk = thmqi_index_chunk(x, number);
	uint32_t place = (uint32_t)number & x->mask;

	return thmqi_likely(chunk & CHUNK_NARROW) ? thmqi_narrow_get(thmqi_chunk_at(chunk), place)
						  : ((const struct entry *)chunk)[place];
}
/* Of a list that is wide. */
static inline struct entry *thmqi_index_wide(const struct run_index *x, uint64_t number)
{
	return (struct entry *)thmqi_index_chunk(x, number) + (number & x->mask);
}
/* Where it is written. */
static inline const void *thmqi_index_place(const struct run_index *x, uint64_t number)
{
	uintptr_t chunk = thmqi_index_chunk(x, number);
	uint32_t place = (uint32_t)number & x->mask;

	return chunk & CHUNK_NARROW
		       ? (const void *)&((const struct narrow *)thmqi_chunk_at(chunk))->rows[place]
		       : (const void *)((const struct entry *)chunk + place);
}
/* Is there no place for entry number `count`? */
static inline bool thmqi_index_full(const struct run_index *x)
{
	return x->directory ? (x->count >> LINE_SHIFT) - (x->first >> LINE_SHIFT) >= x->chunk_count
			    : !x->chunk_count || x->count - x->first > x->mask;
}
uint64_t thmqi_index_find(const struct run_index *x,
			  uint64_t offset); /* first entry whose end is behind offset */
uint64_t thmqi_index_find_batch(const struct run_index *x,
				uint64_t batch); /* first entry in it or behind it */
uint64_t thmqi_index_find_time(const struct thmq_log *log, const struct run_index *x,
			       int64_t time_ns); /* first entry that reaches it */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x,
		      uint64_t batch);                     /* entries of batches before it */
void thmqi_index_cut(struct run_index *x, uint64_t batch); /* truncation: batches from it on */
void thmqi_index_empty(struct thmq_log *log, struct run_index *x); /* no entries; its memory goes back */
void thmqi_index_free(struct thmq_log *log, struct run_index *x);

/* copies.c */
void thmqi_copies_note(struct thmq_log *log, uint64_t index, uint64_t term); /* of a batch that comes now; nothing for a log without copies */
void thmqi_copies_cut(struct thmq_log *log, uint64_t index); /* truncation */
void thmqi_copies_stop(struct thmq_log *log);                /* it is closed: nothing more is formed */
int thmqi_log_reset_resume(struct thmq_log *log); /* reset.c: `vote` says that it was under way. Blocking */
int thmqi_run_replay(struct thmq_log *log, struct segment *s, const struct batch_header *h); /* index its runs, and tell them */
int thmqi_replay_tell(struct thmq_log *log, const struct thmq_log_run *run); /* the owner; an error of his ends the open */

/* copy.c */
void thmqi_snapshots_cut(struct thmq_log *log, uint64_t position); /* what lies there or behind it goes now */
void thmqi_snapshots_reap(struct thmq_log *log); /* those that nobody will let go */
void thmqi_snapshots_fini(struct thmq_log *log);

/* close.c */
void thmqi_log_free(struct thmq_log *log); /* nothing is in flight; also of one that was never opened whole */

/* recover.c, create.c */
int thmqi_log_recover(struct thmq_log *log);
int thmqi_log_create(struct thmq_log *log); /* in an empty directory */
int thmqi_log_too_large(const struct thmq_log *log, uint64_t bytes); /* for RLIMIT_FSIZE: -EFBIG, with a text */

/* reader.c */
void thmqi_readers_cut(struct thmq_log *log); /* truncation */
void thmqi_readers_wake(struct thmq_log *log);
void thmqi_reader_close(struct thmq_log_reader *reader); /* of a core that may have no thread any more */
void thmqi_readers_orphan(struct thmq_log *log); /* the log closes before them */

#endif
