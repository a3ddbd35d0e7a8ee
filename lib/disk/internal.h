/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the engines on real files share: one calling half, and the translation of an operation. */
#ifndef THMQI_DISK_INTERNAL_H
#define THMQI_DISK_INTERNAL_H

#include <thundermq/log.h>

#include "count.h"
#include "disk/disk.h"

#define ENGINE_URING 1u /* thmq_core.disk_engine */

#define DISK_SECTOR 512u /* a transfer that ends inside one has met the end of the file */
#define DISK_MODE 0666   /* less what the umask takes */

/* Operations of preparation that an engine runs at once; the others wait so that a write on the message path
 * never stands behind more than these. */
#define DISK_BACKGROUND_MAX 2u

struct thmqi_disk_dir {
	int fd;
	int lock_fd; /* -1: not locked */
	pid_t lock_pid; /* who locked it: a forked child has the descriptor too, and not the lock */
	bool split;     /* for its files, as they are opened */
	bool polled;
};

struct thmqi_disk_file {
	int fd;
	int slot; /* in the registered table of ring; negative: none */
	bool direct;
	bool split;  /* durable writes: a plain write, then a flush */
	bool polled; /* small transfers go to the ring that is polled */
	struct thmqi_ring *ring; /* whose table slot is in; NULL: never used by a ring */
	struct thmqi_list
		link; /* with a ring: in its queue's list, so that the slot goes before the ring */
};

/* Operations in order. */
struct disk_list {
	struct thmqi_disk_op *first, *last;
};

static inline void disk_list_add(struct disk_list *l, struct thmqi_disk_op *op)
{
	op->next = NULL;
	if (l->first)
		l->last->next = op;
	else
		l->first = op;
	l->last = op;
}

static inline struct thmqi_disk_op *disk_list_take(struct disk_list *l)
{
	struct thmqi_disk_op *op = l->first;

	if (op)
		l->first = op->next;
	return op;
}

/* The calling half, the same for every engine on real files. */
int thmqi_disk_posix_dir_open(void *ctx, const char *path, bool create,
			      struct thmqi_disk_dir **ret_dir);
void thmqi_disk_posix_dir_close(struct thmqi_disk_dir *dir);
int thmqi_disk_posix_dir_sync(struct thmqi_disk_dir *dir);
int thmqi_disk_posix_dir_list(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name),
			      void *arg);
int thmqi_disk_posix_dir_lock(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid);
int thmqi_disk_posix_file_open(struct thmqi_disk_dir *dir, const char *name, bool create,
			       struct thmqi_disk_file **ret_file);
void thmqi_disk_posix_file_close(struct thmqi_disk_file *file);
int64_t thmqi_disk_posix_file_size(struct thmqi_disk_file *file);
bool thmqi_disk_posix_file_direct(struct thmqi_disk_file *file);
int64_t thmqi_disk_posix_file_read(struct thmqi_disk_file *file, void *data, uint32_t len,
				   uint64_t offset);
int thmqi_disk_posix_file_write(struct thmqi_disk_file *file, const void *data, uint32_t len,
				uint64_t offset, bool dsync);
int thmqi_disk_posix_file_allocate(struct thmqi_disk_file *file, uint64_t len);
int thmqi_disk_posix_file_flush(struct thmqi_disk_file *file);
int thmqi_disk_posix_rename(struct thmqi_disk_dir *dir, const char *from, const char *to);
int thmqi_disk_posix_unlink(struct thmqi_disk_dir *dir, const char *name);

#define THMQI_DISK_POSIX_CALLING_HALF                                                              \
	.dir_open = thmqi_disk_posix_dir_open, .dir_close = thmqi_disk_posix_dir_close,            \
	.dir_sync = thmqi_disk_posix_dir_sync, .dir_list = thmqi_disk_posix_dir_list,              \
	.dir_lock = thmqi_disk_posix_dir_lock, .file_open = thmqi_disk_posix_file_open,            \
	.file_close = thmqi_disk_posix_file_close, .file_size = thmqi_disk_posix_file_size,        \
	.file_direct = thmqi_disk_posix_file_direct, .file_read = thmqi_disk_posix_file_read,      \
	.file_write = thmqi_disk_posix_file_write,                                                 \
	.file_allocate = thmqi_disk_posix_file_allocate,                                           \
	.file_flush = thmqi_disk_posix_file_flush, .rename = thmqi_disk_posix_rename,              \
	.unlink = thmqi_disk_posix_unlink

/* probe.c: the same for every engine on real files; polled_io is the uring engine's alone. */
int thmqi_disk_probe(struct thmqi_disk_dir *dir, struct thmq_core *core,
		     struct thmqi_disk_ways *ways);

/* disk_count(), and the flush behind a durable write. */
static inline void disk_count_real(struct thmq_core *core, const struct thmqi_disk_op *op)
{
	disk_count(core, op);
	if (op->opcode == THMQI_DISK_WRITE && (op->flags & THMQI_DISK_DSYNC) && op->file->split)
		disk_add(&core->flushes, 1);
}

/* Do @op here and now, by system calls that block; its result. */
int64_t thmqi_disk_posix_run(struct thmqi_disk_op *op);
/* A file around an open descriptor; NULL without memory. A mapping: segments are made on a core, which takes nothing from the heap. */
struct thmqi_disk_file *thmqi_disk_posix_file_make(int fd, bool direct);
void thmqi_disk_posix_file_free(struct thmqi_disk_file *file); /* the descriptor stays open */
static inline void disk_file_of_dir(struct thmqi_disk_file *file, const struct thmqi_disk_dir *dir)
{
	file->split = dir->split;
	file->polled = dir->polled && file->direct;
}

extern const struct thmqi_disk_table thmqi_disk_uring;
extern const struct thmqi_disk_table thmqi_disk_threads;
extern const struct thmqi_disk_table thmqi_disk_inline;

#endif
