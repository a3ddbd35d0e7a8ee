/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offline.h - for who looks at whole data directories: a log scanned, repaired and copied with what only its owner knows of it.
 */
#ifndef THMQI_COMMITLOG_OFFLINE_H
#define THMQI_COMMITLOG_OFFLINE_H

#include <stdbool.h>
#include <thundermq/log.h>

struct thmqi_scan_opts {
	const uint8_t *log_id; /* 16 bytes that it must have; NULL: any */
	uint64_t
		segment_bytes_max; /* where `vote` is lost and the segments do not tell; 0: as at creation */
	bool keeps_begin; /* its first segments tell what no later one does: a repair may not let it begin elsewhere */
	/* Is the partition in use? Then an index must have all of its runs; of one that was forgotten it may lack some. NULL: unknown. */
	bool (*is_live)(void *ctx, uint32_t partition);
	void *ctx;
};

int thmqi_log_scan(const char *dir, const struct thmqi_scan_opts *opts,
		   const struct thmq_log_visitor *visitor, void *ctx);
/* Whose log is it? By `vote`, else by any header that passes its check. Return: 0; -ENOENT nothing tells; or an error. */
int thmqi_log_identity(const char *dir, uint8_t ret_id[16]);
int thmqi_log_repair(const char *dir, const struct thmqi_scan_opts *scan_opts,
		     const struct thmq_log_repair_opts *opts,
		     const struct thmq_log_visitor *visitor, void *ctx);

/* --------------------------------------------------------------------- copy */

struct thmqi_disk_table;

/* What is copied, as it was when the copy was begun. */
struct thmqi_log_snapshot {
	const struct thmqi_disk_table *disk;
	void *disk_ctx;
	char dir[4096];
	uint8_t vote[128]; /* struct vote of the copy */
	uint64_t end;      /* all below it is copied */
	struct thmqi_log_snapshot *next; /* of those of the log; its core's */
	bool cut; /* something of it was truncated: atomic */
	uint32_t state; /* whose it is at the end: atomic, thmqi_log_snapshot_abandon() */
	/* asked between pieces: non-zero ends the copy with it; NULL: never */
	int (*pause)(void *ctx);
	void *ctx;
};

/* On the log's core. A snapshot is held until it is let go; a log that is closed meanwhile has none any more. */
int thmqi_log_snapshot_take(struct thmq_log *log, struct thmqi_log_snapshot *ret);
/* Return: 0; -ECANCELED something of it was truncated meanwhile: what was copied is worth nothing, and why it failed too. */
int thmqi_log_snapshot_let_go(struct thmq_log *log, struct thmqi_log_snapshot *snap);
/*
 * Any thread, instead of letting it go: the log's core does not run any more, or not now. @snap, from malloc(), is the log's from then
 * on, and freed when that gets to it.
 */
void thmqi_log_snapshot_abandon(struct thmqi_log_snapshot *snap);
/* Of a closed log: scanned first, so that nothing damaged is copied. */
int thmqi_log_snapshot_closed(const char *dir, const struct thmqi_scan_opts *opts,
			      struct thmqi_log_snapshot *ret);
/* Any thread. All but `vote`; then that, which makes it a log. */
int thmqi_log_copy_data(const struct thmqi_log_snapshot *snap, const char *dest);
int thmqi_log_copy_vote(const struct thmqi_log_snapshot *snap, const char *dest);
/* Where a copy of @from may go: it must not be there, or be empty, and lie outside of @from; it is made. */
int thmqi_copy_dest(const struct thmqi_disk_table *disk, void *disk_ctx, const char *from, const char *dest);

#endif
