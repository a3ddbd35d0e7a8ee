/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.c - the runs of one partition in the order of their offsets: from the batch being formed, from the tail cache,
 * or by a read of the device into a window of neighbouring batches that serves the next ones too.
 */
#include "internal.h"

#define WINDOW_BYTES (256u << 10)

struct thmq_log_reader {
	struct thmqi_list link; /* of the log */
	struct thmq_log *log;
	struct run_index *index; /* NULL: nothing of it was appended yet */
	uint32_t partition;
	uint64_t at; /* number of the next entry */
	uint64_t want; /* offset that was sought, until an entry is found for it */
	bool sought;
	void (*ready)(void *ctx);
	void *ctx;
	/* window of batches read from the device */
	struct thmqi_buf *window;
	uint64_t window_position;
	uint32_t window_len; /* checked bytes */
	bool reading, closed;
	int error;
	struct thmqi_disk_op op;
	struct thmqi_buf *op_buf;
};

int thmq_log_reader_open(struct thmq_log *log, uint32_t partition, void (*ready)(void *ctx), void *ctx,
			 struct thmq_log_reader **ret_reader)
{
	struct thmq_log_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->log = log;
	r->partition = partition;
	r->ready = ready;
	r->ctx = ctx;
	r->sought = true;
	thmqi_list_add_tail(&log->readers, &r->link);
	*ret_reader = r;
	return 0;
}

static void reader_free(struct thmq_log_reader *r)
{
	if (r->window)
		thmqi_buf_unref(r->window);
	free(r);
}

void thmq_log_reader_close(struct thmq_log_reader *reader)
{
	thmqi_list_del(&reader->link);
	if (reader->reading)
		reader->closed = true; /* freed when the read ends */
	else
		reader_free(reader);
}

void thmq_log_reader_seek(struct thmq_log_reader *reader, uint64_t offset)
{
	reader->want = offset;
	reader->sought = true;
	reader->error = 0;
}

/* ------------------------------------------------------------- device reads */

/* How many bytes of the window are whole batches that pass their checks. */
static uint32_t check_window(const struct thmq_log *log, const uint8_t *data, uint32_t len, uint64_t position)
{
	uint32_t at = 0;

	while (len - at >= THMQI_BLOCK) {
		const struct batch_header *h = (const struct batch_header *)(data + at);

		if (!thmqi_batch_header_ok(h, position + at, log->chain.log_id) || h->len > len - at ||
		    !thmqi_batch_payload_ok(h, h->len))
			break;
		at += h->len;
	}
	return at;
}

static void on_read(struct thmqi_disk_op *op, int64_t result)
{
	struct thmq_log_reader *r = thmqi_container(op, struct thmq_log_reader, op);

	r->reading = false;
	if (r->closed) {
		thmqi_buf_unref(r->op_buf);
		reader_free(r);
		return;
	}
	if (r->window)
		thmqi_buf_unref(r->window);
	r->window = r->op_buf;
	r->window_len = 0;
	if (result < 0) {
		r->error = (int)result;
	} else {
		r->window_len = check_window(r->log, r->window->data, (uint32_t)result, r->window_position);
		if (!r->window_len)
			r->error = -THMQ_ECORRUPT;
	}
	if (r->ready)
		r->ready(r->ctx);
}

/* Batch @index of @s and as many behind it as fit. */
static int start_read(struct thmq_log_reader *r, struct segment *s, uint64_t index)
{
	struct thmq_log *log = r->log;
	uint32_t i = (uint32_t)(index - s->first_index), first = s->blocks[i], end, last = s->batch_count;
	uint64_t written = log->written_position;
	uint32_t limit;
	int rc;

	/* what is being written is in the cache */
	limit = (uint32_t)((THMQI_MIN(written, s->position + s->bytes) - s->position) / THMQI_BLOCK);
	end = i + 1 < last ? s->blocks[i + 1] : limit;
	for (i++; i + 1 < last && s->blocks[i + 1] <= limit &&
		  (s->blocks[i + 1] - first) * THMQI_BLOCK <= WINDOW_BYTES;
	     i++)
		end = s->blocks[i + 1];
	if (end <= first || end > limit)
		return -EIO;
	rc = thmqi_buf_alloc(log->core->pool, (end - first) * THMQI_BLOCK, &r->op_buf);
	if (rc)
		return rc;
	r->window_position = s->position + (uint64_t)first * THMQI_BLOCK;
	r->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
				       .len = (end - first) * THMQI_BLOCK,
				       .file = s->file,
				       .buf = r->op_buf,
				       .data = r->op_buf->data,
				       .offset = (uint64_t)first * THMQI_BLOCK,
				       .done = on_read};
	rc = log->disk->queue_submit(log->queue, &r->op);
	if (rc) {
		thmqi_buf_unref(r->op_buf);
		return rc;
	}
	r->window_len = 0;
	r->reading = true;
	return 0;
}

/* The bytes of batch @index, or NULL: *ret_rc says 0 (being read) or why not. */
static struct thmqi_buf *batch_bytes(struct thmq_log_reader *r, uint64_t index, uint8_t **ret_data, int *ret_rc)
{
	struct thmq_log *log = r->log;
	struct thmqi_buf *buf;
	struct segment *s;
	uint64_t position;

	*ret_rc = 0;
	if (index > log->chain.index) {
		buf = log->forming.buf;
		*ret_data = buf->data;
		return buf;
	}
	buf = thmqi_cache_get(log, index);
	if (buf) {
		*ret_data = buf->data;
		return buf;
	}
	s = log->disk ? thmqi_segment_of_index(log, index) : NULL;
	if (!s) {
		*ret_rc = -THMQ_EOFFSETRANGE;
		return NULL;
	}
	position = s->position + (uint64_t)s->blocks[index - s->first_index] * THMQI_BLOCK;
	if (r->window && position >= r->window_position && position - r->window_position < r->window_len) {
		*ret_data = r->window->data + (position - r->window_position);
		return r->window;
	}
	if (r->error) {
		*ret_rc = r->error;
		r->error = 0;
	} else {
		*ret_rc = start_read(r, s, index);
		if (*ret_rc == -ENOBUFS || *ret_rc == -EAGAIN)
			*ret_rc = 0, r->log->hungry = true;
	}
	return NULL;
}

/* -------------------------------------------------------------------- read */

static int find(struct thmq_log_reader *r)
{
	struct run_index *x = r->index;

	if (!x) {
		x = thmqi_map_get(&r->log->partitions, r->partition);
		if (!x)
			return 0;
		r->index = x;
	}
	if (!r->log->disk)
		thmqi_index_trim(r->log, x, r->log->cache_first);
	if (r->sought) {
		r->at = thmqi_index_find(x, r->want);
		/* what was before the first entry that is held is gone */
		if (r->at == x->first && x->first > 0 && x->first < x->count &&
		    thmqi_index_entry(x, x->first)->base_offset > r->want)
			return -THMQ_EOFFSETRANGE;
		r->sought = false;
	}
	if (r->at < x->first) {
		r->sought = true;
		return -THMQ_EOFFSETRANGE;
	}
	return r->at < x->count;
}

int thmq_log_read(struct thmq_log_reader *reader, uint64_t end_offset, struct thmq_log_view *ret_view)
{
	struct thmqi_buf *buf;
	struct entry *e;
	uint8_t *data;
	int rc;

	if (thmqi_unlikely(reader->reading))
		return 0;
	if (thmqi_likely(reader->index && !reader->sought && reader->at >= reader->index->first))
		rc = reader->at < reader->index->count;
	else
		rc = find(reader);
	if (rc <= 0)
		return rc;
	e = thmqi_index_entry(reader->index, reader->at);
	if (e->base_offset >= end_offset)
		return 0;
	buf = batch_bytes(reader, e->batch, &data, &rc);
	if (!buf)
		return rc;
	thmqi_buf_ref(buf);
	ret_view->run.header = (const struct thmq_run_header *)(data + e->at);
	ret_view->run.payload = data + e->at + sizeof(struct thmq_run_header);
	ret_view->run.index = e->batch;
	ret_view->run.position = reader->log->disk ? 0 : e->batch;
	ret_view->run.term = reader->log->term;
	ret_view->internal[0] = buf;
	ret_view->internal[1] = NULL;
	if (reader->log->disk && e->batch <= reader->log->chain.index) {
		ret_view->run.position = ((const struct batch_header *)data)->position;
		ret_view->run.term = ((const struct batch_header *)data)->term;
	}
	reader->at++;
	return 1;
}

void thmq_log_view_release(struct thmq_log *log, struct thmq_log_view *view)
{
	if (!view->internal[0])
		return;
	thmqi_buf_unref(view->internal[0]);
	view->internal[0] = NULL;
	if (thmqi_unlikely(log->starved || log->hungry)) {
		log->hungry = false;
		log->wake_readers = true;
	}
}

/* Truncation: entries from @index on are gone. */
void thmqi_readers_reset(struct thmq_log *log, uint64_t index)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		(void)index;
		if (r->index && r->at > r->index->count)
			r->at = r->index->count;
		if (r->window && !r->reading) {
			thmqi_buf_unref(r->window);
			r->window = NULL;
			r->window_len = 0;
		}
	}
}

void thmqi_readers_wake(struct thmq_log *log)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		if (r->ready && !r->reading)
			r->ready(r->ctx);
	}
}

/* ----------------------------------------------------------------- look-ups */

int thmq_log_bounds(struct thmq_log *log, uint32_t partition, uint64_t *ret_begin, uint64_t *ret_end)
{
	struct run_index *x = thmqi_map_get(&log->partitions, partition);
	const struct entry *last;

	if (x && !log->disk)
		thmqi_index_trim(log, x, log->cache_first);
	if (!x || x->first == x->count) {
		*ret_begin = *ret_end = 0;
		return -ENOENT;
	}
	last = thmqi_index_entry(x, x->count - 1);
	*ret_begin = thmqi_index_entry(x, x->first)->base_offset;
	*ret_end = last->base_offset + last->span;
	return 0;
}

int thmq_log_find_time(struct thmq_log *log, uint32_t partition, int64_t time_ns, uint64_t *ret_offset)
{
	struct run_index *x = thmqi_map_get(&log->partitions, partition);
	uint64_t i;

	/* messages may carry times of their own, in any order: the first entry that reaches the time */
	for (i = x ? x->first : 0; x && i < x->count; i++) {
		const struct entry *e = thmqi_index_entry(x, i);

		if (e->last_time_ns >= time_ns) {
			*ret_offset = e->base_offset;
			return 0;
		}
	}
	return -ENOENT;
}

void thmq_log_forget(struct thmq_log *log, uint32_t partition)
{
	struct run_index *x = thmqi_map_remove(&log->partitions, partition);
	struct thmqi_list *it;

	if (!x)
		return;
	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		if (r->index == x) {
			r->index = NULL;
			r->sought = true;
		}
	}
	if (log->last_index == x)
		log->last_index = NULL;
	thmqi_index_free(x);
}
