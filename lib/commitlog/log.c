/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - a log's life but for its end: open, its poller, look-ups, counters. */
#include <sched.h>
#include <stdio.h>

#include "commitlog/limit.h"
#include "commitlog/close.h"
#include "disk/busy.h"
#include "internal.h"
#include "survey.h"

#define YIELD_NS 20000u
#define GROUP_NS_MAX 1000000000ull
/*
 * What a power cut may take of messages that did not ask for more. Each flush costs about one durable write, so that twice a
 * second is next to nothing, and more would save little; other logs that flush in the background do it as often.
 */
#define FLUSH_INTERVAL_NS 500000000ull
#define FLUSH_INTERVAL_NS_MAX 3600000000000ull
#define SEGMENT_BYTES_MAX (1ull << 30)
#define LIMIT_SEGMENTS 4u /* the active one, the next, one that is sealed, one that goes */
#define FLUSH_BYTES (64ull << 20) /* a flush of so much is soon done: later ones do not make durable writes wait for long */
#define CACHE_SLOTS_MIN (2u * FLIGHTS_MAX) /* more than batches may be unwritten */
#define CACHE_SLOTS_MAX 65536u

void (thmq_log_opts_init)(struct thmq_log_opts *opts, uint32_t size)
{
	thmqi_opts_init(opts, size);
}

/* ------------------------------------------------------------------- poller */

static bool has_news(const struct thmq_log *log)
{
	return log->dirty || (log->copies.vote == VOTE_DUE && !log->mark_busy) || log->tell_failed || log->tell_room || log->tell_readers;
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
	int cleaned = 0;

	(void)budget;
	if (log->flight_head != log->flight_tail || log->flushing)
		give_way(log);
	if (thmqi_unlikely(log->sealing.step) && thmqi_seal_step(log))
		return 1;
	if (thmqi_unlikely(log->clean.step || log->clean.look || log->drop.step))
		cleaned = thmqi_clean_poll(log);
	if (thmqi_likely(!has_news(log)))
		return cleaned;
	if (thmqi_unlikely(log->copies.vote == VOTE_DUE))
		thmqi_vote_begin(log);
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
		thmqi_files_trim(log); /* by now who waited for a file reads it */
	}
	return 1;
}

static bool log_arm(struct thmqi_poller *p)
{
	const struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	return has_news(log) || thmqi_clean_wants(log);
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
		if (log->weak)
			thmqi_log_flush_later(log);
		if (!thmqi_timer_is_running(&log->mark_timer))
			thmqi_vote_watch(log);
		if (thmqi_unlikely(log->prepare == PREPARE_IDLE))
			thmqi_segment_prepare(log);
		thmqi_log_commit(log);
	} else if (log->flight_head != log->flight_tail || log->flush_due > log->durable_index) {
		thmqi_log_commit(log); /* what the device's queue had no room for */
	}
}

/* Its environment closes, and it is still open. */
static void log_end(struct thmqi_poller *p)
{
	/* perhaps of a core that has no thread any more */
	thmqi_log_close_notify(thmqi_container(p, struct thmq_log, poller), 0, NULL, NULL);
}

/* --------------------------------------------------------------------- open */

static int check_opts(struct thmq_log_opts *o)
{
	o->segment_bytes_max = o->segment_bytes_max ? o->segment_bytes_max : SEGMENT_BYTES_MAX;
	o->segment_bytes_min = o->segment_bytes_min ? o->segment_bytes_min :
						      THMQI_MIN(16ull << 20, o->segment_bytes_max);
	o->cache_bytes = o->cache_bytes ? o->cache_bytes : 16ull << 20;
	o->batch_bytes = o->batch_bytes ? o->batch_bytes : 1u << 20;
	o->write_depth = o->write_depth ? o->write_depth : 8;
	o->flush_interval_ns = o->flush_interval_ns ? o->flush_interval_ns : FLUSH_INTERVAL_NS;
	o->flush_bytes = o->flush_bytes ? o->flush_bytes : FLUSH_BYTES;
	if (o->dir && !*o->dir)
		return thmqi_fail(-EINVAL, "a log: dir is empty");
	if (!thmqi_is_pow2(o->segment_bytes_max) || !thmqi_is_pow2(o->segment_bytes_min) ||
	    o->segment_bytes_min < 1u << 20 || o->segment_bytes_min > o->segment_bytes_max ||
	    o->segment_bytes_max > SEGMENT_BYTES_MAX)
		return thmqi_fail(-EINVAL, "segment sizes are powers of two from 1 MiB to 1 GiB");
	if (o->batch_bytes % THMQI_BLOCK || o->batch_bytes > BATCH_BYTES_MAX ||
	    o->batch_bytes > o->segment_bytes_min)
		return thmqi_fail(-EINVAL, "batch_bytes is a multiple of 4096, up to 4 MiB and up to a segment");
	if (o->write_depth > DEPTH_MAX)
		return thmqi_fail(-EINVAL, "write_depth is at most %u", DEPTH_MAX);
	if (o->flush_method > THMQ_FLUSH_FDATASYNC || o->polled_io > THMQ_POLLED_ON)
		return thmqi_fail(-EINVAL, "flush_method and polled_io are 0, 1 or 2");
	if (o->full_policy > THMQ_FULL_DROP_OLDEST)
		return thmqi_fail(-EINVAL, "unknown full_policy %u", o->full_policy);
	if (o->group_ns > GROUP_NS_MAX)
		return thmqi_fail(-EINVAL, "group_ns is at most a second");
	if (o->group_bytes > o->batch_bytes)
		return thmqi_fail(-EINVAL, "group_bytes is at most batch_bytes");
	if (o->flush_interval_ns > FLUSH_INTERVAL_NS_MAX)
		return thmqi_fail(-EINVAL, "flush_interval_ns is at most an hour");
	if (o->flags & ~(uint32_t)(THMQ_LOG_NO_CREATE | THMQ_LOG_NO_BACKGROUND_FLUSH))
		return thmqi_fail(-EINVAL, "unknown flag %#x of a log", o->flags);
	return 0;
}

/* Before any of its files is open, since these take it over. */
static int settle_ways(struct thmq_log *log)
{
	struct thmqi_disk_ways ways = {.flush_method = log->opts.flush_method, .polled_io = log->opts.polled_io};
	int rc = thmqi_disk_ways(log->disk, log->dir, log->core, &ways);

	if (rc)
		return thmqi_fail(rc, "open %s: its device has no polled queues, or they cannot be used from here",
				  log->opts.dir);
	log->stats.flush_method = ways.flush_method;
	log->stats.polled_io = ways.polled_io;
	log->stats.dsync_ns = ways.dsync_ns;
	log->stats.fdatasync_ns = ways.flush_ns;
	return 0;
}

/*
 * Always, also of a log whose owner has locked the directory above: nobody else who is given this directory would look there.
 * It goes with the directory, which is closed when the device has answered all.
 */
static int lock(struct thmq_log *log)
{
	uint64_t pid = 0;
	int rc;

	rc = log->disk->dir_lock(log->dir, "lock", &pid);
	if (rc == -EBUSY && pid)
		return thmqi_disk_busy(log->opts.dir, pid);
	return rc ? thmqi_fail(rc, "lock %s/lock: %s", log->opts.dir, thmq_strerror(rc)) : 0;
}

int thmqi_log_limit_check(const char *dir, uint64_t limit_bytes, uint64_t segment_bytes_max)
{
	const uint64_t least = LIMIT_SEGMENTS * (segment_bytes_max ? segment_bytes_max : SEGMENT_BYTES_MAX);

	if (!limit_bytes || limit_bytes >= least)
		return 0;
	return thmqi_fail(-EINVAL, "open %s: limit_bytes is at least %u segments, %llu bytes here", dir, LIMIT_SEGMENTS,
			  (unsigned long long)least);
}

/* Of one that is to be made. */
static int check_limit(const struct thmq_log *log)
{
	return thmqi_log_limit_check(log->opts.dir, log->opts.limit_bytes, log->opts.segment_bytes_max);
}

/* What is in a directory that is to be a log's. */
struct surroundings {
	struct listing ours;
	bool data;
	char foreign[64]; /* the first one */
};

static int look_around(void *arg, const char *name)
{
	struct surroundings *s = arg;
	int rc = thmqi_listing_note(&s->ours, name);

	if (rc)
		return THMQI_MIN(rc, 0);
	if (strcmp(name, "meta") == 0 || (strncmp(name, "shard-", 6) == 0 && name[6] >= '0' && name[6] <= '9'))
		s->data = true;
	else if (name[0] != '.' && strcmp(name, "lost+found") != 0 && !s->foreign[0])
		snprintf(s->foreign, sizeof(s->foreign), "%.63s", name);
	return 0;
}

/* A log is begun among its like only. Nothing was made yet, so that what is refused here has changed nothing. */
static int check_place(struct thmq_log *log)
{
	struct surroundings s = {0};
	int rc = log->disk->dir_list(log->dir, look_around, &s);

	free(s.ours.positions);
	if (rc)
		return thmqi_fail(rc, "read %s: %s", log->opts.dir, thmq_strerror(rc));
	if (s.ours.vote || s.ours.count)
		return 0;
	if (s.data)
		return thmqi_fail(-ENOTEMPTY,
				  "open %s: it is the data directory of a broker, which thmq_broker_open() opens; name another one "
				  "for a log",
				  log->opts.dir);
	if (log->opts.flags & THMQ_LOG_NO_CREATE)
		return thmqi_fail(-ENOENT, "open %s: there is no log in it", log->opts.dir);
	if (s.foreign[0])
		return thmqi_fail(-ENOTEMPTY, "open %s: it holds other things (%s) and no log; name an empty directory",
				  log->opts.dir, s.foreign);
	return check_limit(log);
}

static int dir_open(struct thmq_log *log)
{
	int rc = log->disk->dir_open(log->disk_ctx, log->opts.dir, false, &log->dir);

	if (rc == -ENOENT && !(log->opts.flags & THMQ_LOG_NO_CREATE)) {
		rc = check_limit(log);
		if (rc) {
			log->dir = NULL;
			return rc;
		}
		rc = log->disk->dir_open(log->disk_ctx, log->opts.dir, true, &log->dir);
	}
	if (rc) {
		log->dir = NULL;
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	return check_place(log);
}

/*
 * Segments have the sizes that the log was made with, whatever the options say. Of copies none is filled by one batch: a new leader's first one has its block
 * (segment_left() in append.c), and a batch that leaves none would begin one segment after the other and fit into none.
 */
static int check_batch(struct thmq_log *log)
{
	const uint64_t least = log->vote.segment_bytes_min;

	if (log->copies.on && log->opts.batch_bytes == least)
		log->opts.batch_bytes = (uint32_t)least - THMQI_BLOCK;
	if (log->opts.batch_bytes <= least)
		return 0;
	return thmqi_fail(-EINVAL,
			  "open %s: batch_bytes is up to a segment, %llu bytes in this log",
			  log->opts.dir, (unsigned long long)log->vote.segment_bytes_min);
}

static int open_disk(struct thmq_log *log)
{
	uint64_t begin = log->core->clock->now_ns(log->core->clock->ctx);
	int rc;

	log->disk = thmqi_disk_of(log->core, &log->disk_ctx);
	rc = dir_open(log);
	if (!rc)
		rc = lock(log);
	if (!rc)
		rc = settle_ways(log);
	if (rc)
		return rc;
	rc = thmqi_core_alloc(log->core, ZERO_BYTES, &log->zeros);
	if (!rc)
		rc = thmqi_core_alloc(log->core, THMQI_BLOCK, &log->mark_buf);
	if (rc)
		return thmqi_fail(-ENOMEM, "open %s: the memory pool is too small", log->opts.dir);
	log->zeros->owner = log->mark_buf->owner = THMQI_OWNER_LOG;
	memset(log->zeros->data, 0, ZERO_BYTES);
	rc = log->disk->queue_open(log->disk_ctx, log->core, QUEUE_DEPTH, &log->queue);
	if (rc) {
		log->queue = NULL;
		return thmqi_fail(rc, "open %s: %s", log->opts.dir, thmq_strerror(rc));
	}
	rc = thmqi_log_recover(log);
	if (rc)
		return rc;
	rc = thmqi_log_limit_check(log->opts.dir, log->opts.limit_bytes, log->vote.segment_bytes_max);
	rc = rc ? rc : check_batch(log);
	if (rc)
		return rc;
	log->stats.recovery_ns = log->core->clock->now_ns(log->core->clock->ctx) - begin;
	return 0;
}

static int make_cache(struct thmq_log *log)
{
	uint64_t slots = thmqi_pow2_up(log->opts.cache_bytes / THMQI_BLOCK + 1);

	slots = THMQI_MAX(THMQI_MIN(slots, (uint64_t)CACHE_SLOTS_MAX), (uint64_t)CACHE_SLOTS_MIN);
	log->cache = calloc(slots, sizeof(struct thmqi_buf *));
	if (!log->cache)
		return thmqi_fail(-ENOMEM, "no memory for a log's cache of %llu blocks", (unsigned long long)slots);
	log->cache_mask = (uint32_t)slots - 1;
	return 0;
}

static int copy_opts(struct thmq_log *log, const struct thmq_log_opts *opts)
{
	int rc = thmqi_opts_copy(&log->opts, sizeof(log->opts), opts);

	if (rc) {
		log->opts.dir = NULL;
		return thmqi_fail(rc, "a log: options: %s", thmqi_opts_why(rc));
	}
	rc = thmqi_opts_copy(&log->events, sizeof(log->events), log->opts.events);
	if (rc)
		thmqi_fail(rc, "a log: events: %s", thmqi_opts_why(rc));
	if (log->opts.dir) {
		log->opts.dir = strdup(log->opts.dir);
		if (!log->opts.dir)
			rc = thmqi_fail(-ENOMEM, "no memory for a log");
	}
	return rc ? rc : check_opts(&log->opts);
}

int thmqi_log_open_planted(struct thmq_core *core, const struct thmq_log_opts *opts, uint32_t defects,
			   struct thmq_log **ret_log)
{
	return thmqi_log_open_copy(core, opts, NULL, defects, ret_log);
}

int thmqi_log_open_copy(struct thmq_core *core, const struct thmq_log_opts *opts, const struct thmqi_log_copies *copies,
			uint32_t defects, struct thmq_log **ret_log)
{
	struct thmq_log *log;
	int rc;

	if (!core || !ret_log)
		return thmqi_fail(-EINVAL, "a log needs a core and a place for its handle");
	if (!thmqi_core_is_mine(core))
		return thmqi_fail(-EPERM, "a log is opened by the thread that drives its core, which none does in a child of fork()");
	log = calloc(1, sizeof(*log));
	if (!log)
		return thmqi_fail(-ENOMEM, "no memory for a log");
	log->core = core;
	log->defects = defects;
	if (copies) {
		log->copies.on = true;
		log->copies.owner = *copies;
	}
	log->term = log->incarnation = 1;
	thmqi_map_init(&log->partitions);
	thmqi_pace_init(log);
	thmqi_list_init(&log->readers);
	thmqi_list_init(&log->giver.link);
	thmqi_files_init(log);
	rc = copy_opts(log, opts);
	thmqi_seals_init(log);
	log->depth = log->opts.write_depth;
	log->eager_bytes = log->opts.group_bytes ? log->opts.group_bytes : UINT32_MAX;
	if (!rc)
		rc = make_cache(log);
	if (!rc && log->opts.dir)
		rc = open_disk(log);
	if (rc) {
		if (log->queue)
			log->disk->queue_close(log->queue);
		thmqi_log_free(log);
		return rc;
	}
	log->cache_first = log->cache_end = log->chain.index + 1;
	if (log->disk) {
		log->poller = (struct thmqi_poller){.poll = log_poll,
						    .arm = log_arm,
						    .finish = log_finish,
						    .end = log_end,
						    .name = "log"};
		thmqi_core_add_poller(core, &log->poller);
		thmqi_log_begin_giving(log);
		thmqi_fetch_keep_spare(log);
		thmqi_seal_plan_part(log);
		thmqi_segment_reserve(log);
		thmqi_segment_prepare(log);
		thmqi_clean_look(log);
		log->file_bytes = thmqi_log_file_bytes(log);
		log->stats.direct_io = log->disk->file_direct(log->active->file);
	}
	*ret_log = log;
	return 0;
}

int thmq_log_open(struct thmq_core *core, const struct thmq_log_opts *opts, struct thmq_log **ret_log)
{
	uint32_t texts = thmqi_fail_count();
	int rc = thmqi_log_open_planted(core, opts, 0, ret_log);

	if (rc && thmqi_fail_count() == texts)
		thmqi_fail(rc, "open %s: %s", opts && opts->dir ? opts->dir : "a log", thmq_strerror(rc));
	return rc;
}

/* ----------------------------------------------------------- for replication */

int thmq_log_find_index(struct thmq_log *log, uint64_t index, uint64_t *ret_position, uint64_t *ret_term)
{
	const struct thmqi_buf *buf;
	struct segment *s;
	const struct batch_header *h;
	struct thmqi_disk_file *file;
	uint64_t at;
	uint8_t *block;
	int64_t n;
	int rc = 0;

	if (!log || !ret_position || !ret_term)
		return -EINVAL;
	if (thmqi_unlikely(!thmqi_core_is_mine(log->core)))
		return -EPERM;
	s = log->disk ? thmqi_segment_of_index(log, index) : NULL;
	if (!s)
		return -ENOENT;
	rc = thmqi_segment_place(log, s, index, &at);
	if (rc)
		return rc;
	buf = thmqi_cache_get(log, index);
	if (buf) {
		*ret_position = s->position + at;
		*ret_term = ((const struct batch_header *)buf->data)->term;
		return 0;
	}
	rc = thmqi_file_need(log, s, SEGMENT_LOG, &file);
	if (rc)
		return rc;
	block = aligned_alloc(THMQI_BLOCK, THMQI_BLOCK);
	if (!block)
		return -ENOMEM;
	h = (const struct batch_header *)block;
	n = log->disk->file_read(file, block, THMQI_BLOCK, at);
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

	if (!log || !ret_stats || thmqi_size_is_wrong(ret_stats->size))
		return thmqi_fail(-EINVAL, "stats: no log, or set the size field first");
	size = ret_stats->size;
	s.size = size;
	s.disk_engine = log->disk ? log->core->disk_engine : 0;
	s.direct_io = log->stats.direct_io;
	s.segment_count = read_counter(log->segment_count);
	s.term = read_counter(log->term);
	s.incarnation = read_counter(log->incarnation);
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
	s.begin_position = read_counter(log->begin.position);
	s.begin_index = read_counter(log->begin.index) + 1;
	s.file_bytes = read_counter(log->file_bytes);
	s.dropped_segments = read_counter(log->stats.dropped_segments);
	s.relocated_runs = read_counter(log->stats.relocated_runs);
	s.relocated_bytes = read_counter(log->stats.relocated_bytes);
	s.compacted_messages = read_counter(log->stats.compacted_messages);
	s.recycled_segments = read_counter(log->stats.recycled_segments);
	s.flush_method = log->stats.flush_method;
	s.polled_io = log->stats.polled_io;
	s.dsync_ns = log->stats.dsync_ns;
	s.fdatasync_ns = log->stats.fdatasync_ns;
	memset(ret_stats, 0, size);
	memcpy(ret_stats, &s, THMQI_MIN(size, (uint32_t)sizeof(s)));
	return 0;
}
