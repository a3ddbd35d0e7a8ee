/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the log's own structures. One log belongs to one core; nothing here is locked.
 *
 * A run is appended to the batch being formed (append.c), which is written and flushed (commit.c) to a segment
 * (segment.c), indexed in memory (index.c), kept in the tail cache (cache.c) and read from there or from the device
 * (reader.c). recover.c brings it back, scan.c checks it from outside, both by batch.c. vote.c keeps the few facts that
 * must not be derived from the log itself.
 */
#ifndef THMQI_COMMITLOG_INTERNAL_H
#define THMQI_COMMITLOG_INTERNAL_H

#include <thundermq/log.h>

#include "base/base.h"
#include "disk/disk.h"
#include "memory/memory.h"
#include "reactor/reactor.h"
#include "wire/run.h"

/* ----------------------------------------------------------------- batches */

#define BATCH_MAGIC 0x31424854u /* "THB1" */
#define FORMAT_VERSION 1u

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
	uint32_t payload_crc; /* CRC32C over the 96-byte run headers, one behind the other */
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
int thmqi_vote_read(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir, struct vote *ret_vote);

/* ---------------------------------------------------------------- segments */

struct segment {
	uint64_t position, bytes;
	uint64_t first_index; /* of its first batch; 0: none yet */
	uint32_t *blocks; /* by batch: where it begins, in blocks from position */
	uint32_t batch_count;
	struct thmqi_disk_file *file;
	bool unflushed; /* plain writes that no flush has covered */
};

enum prepare_step {
	PREPARE_IDLE,
	PREPARE_CREATE,
	PREPARE_ALLOCATE,
	PREPARE_ZERO,
	PREPARE_FLUSH,
	PREPARE_RENAME,
	PREPARE_SYNC,
	PREPARE_READY,
	PREPARE_FAILED /* again when its timer fires */
};

#define ZERO_BYTES (256u << 10) /* of the zeros written to the next segment at a time */

/* ------------------------------------------------------------------- index */

/* One run of a partition, 40 bytes. */
struct entry {
	uint64_t base_offset;
	uint64_t batch; /* index */
	int64_t last_time_ns;
	uint32_t at; /* bytes from the begin of the batch */
	uint32_t span;
	uint32_t len; /* of the run, header included */
	uint32_t reserved;
};

#define CHUNK_ENTRIES 102u /* of 40 bytes in 4096 */

/* Entries are numbered from 0; those before `first` are gone. Memory comes in blocks of the core's pool. */
struct run_index {
	uint32_t partition;
	uint32_t directory_count, directory_room;
	struct thmqi_buf **chunks; /* the array grows by doubling: rarely, and not per run */
	uint64_t chunk_base; /* number of the first chunk that is kept */
	uint64_t first, count; /* entries first … count - 1 are there */
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
#define CACHE_SLOTS 65536u

struct forming {
	struct thmqi_buf *buf; /* NULL: none */
	uint32_t used; /* bytes, header included */
	uint32_t runs;
	uint32_t open; /* bytes of the run being filled; 0: none */
	bool needs_durable;
};

struct thmq_log {
	struct thmq_core *core;
	struct thmq_log_opts opts;
	const struct thmqi_disk_table *disk; /* NULL: memory only */
	void *disk_ctx;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_queue *queue;
	struct thmqi_poller poller;
	struct vote vote;
	struct thmqi_disk_file *vote_file;
	int failed; /* error; 0: well */
	bool starved; /* an append was refused */
	bool hungry; /* a reader found no buffer */
	bool wake_readers; /* buffers came back: they may try again */
	bool checkpoint_due; /* a segment was closed: its owner is told at the end of the iteration */

	struct chain chain; /* behind the last sealed batch */
	uint64_t term, incarnation;
	struct forming forming;

	/* batches being written, in log order: head … tail */
	struct flight flights[DEPTH_MAX];
	uint32_t flight_head, flight_tail; /* free running */
	uint32_t depth;
	uint64_t written_index, durable_index, told_written, told_durable;
	uint64_t written_position, durable_position; /* ends of these */
	uint64_t plain_index; /* last batch written without DSYNC */
	uint64_t want_durable; /* index somebody waits for */
	uint32_t flushing; /* flush operations in flight */
	uint64_t flush_index, flush_position;
	struct log_flush {
		struct thmqi_disk_op op;
		struct thmq_log *log;
	} flushes[8];

	/* segments, oldest first; the last one with batches is active */
	struct segment **segments;
	uint32_t segment_count, segment_room;
	struct segment *active;

	/* the next segment */
	uint32_t prepare; /* enum prepare_step */
	struct segment *next;
	uint64_t zeroed;
	struct thmqi_disk_op prepare_op;
	char prepare_final[40];
	struct thmqi_buf *zeros;
	struct thmqi_timer retry;
	int prepare_error;

	/* tail cache: batches by index, ring of CACHE_SLOTS */
	struct thmqi_buf **cache;
	uint64_t cache_first, cache_end; /* indexes held: first … end - 1 */
	uint64_t cached_bytes;

	struct thmqi_map partitions; /* struct run_index */
	struct run_index *last_index; /* of the last append */
	struct thmqi_buf *spare; /* block for an index: taken before a run is, so that indexing it cannot fail */
	struct thmqi_list readers;

	/* the durable mark in `vote`, moved when idle */
	struct thmqi_timer mark_timer;
	struct thmqi_disk_op mark_op;
	struct thmqi_buf *mark_buf;
	bool mark_busy;

	struct thmq_log_stats stats;
};

/* segment.c */
uint64_t thmqi_segment_bytes(const struct vote *v, uint64_t position);
int thmqi_segment_add(struct thmq_log *log, uint64_t position, struct thmqi_disk_file *file,
		      struct segment **ret_segment);
int thmqi_segment_create(struct thmq_log *log, uint64_t position, struct segment **ret_segment); /* blocking */
void thmqi_segment_prepare(struct thmq_log *log); /* begin or go on to make the next one */
int thmqi_segment_switch(struct thmq_log *log); /* the prepared one becomes active; -EAGAIN, -ENOSPC */
struct segment *thmqi_segment_of_index(struct thmq_log *log, uint64_t index);
void thmqi_segment_note(struct segment *s, uint64_t index, uint64_t position);
void thmqi_segment_free(struct thmq_log *log, struct segment *s);
void thmqi_segment_name(uint64_t position, char name[40]);

/* append.c, commit.c */
int thmqi_log_seal(struct thmq_log *log); /* the forming batch takes a flight, or joins the cache of a memory log */
void thmqi_log_commit(struct thmq_log *log); /* what may be written now is */
void thmqi_log_fail(struct thmq_log *log, int error);
int thmqi_log_drain(struct thmq_log *log); /* blocking: nothing is in flight any more */
void thmqi_log_mark_start(struct thmq_log *log);
int thmqi_vote_write(struct thmq_log *log); /* blocking */
void thmqi_vote_fill(struct thmq_log *log, void *block);

/* cache.c */
void thmqi_cache_put(struct thmq_log *log, uint64_t index, struct thmqi_buf *buf);
struct thmqi_buf *thmqi_cache_get(struct thmq_log *log, uint64_t index); /* no reference taken */
void thmqi_cache_drop_from(struct thmq_log *log, uint64_t index);

/* index.c */
struct run_index *thmqi_index_of(struct thmq_log *log, uint32_t partition, bool make);
int thmqi_index_add(struct thmq_log *log, struct run_index *x, const struct thmq_run_header *run, uint64_t batch,
		    uint32_t at);
struct entry *thmqi_index_entry(const struct run_index *x, uint64_t number);
uint64_t thmqi_index_find(const struct run_index *x, uint64_t offset); /* first entry whose end is behind offset */
void thmqi_index_trim(struct thmq_log *log, struct run_index *x, uint64_t first_batch);
void thmqi_index_cut(struct run_index *x, uint64_t batch); /* truncation */
void thmqi_index_free(struct run_index *x);

/* recover.c */
int thmqi_log_recover(struct thmq_log *log);
int thmqi_log_create(struct thmq_log *log);

/* reader.c */
void thmqi_readers_reset(struct thmq_log *log, uint64_t index);
void thmqi_readers_wake(struct thmq_log *log);

#endif
