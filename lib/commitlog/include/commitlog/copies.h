/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copies.h - a log that is one of several copies, for consensus: who may write into it, batches taken as they are from the
 * copy that leads, batches given to others, term and vote. All on the log's core. Knows neither peers nor elections.
 */
#ifndef THMQI_COMMITLOG_COPIES_H
#define THMQI_COMMITLOG_COPIES_H

#include <stdbool.h>

#include <thundermq/log.h>

#include "disk/disk.h"

/*
 * So many batches of a leader's may be uncommitted at a time: from then on the one that is being formed grows instead. What
 * consensus does for each event grows with their number.
 */
#define THMQI_UNCOMMITTED_MAX 64u

/* A batch's type, for who has but its header; as in doc/format.md. */
enum thmqi_log_batch_type {
	THMQI_BATCH_DATA = 1,
	THMQI_BATCH_NOOP = 2,
	THMQI_BATCH_CHANGE = 3,
	THMQI_BATCH_PAD = 6
};

struct thmqi_log_copies {
	/*
	 * While this copy leads: a batch was formed and is on its way to the device. Called inside whatever formed it, also
	 * inside thmq_log_append(): nothing else may be done with the log then.
	 */
	void (*formed)(void *ctx, uint64_t index, uint64_t term,
		       uint32_t type); /* enum thmqi_log_batch_type */
	/*
	 * While this copy leads: what counts of the segments before batch @index was appended again, and is committed: they may go, on
	 * all copies. NULL: the log's events live, renew and leave are not asked. 0; -EAGAIN again later; another error: not now.
	 */
	int (*trim)(void *ctx, uint64_t index);
	void *ctx;
	/* At creation: what the first batch says, the membership. NULL: a log without batches, which one that leads will fill. */
	const void *first;
	uint32_t first_len;
};

/* As thmq_log_open(); every batch becomes durable, and the log takes no appends before thmqi_log_lead(). */
int thmqi_log_open_copy(struct thmq_core *core, const struct thmq_log_opts *opts,
			const struct thmqi_log_copies *copies, uint32_t defects,
			struct thmq_log **ret_log);

/* --------------------------------------------------------------- term, vote */

void thmqi_log_vote(const struct thmq_log *log, uint64_t *ret_term, uint64_t *ret_voted_for);
/*
 * Both are to be durable, and batches that are formed have this term. @done is called from the core's loop, never inside; one at a time.
 * It is not called where the log fails: events->failed says so.
 */
void thmqi_log_vote_set(struct thmq_log *log, uint64_t term, uint64_t voted_for,
			void (*done)(void *ctx), void *ctx);
int thmqi_log_vote_set_now(struct thmq_log *log, uint64_t term, uint64_t voted_for); /* blocking */

/* ------------------------------------------------------------------ leading */

/*
 * From now on appends are taken, or refused with -THMQ_ENOTLEADER. When it ends the batch that is being formed goes, and
 * events->unappended is called if it had anything.
 */
void thmqi_log_lead(struct thmq_log *log, bool leads);
/* While it leads: no batch is to be formed for now. */
void thmqi_log_hold(struct thmq_log *log, bool held);
/* All up to @index is committed: with it more may be formed. */
void thmqi_log_committed(struct thmq_log *log, uint64_t index);
/* A batch of nothing, before it leads; may block where a segment ends. `formed` is not called. Return: 0; why not: then the log has failed. */
int thmqi_log_noop(struct thmq_log *log);
/* A batch that changes the membership, behind all that was appended. Return: 0 and `formed` was called; -EAGAIN; -ENOSPC … */
int thmqi_log_change(struct thmq_log *log, const void *payload, uint32_t len);

/* ---------------------------------------------------------------- following */

/* Bytes of a batch that come with its header, which was checked by nothing yet; 0: more than any batch has. */
uint32_t thmqi_log_batch_bytes(const void *header);
#define THMQI_BATCH_HEADER_BYTES 128u
#define THMQI_BATCH_BYTES_MAX (4u << 20)

/* A batch as it was received. */
struct thmqi_log_received {
	uint64_t index, term;
	uint32_t type;
	const void *state; /* of a CHANGE: what it says */
	uint32_t state_len;
};
/* Is it one of this log, whole, as its checksums say? What follows from its place is not looked at. 0; -THMQ_ECORRUPT. */
int thmqi_log_batch_check(const struct thmq_log *log, const void *data, uint32_t len,
			  struct thmqi_log_received *ret);
void thmqi_log_batch_peek(const void *data,
			  struct thmqi_log_received *ret); /* likewise, and nothing is checked */
/* May batches be taken now? So many, all of one segment; -EAGAIN; -ENOSPC …; -THMQ_EFAILED */
int thmqi_log_may_take(struct thmq_log *log);
/*
 * The batch in @buf, which passed its check and is the caller's no more if this is 0, is the next one. events->replay is called for
 * its runs. @wait: blocks where the next segment is not there yet, so that it is not refused for long.
 * Return: 0; -EAGAIN; -THMQ_ECORRUPT it does not continue this log; or another error.
 */
int thmqi_log_take(struct thmq_log *log, struct thmqi_buf *buf, bool wait);

/* Where a log begins: its first segment's position, and what that one's first batch continues. */
struct thmqi_log_origin {
	uint64_t position, index, term;
	uint32_t crc;
	uint32_t reserved;
};
void thmqi_log_origin(const struct thmq_log *log, struct thmqi_log_origin *ret);
/*
 * All that is here goes, and the log begins where another copy's does. Blocking; events->unappended is called for all of it. A crash on
 * the way is gone on with by the next open. 0; -THMQ_ECORRUPT no segment begins there; or an error: then it has failed.
 */
int thmqi_log_reset(struct thmq_log *log, const struct thmqi_log_origin *origin);
/* The oldest segment, if all of it lies before batch @index, goes in the background. 0; -ENOENT it does not; -EAGAIN */
int thmqi_log_drop_before(struct thmq_log *log, uint64_t index);
/* A batch with a state of the log's own kind, behind all that was appended: item 0 is the membership's. As thmqi_log_change(). */
int thmqi_log_own_state(struct thmq_log *log, uint64_t item, const void *payload, uint32_t len);

/* ------------------------------------------------------------------ looking */

uint64_t thmqi_log_last(const struct thmq_log *log); /* index of the last batch formed or taken */
uint64_t thmqi_log_durable(const struct thmq_log *log); /* all up to it is on the medium */
/* Of a batch that is held, or of the one before the first; else 0. No device is asked. */
uint64_t thmqi_log_term_of(const struct thmq_log *log, uint64_t index);
/* What the log begins behind. */
void thmqi_log_begin(const struct thmq_log *log, uint64_t *ret_index, uint64_t *ret_term);
/* Stretches of one term, oldest first, from @at = 0 on. False: there are no more. */
bool thmqi_log_terms(const struct thmq_log *log, uint32_t at, uint64_t *ret_index,
		     uint64_t *ret_term);

/* Batches in their order, to be given to another copy. All zero but `done` before it is used first. */
struct thmqi_log_fetch {
	struct thmqi_disk_op op;
	struct thmq_log *log;
	struct segment *segment;
	struct thmqi_buf *buf; /* out: with a reference; the bytes are not to be changed */
	uint32_t len;          /* out: of it */
	uint64_t index;
	bool reading;
	void (*done)(struct thmqi_log_fetch *f,
		     int error); /* f->buf has it, or there was an error */
	/* fetch.c's: what was read with it, from the batch that comes next on */
	struct thmqi_buf *ahead;     /* NULL: nothing */
	uint32_t ahead_at, ahead_end;
	uint64_t next;               /* that batch; 0: it is not known where it begins */
	uint64_t segment_at, place;  /* its segment's position, and where in it it begins */
	uint32_t need, usual;        /* how long it is, 0 if that is not known; and the one before it */
	uint64_t incarnation;        /* of the log, when this was known */
};
/*
 * Where it is not in memory the device is asked for more than one batch, and those behind it are there at once if they are asked for next.
 * Return: 1 it is in f->buf; 0 it is being read, @done is called; -EAGAIN not now; -ENOENT not held; or an error.
 */
int thmqi_log_fetch(struct thmq_log *log, struct thmqi_log_fetch *f, uint64_t index);
void thmqi_log_fetch_drop(struct thmqi_log_fetch *f); /* what was read ahead goes; not while it reads */
/*
 * While this copy leads: one that is close behind is to be sent @index next, so that it and what follows stays in memory though the cache is
 * full, up to KEEP_CACHES of it. 0, or one that is not in memory any more: nobody is.
 */
void thmqi_log_keep(struct thmq_log *log, uint64_t index);
bool thmqi_log_is_cached(const struct thmq_log *log, uint64_t index);
/* A batch's header, THMQI_BATCH_HEADER_BYTES; blocking where it is not in memory. 0; -ENOENT … */
int thmqi_log_header(struct thmq_log *log, uint64_t index, void *ret_header);
/* Its first @len bytes, from the device, blocking; @cached: from memory if they are there. */
int thmqi_log_bytes(struct thmq_log *log, uint64_t index, void *ret, uint32_t len, bool cached);

#endif
