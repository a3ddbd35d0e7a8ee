/* SPDX-License-Identifier: Apache-2.0 */
/* thmq_log_repair(): what it makes whole, what it takes out and says of it, and what it leaves alone; thmq_log_copy(). */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../lib/commitlog/internal.h"
#include "../../lib/commitlog/index/seal_format.h"
#include "commitlog/offline.h"
#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define BLOCK 4096
#define MESSAGES 230u /* of 15000 bytes: segments of 1, 2 and 4 MiB, the last one half full */
#define MESSAGE_BYTES 15000u
#define SECOND_SEGMENT "00000000000001048576.log"
#define THIRD_SEGMENT "00000000000003145728.log"
#define FOURTH_SEGMENT "00000000000007340032.log" /* the prepared one, if it was */
#define FIRST_INDEX "00000000000000000000.idx"

static struct rig r;
static char base[] = "commitlog-repair-XXXXXX", dir[96], original[64];

static void shell(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	cr_assert_eq(system(command), 0, "%s", command);
}

static void open_env(void)
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
}

static int reopen(void)
{
	open_env();
	return rig_open(&r);
}

/* Messages of partition 1, a state with each tenth. */
static void store(uint64_t first, uint64_t count)
{
	struct thmq_run_header *run;
	uint64_t index = 0;

	for (uint64_t i = first; i < first + count; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, MESSAGE_BYTES, DURABLE, &index), 0);
		thmqi_core_poll(r.core, 0);
		if (i % 10)
			continue;
		while (thmq_log_append(r.log, sizeof(*run) + 8, &run, &index) == -EAGAIN)
			thmqi_core_poll(r.core, 1000000);
		memset(run, 0, sizeof(*run) + 8);
		run->len = 8;
		run->partition = 77;
		run->base_offset = i % 3;
		run->encoding = THMQ_RUN_STATE;
		memcpy(run + 1, &i, 8);
		thmq_log_append_end(r.log, run, DURABLE);
	}
	cr_assert_eq(rig_await(&r, index), 0);
	rig_poll(&r, 200); /* an index is written */
}

/* A closed log with two full segments and their indexes; tests damage copies of it. */
static void up(void)
{
	rig_init(&r, 1, NULL); /* the simulated disk stays idle */
	cr_assert_not_null(mkdtemp(base));
	snprintf(dir, sizeof(dir), "%s/log", base);
	snprintf(original, sizeof(original), "%s/original", base);
	r.opts.dir = dir;
	r.close_ns = 60000000000;
	open_env();
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	store(0, MESSAGES);
	cr_assert_eq(rig_stats(&r).segment_count, 3);
	cr_assert_eq(rig_close(&r), 0);
	shell("cp -r --sparse=always '%s' '%s'", dir, original);
	shell("test -f '%s/" FIRST_INDEX "' && test ! -e '%s/next.tmp'", dir, dir);
}

static void down(void)
{
	rig_fini(&r);
	shell("rm -rf '%s'", base);
}

static void as_before(void)
{
	shell("rm -rf '%s' '%s/aside' && cp -r --sparse=always '%s' '%s'", dir, base, original,
	      dir);
}

static bool is_as_before(void)
{
	char command[256];

	snprintf(command, sizeof(command), "diff -rq '%s' '%s' >/dev/null", original, dir);
	return system(command) == 0;
}

static void bytes(const char *file, off_t at, void *data, size_t len, bool write)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDWR);
	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(write ? pwrite(fd, data, len, at) : pread(fd, data, len, at), (ssize_t)len);
	close(fd);
}

static void flip(const char *file, off_t at)
{
	uint8_t byte;

	bytes(file, at, &byte, 1, false);
	byte ^= 1;
	bytes(file, at, &byte, 1, true);
}

static bool exists(const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

/* ------------------------------------------------------------------ looking */

struct told {
	uint32_t findings[9], steps[7], losses[5];
	struct thmq_log_loss messages, damaged; /* the last of each */
	uint64_t whole_bytes, damaged_bytes, cut;
	bool wrong;
	int stop_step;
};

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct told *t = ctx;

	t->findings[f->kind]++;
	t->wrong |= !f->text || !*f->text;
	return 0;
}

static int on_step(void *ctx, const struct thmq_log_step *s)
{
	struct told *t = ctx;

	t->steps[s->kind]++;
	t->wrong |= !s->text || !*s->text || s->end < s->position;
	if (s->kind == THMQ_STEP_CUT)
		t->cut = s->position;
	return t->stop_step && !--t->stop_step ? 99 : 0;
}

static int on_loss(void *ctx, const struct thmq_log_loss *l)
{
	struct told *t = ctx;

	t->losses[l->kind]++;
	if (l->kind == THMQ_LOSS_MESSAGES)
		t->messages = *l;
	if (l->kind == THMQ_LOSS_DAMAGED) {
		t->damaged = *l;
		t->damaged_bytes += l->end - l->position;
	}
	if (l->kind == THMQ_LOSS_WHOLE)
		t->whole_bytes += l->end - l->position;
	return 0;
}

static const struct thmq_log_visitor visitor = {
	.size = sizeof(visitor), .finding = on_finding, .step = on_step, .loss = on_loss};

static int stop_step; /* the visitor ends a repair there; 0: nowhere */

static int repair_to(uint32_t flags, const char *aside, struct told *t)
{
	memset(t, 0, sizeof(*t));
	t->stop_step = stop_step;
	return thmq_log_repair(dir, THMQ_LOG_REPAIR_OPTS(.flags = flags, .quarantine_dir = aside),
			       &visitor, t);
}

static int repair(uint32_t flags, struct told *t)
{
	return repair_to(flags, NULL, t);
}

static int scan(struct told *t)
{
	memset(t, 0, sizeof(*t));
	return thmq_log_scan(dir, &visitor, t);
}

/* It opens with the first @count messages, takes more, and closes well. */
static void expect_opens_with(uint64_t count)
{
	struct told t;
	uint64_t begin, end;

	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), 0);
	cr_assert_eq(begin, 0);
	cr_assert_eq(end, count);
	cr_assert_eq(rig_read_all(&r, 1, 0, count), (int64_t)count);
	store(count, 20);
	cr_assert_eq(rig_read_all(&r, 1, 0, count + 20), (int64_t)count + 20);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(scan(&t), 0, "%s", thmq_errmsg());
}

/* The dry run tells the same and changes nothing; then it is done, and there is nothing more to do. */
static int repair_both(struct told *t)
{
	struct told dry;
	int steps, rc;

	shell("rm -rf '%s/dry' && cp -r --sparse=always '%s' '%s/dry'", base, dir, base);
	steps = repair(0, &dry);
	shell("diff -rq '%s/dry' '%s' && rm -rf '%s/dry'", base, dir, base);
	rc = repair(THMQ_REPAIR_WRITE, t);
	cr_assert_eq(rc, steps, "%d, %d: %s", rc, steps, thmq_errmsg());
	cr_assert_not(t->wrong);
	cr_assert_arr_eq(dry.steps, t->steps, sizeof(dry.steps));
	cr_assert_arr_eq(dry.losses, t->losses, sizeof(dry.losses));
	if (rc >= 0) {
		cr_assert_eq(scan(&dry), 0, "%s", thmq_errmsg());
		cr_assert_eq(repair(THMQ_REPAIR_WRITE, &dry), 0);
	}
	return rc;
}

/* -------------------------------------------------------------------- tests */

Test(commitlog_repair, a_log_without_defects_is_not_changed, .init = up, .fini = down)
{
	struct told t;

	cr_assert_eq(repair(THMQ_REPAIR_WRITE, &t), 0);
	cr_assert(is_as_before());
	cr_assert_eq(thmq_log_repair(dir, NULL, NULL, NULL), 0);
	cr_assert_eq(thmq_log_repair("no-such-directory", NULL, NULL, NULL), -ENOENT);
	cr_assert_eq(thmq_log_repair(base, NULL, NULL, NULL), -ENOENT, "a directory without a log");
	cr_assert_eq(thmq_log_repair(NULL, NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(repair(1u << 9, &t), -EINVAL);
}

Test(commitlog_repair, from_the_first_damaged_batch_on_all_moves_aside, .init = up, .fini = down)
{
	uint64_t at = 40 * 16384 +
		      BLOCK; /* each message is a batch of 4 blocks, or with a state of as many */
	struct told t;
	struct stat st;
	char path[160];

	flip(RIG_SEGMENT, (off_t)at + 300);
	cr_assert_eq(repair_both(&t), 3 + 2 + 2, "three files, cut, vote, two indexes");
	cr_assert_eq(t.steps[THMQ_STEP_QUARANTINE], 3);
	cr_assert_eq(t.steps[THMQ_STEP_INDEX], 2);
	cr_assert_eq(t.steps[THMQ_STEP_VOTE], 1);
	cr_assert(t.cut > 0 && t.cut <= at);
	cr_assert_eq(t.losses[THMQ_LOSS_DAMAGED], 1);
	cr_assert_eq(t.damaged.position, t.cut);
	cr_assert_eq(t.damaged.first_index, t.damaged.last_index);
	cr_assert_eq(t.losses[THMQ_LOSS_WHOLE], 1);
	cr_assert_eq(t.losses[THMQ_LOSS_MESSAGES], 1);
	cr_assert_eq(t.messages.partition, 1);
	cr_assert_eq(t.messages.end_offset, MESSAGES);
	cr_assert_lt(t.messages.messages, MESSAGES - t.messages.begin_offset);
	cr_assert_gt(t.messages.messages + 20, MESSAGES - t.messages.begin_offset,
		     "all but those of the damaged batch");
	cr_assert_gt(t.losses[THMQ_LOSS_STATE], 5);
	snprintf(path, sizeof(path), "%s/quarantine-%020llu.bin", dir, (unsigned long long)t.cut);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, (1u << 20) - t.cut);
	cr_assert(exists("quarantine-00000000000001048576.bin"));
	cr_assert_not(exists(SECOND_SEGMENT) || exists(FIRST_INDEX));
	/* the very bytes, but for the one that is damaged */
	shell("test $(cmp -l -i %llu:0 '%s/" RIG_SEGMENT "' '%s' | wc -l) = 1",
	      (unsigned long long)t.cut, original, path);
	shell("cmp '%s/" SECOND_SEGMENT "' '%s/quarantine-00000000000001048576.bin'", original,
	      dir);
	expect_opens_with(t.messages.begin_offset);
}

Test(commitlog_repair, a_full_segment_that_lacks_but_zeros_gets_its_length, .init = up, .fini = down)
{
	struct batch_header h = {0};
	struct told t;
	off_t at;

	for (at = 0; at < 1 << 20 && h.type != BATCH_PAD; at += BLOCK)
		bytes(RIG_SEGMENT, at, &h, sizeof(h), false);
	/* batches are as large as the device is slow: they may fill it to its last block, or the one before */
	if (h.type != BATCH_PAD || at == 1 << 20)
		cr_skip_test("nothing is behind the segment's pad, if it has one");
	shell("truncate -s %llu '%s/" RIG_SEGMENT "'", (unsigned long long)at + 100, dir);
	cr_assert_eq(reopen(), -THMQ_ECORRUPT);
	cr_assert_eq(thmqi_env_close(r.env), 0);
	r.env = NULL;
	cr_assert_eq(scan(&t), -THMQ_ECORRUPT);
	cr_assert_eq(repair_both(&t), 1);
	cr_assert_eq(t.steps[THMQ_STEP_SEGMENT], 1);
	expect_opens_with(MESSAGES);
}

/* The last batch of a log has no one behind it that would tell, and its segment no index. */
Test(commitlog_repair, what_the_damaged_batch_itself_takes_is_told, .init = up, .fini = down)
{
	static const off_t places[] = {60, sizeof(struct batch_header) + 5000}; /* its header; a payload */
	struct thmq_run_header *run;
	struct thmq_log_stats stats;
	uint64_t index, position, term;
	struct told t;

	cr_assert_eq(reopen(), 0);
	cr_assert_eq(rig_append(&r, 5, 0, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(rig_append(&r, 5, 1, THMQ_DURABILITY_MEMORY, &index), 0);
	cr_assert_eq(thmq_log_append(r.log, sizeof(*run) + 8, &run, &index), 0);
	rig_fill(run, 78, 4, 1, 8);
	run->encoding = THMQ_RUN_STATE;
	thmq_log_append_end(r.log, run, THMQ_DURABILITY_MEMORY);
	cr_assert_eq(rig_append_sized(&r, 1, MESSAGES, 1, MESSAGE_BYTES, DURABLE, &index), 0);
	cr_assert_eq(rig_await(&r, index), 0);
	cr_assert_eq(thmq_log_find_index(r.log, index, &position, &term), 0);
	stats = rig_stats(&r);
	cr_assert_eq(position + 4 * BLOCK, stats.end_position, "one batch");
	cr_assert_eq(rig_close(&r), 0);
	for (uint32_t i = 0; i < 2; i++) {
		flip(THIRD_SEGMENT, (off_t)(position - 3145728) + places[i]);
		cr_assert_gt(repair(0, &t), 0);
		cr_assert_eq(t.losses[THMQ_LOSS_DAMAGED], 1);
		cr_assert_eq(t.losses[THMQ_LOSS_WHOLE], 0);
		cr_assert_eq(t.losses[THMQ_LOSS_MESSAGES], 2, "of partitions 1 and 5");
		cr_assert_eq(t.losses[THMQ_LOSS_STATE], 1);
		cr_assert_eq(t.messages.messages, 0, "none of them can be had");
		flip(THIRD_SEGMENT, (off_t)(position - 3145728) + places[i]); /* well again */
	}
	cr_assert_eq(repair(0, &t), 0);
}

Test(commitlog_repair, what_is_taken_out_may_go_elsewhere, .init = up, .fini = down)
{
	char aside[80];
	struct told t;
	uint64_t kept;

	snprintf(aside, sizeof(aside), "%s/aside", base);
	flip(SECOND_SEGMENT, 700 * 1024);
	cr_assert_gt(repair_to(THMQ_REPAIR_WRITE, aside, &t), 0, "%s", thmq_errmsg());
	kept = t.messages.begin_offset;
	shell("test $(ls '%s' | grep -c quarantine-) = 2 && ! ls '%s' | grep quarantine", aside,
	      dir);
	shell("cmp '%s/" THIRD_SEGMENT "' '%s/quarantine-00000000000003145728.bin' -n 100000",
	      original, aside);
	cr_assert(exists(FIRST_INDEX));
	cr_assert_eq(scan(&t), 0);
	cr_assert_eq(t.findings[THMQ_FINDING_LEFTOVER], 0);
	expect_opens_with(kept);
}

Test(commitlog_repair, a_vote_is_made_again, .init = up, .fini = down)
{
	struct told t;
	struct vote before, after;

	bytes("vote", 0, &before, sizeof(before), false);
	for (int i = 0; i < 3; i++) {
		as_before();
		if (i == 0)
			shell("rm '%s/vote'", dir);
		flip(i ? "vote" : RIG_SEGMENT,
		     i ? 20 : (1 << 20) - 5); /* that byte means nothing */
		if (i == 1)
			flip("vote", BLOCK + 20);
		cr_assert_eq(repair_both(&t), 1, "%d", i);
		cr_assert_eq(t.steps[THMQ_STEP_VOTE], 1);
		cr_assert_eq(t.findings[i == 0   ? THMQ_FINDING_MISSING
					: i == 1 ? THMQ_FINDING_DAMAGE
						 : THMQ_FINDING_TORN_TAIL],
			     1);
		bytes("vote", 0, &after, sizeof(after), false);
		cr_assert_arr_eq(before.log_id, after.log_id, 16);
		cr_assert_eq(after.segment_bytes_min, before.segment_bytes_min);
		/* while sizes double nothing tells when that ends */
		cr_assert_eq(after.segment_bytes_max, i < 2 && !exists(FOURTH_SEGMENT)
							      ? 1u << 30
							      : before.segment_bytes_max);
		cr_assert_gt(after.incarnation, before.incarnation);
		cr_assert_eq(after.clean, 0);
		expect_opens_with(MESSAGES);
	}
}

/* Five more lives, by turns closed, killed and cut short by a truncation. Return: its messages. */
static uint64_t live_on(void)
{
	uint64_t count = MESSAGES, begin;
	uint32_t life;

	for (life = 0; life < 5; life++) {
		cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
		store(count, 20);
		if (life % 2) {
			cr_assert_eq(thmq_log_truncate(r.log, rig_stats(&r).last_index - 4), 0);
			cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &count), 0);
			store(count, 7);
			count += 7;
		} else {
			count += 20;
		}
		cr_assert_eq(rig_close(&r), 0);
	}
	return count;
}

Test(commitlog_repair, a_vote_of_a_log_that_had_many_lives_is_made_again, .init = up, .fini = down)
{
	struct told t;
	uint64_t count = live_on();

	shell("rm '%s/vote'", dir);
	cr_assert_eq(repair_both(&t), 1, "%s", thmq_errmsg());
	cr_assert_eq(t.steps[THMQ_STEP_VOTE], 1);
	expect_opens_with(count);
	/* and where a batch is damaged, too, all before that is kept */
	flip(RIG_SEGMENT, 40 * 16384 + BLOCK + 300);
	shell("rm '%s/vote'", dir);
	cr_assert_gt(repair_both(&t), 2, "%s", thmq_errmsg());
	cr_assert(t.cut > 0 && t.cut <= 40 * 16384 + BLOCK, "%llu", (unsigned long long)t.cut);
	cr_assert_eq(t.messages.end_offset, count + 20);
	expect_opens_with(t.messages.begin_offset);
}

Test(commitlog_repair, indexes_that_are_wrong_are_told_and_made_anew, .init = up, .fini = down)
{
	struct seal_header h;
	struct seal_run run;
	struct told t;

	for (int i = 0; i < 5; i++) {
		as_before();
		bytes(FIRST_INDEX, 0, &h, sizeof(h), false);
		if (i == 0) {
			flip(FIRST_INDEX, 100);
		} else if (i == 1) {
			flip(FIRST_INDEX, (off_t)h.sections[SEAL_RUNS - 1].offset + 40);
		} else if (i == 2) { /* another segment's */
			shell("cp '%s/" FIRST_INDEX "' '%s/00000000000001048576.idx'", dir, dir);
		} else if (i == 3) { /* of a segment that is not full */
			shell("cp '%s/" FIRST_INDEX "' '%s/00000000000003145728.idx'", dir, dir);
		} else { /* whole, and a lie */
			uint8_t *all = malloc(h.sections[SEAL_RUNS - 1].bytes);

			bytes(FIRST_INDEX, (off_t)h.sections[SEAL_RUNS - 1].offset, all,
			      h.sections[SEAL_RUNS - 1].bytes, false);
			memcpy(&run, all + sizeof(run), sizeof(run));
			run.at += 8;
			memcpy(all + sizeof(run), &run, sizeof(run));
			h.sections[SEAL_RUNS - 1].crc =
				thmqi_crc32c(0, all, h.sections[SEAL_RUNS - 1].bytes);
			h.header_crc =
				thmqi_crc32c(0, &h, offsetof(struct seal_header, header_crc));
			bytes(FIRST_INDEX, (off_t)h.sections[SEAL_RUNS - 1].offset, all,
			      h.sections[SEAL_RUNS - 1].bytes, true);
			bytes(FIRST_INDEX, 0, &h, sizeof(h), true);
			free(all);
		}
		cr_assert_eq(scan(&t), 0, "no damage of data");
		cr_assert_eq(t.findings[THMQ_FINDING_INDEX], 1, "%d", i);
		cr_assert_eq(repair_both(&t), 1);
		cr_assert_eq(t.steps[THMQ_STEP_INDEX], 1);
		expect_opens_with(MESSAGES);
		cr_assert(exists(FIRST_INDEX));
		cr_assert_eq(scan(&t), 0);
		cr_assert_eq(t.findings[THMQ_FINDING_INDEX], 0);
	}
}

Test(commitlog_repair, the_first_batch_follows_from_the_logs_identity, .init = up, .fini = down)
{
	struct told t;

	flip(RIG_SEGMENT, 10);
	flip(RIG_SEGMENT, 300);
	cr_assert_eq(repair_both(&t), 1);
	cr_assert_eq(t.steps[THMQ_STEP_SEGMENT], 1);
	cr_assert_eq(t.losses[THMQ_LOSS_DAMAGED] + t.losses[THMQ_LOSS_WHOLE], 0);
	expect_opens_with(MESSAGES);
	/* also where `vote` is lost with it */
	as_before();
	flip(RIG_SEGMENT, 10);
	shell("rm '%s/vote'", dir);
	cr_assert_eq(repair_both(&t), 2);
	expect_opens_with(MESSAGES);
}

Test(commitlog_repair, lost_segments_end_the_log_or_begin_it_later, .init = up, .fini = down)
{
	struct told t;
	uint64_t begin, end;

	shell("rm '%s/" SECOND_SEGMENT "'", dir);
	cr_assert_gt(repair_both(&t), 0);
	cr_assert_eq(t.cut, 1u << 20);
	cr_assert_eq(t.damaged_bytes, 2u << 20);
	cr_assert_eq(t.messages.end_offset, MESSAGES);
	expect_opens_with(t.messages.begin_offset);
	/* the first */
	as_before();
	shell("rm '%s/" RIG_SEGMENT "'", dir);
	cr_assert_eq(scan(&t), -THMQ_ECORRUPT);
	cr_assert_eq(t.findings[THMQ_FINDING_MISSING], 1);
	cr_assert_gt(repair(THMQ_REPAIR_WRITE, &t), 0, "%s", thmq_errmsg());
	cr_assert_eq(scan(&t), 0);
	cr_assert_eq(reopen(), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &end), 0);
	cr_assert(begin > 20 && begin < 100 && end == MESSAGES);
	cr_assert_eq(rig_read_all(&r, 1, begin, end), (int64_t)(end - begin));
	cr_assert_eq(rig_close(&r), 0);
	/* nothing at all can be kept */
	as_before();
	shell("cd '%s' && for f in *.log; do dd if=/dev/zero of=$f bs=4096 count=200 conv=notrunc "
	      "status=none; done",
	      dir);
	cr_assert_eq(repair_both(&t), -THMQ_ECORRUPT);
}

Test(commitlog_repair, a_segment_file_gets_its_length_again, .init = up, .fini = down)
{
	struct told t;

	shell("truncate -s -1000000 '%s/" THIRD_SEGMENT "'", dir); /* behind the end of the log */
	cr_assert_eq(scan(&t), -THMQ_ECORRUPT);
	cr_assert_eq(repair_both(&t), 1);
	cr_assert_eq(t.steps[THMQ_STEP_SEGMENT], 1);
	expect_opens_with(MESSAGES);
	as_before();
	shell("truncate -s 300001 '%s/" SECOND_SEGMENT "'", dir);
	cr_assert_gt(repair_both(&t), 1);
	cr_assert_eq(t.steps[THMQ_STEP_SEGMENT], 1);
	expect_opens_with(t.messages.begin_offset);
}

Test(commitlog_repair, a_repair_that_was_cut_short_is_done_again, .init = up, .fini = down)
{
	struct told t;
	uint64_t kept = 0, begin;
	int steps = 7;

	for (int stop = 1; stop <= steps; stop++) {
		as_before();
		flip(RIG_SEGMENT, 500000);
		stop_step = stop;
		cr_assert_eq(repair(THMQ_REPAIR_WRITE, &t), 99);
		cr_assert_eq(scan(&t), -THMQ_ECORRUPT, "stopped before step %d", stop);
		stop_step = 0;
		cr_assert_gt(repair(THMQ_REPAIR_WRITE, &t), 0);
		cr_assert_eq(scan(&t), 0);
		if (stop == 1) {
			cr_assert_eq(reopen(), 0);
			cr_assert_eq(thmq_log_bounds(r.log, 1, &begin, &kept), 0);
			rig_close(&r);
		} else {
			expect_opens_with(kept);
		}
	}
}

/* Wherever a byte is hit: it is found, and what is kept is the messages before the hit, whole. */
Test(commitlog_repair, any_damaged_byte_costs_at_most_what_lies_behind_it, .init = up, .fini = down,
     .timeout = 100)
{
	static const char *const files[] = {RIG_SEGMENT, SECOND_SEGMENT, THIRD_SEGMENT, FIRST_INDEX,
					    "vote"};
	static const uint64_t sizes[] = {1u << 20, 2u << 20, 600000, 8192, 2 * BLOCK};
	struct thmqi_prng prng;
	struct told t;
	uint64_t begin, end;
	int rc;

	thmqi_prng_seed(&prng, 7);
	for (int i = 0; i < 60; i++) {
		uint32_t hits = 1 + (uint32_t)thmqi_prng_below(&prng, 3);

		as_before();
		for (uint32_t k = 0; k < hits; k++) {
			uint32_t f = (uint32_t)thmqi_prng_below(&prng, 5);

			flip(files[f], (off_t)thmqi_prng_below(&prng, sizes[f]));
		}
		rc = repair(THMQ_REPAIR_WRITE, &t);
		cr_assert_geq(rc, 0, "round %d: %s", i, thmq_errmsg());
		cr_assert_eq(scan(&t), 0, "round %d: %s", i, thmq_errmsg());
		cr_assert_eq(t.findings[THMQ_FINDING_INDEX], 0);
		cr_assert_eq(reopen(), 0, "round %d: %s", i, thmq_errmsg());
		if (thmq_log_bounds(r.log, 1, &begin, &end) == 0)
			cr_assert_eq(rig_read_all(&r, 1, begin, end), (int64_t)(end - begin),
				     "round %d", i);
		cr_assert_eq(rig_close(&r), 0);
	}
}

/* Whatever it was about to make when it was closed: a healthy log has no findings at all. */
Test(commitlog_repair, a_closed_log_leaves_nothing_behind, .init = up, .fini = down)
{
	struct told t;

	for (uint64_t i = 0; i < 12; i++) {
		cr_assert_eq(reopen(), 0);
		cr_assert_geq(rig_stats(&r).file_bytes, rig_stats(&r).segment_count * (1u << 20), "from the first moment on");
		cr_assert_lt(rig_stats(&r).file_bytes, 64u << 20);
		store(MESSAGES + i * 25, 25);
		rig_poll(&r, (uint32_t)i * 3);
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(scan(&t), 0);
		for (uint32_t kind = 0; kind < THMQI_ARRAY_COUNT(t.findings); kind++)
			cr_assert_eq(t.findings[kind], 0, "round %u, finding %u", (unsigned)i, kind);
	}
}

Test(commitlog_repair, an_open_log_is_copied_as_it_was_when_that_began, .init = up, .fini = down)
{
	struct told t;
	char copy[80];

	cr_assert_eq(reopen(), 0);
	store(MESSAGES, 10);
	snprintf(copy, sizeof(copy), "%s/copy", base);
	cr_assert_eq(thmq_log_copy(r.log, copy), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_log_copy(r.log, copy), -ENOTEMPTY);
	cr_assert_eq(thmq_log_copy(r.log, NULL), -EINVAL);
	store(MESSAGES + 10, 10);
	cr_assert_eq(rig_close(&r), 0);
	snprintf(dir, sizeof(dir), "%s", copy);
	cr_assert_eq(scan(&t), 0);
	cr_assert_eq(t.findings[THMQ_FINDING_TORN_TAIL] + t.findings[THMQ_FINDING_INDEX], 0);
	cr_assert(exists(FIRST_INDEX));
	expect_opens_with(MESSAGES + 10);
}

Test(commitlog_repair, a_damaged_log_is_not_copied, .init = up, .fini = down)
{
	struct told t;
	char copy[80];

	snprintf(copy, sizeof(copy), "%s/copy", base);
	cr_assert_eq(reopen(), 0);
	flip(SECOND_SEGMENT, 1000000);
	cr_assert_eq(thmq_log_copy(r.log, copy), -THMQ_ECORRUPT);
	cr_assert_eq(rig_close(&r), 0);
	snprintf(dir, sizeof(dir), "%s", copy);
	cr_assert_not(exists("vote"));
	cr_assert_lt(scan(&t), 0);
}

/* ------------------------------------------------------ copies and truncation */

Test(commitlog_repair, a_copy_of_what_is_truncated_meanwhile_is_cancelled, .init = up, .fini = down)
{
	struct thmqi_log_snapshot snap;
	char copy[80];

	cr_assert_eq(reopen(), 0);
	cr_assert_eq(thmqi_log_snapshot_take(r.log, &snap), 0);
	snprintf(copy, sizeof(copy), "%s/copy", base);
	cr_assert_eq(thmqi_copy_dest(snap.disk, NULL, dir, copy), 0);
	cr_assert_eq(thmq_log_truncate(r.log, rig_stats(&r).last_index - 3), 0);
	store(MESSAGES, 3);
	cr_assert_eq(thmqi_log_copy_data(&snap, copy), -ECANCELED, "it ends as soon as it looks");
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, &snap), -ECANCELED);
	/* whoever begins now is not concerned */
	cr_assert_eq(thmqi_log_snapshot_take(r.log, &snap), 0);
	cr_assert_eq(thmqi_log_copy_data(&snap, copy), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, &snap), 0);
	cr_assert_eq(rig_close(&r), 0);
}

Test(commitlog_repair, what_came_after_a_copy_began_may_be_truncated, .init = up, .fini = down)
{
	struct thmqi_log_snapshot snap;
	uint64_t last;
	struct told t;
	char copy[80];

	cr_assert_eq(reopen(), 0);
	last = rig_stats(&r).last_index;
	cr_assert_eq(thmqi_log_snapshot_take(r.log, &snap), 0);
	snprintf(copy, sizeof(copy), "%s/copy", base);
	cr_assert_eq(thmqi_copy_dest(snap.disk, NULL, dir, copy), 0);
	store(MESSAGES, 300); /* segments more, that go with it */
	cr_assert_eq(thmq_log_truncate(r.log, last + 1), 0);
	cr_assert_eq(thmqi_log_copy_data(&snap, copy), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmqi_log_snapshot_let_go(r.log, &snap), 0);
	cr_assert_eq(thmqi_log_copy_vote(&snap, copy), 0);
	cr_assert_eq(rig_close(&r), 0);
	snprintf(dir, sizeof(dir), "%s", copy);
	cr_assert_eq(scan(&t), 0);
	expect_opens_with(MESSAGES);
}

Test(commitlog_repair, a_copy_does_not_go_into_what_is_copied, .init = up, .fini = down)
{
	static const char *const inside[] = {"", "/", "/copy", "/a/b/copy", "/../log/copy", "/../link/copy", "/../link", "/../new/../log/copy"};
	char copy[160];

	shell("ln -s log '%s/link'", base);
	cr_assert_eq(reopen(), 0);
	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(inside); i++) {
		snprintf(copy, sizeof(copy), "%s%s", dir, inside[i]);
		cr_assert_eq(thmq_log_copy(r.log, copy), -EINVAL, "%s", copy);
		cr_assert_not_null(strstr(thmq_errmsg(), "elsewhere"));
	}
	snprintf(copy, sizeof(copy), "%s/../log-2", dir); /* its name begins alike */
	cr_assert_eq(thmq_log_copy(r.log, copy), 0, "%s", thmq_errmsg());
	cr_assert_eq(rig_close(&r), 0);
}

/* A log that is repaired or copied may have no `vote`: its name is durable with it, whatever the power does behind that. */
Test(commitlog_repair, a_vote_that_was_made_is_there_after_a_power_cut)
{
	const struct vote made = {.log_id = "0123456789abcde", .segment_bytes_min = 1u << 20, .segment_bytes_max = 4u << 20, .term = 7, .mark = BLOCK};
	struct thmqi_disk_sim *sim;
	struct thmqi_disk_dir *d;
	struct vote v;
	bool damaged;

	cr_assert_eq(thmqi_disk_sim_open(1, NULL, &sim), 0);
	cr_assert_eq(thmqi_disk_sim.dir_open(sim, "shard", true, &d), 0);
	cr_assert_eq(thmqi_disk_sim.dir_sync(d), 0);
	cr_assert_eq(thmqi_vote_make(&thmqi_disk_sim, d, &made), 0);
	thmqi_disk_sim.dir_close(d);
	thmqi_disk_sim_crash_as(sim, THMQI_DISK_SIM_CRASH_LOSE);
	thmqi_disk_sim_restart(sim);
	cr_assert_eq(thmqi_disk_sim.dir_open(sim, "shard", false, &d), 0);
	cr_assert_eq(thmqi_vote_read(&thmqi_disk_sim, d, &v, &damaged), 0);
	cr_assert_not(damaged);
	cr_assert_eq(v.term, made.term);
	cr_assert_eq(v.mark, made.mark);
	cr_assert_arr_eq(v.log_id, made.log_id, sizeof(v.log_id));
	thmqi_disk_sim.dir_close(d);
	thmqi_disk_sim_close(sim);
}
