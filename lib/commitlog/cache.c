/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the tail cache: the newest batches, by index, in the buffers they were formed in. The oldest go when it is
 * full; a reader that holds one keeps its memory by reference. For a log in memory it is all there is.
 */
#include "internal.h"

static struct thmqi_buf **slot_of(const struct thmq_log *log, uint64_t index)
{
	return &log->cache[index & log->cache_mask];
}

static void drop(struct thmq_log *log, uint64_t index)
{
	struct thmqi_buf **slot = slot_of(log, index);

	log->cached_bytes -= (*slot)->size;
	thmqi_buf_unref(*slot);
	*slot = NULL;
}

/* What the device does not have yet is read from here only. */
bool thmqi_cache_drop_one(struct thmq_log *log)
{
	if (log->cache_first == log->cache_end || (log->disk && log->cache_first > log->written_index))
		return false;
	drop(log, log->cache_first++);
	return true;
}

void thmqi_cache_put(struct thmq_log *log, uint64_t index, struct thmqi_buf *buf)
{
	thmqi_assert(index == log->cache_end);
	*slot_of(log, index) = buf;
	log->cache_end = index + 1;
	log->cached_bytes += buf->size;
	thmqi_cache_trim(log);
}

/* It holds too much, of which the oldest one is not wanted by a copy that is close behind. */
static bool is_over(const struct thmq_log *log)
{
	const struct copies *c = &log->copies;

	if (log->cache_end - log->cache_first > log->cache_mask)
		return true;
	if (thmqi_likely(log->cached_bytes <= log->opts.cache_bytes))
		return false;
	return !c->keep || log->cache_first < c->keep || log->cached_bytes > c->keep_bytes;
}

/* It has more slots than batches may be unwritten; the newest one stays whatever its size. */
void thmqi_cache_trim(struct thmq_log *log)
{
	while (is_over(log) && log->cache_first + 1 < log->cache_end && thmqi_cache_drop_one(log))
		;
}

struct thmqi_buf *thmqi_cache_get(const struct thmq_log *log, uint64_t index)
{
	if (index < log->cache_first || index >= log->cache_end)
		return NULL;
	return *slot_of(log, index);
}

void thmqi_cache_drop_from(struct thmq_log *log, uint64_t index)
{
	while (log->cache_end > log->cache_first && log->cache_end > index)
		drop(log, --log->cache_end);
	if (log->cache_end > index) /* nothing was held: the next one goes where the log goes on */
		log->cache_first = log->cache_end = index;
}
