/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a log comes back: torn tails at every sector, damage below what is known durable, older bytes, lost files, a making
 * that was cut short. Bytes are changed on the simulated disk between two lives.
 */
#include <criterion/criterion.h>

#include "commitlog/copies.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define MEMORY THMQ_DURABILITY_MEMORY
#define SECTOR 512u
#define BLOCK 4096u
#define IMAGE_BYTES (1u << 20)
#define VOTE_BYTES 8192u

static struct rig r;

static void up(void)
{
	rig_init(&r, 1, NULL);
	cr_assert_eq(rig_open(&r), 0);
}

static void down(void)
{
	rig_fini(&r);
}

/* All stored bytes of a log of one segment. */
static uint8_t image[IMAGE_BYTES], vote[VOTE_BYTES], now[IMAGE_BYTES];

static void save(void)
{
	rig_get(&r, RIG_SEGMENT, 0, image, IMAGE_BYTES);
	rig_get(&r, "vote", 0, vote, VOTE_BYTES);
}

static void restore(void)
{
	rig_put(&r, RIG_SEGMENT, 0, image, IMAGE_BYTES);
	rig_put(&r, "vote", 0, vote, VOTE_BYTES);
}

/* The log's life ends here without its owner's doing; the disk keeps everything. */
static void power_cut(void)
{
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
}

/* @count batches, each durable before the next is formed. Return: where the last one begins. */
static uint64_t durable_one_by_one(uint64_t first, uint64_t count, uint32_t size)
{
	uint64_t index = 0, at = 0;

	for (uint64_t i = first; i < first + count; i++) {
		at = rig_stats(&r).end_position;
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, size, DURABLE, &index), 0);
		cr_assert_eq(rig_await(&r, index), 0);
	}
	return at;
}

static void expect_messages(uint64_t count)
{
	uint64_t begin = 0, end = 0;

	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	thmq_log_bounds(r.log, 1, &begin, &end);
	cr_assert_eq(end, count, "%llu", (unsigned long long)end);
	cr_assert_eq(rig_read_all(&r, 1, 0, count), (int64_t)count);
}

/* The open is refused, and not a byte is changed by it. */
static void expect_refusal(int error)
{
	static uint8_t segment[IMAGE_BYTES], v[VOTE_BYTES];

	rig_get(&r, RIG_SEGMENT, 0, segment, IMAGE_BYTES);
	rig_get(&r, "vote", 0, v, VOTE_BYTES);
	cr_assert_eq(rig_open(&r), error, "%s", thmq_errmsg());
	rig_close(&r);
	rig_get(&r, RIG_SEGMENT, 0, now, IMAGE_BYTES);
	cr_assert_arr_eq(now, segment, IMAGE_BYTES);
	rig_get(&r, "vote", 0, now, VOTE_BYTES);
	cr_assert_arr_eq(now, v, VOTE_BYTES);
}

static void flip(const char *name, uint64_t at)
{
	static uint8_t sector[SECTOR];

	rig_get(&r, name, at / SECTOR * SECTOR, sector, SECTOR);
	sector[at % SECTOR] ^= 1;
	rig_put(&r, name, at / SECTOR * SECTOR, sector, SECTOR);
}

/* -------------------------------------------------------------- torn tails */

/* Copies of a log are equal byte for byte, also where nobody looks. */
Test(commitlog_recover, zeros_that_a_torn_write_lost_are_written_again, .init = up, .fini = down)
{
	static uint8_t stale[SECTOR], zeros[BLOCK];
	uint64_t at = durable_one_by_one(0, 3, 5000), end = rig_stats(&r).end_position;
	uint64_t first = THMQI_ALIGN_UP(at + 128 + 96 + 5000, (uint64_t)SECTOR);

	cr_assert_lt(first, end);
	power_cut();
	memset(stale, 0xa5, SECTOR);
	for (uint64_t i = first; i < end; i += SECTOR)
		rig_put(&r, RIG_SEGMENT, i, stale, SECTOR);
	expect_messages(3);
	power_cut();
	rig_get(&r, RIG_SEGMENT, first, now, (uint32_t)(end - first));
	cr_assert_arr_eq(now, zeros, end - first);
	expect_messages(3);
}

Test(commitlog_recover, a_tail_torn_at_any_sector_is_cut, .init = up, .fini = down)
{
	static uint8_t zeros[IMAGE_BYTES];
	uint64_t at, end;

	at = durable_one_by_one(0, 5, 9000);
	end = rig_stats(&r).end_position;
	power_cut();
	save();
	/* what came before a sector, or what came from it on, or all but it, reached the disk. The last sector is padding */
	for (uint64_t cut = at; cut < end; cut += SECTOR) {
		restore();
		rig_put(&r, RIG_SEGMENT, cut, zeros, (uint32_t)(end - cut));
		expect_messages(cut < at + 128 + 96 + 9000 ? 4 : 5);
		rig_close(&r);
		restore();
		rig_put(&r, RIG_SEGMENT, at, zeros, (uint32_t)(cut - at));
		expect_messages(cut > at ? 4 : 5);
		rig_close(&r);
		restore();
		rig_put(&r, RIG_SEGMENT, cut, zeros, SECTOR);
		expect_messages(cut < at + 128 + 96 + 9000 ? 4 : 5);
		rig_close(&r);
	}
}

Test(commitlog_recover, what_lies_behind_a_lost_write_goes_with_it, .init = up, .fini = down)
{
	static uint8_t zeros[BLOCK];
	uint64_t index = 0, at;

	durable_one_by_one(0, 3, 100);
	at = rig_stats(&r).end_position;
	/* three in flight together: none knows that another is durable */
	for (uint64_t i = 3; i < 6; i++) {
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, 200000, DURABLE, &index), 0);
		thmqi_core_poll(r.core, 0);
	}
	power_cut();
	rig_put(&r, RIG_SEGMENT, at, zeros, BLOCK);
	expect_messages(3);
	cr_assert_eq(rig_stats(&r).unclean, 1);
	durable_one_by_one(3, 1, 50);
	/* the others chain to nothing, also later */
	power_cut();
	expect_messages(4);
}

Test(commitlog_recover, a_log_cut_and_continued_many_times_stays_whole, .init = up, .fini = down)
{
	uint64_t index = 0, have = 0;
	uint64_t begin, end;

	for (int life = 0; life < 30; life++) {
		for (uint64_t i = have; i < have + 20; i++) {
			cr_assert_eq(rig_append_wait(&r, 1, i, (uint32_t)(100 + i * 997 % 30000), i % 2 ? DURABLE : MEMORY,
						     &index), 0);
			if (i % 5 == 0)
				thmqi_core_poll(r.core, 0);
		}
		rig_crash(&r, THMQI_DISK_SIM_CRASH_SEEDED);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		end = 0;
		thmq_log_bounds(r.log, 1, &begin, &end);
		cr_assert_geq(end, have, "what recovery kept before was durable");
		have = end;
		cr_assert_eq(rig_read_all(&r, 1, 0, have), (int64_t)have);
	}
}

Test(commitlog_recover, what_recovery_keeps_survives_the_next_crash, .init = up, .fini = down)
{
	uint64_t index = 0;

	for (uint64_t i = 0; i < 5; i++)
		cr_assert_eq(rig_append(&r, 1, i, MEMORY, &index), 0);
	rig_poll(&r, 100);
	cr_assert_eq(r.written, index);
	/* the process dies, the disk's cache does not */
	rig_close(&r); /* flushes: so this is not it */
	rig_fini(&r);
	rig_init(&r, 2, NULL);
	cr_assert_eq(rig_open(&r), 0);
	for (uint64_t i = 0; i < 5; i++)
		cr_assert_eq(rig_append(&r, 1, i, MEMORY, &index), 0);
	rig_poll(&r, 100);
	cr_assert_eq(r.written, index);
	thmqi_disk_sim_crash_as(r.sim, THMQI_DISK_SIM_CRASH_KEEP); /* as the kernel keeps it when a process is killed */
	rig_close(&r);
	thmqi_disk_sim_restart(r.sim);
	expect_messages(5);
	rig_crash(&r, THMQI_DISK_SIM_CRASH_LOSE);
	expect_messages(5);
}

/* ------------------------------------------------------------------ damage */

Test(commitlog_recover, damage_below_a_later_claim_is_refused, .init = up, .fini = down)
{
	uint64_t at;

	durable_one_by_one(0, 2, 5000);
	at = durable_one_by_one(2, 1, 5000);
	durable_one_by_one(3, 2, 5000); /* formed when it was durable */
	power_cut();
	save();
	for (uint64_t sector = at; sector < at + 5000 + 224; sector += SECTOR) {
		restore();
		image[sector + 50] ^= 4;
		rig_put(&r, RIG_SEGMENT, sector, image + sector, SECTOR);
		image[sector + 50] ^= 4;
		expect_refusal(-THMQ_ECORRUPT);
		cr_assert_not_null(strstr(thmq_errmsg(), "damaged"));
	}
	restore();
	expect_messages(5);
}

Test(commitlog_recover, every_byte_of_a_closed_log_matters, .init = up, .fini = down)
{
	uint64_t end;

	durable_one_by_one(0, 3, 700);
	end = rig_stats(&r).end_position;
	cr_assert_eq(rig_close(&r), 0);
	save();
	for (uint64_t at = 0; at < end; at += 13) {
		uint64_t in = at % BLOCK, payload = at < BLOCK ? 8 : 700;

		/* not covered: the local word, and padding */
		if ((in >= 96 && in < 128) || in >= 128 + 96 + payload)
			continue;
		image[at] ^= 1;
		rig_put(&r, RIG_SEGMENT, at / SECTOR * SECTOR, image + at / SECTOR * SECTOR, SECTOR);
		image[at] ^= 1;
		expect_refusal(-THMQ_ECORRUPT);
		restore();
	}
	expect_messages(3);
}

Test(commitlog_recover, damage_above_the_mark_without_a_claim_is_a_torn_tail, .init = up, .fini = down)
{
	uint64_t at = durable_one_by_one(0, 4, 100);

	power_cut();
	save();
	image[at + 300] ^= 1;
	rig_put(&r, RIG_SEGMENT, at, image + at, SECTOR);
	expect_messages(3);
	cr_assert_gt(rig_stats(&r).torn_bytes, 0);
}

Test(commitlog_recover, the_mark_of_an_idle_second_counts, .init = up, .fini = down)
{
	uint64_t at = durable_one_by_one(0, 4, 100);

	for (int i = 0; i < 20; i++)
		thmqi_core_poll(r.core, 200000000);
	power_cut();
	save();
	image[at + 300] ^= 1;
	rig_put(&r, RIG_SEGMENT, at, image + at, SECTOR);
	expect_refusal(-THMQ_ECORRUPT);
}

Test(commitlog_recover, claims_of_older_lives_do_not_count, .init = up, .fini = down)
{
	static uint8_t zeros[BLOCK];
	uint64_t at, index;

	/* a life leaves batches with claims behind a hole; the next one begins below them and writes one batch */
	durable_one_by_one(0, 2, 100);
	at = rig_stats(&r).end_position;
	cr_assert_eq(rig_append_sized(&r, 1, 2, 1, 200000, DURABLE, &index), 0);
	thmqi_core_poll(r.core, 0);
	cr_assert_eq(rig_append_sized(&r, 1, 3, 1, 100, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	durable_one_by_one(4, 3, 100); /* these know that all before is durable: the disk breaks its word */
	power_cut();
	rig_put(&r, RIG_SEGMENT, at, zeros, BLOCK);
	r.defects = THMQI_LOG_CUT_DAMAGE; /* so that a next life begins all the same */
	expect_messages(2);
	r.defects = 0;
	durable_one_by_one(2, 1, 100);
	power_cut();
	expect_messages(3);
}

Test(commitlog_recover, bytes_behind_the_end_of_a_closed_log_mean_nothing, .init = up, .fini = down)
{
	uint64_t end, index, incarnation;
	uint8_t block[4096];
	uint32_t crc;

	durable_one_by_one(0, 2, 100);
	incarnation = rig_stats(&r).incarnation;
	cr_assert_eq(rig_close(&r), 0);
	rig_get(&r, "vote", 0, vote, VOTE_BYTES);
	cr_assert_eq(rig_open(&r), 0);
	/* a batch that continues the log as far as anybody can see, put behind the end of the closed one */
	cr_assert_eq(rig_append(&r, 1, 2, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	end = rig_stats(&r).end_position;
	cr_assert_gt(end, 0);
	power_cut();
	/* but it says that it is of the same life: a later one has stored a later vote first, which tells */
	rig_get(&r, RIG_SEGMENT, end - sizeof(block), block, sizeof(block));
	memcpy(block + 96, &incarnation, 8);
	crc = thmqi_crc32c(0, block + 96, 28);
	memcpy(block + 124, &crc, 4);
	rig_put(&r, RIG_SEGMENT, end - sizeof(block), block, sizeof(block));
	rig_put(&r, "vote", 0, vote, VOTE_BYTES);
	expect_messages(2);
	cr_assert_eq(rig_stats(&r).unclean, 0);
}

/* ------------------------------------------------------------------- files */

Test(commitlog_recover, a_torn_vote_leaves_the_one_before, .init = up, .fini = down)
{
	durable_one_by_one(0, 3, 100);
	cr_assert_eq(rig_close(&r), 0);
	save();
	for (uint32_t slot = 0; slot < 2; slot++) {
		restore();
		memset(now, 0x5a, SECTOR);
		rig_put(&r, "vote", slot * BLOCK, now, SECTOR);
		expect_messages(3);
		cr_assert_eq(rig_close(&r), 0);
	}
	restore();
	rig_put(&r, "vote", 0, now, SECTOR);
	memset(now, 0x5a, SECTOR);
	rig_put(&r, "vote", 0, now, SECTOR);
	rig_put(&r, "vote", BLOCK, now, SECTOR);
	expect_refusal(-THMQ_ECORRUPT);
}

static void never(void *ctx, uint64_t index, uint64_t term, uint32_t type)
{
	(void)ctx, (void)index, (void)term, (void)type;
}

/* Wherever it was cut: nobody has its vote yet, also where just one of the two blocks that would tell is there. */
Test(commitlog_recover, a_copy_whose_making_was_cut_opens)
{
	const struct thmqi_log_copies copies = {.formed = never, .first = "members", .first_len = 8};
	uint64_t nth = 1;
	int rc;

	do {
		rig_init(&r, nth, NULL);
		r.opts.events = &r.events;
		r.opts.ctx = &r;
		cr_assert_eq(rig_env(&r), 0);
		thmqi_disk_sim_cut_at(r.sim, nth, THMQI_DISK_SIM_CRASH_SEEDED);
		rc = thmqi_log_open_copy(r.core, &r.opts, &copies, 0, &r.log);
		if (rc) {
			r.log = NULL;
			rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
			cr_assert_eq(rig_env(&r), 0);
			cr_assert_eq(thmqi_log_open_copy(r.core, &r.opts, &copies, 0, &r.log), 0, "cut at %llu: %s", (unsigned long long)nth,
				     thmq_errmsg());
		}
		rig_fini(&r);
	} while (rc && nth++ < 100);
	cr_assert(!rc && nth > 8, "%llu", (unsigned long long)nth);
}

/* The older block says that the log was closed, and where: what the next life wrote is there all the same. */
Test(commitlog_recover, a_damaged_vote_hides_nothing_that_was_written_after_it, .init = up, .fini = down)
{
	for (uint32_t slot = 0; slot < 2; slot++) {
		rig_fini(&r);
		up();
		durable_one_by_one(0, 3, 100);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(rig_open(&r), 0);
		durable_one_by_one(3, 4, 100);
		power_cut();
		flip("vote", slot * BLOCK + 30);
		expect_messages(7);
		cr_assert_eq(rig_stats(&r).unclean, 1);
		cr_assert_eq(rig_stats(&r).incarnation, 3);
		cr_assert_eq(rig_close(&r), 0);
		expect_messages(7);
	}
}

/* The same where the first batch behind the closed end is damaged: later ones tell. */
Test(commitlog_recover, a_damaged_vote_hides_no_damage, .init = up, .fini = down)
{
	uint64_t at;

	durable_one_by_one(0, 3, 100);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(rig_open(&r), 0);
	at = rig_stats(&r).end_position;
	durable_one_by_one(3, 4, 100);
	power_cut();
	flip(RIG_SEGMENT, at + 300);
	for (uint32_t slot = 0; slot < 2; slot++) {
		flip("vote", slot * BLOCK + 30);
		expect_refusal(-THMQ_ECORRUPT);
		flip("vote", slot * BLOCK + 30);
	}
	flip(RIG_SEGMENT, at + 300);
	expect_messages(7);
}

Test(commitlog_recover, the_mark_moves_under_load, .init = up, .fini = down)
{
	uint64_t at = durable_one_by_one(0, 1, 100);

	for (uint64_t i = 1; i < 8; i++) { /* never idle for a second */
		for (int k = 0; k < 2; k++)
			thmqi_core_poll(r.core, 200000000);
		at = durable_one_by_one(i, 1, 100);
	}
	power_cut();
	flip(RIG_SEGMENT, at - 3 * BLOCK + 300);
	memset(now, 0, SECTOR);
	for (uint64_t block = at - 2 * BLOCK; block <= at; block += BLOCK) /* nor do later headers tell */
		rig_put(&r, RIG_SEGMENT, block, now, SECTOR);
	expect_refusal(-THMQ_ECORRUPT);
}

Test(commitlog_recover, a_shortened_segment_is_damage, .init = up, .fini = down)
{
	durable_one_by_one(0, 3, 100);
	power_cut();
	rig_get(&r, RIG_SEGMENT, 0, now, IMAGE_BYTES);
	rig_unlink(&r, RIG_SEGMENT);
	rig_make(&r, RIG_SEGMENT, now, IMAGE_BYTES / 2);
	cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT);
	cr_assert_not_null(strstr(thmq_errmsg(), "of its"));
	rig_close(&r);
}

Test(commitlog_recover, a_lost_vote_is_damage_where_there_are_messages, .init = up, .fini = down)
{
	durable_one_by_one(0, 3, 100);
	cr_assert_eq(rig_close(&r), 0);
	rig_unlink(&r, "vote");
	cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT);
	rig_close(&r);
	/* also where the batch that would prove it is damaged itself */
	memset(now, 0, BLOCK);
	rig_put(&r, RIG_SEGMENT, BLOCK, now, BLOCK);
	cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT);
}

Test(commitlog_recover, a_making_cut_short_is_begun_anew_at_any_step)
{
	bool made = false;

	for (uint64_t step = 1; !made; step++) {
		cr_assert_lt(step, 100);
		for (int mode = THMQI_DISK_SIM_CRASH_LOSE; mode <= THMQI_DISK_SIM_CRASH_ANY; mode++) {
			rig_init(&r, step * 10 + (uint64_t)mode, NULL);
			thmqi_disk_sim_cut_at(r.sim, step, (enum thmqi_disk_sim_crash_mode)mode);
			made = rig_open(&r) == 0;
			rig_close(&r);
			thmqi_disk_sim_restart(r.sim);
			cr_assert_eq(rig_open(&r), 0, "step %llu mode %d: %s", (unsigned long long)step, mode,
				     thmq_errmsg());
			durable_one_by_one(0, 2, 100);
			power_cut();
			expect_messages(2);
			rig_fini(&r);
		}
	}
}

Test(commitlog_recover, nothing_is_made_where_that_is_not_wanted, .init = up, .fini = down)
{
	durable_one_by_one(0, 2, 100);
	cr_assert_eq(rig_close(&r), 0);
	r.opts.flags = THMQ_LOG_NO_CREATE;
	expect_messages(2);
	cr_assert_eq(rig_close(&r), 0);
	rig_unlink(&r, "vote");
	cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT);
	memset(now, 0, IMAGE_BYTES);
	rig_put(&r, RIG_SEGMENT, 0, now, IMAGE_BYTES);
	cr_assert_eq(rig_open(&r), -ENOENT);
	cr_assert_eq(rig_open(&r), -ENOENT);
	rig_unlink(&r, RIG_SEGMENT);
	cr_assert_eq(rig_open(&r), -ENOENT);
	r.opts.flags = 0;
	expect_messages(0);
}

/* Three segments, all closed. */
static uint64_t three_segments(void)
{
	uint64_t index = 0, i = 0;

	for (; rig_stats(&r).segment_count < 3 || i % 4; i++)
		cr_assert_eq(rig_append_wait(&r, 1, i, 60000, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	return i;
}

Test(commitlog_recover, a_missing_segment_is_damage, .init = up, .fini = down)
{
	static const char *const names[] = {RIG_SEGMENT, "00000000000001048576.log", "00000000000003145728.log"};

	for (uint32_t i = 0; i < 6; i++) {
		rig_fini(&r);
		up();
		three_segments();
		/* the mark is at the begin where the power is cut: then the claims of later headers count */
		if (i < 3)
			power_cut();
		else
			cr_assert_eq(rig_close(&r), 0);
		rig_unlink(&r, names[i % 3]);
		if (i == 2) { /* nothing tells of the last one but itself */
			cr_assert_eq(rig_open(&r), 0);
			continue;
		}
		cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT, "case %u", i);
	}
}

Test(commitlog_recover, another_log_and_a_newer_version_are_refused, .init = up, .fini = down)
{
	uint32_t crc;

	durable_one_by_one(0, 2, 100);
	cr_assert_eq(rig_close(&r), 0);
	r.opts.log_id[3] = 1;
	expect_refusal(-THMQ_ECORRUPT);
	memset(r.opts.log_id, 0, 16);
	save();
	/* version of the second batch */
	image[BLOCK + 4]++;
	crc = thmqi_crc32c(0, image + BLOCK, 92);
	memcpy(image + BLOCK + 92, &crc, 4);
	rig_put(&r, RIG_SEGMENT, BLOCK, image + BLOCK, BLOCK);
	expect_refusal(-THMQ_EVERSION);
	/* of the vote: both blocks */
	for (uint32_t at = 0; at < VOTE_BYTES; at += BLOCK) {
		vote[at + 4]++;
		crc = thmqi_crc32c(0, vote + at, 124);
		memcpy(vote + at + 124, &crc, 4);
	}
	rig_put(&r, "vote", 0, vote, VOTE_BYTES);
	expect_refusal(-THMQ_EVERSION);
}

Test(commitlog_recover, a_replay_that_says_no_ends_the_open, .init = up, .fini = down)
{
	durable_one_by_one(0, 2, 100);
	cr_assert_eq(rig_close(&r), 0);
	r.replay_rc = -EDOM;
	expect_refusal(-EDOM);
	r.replay_rc = 0;
	expect_messages(2);
}

Test(commitlog_recover, a_replay_that_says_no_by_a_positive_number_ends_it_too_and_cuts_nothing, .init = up, .fini = down)
{
	durable_one_by_one(0, 5, 100);
	power_cut();
	for (int no = 1; no < 4; no++) {
		r.replay_rc = no;
		expect_refusal(-ECANCELED);
	}
	r.replay_rc = 0;
	expect_messages(5);
}

/* ------------------------------------------------------------------ progress */

Test(commitlog_recover, how_far_it_is_is_told_and_may_end_it, .init = up, .fini = down)
{
	durable_one_by_one(0, 5, 100);
	cr_assert_eq(rig_close(&r), 0);
	r.progress_rc = -EDOM;
	expect_refusal(-EDOM);
	r.progress_rc = 1;
	expect_refusal(-ECANCELED);
	r.progress_rc = 0;
	r.progress_calls = 0;
	expect_messages(5);
	cr_assert_geq(r.progress_calls, 2);
	cr_assert(!r.progress_backwards);
	cr_assert_gt(r.progress_done, 0);
	cr_assert_eq(r.progress_done, r.progress_total);
}

/* ------------------------------------------------------- every step may fail */

Test(commitlog_recover, an_open_whose_steps_fail_one_by_one_leaves_nothing_behind)
{
	static const uint8_t opcodes[] = {THMQI_DISK_READ, THMQI_DISK_WRITE, THMQI_DISK_FLUSH, THMQI_DISK_RENAME,
					  THMQI_DISK_SYNC_DIR, THMQI_DISK_CREATE, THMQI_DISK_ALLOCATE};

	for (uint32_t life = 0; life < 2; life++) {
		for (uint32_t o = 0; o < THMQI_ARRAY_COUNT(opcodes); o++) {
			bool done = false;

			for (uint64_t nth = 1; !done && nth < 50; nth++) {
				struct thmqi_disk_sim_fault f = {
					.opcode = opcodes[o], .effect = THMQI_DISK_SIM_ERROR, .nth = nth};
				struct thmqi_disk_sim_stats s;
				int rc;

				rig_init(&r, nth, NULL);
				if (life) {
					cr_assert_eq(rig_open(&r), 0);
					durable_one_by_one(0, 3, 100);
					power_cut();
				}
				thmqi_disk_sim_fault_add(r.sim, &f);
				rc = rig_open(&r);
				thmqi_disk_sim_stats(r.sim, &s);
				done = s.faults == 0 || rc == 0; /* what is prepared later may fail, too */
				cr_assert(rc == 0 || rc == -EIO || (rc == -THMQ_ECORRUPT && life), "%d", rc);
				thmqi_disk_sim_faults_clear(r.sim);
				rig_close(&r); /* asserts that no memory is left */
				cr_assert_eq(rig_open(&r), 0, "%u %u %llu: %s", life, o, (unsigned long long)nth,
					     thmq_errmsg());
				if (life)
					cr_assert_eq(rig_read_all(&r, 1, 0, 3), 3);
				rig_fini(&r);
			}
		}
	}
}
