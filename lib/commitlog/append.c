/* SPDX-License-Identifier: Apache-2.0 */
/*
 * append.c - runs into the batch that is being formed. A run is filled in place, checksummed once and indexed; the
 * batch's buffer is what goes to the device, stays in the cache and is read by consumers.
 */
#include "internal.h"

#define FORMING_BYTES (256u << 10) /* a batch's buffer, unless one run needs more */

/* All flights are busy: the forming batch has to wait, and what does not fit into it with it. */
static bool flights_full(const struct thmq_log *log)
{
	return log->flight_tail - log->flight_head >= log->depth;
}

static int forming_open(struct thmq_log *log, uint32_t run_len)
{
	uint32_t size = THMQI_MAX(THMQI_MIN(FORMING_BYTES, log->opts.batch_bytes),
				  (uint32_t)sizeof(struct batch_header) + run_len);
	struct forming *f = &log->forming;
	int rc;

	rc = thmqi_buf_alloc(log->core->pool, size, &f->buf);
	if (rc == -ENOBUFS && size > 2 * run_len + THMQI_BLOCK)
		rc = thmqi_buf_alloc(log->core->pool, (uint32_t)sizeof(struct batch_header) + run_len, &f->buf);
	if (rc)
		return -EAGAIN; /* consumers hold it: they release */
	f->used = sizeof(struct batch_header);
	f->runs = 0;
	f->needs_durable = false;
	return 0;
}

static uint32_t forming_room(const struct thmq_log *log)
{
	uint32_t limit = THMQI_MIN(log->forming.buf->size, log->opts.batch_bytes);

	return limit - log->forming.used;
}

/* Where the batch being formed will begin and how much of its segment is left there. */
static uint64_t segment_left(const struct thmq_log *log)
{
	const struct segment *s = log->active;

	return s->position + s->bytes - log->chain.position;
}

/* Room for a batch of @bytes in the active segment, or in the next one behind a pad. */
static int ensure_segment(struct thmq_log *log, uint32_t bytes)
{
	if (!log->disk || segment_left(log) >= bytes)
		return 0;
	if (flights_full(log))
		return -EAGAIN;
	return thmqi_segment_switch(log);
}

static int make_room(struct thmq_log *log, uint32_t run_len)
{
	uint32_t need = THMQI_ALIGN_UP(run_len, 8u), full;
	int rc;

	if (log->forming.buf && forming_room(log) < need) {
		if (log->disk && flights_full(log))
			return -EAGAIN;
		rc = thmqi_log_seal(log);
		if (rc)
			return rc;
		thmqi_log_commit(log);
	}
	if (log->forming.buf) {
		full = THMQI_ALIGN_UP(log->forming.used + need, THMQI_BLOCK);
		if (!log->disk || segment_left(log) >= full)
			return 0;
		if (flights_full(log))
			return -EAGAIN;
		rc = thmqi_log_seal(log);
		if (rc)
			return rc;
	}
	rc = ensure_segment(log, THMQI_ALIGN_UP((uint32_t)sizeof(struct batch_header) + need, THMQI_BLOCK));
	return rc ? rc : forming_open(log, need);
}

int thmq_log_append(struct thmq_log *log, uint32_t run_len, struct thmq_run_header **ret_run, uint64_t *ret_index)
{
	struct forming *f = &log->forming;
	int rc;

	if (thmqi_unlikely(log->failed))
		return -THMQ_EFAILED;
	if (thmqi_unlikely(run_len < sizeof(struct thmq_run_header) || f->open))
		return -EINVAL;
	if (thmqi_unlikely(run_len > log->opts.batch_bytes - sizeof(struct batch_header)))
		return -EMSGSIZE;
	if (thmqi_unlikely(!log->spare) &&
	    thmqi_buf_alloc(log->core->pool, THMQI_POOL_BLOCK_MIN, &log->spare) != 0) {
		log->starved = true;
		return -EAGAIN;
	}
	if (thmqi_unlikely(!f->buf || forming_room(log) < THMQI_ALIGN_UP(run_len, 8u) ||
			   (log->disk && segment_left(log) < f->used + run_len + THMQI_BLOCK))) {
		rc = make_room(log, run_len);
		if (rc) {
			log->starved = true;
			return rc;
		}
	}
	f->open = run_len;
	*ret_run = (struct thmq_run_header *)(f->buf->data + f->used);
	*ret_index = log->chain.index + 1;
	return 0;
}

void thmq_log_append_abort(struct thmq_log *log)
{
	log->forming.open = 0;
}

void thmq_log_append_end(struct thmq_log *log, struct thmq_run_header *run, uint32_t durability)
{
	struct forming *f = &log->forming;
	uint32_t bytes = THMQI_ALIGN_UP(f->open, 8u);
	struct run_index *x;

	if (bytes != f->open)
		memset((uint8_t *)run + f->open, 0, bytes - f->open);
	if (log->disk)
		thmqi_run_seal(run);
	else
		run->magic = THMQ_RUN_MAGIC;
	if (run->encoding != THMQ_RUN_STATE) {
		x = thmqi_index_of(log, run->partition, true);
		if (!x || thmqi_index_add(log, x, run, log->chain.index + 1, f->used) != 0) {
			/* a run that no reader could find must not be acknowledged */
			thmqi_log_fail(log, -ENOMEM);
			f->open = 0;
			return;
		}
	}
	f->used += bytes;
	f->runs++;
	f->open = 0;
	if (durability >= THMQ_DURABILITY_DURABLE)
		f->needs_durable = true;
	log->stats.runs++;
}

/* ------------------------------------------------------------------- seal */

static void seal_in_memory(struct thmq_log *log)
{
	struct forming *f = &log->forming;

	log->chain.index++;
	log->chain.position += f->used;
	thmqi_cache_put(log, log->chain.index, f->buf);
	if (log->last_index)
		thmqi_index_trim(log, log->last_index, log->cache_first);
	f->buf = NULL;
}

int thmqi_log_seal(struct thmq_log *log)
{
	struct forming *f = &log->forming;
	struct batch_header *h;
	struct flight *flight;
	uint32_t len;

	if (!f->buf || !f->runs)
		return 0;
	if (!log->disk) {
		seal_in_memory(log);
		return 0;
	}
	if (flights_full(log))
		return -EAGAIN;
	len = THMQI_ALIGN_UP(f->used, THMQI_BLOCK);
	memset(f->buf->data + f->used, 0, len - f->used);
	h = (struct batch_header *)f->buf->data;
	thmqi_batch_seal(h, &log->chain, log->term, BATCH_DATA, f->runs, f->used - (uint32_t)sizeof(*h), len);
	thmqi_batch_stamp(h, log->incarnation, log->durable_position);
	thmqi_buf_trim(f->buf, len);

	flight = &log->flights[log->flight_tail++ % DEPTH_MAX];
	flight->log = log;
	flight->buf = f->buf;
	flight->index = h->index;
	flight->position = h->position;
	flight->len = len;
	flight->segment = log->active;
	flight->state = BATCH_WAITING;
	flight->needs_durable = f->needs_durable;
	thmqi_segment_note(log->active, h->index, h->position);
	thmqi_buf_ref(f->buf); /* one for the cache, one for the write */
	thmqi_chain_advance(&log->chain, h);
	thmqi_cache_put(log, h->index, f->buf);
	log->stats.batches++;
	log->stats.stored_bytes += len;
	f->buf = NULL;
	return 0;
}
