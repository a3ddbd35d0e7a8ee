/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of statistics, patched: by what the input says, or with its checksum made right again, so that what lies behind that is looked at
 * too. Whatever is not refused is walked from end to end, and printed.
 */
#include <fcntl.h>
#include <stddef.h>
#include <thundermq/stats.h>
#include <unistd.h>

#include "base/hist.h"
#include "base/statfile.h"
#include "fuzz.h"

struct values {
	uint64_t count;
	struct thmqi_hist time;
};

static const struct thmqi_stat_column columns[] = {
	{.name = "count", .help = "How many", .kind = THMQI_STAT_COUNTER, .at = offsetof(struct values, count)},
	{.name = "time",
	 .help = "How long",
	 .kind = THMQI_STAT_HISTOGRAM,
	 .unit = THMQI_STAT_NS,
	 .at = offsetof(struct values, time),
	 .count = THMQI_HIST_BUCKETS,
	 .bits = THMQI_HIST_BITS}};
static const struct thmqi_stat_spec specs[] = {{"thing", "Things", columns, 2, sizeof(struct values), 2},
					       {"other", "Others", columns, 1, 8, 1}};

static char path[128];

static void cleanup(void)
{
	unlink(path);
}

static struct thmqi_statfile *file(void)
{
	static struct thmqi_statfile f;
	const char *tmp = getenv("TMPDIR");
	struct thmqi_stat_header h = {.pid = 1};
	struct thmqi_stat_row *r;

	if (f.image)
		return &f;
	snprintf(path, sizeof(path), "%s/stat-fuzz-%d", tmp && strlen(tmp) < 60 ? tmp : "/tmp", (int)getpid());
	FUZZ_CHECK(thmqi_statfile_open(&f, path, &h, specs, 2) == 0);
	atexit(cleanup);
	r = thmqi_statfile_row(&f, 0, 0);
	r->used = 1;
	strcpy(r->key, "key");
	((struct values *)(r + 1))->count = 1;
	thmqi_hist_add(&((struct values *)(r + 1))->time, 12345);
	thmqi_statfile_put(&f, 0, 0, 1, 1);
	return &f;
}

static void seal(uint8_t *image, uint64_t bytes)
{
	struct thmqi_stat_header *h = (struct thmqi_stat_header *)image, copy = *h;

	if (h->schema_bytes < sizeof(*h) || h->schema_bytes > bytes)
		return;
	copy.schema_crc = 0;
	copy.closed_ns = 0;
	h->schema_crc = thmqi_crc32c(thmqi_crc32c(0, &copy, sizeof(copy)), image + sizeof(copy), h->schema_bytes - sizeof(copy));
}

static void walk(struct thmq_stats *s)
{
	struct thmq_stats_info info = {.size = sizeof(info)};
	struct thmq_stats_value v = {.size = sizeof(v)};
	uint64_t cursor = 0, n = 0;
	int64_t len;
	char *text;

	FUZZ_CHECK(thmq_stats_info(s, &info) == 0);
	while (thmq_stats_next(s, &cursor, &v) == 1 && n++ < 100000) {
		fuzz_touch(v.table, strlen(v.table));
		fuzz_touch(v.name, strlen(v.name));
		fuzz_touch(v.help, strlen(v.help));
		fuzz_touch(v.key, strlen(v.key));
		fuzz_touch(v.of, strlen(v.of));
	}
	len = thmq_stats_prometheus(s, NULL, 0);
	FUZZ_CHECK(len > 0 && len < 1 << 28);
	text = malloc((size_t)len + 1);
	if (text)
		FUZZ_CHECK(thmq_stats_prometheus(s, text, (uint64_t)len + 1) == len && strlen(text) == (size_t)len);
	free(text);
}

/* Input: a byte of flags, then patches: place (4 bytes), width (1), value (8). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct thmqi_statfile *f = file();
	struct fuzz_input in = {data, size};
	uint8_t *image = malloc(f->bytes);
	uint32_t flags = (uint32_t)fuzz_take(&in, 1);
	uint64_t bytes = f->bytes, at, value;
	struct thmq_stats *s = NULL;
	int fd, rc;

	FUZZ_CHECK(image);
	memcpy(image, f->image, bytes);
	while (in.left) {
		at = fuzz_take(&in, 4) % bytes;
		rc = (int)(fuzz_take(&in, 1) % 8 + 1);
		value = fuzz_take(&in, 8);
		memcpy(image + at, &value, (size_t)rc < bytes - at ? (size_t)rc : bytes - at);
	}
	if (flags & 1)
		seal(image, bytes);
	if (flags & 2)
		bytes = bytes * (flags >> 2) / 64;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	FUZZ_CHECK(fd >= 0 && (!bytes || write(fd, image, bytes) == (ssize_t)bytes));
	close(fd);
	free(image);
	rc = thmq_stats_open(path, &s);
	FUZZ_CHECK(rc == 0 || rc == -EPROTO || rc == -THMQ_ECORRUPT || rc == -THMQ_EVERSION, "%d %s", rc, thmq_errmsg());
	if (rc == 0)
		walk(s);
	thmq_stats_close(s);
	return 0;
}
