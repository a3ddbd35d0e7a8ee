/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commitlog_rig.h - a log on a simulated disk, for tests: one environment, one core, events that are noted, and a model of
 * what was appended. A message's bytes follow from partition and offset, so that what is read can be checked alone.
 */
#ifndef COMMITLOG_RIG_H
#define COMMITLOG_RIG_H

#include <stdio.h>

#include "commitlog/plant.h"
#include "disk/sim.h"
#include "reactor/reactor.h"
#include "wire/run.h"

#define RIG_DIR "log"
#define RIG_SEGMENT "00000000000000000000.log"

struct rig {
	struct thmqi_disk_sim *sim;
	struct thmq_env *env;
	struct thmq_core *core;
	struct thmq_log *log;
	struct thmq_log_opts opts;
	struct thmq_log_events events;
	uint32_t defects;
	uint64_t pool_bytes;
	uint64_t close_ns; /* how long the device may take when it is closed; 0: a second, which a real one that others use may not keep */
	/* noted */
	uint64_t written, durable, unappended;
	uint32_t rooms, checkpoints, ready;
	int failed;
	uint64_t replayed_runs, replayed_sealed, replayed_last_index;
	int replay_rc;
	int progress_rc;
	uint32_t progress_calls;
	uint64_t progress_done, progress_total;
	bool progress_backwards;
	bool unordered; /* settled went back */
};

static inline int rig_replay(void *ctx, const struct thmq_log_run *run)
{
	struct rig *r = ctx;

	r->replayed_runs++;
	if (!run->payload || run->header->encoding == THMQ_RUN_STATE) { /* of a segment that is taken from its index: in no order */
		r->replayed_sealed += !run->payload;
		return r->replay_rc;
	}
	if (run->index < r->replayed_last_index)
		r->unordered = true;
	r->replayed_last_index = run->index;
	return r->replay_rc;
}

static inline int rig_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct rig *r = ctx;

	r->progress_backwards |= done > total || (r->progress_calls && done < r->progress_done);
	r->progress_calls++;
	r->progress_done = done;
	r->progress_total = total;
	return r->progress_rc;
}

static inline void rig_settled(void *ctx, uint32_t durability, uint64_t index)
{
	struct rig *r = ctx;
	uint64_t *at = durability == THMQ_DURABILITY_DURABLE ? &r->durable : &r->written;

	if (index <= *at)
		r->unordered = true;
	*at = index;
}

static inline void rig_unappended(void *ctx, uint64_t index)
{
	struct rig *r = ctx;

	r->unappended = index;
	r->durable = THMQI_MIN(r->durable, index - 1);
	r->written = THMQI_MIN(r->written, index - 1);
}

static inline void rig_failed(void *ctx, int error)
{
	((struct rig *)ctx)->failed = error;
}

static inline void rig_room(void *ctx)
{
	((struct rig *)ctx)->rooms++;
}

static inline void rig_checkpoint(void *ctx)
{
	((struct rig *)ctx)->checkpoints++;
}

static inline void rig_ready(void *ctx)
{
	((struct rig *)ctx)->ready++;
}

/* The machine: a disk, no log yet. Options may be changed before rig_open(). */
static inline void rig_init(struct rig *r, uint64_t seed, const struct thmqi_disk_sim_opts *disk)
{
	memset(r, 0, sizeof(*r));
	r->opts = (struct thmq_log_opts){.size = sizeof(r->opts),
					 .dir = RIG_DIR,
					 .segment_bytes_min = 1u << 20,
					 .segment_bytes_max = 4u << 20,
					 .batch_bytes = 256u << 10};
	r->events = (struct thmq_log_events){.size = sizeof(r->events),
					     .replay = rig_replay,
					     .settled = rig_settled,
					     .unappended = rig_unappended,
					     .failed = rig_failed,
					     .room = rig_room,
					     .checkpoint = rig_checkpoint,
					     .progress = rig_progress};
	r->pool_bytes = 128u << 20;
	if (thmqi_disk_sim_open(seed, disk, &r->sim) != 0)
		abort();
}

static inline int rig_env(struct rig *r)
{
	if (thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = r->pool_bytes), thmqi_disk_sim_world(r->sim), &r->env) != 0)
		return -ENOMEM;
	r->core = thmqi_env_core(r->env, 0);
	return 0;
}

static inline int rig_open(struct rig *r)
{
	int rc = r->env ? 0 : rig_env(r);

	r->written = r->durable = r->replayed_runs = r->replayed_last_index = r->unappended = 0;
	r->rooms = r->checkpoints = r->ready = 0;
	r->failed = 0;
	r->opts.events = &r->events;
	r->opts.ctx = r;
	rc = rc ? rc : thmqi_log_open_planted(r->core, &r->opts, r->defects, &r->log);
	if (rc)
		r->log = NULL;
	return rc;
}

/* Return: the log's; the environment is closed too, and a leaked block is an error. */
static inline int rig_close(struct rig *r)
{
	int rc = r->log ? thmq_log_close(r->log, r->close_ns) : 0, leaked;

	r->log = NULL;
	leaked = r->env ? thmqi_env_close(r->env) : 0;
	r->env = NULL;
	return leaked ? -1000 - leaked : rc;
}

/* The power is cut; the machine is up again, the log not open. */
static inline int rig_crash(struct rig *r, enum thmqi_disk_sim_crash_mode mode)
{
	thmqi_disk_sim_crash_as(r->sim, mode);
	rig_close(r);
	thmqi_disk_sim_restart(r->sim);
	return 0;
}

static inline void rig_fini(struct rig *r)
{
	rig_close(r);
	thmqi_disk_sim_close(r->sim);
}

/* --------------------------------------------------------------- stored bytes */

/* While the log is closed: bytes of a file of its directory, read or written durably; @len a multiple of 512. */
static inline void rig_bytes(struct rig *r, const char *name, uint64_t at, void *data, uint32_t len, bool write)
{
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;
	void *aligned = aligned_alloc(4096, THMQI_ALIGN_UP(len, 4096u));

	if (!aligned || thmqi_disk_sim.dir_open(r->sim, RIG_DIR, false, &dir) != 0 ||
	    thmqi_disk_sim.file_open(dir, name, false, &file) != 0)
		abort();
	memcpy(aligned, data, len);
	if (write ? thmqi_disk_sim.file_write(file, aligned, len, at, true) != 0 :
		    thmqi_disk_sim.file_read(file, aligned, len, at) != (int64_t)len)
		abort();
	memcpy(data, aligned, len);
	free(aligned);
	thmqi_disk_sim.file_close(file);
	thmqi_disk_sim.dir_close(dir);
}

static inline void rig_get(struct rig *r, const char *name, uint64_t at, void *data, uint32_t len)
{
	rig_bytes(r, name, at, data, len, false);
}

static inline void rig_put(struct rig *r, const char *name, uint64_t at, void *data, uint32_t len)
{
	rig_bytes(r, name, at, data, len, true);
}

/* A file of these bytes and no more. */
static inline void rig_make(struct rig *r, const char *name, const void *data, uint32_t len)
{
	struct thmqi_disk_file *file;
	struct thmqi_disk_dir *dir;
	void *aligned = aligned_alloc(4096, THMQI_ALIGN_UP(len, 4096u));

	if (!aligned)
		abort();
	memcpy(aligned, data, len);
	if (thmqi_disk_sim.dir_open(r->sim, RIG_DIR, false, &dir) != 0 ||
	    thmqi_disk_sim.file_open(dir, name, true, &file) != 0 ||
	    thmqi_disk_sim.file_write(file, aligned, len, 0, true) != 0 || thmqi_disk_sim.file_flush(file) != 0 ||
	    thmqi_disk_sim.dir_sync(dir) != 0)
		abort();
	free(aligned);
	thmqi_disk_sim.file_close(file);
	thmqi_disk_sim.dir_close(dir);
}

static inline void rig_unlink(struct rig *r, const char *name)
{
	struct thmqi_disk_dir *dir;

	if (thmqi_disk_sim.dir_open(r->sim, RIG_DIR, false, &dir) != 0 || thmqi_disk_sim.unlink(dir, name) != 0 ||
	    thmqi_disk_sim.dir_sync(dir) != 0)
		abort();
	thmqi_disk_sim.dir_close(dir);
}

static inline struct thmq_log_stats rig_stats(struct rig *r)
{
	struct thmq_log_stats s = {.size = sizeof(s)};

	thmq_log_stats(r->log, &s);
	return s;
}

/* ------------------------------------------------------------------ messages */

static inline uint32_t rig_size(uint32_t partition, uint64_t offset)
{
	return (uint32_t)(20 + (offset * 37 + partition * 11) % 300);
}

/* Of a run: mostly small, some of several blocks, some that end with a block. */
static inline uint32_t rig_some_size(struct thmqi_prng *p)
{
	switch (thmqi_prng_below(p, 16)) {
	case 0:
		return (uint32_t)thmqi_prng_below(p, 200000);
	case 1:
	case 2:
		return (uint32_t)thmqi_prng_below(p, 30000);
	case 3:
		return 3872; /* fills a block to the byte with its headers */
	default:
		return (uint32_t)thmqi_prng_below(p, 400);
	}
}

static inline uint8_t rig_byte(uint32_t partition, uint64_t offset, uint32_t at)
{
	return (uint8_t)(partition * 131 + offset * 7 + at);
}

static inline void rig_fill(struct thmq_run_header *run, uint32_t partition, uint64_t offset, uint32_t count, uint32_t size)
{
	memset(run, 0, sizeof(*run));
	run->len = size;
	run->base_offset = offset;
	run->partition = partition;
	run->count = run->span = count;
	run->encoding = THMQ_RUN_OPAQUE;
	run->first_time_ns = run->last_time_ns = (int64_t)(offset * 10);
	for (uint32_t i = 0; i < size; i++)
		((uint8_t *)(run + 1))[i] = rig_byte(partition, offset, i);
}

/* One run of @count messages. */
static inline int rig_append_sized(struct rig *r, uint32_t partition, uint64_t offset, uint32_t count, uint32_t size,
				   uint32_t durability, uint64_t *ret_index)
{
	struct thmq_run_header *run;
	int rc = thmq_log_append(r->log, (uint32_t)sizeof(*run) + size, &run, ret_index);

	if (rc)
		return rc;
	rig_fill(run, partition, offset, count, size);
	thmq_log_append_end(r->log, run, durability);
	return 0;
}

static inline int rig_append(struct rig *r, uint32_t partition, uint64_t offset, uint32_t durability,
			     uint64_t *ret_index)
{
	return rig_append_sized(r, partition, offset, 1, rig_size(partition, offset), durability, ret_index);
}

static inline void rig_poll(struct rig *r, uint32_t rounds)
{
	while (rounds--)
		thmqi_core_poll(r->core, 100000);
}

/* Until @index is durable. Return: 0, -ETIMEDOUT */
static inline int rig_await(struct rig *r, uint64_t index)
{
	for (uint32_t i = 0; i < 100000 && !r->failed; i++) {
		if (r->durable >= index)
			return 0;
		thmqi_core_poll(r->core, 1000000);
	}
	return r->failed ? r->failed : -ETIMEDOUT;
}

/* Append, polling while there is no room. */
static inline int rig_append_wait(struct rig *r, uint32_t partition, uint64_t offset, uint32_t size, uint32_t durability,
				  uint64_t *ret_index)
{
	int rc = -EAGAIN;

	for (uint32_t i = 0; i < 100000 && rc == -EAGAIN; i++) {
		rc = rig_append_sized(r, partition, offset, 1, size, durability, ret_index);
		if (rc == -EAGAIN)
			thmqi_core_poll(r->core, 1000000);
	}
	return rc;
}

static inline bool rig_view_ok(const struct thmq_log_view *v, uint32_t partition, uint64_t offset)
{
	const struct thmq_run_header *run = v->run.header;

	if (run->magic != THMQ_RUN_MAGIC || run->partition != partition || run->base_offset != offset)
		return false;
	for (uint32_t i = 0; i < run->len; i++)
		if (((const uint8_t *)v->run.payload)[i] != rig_byte(partition, offset, i))
			return false;
	return true;
}

/* The next run below @end, waiting for the device. Return: as thmq_log_read(). */
static inline int rig_read(struct rig *r, struct thmq_log_reader *reader, uint64_t end, struct thmq_log_view *v)
{
	int rc = 0;

	for (uint32_t i = 0; i < 1000 && rc == 0; i++) {
		rc = thmq_log_read(reader, end, v);
		if (rc == 0)
			thmqi_core_poll(r->core, 1000000);
	}
	return rc;
}

/*
 * All of @partition from @begin on are there, whole, one message a run without gaps up to @end.
 * Return: how many; -1 where one was wrong; or an error of thmq_log_read().
 */
static inline int64_t rig_read_all(struct rig *r, uint32_t partition, uint64_t begin, uint64_t end)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t at = begin;
	int rc = 1;

	if (thmq_log_reader_open(r->log, partition, rig_ready, r, &reader) != 0)
		return -ENOMEM;
	thmq_log_reader_seek(reader, begin);
	while (at < end && rc == 1) {
		rc = rig_read(r, reader, end, &v);
		if (rc != 1)
			break;
		if (!rig_view_ok(&v, partition, at))
			rc = -1;
		at = v.run.header->base_offset + v.run.header->span;
		thmq_log_view_release(r->log, &v);
	}
	thmq_log_reader_close(reader);
	return rc < 0 ? rc : (int64_t)(at - begin);
}

/* Return: 0; -ENOENT; or another error. */
static inline int rig_find_time(struct rig *r, uint32_t partition, int64_t time_ns, uint64_t *ret_offset)
{
	struct thmq_log_reader *reader;
	int rc = thmq_log_reader_open(r->log, partition, rig_ready, r, &reader);

	if (rc)
		return rc;
	while ((rc = thmq_log_reader_find_time(reader, time_ns, ret_offset)) == 0)
		thmqi_core_poll(r->core, 1000000);
	thmq_log_reader_close(reader);
	return rc == 1 ? 0 : rc;
}

#endif
