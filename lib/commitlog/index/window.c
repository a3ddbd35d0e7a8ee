/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c - batches from the device for one reader: a window of neighbouring ones, checked, and while a reader goes
 * straight on the next window is read ahead. How much is read at a time adapts: little where what is wanted lies far apart, up to
 * a mebibyte where it lies side by side. Knows no indexes.
 */
#include "../internal.h"
#include "../reading.h"
#include "commitlog/hint.h"

#define WINDOW_MIN (16u << 10)
#define WINDOW_MAX (1u << 20)
#define STREAK_AHEAD 2u

void thmqi_reader_tell(struct thmq_log_reader *r)
{
	r->waiting = r->log->draining; /* called behind it, then */
	if (r->ready && !r->log->draining)
		r->ready(r->ctx);
}

bool thmqi_reader_done(struct thmq_log_reader *r, struct segment *s)
{
	s->reads--;
	r->log->reads--;
	r->log->tell_readers = true; /* those that were refused */
	r->reading--;
	if (!r->closed)
		return true;
	if (!r->reading)
		free(r);
	return false;
}

int thmqi_reader_submit(struct thmq_log_reader *r, struct segment *s, struct thmqi_disk_op *op)
{
	struct thmq_log *log = r->log;
	int rc = log->reads >= READS_MAX || log->draining ? -EAGAIN : log->disk->queue_submit(log->queue, op);

	if (!rc) {
		log->reads++;
		s->reads++;
		r->reading++;
	}
	return rc;
}

static void window_drop(struct window *w)
{
	if (w->buf)
		thmqi_buf_unref(w->buf);
	w->buf = NULL;
	w->len = 0;
	w->error = 0;
}

/* What an attempt to read said, @rc, of which memory is what can be missing for long. */
void thmqi_reader_fed(struct thmq_log_reader *r, int rc)
{
	if (!rc)
		r->refused_ns = 0;
	else if (rc == -ENOBUFS && !r->refused_ns)
		r->refused_ns = r->log->core->now_ns;
}

/* One that is being read goes when that ends, or is dropped then. */
void thmqi_windows_drop(struct thmq_log_reader *r)
{
	uint32_t i;

	for (i = 0; i < 2; i++)
		if (!r->windows[i].reading)
			window_drop(&r->windows[i]);
	r->streak = 0;
	r->refused_ns = 0; /* it is after something else now */
}

bool thmqi_log_reader_starves(const struct thmq_log_reader *r)
{
	return r->log && r->waiting && r->refused_ns && r->log->core->now_ns - r->refused_ns >= THMQI_STARVED_NS;
}

bool thmqi_readers_starve(const struct thmq_log *log)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &log->readers)
		if (thmqi_log_reader_starves(thmqi_container(it, struct thmq_log_reader, link)))
			return true;
	return false;
}

/*
 * Somebody was refused memory for long: what all readers have read and nobody looks at now is worth less than that it gets on. Who stands still
 * keeps his windows. Not within a read: what is looked at there has no reference.
 */
void thmqi_windows_spare(struct thmq_log *log)
{
	struct thmqi_list *it;
	uint32_t i;

	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		for (i = 0; i < 2; i++)
			if (!r->windows[i].reading && !r->windows[i].error)
				window_drop(&r->windows[i]);
	}
}

/* -------------------------------------------------------------------- read */

/* How many bytes of the window are whole batches that pass their checks. */
static uint32_t check(const struct thmq_log *log, const uint8_t *data, uint32_t len, uint64_t position)
{
	uint32_t at = 0;

	while (len - at >= THMQI_BLOCK) {
		const struct batch_header *h = (const struct batch_header *)(data + at);

		if (!thmqi_batch_header_ok(h, position + at, log->chain.log_id))
			break;
		if (h->type == BATCH_PAD) { /* the segment's last; of it only this block is there */
			at += THMQI_BLOCK;
			break;
		}
		if (h->len > len - at || !thmqi_batch_payload_ok(h, h->len))
			break;
		at += h->len;
	}
	return at;
}

static void on_read(struct thmqi_disk_op *op, int64_t result);

/* @len bytes at @at of @s. Return: 0; -EAGAIN, -ENOBUFS. */
static int start(struct thmq_log_reader *r, struct window *w, struct segment *s, uint64_t at, uint32_t len)
{
	struct thmqi_disk_file *file;
	struct thmqi_buf *buf;
	int rc = thmqi_file_use(r->log, s, SEGMENT_LOG, &file);

	if (!rc && !thmqi_pace_read(r->log, len, PACE_READER))
		rc = -EAGAIN;
	if (rc)
		return rc;
	rc = thmqi_log_alloc(r->log, len, THMQI_OWNER_READ, &buf);
	if (rc) {
		thmqi_pace_less(r->log, len);
		return rc;
	}
	w->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
				       .len = len,
				       .file = file,
				       .buf = buf,
				       .data = buf->data,
				       .offset = at,
				       .done = on_read};
	rc = thmqi_reader_submit(r, s, &w->op);
	if (rc) {
		thmqi_buf_unref(buf);
		thmqi_pace_less(r->log, len);
		return rc;
	}
	window_drop(w);
	w->buf = buf;
	w->position = s->position + at;
	w->reader = r;
	w->segment = s;
	w->reading = true;
	thmqi_pace_begun(r->log);
	return 0;
}

/* Bytes of @s behind @at that may be read. */
static uint64_t left(const struct thmq_log *log, const struct segment *s, uint64_t at)
{
	uint64_t end = THMQI_MIN(log->written_position, s->position + s->bytes);

	return end > s->position + at ? end - s->position - at : 0;
}

/* It has gone straight on for a while: what comes next is read before it is asked for. */
static void read_ahead(struct thmq_log_reader *r, struct segment *s)
{
	const struct window *w = &r->windows[0];
	struct window *next = &r->windows[1];
	uint64_t at = w->position - s->position + w->len;
	uint32_t bytes = thmqi_pace_bytes(r->log, r->window_bytes);

	if (r->streak < STREAK_AHEAD || next->reading)
		return;
	if (left(r->log, s, at) < bytes || next->position == s->position + at)
		return;
	start(r, next, s, at, bytes); /* what cannot be had now is asked for later */
}

static void on_read(struct thmqi_disk_op *op, int64_t result)
{
	struct window *w = thmqi_container(op, struct window, op);
	struct thmq_log_reader *r = w->reader;

	w->reading = false;
	thmqi_pace_ended(r->log, w->op.len);
	if (r->closed) {
		thmqi_buf_unref(w->buf);
		w->buf = NULL;
		thmqi_reader_done(r, w->segment);
		return;
	}
	thmqi_reader_done(r, w->segment);
	if (result < 0) {
		w->error = (int)result;
	} else {
		w->len = check(r->log, w->buf->data, (uint32_t)result, w->position);
		if (!w->len)
			w->error = -THMQ_ECORRUPT;
	}
	thmqi_reader_tell(r);
}

/* --------------------------------------------------------------------- get */

static bool covers(const struct window *w, uint64_t position)
{
	return w->buf && !w->reading && position >= w->position && position - w->position < w->len;
}

/* What was read ahead is looked at. Their operations stay where they are: neither is in flight. */
static void exchange(struct thmq_log_reader *r)
{
	struct window *a = &r->windows[0], *b = &r->windows[1], was = *a;

	a->buf = b->buf;
	a->position = b->position;
	a->len = b->len;
	b->buf = was.buf;
	b->len = 0;
	b->position = UINT64_MAX;
	a->error = b->error = 0;
	r->streak++;
}

/* The size of the next read follows from whether the last window's end was where this one begins. */
static uint32_t size_of(struct thmq_log_reader *r, uint64_t position, uint32_t len, uint64_t most)
{
	const struct window *w = &r->windows[0];
	uint64_t end = w->position + w->len;

	if (w->len && position >= end && position - end < r->window_bytes) {
		r->streak++;
		r->window_bytes = THMQI_MIN(r->window_bytes * 2, WINDOW_MAX);
	} else {
		r->streak = 0;
		r->window_bytes = WINDOW_MIN;
	}
	return (uint32_t)THMQI_MIN(
		(uint64_t)THMQI_MAX(len, thmqi_pace_bytes(r->log, r->window_bytes)), most);
}

static int begin(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len)
{
	uint64_t most = left(r->log, s, at);
	uint32_t size = size_of(r, s->position + at, len, most), least = THMQI_MAX(len, THMQI_BLOCK);
	int rc;

	if (most < least)
		return -EIO; /* it was never written: the log has failed */
	rc = start(r, &r->windows[0], s, at, size);
	if (rc == -ENOBUFS && size > least)
		rc = start(r, &r->windows[0], s, at, least);
	thmqi_reader_fed(r, rc);
	if (rc == -ENOBUFS || rc == -EAGAIN) {
		r->waiting = true;
		rc = 0;
	}
	return rc;
}

int thmqi_window_get(struct thmq_log_reader *r, struct segment *s, uint64_t at, uint32_t len, struct window **ret_window,
		     uint8_t **ret_data)
{
	struct window *w = &r->windows[0], *next = &r->windows[1];
	uint64_t position = s->position + at;
	const struct batch_header *h;
	int rc;

	if (w->reading)
		return 0;
	if (!covers(w, position) && next->buf && next->position == position) {
		if (next->reading)
			return 0;
		if (!next->error)
			exchange(r);
		window_drop(next);
	}
	if (covers(w, position)) {
		read_ahead(r, s);
		*ret_window = w;
		*ret_data = w->buf->data + (position - w->position);
		return 1;
	}
	if (w->error && w->position == position) {
		/* perhaps it is only larger than what was read */
		h = w->buf ? (const struct batch_header *)w->buf->data : NULL;
		if (w->error == -THMQ_ECORRUPT && thmqi_batch_header_ok(h, position, r->log->chain.log_id) && h->len > w->op.len &&
		    h->len <= BATCH_BYTES_MAX && h->type != BATCH_PAD)
			return begin(r, s, at, h->len);
		rc = w->error;
		window_drop(w);
		return rc;
	}
	return begin(r, s, at, len);
}
