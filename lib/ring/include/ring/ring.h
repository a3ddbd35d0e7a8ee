/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.h - one io_uring per core: the only reader of <liburing.h>.
 *
 * The ring belongs to the thread that drives its core. It must be opened (or enabled) on that thread:
 * SINGLE_ISSUER and DEFER_TASKRUN are used where the kernel has them. Registered buffers are the slabs of
 * the core's pool, at their slab index (sparse table); registered files are a sparse table too.
 */
#ifndef THMQI_RING_H
#define THMQI_RING_H

#include "base/base.h"
#include "memory/memory.h"

struct thmqi_ring;

/* One operation in flight. done runs from thmqi_ring_reap(), never from a prep call; res is the CQE's. */
struct thmqi_ring_op {
	void (*done)(struct thmqi_ring_op *op, int res, uint32_t flags);
};

#define THMQI_RING_FILES 4096u   /* slots of the registered file table */
#define THMQI_RING_BUFFERS 1024u /* slots of the registered buffer table, >= slabs of a pool */

/* Why a ring could not be opened is told by the error: -ENOSYS, -EPERM, -EACCES mean "refused here". */
int thmqi_ring_open(uint32_t depth, struct thmqi_ring **ret_ring);
void thmqi_ring_close(struct thmqi_ring *r);
/* Registrar to subscribe to the core's pool; failures (memlock) leave buffers unregistered: prep_* then
 * use plain reads and writes by themselves. */
struct thmqi_registrar *thmqi_ring_registrar(struct thmqi_ring *r);

/* Put a descriptor into the registered table. Return: slot >= 0, or -ENFILE/-error: use the plain fd then. */
int thmqi_ring_file_add(struct thmqi_ring *r, int fd);
void thmqi_ring_file_remove(struct thmqi_ring *r, int slot);

/* Queue one operation; nothing enters the kernel before thmqi_ring_submit(). -EAGAIN: the queue is full even
 * after a submit. @slot < 0: plain @fd. @buf: the pool block @data lies in, or NULL. */
int thmqi_ring_write(struct thmqi_ring *r, int fd, int slot, const struct thmqi_buf *buf,
		     const void *data, uint32_t len, uint64_t offset, int rw_flags,
		     struct thmqi_ring_op *op);
int thmqi_ring_read(struct thmqi_ring *r, int fd, int slot, const struct thmqi_buf *buf, void *data,
		    uint32_t len, uint64_t offset, struct thmqi_ring_op *op);
int thmqi_ring_fsync(struct thmqi_ring *r, int fd, int slot, bool data_only,
		     struct thmqi_ring_op *op);
int thmqi_ring_fallocate(struct thmqi_ring *r, int fd, int mode, uint64_t offset, uint64_t len,
			 struct thmqi_ring_op *op);
int thmqi_ring_openat(struct thmqi_ring *r, int dirfd, const char *name, int flags, int mode,
		      struct thmqi_ring_op *op); /* name stays the caller's until done */
int thmqi_ring_renameat(struct thmqi_ring *r, int dirfd, const char *from, const char *to,
			struct thmqi_ring_op *op);
int thmqi_ring_unlinkat(struct thmqi_ring *r, int dirfd, const char *name,
			struct thmqi_ring_op *op);
int thmqi_ring_close_fd(struct thmqi_ring *r, int fd, struct thmqi_ring_op *op);
int thmqi_ring_poll_multishot(struct thmqi_ring *r, int fd, uint32_t events,
			      struct thmqi_ring_op *op);

/* Enter the kernel for what was queued, if anything. Return: number submitted, or negative. */
int thmqi_ring_submit(struct thmqi_ring *r);
/* Run the done callbacks of up to @budget completions, without blocking and without a system call when there
 * are none. Return: how many. */
int thmqi_ring_reap(struct thmqi_ring *r, uint32_t budget);
/* Submit, then sleep until a completion is there or @timeout_ns passed (UINT64_MAX: no limit). 1, 0 or negative. */
int thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns);
int thmqi_ring_fd(struct thmqi_ring *r); /* pollable: readable when completions are there */
uint32_t thmqi_ring_inflight(
	const struct thmqi_ring *r); /* operations that will complete, multishots not counted */

struct thmqi_ring_stats {
	uint64_t enters, submitted, completed;
	uint32_t single_issuer, defer_taskrun, registered_buffers, unregistered_slabs;
};
void thmqi_ring_stats(struct thmqi_ring *r, struct thmqi_ring_stats *ret);

#endif
