/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Of each key only the newest record is kept: what goes, what stays, over restarts and power cuts at every step; keys that were
 * deleted, keys of one hash, messages in parts, segments without an index of keys. A model knows what each key has last.
 */
#include <criterion/criterion.h>

#include "commitlog_rig.h"
#include "wire/attributes.h"

TestSuite(commitlog_compact, .timeout = 100);

#define KEYS 64u
#define PART 1u
#define OTHER 2u /* a partition that nobody needs */

struct value {
	uint64_t key, version;
};

static struct {
	struct rig r; /* its events are given this */
	uint64_t next, version;
	uint64_t offset[KEYS],
		newest[KEYS]; /* by key: of the last record; version 0: there is none */
	bool deleted[KEYS];
	bool over; /* what says that a key is deleted is needed no more */
	uint64_t seen_version[KEYS];
	bool seen_deleted[KEYS];
	uint64_t records; /* that were read last */
} w;
static uint8_t bytes[64 << 10];

static int on_live(void *ctx, const struct thmq_log_extent *e)
{
	(void)ctx;
	return e->partition == PART ? THMQ_LOG_COMPACTS : THMQ_LOG_DEAD;
}

static int on_over(void *ctx, const struct thmq_log_run *run, const struct thmq_record_view *record)
{
	(void)ctx;
	(void)run;
	return w.over && record->len == 0;
}

static void up_with(uint64_t seed)
{
	memset(&w, 0, sizeof(w));
	rig_init(&w.r, seed, NULL);
	w.r.opts.segment_bytes_max = 1u << 20;
	w.r.opts.cache_bytes = 1u << 20;
	w.r.pool_bytes = 64u << 20;
	w.r.events.live = on_live;
	w.r.events.over = on_over;
}

static void up(void)
{
	up_with(1);
	cr_assert_eq(rig_open(&w.r), 0);
}

static void down(void)
{
	rig_fini(&w.r);
}

/* ------------------------------------------------------------------- writing */

static uint64_t append(struct thmq_record_view *views, uint32_t count, uint32_t partition)
{
	uint32_t len = thmq_run_len(views, count);
	struct thmq_run_header *run;
	uint64_t index = 0;
	int rc = -EAGAIN;

	for (uint32_t i = 0; i < 100000 && rc == -EAGAIN; i++) {
		rc = thmq_log_append(w.r.log, len, &run, &index);
		if (rc == -EAGAIN)
			thmqi_core_poll(w.r.core, 1000000);
	}
	cr_assert_eq(rc, 0);
	cr_assert_eq(thmq_run_encode(run, len, partition, views, count), 0);
	cr_assert_eq(thmq_log_append_end(w.r.log, run, THMQ_DURABILITY_WRITTEN), 0);
	return index;
}

/* A run of one record for each of @keys; a size of 0 deletes them. */
static uint64_t put(const uint32_t *keys, uint32_t count, uint32_t size)
{
	struct thmq_record_view views[16];
	struct value values[16];
	uint64_t names[16];

	for (uint32_t i = 0; i < count; i++) {
		uint32_t k = keys[i];

		names[i] = k;
		values[i] = (struct value){k, ++w.version};
		memset(bytes, (int)k, sizeof(bytes));
		views[i] = (struct thmq_record_view){
			.offset = w.next,
			.time_ns = (int64_t)(w.next * 1000),
			.key = &names[i],
			.key_len = 8,
			.data = size == sizeof(struct value) ? (void *)&values[i] : bytes,
			.len = size};
		w.newest[k] = w.version;
		w.offset[k] = w.next++;
		w.deleted[k] = !size;
	}
	if (size >
	    sizeof(struct
		   value)) { /* the value is at the begin of the bytes, which are the run's only ones */
		cr_assert_eq(count, 1);
		memcpy(bytes, &values[0], sizeof(values[0]));
	}
	return append(views, count, PART);
}

static uint64_t put_one(uint32_t key, uint32_t size)
{
	return put(&key, 1, size);
}

/* What nobody needs, so that segments fill. */
static uint64_t fill(uint32_t runs)
{
	static uint64_t next;
	uint64_t index = 0;

	while (runs--)
		cr_assert_eq(rig_append_wait(&w.r, OTHER, next++, 60000, THMQ_DURABILITY_WRITTEN,
					     &index),
			     0);
	return index;
}

static void make_durable(void)
{
	uint64_t index = 0;

	cr_assert_eq(thmq_log_flush(w.r.log, &index), 0);
	cr_assert_eq(index ? rig_await(&w.r, index) : 0, 0);
}

/* Polls until nothing is cleaned any more. */
static void settle(void)
{
	uint64_t dropped;

	make_durable();
	do {
		dropped = rig_stats(&w.r).dropped_segments;
		for (uint32_t i = 0; i < 600; i++)
			thmqi_core_poll(w.r.core, 10000000);
	} while (rig_stats(&w.r).dropped_segments != dropped);
}

/* ------------------------------------------------------------------- reading */

/* Reads from @from on: offsets rise, and the versions of each key. False: something is wrong. */
static bool look(uint64_t from)
{
	uint64_t last = 0;
	struct thmq_log_reader *reader;
	struct thmq_record_cursor cursor;
	struct thmq_record_view v;
	struct thmq_log_view view;
	struct value value;
	bool good = true;
	int rc;

	memset(w.seen_version, 0, sizeof(w.seen_version));
	memset(w.seen_deleted, 0, sizeof(w.seen_deleted));
	w.records = 0;
	cr_assert_eq(thmq_log_reader_open(w.r.log, PART, rig_ready, &w.r, &reader), 0);
	thmq_log_reader_seek(reader, from);
	while (good && (rc = rig_read(&w.r, reader, w.next, &view)) == 1) {
		memset(&cursor, 0, sizeof(cursor));
		while ((rc = thmq_record_next(&view.run, &cursor, &v)) == 1) {
			uint64_t key;

			if (v.offset < from)
				continue;
			memcpy(&key, v.key, 8);
			good = good && key < KEYS && (!w.records || v.offset > last);
			last = v.offset;
			w.records++;
			if (!good)
				break;
			w.seen_deleted[key] = !v.len;
			if (!v.len)
				continue;
			memcpy(&value, v.data, sizeof(value));
			good = good && value.key == key && value.version > w.seen_version[key];
			w.seen_version[key] = value.version;
		}
		good = good && rc >= 0;
		thmq_log_view_release(w.r.log, &view);
	}
	thmq_log_reader_close(reader);
	return good;
}

/* Everything is as the model has it, where all was durable. */
static void check(const char *when)
{
	uint64_t begin, end;

	if (thmq_log_bounds(w.r.log, PART, &begin, &end) != 0)
		begin = 0;
	cr_assert(look(begin), "%s", when);
	for (uint32_t k = 0; k < KEYS; k++)
		if (w.deleted[k])
			cr_assert(w.seen_deleted[k] || !w.seen_version[k],
				  "%s: key %u has come back", when, k);
		else
			cr_assert_eq(w.seen_version[k], w.newest[k],
				     "%s: key %u has version %llu, not %llu", when, k,
				     (unsigned long long)w.seen_version[k],
				     (unsigned long long)w.newest[k]);
}

/* Offset of the newest record with @key as the index has it; UINT64_MAX: none. */
static uint64_t find(uint64_t key)
{
	struct thmq_log_reader *reader;
	struct thmq_log_hit hit;
	int rc;

	cr_assert_eq(thmq_log_reader_open(w.r.log, PART, rig_ready, &w.r, &reader), 0);
	cr_assert_eq(thmq_log_reader_seek_key(reader, &key, 8, INT64_MIN, INT64_MAX, UINT64_MAX),
		     0);
	while ((rc = thmq_log_reader_find_key(reader, 1, &hit)) == 0)
		thmqi_core_poll(w.r.core, 1000000);
	thmq_log_reader_close(reader);
	return rc == 1 ? hit.offset : UINT64_MAX;
}

/* Keys by chance, in runs of several, and what fills segments. */
static void write_some(uint32_t rounds, uint64_t seed)
{
	struct thmqi_prng prng;
	uint32_t keys[8], count;

	thmqi_prng_seed(&prng, seed);
	for (uint32_t i = 0; i < rounds; i++) {
		count = 1 + (uint32_t)thmqi_prng_below(&prng, 8);
		for (uint32_t k = 0; k < count; k++)
			keys[k] = (uint32_t)thmqi_prng_below(
				&prng, KEYS - 4); /* the last ones are the tests' own */
		if (i % 4 == 0)
			put_one(keys[0], 20000);
		else
			put(keys, count, sizeof(struct value));
		if (i % 32 == 0)
			fill(1);
	}
}

Test(commitlog_compact, of_each_key_the_newest_stays_and_the_rest_goes, .init = up, .fini = down)
{
	struct thmq_log_stats stats;

	for (uint32_t round = 0; round < 6; round++) {
		write_some(500, round);
		settle();
		stats = rig_stats(&w.r);
		cr_assert_gt(stats.compacted_messages, 0);
		cr_assert_leq(stats.segment_count, 9, "round %u: %u segments", round,
			      stats.segment_count);
		check("compacted");
		for (uint32_t k = 0; k < KEYS - 4; k++)
			cr_assert_eq(find(k), w.offset[k], "key %u", k);
		if (round % 2)
			cr_assert_eq(rig_close(&w.r), 0);
		else
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		check("opened again");
	}
}

#define CROWD 8100u

/* Read from its begin on. Return: how many there are, where their offsets rise; else 0. */
static uint32_t count_all(void)
{
	struct thmq_log_reader *reader;
	struct thmq_record_cursor cursor;
	struct thmq_record_view v;
	struct thmq_log_view view;
	uint32_t n = 0;
	uint64_t next = 0;

	cr_assert_eq(thmq_log_reader_open(w.r.log, PART, rig_ready, &w.r, &reader), 0);
	while (rig_read(&w.r, reader, w.next, &view) == 1) {
		memset(&cursor, 0, sizeof(cursor));
		for (; thmq_record_next(&view.run, &cursor, &v) == 1; n++) {
			cr_assert_geq(v.offset, next);
			next = v.offset + 1;
		}
		thmq_log_view_release(w.r.log, &view);
	}
	thmq_log_reader_close(reader);
	return n;
}

/* As large as a batch, of which one goes at once, and another once its key is deleted: with the offsets of the others beside them they would be larger. */
static void put_crowd(void)
{
	static struct thmq_record_view views[CROWD];
	const uint64_t keys[2] = {1, 2};
	uint32_t i;

	for (i = 0; i < CROWD; i++)
		views[i] = (struct thmq_record_view){.offset = w.next++, .data = bytes, .len = 16};
	for (i = 0; i < 2; i++) {
		views[i * 7000].key = &keys[i];
		views[i * 7000].key_len = 8;
		views[i * 7000].len = 8;
	}
	cr_assert_gt(thmq_run_len(views, CROWD) + 4 * (CROWD - 1), 256u << 10);
	append(views, CROWD, PART);
	put_one(1, sizeof(struct value));
}

Test(commitlog_compact, a_run_that_would_be_larger_without_a_few_goes_in_two, .init = up, .fini = down)
{
	uint32_t round;

	put_crowd();
	for (round = 0; round < 6; round++) {
		fill(60);
		settle();
		cr_assert_leq(rig_stats(&w.r).segment_count, 9, "round %u: %u segments", round, rig_stats(&w.r).segment_count);
		if (round == 2)
			put_one(2, 0);
		w.over = round > 3;
	}
	cr_assert_eq(count_all(), CROWD - 1);
	cr_assert_eq(find(1), CROWD);
	cr_assert_eq(find(2), UINT64_MAX);
	rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
	cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
	cr_assert_eq(count_all(), CROWD - 1);
	cr_assert_eq(find(1), CROWD);
}

/* Both of these, and the newer one of their first key; the power goes at some moment. */
Test(commitlog_compact, one_that_goes_in_two_may_be_cut_between_them)
{
	uint32_t polls, i;
	uint64_t index;

	for (polls = 0; polls < 80; polls++) {
		up_with(polls + 1);
		cr_assert_eq(rig_open(&w.r), 0);
		put_crowd();
		make_durable();
		fill(40);
		make_durable();
		for (i = 0; i < 10000 && !rig_stats(&w.r).relocated_runs; i++)
			thmqi_core_poll(w.r.core, 100000);
		cr_assert_eq(thmq_log_flush(w.r.log, &index), 0);
		for (i = 0; i < polls; i++)
			thmqi_core_poll(w.r.core, 10000);
		rig_crash(&w.r, THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(rig_open(&w.r), 0, "%s", thmq_errmsg());
		for (i = 0; i < 3000; i++)
			thmqi_core_poll(w.r.core, 100000);
		cr_assert_leq(rig_stats(&w.r).relocated_runs, polls < 40 ? 3 : 1, "after %u polls", polls); /* what is there is not made again */
		for (i = 0; i < 4; i++) {
			fill(60);
			settle();
		}
		cr_assert_eq(count_all(), CROWD, "after %u polls", polls);
		cr_assert_eq(find(1), CROWD);
		down();
	}
}

Test(commitlog_compact, readers_go_on_from_any_offset_over_what_is_gone, .init = up, .fini = down)
{
	uint64_t begin, end, before = UINT64_MAX;

	write_some(1500, 7);
	settle();
	cr_assert_eq(thmq_log_bounds(w.r.log, PART, &begin, &end), 0);
	cr_assert_gt(begin, 0);
	cr_assert_eq(end, w.next);
	for (uint64_t from = begin; from < end; from += 1 + from / 7) {
		cr_assert(look(from));
		cr_assert_leq(w.records, before, "fewer are left from a later place on");
		before = w.records;
		for (uint32_t k = 0; k < KEYS - 4; k++)
			cr_assert_eq(w.seen_version[k], w.offset[k] >= from ? w.newest[k] : 0);
	}
	cr_assert_leq(before, w.next);
}

Test(commitlog_compact, a_log_of_which_nothing_is_dead_is_not_gone_through_for_ever, .init = up,
     .fini = down)
{
	uint64_t relocated;

	for (uint32_t i = 0; i < 400; i++) /* keys of their own: none goes for another */
		put_one(i % 60, 20000);
	settle();
	relocated = rig_stats(&w.r).relocated_bytes;
	for (uint32_t i = 0; i < 2000; i++)
		thmqi_core_poll(w.r.core, 1000000000);
	cr_assert_leq(rig_stats(&w.r).relocated_bytes - relocated, 3u << 20);
	check("at rest");
}

Test(commitlog_compact, a_deleted_key_goes_and_does_not_come_back, .init = up, .fini = down)
{
	uint64_t records;

	write_some(400, 1);
	for (uint32_t k = 0; k < KEYS; k += 2)
		put_one(k, 0);
	settle();
	check("deleted");
	records = w.records;
	write_some(0, 2);
	fill(40);
	settle();
	check("moved");
	for (uint32_t k = 0; k < KEYS - 4; k += 2)
		cr_assert_eq(find(k), w.offset[k], "readers still hear of key %u", k);
	w.over = true;
	for (uint32_t round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 150; i++)
			put_one(1 + 2 * (i % 30), 20000);
		settle();
		check("over");
		if (round == 1)
			cr_assert_eq(rig_close(&w.r), 0);
		if (round == 2)
			rig_crash(&w.r, THMQI_DISK_SIM_CRASH_LOSE);
		if (round == 1 || round == 2)
			cr_assert_eq(rig_open(&w.r), 0);
	}
	for (uint32_t k = 0; k < KEYS; k += 2)
		cr_assert_eq(find(k), UINT64_MAX, "nothing is left of key %u", k);
	cr_assert_lt(records, w.next);
}

/*
 * A value is found to be the newest and is about to be appended again, when its key is deleted; the copy then lies behind that. With every
 * distance between the two. Return: key 62 is as it should be.
 */
static bool race(uint32_t polls, uint32_t defects)
{
	struct thmq_record_view views[1000];
	uint64_t names[1000], begin, end = 0;
	struct value values[1000];
	bool good;

	up_with(17);
	w.r.defects = defects;
	cr_assert_eq(rig_open(&w.r), 0);
	for (uint32_t i = 0; i < 1000; i++) {
		uint32_t k = i ? i % 60 : 62;

		names[i] = k;
		values[i] = (struct value){k, ++w.version};
		views[i] = (struct thmq_record_view){.offset = w.next,
						     .key = &names[i],
						     .key_len = 8,
						     .data = &values[i],
						     .len = sizeof(values[i])};
		w.newest[k] = w.version;
		w.offset[k] = w.next++;
	}
	append(views, 1000, PART);
	fill(18 * 4);
	make_durable();
	for (uint32_t i = 0; i < 200 && !rig_stats(&w.r).relocated_runs; i++) /* it begins */
		if (i == polls) {
			fill(9);
			w.over = true;
			put_one(62, 0);
			fill(10);
			end = w.next;
		} else {
			thmqi_core_poll(w.r.core, 100000);
		}
	if (!end) {
		w.over = true;
		put_one(62, 0);
	}
	for (uint32_t round = 0; round < 5; round++) {
		fill(30);
		settle();
	}
	if (thmq_log_bounds(w.r.log, PART, &begin, &end) != 0)
		begin = 0;
	good = look(begin) && (!w.seen_version[62] || w.seen_deleted[62]);
	down();
	return good;
}

Test(commitlog_compact, a_key_that_is_deleted_while_its_value_is_moved_stays_deleted)
{
	for (uint32_t polls = 0; polls < 40; polls++)
		cr_assert(race(polls, 0), "after %u rounds", polls);
	cr_assert_not(race(10, THMQI_LOG_EARLY_OVER), "and a log that is not careful is found out");
}

/* The second word makes up for the first: see commitlog_key_test.c. */
static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
	return h ^ h >> 33;
}

static void collide(const uint64_t key[2], uint64_t first, uint64_t ret[2])
{
	uint64_t h = 0x9e3779b97f4a7c15ull ^ 16, golden = 0x9e3779b97f4a7c15ull;

	ret[0] = first;
	ret[1] = mix(h ^ key[0]) * golden ^ key[1] ^ mix(h ^ first) * golden;
}

Test(commitlog_compact, keys_of_one_hash_do_not_take_each_others_place, .init = up, .fini = down)
{
	uint64_t keys[3][2] = {{1, 2}}, last[3] = {0}, found[3] = {0}, n = 0;
	struct thmq_log_reader *reader;
	struct thmq_record_cursor cursor;
	struct thmq_record_view v;
	struct thmq_log_view view;

	collide(keys[0], 77, keys[1]);
	collide(keys[0], 78, keys[2]);
	cr_assert_eq(thmqi_hash64(keys[0], 16), thmqi_hash64(keys[2], 16));
	for (uint32_t i = 0; i < 60;
	     i++) { /* the first one early, the others again and again behind it */
		uint32_t k = i < 2 ? 0 : 1 + i % 2;

		v = (struct thmq_record_view){
			.offset = w.next, .key = keys[k], .key_len = 16, .data = bytes, .len = 100};
		last[k] = w.next++;
		append(&v, 1, PART);
		fill(2);
	}
	settle();
	cr_assert_gt(rig_stats(&w.r).compacted_messages, 0);
	cr_assert_eq(thmq_log_reader_open(w.r.log, PART, rig_ready, &w.r, &reader), 0);
	thmq_log_reader_seek(reader, 1);
	while (rig_read(&w.r, reader, w.next, &view) == 1) {
		memset(&cursor, 0, sizeof(cursor));
		while (thmq_record_next(&view.run, &cursor, &v) == 1) {
			for (uint32_t k = 0; k < 3; k++)
				if (memcmp(v.key, keys[k], 16) == 0)
					found[k] = v.offset;
			n++;
		}
		thmq_log_view_release(w.r.log, &view);
	}
	thmq_log_reader_close(reader);
	for (uint32_t k = 0; k < 3; k++)
		cr_assert_eq(found[k], last[k], "key %u", k);
	cr_assert_lt(n, 60);
}

Test(commitlog_compact, what_has_no_index_of_keys_stays, .fini = down)
{
	up_with(3);
	w.r.defects = THMQI_LOG_NO_KEYS;
	cr_assert_eq(rig_open(&w.r), 0);
	write_some(600, 3);
	settle();
	cr_assert_eq(rig_stats(&w.r).compacted_messages, 0);
	check("without keys");
	cr_assert_eq(w.records, w.next, "all of it");
}

/* ------------------------------------------------------- messages in parts */

/* A message of @parts parts, of which the first @there are stored. */
static void put_parts(uint64_t key, uint32_t parts, uint32_t there)
{
	static uint8_t body[30000];
	struct thmqi_part part = {.parts = parts,
				  .total = (uint64_t)parts * (sizeof(body) - sizeof(part))};

	for (; part.part < there; part.part++) {
		struct thmq_record_view v = {.offset = w.next++,
					     .key = &key,
					     .key_len = part.part ? 0 : 8,
					     .data = body,
					     .len = sizeof(body),
					     .flags = THMQ_RECORD_PART};

		memcpy(body, &part, sizeof(part));
		append(&v, 1, PART);
	}
}

/* How many records of @key's messages there are, and offset of the first of the newest. */
static uint32_t count_parts(uint64_t from, uint64_t *ret_first)
{
	struct thmq_log_reader *reader;
	struct thmq_record_cursor cursor;
	struct thmq_record_view v;
	struct thmq_log_view view;
	struct thmqi_part part;
	uint32_t n = 0;

	cr_assert_eq(thmq_log_reader_open(w.r.log, PART, rig_ready, &w.r, &reader), 0);
	thmq_log_reader_seek(reader, from);
	while (rig_read(&w.r, reader, w.next, &view) == 1) {
		memset(&cursor, 0, sizeof(cursor));
		while (thmq_record_next(&view.run, &cursor, &v) == 1) {
			memcpy(&part, v.data, sizeof(part));
			if (!part.part)
				*ret_first = v.offset;
			n++;
		}
		thmq_log_view_release(w.r.log, &view);
	}
	thmq_log_reader_close(reader);
	return n;
}

Test(commitlog_compact, a_message_in_parts_goes_as_one_and_only_for_a_whole_one, .init = up,
     .fini = down)
{
	uint64_t begin, end, whole, first = 0;
	uint32_t n;

	for (uint32_t i = 0; i < 12; i++)
		put_parts(5, 9, 9);
	whole = w.next - 9;
	put_parts(5, 9, 8); /* its producer died */
	w.next += 100;
	put_parts(6, 5, 5);
	fill(60);
	settle();
	fill(60);
	settle();
	cr_assert_eq(thmq_log_bounds(w.r.log, PART, &begin, &end), 0);
	n = count_parts(begin, &first);
	cr_assert_eq(begin, whole, "%llu, not %llu", (unsigned long long)begin,
		     (unsigned long long)whole);
	cr_assert_eq(first, w.next - 5);
	cr_assert_eq(n, 14, "%u parts: those of two messages", n);
	cr_assert_eq(rig_close(&w.r), 0);
	cr_assert_eq(rig_open(&w.r), 0);
	cr_assert_eq(count_parts(begin, &first), 14);
}

/* ----------------------------------------------------------------- power cuts */

/* Return: 1 all is there after a cut at the nth operation of it; 2 there was none any more. */
static int cut(uint64_t seed, uint64_t nth, uint32_t mode)
{
	bool was;

	up_with(seed + nth);
	cr_assert_eq(rig_open(&w.r), 0);
	write_some(230, 5);
	for (uint32_t k = 0; k < KEYS; k += 5)
		put_one(k, 0);
	fill(8);
	make_durable();
	w.over = true;
	thmqi_disk_sim_cut_at(w.r.sim, nth, mode);
	for (uint32_t i = 0; i < 300 && !thmqi_disk_sim_is_down(w.r.sim); i++)
		thmqi_core_poll(w.r.core, 10000000);
	was = thmqi_disk_sim_is_down(w.r.sim);
	rig_crash(&w.r, mode);
	cr_assert_eq(rig_open(&w.r), 0, "cut %llu of mode %u: %s", (unsigned long long)nth, mode,
		     thmq_errmsg());
	check("after a cut");
	settle();
	check("and compacted");
	down();
	return was ? 1 : 2;
}

Test(commitlog_compact, it_may_be_cut_at_any_step)
{
	uint64_t step = getenv("THMQ_TEST_FULL") ? 1 : 7;

	for (uint32_t mode = THMQI_DISK_SIM_CRASH_LOSE; mode <= THMQI_DISK_SIM_CRASH_ANY; mode++)
		for (uint64_t nth = 1 + mode % step; cut(600, nth, mode) != 2; nth += step)
			;
}
