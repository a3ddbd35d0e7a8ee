/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - the public face of files of statistics: read as a whole, checked, then walked. Knows no broker: whatever the file says is there
 * is what there is.
 *
 * It is read three times. What a row says is taken from the second, if its number was the same in the first and in the third, and at its
 * begin and its end: then nobody has written it in between.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <thundermq/stats.h>
#include <unistd.h>

#include "api/api.h"
#include "base/statfile.h"

#define READINGS 3u
#define TRIES 8u

struct thmq_stats {
	char *path;
	uint8_t *image;
	uint64_t bytes;
	uint8_t *torn; /* a byte for each row, by table */
	uint64_t rows;
};

/* -------------------------------------------------------------------- reading */

static const struct thmqi_stat_header *header_of(const uint8_t *image)
{
	return (const struct thmqi_stat_header *)image;
}

/* Whole, or what there is of it. */
static int64_t read_at_most(int fd, uint8_t *to, uint64_t bytes)
{
	uint64_t at = 0;
	ssize_t n = 1;

	while (at < bytes && n) {
		n = pread(fd, to + at, bytes - at, (off_t)at);
		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (uint64_t)n : 0;
	}
	return (int64_t)at;
}

/* It may be a directory's. No fifo that would keep us waiting, and nothing that a link leads to. */
static int open_file(const char *path, int *ret_fd, uint64_t *ret_bytes)
{
	struct stat st;
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd, rc = 0;

	if (dir >= 0) {
		fd = openat(dir, "stats", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		rc = fd < 0 ? -errno : 0;
		close(dir);
	} else {
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		rc = fd < 0 ? -errno : 0;
	}
	if (!rc && fstat(fd, &st) != 0)
		rc = -errno;
	if (!rc && !S_ISREG(st.st_mode))
		rc = -EPROTO;
	if (!rc && (uint64_t)st.st_size > THMQI_STAT_BYTES_MAX)
		rc = -THMQ_ECORRUPT;
	if (rc) {
		if (fd >= 0)
			close(fd);
		return rc == -ELOOP ? -EPROTO : rc;
	}
	*ret_fd = fd;
	*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

static uint64_t seq_at(const uint8_t *image, uint64_t at)
{
	uint64_t seq;

	memcpy(&seq, image + at, sizeof(seq));
	return seq;
}

/* Return: rows that were written meanwhile. Those of @settled are done. */
static uint64_t merge(struct thmq_stats *s, uint8_t *const images[READINGS], bool first)
{
	const struct thmqi_stat_header *h = header_of(s->image);
	uint64_t n = 0, left = 0, at;
	uint32_t i, k;

	for (i = 0; i < h->table_count; i++) {
		const struct thmqi_stat_table *t = thmqi_stat_table_at(s->image, i);

		for (k = 0; k < t->row_count; k++, n++) {
			at = t->rows_at + (uint64_t)k * t->row_bytes;
			if (!first && !s->torn[n])
				continue;
			s->torn[n] = seq_at(images[0], at) != seq_at(images[2], at) ||
				     seq_at(images[1], at) != seq_at(images[0], at) ||
				     seq_at(images[1], at + t->row_bytes - 8) != seq_at(images[1], at);
			if (!first)
				memcpy(s->image + at, images[1] + at, t->row_bytes);
			left += s->torn[n];
		}
	}
	return left;
}

static uint64_t count_rows(const uint8_t *image)
{
	const struct thmqi_stat_header *h = header_of(image);
	uint64_t rows = 0;
	uint32_t i;

	for (i = 0; i < h->table_count; i++)
		rows += thmqi_stat_table_at(image, i)->row_count;
	return rows;
}

static int read_three(int fd, uint8_t *const images[READINGS], uint64_t bytes)
{
	int64_t n;
	uint32_t i;

	for (i = 0; i < READINGS; i++) {
		n = read_at_most(fd, images[i], bytes);
		if (n != (int64_t)bytes)
			return n < 0 ? (int)n : -THMQ_ECORRUPT;
	}
	return 0;
}

/* What it was closed at may be written at any time. */
static bool same_schema(const uint8_t *a, const uint8_t *b)
{
	return header_of(a)->schema_crc == header_of(b)->schema_crc && header_of(a)->schema_bytes == header_of(b)->schema_bytes;
}

static int read_all(struct thmq_stats *s, int fd, uint64_t bytes)
{
	uint8_t *images[READINGS] = {malloc(bytes + 8), malloc(bytes + 8), malloc(bytes + 8)};
	uint32_t tries = 0;
	int rc = images[0] && images[1] && images[2] ? read_three(fd, images, bytes) : -ENOMEM;

	if (!rc)
		rc = thmqi_stat_check(images[1], bytes);
	if (!rc) {
		s->image = images[1];
		s->bytes = bytes;
		s->rows = count_rows(s->image);
		s->torn = calloc(s->rows + 1, 1);
		images[1] = malloc(bytes + 8);
		rc = s->torn && images[1] ? 0 : -ENOMEM;
	}
	if (!rc) {
		memcpy(images[1], s->image, bytes);
		while (merge(s, images, tries == 0) && ++tries < TRIES && read_three(fd, images, bytes) == 0 &&
		       same_schema(images[1], s->image))
			;
	}
	free(images[0]);
	free(images[1]);
	free(images[2]);
	return rc;
}

static int load(const char *path, struct thmq_stats *ret)
{
	uint64_t bytes = 0;
	int fd = -1, rc = open_file(path, &fd, &bytes);

	if (rc)
		return rc;
	rc = bytes < sizeof(struct thmqi_stat_header) ? -EPROTO : read_all(ret, fd, bytes);
	close(fd);
	if (rc) {
		free(ret->image);
		free(ret->torn);
		ret->image = ret->torn = NULL;
	}
	return rc;
}

static int say(int rc, const char *path)
{
	switch (rc) {
	case 0:
		return 0;
	case -ENOENT:
		return thmqi_fail(rc, "%s: there are no statistics: no broker has it open that keeps some, and none had", path);
	case -EPROTO:
		return thmqi_fail(rc, "%s: that is no file of statistics", path);
	case -THMQ_EVERSION:
		return thmqi_fail(rc, "%s: statistics of a version that this library does not know", path);
	case -THMQ_ECORRUPT:
		return thmqi_fail(rc, "%s: the statistics are damaged", path);
	default:
		return thmqi_fail(rc, "%s: %s", path, thmq_strerror(rc));
	}
}

int thmq_stats_open(const char *path, struct thmq_stats **ret_stats)
{
	struct thmq_stats *s;
	int rc;

	if (!path || !*path || !ret_stats)
		return thmqi_fail(-EINVAL, "statistics: no path, or no place for the handle");
	s = calloc(1, sizeof(*s));
	if (s)
		s->path = strdup(path);
	rc = s && s->path ? load(path, s) : -ENOMEM;
	if (rc) {
		thmq_stats_close(s);
		return say(rc, path);
	}
	*ret_stats = s;
	return 0;
}

void thmq_stats_close(struct thmq_stats *s)
{
	if (!s)
		return;
	free(s->path);
	free(s->image);
	free(s->torn);
	free(s);
}

int thmq_stats_refresh(struct thmq_stats *s)
{
	struct thmq_stats fresh = {0};
	int rc;

	if (!s)
		return thmqi_fail(-EINVAL, "statistics: no handle");
	rc = load(s->path, &fresh);
	if (rc)
		return say(rc, s->path);
	free(s->image);
	free(s->torn);
	fresh.path = s->path;
	*s = fresh;
	return 0;
}

/* -------------------------------------------------------------------- looking */

/* A pid may be another process's by now: who wants to be sure looks at updated_ns, too. */
static bool is_alive(const struct thmqi_stat_header *h)
{
	return !h->closed_ns && h->pid && h->pid <= INT32_MAX && (kill((pid_t)h->pid, 0) == 0 || errno == EPERM);
}

int thmq_stats_info(const struct thmq_stats *s, struct thmq_stats_info *ret_info)
{
	const struct thmqi_stat_header *h;
	struct thmq_stats_info info;
	uint32_t i, k;

	if (!s || !ret_info || ret_info->size < 8)
		return thmqi_fail(-EINVAL, "statistics: no handle, or set the size field first");
	h = header_of(s->image);
	info = (struct thmq_stats_info){.size = ret_info->size,
					.version = h->version,
					.alive = is_alive(h),
					.table_count = h->table_count,
					.pid = h->pid,
					.opened_ns = h->opened_ns,
					.closed_ns = h->closed_ns,
					.interval_ns = h->interval_ns};
	memcpy(info.library, h->library, sizeof(info.library));
	memcpy(info.name, h->name, sizeof(info.name));
	for (i = 0; i < h->table_count; i++) {
		const struct thmqi_stat_table *t = thmqi_stat_table_at(s->image, i);

		for (k = 0; k < t->row_count; k++)
			info.updated_ns = THMQI_MAX(info.updated_ns, thmqi_stat_row_at(s->image, t, k)->updated_ns);
	}
	memset((char *)ret_info, 0, info.size);
	memcpy(ret_info, &info, THMQI_MIN(info.size, (uint32_t)sizeof(info)));
	return 0;
}

static const uint64_t *words_of(const struct thmqi_stat_row *row, const struct thmqi_stat_column *c)
{
	return (const uint64_t *)((const uint8_t *)row + c->at);
}

/* Where a bucket ends; of the last one, too. */
static uint64_t end_of(const struct thmqi_stat_column *c, uint32_t bucket)
{
	uint32_t next = bucket + 1, part = next & ((1u << c->bits) - 1), shift = next >> c->bits;

	if (!shift)
		return next;
	return shift - 1 + c->bits >= 64 ? UINT64_MAX : (uint64_t)(part + (1u << c->bits)) << (shift - 1);
}

static uint64_t total_of(const struct thmqi_stat_column *c, const uint64_t *words)
{
	uint64_t total = 0;
	uint32_t i;

	for (i = 0; i < c->count; i++)
		total += words[2 + i];
	return total;
}

/* The least value that so many thousandths do not exceed. */
static uint64_t quantile(const struct thmqi_stat_column *c, const uint64_t *words, uint64_t total, uint32_t thousandths)
{
	uint64_t want = total / 1000 * thousandths + (total % 1000 * thousandths + 999) / 1000, seen = 0;
	uint32_t i;

	for (i = 0; i < c->count && total; i++) {
		seen += words[2 + i];
		if (seen >= want)
			return THMQI_MIN(end_of(c, i), words[1]);
	}
	return 0;
}

static bool is_text(const char *text, size_t size)
{
	return memchr(text, 0, size) != NULL;
}

/* A row that is used, and whose names end. */
static bool row_ok(const struct thmqi_stat_row *row)
{
	return row->used && is_text(row->key, sizeof(row->key)) && is_text(row->of, sizeof(row->of));
}

static struct thmq_stats_value value_of(const struct thmqi_stat_table *t, const struct thmqi_stat_row *row,
					const struct thmqi_stat_column *c, bool torn)
{
	const uint64_t *words = words_of(row, c);
	struct thmq_stats_value v = {.kind = c->kind,
				     .unit = c->unit,
				     .torn = torn,
				     .table = t->name,
				     .name = c->name,
				     .help = c->help,
				     .key = row->key,
				     .of = row->of,
				     .updated_ns = row->updated_ns,
				     .value = words[0]};

	if (c->kind != THMQI_STAT_HISTOGRAM)
		return v;
	v.value = total_of(c, words);
	v.sum = words[0];
	v.max = words[1];
	v.p50 = quantile(c, words, v.value, 500);
	v.p90 = quantile(c, words, v.value, 900);
	v.p99 = quantile(c, words, v.value, 990);
	v.p999 = quantile(c, words, v.value, 999);
	return v;
}

/* The cursor is the number of a value: all rows have those that their table's columns say. */
int thmq_stats_next(const struct thmq_stats *s, uint64_t *cursor, struct thmq_stats_value *ret_value)
{
	const struct thmqi_stat_header *h;
	uint64_t at, base = 0, row_base = 0, count, size;
	struct thmq_stats_value v;
	uint32_t i;

	if (!s || !cursor || !ret_value || ret_value->size < 8)
		return thmqi_fail(-EINVAL, "statistics: no handle, no cursor, or set the size field first");
	h = header_of(s->image);
	at = *cursor;
	for (i = 0; i < h->table_count; i++) {
		const struct thmqi_stat_table *t = thmqi_stat_table_at(s->image, i);

		count = (uint64_t)t->row_count * t->column_count;
		for (; at >= base && at < base + count; at++) {
			uint32_t k = (uint32_t)((at - base) / t->column_count), col = (uint32_t)((at - base) % t->column_count);
			const struct thmqi_stat_row *row = thmqi_stat_row_at(s->image, t, k);

			if (!row_ok(row)) { /* to the end of the row */
				at += t->column_count - col - 1;
				continue;
			}
			v = value_of(t, row, thmqi_stat_column_at(s->image, t, col), s->torn[row_base + k]);
			*cursor = at + 1;
			size = ret_value->size;
			v.size = (uint32_t)size;
			memset((char *)ret_value, 0, size);
			memcpy(ret_value, &v, THMQI_MIN(size, sizeof(v)));
			return 1;
		}
		base += count;
		row_base += t->row_count;
	}
	*cursor = at;
	return 0;
}

/* ----------------------------------------------------------------- Prometheus */

struct text {
	char *at;
	uint64_t size, used;
};

static void put_text(struct text *t, const char *from, size_t len)
{
	uint64_t room = t->size > t->used ? t->size - t->used : 0;

	if (room > 1)
		memcpy(t->at + t->used, from, THMQI_MIN(len, room - 1));
	t->used += len;
}

static void __attribute__((format(printf, 2, 3))) put_format(struct text *t, const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	put_text(t, line, n < 0 ? 0 : THMQI_MIN((size_t)n, sizeof(line) - 1));
}

/* Whatever is no letter of ASCII is a ?, since the text has to be UTF-8. */
static void put_label(struct text *t, const char *name, const char *value)
{
	put_format(t, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			put_format(t, "\\%c", *value);
		else
			put_format(t, "%c", *value < ' ' || *value > '~' ? '?' : *value);
	}
	put_text(t, "\"", 1);
}

static void put_labels(struct text *t, const struct thmqi_stat_table *table, const struct thmqi_stat_row *row)
{
	if (!row->key[0] && !row->of[0])
		return;
	if (row->key[0])
		put_label(t, table->name, row->key);
	if (row->of[0])
		put_label(t, row->key[0] ? ",of" : "of", row->of);
}

/* Of a column; behind it comes "_bucket" and the like. */
static void put_name(struct text *t, const struct thmqi_stat_table *table, const struct thmqi_stat_column *c)
{
	static const char *const units[] = {"", "_bytes", "_seconds"};
	size_t len = strlen(c->name);
	bool told = c->unit == THMQI_STAT_BYTES && (strncmp(c->name, "bytes", 5) == 0 || (len > 6 && strcmp(c->name + len - 6, "_bytes") == 0));

	put_format(t, "thmq_%s_%s%s%s", table->name, c->name, told ? "" : units[c->unit],
		   c->kind == THMQI_STAT_COUNTER ? "_total" : "");
}

static void put_number(struct text *t, const struct thmqi_stat_column *c, uint64_t value)
{
	if (c->unit == THMQI_STAT_NS)
		put_format(t, " %.9f\n", (double)value / 1e9);
	else
		put_format(t, " %llu\n", (unsigned long long)value);
}

static void put_sample(struct text *t, const struct thmqi_stat_table *table, const struct thmqi_stat_row *row,
		       const struct thmqi_stat_column *c, const char *suffix, uint64_t value, bool is_count)
{
	static const struct thmqi_stat_column count = {.unit = THMQI_STAT_NUMBER};

	put_name(t, table, c);
	put_text(t, suffix, strlen(suffix));
	if (row->key[0] || row->of[0]) {
		put_text(t, "{", 1);
		put_labels(t, table, row);
		put_text(t, "}", 1);
	}
	put_number(t, is_count ? &count : c, value);
}

/* A bucket a power of two: finer ones would be very many. */
static void put_histogram(struct text *t, const struct thmqi_stat_table *table, const struct thmqi_stat_row *row,
			  const struct thmqi_stat_column *c)
{
	const uint64_t *words = words_of(row, c);
	uint64_t seen = 0;
	uint32_t i;

	for (i = 0; i < c->count; i++) {
		seen += words[2 + i];
		if ((i + 1) & ((1u << c->bits) - 1) || end_of(c, i) < 1024 || i + 1 == c->count)
			continue;
		put_name(t, table, c);
		put_text(t, "_bucket{", 8);
		put_labels(t, table, row);
		put_format(t, "%sle=\"%.9g\"} %llu\n", row->key[0] || row->of[0] ? "," : "", (double)end_of(c, i) / 1e9,
			   (unsigned long long)seen);
	}
	put_name(t, table, c);
	put_text(t, "_bucket{", 8);
	put_labels(t, table, row);
	put_format(t, "%sle=\"+Inf\"} %llu\n", row->key[0] || row->of[0] ? "," : "", (unsigned long long)seen);
	put_sample(t, table, row, c, "_sum", words[0], false);
	put_sample(t, table, row, c, "_count", seen, true);
}

static void put_column(struct text *t, const struct thmq_stats *s, const struct thmqi_stat_table *table,
		       const struct thmqi_stat_column *c)
{
	static const char *const kinds[] = {"", "counter", "gauge", "histogram"};
	bool begun = false;
	uint32_t k;

	for (k = 0; k < table->row_count; k++) {
		const struct thmqi_stat_row *row = thmqi_stat_row_at(s->image, table, k);

		if (!row_ok(row))
			continue;
		if (!begun) {
			put_text(t, "# HELP ", 7);
			put_name(t, table, c);
			put_text(t, " ", 1);
			for (const char *p = c->help; *p; p++)
				put_text(t, *p == '\\' ? "\\\\" : p, *p == '\\' ? 2 : 1);
			put_text(t, "\n# TYPE ", 8);
			put_name(t, table, c);
			put_format(t, " %s\n", kinds[c->kind]);
			begun = true;
		}
		if (c->kind == THMQI_STAT_HISTOGRAM)
			put_histogram(t, table, row, c);
		else
			put_sample(t, table, row, c, "", words_of(row, c)[0], false);
	}
}

/* That it is there, and since when: the rest is as its writer left it. */
static void put_head(struct text *t, const struct thmq_stats *s)
{
	const struct thmqi_stat_header *h = header_of(s->image);

	put_format(t, "# HELP thmq_up 1: the process that writes this is there\n# TYPE thmq_up gauge\nthmq_up %d\n", is_alive(h));
	put_format(t, "# HELP thmq_opened_seconds When the broker was opened, since 1970\n# TYPE thmq_opened_seconds gauge\n"
		      "thmq_opened_seconds %.3f\n",
		   (double)h->opened_ns / 1e9);
}

int64_t thmq_stats_prometheus(const struct thmq_stats *s, char *ret_text, uint64_t size)
{
	struct text t = {.at = ret_text, .size = size};
	const struct thmqi_stat_header *h;
	uint32_t i, k;

	if (!s || (!ret_text && size))
		return thmqi_fail(-EINVAL, "statistics: no handle, or no place for the text");
	h = header_of(s->image);
	put_head(&t, s);
	for (i = 0; i < h->table_count; i++) {
		const struct thmqi_stat_table *table = thmqi_stat_table_at(s->image, i);

		for (k = 0; k < table->column_count && strcmp(table->name, "trace") != 0; k++)
			put_column(&t, s, table, thmqi_stat_column_at(s->image, table, k));
	}
	if (size)
		ret_text[THMQI_MIN(t.used, size - 1)] = 0;
	return (int64_t)t.used;
}
