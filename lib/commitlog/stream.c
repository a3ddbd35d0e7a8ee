/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - bytes of a file front to back, read ahead in pieces that lie in a ring. What is asked for lies in one stretch: where
 * it goes over the ring's end, what lies before that is copied to before its begin. Knows not what it reads.
 */
#include "stream.h"

#define AHEAD_MIN 1u /* what is small is not made to wait for more than it has */

int thmqi_file_stream_init(struct stream *x, const struct thmqi_disk_table *disk,
		      struct thmqi_disk_queue *queue)
{
	memset(x, 0, sizeof(*x));
	x->disk = disk;
	x->queue = queue;
	x->memory = aligned_alloc(THMQI_BLOCK,
				  STREAM_LEN_MAX + STREAM_PIECES * (size_t)STREAM_PIECE_BYTES);
	return x->memory ? 0 : -ENOMEM;
}

void thmqi_file_stream_fini(struct stream *x)
{
	thmqi_file_stream_end(x);
	free(x->memory);
	x->memory = NULL;
}

static struct stream_piece *piece_of(struct stream *x, uint64_t number)
{
	return &x->pieces[number % STREAM_PIECES];
}

static uint8_t *bytes_of(const struct stream *x, uint64_t number)
{
	return x->memory + STREAM_LEN_MAX + number % STREAM_PIECES * STREAM_PIECE_BYTES;
}

static uint32_t len_of(const struct stream *x, uint64_t number)
{
	return (uint32_t)THMQI_MIN((uint64_t)STREAM_PIECE_BYTES,
				   x->end - x->origin - number * STREAM_PIECE_BYTES);
}

static void on_read(struct thmqi_disk_op *op, int64_t result)
{
	struct stream_piece *p = thmqi_container(op, struct stream_piece, op);

	p->reading = false;
	p->result = result;
}

static void wait_for(struct stream *x, const struct stream_piece *p)
{
	while (p->reading)
		x->disk->queue_wait(x->queue, UINT64_MAX);
}

/* Return: false it was refused. */
static bool submit(struct stream *x, uint64_t number)
{
	struct stream_piece *p = piece_of(x, number);

	p->stream = x;
	p->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
				       .len = len_of(x, number),
				       .file = x->file,
				       .data = bytes_of(x, number),
				       .offset = x->origin + number * STREAM_PIECE_BYTES,
				       .done = on_read};
	p->reading = true;
	if (!x->queue || x->disk->queue_submit(x->queue, &p->op) != 0)
		p->reading = false;
	return p->reading;
}

/* The pieces up to @last, and those behind it that may be on their way. */
static void read_ahead(struct stream *x, uint64_t last)
{
	uint64_t pieces = (x->end - x->origin + STREAM_PIECE_BYTES - 1) / STREAM_PIECE_BYTES;
	uint64_t stop = THMQI_MIN(pieces, THMQI_MIN(x->first + STREAM_PIECES, last + 1 + x->ahead));
	bool any = false;

	for (; x->next < stop && x->queue; x->next++) {
		if (!submit(x, x->next))
			break;
		any = true;
	}
	for (; x->next <= last && x->next < pieces; x->next++)
		piece_of(x, x->next)->result =
			x->disk->file_read(x->file, bytes_of(x, x->next), len_of(x, x->next),
					   x->origin + x->next * STREAM_PIECE_BYTES);
	if (any)
		x->disk->queue_wait(x->queue, 0); /* so that they begin */
}

void thmqi_file_stream_begin(struct stream *x, struct thmqi_disk_file *file, uint64_t at, uint64_t end)
{
	thmqi_file_stream_end(x);
	x->file = file;
	x->origin = at;
	x->end = THMQI_MAX(at, end);
	x->first = x->next = 0;
	x->ahead = AHEAD_MIN;
}

void thmqi_file_stream_end(struct stream *x)
{
	for (; x->first < x->next; x->first++)
		wait_for(x, piece_of(x, x->first));
}

/* Return: bytes from the begin of piece @from on that are there, of those up to piece @last; or an error. */
static int64_t gather(struct stream *x, uint64_t from, uint64_t last)
{
	int64_t have = 0;

	for (; from <= last && from < x->next; from++) {
		struct stream_piece *p = piece_of(x, from);

		wait_for(x, p);
		if (p->result < 0)
			return p->result;
		have += p->result;
		if (p->result < (int64_t)STREAM_PIECE_BYTES)
			break;
	}
	return have;
}

int64_t thmqi_file_stream_get(struct stream *x, uint64_t at, uint32_t len, const void **ret_data)
{
	uint64_t from = (at - x->origin) / STREAM_PIECE_BYTES,
		 last = (at - x->origin + len - 1) / STREAM_PIECE_BYTES;
	uint32_t into = (uint32_t)((at - x->origin) % STREAM_PIECE_BYTES), before;
	uint8_t *data = bytes_of(x, from) + into;
	int64_t have;

	for (; x->first < from && x->first < x->next; x->first++) {
		wait_for(x, piece_of(x, x->first));
		x->ahead = THMQI_MIN(x->ahead * 2, STREAM_PIECES);
	}
	if (x->first < from) /* passed over */
		x->first = x->next = from;
	read_ahead(x, last);
	have = gather(x, from, last);
	if (have < 0)
		return have;
	have = THMQI_MIN(THMQI_MAX(have - (int64_t)into, 0), (int64_t)len);
	before = (uint32_t)(x->memory + STREAM_LEN_MAX +
			    STREAM_PIECES * (size_t)STREAM_PIECE_BYTES - data);
	if (have > (int64_t)before) {
		memcpy(x->memory + STREAM_LEN_MAX - before, data, before);
		data = x->memory + STREAM_LEN_MAX - before;
	}
	*ret_data = data;
	return have;
}
