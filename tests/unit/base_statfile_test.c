/* SPDX-License-Identifier: Apache-2.0 */
/* base_statfile_test.c - files of statistics: histograms, layout, rows, what is in the way, and what a reader refuses. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <thundermq/stats.h>
#include <unistd.h>

#include "base/hist.h"
#include "base/statfile.h"

TestSuite(base_statfile, .timeout = 60);

struct values {
	uint64_t count, bytes;
	struct thmqi_hist time;
};

static const struct thmqi_stat_column columns[] = {
	{.name = "count", .help = "How many", .kind = THMQI_STAT_COUNTER, .at = offsetof(struct values, count)},
	{.name = "bytes", .help = "How much", .kind = THMQI_STAT_GAUGE, .unit = THMQI_STAT_BYTES, .at = offsetof(struct values, bytes)},
	{.name = "time",
	 .help = "How long",
	 .kind = THMQI_STAT_HISTOGRAM,
	 .unit = THMQI_STAT_NS,
	 .at = offsetof(struct values, time),
	 .count = THMQI_HIST_BUCKETS,
	 .bits = THMQI_HIST_BITS}};

static const struct thmqi_stat_spec specs[] = {
	{"thing", "Things", columns, 3, sizeof(struct values), 2}, {"other", "Others", columns, 2, 16, 3}};

static char path[64];

static struct thmqi_statfile make(void)
{
	struct thmqi_stat_header h = {.pid = (uint64_t)getpid(), .opened_ns = 5, .interval_ns = 100, .name = "box"};
	struct thmqi_statfile f;

	snprintf(path, sizeof(path), "statfile-%d", (int)getpid());
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), 0);
	return f;
}

static struct values *row(struct thmqi_statfile *f, uint32_t table, uint32_t n, const char *key)
{
	struct thmqi_stat_row *r = thmqi_statfile_row(f, table, n);

	r->used = 1;
	snprintf(r->key, sizeof(r->key), "%s", key);
	return (struct values *)(r + 1);
}

Test(base_statfile, every_value_has_a_bucket_that_holds_it)
{
	uint64_t v;
	uint32_t b, last = 0;

	for (v = 0; v < 100000; v++) {
		b = thmqi_hist_bucket(v);
		cr_assert(b == last || b == last + 1);
		cr_assert(thmqi_hist_from(b) <= v && v < thmqi_hist_from(b + 1));
		cr_assert(thmqi_hist_from(b + 1) - thmqi_hist_from(b) <= 1 + v / 8);
		last = b;
	}
	for (v = 1; v; v <<= 1) {
		b = thmqi_hist_bucket(v);
		cr_assert(b < THMQI_HIST_BUCKETS);
		cr_assert(v >= 1ull << 40 || thmqi_hist_from(b) == v);
	}
	cr_assert_eq(thmqi_hist_bucket(UINT64_MAX), THMQI_HIST_BUCKETS - 1);
}

Test(base_statfile, a_reader_finds_what_was_put_by_name)
{
	struct thmqi_statfile f = make();
	struct values *v = row(&f, 0, 1, "one");
	struct thmq_stats_value got = {.size = sizeof(got)};
	struct thmq_stats_info info = {.size = sizeof(info)};
	struct thmq_stats *s;
	uint64_t cursor = 0, i;

	v->count = 7;
	v->bytes = 8;
	for (i = 1; i <= 1000; i++)
		thmqi_hist_add(&v->time, i * 1000);
	thmqi_statfile_put(&f, 0, 1, 1, 77);
	cr_assert_eq(thmq_stats_open(path, &s), 0, "%s", thmq_errmsg());
	cr_assert_eq(thmq_stats_info(s, &info), 0);
	cr_assert(info.alive && info.pid == (uint64_t)getpid() && info.updated_ns == 77 && info.table_count == 2 && !info.closed_ns);
	cr_assert_str_eq(info.name, "box");
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 1);
	cr_assert_str_eq(got.table, "thing");
	cr_assert_str_eq(got.key, "one");
	cr_assert_str_eq(got.name, "count");
	cr_assert(got.kind == THMQ_STATS_COUNTER && got.value == 7 && !got.torn && got.updated_ns == 77);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 1);
	cr_assert(got.value == 8 && got.unit == THMQ_STATS_BYTES);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 1);
	cr_assert(got.kind == THMQ_STATS_HISTOGRAM && got.value == 1000 && got.max == 1000000 && got.sum == 500500000);
	cr_assert(got.p50 >= 500000 && got.p50 <= 563000, "%llu", (unsigned long long)got.p50);
	cr_assert(got.p99 >= 990000 && got.p999 <= 1000000);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 0);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 0);
	/* what comes later is found by a refresh, and a close is told */
	v->count = 9;
	thmqi_statfile_put(&f, 0, 1, 1, 78);
	thmqi_statfile_close(&f, 99);
	cr_assert_eq(thmq_stats_refresh(s), 0);
	cursor = 0;
	cr_assert(thmq_stats_next(s, &cursor, &got) == 1 && got.value == 9);
	cr_assert(thmq_stats_info(s, &info) == 0 && info.closed_ns == 99 && !info.alive);
	thmq_stats_close(s);
	unlink(path);
}

Test(base_statfile, wrong_calls_are_told)
{
	struct thmqi_statfile f = make();
	struct thmq_stats_value got = {.size = 0};
	struct thmq_stats_info info = {.size = 0};
	struct thmq_stats *s = NULL;
	uint64_t cursor = 0;
	char text[64];

	cr_assert_eq(thmq_stats_open(NULL, &s), -EINVAL);
	cr_assert_eq(thmq_stats_open("", &s), -EINVAL);
	cr_assert_eq(thmq_stats_open(path, NULL), -EINVAL);
	cr_assert_eq(thmq_stats_open("not-there", &s), -ENOENT);
	cr_assert_null(s);
	cr_assert_eq(thmq_stats_open(path, &s), 0);
	cr_assert_eq(thmq_stats_info(s, &info), -EINVAL);
	cr_assert_eq(thmq_stats_info(NULL, &info), -EINVAL);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), -EINVAL);
	cr_assert_eq(thmq_stats_next(s, NULL, &got), -EINVAL);
	cr_assert_eq(thmq_stats_refresh(NULL), -EINVAL);
	cr_assert_eq(thmq_stats_prometheus(NULL, text, sizeof(text)), -EINVAL);
	cr_assert_eq(thmq_stats_prometheus(s, NULL, 1), -EINVAL);
	cursor = UINT64_MAX;
	got.size = sizeof(got);
	cr_assert_eq(thmq_stats_next(s, &cursor, &got), 0);
	unlink(path);
	cr_assert_eq(thmq_stats_refresh(s), -ENOENT);
	cr_assert(thmq_stats_info(s, &(struct thmq_stats_info){.size = sizeof(info)}) == 0); /* what it had */
	thmq_stats_close(s);
	thmq_stats_close(NULL);
	thmqi_statfile_close(&f, 0);
}

Test(base_statfile, a_row_that_its_writer_left_half_written_is_told)
{
	struct thmqi_statfile f = make();
	struct values *v = row(&f, 0, 0, "one");
	struct thmq_stats_value got = {.size = sizeof(got)};
	struct thmqi_stat_table t;
	struct thmq_stats *s;
	uint64_t cursor = 0, seq = 4711;

	v->count = 1;
	thmqi_statfile_put(&f, 0, 0, 1, 1);
	t = *thmqi_stat_table_at(f.image, 0);
	cr_assert_eq(pwrite(f.fd, &seq, 8, (off_t)t.rows_at), 8); /* its begin, and not its end */
	cr_assert_eq(thmq_stats_open(path, &s), 0);
	cr_assert(thmq_stats_next(s, &cursor, &got) == 1 && got.torn == 1);
	thmq_stats_close(s);
	thmqi_statfile_close(&f, 0);
	unlink(path);
}

Test(base_statfile, what_is_in_the_way_is_left_alone)
{
	struct thmqi_stat_header h = {.pid = 1};
	struct thmqi_statfile f;
	struct stat st;
	char to[80];
	int fd;

	snprintf(path, sizeof(path), "statfile-%d", (int)getpid());
	snprintf(to, sizeof(to), "%s-target", path);
	cr_assert_eq(close(open(to, O_CREAT | O_WRONLY, 0600)), 0);
	cr_assert_eq(symlink(to, path), 0);
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), -EEXIST);
	cr_assert(stat(to, &st) == 0 && st.st_size == 0);
	unlink(path);
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), -EEXIST);
	rmdir(path);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), -EEXIST);
	cr_assert_eq(thmq_stats_open(path, &(struct thmq_stats *){NULL}), -EPROTO); /* and waits for nobody */
	unlink(path);
	unlink(to);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	cr_assert_eq(write(fd, "dear diary", 10), 10);
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), -EEXIST);
	cr_assert(stat(path, &st) == 0 && st.st_size == 10); /* somebody's, whose name was mistyped */
	cr_assert_eq(pwrite(fd, "\0\0\0\0\0\0\0\0", 8, 0), 8); /* as a power cut leaves ours */
	close(fd);
	cr_assert_eq(thmqi_statfile_open(&f, path, &h, specs, 2), 0);
	thmqi_statfile_close(&f, 0);
	unlink(path);
	cr_assert_eq(thmqi_statfile_open(&f, "no/such/place", &h, specs, 2), -ENOENT);
}

Test(base_statfile, who_reads_the_file_before_is_not_disturbed_by_a_new_one)
{
	struct thmqi_statfile a = make(), b;
	int fd = open(path, O_RDONLY);
	struct stat st;

	b = make();
	cr_assert(fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == a.bytes && st.st_nlink == 0);
	cr_assert_eq(thmqi_stat_check(a.image, a.bytes), 0);
	close(fd);
	thmqi_statfile_close(&a, 0);
	thmqi_statfile_close(&b, 0);
	unlink(path);
}

/* Each bit of what describes the tables is looked at: nothing is believed, nothing is read beyond the end. */
Test(base_statfile, a_damaged_description_is_refused)
{
	struct thmqi_statfile f = make();
	const struct thmqi_stat_header *h = (const struct thmqi_stat_header *)f.image;
	uint64_t i, refused = 0, schema = h->schema_bytes;

	for (i = 0; i < schema * 8; i++) {
		f.image[i / 8] ^= (uint8_t)(1u << (i % 8));
		refused += thmqi_stat_check(f.image, f.bytes) != 0;
		f.image[i / 8] ^= (uint8_t)(1u << (i % 8));
	}
	/* all but the 64 bits of closed_ns */
	cr_assert_eq(refused, schema * 8 - 64, "%llu", (unsigned long long)refused);
	for (i = 0; i < f.bytes; i += 509)
		cr_assert_neq(thmqi_stat_check(f.image, i), 0);
	thmqi_statfile_close(&f, 0);
	unlink(path);
}

Test(base_statfile, prometheus_gets_no_line_of_a_hostile_name)
{
	struct thmqi_statfile f = make();
	struct values *v = row(&f, 0, 0, "a\"} 1\nevil_metric 2\n\\\xff");
	struct thmq_stats *s;
	char *text;
	int64_t len;

	v->count = 3;
	thmqi_hist_add(&v->time, 5000000);
	thmqi_statfile_put(&f, 0, 0, 1, 1);
	cr_assert_eq(thmq_stats_open(path, &s), 0);
	len = thmq_stats_prometheus(s, NULL, 0);
	cr_assert_gt(len, 100);
	text = malloc((size_t)len + 1);
	cr_assert_eq(thmq_stats_prometheus(s, text, 10), len);
	cr_assert_eq(strlen(text), 9);
	cr_assert_eq(thmq_stats_prometheus(s, text, (uint64_t)len + 1), len);
	cr_assert_eq(strlen(text), (size_t)len);
	cr_assert_null(strstr(text, "\nevil_metric"));
	cr_assert_not_null(strstr(text, "thmq_thing_count_total{thing=\"a\\\"} 1?evil_metric 2?\\\\?\"} 3\n"), "%s", text);
	cr_assert_not_null(strstr(text, "# TYPE thmq_thing_time_seconds histogram\n"));
	cr_assert_not_null(strstr(text, "le=\"+Inf\"} 1\n"));
	cr_assert_not_null(strstr(text, "thmq_thing_time_seconds_sum{thing=\"a\\\"} 1?evil_metric 2?\\\\?\"} 0.005000000\n"));
	free(text);
	thmq_stats_close(s);
	thmqi_statfile_close(&f, 0);
	unlink(path);
}
