/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.c - the runs of one partition in the order of their offsets: from the batch being formed, from the tail cache,
 * or by a read of the device into a window of neighbouring batches that serves the next ones too.
 */
#include "internal.h"

#define WINDOW_BYTES (256u << 10)

struct thmq_log_reader {
	struct thmqi_list link; /* of the log */
	struct thmq_log *log;   /* NULL: it was closed before */
	struct run_index *index; /* NULL: nothing of it was appended yet */
	uint32_t partition;
	bool sought; /* `at` is to be found from `want` */
	uint64_t at; /* number of the next entry */
	uint64_t want;
	void (*ready)(void *ctx);
	void *ctx;
	/* window of batches read from the device */
	struct thmqi_buf *window;
	uint64_t window_position;
	uint32_t window_len; /* checked bytes */
	bool reading, closed;
	bool waiting; /* was refused a read or its memory: is called again */
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

static void drop_window(struct thmq_log_reader *r)
{
	if (r->window)
		thmqi_buf_unref(r->window);
	r->window = NULL;
	r->window_len = 0;
}

void thmq_log_reader_close(struct thmq_log_reader *reader)
{
	if (!reader)
		return;
	thmqi_list_del(&reader->link);
	drop_window(reader);
	if (reader->reading)
		reader->closed = true; /* freed when the read ends */
	else
		free(reader);
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
	struct thmq_log *log = r->log;

	log->reads--;
	log->tell_readers = true; /* those that were refused */
	r->reading = false;
	if (r->closed) {
		thmqi_buf_unref(r->op_buf);
		free(r);
		return;
	}
	drop_window(r);
	r->window = r->op_buf;
	if (result < 0) {
		r->error = (int)result;
	} else {
		r->window_len = check_window(log, r->window->data, (uint32_t)result, r->window_position);
		if (!r->window_len)
			r->error = -THMQ_ECORRUPT;
	}
	r->waiting = log->draining; /* called behind it, then */
	if (r->ready && !log->draining)
		r->ready(r->ctx);
}

/* Batch @index of @s and as many behind it as fit into a window. Return: 0; -EAGAIN, -ENOBUFS; -EIO. */
static int start_read(struct thmq_log_reader *r, const struct segment *s, uint64_t index)
{
	struct thmq_log *log = r->log;
	uint32_t i = (uint32_t)(index - s->first_index), first = s->blocks[i], end, next;
	uint64_t limit = THMQI_MIN(log->written_position, s->position + s->bytes);
	int rc;

	if (log->reads >= READS_MAX || log->draining)
		return -EAGAIN;
	if (limit <= s->position + (uint64_t)first * THMQI_BLOCK)
		return -EIO; /* it was never written: the log has failed */
	limit = (limit - s->position) / THMQI_BLOCK;
	for (end = first; i < s->batch_count; i++, end = next) {
		next = i + 1 < s->batch_count ? s->blocks[i + 1] : (uint32_t)limit;
		if (next > limit || (end > first && (next - first) * THMQI_BLOCK > WINDOW_BYTES))
			break;
	}
	if (end == first)
		return -EIO;
	rc = thmqi_log_alloc(log, (end - first) * THMQI_BLOCK, &r->op_buf);
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
	drop_window(r);
	r->reading = true;
	log->reads++;
	return 0;
}

/* The bytes come from the device: they must be what the index says. */
static bool is_expected(const struct thmq_log_reader *r, const uint8_t *data, const struct entry *e)
{
	const struct batch_header *h = (const struct batch_header *)data;
	const struct thmq_run_header *run = (const struct thmq_run_header *)(data + e->at);

	return h->index == e->batch && e->at + sizeof(*run) <= h->len && run->partition == r->partition &&
	       run->base_offset == e->base_offset && run->span == e->span &&
	       thmqi_run_header_ok(run, h->len - e->at);
}

static int begin_read(struct thmq_log_reader *r, const struct segment *s, uint64_t index)
{
	int rc = r->error;

	r->error = 0;
	if (!rc)
		rc = start_read(r, s, index);
	if (rc == -ENOBUFS || rc == -EAGAIN) {
		r->waiting = true;
		rc = 0;
	}
	return rc;
}

/* The batch of @e from the device. Return: 1 it is in the window at *@ret_data; 0 it is being read; or an error. */
static int from_device(struct thmq_log_reader *r, const struct entry *e, uint8_t **ret_data)
{
	const struct segment *s = r->log->disk ? thmqi_segment_of_index(r->log, e->batch) : NULL;
	uint64_t position;

	if (!s)
		return -THMQ_EOFFSETRANGE;
	position = s->position + thmqi_segment_place(s, e->batch);
	if (!r->window || position < r->window_position || position - r->window_position >= r->window_len)
		return begin_read(r, s, e->batch);
	*ret_data = r->window->data + (position - r->window_position);
	if (is_expected(r, *ret_data, e))
		return 1;
	drop_window(r);
	return -THMQ_ECORRUPT;
}

/* -------------------------------------------------------------------- read */

/* Bring `at` to the next entry. Return: 1 there is one; 0; -THMQ_EOFFSETRANGE. */
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
		thmqi_index_trim(r->log, x);
	if (r->sought) {
		r->at = thmqi_index_find(x, r->want);
		/* what was before the first entry that is held is gone */
		if (x->first > 0 && r->at == x->first &&
		    r->want < (x->first < x->count ? thmqi_index_entry(x, x->first)->base_offset : x->end))
			return -THMQ_EOFFSETRANGE;
		if (r->at == x->count && r->want > x->end)
			return 0; /* runs may come that end before it */
		r->sought = false;
	}
	if (r->at < x->first) { /* it fell out of the ring before it was read */
		r->want = 0;
		r->sought = true;
		return -THMQ_EOFFSETRANGE;
	}
	return r->at < x->count;
}

int thmq_log_read(struct thmq_log_reader *reader, uint64_t end_offset, struct thmq_log_view *ret_view)
{
	struct thmq_log *log = reader->log;
	const struct run_index *x = reader->index;
	const struct entry *e;
	struct thmqi_buf *buf;
	uint8_t *data = NULL;
	int rc;

	if (thmqi_unlikely(reader->reading || !log))
		return 0;
	/* a ring's oldest entries are looked at only when their batch is wanted */
	if (thmqi_likely(x && !reader->sought && reader->at >= x->first))
		rc = reader->at < x->count;
	else
		rc = find(reader);
	if (rc <= 0)
		return rc;
	e = thmqi_index_entry(reader->index, reader->at);
	if (e->base_offset >= end_offset)
		return 0;
	ret_view->run.position = 0;
	ret_view->run.term = log->term;
	if (e->batch > log->chain.index) {
		buf = log->forming.buf;
		data = buf->data;
		ret_view->run.position = log->chain.position;
	} else {
		buf = thmqi_cache_get(log, e->batch);
		if (thmqi_likely(buf != NULL)) {
			data = buf->data;
		} else {
			rc = from_device(reader, e, &data);
			if (rc == -THMQ_EOFFSETRANGE)
				reader->sought = true, reader->want = 0;
			if (rc <= 0)
				return rc;
			buf = reader->window;
		}
		if (log->disk) {
			ret_view->run.position = ((const struct batch_header *)data)->position;
			ret_view->run.term = ((const struct batch_header *)data)->term;
		}
	}
	thmqi_buf_ref(buf);
	ret_view->run.header = (const struct thmq_run_header *)(data + e->at);
	ret_view->run.payload = ret_view->run.header + 1;
	ret_view->run.index = e->batch;
	ret_view->internal[0] = buf;
	ret_view->internal[1] = NULL;
	reader->at++;
	return 1;
}

void thmq_log_view_release(struct thmq_log *log, struct thmq_log_view *view)
{
	struct thmqi_buf *buf = view->internal[0];

	(void)log;
	if (buf)
		thmqi_buf_unref(buf);
	view->internal[0] = NULL;
}

/* ---------------------------------------------------------------- all of them */

/* What they stand behind may be gone, and their windows may hold what will be overwritten. None is reading. */
void thmqi_readers_cut(struct thmq_log *log)
{
	struct thmqi_list *it;

	thmqi_list_each(it, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		drop_window(r);
		if (r->index && r->at > r->index->count)
			r->at = r->index->count;
	}
}

void thmqi_readers_wake(struct thmq_log *log)
{
	struct thmqi_list *it, *next;

	thmqi_list_each_safe(it, next, &log->readers)
	{
		struct thmq_log_reader *r = thmqi_container(it, struct thmq_log_reader, link);

		if (!r->waiting)
			continue;
		r->waiting = false;
		if (r->ready && !r->reading)
			r->ready(r->ctx);
	}
}

void thmqi_readers_orphan(struct thmq_log *log)
{
	while (!thmqi_list_empty(&log->readers)) {
		struct thmq_log_reader *r = thmqi_list_first(&log->readers, struct thmq_log_reader, link);

		thmqi_list_del(&r->link);
		drop_window(r);
		r->log = NULL;
	}
}

/* ----------------------------------------------------------------- look-ups */

int thmq_log_bounds(struct thmq_log *log, uint32_t partition, uint64_t *ret_begin, uint64_t *ret_end)
{
	struct run_index *x = thmqi_map_get(&log->partitions, partition);

	if (x && !log->disk)
		thmqi_index_trim(log, x);
	if (!x || x->first == x->count) {
		*ret_begin = *ret_end = 0;
		return -ENOENT;
	}
	*ret_begin = thmqi_index_entry(x, x->first)->base_offset;
	*ret_end = x->end;
	return 0;
}

/* In a ring the times of what fell out still count: it may answer with an earlier run that is held, never a later one. */
int thmq_log_find_time(struct thmq_log *log, uint32_t partition, int64_t time_ns, uint64_t *ret_offset)
{
	struct run_index *x = thmqi_map_get(&log->partitions, partition);
	uint64_t i;

	if (!x)
		return -ENOENT;
	if (!log->disk)
		thmqi_index_trim(log, x);
	i = thmqi_index_find_time(x, time_ns);
	if (i == x->count)
		return -ENOENT;
	*ret_offset = thmqi_index_entry(x, i)->base_offset;
	return 0;
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
			r->want = 0;
			r->sought = true;
		}
	}
	if (log->last_index == x)
		log->last_index = NULL;
	thmqi_index_free(log, x);
}
