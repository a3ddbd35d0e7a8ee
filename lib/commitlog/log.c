/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - a log's life: open, close, its poller, look-ups, counters. */
#include <sched.h>

#include "internal.h"

#define TIMERS 4u
#define YIELD_NS 20000u
#define CACHE_SLOTS_MIN (2u * FLIGHTS_MAX) /* more than batches may be unwritten */
#define CACHE_SLOTS_MAX 65536u

void thmq_log_opts_init(struct thmq_log_opts *opts)
{
	memset(opts, 0, sizeof(*opts));
	opts->size = sizeof(*opts);
}

/* ------------------------------------------------------------------- poller */

static bool has_news(const struct thmq_log *log)
{
	return log->dirty || log->tell_failed || log->tell_room || log->tell_readers;
}

/*
 * The kernel ends a flushed write of O_DIRECT in a worker that is bound to the processor which took the interrupt. A loop
 * that spins there keeps it waiting for the scheduler's next tick, milliseconds away: so let it in now and then while
 * such a write is on its way.
 */
static void give_way(struct thmq_log *log)
{
	if (log->core->now_ns - log->yielded_ns < YIELD_NS || log->core->world->idle)
		return;
	log->yielded_ns = log->core->now_ns;
	sched_yield();
}

/* What was found inside a call of the owner's is told here, outside of it. */
static int log_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	(void)budget;
	if (log->flight_head != log->flight_tail || log->flushing)
		give_way(log);
	if (thmqi_unlikely(log->sealing.step) && thmqi_seal_step(log))
		return 1;
	if (thmqi_likely(!has_news(log)))
		return 0;
	if (log->tell_failed) {
		log->tell_failed = false;
		if (log->events.failed)
			log->events.failed(log->opts.ctx, log->failed);
	}
	if (log->tell_room) {
		log->tell_room = false;
		if (log->starved && log->events.room) {
			log->starved = false;
			log->events.room(log->opts.ctx);
		}
	}
	if (log->tell_readers) {
		log->tell_readers = false;
		thmqi_readers_wake(log);
	}
	return 1;
}

static bool log_arm(struct thmqi_poller *p)
{
	return has_news(thmqi_container(p, struct thmq_log, poller));
}

static void log_finish(struct thmqi_poller *p)
{
	struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	if (thmqi_unlikely(log->tell_checkpoint)) {
		log->tell_checkpoint = false;
		log->events.checkpoint(log->opts.ctx);
	}
	if (log->dirty) {
		log->dirty = false;
		if (!log->mark_timer.heap_index)
			thmqi_vote_watch(log);
	}
	thmqi_log_commit(log);
}

/* --------------------------------------------------------------------- open */

static int check_opts(struct thmq_log_opts *o)
{
	o->segment_bytes_max = o->segment_bytes_max ? o->segment_bytes_max : 1ull << 30;
	o->segment_bytes_min = o->segment_bytes_min ? o->segment_bytes_min :
						      THMQI_MIN(16ull << 20, o->segment_bytes_max);
	o->cache_bytes = o->cache_bytes ? o->cache_bytes : 16ull << 20;
	o->batch_bytes = o->batch_bytes ? o->batch_bytes : 1u << 20;
	o->write_depth = o->write_depth ? o->write_depth : 8;
	if (!thmqi_is_pow2(o->segment_bytes_max) || !thmqi_is_pow2(o->segment_bytes_min) ||
	    o->segment_bytes_min < 1u << 20 || o->segment_bytes_min > o->segment_bytes_max ||
	    o->segment_bytes_max > 1ull << 30)
		return thmqi_fail(-EINVAL, "segment sizes are powers of two from 1 MiB to 1 GiB");
	if (o->batch_bytes % THMQI_BLOCK || o->batch_bytes > BATCH_BYTES_MAX ||
	    o->batch_bytes > o->segment_bytes_min)
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

	thmqi_readers_orphan(log);
	thmqi_seals_fini(log);
	if (log->cache)
		thmqi_cache_drop_from(log, 0);
	for (i = 0; (x = thmqi_map_next(&log->partitions, &i));)
		thmqi_index_free(log, x);
	thmqi_map_fini(&log->partitions);
	thmqi_arena_fini(&log->arena);
	for (i = 0; i < log->segment_count; i++)
		thmqi_segment_free(log, log->segments[i]);
	if (log->next)
		thmqi_segment_free(log, log->next);
	free(log->segments);
	for (i = log->flight_head; i != log->flight_tail; i++) /* after a failure: never written */
		if (log->flights[i % FLIGHTS_MAX].buf)
			thmqi_buf_unref(log->flights[i % FLIGHTS_MAX].buf);
	if (log->forming.buf)
		thmqi_buf_unref(log->forming.buf);
	if (log->zeros)
		thmqi_buf_unref(log->zeros);
	if (log->mark_buf)
		thmqi_buf_unref(log->mark_buf);
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
	if (rc) {
		log->dir = NULL;
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	rc = thmqi_buf_alloc(log->core->pool, ZERO_BYTES, &log->zeros);
	if (!rc)
		rc = thmqi_buf_alloc(log->core->pool, THMQI_BLOCK, &log->mark_buf);
	if (rc)
		return thmqi_fail(-ENOMEM, "open %s: the memory pool is too small", log->opts.dir);
	memset(log->zeros->data, 0, ZERO_BYTES);
	rc = thmqi_log_recover(log);
	if (rc)
		return rc;
	rc = log->disk->queue_open(log->disk_ctx, log->core, QUEUE_DEPTH, &log->queue);
	if (rc) {
		log->queue = NULL;
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	log->stats.recovery_ns = log->core->clock->now_ns(log->core->clock->ctx) - begin;
	return 0;
}

static int make_cache(struct thmq_log *log)
{
	uint64_t slots = thmqi_pow2_up(log->opts.cache_bytes / THMQI_BLOCK + 1);

	slots = THMQI_MAX(THMQI_MIN(slots, (uint64_t)CACHE_SLOTS_MAX), (uint64_t)CACHE_SLOTS_MIN);
	log->cache = calloc(slots, sizeof(struct thmqi_buf *));
	if (!log->cache)
		return -ENOMEM;
	log->cache_mask = (uint32_t)slots - 1;
	return 0;
}

static int copy_opts(struct thmq_log *log, const struct thmq_log_opts *opts)
{
	int rc = thmqi_opts_copy(&log->opts, sizeof(log->opts), opts);

	if (rc) {
		log->opts.dir = NULL;
		return rc;
	}
	rc = thmqi_opts_copy(&log->events, sizeof(log->events), log->opts.events);
	if (log->opts.dir) {
		log->opts.dir = strdup(log->opts.dir);
		if (!log->opts.dir)
			rc = -ENOMEM;
	}
	return rc ? rc : check_opts(&log->opts);
}

int thmqi_log_open_planted(struct thmq_core *core, const struct thmq_log_opts *opts, uint32_t defects,
			   struct thmq_log **ret_log)
{
	struct thmq_log *log;
	int rc;

	if (!core || !ret_log)
		return thmqi_fail(-EINVAL, "a log needs a core and a place for its handle");
	log = calloc(1, sizeof(*log));
	if (!log)
		return -ENOMEM;
	log->core = core;
	log->defects = defects;
	log->term = log->incarnation = 1;
	thmqi_map_init(&log->partitions);
	thmqi_list_init(&log->readers);
	rc = copy_opts(log, opts);
	thmqi_seals_init(log);
	log->depth = log->opts.write_depth;
	if (!rc)
		rc = make_cache(log);
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
	if (log->disk) {
		log->poller = (struct thmqi_poller){.poll = log_poll, .arm = log_arm, .finish = log_finish};
		thmqi_core_add_poller(core, &log->poller);
		thmqi_segment_prepare(log);
	}
	*ret_log = log;
	return 0;
}

int thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts, struct thmq_log **ret_log)
{
	return thmqi_log_open_planted(core, opts, 0, ret_log);
}

/* -------------------------------------------------------------------- close */

static int finish_writes(struct thmq_log *log)
{
	uint64_t index;
	uint32_t i;
	int rc = log->failed;

	if (!rc) {
		thmq_log_flush(log, &index);
		rc = thmqi_log_drain(log);
	}
	for (i = 0; i < log->segment_count && !rc; i++)
		if (log->segments[i]->unflushed)
			rc = log->disk->file_flush(log->segments[i]->file);
	if (rc)
		return rc;
	thmqi_seal_finish(log);
	return thmqi_vote_write(log, log->chain.position, true);
}

int thmq_log_close(struct thmq_log *log, uint64_t timeout_ns)
{
	int rc = 0;

	(void)timeout_ns; /* the device's own time bounds what is in flight */
	if (!log)
		return 0;
	memset(&log->events, 0, sizeof(log->events));
	log->forming.open = 0;
	if (log->disk) {
		rc = finish_writes(log);
		log->draining = true;
		log->disk->queue_close(log->queue);
		thmqi_segment_prepare_stop(log);
		thmqi_seal_stop(log);
		thmqi_core_remove_poller(log->core, &log->poller);
		thmqi_timer_stop(log->core, &log->retry);
		thmqi_timer_stop(log->core, &log->mark_timer);
	}
	thmqi_timer_stop(log->core, &log->pinch);
	thmqi_timer_stop(log->core, &log->linger);
	thmqi_timer_unreserve(log->core, TIMERS);
	free_all(log);
	return rc;
}

/* ----------------------------------------------------------- for replication */

int thmq_log_find_index(struct thmq_log *log, uint64_t index, uint64_t *ret_position, uint64_t *ret_term)
{
	const struct segment *s = log->disk ? thmqi_segment_of_index(log, index) : NULL;
	const struct thmqi_buf *buf = thmqi_cache_get(log, index);
	const struct batch_header *h;
	uint64_t at;
	uint8_t *block;
	int64_t n;
	int rc = 0;

	if (!s)
		return -ENOENT;
	at = thmqi_segment_place(s, index);
	if (buf) {
		*ret_position = s->position + at;
		*ret_term = ((const struct batch_header *)buf->data)->term;
		return 0;
	}
	block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!block)
		return -ENOMEM;
	h = (const struct batch_header *)block;
	n = log->disk->file_read(s->file, block, THMQI_BLOCK, at);
	if (n < 0)
		rc = (int)n;
	else if (n < (int64_t)THMQI_BLOCK || h->index != index ||
		 !thmqi_batch_header_ok(h, s->position + at, log->chain.log_id))
		rc = -THMQ_ECORRUPT;
	if (!rc) {
		*ret_position = s->position + at;
		*ret_term = h->term;
	}
	free(block);
	return rc;
}

/* -------------------------------------------------------------------- stats */

#define read_counter(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

int thmq_log_stats(struct thmq_log *log, struct thmq_log_stats *ret_stats)
{
	struct thmq_log_stats s = {0};
	uint32_t size;

	if (!log || !ret_stats || ret_stats->size < 8)
		return -EINVAL;
	size = ret_stats->size;
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
	s.sealed_segments = log->stats.sealed_segments;
	memset(ret_stats, 0, size);
	memcpy(ret_stats, &s, THMQI_MIN(size, (uint32_t)sizeof(s)));
	return 0;
}
