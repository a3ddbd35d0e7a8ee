/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a backlog is read: without limit while nobody waits for a write, else by what the writes bear. The time is made up, and so are devices. */
#include <criterion/criterion.h>

#include "../../lib/commitlog/internal.h"
#include "commitlog_rig.h"

#define PIECE (128u << 10)
#define MSEC 1000000u
#define MIB (1ull << 20)

static struct rig r;
static struct flight flight;

static void up(void)
{
	rig_init(&r, 5, NULL);
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	rig_fini(&r);
}

static void pass(uint64_t ns)
{
	r.core->now_ns += ns;
}

/* One write of @ns; @beside: with a read beside it. */
static void write_one(uint64_t ns, bool beside)
{
	if (beside)
		thmqi_pace_begun(r.log);
	thmqi_pace_write(r.log, &flight);
	pass(ns);
	thmqi_pace_written(r.log, &flight);
	if (beside)
		thmqi_pace_ended(r.log, PIECE);
}

Test(commitlog_pace, without_writes_there_is_no_limit, .init = up, .fini = down)
{
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert(thmqi_pace_read(r.log, 1u << 20, PACE_READER));
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), 1u << 20);
	write_one(MSEC, false);
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), PIECE);
	pass(100 * MSEC); /* and none since */
	cr_assert_eq(thmqi_pace_bytes(r.log, 1u << 20), 1u << 20);
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert(thmqi_pace_read(r.log, 1u << 20, PACE_READER));
}

Test(commitlog_pace, while_a_write_is_waited_for_reads_are_one_at_a_time_and_so_many_a_second,
     .init = up, .fini = down)
{
	uint64_t bytes = 0, begin;

	thmqi_pace_write(r.log, &flight);
	r.log->pace.reading = 1;
	cr_assert_not(thmqi_pace_read(r.log, PIECE, PACE_READER));
	r.log->pace.reading = 0;
	begin = r.core->now_ns;
	while (r.core->now_ns - begin < 1000ull * MSEC) {
		while (thmqi_pace_read(r.log, PIECE, PACE_READER))
			bytes += PIECE;
		cr_assert(thmqi_timer_is_running(
			&r.log->pace.timer)); /* who was refused is called again */
		thmqi_timer_stop(r.core, &r.log->pace.timer);
		pass(MSEC);
	}
	cr_assert_geq(bytes, 60 * MIB);
	cr_assert_leq(bytes, 68 * MIB);
	thmqi_pace_written(r.log, &flight);
}

Test(commitlog_pace, the_rate_follows_from_what_writes_take, .init = up, .fini = down)
{
	uint64_t was = r.log->pace.rate;

	for (uint32_t i = 0; i < 2000; i++)
		write_one(MSEC + i % 100 * 1000, false);
	cr_assert_eq(r.log->pace.rate, was); /* these tell what is usual */
	cr_assert_geq(r.log->pace.usual_ns, MSEC);
	cr_assert_leq(r.log->pace.usual_ns, MSEC * 3 / 2);
	for (uint32_t i = 0; i < 5000; i++)
		write_one(MSEC, true);
	cr_assert_eq(r.log->pace.rate, 1024 * MIB); /* they bear it: there is an end all the same */
	write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 1024 * MIB); /* one of so many may be slow */
	write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 512 * MIB);
	for (uint32_t i = 0; i < 100; i++)
		write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 4 * MIB); /* who is far behind gets on */
	for (uint32_t i = 0; i < 1000; i++)
		write_one(4 * MSEC, false);
	cr_assert_eq(r.log->pace.rate, 4 * MIB); /* nothing was read: nothing is known of that */
}

Test(commitlog_pace, readers_get_on_faster_than_writers_append, .init = up, .fini = down)
{
	for (uint32_t i = 0; i < 2000; i++)
		write_one(MSEC, false);
	for (uint32_t i = 0; i < 1000; i++) {
		r.log->stats.stored_bytes += 80000; /* 20 MB a second */
		write_one(4 * MSEC, true);
	}
	cr_assert_geq(r.log->pace.rate, 20000000);
	cr_assert_leq(r.log->pace.rate, 30000000);
}

/* Reads of @bytes that are allowed in a second while a write is waited for. */
static uint32_t reads_in_a_second(uint32_t bytes)
{
	const uint64_t begin = r.core->now_ns;
	uint32_t reads = 0;

	thmqi_pace_write(r.log, &flight);
	while (r.core->now_ns - begin < 1000ull * MSEC) {
		while (thmqi_pace_read(r.log, bytes, PACE_READER))
			reads++;
		thmqi_timer_stop(r.core, &r.log->pace.timer);
		pass(MSEC);
	}
	thmqi_pace_written(r.log, &flight);
	return reads;
}

/* Of small messages in batches of very many others each read brings few. */
Test(commitlog_pace, however_slow_and_large_reads_are_there_are_some_in_each_second, .init = up, .fini = down)
{
	uint32_t reads;

	for (uint32_t i = 0; i < 2000; i++)
		write_one(MSEC, false);
	for (uint32_t i = 0; i < 1000; i++)
		write_one(4 * MSEC, true);
	cr_assert_eq(r.log->pace.rate, 4 * MIB);
	pass(2000ull * MSEC); /* what had been saved up is filled again, and no more */
	for (uint32_t mib = 1; mib <= 4; mib *= 2) {
		reads = reads_in_a_second(mib * MIB);
		cr_assert_geq(reads, 15, "%u of %u MiB", reads, mib);
		cr_assert_leq(reads, 18, "%u of %u MiB", reads, mib);
	}
	reads = reads_in_a_second(PIECE); /* what is small is counted by its bytes */
	cr_assert_geq(reads, 30);
	cr_assert_leq(reads, 36);
}

/* One that was not begun after all, or is smaller than it might have been, has cost what was read. */
Test(commitlog_pace, what_is_not_read_after_all_costs_nothing, .init = up, .fini = down)
{
	struct pace *p = &r.log->pace;
	int64_t whole, before;

	for (uint32_t i = 0; i < 2000; i++)
		write_one(MSEC, false);
	for (uint32_t i = 0; i < 1000; i++)
		write_one(4 * MSEC, true);
	thmqi_pace_write(r.log, &flight);
	pass(1000ull * MSEC);
	cr_assert(thmqi_pace_read(r.log, 0, PACE_READER)); /* what has come is counted */
	before = p->allowance;
	cr_assert(thmqi_pace_read(r.log, 2 * MIB, PACE_READER));
	whole = before - p->allowance;
	cr_assert_gt(whole, 0);
	thmqi_pace_less(r.log, MIB); /* what is left is still more than a read costs */
	cr_assert_eq(p->allowance, before - whole);
	thmqi_pace_less(r.log, MIB - PIECE);
	cr_assert_eq(p->allowance, before - PIECE);
	thmqi_pace_less(r.log, PIECE);
	cr_assert_eq(p->allowance, before);
	thmqi_pace_written(r.log, &flight);
}

/* Whose tail is long by itself is not the readers' fault. */
Test(commitlog_pace, writes_that_are_slow_without_reads_do_not_count_against_these, .init = up, .fini = down)
{
	for (uint32_t i = 0; i < 4000; i++)
		write_one(i % 64 ? MSEC : 20 * MSEC, false);
	for (uint32_t i = 0; i < 4000; i++)
		write_one(i % 64 ? MSEC : 20 * MSEC, true);
	cr_assert_geq(r.log->pace.rate, 64 * MIB);
}

/* --------------------------------------------------------- made-up devices */

/* One thing after the other, in the order in which they came; so many bytes a second, if it is bounded. */
struct device {
	const char *what;
	double write_ns;
	double tail_ns, tailed; /* so large a part of the writes takes up to twice so much longer */
	double read_ns, read_bytes_per_s;
	double stall_ns, stalled; /* likewise of the reads */
	double bytes_per_s;       /* 0: not bounded */
	double least;             /* MB/s that a reader gets */
};

static struct {
	uint64_t random, free_ns, filled_ns;
	double tokens;
} model;

/* xorshift64 (Marsaglia 2003) */
static double chance(void)
{
	model.random ^= model.random << 13;
	model.random ^= model.random >> 7;
	model.random ^= model.random << 17;
	return (double)(model.random >> 11) * 0x1p-53;
}

/* When is it done? */
static uint64_t serve(const struct device *d, bool write, uint32_t bytes)
{
	double ns = write ? d->write_ns * (0.9 + 0.2 * chance()) : d->read_ns + bytes * 1e9 / d->read_bytes_per_s;
	uint64_t begin = r.core->now_ns > model.free_ns ? r.core->now_ns : model.free_ns;

	if (write && chance() < d->tailed)
		ns += d->tail_ns * 2 * chance();
	if (!write && chance() < d->stalled)
		ns += d->stall_ns * 2 * chance();
	if (d->bytes_per_s > 0) {
		model.tokens += (double)(begin - model.filled_ns) * d->bytes_per_s / 1e9;
		model.tokens = (model.tokens > (double)MIB ? (double)MIB : model.tokens) - bytes;
		if (model.tokens < 0) {
			begin += (uint64_t)(-model.tokens * 1e9 / d->bytes_per_s);
			model.tokens = 0;
		}
		model.filled_ns = begin;
	}
	model.free_ns = begin + (uint64_t)ns;
	return model.free_ns;
}

#define WRITES 20000u

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* One write after the other, and a reader that takes what it may. Return: p99, of all but the first half. */
static uint64_t p99_of(const struct device *d, bool reader, double *ret_rate)
{
	static uint64_t took[WRITES];
	struct pace *p = &r.log->pace;
	uint64_t begun, done, read_done = UINT64_MAX, next, bytes = 0, since = 0;
	uint32_t len = 0;

	for (uint32_t i = 0; i < WRITES; i++) {
		if (i == WRITES / 2) {
			bytes = 0;
			since = r.core->now_ns;
		}
		begun = r.core->now_ns;
		thmqi_pace_write(r.log, &flight);
		done = serve(d, true, 4096);
		r.log->stats.stored_bytes += 4096;
		while (r.core->now_ns < done) {
			if (reader && !p->reading) {
				len = thmqi_pace_bytes(r.log, 1u << 20);
				if (thmqi_pace_read(r.log, len, PACE_READER)) {
					thmqi_pace_begun(r.log);
					read_done = serve(d, false, len);
					bytes += len;
				}
			}
			next = read_done < done ? read_done : done;
			if (thmqi_timer_is_running(&p->timer) && p->timer.deadline_ns < next)
				next = p->timer.deadline_ns;
			r.core->now_ns = next > r.core->now_ns ? next : r.core->now_ns + 1;
			if (thmqi_timer_is_running(&p->timer) && p->timer.deadline_ns <= r.core->now_ns)
				thmqi_timer_stop(r.core, &p->timer);
			if (read_done <= r.core->now_ns) {
				thmqi_pace_ended(r.log, len);
				read_done = UINT64_MAX;
			}
		}
		thmqi_pace_written(r.log, &flight);
		took[i] = r.core->now_ns - begun;
		pass(1500);
	}
	if (read_done != UINT64_MAX)
		thmqi_pace_ended(r.log, len);
	*ret_rate = (double)bytes * 1e3 / (double)(r.core->now_ns - since);
	qsort(took + WRITES / 2, WRITES / 2, sizeof(*took), by_size);
	return took[WRITES / 2 + WRITES / 2 * 99 / 100];
}

Test(commitlog_pace, no_device_lets_a_reader_double_the_p99_of_writes, .init = up, .fini = down)
{
	static const struct device devices[] = {
		{"fast", 100e3, 300e3, .01, 30e3, 2e9, 0, 0, 0, 30},
		{"fast, with a long tail", 100e3, 2e6, .02, 30e3, 2e9, 0, 0, 0, 30},
		{"some reads stall", 200e3, 100e3, .01, 100e3, 1e9, 4e6, .05, 0, 15},
		{"many reads stall", 200e3, 100e3, .01, 100e3, 1e9, 4e6, .3, 0, 15},
		{"reads take long", 200e3, 100e3, .01, 2e6, 1e9, 0, 0, 0, 15},
		{"reads take very long", 200e3, 100e3, .01, 10e6, 1e9, 0, 0, 0, 15},
		{"bounded", 200e3, 100e3, .01, 50e3, 1e9, 0, 0, 100e6, 15},
		{"slow, with stalls", 300e3, 5e6, .03, 300e3, 150e6, 5e6, .02, 0, 10},
	};

	for (uint32_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		const struct device *d = &devices[i];
		double rate;
		uint64_t alone, beside;

		thmqi_timer_stop(r.core, &r.log->pace.timer);
		memset(&r.log->pace, 0, sizeof(r.log->pace));
		memset(&model, 0, sizeof(model));
		model.random = 88172645463325252ull;
		thmqi_pace_init(r.log);
		alone = p99_of(d, false, &rate);
		beside = p99_of(d, true, &rate);
		cr_log_info("%s: p99 %.0f us, beside a reader %.0f us, who gets %.1f MB/s", d->what,
			    (double)alone / 1e3, (double)beside / 1e3, rate);
		cr_expect_leq(beside, 2 * alone, "%s: %.0f us, and %.0f us beside a reader", d->what, (double)alone / 1e3,
			      (double)beside / 1e3);
		cr_expect_geq(rate, d->least, "%s: a reader gets %.1f MB/s", d->what, rate);
	}
}

/* A reader of a backlog beside writes gets all of it, in small pieces. */
Test(commitlog_pace, a_backlog_is_read_beside_writes, .init = up, .fini = down)
{
	struct thmq_log_reader *reader;
	struct thmq_log_view v;
	uint64_t index = 0, at = 0, next = 1000000;

	r.opts.cache_bytes = 64u << 10;
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 400; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 20000, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &reader), 0);
	for (uint32_t i = 0; i < 100000 && at < 400; i++) {
		int rc = thmq_log_read(reader, UINT64_MAX, &v);

		if (rc == 1) {
			cr_assert(rig_view_ok(&v, 1, at));
			at++;
			thmq_log_view_release(r.log, &v);
			continue;
		}
		cr_assert_eq(rc, 0);
		if (r.durable >= index)
			cr_assert_eq(rig_append(&r, 2, next++, THMQ_DURABILITY_DURABLE, &index), 0);
		thmqi_core_poll(r.core, 1000000);
		cr_assert_leq(r.log->pace.reading, 2);
	}
	cr_assert_eq(at, 400);
	thmq_log_reader_close(reader);
}

static struct {
	uint32_t reads, largest, most; /* of batches: their number, bytes of the largest, at a time */
} seen;

static void see_read(void *ctx, const char *name, const struct thmqi_disk_op *op)
{
	(void)ctx; /* a segment is called by its first name */
	if (op->opcode != THMQI_DISK_READ || !name || (!strstr(name, ".log") && strcmp(name, "next.tmp") != 0))
		return;
	seen.reads++;
	seen.largest = THMQI_MAX(seen.largest, op->len);
	seen.most = THMQI_MAX(seen.most, r.log->pace.reading + 1); /* it is counted once the device has it */
}

#define READERS_MAX 2u

/* @count runs of partition 1 from the first on, by each of @reader_count readers who go straight on. */
static void read_straight(uint64_t count, uint32_t reader_count, bool writes)
{
	struct thmq_log_reader *readers[READERS_MAX];
	uint64_t index = 0, at[READERS_MAX] = {0}, all = 0;
	static uint64_t next;
	struct thmq_log_view v;

	memset(&seen, 0, sizeof(seen));
	for (uint32_t i = 0; i < reader_count; i++)
		cr_assert_eq(thmq_log_reader_open(r.log, 1, rig_ready, &r, &readers[i]), 0);
	for (uint32_t i = 0; i < 200000 && all < count * reader_count; i++) {
		uint32_t k = i % reader_count;
		int rc = at[k] < count ? thmq_log_read(readers[k], UINT64_MAX, &v) : 0;

		cr_assert_geq(rc, 0);
		if (rc == 1) {
			cr_assert(rig_view_ok(&v, 1, at[k]));
			at[k]++;
			all++;
			thmq_log_view_release(r.log, &v);
		}
		if (writes && r.durable >= index)
			cr_assert_eq(rig_append(&r, 2, next++, THMQ_DURABILITY_DURABLE, &index), 0);
		if (k == reader_count - 1)
			thmqi_core_poll(r.core, 1000000);
	}
	cr_assert_eq(all, count * reader_count);
	for (uint32_t i = 0; i < reader_count; i++)
		thmq_log_reader_close(readers[i]);
}

/* Seen at the device: alone each reads a mebibyte while it looks at another; while writes are waited for all together one piece at a time. */
Test(commitlog_pace, what_is_read_ahead_is_bounded_while_writes_are_under_way, .init = up, .fini = down)
{
	uint64_t index = 0;

	r.opts.cache_bytes = 64u << 10;
	r.opts.batch_bytes = 64u << 10; /* a batch is read whole, however large */
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 600; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 20000, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(thmq_log_flush(r.log, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 300);
	thmqi_disk_sim_observe(r.sim, see_read, NULL);
	thmqi_disk_sim_advance(r.sim, 1000ull * MSEC);
	rig_poll(&r, 1);
	read_straight(600, READERS_MAX, false);
	cr_assert_eq(seen.largest, MIB, "%u", seen.largest);
	cr_assert_eq(seen.most, 2);
	for (uint32_t readers = 1; readers <= READERS_MAX; readers++) {
		read_straight(600, readers, true);
		cr_assert_leq(seen.largest, PIECE, "%u", seen.largest);
		cr_assert_geq(seen.reads, readers * 600 * 20000 / PIECE);
		cr_assert_eq(seen.most, 1, "%u", seen.most);
	}
	thmqi_disk_sim_observe(r.sim, NULL, NULL);
}

/* Both want to read all the time: each gets its half, and more than is appended; one that asks no more holds up the other for a moment only. */
Test(commitlog_pace, a_copy_that_is_behind_and_readers_take_turns, .init = up, .fini = down)
{
	uint64_t bytes[PACE_KINDS] = {0}, begin;
	const uint32_t large = 4 * PIECE;

	for (uint32_t i = 0; i < 2000; i++)
		write_one(MSEC, false);
	cr_assert(thmqi_pace_read(r.log, PIECE, PACE_COPY));
	for (uint32_t i = 0; i < 1000; i++) /* they hurt the writes */
		write_one(4 * MSEC, true);
	cr_assert_lt(r.log->pace.rate, 32 * MIB);
	thmqi_pace_write(r.log, &flight);
	begin = r.core->now_ns;
	for (uint32_t i = 0; r.core->now_ns - begin < 4000ull * MSEC; i++) {
		/* whoever asks first */
		enum pace_kind first = i % 3 ? PACE_READER : PACE_COPY, other = first == PACE_COPY ? PACE_READER : PACE_COPY;

		if (thmqi_pace_read(r.log, large, first))
			bytes[first] += large;
		if (thmqi_pace_read(r.log, large, other))
			bytes[other] += large;
		thmqi_timer_stop(r.core, &r.log->pace.timer);
		pass(MSEC);
		if (i % 100 == 0) { /* a write ends now and then: the rate is looked at */
			thmqi_pace_written(r.log, &flight);
			thmqi_pace_write(r.log, &flight);
		}
	}
	cr_assert_geq(r.log->pace.rate, 32 * MIB);
	cr_assert_geq(bytes[PACE_COPY], 60 * MIB);
	cr_assert_geq(bytes[PACE_READER], 60 * MIB);
	/* the copy has all: no reader waits for it longer than its turn */
	begin = r.core->now_ns;
	bytes[PACE_READER] = 0;
	while (r.core->now_ns - begin < 1000ull * MSEC) {
		if (thmqi_pace_read(r.log, large, PACE_READER))
			bytes[PACE_READER] += large;
		thmqi_timer_stop(r.core, &r.log->pace.timer);
		pass(MSEC);
	}
	cr_assert_geq(bytes[PACE_READER], 24 * MIB);
	thmqi_pace_written(r.log, &flight);
}
