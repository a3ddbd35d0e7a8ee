/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - a log copied, open or closed: its durable part, batch by batch, each checked on its way, then a `vote` of its own,
 * which makes it a log. The calling thread does the work; of an open log the core only says how far it goes, and keeps its
 * segments meanwhile. What is durable is never written again, so that it can be read beside the writers.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scan.h"

#define PIECE_BYTES (8u << 20) /* read at a time; a batch has 4 MiB at most */
#define ZEROS_BYTES (1u << 20)

struct copy {
	const struct thmqi_log_snapshot *snap;
	const struct thmqi_disk_table *disk;
	struct thmqi_disk_dir *from, *to;
	const char *dest;
	struct vote vote;
	struct chain chain; /* behind the last batch that was copied */
	uint8_t *piece, *zeros;
};

static int paused(const struct copy *c)
{
	if (__atomic_load_n(&c->snap->cut, __ATOMIC_RELAXED))
		return -ECANCELED;
	return c->snap->pause ? c->snap->pause(c->snap->ctx) : 0;
}

/* ---------------------------------------------------------------- segments */

/* Batches at @data that are whole and there to their end, up to the copy's. Return: their bytes; or an error. */
static int64_t take_batches(struct copy *c, const uint8_t *data, uint64_t have, uint64_t left)
{
	const struct batch_header *h;
	uint64_t at = 0;
	uint32_t len;

	while (at < left && c->chain.position < c->snap->end) {
		h = (const struct batch_header *)(data + at);
		if (at + THMQI_BLOCK > have)
			break;
		if (!thmqi_batch_header_ok(h, c->chain.position, c->vote.log_id) ||
		    !thmqi_batch_continues(h, &c->chain) || h->len > left - at)
			return -THMQ_ECORRUPT;
		len = h->type == BATCH_PAD ? THMQI_BLOCK : h->len;
		if (len > BATCH_BYTES_MAX)
			return -THMQ_ECORRUPT;
		if (at + len > have)
			break;
		if (!thmqi_batch_payload_ok(h, len))
			return -THMQ_ECORRUPT;
		thmqi_chain_advance(&c->chain, h);
		at += len;
		if (h->type ==
		    BATCH_PAD) /* the rest of the segment, of which only this was written */
			break;
	}
	return (int64_t)at;
}

static int fill_up(struct copy *c, struct thmqi_disk_file *file, uint64_t at, uint64_t bytes)
{
	int rc = 0;

	while (at < bytes && !rc) {
		uint32_t len = (uint32_t)THMQI_MIN((uint64_t)ZEROS_BYTES, bytes - at);

		rc = c->disk->file_write(file, c->zeros, len, at, false);
		at += len;
		rc = rc ? rc : paused(c);
	}
	return rc;
}

static int copy_batches(struct copy *c, struct thmqi_disk_file *from, struct thmqi_disk_file *to,
			uint64_t position, uint64_t bytes)
{
	uint64_t at = 0;
	int64_t n = 0;
	int rc = 0;

	while (c->chain.position < c->snap->end && c->chain.position < position + bytes && !rc) {
		at = c->chain.position - position;
		n = c->disk->file_read(from, c->piece,
				       (uint32_t)THMQI_MIN((uint64_t)PIECE_BYTES, bytes - at), at);
		if (n >= 0)
			n = take_batches(c, c->piece, (uint64_t)n, bytes - at);
		if (n <= 0)
			return n ? (int)n : -THMQ_ECORRUPT;
		rc = c->disk->file_write(to, c->piece, (uint32_t)n, at, false);
		at += (uint64_t)n;
		rc = rc ? rc : paused(c);
	}
	return rc ? rc : fill_up(c, to, at, bytes);
}

static int copy_segment(struct copy *c, uint64_t position, uint64_t bytes)
{
	struct thmqi_disk_file *from, *to;
	char name[40];
	int rc;

	thmqi_segment_name(position, name);
	rc = c->disk->file_open(c->from, name, false, &from);
	if (rc)
		return rc == -ENOENT ? -THMQ_ECORRUPT : rc;
	rc = c->disk->file_open(c->to, name, true, &to);
	if (!rc) {
		rc = c->disk->file_allocate(to, bytes);
		rc = rc ? rc : copy_batches(c, from, to, position, bytes);
		rc = rc ? rc : c->disk->file_flush(to);
		c->disk->file_close(to);
	}
	c->disk->file_close(from);
	return rc;
}

/* An aid: one that is not there, or goes meanwhile, is not needed. */
static int copy_index(struct copy *c, uint64_t position)
{
	struct thmqi_disk_file *from, *to;
	char name[40];
	int64_t n = 1;
	uint64_t at;
	int rc;

	thmqi_seal_name(position, name);
	rc = c->disk->file_open(c->from, name, false, &from);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	rc = c->disk->file_open(c->to, name, true, &to);
	for (at = 0; !rc && n > 0; at += (uint64_t)n) {
		n = c->disk->file_read(from, c->piece, PIECE_BYTES, at);
		n -= n > 0 ? n % THMQI_BLOCK : 0; /* it has whole blocks */
		if (n > 0)
			rc = c->disk->file_write(to, c->piece, (uint32_t)n, at, false);
		else
			rc = (int)n;
		rc = rc ? rc : paused(c);
	}
	c->disk->file_close(from);
	if (rc && at == 0)
		return rc;
	rc = rc ? rc : c->disk->file_flush(to);
	c->disk->file_close(to);
	return rc;
}

static int copy_all(struct copy *c)
{
	uint64_t position = c->vote.begin_position, bytes;
	int rc = 0;

	do {
		bytes = thmqi_segment_bytes(&c->vote, position);
		rc = copy_segment(c, position, bytes);
		if (!rc && position + bytes <= c->snap->end)
			rc = copy_index(c, position);
		position += bytes;
	} while (!rc && position < c->snap->end);
	if (!rc && c->chain.position != c->snap->end)
		rc = -THMQ_ECORRUPT;
	return rc ? rc : c->disk->dir_sync(c->to);
}

/* ------------------------------------------------------------------ the copy */

static void copy_end(struct copy *c)
{
	if (c->from)
		c->disk->dir_close(c->from);
	if (c->to)
		c->disk->dir_close(c->to);
	free(c->piece);
	free(c->zeros);
}

static int copy_begin(struct copy *c, const struct thmqi_log_snapshot *snap, const char *dest)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->snap = snap;
	c->disk = snap->disk;
	c->dest = dest;
	memcpy(&c->vote, snap->vote, sizeof(c->vote));
	c->chain = (struct chain){.position = c->vote.begin_position,
				  .index = c->vote.begin_index,
				  .term = c->vote.begin_term,
				  .crc = c->vote.begin_crc};
	rc = c->disk->dir_open(snap->disk_ctx, snap->dir, false, &c->from);
	if (rc) {
		c->from = NULL;
		return rc;
	}
	rc = c->disk->dir_open(snap->disk_ctx, dest, true, &c->to);
	if (rc) {
		c->to = NULL;
		return rc;
	}
	c->piece = aligned_alloc(THMQI_BLOCK, PIECE_BYTES);
	c->zeros = aligned_alloc(THMQI_BLOCK, ZEROS_BYTES);
	if (!c->piece || !c->zeros)
		return -ENOMEM;
	memset(c->zeros, 0, ZEROS_BYTES);
	return 0;
}

static int say(const struct copy *c, int rc)
{
	if (rc == -THMQ_ECORRUPT)
		return thmqi_fail(rc, "copy %s: the batch at position %llu is damaged or missing",
				  c->snap->dir, (unsigned long long)c->chain.position);
	return rc ? thmqi_fail(rc, "copy %s to %s: %s", c->snap->dir, c->dest, thmq_strerror(rc))
		  : 0;
}

int thmqi_log_copy_data(const struct thmqi_log_snapshot *snap, const char *dest)
{
	struct copy c;
	int rc = copy_begin(&c, snap, dest);

	rc = say(&c, rc ? rc : copy_all(&c));
	copy_end(&c);
	return rc;
}

int thmqi_log_copy_vote(const struct thmqi_log_snapshot *snap, const char *dest)
{
	struct copy c;
	int rc = copy_begin(&c, snap, dest);

	rc = say(&c, rc ? rc : thmqi_vote_make(c.disk, c.to, &c.vote));
	copy_end(&c);
	return rc;
}

static int note_any(void *arg, const char *name)
{
	(void)name;
	*(bool *)arg = true;
	return 0;
}

/* The directory, or the nearest one above it that is there. */
static int open_nearest(const char *path)
{
	char part[4400];
	char *slash;
	int fd;

	snprintf(part, sizeof(part), "%s", path);
	for (;;) {
		fd = open(part, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 || (errno != ENOENT && errno != ENOTDIR))
			return fd >= 0 ? fd : -errno;
		for (slash = strrchr(part, '/'); slash > part && !slash[1]; slash = strrchr(part, '/'))
			*slash = 0; /* at its end */
		if (!slash)
			return open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		slash[slash == part] = 0;
	}
}

/* Is @dest, or what it will be made in, @from or below it? By what they are, whatever they are called. */
static int is_within(const char *from, const char *dest)
{
	struct stat source, at, above;
	int fd = open_nearest(dest), up, rc = fd < 0 ? fd : 0;

	if (stat(from, &source) != 0)
		rc = -errno;
	while (!rc && fstat(fd, &at) == 0) {
		if (at.st_dev == source.st_dev && at.st_ino == source.st_ino) {
			rc = 1;
			break;
		}
		up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (up < 0 || fstat(up, &above) != 0)
			rc = -errno;
		else if (above.st_dev == at.st_dev && above.st_ino == at.st_ino) /* the root */
			at.st_ino = 0;
		close(fd);
		fd = up;
		if (!at.st_ino)
			break;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int is_outside(const struct thmqi_disk_table *disk, const char *from, const char *dest)
{
	size_t len = strlen(from);
	int rc = disk == &thmqi_disk_posix ? is_within(from, dest) /* a simulated one has no links */
					   : strncmp(from, dest, len) == 0 && (!dest[len] || dest[len] == '/');

	if (rc > 0)
		return thmqi_fail(-EINVAL, "copy %s to %s: that lies in what is to be copied; name a directory elsewhere", from, dest);
	return rc ? thmqi_fail(rc, "copy to %s: %s", dest, thmq_strerror(rc)) : 0;
}

int thmqi_copy_dest(const struct thmqi_disk_table *disk, void *disk_ctx, const char *from, const char *dest)
{
	struct thmqi_disk_dir *dir;
	bool any = false;
	int rc = is_outside(disk, from, dest);

	if (rc)
		return rc;
	rc = disk->dir_open(disk_ctx, dest, true, &dir);

	if (!rc) {
		rc = disk->dir_list(dir, note_any, &any);
		disk->dir_close(dir);
	}
	if (!rc && any)
		rc = -ENOTEMPTY;
	if (rc == -ENOTEMPTY)
		return thmqi_fail(rc, "copy to %s: it holds other things; name a directory that is empty or not there", dest);
	if (rc)
		return thmqi_fail(rc, "copy to %s: %s", dest, thmq_strerror(rc));
	rc = is_outside(disk, from, dest); /* now that all of its path is there */
	if (rc && disk == &thmqi_disk_posix)
		rmdir(dest);
	return rc;
}

/* --------------------------------------------------------------- snapshots */

static int take(struct thmqi_log_snapshot *snap, const struct vote *v, const char *dir)
{
	memcpy(snap->vote, v, sizeof(*v));
	snap->end = v->mark;
	if (snprintf(snap->dir, sizeof(snap->dir), "%s", dir) >= (int)sizeof(snap->dir))
		return -ENAMETOOLONG;
	return 0;
}

int thmqi_log_snapshot_take(struct thmq_log *log, struct thmqi_log_snapshot *ret)
{
	bool simulated = log->disk && log->core->disk_engine == 4; /* it has files of its own */
	struct vote v = log->vote;
	int rc;

	if (!log->disk)
		return -EOPNOTSUPP;
	memset(ret, 0, sizeof(*ret));
	ret->disk = simulated ? log->disk : &thmqi_disk_posix;
	ret->disk_ctx = simulated ? log->disk_ctx : NULL;
	v.term = log->term;
	v.incarnation = log->incarnation;
	v.mark = log->durable_position;
	v.clean = 1;
	v.begin_position = log->begin.position;
	v.begin_index = log->begin.index;
	v.begin_term = log->begin.term;
	v.begin_crc = log->begin.crc;
	rc = take(ret, &v, log->opts.dir);
	if (rc)
		return rc;
	log->holds++;
	ret->next = log->snapshots;
	log->snapshots = ret;
	return 0;
}

int thmqi_log_snapshot_let_go(struct thmq_log *log, struct thmqi_log_snapshot *snap)
{
	struct thmqi_log_snapshot **at = &log->snapshots;

	while (*at && *at != snap)
		at = &(*at)->next;
	if (!*at) /* the log was closed since, as a copy's is that others have contradicted: this is another one */
		return -ECANCELED;
	*at = snap->next;
	log->holds--;
	return snap->cut ? -ECANCELED : 0;
}

/* Whoever comes second frees it. */
enum snapshot_state { SNAPSHOT_HELD, SNAPSHOT_ABANDONED, SNAPSHOT_LOG_CLOSED };

void thmqi_log_snapshot_abandon(struct thmqi_log_snapshot *snap)
{
	if (__atomic_exchange_n(&snap->state, SNAPSHOT_ABANDONED, __ATOMIC_ACQ_REL) ==
	    SNAPSHOT_LOG_CLOSED)
		free(snap);
}

void thmqi_snapshots_reap(struct thmq_log *log)
{
	struct thmqi_log_snapshot **at = &log->snapshots, *snap;

	while ((snap = *at)) {
		if (__atomic_load_n(&snap->state, __ATOMIC_ACQUIRE) != SNAPSHOT_ABANDONED) {
			at = &snap->next;
			continue;
		}
		*at = snap->next;
		free(snap);
		log->holds--;
	}
}

void thmqi_snapshots_fini(struct thmq_log *log)
{
	struct thmqi_log_snapshot *snap, *next;

	for (snap = log->snapshots; snap; snap = next) {
		next = snap->next;
		if (__atomic_exchange_n(&snap->state, SNAPSHOT_LOG_CLOSED, __ATOMIC_ACQ_REL) ==
		    SNAPSHOT_ABANDONED)
			free(snap);
	}
	log->snapshots = NULL;
}

void thmqi_snapshots_cut(struct thmq_log *log, uint64_t position)
{
	struct thmqi_log_snapshot *snap;

	for (snap = log->snapshots; snap; snap = snap->next)
		if (snap->end > position)
			__atomic_store_n(&snap->cut, true, __ATOMIC_RELAXED);
}

int thmqi_log_snapshot_closed(const char *dir, const struct thmqi_scan_opts *opts,
			      struct thmqi_log_snapshot *ret)
{
	struct scan s;
	struct vote v;
	int rc = thmqi_scan_begin(&s, dir, opts, NULL, NULL);

	memset(ret, 0, sizeof(*ret));
	ret->disk = &thmqi_disk_posix;
	rc = rc ? rc : thmqi_scan_run(&s, false);
	if (!rc && s.damaged)
		rc = -THMQ_ECORRUPT;
	v = s.vote;
	v.mark = s.chain.position;
	v.incarnation = THMQI_MAX(v.incarnation, s.claims.incarnation);
	v.clean = v.clean &&
		  !s.vote_damaged; /* offsets behind a crash are still to be stepped over */
	thmqi_scan_end(&s);
	if (!rc)
		rc = take(ret, &v, dir);
	return rc ? thmqi_fail(rc, "copy %s: %s", dir,
			       rc == -THMQ_ECORRUPT ? "it is damaged; see verify"
						    : thmq_strerror(rc))
		  : 0;
}

/* -------------------------------------------------------------------- online */

struct call {
	struct thmq_log *log;
	struct thmqi_log_snapshot *snap;
	bool ran;
};

static int on_take(struct thmq_core *core, void *arg)
{
	struct call *call = arg;

	(void)core;
	return thmqi_log_snapshot_take(call->log, call->snap);
}

static int on_let_go(struct thmq_core *core, void *arg)
{
	struct call *call = arg;

	(void)core;
	call->ran = true;
	return thmqi_log_snapshot_let_go(call->log, call->snap);
}

int thmq_log_copy(struct thmq_log *log, const char *dest)
{
	struct call call = {.log = log};
	struct thmqi_log_snapshot *snap;
	int rc, end;

	if (!log || !dest || !*dest)
		return thmqi_fail(-EINVAL, "copy: no log or no place for its copy was named");
	snap = call.snap = malloc(sizeof(*snap));
	rc = snap ? thmqi_core_call(log->core, on_take, &call, UINT64_MAX) : -ENOMEM;
	if (rc) {
		free(snap);
		return thmqi_fail(rc, "copy a log: %s", thmq_strerror(rc));
	}
	rc = thmqi_copy_dest(snap->disk, snap->disk_ctx, snap->dir, dest);
	rc = rc ? rc : thmqi_log_copy_data(snap, dest);
	end = thmqi_core_call(log->core, on_let_go, &call, UINT64_MAX);
	if (end) /* what was read meanwhile says nothing, either */
		rc = thmqi_fail(end, "copy %s: %s", snap->dir, thmq_strerror(end));
	rc = rc ? rc : thmqi_log_copy_vote(snap, dest);
	if (call.ran)
		free(snap);
	else
		thmqi_log_snapshot_abandon(snap);
	return rc;
}
