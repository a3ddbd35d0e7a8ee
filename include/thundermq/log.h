/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - the commit log as a building block: one sequential, checksummed, group-committed log of runs.
 *
 * A log is one directory (or, without one, a bounded memory) and belongs to one core: all calls but thmq_log_copy(), thmq_log_stats()
 * and those of closed logs are made on the thread that drives it; thundermq/reactor.h has the core. From any other thread they are
 * -EPERM and change nothing; those that return nothing do nothing, but thmq_log_view_release(), which does not ask. So they are from
 * each thread of a child of fork(2), which has none of its parent's cores, and not the memory that views and appends show. The log knows
 * partitions only as numbers under which runs are found again; what a run means is its writer's. doc/log.md is a guide, with
 * examples/wal.c as its whole program; doc/format.md describes every byte.
 */
#ifndef THUNDERMQ_LOG_H
#define THUNDERMQ_LOG_H

#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

struct thmq_core;
struct thmq_log;
struct thmq_log_reader;

/* --------------------------------------------------------------------- runs */

#define THMQ_RUN_MAGIC 0x314e5552u /* "RUN1" */

/* What the bytes behind a run header are. */
enum thmq_run_encoding {
	THMQ_RUN_RECORDS = 1, /* record table and bodies: struct thmq_record */
	THMQ_RUN_STATE =
		2, /* a state slice: partition is the kind, base_offset the item; not found by offset */
	THMQ_RUN_OPAQUE = 3, /* bytes of the writer's own; count and span are its word */
	THMQ_RUN_KAFKA = 4, /* a record batch of Kafka's protocol, as its producer made it: doc/format.md */
	THMQ_RUN_PACKED = 5 /* as RECORDS, but for the payloads, which lie behind the bodies in one block, perhaps compressed: doc/format.md */
};

#define THMQ_RUN_SPARSE 1u /* a table of uint32 offset deltas follows the record table */
#define THMQ_RUN_RELOCATED                                                                         \
	2u /* appended again by the cleaner with its old offsets: changes indexes only */
#define THMQ_RUN_KEYED \
	4u /* a record of it has a key: without this no key of it is found. Set by its writer, and by thmq_run_encode() */

/*
 * Run header, as stored: 96 bytes, little endian, 8-byte aligned. Messages of one partition that were
 * appended together. Offsets base_offset … base_offset + span - 1 are covered by it; an offset in
 * the span without a record is gone.
 */
struct thmq_run_header {
	uint32_t magic; /* set by the log */
	uint32_t
		len; /* bytes behind this header, without padding; the next run begins at the next multiple of 8 */
	uint64_t base_offset;
	uint32_t partition;
	uint32_t count;       /* records */
	uint32_t span;        /* offsets covered, at least count */
	uint16_t encoding;    /* enum thmq_run_encoding */
	uint16_t flags;       /* THMQ_RUN_* */
	uint64_t producer_id;    /* 0: none; else see struct thmq_log_producer */
	uint64_t first_sequence; /* of its first record; they rise */
	uint64_t transaction;  /* 0: none */
	int64_t first_time_ns; /* smallest and largest time of its records, ns since 1970 */
	int64_t last_time_ns;
	uint32_t producer_epoch;
	uint32_t sequence_span; /* sequence of its last record less first_sequence */
	uint64_t tag_filter;  /* bit (tag_hash % 64) of each record's tag; 0: no tags */
	uint32_t payload_crc; /* CRC32C of the len bytes behind the header; set by the log when it seals the batch */
	uint32_t header_crc;  /* CRC32C of the 92 bytes before it; likewise */
};

/* What the broker has put between a record's tag and its payload, in this order: doc/format.md */
#define THMQ_RECORD_PART 1u     /* 16 bytes: one part of a message that is larger than a batch */
#define THMQ_RECORD_EXPECT_END 2u /* 8 bytes: it was stored since this was the partition's end, … */
#define THMQ_RECORD_EXPECT_KEY 4u /* … the offset of the newest with its key. One of the two */
#define THMQ_RECORD_TTL 8u      /* 8 bytes: so many ns after its time it is of no use */
#define THMQ_RECORD_HEADERS 16u /* 4 bytes: how many come; then these */
#define THMQ_RECORD_DELAY 32u   /* 8 bytes, before all others: when it is to come. On its way to a broker only, never stored */
#define THMQ_RECORD_PACKED 64u  /* 8 bytes: the payload is compressed, how, and how long it is then */
#define THMQ_RECORD_IN_BLOCK 128u /* 8 bytes, and no payload behind them: where that lies in the block of its THMQ_RUN_PACKED */

/*
 * Entry of the record table, 16 bytes. The table (count entries) is followed by the offset deltas if
 * THMQ_RUN_SPARSE (count uint32, padded to 8), then by the bodies: each begins at a multiple of 8 from
 * the run header and holds key, tag, what flags tell, payload, in this order.
 */
struct thmq_record {
	uint32_t size;          /* all of its body, without padding */
	uint32_t tag_hash;      /* 0: no tag */
	uint32_t time_delta_us; /* behind the run's first_time_ns */
	uint16_t key_len;
	uint8_t tag_len;
	uint8_t flags; /* THMQ_RECORD_* */
};

/*
 * How far a producer has come in a partition. The log keeps it by itself, from the headers of runs that have a producer_id, as a
 * state of the kind THMQ_LOG_PRODUCER: so replay tells it also of segments whose runs it does not tell, and renew asks for it before the
 * segment with the producer's last run in the partition goes. The item is the stable hash (doc/format.md) of producer_id and
 * partition, 12 bytes.
 */
struct thmq_log_producer {
	uint64_t producer_id;
	uint64_t last_sequence;
	uint32_t producer_epoch;
	uint32_t partition;
};

#define THMQ_LOG_PRODUCER 0xffffffffu /* a kind of states: no others may have it */

/* A run in place: where it is stored, and its bytes, valid during the callback or while a view holds it. */
struct thmq_log_run {
	const struct thmq_run_header *header;
	const void *payload; /* header->len bytes */
	uint64_t position;   /* of its batch in the log, bytes */
	uint64_t index;      /* of its batch: 1, 2, 3 … */
	uint64_t term;       /* of its batch */
};

/* ----------------------------------------------- making runs, reading runs */

/**
 * thmq_run_init() - set a run's header to a run of bytes of your own, OPAQUE or STATE
 * @run: from thmq_log_append(); the payload, @len bytes, follows it and is filled by the caller
 * @encoding: THMQ_RUN_OPAQUE, or THMQ_RUN_STATE: then @partition is the kind, from 1 on, and @base_offset the item
 * @count: how many messages these are: they cover the offsets from @base_offset on. 0 for a state
 * All other fields are 0 then; times, producer and so on are set behind it where they are wanted.
 * Threads: any.
 */
THMQ_API void thmq_run_init(struct thmq_run_header *run, uint32_t encoding, uint32_t partition, uint64_t base_offset,
			    uint32_t count, uint32_t len);

/* One message of a run of records: to be put into it, or where it lies in it. */
struct thmq_record_view {
	uint64_t offset;
	int64_t time_ns;  /* ns since 1970; stored in steps of a microsecond behind the run's smallest one */
	const void *key;  /* with key_len 0: not looked at */
	const void *tag;  /* likewise */
	const void *data; /* likewise; behind the tag: what flags tell is its beginning */
	uint32_t key_len; /* up to 65535 */
	uint32_t tag_len; /* up to 255 */
	uint32_t len;
	uint32_t tag_hash; /* out; 0: no tag. Made by thmq_run_encode() */
	uint32_t flags;    /* THMQ_RECORD_* */
	uint32_t reserved;
};

/**
 * thmq_run_len() - how long a run of these records is
 * @records: by rising offsets
 * Return: the run_len that thmq_log_append() wants; 0: they cannot be one run (none, a key or tag too long, offsets that do
 * not rise or lie 2^32 apart, times more than 71 minutes apart, 4 GiB).
 * Threads: any.
 */
THMQ_API uint32_t thmq_run_len(const struct thmq_record_view *records, uint32_t count);

/**
 * thmq_run_encode() - fill a run with records
 * @run: from thmq_log_append(), for @run_len bytes, thmq_run_len() at least
 * Sets the whole header: encoding, offsets, span, times, tag filter; producer, transaction and the like are 0 then, and may
 * be set behind it. Keys, tags and payloads are copied.
 * Return: 0; -EINVAL as of thmq_run_len(), NULL where bytes are to be, or no room: end or abort the append.
 * Threads: any.
 */
THMQ_API int thmq_run_encode(struct thmq_run_header *run, uint32_t run_len, uint32_t partition,
			     const struct thmq_record_view *records, uint32_t count);

/* A walk over the records of a run. All zero: it begins. */
struct thmq_record_cursor {
	uint64_t internal[6];
};

/**
 * thmq_record_next() - the next record of a run, in place
 * @run: of a view, a replay or a scan. Bytes that lie are found: nothing outside of the run is touched
 * @cursor: all zero at the first call, with the same @run at the others
 * @ret_record: out; its pointers are valid as long as the run's
 * Return: 1 one; 0 there are no more; -EINVAL it has no records (another encoding, or no payload); -THMQ_ECORRUPT.
 * Threads: any.
 */
THMQ_API int thmq_record_next(const struct thmq_log_run *run, struct thmq_record_cursor *cursor,
			      struct thmq_record_view *ret_record);

/* --------------------------------------------------------------------- open */

/* What one segment has of a partition; see thmq_log_events.live. */
struct thmq_log_extent {
	uint32_t partition;
	uint32_t reserved;
	uint64_t begin_offset; /* of its first message there */
	uint64_t end_offset;   /* one past its last one there; between them others may lie elsewhere */
	uint64_t messages;
	uint64_t bytes;       /* of its runs there, headers included; rounded where the segment has no index */
	int64_t last_time_ns; /* none of its messages there is newer */
	uint64_t held_bytes;  /* of all its runs that are held now */
};

/* What thmq_log_events.live answers. */
enum thmq_log_life {
	THMQ_LOG_DEAD = 0, /* nobody needs it */
	THMQ_LOG_LIVE = 1, /* it must be kept for now: its segment waits */
	THMQ_LOG_LASTS =
		2, /* it must be kept for long: where it is little, or much of the log behind it is dead, it is appended again, and its segment goes */
	THMQ_LOG_MOVES = 3, /* as LIVE, but where much of the log behind it is dead: then as LASTS */
	/*
	 * As LASTS, but of its runs of records only the newest record of each key, and those without a key: doc/compaction.md. What
	 * is new in the log is taken for as much that is dead: so it is gone through when it has doubled.
	 */
	THMQ_LOG_COMPACTS = 4
};

/* What the log tells its owner; called on its core, never inside the call that began the work. NULL: not wanted. */
struct thmq_log_events {
	uint32_t size;
	uint32_t reserved;
	/*
	 * At open, in log order, so that of two slices of a state the later one counts. Of a full segment whose index is whole: for each partition its last run without payload
	 * (payload NULL, len 0, count: its messages in the segment), then the newest slice of each state, by kind (the
	 * partition of their headers) and item (base_offset). Kind 0 is the log's own. Of all others: every run. Non-zero ends the open with it,
	 * or with -ECANCELED if it is above zero.
	 */
	int (*replay)(void *ctx, const struct thmq_log_run *run);
	/* All batches up to @index have reached @durability (WRITTEN or DURABLE). Each rises. */
	void (*settled)(void *ctx, uint32_t durability, uint64_t index);
	/*
	 * thmq_log_truncate() has removed all batches from @index on: forget what they said. Their indexes are given to others, so what
	 * settled was told up to is @index - 1 at most from now on, and rises from there.
	 */
	void (*unappended)(void *ctx, uint64_t index);
	/* The log failed (write or flush error) and refuses appends for good; reads go on. */
	void (*failed)(void *ctx, int error);
	/* An append that got -EAGAIN, or the error that kept a segment from being made, may succeed now. */
	void (*room)(void *ctx);
	/*
	 * A segment was closed: append a slice of every state that changed since the last such call. An append that gets -EAGAIN
	 * is made again when room comes. What was appended is counted on at once: no segment goes before that is durable.
	 */
	void (*checkpoint)(void *ctx);
	/*
	 * Of the oldest segment, asked of each partition in it from the open on (what is not known yet is live): must any of this be kept? Asked again and again while it is, so
	 * it is quick and appends nothing. NULL: everything must. A segment that has nothing to be kept goes.
	 */
	int (*live)(void *ctx, const struct thmq_log_extent *extent); /* enum thmq_log_life */
	/*
	 * The newest slice of a state lies in the segment that is to go: append it again, as of now, or nothing if it has no
	 * meaning any more. Return: 0 done; an error of thmq_log_append(), then it is called again. NULL: states go too.
	 */
	int (*renew)(void *ctx, uint32_t kind, uint64_t item);
	/*
	 * The last run of a partition lies in the segment that is to go: append what must outlive it, such as the offset that
	 * comes next. Return: as of renew. NULL: nothing must.
	 */
	int (*leave)(void *ctx, uint32_t partition);
	/*
	 * Where THMQ_LOG_COMPACTS was said, of the newest record of a key, or of one without: 1: nobody needs it any more, such as one that says that
	 * the key is deleted, and has said so for long enough. It goes then, once no older record of its key is left that would be the
	 * newest in its place. Quick, appends nothing. NULL: all are needed.
	 */
	int (*over)(void *ctx, const struct thmq_log_run *run, const struct thmq_record_view *record);
	/*
	 * At open, before the first replay, behind the last, and between them every 16 MiB or so: @done bytes of at most @total are known by
	 * now, most of them from indexes, without being read. Non-zero ends the open, as of replay.
	 */
	int (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
};

struct thmq_log_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_LOG_* */
	const char *
		dir; /* directory; NULL: memory only, the oldest batches go when cache_bytes is full */
	const struct thmq_log_events *events;
	void *ctx; /* first argument of the events */
	uint64_t
		segment_bytes_min; /* at creation: first segment; 0 means 16 MiB; each next is twice as large … */
	uint64_t
		segment_bytes_max; /* at creation: … up to this; 0 means 1 GiB; powers of two from 1 MiB */
	uint64_t cache_bytes; /* batches kept in memory; 0 means 16 MiB, which stay in a processor's cache */
	uint32_t batch_bytes; /* largest batch, a multiple of 4096 up to 4 MiB and up to the log's segment_bytes_min; 0 means 1 MiB */
	uint32_t write_depth; /* batches in flight; 0 means 8 */
	uint8_t log_id
		[16]; /* at creation: identity shared by all replicas; all zero: random. At open: must match unless zero */
	uint64_t group_ns; /* how long a run that somebody waits for may wait for company before its batch is
			      written, up to 1 s; 0: not at all, it is written as soon as the device is free */
	uint64_t flush_interval_ns; /* what nobody waits for to be durable is so at the latest after this time; 0 means 500 ms */
	uint64_t flush_bytes; /* or after so many bytes were written without a flush; 0 means 64 MiB */
	uint32_t group_bytes; /* a batch is written as soon as it has so many, also with writes in flight, up to
				 batch_bytes; 0: 64 KiB with writes in flight, and else no limit but batch_bytes */
	uint32_t reserved;
	uint32_t flush_method; /* enum thmq_flush_method, in thundermq.h */
	uint32_t polled_io;    /* enum thmq_polled_io */
	/* Files are never larger than this together, four segments at least; full_policy says what then. 0: no limit */
	uint64_t limit_bytes;
	uint32_t full_policy; /* enum thmq_full_policy: at limit_bytes, or when the file system is full */
	uint32_t reserved2;
};

#define THMQ_LOG_NO_CREATE 1u /* -ENOENT where there is no log */
#define THMQ_LOG_NO_BACKGROUND_FLUSH                                                               \
	2u /* only what is waited for becomes durable, and what lies before it: no flush_interval_ns, no flush_bytes */

#define THMQ_LOG_OPTS(...)                                                                         \
	(&(struct thmq_log_opts){.size = sizeof(struct thmq_log_opts), __VA_ARGS__})

/** thmq_log_opts_init() - set @opts to the defaults */
THMQ_API void thmq_log_opts_init(struct thmq_log_opts *opts, uint32_t size);
#define thmq_log_opts_init(opts) thmq_log_opts_init((opts), sizeof(struct thmq_log_opts))

/**
 * thmq_log_open() - open or create a log and recover it
 * @core: the core that will run it, from thmq_env_core(); the calling thread drives it
 *
 * Recovery takes full segments from their indexes, and likewise the first part of a large one that was being filled; it
 * verifies and replays all other stored batches in order, cuts a torn tail of writes in flight,
 * makes durable what it keeps, and raises term and incarnation before anything is written.
 * A log has one owner: a file `lock` in its directory is held (flock) until its device has answered all. A new one is made in
 * an empty directory, or in one that is not there. Close
 * logs before their environment, which closes what is left as thmq_log_close() without time does.
 *
 * Return: 0; -EPERM the calling thread does not drive @core; -EBUSY it is open, in this process or
 * another (thmq_errmsg() names its pid); -ENOTEMPTY there is no log in the directory, but other things, or it is a broker's data
 * directory; -THMQ_ECORRUPT damage below what is known durable (nothing is changed; thmq_errmsg() has
 * the position); -THMQ_EVERSION; -ENOENT; -ENOSPC; -EINVAL; -ENOMEM; an error of the file system.
 */
THMQ_API int thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts,
			   struct thmq_log **ret_log);

/**
 * thmq_log_close() - finish writes in flight, advance the durable mark, close
 * No event comes any more, not even that the last batches are durable: that it returns 0 says so. Views are released before; readers
 * that are still open may only be closed.
 * @timeout_ns: how long the device may take for what it has and for the last batches; a second at least
 * Return: 0; -ETIMEDOUT or the log's error: closed, but the last batches may be lost. What the device has still not
 * answered then stays with the core, without events, until it has: till then nobody may open the directory.
 */
THMQ_API int thmq_log_close(struct thmq_log *log, uint64_t timeout_ns);

/* ------------------------------------------------------------------- append */

/**
 * thmq_log_append() - room for one run in the batch that is being formed
 * @run_len: bytes of header and payload: at least sizeof(struct thmq_run_header); thmq_run_len() for records
 * @ret_run: out; @run_len writable bytes, 8-byte aligned: fill them at once, then thmq_log_append_end()
 * @ret_index: out; index of the batch that it will be in: it has the durability that events->settled tells of this or a
 * higher one. Memory only: nothing settles
 *
 * One append at a time, and nothing else of the log's in between. The log owns the bytes from append_end on. Readers see the run at once.
 * Sets no thmq_errmsg().
 * Return: 0; -EAGAIN as many batches are in flight or waiting as may be: events->room comes;
 * -EINVAL @run_len is less than a header, the append before was not ended, or thmq_log_truncate() is at work;
 * -ENOSPC, -EDQUOT, -EFBIG, -EIO … why no segment can be made; -EMSGSIZE larger than a batch; -THMQ_EFAILED.
 */
THMQ_API int thmq_log_append(struct thmq_log *log, uint32_t run_len,
			     struct thmq_run_header **ret_run, uint64_t *ret_index);

/**
 * thmq_log_append_end() - the run is filled: index it; it is checksummed with its batch
 * @run: its header and payload are the caller's: thmq_run_init(), thmq_run_encode(). A len below that of the append is taken.
 * Offsets of a partition rise: base_offset is at least where its run before ended (THMQ_RUN_STATE has none, and
 * THMQ_RUN_RELOCATED is the cleaner's)
 * @durability: what its writer waits for: MEMORY, WRITTEN or DURABLE; a batch is flushed if one of its
 * runs needs it. Batches are written by the log itself, when its core's iteration ends: the owner of a caller-driven core goes
 * on with thmq_poll(), and what was appended before it shares a write. MEMORY: nobody waits; it is written and flushed in the background.
 *
 * Sets no thmq_errmsg(). Whatever it returns, the append is over.
 * Return: 0; -EINVAL no append was begun, offsets that do not rise or go beyond 2^64 - 1, another @durability; -ENOMEM there was none to index it. In
 * both cases the run is not in the log, as after thmq_log_append_abort().
 */
THMQ_API int thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run,
				 uint32_t durability);

/** thmq_log_append_abort() - give the room of the append that is not ended back */
THMQ_API void thmq_log_append_abort(struct thmq_log *log);

/**
 * thmq_log_flush() - ask that all appended so far becomes durable, without waiting
 * events->settled tells when: DURABLE with *@ret_index or more. 0 in *@ret_index: all is durable already, no event follows.
 * Return: 0; -THMQ_EFAILED.
 */
THMQ_API int thmq_log_flush(struct thmq_log *log, uint64_t *ret_index);

/* --------------------------------------------------------------------- read */

struct thmq_log_view {
	struct thmq_log_run run;
	void *internal[2];
};

/**
 * thmq_log_reader_open() - read the runs of one partition in the order of their offsets
 * @ready: called when a thmq_log_read() that returned 0 for want of a device read may go on; may be NULL
 * Return: 0; -ENOMEM.
 */
THMQ_API int thmq_log_reader_open(struct thmq_log *log, uint32_t partition,
				  void (*ready)(void *ctx), void *ctx,
				  struct thmq_log_reader **ret_reader);

/** thmq_log_reader_close() - NULL is allowed, and so is a reader whose log has closed; its views stay valid */
THMQ_API void thmq_log_reader_close(struct thmq_log_reader *reader);

/** thmq_log_reader_seek() - the next read begins with the run that covers @offset, or the first one behind it */
THMQ_API void thmq_log_reader_seek(struct thmq_log_reader *reader, uint64_t offset);

/**
 * thmq_log_reader_filter() - read only runs that may have a message with one of some tags
 * @tag_filter: a bit for each of these tags, see thmq_tag_filter(), ORed; 0: all runs, as at first
 * Other runs are passed over without being read from the device: their filters are in the indexes. A run that is returned may
 * have no such message: compare thmq_record_view.tag_hash, then the tag. It counts for thmq_log_read() from then on.
 */
THMQ_API void thmq_log_reader_filter(struct thmq_log_reader *reader, uint64_t tag_filter);

/** thmq_tag_filter() - the bit of a tag in thmq_run_header.tag_filter. 0: @len is 0. Threads: any. */
THMQ_API uint64_t thmq_tag_filter(const void *tag, uint32_t len);

/**
 * thmq_log_read() - the next run
 * @end_offset: runs that begin at or behind it are not returned; UINT64_MAX: all. What was appended is read whether it is durable
 * or not: who must not see what a crash may take back says here how far that goes
 * @ret_view: out; holds the run's memory until thmq_log_view_release()
 * Return: 1 one run; 0 none below @end_offset yet, or it is being read (@ready is called);
 * -THMQ_EOFFSETRANGE the position sought is below what is held (seek again); -THMQ_ECORRUPT; -EIO.
 */
THMQ_API int thmq_log_read(struct thmq_log_reader *reader, uint64_t end_offset,
			   struct thmq_log_view *ret_view);

/** thmq_log_view_release() - give the run's memory back, while the log is open; a second time does nothing */
THMQ_API void thmq_log_view_release(struct thmq_log *log, struct thmq_log_view *view);

/** thmq_log_bounds() - first offset held of @partition and one past the last appended
 * Return: 0; -ENOENT nothing of it is held (both are 0). */
THMQ_API int thmq_log_bounds(struct thmq_log *log, uint32_t partition, uint64_t *ret_begin,
			     uint64_t *ret_end);

/**
 * thmq_log_reader_find_time() - base offset of the first run whose last time is at or after @time_ns
 * Call it again with the same time after a 0. Where the reader stands does not change, but it may lose its place: seek then.
 * Return: 1 *@ret_offset; 0 it is being looked up (@ready is called); -ENOENT there is none; -THMQ_ECORRUPT; -EIO.
 */
THMQ_API int thmq_log_reader_find_time(struct thmq_log_reader *reader, int64_t time_ns, uint64_t *ret_offset);

/* A record with the key that was looked for, or, very rarely, with another one of the same hash. */
struct thmq_log_hit {
	uint64_t offset;
	int64_t time_ns; /* of the record */
	uint64_t internal[2];
};

/**
 * thmq_log_reader_seek_key() - look for the records of the reader's partition that have a key, newest first
 * @key: up to 65535 bytes, not looked at after the call
 * @from_time_ns, @to_time_ns: only records from the one up to before the other; INT64_MIN and INT64_MAX: of any time
 * @before_offset: only records before it, to go on where another search ended; UINT64_MAX: from the newest on
 *
 * No I/O: thmq_log_reader_find_key() has the hits. Keys are found in runs of records that have THMQ_RUN_KEYED. A segment
 * that is full costs one device read, of the page of its index that may have the key; none if its times say that it
 * has not, or a filter that is read once and kept in memory, 64 MiB of the newest segments' in all, a byte for each key. A
 * segment of more than four million keyed records is read as a whole.
 * Return: 0; -EINVAL @key_len; -EOPNOTSUPP a log in memory.
 */
THMQ_API int thmq_log_reader_seek_key(struct thmq_log_reader *reader, const void *key, uint32_t key_len, int64_t from_time_ns,
				      int64_t to_time_ns, uint64_t before_offset);

/**
 * thmq_log_reader_find_key() - the next hits of the search
 * @ret_hits: out; room for @hits_max; by falling offsets
 * Where the reader stands does not change, but it may lose its place: seek then.
 * Return: how many, one at least; 0 they are being looked up (@ready is called: call it again); -ENOENT there are no more, now;
 * -EINVAL there is no search; -EIO …
 */
THMQ_API int thmq_log_reader_find_key(struct thmq_log_reader *reader, uint32_t hits_max, struct thmq_log_hit *ret_hits);

/**
 * thmq_log_read_hit() - read the record of a hit, with one device read at most unless its segment went meanwhile
 * @ret_view: out; holds the record's run until thmq_log_view_release()
 * @ret_record: out; its key is to be compared: the index knows a hash of it. Valid as long as the view
 * The reader loses its place: seek then.
 * Return: 1; 0 it is being read (@ready is called: call it again with the same hit); -ENOENT it is gone; -THMQ_ECORRUPT; -EIO.
 */
THMQ_API int thmq_log_read_hit(struct thmq_log_reader *reader, const struct thmq_log_hit *hit, struct thmq_log_view *ret_view,
			       struct thmq_record_view *ret_record);

/** thmq_log_forget() - drop the index of a partition that was deleted; its runs stay until their segments go */
THMQ_API void thmq_log_forget(struct thmq_log *log, uint32_t partition);

/* ---------------------------------------------------------- for replication */

/**
 * thmq_log_find_index() - where a batch is
 * Return: 0; -ENOENT not held.
 */
THMQ_API int thmq_log_find_index(struct thmq_log *log, uint64_t index, uint64_t *ret_position,
				 uint64_t *ret_term);

/**
 * thmq_log_truncate() - remove all batches from @index on
 * Waits for writes in flight, flushes, lowers the durable mark, raises the incarnation, calls
 * events->unappended; drives the core meanwhile.
 * Return: 0; -EINVAL @index is the first batch or behind the end; the log's error.
 */
THMQ_API int thmq_log_truncate(struct thmq_log *log, uint64_t index);

struct thmq_log_stats {
	uint32_t size;        /* in */
	uint32_t disk_engine; /* 0 none, 1 io_uring, 2 threads, 3 inline, 4 simulated */
	uint32_t direct_io;
	uint32_t segment_count;
	uint64_t term;
	uint64_t incarnation;
	uint64_t last_index; /* of the last batch formed */
	uint64_t end_position;
	uint64_t durable_index;
	uint64_t written_index;
	uint64_t batches;      /* written since open */
	uint64_t stored_bytes; /* of these */
	uint64_t runs;
	uint64_t cache_bytes; /* held now */
	uint64_t recovered_batches;
	uint64_t recovered_runs;
	uint64_t recovery_ns;
	uint64_t torn_bytes; /* cut at open */
	uint32_t unclean;    /* 1: the last owner did not close it, so that unflushed batches may be gone */
	uint32_t sealed_segments; /* taken from their indexes at open, not read */
	uint32_t flush_method; /* how it makes a write durable: THMQ_FLUSH_DSYNC or _FDATASYNC; 0: memory only or simulated */
	uint32_t polled_io;    /* THMQ_POLLED_ON or _OFF; 0: likewise */
	uint64_t dsync_ns;     /* what the probe measured for one block, each a median; 0: it was not measured */
	uint64_t fdatasync_ns;
	uint64_t begin_position; /* of the first segment that is held */
	uint64_t begin_index;    /* of its first batch */
	uint64_t file_bytes;     /* of all segments, made ahead or kept for reuse too */
	uint64_t dropped_segments; /* since open */
	uint64_t recycled_segments; /* of them, made the next one */
	uint64_t relocated_runs;    /* appended again by the cleaner, since open */
	uint64_t relocated_bytes;
	uint64_t compacted_messages; /* that were left out where their runs would have been appended again */
};

/**
 * thmq_log_stats() - copy the log's counters
 * Return: 0; -EINVAL
 * Threads: any, while the log is not being closed. Beside its own each number is right, but not all are of the same moment.
 */
THMQ_API int thmq_log_stats(struct thmq_log *log, struct thmq_log_stats *ret_stats);

/* ---------------------------------------------------------- offline: look at */

/* A batch header, decoded. */
struct thmq_log_batch {
	uint64_t position;
	uint64_t index;
	uint64_t term;
	uint64_t incarnation;
	uint64_t durable_position;
	uint32_t len; /* bytes, padding included */
	uint32_t payload_len;
	uint32_t run_count;
	uint16_t type;
	uint16_t version;
};

enum thmq_log_finding_kind {
	THMQ_FINDING_TORN_TAIL = 1, /* writes in flight at a crash: the next open cuts them */
	THMQ_FINDING_DAMAGE = 2,    /* bytes known durable fail their check */
	THMQ_FINDING_MISSING = 3,   /* a segment, the vote file, or a log of the directory is not there */
	THMQ_FINDING_FOREIGN = 4,   /* a file that does not belong here */
	THMQ_FINDING_VERSION = 5,   /* written by a newer library */
	THMQ_FINDING_INDEX = 6,     /* a segment's index is damaged or stale: the messages are not, and an open makes it anew */
	THMQ_FINDING_LEFTOVER = 7,  /* of work that was cut short: the next open removes it or goes on with it; or a quarantine */
	THMQ_FINDING_IDENTITY = 8   /* a log, but not the one that belongs in this place */
};

struct thmq_log_finding {
	uint32_t kind; /* enum thmq_log_finding_kind */
	int32_t error;
	uint64_t position;
	const char *text; /* during the call */
};

enum thmq_log_step_kind {
	THMQ_STEP_INDEX = 1,      /* an index that is damaged or stale is removed: the next open makes it anew */
	THMQ_STEP_VOTE = 2,       /* a damaged or lost vote file is made anew from what the batches' headers tell */
	THMQ_STEP_SEGMENT = 3,    /* a segment file that is too short gets its length, or one that is lost is made again */
	THMQ_STEP_QUARANTINE = 4, /* bytes go out of the log into a file of their own */
	THMQ_STEP_CUT = 5,        /* the log ends, or begins, elsewhere from then on */
	THMQ_STEP_PLACE = 6       /* a log's directory gets the name under which it belongs */
};

/* What a repair does, or would do. */
struct thmq_log_step {
	uint32_t kind; /* enum thmq_log_step_kind */
	uint32_t reserved;
	uint64_t position, end; /* of the log, bytes; end is behind the last one */
	const char *text;       /* during the call */
};

enum thmq_log_loss_kind {
	THMQ_LOSS_DAMAGED = 1, /* bytes of batches that fail their check */
	THMQ_LOSS_WHOLE = 2,   /* whole batches, behind damaged ones: without these the log cannot have them */
	THMQ_LOSS_MESSAGES = 3, /* offsets of a partition */
	THMQ_LOSS_STATE = 4     /* the newest slice of a state; an older one may be left */
};

/*
 * What a repair takes out of the log. As it reads on from the first damage: ranges of bytes, by rising position, each DAMAGED or WHOLE, and
 * each STATE that lies there. Behind all of these MESSAGES, one of each partition that loses some.
 */
struct thmq_log_loss {
	uint32_t kind;      /* enum thmq_log_loss_kind */
	uint32_t partition; /* MESSAGES; STATE: the kind */
	uint64_t position, end;             /* DAMAGED, WHOLE: bytes of the log, up to before end */
	uint64_t first_index, last_index;   /* DAMAGED, WHOLE: batches; 0: nothing tells */
	uint64_t begin_offset, end_offset;  /* MESSAGES: from here to before there, as far as whole runs tell. STATE: the item in begin_offset */
	uint64_t runs, messages;            /* MESSAGES: of these, in whole batches that go to the quarantine */
};

/* NULL: not wanted. A non-zero return ends the call with it; a repair that writes ends between two steps. */
struct thmq_log_visitor {
	uint32_t size;
	uint32_t reserved;
	int (*batch)(void *ctx, const struct thmq_log_batch *batch);
	int (*run)(void *ctx, const struct thmq_log_run *run);
	int (*finding)(void *ctx, const struct thmq_log_finding *finding);
	/* thmq_data_scan(), _repair(): what comes next is of this log, "meta" or "shard-000"; "": of the directory itself */
	int (*log)(void *ctx, const char *name);
	int (*step)(void *ctx, const struct thmq_log_step *step); /* of a repair */
	int (*loss)(void *ctx, const struct thmq_log_loss *loss);
};

/**
 * thmq_log_scan() - read a closed log front to back and check every byte, changing nothing
 * @dir: the log's directory; or a file quarantine-….bin of a repair, of which the whole batches are shown, DAMAGE being the rest
 * @visitor: called for every batch, run and finding; a non-zero return ends the scan with it
 *
 * Behind a damaged batch it goes on with the next whole one, so that every place is told. Findings of other kinds than
 * DAMAGE, MISSING, IDENTITY and VERSION are no damage.
 *
 * Return: 0 no damage (a torn tail is none); -THMQ_ECORRUPT; -THMQ_EVERSION; -ENOENT; a visitor's value.
 * Threads: any; blocks.
 */
THMQ_API int thmq_log_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx);

/**
 * thmq_data_scan() - thmq_log_scan() of all logs of a closed data directory, and whether they belong together
 * Finds also shards that are missing or in each other's place, and files that do not belong there. Meanwhile no broker can
 * open it; others may look.
 * Return: as thmq_log_scan(), for the worst of them; -EBUSY another process has it open (thmq_errmsg() names its pid).
 * Threads: any; blocks.
 */
THMQ_API int thmq_data_scan(const char *dir, const struct thmq_log_visitor *visitor, void *ctx);

enum thmq_data_name_kind { THMQ_DATA_TOPIC = 1, THMQ_DATA_GROUP = 2 };

#define THMQ_DATA_RANGES_MAX 16u

/* Partitions that a topic got later: those from @begin on. */
struct thmq_data_range {
	uint32_t begin;
	uint32_t first_partition;
};

/* What a number in a data directory's logs is called. */
struct thmq_data_name {
	uint32_t size;
	uint32_t kind;     /* enum thmq_data_name_kind */
	uint32_t id;       /* of the topic or group */
	uint32_t topic_id; /* of a group: whose it is; of a topic: id */
	uint32_t first_partition; /* of a topic: runs of its partition i are of partition first_partition + i, unless it was added later */
	uint32_t partition_count; /* likewise; 0 of a group */
	uint32_t deleted;  /* of a topic: 1 it is, and its number is not given again */
	uint32_t added_count; /* of a topic: how many times it got partitions that lie elsewhere */
	char name[256];    /* zero-terminated; "" where it is not known */
	/* of its partition i the last one counts whose begin is not above i: runs of first_partition + (i - begin) */
	struct thmq_data_range added[THMQ_DATA_RANGES_MAX];
};

/**
 * thmq_data_name() - what a run of the log `meta` says of a topic or group
 * @run: as thmq_data_scan() shows it; later ones of the same kind and id count. Its payload was checked
 * @ret_name: set its size field first
 * Return: 1; 0 it says something else, or has no payload; -EINVAL a NULL, or the size field.
 * Threads: any; never blocks.
 */
THMQ_API int thmq_data_name(const struct thmq_log_run *run, struct thmq_data_name *ret_name);

/* --------------------------------------------------------- offline: repair */

struct thmq_log_repair_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_REPAIR_* */
	const char *quarantine_dir; /* where what is taken out goes, made if absent; NULL: beside the log, in its directory */
};

#define THMQ_REPAIR_WRITE 1u /* do it; without, it is only told */

#define THMQ_LOG_REPAIR_OPTS(...) (&(struct thmq_log_repair_opts){.size = sizeof(struct thmq_log_repair_opts), __VA_ARGS__})

/** thmq_log_repair_opts_init() - set @opts to the defaults */
THMQ_API void thmq_log_repair_opts_init(struct thmq_log_repair_opts *opts, uint32_t size);
#define thmq_log_repair_opts_init(opts) thmq_log_repair_opts_init((opts), sizeof(struct thmq_log_repair_opts))

/**
 * thmq_log_repair() - make a damaged log one that opens again, and tell what that costs
 * @dir: the log's directory, which nobody may have open
 * @opts: NULL means: only tell
 * @visitor: findings, then losses and steps; the log's batches and runs are not shown
 *
 * What can be derived is made anew: index files are removed, so that the next open makes them; `vote` is written from
 * what is left of it and of the batches' headers. What cannot: from the first damaged batch on everything is moved into files
 * quarantine-<position>.bin, the log ends before it. Partitions go on behind the offsets that are lost. A repair that was
 * interrupted is repeated. A log without defects is not changed.
 *
 * Return: the number of steps, 0 for a log that needs none; -THMQ_ECORRUPT nothing of it can be kept: restore it from a
 * copy; -THMQ_EVERSION; -ENOENT there is none; -EBUSY with THMQ_REPAIR_WRITE: somebody has it open; -ENOSPC; a visitor's value;
 * an error of the file system.
 * Threads: any; blocks.
 */
THMQ_API int thmq_log_repair(const char *dir, const struct thmq_log_repair_opts *opts, const struct thmq_log_visitor *visitor,
			     void *ctx);

/**
 * thmq_data_repair() - thmq_log_repair() of all logs of a closed data directory
 * Shards in each other's place are put right first. In @opts->quarantine_dir each log has a directory of its own name.
 * Return: the number of steps; -THMQ_ECORRUPT something is left that cannot be repaired (findings tell); -EBUSY; as thmq_log_repair().
 * Threads: any; blocks. It holds the directory's lock: shared while it only tells.
 */
THMQ_API int thmq_data_repair(const char *dir, const struct thmq_log_repair_opts *opts, const struct thmq_log_visitor *visitor,
			      void *ctx);

/* ------------------------------------------------------------------- copies */

/**
 * thmq_log_copy() - copy an open log while it is written to
 * @dest: a directory that is not there yet, or is empty
 *
 * The copy has all that was durable when it was begun, byte for byte, and opens as a log that was closed there. Every batch
 * is checked on its way. The calling thread reads and writes; the log's core only begins and ends it. No segment goes meanwhile,
 * so that a log at its limit_bytes may have no room for appends until then. If it fails, @dest
 * holds no log that would open, and may be removed.
 *
 * Return: 0; -ENOTEMPTY; -EINVAL @dest is the log's own directory or lies in it; -THMQ_ECORRUPT stored bytes are damaged;
 * -EOPNOTSUPP a log in memory; -ECANCELED some of what was to be copied was truncated meanwhile; -EDEADLK nobody drives its core; -ENOSPC; an error of the file system.
 * Threads: any; blocks. The log may not be closed meanwhile.
 */
THMQ_API int thmq_log_copy(struct thmq_log *log, const char *dest);

/**
 * thmq_data_copy() - copy a closed data directory, scanning it first; for an open one see thmq_broker_copy()
 * Sealed indexes and what is known of the logs go along; a torn tail and files that do not belong there stay behind.
 * Return: 0; -THMQ_ECORRUPT, nothing is copied; -EBUSY; -ENOENT; -ENOTEMPTY; -EINVAL @dest is @dir or lies in it; -ENOSPC; an
 * error of the file system.
 * Threads: any; blocks.
 */
THMQ_API int thmq_data_copy(const char *dir, const char *dest);

#ifdef __cplusplus
}
#endif
#endif
