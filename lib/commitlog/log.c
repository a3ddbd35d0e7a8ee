/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - a log's life: open, close, its poller, truncation, counters. */
#include "internal.h"

#define TIMERS 2u

void thmq_log_opts_init(struct thmq_log_opts *opts)
{
	memset(opts, 0, sizeof(*opts));
	opts->size = sizeof(*opts);
}

/* ------------------------------------------------------------------- poller */

static int log_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	(void)budget;
	if (thmqi_unlikely(log->wake_readers)) {
		log->wake_readers = false;
		thmqi_readers_wake(log);
		if (log->starved && log->opts.events && log->opts.events->room) {
			log->starved = false;
			log->opts.events->room(log->opts.ctx);
		}
		return 1;
	}
	return 0;
}

static void log_finish(struct thmqi_poller *p)
{
	struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	if (thmqi_unlikely(log->checkpoint_due)) {
		log->checkpoint_due = false;
		log->opts.events->checkpoint(log->opts.ctx);
	}
	if (log->forming.buf && log->forming.runs && !log->mark_timer.heap_index)
		thmqi_log_mark_start(log);
	thmqi_log_commit(log);
}

/* --------------------------------------------------------------------- open */

static int check_opts(struct thmq_log_opts *o)
{
	o->segment_bytes_max = o->segment_bytes_max ? o->segment_bytes_max : 1ull << 30;
	o->segment_bytes_min = o->segment_bytes_min ? o->segment_bytes_min :
						      THMQI_MIN(16ull << 20, o->segment_bytes_max);
	o->cache_bytes = o->cache_bytes ? o->cache_bytes : 64ull << 20;
	o->batch_bytes = o->batch_bytes ? o->batch_bytes : 1u << 20;
	o->write_depth = o->write_depth ? o->write_depth : 8;
	if (!thmqi_is_pow2(o->segment_bytes_max) || !thmqi_is_pow2(o->segment_bytes_min) ||
	    o->segment_bytes_min < 1u << 20 || o->segment_bytes_min > o->segment_bytes_max ||
	    o->segment_bytes_max > 1ull << 30)
		return thmqi_fail(-EINVAL, "segment sizes are powers of two from 1 MiB to 1 GiB");
	if (o->batch_bytes % THMQI_BLOCK || o->batch_bytes > 4u << 20 || o->batch_bytes > o->segment_bytes_min)
		return thmqi_fail(-EINVAL, "batch_bytes is a multiple of 4096, up to 4 MiB and up to a segment");
	if (o->write_depth > DEPTH_MAX)
		return thmqi_fail(-EINVAL, "write_depth is at most %u", DEPTH_MAX);
	if (o->flags & ~(uint32_t)THMQ_LOG_NO_CREATE)
		return thmqi_fail(-EINVAL, "unknown flag %#x of a log", o->flags);
	return 0;
}

static void free_all(struct thmq_log *log)
{
	struct run_index *x;
	uint32_t i;

	while (log->cache && log->cache_end > log->cache_first)
		thmqi_cache_drop_from(log, log->cache_end - 1);
	for (i = 0; (x = thmqi_map_next(&log->partitions, &i));)
		thmqi_index_free(x);
	thmqi_map_fini(&log->partitions);
	for (i = 0; i < log->segment_count; i++)
		thmqi_segment_free(log, log->segments[i]);
	if (log->next)
		thmqi_segment_free(log, log->next);
	free(log->segments);
	if (log->forming.buf)
		thmqi_buf_unref(log->forming.buf);
	if (log->zeros)
		thmqi_buf_unref(log->zeros);
	if (log->mark_buf)
		thmqi_buf_unref(log->mark_buf);
	if (log->spare)
		thmqi_buf_unref(log->spare);
	if (log->vote_file)
		log->disk->file_close(log->vote_file);
	if (log->dir)
		log->disk->dir_close(log->dir);
	free((char *)(uintptr_t)log->opts.dir);
	free(log->cache);
	free(log);
}

static int open_disk(struct thmq_log *log)
{
	uint64_t begin = log->core->clock->now_ns(log->core->clock->ctx);
	int rc;

	log->disk = thmqi_disk_of(log->core, &log->disk_ctx);
	rc = log->disk->dir_open(log->disk_ctx, log->opts.dir, !(log->opts.flags & THMQ_LOG_NO_CREATE), &log->dir);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	rc = thmqi_buf_alloc(log->core->pool, ZERO_BYTES, &log->zeros);
	if (!rc)
		rc = thmqi_buf_alloc(log->core->pool, THMQI_BLOCK, &log->mark_buf);
	if (rc)
		return thmqi_fail(-ENOMEM, "open %s: the memory pool is too small", log->opts.dir);
	memset(log->zeros->data, 0, ZERO_BYTES);
	rc = thmqi_log_recover(log);
	if (rc)
		return rc;
	rc = log->disk->queue_open(log->disk_ctx, log->core, DEPTH_MAX + 64, &log->queue);
	if (rc)
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	log->stats.recovery_ns = log->core->clock->now_ns(log->core->clock->ctx) - begin;
	return 0;
}

int thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts, struct thmq_log **ret_log)
{
	struct thmq_log *log;
	int rc;

	if (!core || !ret_log)
		return thmqi_fail(-EINVAL, "a log needs a core and a place for its handle");
	log = calloc(1, sizeof(*log));
	if (!log)
		return -ENOMEM;
	log->core = core;
	thmqi_map_init(&log->partitions);
	thmqi_list_init(&log->readers);
	rc = thmqi_opts_copy(&log->opts, sizeof(log->opts), opts);
	if (rc) {
		free(log);
		return rc;
	}
	rc = check_opts(&log->opts);
	if (log->opts.dir) {
		log->opts.dir = strdup(log->opts.dir);
		rc = rc ? rc : log->opts.dir ? 0 : -ENOMEM;
	}
	log->cache = calloc(CACHE_SLOTS, sizeof(*log->cache)); /* touched as it fills */
	if (!rc && !log->cache)
		rc = -ENOMEM;
	log->depth = log->opts.write_depth;
	log->term = log->incarnation = 1;
	log->cache_first = log->cache_end = 1;
	if (!rc && log->opts.dir)
		rc = open_disk(log);
	if (!rc)
		rc = thmqi_timer_reserve(core, TIMERS);
	if (rc) {
		if (log->queue)
			log->disk->queue_close(log->queue);
		free_all(log);
		return rc;
	}
	log->cache_first = log->cache_end = log->chain.index + 1;
	log->poller.poll = log_poll;
	log->poller.finish = log->disk ? log_finish : NULL;
	if (log->disk) {
		thmqi_core_add_poller(core, &log->poller);
		thmqi_segment_prepare(log);
	}
	*ret_log = log;
	return 0;
}

/* -------------------------------------------------------------------- close */

static int close_disk(struct thmq_log *log)
{
	uint64_t index;
	uint32_t i;
	int rc = 0;

	if (!log->failed) {
		thmq_log_flush(log, &index);
		rc = thmqi_log_drain(log);
	}
	if (log->queue)
		log->disk->queue_close(log->queue);
	log->queue = NULL;
	for (i = log->flight_head; i != log->flight_tail; i++) /* after a failure: never submitted */
		if (log->flights[i % DEPTH_MAX].buf)
			thmqi_buf_unref(log->flights[i % DEPTH_MAX].buf);
	if (log->prepare_op.file && log->prepare != PREPARE_READY && log->prepare != PREPARE_FAILED)
		log->disk->file_close(log->prepare_op.file);
	if (rc || log->failed)
		return rc ? rc : log->failed;
	for (i = 0; i < log->segment_count && !rc; i++)
		if (log->segments[i]->unflushed)
			rc = log->disk->file_flush(log->segments[i]->file);
	if (!rc) {
		log->durable_position = log->chain.position;
		log->vote.clean = 1;
		rc = thmqi_vote_write(log);
	}
	return rc;
}

int thmq_log_close(struct thmq_log *log, uint64_t timeout_ns)
{
	int rc = 0;

	(void)timeout_ns; /* the device's own time bounds what is in flight */
	log->opts.events = NULL;
	if (log->disk) {
		rc = close_disk(log);
		thmqi_core_remove_poller(log->core, &log->poller);
		thmqi_timer_stop(log->core, &log->retry);
		thmqi_timer_stop(log->core, &log->mark_timer);
	}
	thmqi_timer_unreserve(log->core, TIMERS);
	free_all(log);
	return rc;
}

/* ----------------------------------------------------------- for replication */

int thmq_log_find_index(struct thmq_log *log, uint64_t index, uint64_t *ret_position, uint64_t *ret_term)
{
	struct segment *s = log->disk ? thmqi_segment_of_index(log, index) : NULL;
	struct thmqi_buf *buf = thmqi_cache_get(log, index);
	uint8_t *block;
	uint64_t position;
	int64_t n;

	if (!s || index > log->chain.index)
		return -ENOENT;
	position = s->position + (uint64_t)s->blocks[index - s->first_index] * THMQI_BLOCK;
	if (buf) {
		*ret_term = ((struct batch_header *)buf->data)->term;
		*ret_position = position;
		return 0;
	}
	block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!block)
		return -ENOMEM;
	n = log->disk->file_read(s->file, block, THMQI_BLOCK, position - s->position);
	if (n == THMQI_BLOCK && thmqi_batch_header_ok((struct batch_header *)block, position, log->vote.log_id)) {
		*ret_term = ((struct batch_header *)block)->term;
		*ret_position = position;
		n = 0;
	} else {
		n = n < 0 ? n : -THMQ_ECORRUPT;
	}
	free(block);
	return (int)n;
}

/* The chain as it was behind batch @index. */
static int chain_behind(struct thmq_log *log, uint64_t index, struct chain *ret_chain)
{
	uint8_t *block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	uint64_t position, term;
	struct segment *s;
	int rc;

	if (!block)
		return -ENOMEM;
	rc = thmq_log_find_index(log, index, &position, &term);
	s = rc ? NULL : thmqi_segment_of_index(log, index);
	if (s) {
		int64_t n = log->disk->file_read(s->file, block, THMQI_BLOCK, position - s->position);

		rc = n < 0 ? (int)n : 0;
		if (!rc && !thmqi_batch_header_ok((struct batch_header *)block, position, log->vote.log_id))
			rc = -THMQ_ECORRUPT;
		if (!rc)
			thmqi_chain_advance(ret_chain, (struct batch_header *)block);
	}
	free(block);
	return rc;
}

static void cut_segments(struct thmq_log *log, uint64_t index)
{
	char name[40];

	while (log->segment_count > 1 && log->active->first_index >= index) {
		struct segment *s = log->active;

		thmqi_segment_name(s->position, name);
		thmqi_segment_free(log, s);
		log->disk->unlink(log->dir, name);
		log->segment_count--;
		log->active = log->segments[log->segment_count - 1];
	}
	if (index - log->active->first_index < log->active->batch_count)
		log->active->batch_count = (uint32_t)(index - log->active->first_index);
}

int thmq_log_truncate(struct thmq_log *log, uint64_t index)
{
	struct chain chain = log->chain;
	struct segment *was = log->active;
	struct run_index *x;
	uint32_t i = 0;
	int rc;

	if (!log->disk || index <= 1 || index > log->chain.index + (log->forming.runs ? 1 : 0))
		return -EINVAL;
	rc = thmqi_log_drain(log);
	if (rc)
		return rc;
	rc = chain_behind(log, index - 1, &chain);
	for (i = 0; !rc && i < log->segment_count; i++)
		rc = log->disk->file_flush(log->segments[i]->file);
	if (rc)
		return rc;
	/* the mark goes down before anything may be overwritten, the incarnation up */
	log->incarnation++;
	log->vote.mark = 0;
	log->durable_position = log->written_position = chain.position;
	rc = thmqi_vote_write(log);
	if (rc) {
		thmqi_log_fail(log, rc);
		return rc;
	}
	log->chain = chain;
	log->durable_index = log->written_index = log->plain_index = log->want_durable = chain.index;
	log->told_durable = log->told_written = chain.index;
	thmqi_cache_drop_from(log, index);
	for (i = 0; (x = thmqi_map_next(&log->partitions, &i));)
		thmqi_index_cut(x, index);
	cut_segments(log, index);
	if (log->active != was && log->next) { /* prepared for another position */
		char name[40];

		thmqi_segment_name(log->next->position, name);
		thmqi_segment_free(log, log->next);
		log->disk->unlink(log->dir, name);
		log->next = NULL;
		log->prepare = PREPARE_IDLE;
	}
	if (log->prepare == PREPARE_IDLE)
		thmqi_segment_prepare(log);
	thmqi_readers_reset(log, index);
	if (log->opts.events && log->opts.events->unappended)
		log->opts.events->unappended(log->opts.ctx, index);
	return 0;
}

/* -------------------------------------------------------------------- stats */

#define read_counter(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

int thmq_log_stats(struct thmq_log *log, struct thmq_log_stats *ret_stats)
{
	struct thmq_log_stats s;
	uint32_t size;

	if (!log || !ret_stats || ret_stats->size < 8)
		return -EINVAL;
	size = ret_stats->size;
	memset(&s, 0, sizeof(s));
	s.size = size;
	s.disk_engine = log->disk ? log->core->disk_engine : 0;
	s.direct_io = log->disk && log->active ? log->disk->file_direct(log->active->file) : 0;
	s.segment_count = read_counter(log->segment_count);
	s.term = log->term;
	s.incarnation = log->incarnation;
	s.last_index = read_counter(log->chain.index);
	s.end_position = read_counter(log->chain.position);
	s.durable_index = read_counter(log->durable_index);
	s.written_index = read_counter(log->written_index);
	s.batches = read_counter(log->stats.batches);
	s.stored_bytes = read_counter(log->stats.stored_bytes);
	s.runs = read_counter(log->stats.runs);
	s.cache_bytes = read_counter(log->cached_bytes);
	s.recovered_batches = log->stats.recovered_batches;
	s.recovered_runs = log->stats.recovered_runs;
	s.recovery_ns = log->stats.recovery_ns;
	s.torn_bytes = log->stats.torn_bytes;
	s.unclean = log->stats.unclean;
	memset((char *)ret_stats, 0, size);
	memcpy(ret_stats, &s, THMQI_MIN(size, (uint32_t)sizeof(s)));
	return 0;
}
