/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.h - block files as a table of operations: io_uring, helper threads, inline, simulated.
 *
 * Two halves. The calling half (dir_*, file_*) blocks and serves open, recovery and close. The queue half
 * never blocks: operations are submitted to a core's queue and complete by callback from that core's loop.
 * All data addresses, lengths and offsets are multiples of 512 at least; writers use THMQI_BLOCK.
 * Errors are negative errno; a short read or write is an error of the engine's (-EIO), except a read at the
 * end of a file, which returns what there is.
 */
#ifndef THMQI_DISK_H
#define THMQI_DISK_H

#include "base/base.h"
#include "memory/memory.h"
#include "reactor/reactor.h"

struct thmqi_disk_dir;
struct thmqi_disk_file;
struct thmqi_disk_queue;

enum thmqi_disk_opcode {
	THMQI_DISK_READ,
	THMQI_DISK_WRITE,    /* flags: THMQI_DISK_DSYNC */
	THMQI_DISK_FLUSH,    /* data and what is needed to read it back */
	THMQI_DISK_CREATE,   /* dir, name -> file, empty, opened for O_DIRECT where possible */
	THMQI_DISK_ALLOCATE, /* file grows to offset + len; blocks reserved where the file system can (zeros are written by WRITE) */
	THMQI_DISK_RENAME,   /* dir, name -> name2; must not exist, or is replaced */
	THMQI_DISK_UNLINK,   /* dir, name */
	THMQI_DISK_SYNC_DIR, /* dir */
	THMQI_DISK_CLOSE,    /* file */
	THMQI_DISK_OPEN      /* dir, name -> file, which is there already */
};

#define THMQI_DISK_DSYNC                                                                           \
	1u /* on completion the data is on the medium (FUA or flush); it alone, not what lay unflushed before */
#define THMQI_DISK_BACKGROUND 2u /* preparation: yields to others where the engine can */

struct thmqi_disk_op {
	uint8_t opcode;
	uint8_t flags;
	uint16_t reserved;
	uint32_t len;
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file; /* in; out for CREATE and OPEN */
	const struct thmqi_buf *buf;  /* the pool block that data lies in, or NULL */
	void *data;
	uint64_t offset;
	const char *name, *name2; /* the submitter's until done */
	/* Called from the queue's core loop, never inside submit. result: 0 or bytes read; negative errno. */
	void (*done)(struct thmqi_disk_op *op, int64_t result);
	/* the engine's */
	struct thmqi_disk_op *next;
	struct thmqi_ring_op ring_op;
	int64_t result;
	struct thmqi_disk_queue *queue;
	uint32_t retries;
	uint8_t flushing; /* written, its flush is on the way */
	uint8_t polled;   /* in the ring that is polled */
	uint16_t reserved2;
};

/* How the files of a directory are written and read. */
struct thmqi_disk_ways {
	uint32_t flush_method; /* enum thmq_flush_method: wanted; out: found. 0: there is but one way here */
	uint32_t polled_io;    /* enum thmq_polled_io: likewise */
	uint64_t dsync_ns, flush_ns; /* out: medians for one durable block; 0: not measured */
};

struct thmqi_disk_table {
	/* calling half */
	int (*dir_open)(void *ctx, const char *path, bool create, struct thmqi_disk_dir **ret_dir);
	void (*dir_close)(struct thmqi_disk_dir *dir);
	int (*dir_sync)(struct thmqi_disk_dir *dir);
	/* Calls @each with every entry's name but "." and ".."; non-zero ends the walk with it. */
	int (*dir_list)(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name),
			void *arg);
	/* An exclusive lock that the kernel drops with the process. -EBUSY: *ret_pid holds the holder's pid or 0. */
	int (*dir_lock)(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid);
	int (*file_open)(struct thmqi_disk_dir *dir, const char *name, bool create,
			 struct thmqi_disk_file **ret_file);
	void (*file_close)(struct thmqi_disk_file *file);
	int64_t (*file_size)(struct thmqi_disk_file *file);
	bool (*file_direct)(
		struct thmqi_disk_file *file); /* true: O_DIRECT (or simulated as such) */
	int64_t (*file_read)(struct thmqi_disk_file *file, void *data, uint32_t len,
			     uint64_t offset);
	int (*file_write)(struct thmqi_disk_file *file, const void *data, uint32_t len,
			  uint64_t offset, bool dsync);
	int (*file_allocate)(struct thmqi_disk_file *file, uint64_t len);
	int (*file_flush)(struct thmqi_disk_file *file);
	int (*rename)(struct thmqi_disk_dir *dir, const char *from, const char *to);
	int (*unlink)(struct thmqi_disk_dir *dir, const char *name);
	/* Settles how the files that are opened in @dir from now on are written and read: as is wanted, or as is
	 * faster by a measurement of some milliseconds, which is made once for each device and environment. By the
	 * thread that drives @core. 0; -EOPNOTSUPP: THMQ_POLLED_ON, and it cannot be. NULL: there is but one way. */
	int (*dir_ways)(struct thmqi_disk_dir *dir, struct thmq_core *core,
			struct thmqi_disk_ways *ways);
	/* queue half */
	int (*queue_open)(void *ctx, struct thmq_core *core, uint32_t depth,
			  struct thmqi_disk_queue **ret_queue);
	void (*queue_close)(struct thmqi_disk_queue *queue); /* waits for what is in flight */
	/* 0, or -EAGAIN: the queue is full, nothing taken. The op is the engine's until done. */
	int (*queue_submit)(struct thmqi_disk_queue *queue, struct thmqi_disk_op *op);
	uint32_t (*queue_inflight)(const struct thmqi_disk_queue *queue);
	/* Blocks until an operation of the queue has completed, by its callback, at most so long. false: none has. */
	bool (*queue_wait)(struct thmqi_disk_queue *queue, uint64_t timeout_ns);
};

/* The table of @core's world: the simulated one if the world has one, else io_uring if the core has a ring, else
 * helper threads where the environment may have threads, else inline. Sets core->disk_engine. The context is for
 * dir_open and queue_open. */
const struct thmqi_disk_table *thmqi_disk_of(struct thmq_core *core, void **ret_ctx);
/* dir_ways, where the table has it; else zeros. */
int thmqi_disk_ways(const struct thmqi_disk_table *disk, struct thmqi_disk_dir *dir,
		    struct thmq_core *core, struct thmqi_disk_ways *ways);
/* The real calling half alone, for tools that have no core. */
extern const struct thmqi_disk_table thmqi_disk_posix;

#endif
