/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the log's own structures. One log belongs to one core; nothing here is locked.
 *
 * A run is appended to the batch being formed (append.c), which is written and flushed (commit.c) to a segment
 * (segment.c), indexed in memory (index/), kept in the tail cache (cache.c) and read from there or from the device
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
/* BATCH_DATA, and its runs, too. */
void thmqi_batch_seal_whole(struct batch_header *h, const struct chain *c, uint64_t term, uint32_t run_count,
			    uint32_t payload_len, uint32_t len);
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

#include "index/types.h"

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
	uint32_t allowed;    /* bytes of the read that was allowed last */
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
	/* who reads: readers of partitions, and what sends batches to copies that are behind; in turns, if both want to */
	enum pace_kind { PACE_READER, PACE_COPY, PACE_KINDS } last; /* who read last */
	uint64_t refused_ns[PACE_KINDS]; /* when it was last, and has not read since; 0: it was not */
	uint64_t copy_ns;                /* when anything was asked for a copy last; 0: never */
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

struct log_flush {
	struct thmqi_disk_op op;
	struct thmq_log *log;
	struct segment *segment;
};

#include "clean/types.h"

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
	uint64_t keep;      /* batches from it on stay in memory, up to keep_bytes with all others; 0: none */
	uint64_t keep_bytes;
	struct thmqi_buf *spare; /* for a batch that another copy needs, where all other memory is in use; NULL: there is none */
	struct thmqi_buf *first; /* likewise for the first batch of who leads */
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
	uint64_t refused_ns;                                        /* the forming batch has none since then; 0: it has */
	uint64_t spared_ns;                                         /* all windows were dropped for it then */
	struct thmqi_giver giver;                                   /* its cache and its readers' windows */

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
	uint64_t part_from;  /* position up to which the last one goes; where the segment begins, if there is none */
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
void thmqi_log_begin_giving(struct thmq_log *log); /* to others on its core */
/* At the cache's cost. @owner: THMQI_OWNER_* */
int thmqi_log_alloc(struct thmq_log *log, uint32_t size, uint32_t owner, struct thmqi_buf **ret_buf);
void thmqi_fetch_keep_spare(struct thmq_log *log); /* copies.spare and .first, if they can be had now */

/* pace.c */
void thmqi_pace_init(struct thmq_log *log);
void thmqi_pace_write(struct thmq_log *log,
		      struct flight *flight); /* one that is pressing begins */
void thmqi_pace_written(struct thmq_log *log, const struct flight *flight);
/* May @bytes of batches be read now? False: readers are woken when it is worth asking again; what sends to copies asks by itself. */
bool thmqi_pace_read(struct thmq_log *log, uint32_t bytes, enum pace_kind kind);
void thmqi_pace_less(struct thmq_log *log, uint32_t bytes); /* of those that were allowed last, so many are not read after all */
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

#include "index/index.h"

#include "clean/clean.h"

#endif
