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
#include "commitlog/plant.h"
#include "disk/disk.h"
#include "memory/memory.h"
#include "reactor/reactor.h"
#include "wire/run.h"

struct thmq_log;

/* ----------------------------------------------------------------- batches */

#define BATCH_MAGIC 0x31424854u /* "THB1" */
#define FORMAT_VERSION 1u
#define BATCH_BYTES_MAX (4u << 20) /* but for a pad */

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
	uint32_t clean; /* 1: closed by its owner, the log ends at mark */
	uint32_t crc; /* of all before it */
};
_Static_assert(sizeof(struct vote) == 88, "as in doc/format.md");

/* 0; -ENOENT no file; -THMQ_ECORRUPT neither block is valid; -THMQ_EVERSION */
/* *@ret_damaged: the other block holds nothing valid: what is returned may not be the newest. */
int thmqi_vote_read(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir,
		    struct vote *ret_vote, bool *ret_damaged);
/* Blocking. Writes the next generation with the log's term and incarnation; on success it becomes log->vote. */
int thmqi_vote_write(struct thmq_log *log, uint64_t mark, bool clean);
void thmqi_vote_mark(struct thmq_log *log);  /* the mark moves to what is durable, in the background */
void thmqi_vote_watch(struct thmq_log *log); /* and again every second, until it has come to the end */

/* ---------------------------------------------------------------- segments */

/* One mapping, so that making the next one needs no heap; its pages are touched as it fills. */
struct segment {
	uint64_t position, bytes;
	uint64_t first_index; /* of its first batch */
	struct thmqi_disk_file *file, *index; /* index: if it was made in this life */
	uint32_t batch_count;
	uint32_t run_count; /* of its batches */
	uint32_t prev_crc; /* what its first batch continues */
	bool unflushed;    /* plain writes that no flush has covered */
	struct seal_image *image; /* while recovery keeps its index to be written */
	uint32_t blocks[]; /* by batch: where it begins, in blocks from position */
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

/* One run of a partition, 32 bytes. */
struct entry {
	uint64_t base_offset;
	uint64_t batch;      /* index */
	int64_t time_max_ns; /* largest last_time_ns of the partition up to this run: rises, so that it can be searched */
	uint32_t at;         /* bytes from the begin of the batch */
	uint32_t span;
};
_Static_assert(sizeof(struct entry) == 32, "128 to a chunk");

#define CHUNK_ENTRIES 128u

/* Pieces of memory for indexes, from mappings that only grow; neither heap nor pool, whose limits are for messages. */
enum piece { PIECE_FEW, PIECE_SOME, PIECE_CHUNK, PIECE_KINDS };

struct arena {
	void *free[PIECE_KINDS];
	uint8_t *fresh; /* never used yet */
	uint64_t fresh_bytes;
	uint32_t ready; /* chunks that can be had without the system */
	struct region *regions;
};

/*
 * Entries are numbered from 0; those before `first` are gone. They lie in chunks of 128; while there are but a few they lie
 * in a smaller piece, so that a hundred thousand quiet partitions cost little.
 */
struct run_index {
	uint32_t partition;
	uint32_t chunk_count, directory_room;
	struct entry **chunks; /* = few, a piece, or a mapping */
	struct entry *few[2];
	uint64_t chunk_base;   /* number of the first chunk that is kept */
	uint64_t first, count; /* entries first … count - 1 are there */
	uint64_t room;         /* entries below it have their memory */
	uint64_t end;          /* one past the last offset appended */
	struct {
		uint64_t number; /* of the generation it is listed in */
		struct run_index *next;
	} touched[2];
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
	const struct run_index *next; /* partition to be gathered */
	uint64_t next_entry;          /* of it; UINT64_MAX: from its first */
	uint32_t partitions, runs;    /* gathered */
};

enum sealing_step { SEALING_IDLE, SEALING_WAIT, SEALING_GATHER, SEALING_WRITE };

struct sealing {
	uint32_t step; /* enum sealing_step */
	struct segment *segment;
	struct seal_image image;
	struct making making;
};

/* notes.c */
int thmqi_notes_init(struct notes *n); /* 0; -ENOMEM: to be used all the same */
int thmqi_notes_put(struct notes *n, const struct note *note, const void *payload, uint32_t len); /* 0; -ENOMEM */
void thmqi_notes_clear(struct notes *n);
void thmqi_notes_fini(struct notes *n);

struct log_flush {
	struct thmqi_disk_op op;
	struct thmq_log *log;
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
	struct vote vote; /* as last written */
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
	struct forming forming;
	uint32_t last_len;         /* of the batch before */
	struct thmqi_timer linger; /* what nobody awaits is written at the latest when it fires */

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
	uint64_t flush_index, flush_position;
	struct log_flush flushes[FLUSHES_MAX];
	uint32_t reads; /* in flight */

	/* segments, oldest first; the last one is active */
	struct segment **segments;
	uint32_t segment_count, segment_room;
	struct segment *active;

	/* the next segment */
	uint32_t prepare; /* enum prepare_step */
	int prepare_error; /* of the last attempt; 0: none failed since the last success */
	struct segment *next;
	struct making making; /* of the next segment */
	struct sealing sealing; /* of the segment before the active one */
	struct generation generations[2];
	uint64_t generation; /* number of the active segment's */
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

	struct thmq_log_stats stats;
};

/* segment.c */
uint64_t thmqi_segment_bytes(const struct vote *v, uint64_t position);
int thmqi_segment_new(struct thmq_log *log, uint64_t position, struct segment **ret_segment);
int thmqi_segment_add(struct thmq_log *log, struct segment *s); /* behind the others; 0 or -ENOMEM */
int thmqi_segment_create(struct thmq_log *log, uint64_t position, struct segment **ret_segment); /* blocking */
void thmqi_segment_prepare(struct thmq_log *log); /* begin to make the next one */
void thmqi_segment_prepare_stop(struct thmq_log *log); /* none of its operations may be in flight */
int thmqi_segment_switch(struct thmq_log *log); /* the prepared one becomes active; -EAGAIN, -ENOSPC */
struct segment *thmqi_segment_of_index(const struct thmq_log *log, uint64_t index);
static inline uint64_t thmqi_segment_place(const struct segment *s, uint64_t index) /* of a batch, in its file */
{
	return (uint64_t)s->blocks[index - s->first_index] * THMQI_BLOCK;
}
void thmqi_segment_note(struct segment *s, uint64_t index, uint64_t position, uint32_t run_count);
void thmqi_segment_free(struct thmq_log *log, struct segment *s);
void thmqi_segment_name(uint64_t position, char name[40]);

/* seal.c */
static inline struct generation *thmqi_generation(struct thmq_log *log)
{
	return &log->generations[log->generation % 2];
}
static inline void thmqi_touch(struct thmq_log *log, struct run_index *x)
{
	struct generation *g = thmqi_generation(log);

	if (thmqi_likely(x->touched[log->generation % 2].number == g->number))
		return;
	x->touched[log->generation % 2].number = g->number;
	x->touched[log->generation % 2].next = g->first;
	g->first = x;
	g->partitions++;
}
void thmqi_seal_name(uint64_t position, char name[40]);
void thmqi_untouch(struct thmq_log *log, struct run_index *x); /* it goes */
void thmqi_seals_init(struct thmq_log *log);
void thmqi_seals_fini(struct thmq_log *log);
void thmqi_seal_note(struct thmq_log *log, const struct thmq_run_header *run, uint64_t batch, uint32_t at, uint64_t term);
void thmqi_seal_term(struct thmq_log *log, uint64_t batch, uint64_t term); /* of a batch that comes now */
void thmqi_seal_begin(struct thmq_log *log, struct segment *s); /* it is full; the active one is another */
int thmqi_seal_step(struct thmq_log *log);                      /* work done */
void thmqi_seal_finish(struct thmq_log *log);                   /* at close: all is durable, nothing is in flight */
void thmqi_seal_stop(struct thmq_log *log);                     /* nothing is in flight; what is known is spoiled */
/* Recovery: the segment that was replayed last is full. Its index is kept with it, to be written once the log is judged. */
void thmqi_seal_keep(struct thmq_log *log, struct segment *s);
void thmqi_seals_write(struct thmq_log *log); /* those that were kept; what cannot be written is left out */

/* sealed.c: 1 all of @s was taken from its index; 0 it has none that can be believed; or an error. */
int thmqi_sealed_load(struct thmq_log *log, struct segment *s);

/* making.c */
void thmqi_making_start(struct making *m); /* log, done, image, bytes, temporary, name are set */
void thmqi_making_stop(struct making *m);  /* nothing of it is in flight; what is there stays until the next open */

/* append.c, commit.c */
static inline bool thmqi_flights_full(const struct thmq_log *log)
{
	return log->flight_tail - log->flight_head >= 2 * log->depth;
}
/* The sealed batch in @buf, at the end of the chain, is to be written. A flight must be free. Takes over one reference. */
void thmqi_log_launch(struct thmq_log *log, struct thmqi_buf *buf, bool needs_durable);
int thmqi_log_seal(struct thmq_log *log); /* the forming batch takes a flight, or joins the cache of a memory log */
void thmqi_log_commit(struct thmq_log *log); /* what may be written and flushed now is */
void thmqi_log_tell(struct thmq_log *log);   /* the owner, what settled */
void thmqi_log_fail(struct thmq_log *log, int error);
int thmqi_log_drain(struct thmq_log *log); /* blocking: nothing is in flight any more, all is written */
int thmqi_log_alloc(struct thmq_log *log, uint32_t size, struct thmqi_buf **ret_buf); /* at the cache's cost */

/* cache.c */
void thmqi_cache_put(struct thmq_log *log, uint64_t index, struct thmqi_buf *buf);
void thmqi_cache_trim(struct thmq_log *log); /* to its size, as far as what it holds was written */
struct thmqi_buf *thmqi_cache_get(const struct thmq_log *log, uint64_t index); /* no reference taken */
bool thmqi_cache_drop_one(struct thmq_log *log); /* the oldest, if it was written */
void thmqi_cache_drop_from(struct thmq_log *log, uint64_t index);

/* index.c */
int thmqi_arena_fill(struct arena *a); /* a few chunks can be had then */
void thmqi_arena_fini(struct arena *a);
struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make);
int thmqi_index_put(struct thmq_log *log, struct run_index *x, const struct entry *entry);
int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run,
		    uint64_t batch, uint32_t at);
static inline struct entry *thmqi_index_entry(const struct run_index *x, uint64_t number)
{
	return x->chunks[number / CHUNK_ENTRIES - x->chunk_base] + number % CHUNK_ENTRIES;
}
uint64_t thmqi_index_find(const struct run_index *x, uint64_t offset); /* first entry whose end is behind offset */
uint64_t thmqi_index_find_time(const struct run_index *x, int64_t time_ns); /* first entry that reaches it */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x); /* entries of batches that are no longer held */
void thmqi_index_cut(struct run_index *x, uint64_t batch); /* truncation */
void thmqi_index_free(struct thmq_log *log, struct run_index *x);

/* survey.c */
struct listing {
	uint64_t *positions; /* of segments, rising once sorted */
	uint32_t count, room;
	bool vote;
};
/* 1 it is a log's file; 0 it is not; -ENOMEM. */
int thmqi_listing_note(struct listing *l, const char *name);
void thmqi_listing_sort(struct listing *l);

/* What headers say of the log besides their own batches. */
struct claims {
	uint64_t durable;     /* all below it is known to have been durable */
	uint64_t end;         /* where the last batch of the last owner ends, as far as can be seen */
	uint64_t incarnation; /* highest that wrote */
};
void thmqi_claims_note(struct claims *c, const struct batch_header *h);
/*
 * The blocks of @file, whose first byte is @position, from @at on: a later header of the last incarnation says that what lies
 * before some position was durable when it was formed. If the log ends below that, bytes that were acknowledged are gone.
 */
int thmqi_claims_look(struct claims *c, const struct thmqi_disk_table *disk, struct thmqi_disk_file *file,
		      const struct vote *vote, uint64_t position, uint64_t at, uint8_t *piece, uint32_t piece_bytes);

/* recover.c, create.c */
int thmqi_log_recover(struct thmq_log *log);
int thmqi_log_create(struct thmq_log *log); /* in an empty directory */
/* There is no valid `vote`: 1 the making of a log was cut short, what is left of it is removed; or an error. */
int thmqi_log_clear_leftovers(struct thmq_log *log, const struct listing *l);

/* reader.c */
void thmqi_readers_cut(struct thmq_log *log); /* truncation */
void thmqi_readers_wake(struct thmq_log *log);
void thmqi_readers_orphan(struct thmq_log *log); /* the log closes before them */

#endif
