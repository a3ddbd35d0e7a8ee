/* SPDX-License-Identifier: Apache-2.0 */
/* Records by their keys, newest first, and runs by their tags: from memory, from indexes, and where an index is of no use. */
#include <criterion/criterion.h>

#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MEMORY THMQ_DURABILITY_MEMORY
#define STEP 1000 /* ns of time between two offsets */
#define ALL INT64_MIN, INT64_MAX, UINT64_MAX
#define HITS 60000u

TestSuite(commitlog_key, .timeout = 60);

static struct rig r;
static struct thmq_log_hit hits[HITS];
static uint64_t keep; /* offsets from it on are live */

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	return e->partition == 2      ? THMQ_LOG_LASTS
	       : e->end_offset > keep ? THMQ_LOG_LIVE
				      : THMQ_LOG_DEAD;
}

static void up(void)
{
	rig_init(&r, 9, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	rig_fini(&r);
}

static uint32_t full(void)
{
	return (uint32_t)(rig_stats(&r).end_position >> 20);
}

/* One run of @count records from @offset on, with this key or without one (@key_len 0), @size bytes of data each. */
static uint64_t put(uint32_t partition, uint64_t offset, uint32_t count, const void *key,
		    uint32_t key_len, const char *tag, uint32_t size, uint32_t durability)
{
	static uint8_t data[65536];
	struct thmq_record_view records[64];
	struct thmq_run_header *run;
	uint64_t index;
	uint32_t len;
	int rc;

	for (uint32_t i = 0; i < count; i++)
		records[i] = (struct thmq_record_view){.offset = offset + i,
						       .time_ns = (int64_t)(offset + i) * STEP,
						       .key = key,
						       .key_len = key_len,
						       .tag = tag,
						       .tag_len = tag ? (uint32_t)strlen(tag) : 0,
						       .data = data,
						       .len = size};
	len = thmq_run_len(records, count);
	cr_assert_neq(len, 0);
	while ((rc = thmq_log_append(r.log, len, &run, &index)) == -EAGAIN)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_eq(rc, 0);
	cr_assert_eq(thmq_run_encode(run, len, partition, records, count), 0);
	thmq_log_append_end(r.log, run, durability);
	return index;
}

/* A key for every offset: @keys different ones. */
static const char *key_of(uint64_t number, char text[32])
{
	snprintf(text, 32, "key-%llu", (unsigned long long)number);
	return text;
}

static uint64_t put_numbered(uint32_t partition, uint64_t offset, uint64_t number, uint32_t size,
			     uint32_t durability)
{
	char text[32];

	key_of(number, text);
	return put(partition, offset, 1, text, (uint32_t)strlen(text), NULL, size, durability);
}

static void settle(uint64_t index)
{
	uint64_t flushed = index;

	cr_assert_eq(thmq_log_flush(r.log, &flushed), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 400); /* the last index is written */
}

/* All hits of a search, @step at a time. Return: how many; or an error. */
static int64_t find(struct thmq_log_reader *reader, const void *key, uint32_t key_len, int64_t from,
		    int64_t to, uint64_t before, uint32_t step)
{
	int64_t count = 0;
	int rc = thmq_log_reader_seek_key(reader, key, key_len, from, to, before);

	for (uint32_t i = 0; !rc && i < 1000000; i++) {
		rc = thmq_log_reader_find_key(reader, THMQI_MIN(step, HITS - (uint32_t)count),
					      &hits[count]);
		if (rc > 0) {
			count += rc;
			rc = 0;
		} else if (rc == 0) {
			thmqi_core_poll(r.core, 1000000);
		}
	}
	return rc == -ENOENT ? count : rc;
}

static int64_t find_in(uint32_t partition, const void *key, uint32_t key_len, int64_t from,
		       int64_t to, uint64_t before)
{
	struct thmq_log_reader *reader;
	int64_t n;

	cr_assert_eq(thmq_log_reader_open(r.log, partition, rig_ready, &r, &reader), 0);
	n = find(reader, key, key_len, from, to, before, 7);
	thmq_log_reader_close(reader);
	return n;
}

static int64_t find_number(uint32_t partition, uint64_t number)
{
	char text[32];

	key_of(number, text);
	return find_in(partition, text, (uint32_t)strlen(text), ALL);
}

/* The record of hit @i is read, and its key is this. Return: as thmq_log_read_hit(). */
static int read_hit(struct thmq_log_reader *reader, const struct thmq_log_hit *hit, const void *key,
		    uint32_t key_len)
{
	struct thmq_record_view record;
	struct thmq_log_view view;
	int rc = 0;

	for (uint32_t i = 0; i < 10000 && rc == 0; i++) {
		rc = thmq_log_read_hit(reader, hit, &view, &record);
		if (rc == 0)
			thmqi_core_poll(r.core, 1000000);
	}
	if (rc != 1)
		return rc;
	cr_assert_eq(record.offset, hit->offset);
	cr_assert_eq(record.time_ns, hit->time_ns);
	if (key)
		cr_assert(record.key_len == key_len && memcmp(record.key, key, key_len) == 0);
	thmq_log_view_release(r.log, &view);
	return 1;
}

/* Of offsets 0 … end - 1 every one with (offset mod keys) = number, the newest first, and all can be read. */
static void expect_every(uint32_t partition, uint64_t end, uint64_t keys, uint64_t number)
{
	struct thmq_log_reader *reader;
	uint64_t want = end - 1 - (end - 1 + keys - number) % keys;
	int64_t n = find_number(partition, number);
	char text[32];

	cr_assert_eq(n, (int64_t)((end - number + keys - 1) / keys), "key %lu: %ld",
		     (unsigned long)number, (long)n);
	cr_assert_eq(thmq_log_reader_open(r.log, partition, rig_ready, &r, &reader), 0);
	key_of(number, text);
	for (int64_t i = 0; i < n; i++, want -= keys) {
		cr_assert_eq(hits[i].offset, want, "key %lu, hit %ld", (unsigned long)number,
			     (long)i);
		cr_assert_eq(hits[i].time_ns, (int64_t)want * STEP);
		if (i % 7 == 0)
			cr_assert_eq(read_hit(reader, &hits[i], text, (uint32_t)strlen(text)), 1);
	}
	thmq_log_reader_close(reader);
}

static uint64_t fill(uint32_t segments, uint64_t offset, uint64_t keys, uint32_t size)
{
	uint32_t was = full();
	uint64_t index = 0;

	for (; full() < segments; offset++) {
		index = put_numbered(1, offset, offset % keys, size, offset % 5 ? MEMORY : DURABLE);
		if (full() != was)
			rig_poll(&r, 400);
		was = full();
	}
	settle(index);
	return offset;
}

static void reopen(bool kill)
{
	if (kill)
		rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	else
		cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
}

Test(commitlog_key, the_newest_come_first_from_memory_and_from_indexes, .init = up, .fini = down)
{
	uint64_t end = fill(4, 0, 97, 2000);

	for (int life = 0; life < 4; life++) {
		for (uint64_t k = 0; k < 97; k += 7)
			expect_every(1, end, 97, k);
		cr_assert_eq(find_number(1, 97), 0, "no such key");
		cr_assert_eq(find_number(2, 0), 0, "no such partition");
		if (life == 3)
			break;
		reopen(life % 2);
		if (life == 1)
			end = fill(6, end, 97, 1500);
	}
}

Test(commitlog_key, partitions_do_not_see_each_others_keys, .init = up, .fini = down)
{
	uint64_t index = 0;

	for (uint64_t i = 0; i < 600; i++)
		index = put((uint32_t)(1 + i % 3), i / 3, 1, "same", 4, NULL, 5000, MEMORY);
	settle(index);
	for (uint32_t p = 1; p <= 3; p++) {
		cr_assert_eq(find_in(p, "same", 4, ALL), 200);
		cr_assert_eq(hits[0].offset, 199);
		cr_assert_eq(hits[199].offset, 0);
	}
}

/* More than a page of an index has, and than one call passes over in memory. */
Test(commitlog_key, one_key_may_have_thousands, .init = up, .fini = down)
{
	uint64_t offset = 0, index = 0;

	for (; full() < 2; offset += 32)
		index = put(1, offset, 32, "only", 4, NULL, 60, MEMORY);
	for (int i = 0; i < 200; i++, offset += 32)
		index = put(1, offset, 32, "only", 4, NULL, 1, MEMORY);
	settle(index);
	for (int life = 0; life < 3; life++) {
		cr_assert_eq(find_in(1, "only", 4, ALL), (int64_t)offset);
		for (uint64_t i = 0; i < offset; i++)
			cr_assert_eq(hits[i].offset, offset - 1 - i);
		cr_assert_eq(find_in(1, "only", 4, INT64_MIN, INT64_MAX, 5000), 5000);
		cr_assert_eq(hits[0].offset, 4999);
		cr_assert_eq(find_in(1, "only", 4, 77 * STEP, 80 * STEP, UINT64_MAX), 3);
		cr_assert_eq(hits[0].offset, 79);
		reopen(life);
	}
}

Test(commitlog_key, a_range_of_times_has_its_begin_and_not_its_end, .init = up, .fini = down)
{
	static const uint64_t froms[] = {0, 1, 500, 501, 900}, lens[] = {0, 1, 2, 97, 98, 400};
	uint64_t end = fill(2, 0, 97, 2000);
	char text[32];

	key_of(5, text);
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(froms) * THMQI_ARRAY_COUNT(lens); i++) {
		uint64_t from = froms[i / THMQI_ARRAY_COUNT(lens)],
			 to = from + lens[i % THMQI_ARRAY_COUNT(lens)];
		int64_t want = 0;

		for (uint64_t o = from; o < THMQI_MIN(to, end); o++)
			want += o % 97 == 5;
		cr_assert_eq(
			find_in(1, text, 5, (int64_t)from * STEP, (int64_t)to * STEP, UINT64_MAX),
			want, "%lu … %lu", (unsigned long)from, (unsigned long)to);
	}
	cr_assert_eq(find_in(1, text, 5, 5 * STEP, 5 * STEP + 1, UINT64_MAX), 1);
	cr_assert_eq(find_in(1, text, 5, 5 * STEP + 1, 6 * STEP, UINT64_MAX), 0);
	cr_assert_eq(find_in(1, text, 5, (int64_t)end * STEP, INT64_MAX, UINT64_MAX), 0);
}

Test(commitlog_key, a_search_goes_on_before_an_offset, .init = up, .fini = down)
{
	uint64_t end = fill(3, 0, 11, 2000), seen = 0, before = UINT64_MAX;
	struct thmq_log_reader *reader;
	int rc;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	for (;;) { /* each page a search of its own */
		cr_assert_eq(
			thmq_log_reader_seek_key(reader, "key-3", 5, INT64_MIN, INT64_MAX, before),
			0);
		while ((rc = thmq_log_reader_find_key(reader, 5, hits)) == 0)
			thmqi_core_poll(r.core, 1000000);
		if (rc < 0)
			break;
		for (int i = 0; i < rc; i++)
			cr_assert_lt(hits[i].offset, i ? hits[i - 1].offset : before);
		seen += (uint64_t)rc;
		before = hits[rc - 1].offset;
	}
	cr_assert_eq(rc, -ENOENT);
	cr_assert_eq(seen, (end - 3 + 10) / 11);
	thmq_log_reader_close(reader);
}

static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
	return h ^ h >> 33;
}

/* Another key of the same hash: the second word makes up for the first. */
static void collide(const uint64_t key[2], uint64_t first, uint64_t ret[2])
{
	uint64_t h = 0x9e3779b97f4a7c15ull ^ 16, golden = 0x9e3779b97f4a7c15ull;

	ret[0] = first;
	ret[1] = mix(h ^ key[0]) * golden ^ key[1] ^ mix(h ^ first) * golden;
}

Test(commitlog_key, keys_of_one_hash_are_told_apart_by_reading, .init = up, .fini = down)
{
	uint64_t a[2] = {1, 2}, b[2], index = 0, mine = 0;
	struct thmq_record_view record;
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	int rc;

	collide(a, 77, b);
	cr_assert_eq(thmqi_hash64(a, 16), thmqi_hash64(b, 16));
	for (uint64_t i = 0; i < 400; i++)
		index = put(1, i, 1, i % 4 ? b : a, 16, NULL, 5000, MEMORY);
	settle(index);
	cr_assert_eq(find_in(1, a, 16, ALL), 400, "the index knows hashes");
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	for (int i = 0; i < 400; i++) {
		while ((rc = thmq_log_read_hit(reader, &hits[i], &view, &record)) == 0)
			thmqi_core_poll(r.core, 1000000);
		cr_assert_eq(rc, 1);
		cr_assert_eq(record.offset, hits[i].offset);
		mine += record.key_len == 16 && memcmp(record.key, a, 16) == 0;
		thmq_log_view_release(r.log, &view);
	}
	cr_assert_eq(mine, 100);
	thmq_log_reader_close(reader);
}

Test(commitlog_key, what_was_truncated_is_not_found, .init = up, .fini = down)
{
	uint64_t cut, end = fill(3, 0, 97, 2000), index, first, begin, was;

	/* in the open segment, then far back, then in what was opened again */
	for (int round = 0; round < 4; round++) {
		index = round == 1 ? rig_stats(&r).last_index / 3 : rig_stats(&r).last_index - 3;
		was = end;
		if (round == 3)
			reopen(true);
		cr_assert_eq(thmq_log_truncate(r.log, index), 0, "%s", thmq_errmsg());
		cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), 0);
		cr_assert_lt(end, was);
		for (uint64_t k = 0; k < 97; k += 13)
			expect_every(1, end, 97, k);
		/* the same offsets with other keys */
		cut = end;
		first = put(1, end++, 1, "new", 3, NULL, 2000, MEMORY);
		for (; end < cut + 50; end++)
			index = put(1, end, 1, "new", 3, NULL, 2000, MEMORY);
		settle(index);
		cr_assert_eq(find_in(1, "new", 3, ALL), 50);
		cr_assert_eq(hits[0].offset, end - 1);
		for (uint64_t k = 0; k < 97; k += 13)
			expect_every(1, cut, 97, k);
		cr_assert_eq(thmq_log_truncate(r.log, first), 0);
		thmq_log_bounds(r.log, 1, &begin, &end);
		end = fill(full() + 2, end, 97, 2000);
		if (round % 2)
			reopen(false);
		for (uint64_t k = 0; k < 97; k += 13)
			expect_every(1, end, 97, k);
		cr_assert_eq(find_in(1, "new", 3, ALL), 0);
	}
}

static void drop_one(void)
{
	uint64_t dropped = rig_stats(&r).dropped_segments;

	for (int i = 0; i < 1000 && thmqi_log_drop_oldest(r.log) == -EAGAIN; i++)
		rig_poll(&r, 10);
	for (int i = 0; i < 1000 && rig_stats(&r).dropped_segments == dropped; i++)
		rig_poll(&r, 10);
	cr_assert_eq(rig_stats(&r).dropped_segments, dropped + 1);
	rig_poll(&r, 200);
}

Test(commitlog_key, what_was_dropped_is_not_found_and_a_hit_of_it_is_gone, .init = up, .fini = down)
{
	uint64_t end = fill(4, 0, 10, 2000), begin, was_end;
	struct thmq_log_reader *reader;
	struct thmq_log_hit oldest;
	int64_t n = find_number(1, 3);

	cr_assert_eq(n, (int64_t)(end - 3 + 9) / 10);
	oldest = hits[n - 1];
	for (int round = 0; round < 2; round++) {
		drop_one();
		cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &was_end), 0);
		n = find_number(1, 3);
		cr_assert_geq(hits[n - 1].offset, begin);
		cr_assert_eq(n, (int64_t)((end - 3 + 9) / 10 - (begin - 3 + 9) / 10));
		cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
		cr_assert_eq(read_hit(reader, &oldest, NULL, 0), -ENOENT);
		cr_assert_eq(read_hit(reader, &hits[n - 1], "key-3", 5), 1);
		thmq_log_reader_close(reader);
		reopen(false);
	}
}

Test(commitlog_key, what_was_appended_again_is_found_once)
{
	uint64_t end, index = 0, begin, was;
	struct thmq_log_reader *reader;
	int64_t n;

	rig_init(&r, 9, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.cache_bytes = 64u << 10;
	r.events.live = on_live;
	keep = 0;
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 40; i++) /* partition 2 lasts, though its segment goes */
		index = put(2, i, 1, i % 2 ? "odd" : "even", i % 2 ? 3 : 4, NULL, 500, MEMORY);
	end = fill(2, 0, 10, 2000);
	for (uint64_t i = 40; i < 60; i++)
		index = put(2, i, 1, i % 2 ? "odd" : "even", i % 2 ? 3 : 4, NULL, 500, MEMORY);
	settle(index);
	for (int round = 0; round < 3; round++) {
		keep = end;
		end = fill(full() + 2, end, 10, 2000);
		rig_poll(&r, 2000);
		cr_assert_gt(rig_stats(&r).begin_position, 0);
		for (int life = 0; life < 2; life++) {
			n = find_in(2, "odd", 3, ALL);
			cr_assert_eq(n, 30, "%ld", (long)n);
			cr_assert_eq(thmq_log_reader_open(r.log, 2, rig_ready, &r, &reader), 0);
			for (int64_t i = 0; i < n; i++) {
				cr_assert_eq(hits[i].offset, 59 - 2 * (uint64_t)i);
				cr_assert_eq(read_hit(reader, &hits[i], "odd", 3), 1);
			}
			thmq_log_reader_close(reader);
			cr_assert_eq(find_in(2, "odd", 3, 10 * STEP, 20 * STEP, UINT64_MAX), 5);
			cr_assert_eq(find_in(2, "odd", 3, INT64_MIN, INT64_MAX, 31), 15);
			cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &was), 0);
			n = find_number(1, 3);
			cr_assert_eq(n, (int64_t)((end - 3 + 9) / 10 - (begin - 3 + 9) / 10));
			if (!life)
				reopen(round == 1);
		}
	}
	cr_assert_gt(rig_stats(&r).dropped_segments + rig_stats(&r).begin_position, 0);
	down();
}

static void index_name(uint32_t segment, char name[40])
{
	snprintf(name, 40, "%020llu.idx", (unsigned long long)segment << 20);
}

/* Section @kind of the index: where it lies. */
static uint64_t section_at(const char *name, uint32_t kind)
{
	static uint8_t sector[512];
	uint64_t at;

	rig_get(&r, name, 0, sector, 512);
	memcpy(&at, sector + 96 + (kind - 1) * 32 + 8, 8);
	return at;
}

Test(commitlog_key, a_damaged_page_or_filter_costs_time_and_nothing_else, .init = up, .fini = down)
{
	static const uint32_t kinds[] = {7 /* keys */, 9 /* filter */, 5 /* fences */};
	uint64_t end = fill(3, 0, 97, 2000);
	static uint8_t sector[512];
	char name[40];

	for (uint32_t i = 0; i < 3; i++) {
		cr_assert_eq(rig_close(&r), 0);
		for (uint32_t s = 0; s < 2; s++) {
			uint64_t at;

			index_name(s, name);
			at = section_at(name, kinds[i]);
			rig_get(&r, name, at / 512 * 512, sector, 512);
			sector[at % 512] ^= 1;
			rig_put(&r, name, at / 512 * 512, sector, 512);
		}
		cr_assert_eq(rig_open(&r), 0);
		for (uint64_t k = 0; k < 97; k++)
			expect_every(1, end, 97, k);
		/* it was found, and is made again */
		reopen(false);
		for (uint64_t k = 0; k < 97; k += 7)
			expect_every(1, end, 97, k);
		reopen(false);
	}
	cr_assert_eq(rig_stats(&r).sealed_segments, 3);
}

Test(commitlog_key, a_segment_with_too_many_keys_is_read_instead)
{
	uint64_t end;

	rig_init(&r, 9, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	r.opts.cache_bytes = 64u << 10;
	r.defects = THMQI_LOG_NO_KEYS;
	cr_assert_eq(rig_open(&r), 0);
	end = fill(2, 0, 97, 2000);
	for (; end % 97 != 30; end++)
		put_numbered(1, end, end % 97, 2000, MEMORY); /* not written yet */
	for (uint64_t k = 0; k < 97; k += 7)
		expect_every(1, end, 97, k);
	r.defects = 0;
	reopen(false);
	for (uint64_t k = 0; k < 97; k += 7)
		expect_every(1, end, 97, k);
	down();
}

/* However many runs must be looked through in memory: others have their turn in between. */
Test(commitlog_key, a_look_up_through_batches_takes_turns)
{
	enum { RUNS = 3000, EACH = 10 };
	struct thmq_log_hit hit;
	struct thmq_log_reader *reader;
	uint32_t turns = 0;
	uint64_t index = 0;
	int rc;

	rig_init(&r, 9, NULL);
	r.opts.cache_bytes = 64u << 20;
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 16u << 20;
	r.defects = THMQI_LOG_NO_KEYS;
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < RUNS; i++)
		index = put(1, i * EACH, EACH, i == 5 ? "wanted" : "others", 6, NULL, 20, MEMORY);
	settle(index);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	cr_assert_eq(thmq_log_reader_seek_key(reader, "wanted", 6, ALL), 0);
	while ((rc = thmq_log_reader_find_key(reader, 1, &hit)) == 0) {
		thmqi_core_poll(r.core, 1000000);
		turns++;
	}
	cr_assert_eq(rc, 1);
	cr_assert_eq(hit.offset, 5 * EACH + EACH - 1);
	cr_assert_geq(turns, RUNS * EACH / 4096); /* a call looks at no more */
	thmq_log_reader_close(reader);
	cr_assert_eq(find_in(1, "others", 6, ALL), (RUNS - 1) * EACH);
	down();
}

static uint64_t reads(void)
{
	struct thmqi_disk_sim_stats s;

	thmqi_disk_sim_stats(r.sim, &s);
	return s.ops[THMQI_DISK_READ];
}

Test(commitlog_key, a_look_up_in_a_cold_log_takes_three_reads, .init = up, .fini = down)
{
	uint64_t end = fill(20, 0, 1u << 30, 2000), before;
	struct thmq_log_reader *reader;
	struct thmq_log_view view;
	char text[32];

	reopen(false);
	cr_assert_geq(rig_stats(&r).sealed_segments, 20);
	cr_assert_eq(find_number(1, 1u << 30), 0, "now the filters are there");
	for (uint64_t o = 13; o < end - 1000; o += end / 50) {
		cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
		key_of(o, text);
		before = reads();
		cr_assert_eq(find(reader, text, (uint32_t)strlen(text), ALL, 1), 1);
		cr_assert_eq(read_hit(reader, &hits[0], text, (uint32_t)strlen(text)), 1);
		/* the page and the batch, and now and then a page for nothing: a filter errs once in forty */
		cr_assert_leq(reads() - before, 4, "%lu reads", (unsigned long)(reads() - before));
		before = reads();
		thmq_log_reader_seek(reader, o);
		cr_assert_eq(rig_read(&r, reader, UINT64_MAX, &view), 1);
		cr_assert_leq(reads() - before, 3, "by offset: %lu",
			      (unsigned long)(reads() - before));
		thmq_log_view_release(r.log, &view);
		thmq_log_reader_close(reader);
	}
	before = reads();
	for (uint64_t k = 0; k < 100; k++)
		cr_assert_eq(find_number(1, (1u << 30) + k), 0);
	cr_assert_leq(reads() - before, 100, "of 2000 pages that might have been");
}

Test(commitlog_key, a_reader_may_close_while_a_look_up_is_in_flight, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;

	fill(4, 0, 97, 2000);
	for (uint32_t polls = 0; polls < 6; polls++) {
		reopen(false);
		cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
		cr_assert_eq(thmq_log_reader_seek_key(reader, "key-5", 5, ALL), 0);
		for (uint32_t i = 0; i <= polls; i++) {
			thmq_log_reader_find_key(reader, HITS, hits);
			thmqi_core_poll(r.core, 10000);
		}
		thmq_log_reader_find_key(reader, HITS, hits);
		thmq_log_reader_close(reader);
		rig_poll(&r, 5);
	}
}

Test(commitlog_key, a_search_goes_on_while_its_segments_are_sealed_and_dropped, .init = up,
     .fini = down)
{
	uint64_t end = fill(3, 0, 7, 2000), last = UINT64_MAX, begin, was;
	struct thmq_log_reader *reader;
	uint32_t count = 0;
	int rc = 0;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	cr_assert_eq(thmq_log_reader_seek_key(reader, "key-2", 5, ALL), 0);
	for (uint32_t i = 0; rc != -ENOENT; i++) {
		rc = thmq_log_reader_find_key(reader, 1, hits);
		cr_assert(rc >= 0 || rc == -ENOENT);
		if (rc == 1) {
			cr_assert_lt(hits[0].offset, last);
			cr_assert_eq(hits[0].offset % 7, 2);
			last = hits[0].offset;
			count++;
		}
		for (int k = 0; k < 10 && i < 150; k++, end++)
			put_numbered(1, end, end % 7, 2000, MEMORY);
		rig_poll(&r, 3);
		if (i == 100)
			drop_one();
	}
	thmq_log_bounds(r.log, 1, &begin, &was);
	cr_assert_eq(last, begin + (7 + 2 - begin % 7) % 7);
	cr_assert_gt(count, 100);
	thmq_log_reader_close(reader);
}

Test(commitlog_key, what_has_no_keys_is_passed_over, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	uint64_t index = 0;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	cr_assert_eq(thmq_log_reader_find_key(reader, 1, hits), -EINVAL, "no search");
	cr_assert_eq(thmq_log_reader_seek_key(reader, "", 0, ALL), -EINVAL);
	cr_assert_eq(thmq_log_reader_seek_key(reader, "k", 65536, ALL), -EINVAL);
	cr_assert_eq(thmq_log_reader_seek_key(reader, "k", 1, ALL), 0);
	cr_assert_eq(thmq_log_reader_find_key(reader, 0, hits), -EINVAL);
	cr_assert_eq(thmq_log_reader_find_key(reader, 1, hits), -ENOENT);
	for (uint64_t i = 0; i < 500; i++) {
		if (i % 2)
			index = put(1, i, 1, NULL, 0, NULL, 5000, MEMORY);
		else
			cr_assert_eq(rig_append_wait(&r, 1, i, 5000, MEMORY, &index),
				     0); /* opaque */
	}
	index = put(1, 500, 3, "k", 1, NULL, 10, MEMORY);
	settle(index);
	cr_assert_eq(find(reader, "k", 1, ALL, 2), 3);
	cr_assert_eq(hits[2].offset, 500);
	thmq_log_forget(r.log, 1);
	cr_assert_eq(thmq_log_reader_find_key(reader, 1, hits), -ENOENT);
	cr_assert_eq(find(reader, "k", 1, ALL, 2), 0);
	thmq_log_reader_close(reader);
}

Test(commitlog_key, a_log_in_memory_has_none)
{
	struct thmq_log_reader *reader;

	rig_init(&r, 1, NULL);
	r.opts.dir = NULL;
	cr_assert_eq(rig_open(&r), 0);
	put(1, 0, 1, "k", 1, NULL, 10, MEMORY);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	cr_assert_eq(thmq_log_reader_seek_key(reader, "k", 1, ALL), -EOPNOTSUPP);
	thmq_log_reader_close(reader);
	down();
}

/* -------------------------------------------------------------------- verify */

static char told[320];

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	(void)ctx;
	if (f->kind == THMQ_FINDING_INDEX)
		snprintf(told, sizeof(told), "%s", f->text);
	return 0;
}

/* A page of keys whose checksum is right and which says something else than the segment. */
Test(commitlog_key, verify_compares_keys_with_the_segment)
{
	static const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = on_finding};
	char base[] = "commitlog-key-XXXXXX", path[128], command[128];
	static uint8_t header[4096], page[4096];
	uint64_t at, index = 0, offset = 0;
	uint32_t crc;
	FILE *f;

	cr_assert_not_null(mkdtemp(base));
	rig_init(&r, 1, NULL);
	snprintf(path, sizeof(path), "%s/log", base);
	r.opts.dir = path;
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 1u << 20;
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	for (; full() < 1; offset++)
		index = put_numbered(1, offset, offset % 97, 2000, MEMORY);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(thmq_log_scan(path, &visitor, NULL), 0);
	cr_assert_str_empty(told);
	snprintf(command, sizeof(command), "%s/log/%020u.idx", base, 0);
	f = fopen(command, "r+");
	cr_assert_not_null(f);
	cr_assert_eq(fread(header, 1, sizeof(header), f), sizeof(header));
	memcpy(&at, header + 96 + 6 * 32 + 8, 8);
	cr_assert(fseek(f, (long)at, SEEK_SET) == 0 && fread(page, 1, sizeof(page), f) == sizeof(page));
	page[32 * 5 + 8] ^= 1; /* an offset */
	crc = thmqi_crc32c((uint32_t)(at / 4096), page, 4092);
	memcpy(page + 4092, &crc, 4);
	cr_assert(fseek(f, (long)at, SEEK_SET) == 0 && fwrite(page, 1, sizeof(page), f) == sizeof(page));
	fclose(f);
	cr_assert_eq(thmq_log_scan(path, &visitor, NULL), 0, "the messages are whole");
	cr_assert_not_null(strstr(told, "keys"), "%s", told);
	rig_fini(&r);
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	cr_assert_eq(system(command), 0);
}

/* ---------------------------------------------------------------------- tags */

/* Reads all runs below @end that the filter lets through. Return: how many; each has this tag. */
static uint32_t read_tagged(const char *tag, uint64_t end, uint64_t *ret_reads)
{
	uint64_t before = reads(), last = 0;
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint32_t count = 0;

	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	thmq_log_reader_filter(reader, thmq_tag_filter(tag, (uint32_t)strlen(tag)));
	while (rig_read(&r, reader, end, &v) == 1) {
		struct thmq_record_cursor cursor = {0};
		struct thmq_record_view record;

		cr_assert_eq(thmq_record_next(&v.run, &cursor, &record), 1);
		cr_assert(record.tag_len == strlen(tag) &&
			  memcmp(record.tag, tag, record.tag_len) == 0);
		cr_assert(!count || record.offset > last);
		last = record.offset;
		thmq_log_view_release(r.log, &v);
		count++;
	}
	/* the filter goes, and all behind is read */
	thmq_log_reader_filter(reader, 0);
	thmq_log_reader_seek(reader, 0);
	cr_assert_eq(rig_read(&r, reader, end, &v), 1);
	cr_assert_eq(v.run.header->base_offset, 0);
	thmq_log_view_release(r.log, &v);
	thmq_log_reader_close(reader);
	*ret_reads = reads() - before;
	return count;
}

Test(commitlog_key, runs_without_the_tag_are_not_read, .init = up, .fini = down)
{
	uint64_t offset = 0, index = 0, few, many, none;
	uint32_t rare = 0;

	cr_assert_neq(thmq_tag_filter("rare", 4), thmq_tag_filter("usual", 5));
	cr_assert_eq(thmq_tag_filter("", 0), 0);
	for (; full() < 4; offset++) {
		bool is_rare = offset % 500 == 0;

		index = put(1, offset, 1, NULL, 0, is_rare ? "rare" : "usual", 2000, MEMORY);
		rare += is_rare;
	}
	for (; offset % 3000 != 2999; offset++) /* more than one call passes over */
		index = put(1, offset, 1, NULL, 0, "usual", 10, MEMORY);
	settle(index);
	for (int life = 0; life < 3; life++) {
		cr_assert_eq(read_tagged("rare", offset, &few), rare);
		cr_assert_eq(read_tagged("usual", offset, &many), offset - rare);
		cr_assert_eq(read_tagged("none of it", offset, &none), 0);
		/* 2000 runs are in 20 pages, of which up to four are read at a time; and the one read without filter at the end */
		cr_assert_leq(none, 4 * 4 + 3, "%lu reads", (unsigned long)none);
		cr_assert_leq(few, none + 2 * rare + 4, "%lu reads", (unsigned long)few);
		reopen(life);
	}
}
