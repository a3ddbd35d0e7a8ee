/* SPDX-License-Identifier: Apache-2.0 */
/* Batches for a copy that is behind: read ahead from the device, whatever happens to the log, its device and its memory meanwhile. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "commitlog/copies.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define SIZE 20000u /* of a run, and so nearly of its batch */
#define CACHE_BYTES (64u << 10)
#define ATTEMPTS 10000u

static struct rig r;
static struct thmqi_log_fetch fetch;
static int done_rc; /* 1: not yet */

static void on_done(struct thmqi_log_fetch *f, int error)
{
	(void)f;
	done_rc = error;
}

static void up(void)
{
	rig_init(&r, 1, NULL);
	r.opts.cache_bytes = CACHE_BYTES;
	cr_assert_eq(rig_open(&r), 0);
	fetch = (struct thmqi_log_fetch){.done = on_done};
}

static void down(void)
{
	thmqi_log_fetch_drop(&fetch);
	cr_assert_eq(rig_close(&r), 0); /* and no block of the pool is left */
	rig_fini(&r);
}

/* One batch for each run; its offset is its number. Return: index of the last. */
static uint64_t store(uint64_t first, uint64_t count, uint32_t size)
{
	uint64_t index = 0;

	for (uint64_t i = first; i < first + count; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, size, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
	}
	return index;
}

/* Begins. Return: as thmqi_log_fetch(). */
static int ask(uint64_t index)
{
	done_rc = 1;
	return thmqi_log_fetch(r.log, &fetch, index);
}

/* Return: 1 it is in fetch.buf; or the error; -EAGAIN: it never came. */
static int get(uint64_t index)
{
	int rc = -EAGAIN;

	for (uint32_t i = 0; i < ATTEMPTS && rc == -EAGAIN; i++) {
		rc = ask(index);
		for (uint32_t k = 0; k < ATTEMPTS && rc == 0; k++) {
			rig_poll(&r, 1);
			if (done_rc != 1)
				rc = done_rc ? done_rc : 1;
		}
		if (rc == -EAGAIN)
			rig_poll(&r, 1);
	}
	return rc;
}

/* The batch in fetch.buf is @index, with the run of @partition and @offset, or a pad. It goes. Return: the offset of the next one. */
static uint64_t take(uint64_t index, uint32_t partition, uint64_t offset)
{
	struct thmqi_log_received is;

	cr_assert_eq(thmqi_log_batch_check(r.log, fetch.buf->data, fetch.len, &is), 0);
	cr_assert_eq(is.index, index);
	if (is.type == THMQI_BATCH_DATA) {
		const struct thmq_log_view v = {.run = {.header = (const struct thmq_run_header *)(fetch.buf->data + THMQI_BATCH_HEADER_BYTES),
							.payload = fetch.buf->data + THMQI_BATCH_HEADER_BYTES +
								   sizeof(struct thmq_run_header)}};

		cr_assert(rig_view_ok(&v, partition, offset), "batch %llu", (unsigned long long)index);
		offset++;
	}
	thmqi_buf_unref(fetch.buf);
	return offset;
}

static struct thmqi_disk_sim_fault on_reads(uint8_t effect, uint64_t nth)
{
	return (struct thmqi_disk_sim_fault){.opcode = THMQI_DISK_READ, .effect = effect, .nth = nth};
}

/* Over the ends of segments, by far fewer reads than batches; at the end, in memory again, nothing is kept of what was read. */
Test(commitlog_fetch, all_come_in_their_order, .init = up, .fini = down)
{
	uint64_t last = store(0, 200, SIZE), reads, index, offset = 0;
	struct thmq_env_stats s = {.size = sizeof(s)};

	cr_assert(rig_stats(&r).segment_count > 1);
	for (index = 1; index <= last && offset == 0; index++) { /* the first ones are the log's own */
		cr_assert_eq(get(index), 1);
		offset = take(index, 1, 0);
	}
	thmq_env_stats(r.env, &s);
	reads = s.read_bytes;
	for (; index <= last; index++) {
		cr_assert_eq(get(index), 1, "batch %llu", (unsigned long long)index);
		offset = take(index, 1, offset);
	}
	cr_assert_eq(offset, 200);
	thmq_env_stats(r.env, &s);
	cr_assert_lt(s.read_bytes - reads, 2ull * 200 * SIZE, "what was read ahead is used");
	cr_assert_null(fetch.ahead);
}

Test(commitlog_fetch, a_read_that_fails_says_so_and_the_next_one_goes_on, .init = up, .fini = down)
{
	static const struct {
		uint8_t effect;
		int rc;
	} bad[] = {{THMQI_DISK_SIM_ERROR, -EIO}, {THMQI_DISK_SIM_SHORT, -EIO}, {THMQI_DISK_SIM_MISDIRECT, -THMQ_ECORRUPT}};
	uint64_t last = store(0, 100, SIZE);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct thmqi_disk_sim_fault fault = on_reads(bad[i].effect, 1);

		fault.arg = 1 << 20;
		thmqi_log_fetch_drop(&fetch);
		cr_assert_eq(get(last - 60), 1);
		thmqi_buf_unref(fetch.buf);
		thmqi_log_fetch_drop(&fetch);
		cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &fault), 0);
		cr_assert_eq(get(last - 59), bad[i].rc, "%zu", i);
		cr_assert_null(fetch.ahead);
		cr_assert_eq(get(last - 59), 1, "%zu", i);
		thmqi_buf_unref(fetch.buf);
	}
}

/* A truncation waits for what is being read; what was read before it is of no use, and what is asked for behind it is what is there now. */
Test(commitlog_fetch, nothing_of_before_a_truncation, .init = up, .fini = down)
{
	uint64_t last = store(0, 40, SIZE), index;

	for (uint32_t under_way = 0; under_way < 2; under_way++) {
		cr_assert_eq(get(last - 30), 1);
		thmqi_buf_unref(fetch.buf);
		if (under_way) {
			thmqi_log_fetch_drop(&fetch);
			while (ask(last - 29) != 0)
				rig_poll(&r, 1);
			cr_assert(fetch.reading);
		} else {
			cr_assert_not_null(fetch.ahead);
		}
		cr_assert_eq(thmq_log_truncate(r.log, last - 29), 0);
		cr_assert_not(fetch.reading);
		if (under_way) {
			cr_assert_eq(done_rc, 0);
			thmqi_buf_unref(fetch.buf);
		}
		for (uint64_t i = 0; i < 30; i++) { /* as many, with other bytes, and out of memory by the end */
			cr_assert_eq(rig_append_wait(&r, 2 + under_way, 1000 + i, SIZE, DURABLE, &index), 0);
			cr_assert_eq(rig_await(&r, index), 0);
		}
		cr_assert_eq(index, last);
		cr_assert_not(thmqi_log_is_cached(r.log, last - 29));
		for (uint64_t i = 0; i < 30; i++) {
			cr_assert_eq(get(last - 29 + i), 1);
			take(last - 29 + i, 2 + under_way, 1000 + i);
		}
	}
}

/* A file that has become shorter: an error, and not the same read for ever. */
Test(commitlog_fetch, a_file_that_was_cut_from_outside)
{
	char dir[] = "fetch-XXXXXX", path[64], command[64];
	static const uint32_t runs[] = {60000, 60000, 200000, 60000, 60000, 60000};
	struct thmq_run_header *run;
	struct thmq_log_stats s = {.size = sizeof(s)};
	uint64_t index = 0, at = 0, term;
	int rc = 0;

	cr_assert_not_null(mkdtemp(dir));
	memset(&r, 0, sizeof(r));
	snprintf(path, sizeof(path), "%s/log", dir);
	cr_assert_eq(thmq_env_open(&r.env, NULL), 0);
	cr_assert_eq(thmq_log_open(thmqi_env_core(r.env, 0), THMQ_LOG_OPTS(.dir = path, .cache_bytes = CACHE_BYTES), &r.log), 0, "%s", thmq_errmsg());
	for (uint32_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		cr_assert_eq(thmq_log_append(r.log, (uint32_t)sizeof(*run) + runs[i], &run, &index), 0);
		rig_fill(run, 1, i, 1, runs[i]);
		cr_assert_eq(thmq_log_append_end(r.log, run, DURABLE), 0);
		do {
			thmq_poll(r.env, 1000000);
			thmq_log_stats(r.log, &s);
		} while (s.durable_index < index);
	}
	cr_assert_not(thmqi_log_is_cached(r.log, index - 3));
	cr_assert_eq(thmq_log_find_index(r.log, index - 3, &at, &term), 0);
	snprintf(path, sizeof(path), "%s/log/" RIG_SEGMENT, dir);
	cr_assert_eq(truncate(path, (off_t)at + 8192), 0);
	fetch = (struct thmqi_log_fetch){.done = on_done};
	for (uint32_t attempt = 0; attempt < 100 && rc != -THMQ_ECORRUPT; attempt++) {
		rc = ask(index - 3);
		while (rc == 0) {
			thmq_poll(r.env, 1000000);
			if (done_rc != 1)
				rc = done_rc ? done_rc : 1;
		}
		cr_assert_neq(rc, 1);
	}
	cr_assert_eq(rc, -THMQ_ECORRUPT);
	thmqi_log_fetch_drop(&fetch);
	thmq_log_close(r.log, 1000000000);
	thmq_env_close(r.env, 1000000000);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

/* A segment whose bytes are being read is not given to others. */
Test(commitlog_fetch, a_segment_that_goes_meanwhile, .init = up, .fini = down)
{
	struct thmqi_disk_sim_fault slow = on_reads(THMQI_DISK_SIM_STALL, 1);
	uint64_t index, term, offset = 0;

	store(0, 200, SIZE);
	thmqi_log_begin(r.log, &index, &term);
	slow.arg = 50000000;
	index++;
	cr_assert_eq(get(index), 1);
	offset = take(index, 1, 0);
	thmqi_log_fetch_drop(&fetch);
	cr_assert_eq(thmqi_disk_sim_fault_add(r.sim, &slow), 0);
	cr_assert_eq(ask(++index), 0);
	cr_assert_eq(thmqi_log_drop_before(r.log, UINT64_MAX), 0);
	for (uint32_t i = 0; i < ATTEMPTS && fetch.reading; i++)
		rig_poll(&r, 1);
	cr_assert_eq(done_rc, 0);
	take(index, 1, offset);
	store(200, 200, SIZE); /* the file is another segment's now */
	thmqi_log_fetch_drop(&fetch);
	cr_assert_eq(get(index), -ENOENT);
}

static void on_formed(void *ctx, uint64_t index, uint64_t term, uint32_t type)
{
	(void)ctx, (void)index, (void)term, (void)type;
}

/* The log of a copy that leads. */
static void open_leader(void)
{
	const struct thmqi_log_copies owner = {.formed = on_formed};

	r.opts.cache_bytes = CACHE_BYTES;
	r.opts.events = &r.events;
	r.opts.ctx = &r;
	cr_assert_eq(rig_env(&r), 0);
	cr_assert_eq(thmqi_log_open_copy(r.core, &r.opts, &owner, 0, &r.log), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmqi_log_vote_set_now(r.log, 1, 1), 0);
	thmqi_log_lead(r.log, true);
}

/* What is kept for a copy that is close behind: so much and no more, and nothing once this one leads no more. */
Test(commitlog_fetch, memory_for_who_is_close_behind_is_bounded)
{
	uint64_t index, first = 0, most = 0;

	rig_init(&r, 1, NULL);
	open_leader();
	for (uint64_t i = 0; i < 100; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, SIZE, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		thmqi_log_committed(r.log, index);
		first = first ? first : index;
		thmqi_log_keep(r.log, first); /* it does not get on */
		most = THMQI_MAX(most, rig_stats(&r).cache_bytes);
	}
	cr_assert_gt(most, 2 * CACHE_BYTES, "more than the cache alone would hold");
	cr_assert_leq(most, 4 * CACHE_BYTES + THMQI_ALIGN_UP(2 * SIZE, 4096u));
	cr_assert_not(thmqi_log_is_cached(r.log, first));
	cr_assert(thmqi_log_is_cached(r.log, index - 1));
	thmqi_log_keep(r.log, index - 1);
	for (uint64_t i = 100; i < 104; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, SIZE, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		thmqi_log_committed(r.log, index);
	}
	cr_assert_gt(rig_stats(&r).cache_bytes, CACHE_BYTES + 2 * SIZE);
	thmqi_log_lead(r.log, false);
	cr_assert_leq(rig_stats(&r).cache_bytes, CACHE_BYTES);
	cr_assert_eq(rig_close(&r), 0);
	rig_fini(&r);
}

/* ------------------------------------------------------------------ memory */

#define SMALL 3000u /* of a run: its batch is one block */
#define BLOCKS_MAX 16384u

static struct thmqi_buf *held[BLOCKS_MAX];
static uint32_t held_count;

/* All memory is in use. @holes: but for every second block of the smallest size. */
static void use_up(bool holes)
{
	while (held_count < BLOCKS_MAX && thmqi_buf_alloc(r.core->pool, 4096, &held[held_count]) == 0)
		held_count++;
	cr_assert_lt(held_count, BLOCKS_MAX, "the pool has an end");
	for (uint32_t i = 0; holes && i < held_count; i++) {
		uint64_t block = (uint64_t)(uintptr_t)held[i]->data / 4096;

		if (block % 2)
			continue;
		thmqi_buf_unref(held[i]);
		held[i--] = held[--held_count];
	}
}

/* What is cached up to @last makes no room. Return: index of the last one that is not. */
static uint64_t hold_cached(uint64_t last)
{
	struct thmqi_log_fetch cached = {.done = on_done};

	for (; thmqi_log_is_cached(r.log, last); last--) {
		cr_assert_eq(thmqi_log_fetch(r.log, &cached, last), 1);
		held[held_count++] = cached.buf;
	}
	return last;
}

static void give_back(void)
{
	while (held_count)
		thmqi_buf_unref(held[--held_count]);
}

static void small_up(void)
{
	rig_init(&r, 1, NULL);
	r.pool_bytes = THMQI_SLAB_BYTES;
	r.opts.cache_bytes = CACHE_BYTES;
	cr_assert_eq(rig_open(&r), 0);
	fetch = (struct thmqi_log_fetch){.done = on_done};
}

static void small_down(void)
{
	give_back();
	down();
}

/* A pool that is in use for long has no large block; what readers hold of it may be theirs until this copy has caught up. */
Test(commitlog_fetch, goes_on_where_memory_is_in_pieces, .init = small_up, .fini = small_down)
{
	uint64_t last = store(0, 200, SMALL), index, offset = 0;

	use_up(true);
	for (index = 1; index <= last; index++) {
		cr_assert_eq(get(index), 1, "batch %llu", (unsigned long long)index);
		offset = take(index, 1, offset);
	}
	cr_assert_eq(offset, 200);
	give_back();
	thmqi_log_fetch_drop(&fetch);
	for (index = last - 100, offset = 100 - 1; index <= last; index++) { /* and by large reads again */
		cr_assert_eq(get(index), 1);
		offset = take(index, 1, offset);
	}
}

/* What it holds itself is enough for the next one. */
Test(commitlog_fetch, goes_on_with_the_memory_that_it_has, .init = small_up, .fini = small_down)
{
	uint64_t last = store(0, 200, SMALL), index = last - 150;
	uint64_t offset = 200 - 1 - 150;

	cr_assert_eq(get(index), 1);
	offset = take(index++, 1, offset);
	cr_assert_not_null(fetch.ahead);
	hold_cached(last);
	use_up(false);
	cr_assert_eq(get(index), 1);
	offset = take(index++, 1, offset);
	cr_assert_eq(get(index), 1);
	offset = take(index++, 1, offset);
	give_back();
	for (; index <= last; index++) {
		cr_assert_eq(get(index), 1, "batch %llu", (unsigned long long)index);
		offset = take(index, 1, offset);
	}
	cr_assert_eq(offset, 200);
}

/* A large one that left as it was read has that memory: the next one comes once it is back. */
Test(commitlog_fetch, goes_on_once_what_it_gave_is_back, .init = small_up, .fini = small_down)
{
	uint64_t first = store(0, 1, 100000), offset;

	cr_assert_gt(hold_cached(store(1, 20, SMALL)), first);
	cr_assert_eq(get(first), 1);
	cr_assert_not_null(fetch.ahead);
	cr_assert_eq(fetch.ahead->refs, 2, "it is what was read");
	use_up(false);
	thmqi_buf_ref(fetch.buf);
	offset = take(first, 1, 0);
	for (uint32_t i = 0; i < 10; i++)
		cr_assert_eq(ask(first + 1), -EAGAIN);
	thmqi_buf_unref(fetch.buf);
	cr_assert_eq(get(first + 1), 1);
	cr_assert_eq(take(first + 1, 1, offset), 2);
}

/* Others have all memory, and none of it in pieces either: one block is the log's own, and brings one batch after the other. */
Test(commitlog_fetch, goes_on_where_there_is_no_memory)
{
	uint64_t index = 0, first = 0, end, offset;
	struct thmqi_buf *on_its_way;

	rig_init(&r, 1, NULL);
	r.pool_bytes = THMQI_SLAB_BYTES;
	r.opts.batch_bytes = 64u << 10;
	open_leader();
	fetch = (struct thmqi_log_fetch){.done = on_done};
	for (uint64_t i = 0; i < 100; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, i % 3 ? SMALL : 60000, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
		thmqi_log_committed(r.log, index);
		first = first ? first : index;
	}
	end = hold_cached(index) + 1;
	cr_assert_gt(end, first + 50);
	use_up(false);
	cr_assert_eq(get(first), 1);
	on_its_way = fetch.buf;
	thmqi_buf_ref(on_its_way);
	offset = take(first, 1, 0);
	for (uint32_t i = 0; i < 10; i++)
		cr_assert_eq(ask(first + 1), -EAGAIN, "it is not read into before it has left");
	thmqi_buf_unref(on_its_way);
	for (index = first + 1; index < end; index++) {
		cr_assert_eq(get(index), 1, "batch %llu", (unsigned long long)index);
		offset = take(index, 1, offset);
	}
	cr_assert_gt(offset, 50);
	give_back();
	down();
}

/* Its log would have failed: nobody would lead, or somebody else, who may have no more. */
Test(commitlog_fetch, who_is_elected_begins_where_all_memory_is_in_use)
{
	uint64_t last;

	rig_init(&r, 1, NULL);
	r.pool_bytes = THMQI_SLAB_BYTES;
	open_leader();
	cr_assert_eq(rig_append_wait(&r, 1, 0, SMALL, DURABLE, &last), 0);
	cr_assert_eq(rig_await(&r, last), 0);
	hold_cached(last);
	use_up(false);
	cr_assert_eq(thmqi_log_noop(r.log), 0);
	cr_assert_eq(rig_await(&r, last + 1), 0);
	thmqi_log_committed(r.log, last + 1);
	give_back();
	cr_assert_eq(rig_append_wait(&r, 1, 1, SMALL, DURABLE, &last), 0);
	cr_assert_eq(rig_await(&r, last), 0);
	cr_assert_eq(rig_close(&r), 0);
	rig_fini(&r);
}
