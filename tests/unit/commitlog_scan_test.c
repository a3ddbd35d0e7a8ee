/* SPDX-License-Identifier: Apache-2.0 */
/* Logs on real files, with each engine; and thmq_log_scan(), which looks at a closed one from outside. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commitlog_rig.h"

#define DURABLE THMQ_DURABILITY_DURABLE
#define BLOCK 4096

static struct rig r;
static char base[] = "commitlog-scan-XXXXXX", dir[64];

static void real_env(uint32_t flags)
{
	cr_assert_eq(thmqi_env_open(THMQ_ENV_OPTS(.flags = flags, .pool_bytes = 64u << 20), NULL, &r.env), 0);
	r.core = thmqi_env_core(r.env, 0);
}

static void up(void)
{
	rig_init(&r, 1, NULL); /* the simulated disk stays idle */
	cr_assert_not_null(mkdtemp(base));
	snprintf(dir, sizeof(dir), "%s/log", base);
	r.opts.dir = dir;
	real_env(0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
}

static void down(void)
{
	char command[128];

	rig_fini(&r);
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	cr_assert_eq(system(command), 0);
}

static void store(uint64_t first, uint64_t count, uint32_t size)
{
	uint64_t index = 0;

	for (uint64_t i = first; i < first + count; i++) {
		cr_assert_eq(rig_append_wait(&r, 1, i, size, DURABLE, &index), 0);
		thmqi_core_poll(r.core, 0);
	}
	cr_assert_eq(rig_await(&r, index), 0);
}

/* The process dies: what is in flight completes or not, nothing is said good-bye. Here: a copy taken while it is open. */
static void take_copy(const char *name)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf '%s/%s'; cp -r '%s' '%s/%s'", base, name, dir, base, name);
	cr_assert_eq(system(command), 0);
}

static void flip(const char *file, off_t at)
{
	char path[128];
	uint8_t byte;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDWR);
	cr_assert_eq(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* ------------------------------------------------------------------ looking */

struct seen {
	uint64_t batches, runs, end, last_index;
	uint32_t findings[9];
	uint64_t position; /* of the last finding */
	int stop_batch, stop_run, stop_finding;
	bool wrong;
};

static int on_batch(void *ctx, const struct thmq_log_batch *b)
{
	struct seen *s = ctx;

	s->wrong |= b->position != s->end || b->index != s->last_index + 1 || b->len % BLOCK;
	s->batches++;
	s->end = b->position + b->len;
	s->last_index = b->index;
	return s->stop_batch;
}

static int on_run(void *ctx, const struct thmq_log_run *run)
{
	struct seen *s = ctx;

	s->runs++;
	s->wrong |= run->index != s->last_index || !thmqi_run_payload_ok(run->header);
	return s->stop_run;
}

static int on_finding(void *ctx, const struct thmq_log_finding *f)
{
	struct seen *s = ctx;

	s->findings[f->kind]++;
	s->position = f->position;
	s->wrong |= !f->text;
	return s->stop_finding;
}

static const struct thmq_log_visitor visitor = {
	.size = sizeof(visitor), .batch = on_batch, .run = on_run, .finding = on_finding};

static int scan_at(const char *path, struct seen *s)
{
	memset(s, 0, sizeof(*s));
	return thmq_log_scan(path, &visitor, s);
}

static uint32_t findings(const struct seen *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < THMQI_ARRAY_COUNT(s->findings); i++)
		n += i == THMQ_FINDING_LEFTOVER ? 0 : s->findings[i]; /* the next segment was being made */
	return n;
}

Test(commitlog_scan, a_closed_log_is_shown_whole, .init = up, .fini = down)
{
	struct thmq_log_stats stats;
	struct seen s;

	store(0, 300, 20000); /* several segments, pads */
	stats = rig_stats(&r);
	cr_assert_geq(stats.segment_count, 3);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(scan_at(dir, &s), 0, "%s", thmq_errmsg());
	cr_assert_eq(findings(&s), 0);
	cr_assert_not(s.wrong);
	cr_assert_eq(s.runs, 301);
	cr_assert_eq(s.last_index, stats.last_index);
	cr_assert_eq(s.end, stats.end_position);
	cr_assert_eq(thmq_log_scan(dir, NULL, NULL), 0);
}

Test(commitlog_scan, a_visitor_may_stop_it, .init = up, .fini = down)
{
	struct seen s = {.stop_batch = 17};

	store(0, 3, 100);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(thmq_log_scan(dir, &visitor, &s), 17);
	cr_assert_eq(s.batches, 1);
	s = (struct seen){.stop_run = -3};
	cr_assert_eq(thmq_log_scan(dir, &visitor, &s), -3);
	cr_assert_eq(s.runs, 1);
}

Test(commitlog_scan, damage_is_found_at_its_place, .init = up, .fini = down)
{
	struct seen s;

	store(0, 50, 100);
	cr_assert_eq(rig_close(&r), 0);
	flip(RIG_SEGMENT, 3 * BLOCK + 300);
	cr_assert_eq(scan_at(dir, &s), -THMQ_ECORRUPT);
	cr_assert_eq(s.findings[THMQ_FINDING_DAMAGE], 1);
	cr_assert_eq(s.position, 3 * BLOCK);
	cr_assert_eq(s.batches, 3);
	flip(RIG_SEGMENT, 3 * BLOCK + 300);
	cr_assert_eq(scan_at(dir, &s), 0);
	s.stop_finding = 5;
	flip("vote", 20);
	flip("vote", BLOCK + 20);
	cr_assert_eq(scan_at(dir, &s), -THMQ_ECORRUPT);
	cr_assert_eq(s.findings[THMQ_FINDING_DAMAGE], 1);
}

Test(commitlog_scan, a_log_whose_owner_died_may_have_a_torn_tail_and_no_damage, .init = up, .fini = down)
{
	struct seen s;
	uint64_t end;
	char copy[64];

	store(0, 20, 100);
	end = rig_stats(&r).end_position - BLOCK;
	take_copy("copy");
	cr_assert_eq(rig_close(&r), 0);
	snprintf(copy, sizeof(copy), "%s/copy", base);
	snprintf(dir, sizeof(dir), "%s", copy);
	cr_assert_eq(scan_at(dir, &s), 0);
	cr_assert_eq(findings(&s), 0, "all of it was complete");
	flip(RIG_SEGMENT, (off_t)end + 300);
	cr_assert_eq(scan_at(dir, &s), 0);
	cr_assert_eq(s.findings[THMQ_FINDING_TORN_TAIL], 1);
	cr_assert_eq(findings(&s), 1);
	cr_assert_eq(s.position, end);
	/* and an open cuts it */
	real_env(0);
	cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
	cr_assert_geq(rig_stats(&r).end_position, end);
	cr_assert_eq(rig_stats(&r).torn_bytes, BLOCK);
	cr_assert_eq(rig_close(&r), 0);
	cr_assert_eq(scan_at(dir, &s), 0);
	cr_assert_eq(findings(&s), 0);
}

Test(commitlog_scan, missing_and_foreign_files_are_named, .init = up, .fini = down)
{
	static const char *const names[] = {RIG_SEGMENT, "00000000000001048576.log", "vote"};
	char path[128], aside[128];
	struct seen s;
	int fd;

	store(0, 200, 20000);
	cr_assert_eq(rig_close(&r), 0);
	for (uint32_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		snprintf(aside, sizeof(aside), "%s/aside", base);
		cr_assert_eq(rename(path, aside), 0);
		cr_assert_eq(scan_at(dir, &s), -THMQ_ECORRUPT, "%s", names[i]);
		cr_assert_eq(s.findings[i == 1 ? THMQ_FINDING_DAMAGE : THMQ_FINDING_MISSING], 1);
		cr_assert_eq(rename(aside, path), 0);
	}
	snprintf(path, sizeof(path), "%s/notes.txt", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0644);
	close(fd);
	cr_assert_eq(scan_at(dir, &s), 0);
	cr_assert_eq(s.findings[THMQ_FINDING_FOREIGN], 1);
	cr_assert_eq(scan_at("no-such-directory", &s), -ENOENT);
	cr_assert_eq(scan_at(base, &s), -ENOENT, "a directory without a log");
	cr_assert_eq(thmq_log_scan(NULL, &visitor, &s), -EINVAL);
}

Test(commitlog_scan, a_log_works_with_every_engine, .init = up, .fini = down)
{
	static const uint32_t flags[] = {0, THMQ_ENV_NO_URING, THMQ_ENV_NO_URING | THMQ_ENV_ALLOW_THREADS};
	uint64_t have = 0, seen_engines = 0;
	struct seen s;

	cr_assert_eq(rig_close(&r), 0);
	for (uint32_t i = 0; i < 6; i++) {
		real_env(flags[i % 3]);
		cr_assert_eq(rig_open(&r), 0, "%s", thmq_errmsg());
		cr_assert_eq(rig_read_all(&r, 1, 0, have), (int64_t)have);
		store(have, 100, 15000);
		have += 100;
		cr_assert_eq(rig_read_all(&r, 1, 0, have), (int64_t)have);
		seen_engines |= 1u << rig_stats(&r).disk_engine;
		if (i % 2 && have > 200) {
			cr_assert_eq(thmq_log_truncate(r.log, rig_stats(&r).last_index - 1), 0);
			uint64_t begin;

			thmq_log_bounds(r.log, 1, &begin, &have);
		}
		cr_assert_eq(rig_close(&r), 0);
		cr_assert_eq(scan_at(dir, &s), 0);
		cr_assert_eq(findings(&s), 0);
	}
	cr_assert(seen_engines & (1u << 2 | 1u << 3));
}

Test(commitlog_scan, two_new_logs_open_quickly, .init = up, .fini = down)
{
	struct thmq_log_opts opts = {.size = sizeof(opts)};
	struct thmq_log *log[2];
	uint64_t begin = thmqi_clock_real.now_ns(NULL), took;
	char path[2][80];

	for (int i = 0; i < 2; i++) {
		snprintf(path[i], sizeof(path[i]), "%s/new-%d", base, i);
		opts.dir = path[i];
		cr_assert_eq(thmq_log_open(r.core, &opts, &log[i]), 0);
	}
	took = thmqi_clock_real.now_ns(NULL) - begin;
	for (int i = 0; i < 2; i++)
		cr_assert_eq(thmq_log_close(log[i], 0), 0);
	/* the aim is 100 ms on a machine of one's own; this one may be busy */
	cr_log_info("two new logs: %.1f ms", (double)took / 1e6);
	cr_assert_lt(took, 3000000000ull);
}
