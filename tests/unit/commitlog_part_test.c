/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A part of an index, of the segment that fills: an open reads only what comes behind it, finds all the same, and believes it
 * only where it is whole and of this very log.
 */
#include <criterion/criterion.h>
#include <unistd.h>

#include "../../lib/commitlog/internal.h"
#include "../../lib/commitlog/index/seal_format.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MEMORY THMQ_DURABILITY_MEMORY
#define PART "open.idx"
#define PARTITIONS 7u
#define KINDS 3u
#define ITEMS 40u
#define KEYS 50u
#define KEYED 99u /* the partition of records that have a key */
#define MIB (1u << 20)

TestSuite(commitlog_part, .timeout = 60);

static struct rig r;
static uint64_t next[PARTITIONS], next_keyed;
static uint64_t states[KINDS][ITEMS], replayed[KINDS][ITEMS];
static uint64_t replayed_end[KEYED + 1];
static char base[] = "commitlog-part-XXXXXX", dir[64];

static int on_replay(void *ctx, const struct thmq_log_run *run)
{
	const struct thmq_run_header *h = run->header;

	if (h->encoding == THMQ_RUN_STATE) {
		if (h->partition >= 100)
			memcpy(&replayed[h->partition - 100][h->base_offset], run->payload, 8);
		return rig_replay(ctx, run);
	}
	replayed_end[h->partition] =
		THMQI_MAX(replayed_end[h->partition], h->base_offset + h->span);
	return rig_replay(ctx, run);
}

static int reopen(void)
{
	memset(replayed, 0, sizeof(replayed));
	memset(replayed_end, 0, sizeof(replayed_end));
	r.replayed_sealed = 0;
	return rig_open(&r);
}

static void init(void)
{
	rig_init(&r, 3, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = 4 * MIB;
	r.opts.cache_bytes = 64u << 10;
	r.events.replay = on_replay;
	r.defects = THMQI_LOG_EARLY_PARTS;
	memset(next, 0, sizeof(next));
	memset(states, 0, sizeof(states));
	next_keyed = 0;
}

static void up(void)
{
	init();
	cr_assert_eq(reopen(), 0);
}

static void down(void)
{
	rig_fini(&r);
}

/* On real files, so that it can be scanned. */
static void up_real(void)
{
	init();
	cr_assert_not_null(mkdtemp(base));
	snprintf(dir, sizeof(dir), "%s/log", base);
	r.opts.dir = dir;
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
	cr_assert_eq(reopen(), 0);
}

static void down_real(void)
{
	char command[128];

	rig_fini(&r);
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	cr_assert_eq(system(command), 0);
}

/* -------------------------------------------------------------------- fill */

static struct thmq_run_header *begin(uint32_t len)
{
	struct thmq_run_header *run;
	uint64_t index;
	int rc;

	while ((rc = thmq_log_append(r.log, len, &run, &index)) == -EAGAIN)
		thmqi_core_poll(r.core, 1000000);
	cr_assert_eq(rc, 0);
	memset(run, 0, len);
	return run;
}

static void put_state(uint32_t kind, uint64_t item, uint64_t value)
{
	uint32_t len = 8 + (uint32_t)item % 16;
	struct thmq_run_header *run = begin((uint32_t)sizeof(*run) + len);

	run->len = len;
	run->partition = 100 + kind;
	run->base_offset = item;
	run->encoding = THMQ_RUN_STATE;
	memcpy(run + 1, &value, 8);
	thmq_log_append_end(r.log, run, MEMORY);
	states[kind][item] = value;
}

static void put_keyed(void)
{
	struct thmq_record_view records[3] = {0};
	struct thmq_run_header *run;
	char keys[3][16];
	uint32_t len;

	for (uint32_t i = 0; i < 3; i++, next_keyed++) {
		snprintf(keys[i], sizeof(keys[i]), "key-%u", (uint32_t)(next_keyed % KEYS));
		records[i] = (struct thmq_record_view){.offset = next_keyed,
						       .time_ns = (int64_t)next_keyed * 1000,
						       .key = keys[i],
						       .key_len = (uint32_t)strlen(keys[i])};
	}
	len = thmq_run_len(records, 3);
	run = begin(len);
	cr_assert_eq(thmq_run_encode(run, len, KEYED, records, 3), 0);
	cr_assert_eq(thmq_log_append_end(r.log, run, MEMORY), 0);
}

/* Until the log ends at @position or behind it. */
static void fill(uint64_t position)
{
	uint64_t index = 0;

	for (uint32_t i = 1; rig_stats(&r).end_position < position; i++) {
		uint32_t p = i % PARTITIONS;

		cr_assert_eq(rig_append_wait(&r, p, next[p]++, 100 + i % 5000,
					     i % 3 ? MEMORY : DURABLE, &index),
			     0);
		if (i % 5 == 0)
			put_state(i % KINDS, i % ITEMS, i);
		if (i % 2 == 0)
			put_keyed();
		if (i % 8 == 0)
			rig_poll(&r, 2);
	}
	cr_assert_eq(rig_append_wait(&r, 0, next[0]++, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	for (uint32_t i = 0; i < 8; i++) /* a part is written, and an idle second moves the mark */
		rig_poll(&r, 200);
}

static void expect_keys(void)
{
	struct thmq_log_reader *reader;
	struct thmq_log_hit hits[64];
	uint64_t want;
	int rc;

	cr_assert_eq(thmq_log_reader_open(r.log, KEYED, rig_ready, &r, &reader), 0);
	for (uint32_t k = 0; k < KEYS && k < next_keyed; k += 7) {
		char key[16];

		snprintf(key, sizeof(key), "key-%u", k);
		cr_assert_eq(thmq_log_reader_seek_key(reader, key, (uint32_t)strlen(key), INT64_MIN,
						      INT64_MAX, UINT64_MAX),
			     0);
		want = (next_keyed - 1 - k) / KEYS * KEYS + k; /* newest first, each of them */
		while ((rc = thmq_log_reader_find_key(reader, 64, hits)) >= 0) {
			for (int i = 0; i < rc; i++, want -= KEYS)
				cr_assert_eq(hits[i].offset, want, "%s", key);
			if (rc == 0)
				thmqi_core_poll(r.core, 1000000);
		}
		cr_assert_eq(rc, -ENOENT);
		cr_assert_eq(want, (uint64_t)k - KEYS);
	}
	thmq_log_reader_close(reader);
}

/* All that was stored is there: replayed, and read, and found. */
static void expect_all(void)
{
	uint64_t begin_offset, end;

	cr_assert_arr_eq(replayed, states, sizeof(states));
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		cr_assert_eq(replayed_end[p], next[p], "partition %u", p);
		cr_assert_eq(thmq_log_bounds(r.log, p, &begin_offset, &end), 0);
		cr_assert(begin_offset == 0 && end == next[p]);
		cr_assert_eq(rig_read_all(&r, p, 0, next[p]), (int64_t)next[p], "partition %u", p);
		cr_assert_eq(rig_find_time(&r, p, (int64_t)next[p] * 5 - 5, &end), 0);
		cr_assert_eq(end, next[p] / 2);
	}
	cr_assert_eq(replayed_end[KEYED], next_keyed);
	expect_keys();
}

/* The batches that were read at the last open. */
static uint64_t batches_read(void)
{
	return rig_stats(&r).recovered_batches;
}

/* A part was taken: partitions without payload though no segment is full. */
static bool was_taken(void)
{
	return r.replayed_sealed > 0;
}

/* -------------------------------------------------------------------- tests */

Test(commitlog_part, what_it_has_is_not_read_again, .init = up, .fini = down)
{
	fill(3 * MIB);
	for (int round = 0; round < 3; round++) {
		if (round == 1)
			cr_assert_eq(rig_close(&r), 0);
		else
			rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		cr_assert(was_taken());
		cr_assert_lt(batches_read() * 2, rig_stats(&r).last_index, "%lu of %lu",
			     (unsigned long)batches_read(),
			     (unsigned long)rig_stats(&r).last_index);
		expect_all();
		fill(rig_stats(&r).end_position + 100000); /* and it goes on */
	}
}

static struct {
	uint64_t full;   /* bytes of full segments that were read */
	uint64_t active; /* of the last one */
	uint64_t lowest; /* of the last one: where the first byte lies that was read */
} seen;

#define ACTIVE "00000000000008388608.log"

static void see(void *ctx, const char *name, const struct thmqi_disk_op *op)
{
	size_t len = name ? strlen(name) : 0;

	(void)ctx;
	if (op->opcode != THMQI_DISK_READ || len != strlen(ACTIVE) || strcmp(name + len - 4, ".log") != 0)
		return;
	if (strcmp(name, ACTIVE) < 0) {
		seen.full += op->len;
	} else if (strcmp(name, ACTIVE) == 0) {
		seen.active += op->len;
		seen.lowest = THMQI_MIN(seen.lowest, op->offset);
	}
}

/* Counted at the device, not by what the log says of itself. */
Test(commitlog_part, an_open_reads_from_the_last_part_on_and_nothing_before, .init = up, .fini = down)
{
	fill(8 * MIB + 3 * MIB);
	for (int round = 0; round < 3; round++) {
		if (round == 1)
			rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
		else
			cr_assert_eq(rig_close(&r), 0);
		memset(&seen, 0, sizeof(seen));
		seen.lowest = UINT64_MAX;
		thmqi_disk_sim_observe(r.sim, see, NULL);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		thmqi_disk_sim_observe(r.sim, NULL, NULL);
		cr_assert_eq(rig_stats(&r).sealed_segments, 2);
		/* the last batch of each: that its index is of it */
		cr_assert_leq(seen.full, 2 * 4096, "round %d: %llu bytes of full segments", round, (unsigned long long)seen.full);
		cr_assert(seen.lowest != UINT64_MAX && seen.lowest >= 3 * MIB / 2, "round %d: from %llu on", round,
			  (unsigned long long)seen.lowest);
		if (round != 1) /* else it looks for what may lie behind the end */
			cr_assert_leq(seen.active, 5 * MIB / 2 - (seen.lowest - 3 * MIB / 2));
		expect_all();
	}
}

Test(commitlog_part, the_whole_segments_index_has_all_of_it, .init = up, .fini = down)
{
	fill(2 * MIB);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
	cr_assert_eq(reopen(), 0);
	cr_assert(was_taken());
	fill(6 * MIB);
	rig_unlink(&r, PART);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 1);
	expect_all();
}

/* It was full when its maker was killed before its index was there. */
Test(commitlog_part, a_full_segment_without_its_index_is_taken_from_it_too, .init = up,
     .fini = down)
{
	fill(3 * MIB);
	fill(4 * MIB + 100000);
	cr_assert_eq(rig_close(&r), 0);
	rig_unlink(&r, "00000000000000000000.idx");
	cr_assert_eq(reopen(), 0);
	cr_assert(was_taken());
	expect_all();
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 1);
	expect_all();
}

Test(commitlog_part, several_lives_have_several_terms, .init = up, .fini = down)
{
	for (uint32_t life = 1; life < 9; life++) {
		fill(life * 400000);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(reopen(), 0);
		expect_all();
	}
	cr_assert(was_taken());
	fill(4 * MIB + 100000);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 1);
	expect_all();
}

/* Bytes of it: how many sections' worth there are. */
static uint32_t load_part(uint8_t **ret)
{
	struct thmqi_disk_dir *d;
	struct thmqi_disk_file *f;
	int64_t size;

	cr_assert_eq(thmqi_disk_sim.dir_open(r.sim, RIG_DIR, false, &d), 0);
	cr_assert_eq(thmqi_disk_sim.file_open(d, PART, false, &f), 0);
	size = thmqi_disk_sim.file_size(f);
	cr_assert_gt(size, 0);
	*ret = aligned_alloc(4096, (size_t)size);
	cr_assert_eq(thmqi_disk_sim.file_read(f, *ret, (uint32_t)size, 0), size);
	thmqi_disk_sim.file_close(f);
	thmqi_disk_sim.dir_close(d);
	return (uint32_t)size;
}

Test(commitlog_part, damage_anywhere_in_it_is_not_believed, .init = up, .fini = down)
{
	uint32_t size, ignored = 0, tried = 0;
	uint8_t *bytes;

	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	size = load_part(&bytes);
	for (uint32_t at = 0; at < size; at += at < 400 ? 12 : 3001, tried++) {
		uint32_t from = at / 512 * 512;

		bytes[at] ^= 0x10;
		rig_put(&r, PART, from, bytes + from, 512);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		ignored += !was_taken();
		expect_all();
		cr_assert_eq(rig_close(&r), 0);
		bytes[at] ^= 0x10;
		rig_put(&r, PART, from, bytes + from, 512);
	}
	cr_assert_gt(
		ignored,
		tried / 2); /* but for the filter of keys, which it does not need, and bytes that mean nothing */
	free(bytes);
}

/* What the checksums are for: without them the damage is believed. */
Test(commitlog_part, planted_a_part_that_is_not_checked_is_found_out, .init = up, .fini = down)
{
	uint64_t partitions, begin_offset, end;
	uint8_t *bytes;
	uint32_t i;

	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	load_part(&bytes);
	memcpy(&partitions, bytes + 96 + 2 * 32 + 8, 8);
	for (i = 0; i < 46; i++) { /* one that has runs */
		memcpy(&end, bytes + partitions + i * 88 + 24, 8);
		if (end)
			break;
	}
	cr_assert_lt(i, 46);
	bytes[partitions + i * 88 + 25] += 4;
	rig_put(&r, PART, partitions, bytes + partitions, 4096);
	cr_assert_eq(reopen(), 0);
	cr_assert_not(was_taken());
	expect_all();
	cr_assert_eq(rig_close(&r), 0);
	r.defects |= THMQI_LOG_TRUST_INDEX;
	cr_assert_eq(reopen(), 0);
	cr_assert(was_taken());
	memcpy(&i, bytes + partitions + i * 88, 4);
	cr_assert_eq(thmq_log_bounds(r.log, i, &begin_offset, &end), 0);
	cr_assert_neq(replayed_end[i], end);
	free(bytes);
}

Test(commitlog_part, one_that_is_too_short_is_none, .init = up, .fini = down)
{
	uint32_t size;
	uint8_t *bytes;

	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	size = load_part(&bytes);
	for (uint32_t len = 0; len < size; len += 4096 * 7) {
		rig_unlink(&r, PART);
		rig_make(&r, PART, bytes, len ? len : 512);
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		cr_assert_not(was_taken());
		expect_all();
		cr_assert_eq(rig_close(&r), 0);
	}
	free(bytes);
}

/* Its last batch was cut and others lie there: also where it was put back by a hand that means well. */
Test(commitlog_part, what_was_truncated_is_not_remembered, .init = up, .fini = down)
{
	uint64_t index;
	uint32_t size;
	uint8_t *bytes;

	fill(3 * MIB);
	size = load_part(&bytes);
	index = rig_stats(&r).last_index / 2;
	cr_assert_eq(thmq_log_truncate(r.log, index), 0);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_ANY);
	for (int round = 0; round < 2; round++) {
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		cr_assert_not(was_taken(), "round %d", round);
		cr_assert_eq(rig_stats(&r).last_index, index - 1);
		cr_assert_eq(rig_close(&r), 0);
		rig_make(&r, PART, bytes, size);
	}
	cr_assert_eq(reopen(), 0);
	for (uint32_t p = 0; p < PARTITIONS; p++)
		next[p] = replayed_end[p];
	next_keyed = replayed_end[KEYED];
	memcpy(states, replayed, sizeof(states));
	r.defects = 0; /* no part is made now */
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	fill(3 * MIB + 500000);
	cr_assert_eq(rig_close(&r), 0);
	rig_make(&r, PART, bytes, size);
	cr_assert_eq(reopen(), 0);
	cr_assert_not(was_taken());
	expect_all();
	free(bytes);
}

Test(commitlog_part, another_logs_is_not_believed, .init = up, .fini = down)
{
	uint32_t size;
	uint8_t *bytes;

	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	size = load_part(&bytes);
	rig_fini(&r);
	up(); /* the same things are stored, under another identity */
	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	rig_make(&r, PART, bytes, size);
	cr_assert_eq(reopen(), 0);
	cr_assert_not(was_taken());
	expect_all();
	free(bytes);
}

Test(commitlog_part, of_a_segment_that_fills_before_it_is_durable_there_is_none, .init = up,
     .fini = down)
{
	uint64_t index, offset = 0;

	cr_assert_eq(rig_close(&r), 0);
	r.opts.flags = THMQ_LOG_NO_BACKGROUND_FLUSH;
	cr_assert_eq(reopen(), 0);
	for (; rig_stats(&r).end_position < 9 * MIB; offset++)
		cr_assert_eq(rig_append_wait(&r, 1, offset, 20000, MEMORY, &index), 0);
	next[1] = offset;
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_read_all(&r, 1, 0, offset), (int64_t)offset);
}

Test(commitlog_part, where_there_are_too_many_keys_it_says_so, .init = up, .fini = down)
{
	cr_assert_eq(rig_close(&r), 0);
	r.defects |= THMQI_LOG_NO_KEYS;
	cr_assert_eq(reopen(), 0);
	fill(2 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	r.defects = THMQI_LOG_EARLY_PARTS;
	cr_assert_eq(reopen(), 0);
	cr_assert(was_taken());
	expect_all();
}

static uint32_t findings;

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	(void)ctx;
	findings++;
	cr_log_error("finding %u: %s", f->kind, f->text);
	return 0;
}

/* A scan compares each index with what its segment says, to the byte. */
Test(commitlog_part, the_index_that_is_made_of_it_is_right_to_the_byte, .init = up_real,
     .fini = down_real)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = on_finding};

	for (uint32_t life = 1; life < 4; life++) {
		fill(life * MIB + life * 100000);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(thmq_log_scan(dir, &visitor, NULL), 0);
		cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env),
			     0);
		r.core = thmqi_env_core(r.env, 0);
		cr_assert_eq(reopen(), 0);
		cr_assert(was_taken());
	}
	fill(5 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(thmq_log_scan(dir, &visitor, NULL), 0);
	cr_assert_eq(findings, 0);
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 1);
	expect_all();
}

/* Runs of @size bytes until the log ends at @position or behind it, and what follows from that is done. */
static void fill_plain(uint64_t position, uint32_t size)
{
	uint64_t index = 0;

	for (uint32_t p = 0; rig_stats(&r).end_position < position; p = (p + 1) % PARTITIONS)
		cr_assert_eq(rig_append_wait(&r, p, next[p]++, size, MEMORY, &index), 0);
	cr_assert_eq(rig_append_wait(&r, 0, next[0]++, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
}

/* A part of small runs would be as large as many of them. */
Test(commitlog_part, one_is_made_where_it_takes_little_of_what_was_appended, .init = up, .fini = down)
{
	struct thmq_log *log;

	cr_assert_eq(rig_close(&r), 0);
	r.defects = 0;
	cr_assert_eq(reopen(), 0);
	log = r.log;
	cr_assert_eq(log->part_due, UINT64_MAX); /* the segment is small: it is asked for here */
	log->part_due = 3 * MIB;
	fill_plain(3 * MIB + MIB / 2, 100);
	cr_assert_eq(log->part_due, UINT64_MAX);
	cr_assert_eq(log->part, 0);
	fill_plain(4 * MIB + 100000, 1000);
	cr_assert_eq(log->part_from, 4 * MIB);
	for (uint32_t i = 0; i < 5000 && log->sealing.step != SEALING_IDLE; i++)
		thmqi_core_poll(r.core, 1000000);
	log->part_due = 7 * MIB;
	fill_plain(7 * MIB + MIB / 2, 60000);
	cr_assert_eq(log->part, 1);
	cr_assert_geq(log->part_from, 7 * MIB);
}

static bool is_zero(const uint8_t *at, const uint8_t *end)
{
	while (at < end && !*at)
		at++;
	return at == end;
}

/* Between its sections, and in its pages of runs behind the last. */
static void expect_zeros(const char *name)
{
	const struct seal_header *h;
	char path[128];
	uint8_t *data;
	size_t bytes;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	data = calloc(1, 8 * MIB);
	cr_assert(f && data);
	bytes = fread(data, 1, 8 * MIB, f);
	fclose(f);
	h = (const struct seal_header *)data;
	for (uint32_t i = 0; i < SEAL_SECTIONS; i++) {
		const struct seal_section_entry *e = &h->sections[i];
		uint64_t next_at = i + 1 < SEAL_SECTIONS ? h->sections[i + 1].offset : bytes;

		cr_assert(is_zero(data + e->offset + e->bytes, data + next_at), "%s: behind section %u", name, e->kind);
	}
	for (uint32_t i = 0; i < h->sections[SEAL_RUNS - 1].count; i++) {
		const struct seal_run_page *p = (const struct seal_run_page *)(data + h->sections[SEAL_RUNS - 1].offset) + i;
		uint32_t k = 0;

		while (k < SEAL_PAGE_RUNS && p->runs[k].blocks)
			k++;
		cr_assert(is_zero((const uint8_t *)&p->runs[k], (const uint8_t *)&p->crc), "%s: page %u, behind run %u", name, i, k);
	}
	free(data);
}

/* What an image was made in holds the next one, if the log is busy: nothing of what it was is in that. */
Test(commitlog_part, an_index_has_nothing_of_the_one_whose_memory_it_is_made_in, .init = up_real, .fini = down_real)
{
	const struct thmq_log_visitor visitor = {.size = sizeof(visitor), .finding = on_finding};
	struct seal_memory *kept = &r.log->sealing.kept;
	uint64_t index, bytes = 0, largest = 0;
	uint32_t used = 0, times = 0;
	const uint8_t *spoiled = NULL;

	for (uint32_t i = 1; rig_stats(&r).end_position < 7 * MIB; i++) {
		uint32_t p = i % 3 ? i % PARTITIONS : PARTITIONS + i % (KEYED - PARTITIONS);

		if (i % 3)
			cr_assert_eq(rig_append_wait(&r, p, next[p]++, 100 + i % 900, i % 100 ? MEMORY : DURABLE, &index), 0);
		else
			cr_assert_eq(rig_append_wait(&r, p, i, 50, MEMORY, &index), 0);
		if (i % 5 == 0)
			put_state(i % KINDS, i % ITEMS, i);
		if (kept->data && kept->data != spoiled) { /* as if it had held anything */
			memset(kept->data, 0xff, kept->bytes);
			thmqi_timer_stop(r.core, &r.log->sealing.kept_timer); /* a slow machine is no log at rest */
			spoiled = kept->data;
			bytes = kept->bytes;
			largest = THMQI_MAX(largest, bytes);
			times++;
		}
		if (spoiled && r.log->sealing.image.data == spoiled) {
			used += r.log->sealing.image.used;
			spoiled = NULL;
		}
		if (i % 8 == 0)
			rig_poll(&r, 2);
	}
	cr_assert_gt(times, 1);
	cr_assert_gt(used, 0, "%u of %u", used, times);
	cr_assert_leq(largest, 64 * MIB);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(thmq_log_scan(dir, &visitor, NULL), 0);
	cr_assert_eq(findings, 0);
	expect_zeros("00000000000000000000.idx");
	expect_zeros(PART);
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_stats(&r).sealed_segments, 1);
	for (uint32_t p = 0; p < PARTITIONS; p++)
		cr_assert_eq(rig_read_all(&r, p, 0, next[p]), (int64_t)next[p], "partition %u", p);
}

Test(commitlog_part, its_memory_goes_back_once_the_log_is_at_rest, .init = up, .fini = down)
{
	bool kept = false;

	fill_plain(3 * MIB, 1000);
	for (uint32_t i = 0; i < 1000 && (r.log->sealing.kept.data || r.log->sealing.image.data); i++) {
		thmqi_core_poll(r.core, 1000000);
		kept |= r.log->sealing.kept.data != NULL;
	}
	cr_assert(kept);
	cr_assert_null(r.log->sealing.kept.data);
	cr_assert_null(r.log->sealing.image.data);
}
