/* SPDX-License-Identifier: Apache-2.0 */
/*
 * close.c - the end of a log: what was appended is made durable, the mark says that all is there, the memory goes back. A device
 * that does not answer in time is not waited for: the log is closed for its owner, and what the device still has of it (the
 * buffers of its writes, their files, this log) stays on the core, without events, until the last operation is done.
 */
#include "commitlog/close.h"
#include "internal.h"
#include "index/keys.h"

/* A device gets so long for what it has already, however little time the caller gives: closing at once is not losing. */
#define GRACE_NS 1000000000ull

void thmqi_log_free(struct thmq_log *log)
{
	struct run_index *x;
	uint32_t i;

	thmqi_list_del(&log->giver.link);
	thmqi_readers_orphan(log);
	thmqi_snapshots_fini(log);
	thmqi_seals_fini(log);
	thmqi_states_fini(log);
	thmqi_drop_fini(log);
	thmqi_extents_fini(log);
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
	free(log->copies.terms);
	free(log->times);
	thmqi_keys_fini(log);
	for (i = log->flight_head; i != log->flight_tail; i++) /* after a failure: never written */
		if (log->flights[i % FLIGHTS_MAX].buf)
			thmqi_buf_unref(log->flights[i % FLIGHTS_MAX].buf);
	if (log->forming.buf)
		thmqi_buf_unref(log->forming.buf);
	if (log->zeros)
		thmqi_buf_unref(log->zeros);
	if (log->mark_buf)
		thmqi_buf_unref(log->mark_buf);
	if (log->copies.spare)
		thmqi_buf_unref(log->copies.spare);
	if (log->copies.first)
		thmqi_buf_unref(log->copies.first);
	if (log->vote_file)
		log->disk->file_close(log->vote_file);
	if (log->dir)
		log->disk->dir_close(log->dir);
	free((char *)(uintptr_t)log->opts.dir);
	free(log->cache);
	free(log);
}

/* Nothing is in flight. */
static void tear_down(struct thmq_log *log)
{
	void (*gone)(void *arg) = log->gone;
	void *arg = log->gone_arg;

	if (log->disk) {
		log->disk->queue_close(log->queue);
		thmqi_segment_prepare_stop(log);
		thmqi_seal_stop(log);
		thmqi_core_remove_poller(log->core, &log->poller);
	}
	thmqi_log_free(log);
	if (gone)
		gone(arg);
}

/* -------------------------------------------------------------- not in time */

static int late_poll(struct thmqi_poller *p, uint32_t budget)
{
	struct thmq_log *log = thmqi_container(p, struct thmq_log, poller);

	(void)budget;
	if (log->disk->queue_inflight(log->queue))
		return 0;
	tear_down(log);
	return 1;
}

/* The core goes, and the memory with it: now there is nothing left but to wait. */
static void late_end(struct thmqi_poller *p)
{
	tear_down(thmqi_container(p, struct thmq_log, poller));
}

static void leave_to_the_core(struct thmq_log *log)
{
	thmqi_log_fail(log, -ETIMEDOUT); /* what completes now leads to nothing more */
	log->poller.poll = late_poll;
	log->poller.end = late_end;
	log->poller.arm = NULL;
	log->poller.finish = NULL;
}

/* -------------------------------------------------------------------- close */

static uint64_t now_of(const struct thmq_log *log)
{
	return log->core->clock->now_ns(log->core->clock->ctx);
}

static bool settle_down(struct thmq_log *log, uint64_t deadline)
{
	uint64_t now;

	while (log->disk->queue_inflight(log->queue)) {
		now = now_of(log);
		if (now >= deadline)
			return false;
		log->disk->queue_wait(log->queue, deadline - now);
	}
	return true;
}

static int finish_writes(struct thmq_log *log, uint64_t deadline)
{
	uint64_t index;
	uint32_t i;
	int rc = log->failed;

	if (!rc) {
		thmqi_log_flush(log, &index);
		rc = thmqi_log_drain(log, deadline);
	}
	for (i = 0; i < log->segment_count && !rc; i++)
		if (log->segments[i]->unflushed)
			rc = log->disk->file_flush(log->segments[i]->file);
	if (rc)
		return rc;
	thmqi_seal_finish(log);
	rc = thmqi_vote_end(log);
	if (!rc && !settle_down(log, deadline))
		rc = -ETIMEDOUT;
	return rc ? rc : log->mark_error;
}

static void stop_timers(struct thmq_log *log)
{
	thmqi_clean_stop(log);
	thmqi_seals_stop(log);
	thmqi_timer_stop(log->core, &log->retry);
	thmqi_timer_stop(log->core, &log->mark_timer);
	thmqi_timer_stop(log->core, &log->pinch);
	thmqi_timer_stop(log->core, &log->pace.timer);
	thmqi_timer_stop(log->core, &log->linger);
	thmqi_timer_stop(log->core, &log->flush_timer);
}

int thmqi_log_close_notify(struct thmq_log *log, uint64_t timeout_ns, void (*gone)(void *arg),
			   void *arg)
{
	uint64_t deadline;
	int rc = 0;

	if (!log)
		return 0;
	memset(&log->events, 0, sizeof(log->events));
	log->forming.open = 0;
	thmqi_copies_stop(log);
	log->gone = gone;
	log->gone_arg = arg;
	if (log->disk) {
		deadline = now_of(log);
		deadline += THMQI_MIN(THMQI_MAX(timeout_ns, GRACE_NS), UINT64_MAX - deadline);
		rc = finish_writes(log, deadline);
		log->draining = true;
		if (!settle_down(log, deadline)) {
			stop_timers(log);
			leave_to_the_core(log);
			return rc ? rc : -ETIMEDOUT;
		}
	}
	stop_timers(log);
	tear_down(log);
	return rc;
}

int thmq_log_close(struct thmq_log *log, uint64_t timeout_ns)
{
	int rc;

	if (log && !thmqi_core_is_mine(log->core))
		return thmqi_fail(-EPERM, "a log is closed by the thread that drives its core, which none does in a child of fork()");
	rc = thmqi_log_close_notify(log, timeout_ns, NULL, NULL);
	return rc ? thmqi_fail(rc, "close a log: %s; its last batches may not be stored", thmq_strerror(rc)) : 0;
}
