/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment.c - files of batches. The next one is made ready while the active one fills: created under another name, real
 * zeros written (a durable write over them changes no file-system metadata), flushed, renamed, directory flushed.
 */
#include <stdio.h>

#include "internal.h"

#define RETRY_NS 200000000ull

void thmqi_segment_name(uint64_t position, char name[40])
{
	snprintf(name, 40, "%020llu.log", (unsigned long long)position);
}

/* Sizes double from min to max; a segment's position says which one it is. */
uint64_t thmqi_segment_bytes(const struct vote *v, uint64_t position)
{
	uint64_t bytes = v->segment_bytes_min, at = 0;

	while (at < position && bytes < v->segment_bytes_max) {
		at += bytes;
		bytes *= 2;
	}
	return THMQI_MIN(bytes, v->segment_bytes_max);
}

int thmqi_segment_add(struct thmq_log *log, uint64_t position, struct thmqi_disk_file *file,
		      struct segment **ret_segment)
{
	struct segment *s = calloc(1, sizeof(*s)), **grown;
	uint32_t room;

	if (!s)
		return -ENOMEM;
	s->position = position;
	s->bytes = thmqi_segment_bytes(&log->vote, position);
	s->file = file;
	/* touched as it fills */
	s->blocks = calloc(s->bytes / THMQI_BLOCK, sizeof(*s->blocks));
	if (!s->blocks)
		goto fail;
	if (log->segment_count + 2 > log->segment_room) { /* one ahead, so that a switch never allocates */
		room = log->segment_room ? log->segment_room * 2 : 16;
		grown = realloc(log->segments, room * sizeof(*grown));
		if (!grown)
			goto fail;
		log->segments = grown;
		log->segment_room = room;
	}
	*ret_segment = s;
	return 0;
fail:
	free(s->blocks);
	free(s);
	return -ENOMEM;
}

void thmqi_segment_free(struct thmq_log *log, struct segment *s)
{
	if (s->file)
		log->disk->file_close(s->file);
	free(s->blocks);
	free(s);
}

void thmqi_segment_note(struct segment *s, uint64_t index, uint64_t position)
{
	if (!s->batch_count)
		s->first_index = index;
	s->blocks[s->batch_count++] = (uint32_t)((position - s->position) / THMQI_BLOCK);
}

struct segment *thmqi_segment_of_index(struct thmq_log *log, uint64_t index)
{
	uint32_t i;

	for (i = log->segment_count; i-- > 0;) {
		struct segment *s = log->segments[i];

		if (s->batch_count && index >= s->first_index)
			return index - s->first_index < s->batch_count ? s : NULL;
	}
	return NULL;
}

/* Blocking, for a new log. */
int thmqi_segment_create(struct thmq_log *log, uint64_t position, struct segment **ret_segment)
{
	uint64_t bytes = thmqi_segment_bytes(&log->vote, position), at;
	struct thmqi_disk_file *file;
	uint32_t piece = 1u << 20;
	char name[40];
	uint8_t *zeros;
	int rc;

	zeros = aligned_alloc(THMQI_BLOCK, piece);
	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, piece);
	rc = log->disk->file_open(log->dir, "next.tmp", true, &file);
	if (rc) {
		free(zeros);
		return rc;
	}
	rc = log->disk->file_allocate(file, bytes);
	for (at = 0; !rc && at < bytes; at += piece)
		rc = log->disk->file_write(file, zeros, piece, at, false);
	if (!rc)
		rc = log->disk->file_flush(file);
	free(zeros);
	thmqi_segment_name(position, name);
	if (!rc)
		rc = log->disk->rename(log->dir, "next.tmp", name);
	if (!rc)
		rc = log->disk->dir_sync(log->dir);
	if (!rc)
		rc = thmqi_segment_add(log, position, file, ret_segment);
	if (rc) {
		log->disk->file_close(file);
		log->disk->unlink(log->dir, "next.tmp");
	}
	return rc;
}

/* -------------------------------------------------------- the next segment */

static void step(struct thmq_log *log);

static void prepare_failed(struct thmq_log *log, int error)
{
	log->prepare = PREPARE_FAILED;
	log->prepare_error = error;
	if (log->prepare_op.file) {
		log->disk->file_close(log->prepare_op.file);
		log->disk->unlink(log->dir, "next.tmp");
	}
	log->prepare_op.file = NULL;
	thmqi_timer_start(log->core, &log->retry, log->core->now_ns + RETRY_NS);
	if (log->starved && log->opts.events && log->opts.events->room) { /* to learn that there is no space */
		log->starved = false;
		log->opts.events->room(log->opts.ctx);
	}
}

static void on_step(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log *log = thmqi_container(op, struct thmq_log, prepare_op);

	if (result < 0) {
		prepare_failed(log, (int)result);
		return;
	}
	switch (log->prepare) {
	case PREPARE_CREATE:
		log->prepare = PREPARE_ALLOCATE;
		break;
	case PREPARE_ALLOCATE:
		log->prepare = PREPARE_ZERO;
		break;
	case PREPARE_ZERO:
		log->zeroed += ZERO_BYTES;
		if (log->zeroed >= log->next->bytes)
			log->prepare = PREPARE_FLUSH;
		break;
	case PREPARE_FLUSH:
		log->prepare = PREPARE_RENAME;
		break;
	case PREPARE_RENAME:
		log->prepare = PREPARE_SYNC;
		break;
	case PREPARE_SYNC:
		log->next->file = op->file;
		log->prepare = PREPARE_READY;
		if (log->starved && log->opts.events && log->opts.events->room) {
			log->starved = false;
			log->opts.events->room(log->opts.ctx);
		}
		return;
	default:
		return;
	}
	step(log);
}

static void step(struct thmq_log *log)
{
	struct thmqi_disk_op *op = &log->prepare_op;
	struct thmqi_disk_file *file = log->prepare == PREPARE_CREATE ? NULL : op->file;

	*op = (struct thmqi_disk_op){
		.flags = THMQI_DISK_BACKGROUND, .dir = log->dir, .file = file, .done = on_step};
	switch (log->prepare) {
	case PREPARE_CREATE:
		op->opcode = THMQI_DISK_CREATE;
		op->name = "next.tmp";
		break;
	case PREPARE_ALLOCATE:
		op->opcode = THMQI_DISK_ALLOCATE;
		op->offset = log->next->bytes - THMQI_BLOCK;
		op->len = THMQI_BLOCK;
		break;
	case PREPARE_ZERO:
		op->opcode = THMQI_DISK_WRITE;
		op->buf = log->zeros;
		op->data = log->zeros->data;
		op->len = ZERO_BYTES;
		op->offset = log->zeroed;
		break;
	case PREPARE_FLUSH:
		op->opcode = THMQI_DISK_FLUSH;
		break;
	case PREPARE_RENAME:
		op->opcode = THMQI_DISK_RENAME;
		op->name = "next.tmp";
		thmqi_segment_name(log->next->position, log->prepare_final);
		op->name2 = log->prepare_final;
		break;
	default:
		op->opcode = THMQI_DISK_SYNC_DIR;
	}
	if (log->disk->queue_submit(log->queue, op) != 0)
		prepare_failed(log, -EAGAIN);
}

static void on_retry(struct thmqi_timer *t)
{
	struct thmq_log *log = thmqi_container(t, struct thmq_log, retry);

	if (log->prepare == PREPARE_FAILED)
		thmqi_segment_prepare(log);
}

void thmqi_segment_prepare(struct thmq_log *log)
{
	if (log->failed || (log->prepare != PREPARE_IDLE && log->prepare != PREPARE_FAILED))
		return;
	log->retry.fire = on_retry;
	if (!log->next &&
	    thmqi_segment_add(log, log->active->position + log->active->bytes, NULL, &log->next) != 0) {
		prepare_failed(log, -ENOMEM);
		return;
	}
	log->prepare = PREPARE_CREATE;
	log->prepare_op.file = NULL;
	log->zeroed = 0;
	step(log);
}

/* The rest of the active segment becomes a pad; batches go on in the next. */
static int pad(struct thmq_log *log)
{
	struct segment *s = log->active;
	uint64_t left = s->position + s->bytes - log->chain.position;
	struct flight *flight;
	struct batch_header *h;
	struct thmqi_buf *buf;

	if (!left)
		return 0;
	if (log->flight_tail - log->flight_head >= log->depth ||
	    thmqi_buf_alloc(log->core->pool, THMQI_BLOCK, &buf) != 0)
		return -EAGAIN;
	memset(buf->data, 0, THMQI_BLOCK);
	h = (struct batch_header *)buf->data;
	thmqi_batch_seal(h, &log->chain, log->term, BATCH_PAD, 0, 0, (uint32_t)left);
	thmqi_batch_stamp(h, log->incarnation, log->durable_position);
	flight = &log->flights[log->flight_tail++ % DEPTH_MAX];
	*flight = (struct flight){.log = log,
				  .buf = buf,
				  .index = h->index,
				  .position = h->position,
				  .segment = s,
				  .len = (uint32_t)left,
				  .state = BATCH_WAITING,
				  .needs_durable = true};
	thmqi_segment_note(s, h->index, h->position);
	thmqi_buf_ref(buf);
	thmqi_chain_advance(&log->chain, h);
	thmqi_cache_put(log, h->index, buf);
	return 0;
}

int thmqi_segment_switch(struct thmq_log *log)
{
	int rc;

	if (log->prepare != PREPARE_READY) {
		thmqi_segment_prepare(log);
		return log->prepare == PREPARE_FAILED ? log->prepare_error == -EAGAIN ? -EAGAIN : -ENOSPC : -EAGAIN;
	}
	rc = pad(log);
	if (rc)
		return rc;
	log->segments[log->segment_count++] = log->next;
	log->active = log->next;
	log->next = NULL;
	log->prepare = PREPARE_IDLE;
	thmqi_segment_prepare(log);
	if (log->opts.events && log->opts.events->checkpoint)
		log->checkpoint_due = true;
	return 0;
}
