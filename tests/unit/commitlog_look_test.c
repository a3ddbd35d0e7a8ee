/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far an open looks for headers behind the end of the log, which say that something before them was acknowledged: a lost
 * write at the very edges of what it looks at, in a log with segments that are larger than that. The last case of each test is
 * just behind an edge, so that the edges are where the format says that they are.
 */
#include <criterion/criterion.h>

#include "../../lib/commitlog/internal.h"
#include "../../lib/commitlog/survey.h"
#include "commitlog_rig.h"

#define MIB (1ull << 20)
#define BLOCK THMQI_BLOCK
#define SEGMENT_BYTES (512 * MIB)
#define SECOND_SEGMENT "00000000000536870912.log"
#define MESSAGES 30u
#define MESSAGE_BYTES                                                                              \
	200000u /* so that the log ends behind the first 4 MiB, which are looked at in any case */

static struct rig r;
static uint64_t end, incarnation; /* where the lost write was; of those who wrote it */
static uint64_t flush_bytes; /* of the writer; 0: the default */
static uint8_t block[BLOCK], log_id[16];

static bool there(const char *name)
{
	struct thmqi_disk_dir *dir;
	struct thmqi_disk_file *file;
	bool yes;

	cr_assert_eq(thmqi_disk_sim.dir_open(r.sim, RIG_DIR, false, &dir), 0);
	yes = thmqi_disk_sim.file_open(dir, name, false, &file) == 0;
	if (yes)
		thmqi_disk_sim.file_close(file);
	thmqi_disk_sim.dir_close(dir);
	return yes;
}

/* A log whose last write is lost though it was acknowledged. Nothing but a later header can tell. */
static void up(void)
{
	uint64_t index = 0;

	rig_init(&r, 1, NULL);
	r.opts.segment_bytes_min = r.opts.segment_bytes_max = SEGMENT_BYTES;
	r.opts.flush_bytes = flush_bytes;
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	for (uint32_t i = 0; i < 100000 && !there(SECOND_SEGMENT); i++)
		thmqi_core_poll(r.core, 1000);
	cr_assert(there(SECOND_SEGMENT));
	for (uint64_t i = 0; i < MESSAGES; i++) {
		end = rig_stats(&r).end_position;
		cr_assert_eq(rig_append_sized(&r, 1, i, 1, MESSAGE_BYTES, THMQ_DURABILITY_DURABLE,
					      &index),
			     0);
		cr_assert_eq(rig_await(&r, index), 0);
	}
	incarnation = rig_stats(&r).incarnation;
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	rig_get(&r, RIG_SEGMENT, 0, block, BLOCK);
	memcpy(log_id, ((const struct batch_header *)block)->log_id, 16);
	memset(block, 0, BLOCK);
	rig_put(&r, RIG_SEGMENT, end, block, BLOCK);
	cr_assert_gt(end, BATCH_BYTES_MAX);
	cr_assert_lt(end, 64 * MIB);
}

static void down(void)
{
	rig_fini(&r);
}

static void put(uint64_t position)
{
	bool second = position >= SEGMENT_BYTES;

	rig_put(&r, second ? SECOND_SEGMENT : RIG_SEGMENT,
		second ? position - SEGMENT_BYTES : position, block, BLOCK);
}

/* A header there that knows all below @durable to be so. */
static void header(uint64_t position, uint64_t durable)
{
	struct chain c = {.position = position, .index = 1000000};

	memcpy(c.log_id, log_id, 16);
	memset(block, 0, BLOCK);
	thmqi_batch_seal((struct batch_header *)block, &c, 1, BATCH_NOOP, 0, 0, BLOCK);
	thmqi_batch_stamp((struct batch_header *)block, incarnation, durable);
	put(position);
}

/* The open is refused for a header at @position. Nothing is left of it. */
static void refused_for(uint64_t position)
{
	header(position, end + BLOCK);
	cr_assert_eq(rig_open(&r), -THMQ_ECORRUPT, "for %llu: %s", (unsigned long long)position,
		     thmq_errmsg());
	rig_close(&r);
	memset(block, 0, BLOCK);
	put(position);
}

static void missed_at(uint64_t position)
{
	header(position, end + BLOCK);
	cr_assert_eq(rig_open(&r), 0, "for %llu: %s", (unsigned long long)position, thmq_errmsg());
	cr_assert_eq(rig_read_all(&r, 1, 0, MESSAGES - 1), MESSAGES - 1);
	rig_close(&r);
}

Test(commitlog_look, a_hole_as_long_as_an_open_looks_is_damage, .init = up, .fini = down)
{
	refused_for(end + BLOCK);
	refused_for(end + LOOK_BYTES / 2);
	refused_for(end + LOOK_BYTES - BLOCK);
	missed_at(end + LOOK_BYTES);
}

Test(commitlog_look, each_header_that_is_found_is_looked_behind, .init = up, .fini = down)
{
	header(end + LOOK_BYTES - BLOCK, 0); /* knows of nothing, but that the log went on */
	refused_for(end + 2 * LOOK_BYTES - BLOCK);
	missed_at(end + 2 * LOOK_BYTES);
}

Test(commitlog_look, pieces_of_the_rest_are_looked_at, .init = up, .fini = down)
{
	uint64_t piece = 3 * LOOK_EVERY_BYTES;

	cr_assert_gt(piece, end + LOOK_BYTES);
	refused_for(piece);
	refused_for(piece + BATCH_BYTES_MAX - BLOCK);
	missed_at(piece + BATCH_BYTES_MAX);
}

/* No batch is longer than a piece: one begins in it, and those behind it are found from there. */
Test(commitlog_look, what_goes_over_a_piece_is_found, .init = up, .fini = down)
{
	uint64_t piece = 3 * LOOK_EVERY_BYTES;

	header(piece + BATCH_BYTES_MAX - BLOCK, 0);
	refused_for(piece + BATCH_BYTES_MAX);
	refused_for(piece + BATCH_BYTES_MAX + LOOK_BYTES - BLOCK - MIB);
	missed_at(SEGMENT_BYTES + LOOK_EVERY_BYTES - BLOCK);
}

Test(commitlog_look, the_begin_of_the_next_segment_tells_however_far_it_is, .init = up,
     .fini = down)
{
	refused_for(SEGMENT_BYTES);
	refused_for(SEGMENT_BYTES + BATCH_BYTES_MAX - BLOCK);
	missed_at(SEGMENT_BYTES + BATCH_BYTES_MAX);
}

Test(commitlog_look, a_hole_goes_on_in_the_next_segment, .init = up, .fini = down)
{
	header(3 * LOOK_EVERY_BYTES, 0);
	header(SEGMENT_BYTES - 2 * BLOCK, 0);
	refused_for(SEGMENT_BYTES + LOOK_BYTES - 2 * BLOCK);
	missed_at(SEGMENT_BYTES + LOOK_BYTES + BATCH_BYTES_MAX);
}

static void up_wide(void)
{
	flush_bytes = 192 * MIB;
	up();
}

/* Its writer may have had so much unflushed. The next one has not, and the open after it looks no further than usual. */
Test(commitlog_look, it_looks_as_far_as_its_writer_left_unflushed, .init = up_wide, .fini = down)
{
	uint64_t far = end + 192 * MIB;

	cr_assert_gt(far % LOOK_EVERY_BYTES, BATCH_BYTES_MAX);
	refused_for(far);
	r.opts.flush_bytes = 0; /* who opens it now does not matter */
	refused_for(far);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	rig_crash(&r, THMQI_DISK_SIM_CRASH_KEEP);
	incarnation++;
	missed_at(far);
}

/* The last incarnation is not known for certain: all is looked at. */
Test(commitlog_look, a_damaged_vote_is_a_reason_to_look_at_all, .init = up, .fini = down)
{
	memset(block, 0x5a, BLOCK);
	rig_put(&r, "vote", 0, block, BLOCK);
	refused_for(end + LOOK_BYTES);
	refused_for(SEGMENT_BYTES - BLOCK);
	refused_for(2 * SEGMENT_BYTES - BLOCK);
}
