/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the tail cache: the newest batches, by index, in the buffers they were formed in. The oldest go when it is
 * full; a reader that holds one keeps its memory by reference. For a log in memory it is all there is.
 */
#include "internal.h"

static void drop_oldest(struct thmq_log *log)
{
	struct thmqi_buf **slot = &log->cache[log->cache_first++ & (CACHE_SLOTS - 1)];

	if (*slot) {
		log->cached_bytes -= (*slot)->size;
		thmqi_buf_unref(*slot);
		*slot = NULL;
	}
}

void thmqi_cache_put(struct thmq_log *log, uint64_t index, struct thmqi_buf *buf)
{
	if (log->cache_end != index) { /* the first one, or behind a gap */
		while (log->cache_first < log->cache_end)
			drop_oldest(log);
		log->cache_first = log->cache_end = index;
	}
	log->cache[log->cache_end++ & (CACHE_SLOTS - 1)] = buf;
	log->cached_bytes += buf->size;
	while (log->cache_end - log->cache_first > CACHE_SLOTS - 1 ||
	       (log->cached_bytes > log->opts.cache_bytes && log->cache_first + 1 < log->cache_end))
		drop_oldest(log);
}

struct thmqi_buf *thmqi_cache_get(struct thmq_log *log, uint64_t index)
{
	if (index < log->cache_first || index >= log->cache_end)
		return NULL;
	return log->cache[index & (CACHE_SLOTS - 1)];
}

void thmqi_cache_drop_from(struct thmq_log *log, uint64_t index)
{
	while (log->cache_end > log->cache_first && log->cache_end > index) {
		struct thmqi_buf **slot = &log->cache[--log->cache_end & (CACHE_SLOTS - 1)];

		if (*slot) {
			log->cached_bytes -= (*slot)->size;
			thmqi_buf_unref(*slot);
			*slot = NULL;
		}
	}
}
