/* SPDX-License-Identifier: Apache-2.0 */
/* Readers: the tail cache and what it cannot hold, the device, its faults, too little memory. On a simulated disk. */
#include <criterion/criterion.h>

#include "commitlog/copies.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE

static struct rig r;

static void up_small_cache(void)
{
	rig_init(&r, 1, NULL);
	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	cr_assert_eq(rig_close(&r), 0);
	rig_fini(&r);
}

/* @count runs of @size bytes in partitions 0 … 3 in turn. */
static void store(uint64_t count, uint32_t size)
{
	uint64_t index = 0;

	for (uint64_t i = 0; i < count; i++) {
		cr_assert_eq(rig_append_wait(&r, (uint32_t)(i % 4), i / 4, size, DURABLE, &index), 0);
		if (i % 3 == 0)
			thmqi_core_poll(r.core, 1000000);
	}
	cr_assert_eq(rig_await(&r, index), 0);
}

static uint64_t reads(void)
{
	struct thmqi_disk_sim_stats s;

	thmqi_disk_sim_stats(r.sim, &s);
	return s.ops[THMQI_DISK_READ];
}

Test(commitlog_reader, what_left_the_cache_is_read_from_the_device, .init = up_small_cache, .fini = down)
{
	uint64_t before;

	store(2000, 3000);
	cr_assert_leq(rig_stats(&r).cache_bytes, 64u << 10);
	before = reads();
	for (uint32_t p = 0; p < 4; p++)
		cr_assert_eq(rig_read_all(&r, p, 0, 500), 500);
	cr_assert_gt(reads(), before);
	cr_assert_lt(reads() - before, 4 * 40, "neighbours come along");
	/* from the middle; and at the end nothing is read from the device */
	cr_assert_eq(rig_read_all(&r, 1, 250, 500), 250);
	before = reads();
	cr_assert_eq(rig_read_all(&r, 3, 499, 500), 1);
	cr_assert_eq(reads(), before);
}

Test(commitlog_reader, a_reader_that_waits_for_the_device_is_called, .init = up_small_cache, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;

	store(400, 3000);
	cr_assert_eq(thmq_log_reader_open(r.log, 0, rig_ready, &r, &reader), 0);
	thmq_log_reader_seek(reader, 0);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 0);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 0);
	cr_assert_eq(r.ready, 0);
	for (int i = 0; i < 100 && !r.ready; i++)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_eq(r.ready, 1);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 1);
	cr_assert(rig_view_ok(&v, 0, 0));
	thmq_log_view_release(r.log, &v);
	/* closed while it reads, with a view held */
	thmq_log_reader_seek(reader, 60);
	cr_assert_eq(thmq_log_read(reader, 100, &v), 0);
	thmq_log_reader_close(reader);
	rig_poll(&r, 100);
}

Test(commitlog_reader, a_view_keeps_its_memory_when_the_window_moves_on, .init = up_small_cache, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view first, v;

	store(1000, 3000);
	cr_assert_eq(thmq_log_reader_open(r.log, 2, NULL, NULL, &reader), 0);
	thmq_log_reader_seek(reader, 0);
	cr_assert_eq(rig_read(&r, reader, 250, &first), 1);
	for (uint64_t i = 1; i < 250; i++) {
		cr_assert_eq(rig_read(&r, reader, 250, &v), 1);
		cr_assert(rig_view_ok(&v, 2, i));
		thmq_log_view_release(r.log, &v);
	}
	cr_assert(rig_view_ok(&first, 2, 0));
	thmq_log_view_release(r.log, &first);
	thmq_log_view_release(r.log, &first);
	thmq_log_reader_close(reader);
}

Test(commitlog_reader, bytes_that_changed_on_the_device_are_not_believed, .init = up_small_cache, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	int rc;

	store(400, 3000);
	for (uint8_t effect = THMQI_DISK_SIM_ERROR; effect <= THMQI_DISK_SIM_CORRUPT; effect++) {
		struct thmqi_disk_sim_fault f = {.opcode = THMQI_DISK_READ, .effect = effect, .nth = 1};

		if (effect == THMQI_DISK_SIM_LOST)
			continue;
		cr_assert_eq(thmq_log_reader_open(r.log, 0, NULL, NULL, &reader), 0);
		thmq_log_reader_seek(reader, 0);
		thmqi_disk_sim_fault_add(r.sim, &f);
		/* a flipped bit may lie behind the first batch: then the read of what follows is refused, or repeated */
		for (uint64_t i = 0; i < 60; i++) {
			rc = rig_read(&r, reader, 100, &v);
			if (rc != 1)
				break;
			cr_assert(rig_view_ok(&v, 0, i));
			thmq_log_view_release(r.log, &v);
		}
		cr_assert(rc == 1 || rc == -EIO || rc == -THMQ_ECORRUPT, "%d", rc);
		if (effect != THMQI_DISK_SIM_CORRUPT)
			cr_assert_lt(rc, 0);
		/* the device is well again: so is the reader */
		thmqi_disk_sim_faults_clear(r.sim);
		thmq_log_reader_seek(reader, 0);
		cr_assert_eq(rig_read(&r, reader, 100, &v), 1);
		cr_assert(rig_view_ok(&v, 0, 0));
		thmq_log_view_release(r.log, &v);
		thmq_log_reader_close(reader);
	}
	cr_assert_eq(r.failed, 0, "a read error is not the log's end");
}

Test(commitlog_reader, a_read_damaged_at_rest_stays_an_error_for_that_batch_only, .init = up_small_cache, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint32_t bad = 0, good = 0;

	store(400, 30000);
	cr_assert_eq(thmqi_disk_sim_damage(r.sim, RIG_DIR, RIG_SEGMENT, 300000, 20000), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	for (uint64_t i = 0; i < 100; i++) {
		int rc;

		thmq_log_reader_seek(reader, i);
		rc = rig_read(&r, reader, 100, &v);
		if (rc == 1) {
			cr_assert(rig_view_ok(&v, 1, i));
			thmq_log_view_release(r.log, &v);
			good++;
		} else {
			cr_assert_eq(rc, -THMQ_ECORRUPT);
			bad++;
		}
	}
	thmq_log_reader_close(reader);
	cr_assert_lt(bad, 8);
	cr_assert_eq(good + bad, 100);
}

Test(commitlog_reader, many_readers_at_once_are_all_served)
{
	enum { READERS = 300 };
	static struct thmq_log_reader *readers[READERS];
	static uint64_t next[READERS];
	struct thmq_log_view v;
	uint32_t done = 0;

	rig_init(&r, 3, NULL);
	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_open(&r), 0);
	store(400, 3000);
	for (uint32_t i = 0; i < READERS; i++) {
		cr_assert_eq(thmq_log_reader_open(r.log, i % 4, rig_ready, &r, &readers[i]), 0);
		thmq_log_reader_seek(readers[i], 0);
	}
	for (uint32_t round = 0; round < 20000 && done < READERS; round++) {
		for (uint32_t i = 0; i < READERS; i++) {
			while (next[i] < 100 && thmq_log_read(readers[i], 100, &v) == 1) {
				cr_assert(rig_view_ok(&v, i % 4, next[i]));
				thmq_log_view_release(r.log, &v);
				done += ++next[i] == 100;
			}
		}
		thmqi_core_poll(r.core, 1000000);
	}
	cr_assert_eq(done, READERS);
	for (uint32_t i = 0; i < READERS; i++)
		thmq_log_reader_close(readers[i]);
	down();
}

Test(commitlog_reader, a_cache_larger_than_the_pool_makes_way)
{
	uint64_t index = 0, i;

	rig_init(&r, 4, NULL);
	r.pool_bytes = 32u << 20; /* one slab */
	r.opts.cache_bytes = 1u << 30;
	cr_assert_eq(rig_open(&r), 0);
	for (i = 0; i < 1500; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 60000, DURABLE, &index), 0, "%llu", (unsigned long long)i);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, i), (int64_t)i);
	down();
}

Test(commitlog_reader, without_memory_appends_wait_and_go_on_when_views_are_released)
{
	enum { VIEWS = 200 };
	static struct thmq_log_view held[VIEWS];
	struct thmq_log_reader *reader;
	uint64_t index = 0, i;
	uint32_t n = 0;
	int rc = 0;

	rig_init(&r, 5, NULL);
	r.pool_bytes = 32u << 20;
	r.opts.cache_bytes = 1u << 30;
	cr_assert_eq(rig_open(&r), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, NULL, NULL, &reader), 0);
	for (i = 0; i < 10000 && n < VIEWS; i++) {
		rc = rig_append_sized(&r, 1, i, 1, 250000, DURABLE, &index);
		for (int k = 0; rc == -EAGAIN && k < 200; k++) {
			thmqi_core_poll(r.core, 1000000);
			rc = rig_append_sized(&r, 1, i, 1, 250000, DURABLE, &index);
		}
		if (rc)
			break;
		cr_assert_eq(rig_read(&r, reader, i + 1, &held[n]), 1);
		n++;
	}
	cr_assert_eq(rc, -EAGAIN);
	cr_assert_gt(n, 50);
	for (uint32_t k = 0; k < n; k++) {
		cr_assert(rig_view_ok(&held[k], 1, k));
		thmq_log_view_release(r.log, &held[k]);
	}
	r.rooms = 0;
	for (int k = 0; k < 100 && !r.rooms; k++)
		thmqi_core_poll(r.core, 10000000);
	cr_assert_gt(r.rooms, 0);
	cr_assert_eq(rig_append_wait(&r, 1, i, 250000, DURABLE, &index), 0);
	thmq_log_reader_close(reader);
	down();
}

/* Who has stopped keeps what was read for him, and the pool may have no other block that is large enough: who goes on has it instead. */
Test(commitlog_reader, who_goes_on_gets_the_memory_of_those_that_stopped)
{
	static struct thmqi_buf *held[16384], *small[16];
	struct thmqi_log_fetch cached = {0};
	struct thmq_log_reader *stopped, *reader;
	struct thmq_log_view v;
	uint32_t count = 0;
	uint64_t last = 0;

	rig_init(&r, 1, NULL);
	r.pool_bytes = THMQI_SLAB_BYTES;
	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 100; i++) {
		cr_assert_eq(rig_append_wait(&r, (uint32_t)(i % 2), i / 2, 50000, DURABLE, &last), 0);
		cr_assert_eq(rig_await(&r, last), 0);
	}
	cr_assert_eq(thmq_log_reader_open(r.log, 0, rig_ready, &r, &stopped), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	thmq_log_reader_seek(stopped, 0);
	thmq_log_reader_seek(reader, 0);
	cr_assert_eq(rig_read(&r, stopped, 50, &v), 1);
	thmq_log_view_release(r.log, &v);
	for (; thmqi_log_is_cached(r.log, last); last--) { /* that makes no room */
		cr_assert_eq(thmqi_log_fetch(r.log, &cached, last), 1);
		held[count++] = cached.buf;
	}
	cr_assert_gt(last, 100 / 2);
	for (uint32_t i = 0; i < 16; i++) /* pages of the index go there */
		cr_assert_eq(thmqi_buf_alloc(r.core->pool, 4096, &small[i]), 0);
	while (count < THMQI_ARRAY_COUNT(held) && thmqi_buf_alloc(r.core->pool, 4096, &held[count]) == 0)
		count++;
	cr_assert_lt(count, THMQI_ARRAY_COUNT(held));
	for (uint32_t i = 0; i < 16; i++)
		thmqi_buf_unref(small[i]);
	for (uint64_t i = 0; i < 40; i++) {
		cr_assert_eq(rig_read(&r, reader, 50, &v), 1, "%llu", (unsigned long long)i);
		cr_assert(rig_view_ok(&v, 1, i));
		thmq_log_view_release(r.log, &v);
	}
	cr_assert_eq(rig_read(&r, stopped, 50, &v), 1, "and what was taken from the other one is read again");
	cr_assert(rig_view_ok(&v, 0, 1));
	thmq_log_view_release(r.log, &v);
	while (count)
		thmqi_buf_unref(held[--count]);
	thmq_log_reader_close(stopped);
	thmq_log_reader_close(reader);
	down();
}
