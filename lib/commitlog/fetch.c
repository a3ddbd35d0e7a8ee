/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - batches for a copy that lacks them: from the cache as far as it goes, else from the device, as fast as pace.c lets it. One that is
 * far behind asks for one after the other, and a read of its own for each small batch would cost more than all else: what the device gives is
 * more than was asked for, and the next ones are taken from there. Where a batch begins follows from the one before it; an index is asked, and
 * waited for, only for the first. One that is close behind finds them in memory, for longer than the cache alone would have them: reading what
 * was written a moment ago takes from the device what the writes need, and who is behind stays so. Where memory is short it goes on with less, one
 * batch at a time at last: others may hold what they have until this one has caught up. Knows not who asks.
 */
#include "internal.h"

#define AHEAD_BYTES (1u << 20)
#define KEEP_CACHES 4u    /* as large as so many caches */
#define KEEP_SHARE 8u     /* and one in so many of all memory */
#define SPARE_SHARE 32u   /* one in so many of all memory: where there is less than that it is worth more to others */

/* -------------------------------------------------------------------- memory */

bool thmqi_log_is_cached(const struct thmq_log *log, uint64_t index)
{
	return thmqi_cache_get(log, index) != NULL;
}

void thmqi_log_keep(struct thmq_log *log, uint64_t index)
{
	struct copies *c = &log->copies;

	if (thmqi_unlikely(!c->keep_bytes))
		c->keep_bytes = THMQI_MIN(KEEP_CACHES * log->opts.cache_bytes,
					  thmqi_pool_limit(log->core->pool) / KEEP_SHARE);
	c->keep = c->leads && thmqi_log_is_cached(log, index) ? index : 0;
}

void thmqi_fetch_keep_spare(struct thmq_log *log)
{
	struct copies *c = &log->copies;
	uint32_t bytes = log->opts.batch_bytes;

	if (!c->first && c->on && log->disk && thmqi_buf_alloc(log->core->pool, THMQI_BLOCK, &c->first) == 0)
		c->first->owner = THMQI_OWNER_LOG;
	if (c->spare || !c->on || !log->disk || bytes > thmqi_pool_limit(log->core->pool) / SPARE_SHARE ||
	    thmqi_buf_alloc(log->core->pool, bytes, &c->spare) != 0)
		return;
	c->spare->owner = THMQI_OWNER_LOG;
}

/* ------------------------------------------------------------- what was read */

/* It is behind what was read: the place of the next one stays known. */
static void used_up(struct thmqi_log_fetch *f)
{
	if (f->ahead)
		thmqi_buf_unref(f->ahead);
	f->ahead = NULL;
}

void thmqi_log_fetch_drop(struct thmqi_log_fetch *f)
{
	used_up(f);
	f->next = 0;
	f->need = 0;
}

/*
 * There is no memory for it beside what was read: that becomes it, and what lies around it is read again. To wait would be to hold what others
 * wait for, and they may wait for what this copy is to commit.
 */
static int give_all(struct thmqi_log_fetch *f, uint32_t len)
{
	if (f->ahead->refs > 1) { /* its first one is still on its way */
		f->need = len;
		used_up(f);
		return -EAGAIN;
	}
	memmove(f->ahead->data, f->ahead->data + f->ahead_at, len);
	thmqi_buf_trim(f->ahead, len);
	f->buf = f->ahead;
	f->ahead = NULL;
	return 0;
}

/* The bytes of the next one, in f->buf. A large one that is the first goes as it was read. */
static int give(struct thmqi_log_fetch *f, uint32_t len)
{
	if (f->ahead_at == 0 && len >= f->ahead_end / 2) {
		f->buf = f->ahead;
		thmqi_buf_ref(f->buf);
		return 0;
	}
	if (thmqi_log_alloc(f->log, len, THMQI_OWNER_READ, &f->buf) != 0)
		return give_all(f, len);
	memcpy(f->buf->data, f->ahead->data + f->ahead_at, len);
	return 0;
}

/* The next one from what was read. Return: 1; 0 it is not whole there; -EAGAIN no memory now. */
static int take(struct thmqi_log_fetch *f)
{
	const uint32_t left = f->ahead_end - f->ahead_at;
	const struct batch_header *h = (const struct batch_header *)(f->ahead->data + f->ahead_at);
	uint32_t len = left < THMQI_BLOCK ? 0 : thmqi_log_batch_bytes(h);
	bool last;

	/* what lies behind the last one that was written is not looked at any further */
	if (!len || h->index != f->next ||
	    !thmqi_batch_header_ok(h, f->segment_at + f->place, f->log->chain.log_id))
		return 0;
	if (len > left) {
		f->need = len;
		return 0;
	}
	if (!thmqi_batch_payload_ok(h, len))
		return 0;
	last = h->type == BATCH_PAD || len == left;
	if (give(f, len) != 0)
		return -EAGAIN;
	f->len = f->usual = len;
	f->need = 0;
	f->ahead_at += len;
	f->place += len;
	f->next++;
	if (last)
		used_up(f);
	return 1;
}

static void on_read(struct thmqi_disk_op *op, int64_t result)
{
	struct thmqi_log_fetch *f = thmqi_container(op, struct thmqi_log_fetch, op);
	int rc;

	f->reading = false;
	f->segment->reads--;
	f->log->reads--;
	thmqi_pace_ended(f->log, op->len);
	f->log->tell_readers = true; /* they may have waited for its end */
	f->ahead_at = 0;
	f->ahead_end = result > 0 ? (uint32_t)result / THMQI_BLOCK * THMQI_BLOCK : 0;
	f->need = 0;
	rc = result < 0 ? (int)result : take(f);
	if (rc == 1 || rc == -EAGAIN) {
		f->done(f, THMQI_MIN(rc, 0));
		return;
	}
	used_up(f);
	if (f->need <= op->len) /* else it is longer than what was read: once more */
		f->need = 0;    /* the file is shorter than it was */
	if (!f->need)
		f->next = 0;
	f->done(f, rc ? rc : f->need ? -EAGAIN : -THMQ_ECORRUPT);
}

/* --------------------------------------------------------------------- reads */

/* Where batch @index of @s begins. */
static int find_place(struct thmq_log *log, struct thmqi_log_fetch *f, struct segment *s, uint64_t index)
{
	int rc = 0;

	if (f->next == index && f->segment_at == s->position)
		return 0;
	thmqi_log_fetch_drop(f);
	f->place = 0;
	if (index != s->first_index)
		rc = thmqi_segment_place(log, s, index, &f->place);
	if (rc)
		return rc;
	f->next = index;
	f->segment_at = s->position;
	return 0;
}

/* Whole batches, if they are as long as the last one, and the first block of one more, which tells how long that is. */
static uint32_t read_bytes(struct thmq_log *log, const struct thmqi_log_fetch *f, uint64_t end)
{
	uint32_t most = thmqi_pace_bytes(log, AHEAD_BYTES), len = most;

	if (f->need)
		len = f->need;
	else if (f->usual)
		len = THMQI_MAX(most / f->usual, 1u) * f->usual;
	if (len < most)
		len += THMQI_BLOCK;
	return (uint32_t)THMQI_MIN((uint64_t)len, end - f->place);
}

/* Nobody has what was read into it last any more. */
static bool spare_is_free(const struct thmq_log *log, uint32_t bytes)
{
	const struct thmqi_buf *spare = log->copies.spare;

	return spare && spare->refs == 1 && bytes <= spare->size;
}

/*
 * For @want bytes, or for less where there is no such block: small ones lie about in a pool that is in use, and who waited for a large one might
 * wait for ever. What is cached makes way for what is needed, not for what is read ahead; and then there is the block that is kept for it.
 */
static int alloc(struct thmq_log *log, uint32_t need, uint32_t want, struct thmqi_buf **ret_buf, uint32_t *ret_len)
{
	uint32_t len = want;
	int rc;

	for (; len > need; len = THMQI_MAX(THMQI_ALIGN_UP(len / 2, THMQI_BLOCK), need)) {
		rc = thmqi_buf_alloc(log->core->pool, len, ret_buf);
		if (!rc)
			(*ret_buf)->owner = THMQI_OWNER_READ;
		if (rc != -ENOBUFS)
			break;
	}
	*ret_len = len;
	if (len > need)
		return rc;
	rc = thmqi_log_alloc(log, len, THMQI_OWNER_READ, ret_buf);
	if (rc == -ENOBUFS && spare_is_free(log, len)) {
		*ret_buf = log->copies.spare;
		thmqi_buf_ref(*ret_buf);
		rc = 0;
	}
	return rc;
}

static int read(struct thmq_log *log, struct thmqi_log_fetch *f, struct segment *s)
{
	/* also of a segment that is full: what lies where a write is on its way may pass every check, and be of a log that was cut there */
	uint64_t end = THMQI_MIN(THMQI_MAX(log->written_position, s->position) - s->position, s->bytes);
	struct thmqi_disk_file *file;
	struct thmqi_buf *buf;
	uint32_t want, need, len;
	int rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);

	if (rc)
		return rc;
	if (f->place >= end || f->need > end - f->place)
		return -THMQ_ECORRUPT;
	want = read_bytes(log, f, end);
	need = THMQI_MIN(f->need ? f->need : THMQI_BLOCK, want); /* nothing is left of it, then, that would keep the block */
	if (log->reads >= READS_MAX || !thmqi_pace_read(log, want, PACE_COPY))
		return -EAGAIN;
	rc = alloc(log, need, want, &buf, &len);
	thmqi_pace_less(log, rc ? want : want - len);
	if (rc)
		return -EAGAIN;
	f->op = (struct thmqi_disk_op){.opcode = THMQI_DISK_READ,
				       .len = len,
				       .file = file,
				       .buf = buf,
				       .data = buf->data,
				       .offset = f->place,
				       .done = on_read};
	if (log->disk->queue_submit(log->queue, &f->op) != 0) {
		thmqi_buf_unref(buf);
		return -EAGAIN;
	}
	f->segment = s;
	f->ahead = buf;
	f->reading = true;
	thmqi_pace_begun(log);
	s->reads++;
	log->reads++;
	return 0;
}

int thmqi_log_fetch(struct thmq_log *log, struct thmqi_log_fetch *f, uint64_t index)
{
	struct thmqi_buf *buf = thmqi_cache_get(log, index);
	struct segment *s;
	int rc;

	f->log = log;
	f->index = index;
	if (thmqi_unlikely(f->incarnation != log->incarnation)) /* it was cut meanwhile, or begun anew */
		thmqi_log_fetch_drop(f);
	f->incarnation = log->incarnation;
	if (buf) {
		used_up(f); /* it has come so far that it needs no device */
		f->buf = buf;
		f->len = thmqi_log_batch_bytes(buf->data);
		thmqi_buf_ref(buf);
		return 1;
	}
	if (f->ahead && f->next == index) {
		rc = take(f);
		if (rc)
			return rc;
		used_up(f);
	}
	s = thmqi_segment_of_index(log, index);
	if (!s)
		return -ENOENT;
	rc = find_place(log, f, s, index);
	return rc ? rc : read(log, f, s);
}
