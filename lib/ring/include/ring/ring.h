/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.h - one io_uring per core: the only reader of <liburing.h>.
 *
 * The ring is driven by one thread at a time: the one that attached it, by thmqi_ring_attach() or simply by the
 * first submit, reap or wait. SINGLE_ISSUER and DEFER_TASKRUN are used where the kernel has them, so that another
 * thread can drive it only after thmqi_ring_detach() (or once the first one has nothing in flight); what belongs
 * to the ring (files, buffers, multishot polls, its eventfd) comes along.
 * Registered buffers: the slabs of the core's pool, in pieces of 2 MiB that are pinned when first used, so that
 * a small environment stays small and a low limit of locked memory registers what it allows. Registered files
 * are a sparse table. What could not be registered is read and written all the same, a little slower.
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

#define THMQI_RING_FILES 4096u /* slots of the registered file table, at most */
#define THMQI_RING_BUFFERS THMQ_SLABS_MAX /* slabs that the ring knows by index */

/* Why a ring could not be opened is told by the error: -ENOSYS, -EPERM, -EACCES mean "refused here". */
int thmqi_ring_open(uint32_t depth, struct thmqi_ring **ret_ring);
/* A ring for reads and writes alone, on files that are open for O_DIRECT and whose device has polled queues; others
 * fail, as -EOPNOTSUPP mostly. Its completions are looked for at the device by thmqi_ring_reap(), a system call each
 * time, as long as something is in flight: it is never slept on, and thmqi_ring_wait() looks once. */
int thmqi_ring_open_polled(uint32_t depth, struct thmqi_ring **ret_ring);
/* Any thread, once nobody drives it. What is in flight is abandoned to the kernel: wait for it before. */
void thmqi_ring_close(struct thmqi_ring *r);
/* The calling thread drives the ring from now on. 0; -EBUSY another thread has operations in flight. */
int thmqi_ring_attach(struct thmqi_ring *r);
/* By the driving thread: submit, wait for all that is in flight (their done callbacks run here), let go. */
int thmqi_ring_detach(struct thmqi_ring *r);
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
/* done comes each time @events occur, res being the events, until one comes without IORING_CQE_F_MORE in flags
 * (an error, or cancelled): thmqi_ring_has_more(). Then it may be armed again. */
int thmqi_ring_poll_multishot(struct thmqi_ring *r, int fd, uint32_t events,
			      struct thmqi_ring_op *op);
/* From now on so many polls can be begun without memory for each. 0; -ENOMEM. */
int thmqi_ring_poll_room(struct thmqi_ring *r, uint32_t count);
/* End a multishot poll: done comes with -ECANCELED. 0; -ENOENT it is not armed; -EAGAIN. Needed before @fd is
 * closed, since the ring holds the file. */
int thmqi_ring_cancel(struct thmqi_ring *r, struct thmqi_ring_op *op);
bool thmqi_ring_has_more(uint32_t flags);

/* Enter the kernel for what was queued, if anything. Return: number submitted, or negative. */
int thmqi_ring_submit(struct thmqi_ring *r);
/* Run the done callbacks of up to @budget completions, without blocking and without a system call when there
 * are none. Return: how many. */
int thmqi_ring_reap(struct thmqi_ring *r, uint32_t budget);
/* Submit, then sleep until a completion is there or @timeout_ns passed (UINT64_MAX: no limit). 1, 0 or negative. */
int thmqi_ring_wait(struct thmqi_ring *r, uint64_t timeout_ns);
/* A descriptor for a sleep elsewhere than in thmqi_ring_wait(), made at the first call; by the driving thread. It is
 * an eventfd, since poll(2) on the own descriptor of a DEFER_TASKRUN ring is not told of completions that wait for
 * its thread (seen on 6.18). Readable once a completion comes while it is armed. Or negative. */
int thmqi_ring_fd(struct thmqi_ring *r);
/* Before the sleep: true if completions are there already. Disarm after it, before they are reaped. */
bool thmqi_ring_fd_arm(struct thmqi_ring *r);
void thmqi_ring_fd_disarm(struct thmqi_ring *r);
/* How the kernel set it up: constant, for any thread. */
bool thmqi_ring_is_single_issuer(const struct thmqi_ring *r);
bool thmqi_ring_defers_taskrun(const struct thmqi_ring *r);
uint32_t thmqi_ring_inflight(
	const struct thmqi_ring *r); /* operations that will complete, multishots not counted */

struct thmqi_ring_stats {
	uint64_t enters, submitted, completed;
	uint32_t single_issuer, defer_taskrun;
	uint32_t registered_buffers; /* pieces of 2 MiB */
	uint32_t unregistered_slabs; /* slabs with a piece that could not be registered */
	uint32_t registered_files;   /* slots in use */
	uint32_t reserved;
};
void thmqi_ring_stats(struct thmqi_ring *r, struct thmqi_ring_stats *ret);

#endif
