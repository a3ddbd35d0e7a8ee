/* SPDX-License-Identifier: Apache-2.0 */
/*
 * making.c - a file is made in the background: created under another name, written full of real bytes (a durable write over
 * them later changes no file-system metadata), flushed, renamed, its directory flushed. A file that is whole already gets its
 * new name by way of the temporary one. Knows not what it is for.
 */
#include "internal.h"

enum making_step { MAKING_CREATE, MAKING_ALLOCATE, MAKING_WRITE, MAKING_FLUSH, MAKING_RENAME, MAKING_SYNC,
		   MAKING_TAKE, MAKING_TAKE_SYNC }; /* these two instead of all before MAKING_RENAME */

static void step(struct making *m);

static void end(struct making *m, int error)
{
	const struct thmq_log *log = m->log;

	m->active = false;
	if (error && m->op.file) {
		log->disk->file_close(m->op.file);
		m->op.file = NULL;
		log->disk->unlink(log->dir, m->temporary);
	}
	m->done(m, error);
}

static void next_step(struct making *m)
{
	m->step = m->step == MAKING_TAKE_SYNC ? MAKING_RENAME : m->step + 1;
	step(m);
}

static void on_piece(struct thmqi_disk_op *op, int64_t result)
{
	struct making_piece *p = thmqi_container(op, struct making_piece, op);
	struct making *m = p->making;

	m->writing &= ~(1u << (p - m->pieces));
	if (result < 0 && !m->error)
		m->error = (int)result;
	if (m->error) {
		if (!m->writing)
			end(m, m->error);
		return;
	}
	if (m->given < m->bytes)
		step(m);
	else if (!m->writing)
		next_step(m);
}

/* One write at a time, unless somebody waits for the file. */
static void write_pieces(struct making *m)
{
	struct thmq_log *log = m->log;
	uint32_t most = m->hurried ? MAKING_PIECES : 1, i;

	for (i = 0; i < most && m->given < m->bytes; i++) {
		struct making_piece *p = &m->pieces[i];
		uint32_t len = (uint32_t)THMQI_MIN((uint64_t)ZERO_BYTES, m->bytes - m->given);

		if (m->writing & 1u << i)
			continue;
		p->making = m;
		p->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_WRITE,
					       .flags = m->hurried ? 0 : THMQI_DISK_BACKGROUND,
					       .len = len,
					       .file = m->op.file,
					       .buf = m->image ? NULL : log->zeros,
					       .data = m->image ? m->image + m->given : log->zeros->data,
					       .offset = m->given,
					       .done = on_piece};
		if (log->disk->queue_submit(log->queue, &p->op) != 0)
			break;
		m->writing |= 1u << i;
		m->given += len;
	}
	if (!m->writing)
		end(m, -EAGAIN);
}

static void on_step(struct thmqi_disk_op *op, int64_t result)
{
	struct making *m = thmqi_container(op, struct making, op);

	if (result < 0)
		end(m, (int)result);
	else if (m->step == MAKING_SYNC)
		end(m, 0);
	else
		next_step(m);
}

static void step(struct making *m)
{
	struct thmqi_disk_op *op = &m->op;
	struct thmqi_disk_file *file = op->file;
	struct thmq_log *log = m->log;

	if (log->draining || log->failed)
		return; /* thmqi_making_stop() ends it */
	if (m->step == MAKING_WRITE) {
		write_pieces(m);
		return;
	}
	if (m->step == MAKING_FLUSH && m->image && (log->defects & THMQI_LOG_LOST_INDEX))
		m->step = MAKING_RENAME;
	*op = (struct thmqi_disk_op){.flags = THMQI_DISK_BACKGROUND, .dir = log->dir, .file = file, .done = on_step};
	switch (m->step) {
	case MAKING_CREATE:
		op->opcode = THMQI_DISK_CREATE;
		op->name = m->temporary;
		break;
	case MAKING_ALLOCATE:
		op->opcode = THMQI_DISK_ALLOCATE;
		op->offset = m->bytes - THMQI_BLOCK;
		op->len = THMQI_BLOCK;
		break;
	case MAKING_FLUSH:
		op->opcode = THMQI_DISK_FLUSH;
		break;
	case MAKING_RENAME:
		op->opcode = THMQI_DISK_RENAME;
		op->name = m->temporary;
		op->name2 = m->name;
		break;
	case MAKING_TAKE:
		op->opcode = THMQI_DISK_RENAME;
		op->name = m->from;
		op->name2 = m->temporary;
		break;
	default:
		op->opcode = THMQI_DISK_SYNC_DIR;
	}
	if (log->disk->queue_submit(log->queue, op) != 0)
		end(m, -EAGAIN);
}

void thmqi_making_start(struct making *m)
{
	m->step = m->recycled ? MAKING_TAKE : MAKING_CREATE;
	m->op.file = m->recycled;
	m->recycled = NULL;
	m->given = 0;
	m->error = 0;
	m->active = true;
	step(m);
}

/* Nothing of it is in flight. What is half made is of no use to anybody. */
void thmqi_making_stop(struct making *m)
{
	if (m->active && m->step != MAKING_SYNC)
		m->log->disk->unlink(m->log->dir, m->step == MAKING_TAKE ? m->from : m->temporary);
	m->active = false;
	if (m->op.file) {
		m->log->disk->file_close(m->op.file);
		m->op.file = NULL;
	}
}
