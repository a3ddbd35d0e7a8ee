/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - which files of full segments are open. Those of the newest segments, which are written or flushed, always are; of
 * the others as many as were used last, so that a log of any size needs few descriptors. Opened and closed in the background; only
 * calls that block anyhow do it at once. Knows not what is read.
 */
#include "internal.h"

#define OPEN_MAX 64u /* of full segments, both kinds together */

static struct thmqi_disk_file **slot_of(struct segment *s, enum segment_file kind)
{
	return kind == SEGMENT_LOG ? &s->file : &s->index;
}

static void name_of(const struct segment *s, enum segment_file kind, char name[40])
{
	if (kind == SEGMENT_LOG)
		thmqi_segment_name(s->position, name);
	else
		thmqi_seal_name(s->position, name);
}

static enum segment_file kind_of(const struct cold_file *f)
{
	return f == &f->segment->cold[SEGMENT_LOG] ? SEGMENT_LOG : SEGMENT_INDEX;
}

void thmqi_files_init(struct thmq_log *log)
{
	thmqi_list_init(&log->cold_open);
}

void thmqi_file_init(struct thmq_log *log, struct segment *s)
{
	uint32_t kind;

	for (kind = 0; kind < SEGMENT_FILES; kind++) {
		s->cold[kind].log = log;
		s->cold[kind].segment = s;
		thmqi_list_init(&s->cold[kind].link);
	}
}

/* -------------------------------------------------------------------- order */

static bool is_listed(const struct cold_file *f)
{
	return !thmqi_list_empty(&f->link);
}

/* The one that was used last. */
static void list(struct cold_file *f)
{
	if (is_listed(f))
		thmqi_list_del(&f->link);
	else
		f->log->cold_count++;
	thmqi_list_add_tail(&f->log->cold_open, &f->link);
}

static void unlist(struct cold_file *f)
{
	if (!is_listed(f))
		return;
	thmqi_list_del(&f->link);
	f->log->cold_count--;
}

void thmqi_file_forget(struct segment *s)
{
	uint32_t kind;

	for (kind = 0; kind < SEGMENT_FILES; kind++)
		unlist(&s->cold[kind]);
}

void thmqi_file_close(struct thmq_log *log, struct segment *s, enum segment_file kind)
{
	struct thmqi_disk_file **file = slot_of(s, kind);

	unlist(&s->cold[kind]);
	if (*file)
		log->disk->file_close(*file);
	*file = NULL;
}

/* -------------------------------------------------------------------- close */

static void on_done(struct thmqi_disk_op *op, int64_t result);

static int submit(struct cold_file *f, enum thmqi_disk_opcode opcode, struct thmqi_disk_file *file)
{
	struct thmq_log *log = f->log;
	int rc;

	f->op = (struct thmqi_disk_op){.opcode = (uint8_t)opcode,
				       .dir = log->dir,
				       .file = file,
				       .name = f->name,
				       .done = on_done};
	rc = log->disk->queue_submit(log->queue, &f->op);
	if (rc)
		return rc;
	f->busy = true;
	f->segment->reads++;
	log->reads++;
	return 0;
}

/* Return: false it cannot be closed now. */
static bool close_one(struct cold_file *f, bool at_once)
{
	struct thmqi_disk_file **file = slot_of(f->segment, kind_of(f));
	struct thmq_log *log = f->log;

	if (f->segment->reads)
		return false;
	if (at_once || !log->queue) {
		thmqi_file_close(log, f->segment, kind_of(f));
		return true;
	}
	if (log->draining || log->reads >= READS_MAX || submit(f, THMQI_DISK_CLOSE, *file) != 0)
		return false;
	*file = NULL;
	unlist(f);
	return true;
}

/* Until @most are left, those first that were not used for longest. Return: was any closed? */
static bool close_down_to(struct thmq_log *log, uint32_t most, bool at_once)
{
	struct thmqi_list *it, *next;
	bool any = false;

	thmqi_list_each_safe(it, next, &log->cold_open)
	{
		if (log->cold_count <= most)
			break;
		any |= close_one(thmqi_container(it, struct cold_file, link), at_once);
	}
	return any;
}

void thmqi_file_note(struct thmq_log *log, struct segment *s, enum segment_file kind)
{
	close_down_to(log, OPEN_MAX, true); /* before it is one of those that may go */
	list(&s->cold[kind]);
}

void thmqi_files_trim(struct thmq_log *log)
{
	close_down_to(log, OPEN_MAX, false);
}

bool thmqi_files_spare(struct thmq_log *log, int error)
{
	return (error == -EMFILE || error == -ENFILE) &&
	       close_down_to(log, log->cold_count / 2, true);
}

void thmqi_files_cool(struct thmq_log *log)
{
	struct segment *s;
	uint32_t kind;

	for (log->cold_next = THMQI_MAX(log->cold_next, log->segment_base);
	     log->cold_next < log->active->ordinal; log->cold_next++) {
		s = thmqi_segment_at(log, log->cold_next);
		if (s->unflushed || s == log->sealing.segment ||
		    s->position + s->bytes > log->durable_position)
			break;
		for (kind = 0; kind < SEGMENT_FILES; kind++)
			if (*slot_of(s, kind))
				list(&s->cold[kind]);
	}
	thmqi_files_trim(log);
}

/* --------------------------------------------------------------------- open */

static void on_done(struct thmqi_disk_op *op, int64_t result)
{
	struct cold_file *f = thmqi_container(op, struct cold_file, op);
	struct thmqi_disk_file **file = slot_of(f->segment, kind_of(f));
	struct thmq_log *log = f->log;

	f->busy = false;
	f->segment->reads--;
	log->reads--;
	log->tell_readers = true;
	if (op->opcode == THMQI_DISK_CLOSE)
		return;
	if (result < 0) {
		/* to readers -ENOENT means that there is nothing to be found */
		f->error = thmqi_files_spare(log, (int)result) ? 0
			   : result == -ENOENT                 ? -EIO
							       : (int)result;
	} else if (*file) { /* somebody could not wait */
		log->disk->file_close(op->file);
	} else {
		*file = op->file;
		list(f);
	}
}

static int find(struct segment *s, enum segment_file kind, struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_file *file = *slot_of(s, kind);

	if (!file)
		return -ENOENT;
	if (is_listed(&s->cold[kind]))
		list(&s->cold[kind]);
	*ret_file = file;
	return 0;
}

int thmqi_file_use(struct thmq_log *log, struct segment *s, enum segment_file kind,
		   struct thmqi_disk_file **ret_file)
{
	struct cold_file *f = &s->cold[kind];
	int rc = find(s, kind, ret_file);

	if (thmqi_likely(rc == 0))
		return 0;
	if (f->error) {
		rc = f->error;
		f->error = 0; /* the next one tries again */
		return rc;
	}
	if (!f->busy && !log->draining && log->reads < READS_MAX) {
		name_of(s, kind, f->name);
		submit(f, THMQI_DISK_OPEN, NULL);
	}
	return -EAGAIN;
}

int thmqi_file_need(struct thmq_log *log, struct segment *s, enum segment_file kind,
		    struct thmqi_disk_file **ret_file)
{
	struct thmqi_disk_file **file = slot_of(s, kind);
	char name[40];
	int rc = find(s, kind, ret_file);

	if (rc == 0)
		return 0;
	name_of(s, kind, name);
	do {
		rc = log->disk->file_open(log->dir, name, false, file);
	} while (rc && thmqi_files_spare(log, rc));
	if (rc) {
		*file = NULL;
		return rc;
	}
	*ret_file = *file;
	thmqi_file_note(log, s, kind);
	return 0;
}

int thmqi_files_keep(struct thmq_log *log, struct segment *s)
{
	struct thmqi_disk_file *file;
	int rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);

	if (rc)
		return rc;
	thmqi_file_forget(s);
	log->cold_next = THMQI_MIN(log->cold_next, s->ordinal);
	return 0;
}
