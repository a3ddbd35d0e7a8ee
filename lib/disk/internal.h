/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the engines on real files share: one calling half, and the translation of an operation. */
#ifndef THMQI_DISK_INTERNAL_H
#define THMQI_DISK_INTERNAL_H

#include "count.h"
#include "disk/disk.h"

struct thmqi_disk_dir {
	int fd;
	int lock_fd; /* -1: not locked */
};

struct thmqi_disk_file {
	int fd;
	int slot;                /* in the registered table of ring; -1 */
	struct thmqi_ring *ring; /* whose table slot is in */
	bool direct;
};

/* The calling half, the same for every engine on real files. */
int thmqi_posix_dir_open(void *ctx, const char *path, bool create, struct thmqi_disk_dir **ret_dir);
void thmqi_posix_dir_close(struct thmqi_disk_dir *dir);
int thmqi_posix_dir_sync(struct thmqi_disk_dir *dir);
int thmqi_posix_dir_list(struct thmqi_disk_dir *dir, int (*each)(void *arg, const char *name),
			 void *arg);
int thmqi_posix_dir_lock(struct thmqi_disk_dir *dir, const char *name, uint64_t *ret_pid);
int thmqi_posix_file_open(struct thmqi_disk_dir *dir, const char *name, bool create,
			  struct thmqi_disk_file **ret_file);
void thmqi_posix_file_close(struct thmqi_disk_file *file);
int64_t thmqi_posix_file_size(struct thmqi_disk_file *file);
bool thmqi_posix_file_direct(struct thmqi_disk_file *file);
int64_t thmqi_posix_file_read(struct thmqi_disk_file *file, void *data, uint32_t len,
			      uint64_t offset);
int thmqi_posix_file_write(struct thmqi_disk_file *file, const void *data, uint32_t len,
			   uint64_t offset, bool dsync);
int thmqi_posix_file_allocate(struct thmqi_disk_file *file, uint64_t len);
int thmqi_posix_file_flush(struct thmqi_disk_file *file);
int thmqi_posix_rename(struct thmqi_disk_dir *dir, const char *from, const char *to);
int thmqi_posix_unlink(struct thmqi_disk_dir *dir, const char *name);

#define THMQI_POSIX_CALLING_HALF                                                                   \
	.dir_open = thmqi_posix_dir_open, .dir_close = thmqi_posix_dir_close,                      \
	.dir_sync = thmqi_posix_dir_sync, .dir_list = thmqi_posix_dir_list,                        \
	.dir_lock = thmqi_posix_dir_lock, .file_open = thmqi_posix_file_open,                      \
	.file_close = thmqi_posix_file_close, .file_size = thmqi_posix_file_size,                  \
	.file_direct = thmqi_posix_file_direct, .file_read = thmqi_posix_file_read,                \
	.file_write = thmqi_posix_file_write, .file_allocate = thmqi_posix_file_allocate,          \
	.file_flush = thmqi_posix_file_flush, .rename = thmqi_posix_rename,                        \
	.unlink = thmqi_posix_unlink

/* Do @op here and now, by system calls that block; its result. */
int64_t thmqi_posix_run(struct thmqi_disk_op *op);

extern const struct thmqi_disk_table thmqi_disk_uring;
extern const struct thmqi_disk_table thmqi_disk_threads;
extern const struct thmqi_disk_table thmqi_disk_inline;

#endif
