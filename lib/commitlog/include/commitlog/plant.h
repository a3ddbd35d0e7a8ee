/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plant.h - a log with a planted defect, for tests that must be able to fail. Not for use.
 */
#ifndef THMQI_COMMITLOG_PLANT_H
#define THMQI_COMMITLOG_PLANT_H

#include <thundermq/log.h>

enum thmqi_log_defect {
	THMQI_LOG_SETTLE_UNORDERED = 1, /* what was written settles though something below it was not */
	THMQI_LOG_TRUST_DSYNC = 2,      /* a DSYNC write counts though plain writes lie unflushed below it */
	THMQI_LOG_NO_FLUSH = 4,         /* flushes are said to have happened */
	THMQI_LOG_NO_CHAIN = 8,         /* recovery takes any whole batch at its position */
	THMQI_LOG_CUT_DAMAGE = 16,      /* recovery takes damage for a torn tail */
	THMQI_LOG_NO_OPEN_FLUSH = 32,   /* what recovery keeps is not flushed */
	THMQI_LOG_TRUST_PAYLOAD = 64,   /* recovery does not check runs */
	THMQI_LOG_TRUST_HEADER = 128,   /* nor a batch's header */
	THMQI_LOG_TRUST_STALE = 256,    /* recovery takes any whole batch, also one of another position */
	THMQI_LOG_TRUST_INDEX = 512,    /* a segment's index is not checked */
	THMQI_LOG_LOST_INDEX = 1024,    /* it is not flushed before it gets its name */
	THMQI_LOG_EARLY_INDEX = 2048,   /* it is written before its segment is durable */
	THMQI_LOG_REWRITE = 4096,       /* the last block is written again with the next batch */
	THMQI_LOG_PLAIN_VOTE = 8192,    /* vote is not flushed before what depends on it */
	THMQI_LOG_EARLY_DROP = 16384,   /* a segment goes before what was appended again of it is durable */
	THMQI_LOG_NO_KEYS = 32768,      /* no defect: segments have more keys than are kept */
	THMQI_LOG_EARLY_OVER = 131072,  /* what is the newest of its key and not needed goes, though older ones are left */
	THMQI_LOG_EARLY_PARTS = 65536   /* no defect: a part of the open segment's index is made each 256 KiB */
};

/* thmq_log_open() with @defects of enum thmqi_log_defect. */
int thmqi_log_open_planted(struct thmq_core *core, const struct thmq_log_opts *opts, uint32_t defects,
			   struct thmq_log **ret_log);

/* The oldest segment goes, in the background. 0; -ENOENT there is but the active one; -EAGAIN not now; -THMQ_EFAILED */
int thmqi_log_drop_oldest(struct thmq_log *log);

#endif
